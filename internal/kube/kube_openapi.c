/* OpenAPI v2 and v3 in JSON, and v2 in gnostic's protobuf form, written from the type tables.
 *
 * A schema is described once (struct shape) and written by a back end: JSON text or protobuf bytes. What clients look for
 * (kubectl explain, apply, validation, dry-run checks) is definitions with their x-kubernetes-* extensions, and paths whose
 * operations name a group, version and kind. */
#include "internal/base/rand.h"
#include "internal/base/version.h"
#include "internal/json/json.h"
#include "internal/kube/kube_int.h"

#include <stdlib.h>

enum { LIM_PART = 16 << 20 };

/* Scalars with a name of their own in the published documents. */
static const struct named {
    enum kube_base base;
    const char *name, *type, *format;
} named[] = {
    {KB_QUANTITY, "io.k8s.apimachinery.pkg.api.resource.Quantity", "string", NULL},
    {KB_TIME, "io.k8s.apimachinery.pkg.apis.meta.v1.Time", "string", "date-time"},
    {KB_MICROTIME, "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime", "string", "date-time"},
    {KB_DURATION, "io.k8s.apimachinery.pkg.apis.meta.v1.Duration", "string", NULL},
    {KB_INTSTR, "io.k8s.apimachinery.pkg.util.intstr.IntOrString", "string", "int-or-string"},
    {KB_RAW, "io.k8s.apimachinery.pkg.runtime.RawExtension", "object", NULL},
    {KB_FIELDS, "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1", "object", NULL},
};

static const struct {
    const char *type, *format;
} scalars[KB_MAX_] = {
    [KB_STRING] = {"string", NULL},    [KB_BYTES] = {"string", "byte"},
    [KB_BOOL] = {"boolean", NULL},     [KB_INT32] = {"integer", "int32"},
    [KB_INT64] = {"integer", "int64"}, [KB_DOUBLE] = {"number", "double"},
};

/* What one value looks like: a reference, or a type with a format; both NULL: anything. */
struct shape {
    char ref[160];
    const char *type, *format;
};

static void type_name(const struct kube_type *t, char dst[160]) {
    const char *pkg = kube_str(t->pkg);
    bool own = span_starts(span_str(pkg), "dev.") || span_starts(span_str(pkg), "io.");
    (void)str_put(dst, 160, "%s%s.%s", own ? "" : "io.k8s.", pkg, kube_str(t->name));
}

static void shape_of(const struct kube_field *f, struct shape *s) {
    *s = (struct shape){{0}, scalars[f->base].type, scalars[f->base].format};
    if (f->base == KB_OBJECT) {
        type_name(kube_field_type(f), s->ref);
    }
    for (size_t i = 0; i < ARRAY_LEN(named); i++) {
        if (named[i].base == (enum kube_base)f->base) {
            (void)str_put(s->ref, sizeof(s->ref), "%s", named[i].name);
        }
    }
}

static const char *list_type(const struct kube_field *f) {
    return f->list == KL_ATOMIC ? "atomic"
           : f->list == KL_SET  ? "set"
           : f->list == KL_MAP  ? "map"
                                : NULL;
}

static const char *patch_strategy(const struct kube_field *f) {
    bool m = f->flags & KF_MERGE, r = f->flags & KF_RETAIN;
    return m && r                  ? "merge,retainKeys"
           : m                     ? "merge"
           : r                     ? "retainKeys"
           : f->flags & KF_REPLACE ? "replace"
                                   : NULL;
}

/* Extensions of a field as (name, JSON text) pairs. */
struct ext {
    const char *name;
    char json[256];
};
static size_t field_exts(const struct kube_field *f, struct ext out[5]) {
    size_t n = 0;
    const char *lt = f->shape == KS_LIST ? list_type(f) : NULL, *st = patch_strategy(f);
    if (lt) {
        out[n].name = "x-kubernetes-list-type";
        (void)str_put(out[n++].json, 256, "\"%s\"", lt);
    } else if (f->list == KL_ATOMIC) {
        out[n].name = "x-kubernetes-map-type";
        (void)str_put(out[n++].json, 256, "\"atomic\"");
    }
    if (lt && f->list == KL_MAP && f->keys) {
        struct buf b = BUF_INIT(255);
        struct span rest = span_str(kube_str(f->keys)), one;
        buf_u8(&b, '[');
        while (span_next(&rest, ',', &one)) {
            buf_fmt(&b, "%s\"%.*s\"", b.n > 1 ? "," : "", SPAN_FMT(one));
        }
        buf_u8(&b, ']');
        out[n].name = "x-kubernetes-list-map-keys";
        (void)str_put(out[n++].json, 256, "%s", buf_cstr(&b));
        buf_fini(&b);
    }
    if (f->mkey) {
        out[n].name = "x-kubernetes-patch-merge-key";
        (void)str_put(out[n++].json, 256, "\"%s\"", kube_str(f->mkey));
    }
    if (st) {
        out[n].name = "x-kubernetes-patch-strategy";
        (void)str_put(out[n++].json, 256, "\"%s\"", st);
    }
    return n;
}

