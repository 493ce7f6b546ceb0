/* Leases in number, and their time over restarts. */
#include "internal/store/store_test.h"

#include "internal/base/rand.h"
#include "internal/lin/fault_lanes.h"
#include "internal/t/t.h"

#include <stdlib.h>

struct tally {
    size_t done, failed;
};

static void granted(void *ctx, int rc, int64_t id, int64_t ttl, const struct err *e) {
    struct tally *t = ctx;
    (void)id;
    (void)ttl;
    (void)e;
    t->done++;
    t->failed += rc < 0;
}

static size_t n_leases(struct box *b) {
    struct store_stat st;
    store_stat(b->s, &st);
    return st.n_leases;
}

/* Many that expire in the same moment: all are revoked, and a put has its turn meanwhile. */
TEST(store, leases_expire_together) {
    enum { N = 3000 };
    struct box b = {0};
    struct err e = ERR_INIT;
    struct tally t = {0};
    box_open(&b);
    for (int64_t id = 1; id <= N; id++) {
        store_lease_grant(b.s, id, 2, granted, &t);
    }
    while (t.done < N) {
        ASSERT_OK(loop_step(b.l, NS_PER_S, &e), &e);
    }
    ASSERT_EQ(0, t.failed);
    ASSERT_OK(box_put(&b, "a", "1", N, &e), &e);
    ASSERT_OK(box_put(&b, "b", "1", 1, &e), &e);
    size_t left_at_put = 0;
    while (n_leases(&b)) {
        ASSERT_OK(loop_step(b.l, 20 * NS_PER_S, &e), &e);
        if (!left_at_put && n_leases(&b) < N) {
            ASSERT(b.s->n_pending < N / 2); /* what others submit now does not wait for all of it */
            ASSERT_OK(box_put(&b, "c", "1", 0, &e), &e);
            left_at_put = n_leases(&b);
        }
    }
    ASSERT(left_at_put > 0);
    char *all = box_range(&b, "a", "z", 0);
    ASSERT_EQ(0, strncmp(all, "c=1@", 4));
    free(all);
    box_fini(&b);
}

static int64_t left_in_file(struct box *b, int64_t id) {
    sqlite3_stmt *st;
    ASSERT_EQ(SQLITE_OK, sqlite3_prepare_v2(b->s->rd.h, "SELECT left FROM lease WHERE id = ?1", -1,
                                            &st, NULL));
    sqlite3_bind_int64(st, 1, id);
    ASSERT_EQ(SQLITE_ROW, sqlite3_step(st));
    int64_t left = sqlite3_column_int64(st, 0);
    sqlite3_finalize(st);
    return left;
}

static int64_t ttl_of(struct box *b, int64_t id) {
    struct store_lease_info li;
    struct err e = ERR_INIT;
    ASSERT_OK(store_lease_get(b->s, id, &li, &e), &e);
    return li.ttl;
}

struct renewals {
    struct box *b;
    int started, done;
};
static void renewed(void *ctx, int rc, int64_t id, int64_t ttl, const struct err *e);

static void renew(struct renewals *r) {
    struct err e = ERR_INIT;
    int64_t ttl = 0;
    r->started++;
    int rc = store_lease_keepalive(r->b->s, 5, renewed, r, &ttl, &e);
    ASSERT(rc == 0 || rc == STORE_LATER);
    r->done += rc == 0;
}

static void renewed(void *ctx, int rc, int64_t id, int64_t ttl, const struct err *e) {
    struct renewals *r = ctx;
    (void)id;
    (void)ttl;
    (void)e;
    ASSERT_EQ(0, rc);
    r->done++;
    if (r->started == 1) {
        renew(r); /* the second checkpoint is on its way to the disk */
    }
}

/* The write lane stands still until so many are pending, then works until all renewals are answered. */
static void held_until(struct renewals *r, size_t pending, bool renew_now) {
    struct err e = ERR_INIT;
    struct store *s = r->b->s;
    box_rest(r->b);
    s->commit_ns = NS_PER_S; /* nothing is committed on the loop */
    fault_lanes.hold[LANE_DB_WRITE] = true;
    if (renew_now) {
        renew(r);
    }
    while (s->n_pending < pending) { /* a checkpoint comes after a second */
        ASSERT_OK(loop_step(r->b->l, 5 * NS_PER_S, &e), &e);
    }
    loop_timer_stop(&s->checkpoint_timer); /* no more of them */
    if (!renew_now) {
        renew(r);
    }
    fault_lanes.hold[LANE_DB_WRITE] = false;
    while (r->done < r->started) {
        ASSERT_OK(loop_step(r->b->l, 5 * NS_PER_S, &e), &e);
    }
    box_rest(r->b);
}

