#include "internal/kube/kube.h"

#include "internal/base/map.h"
#include "internal/base/rand.h"
#include "internal/kube/kube_int.h"

/* One walk over the tree does everything a Go decoder and encoder would do to the document on its way through the
 * server: unknown and duplicate fields are found, wrong types refused, zero values dropped or written by the
 * presence of each field, quantities and times brought to their canonical text. */

enum { DROPS = 32, LIM_STRICT = 100 };

struct dec {
    struct json_doc *d;
    struct kube_errs *errs;
    struct kube_errs strict; /* unknown and duplicate fields, in document order */
    enum kube_field_validation fv;
    struct kube_path path;   /* with indices: "spec.containers[0].image" */
    struct kube_path go;     /* as Go names it: "spec.containers.image" */
    const char *struct_name; /* innermost type, "ObjectMeta" */
    int rc;
};

static int walk_object(struct dec *w, struct json *v, const struct kube_type *t);
static int walk_one(struct dec *w, struct json *v, const struct kube_field *f);

static const char *last_part(const char *pkg) {
    const char *dot = strrchr(pkg, '.');
    return dot ? dot + 1 : pkg;
}

static void go_type(struct buf *b, const struct kube_field *f, bool element) {
    static const char *const names[KB_MAX_] = {
        [KB_STRING] = "string",
        [KB_BYTES] = "[]uint8",
        [KB_BOOL] = "bool",
        [KB_INT32] = "int32",
        [KB_INT64] = "int64",
        [KB_DOUBLE] = "float64",
        [KB_QUANTITY] = "resource.Quantity",
        [KB_TIME] = "v1.Time",
        [KB_MICROTIME] = "v1.MicroTime",
        [KB_DURATION] = "v1.Duration",
        [KB_INTSTR] = "intstr.IntOrString",
        [KB_RAW] = "runtime.RawExtension",
        [KB_FIELDS] = "v1.FieldsV1",
    };
    if (!element) {
        buf_str(b, f->shape == KS_LIST       ? "[]"
                   : f->shape == KS_MAP      ? "map[string]"
                   : f->shape == KS_MAP_LIST ? "map[string][]"
                                             : "");
    }
    if (f->base == KB_OBJECT) {
        const struct kube_type *t = kube_field_type(f);
        buf_fmt(b, "%s.%s", last_part(kube_str(t->pkg)), kube_str(t->name));
    } else {
        buf_str(b, names[f->base] ? names[f->base] : "interface {}");
    }
}

static const char *go_value(const struct json *v) {
    switch (json_kind(v)) {
    case JSON_STRING: return "string";
    case JSON_BOOL: return "bool";
    case JSON_OBJECT: return "object";
    case JSON_ARRAY: return "array";
    case JSON_INT:
    case JSON_UINT:
    case JSON_REAL: return "number";
    case JSON_NULL: break;
    }
    return "null";
}

static int wrong_type(struct dec *w, const struct json *v, const struct kube_field *f,
                      bool element) {
    AUTO(buf) struct buf t = BUF_INIT(4096), num = BUF_INIT(64);
    go_type(&t, f, element);
    if (f->base == KB_INT32 || f->base == KB_INT64) {
        enum json_kind k = json_kind(v);
        if (k == JSON_REAL || k == JSON_INT || k == JSON_UINT) {
            buf_str(&num, " ");
            IGNORE_ERR(json_write(v, 0, &num), "a number is short");
        }
    }
    kube_errs_text(w->errs, "json: cannot unmarshal %s%s into Go struct field %s.%s of type %s",
                   go_value(v), buf_cstr(&num), w->struct_name, w->go.s, buf_cstr(&t));
    return -ERR_INVALID;
}

static void strict_add(struct dec *w, const char *what) {
    if (w->fv != KUBE_FV_IGNORE && w->strict.n < LIM_STRICT) {
        kube_errs_raw(&w->strict, NULL, NULL, "%s field \"%s\"", what, w->path.s);
    }
}