/* JSON list of {"group","kind","version"} of t; false when t is no kind. */
static bool type_gvks(const struct kube_type *t, struct buf *b) {
    size_t before = b->n;
    for (size_t i = 0; i < kube_gen_n_kinds; i++) {
        const struct kube_kind *k = &kube_gen_kinds[i];
        if (&kube_gen_types[k->type] == t) {
            buf_fmt(b, "%s{\"group\":\"%s\",\"kind\":\"%s\",\"version\":\"%s\"}",
                    b->n == before ? "[" : ",", k->group, k->kind, k->version);
        }
    }
    if (b->n > before) {
        buf_u8(b, ']');
    }
    return b->n > before;
}

/* ---- which types a document holds ---- */

static void mark(const struct kube_type *t, bool *used) {
    size_t *stack = mem_zero_alloc(kube_gen_n_types * sizeof(size_t)), n = 0;
    if (t && !used[t - kube_gen_types]) {
        used[t - kube_gen_types] = true;
        stack[n++] = (size_t)(t - kube_gen_types);
    }
    while (n) {
        t = &kube_gen_types[stack[--n]];
        for (size_t i = 0; i < t->n; i++) {
            const struct kube_field *f = &kube_fields(t)[i];
            if (f->base == KB_OBJECT && !used[f->type]) {
                used[f->type] = true;
                stack[n++] = f->type;
            }
        }
    }
    free(stack);
}

static bool in_gv(const struct kube_resource *r, const char *group, const char *version) {
    return !group || (str_eq(r->group, group) && str_eq(r->version, version));
}

static void mark_all(unsigned sets, const char *group, const char *version, bool *used) {
    for (size_t i = 0; i < kube_gen_n_resources; i++) {
        const struct kube_resource *r = &kube_gen_resources[i];
        if (r->sets & sets && in_gv(r, group, version)) {
            mark(r->type, used);
            mark(r->list_type, used);
        }
    }
    mark(kube_type_named("apimachinery.pkg.apis.meta.v1.Status"), used);
    mark(kube_type_named("apimachinery.pkg.apis.meta.v1.DeleteOptions"), used);
}

/* ---- JSON ---- */

static void json_shape(struct buf *b, const struct shape *s, bool v3, bool alone) {
    const char *at = v3 ? "#/components/schemas/" : "#/definitions/";
    if (s->ref[0] && v3 && !alone) { /* siblings of $ref are ignored in OpenAPI 3.0 */
        buf_fmt(b, "\"allOf\":[{\"$ref\":\"%s%s\"}]", at, s->ref);
    } else if (s->ref[0]) {
        buf_fmt(b, "\"$ref\":\"%s%s\"", at, s->ref);
    } else if (s->type) {
        buf_fmt(b, "\"type\":\"%s\"", s->type);
        if (s->format) {
            buf_fmt(b, ",\"format\":\"%s\"", s->format);
        }
    } else {
        buf_str(b, "\"description\":\"any value\"");
    }
}

