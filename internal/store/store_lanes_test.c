/* Jobs and lanes in an order that the scheduler would rarely choose. */
#include "internal/store/store_test.h"

#include "internal/base/rand.h"
#include "internal/lin/fault.h"
#include "internal/lin/fault_lanes.h"
#include "internal/t/t.h"

#include <stdlib.h>
#include <time.h>

struct answer {
    bool done;
    int rc;
};
static void on_range(void *ctx, int rc, const struct store_range_res *r, const struct err *e) {
    (void)r;
    (void)e;
    *(struct answer *)ctx = (struct answer){true, rc};
}

static void wait_for(struct box *b, const struct answer *a) {
    struct err e = ERR_INIT;
    while (!a->done) {
        ASSERT_OK(loop_step(b->l, NS_PER_S, &e), &e);
    }
}

static void ranges(struct box *b, size_t max_bytes, struct answer *a) {
    struct store_range_req q = {.key = SPAN_LIT("k")};
    struct err e = ERR_INIT;
    *a = (struct answer){false, 0};
    ASSERT_OK(store_range_async(b->s, &q, max_bytes, on_range, a, &e), &e);
}

/* A read whose revision was compacted meanwhile goes to its lane again. What comes of it is the lane's to say: the result
 * of handing it over was written over it, and an answer that was too large became an empty one. */
TEST(store, read_that_goes_again_is_the_lanes) {
    struct box b = {0};
    struct err e = ERR_INIT;
    struct answer a;
    AUTO_FREE char *large = str_fmt("%05000d", 7);
    box_open(&b);
    ASSERT_OK(box_put(&b, "k", large, 0, &e), &e);
    fault_lanes.hold[LANE_DB_READ] = true;
    ranges(&b, 100, &a);
    ASSERT_OK(box_put(&b, "k", large, 0, &e), &e);
    ASSERT_OK(box_compact(&b, store_rev(b.s), &e), &e);
    ASSERT(!a.done);
    fault_lanes.first = FAULT_ALWAYS;
    fault_lanes.hold[LANE_DB_READ] = false;
    wait_for(&b, &a);
    fault_lanes.first = 0;
    ASSERT_EQ(-ERR_LIMIT, a.rc);
    ranges(&b, 0, &a);
    wait_for(&b, &a);
    ASSERT_EQ(0, a.rc);
    box_fini(&b);
}

/* A checkpoint that met a reader waited for a timer of two seconds, in which the WAL grew as large as it could. */
TEST(store, checkpoint_comes_back_after_a_reader) {
    struct box b = {0};
    struct err e = ERR_INIT;
    struct db reader = {0};
    box_open(&b);
    fault_lanes.first = FAULT_ALWAYS; /* each pass ends before the next put */
    ASSERT_OK(box_put(&b, "k", "v", 0, &e), &e);
    struct db_opts o = {store_vfs_name(b.s->vfs), b.s->path, false, 64 * 1024};
    ASSERT_OK(db_open(&reader, &o, &e), &e);
    ASSERT_OK(db_exec(&reader, "BEGIN", &e), &e);
    ASSERT_OK(db_exec(&reader, "SELECT count(*) FROM cur", &e), &e);
    b.s->wal.soft = 8;
    for (int i = 0; i < 500 && !b.s->wal.stuck; i++) {
        ASSERT_OK(box_put(&b, "k", "v", 0, &e), &e);
    }
    ASSERT(b.s->wal.stuck);
    ASSERT_OK(db_exec(&reader, "COMMIT", &e), &e);
    uint64_t stuck_at = b.s->wal.frames;
    for (int i = 0; i < 400 && b.s->wal.frames >= stuck_at; i++) {
        loop_timer_stop(&b.s->idle_timer); /* the puts alone bring it back */
        ASSERT_OK(box_put(&b, "k", "v", 0, &e), &e);
    }
    ASSERT(b.s->wal.frames < stuck_at); /* it began anew */
    fault_lanes.first = 0;
    db_close(&reader);
    box_fini(&b);
}

