/* addr — IP addresses and ranges as text.
 *
 * What:     "10.0.0.1", "fd00::1", "10.0.0.0/8" to numbers, and IPv4 back. Nothing is resolved.
 * Owns:     nothing.
 * Errors:   -ERR_INVALID for any other text; outputs are then untouched.
 * Threads:  any.
 * Spec:     RFC 4291 §2.2, RFC 4632; IPv4 in four decimal numbers only (RFC 6943 §3.1.1).
 */
#ifndef KF_ADDR_H
#define KF_ADDR_H

#include "internal/base/span.h"

enum { IP4_STR = 16 }; /* room for the longest with its end */

/* Of IPv4 the first 4 bytes of ret are the address, in network order; the rest is zero. */
NODISCARD int ip_parse(struct span s, uint8_t ret[16], bool *ret_is_v6);
NODISCARD int cidr_parse(struct span s, uint8_t ret[16], unsigned *ret_bits, bool *ret_is_v6);

/* IPv4 alone, in host order; a range keeps the bits of its host. */
NODISCARD int ip4_parse(struct span s, uint32_t *ret);
NODISCARD int cidr4_parse(struct span s, unsigned min_bits, unsigned max_bits, uint32_t *ret, unsigned *ret_bits);
void ip4_format(uint32_t ip, char dst[IP4_STR]);

#endif
