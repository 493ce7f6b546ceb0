#include "internal/loop/loop_int.h"

#include "internal/base/rand.h"
#include "internal/sys/sys.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { AROUND = 256 }; /* bytes from a handle on that its owner will look at */
#define TRIM_NS (2 * NS_PER_S)

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

static int new_loop(struct loop **ret, bool is_virtual, uint64_t start, struct err *e) {
    int fd = epoll_create1(EPOLL_CLOEXEC);
    if (fd < 0) {
        return err_sys(e, errno, "epoll_create1");
    }
    struct loop *l = new_zero(struct loop);
    l->epfd = fd;
    l->pool = pool_new(POOL_KEEP(LIM_LOOP_POOL));
    l->is_virtual = is_virtual;
    l->price = LOOP_LINGER_EARN;
    l->now = is_virtual ? start : clock_ns();
    list_init(&l->hooks);
    *ret = l;
    return 0;
}

int loop_new(struct loop **ret, struct err *e) {
    return new_loop(ret, false, 0, e);
}
int loop_new_virtual(struct loop **ret, uint64_t start_ns, struct err *e) {
    return new_loop(ret, true, start_ns, e);
}

void loop_free(struct loop *l) {
    if (!l) {
        return;
    }
    lanes_free(l);
    close(l->epfd);
    pool_free(l->pool);
    free(l->heap);
    free(l);
}

void loop_stop(struct loop *l) {
    l->stopping = true;
}
uint64_t loop_now(const struct loop *l) {
    return l->now;
}
uint64_t loop_turns(const struct loop *l) {
    return l->turns;
}
void loop_linger(struct loop *l) {
    l->linger = true;
}
struct loop_lingers loop_lingers(const struct loop *l) {
    return l->lingers;
}
struct pool *loop_pool(struct loop *l) {
    return l->pool;
}

/* ---- file descriptors ---- */

int loop_io_start(struct loop *l, struct loop_io *io, int fd, uint32_t ev, loop_io_cb *cb,
                  const char *name, struct err *e) {
    struct epoll_event ee = {.events = ev, .data.ptr = io};
    *io = (struct loop_io){NULL, fd, ev, cb, name};
    if (epoll_ctl(l->epfd, EPOLL_CTL_ADD, fd, &ee) < 0) {
        return err_sys(e, errno, "watching %s", name);
    }
    io->l = l;
    l->n_ios++;
    return 0;
}

void loop_io_set(struct loop_io *io, uint32_t ev) {
    if (io->l && io->ev != ev) {
        struct epoll_event ee = {.events = ev, .data.ptr = io};
        io->ev = ev;
        CHECK(epoll_ctl(io->l->epfd, EPOLL_CTL_MOD, io->fd, &ee) == 0);
    }
}

void loop_io_stop(struct loop_io *io) {
    struct loop *l = io->l;
    if (!l) {
        return;
    }
    struct epoll_event ee = {0};
    epoll_ctl(l->epfd, EPOLL_CTL_DEL, io->fd, &ee);
    for (int i = l->batch_at; i < l->batch_n; i++) {
        if (l->batch[i].data.ptr == io) {
            l->batch[i].data.ptr = NULL;
        }
    }
    l->n_ios--;
    io->l = NULL;
}

/* ---- timers: a binary heap with positions stored in the handles ---- */

static void place(struct loop *l, size_t i, struct loop_timer *t) {
    l->heap[i] = t;
    t->heap_pos = i;
}

