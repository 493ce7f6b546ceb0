/* etcdload: loads a server of etcd's v3 API and prints what it measured as one line of JSON.
 *
 *   etcdload ADDRESS SCENARIO [name=number …]
 *
 * Closed loops: put, get, mixed, range, count, page, list, churn, lease, keepalive: `conns` connections with `streams` calls at a time on
 * each, for `seconds` (after `warm` ms) or `count` operations. fill and history: transactions of `batch` puts, `count` keys
 * in all (history: over `keys` keys). watch: `watches` on `wconns` connections, `wper` on a stream, while `rate` puts a
 * second are sent at their time, whatever the server does; its latency is from that time to the event at the watcher.
 * catchup: the watches start at revision `from`, `count` events back, and are timed until each has had all of them.
 * count: as of revision `from`, if it is given.
 * With pid=N the CPU time of that process is reported, in seconds per 1,000 operations. */
#include "scripts/bench/load.h"

#include "internal/base/rand.h"
#include "internal/wire/wire.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define KV "/etcdserverpb.KV/"
#define LEASE "/etcdserverpb.Lease/"

static struct args {
    const char *address, *scenario;
    uint64_t conns, streams, seconds, warm, count, keys, value, batch, rate, reads, watches, wconns,
        wper, objects, from, pid;
} A = {.conns = 1,
       .streams = 1,
       .seconds = 5,
       .warm = 500,
       .keys = 100000,
       .value = 256,
       .batch = 100,
       .rate = 1000,
       .reads = 80,
       .wconns = 1,
       .wper = 1,
       .objects = 10000};

/* ---- latencies: 64 buckets an octave ---- */

enum { SUB = 64, BUCKETS = 64 * SUB };
struct hist {
    uint64_t n[BUCKETS], all, max;
};
static void hist_add(struct hist *h, uint64_t ns) {
    unsigned octave = ns < SUB ? 0 : 63 - (unsigned)__builtin_clzll(ns) - 5;
    uint64_t at = octave ? octave * SUB + (ns >> octave) - SUB / 2 : ns;
    h->n[at < BUCKETS ? at : BUCKETS - 1]++;
    h->all++;
    h->max = ns > h->max ? ns : h->max;
}
static double hist_ms(const struct hist *h, double part) {
    uint64_t seen = 0, want = (uint64_t)(part * (double)h->all);
    for (size_t i = 0; i < BUCKETS; i++) {
        seen += h->n[i];
        if (seen > want) {
            size_t octave = i / SUB;
            uint64_t v = octave ? (i - octave * SUB + SUB / 2) << octave : i;
            return (double)v / 1e6;
        }
    }
    return (double)h->max / 1e6;
}

/* ---- workers ---- */

struct worker {
    struct call call;
    uint64_t began, rng, step, key;
    int64_t rev;
    bool idle, read;
};

static struct hist lat, rlat,
    wlat; /* of operations; of the reads among them; of events at their watchers */
static struct buf req;
static struct worker *workers;
static size_t n_workers, n_busy;
static uint64_t counting_from, until, started, done, failed, events, expected, bytes_in;
static bool measuring, stopping;
static uint8_t *value;

static uint64_t next_random(struct worker *w) {
    w->rng ^= w->rng << 13;
    w->rng ^= w->rng >> 7;
    w->rng ^= w->rng << 17;
    return w->rng;
}

static struct span key_of(char *dst, size_t cap, const char *space, uint64_t i) {
    IGNORE_ERR(str_put(dst, cap, "/bench/%s/%09llu", space, (unsigned long long)i), "fits");
    return span_str(dst);
}

static struct span value_now(uint64_t when) {
    memcpy(value, &when, sizeof(when));
    return span_of(value, A.value);
}

static void add_put(struct buf *b, uint64_t key, uint64_t when) {
    char k[64];
    wire_bytes(b, 1, key_of(k, sizeof(k), "k", key));
    wire_bytes(b, 2, value_now(when));
}

