/* HTTP/2 on the server: requests are streams; answers wait in r->out until the peer has room for them. */
#include "internal/http/http_int.h"

#include <stdlib.h>

enum { STREAM_WINDOW = 256 * 1024, CONN_WINDOW = 4 << 20, COPY_MAX = 256 };

/* ---- receiving ---- */

/* The request holds the list as it came: pseudo headers first, which is checked before. */
static void take_headers(struct http_req *r, const struct h2_headers *hs) {
    size_t k = 0;
    for (; k < hs->n && hs->h[k].name.n && hs->h[k].name.p[0] == ':'; k++) {
        struct span name = hs->h[k].name, value = hs->h[k].value;
        if (span_eq_str(name, ":path")) {
            req_set_target(r, value);
        } else if (span_eq_str(name, ":method")) {
            r->method = value;
        } else if (span_eq_str(name, ":authority")) {
            r->authority = value;
        }
    }
    _Static_assert(sizeof(struct h2_header) == sizeof(struct http_header), "same members");
    r->list = h2_list_ref(hs->list);
    r->headers = (const struct http_header *)(const void *)(hs->h + k);
    r->n_headers = hs->n - k;
    for (size_t i = 0; i < r->n_headers; i++) {
        if (span_eq_str(r->headers[i].name, "host")) {
            r->authority = SPAN_EMPTY;
        }
    }
}

static void on_headers(struct h2 *h, int32_t sid, const struct h2_headers *hs, void *ctx) {
    struct hconn *c = ctx;
    if (hs->kind != H2_REQUEST || c->state != C_H2) {
        return; /* trailers of a request carry nothing that we use */
    }
    struct http_req *r = req_new(c);
    r->sid = sid;
    h2_set_ctx(h, sid, r);
    hconn_deadline(c, 0);
    take_headers(r, hs);
    r->is_head = span_eq_str(r->method, "HEAD");
    if (hs->too_large) {
        req_refuse(r, 431, "head too large");
    } else if (span_eq_str(r->method, "CONNECT")) {
        req_refuse(r, 501, "CONNECT is not served");
    } else if (!span_starts(r->target, "/") && !span_eq_str(r->target, "*")) {
        req_refuse(r, 400, "bad request target");
    } else {
        c->s->o.handler.on_request(r, c->s->o.handler.ctx);
    }
}

static void on_data(struct h2 *h, int32_t sid, struct span data, void *ctx) {
    struct hconn *c = ctx;
    struct http_req *r = h2_ctx(h, sid);
    if (r && c->state == C_H2) {
        req_body(r, data);
    }
}

static void on_end(struct h2 *h, int32_t sid, void *ctx) {
    struct hconn *c = ctx;
    struct http_req *r = h2_ctx(h, sid);
    if (r && c->state == C_H2) {
        req_body_end(r);
    }
}

static void on_close(struct h2 *h, int32_t sid, uint32_t code, void *ctx) {
    struct hconn *c = ctx;
    struct http_req *r = h2_ctx(h, sid);
    if (!r || c->state != C_H2) {
        return;
    }
    h2_set_ctx(h, sid, NULL);
    req_close(r, code == H2_NO_ERROR && r->ended);
    if (list_empty(&c->reqs) && c->state == C_H2) {
        hconn_deadline(c, MS_IDLE);
    }
}

/* ---- keeping alive ---- */

static void on_alive(struct loop_timer *t) {
    struct hconn *c = CONTAINER_OF(t, struct hconn, alive);
    const struct http_keepalive *k = &c->s->o.keepalive;
    uint64_t still = loop_now(c->s->l) - c->heard_ns, wait = k->interval_ns;
    if (still < wait) {
        wait -= still;
    } else if (c->ping_out) {
        hconn_end(c, false);
        return;
    } else {
        c->ping_out = true;
        wait = k->timeout_ns;
        h2_ping(c->h2);
        hconn_later(c);
    }
    loop_timer_start(c->s->l, t, wait, on_alive, "http keep-alive");
}

/* Pings are judged as gRPC's servers do it: each frame of an answer forgives them. Clients ping while a long one comes, to
 * measure the line. */
