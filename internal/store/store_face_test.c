/* What store.h promises, held against whichever implementation STORE= names (t_store.h). Revisions count from what the
 * store has at the start: an etcd is shared. */
#include "internal/base/rand.h"
#include "internal/store/store.h"
#include "internal/sys/sys.h"
#include "internal/t/t.h"
#include "internal/t/t_store.h"

#include <fcntl.h>
#include <stdlib.h>

struct face {
    char dir[64];
    struct loop *l;
    struct store *s;
    int64_t base; /* revision at the start */
};

struct wait {
    bool done;
    int rc;
    struct err e;
    int64_t id;
};

static void step(struct face *f) {
    struct err e = ERR_INIT;
    ASSERT_OK(loop_step(f->l, 100 * NS_PER_MS, &e), &e);
}

static int until(struct face *f, const struct wait *w) {
    uint64_t limit = clock_ns() + 20 * NS_PER_S;
    while (!w->done) {
        ASSERT(clock_ns() < limit);
        step(f);
    }
    return w->rc;
}

static void finish(struct wait *w, int rc, const struct err *e) {
    w->done = true;
    w->rc = rc;
    if (rc < 0) {
        ASSERT(e != NULL);
        w->e = *e;
    }
}

/* ---- one request at a time ---- */

struct got {
    struct wait w;
    struct buf
        text; /* "key=value@create/mod/version" with revisions from the base on, joined by spaces */
    size_t n, bytes;
    int64_t count, rev, base;
    bool more;
};

static void print_kv(struct buf *b, const struct store_kv *kv, int64_t base) {
    buf_fmt(b, "%s%.*s=%.*s@%lld/%lld/%lld", b->n ? " " : "", SPAN_FMT(kv->key),
            SPAN_FMT(kv->value), (long long)(kv->create_rev - base),
            (long long)(kv->mod_rev - base), (long long)kv->version);
}

static void on_range(void *ctx, int rc, const struct store_range_res *r, const struct err *e) {
    struct got *g = ctx;
    for (size_t i = 0; rc == 0 && i < r->n; i++) {
        g->bytes += r->kvs[i].value.n;
        if (r->kvs[i].value.n < 100) {
            print_kv(&g->text, &r->kvs[i], g->base);
        }
    }
    if (rc == 0) {
        g->n = r->n;
        g->count = r->count;
        g->more = r->more;
        g->rev = r->rev;
    }
    finish(&g->w, rc, e);
}

static int range(struct face *f, const struct store_range_req *q, struct got *ret) {
    struct err e = ERR_INIT;
    *ret = (struct got){.text = BUF_INIT(1 << 20), .base = f->base};
    ASSERT_OK(store_range_async(f->s, q, 0, on_range, ret, &e), &e);
    ASSERT(!ret->w.done);
    return until(f, &ret->w);
}

static void assert_range(struct face *f, const char *want, const char *key, const char *end,
                         int64_t rev) {
    const struct store_range_req q = {
        .key = span_str(key), .end = span_str(end), .rev = rev ? f->base + rev : 0};
    struct got g;
    ASSERT_EQ(0, range(f, &q, &g));
    ASSERT_STREQ(want, buf_cstr(&g.text));
    buf_fini(&g.text);
}

static void on_txn(void *ctx, struct store_txn *t, int rc, const struct err *e) {
    store_txn_keep(t);
    finish(ctx, rc, e);
}

static int commit(struct face *f, struct store_txn *t, struct wait *ret) {
    *ret = (struct wait){0};
    store_txn(f->s, t, on_txn, ret);
    ASSERT(!ret->done);
    return until(f, ret);
}

static int64_t put(struct face *f, const char *key, const char *value) {
    struct wait w;
    struct store_txn *t = store_txn_new(0);
    store_txn_put(t, &t->body.then, span_str(key), span_str(value), 0);
    ASSERT_OK(commit(f, t, &w), &w.e);
    int64_t rev = t->rev;
    store_txn_free(t);
    return rev;
}

static void del(struct face *f, const char *key, const char *end, int64_t want_count) {
    struct wait w;
    struct store_txn *t = store_txn_new(0);
    struct store_op *op = store_txn_delete(t, &t->body.then, span_str(key), span_str(end));
    ASSERT_OK(commit(f, t, &w), &w.e);
    ASSERT_EQ(want_count, op->range.count);
    store_txn_free(t);
}

