#include "cmd/cmd.h"

#include "internal/log/log.h"
#include "internal/supervisor/supervisor.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <limits.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/utsname.h>
#include <unistd.h>

int cmd_server(struct cmdctx *c, struct err *e);

/* The first address that others can reach: IPv4 before IPv6, of an interface that is up and not the loopback. */
static int find_node_ip(char *dst, size_t cap, struct err *e) {
    struct ifaddrs *all = NULL;
    if (getifaddrs(&all) < 0) {
        return err_sys(e, errno, "listing network interfaces");
    }
    dst[0] = 0;
    for (struct ifaddrs *i = all; i; i = i->ifa_next) {
        if (!i->ifa_addr || !(i->ifa_flags & IFF_UP) || i->ifa_flags & IFF_LOOPBACK) {
            continue;
        }
        if (i->ifa_addr->sa_family == AF_INET) {
            struct sockaddr_in in;
            memcpy(&in, i->ifa_addr, sizeof(in));
            inet_ntop(AF_INET, &in.sin_addr, dst, (socklen_t)cap);
            break;
        }
        struct sockaddr_in6 in6;
        memcpy(&in6, i->ifa_addr, i->ifa_addr->sa_family == AF_INET6 ? sizeof(in6) : 0);
        if (i->ifa_addr->sa_family == AF_INET6 && !dst[0] &&
            !IN6_IS_ADDR_LINKLOCAL(&in6.sin6_addr)) {
            inet_ntop(AF_INET6, &in6.sin6_addr, dst, (socklen_t)cap);
        }
    }
    freeifaddrs(all);
    if (!dst[0]) {
        (void)str_put(dst, cap,
                      "127.0.0.1"); /* a machine without a network still has an admin cluster */
        LOG_WARN(
            "server",
            "no network address found, continuing on the loopback; nodes cannot boot from here");
    }
    return 0;
}

static int find_node_name(char *dst, size_t cap, struct err *e) {
    struct utsname u;
    CHECK(uname(&u) == 0);
    size_t n = 0;
    for (const char *s = u.nodename; *s && n + 1 < cap; s++) {
        char ch = *s >= 'A' && *s <= 'Z' ? (char)(*s + 32) : *s;
        dst[n++] = (ch >= 'a' && ch <= 'z') || (ch >= '0' && ch <= '9') || ch == '.' ? ch : '-';
    }
    dst[n] = 0;
    return n ? 0
             : err_set(e, ERR_INVALID,
                       "this machine has no host name: set one, or give --node-name");
}

static int check_ip(const char *what, const char *s, struct err *e) {
    uint8_t a[16];
    return inet_pton(AF_INET, s, a) == 1 || inet_pton(AF_INET6, s, a) == 1
               ? 0
               : err_set(e, ERR_USAGE, "%s: \"%s\" is not an IP address", what, s);
}

static int parse_range(const char *s, uint16_t *lo, uint16_t *hi, struct err *e) {
    struct span rest = span_str(s), a;
    uint64_t x, y;
    if (!span_next(&rest, '-', &a) || span_to_u64(a, 1024, 65535, &x) < 0 ||
        span_to_u64(rest, x, 65535, &y) < 0) {
        return err_set(e, ERR_USAGE, "--tenant-ports: \"%s\" is not a range like 20000-29999", s);
    }
    *lo = (uint16_t)x;
    *hi = (uint16_t)y;
    return 0;
}

static int port_of(const char *what, int64_t n, int64_t min, uint16_t *ret, struct err *e) {
    if (n < min || n > 65535) {
        return err_set(e, ERR_USAGE, "--%s: %lld is not a port", what, (long long)n);
    }
    *ret = (uint16_t)n;
    return 0;
}

