/* store — a multi-version key-value store with etcd v3's semantics, whatever keeps it.
 *
 * What:     ranges at any kept revision, transactions, watches, leases, compaction. One revision per changing transaction,
 *           sub-revisions in order; versions, create and mod revisions exactly as etcd's. Two implementations: the engine
 *           on one SQLite file (store_engine.h, which offers more) and the client of an etcd cluster (internal/etcd).
 * Owns:     what the implementation says. Keys and values given to the builders are copied; results live in the object
 *           they came in.
 * Limits:   a transaction's arena; the implementation's.
 * Errors:   INVALID, NOT_FOUND, EXISTS, CONFLICT, GONE (compacted), LIMIT (too large, no space), UNAVAILABLE, TIMEOUT (with
 *           etcd: the outcome is unknown), IO, CORRUPT, NOMEM; err.pub carries etcd's own text where etcd has one, err.code
 *           its gRPC status.
 * Threads:  the loop's thread.
 * Spec:     etcd v3 API; deviations are listed in docs/store.md.
 *
 * Order of things: a transaction is answered only after its commit is durable, and after the watches have been given
 * its events: a cache fed by a watch is up to date when its writer gets the answer. Reads by range see no revision later
 * than what the watches have been given, unless they go to another machine for it: then store_range_res.rev tells.
 */
#ifndef KF_STORE_H
#define KF_STORE_H

#include "internal/base/arena.h"
#include "internal/base/buf.h"
#include "internal/loop/loop.h" /* every implementation is opened on a loop */

struct store;
struct store_watch;

/* Finishes what was submitted (its callbacks run, watches get no more events), then closes. NULL is allowed. */
void store_close(struct store *s);

int64_t store_rev(const struct store *s);         /* newest delivered revision; a new store has 1 */
int64_t store_compact_rev(const struct store *s); /* 0: never compacted */

/* ---- reading ---- */

struct store_kv {
    struct span key, value;
    int64_t create_rev, mod_rev, version, lease;
};

enum store_order { STORE_SORT_NONE, STORE_SORT_ASCEND, STORE_SORT_DESCEND };
enum store_by { STORE_BY_KEY, STORE_BY_VERSION, STORE_BY_CREATE, STORE_BY_MOD, STORE_BY_VALUE };

/* `end` empty: the one key; "\0" (one zero byte): every key from `key` on; else keys in [key, end). */
struct store_range_req {
    struct span key, end;
    int64_t limit; /* 0: all */
    int64_t rev;   /* 0: current */
    enum store_order order;
    enum store_by by;
    bool keys_only, count_only;
    bool
        no_count; /* count is not needed beyond what is returned (saves walking the rest of the range) */
    int64_t min_mod, max_mod, min_create, max_create; /* 0: no bound */
};
struct store_range_res {
    struct store_kv *kvs; /* in the arena given */
    size_t n;
    int64_t count; /* keys in the range, whatever the limit */
    bool more;
    int64_t rev; /* header revision: the current one */
};

/* The end of the interval of all keys with this prefix, for `end`; empty when the arena is full. */
struct span store_prefix_end(struct arena *a, struct span prefix);

/* `done` gets the result (valid during the call) or an error; the request is copied. */
typedef void store_range_done(void *ctx, int rc, const struct store_range_res *r,
                              const struct err *e);
NODISCARD int store_range_async(struct store *s, const struct store_range_req *q, size_t max_bytes,
                                store_range_done *done, void *ctx, struct err *e);

/* Calls `each` for every key of the interval in key order, all as of one revision, a page at a time; a negative return of
 * it ends the scan. Then `done`, once, with the revision of the view. The spans are valid for the call of `each`. */
typedef int store_scan_cb(void *ctx, const struct store_kv *kv);
typedef void store_scan_done(void *ctx, int rc, int64_t rev, const struct err *e);
NODISCARD int store_scan(struct store *s, struct span key, struct span end, store_scan_cb *each,
                         store_scan_done *done, void *ctx, struct err *e);

/* ---- transactions ---- */

enum store_target { STORE_T_VERSION, STORE_T_CREATE, STORE_T_MOD, STORE_T_VALUE, STORE_T_LEASE };
enum store_result { STORE_EQUAL, STORE_GREATER, STORE_LESS, STORE_NOT_EQUAL };
struct store_cmp {
    enum store_target target;
    enum store_result result;
    struct span key, end;
    int64_t num;       /* all targets but VALUE */
    int64_t lease_mask; /* LEASE: a lease that is not 0 is compared XOR this */
    struct span value; /* VALUE */
};