static void json_field(struct buf *b, const struct kube_field *f, bool v3) {
    struct shape s;
    struct ext ext[5];
    size_t n = field_exts(f, ext);
    shape_of(f, &s);
    buf_u8(b, '{');
    if (f->desc) {
        buf_str(b, "\"description\":");
        json_write_str(b, span_str(kube_gen_desc + f->desc));
        buf_u8(b, ',');
    }
    switch ((enum kube_shape)f->shape) {
    case KS_ONE: json_shape(b, &s, v3, false); break;
    case KS_LIST:
        buf_str(b, "\"type\":\"array\",\"items\":{");
        json_shape(b, &s, v3, true);
        buf_u8(b, '}');
        break;
    case KS_MAP:
        buf_str(b, "\"type\":\"object\",\"additionalProperties\":{");
        json_shape(b, &s, v3, true);
        buf_u8(b, '}');
        break;
    case KS_MAP_LIST:
        buf_str(b, "\"type\":\"object\",\"additionalProperties\":{\"type\":\"array\",\"items\":{");
        json_shape(b, &s, v3, true);
        buf_str(b, "}}");
        break;
    }
    if (f->def) {
        buf_fmt(b, ",\"default\":%s", kube_str(f->def));
    }
    for (size_t i = 0; i < n; i++) {
        buf_fmt(b, ",\"%s\":%s", ext[i].name, ext[i].json);
    }
    buf_u8(b, '}');
}

static void json_type(struct buf *b, const struct kube_type *t, bool v3) {
    size_t n = 0, req = 0;
    buf_str(b, "{\"description\":");
    json_write_str(b, t->desc ? span_str(kube_gen_desc + t->desc) : span_str(kube_str(t->name)));
    buf_str(b, ",\"type\":\"object\",\"properties\":{");
    for (size_t i = 0; i < t->n; i++) {
        const struct kube_field *f = &kube_fields(t)[i];
        if (f->presence != KP_INLINE) {
            buf_fmt(b, "%s\"%s\":", n++ ? "," : "", kube_str(f->name));
            json_field(b, f, v3);
        }
    }
    buf_u8(b, '}');
    for (size_t i = 0; i < t->n; i++) {
        const struct kube_field *f = &kube_fields(t)[i];
        if (f->flags & KF_REQUIRED && f->presence != KP_INLINE) {
            buf_fmt(b, "%s\"%s\"", req++ ? "," : ",\"required\":[", kube_str(f->name));
        }
    }
    buf_str(b, req ? "]" : "");
    AUTO(buf) struct buf gvk = BUF_INIT(65536);
    if (type_gvks(t, &gvk)) {
        buf_fmt(b, ",\"x-kubernetes-group-version-kind\":%s", buf_cstr(&gvk));
    }
    buf_u8(b, '}');
}

static void json_types(struct buf *b, const bool *used, bool v3) {
    char name[160];
    size_t n = 0;
    for (size_t i = 0; i < kube_gen_n_types; i++) {
        if (used[i]) {
            type_name(&kube_gen_types[i], name);
            buf_fmt(b, "%s\"%s\":", n++ ? "," : "", name);
            json_type(b, &kube_gen_types[i], v3);
        }
    }
    for (size_t i = 0; i < ARRAY_LEN(named); i++) {
        buf_fmt(b, "%s\"%s\":{\"type\":\"%s\"", n++ ? "," : "", named[i].name, named[i].type);
        if (named[i].format) {
            buf_fmt(b, ",\"format\":\"%s\"", named[i].format);
        }
        buf_u8(b, '}');
    }
}

/* ---- operations ---- */

struct op {
    const char *http, *action, *id;
    unsigned verb;
    bool on_item;
};
static const struct op ops[] = {
    {"get", "list", "list", KUBE_V_LIST, false},
    {"post", "post", "create", KUBE_V_CREATE, false},
    {"delete", "deletecollection", "deleteCollection", KUBE_V_DELETECOLLECTION, false},
    {"get", "get", "read", KUBE_V_GET, true},
    {"put", "put", "replace", KUBE_V_UPDATE, true},
    {"patch", "patch", "patch", KUBE_V_PATCH, true},
    {"delete", "delete", "delete", KUBE_V_DELETE, true},
};
static const char *const params_list[] = {"allowWatchBookmarks",
                                          "continue",
                                          "fieldSelector",
                                          "labelSelector",
                                          "limit",
                                          "resourceVersion",
                                          "resourceVersionMatch",
                                          "sendInitialEvents",
                                          "timeoutSeconds",
                                          "watch",
                                          NULL};
static const char *const params_write[] = {"dryRun", "fieldManager", "fieldValidation", NULL};
static const char *const params_patch[] = {"dryRun", "fieldManager", "fieldValidation", "force",
                                           NULL};
