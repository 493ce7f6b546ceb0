/* Users, roles and permissions: kept beside the keys in etcd's encoding, so that they travel in snapshots. */
#include "internal/storesrv/srv_auth.h"

#include "internal/base/rand.h"

#include <stdlib.h>

enum { LIM_TOKENS = 10000, LIM_USERS = 10000 };
#define TOKEN_NS (300 * NS_PER_S) /* as etcd's simple tokens: five minutes after the last use */

/* ---- memory ---- */

static void perm_fini(struct perm *p) {
    free(p->own);
}
static struct perm perm_new(enum perm_type t, struct span key, struct span end) {
    struct perm p = {.type = t, .own = mem_zero_alloc(key.n + end.n + 1)};
    if (key.n) {
        memcpy(p.own, key.p, key.n);
    }
    if (end.n) {
        memcpy(p.own + key.n, end.p, end.n);
    }
    p.key = span_of(p.own, key.n);
    p.end = span_of(p.own + key.n, end.n);
    return p;
}
static void role_fini(struct role *r) {
    for (size_t i = 0; i < r->n; i++) {
        perm_fini(&r->perms[i]);
    }
    free(r->perms);
    free(r->name);
}
static void user_free(struct user *u) {
    for (size_t i = 0; i < u->n; i++) {
        free(u->roles[i]);
    }
    free(u->roles);
    free(u->name);
    free(u->hash);
    free(u);
}

static void drop_tokens(struct auth *a, const struct user *u) { /* NULL: all */
    size_t k = 0;
    for (size_t i = 0; i < a->n_tokens; i++) {
        if (!u || a->tokens[i].user == u) {
            free(a->tokens[i].text);
        } else {
            a->tokens[k++] = a->tokens[i];
        }
    }
    a->n_tokens = k;
}

void auth_free(struct auth *a) {
    if (!a) {
        return;
    }
    drop_tokens(a, NULL);
    free(a->tokens);
    for (size_t i = 0; i < a->n_roles; i++) {
        role_fini(&a->roles[i]);
    }
    free(a->roles);
    for (size_t i = 0; i < a->n_users; i++) {
        user_free(a->users[i]);
    }
    free(a->users);
    free(a);
}

/* An array with room for one more element. */
static void *one_more(void *v, size_t n, size_t size) {
    void *p = mem_array(v, n + 1, size, 1u << 20);
    CHECK(p);
    return p;
}

static struct user *user_find(const struct auth *a, struct span name) {
    for (size_t i = 0; i < a->n_users; i++) {
        if (span_eq_str(name, a->users[i]->name)) {
            return a->users[i];
        }
    }
    return NULL;
}
static struct role *role_find(const struct auth *a, struct span name) {
    for (size_t i = 0; i < a->n_roles; i++) {
        if (span_eq_str(name, a->roles[i].name)) {
            return &a->roles[i];
        }
    }
    return NULL;
}
static bool user_has(const struct user *u, const char *role) {
    for (size_t i = 0; i < u->n; i++) {
        if (str_eq(u->roles[i], role)) {
            return true;
        }
    }
    return false;
}
static void user_add_role(struct user *u, struct span role) {
    size_t at = u->n;
    u->roles = one_more(u->roles, u->n, sizeof(*u->roles));
    while (at && span_cmp(role, span_str(u->roles[at - 1])) < 0) { /* sorted, as etcd keeps them */
        u->roles[at] = u->roles[at - 1];
        at--;
    }
    u->roles[at] = str_dupn(role.p, role.n);
    u->n++;
}
static bool user_drop_role(struct user *u, struct span role) {
    for (size_t i = 0; i < u->n; i++) {
        if (span_eq_str(role, u->roles[i])) {
            free(u->roles[i]);
            memmove(&u->roles[i], &u->roles[i + 1], (u->n - i - 1) * sizeof(*u->roles));
            u->n--;
            return true;
        }
    }
    return false;
}

/* ---- records ---- */

static void enc_perm(struct buf *b, uint32_t no, const struct perm *p) {
    size_t m = wire_begin(b, no);
    wire_u64(b, 1, p->type);
    wire_bytes(b, 2, p->key);
    wire_bytes(b, 3, p->end);
    wire_end(b, m);
}

