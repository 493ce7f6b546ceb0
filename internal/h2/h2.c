#include "internal/h2/h2.h"

#include "internal/h2/h2_home.h"

#include <nghttp2/nghttp2.h>

#include <stdlib.h>

enum {
    FRAME_HEAD = 9,
    UNASKED_MAX = 16 * 1024, /* far less than the windows that are given */
};

struct h2 {
    struct h2_home home; /* first */
    nghttp2_session *s;
    struct h2_cb cb;
    void *ctx;
    struct pool *pool;
    bool is_server, goaway_seen, settings_seen;
    /* Something may be to send. Looking costs half of the session's memory, so bytes that were whole requests, which make
     * no frames of themselves but updates of windows, do not count, up to UNASKED_MAX. */
    bool owes, feeding;
    size_t unasked, whole,
        open; /* whole: bytes of frames that began in this feed; open: frames that were not taken */
    /* header list being received: HEADERS and CONTINUATION of two streams never mix */
    struct h2_list *list;
    bool too_large;
    /* the stream that was asked about last, and the last one that says no more */
    int32_t hot_sid, ended_sid;
    void *hot_ctx;
};

struct field {
    nghttp2_rcbuf *name, *value; /* referenced */
};

struct h2_list {
    size_t refs, n, cap, bytes;
    struct pool *pool;
    struct field *fields; /* behind the headers */
    struct h2_header h[];
};

enum { FIRST_FIELDS = 14 }; /* most requests have fewer: a block of the pool */

/* ---- receiving ---- */

static struct h2_list *list_new(struct pool *pool, size_t cap) {
    struct h2_list *l =
        pool_get(pool, sizeof(*l) + cap * (sizeof(struct h2_header) + sizeof(struct field)));
    CHECK(l);
    *l = (struct h2_list){.refs = 1, .cap = cap, .pool = pool};
    l->fields = (struct field *)(void *)&l->h[cap];
    return l;
}

struct h2_list *h2_list_ref(struct h2_list *l) {
    l->refs++;
    return l;
}

void h2_list_unref(struct h2_list *l) {
    if (!l || --l->refs) {
        return;
    }
    for (size_t i = 0; i < l->n; i++) {
        nghttp2_rcbuf_decref(l->fields[i].name);
        nghttp2_rcbuf_decref(l->fields[i].value);
    }
    pool_put(l->pool, l);
}

static struct h2_list *list_grow(struct h2_list *l) {
    struct h2_list *big = list_new(l->pool, 2 * l->cap);
    big->n = l->n;
    big->bytes = l->bytes;
    memcpy(big->h, l->h, l->n * sizeof(l->h[0]));
    memcpy(big->fields, l->fields, l->n * sizeof(l->fields[0]));
    pool_put(l->pool, l);
    return big;
}

static int on_begin_frame(nghttp2_session *s, const nghttp2_frame_hd *hd, void *ctx) {
    struct h2 *h = ctx;
    (void)s;
    h->whole += FRAME_HEAD + hd->length;
    h->open++;
    return 0;
}

static int on_begin(nghttp2_session *s, const nghttp2_frame *f, void *ctx) {
    struct h2 *h = ctx;
    (void)s;
    (void)f;
    h2_list_unref(h->list);
    h->list = list_new(h->pool, FIRST_FIELDS);
    h->too_large = false;
    return 0;
}

static struct span text_of(nghttp2_rcbuf *b) {
    nghttp2_vec v = nghttp2_rcbuf_get_buf(b);
    return span_of(v.base, v.len);
}

static int on_header(nghttp2_session *s, const nghttp2_frame *f, nghttp2_rcbuf *name,
                     nghttp2_rcbuf *value, uint8_t flags, void *ctx) {
    struct h2 *h = ctx;
    struct h2_list *l = h->list;
    (void)s;
    (void)f;
    (void)flags;
    struct h2_header field = {text_of(name), text_of(value)};
    size_t n = field.name.n + field.value.n;
    if (l->n == LIM_H2_FIELDS || n > LIM_H2_HEADERS - l->bytes) {
        h->too_large = true;
        return 0;
    }
    if (l->n == l->cap) {
        h->list = l = list_grow(l);
    }
    l->h[l->n] = field;
    l->fields[l->n++] = (struct field){name, value};
    l->bytes += n;
    nghttp2_rcbuf_incref(name);
    nghttp2_rcbuf_incref(value);
    return 0;
}

