#include "internal/store/store_test.h"

#include "internal/base/rand.h"
#include "internal/t/t.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

void box_open(struct box *b) {
    struct err e = ERR_INIT;
    if (!b->l) {
        ASSERT_OK(str_put(b->dir, sizeof(b->dir), "%s/kf-store-XXXXXX",
                          getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp"),
                  &e);
        ASSERT(mkdtemp(b->dir) != NULL);
        b->dirfd = open(b->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        ASSERT(b->dirfd >= 0);
        ASSERT_OK(loop_new(&b->l, &e), &e);
    }
    ASSERT_OK(store_open_vfs(b->l, b->dirfd, "store.db", &b->o, b->vfs, &b->s, &e), &e);
}

void box_shut(struct box *b) {
    store_close(b->s);
    b->s = NULL;
}

void box_fini(struct box *b) {
    box_shut(b);
    loop_free(b->l);
    DIR *d = opendir(b->dir);
    struct dirent *de;
    while (d && (de = readdir(d))) {
        unlinkat(dirfd(d), de->d_name, 0);
    }
    if (d) {
        closedir(d);
    }
    close(b->dirfd);
    rmdir(b->dir);
}

struct wait {
    bool done;
    int rc;
    struct err *e;
};

static void finish(struct wait *w, int rc, const struct err *e) {
    w->done = true;
    w->rc = rc;
    if (rc < 0 && e) {
        *w->e = *e;
    }
}
static void txn_done(void *ctx, struct store_txn *t, int rc, const struct err *e) {
    store_txn_keep(t);
    finish(ctx, rc, e);
}
static void simple_done(void *ctx, int rc, const struct err *e) {
    finish(ctx, rc, e);
}
static void lease_done(void *ctx, int rc, int64_t id, int64_t ttl, const struct err *e) {
    (void)id;
    (void)ttl;
    finish(ctx, rc, e);
}

static int run(struct box *b, struct wait *w) {
    uint64_t limit = clock_ns() + 20 * NS_PER_S;
    while (!w->done) {
        ASSERT(clock_ns() < limit);
        ASSERT_OK(loop_step(b->l, NS_PER_S, w->e), w->e);
    }
    return w->rc;
}

void box_rest(struct box *b) {
    struct err e = ERR_INIT;
    while (b->s->busy || b->s->wal.out) {
        ASSERT_OK(loop_step(b->l, NS_PER_S, &e), &e);
    }
    loop_timer_stop(&b->s->idle_timer);
}

int box_txn(struct box *b, struct store_txn *t, struct err *e) {
    struct wait w = {.e = e};
    store_txn(b->s, t, txn_done, &w);
    ASSERT(!w.done);
    return run(b, &w);
}

int box_put(struct box *b, const char *key, const char *value, int64_t lease, struct err *e) {
    struct store_txn *t = store_txn_new(0);
    store_txn_put(t, &t->body.then, span_str(key), span_str(value), lease);
    int rc = box_txn(b, t, e);
    store_txn_free(t);
    return rc;
}

int box_delete(struct box *b, const char *key, const char *end, struct err *e) {
    struct store_txn *t = store_txn_new(0);
    store_txn_delete(t, &t->body.then, span_str(key), span_str(end));
    int rc = box_txn(b, t, e);
    store_txn_free(t);
    return rc;
}

int box_compact(struct box *b, int64_t rev, struct err *e) {
    struct wait w = {.e = e};
    store_compact(b->s, rev, true, simple_done, &w);
    return run(b, &w);
}
int box_grant(struct box *b, int64_t id, int64_t ttl, struct err *e) {
    struct wait w = {.e = e};
    store_lease_grant(b->s, id, ttl, lease_done, &w);
    return run(b, &w);
}
int box_revoke(struct box *b, int64_t id, struct err *e) {
    struct wait w = {.e = e};
    store_lease_revoke(b->s, id, simple_done, &w);
    return run(b, &w);
}

void box_turn(struct box *b) {
    struct err e = ERR_INIT;
    for (int i = 0; i < 8; i++) {
        ASSERT_OK(loop_step(b->l, 0, &e), &e);
    }
}

char *box_range(struct box *b, const char *key, const char *end, int64_t rev) {
    struct arena a = ARENA_INIT(1u << 24);
    struct store_range_req q = {.key = span_str(key), .end = span_str(end), .rev = rev};
    struct store_range_res r;
    struct err e = ERR_INIT;
    struct buf out = BUF_INIT(1u << 20);
    ASSERT_OK(store_range(b->s, &q, &a, &r, &e), &e);
    for (size_t i = 0; i < r.n; i++) {
        struct store_kv *k = &r.kvs[i];
        buf_fmt(&out, "%s%.*s=%.*s@%lld/%lld/%lld", i ? " " : "", SPAN_FMT(k->key),
                SPAN_FMT(k->value), (long long)k->create_rev, (long long)k->mod_rev,
                (long long)k->version);
    }
    arena_fini(&a);
    buf_u8(&out, 0);
    size_t n;
    return buf_take(&out, &n);
}