static void on_txn(void *ctx, struct store_txn *t, int rc, const struct err *e) {
    (void)t;
    (void)e;
    *(struct answer *)ctx = (struct answer){true, rc};
}

static void reads(struct box *b, int64_t rev, struct answer *a) {
    struct store_txn *t = store_txn_new(0);
    *a = (struct answer){false, 0};
    store_txn_range(t, &t->body.then, SPAN_LIT("a"), SPAN_LIT("z"))->u.range.rev = rev;
    store_txn(b->s, t, on_txn, a);
}

/* The same of a transaction that reads intervals: its refusal became an empty answer. */
TEST(store, refusal_on_the_read_lane_is_told) {
    struct box b = {0};
    struct err e = ERR_INIT;
    struct answer a;
    box_open(&b);
    for (int i = 0; i < 4; i++) {
        ASSERT_OK(box_put(&b, "k", "v", 0, &e), &e);
    }
    fault_lanes.first = FAULT_ALWAYS;
    reads(&b, store_rev(b.s) + 1, &a); /* of the future */
    wait_for(&b, &a);
    ASSERT_EQ(-ERR_GONE, a.rc);
    fault_lanes.first = 0;
    fault_lanes.hold[LANE_DB_READ] = true;
    reads(&b, 2, &a);
    ASSERT_OK(box_compact(&b, store_rev(b.s), &e), &e); /* meanwhile: it goes again */
    fault_lanes.first = FAULT_ALWAYS;
    fault_lanes.hold[LANE_DB_READ] = false;
    wait_for(&b, &a);
    fault_lanes.first = 0;
    ASSERT_EQ(-ERR_GONE, a.rc);
    box_fini(&b);
}

struct shown {
    struct answer a;
    int64_t rev;
};
static void on_shown(void *ctx, int rc, const struct store_range_res *r, const struct err *e) {
    struct shown *s = ctx;
    s->rev = r ? r->rev : 0;
    on_range(&s->a, rc, r, e);
}

/* Of many reads some are the lane's at a time. The others are of the revision at which their turn comes. */
TEST(store, waiting_read_shows_what_came_meanwhile) {
    struct box b = {0};
    struct err e = ERR_INIT;
    struct store_range_req q = {.key = SPAN_LIT("a"), .end = SPAN_LIT("z")};
    struct shown all[10] = {0};
    box_open(&b);
    ASSERT_OK(box_put(&b, "k", "1", 0, &e), &e);
    int64_t before = store_rev(b.s);
    fault_lanes.hold[LANE_DB_READ] = true;
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        ASSERT_OK(store_range_async(b.s, &q, 0, on_shown, &all[i], &e), &e);
    }
    ASSERT_OK(box_put(&b, "k", "2", 0, &e), &e);
    fault_lanes.hold[LANE_DB_READ] = false;
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        wait_for(&b, &all[i].a);
        ASSERT_EQ(0, all[i].a.rc);
    }
    ASSERT_EQ(before, all[0].rev);
    ASSERT_EQ(store_rev(b.s), all[ARRAY_LEN(all) - 1].rev);
    box_fini(&b);
}

/* ---- when a commit starts and what it takes ---- */

static void puts_n(struct box *b, size_t n, struct answer *a) {
    struct err e = ERR_INIT;
    for (size_t i = 0; i < n; i++) {
        struct store_txn *t = store_txn_new(0);
        store_txn_put(t, &t->body.then, SPAN_LIT("k"), SPAN_LIT("v"), 0);
        a[i].done = false;
        store_txn(b->s, t, on_txn, &a[i]);
    }
    ASSERT_OK(loop_step(b->l, 0, &e), &e);
}

static uint64_t commits(struct box *b) {
    struct store_stat st;
    store_stat(b->s, &st);
    return st.n_commits;
}

