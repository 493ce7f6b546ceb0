/* The number of keys in an interval: what is added up from blocks must be what a walk through the keys finds. */
#include "internal/store/store_test.h"

#include "internal/base/rand.h"
#include "internal/lin/fault_lanes.h"
#include "internal/t/t.h"

#include <stdlib.h>

struct answer {
    bool done;
    int rc;
    struct store_range_res r;
};
static void on_range(void *ctx, int rc, const struct store_range_res *r, const struct err *e) {
    (void)e;
    *(struct answer *)ctx = (struct answer){true, rc, rc < 0 ? (struct store_range_res){0} : *r};
}

static void ask(struct box *b, const struct store_range_req *q, struct answer *a) {
    struct err e = ERR_INIT;
    *a = (struct answer){0};
    ASSERT_OK(store_range_async(b->s, q, 0, on_range, a, &e), &e);
}

static int64_t await(struct box *b, const struct answer *a) {
    struct err e = ERR_INIT;
    while (!a->done) {
        ASSERT_OK(loop_step(b->l, NS_PER_S, &e), &e);
    }
    ASSERT_EQ(0, a->rc);
    return a->r.count;
}

/* On the loop's connection, which knows of no blocks. */
static int64_t counted_one_by_one(struct box *b, const struct store_range_req *q) {
    struct err e = ERR_INIT;
    struct arena a = ARENA_INIT(1 << 20);
    struct store_range_res r;
    struct store_range_req all = *q;
    all.count_only = true;
    ASSERT_OK(store_range(b->s, &all, &a, &r, &e), &e);
    arena_fini(&a);
    return r.count;
}

enum { KEYS = 20000, TXN = 100 };

static struct span key(char *dst, size_t cap, uint64_t i) {
    IGNORE_ERR(str_put(dst, cap, "k%05llu", (unsigned long long)i), "fits");
    return span_str(dst);
}

static void on_txn(void *ctx, struct store_txn *t, int rc, const struct err *e) {
    (void)t;
    (void)e;
    *(int *)ctx += rc == 0 ? 1 : 1000;
}

/* `n` puts or deletions of keys from `at` on, `step` apart; a deletion that is `wide` takes all between. */
static void change(struct box *b, uint64_t at, uint64_t n, uint64_t step, bool put, bool wide,
                   int *done) {
    char k[16], end[16];
    struct store_txn *t = store_txn_new(0);
    for (uint64_t i = 0; i < n; i++) {
        struct span s = key(k, sizeof(k), at + i * step);
        if (put) {
            store_txn_put(t, &t->body.then, s, SPAN_LIT("v"), 0);
        } else {
            store_txn_delete(t, &t->body.then, s,
                             wide ? key(end, sizeof(end), at + (i + 1) * step) : SPAN_EMPTY);
        }
    }
    store_txn(b->s, t, on_txn, done);
}

static void settle(struct box *b, const int *done, int want) {
    struct err e = ERR_INIT;
    while (*done < want) {
        ASSERT_OK(loop_step(b->l, NS_PER_S, &e), &e);
    }
    ASSERT_EQ(want, *done);
}

static void fill(struct box *b, uint64_t step) {
    int done = 0;
    for (uint64_t i = 0; i < KEYS; i += TXN * step) {
        change(b, i, TXN, step, true, false, &done);
    }
    settle(b, &done, KEYS / TXN / (int)step);
}

/* All keys are counted, until the blocks hold them. */
static void learn(struct box *b) {
    struct store_range_req q = {.key = SPAN_LIT("\0"), .end = SPAN_LIT("\0"), .count_only = true};
    struct answer a;
    for (int i = 0; i < 100 && !(b->s->counts.whole && !b->s->counts.walk); i++) {
        ask(b, &q, &a);
        await(b, &a);
        box_rest(b);
    }
    ASSERT(b->s->counts.whole);
    ASSERT(b->s->counts.n_blocks > 10);
}

static void walked(struct box *b) {
    struct err e = ERR_INIT;
    while (b->s->counts.walk) {
        ASSERT_OK(loop_step(b->l, NS_PER_S, &e), &e);
    }
    box_rest(b);
}

static void compare(struct box *b, struct store_range_req *q) {
    struct answer a;
    ask(b, q, &a);
    int64_t want = counted_one_by_one(b, q);
    ASSERT_EQ(want, await(b, &a));
}

/* So many revisions ago, if it is still there. */
static int64_t rev_of(struct box *b, int64_t back) {
    return back && store_rev(b->s) - back >= store_compact_rev(b->s) ? store_rev(b->s) - back : 0;
}

static void compare_some(struct box *b) {
    char from[16], to[16];
    for (int i = 0; i < 12; i++) {
        uint64_t at = rand_below(KEYS), n = rand_below(KEYS - at) + 1;
        int64_t back = (int64_t)(i < 8 ? 0 : rand_below(40)); /* some revisions ago */
        struct store_range_req q = {.key = key(from, sizeof(from), at),
                                    .end = key(to, sizeof(to), at + n),
                                    .count_only = i % 2,
                                    .rev = rev_of(b, back),
                                    .limit = i % 2 ? 0 : 3};
        compare(b, &q);
    }
    struct store_range_req all = {.key = SPAN_LIT("\0"), .end = SPAN_LIT("\0"), .count_only = true};
    struct store_range_req rest = {.key = SPAN_LIT("k01"), .end = SPAN_LIT("\0"), .limit = 7};
    struct store_range_req none = {
        .key = SPAN_LIT("k02"), .end = SPAN_LIT("k01"), .count_only = true};
    compare(b, &all);
    compare(b, &rest);
    compare(b, &none);
}