struct store_put {
    struct span key, value;
    int64_t lease;
    bool prev_kv, ignore_value, ignore_lease;
};
struct store_del {
    struct span key, end;
    bool prev_kv;
};

struct store_op;
struct store_ops {
    struct store_op *v;
    size_t n, cap;
};
struct store_body { /* a transaction or a nested one */
    struct store_cmp *cmps;
    size_t n_cmps, cap_cmps;
    struct store_ops then, els;
    bool lone;      /* a put by itself: etcd looks for its lease first, in a transaction for its key */
    bool succeeded; /* result */
};
enum store_op_kind {
    STORE_OP_RANGE,
    STORE_OP_PUT,
    STORE_OP_DELETE,
    STORE_OP_TXN,
    STORE_OP_NONE /* a request that says nothing: refused when its turn comes */
};
struct store_op {
    enum store_op_kind kind;
    union {
        struct store_range_req range;
        struct store_put put;
        struct store_del del;
        struct store_body *txn;
    } u;
    /* results */
    struct store_range_res
        range; /* RANGE: the result. PUT, DELETE: kvs/n are the previous values, count the deleted */
};

struct store_txn;
/* Called once on the loop's thread. The transaction with its results is freed afterwards unless store_txn_keep. */
typedef void store_txn_done(void *ctx, struct store_txn *t, int rc, const struct err *e);

struct store_txn {
    struct arena a; /* for keys, values, results */
    struct store_body body;
    int64_t rev; /* result: header revision (that of the change, or the current one) */
    bool failed; /* a builder ran out of its limit; store_txn refuses */
    bool kept;
    bool checked; /* its form has been found good: it is not looked at again */
    struct list link; /* the owner's, before and after store_txn */
};

struct store_txn *store_txn_new(size_t max_bytes); /* 0: 64 MiB, results included */
struct store_txn *store_txn_new_in(struct pool *pool, size_t max_bytes); /* of the loop's pool, for many short ones */
void store_txn_free(struct store_txn *t);
static inline void store_txn_keep(struct store_txn *t) {
    t->kept = true;
}
/* Builders copy keys and values into the transaction's arena. They never return NULL; failure is sticky. */
struct store_cmp *store_txn_cmp(struct store_txn *t, struct store_body *b, enum store_target target,
                                enum store_result result, struct span key, int64_t num);
struct store_op *store_txn_put(struct store_txn *t, struct store_ops *ops, struct span key,
                               struct span value, int64_t lease);
struct store_op *store_txn_delete(struct store_txn *t, struct store_ops *ops, struct span key,
                                  struct span end);
struct store_op *store_txn_range(struct store_txn *t, struct store_ops *ops, struct span key,
                                 struct span end);
struct store_op *store_txn_nested(struct store_txn *t, struct store_ops *ops);
struct span store_txn_copy(struct store_txn *t, struct span s);

/* Consumes the transaction. Never fails: every error arrives in `done`, never before this call has returned. */
void store_txn(struct store *s, struct store_txn *own_txn, store_txn_done *done, void *ctx);

/* ---- watching ---- */

enum store_event_type { STORE_PUT, STORE_DELETE };
struct store_event {
    enum store_event_type type;
    bool has_prev;        /* also when only another watch asked for it */
    struct store_kv kv;   /* DELETE: key and mod_rev only */
    struct store_kv prev; /* before this event */
};
enum store_watch_kind { STORE_WATCH_EVENTS, STORE_WATCH_PROGRESS, STORE_WATCH_CANCELLED };
struct store_watch_msg {
    enum store_watch_kind kind;
    const struct store_event *const *events; /* whole revisions, in order */
    size_t n;
    uint64_t share;      /* not 0: watches that are given this number are given the same events */
    bool late;           /* others may be given the same number some time later */
    int64_t rev;         /* everything up to here has been given */
    int64_t compact_rev; /* CANCELLED because of compaction: not 0 */
    int rc;              /* CANCELLED: why */
    const char *reason;
};
/* Return 0 to go on or STORE_WATCH_PAUSE: nothing more comes until store_watch_resume, which continues where this
 * stopped. After CANCELLED nothing more comes; the owner still calls store_watch_stop. Stopping inside is allowed. */
enum { STORE_WATCH_PAUSE = 1 };
typedef int store_watch_cb(void *ctx, struct store_watch *w, const struct store_watch_msg *m);

