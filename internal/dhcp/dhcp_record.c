/* Leases as durable records:
 *
 *     0xd4  length u16  crc32c u32 of the body  body
 *     body: version u8, state u8, ip u32, subnet u32, wall-clock end u64, hw (length u8, bytes),
 *           hostname (length u8, bytes), agent options (length u8, bytes)
 *
 * A journal is a run of records; a later record of an address replaces an earlier one. A crash can only tear the tail,
 * which the checksum shows. */
#include "internal/dhcp/dhcp.h"

#include "internal/base/rand.h"

enum { RECORD_MARK = 0xd4, RECORD_VERSION = 1 };

/* CRC-32C (Castagnoli), bit by bit: records are some 60 bytes. */
static uint32_t crc32c(struct span s) {
    uint32_t c = 0xffffffffu;
    for (size_t i = 0; i < s.n; i++) {
        c ^= s.p[i];
        for (int k = 0; k < 8; k++) {
            c = c >> 1 ^ (c & 1 ? 0x82f63b78u : 0);
        }
    }
    return ~c;
}

int dhcp_record_write(const struct dhcp_lease *l, uint64_t now_ns, uint64_t wall_now_s,
                      struct buf *ret) {
    AUTO(buf) struct buf body = BUF_INIT(DHCP_RECORD_MAX);
    uint64_t left_s = l->until_ns > now_ns ? (l->until_ns - now_ns + NS_PER_S - 1) / NS_PER_S : 0;
    struct span name = span_str(l->hostname);
    buf_u8(&body, RECORD_VERSION);
    buf_u8(&body, (uint8_t)l->state);
    buf_be32(&body, l->ip);
    buf_be32(&body, l->subnet);
    buf_be64(&body, wall_now_s + left_s);
    buf_u8(&body, l->hw.n);
    buf_add(&body, l->hw.b, l->hw.n);
    buf_u8(&body, (uint8_t)name.n);
    buf_span(&body, name);
    buf_u8(&body, l->agent_n);
    buf_add(&body, l->agent, l->agent_n);
    CHECK(buf_ok(&body) == 0);
    buf_u8(ret, RECORD_MARK);
    buf_be16(ret, (uint16_t)body.n);
    buf_be32(ret, crc32c(buf_view(&body)));
    return buf_span(ret, buf_view(&body));
}

static int read_short(struct span *s, size_t max, struct span *ret) {
    uint8_t n;
    return span_u8(s, &n) < 0 || n > max || span_take(s, n, ret) < 0 ? -ERR_CORRUPT : 0;
}

static int read_body(struct span s, uint64_t now_ns, uint64_t wall_now_s, struct dhcp_lease *ret) {
    struct dhcp_lease l = {0};
    uint8_t version, state;
    uint64_t end_s, left_ns;
    struct span hw, name, agent;
    if (span_u8(&s, &version) < 0 || version != RECORD_VERSION || span_u8(&s, &state) < 0 ||
        state >= DHCP_STATE_MAX_ || state == DHCP_OFFERED || span_be32(&s, &l.ip) < 0 ||
        span_be32(&s, &l.subnet) < 0 || span_be64(&s, &end_s) < 0 ||
        read_short(&s, DHCP_HW_MAX, &hw) < 0 || read_short(&s, LIM_DHCP_HOSTNAME, &name) < 0 ||
        read_short(&s, sizeof(l.agent), &agent) < 0 || span_end(&s) < 0 ||
        span_to_cstr(name, l.hostname, sizeof(l.hostname)) < 0) {
        return -ERR_CORRUPT;
    }
    l.state = (enum dhcp_state)state;
    l.hw.n = (uint8_t)hw.n;
    l.agent_n = (uint8_t)agent.n;
    if (hw.n) {
        memcpy(l.hw.b, hw.p, hw.n);
    }
    if (agent.n) {
        memcpy(l.agent, agent.p, agent.n);
    }
    uint64_t left_s = end_s > wall_now_s ? end_s - wall_now_s : 0;
    if (ck_mul(left_s, NS_PER_S, &left_ns) || ck_add(now_ns, left_ns, &l.until_ns)) {
        return -ERR_CORRUPT;
    }
    *ret = l;
    return 0;
}

int dhcp_record_read(struct span *s, uint64_t now_ns, uint64_t wall_now_s, struct dhcp_lease *ret) {
    struct span rest = *s, body;
    uint8_t mark;
    uint16_t n;
    uint32_t crc;
    if (!rest.n) {
        return -ERR_NOT_FOUND;
    }
    if (span_u8(&rest, &mark) < 0 || mark != RECORD_MARK || span_be16(&rest, &n) < 0 ||
        span_be32(&rest, &crc) < 0 || span_take(&rest, n, &body) < 0 || crc32c(body) != crc ||
        read_body(body, now_ns, wall_now_s, ret) < 0) {
        return -ERR_CORRUPT;
    }
    list_init(&ret->link);
    *s = rest;
    return 0;
}
