/* One round: a new store, clients and watches on it, blows in between, and what everybody saw. */
#include "internal/lin/lin_run.h"

#include "internal/base/rand.h"
#include "internal/sys/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum { OPS = 260, OPS_MAX = 3000, GUARD_S = 120 };

uint32_t round_luck(struct round *r, uint32_t n) {
    r->state = r->state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(r->state >> 33) % n;
}

void round_fail(struct round *r, const char *fmt, ...) {
    if (!r->failed) {
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(r->why, sizeof(r->why), fmt, ap);
        va_end(ap);
    }
    r->failed = r->finished = true;
}

void round_clock(struct round *r) {
    int64_t ms = (int64_t)(clock_ns() / NS_PER_MS) + (r->server.ctl ? r->server.ctl->mono_ms : 0);
    if (r->o.scenario == LIN_S_CLOCK && ms != r->last_clock) {
        r->last_clock = ms;
        buf_fmt(&r->text, "clock %lld\n", (long long)ms);
    }
}

/* ---- clients ---- */

static int32_t some_key(struct round *r) {
    return (int32_t)round_luck(r, (uint32_t)r->n_keys);
}

void round_span(struct round *r, struct lin_sub *s) {
    s->lo = some_key(r);
    s->hi = round_luck(r, 2) ? s->lo + 1
                             : s->lo + 1 + (int32_t)round_luck(r, (uint32_t)(r->n_keys - s->lo));
}

static int64_t some_lease(struct round *r) {
    return r->users.on || round_luck(r, 5) ? 0 : r->live[round_luck(r, ARRAY_LEN(r->live))];
}

static struct lin_sub a_put(struct round *r) {
    return (struct lin_sub){.what = '+',
                            .lo = some_key(r),
                            .val = ++r->values,
                            .lease = some_lease(r),
                            .prev = round_luck(r, 3) == 0};
}
static struct lin_sub a_delete(struct round *r) {
    struct lin_sub s = {.what = '-', .prev = round_luck(r, 2)};
    round_span(r, &s);
    return s;
}
static struct lin_sub a_range(struct round *r) {
    struct lin_sub s = {.what = ':'};
    round_span(r, &s);
    if (round_luck(r, 4) == 0) {
        s.lo = 0;
        s.hi = LIM_LIN_KEYS;
    }
    if (round_luck(r, 4) == 0) { /* the past, near the compacted revision too, and the future */
        s.rev = round_luck(r, 2) ? r->compacted - 1 + round_luck(r, 4)
                                 : r->rev + 2 - (int64_t)round_luck(r, 12);
        s.rev = s.rev < 0 ? 0 : s.rev;
    }
    s.limit = round_luck(r, 4) ? 0 : 1 + round_luck(r, 3);
    s.count_only = round_luck(r, 10) == 0;
    return s;
}

static struct lin_cmp a_test(struct round *r) {
    static const char targets[] = "mcvxl", hows[] = "=<>!";
    struct lin_cmp c = {.key = some_key(r),
                        .target = targets[round_luck(r, 5)],
                        .how = round_luck(r, 3) ? '=' : hows[round_luck(r, 4)]};
    if (c.target == 'x' && c.how != '=') {
        c.how = '!'; /* values have an order of their own */
    }
    c.num = c.target == 'v'    ? round_luck(r, 4)
            : c.target == 'x'  ? 1 + round_luck(r, (uint32_t)r->values + 1)
            : c.target == 'l'  ? r->live[round_luck(r, ARRAY_LEN(r->live))]
            : round_luck(r, 3) ? r->rev - (int64_t)round_luck(r, 8)
                               : 0;
    c.num = c.num < 0 ? 0 : c.num;
    return c;
}

