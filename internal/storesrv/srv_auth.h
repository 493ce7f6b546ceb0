/* Private to storesrv: users, roles and tokens (srv_auth.c), what they may do (srv_perm.c), the Auth service
 * (srv_auth_rpc.c). */
#ifndef KF_STORESRV_AUTH_H
#define KF_STORESRV_AUTH_H

#include "internal/storesrv/srv_int.h"

enum { LIM_TOKENS = 10000, LIM_USERS = 10000, LIM_ROLES = 10000, LIM_PERMS = 10000 };

enum perm_type { PERM_READ, PERM_WRITE, PERM_READWRITE };

struct perm {
    enum perm_type type;
    struct span key, end; /* own memory, one allocation at key.p */
    uint8_t *own;
};
struct role {
    char *name;
    struct perm *perms; /* sorted by key */
    size_t n;
};
struct user {
    char *name, *hash; /* hash: bcrypt */
    char **roles;      /* sorted */
    size_t n;
    bool no_password;
    struct user *next; /* what it becomes in the change under way; NULL: its tokens end with it */
};
struct token {
    struct user *user;
    uint64_t until;
};
struct auth {
    bool enabled;
    uint64_t rev;
    struct role *roles;
    size_t n_roles;
    struct user **users; /* tokens point to them */
    size_t n_users;
    struct map tokens; /* text → struct token */
    uint64_t next_token;
};

/* ---- srv_auth.c ---- */
NODISCARD int auth_load(struct storesrv *v, struct err *e);
void auth_fini(struct storesrv *v);

/* A change is made on a copy, which is in force once all of it is stored, and never when that fails. One at a time. */
struct auth_change {
    struct storesrv *v;
    struct auth *a; /* the copy */
    size_t n_left, n_stored;
    int rc;
    struct err err; /* the first */
    store_done *done;
    void *ctx;
};
bool auth_busy(const struct storesrv *v); /* a change is under way: */
void auth_wait(struct storesrv *v, void (*go)(void *ctx), void *ctx); /* called when none is */
struct auth_change *auth_begin(struct storesrv *v); /* what is not committed before the next is forgotten */
void auth_commit(struct auth_change *g, store_done *done, void *ctx);

struct user *user_find(const struct auth *a, struct span name);
struct user *user_new(struct auth *a, struct span name);
void user_save(struct auth_change *g, const struct user *u);
void user_remove(struct auth_change *g, struct user *u);
bool user_has(const struct user *u, struct span role);
void user_add_role(struct user *u, struct span role);
bool user_drop_role(struct user *u, struct span role); /* false: it had none */

struct role *role_find(const struct auth *a, struct span name);
struct role *role_new(struct auth *a, struct span name); /* earlier role pointers end */
void role_save(struct auth_change *g, const struct role *r);
void role_remove(struct auth_change *g, struct role *r);
void role_grant(struct role *r, struct perm own_p);
bool role_revoke(struct role *r, struct span key, struct span end); /* false: it had none */

void enc_perm(struct buf *b, uint32_t no, const struct perm *p);
NODISCARD int dec_perm(struct span m, struct perm *ret);
void perm_fini(struct perm *p);

char *token_new(struct storesrv *v, struct user *u); /* heap; NULL: too many */
struct user *token_user(struct storesrv *v, struct span text); /* NULL: unknown or ended */
void tokens_drop(struct auth_change *g, const struct user *u); /* with the change; NULL: all */

/* ---- srv_perm.c; more in srv_int.h ---- */
/* The user of this name, or one with this role (.p NULL: does not count), or an administrator. */
NODISCARD int auth_self(struct rpc *c, struct span user, struct span role, struct err *e);

#endif
