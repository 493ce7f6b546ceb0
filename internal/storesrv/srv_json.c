/* Messages as JSON: bytes travel as base64, 64-bit integers as strings, enums as names, as protobuf's JSON mapping has
 * it. */
#include "internal/storesrv/srv_json.h"

#include "internal/base/rand.h"
#include "internal/json/json.h"
#include "internal/pb/pb.h"

#include <stdlib.h>

/* The enum a field has, by its name: the tables carry numbers only. */
static const struct {
    const char *message, *field, *names[6];
} enums[] = {
    {"RangeRequest", "sort_order", {"NONE", "ASCEND", "DESCEND"}},
    {"RangeRequest", "sort_target", {"KEY", "VERSION", "CREATE", "MOD", "VALUE"}},
    {"Compare", "result", {"EQUAL", "GREATER", "LESS", "NOT_EQUAL"}},
    {"Compare", "target", {"VERSION", "CREATE", "MOD", "VALUE", "LEASE"}},
    {"WatchCreateRequest", "filters", {"NOPUT", "NODELETE"}},
    {"AlarmRequest", "action", {"GET", "ACTIVATE", "DEACTIVATE"}},
    {"AlarmRequest", "alarm", {"NONE", "NOSPACE", "CORRUPT"}},
    {"AlarmMember", "alarm", {"NONE", "NOSPACE", "CORRUPT"}},
    {"DowngradeRequest", "action", {"VALIDATE", "ENABLE", "CANCEL"}},
    {"Permission", "permType", {"READ", "WRITE", "READWRITE"}},
    {"Event", "type", {"PUT", "DELETE"}},
};

static const char *const *enum_of(const char *message, const char *field) {
    for (size_t i = 0; i < ARRAY_LEN(enums); i++) {
        if (str_eq(enums[i].message, message) && str_eq(enums[i].field, field)) {
            return enums[i].names;
        }
    }
    return NULL;
}

static const struct pb_message *message_named(const char *stem, const char *suffix) {
    for (const struct pb_message *m = pb_etcd; m->name; m++) {
        struct span rest = span_str(m->name);
        if (span_starts(rest, stem) && span_skip(&rest, strlen(stem)) == 0 &&
            span_eq_str(rest, suffix)) {
            return m;
        }
    }
    return NULL;
}

/* "range_end" is also called "rangeEnd". */
static bool same_name(const char *field, const char *given) {
    while (*field && *given) {
        if (*field == '_' && *given != '_' && field[1] >= 'a' && field[1] <= 'z' &&
            *given == field[1] - 32) {
            field += 2;
            given++;
        } else if (*field++ != *given++) {
            return false;
        }
    }
    return !*field && !*given;
}

static const struct pb_field *field_given(const struct pb_message *m, const char *name) {
    for (const struct pb_field *f = m->fields; f->name; f++) {
        if (same_name(f->name, name)) {
            return f;
        }
    }
    return NULL;
}

/* ---- JSON of the request → the tree that pb_encode takes ---- */

static struct json *take_message(struct json_doc *d, const struct pb_message *m,
                                 const struct json *v, unsigned depth);

static struct json *take_int(struct json_doc *d, const struct pb_message *m,
                             const struct pb_field *f, const struct json *v) {
    if (json_is_int(v)) {
        return json_copy(d, v);
    }
    const char *const *names = enum_of(m->name, f->name);
    for (size_t i = 0; json_is_str(v) && names && i < ARRAY_LEN(enums[0].names) && names[i]; i++) {
        if (str_eq(names[i], json_str(v))) {
            return json_new_i64(d, (int64_t)i);
        }
    }
    int64_t n;
    uint64_t u;
    if (span_to_i64(json_span(v), INT64_MIN, INT64_MAX, &n) == 0) {
        return json_new_i64(d, n);
    }
    return span_to_u64(json_span(v), 0, UINT64_MAX, &u) == 0 ? json_new_i64(d, (int64_t)u) : NULL;
}

static struct json *take_value(struct json_doc *d, const struct pb_message *m,
                               const struct pb_field *f, const struct json *v, unsigned depth) {
    AUTO(buf) struct buf raw = BUF_INIT(64 << 20);
    switch (f->kind) {
    case PB_INT:
    case PB_UINT: return take_int(d, m, f, v);
    case PB_BOOL: return json_kind(v) == JSON_BOOL ? json_copy(d, v) : NULL;
    case PB_STRING: return json_is_str(v) ? json_copy(d, v) : NULL;
    case PB_BYTES:
        return json_is_str(v) && b64_decode(&raw, json_span(v)) == 0
                   ? json_new_span(d, buf_view(&raw))
                   : NULL;
    case PB_MESSAGE: return take_message(d, &pb_etcd[f->message], v, depth + 1);
    case PB_DOUBLE:
    case PB_MAP: break; /* etcd's messages have none */
    }
    return NULL;
}

