/* Removal of compacted revisions: the log from where the last sweep ended up to the compacted revision, in its order and
 * in slices. A row goes when its key has a later one that is compacted too; so rows go as they came, neighbours together,
 * and a page is written once. What an earlier compaction left of a key lies before the sweep's beginning and goes when
 * the first row comes by that refers to it. */
#include "internal/store/store_int.h"

#include "internal/base/rand.h"

#include <stdlib.h>

enum {
    ROWS = 64, /* read, then done */
    LASTS = 1024,
    LAST_KEY = 112,
};

/* A key that changes often is looked up once, not once a revision. */
struct last {
    int64_t id;
    uint32_t n;
    uint8_t key[LAST_KEY];
};

struct row_in {
    int64_t id, ver, prev;
    struct span key;
};

/* Some rows from t->swept on, which moves. */
static int read_rows(struct task *t, struct row_in *rows, size_t *ret_n, struct arena *a) {
    struct db *d = &t->s->wr.db;
    sqlite3_stmt *st = db_stmt(d, ST_LOG_SWEEP, &t->err);
    if (!st) {
        return -(int)t->err.code;
    }
    sqlite3_bind_int64(st, 1, t->swept);
    sqlite3_bind_int64(st, 2, id_of(t->s->wr.compact_rev + 1, 0));
    sqlite3_bind_int64(st, 3, ROWS);
    int rc, out = 0;
    size_t n = 0;
    while ((rc = sqlite3_step(st)) == SQLITE_ROW) {
        struct row_in *r = &rows[n++];
        *r = (struct row_in){sqlite3_column_int64(st, 0), sqlite3_column_int64(st, 1),
                             sqlite3_column_int64(st, 2), arena_copy(a, db_col_span(st, 3))};
        t->swept = r->id + 1;
    }
    if (rc != SQLITE_DONE) {
        out = db_fail(d, rc, "reading revisions to remove", &t->err);
    }
    sqlite3_reset(st);
    *ret_n = n;
    return out;
}

static int cut_log(struct task *t, int64_t first, int64_t last) {
    sqlite3_stmt *st = db_stmt(&t->s->wr.db, ST_LOG_CUT, &t->err);
    if (!st) {
        return -(int)t->err.code;
    }
    sqlite3_bind_int64(st, 1, first);
    sqlite3_bind_int64(st, 2, last);
    return db_done(&t->s->wr.db, st, "removing revisions", &t->err);
}

/* Statements about one key and one of its revisions. */
static int with_key(struct task *t, enum stmt_id what, const struct row_in *r) {
    sqlite3_stmt *st = db_stmt(&t->s->wr.db, what, &t->err);
    if (!st) {
        return -(int)t->err.code;
    }
    db_bind_span(st, 1, r->key);
    sqlite3_bind_int64(st, 2, r->id);
    return db_done(&t->s->wr.db, st, "removing what is compacted of a key", &t->err);
}

/* The revision of the row's key that stays. */
static int last_of(struct task *t, const struct row_in *r, int64_t *ret_id) {
    struct writer *w = &t->s->wr;
    struct view v = {&w->db, w->compact_rev, w->rev, 0, NULL};
    if (!r->key.n || r->key.n > LAST_KEY) {
        return view_last(&v, r->key, ret_id, &t->err);
    }
    struct last *k = &w->sweep.lasts[fnv32a(r->key) % LASTS];
    if (!span_eq(span_of(k->key, k->n), r->key)) {
        k->n = 0;
        int rc = view_last(&v, r->key, &k->id, &t->err);
        if (rc < 0) {
            return rc;
        }
        k->n = (uint32_t)r->key.n;
        memcpy(k->key, r->key.p, r->key.n);
    }
    *ret_id = k->id;
    return 0;
}

/* The deletion at the compacted revision itself stays: a watch may start there. */
static int sweep_rows(struct task *t, const struct row_in *rows, size_t n) {
    struct writer *w = &t->s->wr;
    int64_t first = 0, end = 0;
    int rc = 0;
    for (size_t i = 0; i < n && rc == 0; i++) {
        const struct row_in *r = &rows[i];
        int64_t last = 0;
        rc = last_of(t, r, &last);
        bool gone = !r->ver && id_rev(r->id) < w->compact_rev;
        if (rc == 0 && r->prev && r->prev < w->sweep.from) {
            rc = cut_log(t, r->prev, r->prev);
        }
        if (rc == 0 && r->id == last && (r->prev || gone)) {
            rc = with_key(t, gone ? ST_CUR_DEL : ST_CUR_TRIM, r);
        }
        if (r->id < last || gone) {
            first = first ? first : r->id;
            end = r->id;
        } else if (first && rc == 0) {
            rc = cut_log(t, first, end);
            first = 0;
        }
    }
    return rc < 0 || !first ? rc : cut_log(t, first, end);
}

/* The lists that begin before the sweep's place. */
static int cut_past(struct task *t) {
    sqlite3_stmt *st = db_stmt(&t->s->wr.db, ST_PAST_CUT, &t->err);
    if (!st) {
        return -(int)t->err.code;
    }
    sqlite3_bind_int64(st, 1, t->more ? t->swept : id_of(t->s->wr.compact_rev + 1, 0));
    return db_done(&t->s->wr.db, st, "removing lists of revisions", &t->err);
}

static int until_time(struct task *t) {
    struct row_in *rows = mem_array(NULL, ROWS, sizeof(*rows), ROWS);
    struct arena a = ARENA_INIT((size_t)1 << 30);
    int rc = rows ? 0 : err_set(&t->err, ERR_NOMEM, "compaction");
    for (t->more = true; rc == 0 && t->more && clock_ns() < t->until_ns;) {
        size_t n = 0;
        rc = read_rows(t, rows, &n, &a);
        rc = rc < 0 ? rc : sweep_rows(t, rows, n);
        t->more = n == ROWS;
        arena_reset(&a);
    }
    free(rows);
    arena_fini(&a);
    return rc;
}

static void begin(struct task *t) {
    struct writer *w = &t->s->wr;
    if (w->sweep.compact_rev != w->compact_rev) {
        free(w->sweep.lasts);
        w->sweep =
            (struct sweep){w->compact_rev, t->swept, mem_zero_alloc(LASTS * sizeof(struct last))};
    }
}

void sweep_fini(struct store *s) {
    free(s->wr.sweep.lasts);
    s->wr.sweep = (struct sweep){0};
}

int sweep_slice(struct task *t) {
    struct writer *w = &t->s->wr;
    int64_t start = t->swept, end = id_of(w->compact_rev, 0);
    begin(t);
    int rc = db_run(&w->db, ST_BEGIN, &t->err);
    rc = rc < 0 ? rc : until_time(t);
    rc = rc < 0 ? rc : cut_past(t);
    if (rc == 0 && !t->more) {
        t->swept = end; /* the next compaction looks at this revision again */
    }
    rc = rc < 0 ? rc : db_meta_set(&w->db, "swept", t->swept < end ? t->swept : end, &t->err);
    if (rc == 0 && !t->more) {
        rc = db_meta_set(&w->db, "swept_for", w->compact_rev, &t->err);
    }
    rc = rc < 0 ? rc : db_run(&w->db, ST_COMMIT, &t->err);
    if (rc < 0) {
        t->swept = start;
        t->more = true;
        task_undo(t);
    } else if (!t->more) {
        sweep_fini(t->s);
    }
    return rc;
}
