/* A small server for tests that drive kfarm's HTTP from outside: `kfarm-tests --httpd [-p port] [-u path] [-c cert -k key
 * [-a client-ca]]`; prints "ready <port>" and serves until its standard input ends. */
#include "internal/t/t.h"

#include "internal/base/rand.h"
#include "internal/http/http.h"
#include "internal/net/net.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

int t_httpd(int argc, char **argv);

static void whole(struct http_req *r, int rc, struct span body, void *ctx) {
    (void)ctx;
    if (rc < 0) {
        http_respond(r, err_http((enum err_code) - rc), "text/plain", NULL, 0,
                     SPAN_LIT("too large\n"));
    } else {
        http_respond(r, 200, "application/octet-stream", NULL, 0, body);
    }
}

static void part(struct http_req *r, struct span data, bool fin, void *ctx) {
    (void)ctx;
    if (data.n) {
        http_write(r, data);
        http_req_pause(r, http_pending(r) > 64 * 1024);
    }
    if (fin) {
        http_end(r);
    }
}

static void resume(struct http_req *r, void *ctx) {
    (void)ctx;
    http_req_pause(r, false);
}

struct tick {
    struct loop_timer t;
    struct http_req *r;
    uint64_t left, ms;
};

static void on_tick(struct loop_timer *t) {
    struct tick *k = CONTAINER_OF(t, struct tick, t);
    char line[64];
    IGNORE_ERR(str_put(line, sizeof(line), "tick %llu\n", (unsigned long long)k->left), "fits");
    http_write(k->r, span_str(line));
    if (--k->left) {
        loop_timer_start(http_req_loop(k->r), t, k->ms * NS_PER_MS, on_tick, "tick");
    } else {
        http_end(k->r);
    }
}

static void ticks_over(struct http_req *r, bool complete, void *ctx) {
    struct tick *k = ctx;
    (void)r;
    fprintf(stderr, "closed complete=%d\n", complete);
    loop_timer_stop(&k->t);
    free(k);
}

static uint64_t number(struct http_req *r, const char *key, uint64_t def) {
    const char *v = http_query_get(r, key);
    uint64_t n = def;
    return v && span_to_u64(span_str(v), 0, 1ull << 40, &n) == 0 ? n : def;
}

static void send_file(struct http_req *r) {
    const char *path = http_query_get(r, "path");
    struct stat st;
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0 || fstat(fd, &st) < 0) {
        http_respond(r, 404, "text/plain", NULL, 0, SPAN_LIT("no such file\n"));
        return;
    }
    http_respond_file(r, 200, "application/octet-stream", NULL, 0, fd, 0, (uint64_t)st.st_size);
}

static void raw_data(struct http_raw *w, struct span data, void *ctx) {
    (void)ctx;
    http_raw_write(w, data);
    http_raw_pause(w, http_raw_pending(w) > 64 * 1024);
}
static void raw_closed(struct http_raw *w, void *ctx) {
    (void)w;
    (void)ctx;
    fprintf(stderr, "raw closed\n");
}
static void raw_drained(struct http_raw *w, void *ctx) {
    (void)ctx;
    http_raw_pause(w, false);
}

static void who(struct http_req *r) {
    const struct tls_peer *p = http_req_peer(r);
    AUTO(buf) struct buf b = BUF_INIT(4096);
    buf_fmt(&b, "version=%d cn=%s", http_req_version(r), p ? p->cn : "-");
    for (size_t i = 0; p && i < p->n_orgs; i++) {
        buf_fmt(&b, " o=%s", p->orgs[i]);
    }
    buf_fmt(&b, " sni=%s host=", p && p->sni ? p->sni : "-");
    buf_span(&b, http_req_header(r, "host"));
    buf_u8(&b, '\n');
    http_respond(r, 200, "text/plain", NULL, 0, buf_view(&b));
}

static void watch(struct http_req *r) {
    struct tick *k = new_zero(struct tick);
    *k = (struct tick){.r = r, .left = number(r, "n", 3), .ms = number(r, "ms", 100)};
    http_req_on_close(r, ticks_over, k);
    http_begin(r, 200, "text/plain", NULL, 0);
    loop_timer_start(http_req_loop(r), &k->t, 0, on_tick, "tick");
}

static void upgrade(struct http_req *r) {
    struct http_header h[] = {{SPAN_LIT("upgrade"), SPAN_LIT("echo")}};
    struct http_raw_cb cb = {raw_data, raw_closed, raw_drained, NULL};
    struct http_raw *w;
    struct err e = ERR_INIT;
    if (http_upgrade(r, h, 1, &cb, &w, &e) < 0) {
        http_respond(r, 400, "text/plain", NULL, 0, span_str(e.msg));
    }
}

