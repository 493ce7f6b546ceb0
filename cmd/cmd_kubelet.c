#include "cmd/node_role.h"

#include "internal/base/rand.h"
#include "internal/json/json.h"
#include "internal/kubelet/kubelet.h"
#include "internal/log/log.h"
#include "internal/sys/sys.h"

int cmd_kubelet(struct cmdctx *c, struct err *e);

static const char *opt_tags = "";
static const char *opt_runtime = "/run/containerd/containerd.sock", *opt_root = "/var/lib/kubelet";
static const char *opt_logs = "/var/log/pods", *opt_cni = "/etc/cni/net.d", *opt_pod_cidr = "";
static const char *opt_dns = "", *opt_domain = "cluster.local", *opt_provider = "";
static struct opt_list opt_ips;
static int64_t opt_port = 10250, opt_max_pods = 110;

struct run {
    struct node_role role;
    struct tls_config *server_tls;
    struct kubelet_cri *cri;
    struct kubelet *kubelet;
    struct kubelet_opts o;
    struct loop_timer deadline;
    struct json_doc *tags;
    bool has_server;
};

static int server_identity(struct run *r, struct err *e) {
    AUTO(buf)
    struct buf ca = BUF_INIT(LIM_NODE_PEM), cert = BUF_INIT(LIM_NODE_PEM),
               key = BUF_INIT(LIM_NODE_PEM);
    int rc = node_role_file(&r->role, "ca.crt", &ca, e);
    rc = rc < 0 ? rc : node_role_file(&r->role, "serving.crt", &cert, e);
    rc = rc < 0 ? rc : node_role_file(&r->role, "serving.key", &key, e);
    if (rc == 0 && r->server_tls) {
        rc = tls_config_set_cert(r->server_tls, buf_view(&cert), buf_view(&key), e);
    } else if (rc == 0) {
        rc = tls_server_config_new(&r->server_tls, buf_view(&cert), buf_view(&key), buf_view(&ca),
                                   TLS_CLIENT_OPTIONAL, e);
    }
    secret_wipe(key.p, key.n);
    return rc;
}

static void on_cri_change(void *ctx) {
    struct run *r = ctx;
    if (r->kubelet) {
        kubelet_runtime_changed(r->kubelet);
    }
}

static void on_down(void *ctx) {
    struct run *r = ctx;
    loop_stop(r->role.l);
}

static void on_deadline(struct loop_timer *t) {
    on_down(CONTAINER_OF(t, struct run, deadline));
}

/* The serving certificate comes after the first start: the server opens with it. */
static void reload(struct run *r) {
    struct err e = ERR_INIT;
    if (node_role_identity(&r->role, &e) < 0) {
        LOG_WARN("kubelet", "client certificate not reloaded, continuing with the old one",
                 F_ERR(&e));
        err_reset(&e);
    }
    if (opt_port == 0) {
        return;
    }
    if (server_identity(r, &e) < 0) {
        LOG_WARN("kubelet", "no serving certificate yet", F_ERR(&e));
    } else if (!r->has_server) {
        err_reset(&e);
        if (kubelet_serve(r->kubelet, r->server_tls, &e) < 0) {
            LOG_ERROR("kubelet", "log server not started", F_ERR(&e));
        } else {
            r->has_server = true;
            LOG_INFO("kubelet", "log server listens", F_I64("port", opt_port));
        }
    }
}

static void on_signal(struct node_role *n, int signo) {
    struct run *r = CONTAINER_OF(n, struct run, role);
    if (signo == SIGHUP) {
        reload(r);
        return;
    }
    LOG_INFO("kubelet", "going down");
    loop_timer_start(n->l, &r->deadline, 3 * NS_PER_S, on_deadline, "going down");
    kubelet_going_down(r->kubelet, "NodeShutdown", on_down, r);
}

static int read_tags(struct run *r, struct err *e) {
    AUTO(buf) struct buf b = BUF_INIT(LIM_NODE_PEM);
    if (!*opt_tags) {
        return 0;
    }
    if (sys_file_read(AT_FDCWD, opt_tags, &b, e) < 0 ||
        json_parse(buf_view(&b), 0, &r->tags, e) < 0) {
        return err_wrap(e, "--tags=%s", opt_tags);
    }
    r->o.labels = json_get(json_root(r->tags), "labels");
    r->o.taints = json_get(json_root(r->tags), "taints");
    return 0;
}