enum { STORE_NO_PUT = 1u, STORE_NO_DELETE = 2u };
struct store_watch_req {
    struct span key, end;
    int64_t start_rev; /* first revision wanted; 0: from now on */
    uint32_t filters;
    bool prev_kv;
};
/* `cb` is never called before this returns. A compacted start revision is reported by CANCELLED. */
NODISCARD int store_watch_start(struct store *s, const struct store_watch_req *q,
                                store_watch_cb *cb, void *ctx, struct store_watch **ret,
                                struct err *e);
void store_watch_stop(struct store_watch *w); /* frees; NULL is allowed */
void store_watch_resume(struct store_watch *w);
/* Asks for one PROGRESS message as soon as the watch has been given everything up to the current revision. */
void store_watch_progress(struct store_watch *w);
/* Next revision the watch will be given. */
int64_t store_watch_next_rev(const struct store_watch *w);

typedef void store_done(void *ctx, int rc, const struct err *e);

/* ---- several writers ---- */

/* Others write to the same keys: what the watches have been given may be older than what somebody was told. */
bool store_is_shared(const struct store *s);
/* Of a shared store: `done` when the watches have been given all that anybody had written before the call. */
void store_sync(struct store *s, store_done *done, void *ctx);

/* ---- leases ---- */

typedef void store_lease_done(void *ctx, int rc, int64_t id, int64_t ttl, const struct err *e);
/* id 0: chosen. A ttl that is too short is lengthened, as etcd does. */
void store_lease_grant(struct store *s, int64_t id, int64_t ttl, store_lease_done *done, void *ctx);
void store_lease_revoke(struct store *s, int64_t id, store_done *done, void *ctx);
/* ---- maintenance ---- */

/* Revisions before `rev` become unreadable when `done` says so; the space comes back in small steps behind it.
 * physical: `done` waits for these. */
void store_compact(struct store *s, int64_t rev, bool physical, store_done *done, void *ctx);
/* Bit = etcd's AlarmType; shifted by STORE_ALARM_ALL: raised for member 0, which stands for all, and taken back for it. */
enum { STORE_ALARM_NOSPACE = 1u << 1, STORE_ALARM_CORRUPT = 1u << 2, STORE_ALARM_ALL = 8 };
static inline bool store_alarmed(uint32_t alarms, uint32_t alarm) {
    return alarms & (alarm | alarm << STORE_ALARM_ALL);
}
struct store_stat {
    int64_t rev, compact_rev;
    uint64_t db_bytes, in_use_bytes, wal_bytes, quota_bytes;
    uint64_t n_txns, n_commits, n_puts, n_deletes, n_ranges, n_events;
    uint64_t commit_ns_total, commit_ns_max;
    size_t n_watches, n_slow_watches, n_leases, n_pending;
    uint32_t alarms;
    const char *trouble; /* why nothing can be written now; NULL: nothing is known to be wrong */
};
void store_stat(struct store *s, struct store_stat *ret);

/* ---- etcd's texts, as constants for the callers that make answers themselves ---- */

extern const char STORE_E_COMPACTED[]; /* etcdserver: mvcc: required revision has been compacted */
extern const char STORE_E_FUTURE[]; /* etcdserver: mvcc: required revision is a future revision */
extern const char STORE_E_EMPTY_KEY[];    /* etcdserver: key is not provided */
extern const char STORE_E_TOO_LARGE[];    /* etcdserver: request is too large */
extern const char STORE_E_TOO_MANY_OPS[]; /* etcdserver: too many operations in txn request */
extern const char STORE_E_DUP_KEY[];      /* etcdserver: duplicate key given in txn request */
extern const char STORE_E_CORRUPT[];      /* etcdserver: corrupt cluster */
extern const char STORE_E_NO_SPACE[];     /* etcdserver: mvcc: database space exceeded */
extern const char STORE_E_NO_LEASE[];     /* etcdserver: requested lease not found */
extern const char STORE_E_LEASE_EXISTS[]; /* etcdserver: lease already exists */
extern const char STORE_E_LEASE_TTL[];    /* etcdserver: too large lease TTL */
extern const char STORE_E_VALUE_GIVEN[];  /* etcdserver: value is provided */
extern const char STORE_E_LEASE_GIVEN[];  /* etcdserver: lease is provided */
extern const char STORE_E_NO_KEY[];       /* etcdserver: key not found */

#endif