static const char *const params_delete[] = {"dryRun", "gracePeriodSeconds", "orphanDependents",
                                            "propagationPolicy", NULL};
static const char *const params_none[] = {NULL};

static const char *const *op_params(const struct op *o) {
    switch ((enum kube_verb)o->verb) {
    case KUBE_V_LIST:
    case KUBE_V_DELETECOLLECTION: return params_list;
    case KUBE_V_CREATE:
    case KUBE_V_UPDATE: return params_write;
    case KUBE_V_PATCH: return params_patch;
    case KUBE_V_DELETE: return params_delete;
    case KUBE_V_GET:
    case KUBE_V_WATCH: break;
    }
    return params_none;
}

static const char *param_type(const char *p) {
    static const char *const bools[] = {"allowWatchBookmarks", "sendInitialEvents", "watch",
                                        "force", "orphanDependents"};
    static const char *const ints[] = {"limit", "timeoutSeconds", "gracePeriodSeconds"};
    for (size_t i = 0; i < ARRAY_LEN(bools); i++) {
        if (str_eq(p, bools[i])) {
            return "boolean";
        }
    }
    for (size_t i = 0; i < ARRAY_LEN(ints); i++) {
        if (str_eq(p, ints[i])) {
            return "integer";
        }
    }
    return "string";
}

static bool op_applies(const struct op *o, const struct kube_resource *r, bool item) {
    /* A subresource's create goes to the item's path (pods/binding). */
    bool on_item = o->on_item || *r->sub;
    return r->verbs & o->verb && on_item == item;
}

static void op_id(const struct op *o, const struct kube_resource *r, char dst[200]) {
    (void)str_put(dst, 200, "%s%s%s%s%s%s", o->id, *r->group ? r->group : "core", r->version,
                  r->namespaced ? "Namespaced" : "", r->kind, r->sub);
    for (char *c = dst; *c; c++) {
        *c = *c == '.' || *c == '/' || *c == '-' ? '_' : *c;
    }
}

static void resource_path(const struct kube_resource *r, bool item, char dst[320]) {
    (void)str_put(dst, 320, "/%s%s%s/%s%s/%s%s%s%s", *r->group ? "apis/" : "api",
                  *r->group ? r->group : "", "", r->version,
                  r->namespaced ? "/namespaces/{namespace}" : "", r->name, item ? "/{name}" : "",
                  *r->sub ? "/" : "", r->sub);
}

static void json_op(struct buf *b, const struct op *o, const struct kube_resource *r, bool v3) {
    char id[200], name[160] = "";
    const char *const *p = op_params(o);
    op_id(o, r, id);
    const struct kube_type *t = o->verb == KUBE_V_LIST ? r->list_type : r->type;
    if (t) {
        type_name(t, name);
    }
    buf_fmt(b, "\"%s\":{\"operationId\":\"%s\",\"parameters\":[", o->http, id);
    for (size_t i = 0; p[i]; i++) {
        buf_fmt(b,
                v3 ? "%s{\"name\":\"%s\",\"in\":\"query\",\"schema\":{\"type\":\"%s\"}}"
                   : "%s{\"name\":\"%s\",\"in\":\"query\",\"type\":\"%s\"}",
                i ? "," : "", p[i], param_type(p[i]));
    }
    buf_str(b, "],\"responses\":{\"200\":{\"description\":\"OK\"");
    if (name[0]) {
        buf_fmt(b,
                v3 ? ",\"content\":{\"application/json\":{\"schema\":{\"$ref\":\"#/components/"
                     "schemas/%s\"}}}"
                   : ",\"schema\":{\"$ref\":\"#/definitions/%s\"}",
                name);
    }
    buf_fmt(b,
            "}},\"x-kubernetes-action\":\"%s\",\"x-kubernetes-group-version-kind\":{\"group\":\"%"
            "s\",\"kind\":\"%s\","
            "\"version\":\"%s\"}}",
            o->action, r->body_group, r->kind, r->body_version);
}

/* Calls write for each path that has operations. */
typedef void path_cb(struct buf *b, const struct kube_resource *r, bool item, const char *path,
                     void *ctx);
