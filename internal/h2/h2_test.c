/* A client and a server in memory: what each has to send after what it got. */
#include "internal/h2/h2.h"

#include "internal/h2/h2_home.h"

#include "internal/t/t.h"

#include <stdlib.h>

static const struct h2_header request[] = {{SPAN_LIT(":method"), SPAN_LIT("POST")},
                                           {SPAN_LIT(":scheme"), SPAN_LIT("http")},
                                           {SPAN_LIT(":path"), SPAN_LIT("/a/path/of/some/length")},
                                           {SPAN_LIT(":authority"), SPAN_LIT("host")},
                                           {SPAN_LIT("x-own"), SPAN_LIT("value")}};

struct side {
    size_t left, seen; /* of bodies: to be given, taken */
    int32_t asked;
    struct h2_list *kept;
};

static void on_headers(struct h2 *h, int32_t sid, const struct h2_headers *hs, void *ctx) {
    struct side *s = ctx;
    (void)h;
    s->asked = sid;
    if (hs->kind == H2_REQUEST && !s->kept) {
        s->kept = h2_list_ref(hs->list);
    }
}
static void on_data(struct h2 *h, int32_t sid, struct span data, void *ctx) {
    struct side *s = ctx;
    s->seen += data.n;
    h2_consumed(h, sid, data.n);
}
static void on_end(struct h2 *h, int32_t sid, void *ctx) {
    (void)h;
    (void)sid;
    (void)ctx;
}
static void on_close(struct h2 *h, int32_t sid, uint32_t code, void *ctx) {
    (void)h;
    (void)sid;
    (void)code;
    (void)ctx;
}
static void pull(struct h2 *h, int32_t sid, uint8_t *p, size_t max, struct h2_pull *ret,
                 void *ctx) {
    struct side *s = ctx;
    (void)h;
    (void)sid;
    ret->n = s->left < max ? s->left : max;
    memset(p, 'x', ret->n);
    s->left -= ret->n;
    ret->eof = !s->left;
}

static const struct h2_cb cb = {on_headers, on_data, on_end, on_close, pull, NULL, NULL};

/* Bytes that go from one to the other until it has no more. */
static size_t move(struct h2 *from, struct h2 *to) {
    const uint8_t *p;
    const char *why = NULL;
    size_t n, all = 0;
    while ((n = h2_out(from, &p)) > 0) {
        ASSERT_EQ(0, h2_feed(to, span_of(p, n), &why));
        all += n;
    }
    return all;
}

struct pair {
    struct pool *pool;
    struct side cs, ss;
    struct h2 *c, *s;
};

static void pair_open(struct pair *p) {
    *p = (struct pair){.pool = pool_new(POOL_KEEP(1 << 20))};
    struct h2_opts o = {
        .max_streams = 100, .stream_window = 256 * 1024, .conn_window = 4 << 20, .pool = p->pool};
    p->c = h2_new(&o, &cb, &p->cs);
    o.is_server = true;
    p->s = h2_new(&o, &cb, &p->ss);
    while (move(p->c, p->s) + move(p->s, p->c) > 0) {
    }
}

static void pair_close(struct pair *p) {
    h2_free(p->c);
    h2_free(p->s);
    h2_list_unref(p->ss.kept); /* outlives its session */
    pool_free(p->pool);
}

static void ask(struct pair *p, size_t body) {
    int32_t sid;
    p->cs.left = body;
    ASSERT_EQ(0, h2_request(p->c, request, ARRAY_LEN(request), true, &sid));
}

