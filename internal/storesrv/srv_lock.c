/* Lock and Election services: a queue of keys under a name, in order of creation; who waits watches the key before its
 * own. A waiting client that leaves takes its key with it. */
#include "internal/storesrv/srv_ns.h"

#include <stdlib.h>

enum { SESSION_TTL = 60 }; /* for callers without a lease of their own */

struct turn {
    struct rpc *c;
    struct span name, prefix, key, value; /* in the call's arena */
    int64_t lease, rev;                   /* rev: create revision of our key */
    int64_t queued_rev;                   /* revision of the store when it was queued */
    bool campaign, mine, waited;
    struct store_watch *w;
};

struct leader {
    struct span name, key;
    int64_t rev, lease;
};

/* What the keys of a name begin with, in the store. .p NULL: too long. */
static struct span prefix_of(struct rpc *c, struct span name) {
    struct span ns = c->ns ? c->ns->prefix : SPAN_EMPTY;
    uint8_t *p = arena_alloc(&c->a, ns.n + name.n + 1);
    if (!p) {
        return SPAN_EMPTY;
    }
    if (ns.n) {
        memcpy(p, ns.p, ns.n);
    }
    if (name.n) {
        memcpy(p + ns.n, name.p, name.n);
    }
    p[ns.n + name.n] = '/';
    return span_of(p, ns.n + name.n + 1);
}

/* etcd's services for locks are clients of its own API: whatever that refuses they tell as UNKNOWN. */
static void fail(struct rpc *c, const struct err *e) {
    rpc_status(c, 2, err_public(e));
}

static void bad(struct rpc *c) {
    rpc_status(c, 3, "malformed message");
}

/* ---- taking a turn ---- */

static void next_in_line(struct turn *t);

static void forget_txn(void *ctx, struct store_txn *t, int rc, const struct err *e) {
    (void)ctx;
    (void)t;
    (void)rc;
    (void)e;
}

static void turn_drop(struct rpc *c) {
    struct turn *t = c->state;
    c->state = NULL;
    store_watch_stop(TAKE(t->w));
    if (t->rev && !t->mine) { /* left while waiting */
        struct store_txn *x = store_txn_new(0);
        store_txn_cmp(x, &x->body, STORE_T_CREATE, STORE_EQUAL, t->key, t->rev);
        store_txn_delete(x, &x->body.then, t->key, SPAN_EMPTY);
        store_txn(c->v->st, x, forget_txn, NULL);
    }
}

static void enc_leader(struct buf *b, uint32_t no, const struct turn *t) {
    size_t m = wire_begin(b, no);
    wire_bytes(b, 1, t->name);
    wire_bytes(b, 2, ns_key_out(t->c->ns, t->key));
    wire_i64(b, 3, t->rev);
    wire_i64(b, 4, t->lease);
    wire_end(b, m);
}

static void got_it(struct turn *t) {
    struct rpc *c = t->c;
    struct arena a = ARENA_INIT((size_t)64 << 20);
    struct store_kv kv;
    struct err e = ERR_INIT;
    int rc = store_get(c->v->st, t->key, &a, &kv, &e);
    bool still = rc == 0 && kv.create_rev == t->rev;
    arena_fini(&a);
    if (!still) { /* the lease ran out while we waited */
        t->mine = true;
        rpc_status(c, 2,
                   t->campaign ? "election: session is expired" : "mutex: session is expired");
        return;
    }
    t->mine = true;
    struct buf b = rpc_buf(c);
    /* etcd's header is that of the last request it made itself. */
    enc_header(&b, 1, c->v, t->campaign || !t->waited ? t->queued_rev : store_rev(c->v->st));
    if (t->campaign) {
        enc_leader(&b, 2, t);
    } else {
        wire_bytes(&b, 2, ns_key_out(c->ns, t->key));
    }
    rpc_reply(c, &b);
}

static int on_before(void *ctx, struct store_watch *w, const struct store_watch_msg *m) {
    struct turn *t = ctx;
    struct rpc *c = rpc_ref(t->c);
    (void)w;
    (void)m; /* a deletion, or a cancelled watch: either way look again */
    store_watch_stop(TAKE(t->w));
    if (rpc_open(c)) {
        next_in_line(t);
    }
    rpc_unref(c);
    return 0;
}

