/* Reading keys as of a revision: points, intervals, sorting and limits, on either connection. */
#include "internal/store/store_int.h"

#include <stdlib.h>

static int failed(const struct err *e) {
    return -(int)e->code;
}

bool range_holds(struct span key, struct span end, struct span k) {
    if (!end.n) {
        return span_eq(key, k);
    }
    if (span_cmp(k, key) < 0) {
        return false;
    }
    return (end.n == 1 && end.p[0] == 0) || span_cmp(k, end) < 0;
}

int view_head(const struct view *v, int64_t id, struct row *ret, struct err *e) {
    sqlite3_stmt *st = db_stmt(v->d, ST_LOG_HEAD, e);
    if (!st) {
        return failed(e);
    }
    sqlite3_bind_int64(st, 1, id);
    int rc = sqlite3_step(st);
    int out = rc == SQLITE_ROW    ? 1
              : rc == SQLITE_DONE ? 0
                                  : db_fail(v->d, rc, "reading the log", e);
    if (out > 0) {
        *ret = (struct row){id, sqlite3_column_int64(st, 0), sqlite3_column_int64(st, 1),
                            sqlite3_column_int64(st, 2), sqlite3_column_int64(st, 3)};
    }
    sqlite3_reset(st);
    return out;
}

/* The key as old as the view. 1: it exists there, 0: it does not. */
static int back_to(const struct view *v, struct span key, struct span past, struct row *r,
                   struct err *e) {
    if (id_rev(r->id) > v->at) {
        int64_t id = r->id;
        int rc = past_find(v, key, past, &id, e);
        if (rc > 0) {
            rc = view_head(v, id, r, e); /* not there: a deletion, compacted */
        }
        if (rc <= 0) {
            return rc;
        }
    }
    return r->ver > 0;
}

static struct row row_of(sqlite3_stmt *st, int from) {
    return (struct row){sqlite3_column_int64(st, from), sqlite3_column_int64(st, from + 1),
                        sqlite3_column_int64(st, from + 2), sqlite3_column_int64(st, from + 3), 0};
}

static int find(const struct view *v, struct span key, struct row *ret, struct past *ret_past,
                struct err *e) {
    sqlite3_stmt *st = db_stmt(v->d, ST_CUR_GET, e);
    if (!st) {
        return failed(e);
    }
    *ret = (struct row){0};
    db_bind_span(st, 1, key);
    int rc = sqlite3_step(st), out = 0;
    if (rc == SQLITE_ROW) {
        *ret = row_of(st, 0);
        if (ret_past) {
            struct span p = db_col_span(st, 4);
            ret_past->n = (uint8_t)(p.n < PAST_MAX ? p.n : PAST_MAX);
            if (p.n) {
                memcpy(ret_past->b, p.p, ret_past->n);
            }
        }
        out = id_rev(ret->id) > v->at ? back_to(v, key, db_col_span(st, 4), ret, e) : ret->ver > 0;
    } else if (rc != SQLITE_DONE) {
        out = db_fail(v->d, rc, "looking up a key", e);
    }
    sqlite3_reset(st);
    return out;
}

int view_last(const struct view *v, struct span key, int64_t *ret_id, struct err *e) {
    sqlite3_stmt *st = db_stmt(v->d, ST_CUR_GET, e);
    if (!st) {
        return failed(e);
    }
    db_bind_span(st, 1, key);
    int rc = sqlite3_step(st), out = 0;
    *ret_id = 0;
    if (rc == SQLITE_ROW) {
        *ret_id = sqlite3_column_int64(st, 0);
        if (id_rev(*ret_id) > v->at) {
            out = past_find(v, key, db_col_span(st, 4), ret_id, e);
            *ret_id = out > 0 ? *ret_id : 0;
        }
    } else if (rc != SQLITE_DONE) {
        out = db_fail(v->d, rc, "looking up a key", e);
    }
    sqlite3_reset(st);
    return out < 0 ? out : 0;
}

int view_find(const struct view *v, struct span key, struct row *ret, struct err *e) {
    return find(v, key, ret, NULL, e);
}
int view_present(const struct view *v, struct span key, struct present *ret, struct err *e) {
    ret->past.n = 0;
    return find(v, key, &ret->now, &ret->past, e);
}

