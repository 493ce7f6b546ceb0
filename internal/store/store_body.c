/* Transactions: their form, the choice of branches, and the changes. */
#include "internal/store/store_int.h"

#include <stdlib.h>

static int failed(const struct err *e) {
    return -(int)e->code;
}

static struct store_ops *branch(struct store_body *b) {
    return b->succeeded ? &b->then : &b->els;
}

/* ---- form ---- */

static size_t max3(size_t a, size_t b, size_t c) {
    size_t m = a > b ? a : b;
    return m > c ? m : c;
}

static int ops_form(const struct store_ops *ops, uint32_t budget, unsigned depth, size_t *all,
                    struct err *e);

static int body_form(const struct store_body *b, uint32_t max_ops, unsigned depth, size_t *all,
                     struct err *e) {
    size_t most = max3(b->n_cmps, b->then.n, b->els.n);
    *all += b->then.n + b->els.n;
    if (most > max_ops || depth > LIM_TXN_DEPTH || *all > LIM_TXN_OPS_ALL) {
        return err_pub(e, ERR_INVALID, STORE_E_TOO_MANY_OPS);
    }
    for (size_t i = 0; i < b->n_cmps; i++) {
        if (!b->cmps[i].key.n) {
            return err_pub(e, ERR_INVALID, STORE_E_EMPTY_KEY);
        }
    }
    uint32_t budget = max_ops - (uint32_t)most;
    int rc = ops_form(&b->then, budget, depth, all, e);
    return rc < 0 ? rc : ops_form(&b->els, budget, depth, all, e);
}

