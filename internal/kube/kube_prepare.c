#include "internal/kube/kube.h"

#include "internal/base/rand.h"
#include "internal/kube/kube_int.h"

/* What the registry does to an object before it is validated: who may write which part, and the counters. */

/* Kinds that count generations. */
static bool counts_generation(unsigned hook) {
    switch (hook) {
    case KH_POD:
    case KH_DEPLOYMENT:
    case KH_REPLICA_SET:
    case KH_DAEMON_SET:
    case KH_STATEFUL_SET:
    case KH_RC:
    case KH_POD_TEMPLATE:
    case KH_JOB:
    case KH_CRON_JOB:
    case KH_PDB:
    case KH_INGRESS:
    case KH_INGRESS_CLASS:
    case KH_NETWORK_POLICY:
    case KH_ENDPOINT_SLICE:
    case KH_PRIORITY_CLASS:
    case KH_VALIDATING_WEBHOOKS:
    case KH_MUTATING_WEBHOOKS:
    case KH_VAP:
    case KH_VAP_BINDING:
    case KH_FLOW_SCHEMA:
    case KH_PRIORITY_LEVEL:
    case KH_CRD:
    case KH_TENANT:
    case KH_NETWORK:
    case KH_IMAGE:
    case KH_HOST:
    case KH_MACHINE: return true;
    default: return false;
    }
}

/* Kinds whose writer may give the status with the object. */
static bool status_is_free(unsigned hook) {
    return hook == KH_NODE || hook == KH_EVENT || hook == KH_EVENTS_EVENT;
}

static unsigned hook_of(const struct kube_resource *r) {
    return r->type ? r->type->hook : KH_NONE;
}

/* QoS class by the requests and limits of cpu and memory of all containers. */
static void qos_container(const struct json *c, bool *any, bool *guaranteed) {
    static const char *const names[] = {"cpu", "memory"};
    const struct json *req = json_at(c, "resources", "requests"),
                      *lim = json_at(c, "resources", "limits");
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        struct json *r = json_get(req, names[i]), *l = json_get(lim, names[i]);
        int64_t rv = 0, lv = 0;
        bool has_r = r && kube_quantity_milli(json_span(r), &rv) == 0 && rv > 0;
        bool has_l = l && kube_quantity_milli(json_span(l), &lv) == 0 && lv > 0;
        *any = *any || has_r || has_l;
        *guaranteed = *guaranteed && has_l && (!has_r || rv == lv);
    }
}

const char *kube_qos(const struct json *pod) {
    bool any = false, guaranteed = true;
    static const char *const lists[] = {"containers", "initContainers"};
    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        JSON_EACH(it, c, json_at(pod, "spec", lists[i])) {
            qos_container(c, &any, &guaranteed);
        }
    }
    return !any ? "BestEffort" : guaranteed ? "Guaranteed" : "Burstable";
}

/* The selector and labels that tie pods to their Job. */
static void job_selector(struct json_doc *d, struct json *o) {
    struct json *spec = json_need_obj(d, o, "spec");
    if (json_bool(json_get(spec, "manualSelector"), false)) {
        return;
    }
    json_set_bool(d, spec, "manualSelector", false);
    const char *uid = kube_uid(o), *name = kube_name(o);
    struct json *meta = json_need_obj(d, json_need_obj(d, spec, "template"), "metadata");
    struct json *l = json_need_obj(d, meta, "labels");
    const char *const kv[][2] = {{"batch.kubernetes.io/controller-uid", uid},
                                 {"batch.kubernetes.io/job-name", name},
                                 {"controller-uid", uid},
                                 {"job-name", name}};
    for (size_t i = 0; i < ARRAY_LEN(kv); i++) {
        if (!json_get(l, kv[i][0])) {
            json_set_str(d, l, kv[i][0], kv[i][1]);
        }
    }
    struct json *m = json_need_obj(d, json_need_obj(d, spec, "selector"), "matchLabels");
    if (!json_get(m, "batch.kubernetes.io/controller-uid")) {
        json_set_str(d, m, "batch.kubernetes.io/controller-uid", uid);
    }
    if (!json_len(kube_labels(o)) && kube_is_label_value(span_str(name))) {
        json_set(d, json_get(o, "metadata"), "labels", json_copy(d, l));
    }
}