/* *used: the keys that are changed beside it and, afterwards, in it: each may be changed once. */
static void a_txn(struct client *c, struct lin_txn *t, uint32_t *used) {
    struct round *r = c->r;
    uint32_t in[2] = {*used, *used};
    for (uint32_t i = 1 + round_luck(r, 2); i > 0; i--) {
        t->cmps[t->n_cmps++] = a_test(r);
    }
    for (int k = 0; k < 2; k++) {
        for (uint32_t i = 1 + round_luck(r, 3); i > 0; i--) {
            if (round_luck(r, 8) == 0 && c->n_inner < ARRAY_LEN(c->inner)) {
                struct lin_txn *inner = &c->inner[c->n_inner++];
                *inner = (struct lin_txn){.n_cmps = 0};
                t->subs[k][t->n_subs[k]++] = (struct lin_sub){.what = '(', .txn = inner};
                a_txn(c, inner, &in[k]);
                continue;
            }
            struct lin_sub s = round_luck(r, 2)   ? a_put(r)
                               : round_luck(r, 3) ? a_range(r)
                                                  : a_delete(r);
            s.hi = s.what == '+' ? s.lo + 1 : s.hi;
            uint32_t bits = ((1u << s.hi) - 1) & ~((1u << s.lo) - 1);
            if (s.what != ':' && (in[k] & bits)) {
                continue;
            }
            in[k] |= s.what != ':' ? bits : 0;
            t->subs[k][t->n_subs[k]++] = s;
        }
    }
    *used = in[0] | in[1];
}

static const char *a_lease(struct round *r, struct lin_op *op) {
    int64_t *at = &r->live[round_luck(r, ARRAY_LEN(r->live))];
    if (!*at || round_luck(r, 6) == 0) {
        op->kind = LIN_GRANT;
        op->lease = ++r->leases;
        op->ttl = r->o.scenario != LIN_S_CLOCK ? 3600
                  : r->long_leases             ? 310 + round_luck(r, 300)
                                               : 2 + round_luck(r, 3);
        *at = op->lease;
        return "grant";
    }
    op->lease = *at;
    switch (round_luck(r, 4)) {
    case 0:
        op->kind = LIN_REVOKE;
        *at = 0;
        return "revoke";
    case 1: op->kind = LIN_KEEP; return "keep";
    default: op->kind = LIN_TTL; return "ttl";
    }
}

/* Never past what the watch of everything still has to be given. */
static const char *a_compaction(struct round *r, struct lin_op *op) {
    int64_t upto = r->streams[0].next < r->rev ? r->streams[0].next : r->rev;
    op->kind = LIN_COMPACTION;
    op->num = upto - (int64_t)(round_luck(r, 2) ? 0 : round_luck(r, 10));
    op->num = op->num < 1 ? 1 : op->num;
    if (op->num > r->compacted) {
        r->compacted = op->num;
    }
    return "compact";
}

static const char *choose(struct client *c) {
    struct round *r = c->r;
    struct lin_op *op = &c->op;
    uint32_t n = round_luck(r, 100);
    if (c == &r->reader) {
        op->lease = r->live[round_luck(r, ARRAY_LEN(r->live))];
        if (op->lease && n < 50) {
            op->kind = n < 25 ? LIN_KEEP : LIN_TTL;
            return n < 25 ? "keep" : "ttl";
        }
        op->t.subs[0][op->t.n_subs[0]++] = a_range(r);
        return "get";
    }
    if (c->user && n >= 84) { /* the rest is the administrator's */
        n -= 84;
    } else if (r->users.on && !c->user && n % 3) {
        users_allow(r, op);
        return "allow";
    }
    if (n < 34) {
        op->t.subs[0][op->t.n_subs[0]++] = a_put(r);
        return "put";
    }
    if (n < 42) {
        op->t.subs[0][op->t.n_subs[0]++] = a_delete(r);
        return "del";
    }
    if (n < 62) {
        op->t.subs[0][op->t.n_subs[0]++] = a_range(r);
        return "get";
    }
    if (n < 84) {
        uint32_t used = 0;
        c->n_inner = 0;
        a_txn(c, &op->t, &used);
        return "txn";
    }
    if (n < 94) {
        return a_lease(r, op);
    }
    if (n < 98) {
        return a_compaction(r, op);
    }
    op->kind = LIN_HASHKV;
    op->num = r->rev - (int64_t)round_luck(r, 3);
    op->num = op->num < 0 ? 0 : op->num;
    return "hash";
}

static void wake(struct loop_timer *t) {
    client_next(CONTAINER_OF(t, struct client, timer));
}

/* Reads and leases need no sync: one that was asked for and answered while the same sync was under way did not wait for it.
 * A sync during which one waited and none passed was a stall. */
