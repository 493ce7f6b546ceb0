/* The tables of DHCP: message types, options, architectures; who is asking; addresses as text. */
#include "internal/dhcp/dhcp.h"

#include "internal/base/rand.h"

const char *dhcp_type_name(unsigned type) {
    static const char *const names[] = {[0] = "BOOTP",
#define X(name, n) [n] = #name,
                                        DHCP_TYPES(X)
#undef X
    };
    return type < ARRAY_LEN(names) ? names[type] : "?";
}

const char *dhcp_state_name(enum dhcp_state s) {
    static const char *const names[DHCP_STATE_MAX_] = {"free", "offered", "bound", "declined"};
    return s < DHCP_STATE_MAX_ ? names[s] : "?";
}

const char *dhcp_opt_name(uint8_t code, enum dhcp_kind *ret_kind) {
    static const struct {
        const char *name;
        enum dhcp_kind kind;
    } rows[256] = {
#define X(code, name, kind) [code] = {#name, DHCP_K_##kind},
        DHCP_OPTS(X)
#undef X
    };
    *ret_kind = rows[code].kind; /* DHCP_K_BYTES is 0: also right for codes without a row */
    return rows[code].name ? rows[code].name : "option";
}

static int text_ips(struct span text, bool one, struct buf *ret) {
    struct span part;
    size_t n = 0;
    while (span_next(&text, ',', &part)) {
        uint32_t ip;
        if (ip4_parse(span_trim(part), &ip) < 0) {
            return -ERR_INVALID;
        }
        buf_be32(ret, ip);
        n++;
    }
    return n == 0 || (one && n != 1) ? -ERR_INVALID : 0;
}

static int text_hex(struct span text, struct buf *ret) {
    uint8_t digits[2 * 255];
    size_t n = 0;
    for (size_t i = 0; i < text.n; i++) {
        if (text.p[i] == ':' || text.p[i] == ' ') {
            continue;
        }
        if (n == sizeof(digits)) {
            return -ERR_INVALID;
        }
        digits[n++] = text.p[i];
    }
    return n == 0 ? -ERR_INVALID : hex_decode(ret, span_of(digits, n));
}

int dhcp_opt_from_text(uint8_t code, struct span text, struct buf *ret) {
    enum dhcp_kind kind;
    uint64_t v;
    IGNORE_ERR(dhcp_opt_name(code, &kind) != NULL, "only the kind is wanted");
    if (span_starts(text, "hex:")) {
        IGNORE_ERR(span_skip(&text, 4), "just seen");
        return text_hex(text, ret);
    }
    switch (kind) {
    case DHCP_K_TEXT:
        return text.n == 0 || span_index(text, 0) >= 0 ? -ERR_INVALID : buf_span(ret, text);
    case DHCP_K_IP:
    case DHCP_K_IPS: return text_ips(text, kind == DHCP_K_IP, ret);
    case DHCP_K_U8:
    case DHCP_K_FLAG:
        return span_to_u64(text, 0, UINT8_MAX, &v) < 0 ? -ERR_INVALID : buf_u8(ret, (uint8_t)v);
    case DHCP_K_U16:
        return span_to_u64(text, 0, UINT16_MAX, &v) < 0 ? -ERR_INVALID : buf_be16(ret, (uint16_t)v);
    case DHCP_K_U32:
        return span_to_u64(text, 0, UINT32_MAX, &v) < 0 ? -ERR_INVALID : buf_be32(ret, (uint32_t)v);
    case DHCP_K_BYTES: break;
    }
    return text_hex(text, ret);
}

