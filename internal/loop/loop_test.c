#include "internal/loop/loop.h"

#include "internal/base/rand.h"
#include "internal/sys/sys.h"
#include "internal/t/t.h"

#include <stdlib.h>
#include <time.h>
#include <unistd.h>

struct tick {
    struct loop_timer t;
    uint64_t fired_ns;
    unsigned n;
};

static void on_tick(struct loop_timer *t) {
    struct tick *k = CONTAINER_OF(t, struct tick, t);
    (void)k;
    k->n++;
}

TEST(loop, virtual_clock_jumps) {
    struct err e = ERR_INIT;
    struct loop *l;
    struct tick a = {{0}, 0, 0}, b = {{0}, 0, 0};
    ASSERT_OK(loop_new_virtual(&l, 1000, &e), &e);
    loop_timer_start(l, &a.t, 3600 * NS_PER_S, on_tick, "a");
    loop_timer_start(l, &b.t, 10, on_tick, "b");
    loop_timer_start(l, &b.t, 20, on_tick, "b"); /* restart moves it */
    ASSERT_OK(loop_run(l, &e), &e);
    ASSERT_EQ(1, a.n);
    ASSERT_EQ(1, b.n);
    ASSERT(loop_now(l) == 1000 + 3600 * NS_PER_S);
    loop_free(l);
}

/* Timers against a sorted model: random starts and stops, then all that are left fire in order. */
struct order {
    struct tick k[64];
    uint64_t due[64], last;
    struct loop *l;
    int bad;
};
static void in_order(struct loop_timer *t) {
    struct tick *k = CONTAINER_OF(t, struct tick, t);
    struct order *o = (struct order *)(void *)(uintptr_t)k->fired_ns;
    size_t i = (size_t)(k - o->k);
    o->bad |= o->due[i] == 0 || o->due[i] < o->last || loop_now(o->l) < o->due[i];
    o->last = o->due[i];
    o->due[i] = 0;
}
static int prop_timers(const uint8_t *p, size_t n) {
    struct t_gen g = {span_of(p, n)};
    struct order *o = new_zero(struct order);
    if (loop_new_virtual(&o->l, 1, NULL) < 0) {
        return 1;
    }
    while (g.s.n) {
        uint32_t i = t_gen_u32(&g, 0, 63), what = t_gen_u32(&g, 0, 3);
        o->k[i].fired_ns = (uintptr_t)o;
        if (what) {
            uint64_t after = t_gen_u32(&g, 1, 1000000);
            loop_timer_start(o->l, &o->k[i].t, after, in_order, "p");
            o->due[i] = 1 + after;
        } else {
            loop_timer_stop(&o->k[i].t);
            o->due[i] = 0;
        }
    }
    int bad = loop_run(o->l, NULL) < 0 || o->bad;
    for (size_t i = 0; i < 64; i++) {
        bad |= o->due[i] != 0;
    }
    loop_free(o->l);
    free(o);
    return bad;
}

TEST(loop, timers_fire_in_order) {
    t_property("timers", prop_timers, 200, 2000);
}

struct pair {
    struct loop_io a, b;
    unsigned n;
};
static void stop_both(struct loop_io *io, uint32_t ev) {
    (void)ev;
    struct pair *p =
        str_eq(io->name, "a") ? CONTAINER_OF(io, struct pair, a) : CONTAINER_OF(io, struct pair, b);
    p->n++;
    loop_io_stop(&p->a);
    loop_io_stop(&p->b);
}

/* Both descriptors are ready in one batch; the first callback stops the second: it must not run. */
TEST(loop, stop_takes_events_already_fetched) {
    struct err e = ERR_INIT;
    struct loop *l;
    int x[2], y[2];
    struct pair p = {.n = 0};
    ASSERT_EQ(0, pipe(x));
    ASSERT_EQ(0, pipe(y));
    ASSERT_EQ(1, write(x[1], "a", 1));
    ASSERT_EQ(1, write(y[1], "a", 1));
    ASSERT_OK(loop_new(&l, &e), &e);
    ASSERT_OK(loop_io_start(l, &p.a, x[0], LOOP_READ, stop_both, "a", &e), &e);
    ASSERT_OK(loop_io_start(l, &p.b, y[0], LOOP_READ, stop_both, "b", &e), &e);
    ASSERT_OK(loop_run(l, &e), &e);
    ASSERT_EQ(1, p.n);
    loop_free(l);
    for (int i = 0; i < 2; i++) {
        close(x[i]);
        close(y[i]);
    }
}

