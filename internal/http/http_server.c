/* The server: listeners, connections and their clocks, shutdown. */
#include "internal/http/http_int.h"

#include "internal/log/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { ACCEPT_BATCH = 64, RETRY_MS = 100, DEF_BODY = 3 << 20, DEF_STREAMS = 250 };

struct listener {
    struct list link;
    struct http_server *s;
    struct loop_io io;
};

static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/* ---- connections ---- */

static void on_deadline(struct loop_timer *t) {
    struct hconn *c = CONTAINER_OF(t, struct hconn, timer);
    uint64_t now = loop_now(c->s->l);
    if (c->deadline > now) { /* moved on since the timer was set */
        loop_timer_start(c->s->l, t, c->deadline - now, on_deadline, "http deadline");
    } else if (c->deadline && c->state == C_H2 && h2s_rest(c)) {
        c->deadline = 0;
    } else if (c->deadline) {
        if (c->state == C_H2) { /* the client learns which of its requests were not seen */
            h2_goaway(c->h2);
            h2s_pump(c);
        }
        hconn_end(c, c->state != C_OPENING);
    }
}

void hconn_deadline(struct hconn *c, unsigned ms) {
    c->deadline = ms ? loop_now(c->s->l) + ms * NS_PER_MS : 0;
    if (ms && (!loop_timer_active(&c->timer) || c->timer.due_ns > c->deadline + NS_PER_S)) {
        loop_timer_start(c->s->l, &c->timer, ms * NS_PER_MS, on_deadline, "http deadline");
    }
}

static void not_due(struct hconn *c) {
    if (!list_empty(&c->due)) {
        list_del(&c->due);
        c->s->n_due--;
    }
}

static void free_conn(struct hconn *c) {
    struct http_server *s = c->s;
    loop_timer_stop(&c->timer);
    loop_timer_stop(&c->alive);
    not_due(c);
    list_del(&c->link);
    http1_free(c->h1);
    h2_free(c->h2);
    buf_fini(&c->in);
    free(c);
    s->n_conns--;
    http_server_check_done(s);
}

static void do_due(struct hconn *c) {
    not_due(c);
    if (c->state == C_CLOSED) {
        free_conn(c);
    } else if (c->state == C_H2) {
        h2s_hook(c);
    } else {
        h1s_hook(c);
    }
}

/* Those that become due meanwhile wait for the next round. */
static void on_hook(void *ctx) {
    struct http_server *s = ctx;
    struct list now;
    list_init(&now);
    list_move_all(&now, &s->due);
    while (!list_empty(&now)) {
        do_due(CONTAINER_OF(now.next, struct hconn, due));
    }
}

void hconn_later(struct hconn *c) {
    if (list_empty(&c->due)) {
        list_add_tail(&c->s->due, &c->due);
        c->s->n_due++;
        loop_before_sleep(c->s->l, &c->s->hook, on_hook, c->s);
    }
}

/* The struct outlives this call: a caller further up may still look at it. */
static void retire(struct hconn *c) {
    c->state = C_CLOSED;
    c->cur = NULL;
    loop_timer_stop(&c->timer);
    loop_timer_stop(&c->alive);
    hconn_later(c);
}

void hconn_release(struct hconn *c) {
    c->st = NULL;
    retire(c);
}

void hconn_end(struct hconn *c, bool politely) {
    if (c->state == C_CLOSED) {
        return;
    }
    struct net_stream *st = TAKE(c->st);
    retire(c);
    while (!list_empty(&c->reqs)) {
        req_close(CONTAINER_OF(c->reqs.next, struct http_req, link), false);
    }
    if (politely) {
        net_finish(st, &c->s->lingering);
    } else {
        net_close(st);
    }
}

static void choose(struct hconn *c, bool is_h2) {
    if (is_h2) {
        c->state = C_H2;
        h2s_open(c);
    } else {
        c->state = C_H1;
        h1s_open(c);
    }
}

