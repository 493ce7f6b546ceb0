#include "internal/http/http.h"

#include "internal/base/rand.h"
#include "internal/net/net.h"
#include "internal/pki/pki.h"
#include "internal/t/t.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PEM = 64 * 1024, DAY = 86400 };

struct pki {
    struct buf ca, srv, srv_key, cli, cli_key, other_ca;
};

static void issue(struct pki_key *ca_key, struct span ca, const char *cn, const char *san,
                  unsigned usage, struct buf *cert, struct buf *key) {
    struct err e = ERR_INIT;
    AUTO(pki_keyp) struct pki_key *k = NULL;
    struct pki_subject s = {
        .cn = cn, .orgs = {"o1", "o2"}, .n_orgs = 2, .sans = {san, "localhost"}};
    s.n_sans = san ? 2 : 0;
    ASSERT_OK(pki_key_new(PKI_EC_P256, &k, &e), &e);
    struct pki_sign_req r = {.ca_key = ca_key,
                             .ca_cert_pem = ca,
                             .subject_key = k,
                             .subject = &s,
                             .usage = usage,
                             .now_s = clock_wall_ns() / NS_PER_S,
                             .ttl_s = DAY};
    ASSERT_OK(pki_sign(&r, cert, &e), &e);
    ASSERT_OK(pki_key_write(k, key, &e), &e);
}

static void pki_make(struct pki *p) {
    struct err e = ERR_INIT;
    AUTO(pki_keyp) struct pki_key *ca = NULL, *other = NULL;
    uint64_t now = clock_wall_ns() / NS_PER_S;
    struct buf *all[] = {&p->ca, &p->srv, &p->srv_key, &p->cli, &p->cli_key, &p->other_ca};
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        buf_init(all[i], PEM);
    }
    ASSERT_OK(pki_key_new(PKI_EC_P256, &ca, &e), &e);
    ASSERT_OK(pki_key_new(PKI_EC_P256, &other, &e), &e);
    ASSERT_OK(pki_ca_new(ca, "ca", now, DAY, &p->ca, &e), &e);
    ASSERT_OK(pki_ca_new(other, "other", now, DAY, &p->other_ca, &e), &e);
    issue(ca, buf_view(&p->ca), "server", "127.0.0.1", PKI_SERVER, &p->srv, &p->srv_key);
    issue(ca, buf_view(&p->ca), "client", NULL, PKI_CLIENT, &p->cli, &p->cli_key);
}

static void pki_free(struct pki *p) {
    struct buf *all[] = {&p->ca, &p->srv, &p->srv_key, &p->cli, &p->cli_key, &p->other_ca};
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        buf_fini(all[i]);
    }
}

/* ---- a server and a client in one loop ---- */

enum transport { T_H1, T_H2C, T_TLS_H1, T_TLS_H2, T_UNIX_H2C, T_MAX_ };

struct rig {
    struct loop *l;
    struct http_server *s;
    struct http_client *c;
    struct pki pki;
    struct tls_config *tls_s, *tls_c;
    uint16_t port;
    char path[64];
    unsigned n_closed, n_complete;
    struct http_req *held; /* /hold */
    struct http_raw *raw;
    struct buf log;
    bool shut;
};

/* One call's outcome. */
struct got {
    struct rig *rig;
    unsigned ends, status;
    int rc;
    struct buf body;
    struct span trailer;
    char trailer_text[32], err[ERR_MSG_MAX];
    size_t n_data;
    bool cancel_on_data, free_on_end;
    struct http_call *call;
};

static void srv_closed(struct http_req *r, bool complete, void *ctx) {
    struct rig *g = ctx;
    g->n_closed++;
    g->n_complete += complete;
    if (g->held == r) {
        g->held = NULL;
    }
}

static void srv_body(struct http_req *r, int rc, struct span body, void *ctx) {
    (void)ctx;
    if (rc == -ERR_CANCELLED) {
        return;
    }
    http_respond(r, rc < 0 ? 413 : 200, "text/plain", NULL, 0, body);
}

static void srv_part(struct http_req *r, struct span data, bool fin, void *ctx) {
    (void)ctx;
    if (data.n) {
        http_write(r, data);
        http_req_pause(r, http_pending(r) > 32 * 1024);
    }
    if (fin) {
        http_end(r);
    }
}

static void srv_drain(struct http_req *r, void *ctx) {
    (void)ctx;
    http_req_pause(r, false);
}

static void srv_raw_data(struct http_raw *w, struct span data, void *ctx) {
    (void)ctx;
    http_raw_write(w, data);
}
static void srv_raw_close(struct http_raw *w, void *ctx) {
    struct rig *g = ctx;
    (void)w;
    g->raw = NULL;
}

