#include "internal/base/addr.h"

#include "internal/base/buf.h"

#include <arpa/inet.h>

int ip_parse(struct span s, uint8_t ret[16], bool *ret_is_v6) {
    char text[INET6_ADDRSTRLEN];
    uint8_t a[16] = {0};
    if (span_to_cstr(s, text, sizeof(text)) < 0) {
        return -ERR_INVALID;
    }
    bool v6 = strchr(text, ':') != NULL;
    if (inet_pton(v6 ? AF_INET6 : AF_INET, text, a) != 1) {
        return -ERR_INVALID;
    }
    memcpy(ret, a, sizeof(a));
    *ret_is_v6 = v6;
    return 0;
}

int cidr_parse(struct span s, uint8_t ret[16], unsigned *ret_bits, bool *ret_is_v6) {
    struct span host;
    uint8_t a[16];
    uint64_t bits;
    bool v6;
    if (span_until(&s, '/', &host) < 0 || ip_parse(host, a, &v6) < 0 ||
        span_to_u64(s, 0, v6 ? 128 : 32, &bits) < 0) {
        return -ERR_INVALID;
    }
    memcpy(ret, a, sizeof(a));
    *ret_bits = (unsigned)bits;
    *ret_is_v6 = v6;
    return 0;
}

static uint32_t host_order(const uint8_t a[4]) {
    return (uint32_t)a[0] << 24 | (uint32_t)a[1] << 16 | (uint32_t)a[2] << 8 | a[3];
}

int ip4_parse(struct span s, uint32_t *ret) {
    uint8_t a[16];
    bool v6;
    if (ip_parse(s, a, &v6) < 0 || v6) {
        return -ERR_INVALID;
    }
    *ret = host_order(a);
    return 0;
}

int cidr4_parse(struct span s, unsigned min_bits, unsigned max_bits, uint32_t *ret,
                unsigned *ret_bits) {
    uint8_t a[16];
    unsigned bits;
    bool v6;
    if (cidr_parse(s, a, &bits, &v6) < 0 || v6 || bits < min_bits || bits > max_bits) {
        return -ERR_INVALID;
    }
    *ret = host_order(a);
    *ret_bits = bits;
    return 0;
}

void ip4_format(uint32_t ip, char dst[IP4_STR]) {
    IGNORE_ERR(
        str_put(dst, IP4_STR, "%u.%u.%u.%u", ip >> 24, ip >> 16 & 255, ip >> 8 & 255, ip & 255),
        "fits");
}