static void st_open(struct net_stream *st, void *ctx) {
    struct hconn *c = ctx;
    struct net_filter *f = net_filter_of(st);
    hconn_deadline(c, MS_IDLE);
    if (f) {
        c->peer = tls_filter_peer(f);
        choose(c, tls_filter_is_h2(f));
    } else if (c->s->o.h2c) {
        c->state = C_SNIFF;
    } else {
        choose(c, false);
    }
}

/* Plain connections that may speak HTTP/2 by prior knowledge: decided when the bytes differ from the preface. */
static void sniff(struct hconn *c, struct span data) {
    buf_span(&c->in, data);
    size_t n = c->in.n < sizeof(preface) - 1 ? c->in.n : sizeof(preface) - 1;
    bool same = memcmp(c->in.p, preface, n) == 0;
    if (same && n < sizeof(preface) - 1) {
        return;
    }
    struct buf first = c->in;
    buf_init(&c->in, SCRATCH + LIM_PIPELINE);
    choose(c, same);
    if (same) {
        h2s_readable(c, buf_view(&first));
    } else {
        h1s_readable(c, buf_view(&first));
    }
    buf_fini(&first);
}

static void st_readable(struct net_stream *st, void *ctx) {
    struct hconn *c = ctx;
    struct err e = ERR_INIT;
    if (c->state == C_H2) { /* comes while the kernel copies */
        h2_prefetch(c->h2);
    }
    ssize_t n = net_read(st, c->s->scratch, SCRATCH, &e);
    struct span data = span_of(c->s->scratch, n > 0 ? (size_t)n : 0);
    if (n == -ERR_AGAIN) {
        return;
    }
    if (n < 0) {
        hconn_end(c, false);
    } else if (n == 0) {
        c->eof = true;
        if (c->state == C_H1) {
            h1s_eof(c);
        } else {
            hconn_end(c, true);
        }
    } else if (c->state == C_SNIFF) {
        sniff(c, data);
    } else if (c->state == C_H1) {
        h1s_readable(c, data);
    } else if (c->state == C_H2) {
        h2s_readable(c, data);
    }
}

static void st_drain(struct net_stream *st, void *ctx) {
    struct hconn *c = ctx;
    (void)st;
    if (c->state == C_H1) {
        h1s_drained(c);
    } else if (c->state == C_H2 && c->held_up) {
        h2s_pump(c);
    }
}

static void st_fail(struct net_stream *st, int rc, const struct err *e, void *ctx) {
    struct hconn *c = ctx;
    (void)st;
    if (c->state == C_OPENING && rc != -ERR_UNAVAILABLE) {
        LOG_DEBUG("http", "handshake failed", F_STR("server", c->s->name), F_ERR(e));
    }
    hconn_end(c, c->state == C_OPENING && rc == -ERR_UNAUTHENTICATED);
}

static const struct net_cb stream_cb = {st_open, st_readable, st_drain, st_fail};

static int conn_new(struct http_server *s, int own_fd, struct err *e) {
    struct hconn *c = new_zero(struct hconn);
    c->s = s;
    list_init(&c->reqs);
    list_init(&c->due);
    buf_init(&c->in, SCRATCH + LIM_PIPELINE);
    socklen_t n = sizeof(c->addr);
    if (getpeername(own_fd, (struct sockaddr *)&c->addr, &n) < 0) {
        c->addr.ss_family = AF_UNSPEC;
    }
    if (c->addr.ss_family == AF_INET || c->addr.ss_family == AF_INET6) {
        net_tune(own_fd);
    }
    int rc = net_stream_new(s->l, own_fd, s->o.tls ? tls_filter_server(s->o.tls) : NULL, &stream_cb,
                            c, &c->st, e);
    if (rc < 0) {
        free(c);
        return rc;
    }
    list_add_tail(&s->conns, &c->link);
    s->n_conns++;
    hconn_deadline(c, LIM_TLS_HANDSHAKE_MS);
    return 0;
}