static enum h2_kind kind_of(const struct h2_header *hs, size_t n, const nghttp2_frame *f) {
    if (f->headers.cat == NGHTTP2_HCAT_REQUEST) {
        return H2_REQUEST;
    }
    if (n && span_eq_str(hs[0].name, ":status")) {
        return span_starts(hs[0].value, "1") ? H2_INTERIM : H2_RESPONSE;
    }
    return H2_TRAILERS;
}

static void give_headers(struct h2 *h, const nghttp2_frame *f) {
    struct h2_list *l = TAKE(h->list);
    struct h2_headers hs = {.kind = kind_of(l->h, l->n, f),
                            .h = l->h,
                            .n = l->n,
                            .list = l,
                            .too_large = h->too_large,
                            .end = (f->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0};
    h->cb.on_headers(h, f->hd.stream_id, &hs, h->ctx);
    h2_list_unref(l);
}

static int on_frame(nghttp2_session *s, const nghttp2_frame *f, void *ctx) {
    struct h2 *h = ctx;
    (void)s;
    h->open -= f->hd.type == NGHTTP2_HEADERS || f->hd.type == NGHTTP2_DATA;
    if (f->hd.type == NGHTTP2_HEADERS) {
        give_headers(h, f);
    } else if (f->hd.type == NGHTTP2_GOAWAY) {
        h->goaway_seen = true;
    } else if (f->hd.type != NGHTTP2_DATA) {
        if (f->hd.type == NGHTTP2_PING && !(f->hd.flags & NGHTTP2_FLAG_ACK) && h->cb.on_ping) {
            h->cb.on_ping(h, h->ctx);
        }
        h->settings_seen |= f->hd.type == NGHTTP2_SETTINGS;
        return 0;
    }
    if (f->hd.type != NGHTTP2_GOAWAY && (f->hd.flags & NGHTTP2_FLAG_END_STREAM)) {
        h->cb.on_end(h, f->hd.stream_id, h->ctx);
    }
    return 0;
}

static int on_data(nghttp2_session *s, uint8_t flags, int32_t sid, const uint8_t *p, size_t n,
                   void *ctx) {
    struct h2 *h = ctx;
    if (flags & NGHTTP2_FLAG_END_STREAM) {
        h->ended_sid = sid;
    }
    IGNORE_ERR(nghttp2_session_consume_connection(s, n), "fails only when out of memory");
    h->cb.on_data(h, sid, span_of(p, n), h->ctx);
    return 0;
}

static int on_close(nghttp2_session *s, int32_t sid, uint32_t code, void *ctx) {
    struct h2 *h = ctx;
    (void)s;
    h->cb.on_close(h, sid, code, h->ctx);
    if (h->hot_sid == sid) {
        h->hot_ctx = NULL;
    }
    return 0;
}

/* ---- sending ---- */

/* A server whose answer is complete does not want the rest of the request (RFC 9113 §8.1). */
static int on_sent(nghttp2_session *s, const nghttp2_frame *f, void *ctx) {
    struct h2 *h = ctx;
    bool end = (f->hd.type == NGHTTP2_DATA || f->hd.type == NGHTTP2_HEADERS) &&
               (f->hd.flags & NGHTTP2_FLAG_END_STREAM);
    if (h->is_server && end && nghttp2_session_get_stream_remote_close(s, f->hd.stream_id) == 0) {
        h2_reset(h, f->hd.stream_id, H2_NO_ERROR);
    }
    return 0;
}

static void to_nv(const struct h2_header *hs, size_t n, bool constant, nghttp2_nv *nv) {
    uint8_t flags = constant ? NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE
                             : NGHTTP2_NV_FLAG_NONE;
    for (size_t i = 0; i < n; i++) {
        nv[i] = (nghttp2_nv){.name = (uint8_t *)(uintptr_t)hs[i].name.p,
                             .namelen = hs[i].name.n,
                             .value = (uint8_t *)(uintptr_t)hs[i].value.p,
                             .valuelen = hs[i].value.n,
                             .flags = flags};
    }
}

static nghttp2_ssize on_pull(nghttp2_session *s, int32_t sid, uint8_t *p, size_t max,
                             uint32_t *flags, nghttp2_data_source *src, void *ctx) {
    struct h2 *h = ctx;
    struct h2_pull out = {0};
    (void)src;
    h->cb.pull(h, sid, p, max, &out, h->ctx);
    if (out.failed) {
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE; /* resets the stream */
    }
    if (!out.n && !out.eof) {
        return NGHTTP2_ERR_DEFERRED;
    }
    if (out.by_reference && out.n) {
        *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
    }
    if (out.eof) {
        *flags |= NGHTTP2_DATA_FLAG_EOF;
        if (out.n_trailers && out.n_trailers <= LIM_H2_FIELDS) {
            nghttp2_nv nv[LIM_H2_FIELDS];
            to_nv(out.trailers, out.n_trailers, out.constant, nv);
            *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
            if (nghttp2_submit_trailer(s, sid, nv, out.n_trailers) != 0) {
                return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
            }
        }
    }
    return (nghttp2_ssize)out.n;
}

/* Nothing is ever padded here. */
static int on_push(nghttp2_session *s, nghttp2_frame *f, const uint8_t *head, size_t n,
                   nghttp2_data_source *src, void *ctx) {
    struct h2 *h = ctx;
    (void)s;
    (void)src;
    int rc = h->cb.push(h, f->hd.stream_id, span_of(head, FRAME_HEAD), n, h->ctx);
    h->owes |= rc == -ERR_AGAIN;
    return rc == 0            ? 0
           : rc == -ERR_AGAIN ? NGHTTP2_ERR_WOULDBLOCK
                              : NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
}

size_t h2_out(struct h2 *h, const uint8_t **ret) {
    if (!h->owes) {
        return 0;
    }
    h->owes = false;
    h->unasked = 0;
    nghttp2_ssize n = nghttp2_session_mem_send2(h->s, ret);
    h->owes |= n > 0;
    return n > 0 ? (size_t)n : 0;
}

void h2_prefetch(const struct h2 *h) {
    mem_prefetch(&h->s, sizeof(*h) - offsetof(struct h2, s));
    h2_home_prefetch(&h->home);
}

/* ---- life ---- */

static nghttp2_session *session_new(struct h2 *h) {
    nghttp2_session_callbacks *cb = NULL;
    nghttp2_option *opt = NULL;
    nghttp2_session *s = NULL;
    CHECK(nghttp2_session_callbacks_new(&cb) == 0 && nghttp2_option_new(&opt) == 0);
    nghttp2_session_callbacks_set_on_begin_frame_callback(cb, on_begin_frame);
    nghttp2_session_callbacks_set_on_begin_headers_callback(cb, on_begin);
    nghttp2_session_callbacks_set_on_header_callback2(cb, on_header);
    nghttp2_session_callbacks_set_on_frame_recv_callback(cb, on_frame);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, on_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(cb, on_close);
    nghttp2_session_callbacks_set_on_frame_send_callback(cb, on_sent);
    nghttp2_session_callbacks_set_send_data_callback(cb, on_push);
    nghttp2_option_set_no_auto_window_update(opt, 1);
    nghttp2_option_set_no_closed_streams(opt,
                                         1); /* priorities are not used: no memory for the dead */
    nghttp2_mem mem = {&h->home, h2_home_get, h2_home_put, h2_home_zero, h2_home_resize};
    int rc = h->is_server ? nghttp2_session_server_new3(&s, cb, h, opt, &mem)
                          : nghttp2_session_client_new3(&s, cb, h, opt, &mem);
    CHECK(rc == 0); /* fails only without memory */
    nghttp2_option_del(opt);
    nghttp2_session_callbacks_del(cb);
    return s;
}

struct h2 *h2_new(const struct h2_opts *o, const struct h2_cb *cb, void *ctx) {
    struct h2 *h = aligned_alloc(_Alignof(struct h2), sizeof(*h));
    CHECK(h);
    memset(&h->s, 0, sizeof(*h) - offsetof(struct h2, s));
    h2_home_init(&h->home, o->pool, POOL_KEEP(true)); /* the sanitizers see each block */
    h->cb = *cb;
    h->ctx = ctx;
    h->is_server = o->is_server;
    h->pool = o->pool;
    h->owes = true;
    h->s = session_new(h);
    nghttp2_settings_entry set[] = {
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, o->max_streams},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, o->stream_window},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, LIM_H2_HEADERS},
        {NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
    };
    CHECK(nghttp2_submit_settings(h->s, NGHTTP2_FLAG_NONE, set,
                                  ARRAY_LEN(set) - (o->is_server ? 1 : 0)) == 0);
    CHECK(nghttp2_session_set_local_window_size(h->s, NGHTTP2_FLAG_NONE, 0,
                                                (int32_t)o->conn_window) == 0);
    return h;
}

