/* Private to http: the client. Calls wait in the client until a connection takes them; everything that runs the owner's
 * callbacks happens between client_enter and client_leave, so that the owner may free the client inside one. */
#ifndef KF_HTTP_CLIENT_INT_H
#define KF_HTTP_CLIENT_INT_H

#include "internal/http/http_int.h"

enum { MS_CONNECT = 10000, DEF_CONNS = 8, LIM_CALL_ARENA = 1 << 20, LIM_HELD = 4 << 20 };

struct http_client {
    struct loop *l;
    char *host, *sni, *unix_path, *authority;
    struct tls_config *tls;
    enum http_proto proto;
    uint64_t connect_timeout_ns;
    unsigned max_conns;
    struct sockaddr_storage addr;
    socklen_t addr_n;
    struct list conns, waiting, raws, lingering;
    size_t n_conns;
    struct loop_hook hook; /* dispatch */
    uint8_t *scratch;
    unsigned depth;
    bool dead;
};

enum cconn_state { K_CONNECTING, K_H1, K_H2, K_CLOSED };

struct cconn {
    struct list link;
    struct http_client *cl;
    struct net_stream *st;
    enum cconn_state state;
    bool for_upgrade, used, keep;
    struct loop_timer timer; /* connecting, idle */
    struct loop_hook hook;
    struct http1 *h1;
    struct http_call *cur;
    struct h2 *h2;
    struct list calls; /* HTTP/2 */
    size_t n_calls;
};

struct http_call {
    struct list link;
    struct http_client *cl;
    struct cconn *conn; /* NULL: waiting */
    struct arena arena;
    const char *method, *target;
    struct http_header *headers;
    size_t n_headers;
    struct span body;
    struct http_call_opts o; /* callbacks and flags */
    void *own_body; /* freed with the call */
    struct loop_timer timer;
    /* request body */
    struct net_queue out;
    bool fin, chunked;
    int32_t sid;
    /* answer */
    unsigned status;
    struct http_header *rh, *rt;
    size_t n_rh, n_rt;
    bool got_head, paused, resumed, answer_done, retried, told, gone;
    struct buf held;
    unsigned depth;
    /* upgrade */
    bool upgrade;
    struct http_raw_cb raw_cb;
    http_upgraded_cb *upgraded;
};

void client_enter(struct http_client *cl);
void client_leave(struct http_client *cl);
void client_dispatch_later(struct http_client *cl);

/* The connection is over. Its calls are tried again elsewhere when that is safe, or end with rc. */
void cconn_end(struct cconn *k, int rc, const struct err *e, bool politely);
void cconn_later(struct cconn *k);
void cconn_idle(struct cconn *k);

/* The call is taken off its connection and told; freed when nobody uses it any more. */
void call_end(struct http_call *c, int rc, const struct err *e);
void call_release(struct http_call *c); /* frees unless in use */
bool call_retry(struct http_call *c, bool refused); /* true: it waits again */
NODISCARD int call_head(struct http_call *c, unsigned status); /* tells the owner */
NODISCARD int call_data(struct http_call *c, struct span data);
void call_answer_end(struct http_call *c);
void call_deliver_held(struct http_call *c);

void c1_open(struct cconn *k);
void c1_start(struct cconn *k, struct http_call *c);
void c1_readable(struct cconn *k, struct span data);
void c1_eof(struct cconn *k);
void c1_write(struct http_call *c, struct span data, bool fin);
void c1_pause(struct http_call *c);

void c2_open(struct cconn *k);
bool c2_start(struct cconn *k, struct http_call *c); /* false: no further stream here */
void c2_readable(struct cconn *k, struct span data);
void c2_pump(struct cconn *k);
void c2_wake(struct http_call *c);
void c2_cancel(struct cconn *k, int32_t sid);
void c2_consumed(struct http_call *c, size_t n);
bool c2_has_room(const struct cconn *k);

#endif
