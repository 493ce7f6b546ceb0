#include "cmd/store_listen.h"

#include "cmd/file_watch.h"
#include "internal/sys/sys.h"

#include <errno.h>
#include <stdlib.h>

struct server { /* one HTTP server: a handler, plain or with TLS */
    struct list link;
    struct store_listen *s;
    struct http_server *http;
    struct tls_config *tls; /* NULL: plain */
    const char *ca;         /* file; NULL: none */
    struct http_handler handler;
    bool stopped;
};

struct store_listen {
    struct loop *l;
    const struct store_flags *f;
    struct storesrv *srv;
    struct list servers;
    struct file_watch *certs;
    size_t stopping;
    void (*done)(void *ctx);
    void *ctx;
};

/* ---- URLs ---- */

struct url {
    bool tls, is_unix;
    struct span host; /* or the path */
    uint16_t port;
};

static int url_parse(const char *text, struct url *ret, struct err *e) {
    struct span s = span_str(text);
    *ret = (struct url){0};
    if (span_starts(s, "unix:") || span_starts(s, "unixs:")) {
        ret->tls = span_starts(s, "unixs:");
        IGNORE_ERR(span_skip(&s, ret->tls ? 6 : 5), "has this prefix");
        if (span_starts(s, "//")) {
            IGNORE_ERR(span_skip(&s, 2), "has this prefix");
        }
        ret->is_unix = true;
        ret->host = s;
        return s.n ? 0 : err_set(e, ERR_USAGE, "%s: a path is missing", text);
    }
    if (!span_starts(s, "http://") && !span_starts(s, "https://")) {
        return err_set(e, ERR_USAGE, "%s: URL scheme must be http, https, unix, or unixs", text);
    }
    ret->tls = span_starts(s, "https://");
    IGNORE_ERR(span_skip(&s, ret->tls ? 8 : 7), "has this prefix");
    size_t colon = s.n;
    while (colon && s.p[colon - 1] != ':') {
        colon--;
    }
    uint64_t port;
    if (!colon || span_to_u64(span_of(s.p + colon, s.n - colon), 0, 65535, &port) < 0) {
        return err_set(e, ERR_USAGE, "%s: URL address does not have the form \"host:port\"", text);
    }
    ret->port = (uint16_t)port;
    ret->host = span_of(s.p, colon - 1);
    if (ret->host.n > 2 && ret->host.p[0] == '[' && ret->host.p[ret->host.n - 1] == ']') {
        ret->host = span_of(ret->host.p + 1, ret->host.n - 2);
    }
    if (span_eq_str(ret->host, "localhost")) {
        ret->host = SPAN_LIT("127.0.0.1");
    }
    return 0;
}

static bool loopback(const struct url *u) {
    return u->is_unix || span_starts(u->host, "127.") || span_eq_str(u->host, "::1");
}

/* ---- TLS ---- */

struct pems {
    struct buf cert, key, ca;
};

static void pems_fini(struct pems *p) {
    secret_wipe(p->key.p, p->key.n);
    buf_fini(&p->cert);
    buf_fini(&p->key);
    buf_fini(&p->ca);
}

static int read_pems(const struct store_flags *f, const char *ca, struct pems *p, struct err *e) {
    const struct {
        const char *flag, *path;
        struct buf *b;
    } files[] = {{"cert-file", f->cert, &p->cert},
                 {"key-file", f->key, &p->key},
                 {ca == f->ca ? "trusted-ca-file" : "namespace-trusted-ca-file", ca, &p->ca}};
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        buf_init(files[i].b, 1 << 20);
        int rc = files[i].path ? sys_file_read(AT_FDCWD, files[i].path, files[i].b, e) : 0;
        if (rc < 0) {
            return err_wrap(e, "--%s", files[i].flag);
        }
    }
    return 0;
}

static int load_tls(struct server *v, bool demand, struct err *e) {
    AUTO(pems) struct pems p = {0};
    int rc = read_pems(v->s->f, v->ca, &p, e);
    if (rc < 0) {
        return rc;
    }
    enum tls_client_auth auth = !v->ca   ? TLS_CLIENT_NONE
                                : demand ? TLS_CLIENT_REQUIRED
                                         : TLS_CLIENT_OPTIONAL;
    rc = tls_server_config_new(&v->tls, buf_view(&p.cert), buf_view(&p.key), buf_view(&p.ca), auth,
                               e);
    return rc < 0 ? err_wrap(e, "--cert-file %s", v->s->f->cert) : 0;
}

int store_listen_reload(struct store_listen *s, struct err *e) {
    for (LIST_EACH(it, next, &s->servers)) {
        struct server *v = CONTAINER_OF(it, struct server, link);
        AUTO(pems) struct pems p = {0};
        int rc = 0;
        if (v->tls &&
            ((rc = read_pems(s->f, v->ca, &p, e)) < 0 ||
             (rc = tls_config_set_cert(v->tls, buf_view(&p.cert), buf_view(&p.key), e)) < 0 ||
             (v->ca && (rc = tls_config_set_ca(v->tls, buf_view(&p.ca), e)) < 0))) {
            return rc;
        }
    }
    return 0;
}

