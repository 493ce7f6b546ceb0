/* net — byte streams over sockets: connecting, an optional filter (TLS), a queue of output, sendfile; and listeners.
 *
 * What:     a stream tells when it is open, readable, drained or broken. Reading is up to the owner; output is queued and
 *           written before the loop sleeps, so that many small writes of one wake-up leave in one system call; a filter is
 *           given them together, too.
 * Owns:     the stream owns its fd and filter. Every callback may close its stream.
 * Limits:   none of its own on output: owners watch net_pending. A peer that takes nothing for LIM_NET_STALL_MS is dropped.
 * Errors:   UNAVAILABLE (connect, peer gone), TIMEOUT, IO, and what the filter says.
 * Threads:  the loop's.
 */
#ifndef KF_NET_H
#define KF_NET_H

#include "internal/loop/loop.h"

#include <sys/socket.h>

enum { LIM_NET_STALL_MS = 60000, LIM_NET_LINGER_MS = 2000 };

/* A filter turns the bytes of the fd into others. Every function returns -ERR_AGAIN when the fd would block and then says in
 * *ret_want (LOOP_READ, LOOP_WRITE) what for. */
struct net_filter {
    const struct net_filter_ops *ops;
};
struct net_filter_ops {
    int (*handshake)(struct net_filter *f, int fd, uint32_t *ret_want, struct err *e);
    ssize_t (*read)(struct net_filter *f, int fd, uint8_t *p, size_t n, uint32_t *ret_want, struct err *e); /* 0: end */
    /* May count bytes as written that it still holds: held() is then true and flush sends them. */
    ssize_t (*write)(struct net_filter *f, int fd, const uint8_t *p, size_t n, uint32_t *ret_want, struct err *e);
    int (*flush)(struct net_filter *f, int fd, uint32_t *ret_want, struct err *e);
    bool (*held)(const struct net_filter *f);
    bool (*readable)(const struct net_filter *f); /* has bytes that no event on the fd will announce */
    void (*bye)(struct net_filter *f, int fd);    /* says that no more will be written */
    void (*free)(struct net_filter *f);
};

/* Output queue; also used by owners that frame the bytes themselves. */
struct net_queue {
    struct pool *pool;
    struct list chunks;
    size_t bytes; /* in memory and in files */
};
/* Bytes that several queues send without copies of their own. */
struct net_blob {
    size_t refs, n;
    uint8_t *p;                          /* malloc'ed */
    void (*release)(struct net_blob *b); /* the last reference is gone; NULL: frees blob and memory */
};
struct net_blob *net_blob_new(void *own_p, size_t n); /* with one reference */
struct net_blob *net_blob_ref(struct net_blob *b);
void net_blob_unref(struct net_blob *b); /* NULL is allowed */

void net_queue_init(struct net_queue *q, struct pool *pool); /* the loop's */
void net_queue_fini(struct net_queue *q);
void net_queue_add(struct net_queue *q, struct span s);           /* copies */
void net_queue_take(struct net_queue *q, void *own_p, size_t n);  /* malloc'ed */
void net_queue_blob(struct net_queue *q, struct net_blob *b); /* takes a reference */
void net_queue_file(struct net_queue *q, int own_fd, uint64_t offset, uint64_t n);
void net_queue_move(struct net_queue *q, struct net_queue *from); /* appends all of from (of the same pool), empty after */
/* Appends the first n bytes of from, which is of the same pool; memory is passed on, only small pieces are copied. -ERR_IO and
 * nothing done when the front is a file. */
NODISCARD int net_queue_splice(struct net_queue *q, struct net_queue *from, size_t n);
/* Copies up to n bytes out of the front; 0 when empty, -ERR_IO when a file cannot be read or is too short. */
NODISCARD ssize_t net_queue_read(struct net_queue *q, uint8_t *p, size_t n);

struct net_stream;
struct net_cb {
    void (*on_open)(struct net_stream *s, void *ctx); /* connected, handshake done; never before the start returned */
    void (*on_readable)(struct net_stream *s, void *ctx);
    void (*on_drain)(struct net_stream *s, void *ctx); /* the queue has become empty */
    void (*on_fail)(struct net_stream *s, int rc, const struct err *e, void *ctx); /* last callback; close it */
};

/* All take the filter (NULL: none), also on failure. */
NODISCARD int net_stream_new(struct loop *l, int own_fd, struct net_filter *own_f, const struct net_cb *cb, void *ctx,
                             struct net_stream **ret, struct err *e);
NODISCARD int net_connect(struct loop *l, const struct sockaddr *a, socklen_t n, struct net_filter *own_f,
                          const struct net_cb *cb, void *ctx, struct net_stream **ret, struct err *e);
void net_close(struct net_stream *s); /* at once; NULL is allowed */
/* Sends what is queued, says goodbye, waits shortly for the peer's end, and frees itself. No callbacks. `home` is a list of
 * such streams: net_close_all ends them early. */
void net_finish(struct net_stream *s, struct list *home);
void net_close_all(struct list *home);
/* Other callbacks from now on. */
void net_set_cb(struct net_stream *s, const struct net_cb *cb, void *ctx);

/* > 0: bytes, 0: end of the peer's data, -ERR_AGAIN, or broken (e set; on_fail is then not called). */
NODISCARD ssize_t net_read(struct net_stream *s, uint8_t *p, size_t n, struct err *e);
void net_want_read(struct net_stream *s, bool on); /* starts on */
void net_send(struct net_stream *s, struct span data);
void net_prefetch(const struct net_stream *s); /* something of it will be used soon: its memory is asked for */
struct net_queue *net_out(struct net_stream *s); /* add to it, then net_kick */
void net_kick(struct net_stream *s);
void net_flush(struct net_stream *s); /* at once, with callbacks: not from on_drain, which would call itself */
size_t net_pending(const struct net_stream *s);
struct net_filter *net_filter_of(const struct net_stream *s);

/* Listeners and addresses. */
NODISCARD int net_listen_tcp(const char *addr, uint16_t port, int *ret_fd, struct err *e); /* addr: literal; "" or "::": any, both families */
NODISCARD int net_listen_unix(const char *path, unsigned mode, int *ret_fd, struct err *e); /* replaces a stale socket */
/* Addresses of a name by the system's resolver (hosts file and DNS), which runs on LANE_FILE; it may take its time, and
 * loop_free waits for it. `done` is called once from the loop, unless cancelled: n addresses, best first, or rc < 0. */
enum { NET_LOOKUP_ADDRS = 8 };
struct net_addr {
    struct sockaddr_storage sa;
    socklen_t n;
};
struct net_lookup;
typedef void net_lookup_done(void *ctx, int rc, const struct net_addr *v, size_t n, const struct err *e);
NODISCARD int net_lookup_start(struct loop *l, const char *host, uint16_t port, net_lookup_done *done, void *ctx,
                               struct net_lookup **ret, struct err *e);
void net_lookup_cancel(struct net_lookup *k); /* no callback; NULL is allowed; not after the callback */
/* Literal addresses, "localhost", and names of the hosts file; at once. */
NODISCARD int net_resolve(const char *host, uint16_t port, struct sockaddr_storage *ret, socklen_t *ret_n, struct err *e);
/* Keep-alive, no delay; harmless on sockets that are not TCP. */
void net_tune(int fd);

#endif