static void add_prefix(struct buf *b, const char *space) {
    char k[64];
    IGNORE_ERR(str_put(k, sizeof(k), "/bench/%s/", space), "fits");
    wire_bytes(b, 1, span_str(k));
    k[strlen(k) - 1]++;
    wire_bytes(b, 2, span_str(k));
}

static void txn_puts(uint64_t from, uint64_t n) {
    for (uint64_t i = from; i < from + n; i++) {
        size_t op = wire_begin(&req, 2), put = wire_begin(&req, 2);
        add_put(&req, A.keys ? i % A.keys : i, i);
        wire_end(&req, put);
        wire_end(&req, op);
    }
}

/* What an API server sends: the key's mod revision is compared, then it is put or deleted. rev 0: it must not exist. */
static void guarded(const char *space, uint64_t key, int64_t rev, bool put) {
    char k[64];
    struct span name = key_of(k, sizeof(k), space, key);
    size_t m = wire_begin(&req, 1);
    wire_u64(&req, 2, 2); /* MOD */
    wire_bytes(&req, 3, name);
    wire_i64(&req, 6, rev);
    wire_end(&req, m);
    m = wire_begin(&req, 2);
    size_t op = wire_begin(&req, put ? 2 : 3);
    wire_bytes(&req, 1, name);
    if (put) {
        wire_bytes(&req, 2, value_now(clock_ns()));
    }
    wire_end(&req, op);
    wire_end(&req, m);
}

/* Returns the path of the worker's next request, which is in req, or NULL when it has none. */
static const char *make(struct worker *w) {
    const char *s = A.scenario;
    char k[64];
    buf_reset(&req);
    w->read = false;
    if (str_eq(s, "put") || str_eq(s, "get") || str_eq(s, "mixed")) {
        uint64_t key = next_random(w) % A.keys;
        w->read = str_eq(s, "get") || (str_eq(s, "mixed") && next_random(w) % 100 < A.reads);
        if (w->read) {
            wire_bytes(&req, 1, key_of(k, sizeof(k), "k", key));
            return KV "Range";
        }
        add_put(&req, key, clock_ns());
        return KV "Put";
    }
    if (str_eq(s, "range")) {
        add_prefix(&req, "k");
        return KV "Range";
    }
    if (str_eq(s, "count")) {
        add_prefix(&req, "k");
        wire_u64(&req, 4, A.from);
        wire_bool(&req, 9, true);
        return KV "Range";
    }
    if (str_eq(
            s,
            "page")) { /* as an API server lists: `batch` keys at a time, each answer with the count of the rest */
        uint64_t pages = (A.keys + A.batch - 1) / A.batch;
        wire_bytes(&req, 1, key_of(k, sizeof(k), "k", w->step++ % pages * A.batch));
        wire_bytes(&req, 2, SPAN_LIT("/bench/k0"));
        wire_u64(&req, 3, A.batch);
        return KV "Range";
    }
    if (str_eq(s, "fill") || str_eq(s, "history")) {
        uint64_t left = A.count - started, n = left < A.batch ? left : A.batch;
        if (!n) {
            return NULL;
        }
        txn_puts(started, n);
        started += n;
        w->step = n;
        return KV "Txn";
    }
    if (str_eq(s, "list")) { /* create one, list the hundred newest of the worker's namespace */
        IGNORE_ERR(str_put(k, sizeof(k), "ns%llu", (unsigned long long)(w - workers) / 10), "fits");
        if (w->step++ % 2 == 0) {
            guarded(k, started++, 0, true);
            return KV "Txn";
        }
        w->read = true;
        add_prefix(&req, k);
        wire_u64(&req, 3, 100);
        return KV "Range";
    }
    if (str_eq(s, "churn")) { /* created, updated twice, deleted */
        if (w->step % 4 == 0) {
            if (started == A.objects) {
                return NULL;
            }
            w->key = started++;
            w->rev = 0;
        }
        guarded("c", w->key, w->rev, w->step % 4 != 3);
        w->step++;
        return KV "Txn";
    }
    if (str_eq(s, "lease")) {
        if (started == A.count) {
            return NULL;
        }
        wire_u64(&req, 1, 3600);
        wire_u64(&req, 2, ++started);
        return LEASE "LeaseGrant";
    }
    load_die("unknown scenario %s", s);
}

