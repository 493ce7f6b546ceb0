/* What is done to the server, and when. */
#include "internal/lin/lin_run.h"

#include "internal/base/rand.h"

#include <signal.h>

const char *const lin_scenario_names[LIN_S_MAX_] = {
    "kill", "stop", "power", "sync", "space", "slow", "drag", "lag", "clock", "users", "lie"};

static void fire(struct loop_timer *t);

static void arm(struct round *r, uint32_t within_us) {
    loop_timer_start(r->l, &r->nemesis, (uint64_t)round_luck(r, within_us) * 1000, fire,
                     "lin-blow");
}

static void note(struct round *r, const char *what, long n) {
    buf_fmt(&r->text, "note blow: %s %ld\n", what, n);
}

static void landed(struct round *r) {
    r->blows_left -= r->blows_left > 0;
}

static void clear(struct fault_ctl *c) {
    c->write_rate = c->sync_rate = c->read_rate = c->tear_rate = 0;
    c->delay_rate = c->full = c->read_only = c->die_after = c->drag_left = 0;
}

static void kill_or_stop(struct round *r) {
    switch (round_luck(r, 6)) {
    case 0: /* its orderly end, with its checkpoint, is cut short */
        note(r, "SIGTERM", 0);
        r->server.terming = true;
        server_kill(&r->server, SIGTERM);
        r->then_kill = true;
        arm(r, 4000);
        break;
    default:
        note(r, "SIGKILL", 0);
        server_kill(&r->server, SIGKILL);
        landed(r);
        break;
    }
}

static void stop(struct round *r) {
    if (r->pausing) {
        note(r, "SIGCONT", 0);
        server_kill(&r->server, SIGCONT);
        r->pausing = false;
        landed(r);
    } else {
        note(r, "SIGSTOP", 0);
        server_kill(&r->server, SIGSTOP);
        r->pausing = true;
        arm(r, 40000);
    }
}

static void power(struct round *r) {
    struct fault_ctl *c = r->server.ctl;
    if (!c->die_after) {
        c->death = round_luck(r, 4) ? FAULT_POWER : FAULT_KILL;
        c->die_after = 1 + round_luck(r, round_luck(r, 3) ? 300 : 12);
        note(r, "dies after so many calls:", (long)c->die_after);
        landed(r);
        if (round_luck(r, 5) == 0) { /* its orderly end has many of them */
            r->server.terming = true;
            server_kill(&r->server, SIGTERM);
        }
    }
}

static bool broken_now(const struct fault_ctl *c) {
    return c->write_rate || c->sync_rate || c->read_rate;
}

static void broken(struct round *r) {
    static const uint32_t errors[] = {5 /* EIO */, 28 /* ENOSPC */, 30 /* EROFS */};
    struct fault_ctl *c = r->server.ctl;
    if (broken_now(c)) {
        if (round_luck(r, 2)) { /* in the middle of it */
            c->death = round_luck(r, 3) ? FAULT_POWER : FAULT_KILL;
            c->die_after = 1 + round_luck(r, 10);
            note(r, "dies after so many calls:", (long)c->die_after);
        }
        c->write_rate = c->sync_rate = c->read_rate = 0;
        note(r, "the disk is well", 0);
        landed(r);
        return;
    }
    uint32_t kind = round_luck(r, 5),
             rate = round_luck(r, 2) ? 30000 + round_luck(r, 200000) : FAULT_ALWAYS;
    c->write_errno = errors[round_luck(r, ARRAY_LEN(errors))];
    c->tear_rate = round_luck(r, 2) ? 500000 : 0;
    c->sync_rate = kind != 0 && kind != 4 ? rate : 0;
    c->write_rate = kind == 0 || kind == 3 ? rate : 0;
    c->read_rate = kind == 4 ? rate / (1 + round_luck(r, 10)) : 0;
    r->server.troubled = true;
    note(r, "the disk fails", (long)kind);
    arm(r, 20000);
}

static void space(struct round *r) {
    struct fault_ctl *c = r->server.ctl;
    if (c->full || c->read_only) {
        c->full = c->read_only = 0;
        note(r, "the disk is well", 0);
        landed(r);
        return;
    }
    c->read_only = round_luck(r, 3) == 0;
    c->full = !c->read_only;
    r->server.troubled = true;
    note(r, c->full ? "the disk is full" : "the disk is read-only", 0);
    if (round_luck(r, 4) == 0) {
        note(r, "SIGKILL", 0);
        server_kill(&r->server, SIGKILL);
    }
    arm(r, 30000);
}

