/* The Auth service. */
#include "internal/storesrv/srv_auth.h"

#include "internal/base/rand.h"

#include <stdlib.h>

static const struct span root_name = SPAN_LIT("root"); /* user and role */

/* ---- requests and answers ---- */

static void ok_header(struct rpc *c, struct buf *b) {
    *b = rpc_buf(c);
    enc_header(b, 1, c->v, store_rev(c->v->st));
}

static void reply_ok(struct rpc *c) {
    struct buf b;
    ok_header(c, &b);
    rpc_reply(c, &b);
}

static void changed(void *ctx, int rc, const struct err *e) {
    struct rpc *c = ctx;
    if (rpc_open(c) && rc < 0) {
        rpc_fail(c, e);
    } else if (rpc_open(c)) {
        reply_ok(c);
    }
    rpc_unref(c);
}

/* Its completion answers. */
static void commit(struct rpc *c, struct auth_change *g) {
    auth_commit(g, changed, rpc_ref(c));
}

static void commit_user(struct rpc *c, struct auth_change *g, const struct user *u) {
    user_save(g, u);
    g->a->rev++;
    commit(c, g);
}

static void commit_role(struct rpc *c, struct auth_change *g, const struct role *r) {
    role_save(g, r);
    g->a->rev++;
    commit(c, g);
}

struct args { /* every Auth request is a few of these */
    struct span one, two, three;
    bool no_password;
};

static int dec_args(struct rpc *c, struct span m, struct args *k) {
    struct wire_field f;
    int rc;
    *k = (struct args){0};
    while ((rc = wire_next(&m, &f)) > 0) {
        struct span *dst = f.no == 1 ? &k->one : f.no == 2 ? &k->two : f.no == 3 ? &k->three : NULL;
        if (dst) {
            *dst = f.bytes;
        }
    }
    struct span options = k->three; /* of UserAdd */
    while (rc == 0 && wire_next(&options, &f) > 0) {
        k->no_password = f.no == 1 && f.v;
    }
    if (rc < 0) {
        rpc_status(c, 3, "malformed message");
    }
    return rc;
}

static bool admin_args(struct rpc *c, struct span m, struct args *k) {
    struct err e = ERR_INIT;
    if (dec_args(c, m, k) < 0) {
        return false;
    }
    if (auth_admin(c, &e) < 0) {
        rpc_fail(c, &e);
        return false;
    }
    return true;
}

/* A call that waits for the change under way. */
struct held {
    struct rpc *c;
    void (*call)(struct rpc *c, struct span msg);
    struct buf msg;
};

static void held_go(void *ctx) {
    struct held *h = ctx;
    if (rpc_open(h->c)) {
        h->call(h->c, buf_view(&h->msg));
    }
    rpc_unref(h->c);
    buf_fini(&h->msg);
    free(h);
}

/* NULL: the answer is given, or `call` is called again when its turn comes. */
static struct auth_change *change_args(struct rpc *c, struct span m, struct args *k,
                                       void (*call)(struct rpc *c, struct span msg)) {
    if (auth_busy(c->v)) {
        struct held *h = new_zero(struct held);
        *h = (struct held){rpc_ref(c), call, BUF_INIT(m.n + 1)};
        buf_span(&h->msg, m);
        auth_wait(c->v, held_go, h);
        return NULL;
    }
    return admin_args(c, m, k) ? auth_begin(c->v) : NULL;
}

static void no_user(struct rpc *c) {
    rpc_status(c, 9, "etcdserver: user name not found");
}
static void no_role(struct rpc *c) {
    rpc_status(c, 9, "etcdserver: role name not found");
}
static void bad_management(struct rpc *c) {
    rpc_status(c, 3, "etcdserver: invalid auth management");
}
static void bad_password(struct rpc *c) {
    rpc_status(c, 3, "etcdserver: authentication failed, invalid user ID or password");
}

/* ---- on and off ---- */