static void go(struct worker *w) {
    const char *path = stopping ? NULL : make(w);
    w->idle = !path;
    if (!path) {
        n_busy--;
        return;
    }
    w->began = clock_ns();
    load_call(w->call.k, &w->call, path, buf_view(&req), false);
}

static void count(struct worker *w, uint64_t n) {
    if (measuring && w->began >= counting_from) {
        uint64_t took = clock_ns() - w->began;
        hist_add(&lat, took);
        if (w->read) {
            hist_add(&rlat, took);
        }
        done += n;
    }
    if (w->call.status) {
        failed++;
    }
}

static void worker_end(struct call *c) {
    struct worker *w = c->ctx;
    bool many = str_eq(A.scenario, "fill") || str_eq(A.scenario, "history");
    count(w, many ? w->step : 1);
    go(w);
}

/* The revision of a transaction's header; a comparison that failed is a failure here. */
static void worker_message(struct call *c, struct span m) {
    struct worker *w = c->ctx;
    bytes_in += measuring ? m.n : 0;
    if (!str_eq(A.scenario, "churn")) {
        return;
    }
    struct wire_field f, g;
    bool succeeded = false;
    while (wire_next(&m, &f) > 0) {
        while (f.no == 1 && wire_next(&f.bytes, &g) > 0) {
            w->rev = g.no == 3 ? (int64_t)g.v : w->rev;
        }
        succeeded |= f.no == 2 && f.v;
    }
    failed += !succeeded;
}

static void workers_new(uint64_t conns, uint64_t streams) {
    n_workers = conns * streams;
    workers = mem_zero_alloc(n_workers * sizeof(*workers));
    for (size_t i = 0; i < n_workers; i++) {
        struct worker *w = &workers[i];
        w->call.k = i % streams ? workers[i - 1].call.k : load_link(A.address);
        w->call.ctx = w;
        w->call.on_message = worker_message;
        w->call.on_end = worker_end;
        w->rng = (i + 1) * 0x9e3779b97f4a7c15ull;
        w->idle = true;
    }
}

/* ---- watchers ---- */

struct watcher { /* one stream */
    struct call call;
    uint64_t created;
};
static uint64_t created, wanted_watches;

static void watch_event(struct span ev) {
    struct wire_field f, g;
    uint64_t when;
    while (wire_next(&ev, &f) > 0) {
        while (f.no == 2 && wire_next(&f.bytes, &g) > 0) {
            if (g.no == 5 && g.bytes.n >= sizeof(when) && measuring) {
                memcpy(&when, g.bytes.p, sizeof(when));
                if (when >= counting_from) {
                    hist_add(&wlat, clock_ns() - when);
                }
            }
        }
    }
    events++;
}

static void watch_message(struct call *c, struct span m) {
    struct wire_field f;
    (void)c;
    bytes_in += measuring ? m.n : 0;
    while (wire_next(&m, &f) > 0) {
        if (f.no == 11) {
            watch_event(f.bytes);
        } else if (f.no == 3 && f.v) {
            created++;
        } else if (f.no == 4 && f.v) {
            load_die("a watch was cancelled");
        }
    }
}

