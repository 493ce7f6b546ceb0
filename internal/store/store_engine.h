/* store_engine — the store on one SQLite file, and what only it offers.
 *
 * What:     opening it; reads that answer at once; leases' state; quota, hash, snapshots, repair.
 * Owns:     the file, two or three SQLite connections, the recent events, the leases' timers.
 * Limits:   struct store_opts. One process per file (a lock file keeps a second one out).
 * Errors:   those of store.h, and UNSUPPORTED (newer format).
 * Threads:  the loop's thread. Commits run on LANE_DB_WRITE and large ranges on LANE_DB_READ; both start with first use.
 * Time:     leases by the loop's clock.
 *
 * Functions that take a struct store here must be given one that store_open made.
 */
#ifndef KF_STORE_ENGINE_H
#define KF_STORE_ENGINE_H

#include "internal/store/store.h"

struct store_opts {
    uint64_t quota_bytes;       /* 0: 2 GiB; the file may not grow past it (alarm NOSPACE) */
    uint32_t max_txn_ops;       /* 0: 128 */
    uint32_t max_request_bytes; /* 0: 1.5 MiB */
    uint32_t cache_bytes;       /* 0: 512 KiB page cache for each connection, released when idle */
    uint32_t read_cache_bytes;  /* 0: 8 MiB at most while large ranges are read, released two seconds behind the last */
    uint32_t write_cache_bytes; /* 0: 16 MiB at most while there are writes, released two seconds behind the last */
    uint32_t recent_bytes;      /* 0: 256 KiB of recent events kept for watches that lag */
    uint32_t lease_checkpoint_s; /* 0: after a restart a lease has its whole time; else what was left is kept so often */
    bool keep_prev;             /* events carry previous values even when no watch asks */
};

/* Opens or creates `name` in the directory. Recovers after a crash. */
NODISCARD int store_open(struct loop *l, int dirfd, const char *name, const struct store_opts *o,
                         struct store **ret, struct err *e);

/* ---- reading ---- */

/* Synchronous, on the loop's thread: for points and small ranges. Results are allocated from `a`. */
NODISCARD int store_range(struct store *s, const struct store_range_req *q, struct arena *a,
                          struct store_range_res *ret, struct err *e);
/* The one key, current revision. -ERR_NOT_FOUND (without text) when it does not exist. */
NODISCARD int store_get(struct store *s, struct span key, struct arena *a, struct store_kv *ret,
                        struct err *e);

/* A range given key by key from where it is stored, so that an answer is made with one copy. */
struct store_reader {
    void (*begin)(void *ctx, int64_t rev); /* header revision; called again, what was given before is void */
    int (*each)(void *ctx, const struct store_kv *kv); /* spans live for the call; a negative return ends with it */
    store_range_done *done;                            /* r->kvs is NULL, r->n the number of those given */
    void (*start)(void *ctx, int64_t rev);             /* what is not of the past is of this revision; NULL is allowed */
};
/* start is called on the loop, here or later; begin and each then on LANE_DB_READ, done on the loop. A failure here is all
 * that comes. The request is copied. */
NODISCARD int store_read(struct store *s, const struct store_range_req *q, const struct store_reader *to, void *ctx,
                         struct err *e);
/* On the loop's thread and at once: for points and small ranges. done is not called. */
NODISCARD int store_read_now(struct store *s, const struct store_range_req *q, const struct store_reader *to, void *ctx,
                             struct store_range_res *ret, struct err *e);

/* ---- writing ---- */

/* What store_txn would refuse without looking at any key: too large, too many operations, keys missing or given twice.
 * What passes may change keys afterwards: its form is not looked at again. */
NODISCARD int store_txn_check(const struct store *s, struct store_txn *t, struct err *e);

/* ---- leases ---- */

struct store_lease_info {
    int64_t id, granted_ttl, ttl; /* seconds; ttl -1: expired, being revoked */
};

/* 0: done, *ret_ttl is set. STORE_LATER: `done` tells, once it is durable that the time kept for a restart counts no
 * more (only with lease_checkpoint_s). */
enum { STORE_LATER = 1 };
NODISCARD int store_lease_keepalive(struct store *s, int64_t id, store_lease_done *done, void *ctx,
                                    int64_t *ret_ttl, struct err *e);
NODISCARD int store_lease_get(struct store *s, int64_t id, struct store_lease_info *ret,
                              struct err *e);
/* Keys attached, in order, into `a`. */
NODISCARD int store_lease_keys(struct store *s, int64_t id, struct arena *a, struct span **ret,
                               size_t *ret_n, struct err *e);
/* All ids (in `a`), in order of their deadline. */
NODISCARD int store_lease_list(struct store *s, struct arena *a, int64_t **ret, size_t *ret_n,
                               struct err *e);

/* ---- maintenance ---- */

/* Gives free pages back to the file system in small steps. */
void store_defrag(struct store *s, store_done *done, void *ctx);

void store_alarm(struct store *s, uint32_t alarms, bool activate, store_done *done, void *ctx);

/* etcd's HashKV: CRC-32C over the revisions up to rev (0: current). */
typedef void store_hash_done(void *ctx, int rc, uint32_t hash, int64_t rev, int64_t compact_rev,
                             const struct err *e);
NODISCARD int store_hash(struct store *s, int64_t rev, store_hash_done *done, void *ctx,
                         struct err *e);

/* A genuine etcd database (bbolt) of everything kept, followed by its SHA-256, in an unnamed file: own_fd is the
 * callback's. */
typedef void store_snapshot_done(void *ctx, int rc, int own_fd, uint64_t size, const struct err *e);
NODISCARD int store_snapshot(struct store *s, store_snapshot_done *done, void *ctx, struct err *e);
/* Makes a new store out of such a file, of ours or of a real etcd; refuses when `name` exists. Blocking, for commands. */
NODISCARD int store_restore(int dirfd, const char *name, int snapshot_fd, int64_t *ret_rev,
                            struct err *e);
/* Verifies every page, key and revision of a store that nobody has open; with `repair` what can be rebuilt is (the
 * index of current keys from the log). `say` hears of each finding. Blocking, for commands. */
NODISCARD int store_check(int dirfd, const char *name, bool repair,
                          void (*say)(void *ctx, const char *finding), void *ctx, struct err *e);

/* Small named records beside the keys (users, roles, member identity), outside revisions and watches. */
void store_aux_put(struct store *s, struct span bucket, struct span key, struct span value,
                   store_done *done, void *ctx); /* value.p NULL: delete */
NODISCARD int store_aux_scan(struct store *s, struct span bucket,
                             int (*cb)(void *ctx, struct span key, struct span value), void *ctx,
                             struct err *e);

#endif
