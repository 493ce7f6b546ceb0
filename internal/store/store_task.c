/* Background work on the write lane, in slices between commits: the rest of a checkpoint, removal of compacted
 * revisions, giving free pages back. Nothing here runs unless a write or a request made it due. */
#include "internal/store/store_int.h"

#include "internal/base/rand.h"
#include "internal/log/log.h"

#include <stdlib.h>

enum {
    SWEEP_ROWS = 64, /* with something to do: read, then done */
    SWEEP_LOOK = 1024,
    VACUUM_PAGES = 128,
};
#define IDLE_NS (2 * NS_PER_S)
#define SLICE_NS NS_PER_MS /* what a commit may have to wait for */

static int failed(const struct err *e) {
    return -(int)e->code;
}

static int del_id(struct db *d, int64_t id, struct err *e) {
    sqlite3_stmt *st = db_stmt(d, ST_LOG_DEL, e);
    if (!st) {
        return failed(e);
    }
    sqlite3_bind_int64(st, 1, id);
    return db_done(d, st, "removing a revision", e);
}

/* Statements about one key and one of its revisions. */
static int with_key(struct db *d, enum stmt_id what, struct span key, int64_t id, struct err *e) {
    sqlite3_stmt *st = db_stmt(d, what, e);
    if (!st) {
        return failed(e);
    }
    db_bind_span(st, 1, key);
    sqlite3_bind_int64(st, 2, id);
    return db_done(d, st, "removing what is compacted of a key", e);
}

struct sweep_row {
    int64_t id, ver, prev;
    struct span key;
};

/* Looks at some rows from t->swept on, which moves, and keeps those that have to do. 1: there are more. */
static int sweep_rows(struct task *t, int64_t compact, struct sweep_row *rows, size_t *ret_n,
                      struct arena *a) {
    struct db *d = &t->s->wr.db;
    sqlite3_stmt *st = db_stmt(d, ST_LOG_SWEEP, &t->err);
    if (!st) {
        return failed(&t->err);
    }
    sqlite3_bind_int64(st, 1, t->swept);
    sqlite3_bind_int64(st, 2, id_of(compact + 1, 0));
    sqlite3_bind_int64(st, 3, SWEEP_LOOK);
    size_t n = 0, looked = 0;
    int rc = SQLITE_DONE, out = 0;
    while (n < SWEEP_ROWS && (rc = sqlite3_step(st)) == SQLITE_ROW) {
        struct sweep_row r = {sqlite3_column_int64(st, 0), sqlite3_column_int64(st, 1),
                              sqlite3_column_int64(st, 2), SPAN_EMPTY};
        looked++;
        t->swept = r.id + 1;
        if (r.prev || !r.ver) {
            r.key = arena_copy(a, db_col_span(st, 3));
            rows[n++] = r;
        }
    }
    if (rc != SQLITE_ROW && rc != SQLITE_DONE) {
        out = db_fail(d, rc, "reading revisions to remove", &t->err);
    }
    sqlite3_reset(st);
    *ret_n = n;
    return out < 0 ? out : n == SWEEP_ROWS || looked == SWEEP_LOOK;
}

/* A row at or before the compacted revision makes the row before it unreachable; a deletion before it makes itself
 * unreachable. The deletion at the compacted revision itself stays: a watch may start there. */
static int sweep_row(struct task *t, int64_t compact, const struct sweep_row *r) {
    struct db *d = &t->s->wr.db;
    int rc = 0;
    if (r->prev) {
        rc = del_id(d, r->prev, &t->err);
        if (rc == 0) { /* lists of earlier revisions that begin here go as well */
            rc = with_key(d, ST_HIST_DEL, r->key, r->prev, &t->err);
        }
        if (rc == 0) {
            rc = with_key(d, ST_CUR_TRIM, r->key, r->id, &t->err);
        }
    }
    if (rc == 0 && !r->ver && id_rev(r->id) < compact) {
        rc = del_id(d, r->id, &t->err);
        if (rc == 0) {
            rc = with_key(d, ST_CUR_DEL, r->key, r->id, &t->err);
        }
    }
    return rc;
}

static int sweep_slice(struct task *t, int64_t compact) {
    struct sweep_row *rows = mem_array(NULL, SWEEP_ROWS, sizeof(*rows), SWEEP_ROWS);
    struct arena a = ARENA_INIT((size_t)1 << 30);
    uint64_t t0 = clock_ns();
    int rc = rows ? 1 : err_set(&t->err, ERR_NOMEM, "compaction");
    while (rc > 0 && clock_ns() - t0 < SLICE_NS) {
        size_t n = 0;
        int more = sweep_rows(t, compact, rows, &n, &a);
        rc = more;
        for (size_t i = 0; i < n && rc >= 0; i++) {
            int one = sweep_row(t, compact, &rows[i]);
            rc = one < 0 ? one : more;
        }
        arena_reset(&a);
    }
    t->more = rc > 0;
    free(rows);
    arena_fini(&a);
    return rc < 0 ? rc : 0;
}