static void srv_request(struct http_req *r, void *ctx) {
    struct rig *g = ctx;
    struct span p = http_req_path(r);
    struct err e = ERR_INIT;
    http_req_on_close(r, srv_closed, g);
    if (span_eq_str(p, "/hello")) {
        struct http_header h[] = {{SPAN_LIT("x-test"), SPAN_LIT("yes")}};
        http_respond(r, 200, "text/plain", h, 1, SPAN_LIT("hello"));
    } else if (span_eq_str(p, "/echo")) {
        http_req_read_body(r, 8 << 20, srv_body, NULL);
    } else if (span_eq_str(p, "/small")) {
        http_req_read_body(r, 10, srv_body, NULL);
    } else if (span_eq_str(p, "/stream")) {
        http_begin(r, 200, "text/plain", NULL, 0);
        http_on_drain(r, srv_drain, NULL);
        http_req_stream_body(r, srv_part, NULL);
    } else if (span_eq_str(p, "/hold")) {
        g->held = r;
        http_begin(r, 200, "text/plain", NULL, 0);
        http_write(r, SPAN_LIT("first"));
    } else if (span_eq_str(p, "/trailers")) {
        struct http_header t[] = {{SPAN_LIT("grpc-status"), SPAN_LIT("7")}};
        http_begin(r, 200, "application/grpc", NULL, 0);
        http_write(r, SPAN_LIT("x"));
        http_end_trailers(r, t, 1);
    } else if (span_eq_str(p, "/abort")) {
        http_begin(r, 200, "text/plain", NULL, 0);
        http_write(r, SPAN_LIT("x"));
        http_abort(r);
    } else if (span_eq_str(p, "/silent")) {
        g->held = r;
    } else if (span_eq_str(p, "/who")) {
        const struct tls_peer *peer = http_req_peer(r);
        char *t =
            arena_fmt(http_req_arena(r), "v%d cn=%s o=%zu q=%s", http_req_version(r),
                      peer ? peer->cn : "-", peer ? peer->n_orgs : 0, http_query_get(r, "k y"));
        http_respond(r, 200, "text/plain", NULL, 0, span_str(t));
    } else if (span_eq_str(p, "/upgrade")) {
        struct http_raw_cb cb = {srv_raw_data, srv_raw_close, NULL, g};
        struct http_header h[] = {{SPAN_LIT("upgrade"), SPAN_LIT("echo")}};
        if (http_upgrade(r, h, 1, &cb, &g->raw, &e) < 0) {
            http_respond(r, 400, NULL, NULL, 0, span_str(e.msg));
        }
    } else {
        http_respond(r, 404, "text/plain", NULL, 0, SPAN_LIT("none"));
    }
}

static void rig_start(struct rig *g, enum transport t) {
    struct err e = ERR_INIT;
    int fd;
    *g = (struct rig){.log = BUF_INIT(1 << 20)};
    ASSERT_OK(loop_new(&g->l, &e), &e);
    pki_make(&g->pki);
    bool tls = t == T_TLS_H1 || t == T_TLS_H2;
    if (tls) {
        ASSERT_OK(tls_server_config_new(&g->tls_s, buf_view(&g->pki.srv), buf_view(&g->pki.srv_key),
                                        buf_view(&g->pki.ca), TLS_CLIENT_OPTIONAL, &e),
                  &e);
        struct tls_client_opts co = {.ca_pem = buf_view(&g->pki.ca),
                                     .cert_pem = buf_view(&g->pki.cli),
                                     .key_pem = buf_view(&g->pki.cli_key)};
        ASSERT_OK(tls_client_config_new(&g->tls_c, &co, &e), &e);
    }
    struct http_server_opts so = {
        .handler = {srv_request, g}, .tls = g->tls_s, .h2c = true, .body_max = 16 << 20};
    ASSERT_OK(http_server_new(g->l, &so, &g->s, &e), &e);
    struct http_client_opts co = {.host = "127.0.0.1", .tls = g->tls_c};
    if (t == T_UNIX_H2C) {
        ASSERT_OK(str_put(g->path, sizeof(g->path), "/tmp/kf-http-test-%d.sock", getpid()), &e);
        ASSERT_OK(net_listen_unix(g->path, 0600, &fd, &e), &e);
        co.unix_path = g->path;
    } else {
        struct sockaddr_in sa;
        socklen_t n = sizeof(sa);
        ASSERT_OK(net_listen_tcp("127.0.0.1", 0, &fd, &e), &e);
        ASSERT_EQ(0, getsockname(fd, (struct sockaddr *)&sa, &n));
        co.port = g->port = ntohs(sa.sin_port);
    }
    co.proto = t == T_H1 || t == T_TLS_H1 ? HTTP_1_ONLY : tls ? HTTP_AUTO : HTTP_2_PRIOR;
    ASSERT_OK(http_server_listen(g->s, fd, &e), &e);
    ASSERT_OK(http_client_new(g->l, &co, &g->c, &e), &e);
}

static void rig_stop(struct rig *g) {
    http_client_free(g->c);
    http_server_free(g->s);
    tls_config_unref(g->tls_s);
    tls_config_unref(g->tls_c);
    loop_free(g->l);
    pki_free(&g->pki);
    buf_fini(&g->log);
    if (*g->path) {
        unlink(g->path);
    }
}

static void on_data(struct http_call *c, struct span data, void *ctx) {
    struct got *o = ctx;
    o->n_data += data.n;
    buf_span(&o->body, data);
    if (o->cancel_on_data) {
        http_call_cancel(c);
        o->call = NULL;
        o->ends++;
    }
}

static void on_end(struct http_call *c, int rc, const struct err *e, void *ctx) {
    struct got *o = ctx;
    ASSERT(rc == 0 || (int)e->code == -rc);
    o->ends++;
    o->rc = rc;
    o->status = http_call_status(c);
    o->call = NULL;
    IGNORE_ERR(str_put(o->err, sizeof(o->err), "%s", e->msg), "fits");
    IGNORE_ERR(
        span_to_cstr(http_call_trailer(c, "grpc-status"), o->trailer_text, sizeof(o->trailer_text)),
        "fits");
    if (o->free_on_end) {
        http_client_free(TAKE(o->rig->c));
    }
}

