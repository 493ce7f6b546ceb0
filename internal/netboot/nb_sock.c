/* Interfaces, sockets and packets: everything that knows struct sockaddr, and nothing else. */
#include "internal/netboot/nb_int.h"

#include "internal/sys/sys.h"

#include <errno.h>
#include <ifaddrs.h>
#include <linux/filter.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <netpacket/packet.h>
#include <stdlib.h>
#include <sys/ioctl.h>

enum { ETHERTYPE_IPV4 = 0x0800, ETHERTYPE_ARP_ = 0x0806, ARP_BYTES = 28 };

/* ---- interfaces ---- */

static bool wanted(const struct netboot_opts *o, const char *name, unsigned flags) {
    if (!o->n_interfaces) {
        return (flags & IFF_UP) && (flags & IFF_BROADCAST) && !(flags & IFF_LOOPBACK);
    }
    for (size_t i = 0; i < o->n_interfaces; i++) {
        if (str_eq(o->interfaces[i], name)) {
            return true;
        }
    }
    return false;
}

static struct nb_iface *iface_named(struct netboot *nb, const char *name) {
    for (size_t i = 0; i < nb->n_ifaces; i++) {
        if (str_eq(nb->ifaces[i].name, name)) {
            return &nb->ifaces[i];
        }
    }
    return NULL;
}

static uint32_t ip_of(const struct sockaddr *sa) {
    struct sockaddr_in in;
    memcpy(&in, sa, sizeof(in));
    return ntohl(in.sin_addr.s_addr);
}

static int iface_details(struct nb_iface *ifc, struct err *e) {
    struct ifreq r = {0};
    AUTO_FD int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || span_to_cstr(span_str(ifc->name), r.ifr_name, sizeof(r.ifr_name)) < 0) {
        return err_sys(e, errno, "interface %s", ifc->name);
    }
    if (ioctl(fd, SIOCGIFHWADDR, &r) < 0) {
        return err_sys(e, errno, "interface %s: hardware address", ifc->name);
    }
    memcpy(ifc->hw, r.ifr_hwaddr.sa_data, sizeof(ifc->hw));
    if (ioctl(fd, SIOCGIFMTU, &r) < 0) {
        return err_sys(e, errno, "interface %s: MTU", ifc->name);
    }
    ifc->mtu = (uint16_t)(r.ifr_mtu > 65535 ? 65535 : r.ifr_mtu);
    ifc->index = (int)if_nametoindex(ifc->name);
    return ifc->index ? 0 : err_sys(e, errno, "interface %s", ifc->name);
}

static void take_addrs(struct netboot *nb, const struct ifaddrs *list) {
    for (size_t i = 0; i < nb->n_ifaces; i++) {
        nb->ifaces[i].n_addrs = 0;
    }
    for (const struct ifaddrs *a = list; a; a = a->ifa_next) {
        struct nb_iface *ifc = iface_named(nb, a->ifa_name);
        if (ifc && a->ifa_addr && a->ifa_netmask && a->ifa_addr->sa_family == AF_INET &&
            ifc->n_addrs < LIM_NB_ADDRS) {
            ifc->addrs[ifc->n_addrs].ip = ip_of(a->ifa_addr);
            ifc->addrs[ifc->n_addrs++].mask = ip_of(a->ifa_netmask);
        }
    }
}

/* Is this entry of getifaddrs an interface that we should serve and do not? */
static bool is_new(struct netboot *nb, const struct ifaddrs *a) {
    const struct nb_iface *ifc = iface_named(nb, a->ifa_name);
    if (!a->ifa_addr) {
        return false;
    }
    if (ifc && a->ifa_addr->sa_family == AF_PACKET) { /* the same name again, but another device */
        struct sockaddr_ll ll;
        memcpy(&ll, a->ifa_addr, sizeof(ll));
        return ll.sll_ifindex != ifc->index;
    }
    return !ifc && a->ifa_addr->sa_family == AF_INET && wanted(&nb->o, a->ifa_name, a->ifa_flags) &&
           nb_plan_network_of(nb->plan, ip_of(a->ifa_addr)) != NULL;
}

bool nb_ifaces_refresh(struct netboot *nb) {
    struct ifaddrs *list = NULL;
    bool found = false;
    if (getifaddrs(&list) < 0) {
        return false;
    }
    take_addrs(nb, list);
    for (const struct ifaddrs *a = list; a; a = a->ifa_next) {
        found |= is_new(nb, a);
    }
    freeifaddrs(list);
    return found;
}