static int dec_perm(struct span m, struct perm *ret) {
    struct wire_field f;
    struct span key = SPAN_EMPTY, end = SPAN_EMPTY;
    uint64_t type = 0;
    int rc;
    while ((rc = wire_next(&m, &f)) > 0) {
        if (f.no == 1) {
            type = f.v;
        } else if (f.no == 2) {
            key = f.bytes;
        } else if (f.no == 3) {
            end = f.bytes;
        }
    }
    if (rc < 0 || type > PERM_READWRITE) {
        return -ERR_INVALID;
    }
    *ret = perm_new((enum perm_type)type, key, end);
    return 0;
}

static int load_user(void *ctx, struct span key, struct span value) {
    struct auth *a = ctx;
    struct user *u = new_zero(struct user);
    struct wire_field f;
    int rc;
    u->name = str_dupn(key.p, key.n);
    u->hash = str_dup("");
    while ((rc = wire_next(&value, &f)) > 0) {
        if (f.no == 2) {
            free(u->hash);
            u->hash = str_dupn(f.bytes.p, f.bytes.n);
        } else if (f.no == 3) {
            user_add_role(u, f.bytes);
        } else if (f.no == 4) {
            u->no_password = f.bytes.n > 0;
        }
    }
    a->users = one_more(a->users, a->n_users, sizeof(*a->users));
    a->users[a->n_users++] = u;
    return rc < 0 ? -ERR_CORRUPT : 0;
}

static int load_role(void *ctx, struct span key, struct span value) {
    struct auth *a = ctx;
    struct wire_field f;
    int rc;
    a->roles = one_more(a->roles, a->n_roles, sizeof(*a->roles));
    struct role *r = &a->roles[a->n_roles++];
    *r = (struct role){.name = str_dupn(key.p, key.n)};
    while ((rc = wire_next(&value, &f)) > 0) {
        if (f.no == 2) {
            r->perms = one_more(r->perms, r->n, sizeof(*r->perms));
            if (dec_perm(f.bytes, &r->perms[r->n]) < 0) {
                return -ERR_CORRUPT;
            }
            r->n++;
        }
    }
    return rc < 0 ? -ERR_CORRUPT : 0;
}

static int load_state(void *ctx, struct span key, struct span value) {
    struct auth *a = ctx;
    if (span_eq_str(key, "authEnabled")) {
        a->enabled = value.n && value.p[0] == 1;
    } else if (span_eq_str(key, "authRevision")) {
        return span_be64(&value, &a->rev) < 0 ? -ERR_CORRUPT : 0;
    }
    return 0;
}

int auth_load(struct storesrv *v, struct err *e) {
    struct auth *a = new_zero(struct auth);
    a->rev = 1;
    int rc;
    if ((rc = store_aux_scan(v->st, SPAN_LIT("auth"), load_state, a, e)) < 0 ||
        (rc = store_aux_scan(v->st, SPAN_LIT("authUsers"), load_user, a, e)) < 0 ||
        (rc = store_aux_scan(v->st, SPAN_LIT("authRoles"), load_role, a, e)) < 0) {
        auth_free(a);
        return e->code ? rc : err_set(e, (enum err_code) - rc, "users and roles cannot be read");
    }
    auth_free(v->auth);
    v->auth = a;
    return 0;
}

static void save_user(struct storesrv *v, const struct user *u) {
    AUTO(buf) struct buf b = BUF_INIT(1 << 20);
    wire_bytes(&b, 1, span_str(u->name));
    wire_bytes(&b, 2, span_str(u->hash));
    for (size_t i = 0; i < u->n; i++) {
        wire_bytes_always(&b, 3, span_str(u->roles[i]));
    }
    if (u->no_password) {
        size_t m = wire_begin(&b, 4);
        wire_bool(&b, 1, true);
        wire_end(&b, m);
    }
    store_aux_put(v->st, SPAN_LIT("authUsers"), span_str(u->name), buf_view(&b), NULL, NULL);
}

