#include "cmd/node_role.h"

#include "internal/log/log.h"
#include "internal/proxy/proxy.h"

int cmd_proxy(struct cmdctx *c, struct err *e);

static void on_signal(struct node_role *n, int signo) {
    struct err e = ERR_INIT;
    if (signo != SIGHUP) {
        loop_stop(n->l);
    } else if (node_role_identity(n, &e) < 0) {
        LOG_WARN("proxy", "certificate not reloaded, continuing with the old one", F_ERR(&e));
    }
}

int cmd_proxy(struct cmdctx *c, struct err *e) {
    struct node_role role = NODE_ROLE_INIT;
    const char *ip = "", *cidr = "", *nft = "/usr/sbin/nft";
    bool routes = true;
    struct proxy *proxy = NULL;
    const struct opt options[] = {
        NODE_ROLE_OPTIONS(role, "ca.crt, client.crt and client.key"),
        {"node-ip", OPT_STR, &ip, "ADDR", "address of the node"},
        {"cluster-cidr", OPT_STR, &cidr, "CIDR",
         "pod addresses of the cluster; traffic that leaves them is masqueraded"},
        {"routes", OPT_BOOL, &routes, NULL, "route to the pod networks of the other nodes"},
        {"nft", OPT_STR, &nft, "PATH", "the program nft"},
        {NULL, OPT_STR, NULL, NULL, NULL},
    };
    int rc = opt_parse(c, options, NULL, NULL, e);
    if (rc < 0) {
        return rc;
    }
    role.on_signal = on_signal;
    rc = node_role_start(&role, "proxy", "kube-proxy", e);
    if (rc == 0) {
        const struct proxy_opts o = {.loop = role.l,
                                     .client = role.client,
                                     .node_name = role.node,
                                     .node_ip = ip,
                                     .cluster_cidr = cidr,
                                     .nft_path = nft,
                                     .no_routes = !routes};
        rc = proxy_new(&o, &proxy, e);
    }
    rc = rc < 0 ? rc : loop_run(role.l, e);
    proxy_free(proxy);
    node_role_stop(&role);
    return rc;
}
