/* hostlet — the native runtime of hosts: containers of pods are role processes that the supervisor runs.
 *
 * What:     a kubelet_runtime_ops table (internal/kubelet) without images and sandboxes of its own. Image "kfarm" runs
 *           `args[0]` as a role of the Tenant that the pod's label kfarm.dev/tenant names; everything else is refused.
 * Owns:     its list of containers and the log pipes; the processes belong to the supervisor and survive a restart of this
 *           role, which then adopts them.
 * Limits:   1,024 containers; log lines 16 KiB.
 * Errors:   UNSUPPORTED (other images, exec), FORBIDDEN, NOT_FOUND (no such Tenant), and the supervisor's.
 * Threads:  the loop's.
 * Time:     the loop's; the wall clock for stamps of containers and log lines.
 * Rule:     scope, port and server names come from the Tenant object, never from the pod: who may create pods in a
 *           namespace can run nothing but the tenants of that namespace.
 */
#ifndef KF_HOSTLET_H
#define KF_HOSTLET_H

#include "internal/kclient/kclient.h"
#include "internal/superclient/superclient.h"

struct hostlet;
struct kubelet_runtime_ops; /* internal/kubelet/kubelet.h */

struct hostlet_opts {
    struct kclient *client; /* borrowed */
    int own_super_fd;
    const char *log_dir; /* <log_dir>/<ns>_<pod>_<uid>/<container>/<attempt>.log */
    void (*changed)(void *ctx);
    void *ctx;
};
NODISCARD int hostlet_new(struct loop *l, const struct hostlet_opts *o, struct hostlet **ret, struct err *e);
void hostlet_free(struct hostlet *h);
extern const struct kubelet_runtime_ops hostlet_ops; /* rt: a struct hostlet * */

#endif
