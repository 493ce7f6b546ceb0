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

/* ---- srv_auth.c: changes are in memory at once; _save and _remove store them, in order ---- */
NODISCARD int auth_load(struct storesrv *v, struct err *e);
void auth_free(struct auth *a);

struct user *user_find(const struct auth *a, struct span name);
struct user *user_new(struct auth *a, struct span name);
void user_save(struct storesrv *v, const struct user *u);
void user_remove(struct storesrv *v, struct user *u); /* its tokens are dropped before */
bool user_has(const struct user *u, struct span role);
void user_add_role(struct user *u, struct span role);
bool user_drop_role(struct user *u, struct span role); /* false: it had none */

struct role *role_find(const struct auth *a, struct span name);
struct role *role_new(struct auth *a, struct span name); /* earlier role pointers end */
void role_save(struct storesrv *v, const struct role *r);
void role_remove(struct storesrv *v, struct role *r);
void role_grant(struct role *r, struct perm own_p);
bool role_revoke(struct role *r, struct span key, struct span end); /* false: it had none */

void enc_perm(struct buf *b, uint32_t no, const struct perm *p);
NODISCARD int dec_perm(struct span m, struct perm *ret);
void perm_fini(struct perm *p);

char *token_new(struct storesrv *v, struct user *u); /* heap; NULL: too many */
struct user *token_user(struct storesrv *v, struct span text); /* NULL: unknown or ended */
void tokens_drop(struct auth *a, const struct user *u);        /* NULL: all */

/* ---- srv_perm.c; more in srv_int.h ---- */
/* The user of this name, or one with this role (.p NULL: does not count), or an administrator. */
NODISCARD int auth_self(struct rpc *c, struct span user, struct span role, struct err *e);

#endif