static int ops_form(const struct store_ops *ops, uint32_t budget, unsigned depth, size_t *all,
                    struct err *e) {
    for (size_t i = 0; i < ops->n; i++) {
        const struct store_op *op = &ops->v[i];
        const char *wrong = NULL;
        int rc = 0;
        switch (op->kind) {
        case STORE_OP_RANGE: wrong = op->u.range.key.n ? NULL : STORE_E_EMPTY_KEY; break;
        case STORE_OP_DELETE: wrong = op->u.del.key.n ? NULL : STORE_E_EMPTY_KEY; break;
        case STORE_OP_PUT:
            if (!op->u.put.key.n) {
                wrong = STORE_E_EMPTY_KEY;
            } else if (op->u.put.ignore_value && op->u.put.value.n) {
                wrong = STORE_E_VALUE_GIVEN;
            } else if (op->u.put.ignore_lease && op->u.put.lease) {
                wrong = STORE_E_LEASE_GIVEN;
            }
            break;
        case STORE_OP_TXN: rc = body_form(op->u.txn, budget, depth + 1, all, e); break;
        case STORE_OP_NONE: wrong = STORE_E_NO_KEY; break; /* etcd's answer to it */
        }
        if (wrong) {
            return err_pub(e, ERR_INVALID, wrong);
        }
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

/* Keys put and intervals deleted by a list of operations with its nested ones. */
struct touched {
    struct map puts; /* value: which branch put it (see below) */
    const struct store_del **dels;
    size_t n_dels, cap_dels;
};

static void touched_fini(struct touched *t) {
    map_fini(&t->puts);
    free(t->dels);
}

/* etcd compares the end as it stands, so that a deletion up to the last key ("\0") conflicts with no put. */
static bool deleted(const struct touched *t, struct span key) {
    for (size_t i = 0; i < t->n_dels; i++) {
        struct span end = t->dels[i]->end;
        bool open_end = end.n == 1 && end.p[0] == 0;
        if (!open_end && range_holds(t->dels[i]->key, t->dels[i]->end, key)) {
            return true;
        }
    }
    return false;
}

static void add_del(struct touched *t, const struct store_del *d) {
    if (t->n_dels == t->cap_dels) {
        t->cap_dels = t->cap_dels ? t->cap_dels * 2 : 8;
        t->dels = mem_array(t->dels, t->cap_dels, sizeof(*t->dels), 2 * LIM_TXN_OPS_ALL);
        CHECK(t->dels);
    }
    t->dels[t->n_dels++] = d;
}

static int dup_key(struct err *e) {
    return err_pub(e, ERR_INVALID, STORE_E_DUP_KEY);
}

static int touch(struct touched *t, const struct store_ops *ops, struct err *e);

/* Then and else of one nested transaction exclude each other, so the same key may be in both. */
static int touch_nested(struct touched *t, const struct store_body *b, struct err *e) {
    AUTO(touched) struct touched then = {0};
    AUTO(touched) struct touched els = {0};
    int rc = touch(&then, &b->then, e);
    if (rc == 0) {
        rc = touch(&els, &b->els, e);
    }
    struct map_iter it = {0};
    struct map_entry *me;
    static const char mark;
    union {
        const char *c;
        void *v;
    } m = {.c = &mark};
    while (rc == 0 && map_next(&then.puts, &it, &me)) {
        struct span k = span_of(me->key, me->n);
        rc = map_get(&t->puts, k) || deleted(t, k) ? dup_key(e) : 0;
    }
    it = (struct map_iter){0};
    while (rc == 0 && map_next(&els.puts, &it, &me)) {
        struct span k = span_of(me->key, me->n);
        rc = map_get(&t->puts, k) || deleted(t, k) ? dup_key(e) : 0;
    }
    if (rc < 0) {
        return rc;
    }
    it = (struct map_iter){0};
    while (map_next(&then.puts, &it, &me)) {
        map_put(&t->puts, span_of(me->key, me->n), m.v);
    }
    it = (struct map_iter){0};
    while (map_next(&els.puts, &it, &me)) {
        map_put(&t->puts, span_of(me->key, me->n), m.v);
    }
    for (size_t i = 0; i < then.n_dels; i++) {
        add_del(t, then.dels[i]);
    }
    for (size_t i = 0; i < els.n_dels; i++) {
        add_del(t, els.dels[i]);
    }
    return 0;
}

/* etcd's rule: this level's deletes first, then nested puts against them, then this level's puts against all. */
static int touch(struct touched *t, const struct store_ops *ops, struct err *e) {
    for (size_t i = 0; i < ops->n; i++) {
        if (ops->v[i].kind == STORE_OP_DELETE) {
            add_del(t, &ops->v[i].u.del);
        }
    }
    for (size_t i = 0; i < ops->n; i++) {
        if (ops->v[i].kind == STORE_OP_TXN) {
            int rc = touch_nested(t, ops->v[i].u.txn, e);
            if (rc < 0) {
                return rc;
            }
        }
    }
    for (size_t i = 0; i < ops->n; i++) {
        if (ops->v[i].kind == STORE_OP_PUT) {
            struct span k = ops->v[i].u.put.key;
            if (map_get(&t->puts, k) || deleted(t, k)) {
                return dup_key(e);
            }
            map_put(&t->puts, k, t);
        }
    }
    return 0;
}

int body_check(const struct store_body *b, uint32_t max_ops, struct err *e) {
    size_t all = 0;
    int rc = body_form(b, max_ops, 0, &all, e);
    if (rc < 0 || all < 2) {
        return rc;
    }
    AUTO(touched) struct touched then = {0};
    AUTO(touched) struct touched els = {0};
    rc = touch(&then, &b->then, e);
    return rc < 0 ? rc : touch(&els, &b->els, e);
}

static bool ops_write(const struct store_ops *ops) {
    for (size_t i = 0; i < ops->n; i++) {
        if (ops->v[i].kind == STORE_OP_TXN ? body_writes(ops->v[i].u.txn)
                                           : ops->v[i].kind != STORE_OP_RANGE) {
            return true;
        }
    }
    return false;
}
bool body_writes(const struct store_body *b) {
    return ops_write(&b->then) || ops_write(&b->els);
}

/* Intervals, or many keys: it may take long, whatever branch is taken. */
enum { SHORT_OPS = 8 };
static bool ops_long(const struct store_ops *ops) {
    bool is = ops->n > SHORT_OPS;
    for (size_t i = 0; i < ops->n && !is; i++) {
        const struct store_op *op = &ops->v[i];
        is = op->kind == STORE_OP_TXN || (op->kind == STORE_OP_RANGE && op->u.range.end.n);
    }
    return is;
}
bool body_long(const struct store_body *b) {
    bool is = b->n_cmps > SHORT_OPS || ops_long(&b->then) || ops_long(&b->els);
    for (size_t i = 0; i < b->n_cmps && !is; i++) {
        is = b->cmps[i].end.n;
    }
    return is;
}

/* What a transaction may add to the file; only puts count, as in etcd. */
static uint64_t ops_cost(const struct store_ops *ops) {
    uint64_t sum = 0;
    for (size_t i = 0; i < ops->n; i++) {
        const struct store_op *op = &ops->v[i];
        if (op->kind == STORE_OP_PUT) {
            sum += 256 + op->u.put.key.n + op->u.put.value.n;
        } else if (op->kind == STORE_OP_TXN) {
            sum += body_cost(op->u.txn);
        }
    }
    return sum;
}
uint64_t body_cost(const struct store_body *b) {
    uint64_t then = ops_cost(&b->then), els = ops_cost(&b->els);
    return then > els ? then : els;
}

static size_t ops_bytes(const struct store_ops *ops) {
    size_t sum = 0;
    for (size_t i = 0; i < ops->n; i++) {
        const struct store_op *op = &ops->v[i];
        switch (op->kind) {
        case STORE_OP_RANGE: sum += op->u.range.key.n + op->u.range.end.n; break;
        case STORE_OP_PUT: sum += op->u.put.key.n + op->u.put.value.n; break;
        case STORE_OP_DELETE: sum += op->u.del.key.n + op->u.del.end.n; break;
        case STORE_OP_TXN: sum += body_bytes(op->u.txn); break;
        case STORE_OP_NONE: break;
        }
    }
    return sum;
}
size_t body_bytes(const struct store_body *b) {
    size_t sum = ops_bytes(&b->then) + ops_bytes(&b->els);
    for (size_t i = 0; i < b->n_cmps; i++) {
        sum += b->cmps[i].key.n + b->cmps[i].end.n + b->cmps[i].value.n;
    }
    return sum;
}

/* ---- comparing ---- */

struct compare {
    const struct view *v;
    const struct store_cmp *c;
    bool seen, holds;
    struct err *e;
};

static int num_cmp(int64_t a, int64_t b) {
    return a < b ? -1 : a > b;
}

static bool result_holds(enum store_result want, int c) {
    switch (want) {
    case STORE_EQUAL: return c == 0;
    case STORE_NOT_EQUAL: return c != 0;
    case STORE_GREATER: return c > 0;
    case STORE_LESS: return c < 0;
    }
    return false;
}

static int compare_row(void *ctx, struct span key, const struct row *r) {
    (void)key;
    struct compare *q = ctx;
    const struct store_cmp *c = q->c;
    int diff = 0;
    q->seen = true;
    switch (c->target) {
    case STORE_T_VERSION: diff = num_cmp(r->ver, c->num); break;
    case STORE_T_CREATE: diff = num_cmp(r->crev, c->num); break;
    case STORE_T_MOD: diff = num_cmp(id_rev(r->id), c->num); break;
    case STORE_T_LEASE: diff = num_cmp(r->lease ? r->lease ^ c->lease_mask : 0, c->num); break;
    case STORE_T_VALUE: {
        struct arena a = ARENA_INIT(64u << 20);
        struct span val;
        int rc = view_value(q->v, r->id, &a, &val, q->e);
        if (rc == 0) {
            diff = span_cmp(val, c->value);
        }
        arena_fini(&a);
        if (rc < 0) {
            return rc;
        }
        break;
    }
    }
    q->holds = result_holds(c->result, diff);
    return q->holds ? 0 : 1;
}

/* 1 holds, 0 not. A missing key counts as all zeros, but its value equals nothing. */
static int cmp_holds(const struct view *v, const struct store_cmp *c, struct err *e) {
    struct compare q = {.v = v, .c = c, .holds = true, .e = e};
    int rc = view_each(v, c->key, c->end, compare_row, &q, e);
    if (rc < 0) {
        return rc;
    }
    if (!q.seen) {
        q.holds = c->target != STORE_T_VALUE && result_holds(c->result, num_cmp(0, c->num));
    }
    return q.holds;
}

/* Nested comparisons see the state before the whole transaction. */
static int choose(const struct view *v, struct store_body *b, struct err *e) {
    b->succeeded = true;
    for (size_t i = 0; i < b->n_cmps && b->succeeded; i++) {
        int rc = cmp_holds(v, &b->cmps[i], e);
        if (rc < 0) {
            return rc;
        }
        b->succeeded = rc > 0;
    }
    struct store_ops *ops = branch(b);
    for (size_t i = 0; i < ops->n; i++) {
        if (ops->v[i].kind == STORE_OP_TXN) {
            int rc = choose(v, ops->v[i].u.txn, e);
            if (rc < 0) {
                return rc;
            }
        }
    }
    return 0;
}

static int check_lease(const struct view *v, const struct store_put *p, struct err *e) {
    if (!p->lease) {
        return 0;
    }
    sqlite3_stmt *st = db_stmt(v->d, ST_LEASE_GET, e);
    if (!st) {
        return failed(e);
    }
    sqlite3_bind_int64(st, 1, p->lease);
    int rc = sqlite3_step(st);
    int out = rc == SQLITE_ROW    ? 0
              : rc == SQLITE_DONE ? err_pub(e, ERR_NOT_FOUND, STORE_E_NO_LEASE)
                                  : db_fail(v->d, rc, "looking up a lease", e);
    sqlite3_reset(st);
    return out;
}

static int check_key(const struct view *v, const struct store_put *p, struct err *e) {
    if (!p->ignore_value && !p->ignore_lease) {
        return 0;
    }
    struct row r;
    int rc = view_find(v, p->key, &r, e);
    return rc < 0 ? rc : rc == 0 ? err_pub(e, ERR_INVALID, STORE_E_NO_KEY) : 0;
}

static int check_put(const struct view *v, const struct store_put *p, bool lone, struct err *e) {
    int rc = lone ? check_lease(v, p, e) : check_key(v, p, e);
    return rc < 0 ? rc : lone ? check_key(v, p, e) : check_lease(v, p, e);
}

static int check_ops(const struct view *v, struct store_body *b, enum store_op_kind kind,
                     struct err *e) {
    struct store_ops *ops = branch(b);
    for (size_t i = 0; i < ops->n; i++) {
        struct store_op *op = &ops->v[i];
        int rc = 0;
        if (op->kind == STORE_OP_TXN) {
            rc = check_ops(v, op->u.txn, kind, e);
        } else if (op->kind == kind && kind == STORE_OP_PUT) {
            rc = check_put(v, &op->u.put, b->lone, e);
        } else if (op->kind == kind && op->u.range.rev > v->rev) {
            rc = err_pub(e, ERR_GONE, STORE_E_FUTURE);
        } else if (op->kind == kind && op->u.range.rev &&
                   op->u.range.rev < (v->compact_rev ? v->compact_rev : -1)) {
            rc = err_pub(e, ERR_GONE, STORE_E_COMPACTED);
        }
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

int body_prepare(const struct view *v, struct store_body *b, struct err *e) {
    int rc = choose(v, b, e);
    if (rc == 0) {
        rc = check_ops(v, b, STORE_OP_PUT, e);
    }
    return rc < 0 ? rc : check_ops(v, b, STORE_OP_RANGE, e);
}

/* ---- changing ---- */

static int log_add(struct change *c, struct span key, const struct row *r, struct span val,
                   struct err *e) {
    sqlite3_stmt *st = db_stmt(c->v.d, ST_LOG_ADD, e);
    if (!st) {
        return failed(e);
    }
    sqlite3_bind_int64(st, 1, r->id);
    db_bind_span(st, 2, key);
    sqlite3_bind_int64(st, 3, r->crev);
    sqlite3_bind_int64(st, 4, r->ver);
    sqlite3_bind_int64(st, 5, r->lease);
    sqlite3_bind_int64(st, 6, r->prev);
    db_bind_span(st, 7, val);
    return db_done(c->v.d, st, "appending to the log", e);
}

static int cur_put(struct change *c, struct span key, const struct row *r,
                   const struct present *old, struct err *e) {
    struct past past = old->past;
    int rc = old->now.id ? past_push(&c->v, key, r->id, old->now.id, &past, e) : 0;
    bool same = r->lease == old->now.lease; /* spares the index of leases */
    enum stmt_id how = !old->now.id ? ST_CUR_ADD : same ? ST_CUR_NEXT : ST_CUR_SET;
    sqlite3_stmt *st = rc < 0 ? NULL : db_stmt(c->v.d, how, e);
    if (!st) {
        return failed(e);
    }
    if (c->counts && (r->ver > 0) != (old->now.ver > 0)) {
        count_note(c->counts, c->new_rev, key, r->ver > 0);
    }
    db_bind_span(st, 1, key);
    sqlite3_bind_int64(st, 2, r->id);
    sqlite3_bind_int64(st, 3, r->crev);
    sqlite3_bind_int64(st, 4, r->ver);
    if (how != ST_CUR_NEXT) {
        sqlite3_bind_int64(st, 5, r->lease);
    }
    db_bind_span(st, 6, span_of(past.b, past.n)); /* empty: it was made just now */
    return db_done(c->v.d, st, "writing a key", e);
}

/* An overwrite finds the row once: on its way there SQLite asks may_replace() with the row as it was, which keeps it, and
 * new_past() for what becomes of the list. No for what needs more than that: a deleted key, another lease, a full list. */
struct overwrite {
    int64_t id, lease;
    struct present old; /* now.id 0: there is no such key */
    struct past past;
    bool done;
};

static void may_replace(sqlite3_context *ctx, int n, sqlite3_value **v) {
    (void)n;
    struct overwrite *o = ((struct db *)sqlite3_user_data(ctx))->over;
    struct present *p = &o->old;
    p->now = (struct row){sqlite3_value_int64(v[0]), sqlite3_value_int64(v[1]),
                          sqlite3_value_int64(v[2]), sqlite3_value_int64(v[3]), 0};
    past_set(&p->past, span_of(sqlite3_value_blob(v[4]), (size_t)sqlite3_value_bytes(v[4])));
    o->past = p->past;
    o->done = p->now.ver > 0 && p->now.lease == o->lease && past_add(&o->past, o->id, p->now.id);
    sqlite3_result_int(ctx, o->done);
}

static void new_past(sqlite3_context *ctx, int n, sqlite3_value **v) {
    (void)n;
    (void)v;
    struct overwrite *o = ((struct db *)sqlite3_user_data(ctx))->over;
    sqlite3_result_blob(ctx, o->past.b, o->past.n, SQLITE_STATIC);
}

int body_functions(struct db *d, struct err *e) {
    enum { FLAGS = SQLITE_UTF8 | SQLITE_DIRECTONLY };
    int rc = sqlite3_create_function(d->h, "may_replace", 5, FLAGS, d, may_replace, NULL, NULL);
    rc = rc ? rc : sqlite3_create_function(d->h, "new_past", 0, FLAGS, d, new_past, NULL, NULL);
    return rc ? db_fail(d, rc, "preparing the database", e) : 0;
}

/* 1: there is such a key, which is overwritten if o->done says so. */
static int overwrite(struct change *c, struct span key, struct overwrite *o, struct err *e) {
    struct db *d = c->v.d;
    sqlite3_stmt *st = db_stmt(d, ST_CUR_OVER, e);
    if (!st) {
        return failed(e);
    }
    db_bind_span(st, 1, key);
    sqlite3_bind_int64(st, 2, o->id);
    d->over = o;
    int rc = db_done(d, st, "overwriting a key", e);
    d->over = NULL;
    return rc < 0 ? rc : o->old.now.ver > 0;
}

int change_row(struct change *c, struct span key, const struct row *r, struct span val,
               const struct present *old, struct err *e) {
    int rc = log_add(c, key, r, val, e);
    return rc < 0 ? rc : cur_put(c, key, r, old, e);
}

static int take_id(struct change *c, int64_t *ret, struct err *e) {
    if (c->sub >= SUB_MAX) {
        return err_pub(e, ERR_INVALID, STORE_E_TOO_LARGE);
    }
    *ret = id_of(c->new_rev, c->sub++);
    return 0;
}

/* The value before the change: for the event and for the answer. */
static int load_prev(struct change *c, struct span key, const struct row *old, struct arena *a,
                     struct store_kv *ret, struct err *e) {
    struct span val;
    int rc = view_value(&c->v, old->id, a, &val, e);
    if (rc == 0) {
        *ret = (struct store_kv){key, val, old->crev, id_rev(old->id), old->ver, old->lease};
    }
    return rc;
}

static int add_event(struct change *c, enum store_event_type type, const struct store_kv *kv,
                     const struct row *old, bool exists, struct err *e) {
    if (!c->eb) {
        return 0;
    }
    struct store_event ev = {.type = type, .kv = *kv};
    struct row before = *old; /* what an event replaces is what was there before its revision */
    if (exists && id_rev(old->id) == c->new_rev) {
        struct view at = c->v;
        at.at = c->new_rev - 1;
        int rc = view_find(&at, kv->key, &before, e);
        if (rc < 0) {
            return rc;
        }
        exists = rc > 0;
    }
    if (exists && c->want_prev) {
        int rc = load_prev(c, kv->key, &before, &c->eb->a, &ev.prev, e);
        if (rc < 0) {
            return rc;
        }
        ev.has_prev = true;
    }
    return ebatch_add(c->eb, &ev, exists ? before.id : 0, e);
}

static int one_kv(struct arena *a, const struct store_kv *kv, struct store_range_res *ret,
                  struct err *e) {
    struct store_kv *p = arena_new(a, struct store_kv);
    if (!p) {
        return err_pub(e, ERR_LIMIT, STORE_E_TOO_LARGE);
    }
    *p = *kv;
    ret->kvs = p;
    ret->n = 1;
    return 0;
}

static int apply_put(struct change *c, struct store_op *op, struct err *e) {
    struct store_put *p = &op->u.put;
    struct overwrite o = {.lease = p->lease};
    const struct row *old = &o.old.now;
    struct store_kv prev = {.key = p->key};
    int rc = take_id(c, &o.id, e);
    int exists = rc < 0            ? rc
                 : p->ignore_lease ? view_present(&c->v, p->key, &o.old, e)
                                   : overwrite(c, p->key, &o, e);
    if (exists < 0) {
        return exists;
    }
    if (exists && (p->prev_kv || p->ignore_value)) {
        rc = load_prev(c, p->key, old, c->a, &prev, e);
    }
    struct row now = {.id = o.id,
                      .crev = exists ? old->crev : c->new_rev,
                      .ver = exists ? old->ver + 1 : 1,
                      .lease = p->ignore_lease ? old->lease : p->lease,
                      .prev = old->id};
    struct span val = p->ignore_value ? prev.value : p->value;
    if (rc < 0 || (rc = log_add(c, p->key, &now, val, e)) < 0 ||
        (!o.done && (rc = cur_put(c, p->key, &now, &o.old, e)) < 0)) {
        return rc;
    }
    c->n_puts++;
    struct store_kv kv = {p->key, val, now.crev, c->new_rev, now.ver, now.lease};
    rc = add_event(c, STORE_PUT, &kv, old, exists > 0, e);
    if (rc == 0 && p->prev_kv && exists) {
        rc = one_kv(c->a, &prev, &op->range, e);
    }
    op->range.rev = c->new_rev;
    return rc;
}

int change_delete(struct change *c, struct span key, const struct present *old, struct err *e) {
    struct row now = {.prev = old->now.id};
    int rc = take_id(c, &now.id, e);
    if (rc < 0 || (rc = change_row(c, key, &now, SPAN_EMPTY, old, e)) < 0) {
        return rc;
    }
    c->n_deletes++;
    struct store_kv kv = {.key = key, .mod_rev = c->new_rev};
    return add_event(c, STORE_DELETE, &kv, &old->now, true, e);
}

static int apply_delete(struct change *c, struct store_op *op, struct err *e) {
    /* The rows must be known before the first change: a statement may not walk what another one writes. */
    struct store_range_req q = {
        .key = op->u.del.key, .end = op->u.del.end, .keys_only = !op->u.del.prev_kv};
    struct store_range_res r = {0};
    int rc = view_range(&c->v, &q, c->a, &r, e);
    for (size_t i = 0; i < r.n && rc == 0; i++) {
        struct present old;
        rc = view_present(&c->v, r.kvs[i].key, &old, e);
        if (rc > 0) {
            rc = change_delete(c, r.kvs[i].key, &old, e);
        }
    }
    op->range.count = (int64_t)r.n;
    if (op->u.del.prev_kv) {
        op->range.kvs = r.kvs;
        op->range.n = r.n;
    }
    op->range.rev = c->sub ? c->new_rev : c->v.rev;
    return rc;
}

int body_apply(struct change *c, struct store_body *b, struct err *e) {
    struct store_ops *ops = branch(b);
    for (size_t i = 0; i < ops->n; i++) {
        struct store_op *op = &ops->v[i];
        int rc = 0;
        switch (op->kind) {
        case STORE_OP_RANGE:
            rc = view_range(&c->v, &op->u.range, c->a, &op->range, e);
            op->range.rev = c->sub ? c->new_rev : c->v.rev;
            break;
        case STORE_OP_PUT: rc = apply_put(c, op, e); break;
        case STORE_OP_DELETE: rc = apply_delete(c, op, e); break;
        case STORE_OP_TXN: rc = body_apply(c, op->u.txn, e); break;
        case STORE_OP_NONE: break;
        }
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}
