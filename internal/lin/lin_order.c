/* Which operation made which revision, whether every answer is right for its revision, and whether the revisions respect
 * real time. Answers carry their revision, so acknowledged writes need no search. A write of unknown outcome may have made
 * any revision that nobody else claims and that it would have made on the state before: which one made which is a matching
 * of the two, found with augmenting paths; it exists exactly when the history is linearizable. */
#include "internal/lin/lin_int.h"

#include <stdlib.h>

/* ---- what was known when ---- */

static void floors(struct lin *h) {
    size_t i_op = 0, i_ask = 0;
    int64_t known = 1;
    /* Calls and questions are in order of their lines, and so is what was seen. */
    for (size_t i = 0; i <= h->n_seen; i++) {
        size_t line = i < h->n_seen ? h->seen[i].line : SIZE_MAX;
        for (; i_op < h->n_ops && h->ops[i_op]->call <= line; i_op++) {
            h->ops[i_op]->floor = known;
        }
        for (; i_ask < h->n_asks && h->asks[i_ask].asked <= line; i_ask++) {
            h->asks[i_ask].floor = known;
        }
        if (i < h->n_seen && h->seen[i].rev > known) {
            known = h->seen[i].rev;
        }
    }
}

/* first[r]: the line that was the first to show r or a later revision. */
static size_t *first_lines(struct lin *h) {
    size_t *first = arena_alloc(&h->a, (size_t)(h->max_rev + 2) * sizeof(*first));
    CHECK(first);
    for (int64_t r = 0; r <= h->max_rev + 1; r++) {
        first[r] = SIZE_MAX;
    }
    for (size_t i = 0; i < h->n_seen; i++) {
        if (h->seen[i].line < first[h->seen[i].rev]) {
            first[h->seen[i].rev] = h->seen[i].line;
        }
    }
    for (int64_t r = h->max_rev - 1; r >= 0; r--) {
        if (first[r + 1] < first[r]) {
            first[r] = first[r + 1];
        }
    }
    return first;
}

/* ---- answers ---- */

static bool changes(const struct lin_op *op) {
    for (size_t i = 0; i < op->n_res; i++) {
        if (op->res[i].what == '+' || (op->res[i].what == '-' && op->res[i].count)) {
            return true;
        }
    }
    return false;
}

static bool can_change(const struct lin_op *op) {
    for (size_t i = 0; i < op->n_leaves; i++) {
        if (op->leaves[i]->what != ':') {
            return true;
        }
    }
    return false;
}

static bool same_answer(const struct lin_op *op, const struct lin_run *run) {
    if (op->succeeded != run->succeeded || op->n_res != run->n_res) {
        return false;
    }
    for (size_t i = 0; i < op->n_res; i++) {
        const struct lin_res *a = &op->res[i], *b = &run->res[i];
        if (a->what != b->what || a->count != b->count || a->more != b->more || a->n != b->n) {
            return false;
        }
        for (size_t k = 0; k < a->n; k++) {
            if (!lin_kv_same(&a->kvs[k], &b->kvs[k])) {
                return false;
            }
        }
    }
    return true;
}

static void judge_txn(struct lin *h, struct lin_op *op) {
    bool wrote = changes(op);
    if (wrote) {
        struct lin_rev *r = &h->revs[op->rev];
        lin_apply(h, op, op->rev - 1, op->rev, h->run);
        if (op->rev < 2 || !lin_same_events(h->run, r)) {
            lin_find(h, LIN_LOST, op->ret,
                     "operation %lld: what revision %lld holds is not what it wrote",
                     (long long)op->id, (long long)op->rev);
            return;
        }
        if (r->by) {
            lin_find(h, LIN_LOST, op->ret, "operations %lld and %lld were both given revision %lld",
                     (long long)r->by->id, (long long)op->id, (long long)op->rev);
            return;
        }
        r->by = op;
        op->claim = op->rev;
    } else {
        lin_apply(h, op, op->rev, op->rev + 1, h->run);
        if (h->run->n_ev) {
            lin_find(h, LIN_ANSWER, op->ret,
                     "operation %lld says that it changed nothing at revision %lld",
                     (long long)op->id, (long long)op->rev);
            return;
        }
    }
    if (!same_answer(op, h->run)) {
        lin_find(h, LIN_ANSWER, op->ret, "operation %lld: the answer is not that of revision %lld",
                 (long long)op->id, (long long)op->rev);
    }
    if (wrote ? op->rev <= op->floor : op->rev < op->floor) {
        lin_find(
            h, LIN_STALE, op->ret,
            "operation %lld got revision %lld, but %lld was known when it was asked (line %zu)",
            (long long)op->id, (long long)op->rev, (long long)op->floor, op->call);
    }
}

/* ---- the writes whose outcome nobody told ---- */

struct maker {         /* who may have made a revision */
    struct lin_op *op; /* NULL: a lease's end */
    int64_t lease;     /* of op NULL */
    int64_t made;
};
struct matching {
    struct lin *h;
    struct maker *m;
    size_t n, cap;
    const size_t *first;
    size_t *seen_at; /* by maker: the last search that visited it */
    size_t search;
};

/* How long after its last refresh that anybody knows of a lease ended; negative: too early. */
static int64_t expiry_slack(const struct lin *h, int64_t lease, const struct lin_rev *r) {
    int64_t since = 0, ttl = 0;
    for (size_t i = 0; i < h->n_ops; i++) {
        const struct lin_op *op = h->ops[i];
        if (op->lease != lease || op->ret > r->line || op->end != LIN_OK) {
            continue;
        }
        if (op->kind == LIN_GRANT) {
            ttl = op->ttl * 1000;
        }
        if (op->kind == LIN_GRANT || op->kind == LIN_KEEP) {
            since = op->clock > since ? op->clock : since;
        }
    }
    return r->clock - since - ttl;
}

