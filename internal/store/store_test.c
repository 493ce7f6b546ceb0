#include "internal/store/store_test.h"

#include "internal/base/rand.h"
#include "internal/t/t.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define ASSERT_RANGE(want, b, key, end, rev)              \
    do {                                                  \
        char *got_ = box_range((b), (key), (end), (rev)); \
        assert_string_equal((want), got_);                \
        free(got_);                                       \
    } while (0)

TEST(store, put_get_delete_versions) {
    struct box b = {0};
    struct err e = ERR_INIT;
    box_open(&b);
    ASSERT_EQ(1, store_rev(b.s));
    ASSERT_OK(box_put(&b, "a", "1", 0, &e), &e);
    ASSERT_OK(box_put(&b, "b", "2", 0, &e), &e);
    ASSERT_OK(box_put(&b, "a", "3", 0, &e), &e);
    ASSERT_RANGE("a=3@2/4/2 b=2@3/3/1", &b, "a", "z", 0);
    ASSERT_RANGE("a=1@2/2/1", &b, "a", "z", 2);
    ASSERT_OK(box_delete(&b, "a", "", &e), &e);
    ASSERT_EQ(5, store_rev(b.s));
    ASSERT_OK(box_delete(&b, "a", "", &e), &e); /* nothing there: no revision */
    ASSERT_EQ(5, store_rev(b.s));
    ASSERT_RANGE("b=2@3/3/1", &b, "a", "z", 0);
    ASSERT_RANGE("a=3@2/4/2 b=2@3/3/1", &b, "a", "z", 4);
    ASSERT_OK(box_put(&b, "a", "4", 0, &e), &e);
    ASSERT_RANGE("a=4@6/6/1", &b, "a", "", 0);
    ASSERT_RANGE("", &b, "a", "", 5);
    box_shut(&b);
    box_open(&b);
    ASSERT_EQ(6, store_rev(b.s));
    ASSERT_RANGE("a=4@6/6/1 b=2@3/3/1", &b, "a", "z", 0);
    ASSERT_RANGE("a=3@2/4/2 b=2@3/3/1", &b, "a", "z", 4);
    box_fini(&b);
}

TEST(store, transactions) {
    struct box b = {0};
    struct err e = ERR_INIT;
    box_open(&b);
    struct store_txn *t = store_txn_new(0);
    store_txn_cmp(t, &t->body, STORE_T_MOD, STORE_EQUAL, SPAN_LIT("k"), 0);
    store_txn_put(t, &t->body.then, SPAN_LIT("k"), SPAN_LIT("v"), 0);
    store_txn_put(t, &t->body.then, SPAN_LIT("l"), SPAN_LIT("w"), 0);
    store_txn_range(t, &t->body.then, SPAN_LIT("k"), SPAN_LIT("m"));
    struct store_op *n = store_txn_nested(t, &t->body.then);
    store_txn_cmp(t, n->u.txn, STORE_T_VERSION, STORE_GREATER, SPAN_LIT("l"),
                  0); /* sees the state before */
    store_txn_put(t, &n->u.txn->then, SPAN_LIT("x"), SPAN_LIT("then"), 0);
    store_txn_put(t, &n->u.txn->els, SPAN_LIT("x"), SPAN_LIT("else"), 0);
    store_txn_range(t, &t->body.els, SPAN_LIT("k"), SPAN_EMPTY);
    ASSERT_OK(box_txn(&b, t, &e), &e);
    ASSERT(t->body.succeeded);
    ASSERT_EQ(2, t->rev);
    ASSERT_EQ(2, t->body.then.v[2].range.n);
    store_txn_free(t);
    ASSERT_RANGE("k=v@2/2/1 l=w@2/2/1 x=else@2/2/1", &b, "a", "z", 0);

    t = store_txn_new(0);
    store_txn_cmp(t, &t->body, STORE_T_MOD, STORE_EQUAL, SPAN_LIT("k"), 0);
    store_txn_put(t, &t->body.then, SPAN_LIT("k"), SPAN_LIT("never"), 0);
    store_txn_range(t, &t->body.els, SPAN_LIT("k"), SPAN_EMPTY);
    ASSERT_OK(box_txn(&b, t, &e), &e);
    ASSERT(!t->body.succeeded);
    ASSERT_EQ(1, t->body.els.v[0].range.n);
    ASSERT_EQ(2, t->rev);
    store_txn_free(t);

    t = store_txn_new(0); /* delete with previous values */
    store_txn_delete(t, &t->body.then, SPAN_LIT("k"), SPAN_LIT("m"))->u.del.prev_kv = true;
    ASSERT_OK(box_txn(&b, t, &e), &e);
    ASSERT_EQ(2, t->body.then.v[0].range.count);
    ASSERT_SPAN("w", t->body.then.v[0].range.kvs[1].value);
    store_txn_free(t);
    box_fini(&b);
}

