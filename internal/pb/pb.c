#include "internal/pb/pb.h"

enum wire { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };
enum { LIM_PB_NESTED = 16 << 20 };

static const struct pb_message *find(const struct pb_message *table, const char *name) {
    for (const struct pb_message *m = table; m->name; m++) {
        if (str_eq(m->name, name)) {
            return m;
        }
    }
    return NULL;
}

static const struct pb_field *field_named(const struct pb_message *m, const char *name) {
    for (const struct pb_field *f = m->fields; f->name; f++) {
        if (str_eq(f->name, name)) {
            return f;
        }
    }
    return NULL;
}

static const struct pb_field *field_numbered(const struct pb_message *m, uint64_t number) {
    for (const struct pb_field *f = m->fields; f->name; f++) {
        if (f->number == number) {
            return f;
        }
    }
    return NULL;
}

static void tag(struct buf *b, const struct pb_field *f, enum wire w) {
    buf_varint(b, (uint64_t)f->number << 3 | (uint64_t)w);
}

static void put_bytes(struct buf *b, const struct pb_field *f, struct span s) {
    tag(b, f, WIRE_BYTES);
    buf_varint(b, s.n);
    buf_span(b, s);
}

/* ---- encoding ---- */

static int encode_message(const struct pb_message *table, const struct pb_message *m,
                          const struct json *v, struct buf *b, unsigned depth);

static int encode_map(const struct pb_field *f, const struct json *v, struct buf *b) {
    static const struct pb_field key = {"key", 1, PB_STRING, false, 0},
                                 value = {"value", 2, PB_STRING, false, 0};
    AUTO(buf) struct buf entry = BUF_INIT(LIM_PB_NESTED);
    JSON_EACH_KV(it, k, x, v) {
        if (!json_is_str(x)) {
            return -ERR_INVALID;
        }
        buf_reset(&entry);
        put_bytes(&entry, &key, span_str(k));
        put_bytes(&entry, &value, json_span(x));
        put_bytes(b, f, buf_view(&entry));
    }
    return buf_ok(&entry);
}

static int scalar_of(const struct pb_field *f, const struct json *v, uint64_t *ret) {
    if (f->kind == PB_BOOL) {
        if (json_kind(v) != JSON_BOOL) {
            return -ERR_INVALID;
        }
        *ret = json_bool(v, false) ? 1 : 0;
        return 0;
    }
    if (!json_is_int(v)) {
        return -ERR_INVALID;
    }
    *ret = (uint64_t)json_i64(v, 0);
    return 0;
}

static int encode_value(const struct pb_message *table, const struct pb_field *f,
                        const struct json *v, struct buf *b, unsigned depth, bool keep_default) {
    uint64_t n = 0;
    switch (f->kind) {
    case PB_MAP: return encode_map(f, v, b);
    case PB_STRING:
    case PB_BYTES:
        if (!json_is_str(v)) {
            return -ERR_INVALID;
        }
        if (keep_default || json_span(v).n > 0) {
            put_bytes(b, f, json_span(v));
        }
        return 0;
    case PB_DOUBLE: {
        double d = json_f64(v, 0);
        uint64_t raw;
        memcpy(&raw, &d, sizeof(raw));
        if (keep_default || raw) {
            tag(b, f, WIRE_64);
            buf_le64(b, raw);
        }
        return 0;
    }
    case PB_MESSAGE: {
        AUTO(buf) struct buf sub = BUF_INIT(LIM_PB_NESTED);
        int rc = encode_message(table, &table[f->message], v, &sub, depth + 1);
        if (rc == 0) {
            put_bytes(b, f, buf_view(&sub));
        }
        return rc;
    }
    case PB_INT:
    case PB_UINT:
    case PB_BOOL: break;
    }
    int rc = scalar_of(f, v, &n);
    if (rc == 0 && (keep_default || n)) {
        tag(b, f, WIRE_VARINT);
        buf_varint(b, n);
    }
    return rc;
}

static int encode_packed(const struct pb_field *f, const struct json *list, struct buf *b) {
    AUTO(buf) struct buf packed = BUF_INIT(LIM_PB_NESTED);
    JSON_EACH(it, v, list) {
        uint64_t n;
        if (scalar_of(f, v, &n) < 0) {
            return -ERR_INVALID;
        }
        buf_varint(&packed, n);
    }
    if (packed.n > 0) {
        put_bytes(b, f, buf_view(&packed));
    }
    return buf_ok(&packed);
}

static int encode_message(const struct pb_message *table, const struct pb_message *m,
                          const struct json *v, struct buf *b, unsigned depth) {
    if (depth > PB_DEPTH) {
        return -ERR_LIMIT;
    }
    if (!json_is_obj(v)) {
        return -ERR_INVALID;
    }
    JSON_EACH_KV(it, key, x, v) {
        const struct pb_field *f = field_named(m, key);
        int rc = 0;
        if (!f) {
            return -ERR_INVALID;
        }
        if (json_is_null(x)) {
            continue;
        }
        if (!f->is_repeated) {
            rc = encode_value(table, f, x, b, depth, false);
        } else if (!json_is_arr(x)) {
            rc = -ERR_INVALID;
        } else if (f->kind == PB_INT || f->kind == PB_UINT || f->kind == PB_BOOL) {
            rc = encode_packed(f, x, b);
        } else {
            JSON_EACH(list, item, x) {
                rc = rc < 0 ? rc : encode_value(table, f, item, b, depth, true);
            }
        }
        if (rc < 0) {
            return rc;
        }
    }
    return buf_ok(b);
}

