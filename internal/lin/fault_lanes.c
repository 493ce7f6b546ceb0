#include "internal/lin/fault_lanes.h"

#include "internal/lin/fault.h"

#include <errno.h>
#include <semaphore.h>
#include <stdlib.h>
#include <time.h>

struct fault_lanes fault_lanes;

struct handed { /* stands for a job on its way */
    struct loop_work w, *own;
    enum loop_lane lane;
    uint32_t late_us;
    bool first;
    sem_t ran;
};

int __real_loop_work_submit(struct loop *l, enum loop_lane lane, struct loop_work *w,
                            struct err *e);
int __wrap_loop_work_submit(struct loop *l, enum loop_lane lane, struct loop_work *w,
                            struct err *e);

static uint32_t luck(uint32_t n) { /* on the loop's thread only */
    fault_lanes.seed = fault_lanes.seed * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(fault_lanes.seed >> 33) % n;
}

static void rest_us(long us) {
    struct timespec t = {us / 1000000, us % 1000000 * 1000};
    nanosleep(&t, NULL);
}

static void handed_run(struct loop_work *w) {
    struct handed *h = CONTAINER_OF(w, struct handed, w);
    rest_us((long)h->late_us);
    while (fault_lanes.hold[h->lane]) {
        rest_us(200);
    }
    h->own->run(h->own);
    if (h->first) {
        sem_post(&h->ran);
    }
}

static void handed_done(struct loop_work *w) {
    struct handed *h = CONTAINER_OF(w, struct handed, w);
    struct loop_work *own = h->own;
    sem_destroy(&h->ran);
    free(h);
    own->done(own);
}

int __wrap_loop_work_submit(struct loop *l, enum loop_lane lane, struct loop_work *w,
                            struct err *e) {
    uint32_t first = fault_lanes.first, late = fault_lanes.late;
    if (!first && !late && !fault_lanes.hold[lane]) {
        return __real_loop_work_submit(l, lane, w, e);
    }
    struct handed *h = new_zero(struct handed);
    h->w.run = handed_run;
    h->w.done = handed_done;
    h->own = w;
    h->lane = lane;
    h->first = first && luck(FAULT_ALWAYS) < first;
    h->late_us = late && luck(FAULT_ALWAYS) < late ? luck(fault_lanes.late_us + 1) : 0;
    CHECK(sem_init(&h->ran, 0, 0) == 0);
    int rc = __real_loop_work_submit(l, lane, &h->w, e);
    if (rc < 0) {
        sem_destroy(&h->ran);
        free(h);
        return rc;
    }
    while (h->first && sem_wait(&h->ran) < 0 && errno == EINTR) {
    }
    return 0;
}
