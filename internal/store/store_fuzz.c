#include "internal/store/bolt_int.h"
#include "internal/store/store_int.h"

#include "internal/t/t.h"

static int read_mem(void *ctx, uint64_t at, void *p, size_t n) {
    struct span *s = ctx;
    if (at > s->n || n > s->n - at) {
        return -ERR_IO;
    }
    memcpy(p, s->p + at, n);
    return 0;
}

static int each(void *ctx, struct span key, struct span value) {
    struct store_kv kv;
    int64_t id;
    bool tomb;
    (void)ctx;
    IGNORE_ERR(store_rev_parse(key, &id, &tomb), "any outcome but a crash");
    IGNORE_ERR(store_kv_parse(value, &kv), "any outcome but a crash");
    return 0;
}

FUZZ(store_bolt)(const uint8_t *p, size_t n) {
    struct span s = span_of(p, n);
    struct bolt_in b = {.read = read_mem, .ctx = &s, .size = n};
    struct err e = ERR_INIT;
    if (bolt_open(&b, &e) == 0) {
        IGNORE_ERR(bolt_each(&b, "key", each, NULL, &e), "any outcome but a crash");
    }
    return 0;
}