int nb_link_watch_open(struct err *e) {
    const struct sockaddr_nl at = {.nl_family = AF_NETLINK,
                                   .nl_groups = RTMGRP_LINK | RTMGRP_IPV4_IFADDR};
    AUTO_FD int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);
    if (fd < 0 || bind(fd, (const struct sockaddr *)&at, sizeof(at)) < 0) {
        return err_sys(e, errno, "watching interfaces");
    }
    return TAKE_FD(fd);
}

static int add_iface(struct netboot *nb, const char *name, struct err *e) {
    struct nb_iface *more = mem_array(nb->ifaces, nb->n_ifaces + 1, sizeof(*more), LIM_NB_IFACES);
    if (!more) {
        return err_set(e, ERR_LIMIT, "more than %d interfaces", LIM_NB_IFACES);
    }
    nb->ifaces = more;
    struct nb_iface *ifc = &more[nb->n_ifaces++];
    *ifc = (struct nb_iface){
        .nb = nb, .udp67 = -1, .udp69 = -1, .udp4011 = -1, .packet = -1, .arp = -1, .icmp6 = -1};
    if (span_to_cstr(span_str(name), ifc->name, sizeof(ifc->name)) < 0) {
        return err_set(e, ERR_INVALID, "interface name %s is too long", name);
    }
    return iface_details(ifc, e);
}

int nb_ifaces_find(struct netboot *nb, struct err *e) {
    struct ifaddrs *list = NULL;
    int rc = 0;
    if (getifaddrs(&list) < 0) {
        return err_sys(e, errno, "listing interfaces");
    }
    for (size_t i = 0; i < nb->o.n_interfaces && rc >= 0; i++) {
        rc = add_iface(nb, nb->o.interfaces[i], e);
    }
    for (const struct ifaddrs *a = list; a && rc >= 0 && !nb->o.n_interfaces; a = a->ifa_next) {
        if (a->ifa_addr && a->ifa_addr->sa_family == AF_INET &&
            wanted(&nb->o, a->ifa_name, a->ifa_flags) && !iface_named(nb, a->ifa_name)) {
            rc = add_iface(nb, a->ifa_name, e);
        }
    }
    take_addrs(nb, list);
    freeifaddrs(list);
    return rc;
}

const struct nb_network *nb_iface_network(const struct nb_iface *ifc, uint32_t *ret_ip) {
    for (size_t i = 0; i < ifc->n_addrs; i++) {
        const struct nb_network *n = nb_plan_network_of(ifc->nb->plan, ifc->addrs[i].ip);
        if (n) {
            *ret_ip = ifc->addrs[i].ip;
            return n;
        }
    }
    return NULL;
}

/* ---- sockets ---- */

static int bind_device(int fd, const char *ifname, struct err *e) {
    if (setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, ifname, (socklen_t)strlen(ifname) + 1) < 0) {
        return err_sys(e, errno, "binding to interface %s", ifname);
    }
    return 0;
}

int nb_udp_open(const char *ifname, uint16_t port, int rcvbuf, struct err *e) {
    const int one = 1;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
    AUTO_FD int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return err_sys(e, errno, "socket");
    }
    int rc = bind_device(fd, ifname, e);
    if (rc < 0) {
        return rc;
    }
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
        setsockopt(fd, SOL_SOCKET, SO_BROADCAST, &one, sizeof(one)) < 0 ||
        setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &one, sizeof(one)) < 0) {
        return err_sys(e, errno, "preparing UDP port %u", port);
    }
    if (rcvbuf) {
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &rcvbuf, sizeof(rcvbuf));
    }
    if (bind(fd, (const struct sockaddr *)&at, sizeof(at)) < 0) {
        return err_sys(e, errno, "UDP port %u on %s (another DHCP or TFTP server?)", port, ifname);
    }
    return TAKE_FD(fd);
}

/* Only ARP replies (operation 2 at offset 6) reach us: a busy link has many requests. */
static int filter_arp_replies(int fd, struct err *e) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 6),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 2, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, UINT32_MAX),
        BPF_STMT(BPF_RET | BPF_K, 0),
    };
    struct sock_fprog prog = {ARRAY_LEN(code), code};
    if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog)) < 0) {
        return err_sys(e, errno, "ARP filter");
    }
    return 0;
}

int nb_packet_open(const struct nb_iface *ifc, uint16_t ethertype, struct err *e) {
    struct sockaddr_ll at = {
        .sll_family = AF_PACKET, .sll_protocol = htons(ethertype), .sll_ifindex = ifc->index};
    AUTO_FD int fd = socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return err_sys(e, errno, "packet socket (needs CAP_NET_RAW)");
    }
    int rc = ethertype == ETHERTYPE_ARP_ ? filter_arp_replies(fd, e) : 0;
    if (rc < 0) {
        return rc;
    }
    if (bind(fd, (const struct sockaddr *)&at, sizeof(at)) < 0) {
        return err_sys(e, errno, "packet socket on %s", ifc->name);
    }
    return TAKE_FD(fd);
}