/* A renewal that came while a checkpoint was on its way to the disk was lost at a restart: the lease ended early. */
TEST(store, lease_renewed_during_a_checkpoint_keeps_its_time) {
    struct box b = {.o = {.lease_checkpoint_s = 1}};
    struct err e = ERR_INIT;
    struct renewals r = {&b, 1, 1};
    box_open(&b);
    ASSERT_OK(box_grant(&b, 5, 1000, &e), &e);
    held_until(&r, 1, false);
    ASSERT_EQ(0, left_in_file(&b, 5));
    ASSERT_OK(db_exec(&b.s->wr.db, "UPDATE lease SET left = 400", &e), &e);
    box_shut(&b);
    box_open(&b);
    r = (struct renewals){&b, 0, 0};
    held_until(&r, 2,
               true); /* the checkpoint is behind the first renewal, the second comes between */
    ASSERT_EQ(2, r.done);
    ASSERT_EQ(0, left_in_file(&b, 5));
    box_fini(&b);
}

TEST(store, lease_time_survives_a_restart) {
    struct box b = {.o = {.lease_checkpoint_s = 1}};
    struct err e = ERR_INIT;
    box_open(&b);
    ASSERT_OK(box_grant(&b, 5, 1000, &e), &e);
    ASSERT_OK(box_grant(&b, 6, 1000, &e), &e);
    ASSERT_OK(db_exec(&b.s->wr.db, "UPDATE lease SET left = 400 WHERE id = 5", &e), &e);
    box_shut(&b);
    box_open(&b);
    ASSERT(ttl_of(&b, 5) <= 400);
    ASSERT(ttl_of(&b, 5) >= 390);
    ASSERT(ttl_of(&b, 6) > 900);
    while (left_in_file(&b, 6) == 0) { /* the checkpoint comes after a second */
        ASSERT_OK(loop_step(b.l, 5 * NS_PER_S, &e), &e);
    }
    ASSERT(left_in_file(&b, 5) <= 400);
    ASSERT(left_in_file(&b, 5) > ttl_of(&b, 5) - 1); /* never less than there is */

    int64_t ttl = 0;
    struct tally t = {0};
    ASSERT_EQ(STORE_LATER, store_lease_keepalive(b.s, 5, granted, &t, &ttl, &e));
    ASSERT_EQ(0, t.done);
    while (!t.done) {
        ASSERT_OK(loop_step(b.l, 5 * NS_PER_S, &e), &e);
    }
    ASSERT_EQ(0, t.failed);
    box_shut(&b);
    box_open(&b);
    ASSERT(ttl_of(&b, 5) > 900); /* the whole time, or what a checkpoint left of it since */

    ASSERT_OK(db_exec(&b.s->wr.db, "UPDATE lease SET left = 3", &e), &e);
    box_shut(&b);
    b.o.lease_checkpoint_s = 0;
    box_open(&b); /* without checkpoints: the whole time, for the runs after this one as well */
    ASSERT(ttl_of(&b, 5) > 900);
    ASSERT_EQ(0, left_in_file(&b, 5));
    ASSERT_EQ(0, store_lease_keepalive(b.s, 5, NULL, NULL, &ttl, &e));
    ASSERT_EQ(1000, ttl);
    box_fini(&b);
}

/* The grant's look-up failed, SQLite took the transaction back, and the grant was then committed by itself. */
TEST(store, lease_that_was_refused_is_not_in_the_file) {
    struct box b = {.vfs = "kfarm-fault"};
    struct fault f;
    int refused = 0;
    fault_start(&f);
    box_open(&b);
    for (int64_t id = 1; id <= 12; id++) {
        struct err e = ERR_INIT;
        box_rest(&b);
        sqlite3_db_release_memory(b.s->wr.db.h);
        fault_set(&f, (long)(id % 6), SQLITE_IOERR_CORRUPTFS, false, false);
        int rc = box_grant(&b, id, 1000, &e);
        fault_set(&f, -1, 0, false, false);
        refused += rc < 0;
        sqlite3_stmt *st;
        ASSERT_EQ(SQLITE_OK, sqlite3_prepare_v2(b.s->rd.h, "SELECT 1 FROM lease WHERE id = ?1", -1,
                                                &st, NULL));
        sqlite3_bind_int64(st, 1, id);
        ASSERT_EQ(rc < 0 ? SQLITE_DONE : SQLITE_ROW, sqlite3_step(st));
        sqlite3_finalize(st);
    }
    ASSERT(refused > 0);
    box_fini(&b);
    fault_stop(&f);
}
