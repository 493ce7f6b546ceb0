/* Background work on the write lane, in slices between commits: the rest of a checkpoint, removal of compacted
 * revisions, giving free pages back. Nothing here runs unless a write or a request made it due. */
#include "internal/store/store_int.h"

#include "internal/base/rand.h"
#include "internal/log/log.h"

#include <stdlib.h>

enum {
    VACUUM_PAGES = 8, /* between two looks at the clock */
    TASK_TURN = 16,   /* a checkpoint's rest gets its turn after so many commits even under load */
    REST = 3, /* beside commits a slice is followed by so many times its length without one */
};
#define IDLE_NS (2 * NS_PER_S)
/* What a commit may have to wait for: while there are others, and at most. */
#define SLICE_NS (NS_PER_MS / 2)
#define SLICE_IDLE_NS (4 * NS_PER_MS)

static int failed(const struct err *e) {
    return -(int)e->code;
}

void task_undo(struct task *t) {
    struct db *d = &t->s->wr.db;
    if (!sqlite3_get_autocommit(d->h)) {
        struct err ignored = ERR_INIT;
        IGNORE_ERR(db_run(d, ST_ROLLBACK, &ignored), "the first error counts");
    }
}

static int vacuum(struct task *t) {
    struct db *d = &t->s->wr.db;
    AUTO(buf) struct buf b = BUF_INIT(64);
    int64_t left = 0;
    buf_fmt(&b, "PRAGMA incremental_vacuum(%d)", VACUUM_PAGES);
    int rc = db_run(d, ST_BEGIN, &t->err);
    do {
        rc = rc < 0 ? rc : db_exec(d, buf_cstr(&b), &t->err);
        rc = rc < 0 ? rc : db_i64(d, ST_FREE_COUNT, &left, &t->err);
    } while (rc == 0 && left && clock_ns() < t->until_ns);
    rc = rc < 0 ? rc : db_run(d, ST_COMMIT, &t->err);
    if (rc < 0) {
        task_undo(t);
    }
    return rc;
}

static void task_run(struct loop_work *lw) {
    struct task *t = CONTAINER_OF(lw, struct task, w);
    struct db *d = &t->s->wr.db;
    uint64_t began = clock_ns();
    t->until_ns = began + (t->beside ? SLICE_NS : SLICE_IDLE_NS);
    switch (t->kind) {
    case TASK_CHECKPOINT: t->rc = wal_task(t); break;
    case TASK_SWEEP: t->rc = sweep_slice(t); break;
    case TASK_VACUUM: t->rc = vacuum(t); break;
    case TASK_MAX_: break;
    }
    writer_size(t->s);
    t->pages = t->s->wr.pages;
    t->free_pages = t->s->wr.free_pages;
    t->wal_frames = d->wal_frames;
    t->took_ns = clock_ns() - began;
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
    s->busy--;
    s->tasking = false;
    s->rest_until = t->beside ? loop_now(s->l) + REST * t->took_ns : 0;
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

static struct task *task_new(struct store *s, enum task_kind kind) {
    struct task *t = new_zero(struct task);
    t->w.run = task_run;
    t->w.done = task_done;
    t->s = s;
    t->kind = kind;
    t->swept = s->swept;
    t->shrink = kind == TASK_CHECKPOINT && s->wal.shrink;
    t->beside = s->batches_since_task > 0;
    return t;
}

static void rested(struct loop_timer *tm) {
    store_kick(CONTAINER_OF(tm, struct store, rest_timer));
}

/* True: commits have their turn first. */
static bool rests(struct store *s) {
    if (loop_now(s->l) >= s->rest_until) {
        return false;
    }
    if (!loop_timer_active(&s->rest_timer)) {
        loop_timer_start(s->l, &s->rest_timer, s->rest_until - loop_now(s->l), rested,
                         "store-rest");
    }
    return true;
}

/* After a failure background work waits for the idle timer, or it would spin on a broken disk. */
enum task_kind task_due(struct store *s, bool idle) {
    if (s->closing) {
        return TASK_MAX_;
    }
    if ((idle || s->batches_since_task >= TASK_TURN) && wal_due(s, idle)) {
        return TASK_CHECKPOINT;
    }
    if (s->task_failed ||
        s->wal.out) { /* what is added while a pass goes on, the write lane would have to move */
        return TASK_MAX_;
    }
    bool sweep = s->sweeping && !s->pins;
    if (!sweep && !s->vacuuming) {
        s->vacuuming = !list_empty(&s->defrags) ||
                       (idle && s->free_pages > 256 && s->free_pages > s->pages / 4);
    }
    if ((!sweep && !s->vacuuming) || rests(s)) {
        return TASK_MAX_;
    }
    return sweep ? TASK_SWEEP : TASK_VACUUM;
}

void task_start(struct store *s, bool idle) {
    enum task_kind kind = task_due(s, idle);
    if (kind == TASK_MAX_) {
        return;
    }
    struct err e = ERR_INIT;
    struct task *t = task_new(s, kind);
    s->batches_since_task = 0;
    if (loop_work_submit(s->l, LANE_DB_WRITE, &t->w, &e) < 0) { /* no thread: with the next kick */
        free(t);
        return;
    }
    s->tasking = true;
    s->busy++;
}

static void idle_fired(struct loop_timer *tm) {
    struct store *s = CONTAINER_OF(tm, struct store, idle_timer);
    bool quiet = s->activity == s->activity_seen;
    s->activity_seen = s->activity;
    s->task_failed = false;
    wal_tick(s, quiet);
    if (quiet) {
        sqlite3_db_release_memory(s->rd.h);
        if (!s->busy) { /* else the timer runs again behind the task */
            sqlite3_db_release_memory(s->wr.db.h);
        }
        catchup_forget(s);
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
    catchup_soon(s);
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
    loop_timer_stop(&s->rest_timer);
    sweep_fini(s);
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
            memcpy(wr_own(w) + at, in[i].p, in[i].n);
        }
        w->s[i] = span_of(wr_own(w) + at, in[i].n);
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
