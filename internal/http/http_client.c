/* The client: connections and which call goes where. */
#include "internal/http/http_client_int.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/un.h>

enum { LIM_HOST = 253 };

static void dispatch(void *ctx);

void client_enter(struct http_client *cl) {
    cl->depth++;
}

static void destroy(struct http_client *cl) {
    net_close_all(&cl->lingering);
    tls_config_unref(cl->tls);
    free(cl->host);
    free(cl->sni);
    free(cl->unix_path);
    free(cl->authority);
    free(cl->scratch);
    free(cl);
}

static void free_conn(struct cconn *k) {
    loop_timer_stop(&k->timer);
    loop_hook_cancel(&k->hook);
    list_del(&k->link);
    k->cl->n_conns--;
    http1_free(k->h1);
    h2_free(k->h2);
    free(k);
}

void client_leave(struct http_client *cl) {
    if (--cl->depth || !cl->dead) {
        return;
    }
    while (!list_empty(&cl->conns)) {
        free_conn(CONTAINER_OF(cl->conns.next, struct cconn, link));
    }
    destroy(cl);
}

void client_dispatch_later(struct http_client *cl) {
    if (!cl->dead) {
        loop_before_sleep(cl->l, &cl->hook, dispatch, cl);
    }
}

/* ---- connections ---- */

/* Looked for anew each time: a callback may have cancelled any call. */
static struct http_call *resumed(struct cconn *k) {
    for (LIST_EACH(at, next, &k->calls)) {
        struct http_call *c = CONTAINER_OF(at, struct http_call, link);
        if (c->resumed) {
            c->resumed = false;
            return c;
        }
    }
    return NULL;
}

static void on_hook(void *ctx) {
    struct cconn *k = ctx;
    struct http_client *cl = k->cl;
    client_enter(cl);
    if (k->state == K_CLOSED) {
        free_conn(k);
    } else if (k->state == K_H1 && k->cur) {
        call_deliver_held(k->cur);
    } else if (k->state == K_H2) {
        struct http_call *c;
        while (k->state == K_H2 && (c = resumed(k)) != NULL) {
            call_deliver_held(c);
        }
        c2_pump(k);
    }
    client_leave(cl);
}

void cconn_later(struct cconn *k) {
    if (!k->cl->dead) {
        loop_before_sleep(k->cl->l, &k->hook, on_hook, k);
    }
}

/* Off its list first: a call that is being told already stays alive until its caller returns. */
static void end_call(struct http_call *c, int rc, const struct err *e) {
    list_del(&c->link);
    call_end(c, rc, e);
}

static void fail_or_retry(struct http_call *c, int rc, const struct err *e) {
    struct err gone = ERR_INIT;
    if (call_retry(c, false)) {
        return;
    }
    if (rc == 0) {
        rc = err_set(&gone, ERR_UNAVAILABLE, "the server closed the connection");
        e = &gone;
    }
    end_call(c, rc, e);
}

/* Calls that wait for a connection share its fate when it cannot be made. */
static void fail_waiting(struct http_client *cl, bool upgrades, int rc, const struct err *e) {
    struct list now;
    list_init(&now);
    for (LIST_EACH(at, next, &cl->waiting)) {
        if (CONTAINER_OF(at, struct http_call, link)->upgrade == upgrades) {
            list_del(at);
            list_add_tail(&now, at);
        }
    }
    while (!list_empty(&now)) {
        end_call(CONTAINER_OF(now.next, struct http_call, link), rc, e);
    }
}

void cconn_end(struct cconn *k, int rc, const struct err *e, bool politely) {
    if (k->state == K_CLOSED) {
        return;
    }
    struct http_client *cl = k->cl;
    bool connecting = k->state == K_CONNECTING;
    struct net_stream *st = TAKE(k->st);
    k->state = K_CLOSED;
    loop_timer_stop(&k->timer);
    cconn_later(k);
    if (politely) {
        net_finish(st, &cl->lingering);
    } else {
        net_close(st);
    }
    if (k->cur) {
        fail_or_retry(k->cur, rc, e);
    }
    while (!list_empty(&k->calls)) {
        fail_or_retry(CONTAINER_OF(k->calls.next, struct http_call, link), rc, e);
    }
    if (connecting && rc < 0) {
        fail_waiting(cl, k->for_upgrade, rc, e);
    }
    client_dispatch_later(cl);
}

static void on_timer(struct loop_timer *t) {
    struct cconn *k = CONTAINER_OF(t, struct cconn, timer);
    struct http_client *cl = k->cl;
    struct err e = ERR_INIT;
    client_enter(cl);
    if (k->state == K_CONNECTING) {
        int rc = err_set(&e, ERR_TIMEOUT, "connecting to %s: no answer", cl->authority);
        cconn_end(k, rc, &e, false);
    } else {
        cconn_end(k, 0, NULL, true);
    }
    client_leave(cl);
}