static void reader_met(struct client *c) {
    struct round *r = c->r;
    struct wait *w = &r->wait;
    if (!c->asked_in) {
        return;
    }
    if (c->asked_in != w->sync) {
        w->n_syncs += w->passed || w->waited;
        w->n_stalls += w->waited && !w->passed;
        w->sync = c->asked_in;
        w->passed = w->waited = false;
    }
    bool same = r->server.ctl->dragging && r->server.ctl->n_dragged == c->asked_in;
    w->passed |= same;
    w->waited |= !same;
    c->asked_in = 0;
}

static void reader_judge(struct round *r) {
    struct wait *w = &r->wait;
    w->n_syncs += w->passed || w->waited;
    w->n_stalls += w->waited && !w->passed;
    /* A commit may be begun in the belief that the disk is quick, and the machine may be busy: not most of them. */
    if (w->n_syncs >= 4 && w->n_stalls > 1 + w->n_syncs / 2) {
        round_fail(r, "reads stood still during %u of %u slow syncs", w->n_stalls, w->n_syncs);
    }
}

static void answered(void *ctx, int64_t code, struct span text, struct span msg) {
    struct client *c = ctx;
    struct round *r = c->r;
    c->busy = false;
    round_clock(r);
    reader_met(c);
    if (code == 0) {
        size_t at = r->text.n;
        op_answer(&r->text, &c->op, c->path, msg);
        struct span line = span_of(r->text.p + at, r->text.n - at), w;
        int64_t rev = 0;
        for (int i = 0; i < 4 && span_next(&line, ' ', &w); i++) {
            w.n -= w.n && w.p[w.n - 1] == '\n';
            if (i == 3 && span_to_i64(w, 0, INT64_MAX, &rev) == 0 && rev > r->rev) {
                r->rev = rev;
            }
        }
        if (r->ending && c->id == 0) {
            r->final_rev = rev;
            r->final_done = true;
        }
    } else {
        buf_fmt(&r->text, "ret %lld err %lld %.*s\n", (long long)c->op.id, (long long)code,
                SPAN_FMT(text));
    }
    if (code == 16) {
        users_out(r, c->user);
        users_next(r);
    }
    if (r->ending && code > 0 && ++r->n_refused > 300) {
        round_fail(r, "the disk is well, but the last read is refused: %lld %.*s", (long long)code,
                   SPAN_FMT(text));
    }
    /* Without a server every attempt fails at once: the next one comes when it is ready. */
    loop_timer_start(r->l, &c->timer,
                     code == -1                     ? NS_PER_MS
                     : r->ending || c == &r->reader ? 5 * NS_PER_MS
                                                    : 0,
                     wake, "lin-client");
}

/* May it ask now? A client alone is served in other ways than many at once. */
static bool wave_turn(struct client *c) {
    struct round *r = c->r;
    if (!r->waves || r->ending) {
        return true;
    }
    if (r->n_left <= r->wave_end) {
        r->lone = !r->lone;
        r->wave_end = r->n_left -
                      (r->lone ? 5 + (int64_t)round_luck(r, 25) : 20 + (int64_t)round_luck(r, 60));
        for (size_t i = 1; i < r->n_clients && !r->lone; i++) {
            struct client *o = &r->clients[i];
            if (!o->busy && !loop_timer_active(&o->timer)) {
                loop_timer_start(r->l, &o->timer, 0, wake, "lin-client");
            }
        }
    }
    return !r->lone || c->id == 0;
}

bool round_open(const struct round *r) {
    return r->server.state == SERVER_UP && (!r->users.on || r->users.in);
}

