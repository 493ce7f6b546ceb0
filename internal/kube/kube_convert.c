#include "internal/kube/kube.h"

#include "internal/kube/kube_int.h"

/* The few kinds that are served in two forms and stored in one. */

static void rename(struct json_doc *d, struct json *o, const char *from, const char *to) {
    struct json *v = json_get(o, from);
    if (v) {
        v = json_copy(d, v);
        json_del(o, from);
        json_set(d, o, to, v);
    }
}

/* events.k8s.io/v1 says the same as core with other names (k8s.io/api/events/v1). */
static const char *const event_names[][2] = {
    {"regarding", "involvedObject"},
    {"note", "message"},
    {"deprecatedSource", "source"},
    {"deprecatedFirstTimestamp", "firstTimestamp"},
    {"deprecatedLastTimestamp", "lastTimestamp"},
    {"deprecatedCount", "count"},
    {"reportingController", "reportingComponent"},
};

/* autoscaling/v1 knows one metric; the others travel in annotations. */
#define HPA_METRICS "autoscaling.alpha.kubernetes.io/metrics"
#define HPA_STATUS "autoscaling.alpha.kubernetes.io/current-metrics"
#define HPA_CONDITIONS "autoscaling.alpha.kubernetes.io/conditions"
#define HPA_BEHAVIOR "autoscaling.alpha.kubernetes.io/behavior"

static bool is_cpu_percent(const struct json *m) {
    return str_eq(json_str(json_get(m, "type")), "Resource") &&
           str_eq(json_str(json_at(m, "resource", "name")), "cpu") &&
           (json_at(m, "resource", "target", "averageUtilization") ||
            json_at(m, "resource", "current", "averageUtilization"));
}

static struct json *take_list(struct json_doc *d, struct json *obj, const char *key) {
    const char *text = kube_annotation(obj, key);
    struct json_doc *t = NULL;
    struct json *v = NULL;
    if (text && json_parse(span_str(text), JSON_DUPS_OK, &t, NULL) == 0) {
        v = json_copy(d, json_root(t));
        json_doc_free(t);
    }
    kube_annotate(d, obj, key, NULL);
    return v;
}

static void keep_text(struct json_doc *d, struct json *obj, const char *key, const struct json *v) {
    AUTO(buf) struct buf b = BUF_INIT(LIM_KUBE_OBJECT);
    if (v && json_len(v) && json_write(v, 0, &b) == 0) {
        kube_annotate(d, obj, key, buf_cstr(&b));
    }
}

static void hpa_up(struct json_doc *d, struct json *o) { /* v1 → v2 */
    struct json *spec = json_need_obj(d, o, "spec"),
                *pct = json_get(spec, "targetCPUUtilizationPercentage");
    struct json *metrics = take_list(d, o, HPA_METRICS);
    metrics = json_is_arr(metrics) ? metrics : json_new_arr(d);
    if (pct) {
        struct json *m = json_new_obj(d);
        json_set_str(d, m, "type", "Resource");
        struct json *r = json_set_obj(d, m, "resource");
        json_set_str(d, r, "name", "cpu");
        struct json *t = json_set_obj(d, r, "target");
        json_set_str(d, t, "type", "Utilization");
        json_set_i64(d, t, "averageUtilization", json_i64(pct, 0));
        json_insert(metrics, m, 0);
        json_del(spec, "targetCPUUtilizationPercentage");
    }
    if (json_len(metrics)) {
        json_set(d, spec, "metrics", metrics);
    }
    struct json *b = take_list(d, o, HPA_BEHAVIOR), *c = take_list(d, o, HPA_CONDITIONS),
                *cur = take_list(d, o, HPA_STATUS);
    if (json_is_obj(b)) {
        json_set(d, spec, "behavior", b);
    }
    struct json *st = json_get(o, "status");
    if (st && json_is_arr(c)) {
        json_set(d, st, "conditions", c);
    }
    if (st && json_is_arr(cur)) {
        json_set(d, st, "currentMetrics", cur);
    }
    json_del(st, "currentCPUUtilizationPercentage");
}

