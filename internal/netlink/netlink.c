#include "internal/netlink/netlink.h"

#include "internal/sys/sys.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>

enum { ANSWER = 8192 };

/* A message is built field by field: header, fixed part, attributes; lengths are filled in at the end. */
static void begin(struct buf *b, uint16_t type, uint16_t flags, const void *fixed, size_t n) {
    struct nlmsghdr h = {.nlmsg_type = type,
                         .nlmsg_flags = (uint16_t)(NLM_F_REQUEST | NLM_F_ACK | flags),
                         .nlmsg_seq = 1};
    buf_add(b, &h, sizeof(h));
    buf_add(b, fixed, n);
}

static void attr(struct buf *b, uint16_t type, const void *p, size_t n) {
    struct rtattr a = {.rta_len = (uint16_t)(sizeof(a) + n), .rta_type = type};
    buf_add(b, &a, sizeof(a));
    buf_add(b, p, n);
    buf_zero(b, (4 - n % 4) % 4);
}

static void attr_ip(struct buf *b, uint16_t type, uint32_t ip) {
    uint32_t be = htonl(ip);
    attr(b, type, &be, sizeof(be));
}

static int answer(int fd, const char *what, struct err *e) {
    uint8_t raw[ANSWER];
    ssize_t n = recv(fd, raw, sizeof(raw), 0);
    if (n < 0) {
        return err_sys(e, errno, "netlink: %s", what);
    }
    struct nlmsghdr h;
    struct nlmsgerr er;
    if ((size_t)n < sizeof(h) + sizeof(er)) {
        return err_set(e, ERR_IO, "netlink: %s: short answer", what);
    }
    memcpy(&h, raw, sizeof(h));
    memcpy(&er, raw + sizeof(h), sizeof(er));
    if (h.nlmsg_type != NLMSG_ERROR) {
        return err_set(e, ERR_IO, "netlink: %s: unexpected answer", what);
    }
    return er.error == 0 ? 0 : err_sys(e, -er.error, "netlink: %s", what);
}

static int call(struct buf *b, const char *what, struct err *e) {
    if (buf_ok(b) < 0) {
        return err_set(e, ERR_LIMIT, "netlink: %s: request too large", what);
    }
    uint32_t len = (uint32_t)b->n;
    memcpy(b->p, &len, sizeof(len));
    AUTO_FD int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (fd < 0) {
        return err_sys(e, errno, "netlink socket");
    }
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    if (sendto(fd, b->p, b->n, 0, (const struct sockaddr *)&kernel, sizeof(kernel)) < 0) {
        return err_sys(e, errno, "netlink: %s", what);
    }
    return answer(fd, what, e);
}

int netlink_link_up(unsigned ifindex, bool up, struct err *e) {
    AUTO(buf) struct buf b = BUF_INIT(512);
    struct ifinfomsg m = {.ifi_family = AF_UNSPEC,
                          .ifi_index = (int)ifindex,
                          .ifi_flags = up ? IFF_UP : 0,
                          .ifi_change = IFF_UP};
    begin(&b, RTM_NEWLINK, 0, &m, sizeof(m));
    return call(&b, up ? "link up" : "link down", e);
}

int netlink_link_mtu(unsigned ifindex, unsigned mtu, struct err *e) {
    AUTO(buf) struct buf b = BUF_INIT(512);
    struct ifinfomsg m = {.ifi_family = AF_UNSPEC, .ifi_index = (int)ifindex};
    begin(&b, RTM_NEWLINK, 0, &m, sizeof(m));
    attr(&b, IFLA_MTU, &mtu, sizeof(mtu));
    return call(&b, "link mtu", e);
}

static void addr_msg(struct buf *b, uint16_t type, uint16_t flags, unsigned ifindex, uint32_t ip,
                     unsigned prefix_len) {
    struct ifaddrmsg m = {
        .ifa_family = AF_INET, .ifa_prefixlen = (uint8_t)prefix_len, .ifa_index = ifindex};
    begin(b, type, flags, &m, sizeof(m));
    attr_ip(b, IFA_LOCAL, ip);
    attr_ip(b, IFA_ADDRESS, ip);
    if (type == RTM_NEWADDR && prefix_len < 31) {
        attr_ip(b, IFA_BROADCAST, ip | (UINT32_MAX >> prefix_len));
    }
}

int netlink_addr_add(unsigned ifindex, uint32_t ip, unsigned prefix_len, struct err *e) {
    AUTO(buf) struct buf b = BUF_INIT(512);
    addr_msg(&b, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, ifindex, ip, prefix_len);
    return call(&b, "address", e);
}

static void route_msg(struct buf *b, uint16_t type, uint16_t flags, uint32_t dst,
                      unsigned prefix_len, uint32_t gw, unsigned ifindex) {
    struct rtmsg m = {.rtm_family = AF_INET,
                      .rtm_dst_len = (uint8_t)prefix_len,
                      .rtm_table = RT_TABLE_MAIN,
                      .rtm_protocol = RTPROT_STATIC,
                      .rtm_scope = gw ? RT_SCOPE_UNIVERSE : RT_SCOPE_LINK,
                      .rtm_type = RTN_UNICAST};
    if (type == RTM_DELROUTE) {
        m.rtm_scope = RT_SCOPE_NOWHERE;
    }
    begin(b, type, flags, &m, sizeof(m));
    if (prefix_len > 0) {
        attr_ip(b, RTA_DST, dst);
    }
    if (gw) {
        attr_ip(b, RTA_GATEWAY, gw);
    }
    if (ifindex) {
        attr(b, RTA_OIF, &ifindex, sizeof(ifindex));
    }
}

int netlink_route_set(uint32_t dst, unsigned prefix_len, uint32_t gw, unsigned ifindex,
                      struct err *e) {
    AUTO(buf) struct buf b = BUF_INIT(512);
    route_msg(&b, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, dst, prefix_len, gw, ifindex);
    return call(&b, "route", e);
}

int netlink_route_del(uint32_t dst, unsigned prefix_len, uint32_t gw, struct err *e) {
    AUTO(buf) struct buf b = BUF_INIT(512);
    route_msg(&b, RTM_DELROUTE, 0, dst, prefix_len, gw, 0);
    return call(&b, "removing route", e);
}