/* ---- listening ---- */

static void listeners_set(struct http_server *s, bool on) {
    for (LIST_EACH(at, next, &s->listeners)) {
        loop_io_set(&CONTAINER_OF(at, struct listener, link)->io, on ? LOOP_READ : 0);
    }
    s->full = !on;
}

static void on_retry(struct loop_timer *t) {
    struct http_server *s = CONTAINER_OF(t, struct http_server, retry);
    listeners_set(s, true);
}

/* A connection that cannot be taken would be reported without end: look again a little later. */
static void rest(struct http_server *s) {
    listeners_set(s, false);
    loop_timer_start(s->l, &s->retry, RETRY_MS * NS_PER_MS, on_retry, "http accept");
}

/* Connections that have been idle for long go when others want their place. */
static void make_room(struct http_server *s) {
    uint64_t now = loop_now(s->l);
    size_t n = 0;
    for (LIST_EACH(at, next, &s->conns)) {
        struct hconn *c = CONTAINER_OF(at, struct hconn, link);
        if (c->state == C_H2 && list_empty(&c->reqs) && now - c->heard_ns >= MS_IDLE * NS_PER_MS &&
            n < ACCEPT_BATCH) {
            n++;
            h2_goaway(c->h2);
            h2s_pump(c);
            hconn_end(c, true);
        }
    }
}

static void on_accept(struct loop_io *io, uint32_t ev) {
    struct listener *li = CONTAINER_OF(io, struct listener, io);
    struct http_server *s = li->s;
    (void)ev;
    for (int i = 0; i < ACCEPT_BATCH; i++) {
        if (s->n_conns >= LIM_CONNS) {
            make_room(s);
            LOG_WARN("http", "too many connections, new ones wait", F_STR("server", s->name));
            rest(s);
            return;
        }
        int fd = accept4(io->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0) {
            if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
                LOG_WARN("http", "cannot accept, new connections wait", F_STR("server", s->name),
                         F_STR("err", err_sys_name(errno)));
                rest(s);
            }
            return;
        }
        struct err e = ERR_INIT;
        if (conn_new(s, fd, &e) < 0) {
            LOG_WARN("http", "connection dropped", F_STR("server", s->name), F_ERR(&e));
        }
    }
}

int http_server_listen(struct http_server *s, int own_fd, struct err *e) {
    struct listener *li = new_zero(struct listener);
    li->s = s;
    int rc = loop_io_start(s->l, &li->io, own_fd, LOOP_READ, on_accept, "http listener", e);
    if (rc < 0) {
        close(own_fd);
        free(li);
        return rc;
    }
    list_add_tail(&s->listeners, &li->link);
    return 0;
}

int http_server_accept_fd(struct http_server *s, int own_fd, struct err *e) {
    if (s->closing || s->n_conns >= LIM_CONNS) {
        close(own_fd);
        return err_set(e, s->closing ? ERR_UNAVAILABLE : ERR_LIMIT,
                       "server %s takes no more connections", s->name);
    }
    return conn_new(s, own_fd, e);
}

/* ---- life ---- */

int http_server_new(struct loop *l, const struct http_server_opts *o, struct http_server **ret,
                    struct err *e) {
    if (!o->handler.on_request) {
        return err_set(e, ERR_INVALID, "an HTTP server needs a handler");
    }
    struct http_server *s = new_zero(struct http_server);
    s->l = l;
    s->o = *o;
    s->name = str_dup(o->name ? o->name : "http");
    s->o.name = s->name;
    s->o.body_max = o->body_max ? o->body_max : DEF_BODY;
    s->o.max_streams = o->max_streams ? o->max_streams : DEF_STREAMS;
    if (o->tls) {
        tls_config_ref(o->tls);
    }
    s->scratch = mem_zero_alloc(SCRATCH);
    list_init(&s->listeners);
    list_init(&s->conns);
    list_init(&s->due);
    list_init(&s->raws);
    list_init(&s->lingering);
    *ret = s;
    return 0;
}