static void on_ping(struct h2 *h, void *ctx) {
    struct hconn *c = ctx;
    uint64_t now = loop_now(c->s->l), min = c->s->o.keepalive.min_ns;
    if (c->state != C_H2 || !min || c->too_many) {
        return;
    }
    uint64_t wait = list_empty(&c->reqs) ? S_PING_ALONE * NS_PER_S : min;
    bool early = c->pinged_ns && now - c->pinged_ns < wait;
    c->strikes = c->answered ? 0 : (uint8_t)(c->strikes + early);
    c->answered = false;
    c->pinged_ns = now;
    if (c->strikes > LIM_PING_STRIKES) {
        c->too_many = true;
        h2_goaway_why(h, H2_CALM, "too_many_pings");
    }
}

bool h2s_rest(struct hconn *c) {
    return c->s->o.keep_idle && list_empty(&c->reqs) && !h2_in_head(c->h2);
}

/* ---- sending ---- */

static void pull(struct h2 *h, int32_t sid, uint8_t *p, size_t max, struct h2_pull *ret,
                 void *ctx) {
    struct hconn *c = ctx;
    struct http_req *r = h2_ctx(h, sid);
    if (!r) {
        ret->failed = true;
        return;
    }
    /* A short text is copied for less than a chunk is passed on. */
    ret->by_reference = !r->has_file && r->out.bytes > COPY_MAX;
    if (ret->by_reference) {
        ret->n = r->out.bytes < max ? r->out.bytes : max;
    } else {
        ssize_t n = net_queue_read(&r->out, p, max);
        if (n < 0) {
            ret->failed = true;
            return;
        }
        ret->n = (size_t)n;
    }
    c->answered |= ret->n > 0;
    size_t left = r->out.bytes - (ret->by_reference ? ret->n : 0);
    ret->eof = r->ended && !left;
    if (ret->eof && r->n_trailers) {
        ret->trailers = (const struct h2_header *)(const void *)r->trailers;
        ret->n_trailers = r->n_trailers;
        ret->constant = r->trailers_constant;
    }
    r->stalled = !ret->eof && !ret->n;
    if (!ret->eof && !left && r->drain_cb && r->wants_drain) {
        c->draining = true;
        hconn_later(c);
    }
}

static int push(struct h2 *h, int32_t sid, struct span head, size_t n, void *ctx) {
    struct hconn *c = ctx;
    struct http_req *r = h2_ctx(h, sid);
    if (net_pending(c->st) >= LIM_H2_OUT) {
        return -ERR_AGAIN;
    }
    if (!r || n > r->out.bytes) {
        return -ERR_IO;
    }
    net_queue_add(net_out(c->st), head);
    return net_queue_splice(net_out(c->st), &r->out, n);
}

static void later(struct hconn *c) {
    if (!c->feeding) {
        hconn_later(c);
    }
}

/* Frames are made only as fast as the socket takes them, so that one stream's data does not delay another's. True: some
 * wait for it. */
static bool make_frames(struct hconn *c) {
    const uint8_t *p;
    size_t n;
    while (c->state == C_H2 && net_pending(c->st) < LIM_H2_OUT && (n = h2_out(c->h2, &p)) > 0) {
        net_queue_add(net_out(c->st), span_of(p, n));
    }
    if (c->state != C_H2) {
        return false;
    }
    size_t pending = net_pending(c->st);
    c->held_up = pending >= LIM_H2_OUT;
    if (h2_is_done(c->h2)) {
        hconn_end(c, true);
    }
    return c->state == C_H2 && pending;
}

void h2s_pump(struct hconn *c) {
    if (make_frames(c)) {
        net_kick(c->st);
    }
}

/* At once, while all of the connection is in the cache. */
static void pump_now(struct hconn *c) {
    if (make_frames(c)) {
        net_flush(c->st);
    }
}

static void drain(struct hconn *c) {
    c->draining = false;
    for (LIST_EACH(at, next, &c->reqs)) {
        struct http_req *r = CONTAINER_OF(at, struct http_req, link);
        if (r->drain_cb && r->wants_drain && !r->out.bytes && !r->ended) {
            r->wants_drain = false;
            r->drain_cb(r, r->drain_ctx);
        }
    }
}

static void resume(struct hconn *c) {
    c->resuming = false;
    for (LIST_EACH(at, next, &c->reqs)) {
        struct http_req *r = CONTAINER_OF(at, struct http_req, link);
        if (r->mode == BODY_STREAM) {
            req_resume(r);
        }
    }
}

