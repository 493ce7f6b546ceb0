/* The connection: one endpoint at a time, proved by a linearizable read before it counts, watched over by PINGs. */
#include "internal/etcd/etcd_int.h"

#include "internal/base/rand.h"
#include "internal/tls/tls.h"
#include "internal/wire/wire.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/un.h>

/*            dial ok               probes answered
 *   DOWN ─────────────▶ PROBING ────────────────────▶ READY
 *    ▲ ▲   (DIALING)        │                            │
 *    │ └────────────────────┘ refused, too late          │ lost, silent, "no leader"
 *    └───────────────────────────────────────────────────┘  next endpoint; a pause after all have failed
 */
enum {
    STREAM_WINDOW = 1 << 20,
    CONN_WINDOW = 16 << 20,
    OUT_MAX = 256 * 1024,
    RX_BYTES = 32 * 1024,
    READS = 16, /* of a wake-up */
    PORT = 2379,
    NAME_MAX_DNS = 254,
    DIAL_NEXT_MS = 1500, /* while a name has further addresses */
};

/* ---- endpoints ---- */

static int unix_endpoint(struct endpoint *ep, const char *path, struct err *e) {
    struct sockaddr_un *sa = (struct sockaddr_un *)&ep->addrs[0].sa;
    sa->sun_family = AF_UNIX;
    if (!path[0] || str_put(sa->sun_path, sizeof(sa->sun_path), "%s", path) < 0) {
        return err_set(e, ERR_INVALID, "\"%s\" is not the path of a socket", path);
    }
    ep->addrs[0].n = sizeof(*sa);
    ep->n_addrs = 1;
    ep->host = str_dup("localhost");
    ep->authority = str_dup("localhost");
    return 0;
}

static bool is_hostname(struct span host) {
    bool dot = true;
    for (size_t i = 0; i < host.n; i++) {
        uint8_t c = host.p[i];
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!letter && c != '_' && (dot || (c != '-' && c != '.'))) {
            return false;
        }
        dot = c == '.';
    }
    return host.n > 0 && host.n < NAME_MAX_DNS;
}

static int tcp_endpoint(struct endpoint *ep, struct span rest, struct err *e) {
    struct span host = rest;
    struct span port = SPAN_EMPTY;
    uint64_t n = PORT;
    while (host.n && host.p[host.n - 1] == '/') {
        host.n--;
    }
    rest = host;
    if (rest.n && rest.p[0] == '[') {
        IGNORE_ERR(span_skip(&rest, 1), "checked above");
        if (span_until(&rest, ']', &host) < 0 || (rest.n && rest.p[0] != ':')) {
            return err_set(e, ERR_INVALID, "a \"]\" is missing");
        }
        port = rest.n ? span_of(rest.p + 1, rest.n - 1) : SPAN_EMPTY;
    } else if (span_index(rest, ':') >= 0) {
        IGNORE_ERR(span_until(&rest, ':', &host), "found above");
        port = rest;
    }
    if (!host.n || span_index(host, '/') >= 0 || (port.n && span_to_u64(port, 1, 65535, &n) < 0)) {
        return err_set(e, ERR_INVALID, "it is not https://HOST:PORT");
    }
    ep->host = str_dupn(host.p, host.n);
    bool v6 = span_index(host, ':') >= 0;
    ep->authority = str_fmt(v6 ? "[%s]:%u" : "%s:%u", ep->host, (unsigned)n);
    ep->port = (uint16_t)n;
    struct net_addr *a = &ep->addrs[0];
    struct err none = ERR_INIT;
    uint8_t ip[16];
    bool literal = inet_pton(v6 ? AF_INET6 : AF_INET, ep->host, ip) == 1;
    /* Without TLS the address decides whether it may be used at all, so it is not left to a later look-up. */
    ep->is_name =
        !literal && (ep->tls || net_resolve(ep->host, ep->port, &a->sa, &a->n, &none) < 0);
    if (ep->is_name) {
        return is_hostname(host)
                   ? 0
                   : err_set(e, ERR_INVALID, "\"%s\" is neither an address nor a name", ep->host);
    }
    ep->n_addrs = 1;
    return net_resolve(ep->host, ep->port, &a->sa, &a->n, e);
}