static void refused(struct face *f, struct store_txn *t, int code, const char *text) {
    struct wait w;
    ASSERT_EQ(code, commit(f, t, &w));
    ASSERT_STREQ(text, err_public(&w.e));
    store_txn_free(t);
}

static void on_done(void *ctx, int rc, const struct err *e) {
    finish(ctx, rc, e);
}

static int compact(struct face *f, int64_t rev, struct wait *ret) {
    *ret = (struct wait){0};
    store_compact(f->s, rev, true, on_done, ret);
    ASSERT(!ret->done);
    return until(f, ret);
}

static void face_open(struct face *f) {
    struct err e = ERR_INIT;
    *f = (struct face){0};
    IGNORE_ERR(str_put(f->dir, sizeof(f->dir), "/tmp/kf-face-XXXXXX"), "fits");
    ASSERT(mkdtemp(f->dir) != NULL);
    ASSERT_OK(loop_new(&f->l, &e), &e);
    ASSERT_OK(t_store_open(f->l, f->dir, &f->s, &e), &e);
    struct got g;
    ASSERT_EQ(0, range(f, &(struct store_range_req){.key = SPAN_LIT("x")}, &g));
    f->base = g.rev;
    buf_fini(&g.text);
}

static void face_close(struct face *f) {
    struct err e = ERR_INIT;
    store_close(f->s);
    loop_free(f->l);
    ASSERT_OK(sys_rmtree(AT_FDCWD, f->dir, &e), &e);
}

/* ---- reading and writing ---- */

TEST(face, versions_and_the_past) {
    struct face f;
    face_open(&f);
    ASSERT_EQ(f.base + 1, put(&f, "a", "1"));
    ASSERT_EQ(f.base + 2, put(&f, "b", "2"));
    ASSERT_EQ(f.base + 3, put(&f, "a", "3"));
    assert_range(&f, "a=3@1/3/2 b=2@2/2/1", "a", "z", 0);
    assert_range(&f, "a=1@1/1/1", "a", "z", 1);
    del(&f, "a", "", 1);
    del(&f, "a", "", 0); /* nothing there: no revision */
    assert_range(&f, "b=2@2/2/1", "a", "z", 0);
    assert_range(&f, "a=3@1/3/2 b=2@2/2/1", "a", "z", 3);
    ASSERT_EQ(f.base + 5, put(&f, "a", "4"));
    struct got g;
    const struct store_range_req all = {.key = SPAN_LIT("\0"), .end = SPAN_LIT("\0")};
    ASSERT_EQ(0, range(&f, &all, &g));
    ASSERT_STREQ("a=4@5/5/1 b=2@2/2/1", buf_cstr(&g.text));
    buf_fini(&g.text);
    del(&f, "a", "c", 2);
    face_close(&f);
}

TEST(face, ranges_with_every_option) {
    struct face f;
    face_open(&f);
    put(&f, "k1", "c");
    put(&f, "k2", "b");
    put(&f, "k3", "a");
    put(&f, "k1", "d");
    struct store_range_req q = {.key = SPAN_LIT("k"), .end = SPAN_LIT("l"), .limit = 2};
    struct got g;
    ASSERT_EQ(0, range(&f, &q, &g));
    ASSERT(g.more);
    ASSERT_EQ(3, g.count);
    ASSERT_STREQ("k1=d@1/4/2 k2=b@2/2/1", buf_cstr(&g.text));
    buf_fini(&g.text);
    q = (struct store_range_req){.key = q.key, .end = q.end, .order = STORE_SORT_DESCEND};
    ASSERT_EQ(0, range(&f, &q, &g));
    ASSERT_STREQ("k3=a@3/3/1 k2=b@2/2/1 k1=d@1/4/2", buf_cstr(&g.text));
    buf_fini(&g.text);
    q = (struct store_range_req){
        .key = q.key, .end = q.end, .order = STORE_SORT_ASCEND, .by = STORE_BY_VALUE};
    ASSERT_EQ(0, range(&f, &q, &g));
    ASSERT_STREQ("k3=a@3/3/1 k2=b@2/2/1 k1=d@1/4/2", buf_cstr(&g.text));
    buf_fini(&g.text);
    q = (struct store_range_req){
        .key = q.key, .end = q.end, .keys_only = true, .min_mod = f.base + 3};
    ASSERT_EQ(0, range(&f, &q, &g));
    ASSERT_STREQ("k1=@1/4/2 k3=@3/3/1", buf_cstr(&g.text));
    buf_fini(&g.text);
    q = (struct store_range_req){.key = q.key, .end = q.end, .count_only = true};
    ASSERT_EQ(0, range(&f, &q, &g));
    ASSERT_EQ(0, g.n);
    ASSERT_EQ(3, g.count);
    buf_fini(&g.text);
    face_close(&f);
}

