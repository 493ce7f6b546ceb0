/* Private to http: the server's connections and requests, raw streams, and the client's. */
#ifndef KF_HTTP_INT_H
#define KF_HTTP_INT_H

#include "internal/base/rand.h"
#include "internal/h2/h2.h"
#include "internal/http/http.h"
#include "internal/http1/http1.h"
#include "internal/net/net.h"

enum {
    SCRATCH = 64 * 1024,        /* one read; shared by all connections of a server or client */
    LIM_PIPELINE = 64 * 1024,   /* bytes of further requests that are read ahead */
    LIM_CONNS = 10000,
    LIM_REQ_ARENA = 64 << 20,
    LIM_H2_OUT = 256 * 1024,    /* frames that wait for the socket before more are made */
    MS_IDLE = 90000,
    MS_HEAD = 15000,
    MS_BODY = 60000,
    LIM_PING_STRIKES = 2, /* as gRPC's servers have it */
    S_PING_ALONE = 7200,  /* between pings of a client without requests */
};

/* ---- server ---- */

struct http_server {
    struct loop *l;
    struct http_server_opts o;
    char *name;
    struct list listeners, conns, raws, lingering;
    struct list due; /* connections that have something to do before the loop sleeps */
    size_t n_conns, n_due;
    struct loop_hook hook; /* for those */
    bool full; /* listeners are off */
    struct loop_timer retry;
    uint8_t *scratch;
    uint64_t date_s;
    char date[40];
    /* shutdown */
    bool closing;
    struct loop_timer grace;
    struct loop_hook done_hook;
    void (*done)(void *ctx);
    void *done_ctx;
};

enum hconn_state { C_OPENING, C_SNIFF, C_H1, C_H2, C_CLOSED };

struct hconn {
    struct list link;
    struct http_server *s;
    struct net_stream *st;
    const struct tls_peer *peer;
    struct sockaddr_storage addr;
    enum hconn_state state;
    struct loop_timer timer;
    uint64_t deadline;
    struct list due; /* what must not happen inside a caller's call is; empty: nothing */
    bool eof, broken;
    /* HTTP/1 */
    struct http1 *h1;
    struct buf in; /* bytes behind the current request */
    struct http_req *cur;
    bool close_after, aborted;
    bool in_head; /* a head has begun: its time does not start again with every byte */
    /* HTTP/2 */
    struct h2 *h2;
    struct list reqs; /* all open requests, of both versions */
    bool draining;    /* drain callbacks are due */
    bool resuming;    /* bodies that were held may go on */
    bool held_up;     /* frames wait for the socket */
    bool feeding;     /* bytes are being looked at: what that makes is sent behind them */
    struct loop_timer alive;           /* for http_keepalive */
    uint64_t heard_ns, pinged_ns;      /* something came; the client's last ping, 0: none */
    uint8_t strikes;                   /* its pings that came too early */
    bool ping_out, answered, too_many; /* ours has no answer; we sent something since its last; it was too much */
};

enum body_mode { BODY_DISCARD, BODY_BUFFER, BODY_STREAM };

struct http_req {
    struct list link;
    struct hconn *c;
    struct arena arena;
    struct span method, target, path, query;
    const struct http_header *headers;
    size_t n_headers;
    struct span authority;  /* HTTP/2: stands for a "host" that is not among the headers */
    struct h2_list *list;   /* HTTP/2: holds the texts above */
    /* the request's body */
    enum body_mode mode;
    struct buf in; /* BUFFER: the body; STREAM: what came while paused */
    size_t body_max, body_seen;
    union {
        void (*whole)(struct http_req *r, int rc, struct span body, void *ctx);
        void (*part)(struct http_req *r, struct span data, bool fin, void *ctx);
    } body_cb;
    void *body_ctx;
    bool body_done, body_told, paused, expects, too_large;
    /* the answer */
    bool begun, ended, is_head, chunked, no_body, upgraded;
    struct http_raw *raw; /* upgraded: valid until the loop sleeps */
    void (*drain_cb)(struct http_req *r, void *ctx);
    void *drain_ctx;
    bool wants_drain, has_file;
    void (*close_cb)(struct http_req *r, bool complete, void *ctx);
    void *close_ctx;
    /* HTTP/2 */
    int32_t sid;
    struct net_queue out;
    size_t unread; /* flow-control credit that a paused body owes */
    const struct http_header *trailers;
    size_t n_trailers;
    bool trailers_constant;
    bool stalled; /* h2 waits for data */
};

/* http_server.c */
void hconn_deadline(struct hconn *c, unsigned ms); /* 0: none */
void hconn_later(struct hconn *c);
/* The connection is over: requests end incomplete; the stream is finished politely or cut. */
void hconn_end(struct hconn *c, bool politely);
void hconn_release(struct hconn *c); /* the stream went elsewhere */
void http_server_check_done(struct http_server *s);
const char *http_server_date(struct http_server *s);

/* http_req.c */
struct http_req *req_new(struct hconn *c);
void req_set_target(struct http_req *r, struct span target);
void req_close(struct http_req *r, bool complete);
void req_body(struct http_req *r, struct span data);
void req_body_end(struct http_req *r);
void req_resume(struct http_req *r); /* gives a streaming body what was kept back, unless paused */
/* Answers a request that no handler saw. */
void req_refuse(struct http_req *r, unsigned status, const char *why);

/* http_h1s.c: HTTP/1 connections */
void h1s_open(struct hconn *c);
void h1s_readable(struct hconn *c, struct span data);
void h1s_eof(struct hconn *c);
void h1s_drained(struct hconn *c);
void h1s_hook(struct hconn *c);
void h1s_head(struct http_req *r, unsigned status, const char *type, const struct http_header *h, size_t n, int64_t len);
void h1s_data(struct http_req *r, struct span data);
void h1s_blob(struct http_req *r, struct net_blob *b);
void h1s_take(struct http_req *r, void *own_p, size_t n);
void h1s_file(struct http_req *r, int own_fd, uint64_t offset, uint64_t n);
void h1s_end(struct http_req *r);
void h1s_pause(struct http_req *r);
void h1s_continue(struct http_req *r);

/* http_h2s.c: HTTP/2 connections */
void h2s_open(struct hconn *c);
void h2s_readable(struct hconn *c, struct span data);
void h2s_pump(struct hconn *c);
void h2s_hook(struct hconn *c);
void h2s_shutdown(struct hconn *c);
bool h2s_rest(struct hconn *c); /* nothing came for long: may it stay? */
void h2s_head(struct http_req *r, unsigned status, const char *type, const struct http_header *h, size_t n, int64_t len,
              bool end);
void h2s_head_constant(struct http_req *r, const struct http_header *h, size_t n);
void h2s_wake(struct http_req *r); /* there is more in r->out, or its end */
void h2s_abort(struct http_req *r);
void h2s_consumed(struct http_req *r, size_t n);

/* http_raw.c */
struct http_raw *raw_new(struct net_stream *own_st, struct list *owner, struct list *lingering, struct loop *l,
                         struct span early, const struct http_raw_cb *cb);
void raw_early(struct http_raw *w, struct span data); /* more that came before the stream changed hands */
void raw_kill_all(struct list *owner); /* on_close for each */

#endif