static int walk_time(struct dec *w, struct json *v, bool micro) {
    struct span s = json_span(v);
    char out[TIME_STR];
    uint64_t ns;
    if (!json_is_str(v)) {
        kube_errs_text(w->errs, "json: cannot unmarshal %s into Go value of type string",
                       go_value(v));
        return -ERR_INVALID;
    }
    if (time_parse(s, &ns) < 0) {
        kube_errs_text(
            w->errs, "parsing time %s%.*s%s as \"%s\": cannot parse \"%.*s\" as \"2006\"", "\"",
            SPAN_FMT(s), "\"",
            micro ? "2006-01-02T15:04:05.000000Z07:00" : "2006-01-02T15:04:05Z07:00", SPAN_FMT(s));
        return -ERR_INVALID;
    }
    if (micro) {
        time_rfc3339_micro(ns, out);
    } else {
        time_rfc3339(ns / NS_PER_S, out);
    }
    if (!span_eq_str(s, out)) {
        json_assign(w->d, v, json_new_str(w->d, out));
    }
    return 0;
}

static int walk_quantity(struct dec *w, struct json *v) {
    AUTO(buf) struct buf text = BUF_INIT(128), canon = BUF_INIT(128);
    enum json_kind k = json_kind(v);
    struct span s = json_span(v);
    if (k == JSON_INT || k == JSON_UINT || k == JSON_REAL) {
        IGNORE_ERR(json_write(v, 0, &text), "a number is short");
        s = buf_view(&text);
    } else if (k != JSON_STRING) {
        kube_errs_text(w->errs, "quantities must match the regular expression "
                                "'^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'");
        return -ERR_INVALID;
    }
    s = span_trim(s);
    if (kube_quantity_canon(s, &canon) < 0) {
        kube_errs_text(w->errs, "quantities must match the regular expression "
                                "'^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'");
        return -ERR_INVALID;
    }
    if (k != JSON_STRING || !span_eq(buf_view(&canon), json_span(v))) {
        json_assign(w->d, v, json_new_span(w->d, buf_view(&canon)));
    }
    return 0;
}

static int walk_int(struct dec *w, struct json *v, const struct kube_field *f, bool element) {
    int64_t lo = f->base == KB_INT64 ? INT64_MIN : INT32_MIN,
            hi = f->base == KB_INT64 ? INT64_MAX : INT32_MAX;
    if (json_kind(v) == JSON_REAL) { /* 3.0 and 1e3 are integers to the server's JSON library */
        double x = json_f64(v, 0.5);
        int64_t n = x >= -9e15 && x <= 9e15 ? (int64_t)x : INT64_MIN;
        if (n == INT64_MIN || x < (double)n || x > (double)n) {
            return wrong_type(w, v, f, element);
        }
        json_assign(w->d, v, json_new_i64(w->d, n));
    }
    int64_t x = json_i64(v, INT64_MIN);
    if (!json_is_int(v) || x < lo || x > hi || (json_kind(v) == JSON_UINT && x < 0)) {
        return wrong_type(w, v, f, element);
    }
    return 0;
}

static int walk_bytes(struct dec *w, struct json *v, const struct kube_field *f, bool element) {
    if (!json_is_str(v)) {
        return wrong_type(w, v, f, element);
    }
    struct span s = json_span(v);
    for (size_t i = 0; i < s.n; i++) {
        uint8_t c = s.p[i];
        bool ok = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                  c == '+' || c == '/' || (c == '=' && i + 2 >= s.n) || c == '\n' || c == '\r';
        if (!ok) {
            kube_errs_text(w->errs, "illegal base64 data at input byte %zu", i);
            return -ERR_INVALID;
        }
    }
    if (s.n % 4 && span_index(s, '\n') < 0) {
        kube_errs_text(w->errs, "illegal base64 data at input byte %zu", s.n & ~(size_t)3);
        return -ERR_INVALID;
    }
    return 0;
}