static void watchers_new(const char *space) {
    uint64_t streams = A.watches / A.wper, per = streams / A.wconns;
    struct link *k = NULL;
    wanted_watches = streams * A.wper;
    for (uint64_t i = 0; i < streams; i++) {
        struct watcher *w = new_zero(struct watcher);
        k = i % (per ? per : 1) ? k : load_link(A.address);
        w->call.on_message = watch_message;
        for (uint64_t j = 0; j < A.wper; j++) {
            buf_reset(&req);
            size_t mark = wire_begin(&req, 1);
            add_prefix(&req, space);
            wire_u64(&req, 3, A.from);
            wire_end(&req, mark);
            if (j) {
                load_send(&w->call, buf_view(&req));
            } else {
                load_call(k, &w->call, "/etcdserverpb.Watch/Watch", buf_view(&req), true);
            }
        }
        load_step(0);
    }
    uint64_t limit = clock_ns() + 60 * NS_PER_S;
    while (created < wanted_watches && clock_ns() < limit) {
        load_step(limit);
    }
    if (created < wanted_watches) {
        load_die("%llu watches were created", (unsigned long long)created);
    }
}

/* ---- the server's CPU time ---- */

static double cpu_s(void) {
    char path[64], text[1024];
    IGNORE_ERR(str_put(path, sizeof(path), "/proc/%llu/stat", (unsigned long long)A.pid), "fits");
    int fd = A.pid ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text));
    if (fd >= 0) {
        close(fd);
    }
    if (n <= 0) {
        return 0;
    }
    struct span s = span_of(text, (size_t)n), word;
    uint64_t v, sum = 0;
    while (span_until(&s, ')', &word) == 0) { /* the name may hold one itself */
    }
    for (int i = 2; i < 16 && span_next(&s, ' ', &word); i++) { /* utime, stime */
        sum += (i == 14 || i == 15) && span_to_u64(word, 0, UINT64_MAX, &v) == 0 ? v : 0;
    }
    return (double)sum / (double)sysconf(_SC_CLK_TCK);
}

/* ---- running ---- */

static void await_events(uint64_t seconds) {
    uint64_t limit = clock_ns() + seconds * NS_PER_S;
    while (events < expected && clock_ns() < limit) {
        load_step(limit);
    }
}

struct result {
    double seconds, cpu;
};

static void begin_measuring(struct result *r) {
    measuring = true;
    counting_from = clock_ns();
    r->cpu = cpu_s();
}

static void drain(void) {
    uint64_t limit = clock_ns() + 120 * NS_PER_S;
    while (n_busy && clock_ns() < limit) {
        load_step(limit);
    }
    if (n_busy) {
        load_die("%zu calls were never answered", n_busy);
    }
}

static void run_closed(struct result *r) {
    bool counted = A.count || str_eq(A.scenario, "churn");
    workers_new(A.conns, A.streams);
    if (A.watches) {
        watchers_new("c");
    }
    if (counted) {
        begin_measuring(r);
    }
    n_busy = n_workers;
    for (size_t i = 0; i < n_workers; i++) {
        go(&workers[i]);
    }
    if (!counted) {
        until = clock_ns() + A.warm * NS_PER_MS;
        while (clock_ns() < until) {
            load_step(until);
        }
        begin_measuring(r);
        until = counting_from + A.seconds * NS_PER_S;
        while (clock_ns() < until) {
            load_step(until);
        }
        r->seconds = (double)(clock_ns() - counting_from) / 1e9;
        r->cpu = cpu_s() - r->cpu;
        measuring = false;
        stopping = true;
        drain();
        return;
    }
    drain();
    r->seconds = (double)(clock_ns() - counting_from) / 1e9;
    expected = A.watches ? 4 * A.objects * wanted_watches : 0;
    await_events(60);
    r->cpu = cpu_s() - r->cpu;
}

static void run_catchup(struct result *r) {
    begin_measuring(r);
    watchers_new("k");
    expected = A.count * wanted_watches;
    await_events(600);
    r->seconds = (double)(clock_ns() - counting_from) / 1e9;
    r->cpu = cpu_s() - r->cpu;
    done = events;
}

