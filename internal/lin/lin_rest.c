/* Leases, compaction, hashes: what revisions alone do not tell. */
#include "internal/lin/lin_int.h"

/* ---- compaction ---- */

static int64_t compact_bound(const struct lin *h, size_t line, bool acknowledged) {
    int64_t rev = 0;
    for (size_t i = 0; i < h->n_ops; i++) {
        const struct lin_op *op = h->ops[i];
        if (op->kind == LIN_COMPACTION && op->num > rev &&
            (acknowledged ? op->end == LIN_OK && op->ret < line
                          : op->end != LIN_NO && op->call < line)) {
            rev = op->num;
        }
    }
    return rev;
}

static bool says(const struct lin_op *op, const char *text) {
    size_t n = strlen(text);
    for (size_t i = 0; i + n <= op->text.n; i++) {
        if (memcmp(op->text.p + i, text, n) == 0) {
            return true;
        }
    }
    return false;
}

static int64_t oldest_read(const struct lin_op *op, bool done) {
    int64_t oldest = 0;
    for (size_t i = 0; i < op->n_leaves; i++) {
        const struct lin_sub *s = op->leaves[i];
        if (s->what == ':' && s->rev > 0 && (s->done || !done) && (!oldest || s->rev < oldest)) {
            oldest = s->rev;
        }
    }
    return oldest;
}

static void judge_past(struct lin *h, const struct lin_op *op) {
    if (op->end == LIN_OK) {
        int64_t rev = oldest_read(op, true);
        int64_t sure = rev ? compact_bound(h, op->call, true) : 0;
        if (rev && rev < sure) {
            lin_find(h, LIN_COMPACT, op->ret,
                     "operation %lld read revision %lld after %lld was compacted",
                     (long long)op->id, (long long)rev, (long long)sure);
        }
        return;
    }
    if (op->end != LIN_NO || op->code != 11) {
        return;
    }
    int64_t rev = oldest_read(op, false);
    if (says(op, "compacted")) {
        int64_t maybe = compact_bound(h, op->ret, false);
        rev = op->pages && !rev ? op->floor : rev; /* that of its first page, which was current */
        if (!rev || rev >= maybe) {
            lin_find(h, LIN_COMPACT, op->ret,
                     "operation %lld was refused revision %lld, but at most %lld was compacted",
                     (long long)op->id, (long long)rev, (long long)maybe);
        }
        return;
    }
    int64_t newest = 0;
    for (size_t i = 0; i < op->n_leaves; i++) {
        const struct lin_sub *s = op->leaves[i];
        newest = s->what == ':' && s->rev > newest ? s->rev : newest;
    }
    if (newest <= op->floor) {
        lin_find(h, LIN_STALE, op->ret,
                 "operation %lld: revision %lld is no future one, %lld was known",
                 (long long)op->id, (long long)newest, (long long)op->floor);
    }
}

static void judge_compaction(struct lin *h, const struct lin_op *op) {
    if (op->end == LIN_OK && op->num > op->rev) {
        lin_find(h, LIN_COMPACT, op->ret, "compaction to %lld at revision %lld", (long long)op->num,
                 (long long)op->rev);
    }
    if (op->end == LIN_NO && says(op, "compacted") && op->num > compact_bound(h, op->ret, false)) {
        lin_find(h, LIN_COMPACT, op->ret, "compaction to %lld was refused as done already",
                 (long long)op->num);
    }
}

/* ---- leases ---- */

struct life {
    bool granted, maybe_gone, surely_gone;
};

/* Of a lease while an operation ran. */
static struct life life_of(const struct lin *h, int64_t lease, const struct lin_op *during) {
    struct life l = {false, false, false};
    for (size_t i = 0; i < h->n_ops; i++) {
        const struct lin_op *op = h->ops[i];
        if (op->lease != lease || op == during) {
            continue;
        }
        if (op->kind == LIN_GRANT && op->end == LIN_OK && op->ret < during->call) {
            l.granted = true;
            /* The clock may have passed its end. */
            l.maybe_gone |= lin_clock_at(h, during->ret) >= op->clock + op->ttl * 1000;
        }
        if (op->kind == LIN_REVOKE && op->end != LIN_NO) {
            l.maybe_gone |= op->call < during->ret;
            l.surely_gone |= op->end == LIN_OK && op->ret < during->call;
        }
    }
    return l;
}

