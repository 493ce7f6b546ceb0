/* The write lane: commands queue on the loop, all that wait go into one SQLite transaction and one fsync (group commit),
 * then events and answers come back on the loop in this order, while the lane commits what came meanwhile. */
#include "internal/store/store_int.h"

#include "internal/base/rand.h"

#include <errno.h>
#include <stdlib.h>

enum { ENOUGH = 16 }; /* commands that are worth a commit of their own */

static int failed(const struct err *e) {
    return -(int)e->code;
}

struct wr *wr_new(enum wr_kind k, size_t extra) {
    struct wr *w = mem_zero_alloc(sizeof(struct wr) + extra);
    w->kind = k;
    list_init(&w->link);
    return w;
}

/* ---- on the lane ---- */

static bool no_space(struct batch *b, uint64_t cost) {
    struct store *s = b->s;
    return store_alarmed(s->wr.alarms, STORE_ALARM_NOSPACE) ||
           s->wr.pages * s->page_size + cost >= s->o.quota_bytes;
}

/* Over quota: the alarm is raised durably and everything that grows the file is refused until it is taken back. */
static int refuse_space(struct batch *b, struct err *e) {
    struct store *s = b->s;
    if (!store_alarmed(s->wr.alarms, STORE_ALARM_NOSPACE)) {
        struct err local = ERR_INIT;
        uint32_t bits = s->wr.alarms | STORE_ALARM_NOSPACE;
        int rc = db_meta_set(&s->wr.db, "alarms", bits, &local);
        if (rc < 0) {
            *e = local;
            return rc;
        }
        s->wr.alarms = bits;
    }
    return err_pub(e, ERR_LIMIT, STORE_E_NO_SPACE);
}

static struct change change_at(struct batch *b, struct arena *a) {
    struct writer *w = &b->s->wr;
    return (struct change){.v = {&w->db, INT64_MAX, w->rev, w->compact_rev, NULL},
                           .a = a,
                           .eb = b->eb,
                           .counts = b->counting ? &b->counts : NULL,
                           .want_prev = b->want_prev,
                           .new_rev = w->rev + 1};
}

static void change_done(struct batch *b, struct change *c, int64_t *ret_rev) {
    if (c->sub) {
        b->s->wr.rev = c->new_rev;
    }
    b->n_puts += c->n_puts;
    b->n_deletes += c->n_deletes;
    *ret_rev = b->s->wr.rev;
}

/* A refused command leaves no trace; `*broken` means that something was written before it failed, so the whole SQLite
 * transaction must go. */
static int run_txn(struct batch *b, struct wr *w, bool *broken) {
    struct store_txn *t = w->txn;
    struct change c = change_at(b, &t->a);
    uint64_t cost = body_cost(&t->body);
    if (cost && no_space(b, cost)) {
        return refuse_space(b, &w->err);
    }
    int rc = body_prepare(&c.v, &t->body, &w->err);
    if (rc < 0) {
        return rc;
    }
    rc = body_apply(&c, &t->body, &w->err);
    *broken = rc < 0 && c.sub > 0;
    if (rc == 0) {
        change_done(b, &c, &t->rev);
    }
    return rc;
}

static int run_grant(struct batch *b, struct wr *w) {
    struct db *d = &b->s->wr.db;
    if (no_space(b, 64)) {
        return refuse_space(b, &w->err);
    }
    if (w->b > LEASE_TTL_MAX) {
        return err_pub(&w->err, ERR_GONE, STORE_E_LEASE_TTL);
    }
    sqlite3_stmt *st = db_stmt(d, ST_LEASE_GET, &w->err);
    if (!st) {
        return failed(&w->err);
    }
    sqlite3_bind_int64(st, 1, w->a);
    int rc = sqlite3_step(st);
    sqlite3_reset(st);
    if (rc == SQLITE_ROW) {
        return err_pub(&w->err, ERR_CONFLICT, STORE_E_LEASE_EXISTS);
    }
    if (rc != SQLITE_DONE) { /* SQLite has rolled all of the batch back */
        return db_fail(d, rc, "looking up a lease", &w->err);
    }
    st = db_stmt(d, ST_LEASE_ADD, &w->err);
    if (!st) {
        return failed(&w->err);
    }
    sqlite3_bind_int64(st, 1, w->a);
    sqlite3_bind_int64(st, 2, w->b);
    return db_done(d, st, "granting a lease", &w->err);
}