/* The answers come in the order of the commands: the last one's is the end. */
static uint64_t commits_until(struct box *b, const struct answer *a) {
    fault_lanes.hold[LANE_DB_WRITE] = false;
    wait_for(b, a);
    box_rest(b);
    b->s->commit_ns = NS_PER_S; /* nothing on the loop itself */
    return commits(b);
}

TEST(store, next_commit_stands_behind_the_present_one) {
    struct box b = {0};
    struct answer a[64] = {0};
    box_open(&b);
    b.s->wal.soft = UINT32_MAX;
    uint64_t n = commits_until(&b, &(struct answer){true, 0});
    fault_lanes.hold[LANE_DB_WRITE] = true; /* what is handed over now counts as begun */
    puts_n(&b, 20, a);
    ASSERT_EQ(1, b.s->busy);
    puts_n(&b, 15, a + 20); /* fewer than are being written, and few */
    ASSERT_EQ(1, b.s->busy);
    ASSERT_EQ(15, b.s->n_waiting);
    puts_n(&b, 1, a + 35);
    ASSERT_EQ(2, b.s->busy);
    ASSERT_EQ(0, b.s->n_waiting);
    puts_n(&b, 20, a + 36); /* no third */
    ASSERT_EQ(2, b.s->busy);
    ASSERT_EQ(20, b.s->n_waiting);
    ASSERT_EQ(n + 3, commits_until(&b, &a[55]));
    n += 3;
    fault_lanes.hold[LANE_DB_WRITE] = true;
    puts_n(&b, 2, a);
    puts_n(&b, 2, a + 2); /* few, but as many as are being written */
    ASSERT_EQ(2, b.s->busy);
    ASSERT_EQ(n + 2, commits_until(&b, &a[3]));
    for (size_t i = 0; i < 56; i++) {
        ASSERT_EQ(0, a[i].rc);
    }
    box_fini(&b);
}

/* What has to be done between commits would never have its turn. */
TEST(store, nothing_stands_before_a_task_that_is_due) {
    struct box b = {0};
    struct answer a[40] = {0};
    box_open(&b);
    commits_until(&b, &(struct answer){true, 0});
    fault_lanes.hold[LANE_DB_WRITE] = true;
    puts_n(&b, 20, a);
    b.s->sweeping = true;
    puts_n(&b, 20, a + 20);
    ASSERT_EQ(1, b.s->busy);
    commits_until(&b, &a[39]);
    ASSERT(!b.s->sweeping);
    box_fini(&b);
}

struct gate {
    struct loop_work w;
    _Atomic bool begun, open;
    bool done;
};
static void gate_run(struct loop_work *w) {
    struct gate *g = CONTAINER_OF(w, struct gate, w);
    g->begun = true;
    while (!g->open) {
        struct timespec ms = {0, 1000000};
        nanosleep(&ms, NULL);
    }
}
static void gate_done(struct loop_work *w) {
    CONTAINER_OF(w, struct gate, w)->done = true;
}

/* One commit for all that came before the lane had time. */
TEST(store, batch_grows_until_the_lane_takes_it) {
    struct box b = {0};
    struct err e = ERR_INIT;
    struct answer a[8] = {0};
    struct gate g = {.w = {.run = gate_run, .done = gate_done}};
    box_open(&b);
    uint64_t n = commits_until(&b, &(struct answer){true, 0});
    ASSERT_OK(loop_work_submit(b.l, LANE_DB_WRITE, &g.w, &e), &e);
    while (!g.begun) {
        struct timespec ms = {0, 1000000};
        nanosleep(&ms, NULL);
    }
    for (size_t i = 0; i < 8; i++) {
        puts_n(&b, 1, a + i);
        ASSERT_EQ(1, b.s->busy);
        ASSERT_EQ(i + 1, b.s->n_out);
    }
    g.open = true;
    ASSERT_EQ(n + 1, commits_until(&b, &a[7]));
    ASSERT(g.done);
    ASSERT_EQ(0, b.s->n_out);
    box_fini(&b);
}
