/* What happened, as those who watched everything saw it, and what an operation does to a state. */
#include "internal/lin/lin_int.h"

#include <stdlib.h>

bool lin_kv_same(const struct lin_kv *a, const struct lin_kv *b) {
    return a->key == b->key && a->val == b->val && a->create == b->create && a->mod == b->mod &&
           a->version == b->version && a->lease == b->lease;
}

static bool same_event(const struct lin_ev *a, const struct lin_ev *b) {
    return a->kv.version || b->kv.version ? lin_kv_same(&a->kv, &b->kv)
                                          : a->kv.key == b->kv.key && a->kv.mod == b->kv.mod;
}

/* ---- the history ---- */

static void take_revision(struct lin *h, struct lin_ev *ev, size_t n, size_t line) {
    struct lin_rev *r = &h->revs[ev->kv.mod];
    if (!r->n) {
        r->ev = ev;
        r->n = n;
        r->line = line;
        r->clock = lin_clock_at(h, line);
        return;
    }
    if (line < r->line) {
        r->line = line;
        r->clock = lin_clock_at(h, line);
    }
    bool same = r->n == n;
    for (size_t i = 0; same && i < n; i++) {
        same = same_event(&r->ev[i], &ev[i]);
    }
    if (!same) {
        lin_find(h, LIN_DIFFER, line, "revision %lld is not what line %zu was told of it",
                 (long long)ev->kv.mod, r->line);
    }
}

static void take_watch(struct lin *h, const struct lin_watch *w) {
    struct lin_ev *held = NULL; /* of fragments */
    size_t n_held = 0, cap = 0;
    for (size_t i = 0; i < w->n; i++) {
        const struct lin_msg *m = &w->msgs[i];
        for (size_t k = 0; k < m->n; k++) {
            held = lin_grow(held, n_held, &cap, sizeof(*held));
            held[n_held++] = m->ev[k];
        }
        if (m->fragment || !n_held) {
            continue;
        }
        struct lin_ev *all = arena_alloc(&h->a, n_held * sizeof(*all));
        CHECK(all);
        memcpy(all, held, n_held * sizeof(*all));
        for (size_t from = 0, to; from < n_held; from = to) {
            for (to = from + 1; to < n_held && all[to].kv.mod == all[from].kv.mod; to++) {
            }
            if (all[from].kv.mod > 0) {
                take_revision(h, all + from, to - from, m->line);
            }
        }
        n_held = 0;
    }
    free(held);
}

static const struct lin_kv *newest(const struct lin_past *p) {
    return p->n && p->v[p->n - 1].version ? &p->v[p->n - 1] : NULL;
}

/* Creations, versions and previous values follow from the events before. */
static void replay(struct lin *h, int64_t rev) {
    const struct lin_rev *r = &h->revs[rev];
    uint32_t touched = 0;
    for (size_t i = 0; i < r->n; i++) {
        const struct lin_ev *ev = &r->ev[i];
        struct lin_past *p = &h->past[ev->kv.key];
        const struct lin_kv *old = newest(p);
        if (touched & 1u << ev->kv.key) {
            lin_find(h, LIN_DUPLICATE, r->line, "revision %lld changes key %d twice",
                     (long long)rev, ev->kv.key);
        }
        touched |= 1u << ev->kv.key;
        if (ev->kv.version ? ev->kv.create != (old ? old->create : rev) ||
                                 ev->kv.version != (old ? old->version + 1 : 1)
                           : !old) {
            lin_find(h, LIN_CREATE, r->line,
                     "revision %lld of key %d: created %lld, version %lld, after %lld, %lld",
                     (long long)rev, ev->kv.key, (long long)ev->kv.create,
                     (long long)ev->kv.version, (long long)(old ? old->create : 0),
                     (long long)(old ? old->version : 0));
        }
        p->v = lin_grow(p->v, p->n, &p->cap, sizeof(*p->v));
        p->v[p->n++] = ev->kv;
    }
}

bool lin_history(struct lin *h) {
    h->revs = arena_alloc(&h->a, (size_t)(h->max_rev + 1) * sizeof(*h->revs));
    CHECK(h->revs);
    for (size_t i = 0; i < h->n_watches; i++) {
        const struct lin_watch *w = h->watches[i];
        if (w->lo == 0 && w->hi == LIM_LIN_KEYS && !w->filters) {
            take_watch(h, w);
        }
    }
    bool whole = true;
    for (int64_t r = 2; r <= h->max_rev; r++) {
        if (!h->revs[r].n) {
            if (whole) {
                lin_find(h, LIN_GAP, 0, "nobody was ever given revision %lld of %lld", (long long)r,
                         (long long)h->max_rev);
            }
            whole = false;
        }
        replay(h, r);
    }
    return whole;
}

struct lin_kv lin_state(const struct lin *h, int32_t key, int64_t rev) {
    const struct lin_past *p = &h->past[key];
    size_t lo = 0, hi = p->n;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (p->v[mid].mod <= rev) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo ? p->v[lo - 1] : (struct lin_kv){.key = key};
}

