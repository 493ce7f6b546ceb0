#include "internal/etcd/etcd_int.h"

#include "internal/t/t.h"

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

/* The first byte chooses the message. */
FUZZ(etcd_answers)(const uint8_t *p, size_t n) {
    struct span m = span_of(p, n);
    struct arena a = ARENA_INIT(1 << 20);
    struct store_range_res range = {0};
    struct watch_answer watch;
    struct status_answer status;
    struct answer_head head;
    struct span error;
    uint8_t kind = 0;
    int64_t x;
    int64_t y;
    if (span_u8(&m, &kind) < 0) {
        return 0;
    }
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
