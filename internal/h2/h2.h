/* h2 — one side of an HTTP/2 connection, bytes in and bytes out (no I/O; nghttp2 underneath).
 *
 * What:     requests, answers and trailers on streams, data pulled from the owner when the peer has room for it.
 * Owns:     the session; nothing of the owner's. Header spans live for the callback, or as long as their list is held.
 * Limits:   LIM_H2_HEADERS bytes and LIM_H2_FIELDS fields a header list (a longer one arrives cut, flagged too_large);
 *           streams as given; resets, settings, pings and continuations by nghttp2's guards.
 * Errors:   INVALID (the peer broke the protocol; what h2_out still gives says so to it).
 * Threads:  any, one at a time. h2_feed and h2_out must not be called from a callback; the others may.
 * Spec:     RFC 9113, RFC 7541. Server push is off.
 */
#ifndef KF_H2_H
#define KF_H2_H

#include "internal/base/buf.h"
#include "internal/base/pool.h"

enum { LIM_H2_HEADERS = 64 * 1024, LIM_H2_FIELDS = 256 };
enum h2_code { H2_NO_ERROR = 0, H2_INTERNAL = 2, H2_REFUSED = 7, H2_CANCEL = 8, H2_CALM = 11 };

struct h2;
struct h2_header {
    struct span name, value;
};
enum h2_kind { H2_REQUEST, H2_RESPONSE, H2_INTERIM /* 1xx */, H2_TRAILERS };
struct h2_list; /* what a header list's texts live in */
struct h2_headers {
    enum h2_kind kind;
    const struct h2_header *h; /* texts end with a NUL */
    size_t n;
    struct h2_list *list; /* to be kept beyond the callback with h2_list_ref; h lives as long */
    bool too_large, end; /* end: no body follows */
};
/* What pull gives. n == 0 and !eof: nothing now, h2_wake later. By reference: the n bytes (at most max) were not put to p but
 * are asked for by push, when their frame's turn has come. */
struct h2_pull {
    size_t n;
    bool by_reference;
    bool eof, failed;
    const struct h2_header *trailers; /* with eof */
    size_t n_trailers;
    bool constant; /* the trailers' texts are: they are not copied */
};
struct h2_cb {
    void (*on_headers)(struct h2 *h, int32_t sid, const struct h2_headers *hs, void *ctx);
    void (*on_data)(struct h2 *h, int32_t sid, struct span data, void *ctx);
    void (*on_end)(struct h2 *h, int32_t sid, void *ctx);                   /* the peer's side of the stream is complete */
    void (*on_close)(struct h2 *h, int32_t sid, uint32_t code, void *ctx); /* the stream is gone */
    void (*pull)(struct h2 *h, int32_t sid, uint8_t *p, size_t max, struct h2_pull *ret, void *ctx);
    /* Only where pull gives by reference: sends `head` and then n bytes of the stream behind what h2_out gave before.
     * 0, -ERR_AGAIN (ask again with the next h2_out) or -ERR_IO (the stream is reset). */
    int (*push)(struct h2 *h, int32_t sid, struct span head, size_t n, void *ctx);
    /* Optional. A ping came, which is answered without further ado. */
    void (*on_ping)(struct h2 *h, void *ctx);
};
struct h2_opts {
    bool is_server;
    uint32_t max_streams;              /* that the peer may open */
    uint32_t stream_window, conn_window; /* bytes the peer may send ahead */
    struct pool *pool;                   /* for everything the session allocates; outlives it */
};

struct h2 *h2_new(const struct h2_opts *o, const struct h2_cb *cb, void *ctx);
void h2_free(struct h2 *h);
NODISCARD int h2_feed(struct h2 *h, struct span in, const char **why);
/* Next bytes to send, valid until the next call; 0 when there are none now. */
size_t h2_out(struct h2 *h, const uint8_t **ret);
/* Either will come soon: its memory is asked for. */
void h2_prefetch(const struct h2 *h);
bool h2_is_done(const struct h2 *h); /* nothing more will come or go */

struct h2_list *h2_list_ref(struct h2_list *l);
void h2_list_unref(struct h2_list *l); /* NULL is allowed; also after h2_free, but before the pool ends */

/* Names in lower case, pseudo headers first; all is copied. With a body, pull is asked for it. */
NODISCARD int h2_request(struct h2 *h, const struct h2_header *hs, size_t n, bool has_body, int32_t *ret_sid);
NODISCARD int h2_respond(struct h2 *h, int32_t sid, const struct h2_header *hs, size_t n, bool has_body);
/* The same with texts that are constants, which are not copied. */
NODISCARD int h2_respond_constant(struct h2 *h, int32_t sid, const struct h2_header *hs, size_t n, bool has_body);
void h2_wake(struct h2 *h, int32_t sid);
void h2_reset(struct h2 *h, int32_t sid, enum h2_code code);
/* Data of the stream was used: the peer may send so much more. (The connection's own window is kept open by itself.) */
void h2_consumed(struct h2 *h, int32_t sid, size_t n);
void h2_set_ctx(struct h2 *h, int32_t sid, void *stream_ctx);
void *h2_ctx(struct h2 *h, int32_t sid);
void h2_goaway(struct h2 *h);                      /* no new streams; the open ones go on */
void h2_goaway_why(struct h2 *h, enum h2_code code, const char *why); /* the peer did something wrong */
bool h2_in_head(const struct h2 *h); /* a head has begun and has not been complete or refused */
uint32_t h2_peer_max_streams(const struct h2 *h); /* that we may open; 100 until it has said so */
void h2_ping(struct h2 *h);                         /* its answer is nobody's news: any bytes are */
bool h2_is_ready(const struct h2 *h);             /* the peer's settings have come */
bool h2_can_request(const struct h2 *h);           /* not after a GOAWAY of either side */

#endif
