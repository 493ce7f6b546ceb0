#include "internal/cpio/cpio.h"
#include "internal/t/t.h"

#include <stdlib.h>
#include <sys/stat.h>

TEST(cpio, round_trip) {
    AUTO(buf) struct buf b = BUF_INIT(1 << 20);
    struct cpio_entry in[] = {
        {.name = SPAN_LIT("dev"), .mode = S_IFDIR | 0755, .ino = 1},
        {.name = SPAN_LIT("dev/console"),
         .mode = S_IFCHR | 0600,
         .ino = 2,
         .rdev_major = 5,
         .rdev_minor = 1},
        {.name = SPAN_LIT("init"),
         .mode = S_IFREG | 0755,
         .ino = 3,
         .mtime = 7,
         .data = SPAN_LIT("12345")},
    };
    for (size_t i = 0; i < ARRAY_LEN(in); i++) {
        ASSERT_EQ(0, cpio_add(&b, &in[i]));
    }
    ASSERT_EQ(0, cpio_end(&b));
    ASSERT_EQ(0, b.n % 512);
    struct span s = buf_view(&b);
    for (size_t i = 0; i < ARRAY_LEN(in); i++) {
        struct cpio_entry e;
        ASSERT_EQ(0, cpio_next(&s, &e));
        ASSERT(span_eq(in[i].name, e.name) && span_eq(in[i].data, e.data));
        ASSERT_EQ(in[i].mode, e.mode);
        ASSERT_EQ(in[i].rdev_minor, e.rdev_minor);
    }
    struct cpio_entry e;
    ASSERT_ERR(-ERR_NOT_FOUND, cpio_next(&s, &e));
}

TEST(cpio, cut_anywhere_is_refused) {
    AUTO(buf) struct buf b = BUF_INIT(4096);
    ASSERT_EQ(0,
              cpio_add(&b, &(struct cpio_entry){
                               .name = SPAN_LIT("a"), .mode = S_IFREG, .data = SPAN_LIT("xyz")}));
    for (size_t n = 0; n < b.n; n++) {
        struct span s = span_of(b.p, n);
        struct cpio_entry e;
        ASSERT_ERR(-ERR_INVALID, cpio_next(&s, &e));
        ASSERT_EQ(n, s.n);
    }
}
