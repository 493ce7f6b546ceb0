/* HTTP/1 on the server. One request at a time: further bytes wait in c->in until the answer has left.
 *
 *   idle --first byte--> head --complete--> body/answer --both done, sent--> idle
 *
 * A request ends from the drain or hook callbacks only, so that a handler may go on using it after http_respond. */
#include "internal/http/http_int.h"

#include <stdlib.h>

enum { LIM_REST = 256 * 1024 };

static int on_head(struct http1 *p, void *ctx);
static int on_body(struct http1 *p, struct span data, void *ctx);

static const struct http1_cb parser_cb = {on_head, on_body};

void h1s_open(struct hconn *c) {
    c->h1 = http1_new(true, &parser_cb, c);
}

/* ---- requests ---- */

static bool copy_head(struct http_req *r, const struct http1 *p) {
    struct span all = http1_head_bytes(p);
    struct span own = arena_copy(&r->arena, all);
    size_t n = http1_headers(p);
    struct http_header *h = arena_alloc(&r->arena, (n + 1) * sizeof(*h));
    if (!own.p || !h) {
        return false;
    }
    /* the same offsets in the copy */
#define MOVED(s) span_of(own.p + ((s).p - all.p), (s).n)
    struct span name, value;
    for (size_t i = 0; http1_header_at(p, i, &name, &value); i++) {
        h[i] = (struct http_header){MOVED(name), value.n ? MOVED(value) : SPAN_LIT("")};
    }
    r->headers = h;
    r->n_headers = n;
    r->method = MOVED(http1_method(p));
    req_set_target(r, MOVED(http1_target(p)));
#undef MOVED
    return true;
}

/* RFC 9112 §3.2: exactly one Host in HTTP/1.1. */
static bool host_ok(const struct http_req *r, int minor) {
    size_t n = 0;
    for (size_t i = 0; i < r->n_headers; i++) {
        n += span_eq_str(r->headers[i].name, "host");
    }
    return n == 1 || (n == 0 && minor == 0);
}

static int on_head(struct http1 *p, void *ctx) {
    struct hconn *c = ctx;
    struct http_req *r = req_new(c);
    c->cur = r;
    c->in_head = false;
    c->close_after |= !http1_keep_alive(p) || c->s->closing;
    if (!copy_head(r, p)) {
        return -ERR_LIMIT;
    }
    r->is_head = span_eq_str(r->method, "HEAD");
    r->expects = http1_minor(p) >= 1 && http1_has_body(p) &&
                 span_eq_nocase(http_req_header(r, "expect"), "100-continue");
    hconn_deadline(c, http1_has_body(p) ? MS_BODY : 0);
    if (!host_ok(r, http1_minor(p))) {
        c->close_after = true;
        req_refuse(r, 400, "one Host header is required");
    } else if (!span_starts(r->target, "/") && !span_eq_str(r->target, "*")) {
        req_refuse(r, 400, "bad request target");
    } else {
        c->s->o.handler.on_request(r, c->s->o.handler.ctx);
    }
    return HTTP1_BODY;
}

static int on_body(struct http1 *p, struct span data, void *ctx) {
    struct hconn *c = ctx;
    (void)p;
    if (c->cur) {
        hconn_deadline(c, MS_BODY);
        req_body(c->cur, data);
    }
    return 0;
}

/* What cannot be parsed is answered once and the connection ends. */
static void refuse(struct hconn *c, int rc, const char *why) {
    c->close_after = true;
    if (c->cur && c->cur->begun) {
        c->aborted = true;
        hconn_later(c);
        return;
    }
    if (!c->cur) {
        c->cur = req_new(c);
    }
    c->cur->body_done = true;
    req_refuse(c->cur, rc == -ERR_LIMIT ? 431 : rc == -ERR_UNSUPPORTED ? 501 : 400, why);
}

static void feed(struct hconn *c, struct span data) {
    const char *why = NULL;
    if (!c->cur && !c->in_head) {
        c->in_head = true;
        hconn_deadline(c, MS_HEAD);
    }
    int rc = http1_feed(c->h1, &data, &why);
    if (c->state != C_H1) {
        return;
    }
    if (rc < 0) {
        refuse(c, rc, why);
        net_want_read(c->st, false);
        return;
    }
    if (rc != HTTP1_MORE && c->cur) {
        hconn_deadline(c, 0);
        req_body_end(c->cur);
        if (c->state != C_H1) {
            return;
        }
    }
    if (c->cur && c->cur->upgraded) { /* by its handler, while these bytes were being read */
        raw_early(c->cur->raw, data);
        return;
    }
    if (rc != HTTP1_MORE && !http1_in_message(c->h1) && data.n) {
        buf_span(&c->in, data);
    }
    if (c->cur && c->cur->ended &&
        !net_pending(c->st)) { /* the answer was complete before the request */
        hconn_later(c);
    }
}