TEST(face, transactions) {
    struct face f;
    struct wait w;
    face_open(&f);
    put(&f, "k", "1");
    struct store_txn *t = store_txn_new(0);
    store_txn_cmp(t, &t->body, STORE_T_MOD, STORE_EQUAL, SPAN_LIT("k"), f.base + 1);
    store_txn_cmp(t, &t->body, STORE_T_VALUE, STORE_EQUAL, SPAN_LIT("k"), 0)->value = SPAN_LIT("1");
    store_txn_cmp(t, &t->body, STORE_T_VERSION, STORE_LESS, SPAN_LIT("k"), 2);
    store_txn_cmp(t, &t->body, STORE_T_CREATE, STORE_EQUAL, SPAN_LIT("none"), 0);
    store_txn_put(t, &t->body.then, SPAN_LIT("k"), SPAN_LIT("2"), 0)->u.put.prev_kv = true;
    store_txn_range(t, &t->body.then, SPAN_LIT("k"), SPAN_EMPTY);
    struct store_body *in = store_txn_nested(t, &t->body.then)->u.txn;
    store_txn_cmp(t, in, STORE_T_MOD, STORE_GREATER, SPAN_LIT("none"), 5);
    store_txn_put(t, &in->then, SPAN_LIT("yes"), SPAN_LIT("x"), 0);
    store_txn_put(t, &in->els, SPAN_LIT("no"), SPAN_LIT("x"), 0);
    ASSERT_OK(commit(&f, t, &w), &w.e);
    ASSERT(t->body.succeeded);
    ASSERT(!in->succeeded);
    ASSERT_EQ(f.base + 2, t->rev);
    ASSERT_EQ(1, t->body.then.v[0].range.n);
    ASSERT_SPAN("1", t->body.then.v[0].range.kvs[0].value);
    ASSERT_EQ(1, t->body.then.v[1].range.n);
    ASSERT_SPAN("2", t->body.then.v[1].range.kvs[0].value);
    store_txn_free(t);
    assert_range(&f, "k=2@1/2/2 no=x@2/2/1", "a", "z", 0);
    t = store_txn_new(0);
    store_txn_cmp(t, &t->body, STORE_T_MOD, STORE_EQUAL, SPAN_LIT("k"), f.base + 1);
    store_txn_put(t, &t->body.then, SPAN_LIT("k"), SPAN_LIT("3"), 0);
    store_txn_range(t, &t->body.els, SPAN_LIT("k"), SPAN_EMPTY);
    ASSERT_OK(commit(&f, t, &w), &w.e);
    ASSERT(!t->body.succeeded);
    ASSERT_SPAN("2", t->body.els.v[0].range.kvs[0].value);
    ASSERT_EQ(f.base + 2, t->rev);
    store_txn_free(t);
    t = store_txn_new(0);
    store_txn_delete(t, &t->body.then, SPAN_LIT("a"), SPAN_LIT("z"))->u.del.prev_kv = true;
    ASSERT_OK(commit(&f, t, &w), &w.e);
    ASSERT_EQ(2, t->body.then.v[0].range.count);
    ASSERT_EQ(2, t->body.then.v[0].range.n);
    ASSERT_SPAN("no", t->body.then.v[0].range.kvs[1].key);
    store_txn_free(t);
    face_close(&f);
}

