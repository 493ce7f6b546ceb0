#include "internal/kube/kube.h"

#include "internal/base/rand.h"
#include "internal/kube/kube_int.h"

#include <stdlib.h>

/* Kubernetes' protobuf: "k8s\0" and a runtime.Unknown{typeMeta = 1{apiVersion = 1, kind = 2}, raw = 2, contentEncoding = 3,
 * contentType = 4} around the message of the object (k8s.io/apimachinery/pkg/runtime/generated.proto). The messages follow
 * the tables: fields in order of their numbers, values that are no pointers written even when zero, as gogo does. */

enum wire {
    W_VARINT = 0,
    W_FIXED64 = 1,
    W_LEN = 2,
    W_FIXED32 = 5,
    LIM_PB = 16 << 20,
    LIM_PB_DEPTH = 64
};

static const char magic[4] = {'k', '8', 's', 0};

bool kube_pb_has(const struct kube_type *t) {
    return t && (t->flags & KT_PB);
}

/* ---- encode ------------------------------------------------------------------------------------------ */

static void put_key(struct buf *b, unsigned n, enum wire w) {
    buf_varint(b, (uint64_t)n << 3 | (uint64_t)w);
}
static void put_bytes(struct buf *b, unsigned n, struct span s) {
    put_key(b, n, W_LEN);
    buf_varint(b, s.n);
    buf_span(b, s);
}
static void put_int(struct buf *b, unsigned n, int64_t v) {
    put_key(b, n, W_VARINT);
    buf_varint(b, (uint64_t)v);
}

static int put_type(struct buf *b, const struct json *v, const struct kube_type *t);

/* Time{seconds = 1, nanos = 2}; the zero time is an empty message. */
static void time_body(struct buf *m, const struct json *v) {
    uint64_t ns;
    if (time_parse(json_span(v), &ns) == 0) {
        put_int(m, 1, (int64_t)(ns / NS_PER_S));
        put_int(m, 2, (int64_t)(ns % NS_PER_S));
    }
}

/* A duration such as 1h2m3.5s, as Go prints it. */
static int64_t duration_ns(struct span s) {
    static const struct {
        const char *u;
        double ns;
    } units[] = {{"ns", 1}, {"us", 1e3}, {"ms", 1e6}, {"h", 3.6e12}, {"m", 6e10}, {"s", 1e9}};
    double total = 0;
    bool neg = span_starts(s, "-");
    size_t i = neg ? 1 : 0;
    while (i < s.n) {
        double v = 0, scale = 0;
        for (; i < s.n && ((s.p[i] >= '0' && s.p[i] <= '9') || s.p[i] == '.'); i++) {
            if (s.p[i] == '.') {
                scale = 1;
            } else {
                v = v * 10 + (s.p[i] - '0');
                scale *= 10;
            }
        }
        size_t k = 0;
        while (k < ARRAY_LEN(units) && !span_starts(span_of(s.p + i, s.n - i), units[k].u)) {
            k++;
        }
        if (k == ARRAY_LEN(units)) {
            break;
        }
        i += strlen(units[k].u);
        total += v / (scale > 0 ? scale : 1) * units[k].ns;
    }
    return (int64_t)(neg ? -total : total);
}

static void duration_text(struct buf *b, int64_t ns) {
    uint64_t v = ns < 0 ? (uint64_t)-ns : (uint64_t)ns, s = v / NS_PER_S, frac = v % NS_PER_S;
    buf_str(b, ns < 0 ? "-" : "");
    if (!v) {
        buf_str(b, "0s");
        return;
    }
    if (s >= 3600) {
        buf_fmt(b, "%lluh", (unsigned long long)(s / 3600));
    }
    if (s >= 60) {
        buf_fmt(b, "%llum", (unsigned long long)(s / 60 % 60));
    }
    if (!s && frac < 1000000) {
        buf_fmt(b, "%lluns", (unsigned long long)frac);
        return;
    }
    buf_fmt(b, "%llu", (unsigned long long)(s % 60));
    if (frac) {
        AUTO_FREE char *t = str_fmt("%09llu", (unsigned long long)frac);
        size_t n = 9;
        while (n && t[n - 1] == '0') {
            n--;
        }
        buf_fmt(b, ".%.*s", (int)n, t);
    }
    buf_str(b, "s");
}