void client_next(struct client *c) {
    struct round *r = c->r;
    if (c->busy || r->finished || !round_open(r) || loop_timer_active(&c->timer)) {
        return;
    }
    if (c == &r->reader ? r->ending : !wave_turn(c)) {
        return;
    }
    c->op = (struct lin_op){.kind = LIN_TXN, .client = c->id, .id = r->n_calls + 1};
    if (r->ending) {
        if (c->id != 0 || r->final_done) {
            return;
        }
        c->op.t.subs[0][c->op.t.n_subs[0]++] = (struct lin_sub){.what = ':', .hi = LIM_LIN_KEYS};
        c->kind = "get";
    } else if (c == &r->reader) {
        struct fault_ctl *f = r->server.ctl;
        c->kind = choose(c);
        c->asked_in = f->dragging && f->drag_us >= 64000 ? f->n_dragged : 0;
    } else if (r->n_left <= 0) {
        return;
    } else {
        r->n_left--;
        c->kind = choose(c);
    }
    r->n_calls++;
    AUTO(buf) struct buf msg = BUF_INIT(1 << 20);
    round_clock(r);
    uint32_t luck = round_luck(r, 8);
    bool pages = str_eq(c->kind, "get") && (luck & RPC_PAGES);
    op_text(&r->text, &c->op, pages ? "pages" : c->kind);
    c->path = op_encode(&msg, &c->op, luck);
    c->busy = true;
    rpc_start(&c->rpc, r, c->hc, c->path, c->user, buf_view(&msg), answered, c);
}

/* ---- the course of a round ---- */

void round_up(struct round *r) {
    if (!round_open(r)) {
        users_next(r);
        return;
    }
    for (size_t i = 0; i < r->n_streams; i++) {
        stream_open(&r->streams[i]);
    }
    for (size_t i = 0; i < r->n_clients; i++) {
        client_next(&r->clients[i]);
    }
    if (r->o.scenario == LIN_S_DRAG) {
        client_next(&r->reader);
    }
}

void round_down(struct round *r) {
    buf_fmt(&r->text, "note the server is gone\n");
    users_out(r, -1);
    if (!r->ending) {
        return;
    }
    r->final_done = false; /* what was read before the last blow does not count */
}

static bool idle(const struct round *r) {
    for (size_t i = 0; i < r->n_clients; i++) {
        if (r->clients[i].busy) {
            return false;
        }
    }
    return true;
}

/* Called after every wake-up. */
static void advance(struct round *r) {
    if (!r->ending) {
        if (r->n_left > 0 && r->server.state == SERVER_UP && round_luck(r, 10) == 0) {
            stream_bother(r);
        }
        if (r->n_left <= 0 && r->n_calls < OPS_MAX &&
            (r->blows_left || (r->server.ctl && r->server.ctl->die_after))) {
            r->n_left += 8; /* there is something to be hurt until the last blow */
            round_up(r);
        }
        if (r->n_left <= 0 && idle(r) && r->server.state == SERVER_UP) {
            r->ending = true;
            blow_heal(r);
            for (size_t i = 0; i < r->n_streams; i++) {
                if (r->streams[i].paused && r->streams[i].call) {
                    r->streams[i].paused = false;
                    http_call_pause(r->streams[i].call, false);
                }
            }
            client_next(&r->clients[0]);
        }
        return;
    }
    if (r->final_done && r->server.state == SERVER_UP) {
        bool all = true;
        for (size_t i = 0; i < r->n_streams; i++) {
            struct stream *s = &r->streams[i];
            if (s->next <= r->final_rev && s->w.start <= r->final_rev) {
                stream_ask(s);
                all = false;
            }
        }
        if (all && r->streams[0].next > r->final_rev) {
            r->finished = true;
        }
    }
}

static void guard(struct loop_timer *t) {
    struct round *r = CONTAINER_OF(t, struct round, guard);
    round_fail(r,
               "the round does not end: server state %d, %lld left, ending %d, final %d at %lld, "
               "watch at %lld",
               (int)r->server.state, (long long)r->n_left, r->ending, r->final_done,
               (long long)r->final_rev, (long long)r->streams[0].next);
}

