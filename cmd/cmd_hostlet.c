#include "cmd/role.h"

#include "internal/hostlet/hostlet.h"
#include "internal/kubelet/kubelet.h"
#include "internal/log/log.h"
#include "internal/sys/sys.h"

int cmd_hostlet(struct cmdctx *c, struct err *e);

struct host {
    struct role r;
    struct role_identity id;
    struct kubelet *kubelet;
    struct hostlet *native;
};

static void changed(void *ctx) {
    struct host *h = ctx;
    if (h->kubelet) {
        kubelet_runtime_changed(h->kubelet);
    }
}

static int run(struct host *h, struct kubelet_opts *ko, const struct hostlet_opts *ho, int ready,
               struct err *e) {
    int rc = hostlet_new(h->r.l, ho, &h->native, e);
    if (rc < 0) {
        return rc;
    }
    ko->rt = h->native;
    if ((rc = kubelet_new(ko, &h->kubelet, e)) == 0) {
        role_ready(ready);
        rc = loop_run(h->r.l, e);
    }
    kubelet_stop(h->kubelet);
    hostlet_free(h->native);
    h->native = NULL;
    return rc;
}

int cmd_hostlet(struct cmdctx *c, struct err *e) {
    int64_t keyd_n = -1, super_n = -1, ready_n = -1, port = 0;
    const char *unix_path = "", *root = "", *logs = "", *node = "", *ip = "", *level = "info";
    const struct opt opts[] = {
        {"keyd-fd", OPT_I64, &keyd_n, "N", "channel to keyd"},
        {"super-fd", OPT_I64, &super_n, "N", "channel to the supervisor"},
        {"ready-fd", OPT_I64, &ready_n, "N", "readiness pipe"},
        {"unix", OPT_STR, &unix_path, "PATH", "socket of the admin API server"},
        {"root-dir", OPT_STR, &root, "DIR", "volumes of pods"},
        {"log-dir", OPT_STR, &logs, "DIR", "logs of pods"},
        {"node-name", OPT_STR, &node, "NAME", "name of this host's Node"},
        {"node-ip", OPT_STR, &ip, "IP", "address of this host"},
        {"port", OPT_I64, &port, "PORT", "log server; 0: none"},
        {"log-level", OPT_STR, &level, "LEVEL", "debug, info, warn or error"},
        {NULL, OPT_STR, NULL, NULL, NULL},
    };
    int keyd_fd, super_fd, ready, rc;
    struct host h = {0};
    struct key_identity cert;
    if ((rc = opt_parse(c, opts, NULL, NULL, e)) < 0 ||
        (rc = role_fd(keyd_n, "keyd-fd", &keyd_fd, e)) < 0 ||
        (rc = role_fd(super_n, "super-fd", &super_fd, e)) < 0 ||
        (rc = role_fd(ready_n, "ready-fd", &ready, e)) < 0) {
        return rc;
    }
    if (keyd_fd < 0 || super_fd < 0) {
        return err_set(e, ERR_USAGE,
                       "--keyd-fd and --super-fd are needed: this role is started by kfarm server");
    }
    unsigned allow = SYS_ALLOW_BASE | SYS_ALLOW_FILES | SYS_ALLOW_CONNECT | SYS_ALLOW_LISTEN;
    if ((rc = role_enter(&h.r, "hostlet", level, allow, e)) < 0) {
        return rc;
    }
    AUTO_FREE char *cn = str_fmt("system:node:%s", node);
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *labels = json_new_obj(d), *taints = json_new_arr(d), *taint = json_new_obj(d);
    json_set_str(d, labels, "kfarm.dev/host", "true");
    json_set_str(d, taint, "key", "kfarm.dev/host"); /* only control planes tolerate it */
    json_set_str(d, taint, "effect", "NoSchedule");
    json_push(taints, taint);
    struct tls_config *server_tls = NULL;
    h.id.sans[h.id.n_sans++] = node;
    h.id.sans[h.id.n_sans++] = ip;
    rc = role_identify(&h.r, &h.id, keyd_fd, "admin", cn, "system:nodes", unix_path, &cert, e);
    if (rc == 0 && port) {
        rc = tls_server_config_new(&server_tls, buf_view(&cert.cert_pem), buf_view(&cert.key_pem),
                                   buf_view(&cert.ca_pem), TLS_CLIENT_REQUIRED, e);
        h.id.server_tls = server_tls;
    }
    if (rc == 0) {
        const char *ips[] = {ip};
        struct kubelet_opts ko = {.loop = h.r.l,
                                  .client = h.id.client,
                                  .ops = &hostlet_ops,
                                  .node_name = node,
                                  .root_dir = root,
                                  .log_dir = logs,
                                  .ips = ips,
                                  .n_ips = 1,
                                  .labels = labels,
                                  .taints = taints,
                                  .provider_id = "",
                                  .cluster_dns = "",
                                  .cluster_domain = "",
                                  .backoff_min_ns = 100 * 1000000ull,
                                  .backoff_max_ns = 10 * 1000000000ull,
                                  .backoff_reset_ns = 30 * 1000000000ull,
                                  .max_pods = 1100,
                                  .no_service_env = true,
                                  .port = (uint16_t)port,
                                  .server_tls = server_tls};
        const struct hostlet_opts ho = {h.id.client, super_fd, logs, changed, &h};
        rc = run(&h, &ko, &ho, ready, e);
    }
    key_identity_fini(&cert);
    tls_config_unref(server_tls);
    role_identity_fini(&h.id);
    kubelet_free(h.kubelet);
    role_leave(&h.r);
    return rc;
}