static int sweep(struct task *t) {
    struct writer *w = &t->s->wr;
    int64_t start = t->swept;
    int rc = db_run(&w->db, ST_BEGIN, &t->err);
    if (rc == 0) {
        rc = sweep_slice(t, w->compact_rev);
    }
    if (rc == 0) {
        if (!t->more) {
            t->swept =
                id_of(w->compact_rev, 0); /* the next compaction looks at this revision again */
        }
        int64_t keep = t->swept < id_of(w->compact_rev, 0) ? t->swept : id_of(w->compact_rev, 0);
        rc = db_meta_set(&w->db, "swept", t->more ? keep : t->swept, &t->err);
    }
    if (rc == 0 && !t->more) {
        rc = db_meta_set(&w->db, "swept_for", w->compact_rev, &t->err);
    }
    if (rc == 0) {
        rc = db_run(&w->db, ST_COMMIT, &t->err);
    }
    if (rc < 0) {
        t->swept = start;
        t->more = true;
        if (!sqlite3_get_autocommit(w->db.h)) {
            struct err ignored = ERR_INIT;
            IGNORE_ERR(db_run(&w->db, ST_ROLLBACK, &ignored), "the first error counts");
        }
    }
    return rc;
}

static int vacuum(struct task *t) {
    struct db *d = &t->s->wr.db;
    AUTO(buf) struct buf b = BUF_INIT(64);
    buf_fmt(&b, "PRAGMA incremental_vacuum(%d)", VACUUM_PAGES);
    return db_exec(d, buf_cstr(&b), &t->err);
}

static void task_run(struct loop_work *lw) {
    struct task *t = CONTAINER_OF(lw, struct task, w);
    struct db *d = &t->s->wr.db;
    switch (t->kind) {
    case TASK_CHECKPOINT: t->rc = wal_task(t); break;
    case TASK_SWEEP: t->rc = sweep(t); break;
    case TASK_VACUUM: t->rc = vacuum(t); break;
    case TASK_MAX_: break;
    }
    int64_t pages = 0, free_pages = 0;
    struct err e = ERR_INIT;
    if (t->rc == 0 && (t->rc = db_i64(d, ST_PAGE_COUNT, &pages, &e)) == 0 &&
        (t->rc = db_i64(d, ST_FREE_COUNT, &free_pages, &e)) == 0) {
        t->pages = (uint64_t)pages;
        t->free_pages = (uint64_t)free_pages;
        t->s->wr.pages = t->pages;
    } else if (e.code) {
        t->err = e;
    }
    t->wal_frames = d->wal_frames;
}

static void wake(struct list *waiters, int64_t upto, int rc, const struct err *e) {
    struct list now;
    list_init(&now);
    for (LIST_EACH(p, next, waiters)) {
        struct waiter *w = CONTAINER_OF(p, struct waiter, link);
        if (w->rev <= upto) {
            list_del(p);
            list_add_tail(&now, p);
        }
    }
    while (!list_empty(&now)) {
        struct waiter *w = CONTAINER_OF(now.next, struct waiter, link);
        list_del(&w->link);
        w->done(w->ctx, rc, rc < 0 ? e : NULL);
        free(w);
    }
}

static void task_done(struct loop_work *lw) {
    struct task *t = CONTAINER_OF(lw, struct task, w);
    struct store *s = t->s;
    s->busy = false;
    if (t->rc == 0) {
        s->pages = t->pages;
        s->free_pages = t->free_pages;
        wal_grown(s, t->wal_frames);
    } else {
        LOG_DEBUG("store", "background work failed, continuing later", F_U64("kind", t->kind),
                  F_ERR(&t->err));
    }
    switch (t->kind) {
    case TASK_CHECKPOINT: wal_task_done(s, t); break;
    case TASK_SWEEP:
        s->swept = t->swept;
        s->sweeping = t->more;
        s->task_failed = t->rc < 0;
        if (!t->more || t->rc < 0) {
            wake(&s->physical, INT64_MAX, t->rc, &t->err);
        }
        break;
    case TASK_VACUUM:
        s->task_failed = t->rc < 0;
        s->vacuuming = t->rc == 0 && s->free_pages > 0 &&
                       (!list_empty(&s->defrags) || s->free_pages > s->pages / 8);
        if (!s->vacuuming) {
            wake(&s->defrags, INT64_MAX, t->rc, &t->err);
        }
        break;
    case TASK_MAX_: break;
    }
    free(t);
    task_idle_arm(s);
    store_kick(s);
}

static struct loop_work *task_new(struct store *s, enum task_kind kind) {
    struct task *t = new_zero(struct task);
    t->w.run = task_run;
    t->w.done = task_done;
    t->s = s;
    t->kind = kind;
    t->swept = s->swept;
    t->shrink = kind == TASK_CHECKPOINT && s->wal.shrink;
    return &t->w;
}