static void save_role(struct storesrv *v, const struct role *r) {
    AUTO(buf) struct buf b = BUF_INIT(64 << 20);
    wire_bytes(&b, 1, span_str(r->name));
    for (size_t i = 0; i < r->n; i++) {
        enc_perm(&b, 2, &r->perms[i]);
    }
    store_aux_put(v->st, SPAN_LIT("authRoles"), span_str(r->name), buf_view(&b), NULL, NULL);
}

/* ---- who asks, and what may they ---- */

static int denied(struct err *e) {
    static const char text[] = "etcdserver: permission denied";
    int rc = err_set(e, ERR_FORBIDDEN, text);
    e->pub = text;
    return rc;
}

static const struct token *token_find(struct auth *a, struct span text) {
    for (size_t i = 0; i < a->n_tokens; i++) {
        if (a->tokens[i].until >= clock_ns() && text.n == strlen(a->tokens[i].text) &&
            ct_eq(text.p, a->tokens[i].text, text.n)) {
            a->tokens[i].until = clock_ns() + TOKEN_NS;
            return &a->tokens[i];
        }
    }
    return NULL;
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
        const struct token *k = token_find(a, t);
        if (k) {
            *ret = k->user;
            return 0;
        }
        return rpc_error(e, ERR_UNAUTHENTICATED, "etcdserver: invalid auth token");
    }
    const struct tls_peer *peer = http_req_peer(c->r);
    if (peer && peer->cn && peer->cn[0]) { /* a verified client certificate names the user */
        *ret = user_find(a, span_str(peer->cn));
        return *ret ? 0 : denied(e);
    }
    return rpc_error(e, ERR_INVALID, "etcdserver: user name is empty");
}

/* Is [key, end) inside the union of the intervals this user may use? Walks from the left end. */
static bool covered(const struct auth *a, const struct user *u, struct span key, struct span end,
                    bool write) {
    uint8_t succ[4096];
    struct span at = key, stop = end;
    bool open_end = end.n == 1 && end.p[0] == 0;
    if (!end.n) { /* one key: up to its successor */
        if (key.n >= sizeof(succ)) {
            return false;
        }
        memcpy(succ, key.p, key.n);
        succ[key.n] = 0;
        stop = span_of(succ, key.n + 1);
    }
    for (bool moved = true; moved;) {
        moved = false;
        for (size_t i = 0; i < u->n; i++) {
            const struct role *r = role_find(a, span_str(u->roles[i]));
            for (size_t k = 0; r && k < r->n; k++) {
                const struct perm *p = &r->perms[k];
                bool to_end = p->end.n == 1 && p->end.p[0] == 0;
                if (p->type != PERM_READWRITE && p->type != (write ? PERM_WRITE : PERM_READ)) {
                    continue;
                }
                if (!p->end.n) { /* a single key covers only itself */
                    if (!end.n && span_eq(p->key, key)) {
                        return true;
                    }
                    continue;
                }
                if (span_cmp(p->key, at) > 0 || (!to_end && span_cmp(at, p->end) >= 0)) {
                    continue;
                }
                if (to_end) {
                    return true;
                }
                at = p->end;
                moved = true;
                if (!open_end && span_cmp(at, stop) >= 0) {
                    return true;
                }
            }
        }
    }
    return false;
}

static int may(const struct auth *a, const struct user *u, struct span key, struct span end,
               bool write, struct err *e) {
    if (!u || user_has(u, "root") || covered(a, u, key, end, write)) {
        return 0;
    }
    return denied(e);
}

int auth_range(struct rpc *c, struct span key, struct span end, bool write, struct err *e) {
    struct user *u;
    int rc = who(c, &u, e);
    return rc < 0 ? rc : may(c->v->auth, u, key, end, write, e);
}

int auth_admin(struct rpc *c, struct err *e) {
    struct user *u;
    int rc = who(c, &u, e);
    return rc < 0 ? rc : !u || user_has(u, "root") ? 0 : denied(e);
}

static int body(const struct auth *a, const struct user *u, const struct store_body *b,
                struct err *e);

