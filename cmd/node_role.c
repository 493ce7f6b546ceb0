#include "cmd/node_role.h"

#include "internal/base/rand.h"
#include "internal/log/log.h"
#include "internal/sys/sys.h"

int node_role_file(const struct node_role *n, const char *name, struct buf *b, struct err *e) {
    char path[512];
    if (str_put(path, sizeof(path), "%s/%s", n->credentials, name) < 0) {
        return err_set(e, ERR_USAGE, "--credentials: path too long");
    }
    return sys_file_read(AT_FDCWD, path, b, e);
}

int node_role_identity(struct node_role *n, struct err *e) {
    AUTO(buf)
    struct buf ca = BUF_INIT(LIM_NODE_PEM), cert = BUF_INIT(LIM_NODE_PEM),
               key = BUF_INIT(LIM_NODE_PEM);
    int rc = node_role_file(n, "ca.crt", &ca, e);
    rc = rc < 0 ? rc : node_role_file(n, "client.crt", &cert, e);
    rc = rc < 0 ? rc : node_role_file(n, "client.key", &key, e);
    if (rc == 0 && n->tls) {
        rc = tls_config_set_cert(n->tls, buf_view(&cert), buf_view(&key), e);
    } else if (rc == 0) {
        const struct tls_client_opts o = {
            .ca_pem = buf_view(&ca), .cert_pem = buf_view(&cert), .key_pem = buf_view(&key)};
        rc = tls_client_config_new(&n->tls, &o, e);
    }
    secret_wipe(key.p, key.n);
    return rc;
}

static void on_signal(struct loop_signal *s, int signo) {
    struct node_role *n = CONTAINER_OF(s, struct node_role, signals);
    n->on_signal(n, signo);
}

int node_role_start(struct node_role *n, const char *name, const char *user_agent, struct err *e) {
    enum log_level level;
    sigset_t set;
    if (!*n->server || !*n->credentials || !*n->node) {
        return err_set(e, ERR_USAGE, "--server, --credentials and --node-name are needed");
    }
    if (log_parse_level(n->log_level, &level) < 0) {
        return err_set(e, ERR_USAGE, "--log-level: \"%s\" is none of debug, info, warn, error",
                       n->log_level);
    }
    log_init(name, level, false);
    sigemptyset(&set);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    if (loop_new(&n->l, e) < 0 || loop_signal_start(n->l, &n->signals, &set, on_signal, e) < 0 ||
        node_role_identity(n, e) < 0) {
        return -(int)e->code;
    }
    const struct kclient_opts ko = {.server = n->server,
                                    .sni = *n->server_name ? n->server_name : NULL,
                                    .tls = n->tls,
                                    .user_agent = user_agent};
    return kclient_new(n->l, &ko, &n->client, e);
}

void node_role_stop(struct node_role *n) {
    kclient_free(n->client);
    tls_config_unref(n->tls);
    if (n->l) {
        loop_signal_stop(&n->signals);
        loop_free(n->l);
    }
}