static int run_revoke(struct batch *b, struct wr *w, bool *broken) {
    struct db *d = &b->s->wr.db;
    struct arena a = ARENA_INIT((size_t)1 << 30);
    struct change c = change_at(b, &a);
    struct span *keys = NULL;
    size_t n = 0;
    sqlite3_stmt *st = db_stmt(d, ST_LEASE_DEL, &w->err);
    int rc = st ? 0 : failed(&w->err);
    if (rc == 0) {
        sqlite3_bind_int64(st, 1, w->a);
        rc = db_done(d, st, "revoking a lease", &w->err);
    }
    if (rc == 0 && sqlite3_changes(d->h) == 0) {
        rc = err_pub(&w->err, ERR_NOT_FOUND, STORE_E_NO_LEASE);
    } else if (rc == 0) {
        *broken = true;
        rc = view_lease_keys(&c.v, w->a, &a, &keys, &n, &w->err);
    }
    for (size_t i = 0; i < n && rc == 0; i++) {
        struct present old;
        rc = view_present(&c.v, keys[i], &old, &w->err);
        if (rc > 0) {
            rc = change_delete(&c, keys[i], &old, &w->err);
        }
    }
    if (rc == 0) {
        change_done(b, &c, &w->b);
        *broken = false;
    }
    arena_fini(&a);
    return rc;
}

static int run_aux(struct batch *b, struct wr *w) {
    struct db *d = &b->s->wr.db;
    sqlite3_stmt *st = db_stmt(d, w->flag ? ST_AUX_DEL : ST_AUX_SET, &w->err);
    if (!st) {
        return failed(&w->err);
    }
    db_bind_span(st, 1, w->s[0]);
    db_bind_span(st, 2, w->s[1]);
    if (!w->flag) {
        db_bind_span(st, 3, w->s[2]);
    }
    return db_done(d, st, "writing a record", &w->err);
}

static int run_compact(struct batch *b, struct wr *w) {
    struct writer *wr = &b->s->wr;
    if (w->a < 0 || (wr->compacted && w->a <= wr->compact_rev)) {
        return err_pub(&w->err, ERR_GONE, STORE_E_COMPACTED);
    }
    if (w->a > wr->rev) {
        return err_pub(&w->err, ERR_GONE, STORE_E_FUTURE);
    }
    w->b = id_of(wr->compact_rev, 0);
    int rc = db_meta_set(&wr->db, "compact", w->a, &w->err);
    if (rc == 0) {
        rc = db_meta_set(&wr->db, "compacted", 1, &w->err);
    }
    if (rc == 0) {
        wr->compacted = true;
        wr->compact_rev = w->a;
    }
    return rc;
}

static int run_left(struct batch *b, struct wr *w) {
    struct db *d = &b->s->wr.db;
    struct lease_left left;
    sqlite3_stmt *st = db_stmt(d, ST_LEASE_LEFT, &w->err);
    int rc = st ? 0 : failed(&w->err);
    for (int64_t i = 0; i < w->a && rc == 0; i++) {
        memcpy(&left, wr_own(w) + (size_t)i * sizeof(left), sizeof(left));
        sqlite3_bind_int64(st, 1, left.id);
        sqlite3_bind_int64(st, 2, left.left);
        rc = db_done(d, st, "keeping a lease's time", &w->err);
    }
    return rc;
}

/* With the CORRUPT alarm nothing of the keys may change any more, as in etcd. */
static bool frozen(const struct batch *b, const struct wr *w) {
    if (!store_alarmed(b->s->wr.alarms, STORE_ALARM_CORRUPT)) {
        return false;
    }
    return w->kind == WR_GRANT || w->kind == WR_REVOKE || w->kind == WR_COMPACT ||
           (w->kind == WR_TXN && body_writes(&w->txn->body));
}

static int run_one(struct batch *b, struct wr *w, bool *broken) {
    if (frozen(b, w)) {
        return err_pub(&w->err, ERR_CORRUPT, STORE_E_CORRUPT);
    }
    switch (w->kind) {
    case WR_TXN: return run_txn(b, w, broken);
    case WR_GRANT: return run_grant(b, w);
    case WR_REVOKE: return run_revoke(b, w, broken);
    case WR_LEFT: return run_left(b, w);
    case WR_AUX: return run_aux(b, w);
    case WR_COMPACT: return run_compact(b, w);
    case WR_ALARM: {
        uint32_t bits =
            w->flag ? b->s->wr.alarms | (uint32_t)w->a : b->s->wr.alarms & ~(uint32_t)w->a;
        int rc = db_meta_set(&b->s->wr.db, "alarms", bits, &w->err);
        if (rc == 0) {
            b->s->wr.alarms = bits;
        }
        return rc;
    }
    case WR_MAX_: break;
    }
    return err_set(&w->err, ERR_INTERNAL, "unknown command %d", (int)w->kind);
}

