#include "internal/net/net_int.h"

#include "internal/base/pool.h"
#include "internal/t/t.h"

#include <stdlib.h>

/* Whatever way bytes get into a queue and out of it, they stay in order and lie where there is room for them. */
static int in_order(const uint8_t *bytes, size_t n) {
    struct t_gen g = {span_of(bytes, n)};
    struct pool *pool = pool_new(1 << 20);
    struct net_queue q, other;
    AUTO(buf) struct buf want = BUF_INIT(64 << 20);
    uint8_t next = 0, got[4096];
    net_queue_init(&q, pool);
    net_queue_init(&other, pool);
    while (g.s.n) {
        size_t len = t_gen_u32(&g, 0, 3) ? t_gen_u32(&g, 1, 900) : t_gen_u32(&g, 1, 30000);
        uint8_t *p = mem_zero_alloc(len);
        for (size_t i = 0; i < len; i++) {
            p[i] = next++;
        }
        buf_add(&want, p, len);
        struct net_queue *to = t_gen_u32(&g, 0, 3) ? &q : &other;
        if (t_gen_u32(&g, 0, 1)) {
            net_queue_add(to, span_of(p, len));
            free(p);
        } else {
            net_queue_take(to, p, len);
        }
        if (to == &other) { /* in parts, so that shared memory is split */
            size_t part = t_gen_u32(&g, 0, (uint32_t)len);
            ASSERT_EQ(0, net_queue_splice(&q, &other, part));
            net_queue_move(&q, &other);
        }
        ASSERT_EQ(want.n, q.bytes);
        uint8_t room[2048];
        struct span front = net_queue_front(&q, room, sizeof(room));
        ASSERT(front.n >= (want.n < sizeof(room) ? want.n : sizeof(room)) && front.n <= want.n);
        assert_memory_equal(want.p, front.p, front.n);
        size_t out = t_gen_u32(&g, 0, 1) ? t_gen_u32(&g, 0, sizeof(got)) : 0;
        ssize_t r = net_queue_read(&q, got, out);
        ASSERT(r >= 0 && (size_t)r == (out < want.n ? out : want.n));
        assert_memory_equal(want.p ? want.p : got, got, (size_t)r);
        buf_drop(&want, (size_t)r);
    }
    net_queue_fini(&q);
    net_queue_fini(&other);
    pool_free(pool);
    return 0;
}

TEST(net, queue_keeps_order) {
    t_property("net_queue", in_order, 30, 1500);
}