static void begin(struct rig *g, struct got *o, const char *method, const char *target,
                  struct span body) {
    struct err e = ERR_INIT;
    struct http_call_opts co = {.method = method,
                                .target = target,
                                .body = body,
                                .on_data = on_data,
                                .on_end = on_end,
                                .ctx = o};
    *o = (struct got){.rig = g,
                      .body = BUF_INIT(16 << 20),
                      .cancel_on_data = o->cancel_on_data,
                      .free_on_end = o->free_on_end};
    ASSERT_OK(http_call_start(g->c, &co, &o->call, &e), &e);
    ASSERT_EQ(0, o->ends);
}

static void turn(struct rig *g, const unsigned *counter, unsigned want) {
    uint64_t end = clock_ns() + 10 * NS_PER_S;
    while (*counter < want && clock_ns() < end) {
        struct err e = ERR_INIT;
        ASSERT_OK(loop_step(g->l, 50 * NS_PER_MS, &e), &e);
    }
    ASSERT_EQ(want, *counter);
}

static void step(struct rig *g, int n) {
    for (int i = 0; i < n; i++) {
        struct err e = ERR_INIT;
        ASSERT_OK(loop_step(g->l, 2 * NS_PER_MS, &e), &e);
    }
}

static void done(struct got *o) {
    buf_fini(&o->body);
}

static void call(struct rig *g, struct got *o, const char *method, const char *target,
                 struct span body) {
    *o = (struct got){0};
    begin(g, o, method, target, body);
    turn(g, &o->ends, 1);
}

#define EACH_TRANSPORT(g, t)                                               \
    for (int t = 0; t < T_MAX_; t++)                                       \
        for (bool once_ = (rig_start(&g, (enum transport)t), true); once_; \
             once_ = false, rig_stop(&g))

TEST(http, simple_calls_everywhere) {
    struct rig g;
    EACH_TRANSPORT(g, t) {
        struct got o;
        for (int i = 0; i < 3; i++) {
            call(&g, &o, "GET", "/hello", SPAN_EMPTY);
            ASSERT_EQ(0, o.rc);
            ASSERT_EQ(200, o.status);
            ASSERT_STREQ("hello", buf_cstr(&o.body));
            done(&o);
        }
        call(&g, &o, "HEAD", "/hello", SPAN_EMPTY);
        ASSERT_EQ(200, o.status);
        ASSERT_EQ(0, o.body.n);
        done(&o);
        call(&g, &o, "POST", "/nowhere", SPAN_LIT("body nobody reads"));
        ASSERT_EQ(404, o.status);
        done(&o);
        call(&g, &o, "GET", "/who?a=1&k%20y=v%2Bw&b", SPAN_EMPTY);
        bool tls = t == T_TLS_H1 || t == T_TLS_H2, h1 = t == T_H1 || t == T_TLS_H1;
        char want[64];
        IGNORE_ERR(str_put(want, sizeof(want), "v%d cn=%s o=%d q=v+w", h1 ? 1 : 2,
                           tls ? "client" : "-", tls ? 2 : 0),
                   "fits");
        ASSERT_STREQ(want, buf_cstr(&o.body));
        done(&o);
        ASSERT_EQ(1, http_server_conns(g.s)); /* all over one connection */
        step(&g, 20);
        ASSERT_EQ(6, g.n_complete);
    }
}

TEST(http, bodies_both_ways) {
    struct rig g;
    enum { N = 5 << 20 };
    uint8_t *big = mem_zero_alloc(N);
    rand_bytes(big, N);
    EACH_TRANSPORT(g, t) {
        struct got o;
        call(&g, &o, "POST", "/echo", span_of(big, N));
        ASSERT_EQ(0, o.rc);
        ASSERT_EQ(200, o.status);
        ASSERT_EQ(N, o.body.n);
        ASSERT_EQ(0, memcmp(big, o.body.p, N));
        done(&o);
        call(&g, &o, "POST", "/stream", span_of(big, N));
        ASSERT_EQ(0, o.rc);
        ASSERT_EQ(N, o.body.n);
        ASSERT_EQ(0, memcmp(big, o.body.p, N));
        done(&o);
        call(&g, &o, "PUT", "/small", span_of(big, 11));
        ASSERT_EQ(413, o.status);
        done(&o);
    }
    free(big);
}

TEST(http, streamed_request_written_in_pieces) {
    struct rig g;
    EACH_TRANSPORT(g, t) {
        struct got o = {0};
        struct err e = ERR_INIT;
        struct http_call_opts co = {.method = "POST",
                                    .target = "/stream",
                                    .stream_body = true,
                                    .on_data = on_data,
                                    .on_end = on_end,
                                    .ctx = &o};
        o = (struct got){.rig = &g, .body = BUF_INIT(1 << 20)};
        ASSERT_OK(http_call_start(g.c, &co, &o.call, &e), &e);
        http_call_write(o.call, SPAN_LIT("early "), false);
        step(&g, 20);
        http_call_write(o.call, SPAN_LIT("middle "), false);
        step(&g, 20);
        ASSERT_STREQ("early middle ", buf_cstr(&o.body)); /* both directions at once */
        http_call_write(o.call, SPAN_LIT("end"), true);
        turn(&g, &o.ends, 1);
        ASSERT_EQ(0, o.rc);
        ASSERT_STREQ("early middle end", buf_cstr(&o.body));
        done(&o);
    }
}

