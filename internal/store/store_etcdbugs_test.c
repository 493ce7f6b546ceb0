/* Bugs that etcd and kine had, by their numbers (github.com/etcd-io/etcd/issues). Each test fails on a store that has it. */
#include "internal/store/store_test.h"

#include "internal/base/rand.h"
#include "internal/t/t.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

/* ---- what a watch is given ---- */

struct heard {
    struct {
        int64_t rev;
        char key[16];
        bool deleted;
    } v[2048];
    size_t n;
    int64_t progress; /* newest */
    bool cancelled, pauses;
};

static int hear(void *ctx, struct store_watch *w, const struct store_watch_msg *m) {
    struct heard *h = ctx;
    (void)w;
    for (size_t i = 0; i < m->n; i++) {
        ASSERT(h->n < ARRAY_LEN(h->v));
        h->v[h->n].rev = m->events[i]->kv.mod_rev;
        h->v[h->n].deleted = m->events[i]->type == STORE_DELETE;
        ASSERT_EQ(0, span_to_cstr(m->events[i]->kv.key, h->v[h->n].key, sizeof(h->v[0].key)));
        ASSERT(!h->n || h->v[h->n].rev >= h->v[h->n - 1].rev);
        ASSERT(h->v[h->n].rev > h->progress); /* never behind what was promised */
        h->n++;
    }
    if (m->kind == STORE_WATCH_PROGRESS) {
        ASSERT(m->rev >= h->progress);
        h->progress = m->rev;
    }
    h->cancelled |= m->kind == STORE_WATCH_CANCELLED;
    return h->pauses ? STORE_WATCH_PAUSE : 0;
}

static struct store_watch *watch(struct box *b, struct heard *h, const char *key, const char *end,
                                 int64_t from) {
    struct store_watch_req q = {.key = span_str(key), .end = span_str(end), .start_rev = from};
    struct store_watch *w;
    struct err e = ERR_INIT;
    *h = (struct heard){.n = 0};
    ASSERT_OK(store_watch_start(b->s, &q, hear, h, &w, &e), &e);
    return w;
}

static void put(struct box *b, const char *key, const char *value) {
    struct err e = ERR_INIT;
    ASSERT_OK(box_put(b, key, value, 0, &e), &e);
}
static void put_n(struct box *b, const char *key, int n) {
    for (int i = 0; i < n; i++) {
        put(b, key, "v");
    }
}
static void del(struct box *b, const char *key) {
    struct err e = ERR_INIT;
    ASSERT_OK(box_delete(b, key, "", &e), &e);
}
static void compact(struct box *b, int64_t rev) {
    struct err e = ERR_INIT;
    ASSERT_OK(box_compact(b, rev, &e), &e);
}
static void reopen(struct box *b) {
    box_shut(b);
    box_open(b);
}
static void settle(struct box *b) {
    for (int i = 0; i < 20; i++) {
        box_turn(b);
    }
}

/* ---- crashes: power goes at each operation on the disk in turn ---- */

struct crash {
    struct fault f;
    struct box b;
    uint64_t seed;
};

/* Runs `work` until power goes at its n-th operation; false when it has fewer. */
static bool crash_at(struct crash *c, long n, void (*work)(struct crash *c)) {
    fault_set(&c->f, n, SQLITE_IOERR_WRITE, true, false);
    work(c);
    bool reached = fault_tripped(&c->f);
    fault_power_off(&c->f, &c->seed);
    box_shut(&c->b);
    fault_power_on(&c->f);
    box_open(&c->b);
    return reached;
}

static void crash_start(struct crash *c) {
    *c = (struct crash){.b = {.vfs = "kfarm-fault"}, .seed = 13766};
    fault_start(&c->f);
    box_open(&c->b);
}
static void crash_end(struct crash *c) {
    box_fini(&c->b);
    fault_stop(&c->f);
}

static int64_t number(struct box *b, const char *key) {
    struct arena a = ARENA_INIT(1 << 16);
    struct store_kv kv;
    struct err e = ERR_INIT;
    uint64_t v = 0;
    int rc = store_get(b->s, span_str(key), &a, &kv, &e);
    ASSERT(rc == 0 || rc == -ERR_NOT_FOUND);
    if (rc == 0) {
        ASSERT_EQ(0, span_to_u64(kv.value, 0, UINT32_MAX, &v));
    }
    arena_fini(&a);
    return (int64_t)v;
}

