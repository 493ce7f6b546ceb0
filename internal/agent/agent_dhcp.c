/* DHCP client (RFC 2131 §4.4). Replies are asked for by broadcast, so a plain UDP socket bound to the interface hears
 * them before there is an address. An address once given is kept: a running node does not depend on the boot server. */
#include "internal/agent/agent_int.h"
#include "internal/base/rand.h"
#include "internal/dhcp/dhcp.h"
#include "internal/netlink/netlink.h"
#include "internal/sys/sys.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <net/if.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PORT_CLIENT = 68, PORT_SERVER = 67, MIN_RENEW_S = 30, RETRY_S = 2, RETRY_MAX_S = 30 };

static int mac_of(const char *ifname, uint8_t ret[6], struct err *e) {
    char path[64];
    AUTO(buf) struct buf b = BUF_INIT(64);
    struct dhcp_hw hw;
    if (str_put(path, sizeof(path), "/sys/class/net/%s/address", ifname) < 0) {
        return err_set(e, ERR_INVALID, "interface name too long");
    }
    if (sys_file_read(AT_FDCWD, path, &b, e) < 0) {
        return -(int)e->code;
    }
    if (b.n < 17 || dhcp_hw_parse(span_of(b.p, 17), &hw) < 0 || hw.n != 6) {
        return err_set(e, ERR_INVALID, "%s: no Ethernet address", ifname);
    }
    memcpy(ret, hw.b, 6);
    return 0;
}

/* BOOTIF=01-52-54-00-… as PXELINUX and our scripts give it: hardware type, then the address. */
static bool is_bootif(const uint8_t mac[6]) {
    struct arena a = ARENA_INIT(65536);
    const char *v = agent_cmdline(&a, "BOOTIF");
    struct dhcp_hw hw;
    bool same = v && strlen(v) == 20 && dhcp_hw_parse(span_str(v + 3), &hw) == 0 &&
                memcmp(hw.b, mac, 6) == 0;
    arena_fini(&a);
    return same;
}

/* Real (or virtual PCI) Ethernet devices have a device link; bridges, tunnels and lo do not. */
size_t agent_interfaces(char (*ret)[16], size_t cap) {
    size_t n = 0;
    DIR *dir = opendir("/sys/class/net");
    for (struct dirent *d; dir && n < cap && (d = readdir(dir));) {
        char path[320];
        uint8_t mac[6];
        struct err e = ERR_INIT;
        if (d->d_name[0] == '.' || strlen(d->d_name) > 15 ||
            str_put(path, sizeof(path), "/sys/class/net/%s/device", d->d_name) < 0 ||
            access(path, F_OK) < 0 || mac_of(d->d_name, mac, &e) < 0) {
            continue;
        }
        size_t at = n++;
        if (is_bootif(mac)) {
            memcpy(ret[at], ret[0], 16);
            at = 0;
        }
        IGNORE_ERR(str_put(ret[at], 16, "%s", d->d_name), "length was checked");
    }
    if (dir) {
        closedir(dir);
    }
    return n;
}

static int open_socket(struct agent_dhcp *d, struct err *e) {
    AUTO_FD int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int on = 1;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(PORT_CLIENT)};
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_BROADCAST, &on, sizeof(on)) < 0 ||
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
        setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, d->ifname, (socklen_t)strlen(d->ifname)) < 0 ||
        bind(fd, (const struct sockaddr *)&a, sizeof(a)) < 0) {
        return err_sys(e, errno, "DHCP socket on %s", d->ifname);
    }
    d->fd = TAKE_FD(fd);
    return 0;
}