void h1s_readable(struct hconn *c, struct span data) {
    if (c->cur && c->cur->body_done) { /* pipelined */
        buf_span(&c->in, data);
        if (c->in.n >= LIM_PIPELINE) {
            net_want_read(c->st, false);
        }
        return;
    }
    feed(c, data);
}

/* A peer that has stopped sending may still want its answer, unless that answer has no end. */
void h1s_eof(struct hconn *c) {
    struct http_req *r = c->cur;
    if (!r) {
        hconn_end(c, true);
    } else if (!r->body_done || (r->begun && !r->ended)) {
        hconn_end(c, false);
    } else {
        c->close_after = true;
    }
}

static void next(struct hconn *c) {
    net_want_read(c->st, true);
    if (!c->in.n) {
        hconn_deadline(c, MS_IDLE);
        buf_fini(&c->in); /* an idle connection keeps little */
        buf_init(&c->in, SCRATCH + LIM_PIPELINE);
        return;
    }
    struct buf in = c->in;
    buf_init(&c->in, SCRATCH + LIM_PIPELINE);
    feed(c, buf_view(&in));
    buf_fini(&in);
}

/* An answer may be complete before the request is: a little more of its body is read for the sake of the connection,
 * a lot of it is thrown away while lingering. */
static void finish(struct hconn *c) {
    struct http_req *r = c->cur;
    bool whole = r->body_done;
    r->mode = BODY_DISCARD;
    if (!whole && !c->close_after && !c->eof && r->body_seen < LIM_REST) {
        return;
    }
    req_close(r, true);
    if (c->state != C_H1) {
        return;
    }
    if (c->close_after || !whole || c->eof) {
        hconn_end(c, true);
    } else {
        next(c);
    }
}

void h1s_drained(struct hconn *c) {
    struct http_req *r = c->cur;
    if (!r || !r->begun) {
        return;
    }
    if (r->ended) {
        finish(c);
    } else if (r->drain_cb && r->wants_drain) {
        r->wants_drain = false;
        r->drain_cb(r, r->drain_ctx);
    }
}

void h1s_hook(struct hconn *c) {
    struct http_req *r = c->cur;
    if (r && !c->aborted && !r->upgraded) {
        req_resume(r);
    }
    if (c->state != C_H1) {
        return;
    }
    if (c->aborted) {
        hconn_end(c, false);
    } else if (r && r->upgraded) {
        hconn_release(c);
        req_close(r, true);
    } else if (r && r->ended && !net_pending(c->st)) {
        finish(c);
    }
}

/* ---- answers ---- */

static bool has(const struct http_header *h, size_t n, const char *name) {
    for (size_t i = 0; i < n; i++) {
        if (span_eq_str(h[i].name, name)) {
            return true;
        }
    }
    return false;
}

/* A value from outside must not end its line. */
static void put_header(struct buf *b, struct span name, struct span value) {
    size_t at = b->n;
    buf_span(b, name);
    buf_add(b, ": ", 2);
    buf_span(b, value);
    for (; at < b->n; at++) {
        if (b->p[at] == '\r' || b->p[at] == '\n' || !b->p[at]) {
            b->p[at] = ' ';
        }
    }
    buf_add(b, "\r\n", 2);
}