struct pairs { /* transactions that write the same number under two keys */
    struct crash c;
    int64_t acked;
};

static void write_pairs(struct crash *c) {
    struct pairs *p = CONTAINER_OF(c, struct pairs, c);
    for (int i = 0; i < 4; i++) {
        struct store_txn *t = store_txn_new(0);
        struct err e = ERR_INIT;
        char v[16];
        ASSERT_EQ(0, str_put(v, sizeof(v), "%lld", (long long)p->acked + 1));
        store_txn_put(t, &t->body.then, SPAN_LIT("a"), span_str(v), 0);
        store_txn_put(t, &t->body.then, SPAN_LIT("b"), span_str(v), 0);
        int rc = box_txn(&c->b, t, &e);
        store_txn_free(t);
        if (rc < 0) {
            return;
        }
        p->acked++;
    }
}

/* A crash under load left the revision and the data of different points in time. */
TEST(etcd_bug, 13766_revision_and_data_agree_after_a_crash) {
    struct pairs *p = new_zero(struct pairs);
    crash_start(&p->c);
    for (long n = 0; n < 60; n++) {
        crash_at(&p->c, n % 20, write_pairs);
        int64_t have = number(&p->c.b, "a");
        ASSERT_EQ(have, number(&p->c.b, "b"));
        ASSERT_EQ(have + 1, store_rev(p->c.b.s)); /* each transaction is one revision */
        ASSERT(have == p->acked || have == p->acked + 1);
        p->acked = have;
    }
    crash_end(&p->c);
    free(p);
}

/* One node acknowledged a write before it was on the disk, and lost it with the power. */
TEST(etcd_bug, 14370_acknowledged_means_durable) {
    struct crash c;
    crash_start(&c);
    for (int i = 1; i <= 30; i++) {
        char v[16];
        ASSERT_EQ(0, str_put(v, sizeof(v), "%d", i));
        put(&c.b, "k", v);
        fault_power_off(&c.f, &c.seed); /* at once */
        box_shut(&c.b);
        fault_power_on(&c.f);
        box_open(&c.b);
        ASSERT_EQ(i, number(&c.b, "k"));
        ASSERT_EQ(i + 1, store_rev(c.b.s));
    }
    crash_end(&c);
}

struct until {
    bool done;
    int rc;
};
static void on_done(void *ctx, int rc, const struct err *e) {
    (void)e;
    *(struct until *)ctx = (struct until){true, rc};
}
static void wait_for(struct box *b, const struct until *u) {
    struct err e = ERR_INIT;
    while (!u->done) {
        ASSERT_OK(loop_step(b->l, NS_PER_S, &e), &e);
    }
}

static void defrag(struct crash *c) {
    struct until u = {false, 0};
    store_defrag(c->b.s, on_done, &u);
    wait_for(&c->b, &u);
}

/* A crash during defragmentation left a file whose index did not fit its data. */
TEST(etcd_bug, 14685_crash_during_defrag) {
    struct crash c;
    char big[3001], k[16];
    memset(big, 'x', 3000);
    big[3000] = 0;
    crash_start(&c);
    bool reached = true;
    for (long n = 0; reached; n += 3) {
        for (int i = 0; i < 60; i++) {
            ASSERT_EQ(0, str_put(k, sizeof(k), "k%02d", i));
            put(&c.b, k, i % 4 ? big : "17");
        }
        compact(&c.b, store_rev(c.b.s));
        int64_t rev = store_rev(c.b.s);
        reached = crash_at(&c, n, defrag) && n < 300;
        ASSERT_EQ(rev, store_rev(c.b.s));
        for (int i = 0; i < 60; i += 4) {
            ASSERT_EQ(0, str_put(k, sizeof(k), "k%02d", i));
            ASSERT_EQ(17, number(&c.b, k));
        }
        put(&c.b, "after", "1");
        ASSERT_EQ(rev + 1, store_rev(c.b.s));
    }
    crash_end(&c);
}

static void compact_all(struct crash *c) {
    struct until u = {false, 0};
    store_compact(c->b.s, store_rev(c->b.s), true, on_done, &u);
    wait_for(&c->b, &u);
}