static int refused(struct box *b, struct store_txn *t, const char *text) {
    struct err e = ERR_INIT;
    int rc = box_txn(b, t, &e);
    store_txn_free(t);
    ASSERT(rc < 0);
    ASSERT_STREQ(text, err_public(&e));
    return rc;
}

TEST(store, refusals_have_etcds_texts) {
    struct box b = {.o = {.max_txn_ops = 3, .max_request_bytes = 1000}};
    struct err e = ERR_INIT;
    box_open(&b);
    struct store_txn *t = store_txn_new(0);
    store_txn_put(t, &t->body.then, SPAN_EMPTY, SPAN_LIT("v"), 0);
    ASSERT_EQ(-ERR_INVALID, refused(&b, t, "etcdserver: key is not provided"));
    t = store_txn_new(0);
    store_txn_put(t, &t->body.then, SPAN_LIT("a"), SPAN_LIT("v"), 0);
    store_txn_put(t, &t->body.then, SPAN_LIT("a"), SPAN_LIT("v"), 0);
    refused(&b, t, "etcdserver: duplicate key given in txn request");
    t = store_txn_new(0);
    store_txn_delete(t, &t->body.then, SPAN_LIT("a"), SPAN_LIT("c"));
    store_txn_put(t, &store_txn_nested(t, &t->body.then)->u.txn->els, SPAN_LIT("b"), SPAN_LIT("v"),
                  0);
    refused(&b, t, "etcdserver: duplicate key given in txn request");
    t = store_txn_new(0);
    for (int i = 0; i < 4; i++) {
        char k[2] = {(char)('a' + i), 0};
        store_txn_put(t, &t->body.then, span_str(k), SPAN_EMPTY, 0);
    }
    refused(&b, t, "etcdserver: too many operations in txn request");
    t = store_txn_new(0);
    char big[1001];
    memset(big, 'x', sizeof(big));
    store_txn_put(t, &t->body.then, SPAN_LIT("a"), span_of(big, sizeof(big)), 0);
    refused(&b, t, "etcdserver: request is too large");
    t = store_txn_new(0);
    store_txn_put(t, &t->body.then, SPAN_LIT("a"), SPAN_LIT("v"), 77);
    ASSERT_EQ(-ERR_NOT_FOUND, refused(&b, t, "etcdserver: requested lease not found"));
    t = store_txn_new(0);
    store_txn_put(t, &t->body.then, SPAN_LIT("nokey"), SPAN_EMPTY, 0)->u.put.ignore_value = true;
    refused(&b, t, "etcdserver: key not found");
    t = store_txn_new(0);
    store_txn_range(t, &t->body.then, SPAN_LIT("a"), SPAN_EMPTY)->u.range.rev = 99;
    ASSERT_EQ(-ERR_GONE,
              refused(&b, t, "etcdserver: mvcc: required revision is a future revision"));
    ASSERT_EQ(1, store_rev(b.s)); /* none of them left a trace */
    ASSERT_OK(box_put(&b, "a", "1", 0, &e), &e);
    ASSERT_OK(box_put(&b, "a", "2", 0, &e), &e);
    ASSERT_OK(box_compact(&b, 3, &e), &e);
    struct arena a = ARENA_INIT(1 << 20);
    struct store_range_req q = {.key = SPAN_LIT("a"), .rev = 2};
    struct store_range_res r;
    ASSERT_ERR(-ERR_GONE, store_range(b.s, &q, &a, &r, &e));
    ASSERT_STREQ("etcdserver: mvcc: required revision has been compacted", e.pub);
    err_reset(&e);
    ASSERT_ERR(-ERR_GONE, box_compact(&b, 3, &e));
    err_reset(&e);
    ASSERT_ERR(-ERR_GONE, box_compact(&b, 9, &e));
    ASSERT_STREQ("etcdserver: mvcc: required revision is a future revision", e.pub);
    arena_fini(&a);
    box_fini(&b);
}