static void next_in_line(struct turn *t) {
    struct rpc *c = t->c;
    struct err e = ERR_INIT;
    struct arena a = ARENA_INIT((size_t)64 << 20);
    struct span end = store_prefix_end(&a, t->prefix);
    struct store_range_req q = {.key = t->prefix,
                                .end = end,
                                .limit = 1,
                                .by = STORE_BY_CREATE,
                                .order = STORE_SORT_DESCEND,
                                .keys_only = true,
                                .max_create = t->rev - 1};
    struct store_range_res r;
    int rc = store_range(c->v->st, &q, &a, &r, &e);
    if (rc == 0 && r.n) {
        struct store_watch_req wq = {.key = r.kvs[0].key, .filters = STORE_NO_PUT};
        rc = store_watch_start(c->v->st, &wq, on_before, t, &t->w, &e);
    }
    size_t n = rc == 0 ? r.n : 0;
    arena_fini(&a);
    if (rc < 0) {
        fail(c, &e);
    } else if (!n) {
        got_it(t);
    } else {
        t->waited = true;
        gateway_waiting(c);
    }
}

static void value_set(void *ctx, struct store_txn *x, int rc, const struct err *e) {
    struct turn *t = ctx;
    struct rpc *c = t->c;
    (void)x;
    if (rpc_open(c)) {
        if (rc < 0) {
            fail(c, e);
        } else {
            next_in_line(t);
        }
    }
    rpc_unref(c);
}

static void enqueued(void *ctx, struct store_txn *x, int rc, const struct err *e) {
    struct turn *t = ctx;
    struct rpc *c = t->c;
    if (rc == 0) {
        t->queued_rev = x->rev;
        t->rev = x->body.succeeded          ? x->rev
                 : x->body.els.v[0].range.n ? x->body.els.v[0].range.kvs[0].create_rev
                                            : 0;
    }
    if (!rpc_open(c)) {
        c->state = t; /* the client left before its key was there */
        turn_drop(c);
    } else if (rc < 0) {
        fail(c, e);
    } else if (t->campaign && !x->body.succeeded &&
               !span_eq(x->body.els.v[0].range.kvs[0].value, t->value)) {
        struct store_txn *y = store_txn_new(0);
        store_txn_cmp(y, &y->body, STORE_T_CREATE, STORE_EQUAL, t->key, t->rev);
        store_txn_put(y, &y->body.then, t->key, t->value, ns_lease(c->ns, t->lease));
        store_txn(c->v->st, y, value_set, t);
        return; /* the reference goes on */
    } else {
        next_in_line(t);
    }
    rpc_unref(c);
}

static void enqueue(struct turn *t) {
    struct rpc *c = t->c;
    struct err e = ERR_INIT;
    t->key =
        span_str(arena_fmt(&c->a, "%.*s%llx", SPAN_FMT(t->prefix), (unsigned long long)t->lease));
    if (auth_range(c, t->key, SPAN_EMPTY, true, &e) < 0) {
        fail(c, &e);
        return;
    }
    struct store_txn *x = store_txn_new(0);
    store_txn_cmp(x, &x->body, STORE_T_CREATE, STORE_EQUAL, t->key, 0);
    store_txn_put(x, &x->body.then, t->key, t->value, ns_lease(c->ns, t->lease));
    store_txn_range(x, &x->body.els, t->key, SPAN_EMPTY);
    rpc_ref(c);
    store_txn(c->v->st, x, enqueued, t);
}

static void session_made(void *ctx, int rc, int64_t id, int64_t ttl, const struct err *e) {
    struct turn *t = ctx;
    struct rpc *c = t->c;
    (void)ttl;
    if (rpc_open(c)) {
        if (rc < 0) {
            fail(c, e);
        } else {
            t->lease = id;
            enqueue(t);
        }
    }
    rpc_unref(c);
}

