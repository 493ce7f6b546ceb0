#include "internal/tar/tar.h"

/* Header fields: offset and length in the 512-byte block. */
struct field {
    size_t at, n;
};
static const struct field f_name = {0, 100}, f_mode = {100, 8}, f_uid = {108, 8}, f_gid = {116, 8},
                          f_size = {124, 12}, f_mtime = {136, 12}, f_sum = {148, 8},
                          f_type = {156, 1}, f_link = {157, 100}, f_magic = {257, 8},
                          f_uname = {265, 32}, f_gname = {297, 32}, f_major = {329, 8},
                          f_minor = {337, 8}, f_prefix = {345, 155};

static struct span get(struct span h, struct field f) {
    return span_of(h.p + f.at, f.n);
}

static struct span text(struct span s) {
    ptrdiff_t nul = span_index(s, 0);
    return nul < 0 ? s : span_of(s.p, (size_t)nul);
}

/* Octal digits, or GNU's base-256 form for what does not fit. */
static int number(struct span s, uint64_t *ret) {
    uint64_t v = 0;
    if (s.p[0] & 0x80) {
        for (size_t i = 1; i < s.n; i++) {
            if (v >> 56) {
                return -ERR_INVALID;
            }
            v = v << 8 | s.p[i];
        }
        *ret = v;
        return 0;
    }
    s = span_trim(text(s));
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] < '0' || s.p[i] > '7' || v >> 60) {
            return -ERR_INVALID;
        }
        v = v << 3 | (uint64_t)(s.p[i] - '0');
    }
    *ret = v;
    return 0;
}

static uint64_t checksum(struct span h) {
    uint64_t sum = 0;
    for (size_t i = 0; i < h.n; i++) {
        sum += i >= f_sum.at && i < f_sum.at + f_sum.n ? ' ' : h.p[i];
    }
    return sum;
}

void tar_reader_init(struct tar_reader *r, struct span archive) {
    *r = (struct tar_reader){archive, BUF_INIT(LIM_TAR_NAME), BUF_INIT(LIM_TAR_NAME)};
}

void tar_reader_fini(struct tar_reader *r) {
    buf_fini(&r->name);
    buf_fini(&r->link);
}

static int set_text(struct buf *b, struct span s) {
    buf_reset(b);
    buf_span(b, s);
    return span_index(s, 0) >= 0 ? -ERR_INVALID : buf_ok(b);
}