int cmd_server(struct cmdctx *c, struct err *e) {
    const char *data_dir = "", *config = NULL, *kubeconfig = "", *mode = "0600", *node_ip = "",
               *node_name = "";
    const char *advertise = "", *tenant_ports = "20000-29999", *level = "info";
    const char *service_cidr = "10.43.0.0/16", *cluster_cidr = "10.42.0.0/16",
               *domain = "cluster.local";
    int64_t port = 6443, kubelet_port = 10250;
    bool no_netboot = false, no_front = false;
    struct opt_list bind = {{NULL}, 0}, sans = {{NULL}, 0}, netboot = {{NULL}, 0};
    const struct opt opts[] = {
        {"config", OPT_STR, &config, "FILE",
         "options as YAML, same names (default /etc/kfarm/config.yaml)"},
        {"data-dir", OPT_STR, &data_dir, "DIR",
         "everything is kept here (default /var/lib/kfarm, /run/kfarm, /etc/kfarm)"},
        {"bind-address", OPT_LIST, &bind, "IP",
         "address of the API; may be repeated (default: every address)"},
        {"https-listen-port", OPT_I64, &port, "PORT", "port of the API of all clusters"},
        {"advertise-address", OPT_STR, &advertise, "HOST",
         "host in kubeconfigs (default: the node's address)"},
        {"tls-san", OPT_LIST, &sans, "NAME",
         "further host names or addresses of this machine; may be repeated"},
        {"node-ip", OPT_STR, &node_ip, "IP", "address of this machine (default: its first one)"},
        {"node-name", OPT_STR, &node_name, "NAME", "name of this machine (default: its host name)"},
        {"write-kubeconfig", OPT_STR, &kubeconfig, "FILE",
         "admin kubeconfig (default /etc/kfarm/admin.kubeconfig)"},
        {"write-kubeconfig-mode", OPT_STR, &mode, "MODE", "its file mode, octal"},
        {"service-cidr", OPT_STR, &service_cidr, "CIDR", "service addresses of the admin cluster"},
        {"cluster-cidr", OPT_STR, &cluster_cidr, "CIDR", "pod addresses of the admin cluster"},
        {"cluster-domain", OPT_STR, &domain, "NAME", "DNS domain of the admin cluster"},
        {"tenant-ports", OPT_STR, &tenant_ports, "LOW-HIGH", "own ports of tenants' API servers"},
        {"kubelet-port", OPT_I64, &kubelet_port, "PORT", "log server of this host; 0: none"},
        {"disable-netboot", OPT_BOOL, &no_netboot, NULL, "serve no DHCP, TFTP and boot files"},
        {"disable-front", OPT_BOOL, &no_front, NULL,
         "do not listen on the API port (only own ports and sockets)"},
        {"netboot-arg", OPT_LIST, &netboot, "ARG",
         "further argument of the netboot role; may be repeated"},
        {"log-level", OPT_STR, &level, "LEVEL", "debug, info, warn or error"},
        {NULL, OPT_STR, NULL, NULL, NULL},
    };
    char ip[64], name[256];
    enum log_level lvl;
    int rc = opt_parse(c, opts, NULL, "/etc/kfarm/config.yaml", e);
    if (rc < 0) {
        return rc;
    }
    if (log_parse_level(level, &lvl) < 0) {
        return err_set(e, ERR_USAGE, "--log-level: \"%s\" is none of debug, info, warn, error",
                       level);
    }
    log_init("server", lvl, false);
    char cwd[PATH_MAX] = "";
    if (*data_dir && *data_dir != '/' && !getcwd(cwd, sizeof(cwd))) {
        return err_sys(e, errno, "current directory");
    }
    const char *own = *data_dir ? str_fmt("%s%s%s", cwd, *cwd ? "/" : "", data_dir) : NULL;
    struct supervisor_opts o = {
        .data_dir = own ? own : "/var/lib/kfarm",
        .run_dir = own ? str_fmt("%s/run", own) : "/run/kfarm",
        .kubeconfig = *kubeconfig ? kubeconfig
                      : own       ? str_fmt("%s/admin.kubeconfig", own)
                                  : "/etc/kfarm/admin.kubeconfig",
        .log_level = level,
        .service_cidr = service_cidr,
        .cluster_cidr = cluster_cidr,
        .cluster_domain = domain,
        .no_netboot = no_netboot,
        .no_front = no_front,
    };
    uint64_t m = 0;
    for (const char *s = mode; *s; s++) {
        m = *s >= '0' && *s <= '7' && m <= 0777 ? m * 8 + (uint64_t)(*s - '0') : 010000;
    }
    if (m > 0777 || !(m & 0400)) {
        return err_set(e, ERR_USAGE, "--write-kubeconfig-mode: \"%s\" is not a file mode like 0600",
                       mode);
    }
    o.kubeconfig_mode = (mode_t)m;
    if ((rc = port_of("https-listen-port", port, 1, &o.port, e)) < 0 ||
        (rc = port_of("kubelet-port", kubelet_port, 0, &o.kubelet_port, e)) < 0 ||
        (rc = parse_range(tenant_ports, &o.tenant_port_first, &o.tenant_port_last, e)) < 0 ||
        (*node_ip ? (rc = check_ip("--node-ip", node_ip, e))
                  : (rc = find_node_ip(ip, sizeof(ip), e))) < 0 ||
        (!*node_name && (rc = find_node_name(name, sizeof(name), e)) < 0)) {
        return rc;
    }
    o.node_ip = *node_ip ? node_ip : ip;
    o.node_name = *node_name ? node_name : name;
    o.advertise_host = *advertise ? advertise : o.node_ip;
    if (bind.n > SUPER_BINDS || sans.n + 2 > SUPER_SANS || netboot.n > ARRAY_LEN(o.netboot_args)) {
        return err_set(e, ERR_USAGE, "too many --bind-address, --tls-san or --netboot-arg");
    }
    for (size_t i = 0; i < bind.n; i++) {
        if ((rc = check_ip("--bind-address", bind.v[i], e)) < 0) {
            return rc;
        }
        o.bind[o.n_bind++] = bind.v[i];
    }
    o.tls_sans[o.n_tls_sans++] = o.node_name;
    if (!str_eq(o.advertise_host, o.node_ip)) {
        o.tls_sans[o.n_tls_sans++] = o.advertise_host;
    }
    for (size_t i = 0; i < sans.n; i++) {
        o.tls_sans[o.n_tls_sans++] = sans.v[i];
    }
    for (size_t i = 0; i < netboot.n; i++) {
        o.netboot_args[o.n_netboot_args++] = netboot.v[i];
    }
    return supervisor_run(&o, e);
}
