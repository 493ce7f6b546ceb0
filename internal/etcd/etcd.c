/* store.h by an etcd cluster: what becomes one request each. */
#include "internal/etcd/etcd_int.h"

#include "internal/base/rand.h"
#include "internal/tls/tls.h"
#include "internal/wire/wire.h"

#include <arpa/inet.h>
#include <stdlib.h>

enum { CLOSE_MS = 1000, PAGE_KEYS = 1000, RANGE_BYTES = 1 << 30 };

static int malformed(struct err *e, const struct ecall *c) {
    return err_set(e, ERR_INTERNAL, "etcd's answer to %s is malformed", c->path);
}

/* ---- ranges ---- */

/* A range whose answer is too large for one message is read in pages of one revision. */
struct range {
    struct etcd *s;
    struct store_range_req q;
    struct arena a;
    struct store_range_res res; /* of all pages */
    size_t cap;
    int64_t page, left; /* page 0: all at once; left: of the limit */
    struct span from;
    store_range_done *done;
    void *ctx;
};

static void range_send(struct range *r);

static void range_end(struct range *own_r, int rc, const struct err *e) {
    own_r->done(own_r->ctx, rc, rc < 0 ? NULL : &own_r->res, rc < 0 ? e : NULL);
    arena_fini(&own_r->a);
    free(own_r);
}

static bool can_page(const struct store_range_req *q) {
    bool by_key =
        q->order == STORE_SORT_NONE || (q->order == STORE_SORT_ASCEND && q->by == STORE_BY_KEY);
    return by_key && q->end.n && !q->count_only && !q->min_mod && !q->max_mod && !q->min_create &&
           !q->max_create;
}

static bool range_add(struct range *r, const struct store_range_res *page) {
    struct store_range_res *all = &r->res;
    if (all->n + page->n > r->cap) {
        size_t cap = (all->n + page->n) * 2;
        struct store_kv *kvs = arena_alloc(&r->a, cap * sizeof(*kvs));
        if (!kvs) {
            return false;
        }
        if (all->n) {
            memcpy(kvs, all->kvs, all->n * sizeof(*kvs));
        }
        all->kvs = kvs;
        r->cap = cap;
    }
    if (page->n) {
        memcpy(all->kvs + all->n, page->kvs, page->n * sizeof(*page->kvs));
    }
    all->n += page->n;
    return true;
}

/* 1: there is another page to ask for. */
static int range_page(struct range *r, const struct store_range_res *page) {
    if (!r->page) {
        r->res = *page;
        return 0;
    }
    if (!r->res.rev) { /* the first page counts the whole range */
        r->res.rev = page->rev;
        r->res.count = page->count;
        r->q.rev = r->q.rev ? r->q.rev : page->rev;
    }
    if (!range_add(r, page)) {
        return -ERR_LIMIT;
    }
    r->left -= r->q.limit ? (int64_t)page->n : 0;
    r->res.more = page->more;
    if (!page->more || !page->n || (r->q.limit && r->left <= 0)) {
        return 0;
    }
    struct span last = page->kvs[page->n - 1].key;
    uint8_t *from = arena_alloc(&r->a, last.n + 1);
    if (!from) {
        return -ERR_LIMIT;
    }
    memcpy(from, last.p, last.n);
    r->from = span_of(from, last.n + 1);
    return 1;
}

static void on_range(struct ecall *c, int rc, struct span message, struct err *e) {
    struct range *r = c->ctx;
    struct store_range_res page = {0};
    if (rc == -ERR_LIMIT && can_page(&r->q) && r->page != 1) {
        r->page = r->page ? r->page / 4 + 1 : PAGE_KEYS;
        range_send(r);
        return;
    }
    if (rc >= 0) {
        rc = etcd_dec_range(message, &r->s->ns, &r->a, &page);
        rc = rc < 0 ? rc : range_page(r, &page);
        if (rc < 0) {
            rc = rc == -ERR_LIMIT ? err_set(e, ERR_LIMIT, "the range is larger than allowed")
                                  : malformed(e, c);
        }
    }
    if (rc > 0) {
        range_send(r);
        return;
    }
    efeed_heard(r->s, page.rev);
    range_end(r, rc, e);
}

