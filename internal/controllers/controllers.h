/* controllers — the controller-manager's loops: what makes the objects of a Kubernetes API come true.
 *
 * What:     namespaces, service accounts, root CA, garbage collection, workloads, endpoints, node lifecycle and IPAM, pod GC,
 *           certificate requests, bootstrap tokens, quotas, disruption budgets, role aggregation, finished jobs.
 * Owns:     its queues and indexes; the informers belong to the factory given, which the scheduler shares.
 * Limits:   requests through kclient's; per controller as noted beside its code.
 * Errors:   what fails is tried again with back-off; a misconfiguration is refused at start (USAGE).
 * Threads:  the loop's.
 * Time:     the loop's for delays; the wall clock for stamps, schedules and what is to end at a date.
 * Spec:     behaviour of kube-controller-manager 1.36 as far as its results can be seen through the API.
 */
#ifndef KF_CONTROLLERS_H
#define KF_CONTROLLERS_H

#include "internal/kclient/kclient.h"
#include "internal/keyclient/keyclient.h"

struct controllers_opts {
    struct kfactory *f;
    /* "*" all that are on by default, "foo" also foo, "-foo" not foo; upstream's names and their old short ones. */
    const char *const *enabled;
    size_t n_enabled;
    const char *service_cluster_ip_range; /* excluded from pod ranges; NULL: none */
    const char *cluster_cidr;             /* one IPv4, one IPv6, or both with a comma; NULL: none */
    bool allocate_node_cidrs;
    unsigned node_cidr_mask_v4, node_cidr_mask_v6; /* 0: 24 and 64 */
    uint64_t node_monitor_grace_s;                 /* 0: 40 */
    unsigned terminated_pod_threshold;             /* 0: 12500 */
    struct span root_ca_pem;                       /* what kube-root-ca.crt holds; copied */
    /* Who signs certificates: keyd, or a CA in memory (copied; wiped at the end), or nobody. */
    struct keyclient *keyd;
    const char *keyd_scope;
    struct span ca_cert_pem, ca_key_pem;
    uint64_t cert_ttl_s;    /* 0: a year */
    const char *server_url; /* in kube-public/cluster-info; NULL: the endpoint of the Service kubernetes */
};

struct controllers;
NODISCARD int controllers_check(const struct controllers_opts *o, struct err *e); /* as controllers_start would */
NODISCARD int controllers_start(const struct controllers_opts *o, struct controllers **ret, struct err *e);
/* Is the name one of ours (long or short)? */
bool controllers_known(const char *name);
/* Would `name` run with this list? Also for "scheduler". */
bool controllers_is_enabled(const char *const *enabled, size_t n, const char *name);

#endif
