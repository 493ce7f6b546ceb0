/* kfarm-lin: rounds of a hurt store, judged; or a kept history judged again. Prints TAP. */
#include "internal/lin/lin_run.h"

#include "internal/base/rand.h"
#include "internal/log/log.h"
#include "internal/sys/sys.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static int usage(void) {
    fputs("kfarm-lin run KFARM FAULTY-STORE KEEP-DIR SEED ROUNDS [SCENARIO…]   so many rounds of "
          "each scenario; keep=all: keeps every history\n"
          "kfarm-lin check HISTORY…\n",
          stderr);
    return 2;
}

static void print_findings(const struct lin_verdict *v) {
    for (size_t i = 0; i < v->n && i < LIM_LIN_FINDINGS; i++) {
        printf("#   line %zu: %s: %s\n", v->v[i].line, lin_rule_name(v->v[i].rule), v->v[i].text);
    }
}

static int check_files(int argc, char **argv) {
    int bad = 0;
    for (int i = 0; i < argc; i++) {
        AUTO(buf) struct buf b = BUF_INIT((size_t)1 << 30);
        struct lin_verdict v;
        struct err e = ERR_INIT;
        if (sys_file_read(AT_FDCWD, argv[i], &b, &e) < 0 || lin_check(buf_view(&b), &v, &e) < 0) {
            printf("%s: %s\n", argv[i], e.msg);
            bad++;
            continue;
        }
        printf("%s: %zu findings in %zu operations, %lld revisions, %zu watched events\n", argv[i],
               v.n, v.n_ops, (long long)v.revs, v.n_events);
        print_findings(&v);
        bad += v.n != 0;
    }
    return bad != 0;
}

struct sum {
    unsigned long ops, acked, open, events, starts, power, failed_calls, lost_pages, moved,
        slow_syncs, stalls, restored;
    unsigned bad;
};

static void add(struct sum *s, const struct round_result *r) {
    s->ops += r->v.n_ops;
    s->acked += r->v.n_acked;
    s->open += r->v.n_open;
    s->events += r->v.n_events;
    s->starts += r->n_starts;
    s->power += r->n_power;
    s->failed_calls += r->n_failed_calls;
    s->lost_pages += r->n_lost_pages;
    s->moved += r->n_moved;
    s->restored += r->n_restored;
    s->slow_syncs += r->n_slow_syncs;
    s->stalls += r->n_stalls;
}

enum { REPORTED = 3, TOLD = 4 }; /* failed rounds of a scenario, findings of a round */

/* The first line repeats it: as a TAP reader has it, after "not ok". */
static void report(struct buf *b, const struct lin_opts *o, const struct round_result *r,
                   const struct err *e) {
    const char *name = lin_scenario_names[o->scenario];
    long long seed = (long long)o->seed;
    buf_fmt(b, "# seed %lld: %s%s%s\n", seed, r->why, e->code ? e->msg : "",
            r->v.n ? " its history is wrong:" : "");
    for (size_t i = 0; i < r->v.n && i < TOLD; i++) {
        buf_fmt(b, "#   line %zu: %s: %s\n", r->v.v[i].line, lin_rule_name(r->v.v[i].rule),
                r->v.v[i].text);
    }
    buf_fmt(b,
            "#   %zu findings; kfarm-lin check %s; once more: kfarm-lin run %s %s %s %lld %s=1\n",
            r->v.n, r->history, o->kfarm, o->faulty, o->keep, seed, name);
}

/* After three failed rounds of a scenario the rest of it would tell nothing new. */
static bool scenario(struct lin_opts *o, unsigned rounds, unsigned no) {
    struct sum s = {0};
    uint64_t first = o->seed, from = clock_ns();
    unsigned done = 0;
    AUTO(buf) struct buf reports = BUF_INIT(1 << 20);
    for (; done < rounds && s.bad < REPORTED; done++, o->seed++) {
        struct round_result r;
        struct err e = ERR_INIT;
        int rc = round_run(o, &r, &e);
        add(&s, &r);
        if (rc < 0 || r.failed) {
            s.bad++;
            if (o->scenario != LIN_S_LIE) {
                report(&reports, o, &r, &e);
            } else if (r.history[0]) {
                unlink(r.history);
            }
        }
    }
    bool good = o->scenario == LIN_S_LIE ? s.bad > 0 : s.bad == 0;
    printf("%s %u store %s: %u rounds of %s from seed %llu\n", !good ? "not ok" : "ok", no,
           lin_scenario_names[o->scenario], done,
           o->scenario == LIN_S_KILL || o->scenario == LIN_S_STOP ? o->kfarm : o->faulty,
           (unsigned long long)first);
    fwrite(reports.p, 1, reports.n, stdout);
    printf("#   %lu operations, %lu of unknown outcome, %lu watched events, %lu starts; %lu power "
           "losses, "
           "%lu failed calls, %lu pages lost, %lu checkpointed, %lu snapshots restored; %.1f s\n",
           s.ops, s.open, s.events, s.starts, s.power, s.failed_calls, s.lost_pages, s.moved,
           s.restored, (double)(clock_ns() - from) / 1e9);
    if (s.slow_syncs) {
        printf("#   reads stood still in %lu of %lu slow syncs\n", s.stalls, s.slow_syncs);
    }
    fflush(stdout);
    o->seed = first;
    return good;
}

/* "power=40": rounds of a scenario. */
static int parse(struct span arg, int *ret_scenario, unsigned *ret_rounds) {
    struct span name;
    uint64_t n;
    if (!span_next(&arg, '=', &name) || span_to_u64(arg, 0, 1000000, &n) < 0) {
        return -ERR_INVALID;
    }
    for (int k = 0; k < LIN_S_MAX_; k++) {
        if (span_eq_str(name, lin_scenario_names[k])) {
            *ret_scenario = k;
            *ret_rounds = (unsigned)n;
            return 0;
        }
    }
    return -ERR_INVALID;
}

int main(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN);
    if (argc >= 3 && str_eq(argv[1], "check")) {
        return check_files(argc - 2, argv + 2);
    }
    struct lin_opts o = {0};
    if (argc < 7 || !str_eq(argv[1], "run") ||
        span_to_u64(span_str(argv[5]), 1, UINT64_MAX / 2000, &o.seed) < 0) {
        return usage();
    }
    struct lin_pems pems = {0};
    struct err e = ERR_INIT;
    if (lin_pems_make(&pems, &e) < 0) {
        fprintf(stderr, "%s\n", e.msg);
        return 1;
    }
    o.pems = &pems;
    log_init("lin", LOG_LVL_ERROR, false);
    o.kfarm = argv[2];
    o.faulty = argv[3];
    o.keep = argv[4];
    bool fine = true;
    unsigned no = 0;
    for (int i = 6; i < argc; i++) {
        int which;
        unsigned rounds;
        if (span_starts(span_str(argv[i]), "kfarm=")) {
            o.kfarm = argv[i] + 6;
            continue;
        }
        if (str_eq(argv[i], "keep=all")) {
            o.keep_all = true;
            continue;
        }
        if (parse(span_str(argv[i]), &which, &rounds) < 0) {
            return usage();
        }
        o.scenario = (enum lin_scenario)which;
        fine &= scenario(&o, rounds, ++no);
    }
    lin_pems_fini(&pems);
    printf("1..%u\n", no);
    return fine ? 0 : 1;
}
