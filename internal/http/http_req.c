/* Requests as handlers see them, the same for both versions of the protocol. */
#include "internal/http/http_int.h"

#include <stdlib.h>
#include <unistd.h>

struct http_req *req_new(struct hconn *c) {
    struct pool *pool = loop_pool(c->s->l);
    struct http_req *r = pool_zero(pool, sizeof(*r));
    r->c = c;
    r->arena = (struct arena)ARENA_POOL(LIM_REQ_ARENA, pool);
    r->body_max = c->s->o.body_max;
    net_queue_init(&r->out, pool);
    list_add_tail(&c->reqs, &r->link);
    return r;
}

/* absolute-form (RFC 9112 §3.2.2) loses its scheme and authority. */
void req_set_target(struct http_req *r, struct span target) {
    if (!span_starts(target, "/") && memmem(target.p, target.n, "://", 3)) {
        struct span rest = target, head;
        IGNORE_ERR(span_until(&rest, ':', &head), "found above");
        IGNORE_ERR(span_skip(&rest, 2), "found above");
        ptrdiff_t slash = span_index(rest, '/');
        target = SPAN_LIT("/");
        if (slash >= 0) {
            IGNORE_ERR(span_skip(&rest, (size_t)slash), "inside");
            target = rest;
        }
    }
    r->target = r->path = target;
    r->query = SPAN_EMPTY;
    ptrdiff_t q = span_index(target, '?');
    if (q >= 0) {
        struct span rest = target;
        IGNORE_ERR(span_take(&rest, (size_t)q, &r->path), "inside");
        IGNORE_ERR(span_skip(&rest, 1), "the question mark");
        r->query = rest;
    }
}

void req_close(struct http_req *r, bool complete) {
    list_del(&r->link);
    if (r->c->cur == r) {
        r->c->cur = NULL;
    }
    if (!r->body_told && r->mode == BODY_BUFFER) {
        r->body_told = true;
        r->body_cb.whole(r, -ERR_CANCELLED, SPAN_EMPTY, r->body_ctx);
    }
    if (r->close_cb) {
        r->close_cb(r, complete, r->close_ctx);
    }
    net_queue_fini(&r->out);
    buf_fini(&r->in);
    arena_fini(&r->arena);
    h2_list_unref(r->list);
    pool_put(loop_pool(r->c->s->l), r);
}

/* ---- the request's body ---- */

static void too_large(struct http_req *r) {
    r->too_large = true;
    if (r->mode == BODY_BUFFER && !r->body_told) {
        r->body_told = true;
        r->body_cb.whole(r, -ERR_LIMIT, SPAN_EMPTY, r->body_ctx);
    } else if (!r->begun) {
        req_refuse(r, 413, "request body too large");
    } else {
        http_abort(r);
    }
}

void req_body(struct http_req *r, struct span data) {
    r->body_seen += data.n;
    if (r->mode == BODY_DISCARD || r->too_large || !data.n || r->c->state == C_CLOSED) {
        if (r->sid) {
            h2s_consumed(r, data.n);
        }
    } else if (r->body_seen > r->body_max) {
        if (r->sid) {
            h2s_consumed(r, data.n);
        }
        too_large(r);
    } else if (r->mode == BODY_BUFFER || r->paused || r->in.n) {
        buf_span(&r->in, data);
        if (r->mode == BODY_BUFFER && r->sid) {
            h2s_consumed(r, data.n);
        }
    } else {
        if (r->sid) {
            h2s_consumed(r, data.n);
        }
        r->body_cb.part(r, data, false, r->body_ctx);
    }
}

void req_resume(struct http_req *r) {
    if (r->mode != BODY_STREAM || r->paused || r->body_told) {
        return;
    }
    if (r->in.n) {
        struct buf held = r->in;
        buf_init(&r->in, held.max);
        if (r->sid) {
            h2s_consumed(r, held.n);
        }
        r->body_cb.part(r, buf_view(&held), false, r->body_ctx);
        buf_fini(&held);
    }
    if (!r->paused && !r->in.n && r->body_done) {
        r->body_told = true;
        r->body_cb.part(r, SPAN_EMPTY, true, r->body_ctx);
    }
}

