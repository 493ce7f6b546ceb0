#include "internal/controllers/ctl_cron_int.h"

#include "internal/t/t.h"

/* Whatever can be parsed has its next time behind the one before, on a whole minute. */
FUZZ(cron)(const uint8_t *p, size_t n) {
    struct cron c;
    if (cron_parse(span_of(p, n), &c) == 0) {
        uint64_t t = 1767225600;
        for (int i = 0; i < 4 && t; i++) {
            uint64_t next = cron_next(&c, t);
            CHECK(!next || (next > t && next % 60 == 0));
            t = next;
        }
    }
    return 0;
}