int pb_encode(const struct pb_message *table, const char *message, const struct json *v,
              struct buf *b) {
    const struct pb_message *m = find(table, message);
    CHECK(m);
    return encode_message(table, m, v, b, 0);
}

/* ---- decoding ---- */

static int decode_message(const struct pb_message *table, const struct pb_message *m, struct span s,
                          struct json_doc *d, struct json **ret, unsigned depth);

static struct json *number(struct json_doc *d, const struct pb_field *f, uint64_t raw) {
    return f->kind == PB_BOOL ? json_new_bool(d, raw != 0) : json_new_i64(d, (int64_t)raw);
}

static void add(struct json_doc *d, struct json *obj, const struct pb_field *f, struct json *v) {
    if (f->is_repeated) {
        json_push(json_need_arr(d, obj, f->name), v);
    } else {
        json_set(d, obj, f->name, v);
    }
}

static int decode_map_entry(struct span s, struct json_doc *d, struct json *map) {
    struct span key = SPAN_EMPTY, value = SPAN_EMPTY;
    while (s.n > 0) {
        uint64_t t, n;
        struct span v;
        if (span_varint(&s, &t) < 0 || (t & 7) != WIRE_BYTES || span_varint(&s, &n) < 0 ||
            n > s.n || span_take(&s, n, &v) < 0) {
            return -ERR_INVALID;
        }
        if (t >> 3 == 1) {
            key = v;
        } else {
            value = v;
        }
    }
    json_setn(d, map, key, json_new_span(d, value));
    return 0;
}

static int decode_bytes(const struct pb_message *table, const struct pb_field *f, struct span v,
                        struct json_doc *d, struct json *obj, unsigned depth) {
    struct json *sub;
    int rc;
    switch (f->kind) {
    case PB_STRING:
    case PB_BYTES: add(d, obj, f, json_new_span(d, v)); return 0;
    case PB_MAP: return decode_map_entry(v, d, json_need_obj(d, obj, f->name));
    case PB_MESSAGE:
        rc = decode_message(table, &table[f->message], v, d, &sub, depth + 1);
        if (rc == 0) {
            add(d, obj, f, sub);
        }
        return rc;
    case PB_DOUBLE: return -ERR_INVALID;
    case PB_INT:
    case PB_UINT:
    case PB_BOOL: break;
    }
    while (v.n > 0) { /* packed */
        uint64_t n;
        if (!f->is_repeated || span_varint(&v, &n) < 0) {
            return -ERR_INVALID;
        }
        add(d, obj, f, number(d, f, n));
    }
    return 0;
}

static int decode_message(const struct pb_message *table, const struct pb_message *m, struct span s,
                          struct json_doc *d, struct json **ret, unsigned depth) {
    struct json *obj = json_new_obj(d);
    if (depth > PB_DEPTH) {
        return -ERR_LIMIT;
    }
    while (s.n > 0) {
        uint64_t t, n = 0;
        struct span v = SPAN_EMPTY;
        if (span_varint(&s, &t) < 0 || t >> 3 == 0) {
            return -ERR_INVALID;
        }
        const struct pb_field *f = field_numbered(m, t >> 3);
        int rc = 0;
        switch (t & 7) {
        case WIRE_VARINT:
            rc = span_varint(&s, &n);
            if (rc == 0 && f && (f->kind == PB_INT || f->kind == PB_UINT || f->kind == PB_BOOL)) {
                add(d, obj, f, number(d, f, n));
            }
            break;
        case WIRE_64:
            rc = span_le64(&s, &n);
            if (rc == 0 && f && f->kind == PB_DOUBLE) {
                double x;
                memcpy(&x, &n, sizeof(x));
                add(d, obj, f, json_new_f64(d, x));
            }
            break;
        case WIRE_BYTES:
            rc = span_varint(&s, &n) < 0 || n > s.n ? -ERR_INVALID : span_take(&s, n, &v);
            rc = rc < 0 || !f ? rc : decode_bytes(table, f, v, d, obj, depth);
            break;
        case WIRE_32: rc = span_skip(&s, 4); break;
        default: rc = -ERR_INVALID; break;
        }
        if (rc < 0) {
            return rc;
        }
    }
    *ret = obj;
    return 0;
}

int pb_decode(const struct pb_message *table, const char *message, struct span s,
              struct json_doc *d, struct json **ret) {
    const struct pb_message *m = find(table, message);
    CHECK(m);
    return decode_message(table, m, s, d, ret, 0);
}