TEST(http, cancel_reaches_the_server) {
    struct rig g;
    EACH_TRANSPORT(g, t) {
        struct got o = {0};
        begin(&g, &o, "GET", "/hold", SPAN_EMPTY);
        for (int i = 0; i < 200 && !o.n_data; i++) {
            step(&g, 1);
        }
        ASSERT_STREQ("first", buf_cstr(&o.body));
        ASSERT(g.held);
        http_call_cancel(o.call);
        turn(&g, &g.n_closed, 1);
        ASSERT_EQ(0, g.n_complete);
        ASSERT_EQ(0, o.ends);
        done(&o);
        o = (struct got){.cancel_on_data = true}; /* inside a callback */
        begin(&g, &o, "GET", "/hold", SPAN_EMPTY);
        turn(&g, &o.ends, 1);
        turn(&g, &g.n_closed, 2);
        done(&o);
        call(&g, &o, "GET", "/hello", SPAN_EMPTY);
        ASSERT_EQ(200, o.status);
        done(&o);
    }
}

TEST(http, server_abort_and_silence) {
    struct rig g;
    EACH_TRANSPORT(g, t) {
        struct got o;
        struct err e = ERR_INIT;
        call(&g, &o, "GET", "/abort", SPAN_EMPTY);
        ASSERT(o.rc < 0);
        done(&o);
        o = (struct got){.rig = &g, .body = BUF_INIT(1 << 20)};
        struct http_call_opts co = {.method = "GET",
                                    .target = "/silent",
                                    .on_data = on_data,
                                    .on_end = on_end,
                                    .ctx = &o,
                                    .timeout_ns = 50 * NS_PER_MS};
        ASSERT_OK(http_call_start(g.c, &co, &o.call, &e), &e);
        turn(&g, &o.ends, 1);
        ASSERT_EQ(-ERR_TIMEOUT, o.rc);
        done(&o);
        if (t != T_H1 &&
            t !=
                T_TLS_H1) { /* where the end of input may be a half-close, it waits for its answer */
            turn(&g, &g.n_closed, 2);
        }
    }
}

TEST(http, trailers) {
    struct rig g;
    EACH_TRANSPORT(g, t) {
        struct got o;
        call(&g, &o, "POST", "/trailers", SPAN_LIT("x"));
        ASSERT_EQ(0, o.rc);
        ASSERT_STREQ("x", buf_cstr(&o.body));
        ASSERT_STREQ(t == T_H1 || t == T_TLS_H1 ? "" : "7", o.trailer_text);
        done(&o);
    }
}

TEST(http, client_freed_inside_its_callback) {
    struct rig g;
    EACH_TRANSPORT(g, t) {
        struct got o = {.free_on_end = true}, o2 = {0};
        begin(&g, &o, "GET", "/hello", SPAN_EMPTY);
        begin(&g, &o2, "GET", "/hold", SPAN_EMPTY);
        turn(&g, &o.ends, 1);
        ASSERT_EQ(1, o2.ends);
        ASSERT_EQ(-ERR_CANCELLED, o2.rc);
        ASSERT_NULL(g.c);
        done(&o);
        done(&o2);
        step(&g, 5);
    }
}

static void shut(void *ctx) {
    struct rig *g = ctx;
    g->shut = true;
    g->n_closed += 100;
}

TEST(http, shutdown_waits_for_requests) {
    struct rig g;
    EACH_TRANSPORT(g, t) {
        struct got o = {0}, o2;
        begin(&g, &o, "GET", "/hold", SPAN_EMPTY);
        for (int i = 0; i < 200 && !o.n_data; i++) {
            step(&g, 1);
        }
        http_server_shutdown(g.s, 5 * NS_PER_S, shut, &g);
        step(&g, 10);
        ASSERT(!g.shut);
        http_write(g.held, SPAN_LIT(" second"));
        http_end(g.held);
        turn(&g, &o.ends, 1);
        ASSERT_EQ(0, o.rc);
        ASSERT_STREQ("first second", buf_cstr(&o.body));
        turn(&g, &g.n_closed, 101);
        done(&o);
        call(&g, &o2, "GET", "/hello", SPAN_EMPTY); /* nobody listens any more */
        ASSERT_EQ(-ERR_UNAVAILABLE, o2.rc);
        done(&o2);
    }
}

TEST(http, shutdown_grace_ends) {
    struct rig g;
    EACH_TRANSPORT(g, t) {
        struct got o = {0};
        begin(&g, &o, "GET", "/hold", SPAN_EMPTY);
        for (int i = 0; i < 200 && !o.n_data; i++) {
            step(&g, 1);
        }
        http_server_shutdown(g.s, 20 * NS_PER_MS, shut, &g);
        turn(&g, &o.ends, 1);
        ASSERT(o.rc < 0);
        turn(&g, &g.n_closed, 101);
        done(&o);
    }
}

TEST(http, many_streams_on_one_connection) {
    struct rig g;
    enum { N = 200 };
    rig_start(&g, T_TLS_H2);
    struct got *o = mem_zero_alloc(N * sizeof(*o));
    for (int i = 0; i < N; i++) {
        begin(&g, &o[i], "GET", "/hold", SPAN_EMPTY);
    }
    for (int i = 0; i < N; i++) {
        for (int k = 0; k < 1000 && !o[i].n_data; k++) {
            step(&g, 1);
        }
        ASSERT_EQ(5, o[i].n_data);
    }
    ASSERT_EQ(1, http_server_conns(g.s));
    for (int i = 0; i < N; i++) {
        http_call_cancel(o[i].call);
        done(&o[i]);
    }
    turn(&g, &g.n_closed, N);
    free(o);
    rig_stop(&g);
}