static void range_send(struct range *r) {
    struct ecall *c = ecall_new(r->s, "/etcdserverpb.KV/Range", on_range, r);
    struct store_range_req q = r->q;
    q.key = r->from;
    if (r->page) {
        q.limit = r->q.limit && r->left < r->page ? r->left : r->page;
    }
    etcd_enc_range(&c->out, &r->s->ns, &q);
    c->is_read = true;
    ecall_start(c);
}

static int etcd_range_async(struct store *st, const struct store_range_req *q, size_t max_bytes,
                            store_range_done *done, void *ctx, struct err *e) {
    struct etcd *s = etcd_of(st);
    if (s->closing) {
        return err_set(e, ERR_UNAVAILABLE, "the store is closing");
    }
    struct range *r = new_zero(struct range);
    r->s = s;
    r->q = *q;
    r->left = q->limit;
    r->a = (struct arena)ARENA_INIT(max_bytes ? max_bytes : RANGE_BYTES);
    r->q.key = r->from = arena_copy(&r->a, q->key);
    r->q.end = arena_copy(&r->a, q->end);
    r->done = done;
    r->ctx = ctx;
    if (!r->q.key.p || !r->q.end.p) {
        arena_fini(&r->a);
        free(r);
        return err_set(e, ERR_LIMIT, "%s", STORE_E_TOO_LARGE);
    }
    s->st_count.n_ranges++;
    range_send(r);
    return 0;
}

/* ---- transactions ---- */

struct write {
    struct eheld hold;
    struct store_txn *txn;
    store_txn_done *done;
    void *ctx;
};

static void write_end(struct write *own_w, int rc, const struct err *e) {
    struct store_txn *t = own_w->txn;
    t->kept = false;
    own_w->done(own_w->ctx, t, rc, rc < 0 ? e : NULL);
    if (!t->kept) {
        store_txn_free(t);
    }
    free(own_w);
}

static void on_held(struct eheld *h, bool in_time) {
    struct write *w = CONTAINER_OF(h, struct write, hold);
    struct err e = ERR_INIT;
    int rc = 0;
    if (!in_time) { /* it is done, but success would promise more */
        rc = err_set(&e, ERR_TIMEOUT, "etcd has made the change but its watch does not report it");
    }
    write_end(w, rc, &e);
}

static void on_txn(struct ecall *c, int rc, struct span message, struct err *e) {
    struct write *w = c->ctx;
    struct store_txn *t = w->txn;
    if (rc >= 0) {
        rc = etcd_dec_txn(message, &c->s->ns, &t->a, &t->body, &t->rev);
        if (rc < 0) {
            rc = rc == -ERR_LIMIT ? err_set(e, ERR_LIMIT, "the answer is larger than allowed")
                                  : malformed(e, c);
        }
    }
    if (rc < 0 || !etcd_body_changed(&t->body)) {
        write_end(w, rc, e);
        return;
    }
    efeed_heard(c->s, t->rev);
    efeed_hold(c->s, &w->hold, t->rev, on_held);
}

static bool has_writes(const struct store_body *b) {
    const struct store_ops *const both[] = {&b->then, &b->els};
    for (size_t k = 0; k < ARRAY_LEN(both); k++) {
        for (size_t i = 0; i < both[k]->n; i++) {
            const struct store_op *op = &both[k]->v[i];
            if (op->kind == STORE_OP_TXN ? has_writes(op->u.txn) : op->kind != STORE_OP_RANGE) {
                return true;
            }
        }
    }
    return false;
}

static void etcd_txn(struct store *st, struct store_txn *own_txn, store_txn_done *done, void *ctx) {
    struct etcd *s = etcd_of(st);
    struct write *w = new_zero(struct write);
    struct ecall *c = ecall_new(s, "/etcdserverpb.KV/Txn", on_txn, w);
    list_init(&w->hold.link);
    w->hold.s = s;
    w->txn = own_txn;
    w->done = done;
    w->ctx = ctx;
    c->is_read = !has_writes(&own_txn->body);
    s->st_count.n_txns++;
    if (own_txn->failed) {
        err_set(&c->refused, ERR_INVALID, "%s", STORE_E_TOO_LARGE);
        c->refused.pub = STORE_E_TOO_LARGE;
    } else {
        etcd_enc_txn(&c->out, &s->ns, &own_txn->body);
    }
    ecall_start(c);
}