int etcd_endpoint_parse(struct endpoint *ep, const char *url, struct err *e) {
    static const struct {
        const char *scheme;
        bool tls, is_unix;
    } kinds[] = {{"https://", true, false}, {"http://", false, false}, {"unixs://", true, true},
                 {"unix://", false, true},  {"unixs:", true, true},    {"unix:", false, true}};
    *ep = (struct endpoint){.url = str_dup(url)};
    int rc = -1;
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        size_t n = strlen(kinds[i].scheme);
        if (strncmp(url, kinds[i].scheme, n) == 0) {
            ep->tls = kinds[i].tls;
            rc = kinds[i].is_unix ? unix_endpoint(ep, url + n, e)
                                  : tcp_endpoint(ep, span_str(url + n), e);
            return rc < 0 ? err_wrap(e, "etcd endpoint %s", url) : 0;
        }
    }
    return err_set(e, ERR_INVALID, "etcd endpoint %s: it begins with none of https, http, unix",
                   url);
}

void etcd_endpoint_fini(struct endpoint *ep) {
    net_lookup_cancel(ep->lookup);
    free(ep->url);
    free(ep->host);
    free(ep->authority);
}

/* ---- losing it ---- */

static void on_timer(struct loop_timer *t);

static void tell(struct etcd *s, const char *why) {
    bool news = why ? !s->in_trouble || !str_eq(why, s->trouble) : s->in_trouble;
    s->in_trouble = why != NULL;
    if (why && str_put(s->trouble, sizeof(s->trouble), "%s", why) < 0) {
        IGNORE_ERR(str_put(s->trouble, sizeof(s->trouble), "the cluster cannot be reached"),
                   "fits");
    }
    if (news && s->on_state && !s->closing) {
        s->on_state(s->state_ctx, why ? s->trouble : NULL);
    }
}

static void hang_up(struct etcd *s) {
    loop_timer_stop(&s->timer);
    loop_hook_cancel(&s->pump);
    net_close(TAKE(s->st));
    h2_free(TAKE(s->h2));
    free(TAKE(s->rx));
    s->state = CONN_DOWN;
    s->broken = s->ping_out = false;
}

static uint64_t pause_ns(const struct etcd *s) {
    if (s->failed_eps < s->n_ep) {
        return 0; /* another one has not been asked yet */
    }
    size_t rounds = s->failed_eps / s->n_ep;
    uint64_t ms = (uint64_t)ETCD_BACKOFF_MS << (rounds > 7 ? 6 : rounds - 1);
    ms = ms > ETCD_BACKOFF_MAX_MS ? ETCD_BACKOFF_MAX_MS : ms;
    return (ms / 2 + rand_below(ms)) * NS_PER_MS;
}

/* The next address of the same name, or the next endpoint; a name is looked up again whenever its turn comes. */
static uint64_t move_on(struct etcd *s, bool was_ready) {
    struct endpoint *ep = &s->ep[s->at_ep];
    if (!was_ready && ++ep->at_addr < ep->n_addrs) {
        return 0;
    }
    ep->at_addr = 0;
    ep->n_addrs = ep->is_name ? 0 : ep->n_addrs;
    s->at_ep = (s->at_ep + 1) % s->n_ep;
    s->failed_eps++;
    return pause_ns(s);
}

static void down(struct etcd *s, const struct err *why) {
    AUTO_FREE char *text = str_fmt("%s: %s", s->ep[s->at_ep].url, err_public(why));
    bool was_ready = s->state == CONN_READY;
    hang_up(s);
    uint64_t pause = move_on(s, was_ready);
    if (!s->closing) {
        loop_timer_start(s->l, &s->timer, pause, on_timer, "etcd");
    }
    tell(s, text);
    efeed_lost(s);
    ecall_lost(s, why);
}

/* HTTP/2 must not be taken away under its own callback. */
void econn_fail(struct etcd *s, const struct err *e) {
    if (s->state == CONN_DOWN || s->broken) {
        return;
    }
    if (s->in_h2) {
        s->broken = true;
        s->broken_why = *e;
        return;
    }
    down(s, e);
}

static bool is_broken(struct etcd *s) {
    if (s->broken) {
        s->broken = false;
        struct err why = s->broken_why;
        down(s, &why);
    }
    return !s->h2;
}

/* ---- sending and receiving ---- */