/* clusterIP and clusterIPs[0] say the same. */
static void service_ips(struct json_doc *d, struct json *o) {
    struct json *spec = json_need_obj(d, o, "spec");
    struct json *ip = json_get(spec, "clusterIP"), *ips = json_get(spec, "clusterIPs");
    if (json_span(ip).n && !json_len(ips)) {
        json_push_str(d, json_set_arr(d, spec, "clusterIPs"), json_str(ip));
    }
}

static void create_status(struct json_doc *d, struct json *o, unsigned hook) {
    char now[TIME_STR];
    struct json *st;
    switch (hook) {
    case KH_POD:
        st = json_need_obj(d, o, "status");
        json_set_str(d, st, "phase", "Pending");
        json_set_str(d, st, "qosClass", kube_qos(o));
        break;
    case KH_NAMESPACE: json_set_str(d, json_need_obj(d, o, "status"), "phase", "Active"); break;
    case KH_PV:
        st = json_need_obj(d, o, "status");
        time_rfc3339(clock_wall_ns() / NS_PER_S, now);
        json_set_str(d, st, "phase", "Pending");
        json_set_str(d, st, "lastPhaseTransitionTime", now);
        break;
    case KH_PVC: json_set_str(d, json_need_obj(d, o, "status"), "phase", "Pending"); break;
    case KH_CRD: {
        struct json *sv = json_set_arr(d, json_need_obj(d, o, "status"), "storedVersions");
        JSON_EACH(it, v, json_at(o, "spec", "versions")) {
            if (json_bool(json_get(v, "storage"), false)) {
                json_push_str(d, sv, json_str_or(json_get(v, "name"), ""));
            }
        }
        break;
    }
    default: break;
    }
}

/* Empty lists that storage gives back as null. */
static void csi_node(struct json_doc *d, struct json *obj) {
    struct json *spec = json_get(obj, "spec"), *drivers = json_get(spec, "drivers");
    if (json_is_arr(drivers) && !json_len(drivers)) {
        json_set(d, spec, "drivers", json_new_null(d));
    }
}

void kube_prepare_create(struct json_doc *d, struct json *obj, const struct kube_resource *r) {
    unsigned hook = hook_of(r);
    struct json *meta = json_need_obj(d, obj, "metadata");
    json_del(meta, "generation");
    json_del(meta, "selfLink");
    json_del(meta, "deletionTimestamp");
    json_del(meta, "deletionGracePeriodSeconds");
    if (counts_generation(hook)) {
        json_set_i64(d, meta, "generation", 1);
    }
    if (r->type && kube_field_find(r->type, SPAN_LIT("status")) && kube_has_sub(r, "status") &&
        !status_is_free(hook)) {
        json_del(obj, "status");
        kube_fill_absent(d, obj, r->type);
        create_status(d, obj, hook);
    }
    switch (hook) {
    case KH_NAMESPACE: {
        struct json *spec = json_need_obj(d, obj, "spec"),
                    *f = json_need_arr(d, spec, "finalizers");
        bool has = false;
        JSON_EACH(it, x, f) {
            has = has || str_eq(json_str(x), "kubernetes");
        }
        if (!has) {
            json_push_str(d, f, "kubernetes");
        }
        break;
    }
    case KH_JOB: job_selector(d, obj); break;
    case KH_SERVICE: service_ips(d, obj); break;
    case KH_CSI_NODE: csi_node(d, obj); break;
    case KH_POD: json_del(json_get(obj, "spec"), "ephemeralContainers"); break;
    case KH_NODE: {
        struct json *spec = json_need_obj(d, obj, "spec"), *cidr = json_get(spec, "podCIDR");
        if (json_span(cidr).n && !json_len(json_get(spec, "podCIDRs"))) {
            json_push_str(d, json_set_arr(d, spec, "podCIDRs"), json_str(cidr));
        }
        break;
    }
    default: break;
    }
}

static void take(struct json_doc *d, struct json *to, const struct json *from, const char *key) {
    struct json *v = json_get(from, key);
    if (v) {
        json_set(d, to, key, json_copy(d, v));
    } else {
        json_del(to, key);
    }
}

static void take_if_absent(struct json_doc *d, struct json *to, const struct json *from,
                           const char *key) {
    if (json_is_null(json_get(to, key)) ||
        (json_is_str(json_get(to, key)) && !json_span(json_get(to, key)).n)) {
        take(d, to, from, key);
    }
}

