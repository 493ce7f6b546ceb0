#include "cmd/role.h"

#include "internal/base/rand.h"
#include "internal/log/log.h"
#include "internal/netboot/netboot.h"
#include "internal/pki/pki.h"
#include "internal/sys/sys.h"

#include <ifaddrs.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

int cmd_netboot(struct cmdctx *c, struct err *e);

/* Of the HTTPS certificate, which lives a year. */
#define RENEW_NS (182ull * 24 * 3600 * NS_PER_S)
#define RENEW_RETRY_NS (3600ull * NS_PER_S)

enum { SANS = 32, LIM_CHAIN = 16 << 10 };

struct boot_role {
    struct role r;
    struct role_identity id;
    struct loop_signal sig;
    struct netboot_opts o;
    const char *plan_path, *unix_path, *node_ip, *cert_path, *key_path, *ca_path;
    char sans[SANS][IP4_STR];
    size_t n_sans;
    struct netboot *nb;
    struct netboot_kube *kube;
    struct loop_timer renew;
    bool restart;
};

/* ---- the plan from a file ---- */

static int load_plan(struct boot_role *b, struct err *e) {
    AUTO(buf) struct buf text = BUF_INIT(LIM_NB_PLAN_BYTES);
    struct nb_plan *plan = NULL;
    int rc = sys_file_read(AT_FDCWD, b->plan_path, &text, e);
    rc = rc < 0 ? rc : nb_plan_from_json(buf_view(&text), &plan, e);
    rc = rc < 0 ? rc : netboot_set_plan(b->nb, plan, e);
    return rc < 0 ? err_wrap(e, "%s", b->plan_path) : 0;
}

/* HUP reads the plan again, USR1 writes the state to standard output. */
static void on_signal(struct loop_signal *s, int signo) {
    struct boot_role *b = CONTAINER_OF(s, struct boot_role, sig);
    struct err e = ERR_INIT;
    if (signo == SIGHUP && b->plan_path) {
        if (load_plan(b, &e) < 0) {
            LOG_WARN("netboot", "the plan cannot be used, continuing with the old one", F_ERR(&e));
        }
    } else if (signo == SIGUSR1) {
        AUTO(buf) struct buf text = BUF_INIT(64 << 20);
        if (netboot_status(b->nb, &text) == 0) {
            printf("%s\n", buf_cstr(&text));
            fflush(stdout);
        }
    }
}

/* ---- HTTPS ---- */

/* Nodes pin the key of the CA, so that it must be in what the server shows: leaf, then CA. */
static void chain(struct buf *b, struct span cert, struct span ca) {
    buf_span(b, cert);
    if (!span_ends(cert, "\n")) {
        buf_u8(b, '\n');
    }
    buf_span(b, ca);
}

static int use_identity(struct boot_role *b, struct span cert, struct span key, struct span ca,
                        struct err *e) {
    AUTO(buf) struct buf both = BUF_INIT(LIM_CHAIN);
    struct pki_info info;
    int rc = pki_cert_parse(ca, &info, e);
    if (rc < 0) {
        return err_wrap(e, "boot CA");
    }
    memcpy(b->o.boot_ca_sha256, info.spki_sha256, sizeof(b->o.boot_ca_sha256));
    pki_info_fini(&info);
    chain(&both, cert, ca);
    return tls_server_config_new(&b->o.tls, buf_view(&both), key, SPAN_EMPTY, TLS_CLIENT_NONE, e);
}

static int tls_from_files(struct boot_role *b, struct err *e) {
    AUTO(buf) struct buf cert = BUF_INIT(1 << 18), key = BUF_INIT(1 << 16), ca = BUF_INIT(1 << 18);
    int rc;
    if (!b->key_path || !b->ca_path) {
        return err_set(e, ERR_USAGE, "--tls-cert needs --tls-key and --boot-ca");
    }
    if ((rc = sys_file_read(AT_FDCWD, b->cert_path, &cert, e)) < 0 ||
        (rc = sys_file_read(AT_FDCWD, b->key_path, &key, e)) < 0 ||
        (rc = sys_file_read(AT_FDCWD, b->ca_path, &ca, e)) < 0) {
        return rc;
    }
    rc = use_identity(b, buf_view(&cert), buf_view(&key), buf_view(&ca), e);
    secret_wipe(key.p, key.n);
    return rc;
}

