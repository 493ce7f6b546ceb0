/* Ranges of keys as of a revision: given key by key straight from the pages that hold them, or collected and sorted first
 * where the order is not the keys'. */
#include "internal/store/store_int.h"

#include <stdlib.h>

static int failed(const struct err *e) {
    return -(int)e->code;
}

static int range_form(const struct view *v, const struct store_range_req *q, struct err *e) {
    if (!q->key.n) {
        return err_pub(e, ERR_INVALID, STORE_E_EMPTY_KEY);
    }
    if (q->rev > v->rev) {
        return err_pub(e, ERR_GONE, STORE_E_FUTURE);
    }
    if (q->rev > 0 && q->rev < v->compact_rev) {
        return err_pub(e, ERR_GONE, STORE_E_COMPACTED);
    }
    return 0;
}

/* ---- counting ---- */

/* Keys of the view that are not there any more, or were made anew. */
static int count_gone(const struct view *v, struct span key, struct span end, int64_t *count,
                      struct err *e) {
    sqlite3_stmt *st = view_rows(v, ST_GONE_RANGE, ST_GONE_FROM, key, end, e);
    if (!st) {
        return failed(e);
    }
    sqlite3_bind_int64(st, 3, v->at);
    sqlite3_bind_int64(st, 4, id_of(v->at + 1, 0) - 1);
    int out = 0, rc = SQLITE_DONE;
    while (out >= 0 && (rc = sqlite3_step(st)) == SQLITE_ROW) {
        struct row r;
        out = view_row(v, st, &r, e);
        *count += out > 0;
    }
    if (rc != SQLITE_ROW && rc != SQLITE_DONE) {
        out = db_fail(v->d, rc, "counting keys", e);
    }
    sqlite3_reset(st);
    return out < 0 ? out : 0;
}

/* A key that is there and was made at the view's revision or before was there then. The first statement stays open, so that
 * both see the same even where no transaction is. */
static int count_each(const struct view *v, struct span key, struct span end, int64_t *ret,
                      struct err *e) {
    int64_t last = 0;
    sqlite3_stmt *st = view_rows(v, ST_COUNT_RANGE, ST_COUNT_FROM, key, end, e);
    if (!st) {
        return failed(e);
    }
    sqlite3_bind_int64(st, 3, v->at);
    int rc = sqlite3_step(st);
    int out = rc == SQLITE_ROW ? 0 : db_fail(v->d, rc, "counting keys", e);
    if (out == 0) {
        *ret += sqlite3_column_int64(st, 0);
        out = db_i64(v->d, ST_LOG_LAST, &last, e);
    }
    if (out == 0 && id_rev(last) > v->at) {
        out = count_gone(v, key, end, ret, e);
    }
    sqlite3_reset(st);
    return out;
}

static int count_keys(const struct view *v, struct span key, struct span end, int64_t *ret,
                      struct err *e) {
    const struct counted *c = v->known;
    struct row r;
    if (!end.n) {
        int rc = view_find(v, key, &r, e);
        *ret = rc > 0;
        return rc < 0 ? rc : 0;
    }
    *ret = c ? c->n : 0;
    if (!c) {
        return count_each(v, key, end, ret, e);
    }
    int rc = span_eq(key, c->from) ? 0 : count_each(v, key, c->from, ret, e);
    return rc < 0 || !c->to.n || span_eq(c->to, end) ? rc : count_each(v, c->to, end, ret, e);
}

/* ---- in the order of the keys ---- */

struct reading {
    struct view v;
    const struct store_range_req *q;
    view_kv_cb *each;
    void *ctx;
    struct store_range_res res;
    struct err *e;
};

static int give(struct reading *g, struct span key, struct span value, const struct row *r) {
    struct store_kv kv = {key, value, r->crev, id_rev(r->id), r->ver, r->lease};
    g->res.n++;
    int rc = g->each(g->ctx, &kv);
    return rc < 0 && !g->e->code ? err_set(g->e, (enum err_code) - rc, "the answer ended early")
                                 : rc;
}

/* The value is somewhere in the log. */
static int give_of(struct reading *g, struct span key, const struct row *r) {
    if (g->q->keys_only) {
        return give(g, key, SPAN_EMPTY, r);
    }
    sqlite3_stmt *st = db_stmt(g->v.d, ST_LOG_VAL, g->e);
    if (!st) {
        return failed(g->e);
    }
    sqlite3_bind_int64(st, 1, r->id);
    int rc = sqlite3_step(st);
    int out = rc == SQLITE_ROW ? give(g, key, db_col_span(st, 0), r)
              : rc == SQLITE_DONE
                  ? err_set(g->e, ERR_CORRUPT, "revision %lld is missing in the log",
                            (long long)id_rev(r->id))
                  : db_fail(g->v.d, rc, "reading a value", g->e);
    sqlite3_reset(st);
    return out;
}

