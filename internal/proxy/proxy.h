/* proxy — makes Services reachable from a node: cluster IPs and node ports to endpoints, by the kernel's nftables.
 *
 * What:     watches Services, EndpointSlices and Nodes; keeps one nftables table in line (through `nft -f -`, one
 *           transaction for each change); routes to the pod networks of nodes on the same link.
 * Owns:     the table "kfarm-proxy" of both IP families' `ip` table space, and routes it made.
 * Limits:   LIM_PROXY_RULES bytes of rules.
 * Errors:   what the kernel refuses is logged and tried again with the next change or after a pause; never fatal.
 * Threads:  the loop's. Changes within PROXY_BATCH_MS are applied together.
 * Time:     the loop's.
 * Spec:     Kubernetes Services: clusterIP, nodePort, externalIPs, loadBalancer ingress IPs, sessionAffinity ClientIP,
 *           internal/externalTrafficPolicy Local; IPv4.
 */
#ifndef KF_PROXY_H
#define KF_PROXY_H

#include "internal/kclient/kclient.h"
#include "internal/loop/loop.h"

enum { LIM_PROXY_RULES = 32 << 20, PROXY_BATCH_MS = 100 };

struct proxy;
struct proxy_opts {
    struct loop *loop;
    struct kclient *client;
    const char *node_name, *node_ip;
    const char *cluster_cidr; /* pod addresses: what leaves it for elsewhere is masqueraded; "" the node's own podCIDR */
    const char *nft_path;     /* NULL: /usr/sbin/nft */
    bool no_routes;           /* leave routes between nodes to somebody else */
};
NODISCARD int proxy_new(const struct proxy_opts *o, struct proxy **ret, struct err *e);
void proxy_free(struct proxy *p);

/* The rules for this state of the cluster, for tests and for `kfarm proxy --dry-run`: arrays of API objects. */
struct proxy_input {
    const struct json *const *services, *const *slices;
    size_t n_services, n_slices;
    const char *node_name, *node_ip, *pod_cidr, *cluster_cidr;
};
NODISCARD int proxy_rules(const struct proxy_input *in, struct buf *ret);

#endif