/* The newest revisions were deletions; compaction removed them, and after a crash the revision was a lower one. */
TEST(etcd_bug, 17780_revision_stays_after_a_crash_in_compaction) {
    struct crash c;
    crash_start(&c);
    bool reached = true;
    for (long n = 0; reached; n++) {
        put_n(&c.b, "a", 3);
        put_n(&c.b, "b", 3);
        del(&c.b, "a");
        del(&c.b, "b");
        int64_t rev = store_rev(c.b.s);
        reached = crash_at(&c, n, compact_all) && n < 100;
        ASSERT_EQ(rev, store_rev(c.b.s));
        ASSERT_EQ(0, number(&c.b, "a"));
    }
    put(&c.b, "a", "1"); /* and with nothing but deletions left */
    del(&c.b, "a");
    compact(&c.b, store_rev(c.b.s) - 1);
    int64_t rev = store_rev(c.b.s);
    compact(&c.b, rev);
    reopen(&c.b);
    ASSERT_EQ(rev, store_rev(c.b.s));
    put(&c.b, "a", "1");
    ASSERT_EQ(rev + 1, store_rev(c.b.s));
    crash_end(&c);
}

/* ---- watches ---- */

/* Progress was announced to a watch that still had to be given older events. */
TEST(etcd_bug, 15220_progress_is_not_ahead_of_events) {
    struct box b = {0};
    struct heard *h = new_zero(struct heard), *slow = new_zero(struct heard);
    b.o.recent_bytes = 1; /* who lags reads the log */
    box_open(&b);
    put_n(&b, "k", 1200);
    struct store_watch *w = watch(&b, h, "k", "", 1), *s = watch(&b, slow, "k", "", 1);
    slow->pauses = true;
    store_watch_progress(w);
    store_watch_progress(s);
    settle(&b);
    put(&b, "k", "w");
    settle(&b);
    ASSERT(h->progress >= 1201);
    ASSERT_EQ(1201, h->n);
    ASSERT_EQ(0, slow->progress); /* it does not read: it has been given less than everything */
    ASSERT(slow->n < 1201);
    slow->pauses = false;
    store_watch_resume(s);
    settle(&b);
    ASSERT_EQ(1201, slow->n);
    ASSERT_EQ(store_rev(b.s), slow->progress);
    store_watch_stop(w);
    store_watch_stop(s);
    box_fini(&b);
    free(h);
    free(slow);
}

static void on_snapshot(void *ctx, int rc, int own_fd, uint64_t size, const struct err *e) {
    (void)e;
    ASSERT_EQ(0, rc);
    ASSERT(size > 0);
    *(int *)ctx = own_fd;
}

/* After its member was given a snapshot, a watch was shown revisions that it had seen already. */
TEST(etcd_bug, 15271_watch_on_a_restored_store_does_not_go_back) {
    struct box a = {0}, b = {0};
    struct err e = ERR_INIT;
    struct heard *h = new_zero(struct heard), *f = new_zero(struct heard);
    int fd = -1;
    int64_t rev;
    box_open(&a);
    put_n(&a, "k", 20);
    ASSERT_OK(store_snapshot(a.s, on_snapshot, &fd, &e), &e);
    while (fd < 0) {
        ASSERT_OK(loop_step(a.l, NS_PER_S, &e), &e);
    }
    box_open(&b);
    box_shut(&b);
    ASSERT_EQ(0, unlinkat(b.dirfd, "store.db", 0));
    ASSERT_OK(store_restore(b.dirfd, "store.db", fd, &rev, &e), &e);
    close(fd);
    box_open(&b);
    ASSERT_EQ(21, rev);
    ASSERT_EQ(rev, store_rev(b.s));
    struct store_watch *w = watch(&b, h, "k", "", 15), *w2 = watch(&b, f, "k", "", 24);
    store_watch_progress(w);
    store_watch_progress(w2);
    settle(&b);
    put_n(&b, "k", 5);
    settle(&b);
    ASSERT_EQ(12, h->n);
    ASSERT_EQ(15, h->v[0].rev);
    ASSERT_EQ(26, h->v[11].rev);
    ASSERT_EQ(3, f->n);
    ASSERT_EQ(24, f->v[0].rev);
    store_watch_stop(w);
    store_watch_stop(w2);
    box_fini(&a);
    box_fini(&b);
    free(h);
    free(f);
}