TEST(http, concurrent_http1_calls_use_several_connections) {
    struct rig g;
    rig_start(&g, T_TLS_H1);
    struct got o[12] = {0};
    for (int i = 0; i < 12; i++) {
        begin(&g, &o[i], "GET", i < 4 ? "/hold" : "/hello", SPAN_EMPTY);
    }
    for (int i = 4; i < 12; i++) {
        turn(&g, &o[i].ends, 1);
        ASSERT_EQ(200, o[i].status);
    }
    for (int i = 0; i < 12; i++) {
        if (i < 4) {
            http_call_cancel(o[i].call);
        }
        done(&o[i]);
    }
    ASSERT(http_server_conns(g.s) <= 8);
    rig_stop(&g);
}

TEST(http, pause_holds_the_answer_back) {
    struct rig g;
    enum { N = 6 << 20 };
    uint8_t *big = mem_zero_alloc(N);
    EACH_TRANSPORT(g, t) {
        struct got o = {0};
        begin(&g, &o, "POST", "/echo", span_of(big, N));
        for (int i = 0; i < 2000 && !o.n_data; i++) {
            step(&g, 1);
        }
        http_call_pause(o.call, true);
        size_t at = o.n_data;
        step(&g, 100);
        ASSERT_EQ(at, o.n_data);
        ASSERT_EQ(0, o.ends);
        http_call_pause(o.call, false);
        turn(&g, &o.ends, 1);
        ASSERT_EQ(N, o.n_data);
        done(&o);
    }
    free(big);
}

/* ---- upgrade ---- */

struct up {
    struct rig *g;
    unsigned calls, n_data, closes;
    int rc;
    unsigned status;
    struct http_raw *w;
};

static void up_data(struct http_raw *w, struct span data, void *ctx) {
    struct up *u = ctx;
    (void)w;
    buf_span(&u->g->log, data);
    u->n_data++;
}
static void up_close(struct http_raw *w, void *ctx) {
    struct up *u = ctx;
    (void)w;
    u->closes++;
    u->w = NULL;
}
static void up_done(void *ctx, int rc, unsigned status, struct http_raw *w, const struct err *e) {
    struct up *u = ctx;
    (void)e;
    u->calls++;
    u->rc = rc;
    u->status = status;
    u->w = w;
}

TEST(http, upgrade) {
    struct rig g;
    EACH_TRANSPORT(g, t) {
        struct err e = ERR_INIT;
        if (t == T_H2C || t == T_UNIX_H2C) {
            continue;
        }
        struct up u = {.g = &g};
        struct http_header h[] = {{SPAN_LIT("connection"), SPAN_LIT("Upgrade")},
                                  {SPAN_LIT("upgrade"), SPAN_LIT("echo")}};
        struct http_call_opts co = {
            .method = "POST", .target = "/upgrade", .headers = h, .n_headers = 2};
        struct http_raw_cb cb = {up_data, up_close, NULL, &u};
        ASSERT_OK(http_call_upgrade(g.c, &co, &cb, up_done, &u, &e), &e);
        turn(&g, &u.calls, 1);
        ASSERT_EQ(0, u.rc);
        ASSERT_EQ(101, u.status);
        http_raw_write(u.w, SPAN_LIT("ping"));
        turn(&g, &u.n_data, 1);
        ASSERT_STREQ("ping", buf_cstr(&g.log));
        turn(&g, &g.n_complete, 1);
        http_raw_close(g.raw);
        turn(&g, &u.closes, 1);
        /* an answer that is no upgrade */
        co.target = "/hello";
        ASSERT_OK(http_call_upgrade(g.c, &co, &cb, up_done, &u, &e), &e);
        turn(&g, &u.calls, 2);
        ASSERT_EQ(-ERR_INVALID, u.rc);
        ASSERT_EQ(200, u.status);
    }
}

/* ---- trust ---- */

static void expect_tls(struct rig *g, const struct tls_client_opts *o, const char *sni, int rc,
                       const char *text) {
    struct err e = ERR_INIT;
    struct tls_config *tls;
    struct got x;
    ASSERT_OK(tls_client_config_new(&tls, o, &e), &e);
    struct http_client_opts co = {.host = "127.0.0.1", .port = g->port, .tls = tls, .sni = sni};
    http_client_free(g->c);
    ASSERT_OK(http_client_new(g->l, &co, &g->c, &e), &e);
    tls_config_unref(tls);
    call(g, &x, "GET", "/who?k%20y=1", SPAN_EMPTY);
    if (rc != x.rc) {
        fail_msg("rc %d (%s), not %d", x.rc, x.err, rc);
    }
    if (text && !strstr(rc ? x.err : buf_cstr(&x.body), text)) {
        fail_msg("'%s' is not in '%s'", text, rc ? x.err : buf_cstr(&x.body));
    }
    done(&x);
}

