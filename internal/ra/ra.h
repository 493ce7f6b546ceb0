/* ra — IPv6 router solicitations and advertisements as bytes (no I/O).
 *
 * What:     ra_solicit_check reads a solicitation; ra_write makes an advertisement. Checksums are the socket's (ICMPv6).
 * Why:      iPXE configures IPv6 before it boots and waits some 15 s for a router when nobody answers its solicitation.
 *           An advertisement with router lifetime 0, no prefix and no M and O flags ends that wait and changes nothing for
 *           other hosts: lifetime 0 says that we are no default router (RFC 4861 §4.2).
 * Owns:     nothing.             Limits: LIM_RA_PREFIXES.
 * Errors:   INVALID, LIMIT.      Threads: any.
 * Spec:     RFC 4861 §4.1, §4.2, §4.6, §6.1.1.
 */
#ifndef KF_RA_H
#define KF_RA_H

#include "internal/base/buf.h"

enum { LIM_RA_PREFIXES = 4, RA_HOP_LIMIT = 255, RA_SOLICIT = 133, RA_ADVERT = 134, LIM_RA_PACKET = 1280 };

struct ra_prefix {
    uint8_t addr[16], bits;
    bool on_link, autonomous;
    uint32_t valid_s, preferred_s;
};
struct ra_advert {
    uint8_t cur_hop_limit; /* 0: unspecified */
    bool managed, other;
    uint16_t lifetime_s;   /* as default router; 0: none */
    uint32_t mtu;          /* 0: left out */
    bool has_hw;
    uint8_t hw[6];
    struct ra_prefix prefixes[LIM_RA_PREFIXES];
    size_t n_prefixes;
};

/* Validates a solicitation as RFC 4861 §6.1.1 demands. hop_limit is that of the packet (must be 255: not forwarded). */
NODISCARD int ra_solicit_check(struct span icmp, int hop_limit, bool source_unspecified);
NODISCARD int ra_write(const struct ra_advert *a, struct buf *ret);
/* Reads an advertisement (tests, and other routers on the link). Unknown options are skipped. */
NODISCARD int ra_advert_parse(struct span icmp, struct ra_advert *ret);

#endif
