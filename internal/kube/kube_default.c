#include "internal/kube/kube.h"

#include "internal/base/rand.h"
#include "internal/kube/kube_int.h"

#include <stdlib.h>

/* Most defaults are constants in data/defaults.tsv. The hooks below are those that look at other fields, in the order
 * in which upstream's SetObjectDefaults visits an object: its own defaults first, then those of what it contains. */

static void def(struct json_doc *d, struct json *o, const char *key, const char *json_value) {
    struct json_doc *v = NULL;
    struct span s = span_str(json_value);
    int64_t n;
    if (!json_is_null(json_get(o, key))) {
        return;
    }
    if (s.p[0] == '"') { /* the common ones without a parser; texts of the table hold no escapes */
        json_set(d, o, key, json_new_span(d, span_of(s.p + 1, s.n - 2)));
        return;
    }
    if (span_to_i64(s, INT64_MIN, INT64_MAX, &n) == 0) {
        json_set_i64(d, o, key, n);
        return;
    }
    if (s.p[0] == 't' || s.p[0] == 'f') {
        json_set_bool(d, o, key, s.p[0] == 't');
        return;
    }
    CHECK(json_parse(span_str(json_value), 0, &v, NULL) == 0);
    json_set(d, o, key, json_copy(d, json_root(v)));
    json_doc_free(v);
}

static void def_str(struct json_doc *d, struct json *o, const char *key, const char *s) {
    if (!json_span(json_get(o, key)).n) {
        json_set_str(d, o, key, s);
    }
}

static void def_i64(struct json_doc *d, struct json *o, const char *key, int64_t v) {
    if (json_is_null(json_get(o, key))) {
        json_set_i64(d, o, key, v);
    }
}

/* Always for images without a tag or with `latest`, unless there is a digest. */
static void image_pull_policy(struct json_doc *d, struct json *c) {
    struct span s = json_span(json_get(c, "image")), last = s;
    ptrdiff_t at;
    if (span_index(s, '@') >= 0) {
        def_str(d, c, "imagePullPolicy", "IfNotPresent");
        return;
    }
    while ((at = span_index(last, '/')) >= 0) {
        last = span_of(last.p + at + 1, last.n - (size_t)at - 1);
    }
    at = span_index(last, ':');
    bool latest = at < 0 || span_eq_str(span_of(last.p + at, last.n - (size_t)at), ":latest");
    def_str(d, c, "imagePullPolicy", latest ? "Always" : "IfNotPresent");
}

/* Requests that are absent equal the limits. */
static void requests_from_limits(struct json_doc *d, struct json *c) {
    struct json *res = json_get(c, "resources"), *limits = json_get(res, "limits");
    if (!json_len(limits)) {
        return;
    }
    struct json *req = json_need_obj(d, res, "requests");
    JSON_EACH_KV(it, k, v, limits) {
        if (!json_get(req, k)) {
            json_set(d, req, k, json_copy(d, v));
        }
    }
}

static void host_ports(struct json_doc *d, struct json *spec) {
    if (!json_bool(json_get(spec, "hostNetwork"), false)) {
        return;
    }
    const char *const lists[] = {"containers", "initContainers"};
    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        JSON_EACH(it, c, json_get(spec, lists[i])) {
            JSON_EACH(it2, p, json_get(c, "ports")) {
                if (!json_i64(json_get(p, "hostPort"), 0)) {
                    json_set_i64(d, p, "hostPort", json_i64(json_get(p, "containerPort"), 0));
                }
            }
        }
    }
}

static void volume(struct json_doc *d, struct json *v) {
    bool any = false;
    JSON_EACH_KV(it, k, x, v) {
        any = any || (!str_eq(k, "name") && !json_is_null(x));
    }
    if (!any) {
        json_set_obj(d, v, "emptyDir");
    }
}

static void service_spec(struct json_doc *d, struct json *s) {
    const char *type = json_str_or(json_get(s, "type"), "ClusterIP");
    struct json *aff = json_get(s, "sessionAffinity");
    if (str_eq(json_str(aff), "ClientIP")) {
        struct json *c = json_need_obj(d, json_need_obj(d, s, "sessionAffinityConfig"), "clientIP");
        def_i64(d, c, "timeoutSeconds", 10800);
    } else if (json_is_str(aff) && str_eq(json_str(aff), "None")) {
        json_del(s, "sessionAffinityConfig");
    }
    bool np = str_eq(type, "NodePort"), lb = str_eq(type, "LoadBalancer");
    if (np || lb) {
        def_str(d, s, "externalTrafficPolicy", "Cluster");
    }
    if (!str_eq(type, "ExternalName")) {
        def_str(d, s, "internalTrafficPolicy", "Cluster");
    }
    if (lb && json_is_null(json_get(s, "allocateLoadBalancerNodePorts"))) {
        json_set_bool(d, s, "allocateLoadBalancerNodePorts", true);
    }
}