TEST(http, tls_trust) {
    struct rig g;
    struct err e = ERR_INIT;
    rig_start(&g, T_TLS_H2);
    struct span ca = buf_view(&g.pki.ca), other = buf_view(&g.pki.other_ca);
    struct pki_info i;
    uint8_t pin_ca[32], pin_leaf[32], pin_other[32];
    ASSERT_OK(pki_cert_parse(buf_view(&g.pki.srv), &i, &e), &e);
    memcpy(pin_leaf, i.spki_sha256, 32);
    pki_info_fini(&i);
    ASSERT_OK(pki_cert_parse(ca, &i, &e), &e);
    memcpy(pin_ca, i.spki_sha256, 32);
    pki_info_fini(&i);
    ASSERT_OK(pki_cert_parse(other, &i, &e), &e);
    memcpy(pin_other, i.spki_sha256, 32);
    pki_info_fini(&i);
    expect_tls(&g, &(struct tls_client_opts){.ca_pem = ca}, NULL, 0, "cn= ");
    expect_tls(&g, &(struct tls_client_opts){.ca_pem = ca}, "localhost", 0, NULL);
    expect_tls(&g, &(struct tls_client_opts){.ca_pem = ca}, "example.org", -ERR_UNAUTHENTICATED,
               "another name");
    expect_tls(&g, &(struct tls_client_opts){.ca_pem = ca}, "127.0.0.2", -ERR_UNAUTHENTICATED,
               "another name");
    expect_tls(&g, &(struct tls_client_opts){.ca_pem = other}, NULL, -ERR_UNAUTHENTICATED,
               "trusted CA");
    expect_tls(&g, &(struct tls_client_opts){.insecure = true}, "example.org", 0, NULL);
    expect_tls(&g, &(struct tls_client_opts){.pin_sha256 = span_of(pin_leaf, 32)}, "example.org", 0,
               NULL);
    expect_tls(&g, &(struct tls_client_opts){.pin_sha256 = span_of(pin_other, 32)}, NULL,
               -ERR_UNAUTHENTICATED, "trusted CA");
    /* the CA's pin works when the server sends its chain; certificates change while running */
    expect_tls(&g, &(struct tls_client_opts){.pin_sha256 = span_of(pin_ca, 32)}, NULL,
               -ERR_UNAUTHENTICATED, "trusted CA");
    AUTO(buf) struct buf chain = BUF_INIT(PEM);
    buf_span(&chain, buf_view(&g.pki.srv));
    buf_span(&chain, ca);
    ASSERT_OK(tls_config_set_cert(g.tls_s, buf_view(&chain), buf_view(&g.pki.srv_key), &e), &e);
    expect_tls(&g, &(struct tls_client_opts){.pin_sha256 = span_of(pin_ca, 32)}, NULL, 0, NULL);
    expect_tls(&g, &(struct tls_client_opts){.pin_sha256 = span_of(pin_ca, 32)}, "example.org",
               -ERR_UNAUTHENTICATED, "another name");
    /* a bad replacement leaves the old in place */
    ASSERT(tls_config_set_cert(g.tls_s, buf_view(&g.pki.cli), buf_view(&g.pki.srv_key), NULL) < 0);
    expect_tls(&g, &(struct tls_client_opts){.ca_pem = ca}, NULL, 0, NULL);
    rig_stop(&g);
}

TEST(http, tls_client_certificates_must_verify) {
    struct rig g;
    struct err e = ERR_INIT;
    rig_start(&g, T_TLS_H2);
    struct tls_client_opts with = {.ca_pem = buf_view(&g.pki.ca),
                                   .cert_pem = buf_view(&g.pki.cli),
                                   .key_pem = buf_view(&g.pki.cli_key)};
    expect_tls(&g, &with, NULL, 0, "cn=client o=2");
    /* a server certificate is no client certificate */
    struct tls_client_opts wrong = with;
    wrong.cert_pem = buf_view(&g.pki.srv);
    wrong.key_pem = buf_view(&g.pki.srv_key);
    struct got x;
    struct tls_config *tls;
    ASSERT_OK(tls_client_config_new(&tls, &wrong, &e), &e);
    struct http_client_opts co = {.host = "127.0.0.1", .port = g.port, .tls = tls};
    http_client_free(g.c);
    ASSERT_OK(http_client_new(g.l, &co, &g.c, &e), &e);
    tls_config_unref(tls);
    call(&g, &x, "GET", "/hello", SPAN_EMPTY);
    ASSERT(x.rc < 0);
    done(&x);
    /* the CA is replaced: the same client is refused from the next connection on */
    ASSERT_OK(tls_config_set_ca(g.tls_s, buf_view(&g.pki.other_ca), &e), &e);
    ASSERT_OK(tls_client_config_new(&tls, &with, &e), &e);
    co.tls = tls;
    http_client_free(g.c);
    ASSERT_OK(http_client_new(g.l, &co, &g.c, &e), &e);
    tls_config_unref(tls);
    call(&g, &x, "GET", "/hello", SPAN_EMPTY);
    ASSERT(x.rc < 0);
    done(&x);
    rig_stop(&g);
}

/* ---- errors ---- */

TEST(http, client_errors) {
    struct rig g;
    struct err e = ERR_INIT;
    struct got o;
    rig_start(&g, T_H1);
    struct http_client_opts co = {.host = "no.such.name.invalid", .port = 1};
    struct http_client *c = NULL;
    ASSERT_ERR(-ERR_NOT_FOUND, http_client_new(g.l, &co, &c, &e));
    struct http_call_opts bad = {.method = "GET", .target = "/a b"};
    ASSERT_ERR(-ERR_INVALID, http_call_start(g.c, &bad, NULL, NULL));
    bad.target = "/a\r\nx: y";
    ASSERT_ERR(-ERR_INVALID, http_call_start(g.c, &bad, NULL, NULL));
    http_server_free(TAKE(g.s));
    call(&g, &o, "GET", "/hello", SPAN_EMPTY);
    ASSERT_EQ(-ERR_UNAVAILABLE, o.rc);
    done(&o);
    rig_stop(&g);
}