static void put_done(struct call *c) {
    struct worker *w = c->ctx;
    count(w, 1);
    w->idle = true;
    n_busy--;
}

/* Puts leave at their time; a worker that is still busy means that the server is too slow for them. */
static void run_watch(struct result *r) {
    workers_new(A.conns, A.streams);
    watchers_new("k");
    uint64_t began = clock_ns(), sent = 0, at = 0, late = 0, total;
    uint64_t events_before = 0;
    for (size_t i = 0; i < n_workers; i++) {
        workers[i].call.on_end = put_done;
    }
    total = (A.warm * A.rate) / 1000 + A.seconds * A.rate;
    while (sent < total) {
        uint64_t now = clock_ns();
        while (sent < total && began + sent * NS_PER_S / A.rate <= now) {
            size_t tried = 0;
            while (tried < n_workers && !workers[at].idle) {
                at = (at + 1) % n_workers;
                tried++;
            }
            if (tried == n_workers) {
                late++;
                break;
            }
            struct worker *w = &workers[at];
            if (!measuring && sent >= A.warm * A.rate / 1000) {
                begin_measuring(r);
                events_before = events;
            }
            w->began = began + sent * NS_PER_S / A.rate;
            w->idle = false;
            n_busy++;
            buf_reset(&req);
            add_put(&req, next_random(w) % A.keys, w->began);
            load_call(w->call.k, &w->call, KV "Put", buf_view(&req), false);
            sent++;
        }
        load_step(n_busy == n_workers ? UINT64_MAX : began + sent * NS_PER_S / A.rate);
    }
    drain();
    expected = total * wanted_watches;
    await_events(60);
    r->seconds = (double)(clock_ns() - counting_from) / 1e9;
    r->cpu = cpu_s() - r->cpu;
    printf("{\"events_per_s\": %.0f, \"late\": %llu, ",
           (double)(events - events_before) / r->seconds, (unsigned long long)late);
}

/* ---- keep-alives: one message, one answer, on streams that stay ---- */

static void alive_send(struct worker *w) {
    buf_reset(&req);
    wire_u64(&req, 1, 1 + next_random(w) % (A.count ? A.count : 1));
    w->began = clock_ns();
    if (w->step++) {
        load_send(&w->call, buf_view(&req));
    } else {
        load_call(w->call.k, &w->call, LEASE "LeaseKeepAlive", buf_view(&req), true);
    }
}

static void alive_message(struct call *c, struct span m) {
    struct worker *w = c->ctx;
    struct wire_field f;
    bool known = false;
    while (wire_next(&m, &f) > 0) {
        known |= f.no == 3 && f.v;
    }
    failed += !known;
    w->call.status = 0;
    count(w, 1);
    alive_send(w);
}

static void run_keepalive(struct result *r) {
    workers_new(A.conns, A.streams);
    begin_measuring(r);
    for (size_t i = 0; i < n_workers; i++) {
        workers[i].call.on_message = alive_message;
        workers[i].call.on_end = NULL;
        alive_send(&workers[i]);
    }
    until = clock_ns() + A.seconds * NS_PER_S;
    while (clock_ns() < until) {
        load_step(until);
    }
    r->seconds = (double)(clock_ns() - counting_from) / 1e9;
    r->cpu = cpu_s() - r->cpu;
}

/* ---- one unary call, for set-ups ---- */

static void ignore_message(struct call *c, struct span m) {
    (void)c;
    (void)m;
}
static void one_end(struct call *c) {
    failed += c->status != 0;
    stopping = true;
}

static void run_one(const char *path) {
    struct call c = {.on_message = ignore_message, .on_end = one_end};
    load_call(load_link(A.address), &c, path, buf_view(&req), false);
    while (!stopping) {
        load_step(UINT64_MAX);
    }
}