static bool could(const struct matching *x, const struct maker *m, int64_t rev) {
    struct lin *h = x->h;
    const struct lin_rev *r = &h->revs[rev];
    if (m->op) {
        if (m->op->floor >= rev || m->op->call > x->first[rev]) {
            return false;
        }
        if (m->op->kind == LIN_TXN) {
            bool puts = false,
                 his = false; /* values are written once: most can be told by one look */
            for (size_t i = 0; i < r->n; i++) {
                puts |= r->ev[i].kv.version != 0;
                for (size_t k = 0; k < m->op->n_leaves && r->ev[i].kv.version; k++) {
                    const struct lin_sub *s = m->op->leaves[k];
                    his |= s->what == '+' && s->val == r->ev[i].kv.val;
                }
            }
            if (puts && !his) {
                return false;
            }
            lin_apply(h, m->op, rev - 1, rev, h->run);
            return lin_same_events(h->run, r);
        }
    }
    if (!m->op && expiry_slack(h, m->lease, r) < 0) {
        return false;
    }
    lin_revoke(h, m->op ? m->op->lease : m->lease, rev - 1, h->run);
    return h->run->n_ev && lin_same_events(h->run, r);
}

static bool place(struct matching *x, int64_t rev) {
    for (size_t i = 0; i < x->n; i++) {
        struct maker *m = &x->m[i];
        if (x->seen_at[i] == x->search || !could(x, m, rev)) {
            continue;
        }
        x->seen_at[i] = x->search;
        if (!m->made || place(x, m->made)) {
            m->made = rev;
            return true;
        }
    }
    return false;
}

static void makers(struct matching *x) {
    struct lin *h = x->h;
    for (size_t i = 0; i < h->n_ops; i++) {
        struct lin_op *op = h->ops[i];
        bool open = op->end == LIN_OPEN && op->kind == LIN_TXN && can_change(op);
        bool revoked = op->end != LIN_NO && op->kind == LIN_REVOKE;
        bool granted = op->end != LIN_NO && op->kind == LIN_GRANT;
        if (open || revoked || granted) {
            x->m = lin_grow(x->m, x->n, &x->cap, sizeof(*x->m));
            x->m[x->n++] = (struct maker){granted ? NULL : op, op->lease, 0};
        }
    }
    x->seen_at = arena_alloc(&h->a, (x->n + 1) * sizeof(*x->seen_at));
    CHECK(x->seen_at);
}

/* Nobody can have made this revision: what comes nearest? */
static void unexplained(struct lin *h, int64_t rev) {
    const struct lin_rev *r = &h->revs[rev];
    struct lin_kv old = lin_state(h, r->ev[0].kv.key, rev - 1);
    lin_revoke(h, old.lease, rev - 1, h->run);
    if (old.version && old.lease && lin_same_events(h->run, r)) {
        lin_find(h, LIN_LEASE, r->line, "lease %lld ended %lld ms too early at revision %lld",
                 (long long)old.lease, (long long)-expiry_slack(h, old.lease, r), (long long)rev);
        return;
    }
    for (size_t i = 0; i < h->n_ops; i++) {
        const struct lin_op *op = h->ops[i];
        for (size_t k = 0; k < op->n_leaves && op->end == LIN_NO; k++) {
            const struct lin_sub *s = op->leaves[k];
            if (s->what == '+' && r->ev[0].kv.version && s->val == r->ev[0].kv.val) {
                lin_find(h, LIN_REFUSED, op->ret,
                         "operation %lld was refused, but made revision %lld", (long long)op->id,
                         (long long)rev);
                return;
            }
        }
    }
    lin_find(h, LIN_PHANTOM, r->line, "nobody can have made revision %lld", (long long)rev);
}

static void match(struct lin *h, const size_t *first) {
    struct matching x = {.h = h, .first = first};
    makers(&x);
    for (int64_t r = 2; r <= h->max_rev; r++) {
        if (h->revs[r].by) {
            if (h->revs[r].by->call > first[r]) {
                lin_find(h, LIN_FUTURE, first[r],
                         "revision %lld was seen before operation %lld asked for it", (long long)r,
                         (long long)h->revs[r].by->id);
            }
            continue;
        }
        x.search++;
        if (!place(&x, r)) {
            unexplained(h, r);
        }
    }
    for (size_t i = 0; i < x.n; i++) {
        struct maker *m = &x.m[i];
        if (m->made && m->op) {
            m->op->claim = m->made;
            h->revs[m->made].by = m->op;
        }
    }
    free(x.m);
}

void lin_order(struct lin *h) {
    floors(h);
    const size_t *first = first_lines(h);
    for (size_t i = 0; i < h->n_ops; i++) {
        struct lin_op *op = h->ops[i];
        if (op->end != LIN_OK) {
            continue;
        }
        if (op->kind == LIN_TXN) {
            judge_txn(h, op);
        } else if (op->rev < op->floor) {
            lin_find(
                h, LIN_STALE, op->ret,
                "operation %lld got revision %lld, but %lld was known when it was asked (line %zu)",
                (long long)op->id, (long long)op->rev, (long long)op->floor, op->call);
        }
    }
    match(h, first);
}