/* One value that is not a list or map of the field. */
static int walk_scalar(struct dec *w, struct json *v, const struct kube_field *f, bool element) {
    enum json_kind k = json_kind(v);
    switch ((enum kube_base)f->base) {
    case KB_OBJECT:
        if (k != JSON_OBJECT) {
            return wrong_type(w, v, f, element);
        }
        return walk_object(w, v, kube_field_type(f));
    case KB_STRING: return k == JSON_STRING ? 0 : wrong_type(w, v, f, element);
    case KB_BOOL: return k == JSON_BOOL ? 0 : wrong_type(w, v, f, element);
    case KB_INT32:
    case KB_INT64: return walk_int(w, v, f, element);
    case KB_DOUBLE: return k == JSON_REAL || json_is_int(v) ? 0 : wrong_type(w, v, f, element);
    case KB_BYTES: return walk_bytes(w, v, f, element);
    case KB_QUANTITY: return walk_quantity(w, v);
    case KB_TIME: return walk_time(w, v, false);
    case KB_MICROTIME: return walk_time(w, v, true);
    case KB_DURATION: return k == JSON_STRING ? 0 : wrong_type(w, v, f, element);
    case KB_INTSTR:
        if (k != JSON_STRING && !json_is_int(v)) {
            kube_errs_text(w->errs, "json: cannot unmarshal %s into Go value of type int32",
                           go_value(v));
            return -ERR_INVALID;
        }
        return 0;
    case KB_RAW:
    case KB_FIELDS:
    case KB_ANY:
    case KB_MAX_: return 0;
    case KB_SCHEMA_OR_ARRAY:
    case KB_SCHEMA_OR_BOOL:
    case KB_SCHEMA_OR_STRINGS: return k == JSON_OBJECT ? walk_object(w, v, kube_field_type(f)) : 0;
    }
    return 0;
}

static int walk_list(struct dec *w, struct json *v, const struct kube_field *f) {
    if (!json_is_arr(v)) {
        return wrong_type(w, v, f, false);
    }
    size_t i = 0;
    JSON_EACH(it, x, v) {
        size_t at = kube_path_index(&w->path, i++);
        if (json_is_null(x) && f->base == KB_OBJECT) {
            json_assign(w->d, x, json_new_obj(w->d)); /* Go reads null into the zero value */
        } else if (json_is_null(x) && f->base == KB_STRING) {
            json_assign(w->d, x, json_new_str(w->d, ""));
        }
        int rc = walk_scalar(w, x, f, true);
        if (rc < 0) {
            return rc;
        }
        kube_path_pop(&w->path, at);
    }
    return 0;
}

/* Removes keys that occur twice, keeping the last value; reports each. */
static void drop_dups(struct dec *w, struct json *obj) {
    size_t n = json_len(obj);
    if (n < 2) {
        return;
    }
    struct {
        const char *key;
        struct json *last;
    } dups[DROPS];
    size_t n_dups = 0;
    if (n <= 16) {
        const char *seen[16];
        size_t n_seen = 0;
        JSON_EACH_KV(it, k, v, obj) {
            bool again = false;
            for (size_t i = 0; i < n_seen && !again; i++) {
                again = str_eq(seen[i], k);
            }
            if (again && n_dups < DROPS) {
                dups[n_dups].key = k;
                dups[n_dups++].last = v;
            }
            seen[n_seen++] = k;
        }
    } else {
        struct map keys = MAP_INIT;
        JSON_EACH_KV(it, k, v, obj) {
            if (map_put_str(&keys, k, v) && n_dups < DROPS) {
                dups[n_dups].key = k;
                dups[n_dups++].last = v;
            }
        }
        map_fini(&keys);
    }
    for (size_t i = 0; i < n_dups; i++) {
        size_t at = kube_path_field(&w->path, dups[i].key);
        strict_add(w, "duplicate");
        kube_path_pop(&w->path, at);
        json_del(obj, dups[i].key);
        json_set(w->d, obj, dups[i].key, dups[i].last);
    }
}