static void take_turn(struct rpc *c, struct span m, bool campaign) {
    struct wire_field f;
    struct turn *t = arena_new(&c->a, struct turn);
    int rc;
    if (!t) {
        rpc_status(c, 8, STORE_E_TOO_LARGE);
        return;
    }
    *t = (struct turn){.c = c, .campaign = campaign, .value = SPAN_LIT("")};
    while ((rc = wire_next(&m, &f)) > 0) {
        if (f.no == 1) {
            t->name = arena_copy(&c->a, f.bytes);
        } else if (f.no == 2) {
            t->lease = (int64_t)f.v;
        } else if (f.no == 3) {
            t->value = arena_copy(&c->a, f.bytes);
        }
    }
    t->prefix = prefix_of(c, t->name);
    if (rc < 0 || !t->prefix.p || (t->name.n && memchr(t->name.p, 0, t->name.n))) {
        bad(c);
        return;
    }
    c->state = t;
    c->drop = turn_drop;
    if (t->lease) {
        enqueue(t);
    } else {
        ns_lease_grant(rpc_ref(c), 0, SESSION_TTL, session_made, t);
    }
}

void lock_lock(struct rpc *c, struct span m) {
    take_turn(c, m, false);
}
void election_campaign(struct rpc *c, struct span m) {
    take_turn(c, m, true);
}

/* ---- giving it back, and what a leader does ---- */

static void header_reply(struct rpc *c) {
    struct buf b = rpc_buf(c);
    enc_header(&b, 1, c->v, store_rev(c->v->st));
    rpc_reply(c, &b);
}

static void changed(void *ctx, struct store_txn *t, int rc, const struct err *e) {
    struct rpc *c = ctx;
    if (rpc_open(c)) {
        if (rc < 0) {
            fail(c, e);
        } else if (c->m->call == election_proclaim && !t->body.succeeded) {
            rpc_status(c, 2, "election: not leader");
        } else {
            header_reply(c);
        }
    }
    rpc_unref(c);
}

static void submit(struct rpc *c, struct store_txn *x) {
    struct err e = ERR_INIT;
    if (ns_txn_in(c, x, &e) < 0 || auth_txn(c, x, &e) < 0) {
        store_txn_free(x);
        fail(c, &e);
        return;
    }
    store_txn(c->v->st, x, changed, rpc_ref(c));
}

void lock_unlock(struct rpc *c, struct span m) {
    struct wire_field f;
    struct span key = SPAN_EMPTY;
    int rc;
    while ((rc = wire_next(&m, &f)) > 0) {
        if (f.no == 1) {
            key = f.bytes;
        }
    }
    if (rc < 0) {
        bad(c);
        return;
    }
    struct store_txn *x = store_txn_new(0);
    store_txn_delete(x, &x->body.then, key, SPAN_EMPTY);
    submit(c, x);
}

static int dec_leader(struct span m, struct leader *ret) {
    struct wire_field f;
    int rc;
    *ret = (struct leader){0};
    while ((rc = wire_next(&m, &f)) > 0) {
        if (f.no == 1) {
            ret->name = f.bytes;
        } else if (f.no == 2) {
            ret->key = f.bytes;
        } else if (f.no == 3) {
            ret->rev = (int64_t)f.v;
        } else if (f.no == 4) {
            ret->lease = (int64_t)f.v;
        }
    }
    return rc;
}

static void as_leader(struct rpc *c, struct span m, bool resign) {
    struct wire_field f;
    struct leader l = {0};
    struct span value = SPAN_LIT("");
    int rc, bad_leader = 0;
    bool given = false;
    while ((rc = wire_next(&m, &f)) > 0) {
        if (f.no == 1) {
            given = true;
            bad_leader = dec_leader(f.bytes, &l);
        } else if (f.no == 2) {
            value = f.bytes;
        }
    }
    if (rc < 0 || bad_leader < 0) {
        bad(c);
        return;
    }
    if (!given) {
        rpc_status(c, 2, "\"leader\" field must be provided");
        return;
    }
    struct store_txn *x = store_txn_new(0);
    store_txn_cmp(x, &x->body, STORE_T_CREATE, STORE_EQUAL, l.key, l.rev);
    if (resign) {
        store_txn_delete(x, &x->body.then, l.key, SPAN_EMPTY);
    } else {
        store_txn_put(x, &x->body.then, l.key, value, l.lease);
    }
    submit(c, x);
}

void election_proclaim(struct rpc *c, struct span m) {
    as_leader(c, m, false);
}
void election_resign(struct rpc *c, struct span m) {
    as_leader(c, m, true);
}

/* ---- who leads ---- */