/* The file failed, not the request. */
static bool machine_failed(int rc, const struct err *e) {
    return rc == -ERR_IO || (rc == -ERR_CORRUPT && e->pub != STORE_E_CORRUPT) ||
           rc == -ERR_UNAVAILABLE || rc == -ERR_INTERNAL || rc == -ERR_NOMEM ||
           (rc == -ERR_LIMIT && e->sys == ENOSPC);
}

/* Runs all commands; -code when the SQLite transaction cannot be kept. A command that spoils the transaction by itself
 * (`*spoiler`) is answered alone and the others are run again without it. */
static int run_all(struct batch *b, struct wr **spoiler, struct err *e) {
    struct db *d = &b->s->wr.db;
    int rc = db_run(d, ST_BEGIN, e);
    if (rc < 0) {
        return rc;
    }
    for (LIST_EACH(p, next, &b->wrs)) {
        struct wr *w = CONTAINER_OF(p, struct wr, link);
        bool broken = false;
        if (w->settled) {
            continue;
        }
        w->rc = run_one(b, w, &broken);
        bool machine = w->rc < 0 && machine_failed(w->rc, &w->err);
        if (broken || machine) {
            *spoiler = machine ? NULL : w;
            *e = w->err;
            return w->rc;
        }
    }
    return db_run(d, ST_COMMIT, e);
}

static void undo(struct batch *b, const struct writer *before) {
    struct writer *w = &b->s->wr;
    if (!sqlite3_get_autocommit(w->db.h)) {
        struct err ignored = ERR_INIT;
        IGNORE_ERR(db_run(&w->db, ST_ROLLBACK, &ignored), "an error may have rolled back already");
    }
    w->rev = before->rev;
    w->compact_rev = before->compact_rev;
    w->compacted = before->compacted;
    w->alarms = before->alarms;
    b->n_puts = b->n_deletes = 0;
    buf_reset(&b->counts);
    if (b->eb) {
        ebatch_free(b->eb);
        b->eb = ebatch_new();
    }
}

/* The size of the file, after a commit. Both numbers are in page 1, and SQLite compiles these two statements each time. */
void writer_size(struct store *s) {
    struct writer *w = &s->wr;
    if (w->size_known && !store_vfs_head_written(s->vfs)) {
        return;
    }
    int64_t pages = 0, free_pages = 0;
    struct err e = ERR_INIT;
    int rc = db_i64(&w->db, ST_PAGE_COUNT, &pages, &e);
    rc = rc < 0 ? rc : db_i64(&w->db, ST_FREE_COUNT, &free_pages, &e);
    w->size_known = rc == 0; /* else looked at again after the next commit */
    if (rc == 0) {
        w->pages = (uint64_t)pages;
        w->free_pages = (uint64_t)free_pages;
    }
}

static void batch_run(struct loop_work *lw) {
    struct batch *b = CONTAINER_OF(lw, struct batch, w);
    struct writer *w = &b->s->wr, before = *w;
    uint64_t t0 = clock_ns();
    for (;;) {
        struct wr *spoiler = NULL;
        b->rc = run_all(b, &spoiler, &b->err);
        if (b->rc == 0) {
            writer_size(b->s);
            break;
        }
        undo(b, &before);
        if (!spoiler) {
            break;
        }
        spoiler->settled = true;
        err_reset(&b->err);
        for (LIST_EACH(p, next, &b->wrs)) { /* what the first run left in the others */
            struct wr *o = CONTAINER_OF(p, struct wr, link);
            if (!o->settled) {
                err_reset(&o->err);
            }
        }
    }
    b->rev = w->rev;
    b->compact_rev = w->compact_rev;
    b->alarms = w->alarms;
    b->pages = w->pages;
    b->free_pages = w->free_pages;
    b->wal_frames = w->db.wal_frames;
    b->took_ns = clock_ns() - t0;
}

/* ---- on the loop ---- */

