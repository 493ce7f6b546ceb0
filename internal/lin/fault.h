/* fault — the system calls under a store, broken on request. Only in build/check/kfarm-faulty-store, which is the product's
 * objects linked with --wrap for the calls that touch files and clocks: below SQLite, below any file layer over it.
 *
 * What:     writes and syncs that fail, tear or take long; a disk that is full or read-only; power loss; clocks that jump.
 *           Power loss leaves each page that was not synced as it was, as it is, or torn between sectors; so it does with
 *           sizes and with names in a folder that was not synced. A sync that failed drops what it should have written:
 *           later syncs do not bring it to the disk, as Linux has it.
 * Owns:     struct fault_ctl lies in memory shared with whoever started the process (descriptor KF_FAULT_FD).
 * Threads:  any.
 */
#ifndef KF_FAULT_H
#define KF_FAULT_H

#include <stdint.h>

enum { FAULT_ALWAYS = 1000000 };
enum fault_death { FAULT_KILL, FAULT_POWER };

struct fault_ctl { /* all atomic; rates are per million calls */
    _Atomic uint64_t seed;
    _Atomic uint32_t write_rate, write_errno, sync_rate, read_rate, tear_rate;
    _Atomic uint32_t delay_rate, delay_us;
    _Atomic uint32_t drag_us, drag_left; /* so many syncs take so long, and nothing else has to wait for them */
    _Atomic uint32_t full, read_only; /* nothing may grow; nothing may be written */
    _Atomic uint32_t lane_first, lane_late; /* hand-overs to the lanes, from the start on: fault_lanes.h */
    _Atomic uint32_t lie;             /* syncs do nothing and say that all is well */
    _Atomic uint32_t die_after;       /* calls until death; 0: never */
    _Atomic uint32_t death;
    _Atomic int64_t wall_ms, mono_ms; /* added to the clocks; the monotonic one must only grow */
    /* what has happened */
    _Atomic uint32_t n_calls, n_syncs, n_failed, n_dropped, n_lost, n_power;
    _Atomic uint32_t n_moved; /* writes to the database beside its WAL: checkpoints */
    _Atomic uint32_t n_dragged, dragging; /* syncs that began to take long; how many are at it */
    _Atomic uint32_t died; /* by us */
};

#endif