/* ---- servers ---- */

struct want { /* who serves an address */
    struct http_handler handler;
    const char *ca, *name;
    bool demand; /* clients must show a certificate */
};

static int server_get(struct store_listen *s, const struct want *w, bool tls, struct server **ret,
                      struct err *e) {
    for (LIST_EACH(p, next, &s->servers)) {
        struct server *v = CONTAINER_OF(p, struct server, link);
        if (v->handler.ctx == w->handler.ctx && v->handler.on_request == w->handler.on_request &&
            !v->tls == !tls) {
            *ret = v;
            return 0;
        }
    }
    struct server *v = new_zero(struct server);
    v->s = s;
    v->handler = w->handler;
    v->ca = w->ca;
    list_init(&v->link);
    list_add_tail(&s->servers, &v->link);
    int rc = tls ? load_tls(v, w->demand, e) : 0;
    if (rc < 0) {
        return rc;
    }
    const struct http_server_opts o = {
        .handler = w->handler,
        .tls = v->tls,
        .body_max = SIZE_MAX / 2, /* streams never end; messages have their own limit */
        .max_streams = s->f->max_streams < 1 << 20 ? (unsigned)s->f->max_streams : 1u << 20,
        .h2c = true,
        .keep_idle = true,
        .keepalive = s->f->out.keepalive,
        .name = w->name};
    *ret = v;
    return http_server_new(s->l, &o, &v->http, e);
}

static int listen_url(struct store_listen *s, const char *flag, const char *text,
                      const struct want *w, struct err *e) {
    struct url u;
    int rc = url_parse(text, &u, e);
    if (rc < 0) {
        return err_wrap(e, "--%s", flag);
    }
    if (u.tls && !s->f->cert) {
        return err_set(e, ERR_USAGE, "--%s %s: TLS needs --cert-file and --key-file", flag, text);
    }
    if (!u.tls && !loopback(&u) && !s->f->insecure) {
        return err_set(e, ERR_USAGE,
                       "--%s %s: without TLS only loopback addresses and unix sockets are served "
                       "(--insecure-listen to do it all the same)",
                       flag, text);
    }
    if (!u.tls && w->demand && w->ca != s->f->ca) {
        return err_set(e, ERR_USAGE,
                       "--%s %s: the namespace demands certificates: use https or unixs", flag,
                       text);
    }
    AUTO_FREE char *host = str_dupn(u.host.p, u.host.n);
    AUTO_FD int fd = u.is_unix ? sys_listen_unix(host, 0600, e) : sys_listen_tcp(host, u.port, e);
    if (fd < 0) {
        return err_wrap(e, "--%s %s", flag, text);
    }
    struct server *v;
    rc = server_get(s, w, u.tls, &v, e);
    return rc < 0 ? rc : http_server_listen(v->http, TAKE_FD(fd), e);
}

static int listen_all(struct store_listen *s, const char *flag, const struct opt_list *urls,
                      const struct want *w, struct err *e) {
    int rc = 0;
    for (size_t i = 0; i < urls->n && rc >= 0; i++) {
        rc = listen_url(s, flag, urls->v[i], w, e);
    }
    return rc;
}

/* ---- namespaces ---- */

/* "left=right" at the first '=', or at the last one. */
static bool split(const char *text, bool last, struct span *left, struct span *right) {
    struct span s = span_str(text);
    size_t at = s.n;
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] == '=' && (last || at == s.n)) {
            at = i;
        }
    }
    *left = span_of(s.p, at);
    *right = at < s.n ? span_of(s.p + at + 1, s.n - at - 1) : SPAN_EMPTY;
    return left->n && right->n;
}

static int ca_of(const struct store_flags *f, struct span prefix, const char **ret, struct err *e) {
    struct span of, file;
    *ret = NULL;
    for (size_t i = 0; i < f->ns_ca.n; i++) {
        if (!split(f->ns_ca.v[i], true, &of, &file)) {
            return err_set(e, ERR_USAGE, "--namespace-trusted-ca-file %s: is not PREFIX=FILE",
                           f->ns_ca.v[i]);
        }
        if (span_eq(of, prefix)) {
            *ret = (const char *)file.p; /* up to the end of the argument */
        }
    }
    return 0;
}

