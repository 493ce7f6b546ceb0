/* Users, roles and permissions: kept beside the keys in etcd's encoding, so that they travel in snapshots. Tokens live in
 * memory. */
#include "internal/storesrv/srv_auth.h"

#include "internal/base/rand.h"

#include <stdlib.h>

/* ---- memory ---- */

void perm_fini(struct perm *p) {
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

/* An array with room for one more element. */
static void *one_more(void *v, size_t n, size_t size) {
    void *p = mem_array(v, n + 1, size, 1u << 20);
    CHECK(p);
    return p;
}

/* ---- users and roles ---- */

struct user *user_find(const struct auth *a, struct span name) {
    for (size_t i = 0; i < a->n_users; i++) {
        if (span_eq_str(name, a->users[i]->name)) {
            return a->users[i];
        }
    }
    return NULL;
}

struct user *user_new(struct auth *a, struct span name) {
    struct user *u = new_zero(struct user);
    u->name = str_dupn(name.p, name.n);
    u->hash = str_dup("");
    a->users = one_more(a->users, a->n_users, sizeof(*a->users));
    a->users[a->n_users++] = u;
    return u;
}

bool user_has(const struct user *u, struct span role) {
    for (size_t i = 0; i < u->n; i++) {
        if (span_eq_str(role, u->roles[i])) {
            return true;
        }
    }
    return false;
}

void user_add_role(struct user *u, struct span role) {
    size_t at = u->n;
    u->roles = one_more(u->roles, u->n, sizeof(*u->roles));
    while (at && span_cmp(role, span_str(u->roles[at - 1])) < 0) { /* sorted, as etcd keeps them */
        u->roles[at] = u->roles[at - 1];
        at--;
    }
    u->roles[at] = str_dupn(role.p, role.n);
    u->n++;
}

bool user_drop_role(struct user *u, struct span role) {
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

struct role *role_find(const struct auth *a, struct span name) {
    for (size_t i = 0; i < a->n_roles; i++) {
        if (span_eq_str(name, a->roles[i].name)) {
            return &a->roles[i];
        }
    }
    return NULL;
}

struct role *role_new(struct auth *a, struct span name) {
    a->roles = one_more(a->roles, a->n_roles, sizeof(*a->roles));
    struct role *r = &a->roles[a->n_roles++];
    *r = (struct role){.name = str_dupn(name.p, name.n)};
    return r;
}

static int by_key(const void *pa, const void *pb) {
    const struct perm *a = pa, *b = pb;
    int c = span_cmp(a->key, b->key);
    return c ? c : span_cmp(a->end, b->end);
}

void role_grant(struct role *r, struct perm own_p) {
    for (size_t i = 0; i < r->n; i++) {
        if (span_eq(r->perms[i].key, own_p.key) && span_eq(r->perms[i].end, own_p.end)) {
            r->perms[i].type = own_p.type;
            perm_fini(&own_p);
            return;
        }
    }
    r->perms = one_more(r->perms, r->n, sizeof(*r->perms));
    r->perms[r->n++] = own_p;
    qsort(r->perms, r->n, sizeof(*r->perms), by_key);
}

bool role_revoke(struct role *r, struct span key, struct span end) {
    for (size_t i = 0; i < r->n; i++) {
        if (span_eq(r->perms[i].key, key) && span_eq(r->perms[i].end, end)) {
            perm_fini(&r->perms[i]);
            memmove(&r->perms[i], &r->perms[i + 1], (r->n - i - 1) * sizeof(*r->perms));
            r->n--;
            return true;
        }
    }
    return false;
}

static void auth_free(struct auth *a) {
    if (!a) {
        return;
    }
    struct map_iter it = {0};
    struct map_entry *me;
    while (map_next(&a->tokens, &it, &me)) {
        free(map_del(&a->tokens, span_of(me->key, me->n)));
    }
    map_fini(&a->tokens);
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

/* ---- records ---- */

void enc_perm(struct buf *b, uint32_t no, const struct perm *p) {
    size_t m = wire_begin(b, no);
    wire_u64(b, 1, p->type);
    wire_bytes(b, 2, p->key);
    wire_bytes(b, 3, p->end);
    wire_end(b, m);
}

int dec_perm(struct span m, struct perm *ret) {
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
    struct user *u = user_new(a, key);
    struct wire_field f;
    int rc;
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
    return rc < 0 ? -ERR_CORRUPT : 0;
}

static int load_role(void *ctx, struct span key, struct span value) {
    struct auth *a = ctx;
    struct wire_field f;
    int rc;
    struct role *r = role_new(a, key);
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

/* ---- changes ---- */

struct waiting {
    struct list link;
    void (*go)(void *ctx);
    void *ctx;
};

/* The users of `a` know what they become. */
static struct auth *copy(const struct auth *a) {
    struct auth *to = new_zero(struct auth);
    to->enabled = a->enabled;
    to->rev = a->rev;
    for (size_t i = 0; i < a->n_users; i++) {
        struct user *from = a->users[i], *u = user_new(to, span_str(from->name));
        free(u->hash);
        u->hash = str_dup(from->hash);
        u->no_password = from->no_password;
        for (size_t k = 0; k < from->n; k++) {
            user_add_role(u, span_str(from->roles[k]));
        }
        from->next = u;
    }
    for (size_t i = 0; i < a->n_roles; i++) {
        const struct role *from = &a->roles[i];
        struct role *r = role_new(to, span_str(from->name));
        for (size_t k = 0; k < from->n; k++) {
            const struct perm *q = &from->perms[k];
            r->perms = one_more(r->perms, r->n, sizeof(*r->perms));
            r->perms[r->n++] = perm_new(q->type, q->key, q->end);
        }
    }
    return to;
}

/* The copy is in force from here on; whose user lives on keeps his tokens. */
static void adopt(struct storesrv *v, struct auth *own_a) {
    struct auth *old = v->auth;
    struct map_iter it = {0};
    struct map_entry *me;
    while (map_next(&old->tokens, &it, &me)) {
        struct token *t = me->value;
        t->user = t->user->next;
        if (!t->user) {
            free(map_del(&old->tokens, span_of(me->key, me->n)));
        }
    }
    own_a->tokens = old->tokens;
    own_a->next_token = old->next_token;
    old->tokens = (struct map){0};
    auth_free(old);
    v->auth = own_a;
}

static void change_free(struct auth_change *g) {
    if (g) {
        auth_free(g->a);
        free(g);
    }
}

bool auth_busy(const struct storesrv *v) {
    return v->change && v->change->n_left;
}

void auth_wait(struct storesrv *v, void (*go)(void *ctx), void *ctx) {
    struct waiting *w = new_zero(struct waiting);
    *w = (struct waiting){.go = go, .ctx = ctx};
    list_add_tail(&v->changes, &w->link);
}

struct auth_change *auth_begin(struct storesrv *v) {
    CHECK(!auth_busy(v));
    change_free(v->change);
    v->change = new_zero(struct auth_change);
    *v->change = (struct auth_change){.v = v, .a = copy(v->auth)};
    return v->change;
}

static void stored(void *ctx, int rc, const struct err *e) {
    struct auth_change *g = ctx;
    struct storesrv *v = g->v;
    g->n_stored += rc == 0;
    if (rc < 0 && g->rc == 0) {
        g->rc = rc;
        g->err = *e;
    }
    if (--g->n_left) {
        return;
    }
    v->change = NULL;
    if (g->rc == 0) {
        adopt(v, TAKE(g->a));
    } else if (g->n_stored) {
        struct err mine = ERR_INIT;
        IGNORE_ERR(auth_load(v, &mine), "a part is stored; the caller hears of the first error");
    }
    if (g->done) {
        g->done(g->ctx, g->rc, g->rc < 0 ? &g->err : NULL);
    }
    change_free(g);
    while (!auth_busy(v) && !list_empty(&v->changes)) {
        struct waiting *w = CONTAINER_OF(v->changes.next, struct waiting, link);
        list_del(&w->link);
        w->go(w->ctx);
        free(w);
    }
}

static void put(struct auth_change *g, const char *bucket, struct span key, struct span value) {
    g->n_left++;
    store_aux_put(g->v->st, span_str(bucket), key, value, stored, g);
}

void auth_commit(struct auth_change *g, store_done *done, void *ctx) {
    uint8_t on = g->a->enabled;
    AUTO(buf) struct buf rev = BUF_INIT(8);
    buf_be64(&rev, g->a->rev);
    g->done = done;
    g->ctx = ctx;
    put(g, "auth", SPAN_LIT("authEnabled"), span_of(&on, 1));
    put(g, "auth", SPAN_LIT("authRevision"), buf_view(&rev));
}

void user_save(struct auth_change *g, const struct user *u) {
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
    put(g, "authUsers", span_str(u->name), buf_view(&b));
}

void role_save(struct auth_change *g, const struct role *r) {
    AUTO(buf) struct buf b = BUF_INIT(64 << 20);
    wire_bytes(&b, 1, span_str(r->name));
    for (size_t i = 0; i < r->n; i++) {
        enc_perm(&b, 2, &r->perms[i]);
    }
    put(g, "authRoles", span_str(r->name), buf_view(&b));
}

/* One record less; what pointed to the user or role is the caller's to see to. */
void user_remove(struct auth_change *g, struct user *u) {
    struct auth *a = g->a;
    put(g, "authUsers", span_str(u->name), SPAN_EMPTY);
    tokens_drop(g, u);
    for (size_t i = 0; i < a->n_users; i++) {
        if (a->users[i] == u) {
            a->users[i] = a->users[--a->n_users];
            break;
        }
    }
    user_free(u);
}

void role_remove(struct auth_change *g, struct role *r) {
    struct auth *a = g->a;
    put(g, "authRoles", span_str(r->name), SPAN_EMPTY);
    role_fini(r);
    *r = a->roles[--a->n_roles];
}

/* ---- tokens ---- */

void tokens_drop(struct auth_change *g, const struct user *u) {
    const struct auth *now = g->v->auth;
    for (size_t i = 0; i < now->n_users; i++) {
        if (!u || now->users[i]->next == u) {
            now->users[i]->next = NULL;
        }
    }
}

static void drop_ended(struct auth *a) {
    struct map_iter it = {0};
    struct map_entry *me;
    uint64_t now = clock_ns();
    while (map_next(&a->tokens, &it, &me)) {
        const struct token *t = me->value;
        if (t->until < now) {
            free(map_del(&a->tokens, span_of(me->key, me->n)));
        }
    }
}

struct user *token_user(struct storesrv *v, struct span text) {
    struct token *t = map_get(&v->auth->tokens, text);
    if (!t || t->until < clock_ns()) {
        return NULL;
    }
    t->until = clock_ns() + v->o.token_ttl_ns;
    return t->user;
}

char *token_new(struct storesrv *v, struct user *u) {
    struct auth *a = v->auth;
    if (a->tokens.n >= LIM_TOKENS) {
        drop_ended(a);
    }
    if (a->tokens.n >= LIM_TOKENS) {
        return NULL;
    }
    char *text = str_fmt("%016llx%016llx.%llu", (unsigned long long)rand_u64(),
                         (unsigned long long)rand_u64(), (unsigned long long)++a->next_token);
    struct token *t = new_zero(struct token);
    *t = (struct token){u, clock_ns() + v->o.token_ttl_ns};
    map_put_str(&a->tokens, text, t);
    return text;
}

void auth_fini(struct storesrv *v) {
    change_free(v->change);
    auth_free(v->auth);
}
