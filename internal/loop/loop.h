/* loop — one epoll loop per process: file descriptors, timers, children, signals, and a small worker pool.
 *
 * What:     level-triggered fd callbacks, one-shot timers, pidfd children, signalfd, work lanes on threads.
 * Owns:     the epoll fd, its timer heap and lanes. Handles (loop_io, loop_timer, …) are embedded in their owner and
 *           borrowed; they must be stopped before the owner is freed. Stop is synchronous: after it no callback of the
 *           handle runs, even for an event already fetched in the current batch.
 * Limits:   LIM_LOOP_EVENTS per wake-up. No callback ever runs before the call that started its handle has returned.
 * Errors:   INVALID, NOT_FOUND, IO, NOMEM.
 * Threads:  everything on the loop's thread, except work functions (see below).
 * Time:     loop_now() is monotonic, cached per wake-up; a loop made with a virtual clock (tests) jumps from timer to timer.
 */
#ifndef KF_LOOP_H
#define KF_LOOP_H

#include "internal/base/buf.h"
#include "internal/base/arena.h"
#include "internal/base/map.h"
#include "internal/base/pool.h"

#include <signal.h>
#include <sys/types.h>

struct loop;
struct loop_io;
struct loop_timer;
struct loop_child;
struct loop_signal;
struct loop_work;

enum { LOOP_READ = 1u, LOOP_WRITE = 4u, LOOP_HUP = 16u }; /* EPOLLIN, EPOLLOUT, EPOLLHUP */

typedef void loop_io_cb(struct loop_io *io, uint32_t events);
typedef void loop_timer_cb(struct loop_timer *t);
typedef void loop_child_cb(struct loop_child *c, int exit_code, int term_signal); /* one of the two is set */
typedef void loop_signal_cb(struct loop_signal *s, int signo);
typedef void loop_hook_cb(void *ctx);

struct loop_io {
    struct loop *l; /* NULL: stopped */
    int fd;
    uint32_t ev;
    loop_io_cb *cb;
    const char *name;
};
struct loop_timer {
    struct loop *l; /* NULL: stopped */
    uint64_t due_ns;
    loop_timer_cb *cb;
    const char *name;
    size_t heap_pos;
};
struct loop_child {
    struct loop *l;
    struct loop_io io;
    loop_child_cb *cb;
};
struct loop_signal {
    struct loop *l;
    struct loop_io io;
    loop_signal_cb *cb;
};

NODISCARD int loop_new(struct loop **ret, struct err *e);
NODISCARD int loop_new_virtual(struct loop **ret, uint64_t start_ns, struct err *e);
void loop_free(struct loop *l);
/* Runs until loop_stop or, with no live handle left, returns at once. Returns 0 or -ERR_IO. */
NODISCARD int loop_run(struct loop *l, struct err *e);
/* One wake-up; waits at most max_ns (UINT64_MAX: for ever). */
NODISCARD int loop_step(struct loop *l, uint64_t max_ns, struct err *e);
void loop_stop(struct loop *l);
uint64_t loop_now(const struct loop *l);
uint64_t loop_turns(const struct loop *l); /* callbacks of descriptors and timers so far: who else uses the loop? */
/* For one who was answered just now and may ask again at once: waking a CPU that sleeps takes longer than his next request. The
 * next wait looks for events without sleeping for at most LOOP_LINGER_NS; but only where this pays: after LOOP_LINGER_EARN
 * waits so marked that were shorter than that. Each that was longer takes as many back, and twice as many are the most that
 * count. So for any CPU that was spent in vain, LOOP_LINGER_NS at a time, there were LOOP_LINGER_EARN quick requests before;
 * who comes slower than that, or not at all, finds a loop that sleeps. Looks in vain without a success between them (a client
 * that needs this very CPU) double the price, up to LOOP_LINGER_DEAR. */
enum { LOOP_LINGER_EARN = 16, LOOP_LINGER_DEAR = 1024 };
#define LOOP_LINGER_NS (75 * NS_PER_MS / 1000)
void loop_linger(struct loop *l);
struct loop_lingers { /* waits that began without sleeping; and those of them that slept in the end */
    uint64_t n, in_vain;
};
struct loop_lingers loop_lingers(const struct loop *l);
/* Blocks for whatever lives on the loop's thread; trimmed while the loop has little to do. */
struct pool *loop_pool(struct loop *l);
/* Runs ctx hooks once before the loop sleeps next (to batch: commit, then answer). */
struct loop_hook {
    struct list link;
    struct loop *l;
    loop_hook_cb *cb;
    void *ctx;
};
void loop_before_sleep(struct loop *l, struct loop_hook *h, loop_hook_cb *cb, void *ctx); /* no-op when pending */
void loop_hook_cancel(struct loop_hook *h);

/* The fd stays the caller's. */
NODISCARD int loop_io_start(struct loop *l, struct loop_io *io, int fd, uint32_t ev, loop_io_cb *cb, const char *name,
                            struct err *e);
void loop_io_set(struct loop_io *io, uint32_t ev); /* 0: keep registered, only errors are reported */
void loop_io_stop(struct loop_io *io);             /* allowed when not started */

void loop_timer_start(struct loop *l, struct loop_timer *t, uint64_t after_ns, loop_timer_cb *cb, const char *name);
void loop_timer_stop(struct loop_timer *t);
static inline bool loop_timer_active(const struct loop_timer *t) {
    return t->l != NULL;
}

/* Takes the pidfd; closed before the callback or by stop. A child that cannot be watched is killed: nobody would hear of
 * its end. */
NODISCARD int loop_child_start(struct loop *l, struct loop_child *c, int own_pidfd, loop_child_cb *cb, struct err *e);
NODISCARD int loop_child_signal(struct loop_child *c, int signo, struct err *e); /* NOT_FOUND: it has ended */
void loop_child_stop(struct loop_child *c);
/* Blocks the signals for the process and reports them here. Call before any thread exists. */
NODISCARD int loop_signal_start(struct loop *l, struct loop_signal *s, const sigset_t *set, loop_signal_cb *cb,
                                struct err *e);
void loop_signal_stop(struct loop_signal *s);

/* Worker lanes. A lane is one thread with a FIFO; run() executes there and owns all it touches; done() runs on the loop
 * thread afterwards, in the order of submission within a lane. No cancellation: done always runs (loop_free waits). */
enum loop_lane { LANE_DB_WRITE, LANE_DB_READ, LANE_DB_CHECKPOINT, LANE_FILE, LANE_MAX_ };
struct loop_work {
    struct loop_work *next;
    void (*run)(struct loop_work *w);
    void (*done)(struct loop_work *w);
};
NODISCARD int loop_work_submit(struct loop *l, enum loop_lane lane, struct loop_work *w, struct err *e);
/* Takes a job back that the lane has not begun: it is as if it had not been submitted. False: too late. */
NODISCARD bool loop_work_recall(struct loop *l, enum loop_lane lane, struct loop_work *w);

#endif
