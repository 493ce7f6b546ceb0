/* farm — the controllers of the admin cluster that turn Tenants into running clusters.
 *
 * What:     for each Tenant: key set, port, control-plane Deployment, kubeconfig Secret, Machines, status; in each tenant's
 *           cluster: labels and taints of the nodes' tags. Removal in the reverse order, held by a finalizer.
 * Owns:     its informers, queue, and one client per running tenant.
 * Limits:   tenants as many as ports; 1,000 nodes a tenant are watched.
 * Errors:   shown as conditions and events on the Tenant; the loop ends only when a channel of the host closes.
 * Threads:  the loop's. Level-driven: one step a pass, each step looks at what is and does the next thing missing.
 * Time:     the wall clock: stamps, the age of certificates.
 * Spec:     docs/concepts.md; Secret and Machine follow the Cluster API contract.
 */
#ifndef KF_FARM_H
#define KF_FARM_H

#include "internal/kclient/kclient.h"
#include "internal/keyclient/keyclient.h"
#include "internal/superclient/superclient.h"

struct farm;
struct farm_opts {
    struct kclient *admin;    /* borrowed */
    struct keyclient *keys;   /* borrowed */
    struct superclient *super; /* borrowed */
    const char *run_dir;      /* <run_dir>/<uid>/api.sock are the tenants' API servers */
    const char *host;         /* in endpoints, unless the Tenant names one */
    const char *node_name;    /* where control planes run */
    uint16_t port_first, port_last;
};
NODISCARD int farm_new(struct loop *l, const struct farm_opts *o, struct farm **ret, struct err *e);
void farm_free(struct farm *f);

#endif