/* A failing command must not take the others of its group with it. */
static void count_ok(void *ctx, struct store_txn *t, int rc, const struct err *e) {
    (void)t;
    (void)e;
    int *n = ctx;
    n[rc == 0 ? 0 : 1]++;
}

TEST(store, group_with_refused_members) {
    struct box b = {0};
    box_open(&b);
    int n[2] = {0, 0};
    for (int i = 0; i < 50; i++) {
        struct store_txn *t = store_txn_new(0);
        char k[16];
        ASSERT_EQ(0, str_put(k, sizeof(k), "k%02d", i));
        store_txn_put(t, &t->body.then, span_str(k), SPAN_LIT("v"), i % 5 == 0 ? 999 : 0);
        store_txn(b.s, t, count_ok, n);
    }
    struct err e = ERR_INIT;
    while (n[0] + n[1] < 50) {
        ASSERT_OK(loop_step(b.l, NS_PER_S, &e), &e);
    }
    ASSERT_EQ(40, n[0]);
    ASSERT_EQ(41, store_rev(b.s));
    struct store_stat st;
    store_stat(b.s, &st);
    ASSERT_EQ(1, st.n_commits);
    box_fini(&b);
}

/* ---- watches ---- */

struct seen {
    struct buf log;
    int64_t last;
    int pause_after;
    bool cancelled;
    int n_progress;
    int64_t progress_rev, compact_rev;
};

static int on_watch(void *ctx, struct store_watch *w, const struct store_watch_msg *m) {
    struct seen *s = ctx;
    (void)w;
    if (m->kind == STORE_WATCH_CANCELLED) {
        s->cancelled = true;
        s->compact_rev = m->compact_rev;
        return 0;
    }
    if (m->kind == STORE_WATCH_PROGRESS) {
        s->n_progress++;
        s->progress_rev = m->rev;
        ASSERT(m->rev >= s->last);
        return 0;
    }
    for (size_t i = 0; i < m->n; i++) {
        const struct store_event *ev = m->events[i];
        ASSERT(ev->kv.mod_rev >= s->last);
        s->last = ev->kv.mod_rev;
        buf_fmt(&s->log, "%s%.*s=%.*s@%lld", ev->type == STORE_PUT ? "+" : "-",
                SPAN_FMT(ev->kv.key), SPAN_FMT(ev->kv.value), (long long)ev->kv.mod_rev);
        if (ev->has_prev) {
            buf_fmt(&s->log, "(%.*s)", SPAN_FMT(ev->prev.value));
        }
        buf_str(&s->log, " ");
    }
    return s->pause_after && --s->pause_after == 0 ? STORE_WATCH_PAUSE : 0;
}

