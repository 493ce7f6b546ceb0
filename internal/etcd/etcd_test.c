/* The client against a member that does what a test tells it, on one loop with virtual time. The promises of store.h are
 * tested on real clusters (store_face_test.c with STORE=etcd). */
#include "internal/etcd/etcd_int.h"

#include "internal/base/rand.h"
#include "internal/sys/sys.h"
#include "internal/t/t.h"
#include "internal/wire/wire.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- names ---- */

static void names_of(struct names *n, const char *prefix, const char *first, const char *end,
                     bool rooted) {
    *n = (struct names){span_str(prefix), span_str(first), span_str(end), rooted};
}

static void assert_interval(const struct names *n, struct span key, struct span end,
                            const char *want_key, const char *want_end) {
    AUTO(buf) struct buf b = BUF_INIT(4096);
    const struct store_range_req q = {.key = key, .end = end};
    struct wire_field f;
    etcd_enc_range(&b, n, &q);
    struct span m = buf_view(&b);
    ASSERT_EQ(1, wire_next(&m, &f));
    ASSERT_SPAN(want_key, f.bytes);
    ASSERT_EQ(want_end != NULL, wire_next(&m, &f));
    if (want_end != NULL) {
        ASSERT_EQ(2, f.no);
        ASSERT_SPAN(want_end, f.bytes);
    }
}

TEST(etcd, keys_stay_behind_the_prefix) {
    struct names n;
    names_of(&n, "/k/a", "/k/a/", "/k/a0", true);
    assert_interval(&n, SPAN_LIT("/x"), SPAN_EMPTY, "/k/a/x", NULL);
    assert_interval(&n, SPAN_LIT("/x"), SPAN_LIT("/y"), "/k/a/x", "/k/a/y");
    /* "/k/a-b" and "/k/ab" are neighbours, not ours. */
    assert_interval(&n, SPAN_LIT("\0"), SPAN_LIT("\0"), "/k/a/", "/k/a0");
    assert_interval(&n, SPAN_LIT("-"), SPAN_LIT("b"), "/k/a/", "/k/a0");
    assert_interval(&n, SPAN_LIT("-"), SPAN_LIT("."), "/k/a/", "/k/a/");
    names_of(&n, "p", "p", "q", false);
    assert_interval(&n, SPAN_LIT("x"), SPAN_LIT("\0"), "px", "q");
    names_of(&n, "", "\0", "\0", false);
    assert_interval(&n, SPAN_LIT("x"), SPAN_LIT("y"), "x", "y");
}

TEST(etcd, endpoints) {
    static const struct {
        const char *url, *authority;
        bool tls, is_name;
    } good[] = {
        {"https://10.0.0.1:2379", "10.0.0.1:2379", true, false},
        {"http://[::1]:4001/", "[::1]:4001", false, false},
        {"https://127.0.0.1", "127.0.0.1:2379", true, false},
        {"https://etcd-0.etcd.default.svc:2379", "etcd-0.etcd.default.svc:2379", true, true},
        {"https://localhost", "localhost:2379", true, true},
        {"http://localhost", "localhost:2379", false, false},
        {"http://etcd.example", "etcd.example:2379", false, true},
        {"unix:///run/x.sock", "localhost", false, false}};
    static const char *const bad[] = {"",
                                      "10.0.0.1:2379",
                                      "https://",
                                      "https://h:0",
                                      "https://[",
                                      "https://1.2.3.4/x",
                                      "ftp://1.2.3.4",
                                      "unix:",
                                      "https://a..b",
                                      "https://-a",
                                      "https://a b",
                                      "https://.a"};
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        struct endpoint ep;
        struct err e = ERR_INIT;
        ASSERT_OK(etcd_endpoint_parse(&ep, good[i].url, &e), &e);
        ASSERT_STREQ(good[i].authority, ep.authority);
        ASSERT_EQ(good[i].tls, ep.tls);
        ASSERT_EQ(good[i].is_name, ep.is_name);
        etcd_endpoint_fini(&ep);
    }
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct endpoint ep;
        struct err e = ERR_INIT;
        ASSERT_ERR(-ERR_INVALID, etcd_endpoint_parse(&ep, bad[i], &e));
        etcd_endpoint_fini(&ep);
    }
}

