#include "internal/base/span.h"

int span_take(struct span *s, size_t n, struct span *ret) {
    if (n > s->n) {
        return -ERR_INVALID;
    }
    *ret = (struct span){s->p, n};
    if (n) {
        s->p += n;
        s->n -= n;
    }
    return 0;
}

int span_skip(struct span *s, size_t n) {
    struct span gone;
    return span_take(s, n, &gone);
}

int span_u8(struct span *s, uint8_t *ret) {
    struct span b;
    int rc = span_take(s, 1, &b);
    if (rc < 0) {
        return rc;
    }
    *ret = b.p[0];
    return 0;
}

static int take_be(struct span *s, size_t n, uint64_t *ret) {
    struct span b;
    int rc = span_take(s, n, &b);
    if (rc < 0) {
        return rc;
    }
    uint64_t v = 0;
    for (size_t i = 0; i < n; i++) {
        v = v << 8 | b.p[i];
    }
    *ret = v;
    return 0;
}

static int take_le(struct span *s, size_t n, uint64_t *ret) {
    struct span b;
    int rc = span_take(s, n, &b);
    if (rc < 0) {
        return rc;
    }
    uint64_t v = 0;
    for (size_t i = n; i > 0; i--) {
        v = v << 8 | b.p[i - 1];
    }
    *ret = v;
    return 0;
}

#define TAKE_INT(name, order, bytes, type)   \
    int name(struct span *s, type *ret) {    \
        uint64_t v;                          \
        int rc = take_##order(s, bytes, &v); \
        if (rc >= 0) {                       \
            *ret = (type)v;                  \
        }                                    \
        return rc;                           \
    }
TAKE_INT(span_be16, be, 2, uint16_t)
TAKE_INT(span_be32, be, 4, uint32_t)
TAKE_INT(span_be64, be, 8, uint64_t)
TAKE_INT(span_le16, le, 2, uint16_t)
TAKE_INT(span_le32, le, 4, uint32_t)
TAKE_INT(span_le64, le, 8, uint64_t)

int span_varint(struct span *s, uint64_t *ret) {
    uint64_t v = 0;
    for (size_t i = 0; i < 10; i++) {
        if (i >= s->n) {
            return -ERR_INVALID;
        }
        uint8_t b = s->p[i];
        if (i == 9 && b > 1) {
            return -ERR_INVALID;
        }
        v |= (uint64_t)(b & 0x7f) << (7 * i);
        if (!(b & 0x80)) {
            *ret = v;
            return span_skip(s, i + 1);
        }
    }
    return -ERR_INVALID;
}

ptrdiff_t span_index(struct span a, uint8_t c) {
    const uint8_t *q = a.n ? memchr(a.p, c, a.n) : NULL;
    return q ? q - a.p : -1;
}

int span_until(struct span *s, uint8_t c, struct span *ret) {
    ptrdiff_t i = span_index(*s, c);
    if (i < 0) {
        return -ERR_INVALID;
    }
    int rc = span_take(s, (size_t)i, ret);
    return rc < 0 ? rc : span_skip(s, 1);
}

int span_line(struct span *s, struct span *ret) {
    if (!s->n) {
        return -ERR_INVALID;
    }
    struct span l;
    if (span_until(s, '\n', &l) < 0) {
        l = *s;
        *s = span_of(s->p + s->n, 0);
    }
    if (l.n && l.p[l.n - 1] == '\r') {
        l.n--;
    }
    *ret = l;
    return 0;
}

int span_end(const struct span *s) {
    return s->n ? -ERR_INVALID : 0;
}

bool span_next(struct span *s, uint8_t c, struct span *head) {
    if (!s->p) {
        return false;
    }
    if (span_until(s, c, head) < 0) {
        *head = *s;
        *s = SPAN_EMPTY;
    }
    return true;
}

static uint8_t lower(uint8_t c) {
    return c >= 'A' && c <= 'Z' ? (uint8_t)(c + 32) : c;
}

bool span_eq_nocase(struct span a, const char *s) {
    if (a.n != strlen(s)) {
        return false;
    }
    for (size_t i = 0; i < a.n; i++) {
        if (lower(a.p[i]) != lower((uint8_t)s[i])) {
            return false;
        }
    }
    return true;
}

bool span_ends(struct span a, const char *suffix) {
    size_t n = strlen(suffix);
    return a.n >= n && (!n || memcmp(a.p + a.n - n, suffix, n) == 0);
}

int span_cmp(struct span a, struct span b) {
    size_t n = a.n < b.n ? a.n : b.n;
    int d = n ? memcmp(a.p, b.p, n) : 0;
    return d ? d : a.n < b.n ? -1 : a.n > b.n;
}

struct span span_trim(struct span a) {
    while (a.n && (a.p[0] == ' ' || a.p[0] == '\t')) {
        a.p++;
        a.n--;
    }
    while (a.n && (a.p[a.n - 1] == ' ' || a.p[a.n - 1] == '\t')) {
        a.n--;
    }
    return a;
}

int span_to_cstr(struct span a, char *dst, size_t cap) {
    if (a.n >= cap || span_index(a, 0) >= 0) {
        return -ERR_LIMIT;
    }
    if (a.n) {
        memcpy(dst, a.p, a.n);
    }
    dst[a.n] = 0;
    return 0;
}

int span_to_u64(struct span a, uint64_t min, uint64_t max, uint64_t *ret) {
    uint64_t v = 0;
    if (!a.n) {
        return -ERR_INVALID;
    }
    for (size_t i = 0; i < a.n; i++) {
        uint8_t c = a.p[i];
        if (c < '0' || c > '9' || ck_mul(v, 10u, &v) || ck_add(v, (uint64_t)(c - '0'), &v)) {
            return -ERR_INVALID;
        }
    }
    if (v < min || v > max) {
        return -ERR_INVALID;
    }
    *ret = v;
    return 0;
}

int span_to_i64(struct span a, int64_t min, int64_t max, int64_t *ret) {
    bool neg = a.n && a.p[0] == '-';
    uint64_t u;
    if (neg) {
        a.p++;
        a.n--;
    }
    if (span_to_u64(a, 0, (uint64_t)INT64_MAX + (neg ? 1 : 0), &u) < 0) {
        return -ERR_INVALID;
    }
    int64_t v = neg ? (int64_t)(~u + 1) : (int64_t)u;
    if (v < min || v > max) {
        return -ERR_INVALID;
    }
    *ret = v;
    return 0;
}

int span_hex_to_u64(struct span a, uint64_t max, uint64_t *ret) {
    uint64_t v = 0;
    if (!a.n || a.n > 16) {
        return -ERR_INVALID;
    }
    for (size_t i = 0; i < a.n; i++) {
        uint8_t c = lower(a.p[i]);
        unsigned d;
        if (c >= '0' && c <= '9') {
            d = (unsigned)(c - '0');
        } else if (c >= 'a' && c <= 'f') {
            d = (unsigned)(c - 'a') + 10;
        } else {
            return -ERR_INVALID;
        }
        v = v << 4 | d;
    }
    if (v > max) {
        return -ERR_INVALID;
    }
    *ret = v;
    return 0;
}