TEST(store, watch_live_and_past) {
    struct box b = {0};
    struct err e = ERR_INIT;
    struct seen live = {.log = BUF_INIT(4096)}, past = live, point = live;
    struct store_watch *w[3];
    box_open(&b);
    ASSERT_OK(box_put(&b, "a", "1", 0, &e), &e);
    struct store_watch_req q = {.key = SPAN_LIT("a"), .end = SPAN_LIT("c")};
    ASSERT_OK(store_watch_start(b.s, &q, on_watch, &live, &w[0], &e), &e);
    ASSERT_OK(box_put(&b, "b", "2", 0, &e), &e);
    ASSERT_OK(box_put(&b, "z", "9", 0, &e), &e);
    ASSERT_OK(box_delete(&b, "a", "c", &e), &e);
    q.start_rev = 1;
    q.prev_kv = true;
    ASSERT_OK(store_watch_start(b.s, &q, on_watch, &past, &w[1], &e), &e);
    ASSERT_EQ(0, past.log.n); /* never before the call returned */
    q = (struct store_watch_req){.key = SPAN_LIT("a"), .filters = STORE_NO_PUT, .start_rev = 1};
    ASSERT_OK(store_watch_start(b.s, &q, on_watch, &point, &w[2], &e), &e);
    ASSERT_OK(box_put(&b, "b", "3", 0, &e), &e);
    box_turn(&b);
    ASSERT_STREQ("+b=2@3 -a=@5 -b=@5 +b=3@6 ", buf_cstr(&live.log));
    ASSERT_STREQ("+a=1@2 +b=2@3 -a=@5(1) -b=@5(2) +b=3@6 ", buf_cstr(&past.log));
    ASSERT_STREQ("-a=@5(1) ", buf_cstr(&point.log)); /* together with one that asked for it */
    store_watch_progress(w[1]);
    ASSERT_EQ(0, past.n_progress);
    box_turn(&b);
    ASSERT_EQ(1, past.n_progress);
    ASSERT_EQ(6, past.progress_rev);
    for (int i = 0; i < 3; i++) {
        store_watch_stop(w[i]);
    }
    buf_fini(&live.log);
    buf_fini(&past.log);
    buf_fini(&point.log);
    box_fini(&b);
}

TEST(store, watch_pause_resume_compacted) {
    struct box b = {.o = {.recent_bytes = 1}}; /* everything late comes from the log */
    struct err e = ERR_INIT;
    struct seen s = {.log = BUF_INIT(1 << 16), .pause_after = 1}, old = {.log = BUF_INIT(64)};
    struct store_watch *w, *w2;
    box_open(&b);
    struct store_watch_req q = {.key = SPAN_LIT("a"), .end = SPAN_LIT("b")};
    ASSERT_OK(store_watch_start(b.s, &q, on_watch, &s, &w, &e), &e);
    for (int i = 0; i < 5; i++) {
        ASSERT_OK(box_put(&b, "a", "x", 0, &e), &e);
    }
    ASSERT_STREQ("+a=x@2 ", buf_cstr(&s.log));
    ASSERT_EQ(3, store_watch_next_rev(w));
    store_watch_resume(w);
    box_turn(&b);
    ASSERT_STREQ("+a=x@2 +a=x@3 +a=x@4 +a=x@5 +a=x@6 ", buf_cstr(&s.log));
    ASSERT_OK(box_delete(&b, "a", "", &e), &e);
    ASSERT_OK(box_compact(&b, 7, &e), &e);
    /* A watch may start at the compacted revision, and sees the deletion there (etcd 18089, 19179). */
    buf_reset(&s.log);
    q.start_rev = 7;
    ASSERT_OK(store_watch_start(b.s, &q, on_watch, &s, &w2, &e), &e);
    box_turn(&b);
    ASSERT_STREQ("-a=@7 ", buf_cstr(&s.log));
    store_watch_stop(w2);
    q.start_rev = 6;
    ASSERT_OK(store_watch_start(b.s, &q, on_watch, &old, &w2, &e), &e);
    box_turn(&b);
    ASSERT(old.cancelled);
    ASSERT_EQ(7, old.compact_rev);
    store_watch_stop(w2);
    store_watch_stop(w);
    buf_fini(&s.log);
    buf_fini(&old.log);
    box_fini(&b);
}