void req_body_end(struct http_req *r) {
    r->body_done = true;
    if (r->body_told || r->too_large) {
        return;
    }
    if (r->mode == BODY_BUFFER) {
        r->body_told = true;
        if (buf_ok(&r->in) < 0) {
            r->body_cb.whole(r, -ERR_NOMEM, SPAN_EMPTY, r->body_ctx);
        } else {
            r->body_cb.whole(r, 0, buf_view(&r->in), r->body_ctx);
        }
    } else {
        req_resume(r);
    }
}

void http_req_read_body(struct http_req *r, size_t max,
                        void (*cb)(struct http_req *r, int rc, struct span body, void *ctx),
                        void *ctx) {
    r->mode = BODY_BUFFER;
    r->body_max = max;
    r->body_cb.whole = cb;
    r->body_ctx = ctx;
    buf_init(&r->in, max);
    if (r->expects && !r->sid) {
        h1s_continue(r);
    }
}

void http_req_stream_body(struct http_req *r,
                          void (*cb)(struct http_req *r, struct span data, bool fin, void *ctx),
                          void *ctx) {
    r->mode = BODY_STREAM;
    r->body_cb.part = cb;
    r->body_ctx = ctx;
    buf_init(&r->in, r->body_max);
    if (r->expects && !r->sid) {
        h1s_continue(r);
    }
}

/* Resuming delivers from the loop, never inside this call. */
void http_req_pause(struct http_req *r, bool paused) {
    if (r->paused == paused) {
        return;
    }
    r->paused = paused;
    if (!r->sid && r->c->state == C_H1) {
        h1s_pause(r);
    }
    if (!paused) {
        r->c->resuming = true;
        hconn_later(r->c);
    }
}

/* ---- looking at it ---- */

struct span http_req_method(const struct http_req *r) {
    return r->method;
}
struct span http_req_path(const struct http_req *r) {
    return r->path;
}
struct span http_req_query(const struct http_req *r) {
    return r->query;
}
struct span http_req_header(const struct http_req *r, const char *lower_name) {
    struct span name = span_str(lower_name);
    for (size_t i = 0; i < r->n_headers; i++) {
        if (span_eq(r->headers[i].name, name)) {
            return r->headers[i].value;
        }
    }
    return span_eq_str(name, "host") ? r->authority : SPAN_EMPTY; /* one place to look */
}
bool http_req_header_at(const struct http_req *r, size_t i, struct http_header *ret) {
    if (i < r->n_headers) {
        *ret = r->headers[i];
        return true;
    }
    *ret = (struct http_header){SPAN_LIT("host"), r->authority};
    return i == r->n_headers && r->authority.p;
}
void http_req_drop_head(struct http_req *r) {
    if (r->list) {
        r->method = r->target = r->path = r->query = r->authority = SPAN_EMPTY;
        r->headers = NULL;
        r->n_headers = 0;
        h2_list_unref(TAKE(r->list));
    }
}
const struct tls_peer *http_req_peer(const struct http_req *r) {
    return r->c->peer;
}
const struct sockaddr_storage *http_req_addr(const struct http_req *r) {
    return &r->c->addr;
}
int http_req_version(const struct http_req *r) {
    return r->sid ? 2 : 1;
}
struct arena *http_req_arena(struct http_req *r) {
    return &r->arena;
}
struct loop *http_req_loop(struct http_req *r) {
    return r->c->s->l;
}
void http_req_on_close(struct http_req *r, void (*cb)(struct http_req *r, bool complete, void *ctx),
                       void *ctx) {
    r->close_cb = cb;
    r->close_ctx = ctx;
}

