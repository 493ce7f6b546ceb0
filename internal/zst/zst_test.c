#include "internal/t/t.h"
#include "internal/zst/zst.h"

#include <stdlib.h>

TEST(zst, round_trip_and_cuts) {
    AUTO(buf) struct buf in = BUF_INIT(1 << 20), z = BUF_INIT(1 << 20), out = BUF_INIT(1 << 20);
    for (int i = 0; i < 20000; i++) {
        buf_fmt(&in, "%d,", i);
    }
    ASSERT_EQ(0, zst_compress(&z, buf_view(&in), ZST_FAST));
    ASSERT(z.n < in.n);
    ASSERT_EQ(0, zst_decompress(&out, buf_view(&z)));
    ASSERT(span_eq(buf_view(&in), buf_view(&out)));
    buf_reset(&out);
    ASSERT_ERR(-ERR_INVALID, zst_decompress(&out, span_of(z.p, z.n - 1)));
    buf_reset(&out);
    ASSERT_ERR(-ERR_INVALID, zst_decompress(&out, span_of("no zstd at all", 14)));
    struct buf small = BUF_INIT(1000);
    ASSERT_ERR(-ERR_LIMIT, zst_decompress(&small, buf_view(&z)));
    buf_fini(&small);
}