/* The last of it. */
static void answer(struct store *s, struct wr *w) {
    const struct err *e = w->rc < 0 ? &w->err : NULL;
    switch (w->kind) {
    case WR_TXN:
        if (w->rc < 0) {
            w->txn->rev = s->rev;
        }
        w->cb.txn_done(w->ctx, w->txn, w->rc, e);
        if (!w->txn->kept) {
            store_txn_free(w->txn);
        }
        return; /* it was part of the transaction */
    case WR_GRANT:
    case WR_LEFT:
        if (w->cb.lease_done) {
            w->cb.lease_done(w->ctx, w->rc, w->a, w->b, e);
        }
        break;
    case WR_REVOKE:
    case WR_ALARM:
    case WR_AUX:
    case WR_COMPACT:
        if (w->cb.done) {
            w->cb.done(w->ctx, w->rc, e);
        }
        break;
    case WR_MAX_: break;
    }
    free(w);
}

/* What a command changes in the loop's own state, before anybody hears of it. */
static void take_effect(struct store *s, struct wr *w) {
    switch (w->kind) {
    case WR_GRANT:
        if (w->rc == 0) {
            lease_granted(s, w->a, w->b, 0);
        }
        break;
    case WR_REVOKE:
        if (w->rc == 0 || w->rc == -ERR_NOT_FOUND) {
            lease_gone(s, w->a);
        } else {
            lease_revoke_failed(s, w->a);
        }
        if (w->flag) {
            lease_revoked(s);
        }
        break;
    case WR_LEFT: lease_kept(s, w); break;
    case WR_COMPACT:
        if (w->rc == 0) {
            store_compacted(s, w);
        }
        break;
    case WR_TXN:
    case WR_ALARM:
    case WR_AUX:
    case WR_MAX_: break;
    }
}

/* A long commit counts at once, and until some fifty short ones followed for each time that it was e times longer. */
static void commit_took(struct store *s, uint64_t ns) {
    uint64_t kept = s->commit_ns - s->commit_ns / 16;
    s->commit_ns = ns > kept ? ns : kept;
}

/* The lane does not wait for the loop: while a batch is being committed the next one stands behind it, and what comes goes
 * into that until the lane takes it. But each commit costs a sync and the pages that all commits change, so a batch that is
 * smaller than the one before waits for what the answers bring, unless it is large enough for these not to matter. */
static bool enough(const struct store *s, size_t n_before) {
    return s->n_waiting >= ENOUGH || (s->n_waiting && s->n_waiting >= n_before);
}

static void batch_done(struct loop_work *lw) {
    struct batch *b = CONTAINER_OF(lw, struct batch, w);
    struct store *s = b->s;
    s->busy--;
    s->n_out -= b->n;
    s->open = s->open == b ? NULL : s->open;
    commit_took(s, b->took_ns);
    s->st.n_txns += b->n;
    if (b->rc == 0) {
        s->rev = b->rev;
        count_commit(s, b->counting ? &b->counts : NULL);
        s->alarms = b->alarms;
        s->pages = b->pages;
        s->free_pages = b->free_pages;
        wal_grown(s, b->wal_frames);
        s->st.n_commits++;
        s->st.n_puts += b->n_puts;
        s->st.n_deletes += b->n_deletes;
        s->st.commit_ns_total += b->took_ns;
        if (b->took_ns > s->st.commit_ns_max) {
            s->st.commit_ns_max = b->took_ns;
        }
    }
    for (LIST_EACH(p, next, &b->wrs)) {
        struct wr *w = CONTAINER_OF(p, struct wr, link);
        if (b->rc < 0 && !w->settled) {
            w->rc = b->rc;
            w->err = b->err;
        }
        take_effect(s, w);
    }
    if (enough(s, b->n)) { /* the next commit runs while these get their events and answers */
        store_kick(s);
    }
    if (b->rc == 0) {
        watch_deliver(s, TAKE(b->eb));
    }
    while (!list_empty(&b->wrs)) {
        struct wr *w = CONTAINER_OF(b->wrs.next, struct wr, link);
        list_del(&w->link);
        s->n_pending--;
        answer(s, w);
    }
    ebatch_free(b->eb);
    buf_fini(&b->counts);
    free(b);
    task_idle_arm(s);
    s->turns = loop_turns(s->l);
    store_kick(s);
}

