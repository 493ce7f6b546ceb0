/* role — what every role process does the same way: take its fds, stop on SIGTERM, drop system calls, run its loop. */
#ifndef KF_ROLE_H
#define KF_ROLE_H

#include "cmd/cmd.h"

#include "internal/kclient/kclient.h"
#include "internal/keyclient/keyclient.h"
#include "internal/loop/loop.h"
#include "internal/tls/tls.h"

struct role {
    struct loop *l;
    struct loop_signal sig;
    void (*on_stop)(void *ctx); /* SIGTERM/SIGINT; NULL: the loop stops */
    void *ctx;
};

/* Checks and takes an fd number given as an option (-1: not given): it becomes CLOEXEC. */
NODISCARD int role_fd(int64_t n, const char *what, int *ret_fd, struct err *e);
/* Log set up, loop made, signals blocked; then the system call list. `allow` 0: no filter. */
NODISCARD int role_enter(struct role *r, const char *name, const char *log_level, unsigned allow, struct err *e);
/* What is left once every socket is open: no capability but those of `keep_caps` (a mask), none can come back, and the
 * system call list. */
#define ROLE_CAP_DAC_OVERRIDE (1ull << 1)
NODISCARD int role_confine(unsigned allow, uint64_t keep_caps, struct err *e);
void role_leave(struct role *r);
/* "\n" on the readiness fd, then closed. -1: nothing. */
void role_ready(int own_fd);

/* An identity from keyd (component profile) and a client of the cluster's API server. The TLS configuration is kept
 * current: the certificate is replaced at half of its life. */
struct role_identity {
    struct role *role;
    struct keyclient *keys; /* asked for the next certificate */
    bool own_keys;
    struct tls_config *tls, *server_tls; /* server_tls: borrowed, gets each new certificate too; NULL: none */
    struct kclient *client;
    struct loop_timer renew;
    char *scope, *cn;
    const char *org;
    const char *sans[4];
    size_t n_sans;
};
/* With a channel of its own, for a server at a unix socket. ret_id may be NULL. */
NODISCARD int role_identify(struct role *r, struct role_identity *id, int own_keyd_fd, const char *scope, const char *cn,
                            const char *org, const char *unix_path, struct key_identity *ret_id, struct err *e);
/* One of several on a channel that is still blocking: `server`, `sni` and `user_agent` of `ko` count. Once the channel has
 * become a keyclient, it goes into id->keys. */
NODISCARD int role_identity_make(struct role *r, struct role_identity *id, int keyd_fd, const char *scope, const char *cn,
                                 const char *org, const struct kclient_opts *ko, struct key_identity *ret_id,
                                 struct err *e);
void role_identity_fini(struct role_identity *id);

#endif