static int walk_map(struct dec *w, struct json *v, const struct kube_field *f) {
    if (!json_is_obj(v)) {
        return wrong_type(w, v, f, false);
    }
    drop_dups(w, v);
    JSON_EACH_KV(it, k, x, v) {
        size_t at = kube_path_field(&w->path, k);
        int rc = 0;
        if (json_is_null(x)) { /* Go reads null into the zero value */
            json_assign(w->d, x,
                        f->base == KB_STRING || f->base == KB_BYTES ? json_new_str(w->d, "")
                        : f->base == KB_QUANTITY                    ? json_new_str(w->d, "0")
                                                                    : json_new_obj(w->d));
        } else if (f->shape == KS_MAP_LIST) {
            rc = walk_list(w, x, f);
        } else {
            rc = walk_scalar(w, x, f, true);
        }
        if (rc < 0) {
            return rc;
        }
        kube_path_pop(&w->path, at);
    }
    return 0;
}

static int walk_one(struct dec *w, struct json *v, const struct kube_field *f) {
    switch ((enum kube_shape)f->shape) {
    case KS_LIST: return walk_list(w, v, f);
    case KS_MAP:
    case KS_MAP_LIST: return walk_map(w, v, f);
    case KS_ONE: break;
    }
    return walk_scalar(w, v, f, false);
}

static bool is_zero(const struct json *v, const struct kube_field *f) {
    switch (json_kind(v)) {
    case JSON_NULL: return true;
    case JSON_BOOL: return !json_bool(v, false);
    case JSON_INT:
    case JSON_UINT:
    case JSON_REAL:
        return !(json_f64(v, 1) < 0) && !(json_f64(v, 1) > 0) && f->base != KB_INTSTR &&
               f->base != KB_QUANTITY;
    case JSON_STRING: return json_span(v).n == 0 && f->base != KB_INTSTR;
    case JSON_ARRAY:
    case JSON_OBJECT: return json_len(v) == 0;
    }
    return false;
}

/* What is written for a field that is absent or null; NULL: nothing. */
static struct json *absent_value(struct json_doc *d, const struct kube_field *f) {
    bool time = f->base == KB_TIME || f->base == KB_MICROTIME;
    switch ((enum kube_presence)f->presence) {
    case KP_STRUCT: return time ? json_new_null(d) : json_new_obj(d);
    case KP_NULLABLE: return json_new_null(d);
    case KP_ZERO:
        if (f->shape != KS_ONE) {
            return NULL;
        }
        return f->base == KB_STRING ? json_new_str(d, "")
               : f->base == KB_BOOL ? json_new_bool(d, false)
               : f->base == KB_INT32 || f->base == KB_INT64 || f->base == KB_INTSTR
                   ? json_new_i64(d, 0)
                   : NULL;
    case KP_PTR:
    case KP_OMIT:
    case KP_KEEP:
    case KP_INLINE: break;
    }
    return NULL;
}

static int walk_field(struct dec *w, const char *key, struct json *v, const struct kube_type *t,
                      const struct kube_field *f) {
    size_t at = kube_path_field(&w->path, key), go = kube_path_field(&w->go, key);
    const char *outer = w->struct_name;
    w->struct_name = kube_str(t->name);
    int rc = walk_one(w, v, f);
    w->struct_name = outer;
    if (rc == 0) {
        kube_path_pop(&w->path, at);
        kube_path_pop(&w->go, go);
    }
    return rc;
}