void cconn_idle(struct cconn *k) {
    loop_timer_start(k->cl->l, &k->timer, MS_IDLE * NS_PER_MS, on_timer, "http client idle");
    client_dispatch_later(k->cl);
}

static void st_open(struct net_stream *st, void *ctx) {
    struct cconn *k = ctx;
    struct net_filter *f = net_filter_of(st);
    bool h2 = f ? tls_filter_is_h2(f) : k->cl->proto == HTTP_2_PRIOR && !k->for_upgrade;
    client_enter(k->cl);
    loop_timer_stop(&k->timer);
    k->state = h2 ? K_H2 : K_H1;
    if (h2) {
        c2_open(k);
    } else {
        c1_open(k);
    }
    cconn_idle(k);
    client_leave(k->cl);
}

static void st_readable(struct net_stream *st, void *ctx) {
    struct cconn *k = ctx;
    struct http_client *cl = k->cl;
    struct err e = ERR_INIT;
    ssize_t n = net_read(st, cl->scratch, SCRATCH, &e);
    if (n == -ERR_AGAIN) {
        return;
    }
    client_enter(cl);
    if (n < 0) {
        cconn_end(k, (int)n, &e, false);
    } else if (n == 0 && k->state == K_H1) {
        c1_eof(k);
    } else if (n == 0) {
        cconn_end(k, 0, NULL, true);
    } else if (k->state == K_H1) {
        c1_readable(k, span_of(cl->scratch, (size_t)n));
    } else if (k->state == K_H2) {
        c2_readable(k, span_of(cl->scratch, (size_t)n));
    }
    client_leave(cl);
}

static void st_drain(struct net_stream *st, void *ctx) {
    struct cconn *k = ctx;
    (void)st;
    if (k->state == K_H2) {
        client_enter(k->cl);
        c2_pump(k);
        client_leave(k->cl);
    }
}

static void st_fail(struct net_stream *st, int rc, const struct err *e, void *ctx) {
    struct cconn *k = ctx;
    struct http_client *cl = k->cl;
    struct err full = ERR_INIT;
    (void)st;
    client_enter(cl);
    IGNORE_ERR(err_set(&full, e->code, "%s: %s", cl->authority, e->msg), "carried on in rc");
    cconn_end(k, rc, &full, false);
    client_leave(cl);
}

static const struct net_cb stream_cb = {st_open, st_readable, st_drain, st_fail};

static int connect_new(struct http_client *cl, bool for_upgrade, struct err *e) {
    struct cconn *k = new_zero(struct cconn);
    *k = (struct cconn){.cl = cl, .for_upgrade = for_upgrade};
    list_init(&k->calls);
    struct net_filter *f = NULL;
    if (cl->tls) {
        enum tls_alpn a = for_upgrade || cl->proto == HTTP_1_ONLY ? TLS_ALPN_H1
                          : cl->proto == HTTP_2_PRIOR             ? TLS_ALPN_H2
                                                                  : TLS_ALPN_ANY;
        f = tls_filter_client(cl->tls, cl->sni, a);
    }
    int rc = net_connect(cl->l, (const struct sockaddr *)&cl->addr, cl->addr_n, f, &stream_cb, k,
                         &k->st, e);
    if (rc < 0) {
        free(k);
        return err_wrap(e, "%s", cl->authority);
    }
    list_add_tail(&cl->conns, &k->link);
    cl->n_conns++;
    loop_timer_start(cl->l, &k->timer, cl->connect_timeout_ns, on_timer, "http connect");
    return 0;
}

/* ---- which call goes where ---- */

static bool start_on(struct http_client *cl, struct http_call *c) {
    for (LIST_EACH(at, next, &cl->conns)) {
        struct cconn *k = CONTAINER_OF(at, struct cconn, link);
        if (k->for_upgrade != c->upgrade) {
            continue;
        }
        if (k->state == K_H1 && !k->cur && !(c->upgrade && k->used)) {
            list_del(&c->link);
            loop_timer_stop(&k->timer);
            c1_start(k, c);
            return true;
        }
        if (k->state == K_H2 && c2_has_room(k) && c2_start(k, c)) {
            loop_timer_stop(&k->timer);
            return true;
        }
    }
    return false;
}