/* ---- the member ---- */

enum act { ANSWER, LOSE, REFUSE, NO_LEADER, SILENT, GARBAGE, HUGE };

struct answer { /* what is still to be sent on a stream */
    struct list link;
    int32_t sid;
    struct buf out;
    size_t sent, huge;
    const char *status, *text;
    struct h2_header trailers[2];
    bool is_end;
};

struct member {
    struct loop *l;
    struct loop_io io;
    int fd;
    char dir[64], url[96];
    struct net_stream *st;
    struct h2 *h2;
    struct list answers;
    struct loop_hook pump;
    int64_t rev;
    uint64_t cluster;
    const char *version;
    enum act next_txn, next_range; /* for one request each */
    size_t n_conns, n_txns, n_ranges, n_watches, n_progress;
    int32_t watch_sid;
    int64_t watch_from;
    bool lose;
    char paths[LIM_H2_FIELDS][64]; /* by stream id / 2 */
};

static void kick(struct member *m);

static void hang_up(struct member *m) {
    loop_hook_cancel(&m->pump);
    net_close(TAKE(m->st));
    h2_free(TAKE(m->h2));
    m->watch_sid = 0;
    m->lose = false;
    while (!list_empty(&m->answers)) {
        struct answer *a = CONTAINER_OF(m->answers.next, struct answer, link);
        list_del(&a->link);
        buf_fini(&a->out);
        free(a);
    }
}

static void pump(void *ctx) {
    struct member *m = ctx;
    const uint8_t *p;
    size_t n;
    bool more = false;
    if (m->lose) {
        hang_up(m);
    }
    while (m->h2 && (n = h2_out(m->h2, &p)) > 0) {
        net_queue_add(net_out(m->st), span_of(p, n));
        more = true;
    }
    if (more) {
        net_kick(m->st);
    }
}
static void kick(struct member *m) {
    loop_before_sleep(m->l, &m->pump, pump, m);
}

static struct answer *begin(struct member *m, int32_t sid) {
    const struct h2_header h[] = {{SPAN_LIT(":status"), SPAN_LIT("200")},
                                  {SPAN_LIT("content-type"), SPAN_LIT("application/grpc")}};
    struct answer *a = new_zero(struct answer);
    a->sid = sid;
    buf_init(&a->out, 64 << 20);
    list_add_tail(&m->answers, &a->link);
    ASSERT_EQ(0, h2_respond(m->h2, sid, h, ARRAY_LEN(h), true));
    return a;
}

static void end(struct member *m, struct answer *a, const char *status, const char *text) {
    a->status = status;
    a->text = text;
    a->is_end = true;
    h2_wake(m->h2, a->sid);
    kick(m);
}

static void header(struct buf *b, const struct member *m, int64_t rev) {
    size_t h = wire_begin(b, 1);
    wire_u64(b, 1, m->cluster);
    wire_u64(b, 2, 1);
    wire_i64(b, 3, rev);
    wire_end(b, h);
}

static void event(struct buf *b, const char *key, const char *value, int64_t rev) {
    size_t ev = wire_begin(b, 11), kv = wire_begin(b, 2);
    wire_bytes(b, 1, span_str(key));
    wire_i64(b, 2, rev);
    wire_i64(b, 3, rev);
    wire_i64(b, 4, 1);
    wire_bytes(b, 5, span_str(value));
    wire_end(b, kv);
    wire_end(b, ev);
}

static struct answer *watch_stream(struct member *m) {
    for (LIST_EACH(p, next, &m->answers)) {
        struct answer *a = CONTAINER_OF(p, struct answer, link);
        if (a->sid == m->watch_sid) {
            return a;
        }
    }
    fail_msg("nobody watches");
    return NULL;
}

