#include "internal/ra/ra.h"

enum {
    OPT_SOURCE_HW = 1,
    OPT_PREFIX = 3,
    OPT_MTU = 5,
    FLAG_MANAGED = 0x80,
    FLAG_OTHER = 0x40,
    PREFIX_ON_LINK = 0x80,
    PREFIX_AUTONOMOUS = 0x40,
};

/* Takes one option; lengths count 8 bytes and include the two of the header. */
static int take_option(struct span *s, uint8_t *ret_type, struct span *ret_body) {
    struct span rest = *s;
    uint8_t units;
    if (span_u8(&rest, ret_type) < 0 || span_u8(&rest, &units) < 0 || units == 0 ||
        span_take(&rest, 8u * units - 2, ret_body) < 0) {
        return -ERR_INVALID;
    }
    *s = rest;
    return 0;
}

int ra_solicit_check(struct span icmp, int hop_limit, bool source_unspecified) {
    uint8_t type, code, opt;
    struct span body;
    if (hop_limit != RA_HOP_LIMIT || span_u8(&icmp, &type) < 0 || type != RA_SOLICIT ||
        span_u8(&icmp, &code) < 0 || code != 0 || span_skip(&icmp, 6) < 0) {
        return -ERR_INVALID;
    }
    while (icmp.n) {
        if (take_option(&icmp, &opt, &body) < 0 || (opt == OPT_SOURCE_HW && source_unspecified)) {
            return -ERR_INVALID;
        }
    }
    return 0;
}

int ra_write(const struct ra_advert *a, struct buf *b) {
    if (a->n_prefixes > LIM_RA_PREFIXES) {
        return -ERR_LIMIT;
    }
    buf_u8(b, RA_ADVERT);
    buf_u8(b, 0);
    buf_be16(b, 0); /* checksum: filled in by the socket */
    buf_u8(b, a->cur_hop_limit);
    buf_u8(b, (uint8_t)((a->managed ? FLAG_MANAGED : 0) | (a->other ? FLAG_OTHER : 0)));
    buf_be16(b, a->lifetime_s);
    buf_be32(b, 0); /* reachable time, retransmission time: unspecified */
    buf_be32(b, 0);
    if (a->has_hw) {
        buf_u8(b, OPT_SOURCE_HW);
        buf_u8(b, 1);
        buf_add(b, a->hw, sizeof(a->hw));
    }
    if (a->mtu) {
        buf_u8(b, OPT_MTU);
        buf_u8(b, 1);
        buf_be16(b, 0);
        buf_be32(b, a->mtu);
    }
    for (size_t i = 0; i < a->n_prefixes; i++) {
        const struct ra_prefix *p = &a->prefixes[i];
        buf_u8(b, OPT_PREFIX);
        buf_u8(b, 4);
        buf_u8(b, p->bits);
        buf_u8(b, (uint8_t)((p->on_link ? PREFIX_ON_LINK : 0) |
                            (p->autonomous ? PREFIX_AUTONOMOUS : 0)));
        buf_be32(b, p->valid_s);
        buf_be32(b, p->preferred_s);
        buf_be32(b, 0);
        buf_add(b, p->addr, sizeof(p->addr));
    }
    return buf_ok(b);
}

static int parse_prefix(struct span body, struct ra_prefix *p) {
    uint8_t flags;
    struct span addr;
    if (span_u8(&body, &p->bits) < 0 || p->bits > 128 || span_u8(&body, &flags) < 0 ||
        span_be32(&body, &p->valid_s) < 0 || span_be32(&body, &p->preferred_s) < 0 ||
        span_skip(&body, 4) < 0 || span_take(&body, sizeof(p->addr), &addr) < 0 ||
        span_end(&body) < 0) {
        return -ERR_INVALID;
    }
    memcpy(p->addr, addr.p, sizeof(p->addr));
    p->on_link = flags & PREFIX_ON_LINK;
    p->autonomous = flags & PREFIX_AUTONOMOUS;
    return 0;
}

static int parse_option(struct ra_advert *a, uint8_t type, struct span body) {
    if (type == OPT_SOURCE_HW && body.n == sizeof(a->hw)) {
        memcpy(a->hw, body.p, sizeof(a->hw));
        a->has_hw = true;
    } else if (type == OPT_MTU) {
        return body.n != 6 || span_skip(&body, 2) < 0 ? -ERR_INVALID : span_be32(&body, &a->mtu);
    } else if (type == OPT_PREFIX) {
        return a->n_prefixes == LIM_RA_PREFIXES ? -ERR_LIMIT
                                                : parse_prefix(body, &a->prefixes[a->n_prefixes++]);
    }
    return 0;
}

int ra_advert_parse(struct span s, struct ra_advert *ret) {
    struct ra_advert a = {0};
    uint8_t type, code, flags, opt;
    struct span body;
    if (span_u8(&s, &type) < 0 || type != RA_ADVERT || span_u8(&s, &code) < 0 || code != 0 ||
        span_skip(&s, 2) < 0 || span_u8(&s, &a.cur_hop_limit) < 0 || span_u8(&s, &flags) < 0 ||
        span_be16(&s, &a.lifetime_s) < 0 || span_skip(&s, 8) < 0) {
        return -ERR_INVALID;
    }
    a.managed = flags & FLAG_MANAGED;
    a.other = flags & FLAG_OTHER;
    while (s.n) {
        int rc = take_option(&s, &opt, &body);
        rc = rc < 0 ? rc : parse_option(&a, opt, body);
        if (rc < 0) {
            return rc;
        }
    }
    *ret = a;
    return 0;
}
