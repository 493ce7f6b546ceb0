#include "internal/storesrv/srv_int.h"

#include "internal/t/t.h"

FUZZ(storesrv_txn)(const uint8_t *p, size_t n) {
    struct err e = ERR_INIT;
    struct store_txn *t = store_txn_new(1 << 22);
    IGNORE_ERR(dec_txn(span_of(p, n), t, &t->body, 0, &e), "any outcome but a crash");
    store_txn_free(t);
    return 0;
}
