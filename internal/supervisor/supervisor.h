/* supervisor — `kfarm server`: starts, sandboxes, restarts and stops every role process of a host.
 *
 * What:     lays out the data directory, starts keyd, front, the admin cluster's API server, controllers, farm, hostlet and
 *           netboot, and on hostlet's request the control planes of tenants; writes the admin kubeconfig.
 * Owns:     the children, the listeners and socket pairs that outlive a crashed child (so that a restart refuses no
 *           connection), uids of tenants.
 * Limits:   1,500 processes, 8 front addresses. Restart back-off 50 ms doubling to 10 s, reset after 30 s of life.
 * Errors:   at start FORBIDDEN (not root), IO (port taken, unwritable directory), UNSUPPORTED (old kernel), INVALID.
 * Threads:  one; parses no bytes from the network.
 * Time:     monotonic for back-off; wall clock only for certificates.
 */
#ifndef KF_SUPERVISOR_H
#define KF_SUPERVISOR_H

#include "internal/loop/loop.h"

enum { SUPER_BINDS = 8, SUPER_SANS = 48 };

struct supervisor_opts {
    const char *data_dir, *run_dir, *kubeconfig, *log_level;
    mode_t kubeconfig_mode;
    const char *bind[SUPER_BINDS]; /* none: every address */
    size_t n_bind;
    uint16_t port;         /* front; 0: 6443 */
    uint16_t kubelet_port; /* of the host's log server */
    const char *node_ip, *node_name;
    const char *advertise_host; /* host in kubeconfigs; NULL: node_ip */
    const char *tls_sans[SUPER_SANS];
    size_t n_tls_sans;
    const char *service_cidr, *cluster_cidr, *cluster_domain;
    bool no_netboot, no_front;
    const char *netboot_args[16];
    size_t n_netboot_args;
    uint16_t tenant_port_first, tenant_port_last;
};

/* Runs until SIGTERM or SIGINT; all children are stopped before it returns. */
NODISCARD int supervisor_run(const struct supervisor_opts *o, struct err *e);

#endif
