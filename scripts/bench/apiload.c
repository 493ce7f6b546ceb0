/* apiload: what an API server's watches cost. Prints `name value` lines.
 *
 *   apiload BASE WATCHES WRITES CONNS VERSION [PID]
 *
 * BASE.server, BASE.ca, BASE.crt and BASE.key say where the server is and who asks. WATCHES connections follow the ConfigMaps
 * of the namespace "watched-VERSION" while CONNS others create WRITES of them as fast as they are answered, in HTTP VERSION 1 or 2.
 * With PID, the CPU time of that process is reported, in seconds for 100,000 delivered events: unlike the rate it does not
 * depend on what else the machine does. */
#include "internal/base/rand.h"
#include "internal/http/http.h"
#include "internal/sys/sys.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static struct loop *l;
static struct http_client_opts server = {.max_conns = 1};
static uint64_t n_watches, n_writes, n_conns, version, pid;
static uint64_t started, next_write, complete, delivered;
static uint64_t *sent, *lags; /* by write */
static size_t n_lags;
static char text[401], *objects;

struct watch {
    uint64_t seen;
    struct buf line; /* of the first watch, which measures the time that events take */
};

_Noreturn static void die(const char *what, const struct err *e) {
    fprintf(stderr, "apiload: %s%s%s\n", what, e ? ": " : "", e ? err_public(e) : "");
    exit(1);
}

static struct http_call *start(struct http_client *c, const char *method, const char *target,
                               struct span body, const struct http_call_opts *cb, void *ctx) {
    struct http_header type = {SPAN_LIT("content-type"), SPAN_LIT("application/json")};
    struct http_call_opts o = *cb;
    struct http_call *call;
    struct err e = ERR_INIT;
    o.method = method;
    o.target = target;
    o.body = body;
    o.headers = &type;
    o.n_headers = body.n > 0;
    o.ctx = ctx;
    if (http_call_start(c, &o, &call, &e) < 0) {
        die(target, &e);
    }
    return call;
}

static struct http_client *client(void) {
    struct http_client *c;
    struct err e = ERR_INIT;
    if (http_client_new(l, &server, &c, &e) < 0) {
        die("client", &e);
    }
    return c;
}

static void step(void) {
    struct err e = ERR_INIT;
    if (loop_step(l, NS_PER_S, &e) < 0) {
        die("loop", &e);
    }
}

/* ---- watching ---- */

static void measure(struct watch *w, struct span s) {
    static const char name[] = "\"name\":\"w-";
    struct span line;
    buf_span(&w->line, s);
    size_t used = 0;
    const uint8_t *end;
    while ((end = memchr(w->line.p + used, '\n', w->line.n - used)) != NULL) {
        line = span_of(w->line.p + used, (size_t)(end - w->line.p) - used);
        used += line.n + 1;
        const uint8_t *at = memmem(line.p, line.n, name, sizeof(name) - 1);
        uint64_t i = 0;
        for (at = at ? at + sizeof(name) - 1 : at; at && *at >= '0' && *at <= '9'; at++) {
            i = i * 10 + *at - '0';
        }
        if (at && i < n_writes) {
            lags[n_lags++] = clock_ns() - sent[i];
        }
    }
    buf_drop(&w->line, used);
}

static void on_head(struct http_call *c, unsigned status, void *ctx) {
    (void)c;
    (void)ctx;
    if (status != 200) {
        die("a watch was refused", NULL);
    }
    started++;
}

/* Each event is a line. */
static void on_data(struct http_call *c, struct span s, void *ctx) {
    struct watch *w = ctx;
    uint64_t before = w->seen;
    (void)c;
    for (size_t i = 0; i < s.n; i++) {
        w->seen += s.p[i] == '\n';
    }
    delivered += w->seen - before;
    complete += before < n_writes && w->seen >= n_writes;
    if (w->line.max) {
        measure(w, s);
    }
}

static void on_watch_end(struct http_call *c, int rc, const struct err *e, void *ctx) {
    (void)c;
    (void)rc;
    (void)ctx;
    die("a watch ended", e);
}

/* ---- writing ---- */

static void write_next(struct http_client *c);

static void on_written(struct http_call *c, int rc, const struct err *e, void *ctx) {
    if (rc < 0 || http_call_status(c) != 201) {
        die("a write failed", rc < 0 ? e : NULL);
    }
    write_next(ctx);
}

static void write_next(struct http_client *c) {
    static const struct http_call_opts cb = {.on_end = on_written};
    if (next_write == n_writes) {
        return;
    }
    AUTO_FREE char *body =
        str_fmt("{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{"
                "\"name\":\"w-%llu\",\"labels\":{\"app\":\"bench\"}},"
                "\"data\":{\"n\":\"%llu\",\"text\":\"%s\"}}",
                (unsigned long long)next_write, (unsigned long long)next_write, text);
    sent[next_write++] = clock_ns();
    start(c, "POST", objects, span_str(body), &cb, c);
}

/* ---- the run ---- */

static void on_namespace(struct http_call *c, int rc, const struct err *e, void *ctx) {
    bool *done = ctx;
    if (rc < 0 || (http_call_status(c) != 201 && http_call_status(c) != 409)) {
        die("the namespace", rc < 0 ? e : NULL);
    }
    *done = true;
}

