/* Private to store: connections, the evaluator's view, jobs of the write lane, watches and leases. */
#ifndef KF_STORE_INT_H
#define KF_STORE_INT_H

#include "internal/store/store_engine.h"
#include "internal/store/store_impl.h"

#include <sqlite3.h>

/* A log row's id is its revision and sub-revision in one integer, so that the log is in revision order. */
enum { SUB_BITS = 24 };
#define SUB_MAX ((int64_t)1 << SUB_BITS)
static inline int64_t id_of(int64_t rev, int64_t sub) {
    return rev << SUB_BITS | sub;
}
static inline int64_t id_rev(int64_t id) {
    return id >> SUB_BITS;
}
static inline int64_t id_sub(int64_t id) {
    return id & (SUB_MAX - 1);
}

enum {
    STORE_FORMAT = 3,
    STORE_APP_ID = 0x6b667374, /* "kfst" */
    LIM_TXN_DEPTH = 128,
    LIM_TXN_OPS_ALL =
        8192, /* of a transaction with all nested ones: bounds the duplicate-key check */
    LIM_BATCH_TXNS = 4096,
    LIM_BATCH_BYTES = 16 << 20,
    STORE_BREATH = 4096, /* rows of the log read in one transaction */
    STORE_WAL_KEEP = 256 * 1024, /* of the WAL file while idle */
    LEASE_TTL_MIN = 2, /* 1.5 × etcd's default election timeout, rounded up */
};
#define STORE_LONE_NS (NS_PER_MS / 2) /* a commit the loop may wait for */
#define LEASE_TTL_MAX 9000000000ll

/* A key as it is now; and with it its row in the log, where it is not deleted. */
#define STORE_ROW "c.key, c.id, c.crev, c.ver, c.lease, c.past"
#define STORE_READ "FROM cur c LEFT JOIN log l ON l.id = c.id AND c.ver > 0 "

