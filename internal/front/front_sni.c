#include "internal/front/front.h"

enum {
    LIM_HELLO = 16384,
    TLS_HANDSHAKE = 22,
    TLS_CLIENT_HELLO = 1,
    EXT_SERVER_NAME = 0,
    NAME_HOST = 0
};

static int take_vec8(struct span *s, struct span *ret) {
    uint8_t n;
    int rc = span_u8(s, &n);
    return rc < 0 ? rc : span_take(s, n, ret);
}
static int take_vec16(struct span *s, struct span *ret) {
    uint16_t n;
    int rc = span_be16(s, &n);
    return rc < 0 ? rc : span_take(s, n, ret);
}

/* server_name extension: a list of (type, name); the first host name counts. */
static int read_names(struct span ext, struct span *ret) {
    struct span list, name;
    if (take_vec16(&ext, &list) < 0) {
        return -ERR_INVALID;
    }
    while (list.n) {
        uint8_t type;
        if (span_u8(&list, &type) < 0 || take_vec16(&list, &name) < 0) {
            return -ERR_INVALID;
        }
        if (type == NAME_HOST) {
            *ret = name;
            return 0;
        }
    }
    return 0;
}

int front_sni(struct span bytes, struct span *ret, size_t *ret_need) {
    struct span rec = bytes, hello, sid, suites, comp, exts, ext;
    uint8_t type, ver, htype, len_hi;
    uint16_t rec_len, len_lo, ext_type;
    if (bytes.n && bytes.p[0] != TLS_HANDSHAKE) {
        return -ERR_INVALID;
    }
    if (bytes.n < 5) {
        *ret_need = 5;
        return -ERR_AGAIN;
    }
    if (span_u8(&rec, &type) < 0 || span_u8(&rec, &ver) < 0 || ver != 3 ||
        span_u8(&rec, &ver) < 0 || span_be16(&rec, &rec_len) < 0 || rec_len < 4 ||
        rec_len > LIM_HELLO) {
        return -ERR_INVALID;
    }
    if (rec.n < rec_len) {
        *ret_need = 5u + rec_len;
        return -ERR_AGAIN;
    }
    /* A ClientHello split over records is legal but sent by nobody; it gets the default route. */
    if (span_take(&rec, rec_len, &hello) < 0 || span_u8(&hello, &htype) < 0 ||
        htype != TLS_CLIENT_HELLO || span_u8(&hello, &len_hi) < 0 ||
        span_be16(&hello, &len_lo) < 0) {
        return -ERR_INVALID;
    }
    *ret = SPAN_EMPTY;
    if (((size_t)len_hi << 16 | len_lo) > hello.n) {
        return 0;
    }
    if (span_skip(&hello, 2 + 32) < 0 || take_vec8(&hello, &sid) < 0 ||
        take_vec16(&hello, &suites) < 0 || take_vec8(&hello, &comp) < 0) {
        return -ERR_INVALID;
    }
    if (!hello.n) {
        return 0; /* no extensions at all */
    }
    if (take_vec16(&hello, &exts) < 0) {
        return -ERR_INVALID;
    }
    while (exts.n) {
        if (span_be16(&exts, &ext_type) < 0 || take_vec16(&exts, &ext) < 0) {
            return -ERR_INVALID;
        }
        if (ext_type == EXT_SERVER_NAME) {
            return read_names(ext, ret);
        }
    }
    return 0;
}