/* One message on the watch's stream; `fill` what follows the header. */
static size_t push_begin(struct member *m, struct answer **ret, int64_t rev) {
    *ret = watch_stream(m);
    size_t mark = grpc_begin(&(*ret)->out);
    header(&(*ret)->out, m, rev);
    return mark;
}
static void push_end(struct member *m, struct answer *a, size_t mark) {
    grpc_end(&a->out, mark);
    h2_wake(m->h2, a->sid);
    kick(m);
}
static void push_event(struct member *m, const char *key, const char *value, int64_t rev) {
    struct answer *a;
    size_t mark = push_begin(m, &a, rev);
    event(&a->out, key, value, rev);
    push_end(m, a, mark);
}

static void on_txn(struct member *m, int32_t sid) {
    enum act act = m->next_txn;
    m->n_txns++;
    m->next_txn = ANSWER;
    if (act == LOSE) {
        m->lose = true;
        kick(m);
        return;
    }
    if (act == REFUSE) {
        h2_reset(m->h2, sid, H2_REFUSED);
        kick(m);
        return;
    }
    if (act == SILENT) {
        return;
    }
    struct answer *a = begin(m, sid);
    if (act == NO_LEADER) {
        end(m, a, "14", "etcdserver: no leader");
        return;
    }
    size_t mark = grpc_begin(&a->out);
    if (act == GARBAGE) {
        buf_str(&a->out, "\xff\xff\xff");
    } else { /* to one put */
        header(&a->out, m, ++m->rev);
        wire_bool(&a->out, 2, true);
        size_t r = wire_begin(&a->out, 3), p = wire_begin(&a->out, 2);
        wire_end(&a->out, p);
        wire_end(&a->out, r);
    }
    grpc_end(&a->out, mark);
    end(m, a, "0", "");
}

static void on_range(struct member *m, int32_t sid, bool is_probe) {
    enum act act = is_probe ? ANSWER : m->next_range;
    m->n_ranges += !is_probe;
    m->next_range = is_probe ? m->next_range : ANSWER;
    if (act == LOSE) {
        m->lose = true;
        kick(m);
        return;
    }
    struct answer *a = begin(m, sid);
    size_t mark = grpc_begin(&a->out);
    header(&a->out, m, m->rev);
    grpc_end(&a->out, mark);
    if (act == HUGE) {
        a->huge = 40u << 20;
        buf_reset(&a->out);
        buf_u8(&a->out, 0);
        buf_be32(&a->out, 40u << 20);
    }
    end(m, a, "0", "");
}

static void on_status(struct member *m, int32_t sid) {
    struct answer *a = begin(m, sid);
    size_t mark = grpc_begin(&a->out);
    header(&a->out, m, m->rev);
    wire_bytes(&a->out, 2, span_str(m->version));
    grpc_end(&a->out, mark);
    end(m, a, "0", "");
}

static void on_watch(struct member *m, int32_t sid, struct span body) {
    struct wire_field f, c;
    struct span in, skipped;
    ASSERT_EQ(0, span_take(&body, 5, &skipped));
    ASSERT_EQ(1, wire_next(&body, &f));
    if (f.no == 3) {
        m->n_progress++;
        return;
    }
    m->n_watches++;
    m->watch_sid = sid;
    m->watch_from = 0;
    in = f.bytes;
    while (wire_next(&in, &c) > 0) {
        m->watch_from = c.no == 3 ? (int64_t)c.v : m->watch_from;
    }
    struct answer *a = begin(m, sid);
    size_t mark = grpc_begin(&a->out);
    header(&a->out, m, m->rev);
    wire_bool(&a->out, 3, true);
    push_end(m, a, mark);
}