#define STORE_STATEMENTS(X)                                                                   \
    X(BEGIN, "BEGIN IMMEDIATE")                                                               \
    X(BEGIN_READ, "BEGIN")                                                                    \
    X(COMMIT, "COMMIT")                                                                       \
    X(ROLLBACK, "ROLLBACK")                                                                   \
    X(CUR_GET, "SELECT " STORE_ROW " FROM cur c WHERE c.key = ?1")                            \
    X(CUR_ADD, "INSERT INTO cur(key, id, crev, ver, lease, past) VALUES(?1, ?2, ?3, ?4, ?5, ?6)") \
    X(CUR_SET, "UPDATE cur SET id = ?2, crev = ?3, ver = ?4, lease = ?5, past = ?6 WHERE key = ?1") \
    X(CUR_NEXT, "UPDATE cur SET id = ?2, crev = ?3, ver = ?4, past = ?6 WHERE key = ?1") \
    X(CUR_OVER, "UPDATE cur SET id = ?2, ver = ver + 1, past = new_past() WHERE key = ?1 AND "     \
                "may_replace(id, crev, ver, lease, past)")                                        \
    X(CUR_TRIM, "UPDATE cur SET past = NULL WHERE key = ?1 AND id = ?2 AND past IS NOT NULL") \
    X(CUR_DEL, "DELETE FROM cur WHERE key = ?1 AND id = ?2")                                  \
    X(CUR_RANGE, "SELECT " STORE_ROW " FROM cur c WHERE c.key >= ?1 AND c.key < ?2 ORDER BY c.key") \
    X(CUR_FROM, "SELECT " STORE_ROW " FROM cur c WHERE c.key >= ?1 ORDER BY c.key")           \
    X(READ_KEY, "SELECT " STORE_ROW ", l.val " STORE_READ "WHERE c.key = ?1")                 \
    X(READ_RANGE, "SELECT " STORE_ROW ", l.val " STORE_READ "WHERE c.key >= ?1 AND c.key < ?2 " \
                  "ORDER BY c.key")                                                           \
    X(READ_FROM, "SELECT " STORE_ROW ", l.val " STORE_READ "WHERE c.key >= ?1 ORDER BY c.key") \
    X(COUNT_RANGE, "SELECT count(*) FROM cur WHERE key >= ?1 AND key < ?2 AND ver > 0 AND crev <= ?3") \
    X(COUNT_FROM, "SELECT count(*) FROM cur WHERE key >= ?1 AND ver > 0 AND crev <= ?3")      \
    X(GONE_RANGE, "SELECT " STORE_ROW " FROM cur c WHERE c.key >= ?1 AND c.key < ?2 "         \
                  "AND c.id > ?4 AND (c.ver = 0 OR c.crev > ?3) AND c.past IS NOT x'' ORDER BY c.key") \
    X(GONE_FROM, "SELECT " STORE_ROW " FROM cur c WHERE c.key >= ?1 "                         \
                 "AND c.id > ?4 AND (c.ver = 0 OR c.crev > ?3) AND c.past IS NOT x'' ORDER BY c.key") \
    X(CUR_LEASE, "SELECT key, id, ver FROM cur WHERE lease = ?1 AND lease <> 0 ORDER BY key") \
    X(LOG_ADD, "INSERT INTO log(id, key, crev, ver, lease, prev, val) "                       \
               "VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)")                                          \
    X(LOG_HEAD, "SELECT crev, ver, lease, prev FROM log WHERE id = ?1")                       \
    X(LOG_VAL, "SELECT val FROM log WHERE id = ?1")                                           \
    X(LOG_GET, "SELECT key, crev, ver, lease, prev, val FROM log WHERE id = ?1")              \
    X(LOG_SCAN, "SELECT id, key, crev, ver, lease, prev, val FROM log "                       \
                "WHERE id >= ?1 AND id < ?2 ORDER BY id")                                     \
    X(LOG_SWEEP, "SELECT id, ver, prev, key FROM log WHERE id >= ?1 AND id < ?2 "             \
                 "ORDER BY id LIMIT ?3")                                                      \
    X(LOG_CUT, "DELETE FROM log WHERE id >= ?1 AND id <= ?2")                                 \
    X(LOG_LAST, "SELECT max(id) FROM log")                                                    \
    X(PAST_ADD, "INSERT OR REPLACE INTO past(id, jump, over, ids) VALUES(?1, ?2, ?3, ?4)")      \
    X(PAST_GET, "SELECT jump, ids FROM past WHERE id = ?1")                                   \
    X(PAST_JUMP, "SELECT jump, over FROM past WHERE id = ?1")                                 \
    X(PAST_CUT, "DELETE FROM past WHERE id < ?1")                                             \
    X(META_GET, "SELECT v FROM meta WHERE k = ?1")                                            \
    X(META_SET, "INSERT OR REPLACE INTO meta(k, v) VALUES(?1, ?2)")                           \
    X(LEASE_ADD, "INSERT INTO lease(id, ttl, left) VALUES(?1, ?2, 0)")                        \
    X(LEASE_GET, "SELECT 1 FROM lease WHERE id = ?1")                                         \
    X(LEASE_DEL, "DELETE FROM lease WHERE id = ?1")                                           \
    X(LEASE_LEFT, "UPDATE lease SET left = ?2 WHERE id = ?1")                                 \
    X(LEASE_WHOLE, "UPDATE lease SET left = 0 WHERE left <> 0") \
    X(LEASE_ALL, "SELECT id, ttl, left FROM lease")                                           \
    X(AUX_SET, "INSERT OR REPLACE INTO aux(bucket, k, v) VALUES(?1, ?2, ?3)")                 \
    X(AUX_DEL, "DELETE FROM aux WHERE bucket = ?1 AND k = ?2")                                \
    X(AUX_SCAN, "SELECT k, v FROM aux WHERE bucket = ?1 ORDER BY k")                          \
    X(PAGE_COUNT, "PRAGMA page_count")                                                        \
    X(FREE_COUNT, "PRAGMA freelist_count")

enum stmt_id {
#define X(n, s) ST_##n,
    STORE_STATEMENTS(X)
#undef X
        ST_MAX_
};

/* One connection; used by one thread at a time. */
struct db {
    sqlite3 *h;
    sqlite3_stmt *st[ST_MAX_];
    uint64_t wal_frames; /* as of the last commit on this connection */
    struct overwrite *over; /* store_body.c: while ST_CUR_OVER runs */
};

/* ---- store_vfs.c: the files under one store's connections ---- */
struct store_vfs;
NODISCARD int store_vfs_new(const char *base, struct store_vfs **ret, struct err *e);
void store_vfs_free(struct store_vfs *v); /* after its connections; NULL is allowed */
const char *store_vfs_name(const struct store_vfs *v);
uint64_t store_vfs_wal_bytes(struct store_vfs *v);
bool store_vfs_head_written(struct store_vfs *v); /* page 1 went to the WAL since it was asked last */