static void batch_fill(struct store *s, struct batch *b) {
    size_t before = b->n;
    b->want_prev = s->o.keep_prev || s->n_prev_watches;
    if (s->n_watches && !b->eb) {
        b->eb = ebatch_new();
    }
    b->counting = s->counts.on;
    count_changes_init(&b->counts);
    while (!list_empty(&s->pending) && b->n < LIM_BATCH_TXNS && b->bytes < LIM_BATCH_BYTES) {
        struct wr *w = CONTAINER_OF(s->pending.next, struct wr, link);
        list_del(&w->link);
        list_add_tail(&b->wrs, &w->link);
        b->bytes += w->bytes;
        b->n++;
    }
    s->n_waiting -= b->n - before;
    s->n_out += b->n - before;
}

static struct batch *batch_new(struct store *s) {
    struct batch *b = new_zero(struct batch);
    b->w.run = batch_run;
    b->w.done = batch_done;
    b->s = s;
    list_init(&b->wrs);
    batch_fill(s, b);
    s->busy++;
    s->batches_since_task++;
    return b;
}

static void batch_submit(struct store *s, struct batch *b) {
    struct err e = ERR_INIT;
    s->open = b;
    int rc =
        loop_work_submit(s->l, LANE_DB_WRITE, &b->w, &e); /* from here the batch is the lane's */
    if (rc < 0) {
        b->rc = rc;
        b->err = e;
        batch_done(&b->w);
    }
}

/* What waits goes into the last batch, if the lane has not begun it. */
static void batch_extend(struct store *s) {
    struct batch *b = s->open;
    if (b && s->n_waiting) {
        if (loop_work_recall(s->l, LANE_DB_WRITE, &b->w)) {
            batch_fill(s, b);
            batch_submit(s, b);
        } else {
            s->open = NULL;
        }
    }
}

enum {
    LONE_OPS = 8,
    LONE_BYTES = 64 * 1024,
};

static bool points_only(const struct store_ops *ops) {
    for (size_t i = 0; i < ops->n; i++) {
        const struct store_op *op = &ops->v[i];
        if (!(op->kind == STORE_OP_PUT || (op->kind == STORE_OP_RANGE && !op->u.range.end.n) ||
              (op->kind == STORE_OP_DELETE && !op->u.del.end.n))) {
            return false;
        }
    }
    return ops->n <= LONE_OPS;
}

/* Done in microseconds, whatever the store holds. */
static bool is_small(const struct wr *w) {
    const struct store_body *b = w->kind == WR_TXN ? &w->txn->body : NULL;
    if (!b || w->bytes > LONE_BYTES || b->n_cmps > LONE_OPS) {
        return w->kind == WR_GRANT;
    }
    for (size_t i = 0; i < b->n_cmps; i++) {
        if (b->cmps[i].end.n) {
            return false;
        }
    }
    return points_only(&b->then) && points_only(&b->els);
}

/* A small write of somebody who has the loop to himself, and a disk that is quick: handing it to the lane and back, two wake-ups
 * of a sleeping thread, would take as long as the commit. Anybody else's callback since the last answer sends the next
 * commit to the lane, and so does a commit that was slow: at most one of them is waited for here. */
static bool is_lone(const struct store *s) {
    return s->n_pending == 1 && is_small(CONTAINER_OF(s->pending.next, struct wr, link)) &&
           !s->wal.out && s->commit_ns <= STORE_LONE_NS && loop_turns(s->l) - s->turns <= 1;
}

/* A batch may be handed over: to a free lane, or behind what is on it. Where a task is due the lane is left to run dry: what
 * the task shall do is decided when all that was committed is known. */
static bool batch_due(struct store *s) {
    if (!s->n_waiting || wal_full(s)) {
        return false;
    }
    return !s->busy ||
           (s->busy == 1 && enough(s, s->n_out) && (s->tasking || task_due(s, false) == TASK_MAX_));
}

static void kick(struct store *s, bool in_hook) {
    wal_kick(s);
    batch_extend(s);
    if (!s->busy) {
        task_start(s, !s->n_waiting);
    }
    if (!batch_due(s)) {
        return;
    }
    if (s->busy || !is_lone(s)) {
        batch_submit(s, batch_new(s));
    } else if (in_hook) {
        struct batch *b = batch_new(s);
        batch_run(&b->w);
        batch_done(&b->w);
        loop_linger(s->l);
    } else { /* not inside another's answer */
        loop_before_sleep(s->l, &s->flush_hook, store_flush, s);
    }
}

void store_kick(struct store *s) {
    kick(s, false);
}
void store_flush(void *ctx) {
    kick(ctx, true);
}

