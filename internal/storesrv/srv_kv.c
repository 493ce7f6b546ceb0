/* KV and Lease services. */
#include "internal/storesrv/srv_ns.h"

#include <stdlib.h>

enum { ANSWERS_TOGETHER = 16 };

/* A call that waits for the store holds a reference: the client may be gone when the answer comes. */

void kv_range(struct rpc *c, struct span m) {
    struct err e = ERR_INIT;
    struct store_range_req q;
    bool serializable;
    int rc = dec_range(m, &q, &serializable, &e);
    if (rc == 0 && c->ns) {
        ns_range_in(c->ns, &c->a, &q.key, &q.end);
    }
    if (rc < 0 || (q.key.n && auth_range(c, q.key, q.end, false, &e) < 0)) {
        rpc_fail(c, &e);
        return;
    }
    answer_range(c, &q);
}

/* ---- writes ---- */

static void answer_txn(struct rpc *c, struct store_txn *t) {
    struct buf b = rpc_buf(c);
    AUTO(cuts) struct cuts cuts = {0};
    const struct store_op *op = t->body.then.v;
    if (c->ns) {
        ns_body_out(c->ns, &t->body);
    }
    if (c->m->call == kv_put) {
        enc_put(&b, c->v, op, t->rev, false, &cuts);
    } else if (c->m->call == kv_delete) {
        enc_delete(&b, c->v, op, t->rev, false, &cuts);
    } else {
        enc_txn(&b, c->v, &t->body, t->rev, false, &cuts);
    }
    if (cuts.n) {
        store_txn_keep(t);
        rpc_reply_cuts(c, &b, &cuts, t);
    } else {
        rpc_reply(c, &b);
    }
}

static void answer_first(struct storesrv *v) {
    struct rpc *c = CONTAINER_OF(v->committed.next, struct rpc, committed);
    struct store_txn *t = TAKE(c->txn);
    list_del(&c->committed);
    t->kept = false;
    if (rpc_open(c)) {
        answer_txn(c, t);
    }
    if (!t->kept) {
        store_txn_free(t);
    }
    rpc_unref(c);
}

static void fetch_some(const struct storesrv *v) {
    struct http_req *rs[ANSWERS_TOGETHER];
    size_t n = 0;
    for (LIST_EACH(at, next, &v->committed)) {
        const struct rpc *c = CONTAINER_OF(at, struct rpc, committed);
        if (n == ANSWERS_TOGETHER) {
            break;
        }
        if (rpc_open(c)) {
            mem_prefetch(c, sizeof(*c));
            mem_prefetch(c->txn, sizeof(*c->txn));
            rs[n++] = c->r;
        }
    }
    http_prefetch(rs, n);
}

/* A commit may answer hundreds of connections, whose memory is far larger than the cache: some are answered, these send,
 * and then come the next. */
static void answer_some(void *ctx) {
    struct storesrv *v = ctx;
    while (!list_empty(&v->committed)) {
        const struct rpc *c = CONTAINER_OF(v->committed.next, struct rpc, committed);
        if (rpc_open(c) && http_backlog(c->r) >= ANSWERS_TOGETHER) {
            loop_before_sleep(v->l, &v->committed_hook, answer_some, v);
            return;
        }
        fetch_some(v);
        for (unsigned i = 0; i < ANSWERS_TOGETHER && !list_empty(&v->committed); i++) {
            answer_first(v);
        }
    }
}

static void txn_done(void *ctx, struct store_txn *t, int rc, const struct err *e) {
    struct rpc *c = ctx;
    if (rpc_open(c) && rc < 0) {
        rpc_fail(c, e);
    } else if (rpc_open(c) &&
               (!list_empty(&c->v->committed) || http_backlog(c->r) >= ANSWERS_TOGETHER)) {
        store_txn_keep(t);
        c->txn = t;
        list_add_tail(&c->v->committed, &c->committed);
        loop_before_sleep(c->v->l, &c->v->committed_hook, answer_some, c->v);
        return;
    } else if (rpc_open(c)) {
        answer_txn(c, t);
    }
    rpc_unref(c);
}

static void submit(struct rpc *c, struct store_txn *t, int rc, size_t n, struct err *e) {
    if (rc == 0 && n > c->v->o.max_request_bytes) {
        rc = err_set(e, ERR_INVALID, "%s", STORE_E_TOO_LARGE);
        e->pub = STORE_E_TOO_LARGE;
    }
    if (rc == 0) {
        rc = ns_txn_in(c, t, e);
    }
    if (rc == 0) {
        rc = auth_txn(c, t, e);
    }
    if (rc < 0) {
        store_txn_free(t);
        rpc_fail(c, e);
        return;
    }
    http_req_drop_head(c->r);
    store_txn(c->v->st, t, txn_done, rpc_ref(c));
}