static void send_message(struct agent_dhcp *d, uint8_t type) {
    static const uint8_t params[] = {DHCP_OPT_SUBNET_MASK, DHCP_OPT_ROUTER, DHCP_OPT_DNS,
                                     DHCP_OPT_DOMAIN,      DHCP_OPT_MTU,    DHCP_OPT_NTP};
    bool renewing = d->state == AGENT_DHCP_RENEWING;
    struct dhcp_msg *m = new_zero(struct dhcp_msg);
    struct dhcp_opts *o = new_zero(struct dhcp_opts);
    AUTO(buf) struct buf b = BUF_INIT(LIM_DHCP_OUT);
    m->op = 1;
    m->htype = 1;
    m->hlen = 6;
    m->xid = d->xid;
    m->flags = renewing ? 0 : DHCP_FLAG_BROADCAST;
    m->ciaddr = renewing ? d->lease.ip : 0;
    memcpy(m->chaddr, d->mac, 6);
    dhcp_opts_u8(o, DHCP_OPT_TYPE, true, type);
    if (d->state == AGENT_DHCP_REQUESTING) {
        dhcp_opts_u32(o, DHCP_OPT_REQUESTED_IP, true, d->lease.ip);
        dhcp_opts_u32(o, DHCP_OPT_SERVER_ID, true, d->lease.server);
    }
    dhcp_opts_u16(o, DHCP_OPT_MAX_SIZE, true, LIM_DHCP_OUT);
    dhcp_opts_add(o, DHCP_OPT_VENDOR_CLASS, false, SPAN_LIT("kfarm"));
    dhcp_opts_add(o, DHCP_OPT_PARAMS, true, span_of(params, sizeof(params)));
    /* A renewal goes to the server; after two thirds of the lease, or when it does not answer, to everybody. */
    bool unicast = renewing && d->tries < 3;
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons(PORT_SERVER),
                             .sin_addr.s_addr =
                                 htonl(unicast ? d->lease.server : INADDR_BROADCAST)};
    if (dhcp_msg_write(m, o, LIM_DHCP_OUT, &b) == 0) {
        IGNORE_ERR(sendto(d->fd, b.p, b.n, 0, (const struct sockaddr *)&to, sizeof(to)),
                   "the timer sends it again");
    }
    auto_free_(&m);
    auto_free_(&o);
}

static void on_timer(struct loop_timer *t);

static void again_in(struct agent_dhcp *d, uint64_t s) {
    loop_timer_start(d->l, &d->timer, s * NS_PER_S + rand_below(NS_PER_S / 2), on_timer,
                     "dhcp client");
}

static void discover(struct agent_dhcp *d) {
    d->state = AGENT_DHCP_SELECTING;
    d->xid = (uint32_t)rand_u64();
    send_message(d, DHCP_DISCOVER);
    d->tries++;
    uint64_t wait = (uint64_t)RETRY_S << (d->tries < 5 ? d->tries - 1 : 4);
    again_in(d, wait > RETRY_MAX_S ? RETRY_MAX_S : wait);
}

static void on_timer(struct loop_timer *t) {
    struct agent_dhcp *d = CONTAINER_OF(t, struct agent_dhcp, timer);
    switch (d->state) {
    case AGENT_DHCP_SELECTING: discover(d); return;
    case AGENT_DHCP_REQUESTING:
        if (d->tries++ < 3) {
            send_message(d, DHCP_REQUEST);
            again_in(d, RETRY_S);
        } else {
            d->tries = 0;
            discover(d);
        }
        return;
    case AGENT_DHCP_BOUND:
        d->state = AGENT_DHCP_RENEWING;
        d->tries = 0;
        d->xid = (uint32_t)rand_u64();
        __attribute__((fallthrough));
    case AGENT_DHCP_RENEWING:
        send_message(d, DHCP_REQUEST);
        d->tries++;
        again_in(d, d->tries < 3 ? 5 : 60);
        return;
    }
}

static void bound(struct agent_dhcp *d) {
    uint32_t t1 = d->lease.t1_s ? d->lease.t1_s : d->lease.lease_s / 2;
    d->state = AGENT_DHCP_BOUND;
    d->tries = 0;
    d->bound_ns = loop_now(d->l);
    again_in(d, t1 < MIN_RENEW_S ? MIN_RENEW_S : t1);
}

static unsigned prefix_of(uint32_t mask) {
    unsigned n = 0;
    while (mask & 0x80000000u) {
        n++;
        mask <<= 1;
    }
    return n;
}

