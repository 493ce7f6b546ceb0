/* Private to storesrv: calls, and the messages' codec. */
#ifndef KF_STORESRV_INT_H
#define KF_STORESRV_INT_H

#include "internal/base/map.h"
#include "internal/grpc/grpc.h"
#include "internal/storesrv/srv_compact.h"
#include "internal/wire/wire.h"

struct rpc;
struct route;
struct wstream;
struct auth;
struct auth_change;
struct srv_ns;
struct cuts;

enum { GRPC_CODES = 17, LIM_METHODS = 64 };
enum {
    LIM_STREAM_PENDING = 1 << 20, /* and for each watch of the stream LIM_WATCH_PENDING more */
    LIM_WATCH_PENDING = 64 << 10,
    LIM_STREAM_PENDING_ALL = 8 << 20,
    LIM_MESSAGE_EXTRA = 512 * 1024,
    LIM_CALLS = 65536,  /* open ones of all clients, streams included */
    LIM_WATCHES = 1000000, /* of all streams */
    LIM_SHARED = 16,       /* encoded events that are kept, and their bytes */
    LIM_SHARED_BYTES = 4 << 20,
};
enum { RAFT_TERM = 2 };
#define ETCD_VERSION "3.5.16" /* the etcd whose API and texts these are */

struct face { /* what a listener serves; ctx of its handler */
    struct list link;
    struct storesrv *v;
    struct srv_ns *ns; /* NULL: everything */
};

/* Events that were encoded for one watch and go to others as they are: those of a commit until the loop sleeps, those
 * for watches that lag until they have not been asked for in a while. */
struct shared {
    uint64_t share; /* of the store's message; 0: none */
    struct srv_ns *ns;
    bool prev_kv, late;
    uint64_t used; /* the larger the later */
    struct net_blob *events;
};

struct storesrv {
    struct loop *l;
    struct store *st;
    struct storesrv_opts o;
    char *name;
    char **client_urls, **peer_urls;
    uint64_t cluster_id, member_id;
    struct list rpcs, committed; /* calls; those of them whose answer is due, oldest first */
    struct loop_hook committed_hook;
    size_t n_rpcs, n_streams;
    struct buf spare; /* of rpc_buf, while no answer is being made */
    struct chunks *chunks;   /* for the answers of ranges */
    struct list answers;     /* those being made on the read lane */
    struct shared shared[LIM_SHARED];
    uint64_t shared_used, shared_seen;
    struct loop_hook shared_hook;
    struct loop_timer shared_timer;
    struct auth *auth;
    struct auth_change *change; /* of it, under way or forgotten */
    struct list changes;        /* that wait */
    struct face face;  /* of listeners without a namespace */
    struct list faces; /* the others */
    struct list namespaces, grants; /* of struct srv_ns; of leases in namespaces, on their way */
    struct map owners; /* store's lease id, 8 bytes big endian → struct srv_ns */
    struct loop_timer compact_timer;
    struct compactor compactor;
    uint64_t n_slow, n_healthy, n_unhealthy, started_wall_ns;
    struct {
        uint64_t started, ended[GRPC_CODES];
    } calls[LIM_METHODS]; /* by srv_method_at */
};

struct method {
    struct span path;
    /* Unary: called with the one message. Stream: called with each message. */
    void (*call)(struct rpc *c, struct span msg);
    void (*start)(struct rpc *c); /* streams; may be NULL */
    void (*end)(struct rpc *c);   /* the client closed its side; streams only */
    bool stream;
};

struct rpc {
    struct list link;
    struct storesrv *v;
    struct srv_ns *ns;  /* NULL: everything */
    struct http_req *r; /* NULL: the client is gone */
    const struct method *m;
    struct grpc_reader in;
    unsigned refs;
    bool called, head_sent, finished, fin, ending;
    unsigned owed; /* answers that come later; the stream ends behind them */
    const struct route *route;    /* of a JSON call; NULL: gRPC */
    struct list committed;
    struct store_txn *txn;        /* when on that list */
    void *state;                  /* of the method */
    void (*drop)(struct rpc *c);  /* the client is gone or the call is finished: release state */
    void (*drain)(struct rpc *c); /* what was queued has been sent */
    struct arena a;
};

