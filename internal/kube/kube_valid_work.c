#include "internal/kube/kube.h"

#include "internal/kube/kube_valid_int.h"

/* Workloads: what makes pods from templates. */

static void template_labels(struct val *v, const struct json *spec, bool map_selector) {
    const struct json *labels = json_at(spec, "template", "metadata", "labels"),
                      *sel = json_get(spec, "selector");
    struct kube_errs ignored = KUBE_ERRS_INIT;
    struct kube_selector *s = map_selector ? kube_selector_of_map(sel) : NULL;
    if (s || kube_selector_of(sel, &s, &ignored) == 0) {
        if (!kube_selector_match(s, labels)) {
            v_err(v, KUBE_INVALID, "template.metadata.labels", labels,
                  "`selector` does not match template `labels`");
        }
        kube_selector_free(s);
    }
    kube_errs_fini(&ignored);
}

static void template(struct val *v, const struct json *spec, const char *kind) {
    size_t at = v_in(v, "template");
    v_pod_template(v, json_get(spec, "template"));
    const struct json *policy = json_at(spec, "template", "spec", "restartPolicy");
    if (json_span(policy).n && !str_eq(json_str(policy), "Always") &&
        v_in_list(json_str(policy), "OnFailure|Never")) {
        v_unsupported(v, "spec.restartPolicy", policy, "Always");
    }
    if (json_at(spec, "template", "spec", "activeDeadlineSeconds")) {
        v_err(v, KUBE_FORBIDDEN, "spec.activeDeadlineSeconds", NULL,
              "activeDeadlineSeconds in %s is not Supported", kind);
    }
    v_out(v, at);
}

static void selector(struct val *v, const struct json *spec, const char *kind, bool required) {
    const struct json *sel = json_get(spec, "selector");
    if (!sel) {
        if (required) {
            v_required(v, "selector", NULL);
        }
        return;
    }
    v_label_selector(v, "selector", sel);
    if (!json_len(json_get(sel, "matchLabels")) && !json_len(json_get(sel, "matchExpressions"))) {
        v_err(v, KUBE_INVALID, "selector", sel, "empty selector is invalid for %s", kind);
    }
}

static void int_or_percent(struct val *v, const struct json *o, const char *key) {
    const struct json *x = json_get(o, key);
    int64_t n;
    if (json_is_str(x)) {
        if (kube_intstr_scaled(x, 100, true, &n) < 0) {
            v_err(v, KUBE_INVALID, key, x,
                  "a valid percent string must be a numeric string followed by an ending '%%' "
                  "(e.g. '1%%',  or '93%%', regex used for validation is '[0-9]+%%')");
        }
    } else {
        v_min0(v, o, key);
    }
}

static bool is_zero(const struct json *x) {
    int64_t n = 0;
    return x && kube_intstr_scaled(x, 100, true, &n) == 0 && n == 0;
}

static void deployment_strategy(struct val *v, const struct json *spec) {
    const struct json *st = json_get(spec, "strategy"), *ru = json_get(st, "rollingUpdate");
    const char *type = json_str_or(json_get(st, "type"), "");
    size_t at = v_in(v, "strategy");
    if (str_eq(type, "Recreate")) {
        if (ru) {
            v_err(v, KUBE_FORBIDDEN, "rollingUpdate", NULL,
                  "may not be specified when strategy `type` is 'Recreate'");
        }
    } else if (str_eq(type, "RollingUpdate")) {
        size_t at2 = v_in(v, "rollingUpdate");
        int_or_percent(v, ru, "maxUnavailable");
        int_or_percent(v, ru, "maxSurge");
        if (is_zero(json_get(ru, "maxUnavailable")) && is_zero(json_get(ru, "maxSurge"))) {
            v_err(v, KUBE_INVALID, "maxUnavailable", json_get(ru, "maxUnavailable"),
                  "may not be 0 when `maxSurge` is 0");
        }
        v_out(v, at2);
    } else {
        v_unsupported(v, "type", json_get(st, "type"), "Recreate|RollingUpdate");
    }
    v_out(v, at);
}

static void deployment(struct val *v, const struct json *spec, const struct json *old) {
    v_min0(v, spec, "replicas");
    selector(v, spec, "deployment", true);
    template_labels(v, spec, false);
    template(v, spec, "ReplicaSet");
    deployment_strategy(v, spec);
    v_min0(v, spec, "minReadySeconds");
    v_min0(v, spec, "revisionHistoryLimit");
    v_min0(v, spec, "progressDeadlineSeconds");
    const struct json *dl = json_get(spec, "progressDeadlineSeconds");
    if (dl && json_i64(dl, 0) <= json_i64(json_get(spec, "minReadySeconds"), 0)) {
        v_err(v, KUBE_INVALID, "progressDeadlineSeconds", dl,
              "must be greater than minReadySeconds");
    }
    if (old) {
        v_immutable(v, "selector", json_get(spec, "selector"), json_get(old, "selector"));
    }
}