void kv_put(struct rpc *c, struct span m) {
    struct err e = ERR_INIT;
    struct store_txn *t = store_txn_new_in(loop_pool(c->v->l), 0);
    struct store_put p = {0};
    int rc = dec_put(m, &p, &e);
    struct store_op *op = store_txn_put(t, &t->body.then, p.key, p.value, p.lease);
    op->u.put.prev_kv = p.prev_kv;
    op->u.put.ignore_value = p.ignore_value;
    op->u.put.ignore_lease = p.ignore_lease;
    t->body.lone = true;
    submit(c, t, rc, m.n, &e);
}

void kv_delete(struct rpc *c, struct span m) {
    struct err e = ERR_INIT;
    struct store_txn *t = store_txn_new_in(loop_pool(c->v->l), (size_t)1 << 31);
    struct store_del d = {0};
    int rc = dec_delete(m, &d, &e);
    store_txn_delete(t, &t->body.then, d.key, d.end)->u.del.prev_kv = d.prev_kv;
    submit(c, t, rc, m.n, &e);
}

void kv_txn(struct rpc *c, struct span m) {
    struct err e = ERR_INIT;
    struct store_txn *t = store_txn_new_in(loop_pool(c->v->l), (size_t)1 << 31);
    int rc = dec_txn(m, t, &t->body, 0, &e);
    submit(c, t, rc, m.n, &e);
}

static void header_done(void *ctx, int rc, const struct err *e) {
    struct rpc *c = ctx;
    if (rpc_open(c)) {
        if (rc < 0) {
            rpc_fail(c, e);
        } else {
            struct buf b = rpc_buf(c);
            enc_header(&b, 1, c->v, store_rev(c->v->st));
            rpc_reply(c, &b);
        }
    }
    rpc_unref(c);
}

void kv_compact(struct rpc *c, struct span m) {
    struct wire_field f;
    int rc;
    int64_t rev = 0;
    bool physical = false;
    while ((rc = wire_next(&m, &f)) > 0) {
        if (f.no == 1) {
            rev = (int64_t)f.v;
        } else if (f.no == 2) {
            physical = f.v != 0;
        }
    }
    struct err e = ERR_INIT;
    if (rc < 0) {
        IGNORE_ERR(dec_bad(&e), "reported");
    }
    if (rc < 0 || auth_admin(c, &e) < 0) {
        rpc_fail(c, &e);
        return;
    }
    store_compact(c->v->st, rev, physical, header_done, rpc_ref(c));
}

/* ---- leases ---- */

static int two_i64(struct span m, int64_t *one, int64_t *two) {
    struct wire_field f;
    int rc;
    *one = *two = 0;
    while ((rc = wire_next(&m, &f)) > 0) {
        if (f.no == 1) {
            *one = (int64_t)f.v;
        } else if (f.no == 2) {
            *two = (int64_t)f.v;
        }
    }
    return rc;
}

static void malformed(struct rpc *c) {
    rpc_status(c, 3, "malformed message");
}

static void grant_done(void *ctx, int rc, int64_t id, int64_t ttl, const struct err *e) {
    struct rpc *c = ctx;
    if (rpc_open(c)) {
        if (rc < 0) {
            rpc_fail(c, e);
        } else {
            struct buf b = rpc_buf(c);
            enc_header(&b, 1, c->v, store_rev(c->v->st));
            wire_i64(&b, 2, id);
            wire_i64(&b, 3, ttl);
            rpc_reply(c, &b);
        }
    }
    rpc_unref(c);
}

void lease_grant(struct rpc *c, struct span m) {
    int64_t ttl, id;
    struct err e = ERR_INIT;
    if (two_i64(m, &ttl, &id) < 0) {
        malformed(c);
        return;
    }
    if (auth_any(c, &e) < 0) {
        rpc_fail(c, &e);
        return;
    }
    ns_lease_grant(c, id, ttl, grant_done, rpc_ref(c));
}

void lease_revoke(struct rpc *c, struct span m) {
    int64_t id, unused;
    if (two_i64(m, &id, &unused) < 0) {
        malformed(c);
        return;
    }
    struct err e = ERR_INIT;
    id = ns_lease(c->ns, id);
    if (auth_lease(c, id, true, &e) < 0) {
        rpc_fail(c, &e);
        return;
    }
    store_lease_revoke(c->v->st, id, header_done, rpc_ref(c));
}