static void set_flag(void *ctx) {
    *(bool *)ctx = true;
}

/* A caller of single steps waits for what a hook does: the step must come back although nothing else happens. */
TEST(loop, step_returns_after_a_hook) {
    struct err e = ERR_INIT;
    struct loop *l;
    struct loop_hook h = {{NULL, NULL}, NULL, NULL, NULL};
    struct tick far = {{0}, 0, 0};
    bool done = false;
    ASSERT_OK(loop_new(&l, &e), &e);
    loop_timer_start(l, &far.t, 3600 * NS_PER_S, on_tick, "far");
    loop_before_sleep(l, &h, set_flag, &done);
    uint64_t from = clock_ns();
    while (!done) {
        ASSERT_OK(loop_step(l, UINT64_MAX, &e), &e);
    }
    ASSERT(clock_ns() - from < 10 * NS_PER_S);
    loop_timer_stop(&far.t);
    loop_free(l);
}

/* A client of a loop with a virtual clock: he asks `after` ns after each answer. */
struct client {
    struct loop_timer t;
    struct loop *l;
    uint64_t after;
    unsigned left;
};
static void on_request(struct loop_timer *t) {
    struct client *c = CONTAINER_OF(t, struct client, t);
    if (c->left--) {
        loop_linger(c->l);
        loop_timer_start(c->l, &c->t, c->after, on_request, "client");
    }
}
static struct loop_lingers lingers_for(struct loop *l, uint64_t after, unsigned times) {
    struct err e = ERR_INIT;
    struct client c = {.l = l, .after = after, .left = times};
    struct loop_lingers before = loop_lingers(l), now;
    on_request(&c.t);
    ASSERT_OK(loop_run(l, &e), &e);
    now = loop_lingers(l);
    return (struct loop_lingers){now.n - before.n, now.in_vain - before.in_vain};
}

TEST(loop, lingers_only_for_those_who_ask_at_once) {
    static const uint64_t slow[] = {LOOP_LINGER_NS + 1, NS_PER_MS, 5 * NS_PER_MS, 100 * NS_PER_MS};
    enum { QUICK = 30000 };
    struct err e = ERR_INIT;
    struct loop *l;
    ASSERT_OK(loop_new_virtual(&l, 1, &e), &e);
    for (size_t i = 0; i < ARRAY_LEN(slow); i++) {
        ASSERT_EQ(0, lingers_for(l, slow[i], 1000).n);
    }
    struct loop_lingers n = lingers_for(l, QUICK, 1000);
    ASSERT_EQ(1000 - LOOP_LINGER_EARN, n.n);
    ASSERT_EQ(0, n.in_vain);
    /* He is gone: what he earned is twice lost, and then nothing. */
    n = lingers_for(l, NS_PER_MS, 1000);
    ASSERT_EQ(2, n.n);
    ASSERT_EQ(2, n.in_vain);
    /* Quick until somebody looks for him, late then: each time it takes twice as many; a success makes it cheap again. */
    for (unsigned price = 2 * LOOP_LINGER_EARN; price <= LOOP_LINGER_DEAR; price *= 2) {
        ASSERT_EQ(0, lingers_for(l, QUICK, price).n);
        ASSERT_EQ(1, lingers_for(l, NS_PER_MS, 1).in_vain);
    }
    ASSERT_EQ(0, lingers_for(l, QUICK, LOOP_LINGER_DEAR).n);
    ASSERT_EQ(1, lingers_for(l, QUICK, 1).n);
    ASSERT_EQ(1, lingers_for(l, NS_PER_MS, 1).in_vain);
    ASSERT_EQ(10, lingers_for(l, QUICK, 10).n);
    /* The same loop without the mark. */
    struct loop_lingers before = loop_lingers(l);
    struct tick k = {{0}, 0, 0};
    for (int i = 0; i < 100; i++) {
        loop_timer_start(l, &k.t, QUICK, on_tick, "k");
        ASSERT_OK(loop_run(l, &e), &e);
    }
    ASSERT_EQ(before.n, loop_lingers(l).n);
    loop_free(l);
}