static void service_port(struct json_doc *d, struct json *p) {
    struct json *t = json_get(p, "targetPort");
    if (json_is_null(t) || (json_is_int(t) && json_i64(t, 0) == 0) ||
        (json_is_str(t) && !json_span(t).n)) {
        json_set_i64(d, p, "targetPort", json_i64(json_get(p, "port"), 0));
    }
}

/* Labels of the template stand in for missing labels and (in old kinds) selectors. */
static void rc(struct json_doc *d, struct json *o) {
    struct json *spec = json_get(o, "spec"),
                *labels = json_at(spec, "template", "metadata", "labels");
    if (json_len(labels)) {
        if (!json_len(json_get(spec, "selector"))) {
            json_set(d, spec, "selector", json_copy(d, labels));
        }
        if (!json_len(kube_labels(o))) {
            json_set(d, json_need_obj(d, o, "metadata"), "labels", json_copy(d, labels));
        }
    }
}

static void deployment(struct json_doc *d, struct json *o) {
    struct json *st = json_need_obj(d, json_need_obj(d, o, "spec"), "strategy");
    def_str(d, st, "type", "RollingUpdate");
    if (str_eq(json_str(json_get(st, "type")), "RollingUpdate")) {
        json_need_obj(d, st, "rollingUpdate");
    }
}

static void update_strategy(struct json_doc *d, struct json *o) {
    struct json *st = json_need_obj(d, json_need_obj(d, o, "spec"), "updateStrategy");
    def_str(d, st, "type", "RollingUpdate");
    if (str_eq(json_str(json_get(st, "type")), "RollingUpdate")) {
        json_need_obj(d, st, "rollingUpdate");
    }
}

static void daemon_set(struct json_doc *d, struct json *o) {
    update_strategy(d, o);
    if (!kube_annotation(o, TEMPLATE_GENERATION)) {
        kube_annotate(d, o, TEMPLATE_GENERATION, "1");
    }
}

static void stateful_set(struct json_doc *d, struct json *o) {
    update_strategy(d, o);
    JSON_EACH(it, t, json_at(o, "spec", "volumeClaimTemplates")) {
        json_set_str(d, t, "kind", "PersistentVolumeClaim");
        json_set_str(d, t, "apiVersion", "v1");
    }
}

static void job(struct json_doc *d, struct json *o) {
    struct json *spec = json_need_obj(d, o, "spec");
    struct json *labels = json_at(spec, "template", "metadata", "labels");
    if (json_is_null(json_get(spec, "completions")) &&
        json_is_null(json_get(spec, "parallelism"))) {
        json_set_i64(d, spec, "completions", 1);
        json_set_i64(d, spec, "parallelism", 1);
    }
    def_i64(d, spec, "parallelism", 1);
    if (!json_get(spec, "backoffLimit")) {
        json_set_i64(d, spec, "backoffLimit",
                     json_is_null(json_get(spec, "backoffLimitPerIndex")) ? 6 : INT32_MAX);
    }
    def(d, spec, "completionMode", "\"NonIndexed\"");
    def(d, spec, "suspend", "false");
    def(d, spec, "manualSelector", "false");
    def_str(d, spec, "podReplacementPolicy",
            json_is_null(json_get(spec, "podFailurePolicy")) ? "TerminatingOrFailed" : "Failed");
    if (json_len(labels) && !json_len(kube_labels(o))) {
        json_set(d, json_need_obj(d, o, "metadata"), "labels", json_copy(d, labels));
    }
}

static void hpa(struct json_doc *d, struct json *o) {
    struct json *spec = json_need_obj(d, o, "spec");
    if (!json_len(json_get(spec, "metrics"))) {
        def(d, spec, "metrics",
            "[{\"type\":\"Resource\",\"resource\":{\"name\":\"cpu\",\"target\":{\"type\":"
            "\"Utilization\","
            "\"averageUtilization\":80}}}]");
    }
    struct json *b = json_get(spec, "behavior");
    if (json_is_null(b)) {
        return;
    }
    struct json *up = json_need_obj(d, b, "scaleUp"), *down = json_need_obj(d, b, "scaleDown");
    def_i64(d, up, "stabilizationWindowSeconds", 0);
    def_str(d, up, "selectPolicy", "Max");
    def_str(d, down, "selectPolicy", "Max");
    def(d, up, "policies",
        "[{\"type\":\"Pods\",\"value\":4,\"periodSeconds\":15},{\"type\":\"Percent\",\"value\":100,"
        "\"periodSeconds\":15}]");
    def(d, down, "policies", "[{\"type\":\"Percent\",\"value\":100,\"periodSeconds\":15}]");
}

