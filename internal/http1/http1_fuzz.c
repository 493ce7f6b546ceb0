/* However the input is cut, the parser says the same. */
#include "internal/http1/http1.h"

#include "internal/t/t.h"

struct record {
    struct buf text;
    bool refuse;
};

static int on_head(struct http1 *p, void *ctx) {
    struct record *r = ctx;
    struct span name, value;
    buf_fmt(&r->text, "H %.*s %.*s %u k%d u%d b%d;", SPAN_FMT(http1_method(p)),
            SPAN_FMT(http1_target(p)), http1_status(p), http1_keep_alive(p), http1_wants_upgrade(p),
            http1_has_body(p));
    for (size_t i = 0; http1_header_at(p, i, &name, &value); i++) {
        buf_fmt(&r->text, "%.*s=%.*s;", SPAN_FMT(name), SPAN_FMT(value));
        CHECK(!memchr(name.p, ':', name.n));
    }
    return HTTP1_BODY;
}

static int on_body(struct http1 *p, struct span data, void *ctx) {
    struct record *r = ctx;
    (void)p;
    buf_span(&r->text, data);
    return 0;
}

static void run(bool is_request, struct span in, size_t piece, struct record *r) {
    static const struct http1_cb cb = {on_head, on_body};
    struct http1 *p = http1_new(is_request, &cb, r);
    const char *why = NULL;
    int rc = 0;
    while (in.n && rc >= 0 && rc != HTTP1_UPGRADED) {
        struct span part = span_of(in.p, in.n < piece ? in.n : piece);
        size_t had = part.n;
        rc = http1_feed(p, &part, &why);
        CHECK(part.n <= had);
        if (rc == HTTP1_MESSAGE) {
            buf_str(&r->text, "|M|");
            if (!http1_keep_alive(p)) {
                break;
            }
        }
        IGNORE_ERR(span_skip(&in, rc < 0 ? in.n : had - part.n), "inside");
    }
    if (rc < 0) {
        CHECK(why);
        buf_str(&r->text, "|E|");
    }
    IGNORE_ERR(http1_eof(p), "must only survive");
    http1_free(p);
}

FUZZ(http1_parse)(const uint8_t *p, size_t n) {
    if (!n) {
        return 0;
    }
    struct span in = span_of(p + 1, n - 1);
    struct record whole = {.text = BUF_INIT(64u << 20)}, cut = {.text = BUF_INIT(64u << 20)};
    run(p[0] & 1, in, in.n ? in.n : 1, &whole);
    run(p[0] & 1, in, (p[0] >> 1) % 16 + 1u, &cut);
    CHECK(span_eq(buf_view(&whole.text), buf_view(&cut.text)));
    buf_fini(&whole.text);
    buf_fini(&cut.text);
    return 0;
}