static void hpa_down(struct json_doc *d, struct json *o) { /* v2 → v1 */
    struct json *spec = json_need_obj(d, o, "spec"), *st = json_get(o, "status"),
                *rest = json_new_arr(d);
    JSON_EACH(it, m, json_get(spec, "metrics")) {
        if (is_cpu_percent(m) && !json_get(spec, "targetCPUUtilizationPercentage")) {
            json_set_i64(d, spec, "targetCPUUtilizationPercentage",
                         json_i64_at(m, 0, "resource", "target", "averageUtilization"));
        } else {
            json_push(rest, json_copy(d, m));
        }
    }
    keep_text(d, o, HPA_METRICS, rest);
    keep_text(d, o, HPA_BEHAVIOR, json_get(spec, "behavior"));
    json_del(spec, "metrics");
    json_del(spec, "behavior");
    if (!st) {
        return;
    }
    JSON_EACH(it2, m, json_get(st, "currentMetrics")) {
        if (is_cpu_percent(m)) {
            json_set_i64(d, st, "currentCPUUtilizationPercentage",
                         json_i64_at(m, 0, "resource", "current", "averageUtilization"));
        }
    }
    keep_text(d, o, HPA_STATUS, json_get(st, "currentMetrics"));
    keep_text(d, o, HPA_CONDITIONS, json_get(st, "conditions"));
    json_del(st, "currentMetrics");
    json_del(st, "conditions");
}

int kube_convert(struct json_doc *d, struct json *obj, const struct kube_resource *from,
                 const struct kube_resource *to, struct err *e) {
    if (from == to || from->type == to->type) {
        return 0;
    }
    if (kube_stored(from) != kube_stored(to)) {
        return err_set(e, ERR_UNSUPPORTED, "%s/%s is no form of %s/%s", to->group, to->name,
                       from->group, from->name);
    }
    bool up = kube_stored(from) != from; /* towards the stored form */
    if (str_eq(from->name, "events")) {
        for (size_t i = 0; i < ARRAY_LEN(event_names); i++) {
            rename(d, obj, event_names[i][up ? 0 : 1], event_names[i][up ? 1 : 0]);
        }
    } else if (up) {
        hpa_up(d, obj);
    } else {
        hpa_down(d, obj);
    }
    if (json_get(obj, "apiVersion")) {
        json_set_str(d, obj, "apiVersion", kube_api_version(to));
    }
    return 0;
}

/* ---- remarks for Warning headers ------------------------------------------------------------------------ */

static void pod_warnings(const struct json *meta, const struct json *spec, const char *path,
                         struct kube_errs *ret) {
    static const char *const beta[][2] = {
        {"beta.kubernetes.io/arch", "kubernetes.io/arch"},
        {"beta.kubernetes.io/os", "kubernetes.io/os"},
        {"failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"},
        {"failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"}};
    for (size_t i = 0; i < ARRAY_LEN(beta); i++) {
        if (json_get(json_get(spec, "nodeSelector"), beta[i][0])) {
            kube_errs_raw(ret, NULL, NULL,
                          "%s.nodeSelector[%s]: deprecated since v1.14; use \"%s\" instead", path,
                          beta[i][0], beta[i][1]);
        }
    }
    if (json_get(json_get(meta, "annotations"), "seccomp.security.alpha.kubernetes.io/pod")) {
        kube_errs_raw(ret, NULL, NULL,
                      "metadata.annotations[seccomp.security.alpha.kubernetes.io/pod]: "
                      "non-functional in v1.27+; use the "
                      "\"seccompProfile\" field instead");
    }
    if (json_i64(json_get(spec, "terminationGracePeriodSeconds"), 0) < 0) {
        kube_errs_raw(ret, NULL, NULL,
                      "%s.terminationGracePeriodSeconds: must be >= 0; negative values are invalid "
                      "and will be "
                      "treated as 1",
                      path);
    }
}

void kube_warnings(const struct json *obj, const struct kube_resource *r, struct kube_errs *ret) {
    switch (r->type ? r->type->hook : KH_NONE) {
    case KH_POD: pod_warnings(json_get(obj, "metadata"), json_get(obj, "spec"), "spec", ret); break;
    case KH_DEPLOYMENT:
    case KH_REPLICA_SET:
    case KH_DAEMON_SET:
    case KH_STATEFUL_SET:
    case KH_JOB:
    case KH_RC: {
        const struct json *t = json_at(obj, "spec", "template");
        pod_warnings(json_get(t, "metadata"), json_get(t, "spec"), "spec.template.spec", ret);
        break;
    }
    case KH_CRON_JOB: {
        const struct json *t = json_at(obj, "spec", "jobTemplate", "spec", "template");
        pod_warnings(json_get(t, "metadata"), json_get(t, "spec"),
                     "spec.jobTemplate.spec.template.spec", ret);
        break;
    }
    default: break;
    }
}