int nb_icmp_open(struct err *e) {
    const uint32_t only_replies = ~(1u << ICMP_ECHOREPLY);
    enum { SO_ICMP_FILTER = 1 };
    AUTO_FD int fd = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_ICMP);
    if (fd < 0) {
        return err_sys(e, errno, "ICMP socket (needs CAP_NET_RAW)");
    }
    if (setsockopt(fd, SOL_RAW, SO_ICMP_FILTER, &only_replies, sizeof(only_replies)) < 0) {
        return err_sys(e, errno, "ICMP filter");
    }
    return TAKE_FD(fd);
}

int nb_ra_open(const struct nb_iface *ifc, struct err *e) {
    const int one = 1, hops = RA_HOP_LIMIT;
    struct icmp6_filter only;
    struct ipv6_mreq all_routers = {.ipv6mr_interface = (unsigned)ifc->index};
    AUTO_FD int fd = socket(AF_INET6, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_ICMPV6);
    if (fd < 0) {
        return err_sys(e, errno, "ICMPv6 socket");
    }
    all_routers.ipv6mr_multiaddr.s6_addr[0] = 0xff; /* ff02::2 */
    all_routers.ipv6mr_multiaddr.s6_addr[1] = 0x02;
    all_routers.ipv6mr_multiaddr.s6_addr[15] = 0x02;
    memset(&only, 255, sizeof(only)); /* blocks everything … */
    only.icmp6_filt[RA_SOLICIT / 32] &= ~(1u << RA_SOLICIT % 32);
    int rc = bind_device(fd, ifc->name, e);
    if (rc < 0) {
        return rc;
    }
    if (setsockopt(fd, IPPROTO_ICMPV6, ICMP6_FILTER, &only, sizeof(only)) < 0 ||
        setsockopt(fd, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, &one, sizeof(one)) < 0 ||
        setsockopt(fd, IPPROTO_IPV6, IPV6_MULTICAST_HOPS, &hops, sizeof(hops)) < 0 ||
        setsockopt(fd, IPPROTO_IPV6, IPV6_MULTICAST_IF, &ifc->index, sizeof(ifc->index)) < 0 ||
        setsockopt(fd, IPPROTO_IPV6, IPV6_JOIN_GROUP, &all_routers, sizeof(all_routers)) < 0) {
        return err_sys(e, errno, "ICMPv6 socket on %s", ifc->name);
    }
    return TAKE_FD(fd);
}

/* ---- UDP ---- */

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wsign-conversion" /* inside musl's CMSG_NXTHDR */
static uint32_t dst_of(struct msghdr *m) {
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
        if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
            struct in_pktinfo info;
            memcpy(&info, CMSG_DATA(c), sizeof(info));
            return ntohl(info.ipi_addr.s_addr);
        }
    }
    return 0;
}

static int hop_limit_of(struct msghdr *m) {
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
        if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_HOPLIMIT) {
            int hops;
            memcpy(&hops, CMSG_DATA(c), sizeof(hops));
            return hops;
        }
    }
    return -1;
}
#pragma GCC diagnostic pop

int nb_udp_recv(struct nb_iface *ifc, int fd, uint8_t *p, size_t cap, struct nb_from *ret) {
    struct sockaddr_in src = {0};
    struct iovec iov = {p, cap};
    union {
        struct cmsghdr align;
        char room[CMSG_SPACE(sizeof(struct in_pktinfo))];
    } ctl;
    struct msghdr m = {.msg_name = &src,
                       .msg_namelen = sizeof(src),
                       .msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = ctl.room,
                       .msg_controllen = sizeof(ctl.room)};
    ssize_t n = recvmsg(fd, &m, 0);
    if (n < 0) {
        return -ERR_AGAIN; /* also ECONNREFUSED from an earlier send: level-triggered, the loop comes back */
    }
    *ret = (struct nb_from){ifc, ntohl(src.sin_addr.s_addr), dst_of(&m), ntohs(src.sin_port)};
    return m.msg_flags & MSG_TRUNC ? 0 : (int)n;
}

