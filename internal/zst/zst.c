#include "internal/zst/zst.h"

#include <zstd.h>

int zst_compress(struct buf *b, struct span s, int level) {
    size_t bound = ZSTD_compressBound(s.n);
    uint8_t *room = buf_room(b, bound);
    if (!room) {
        return b->failed;
    }
    size_t n = ZSTD_compress(room, bound, s.p, s.n, level);
    if (ZSTD_isError(n)) {
        return -ERR_NOMEM;
    }
    buf_added(b, n);
    return 0;
}

int zst_decompress(struct buf *b, struct span s) {
    ZSTD_DStream *d = ZSTD_createDStream();
    if (!d) {
        return -ERR_NOMEM;
    }
    ZSTD_inBuffer in = {s.p, s.n, 0};
    size_t left = 1;
    int rc = 0;
    while (rc == 0 && (in.pos < in.size || left > 0)) {
        size_t want = ZSTD_DStreamOutSize();
        uint8_t *room = buf_room(b, want);
        if (!room) {
            rc = b->failed;
            break;
        }
        ZSTD_outBuffer out = {room, want, 0};
        size_t before = in.pos;
        left = ZSTD_decompressStream(d, &out, &in);
        buf_added(b, out.pos);
        if (ZSTD_isError(left) || (left > 0 && out.pos == 0 && in.pos == before)) {
            rc = -ERR_INVALID;
        }
    }
    ZSTD_freeDStream(d);
    return rc;
}
