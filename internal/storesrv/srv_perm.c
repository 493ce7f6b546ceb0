/* Who asks, and what may they: etcd's rules, those of 3.5.28 and later where older ones left a call open to everybody. */
#include "internal/storesrv/srv_auth.h"

static const struct span root_name = SPAN_LIT("root"); /* user and role */

static int denied(struct err *e) {
    return rpc_error(e, ERR_FORBIDDEN, "etcdserver: permission denied");
}

static bool is_root(const struct user *u) {
    return user_has(u, root_name);
}

/* NULL in *ret: authentication is off, everything is allowed. */
static int who(struct rpc *c, struct user **ret, struct err *e) {
    struct auth *a = c->v->auth;
    *ret = NULL;
    if (!a->enabled) {
        return 0;
    }
    struct span t = http_req_header(c->r, "token");
    if (!t.n) {
        t = http_req_header(c->r, "authorization");
    }
    if (t.n) {
        *ret = token_user(c->v, t);
        return *ret ? 0 : rpc_error(e, ERR_UNAUTHENTICATED, "etcdserver: invalid auth token");
    }
    const struct tls_peer *peer = http_req_peer(c->r);
    if (peer && peer->cn && peer->cn[0]) { /* a verified client certificate names the user */
        *ret = user_find(a, span_str(peer->cn));
        return *ret ? 0 : denied(e);
    }
    return rpc_error(e, ERR_INVALID, "etcdserver: user name is empty");
}

/* ---- keys ---- */

static bool to_the_end(struct span end) {
    return end.n == 1 && end.p[0] == 0;
}

static bool gives(const struct perm *p, bool write) {
    return p->type == PERM_READWRITE || p->type == (write ? PERM_WRITE : PERM_READ);
}

static bool holds(const struct perm *p, struct span key) {
    return !p->end.n
               ? span_eq(p->key, key)
               : span_cmp(p->key, key) <= 0 && (to_the_end(p->end) || span_cmp(key, p->end) < 0);
}

/* The permission of this user that holds the key and reaches furthest; NULL: none. A single key reaches nowhere. */
static const struct perm *best(const struct auth *a, const struct user *u, struct span key,
                               bool write) {
    const struct perm *out = NULL;
    for (size_t i = 0; i < u->n; i++) {
        const struct role *r = role_find(a, span_str(u->roles[i]));
        for (size_t k = 0; r && k < r->n; k++) {
            const struct perm *p = &r->perms[k];
            if (!gives(p, write) || !holds(p, key)) {
                continue;
            }
            if (!out || !out->end.n || to_the_end(p->end) ||
                (p->end.n && !to_the_end(out->end) && span_cmp(p->end, out->end) > 0)) {
                out = p;
            }
        }
    }
    return out;
}

/* Is [key, end) inside the union of the intervals this user may use? */
static bool covered(const struct auth *a, const struct user *u, struct span key, struct span end,
                    bool write) {
    const struct perm *p = best(a, u, key, write);
    if (!end.n) {
        return p;
    }
    while (p && p->end.n && !to_the_end(p->end)) {
        if (!to_the_end(end) && span_cmp(p->end, end) >= 0) {
            return true;
        }
        p = best(a, u, p->end, write); /* the next one begins where this ends, or before */
    }
    return p && p->end.n;
}

static int may(const struct auth *a, const struct user *u, struct span key, struct span end,
               bool write, struct err *e) {
    if (!u || is_root(u) || covered(a, u, key, end, write)) {
        return 0;
    }
    return denied(e);
}

int auth_range(struct rpc *c, struct span key, struct span end, bool write, struct err *e) {
    struct user *u;
    int rc = who(c, &u, e);
    return rc < 0 ? rc : may(c->v->auth, u, key, end, write, e);
}

/* ---- callers ---- */

int auth_admin(struct rpc *c, struct err *e) {
    struct user *u;
    int rc = who(c, &u, e);
    return rc < 0 ? rc : !u || is_root(u) ? 0 : denied(e);
}

int auth_any(struct rpc *c, struct err *e) {
    struct user *u;
    return who(c, &u, e);
}