static const char *decoded(struct http_req *r, struct span s) {
    AUTO(buf) struct buf b = BUF_INIT(LIM_HTTP1_HEAD);
    if (url_decode(&b, s, true) < 0 || memchr(buf_cstr(&b), 0, b.n)) {
        return NULL;
    }
    return arena_str(&r->arena, buf_view(&b));
}

/* A pair that does not decode is skipped. */
bool http_query_next(struct http_req *r, struct span *cursor, const char **ret_key,
                     const char **ret_value) {
    struct span pair;
    while (span_next(cursor, '&', &pair)) {
        struct span key = pair, value = SPAN_EMPTY;
        ptrdiff_t eq = span_index(pair, '=');
        if (eq >= 0) {
            value = pair;
            IGNORE_ERR(span_take(&value, (size_t)eq, &key), "inside");
            IGNORE_ERR(span_skip(&value, 1), "the sign");
        }
        const char *k = pair.n ? decoded(r, key) : NULL, *v = k ? decoded(r, value) : NULL;
        if (v) {
            *ret_key = k;
            *ret_value = v;
            return true;
        }
    }
    return false;
}

const char *http_query_get(struct http_req *r, const char *key) {
    struct span cursor = r->query;
    const char *k, *v;
    while (http_query_next(r, &cursor, &k, &v)) {
        if (str_eq(k, key)) {
            return v;
        }
    }
    return NULL;
}

/* ---- answering ---- */

static bool gone(const struct http_req *r) {
    return r->c->state == C_CLOSED || r->ended;
}

static void head(struct http_req *r, unsigned status, const char *type, const struct http_header *h,
                 size_t n, int64_t len, bool end) {
    CHECK(!r->begun);
    r->begun = true;
    r->no_body = r->is_head || status == 204 || status == 304;
    if (r->sid) {
        h2s_head(r, status, type, h, n, len, end || r->no_body);
    } else {
        h1s_head(r, status, type, h, n, len);
    }
}

static void end(struct http_req *r) {
    r->ended = true;
    if (!r->sid) {
        h1s_end(r);
    } else if (!r->no_body) {
        h2s_wake(r);
    }
}

void http_respond(struct http_req *r, unsigned status, const char *content_type,
                  const struct http_header *h, size_t n, struct span body) {
    if (gone(r)) {
        return;
    }
    head(r, status, content_type, h, n, (int64_t)body.n, !body.n);
    if (!r->no_body && body.n) {
        if (r->sid) {
            net_queue_add(&r->out, body);
        } else {
            h1s_data(r, body);
        }
    }
    end(r);
}

void http_respond_take(struct http_req *r, unsigned status, const char *content_type,
                       const struct http_header *h, size_t n, void *own_body, size_t len) {
    if (gone(r)) {
        free(own_body);
        return;
    }
    head(r, status, content_type, h, n, (int64_t)len, !len);
    if (r->no_body) {
        free(own_body);
    } else if (r->sid) {
        net_queue_take(&r->out, own_body, len);
    } else {
        h1s_take(r, own_body, len);
    }
    end(r);
}

void http_respond_file(struct http_req *r, unsigned status, const char *content_type,
                       const struct http_header *h, size_t n, int own_fd, uint64_t offset,
                       uint64_t len) {
    if (gone(r)) {
        close(own_fd);
        return;
    }
    head(r, status, content_type, h, n, (int64_t)len, !len);
    if (r->no_body) {
        close(own_fd);
    } else if (r->sid) {
        r->has_file = true;
        net_queue_file(&r->out, own_fd, offset, len);
    } else {
        h1s_file(r, own_fd, offset, len);
    }
    end(r);
}

void http_begin(struct http_req *r, unsigned status, const char *content_type,
                const struct http_header *h, size_t n) {
    if (!gone(r)) {
        head(r, status, content_type, h, n, -1, false);
    }
}