void h1s_head(struct http_req *r, unsigned status, const char *type, const struct http_header *h,
              size_t n, int64_t len) {
    struct hconn *c = r->c;
    AUTO(buf) struct buf b = BUF_INIT(LIM_HTTP1_HEAD);
    buf_fmt(&b, "HTTP/1.1 %u %s\r\n", status, http1_reason(status));
    if (type) {
        put_header(&b, SPAN_LIT("content-type"), span_str(type));
    }
    bool own_len = has(h, n, "content-length");
    if (len >= 0 && !own_len && status != 204 && status != 304) {
        buf_fmt(&b, "content-length: %lld\r\n", (long long)len);
    }
    if (len < 0 && !own_len && !r->no_body) {
        if (http1_minor(c->h1) >= 1) {
            r->chunked = true;
            buf_str(&b, "transfer-encoding: chunked\r\n");
        } else {
            c->close_after = true; /* the end of the connection ends the body */
        }
    }
    if (c->s->closing || (!r->body_done && r->expects)) {
        c->close_after = true; /* the client may or may not send the body it announced */
    }
    if (c->close_after) {
        buf_str(&b, "connection: close\r\n");
    } else if (http1_minor(c->h1) == 0) {
        buf_str(&b, "connection: keep-alive\r\n");
    }
    for (size_t i = 0; i < n; i++) {
        put_header(&b, h[i].name, h[i].value);
    }
    put_header(&b, SPAN_LIT("date"), span_str(http_server_date(c->s)));
    buf_str(&b, "\r\n");
    if (buf_ok(&b) < 0) {
        c->aborted = true; /* a head of more than 64 KiB is a mistake of ours */
        hconn_later(c);
        return;
    }
    net_send(c->st, buf_view(&b));
}

static void chunk_head(struct http_req *r, size_t n) {
    uint8_t text[2 * sizeof(n) + 2];
    size_t at = sizeof(text);
    text[--at] = '\n';
    text[--at] = '\r';
    for (; n; n >>= 4) {
        text[--at] = (uint8_t) "0123456789abcdef"[n & 15];
    }
    net_queue_add(net_out(r->c->st), span_of(text + at, sizeof(text) - at));
}

static void chunk_end(struct http_req *r) {
    if (r->chunked) {
        net_queue_add(net_out(r->c->st), SPAN_LIT("\r\n"));
    }
    net_kick(r->c->st);
}

void h1s_data(struct http_req *r, struct span data) {
    if (r->chunked) {
        chunk_head(r, data.n);
    }
    net_queue_add(net_out(r->c->st), data);
    chunk_end(r);
}

void h1s_blob(struct http_req *r, struct net_blob *b) {
    if (r->chunked) {
        chunk_head(r, b->n);
    }
    net_queue_blob(net_out(r->c->st), b);
    chunk_end(r);
}

void h1s_take(struct http_req *r, void *own_p, size_t n) {
    net_queue_take(net_out(r->c->st), own_p, n);
    net_kick(r->c->st);
}

void h1s_file(struct http_req *r, int own_fd, uint64_t offset, uint64_t n) {
    net_queue_file(net_out(r->c->st), own_fd, offset, n);
    net_kick(r->c->st);
}

void h1s_end(struct http_req *r) {
    if (r->chunked) {
        net_send(r->c->st, SPAN_LIT("0\r\n\r\n"));
    }
    hconn_later(r->c); /* when everything has left already */
}

void h1s_continue(struct http_req *r) {
    if (!r->body_seen && !r->begun) {
        net_send(r->c->st, SPAN_LIT("HTTP/1.1 100 Continue\r\n\r\n"));
    }
}

void h1s_pause(struct http_req *r) {
    if (!r->body_done) {
        net_want_read(r->c->st, !r->paused);
        hconn_deadline(r->c, r->paused ? 0 : MS_BODY);
    }
}

/* ---- upgrade ---- */

int http_upgrade(struct http_req *r, const struct http_header *h, size_t n,
                 const struct http_raw_cb *cb, struct http_raw **ret, struct err *e) {
    struct hconn *c = r->c;
    if (c->state != C_H1 || r->begun) {
        return err_set(e, ERR_UNSUPPORTED, "only an unanswered HTTP/1.1 request can be upgraded");
    }
    AUTO(buf) struct buf b = BUF_INIT(LIM_HTTP1_HEAD);
    buf_str(&b, "HTTP/1.1 101 Switching Protocols\r\n");
    if (!has(h, n, "connection")) {
        buf_str(&b, "connection: Upgrade\r\n");
    }
    for (size_t i = 0; i < n; i++) {
        put_header(&b, h[i].name, h[i].value);
    }
    buf_str(&b, "\r\n");
    if (buf_ok(&b) < 0) {
        return err_set(e, ERR_LIMIT, "upgrade headers too large");
    }
    r->begun = r->ended = r->upgraded = true;
    net_send(c->st, buf_view(&b));
    /* The stream changes hands now; the request ends from the hook. */
    *ret = r->raw = raw_new(c->st, &c->s->raws, &c->s->lingering, c->s->l, buf_view(&c->in), cb);
    hconn_deadline(c, 0);
    hconn_later(c);
    return 0;
}
