/* Namespaces: what comes in at a namespace's listener gets its prefix on every key, what goes out loses it, as etcd's
 * grpc-proxy does it with --namespace; but here leases belong to a namespace too.
 *
 * A lease's id in the store is the client's id XOR a secret of the namespace: two namespaces may use the same ids, nobody
 * can name a lease of another, and ids in old revisions still translate. Which namespace a lease belongs to is recorded
 * beside the keys, before the lease is granted; only the list of leases needs it. */
#include "internal/storesrv/srv_ns.h"

#include "internal/base/rand.h"
#include "internal/log/log.h"

#include <stdlib.h>

enum { STALE_OWNERS = 1000 }; /* records of leases that are gone, before they are looked for */
static const struct span ns_bucket = SPAN_LIT("kfarmNamespace"), /* prefix → secret */
    owner_bucket = SPAN_LIT("kfarmLease");                       /* lease → prefix */

/* ---- namespaces ---- */

static struct srv_ns *find(const struct storesrv *v, struct span prefix) {
    for (LIST_EACH(p, next, &v->namespaces)) {
        struct srv_ns *ns = CONTAINER_OF(p, struct srv_ns, link);
        if (span_eq(ns->prefix, prefix)) {
            return ns;
        }
    }
    return NULL;
}

/* NULL: the prefix has no end, or is too long. */
static struct srv_ns *add(struct storesrv *v, struct span prefix, int64_t mask) {
    if (!prefix.n || prefix.n > LIM_NS_PREFIX) {
        return NULL;
    }
    struct srv_ns *ns = new_zero(struct srv_ns);
    ns->a = (struct arena)ARENA_INIT(4 * LIM_NS_PREFIX);
    ns->prefix = arena_copy(&ns->a, prefix);
    ns->end = store_prefix_end(&ns->a, prefix);
    ns->mask = mask;
    if (!ns->prefix.p || (ns->end.n == 1 && ns->end.p[0] == 0)) {
        arena_fini(&ns->a);
        free(ns);
        return NULL;
    }
    list_init(&ns->link);
    list_add_tail(&v->namespaces, &ns->link);
    return ns;
}

static void saved(void *ctx, int rc, const struct err *e) {
    struct srv_ns *ns = ctx;
    (void)e;
    ns->saving = false;
    ns->saved = rc == 0;
}

static void save(struct storesrv *v, struct srv_ns *ns) {
    if (!ns->saved && !ns->saving) {
        AUTO(buf) struct buf b = BUF_INIT(8);
        buf_be64(&b, (uint64_t)ns->mask);
        ns->saving = true;
        store_aux_put(v->st, ns_bucket, ns->prefix, buf_view(&b), saved, ns);
    }
}

int ns_get(struct storesrv *v, struct span prefix, struct srv_ns **ret, struct err *e) {
    struct srv_ns *ns = find(v, prefix);
    for (LIST_EACH(p, next, &v->namespaces)) {
        const struct srv_ns *o = CONTAINER_OF(p, struct srv_ns, link);
        size_t n = o->prefix.n < prefix.n ? o->prefix.n : prefix.n;
        if (o != ns && o->served && span_eq(span_of(o->prefix.p, n), span_of(prefix.p, n))) {
            return err_set(e, ERR_USAGE, "namespaces \"%.*s\" and \"%.*s\" overlap",
                           SPAN_FMT(o->prefix), SPAN_FMT(prefix));
        }
    }
    if (!ns) {
        ns = add(v, prefix, (int64_t)(rand_u64() >> 1));
    }
    if (!ns) {
        return err_set(e, ERR_USAGE,
                       "a namespace's prefix has 1 to %d bytes, the first of them not 0xff",
                       LIM_NS_PREFIX);
    }
    ns->served = true;
    save(v, ns);
    *ret = ns;
    return 0;
}

static int load_ns(void *ctx, struct span key, struct span value) {
    struct storesrv *v = ctx;
    uint64_t mask;
    struct srv_ns *ns = span_be64(&value, &mask) < 0 ? NULL : add(v, key, (int64_t)mask);
    if (!ns) {
        return -ERR_CORRUPT;
    }
    ns->saved = true;
    return 0;
}

static int load_owner(void *ctx, struct span key, struct span value) {
    struct storesrv *v = ctx;
    uint64_t id;
    struct span k = key;
    struct srv_ns *ns = find(v, value);
    if (span_be64(&k, &id) < 0 || k.n || !ns) {
        return -ERR_CORRUPT;
    }
    map_put(&v->owners, key, ns);
    return 0;
}

int ns_load(struct storesrv *v, struct err *e) {
    int rc = store_aux_scan(v->st, ns_bucket, load_ns, v, e);
    rc = rc < 0 ? rc : store_aux_scan(v->st, owner_bucket, load_owner, v, e);
    return rc < 0 && !e->code ? err_set(e, (enum err_code) - rc, "namespaces cannot be read") : rc;
}