static void pump(void *ctx) {
    struct etcd *s = ctx;
    const uint8_t *p;
    size_t n;
    bool more = false;
    if (!s->h2) {
        return;
    }
    s->in_h2 = true;
    while (net_pending(s->st) < OUT_MAX && (n = h2_out(s->h2, &p)) > 0) {
        net_queue_add(net_out(s->st), span_of(p, n));
        more = true;
    }
    s->in_h2 = false;
    if (is_broken(s)) {
        return;
    }
    if (more) { /* the stream reads as well when it is woken: without need that would never end */
        net_kick(s->st);
    }
    if (h2_is_done(s->h2)) {
        struct err e = ERR_INIT;
        err_set(&e, ERR_UNAVAILABLE, "the connection was closed");
        down(s, &e);
    }
}

void econn_kick(struct etcd *s) {
    if (s->h2) {
        loop_before_sleep(s->l, &s->pump, pump, s);
    }
}

/* A server that says goodbye finishes what it has; then it is left. */
void econn_drained(struct etcd *s) {
    if (s->state == CONN_READY && s->n_running == 0 && !h2_can_request(s->h2)) {
        struct err e = ERR_INIT;
        err_set(&e, ERR_UNAVAILABLE, "the server is going away");
        econn_fail(s, &e);
    }
}

static void on_readable(struct net_stream *st, void *ctx) {
    struct etcd *s = ctx;
    for (int i = 0;; i++) {
        struct err e = ERR_INIT;
        const char *why = "";
        if (i == READS) {
            net_kick(st); /* others have their turn; TLS may hold bytes that no event announces */
            break;
        }
        ssize_t n = net_read(st, s->rx, RX_BYTES, &e);
        if (n == -ERR_AGAIN) {
            break;
        }
        if (n <= 0) {
            if (n == 0) {
                err_set(&e, ERR_UNAVAILABLE, "the server closed the connection");
            }
            down(s, &e);
            return;
        }
        s->heard_ns = loop_now(s->l);
        s->ping_out = false;
        s->in_h2 = true;
        int rc = h2_feed(s->h2, span_of(s->rx, (size_t)n), &why);
        s->in_h2 = false;
        if (is_broken(s)) {
            return;
        }
        if (rc < 0) {
            err_set(&e, ERR_UNAVAILABLE, "HTTP/2: %s", why);
            down(s, &e);
            return;
        }
    }
    econn_drained(s);
    ecall_dispatch(s);
    econn_kick(s);
}

static void on_drain(struct net_stream *st, void *ctx) {
    (void)st;
    econn_kick(ctx);
}

static void on_stream_fail(struct net_stream *st, int rc, const struct err *e, void *ctx) {
    (void)st;
    (void)rc;
    down(ctx, e);
}

/* ---- HTTP/2's streams: calls, and the one of the feed ---- */

static void h2_headers_cb(struct h2 *h, int32_t sid, const struct h2_headers *hs, void *ctx) {
    struct etcd *s = ctx;
    struct ecall *c = h2_ctx(h, sid);
    if (hs->kind != H2_RESPONSE && hs->kind != H2_TRAILERS) {
        return;
    }
    if (sid == s->ws.sid) {
        efeed_headers(s, hs);
    } else if (c) {
        ecall_headers(c, hs);
    }
}

static void h2_data_cb(struct h2 *h, int32_t sid, struct span data, void *ctx) {
    struct etcd *s = ctx;
    struct ecall *c = h2_ctx(h, sid);
    h2_consumed(h, sid, data.n);
    if (sid == s->ws.sid) {
        efeed_data(s, data);
    } else if (c) {
        ecall_data(c, data);
    }
}

static void h2_end_cb(struct h2 *h, int32_t sid, void *ctx) {
    struct etcd *s = ctx;
    struct ecall *c = h2_ctx(h, sid);
    if (sid != s->ws.sid && c) {
        ecall_ended(c);
    }
}

static void h2_close_cb(struct h2 *h, int32_t sid, uint32_t code, void *ctx) {
    struct etcd *s = ctx;
    struct ecall *c = h2_ctx(h, sid);
    if (sid == s->ws.sid) {
        efeed_closed(s, code);
    } else if (c) {
        ecall_closed(c, code);
    }
}

static void h2_pull_cb(struct h2 *h, int32_t sid, uint8_t *p, size_t max, struct h2_pull *ret,
                       void *ctx) {
    struct etcd *s = ctx;
    struct ecall *c = h2_ctx(h, sid);
    if (sid == s->ws.sid) {
        efeed_pull(s, p, max, ret);
    } else if (c) {
        ecall_pull(c, p, max, ret);
    } else {
        ret->failed = true;
    }
}

/* ---- proving it ---- */

