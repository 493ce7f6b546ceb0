/* Watches that lag, against the history as it was written: order, completeness, nothing twice, progress never ahead; and
 * that those who lag together share what they are given. */
#include "internal/store/store_test.h"

#include "internal/t/t.h"

#include <stdio.h>
#include <stdlib.h>

enum { WATCHES = 24, WRITES = 3000 };

struct reader {
    struct store_watch *w;
    struct lag *l;
    int64_t next; /* first revision not given */
    unsigned lo;  /* keys from this one on */
    bool slow, paused, all;
    size_t n_shared, n_messages;
};

struct lag {
    struct box b;
    uint64_t seed, last_share;
    uint8_t key_of[WRITES * 3]; /* by revision */
    bool deleted[WRITES * 3];
    struct reader r[WATCHES];
    size_t n_again; /* messages with the number of the one before */
};

static uint32_t below(struct lag *l, uint32_t n) {
    l->seed = l->seed * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(l->seed >> 33) % n;
}

static bool concerns(const struct reader *r, int64_t rev) {
    return r->l->key_of[rev] >= r->lo && (r->all || !r->l->deleted[rev]);
}

static int on_message(void *ctx, struct store_watch *w, const struct store_watch_msg *m) {
    struct reader *r = ctx;
    struct lag *l = r->l;
    (void)w;
    ASSERT(m->kind != STORE_WATCH_CANCELLED);
    ASSERT(!r->paused);
    ASSERT(m->rev <= store_rev(l->b.s));
    for (size_t i = 0; i < m->n; i++) {
        int64_t rev = m->events[i]->kv.mod_rev;
        ASSERT(rev >= r->next && rev <= m->rev);
        for (; r->next < rev; r->next++) {
            ASSERT(!concerns(r, r->next)); /* nothing is left out */
        }
        ASSERT(concerns(r, rev));
        ASSERT_EQ(l->deleted[rev], m->events[i]->type == STORE_DELETE);
        ASSERT_EQ('a' + l->key_of[rev], m->events[i]->kv.key.p[0]);
        r->next = rev + 1;
    }
    for (; r->next <= m->rev; r->next++) {
        ASSERT(!concerns(r, r->next));
    }
    r->n_messages++;
    r->n_shared += m->share && m->share == l->last_share;
    l->last_share = m->share;
    r->paused = r->slow && m->kind == STORE_WATCH_EVENTS && below(l, 3) == 0;
    return r->paused ? STORE_WATCH_PAUSE : 0;
}

static void write_some(struct lag *l, unsigned n) {
    struct err e = ERR_INIT;
    for (unsigned i = 0; i < n; i++) {
        char k[2] = {(char)('a' + below(l, 6)), 0}, v[32];
        int64_t before = store_rev(l->b.s);
        bool del = below(l, 8) == 0;
        /* Told before it happens: events come before the answer. */
        l->key_of[before + 1] = (uint8_t)(k[0] - 'a');
        l->deleted[before + 1] = del;
        ASSERT_OK(str_put(v, sizeof(v), "%u", below(l, 1000000)), &e);
        if (del) {
            ASSERT_OK(box_delete(&l->b, k, "", &e), &e);
        } else {
            ASSERT_OK(box_put(&l->b, k, v, 0, &e), &e);
        }
    }
}

static void start(struct lag *l, struct reader *r, int64_t from, unsigned lo) {
    struct err e = ERR_INIT;
    char k[2] = {(char)('a' + lo), 0};
    struct store_watch_req q = {.key = span_str(k), .end = SPAN_LIT("z"), .start_rev = from};
    *r = (struct reader){.l = l, .next = from, .lo = lo, .slow = below(l, 2), .all = below(l, 3)};
    q.prev_kv = below(l, 3) == 0;
    q.filters = r->all ? 0 : STORE_NO_DELETE;
    ASSERT_OK(store_watch_start(l->b.s, &q, on_message, r, &r->w, &e), &e);
}