static void replica_set(struct val *v, const struct json *spec, const struct json *old) {
    v_min0(v, spec, "replicas");
    v_min0(v, spec, "minReadySeconds");
    selector(v, spec, "deployment", true);
    template_labels(v, spec, false);
    template(v, spec, "ReplicaSet");
    if (old) {
        v_immutable(v, "selector", json_get(spec, "selector"), json_get(old, "selector"));
    }
}

static void controller(struct val *v, const struct json *spec) {
    v_min0(v, spec, "minReadySeconds");
    if (!json_len(json_get(spec, "selector"))) {
        v_required(v, "selector", NULL);
    } else {
        v_labels(v, "selector", json_get(spec, "selector"));
    }
    v_min0(v, spec, "replicas");
    if (!json_get(spec, "template")) {
        v_required(v, "template", NULL);
        return;
    }
    if (json_len(json_get(spec, "selector"))) {
        template_labels(v, spec, true);
    }
    template(v, spec, "ReplicationController");
}

static void daemon_set(struct val *v, const struct json *spec, const struct json *old) {
    const struct json *st = json_get(spec, "updateStrategy"), *ru = json_get(st, "rollingUpdate");
    const char *type = json_str_or(json_get(st, "type"), "");
    v_label_selector(v, "selector", json_get(spec, "selector"));
    template_labels(v, spec, false);
    selector(v, spec, "daemonset", false);
    template(v, spec, "DaemonSet");
    v_min0(v, spec, "minReadySeconds");
    size_t at = v_in(v, "updateStrategy");
    if (str_eq(type, "RollingUpdate")) {
        size_t at2 = v_in(v, "rollingUpdate");
        int_or_percent(v, ru, "maxUnavailable");
        int_or_percent(v, ru, "maxSurge");
        if (is_zero(json_get(ru, "maxUnavailable")) && is_zero(json_get(ru, "maxSurge"))) {
            v_required(v, "maxUnavailable", "cannot be 0 when maxSurge is 0");
        }
        v_out(v, at2);
    } else if (!str_eq(type, "OnDelete")) {
        v_unsupported(v, "type", json_get(st, "type"), "RollingUpdate|OnDelete");
    }
    v_out(v, at);
    v_min0(v, spec, "revisionHistoryLimit");
    if (old) {
        v_immutable(v, "selector", json_get(spec, "selector"), json_get(old, "selector"));
    }
}

static void stateful_set_update(struct val *v, const struct json *spec, const struct json *old) {
    static const char free_fields[] =
        "replicas|ordinals|template|updateStrategy|revisionHistoryLimit|"
        "persistentVolumeClaimRetentionPolicy|minReadySeconds";
    bool changed = false;
    JSON_EACH_KV(it, k, x, spec) {
        const struct json *o = json_get(old, k);
        changed = changed || (!v_in_list(k, free_fields) && (!o || !json_eq(x, o)));
    }
    JSON_EACH_KV(it2, key, y, old) {
        (void)y;
        changed = changed || (!v_in_list(key, free_fields) && !json_get(spec, key));
    }
    if (changed) {
        v_err(v, KUBE_FORBIDDEN, NULL, NULL,
              "updates to statefulset spec for fields other than 'replicas', 'ordinals', "
              "'template', 'updateStrategy', "
              "'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and "
              "'minReadySeconds' are forbidden");
    }
}

static void stateful_set(struct val *v, const struct json *spec, const struct json *old) {
    const struct json *pm = json_get(spec, "podManagementPolicy"),
                      *st = json_get(spec, "updateStrategy");
    const char *type = json_str_or(json_get(st, "type"), "");
    if (!json_span(pm).n) {
        v_required(v, "podManagementPolicy", NULL);
    } else if (!v_in_list(json_str(pm), "OrderedReady|Parallel")) {
        v_err(v, KUBE_INVALID, "podManagementPolicy", pm, "must be 'OrderedReady' or 'Parallel'");
    }
    if (!*type) {
        v_required(v, "updateStrategy", NULL);
    } else if (!v_in_list(type, "RollingUpdate|OnDelete")) {
        kube_errs_raw(v->e, "FieldValueInvalid", "spec.updateStrategy",
                      "Invalid value: {\"Type\":\"%s\",\"RollingUpdate\":null}: must be "
                      "'RollingUpdate' or 'OnDelete'",
                      type);
    }
    v_min0(v, spec, "replicas");
    v_min0(v, spec, "minReadySeconds");
    selector(v, spec, "statefulset", true);
    template_labels(v, spec, false);
    template(v, spec, "StatefulSet");
    v_min0(v, spec, "revisionHistoryLimit");
    if (old) {
        stateful_set_update(v, spec, old);
    }
}