/* ---- store_db.c ---- */
struct db_opts {
    const char *vfs, *path;
    bool create;
    uint32_t cache_bytes;
};
NODISCARD int db_open(struct db *d, const struct db_opts *o, struct err *e);
NODISCARD int db_schema(struct db *d, struct err *e); /* creates or checks */
void db_close(struct db *d);
/* Prepared on first use, reset, ready to bind. NULL on failure with *e set. */
sqlite3_stmt *db_stmt(struct db *d, enum stmt_id id, struct err *e);
/* Ends the read transaction and starts another, so that a reader of everything does not hold the WAL. */
NODISCARD int db_breathe(struct db *d, struct err *e);
int db_fail(struct db *d, int rc, const char *what, struct err *e);
NODISCARD int db_run(struct db *d, enum stmt_id id, struct err *e); /* no parameters, no rows */
NODISCARD int db_exec(struct db *d, const char *sql, struct err *e);
/* Steps a bound statement to its end and resets it. */
NODISCARD int db_done(struct db *d, sqlite3_stmt *st, const char *what, struct err *e);
NODISCARD int db_meta_get(struct db *d, const char *k, int64_t *ret,
                          struct err *e); /* missing: 0 */
NODISCARD int db_meta_set(struct db *d, const char *k, int64_t v, struct err *e);
NODISCARD int db_i64(struct db *d, enum stmt_id id, int64_t *ret, struct err *e);
void db_bind_span(sqlite3_stmt *st, int i, struct span s);
struct span db_col_span(sqlite3_stmt *st, int i);

struct row { /* one key's state */
    int64_t id, crev, ver, lease, prev;
};

/* ---- store_eval.c: everything that reads keys, on either connection ---- */
struct view {
    struct db *d;
    int64_t at;  /* keys as of this revision; INT64_MAX: newest, with the running transaction */
    int64_t rev; /* current revision, for headers and future checks */
    int64_t compact_rev; /* for reads of the past */
    const struct counted *known; /* of the interval that is read, as of `at`; NULL: nothing is */
};
NODISCARD int view_find(const struct view *v, struct span key, struct row *ret, struct err *e);
/* The key's newest revision in the view, a deletion too; 0: there is none. */
NODISCARD int view_last(const struct view *v, struct span key, int64_t *ret_id, struct err *e);
/* The row of the log; 0: it is not there. */
NODISCARD int view_head(const struct view *v, int64_t id, struct row *ret, struct err *e);
/* store_range.c: gives every key of the answer to `each`, in its order; the spans live for the call, a negative return
 * ends. *ret has no kvs. view_range: with copies of them in `a`. */
typedef int view_kv_cb(void *ctx, const struct store_kv *kv);
NODISCARD int view_read(const struct view *v, const struct store_range_req *q, view_kv_cb *each,
                        void *ctx, struct store_range_res *ret, struct err *e);
NODISCARD int view_range(const struct view *v, const struct store_range_req *q, struct arena *a,
                         struct store_range_res *ret, struct err *e);
NODISCARD int view_value(const struct view *v, int64_t id, struct arena *a, struct span *ret,
                         struct err *e);
/* Row of the log with copies of key and value; -ERR_NOT_FOUND without text when compacted. */
NODISCARD int view_log(const struct view *v, int64_t id, struct arena *a, struct store_kv *ret,
                       struct err *e);
typedef int view_row_cb(void *ctx, struct span key, const struct row *r); /* 1: stop */
NODISCARD int view_each(const struct view *v, struct span key, struct span end, view_row_cb *cb,
                        void *ctx, struct err *e);
/* One of two statements that take an interval, with key and end bound. */
sqlite3_stmt *view_rows(const struct view *v, enum stmt_id range, enum stmt_id from,
                        struct span key, struct span end, struct err *e);
/* The key that a statement of STORE_ROW stands on, as of the view. 1: it exists there, 0: it does not. */
NODISCARD int view_row(const struct view *v, sqlite3_stmt *st, struct row *ret, struct err *e);
NODISCARD int view_lease_keys(const struct view *v, int64_t lease, struct arena *a,
                              struct span **ret, size_t *ret_n, struct err *e);
bool range_holds(struct span key, struct span end, struct span k);
NODISCARD int body_check(const struct store_body *b, uint32_t max_ops,
                         struct err *e);      /* form, duplicate keys */
