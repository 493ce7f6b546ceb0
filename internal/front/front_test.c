#include "internal/front/front.h"

#include "internal/t/t.h"

#include <stdlib.h>

/* A ClientHello as small as the parser accepts, with or without a server name. */
static void hello(struct buf *b, const char *name) {
    struct buf ext = BUF_INIT(4096), body = BUF_INIT(4096);
    if (name) {
        size_t n = strlen(name);
        buf_be16(&ext, 0);
        buf_be16(&ext, (uint16_t)(n + 5));
        buf_be16(&ext, (uint16_t)(n + 3));
        buf_u8(&ext, 0);
        buf_be16(&ext, (uint16_t)n);
        buf_str(&ext, name);
    }
    buf_be16(&ext, 43); /* supported_versions, empty: skipped */
    buf_be16(&ext, 0);
    buf_be16(&body, 0x0303);
    buf_zero(&body, 32);
    buf_u8(&body, 0);
    buf_be16(&body, 2);
    buf_be16(&body, 0x1301);
    buf_u8(&body, 1);
    buf_u8(&body, 0);
    buf_be16(&body, (uint16_t)ext.n);
    buf_span(&body, buf_view(&ext));
    buf_u8(b, 22);
    buf_be16(b, 0x0301);
    buf_be16(b, (uint16_t)(body.n + 4));
    buf_u8(b, 1);
    buf_u8(b, 0);
    buf_be16(b, (uint16_t)body.n);
    buf_span(b, buf_view(&body));
    buf_fini(&ext);
    buf_fini(&body);
}

TEST(front, finds_the_name) {
    AUTO(buf) struct buf b = BUF_INIT(4096);
    struct span name;
    size_t need;
    hello(&b, "team-a.default.tenants.kfarm.internal");
    ASSERT_EQ(0, front_sni(buf_view(&b), &name, &need));
    ASSERT_SPAN("team-a.default.tenants.kfarm.internal", name);
}

TEST(front, no_name_is_not_an_error) {
    AUTO(buf) struct buf b = BUF_INIT(4096);
    struct span name;
    size_t need;
    hello(&b, NULL);
    ASSERT_EQ(0, front_sni(buf_view(&b), &name, &need));
    ASSERT_EQ(0, name.n);
}

TEST(front, any_prefix_asks_for_more) {
    AUTO(buf) struct buf b = BUF_INIT(4096);
    struct span name;
    hello(&b, "x.example");
    for (size_t n = 0; n < b.n; n++) {
        size_t need = 0;
        ASSERT_EQ(-ERR_AGAIN, front_sni(span_of(b.p, n), &name, &need));
        ASSERT_EQ(n < 5 ? 5 : b.n, need);
    }
}

TEST(front, refuses_what_is_no_hello) {
    struct span name;
    size_t need;
    ASSERT_EQ(-ERR_INVALID, front_sni(SPAN_LIT("GET / HTTP/1.1\r\n\r\n"), &name, &need));
    ASSERT_EQ(-ERR_INVALID, front_sni(SPAN_LIT("\x16\x03\x01\xff\xff"), &name, &need));
    ASSERT_EQ(-ERR_INVALID, front_sni(SPAN_LIT("\x16\x02\x01\x00\x10"), &name, &need));
}
