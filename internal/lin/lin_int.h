/* Private to lin: the history as it was read. */
#ifndef KF_LIN_INT_H
#define KF_LIN_INT_H

#include "internal/lin/lin.h"

#include "internal/base/arena.h"

enum { LIM_LIN_RES = 2 * LIM_LIN_LEAVES };

struct lin_kv {
    int32_t key;
    int64_t val, create, mod, version, lease; /* version 0: does not exist */
};
struct lin_ev {
    struct lin_kv kv; /* a deletion: key and mod, version 0 */
    bool has_prev;
    struct lin_kv prev;
};
struct lin_cmp {
    char target, how;
    int32_t key;
    int64_t num;
};
struct lin_txn;
struct lin_sub { /* one operation of a transaction */
    char what;   /* + - : ( */
    int32_t lo, hi;
    int64_t val, lease, rev, limit;
    bool prev, count_only;
    bool done;           /* its branch was taken, by the answer */
    struct lin_txn *txn; /* of ( */
};
struct lin_txn {
    struct lin_cmp cmps[LIM_LIN_SUBS];
    struct lin_sub subs[2][LIM_LIN_SUBS]; /* 0: then, 1: else */
    size_t n_cmps, n_subs[2];
};
struct lin_res { /* flat: ( with count 1 for success, what it did, then ) */
    char what;
    int64_t count;
    bool more;
    size_t n;
    struct lin_kv kvs[LIM_LIN_KEYS];
};
enum lin_kind { LIN_TXN, LIN_GRANT, LIN_REVOKE, LIN_KEEP, LIN_TTL, LIN_COMPACTION, LIN_HASHKV, LIN_ALLOW };
enum { LIN_SLOT_KEYS = 4, LIN_SLOTS = LIM_LIN_KEYS / LIN_SLOT_KEYS };
enum { LIN_MAY_READ = 1, LIN_MAY_WRITE = 2 };
enum lin_end { LIN_OPEN, LIN_OK, LIN_NO }; /* NO: refused, nothing happened */

struct lin_op {
    int64_t id;
    int32_t client;
    enum lin_kind kind;
    enum lin_end end;
    size_t call, ret; /* lines; ret SIZE_MAX: never */
    int64_t code;     /* of an error */
    struct span text;
    struct lin_txn t;
    bool pages;
    struct lin_sub *leaves[LIM_LIN_LEAVES]; /* of t with all transactions in it, whatever the branch */
    size_t n_leaves;
    int64_t lease, ttl, num;
    int32_t user;       /* who asks; 0: the administrator, or there are no users */
    int32_t whom, slot; /* ALLOW */
    unsigned bits;
    /* the answer */
    int64_t rev;
    bool succeeded;
    struct lin_res *res;
    size_t n_res;
    uint32_t keys; /* TTL */
    int64_t hash, hash_compact, hash_rev;
    /* worked out */
    int64_t floor;    /* newest revision known when it was asked */
    int64_t claim;    /* the revision that it made; 0: none */
    int64_t clock;    /* the server's clock at the call, ms */
};

enum lin_msg_kind { LIN_M_CREATED, LIN_M_EVENTS, LIN_M_PROGRESS, LIN_M_CANCEL };
struct lin_msg {
    enum lin_msg_kind kind;
    size_t line;
    int64_t rev; /* CANCEL: compacted revision */
    bool fragment;
    struct lin_ev *ev;
    size_t n;
};
struct lin_watch {
    int64_t id, stream, start;
    int32_t lo, hi;
    unsigned filters;
    bool prev;
    size_t line;
    struct lin_msg *msgs;
    size_t n, cap;
};
struct lin_ask {
    int64_t stream;
    size_t asked, told; /* told 0: no answer */
    int64_t rev, floor;
};
struct lin_seen { /* the line shows this revision */
    size_t line;
    int64_t rev;
};
struct lin_rev { /* what really happened at a revision */
    struct lin_ev *ev;
    size_t n, line;
    int64_t clock;
    struct lin_op *by;
};
struct lin_version {
    struct lin_kv kv; /* version 0: deleted at mod */
};
struct lin_past { /* of a key */
    struct lin_kv *v;
    size_t n, cap;
};

struct lin_run;
struct lin {
    struct arena a;
    struct lin_op **ops;
    size_t n_ops, cap_ops;
    struct lin_watch **watches;
    size_t n_watches, cap_watches;
    struct lin_ask *asks;
    size_t n_asks, cap_asks;
    struct lin_seen *seen;
    size_t n_seen, cap_seen;
    int64_t *clocks; /* pairs: line, ms */
    size_t n_clocks, cap_clocks;
    int32_t user_of[LIM_LIN_CLIENTS];
    int64_t max_rev;
    struct lin_rev *revs; /* by revision, 0..max_rev */
    struct lin_past past[LIM_LIN_KEYS];
    struct lin_run *run; /* scratch */
    struct lin_verdict *out;
};

/* Grows an array by one. */
void *lin_grow(void *v, size_t n, size_t *cap, size_t size);

NODISCARD int lin_read(struct lin *h, struct span text, struct err *e);
void lin_find(struct lin *h, enum lin_rule r, size_t line, const char *fmt, ...) PRINTF(4, 5);
int64_t lin_clock_at(const struct lin *h, size_t line);

/* lin_model.c */
bool lin_history(struct lin *h); /* what happened, from those who watched everything; false: it has gaps */
struct lin_kv lin_state(const struct lin *h, int32_t key, int64_t rev); /* version 0: not there */
struct lin_run { /* an operation carried out on a state */
    struct lin_ev ev[LIM_LIN_LEAVES * LIM_LIN_KEYS];
    size_t n_ev;
    bool succeeded;
    struct lin_res res[LIM_LIN_RES];
    size_t n_res;
};
void lin_apply(const struct lin *h, const struct lin_op *op, int64_t at, int64_t new_rev, struct lin_run *ret);
/* The keys that a lease held at a revision, deleted at the next. */
void lin_revoke(const struct lin *h, int64_t lease, int64_t at, struct lin_run *ret);
bool lin_same_events(const struct lin_run *r, const struct lin_rev *v);
bool lin_kv_same(const struct lin_kv *a, const struct lin_kv *b);
/* lin_order.c */
void lin_order(struct lin *h);
/* lin_watch.c */
void lin_watches(struct lin *h);
/* lin_users.c */
void lin_users(struct lin *h);
/* lin_rest.c: leases, compaction, hashes */
void lin_rest(struct lin *h);

#endif
