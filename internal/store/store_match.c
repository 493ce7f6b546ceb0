/* Which watches an event concerns: the watched ranges in a treap by their beginning, each node with the furthest end below it.
 * Watches of the same range share a node, so an event costs the logarithm of the ranges and what it finds. */
#include "internal/store/store_int.h"

#include "internal/base/rand.h"

#include <stdlib.h>

static bool endless(const struct wrange *g) {
    return g->end.n == 1 && g->end.p[0] == 0;
}

/* A point ends behind its key: after an interval that ends in front of the same bytes. */
static int cmp_ends(const struct wrange *a, const struct wrange *b) {
    if (endless(a) || endless(b)) {
        return endless(a) - endless(b);
    }
    int c = span_cmp(a->end.n ? a->end : a->key, b->end.n ? b->end : b->key);
    return c ? c : (a->end.n == 0) - (b->end.n == 0);
}

static bool reaches(const struct wrange *g, struct span key) {
    return endless(g) || (g->end.n ? span_cmp(key, g->end) < 0 : span_cmp(key, g->key) <= 0);
}

static int cmp(const struct wrange *g, struct span key, struct span end) {
    int c = span_cmp(g->key, key);
    return c ? c : span_cmp(g->end, end);
}

static void fix(struct wrange *g) {
    struct wrange *sides[] = {g->left, g->right};
    g->furthest = g;
    for (size_t i = 0; i < ARRAY_LEN(sides); i++) {
        if (sides[i] && cmp_ends(sides[i]->furthest, g->furthest) > 0) {
            g->furthest = sides[i]->furthest;
        }
    }
}

static struct wrange *merge(struct wrange *a, struct wrange *b) {
    if (!a || !b) {
        return a ? a : b;
    }
    if (a->priority > b->priority) {
        a->right = merge(a->right, b);
        fix(a);
        return a;
    }
    b->left = merge(a, b->left);
    fix(b);
    return b;
}

/* *ret_a: those before (key, end). */
static void split(struct wrange *g, struct span key, struct span end, struct wrange **ret_a,
                  struct wrange **ret_b) {
    if (!g) {
        *ret_a = *ret_b = NULL;
    } else if (cmp(g, key, end) < 0) {
        split(g->right, key, end, &g->right, ret_b);
        *ret_a = g;
        fix(g);
    } else {
        split(g->left, key, end, ret_a, &g->left);
        *ret_b = g;
        fix(g);
    }
}

static void take_out(struct wrange **at, struct wrange *g) {
    if (*at == g) {
        *at = merge(g->left, g->right);
    } else {
        take_out(cmp(*at, g->key, g->end) < 0 ? &(*at)->right : &(*at)->left, g);
        fix(*at);
    }
}

void match_join(struct store *s, struct store_watch *w) {
    struct wrange *g = s->ranges, *a, *b;
    int c;
    while (g && (c = cmp(g, w->key, w->end)) != 0) {
        g = c < 0 ? g->right : g->left;
    }
    if (!g) {
        g = mem_zero_alloc(sizeof(*g) + w->key.n + w->end.n + 1);
        if (w->key.n) {
            memcpy(g->own, w->key.p, w->key.n);
        }
        if (w->end.n) {
            memcpy(g->own + w->key.n, w->end.p, w->end.n);
        }
        g->key = span_of(g->own, w->key.n);
        g->end = span_of(g->own + w->key.n, w->end.n);
        g->priority = rand_u64();
        g->no = ++s->n_ranges;
        g->furthest = g;
        list_init(&g->watches);
        list_init(&g->hit);
        split(s->ranges, g->key, g->end, &a, &b);
        s->ranges = merge(merge(a, g), b);
    }
    w->range = g;
    list_init(&w->range_link);
    list_add_tail(&g->watches, &w->range_link);
}

static void free_if_unused(struct store *s, struct wrange *g) {
    if (list_empty(&g->watches) && !g->hits.n) {
        take_out(&s->ranges, g);
        free(g->hits.v);
        free(g);
    }
}

void match_leave(struct store_watch *w) {
    list_del(&w->range_link);
    free_if_unused(w->s, w->range);
}

static void add_event(struct wrange *g, const struct store_event *ev, struct list *hits) {
    if (!g->hits.n) {
        list_add_tail(hits, &g->hit);
    }
    events_push(&g->hits, ev);
}

static void stab(struct wrange *g, const struct store_event *ev, struct list *hits) {
    if (!g || !reaches(g->furthest, ev->kv.key)) {
        return;
    }
    stab(g->left, ev, hits);
    if (span_cmp(g->key, ev->kv.key) <= 0) {
        if (reaches(g, ev->kv.key)) {
            add_event(g, ev, hits);
        }
        stab(g->right, ev, hits);
    }
}

void match_events(struct store *s, const struct ebatch *b, struct list *hits) {
    for (size_t i = 0; i < b->n; i++) {
        stab(s->ranges, &b->ev[i], hits);
    }
}

static bool stabbed(const struct wrange *g, struct span key) {
    for (; g && reaches(g->furthest, key); g = g->right) {
        if (stabbed(g->left, key)) {
            return true;
        }
        if (span_cmp(g->key, key) > 0) {
            return false;
        }
        if (reaches(g, key)) {
            return true;
        }
    }
    return false;
}

bool match_any(const struct store *s, struct span key) {
    return stabbed(s->ranges, key);
}

void match_range(struct wrange *g, const struct events *in, struct list *hits) {
    for (size_t i = 0; i < in->n; i++) {
        if (range_holds(g->key, g->end, in->v[i]->kv.key)) {
            add_event(g, in->v[i], hits);
        }
    }
}

void match_done(struct store *s, struct list *hits) {
    while (!list_empty(hits)) {
        struct wrange *g = CONTAINER_OF(hits->next, struct wrange, hit);
        list_del(&g->hit);
        g->hits.n = 0;
        if (g->hits.cap > 64) { /* after a burst */
            free(TAKE(g->hits.v));
            g->hits.cap = 0;
        }
        free_if_unused(s, g);
    }
}
