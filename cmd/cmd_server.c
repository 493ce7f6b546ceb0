#include "cmd/cmd.h"

#include "internal/base/addr.h"
#include "internal/kube/kube.h"
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

static bool is_ip(const char *s) {
    uint8_t a[16];
    bool v6;
    return ip_parse(span_str(s), a, &v6) == 0;
}

static int check_ip(const char *what, const char *s, struct err *e) {
    return is_ip(s) ? 0 : err_set(e, ERR_USAGE, "%s: \"%s\" is not an IP address", what, s);
}

/* `wildcard`: the first label may be "*", as in certificates. */
static int check_host(const char *what, const char *s, bool wildcard, struct err *e) {
    struct span name = span_str(s);
    if (wildcard && span_starts(name, "*.")) {
        IGNORE_ERR(span_skip(&name, 2), "it starts so");
    }
    return is_ip(s) || kube_is_dns_name(name)
               ? 0
               : err_set(e, ERR_USAGE,
                         "%s: \"%s\" is neither an IP address nor a host name in lower case", what,
                         s);
}

static int check_name(const char *what, const char *s, struct err *e) {
    return kube_is_dns_name(span_str(s))
               ? 0
               : err_set(e, ERR_USAGE, "%s: \"%s\" is not a name of a-z, 0-9, - and .", what, s);
}

/* The bounds are those of the API server and of the controllers, which would end with other ranges. */
static int check_service_range(const char *s, struct err *e) {
    uint32_t ip;
    unsigned bits;
    return cidr4_parse(span_str(s), 8, 30, &ip, &bits) == 0
               ? 0
               : err_set(e, ERR_USAGE, "--service-cidr: \"%s\" is not an IPv4 range with /8 to /30",
                         s);
}