static void judge_lease_use(struct lin *h, const struct lin_op *op) {
    bool all_alive = true, any = false; /* a refusal does not say which of them is unknown */
    for (size_t i = 0; i < op->n_leaves; i++) {
        const struct lin_sub *s = op->leaves[i];
        if (s->what != '+' || !s->lease) {
            continue;
        }
        struct life l = life_of(h, s->lease, op);
        any = true;
        all_alive &= l.granted && !l.maybe_gone;
        if (op->end == LIN_OK && l.surely_gone && s->done) {
            lin_find(h, LIN_LEASE, op->ret, "operation %lld used lease %lld after it was revoked",
                     (long long)op->id, (long long)s->lease);
        }
    }
    if (op->end == LIN_NO && op->code == 5 && any && all_alive) {
        lin_find(h, LIN_LEASE, op->ret, "operation %lld was refused a lease that was granted",
                 (long long)op->id);
    }
}

static uint32_t keys_of(const struct lin *h, int64_t lease, int64_t rev) {
    uint32_t keys = 0;
    for (int32_t k = 0; k < LIM_LIN_KEYS; k++) {
        struct lin_kv v = lin_state(h, k, rev);
        if (v.version && v.lease == lease) {
            keys |= 1u << k;
        }
    }
    return keys;
}

/* The keys are those of some revision while the question was open; as in etcd not of the header's. */
static void judge_keys(struct lin *h, const struct lin_op *op) {
    for (int64_t r = op->floor; op->kind == LIN_TTL && r <= h->max_rev; r++) {
        const struct lin_op *by = h->revs[r].by;
        if (r > op->floor && by && by->call > op->ret) {
            break;
        }
        if (op->keys == keys_of(h, op->lease, r)) {
            return;
        }
    }
    if (op->kind == LIN_TTL) {
        lin_find(h, LIN_LEASE, op->ret,
                 "lease %lld is said to hold keys %x after revision %lld, it holds %x",
                 (long long)op->lease, op->keys, (long long)op->floor,
                 keys_of(h, op->lease, op->rev));
    }
}

static void judge_lease(struct lin *h, const struct lin_op *op) {
    long long lease = (long long)op->lease;
    if (op->end == LIN_NO) {
        struct life l = life_of(h, op->lease, op);
        if (op->code == 5 && l.granted && !l.maybe_gone) {
            lin_find(h, LIN_LEASE, op->ret, "lease %lld is said to be unknown, but it was granted",
                     lease);
        }
        return;
    }
    if (op->end != LIN_OK) {
        return;
    }
    if (op->kind == LIN_REVOKE) {
        for (int64_t r = op->rev; r <= h->max_rev; r++) {
            if (r == op->rev || r == h->max_rev) {
                if (keys_of(h, op->lease, r)) {
                    lin_find(h, LIN_LEASE, op->ret,
                             "lease %lld was revoked, but holds keys at revision %lld", lease,
                             (long long)r);
                    return;
                }
            }
        }
    }
    judge_keys(h, op);
}

/* ---- hashes ---- */

static void judge_hashes(struct lin *h, size_t i) {
    const struct lin_op *a = h->ops[i];
    if (!a->hash_rev) { /* of what was current: the answer does not say what that was */
        return;
    }
    for (size_t k = i + 1; k < h->n_ops; k++) {
        const struct lin_op *b = h->ops[k];
        if (b->kind == LIN_HASHKV && b->end == LIN_OK && a->hash_rev == b->hash_rev &&
            a->hash_compact == b->hash_compact && a->hash != b->hash) {
            lin_find(
                h, LIN_HASH, b->ret,
                "operations %lld and %lld hash revision %lld (compacted: %lld) to %lld and %lld",
                (long long)a->id, (long long)b->id, (long long)a->hash_rev,
                (long long)a->hash_compact, (long long)a->hash, (long long)b->hash);
            return;
        }
    }
}

void lin_rest(struct lin *h) {
    for (size_t i = 0; i < h->n_ops; i++) {
        const struct lin_op *op = h->ops[i];
        switch (op->kind) {
        case LIN_TXN:
            judge_past(h, op);
            judge_lease_use(h, op);
            break;
        case LIN_COMPACTION: judge_compaction(h, op); break;
        case LIN_HASHKV:
            if (op->end == LIN_OK) {
                judge_hashes(h, i);
            }
            break;
        case LIN_GRANT:
        case LIN_ALLOW: break;
        case LIN_REVOKE:
        case LIN_KEEP:
        case LIN_TTL: judge_lease(h, op); break;
        }
    }
}