void auth_enable(struct rpc *c, struct span m) {
    struct args k;
    struct auth_change *g = change_args(c, m, &k, auth_enable);
    if (!g) {
        return;
    }
    struct auth *a = g->a;
    struct user *root = user_find(a, root_name);
    if (a->enabled) {
        reply_ok(c);
    } else if (!root) {
        rpc_status(c, 9, "etcdserver: root user does not exist");
    } else if (!user_has(root, root_name)) {
        rpc_status(c, 9, "etcdserver: root user does not have root role");
    } else {
        a->enabled = true;
        tokens_drop(g, NULL);
        commit(c, g); /* the revision stays */
    }
}

void auth_disable(struct rpc *c, struct span m) {
    struct args k;
    struct auth_change *g = change_args(c, m, &k, auth_disable);
    if (!g) {
        return;
    }
    struct auth *a = g->a;
    if (!a->enabled) {
        reply_ok(c);
        return;
    }
    a->enabled = false;
    a->rev++;
    tokens_drop(g, NULL);
    commit(c, g);
}

void auth_status(struct rpc *c, struct span m) {
    struct args k;
    if (admin_args(c, m, &k)) {
        struct buf b;
        ok_header(c, &b);
        wire_bool(&b, 2, c->v->auth->enabled);
        wire_u64(&b, 3, c->v->auth->rev);
        rpc_reply(c, &b);
    }
}

/* ---- passwords: bcrypt takes long on purpose, so it is done on a lane ---- */

struct pass_job {
    struct loop_work w;
    struct rpc *c;
    char *name, *password, *hash;
    unsigned cost;
    bool ok, is_add;
    void (*then)(struct pass_job *j);
};

static void pass_run(struct loop_work *w) {
    struct pass_job *j = CONTAINER_OF(w, struct pass_job, w);
    if (j->hash) {
        j->ok = pass_check(j->password, j->hash);
    } else {
        j->hash = pass_hash(j->password, j->cost);
        j->ok = j->hash != NULL;
    }
}