TEST(http, fetch_blocks_until_done) {
    struct rig g;
    rig_start(&g, T_TLS_H2);
    pid_t child = fork();
    if (child == 0) {
        struct err e = ERR_INIT;
        AUTO(buf) struct buf body = BUF_INIT(1 << 20);
        unsigned status = 0;
        struct http_client_opts co = {.host = "127.0.0.1", .port = g.port, .tls = g.tls_c};
        struct http_call_opts o = {.method = "GET", .target = "/hello"};
        int rc = http_fetch(&co, &o, &status, &body, &e);
        _exit(rc == 0 && status == 200 && str_eq(buf_cstr(&body), "hello") ? 0 : 1);
    }
    turn(&g, &g.n_closed, 1);
    int status = 0;
    while (waitpid(child, &status, WNOHANG) == 0) {
        step(&g, 1); /* the answer leaves before the loop sleeps */
    }
    ASSERT_EQ(0, status);
    rig_stop(&g);
}

/* ---- bytes on the wire that a decent client would not send ---- */

static void raw_talk(struct rig *g, const char *send_text, size_t piece, struct buf *out) {
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons(g->port)};
    sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    AUTO_FD int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ASSERT_EQ(0, connect(fd, (struct sockaddr *)&sa, sizeof(sa)));
    size_t n = strlen(send_text);
    for (size_t at = 0; at < n; at += piece) {
        size_t m = n - at < piece ? n - at : piece;
        ssize_t r = send(fd, send_text + at, m, MSG_NOSIGNAL);
        if (r < 0) {
            break;
        }
        step(g, 1);
    }
    shutdown(fd, SHUT_WR);
    for (int i = 0; i < 500; i++) {
        char part[4096];
        ssize_t r = recv(fd, part, sizeof(part), MSG_DONTWAIT);
        if (r == 0) {
            return;
        }
        if (r > 0) {
            buf_add(out, part, (size_t)r);
        }
        step(g, 1);
    }
    fail_msg("the connection stays open after: %s", send_text);
}

TEST(http, http1_on_the_wire) {
    static const struct {
        const char *send, *want, *not_want;
    } cases[] = {
        {"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n", "200 OK", NULL},
        {"GET http://a/hello HTTP/1.1\r\nHost: a\r\n\r\n", "hello", NULL},
        {"GET /hello HTTP/1.0\r\n\r\n", "connection: close", "chunked"},
        {"GET /trailers HTTP/1.0\r\n\r\n", "\r\n\r\nx", "chunked"},
        {"GET /hello HTTP/1.1\r\n\r\n", "400 Bad Request", NULL},
        {"GET /hello HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400 Bad Request", NULL},
        {"GET hello HTTP/1.1\r\nHost: a\r\n\r\n", "400 Bad Request", "200 OK"},
        {"NOISE\r\n\r\n", "400 Bad Request", NULL},
        {"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", "501 Not Implemented", NULL},
        {"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: "
         "chunked\r\n\r\n",
         "400 Bad Request", "200 OK"},
        {"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nT: "
         "v\r\n\r\n",
         "\r\n\r\nabc", NULL},
        {"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc",
         "100 Continue\r\n\r\nHTTP/1.1 200", NULL},
        {"POST /none HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n",
         "404 Not Found", "100 Continue"},
        {"POST /none HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /hello "
         "HTTP/1.1\r\nHost: "
         "a\r\n\r\nGET /hello HTTP/1.1\r\nHost: a\r\n\r\n",
         "hello", NULL},
        {"GET /hello HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", "200 OK",
         NULL},
        {"GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nearly",
         "\r\n\r\nearly", NULL},
        {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnonsense", "", NULL},
    };
    struct rig g;
    rig_start(&g, T_H1);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        static const size_t pieces[] = {100000, 7, 1};
        for (size_t k = 0; k < ARRAY_LEN(pieces); k++) {
            AUTO(buf) struct buf out = BUF_INIT(1 << 20);
            raw_talk(&g, cases[i].send, pieces[k], &out);
            if (!strstr(buf_cstr(&out), cases[i].want) ||
                (cases[i].not_want && strstr(buf_cstr(&out), cases[i].not_want))) {
                fail_msg("case %zu in pieces of %zu: %s", i, pieces[k], buf_cstr(&out));
            }
        }
    }
    rig_stop(&g);
}

TEST(http, heads_have_a_limit) {
    struct rig g;
    rig_start(&g, T_H1);
    AUTO(buf) struct buf out = BUF_INIT(1 << 20), in = BUF_INIT(1 << 20);
    buf_str(&in, "GET /hello HTTP/1.1\r\nHost: a\r\nX: ");
    for (int i = 0; i < 70000; i++) {
        buf_u8(&in, 'a');
    }
    buf_str(&in, "\r\n\r\n");
    raw_talk(&g, buf_cstr(&in), 10000, &out);
    ASSERT(strstr(buf_cstr(&out), "431 "));
    rig_stop(&g);
}

/* ---- hostile HTTP/2 ---- */

static void put_frame(struct buf *b, uint8_t type, uint8_t flags, uint32_t sid, struct span body) {
    buf_u8(b, (uint8_t)(body.n >> 16));
    buf_be16(b, (uint16_t)body.n);
    buf_u8(b, type);
    buf_u8(b, flags);
    buf_be32(b, sid);
    buf_span(b, body);
}