static void sift(struct loop *l, size_t i, struct loop_timer *t) {
    while (i > 0 && l->heap[(i - 1) / 2]->due_ns > t->due_ns) {
        place(l, i, l->heap[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
    for (;;) {
        size_t c = 2 * i + 1;
        if (c + 1 < l->n_timers && l->heap[c + 1]->due_ns < l->heap[c]->due_ns) {
            c++;
        }
        if (c >= l->n_timers || l->heap[c]->due_ns >= t->due_ns) {
            break;
        }
        place(l, i, l->heap[c]);
        i = c;
    }
    place(l, i, t);
}

void loop_timer_start(struct loop *l, struct loop_timer *t, uint64_t after_ns, loop_timer_cb *cb,
                      const char *name) {
    loop_timer_stop(t);
    t->cb = cb;
    t->name = name;
    uint64_t now = l->is_virtual ? l->now : clock_ns();
    if (ck_add(now, after_ns, &t->due_ns)) {
        t->due_ns = UINT64_MAX;
    }
    if (l->n_timers == l->cap_timers) {
        size_t cap = l->cap_timers ? l->cap_timers * 2 : 16;
        struct loop_timer **h = mem_array(l->heap, cap, sizeof(struct loop_timer *), 1u << 24);
        CHECK(h);
        l->heap = h;
        l->cap_timers = cap;
    }
    t->l = l;
    l->n_timers++;
    sift(l, l->n_timers - 1, t);
}

void loop_timer_stop(struct loop_timer *t) {
    struct loop *l = t->l;
    if (!l) {
        return;
    }
    t->l = NULL;
    struct loop_timer *last = l->heap[--l->n_timers];
    if (last != t) {
        sift(l, t->heap_pos, last);
    }
}

static void run_timers(struct loop *l) {
    /* Only what was due when we woke: a callback that re-arms itself with 0 must not starve the rest. */
    uint64_t limit = l->now;
    while (l->n_timers && l->heap[0]->due_ns <= limit && !l->stopping) {
        struct loop_timer *t = l->heap[0];
        loop_timer_stop(t);
        l->turns++;
        t->cb(t);
        if (l->is_virtual && l->n_timers && l->heap[0]->due_ns == limit) {
            break;
        }
    }
}

/* ---- hooks ---- */

void loop_before_sleep(struct loop *l, struct loop_hook *h, loop_hook_cb *cb, void *ctx) {
    if (h->l) {
        return;
    }
    h->l = l;
    h->cb = cb;
    h->ctx = ctx;
    list_add_tail(&l->hooks, &h->link);
}

void loop_hook_cancel(struct loop_hook *h) {
    if (h->l) {
        list_del(&h->link);
        h->l = NULL;
    }
}

static void run_hooks(struct loop *l) {
    for (int round = 0; round < 8 && !list_empty(&l->hooks); round++) {
        struct list now;
        list_init(&now);
        while (!list_empty(&l->hooks)) {
            struct list *first = l->hooks.next;
            list_del(first);
            list_add_tail(&now, first);
        }
        while (!list_empty(&now)) {
            struct loop_hook *h = CONTAINER_OF(now.next, struct loop_hook, link);
            list_del(&h->link);
            h->l = NULL;
            h->cb(h->ctx);
        }
    }
}

/* ---- running ---- */

/* Every few seconds, until little is left, blocks that nobody needed in between go back. */
static void trim(struct loop *l) {
    if (l->now >= l->next_trim) {
        pool_trim(l->pool);
        l->next_trim = l->now + TRIM_NS;
    }
}

static int wait_ms(struct loop *l, uint64_t max_ns) {
    uint64_t wait = max_ns;
    if (pool_kept(l->pool) > POOL_IDLE) {
        trim(l);
        wait = wait < TRIM_NS ? wait : TRIM_NS;
    }
    if (!list_empty(&l->hooks)) {
        wait = 0;
    }
    if (l->n_timers) {
        uint64_t due = l->heap[0]->due_ns;
        uint64_t left = due > l->now ? due - l->now : 0;
        wait = left < wait ? left : wait;
    }
    if (wait == UINT64_MAX) {
        return -1;
    }
    uint64_t ms =
        (wait + NS_PER_MS - 1) / NS_PER_MS; /* round up: never wake before a timer is due */
    return ms > 3600000 ? 3600000 : (int)ms;
}

static int fetch(struct loop *l, int ms) {
    int n = epoll_wait(l->epfd, l->batch, LIM_LOOP_EVENTS, l->is_virtual ? 0 : ms);
    if (!l->is_virtual) {
        l->now = clock_ns();
    } else if (n <= 0 && l->n_timers && l->heap[0]->due_ns > l->now) {
        l->now = l->heap[0]->due_ns;
    }
    return n;
}

static int look(struct loop *l, uint64_t until) {
    int n;
    do {
        n = fetch(l, 0);
    } while (n == 0 && l->now < until);
    return n;
}

static void learn(struct loop *l, bool looked, bool quick) {
    if (quick) {
        l->price = looked ? LOOP_LINGER_EARN : l->price;
        l->quick = l->quick < 2 * l->price ? l->quick + 1 : 2 * l->price;
    } else {
        l->quick -= l->quick < l->price ? l->quick : l->price;
    }
    if (!looked) {
        return;
    }
    l->lingers.n++;
    l->lingers.in_vain += !quick;
    if (!quick && l->in_vain && l->price < LOOP_LINGER_DEAR) {
        l->price *= 2;
    }
    l->in_vain = !quick;
}

static int wait_events(struct loop *l, uint64_t max_ns) {
    int ms = l->is_virtual ? -1 : wait_ms(l, max_ns), n = 0;
    if (!l->linger || ms == 0) {
        return fetch(l, ms);
    }
    uint64_t from = l->now;
    bool looks = l->quick >= l->price;
    l->linger = false;
    if (looks && !l->is_virtual) { /* there the time until the next timer passes at once */
        n = look(l, from + LOOP_LINGER_NS);
    }
    if (n == 0) {
        n = fetch(l, ms);
    }
    learn(l, looks, l->now - from <= LOOP_LINGER_NS);
    return n;
}

static int turn(struct loop *l, uint64_t max_ns, struct err *e) {
    if (l->stopping) { /* by a hook: do not sleep first */
        return 0;
    }
    if (!l->is_virtual) {
        l->now = clock_ns();
    }
    int n = wait_events(l, max_ns);
    if (n < 0 && errno != EINTR) {
        return err_sys(e, errno, "epoll_wait");
    }
    l->batch_n = n < 0 ? 0 : n;
    for (l->batch_at = 0; l->batch_at < l->batch_n && !l->stopping;) {
        struct epoll_event *ev = &l->batch[l->batch_at++];
        struct loop_io *io = ev->data.ptr;
        if (l->batch_at < l->batch_n && l->batch[l->batch_at].data.ptr) {
            mem_prefetch(l->batch[l->batch_at].data.ptr, AROUND); /* while this one is served */
        }
        if (io) {
            l->turns++;
            io->cb(io, ev->events);
        }
    }
    l->batch_n = l->batch_at = 0;
    run_timers(l);
    return 0;
}

int loop_step(struct loop *l, uint64_t max_ns, struct err *e) {
    /* A hook may finish what the caller of single steps waits for: look again before sleeping. */
    bool hooks = !list_empty(&l->hooks);
    run_hooks(l);
    return turn(l, hooks ? 0 : max_ns, e);
}

static bool has_work(const struct loop *l) {
    return !l->stopping && (l->n_ios || l->n_timers || !list_empty(&l->hooks));
}

int loop_run(struct loop *l, struct err *e) {
    l->stopping = false;
    while (has_work(l)) {
        run_hooks(l);
        int rc = has_work(l) ? turn(l, UINT64_MAX, e) : 0;
        if (rc < 0) {
            return rc;
        }
    }
    run_hooks(l);
    l->stopping = false; /* single steps may follow, to finish what is out */
    return 0;
}

/* ---- children and signals ---- */

static void child_ready(struct loop_io *io, uint32_t events) {
    (void)events;
    struct loop_child *c = CONTAINER_OF(io, struct loop_child, io);
    siginfo_t si = {0};
    if (waitid((idtype_t)P_PIDFD, (id_t)io->fd, &si, WEXITED | WNOHANG) < 0) {
        /* Reaped elsewhere (PID 1's orphan sweep): the exit status is gone, the exit is not. */
        si.si_code = CLD_EXITED;
        si.si_status = 255;
    } else if (!si.si_pid) {
        return;
    }
    loop_child_cb *cb = c->cb;
    loop_child_stop(c);
    if (si.si_code == CLD_EXITED) {
        cb(c, si.si_status, 0);
    } else {
        cb(c, 0, si.si_status);
    }
}

int loop_child_start(struct loop *l, struct loop_child *c, int own_pidfd, loop_child_cb *cb,
                     struct err *e) {
    c->l = l;
    c->cb = cb;
    int rc = loop_io_start(l, &c->io, own_pidfd, LOOP_READ, child_ready, "child", e);
    if (rc < 0) {
        siginfo_t si;
        c->l = NULL;
        IGNORE_ERR(sys_pidfd_signal(own_pidfd, SIGKILL, NULL), "it has ended by itself");
        IGNORE_ERR(waitid((idtype_t)P_PIDFD, (id_t)own_pidfd, &si, WEXITED), "reaped elsewhere");
        close(own_pidfd);
    }
    return rc;
}

int loop_child_signal(struct loop_child *c, int signo, struct err *e) {
    return c->l ? sys_pidfd_signal(c->io.fd, signo, e)
                : err_set(e, ERR_NOT_FOUND, "the process has ended");
}

void loop_child_stop(struct loop_child *c) {
    if (c->l) {
        loop_io_stop(&c->io);
        close(c->io.fd);
        c->l = NULL;
    }
}

static void signal_ready(struct loop_io *io, uint32_t events) {
    (void)events;
    struct loop_signal *s = CONTAINER_OF(io, struct loop_signal, io);
    struct signalfd_siginfo si;
    while (s->l && read(io->fd, &si, sizeof(si)) == (ssize_t)sizeof(si)) {
        s->cb(s, (int)si.ssi_signo);
    }
}

int loop_signal_start(struct loop *l, struct loop_signal *s, const sigset_t *set,
                      loop_signal_cb *cb, struct err *e) {
    if (sigprocmask(SIG_BLOCK, set, NULL) < 0) {
        return err_sys(e, errno, "sigprocmask");
    }
    int fd = signalfd(-1, set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0) {
        return err_sys(e, errno, "signalfd");
    }
    s->l = l;
    s->cb = cb;
    int rc = loop_io_start(l, &s->io, fd, LOOP_READ, signal_ready, "signals", e);
    if (rc < 0) {
        s->l = NULL;
        close(fd);
    }
    return rc;
}

void loop_signal_stop(struct loop_signal *s) {
    if (s->l) {
        loop_io_stop(&s->io);
        close(s->io.fd);
        s->l = NULL;
    }
}