static void close_listeners(struct http_server *s) {
    while (!list_empty(&s->listeners)) {
        struct listener *li = CONTAINER_OF(s->listeners.next, struct listener, link);
        list_del(&li->link);
        loop_io_stop(&li->io);
        close(li->io.fd);
        free(li);
    }
    loop_timer_stop(&s->retry);
}

static void run_done(void *ctx) {
    struct http_server *s = ctx;
    void (*done)(void *) = s->done;
    s->done = NULL;
    loop_timer_stop(&s->grace);
    done(s->done_ctx); /* may free the server */
}

void http_server_check_done(struct http_server *s) {
    if (s->full && s->n_conns < LIM_CONNS && !s->closing) {
        loop_timer_stop(&s->retry);
        listeners_set(s, true);
    }
    if (s->closing && s->done && list_empty(&s->conns) && list_empty(&s->raws)) {
        loop_before_sleep(s->l, &s->done_hook, run_done, s);
    }
}

static void on_grace(struct loop_timer *t) {
    struct http_server *s = CONTAINER_OF(t, struct http_server, grace);
    for (LIST_EACH(at, next, &s->conns)) {
        hconn_end(CONTAINER_OF(at, struct hconn, link), true);
    }
    raw_kill_all(&s->raws);
    http_server_check_done(s);
}

void http_server_shutdown(struct http_server *s, uint64_t grace_ns, void (*done)(void *ctx),
                          void *ctx) {
    s->closing = true;
    s->done = done;
    s->done_ctx = ctx;
    close_listeners(s);
    for (LIST_EACH(at, next, &s->conns)) {
        struct hconn *c = CONTAINER_OF(at, struct hconn, link);
        if (c->state == C_H2) {
            h2s_shutdown(c);
        } else if (list_empty(&c->reqs)) {
            hconn_end(c, true);
        } else {
            c->close_after = true;
        }
    }
    loop_timer_start(s->l, &s->grace, grace_ns, on_grace, "http grace");
    http_server_check_done(s);
}

void http_server_free(struct http_server *s) {
    if (!s) {
        return;
    }
    s->done = NULL;
    close_listeners(s);
    loop_timer_stop(&s->grace);
    raw_kill_all(&s->raws);
    while (!list_empty(&s->conns)) {
        struct hconn *c = CONTAINER_OF(s->conns.next, struct hconn, link);
        hconn_end(c, false);
        free_conn(c);
    }
    net_close_all(&s->lingering);
    loop_hook_cancel(&s->hook);
    loop_hook_cancel(&s->done_hook);
    tls_config_unref(s->o.tls);
    free(s->scratch);
    free(s->name);
    free(s);
}

size_t http_server_conns(const struct http_server *s) {
    return s->n_conns;
}

/* IMF-fixdate (RFC 9110 §5.6.7), made once a second. */
const char *http_server_date(struct http_server *s) {
    static const char days[] = "ThuFriSatSunMonTueWed";
    static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    uint64_t now = clock_wall_ns() / NS_PER_S, month = 1;
    if (now != s->date_s) {
        char t[TIME_STR]; /* 2026-01-02T03:04:05Z */
        time_rfc3339(now, t);
        IGNORE_ERR(span_to_u64(span_of(t + 5, 2), 1, 12, &month), "made by time_rfc3339");
        IGNORE_ERR(str_put(s->date, sizeof(s->date), "%.3s, %.2s %.3s %.4s %.8s GMT",
                           days + 3 * (now / 86400 % 7), t + 8, months + 3 * (month - 1), t,
                           t + 11),
                   "fits");
        s->date_s = now;
    }
    return s->date;
}