static void slow(struct round *r) {
    struct fault_ctl *c = r->server.ctl;
    c->delay_us = 500 + round_luck(r, 3000);
    c->delay_rate = round_luck(r, 200000);
    note(r, "calls take longer", (long)c->delay_us);
    if (round_luck(r, 3) == 0) {
        kill_or_stop(r);
    } else {
        landed(r);
    }
}

static void drag(struct round *r) {
    struct fault_ctl *c = r->server.ctl;
    c->drag_us =
        1000u << (round_luck(r, 4) ? 6 + round_luck(r, 4) : round_luck(r, 6)); /* 1 to 512 ms */
    c->drag_left = 1 + (800000 + round_luck(r, 400000)) / c->drag_us;
    note(r, "syncs take us:", (long)c->drag_us);
    landed(r);
    if (round_luck(r, 8) == 0) {
        note(r, "SIGKILL", 0);
        server_kill(&r->server, SIGKILL);
    }
}

static void clocks(struct round *r) {
    struct fault_ctl *c = r->server.ctl;
    if (round_luck(r, 2)) {
        c->wall_ms = (int64_t)round_luck(r, 2000000000) - 1000000000;
        note(r, "the wall clock is off by seconds:", (long)(c->wall_ms / 1000));
    } else {
        c->mono_ms += round_luck(r, r->long_leases ? 250000 : 2500);
        note(r, "the clock is ahead by ms:", (long)c->mono_ms);
    }
    landed(r);
    if (round_luck(r, 6) == 0) {
        server_kill(&r->server, SIGKILL);
        note(r, "SIGKILL", 0);
    }
}

static void fire(struct loop_timer *t) {
    struct round *r = CONTAINER_OF(t, struct round, nemesis);
    if (r->then_kill) {
        r->then_kill = false;
        note(r, "SIGKILL", 0);
        server_kill(&r->server, SIGKILL);
        landed(r);
        return;
    }
    if (!r->blows_left || r->finished) {
        return;
    }
    if (round_luck(r, 3) == 0) {
        maint_next(r);
    }
    switch (r->o.scenario) {
    case LIN_S_KILL: kill_or_stop(r); break;
    case LIN_S_STOP: stop(r); break;
    case LIN_S_POWER:
    case LIN_S_LIE: power(r); break;
    case LIN_S_SYNC: broken(r); break;
    case LIN_S_SPACE: space(r); break;
    case LIN_S_SLOW: slow(r); break;
    case LIN_S_DRAG: drag(r); break;
    case LIN_S_CLOCK: clocks(r); break;
    case LIN_S_LAG:
        if (broken_now(r->server.ctl) || round_luck(r, 4) == 0) {
            broken(r);
        } else {
            slow(r);
        }
        break;
    case LIN_S_USERS:
        switch (broken_now(r->server.ctl) ? 2 : round_luck(r, 3)) {
        case 0: kill_or_stop(r); break;
        case 1: power(r); break;
        default: broken(r); break;
        }
        break;
    case LIN_S_MAX_: break;
    }
}

void blow_next(struct round *r) {
    if (r->blows_left && !r->ending && !loop_timer_active(&r->nemesis)) {
        if ((r->o.scenario == LIN_S_DRAG && r->server.ctl->drag_left) ||
            (r->users.on && !r->users.made)) {
            return;
        }
        /* At work mostly, sometimes while it starts. */
        if (r->server.state == SERVER_UP || round_luck(r, 3) == 0) {
            arm(r, r->server.state == SERVER_UP ? 30000 : 8000);
        }
    }
}

/* The end of all trouble, and often one last death after it: what was acknowledged must have reached the disk by itself. */
void blow_heal(struct round *r) {
    loop_timer_stop(&r->nemesis);
    if (r->pausing) {
        server_kill(&r->server, SIGCONT);
        r->pausing = false;
    }
    if (r->server.ctl) {
        clear(r->server.ctl);
    }
    if (round_luck(r, 2)) {
        note(r, "SIGKILL at the end", 0);
        server_kill(&r->server, SIGKILL);
    }
}