static int setup(struct run *r, struct err *e) {
    r->role.on_signal = on_signal;
    int rc = node_role_start(&r->role, "kubelet", "kubelet", e);
    rc = rc < 0 ? rc : read_tags(r, e);
    rc = rc < 0 ? rc : kubelet_cri_new(r->role.l, opt_runtime, &r->cri, e);
    if (rc < 0) {
        return rc;
    }
    kubelet_cri_on_change(r->cri, on_cri_change, r);
    r->o.loop = r->role.l;
    r->o.client = r->role.client;
    r->o.ops = &kubelet_cri_ops;
    r->o.rt = r->cri;
    r->o.node_name = r->role.node;
    r->o.root_dir = opt_root;
    r->o.log_dir = opt_logs;
    r->o.ips = opt_ips.v;
    r->o.n_ips = opt_ips.n;
    r->o.provider_id = opt_provider;
    r->o.pod_cidr = opt_pod_cidr;
    r->o.cni_dir = *opt_cni ? opt_cni : NULL;
    r->o.cluster_dns = opt_dns;
    r->o.cluster_domain = opt_domain;
    r->o.max_pods = (unsigned)opt_max_pods;
    r->o.port = (uint16_t)opt_port;
    return kubelet_new(&r->o, &r->kubelet, e);
}

int cmd_kubelet(struct cmdctx *c, struct err *e) {
    struct run run = {.role = NODE_ROLE_INIT}, *r = &run;
    const struct opt options[] = {
        NODE_ROLE_OPTIONS(run.role,
                          "ca.crt, client.crt, client.key and, later, serving.crt and .key"),
        {"node-ip", OPT_LIST, &opt_ips, "ADDR", "addresses of the node, the most important first"},
        {"tags", OPT_STR, &opt_tags, "FILE", "JSON with labels and taints of the Node"},
        {"runtime", OPT_STR, &opt_runtime, "SOCKET", "socket of the CRI runtime"},
        {"root-dir", OPT_STR, &opt_root, "DIR", "volumes of pods"},
        {"pod-logs", OPT_STR, &opt_logs, "DIR", "logs of containers"},
        {"cni-dir", OPT_STR, &opt_cni, "DIR", "where the pod network's configuration is written"},
        {"pod-cidr", OPT_STR, &opt_pod_cidr, "CIDR",
         "pod addresses of this node, when no controller gives them"},
        {"cluster-dns", OPT_STR, &opt_dns, "ADDR", "DNS server of the pods"},
        {"cluster-domain", OPT_STR, &opt_domain, "NAME", "domain of the cluster"},
        {"provider-id", OPT_STR, &opt_provider, "ID", "spec.providerID of the Node"},
        {"port", OPT_I64, &opt_port, "N", "port of the log server, 0 for none"},
        {"max-pods", OPT_I64, &opt_max_pods, "N", "pods on this node"},
        {NULL, OPT_STR, NULL, NULL, NULL},
    };
    int rc = opt_parse(c, options, NULL, NULL, e);
    if (rc < 0) {
        return rc;
    }
    if (opt_ips.n == 0) {
        return err_set(e, ERR_USAGE, "--node-ip is needed");
    }
    if (opt_port < 0 || opt_port > 65535 || opt_max_pods < 1) {
        return err_set(e, ERR_USAGE, "--port or --max-pods is out of range");
    }
    rc = setup(r, e);
    if (rc == 0) {
        reload(r);
        rc = loop_run(r->role.l, e);
    }
    kubelet_stop(r->kubelet);
    kubelet_cri_free(r->cri);
    kclient_free(TAKE(r->role.client)); /* ends calls whose callbacks need the kubelet */
    kubelet_free(r->kubelet);
    tls_config_unref(r->server_tls);
    json_doc_free(r->tags);
    loop_timer_stop(&r->deadline);
    node_role_stop(&r->role);
    return rc;
}