static void each_path(struct buf *b, unsigned sets, const char *group, const char *version,
                      path_cb *cb, void *ctx) {
    char path[320];
    for (size_t i = 0; i < kube_gen_n_resources; i++) {
        const struct kube_resource *r = &kube_gen_resources[i];
        for (int item = 0; item < 2 && r->sets & sets && in_gv(r, group, version); item++) {
            bool any = false;
            for (size_t k = 0; k < ARRAY_LEN(ops); k++) {
                any = any || op_applies(&ops[k], r, item);
            }
            if (any) {
                resource_path(r, item, path);
                cb(b, r, item, path, ctx);
            }
        }
    }
}

static void json_path(struct buf *b, const struct kube_resource *r, bool item, const char *path,
                      void *ctx) {
    bool v3 = *(const bool *)ctx;
    size_t n = 0;
    buf_fmt(b, "%s\"%s\":{", b->p[b->n - 1] == '{' ? "" : ",", path);
    for (size_t k = 0; k < ARRAY_LEN(ops); k++) {
        if (op_applies(&ops[k], r, item)) {
            buf_str(b, n++ ? "," : "");
            json_op(b, &ops[k], r, v3);
        }
    }
    static const char *const names[] = {"namespace", "name"};
    size_t np = 0;
    for (size_t i = 0; i < 2; i++) {
        if (i ? item : r->namespaced) {
            buf_fmt(
                b,
                v3 ? "%s{\"name\":\"%s\",\"in\":\"path\",\"required\":true,\"schema\":{\"type\":"
                     "\"string\"}}"
                   : "%s{\"name\":\"%s\",\"in\":\"path\",\"required\":true,\"type\":\"string\"}",
                np++ ? "," : ",\"parameters\":[", names[i]);
        }
    }
    buf_str(b, np ? "]}" : "}");
}

static int json_document(unsigned sets, const char *group, const char *version, bool v3,
                         struct buf *b) {
    bool *used = mem_zero_alloc(kube_gen_n_types * sizeof(bool));
    mark_all(sets, group, version, used);
    buf_fmt(b, "{\"%s\":\"%s\",\"info\":{\"title\":\"Kubernetes\",\"version\":\"%s\"},\"paths\":{",
            v3 ? "openapi" : "swagger", v3 ? "3.0.0" : "2.0", KF_KUBE_VERSION);
    each_path(b, sets, group, version, json_path, &v3);
    buf_str(b, v3 ? "},\"components\":{\"schemas\":{" : "},\"definitions\":{");
    json_types(b, used, v3);
    buf_str(b, v3 ? "}}}" : "}}");
    free(used);
    return buf_ok(b);
}

int kube_openapi_v2(unsigned sets, struct buf *b) {
    return json_document(sets, NULL, NULL, false, b);
}

static void gv_path(const struct kube_group *g, const char *version, char dst[128]) {
    (void)str_put(dst, 128, *g->name ? "apis/%s/%s" : "api%s/%s", g->name, version);
}

int kube_openapi_v3_index(unsigned sets, struct buf *b) {
    char path[128];
    size_t n = 0;
    buf_str(b, "{\"paths\":{");
    for (size_t i = 0; i < kube_gen_n_groups; i++) {
        const struct kube_group *g = &kube_gen_groups[i];
        for (size_t v = 0; v < ARRAY_LEN(g->versions) && g->versions[v] && g->sets & sets; v++) {
            gv_path(g, g->versions[v], path);
            /* The tables are constants of the program: its version and their size stand for the content. */
            AUTO_FREE char *seed =
                str_fmt("%s %s %zu %zu", KF_VERSION, path, kube_gen_n_types, kube_gen_n_resources);
            buf_fmt(b, "%s\"%s\":{\"serverRelativeURL\":\"/openapi/v3/%s?hash=%08X\"}",
                    n++ ? "," : "", path, path, fnv32a(span_str(seed)));
        }
    }
    return buf_str(b, "}}");
}

int kube_openapi_v3(unsigned sets, const char *path, struct buf *b) {
    char have[128];
    for (size_t i = 0; i < kube_gen_n_groups; i++) {
        const struct kube_group *g = &kube_gen_groups[i];
        for (size_t v = 0; v < ARRAY_LEN(g->versions) && g->versions[v] && g->sets & sets; v++) {
            gv_path(g, g->versions[v], have);
            if (str_eq(have, path)) {
                return json_document(sets, g->name, g->versions[v], true, b);
            }
        }
    }
    return -ERR_NOT_FOUND;
}