/* pax records: "<length> <key>=<value>\n" */
static int pax(struct tar_reader *r, struct span s, bool *has_name, bool *has_link, uint64_t *size,
               bool *has_size) {
    while (s.n > 0) {
        struct span digits, record, key, at = s;
        uint64_t len;
        if (span_until(&at, ' ', &digits) < 0 || span_to_u64(digits, 1, LIM_TAR_PAX, &len) < 0 ||
            len < digits.n + 2 || span_take(&s, len, &record) < 0 || record.p[len - 1] != '\n') {
            return -ERR_INVALID;
        }
        record = span_of(record.p + digits.n + 1, record.n - digits.n - 2);
        if (span_until(&record, '=', &key) < 0) {
            return -ERR_INVALID;
        }
        int rc = 0;
        if (span_eq_str(key, "path")) {
            *has_name = true;
            rc = set_text(&r->name, record);
        } else if (span_eq_str(key, "linkpath")) {
            *has_link = true;
            rc = set_text(&r->link, record);
        } else if (span_eq_str(key, "size")) {
            *has_size = true;
            rc = span_to_u64(record, 0, INT64_MAX, size);
        } else if (span_starts(key, "GNU.sparse.")) {
            rc = -ERR_UNSUPPORTED;
        }
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

static int body(struct tar_reader *r, uint64_t size, struct span *ret) {
    uint64_t pad = (TAR_BLOCK - size % TAR_BLOCK) % TAR_BLOCK;
    return size > r->left.n || span_take(&r->left, size, ret) < 0 || span_skip(&r->left, pad) < 0
               ? -ERR_INVALID
               : 0;
}

static struct span clean(struct buf *b) {
    struct span s = buf_view(b);
    while (span_starts(s, "./")) {
        s = span_of(s.p + 2, s.n - 2);
    }
    while (s.n > 0 && s.p[s.n - 1] == '/') {
        s.n--;
    }
    return s;
}

static int names(struct tar_reader *r, struct span h, bool has_name, bool has_link) {
    if (!has_name) {
        bool ustar = span_starts(get(h, f_magic), "ustar");
        struct span prefix = ustar ? text(get(h, f_prefix)) : SPAN_EMPTY;
        if (span_starts(get(h, f_magic),
                        "ustar  ")) { /* old GNU uses these bytes for other things */
            prefix = SPAN_EMPTY;
        }
        buf_reset(&r->name);
        buf_span(&r->name, prefix);
        buf_str(&r->name, prefix.n ? "/" : "");
        buf_span(&r->name, text(get(h, f_name)));
    }
    if (!has_link) {
        buf_reset(&r->link);
        buf_span(&r->link, text(get(h, f_link)));
    }
    struct span s = clean(&r->name);
    buf_trunc(&r->name, (size_t)(s.p - r->name.p) + s.n);
    buf_drop(&r->name, r->name.n - s.n);
    return buf_ok(&r->name) < 0 ? buf_ok(&r->name) : buf_ok(&r->link);
}

int tar_next(struct tar_reader *r, struct tar_entry *ret) {
    bool has_name = false, has_link = false, has_size = false;
    uint64_t pax_size = 0;
    for (;;) {
        struct span h, data;
        uint64_t sum, size, mode, uid, gid, mtime, major, minor;
        if (r->left.n == 0) {
            return -ERR_NOT_FOUND;
        }
        if (span_take(&r->left, TAR_BLOCK, &h) < 0) {
            return -ERR_INVALID;
        }
        if (checksum(h) == 8 * ' ') { /* a block of zeros ends the archive */
            return -ERR_NOT_FOUND;
        }
        if (number(get(h, f_sum), &sum) < 0 || sum != checksum(h) ||
            number(get(h, f_size), &size) < 0 || number(get(h, f_mode), &mode) < 0 ||
            number(get(h, f_uid), &uid) < 0 || number(get(h, f_gid), &gid) < 0 ||
            number(get(h, f_mtime), &mtime) < 0) {
            return -ERR_INVALID;
        }
        uint8_t type = h.p[f_type.at] ? h.p[f_type.at] : '0';
        bool is_file = type == '0' || type == '7';
        if (type == 'L' || type == 'K' || type == 'x' || type == 'g') {
            if (size > LIM_TAR_PAX) {
                return -ERR_LIMIT;
            }
            if (body(r, size, &data) < 0) {
                return -ERR_INVALID;
            }
            int rc = 0;
            if (type == 'L') {
                has_name = true;
                rc = set_text(&r->name, text(data));
            } else if (type == 'K') {
                has_link = true;
                rc = set_text(&r->link, text(data));
            } else if (type == 'x') {
                rc = pax(r, data, &has_name, &has_link, &pax_size, &has_size);
            }
            if (rc < 0) {
                return rc;
            }
            continue;
        }
        if (!is_file && (type < '1' || type > '6')) {
            return -ERR_UNSUPPORTED;
        }
        if (number(get(h, f_major), &major) < 0 || number(get(h, f_minor), &minor) < 0) {
            major = minor = 0; /* old archives have no such fields */
        }
        size = !is_file ? 0 : has_size ? pax_size : size;
        int rc = names(r, h, has_name, has_link);
        if (rc < 0 || body(r, size, &data) < 0) {
            return rc < 0 ? rc : -ERR_INVALID;
        }
        *ret = (struct tar_entry){.type = is_file ? TAR_FILE : (enum tar_type)type,
                                  .name = buf_cstr(&r->name),
                                  .link = buf_cstr(&r->link),
                                  .mode = (uint32_t)(mode & 07777),
                                  .uid = (uint32_t)uid,
                                  .gid = (uint32_t)gid,
                                  .dev_major = (uint32_t)major,
                                  .dev_minor = (uint32_t)minor,
                                  .mtime = mtime,
                                  .size = size,
                                  .data = data};
        return 0;
    }
}

/* ---- writing ---- */

static void put(uint8_t *h, struct field f, struct span s) {
    if (s.n > 0) {
        memcpy(h + f.at, s.p, s.n < f.n ? s.n : f.n);
    }
}

/* n-1 octal digits and a NUL; false when the value does not fit. */
static bool put_octal(uint8_t *h, struct field f, uint64_t v) {
    for (size_t i = f.n - 1; i-- > 0; v >>= 3) {
        h[f.at + i] = (uint8_t)('0' + (v & 7));
    }
    return v == 0;
}

static void put_header(struct buf *b, const struct tar_entry *e, char type, struct span name,
                       struct span link, uint64_t size) {
    uint8_t h[TAR_BLOCK] = {0};
    put(h, f_name, name);
    put(h, f_link, link);
    put_octal(h, f_mode, e->mode);
    put_octal(h, f_uid, e->uid);
    put_octal(h, f_gid, e->gid);
    put_octal(h, f_size, size);
    put_octal(h, f_mtime, e->mtime);
    put_octal(h, f_major, e->dev_major);
    put_octal(h, f_minor, e->dev_minor);
    h[f_type.at] = (uint8_t)type;
    put(h, f_magic,
        span_of("ustar\0"
                "00",
                8));
    put(h, f_uname, SPAN_LIT("root"));
    put(h, f_gname, SPAN_LIT("root"));
    put_octal(h, (struct field){f_sum.at, 7}, checksum(span_of(h, TAR_BLOCK)));
    h[f_sum.at + 7] = ' ';
    buf_add(b, h, TAR_BLOCK);
}

/* The record's length counts its own digits. */
static void pax_record(struct buf *b, const char *key, const char *value) {
    size_t rest = strlen(key) + strlen(value) + 3, n = rest + 1;
    for (size_t digits = 1, top = 10; n >= top; digits++, top *= 10) {
        n = rest + digits + 1;
    }
    buf_fmt(b, "%zu %s=%s\n", n, key, value);
}

int tar_head(struct buf *b, const struct tar_entry *e) {
    AUTO(buf) struct buf ext = BUF_INIT(LIM_TAR_PAX);
    struct span name = span_str(e->name), link = span_str(e->link);
    if (name.n == 0 || name.n > LIM_TAR_NAME || link.n > LIM_TAR_NAME) {
        return -ERR_LIMIT;
    }
    if (name.n > f_name.n) {
        pax_record(&ext, "path", e->name);
    }
    if (link.n > f_link.n) {
        pax_record(&ext, "linkpath", e->link);
    }
    if (e->size >> 33) {
        char digits[24];
        IGNORE_ERR(str_put(digits, sizeof(digits), "%llu", (unsigned long long)e->size), "fits");
        pax_record(&ext, "size", digits);
    }
    if (ext.n > 0) {
        put_header(b, &(struct tar_entry){.mode = 0644, .mtime = e->mtime}, 'x', SPAN_LIT("pax"),
                   SPAN_EMPTY, ext.n);
        buf_span(b, buf_view(&ext));
        tar_pad(b, ext.n);
    }
    put_header(b, e, (char)e->type, name, link, e->size >> 33 ? 0 : e->size);
    return buf_ok(b);
}

int tar_pad(struct buf *b, uint64_t size) {
    return buf_zero(b, (TAR_BLOCK - size % TAR_BLOCK) % TAR_BLOCK);
}

int tar_end(struct buf *b) {
    return buf_zero(b, (size_t)2 * TAR_BLOCK);
}

int tar_add(struct buf *b, const struct tar_entry *e) {
    struct tar_entry head = *e;
    head.size = e->data.n;
    int rc = tar_head(b, &head);
    if (rc < 0) {
        return rc;
    }
    buf_span(b, e->data);
    return tar_pad(b, e->data.n);
}
