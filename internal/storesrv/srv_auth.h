/* Private to storesrv: users, roles and what they may do. */
#ifndef KF_STORESRV_AUTH_H
#define KF_STORESRV_AUTH_H

#include "internal/storesrv/srv_int.h"

enum perm_type { PERM_READ, PERM_WRITE, PERM_READWRITE };

struct perm {
    enum perm_type type;
    struct span key, end; /* own memory, one allocation at key.p */
    uint8_t *own;
};
struct role {
    char *name;
    struct perm *perms;
    size_t n;
};
struct user {
    char *name, *hash; /* hash: bcrypt */
    char **roles;
    size_t n;
    bool no_password;
};
struct token {
    char *text;
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
    struct token *tokens;
    size_t n_tokens;
    uint64_t next_token;
};

NODISCARD int auth_load(struct storesrv *v, struct err *e);
void auth_free(struct auth *a);

#endif
