/* Private to h2: the memory of a session. What each request touches, the session itself and the tables of HPACK, lies in
 * one piece, so that a connection among a thousand is few pages and can be asked for ahead; the rest is the pool's. */
#ifndef KF_H2_HOME_H
#define KF_H2_HOME_H

#include "internal/base/pool.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    HOME_SESSION_MIN = 2048, /* nghttp2's session is the one block of such a size */
    HOME_SESSION = 3072,
    HOME_UNIT = 64, /* a line of the cache */
    HOME_UNITS = 40,
};

/* The first member of what malloc or aligned_alloc gave: that is freed when the owner has left and every block is back. */
struct h2_home {
    struct pool *pool;
    size_t out; /* blocks */
    bool own, left, session_out; /* own: of what follows is given */
    uint64_t taken, wide; /* units; blocks of two */
    _Alignas(HOME_UNIT) uint8_t session[HOME_SESSION];
    uint8_t units[HOME_UNITS][HOME_UNIT];
};

void h2_home_init(struct h2_home *h, struct pool *pool, bool own);
void h2_home_leave(struct h2_home *h);
void h2_home_prefetch(const struct h2_home *h);

/* nghttp2_mem's functions, the home being its user data. */
void *h2_home_get(size_t n, void *home);
void *h2_home_zero(size_t n, size_t size, void *home);
void *h2_home_resize(void *p, size_t n, void *home);
void h2_home_put(void *p, void *home);

#endif
