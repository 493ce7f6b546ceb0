/* etcd — store.h on an etcd v3 cluster (3.4 to 3.6, or `kfarm store`) somewhere else.
 *
 * What:     one HTTP/2 connection to one endpoint at a time, the next one when it fails; every key behind a prefix, which
 *           the callers never see. One etcd watch of the whole prefix feeds all watches of the store.
 * Owns:     its connection and what waits for it. The TLS configuration is referenced.
 * Limits:   LIM_ETCD_*. Answers of up to LIM_GRPC_MESSAGE bytes: larger ranges are LIMIT, so read by store_scan.
 * Errors:   those of store.h with etcd's texts. UNAVAILABLE: nothing was sent. A write whose answer did not come is TIMEOUT
 *           or INTERNAL ("etcdserver: request timed out, possibly due to connection lost"): it may have been done, and is
 *           never sent twice. Reads are repeated, elsewhere too, until their time is over.
 * Threads:  the loop's thread; names are resolved on LANE_FILE.
 * Time:     the loop's clock.
 * Spec:     etcd v3 API (etcdserverpb), gRPC over HTTP/2, keys as etcd's client/v3/namespace lays them out.
 *
 * Made for few watches: one that wants the past, or was paused, makes the feed go back for all; each gets every event once.
 * Others may write behind the same prefix: the watches bring it, and store_sync waits until they have.
 */
#ifndef KF_ETCD_H
#define KF_ETCD_H

#include "internal/store/store.h"

enum {
    LIM_ETCD_ENDPOINTS = 16,
    LIM_ETCD_PREFIX = 512,
    LIM_ETCD_CALLS = 200,         /* under way at once; the rest wait */
    LIM_ETCD_WAITING = 1 << 16,   /* more than that is refused: UNAVAILABLE */
    LIM_ETCD_REQUEST = 8 << 20,   /* bytes of one request; etcd itself takes 1.5 MiB unless told otherwise */
    ETCD_REQUEST_MS = 10000,      /* of a request, with all repetitions; etcd gives up at 7 s */
    ETCD_DIAL_MS = 5000,          /* to a connection that has answered a linearizable read */
    ETCD_BACKOFF_MS = 100,        /* after all endpoints failed: doubled each round, */
    ETCD_BACKOFF_MAX_MS = 5000,   /* up to this, with jitter */
    ETCD_PING_IDLE_MS = 30000,    /* silence after which a PING is sent: while only watching, */
    ETCD_PING_BUSY_MS = 6000,     /* while an answer is waited for (etcd refuses more than one in 5 s) */
    ETCD_PONG_MS = 5000,
};

struct tls_config;
struct etcd_opts {
    const char *const *endpoints; /* "https://etcd.example:2379", "http://127.0.0.1:2379", "unix:///run/etcd.sock" */
    size_t n_endpoints;
    const char *prefix;     /* before every key; "" or NULL: none */
    bool rooted;            /* keys begin with "/": with "/a", what is in "/ab/…" is no key of ours. Slashes at the prefix's
                             * end are ignored. */
    struct tls_config *tls; /* for https: trust, and the client's certificate */
    bool alone;             /* nobody else writes behind the prefix: the store is not shared (store.h) */
    bool plain;             /* http to other machines is allowed */
    /* Called when the cluster is lost (why, and again when the reason changes) and found (NULL). */
    void (*on_state)(void *ctx, const char *trouble);
    void *ctx;
};

/* Returns at once: INVALID (endpoints, no TLS configuration, http to another machine). A name is resolved whenever it is
 * dialed, its addresses are tried one after the other, and the server's certificate must name it. Requests wait for the first connection as long as they may. */
NODISCARD int etcd_open(struct loop *l, const struct etcd_opts *o, struct store **ret,
                        struct err *e);

#endif
