#include "internal/controllers/controllers.h"

#include "internal/base/rand.h"
#include "internal/controllers/ctl_cron_int.h"
#include "internal/controllers/ctl_deploy_int.h"
#include "internal/t/t.h"

/* ---- cron ---- */

static void check_next(const char *schedule, const char *after, const char *want) {
    struct cron c;
    uint64_t from, to;
    char text[TIME_STR];
    ASSERT_EQ(0, cron_parse(span_str(schedule), &c));
    ASSERT_EQ(0, time_parse(span_str(after), &from));
    to = cron_next(&c, from / NS_PER_S);
    if (!want) {
        ASSERT_EQ(0, to);
        return;
    }
    time_rfc3339(to, text);
    ASSERT_STREQ(want, text);
}

TEST(controllers, cron_next) {
    check_next("* * * * *", "2026-03-01T10:00:30Z", "2026-03-01T10:01:00Z");
    check_next("*/15 * * * *", "2026-03-01T10:00:00Z", "2026-03-01T10:15:00Z");
    check_next("0 0 1 1 *", "2026-03-01T10:00:00Z", "2027-01-01T00:00:00Z");
    check_next("@daily", "2026-12-31T00:00:00Z", "2027-01-01T00:00:00Z");
    check_next("30 9 * * mon-fri", "2026-03-06T10:00:00Z", "2026-03-09T09:30:00Z");
    check_next("0 12 29 2 *", "2026-03-01T00:00:00Z", "2028-02-29T12:00:00Z");
    check_next("0 0 13 * 5", "2026-03-01T00:00:00Z", "2026-03-06T00:00:00Z"); /* either day */
    check_next("0 0 * * 7", "2026-03-02T00:00:00Z", "2026-03-08T00:00:00Z");
    check_next("5,10-12/2 3 * jan,JUL *", "2026-03-01T00:00:00Z", "2026-07-01T03:05:00Z");
    check_next("0 0 31 2 *", "2026-03-01T00:00:00Z", NULL);
}

TEST(controllers, cron_refused) {
    struct cron c;
    const char *bad[] = {"",          "* * * *",      "* * * * * *", "60 * * * *",  "* 24 * * *",
                         "* * 0 * *", "* * * 13 *",   "* * * * 8",   "5-1 * * * *", "*/0 * * * *",
                         "a * * * *", "1,,2 * * * *", "@often",      "1- * * * *"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        ASSERT_ERR(-ERR_INVALID, cron_parse(span_str(bad[i]), &c));
    }
}

/* ---- rolling updates: played to the end, the bounds hold at every step ---- */

static void play(int64_t want, int64_t surge, int64_t unavailable, int64_t healthy_old) {
    struct dset sets[2] = {
        {.replicas = want, .target = want, .available = healthy_old, .status_replicas = want},
        {.is_new = true}};
    struct drun r = {.sets = sets,
                     .n = 2,
                     .cur = &sets[1],
                     .want = want,
                     .surge = surge,
                     .unavailable = unavailable};
    int steps = 0;
    while (sets[1].available < want || sets[0].replicas) {
        bool moved = deploy_roll(&r);
        int64_t total = sets[0].target + sets[1].target;
        ASSERT(total <= want + surge);
        ASSERT(sets[0].target >= 0 && sets[1].target <= want);
        /* pods that serve are only taken while enough are left */
        int64_t kept = sets[0].target < sets[0].available ? sets[0].target : sets[0].available;
        if (sets[0].target < sets[0].available) {
            ASSERT(kept + sets[1].available >= want - unavailable);
        }
        for (int i = 0; i < 2; i++) {
            sets[i].replicas = sets[i].target;
            sets[i].available =
                sets[i].available > sets[i].target ? sets[i].target : sets[i].available;
        }
        if (!moved) {
            ASSERT(sets[1].available < sets[1].replicas); /* otherwise it would be stuck */
            sets[1].available++;
        }
        ASSERT(++steps < 1000);
    }
    ASSERT_EQ(want, sets[1].replicas);
}

TEST(controllers, rolling_update_keeps_its_bounds) {
    for (int64_t want = 1; want <= 12; want++) {
        for (int64_t surge = 0; surge <= 3; surge++) {
            for (int64_t un = surge ? 0 : 1; un <= 3 && un <= want; un++) {
                play(want, surge, un, want);
                play(want, surge, un, want / 2);
                play(want, surge, un, 0);
            }
        }
    }
}

TEST(controllers, enabled_list) {
    const char *const all[] = {"*", "-job", "-scheduler"}, *const one[] = {"deployment"};
    ASSERT(controllers_is_enabled(all, 3, "deployment-controller"));
    ASSERT(!controllers_is_enabled(all, 3, "job-controller"));
    ASSERT(!controllers_is_enabled(all, 3, "scheduler"));
    ASSERT(controllers_is_enabled(one, 1, "deployment-controller"));
    ASSERT(!controllers_is_enabled(one, 1, "job-controller"));
    ASSERT(controllers_is_enabled(NULL, 0, "scheduler"));
    ASSERT(controllers_known("ttl-after-finished") && !controllers_known("x"));
}