/* An unknown lease is told by a TTL of zero, not by an error. */
static void keepalive_answer(struct rpc *c, int64_t id, int64_t ttl) {
    struct buf b = rpc_buf(c);
    enc_header(&b, 1, c->v, store_rev(c->v->st));
    wire_i64(&b, 2, id);
    wire_i64(&b, 3, ttl);
    rpc_send(c, &b);
    if (c->route) { /* JSON: one request, one answer */
        rpc_end(c);
    }
}

struct keepalive {
    struct rpc *c;
    int64_t id; /* as the client calls it */
};

static void keepalive_done(void *ctx, int rc, int64_t unused, int64_t ttl, const struct err *e) {
    struct keepalive *k = ctx;
    (void)unused;
    if (rpc_open(k->c) && rc < 0 && rc != -ERR_NOT_FOUND) {
        rpc_fail(k->c, e);
    } else if (rpc_open(k->c)) {
        keepalive_answer(k->c, k->id, rc < 0 ? 0 : ttl);
    }
    k->c->owed--;
    if (k->c->ending) {
        stream_end(k->c);
    }
    rpc_unref(k->c);
    free(k);
}

void lease_keepalive(struct rpc *c, struct span m) {
    int64_t id, unused, ttl = 0;
    struct err e = ERR_INIT;
    if (two_i64(m, &id, &unused) < 0) {
        malformed(c);
        return;
    }
    if (auth_lease(c, ns_lease(c->ns, id), true, &e) < 0) {
        rpc_fail(c, &e);
        return;
    }
    struct keepalive *k = new_zero(struct keepalive);
    *k = (struct keepalive){c, id};
    int rc = store_lease_keepalive(c->v->st, ns_lease(c->ns, id), keepalive_done, k, &ttl, &e);
    if (rc == STORE_LATER) {
        rpc_ref(c);
        c->owed++;
        return;
    }
    free(k);
    keepalive_answer(c, id, rc < 0 ? 0 : ttl);
}

void lease_ttl(struct rpc *c, struct span m) {
    int64_t id, keys;
    struct err e = ERR_INIT;
    struct store_lease_info li = {0};
    if (two_i64(m, &id, &keys) < 0) {
        malformed(c);
        return;
    }
    if ((keys ? auth_lease(c, ns_lease(c->ns, id), false, &e) : auth_any(c, &e)) < 0) {
        rpc_fail(c, &e);
        return;
    }
    int rc = store_lease_get(c->v->st, ns_lease(c->ns, id), &li, &e);
    struct buf b = rpc_buf(c);
    enc_header(&b, 1, c->v, store_rev(c->v->st));
    wire_i64(&b, 2, id);
    wire_i64(&b, 3, rc < 0 ? -1 : li.ttl);
    wire_i64(&b, 4, rc < 0 ? 0 : li.granted_ttl);
    if (rc == 0 && keys) {
        struct arena a = ARENA_INIT((size_t)1 << 30);
        struct span *v = NULL;
        size_t n = 0;
        rc = store_lease_keys(c->v->st, ns_lease(c->ns, id), &a, &v, &n, &e);
        for (size_t i = 0; i < n; i++) {
            if (ns_holds(c->ns, v[i])) {
                wire_bytes_always(&b, 5, ns_key_out(c->ns, v[i]));
            }
        }
        arena_fini(&a);
        if (rc < 0) {
            buf_fini(&b);
            rpc_fail(c, &e);
            return;
        }
    }
    rpc_reply(c, &b);
}

void lease_list(struct rpc *c, struct span m) {
    (void)m;
    struct err e = ERR_INIT;
    struct arena a = ARENA_INIT((size_t)1 << 30);
    int64_t *ids = NULL;
    size_t n = 0;
    if (store_lease_list(c->v->st, &a, &ids, &n, &e) < 0 || auth_lease_list(c, ids, n, &e) < 0) {
        rpc_fail(c, &e);
    } else {
        struct buf b = rpc_buf(c);
        enc_header(&b, 1, c->v, store_rev(c->v->st));
        for (size_t i = 0; i < n; i++) {
            if (ns_owns(c, ids[i])) {
                size_t mark = wire_begin(&b, 2);
                wire_i64(&b, 1, ns_lease(c->ns, ids[i]));
                wire_end(&b, mark);
            }
        }
        rpc_reply(c, &b);
    }
    arena_fini(&a);
}