/* Whatever the gaps: those in vain are paid for by quick ones before. */
static int prop_linger(const uint8_t *p, size_t n) {
    struct t_gen g = {span_of(p, n)};
    struct loop *l;
    uint64_t quick = 0;
    int bad = loop_new_virtual(&l, 1, NULL) < 0;
    while (g.s.n && !bad) {
        bool is = t_gen_u32(&g, 0, 7) != 0;
        quick += is;
        lingers_for(l, is ? 1000 : NS_PER_MS, 1);
        bad = loop_lingers(l).in_vain * LOOP_LINGER_EARN > quick;
    }
    loop_free(l);
    return bad;
}
TEST(loop, lingering_in_vain_has_a_bound) {
    t_property("linger", prop_linger, 200, 2000);
}

struct job {
    struct loop_work w;
    unsigned id, *next;
    bool ran;
};
static void job_run(struct loop_work *w) {
    CONTAINER_OF(w, struct job, w)->ran = true;
}
static void job_done(struct loop_work *w) {
    struct job *j = CONTAINER_OF(w, struct job, w);
    ASSERT(j->ran);
    ASSERT_EQ(j->id, *j->next);
    (*j->next)++;
}

static void stop_loop(struct loop_timer *t) {
    loop_stop((struct loop *)(uintptr_t)CONTAINER_OF(t, struct tick, t)->fired_ns);
}

/* What is being closed after a run takes single steps until its work is done. */
TEST(loop, steps_go_on_after_a_run_was_stopped) {
    struct err e = ERR_INIT;
    struct loop *l;
    struct tick a = {{0}, 0, 0}, b = {{0}, 0, 0};
    ASSERT_OK(loop_new_virtual(&l, 1, &e), &e);
    a.fired_ns = (uintptr_t)l;
    loop_timer_start(l, &a.t, 10, stop_loop, "a");
    loop_timer_start(l, &b.t, 20, on_tick, "b");
    ASSERT_OK(loop_run(l, &e), &e);
    ASSERT_EQ(0, b.n);
    ASSERT_OK(loop_step(l, NS_PER_S, &e), &e);
    ASSERT_EQ(1, b.n);
    loop_free(l);
}

/* The lane waits for the loop, which takes the job behind it back. */
static _Atomic bool gate_open;
static void gate_run(struct loop_work *w) {
    struct timespec ms = {0, 1000000};
    while (!gate_open) {
        nanosleep(&ms, NULL);
    }
    job_run(w);
}

TEST(loop, work_that_has_not_begun_comes_back) {
    struct err e = ERR_INIT;
    struct loop *l;
    unsigned next = 0;
    struct job gate = {{NULL, gate_run, job_done}, 0, &next, false};
    struct job taken = {{NULL, job_run, job_done}, 2, &next, false}, stays = taken;
    stays.id = 1;
    gate_open = false;
    ASSERT_OK(loop_new(&l, &e), &e);
    ASSERT_OK(loop_work_submit(l, LANE_FILE, &gate.w, &e), &e);
    struct timespec ms = {0, 1000000};
    do { /* until the lane has it */
        nanosleep(&ms, NULL);
        ASSERT_OK(loop_work_submit(l, LANE_FILE, &taken.w, &e), &e);
        ASSERT(loop_work_recall(l, LANE_FILE, &taken.w));
        if (!loop_work_recall(l, LANE_FILE, &gate.w)) {
            break;
        }
        ASSERT_OK(loop_work_submit(l, LANE_FILE, &gate.w, &e), &e);
    } while (true);
    ASSERT_OK(loop_work_submit(l, LANE_FILE, &taken.w, &e), &e);
    ASSERT_OK(loop_work_submit(l, LANE_FILE, &stays.w, &e), &e);
    ASSERT(loop_work_recall(l, LANE_FILE, &taken.w));
    ASSERT(!loop_work_recall(l, LANE_FILE, &taken.w));
    gate_open = true;
    while (next < 2) {
        ASSERT_OK(loop_step(l, UINT64_MAX, &e), &e);
    }
    ASSERT(!taken.ran);
    ASSERT_OK(loop_work_submit(l, LANE_FILE, &taken.w, &e), &e);
    while (next < 3) {
        ASSERT_OK(loop_step(l, UINT64_MAX, &e), &e);
    }
    ASSERT(!loop_work_recall(l, LANE_FILE, &taken.w));
    loop_free(l);
}

