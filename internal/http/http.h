/* http — HTTP/1.1 and HTTP/2 server and client on the loop, plain, over TLS, over unix sockets.
 *
 * What:     one request/response interface for both versions (ALPN chooses; h2c by prior knowledge on request),
 *           streaming both ways with back-pressure, upgrades, and a client with connection reuse.
 * Owns:     see each object. Spans in a request live until its end callback; spans given to send functions are copied
 *           unless the function says otherwise.
 * Limits:   header list 64 KiB, 100 streams a connection (server; http_server_opts.max_streams), body as given,
 *           idle connection 90 s (server: keep_idle), request head 15 s, 10,000 connections a server; CONTINUATION and reset floods end the
 *           connection (nghttp2's guards).
 * Errors:   INVALID, LIMIT, UNAVAILABLE (connect), UNAUTHENTICATED (TLS), TIMEOUT, CANCELLED, IO.
 * Threads:  the loop's. Nothing here blocks, except http_fetch which runs a loop of its own.
 * Spec:     RFC 9110, 9112, 9113, 7541.
 */
#ifndef KF_HTTP_H
#define KF_HTTP_H

#include "internal/loop/loop.h"
#include "internal/tls/tls.h"

#include <sys/socket.h>

/* ---------------------------------------------------------------- server */

struct http_server;
struct http_req;
struct net_blob;

struct http_header {
    struct span name, value; /* names in lower case */
};

struct http_handler {
    /* The head is complete. The handler must answer now or later; it may set callbacks below before returning. */
    void (*on_request)(struct http_req *r, void *ctx);
    void *ctx;
};

struct http_server_opts {
    struct http_handler handler;
    struct tls_config *tls; /* borrowed reference is taken; NULL: plain */
    size_t body_max;        /* of requests that are buffered (http_req_read_body) and of streamed ones; 0: 3 MiB */
    unsigned max_streams;   /* per h2 connection; 0: 250 */
    bool h2c;               /* plain listeners also accept HTTP/2 by prior knowledge */
    bool keep_idle;         /* idle HTTP/2 connections stay until others need their place */
    struct http_keepalive {
        uint64_t interval_ns, timeout_ns; /* an HTTP/2 client that is silent is pinged, and given up; interval 0: never */
        uint64_t min_ns; /* one that pings more often, or while it has no request, is told to calm down; 0: it may */
    } keepalive;
    const char *name;       /* for logs */
};
NODISCARD int http_server_new(struct loop *l, const struct http_server_opts *o, struct http_server **ret, struct err *e);
/* Takes the listening socket (TCP or unix); may be called several times. */
NODISCARD int http_server_listen(struct http_server *s, int own_fd, struct err *e);
/* Takes an accepted connection (passed in by another process). */
NODISCARD int http_server_accept_fd(struct http_server *s, int own_fd, struct err *e);
/* Stops accepting, sends GOAWAY, ends when all requests ended or after grace; then done(ctx). */
void http_server_shutdown(struct http_server *s, uint64_t grace_ns, void (*done)(void *ctx), void *ctx);
void http_server_free(struct http_server *s); /* at once; open requests get on_close */
size_t http_server_conns(const struct http_server *s);

/* Request, valid until on_close has been called. */
struct span http_req_method(const struct http_req *r);
struct span http_req_path(const struct http_req *r);   /* raw, without query */
struct span http_req_query(const struct http_req *r);  /* raw, without '?' */
struct span http_req_header(const struct http_req *r, const char *lower_name); /* first value or empty (.p NULL) */
/* i-th header; false past the end. For repeated headers. */
bool http_req_header_at(const struct http_req *r, size_t i, struct http_header *ret);
const struct tls_peer *http_req_peer(const struct http_req *r); /* NULL on plain connections */
const struct sockaddr_storage *http_req_addr(const struct http_req *r);
int http_req_version(const struct http_req *r); /* 1 or 2 */
/* The texts above are not needed any more, and end: a request that waits long should not hold them. */
void http_req_drop_head(struct http_req *r);
struct arena *http_req_arena(struct http_req *r); /* dies with the request; max 64 MiB */
struct loop *http_req_loop(struct http_req *r);

/* Exactly one of the two body modes, chosen inside on_request; without either the body is discarded.
 * Buffered: cb gets the whole body, or rc < 0 (-ERR_LIMIT: 413 is the caller's to send, -ERR_CANCELLED: peer gone). */
void http_req_read_body(struct http_req *r, size_t max,
                        void (*cb)(struct http_req *r, int rc, struct span body, void *ctx), void *ctx);
/* Streamed: data as it comes; end with n == 0 and fin. http_req_pause/resume give back-pressure. */
void http_req_stream_body(struct http_req *r, void (*cb)(struct http_req *r, struct span data, bool fin, void *ctx),
                          void *ctx);
void http_req_pause(struct http_req *r, bool paused);
/* Called exactly once when the request is over, however it ended (complete: the answer was fully sent). Release here. */
void http_req_on_close(struct http_req *r, void (*cb)(struct http_req *r, bool complete, void *ctx), void *ctx);

/* Answer in one go. headers: n pairs beyond content-type/content-length; names lower case. content_type may be NULL. */
void http_respond(struct http_req *r, unsigned status, const char *content_type, const struct http_header *h, size_t n,
                  struct span body);
/* Answer in one go without copying: `own_body` must be malloc'ed memory; it is freed when sent. */
void http_respond_take(struct http_req *r, unsigned status, const char *content_type, const struct http_header *h,
                       size_t n, void *own_body, size_t len);