static void s_headers(struct h2 *h, int32_t sid, const struct h2_headers *hs, void *ctx) {
    struct member *m = ctx;
    (void)h;
    for (size_t i = 0; i < hs->n; i++) {
        if (span_eq_str(hs->h[i].name, ":path")) {
            ASSERT_EQ(0, span_to_cstr(hs->h[i].value, m->paths[sid / 2], sizeof(m->paths[0])));
        }
    }
}
static void s_data(struct h2 *h, int32_t sid, struct span data, void *ctx) {
    struct member *m = ctx;
    const char *path = m->paths[sid / 2];
    h2_consumed(h, sid, data.n);
    if (strstr(path, "Watch/Watch")) {
        on_watch(m, sid, data);
    } else if (strstr(path, "KV/Range")) {
        on_range(m, sid, data.n == 5 + 5); /* the probe: one key, counted */
    }
}
static void s_end(struct h2 *h, int32_t sid, void *ctx) {
    struct member *m = ctx;
    (void)h;
    if (strstr(m->paths[sid / 2], "KV/Txn")) {
        on_txn(m, sid);
    } else if (strstr(m->paths[sid / 2], "/Status")) {
        on_status(m, sid);
    }
}
static void s_close(struct h2 *h, int32_t sid, uint32_t code, void *ctx) {
    struct member *m = ctx;
    (void)h;
    (void)code;
    m->watch_sid = m->watch_sid == sid ? 0 : m->watch_sid;
}
static void s_pull(struct h2 *h, int32_t sid, uint8_t *p, size_t max, struct h2_pull *ret,
                   void *ctx) {
    struct member *m = ctx;
    (void)h;
    for (LIST_EACH(at, next, &m->answers)) {
        struct answer *a = CONTAINER_OF(at, struct answer, link);
        if (a->sid != sid) {
            continue;
        }
        size_t left = a->out.n - a->sent, n = left < max ? left : max;
        if (n) {
            memcpy(p, a->out.p + a->sent, n);
            a->sent += n;
        } else if (a->huge) {
            n = a->huge < max ? a->huge : max;
            memset(p, 0, n);
            a->huge -= n;
        }
        ret->n = n;
        if (a->is_end && a->sent == a->out.n && !a->huge) {
            a->trailers[0] = (struct h2_header){SPAN_LIT("grpc-status"), span_str(a->status)};
            a->trailers[1] = (struct h2_header){SPAN_LIT("grpc-message"), span_str(a->text)};
            ret->eof = true;
            ret->trailers = a->trailers;
            ret->n_trailers = ARRAY_LEN(a->trailers);
        }
        return;
    }
    ret->failed = true;
}

static void m_readable(struct net_stream *st, void *ctx) {
    struct member *m = ctx;
    uint8_t in[4096];
    const char *why = "";
    struct err e = ERR_INIT;
    for (ssize_t n; m->h2 && (n = net_read(st, in, sizeof(in), &e)) != -ERR_AGAIN;) {
        if (n <= 0 || h2_feed(m->h2, span_of(in, (size_t)n), &why) < 0) {
            hang_up(m);
            return;
        }
    }
    kick(m);
}
static void m_open(struct net_stream *st, void *ctx) {
    (void)st;
    kick(ctx);
}
static void m_drain(struct net_stream *st, void *ctx) {
    (void)st;
    kick(ctx);
}
static void m_fail(struct net_stream *st, int rc, const struct err *e, void *ctx) {
    (void)st;
    (void)rc;
    (void)e;
    hang_up(ctx);
}