bool body_writes(const struct store_body *b); /* in any branch */
bool body_long(const struct store_body *b);   /* reading it may take long */
uint64_t body_cost(const struct store_body *b);
size_t body_bytes(const struct store_body *b);
/* Chooses the branches of the whole tree, then checks puts and ranges, as etcd does before it changes anything. */
NODISCARD int body_prepare(const struct view *v, struct store_body *b, struct err *e);

/* ---- store_past.c: a key's earlier revisions ---- */
enum { PAST_MAX = 64 };
struct past { /* ids before the present one, newest first, as differences */
    uint8_t n, b[PAST_MAX];
};
struct present { /* a key as a change finds it; now.id 0: it never was */
    struct row now;
    struct past past;
};
NODISCARD int past_find(const struct view *v, struct span key, struct span list, int64_t *id,
                        struct err *e);
void past_set(struct past *p, struct span list);
/* False: it has no room. */
bool past_add(struct past *p, int64_t now, int64_t old);
NODISCARD int past_push(const struct view *v, struct span key, int64_t now, int64_t old,
                        struct past *p, struct err *e);
NODISCARD int past_check(const struct view *v, int64_t id, struct span list, struct err *e);
/* store_eval.c: 1: the key exists, 0: it does not. For the newest view only. */
NODISCARD int view_present(const struct view *v, struct span key, struct present *ret,
                           struct err *e);

/* What a running write transaction adds to the view. */
struct ebatch;
struct change {
    struct view v;
    struct arena *a;   /* results */
    struct ebatch *eb; /* NULL: nobody wants events */
    struct buf *counts; /* for count_note; NULL: nobody counts */
    bool want_prev;
    int64_t new_rev, sub;
    uint64_t n_puts, n_deletes;
};
NODISCARD int body_functions(struct db *d, struct err *e); /* that ST_CUR_OVER calls */
NODISCARD int body_apply(struct change *c, struct store_body *b, struct err *e);
/* One row of the log and the key's current row in the place of `old`. */
NODISCARD int change_row(struct change *c, struct span key, const struct row *r, struct span val,
                         const struct present *old, struct err *e);
NODISCARD int change_delete(struct change *c, struct span key, const struct present *old,
                            struct err *e);

/* ---- events ---- */
struct ebatch { /* the events of one commit */
    struct list link;
    struct arena a;
    struct store_event *ev;
    int64_t *prev_id;
    size_t n, cap;
    int64_t first_rev, last_rev;
    int64_t from, upto; /* of a stretch of the log: which */
    uint64_t no;        /* of a stretch of the log: it holds what the ranges up to this number want */
    size_t bytes;
};
struct ebatch *ebatch_new(void);
void ebatch_free(struct ebatch *b);
NODISCARD int ebatch_add(struct ebatch *b, const struct store_event *ev, int64_t prev_id,
                         struct err *e);

/* ---- the write lane ---- */
enum wr_kind { WR_TXN, WR_GRANT, WR_REVOKE, WR_LEFT, WR_ALARM, WR_AUX, WR_COMPACT, WR_MAX_ };
struct wr { /* one command in the queue */
    struct list link;
    enum wr_kind kind;
    struct store_txn *txn;
    int64_t a, b;       /* ids, ttl, revisions, alarm bits, how many: by kind */
    struct span s[3];   /* AUX: inside own buffer */
    bool flag, settled; /* settled: has its answer, must not run again */
    size_t bytes;
    union {
        store_txn_done *txn_done;
        store_done *done;
        store_lease_done *lease_done;
    } cb;
    void *ctx;
    int rc;
    struct err err;
};

/* What wr_new() added behind it. */
static inline uint8_t *wr_own(struct wr *w) {
    return (uint8_t *)(w + 1);
}

struct batch {
    struct loop_work w;
    struct store *s;
    struct list wrs;
    struct ebatch *eb;
    struct buf counts; /* for count_commit, if `counting` */
    bool want_prev, counting;
    int rc;
    struct err err;
    int64_t rev, compact_rev;
    uint32_t alarms;
    uint64_t pages, free_pages, wal_frames, n_puts, n_deletes, took_ns, bytes;
    size_t n;
};