static bool same(const struct json *a, const struct json *b, const char *key) {
    const struct json *x = json_get(a, key), *y = json_get(b, key);
    return (json_is_null(x) && json_is_null(y)) || (x && y && json_eq(x, y));
}

static void drop_same(struct json *n, const struct json *o, const char *key) {
    if (same(n, o, key)) {
        json_del(n, key);
    }
}

/* A change of type takes along what only the old type has, unless the writer set it anew. */
static void service_drop(struct json *n, const struct json *o) {
    const char *nt = json_str_or(json_get(n, "type"), ""),
               *ot = json_str_or(json_get(o, "type"), "");
    bool ports = str_eq(nt, "NodePort") || str_eq(nt, "LoadBalancer");
    if (str_eq(nt, ot)) {
        return;
    }
    if (!ports) {
        struct json_iter it = json_iter(json_get(o, "ports"));
        JSON_EACH(it2, p, json_get(n, "ports")) {
            const struct json *q = json_next(&it, NULL);
            if (q) {
                drop_same(p, q, "nodePort");
            }
        }
        drop_same(n, o, "externalTrafficPolicy");
    }
    if (!str_eq(nt, "LoadBalancer")) {
        drop_same(n, o, "healthCheckNodePort");
        drop_same(n, o, "allocateLoadBalancerNodePorts");
        drop_same(n, o, "loadBalancerClass");
    }
    if (str_eq(nt, "ExternalName")) {
        static const char *const keys[] = {"clusterIP", "clusterIPs", "ipFamilies",
                                           "ipFamilyPolicy", "internalTrafficPolicy"};
        for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
            drop_same(n, o, keys[i]);
        }
    }
}

/* What the Service's allocator gave earlier stays when the writer says nothing about it. */
static void service_allocated(struct json_doc *d, struct json *obj, const struct json *old) {
    struct json *n = json_need_obj(d, obj, "spec"), *o = json_get(old, "spec");
    bool ext = str_eq(json_str(json_get(n, "type")), "ExternalName");
    if (!ext && !str_eq(json_str(json_get(o, "type")), "ExternalName")) {
        static const char *const keys[] = {"clusterIP", "clusterIPs", "ipFamilies",
                                           "ipFamilyPolicy"};
        for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
            take_if_absent(d, n, o, keys[i]);
        }
    }
    service_drop(n, o);
    const char *type = json_str_or(json_get(n, "type"), "");
    if (str_eq(type, "NodePort") || str_eq(type, "LoadBalancer")) {
        JSON_EACH(it, p, json_get(n, "ports")) {
            if (json_i64(json_get(p, "nodePort"), 0)) {
                continue;
            }
            JSON_EACH(it2, q, json_get(o, "ports")) {
                if (json_i64(json_get(q, "nodePort"), 0) && same(p, q, "port") &&
                    same(p, q, "protocol")) {
                    take(d, p, q, "nodePort");
                    break;
                }
            }
        }
        take_if_absent(d, n, o, "healthCheckNodePort");
    }
    service_ips(d, obj);
}

/* All but metadata, status and the type: the part whose change raises the generation. */
static bool wish_changed(const struct json *obj, const struct json *old, unsigned hook) {
    static const char *const keep[] = {"apiVersion", "kind", "metadata", "status"};
    bool changed = hook == KH_DEPLOYMENT &&
                   !same(json_get(obj, "metadata"), json_get(old, "metadata"), "annotations");
    if (hook == KH_ENDPOINT_SLICE) {
        changed = !same(json_get(obj, "metadata"), json_get(old, "metadata"), "labels");
    }
    for (int pass = 0; pass < 2 && !changed; pass++) {
        JSON_EACH_KV(it, k, v, pass ? old : obj) {
            bool skip = false;
            for (size_t i = 0; i < ARRAY_LEN(keep) && !skip; i++) {
                skip = str_eq(k, keep[i]);
            }
            (void)v;
            if (!skip && !same(obj, old, k)) {
                changed = true;
                break;
            }
        }
    }
    return changed;
}