/* ---- srv_rpc.c ---- */
struct rpc *rpc_ref(struct rpc *c);
void rpc_unref(struct rpc *c);
bool rpc_open(const struct rpc *c); /* an answer can still be sent */
struct buf
rpc_buf(struct rpc *c); /* starts a frame: append the message, then rpc_send or rpc_reply */
void rpc_send(struct rpc *c, struct buf *own_b);  /* one message of a stream */
/* One message: own_b, then n blobs. */
void rpc_send_blobs(struct rpc *c, struct buf *own_b, struct net_blob *const *rest, size_t n);
void rpc_drop(struct rpc *c, struct buf *own_b); /* made, but not wanted */
void rpc_reply(struct rpc *c, struct buf *own_b); /* the one message and status OK */
/* The same with the values of the cuts, which are in own_t. */
void rpc_reply_cuts(struct rpc *c, struct buf *own_b, const struct cuts *cuts,
                    struct store_txn *own_t);
void rpc_fail(struct rpc *c, const struct err *e);
void rpc_status(struct rpc *c, unsigned status, const char *text);
void rpc_end(struct rpc *c); /* status OK */
size_t rpc_pending(const struct rpc *c);
void srv_on_grpc(const struct face *f, struct http_req *r);
struct rpc *rpc_new(const struct face *f, struct http_req *r, const struct method *m);
const struct method *srv_method(struct span path);
const struct method *srv_method_at(size_t i); /* NULL: behind the last */

/* ---- srv_answer.c: the answers of ranges ---- */
struct chunks *chunks_new(struct loop *l);
void chunks_free(struct chunks *own_p); /* those that are still being sent may come back later */
/* Reads q and replies. The caller has checked that c may. */
void answer_range(struct rpc *c, const struct store_range_req *q);

/* ---- srv_codec.c ---- */
void enc_header(struct buf *b, uint32_t no, const struct storesrv *v, int64_t rev);
void enc_kv(struct buf *b, uint8_t no, const struct store_kv *kv);
size_t enc_kv_len(const struct store_kv *kv);
uint8_t *enc_kv_to(uint8_t *p, uint8_t no, const struct store_kv *kv); /* so many bytes; gives their end */
/* The same in three pieces, for places that are too small: the value is the second, its lease the third. */
void enc_kv_front(struct buf *b, uint8_t no, const struct store_kv *kv);
NODISCARD int dec_range(struct span m, struct store_range_req *q, bool *ret_serializable,
                        struct err *e);
NODISCARD int dec_put(struct span m, struct store_put *p, struct err *e);
NODISCARD int dec_delete(struct span m, struct store_del *d, struct err *e);
NODISCARD int dec_txn(struct span m, struct store_txn *t, struct store_body *b, unsigned depth,
                      struct err *e);
void enc_range_end(struct buf *b, const struct store_range_res *r); /* behind the keys */
/* Large values are not copied into the message: they belong where the cuts say. */
struct cut {
    size_t at; /* in the buffer; ascending */
    struct span value;
};
struct cuts {
    struct cut *v;
    size_t n, cap, bytes; /* bytes: of all of them */
};
void cuts_fini(struct cuts *c);
void enc_put(struct buf *b, const struct storesrv *v, const struct store_op *op, int64_t rev,
             bool inner, struct cuts *c);
void enc_delete(struct buf *b, const struct storesrv *v, const struct store_op *op, int64_t rev,
                bool inner, struct cuts *c);
void enc_txn(struct buf *b, const struct storesrv *v, const struct store_body *body, int64_t rev,
             bool inner, struct cuts *c);
int dec_bad(struct err *e);

