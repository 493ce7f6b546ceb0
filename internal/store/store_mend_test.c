/* Torn pages: found by number, and what is left of the log makes a new file. */
#include "internal/store/store_test.h"

#include "internal/base/rand.h"
#include "internal/t/t.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { KEYS = 2000, PAGE = 4096 };

struct findings {
    struct buf text;
};

static void note(void *ctx, const char *finding) {
    struct findings *f = ctx;
    buf_str(&f->text, finding);
    buf_u8(&f->text, '\n');
}

static bool said(struct findings *f, const char *part) {
    buf_u8(&f->text, 0);
    bool yes = strstr((const char *)f->text.p, part) != NULL;
    buf_trunc(&f->text, f->text.n - 1);
    return yes;
}

static void put_all(struct box *b) {
    struct err e = ERR_INIT;
    for (int i = 0; i < KEYS;) {
        struct store_txn *t = store_txn_new(0);
        for (int n = 0; n < 100; n++, i++) {
            char k[32], v[128];
            ASSERT_EQ(0, str_put(k, sizeof(k), "key/%06d", i));
            ASSERT_EQ(0, str_put(v, sizeof(v), "%0100d", i));
            store_txn_put(t, &t->body.then, span_str(k), span_str(v), 0);
        }
        ASSERT_OK(box_txn(b, t, &e), &e);
        store_txn_free(t);
    }
    ASSERT_OK(box_grant(b, 77, 1000, &e), &e);
    ASSERT_OK(box_put(b, "leased", "v", 77, &e), &e);
}

/* Tears the first page of that kind that holds the text; its number. */
static unsigned tear(struct box *b, uint8_t kind, const char *text) {
    AUTO_FD int fd = openat(b->dirfd, "store.db", O_RDWR | O_CLOEXEC);
    uint8_t page[PAGE];
    for (unsigned n = 2;; n++) {
        ASSERT_EQ(PAGE, (int)pread(fd, page, PAGE, (off_t)(n - 1) * PAGE));
        if (page[0] == kind && memmem(page, PAGE, text, strlen(text))) {
            memset(page, 0xa5, 512);
            ASSERT_EQ(512, (int)pwrite(fd, page, 512, (off_t)(n - 1) * PAGE));
            return n;
        }
    }
}

static size_t missing(struct box *b) {
    size_t n = 0;
    for (int i = 0; i < KEYS; i++) {
        struct arena a = ARENA_INIT(1 << 16);
        struct store_kv kv;
        struct err e = ERR_INIT;
        char k[32], v[128];
        ASSERT_EQ(0, str_put(k, sizeof(k), "key/%06d", i));
        ASSERT_EQ(0, str_put(v, sizeof(v), "%0100d", i));
        int rc = store_get(b->s, span_str(k), &a, &kv, &e);
        if (rc == 0) {
            ASSERT(span_eq_str(kv.value, v));
        }
        n += rc < 0;
        arena_fini(&a);
    }
    return n;
}

static void torn(uint8_t kind, const char *text, size_t most_lost) {
    struct box b = {0};
    struct err e = ERR_INIT;
    struct findings f = {BUF_INIT(1 << 20)};
    box_open(&b);
    put_all(&b);
    int64_t rev = store_rev(b.s);
    box_shut(&b);
    unsigned page = tear(&b, kind, text);
    ASSERT_ERR(-ERR_CORRUPT, store_check(b.dirfd, "store.db", false, note, &f, &e));
    char number[32];
    ASSERT_EQ(0, str_put(number, sizeof(number), "page %u", page));
    ASSERT(said(&f, number));
    err_reset(&e);
    ASSERT_OK(store_check(b.dirfd, "store.db", true, note, &f, &e), &e);
    struct stat st;
    ASSERT_EQ(0, fstatat(b.dirfd, "store.db.damaged", &st, 0));
    ASSERT_OK(store_check(b.dirfd, "store.db", false, note, &f, &e), &e);
    box_open(&b);
    size_t lost = missing(&b);
    ASSERT(lost <= most_lost);
    ASSERT(lost == 0 || said(&f, "lost: what lies between revisions"));
    ASSERT(lost == 0 || said(&f, "keys whose newest revision is lost"));
    ASSERT_EQ(rev, store_rev(b.s));
    struct store_lease_info li;
    ASSERT_OK(store_lease_get(b.s, 77, &li, &e), &e);
    ASSERT_OK(box_put(&b, "key/000001", "new", 0, &e), &e);
    buf_fini(&f.text);
    box_fini(&b);
}

TEST(store, torn_page_of_the_log) {
    torn(0x0d, "key/000900", 60);
}
TEST(store, torn_page_of_the_keys) {
    torn(0x0a, "key/000900", 0);
}
