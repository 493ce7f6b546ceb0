#include "internal/wire/wire.h"

int wire_next(struct span *s, struct wire_field *ret) {
    if (!s->n) {
        return 0;
    }
    struct span at = *s;
    struct wire_field f = {0};
    uint64_t tag, n;
    uint32_t v32;
    if (span_varint(&at, &tag) < 0 || tag >> 3 == 0 || tag >> 3 > 0x1fffffff) {
        return -ERR_INVALID;
    }
    f.no = (uint32_t)(tag >> 3);
    int rc = -ERR_INVALID;
    switch (tag & 7) {
    case WIRE_VARINT:
        f.wire = WIRE_VARINT;
        rc = span_varint(&at, &f.v);
        break;
    case WIRE_FIXED64:
        f.wire = WIRE_FIXED64;
        rc = span_le64(&at, &f.v);
        break;
    case WIRE_BYTES:
        f.wire = WIRE_BYTES;
        rc = span_varint(&at, &n);
        if (rc == 0) {
            rc = n > at.n ? -ERR_INVALID : span_take(&at, (size_t)n, &f.bytes);
        }
        break;
    case WIRE_FIXED32:
        f.wire = WIRE_FIXED32;
        rc = span_le32(&at, &v32);
        f.v = rc == 0 ? v32 : 0;
        break;
    default: break;
    }
    if (rc < 0) {
        return -ERR_INVALID;
    }
    *s = at;
    *ret = f;
    return 1;
}

void wire_u64(struct buf *b, uint32_t no, uint64_t v) {
    if (v) {
        buf_varint(b, (uint64_t)no << 3);
        buf_varint(b, v);
    }
}

void wire_bytes_always(struct buf *b, uint32_t no, struct span s) {
    buf_varint(b, (uint64_t)no << 3 | WIRE_BYTES);
    buf_varint(b, s.n);
    buf_span(b, s);
}

void wire_bytes(struct buf *b, uint32_t no, struct span s) {
    if (s.n) {
        wire_bytes_always(b, no, s);
    }
}

size_t wire_begin(struct buf *b, uint32_t no) {
    buf_varint(b, (uint64_t)no << 3 | WIRE_BYTES);
    return b->n;
}

/* The length is known only now: it is put in front of what was written. */
size_t wire_end_with(struct buf *b, size_t mark, size_t more) {
    size_t n = b->n - mark, k = wire_varint_len(n + more);
    if (buf_zero(b, k) < 0) {
        return 0;
    }
    memmove(b->p + mark + k, b->p + mark, n);
    for (size_t i = 0, v = n + more; i < k; i++, v >>= 7) {
        b->p[mark + i] = (uint8_t)((v & 0x7f) | (i + 1 < k ? 0x80 : 0));
    }
    return k;
}

void wire_end(struct buf *b, size_t mark) {
    wire_end_with(b, mark, 0);
}

size_t wire_varint_len(uint64_t v) {
    size_t k = 1;
    while (v >= 0x80) {
        v >>= 7;
        k++;
    }
    return k;
}