static void on_request(struct http_req *r, void *ctx) {
    struct span p = http_req_path(r);
    (void)ctx;
    if (span_eq_str(p, "/hello")) {
        http_respond(r, 200, "text/plain", NULL, 0, SPAN_LIT("hello\n"));
    } else if (span_eq_str(p, "/echo")) {
        http_req_read_body(r, number(r, "max", 64 << 20), whole, NULL);
    } else if (span_eq_str(p, "/stream")) {
        http_begin(r, 200, "application/octet-stream", NULL, 0);
        http_on_drain(r, resume, NULL);
        http_req_stream_body(r, part, NULL);
    } else if (span_eq_str(p, "/big")) {
        size_t n = (size_t)number(r, "n", 1 << 20);
        char *mem = mem_zero_alloc(n + 1);
        memset(mem, 'x', n);
        http_respond_take(r, 200, "text/plain", NULL, 0, mem, n);
    } else if (span_eq_str(p, "/file")) {
        send_file(r);
    } else if (span_eq_str(p, "/watch")) {
        watch(r);
    } else if (span_eq_str(p, "/trailers")) {
        struct http_header t[] = {{SPAN_LIT("grpc-status"), SPAN_LIT("0")}};
        http_begin(r, 200, "application/grpc", NULL, 0);
        http_write(r, SPAN_LIT("body"));
        http_end_trailers(r, t, 1);
    } else if (span_eq_str(p, "/who")) {
        who(r);
    } else if (span_eq_str(p, "/abort")) {
        http_begin(r, 200, "text/plain", NULL, 0);
        http_write(r, SPAN_LIT("some"));
        http_abort(r);
    } else if (span_eq_str(p, "/upgrade")) {
        upgrade(r);
    } else {
        http_respond(r, 404, "text/plain", NULL, 0, SPAN_LIT("not found\n"));
    }
}

static void stopped(void *ctx) {
    loop_stop(ctx);
}

struct main_ctx {
    struct loop *l;
    struct http_server *s;
};
static struct main_ctx g_main;

static void on_stdin(struct loop_io *io, uint32_t ev) {
    char sink[64];
    (void)ev;
    if (read(io->fd, sink, sizeof(sink)) <= 0) {
        loop_io_stop(io);
        http_server_shutdown(g_main.s, 3 * NS_PER_S, stopped, g_main.l);
    }
}

static int load(const char *path, struct buf *b) {
    return path ? t_read_file(path, b) : 0;
}

static int serve(const char *port, const char *path, const char *cert, const char *key,
                 const char *ca, struct err *e) {
    AUTO(buf) struct buf bc = BUF_INIT(1 << 20), bk = BUF_INIT(1 << 20), ba = BUF_INIT(1 << 20);
    struct http_server_opts o = {.handler = {on_request, NULL}, .h2c = true, .name = "httpd"};
    struct sockaddr_in6 sa = {0};
    socklen_t sn = sizeof(sa);
    struct loop_io in = {0};
    uint64_t n = 0;
    int fd = -1, rc = loop_new(&g_main.l, e);
    if (load(cert, &bc) < 0 || load(key, &bk) < 0 || load(ca, &ba) < 0 ||
        (port && span_to_u64(span_str(port), 0, 65535, &n) < 0)) {
        return err_set(e, ERR_INVALID, "bad option or unreadable file");
    }
    if (rc == 0 && cert) {
        rc = tls_server_config_new(&o.tls, buf_view(&bc), buf_view(&bk), buf_view(&ba),
                                   ca ? TLS_CLIENT_OPTIONAL : TLS_CLIENT_NONE, e);
    }
    rc = rc < 0 ? rc : http_server_new(g_main.l, &o, &g_main.s, e);
    tls_config_unref(o.tls);
    rc = rc < 0 ? rc
         : path ? net_listen_unix(path, 0600, &fd, e)
                : net_listen_tcp("", (uint16_t)n, &fd, e);
    if (rc == 0) {
        getsockname(fd, (struct sockaddr *)&sa, &sn);
        rc = http_server_listen(g_main.s, fd, e);
    }
    if (rc < 0) {
        return rc;
    }
    printf("ready %u\n", path ? 0 : ntohs(sa.sin6_port));
    fflush(stdout);
    rc = loop_io_start(g_main.l, &in, 0, LOOP_READ, on_stdin, "stdin", e);
    rc = rc < 0 ? rc : loop_run(g_main.l, e);
    loop_io_stop(&in);
    http_server_free(g_main.s);
    loop_free(g_main.l);
    return rc;
}

int t_httpd(int argc, char **argv) {
    const char *opt[128] = {0};
    struct err e = ERR_INIT;
    for (int i = 0; i + 1 < argc; i += 2) {
        opt[(unsigned char)argv[i][1] & 127] = argv[i + 1];
    }
    if (serve(opt['p'], opt['u'], opt['c'], opt['k'], opt['a'], &e) < 0) {
        fprintf(stderr, "%s\n", e.msg);
        return 1;
    }
    return 0;
}