static void probe_answered(struct etcd *s) {
    if (--s->n_probes > 0 || s->state != CONN_PROBING) {
        return;
    }
    s->state = CONN_READY;
    s->heard_ns = loop_now(s->l);
    loop_timer_start(s->l, &s->timer, ETCD_PING_IDLE_MS * NS_PER_MS, on_timer, "etcd");
    efeed_connected(s);
    if (!s->feeding) {
        econn_well(s);
    }
    ecall_dispatch(s);
}

/* All that is wanted of a connection works. */
void econn_well(struct etcd *s) {
    s->failed_eps = 0;
    tell(s, NULL);
}

/* Manual progress answers overtook events before 3.4.25 and 3.5.8 (etcd#15220). */
static bool is_sound(struct span version) {
    uint64_t v[3] = {0};
    struct span part;
    for (size_t i = 0; i < ARRAY_LEN(v) && span_next(&version, '.', &part); i++) {
        size_t n = 0;
        while (n < part.n && part.p[n] >= '0' && part.p[n] <= '9') {
            n++;
        }
        if (span_to_u64(span_of(part.p, n), 0, 1 << 20, &v[i]) < 0) {
            return false;
        }
    }
    return v[0] > 3 ||
           (v[0] == 3 && (v[1] > 5 || (v[1] == 5 && v[2] >= 8) || (v[1] == 4 && v[2] >= 25)));
}

static void on_status(struct ecall *c, int rc, struct span message, struct err *e) {
    struct etcd *s = c->s;
    struct status_answer a;
    /* A user who may not ask for the status can still use the keys. */
    bool refused = rc == -ERR_FORBIDDEN || rc == -ERR_UNSUPPORTED;
    if (rc < 0 && !refused) {
        econn_fail(s, e);
        return;
    }
    s->sound_progress = false;
    if (rc >= 0 && etcd_dec_status(message, &a) == 0) {
        s->sound_progress = is_sound(a.version);
        s->db_bytes = a.db_bytes;
        s->in_use_bytes = a.in_use_bytes;
    }
    probe_answered(s);
}

static void on_probe(struct ecall *c, int rc, struct span message, struct err *e) {
    struct etcd *s = c->s;
    struct arena a = ARENA_INIT(1 << 20);
    struct store_range_res r = {0};
    struct answer_head h = {0};
    struct span m = message;
    if (rc >= 0 &&
        (etcd_dec_range(m, &s->ns, &a, &r) < 0 || etcd_dec_first_head(m, &h) < 0 || r.rev < 1)) {
        rc = err_set(e, ERR_UNAVAILABLE, "it does not answer as etcd does");
    }
    arena_fini(&a);
    if (rc < 0) {
        econn_fail(s, e);
        return;
    }
    efeed_history(s, h.cluster_id, r.rev);
    probe_answered(s);
}

static void probe(struct etcd *s) {
    s->n_probes = 2;
    struct ecall *st = ecall_new(s, "/etcdserverpb.Maintenance/Status", on_status, NULL);
    st->is_probe = true;
    ecall_start(st);
    struct ecall *c = ecall_new(s, "/etcdserverpb.KV/Range", on_probe, NULL);
    wire_bytes(&c->out, 1, s->ns.first); /* the one key: it need not exist */
    wire_bool(&c->out, 9, true);
    c->is_probe = true;
    ecall_start(c);
}

static void on_open(struct net_stream *st, void *ctx) {
    static const struct h2_cb cb = {h2_headers_cb, h2_data_cb, h2_end_cb, h2_close_cb,
                                    h2_pull_cb,    NULL,       NULL};
    struct etcd *s = ctx;
    struct h2_opts o = {.max_streams = 0,
                        .stream_window = STREAM_WINDOW,
                        .conn_window = CONN_WINDOW,
                        .pool = loop_pool(s->l)};
    if (s->ep[s->at_ep].tls && !tls_filter_is_h2(net_filter_of(st))) {
        struct err e = ERR_INIT;
        err_set(&e, ERR_UNAVAILABLE, "the server does not speak HTTP/2");
        down(s, &e);
        return;
    }
    s->h2 = h2_new(&o, &cb, s);
    s->rx = mem_zero_alloc(RX_BYTES);
    s->state = CONN_PROBING;
    probe(s);
    ecall_dispatch(s);
    econn_kick(s);
}