static void arguments(int argc, char **argv) {
    static const struct {
        const char *name;
        uint64_t *to;
    } known[] = {{"conns", &A.conns}, {"streams", &A.streams}, {"seconds", &A.seconds},
                 {"warm", &A.warm},   {"count", &A.count},     {"keys", &A.keys},
                 {"value", &A.value}, {"batch", &A.batch},     {"rate", &A.rate},
                 {"reads", &A.reads}, {"watches", &A.watches}, {"wconns", &A.wconns},
                 {"wper", &A.wper},   {"objects", &A.objects}, {"from", &A.from},
                 {"pid", &A.pid}};
    if (argc < 3) {
        load_die("usage: etcdload ADDRESS SCENARIO [name=number ...]");
    }
    A.address = argv[1];
    A.scenario = argv[2];
    for (int i = 3; i < argc; i++) {
        struct span s = span_str(argv[i]), name;
        bool found = false;
        if (span_until(&s, '=', &name) == 0) {
            for (size_t k = 0; k < ARRAY_LEN(known) && !found; k++) {
                found = span_eq_str(name, known[k].name) &&
                        span_to_u64(s, 0, UINT64_MAX, known[k].to) == 0;
            }
        }
        if (!found) {
            load_die("%s: not an option", argv[i]);
        }
    }
    if (!A.conns || !A.streams || !A.wper || !A.wconns || A.value < 8 || !A.rate) {
        load_die("a number is too small");
    }
}

int main(int argc, char **argv) {
    struct result r = {0};
    arguments(argc, argv);
    buf_init(&req, 16 << 20);
    value = mem_zero_alloc(A.value + 8);
    for (uint64_t i = 0, x = 88172645463325252ull; i < A.value; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        value[i] = (uint8_t)x;
    }
    if (str_eq(A.scenario, "watch")) {
        run_watch(&r);
    } else if (str_eq(A.scenario, "catchup")) {
        run_catchup(&r);
        putchar('{');
    } else if (str_eq(A.scenario, "compact")) { /* at revision `count`, until it is gone */
        wire_u64(&req, 1, A.count);
        wire_u64(&req, 2, 1);
        run_one(KV "Compact");
        putchar('{');
    } else if (str_eq(A.scenario, "defrag")) {
        run_one("/etcdserverpb.Maintenance/Defragment");
        putchar('{');
    } else {
        if (str_eq(A.scenario, "keepalive")) {
            run_keepalive(&r);
        } else {
            run_closed(&r);
        }
        putchar('{');
    }
    printf("\"ops\": %llu, \"failed\": %llu, \"seconds\": %.3f, \"rate\": %.1f, \"p50_ms\": %.3f, "
           "\"p99_ms\": %.3f, \"max_ms\": %.3f, \"mib_per_s\": %.1f, \"cpu_s\": %.3f, "
           "\"cpu_s_per_1000\": %.5f",
           (unsigned long long)done, (unsigned long long)failed, r.seconds,
           r.seconds > 0 ? (double)done / r.seconds : 0, hist_ms(&lat, 0.5), hist_ms(&lat, 0.99),
           (double)lat.max / 1e6, r.seconds > 0 ? (double)bytes_in / r.seconds / 1048576 : 0, r.cpu,
           done ? r.cpu * 1000 / (double)done : 0);
    if (rlat.all) {
        printf(", \"reads\": %llu, \"read_p99_ms\": %.3f", (unsigned long long)rlat.all,
               hist_ms(&rlat, 0.99));
    }
    if (wanted_watches) {
        printf(
            ", \"events\": %llu, \"expected\": %llu, \"lag_p50_ms\": %.3f, \"lag_p99_ms\": %.3f, "
            "\"lag_max_ms\": %.3f, \"cpu_us_per_event\": %.3f",
            (unsigned long long)events, (unsigned long long)expected, hist_ms(&wlat, 0.5),
            hist_ms(&wlat, 0.99), (double)wlat.max / 1e6,
            events ? r.cpu * 1e6 / (double)events : 0);
    }
    puts("}");
    return 0;
}