/* After a failure background work waits for the idle timer, or it would spin on a broken disk. */
struct loop_work *task_next(struct store *s, bool idle) {
    if (s->closing) {
        return NULL;
    }
    if (wal_due(s, idle)) {
        return task_new(s, TASK_CHECKPOINT);
    }
    if (s->task_failed) {
        return NULL;
    }
    if (s->sweeping && !s->pins) {
        return task_new(s, TASK_SWEEP);
    }
    if (!s->vacuuming) {
        s->vacuuming = !list_empty(&s->defrags) ||
                       (idle && s->free_pages > 256 && s->free_pages > s->pages / 4);
    }
    return s->vacuuming ? task_new(s, TASK_VACUUM) : NULL;
}

static void idle_fired(struct loop_timer *tm) {
    struct store *s = CONTAINER_OF(tm, struct store, idle_timer);
    bool quiet = s->activity == s->activity_seen;
    s->activity_seen = s->activity;
    s->task_failed = false;
    wal_tick(s, quiet);
    if (quiet) {
        sqlite3_db_release_memory(s->rd.h);
    } else {
        loop_timer_start(s->l, tm, IDLE_NS, idle_fired, "store-idle");
    }
    store_kick(s);
}

void task_idle_arm(struct store *s) {
    s->activity++;
    if (!loop_timer_active(&s->idle_timer) && !s->closing) {
        loop_timer_start(s->l, &s->idle_timer, IDLE_NS, idle_fired, "store-idle");
    }
}

/* ---- public ---- */

void store_compacted(struct store *s, struct wr *w) {
    s->compact_rev = w->a;
    s->compacted = true;
    if (s->swept >
        w->b) { /* the revision compacted before is looked at again: its deletions may go now */
        s->swept = w->b;
    }
    s->sweeping = true;
    watch_compacted(s);
    if (w->flag && w->cb.done) { /* physical: the answer waits for the sweep */
        struct waiter *p = new_zero(struct waiter);
        p->done = w->cb.done;
        p->ctx = w->ctx;
        list_add_tail(&s->physical, &p->link);
        w->cb.done = NULL;
    }
}

void engine_compact(struct store *s, int64_t rev, bool physical, store_done *done, void *ctx) {
    struct wr *w = wr_new(WR_COMPACT, 0);
    w->a = rev;
    w->flag = physical;
    w->cb.done = done;
    w->ctx = ctx;
    if (s->closing) {
        w->rc = err_set(&w->err, ERR_UNAVAILABLE, "the store is closing");
        store_refuse(s, w);
        return;
    }
    store_submit(s, w);
}

void store_defrag(struct store *s, store_done *done, void *ctx) {
    struct waiter *p = new_zero(struct waiter);
    p->done = done;
    p->ctx = ctx;
    list_add_tail(&s->defrags, &p->link);
    s->task_failed = false;
    if (!s->busy) {
        loop_before_sleep(s->l, &s->flush_hook, store_flush, s);
    }
}

void task_fini(struct store *s) {
    struct err e = ERR_INIT;
    int rc = err_set(&e, ERR_UNAVAILABLE, "the store is closing");
    wake(&s->physical, INT64_MAX, rc, &e);
    wake(&s->defrags, INT64_MAX, rc, &e);
    loop_timer_stop(&s->idle_timer);
}

void store_alarm(struct store *s, uint32_t alarms, bool activate, store_done *done, void *ctx) {
    struct wr *w = wr_new(WR_ALARM, 0);
    w->a = alarms;
    w->flag = activate;
    w->cb.done = done;
    w->ctx = ctx;
    store_submit(s, w);
}

void store_aux_put(struct store *s, struct span bucket, struct span key, struct span value,
                   store_done *done, void *ctx) {
    struct wr *w = wr_new(WR_AUX, bucket.n + key.n + value.n);
    struct span in[3] = {bucket, key, value};
    size_t at = 0;
    for (int i = 0; i < 3; i++) {
        if (in[i].n) {
            memcpy(w->own + at, in[i].p, in[i].n);
        }
        w->s[i] = span_of(w->own + at, in[i].n);
        at += in[i].n;
    }
    w->flag = !value.p;
    w->cb.done = done;
    w->ctx = ctx;
    store_submit(s, w);
}

int store_aux_scan(struct store *s, struct span bucket,
                   int (*cb)(void *ctx, struct span key, struct span value), void *ctx,
                   struct err *e) {
    sqlite3_stmt *st = db_stmt(&s->rd, ST_AUX_SCAN, e);
    if (!st) {
        return failed(e);
    }
    db_bind_span(st, 1, bucket);
    int out = 0;
    while (out == 0) {
        int rc = sqlite3_step(st);
        if (rc != SQLITE_ROW) {
            out = rc == SQLITE_DONE ? 0 : db_fail(&s->rd, rc, "reading records", e);
            break;
        }
        struct span k = db_col_span(st, 0);
        out = cb(ctx, k, db_col_span(st, 1));
    }
    sqlite3_reset(st);
    return out < 0 ? out : 0;
}