/* IntOrString{type = 1, intVal = 2, strVal = 3} */
static void intstr_body(struct buf *m, const struct json *v) {
    put_int(m, 1, json_is_str(v) ? 1 : 0);
    put_int(m, 2, json_is_str(v) ? 0 : json_i64(v, 0));
    put_bytes(m, 3, json_span(v));
}

/* apiextensions' unions of schema and something else (JSONSchemaPropsOr…). */
static int schema_or(struct buf *m, const struct json *v, const struct kube_field *f) {
    const struct kube_type *t = kube_field_type(f);
    int rc = 0;
    if (f->base == KB_SCHEMA_OR_BOOL) {
        put_int(m, 1, json_is_obj(v) || json_bool(v, false));
    }
    if (json_is_obj(v)) {
        AUTO(buf) struct buf in = BUF_INIT(LIM_PB);
        rc = put_type(&in, v, t);
        put_bytes(m, f->base == KB_SCHEMA_OR_BOOL ? 2 : 1, buf_view(&in));
    }
    JSON_EACH(it, x, json_is_arr(v) ? v : NULL) {
        AUTO(buf) struct buf in = BUF_INIT(LIM_PB);
        if (f->base == KB_SCHEMA_OR_STRINGS) {
            put_bytes(m, 2, json_span(x));
            continue;
        }
        rc = rc < 0 ? rc : put_type(&in, x, t);
        put_bytes(m, 2, buf_view(&in));
    }
    return rc;
}

/* The body of one value that travels as a message. */
static int message_body(struct buf *m, const struct json *v, const struct kube_field *f) {
    AUTO(buf) struct buf raw = BUF_INIT(LIM_PB);
    switch ((enum kube_base)f->base) {
    case KB_OBJECT: return put_type(m, v, kube_field_type(f));
    case KB_TIME:
    case KB_MICROTIME: time_body(m, v); return 0;
    case KB_DURATION: put_int(m, 1, duration_ns(json_span(v))); return 0;
    case KB_QUANTITY: put_bytes(m, 1, json_span(v)); return 0;
    case KB_INTSTR: intstr_body(m, v); return 0;
    case KB_SCHEMA_OR_ARRAY:
    case KB_SCHEMA_OR_BOOL:
    case KB_SCHEMA_OR_STRINGS: return schema_or(m, v, f);
    case KB_RAW:
    case KB_FIELDS:
    case KB_ANY: {
        int rc = json_write(v, 0, &raw);
        put_bytes(m, 1, buf_view(&raw));
        return rc;
    }
    case KB_STRING:
    case KB_BYTES:
    case KB_BOOL:
    case KB_INT32:
    case KB_INT64:
    case KB_DOUBLE:
    case KB_MAX_: break;
    }
    return 0;
}

static int put_value(struct buf *b, unsigned n, const struct json *v, const struct kube_field *f) {
    AUTO(buf) struct buf m = BUF_INIT(LIM_PB);
    switch ((unsigned)f->base) {
    case KB_STRING: put_bytes(b, n, json_span(v)); return 0;
    case KB_BYTES: {
        int rc = b64_decode(&m, json_span(v));
        put_bytes(b, n, buf_view(&m));
        return rc;
    }
    case KB_BOOL: put_int(b, n, json_bool(v, false)); return 0;
    case KB_INT32:
    case KB_INT64: put_int(b, n, json_i64(v, 0)); return 0;
    case KB_DOUBLE: {
        double d = json_f64(v, 0);
        uint64_t bits;
        memcpy(&bits, &d, sizeof(bits));
        put_key(b, n, W_FIXED64);
        buf_le64(b, bits);
        return 0;
    }
    default: break;
    }
    int rc = message_body(&m, v, f);
    put_bytes(b, n, buf_view(&m));
    return rc;
}

static int by_text(const void *a, const void *b) {
    const char *const *x = a, *const *y = b;
    return strcmp(*x, *y);
}