static void dial_addr(struct etcd *s) {
    static const struct net_cb cb = {on_open, on_readable, on_drain, on_stream_fail};
    struct endpoint *ep = &s->ep[s->at_ep];
    const struct net_addr *a = &ep->addrs[ep->at_addr];
    struct err e = ERR_INIT;
    struct net_filter *f = ep->tls ? tls_filter_client(s->tls, ep->host, TLS_ALPN_H2) : NULL;
    if (net_connect(s->l, (const struct sockaddr *)&a->sa, a->n, f, &cb, s, &s->st, &e) < 0) {
        down(s, &e);
        return;
    }
    uint64_t ms = ep->at_addr + 1 < ep->n_addrs ? DIAL_NEXT_MS : ETCD_DIAL_MS;
    loop_timer_start(s->l, &s->timer, ms * NS_PER_MS, on_timer, "etcd");
}

static bool is_dialed(const struct endpoint *ep) {
    const struct etcd *s = ep->s;
    return s->state == CONN_DIALING && !s->st && ep == &s->ep[s->at_ep];
}

static void on_lookup(void *ctx, int rc, const struct net_addr *v, size_t n, const struct err *e) {
    struct endpoint *ep = ctx;
    ep->lookup = NULL;
    if (rc >= 0) {
        memcpy(ep->addrs, v, n * sizeof(*v));
        ep->n_addrs = n;
    }
    if (!is_dialed(ep)) {
        return;
    }
    if (rc < 0) {
        down(ep->s, e);
    } else {
        dial_addr(ep->s);
    }
}

static void dial(struct etcd *s) {
    struct endpoint *ep = &s->ep[s->at_ep];
    struct err e = ERR_INIT;
    s->state = CONN_DIALING;
    if (ep->n_addrs > 0) {
        dial_addr(s);
        return;
    }
    ep->s = s;
    if (!ep->lookup &&
        net_lookup_start(s->l, ep->host, ep->port, on_lookup, ep, &ep->lookup, &e) < 0) {
        down(s, &e);
        return;
    }
    loop_timer_start(s->l, &s->timer, ETCD_DIAL_MS * NS_PER_MS, on_timer, "etcd");
}

/* ---- silence ---- */

static uint64_t quiet_limit(const struct etcd *s) {
    return (s->n_running ? ETCD_PING_BUSY_MS : ETCD_PING_IDLE_MS) * NS_PER_MS;
}

static void listen_on(struct etcd *s) {
    uint64_t now = loop_now(s->l);
    uint64_t since = s->heard_ns > s->busy_ns ? s->heard_ns : s->busy_ns;
    uint64_t due = since + quiet_limit(s);
    struct err e = ERR_INIT;
    if (s->ping_out) {
        err_set(&e, ERR_UNAVAILABLE, "no answer to a PING in %d s", ETCD_PONG_MS / 1000);
        down(s, &e);
    } else if (now < due) {
        loop_timer_start(s->l, &s->timer, due - now, on_timer, "etcd");
    } else {
        s->ping_out = true;
        h2_ping(s->h2);
        econn_kick(s);
        loop_timer_start(s->l, &s->timer, ETCD_PONG_MS * NS_PER_MS, on_timer, "etcd");
    }
}

void econn_busy(struct etcd *s) {
    s->busy_ns = loop_now(s->l);
    if (s->state == CONN_READY && !s->ping_out) {
        loop_timer_start(s->l, &s->timer, ETCD_PING_BUSY_MS * NS_PER_MS, on_timer, "etcd");
    }
}

static void on_timer(struct loop_timer *t) {
    struct etcd *s = CONTAINER_OF(t, struct etcd, timer);
    struct err e = ERR_INIT;
    switch (s->state) {
    case CONN_DOWN: dial(s); return;
    case CONN_DIALING:
        err_set(&e, ERR_TIMEOUT, s->st ? "no connection" : "its name is not resolved");
        down(s, &e);
        return;
    case CONN_PROBING:
        err_set(&e, ERR_TIMEOUT, "no answer to a read in %d s", ETCD_DIAL_MS / 1000);
        down(s, &e);
        return;
    case CONN_READY: listen_on(s); return;
    }
}

void econn_start(struct etcd *s) {
    s->at_ep = rand_below(s->n_ep); /* several clients spread over the members */
    s->state = CONN_DOWN;
    loop_timer_start(s->l, &s->timer, 0, on_timer, "etcd");
}

void econn_stop(struct etcd *s) {
    hang_up(s);
}