void h2_free(struct h2 *h) {
    if (h) {
        h2_list_unref(h->list);
        nghttp2_session_del(h->s);
        h2_home_leave(&h->home);
    }
}

int h2_feed(struct h2 *h, struct span in, const char **why) {
    h->whole = h->open = 0;
    h->feeding = true;
    nghttp2_ssize n = nghttp2_session_mem_recv2(h->s, in.p, in.n);
    h->feeding = false;
    h->unasked += in.n;
    h->owes |= h->open || h->whole != in.n || h->unasked > UNASKED_MAX;
    if (n < 0 || (size_t)n != in.n) {
        *why = n < 0 ? nghttp2_strerror((int)n) : "session ended";
        return -ERR_INVALID;
    }
    return 0;
}

bool h2_is_done(const struct h2 *h) {
    return !nghttp2_session_want_read(h->s) && !nghttp2_session_want_write(h->s);
}

/* ---- streams ---- */

static int submit(struct h2 *h, int32_t sid, const struct h2_header *hs, size_t n, bool constant,
                  bool has_body, int32_t *ret_sid) {
    nghttp2_nv nv[LIM_H2_FIELDS];
    h->owes = true;
    nghttp2_data_provider2 pull = {.read_callback = on_pull};
    if (n > LIM_H2_FIELDS) {
        return -ERR_LIMIT;
    }
    to_nv(hs, n, constant, nv);
    if (sid) {
        return nghttp2_submit_response2(h->s, sid, nv, n, has_body ? &pull : NULL) ? -ERR_INVALID
                                                                                   : 0;
    }
    int32_t got = nghttp2_submit_request2(h->s, NULL, nv, n, has_body ? &pull : NULL, NULL);
    if (got < 0) {
        return -ERR_UNAVAILABLE;
    }
    *ret_sid = got;
    return 0;
}