TEST(h2, whole_requests_owe_nothing) {
    struct pair p;
    const uint8_t *out;
    pair_open(&p);
    for (int i = 0; i < 20; i++) {
        ask(&p, 300);
        move(p.c, p.s);
        ASSERT_EQ(300 * (size_t)(i + 1), p.ss.seen);
        ASSERT_EQ(0, h2_out(p.s, &out));
        struct h2_header a[] = {{SPAN_LIT(":status"), SPAN_LIT("200")}};
        ASSERT_EQ(0, h2_respond(p.s, p.ss.asked, a, 1, false));
        ASSERT(move(p.s, p.c) > 0);
    }
    h2_ping(p.c);
    move(p.c, p.s);
    ASSERT(h2_out(p.s, &out) == 9 + 8); /* its answer */
    pair_close(&p);
}

TEST(h2, windows_stay_open) {
    struct pair p;
    pair_open(&p);
    ask(&p, 6 << 20); /* more than both windows */
    while (move(p.c, p.s) + move(p.s, p.c) > 0) {
    }
    ASSERT_EQ((size_t)6 << 20, p.ss.seen);
    pair_close(&p);
}

/* No frame is reported for any of these, but something is to be said. */
TEST(h2, what_is_wrong_is_answered) {
    static const uint8_t large[9] = {0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1};
    static const uint8_t even[9] = {0, 0, 0, 1, 5, 0, 0, 0, 2};
    static const uint8_t zero_data[9] = {0, 0, 0, 0, 1, 0, 0, 0, 0};
    const uint8_t *bad[] = {large, even, zero_data};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct pair p;
        const uint8_t *out;
        const char *why;
        pair_open(&p);
        ask(&p, 10);
        move(p.c, p.s);
        IGNORE_ERR(h2_feed(p.s, span_of(bad[i], 9), &why), "the answer counts");
        ASSERT(h2_out(p.s, &out) >= 9 + 8);
        ASSERT_EQ(7, out[3]); /* GOAWAY */
        pair_close(&p);
    }
}

/* More texts than the session's own memory holds, and larger ones. */
TEST(h2, many_fields) {
    struct pair p;
    struct h2_header hs[5 + 60];
    char name[60][16], value[200];
    pair_open(&p);
    memset(value, 'v', sizeof(value));
    memcpy(hs, request, sizeof(request));
    for (size_t i = 0; i < 60; i++) {
        ASSERT_EQ(0, str_put(name[i], sizeof(name[i]), "x-%zu", i));
        hs[5 + i] = (struct h2_header){span_str(name[i]), span_of(value, 3 * i)};
    }
    for (int i = 0; i < 3; i++) {
        int32_t sid;
        p.cs.left = 1;
        ASSERT_EQ(0, h2_request(p.c, hs, ARRAY_LEN(hs), true, &sid));
        move(p.c, p.s);
        ASSERT_EQ(sid, p.ss.asked);
    }
    pair_close(&p);
}

/* Blocks of all sizes come, grow and go in any order, none of them touching another; the last one frees the home. */
TEST(h2, home) {
    enum { N = 100 };
    struct pool *pool = pool_new(0);
    struct h2_home *h = aligned_alloc(_Alignof(struct h2_home), sizeof(*h));
    uint8_t *at[N] = {0};
    size_t size[N] = {0};
    uint64_t x = 1;
    CHECK(h);
    h2_home_init(h, pool, true);
    for (unsigned step = 0; step < 20000 + N; step++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        size_t i = step < 20000 ? (x >> 33) % N : step - 20000;
        size_t n = (x >> 20) % 50 == 0 ? 3000 : 1 + (x >> 45) % 200;
        for (size_t k = 0; k < size[i]; k++) {
            ASSERT_EQ((int)i, at[i][k]);
        }
        if (step >= 20000 || (at[i] && x >> 63)) {
            h2_home_put(TAKE(at[i]), h);
            size[i] = 0;
        } else {
            at[i] = h2_home_resize(at[i], n, h);
            for (size_t k = 0; k < size[i] && k < n; k++) {
                ASSERT_EQ((int)i, at[i][k]);
            }
            memset(at[i], (int)i, n);
            size[i] = n;
        }
        if (step == 20000) {
            h2_home_leave(h); /* some are out */
        }
    }
    pool_free(pool);
}