static void on_accept(struct loop_io *io, uint32_t events) {
    static const struct net_cb cb = {m_open, m_readable, m_drain, m_fail};
    static const struct h2_cb h2cb = {.on_headers = s_headers,
                                      .on_data = s_data,
                                      .on_end = s_end,
                                      .on_close = s_close,
                                      .pull = s_pull};
    struct member *m = CONTAINER_OF(io, struct member, io);
    const struct h2_opts o = {.is_server = true,
                              .max_streams = 100,
                              .stream_window = 1 << 20,
                              .conn_window = 1 << 24,
                              .pool = loop_pool(m->l)};
    struct err e = ERR_INIT;
    (void)events;
    int fd = accept4(io->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    ASSERT(fd >= 0);
    hang_up(m);
    m->n_conns++;
    m->h2 = h2_new(&o, &h2cb, m);
    ASSERT_OK(net_stream_new(m->l, fd, NULL, &cb, m, &m->st, &e), &e);
}

/* ---- both ---- */

struct pair {
    struct loop *l;
    struct member m;
    struct store *s;
};

static void pair_open(struct pair *p) {
    struct err e = ERR_INIT;
    *p = (struct pair){0};
    struct member *m = &p->m;
    ASSERT_OK(loop_new_virtual(&p->l, NS_PER_S, &e), &e);
    m->l = p->l;
    m->rev = 10;
    m->cluster = 7;
    m->version = "3.5.16";
    list_init(&m->answers);
    IGNORE_ERR(str_put(m->dir, sizeof(m->dir), "/tmp/kf-etcd-XXXXXX"), "fits");
    ASSERT(mkdtemp(m->dir) != NULL);
    IGNORE_ERR(str_put(m->url, sizeof(m->url), "unix://%s/s", m->dir), "fits");
    ASSERT_OK(net_listen_unix(m->url + 7, 0600, &m->fd, &e), &e);
    ASSERT_OK(loop_io_start(p->l, &m->io, m->fd, LOOP_READ, on_accept, "member", &e), &e);
    const char *urls[] = {m->url};
    const struct etcd_opts o = {.endpoints = urls, .n_endpoints = 1};
    ASSERT_OK(etcd_open(p->l, &o, &p->s, &e), &e);
}

static void pair_close(struct pair *p) {
    struct err e = ERR_INIT;
    store_close(p->s);
    hang_up(&p->m);
    loop_io_stop(&p->m.io);
    close(p->m.fd);
    loop_free(p->l);
    ASSERT_OK(sys_rmtree(AT_FDCWD, p->m.dir, &e), &e);
}

static void steps(struct pair *p, int n) {
    struct err e = ERR_INIT;
    for (int i = 0; i < n; i++) {
        ASSERT_OK(loop_step(p->l, 0, &e), &e);
    }
}

struct got {
    int n, rc;
    struct err e;
};

static void on_done(void *ctx, struct store_txn *t, int rc, const struct err *e) {
    struct got *g = ctx;
    (void)t;
    g->n++;
    g->rc = rc;
    if (rc < 0) {
        g->e = *e;
    }
}

static void put(struct pair *p, struct got *g) {
    *g = (struct got){0};
    struct store_txn *t = store_txn_new(0);
    store_txn_put(t, &t->body.then, SPAN_LIT("k"), SPAN_LIT("v"), 0);
    store_txn(p->s, t, on_done, g);
    ASSERT_EQ(0, g->n);
}

static int until(struct pair *p, struct got *g) {
    for (int i = 0; i < 20000 && !g->n; i++) {
        steps(p, 1);
    }
    ASSERT_EQ(1, g->n);
    return g->rc;
}

static void on_range_done(void *ctx, int rc, const struct store_range_res *r, const struct err *e) {
    struct got *g = ctx;
    (void)r;
    g->n++;
    g->rc = rc;
    if (rc < 0) {
        g->e = *e;
    }
}

static int get(struct pair *p, struct got *g) {
    struct err e = ERR_INIT;
    const struct store_range_req q = {.key = SPAN_LIT("x")};
    *g = (struct got){0};
    ASSERT_OK(store_range_async(p->s, &q, 0, on_range_done, g, &e), &e);
    return until(p, g);
}

TEST(etcd, a_write_of_unknown_outcome_goes_out_once) {
    struct pair p;
    struct got g;
    pair_open(&p);
    put(&p, &g);
    ASSERT_EQ(0, until(&p, &g));
    p.m.next_txn = LOSE;
    put(&p, &g);
    ASSERT_EQ(-ERR_INTERNAL, until(&p, &g));
    ASSERT_STREQ("etcdserver: request timed out, possibly due to connection lost",
                 err_public(&g.e));
    ASSERT_EQ(2, p.m.n_txns);
    put(&p, &g); /* and the connection comes back */
    ASSERT_EQ(0, until(&p, &g));
    ASSERT_EQ(3, p.m.n_txns);
    ASSERT_EQ(2, p.m.n_conns);
    p.m.next_txn = SILENT;
    put(&p, &g);
    ASSERT_EQ(-ERR_TIMEOUT, until(&p, &g));
    ASSERT_STREQ("etcdserver: request timed out", err_public(&g.e));
    ASSERT_EQ(4, p.m.n_txns);
    p.m.next_txn = GARBAGE;
    put(&p, &g);
    ASSERT_EQ(-ERR_INTERNAL, until(&p, &g));
    pair_close(&p);
}

TEST(etcd, a_write_that_was_surely_not_done_is_sent_again) {
    struct pair p;
    struct got g;
    pair_open(&p);
    p.m.next_txn = REFUSE;
    put(&p, &g);
    ASSERT_EQ(0, until(&p, &g));
    ASSERT_EQ(2, p.m.n_txns);
    ASSERT_EQ(1, p.m.n_conns);
    p.m.next_txn = NO_LEADER; /* said before it proposes: another member is asked */
    put(&p, &g);
    ASSERT_EQ(0, until(&p, &g));
    ASSERT_EQ(4, p.m.n_txns);
    ASSERT_EQ(2, p.m.n_conns);
    pair_close(&p);
}

TEST(etcd, reads_are_repeated_and_bounded) {
    struct pair p;
    struct got g;
    pair_open(&p);
    p.m.next_range = LOSE;
    ASSERT_EQ(0, get(&p, &g));
    ASSERT_EQ(2, p.m.n_ranges);
    p.m.next_range = HUGE; /* a point cannot be read in pages */
    ASSERT_EQ(-ERR_LIMIT, get(&p, &g));
    ASSERT_EQ(0, get(&p, &g));
    ASSERT_EQ(2, p.m.n_conns);
    /* Nobody there: an error when the time is over, and the state says it. */
    loop_io_stop(&p.m.io);
    close(p.m.fd);
    hang_up(&p.m);
    ASSERT_EQ(-ERR_UNAVAILABLE, get(&p, &g));
    struct store_stat st;
    store_stat(p.s, &st);
    ASSERT(st.trouble != NULL);
    p.m.fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    pair_close(&p);
}

/* ---- the feed ---- */

struct seen {
    struct buf text;
    int64_t rev;
    int rc;
    size_t n_progress;
};

static int on_events(void *ctx, struct store_watch *w, const struct store_watch_msg *m) {
    struct seen *s = ctx;
    (void)w;
    for (size_t i = 0; i < m->n; i++) {
        buf_fmt(&s->text, "%.*s@%lld ", SPAN_FMT(m->events[i]->kv.key),
                (long long)m->events[i]->kv.mod_rev);
    }
    if (m->n) {
        buf_str(&s->text, "| ");
    }
    s->n_progress += m->kind == STORE_WATCH_PROGRESS;
    s->rc = m->kind == STORE_WATCH_CANCELLED ? m->rc : s->rc;
    s->rev = m->rev;
    return 0;
}

static struct store_watch *watch(struct pair *p, struct seen *s, int64_t from) {
    struct store_watch *w = NULL;
    struct err e = ERR_INIT;
    const struct store_watch_req q = {
        .key = SPAN_LIT("a"), .end = SPAN_LIT("z"), .start_rev = from};
    *s = (struct seen){.text = BUF_INIT(1 << 16)};
    ASSERT_OK(store_watch_start(p->s, &q, on_events, s, &w, &e), &e);
    for (int i = 0; i < 2000 && !p->m.watch_sid; i++) {
        steps(p, 1);
    }
    steps(p, 20);
    return w;
}

TEST(etcd, an_answer_waits_for_the_event) {
    struct pair p;
    struct got g;
    struct seen s;
    pair_open(&p);
    struct store_watch *w = watch(&p, &s, 0);
    ASSERT_EQ(11, p.m.watch_from);
    put(&p, &g);
    while (p.m.n_txns == 0) {
        steps(&p, 1);
    }
    ASSERT_EQ(0, g.n); /* etcd answers, the watch has not yet */
    push_event(&p.m, "k", "v", 11);
    ASSERT_EQ(0, until(&p, &g));
    ASSERT_STREQ("k@11 | ", buf_cstr(&s.text));
    ASSERT_EQ(11, store_rev(p.s));
    /* One that is never reported: not success, and not for ever. */
    put(&p, &g);
    ASSERT_EQ(-ERR_TIMEOUT, until(&p, &g));
    store_watch_stop(w);
    buf_fini(&s.text);
    pair_close(&p);
}

TEST(etcd, a_lost_watch_goes_on_where_it_stopped) {
    struct pair p;
    struct seen s;
    pair_open(&p);
    struct store_watch *w = watch(&p, &s, 0);
    push_event(&p.m, "k", "1", 12);
    steps(&p, 50);
    p.m.rev = 12;
    p.m.lose = true;
    kick(&p.m);
    for (int i = 0; i < 5000 && p.m.n_watches < 2; i++) {
        steps(&p, 1);
    }
    ASSERT_EQ(2, p.m.n_watches);
    ASSERT_EQ(13, p.m.watch_from);
    steps(&p, 20);
    push_event(&p.m, "k", "old", 12); /* a member that lags (etcd#20221) */
    push_event(&p.m, "k", "2", 13);
    steps(&p, 50);
    ASSERT_STREQ("k@12 | k@13 | ", buf_cstr(&s.text));
    store_watch_stop(w);
    buf_fini(&s.text);
    pair_close(&p);
}

TEST(etcd, revisions_in_pieces_are_given_whole) {
    struct pair p;
    struct seen s;
    struct answer *a;
    pair_open(&p);
    struct store_watch *w = watch(&p, &s, 0);
    size_t mark = push_begin(&p.m, &a, 12);
    event(&a->out, "a", "1", 11);
    event(&a->out, "b", "1", 12);
    wire_bool(&a->out, 7, true);
    push_end(&p.m, a, mark);
    steps(&p, 50);
    ASSERT_STREQ("a@11 | ", buf_cstr(&s.text));
    mark = push_begin(&p.m, &a, 12);
    event(&a->out, "c", "1", 12);
    push_end(&p.m, a, mark);
    steps(&p, 50);
    ASSERT_STREQ("a@11 | b@12 c@12 | ", buf_cstr(&s.text));
    store_watch_stop(w);
    buf_fini(&s.text);
    pair_close(&p);
}

TEST(etcd, compacted_and_other_histories_end_the_watch) {
    struct pair p;
    struct seen s;
    struct answer *a;
    pair_open(&p);
    struct store_watch *w = watch(&p, &s, 3);
    ASSERT_EQ(3, p.m.watch_from);
    size_t mark = push_begin(&p.m, &a, 10);
    wire_bool(&a->out, 4, true);
    wire_i64(&a->out, 5, 8);
    push_end(&p.m, a, mark);
    steps(&p, 50);
    ASSERT_EQ(-ERR_GONE, s.rc);
    ASSERT_EQ(8, store_compact_rev(p.s));
    store_watch_stop(w);
    buf_fini(&s.text);
    w = watch(&p, &s, 11);
    p.m.lose = true;
    p.m.rev = 4; /* restored from an older state */
    kick(&p.m);
    for (int i = 0; i < 5000 && !s.rc; i++) {
        steps(&p, 1);
    }
    ASSERT_EQ(-ERR_GONE, s.rc);
    ASSERT_EQ(4, store_rev(p.s));
    store_watch_stop(w);
    buf_fini(&s.text);
    pair_close(&p);
}

TEST(etcd, progress_is_believed_by_version) {
    struct pair p;
    struct seen s;
    struct answer *a;
    pair_open(&p);
    struct store_watch *w = watch(&p, &s, 0);
    store_watch_progress(w);
    steps(&p, 50);
    ASSERT(p.m.n_progress >= 1);
    ASSERT_EQ(0, p.m.n_txns);
    size_t mark = push_begin(&p.m, &a, 20);
    wire_i64(&a->out, 2, -1);
    push_end(&p.m, a, mark);
    steps(&p, 50);
    ASSERT_EQ(1, s.n_progress);
    ASSERT_EQ(20, store_rev(p.s));
    /* 3.5.7 may say so before it has sent the events. */
    p.m.version = "3.5.7";
    p.m.rev = 20;
    p.m.lose = true;
    kick(&p.m);
    for (int i = 0; i < 5000 && p.m.n_watches < 2; i++) {
        steps(&p, 1);
    }
    steps(&p, 20);
    mark = push_begin(&p.m, &a, 30);
    wire_i64(&a->out, 2, -1);
    push_end(&p.m, a, mark);
    steps(&p, 50);
    ASSERT_EQ(20, store_rev(p.s));
    store_watch_stop(w);
    buf_fini(&s.text);
    pair_close(&p);
}
