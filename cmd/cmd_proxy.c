#include "cmd/cmd.h"
#include "internal/kclient/kclient.h"
#include "internal/log/log.h"
#include "internal/proxy/proxy.h"
#include "internal/sys/sys.h"
#include "internal/tls/tls.h"

int cmd_proxy(struct cmdctx *c, struct err *e);

static const char *opt_server = "", *opt_server_name = "", *opt_credentials = "", *opt_node = "",
                  *opt_ip = "";
static const char *opt_cidr = "", *opt_nft = "/usr/sbin/nft", *opt_level = "info";
static bool opt_routes = true;

static const struct opt options[] = {
    {"server", OPT_STR, &opt_server, "URL", "API server of the cluster"},
    {"server-name", OPT_STR, &opt_server_name, "NAME",
     "name in the API server's certificate, when it is not the host's"},
    {"credentials", OPT_STR, &opt_credentials, "DIR", "holds ca.crt, client.crt and client.key"},
    {"node-name", OPT_STR, &opt_node, "NAME", "name of the Node"},
    {"node-ip", OPT_STR, &opt_ip, "ADDR", "address of the node"},
    {"cluster-cidr", OPT_STR, &opt_cidr, "CIDR",
     "pod addresses of the cluster; traffic that leaves them is masqueraded"},
    {"routes", OPT_BOOL, &opt_routes, NULL, "route to the pod networks of the other nodes"},
    {"nft", OPT_STR, &opt_nft, "PATH", "the program nft"},
    {"log-level", OPT_STR, &opt_level, "LEVEL", "debug, info, warn or error"},
    {NULL, OPT_STR, NULL, NULL, NULL},
};

enum { LIM_PEM = 1 << 20 };

struct proxy_run {
    struct loop *l;
    struct tls_config *tls;
    struct kclient *client;
    struct proxy *proxy;
    struct loop_signal signals;
};

static int read_file(const char *name, struct buf *b, struct err *e) {
    char path[512];
    if (str_put(path, sizeof(path), "%s/%s", opt_credentials, name) < 0) {
        return err_set(e, ERR_USAGE, "--credentials: path too long");
    }
    return sys_file_read(AT_FDCWD, path, b, e);
}

static int identity(struct proxy_run *r, struct err *e) {
    AUTO(buf) struct buf ca = BUF_INIT(LIM_PEM), cert = BUF_INIT(LIM_PEM), key = BUF_INIT(LIM_PEM);
    int rc = read_file("ca.crt", &ca, e);
    rc = rc < 0 ? rc : read_file("client.crt", &cert, e);
    rc = rc < 0 ? rc : read_file("client.key", &key, e);
    if (rc == 0 && r->tls) {
        rc = tls_config_set_cert(r->tls, buf_view(&cert), buf_view(&key), e);
    } else if (rc == 0) {
        rc = tls_client_config_new(&r->tls,
                                   &(struct tls_client_opts){.ca_pem = buf_view(&ca),
                                                             .cert_pem = buf_view(&cert),
                                                             .key_pem = buf_view(&key)},
                                   e);
    }
    secret_wipe(key.p, key.n);
    return rc;
}

static void on_signal(struct loop_signal *s, int signo) {
    struct proxy_run *r = CONTAINER_OF(s, struct proxy_run, signals);
    struct err e = ERR_INIT;
    if (signo != SIGHUP) {
        loop_stop(r->l);
    } else if (identity(r, &e) < 0) {
        LOG_WARN("proxy", "certificate not reloaded, continuing with the old one", F_ERR(&e));
    }
}

static int setup(struct proxy_run *r, struct err *e) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    if (loop_new(&r->l, e) < 0 || loop_signal_start(r->l, &r->signals, &set, on_signal, e) < 0 ||
        identity(r, e) < 0) {
        return -(int)e->code;
    }
    const struct kclient_opts ko = {.server = opt_server,
                                    .sni = *opt_server_name ? opt_server_name : NULL,
                                    .tls = r->tls,
                                    .user_agent = "kube-proxy"};
    if (kclient_new(r->l, &ko, &r->client, e) < 0) {
        return -(int)e->code;
    }
    const struct proxy_opts o = {.loop = r->l,
                                 .client = r->client,
                                 .node_name = opt_node,
                                 .node_ip = opt_ip,
                                 .cluster_cidr = opt_cidr,
                                 .nft_path = opt_nft,
                                 .no_routes = !opt_routes};
    return proxy_new(&o, &r->proxy, e);
}

int cmd_proxy(struct cmdctx *c, struct err *e) {
    struct proxy_run r = {0};
    enum log_level level;
    if (opt_parse(c, options, NULL, NULL, e) < 0) {
        return -(int)e->code;
    }
    if (!*opt_server || !*opt_credentials || !*opt_node || log_parse_level(opt_level, &level) < 0) {
        return err_set(e, ERR_USAGE, "--server, --credentials and --node-name are needed");
    }
    log_init("proxy", level, false);
    int rc = setup(&r, e);
    rc = rc < 0 ? rc : loop_run(r.l, e);
    proxy_free(r.proxy);
    kclient_free(r.client);
    tls_config_unref(r.tls);
    if (r.l) {
        loop_signal_stop(&r.signals);
        loop_free(r.l);
    }
    return rc;
}
