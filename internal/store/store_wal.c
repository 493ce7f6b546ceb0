/* Checkpoints. What is in the WAL moves to the database on a lane of its own while commits go on. Commits add to the WAL
 * meanwhile, so that it would never be empty: passes follow each other as long as each leaves less than half of what the one
 * before left. That little is moved between two commits, and the next commit starts the WAL at its beginning again. How much
 * may gather grows with the rate of writes: a page that changes a hundred times is moved once. */
#include "internal/store/store_int.h"

#include "internal/base/rand.h"
#include "internal/log/log.h"

#include <stdlib.h>

enum {
    FRAME_BYTES = 4096 + 24,
    SOFT_MIN = STORE_WAL_KEEP / FRAME_BYTES / 2, /* frames that make a checkpoint due */
    SOFT_MAX = 16384,
    MOST = SOFT_MAX + SOFT_MAX / 4, /* all of it moves, whatever is left to move */
    REST = 128,                     /* frames moved between two commits without a thought */
};
#define OFTEN_NS (NS_PER_S / 4) /* two checkpoints in less: more may gather */

struct pass {
    struct loop_work w;
    struct store *s;
    uint64_t frames, moved;
    int rc;
    struct err err;
};

void wal_init(struct store *s) {
    s->wal.soft = SOFT_MIN;
    s->wal.most = MOST;
    s->wal.shrink = true; /* a crash may have left a large one */
}

static uint64_t rest(const struct store *s) {
    return s->wal.frames - s->wal.moved;
}

void wal_grown(struct store *s, uint64_t frames) {
    if (frames < s->wal.frames || frames < s->wal.moved) { /* started again */
        s->wal.moved = 0;
        s->wal.passing = false;
        s->wal.stuck = false;
    }
    s->wal.frames = frames;
}

static void get_stuck(struct wal *w) {
    w->stuck = true;
    w->stuck_at = w->frames;
}

/* Tried again when the WAL has grown, so that it keeps its bound under readers that come and go; else with the timer. */
static bool held_up(const struct wal *w) {
    return w->stuck && w->frames < w->stuck_at + REST;
}

static int checkpoint(struct db *d, int mode, uint64_t *ret_frames, uint64_t *ret_moved,
                      struct err *e) {
    int frames = 0, moved = 0;
    int rc = sqlite3_wal_checkpoint_v2(d->h, NULL, mode, &frames, &moved);
    if (rc != SQLITE_OK && rc != SQLITE_BUSY) { /* busy: a reader needs the WAL as it is */
        return db_fail(d, rc, "checkpoint", e);
    }
    *ret_frames = frames > 0 ? (uint64_t)frames : 0;
    *ret_moved = moved > 0 ? (uint64_t)moved : 0;
    return 0;
}

/* `frames`, `moved`: what a checkpoint saw and how far it came. Behind a reader nothing moves: tried again later. */
static void learn(struct store *s, uint64_t frames, uint64_t moved, int rc) {
    struct wal *w = &s->wal;
    w->stuck = false;
    if (rc < 0 || (moved < frames && moved <= w->moved)) {
        get_stuck(w);
    }
    if (moved > w->moved && moved <= w->frames) { /* else the WAL was started again since */
        w->moved = moved;
    }
}

/* ---- on a lane of its own ---- */

static void pass_run(struct loop_work *lw) {
    struct pass *p = CONTAINER_OF(lw, struct pass, w);
    struct db *d = &p->s->wal.db;
    if (!d->h) {
        struct db_opts o = {store_vfs_name(p->s->vfs), p->s->path, false, 64 * 1024};
        p->rc = db_open(d, &o, &p->err);
        if (p->rc < 0) {
            return;
        }
        sqlite3_busy_timeout(d->h, 0);
    }
    p->rc = checkpoint(d, SQLITE_CHECKPOINT_PASSIVE, &p->frames, &p->moved, &p->err);
}

static void pass_done(struct loop_work *lw) {
    struct pass *p = CONTAINER_OF(lw, struct pass, w);
    struct store *s = p->s;
    s->wal.out = false;
    learn(s, p->frames, p->moved, p->rc);
    if (p->rc < 0) {
        LOG_DEBUG("store", "checkpoint failed, tried again later", F_ERR(&p->err));
    }
    free(p);
    store_kick(s);
}

/* After a pass: another one would leave still less. */
static bool pass_pays(const struct store *s) {
    return rest(s) > REST && rest(s) < s->wal.rest_before / 2;
}

void wal_kick(struct store *s) {
    struct wal *w = &s->wal;
    bool due = w->passing ? pass_pays(s) : rest(s) >= w->soft;
    if (w->out || held_up(w) || s->closing || !due) {
        return;
    }
    uint64_t now = loop_now(s->l);
    if (!w->passing && now - w->started_ns < OFTEN_NS) {
        w->soft = w->soft * 2 < SOFT_MAX ? w->soft * 2 : SOFT_MAX;
    }
    w->started_ns = now;
    struct pass *p = new_zero(struct pass);
    struct err e = ERR_INIT;
    p->w.run = pass_run;
    p->w.done = pass_done;
    p->s = s;
    if (loop_work_submit(s->l, LANE_DB_CHECKPOINT, &p->w, &e) < 0) {
        get_stuck(w); /* no thread: the write lane does all of it when the WAL is at its most */
        free(p);
        return;
    }
    w->passing = true;
    w->rest_before = rest(s);
    w->out = true;
}

/* A pass goes on and so much was written meanwhile that commits must wait for it, or the file would have no bound. */
bool wal_full(const struct store *s) {
    return s->wal.out && s->wal.frames >= 2 * s->wal.most;
}

/* ---- on the write lane ---- */

bool wal_due(const struct store *s, bool idle) {
    const struct wal *w = &s->wal;
    if (w->out) {
        return false;
    }
    bool ready = w->passing && rest(s) && !pass_pays(s);
    bool most = rest(s) && w->frames >= w->most;
    return (!held_up(w) && (ready || most)) || (idle && w->shrink);
}

int wal_task(struct task *t) {
    struct db *d = &t->s->wr.db;
    int mode = t->shrink ? SQLITE_CHECKPOINT_TRUNCATE : SQLITE_CHECKPOINT_PASSIVE;
    sqlite3_busy_timeout(d->h, 0);
    int rc = checkpoint(d, mode, &t->seen, &t->moved, &t->err);
    if (t->shrink) {
        sqlite3_db_release_memory(d->h);
    }
    return rc;
}

void wal_task_done(struct store *s, const struct task *t) {
    learn(s, t->seen, t->moved, t->rc);
    if (t->rc == 0 &&
        t->moved >= t->seen) { /* all there was; of an emptied WAL SQLite says 0 of 0 */
        s->wal.moved = s->wal.frames;
    }
    if (t->shrink) {
        s->wal.shrink = false;
    }
}

/* Every two seconds while there is something to do; `quiet`: nothing was written since. */
void wal_tick(struct store *s, bool quiet) {
    struct wal *w = &s->wal;
    w->stuck = false;
    if (quiet || loop_now(s->l) - w->started_ns > 4 * OFTEN_NS) {
        w->soft = w->soft / 2 > SOFT_MIN && !quiet ? w->soft / 2 : SOFT_MIN;
    }
    if (w->soft == SOFT_MIN && store_vfs_wal_bytes(s->vfs) > STORE_WAL_KEEP) {
        w->shrink = true;
    }
}

void wal_fini(struct store *s) {
    db_close(&s->wal.db);
}