static void make_namespace(void) {
    static const struct http_call_opts cb = {.on_end = on_namespace};
    bool done = false;
    AUTO_FREE char *body =
        str_fmt("{\"metadata\":{\"name\":\"watched-%llu\"}}", (unsigned long long)version);
    start(client(), "POST", "/api/v1/namespaces", span_str(body), &cb, &done);
    while (!done) {
        step();
    }
}

static char *read_part(const char *base, const char *suffix, size_t *ret_n) {
    AUTO_FREE char *path = str_fmt("%s.%s", base, suffix);
    AUTO(buf) struct buf b = BUF_INIT(1 << 20);
    struct err e = ERR_INIT;
    if (sys_file_read(AT_FDCWD, path, &b, &e) < 0) {
        die(path, &e);
    }
    return buf_take(&b, ret_n);
}

/* https://HOST:PORT */
static void find_server(const char *base) {
    size_t n[4];
    struct err e = ERR_INIT;
    char *url = read_part(base, "server", &n[0]), *ca = read_part(base, "ca", &n[1]),
         *crt = read_part(base, "crt", &n[2]), *key = read_part(base, "key", &n[3]);
    struct span s = span_str(url), host;
    uint64_t port;
    while (s.n && s.p[s.n - 1] == '\n') {
        s.n--;
    }
    if (span_skip(&s, strlen("https://")) < 0 || span_until(&s, ':', &host) < 0 ||
        span_to_u64(s, 1, 65535, &port) < 0) {
        die("the server's address", NULL);
    }
    const struct tls_client_opts o = {
        .ca_pem = span_of(ca, n[1]), .cert_pem = span_of(crt, n[2]), .key_pem = span_of(key, n[3])};
    server.host = str_dupn(host.p, host.n);
    server.port = (uint16_t)port;
    server.proto = version == 1 ? HTTP_1_ONLY : HTTP_AUTO;
    if (tls_client_config_new(&server.tls, &o, &e) < 0) {
        die("TLS", &e);
    }
}

static double cpu_s(void) {
    AUTO(buf) struct buf b = BUF_INIT(4096);
    AUTO_FREE char *path = str_fmt("/proc/%llu/stat", (unsigned long long)pid);
    struct err e = ERR_INIT;
    uint64_t user = 0, sys = 0;
    if (!pid) {
        return 0;
    }
    if (sys_file_read(AT_FDCWD, path, &b, &e) < 0) {
        die(path, &e);
    }
    const char *behind_name = strrchr(buf_cstr(&b), ')');
    struct span s = span_str(behind_name ? behind_name : ""), word;
    for (int i = 2; i <= 15 && span_next(&s, ' ', &word); i++) { /* proc(5): 14 and 15 */
        if (i >= 14 && span_to_u64(word, 0, UINT64_MAX, i == 14 ? &user : &sys) < 0) {
            die(path, NULL);
        }
    }
    return (double)(user + sys) / (double)sysconf(_SC_CLK_TCK);
}

static int by_value(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void run(void) {
    static const struct http_call_opts cb = {
        .on_head = on_head, .on_data = on_data, .on_end = on_watch_end};
    objects = str_fmt("/api/v1/namespaces/watched-%llu/configmaps", (unsigned long long)version);
    AUTO_FREE char *target = str_fmt("%s?watch=1", objects);
    make_namespace();
    for (uint64_t i = 0; i < n_watches; i++) {
        struct watch *w = new_zero(struct watch);
        buf_init(&w->line, i ? 0 : 64 << 20);
        start(client(), "GET", target, SPAN_EMPTY, &cb, w);
    }
    while (started < n_watches) {
        step();
    }
    double cpu = cpu_s();
    uint64_t began = clock_ns();
    for (uint64_t i = 0; i < n_conns; i++) {
        write_next(client());
    }
    while (complete < n_watches) {
        step();
        if (clock_ns() - began > 300 * NS_PER_S) {
            die("not every event came within 300 s", NULL);
        }
    }
    double took = (double)(clock_ns() - began) / 1e9;
    cpu = cpu_s() - cpu;
    qsort(lags, n_lags, sizeof(*lags), by_value);
    printf("watch_writes_per_s %.0f\nwatch_events_per_s %.0f\n", (double)n_writes / took,
           (double)delivered / took);
    printf("watch_lag_p50_ms %.1f\nwatch_lag_p99_ms %.1f\n", (double)lags[n_lags / 2] / 1e6,
           (double)lags[n_lags * 99 / 100] / 1e6);
    if (pid) {
        printf("watch_cpu_s_per_100k %.2f\n", cpu * 1e5 / (double)delivered);
    }
}

int main(int argc, char **argv) {
    uint64_t *const to[] = {&n_watches, &n_writes, &n_conns, &version, &pid};
    struct err e = ERR_INIT;
    for (int i = 2; i < argc && i < 7; i++) {
        if (span_to_u64(span_str(argv[i]), 1, 1u << 24, to[i - 2]) < 0) {
            die("not a number", NULL);
        }
    }
    if (argc < 6 || argc > 7 || version > 2) {
        die("usage: apiload BASE WATCHES WRITES CONNS VERSION [PID]", NULL);
    }
    memset(text, 'x', sizeof(text) - 1);
    sent = mem_zero_alloc(n_writes * sizeof(*sent));
    lags = mem_zero_alloc(n_writes * sizeof(*lags));
    if (loop_new(&l, &e) < 0) {
        die("loop", &e);
    }
    find_server(argv[1]);
    run();
    return 0;
}
