#include "internal/cpio/cpio.h"

#include <sys/stat.h>

static const char magic[] = "070701";
static const char trailer[] = "TRAILER!!!";

enum { N_FIELDS = 13 };
enum {
    F_INO,
    F_MODE,
    F_UID,
    F_GID,
    F_NLINK,
    F_MTIME,
    F_SIZE,
    F_MAJ,
    F_MIN,
    F_RMAJ,
    F_RMIN,
    F_NAME
};

static void pad4(struct buf *b) {
    buf_zero(b, (4 - b->n % 4) % 4);
}

/* The offsets of header, name and data are all multiples of 4 from the start of the archive. */
int cpio_add(struct buf *b, const struct cpio_entry *e) {
    if (e->name.n == 0 || e->name.n >= LIM_CPIO_NAME || e->data.n > UINT32_MAX) {
        return -ERR_LIMIT;
    }
    const uint32_t f[N_FIELDS] = {
        [F_INO] = e->ino,
        [F_MODE] = e->mode,
        [F_NLINK] = S_ISDIR(e->mode) ? 2 : 1,
        [F_MTIME] = e->mtime,
        [F_SIZE] = (uint32_t)e->data.n,
        [F_RMAJ] = e->rdev_major,
        [F_RMIN] = e->rdev_minor,
        [F_NAME] = (uint32_t)e->name.n + 1,
    };
    buf_str(b, magic);
    for (size_t i = 0; i < N_FIELDS; i++) {
        buf_fmt(b, "%08x", f[i]);
    }
    buf_span(b, e->name);
    buf_u8(b, 0);
    pad4(b);
    buf_span(b, e->data);
    pad4(b);
    return buf_ok(b);
}

int cpio_end(struct buf *b) {
    IGNORE_ERR(cpio_add(b, &(struct cpio_entry){.name = span_str(trailer)}),
               "sticky in the buffer");
    buf_zero(b, (512 - b->n % 512) % 512);
    return buf_ok(b);
}

static int skip_pad(struct span *s, size_t used) {
    return span_skip(s, (4 - used % 4) % 4);
}

int cpio_next(struct span *s, struct cpio_entry *ret) {
    struct span in = *s, m, name, data;
    uint64_t f[N_FIELDS];
    if (span_take(&in, 6, &m) < 0 || !span_eq_str(m, magic)) {
        return -ERR_INVALID;
    }
    for (size_t i = 0; i < N_FIELDS; i++) {
        struct span hex;
        if (span_take(&in, 8, &hex) < 0 || span_hex_to_u64(hex, UINT32_MAX, &f[i]) < 0) {
            return -ERR_INVALID;
        }
    }
    if (f[F_NAME] == 0 || f[F_NAME] > LIM_CPIO_NAME) {
        return -ERR_LIMIT;
    }
    if (span_take(&in, f[F_NAME], &name) < 0 || name.p[name.n - 1] != 0 ||
        skip_pad(&in, 6 + 8 * N_FIELDS + name.n) < 0 || span_take(&in, f[F_SIZE], &data) < 0 ||
        skip_pad(&in, data.n) < 0) {
        return -ERR_INVALID;
    }
    name.n--;
    *s = in;
    if (span_eq_str(name, trailer)) {
        return -ERR_NOT_FOUND;
    }
    *ret = (struct cpio_entry){.name = name,
                               .mode = (uint32_t)f[F_MODE],
                               .ino = (uint32_t)f[F_INO],
                               .mtime = (uint32_t)f[F_MTIME],
                               .rdev_major = (uint32_t)f[F_RMAJ],
                               .rdev_minor = (uint32_t)f[F_RMIN],
                               .data = data};
    return 0;
}
