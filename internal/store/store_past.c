/* A key's earlier revisions, found without a walk through them. The row of a key's present carries the ids of the last
 * few, newest first, as differences; when they outgrow it they become a block in `hist`, under the newest id that is not
 * needed in the row any more. Every block ends with the newest id of the block before, so that one look into the row and
 * one into `hist` answer for any revision. The log's own `prev` stays the truth: where these lists end (a file of format
 * 1, a repaired one) the search goes on along it. */
#include "internal/store/store_int.h"

/* The id before *id in the list; 0: the list ends. */
static int older(struct span *list, int64_t *id) {
    uint64_t back, sub = 0;
    if (!list->n) {
        return 0;
    }
    if (span_varint(list, &back) < 0 || ((back & 1) && span_varint(list, &sub) < 0) ||
        sub >= (uint64_t)SUB_MAX || back >> 1 >= (uint64_t)id_rev(*id)) {
        return -ERR_CORRUPT;
    }
    int64_t prev = id_of(id_rev(*id) - (int64_t)(back >> 1), (int64_t)sub);
    if (prev >= *id) {
        return -ERR_CORRUPT;
    }
    *id = prev;
    return 1;
}

static int damaged(struct span key, struct err *e) {
    return err_set(e, ERR_CORRUPT, "the earlier revisions of a key of %zu bytes cannot be read",
                   key.n);
}

/* Follows the list from `*id` down to `at`. 1: *id is not later than `at`. 0: it is the last of the list. */
static int follow(struct span key, struct span list, int64_t at, int64_t *id, struct err *e) {
    while (*id > at) {
        int rc = older(&list, id);
        if (rc <= 0) {
            return rc < 0 ? damaged(key, e) : 0;
        }
    }
    return 1;
}

static int follow_block(const struct view *v, struct span key, int64_t at, int64_t *id,
                        struct err *e) {
    sqlite3_stmt *st = db_stmt(v->d, ST_HIST_GET, e);
    if (!st) {
        return -(int)e->code;
    }
    db_bind_span(st, 1, key);
    sqlite3_bind_int64(st, 2, at);
    int rc = sqlite3_step(st), out = 0;
    if (rc == SQLITE_ROW) {
        int64_t top = sqlite3_column_int64(st, 0);
        out = follow(key, db_col_span(st, 1), at, &top, e);
        *id = top < *id ? top : *id;
    } else if (rc != SQLITE_DONE) {
        out = db_fail(v->d, rc, "looking for an earlier revision", e);
    }
    sqlite3_reset(st);
    return out;
}

/* 1: *id, at first the newest, is the newest that is not later than the view. 0: there is none. */
int past_find(const struct view *v, struct span key, struct span list, int64_t *id, struct err *e) {
    int64_t at = id_of(v->at + 1, 0) - 1;
    int rc = follow(key, list, at, id, e);
    if (rc == 0) {
        rc = follow_block(v, key, at, id, e);
    }
    while (rc == 0) {
        struct row r;
        rc = view_head(v, *id, &r, e);
        if (rc <= 0) {
            return rc < 0 ? rc
                          : err_set(e, ERR_CORRUPT, "revision %lld is missing in the log",
                                    (long long)id_rev(*id));
        }
        if (!r.prev) {
            return 0;
        }
        *id = r.prev;
        rc = *id <= at;
    }
    return rc;
}

static size_t put_varint(uint8_t *to, uint64_t v) {
    size_t n = 0;
    for (; v >= 0x80; v >>= 7) {
        to[n++] = (uint8_t)(v | 0x80);
    }
    to[n++] = (uint8_t)v;
    return n;
}

/* Whatever lies behind the first id at or before the compacted revision is never asked for again. */
static int cut(struct past *p, int64_t id, int64_t compact_rev, struct span key, struct err *e) {
    struct span list = span_of(p->b, p->n);
    while (id_rev(id) > compact_rev) {
        int rc = older(&list, &id);
        if (rc <= 0) {
            return rc < 0 ? damaged(key, e) : 0;
        }
    }
    p->n = (uint8_t)(p->n - list.n);
    return 0;
}

static int block_add(struct db *d, struct span key, int64_t id, const struct past *p,
                     struct err *e) {
    sqlite3_stmt *st = db_stmt(d, ST_HIST_ADD, e);
    if (!st) {
        return -(int)e->code;
    }
    db_bind_span(st, 1, key);
    sqlite3_bind_int64(st, 2, id);
    db_bind_span(st, 3, span_of(p->b, p->n));
    return db_done(d, st, "keeping earlier revisions", e);
}

/* `p` is what the row of `old` carries and becomes what the row of `now` does. */
int past_push(const struct view *v, struct span key, int64_t now, int64_t old, struct past *p,
              struct err *e) {
    uint8_t first[24];
    uint64_t sub = (uint64_t)id_sub(old);
    size_t n = put_varint(first, (uint64_t)(id_rev(now) - id_rev(old)) << 1 | (sub != 0));
    if (sub) {
        n += put_varint(first + n, sub);
    }
    if (p->n + n > PAST_MAX) {
        int rc = cut(p, old, v->compact_rev, key, e);
        if (rc == 0 && p->n + n > PAST_MAX) {
            rc = block_add(v->d, key, old, p, e);
            p->n = 0;
        }
        if (rc < 0) {
            return rc;
        }
    }
    memmove(p->b + n, p->b, p->n);
    memcpy(p->b, first, n);
    p->n = (uint8_t)(p->n + n);
    return 0;
}

/* The list must be the walk along `prev`; of what is compacted it may say anything. -ERR_NOT_FOUND: it is not. */
int past_check(const struct view *v, int64_t id, struct span list, struct err *e) {
    for (;;) {
        struct row r;
        int64_t next = id;
        int there = view_head(v, id, &r, e), rc = older(&list, &next);
        if (there < 0) {
            return there;
        }
        if (rc <= 0) {
            return rc < 0 ? -ERR_NOT_FOUND : 0;
        }
        if (there ? r.prev != next : id_rev(id) > v->compact_rev) {
            return -ERR_NOT_FOUND;
        }
        id = next;
    }
}
