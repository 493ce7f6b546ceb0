/* Bytes <-> struct dhcp_msg (RFC 2131 §2, RFC 2132, RFC 3396). */
#include "internal/dhcp/dhcp.h"

enum {
    OPT_PAD = 0,
    OPT_END = 255,
    FIELD_SNAME = 64,
    FIELD_FILE = 128,
    OVERLOAD_FILE = 1,
    OVERLOAD_SNAME = 2,
    MIN_MESSAGE = 300, /* BOOTP's fixed size: some relays and ROMs drop anything shorter */
};
static const uint8_t cookie[4] = {99, 130, 83, 99};

/* ---- reading ---- */

static bool length_ok(enum dhcp_kind kind, size_t n) {
    switch (kind) {
    case DHCP_K_U8: return n == 1;
    case DHCP_K_U16: return n == 2;
    case DHCP_K_U32:
    case DHCP_K_IP: return n == 4;
    case DHCP_K_IPS: return n % 4 == 0;
    case DHCP_K_BYTES:
    case DHCP_K_TEXT:
    case DHCP_K_FLAG: break;
    }
    return true;
}

/* Adds a piece of an option; a second piece moves both into `joined` (RFC 3396 §7). */
static int opt_add(struct dhcp_msg *m, uint8_t code, struct span piece) {
    struct span *o = &m->opt[code];
    if (!o->p) {
        *o = piece;
        return 0;
    }
    if (o->n + piece.n > sizeof(m->joined) - m->joined_n) {
        return -ERR_LIMIT;
    }
    uint8_t *to = m->joined + m->joined_n;
    if (o->n) {
        memcpy(to, o->p, o->n);
    }
    if (piece.n) {
        memcpy(to + o->n, piece.p, piece.n);
    }
    *o = span_of(to, o->n + piece.n);
    m->joined_n += o->n;
    return 0;
}

static int read_opts(struct dhcp_msg *m, struct span s, const char **ret_why) {
    while (s.n) {
        uint8_t code, n;
        struct span v;
        if (span_u8(&s, &code) < 0 || code == OPT_END) {
            return 0;
        }
        if (code == OPT_PAD) {
            continue;
        }
        if (span_u8(&s, &n) < 0 || span_take(&s, n, &v) < 0) {
            *ret_why = "option runs past the end";
            return -ERR_INVALID;
        }
        if (opt_add(m, code, v) < 0) {
            *ret_why = "split options too long";
            return -ERR_INVALID;
        }
    }
    return 0;
}

/* A header field as text: up to its first NUL. */
static struct span field_text(struct span f) {
    ptrdiff_t nul = span_index(f, 0);
    return span_of(f.p, nul < 0 ? f.n : (size_t)nul);
}

static int check_opts(const struct dhcp_msg *m, const char **ret_why) {
    for (unsigned c = 0; c < ARRAY_LEN(m->opt); c++) {
        enum dhcp_kind kind;
        if (m->opt[c].p) {
            IGNORE_ERR(dhcp_opt_name((uint8_t)c, &kind) != NULL, "only the kind is wanted");
            if (!length_ok(kind, m->opt[c].n)) {
                *ret_why = "option with an impossible length";
                return -ERR_INVALID;
            }
        }
    }
    return 0;
}