/* ---- gnostic's protobuf form of v2 (package openapi.v2); the numbers are its field numbers ---- */

static void pb_bytes(struct buf *b, unsigned field, struct span s) {
    buf_varint(b, field << 3 | 2);
    buf_varint(b, s.n);
    buf_span(b, s);
}
static void pb_str(struct buf *b, unsigned field, const char *s) {
    if (s && *s) {
        pb_bytes(b, field, span_str(s));
    }
}
/* Wraps `inner` as field of b and empties it. */
static void pb_sub(struct buf *b, unsigned field, struct buf *inner) {
    pb_bytes(b, field, buf_view(inner));
    b->failed = b->failed ? b->failed : inner->failed;
    buf_reset(inner);
}

enum { /* Schema */
       SCHEMA_REF = 1,
       SCHEMA_FORMAT = 2,
       SCHEMA_DESCRIPTION = 4,
       SCHEMA_DEFAULT = 5,
       SCHEMA_REQUIRED = 19,
       SCHEMA_ADDITIONAL = 21,
       SCHEMA_TYPE = 22,
       SCHEMA_ITEMS = 23,
       SCHEMA_PROPERTIES = 25,
       SCHEMA_EXTENSION = 31,
};

static void pb_type(struct buf *b, const char *type) {
    AUTO(buf) struct buf t = BUF_INIT(256);
    pb_str(&t, 1, type);
    pb_sub(b, SCHEMA_TYPE, &t);
}

static void pb_ext(struct buf *b, unsigned field, const char *name, const char *json) {
    AUTO(buf) struct buf any = BUF_INIT(LIM_PART);
    AUTO(buf) struct buf named_any = BUF_INIT(LIM_PART);
    pb_str(&any, 2, json); /* Any.yaml: JSON is YAML */
    pb_str(&named_any, 1, name);
    pb_sub(&named_any, 2, &any);
    pb_sub(b, field, &named_any);
}

static void pb_shape(struct buf *b, const struct shape *s) {
    if (s->ref[0]) {
        AUTO_FREE char *ref = str_fmt("#/definitions/%s", s->ref);
        pb_str(b, SCHEMA_REF, ref);
    } else if (s->type) {
        pb_type(b, s->type);
        pb_str(b, SCHEMA_FORMAT, s->format);
    }
}

static void pb_field(struct buf *b, const struct kube_field *f) {
    struct shape s;
    struct ext ext[5];
    AUTO(buf) struct buf one = BUF_INIT(LIM_PART);
    AUTO(buf) struct buf wrap = BUF_INIT(LIM_PART);
    size_t n = field_exts(f, ext);
    shape_of(f, &s);
    pb_str(b, SCHEMA_DESCRIPTION, f->desc ? kube_gen_desc + f->desc : NULL);
    if (f->shape == KS_ONE) {
        pb_shape(b, &s);
    } else {
        pb_shape(&one, &s);
        if (f->shape == KS_LIST || f->shape == KS_MAP_LIST) {
            pb_sub(&wrap, 1, &one); /* ItemsItem.schema */
            if (f->shape == KS_MAP_LIST) {
                pb_type(&one, "array");
                pb_sub(&one, SCHEMA_ITEMS, &wrap);
            }
        }
        if (f->shape == KS_LIST) {
            pb_type(b, "array");
            pb_sub(b, SCHEMA_ITEMS, &wrap);
        } else {
            pb_type(b, "object");
            pb_sub(&wrap, 1, &one); /* AdditionalPropertiesItem.schema */
            pb_sub(b, SCHEMA_ADDITIONAL, &wrap);
        }
    }
    for (size_t i = 0; i < n; i++) {
        pb_ext(b, SCHEMA_EXTENSION, ext[i].name, ext[i].json);
    }
}

static void pb_named(struct buf *b, unsigned field, const char *name, struct buf *value) {
    AUTO(buf) struct buf nv = BUF_INIT(LIM_PART);
    pb_str(&nv, 1, name);
    pb_sub(&nv, 2, value);
    pb_sub(b, field, &nv);
}