static struct json *take_message(struct json_doc *d, const struct pb_message *m,
                                 const struct json *v, unsigned depth) {
    if (!json_is_obj(v) || depth > PB_DEPTH) {
        return NULL;
    }
    struct json *out = json_new_obj(d);
    JSON_EACH_KV(it, k, x, v) {
        const struct pb_field *f = field_given(m, k);
        struct json *y = NULL;
        if (json_is_null(x)) {
            continue;
        }
        if (f && f->is_repeated && json_is_arr(x)) {
            y = json_new_arr(d);
            JSON_EACH(each, el, x) {
                struct json *e = take_value(d, m, f, el, depth);
                if (!e) {
                    return NULL;
                }
                json_push(y, e);
            }
        } else if (f && !f->is_repeated) {
            y = take_value(d, m, f, x, depth);
        }
        if (!y) {
            return NULL; /* no such field, or not of its kind */
        }
        json_set(d, out, f->name, y);
    }
    return out;
}

/* ---- the response's fields → JSON text, without a tree of base64 copies ---- */

static void give_message(struct buf *b, const struct pb_message *m, const struct json *v);

static void give_value(struct buf *b, const struct pb_message *m, const struct pb_field *f,
                       const struct json *v) {
    const char *const *names = enum_of(m->name, f->name);
    int64_t n = json_i64(v, 0);
    switch (f->kind) {
    case PB_INT:
        if (names && n >= 0 && n < 6 && names[n]) {
            buf_fmt(b, "\"%s\"", names[n]);
        } else {
            buf_fmt(b, "\"%lld\"", (long long)n);
        }
        break;
    case PB_UINT: /* the one 32-bit field is a plain number */
        buf_fmt(b, str_eq(f->name, "hash") ? "%llu" : "\"%llu\"", (unsigned long long)n);
        break;
    case PB_BOOL: buf_str(b, json_bool(v, false) ? "true" : "false"); break;
    case PB_STRING: json_write_str(b, json_span(v)); break;
    case PB_BYTES:
        buf_u8(b, '"');
        b64_encode(b, json_span(v));
        buf_u8(b, '"');
        break;
    case PB_MESSAGE: give_message(b, &pb_etcd[f->message], v); break;
    case PB_DOUBLE:
    case PB_MAP: break;
    }
}

static void give_message(struct buf *b, const struct pb_message *m, const struct json *v) {
    bool any = false;
    buf_u8(b, '{');
    for (const struct pb_field *f = m->fields; f->name; f++) {
        const struct json *x = json_get(v, f->name);
        if (!x) {
            continue;
        }
        buf_fmt(b, "%s\"%s\":", any ? "," : "", f->name);
        any = true;
        if (!f->is_repeated) {
            give_value(b, m, f, x);
            continue;
        }
        bool more = false;
        buf_u8(b, '[');
        JSON_EACH(it, el, x) {
            if (more) {
                buf_u8(b, ',');
            }
            more = true;
            give_value(b, m, f, el);
        }
        buf_u8(b, ']');
    }
    buf_u8(b, '}');
}

/* ---- whole messages ---- */

int message_of_json(const char *stem, const char *suffix, struct span text, struct buf *b,
                    struct err *e) {
    const struct pb_message *m = message_named(stem, suffix);
    struct json_doc *in = NULL;
    int rc = json_parse(text, JSON_DUPS_OK, &in, e);
    struct json *v = rc < 0 || !m ? NULL : take_message(in, m, json_root(in), 0);
    rc = v ? pb_encode(pb_etcd, m->name, v, b) : -ERR_INVALID;
    json_doc_free(in);
    return rc;
}

int json_of_message(const char *stem, const char *suffix, struct span message, struct buf *b) {
    const struct pb_message *m = message_named(stem, suffix);
    struct json_doc *d = json_doc_new();
    struct json *v = NULL;
    int rc = m ? pb_decode(pb_etcd, m->name, message, d, &v) : -ERR_INVALID;
    if (rc == 0) {
        give_message(b, m, v);
        rc = buf_ok(b);
    }
    json_doc_free(d);
    return rc;
}
