#include "internal/kube/kube_valid_int.h"

#include "internal/base/addr.h"
#include "internal/kube/kube.h"

#include <stdlib.h>

/* The walk's helpers, metadata, and the dispatch to the files by topic. */

size_t v_in(struct val *v, const char *child) {
    return kube_path_field(&v->p, child);
}
size_t v_in_at(struct val *v, const char *child, size_t i) {
    size_t at = child ? kube_path_field(&v->p, child) : v->p.n;
    kube_path_index(&v->p, i);
    return at;
}

void v_err(struct val *v, enum kube_cause_kind k, const char *child, const struct json *bad,
           const char *fmt, ...) {
    AUTO(buf) struct buf b = BUF_INIT(1u << 20);
    va_list ap;
    va_start(ap, fmt);
    buf_vfmt(&b, fmt, ap);
    va_end(ap);
    size_t at = child ? v_in(v, child) : v->p.n;
    kube_err_add(v->e, k, v->p.s, bad, "%s", buf_cstr(&b));
    v_out(v, at);
}
void v_err_str(struct val *v, enum kube_cause_kind k, const char *child, const char *bad,
               const char *fmt, ...) {
    AUTO(buf) struct buf b = BUF_INIT(1u << 20);
    va_list ap;
    va_start(ap, fmt);
    buf_vfmt(&b, fmt, ap);
    va_end(ap);
    size_t at = child ? v_in(v, child) : v->p.n;
    kube_err_add_str(v->e, k, v->p.s, bad, "%s", buf_cstr(&b));
    v_out(v, at);
}
void v_required(struct val *v, const char *child, const char *detail) {
    v_err(v, KUBE_REQUIRED, child, NULL, "%s", detail ? detail : "");
}
void v_dup(struct val *v, const char *child, const struct json *bad) {
    v_err(v, KUBE_DUPLICATE, child, bad, "%s", "");
}

void v_unsupported(struct val *v, const char *child, const struct json *bad, const char *list) {
    AUTO(buf) struct buf b = BUF_INIT(4096);
    struct span s = span_str(list), one;
    buf_str(&b, "supported values: ");
    for (size_t i = 0; span_next(&s, '|', &one); i++) {
        buf_fmt(&b, "%s\"%.*s\"", i ? ", " : "", SPAN_FMT(one));
    }
    if (bad) {
        v_err(v, KUBE_NOT_SUPPORTED, child, bad, "%s", buf_cstr(&b));
    } else {
        v_err_str(v, KUBE_NOT_SUPPORTED, child, "", "%s", buf_cstr(&b));
    }
}

bool v_in_list(const char *s, const char *list) {
    struct span all = span_str(list), one;
    while (span_next(&all, '|', &one)) {
        if (span_eq_str(one, s)) {
            return true;
        }
    }
    return false;
}

bool v_need_str(struct val *v, const struct json *o, const char *key) {
    if (json_span(json_get(o, key)).n) {
        return true;
    }
    v_required(v, key, NULL);
    return false;
}
void v_enum(struct val *v, const struct json *o, const char *key, const char *list) {
    const struct json *x = json_get(o, key);
    if (json_span(x).n && !v_in_list(json_str(x), list)) {
        v_unsupported(v, key, x, list);
    }
}
void v_enum_need(struct val *v, const struct json *o, const char *key, const char *list) {
    const struct json *x = json_get(o, key);
    if (!v_in_list(json_str_or(x, ""), list)) {
        v_unsupported(v, key, x, list);
    }
}
void v_min0(struct val *v, const struct json *o, const char *key) {
    const struct json *x = json_get(o, key);
    if (json_is_int(x) && json_i64(x, 0) < 0) {
        v_err(v, KUBE_INVALID, key, x, "must be greater than or equal to 0");
    }
}
void v_range(struct val *v, const struct json *o, const char *key, int64_t lo, int64_t hi) {
    const struct json *x = json_get(o, key);
    if (json_is_int(x) && (json_i64(x, 0) < lo || json_i64(x, 0) > hi)) {
        v_err(v, KUBE_INVALID, key, x, "must be between %lld and %lld, inclusive", (long long)lo,
              (long long)hi);
    }
}

