/* Which watches an event concerns, beside a matcher that looks at every watch for every event. */
#include "internal/store/store_test.h"

#include "internal/t/t.h"

#include <stdlib.h>

enum { WATCHES = 48, EVENTS = 6 };

struct bench {
    struct t_gen g;
    struct store *s;
    struct store_watch w[WATCHES];
    bool in[WATCHES];
    uint8_t keys[2 * WATCHES + EVENTS][4];
};

/* Few letters, the least and the greatest among them, so that keys meet, precede and begin each other. */
static struct span some_key(struct bench *b, size_t slot, size_t least) {
    static const uint8_t letters[] = {0, 'a', 'b', 0xff};
    size_t n = t_gen_u32(&b->g, (uint32_t)least, 3);
    for (size_t i = 0; i < n; i++) {
        b->keys[slot][i] = letters[t_gen_u32(&b->g, 0, 3)];
    }
    return span_of(b->keys[slot], n);
}

static bool concerns(const struct store_watch *w, struct span key) {
    if (!w->end.n) {
        return span_eq(w->key, key);
    }
    bool endless = w->end.n == 1 && w->end.p[0] == 0;
    return span_cmp(w->key, key) <= 0 && (endless || span_cmp(key, w->end) < 0);
}

static void come_or_go(struct bench *b) {
    size_t i = t_gen_u32(&b->g, 0, WATCHES - 1);
    struct store_watch *w = &b->w[i];
    if (b->in[i]) {
        match_leave(w);
    } else {
        *w = (struct store_watch){.s = b->s, .key = some_key(b, 2 * i, 0)};
        w->end = t_gen_u32(&b->g, 0, 2) ? some_key(b, 2 * i + 1, 0) : SPAN_EMPTY;
        match_join(b->s, w);
    }
    b->in[i] = !b->in[i];
}

static bool look(struct bench *b) {
    bool same = true;
    struct store_event ev[EVENTS] = {0};
    struct ebatch batch = {.ev = ev, .n = t_gen_u32(&b->g, 1, EVENTS)};
    struct list hits;
    list_init(&hits);
    for (size_t i = 0; i < batch.n; i++) {
        ev[i].kv.key = some_key(b, 2 * WATCHES + i, 1);
    }
    match_events(b->s, &batch, &hits);
    for (size_t i = 0; i < WATCHES; i++) {
        size_t n = 0;
        for (size_t k = 0; b->in[i] && k < batch.n; k++) {
            if (concerns(&b->w[i], ev[k].kv.key)) {
                same &=
                    n < b->w[i].range->hits.n && b->w[i].range->hits.v[n] == &ev[k]; /* in order */
                n++;
            }
        }
        same &= !b->in[i] || n == b->w[i].range->hits.n;
    }
    size_t listed = 0, hit = 0;
    for (LIST_EACH(p, next, &hits)) { /* once each, and only those with events */
        same &= CONTAINER_OF(p, struct wrange, hit)->hits.n > 0;
        listed++;
    }
    for (size_t i = 0; i < WATCHES; i++) {
        bool first = b->in[i] && b->w[i].range->hits.n;
        for (size_t k = 0; k < i; k++) {
            first &= !b->in[k] || b->w[k].range != b->w[i].range;
        }
        hit += first;
    }
    come_or_go(b); /* while the events are being given */
    match_done(b->s, &hits);
    return same && hit == listed;
}

static int as_the_naive_one(const uint8_t *p, size_t n) {
    struct bench *b = new_zero(struct bench);
    b->g.s = span_of(p, n);
    b->s = new_zero(struct store);
    bool same = true;
    while (b->g.s.n && same) {
        if (t_gen_u32(&b->g, 0, 2)) {
            come_or_go(b);
        } else {
            same = look(b);
        }
    }
    for (size_t i = 0; i < WATCHES; i++) {
        if (b->in[i]) {
            match_leave(&b->w[i]);
        }
    }
    same &= !b->s->ranges;
    free(b->s);
    free(b);
    return same ? 0 : 1;
}

TEST(store, match_is_as_the_naive_one) {
    t_property("store_match", as_the_naive_one, 300, 12000);
}