int view_each(const struct view *v, struct span key, struct span end, view_row_cb *cb, void *ctx,
              struct err *e) {
    struct row r;
    if (!end.n) {
        int rc = view_find(v, key, &r, e);
        if (rc > 0) {
            rc = cb(ctx, key, &r);
        }
        return rc < 0 ? rc : 0;
    }
    bool open_end = end.n == 1 && end.p[0] == 0;
    sqlite3_stmt *st = db_stmt(v->d, open_end ? ST_CUR_FROM : ST_CUR_RANGE, e);
    if (!st) {
        return failed(e);
    }
    /* etcd's "\0" as a start means the first key */
    db_bind_span(st, 1, key.n == 1 && key.p[0] == 0 && open_end ? SPAN_EMPTY : key);
    if (!open_end) {
        db_bind_span(st, 2, end);
    }
    int out = 0;
    for (;;) {
        int rc = sqlite3_step(st);
        if (rc != SQLITE_ROW) {
            out = rc == SQLITE_DONE ? 0 : db_fail(v->d, rc, "reading a range of keys", e);
            break;
        }
        r = row_of(st, 1);
        out = id_rev(r.id) > v->at ? back_to(v, db_col_span(st, 0), db_col_span(st, 5), &r, e)
                                   : r.ver > 0;
        if (out > 0) {
            out = cb(ctx, db_col_span(st, 0), &r);
        }
        if (out != 0) {
            break;
        }
    }
    sqlite3_reset(st);
    return out < 0 ? out : 0;
}

int view_value(const struct view *v, int64_t id, struct arena *a, struct span *ret, struct err *e) {
    sqlite3_stmt *st = db_stmt(v->d, ST_LOG_VAL, e);
    if (!st) {
        return failed(e);
    }
    sqlite3_bind_int64(st, 1, id);
    int rc = sqlite3_step(st);
    int out = 0;
    if (rc == SQLITE_ROW) {
        struct span val = db_col_span(st, 0);
        struct span copy = arena_copy(a, val);
        if (!copy.p) {
            out = err_pub(e, ERR_LIMIT, STORE_E_TOO_LARGE);
        } else {
            *ret = copy;
        }
    } else if (rc == SQLITE_DONE) {
        out = err_set(e, ERR_CORRUPT, "revision %lld is missing in the log", (long long)id_rev(id));
    } else {
        out = db_fail(v->d, rc, "reading a value", e);
    }
    sqlite3_reset(st);
    return out;
}

int view_log(const struct view *v, int64_t id, struct arena *a, struct store_kv *ret,
             struct err *e) {
    sqlite3_stmt *st = db_stmt(v->d, ST_LOG_GET, e);
    if (!st) {
        return failed(e);
    }
    sqlite3_bind_int64(st, 1, id);
    int rc = sqlite3_step(st);
    int out = 0;
    if (rc == SQLITE_ROW) {
        struct span key = arena_copy(a, db_col_span(st, 0)),
                    val = arena_copy(a, db_col_span(st, 5));
        if (!key.p || !val.p) {
            out = err_pub(e, ERR_LIMIT, STORE_E_TOO_LARGE);
        } else {
            *ret = (struct store_kv){key,
                                     val,
                                     sqlite3_column_int64(st, 1),
                                     id_rev(id),
                                     sqlite3_column_int64(st, 2),
                                     sqlite3_column_int64(st, 3)};
        }
    } else {
        out = rc == SQLITE_DONE ? -ERR_NOT_FOUND : db_fail(v->d, rc, "reading the log", e);
    }
    sqlite3_reset(st);
    return out;
}

/* ---- ranges ---- */

struct item {
    struct span key, value;
    struct row r;
    bool loaded;
};

struct collect {
    const struct view *v;
    const struct store_range_req *q;
    struct arena *a;
    struct item *items;
    size_t n, cap;
    uint64_t fetch; /* rows to keep; beyond that only counting */
    int64_t count;
    bool stop_at_fetch;
    struct err *e;
};

static bool pruned(const struct store_range_req *q, const struct row *r) {
    int64_t mod = id_rev(r->id);
    return (q->max_mod && mod > q->max_mod) || (q->min_mod && mod < q->min_mod) ||
           (q->max_create && r->crev > q->max_create) || (q->min_create && r->crev < q->min_create);
}