enum { COL_ID = 1, COL_VALUE = 6 }; /* behind STORE_ROW */

static int give_row(struct reading *g, sqlite3_stmt *st, const struct row *r) {
    struct span key = db_col_span(st, 0);
    bool here = !g->q->keys_only && r->id == sqlite3_column_int64(st, COL_ID) &&
                sqlite3_column_type(st, COL_VALUE) == SQLITE_BLOB;
    return here ? give(g, key, db_col_span(st, COL_VALUE), r) : give_of(g, key, r);
}

static int read_keys(struct reading *g) {
    const struct store_range_req *q = g->q;
    sqlite3_stmt *st = !q->end.n ? view_rows(&g->v, ST_READ_KEY, ST_READ_KEY, q->key, q->end, g->e)
                       : q->keys_only
                           ? view_rows(&g->v, ST_CUR_RANGE, ST_CUR_FROM, q->key, q->end, g->e)
                           : view_rows(&g->v, ST_READ_RANGE, ST_READ_FROM, q->key, q->end, g->e);
    if (!st) {
        return failed(g->e);
    }
    size_t limit = q->limit > 0 ? (size_t)q->limit : SIZE_MAX;
    int out = 0, rc = SQLITE_DONE;
    while (out >= 0 && !g->res.more && (rc = sqlite3_step(st)) == SQLITE_ROW) {
        struct row r;
        out = view_row(&g->v, st, &r, g->e);
        if (out > 0 && g->res.n == limit) {
            g->res.more = true;
        } else if (out > 0) {
            out = give_row(g, st, &r);
        }
    }
    if (rc != SQLITE_ROW && rc != SQLITE_DONE) {
        out = db_fail(g->v.d, rc, "reading a range of keys", g->e);
    }
    g->res.count = (int64_t)g->res.n + g->res.more;
    if (out >= 0 && g->res.more && !q->no_count) {
        struct span rest = g->v.known ? q->key : db_col_span(st, 0);
        out = count_keys(&g->v, rest, q->end, &g->res.count, g->e);
        g->res.count += g->v.known ? 0 : (int64_t)g->res.n;
    }
    sqlite3_reset(st);
    return out < 0 ? out : 0;
}

/* ---- in another order ---- */

struct item {
    struct span key, value; /* value: where it is what they are sorted by */
    struct row r;
};

struct collect {
    struct reading *g;
    struct arena a;
    struct item *items;
    size_t n, cap;
    uint64_t fetch; /* rows to keep; beyond that only counting */
    int64_t count;
};

static bool pruned(const struct store_range_req *q, const struct row *r) {
    int64_t mod = id_rev(r->id);
    return (q->max_mod && mod > q->max_mod) || (q->min_mod && mod < q->min_mod) ||
           (q->max_create && r->crev > q->max_create) || (q->min_create && r->crev < q->min_create);
}

static int collect_row(void *ctx, struct span key, const struct row *r) {
    struct collect *c = ctx;
    struct err *e = c->g->e;
    c->count++;
    if (c->n >= c->fetch || pruned(c->g->q, r)) {
        return 0;
    }
    if (c->n == c->cap) {
        size_t cap = c->cap ? c->cap * 2 : 8;
        struct item *p = mem_array(c->items, cap, sizeof(struct item), (size_t)1 << 32);
        if (!p) {
            return err_set(e, ERR_NOMEM, "range of %zu keys", c->n);
        }
        c->items = p;
        c->cap = cap;
    }
    struct item *it = &c->items[c->n];
    *it = (struct item){.key = arena_copy(&c->a, key), .r = *r};
    if (!it->key.p) {
        return err_pub(e, ERR_LIMIT, STORE_E_TOO_LARGE);
    }
    c->n++;
    return c->g->q->by == STORE_BY_VALUE ? view_value(&c->g->v, r->id, &c->a, &it->value, e) : 0;
}

static int cmp_i64(int64_t a, int64_t b) {
    return a < b ? -1 : a > b;
}

static int item_cmp(const void *pa, const void *pb, void *ctx) {
    const struct item *a = pa, *b = pb;
    const struct store_range_req *q = ctx;
    int c = 0;
    switch (q->by) {
    case STORE_BY_KEY: break;
    case STORE_BY_VERSION: c = cmp_i64(a->r.ver, b->r.ver); break;
    case STORE_BY_CREATE: c = cmp_i64(a->r.crev, b->r.crev); break;
    case STORE_BY_MOD: c = cmp_i64(id_rev(a->r.id), id_rev(b->r.id)); break;
    case STORE_BY_VALUE: c = span_cmp(a->value, b->value); break;
    }
    if (!c) { /* equal ones keep the order of their keys, in both directions */
        int keys = span_cmp(a->key, b->key);
        return q->by == STORE_BY_KEY && q->order == STORE_SORT_DESCEND ? -keys : keys;
    }
    return q->order == STORE_SORT_DESCEND ? -c : c;
}