/* Entries {key = 1, value = 2} in order of their keys. */
static int put_map(struct buf *b, const struct json *v, const struct kube_field *f) {
    struct arena a = ARENA_INIT(LIM_PB);
    const char **keys = arena_alloc(&a, (json_len(v) + 1) * sizeof(*keys));
    size_t n = 0;
    int rc = keys ? 0 : -ERR_LIMIT;
    JSON_EACH_KV(it, k, x, keys ? v : NULL) {
        (void)x;
        keys[n++] = k;
    }
    if (keys) {
        qsort(keys, n, sizeof(*keys), by_text);
    }
    for (size_t i = 0; i < n && rc == 0; i++) {
        AUTO(buf) struct buf m = BUF_INIT(LIM_PB), list = BUF_INIT(LIM_PB);
        const struct json *x = json_get(v, keys[i]);
        put_bytes(&m, 1, span_str(keys[i]));
        if (f->shape == KS_MAP_LIST) { /* a message {items = 1} */
            JSON_EACH(it2, y, x) {
                put_bytes(&list, 1, json_span(y));
            }
            put_bytes(&m, 2, buf_view(&list));
        } else {
            rc = put_value(&m, 2, x, f);
        }
        put_bytes(b, f->pb, buf_view(&m));
    }
    arena_fini(&a);
    return rc;
}

/* What a value that is no pointer looks like when absent; false: nothing is written. */
static bool put_zero(struct buf *b, const struct kube_field *f) {
    bool value = f->presence == KP_OMIT || f->presence == KP_ZERO || f->presence == KP_STRUCT;
    if (!value || f->shape != KS_ONE) {
        return true;
    }
    switch ((unsigned)f->base) {
    case KB_STRING: put_bytes(b, f->pb, SPAN_EMPTY); return true;
    case KB_BOOL:
    case KB_INT32:
    case KB_INT64: put_int(b, f->pb, 0); return true;
    case KB_TIME:
    case KB_MICROTIME: put_bytes(b, f->pb, SPAN_EMPTY); return true;
    case KB_OBJECT: {
        AUTO(buf) struct buf m = BUF_INIT(LIM_PB);
        if (f->presence == KP_OMIT) {
            return true;
        }
        if (put_type(&m, NULL, kube_field_type(f)) < 0) {
            return false;
        }
        put_bytes(b, f->pb, buf_view(&m));
        return true;
    }
    default: return true;
    }
}