void ns_fini(struct storesrv *v) {
    map_fini(&v->owners);
    while (!list_empty(&v->namespaces)) {
        struct srv_ns *ns = CONTAINER_OF(v->namespaces.next, struct srv_ns, link);
        list_del(&ns->link);
        arena_fini(&ns->a);
        free(ns);
    }
}

/* What sees or changes the whole store is not for one of its namespaces. */
bool ns_refuses(const struct method *m) {
    void (*const whole[])(struct rpc *, struct span) = {
        kv_compact,       maint_alarm,        maint_defrag,     maint_hash,       maint_hashkv,
        maint_snapshot,   maint_move_leader,  maint_downgrade,  cluster_refuse,   auth_enable,
        auth_disable,     auth_status,        auth_user_add,    auth_user_get,    auth_user_list,
        auth_user_delete, auth_user_password, auth_user_grant,  auth_user_revoke, auth_role_add,
        auth_role_get,    auth_role_list,     auth_role_delete, auth_role_grant,  auth_role_revoke,
    };
    for (size_t i = 0; i < ARRAY_LEN(whole); i++) {
        if (m->call == whole[i]) {
            return true;
        }
    }
    return false;
}

/* ---- keys ---- */

static struct span join(struct arena *a, struct span prefix, struct span key) {
    uint8_t *p = arena_alloc(a, prefix.n + key.n);
    if (!p) {
        return SPAN_EMPTY; /* refused like any empty key */
    }
    memcpy(p, prefix.p, prefix.n);
    if (key.n) {
        memcpy(p + prefix.n, key.p, key.n);
    }
    return span_of(p, prefix.n + key.n);
}

static void ns_key_in(const struct srv_ns *ns, struct arena *a, struct span *key) {
    if (key->n) { /* an empty key stays one: it is refused everywhere */
        *key = join(a, ns->prefix, *key);
    }
}

void ns_range_in(const struct srv_ns *ns, struct arena *a, struct span *key, struct span *end) {
    ns_key_in(ns, a, key);
    if (end->n == 1 && end->p[0] == 0) {
        *end = ns->end;
    } else if (end->n) {
        *end = join(a, ns->prefix, *end);
    }
}

int64_t ns_lease(const struct srv_ns *ns, int64_t id) {
    return ns && id ? id ^ ns->mask : id;
}

static void body_in(const struct srv_ns *ns, struct store_txn *t, struct store_body *b);

static void key_in(const struct srv_ns *ns, struct store_txn *t, struct span *key,
                   struct span *end) {
    ns_range_in(ns, &t->a, key, end);
    t->failed = t->failed || !key->n; /* there was one: the form has been checked */
}

static void ops_in(const struct srv_ns *ns, struct store_txn *t, struct store_ops *o) {
    struct span none = SPAN_EMPTY;
    for (size_t i = 0; i < o->n; i++) {
        struct store_op *op = &o->v[i];
        switch (op->kind) {
        case STORE_OP_RANGE: key_in(ns, t, &op->u.range.key, &op->u.range.end); break;
        case STORE_OP_PUT:
            key_in(ns, t, &op->u.put.key, &none);
            op->u.put.lease = ns_lease(ns, op->u.put.lease);
            break;
        case STORE_OP_DELETE: key_in(ns, t, &op->u.del.key, &op->u.del.end); break;
        case STORE_OP_TXN: body_in(ns, t, op->u.txn); break;
        case STORE_OP_NONE: break;
        }
    }
}

static void body_in(const struct srv_ns *ns, struct store_txn *t, struct store_body *b) {
    for (size_t i = 0; i < b->n_cmps; i++) {
        struct store_cmp *c = &b->cmps[i];
        key_in(ns, t, &c->key, &c->end);
        c->lease_mask = c->target == STORE_T_LEASE ? ns->mask : 0;
    }
    ops_in(ns, t, &b->then);
    ops_in(ns, t, &b->els);
}

int ns_txn_in(struct rpc *c, struct store_txn *t, struct err *e) {
    int rc = c->ns ? store_txn_check(c->v->st, t, e) : 0;
    if (rc == 0 && c->ns) {
        body_in(c->ns, t, &t->body);
    }
    return rc;
}

bool ns_holds(const struct srv_ns *ns, struct span key) {
    return !ns || (key.n > ns->prefix.n && span_eq(span_of(key.p, ns->prefix.n), ns->prefix));
}

struct span ns_key_out(const struct srv_ns *ns, struct span key) {
    if (ns && key.n >= ns->prefix.n) {
        IGNORE_ERR(span_skip(&key, ns->prefix.n), "all keys of the namespace begin with it");
    }
    return key;
}

void ns_kv_out(const struct srv_ns *ns, struct store_kv *kv) {
    kv->key = ns_key_out(ns, kv->key);
    kv->lease = ns_lease(ns, kv->lease);
}