static void job_spec(struct val *v, const struct json *spec, const struct json *obj) {
    static const char *const numbers[] = {"parallelism",
                                          "completions",
                                          "activeDeadlineSeconds",
                                          "backoffLimit",
                                          "ttlSecondsAfterFinished",
                                          "backoffLimitPerIndex",
                                          "maxFailedIndexes"};
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++) {
        v_min0(v, spec, numbers[i]);
    }
    v_enum(v, spec, "completionMode", "Indexed|NonIndexed");
    if (str_eq(json_str(json_get(spec, "completionMode")), "Indexed") &&
        !json_get(spec, "completions")) {
        v_required(v, "completions", "when completion mode is Indexed");
    }
    size_t at = v_in(v, "template");
    v_pod_template(v, json_get(spec, "template"));
    const struct json *rp = json_at(spec, "template", "spec", "restartPolicy");
    if (str_eq(json_str(rp), "Always")) {
        v_required(v, "spec.restartPolicy", "valid values: \"OnFailure\", \"Never\"");
    }
    v_out(v, at);
    (void)obj;
}

static void job(struct val *v, const struct json *obj, const struct json *old) {
    const struct json *spec = json_get(obj, "spec"), *sel = json_get(spec, "selector");
    if (!json_bool(json_get(spec, "manualSelector"), false)) {
        const char *uid =
            json_str_or(json_at(sel, "matchLabels", "batch.kubernetes.io/controller-uid"), "");
        if (sel && (json_len(json_get(sel, "matchLabels")) != 1 || !str_eq(uid, kube_uid(obj)) ||
                    json_len(json_get(sel, "matchExpressions")))) {
            v_err(v, KUBE_INVALID, "selector", sel, "`selector` not auto-generated");
        }
    }
    if (!sel) {
        v_required(v, "selector", NULL);
    } else {
        v_label_selector(v, "selector", sel);
    }
    template_labels(v, spec, false);
    job_spec(v, spec, obj);
    if (old) {
        const struct json *os = json_get(old, "spec");
        if (!str_eq(json_str(json_get(spec, "completionMode")), "Indexed") ||
            json_i64(json_get(spec, "completions"), -1) !=
                json_i64(json_get(spec, "parallelism"), -2)) {
            v_immutable(v, "completions", json_get(spec, "completions"),
                        json_get(os, "completions"));
        }
        v_immutable(v, "selector", sel, json_get(os, "selector"));
        v_immutable(v, "template", json_get(spec, "template"), json_get(os, "template"));
        v_immutable(v, "completionMode", json_get(spec, "completionMode"),
                    json_get(os, "completionMode"));
    }
}

/* Five cron fields, or a macro as the cron library takes it. */
static void cron(struct val *v, const struct json *x) {
    struct span s = json_span(x), part;
    AUTO(buf) struct buf b = BUF_INIT(4096);
    size_t n = 0;
    if (!s.n) {
        v_required(v, "schedule", NULL);
        return;
    }
    if (s.p[0] == '@') {
        if (!v_in_list(json_str(x),
                       "@yearly|@annually|@monthly|@weekly|@daily|@midnight|@hourly") &&
            !span_starts(s, "@every ")) {
            v_err(v, KUBE_INVALID, "schedule", x, "unrecognized descriptor: %s", json_str(x));
        }
        return;
    }
    while (span_next(&s, ' ', &part)) {
        if (part.n) {
            buf_fmt(&b, "%s%.*s", n++ ? " " : "", SPAN_FMT(part));
        }
    }
    if (n != 5) {
        v_err(v, KUBE_INVALID, "schedule", x, "expected exactly 5 fields, found %zu: [%s]", n,
              buf_cstr(&b));
    }
}

