#include "internal/pki/der_int.h"

#include "internal/base/rand.h"

size_t der_open(struct buf *b, uint8_t tag) {
    buf_u8(b, tag);
    return b->n;
}

void der_close(struct buf *b, size_t at) {
    if (buf_ok(b) < 0) {
        return;
    }
    size_t len = b->n - at, extra = len < 0x80 ? 1 : len < 0x100 ? 2 : len < 0x10000 ? 3 : 4;
    if (!buf_room(b, extra)) {
        return;
    }
    uint8_t *p = b->p + at;
    memmove(p + extra, p, len);
    if (extra == 1) {
        p[0] = (uint8_t)len;
    } else {
        p[0] = (uint8_t)(0x80 | (extra - 1));
        for (size_t i = 1; i < extra; i++) {
            p[i] = (uint8_t)(len >> (8 * (extra - 1 - i)));
        }
    }
    buf_added(b, extra);
}

void der_put(struct buf *b, uint8_t tag, struct span content) {
    size_t at = der_open(b, tag);
    buf_span(b, content);
    der_close(b, at);
}

void der_str(struct buf *b, uint8_t tag, const char *s) {
    der_put(b, tag, span_str(s));
}

void der_bool(struct buf *b, bool v) {
    der_put(b, DER_BOOL, v ? SPAN_LIT("\xff") : SPAN_LIT("\x00"));
}

void der_uint(struct buf *b, struct span s) {
    while (s.n > 1 && s.p[0] == 0) {
        IGNORE_ERR(span_skip(&s, 1), "length checked");
    }
    size_t at = der_open(b, DER_INT);
    if (!s.n || (s.p[0] & 0x80)) {
        buf_u8(b, 0);
    }
    buf_span(b, s);
    der_close(b, at);
}

void der_time(struct buf *b, uint64_t wall_s) {
    char text[TIME_STR];
    time_rfc3339(wall_s, text);
    bool utc = span_cmp(span_of(text, 4), SPAN_LIT("2050")) < 0;
    size_t at = der_open(b, utc ? DER_UTCTIME : DER_GENTIME);
    for (const char *c = text + (utc ? 2 : 0); *c; c++) {
        if ((*c >= '0' && *c <= '9') || *c == 'Z') {
            buf_u8(b, (uint8_t)*c);
        }
    }
    der_close(b, at);
}

int der_take(struct span *s, uint8_t tag, struct span *ret_content) {
    struct span rest = *s;
    uint8_t t, first, byte;
    if (span_u8(&rest, &t) < 0 || t != tag || span_u8(&rest, &first) < 0) {
        return -ERR_INVALID;
    }
    size_t len = first;
    if (first & 0x80) {
        unsigned n = first & 0x7f;
        if (!n || n > 3) {
            return -ERR_INVALID;
        }
        for (len = 0; n; n--) {
            if (span_u8(&rest, &byte) < 0) {
                return -ERR_INVALID;
            }
            len = len << 8 | byte;
        }
    }
    if (span_take(&rest, len, ret_content) < 0) {
        return -ERR_INVALID;
    }
    *s = rest;
    return 0;
}