/* A file range sent by the server (sendfile on plain HTTP/1). Takes the fd. */
void http_respond_file(struct http_req *r, unsigned status, const char *content_type, const struct http_header *h,
                       size_t n, int own_fd, uint64_t offset, uint64_t len);
/* Streamed answer: begin, write…, end. Data is copied and queued; http_pending tells how much is unsent;
 * on_drain is called when it has fallen to zero. trailers only with HTTP/2 (gRPC). */
void http_begin(struct http_req *r, unsigned status, const char *content_type, const struct http_header *h, size_t n);
void http_write(struct http_req *r, struct span data);
void http_write_blob(struct http_req *r, struct net_blob *b); /* of net.h; takes a reference */
void http_write_take(struct http_req *r, void *own_p, size_t n); /* malloc'ed memory; not copied */
void http_end(struct http_req *r);
void http_end_trailers(struct http_req *r, const struct http_header *h, size_t n);
/* The same with headers that are constants, the first of them ":status"; with HTTP/2 nothing is added to them. */
void http_begin_constant(struct http_req *r, const struct http_header *h, size_t n);
void http_end_constant(struct http_req *r, const struct http_header *h, size_t n);
void http_abort(struct http_req *r); /* RST_STREAM / close */
/* These are about to be answered: the memory that takes is asked for, all of it at once. */
void http_prefetch(struct http_req *const *rs, size_t n);
size_t http_pending(const struct http_req *r);
size_t http_backlog(const struct http_req *r); /* connections of its server that have something to do before the loop sleeps */
void http_on_drain(struct http_req *r, void (*cb)(struct http_req *r, void *ctx), void *ctx);

/* HTTP/1.1 Upgrade (101): afterwards bytes pass both ways as a raw stream. */
struct http_raw;
struct http_raw_cb {
    void (*on_data)(struct http_raw *w, struct span data, void *ctx);
    void (*on_close)(struct http_raw *w, void *ctx); /* exactly once; w is dead after */
    void (*on_drain)(struct http_raw *w, void *ctx);
    void *ctx;
};
NODISCARD int http_upgrade(struct http_req *r, const struct http_header *h, size_t n, const struct http_raw_cb *cb,
                           struct http_raw **ret, struct err *e);
void http_raw_write(struct http_raw *w, struct span data);
size_t http_raw_pending(const struct http_raw *w);
void http_raw_pause(struct http_raw *w, bool paused);
void http_raw_close(struct http_raw *w); /* on_close is not called */

/* Query helpers: first value of key, decoded into the request's arena; NULL when absent. */
const char *http_query_get(struct http_req *r, const char *key);
bool http_query_next(struct http_req *r, struct span *cursor, const char **ret_key, const char **ret_value);

/* ---------------------------------------------------------------- client */

struct http_client;
struct http_call;

enum http_proto { HTTP_AUTO /* ALPN h2, else 1.1 */, HTTP_1_ONLY, HTTP_2_PRIOR /* h2c, for CRI and gRPC */ };

struct http_client_opts {
    const char *host;       /* name or literal address; also SNI and Host */
    uint16_t port;
    const char *unix_path;  /* instead of host:port; host then only names the authority ("localhost" when NULL) */
    const char *sni;        /* NULL: host */
    struct tls_config *tls; /* NULL: plain */
    enum http_proto proto;
    uint64_t connect_timeout_ns; /* 0: 10 s */
    unsigned max_conns;     /* HTTP/1.1 connections; 0: 8 */
};
/* Names are resolved from literal addresses and the hosts file only ("localhost" included): no resolver in the binary. */
NODISCARD int http_client_new(struct loop *l, const struct http_client_opts *o, struct http_client **ret, struct err *e);
void http_client_free(struct http_client *c); /* open calls end with -ERR_CANCELLED */

struct http_call_opts {
    const char *method, *target; /* target: raw path?query */
    const struct http_header *headers;
    size_t n_headers;
    struct span body;            /* copied; with `stream_body` more follows by http_call_write */
    bool stream_body;
    uint64_t timeout_ns;         /* to the end of the answer; 0: none */
    /* All optional. on_end is called exactly once, never before http_call_start returned: rc 0 (complete) or negative. */
    void (*on_head)(struct http_call *c, unsigned status, void *ctx);
    void (*on_data)(struct http_call *c, struct span data, void *ctx);
    void (*on_end)(struct http_call *c, int rc, const struct err *e, void *ctx);
    void *ctx;
};
NODISCARD int http_call_start(struct http_client *c, const struct http_call_opts *o, struct http_call **ret, struct err *e);
void http_call_cancel(struct http_call *c); /* no callback follows; the call is gone */
unsigned http_call_status(const struct http_call *c);
struct span http_call_header(const struct http_call *c, const char *lower_name);
struct span http_call_trailer(const struct http_call *c, const char *lower_name);
void http_call_write(struct http_call *c, struct span data, bool fin); /* with stream_body */
void http_call_pause(struct http_call *c, bool paused);

/* Client-side upgrade (exec, port-forward proxies): 101 or failure; a non-101 answer gives rc -ERR_INVALID with status.
 * Of the options' callbacks only on_head is used: it sees the headers of the answer before done. */
typedef void http_upgraded_cb(void *ctx, int rc, unsigned status, struct http_raw *raw, const struct err *e);
NODISCARD int http_call_upgrade(struct http_client *c, const struct http_call_opts *o, const struct http_raw_cb *cb,
                                http_upgraded_cb *done, void *ctx, struct err *e);

/* Blocking convenience for commands: runs a private loop. *ret_body is appended to. */
NODISCARD int http_fetch(const struct http_client_opts *co, const struct http_call_opts *o, unsigned *ret_status,
                         struct buf *ret_body, struct err *e);

#endif