static int ops(const struct auth *a, const struct user *u, const struct store_ops *o,
               struct err *e) {
    int rc = 0;
    for (size_t i = 0; i < o->n && rc == 0; i++) {
        const struct store_op *op = &o->v[i];
        switch (op->kind) {
        case STORE_OP_RANGE: rc = may(a, u, op->u.range.key, op->u.range.end, false, e); break;
        case STORE_OP_PUT:
            rc = may(a, u, op->u.put.key, SPAN_EMPTY, true, e);
            if (rc == 0 && op->u.put.prev_kv) {
                rc = may(a, u, op->u.put.key, SPAN_EMPTY, false, e);
            }
            break;
        case STORE_OP_DELETE:
            rc = may(a, u, op->u.del.key, op->u.del.end, true, e);
            if (rc == 0 && op->u.del.prev_kv) {
                rc = may(a, u, op->u.del.key, op->u.del.end, false, e);
            }
            break;
        case STORE_OP_TXN: rc = body(a, u, op->u.txn, e); break;
        case STORE_OP_NONE: break;
        }
    }
    return rc;
}

static int body(const struct auth *a, const struct user *u, const struct store_body *b,
                struct err *e) {
    int rc = 0;
    for (size_t i = 0; i < b->n_cmps && rc == 0; i++) {
        rc = may(a, u, b->cmps[i].key, b->cmps[i].end, false, e);
    }
    if (rc == 0) {
        rc = ops(a, u, &b->then, e);
    }
    return rc < 0 ? rc : ops(a, u, &b->els, e);
}

int auth_body(struct rpc *c, const struct store_body *b, struct err *e) {
    struct user *u;
    int rc = who(c, &u, e);
    return rc < 0 || !u ? rc : body(c->v->auth, u, b, e);
}

/* Revoking a lease deletes its keys. */
int auth_lease(struct rpc *c, int64_t id, struct err *e) {
    struct user *u;
    int rc = who(c, &u, e);
    if (rc < 0 || !u || user_has(u, "root")) {
        return rc;
    }
    struct arena a = ARENA_INIT((size_t)1 << 30);
    struct span *keys = NULL;
    size_t n = 0;
    struct err none = ERR_INIT;
    IGNORE_ERR(store_lease_keys(c->v->st, id, &a, &keys, &n, &none),
               "an unknown lease is told by the revocation");
    for (size_t i = 0; i < n && rc == 0; i++) {
        rc = may(c->v->auth, u, keys[i], SPAN_EMPTY, true, e);
    }
    arena_fini(&a);
    return rc;
}

/* ---- calls ---- */

