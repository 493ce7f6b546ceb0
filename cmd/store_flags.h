/* store_flags — etcd's flags of `kfarm store`: the command line, the environment (ETCD_…), or etcd's configuration file.
 *
 * A flag has its effect, or is accepted because it changes nothing for a single member, or is refused with the reason:
 * docs/store.md lists which.
 */
#ifndef KF_STORE_FLAGS_H
#define KF_STORE_FLAGS_H

#include "cmd/cmd.h"

#include "internal/storesrv/storesrv.h"

enum { STORE_FIXED_MAX = 80 };

struct store_flags {
    const char *name, *data_dir, *config_file, *log_level;
    struct opt_list client, advertise, metrics, http, ns, ns_ca;
    const char *cert, *key, *ca;
    bool cert_auth, insecure, gateway, repair;
    const char *keep_min, *keep_interval, *keep_timeout;
    int64_t quota, max_ops, max_bytes, max_streams, bcrypt_cost, token_ttl, ready_fd;
    const char *mode, *retention, *progress, *auth_token;
    bool lease_checkpoint, lease_checkpoint_persist;
    const char *lease_checkpoint_interval;
    struct opt_list gates;
    struct opt_list peer, peer_advertise, initial;
    const char *state, *tls_min, *tls_max, *metrics_kind;
    /* Flags of store_flags.c's table `fixed`: looked at only to refuse what cannot be had. */
    struct {
        const char *text;
        bool on;
        int64_t n;
    } fixed[STORE_FIXED_MAX];
    struct { /* of the above, in their units */
        struct http_keepalive keepalive;
        uint32_t lease_checkpoint_s; /* 0: none */
        struct storesrv_opts srv;
    } out;
};

/* Parses, checks and fills `out`. Positional arguments go to *ret_pos. USAGE: names the flag and what to do. */
NODISCARD int store_flags_parse(struct cmdctx *c, struct store_flags *f, struct opt_list *ret_pos,
                                struct err *e);

#endif
