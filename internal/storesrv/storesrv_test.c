#include "internal/storesrv/srv_int.h"

#include "internal/base/rand.h"
#include "internal/t/t.h"

#include <stdlib.h>

/* Vectors of the public bcrypt implementations. */
TEST(storesrv, bcrypt) {
    ASSERT(pass_check("U*U", "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"));
    ASSERT(pass_check("U*U*", "$2a$05$CCCCCCCCCCCCCCCCCCCCC.VGOzA784oUp/Z0DY336zx7pLYAy0lwK"));
    ASSERT(pass_check("", "$2a$05$CCCCCCCCCCCCCCCCCCCCC.7uG0VCzI2bS7j6ymqJi9CdcdxiRTWNy"));
    ASSERT(!pass_check("U*V", "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"));
    ASSERT(!pass_check("x", "plain"));
    char *h = pass_hash("secret", 4);
    ASSERT(pass_check("secret", h));
    ASSERT(!pass_check("Secret", h));
    free(h);
}

/* Decoders take any bytes: they fail or give a transaction that the store can check. */
static int decode_all(const uint8_t *p, size_t n) {
    struct err e = ERR_INIT;
    struct store_txn *t = store_txn_new(1 << 20);
    IGNORE_ERR(dec_txn(span_of(p, n), t, &t->body, 0, &e), "any outcome but a crash");
    store_txn_free(t);
    err_reset(&e);
    struct store_range_req q;
    struct store_put put;
    struct store_del del;
    bool ser = false;
    IGNORE_ERR(dec_range(span_of(p, n), &q, &ser, &e), "any outcome but a crash");
    err_reset(&e);
    IGNORE_ERR(dec_put(span_of(p, n), &put, &e), "any outcome but a crash");
    err_reset(&e);
    IGNORE_ERR(dec_delete(span_of(p, n), &del, &e), "any outcome but a crash");
    return 0;
}

TEST(storesrv, decoders_take_anything) {
    t_property("storesrv_decode", decode_all, 300, 400);
}

/* One revision a second: what is compacted, when. */
static void compact_run(int mode, uint64_t retention, uint64_t seconds, int64_t (*log)[2],
                        size_t *n) {
    struct compactor c;
    const struct storesrv_opts o = {.auto_compact = (unsigned)mode, .compact_retention = retention};
    compactor_init(&c, &o, 0, 1);
    uint64_t step = compactor_interval(&c);
    *n = 0;
    for (uint64_t now = step; step && now <= seconds * NS_PER_S; now += step) {
        int64_t rev = compactor_tick(&c, now, 1 + (int64_t)(now / NS_PER_S));
        if (rev && *n < 10) {
            log[*n][0] = (int64_t)(now / NS_PER_S);
            log[(*n)++][1] = rev;
            compactor_done(&c, now, rev);
        }
    }
    compactor_fini(&c);
}

/* The expectations are those of etcd's tests of its compactors. */
TEST(storesrv, compacts_when_etcd_does) {
    int64_t log[10][2];
    size_t n;
    compact_run(STORESRV_COMPACT_PERIODIC, 300 * NS_PER_S, 1000, log, &n); /* 5m: every 5 minutes */
    ASSERT_EQ(3, n);
    ASSERT_EQ(300, log[0][0]);
    ASSERT_EQ(1, log[0][1]);
    ASSERT_EQ(600, log[1][0]);
    ASSERT_EQ(271, log[1][1]); /* ten looks a period: up to a tenth more is kept */
    ASSERT_EQ(900, log[2][0]);
    compact_run(STORESRV_COMPACT_PERIODIC, 2 * 3600 * NS_PER_S, 5 * 3600, log, &n); /* 2h: hourly */
    ASSERT_EQ(4, n);
    ASSERT_EQ(7200, log[0][0]);
    ASSERT_EQ(1, log[0][1]);
    ASSERT_EQ(10800, log[1][0]);
    ASSERT_EQ(14400, log[2][0]);
    compact_run(STORESRV_COMPACT_REVISION, 100, 1000, log, &n);
    ASSERT_EQ(3, n);
    ASSERT_EQ(300, log[0][0]);
    ASSERT_EQ(201, log[0][1]);
    compact_run(STORESRV_COMPACT_REVISION, 5000, 1000, log, &n);
    ASSERT_EQ(0, n);
    compact_run(STORESRV_COMPACT_OFF, 0, 0, log, &n);
    ASSERT_EQ(0, n);
}