bool v_is_ip(struct span s) {
    uint8_t a[16];
    bool v6;
    return ip_parse(s, a, &v6) == 0;
}
static bool is_cidr(struct span s) {
    uint8_t a[16];
    unsigned bits;
    bool v6;
    return cidr_parse(s, a, &bits, &v6) == 0;
}
void v_ip(struct val *v, const char *child, const struct json *x) {
    if (!v_is_ip(json_span(x))) {
        v_err(v, KUBE_INVALID, child, x,
              "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
    }
}
void v_cidr(struct val *v, const char *child, const struct json *x) {
    if (!is_cidr(json_span(x))) {
        v_err(v, KUBE_INVALID, child, x,
              "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
    }
}

void v_name(struct val *v, const char *child, const struct json *x, enum name_rule rule) {
    const char *m[3];
    size_t n = v_name_msgs(rule, json_span(x), m);
    for (size_t i = 0; i < n; i++) {
        v_err_str(v, KUBE_INVALID, child, json_str(x), "%s", m[i]);
    }
}

static void qualified(struct val *v, const char *child, const char *key, const char *shown) {
    const char *m[4];
    size_t n = kube_qualified_msgs(span_str(key), m);
    for (size_t i = 0; i < n; i++) {
        v_err_str(v, KUBE_INVALID, child, shown, "%s", m[i]);
    }
}
void v_qualified(struct val *v, const char *child, const struct json *x) {
    qualified(v, child, json_str_or(x, ""), json_str_or(x, ""));
}

const char *const *v_keys(struct val *v, const struct json *obj) {
    static const char *const none[] = {NULL};
    size_t n = 0; /* the arena's zeros end the list */
    const char **l = arena_alloc(kube_errs_mem(v->e), (json_len(obj) + 1) * sizeof(*l));
    if (!l || !json_is_obj(obj)) {
        return none;
    }
    JSON_EACH_KV(it, k, x, obj) {
        (void)x;
        l[n++] = k;
    }
    return l;
}

void v_labels(struct val *v, const char *child, const struct json *labels) {
    const char *m[2];
    for (const char *const *k = v_keys(v, labels); *k; k++) {
        const char *value = json_str_or(json_get(labels, *k), "");
        qualified(v, child, *k, *k);
        size_t n = kube_value_msgs(span_str(value), m);
        for (size_t i = 0; i < n; i++) {
            v_err_str(v, KUBE_INVALID, child, value, "%s", m[i]);
        }
    }
}

void v_annotations(struct val *v, const char *child, const struct json *annotations) {
    enum { ANNOTATION_BYTES = 256 << 10 };
    size_t total = 0;
    for (const char *const *k = v_keys(v, annotations); *k; k++) {
        AUTO_FREE char *low = str_dup(*k);
        for (char *c = low; *c; c++) {
            *c = (char)(*c >= 'A' && *c <= 'Z' ? *c + 32 : *c);
        }
        qualified(v, child, low, *k);
        total += strlen(*k) + json_span(json_get(annotations, *k)).n;
    }
    if (total > ANNOTATION_BYTES) {
        v_err(v, KUBE_TOO_LONG, child, NULL, "may not be more than %d bytes", ANNOTATION_BYTES);
    }
}

void v_label_selector(struct val *v, const char *child, const struct json *sel) {
    size_t at = child ? v_in(v, child) : v->p.n, i = 0;
    const char *m[2];
    v_labels(v, "matchLabels", json_get(sel, "matchLabels"));
    JSON_EACH(it, e, json_get(sel, "matchExpressions")) {
        size_t at2 = v_in_at(v, "matchExpressions", i++);
        const struct json *op = json_get(e, "operator");
        size_t n = json_len(json_get(e, "values"));
        if (v_in_list(json_str_or(op, ""), "In|NotIn")) {
            if (!n) {
                v_required(v, "values", "must be specified when `operator` is 'In' or 'NotIn'");
            }
        } else if (v_in_list(json_str_or(op, ""), "Exists|DoesNotExist")) {
            if (n) {
                v_err(v, KUBE_FORBIDDEN, "values", NULL,
                      "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
            }
        } else {
            v_err_str(v, KUBE_INVALID, "operator", json_str_or(op, ""),
                      "not a valid selector operator");
        }
        v_qualified(v, "key", json_get(e, "key"));
        size_t k = 0;
        JSON_EACH(it2, x, json_get(e, "values")) {
            size_t at3 = v_in_at(v, "values", k++), msgs = kube_value_msgs(json_span(x), m);
            for (size_t q = 0; q < msgs; q++) {
                v_err(v, KUBE_INVALID, NULL, x, "%s", m[q]);
            }
            v_out(v, at3);
        }
        v_out(v, at2);
    }
    v_out(v, at);
}

void v_immutable(struct val *v, const char *child, const struct json *now, const struct json *old) {
    if (json_is_null(now) && json_is_null(old)) {
        return;
    }
    if (!now || !old || !json_eq(now, old)) {
        v_err(v, KUBE_INVALID, child, now, "field is immutable");
    }
}

/* ---- metadata --------------------------------------------------------------------------------------- */

static enum name_rule rule_of(const struct kube_resource *r) {
    switch (r->type ? r->type->hook : KH_NONE) {
    case KH_NAMESPACE:
    case KH_SERVICE:
    case KH_STATEFUL_SET:
    case KH_TENANT: return NAME_LABEL;
    case KH_EVENT:
    case KH_PDB:
    case KH_CSR:
    case KH_API_SERVICE:
    case KH_IP_ADDRESS: return NAME_ANY;
    case KH_ROLE:
    case KH_CLUSTER_ROLE:
    case KH_ROLE_BINDING:
    case KH_CLUSTER_ROLE_BINDING: return NAME_PATH;
    default: return NAME_SUBDOMAIN;
    }
}

static void owners(struct val *v, const struct json *meta) {
    static const char *const keys[][2] = {{"apiVersion", "version must not be empty"},
                                          {"kind", "must not be empty"},
                                          {"name", "must not be empty"},
                                          {"uid", "must not be empty"}};
    const char *controller = NULL;
    size_t i = 0;
    JSON_EACH(it, o, json_get(meta, "ownerReferences")) {
        size_t at = v_in_at(v, "ownerReferences", i++);
        for (size_t k = 0; k < ARRAY_LEN(keys); k++) {
            if (!json_span(json_get(o, keys[k][0])).n) {
                v_err_str(v, KUBE_INVALID, keys[k][0], "", "%s", keys[k][1]);
            }
        }
        v_out(v, at);
        if (json_bool(json_get(o, "controller"), false)) {
            const char *name = json_str_or(json_get(o, "name"), "");
            if (controller) {
                v_err(v, KUBE_INVALID, "ownerReferences", json_get(meta, "ownerReferences"),
                      "Only one reference can have Controller set to true. Found \"true\" in "
                      "references for %s and %s",
                      controller, name);
            }
            controller = name;
        }
    }
}

static void finalizers(struct val *v, const struct json *meta) {
    const char *m[4];
    bool orphan = false, foreground = false;
    size_t i = 0;
    JSON_EACH(it, f, json_get(meta, "finalizers")) {
        const char *s = json_str_or(f, "");
        orphan = orphan || str_eq(s, "orphan");
        foreground = foreground || str_eq(s, "foregroundDeletion");
        size_t n = kube_qualified_msgs(span_str(s), m), at = v->p.n;
        kube_path_field(&v->p, "finalizers");
        for (size_t k = 0; k < n; k++) {
            v_err_str(v, KUBE_INVALID, NULL, s, "%s", m[k]);
        }
        if (!strchr(s, '/') && !v_in_list(s, "kubernetes|orphan|foregroundDeletion")) {
            kube_path_index(&v->p, i);
            v_err_str(v, KUBE_INVALID, NULL, s,
                      "name is neither a standard finalizer name nor is it fully qualified");
        }
        v_out(v, at);
        i++;
    }
    if (orphan && foreground) {
        v_err(v, KUBE_INVALID, "finalizers", json_get(meta, "finalizers"),
              "finalizer orphan and foregroundDeletion cannot be both set");
    }
}

static void meta_maps(struct val *v, const struct json *meta) {
    v_labels(v, "labels", json_get(meta, "labels"));
    v_annotations(v, "annotations", json_get(meta, "annotations"));
    owners(v, meta);
    finalizers(v, meta);
}

static void v_meta(struct val *v, const struct json *obj) {
    const struct json *meta = json_get(obj, "metadata"), *gen = json_get(meta, "generateName");
    enum name_rule rule = rule_of(v->r);
    size_t at = v_in(v, "metadata");
    if (json_span(gen).n) { /* a prefix: a trailing dash stands for what follows */
        struct span s = json_span(gen);
        const char *m[3];
        AUTO_FREE char *t = str_dupn(s.p, s.n);
        if (s.n > 1 && t[s.n - 1] == '-') {
            t[s.n - 1] = 'a';
        }
        size_t n = v_name_msgs(rule, span_str(t), m);
        for (size_t i = 0; i < n; i++) {
            v_err(v, KUBE_INVALID, "generateName", gen, "%s", m[i]);
        }
    }
    if (!json_span(json_get(meta, "name")).n) {
        v_required(v, "name", "name or generateName is required");
    } else {
        v_name(v, "name", json_get(meta, "name"), rule);
    }
    const struct json *ns = json_get(meta, "namespace");
    if (v->r->namespaced) {
        if (!json_span(ns).n) {
            v_required(v, "namespace", NULL);
        } else {
            v_name(v, "namespace", ns, NAME_LABEL);
        }
    } else if (json_span(ns).n) {
        v_err(v, KUBE_FORBIDDEN, "namespace", NULL, "not allowed on this type");
    }
    v_min0(v, meta, "generation");
    meta_maps(v, meta);
    v_out(v, at);
}

static void v_meta_update(struct val *v, const struct json *obj, const struct json *old) {
    static const char *const fixed[] = {"name",
                                        "namespace",
                                        "uid",
                                        "creationTimestamp",
                                        "deletionTimestamp",
                                        "deletionGracePeriodSeconds"};
    const struct json *m = json_get(obj, "metadata"), *o = json_get(old, "metadata");
    size_t at = v_in(v, "metadata");
    if (kube_is_deleting(old)) {
        AUTO(buf) struct buf b = BUF_INIT(64u << 10);
        JSON_EACH(it, f, json_get(m, "finalizers")) {
            if (!kube_has_finalizer(old, json_str_or(f, ""))) {
                buf_fmt(&b, "%s\"%s\"", b.n ? ", " : "", json_str_or(f, ""));
            }
        }
        if (b.n) {
            v_err(v, KUBE_FORBIDDEN, "finalizers", NULL,
                  "no new finalizers can be added if the object is being deleted, found new "
                  "finalizers []string{%s}",
                  buf_cstr(&b));
        }
    }
    for (size_t i = 0; i < ARRAY_LEN(fixed); i++) {
        v_immutable(v, fixed[i], json_get(m, fixed[i]), json_get(o, fixed[i]));
    }
    meta_maps(v, m);
    v_out(v, at);
}

/* ---- entry -------------------------------------------------------------------------------------------- */

static void by_kind(struct val *v, const struct json *obj, const struct json *old) {
    bool done = v_pod(v, obj, old) || v_workload(v, obj, old) || v_core(v, obj, old) ||
                v_policy(v, obj, old) || v_farm(v, obj, old);
    IGNORE_ERR(done, "kinds without checks of their own have only those of their metadata");
}

int kube_validate_create(const struct json *obj, const struct kube_resource *r,
                         struct kube_errs *errs) {
    struct val v = {.e = errs, .root = obj, .r = r};
    if (r->type && kube_field_find(r->type, SPAN_LIT("metadata")) && (r->verbs & KUBE_V_GET)) {
        v_meta(&v, obj);
    }
    by_kind(&v, obj, NULL);
    return errs->n ? -ERR_UNPROCESSABLE : 0;
}

int kube_validate_update(const struct json *obj, const struct json *old,
                         const struct kube_resource *r, struct kube_errs *errs) {
    struct val v = {.e = errs, .root = obj, .r = r};
    for (int pass = 0; pass < 2;
         pass++) { /* upstream checks metadata in the registry and in the kind: causes come twice */
        v_meta(&v, obj);
        v_meta_update(&v, obj, old);
    }
    if (!*r->sub || str_eq(r->sub, "ephemeralcontainers") || str_eq(r->sub, "resize")) {
        by_kind(&v, obj, old);
    }
    return errs->n ? -ERR_UNPROCESSABLE : 0;
}
