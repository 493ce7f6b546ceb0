/* Private to loop: what loop.c and work.c share. */
#ifndef KF_LOOP_INT_H
#define KF_LOOP_INT_H

#include "internal/loop/loop.h"

#include <sys/epoll.h>

enum { LIM_LOOP_EVENTS = 128, LIM_LOOP_POOL = 8 << 20, POOL_IDLE = 32 * 1024 };

struct lanes;

struct loop {
    int epfd;
    bool stopping, is_virtual;
    uint64_t now, next_trim, turns;
    struct pool *pool;
    struct loop_timer **heap;
    size_t n_timers, cap_timers, n_ios;
    struct list hooks;
    struct loop_lingers lingers;
    unsigned price, quick; /* of a look, in short waits; and how many of these there were */
    bool linger;           /* the next wait is marked */
    bool in_vain;          /* the last look was */
    struct epoll_event batch[LIM_LOOP_EVENTS];
    int batch_n, batch_at;
    struct lanes *lanes; /* NULL until the first work item */
    struct loop_io lanes_io;
};

void lanes_free(struct loop *l); /* drains, joins, runs the remaining done callbacks */

#endif