enum task_kind { TASK_CHECKPOINT, TASK_SWEEP, TASK_VACUUM, TASK_MAX_ };
struct task { /* background work on the write lane, one slice at a time */
    struct loop_work w;
    struct store *s;
    enum task_kind kind;
    bool shrink, more;
    bool beside; /* there were commits since the task before */
    uint64_t until_ns, took_ns;
    int64_t swept;
    uint64_t pages, free_pages, wal_frames;
    uint64_t seen, moved; /* frames, by a checkpoint */
    int rc;
    struct err err;
};

struct wal { /* what the loop knows of the WAL */
    struct db db;         /* of the lane for checkpoints */
    uint64_t frames;      /* since it was last started at its beginning */
    uint64_t moved;       /* of these, how many are in the database */
    uint64_t soft;        /* so many make a checkpoint due */
    uint64_t most;        /* so many are moved at once; commits wait at twice as many */
    uint64_t started_ns;  /* the last pass */
    bool passing;         /* there was a pass since the beginning */
    uint64_t rest_before; /* it: so many frames were to be moved */
    bool out;             /* a pass is on its lane */
    bool stuck;           /* readers or the disk hold it up */
    uint64_t stuck_at;    /* frames at that time */
    bool shrink;          /* the file is larger than an idle store's should be */
};

struct waiter { /* somebody who waits for background work */
    struct list link;
    store_done *done;
    void *ctx;
    int64_t rev;
};

struct sweep { /* the removal of what one compaction left */
    int64_t compact_rev; /* which one; 0: none */
    int64_t from;        /* where in the log it began */
    struct last *lasts;  /* of some keys the revision that stays; NULL: none is known */
};

/* What commits: the write lane's while a job is out, else the loop's. */
struct writer {
    struct db db;
    int64_t rev, compact_rev;
    bool compacted; /* ever: etcd lets revision 0 be compacted once */
    uint32_t alarms;
    uint64_t pages, free_pages; /* of the file, after the last commit: writer_size() */
    bool size_known;
    struct sweep sweep;
};

struct lease {
    struct loop_timer timer;
    struct list link; /* in `expired` of the store, or alone */
    struct store *s;
    int64_t id, ttl;
    int64_t left; /* in the file, or on its way there, for a restart; 0: the whole time */
    uint32_t n_checkpoints; /* on their way */
    bool revoking;
};
struct lease_left { /* what WR_LEFT writes */
    int64_t id, left;
};

struct events {
    const struct store_event **v;
    size_t n, cap;
};
void events_push(struct events *l, const struct store_event *ev);

struct counts { /* store_count.c: blocks of keys */
    struct count_key **first; /* where each begins; the first one before all keys */
    uint32_t *n;              /* how many keys it holds */
    size_t n_blocks, cap, bytes;
    struct count_key *upto; /* where the last one ends, if not behind all keys */
    bool on, whole, empty; /* commits bring changes; nothing is behind the last block; one holds no keys */
    int64_t missed;      /* keys counted one by one */
    int64_t recent_from; /* `recent` has the changes of all commits behind it */
    struct buf recent;
    struct count_walk *walk;
};
struct counted { /* within some interval */
    struct span from, to; /* borrowed; no `to`: as far as the interval goes, which has no end */
    int64_t n;            /* keys in there */
};

struct wrange { /* watches of one range: a node of the treap */
    struct wrange *left, *right, *furthest;
    uint64_t priority;
    struct span key, end;
    struct list watches;
    uint64_t no;
    struct list hit; /* while events are given: these of them are in the range */
    struct events hits;
    uint64_t turn; /* the last in which store_catchup.c looked for them */
    uint8_t own[];
};

enum { CATCHUP_SHARES = 32 };
struct catchup {
    struct loop_timer timer;
    struct ebatch **recent; /* the last commits', in order: n_recent from recent_at on */
    size_t recent_at, n_recent, cap_recent, recent_bytes;
    struct list chunks; /* of the log, those used last first */
    struct events stretch;
    uint64_t turn;
    struct share { /* what a range was given lately, that others of it may be given as well */
        uint64_t range, share;
        int64_t first, upto;
    } shares[CATCHUP_SHARES];
    size_t next_share;
};

struct store_watch {
    const struct store_impl *impl;
    struct list link; /* in synced, lagging, paused or, while events are given, those that are due */
    struct list range_link;
    struct wrange *range;
    struct store *s;
    struct span key, end;
    store_watch_cb *cb;
    void *ctx;
    int64_t next; /* of one that is neither due nor lagging: this or given + 1, whichever is later */
    uint32_t filters;
    bool prev_kv, paused, lagging, due, cancelled, want_progress, in_call, dead;
    uint8_t own[];
};