TEST(face, refusals_have_etcds_texts) {
    struct face f;
    struct wait w;
    face_open(&f);
    struct store_txn *t = store_txn_new(0);
    store_txn_put(t, &t->body.then, SPAN_LIT("b"), SPAN_LIT("v"), 0);
    store_txn_put(t, &t->body.then, SPAN_LIT("b"), SPAN_LIT("v"), 0);
    refused(&f, t, -ERR_INVALID, "etcdserver: duplicate key given in txn request");
    t = store_txn_new(0);
    for (int i = 0; i < 129; i++) {
        char k[16];
        IGNORE_ERR(str_put(k, sizeof(k), "k%d", i), "fits");
        store_txn_put(t, &t->body.then, span_str(k), SPAN_EMPTY, 0);
    }
    refused(&f, t, -ERR_INVALID, "etcdserver: too many operations in txn request");
    t = store_txn_new(0);
    char *big = mem_zero_alloc(1600 << 10);
    store_txn_put(t, &t->body.then, SPAN_LIT("a"), span_of(big, 1600 << 10), 0);
    free(big);
    refused(&f, t, -ERR_INVALID, "etcdserver: request is too large");
    t = store_txn_new(0);
    store_txn_put(t, &t->body.then, SPAN_LIT("a"), SPAN_LIT("v"), 77);
    refused(&f, t, -ERR_NOT_FOUND, "etcdserver: requested lease not found");
    t = store_txn_new(0);
    store_txn_put(t, &t->body.then, SPAN_LIT("nokey"), SPAN_EMPTY, 0)->u.put.ignore_value = true;
    refused(&f, t, -ERR_INVALID, "etcdserver: key not found");
    t = store_txn_new(0);
    store_txn_range(t, &t->body.then, SPAN_LIT("a"), SPAN_EMPTY)->u.range.rev = f.base + 99;
    refused(&f, t, -ERR_GONE, "etcdserver: mvcc: required revision is a future revision");
    put(&f, "a", "1");
    put(&f, "a", "2");
    ASSERT_EQ(0, compact(&f, f.base + 2, &w));
    ASSERT_EQ(f.base + 2, store_compact_rev(f.s));
    struct got g;
    const struct store_range_req q = {.key = SPAN_LIT("a"), .rev = f.base + 1};
    ASSERT_EQ(-ERR_GONE, range(&f, &q, &g));
    ASSERT_STREQ("etcdserver: mvcc: required revision has been compacted", g.w.e.pub);
    buf_fini(&g.text);
    ASSERT_EQ(-ERR_GONE, compact(&f, f.base + 2, &w));
    ASSERT_EQ(-ERR_GONE, compact(&f, f.base + 99, &w));
    ASSERT_STREQ("etcdserver: mvcc: required revision is a future revision", w.e.pub);
    face_close(&f);
}

/* ---- watching ---- */

struct seen {
    struct face *f;
    struct store_watch *w;
    struct buf
        text; /* "+key=value@rev", "-key@rev", previous values in (); "!" at a progress, "X" at the end */
    int64_t rev, progress, compact_rev;
    int rc, pause_after;
    size_t n;
    bool stop_inside, prev;
};

static int on_events(void *ctx, struct store_watch *w, const struct store_watch_msg *m) {
    struct seen *s = ctx;
    for (size_t i = 0; i < m->n; i++) {
        const struct store_event *ev = m->events[i];
        buf_fmt(&s->text, "%s%s%.*s", s->text.n ? " " : "", ev->type == STORE_PUT ? "+" : "-",
                SPAN_FMT(ev->kv.key));
        if (ev->type == STORE_PUT) {
            buf_fmt(&s->text, "=%.*s", SPAN_FMT(ev->kv.value));
        }
        buf_fmt(&s->text, "@%lld", (long long)(ev->kv.mod_rev - s->f->base));
        if (ev->has_prev && s->prev) {
            buf_fmt(&s->text, "(%.*s)", SPAN_FMT(ev->prev.value));
        }
        ASSERT(ev->kv.mod_rev > s->rev || i > 0);
        s->n++;
    }
    ASSERT(m->kind != STORE_WATCH_EVENTS || m->rev > s->rev);
    s->rev = m->rev;
    if (m->kind == STORE_WATCH_PROGRESS) {
        s->progress = m->rev;
    } else if (m->kind == STORE_WATCH_CANCELLED) {
        buf_str(&s->text, "X");
        s->rc = m->rc;
        s->compact_rev = m->compact_rev;
    }
    if (s->stop_inside) {
        store_watch_stop(w);
        s->w = NULL;
        return 0;
    }
    return s->pause_after > 0 && --s->pause_after == 0 ? STORE_WATCH_PAUSE : 0;
}

static void watch(struct face *f, struct seen *s, const struct store_watch_req *q) {
    struct err e = ERR_INIT;
    s->f = f;
    s->prev = q->prev_kv;
    s->text = (struct buf)BUF_INIT(1 << 20);
    ASSERT_OK(store_watch_start(f->s, q, on_events, s, &s->w, &e), &e);
    ASSERT_EQ(0, s->n);
}

