/* arena — allocations that die together (a request, a message), with a hard maximum.
 *
 * Owns:     all blocks; arena_reset frees all but the first, arena_fini everything.
 * Limits:   `max` bytes in all; past it (or out of memory) allocation returns NULL.
 * Threads:  any, one at a time. Memory is aligned to 16 bytes and zeroed.
 */
#ifndef KF_ARENA_H
#define KF_ARENA_H

#include "internal/base/span.h"

#include <stdarg.h>

struct arena {
    struct arena_block *head;
    size_t used, max;
    struct pool *pool; /* where blocks come from; NULL: malloc */
};

#define ARENA_INIT(max_bytes) {NULL, 0, (max_bytes), NULL}
/* Of one thread, which is the pool's. */
#define ARENA_POOL(max_bytes, from) {NULL, 0, (max_bytes), (from)}

/* The first block of an empty arena, for one that lies beside its owner: it stays the caller's, until arena_fini. */
void arena_lend(struct arena *a, void *mem, size_t n);
NODISCARD void *arena_alloc(struct arena *a, size_t n);
#define arena_new(a, T) ((T *)arena_alloc((a), sizeof(T)))
/* Copies as a NUL-terminated string. */
NODISCARD char *arena_str(struct arena *a, struct span s);
NODISCARD char *arena_fmt(struct arena *a, const char *fmt, ...) PRINTF(2, 3);
NODISCARD struct span arena_copy(struct arena *a, struct span s); /* .p NULL on failure of a non-empty copy */
void arena_reset(struct arena *a);
void arena_fini(struct arena *a);

#endif