static void ignore_txn(void *ctx, struct store_txn *t, int rc, const struct err *e) {
    (void)t;
    (void)e;
    ASSERT_EQ(0, rc);
    ++*(int *)ctx;
}

/* A read cache shared by transactions gave a watch the same event twice. Here: watches that start at every point of a
 * commit's way, in the past and now, hear of each event once. */
TEST(etcd_bug, 17247_no_event_twice) {
    struct box b = {0};
    struct heard *h = mem_array(NULL, 8, sizeof(*h), 8);
    struct store_watch *w[8];
    struct err e = ERR_INIT;
    ASSERT(h != NULL);
    box_open(&b);
    for (int round = 0; round < 40; round++) {
        int done = 0;
        int64_t first = store_rev(b.s) + 1;
        for (int i = 0; i < 8; i++) {
            struct store_txn *t = store_txn_new(0);
            store_txn_put(t, &t->body.then, SPAN_LIT("a"), SPAN_LIT("1"), 0);
            store_txn_put(t, &t->body.then, SPAN_LIT("b"), SPAN_LIT("2"), 0);
            store_txn(b.s, t, ignore_txn, &done);
            w[i] = watch(&b, &h[i], "a", "c", i % 2 ? first : 0);
            if (i % 3 == 0) {
                ASSERT_OK(loop_step(b.l, i % 4 ? 0 : NS_PER_MS, &e), &e);
            }
        }
        while (done < 8) {
            ASSERT_OK(loop_step(b.l, NS_PER_S, &e), &e);
        }
        settle(&b);
        for (int i = 0; i < 8; i++) {
            ASSERT(i % 2 ? h[i].n == 16 : h[i].n <= 16);
            for (size_t k = 0; k < h[i].n; k++) { /* a and b of one revision, then of the next */
                ASSERT_EQ(h[i].v[0].rev + (int64_t)k / 2, h[i].v[k].rev);
                ASSERT_STREQ(k % 2 ? "b" : "a", h[i].v[k].key);
            }
            store_watch_stop(w[i]);
        }
    }
    box_fini(&b);
    free(h);
}

/* Watches on a stream whose client was slow lost events for good. */
TEST(etcd_bug, 17529_slow_watches_lose_nothing) {
    struct box b = {0};
    struct heard *h = mem_array(NULL, 6, sizeof(*h), 6);
    struct store_watch *w[6];
    ASSERT(h != NULL);
    b.o.recent_bytes = 2000;
    box_open(&b);
    for (int i = 0; i < 6; i++) {
        w[i] = watch(&b, &h[i], i < 3 ? "a" : "b", "", 0);
        h[i].pauses = true; /* after each message */
    }
    for (int n = 0; n < 300; n++) {
        put(&b, n % 3 ? "a" : "b", "v");
        if (n % 7 == 0) {
            store_watch_resume(w[(n / 7) % 6]);
        }
    }
    for (int n = 0; n < 400; n++) {
        store_watch_resume(w[n % 6]);
        box_turn(&b);
    }
    for (int i = 0; i < 6; i++) {
        ASSERT_EQ(i < 3 ? 200 : 100, h[i].n);
        store_watch_stop(w[i]);
    }
    box_fini(&b);
    free(h);
}

/* Compaction at the revision of a deletion took its event from the watches that were to start there. */
TEST(etcd_bug, 18089_deletion_at_the_compacted_revision) {
    struct box b = {0};
    struct heard *h = new_zero(struct heard);
    box_open(&b);
    put(&b, "k", "v");
    del(&b, "k");
    int64_t rev = store_rev(b.s);
    put(&b, "other", "v");
    struct store_watch *early = watch(&b, h, "k", "", rev); /* not given anything yet */
    compact(&b, rev);
    settle(&b);
    ASSERT_EQ(1, h->n);
    ASSERT(h->v[0].deleted);
    store_watch_stop(early);
    struct store_watch *w = watch(&b, h, "k", "", rev);
    settle(&b);
    ASSERT_EQ(1, h->n);
    ASSERT_EQ(rev, h->v[0].rev);
    ASSERT(h->v[0].deleted && !h->cancelled);
    store_watch_stop(w);
    box_fini(&b);
    free(h);
}