void kube_fill_absent(struct json_doc *d, struct json *v, const struct kube_type *t) {
    const struct kube_field *f = kube_fields(t);
    for (size_t i = 0; i < t->n; i++) {
        if (f[i].presence != KP_STRUCT && f[i].presence != KP_ZERO &&
            f[i].presence != KP_NULLABLE) {
            continue;
        }
        const char *key = kube_str(f[i].name);
        struct json *x = json_get(v, key) ? NULL : absent_value(d, &f[i]);
        if (x) {
            json_set(d, v, key, x);
            if (json_is_obj(x) && f[i].base == KB_OBJECT) {
                kube_fill_absent(d, x, kube_field_type(&f[i]));
            }
        }
    }
}

static int walk_object(struct dec *w, struct json *v, const struct kube_type *t) {
    const char *drop[DROPS];
    size_t n_drop;
    drop_dups(w, v);
    do { /* again when more members went than the list holds */
        n_drop = 0;
        JSON_EACH_KV(it, k, x, v) {
            const struct kube_field *f = kube_field_find(t, span_str(k));
            if (!f) {
                size_t at = kube_path_field(&w->path, k);
                strict_add(w, "unknown");
                kube_path_pop(&w->path, at);
                drop[n_drop++] = k;
            } else if (json_is_null(x)) {
                struct json *z = absent_value(w->d, f);
                if (!z) {
                    drop[n_drop++] = k;
                } else {
                    json_assign(w->d, x, z);
                }
            } else {
                int rc = walk_field(w, k, x, t, f);
                if (rc < 0) {
                    return rc;
                }
                if (f->presence == KP_OMIT && is_zero(x, f)) {
                    drop[n_drop++] = k;
                }
            }
            if (n_drop == DROPS) {
                break;
            }
        }
        for (size_t i = 0; i < n_drop; i++) {
            json_del(v, drop[i]);
        }
    } while (n_drop == DROPS);
    kube_fill_absent(w->d, v, t);
    return 0;
}

static int finish(struct dec *w, struct err *e) {
    if (w->rc < 0) {
        return err_set(e, ERR_INVALID, "%s", w->errs->text ? w->errs->text : "cannot decode");
    }
    if (!w->strict.n) {
        return 0;
    }
    if (w->fv == KUBE_FV_WARN) {
        for (size_t i = 0; i < w->strict.n; i++) {
            kube_errs_raw(w->errs, NULL, NULL, "%s", w->strict.list[i].message);
        }
        return 0;
    }
    AUTO(buf) struct buf b = BUF_INIT(1u << 20);
    buf_str(&b, "strict decoding error: ");
    for (size_t i = 0; i < w->strict.n; i++) {
        buf_fmt(&b, "%s%s", i ? ", " : "", w->strict.list[i].message);
    }
    kube_errs_text(w->errs, "%s", buf_cstr(&b));
    return err_set(e, ERR_INVALID, "%s", w->errs->text);
}

int kube_decode(struct json_doc *d, struct json *v, const struct kube_type *t,
                enum kube_field_validation fv, struct kube_errs *errs, struct err *e) {
    struct dec w = {.d = d, .errs = errs, .fv = fv, .struct_name = t ? kube_str(t->name) : ""};
    if (!json_is_obj(v)) {
        kube_errs_text(errs, "json: cannot unmarshal %s into Go value of type %s.%s", go_value(v),
                       t ? last_part(kube_str(t->pkg)) : "runtime",
                       t ? kube_str(t->name) : "Unstructured");
        w.rc = -ERR_INVALID;
    } else if (t) {
        w.rc = walk_object(&w, v, t);
    } else {
        struct json *meta = json_get(v, "metadata");
        const struct kube_type *mt = kube_type_named("apimachinery.pkg.apis.meta.v1.ObjectMeta");
        kube_path_field(&w.path, "metadata");
        kube_path_field(&w.go, "metadata");
        w.struct_name = "ObjectMeta";
        w.rc = json_is_obj(meta) ? walk_object(&w, meta, mt) : 0;
    }
    int rc = finish(&w, e);
    kube_errs_fini(&w.strict);
    return rc;
}