static void cron_job(struct val *v, const struct json *obj) {
    const struct json *spec = json_get(obj, "spec"), *tz = json_get(spec, "timeZone");
    cron(v, json_get(spec, "schedule"));
    if (json_is_str(tz)) {
        struct span s = json_span(tz);
        bool ok =
            s.n && !span_eq_nocase(
                       s, "local"); /* zone names are known on nodes; only their form is checked */
        static const char *const areas[] = {"Africa/", "America/",  "Antarctica/", "Arctic/",
                                            "Asia/",   "Atlantic/", "Australia/",  "Europe/",
                                            "Indian/", "Pacific/",  "Etc/",        "US/"};
        bool known = v_in_list(
            json_str(tz), "UTC|GMT|Z|Zulu|UCT|Universal|Greenwich|CET|EET|MET|WET|EST|MST|HST");
        for (size_t i = 0; i < ARRAY_LEN(areas); i++) {
            known = known || span_starts(s, areas[i]);
        }
        if (!ok || !known) {
            v_err(v, KUBE_INVALID, "timeZone", tz, "unknown time zone %s", json_str(tz));
        }
    }
    v_min0(v, spec, "startingDeadlineSeconds");
    const struct json *cp = json_get(spec, "concurrencyPolicy");
    if (!json_span(cp).n) {
        v_required(v, "concurrencyPolicy", NULL);
    } else {
        v_enum(v, spec, "concurrencyPolicy", "Allow|Forbid|Replace");
    }
    v_min0(v, spec, "successfulJobsHistoryLimit");
    v_min0(v, spec, "failedJobsHistoryLimit");
    size_t at = v_in(v, "jobTemplate");
    size_t at2 = v_in(v, "spec");
    job_spec(v, json_at(spec, "jobTemplate", "spec"), obj);
    v_out(v, at2);
    v_out(v, at);
}

static void scale(struct val *v, const struct json *obj) {
    size_t at = v_in(v, "spec");
    v_min0(v, json_get(obj, "spec"), "replicas");
    v_out(v, at);
}

static void hpa(struct val *v, const struct json *spec) {
    const struct json *ref = json_get(spec, "scaleTargetRef"), *min = json_get(spec, "minReplicas");
    int64_t max = json_i64(json_get(spec, "maxReplicas"), 0);
    if (min && json_i64(min, 1) < 1) {
        v_err(v, KUBE_INVALID, "minReplicas", min, "must be greater than or equal to 1");
    }
    if (max < 1) {
        v_required(v, "maxReplicas", "must be set and greater than 0");
    }
    if (min && max < json_i64(min, 1)) {
        v_err(v, KUBE_INVALID, "maxReplicas", json_get(spec, "maxReplicas"),
              "must be greater than or equal to `minReplicas`");
    }
    size_t at = v_in(v, "scaleTargetRef");
    v_need_str(v, ref, "kind");
    v_need_str(v, ref, "name");
    if (!json_span(json_get(ref, "apiVersion")).n) {
        v_err_str(v, KUBE_INVALID, "apiVersion", "", "apiVersion must specify API group");
    }
    v_out(v, at);
}

static void pdb(struct val *v, const struct json *spec) {
    if (json_get(spec, "minAvailable") && json_get(spec, "maxUnavailable")) {
        v_err(v, KUBE_INVALID, NULL, spec, "minAvailable and maxUnavailable cannot be both set");
    }
    int_or_percent(v, spec, "minAvailable");
    int_or_percent(v, spec, "maxUnavailable");
    v_label_selector(v, "selector", json_get(spec, "selector"));
}

bool v_workload(struct val *v, const struct json *obj, const struct json *old) {
    unsigned hook = v->r->type ? v->r->type->hook : KH_NONE;
    const struct json *spec = json_get(obj, "spec"), *os = old ? json_get(old, "spec") : NULL;
    size_t at = v_in(v, "spec");
    bool mine = true;
    switch (hook) {
    case KH_DEPLOYMENT: deployment(v, spec, os); break;
    case KH_REPLICA_SET: replica_set(v, spec, os); break;
    case KH_RC: controller(v, spec); break;
    case KH_DAEMON_SET: daemon_set(v, spec, os); break;
    case KH_STATEFUL_SET: stateful_set(v, spec, os); break;
    case KH_JOB: job(v, obj, old); break;
    case KH_CRON_JOB: cron_job(v, obj); break;
    case KH_HPA:
    case KH_HPA_V1: hpa(v, spec); break;
    case KH_PDB: pdb(v, spec); break;
    default: mine = false;
    }
    v_out(v, at);
    if (hook == KH_SCALE) {
        scale(v, obj);
        return true;
    }
    if (hook == KH_CONTROLLER_REVISION) {
        if (!json_get(obj, "data")) {
            v_required(v, "data", "data is mandatory");
        }
        v_min0(v, obj, "revision");
        if (old) {
            v_immutable(v, "data", json_get(obj, "data"), json_get(old, "data"));
        }
        return true;
    }
    return mine;
}
