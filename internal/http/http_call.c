/* Calls: what the owner gave, what came back, and telling the owner. */
#include "internal/http/http_client_int.h"

#include <stdlib.h>

/* ---- ends ---- */

void call_release(struct http_call *c) {
    if (c->depth || !c->gone) {
        return;
    }
    net_queue_fini(&c->out);
    buf_fini(&c->held);
    arena_fini(&c->arena);
    free(c->own_body);
    free(c);
}

static void leave_call(struct http_call *c) {
    c->depth--;
    call_release(c);
}

/* Off the lists and the connection; a call of HTTP/1 that is not complete costs its connection. */
static void detach(struct http_call *c) {
    struct cconn *k = c->conn;
    list_del(&c->link);
    loop_timer_stop(&c->timer);
    c->conn = NULL;
    if (!k) {
        return;
    }
    if (k->cur == c) {
        k->cur = NULL;
        if (k->state == K_H1) {
            if (c->answer_done && k->keep && c->fin && !net_pending(k->st)) {
                cconn_idle(k);
            } else {
                cconn_end(k, 0, NULL, false);
            }
        }
        return;
    }
    k->n_calls--;
    if (c->sid) { /* the session may still call back, even when the connection is over */
        h2_set_ctx(k->h2, c->sid, NULL);
    }
    if (k->state == K_H2) {
        if (c->sid && !(c->answer_done && c->fin && !c->out.bytes)) {
            c2_cancel(k, c->sid);
        }
        if (!k->n_calls) {
            cconn_idle(k);
        }
        client_dispatch_later(k->cl);
    }
}

static void tell_end(struct http_call *c, int rc, const struct err *e) {
    struct err none = ERR_INIT;
    c->told = true;
    if (c->upgrade) {
        c->upgraded(c->o.ctx, rc, c->status, NULL, e ? e : &none);
    } else if (c->o.on_end) {
        c->o.on_end(c, rc, e ? e : &none, c->o.ctx);
    }
}

void call_end(struct http_call *c, int rc, const struct err *e) {
    if (c->told || c->gone) {
        return;
    }
    c->depth++;
    /* Told first: headers and trailers are still there. */
    tell_end(c, rc, e);
    if (!c->gone) {
        c->gone = true;
        detach(c);
    }
    leave_call(c);
}

void http_call_cancel(struct http_call *c) {
    if (c->gone) {
        return;
    }
    c->gone = true;
    client_enter(c->cl);
    struct http_client *cl = c->cl;
    detach(c);
    call_release(c);
    client_leave(cl);
}

static bool idempotent(const char *m) {
    return str_eq(m, "GET") || str_eq(m, "HEAD") || str_eq(m, "PUT") || str_eq(m, "DELETE") ||
           str_eq(m, "OPTIONS");
}

/* A connection that was used before may have been closed by the server just as the request was sent: RFC 9110 §9.2.2.
 * `refused` (RFC 9113 §8.7): the server said that it did nothing. */
bool call_retry(struct http_call *c, bool refused) {
    struct cconn *k = c->conn;
    bool safe = refused || (k && k->used && idempotent(c->method));
    if (c->gone || c->told || c->got_head || c->retried || c->o.stream_body || c->upgrade ||
        !safe || c->cl->dead) {
        return false;
    }
    list_del(&c->link);
    if (k && k->cur == c) {
        k->cur = NULL;
    } else if (k) {
        k->n_calls--;
        h2_set_ctx(k->h2, c->sid, NULL);
    }
    c->conn = NULL;
    c->sid = 0;
    c->retried = true;
    net_queue_fini(&c->out);
    list_add_head(&c->cl->waiting, &c->link);
    client_dispatch_later(c->cl);
    return true;
}

static void on_timeout(struct loop_timer *t) {
    struct http_call *c = CONTAINER_OF(t, struct http_call, timer);
    struct http_client *cl = c->cl;
    struct err e = ERR_INIT;
    client_enter(cl);
    int rc = err_set(&e, ERR_TIMEOUT, "%s %s: no answer in time", c->method, cl->authority);
    call_end(c, rc, &e);
    client_leave(cl);
}

/* ---- the answer ---- */

int call_head(struct http_call *c, unsigned status) {
    c->status = status;
    c->got_head = true;
    if (c->o.on_head && !c->gone) {
        c->depth++;
        c->o.on_head(c, status, c->o.ctx);
        bool gone = c->gone;
        leave_call(c);
        return gone ? -ERR_CANCELLED : 0;
    }
    return 0;
}

static int give(struct http_call *c, struct span data) {
    if (!c->o.on_data) {
        return 0;
    }
    c->depth++;
    c->o.on_data(c, data, c->o.ctx);
    bool gone = c->gone;
    leave_call(c);
    return gone ? -ERR_CANCELLED : 0;
}

int call_data(struct http_call *c, struct span data) {
    if (c->gone || c->upgrade) {
        return c->gone ? -ERR_CANCELLED : 0;
    }
    if (c->paused || c->held.n) {
        buf_span(&c->held, data);
        return 0;
    }
    if (c->sid) {
        c2_consumed(c, data.n);
    }
    return give(c, data);
}

void call_answer_end(struct http_call *c) {
    struct err e = ERR_INIT;
    c->answer_done = true;
    if (c->paused || c->held.n) {
        return; /* told when the rest has been taken */
    }
    if (c->upgrade) {
        int rc = err_set(&e, ERR_INVALID, "the server answered %u instead of upgrading", c->status);
        call_end(c, rc, &e);
    } else if (buf_ok(&c->held) < 0) {
        int rc = err_set(&e, ERR_LIMIT, "too much of the answer came while paused");
        call_end(c, rc, &e);
    } else {
        call_end(c, 0, NULL);
    }
}