void store_submit(struct store *s, struct wr *own_wr) {
    list_add_tail(&s->pending, &own_wr->link);
    s->n_pending++;
    s->n_waiting++;
    loop_before_sleep(s->l, &s->flush_hook, store_flush, s);
}

/* A refusal before anything is queued for the lane still answers later, never inside the call. */
struct refusal {
    struct loop_hook hook;
    struct wr *w;
    struct store *s;
};

static void refused(void *ctx) {
    struct refusal *r = ctx;
    struct wr *w = r->w;
    r->s->n_pending--;
    answer(r->s, w);
    free(r);
}

void store_refuse(struct store *s, struct wr *own_wr) {
    struct refusal *r = new_zero(struct refusal);
    r->w = own_wr;
    r->s = s;
    s->n_pending++;
    loop_before_sleep(s->l, &r->hook, refused, r);
}

/* Transactions that only read need no commit: short ones run on the loop's connection, others on the read lane. */
static int run_read_only(const struct view *v, struct wr *w) {
    struct change c = {.v = *v, .a = &w->txn->a, .new_rev = v->rev};
    int rc = body_prepare(&c.v, &w->txn->body, &w->err);
    if (rc == 0) {
        rc = body_apply(&c, &w->txn->body, &w->err);
    }
    w->txn->rev = v->rev;
    return rc;
}

struct read_txn {
    struct loop_work work;
    struct store *s;
    struct wr *w;
    struct view v;
};

static void read_txn_run(struct loop_work *lw) {
    struct read_txn *r = CONTAINER_OF(lw, struct read_txn, work);
    struct db *d = &r->s->rd_lane;
    struct wr *w = r->w;
    w->rc = store_lane_open(r->s, &w->err);
    if (w->rc == 0 && (w->rc = db_run(d, ST_BEGIN_READ, &w->err)) == 0) {
        r->v.d = d;
        w->rc = run_read_only(&r->v, w);
        struct err ignored = ERR_INIT;
        IGNORE_ERR(db_run(d, ST_COMMIT, &ignored), "nothing was written");
    }
}

static void read_txn_done(struct loop_work *lw) {
    struct read_txn *r = CONTAINER_OF(lw, struct read_txn, work);
    struct store *s = r->s;
    struct wr *w = r->w;
    if (r->v.compact_rev != s->compact_rev) { /* rows may have gone while they were read */
        r->v = store_view(s);
        err_reset(&w->err);
        struct err e = ERR_INIT;
        int rc = loop_work_submit(s->l, LANE_DB_READ, &r->work, &e);
        if (rc == 0) {
            return; /* the job is the lane's, with what becomes of it */
        }
        w->rc = rc;
        w->err = e;
    }
    s->reads_out--;
    store_lane_keep(s);
    store_refuse(s, w);
    free(r);
}

static void read_txn_start(struct store *s, struct wr *w) {
    struct read_txn *r = new_zero(struct read_txn);
    *r = (struct read_txn){{.run = read_txn_run, .done = read_txn_done}, s, w, store_view(s)};
    struct err e = ERR_INIT;
    int rc = loop_work_submit(s->l, LANE_DB_READ, &r->work, &e);
    if (rc < 0) {
        w->rc = rc;
        w->err = e;
        free(r);
        store_refuse(s, w);
    } else {
        s->reads_out++;
    }
}

int store_txn_check(const struct store *s, struct store_txn *t, struct err *e) {
    if (t->failed || (!t->checked && body_bytes(&t->body) > s->o.max_request_bytes)) {
        return err_pub(e, ERR_INVALID, STORE_E_TOO_LARGE);
    }
    int rc = t->checked ? 0 : body_check(&t->body, s->o.max_txn_ops, e);
    t->checked = rc == 0;
    return rc;
}

void engine_txn(struct store *s, struct store_txn *own_txn, store_txn_done *done, void *ctx) {
    struct wr *w = txn_wr(own_txn);
    w->cb.txn_done = done;
    w->ctx = ctx;
    w->bytes = body_bytes(&own_txn->body);
    w->rc = store_txn_check(s, own_txn, &w->err);
    if (w->rc == 0 && body_writes(&own_txn->body)) {
        store_submit(s, w);
        return;
    }
    if (w->rc == 0 && body_long(&own_txn->body)) {
        read_txn_start(s, w);
        return;
    }
    if (w->rc == 0) {
        struct view v = store_view(s);
        w->rc = run_read_only(&v, w);
    }
    store_refuse(s, w);
}
