#include "internal/base/addr.h"

#include "internal/t/t.h"

TEST(base, addresses) {
    static const char *const bad[] = {"",         "1.2.3",   "1.2.3.4.5", "1.2.3.256", "1.2.3.4 ",
                                      "01.2.3.4", "1.2.3.",  ".1.2.3",    "a.b.c.d",   "1.2.3.4/8",
                                      "::1::",    "fd00::g", "[::1]",     "localhost", "-1.2.3.4"};
    uint8_t a[16];
    uint32_t ip = 7;
    unsigned bits = 7;
    bool v6 = true;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        ASSERT_ERR(-ERR_INVALID, ip_parse(span_str(bad[i]), a, &v6));
        ASSERT_ERR(-ERR_INVALID, ip4_parse(span_str(bad[i]), &ip));
    }
    ASSERT_ERR(-ERR_INVALID, ip_parse(span_of("1.2.3.4\0", 8), a, &v6));
    ASSERT_ERR(-ERR_INVALID, ip4_parse(SPAN_LIT("::1"), &ip));
    ASSERT_EQ(7, ip);
    ASSERT_EQ(0, ip_parse(SPAN_LIT("10.0.0.1"), a, &v6));
    ASSERT(!v6 && a[0] == 10 && a[3] == 1 && !a[4]);
    ASSERT_EQ(0, ip_parse(SPAN_LIT("fd00::1"), a, &v6));
    ASSERT(v6 && a[0] == 0xfd && a[15] == 1);

    static const char *const bad_range[] = {"10.0.0.0", "10.0.0.0/",  "10.0.0.0/33", "/8",
                                            "::/129",   "10.0.0/8",   "10.0.0.0/-1", "10.0.0.0/8/8",
                                            "::/",      "10.0.0.0/ 8"};
    for (size_t i = 0; i < ARRAY_LEN(bad_range); i++) {
        ASSERT_ERR(-ERR_INVALID, cidr_parse(span_str(bad_range[i]), a, &bits, &v6));
    }
    ASSERT_EQ(0, cidr_parse(SPAN_LIT("::/0"), a, &bits, &v6));
    ASSERT(v6 && !bits);
    ASSERT_ERR(-ERR_INVALID, cidr4_parse(SPAN_LIT("10.0.0.0/31"), 8, 30, &ip, &bits));
    ASSERT_ERR(-ERR_INVALID, cidr4_parse(SPAN_LIT("10.0.0.0/7"), 8, 30, &ip, &bits));
    ASSERT_ERR(-ERR_INVALID, cidr4_parse(SPAN_LIT("fd00::/16"), 8, 30, &ip, &bits));
    ASSERT_EQ(0, cidr4_parse(SPAN_LIT("10.1.2.3/8"), 8, 30, &ip, &bits));
    ASSERT_EQ(0x0a010203, ip);
    ASSERT_EQ(8, bits);

    /* Text and number, there and back. */
    for (uint32_t x = 1, i = 0; i < 1000; i++, x = x * 1664525 + 1013904223) {
        char text[IP4_STR];
        ip4_format(x, text);
        ASSERT_EQ(0, ip4_parse(span_str(text), &ip));
        ASSERT_EQ(x, ip);
    }
}
