#include "internal/etcd/etcd_int.h"

#include "internal/pb/pb.h"
#include "internal/t/t.h"
#include "internal/wire/wire.h"

#include <stdlib.h>

static const struct names ns = {.prefix = {(const uint8_t *)"p", 1},
                                .first = {(const uint8_t *)"p", 1},
                                .end = {(const uint8_t *)"q", 1}};

static int on_event(void *ctx, const struct store_event *ev) {
    (void)ctx;
    (void)ev;
    return 0;
}

/* A body with every kind of operation in both branches, and one inside. */
static void build(struct store_txn *t, struct store_body *b, bool nest) {
    struct store_ops *const both[] = {&b->then, &b->els};
    for (size_t i = 0; i < ARRAY_LEN(both); i++) {
        store_txn_range(t, both[i], SPAN_LIT("a"), SPAN_LIT("b"));
        store_txn_put(t, both[i], SPAN_LIT("a"), SPAN_LIT("v"), 0);
        store_txn_delete(t, both[i], SPAN_LIT("a"), SPAN_LIT("b"));
        if (nest) {
            build(t, store_txn_nested(t, both[i])->u.txn, false);
        }
    }
}

static void decode(uint8_t kind, struct span m) {
    struct arena a = ARENA_INIT(1 << 20);
    struct store_range_res range = {0};
    struct watch_answer watch;
    struct status_answer status;
    struct answer_head head;
    struct span error;
    int64_t x;
    int64_t y;
    struct store_txn *t = store_txn_new(1 << 20);
    build(t, &t->body, true);
    switch (kind % 6) {
    case 0: IGNORE_ERR(etcd_dec_range(m, &ns, &a, &range), "any outcome but a crash"); break;
    case 1:
        if (etcd_dec_txn(m, &ns, &t->a, &t->body, &x) == 0) {
            IGNORE_ERR(etcd_body_changed(&t->body), "any outcome but a crash");
        }
        break;
    case 2:
        if (etcd_dec_watch(m, &watch) == 0) {
            IGNORE_ERR(etcd_dec_events(watch.events, &ns, on_event, NULL), "as above");
        }
        break;
    case 3: IGNORE_ERR(etcd_dec_status(m, &status), "any outcome but a crash"); break;
    case 4: IGNORE_ERR(etcd_dec_grant(m, &x, &y, &error), "any outcome but a crash"); break;
    default: IGNORE_ERR(etcd_dec_first_head(m, &head), "any outcome but a crash"); break;
    }
    store_txn_free(t);
    arena_fini(&a);
}

/* The first byte chooses the message. */
FUZZ(etcd_answers)(const uint8_t *p, size_t n) {
    struct span m = span_of(p, n);
    uint8_t kind = 0;
    if (span_u8(&m, &kind) == 0) {
        decode(kind, m);
    }
    return 0;
}

/* ---- messages as etcd's tables have them, made of any bytes ---- */

static uint32_t pick_of(struct span *in, uint32_t n) {
    uint8_t x = 0;
    IGNORE_ERR(span_u8(in, &x), "the end of the input is zeros");
    return x % n;
}

static void made(struct buf *b, const struct pb_message *m, struct span *in, unsigned depth) {
    static const int64_t ints[] = {0, 1, 2, 5, 6, 7, 255, 1 << 20, INT64_MAX, -1, INT64_MIN};
    static const struct span texts[] = {SPAN_LIT(""),     SPAN_LIT("p"),  SPAN_LIT("pa"),
                                        SPAN_LIT("pb"),   SPAN_LIT("pz"), SPAN_LIT("q"),
                                        SPAN_LIT("value")};
    for (const struct pb_field *f = m->fields; f->name && in->n; f++) {
        for (uint32_t k = pick_of(in, f->is_repeated ? 5 : 2); k > 0; k--) {
            if (f->kind == PB_MESSAGE) {
                size_t at = wire_begin(b, f->number);
                if (depth < 6) {
                    made(b, &pb_etcd[f->message], in, depth + 1);
                }
                wire_end(b, at);
            } else if (f->kind == PB_BYTES || f->kind == PB_STRING) {
                wire_bytes_always(b, f->number, texts[pick_of(in, ARRAY_LEN(texts))]);
            } else {
                wire_i64(b, f->number, ints[pick_of(in, ARRAY_LEN(ints))]);
            }
        }
    }
}

static void made_named(struct buf *b, const char *name, struct span *in) {
    const struct pb_message *m = pb_etcd;
    while (m->name && !str_eq(m->name, name)) {
        m++;
    }
    CHECK(m->name);
    made(b, m, in, 0);
}

FUZZ(etcd_answers_made)(const uint8_t *p, size_t n) {
    static const char *const names[] = {"RangeResponse",  "TxnResponse",        "WatchResponse",
                                        "StatusResponse", "LeaseGrantResponse", "PutResponse"};
    struct span in = span_of(p, n < 4000 ? n : 4000);
    AUTO(buf) struct buf b = BUF_INIT(1 << 22);
    uint8_t kind = (uint8_t)pick_of(&in, ARRAY_LEN(names));
    bool damaged = pick_of(&in, 4) == 0;
    uint32_t at = pick_of(&in, 256);
    made_named(&b, names[kind], &in);
    if (damaged && b.n) {
        b.p[at % b.n] = (uint8_t)(b.p[at % b.n] ^ 1u << at % 8);
    }
    decode(kind, buf_view(&b));
    return 0;
}

static int on_watch(void *ctx, struct store_watch *w, const struct store_watch_msg *m) {
    int64_t *last = ctx;
    (void)w;
    if (m->kind ==
        STORE_WATCH_EVENTS) { /* whatever a server sends: in order, never twice, never empty */
        CHECK(m->n > 0);
        for (size_t i = 0; i < m->n; i++) {
            CHECK(m->events[i]->kv.mod_rev >= *last + (i == 0 ? 1 : 0));
            *last = m->events[i]->kv.mod_rev;
        }
        CHECK(m->rev >= *last);
        *last = m->rev;
    }
    return 0;
}

/* The answers of a watch's stream, framed, to a store that waits for revision 6. */
FUZZ(etcd_feed)(const uint8_t *p, size_t n) {
    static const char *const urls[] = {"unix:///nonexistent"};
    const struct etcd_opts o = {.endpoints = urls, .n_endpoints = 1, .prefix = "p"};
    struct loop *l = NULL;
    struct store *st = NULL;
    struct store_watch *w = NULL;
    struct err e = ERR_INIT;
    int64_t last = 5;
    CHECK(loop_new_virtual(&l, 1, &e) == 0 && etcd_open(l, &o, &st, &e) == 0);
    efeed_history(etcd_of(st), 1, 5);
    const struct store_watch_req q = {
        .key = SPAN_LIT("\0"), .end = SPAN_LIT("\0"), .prev_kv = true};
    CHECK(store_watch_start(st, &q, on_watch, &last, &w, &e) == 0);
    for (struct span rest = span_of(p, n), piece;
         rest.n;) { /* in pieces that do not fit the frames */
        IGNORE_ERR(span_take(&rest, rest.n < 7 ? rest.n : 7, &piece), "length bounded");
        efeed_data(etcd_of(st), piece);
    }
    store_watch_stop(w);
    store_close(st);
    loop_free(l);
    return 0;
}
