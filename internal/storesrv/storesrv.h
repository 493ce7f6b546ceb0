/* storesrv — the gRPC face of the store: etcd v3's services for any etcd client.
 *
 * What:     KV, Watch, Lease, Maintenance, Cluster, Auth, Lock and Election over gRPC; /health, /version, /metrics.
 * Owns:     its streams. The store, the loop and the HTTP server are borrowed and must outlive it.
 * Limits:   the store's; request messages of max_request_bytes + 512 KiB; a stream that does not read is paused, not
 *           buffered.
 * Errors:   gRPC status with etcd's texts.
 * Threads:  the loop's.
 * Spec:     etcd v3 API (etcdserverpb, v3lockpb, v3electionpb), gRPC over HTTP/2.
 */
#ifndef KF_STORESRV_H
#define KF_STORESRV_H

#include "internal/http/http.h"
#include "internal/store/store_engine.h"

struct storesrv;

struct storesrv_opts {
    const char *name; /* member name */
    const char *const *client_urls, *const *peer_urls;
    size_t n_client_urls, n_peer_urls;
    uint64_t cluster_id, member_id; /* 0: made once and kept in the store */
    uint32_t max_request_bytes;     /* 0: 1.5 MiB */
    uint32_t max_txn_ops;
    uint64_t progress_ns; /* interval of watch progress notifications; 0: 10 minutes */
    enum {
        STORESRV_COMPACT_OFF,
        STORESRV_COMPACT_PERIODIC,
        STORESRV_COMPACT_REVISION
    } auto_compact;
    uint64_t compact_retention; /* ns or revisions */
    bool no_gateway;            /* JSON calls are not served */
    unsigned bcrypt_cost;       /* 0: 10 */
    uint64_t token_ttl_ns;      /* after the last use; 0: 5 minutes */
};

NODISCARD int storesrv_new(struct loop *l, struct store *s, const struct storesrv_opts *o,
                           struct storesrv **ret, struct err *e);
/* After the HTTP servers and the store; waits for passwords that are being hashed. */
void storesrv_free(struct storesrv *v);
/* For http_server_opts.handler; the same for every listener that serves everything. */
struct http_handler storesrv_handler(struct storesrv *v);
/* For listeners that serve the keys with this prefix as if they were a store of its own: they get the prefix on the way
 * in and lose it on the way out, leases belong to the namespace, and what concerns the whole store (compaction, alarms,
 * snapshots, hashes, users, members) is refused with PERMISSION_DENIED. Revisions are those of the whole store. USAGE:
 * the prefix is empty, too long, or overlaps with another one. */
NODISCARD int storesrv_namespace_handler(struct storesrv *v, struct span prefix,
                                         struct http_handler *ret, struct err *e);
/* The JSON gateway, health, version and metrics, without gRPC, for --listen-client-http-urls. */
struct http_handler storesrv_http_handler(struct storesrv *v);
/* Ends every stream with UNAVAILABLE: the server is about to stop. Calls on their way are still answered. */
void storesrv_stop(struct storesrv *v);
/* Only health, version and metrics, for --listen-metrics-urls. */
struct http_handler storesrv_metrics_handler(struct storesrv *v);

#endif
