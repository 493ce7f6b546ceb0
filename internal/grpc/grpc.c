#include "internal/grpc/grpc.h"

#include "internal/base/rand.h"

enum { PREFIX = 5 };

int grpc_frame(struct buf *b, struct span message) {
    buf_u8(b, 0);
    buf_be32(b, (uint32_t)message.n);
    return buf_span(b, message);
}

size_t grpc_begin(struct buf *b) {
    buf_zero(b, PREFIX);
    return b->n;
}

void grpc_end(struct buf *b, size_t mark) {
    grpc_end_with(b, mark, 0);
}

void grpc_end_with(struct buf *b, size_t mark, size_t more) {
    if (buf_ok(b) < 0) {
        return;
    }
    size_t n = b->n - mark + more;
    for (size_t i = 0; i < 4; i++) {
        b->p[mark - 4 + i] = (uint8_t)(n >> (24 - 8 * i));
    }
}

int grpc_message(struct buf *b, struct span text) {
    for (size_t i = 0; i < text.n; i++) {
        uint8_t c = text.p[i];
        if (c >= 0x20 && c < 0x7f && c != '%') {
            buf_u8(b, c);
        } else {
            buf_fmt(b, "%%%02X", c);
        }
    }
    return buf_ok(b);
}

void grpc_reader_init(struct grpc_reader *r) {
    *r = (struct grpc_reader){.in = BUF_INIT(LIM_GRPC_MESSAGE + PREFIX + 65536),
                              .max = LIM_GRPC_MESSAGE};
}

void grpc_reader_fini(struct grpc_reader *r) {
    buf_fini(&r->in);
}

void grpc_reader_set_max(struct grpc_reader *r, size_t max) {
    r->max = max;
    r->in.max = max + PREFIX + 65536;
}

int grpc_feed(struct grpc_reader *r, struct span data) {
    buf_drop(&r->in, r->taken);
    r->taken = 0;
    buf_span(&r->in, r->lent);
    r->lent = SPAN_EMPTY;
    return buf_span(&r->in, data);
}

int grpc_lend(struct grpc_reader *r, struct span data) {
    if (r->lent.n || r->in.n > r->taken) {
        return grpc_feed(r, data);
    }
    buf_drop(&r->in, r->taken);
    r->taken = 0;
    r->lent = data;
    return 0;
}

/* What is left of the data is kept, since it ends with this call. */
static int wait_for_more(struct grpc_reader *r) {
    struct span rest = r->lent;
    r->lent = SPAN_EMPTY;
    return rest.n ? buf_span(&r->in, rest) : 0;
}

int grpc_next(struct grpc_reader *r, struct span *ret) {
    buf_drop(&r->in, r->taken);
    r->taken = 0;
    struct span s = r->lent.n ? r->lent : buf_view(&r->in);
    uint8_t compressed;
    uint32_t n;
    if (span_u8(&s, &compressed) < 0 || span_be32(&s, &n) < 0) {
        return wait_for_more(r);
    }
    if (compressed) {
        return -ERR_INVALID;
    }
    if (n > r->max) {
        r->refused = n;
        return -ERR_LIMIT;
    }
    if (span_take(&s, n, ret) < 0) {
        return wait_for_more(r);
    }
    if (r->lent.n) {
        r->lent = s;
    } else {
        r->taken = PREFIX + (size_t)n;
    }
    return 1;
}

int grpc_status(struct span status, struct span message, struct err *e) {
    static const enum err_code codes[] = {
        ERR_OK,          ERR_CANCELLED,       ERR_INTERNAL,
        ERR_INVALID,     ERR_TIMEOUT,         ERR_NOT_FOUND,
        ERR_EXISTS,      ERR_FORBIDDEN,       ERR_LIMIT,
        ERR_CONFLICT,    ERR_CANCELLED,       ERR_GONE,
        ERR_UNSUPPORTED, ERR_INTERNAL,        ERR_UNAVAILABLE,
        ERR_CORRUPT,     ERR_UNAUTHENTICATED,
    };
    uint64_t n;
    AUTO(buf) struct buf text = BUF_INIT(65536);
    if (span_to_u64(status, 0, ARRAY_LEN(codes) - 1, &n) < 0) {
        return err_set(e, ERR_INVALID, "gRPC answer without status");
    }
    if (n == 0) {
        return 0;
    }
    if (url_decode(&text, message, false) < 0) {
        buf_reset(&text);
    }
    return err_set(e, codes[n], "%.200s", buf_cstr(&text));
}