/* The same after a restart: the index was rebuilt without the deletion. */
TEST(etcd_bug, 19179_deletion_at_the_compacted_revision_after_restart) {
    struct box b = {0};
    struct heard *h = new_zero(struct heard);
    box_open(&b);
    put(&b, "k", "v");
    del(&b, "k");
    int64_t rev = store_rev(b.s);
    for (int i = 0; i < 3; i++) {
        if (i == 1) {
            compact(&b, rev);
        }
        reopen(&b);
        struct store_watch *w = watch(&b, h, "k", "", rev);
        settle(&b);
        ASSERT_EQ(1, h->n);
        ASSERT(h->v[0].deleted && !h->cancelled);
        ASSERT_EQ(rev, h->v[0].rev);
        store_watch_stop(w);
    }
    box_fini(&b);
    free(h);
}

/* A watch from a revision yet to come was given older events after a progress notification. */
TEST(etcd_bug, 20221_watch_on_a_future_revision) {
    struct box b = {0};
    struct heard *h = new_zero(struct heard);
    box_open(&b);
    put_n(&b, "k", 4);
    struct store_watch *w = watch(&b, h, "k", "", 10);
    for (int i = 0; i < 4; i++) {
        store_watch_progress(w);
        settle(&b);
        put(&b, "k", "v");
    }
    ASSERT_EQ(9, store_rev(b.s));
    ASSERT_EQ(0, h->n);
    ASSERT(h->progress < 10);
    put_n(&b, "k", 2);
    store_watch_progress(w);
    settle(&b);
    ASSERT_EQ(2, h->n);
    ASSERT_EQ(10, h->v[0].rev);
    ASSERT_EQ(11, h->progress);
    store_watch_stop(w);
    box_fini(&b);
    free(h);
}

/* ---- reads ---- */

/* Reading a compacted revision inside a transaction brought the member down, or was answered. */
TEST(etcd_bug, 18667_compacted_revision_in_a_transaction) {
    struct box b = {0};
    box_open(&b);
    put_n(&b, "k", 20);
    compact(&b, 21);
    for (int nested = 0; nested < 2; nested++) {
        struct store_txn *t = store_txn_new(0);
        struct err e = ERR_INIT;
        struct store_ops *ops = &t->body.then;
        store_txn_put(t, ops, SPAN_LIT("other"), SPAN_LIT("v"), 0);
        if (nested) {
            ops = &store_txn_nested(t, ops)->u.txn->then;
        }
        store_txn_range(t, ops, SPAN_LIT("k"), SPAN_EMPTY)->u.range.rev = 10;
        ASSERT_ERR(-ERR_GONE, box_txn(&b, t, &e));
        ASSERT_STREQ(STORE_E_COMPACTED, err_public(&e));
        store_txn_free(t);
        ASSERT_EQ(21, store_rev(b.s)); /* nothing of it happened */
        ASSERT_EQ(0, number(&b, "other"));
    }
    put(&b, "k", "1");
    ASSERT_EQ(22, store_rev(b.s));
    box_fini(&b);
}

struct plug { /* keeps the read lane busy until it is pulled: a process that was stopped */
    struct loop_work w;
    int fds[2];
};
static void plug_run(struct loop_work *w) {
    char c;
    ASSERT_EQ(1, read(CONTAINER_OF(w, struct plug, w)->fds[0], &c, 1));
}
static void plug_done(struct loop_work *w) {
    struct plug *p = CONTAINER_OF(w, struct plug, w);
    close(p->fds[0]);
    close(p->fds[1]);
}
static void plug_in(struct box *b, struct plug *p) {
    struct err e = ERR_INIT;
    ASSERT_EQ(0, pipe2(p->fds, O_CLOEXEC));
    p->w = (struct loop_work){.run = plug_run, .done = plug_done};
    ASSERT_OK(loop_work_submit(b->l, LANE_DB_READ, &p->w, &e), &e);
}
static void plug_pull(struct plug *p) {
    ASSERT_EQ(1, write(p->fds[1], "x", 1));
}

struct answer {
    bool done;
    int rc;
    int64_t rev, mod;
};
static void on_range(void *ctx, int rc, const struct store_range_res *r, const struct err *e) {
    (void)e;
    *(struct answer *)ctx =
        (struct answer){true, rc, rc == 0 ? r->rev : 0, rc == 0 && r->n ? r->kvs[0].mod_rev : 0};
}
static void ask(struct box *b, struct answer *a) {
    struct store_range_req q = {.key = SPAN_LIT("k")};
    struct err e = ERR_INIT;
    *a = (struct answer){false, 0, 0, 0};
    ASSERT_OK(store_range_async(b->s, &q, 0, on_range, a, &e), &e);
}

