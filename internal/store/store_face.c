/* store.h's functions: each goes to the implementation that the object begins with. */
#include "internal/store/store_impl.h"

#include <stdlib.h>

static const struct store_impl *impl_of(const void *object) {
    const struct store_head *h = object;
    return h->impl;
}

void store_close(struct store *s) {
    if (s) {
        impl_of(s)->close(s);
    }
}

int64_t store_rev(const struct store *s) {
    return impl_of(s)->rev(s);
}

int64_t store_compact_rev(const struct store *s) {
    return impl_of(s)->compact_rev(s);
}

void store_stat(struct store *s, struct store_stat *ret) {
    impl_of(s)->stat(s, ret);
}

int store_range_async(struct store *s, const struct store_range_req *q, size_t max_bytes,
                      store_range_done *done, void *ctx, struct err *e) {
    return impl_of(s)->range_async(s, q, max_bytes, done, ctx, e);
}

void store_txn(struct store *s, struct store_txn *own_txn, store_txn_done *done, void *ctx) {
    impl_of(s)->txn(s, own_txn, done, ctx);
}

int store_watch_start(struct store *s, const struct store_watch_req *q, store_watch_cb *cb,
                      void *ctx, struct store_watch **ret, struct err *e) {
    return impl_of(s)->watch_start(s, q, cb, ctx, ret, e);
}

void store_watch_stop(struct store_watch *w) {
    if (w) {
        impl_of(w)->watch_stop(w);
    }
}

void store_watch_resume(struct store_watch *w) {
    impl_of(w)->watch_resume(w);
}

bool store_is_shared(const struct store *s) {
    const struct store_impl *i = impl_of(s);
    return i->is_shared && i->is_shared(s);
}

void store_sync(struct store *s, store_done *done, void *ctx) {
    impl_of(s)->sync(s, done, ctx);
}

void store_watch_progress(struct store_watch *w) {
    impl_of(w)->watch_progress(w);
}

int64_t store_watch_next_rev(const struct store_watch *w) {
    return impl_of(w)->watch_next_rev(w);
}

void store_lease_grant(struct store *s, int64_t id, int64_t ttl, store_lease_done *done,
                       void *ctx) {
    impl_of(s)->lease_grant(s, id, ttl, done, ctx);
}

void store_lease_revoke(struct store *s, int64_t id, store_done *done, void *ctx) {
    impl_of(s)->lease_revoke(s, id, done, ctx);
}

void store_compact(struct store *s, int64_t rev, bool physical, store_done *done, void *ctx) {
    impl_of(s)->compact(s, rev, physical, done, ctx);
}

/* ---- scanning, in pages of one revision ---- */

/* A page that is too large for an answer is asked for again with fewer keys; small ones grow. */
enum { SCAN_KEYS = 500, SCAN_KEYS_MAX = 8000, SCAN_SMALL = 1 << 20, SCAN_BYTES = 12 << 20 };

struct scan {
    struct store *s;
    struct buf from;
    struct span end;
    int64_t rev, n; /* n: keys a page */
    store_scan_cb *each;
    store_scan_done *done;
    void *ctx;
    uint8_t own_end[];
};

static int scan_page(struct scan *c, struct err *e);

static void scan_end(struct scan *own_c, int rc, const struct err *e) {
    own_c->done(own_c->ctx, rc, own_c->rev, rc < 0 ? e : NULL);
    buf_fini(&own_c->from);
    free(own_c);
}

static int scan_give(struct scan *c, const struct store_range_res *r, struct err *e) {
    size_t bytes = 0;
    for (size_t i = 0; i < r->n; i++) {
        bytes += r->kvs[i].key.n + r->kvs[i].value.n;
        int rc = c->each(c->ctx, &r->kvs[i]);
        if (rc < 0) {
            return e->code ? rc : err_set(e, (enum err_code) - rc, "the scan was ended");
        }
    }
    if (r->more) { /* from the key behind the last */
        buf_reset(&c->from);
        buf_span(&c->from, r->kvs[r->n - 1].key);
        buf_u8(&c->from, 0);
    }
    if (bytes < SCAN_SMALL && c->n < SCAN_KEYS_MAX) {
        c->n *= 2;
    }
    return 0;
}

static void on_page(void *ctx, int rc, const struct store_range_res *r, const struct err *e) {
    struct scan *c = ctx;
    struct err mine = ERR_INIT;
    bool more = true;
    if (rc == -ERR_LIMIT && c->n > 1) {
        c->n /= 4;
        c->n = c->n < 1 ? 1 : c->n;
        rc = 0;
    } else if (rc >= 0) {
        c->rev = c->rev ? c->rev : r->rev;
        more = r->more && r->n > 0;
        rc = scan_give(c, r, &mine);
        e = &mine;
    }
    if (rc >= 0 && more) {
        rc = scan_page(c, &mine);
        e = &mine;
    }
    if (rc < 0 || !more) {
        scan_end(c, rc, e);
    }
}

static int scan_page(struct scan *c, struct err *e) {
    const struct store_range_req q = {
        .key = buf_view(&c->from), .end = c->end, .limit = c->n, .rev = c->rev, .no_count = true};
    return store_range_async(c->s, &q, SCAN_BYTES, on_page, c, e);
}

int store_scan(struct store *s, struct span key, struct span end, store_scan_cb *each,
               store_scan_done *done, void *ctx, struct err *e) {
    struct scan *c = mem_zero_alloc(sizeof(*c) + end.n);
    c->s = s;
    c->from = (struct buf)BUF_INIT(4 << 20);
    c->n = SCAN_KEYS;
    c->each = each;
    c->done = done;
    c->ctx = ctx;
    if (end.n) {
        memcpy(c->own_end, end.p, end.n);
    }
    c->end = span_of(c->own_end, end.n);
    buf_span(&c->from, key);
    int rc = buf_ok(&c->from);
    rc = rc < 0 ? err_set(e, ERR_LIMIT, "the key is too long") : scan_page(c, e);
    if (rc < 0) {
        buf_fini(&c->from);
        free(c);
    }
    return rc;
}
