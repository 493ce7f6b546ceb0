/* load — the least HTTP/2 and gRPC that a load generator needs: many connections, many calls, one thread.
 *
 * What:     frames are made and taken apart by hand, header blocks by nghttp2's HPACK; what is sent in one wake-up leaves
 *           each connection in one system call. Any surprise ends the program: a benchmark that goes on is a wrong one.
 * Limits:   LIM_LOAD_MESSAGE bytes a message; requests must fit into a stream's first window (64 KiB) in total.
 * Threads:  one.
 * Spec:     RFC 9113, RFC 7541, gRPC over HTTP/2.
 */
#ifndef KF_BENCH_LOAD_H
#define KF_BENCH_LOAD_H

#include "internal/base/buf.h"

enum { LIM_LOAD_MESSAGE = 64 << 20 };

struct link; /* one connection */
struct call { /* embedded in its owner, who keeps it until on_end */
    struct link *k;
    uint32_t sid;
    uint32_t unread; /* flow-control credit that is owed */
    int status;      /* grpc-status; -1 before the trailers */
    struct buf in;   /* a message in pieces */
    void (*on_message)(struct call *c, struct span message);
    void (*on_end)(struct call *c); /* NULL: the call must not end */
    void *ctx;
};

/* HOST:PORT (IPv4) or unix:PATH. */
struct link *load_link(const char *address);
/* `more`: the stream stays open for load_send. */
void load_call(struct link *k, struct call *c, const char *path, struct span message, bool more);
void load_send(struct call *c, struct span message);
/* Sends what waits, waits for answers (at most until the monotonic time given), hands them out. */
void load_step(uint64_t until_ns);
_Noreturn void load_die(const char *fmt, ...) PRINTF(1, 2);

#endif