static struct key_req boot_request(const struct boot_role *b) {
    struct key_req q = {.scope = "admin", .profile = KEY_BOOT, .cn = "kfarm-boot"};
    for (size_t i = 0; i < b->n_sans; i++) {
        q.sans[q.n_sans++] = b->sans[i];
    }
    return q;
}

static void renew_due(struct loop_timer *t);

static void renewed(void *ctx, int rc, struct key_identity *id, const struct err *e) {
    struct boot_role *b = ctx;
    struct err mine = ERR_INIT;
    if (rc >= 0) {
        AUTO(buf) struct buf both = BUF_INIT(LIM_CHAIN);
        chain(&both, buf_view(&id->cert_pem), buf_view(&id->ca_pem));
        rc = tls_config_set_cert(b->o.tls, buf_view(&both), buf_view(&id->key_pem), &mine);
        e = &mine;
    }
    if (rc < 0) {
        LOG_ERROR("netboot", "boot certificate not renewed, trying again in an hour", F_ERR(e));
    }
    loop_timer_start(b->r.l, &b->renew, rc < 0 ? RENEW_RETRY_NS : RENEW_NS, renew_due,
                     "boot certificate");
}

static void renew_due(struct loop_timer *t) {
    struct boot_role *b = CONTAINER_OF(t, struct boot_role, renew);
    const struct key_req q = boot_request(b);
    keyclient_issue(b->id.keys, &q, renewed, b);
}

static void add_san(struct boot_role *b, const char *ip) {
    for (size_t i = 0; i < b->n_sans; i++) {
        if (str_eq(b->sans[i], ip)) {
            return;
        }
    }
    if (b->n_sans < SANS && str_put(b->sans[b->n_sans], IP4_STR, "%s", ip) == 0) {
        b->n_sans++;
    }
}

static void find_sans(struct boot_role *b) {
    struct ifaddrs *list = NULL;
    if (b->node_ip && !strchr(b->node_ip, ':')) {
        add_san(b, b->node_ip);
    }
    if (getifaddrs(&list) < 0) {
        return;
    }
    for (const struct ifaddrs *a = list; a; a = a->ifa_next) {
        if (a->ifa_addr && a->ifa_addr->sa_family == AF_INET) {
            struct sockaddr_in in;
            char text[IP4_STR];
            memcpy(&in, a->ifa_addr, sizeof(in));
            ip4_format(ntohl(in.sin_addr.s_addr), text);
            add_san(b, text);
        }
    }
    freeifaddrs(list);
}

/* Certificate of the boot service, then this role's own identity in the admin cluster; the channel becomes b->id.keys. */
static int from_keyd(struct boot_role *b, int own_keyd_fd, struct err *e) {
    AUTO_FD int fd = own_keyd_fd;
    struct key_identity id;
    find_sans(b);
    const struct key_req q = boot_request(b);
    key_identity_init(&id);
    int rc = key_issue_sync(fd, &q, &id, e);
    rc = rc < 0 ? rc
                : use_identity(b, buf_view(&id.cert_pem), buf_view(&id.key_pem),
                               buf_view(&id.ca_pem), e);
    key_identity_fini(&id);
    if (rc < 0) {
        return rc;
    }
    rc = role_identify(&b->r, &b->id, TAKE_FD(fd), "admin", "system:kfarm:netboot", NULL,
                       b->unix_path, NULL, e);
    if (rc == 0) {
        b->o.keys = b->id.keys;
        loop_timer_start(b->r.l, &b->renew, RENEW_NS, renew_due, "boot certificate");
    }
    return rc;
}

/* ---- life ---- */

static int run(struct boot_role *b, int ready_fd, struct err *e) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGUSR1);
    int rc = loop_signal_start(b->r.l, &b->sig, &set, on_signal, e);
    rc = rc < 0 ? rc : netboot_new(b->r.l, &b->o, &b->nb, e);
    rc = rc < 0 || !b->plan_path ? rc : load_plan(b, e);
    rc = rc < 0 || !b->id.client ? rc
                                 : netboot_kube_start(b->nb, b->id.client, b->o.keys, &b->kube, e);
    rc = rc < 0 ? rc : role_confine(SYS_ALLOW_BASE | SYS_ALLOW_FILES | SYS_ALLOW_CONNECT, 0, e);
    if (rc < 0) {
        return rc;
    }
    LOG_INFO("netboot", "ready");
    role_ready(ready_fd);
    rc = loop_run(b->r.l, e);
    return rc == 0 && b->restart
               ? err_set(e, ERR_UNAVAILABLE, "a new interface is to be served: starting again")
               : rc;
}