void http_write(struct http_req *r, struct span data) {
    if (gone(r) || !data.n || r->no_body) {
        return;
    }
    CHECK(r->begun);
    r->wants_drain = true;
    if (r->sid) {
        net_queue_add(&r->out, data);
        h2s_wake(r);
    } else {
        h1s_data(r, data);
    }
}

void http_write_blob(struct http_req *r, struct net_blob *b) {
    if (gone(r) || !b->n || r->no_body) {
        return;
    }
    CHECK(r->begun);
    r->wants_drain = true;
    if (r->sid) {
        net_queue_blob(&r->out, b);
        h2s_wake(r);
    } else {
        h1s_blob(r, b);
    }
}

void http_write_take(struct http_req *r, void *own_p, size_t n) {
    struct net_blob *b = net_blob_new(own_p, n);
    http_write_blob(r, b);
    net_blob_unref(b);
}

void http_end(struct http_req *r) {
    if (!gone(r)) {
        CHECK(r->begun);
        end(r);
    }
}

/* HTTP/1 has no use for them here and leaves them out. */
void http_end_trailers(struct http_req *r, const struct http_header *h, size_t n) {
    if (gone(r)) {
        return;
    }
    CHECK(r->begun);
    struct http_header *copy = r->sid && n ? arena_alloc(&r->arena, n * sizeof(*h)) : NULL;
    for (size_t i = 0; copy && i < n; i++) {
        copy[i] = (struct http_header){arena_copy(&r->arena, h[i].name),
                                       arena_copy(&r->arena, h[i].value)};
    }
    r->trailers = copy;
    r->n_trailers = copy ? n : 0;
    end(r);
}

void http_begin_constant(struct http_req *r, const struct http_header *h, size_t n) {
    if (!r->sid || r->is_head) {
        uint64_t status = 0;
        IGNORE_ERR(span_to_u64(h[0].value, 100, 999, &status), "a constant");
        http_begin(r, (unsigned)status, NULL, h + 1, n - 1);
    } else if (!gone(r)) {
        CHECK(!r->begun);
        r->begun = true;
        h2s_head_constant(r, h, n);
    }
}

void http_end_constant(struct http_req *r, const struct http_header *h, size_t n) {
    if (!gone(r)) {
        r->trailers = h;
        r->n_trailers = n;
        r->trailers_constant = true;
        end(r);
    }
}

void http_abort(struct http_req *r) {
    if (r->c->state == C_CLOSED) {
        return;
    }
    r->ended = true;
    if (r->sid) {
        h2s_abort(r);
    } else {
        r->c->aborted = true;
        hconn_later(r->c);
    }
}

size_t http_pending(const struct http_req *r) {
    if (r->c->state == C_CLOSED) {
        return 0;
    }
    return r->sid ? r->out.bytes : net_pending(r->c->st);
}

/* Each step needs what the one before it has asked for. */
void http_prefetch(struct http_req *const *rs, size_t n) {
    const struct hconn *last = NULL;
    for (size_t i = 0; i < n; i++) {
        mem_prefetch(rs[i], sizeof(*rs[i]));
    }
    for (size_t i = 0; i < n; i++) {
        mem_prefetch(rs[i]->c, sizeof(*rs[i]->c));
    }
    for (size_t i = 0; i < n; i++) {
        const struct hconn *c = rs[i]->c;
        if (c != last && c->state == C_H2) {
            h2_prefetch(c->h2);
            net_prefetch(c->st);
        }
        last = c;
    }
}

size_t http_backlog(const struct http_req *r) {
    return r->c->s->n_due;
}

void http_on_drain(struct http_req *r, void (*cb)(struct http_req *r, void *ctx), void *ctx) {
    r->drain_cb = cb;
    r->drain_ctx = ctx;
}

void req_refuse(struct http_req *r, unsigned status, const char *why) {
    http_respond(r, status, "text/plain; charset=utf-8", NULL, 0, span_str(why));
}