static void changed(void *ctx, int rc, const struct err *e) {
    struct rpc *c = ctx;
    if (rc < 0) {
        struct err mine = ERR_INIT;
        IGNORE_ERR(auth_load(c->v, &mine),
                   "what is in memory must be what is stored; the caller hears of the first error");
    }
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

/* The last write of a change: the revision, whose completion answers. */
static void commit(struct rpc *c) {
    struct auth *a = c->v->auth;
    uint8_t on = a->enabled;
    AUTO(buf) struct buf rev = BUF_INIT(8);
    a->rev++;
    buf_be64(&rev, a->rev);
    store_aux_put(c->v->st, SPAN_LIT("auth"), SPAN_LIT("authEnabled"), span_of(&on, 1), NULL, NULL);
    store_aux_put(c->v->st, SPAN_LIT("auth"), SPAN_LIT("authRevision"), buf_view(&rev), changed,
                  rpc_ref(c));
}

struct args { /* every Auth request is a few of these */
    struct span one, two, three;
    bool no_password;
    struct span perm;
};

static int dec_args(struct span m, struct args *k) {
    struct wire_field f;
    int rc;
    *k = (struct args){0};
    while ((rc = wire_next(&m, &f)) > 0) {
        switch (f.no) {
        case 1: k->one = f.bytes; break;
        case 2:
            k->two = f.bytes;
            k->perm = f.bytes;
            break;
        case 3:
            k->three = f.bytes;
            k->no_password = f.bytes.n > 0;
            break;
        default: break;
        }
    }
    return rc;
}

static bool admin_args(struct rpc *c, struct span m, struct args *k) {
    struct err e = ERR_INIT;
    if (dec_args(m, k) < 0) {
        rpc_status(c, 3, "malformed message");
        return false;
    }
    if (auth_admin(c, &e) < 0) {
        rpc_fail(c, &e);
        return false;
    }
    return true;
}

void auth_enable(struct rpc *c, struct span m) {
    (void)m;
    struct auth *a = c->v->auth;
    struct user *root = user_find(a, SPAN_LIT("root"));
    if (a->enabled) {
        struct buf b = rpc_buf(c);
        enc_header(&b, 1, c->v, store_rev(c->v->st));
        rpc_reply(c, &b);
    } else if (!root) {
        rpc_status(c, 9, "etcdserver: root user does not exist");
    } else if (!user_has(root, "root")) {
        rpc_status(c, 9, "etcdserver: root user does not have root role");
    } else {
        a->enabled = true;
        drop_tokens(a, NULL);
        commit(c);
    }
}

void auth_disable(struct rpc *c, struct span m) {
    struct args k;
    if (admin_args(c, m, &k)) {
        c->v->auth->enabled = false;
        drop_tokens(c->v->auth, NULL);
        commit(c);
    }
}

void auth_status(struct rpc *c, struct span m) {
    (void)m;
    struct buf b = rpc_buf(c);
    enc_header(&b, 1, c->v, store_rev(c->v->st));
    wire_bool(&b, 2, c->v->auth->enabled);
    wire_u64(&b, 3, c->v->auth->rev);
    rpc_reply(c, &b);
}

/* ---- passwords: bcrypt takes long on purpose, so it is done on a lane ---- */

struct pass_job {
    struct loop_work w;
    struct rpc *c;
    char *name, *password, *hash;
    bool ok, is_add;
    void (*then)(struct pass_job *j);
};

static void pass_run(struct loop_work *w) {
    struct pass_job *j = CONTAINER_OF(w, struct pass_job, w);
    if (j->hash) {
        j->ok = pass_check(j->password, j->hash);
    } else {
        j->hash = pass_hash(j->password);
        j->ok = j->hash != NULL;
    }
}

static void pass_done(struct loop_work *w) {
    struct pass_job *j = CONTAINER_OF(w, struct pass_job, w);
    if (rpc_open(j->c)) {
        j->then(j);
    }
    rpc_unref(j->c);
    secret_wipe(j->password, strlen(j->password));
    free(j->password);
    free(j->name);
    free(j->hash);
    free(j);
}

/* hash NULL: makes one. */
static void pass_start(struct rpc *c, struct span name, struct span password, const char *hash,
                       bool is_add, void (*then)(struct pass_job *j)) {
    struct pass_job *j = new_zero(struct pass_job);
    struct err e = ERR_INIT;
    j->w.run = pass_run;
    j->w.done = pass_done;
    j->c = rpc_ref(c);
    j->name = str_dupn(name.p, name.n);
    j->password = str_dupn(password.p, password.n);
    j->hash = hash ? str_dup(hash) : NULL;
    j->is_add = is_add;
    j->then = then;
    if (loop_work_submit(c->v->l, LANE_FILE, &j->w, &e) < 0) {
        rpc_fail(c, &e);
        pass_done(&j->w);
    }
}

static void authenticated(struct pass_job *j) {
    struct auth *a = j->c->v->auth;
    struct user *u = user_find(a, span_str(j->name));
    if (!j->ok || !u) {
        rpc_status(j->c, 3, "etcdserver: authentication failed, invalid user ID or password");
        return;
    }
    if (a->n_tokens >= LIM_TOKENS) {
        size_t k = 0;
        for (size_t i = 0; i < a->n_tokens; i++) { /* those that ran out make room */
            if (a->tokens[i].until < clock_ns()) {
                free(a->tokens[i].text);
            } else {
                a->tokens[k++] = a->tokens[i];
            }
        }
        a->n_tokens = k;
    }
    if (a->n_tokens >= LIM_TOKENS) {
        rpc_status(j->c, 8, "etcdserver: too many requests");
        return;
    }
    char *text = str_fmt("%016llx%016llx.%llu", (unsigned long long)rand_u64(),
                         (unsigned long long)rand_u64(), (unsigned long long)++a->next_token);
    a->tokens = one_more(a->tokens, a->n_tokens, sizeof(*a->tokens));
    a->tokens[a->n_tokens++] = (struct token){text, u, clock_ns() + TOKEN_NS};
    struct buf b = rpc_buf(j->c);
    enc_header(&b, 1, j->c->v, store_rev(j->c->v->st));
    wire_bytes(&b, 2, span_str(text));
    rpc_reply(j->c, &b);
}

void auth_authenticate(struct rpc *c, struct span m) {
    struct args k;
    struct auth *a = c->v->auth;
    if (dec_args(m, &k) < 0) {
        rpc_status(c, 3, "malformed message");
        return;
    }
    if (!a->enabled) {
        rpc_status(c, 9, "etcdserver: authentication is not enabled");
        return;
    }
    struct user *u = user_find(a, k.one);
    if (!u || u->no_password) {
        rpc_status(c, 3, "etcdserver: authentication failed, invalid user ID or password");
        return;
    }
    pass_start(c, k.one, k.two, u->hash, false, authenticated);
}

static void user_hashed(struct pass_job *j) {
    struct auth *a = j->c->v->auth;
    struct user *u = user_find(a, span_str(j->name));
    if (!j->ok) {
        rpc_status(j->c, 13, "etcdserver: the password cannot be hashed");
        return;
    }
    if (j->is_add && !u) {
        u = new_zero(struct user);
        u->name = str_dup(j->name);
        a->users = one_more(a->users, a->n_users, sizeof(*a->users));
        a->users[a->n_users++] = u;
    } else if (!u) {
        rpc_status(j->c, 9, "etcdserver: user name not found");
        return;
    }
    free(u->hash);
    u->hash = str_dup(j->hash);
    u->no_password = false;
    drop_tokens(a, u);
    save_user(j->c->v, u);
    commit(j->c);
}

void auth_user_add(struct rpc *c, struct span m) {
    struct args k;
    struct auth *a = c->v->auth;
    if (!admin_args(c, m, &k)) {
        return;
    }
    if (!k.one.n) {
        rpc_status(c, 3, "etcdserver: user name is empty");
    } else if (user_find(a, k.one)) {
        rpc_status(c, 9, "etcdserver: user name already exists");
    } else if (a->n_users >= LIM_USERS) {
        rpc_status(c, 8, "etcdserver: too many users");
    } else if (k.no_password) {
        struct user *u = new_zero(struct user);
        u->name = str_dupn(k.one.p, k.one.n);
        u->hash = str_dup("");
        u->no_password = true;
        a->users = one_more(a->users, a->n_users, sizeof(*a->users));
        a->users[a->n_users++] = u;
        save_user(c->v, u);
        commit(c);
    } else {
        pass_start(c, k.one, k.two, NULL, true, user_hashed);
    }
}

void auth_user_password(struct rpc *c, struct span m) {
    struct args k;
    if (!admin_args(c, m, &k)) {
        return;
    }
    if (!user_find(c->v->auth, k.one)) {
        rpc_status(c, 9, "etcdserver: user name not found");
    } else {
        pass_start(c, k.one, k.two, NULL, false, user_hashed);
    }
}

void auth_user_get(struct rpc *c, struct span m) {
    struct args k;
    struct user *me;
    struct err e = ERR_INIT;
    struct auth *a = c->v->auth;
    if (dec_args(m, &k) < 0) {
        rpc_status(c, 3, "malformed message");
        return;
    }
    if (who(c, &me, &e) < 0 ||
        (me && !user_has(me, "root") && !span_eq_str(k.one, me->name) && denied(&e))) {
        rpc_fail(c, &e);
        return;
    }
    struct user *u = user_find(a, k.one);
    if (!u) {
        rpc_status(c, 9, "etcdserver: user name not found");
        return;
    }
    struct buf b = rpc_buf(c);
    enc_header(&b, 1, c->v, store_rev(c->v->st));
    for (size_t i = 0; i < u->n; i++) {
        wire_bytes_always(&b, 2, span_str(u->roles[i]));
    }
    rpc_reply(c, &b);
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void reply_names(struct rpc *c, const char **v, size_t n) {
    struct buf b = rpc_buf(c);
    enc_header(&b, 1, c->v, store_rev(c->v->st));
    qsort(v, n, sizeof(*v), by_name);
    for (size_t i = 0; i < n; i++) {
        wire_bytes_always(&b, 2, span_str(v[i]));
    }
    rpc_reply(c, &b);
}

void auth_user_list(struct rpc *c, struct span m) {
    struct args k;
    struct auth *a = c->v->auth;
    if (admin_args(c, m, &k)) {
        const char **v = mem_zero_alloc((a->n_users + 1) * sizeof(*v));
        for (size_t i = 0; i < a->n_users; i++) {
            v[i] = a->users[i]->name;
        }
        reply_names(c, v, a->n_users);
        free(v);
    }
}

void auth_role_list(struct rpc *c, struct span m) {
    struct args k;
    struct auth *a = c->v->auth;
    if (admin_args(c, m, &k)) {
        const char **v = mem_zero_alloc((a->n_roles + 1) * sizeof(*v));
        for (size_t i = 0; i < a->n_roles; i++) {
            v[i] = a->roles[i].name;
        }
        reply_names(c, v, a->n_roles);
        free(v);
    }
}

void auth_user_delete(struct rpc *c, struct span m) {
    struct args k;
    struct auth *a = c->v->auth;
    if (!admin_args(c, m, &k)) {
        return;
    }
    if (a->enabled && span_eq_str(k.one, "root")) {
        rpc_status(c, 3, "etcdserver: invalid auth management");
        return;
    }
    for (size_t i = 0; i < a->n_users; i++) {
        struct user *u = a->users[i];
        if (span_eq_str(k.one, u->name)) {
            drop_tokens(a, u);
            store_aux_put(c->v->st, SPAN_LIT("authUsers"), k.one, SPAN_EMPTY, NULL, NULL);
            user_free(u);
            a->users[i] = a->users[--a->n_users];
            commit(c);
            return;
        }
    }
    rpc_status(c, 9, "etcdserver: user name not found");
}

void auth_user_grant(struct rpc *c, struct span m) {
    struct args k;
    struct auth *a = c->v->auth;
    if (!admin_args(c, m, &k)) {
        return;
    }
    struct user *u = user_find(a, k.one);
    AUTO_FREE char *role = str_dupn(k.two.p, k.two.n);
    if (!u) {
        rpc_status(c, 9, "etcdserver: user name not found");
    } else if (!role_find(a, k.two) && !str_eq(role, "root")) {
        rpc_status(c, 9, "etcdserver: role name not found");
    } else {
        if (!user_has(u, role)) {
            user_add_role(u, k.two);
            save_user(c->v, u);
        }
        commit(c);
    }
}

void auth_user_revoke(struct rpc *c, struct span m) {
    struct args k;
    struct auth *a = c->v->auth;
    if (!admin_args(c, m, &k)) {
        return;
    }
    struct user *u = user_find(a, k.one);
    if (a->enabled && span_eq_str(k.one, "root") && span_eq_str(k.two, "root")) {
        rpc_status(c, 3, "etcdserver: invalid auth management");
    } else if (!u) {
        rpc_status(c, 9, "etcdserver: user name not found");
    } else if (!user_drop_role(u, k.two)) {
        rpc_status(c, 9, "etcdserver: role is not granted to the user");
    } else {
        save_user(c->v, u);
        commit(c);
    }
}

/* ---- roles ---- */

void auth_role_add(struct rpc *c, struct span m) {
    struct args k;
    struct auth *a = c->v->auth;
    if (!admin_args(c, m, &k)) {
        return;
    }
    if (!k.one.n) {
        rpc_status(c, 3, "etcdserver: role name is empty");
    } else if (role_find(a, k.one)) {
        rpc_status(c, 9, "etcdserver: role name already exists");
    } else {
        a->roles = one_more(a->roles, a->n_roles, sizeof(*a->roles));
        a->roles[a->n_roles] = (struct role){.name = str_dupn(k.one.p, k.one.n)};
        save_role(c->v, &a->roles[a->n_roles++]);
        commit(c);
    }
}

void auth_role_get(struct rpc *c, struct span m) {
    struct args k;
    struct user *me;
    struct err e = ERR_INIT;
    if (dec_args(m, &k) < 0) {
        rpc_status(c, 3, "malformed message");
        return;
    }
    AUTO_FREE char *name = str_dupn(k.one.p, k.one.n);
    if (who(c, &me, &e) < 0 || (me && !user_has(me, "root") && !user_has(me, name) && denied(&e))) {
        rpc_fail(c, &e);
        return;
    }
    struct role *r = role_find(c->v->auth, k.one);
    if (!r) {
        rpc_status(c, 9, "etcdserver: role name not found");
        return;
    }
    struct buf b = rpc_buf(c);
    enc_header(&b, 1, c->v, store_rev(c->v->st));
    for (size_t i = 0; i < r->n; i++) {
        enc_perm(&b, 2, &r->perms[i]);
    }
    rpc_reply(c, &b);
}

void auth_role_delete(struct rpc *c, struct span m) {
    struct args k;
    struct auth *a = c->v->auth;
    if (!admin_args(c, m, &k)) {
        return;
    }
    struct role *r = role_find(a, k.one);
    if (a->enabled && span_eq_str(k.one, "root")) {
        rpc_status(c, 3, "etcdserver: invalid auth management");
    } else if (!r) {
        rpc_status(c, 9, "etcdserver: role name not found");
    } else {
        for (size_t i = 0; i < a->n_users; i++) {
            if (user_drop_role(a->users[i], k.one)) {
                save_user(c->v, a->users[i]);
            }
        }
        store_aux_put(c->v->st, SPAN_LIT("authRoles"), k.one, SPAN_EMPTY, NULL, NULL);
        role_fini(r);
        *r = a->roles[--a->n_roles];
        commit(c);
    }
}

static int by_key(const void *pa, const void *pb) {
    const struct perm *a = pa, *b = pb;
    return span_cmp(a->key, b->key);
}

void auth_role_grant(struct rpc *c, struct span m) {
    struct args k;
    struct perm p;
    if (!admin_args(c, m, &k)) {
        return;
    }
    struct role *r = role_find(c->v->auth, k.one);
    if (!r) {
        rpc_status(c, 9, "etcdserver: role name not found");
        return;
    }
    if (!k.perm.p || dec_perm(k.perm, &p) < 0) {
        rpc_status(c, 3, "etcdserver: permission not given");
        return;
    }
    size_t i = 0;
    while (i < r->n && !(span_eq(r->perms[i].key, p.key) && span_eq(r->perms[i].end, p.end))) {
        i++;
    }
    if (i < r->n) {
        r->perms[i].type = p.type;
        perm_fini(&p);
    } else {
        r->perms = one_more(r->perms, r->n, sizeof(*r->perms));
        r->perms[r->n++] = p;
        qsort(r->perms, r->n, sizeof(*r->perms), by_key);
    }
    save_role(c->v, r);
    commit(c);
}

void auth_role_revoke(struct rpc *c, struct span m) {
    struct args k;
    if (!admin_args(c, m, &k)) {
        return;
    }
    struct role *r = role_find(c->v->auth, k.one);
    if (!r) {
        rpc_status(c, 9, "etcdserver: role name not found");
        return;
    }
    for (size_t i = 0; i < r->n; i++) {
        if (span_eq(r->perms[i].key, k.two) && span_eq(r->perms[i].end, k.three)) {
            perm_fini(&r->perms[i]);
            memmove(&r->perms[i], &r->perms[i + 1], (r->n - i - 1) * sizeof(*r->perms));
            r->n--;
            save_role(c->v, r);
            commit(c);
            return;
        }
    }
    rpc_status(c, 9, "etcdserver: permission is not granted to the role");
}
