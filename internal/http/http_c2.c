/* HTTP/2 on the client: calls are streams of one connection. */
#include "internal/http/http_client_int.h"

#include <stdlib.h>

enum { STREAM_WINDOW = 1 << 20, CONN_WINDOW = 16 << 20, MAX_STREAMS = 250 };

/* ---- the answer ---- */

static bool copy(struct http_call *c, const struct h2_headers *hs, struct http_header **ret,
                 size_t *ret_n) {
    struct http_header *h = arena_alloc(&c->arena, (hs->n + 1) * sizeof(*h));
    size_t n = 0;
    for (size_t i = 0; h && i < hs->n; i++) {
        if (!span_starts(hs->h[i].name, ":")) {
            h[n++] = (struct http_header){arena_copy(&c->arena, hs->h[i].name),
                                          arena_copy(&c->arena, hs->h[i].value)};
        }
    }
    if (h) {
        *ret = h;
        *ret_n = n;
    }
    return h && !hs->too_large;
}

static unsigned status_of(const struct h2_headers *hs) {
    uint64_t v = 0;
    if (hs->n && span_eq_str(hs->h[0].name, ":status") &&
        span_to_u64(hs->h[0].value, 100, 999, &v) == 0) {
        return (unsigned)v;
    }
    return 0;
}

static void on_headers(struct h2 *h, int32_t sid, const struct h2_headers *hs, void *ctx) {
    struct http_call *c = h2_ctx(h, sid);
    struct err e = ERR_INIT;
    (void)ctx;
    if (!c || hs->kind == H2_INTERIM || hs->kind == H2_REQUEST) {
        return;
    }
    bool is_head = hs->kind == H2_RESPONSE;
    bool ok = is_head ? copy(c, hs, &c->rh, &c->n_rh) : copy(c, hs, &c->rt, &c->n_rt);
    if (!ok) {
        int rc = err_set(&e, ERR_LIMIT, "answer of %s: too many headers", c->cl->authority);
        call_end(c, rc, &e);
    } else if (is_head) {
        IGNORE_ERR(call_head(c, status_of(hs)), "a cancelled call is no longer the stream's");
    }
}

static void on_data(struct h2 *h, int32_t sid, struct span data, void *ctx) {
    struct http_call *c = h2_ctx(h, sid);
    (void)ctx;
    if (c) {
        IGNORE_ERR(call_data(c, data), "a cancelled call is no longer the stream's");
    }
}

static void on_end(struct h2 *h, int32_t sid, void *ctx) {
    struct http_call *c = h2_ctx(h, sid);
    (void)ctx;
    if (c) {
        call_answer_end(c);
    }
}

static void on_close(struct h2 *h, int32_t sid, uint32_t code, void *ctx) {
    struct http_call *c = h2_ctx(h, sid);
    struct err e = ERR_INIT;
    (void)ctx;
    if (!c) {
        return;
    }
    if (c->answer_done) { /* paused: the rest is still held */
        h2_set_ctx(h, sid, NULL);
        c->sid = 0;
        return;
    }
    if (code == H2_REFUSED && call_retry(c, true)) {
        return;
    }
    int rc = err_set(&e, ERR_UNAVAILABLE, "%s ended the stream (code %u)", c->cl->authority, code);
    c->sid = 0;
    call_end(c, rc, &e);
}

/* ---- the request ---- */

static void pull(struct h2 *h, int32_t sid, uint8_t *p, size_t max, struct h2_pull *ret,
                 void *ctx) {
    struct http_call *c = h2_ctx(h, sid);
    (void)ctx;
    if (!c) {
        ret->failed = true;
        return;
    }
    ssize_t n = net_queue_read(&c->out, p, max);
    ret->failed = n < 0;
    ret->n = n > 0 ? (size_t)n : 0;
    ret->eof = c->fin && !c->out.bytes;
}

void c2_open(struct cconn *k) {
    static const struct h2_cb cb = {on_headers, on_data, on_end, on_close, pull, NULL, NULL};
    struct h2_opts o = {.max_streams = 0,
                        .stream_window = STREAM_WINDOW,
                        .conn_window = CONN_WINDOW,
                        .pool = loop_pool(k->cl->l)};
    k->h2 = h2_new(&o, &cb, k);
    cconn_later(k);
}

