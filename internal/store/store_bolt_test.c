#include "internal/store/bolt_int.h"

#include "internal/base/rand.h"
#include "internal/t/t.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { KEYS = 30000 };

static int read_mem(void *ctx, uint64_t at, void *p, size_t n) {
    struct span *s = ctx;
    if (at > s->n || n > s->n - at) {
        return -ERR_IO;
    }
    memcpy(p, s->p + at, n);
    return 0;
}

/* Keys in order; every 1000th value takes several pages. */
static void pair(size_t i, struct buf *key, struct buf *val) {
    buf_reset(key);
    buf_reset(val);
    buf_fmt(key, "key/%08zu", i);
    buf_zero(val, i % 1000 == 7 ? 9000 : i % 50);
    buf_fmt(val, "%zu", i);
}

struct seen {
    size_t n;
    struct buf key, val;
};

static int each(void *ctx, struct span key, struct span value) {
    struct seen *s = ctx;
    pair(s->n++, &s->key, &s->val);
    return span_eq(key, buf_view(&s->key)) && span_eq(value, buf_view(&s->val)) ? 0 : -ERR_CORRUPT;
}

static int any(void *ctx, struct span key, struct span value) {
    *(size_t *)ctx += key.n + value.n;
    return 0;
}

static void make_file(struct buf *file) {
    struct err e = ERR_INIT;
    int fd = memfd_create("bolt", MFD_CLOEXEC);
    struct bolt_out o;
    struct seen s = {0, BUF_INIT(1 << 20), BUF_INIT(1 << 20)};
    uint64_t size;
    bolt_out_init(&o, fd);
    ASSERT_OK(bolt_bucket_end(&o, "empty", &e), &e);
    for (size_t i = 0; i < KEYS; i++) {
        pair(i, &s.key, &s.val);
        ASSERT_OK(bolt_put(&o, buf_view(&s.key), buf_view(&s.val), &e), &e);
    }
    ASSERT_OK(bolt_bucket_end(&o, "key", &e), &e);
    ASSERT_OK(bolt_finish(&o, &size, &e), &e);
    bolt_out_fini(&o);
    uint8_t *p = buf_room(file, size);
    ASSERT(p && pread(fd, p, size, 0) == (ssize_t)size);
    buf_added(file, size);
    close(fd);
    buf_fini(&s.key);
    buf_fini(&s.val);
}

TEST(store, bolt_written_is_read_back) {
    AUTO(buf) struct buf file = BUF_INIT(64 << 20);
    struct err e = ERR_INIT;
    make_file(&file);
    struct span view = buf_view(&file);
    struct bolt_in in = {.read = read_mem, .ctx = &view, .size = view.n};
    struct seen s = {0, BUF_INIT(1 << 20), BUF_INIT(1 << 20)};
    ASSERT_OK(bolt_open(&in, &e), &e);
    ASSERT_OK(bolt_each(&in, "key", each, &s, &e), &e);
    ASSERT_EQ(KEYS, s.n);
    size_t bytes = 0;
    ASSERT_OK(bolt_each(&in, "empty", any, &bytes, &e), &e);
    ASSERT_OK(bolt_each(&in, "missing", any, &bytes, &e), &e);
    ASSERT_EQ(0, bytes);
    buf_fini(&s.key);
    buf_fini(&s.val);
}

/* Damage anywhere gives an error or other data, never a crash or an endless walk. */
TEST(store, bolt_damaged) {
    AUTO(buf) struct buf file = BUF_INIT(64 << 20);
    make_file(&file);
    for (int round = 0; round < 150; round++) {
        size_t at[8];
        uint8_t old[8];
        for (int i = 0; i < 8; i++) {
            /* the heads of pages, where it hurts */
            at[i] = rand_u64() % (file.n / BOLT_PAGE) * BOLT_PAGE + rand_u64() % 64;
            old[i] = file.p[at[i]];
            file.p[at[i]] = (uint8_t)rand_u64();
        }
        struct span view = span_of(file.p, round % 3 ? file.n : rand_u64() % file.n);
        struct bolt_in in = {.read = read_mem, .ctx = &view, .size = view.n};
        struct err e = ERR_INIT;
        size_t bytes = 0;
        if (bolt_open(&in, &e) == 0) {
            IGNORE_ERR(bolt_each(&in, "key", any, &bytes, &e), "any outcome but a crash");
        }
        for (int i = 7; i >= 0; i--) {
            file.p[at[i]] = old[i];
        }
    }
}