static void until_text(struct face *f, struct seen *s, const char *want) {
    uint64_t limit = clock_ns() + 20 * NS_PER_S;
    while (!str_eq(want, buf_cstr(&s->text)) && clock_ns() < limit) {
        step(f);
    }
    ASSERT_STREQ(want, buf_cstr(&s->text));
}

static void unwatch(struct seen *s) {
    store_watch_stop(s->w);
    buf_fini(&s->text);
}

TEST(face, a_writer_hears_after_the_watches) {
    struct face f;
    struct seen s = {0};
    face_open(&f);
    watch(&f, &s, &(struct store_watch_req){.key = SPAN_LIT("a"), .end = SPAN_LIT("c")});
    for (int i = 1; i <= 50; i++) {
        int64_t rev = put(&f, "a", "v");
        ASSERT_EQ(i, s.n);
        ASSERT_EQ(rev, s.rev);
        ASSERT(store_rev(f.s) >= rev);
        put(&f, "z", "not watched");
        ASSERT(store_watch_next_rev(s.w) > rev);
    }
    del(&f, "a", "", 1);
    ASSERT_EQ(51, s.n);
    unwatch(&s);
    face_close(&f);
}

struct racer {
    struct face *f;
    struct seen *s;
    size_t *done;
};

static void on_raced(void *ctx, struct store_txn *t, int rc, const struct err *e) {
    struct racer *r = ctx;
    ASSERT_OK(rc, e);
    ASSERT(r->s->rev >= t->rev);
    (*r->done)++;
}

TEST(face, many_writers_at_once) {
    enum { N = 600 };
    struct face f;
    struct seen s = {0};
    size_t done = 0;
    struct racer r = {&f, &s, &done};
    face_open(&f);
    watch(&f, &s, &(struct store_watch_req){.key = SPAN_LIT("k"), .end = SPAN_LIT("l")});
    for (int i = 0; i < N; i++) {
        char k[16];
        struct store_txn *t = store_txn_new(0);
        IGNORE_ERR(str_put(k, sizeof(k), "k%d", i), "fits");
        store_txn_put(t, &t->body.then, span_str(k), SPAN_LIT("v"), 0);
        store_txn(f.s, t, on_raced, &r);
    }
    uint64_t limit = clock_ns() + 30 * NS_PER_S;
    while (done < N && clock_ns() < limit) {
        step(&f);
    }
    ASSERT_EQ(N, done);
    ASSERT_EQ(N, s.n);
    unwatch(&s);
    face_close(&f);
}

TEST(face, watches_of_the_past_filters_and_previous_values) {
    struct face f;
    struct seen past = {0};
    struct seen live = {0};
    struct seen later = {0};
    struct seen some = {0};
    face_open(&f);
    watch(&f, &live, &(struct store_watch_req){.key = SPAN_LIT("a"), .end = SPAN_LIT("b")});
    put(&f, "a1", "1");
    put(&f, "b1", "1");
    put(&f, "a1", "2");
    del(&f, "a1", "", 1);
    const struct store_watch_req q = {
        .key = SPAN_LIT("a"), .end = SPAN_LIT("b"), .start_rev = f.base + 1, .prev_kv = true};
    watch(&f, &past, &q);
    until_text(&f, &past, "+a1=1@1 +a1=2@3(1) -a1@4(2)");
    ASSERT_STREQ("+a1=1@1 +a1=2@3 -a1@4", buf_cstr(&live.text));
    watch(&f, &later, &(struct store_watch_req){.key = SPAN_LIT("a1"), .start_rev = f.base + 6});
    watch(&f, &some,
          &(struct store_watch_req){.key = SPAN_LIT("\0"),
                                    .end = SPAN_LIT("\0"),
                                    .start_rev = f.base + 2,
                                    .filters = STORE_NO_PUT});
    put(&f, "a1", "5");
    put(&f, "a1", "6");
    until_text(&f, &later, "+a1=6@6");
    until_text(&f, &some, "-a1@4");
    until_text(&f, &past, "+a1=1@1 +a1=2@3(1) -a1@4(2) +a1=5@5 +a1=6@6(5)");
    until_text(&f, &live, "+a1=1@1 +a1=2@3 -a1@4 +a1=5@5 +a1=6@6");
    unwatch(&later);
    unwatch(&past);
    unwatch(&live);
    unwatch(&some);
    face_close(&f);
}