int dhcp_msg_parse(struct dhcp_msg *m, struct span pkt, const char **ret_why) {
    struct span hw, sname, file, magic, s = pkt;
    memset(m, 0, offsetof(struct dhcp_msg, joined));
    m->joined_n = 0;
    *ret_why = NULL;
    if (pkt.n > LIM_DHCP_IN) {
        *ret_why = "message too long";
        return -ERR_INVALID;
    }
    if (span_u8(&s, &m->op) < 0 || span_u8(&s, &m->htype) < 0 || span_u8(&s, &m->hlen) < 0 ||
        span_u8(&s, &m->hops) < 0 || span_be32(&s, &m->xid) < 0 || span_be16(&s, &m->secs) < 0 ||
        span_be16(&s, &m->flags) < 0 || span_be32(&s, &m->ciaddr) < 0 ||
        span_be32(&s, &m->yiaddr) < 0 || span_be32(&s, &m->siaddr) < 0 ||
        span_be32(&s, &m->giaddr) < 0 || span_take(&s, DHCP_HW_MAX, &hw) < 0 ||
        span_take(&s, FIELD_SNAME, &sname) < 0 || span_take(&s, FIELD_FILE, &file) < 0 ||
        span_take(&s, sizeof(cookie), &magic) < 0) {
        *ret_why = "message too short";
        return -ERR_INVALID;
    }
    if (!span_eq(magic, span_of(cookie, sizeof(cookie)))) {
        *ret_why = "no DHCP cookie";
        return -ERR_INVALID;
    }
    if (m->hlen > DHCP_HW_MAX || (m->op != 1 && m->op != 2)) {
        *ret_why = "impossible header";
        return -ERR_INVALID;
    }
    memcpy(m->chaddr, hw.p, DHCP_HW_MAX);
    if (read_opts(m, s, ret_why) < 0) {
        return -ERR_INVALID;
    }
    /* The overload option counts only from the main field, then file, then sname (RFC 2131 §4.1). */
    struct span ov = m->opt[DHCP_OPT_OVERLOAD];
    unsigned overload = ov.n == 1 ? ov.p[0] : 0;
    if ((overload & OVERLOAD_FILE) && read_opts(m, file, ret_why) < 0) {
        return -ERR_INVALID;
    }
    if ((overload & OVERLOAD_SNAME) && read_opts(m, sname, ret_why) < 0) {
        return -ERR_INVALID;
    }
    m->file = overload & OVERLOAD_FILE ? SPAN_EMPTY : field_text(file);
    m->sname = overload & OVERLOAD_SNAME ? SPAN_EMPTY : field_text(sname);
    if (check_opts(m, ret_why) < 0) {
        return -ERR_INVALID;
    }
    struct span type = m->opt[DHCP_OPT_TYPE];
    m->type = type.n ? type.p[0] : 0;
    return 0;
}

uint32_t dhcp_get_ip(const struct dhcp_msg *m, uint8_t code, uint32_t def) {
    struct span s = m->opt[code];
    uint32_t v;
    return span_be32(&s, &v) < 0 ? def : v;
}

uint16_t dhcp_get_u16(const struct dhcp_msg *m, uint8_t code, uint16_t def) {
    struct span s = m->opt[code];
    uint16_t v;
    return span_be16(&s, &v) < 0 ? def : v;
}

/* ---- writing ---- */

void dhcp_opts_add(struct dhcp_opts *o, uint8_t code, bool must, struct span value) {
    for (size_t i = 0; i < o->n; i++) {
        if (o->v[i].code == code) {
            return;
        }
    }
    if (o->n == LIM_DHCP_OPTS_OUT || value.n > sizeof(o->bytes) - o->used) {
        o->failed = true;
        return;
    }
    o->v[o->n].code = code;
    o->v[o->n].must = must;
    o->v[o->n].at = (uint16_t)o->used;
    o->v[o->n].n = (uint16_t)value.n;
    o->n++;
    if (value.n) {
        memcpy(o->bytes + o->used, value.p, value.n);
        o->used += value.n;
    }
}

void dhcp_opts_u8(struct dhcp_opts *o, uint8_t code, bool must, uint8_t v) {
    dhcp_opts_add(o, code, must, span_of(&v, 1));
}
void dhcp_opts_u16(struct dhcp_opts *o, uint8_t code, bool must, uint16_t v) {
    uint8_t b[2] = {(uint8_t)(v >> 8), (uint8_t)v};
    dhcp_opts_add(o, code, must, span_of(b, sizeof(b)));
}
void dhcp_opts_u32(struct dhcp_opts *o, uint8_t code, bool must, uint32_t v) {
    uint8_t b[4] = {(uint8_t)(v >> 24), (uint8_t)(v >> 16), (uint8_t)(v >> 8), (uint8_t)v};
    dhcp_opts_add(o, code, must, span_of(b, sizeof(b)));
}

/* Bytes of an option on the wire: a header for every started 255 bytes, at least one. */
static size_t wire_size(size_t n) {
    return n + 2 * (n ? (n + 254) / 255 : 1);
}

static void put_opt(struct buf *b, uint8_t code, struct span v) {
    do {
        struct span piece;
        IGNORE_ERR(span_take(&v, v.n < 255 ? v.n : 255, &piece), "length bounded");
        buf_u8(b, code);
        buf_u8(b, (uint8_t)piece.n);
        buf_span(b, piece);
    } while (v.n);
}