static void pb_schema(struct buf *b, const struct kube_type *t) {
    AUTO(buf) struct buf props = BUF_INIT(LIM_PART);
    AUTO(buf) struct buf one = BUF_INIT(LIM_PART);
    AUTO(buf) struct buf gvk = BUF_INIT(65536);
    pb_str(b, SCHEMA_DESCRIPTION, t->desc ? kube_gen_desc + t->desc : kube_str(t->name));
    pb_type(b, "object");
    for (size_t i = 0; i < t->n; i++) {
        const struct kube_field *f = &kube_fields(t)[i];
        if (f->presence == KP_INLINE) {
            continue;
        }
        if (f->flags & KF_REQUIRED) {
            pb_str(b, SCHEMA_REQUIRED, kube_str(f->name));
        }
        pb_field(&one, f);
        pb_named(&props, 1, kube_str(f->name), &one);
    }
    pb_sub(b, SCHEMA_PROPERTIES, &props);
    if (type_gvks(t, &gvk)) {
        pb_ext(b, SCHEMA_EXTENSION, "x-kubernetes-group-version-kind", buf_cstr(&gvk));
    }
}

static void pb_op(struct buf *b, const struct op *o, const struct kube_resource *r) {
    AUTO(buf) struct buf query = BUF_INIT(4096);
    AUTO(buf) struct buf non_body = BUF_INIT(4096);
    AUTO(buf) struct buf param = BUF_INIT(4096);
    AUTO(buf) struct buf item = BUF_INIT(4096);
    AUTO_FREE char *gvk = str_fmt("{\"group\":\"%s\",\"kind\":\"%s\",\"version\":\"%s\"}",
                                  r->body_group, r->kind, r->body_version);
    AUTO_FREE char *action = str_fmt("\"%s\"", o->action);
    char id[200];
    op_id(o, r, id);
    pb_str(b, 5, id);
    const char *const *p = op_params(o);
    for (size_t i = 0; p[i]; i++) {
        pb_str(&query, 2, "query");
        pb_str(&query, 4, p[i]);
        pb_str(&query, 6, param_type(p[i]));
        pb_sub(&non_body, 3, &query);
        pb_sub(&param, 2, &non_body);
        pb_sub(&item, 1, &param);
        pb_sub(b, 8, &item);
    }
    pb_ext(b, 13, "x-kubernetes-action", action);
    pb_ext(b, 13, "x-kubernetes-group-version-kind", gvk);
}

static unsigned pb_op_field(const char *http) {
    return str_eq(http, "get")      ? 2
           : str_eq(http, "put")    ? 3
           : str_eq(http, "post")   ? 4
           : str_eq(http, "delete") ? 5
                                    : 8;
}

static void pb_path(struct buf *b, const struct kube_resource *r, bool item, const char *path,
                    void *ctx) {
    (void)ctx;
    AUTO(buf) struct buf path_item = BUF_INIT(65536);
    AUTO(buf) struct buf op = BUF_INIT(65536);
    for (size_t k = 0; k < ARRAY_LEN(ops); k++) {
        if (op_applies(&ops[k], r, item)) {
            pb_op(&op, &ops[k], r);
            pb_sub(&path_item, pb_op_field(ops[k].http), &op);
        }
    }
    pb_named(b, 2, path, &path_item);
}

int kube_openapi_v2_pb(unsigned sets, struct buf *b) {
    AUTO(buf) struct buf part = BUF_INIT(LIM_PART);
    AUTO(buf) struct buf one = BUF_INIT(LIM_PART);
    bool *used = mem_zero_alloc(kube_gen_n_types * sizeof(bool));
    char name[160];
    pb_str(b, 1, "2.0");
    pb_str(&part, 1, "Kubernetes");
    pb_str(&part, 2, KF_KUBE_VERSION);
    pb_sub(b, 2, &part);
    each_path(&part, sets, NULL, NULL, pb_path, NULL);
    pb_sub(b, 8, &part);
    mark_all(sets, NULL, NULL, used);
    for (size_t i = 0; i < kube_gen_n_types; i++) {
        if (used[i]) {
            type_name(&kube_gen_types[i], name);
            pb_schema(&one, &kube_gen_types[i]);
            pb_named(&part, 1, name, &one);
        }
    }
    for (size_t i = 0; i < ARRAY_LEN(named); i++) {
        pb_type(&one, named[i].type);
        pb_str(&one, SCHEMA_FORMAT, named[i].format);
        pb_named(&part, 1, named[i].name, &one);
    }
    pb_sub(b, 9, &part);
    free(used);
    return buf_ok(b);
}