static void network_policy(struct json_doc *d, struct json *o) {
    struct json *spec = json_need_obj(d, o, "spec");
    if (!json_len(json_get(spec, "policyTypes"))) {
        struct json *t = json_set_arr(d, spec, "policyTypes");
        json_push_str(d, t, "Ingress");
        if (json_len(json_get(spec, "egress"))) {
            json_push_str(d, t, "Egress");
        }
    }
}

static void subject(struct json_doc *d, struct json *s) {
    const char *kind = json_str_or(json_get(s, "kind"), "");
    if (!json_span(json_get(s, "apiGroup")).n && (str_eq(kind, "User") || str_eq(kind, "Group"))) {
        json_set_str(d, s, "apiGroup", "rbac.authorization.k8s.io");
    }
}

static void role_binding(struct json_doc *d, struct json *o) {
    def_str(d, json_need_obj(d, o, "roleRef"), "apiGroup", "rbac.authorization.k8s.io");
}

static void limit_range_item(struct json_doc *d, struct json *o) {
    if (!str_eq(json_str(json_get(o, "type")), "Container")) {
        return;
    }
    /* default ← max, defaultRequest ← default, then ← min */
    static const char *const from[][2] = {
        {"max", "default"}, {"default", "defaultRequest"}, {"min", "defaultRequest"}};
    for (size_t i = 0; i < ARRAY_LEN(from); i++) {
        JSON_EACH_KV(it, k, v, json_get(o, from[i][0])) {
            struct json *to = json_need_obj(d, o, from[i][1]);
            if (!json_get(to, k)) {
                json_set(d, to, k, json_copy(d, v));
            }
        }
    }
}

static void ingress_class(struct json_doc *d, struct json *o) {
    struct json *p = json_at(o, "spec", "parameters");
    if (p) {
        def_str(d, p, "scope", "Cluster");
    }
}

static void selectors(struct json_doc *d, struct json *w) {
    json_need_obj(d, w, "namespaceSelector");
    json_need_obj(d, w, "objectSelector");
}

static void vap(struct json_doc *d, struct json *o, const char *key) {
    struct json *m = json_at(o, "spec", key);
    if (m) {
        selectors(d, m);
    }
}

static void crd(struct json_doc *d, struct json *o) {
    struct json *spec = json_need_obj(d, o, "spec"), *n = json_need_obj(d, spec, "names");
    const char *kind = json_str_or(json_get(n, "kind"), "");
    if (!json_span(json_get(n, "singular")).n) {
        AUTO_FREE char *low = str_dup(kind);
        for (char *c = low; *c; c++) {
            *c = (char)(*c >= 'A' && *c <= 'Z' ? *c + 32 : *c);
        }
        json_set_str(d, n, "singular", low);
    }
    if (!json_span(json_get(n, "listKind")).n && *kind) {
        json_set(d, n, "listKind", json_new_fmt(d, "%sList", kind));
    }
    if (str_eq(json_str(json_at(spec, "conversion", "strategy")), "Webhook")) {
        def(d, json_get(spec, "conversion"), "conversionReviewVersions", "[\"v1\"]");
    }
}

static void container(struct json_doc *d, struct json *c) {
    image_pull_policy(d, c);
    requests_from_limits(d, c);
}

static void pod_spec(struct json_doc *d, struct json *s) {
    json_need_obj(d, s, "securityContext");
    host_ports(d, s);
    struct json *sa = json_get(s, "serviceAccountName"), *old = json_get(s, "serviceAccount");
    if (json_span(sa).n) { /* the deprecated alias follows */
        json_set_str(d, s, "serviceAccount", json_str(sa));
    } else if (json_span(old).n) {
        json_set_str(d, s, "serviceAccountName", json_str(old));
    }
}

/* The first of podIPs and podIP say the same. */
static void pod_ips(struct json_doc *d, struct json *o) {
    struct json *st = json_get(o, "status"), *ip = json_get(st, "podIP");
    if (json_span(ip).n && !json_len(json_get(st, "podIPs"))) {
        struct json *one = json_new_obj(d);
        json_set_str(d, one, "ip", json_str(ip));
        json_push(json_set_arr(d, st, "podIPs"), one);
    }
}

