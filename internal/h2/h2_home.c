#include "internal/h2/h2_home.h"

#include "internal/base/buf.h"

#include <stdlib.h>

enum {
    SPARSE_MIN = 16384, /* a frame's buffer, used for headers only: data goes by reference */
    /* Where the session (of nghttp2 1.64) has what each request touches: around the encoder's hash map. */
    HOT_FRONT = 1088,
    HOT_BACK = 2048,
};

void h2_home_init(struct h2_home *h, struct pool *pool, bool own) {
    h->pool = pool;
    h->own = own;
    h->out = 0;
    h->left = h->session_out = false;
    h->taken = h->wide = 0;
}

static void check_empty(struct h2_home *h) {
    if (h->left && !h->out) {
        free(h);
    }
}

void h2_home_leave(struct h2_home *h) {
    h->left = true;
    check_empty(h);
}

void h2_home_prefetch(const struct h2_home *h) {
    mem_prefetch(h->session, HOT_FRONT);
    mem_prefetch(h->session + HOT_BACK, HOME_SESSION - HOT_BACK);
    size_t used = h->taken ? 64 - (size_t)__builtin_clzll(h->taken) : 0;
    mem_prefetch(h->units, used * HOME_UNIT);
}

/* The lowest free unit, or two: those that stay, the tables, gather in front. */
static void *take_units(struct h2_home *h, bool two) {
    uint64_t all = ((uint64_t)1 << HOME_UNITS) - 1, fit = ~h->taken & all;
    fit &= two ? fit >> 1 : fit;
    if (!fit) {
        return NULL;
    }
    unsigned at = (unsigned)__builtin_ctzll(fit);
    h->taken |= (uint64_t)(two ? 3 : 1) << at;
    h->wide |= (uint64_t)two << at;
    return h->units[at];
}

void *h2_home_get(size_t n, void *home) {
    struct h2_home *h = home;
    void *p = NULL;
    if (h->own) {
        if (n <= 2 * (size_t)HOME_UNIT) {
            p = take_units(h, n > HOME_UNIT);
        } else if (n > HOME_SESSION_MIN && n <= HOME_SESSION && !h->session_out) {
            h->session_out = true;
            p = h->session;
        }
    }
    if (!p) {
        p = n >= SPARSE_MIN ? pool_sparse(h->pool, n) : pool_get(h->pool, n);
    }
    h->out += p != NULL;
    return p;
}

void *h2_home_zero(size_t n, size_t size, void *home) {
    size_t all;
    void *p = ck_mul(n, size, &all) ? NULL : h2_home_get(all, home);
    return p ? memset(p, 0, all) : NULL;
}

/* Bytes that p has in the home, 0: it is the pool's. */
static size_t size_at_home(const struct h2_home *h, const void *p) {
    uintptr_t at = (uintptr_t)p - (uintptr_t)h->units;
    if (p == h->session) {
        return HOME_SESSION;
    }
    if (at >= sizeof(h->units)) {
        return 0;
    }
    return h->wide >> at / HOME_UNIT & 1 ? 2 * HOME_UNIT : HOME_UNIT;
}

void *h2_home_resize(void *p, size_t n, void *home) {
    struct h2_home *h = home;
    size_t had = size_at_home(h, p);
    if (!p) {
        return h2_home_get(n, home);
    }
    if (!had) {
        return pool_resize(h->pool, p, n);
    }
    void *to = n <= had ? p : h2_home_get(n, home);
    if (to && to != p) {
        memcpy(to, p, had);
        h2_home_put(p, home);
    }
    return to;
}

void h2_home_put(void *p, void *home) {
    struct h2_home *h = home;
    size_t had = size_at_home(h, p);
    if (!p) {
        return;
    }
    if (!had) {
        pool_put(h->pool, p);
    } else if (had == HOME_SESSION) {
        h->session_out = false;
    } else {
        size_t at = ((uintptr_t)p - (uintptr_t)h->units) / HOME_UNIT;
        h->taken &= ~((uint64_t)(had == HOME_UNIT ? 1 : 3) << at);
        h->wide &= ~((uint64_t)1 << at);
    }
    h->out--;
    check_empty(h);
}
