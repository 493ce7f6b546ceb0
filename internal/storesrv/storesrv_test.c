#include "internal/storesrv/srv_int.h"

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