/* The three places where options can go. One byte of each is kept for END. */
struct area {
    struct buf b;
    size_t room;
};
static void area_fini(struct area *a) {
    buf_fini(&a->b);
}

static bool area_put(struct area *a, uint8_t code, struct span v) {
    size_t n = wire_size(v.n);
    if (n > a->room) {
        return false;
    }
    a->room -= n;
    put_opt(&a->b, code, v);
    return true;
}

static void put_field(struct buf *b, struct area *a, struct span text, size_t size) {
    size_t start = b->n;
    if (a->b.n) {
        buf_span(b, buf_view(&a->b));
        buf_u8(b, OPT_END);
    } else {
        buf_span(b, text);
    }
    buf_zero(b, size - (b->n - start));
}

static void put_header(struct buf *b, const struct dhcp_msg *m) {
    buf_u8(b, m->op);
    buf_u8(b, m->htype);
    buf_u8(b, m->hlen);
    buf_u8(b, m->hops);
    buf_be32(b, m->xid);
    buf_be16(b, m->secs);
    buf_be16(b, m->flags);
    buf_be32(b, m->ciaddr);
    buf_be32(b, m->yiaddr);
    buf_be32(b, m->siaddr);
    buf_be32(b, m->giaddr);
    buf_add(b, m->chaddr, DHCP_HW_MAX);
}

int dhcp_msg_write(const struct dhcp_msg *m, const struct dhcp_opts *o, size_t max,
                   struct buf *ret) {
    enum { OVERLOAD_SIZE = 3, END_SIZE = 1 };
    AUTO(area) struct area main = {BUF_INIT(LIM_DHCP_IN), 0};
    AUTO(area) struct area file = {BUF_INIT(FIELD_FILE), m->file.n ? 0 : FIELD_FILE - END_SIZE};
    AUTO(area) struct area sname = {BUF_INIT(FIELD_SNAME), m->sname.n ? 0 : FIELD_SNAME - END_SIZE};
    struct span agent = SPAN_EMPTY;
    if (o->failed || max < DHCP_HEADER + OVERLOAD_SIZE + END_SIZE || m->file.n > FIELD_FILE ||
        m->sname.n > FIELD_SNAME) {
        return -ERR_LIMIT;
    }
    main.room = max - DHCP_HEADER - OVERLOAD_SIZE - END_SIZE;
    for (size_t i = 0; i < o->n; i++) {
        if (o->v[i].code == DHCP_OPT_AGENT) { /* goes last, but its room is taken first */
            agent = span_of(o->bytes + o->v[i].at, o->v[i].n);
            if (wire_size(agent.n) > main.room) {
                return -ERR_LIMIT;
            }
            main.room -= wire_size(agent.n);
        }
    }
    for (int must = 1; must >= 0; must--) {
        for (size_t i = 0; i < o->n; i++) {
            struct span v = span_of(o->bytes + o->v[i].at, o->v[i].n);
            uint8_t code = o->v[i].code;
            if (code == DHCP_OPT_AGENT || o->v[i].must != (bool)must) {
                continue;
            }
            if (!area_put(&main, code, v) && !area_put(&file, code, v) &&
                !area_put(&sname, code, v) && must) {
                return -ERR_LIMIT;
            }
        }
    }
    unsigned overload = (file.b.n ? OVERLOAD_FILE : 0u) | (sname.b.n ? OVERLOAD_SNAME : 0u);
    size_t start = ret->n;
    put_header(ret, m);
    put_field(ret, &sname, m->sname, FIELD_SNAME);
    put_field(ret, &file, m->file, FIELD_FILE);
    buf_add(ret, cookie, sizeof(cookie));
    if (overload) {
        buf_u8(ret, DHCP_OPT_OVERLOAD);
        buf_u8(ret, 1);
        buf_u8(ret, (uint8_t)overload);
    }
    buf_span(ret, buf_view(&main.b));
    if (agent.p) {
        put_opt(ret, DHCP_OPT_AGENT, agent);
    }
    buf_u8(ret, OPT_END);
    size_t n = ret->n - start;
    if (n < MIN_MESSAGE) {
        buf_zero(ret, MIN_MESSAGE - n);
    }
    return buf_ok(ret);
}
