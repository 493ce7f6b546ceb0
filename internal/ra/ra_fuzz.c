#include "internal/ra/ra.h"

#include "internal/t/t.h"

FUZZ(ra_packets)(const uint8_t *p, size_t n) {
    struct ra_advert a;
    AUTO(buf) struct buf b = BUF_INIT(LIM_RA_PACKET);
    IGNORE_ERR(ra_solicit_check(span_of(p, n), RA_HOP_LIMIT, false), "must only survive");
    if (ra_advert_parse(span_of(p, n), &a) == 0) {
        struct ra_advert back;
        CHECK(ra_write(&a, &b) == 0 && ra_advert_parse(buf_view(&b), &back) == 0);
        CHECK(back.n_prefixes == a.n_prefixes && back.mtu == a.mtu &&
              back.lifetime_s == a.lifetime_s);
    }
    return 0;
}