static int dec_prefix(struct rpc *c, struct span m, struct span *ret) {
    struct wire_field f;
    struct span name = SPAN_EMPTY;
    int rc;
    while ((rc = wire_next(&m, &f)) > 0) {
        if (f.no == 1) {
            name = f.bytes;
        }
    }
    *ret = prefix_of(c, name);
    return rc < 0 || !ret->p ? -ERR_INVALID : 0;
}

/* 1: *ret leads, 0: nobody does. */
static int leading(struct rpc *c, struct span prefix, struct arena *a, struct store_kv *ret,
                   struct err *e) {
    struct store_range_req q = {.key = prefix,
                                .end = store_prefix_end(a, prefix),
                                .limit = 1,
                                .by = STORE_BY_CREATE,
                                .order = STORE_SORT_ASCEND};
    struct store_range_res r;
    int rc = auth_range(c, q.key, q.end, false, e);
    if (rc == 0) {
        rc = store_range(c->v->st, &q, a, &r, e);
    }
    if (rc == 0 && r.n) {
        *ret = r.kvs[0];
        return 1;
    }
    return rc;
}

static void enc_leading(struct buf *b, const struct rpc *c, struct store_kv *kv) {
    if (c->ns) {
        ns_kv_out(c->ns, kv);
    }
    enc_kv(b, 2, kv);
}

void election_leader(struct rpc *c, struct span m) {
    struct span prefix;
    struct store_kv kv;
    struct err e = ERR_INIT;
    struct arena a = ARENA_INIT((size_t)64 << 20);
    int rc = dec_prefix(c, m, &prefix);
    if (rc < 0) {
        bad(c);
    } else if ((rc = leading(c, prefix, &a, &kv, &e)) < 0) {
        fail(c, &e);
    } else if (rc == 0) {
        rpc_status(c, 2, "election: no leader");
    } else {
        struct buf b = rpc_buf(c);
        enc_header(&b, 1, c->v, store_rev(c->v->st));
        enc_leading(&b, c, &kv);
        rpc_reply(c, &b);
    }
    arena_fini(&a);
}

struct observer {
    struct span prefix;
    struct store_watch *w;
    int64_t create_rev, mod_rev; /* of what was told last */
};

static void observe_drop(struct rpc *c) {
    struct observer *o = c->state;
    c->state = NULL;
    store_watch_stop(TAKE(o->w));
}

static void tell_leader(struct rpc *c) {
    struct observer *o = c->state;
    struct store_kv kv;
    struct err e = ERR_INIT;
    struct arena a = ARENA_INIT((size_t)64 << 20);
    int rc = leading(c, o->prefix, &a, &kv, &e);
    if (rc < 0) {
        fail(c, &e);
    } else if (rc > 0 && (kv.create_rev != o->create_rev || kv.mod_rev != o->mod_rev)) {
        o->create_rev = kv.create_rev;
        o->mod_rev = kv.mod_rev;
        struct buf b = rpc_buf(c);
        enc_header(&b, 1, c->v, store_rev(c->v->st));
        enc_leading(&b, c, &kv);
        rpc_send(c, &b);
    }
    arena_fini(&a);
}

/* Only the newest leader matters: while the client does not read, changes are told as one. */
static int on_election(void *ctx, struct store_watch *w, const struct store_watch_msg *m) {
    struct rpc *c = rpc_ref(ctx);
    (void)w;
    if (m->kind == STORE_WATCH_CANCELLED) {
        rpc_status(c, 14, m->reason);
    } else if (rpc_open(c) && rpc_pending(c) < LIM_STREAM_PENDING) {
        tell_leader(c);
    }
    rpc_unref(c);
    return 0;
}

static void observe_drained(struct rpc *c) {
    tell_leader(c);
}

void election_observe(struct rpc *c, struct span m) {
    struct observer *o = arena_new(&c->a, struct observer);
    struct err e = ERR_INIT;
    if (!o || dec_prefix(c, m, &o->prefix) < 0) {
        bad(c);
        return;
    }
    struct store_watch_req q = {.key = o->prefix, .end = store_prefix_end(&c->a, o->prefix)};
    if (store_watch_start(c->v->st, &q, on_election, c, &o->w, &e) < 0) {
        fail(c, &e);
        return;
    }
    c->state = o;
    c->drop = observe_drop;
    c->drain = observe_drained;
    tell_leader(c);
}