TEST(face, pause_resume_stop_progress) {
    struct face f;
    struct seen a = {.pause_after = 1};
    struct seen b = {.stop_inside = true};
    struct seen c = {0};
    face_open(&f);
    const struct store_watch_req q = {.key = SPAN_LIT("k")};
    watch(&f, &a, &q);
    watch(&f, &b, &q);
    watch(&f, &c, &q);
    put(&f, "k", "1");
    put(&f, "k", "2");
    put(&f, "k", "3");
    ASSERT_STREQ("+k=1@1", buf_cstr(&a.text));
    ASSERT_STREQ("+k=1@1", buf_cstr(&b.text));
    ASSERT_STREQ("+k=1@1 +k=2@2 +k=3@3", buf_cstr(&c.text));
    store_watch_resume(a.w);
    until_text(&f, &a, "+k=1@1 +k=2@2 +k=3@3");
    int64_t rev = put(&f, "other", "x");
    store_watch_progress(c.w);
    ASSERT_EQ(0, c.progress);
    uint64_t limit = clock_ns() + 20 * NS_PER_S;
    while (!c.progress && clock_ns() < limit) {
        step(&f);
    }
    ASSERT(c.progress >= rev);
    rev = put(&f, "k", "4");
    AUTO_FREE char *want = str_fmt("+k=1@1 +k=2@2 +k=3@3 +k=4@%lld", (long long)(rev - f.base));
    until_text(&f, &c, want);
    unwatch(&a);
    unwatch(&b);
    unwatch(&c);
    face_close(&f);
}

TEST(face, compaction_under_watches) {
    struct face f;
    struct wait w;
    struct seen live = {0};
    struct seen past = {0};
    face_open(&f);
    watch(&f, &live, &(struct store_watch_req){.key = SPAN_LIT("k")});
    for (int i = 0; i < 5; i++) {
        put(&f, "k", "v");
    }
    ASSERT_EQ(0, compact(&f, f.base + 4, &w));
    watch(&f, &past, &(struct store_watch_req){.key = SPAN_LIT("k"), .start_rev = f.base + 2});
    until_text(&f, &past, "X");
    ASSERT_EQ(-ERR_GONE, past.rc);
    ASSERT_EQ(f.base + 4, past.compact_rev);
    put(&f, "k", "w");
    until_text(&f, &live, "+k=v@1 +k=v@2 +k=v@3 +k=v@4 +k=v@5 +k=w@6");
    unwatch(&past);
    past = (struct seen){0};
    watch(&f, &past, &(struct store_watch_req){.key = SPAN_LIT("k"), .start_rev = f.base + 4});
    until_text(&f, &past, "+k=v@4 +k=v@5 +k=w@6");
    unwatch(&past);
    unwatch(&live);
    face_close(&f);
}

/* ---- leases ---- */

static void on_lease(void *ctx, int rc, int64_t id, int64_t ttl, const struct err *e) {
    struct wait *w = ctx;
    w->id = id;
    ASSERT(rc < 0 || ttl >= 60);
    finish(w, rc, e);
}

TEST(face, leases) {
    struct face f;
    struct seen s = {0};
    struct wait w = {0};
    face_open(&f);
    watch(&f, &s, &(struct store_watch_req){.key = SPAN_LIT("l")});
    store_lease_grant(f.s, 0, 60, on_lease, &w);
    ASSERT(!w.done);
    ASSERT_OK(until(&f, &w), &w.e);
    int64_t id = w.id;
    ASSERT(id != 0);
    struct store_txn *t = store_txn_new(0);
    store_txn_put(t, &t->body.then, SPAN_LIT("l"), SPAN_LIT("v"), id);
    ASSERT_OK(commit(&f, t, &w), &w.e);
    store_txn_free(t);
    w = (struct wait){0};
    store_lease_grant(f.s, id, 60, on_lease, &w);
    ASSERT_EQ(-ERR_CONFLICT, until(&f, &w));
    ASSERT_STREQ("etcdserver: lease already exists", w.e.pub);
    w = (struct wait){0};
    store_lease_revoke(f.s, id, on_done, &w);
    ASSERT_OK(until(&f, &w), &w.e);
    until_text(&f, &s, "+l=v@1 -l@2");
    w = (struct wait){0};
    store_lease_revoke(f.s, id, on_done, &w);
    ASSERT_EQ(-ERR_NOT_FOUND, until(&f, &w));
    unwatch(&s);
    face_close(&f);
}