/* ---- leases, compaction ---- */

struct simple {
    store_done *done;
    store_lease_done *lease_done;
    void *ctx;
    int64_t rev;
};

static void on_simple(struct ecall *c, int rc, struct span message, struct err *e) {
    struct simple *k = c->ctx;
    struct etcd *s = c->s;
    (void)message;
    if (rc >= 0 && k->rev > s->compact_rev) {
        s->compact_rev = k->rev;
    }
    k->done(k->ctx, rc, rc < 0 ? e : NULL);
    free(k);
}

static void on_grant(struct ecall *c, int rc, struct span message, struct err *e) {
    struct simple *k = c->ctx;
    int64_t id = 0;
    int64_t ttl = 0;
    struct span error = SPAN_EMPTY;
    if (rc >= 0 && etcd_dec_grant(message, &id, &ttl, &error) < 0) {
        rc = malformed(e, c);
    } else if (rc >= 0 && error.n) {
        rc = err_set(e, ERR_INTERNAL, "%.*s", SPAN_FMT(error));
    }
    k->lease_done(k->ctx, rc, id, ttl, rc < 0 ? e : NULL);
    free(k);
}

static struct ecall *simple_new(struct store *st, const char *path, ecall_done *answered,
                                const struct simple *k) {
    struct simple *own = new_zero(struct simple);
    *own = *k;
    return ecall_new(etcd_of(st), path, answered, own);
}

static void etcd_lease_grant(struct store *st, int64_t id, int64_t ttl, store_lease_done *done,
                             void *ctx) {
    const struct simple k = {.lease_done = done, .ctx = ctx};
    struct ecall *c = simple_new(st, "/etcdserverpb.Lease/LeaseGrant", on_grant, &k);
    wire_i64(&c->out, 1, ttl);
    wire_i64(&c->out, 2, id);
    ecall_start(c);
}

static void etcd_lease_revoke(struct store *st, int64_t id, store_done *done, void *ctx) {
    const struct simple k = {.done = done, .ctx = ctx};
    struct ecall *c = simple_new(st, "/etcdserverpb.Lease/LeaseRevoke", on_simple, &k);
    wire_i64(&c->out, 1, id);
    ecall_start(c);
}

static void etcd_compact(struct store *st, int64_t rev, bool physical, store_done *done,
                         void *ctx) {
    const struct simple k = {.done = done, .ctx = ctx, .rev = rev};
    struct ecall *c = simple_new(st, "/etcdserverpb.KV/Compact", on_simple, &k);
    wire_i64(&c->out, 1, rev);
    wire_bool(&c->out, 2, physical);
    ecall_start(c);
}

/* ---- state ---- */

static int64_t etcd_rev(const struct store *st) {
    const struct etcd *s = (const struct etcd *)(const void *)st;
    return s->rev ? s->rev : 1;
}

static int64_t etcd_compact_rev(const struct store *st) {
    const struct etcd *s = (const struct etcd *)(const void *)st;
    return s->compact_rev;
}

static void etcd_stat(struct store *st, struct store_stat *ret) {
    struct etcd *s = etcd_of(st);
    *ret = s->st_count;
    ret->rev = etcd_rev(st);
    ret->compact_rev = s->compact_rev;
    ret->db_bytes = s->db_bytes;
    ret->in_use_bytes = s->in_use_bytes;
    ret->n_pending = s->n_waiting + s->n_running;
    for (LIST_EACH(p, next, &s->watches)) {
        ret->n_watches++;
    }
    ret->trouble = s->in_trouble ? s->trouble : s->state == CONN_READY ? NULL : "not connected yet";
}

static bool etcd_is_shared(const struct store *st) {
    return !((const struct etcd *)(const void *)st)->alone;
}

/* ---- opening, closing ---- */

static void etcd_close(struct store *st) {
    struct etcd *s = etcd_of(st);
    struct err e = ERR_INIT;
    uint64_t until = clock_ns() + CLOSE_MS * NS_PER_MS;
    s->closing = true;
    while (s->state == CONN_READY && (s->n_running || !list_empty(&s->held)) &&
           clock_ns() < until) {
        if (loop_step(s->l, 100 * NS_PER_MS, &e) < 0) {
            break;
        }
    }
    ecall_fini(s);
    efeed_fini(s);
    econn_stop(s);
    loop_hook_cancel(&s->dispatch);
    for (size_t i = 0; i < s->n_ep; i++) {
        etcd_endpoint_fini(&s->ep[i]);
    }
    if (s->tls) {
        tls_config_unref(s->tls);
    }
    arena_fini(&s->mem);
    free(s);
}