/* A process that was stopped answered a read with what had been current before. */
TEST(etcd_bug, 20418_no_stale_read_after_a_pause) {
    struct box b = {0};
    struct plug p;
    struct answer before, after;
    struct err e = ERR_INIT;
    box_open(&b);
    put(&b, "k", "1");
    plug_in(&b, &p);
    ask(&b, &before);
    put_n(&b, "k", 3);
    ask(&b, &after); /* asked after the last write was acknowledged */
    plug_pull(&p);
    while (!before.done || !after.done) {
        ASSERT_OK(loop_step(b.l, NS_PER_S, &e), &e);
    }
    ASSERT_EQ(before.rev, before.mod); /* old or new, but what its header says */
    ASSERT_EQ(5, after.mod);
    ASSERT_EQ(5, after.rev);
    box_fini(&b);
}

/* Ours: a read of the current revision that waited was refused, because what was current had been compacted. */
TEST(etcd_bug, current_revision_is_never_compacted) {
    struct box b = {0};
    struct plug p;
    struct answer a;
    struct err e = ERR_INIT;
    box_open(&b);
    put(&b, "k", "1");
    plug_in(&b, &p);
    ask(&b, &a);
    put_n(&b, "k", 3);
    struct until u = {false, 0};
    store_compact(b.s, 5, false, on_done, &u);
    wait_for(&b, &u);
    plug_pull(&p);
    while (!a.done) {
        ASSERT_OK(loop_step(b.l, NS_PER_S, &e), &e);
    }
    ASSERT_EQ(0, a.rc);
    ASSERT_EQ(5, a.mod);
    ASSERT_EQ(5, a.rev);
    box_fini(&b);
}

/* ---- kine ---- */

/* The current revision went backwards: it was taken from rows that compaction had removed. */
TEST(kine_bug, revision_never_goes_back) {
    struct box b = {0};
    int64_t rev = 1;
    box_open(&b);
    for (int i = 0; i < 12; i++) {
        put(&b, "k", "v");
        if (i % 3 != 0) {
            del(&b, "k");
        }
        ASSERT(store_rev(b.s) > rev);
        rev = store_rev(b.s);
        compact(&b, rev);
        ASSERT_EQ(rev, store_rev(b.s));
        reopen(&b);
        ASSERT_EQ(rev, store_rev(b.s));
    }
    box_fini(&b);
}

/* Progress was announced with revision 0 before the first poll. */
TEST(kine_bug, progress_is_never_at_revision_0) {
    struct box b = {0};
    struct heard *h = new_zero(struct heard);
    box_open(&b);
    for (int i = 0; i < 2; i++) {
        struct store_watch *w = watch(&b, h, "k", "", 0);
        store_watch_progress(w);
        settle(&b);
        ASSERT_EQ(store_rev(b.s), h->progress);
        ASSERT(h->progress >= 1);
        store_watch_stop(w);
        put(&b, "k", "v");
        reopen(&b);
    }
    box_fini(&b);
    free(h);
}

/* One watch that stood still kept all others from being served. */
TEST(kine_bug, one_stalled_watch_stalls_no_other) {
    struct box b = {0};
    struct heard *h = mem_array(NULL, 4, sizeof(*h), 4);
    struct store_watch *w[4];
    ASSERT(h != NULL);
    b.o.recent_bytes = 1000;
    box_open(&b);
    put_n(&b, "k", 10);
    for (int i = 0; i < 4; i++) {
        w[i] = watch(&b, &h[i], "k", "", i % 2 ? 2 : 0); /* from the log, and live */
        h[i].pauses = i < 2;
    }
    put_n(&b, "k", 200);
    settle(&b);
    ASSERT_EQ(200, h[2].n);
    ASSERT_EQ(210, h[3].n);
    ASSERT(h[0].n < 200 && h[1].n < 210);
    for (int i = 0; i < 4; i++) {
        store_watch_stop(w[i]);
    }
    box_fini(&b);
    free(h);
}