/* IANA "Processor Architecture Types". 9 was meant as EBC by RFC 4578, but x86-64 firmware sends it (erratum 4624). */
static const struct dhcp_arch archs[] = {
    {0, DHCP_CPU_X86, DHCP_FW_BIOS, false, "bios-x86"},
    {6, DHCP_CPU_X86, DHCP_FW_UEFI, false, "uefi-x86"},
    {7, DHCP_CPU_X86_64, DHCP_FW_UEFI, false, "uefi-x86_64"},
    {9, DHCP_CPU_X86_64, DHCP_FW_UEFI, false, "uefi-x86_64-9"},
    {10, DHCP_CPU_ARM, DHCP_FW_UEFI, false, "uefi-arm"},
    {11, DHCP_CPU_ARM64, DHCP_FW_UEFI, false, "uefi-arm64"},
    {15, DHCP_CPU_X86, DHCP_FW_UEFI, true, "uefi-x86-http"},
    {16, DHCP_CPU_X86_64, DHCP_FW_UEFI, true, "uefi-x86_64-http"},
    {18, DHCP_CPU_ARM, DHCP_FW_UEFI, true, "uefi-arm-http"},
    {19, DHCP_CPU_ARM64, DHCP_FW_UEFI, true, "uefi-arm64-http"},
    {20, DHCP_CPU_X86, DHCP_FW_BIOS, true, "bios-x86-http"},
    {21, DHCP_CPU_ARM, DHCP_FW_UBOOT, false, "uboot-arm"},
    {22, DHCP_CPU_ARM64, DHCP_FW_UBOOT, false, "uboot-arm64"},
    {23, DHCP_CPU_ARM, DHCP_FW_UBOOT, true, "uboot-arm-http"},
    {24, DHCP_CPU_ARM64, DHCP_FW_UBOOT, true, "uboot-arm64-http"},
    {27, DHCP_CPU_RISCV64, DHCP_FW_UEFI, false, "uefi-riscv64"},
    {28, DHCP_CPU_RISCV64, DHCP_FW_UEFI, true, "uefi-riscv64-http"},
    {41, DHCP_CPU_ARM64, DHCP_FW_OTHER, false, "raspberry-pi"},
};

const struct dhcp_arch *dhcp_arch_find(uint16_t code) {
    for (size_t i = 0; i < ARRAY_LEN(archs); i++) {
        if (archs[i].code == code) {
            return &archs[i];
        }
    }
    return NULL;
}

/* iPXE sends its user class as bare text; RFC 3004 wants a list of length-prefixed strings. Both occur. */
static bool user_class_is(struct span uc, const char *name) {
    if (span_eq_str(uc, name)) {
        return true;
    }
    uint8_t n;
    struct span item;
    while (span_u8(&uc, &n) >= 0 && n && span_take(&uc, n, &item) >= 0) {
        if (span_eq_str(item, name)) {
            return true;
        }
    }
    return false;
}

struct dhcp_client dhcp_client_of(const struct dhcp_msg *m) {
    struct dhcp_client c = {DHCP_STAGE_OS, false, 0};
    struct span cls = m->opt[DHCP_OPT_VENDOR_CLASS], list = m->opt[DHCP_OPT_ARCH];
    uint16_t code;
    while (span_be16(&list, &code) >= 0) {
        bool known = dhcp_arch_find(code) != NULL;
        if (!c.has_arch || known) {
            c.arch = code;
            c.has_arch = true;
        }
        if (known) {
            break;
        }
    }
    if (span_starts(cls, "HTTPClient")) {
        c.stage = DHCP_STAGE_HTTP;
    } else if (span_starts(cls, "PXEClient")) {
        c.stage = DHCP_STAGE_PXE;
    }
    if (user_class_is(m->opt[DHCP_OPT_USER_CLASS], "iPXE") || dhcp_has(m, DHCP_OPT_IPXE)) {
        c.stage = DHCP_STAGE_IPXE;
    }
    return c;
}

/* ---- addresses as text ---- */

bool dhcp_hw_eq(struct dhcp_hw a, struct dhcp_hw b) {
    return a.n == b.n && memcmp(a.b, b.b, a.n) == 0;
}

int dhcp_hw_parse(struct span s, struct dhcp_hw *ret) {
    struct dhcp_hw hw = {0, {0}};
    char sep = s.n > 2 && (s.p[2] == ':' || s.p[2] == '-') ? (char)s.p[2] : 0;
    while (s.n) {
        struct span pair;
        uint64_t v;
        if (hw.n == DHCP_HW_MAX || span_take(&s, 2, &pair) < 0 ||
            span_hex_to_u64(pair, UINT8_MAX, &v) < 0) {
            return -ERR_INVALID;
        }
        hw.b[hw.n++] = (uint8_t)v;
        if (sep && s.n && (s.p[0] != (uint8_t)sep || span_skip(&s, 1) < 0 || !s.n)) {
            return -ERR_INVALID;
        }
    }
    if (hw.n < 6) {
        return -ERR_INVALID;
    }
    *ret = hw;
    return 0;
}

void dhcp_hw_format(struct dhcp_hw hw, char sep, char dst[DHCP_HW_STR]) {
    static const char digits[] = "0123456789abcdef";
    size_t at = 0;
    for (size_t i = 0; i < hw.n && i < DHCP_HW_MAX; i++) {
        if (i && sep) {
            dst[at++] = sep;
        }
        dst[at++] = digits[hw.b[i] >> 4];
        dst[at++] = digits[hw.b[i] & 15];
    }
    dst[at] = 0;
}