TEST(store, watch_future_gives_nothing_old) {
    struct box b = {0};
    struct err e = ERR_INIT;
    struct seen s = {.log = BUF_INIT(4096)};
    struct store_watch *w;
    box_open(&b);
    struct store_watch_req q = {.key = SPAN_LIT("a"), .start_rev = 4};
    ASSERT_OK(store_watch_start(b.s, &q, on_watch, &s, &w, &e), &e);
    store_watch_progress(w);
    for (int i = 0; i < 2; i++) {
        ASSERT_OK(box_put(&b, "a", "x", 0, &e), &e);
    }
    box_turn(&b);
    ASSERT_EQ(0, s.log.n);
    ASSERT_OK(box_put(&b, "a", "y", 0, &e), &e);
    ASSERT_STREQ("+a=y@4 ", buf_cstr(&s.log));
    store_watch_stop(w);
    buf_fini(&s.log);
    box_fini(&b);
}

/* ---- leases ---- */

TEST(store, leases) {
    struct box b = {0};
    struct err e = ERR_INIT;
    box_open(&b);
    ASSERT_OK(box_grant(&b, 7, 1000, &e), &e);
    ASSERT_ERR(-ERR_CONFLICT, box_grant(&b, 7, 1000, &e));
    ASSERT_STREQ("etcdserver: lease already exists", e.pub);
    err_reset(&e);
    ASSERT_OK(box_put(&b, "a", "1", 7, &e), &e);
    ASSERT_OK(box_put(&b, "b", "1", 7, &e), &e);
    ASSERT_OK(box_put(&b, "c", "1", 0, &e), &e);
    ASSERT_OK(box_put(&b, "b", "2", 0, &e), &e); /* detached */
    box_shut(&b);
    box_open(&b);
    struct arena a = ARENA_INIT(1 << 20);
    struct span *keys;
    size_t n;
    ASSERT_OK(store_lease_keys(b.s, 7, &a, &keys, &n, &e), &e);
    ASSERT_EQ(1, n);
    ASSERT_SPAN("a", keys[0]);
    struct store_lease_info li;
    ASSERT_OK(store_lease_get(b.s, 7, &li, &e), &e);
    ASSERT_EQ(1000, li.granted_ttl);
    int64_t ttl;
    ASSERT_OK(store_lease_keepalive(b.s, 7, NULL, NULL, &ttl, &e), &e);
    ASSERT_OK(box_revoke(&b, 7, &e), &e);
    ASSERT_RANGE("b=2@3/5/2 c=1@4/4/1", &b, "a", "z", 0);
    ASSERT_EQ(6, store_rev(b.s));
    ASSERT_ERR(-ERR_NOT_FOUND, box_revoke(&b, 7, &e));
    err_reset(&e);
    ASSERT_ERR(-ERR_NOT_FOUND, store_lease_keepalive(b.s, 7, NULL, NULL, &ttl, &e));
    arena_fini(&a);
    box_fini(&b);
}

TEST(store, lease_expires) {
    struct box b = {0};
    struct err e = ERR_INIT;
    box_open(&b);
    ASSERT_OK(box_grant(&b, 8, 1, &e), &e); /* lengthened to etcd's minimum of 2 s */
    ASSERT_OK(box_put(&b, "a", "1", 8, &e), &e);
    uint64_t t0 = clock_ns();
    while (store_rev(b.s) < 3) {
        ASSERT_OK(loop_step(b.l, 5 * NS_PER_S, &e), &e);
        ASSERT(clock_ns() - t0 < 10 * NS_PER_S);
    }
    ASSERT(clock_ns() - t0 >= 1900 * NS_PER_MS);
    ASSERT_RANGE("", &b, "a", "z", 0);
    box_fini(&b);
}

/* ---- space, format, permissions ---- */