static int setup(struct round *r, struct err *e) {
    const char *tmp = getenv("TMPDIR");
    if (str_put(r->dir, sizeof(r->dir), "%s/kf-lin-XXXXXX", tmp ? tmp : "/tmp") < 0 ||
        !mkdtemp(r->dir)) {
        return err_sys(e, errno, "a folder for the round");
    }
    bool faulty = r->o.scenario != LIN_S_KILL && r->o.scenario != LIN_S_STOP;
    int rc = loop_new(&r->l, e);
    if (rc < 0 || (rc = server_init(&r->server, r, faulty, e)) < 0) {
        return rc;
    }
    if ((rc = users_setup(r, e)) < 0 || (rc = users_client(r, 0, &r->maint.hc, e)) < 0) {
        return rc;
    }
    r->n_clients = 2 + round_luck(r, LIM_CLIENTS - 1);
    r->n_streams = r->o.scenario == LIN_S_LAG ? 6 + round_luck(r, LIM_STREAMS - 5)
                                              : 2 + round_luck(r, STREAMS - 1);
    r->n_keys = 2 + (int32_t)round_luck(r, round_luck(r, 3) ? 8 : LIM_LIN_KEYS - 2);
    r->n_left = round_luck(r, 8) ? OPS : 4 * OPS; /* long ones meet checkpoints */
    r->rev = 1;
    if (r->o.scenario == LIN_S_LAG) {
        r->n_left = 3 * OPS;
        r->values = LIN_LARGE;
        r->waves = false;
    }
    r->leases = 1000;
    r->blows_left = 1 + round_luck(r, 4);
    r->long_leases = round_luck(r, 2);
    r->waves = round_luck(r, 2);
    r->wave_end = r->n_left;
    for (size_t i = 0; i < r->n_clients; i++) {
        r->clients[i].r = r;
        r->clients[i].id = (int32_t)i;
        r->clients[i].user = r->users.on && i ? 1 + (int)((i - 1) % (LIN_USERS - 1)) : 0;
        if (r->users.on) {
            buf_fmt(&r->text, "user %zu %d\n", i, r->clients[i].user);
        }
        if ((rc = users_client(r, r->clients[i].user, &r->clients[i].hc, e)) < 0) {
            return rc;
        }
    }
    for (size_t i = 0; i < r->n_streams; i++) {
        r->streams[i].r = r;
        if ((rc = users_client(r, 0, &r->streams[i].hc, e)) < 0) {
            return rc;
        }
    }
    r->reader.r = r;
    r->reader.id = LIM_CLIENTS;
    if ((rc = users_client(r, 0, &r->reader.hc, e)) < 0) {
        return rc;
    }
    if (r->server.ctl) {
        /* Left to the scheduler, one after the other, or anyhow. */
        uint32_t order = r->o.scenario == LIN_S_DRAG ? 0 : round_luck(r, 3);
        r->server.ctl->lane_first = order == 1 ? FAULT_ALWAYS : order == 2 ? 300000 : 0;
        r->server.ctl->lane_late = order == 2 ? 300000 : 0;
        r->server.ctl->lie = r->o.scenario == LIN_S_LIE;
    }
    r->streams[0].all = true;
    r->streams[0].w = (struct lin_watch){.hi = LIM_LIN_KEYS, .prev = true};
    loop_timer_start(r->l, &r->guard, GUARD_S * NS_PER_S, guard, "lin-guard");
    return server_start(&r->server, e);
}

static void client_leave(struct client *c) {
    loop_timer_stop(&c->timer);
    rpc_leave(&c->rpc);
    http_client_free(c->hc);
}

static void leave(struct round *r) {
    loop_timer_stop(&r->guard);
    loop_timer_stop(&r->nemesis);
    for (size_t i = 0; i < r->n_clients; i++) {
        client_leave(&r->clients[i]);
    }
    client_leave(&r->reader);
    users_leave(r);
    for (size_t i = 0; i < r->n_streams; i++) {
        struct stream *s = &r->streams[i];
        loop_timer_stop(&s->timer);
        if (s->call) {
            http_call_cancel(TAKE(s->call));
            grpc_reader_fini(&s->in);
        }
        http_client_free(s->hc);
    }
    maint_leave(r);
}