/* Sends for ever what `more` makes, until the server has had enough. */
static void flood(void (*more)(struct buf *b, uint32_t round), bool reads) {
    struct rig g;
    rig_start(&g, T_H2C);
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons(g.port)};
    sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    AUTO_FD int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int small = 4096;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
    ASSERT_EQ(0, connect(fd, (struct sockaddr *)&sa, sizeof(sa)));
    AUTO(buf) struct buf b = BUF_INIT(64 << 20);
    buf_str(&b, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    put_frame(&b, 4, 0, 0, SPAN_EMPTY);
    bool ended = false, begun = false;
    for (uint32_t round = 0; round < 20000 && !ended; round++) {
        char sink[16384];
        more(&b, round);
        ssize_t r = send(fd, b.p, b.n, MSG_NOSIGNAL | MSG_DONTWAIT);
        begun |= http_server_conns(g.s) > 0;
        ended = (r < 0 && errno != EAGAIN) || (begun && !http_server_conns(g.s));
        buf_drop(&b, r > 0 ? (size_t)r : 0);
        step(&g, 1);
        if (reads) {
            r = recv(fd, sink, sizeof(sink), MSG_DONTWAIT);
            ended |= r == 0 || (r < 0 && errno != EAGAIN);
        }
    }
    ASSERT(ended);
    step(&g, 10);
    ASSERT_EQ(0, http_server_conns(g.s));
    rig_stop(&g);
}

/* GET /hold on stream 2n+1, then RST_STREAM: CVE-2023-44487 */
static void rapid_reset(struct buf *b, uint32_t n) {
    put_frame(b, 1, 5, 2 * n + 1, SPAN_LIT("\x82\x86\x04\x05/hold\x01\x01x"));
    put_frame(b, 3, 0, 2 * n + 1, SPAN_LIT("\0\0\0\x08"));
}
static void settings_flood(struct buf *b, uint32_t n) {
    (void)n;
    for (int i = 0; i < 100; i++) {
        put_frame(b, 4, 0, 0, SPAN_EMPTY);
    }
}
/* CONTINUATION without end: CVE-2024-28182 */
static void continuation_flood(struct buf *b, uint32_t n) {
    put_frame(b, n ? 9 : 1, 0, 1, SPAN_LIT("\x40\x01x\x01y"));
}

TEST(http, http2_floods_end_the_connection) {
    flood(rapid_reset, true);
    flood(settings_flood, false); /* whose acknowledgements nobody reads */
    flood(continuation_flood, true);
}

/* ---- a server that closes kept-alive connections at the worst moment ---- */

struct fickle {
    struct loop *l;
    struct loop_io listen, conn;
    unsigned n_conns, n_requests;
};

static void fickle_read(struct loop_io *io, uint32_t ev) {
    struct fickle *f = CONTAINER_OF(io, struct fickle, conn);
    static const char ok[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    char sink[4096];
    (void)ev;
    ssize_t r = recv(io->fd, sink, sizeof(sink), MSG_DONTWAIT);
    if (r > 0 && ++f->n_requests % 2) {
        ASSERT_EQ((ssize_t)sizeof(ok) - 1, send(io->fd, ok, sizeof(ok) - 1, MSG_NOSIGNAL));
        return;
    }
    loop_io_stop(io);
    close(io->fd);
}

static void fickle_accept(struct loop_io *io, uint32_t ev) {
    struct fickle *f = CONTAINER_OF(io, struct fickle, listen);
    struct err e = ERR_INIT;
    (void)ev;
    int fd = accept4(io->fd, NULL, NULL, SOCK_CLOEXEC);
    ASSERT(fd >= 0);
    f->n_conns++;
    ASSERT_OK(loop_io_start(f->l, &f->conn, fd, LOOP_READ, fickle_read, "fickle", &e), &e);
}

TEST(http, idempotent_calls_survive_a_closed_connection) {
    struct rig g;
    struct err e = ERR_INIT;
    struct got o;
    rig_start(&g, T_H1);
    struct fickle f = {.l = g.l};
    struct sockaddr_in sa;
    socklen_t n = sizeof(sa);
    int fd;
    ASSERT_OK(net_listen_tcp("127.0.0.1", 0, &fd, &e), &e);
    ASSERT_EQ(0, getsockname(fd, (struct sockaddr *)&sa, &n));
    ASSERT_OK(loop_io_start(g.l, &f.listen, fd, LOOP_READ, fickle_accept, "fickle", &e), &e);
    struct http_client_opts co = {.host = "127.0.0.1", .port = ntohs(sa.sin_port)};
    http_client_free(g.c);
    ASSERT_OK(http_client_new(g.l, &co, &g.c, &e), &e);
    call(&g, &o, "GET", "/1", SPAN_EMPTY);
    ASSERT_EQ(0, o.rc);
    done(&o);
    call(&g, &o, "GET", "/2", SPAN_EMPTY); /* closed unanswered, then tried on a new connection */
    ASSERT_EQ(0, o.rc);
    done(&o);
    ASSERT_EQ(2, f.n_conns);
    call(&g, &o, "POST", "/3", SPAN_EMPTY); /* may have had its effect: the caller must decide */
    ASSERT_EQ(-ERR_UNAVAILABLE, o.rc);
    done(&o);
    loop_io_stop(&f.conn);
    loop_io_stop(&f.listen);
    close(fd);
    rig_stop(&g);
}