static int check_pod_ranges(const char *s, struct err *e) {
    struct span rest = span_str(s), one;
    bool good = false;
    do {
        uint8_t a[16];
        unsigned bits;
        bool v6;
        good = span_next(&rest, ',', &one) && cidr_parse(one, a, &bits, &v6) == 0 &&
               bits <= (v6 ? 64 : 24) && bits >= (v6 ? 48 : 8);
    } while (good && rest.n);
    return good ? 0
                : err_set(e, ERR_USAGE,
                          "--cluster-cidr: \"%s\" is not a range with /8 to /24 (IPv6: /48 to /64)",
                          s);
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

static int parse_port(const char *what, int64_t n, int64_t min, uint16_t *ret, struct err *e) {
    if (n < min || n > 65535) {
        return err_set(e, ERR_USAGE, "--%s: %lld is not a port", what, (long long)n);
    }
    *ret = (uint16_t)n;
    return 0;
}

static int parse_mode(const char *s, mode_t *ret, struct err *e) {
    uint64_t m = 0;
    for (const char *p = s; *p; p++) {
        m = *p >= '0' && *p <= '7' && m <= 0777 ? m * 8 + (uint64_t)(*p - '0') : 010000;
    }
    if (m > 0777 || !(m & 0400)) {
        return err_set(e, ERR_USAGE, "--write-kubeconfig-mode: \"%s\" is not a file mode like 0600",
                       s);
    }
    *ret = (mode_t)m;
    return 0;
}

/* Options as they were typed; what goes to the supervisor unchanged is in `o`. */
struct server_args {
    struct supervisor_opts o;
    const char *data_dir, *config, *kubeconfig, *mode, *node_ip, *node_name, *advertise,
        *tenant_ports;
    int64_t port, kubelet_port;
    struct opt_list bind, sans, netboot;
    char found_ip[64], found_name[256];
};

static int parse(struct cmdctx *c, struct server_args *a, struct err *e) {
    const struct opt opts[] = {
        {"config", OPT_STR, &a->config, "FILE",
         "options as YAML, same names (default /etc/kfarm/config.yaml)"},
        {"data-dir", OPT_STR, &a->data_dir, "DIR",
         "everything is kept here (default /var/lib/kfarm, /run/kfarm, /etc/kfarm)"},
        {"bind-address", OPT_LIST, &a->bind, "IP",
         "address of the API; may be repeated (default: every address)"},
        {"https-listen-port", OPT_I64, &a->port, "PORT", "port of the API of all clusters"},
        {"advertise-address", OPT_STR, &a->advertise, "HOST",
         "host in kubeconfigs (default: the node's address)"},
        {"tls-san", OPT_LIST, &a->sans, "NAME",
         "further host names or addresses of this machine; may be repeated"},
        {"node-ip", OPT_STR, &a->node_ip, "IP", "address of this machine (default: its first one)"},
        {"node-name", OPT_STR, &a->node_name, "NAME",
         "name of this machine (default: its host name)"},
        {"write-kubeconfig", OPT_STR, &a->kubeconfig, "FILE",
         "admin kubeconfig (default /etc/kfarm/admin.kubeconfig)"},
        {"write-kubeconfig-mode", OPT_STR, &a->mode, "MODE", "its file mode, octal"},
        {"service-cidr", OPT_STR, &a->o.service_cidr, "CIDR",
         "service addresses of the admin cluster"},
        {"cluster-cidr", OPT_STR, &a->o.cluster_cidr, "CIDR", "pod addresses of the admin cluster"},
        {"cluster-domain", OPT_STR, &a->o.cluster_domain, "NAME",
         "DNS domain of the admin cluster"},
        {"tenant-ports", OPT_STR, &a->tenant_ports, "LOW-HIGH",
         "own ports of tenants' API servers"},
        {"kubelet-port", OPT_I64, &a->kubelet_port, "PORT", "log server of this host; 0: none"},
        {"disable-netboot", OPT_BOOL, &a->o.no_netboot, NULL, "serve no DHCP, TFTP and boot files"},
        {"disable-front", OPT_BOOL, &a->o.no_front, NULL,
         "do not listen on the API port (only own ports and sockets)"},
        {"netboot-arg", OPT_LIST, &a->netboot, "ARG",
         "further argument of the netboot role; may be repeated"},
        {"log-level", OPT_STR, &a->o.log_level, "LEVEL", "debug, info, warn or error"},
        {NULL, OPT_STR, NULL, NULL, NULL},
    };
    enum log_level lvl;
    int rc = opt_parse(c, opts, NULL, "/etc/kfarm/config.yaml", e);
    if (rc < 0) {
        return rc;
    }
    if (log_parse_level(a->o.log_level, &lvl) < 0) {
        return err_set(e, ERR_USAGE, "--log-level: \"%s\" is none of debug, info, warn, error",
                       a->o.log_level);
    }
    log_init("server", lvl, false);
    return 0;
}

/* With --data-dir everything is below it; else as the file system hierarchy has it. */
static int set_paths(struct server_args *a, struct err *e) {
    struct supervisor_opts *o = &a->o;
    char cwd[PATH_MAX] = "";
    if (*a->data_dir && *a->data_dir != '/' && !getcwd(cwd, sizeof(cwd))) {
        return err_sys(e, errno, "current directory");
    }
    const char *own = *a->data_dir ? str_fmt("%s%s%s", cwd, *cwd ? "/" : "", a->data_dir) : NULL;
    o->data_dir = own ? own : "/var/lib/kfarm";
    o->run_dir = own ? str_fmt("%s/run", own) : "/run/kfarm";
    o->kubeconfig = *a->kubeconfig ? a->kubeconfig
                    : own          ? str_fmt("%s/admin.kubeconfig", own)
                                   : "/etc/kfarm/admin.kubeconfig";
    return 0;
}

static int set_machine(struct server_args *a, struct err *e) {
    struct supervisor_opts *o = &a->o;
    int rc;
    o->node_ip = *a->node_ip ? a->node_ip : a->found_ip;
    o->node_name = *a->node_name ? a->node_name : a->found_name;
    if ((rc = *a->node_ip ? check_ip("--node-ip", a->node_ip, e)
                          : find_node_ip(a->found_ip, sizeof(a->found_ip), e)) < 0 ||
        (rc = *a->node_name ? check_name("--node-name", a->node_name, e)
                            : find_node_name(a->found_name, sizeof(a->found_name), e)) < 0) {
        return rc;
    }
    o->advertise_host = *a->advertise ? a->advertise : o->node_ip;
    return check_host("--advertise-address", o->advertise_host, false, e);
}

static int set_lists(struct server_args *a, struct err *e) {
    struct supervisor_opts *o = &a->o;
    int rc;
    if (a->bind.n > SUPER_BINDS || a->sans.n + 2 > SUPER_SANS ||
        a->netboot.n > ARRAY_LEN(o->netboot_args)) {
        return err_set(e, ERR_USAGE, "too many --bind-address, --tls-san or --netboot-arg");
    }
    for (size_t i = 0; i < a->bind.n; i++) {
        if ((rc = check_ip("--bind-address", a->bind.v[i], e)) < 0) {
            return rc;
        }
        o->bind[o->n_bind++] = a->bind.v[i];
    }
    o->tls_sans[o->n_tls_sans++] = o->node_name;
    if (!str_eq(o->advertise_host, o->node_ip)) {
        o->tls_sans[o->n_tls_sans++] = o->advertise_host;
    }
    for (size_t i = 0; i < a->sans.n; i++) {
        if ((rc = check_host("--tls-san", a->sans.v[i], true, e)) < 0) {
            return rc;
        }
        o->tls_sans[o->n_tls_sans++] = a->sans.v[i];
    }
    for (size_t i = 0; i < a->netboot.n; i++) {
        o->netboot_args[o->n_netboot_args++] = a->netboot.v[i];
    }
    return 0;
}

int cmd_server(struct cmdctx *c, struct err *e) {
    struct server_args a = {.data_dir = "",
                            .kubeconfig = "",
                            .mode = "0600",
                            .node_ip = "",
                            .node_name = "",
                            .advertise = "",
                            .tenant_ports = "20000-29999",
                            .port = 6443,
                            .kubelet_port = 10250,
                            .o = {.service_cidr = "10.43.0.0/16",
                                  .cluster_cidr = "10.42.0.0/16",
                                  .cluster_domain = "cluster.local",
                                  .log_level = "info"}};
    struct supervisor_opts *o = &a.o;
    int rc;
    if ((rc = parse(c, &a, e)) < 0 || (rc = parse_mode(a.mode, &o->kubeconfig_mode, e)) < 0 ||
        (rc = parse_port("https-listen-port", a.port, 1, &o->port, e)) < 0 ||
        (rc = parse_port("kubelet-port", a.kubelet_port, 0, &o->kubelet_port, e)) < 0 ||
        (rc = parse_range(a.tenant_ports, &o->tenant_port_first, &o->tenant_port_last, e)) < 0 ||
        (rc = check_service_range(o->service_cidr, e)) < 0 ||
        (rc = check_pod_ranges(o->cluster_cidr, e)) < 0 ||
        (rc = check_name("--cluster-domain", o->cluster_domain, e)) < 0 ||
        (rc = set_paths(&a, e)) < 0 || (rc = set_machine(&a, e)) < 0 ||
        (rc = set_lists(&a, e)) < 0) {
        return rc;
    }
    return supervisor_run(o, e);
}