static void resume_some(struct lag *l, uint32_t one_in) {
    for (size_t i = 0; i < WATCHES; i++) {
        struct reader *r = &l->r[i];
        if (r->paused && below(l, one_in) == 0) {
            r->paused = false;
            store_watch_resume(r->w);
        }
    }
}

static bool all_there(struct lag *l) {
    bool there = true;
    for (size_t i = 0; i < WATCHES; i++) {
        there &= store_watch_next_rev(l->r[i].w) > store_rev(l->b.s);
    }
    return there;
}

static void history(uint64_t seed, uint32_t recent_bytes) {
    struct lag *l = new_zero(struct lag);
    struct err e = ERR_INIT;
    l->seed = seed;
    l->b.o.recent_bytes = recent_bytes;
    box_open(&l->b);
    write_some(l, 700);
    for (size_t i = 0; i < WATCHES; i++) {
        start(l, &l->r[i], 2 + (int64_t)below(l, 600), below(l, 4));
    }
    for (int round = 0; round < 40; round++) {
        write_some(l, below(l, 30));
        for (uint32_t turns = below(l, 3); turns; turns--) {
            ASSERT_OK(loop_step(l->b.l, 0, &e), &e);
        }
        resume_some(l, 4);
        struct reader *r = &l->r[below(l, WATCHES)];
        if (below(l, 4) == 0) {
            store_watch_stop(r->w);
            start(l, r, 2 + (int64_t)below(l, (uint32_t)store_rev(l->b.s)), below(l, 4));
        } else {
            store_watch_progress(r->w);
        }
    }
    for (int turns = 0; !all_there(l) && turns < 10000; turns++) {
        resume_some(l, 1);
        ASSERT_OK(loop_step(l->b.l, 0, &e), &e);
    }
    ASSERT(all_there(l));
    for (size_t i = 0; i < WATCHES; i++) {
        for (; l->r[i].next <= store_rev(l->b.s); l->r[i].next++) {
            ASSERT(!concerns(&l->r[i], l->r[i].next));
        }
        store_watch_stop(l->r[i].w);
    }
    ASSERT(list_empty(&l->b.s->catchup.chunks));
    ASSERT_EQ(0, l->b.s->catchup.recent_bytes);
    box_fini(&l->b);
    free(l);
}

TEST(store, lagging_watches_from_the_log) {
    history(1, 1);
}
TEST(store, lagging_watches_from_recent_commits) {
    history(2, 1 << 20);
}
TEST(store, lagging_watches_from_both) {
    history(3, 512);
}

/* Wherever they start, they are together after one cell. */
TEST(store, lagging_watches_share) {
    struct lag *l = new_zero(struct lag);
    struct err e = ERR_INIT;
    l->seed = 4;
    l->b.o.recent_bytes = 1;
    box_open(&l->b);
    write_some(l, WRITES);
    for (size_t i = 0; i < WATCHES; i++) {
        start(l, &l->r[i], 2 + (int64_t)below(l, 300), 0);
        l->r[i].slow = false;
        l->r[i].all = true;
        store_watch_stop(l->r[i].w);
        struct store_watch_req q = {
            .key = SPAN_LIT("a"), .end = SPAN_LIT("z"), .start_rev = l->r[i].next};
        ASSERT_OK(store_watch_start(l->b.s, &q, on_message, &l->r[i], &l->r[i].w, &e), &e);
    }
    while (!all_there(l)) {
        ASSERT_OK(loop_step(l->b.l, 0, &e), &e);
    }
    size_t shared = 0, messages = 0;
    for (size_t i = 0; i < WATCHES; i++) {
        shared += l->r[i].n_shared;
        messages += l->r[i].n_messages;
        ASSERT_EQ(store_rev(l->b.s) + 1, l->r[i].next);
    }
    size_t cells = (size_t)(store_rev(l->b.s) / 512 + 1);
    ASSERT_EQ(WATCHES * cells, messages);
    ASSERT(shared >= (WATCHES - 1) * (cells - 1)); /* all but the first of each cell */
    for (size_t i = 0; i < WATCHES; i++) {
        store_watch_stop(l->r[i].w);
    }
    box_fini(&l->b);
    free(l);
}
