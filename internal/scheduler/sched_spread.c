#include "internal/kube/kube.h"
#include "internal/scheduler/sched_int.h"

static bool labels_match(const struct json *selector, const struct json *pod) {
    struct kube_errs errs = KUBE_ERRS_INIT;
    struct kube_selector *sel = NULL;
    bool yes =
        kube_selector_of(selector, &sel, &errs) == 0 && kube_selector_match(sel, kube_labels(pod));
    kube_selector_free(sel);
    kube_errs_fini(&errs);
    return yes;
}

/* Does an affinity term of a pod in namespace `ns` speak about `other`? */
static bool term_selects(struct sctx *x, const struct json *term, const char *ns,
                         const struct json *other) {
    const struct json *names = json_get(term, "namespaces"),
                      *ns_sel = json_get(term, "namespaceSelector");
    const char *other_ns = kube_namespace(other);
    bool in_ns = !json_len(names) && json_is_null(ns_sel) && str_eq(ns, other_ns);
    JSON_EACH(it, v, names) {
        in_ns |= str_eq(json_str(v), other_ns);
    }
    if (!in_ns && !json_is_null(ns_sel) && x->namespaces) {
        const struct json *obj = kinformer_get(x->namespaces, NULL, other_ns);
        in_ns = obj && labels_match(ns_sel, obj);
    }
    return in_ns && labels_match(json_get(term, "labelSelector"), other);
}

static bool same_domain(const struct snode *a, const struct snode *b, const char *key) {
    const char *va = kube_label(a->obj, key), *vb = kube_label(b->obj, key);
    return va && vb && str_eq(va, vb);
}

typedef bool pod_pred(struct sctx *x, const struct json *term, const struct json *other);

static bool own_term(struct sctx *x, const struct json *term, const struct json *other) {
    return term_selects(x, term, kube_namespace(x->pod), other);
}

/* Is there a pod that the term selects: on a node of n's domain (n given), or anywhere (n NULL)? */
static bool any_pod(struct sctx *x, const struct json *term, struct snode *n, pod_pred *pred) {
    const char *key = json_str_or(json_get(term, "topologyKey"), "");
    for (size_t i = 0; i < x->c->n; i++) {
        struct snode *m = x->c->arr[i];
        if (!m->obj || (n && !same_domain(n, m, key))) {
            continue;
        }
        for (LIST_EACH(l, next, &m->pods)) {
            struct spod *p = CONTAINER_OF(l, struct spod, link);
            if (p->obj && !kube_is_deleting(p->obj) && pred(x, term, p->obj)) {
                return true;
            }
        }
    }
    return false;
}

/* Pods that are there may refuse the newcomer by their anti-affinity. */
static bool refused_by_existing(struct sctx *x, struct snode *n) {
    for (size_t i = 0; i < x->c->n && x->c->n_anti; i++) {
        struct snode *m = x->c->arr[i];
        if (!m->obj) {
            continue;
        }
        for (LIST_EACH(l, next, &m->pods)) {
            struct spod *p = CONTAINER_OF(l, struct spod, link);
            if (!p->has_anti || !p->obj) {
                continue;
            }
            JSON_EACH(it, term,
                      json_at(p->obj, "spec", "affinity", "podAntiAffinity",
                              "requiredDuringSchedulingIgnoredDuringExecution")) {
                if (same_domain(n, m, json_str_or(json_get(term, "topologyKey"), "")) &&
                    term_selects(x, term, kube_namespace(p->obj), x->pod)) {
                    return true;
                }
            }
        }
    }
    return false;
}

static size_t count_on(struct sctx *x, const struct json *selector, struct snode *m) {
    size_t k = 0;
    for (LIST_EACH(l, next, &m->pods)) {
        struct spod *p = CONTAINER_OF(l, struct spod, link);
        k += p->obj && !kube_is_deleting(p->obj) &&
             str_eq(kube_namespace(p->obj), kube_namespace(x->pod)) &&
             labels_match(selector, p->obj);
    }
    return k;
}

/* skew = pods in n's domain (with this one) - pods in the emptiest domain that the pod may use */
static const char *spread_refuses(struct sctx *x, const struct json *tsc, struct snode *n) {
    const char *key = json_str_or(json_get(tsc, "topologyKey"), "");
    const struct json *selector = json_get(tsc, "labelSelector");
    if (!kube_label(n->obj, key)) {
        return "node(s) didn't match pod topology spread constraints (missing required label)";
    }
    struct map domains = MAP_INIT; /* value → count + 1 */
    for (size_t i = 0; i < x->c->n; i++) {
        struct snode *m = x->c->arr[i];
        const char *v = m->obj ? kube_label(m->obj, key) : NULL;
        bool honours = !str_eq(json_str(json_get(tsc, "nodeAffinityPolicy")), "Ignore");
        bool taints = str_eq(json_str(json_get(tsc, "nodeTaintsPolicy")), "Honor");
        if (!v || (honours && !node_matches_pod(m->obj, x->spec)) ||
            (taints && pod_untolerated(x->spec, m->obj, TAINT_NO_SCHEDULE | TAINT_NO_EXECUTE))) {
            continue;
        }
        size_t k = (size_t)(uintptr_t)map_get_str(&domains, v);
        k = (k ? k : 1) + count_on(x, selector, m);
        map_put_str(&domains, v, (void *)(uintptr_t)k);
    }
    size_t least = SIZE_MAX, here = 1;
    struct map_iter it = {0};
    struct map_entry *en;
    while (map_next(&domains, &it, &en)) {
        size_t k = (size_t)(uintptr_t)en->value;
        least = k < least ? k : least;
        here = str_eq(en->key, kube_label(n->obj, key)) ? k : here;
    }
    if (domains.n < (size_t)json_i64(json_get(tsc, "minDomains"), 0)) {
        least = 1; /* counts as an empty domain */
    }
    map_fini(&domains);
    size_t self = labels_match(selector, x->pod);
    int64_t max_skew = json_i64(json_get(tsc, "maxSkew"), 1);
    bool ok = least == SIZE_MAX || (int64_t)(here + self) - (int64_t)least <= max_skew;
    return ok ? NULL : "node(s) didn't match pod topology spread constraints";
}

const char *sched_spread_refuses(struct sctx *x, struct snode *n) {
    const char *req = "requiredDuringSchedulingIgnoredDuringExecution";
    if (x->has_affinity) {
        JSON_EACH(it, term, json_at(x->spec, "affinity", "podAffinity", req)) {
            bool in_domain = kube_label(n->obj, json_str_or(json_get(term, "topologyKey"), ""));
            /* The first pod of a group that wants to be near itself may go anywhere. */
            bool first =
                in_domain && own_term(x, term, x->pod) && !any_pod(x, term, NULL, own_term);
            if (!in_domain || (!first && !any_pod(x, term, n, own_term))) {
                return "node(s) didn't match pod affinity rules";
            }
        }
        JSON_EACH(it2, term, json_at(x->spec, "affinity", "podAntiAffinity", req)) {
            if (any_pod(x, term, n, own_term)) {
                return "node(s) didn't match pod anti-affinity rules";
            }
        }
    }
    if (refused_by_existing(x, n)) {
        return "node(s) didn't satisfy existing pods anti-affinity rules";
    }
    JSON_EACH(it3, tsc, json_get(x->spec, "topologySpreadConstraints")) {
        if (str_eq(json_str(json_get(tsc, "whenUnsatisfiable")), "DoNotSchedule")) {
            const char *why = spread_refuses(x, tsc, n);
            if (why) {
                return why;
            }
        }
    }
    return NULL;
}