int nb_udp_send(const struct nb_iface *ifc, int fd, uint32_t src, uint32_t dst, uint16_t port,
                struct span s) {
    struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(dst)};
    struct in_pktinfo info = {.ipi_ifindex = ifc->index, .ipi_spec_dst.s_addr = htonl(src)};
    union {
        const uint8_t *c;
        void *m;
    } u = {.c = s.p};
    struct iovec iov = {u.m, s.n};
    union {
        struct cmsghdr align;
        char room[CMSG_SPACE(sizeof(struct in_pktinfo))];
    } ctl = {0};
    struct msghdr m = {.msg_name = &to,
                       .msg_namelen = sizeof(to),
                       .msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = ctl.room,
                       .msg_controllen = sizeof(ctl.room)};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = IPPROTO_IP;
    c->cmsg_type = IP_PKTINFO;
    c->cmsg_len = CMSG_LEN(sizeof(info));
    memcpy(CMSG_DATA(c), &info, sizeof(info));
    return sendmsg(fd, &m, MSG_NOSIGNAL) < 0 ? -ERR_IO : 0;
}

/* ---- frames ---- */

static uint32_t sum16(uint32_t sum, struct span s) {
    uint16_t v;
    uint8_t last;
    while (span_be16(&s, &v) >= 0) {
        sum += v;
    }
    return span_u8(&s, &last) < 0 ? sum : sum + ((uint32_t)last << 8);
}
static uint16_t fold(uint32_t sum) {
    while (sum >> 16) {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    return (uint16_t)~sum;
}

/* Internet checksum of one or two pieces; the first must have an even length. */
static uint16_t checksum(struct span a, struct span b, uint32_t start) {
    return fold(sum16(sum16(start, a), b));
}

static void put_ip_udp(struct buf *b, uint32_t src, uint32_t dst, uint16_t sport, uint16_t dport,
                       struct span s) {
    enum { IP_HEADER = 20, UDP_HEADER = 8, TTL = 64 };
    uint16_t udp_len = (uint16_t)(UDP_HEADER + s.n);
    struct buf ip = BUF_INIT(IP_HEADER), udp = BUF_INIT(UDP_HEADER);
    for (int pass = 0; pass < 2; pass++) { /* with the checksum 0, then with the right one */
        uint16_t sum = pass ? checksum(buf_view(&ip), SPAN_EMPTY, 0) : 0;
        buf_reset(&ip);
        buf_be16(&ip, 0x4500);
        buf_be16(&ip, (uint16_t)(IP_HEADER + udp_len));
        buf_be32(&ip, 0x00004000); /* no fragments */
        buf_u8(&ip, TTL);
        buf_u8(&ip, IPPROTO_UDP);
        buf_be16(&ip, sum);
        buf_be32(&ip, src);
        buf_be32(&ip, dst);
    }
    for (int pass = 0; pass < 2; pass++) {
        uint32_t pseudo =
            (src >> 16) + (src & 0xffff) + (dst >> 16) + (dst & 0xffff) + IPPROTO_UDP + udp_len;
        uint16_t sum = pass ? checksum(buf_view(&udp), s, pseudo) : 0;
        buf_reset(&udp);
        buf_be16(&udp, sport);
        buf_be16(&udp, dport);
        buf_be16(&udp, udp_len);
        buf_be16(&udp, pass && !sum ? 0xffff : sum);
    }
    buf_span(b, buf_view(&ip));
    buf_span(b, buf_view(&udp));
    buf_span(b, s);
    buf_fini(&ip);
    buf_fini(&udp);
}

static int send_frame(const struct nb_iface *ifc, int fd, uint16_t ethertype, const uint8_t *hw,
                      struct span s) {
    struct sockaddr_ll to = {.sll_family = AF_PACKET,
                             .sll_protocol = htons(ethertype),
                             .sll_ifindex = ifc->index,
                             .sll_halen = 6};
    memcpy(to.sll_addr, hw, 6);
    return sendto(fd, s.p, s.n, MSG_NOSIGNAL, (const struct sockaddr *)&to, sizeof(to)) < 0
               ? -ERR_IO
               : 0;
}

int nb_frame_send(const struct nb_iface *ifc, const struct dhcp_hw *hw, uint32_t src, uint32_t dst,
                  uint16_t sport, uint16_t dport, struct span s) {
    AUTO(buf) struct buf b = BUF_INIT(LIM_DHCP_OUT + 64);
    put_ip_udp(&b, src, dst, sport, dport, s);
    return buf_ok(&b) < 0 ? -ERR_LIMIT
                          : send_frame(ifc, ifc->packet, ETHERTYPE_IPV4, hw->b, buf_view(&b));
}

/* ---- ARP and ICMP ---- */

int nb_arp_ask(const struct nb_iface *ifc, uint32_t ip) {
    static const uint8_t everybody[6] = {255, 255, 255, 255, 255, 255}, nobody[6] = {0};
    AUTO(buf) struct buf b = BUF_INIT(ARP_BYTES);
    buf_be16(&b, ARPHRD_ETHER);
    buf_be16(&b, ETHERTYPE_IPV4);
    buf_u8(&b, 6);
    buf_u8(&b, 4);
    buf_be16(&b, ARPOP_REQUEST);
    buf_add(&b, ifc->hw, 6);
    buf_be32(&b, 0); /* a probe claims nothing (RFC 5227) */
    buf_add(&b, nobody, 6);
    buf_be32(&b, ip);
    return send_frame(ifc, ifc->arp, ETHERTYPE_ARP_, everybody, buf_view(&b));
}

int nb_arp_read(const struct nb_iface *ifc, uint32_t *ret_ip, struct dhcp_hw *ret_hw) {
    uint8_t p[64];
    ssize_t n = recv(ifc->arp, p, sizeof(p), 0);
    if (n < 0) {
        return -ERR_AGAIN;
    }
    struct span s = span_of(p, (size_t)n), hw;
    uint16_t op;
    if (span_skip(&s, 6) < 0 || span_be16(&s, &op) < 0 || op != ARPOP_REPLY ||
        span_take(&s, 6, &hw) < 0 || span_be32(&s, ret_ip) < 0) {
        return 0;
    }
    *ret_hw = (struct dhcp_hw){6, {0}};
    memcpy(ret_hw->b, hw.p, 6);
    return 1;
}

int nb_icmp_ask(int fd, uint32_t ip, uint16_t id) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(ip)};
    AUTO(buf) struct buf b = BUF_INIT(8);
    uint16_t sum = 0;
    for (int pass = 0; pass < 2; pass++) {
        sum = pass ? checksum(buf_view(&b), SPAN_EMPTY, 0) : 0;
        buf_reset(&b);
        buf_be16(&b, ICMP_ECHO << 8);
        buf_be16(&b, sum);
        buf_be16(&b, id);
        buf_be16(&b, 1);
    }
    return sendto(fd, b.p, b.n, MSG_NOSIGNAL, (const struct sockaddr *)&to, sizeof(to)) < 0
               ? -ERR_IO
               : 0;
}

