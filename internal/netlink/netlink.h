/* netlink — links, addresses and routes of the kernel (rtnetlink), one request and its answer at a time.
 *
 * Errors:   by errno of the kernel's answer: EXISTS, NOT_FOUND, FORBIDDEN, INVALID, IO.
 * Threads:  any. A call opens and closes its own socket; the kernel answers at once.
 * Spec:     rtnetlink(7). Addresses are IPv4 in host byte order.
 */
#ifndef KF_NETLINK_H
#define KF_NETLINK_H

#include "internal/base/buf.h"

NODISCARD int netlink_link_up(unsigned ifindex, bool up, struct err *e);
NODISCARD int netlink_link_mtu(unsigned ifindex, unsigned mtu, struct err *e);
/* Adding an address that is there already succeeds and refreshes it. */
NODISCARD int netlink_addr_add(unsigned ifindex, uint32_t ip, unsigned prefix_len, struct err *e);
/* Adds or replaces. gw 0: on the link. ifindex 0: chosen by the gateway. dst 0/0 is the default route. */
NODISCARD int netlink_route_set(uint32_t dst, unsigned prefix_len, uint32_t gw, unsigned ifindex, struct err *e);
NODISCARD int netlink_route_del(uint32_t dst, unsigned prefix_len, uint32_t gw, struct err *e);

#endif