static void pod(struct json_doc *d, struct json *o) {
    pod_ips(d, o);
    struct json *spec = json_need_obj(d, o, "spec");
    if (json_is_null(json_get(spec, "enableServiceLinks"))) {
        json_set_bool(d, spec, "enableServiceLinks", true);
    }
}

static void namespace(struct json_doc *d, struct json *o) {
    if (*kube_name(o)) {
        kube_label_set(d, o, "kubernetes.io/metadata.name", kube_name(o));
    }
}

static void secret(struct json_doc *d, struct json *o) {
    struct json *sd = json_get(o, "stringData");
    if (json_is_obj(sd)) {
        struct json *data = json_need_obj(d, o, "data");
        JSON_EACH_KV(it, k, v, sd) {
            AUTO(buf) struct buf b = BUF_INIT(LIM_KUBE_OBJECT * 2);
            b64_encode(&b, json_span(v));
            json_set(d, data, k, json_new_span(d, buf_view(&b)));
        }
        json_del(o, "stringData");
    }
}

static void before(struct json_doc *d, struct json *o, unsigned hook) {
    switch (hook) {
    case KH_POD: pod(d, o); break;
    case KH_RC: rc(d, o); break;
    case KH_DEPLOYMENT: deployment(d, o); break;
    case KH_DAEMON_SET: daemon_set(d, o); break;
    case KH_STATEFUL_SET: stateful_set(d, o); break;
    case KH_JOB: job(d, o); break;
    case KH_HPA: hpa(d, o); break;
    case KH_NETWORK_POLICY: network_policy(d, o); break;
    case KH_ROLE_BINDING:
    case KH_CLUSTER_ROLE_BINDING: role_binding(d, o); break;
    case KH_SUBJECT: subject(d, o); break;
    case KH_LIMIT_RANGE_ITEM: limit_range_item(d, o); break;
    case KH_INGRESS_CLASS: ingress_class(d, o); break;
    case KH_WEBHOOK:
    case KH_MUTATING_WEBHOOK: selectors(d, o); break;
    case KH_VAP: vap(d, o, "matchConstraints"); break;
    case KH_VAP_BINDING: vap(d, o, "matchResources"); break;
    case KH_CRD: crd(d, o); break;
    case KH_NAMESPACE:
        namespace
        (d, o);
        break;
    case KH_SECRET: secret(d, o); break;
    case KH_VOLUME: volume(d, o); break;
    case KH_CONTAINER:
    case KH_EPHEMERAL_CONTAINER: container(d, o); break;
    case KH_POD_SPEC: pod_spec(d, o); break;
    default: break;
    }
}

static void after(struct json_doc *d, struct json *o, unsigned hook) {
    if (hook == KH_SERVICE_SPEC) {
        service_spec(d, o);
    } else if (hook == KH_SERVICE_PORT) {
        service_port(d, o);
    }
}

static void walk(struct json_doc *d, struct json *o, const struct kube_type *t) {
    if (!(t->flags & KT_DEFAULTS) || !json_is_obj(o)) {
        return;
    }
    before(d, o, t->hook);
    const struct kube_field *f = kube_fields(t);
    for (size_t i = 0; i < t->n; i++) {
        bool deep = f[i].base == KB_OBJECT && f[i].presence != KP_INLINE &&
                    (kube_field_type(&f[i])->flags & KT_DEFAULTS);
        if (!f[i].def && !deep) {
            continue;
        }
        const char *key = kube_str(f[i].name);
        struct json *v = json_get(o, key);
        bool absent =
            json_is_null(v) ||
            (f[i].presence == KP_OMIT && json_kind(v) != JSON_BOOL && f[i].shape == KS_ONE &&
             (json_is_str(v) ? !json_span(v).n : json_is_int(v) && json_i64(v, 1) == 0));
        if (f[i].def && absent) {
            json_del(o, key);
            def(d, o, key, kube_str(f[i].def));
            v = json_get(o, key);
        }
        if (!deep) {
            continue;
        }
        const struct kube_type *ft = kube_field_type(&f[i]);
        if (f[i].shape == KS_ONE) {
            walk(d, v, ft);
        } else {
            JSON_EACH(it, x, v) {
                walk(d, x, ft);
            }
        }
    }
    after(d, o, t->hook);
}

void kube_default(struct json_doc *d, struct json *obj, const struct kube_resource *r) {
    if (r->type) {
        walk(d, obj, r->type);
    }
}
