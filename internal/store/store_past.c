/* A key's earlier revisions, found without a walk through them. The row of a key's present carries the ids of the last
 * few, newest first, as differences. When they outgrow it they become a block in the table `past`, under the newest id that
 * is not needed in the row any more, and the last id of every list is that of the block before. So a key's blocks are a
 * chain from new to old, each added at the table's end and, once compacted, removed from its front: neither touches what
 * other keys have there. A block also knows an older one to jump to (Myers, "An applicative random-access stack", 1983),
 * so that of n blocks some 2 log n are looked at. The log's own `prev` stays the truth: where these lists end (a file of
 * format 1, a repaired one) the search goes on along it. */
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

/* The same along the blocks, of which the first is that of `*id`. */
static int follow_blocks(const struct view *v, struct span key, int64_t at, int64_t *id,
                         struct err *e) {
    for (;;) {
        sqlite3_stmt *st = db_stmt(v->d, ST_PAST_GET, e);
        if (!st) {
            return -(int)e->code;
        }
        sqlite3_bind_int64(st, 1, *id);
        int rc = sqlite3_step(st), out = 0;
        int64_t from = *id;
        if (rc == SQLITE_ROW) {
            int64_t jump = sqlite3_column_int64(st, 0);
            if (jump > at) {
                *id = jump;
            } else {
                out = follow(key, db_col_span(st, 1), at, id, e);
            }
        } else if (rc != SQLITE_DONE) {
            out = db_fail(v->d, rc, "looking for an earlier revision", e);
        }
        sqlite3_reset(st);
        if (out != 0 || *id == from) {
            return out;
        }
        if (*id > from) {
            return damaged(key, e);
        }
    }
}

/* 1: *id, at first the newest, is the newest that is not later than the view. 0: there is none. */
int past_find(const struct view *v, struct span key, struct span list, int64_t *id, struct err *e) {
    int64_t at = id_of(v->at + 1, 0) - 1;
    int rc = follow(key, list, at, id, e);
    if (rc == 0) {
        rc = follow_blocks(v, key, at, id, e);
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

struct jump {
    int64_t to, over; /* an older block, 0: none; how many blocks on */
};

/* 0: there is no such block. */
static int jump_of(const struct view *v, int64_t id, struct jump *ret, struct err *e) {
    sqlite3_stmt *st = db_stmt(v->d, ST_PAST_JUMP, e);
    if (!st) {
        return -(int)e->code;
    }
    sqlite3_bind_int64(st, 1, id);
    int rc = sqlite3_step(st);
    int out = rc == SQLITE_ROW    ? 1
              : rc == SQLITE_DONE ? 0
                                  : db_fail(v->d, rc, "looking for earlier revisions", e);
    if (out > 0) {
        *ret = (struct jump){sqlite3_column_int64(st, 0), sqlite3_column_int64(st, 1)};
    }
    sqlite3_reset(st);
    return out;
}

/* From the block behind the block `before`: two jumps of one length become one, with the step to them. */
static int jump_find(const struct view *v, int64_t before, struct jump *ret, struct err *e) {
    struct jump a, b;
    *ret = (struct jump){0};
    int rc = jump_of(v, before, &a, e);
    if (rc <= 0) {
        return rc;
    }
    rc = a.to ? jump_of(v, a.to, &b, e) : 0;
    *ret = rc > 0 && a.over == b.over ? (struct jump){b.to, a.over + b.over + 1}
                                      : (struct jump){before, 1};
    return rc;
}

static int block_add(const struct view *v, struct span key, int64_t id, const struct past *p,
                     struct err *e) {
    struct jump j;
    int64_t before = id;
    int rc = follow(key, span_of(p->b, p->n), 0, &before, e);
    rc = rc < 0 ? rc : jump_find(v, before, &j, e);
    sqlite3_stmt *st = rc < 0 ? NULL : db_stmt(v->d, ST_PAST_ADD, e);
    if (!st) {
        return -(int)e->code;
    }
    sqlite3_bind_int64(st, 1, id);
    sqlite3_bind_int64(st, 2, j.to);
    sqlite3_bind_int64(st, 3, j.over);
    db_bind_span(st, 4, span_of(p->b, p->n));
    return db_done(v->d, st, "keeping earlier revisions", e);
}

void past_set(struct past *p, struct span list) {
    p->n = (uint8_t)(list.n < PAST_MAX ? list.n : PAST_MAX);
    if (p->n) {
        memcpy(p->b, list.p, p->n);
    }
}

bool past_add(struct past *p, int64_t now, int64_t old) {
    uint8_t first[24];
    uint64_t sub = (uint64_t)id_sub(old);
    size_t n = put_varint(first, (uint64_t)(id_rev(now) - id_rev(old)) << 1 | (sub != 0));
    if (sub) {
        n += put_varint(first + n, sub);
    }
    if (p->n + n > PAST_MAX) {
        return false;
    }
    memmove(p->b + n, p->b, p->n);
    memcpy(p->b, first, n);
    p->n = (uint8_t)(p->n + n);
    return true;
}

/* `p` is what the row of `old` carries and becomes what the row of `now` does. */
int past_push(const struct view *v, struct span key, int64_t now, int64_t old, struct past *p,
              struct err *e) {
    int rc = 0;
    if (!past_add(p, now, old) && (rc = cut(p, old, v->compact_rev, key, e)) == 0 &&
        !past_add(p, now, old) && (rc = block_add(v, key, old, p, e)) == 0) {
        p->n = 0;
        past_add(p, now, old); /* there is room for one */
    }
    return rc;
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