void ns_range_out(const struct srv_ns *ns, const struct store_range_res *r) {
    for (size_t i = 0; i < r->n; i++) {
        ns_kv_out(ns, &r->kvs[i]);
    }
}

void ns_body_out(const struct srv_ns *ns, const struct store_body *b) {
    const struct store_ops *o = b->succeeded ? &b->then : &b->els;
    for (size_t i = 0; i < o->n; i++) {
        if (o->v[i].kind == STORE_OP_TXN) {
            ns_body_out(ns, o->v[i].u.txn);
        } else {
            ns_range_out(ns, &o->v[i].range);
        }
    }
}

/* ---- whose lease ---- */

struct owner_key {
    uint8_t b[8];
};

static struct span owner_key(int64_t id, struct owner_key *k) {
    for (unsigned i = 0; i < 8; i++) {
        k->b[i] = (uint8_t)((uint64_t)id >> (56 - 8 * i));
    }
    return span_of(k->b, sizeof(k->b));
}

struct grant {
    struct list link;
    int64_t id; /* the store's */
    struct rpc *c;
    store_lease_done *done;
    void *ctx;
    bool owned; /* the record is durable */
};

/* Granted, or on its way. */
static bool lives(const struct storesrv *v, int64_t id) {
    for (LIST_EACH(p, next, &v->grants)) {
        if (CONTAINER_OF(p, struct grant, link)->id == id) {
            return true;
        }
    }
    struct store_lease_info li;
    struct err none = ERR_INIT;
    return store_lease_get(v->st, id, &li, &none) == 0;
}

static void disown(struct storesrv *v, struct span key) {
    map_del(&v->owners, key);
    store_aux_put(v->st, owner_bucket, key, SPAN_EMPTY, NULL, NULL);
}

static void ns_lease_gone(struct storesrv *v, int64_t id) {
    struct owner_key k;
    struct span key = owner_key(id, &k);
    if (map_get(&v->owners, key) && !lives(v, id)) {
        disown(v, key);
    }
}

/* Leases also end by themselves: their records are removed when there are many. */
static void sweep(struct storesrv *v) {
    struct store_stat st;
    store_stat(v->st, &st);
    if (v->owners.n < 2 * st.n_leases + STALE_OWNERS) {
        return;
    }
    struct map_iter it = {0};
    struct map_entry *me;
    while (map_next(&v->owners, &it, &me)) {
        struct span key = span_of(me->key, me->n), cursor = key;
        uint64_t id = 0;
        IGNORE_ERR(span_be64(&cursor, &id), "eight bytes");
        if (!lives(v, (int64_t)id)) {
            struct owner_key copy;
            disown(v, owner_key((int64_t)id, &copy));
        }
    }
}

bool ns_owns(const struct rpc *c, int64_t id) {
    struct owner_key k;
    return !c->ns || map_get(&c->v->owners, owner_key(id, &k)) == c->ns;
}

static void owner_saved(void *ctx, int rc, const struct err *e) {
    struct grant *g = ctx;
    (void)e;
    g->owned = rc == 0;
}

static void orphan_gone(void *ctx, int rc, const struct err *e) {
    (void)ctx;
    if (rc < 0) {
        LOG_WARN("store", "a lease without a namespace is left to run out", F_ERR(e));
    }
}

static void granted(void *ctx, int rc, int64_t id, int64_t ttl, const struct err *e) {
    struct grant *g = ctx;
    struct err mine = ERR_INIT;
    list_del(&g->link);
    if (rc == 0 && !g->owned) {
        store_lease_revoke(g->c->v->st, id, orphan_gone, NULL);
        rc = rpc_error(&mine, ERR_IO, "etcdserver: the lease cannot be recorded");
        e = &mine;
    }
    if (rc < 0) {
        ns_lease_gone(g->c->v, id);
    }
    g->done(g->ctx, rc, ns_lease(g->c->ns, id), ttl, e);
    rpc_unref(g->c);
    free(g);
}

void ns_lease_grant(struct rpc *c, int64_t id, int64_t ttl, store_lease_done *done, void *ctx) {
    struct storesrv *v = c->v;
    if (!c->ns) {
        store_lease_grant(v->st, id, ttl, done, ctx);
        return;
    }
    while (!id || id == c->ns->mask) {
        id = (int64_t)(rand_u64() >> 1);
    }
    struct grant *g = new_zero(struct grant);
    int64_t inner = ns_lease(c->ns, id);
    *g = (struct grant){.id = inner, .c = rpc_ref(c), .done = done, .ctx = ctx};
    struct owner_key k;
    struct span key = owner_key(inner, &k);
    sweep(v);
    save(v, c->ns);
    list_init(&g->link);
    list_add_tail(&v->grants, &g->link);
    map_put(&v->owners, key, c->ns);
    store_aux_put(v->st, owner_bucket, key, c->ns->prefix, owner_saved, g);
    store_lease_grant(v->st, inner, ttl, granted, g);
}