static int collect_row(void *ctx, struct span key, const struct row *r) {
    struct collect *c = ctx;
    c->count++;
    if (c->q->count_only) {
        return 0;
    }
    if (c->n >= c->fetch) {
        return c->stop_at_fetch ? 1 : 0;
    }
    if (pruned(c->q, r)) {
        return 0;
    }
    if (c->n == c->cap) {
        size_t cap = c->cap ? c->cap * 2 : 8;
        struct item *p = mem_array(c->items, cap, sizeof(struct item), (size_t)1 << 32);
        if (!p) {
            return err_set(c->e, ERR_NOMEM, "range of %zu keys", c->n);
        }
        c->items = p;
        c->cap = cap;
    }
    struct span k = arena_copy(c->a, key);
    if (!k.p) {
        return err_pub(c->e, ERR_LIMIT, STORE_E_TOO_LARGE);
    }
    c->items[c->n++] = (struct item){.key = k, .r = *r};
    return 0;
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

static int item_by_id(const void *pa, const void *pb) {
    const struct item *a = *(struct item *const *)pa, *b = *(struct item *const *)pb;
    return cmp_i64(a->r.id, b->r.id);
}

/* In the order of the log: keys next to each other were seldom written next to each other. */
static int load_values(struct collect *c, const struct view *at, size_t n) {
    struct item **v = mem_array(NULL, n + 1, sizeof(*v), (size_t)1 << 32);
    bool sorted = true;
    int rc = v ? 0 : err_set(c->e, ERR_NOMEM, "range of %zu keys", n);
    for (size_t i = 0; i < n && rc == 0; i++) {
        v[i] = &c->items[i];
        sorted = sorted && (i == 0 || v[i - 1]->r.id < v[i]->r.id);
    }
    if (rc == 0 && !sorted) {
        qsort(v, n, sizeof(*v), item_by_id);
    }
    for (size_t i = 0; i < n && rc == 0; i++) {
        if (!v[i]->loaded) {
            rc = view_value(at, v[i]->r.id, c->a, &v[i]->value, c->e);
            v[i]->loaded = true;
        }
    }
    free(v);
    return rc;
}

/* Sorts, cuts at the limit and loads what is left. */
static int finish(struct collect *c, const struct view *at, struct store_range_res *ret) {
    struct store_range_req q = *c->q;
    if (q.by != STORE_BY_KEY && q.order == STORE_SORT_NONE) {
        q.order = STORE_SORT_ASCEND;
    }
    int rc = q.by == STORE_BY_VALUE ? load_values(c, at, c->n) : 0;
    if (rc < 0) {
        return rc;
    }
    if (c->n > 1 && (q.by != STORE_BY_KEY || q.order == STORE_SORT_DESCEND)) {
        qsort_r(c->items, c->n, sizeof(struct item), item_cmp, &q);
    }
    size_t n = c->n;
    bool more = false;
    if (q.limit > 0 && (uint64_t)n > (uint64_t)q.limit) {
        n = (size_t)q.limit;
        more = true;
    }
    struct store_kv *kvs = n ? arena_alloc(c->a, n * sizeof(struct store_kv)) : NULL;
    if (n && !kvs) {
        return err_pub(c->e, ERR_LIMIT, STORE_E_TOO_LARGE);
    }
    if (!q.keys_only && (rc = load_values(c, at, n)) < 0) {
        return rc;
    }
    for (size_t i = 0; i < n; i++) {
        struct item *it = &c->items[i];
        kvs[i] = (struct store_kv){it->key,    q.keys_only ? SPAN_EMPTY : it->value,
                                   it->r.crev, id_rev(it->r.id),
                                   it->r.ver,  it->r.lease};
    }
    *ret = (struct store_range_res){kvs, n, c->count, more, at->rev};
    return 0;
}

int view_range(const struct view *v, const struct store_range_req *q, struct arena *a,
               struct store_range_res *ret, struct err *e) {
    int rc = range_form(v, q, e);
    if (rc < 0) {
        return rc;
    }
    struct view at = *v;
    if (q->rev > 0) {
        at.at = q->rev;
    }
    /* As etcd: without an order but with something to sort by, what the limit lets through is sorted. */
    bool plain = q->order == STORE_SORT_NONE && !q->min_mod && !q->max_mod && !q->min_create &&
                 !q->max_create;
    struct collect c = {.v = &at, .q = q, .a = a, .e = e, .fetch = UINT64_MAX};
    if (plain && q->limit > 0) {
        c.fetch = (uint64_t)q->limit + 1; /* one more tells whether there is more */
        c.stop_at_fetch = q->no_count;
    }
    rc = view_each(&at, q->key, q->end, collect_row, &c, e);
    if (rc == 0) {
        rc = finish(&c, &at, ret);
    }
    free(c.items);
    return rc;
}

struct lease_keys {
    struct span *v;
    size_t n, cap;
};

int view_lease_keys(const struct view *v, int64_t lease, struct arena *a, struct span **ret,
                    size_t *ret_n, struct err *e) {
    sqlite3_stmt *st = db_stmt(v->d, ST_CUR_LEASE, e);
    if (!st) {
        return failed(e);
    }
    sqlite3_bind_int64(st, 1, lease);
    struct lease_keys k = {0};
    int out = 0;
    for (;;) {
        int rc = sqlite3_step(st);
        if (rc != SQLITE_ROW) {
            out = rc == SQLITE_DONE ? 0 : db_fail(v->d, rc, "reading a lease's keys", e);
            break;
        }
        if (sqlite3_column_int64(st, 2) == 0) {
            continue;
        }
        if (k.n == k.cap) {
            k.cap = k.cap ? k.cap * 2 : 16;
            struct span *p = arena_alloc(a, k.cap * sizeof(struct span));
            if (!p) {
                out = err_pub(e, ERR_LIMIT, STORE_E_TOO_LARGE);
                break;
            }
            if (k.n) {
                memcpy(p, k.v, k.n * sizeof(struct span));
            }
            k.v = p;
        }
        struct span copy = arena_copy(a, db_col_span(st, 0));
        if (!copy.p) {
            out = err_pub(e, ERR_LIMIT, STORE_E_TOO_LARGE);
            break;
        }
        k.v[k.n++] = copy;
    }
    sqlite3_reset(st);
    if (out == 0) {
        *ret = k.v;
        *ret_n = k.n;
    }
    return out;
}