static bool filtered(const struct store_range_req *q) {
    return q->min_mod || q->max_mod || q->min_create || q->max_create;
}

/* Sorts, cuts at the limit and gives what is left. */
static int give_items(struct collect *c) {
    struct reading *g = c->g;
    struct store_range_req q = *g->q;
    if (c->n > 1 && (q.by != STORE_BY_KEY || q.order == STORE_SORT_DESCEND)) {
        qsort_r(c->items, c->n, sizeof(struct item), item_cmp, &q);
    }
    size_t n = c->n;
    if (q.limit > 0 && (uint64_t)n > (uint64_t)q.limit) {
        n = (size_t)q.limit;
        g->res.more = true;
    }
    g->res.count = c->count;
    int rc = 0;
    for (size_t i = 0; i < n && rc >= 0; i++) {
        const struct item *it = &c->items[i];
        rc = q.by == STORE_BY_VALUE ? give(g, it->key, q.keys_only ? SPAN_EMPTY : it->value, &it->r)
                                    : give_of(g, it->key, &it->r);
    }
    return rc;
}

static int read_sorted(struct reading *g) {
    const struct store_range_req *q = g->q;
    struct collect c = {.g = g, .a = ARENA_INIT((size_t)1 << 31), .fetch = UINT64_MAX};
    /* As etcd: without an order but with something to sort by, what the limit lets through is sorted. */
    if (q->order == STORE_SORT_NONE && !filtered(q) && q->limit > 0) {
        c.fetch = (uint64_t)q->limit + 1; /* one more tells whether there is more */
    }
    int rc = view_each(&g->v, q->key, q->end, collect_row, &c, g->e);
    if (rc == 0) {
        rc = give_items(&c);
    }
    free(c.items);
    arena_fini(&c.a);
    return rc;
}

/* ---- both ---- */

int view_read(const struct view *v, const struct store_range_req *q, view_kv_cb *each, void *ctx,
              struct store_range_res *ret, struct err *e) {
    int rc = range_form(v, q, e);
    if (rc < 0) {
        return rc;
    }
    struct reading g = {.v = *v, .q = q, .each = each, .ctx = ctx, .e = e};
    g.res.rev = v->rev;
    if (q->rev > 0) {
        g.v.at = q->rev;
    }
    bool in_order = q->by == STORE_BY_KEY && q->order != STORE_SORT_DESCEND && !filtered(q);
    rc = q->count_only ? count_keys(&g.v, q->key, q->end, &g.res.count, e)
         : in_order    ? read_keys(&g)
                       : read_sorted(&g);
    if (rc == 0) {
        *ret = g.res;
    }
    return rc;
}

struct copies {
    struct arena *a;
    struct store_kv *v;
    size_t n, cap;
    struct err *e;
};

static int copy_kv(void *ctx, const struct store_kv *kv) {
    struct copies *c = ctx;
    if (c->n == c->cap) {
        size_t cap = c->cap ? c->cap * 2 : 1;
        struct store_kv *p = mem_array(c->v, cap, sizeof(*p), (size_t)1 << 32);
        if (!p) {
            return err_set(c->e, ERR_NOMEM, "range of %zu keys", c->n);
        }
        c->v = p;
        c->cap = cap;
    }
    struct store_kv *to = &c->v[c->n];
    *to = *kv;
    to->key = arena_copy(c->a, kv->key);
    to->value = kv->value.n ? arena_copy(c->a, kv->value) : SPAN_EMPTY;
    if (!to->key.p || (kv->value.n && !to->value.p)) {
        return err_pub(c->e, ERR_LIMIT, STORE_E_TOO_LARGE);
    }
    c->n++;
    return 0;
}

int view_range(const struct view *v, const struct store_range_req *q, struct arena *a,
               struct store_range_res *ret, struct err *e) {
    struct copies c = {.a = a, .e = e};
    struct store_range_res res;
    int rc = view_read(v, q, copy_kv, &c, &res, e);
    if (rc == 0 && c.n) {
        res.kvs = arena_alloc(a, c.n * sizeof(*c.v));
        if (res.kvs) {
            memcpy(res.kvs, c.v, c.n * sizeof(*c.v));
        } else {
            rc = err_pub(e, ERR_LIMIT, STORE_E_TOO_LARGE);
        }
    }
    free(c.v);
    if (rc == 0) {
        *ret = res;
    }
    return rc;
}