static int listen_ns(struct store_listen *s, struct map *handlers, const char *text,
                     struct err *e) {
    const char *flag = "listen-namespace-urls";
    struct span url, prefix;
    if (!split(text, false, &url, &prefix)) {
        return err_set(e, ERR_USAGE, "--%s %s: is not URL=PREFIX", flag, text);
    }
    const char *ca;
    int rc = ca_of(s->f, prefix, &ca, e);
    struct http_handler *h = map_get(handlers, prefix);
    if (rc == 0 && !h) {
        h = new_zero(struct http_handler);
        map_put(handlers, prefix, h);
        rc = storesrv_namespace_handler(s->srv, prefix, h, e);
    }
    if (rc < 0) {
        return err_wrap(e, "--%s %s", flag, text);
    }
    const struct want w = {.handler = *h,
                           .ca = ca ? ca : s->f->ca,
                           .demand = ca || s->f->cert_auth,
                           .name = "etcd-namespace"};
    AUTO_FREE char *address = str_dupn(url.p, url.n);
    return listen_url(s, flag, address, &w, e);
}

static int listen_namespaces(struct store_listen *s, struct err *e) {
    struct map handlers = MAP_INIT; /* one for each prefix, however many addresses it has */
    int rc = 0;
    for (size_t i = 0; i < s->f->ns.n && rc >= 0; i++) {
        rc = listen_ns(s, &handlers, s->f->ns.v[i], e);
    }
    for (size_t i = 0; i < s->f->ns_ca.n && rc >= 0; i++) {
        struct span of, file;
        if (!split(s->f->ns_ca.v[i], true, &of, &file) || !map_get(&handlers, of)) {
            rc = err_set(e, ERR_USAGE,
                         "--namespace-trusted-ca-file %s: no --listen-namespace-urls has this "
                         "prefix",
                         s->f->ns_ca.v[i]);
        }
    }
    struct map_iter it = {0};
    struct map_entry *me;
    while (map_next(&handlers, &it, &me)) {
        free(me->value);
    }
    map_fini(&handlers);
    return rc;
}

/* ---- life ---- */

static int on_certs_changed(void *ctx, struct err *e) {
    return store_listen_reload(ctx, e);
}

static int watch_certs(struct store_listen *s, struct err *e) {
    const char *paths[2 + OPT_LIST_MAX] = {s->f->cert, s->f->key};
    size_t n = 2;
    for (LIST_EACH(p, next, &s->servers)) {
        const struct server *v = CONTAINER_OF(p, struct server, link);
        if (v->tls && n < ARRAY_LEN(paths)) {
            paths[n++] = v->ca;
        }
    }
    return n == 2 ? 0 : file_watch_new(s->l, paths, n, "store", on_certs_changed, s, &s->certs, e);
}

int store_listen_new(struct loop *l, const struct store_flags *f, struct storesrv *srv,
                     struct store_listen **ret, struct err *e) {
    struct store_listen *s = new_zero(struct store_listen);
    s->l = l;
    s->f = f;
    s->srv = srv;
    list_init(&s->servers);
    const struct want all = {
        .handler = storesrv_handler(srv), .ca = f->ca, .demand = f->cert_auth, .name = "etcd"};
    const struct want plain = {.handler = storesrv_http_handler(srv),
                               .ca = f->ca,
                               .demand = f->cert_auth,
                               .name = "etcd-http"};
    const struct want metrics = {.handler = storesrv_metrics_handler(srv),
                                 .ca = f->ca,
                                 .demand = f->cert_auth,
                                 .name = "metrics"};
    int rc = listen_all(s, "listen-client-urls", &f->client, &all, e);
    rc = rc < 0 ? rc : listen_all(s, "listen-client-http-urls", &f->http, &plain, e);
    rc = rc < 0 ? rc : listen_all(s, "listen-metrics-urls", &f->metrics, &metrics, e);
    rc = rc < 0 ? rc : listen_namespaces(s, e);
    rc = rc < 0 ? rc : watch_certs(s, e);
    if (rc < 0) {
        store_listen_free(s);
        return rc;
    }
    *ret = s;
    return 0;
}

static void stopped(void *ctx) {
    struct server *v = ctx;
    struct store_listen *s = v->s;
    if (!v->stopped) {
        v->stopped = true;
        if (--s->stopping == 0) {
            s->done(s->ctx);
        }
    }
}

void store_listen_shutdown(struct store_listen *s, uint64_t grace_ns, void (*done)(void *ctx),
                           void *ctx) {
    s->done = done;
    s->ctx = ctx;
    s->stopping = 1;
    for (LIST_EACH(p, next, &s->servers)) {
        s->stopping++;
        struct server *v = CONTAINER_OF(p, struct server, link);
        http_server_shutdown(v->http, grace_ns, stopped, v);
    }
    if (--s->stopping == 0) {
        done(ctx);
    }
}

void store_listen_free(struct store_listen *s) {
    if (!s) {
        return;
    }
    file_watch_free(s->certs);
    while (!list_empty(&s->servers)) {
        struct server *v = CONTAINER_OF(s->servers.next, struct server, link);
        list_del(&v->link);
        http_server_free(v->http);
        tls_config_unref(v->tls);
        free(v);
    }
    free(s);
}
