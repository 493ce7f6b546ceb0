#include "internal/store/bolt_int.h"
#include "internal/store/store_int.h"

#include "internal/store/store_engine.h"
#include "internal/sys/sys.h"
#include "internal/t/t.h"

#include <stdlib.h>

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

/* A whole snapshot file: what is restored from it can be checked and opened. */
FUZZ(store_restore)(const uint8_t *p, size_t n) {
    struct err e = ERR_INIT;
    char dir[] = "/dev/shm/kf-fuzz-XXXXXX"; /* memory: thousands of stores are made */
    int64_t rev;
    CHECK(mkdtemp(dir));
    AUTO_FD int fd = sys_open_dir(dir, &e);
    AUTO_FD int snap = sys_open(fd, "snap", O_RDWR | O_CREAT | O_TRUNC, 0600, &e);
    CHECK(fd >= 0 && snap >= 0 && sys_write_all(snap, span_of(p, n), &e) == 0);
    if (store_restore(fd, "store.db", snap, &rev, &e) == 0) {
        struct loop *l;
        struct store *s;
        CHECK(rev >= 0 && loop_new(&l, &e) == 0);
        CHECK(store_open(l, fd, "store.db", NULL, &s, &e) == 0);
        store_close(s);
        loop_free(l);
    }
    err_reset(&e);
    CHECK(sys_rmtree(AT_FDCWD, dir, &e) == 0);
    return 0;
}