/* ---- much ---- */

struct scanned {
    struct wait w;
    size_t n, bytes;
    int64_t rev;
    char last[32];
    size_t stop_at;
};

static int on_scan_kv(void *ctx, const struct store_kv *kv) {
    struct scanned *s = ctx;
    char key[32];
    ASSERT_EQ(0, span_to_cstr(kv->key, key, sizeof(key)));
    ASSERT(strcmp(key, s->last) > 0);
    IGNORE_ERR(str_put(s->last, sizeof(s->last), "%s", key), "as large");
    s->n++;
    s->bytes += kv->value.n;
    return s->n == s->stop_at ? -ERR_CANCELLED : 0;
}

static void on_scan_end(void *ctx, int rc, int64_t rev, const struct err *e) {
    struct scanned *s = ctx;
    s->rev = rev;
    finish(&s->w, rc, e);
}

static void fill(struct face *f, size_t n, size_t bytes) {
    char *value = mem_zero_alloc(bytes);
    for (size_t i = 0; i < n;) {
        struct wait w;
        struct store_txn *t = store_txn_new(0);
        for (size_t k = 0; k < 100 && k * bytes < (1 << 20) && i < n; k++, i++) {
            char key[32];
            IGNORE_ERR(str_put(key, sizeof(key), "k%05zu", i), "fits");
            store_txn_put(t, &t->body.then, span_str(key), span_of(value, bytes), 0);
        }
        ASSERT_OK(commit(f, t, &w), &w.e);
        store_txn_free(t);
    }
    free(value);
}

TEST(face, scans_in_pages) {
    struct face f;
    struct err e = ERR_INIT;
    face_open(&f);
    fill(&f, 3000, 20);
    put(&f, "z", "outside");
    struct scanned s = {0};
    ASSERT_OK(store_scan(f.s, SPAN_LIT("k"), SPAN_LIT("l"), on_scan_kv, on_scan_end, &s, &e), &e);
    ASSERT(!s.w.done);
    ASSERT_EQ(0, until(&f, &s.w));
    ASSERT_EQ(3000, s.n);
    ASSERT_EQ(f.base + 31, s.rev);
    s = (struct scanned){.stop_at = 700};
    ASSERT_OK(store_scan(f.s, SPAN_LIT("k"), SPAN_LIT("l"), on_scan_kv, on_scan_end, &s, &e), &e);
    ASSERT_EQ(-ERR_CANCELLED, until(&f, &s.w));
    ASSERT_EQ(700, s.n);
    s = (struct scanned){0};
    ASSERT_OK(store_scan(f.s, SPAN_LIT("none"), SPAN_LIT("none0"), on_scan_kv, on_scan_end, &s, &e),
              &e);
    ASSERT_EQ(0, until(&f, &s.w));
    ASSERT_EQ(0, s.n);
    face_close(&f);
}

TEST(face, ranges_and_scans_larger_than_a_message) {
    enum { N = 40, EACH = 700000 };
    struct face f;
    struct err e = ERR_INIT;
    face_open(&f);
    fill(&f, N, EACH);
    struct scanned s = {0};
    ASSERT_OK(store_scan(f.s, SPAN_LIT("k"), SPAN_LIT("l"), on_scan_kv, on_scan_end, &s, &e), &e);
    ASSERT_OK(until(&f, &s.w), &s.w.e);
    ASSERT_EQ(N, s.n);
    ASSERT_EQ((size_t)N * EACH, s.bytes);
    struct got g;
    const struct store_range_req q = {.key = SPAN_LIT("k"), .end = SPAN_LIT("l")};
    ASSERT_OK(range(&f, &q, &g), &g.w.e);
    ASSERT_EQ(N, g.n);
    ASSERT_EQ((size_t)N * EACH, g.bytes);
    ASSERT(!g.more);
    buf_fini(&g.text);
    /* A watch of the past gets the same in pieces. */
    struct seen past = {0};
    watch(&f, &past,
          &(struct store_watch_req){
              .key = SPAN_LIT("k"), .end = SPAN_LIT("l"), .start_rev = f.base + 1});
    uint64_t limit = clock_ns() + 30 * NS_PER_S;
    while (past.n < N && clock_ns() < limit) {
        step(&f);
    }
    ASSERT_EQ(N, past.n);
    unwatch(&past);
    face_close(&f);
}