static bool is_local(const struct endpoint *ep) {
    const struct sockaddr_storage *sa = &ep->addrs[0].sa;
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)sa;
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)sa;
    return sa->ss_family == AF_UNIX ||
           (sa->ss_family == AF_INET && ntohl(v4->sin_addr.s_addr) >> 24 == 127) ||
           (sa->ss_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr));
}

static int endpoints(struct etcd *s, const struct etcd_opts *o, struct err *e) {
    if (o->n_endpoints == 0 || o->n_endpoints > LIM_ETCD_ENDPOINTS) {
        return err_set(e, ERR_INVALID, "1 to %d etcd endpoints are needed", LIM_ETCD_ENDPOINTS);
    }
    for (size_t i = 0; i < o->n_endpoints; i++) {
        struct endpoint *ep = &s->ep[s->n_ep++];
        int rc = etcd_endpoint_parse(ep, o->endpoints[i], e);
        if (rc < 0) {
            return rc;
        }
        if (ep->tls && !o->tls) {
            return err_set(e, ERR_INVALID, "etcd endpoint %s needs a CA file", ep->url);
        }
        if (!ep->tls && !o->plain && !is_local(ep)) {
            return err_set(e, ERR_INVALID,
                           "etcd endpoint %s: without TLS only this machine can be talked to",
                           ep->url);
        }
    }
    return 0;
}

static int names(struct etcd *s, const char *prefix, bool rooted, struct err *e) {
    struct span p = span_str(prefix ? prefix : "");
    while (rooted && p.n && p.p[p.n - 1] == '/') {
        p.n--;
    }
    if (p.n > LIM_ETCD_PREFIX) {
        return err_set(e, ERR_INVALID, "the etcd prefix is longer than %d bytes", LIM_ETCD_PREFIX);
    }
    s->mem = (struct arena)ARENA_INIT(64 << 10);
    AUTO_FREE char *first = str_fmt("%.*s/", SPAN_FMT(p));
    s->ns.rooted = rooted;
    s->ns.prefix = arena_copy(&s->mem, p);
    s->ns.first = rooted ? arena_copy(&s->mem, span_str(first))
                  : p.n  ? s->ns.prefix
                         : SPAN_LIT("\0");
    s->ns.end = p.n || rooted ? store_prefix_end(&s->mem, s->ns.first) : SPAN_LIT("\0");
    return 0;
}

int etcd_open(struct loop *l, const struct etcd_opts *o, struct store **ret, struct err *e) {
    static const struct store_impl impl = {
        .close = etcd_close,
        .rev = etcd_rev,
        .compact_rev = etcd_compact_rev,
        .stat = etcd_stat,
        .range_async = etcd_range_async,
        .txn = etcd_txn,
        .watch_start = efeed_watch_start,
        .watch_stop = efeed_watch_stop,
        .watch_resume = efeed_watch_resume,
        .watch_progress = efeed_watch_progress,
        .watch_next_rev = efeed_watch_next_rev,
        .lease_grant = etcd_lease_grant,
        .lease_revoke = etcd_lease_revoke,
        .compact = etcd_compact,
        .is_shared = etcd_is_shared,
        .sync = etcd_sync,
    };
    struct etcd *s = new_zero(struct etcd);
    struct err local = ERR_INIT;
    s->impl = &impl;
    s->l = l;
    s->on_state = o->on_state;
    s->state_ctx = o->ctx;
    s->tls = o->tls ? tls_config_ref(o->tls) : NULL;
    list_init(&s->waiting);
    list_init(&s->running);
    list_init(&s->resting);
    efeed_init(s);
    esync_init(s);
    s->alone = o->alone;
    e = e ? e : &local;
    int rc = endpoints(s, o, e);
    if (rc >= 0) {
        rc = names(s, o->prefix, o->rooted, e);
    }
    if (rc < 0) {
        etcd_close((struct store *)(void *)s);
        return rc;
    }
    econn_start(s);
    *ret = (struct store *)(void *)s;
    return 0;
}