/* The server ends by itself, in order, or is killed once more; its file must be whole either way. */
static int check_file(struct round *r, struct err *e) {
    struct server *s = &r->server;
    bool orderly = round_luck(r, 2);
    leave(r);
    server_kill(s, orderly ? SIGTERM : SIGKILL);
    uint64_t until = clock_ns() + GUARD_S * NS_PER_S;
    while (s->pid && clock_ns() < until) {
        int rc = loop_step(r->l, NS_PER_S, e);
        if (rc < 0) {
            return rc;
        }
        loop_timer_stop(&s->again);
    }
    if (s->pid) {
        round_fail(r, "the server does not end");
    }
    if (r->failed) {
        return 0;
    }
    const char *argv[] = {r->o.kfarm, "store", "check", "--data-dir", s->data, NULL};
    const char *envp[] = {"PATH=/usr/bin:/bin", "ASAN_OPTIONS=detect_leaks=0", NULL};
    AUTO_FD int log = sys_open(AT_FDCWD, s->log, O_WRONLY | O_CREAT | O_APPEND, 0600, e);
    struct sys_spawn sp = SYS_SPAWN_INIT;
    sp.argv = argv;
    sp.envp = envp;
    sp.fds[sp.n_fds++] = (__typeof__(sp.fds[0])){log, 1};
    sp.fds[sp.n_fds++] = (__typeof__(sp.fds[0])){log, 2};
    int pidfd, rc = log < 0 ? log : sys_spawn(&sp, &pidfd, &s->pid, e);
    if (rc < 0) {
        return rc;
    }
    close(pidfd);
    int status;
    if (waitpid(s->pid, &status, 0) < 0 || status != 0) {
        round_fail(r, "kfarm store check found damage");
    }
    s->pid = 0;
    return 0;
}

static void keep_history(struct round *r, struct round_result *ret) {
    struct err e = ERR_INIT;
    const char *dir = r->o.keep ? r->o.keep : ".";
    AUTO_FREE char *log = str_fmt("%s/log", r->dir);
    AUTO(buf) struct buf tail = BUF_INIT(1 << 20);
    if (sys_file_read(AT_FDCWD, log, &tail, &e) == 0) {
        struct span all = buf_view(&tail), line;
        while (span_line(&all, &line) == 0) {
            buf_fmt(&r->text, "note log: %.*s\n", SPAN_FMT(line));
        }
    }
    if (str_put(ret->history, sizeof(ret->history), "%s/lin-%s-%llu.history", dir,
                lin_scenario_names[r->o.scenario], (unsigned long long)r->o.seed) == 0) {
        err_reset(&e);
        if (sys_file_replace(AT_FDCWD, ret->history, buf_view(&r->text), 0644, &e) < 0) {
            fprintf(stderr, "%s\n", e.msg);
        }
    }
}

int round_run(const struct lin_opts *o, struct round_result *ret, struct err *e) {
    struct round *r = new_zero(struct round);
    r->o = *o;
    r->state = o->seed * 0x9e3779b97f4a7c15ull + 12345;
    r->text = (struct buf)BUF_INIT(256 << 20);
    *ret = (struct round_result){0};
    int rc = setup(r, e);
    while (rc == 0 && !r->finished) {
        rc = loop_step(r->l, NS_PER_S, e);
        if (rc == 0 && !r->finished) {
            blow_next(r);
            advance(r);
        }
    }
    if (rc == 0 && !r->failed) {
        reader_judge(r);
        rc = check_file(r, e);
        rc = rc < 0 || r->failed ? rc : maint_restore(r, e);
    } else {
        leave(r);
    }
    if (rc == 0 && (rc = buf_ok(&r->text)) == 0) {
        rc = lin_check(buf_view(&r->text), &ret->v, e);
    }
    if (r->server.ctl) {
        ret->n_power = r->server.ctl->n_power;
        ret->n_moved = r->server.ctl->n_moved;
        ret->n_failed_calls = r->server.ctl->n_failed;
        ret->n_lost_pages = r->server.ctl->n_lost + r->server.ctl->n_dropped;
    }
    ret->n_restored = r->maint.has_shot;
    ret->n_slow_syncs = r->wait.n_syncs;
    ret->n_stalls = r->wait.n_stalls;
    ret->n_starts = r->server.n_starts;
    ret->n_deaths = r->server.n_deaths;
    ret->failed = r->failed || ret->v.n || rc < 0;
    memcpy(ret->why, r->why, sizeof(ret->why));
    if (ret->failed || r->o.keep_all) {
        keep_history(r, ret);
    }
    server_fini(&r->server);
    if (r->l) {
        loop_free(r->l);
    }
    struct err ignored = ERR_INIT;
    IGNORE_ERR(sys_rmtree(AT_FDCWD, r->dir, &ignored), "the folder is a temporary one");
    maint_fini(r);
    buf_fini(&r->text);
    free(r);
    return rc;
}
