#include "internal/base/arena.h"

#include "internal/base/pool.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct arena_block {
    struct arena_block *next;
    size_t cap, used;
    bool lent; /* not ours to free */
    _Alignas(16) uint8_t data[];
};

/* Blocks grow with the arena. The first is small: most requests are, and malloc gives a page of its own back to the
 * kernel each time. */
enum { BLOCK_MIN = 1024 - 64, BLOCK_MAX = 65536 - 64 };

static size_t block_for(const struct arena *a, size_t want) {
    size_t cap = a->used < BLOCK_MIN ? BLOCK_MIN : a->used > BLOCK_MAX ? BLOCK_MAX : a->used;
    return want > cap ? want : cap;
}

static void block_free(const struct arena *a, struct arena_block *b) {
    if (b->lent) {
        return;
    }
    if (a->pool) {
        pool_put(a->pool, b);
    } else {
        free(b);
    }
}

void arena_lend(struct arena *a, void *mem, size_t n) {
    struct arena_block *b = mem;
    CHECK(!a->head && n >= sizeof(*b));
    *b = (struct arena_block){.cap = (n - sizeof(*b)) & ~(size_t)15, .lent = true};
    a->head = b;
    a->used = b->cap;
}

static struct arena_block *grow(struct arena *a, size_t want) {
    size_t left = a->max > a->used ? a->max - a->used : 0;
    size_t cap = block_for(a, want);
    if (want > left) {
        return NULL;
    }
    cap = cap < left ? cap : left & ~(size_t)15;
    struct arena_block *b =
        a->pool ? pool_get(a->pool, sizeof(*b) + cap) : malloc(sizeof(*b) + cap);
    if (b) {
        *b = (struct arena_block){.next = a->head, .cap = cap};
        a->head = b;
        a->used += cap;
    }
    return b;
}

static void *take(struct arena *a, size_t n) {
    size_t want;
    if (ck_add(n, 15u, &want)) {
        return NULL;
    }
    want &= ~(size_t)15;
    struct arena_block *b = a->head;
    if ((!b || b->cap - b->used < want) && !(b = grow(a, want))) {
        return NULL;
    }
    void *p = b->data + b->used;
    b->used += want;
    return p;
}

void *arena_alloc(struct arena *a, size_t n) {
    void *p = take(a, n);
    return p ? memset(p, 0, n) : NULL;
}

char *arena_str(struct arena *a, struct span s) {
    size_t n;
    char *p = ck_add(s.n, 1u, &n) ? NULL : take(a, n);
    if (p) {
        if (s.n) {
            memcpy(p, s.p, s.n);
        }
        p[s.n] = 0;
    }
    return p;
}

struct span arena_copy(struct arena *a, struct span s) {
    char *p = arena_str(a, s);
    return p ? span_of(p, s.n) : SPAN_EMPTY;
}

char *arena_fmt(struct arena *a, const char *fmt, ...) {
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    char *p = n < 0 ? NULL : arena_alloc(a, (size_t)n + 1);
    if (p) {
        vsnprintf(p, (size_t)n + 1, fmt, again);
    }
    va_end(again);
    return p;
}

void arena_reset(struct arena *a) {
    struct arena_block *b = a->head;
    while (b && b->next) {
        struct arena_block *next = b->next;
        block_free(a, b);
        b = next;
    }
    a->head = b;
    a->used = b ? b->cap : 0;
    if (b) {
        b->used = 0;
    }
}

void arena_fini(struct arena *a) {
    while (a->head) {
        struct arena_block *next = a->head->next;
        block_free(a, a->head);
        a->head = next;
    }
    a->used = 0;
}
