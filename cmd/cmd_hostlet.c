#include "cmd/role.h"

#include "internal/base/rand.h"
#include "internal/hostlet/hostlet.h"
#include "internal/kubelet/kubelet.h"
#include "internal/log/log.h"
#include "internal/sys/sys.h"

int cmd_hostlet(struct cmdctx *c, struct err *e);

struct flags {
    const char *unix_path, *root, *logs, *node, *ip;
    int64_t port;
    int keyd_fd, super_fd, ready_fd;
};

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

/* Only control planes tolerate a host. */
static void mark(struct json_doc *d, struct json *labels, struct json *taints) {
    struct json *taint = json_new_obj(d);
    json_set_str(d, labels, "kfarm.dev/host", "true");
    json_set_str(d, taint, "key", "kfarm.dev/host");
    json_set_str(d, taint, "effect", "NoSchedule");
    json_push(taints, taint);
}

static int serve(struct host *h, const struct flags *f, struct err *e) {
    AUTO_FREE char *cn = str_fmt("system:node:%s", f->node);
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *labels = json_new_obj(d), *taints = json_new_arr(d);
    struct tls_config *server_tls = NULL;
    struct key_identity cert;
    mark(d, labels, taints);
    h->id.sans[h->id.n_sans++] = f->node;
    h->id.sans[h->id.n_sans++] = f->ip;
    int rc = role_identify(&h->r, &h->id, f->keyd_fd, "admin", cn, "system:nodes", f->unix_path,
                           &cert, e);
    if (rc == 0 && f->port) {
        rc = tls_server_config_new(&server_tls, buf_view(&cert.cert_pem), buf_view(&cert.key_pem),
                                   buf_view(&cert.ca_pem), TLS_CLIENT_REQUIRED, e);
        h->id.server_tls = server_tls;
    }
    if (rc == 0) {
        const char *ips[] = {f->ip};
        struct kubelet_opts ko = {.loop = h->r.l,
                                  .client = h->id.client,
                                  .ops = &hostlet_ops,
                                  .node_name = f->node,
                                  .root_dir = f->root,
                                  .log_dir = f->logs,
                                  .ips = ips,
                                  .n_ips = 1,
                                  .labels = labels,
                                  .taints = taints,
                                  .provider_id = "",
                                  .cluster_dns = "",
                                  .cluster_domain = "",
                                  .backoff_min_ns = 100 * NS_PER_MS,
                                  .backoff_max_ns = 10 * NS_PER_S,
                                  .backoff_reset_ns = 30 * NS_PER_S,
                                  .max_pods = 1100,
                                  .no_service_env = true,
                                  .port = (uint16_t)f->port,
                                  .server_tls = server_tls};
        const struct hostlet_opts ho = {h->id.client, f->super_fd, f->logs, changed, h};
        rc = run(h, &ko, &ho, f->ready_fd, e);
    }
    key_identity_fini(&cert);
    tls_config_unref(server_tls);
    role_identity_fini(&h->id);
    kubelet_free(h->kubelet);
    return rc;
}

int cmd_hostlet(struct cmdctx *c, struct err *e) {
    int64_t keyd = -1, super = -1, ready = -1;
    const char *level = "info";
    struct flags f = {.unix_path = "", .root = "", .logs = "", .node = "", .ip = ""};
    const struct opt opts[] = {
        {"keyd-fd", OPT_I64, &keyd, "N", "channel to keyd"},
        {"super-fd", OPT_I64, &super, "N", "channel to the supervisor"},
        {"ready-fd", OPT_I64, &ready, "N", "readiness pipe"},
        {"unix", OPT_STR, &f.unix_path, "PATH", "socket of the admin API server"},
        {"root-dir", OPT_STR, &f.root, "DIR", "volumes of pods"},
        {"log-dir", OPT_STR, &f.logs, "DIR", "logs of pods"},
        {"node-name", OPT_STR, &f.node, "NAME", "name of this host's Node"},
        {"node-ip", OPT_STR, &f.ip, "IP", "address of this host"},
        {"port", OPT_I64, &f.port, "PORT", "log server; 0: none"},
        {"log-level", OPT_STR, &level, "LEVEL", "debug, info, warn or error"},
        {NULL, OPT_STR, NULL, NULL, NULL},
    };
    struct host h = {0};
    int rc;
    if ((rc = opt_parse(c, opts, NULL, NULL, e)) < 0 ||
        (rc = role_fd(keyd, "keyd-fd", &f.keyd_fd, e)) < 0 ||
        (rc = role_fd(super, "super-fd", &f.super_fd, e)) < 0 ||
        (rc = role_fd(ready, "ready-fd", &f.ready_fd, e)) < 0) {
        return rc;
    }
    if (f.keyd_fd < 0 || f.super_fd < 0) {
        return err_set(e, ERR_USAGE,
                       "--keyd-fd and --super-fd are needed: this role is started by kfarm server");
    }
    unsigned allow = SYS_ALLOW_BASE | SYS_ALLOW_FILES | SYS_ALLOW_CONNECT | SYS_ALLOW_LISTEN;
    if ((rc = role_enter(&h.r, "hostlet", level, allow, e)) < 0) {
        return rc;
    }
    rc = serve(&h, &f, e);
    role_leave(&h.r);
    return rc;
}
