#include "internal/wire/wire.h"

#include "internal/t/t.h"

TEST(wire, round_trip) {
    AUTO(buf) struct buf b = BUF_INIT(4096);
    char big[300];
    memset(big, 'x', sizeof(big));
    wire_u64(&b, 1, 0); /* left out */
    wire_i64(&b, 2, -1);
    wire_bytes(&b, 3, SPAN_LIT("abc"));
    size_t m = wire_begin(&b, 64);
    wire_bytes(&b, 1, span_of(big, sizeof(big)));
    wire_end(&b, m);
    wire_bytes_always(&b, 5, SPAN_EMPTY);
    struct span s = buf_view(&b);
    struct wire_field f;
    ASSERT(wire_next(&s, &f) == 1 && f.no == 2 && (int64_t)f.v == -1);
    ASSERT(wire_next(&s, &f) == 1 && f.no == 3 && span_eq_str(f.bytes, "abc"));
    ASSERT(wire_next(&s, &f) == 1 && f.no == 64);
    struct span in = f.bytes;
    ASSERT(wire_next(&in, &f) == 1 && f.no == 1 && f.bytes.n == sizeof(big) && in.n == 0);
    ASSERT(wire_next(&s, &f) == 1 && f.no == 5 && f.bytes.n == 0);
    ASSERT_EQ(0, wire_next(&s, &f));
}

static int fields(const uint8_t *p, size_t n) {
    struct span s = span_of(p, n);
    struct wire_field f;
    int rc;
    while ((rc = wire_next(&s, &f)) > 0) {
        if (f.no == 0 || f.bytes.n > n) {
            return -1;
        }
    }
    return 0;
}

TEST(wire, takes_any_bytes) {
    t_property("wire_fields", fields, 500, 200);
}