/* A client on a thread of its own. How often he is quick is the machine's affair; the bound holds. */
struct echo {
    struct loop_work w;
    struct loop *l;
    unsigned left;
};
static void echo_run(struct loop_work *w) {
    (void)w;
}
static void echo_done(struct loop_work *w) {
    struct echo *o = CONTAINER_OF(w, struct echo, w);
    struct err e = ERR_INIT;
    if (--o->left) {
        ASSERT_OK(loop_work_submit(o->l, LANE_FILE, w, &e), &e);
        loop_linger(o->l);
    }
}

TEST(loop, lingering_misses_nobody) {
    enum { TIMES = 5000 };
    struct err e = ERR_INIT;
    struct echo o = {.w = {NULL, echo_run, echo_done}, .left = TIMES};
    ASSERT_OK(loop_new(&o.l, &e), &e);
    ASSERT_OK(loop_work_submit(o.l, LANE_FILE, &o.w, &e), &e);
    while (o.left) {
        ASSERT_OK(loop_step(o.l, UINT64_MAX, &e), &e);
    }
    struct loop_lingers n = loop_lingers(o.l);
    ASSERT(n.n <= TIMES);
    ASSERT(n.in_vain * LOOP_LINGER_EARN <= TIMES);
    loop_free(o.l);
}

TEST(loop, work_comes_back_in_order) {
    struct err e = ERR_INIT;
    struct loop *l;
    static struct job jobs[500];
    unsigned next = 0;
    ASSERT_OK(loop_new(&l, &e), &e);
    for (unsigned i = 0; i < 500; i++) {
        jobs[i] = (struct job){{NULL, job_run, job_done}, i, &next, false};
        ASSERT_OK(loop_work_submit(l, LANE_FILE, &jobs[i].w, &e), &e);
    }
    while (next < 250) {
        ASSERT_OK(loop_step(l, UINT64_MAX, &e), &e);
    }
    loop_free(l); /* waits for the rest */
    ASSERT_EQ(500, next);
}

TEST(loop, a_child_that_cannot_be_watched_is_killed) {
    static const char *const argv[] = {"/bin/sleep", "100", NULL};
    struct err e = ERR_INIT;
    struct loop *l = NULL;
    struct loop_io taken;
    struct loop_child c = {0};
    struct sys_spawn sp = SYS_SPAWN_INIT;
    pid_t pid = 0;
    int pidfd = -1;
    sp.argv = argv;
    ASSERT_OK(loop_new(&l, &e), &e);
    ASSERT_OK(sys_spawn(&sp, &pidfd, &pid, &e), &e);
    ASSERT_OK(loop_io_start(l, &taken, pidfd, LOOP_READ, NULL, "taken", &e), &e);
    ASSERT_ERR(-ERR_EXISTS, loop_child_start(l, &c, pidfd, NULL, &e));
    ASSERT_EQ(-1, kill(pid, 0));
    err_reset(&e);
    ASSERT_ERR(-ERR_NOT_FOUND, loop_child_signal(&c, SIGTERM, &e));
    loop_io_stop(&taken);
    loop_free(l);
}