/* ---- methods ---- */
void kv_range(struct rpc *c, struct span m);
void kv_range_stream(struct rpc *c, struct span m);
void kv_put(struct rpc *c, struct span m);
void kv_delete(struct rpc *c, struct span m);
void kv_txn(struct rpc *c, struct span m);
void kv_compact(struct rpc *c, struct span m);
void watch_start(struct rpc *c);
void watch_message(struct rpc *c, struct span m);
void watch_end(struct rpc *c);
void watch_forget_shared(struct storesrv *v);
void lease_grant(struct rpc *c, struct span m);
void lease_revoke(struct rpc *c, struct span m);
void lease_keepalive(struct rpc *c, struct span m);
void lease_ttl(struct rpc *c, struct span m);
void lease_list(struct rpc *c, struct span m);
void stream_end(struct rpc *c);
void maint_alarm(struct rpc *c, struct span m);
void maint_status(struct rpc *c, struct span m);
void maint_defrag(struct rpc *c, struct span m);
void maint_hash(struct rpc *c, struct span m);
void maint_hashkv(struct rpc *c, struct span m);
void maint_snapshot(struct rpc *c, struct span m);
void maint_move_leader(struct rpc *c, struct span m);
void maint_downgrade(struct rpc *c, struct span m);
void cluster_list(struct rpc *c, struct span m);
void cluster_refuse(struct rpc *c, struct span m);

void auth_enable(struct rpc *c, struct span m);
void auth_disable(struct rpc *c, struct span m);
void auth_status(struct rpc *c, struct span m);
void auth_authenticate(struct rpc *c, struct span m);
void auth_user_add(struct rpc *c, struct span m);
void auth_user_get(struct rpc *c, struct span m);
void auth_user_list(struct rpc *c, struct span m);
void auth_user_delete(struct rpc *c, struct span m);
void auth_user_password(struct rpc *c, struct span m);
void auth_user_grant(struct rpc *c, struct span m);
void auth_user_revoke(struct rpc *c, struct span m);
void auth_role_add(struct rpc *c, struct span m);
void auth_role_get(struct rpc *c, struct span m);
void auth_role_list(struct rpc *c, struct span m);
void auth_role_delete(struct rpc *c, struct span m);
void auth_role_grant(struct rpc *c, struct span m);
void auth_role_revoke(struct rpc *c, struct span m);
/* Is the caller allowed to? 0 or an error; always 0 while authentication is off. */
NODISCARD int auth_range(struct rpc *c, struct span key, struct span end, bool write,
                         struct err *e);
NODISCARD int auth_txn(struct rpc *c, struct store_txn *t, struct err *e);
NODISCARD int auth_admin(struct rpc *c, struct err *e);
NODISCARD int auth_any(struct rpc *c, struct err *e); /* anybody with a name */
/* Every key of the lease (the store's id). */
NODISCARD int auth_lease(struct rpc *c, int64_t id, bool write, struct err *e);
NODISCARD int auth_lease_list(struct rpc *c, const int64_t *ids, size_t n, struct err *e);
int rpc_error(struct err *e, enum err_code code,
              const char *text);       /* a constant text, for the client too */
char *pass_hash(const char *password, unsigned cost); /* NULL on failure; heap */
bool pass_check(const char *password, const char *hash);

void lock_lock(struct rpc *c, struct span m);
void lock_unlock(struct rpc *c, struct span m);
void election_campaign(struct rpc *c, struct span m);
void election_proclaim(struct rpc *c, struct span m);
void election_leader(struct rpc *c, struct span m);
void election_observe(struct rpc *c, struct span m);
void election_resign(struct rpc *c, struct span m);

/* ---- srv_gateway.c: the same calls as JSON ---- */
bool gateway_request(const struct face *f, struct http_req *r); /* false: not one of its paths */
void gateway_send(struct rpc *c, struct span message);
/* The answer may take long: its head goes out now, so that a client of HTTP/1.1 that leaves is noticed. */
void gateway_waiting(struct rpc *c);
void gateway_status(struct rpc *c, unsigned status, const char *text);

/* ---- srv_ns.c; more in srv_ns.h ---- */
bool ns_refuses(const struct method *m);

/* ---- srv_http.c ---- */
void srv_on_plain(const struct face *f, struct http_req *r);
void srv_metrics(struct storesrv *v, struct buf *b);

#endif
