/* engine: figures of the store's engine alone, in process: `build/bench-engine DIR MODE [ARG…]`, one line per figure.
 *
 *   put CLIENTS N KEYS BYTES      N puts of random keys, CLIENTS of them under way at any time
 *   fill N BYTES                  N keys, 1,000 puts a commit
 *   history N KEYS BYTES CLIENTS  N revisions over KEYS keys, with figures along the way, then compaction and defragmentation
 *                                 beside so many clients that put
 *   lease N                       grant, restart, keep alive, expire N leases
 *   open                          opens what is in DIR, reads one key
 */
#include "internal/store/store_engine.h"

#include "internal/base/rand.h"

#include <fcntl.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

struct bench {
    struct loop *l;
    struct store *s;
    int dirfd;
    uint8_t value[65536];
    uint32_t keys, bytes;
    uint64_t left, out, clients, done;
    uint64_t *ns; /* latency of each put */
    size_t n_ns, cap_ns;
    uint64_t seed;
};

static _Noreturn void die(const char *what, const struct err *e) {
    fprintf(stderr, "engine: %s: %s\n", what, e ? e->msg : "");
    exit(1);
}

static uint64_t next_rand(struct bench *b) {
    b->seed = b->seed * 6364136223846793005ull + 1442695040888963407ull;
    return b->seed >> 20;
}

static uint64_t number(const char *s) {
    uint64_t v;
    if (span_to_u64(span_str(s), 0, (uint64_t)1 << 40, &v) < 0) {
        die(s, NULL);
    }
    return v;
}

static double seconds(uint64_t ns) {
    return (double)ns / 1e9;
}

