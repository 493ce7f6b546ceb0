/* The bytes of a hostile peer, against a server that answers everything and a client with open requests. */
#include "internal/h2/h2.h"

#include "internal/t/t.h"

struct side {
    bool is_server;
    size_t open, given;
};

static void on_headers(struct h2 *h, int32_t sid, const struct h2_headers *hs, void *ctx) {
    struct side *s = ctx;
    CHECK(hs->n <= LIM_H2_FIELDS);
    if (hs->kind == H2_REQUEST && s->is_server) {
        struct h2_header a[] = {{SPAN_LIT(":status"), SPAN_LIT("200")}};
        s->open++;
        IGNORE_ERR(h2_respond(h, sid, a, 1, sid % 3 != 0), "must only survive");
        if (sid % 5 == 0) {
            h2_reset(h, sid, H2_CANCEL);
        }
    }
}
static void on_data(struct h2 *h, int32_t sid, struct span data, void *ctx) {
    (void)ctx;
    h2_consumed(h, sid, data.n);
}
static void on_end(struct h2 *h, int32_t sid, void *ctx) {
    (void)ctx;
    h2_wake(h, sid);
}
static void on_close(struct h2 *h, int32_t sid, uint32_t code, void *ctx) {
    struct side *s = ctx;
    (void)h;
    (void)sid;
    (void)code;
    if (s->is_server && s->open) {
        s->open--;
    }
}
static void pull(struct h2 *h, int32_t sid, uint8_t *p, size_t max, struct h2_pull *ret,
                 void *ctx) {
    static const struct h2_header t[] = {{SPAN_LIT("t"), SPAN_LIT("v")}};
    struct side *s = ctx;
    (void)h;
    ret->n = max < 10 ? max : 10;
    ret->by_reference = s->is_server && ret->n == 10 && sid % 3 == 0;
    if (!ret->by_reference) {
        memset(p, 'x', ret->n);
    }
    s->given += ret->n;
    ret->eof = sid % 2 || s->given > 1000;
    ret->trailers = t;
    ret->n_trailers = sid % 7 == 1;
}

static int push(struct h2 *h, int32_t sid, struct span head, size_t n, void *ctx) {
    (void)h;
    (void)ctx;
    CHECK(head.n == 9 && n == 10);
    return sid % 11 == 3 ? -ERR_IO : 0;
}

static void drain(struct h2 *h) {
    const uint8_t *p;
    for (int i = 0; i < 1000 && h2_out(h, &p); i++) {
    }
}

FUZZ(h2_peer)(const uint8_t *p, size_t n) {
    static const struct h2_cb cb = {on_headers, on_data, on_end, on_close, pull, push, NULL};
    static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const char *why = NULL;
    if (!n) {
        return 0;
    }
    struct side s = {.is_server = p[0] & 1};
    struct h2_opts o = {.is_server = s.is_server,
                        .max_streams = 10,
                        .stream_window = 1 << 16,
                        .conn_window = 1 << 20,
                        .pool = pool_new(0)};
    struct h2 *h = h2_new(&o, &cb, &s);
    struct span in = span_of(p + 1, n - 1), part;
    int rc = 0;
    if (s.is_server) {
        rc = h2_feed(h, span_str(preface), &why);
    } else {
        struct h2_header q[] = {{SPAN_LIT(":method"), SPAN_LIT("GET")},
                                {SPAN_LIT(":scheme"), SPAN_LIT("http")},
                                {SPAN_LIT(":authority"), SPAN_LIT("a")},
                                {SPAN_LIT(":path"), SPAN_LIT("/")}};
        int32_t sid;
        for (int i = 0; i < 3; i++) {
            CHECK(h2_request(h, q, 4, i == 1, &sid) == 0);
        }
    }
    drain(h);
    while (in.n && rc == 0) {
        size_t k = (p[0] >> 1) % 100 + 1u;
        IGNORE_ERR(span_take(&in, in.n < k ? in.n : k, &part), "inside");
        rc = h2_feed(h, part, &why);
        drain(h);
    }
    CHECK(s.open <= 10 + 1);
    h2_free(h);
    pool_free(o.pool);
    return 0;
}