TEST(store, counts_are_those_of_a_walk) {
    struct box b = {0};
    box_open(&b);
    fill(&b, 2);
    learn(&b);
    compare_some(&b);
    for (int round = 0; round < 60; round++) {
        int done = 0;
        int n = (int)rand_below(6) + 1;
        for (int i = 0; i < n; i++) {
            uint64_t step = rand_below(3) + 1, kind = rand_below(4);
            uint64_t at = kind == 3 ? KEYS : rand_below(KEYS - 3 * TXN); /* or behind all */
            change(&b, at + rand_below(TXN), TXN, step, kind != 0, kind == 0 && n % 2, &done);
        }
        if (round % 3) {
            settle(&b, &done, n);
        }
        compare_some(&b); /* beside the changes, too */
        settle(&b, &done, n);
    }
    box_rest(&b);
    compare_some(&b);
    box_fini(&b);
}

/* Blocks that fill up are divided, those that get empty go. */
TEST(store, counted_blocks_follow_the_keys) {
    struct box b = {0};
    struct err e = ERR_INIT;
    int done = 0;
    box_open(&b);
    fill(&b, 4);
    learn(&b);
    size_t few = b.s->counts.n_blocks;
    fill(&b, 1);
    box_rest(&b);
    for (uint64_t i = 0; i < KEYS;
         i += TXN) { /* a full block is divided at the next change in it */
        change(&b, i, TXN, 1, false, true, &done);
        change(&b, i, TXN, 1, true, false, &done);
        settle(&b, &done, 2 * (int)(i / TXN + 1));
        walked(&b);
    }
    ASSERT(b.s->counts.n_blocks > 2 * few);
    compare_some(&b);
    ASSERT_OK(box_delete(&b, "k", "l", &e), &e);
    compare_some(&b);
    ASSERT(b.s->counts.n_blocks < few);
    box_fini(&b);
}

/* What is committed while the lane walks is not in its view. */
TEST(store, counts_beside_a_walk) {
    struct box b = {0};
    struct err e = ERR_INIT;
    box_open(&b);
    fill(&b, 1);
    fault_lanes.hold[LANE_DB_READ] = true;
    count_missed(b.s, KEYS);
    ASSERT(b.s->counts.walk != NULL);
    ASSERT_OK(box_delete(&b, "k00010", "k00500", &e), &e);
    ASSERT_OK(box_put(&b, "k00100", "v", 0, &e), &e);
    ASSERT_OK(box_put(&b, "kx", "v", 0, &e), &e);
    ASSERT_OK(box_delete(&b, "k19000", "k20000", &e), &e);
    fault_lanes.hold[LANE_DB_READ] = false;
    walked(&b);
    ASSERT(b.s->counts.whole);
    compare_some(&b);
    box_fini(&b);
}

/* A compaction while the lane walks may take keys away that its view should see: what it found is for nothing. */
TEST(store, counts_beside_a_walk_and_a_compaction) {
    struct box b = {0};
    struct err e = ERR_INIT;
    box_open(&b);
    fill(&b, 1);
    fault_lanes.hold[LANE_DB_READ] = true;
    count_missed(b.s, KEYS);
    ASSERT_OK(box_delete(&b, "k00010", "k00500", &e), &e);
    ASSERT_OK(box_compact(&b, store_rev(b.s), &e), &e);
    fault_lanes.hold[LANE_DB_READ] = false;
    walked(&b);
    ASSERT_EQ(0, b.s->counts.n_blocks);
    learn(&b);
    compare_some(&b);
    box_fini(&b);
}

/* A batch that runs when counting begins has noted nothing: what is counted meanwhile is for nothing. */
TEST(store, counts_begin_beside_a_commit) {
    struct box b = {0};
    struct err e = ERR_INIT;
    int done = 0;
    box_open(&b);
    fill(&b, 1);
    fault_lanes.hold[LANE_DB_WRITE] = true;
    change(&b, KEYS, TXN, 1, true, false, &done);
    while (!b.s->busy) {
        ASSERT_OK(loop_step(b.l, NS_PER_MS, &e), &e);
    }
    count_missed(b.s, KEYS);
    fault_lanes.hold[LANE_DB_WRITE] = false;
    settle(&b, &done, 1);
    box_rest(&b);
    compare_some(&b);
    learn(&b);
    compare_some(&b);
    box_fini(&b);
}

/* Counts of the past: keys made, changed, removed and made anew since. */
TEST(store, counts_of_the_past) {
    struct box b = {0};
    struct err e = ERR_INIT;
    int done = 0;
    box_open(&b);
    fill(&b, 2);
    learn(&b);
    int64_t then = store_rev(b.s);
    struct store_range_req q = {.key = SPAN_LIT("k"), .end = SPAN_LIT("l"), .count_only = true};
    int64_t want = counted_one_by_one(&b, &q);
    ASSERT_EQ(KEYS / 2, want);
    change(&b, 1, TXN, 2, true, false, &done);
    change(&b, 0, TXN, 2, true, false, &done);
    change(&b, 1000, TXN, 2, false, false, &done);
    change(&b, 2000, TXN, 2, false, false, &done);
    settle(&b, &done, 4);
    change(&b, 2000, TXN, 2, true, false, &done);
    settle(&b, &done, 5);
    struct answer a;
    for (int i = 0; i < 2; i++) {
        q.rev = then;
        ask(&b, &q, &a);
        ASSERT_EQ(want, await(&b, &a));
        q.rev = then + 1;
        ask(&b, &q, &a);
        ASSERT_EQ(want + TXN, await(&b, &a));
        q.rev = 0;
        ask(&b, &q, &a);
        ASSERT_EQ(want, await(&b, &a)); /* as many made as removed */
        ASSERT_OK(i ? 0 : box_compact(&b, then, &e), &e);
    }
    box_fini(&b);
}
