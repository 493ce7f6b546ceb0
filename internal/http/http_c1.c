/* HTTP/1 on the client: one call at a time on a connection. */
#include "internal/http/http_client_int.h"

#include <stdlib.h>

static bool copy_answer(struct http_call *c, const struct http1 *p) {
    size_t n = http1_headers(p);
    struct span name, value;
    c->rh = arena_alloc(&c->arena, (n + 1) * sizeof(*c->rh));
    if (!c->rh) {
        return false;
    }
    for (size_t i = 0; http1_header_at(p, i, &name, &value); i++) {
        c->rh[i] = (struct http_header){arena_copy(&c->arena, name), arena_copy(&c->arena, value)};
        if (!c->rh[i].name.p || (value.n && !c->rh[i].value.p)) {
            return false;
        }
    }
    c->n_rh = n;
    return true;
}

/* The raw stream takes the connection over; the parser has stopped behind the head. */
static void upgraded(struct cconn *k, struct http_call *c, struct span early) {
    struct http_client *cl = k->cl;
    struct err none = ERR_INIT;
    struct http_raw *w = raw_new(TAKE(k->st), &cl->raws, &cl->lingering, cl->l, early, &c->raw_cb);
    k->state = K_CLOSED;
    k->cur = NULL;
    cconn_later(k);
    c->depth++;
    c->told = true;
    list_del(&c->link);
    loop_timer_stop(&c->timer);
    c->conn = NULL;
    c->upgraded(c->o.ctx, 0, c->status, w, &none);
    c->gone = true;
    c->depth--;
    call_release(c);
}

static int on_head(struct http1 *p, void *ctx) {
    struct cconn *k = ctx;
    struct http_call *c = k->cur;
    unsigned status = http1_status(p);
    if (!c) {
        return -ERR_INVALID; /* an answer that nobody asked for */
    }
    if (status < 200 && status != 101) {
        return HTTP1_BODY; /* 100 Continue and the like: the answer is still to come */
    }
    if (status == 101 && !c->upgrade) {
        return -ERR_INVALID;
    }
    k->keep = http1_keep_alive(p);
    if (!copy_answer(c, p)) {
        return -ERR_LIMIT;
    }
    int rc = call_head(c, status);
    if (rc < 0) {
        return rc;
    }
    return str_eq(c->method, "HEAD") ? HTTP1_NO_BODY : HTTP1_BODY;
}

static int on_body(struct http1 *p, struct span data, void *ctx) {
    struct cconn *k = ctx;
    (void)p;
    return k->cur ? call_data(k->cur, data) : -ERR_CANCELLED;
}

void c1_open(struct cconn *k) {
    static const struct http1_cb cb = {on_head, on_body};
    k->h1 = http1_new(false, &cb, k);
}

/* ---- the request ---- */

static bool given(const struct http_call *c, const char *name) {
    for (size_t i = 0; i < c->n_headers; i++) {
        if (span_eq_nocase(c->headers[i].name, name)) {
            return true;
        }
    }
    return false;
}

void c1_start(struct cconn *k, struct http_call *c) {
    AUTO(buf) struct buf b = BUF_INIT(LIM_CALL_ARENA + 4096);
    k->cur = c;
    c->conn = k;
    c->sid = 0;
    net_want_read(k->st, !c->paused);
    buf_fmt(&b, "%s %s HTTP/1.1\r\n", c->method, c->target);
    if (!given(c, "host")) {
        buf_fmt(&b, "host: %s\r\n", k->cl->authority);
    }
    for (size_t i = 0; i < c->n_headers; i++) {
        buf_span(&b, c->headers[i].name);
        buf_str(&b, ": ");
        buf_span(&b, c->headers[i].value);
        buf_str(&b, "\r\n");
    }
    bool may_have = c->body.n || str_eq(c->method, "POST") || str_eq(c->method, "PUT") ||
                    str_eq(c->method, "PATCH");
    c->chunked = c->o.stream_body && !given(c, "content-length");
    if (c->chunked) {
        buf_str(&b, "transfer-encoding: chunked\r\n");
    } else if (may_have && !given(c, "content-length")) {
        buf_fmt(&b, "content-length: %zu\r\n", c->body.n);
    }
    buf_str(&b, "\r\n");
    net_send(k->st, buf_view(&b));
    if (!c->chunked) {
        net_send(k->st, c->body);
    } else if (c->body.n) {
        c1_write(c, c->body, false);
    }
    while (c->out.bytes) { /* written before there was a connection */
        uint8_t part[8192];
        ssize_t n = net_queue_read(&c->out, part, sizeof(part));
        c1_write(c, span_of(part, n > 0 ? (size_t)n : 0), false);
    }
    if (c->o.stream_body && c->fin) {
        c1_write(c, SPAN_EMPTY, true);
    }
}

void c1_write(struct http_call *c, struct span data, bool fin) {
    struct net_stream *st = c->conn->st;
    if (data.n && c->chunked) {
        AUTO(buf) struct buf b = BUF_INIT(32);
        buf_fmt(&b, "%zx\r\n", data.n);
        net_send(st, buf_view(&b));
        net_send(st, data);
        net_send(st, SPAN_LIT("\r\n"));
    } else {
        net_send(st, data);
    }
    if (fin && c->chunked) {
        net_send(st, SPAN_LIT("0\r\n\r\n"));
    }
}

/* ---- the answer ---- */

/* True: the call is over. */
static bool message_end(struct cconn *k, bool raw, struct span rest) {
    struct http_call *c = k->cur;
    if (!c || !c->got_head) {
        return false; /* an interim answer */
    }
    if (raw && c->upgrade) {
        upgraded(k, c, rest);
    } else {
        k->used = true;
        call_answer_end(c);
    }
    return true;
}

static void broken(struct cconn *k, int rc, const char *why) {
    struct err e = ERR_INIT;
    if (rc == -ERR_CANCELLED) {
        cconn_end(k, 0, NULL, false);
        return;
    }
    rc = err_set(&e, rc == -ERR_LIMIT ? ERR_LIMIT : ERR_INVALID, "answer of %s: %s",
                 k->cl->authority, why ? why : "malformed");
    cconn_end(k, rc, &e, false);
}

void c1_readable(struct cconn *k, struct span data) {
    const char *why = NULL;
    if (!k->cur) {
        cconn_end(k, 0, NULL, false); /* a server that talks unasked, or says goodbye */
        return;
    }
    while (data.n && k->state == K_H1) {
        int rc = http1_feed(k->h1, &data, &why);
        if (k->state != K_H1) {
            return;
        }
        if (rc < 0) {
            broken(k, rc, why);
            return;
        }
        if (rc != HTTP1_MORE && message_end(k, rc == HTTP1_UPGRADED, data)) {
            if (data.n && k->state == K_H1) {
                k->keep = false;
                if (!k->cur) {
                    cconn_end(k, 0, NULL, false);
                }
            }
            return;
        }
    }
}

void c1_eof(struct cconn *k) {
    int rc = http1_eof(k->h1);
    if (k->state != K_H1) {
        return;
    }
    k->keep = false;
    if (rc == HTTP1_MESSAGE && k->cur && k->cur->got_head) {
        call_answer_end(k->cur); /* a body that ends with the connection */
        if (k->cur || k->state != K_H1) {
            return; /* paused: what is held will still be taken */
        }
    }
    cconn_end(k, 0, NULL, true);
}

void c1_pause(struct http_call *c) {
    net_want_read(c->conn->st, !c->paused);
}