void h2s_hook(struct hconn *c) {
    if (c->draining) {
        drain(c);
    }
    if (c->resuming) {
        resume(c);
    }
    if (c->state == C_H2) {
        pump_now(c);
    }
}

void h2s_open(struct hconn *c) {
    static const struct h2_cb cb = {on_headers, on_data, on_end, on_close, pull, push, on_ping};
    struct h2_opts o = {.is_server = true,
                        .max_streams = c->s->o.max_streams,
                        .stream_window = STREAM_WINDOW,
                        .conn_window = CONN_WINDOW,
                        .pool = loop_pool(c->s->l)};
    c->h2 = h2_new(&o, &cb, c);
    c->heard_ns = loop_now(c->s->l);
    if (c->s->o.keepalive.interval_ns) {
        loop_timer_start(c->s->l, &c->alive, c->s->o.keepalive.interval_ns, on_alive,
                         "http keep-alive");
    }
    if (c->s->closing) {
        h2_goaway(c->h2);
    }
    hconn_later(c);
}

void h2s_readable(struct hconn *c, struct span data) {
    const char *why = NULL;
    c->heard_ns = loop_now(c->s->l);
    c->ping_out = false;
    c->feeding = true;
    int rc = h2_feed(c->h2, data, &why);
    c->feeding = false;
    if (c->state != C_H2) {
        return;
    }
    pump_now(c); /* also the GOAWAY that says what was wrong */
    if (c->state == C_H2 && (rc < 0 || c->too_many)) {
        hconn_end(c, true);
    }
}

void h2s_shutdown(struct hconn *c) {
    h2_goaway(c->h2);
    hconn_later(c);
}

/* ---- answers ---- */

void h2s_head(struct http_req *r, unsigned status, const char *type, const struct http_header *h,
              size_t n, int64_t len, bool end) {
    struct h2_header hs[LIM_H2_FIELDS];
    char length[24];
    uint8_t code[3] = {(uint8_t)('0' + status / 100 % 10), (uint8_t)('0' + status / 10 % 10),
                       (uint8_t)('0' + status % 10)};
    size_t k = 0;
    hs[k++] = (struct h2_header){SPAN_LIT(":status"), span_of(code, sizeof(code))};
    if (type) {
        hs[k++] = (struct h2_header){SPAN_LIT("content-type"), span_str(type)};
    }
    if (len >= 0 && status != 204 && status != 304) {
        IGNORE_ERR(str_put(length, sizeof(length), "%lld", (long long)len), "fits");
        hs[k++] = (struct h2_header){SPAN_LIT("content-length"), span_str(length)};
    }
    hs[k++] = (struct h2_header){SPAN_LIT("date"), span_str(http_server_date(r->c->s))};
    for (size_t i = 0; i < n && k < LIM_H2_FIELDS; i++) {
        bool dup = len >= 0 && span_eq_str(h[i].name, "content-length");
        if (!dup && !span_eq_str(h[i].name, "connection")) { /* RFC 9113 §8.2.2 */
            hs[k++] = (struct h2_header){h[i].name, h[i].value};
        }
    }
    if (h2_respond(r->c->h2, r->sid, hs, k, !end) < 0) {
        h2_reset(r->c->h2, r->sid, H2_INTERNAL);
    }
    later(r->c);
}

void h2s_head_constant(struct http_req *r, const struct http_header *h, size_t n) {
    if (h2_respond_constant(r->c->h2, r->sid, (const struct h2_header *)(const void *)h, n, true) <
        0) {
        h2_reset(r->c->h2, r->sid, H2_INTERNAL);
    }
    later(r->c);
}

void h2s_wake(struct http_req *r) {
    if (r->stalled) {
        r->stalled = false;
        h2_wake(r->c->h2, r->sid);
    }
    r->c->answered = true;
    later(r->c);
}

void h2s_abort(struct http_req *r) {
    h2_reset(r->c->h2, r->sid, H2_INTERNAL);
    later(r->c);
}

void h2s_consumed(struct http_req *r, size_t n) {
    if (r->c->state == C_H2 && n) {
        h2_consumed(r->c->h2, r->sid, n);
        later(r->c);
    }
}
