/* Private to storesrv: when to compact by itself, exactly as etcd's compactors decide it (no clock, no store). */
#ifndef KF_STORESRV_COMPACT_H
#define KF_STORESRV_COMPACT_H

#include "internal/storesrv/storesrv.h"

struct compactor {
    int mode; /* of storesrv_opts */
    uint64_t retention;
    uint64_t since, wait; /* periodic: the last success, and what must have gone by */
    int64_t last;         /* revision of the last success */
    int64_t *revs;        /* periodic: what the revision was, oldest first */
    size_t n, cap;
};

void compactor_init(struct compactor *c, const struct storesrv_opts *o, uint64_t now_ns,
                    int64_t rev);
void compactor_fini(struct compactor *c);
/* Until the next tick; 0: never. */
uint64_t compactor_interval(const struct compactor *c);
/* One interval has gone by. The revision to compact to; 0: not now. */
int64_t compactor_tick(struct compactor *c, uint64_t now_ns, int64_t rev);
/* The compaction of the last tick succeeded, or somebody else had done it. */
void compactor_done(struct compactor *c, uint64_t now_ns, int64_t rev);

#endif