void call_deliver_held(struct http_call *c) {
    if (c->paused || c->gone || (!c->held.n && !c->answer_done)) {
        return;
    }
    c->depth++;
    if (c->held.n) {
        struct buf b = c->held;
        buf_init(&c->held, LIM_HELD);
        if (c->sid) {
            c2_consumed(c, b.n);
        }
        IGNORE_ERR(give(c, buf_view(&b)), "gone is looked at below");
        buf_fini(&b);
    }
    if (!c->gone && c->answer_done && !c->paused && !c->held.n) {
        call_answer_end(c);
    }
    leave_call(c);
}

/* ---- the face ---- */

static bool copy_request(struct http_call *c, const struct http_call_opts *o) {
    struct arena *a = &c->arena;
    c->method = arena_str(a, span_str(o->method));
    c->target = arena_str(a, span_str(o->target));
    c->headers = arena_alloc(a, (o->n_headers + 1) * sizeof(*c->headers));
    if (!c->method || !c->target || !c->headers) {
        return false;
    }
    for (size_t i = 0; i < o->n_headers; i++) {
        c->headers[i] = (struct http_header){arena_copy(a, o->headers[i].name),
                                             arena_copy(a, o->headers[i].value)};
        if (!c->headers[i].name.p || (o->headers[i].value.n && !c->headers[i].value.p)) {
            return false;
        }
    }
    c->n_headers = o->n_headers;
    return true;
}

/* Nothing that ends a line or a word of the request line may come from the caller's data. */
static bool clean(const struct http_call_opts *o) {
    for (const char *p = o->method; *p; p++) {
        if (*p <= ' ' || *p == 0x7f) {
            return false;
        }
    }
    for (const char *p = o->target; *p; p++) {
        if ((unsigned char)*p <= ' ' || *p == 0x7f) {
            return false;
        }
    }
    for (size_t i = 0; i < o->n_headers; i++) {
        struct span v = o->headers[i].value, n = o->headers[i].name;
        if (!n.n ||
            (v.n && (memchr(v.p, '\r', v.n) || memchr(v.p, '\n', v.n) || memchr(v.p, 0, v.n))) ||
            memchr(n.p, '\n', n.n) || memchr(n.p, ':', n.n)) {
            return false;
        }
    }
    return *o->method && (*o->target == '/' || *o->target == '*');
}

int http_call_start(struct http_client *cl, const struct http_call_opts *o, struct http_call **ret,
                    struct err *e) {
    if (!o->method || !o->target || !clean(o)) {
        return err_set(e, ERR_INVALID, "malformed method, target or header of a request");
    }
    if (cl->dead) {
        return err_set(e, ERR_CANCELLED, "client closed");
    }
    struct http_call *c = new_zero(struct http_call);
    c->cl = cl;
    c->o = *o;
    c->arena.max = LIM_CALL_ARENA;
    net_queue_init(&c->out, loop_pool(cl->l));
    buf_init(&c->held, LIM_HELD);
    c->fin = !o->stream_body;
    bool ok = copy_request(c, o);
    if (ok && o->body.n) {
        void *p = mem_array(NULL, o->body.n, 1, 1u << 30);
        ok = p != NULL;
        if (ok) {
            memcpy(p, o->body.p, o->body.n);
            c->own_body = p;
            c->body = span_of(p, o->body.n);
        }
    }
    if (!ok) {
        c->gone = true;
        call_release(c);
        return err_set(e, ERR_LIMIT, "request too large");
    }
    list_add_tail(&cl->waiting, &c->link);
    if (o->timeout_ns) {
        loop_timer_start(cl->l, &c->timer, o->timeout_ns, on_timeout, "http call");
    }
    client_dispatch_later(cl);
    if (ret) {
        *ret = c;
    }
    return 0;
}

unsigned http_call_status(const struct http_call *c) {
    return c->status;
}

static struct span find(const struct http_header *h, size_t n, const char *name) {
    for (size_t i = 0; i < n; i++) {
        if (span_eq_str(h[i].name, name)) {
            return h[i].value;
        }
    }
    return SPAN_EMPTY;
}

struct span http_call_header(const struct http_call *c, const char *lower_name) {
    return find(c->rh, c->n_rh, lower_name);
}
struct span http_call_trailer(const struct http_call *c, const char *lower_name) {
    return find(c->rt, c->n_rt, lower_name);
}

void http_call_write(struct http_call *c, struct span data, bool fin) {
    if (c->gone || c->told || c->fin) {
        return;
    }
    c->fin = fin;
    if (c->conn && c->conn->state == K_H1) {
        c1_write(c, data, fin);
        return;
    }
    net_queue_add(&c->out, data);
    if (c->conn && c->sid) {
        c2_wake(c);
    }
}

void http_call_pause(struct http_call *c, bool paused) {
    if (c->paused == paused || c->gone) {
        return;
    }
    c->paused = paused;
    if (!c->conn) {
        return;
    }
    if (c->conn->state == K_H1) {
        c1_pause(c);
    }
    if (!paused) {
        c->resumed = true;
        cconn_later(c->conn);
    }
}

int http_call_upgrade(struct http_client *cl, const struct http_call_opts *o,
                      const struct http_raw_cb *cb, http_upgraded_cb *done, void *ctx,
                      struct err *e) {
    struct http_call *c;
    struct http_call_opts mine = *o;
    mine.on_data = NULL;
    mine.on_end = NULL;
    mine.ctx = ctx;
    mine.stream_body = false;
    int rc = http_call_start(cl, &mine, &c, e);
    if (rc == 0) {
        c->upgrade = true;
        c->raw_cb = *cb;
        c->upgraded = done;
    }
    return rc;
}