static void read_lease(const struct dhcp_msg *m, struct agent_lease *l) {
    *l = (struct agent_lease){.ip = m->yiaddr};
    uint32_t zero = 0;
    l->server = dhcp_get_ip(m, DHCP_OPT_SERVER_ID, zero);
    l->prefix_len = prefix_of(dhcp_get_ip(m, DHCP_OPT_SUBNET_MASK, 0xffffff00u));
    l->mtu = dhcp_get_u16(m, DHCP_OPT_MTU, 0);
    l->lease_s = dhcp_get_ip(m, DHCP_OPT_LEASE_TIME, 3600); /* same width as an address */
    l->t1_s = dhcp_get_ip(m, DHCP_OPT_T1, 0);
    l->t2_s = dhcp_get_ip(m, DHCP_OPT_T2, 0);
    struct span s = m->opt[DHCP_OPT_ROUTER];
    IGNORE_ERR(span_be32(&s, &l->router), "none");
    s = m->opt[DHCP_OPT_DNS];
    while (l->n_dns < AGENT_DNS && span_be32(&s, &l->dns[l->n_dns]) == 0) {
        l->n_dns++;
    }
    IGNORE_ERR(span_to_cstr(m->opt[DHCP_OPT_DOMAIN], l->domain, sizeof(l->domain)), "none");
}

static void on_message(struct agent_dhcp *d, const struct dhcp_msg *m) {
    if (m->op != 2 || m->xid != d->xid || m->hlen != 6 || memcmp(m->chaddr, d->mac, 6) != 0) {
        return;
    }
    if (d->state == AGENT_DHCP_SELECTING && m->type == DHCP_OFFER && m->yiaddr) {
        read_lease(m, &d->lease);
        d->state = AGENT_DHCP_REQUESTING;
        d->tries = 0;
        send_message(d, DHCP_REQUEST);
        again_in(d, RETRY_S);
        return;
    }
    if (d->state != AGENT_DHCP_REQUESTING && d->state != AGENT_DHCP_RENEWING) {
        return;
    }
    if (m->type == DHCP_ACK && m->yiaddr) {
        uint32_t old = d->state == AGENT_DHCP_RENEWING ? d->lease.ip : 0;
        read_lease(m, &d->lease);
        bound(d);
        if (d->lease.ip != old && d->on_bound) {
            d->on_bound(d, d->ctx);
        }
    } else if (m->type == DHCP_NAK) {
        d->tries = 0;
        discover(d);
    }
}

static void on_readable(struct loop_io *io, uint32_t events) {
    struct agent_dhcp *d = CONTAINER_OF(io, struct agent_dhcp, io);
    uint8_t raw[LIM_DHCP_IN];
    const char *why;
    (void)events;
    ssize_t n = recv(d->fd, raw, sizeof(raw), 0);
    if (n <= 0) {
        return;
    }
    struct dhcp_msg *m = new_zero(struct dhcp_msg);
    if (dhcp_msg_parse(m, span_of(raw, (size_t)n), &why) == 0) {
        on_message(d, m);
    }
    auto_free_(&m);
}

static int prepare(struct loop *l, struct agent_dhcp *d, const char *ifname, struct err *e) {
    d->l = l;
    d->fd = -1;
    IGNORE_ERR(str_put(d->ifname, sizeof(d->ifname), "%s", ifname), "interface names fit");
    d->ifindex = if_nametoindex(ifname);
    if (!d->ifindex) {
        return err_sys(e, errno, "interface %s", ifname);
    }
    if (mac_of(ifname, d->mac, e) < 0 || netlink_link_up(d->ifindex, true, e) < 0 ||
        open_socket(d, e) < 0) {
        return -(int)e->code;
    }
    return loop_io_start(l, &d->io, d->fd, LOOP_READ, on_readable, "dhcp client", e);
}

