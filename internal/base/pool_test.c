#include "internal/base/pool.h"

#include "internal/base/rand.h"
#include "internal/t/t.h"

#include <string.h>

static void fill(uint8_t *p, size_t n, uint8_t with) {
    memset(p, with, n);
}
static bool is(const uint8_t *p, size_t n, uint8_t with) {
    for (size_t i = 0; i < n; i++) {
        if (p[i] != with) {
            return false;
        }
    }
    return true;
}

/* Blocks of all sizes keep what was written, whatever happens around them. */
static int prop_pool(const uint8_t *p, size_t n) {
    struct t_gen g = {span_of(p, n)};
    struct pool *pool = pool_new(20000);
    uint8_t *block[32] = {NULL}, with[32];
    size_t size[32];
    int bad = 0;
    while (g.s.n && !bad) {
        uint32_t i = t_gen_u32(&g, 0, 31), what = t_gen_u32(&g, 0, 9);
        size_t k = t_gen_u32(&g, 0, 9000);
        if (block[i] && what < 4) {
            bad |= !is(block[i], size[i], with[i]);
            pool_put(pool, block[i]);
            block[i] = NULL;
        } else if (what == 9) {
            pool_trim(pool);
        } else {
            size_t old = block[i] ? size[i] : 0;
            block[i] = block[i] || what < 7 ? pool_resize(pool, block[i], k)
                       : what == 7          ? pool_zero(pool, k)
                                            : pool_sparse(pool, k);
            bad |= (uintptr_t)block[i] % 16 != 0 || !is(block[i], old < k ? old : k, with[i]);
            size[i] = k;
            with[i] = (uint8_t)what;
            fill(block[i], k, with[i]);
        }
        bad |= pool_kept(pool) > 20000;
    }
    for (size_t i = 0; i < 32; i++) {
        bad |= block[i] && !is(block[i], size[i], with[i]);
        pool_put(pool, block[i]);
    }
    pool_trim(pool);
    pool_trim(pool);
    bad |= pool_kept(pool) != 0;
    pool_free(pool);
    return bad;
}

TEST(pool, blocks_keep_their_bytes) {
    t_property("pool", prop_pool, 200, 2000);
}
