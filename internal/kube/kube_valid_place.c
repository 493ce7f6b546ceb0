#include "internal/kube/kube.h"

#include "internal/kube/kube_valid_int.h"

/* Where pods may run: selectors, affinity, spreading, tolerations. */

static void selector_terms(struct val *v, const struct json *terms) {
    size_t i = 0;
    JSON_EACH(it, t, terms) {
        size_t at = v_in_at(v, "nodeSelectorTerms", i++), k = 0;
        JSON_EACH(it2, e, json_get(t, "matchExpressions")) {
            size_t at2 = v_in_at(v, "matchExpressions", k++), n = json_len(json_get(e, "values"));
            const char *op = json_str_or(json_get(e, "operator"), "");
            if (v_in_list(op, "In|NotIn")) {
                if (!n) {
                    v_required(v, "values", "must be specified when `operator` is 'In' or 'NotIn'");
                }
            } else if (v_in_list(op, "Exists|DoesNotExist")) {
                if (n) {
                    v_err(v, KUBE_FORBIDDEN, "values", NULL,
                          "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
                }
            } else if (v_in_list(op, "Gt|Lt")) {
                if (n != 1) {
                    v_required(v, "values",
                               "must be specified single value when `operator` is 'Lt' or 'Gt'");
                }
            } else {
                v_err_str(v, KUBE_INVALID, "operator", op, "not a valid selector operator");
            }
            v_qualified(v, "key", json_get(e, "key"));
            v_out(v, at2);
        }
        v_out(v, at);
    }
}

static void v_node_selector(struct val *v, const struct json *sel) {
    if (!json_len(json_get(sel, "nodeSelectorTerms"))) {
        v_required(v, "nodeSelectorTerms", "must have at least one node selector term");
    }
    selector_terms(v, json_get(sel, "nodeSelectorTerms"));
}

static void pod_affinity_terms(struct val *v, const struct json *a, const char *kind) {
    const struct json *p = json_get(a, kind);
    size_t at = v_in(v, kind), i = 0;
    JSON_EACH(it, t, json_get(p, "requiredDuringSchedulingIgnoredDuringExecution")) {
        size_t at2 = v_in_at(v, "requiredDuringSchedulingIgnoredDuringExecution", i++);
        v_label_selector(v, "labelSelector", json_get(t, "labelSelector"));
        if (!json_span(json_get(t, "topologyKey")).n) {
            v_required(v, "topologyKey", "can not be empty");
        }
        v_out(v, at2);
    }
    i = 0;
    JSON_EACH(it2, w, json_get(p, "preferredDuringSchedulingIgnoredDuringExecution")) {
        size_t at2 = v_in_at(v, "preferredDuringSchedulingIgnoredDuringExecution", i++);
        int64_t weight = json_i64(json_get(w, "weight"), 0);
        if (weight <= 0 || weight > 100) {
            v_err(v, KUBE_INVALID, "weight", json_get(w, "weight"), "must be in the range 1-100");
        }
        if (!json_span(json_at(w, "podAffinityTerm", "topologyKey")).n) {
            v_required(v, "podAffinityTerm.topologyKey", "can not be empty");
        }
        v_out(v, at2);
    }
    v_out(v, at);
}

void v_affinity(struct val *v, const struct json *a) {
    size_t at = v_in(v, "affinity"), i = 0;
    const struct json *na = json_get(a, "nodeAffinity");
    if (na) {
        size_t at2 = v_in(v, "nodeAffinity");
        const struct json *req = json_get(na, "requiredDuringSchedulingIgnoredDuringExecution");
        if (req) {
            size_t at3 = v_in(v, "requiredDuringSchedulingIgnoredDuringExecution");
            v_node_selector(v, req);
            v_out(v, at3);
        }
        JSON_EACH(it, p, json_get(na, "preferredDuringSchedulingIgnoredDuringExecution")) {
            size_t at3 = v_in_at(v, "preferredDuringSchedulingIgnoredDuringExecution", i++);
            int64_t w = json_i64(json_get(p, "weight"), 0);
            if (w <= 0 || w > 100) {
                v_err(v, KUBE_INVALID, "weight", json_get(p, "weight"),
                      "must be in the range 1-100");
            }
            v_out(v, at3);
        }
        v_out(v, at2);
    }
    pod_affinity_terms(v, a, "podAffinity");
    pod_affinity_terms(v, a, "podAntiAffinity");
    v_out(v, at);
}

void v_spread(struct val *v, const struct json *spec) {
    size_t i = 0;
    JSON_EACH(it, c, json_get(spec, "topologySpreadConstraints")) {
        size_t at = v_in_at(v, "topologySpreadConstraints", i++);
        if (json_i64(json_get(c, "maxSkew"), 0) <= 0) {
            v_err(v, KUBE_INVALID, "maxSkew", json_get(c, "maxSkew"), "must be greater than zero");
        }
        if (!json_span(json_get(c, "topologyKey")).n) {
            v_required(v, "topologyKey", "can not be empty");
        } else {
            v_qualified(v, "topologyKey", json_get(c, "topologyKey"));
        }
        v_enum_need(v, c, "whenUnsatisfiable", "DoNotSchedule|ScheduleAnyway");
        v_enum(v, c, "nodeAffinityPolicy", "Honor|Ignore");
        v_enum(v, c, "nodeTaintsPolicy", "Honor|Ignore");
        v_label_selector(v, "labelSelector", json_get(c, "labelSelector"));
        v_out(v, at);
    }
}

void v_tolerations(struct val *v, const struct json *list) {
    size_t i = 0;
    JSON_EACH(it, t, list) {
        size_t at = v_in_at(v, "tolerations", i++);
        const struct json *key = json_get(t, "key"), *op = json_get(t, "operator");
        const char *effect = json_str_or(json_get(t, "effect"), ""), *o = json_str_or(op, "");
        if (json_span(key).n) {
            v_qualified(v, "key", key);
        } else if (!str_eq(o, "Exists")) {
            v_err(v, KUBE_INVALID, "operator", op,
                  "operator must be Exists when `key` is empty, which means \"match all "
                  "values and all keys\"");
        }
        if (json_get(t, "tolerationSeconds") && !str_eq(effect, "NoExecute")) {
            v_err_str(v, KUBE_INVALID, "effect", effect,
                      "effect must be 'NoExecute' when `tolerationSeconds` is set");
        }
        if (str_eq(o, "Exists") && json_span(json_get(t, "value")).n) {
            v_err(v, KUBE_INVALID, "operator", json_get(t, "value"),
                  "value must be empty when `operator` is 'Exists'");
        }
        v_enum(v, t, "operator", "Equal|Exists|Gt|Lt");
        v_enum(v, t, "effect", "NoSchedule|PreferNoSchedule|NoExecute");
        v_out(v, at);
    }
}
