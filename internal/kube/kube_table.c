#include "internal/kube/kube.h"

#include "internal/kube/kube_int.h"

size_t kube_n_resources(void) {
    return kube_gen_n_resources;
}
const struct kube_resource *kube_resource_at(size_t i) {
    return i < kube_gen_n_resources ? &kube_gen_resources[i] : NULL;
}
size_t kube_n_groups(void) {
    return kube_gen_n_groups;
}
const struct kube_group *kube_group_at(size_t i) {
    return i < kube_gen_n_groups ? &kube_gen_groups[i] : NULL;
}

const struct kube_resource *kube_resource_find(const char *group, const char *version,
                                               const char *name, const char *sub) {
    for (size_t i = 0; i < kube_gen_n_resources; i++) {
        const struct kube_resource *r = &kube_gen_resources[i];
        if (str_eq(r->name, name) && str_eq(r->sub, sub ? sub : "") && str_eq(r->group, group) &&
            str_eq(r->version, version)) {
            return r;
        }
    }
    return NULL;
}

const struct kube_resource *kube_resource_by_kind(const char *group, const char *version,
                                                  const char *kind) {
    for (size_t i = 0; i < kube_gen_n_resources; i++) {
        const struct kube_resource *r = &kube_gen_resources[i];
        if (!*r->sub && str_eq(r->kind, kind) && str_eq(r->group, group) &&
            str_eq(r->version, version)) {
            return r;
        }
    }
    return NULL;
}

bool kube_has_sub(const struct kube_resource *r, const char *sub) {
    return kube_resource_find(r->group, r->version, r->name, sub) != NULL;
}

const struct kube_resource *kube_stored(const struct kube_resource *r) {
    if (str_eq(r->group, "events.k8s.io")) {
        return kube_resource_find("", "v1", "events", r->sub);
    }
    if (str_eq(r->group, "autoscaling") && str_eq(r->version, "v1")) {
        return kube_resource_find("autoscaling", "v2", r->name, r->sub);
    }
    return r;
}

const char *kube_api_version(const struct kube_resource *r) {
    /* One constant text per served group and version, so that callers may keep the pointer. */
    static const struct {
        const char *group, *version, *text;
    } tab[] = {
        {"", "v1", "v1"},
        {"apps", "v1", "apps/v1"},
        {"batch", "v1", "batch/v1"},
        {"policy", "v1", "policy/v1"},
        {"autoscaling", "v1", "autoscaling/v1"},
        {"autoscaling", "v2", "autoscaling/v2"},
        {"apiregistration.k8s.io", "v1", "apiregistration.k8s.io/v1"},
        {"events.k8s.io", "v1", "events.k8s.io/v1"},
        {"authentication.k8s.io", "v1", "authentication.k8s.io/v1"},
        {"authorization.k8s.io", "v1", "authorization.k8s.io/v1"},
        {"certificates.k8s.io", "v1", "certificates.k8s.io/v1"},
        {"networking.k8s.io", "v1", "networking.k8s.io/v1"},
        {"rbac.authorization.k8s.io", "v1", "rbac.authorization.k8s.io/v1"},
        {"storage.k8s.io", "v1", "storage.k8s.io/v1"},
        {"admissionregistration.k8s.io", "v1", "admissionregistration.k8s.io/v1"},
        {"apiextensions.k8s.io", "v1", "apiextensions.k8s.io/v1"},
        {"scheduling.k8s.io", "v1", "scheduling.k8s.io/v1"},
        {"coordination.k8s.io", "v1", "coordination.k8s.io/v1"},
        {"node.k8s.io", "v1", "node.k8s.io/v1"},
        {"discovery.k8s.io", "v1", "discovery.k8s.io/v1"},
        {"resource.k8s.io", "v1", "resource.k8s.io/v1"},
        {"flowcontrol.apiserver.k8s.io", "v1", "flowcontrol.apiserver.k8s.io/v1"},
        {"kfarm.dev", "v1alpha1", "kfarm.dev/v1alpha1"},
        {"cluster.x-k8s.io", "v1beta1", "cluster.x-k8s.io/v1beta1"},
    };
    for (size_t i = 0; i < ARRAY_LEN(tab); i++) {
        if (str_eq(tab[i].group, r->group) && str_eq(tab[i].version, r->version)) {
            return tab[i].text;
        }
    }
    CHECK(false && "group without a row");
    return NULL;
}