static uint64_t cpu_ns(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * NS_PER_S +
           (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1000;
}

static uint64_t status_kib(const char *field) {
    char line[128];
    uint64_t v = 0;
    FILE *f = fopen("/proc/self/status", "re");
    while (f && fgets(line, sizeof(line), f)) {
        if (strncmp(line, field, strlen(field)) == 0) {
            struct span s = span_str(line + strlen(field));
            s = span_trim(s);
            size_t n = 0;
            while (n < s.n && s.p[n] >= '0' && s.p[n] <= '9') {
                n++;
            }
            IGNORE_ERR(span_to_u64(span_of(s.p, n), 0, UINT32_MAX, &v), "0 then");
        }
    }
    if (f) {
        fclose(f);
    }
    return v;
}

static uint64_t file_kib(struct bench *b, const char *name) {
    struct stat st;
    return fstatat(b->dirfd, name, &st, 0) == 0 ? (uint64_t)st.st_size / 1024 : 0;
}

static void open_store(struct bench *b) {
    struct err e = ERR_INIT;
    struct store_opts o = {.quota_bytes = (uint64_t)16 << 30};
    if (store_open(b->l, b->dirfd, "store.db", &o, &b->s, &e) < 0) {
        die("opening", &e);
    }
}

static void step(struct bench *b) {
    struct err e = ERR_INIT;
    if (loop_step(b->l, NS_PER_S, &e) < 0) {
        die("loop", &e);
    }
}

struct client {
    struct bench *b;
    uint64_t t0;
};

static void put_next(struct client *c);

static void put_done(void *ctx, struct store_txn *t, int rc, const struct err *e) {
    struct client *c = ctx;
    (void)t;
    if (rc < 0) {
        die("put", e);
    }
    c->b->out--;
    c->b->done++;
    if (c->b->n_ns < c->b->cap_ns) {
        c->b->ns[c->b->n_ns++] = clock_ns() - c->t0;
    }
    put_next(c);
}

static void put_next(struct client *c) {
    struct bench *b = c->b;
    char k[32];
    if (!b->left) {
        return;
    }
    b->left--;
    b->out++;
    IGNORE_ERR(str_put(k, sizeof(k), "/bench/key/%010u", (unsigned)(next_rand(b) % b->keys)),
               "fits");
    memcpy(b->value, &b->seed, sizeof(b->seed));
    struct store_txn *t = store_txn_new(0);
    store_txn_put(t, &t->body.then, span_str(k), span_of(b->value, b->bytes), 0);
    c->t0 = clock_ns();
    store_txn(b->s, t, put_done, c);
}

static int cmp_u64(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void puts_run(struct bench *b, uint64_t clients, uint64_t n, const char *name) {
    struct client *c = mem_zero_alloc(sizeof(*c) * clients);
    uint64_t t0 = clock_ns(), c0 = cpu_ns(), wal = 0;
    struct store_stat st0, st;
    store_stat(b->s, &st0);
    b->left = n;
    b->n_ns = 0;
    b->cap_ns = n;
    b->ns = mem_zero_alloc(n * sizeof(uint64_t));
    for (uint64_t i = 0; i < clients; i++) {
        c[i].b = b;
        put_next(&c[i]);
    }
    for (uint64_t turn = 0; b->out; turn++) {
        step(b);
        if (turn % 64 == 0) {
            uint64_t now = file_kib(b, "store.db-wal");
            wal = now > wal ? now : wal;
        }
    }
    uint64_t took = clock_ns() - t0, cpu = cpu_ns() - c0;
    store_stat(b->s, &st);
    qsort(b->ns, b->n_ns, sizeof(uint64_t), cmp_u64);
    printf(
        "%-24s %9.0f /s  p50 %.3f p99 %.3f p99.9 %.3f max %.3f ms  cpu %.1f us each  commits %llu  "
        "wal max %llu KiB  db %llu KiB  rss %llu KiB\n",
        name, (double)n / seconds(took), seconds(b->ns[n / 2]) * 1e3,
        seconds(b->ns[n * 99 / 100]) * 1e3, seconds(b->ns[n * 999 / 1000]) * 1e3,
        seconds(b->ns[n - 1]) * 1e3, (double)cpu / 1e3 / (double)n,
        (unsigned long long)(st.n_commits - st0.n_commits), (unsigned long long)wal,
        (unsigned long long)file_kib(b, "store.db"), (unsigned long long)status_kib("VmRSS:"));
    fflush(stdout);
    free(TAKE(b->ns));
    free(c);
}

static void fill(struct bench *b, uint64_t n) {
    uint64_t t0 = clock_ns();
    b->keys = UINT32_MAX;
    for (uint64_t at = 0; at < n;) {
        for (int i = 0; i < 1000 && at < n; i++, at++) {
            char k[32];
            IGNORE_ERR(str_put(k, sizeof(k), "/bench/key/%010u", (unsigned)(at * 2654435761u)),
                       "fits");
            memcpy(b->value, &at, sizeof(at));
            struct store_txn *t = store_txn_new(0);
            store_txn_put(t, &t->body.then, span_str(k), span_of(b->value, b->bytes), 0);
            static struct client quiet;
            quiet.b = b;
            b->left = 0;
            b->out++;
            store_txn(b->s, t, put_done, &quiet);
        }
        while (b->out) {
            step(b);
        }
    }
    printf("fill                     %9.0f /s  db %llu KiB  rss %llu KiB peak %llu KiB\n",
           (double)n / seconds(clock_ns() - t0), (unsigned long long)file_kib(b, "store.db"),
           (unsigned long long)status_kib("VmRSS:"), (unsigned long long)status_kib("VmHWM:"));
}

static void idle(struct bench *b, unsigned secs) {
    uint64_t until = clock_ns() + secs * NS_PER_S;
    while (clock_ns() < until) {
        step(b);
    }
    printf("after %u s idle           db %llu KiB  wal %llu KiB  rss %llu KiB\n", secs,
           (unsigned long long)file_kib(b, "store.db"),
           (unsigned long long)file_kib(b, "store.db-wal"),
           (unsigned long long)status_kib("VmRSS:"));
    fflush(stdout);
}

/* ---- history ---- */

static void read_at(struct bench *b, const char *key, const char *end, int64_t rev, int times,
                    const char *name) {
    uint64_t t0 = clock_ns();
    size_t n = 0;
    for (int i = 0; i < times; i++) {
        struct arena a = ARENA_INIT((size_t)1 << 30);
        struct store_range_req q = {.key = span_str(key), .end = span_str(end), .rev = rev};
        struct store_range_res r;
        struct err e = ERR_INIT;
        if (store_range(b->s, &q, &a, &r, &e) < 0) {
            die(name, &e);
        }
        n = r.n;
        arena_fini(&a);
    }
    printf("  %-36s %10.1f us  (%zu keys)\n", name, (double)(clock_ns() - t0) / 1e3 / times, n);
    fflush(stdout);
}

static size_t seen;
static int count_events(void *ctx, struct store_watch *w, const struct store_watch_msg *m) {
    (void)ctx;
    (void)w;
    if (m->kind == STORE_WATCH_CANCELLED) {
        die("watch cancelled", NULL);
    }
    seen += m->n;
    return 0;
}

static void watch_from(struct bench *b, int64_t rev, const char *name) {
    uint8_t zero = 0;
    struct store_watch_req q = {
        .key = span_of(&zero, 1), .end = span_of(&zero, 1), .start_rev = rev};
    struct store_watch *w;
    struct err e = ERR_INIT;
    uint64_t t0 = clock_ns();
    seen = 0;
    if (store_watch_start(b->s, &q, count_events, NULL, &w, &e) < 0) {
        die("watch", &e);
    }
    while (store_watch_next_rev(w) <= store_rev(b->s)) {
        step(b);
    }
    printf("  %-36s %10.1f ms  (%zu events)\n", name, (double)(clock_ns() - t0) / 1e6, seen);
    store_watch_stop(w);
}

static bool flag;
static void simple_done(void *ctx, int rc, const struct err *e) {
    (void)ctx;
    if (rc < 0) {
        die("request", e);
    }
    flag = true;
}

static void figures(struct bench *b) {
    int64_t rev = store_rev(b->s), oldest = store_compact_rev(b->s);
    oldest = oldest > 2 ? oldest : 2;
    read_at(b, "/bench/key/0000000001", "", 0, 1000, "get now");
    read_at(b, "/hot", "", 0, 1000, "get the hot key now");
    read_at(b, "/hot", "", oldest, 20, "get the hot key at the oldest");
    read_at(b, "/hot", "", rev - (rev - oldest) / 2, 20, "get the hot key half way");
    read_at(b, "/bench/", "/bench0", 0, 5, "range of all now");
    read_at(b, "/bench/", "/bench0", rev - (rev - oldest) / 10, 5, "range of all, 10% back");
    read_at(b, "/bench/", "/bench0", rev - (rev - oldest) / 2, 5, "range of all half way");
    watch_from(b, rev > 20000 + oldest ? rev - 20000 : oldest, "watch from 20,000 revisions back");
}

/* Every tenth put is of one hot key. */
static void history_part(struct bench *b, uint64_t n) {
    uint64_t t0 = clock_ns(), c0 = cpu_ns();
    for (uint64_t at = 0; at < n;) {
        for (int i = 0; i < 200 && at < n; i++, at++) {
            char k[32];
            IGNORE_ERR(
                str_put(k, sizeof(k), "/bench/key/%010u", (unsigned)(next_rand(b) % b->keys)),
                "fits");
            memcpy(b->value, &b->seed, sizeof(b->seed));
            struct store_txn *t = store_txn_new(0);
            store_txn_put(t, &t->body.then, at % 10 ? span_str(k) : SPAN_LIT("/hot"),
                          span_of(b->value, b->bytes), 0);
            static struct client quiet;
            quiet.b = b;
            b->out++;
            store_txn(b->s, t, put_done, &quiet);
        }
        while (b->out) {
            step(b);
        }
    }
    printf("%llu revisions: %.0f puts/s, cpu %.1f us each, db %llu KiB, rss %llu KiB\n",
           (unsigned long long)store_rev(b->s), (double)n / seconds(clock_ns() - t0),
           (double)(cpu_ns() - c0) / 1e3 / (double)n, (unsigned long long)file_kib(b, "store.db"),
           (unsigned long long)status_kib("VmRSS:"));
    fflush(stdout);
}

/* Puts of so many clients for three seconds or, with UINT64_MAX, until the request that is out is answered. */
static void beside(struct bench *b, uint64_t clients, uint64_t most, const char *name) {
    struct client *c = mem_zero_alloc(sizeof(*c) * clients);
    uint64_t t0 = clock_ns(), c0 = cpu_ns(), wal = 0;
    b->left = UINT64_MAX;
    b->n_ns = 0;
    b->cap_ns = 20000000;
    b->ns = mem_zero_alloc(b->cap_ns * sizeof(uint64_t));
    for (uint64_t i = 0; i < clients; i++) {
        c[i].b = b;
        put_next(&c[i]);
    }
    for (uint64_t turn = 0; most ? !flag : clock_ns() - t0 < 3 * NS_PER_S; turn++) {
        step(b);
        if (turn % 64 == 0) {
            uint64_t now = file_kib(b, "store.db-wal");
            wal = now > wal ? now : wal;
        }
    }
    flag = false;
    uint64_t took = clock_ns() - t0, cpu = cpu_ns() - c0;
    b->left = 0;
    while (b->out) {
        step(b);
    }
    qsort(b->ns, b->n_ns, sizeof(uint64_t), cmp_u64);
    printf("%-24s %6.2f s, cpu %.2f s, %8.0f /s  p50 %.3f p99 %.3f p99.9 %.3f max %.3f ms  wal max "
           "%llu KiB  db %llu KiB\n",
           name, seconds(took), seconds(cpu), (double)b->n_ns / seconds(took),
           seconds(b->ns[b->n_ns / 2]) * 1e3, seconds(b->ns[b->n_ns * 99 / 100]) * 1e3,
           seconds(b->ns[b->n_ns * 999 / 1000]) * 1e3, seconds(b->ns[b->n_ns - 1]) * 1e3,
           (unsigned long long)wal, (unsigned long long)file_kib(b, "store.db"));
    fflush(stdout);
    free(TAKE(b->ns));
    b->cap_ns = b->n_ns = 0;
    free(c);
}

static void history(struct bench *b, uint64_t n, uint64_t clients) {
    for (int part = 1; part <= 4; part++) {
        history_part(b, part == 1 ? n / 100 : part == 2 ? n / 10 - n / 100 : n * 45 / 100);
        figures(b);
    }
    beside(b, clients, 0, "puts before");
    store_compact(b->s, store_rev(b->s) - (int64_t)b->keys, true, simple_done, NULL);
    beside(b, clients, UINT64_MAX, "puts beside compaction");
    beside(b, clients, 0, "puts after");
    figures(b);
    store_defrag(b->s, simple_done, NULL);
    beside(b, clients, UINT64_MAX, "puts beside defragment");
    idle(b, 5);
    beside(b, clients, 0, "puts after");
    history_part(b, n / 100);
}

/* ---- leases ---- */

static uint64_t granted;
static void lease_done(void *ctx, int rc, int64_t id, int64_t ttl, const struct err *e) {
    (void)ctx;
    (void)id;
    (void)ttl;
    if (rc < 0) {
        die("grant", e);
    }
    granted++;
}

static void leases(struct bench *b, uint64_t n) {
    uint64_t t0 = clock_ns();
    for (uint64_t i = 1; i <= n; i++) {
        store_lease_grant(b->s, (int64_t)i, 20, lease_done, NULL);
        if (i % 1000 == 0 || i == n) {
            while (granted < i) {
                step(b);
            }
        }
    }
    printf("grant                    %9.0f /s  rss %llu KiB\n",
           (double)n / seconds(clock_ns() - t0), (unsigned long long)status_kib("VmRSS:"));
    t0 = clock_ns();
    store_close(b->s);
    open_store(b);
    printf("restart with them        %9.1f ms  rss %llu KiB\n", seconds(clock_ns() - t0) * 1e3,
           (unsigned long long)status_kib("VmRSS:"));
    step(b);
    t0 = clock_ns();
    for (uint64_t i = 1; i <= n; i++) {
        int64_t ttl;
        struct err e = ERR_INIT;
        if (store_lease_keepalive(b->s, (int64_t)i, NULL, NULL, &ttl, &e) < 0) {
            die("keepalive", &e);
        }
    }
    printf("keepalive                %9.0f /s\n", (double)n / seconds(clock_ns() - t0));
    struct store_stat st;
    uint64_t slowest = 0, first = 0;
    do {
        uint64_t s0 = clock_ns();
        step(b);
        store_stat(b->s, &st);
        if (!first && st.n_leases < n) {
            first = s0;
        }
        if (first && clock_ns() - s0 < NS_PER_S / 2) {
            slowest = clock_ns() - s0 > slowest ? clock_ns() - s0 : slowest;
        }
    } while (st.n_leases);
    printf(
        "expiry of all            %9.2f s   slowest turn of the loop %.1f ms  peak rss %llu KiB\n",
        seconds(clock_ns() - first), seconds(slowest) * 1e3,
        (unsigned long long)status_kib("VmHWM:"));
}

int main(int argc, char **argv) {
    static struct bench bench;
    struct bench *b = &bench;
    struct err e = ERR_INIT;
    if (argc < 3) {
        fprintf(stderr, "usage: %s DIR MODE [ARG...]: see the source\n", argv[0]);
        return 2;
    }
    uint64_t arg[4] = {0};
    for (int i = 3; i < argc && i < 7; i++) {
        arg[i - 3] = number(argv[i]);
    }
    b->seed = 1;
    for (size_t i = 0; i < sizeof(b->value); i += 8) {
        uint64_t v = next_rand(b);
        memcpy(b->value + i, &v, 8);
    }
    b->dirfd = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (b->dirfd < 0 || loop_new(&b->l, &e) < 0) {
        die(argv[1], &e);
    }
    uint64_t t0 = clock_ns();
    open_store(b);
    const char *mode = argv[2];
    if (str_eq(mode, "put")) {
        b->keys = (uint32_t)arg[2];
        b->bytes = (uint32_t)arg[3];
        char name[64];
        IGNORE_ERR(str_put(name, sizeof(name), "put, %llu clients", (unsigned long long)arg[0]),
                   "fits");
        puts_run(b, arg[0], arg[1], name);
    } else if (str_eq(mode, "fill")) {
        b->bytes = (uint32_t)arg[1];
        fill(b, arg[0]);
        idle(b, 6);
    } else if (str_eq(mode, "history")) {
        b->keys = (uint32_t)arg[1];
        b->bytes = (uint32_t)arg[2];
        history(b, arg[0], arg[3] ? arg[3] : 1);
    } else if (str_eq(mode, "lease")) {
        leases(b, arg[0]);
    } else if (str_eq(mode, "idle")) {
        idle(b, 5);
    } else if (str_eq(mode, "open")) {
        printf("open                     %9.2f ms  rss %llu KiB\n", seconds(clock_ns() - t0) * 1e3,
               (unsigned long long)status_kib("VmRSS:"));
    } else {
        die("unknown mode", NULL);
    }
    t0 = clock_ns();
    store_close(b->s);
    printf("close                    %9.2f ms\n", seconds(clock_ns() - t0) * 1e3);
    loop_free(b->l);
    close(b->dirfd);
    return 0;
}