/* A subresource writes its part; everything else stays as stored. */
static void only_part(struct json_doc *d, struct json *obj, const struct json *old,
                      const char *part, bool keep_labels) {
    static const char *const fixed[] = {"apiVersion", "kind", "metadata"};
    const char *drop[32];
    size_t n = 0;
    JSON_EACH_KV(it, k, v, obj) {
        bool keep = str_eq(k, part);
        for (size_t i = 0; i < ARRAY_LEN(fixed); i++) {
            keep = keep || str_eq(k, fixed[i]);
        }
        (void)v;
        if (!keep && n < ARRAY_LEN(drop)) {
            drop[n++] = k;
        }
    }
    for (size_t i = 0; i < n; i++) {
        json_del(obj, drop[i]);
    }
    JSON_EACH_KV(it2, key, x, old) {
        bool skip = str_eq(key, part);
        for (size_t i = 0; i < ARRAY_LEN(fixed); i++) {
            skip = skip || str_eq(key, fixed[i]);
        }
        if (!skip) {
            json_set(d, obj, key, json_copy(d, x));
        }
    }
    if (keep_labels) {
        take(d, json_get(obj, "metadata"), json_get(old, "metadata"), "labels");
    }
}

void kube_prepare_update(struct json_doc *d, struct json *obj, const struct json *old,
                         const struct kube_resource *r) {
    unsigned hook = hook_of(r);
    struct json *meta = json_need_obj(d, obj, "metadata"), *om = json_get(old, "metadata");
    static const char *const kept[] = {"uid", "creationTimestamp", "deletionTimestamp",
                                       "deletionGracePeriodSeconds", "namespace"};
    for (size_t i = 0; i < ARRAY_LEN(kept); i++) {
        take_if_absent(d, meta, om, kept[i]);
    }
    take(d, meta, om, "generation");
    json_del(meta, "selfLink");
    if (str_eq(r->sub, "status")) {
        bool labels = hook == KH_DEPLOYMENT || hook == KH_REPLICA_SET || hook == KH_DAEMON_SET ||
                      hook == KH_STATEFUL_SET;
        only_part(d, obj, old, "status", labels);
        if (hook == KH_POD) {
            take(d, meta, om, "ownerReferences");
            take(d, json_need_obj(d, obj, "status"), json_get(old, "status"), "qosClass");
        }
        return;
    }
    if (str_eq(r->sub, "finalize")) {
        only_part(d, obj, old, "spec", false);
        return;
    }
    if (str_eq(r->sub, "approval")) {
        struct json *cond = json_at(obj, "status", "conditions");
        only_part(d, obj, old, "", false);
        struct json *st = json_need_obj(d, obj, "status");
        take(d, obj, old, "status");
        st = json_need_obj(d, obj, "status");
        if (cond) {
            json_set(d, st, "conditions", json_copy(d, cond));
        }
        return;
    }
    if (r->type && kube_has_sub(r, "status") && !*r->sub && hook != KH_EVENT) {
        take(d, obj, old, "status");
    }
    switch (hook) {
    case KH_SERVICE: service_allocated(d, obj, old); break;
    case KH_CSI_NODE: csi_node(d, obj); break;
    case KH_NAMESPACE:
        take(d, json_need_obj(d, obj, "spec"), json_get(old, "spec"), "finalizers");
        break;
    case KH_CSR: take(d, obj, old, "spec"); break;
    case KH_POD:
        if (!*r->sub) {
            take(d, json_need_obj(d, obj, "spec"), json_get(old, "spec"), "ephemeralContainers");
        }
        break;
    case KH_JOB:
        take_if_absent(d, json_need_obj(d, obj, "spec"), json_get(old, "spec"), "selector");
        break;
    case KH_SECRET: take_if_absent(d, obj, old, "type"); break;
    default: break;
    }
    if (hook == KH_DAEMON_SET) {
        const char *n = kube_annotation(old, TEMPLATE_GENERATION);
        uint64_t v = 1;
        if (n && span_to_u64(span_str(n), 0, INT32_MAX, &v) == 0 &&
            !same(json_get(obj, "spec"), json_get(old, "spec"), "template")) {
            v++;
        }
        AUTO_FREE char *text = str_fmt("%llu", (unsigned long long)v);
        kube_annotate(d, obj, TEMPLATE_GENERATION, text);
    }
    if (counts_generation(hook) && wish_changed(obj, old, hook)) {
        json_set_i64(d, meta, "generation", json_i64(json_get(om, "generation"), 0) + 1);
    }
}