TEST(store, quota_alarm) {
    struct box b = {.o = {.quota_bytes = 200 * 1024}};
    struct err e = ERR_INIT;
    box_open(&b);
    char *val = mem_zero_alloc(8193);
    memset(val, 'v', 8192);
    int rc = 0;
    for (int i = 0; i < 100 && rc == 0; i++) {
        char k[16];
        ASSERT_EQ(0, str_put(k, sizeof(k), "k%d", i));
        rc = box_put(&b, k, val, 0, &e);
    }
    ASSERT_EQ(-ERR_LIMIT, rc);
    ASSERT_STREQ("etcdserver: mvcc: database space exceeded", e.pub);
    struct store_stat st;
    store_stat(b.s, &st);
    ASSERT_EQ(STORE_ALARM_NOSPACE, st.alarms);
    box_shut(&b);
    err_reset(&e);
    box_open(&b); /* the alarm survives */
    ASSERT_ERR(-ERR_LIMIT, box_put(&b, "x", "y", 0, &e));
    err_reset(&e);
    ASSERT_OK(box_delete(&b, "k", "l", &e), &e); /* deleting goes on */
    free(val);
    box_fini(&b);
}

TEST(store, refuses_newer_and_foreign_files) {
    struct box b = {0};
    struct err e = ERR_INIT;
    struct store *other;
    box_open(&b);
    ASSERT_ERR(-ERR_BUSY, store_open(b.l, b.dirfd, "store.db", NULL, &other, &e));
    struct stat st;
    ASSERT_EQ(0, fstatat(b.dirfd, "store.db", &st, 0));
    ASSERT_EQ(0600, st.st_mode & 0777);
    ASSERT_EQ(0, fstatat(b.dirfd, "store.db-wal", &st, 0));
    ASSERT_EQ(0600, st.st_mode & 0777);
    err_reset(&e);
    ASSERT_OK(db_exec(&b.s->wr.db, "PRAGMA user_version=99", &e), &e);
    box_shut(&b);
    ASSERT_ERR(-ERR_UNSUPPORTED, store_open(b.l, b.dirfd, "store.db", NULL, &other, &e));
    err_reset(&e);
    int fd = openat(b.dirfd, "text.db", O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    ASSERT(
        write(
            fd,
            "this is not a database, but it is long enough to have a header of one hundred bytes, "
            "which is what SQLite looks at first",
            120) == 120);
    close(fd);
    ASSERT_ERR(-ERR_CORRUPT, store_open(b.l, b.dirfd, "text.db", NULL, &other, &e));
    box_fini(&b);
}

/* ---- async range, scan, aux, hash ---- */

struct got {
    bool done;
    int rc;
    size_t n;
    int64_t rev;
};
static void on_range(void *ctx, int rc, const struct store_range_res *r, const struct err *e) {
    (void)e;
    *(struct got *)ctx = (struct got){true, rc, rc == 0 ? r->n : 0, 0};
}
static int on_scan(void *ctx, const struct store_kv *kv) {
    struct got *g = ctx;
    (void)kv;
    g->n++;
    return 0;
}
static void on_scanned(void *ctx, int rc, int64_t rev, const struct err *e) {
    struct got *g = ctx;
    (void)e;
    g->done = true;
    g->rc = rc;
    g->rev = rev;
}
static void on_done(void *ctx, int rc, const struct err *e) {
    (void)e;
    *(struct got *)ctx = (struct got){true, rc, 0, 0};
}
static int on_aux(void *ctx, struct span key, struct span value) {
    struct buf *b = ctx;
    return buf_fmt(b, "%.*s=%.*s;", SPAN_FMT(key), SPAN_FMT(value));
}
static void await(struct box *b, struct got *g) {
    struct err e = ERR_INIT;
    while (!g->done) {
        ASSERT_OK(loop_step(b->l, NS_PER_S, &e), &e);
    }
}

TEST(store, async_range_scan_aux) {
    struct box b = {0};
    struct err e = ERR_INIT;
    box_open(&b);
    for (int i = 0; i < 20; i++) {
        char k[16];
        ASSERT_EQ(0, str_put(k, sizeof(k), "k%02d", i));
        ASSERT_OK(box_put(&b, k, "v", 0, &e), &e);
    }
    struct got g = {0};
    struct store_range_req q = {.key = SPAN_LIT("k"), .end = SPAN_LIT("l"), .rev = 11};
    ASSERT_OK(store_range_async(b.s, &q, 0, on_range, &g, &e), &e);
    ASSERT(!g.done);
    await(&b, &g);
    ASSERT_EQ(0, g.rc);
    ASSERT_EQ(10, g.n);
    g = (struct got){0};
    ASSERT_OK(store_scan(b.s, SPAN_LIT("k1"), SPAN_LIT("k2"), on_scan, on_scanned, &g, &e), &e);
    ASSERT(!g.done);
    await(&b, &g);
    ASSERT_EQ(0, g.rc);
    ASSERT_EQ(10, g.n);
    ASSERT_EQ(21, g.rev);
    g = (struct got){0};
    store_aux_put(b.s, SPAN_LIT("users"), SPAN_LIT("root"), SPAN_LIT("x"), on_done, &g);
    await(&b, &g);
    ASSERT_EQ(21, store_rev(b.s));
    AUTO(buf) struct buf out = BUF_INIT(100);
    ASSERT_OK(store_aux_scan(b.s, SPAN_LIT("users"), on_aux, &out, &e), &e);
    ASSERT_STREQ("root=x;", buf_cstr(&out));
    box_fini(&b);
}

TEST(store, compaction_frees_and_defrag_shrinks) {
    struct box b = {0};
    struct err e = ERR_INIT;
    box_open(&b);
    char *val = mem_zero_alloc(4001);
    memset(val, 'v', 4000);
    for (int i = 0; i < 300; i++) {
        ASSERT_OK(box_put(&b, "same", val, 0, &e), &e);
    }
    free(val);
    struct store_stat before, after;
    store_stat(b.s, &before);
    ASSERT_OK(box_compact(&b, store_rev(b.s), &e), &e);
    store_stat(b.s, &after);
    ASSERT(after.in_use_bytes < before.in_use_bytes / 4);
    struct got g = {0};
    store_defrag(b.s, on_done, &g);
    await(&b, &g);
    ASSERT_EQ(0, g.rc);
    store_stat(b.s, &after);
    ASSERT(after.db_bytes < before.db_bytes / 4);
    int64_t rows;
    sqlite3_stmt *st;
    ASSERT_EQ(SQLITE_OK, sqlite3_prepare_v2(b.s->rd.h, "SELECT count(*) FROM log", -1, &st, NULL));
    ASSERT_EQ(SQLITE_ROW, sqlite3_step(st));
    rows = sqlite3_column_int64(st, 0);
    sqlite3_finalize(st);
    ASSERT_EQ(1, rows);
    box_fini(&b);
}

/* SQLite's own file layer takes a write of 128 KiB or more for a full disk. */
TEST(store, commits_of_many_sizes) {
    struct box b = {0};
    struct err e = ERR_INIT;
    box_open(&b);
    static char value[4000];
    memset(value, 'v', sizeof(value));
    for (size_t n = 1; n <= 120; n += 17) {
        struct store_txn *t = store_txn_new(0);
        for (size_t i = 0; i < n; i++) {
            char key[16];
            snprintf(key, sizeof(key), "k%03u", (unsigned)(i % 1000));
            store_txn_put(t, &t->body.then, span_str(key), span_of(value, sizeof(value)), 0);
        }
        ASSERT_OK(box_txn(&b, t, &e), &e);
        store_txn_free(t);
    }
    box_shut(&b);
    box_open(&b);
    struct arena a = ARENA_INIT(4 << 20);
    struct store_range_res r;
    const struct store_range_req q = {.key = SPAN_LIT("k"), .end = SPAN_LIT("l")};
    ASSERT_OK(store_range(b.s, &q, &a, &r, &e), &e);
    ASSERT_EQ(120, r.count);
    ASSERT_EQ(9, r.rev);
    arena_fini(&a);
    box_fini(&b);
}
