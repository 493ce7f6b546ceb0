#include "internal/base/pool.h"

#include "internal/base/buf.h"

#include <stdlib.h>
#include <sys/mman.h>

enum { CLASSES = 8, NO_CLASS = CLASSES, MAPPED };
static const size_t sizes[CLASSES] = {64, 128, 256, 512, 1024, 2048, 3072, POOL_BLOCK_MAX};

union block { /* in front of what the user gets */
    struct {
        size_t class, size;
    };
    _Alignas(16) char align[16];
};

struct waiting {
    union block head;
    struct waiting *next;
};

struct pool {
    struct waiting *free[CLASSES];
    size_t n[CLASSES], low[CLASSES]; /* low: fewest that waited since the last trim */
    size_t kept, max_kept;
};

struct pool *pool_new(size_t max_kept) {
    struct pool *p = new_zero(struct pool);
    p->max_kept = max_kept;
    return p;
}

static size_t class_of(size_t n) {
    if (n <= sizes[0]) {
        return 0;
    }
    size_t class = (size_t)(64 - __builtin_clzll(n - 1)) - 6; /* of powers of two */
    return class == 6 && n > sizes[6] ? 7 : class;
}

static struct waiting *take(struct pool *p, size_t class) {
    struct waiting *w = p->free[class];
    p->free[class] = w->next;
    p->kept -= sizes[class];
    if (--p->n[class] < p->low[class]) {
        p->low[class] = p->n[class];
    }
    return w;
}

void pool_free(struct pool *p) {
    if (!p) {
        return;
    }
    for (size_t i = 0; i < CLASSES; i++) {
        while (p->free[i]) {
            free(take(p, i));
        }
    }
    free(p);
}

void *pool_get(struct pool *p, size_t n) {
    union block *b;
    if (n > POOL_BLOCK_MAX || !p->max_kept) {
        size_t all;
        b = ck_add(n, sizeof(*b), &all) ? NULL : malloc(all);
        if (!b) {
            return NULL;
        }
        b->class = NO_CLASS;
    } else {
        size_t class = class_of(n);
        if (p->free[class]) {
            b = &take(p, class)->head;
        } else {
            b = malloc(sizes[class] + sizeof(*b));
            CHECK(b);
        }
        b->class = class;
    }
    b->size = n;
    return b + 1;
}

void *pool_sparse(struct pool *p, size_t n) {
    size_t all;
    if (!p->max_kept || ck_add(n, sizeof(union block), &all)) {
        return pool_get(p, n);
    }
    union block *b = mmap(NULL, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (b == MAP_FAILED) {
        return pool_get(p, n);
    }
    b->class = MAPPED;
    b->size = n;
    return b + 1;
}

void *pool_zero(struct pool *p, size_t n) {
    void *v = pool_get(p, n);
    if (v) {
        memset(v, 0, n);
    }
    return v;
}

void *pool_resize(struct pool *p, void *block, size_t n) {
    union block *b = block ? (union block *)block - 1 : NULL;
    if (b && b->class < NO_CLASS && n <= POOL_BLOCK_MAX && class_of(n) <= b->class) {
        b->size = n;
        return block;
    }
    void *to = pool_get(p, n);
    if (to && b) {
        memcpy(to, block, b->size < n ? b->size : n);
        pool_put(p, block);
    }
    return to;
}

void pool_put(struct pool *p, void *block) {
    if (!block) {
        return;
    }
    union block *b = (union block *)block - 1;
    size_t class = b->class, size = class < NO_CLASS ? sizes[class] : 0;
    if (class == MAPPED) {
        munmap(b, b->size + sizeof(*b));
        return;
    }
    if (class == NO_CLASS || p->kept + size > p->max_kept) {
        free(b);
        return;
    }
    struct waiting *w = (struct waiting *)(void *)b;
    w->next = p->free[class];
    p->free[class] = w;
    p->n[class]++;
    p->kept += size;
}

size_t pool_kept(const struct pool *p) {
    return p->kept;
}

void pool_trim(struct pool *p) {
    for (size_t i = 0; i < CLASSES; i++) {
        for (size_t k = p->low[i]; k; k--) {
            free(take(p, i));
        }
        p->low[i] = p->n[i];
    }
}