static void pass_then(void *ctx) {
    struct pass_job *j = ctx;
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

static void pass_done(struct loop_work *w) {
    struct pass_job *j = CONTAINER_OF(w, struct pass_job, w);
    if (auth_busy(j->c->v)) {
        auth_wait(j->c->v, pass_then, j);
    } else {
        pass_then(j);
    }
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
    j->cost = c->v->o.bcrypt_cost;
    j->then = then;
    if (loop_work_submit(c->v->l, LANE_FILE, &j->w, &e) < 0) {
        rpc_fail(c, &e);
        pass_done(&j->w);
    }
}

static void authenticated(struct pass_job *j) {
    struct rpc *c = j->c;
    struct user *u = user_find(c->v->auth, span_str(j->name));
    if (!j->ok || !u || u->no_password || !str_eq(u->hash, j->hash)) { /* meanwhile changed */
        bad_password(c);
        return;
    }
    AUTO_FREE char *text = token_new(c->v, u);
    if (!text) {
        rpc_status(c, 8, "etcdserver: too many requests");
        return;
    }
    struct buf b;
    ok_header(c, &b);
    wire_bytes(&b, 2, span_str(text));
    rpc_reply(c, &b);
}

void auth_authenticate(struct rpc *c, struct span m) {
    struct args k;
    struct auth *a = c->v->auth;
    if (dec_args(c, m, &k) < 0) {
        return;
    }
    if (!a->enabled) {
        rpc_status(c, 9, "etcdserver: authentication is not enabled");
        return;
    }
    struct user *u = user_find(a, k.one);
    if (!u) {
        bad_password(c);
    } else if (u->no_password) {
        rpc_status(c, 2, "auth: authentication failed, password was given for no password user");
    } else {
        pass_start(c, k.one, k.two, u->hash, false, authenticated);
    }
}

/* ---- users ---- */

static void user_hashed(struct pass_job *j) {
    struct rpc *c = j->c;
    if (!j->ok) {
        rpc_status(c, 13, "etcdserver: the password cannot be hashed");
        return;
    }
    struct auth_change *g = auth_begin(c->v);
    struct user *u = user_find(g->a, span_str(j->name));
    if (j->is_add != !u) { /* somebody was faster */
        rpc_status(c, 9,
                   u ? "etcdserver: user name already exists" : "etcdserver: user name not found");
        return;
    }
    if (!u) {
        u = user_new(g->a, span_str(j->name));
    }
    free(u->hash);
    u->hash = TAKE(j->hash);
    tokens_drop(g, u);
    commit_user(c, g, u);
}

void auth_user_add(struct rpc *c, struct span m) {
    struct args k;
    struct auth_change *g = change_args(c, m, &k, auth_user_add);
    if (!g) {
        return;
    }
    struct auth *a = g->a;
    if (!k.one.n) {
        rpc_status(c, 3, "etcdserver: user name is empty");
    } else if (user_find(a, k.one)) {
        rpc_status(c, 9, "etcdserver: user name already exists");
    } else if (a->n_users >= LIM_USERS) {
        rpc_status(c, 8, "etcdserver: too many users");
    } else if (k.no_password) {
        struct user *u = user_new(a, k.one);
        u->no_password = true;
        commit_user(c, g, u);
    } else {
        pass_start(c, k.one, k.two, NULL, true, user_hashed);
    }
}

void auth_user_password(struct rpc *c, struct span m) {
    struct args k;
    struct auth_change *g = change_args(c, m, &k, auth_user_password);
    if (!g) {
        return;
    }
    struct auth *a = g->a;
    struct user *u = user_find(a, k.one);
    if (!u) {
        no_user(c);
    } else if (u->no_password) { /* it stays without one */
        tokens_drop(g, u);
        commit_user(c, g, u);
    } else {
        pass_start(c, k.one, k.two, NULL, false, user_hashed);
    }
}

void auth_user_get(struct rpc *c, struct span m) {
    struct args k;
    struct err e = ERR_INIT;
    if (dec_args(c, m, &k) < 0) {
        return;
    }
    if (auth_self(c, k.one, SPAN_EMPTY, &e) < 0) {
        rpc_fail(c, &e);
        return;
    }
    struct user *u = user_find(c->v->auth, k.one);
    if (!u) {
        no_user(c);
        return;
    }
    struct buf b;
    ok_header(c, &b);
    for (size_t i = 0; i < u->n; i++) {
        wire_bytes_always(&b, 2, span_str(u->roles[i]));
    }
    rpc_reply(c, &b);
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void reply_names(struct rpc *c, const char **v, size_t n) {
    struct buf b;
    ok_header(c, &b);
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

void auth_user_delete(struct rpc *c, struct span m) {
    struct args k;
    struct auth_change *g = change_args(c, m, &k, auth_user_delete);
    if (!g) {
        return;
    }
    struct auth *a = g->a;
    struct user *u = user_find(a, k.one);
    if (a->enabled && span_eq(k.one, root_name)) {
        bad_management(c);
    } else if (!u) {
        no_user(c);
    } else {
        user_remove(g, u);
        a->rev++;
        commit(c, g);
    }
}

void auth_user_grant(struct rpc *c, struct span m) {
    struct args k;
    struct auth_change *g = change_args(c, m, &k, auth_user_grant);
    if (!g) {
        return;
    }
    struct auth *a = g->a;
    struct user *u = user_find(a, k.one);
    if (!u) {
        no_user(c);
    } else if (!role_find(a, k.two) && !span_eq(k.two, root_name)) {
        no_role(c);
    } else if (user_has(u, k.two)) {
        reply_ok(c);
    } else {
        user_add_role(u, k.two);
        commit_user(c, g, u);
    }
}

void auth_user_revoke(struct rpc *c, struct span m) {
    struct args k;
    struct auth_change *g = change_args(c, m, &k, auth_user_revoke);
    if (!g) {
        return;
    }
    struct auth *a = g->a;
    struct user *u = user_find(a, k.one);
    if (a->enabled && span_eq(k.one, root_name) && span_eq(k.two, root_name)) {
        bad_management(c);
    } else if (!u) {
        no_user(c);
    } else if (!user_drop_role(u, k.two)) {
        rpc_status(c, 9, "etcdserver: role is not granted to the user");
    } else {
        commit_user(c, g, u);
    }
}

/* ---- roles ---- */

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

void auth_role_add(struct rpc *c, struct span m) {
    struct args k;
    struct auth_change *g = change_args(c, m, &k, auth_role_add);
    if (!g) {
        return;
    }
    struct auth *a = g->a;
    if (!k.one.n) {
        rpc_status(c, 3, "etcdserver: role name is empty");
    } else if (role_find(a, k.one)) {
        rpc_status(c, 9, "etcdserver: role name already exists");
    } else if (a->n_roles >= LIM_ROLES) {
        rpc_status(c, 8, "etcdserver: too many roles");
    } else {
        commit_role(c, g, role_new(a, k.one));
    }
}

void auth_role_get(struct rpc *c, struct span m) {
    struct args k;
    struct err e = ERR_INIT;
    if (dec_args(c, m, &k) < 0) {
        return;
    }
    if (auth_self(c, SPAN_EMPTY, k.one, &e) < 0) {
        rpc_fail(c, &e);
        return;
    }
    struct role *r = role_find(c->v->auth, k.one);
    if (!r) {
        no_role(c);
        return;
    }
    struct buf b;
    ok_header(c, &b);
    for (size_t i = 0; i < r->n; i++) {
        enc_perm(&b, 2, &r->perms[i]);
    }
    rpc_reply(c, &b);
}

void auth_role_delete(struct rpc *c, struct span m) {
    struct args k;
    struct auth_change *g = change_args(c, m, &k, auth_role_delete);
    if (!g) {
        return;
    }
    struct auth *a = g->a;
    struct role *r = role_find(a, k.one);
    if (a->enabled && span_eq(k.one, root_name)) {
        bad_management(c);
    } else if (!r) {
        no_role(c);
    } else {
        for (size_t i = 0; i < a->n_users; i++) {
            if (user_drop_role(a->users[i], k.one)) {
                user_save(g, a->users[i]);
            }
        }
        role_remove(g, r);
        a->rev++;
        commit(c, g);
    }
}

static bool is_range(const struct perm *p) {
    return p->key.n &&
           (!p->end.n || span_cmp(p->key, p->end) < 0 || (p->end.n == 1 && !p->end.p[0]));
}

void auth_role_grant(struct rpc *c, struct span m) {
    struct args k;
    struct perm p = {0};
    struct auth_change *g = change_args(c, m, &k, auth_role_grant);
    if (!g) {
        return;
    }
    struct auth *a = g->a;
    struct role *r = role_find(a, k.one);
    if (!k.two.p) {
        rpc_status(c, 3, "etcdserver: permission not given");
    } else if (dec_perm(k.two, &p) < 0) {
        rpc_status(c, 3, "malformed message");
    } else if (!is_range(&p)) {
        bad_management(c);
    } else if (!r) {
        no_role(c);
    } else if (r->n >= LIM_PERMS) {
        rpc_status(c, 8, "etcdserver: too many permissions");
    } else {
        role_grant(r, p);
        p.own = NULL;
        commit_role(c, g, r);
    }
    perm_fini(&p);
}

void auth_role_revoke(struct rpc *c, struct span m) {
    struct args k;
    struct auth_change *g = change_args(c, m, &k, auth_role_revoke);
    if (!g) {
        return;
    }
    struct auth *a = g->a;
    struct role *r = role_find(a, k.one);
    if (!r) {
        no_role(c);
    } else if (!role_revoke(r, k.two, k.three)) {
        rpc_status(c, 9, "etcdserver: permission is not granted to the role");
    } else {
        commit_role(c, g, r);
    }
}