int nb_icmp_read(int fd, uint16_t id, uint32_t *ret_ip) {
    uint8_t p[256];
    ssize_t n = recv(fd, p, sizeof(p), 0);
    if (n < 0) {
        return -ERR_AGAIN;
    }
    struct span s = span_of(p, (size_t)n), ip;
    uint8_t version_len, type;
    uint16_t got_id;
    if (span_u8(&s, &version_len) < 0 || span_take(&s, (version_len & 15u) * 4u - 1u, &ip) < 0 ||
        ip.n < 19 || span_u8(&s, &type) < 0 || type != ICMP_ECHOREPLY || span_skip(&s, 3) < 0 ||
        span_be16(&s, &got_id) < 0 || got_id != id) {
        return 0;
    }
    return span_skip(&ip, 11) < 0 || span_be32(&ip, ret_ip) < 0 ? 0 : 1;
}

/* ---- router advertisements ---- */

int nb_ra_read(int fd, uint8_t *p, size_t cap, int *ret_hop_limit, bool *ret_unspecified) {
    struct sockaddr_in6 src = {0};
    struct iovec iov = {p, cap};
    union {
        struct cmsghdr align;
        char room[CMSG_SPACE(sizeof(int))];
    } ctl;
    struct msghdr m = {.msg_name = &src,
                       .msg_namelen = sizeof(src),
                       .msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = ctl.room,
                       .msg_controllen = sizeof(ctl.room)};
    ssize_t n = recvmsg(fd, &m, 0);
    if (n < 0) {
        return -ERR_AGAIN;
    }
    *ret_hop_limit = hop_limit_of(&m);
    *ret_unspecified = IN6_IS_ADDR_UNSPECIFIED(&src.sin6_addr);
    return (int)n;
}

int nb_ra_send(const struct nb_iface *ifc, struct span s) {
    struct sockaddr_in6 all_nodes = {.sin6_family = AF_INET6,
                                     .sin6_scope_id = (uint32_t)ifc->index};
    all_nodes.sin6_addr.s6_addr[0] = 0xff; /* ff02::1 */
    all_nodes.sin6_addr.s6_addr[1] = 0x02;
    all_nodes.sin6_addr.s6_addr[15] = 0x01;
    ssize_t n = sendto(ifc->icmp6, s.p, s.n, MSG_NOSIGNAL, (const struct sockaddr *)&all_nodes,
                       sizeof(all_nodes));
    return n < 0 ? -ERR_IO : 0;
}
