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
    if (rc < 0) {
        struct err mine = ERR_INIT;
        IGNORE_ERR(auth_load(c->v, &mine),
                   "what is in memory must be what is stored; the caller hears of the first error");
    }
    if (rpc_open(c) && rc < 0) {
        rpc_fail(c, e);
    } else if (rpc_open(c)) {
        reply_ok(c);
    }
    rpc_unref(c);
}

/* The last writes of a change, whose completion answers. */
static void commit(struct rpc *c) {
    struct auth *a = c->v->auth;
    uint8_t on = a->enabled;
    AUTO(buf) struct buf rev = BUF_INIT(8);
    buf_be64(&rev, a->rev);
    store_aux_put(c->v->st, SPAN_LIT("auth"), SPAN_LIT("authEnabled"), span_of(&on, 1), NULL, NULL);
    store_aux_put(c->v->st, SPAN_LIT("auth"), SPAN_LIT("authRevision"), buf_view(&rev), changed,
                  rpc_ref(c));
}

static void commit_user(struct rpc *c, const struct user *u) {
    user_save(c->v, u);
    c->v->auth->rev++;
    commit(c);
}

static void commit_role(struct rpc *c, const struct role *r) {
    role_save(c->v, r);
    c->v->auth->rev++;
    commit(c);
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
    struct auth *a = c->v->auth;
    if (!admin_args(c, m, &k)) {
        return;
    }
    struct user *root = user_find(a, root_name);
    if (a->enabled) {
        reply_ok(c);
    } else if (!root) {
        rpc_status(c, 9, "etcdserver: root user does not exist");
    } else if (!user_has(root, root_name)) {
        rpc_status(c, 9, "etcdserver: root user does not have root role");
    } else {
        a->enabled = true;
        tokens_drop(a, NULL);
        commit(c); /* the revision stays */
    }
}

void auth_disable(struct rpc *c, struct span m) {
    struct args k;
    struct auth *a = c->v->auth;
    if (!admin_args(c, m, &k)) {
        return;
    }
    if (!a->enabled) {
        reply_ok(c);
        return;
    }
    a->enabled = false;
    a->rev++;
    tokens_drop(a, NULL);
    commit(c);
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
    if (!j->ok || !u || u->no_password) {
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
    struct auth *a = j->c->v->auth;
    struct user *u = user_find(a, span_str(j->name));
    if (!j->ok) {
        rpc_status(j->c, 13, "etcdserver: the password cannot be hashed");
        return;
    }
    if (j->is_add != !u) { /* somebody was faster */
        rpc_status(j->c, 9,
                   u ? "etcdserver: user name already exists" : "etcdserver: user name not found");
        return;
    }
    if (!u) {
        u = user_new(a, span_str(j->name));
    }
    free(u->hash);
    u->hash = TAKE(j->hash);
    tokens_drop(a, u);
    commit_user(j->c, u);
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
        struct user *u = user_new(a, k.one);
        u->no_password = true;
        commit_user(c, u);
    } else {
        pass_start(c, k.one, k.two, NULL, true, user_hashed);
    }
}

void auth_user_password(struct rpc *c, struct span m) {
    struct args k;
    if (!admin_args(c, m, &k)) {
        return;
    }
    struct user *u = user_find(c->v->auth, k.one);
    if (!u) {
        no_user(c);
    } else if (u->no_password) { /* it stays without one */
        tokens_drop(c->v->auth, u);
        commit_user(c, u);
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
    struct auth *a = c->v->auth;
    if (!admin_args(c, m, &k)) {
        return;
    }
    struct user *u = user_find(a, k.one);
    if (a->enabled && span_eq(k.one, root_name)) {
        bad_management(c);
    } else if (!u) {
        no_user(c);
    } else {
        tokens_drop(a, u);
        user_remove(c->v, u);
        a->rev++;
        commit(c);
    }
}

void auth_user_grant(struct rpc *c, struct span m) {
    struct args k;
    struct auth *a = c->v->auth;
    if (!admin_args(c, m, &k)) {
        return;
    }
    struct user *u = user_find(a, k.one);
    if (!u) {
        no_user(c);
    } else if (!role_find(a, k.two) && !span_eq(k.two, root_name)) {
        no_role(c);
    } else if (user_has(u, k.two)) {
        reply_ok(c);
    } else {
        user_add_role(u, k.two);
        commit_user(c, u);
    }
}

void auth_user_revoke(struct rpc *c, struct span m) {
    struct args k;
    struct auth *a = c->v->auth;
    if (!admin_args(c, m, &k)) {
        return;
    }
    struct user *u = user_find(a, k.one);
    if (a->enabled && span_eq(k.one, root_name) && span_eq(k.two, root_name)) {
        bad_management(c);
    } else if (!u) {
        no_user(c);
    } else if (!user_drop_role(u, k.two)) {
        rpc_status(c, 9, "etcdserver: role is not granted to the user");
    } else {
        commit_user(c, u);
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
    struct auth *a = c->v->auth;
    if (!admin_args(c, m, &k)) {
        return;
    }
    if (!k.one.n) {
        rpc_status(c, 3, "etcdserver: role name is empty");
    } else if (role_find(a, k.one)) {
        rpc_status(c, 9, "etcdserver: role name already exists");
    } else if (a->n_roles >= LIM_ROLES) {
        rpc_status(c, 8, "etcdserver: too many roles");
    } else {
        commit_role(c, role_new(a, k.one));
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
    struct auth *a = c->v->auth;
    if (!admin_args(c, m, &k)) {
        return;
    }
    struct role *r = role_find(a, k.one);
    if (a->enabled && span_eq(k.one, root_name)) {
        bad_management(c);
    } else if (!r) {
        no_role(c);
    } else {
        for (size_t i = 0; i < a->n_users; i++) {
            if (user_drop_role(a->users[i], k.one)) {
                user_save(c->v, a->users[i]);
            }
        }
        role_remove(c->v, r);
        a->rev++;
        commit(c);
    }
}

static bool is_range(const struct perm *p) {
    return p->key.n &&
           (!p->end.n || span_cmp(p->key, p->end) < 0 || (p->end.n == 1 && !p->end.p[0]));
}

void auth_role_grant(struct rpc *c, struct span m) {
    struct args k;
    struct perm p = {0};
    if (!admin_args(c, m, &k)) {
        return;
    }
    struct role *r = role_find(c->v->auth, k.one);
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
        commit_role(c, r);
    }
    perm_fini(&p);
}

void auth_role_revoke(struct rpc *c, struct span m) {
    struct args k;
    if (!admin_args(c, m, &k)) {
        return;
    }
    struct role *r = role_find(c->v->auth, k.one);
    if (!r) {
        no_role(c);
    } else if (!role_revoke(r, k.two, k.three)) {
        rpc_status(c, 9, "etcdserver: permission is not granted to the role");
    } else {
        commit_role(c, r);
    }
}