/* Also those whose number of streams is not known yet. */
static size_t connecting(const struct http_client *cl, bool for_upgrade) {
    size_t n = 0;
    for (const struct list *at = cl->conns.next; at != &cl->conns; at = at->next) {
        const struct cconn *k = CONTAINER_OF((struct list *)(uintptr_t)at, struct cconn, link);
        bool unsettled = k->state == K_CONNECTING || (k->state == K_H2 && !h2_is_ready(k->h2));
        n += unsettled && k->for_upgrade == for_upgrade;
    }
    return n;
}

/* Further connections only where one more call can use it: one for all while HTTP/2 is possible, else one each. */
static bool may_connect(const struct http_client *cl, bool upgrade, size_t waiting) {
    size_t open = connecting(cl, upgrade);
    bool h2_possible = cl->proto == HTTP_2_PRIOR || (cl->tls && cl->proto == HTTP_AUTO);
    return upgrade ? open < waiting
                   : cl->n_conns < cl->max_conns && open < (h2_possible ? 1 : waiting);
}

static void dispatch(void *ctx) {
    struct http_client *cl = ctx;
    size_t left[2] = {0, 0};
    client_enter(cl);
    for (LIST_EACH(at, next, &cl->waiting)) {
        struct http_call *c = CONTAINER_OF(at, struct http_call, link);
        if (!start_on(cl, c)) {
            left[c->upgrade]++;
        }
    }
    for (int up = 0; up <= 1; up++) {
        struct err e = ERR_INIT;
        while (left[up] && !cl->dead && may_connect(cl, up, left[up])) {
            int rc = connect_new(cl, up, &e);
            if (rc < 0) {
                fail_waiting(cl, up, rc, &e);
                break;
            }
        }
    }
    client_leave(cl);
}

/* ---- life ---- */

static int set_addr(struct http_client *cl, const struct http_client_opts *o, struct err *e) {
    if (!o->unix_path) {
        return net_resolve(o->host, o->port, &cl->addr, &cl->addr_n, e);
    }
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    if (str_put(un.sun_path, sizeof(un.sun_path), "%s", o->unix_path) < 0) {
        return err_set(e, ERR_LIMIT, "socket path too long: %s", o->unix_path);
    }
    memcpy(&cl->addr, &un, sizeof(un));
    cl->addr_n = sizeof(un);
    return 0;
}

int http_client_new(struct loop *l, const struct http_client_opts *o, struct http_client **ret,
                    struct err *e) {
    const char *host = o->host ? o->host : "localhost";
    if ((!o->host && !o->unix_path) || strlen(host) > LIM_HOST ||
        (o->sni && strlen(o->sni) > LIM_HOST)) {
        return err_set(e, ERR_INVALID, "an HTTP client needs a host (at most %d bytes)", LIM_HOST);
    }
    struct http_client *cl = new_zero(struct http_client);
    cl->l = l;
    int rc = set_addr(cl, o, e);
    if (rc < 0) {
        free(cl);
        return rc;
    }
    bool v6 = strchr(host, ':') != NULL,
         bare = o->unix_path || !o->port || o->port == (o->tls ? 443 : 80);
    cl->host = str_dup(host);
    cl->sni = str_dup(o->sni ? o->sni : host);
    cl->unix_path = o->unix_path ? str_dup(o->unix_path) : NULL;
    cl->authority =
        bare ? str_fmt(v6 ? "[%s]" : "%s", host) : str_fmt(v6 ? "[%s]:%u" : "%s:%u", host, o->port);
    cl->tls = o->tls ? tls_config_ref(o->tls) : NULL;
    cl->proto = o->proto;
    cl->connect_timeout_ns = o->connect_timeout_ns ? o->connect_timeout_ns : MS_CONNECT * NS_PER_MS;
    cl->max_conns = o->max_conns ? o->max_conns : DEF_CONNS;
    cl->scratch = mem_zero_alloc(SCRATCH);
    list_init(&cl->conns);
    list_init(&cl->waiting);
    list_init(&cl->raws);
    list_init(&cl->lingering);
    *ret = cl;
    return 0;
}

void http_client_free(struct http_client *cl) {
    if (!cl || cl->dead) {
        return;
    }
    struct err e = ERR_INIT;
    int rc = err_set(&e, ERR_CANCELLED, "client closed");
    client_enter(cl);
    cl->dead = true;
    loop_hook_cancel(&cl->hook);
    for (LIST_EACH(at, next, &cl->conns)) {
        struct cconn *k = CONTAINER_OF(at, struct cconn, link);
        cconn_end(k, rc, &e, false);
        loop_hook_cancel(&k->hook);
    }
    while (!list_empty(&cl->waiting)) {
        end_call(CONTAINER_OF(cl->waiting.next, struct http_call, link), rc, &e);
    }
    raw_kill_all(&cl->raws);
    client_leave(cl);
}