int h2_request(struct h2 *h, const struct h2_header *hs, size_t n, bool has_body,
               int32_t *ret_sid) {
    return submit(h, 0, hs, n, false, has_body, ret_sid);
}

int h2_respond(struct h2 *h, int32_t sid, const struct h2_header *hs, size_t n, bool has_body) {
    return submit(h, sid, hs, n, false, has_body, NULL);
}

int h2_respond_constant(struct h2 *h, int32_t sid, const struct h2_header *hs, size_t n,
                        bool has_body) {
    return submit(h, sid, hs, n, true, has_body, NULL);
}

void h2_wake(struct h2 *h, int32_t sid) {
    h->owes = true;
    IGNORE_ERR(nghttp2_session_resume_data(h->s, sid),
               "a stream that does not wait needs no waking");
}

void h2_reset(struct h2 *h, int32_t sid, enum h2_code code) {
    h->owes = true;
    IGNORE_ERR(nghttp2_submit_rst_stream(h->s, NGHTTP2_FLAG_NONE, sid, (uint32_t)code),
               "fails only without memory");
}

void h2_consumed(struct h2 *h, int32_t sid, size_t n) {
    h->owes |= !h->feeding;
    if (sid != h->ended_sid) { /* nothing more may come on that one */
        IGNORE_ERR(nghttp2_session_consume_stream(h->s, sid, n), "a closed stream has no window");
    }
}

void h2_set_ctx(struct h2 *h, int32_t sid, void *stream_ctx) {
    int rc = nghttp2_session_set_stream_user_data(h->s, sid, stream_ctx);
    h->hot_sid = sid;
    h->hot_ctx = rc == 0 ? stream_ctx : NULL; /* a closed stream has none */
}

void *h2_ctx(struct h2 *h, int32_t sid) {
    if (sid != h->hot_sid) {
        h->hot_sid = sid;
        h->hot_ctx = nghttp2_session_get_stream_user_data(h->s, sid);
    }
    return h->hot_ctx;
}

void h2_goaway_why(struct h2 *h, enum h2_code code, const char *why) {
    h->owes = true;
    IGNORE_ERR(nghttp2_submit_goaway(h->s, NGHTTP2_FLAG_NONE,
                                     nghttp2_session_get_last_proc_stream_id(h->s), (uint32_t)code,
                                     (const uint8_t *)why, strlen(why)),
               "fails only without memory");
}

void h2_goaway(struct h2 *h) {
    h2_goaway_why(h, H2_NO_ERROR, "");
}

void h2_ping(struct h2 *h) {
    h->owes = true;
    IGNORE_ERR(nghttp2_submit_ping(h->s, NGHTTP2_FLAG_NONE, NULL), "fails only without memory");
}

bool h2_in_head(const struct h2 *h) {
    return h->list != NULL;
}

uint32_t h2_peer_max_streams(const struct h2 *h) {
    return nghttp2_session_get_remote_settings(h->s, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS);
}

bool h2_is_ready(const struct h2 *h) {
    return h->settings_seen;
}

bool h2_can_request(const struct h2 *h) {
    return !h->goaway_seen && nghttp2_session_check_request_allowed(h->s) != 0;
}
