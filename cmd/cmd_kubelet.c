#include "cmd/cmd.h"
#include "internal/base/rand.h"
#include "internal/json/json.h"
#include "internal/kclient/kclient.h"
#include "internal/kubelet/kubelet.h"
#include "internal/log/log.h"
#include "internal/sys/sys.h"
#include "internal/tls/tls.h"

#include <unistd.h>

int cmd_kubelet(struct cmdctx *c, struct err *e);

static const char *opt_server = "", *opt_server_name = "", *opt_credentials = "", *opt_node = "",
                  *opt_tags = "";
static const char *opt_runtime = "/run/containerd/containerd.sock", *opt_root = "/var/lib/kubelet";
static const char *opt_logs = "/var/log/pods", *opt_cni = "/etc/cni/net.d", *opt_pod_cidr = "";
static const char *opt_dns = "", *opt_domain = "cluster.local", *opt_provider = "",
                  *opt_level = "info";
static struct opt_list opt_ips;
static int64_t opt_port = 10250, opt_max_pods = 110;

static const struct opt options[] = {
    {"server", OPT_STR, &opt_server, "URL", "API server of the cluster"},
    {"server-name", OPT_STR, &opt_server_name, "NAME",
     "name in the API server's certificate, when it is not the host's"},
    {"credentials", OPT_STR, &opt_credentials, "DIR",
     "holds ca.crt, client.crt, client.key and, later, serving.crt and .key"},
    {"node-name", OPT_STR, &opt_node, "NAME", "name of the Node"},
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
    {"log-level", OPT_STR, &opt_level, "LEVEL", "debug, info, warn or error"},
    {NULL, OPT_STR, NULL, NULL, NULL},
};

enum { LIM_PEM = 1 << 20 };

struct run {
    struct loop *l;
    struct tls_config *client_tls, *server_tls;
    struct kclient *client;
    struct kubelet_cri *cri;
    struct kubelet *kubelet;
    struct kubelet_opts o;
    struct loop_signal signals;
    struct loop_timer deadline;
    struct json_doc *tags;
    bool has_server;
};

static int read_file(const char *name, struct buf *b, struct err *e) {
    char path[512];
    if (str_put(path, sizeof(path), "%s/%s", opt_credentials, name) < 0) {
        return err_set(e, ERR_USAGE, "--credentials: path too long");
    }
    return sys_file_read(AT_FDCWD, path, b, e);
}

/* First time: makes the configurations; later: swaps the certificates in them. */
static int client_identity(struct run *r, struct err *e) {
    AUTO(buf) struct buf ca = BUF_INIT(LIM_PEM), cert = BUF_INIT(LIM_PEM), key = BUF_INIT(LIM_PEM);
    int rc = read_file("ca.crt", &ca, e);
    rc = rc < 0 ? rc : read_file("client.crt", &cert, e);
    rc = rc < 0 ? rc : read_file("client.key", &key, e);
    if (rc == 0 && r->client_tls) {
        rc = tls_config_set_cert(r->client_tls, buf_view(&cert), buf_view(&key), e);
    } else if (rc == 0) {
        const struct tls_client_opts o = {
            .ca_pem = buf_view(&ca), .cert_pem = buf_view(&cert), .key_pem = buf_view(&key)};
        rc = tls_client_config_new(&r->client_tls, &o, e);
    }
    secret_wipe(key.p, key.n);
    return rc;
}

static int server_identity(struct run *r, struct err *e) {
    AUTO(buf) struct buf ca = BUF_INIT(LIM_PEM), cert = BUF_INIT(LIM_PEM), key = BUF_INIT(LIM_PEM);
    int rc = read_file("ca.crt", &ca, e);
    rc = rc < 0 ? rc : read_file("serving.crt", &cert, e);
    rc = rc < 0 ? rc : read_file("serving.key", &key, e);
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

static void stop(struct run *r) {
    loop_stop(r->l);
}

static void on_down(void *ctx) {
    stop(ctx);
}

static void on_deadline(struct loop_timer *t) {
    stop(CONTAINER_OF(t, struct run, deadline));
}

/* The serving certificate comes after the first start: the server opens with it. */
static void reload(struct run *r) {
    struct err e = ERR_INIT;
    if (client_identity(r, &e) < 0) {
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

static void on_signal(struct loop_signal *s, int signo) {
    struct run *r = CONTAINER_OF(s, struct run, signals);
    if (signo == SIGHUP) {
        reload(r);
        return;
    }
    LOG_INFO("kubelet", "going down");
    loop_timer_start(r->l, &r->deadline, 3 * NS_PER_S, on_deadline, "going down");
    kubelet_going_down(r->kubelet, "NodeShutdown", on_down, r);
}

static int read_tags(struct run *r, struct err *e) {
    AUTO(buf) struct buf b = BUF_INIT(LIM_PEM);
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
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    if (loop_new(&r->l, e) < 0 || loop_signal_start(r->l, &r->signals, &set, on_signal, e) < 0 ||
        client_identity(r, e) < 0 || read_tags(r, e) < 0) {
        return -(int)e->code;
    }
    const struct kclient_opts ko = {.server = opt_server,
                                    .sni = *opt_server_name ? opt_server_name : NULL,
                                    .tls = r->client_tls,
                                    .user_agent = "kubelet"};
    if (kclient_new(r->l, &ko, &r->client, e) < 0 ||
        kubelet_cri_new(r->l, opt_runtime, &r->cri, e) < 0) {
        return -(int)e->code;
    }
    kubelet_cri_on_change(r->cri, on_cri_change, r);
    r->o.loop = r->l;
    r->o.client = r->client;
    r->o.ops = &kubelet_cri_ops;
    r->o.rt = r->cri;
    r->o.node_name = opt_node;
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
    struct run r = {0};
    enum log_level level;
    if (opt_parse(c, options, NULL, NULL, e) < 0) {
        return -(int)e->code;
    }
    if (!*opt_server || !*opt_credentials || !*opt_node || opt_ips.n == 0) {
        return err_set(e, ERR_USAGE,
                       "--server, --credentials, --node-name and --node-ip are needed");
    }
    if (log_parse_level(opt_level, &level) < 0 || opt_port < 0 || opt_port > 65535 ||
        opt_max_pods < 1) {
        return err_set(e, ERR_USAGE, "--log-level, --port or --max-pods is out of range");
    }
    log_init("kubelet", level, false);
    int rc = setup(&r, e);
    if (rc == 0) {
        reload(&r);
        rc = loop_run(r.l, e);
    }
    kubelet_stop(r.kubelet);
    kubelet_cri_free(r.cri);
    kclient_free(r.client);
    kubelet_free(r.kubelet);
    tls_config_unref(r.client_tls);
    tls_config_unref(r.server_tls);
    json_doc_free(r.tags);
    if (r.l) {
        loop_signal_stop(&r.signals);
        loop_timer_stop(&r.deadline);
        loop_free(r.l);
    }
    return rc;
}