struct store {
    const struct store_impl *impl;
    struct loop *l;
    struct store_opts o;
    struct store_vfs *vfs;
    char *path;
    int dirfd, lock_fd;
    struct db rd;      /* the loop's read connection */
    struct db rd_lane; /* LANE_DB_READ's */
    struct writer wr;
    int64_t rev, compact_rev, swept;
    bool compacted;
    uint32_t alarms;
    uint64_t pages, free_pages, page_size;
    struct wal wal;
    /* write queue */
    struct list pending;
    size_t n_pending;   /* without an answer; of these, */
    size_t n_waiting;   /* in the queue, */
    size_t n_out;       /* in batches on the lane */
    unsigned busy;      /* batches and tasks on the lane, at most two: s->wr is the lane's */
    bool tasking;       /* one of them is a task */
    struct batch *open; /* the last batch, as far as is known not begun */
    uint64_t commit_ns; /* the longest of the last commits, forgotten little by little */
    uint64_t turns;     /* of the loop, when the last commit was answered */
    bool closing;
    struct loop_hook flush_hook;
    uint32_t batches_since_task;
    uint64_t rest_until; /* the lane is the commits' alone */
    struct loop_timer idle_timer, rest_timer;
    bool sweeping, vacuuming, task_failed;
    uint64_t activity, activity_seen;
    struct list physical; /* waiters for the sweep */
    struct list defrags;
    size_t reads_out, reads_on_lane;
    struct list reads_waiting;
    uint64_t reads_seen;           /* when the lane's rest was last put off */
    struct loop_timer lane_timer;
    struct counts counts;
    size_t pins; /* readers of the whole log, in many transactions: nothing is swept meanwhile */
    /* watches */
    struct list synced, lagging;
    struct list paused; /* these, and those that were cancelled */
    struct wrange *ranges;
    uint64_t n_ranges; /* ever */
    int64_t given;     /* revision up to which those in synced have been given everything */
    uint64_t n_shares; /* lists of events that were given to several */
    size_t n_watches, n_prev_watches;
    struct events scratch;
    struct catchup catchup;
    /* leases */
    struct map leases;
    struct list expired; /* leases whose turn to be revoked has not come */
    size_t n_revoking;
    struct loop_timer checkpoint_timer;
    struct store_stat st;
};

/* The engine's side of store_impl.h: store.c, store_write.c, store_watch.c, store_lease.c, store_task.c */
void engine_close(struct store *s);
int64_t engine_rev(const struct store *s);
int64_t engine_compact_rev(const struct store *s);
void engine_stat(struct store *s, struct store_stat *ret);
NODISCARD int engine_range_async(struct store *s, const struct store_range_req *q, size_t max_bytes,
                                 store_range_done *done, void *ctx, struct err *e);
void engine_txn(struct store *s, struct store_txn *own_txn, store_txn_done *done, void *ctx);
NODISCARD int engine_watch_start(struct store *s, const struct store_watch_req *q,
                                 store_watch_cb *cb, void *ctx, struct store_watch **ret,
                                 struct err *e);
void engine_watch_stop(struct store_watch *w);
void engine_watch_resume(struct store_watch *w);
void engine_watch_progress(struct store_watch *w);
int64_t engine_watch_next_rev(const struct store_watch *w);
void engine_lease_grant(struct store *s, int64_t id, int64_t ttl, store_lease_done *done,
                        void *ctx);
void engine_lease_revoke(struct store *s, int64_t id, store_done *done, void *ctx);
void engine_compact(struct store *s, int64_t rev, bool physical, store_done *done, void *ctx);

/* store.c */
struct view store_view(struct store *s);
NODISCARD int store_open_vfs(struct loop *l, int dirfd, const char *name,
                             const struct store_opts *o, const char *base_vfs, struct store **ret,
                             struct err *e);
NODISCARD int store_lane_open(struct store *s, struct err *e); /* on LANE_DB_READ: its connection */
void store_lane_keep(struct store *s); /* somebody has read there: its cache stays a while */
/* store_hash.c: a revision as etcd keeps it in its own file */
void store_rev_bytes(struct buf *b, int64_t id, bool tombstone);
void store_kv_bytes(struct buf *b, const struct store_kv *kv);
/* store_snapshot.c: the same read back */
NODISCARD int store_rev_parse(struct span key, int64_t *ret_id, bool *ret_tombstone);
NODISCARD int store_kv_parse(struct span m, struct store_kv *ret);
/* store_mend.c: a new file from what can be read of `own_from`, which is closed and kept as `name`.damaged */
NODISCARD int store_mend(int dirfd, const char *name, struct db *own_from,
                         void (*say)(void *ctx, const char *finding), void *ctx, struct err *e);