int kube_gv_split(const char *api_version, struct span *ret_group, struct span *ret_version) {
    struct span s = span_str(api_version), head;
    ptrdiff_t at = span_index(s, '/');
    if (at < 0) {
        *ret_group = SPAN_LIT("");
        *ret_version = s;
        return 0;
    }
    if (span_until(&s, '/', &head) < 0 || span_index(s, '/') >= 0) {
        return -ERR_INVALID;
    }
    *ret_group = head;
    *ret_version = s;
    return 0;
}

const struct kube_type *kube_type_of(const char *api_version, const char *kind) {
    struct span g, v;
    if (!api_version || !kind || kube_gv_split(api_version, &g, &v) < 0) {
        return NULL;
    }
    for (size_t i = 0; i < kube_gen_n_kinds; i++) {
        const struct kube_kind *k = &kube_gen_kinds[i];
        if (str_eq(k->kind, kind) && span_eq_str(g, k->group) && span_eq_str(v, k->version)) {
            return &kube_gen_types[k->type];
        }
    }
    return NULL;
}

const struct kube_type *kube_type_named(const char *name) {
    size_t lo = 0, hi = kube_gen_n_types;
    struct span full = span_str(name), pkg = full;
    while (pkg.n && full.p[pkg.n - 1] != '.') {
        pkg.n--;
    }
    struct span shortname = span_of(full.p + pkg.n, full.n - pkg.n);
    pkg.n -= pkg.n ? 1 : 0;
    for (; lo < hi; lo++) {
        const struct kube_type *t = &kube_gen_types[lo];
        if (span_eq_str(shortname, kube_str(t->name)) && span_eq_str(pkg, kube_str(t->pkg))) {
            return t;
        }
    }
    return NULL;
}

const struct kube_field *kube_field_find(const struct kube_type *t, struct span name) {
    const struct kube_field *f = kube_fields(t);
    size_t lo = 0, hi = t->n;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        const char *s = kube_str(f[mid].name);
        int c = memcmp(name.p ? (const char *)name.p : "", s, name.n);
        if (c == 0 && s[name.n]) {
            c = -1;
        }
        if (c == 0) {
            return f[mid].presence == KP_INLINE ? NULL : &f[mid];
        }
        if (c < 0) {
            hi = mid;
        } else {
            lo = mid + 1;
        }
    }
    return NULL;
}

/* Paths past 1 KiB are cut: they are for people. */
static void path_add(struct kube_path *p, const char *s, size_t n) {
    size_t room = sizeof(p->s) - 1 - p->n;
    n = n < room ? n : room;
    memcpy(p->s + p->n, s, n);
    p->n += n;
    p->s[p->n] = 0;
}

size_t kube_path_field(struct kube_path *p, const char *name) {
    size_t old = p->n;
    if (old) {
        path_add(p, ".", 1);
    }
    path_add(p, name, strlen(name));
    return old;
}

size_t kube_path_index(struct kube_path *p, size_t i) {
    char t[24];
    size_t old = p->n, at = sizeof(t);
    t[--at] = ']';
    do {
        t[--at] = (char)('0' + i % 10);
        i /= 10;
    } while (i);
    t[--at] = '[';
    path_add(p, t + at, sizeof(t) - at);
    return old;
}

size_t kube_path_key(struct kube_path *p, const char *key) {
    size_t old = p->n;
    path_add(p, "[", 1);
    path_add(p, key, strlen(key));
    path_add(p, "]", 1);
    return old;
}