/* ---- carrying out an operation ---- */

struct state {
    struct lin_kv k[LIM_LIN_KEYS];
};

static bool holds(const struct state *s, const struct lin_cmp *c) {
    const struct lin_kv *k = &s->k[c->key];
    bool there = k->version != 0;
    int64_t v = !there             ? 0
                : c->target == 'm' ? k->mod
                : c->target == 'c' ? k->create
                : c->target == 'v' ? k->version
                : c->target == 'l' ? k->lease
                                   : k->val;
    if (c->target == 'x' && !there) {
        return false; /* a value that is not there compares with nothing */
    }
    switch (c->how) {
    case '=': return v == c->num;
    case '<': return v < c->num;
    case '>': return v > c->num;
    case '!': return v != c->num;
    default: return false;
    }
}

static void run_put(struct state *s, const struct lin_sub *q, int64_t rev, struct lin_run *ret,
                    struct lin_res *res) {
    struct lin_kv *k = &s->k[q->lo], old = *k;
    if (q->prev && old.version) {
        res->kvs[res->n++] = old;
    }
    *k = (struct lin_kv){q->lo, q->val,          old.version ? old.create : rev,
                         rev,   old.version + 1, q->lease};
    ret->ev[ret->n_ev++] = (struct lin_ev){.kv = *k};
}

static void run_delete(struct state *s, const struct lin_sub *q, int64_t rev, struct lin_run *ret,
                       struct lin_res *res) {
    for (int32_t i = q->lo; i < q->hi; i++) {
        if (s->k[i].version) {
            if (q->prev) {
                res->kvs[res->n++] = s->k[i];
            }
            res->count++;
            s->k[i] = (struct lin_kv){.key = i, .mod = rev};
            ret->ev[ret->n_ev++] = (struct lin_ev){.kv = s->k[i]};
        }
    }
}

static void run_range(const struct lin *h, const struct state *s, const struct lin_sub *q,
                      struct lin_res *res) {
    for (int32_t i = q->lo; i < q->hi; i++) {
        struct lin_kv k = q->rev > 0 ? lin_state(h, i, q->rev) : s->k[i];
        if (k.version) {
            res->count++;
            if (!q->count_only && (!q->limit || (int64_t)res->n < q->limit)) {
                res->kvs[res->n++] = k;
            }
        }
    }
    res->more = q->limit && !q->count_only && res->count > q->limit;
}

/* All tests are made on the state before anything is changed, those of transactions inside too. */
static void run_txn(const struct lin *h, const struct state *before, struct state *s,
                    const struct lin_txn *t, int64_t rev, struct lin_run *ret, bool *succeeded) {
    bool ok = true;
    for (size_t i = 0; i < t->n_cmps; i++) {
        ok &= holds(before, &t->cmps[i]);
    }
    *succeeded = ok;
    int b = ok ? 0 : 1;
    for (size_t i = 0; i < t->n_subs[b]; i++) {
        const struct lin_sub *q = &t->subs[b][i];
        CHECK(ret->n_res + 2 <= LIM_LIN_RES);
        struct lin_res *res = &ret->res[ret->n_res++];
        *res = (struct lin_res){.what = q->what};
        if (q->what == '(') {
            bool inner;
            run_txn(h, before, s, q->txn, rev, ret, &inner);
            res->count = inner;
            ret->res[ret->n_res++] = (struct lin_res){.what = ')'};
        } else if (q->what == '+') {
            run_put(s, q, rev, ret, res);
        } else if (q->what == '-') {
            run_delete(s, q, rev, ret, res);
        } else {
            run_range(h, s, q, res);
        }
    }
}

void lin_apply(const struct lin *h, const struct lin_op *op, int64_t at, int64_t new_rev,
               struct lin_run *ret) {
    struct state s, before;
    for (int32_t i = 0; i < LIM_LIN_KEYS; i++) {
        s.k[i] = lin_state(h, i, at);
    }
    before = s;
    ret->n_ev = ret->n_res = 0;
    run_txn(h, &before, &s, &op->t, new_rev, ret, &ret->succeeded);
}

void lin_revoke(const struct lin *h, int64_t lease, int64_t at, struct lin_run *ret) {
    ret->n_ev = ret->n_res = 0;
    for (int32_t i = 0; i < LIM_LIN_KEYS; i++) {
        struct lin_kv k = lin_state(h, i, at);
        if (k.version && k.lease == lease) {
            ret->ev[ret->n_ev++] = (struct lin_ev){.kv = {.key = i, .mod = at + 1}};
        }
    }
}

bool lin_same_events(const struct lin_run *r, const struct lin_rev *v) {
    bool same = r->n_ev == v->n;
    for (size_t i = 0; same && i < v->n; i++) {
        same = same_event(&r->ev[i], &v->ev[i]);
    }
    return same;
}
