#include "internal/t/t.h"
#include "internal/tar/tar.h"

#include <stdlib.h>

TEST(tar, round_trip_with_long_names) {
    AUTO(buf) struct buf b = BUF_INIT(1 << 20);
    char path[301], target[201];
    memset(path, 'p', 300);
    memset(target, 't', 200);
    path[300] = target[200] = 0;
    struct tar_entry in[] = {
        {.type = TAR_DIR, .name = "etc/", .link = "", .mode = 0755},
        {.type = TAR_FILE,
         .name = "etc/x",
         .link = "",
         .mode = 0644,
         .mtime = 7,
         .data = SPAN_LIT("hello\n")},
        {.type = TAR_FILE, .name = path, .link = "", .mode = 0600, .data = SPAN_LIT("long")},
        {.type = TAR_SYMLINK, .name = "l", .link = target, .mode = 0777},
    };
    for (size_t i = 0; i < ARRAY_LEN(in); i++) {
        ASSERT_EQ(0, tar_add(&b, &in[i]));
    }
    ASSERT_EQ(0, tar_end(&b));
    struct tar_reader r;
    struct tar_entry e;
    tar_reader_init(&r, buf_view(&b));
    for (size_t i = 0; i < ARRAY_LEN(in); i++) {
        ASSERT_EQ(0, tar_next(&r, &e));
        ASSERT_STREQ(i == 0 ? "etc" : in[i].name, e.name);
        ASSERT_STREQ(in[i].link, e.link);
        ASSERT_EQ((int)in[i].type, (int)e.type);
        ASSERT_EQ(in[i].mode, e.mode);
        ASSERT(span_eq(in[i].data, e.data));
    }
    ASSERT_ERR(-ERR_NOT_FOUND, tar_next(&r, &e));
    tar_reader_fini(&r);
}

TEST(tar, broken_headers_are_refused) {
    AUTO(buf) struct buf b = BUF_INIT(1 << 16);
    ASSERT_EQ(0,
              tar_add(&b, &(struct tar_entry){
                              .type = TAR_FILE, .name = "a", .link = "", .data = SPAN_LIT("xyz")}));
    struct tar_reader r;
    struct tar_entry e;
    for (size_t n = 1; n < b.n; n++) {
        tar_reader_init(&r, span_of(b.p, n));
        ASSERT_ERR(-ERR_INVALID, tar_next(&r, &e));
        tar_reader_fini(&r);
    }
    b.p[3] ^= 1; /* the checksum no longer fits */
    tar_reader_init(&r, buf_view(&b));
    ASSERT_ERR(-ERR_INVALID, tar_next(&r, &e));
    tar_reader_fini(&r);
}