int auth_self(struct rpc *c, struct span user, struct span role, struct err *e) {
    struct user *u;
    int rc = who(c, &u, e);
    bool own = u && ((user.p && span_eq_str(user, u->name)) || (role.p && user_has(u, role)));
    return rc < 0 ? rc : !u || is_root(u) || own ? 0 : denied(e);
}

/* ---- leases ---- */

/* May the user write (or read) every key of the lease? An unknown lease has none. */
static int lease_keys(const struct rpc *c, const struct user *u, int64_t id, bool write,
                      struct err *e) {
    struct arena a = ARENA_INIT((size_t)1 << 30);
    struct span *keys = NULL;
    size_t n = 0;
    int rc = store_lease_keys(c->v->st, id, &a, &keys, &n, e);
    if (rc == -ERR_NOT_FOUND) {
        err_reset(e);
        rc = 0;
    }
    for (size_t i = 0; i < n && rc == 0; i++) {
        rc = may(c->v->auth, u, keys[i], SPAN_EMPTY, write, e);
    }
    arena_fini(&a);
    return rc;
}

int auth_lease(struct rpc *c, int64_t id, bool write, struct err *e) {
    struct user *u;
    int rc = who(c, &u, e);
    return rc < 0 || !u || is_root(u) ? rc : lease_keys(c, u, id, write, e);
}

int auth_lease_list(struct rpc *c, const int64_t *ids, size_t n, struct err *e) {
    struct user *u;
    int rc = who(c, &u, e);
    for (size_t i = 0; i < n && rc == 0 && u && !is_root(u); i++) {
        rc = lease_keys(c, u, ids[i], false, e);
    }
    return rc;
}

/* ---- transactions ---- */

/* Who attaches a key to a lease must be able to write the lease's other keys: they will end together. */
static int may_put(const struct rpc *c, const struct user *u, const struct store_put *p,
                   struct err *e) {
    const struct auth *a = c->v->auth;
    int rc = may(a, u, p->key, SPAN_EMPTY, true, e);
    if (rc == 0 && p->lease && !is_root(u)) {
        rc = lease_keys(c, u, p->lease, true, e);
    }
    return rc == 0 && p->prev_kv ? may(a, u, p->key, SPAN_EMPTY, false, e) : rc;
}

static int may_body(const struct rpc *c, const struct user *u, const struct store_body *b,
                    struct err *e);

static int may_ops(const struct rpc *c, const struct user *u, const struct store_ops *o,
                   struct err *e) {
    const struct auth *a = c->v->auth;
    int rc = 0;
    for (size_t i = 0; i < o->n && rc == 0; i++) {
        const struct store_op *op = &o->v[i];
        switch (op->kind) {
        case STORE_OP_RANGE: rc = may(a, u, op->u.range.key, op->u.range.end, false, e); break;
        case STORE_OP_PUT: rc = may_put(c, u, &op->u.put, e); break;
        case STORE_OP_DELETE:
            rc = may(a, u, op->u.del.key, op->u.del.end, true, e);
            if (rc == 0 && op->u.del.prev_kv) {
                rc = may(a, u, op->u.del.key, op->u.del.end, false, e);
            }
            break;
        case STORE_OP_TXN: rc = may_body(c, u, op->u.txn, e); break;
        case STORE_OP_NONE: break;
        }
    }
    return rc;
}

static int may_body(const struct rpc *c, const struct user *u, const struct store_body *b,
                    struct err *e) {
    int rc = 0;
    for (size_t i = 0; i < b->n_cmps && rc == 0; i++) {
        rc = may(c->v->auth, u, b->cmps[i].key, b->cmps[i].end, false, e);
    }
    rc = rc < 0 ? rc : may_ops(c, u, &b->then, e);
    return rc < 0 ? rc : may_ops(c, u, &b->els, e);
}

/* As etcd: what is malformed is told to everybody, and only then who may. */
int auth_txn(struct rpc *c, struct store_txn *t, struct err *e) {
    if (!c->v->auth->enabled) {
        return 0;
    }
    struct user *u;
    int rc = store_txn_check(c->v->st, t, e);
    rc = rc < 0 ? rc : who(c, &u, e);
    return rc < 0 ? rc : may_body(c, u, &t->body, e);
}
