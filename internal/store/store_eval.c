/* Reading keys as of a revision: points and intervals, on either connection. */
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

int view_row(const struct view *v, sqlite3_stmt *st, struct row *ret, struct err *e) {
    *ret = (struct row){sqlite3_column_int64(st, 1), sqlite3_column_int64(st, 2),
                        sqlite3_column_int64(st, 3), sqlite3_column_int64(st, 4), 0};
    if (id_rev(ret->id) <= v->at) {
        return ret->ver > 0;
    }
    struct span past = db_col_span(st, 5);
    if (!past.n && sqlite3_column_type(st, 5) == SQLITE_BLOB) {
        return 0; /* nothing was before; NULL: nobody knows */
    }
    return back_to(v, db_col_span(st, 0), past, ret, e);
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
        if (ret_past) {
            past_set(ret_past, db_col_span(st, 5));
        }
        out = view_row(v, st, ret, e);
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
        *ret_id = sqlite3_column_int64(st, 1);
        if (id_rev(*ret_id) > v->at) {
            out = past_find(v, key, db_col_span(st, 5), ret_id, e);
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

sqlite3_stmt *view_rows(const struct view *v, enum stmt_id range, enum stmt_id from,
                        struct span key, struct span end, struct err *e) {
    bool open_end = end.n == 1 && end.p[0] == 0;
    sqlite3_stmt *st = db_stmt(v->d, open_end ? from : range, e);
    if (st) { /* etcd's "\0" as a start means the first key */
        db_bind_span(st, 1, key.n == 1 && key.p[0] == 0 && open_end ? SPAN_EMPTY : key);
    }
    if (st && end.n && !open_end) {
        db_bind_span(st, 2, end);
    }
    return st;
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
    sqlite3_stmt *st = view_rows(v, ST_CUR_RANGE, ST_CUR_FROM, key, end, e);
    if (!st) {
        return failed(e);
    }
    int out = 0;
    for (;;) {
        int rc = sqlite3_step(st);
        if (rc != SQLITE_ROW) {
            out = rc == SQLITE_DONE ? 0 : db_fail(v->d, rc, "reading a range of keys", e);
            break;
        }
        out = view_row(v, st, &r, e);
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
