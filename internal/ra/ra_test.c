#include "internal/ra/ra.h"

#include "internal/t/t.h"

TEST(ra, solicitations) {
    static const struct {
        struct span pkt;
        int hops;
        bool unspecified;
        int rc;
    } rows[] = {
        {SPAN_LIT("\x85\0\0\0\0\0\0\0"), 255, true, 0},
        {SPAN_LIT("\x85\0\0\0\0\0\0\0\1\1\x52\x54\0\x77\0\1"), 255, false, 0},
        {SPAN_LIT("\x85\0\0\0\0\0\0\0\1\1\x52\x54\0\x77\0\1"), 255, true, -ERR_INVALID},
        {SPAN_LIT("\x85\0\0\0\0\0\0\0"), 254, false, -ERR_INVALID}, /* forwarded */
        {SPAN_LIT("\x85\1\0\0\0\0\0\0"), 255, false, -ERR_INVALID},
        {SPAN_LIT("\x86\0\0\0\0\0\0\0"), 255, false, -ERR_INVALID},
        {SPAN_LIT("\x85\0\0\0\0\0\0"), 255, false, -ERR_INVALID},
        {SPAN_LIT("\x85\0\0\0\0\0\0\0\1\0"), 255, false, -ERR_INVALID}, /* option of length 0 */
        {SPAN_LIT("\x85\0\0\0\0\0\0\0\1\2\0\0\0\0\0\0"), 255, false,
         -ERR_INVALID}, /* runs past the end */
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        int rc = ra_solicit_check(rows[i].pkt, rows[i].hops, rows[i].unspecified);
        if (rc != rows[i].rc) {
            fail_msg("row %zu: %d", i, rc);
        }
    }
}

TEST(ra, quiet_advertisement_is_minimal) {
    AUTO(buf) struct buf b = BUF_INIT(LIM_RA_PACKET);
    const struct ra_advert a = {.has_hw = true, .hw = {0x52, 0x54, 0, 0x77, 0, 1}};
    ASSERT_ERR(0, ra_write(&a, &b));
    ASSERT(span_eq(SPAN_LIT("\x86\0\0\0"
                            "\0\0\0\0"
                            "\0\0\0\0"
                            "\0\0\0\0"
                            "\1\1\x52\x54\0\x77\0\1"),
                   buf_view(&b)));
}

TEST(ra, round_trip) {
    AUTO(buf) struct buf b = BUF_INIT(LIM_RA_PACKET);
    struct ra_advert a = {.cur_hop_limit = 64,
                          .managed = true,
                          .lifetime_s = 1800,
                          .mtu = 1400,
                          .n_prefixes = 1},
                     back;
    a.prefixes[0] = (struct ra_prefix){{0xfd, 0x77}, 64, true, true, 7200, 3600};
    ASSERT_ERR(0, ra_write(&a, &b));
    ASSERT_ERR(0, ra_advert_parse(buf_view(&b), &back));
    ASSERT(back.managed && !back.other && back.lifetime_s == 1800 && back.mtu == 1400 &&
           back.n_prefixes == 1);
    ASSERT(memcmp(&a.prefixes[0], &back.prefixes[0], sizeof(a.prefixes[0])) == 0);
    a.n_prefixes = LIM_RA_PREFIXES + 1;
    ASSERT_ERR(-ERR_LIMIT, ra_write(&a, &b));
}
