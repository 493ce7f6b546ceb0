/* Inside controllers: cron schedules (no I/O). Five fields, or @hourly, @daily, @midnight, @weekly, @monthly, @yearly, @annually. */
#ifndef KF_CTL_CRON_INT_H
#define KF_CTL_CRON_INT_H

#include "internal/base/span.h"

struct cron {
    uint64_t minute, hour, dom, month, dow; /* a bit for each value */
    bool any_dom, any_dow;                  /* written as "*": the other one of the two days decides */
};
/* -ERR_INVALID. */
NODISCARD int cron_parse(struct span text, struct cron *ret);
/* First time after `after_s` (wall seconds, UTC) that the schedule names; 0: none within five years. */
uint64_t cron_next(const struct cron *c, uint64_t after_s);

#endif