bool c2_has_room(const struct cconn *k) {
    uint32_t theirs = h2_peer_max_streams(k->h2);
    return h2_can_request(k->h2) && k->n_calls < (theirs < MAX_STREAMS ? theirs : MAX_STREAMS);
}

static bool hop_by_hop(struct span name) {
    return span_eq_nocase(name, "connection") || span_eq_nocase(name, "host") ||
           span_eq_nocase(name, "transfer-encoding") || span_eq_nocase(name, "keep-alive") ||
           span_eq_nocase(name, "upgrade");
}

bool c2_start(struct cconn *k, struct http_call *c) {
    struct h2_header hs[LIM_H2_FIELDS];
    struct http_client *cl = k->cl;
    char length[24];
    size_t n = 0;
    hs[n++] = (struct h2_header){SPAN_LIT(":method"), span_str(c->method)};
    hs[n++] =
        (struct h2_header){SPAN_LIT(":scheme"), cl->tls ? SPAN_LIT("https") : SPAN_LIT("http")};
    hs[n++] = (struct h2_header){SPAN_LIT(":authority"), span_str(cl->authority)};
    hs[n++] = (struct h2_header){SPAN_LIT(":path"), span_str(c->target)};
    for (size_t i = 0; i < c->n_headers && n < LIM_H2_FIELDS - 1; i++) {
        if (!hop_by_hop(c->headers[i].name)) {
            hs[n++] = (struct h2_header){c->headers[i].name, c->headers[i].value};
        }
    }
    if (c->body.n && !c->o.stream_body) {
        IGNORE_ERR(str_put(length, sizeof(length), "%zu", c->body.n), "fits");
        hs[n++] = (struct h2_header){SPAN_LIT("content-length"), span_str(length)};
    }
    bool has_body = c->body.n || c->o.stream_body;
    int32_t sid;
    if (h2_request(k->h2, hs, n, has_body, &sid) < 0) {
        return false;
    }
    list_del(&c->link);
    list_add_tail(&k->calls, &c->link);
    k->n_calls++;
    k->used = true;
    c->conn = k;
    c->sid = sid;
    h2_set_ctx(k->h2, sid, c);
    if (c->body.n) { /* in front of what was written before there was a connection */
        struct net_queue all;
        net_queue_init(&all, loop_pool(cl->l));
        net_queue_add(&all, c->body);
        net_queue_move(&all, &c->out);
        net_queue_move(&c->out, &all);
    }
    cconn_later(k);
    return true;
}

void c2_pump(struct cconn *k) {
    const uint8_t *p;
    size_t n;
    while (k->state == K_H2 && net_pending(k->st) < LIM_H2_OUT && (n = h2_out(k->h2, &p)) > 0) {
        net_queue_add(net_out(k->st), span_of(p, n));
    }
    if (k->state != K_H2) {
        return;
    }
    if (net_pending(k->st)) {
        net_kick(k->st);
    }
    if (h2_is_done(k->h2)) {
        cconn_end(k, 0, NULL, true);
    }
}

void c2_readable(struct cconn *k, struct span data) {
    const char *why = NULL;
    struct err e = ERR_INIT;
    int rc = h2_feed(k->h2, data, &why);
    if (k->state != K_H2) {
        return;
    }
    c2_pump(k);
    if (rc < 0) {
        rc = err_set(&e, ERR_INVALID, "%s: HTTP/2: %s", k->cl->authority, why);
        cconn_end(k, rc, &e, true);
    }
    client_dispatch_later(k->cl);
}

void c2_wake(struct http_call *c) {
    h2_wake(c->conn->h2, c->sid);
    cconn_later(c->conn);
}

void c2_cancel(struct cconn *k, int32_t sid) {
    h2_reset(k->h2, sid, H2_CANCEL);
    cconn_later(k);
}

void c2_consumed(struct http_call *c, size_t n) {
    if (c->conn && c->conn->state == K_H2) {
        h2_consumed(c->conn->h2, c->sid, n);
        cconn_later(c->conn);
    }
}