int agent_dhcp_start(struct loop *l, struct agent_dhcp *d, const char *ifname, struct err *e) {
    if (prepare(l, d, ifname, e) < 0) {
        agent_dhcp_stop(d);
        return -(int)e->code;
    }
    d->tries = 0;
    discover(d);
    return 0;
}

int agent_dhcp_resume(struct loop *l, struct agent_dhcp *d, const char *ifname,
                      const struct agent_lease *lease, struct err *e) {
    if (prepare(l, d, ifname, e) < 0) {
        agent_dhcp_stop(d);
        return -(int)e->code;
    }
    d->lease = *lease;
    bound(d);
    return 0;
}

void agent_dhcp_stop(struct agent_dhcp *d) {
    loop_io_stop(&d->io);
    loop_timer_stop(&d->timer);
    auto_fd_(&d->fd);
    d->fd = -1;
}

int agent_lease_apply(const struct agent_dhcp *d, struct err *e) {
    const struct agent_lease *l = &d->lease;
    AUTO(buf) struct buf b = BUF_INIT(4096);
    if (l->mtu >= 576) {
        struct err ignored = ERR_INIT;
        IGNORE_ERR(netlink_link_mtu(d->ifindex, l->mtu, &ignored),
                   "drivers may refuse; the link works without");
    }
    if (netlink_addr_add(d->ifindex, l->ip, l->prefix_len, e) < 0 ||
        (l->router && netlink_route_set(0, 0, l->router, d->ifindex, e) < 0)) {
        return -(int)e->code;
    }
    if (l->domain[0]) {
        buf_fmt(&b, "search %s\n", l->domain);
    }
    for (size_t i = 0; i < l->n_dns; i++) {
        char ip[16];
        ip4_format(l->dns[i], ip);
        buf_fmt(&b, "nameserver %s\n", ip);
    }
    if (sys_mkdirs("/etc", 0755, e) < 0) {
        return -(int)e->code;
    }
    return sys_file_replace(AT_FDCWD, "/etc/resolv.conf", buf_view(&b), 0644, e);
}

struct json *agent_lease_to_json(struct json_doc *d, const struct agent_lease *l) {
    struct json *o = json_new_obj(d), *dns;
    json_set_i64(d, o, "ip", l->ip);
    json_set_i64(d, o, "server", l->server);
    json_set_i64(d, o, "router", l->router);
    json_set_i64(d, o, "prefixLength", l->prefix_len);
    json_set_i64(d, o, "mtu", l->mtu);
    json_set_i64(d, o, "t1", l->t1_s);
    json_set_i64(d, o, "t2", l->t2_s);
    json_set_i64(d, o, "lease", l->lease_s);
    json_set_str(d, o, "domain", l->domain);
    dns = json_set_arr(d, o, "dns");
    for (size_t i = 0; i < l->n_dns; i++) {
        json_push(dns, json_new_i64(d, l->dns[i]));
    }
    return o;
}

int agent_lease_from_json(const struct json *v, struct agent_lease *ret) {
    struct agent_lease l = {0};
    l.ip = (uint32_t)json_i64_at(v, 0, "ip");
    l.server = (uint32_t)json_i64_at(v, 0, "server");
    l.router = (uint32_t)json_i64_at(v, 0, "router");
    l.prefix_len = (unsigned)json_i64_at(v, 24, "prefixLength");
    l.mtu = (unsigned)json_i64_at(v, 0, "mtu");
    l.t1_s = (uint32_t)json_i64_at(v, 0, "t1");
    l.t2_s = (uint32_t)json_i64_at(v, 0, "t2");
    l.lease_s = (uint32_t)json_i64_at(v, 0, "lease");
    JSON_EACH(it, x, json_get(v, "dns")) {
        if (l.n_dns < AGENT_DNS) {
            l.dns[l.n_dns++] = (uint32_t)json_i64(x, 0);
        }
    }
    if (!l.ip ||
        str_put(l.domain, sizeof(l.domain), "%s", json_str_or(json_get(v, "domain"), "")) < 0) {
        return -ERR_INVALID;
    }
    *ret = l;
    return 0;
}
