#include "internal/storesrv/srv_compact.h"

#include "internal/base/rand.h"

#include <stdlib.h>

#define HOUR_NS (3600 * NS_PER_S)
#define REVISION_MODE_NS (300 * NS_PER_S)
enum { LOOKS = 10, LIM_SAMPLES = 1 << 20 };

/* Compaction comes every period, or every hour when that is sooner; the revision is noted ten times as often. */
static uint64_t between(const struct compactor *c) {
    return c->retention > HOUR_NS ? HOUR_NS : c->retention;
}

uint64_t compactor_interval(const struct compactor *c) {
    return c->mode == STORESRV_COMPACT_OFF        ? 0
           : c->mode == STORESRV_COMPACT_REVISION ? REVISION_MODE_NS
                                                  : between(c) / LOOKS;
}

static size_t kept(const struct compactor *c) {
    uint64_t n = c->retention / compactor_interval(c) + 1;
    return n < LIM_SAMPLES ? (size_t)n : LIM_SAMPLES;
}

static void note(struct compactor *c, int64_t rev) {
    if (c->n == kept(c)) {
        memmove(c->revs, c->revs + 1, --c->n * sizeof(*c->revs));
    } else if (c->n == c->cap) {
        c->cap = c->cap ? c->cap * 2 : 16;
        c->revs = mem_array(c->revs, c->cap, sizeof(*c->revs), 2 * LIM_SAMPLES);
        CHECK(c->revs);
    }
    c->revs[c->n++] = rev;
}

void compactor_init(struct compactor *c, const struct storesrv_opts *o, uint64_t now_ns,
                    int64_t rev) {
    *c = (struct compactor){.mode =
                                o->compact_retention ? (int)o->auto_compact : STORESRV_COMPACT_OFF,
                            .retention = o->compact_retention,
                            .since = now_ns,
                            .wait = o->compact_retention};
    if (c->mode == STORESRV_COMPACT_PERIODIC) {
        note(c, rev);
    }
}

void compactor_fini(struct compactor *c) {
    free(c->revs);
    c->revs = NULL;
}

int64_t compactor_tick(struct compactor *c, uint64_t now_ns, int64_t rev) {
    if (c->mode == STORESRV_COMPACT_REVISION) {
        int64_t target = rev - (int64_t)c->retention;
        return target > 0 && target != c->last ? target : 0;
    }
    int64_t target = c->revs[0]; /* noted up to the last tick */
    bool due = now_ns - c->since >= c->wait && target != c->last;
    note(c, rev);
    if (!due) {
        return 0;
    }
    c->wait = between(c);
    return target;
}

void compactor_done(struct compactor *c, uint64_t now_ns, int64_t rev) {
    c->last = rev;
    c->since = now_ns;
}
