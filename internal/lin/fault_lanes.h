/* fault_lanes — the order in which loop and lanes run, chosen instead of left to the scheduler. Test-only: linked in place of
 * loop_work_submit (--wrap) into the test programs and kfarm-faulty-store.
 *
 * What:     a job that is handed over runs to its end before the hand-over returns; or not before it is let go; or late.
 *           What the loop does to a job after it has given it away, and what it relies on not having happened yet, shows.
 * Threads:  settings from any; they hold for jobs handed over, or run, afterwards.
 */
#ifndef KF_FAULT_LANES_H
#define KF_FAULT_LANES_H

#include "internal/loop/loop.h"

struct fault_lanes {
    _Atomic uint32_t first;             /* per million: the lane comes first */
    _Atomic uint32_t late, late_us;     /* per million: it begins up to so much later */
    _Atomic bool hold[LANE_MAX_];       /* nothing begins */
    _Atomic uint64_t seed;
};
extern struct fault_lanes fault_lanes; /* all zero: as ever */

#endif