static int put_field(struct buf *b, const struct json *v, const struct kube_field *f) {
    const struct json *x = json_get(v, kube_str(f->name));
    if (f->presence ==
        KP_INLINE) { /* its fields lie in v itself; a pointer to nothing is not written */
        AUTO(buf) struct buf m = BUF_INIT(LIM_PB);
        int rc = put_type(&m, v, kube_field_type(f));
        put_bytes(b, f->pb, buf_view(&m));
        return rc;
    }
    if (json_is_null(x)) {
        return put_zero(b, f) ? 0 : -ERR_LIMIT;
    }
    switch ((enum kube_shape)f->shape) {
    case KS_ONE: return put_value(b, f->pb, x, f);
    case KS_MAP:
    case KS_MAP_LIST: return put_map(b, x, f);
    case KS_LIST: break;
    }
    JSON_EACH(it, y, x) {
        int rc = put_value(b, f->pb, y, f);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

static int put_type(struct buf *b, const struct json *v, const struct kube_type *t) {
    const struct kube_field *f = kube_fields(t);
    for (size_t i = 0; i < t->n; i++) {
        const struct kube_field *g = &f[f[i].by_pb];
        if (!g->pb) {
            continue;
        }
        int rc = put_field(b, v, g);
        if (rc < 0) {
            return rc;
        }
    }
    return buf_ok(b);
}

/* Does any field of the schema lack a number? kfarm's kinds have none at all. */
int kube_pb_encode(const struct json *obj, struct buf *b, struct err *e) {
    AUTO(buf) struct buf raw = BUF_INIT(LIM_PB), meta = BUF_INIT(1024), env = BUF_INIT(LIM_PB);
    const char *api = json_str_or(json_get(obj, "apiVersion"), ""),
               *kind = json_str_or(json_get(obj, "kind"), "");
    const struct kube_type *t = kube_type_of(api, kind);
    if (!kube_pb_has(t)) {
        return err_set(e, ERR_UNSUPPORTED, "%s %s has no protobuf form", api, kind);
    }
    int rc = put_type(&raw, obj, t);
    if (rc < 0) {
        return err_set(e, (enum err_code) - rc, "%s as protobuf", kind);
    }
    put_bytes(&meta, 1, span_str(api));
    put_bytes(&meta, 2, span_str(kind));
    put_bytes(&env, 1, buf_view(&meta));
    put_bytes(&env, 2, buf_view(&raw));
    put_bytes(&env, 3, SPAN_EMPTY);
    put_bytes(&env, 4, SPAN_EMPTY);
    buf_add(b, magic, sizeof(magic));
    buf_span(b, buf_view(&env));
    return buf_ok(b) < 0 || buf_ok(&env) < 0
               ? err_set(e, ERR_LIMIT, "%s as protobuf is too large", kind)
               : 0;
}

/* WatchEvent{type = 1, object = 2: RawExtension{raw = 1}} */
int kube_pb_watch_frame(const char *event_type, struct span envelope, struct buf *b) {
    AUTO(buf) struct buf raw = BUF_INIT(LIM_PB), ev = BUF_INIT(LIM_PB);
    put_bytes(&raw, 1, envelope);
    put_bytes(&ev, 1, span_str(event_type));
    put_bytes(&ev, 2, buf_view(&raw));
    buf_be32(b, (uint32_t)ev.n);
    buf_span(b, buf_view(&ev));
    return buf_ok(&ev) < 0 ? buf_ok(&ev) : buf_ok(b);
}

/* ---- decode ------------------------------------------------------------------------------------------- */

struct item { /* one field off the wire */
    unsigned n;
    enum wire w;
    uint64_t v;
    struct span s;
};

static int next(struct span *s, struct item *ret) {
    uint64_t key, len;
    *ret = (struct item){0};
    if (span_varint(s, &key) < 0 || key >> 3 > UINT32_MAX || key >> 3 == 0) {
        return -ERR_INVALID;
    }
    ret->n = (unsigned)(key >> 3);
    ret->w = (enum wire)(key & 7);
    switch ((unsigned)ret->w) {
    case W_VARINT: return span_varint(s, &ret->v);
    case W_FIXED64: return span_le64(s, &ret->v);
    case W_LEN:
        return span_varint(s, &len) < 0 || len > s->n ? -ERR_INVALID
                                                      : span_take(s, (size_t)len, &ret->s);
    case W_FIXED32: return span_skip(s, 4);
    default: return -ERR_INVALID;
    }
}

static int get_type(struct json_doc *d, struct span s, const struct kube_type *t, struct json *into,
                    unsigned depth);

static int get_time(struct json_doc *d, struct span s, bool micro, struct json **ret) {
    struct item i;
    int64_t sec = 0, nanos = 0;
    bool any = false;
    while (s.n) {
        if (next(&s, &i) < 0) {
            return -ERR_INVALID;
        }
        any = true;
        sec = i.n == 1 ? (int64_t)i.v : sec;
        nanos = i.n == 2 ? (int64_t)i.v : nanos;
    }
    char t[TIME_STR];
    if (!any || sec < 0 || sec > 253402300799 || nanos < 0 || nanos >= (int64_t)NS_PER_S) {
        *ret = json_new_null(d);
        return any && sec >= 0 ? -ERR_INVALID : 0;
    }
    if (micro) {
        time_rfc3339_micro((uint64_t)sec * NS_PER_S + (uint64_t)nanos, t);
    } else {
        time_rfc3339((uint64_t)sec, t);
    }
    *ret = json_new_str(d, t);
    return 0;
}

static int get_intstr(struct json_doc *d, struct span s, struct json **ret) {
    struct item i;
    uint64_t type = 0;
    int64_t n = 0;
    struct span text = SPAN_EMPTY;
    while (s.n) {
        if (next(&s, &i) < 0) {
            return -ERR_INVALID;
        }
        type = i.n == 1 ? i.v : type;
        n = i.n == 2 ? (int64_t)i.v : n;
        text = i.n == 3 ? i.s : text;
    }
    *ret = type == 1 ? json_new_span(d, text) : json_new_i64(d, n);
    return 0;
}

/* A message whose only field 1 is bytes: Quantity, RawExtension, FieldsV1, JSON. */
static int get_first(struct span s, struct span *ret) {
    struct item i;
    *ret = SPAN_EMPTY;
    while (s.n) {
        if (next(&s, &i) < 0) {
            return -ERR_INVALID;
        }
        *ret = i.n == 1 ? i.s : *ret;
    }
    return 0;
}

static int get_raw(struct json_doc *d, struct span s, struct json **ret) {
    struct span raw;
    struct json_doc *t = NULL;
    int rc = get_first(s, &raw);
    if (rc == 0 && raw.n >= sizeof(magic) && memcmp(raw.p, magic, sizeof(magic)) == 0) {
        return kube_pb_decode(raw, d, ret, NULL); /* an object inside, in its own envelope */
    }
    if (rc < 0 || !raw.n) {
        *ret = json_new_null(d);
        return rc;
    }
    if (json_parse(raw, 0, &t, NULL) < 0) {
        return -ERR_INVALID;
    }
    *ret = json_copy(d, json_root(t));
    json_doc_free(t);
    return 0;
}

static int get_schema_or(struct json_doc *d, struct span s, const struct kube_field *f,
                         unsigned depth, struct json **ret) {
    struct item i;
    struct json *list = json_new_arr(d);
    *ret = f->base == KB_SCHEMA_OR_BOOL ? json_new_bool(d, false) : list;
    while (s.n) {
        if (next(&s, &i) < 0) {
            return -ERR_INVALID;
        }
        bool schema = f->base == KB_SCHEMA_OR_BOOL ? i.n == 2 : i.n == 1;
        if (f->base == KB_SCHEMA_OR_BOOL && i.n == 1) {
            *ret = json_is_obj(*ret) ? *ret : json_new_bool(d, i.v != 0);
        } else if (i.n == 2 && f->base == KB_SCHEMA_OR_STRINGS) {
            json_push(list, json_new_span(d, i.s));
        } else if (schema || i.n == 2) {
            struct json *o = json_new_obj(d);
            int rc = get_type(d, i.s, kube_field_type(f), o, depth + 1);
            if (rc < 0) {
                return rc;
            }
            if (schema) {
                *ret = o;
            } else {
                json_push(list, o);
            }
        }
    }
    return 0;
}

static int get_message(struct json_doc *d, struct span s, const struct kube_field *f,
                       unsigned depth, struct json **ret) {
    AUTO(buf) struct buf text = BUF_INIT(128);
    struct item i;
    struct span q;
    switch ((unsigned)f->base) {
    case KB_OBJECT:
        *ret = json_new_obj(d);
        return get_type(d, s, kube_field_type(f), *ret, depth + 1);
    case KB_TIME:
    case KB_MICROTIME: return get_time(d, s, f->base == KB_MICROTIME, ret);
    case KB_DURATION: {
        int64_t ns = 0;
        while (s.n) {
            if (next(&s, &i) < 0) {
                return -ERR_INVALID;
            }
            ns = i.n == 1 ? (int64_t)i.v : ns;
        }
        duration_text(&text, ns);
        *ret = json_new_span(d, buf_view(&text));
        return 0;
    }
    case KB_QUANTITY: {
        int rc = get_first(s, &q);
        *ret = json_new_span(d, q.n ? q : SPAN_LIT("0"));
        return rc;
    }
    case KB_INTSTR: return get_intstr(d, s, ret);
    case KB_SCHEMA_OR_ARRAY:
    case KB_SCHEMA_OR_BOOL:
    case KB_SCHEMA_OR_STRINGS: return get_schema_or(d, s, f, depth, ret);
    default: return get_raw(d, s, ret);
    }
}

static int get_value(struct json_doc *d, const struct item *i, const struct kube_field *f,
                     unsigned depth, struct json **ret) {
    AUTO(buf) struct buf b = BUF_INIT(LIM_PB);
    enum wire want = f->base == KB_BOOL || f->base == KB_INT32 || f->base == KB_INT64 ? W_VARINT
                     : f->base == KB_DOUBLE                                           ? W_FIXED64
                                                                                      : W_LEN;
    if (i->w != want) {
        return -ERR_INVALID;
    }
    switch ((unsigned)f->base) {
    case KB_STRING: *ret = json_new_span(d, i->s); return 0;
    case KB_BYTES:
        b64_encode(&b, i->s);
        *ret = json_new_span(d, buf_view(&b));
        return buf_ok(&b);
    case KB_BOOL: *ret = json_new_bool(d, i->v != 0); return 0;
    case KB_INT32: *ret = json_new_i64(d, (int32_t)(uint32_t)i->v); return 0;
    case KB_INT64: *ret = json_new_i64(d, (int64_t)i->v); return 0;
    case KB_DOUBLE: {
        double x;
        memcpy(&x, &i->v, sizeof(x));
        *ret = json_new_f64(d, x);
        return 0;
    }
    default: return get_message(d, i->s, f, depth, ret);
    }
}

static int get_entry(struct json_doc *d, struct span s, const struct kube_field *f, unsigned depth,
                     struct json *map) {
    struct item i, value = {.n = 2, .w = W_LEN};
    struct span k = SPAN_EMPTY;
    struct json *x = NULL;
    int rc = 0;
    if (f->base == KB_BOOL || f->base == KB_INT32 || f->base == KB_INT64) {
        value.w = W_VARINT;
    }
    while (s.n) {
        if (next(&s, &i) < 0) {
            return -ERR_INVALID;
        }
        k = i.n == 1 ? i.s : k;
        value = i.n == 2 ? i : value;
    }
    if (f->shape == KS_MAP_LIST) {
        x = json_new_arr(d);
        while (value.s.n) {
            if (next(&value.s, &i) < 0) {
                return -ERR_INVALID;
            }
            json_push(x, json_new_span(d, i.s));
        }
    } else {
        rc = get_value(d, &value, f, depth, &x);
    }
    if (rc == 0) {
        json_setn(d, map, k, x);
    }
    return rc;
}

static const struct kube_field *by_number(const struct kube_type *t, unsigned n) {
    const struct kube_field *f = kube_fields(t);
    for (size_t i = 0; i < t->n; i++) {
        if (f[i].pb == n) {
            return &f[i];
        }
    }
    return NULL;
}

static int get_type(struct json_doc *d, struct span s, const struct kube_type *t, struct json *into,
                    unsigned depth) {
    struct item i;
    if (depth > LIM_PB_DEPTH) {
        return -ERR_LIMIT;
    }
    while (s.n) {
        if (next(&s, &i) < 0) {
            return -ERR_INVALID;
        }
        const struct kube_field *f = by_number(t, i.n);
        if (!f) {
            continue; /* a newer client's field */
        }
        const char *name = kube_str(f->name);
        struct json *x = NULL;
        int rc;
        if (f->presence == KP_INLINE) {
            rc =
                i.w == W_LEN ? get_type(d, i.s, kube_field_type(f), into, depth + 1) : -ERR_INVALID;
        } else if (f->shape == KS_MAP || f->shape == KS_MAP_LIST) {
            rc = i.w == W_LEN ? get_entry(d, i.s, f, depth, json_need_obj(d, into, name))
                              : -ERR_INVALID;
        } else {
            rc = get_value(d, &i, f, depth, &x);
            if (rc == 0 && f->shape == KS_LIST) {
                json_push(json_need_arr(d, into, name), x);
            } else if (rc == 0) {
                json_set(d, into, name, x);
            }
        }
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

static int get_envelope(struct span s, struct span *ret_meta, struct span *ret_raw) {
    struct item i;
    struct span head;
    if (span_take(&s, sizeof(magic), &head) < 0 || memcmp(head.p, magic, sizeof(magic)) != 0) {
        return -ERR_INVALID;
    }
    *ret_meta = *ret_raw = SPAN_EMPTY;
    while (s.n) {
        if (next(&s, &i) < 0) {
            return -ERR_INVALID;
        }
        *ret_meta = i.n == 1 ? i.s : *ret_meta;
        *ret_raw = i.n == 2 ? i.s : *ret_raw;
    }
    return 0;
}

int kube_pb_decode(struct span s, struct json_doc *d, struct json **ret, struct err *e) {
    struct span meta, raw, api = SPAN_EMPTY, kind = SPAN_EMPTY;
    struct item i;
    if (get_envelope(s, &meta, &raw) < 0) {
        return err_set(e, ERR_INVALID, "the body is no Kubernetes protobuf envelope");
    }
    while (meta.n) {
        if (next(&meta, &i) < 0) {
            return err_set(e, ERR_INVALID, "the envelope's type is damaged");
        }
        api = i.n == 1 ? i.s : api;
        kind = i.n == 2 ? i.s : kind;
    }
    AUTO_FREE char *a = str_dupn(api.p, api.n), *k = str_dupn(kind.p, kind.n);
    const struct kube_type *t = kube_type_of(a, k);
    if (!kube_pb_has(t)) {
        return err_set(e, ERR_UNSUPPORTED, "no protobuf form of %s %s is known", a, k);
    }
    struct json *o = json_new_obj(d);
    json_set_str(d, o, "apiVersion", a);
    json_set_str(d, o, "kind", k);
    int rc = get_type(d, raw, t, o, 0);
    if (rc < 0) {
        return err_set(e, (enum err_code) - rc, "protobuf of %s is damaged", k);
    }
    *ret = o;
    return 0;
}
