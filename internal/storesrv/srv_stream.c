/* RangeStream: a range in pages, each read when the client has taken the one before. All pages are of one revision, and a
 * compaction that overtakes them ends the call; the last carries header, count and whether there is more, as etcd 3.7 does it. */
#include "internal/storesrv/srv_ns.h"

#include <stdlib.h>

enum { PAGE_KEYS = 10, PAGE_KEYS_MAX = 4096, PAGE_SMALL = 128 * 1024, PAGE_ROOM = 1 << 20 };

struct range_stream {
    struct rpc *c;
    struct store_range_req q; /* of the next page; key and end in `keys` */
    struct buf key, end;
    int64_t rev, sent, total; /* header's revision; total: 0 = all */
    int64_t page;             /* keys a page */
    bool reading;
};

static void stream_free(struct range_stream *s) {
    buf_fini(&s->key);
    buf_fini(&s->end);
    rpc_unref(s->c);
    free(s);
}

/* A read that is out ends first. */
static void stream_drop(struct rpc *c) {
    struct range_stream *s = c->state;
    c->state = NULL;
    if (!s->reading) {
        stream_free(s);
    }
}

static void next_page(struct range_stream *s);

static void send_page(struct range_stream *s, const struct store_range_res *r, bool last,
                      int64_t count) {
    struct buf b = rpc_buf(s->c);
    size_t m = wire_begin(&b, 1);
    struct store_range_res end = *r;
    end.count = count;
    if (last) {
        enc_header(&b, 1, s->c->v, s->rev);
    }
    for (size_t i = 0; i < r->n; i++) {
        enc_kv(&b, 2, &r->kvs[i]);
    }
    if (last) {
        enc_range_end(&b, &end);
    }
    wire_end(&b, m);
    if (last) {
        rpc_reply(s->c, &b);
    } else {
        rpc_send(s->c, &b);
    }
}

/* Where the next page begins, and how many keys fit well. */
static void advance(struct range_stream *s, const struct store_range_res *r) {
    size_t bytes = 0;
    for (size_t i = 0; i < r->n; i++) {
        bytes += r->kvs[i].key.n + r->kvs[i].value.n;
    }
    if (bytes < PAGE_SMALL && s->page < PAGE_KEYS_MAX) {
        s->page *= 2;
    } else if (bytes > 4 * PAGE_SMALL && s->page > 1) {
        s->page /= 2;
    }
    buf_reset(&s->key);
    buf_span(&s->key, r->kvs[r->n - 1].key);
    buf_u8(&s->key, 0);
}

/* The client may be gone: then the call's state is. */
static bool read_done(struct range_stream *s, int rc, const struct err *e) {
    s->reading = false;
    if (!s->c->state) {
        stream_free(s);
        return false;
    }
    if (rc < 0) {
        rpc_fail(s->c, e); /* drops */
    }
    return rc == 0;
}

static void on_rest(void *ctx, int rc, const struct store_range_res *r, const struct err *e) {
    struct range_stream *s = ctx;
    if (read_done(s, rc, e)) {
        struct store_range_res none = {.more = true};
        send_page(s, &none, true, s->sent + r->count);
    }
}

/* The limit is reached and keys are left: the count wants them too. */
static void count_rest(struct range_stream *s) {
    struct err e = ERR_INIT;
    struct store_range_req q = s->q;
    q.key = buf_view(&s->key);
    q.limit = 0;
    q.no_count = false;
    q.count_only = true;
    s->reading = true;
    if (store_range_async(s->c->v->st, &q, 0, on_rest, s, &e) < 0) {
        s->reading = false;
        rpc_fail(s->c, &e);
    }
}

static void on_page(void *ctx, int rc, const struct store_range_res *r, const struct err *e) {
    struct range_stream *s = ctx;
    if (rc == -ERR_LIMIT && s->page > 1 && s->c->state) {
        s->reading = false;
        s->page = s->page > 4 ? s->page / 4 : 1;
        next_page(s);
        return;
    }
    if (!read_done(s, rc, e)) {
        return;
    }
    if (!s->rev) {
        s->rev = r->rev;
        s->q.rev = s->q.rev ? s->q.rev : r->rev;
    }
    s->sent += (int64_t)r->n;
    bool full = s->total && s->sent >= s->total;
    if (s->q.count_only || !r->more || !r->n) {
        if (s->c->ns) {
            ns_range_out(s->c->ns, r);
        }
        send_page(s, r, true, s->q.count_only ? r->count : s->sent);
        return;
    }
    advance(s, r);
    if (s->c->ns) {
        ns_range_out(s->c->ns, r);
    }
    struct rpc *c = rpc_ref(s->c);
    send_page(s, r, false, 0);
    if (c->state && full) {
        count_rest(s);
    } else if (c->state && rpc_pending(c) < LIM_STREAM_PENDING) {
        next_page(s);
    }
    rpc_unref(c);
}

static void next_page(struct range_stream *s) {
    struct err e = ERR_INIT;
    struct store_range_req q = s->q;
    int64_t left = s->total ? s->total - s->sent : INT64_MAX;
    q.key = buf_view(&s->key);
    q.limit = q.count_only ? 0 : left < s->page ? left : s->page;
    q.no_count = !q.count_only;
    s->reading = true;
    /* Any one key fits; of more only what is small. */
    size_t room = 2 * (size_t)s->c->v->o.max_request_bytes + PAGE_ROOM;
    if (store_range_async(s->c->v->st, &q, room, on_page, s, &e) < 0) {
        s->reading = false;
        rpc_fail(s->c, &e);
    }
}

static void drained(struct rpc *c) {
    struct range_stream *s = c->state;
    if (s && !s->reading) {
        next_page(s);
    }
}

void kv_range_stream(struct rpc *c, struct span m) {
    struct err e = ERR_INIT;
    struct store_range_req q;
    bool serializable;
    int rc = dec_range(m, &q, &serializable, &e);
    if (rc == 0 && !q.key.n) {
        rc = rpc_error(&e, ERR_INVALID, STORE_E_EMPTY_KEY);
    } else if (rc == 0 && q.order != STORE_SORT_NONE &&
               (q.order != STORE_SORT_ASCEND || q.by != STORE_BY_KEY)) {
        rc = rpc_error(&e, ERR_UNSUPPORTED, "RangeStream does not support custom sort orders");
    } else if (rc == 0 && (q.min_mod || q.max_mod || q.min_create || q.max_create)) {
        rc = rpc_error(&e, ERR_UNSUPPORTED, "RangeStream does not support revision filters");
    }
    if (rc == 0 && c->ns) {
        ns_range_in(c->ns, &c->a, &q.key, &q.end);
    }
    if (rc < 0 || auth_range(c, q.key, q.end, false, &e) < 0) {
        rpc_fail(c, &e);
        return;
    }
    struct range_stream *s = new_zero(struct range_stream);
    s->c = rpc_ref(c);
    s->key = (struct buf)BUF_INIT((size_t)1 << 30);
    s->end = (struct buf)BUF_INIT((size_t)1 << 30);
    buf_span(&s->key, q.key);
    buf_span(&s->end, q.end);
    s->total = q.limit > 0 ? q.limit : 0;
    s->page = PAGE_KEYS;
    s->q = q;
    s->q.order = STORE_SORT_NONE;
    s->q.by = STORE_BY_KEY;
    s->q.end = buf_view(&s->end);
    c->state = s;
    c->drop = stream_drop;
    c->drain = drained;
    next_page(s);
}
