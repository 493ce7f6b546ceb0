/* Cron schedules: when a CronJob is due. */
#include "internal/controllers/ctl_cron_int.h"

#include "internal/base/buf.h"

static const char *const months[] = {"jan", "feb", "mar", "apr", "may", "jun", "jul",
                                     "aug", "sep", "oct", "nov", "dec", NULL};
static const char *const days[] = {"sun", "mon", "tue", "wed", "thu", "fri", "sat", NULL};

static int value(struct span s, unsigned min, unsigned max, const char *const *names,
                 unsigned *ret) {
    uint64_t v;
    for (unsigned i = 0; names && names[i]; i++) {
        if (span_eq_nocase(s, names[i])) {
            *ret = i + min;
            return 0;
        }
    }
    if (span_to_u64(s, min, max, &v) < 0) {
        return -ERR_INVALID;
    }
    *ret = (unsigned)v;
    return 0;
}

/* "*", "5", "1-5", "mon-fri", any of them with "/step"; joined by commas. */
static int field(struct span s, unsigned min, unsigned max, const char *const *names,
                 uint64_t *ret) {
    struct span part;
    *ret = 0;
    if (!s.n) {
        return -ERR_INVALID;
    }
    while (s.n && span_next(&s, ',', &part)) {
        struct span range, first;
        uint64_t step = 1;
        unsigned lo = min, hi = max;
        bool has_step = span_index(part, '/') >= 0;
        if (!part.n || !span_next(&part, '/', &range) ||
            (has_step && span_to_u64(part, 1, max, &step) < 0)) {
            return -ERR_INVALID;
        }
        if (!span_eq_str(range, "*") && !span_eq_str(range, "?")) {
            bool has_end = span_index(range, '-') >= 0;
            if (!span_next(&range, '-', &first) || value(first, min, max, names, &lo) < 0) {
                return -ERR_INVALID;
            }
            hi = has_step ? max : lo;
            if (has_end && value(range, min, max, names, &hi) < 0) {
                return -ERR_INVALID;
            }
        }
        if (lo > hi) {
            return -ERR_INVALID;
        }
        for (uint64_t v = lo; v <= hi; v += step) {
            *ret |= 1ull << v;
        }
    }
    return 0;
}

static struct span shorthand(struct span s) {
    static const char *const table[][2] = {{"@hourly", "0 * * * *"},   {"@daily", "0 0 * * *"},
                                           {"@midnight", "0 0 * * *"}, {"@weekly", "0 0 * * 0"},
                                           {"@monthly", "0 0 1 * *"},  {"@yearly", "0 0 1 1 *"},
                                           {"@annually", "0 0 1 1 *"}};
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        if (span_eq_str(s, table[i][0])) {
            return span_str(table[i][1]);
        }
    }
    return s;
}

int cron_parse(struct span text, struct cron *ret) {
    struct span f[5], s = shorthand(span_trim(text));
    size_t n = 0;
    while (s.n) {
        struct span word;
        if (!span_next(&s, ' ', &word) || !word.n) {
            continue;
        }
        if (n == 5) {
            return -ERR_INVALID;
        }
        f[n++] = word;
    }
    struct cron c = {0};
    if (n != 5 || field(f[0], 0, 59, NULL, &c.minute) < 0 ||
        field(f[1], 0, 23, NULL, &c.hour) < 0 || field(f[2], 1, 31, NULL, &c.dom) < 0 ||
        field(f[3], 1, 12, months, &c.month) < 0 || field(f[4], 0, 7, days, &c.dow) < 0) {
        return -ERR_INVALID;
    }
    c.dow |= c.dow >> 7 & 1; /* 7 is Sunday too */
    c.any_dom = f[2].p[0] == '*' || f[2].p[0] == '?';
    c.any_dow = f[4].p[0] == '*' || f[4].p[0] == '?';
    *ret = c;
    return 0;
}

/* Month and day of a day number since 1970, by counting in eras of 400 years that begin in March. */
static void civil(uint64_t day, unsigned *ret_month, unsigned *ret_dom) {
    uint64_t z = day + 719468, doe = z % 146097;
    uint64_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    uint64_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100), mp = (5 * doy + 2) / 153;
    *ret_dom = (unsigned)(doy - (153 * mp + 2) / 5 + 1);
    *ret_month = (unsigned)(mp < 10 ? mp + 3 : mp - 9);
}

static bool day_matches(const struct cron *c, uint64_t day) {
    unsigned month, dom, dow = (unsigned)((day + 4) % 7); /* 1970-01-01 was a Thursday */
    civil(day, &month, &dom);
    bool is_dom = c->dom >> dom & 1, is_dow = c->dow >> dow & 1;
    bool day_ok = c->any_dom || c->any_dow ? is_dom && is_dow : is_dom || is_dow;
    return day_ok && (c->month >> month & 1);
}

uint64_t cron_next(const struct cron *c, uint64_t after_s) {
    enum { DAYS = 5 * 366 };
    uint64_t minute = after_s / 60 + 1, end = minute + (uint64_t)DAYS * 1440;
    while (minute < end) {
        uint64_t day = minute / 1440, hour = minute / 60 % 24;
        if (!day_matches(c, day)) {
            minute = (day + 1) * 1440;
        } else if (!(c->hour >> hour & 1)) {
            minute = (minute / 60 + 1) * 60;
        } else if (!(c->minute >> (minute % 60) & 1)) {
            minute++;
        } else {
            return minute * 60;
        }
    }
    return 0;
}