/* Under the supervisor a restart is cheap: leases and plan are on disk. */
static void on_new_interface(void *ctx) {
    struct boot_role *b = ctx;
    b->restart = true;
    loop_stop(b->r.l);
}

static void boot_role_fini(struct boot_role *b) {
    netboot_kube_stop(b->kube);
    netboot_free(b->nb);
    loop_timer_stop(&b->renew);
    loop_signal_stop(&b->sig);
    if (b->id.role) {
        role_identity_fini(&b->id);
    }
    tls_config_unref(b->o.tls);
    role_leave(&b->r);
}

int cmd_netboot(struct cmdctx *c, struct err *e) {
    struct boot_role b = {.o = {.data_dir = "/var/lib/kfarm/netboot"}};
    struct opt_list ifaces = {.n = 0};
    const char *level = "info";
    int64_t http_port = 8069, https_port = 8070, keyd_n = -1, ready_n = -1;
    const struct opt opts[] = {
        {"interface", OPT_LIST, &ifaces, "NAME",
         "serve these interfaces (default: all that are up and have an IPv4 address)"},
        {"plan", OPT_STR, &b.plan_path, "FILE",
         "networks, nodes and images as JSON; read again on SIGHUP"},
        {"data-dir", OPT_STR, &b.o.data_dir, "DIR", "where leases.db and plan.json are kept"},
        {"boot-dir", OPT_STR, &b.o.boot_dir, "DIR", "boot loaders (undionly.kpxe, snponly.efi, …)"},
        {"images-dir", OPT_STR, &b.o.image_dir, "DIR", "kernels, initrds and roots"},
        {"http-port", OPT_I64, &http_port, "PORT", "boot files and scripts"},
        {"https-port", OPT_I64, &https_port, "PORT", "boot documents and joining"},
        {"tls-cert", OPT_STR, &b.cert_path, "FILE",
         "certificate of the HTTPS port, when no keyd makes it"},
        {"tls-key", OPT_STR, &b.key_path, "FILE", "its key"},
        {"boot-ca", OPT_STR, &b.ca_path, "FILE",
         "CA that nodes are told to trust, by the hash of its key"},
        {"unix", OPT_STR, &b.unix_path, "PATH",
         "socket of the admin API server, which then gives the plan"},
        {"node-ip", OPT_STR, &b.node_ip, "IP", "address of this host, for the certificate"},
        {"keyd-fd", OPT_I64, &keyd_n, "N", "channel to keyd"},
        {"ready-fd", OPT_I64, &ready_n, "N", "readiness pipe"},
        {"log-level", OPT_STR, &level, "LEVEL", "debug, info, warn or error"},
        {NULL, OPT_STR, NULL, NULL, NULL},
    };
    int keyd_fd, ready_fd, rc;
    if ((rc = opt_parse(c, opts, NULL, NULL, e)) < 0 ||
        (rc = role_fd(keyd_n, "keyd-fd", &keyd_fd, e)) < 0 ||
        (rc = role_fd(ready_n, "ready-fd", &ready_fd, e)) < 0) {
        return rc;
    }
    if (http_port < 1 || http_port > 65535 || https_port < 1 || https_port > 65535) {
        return err_set(e, ERR_USAGE, "--http-port and --https-port are 1 to 65535");
    }
    if (ifaces.n > LIM_NB_IFACES) {
        return err_set(e, ERR_USAGE, "more than %d --interface", LIM_NB_IFACES);
    }
    if ((keyd_fd < 0) != !b.unix_path) {
        return err_set(e, ERR_USAGE,
                       "--unix and --keyd-fd go together: they are given by kfarm server");
    }
    b.o.http_port = (uint16_t)http_port;
    b.o.https_port = (uint16_t)https_port;
    b.o.n_interfaces = ifaces.n;
    for (size_t i = 0; i < ifaces.n; i++) {
        b.o.interfaces[i] = ifaces.v[i];
    }
    if (keyd_fd >= 0) {
        b.o.on_new_interface = on_new_interface;
        b.o.ctx = &b;
    }
    if ((rc = role_enter(&b.r, "netboot", level, 0, e)) < 0) {
        return rc;
    }
    rc = keyd_fd >= 0 ? from_keyd(&b, keyd_fd, e) : b.cert_path ? tls_from_files(&b, e) : 0;
    rc = rc < 0 ? rc : run(&b, ready_fd, e);
    boot_role_fini(&b);
    return rc;
}