/* store_write.c */
void store_submit(struct store *s, struct wr *own_wr);
void store_refuse(struct store *s, struct wr *own_wr); /* answers with own_wr->rc from the loop */
struct wr *wr_new(enum wr_kind k, size_t extra);
void writer_size(struct store *s);
struct wr *txn_wr(struct store_txn *t); /* the transaction's own */
void store_flush(void *store);    /* store_kick as a hook */
void store_kick(struct store *s); /* gives the lane its next job when it is free */
/* store_count.c: how many keys intervals have */
bool count_known(const struct store *s, struct span key, struct span end, int64_t at,
                 struct counted *ret);
void count_missed(struct store *s, int64_t n); /* so many were counted one by one */
void count_changes_init(struct buf *b);
void count_note(struct buf *changes, int64_t rev, struct span key, bool made); /* else removed */
void count_commit(struct store *s, const struct buf *changes); /* NULL: nobody has noted them */
void count_fini(struct store *s);
/* store_task.c */
enum task_kind task_due(struct store *s, bool idle); /* TASK_MAX_: none */
void task_start(struct store *s, bool idle);         /* what is due, on a free lane */
void task_undo(struct task *t); /* of its transaction what is left after an error */
void task_idle_arm(struct store *s);
void store_compacted(struct store *s, struct wr *w);
void task_fini(struct store *s);
/* store_sweep.c */
NODISCARD int sweep_slice(struct task *t);
void sweep_fini(struct store *s);
/* store_wal.c */
void wal_init(struct store *s);
void wal_grown(struct store *s, uint64_t frames); /* after a commit */
void wal_kick(struct store *s);                   /* starts a pass when one is due */
bool wal_full(const struct store *s);              /* commits wait */
bool wal_due(const struct store *s, bool idle);   /* the write lane has to do something */
NODISCARD int wal_task(struct task *t);
void wal_task_done(struct store *s, const struct task *t);
void wal_tick(struct store *s, bool quiet);
void wal_fini(struct store *s);
/* store_match.c */
void match_join(struct store *s, struct store_watch *w);
void match_leave(struct store_watch *w);
/* Gives each range that is concerned its events and lists it in hits; match_done forgets them. */
void match_events(struct store *s, const struct ebatch *b, struct list *hits);
void match_range(struct wrange *g, const struct events *in, struct list *hits);
void match_done(struct store *s, struct list *hits);
bool match_any(const struct store *s, struct span key); /* somebody watches it */
/* store_watch.c */
void watch_deliver(struct store *s,
                   struct ebatch *own_eb); /* after s->rev moved; NULL: revisions without events */
bool watch_wants(const struct store_watch *w, const struct store_event *ev);
void watch_move(struct store_watch *w, bool lagging);
void watch_cancel(struct store_watch *w, int rc, const char *reason);
/* Events of the watch's range that it has not had. These two answer false when the watch is gone or wants a pause. */
bool watch_give(struct store_watch *w, struct store_watch_msg *m);
bool watch_progress(struct store_watch *w);
/* The values that the events of `b` replace, where they are not known yet. */
NODISCARD int watch_load_prev(struct store *s, struct ebatch *b, struct err *e);
/* store_catchup.c */
void recent_add(struct store *s, struct ebatch *own_b);
void recent_trim(struct store *s, size_t max);
size_t recent_max(const struct store *s);
void catchup_soon(struct store *s);   /* when somebody lags */
void catchup_forget(struct store *s); /* what can be read again */
void catchup_fini(struct store *s);
void watch_fini(struct store *s);
/* store_lease.c */
NODISCARD int lease_load(struct store *s, struct err *e);
void lease_granted(struct store *s, int64_t id, int64_t ttl, int64_t left);
void lease_gone(struct store *s, int64_t id);
void lease_revoke_failed(struct store *s, int64_t id);
void lease_revoked(struct store *s); /* one of those that expired has its answer */
void lease_kept(struct store *s, struct wr *w);
void lease_fini(struct store *s);

int err_pub(struct err *e, enum err_code c, const char *pub); /* sets msg and pub */

#endif
