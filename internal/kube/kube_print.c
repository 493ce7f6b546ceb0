#include "internal/kube/kube.h"

#include "internal/base/rand.h"
#include "internal/kube/kube_print_int.h"

#include <stdlib.h>

/* Tables as upstream's printers show them. Columns and plain cells are data (data/columns.tsv); what needs code is in
 * the functions below and in kube_print_pod.c, each writing text unless it says otherwise. */

static int age_write(struct buf *b, uint64_t s) {
    const uint64_t m = 60, h = 60 * m, d = 24 * h, y = 365 * d;
    struct {
        uint64_t n;
        const char *u;
    } a, c = {0, ""};
    if (s < 2 * m) {
        return buf_fmt(b, "%llus", (unsigned long long)s);
    }
    if (s < 10 * m) {
        a.n = s / m, a.u = "m", c.n = s % m, c.u = "s";
    } else if (s < 3 * h) {
        return buf_fmt(b, "%llum", (unsigned long long)(s / m));
    } else if (s < 8 * h) {
        a.n = s / h, a.u = "h", c.n = s % h / m, c.u = "m";
    } else if (s < 2 * d) {
        return buf_fmt(b, "%lluh", (unsigned long long)(s / h));
    } else if (s < 8 * d) {
        a.n = s / d, a.u = "d", c.n = s % d / h, c.u = "h";
    } else if (s < 2 * y) {
        return buf_fmt(b, "%llud", (unsigned long long)(s / d));
    } else if (s < 8 * y) {
        a.n = s / y, a.u = "y", c.n = s % y / d, c.u = "d";
    } else {
        return buf_fmt(b, "%lluy", (unsigned long long)(s / y));
    }
    buf_fmt(b, "%llu%s", (unsigned long long)a.n, a.u);
    return c.n ? buf_fmt(b, "%llu%s", (unsigned long long)c.n, c.u) : 0;
}

void print_since(struct print *p, const struct json *time) {
    uint64_t ns;
    if (time_parse(json_span(time), &ns) < 0) {
        buf_str(p->b, "<unknown>");
        return;
    }
    uint64_t s = ns / NS_PER_S;
    age_write(p->b, p->now_s > s ? p->now_s - s : 0);
}

void print_str(struct print *p, const struct json *v, const char *otherwise) {
    if (json_span(v).n) {
        buf_span(p->b, json_span(v));
    } else if (json_is_str(v) || json_is_null(v)) {
        buf_str(p->b, otherwise);
    } else {
        IGNORE_ERR(json_write(v, 0, p->b), "a cell is bounded by its buffer");
    }
}

static int by_text(const void *a, const void *b) {
    const char *const *x = a, *const *y = b;
    return strcmp(*x, *y);
}

/* a=b,c=d by key; <none> when empty. */
static void print_map(struct print *p, const struct json *map) {
    enum { SHOWN = 64 };
    const char *keys[SHOWN];
    size_t n = 0;
    JSON_EACH_KV(it, k, v, map) {
        (void)v;
        if (n < SHOWN) {
            keys[n++] = k;
        }
    }
    qsort(keys, n, sizeof(keys[0]), by_text);
    for (size_t i = 0; i < n; i++) {
        buf_fmt(p->b, "%s%s=%s", i ? "," : "", keys[i], json_str_or(json_get(map, keys[i]), ""));
    }
    if (!n) {
        buf_str(p->b, "<none>");
    }
}

/* Strings of a list (or of one member of its items), joined. */
static void print_join(struct print *p, const struct json *list, const char *key, const char *sep) {
    size_t n = 0;
    JSON_EACH(it, x, list) {
        buf_fmt(p->b, "%s%s", n++ ? sep : "", json_str_or(key ? json_get(x, key) : x, ""));
    }
}

/* A LabelSelector as text: the labels first, then the expressions in set notation. */
static void print_selector(struct print *p, const struct json *sel) {
    const struct json *labels = json_get(sel, "matchLabels"),
                      *exprs = json_get(sel, "matchExpressions");
    if (!json_len(labels) && !json_len(exprs)) {
        buf_str(p->b, "<none>");
        return;
    }
    if (json_len(labels)) {
        print_map(p, labels);
    }
    const char *sep = json_len(labels) ? "," : "";
    JSON_EACH(it, e, exprs) {
        const char *op = json_str_or(json_get(e, "operator"), ""),
                   *key = json_str_or(json_get(e, "key"), "");
        if (str_eq(op, "Exists") || str_eq(op, "DoesNotExist")) {
            buf_fmt(p->b, "%s%s%s", sep, str_eq(op, "Exists") ? "" : "!", key);
        } else {
            buf_fmt(p->b, "%s%s %s (", sep, key, str_eq(op, "In") ? "in" : "notin");
            print_join(p, json_get(e, "values"), NULL, ",");
            buf_str(p->b, ")");
        }
        sep = ",";
    }
}

/* ---- cells with code -------------------------------------------------------------------------------- */

static const struct json *pod_spec_of(const struct json *o) {
    const struct json *s = json_at(o, "spec", "template", "spec");
    s = s ? s : json_at(o, "template", "spec");
    return s ? s : json_at(o, "spec", "jobTemplate", "spec", "template", "spec");
}
static void c_age(struct print *p, const struct json *o) {
    print_since(p, json_at(o, "metadata", "creationTimestamp"));
}
static void c_containers(struct print *p, const struct json *o) {
    print_join(p, json_get(pod_spec_of(o), "containers"), "name", ",");
}
static void c_images(struct print *p, const struct json *o) {
    print_join(p, json_get(pod_spec_of(o), "containers"), "image", ",");
}
static void c_selector(struct print *p, const struct json *o) {
    const struct json *s = json_at(o, "spec", "selector");
    if (str_eq(json_str(json_get(o, "kind")), "CronJob") || json_at(o, "spec", "jobTemplate")) {
        s = json_at(o, "spec", "jobTemplate", "spec", "selector");
    }
    if (json_get(s, "matchLabels") || json_get(s, "matchExpressions") || !json_len(s)) {
        print_selector(p, s);
    } else {
        print_map(p, s);
    }
}
static void c_nodeselector(struct print *p, const struct json *o) {
    print_map(p, json_get(pod_spec_of(o), "nodeSelector"));
}
static void c_ready_of(struct print *p, const struct json *o) {
    buf_fmt(p->b, "%lld/%lld", (long long)json_i64_at(o, 0, "status", "readyReplicas"),
            (long long)json_i64_at(o, 1, "spec", "replicas"));
}
static void c_apiservice(struct print *p, const struct json *o) {
    const struct json *s = json_at(o, "spec", "service");
    if (!s) {
        buf_str(p->b, "Local");
    } else {
        buf_fmt(p->b, "%s/%s", json_str_or(json_get(s, "namespace"), ""),
                json_str_or(json_get(s, "name"), ""));
    }
}
static void c_available(struct print *p, const struct json *o) {
    const struct json *c = kube_condition(o, "Available");
    const char *st = json_str_or(json_get(c, "status"), "Unknown");
    buf_str(p->b, st);
    if (!str_eq(st, "True") && json_span(json_get(c, "reason")).n) {
        buf_fmt(p->b, " (%s)", json_str(json_get(c, "reason")));
    }
}
static void c_controller(struct print *p, const struct json *o) {
    const struct json *c = kube_controller_of(o);
    if (!c) {
        buf_str(p->b, "<none>");
        return;
    }
    const char *api = json_str_or(json_get(c, "apiVersion"), ""), *slash = strchr(api, '/');
    AUTO_FREE char *kind = str_dup(json_str_or(json_get(c, "kind"), ""));
    for (char *s = kind; *s; s++) {
        *s = (char)(*s >= 'A' && *s <= 'Z' ? *s + 32 : *s);
    }
    buf_fmt(p->b, "%s%s%.*s/%s", kind, slash ? "." : "", slash ? (int)(slash - api) : 0, api,
            json_str_or(json_get(c, "name"), ""));
}
static void c_event_time(struct print *p, const struct json *o, const char *own, bool last) {
    const struct json *t = json_get(o, own), *series = json_at(o, "series", "lastObservedTime");
    if (last && json_is_str(series)) {
        print_since(p, series);
    } else if (json_is_str(t)) {
        print_since(p, t);
    } else {
        print_since(p, json_get(o, "eventTime"));
    }
}
static void c_event_last(struct print *p, const struct json *o) {
    c_event_time(p, o, "lastTimestamp", true);
}
static void c_event_first(struct print *p, const struct json *o) {
    c_event_time(p, o, "firstTimestamp", false);
}
static void c_event_object(struct print *p, const struct json *o) {
    const struct json *r = json_get(o, "involvedObject");
    r = r ? r : json_get(o, "regarding");
    AUTO_FREE char *kind = str_dup(json_str_or(json_get(r, "kind"), ""));
    for (char *s = kind; *s; s++) {
        *s = (char)(*s >= 'A' && *s <= 'Z' ? *s + 32 : *s);
    }
    const char *name = json_str_or(json_get(r, "name"), "");
    buf_fmt(p->b, "%s%s%s", kind, *name ? "/" : "", name);
}
static void c_event_source(struct print *p, const struct json *o) {
    const struct json *s = json_get(o, "source");
    s = s ? s : json_get(o, "deprecatedSource");
    const char *c = json_str_or(json_get(s, "component"), ""),
               *h = json_str_or(json_get(s, "host"), "");
    if (!*c) {
        c = json_str_or(json_get(o, "reportingComponent"), "");
        h = json_str_or(json_get(o, "reportingInstance"), "");
    }
    buf_fmt(p->b, "%s%s%s", c, *h ? ", " : "", h);
}
static void c_event_count(struct print *p, const struct json *o) {
    int64_t n = json_i64_at(o, 0, "series", "count");
    n = n ? n : json_i64(json_get(o, "count"), 0);
    p->number = n ? n : 1;
    p->is_number = true;
}
static void c_suspend(struct print *p, const struct json *o) {
    buf_str(p->b, json_bool_at(o, false, "spec", "suspend") ? "True" : "False");
}
static void c_cron_last(struct print *p, const struct json *o) {
    const struct json *t = json_at(o, "status", "lastScheduleTime");
    if (t) {
        print_since(p, t);
    } else {
        buf_str(p->b, "<none>");
    }
}
static void c_job_status(struct print *p, const struct json *o) {
    const char *s = kube_condition_is(o, "Complete", "True")             ? "Complete"
                    : kube_condition_is(o, "Failed", "True")             ? "Failed"
                    : kube_is_deleting(o)                                ? "Terminating"
                    : kube_condition_is(o, "Suspended", "True")          ? "Suspended"
                    : kube_condition_is(o, "FailureTarget", "True")      ? "FailureTarget"
                    : kube_condition_is(o, "SuccessCriteriaMet", "True") ? "SuccessCriteriaMet"
                                                                         : "Running";
    buf_str(p->b, s);
}
static void c_job_completions(struct print *p, const struct json *o) {
    const struct json *c = json_at(o, "spec", "completions");
    int64_t done = json_i64_at(o, 0, "status", "succeeded"),
            par = json_i64_at(o, 0, "spec", "parallelism");
    if (c) {
        buf_fmt(p->b, "%lld/%lld", (long long)done, (long long)json_i64(c, 0));
    } else if (par > 1) {
        buf_fmt(p->b, "%lld/1 of %lld", (long long)done, (long long)par);
    } else {
        buf_fmt(p->b, "%lld/1", (long long)done);
    }
}
static void c_job_duration(struct print *p, const struct json *o) {
    uint64_t a, b = p->now_s * NS_PER_S;
    const struct json *end = json_at(o, "status", "completionTime");
    if (time_parse(json_span(json_at(o, "status", "startTime")), &a) < 0 ||
        (end && time_parse(json_span(end), &b) < 0)) {
        return;
    }
    age_write(p->b, b > a ? (b - a) / NS_PER_S : 0);
}
static void c_csr_duration(struct print *p, const struct json *o) {
    const struct json *s = json_at(o, "spec", "expirationSeconds");
    if (s) {
        age_write(p->b, (uint64_t)json_i64(s, 0));
    } else {
        buf_str(p->b, "<none>");
    }
}
static void c_csr_condition(struct print *p, const struct json *o) {
    bool approved = kube_condition(o, "Approved"), denied = kube_condition(o, "Denied"),
         failed = kube_condition(o, "Failed");
    buf_str(p->b, denied ? "Denied" : approved ? "Approved" : "Pending");
    buf_str(p->b, failed ? ",Failed" : "");
    buf_str(p->b, json_span(json_at(o, "status", "certificate")).n ? ",Issued" : "");
}
static void c_ingressclass_params(struct print *p, const struct json *o) {
    const struct json *r = json_at(o, "spec", "parameters");
    if (!r) {
        buf_str(p->b, "<none>");
        return;
    }
    const char *g = json_str_or(json_get(r, "apiGroup"), "");
    buf_fmt(p->b, "%s%s%s/%s", json_str_or(json_get(r, "kind"), ""), *g ? "." : "", g,
            json_str_or(json_get(r, "name"), ""));
}
static void c_ingress_hosts(struct print *p, const struct json *o) {
    size_t n = 0, shown = 0;
    JSON_EACH(it, r, json_at(o, "spec", "rules")) {
        const char *h = json_str_or(json_get(r, "host"), "");
        if (*h && n++ < 3) {
            buf_fmt(p->b, "%s%s", shown++ ? "," : "", h);
        }
    }
    if (!n) {
        buf_str(p->b, "*");
    } else if (n > 3) {
        buf_fmt(p->b, " + %zu more...", n - 3);
    }
}
static void c_lb_address(struct print *p, const struct json *o) {
    size_t n = 0;
    JSON_EACH(it, i, json_at(o, "status", "loadBalancer", "ingress")) {
        const char *ip = json_str_or(json_get(i, "ip"), "");
        buf_fmt(p->b, "%s%s", n++ ? "," : "", *ip ? ip : json_str_or(json_get(i, "hostname"), ""));
    }
}
static void c_ingress_ports(struct print *p, const struct json *o) {
    buf_str(p->b, json_len(json_at(o, "spec", "tls")) ? "80, 443" : "80");
}
static void c_ip_parent(struct print *p, const struct json *o) {
    static const char *const keys[] = {"group", "resource", "namespace", "name"};
    const struct json *r = json_at(o, "spec", "parentRef");
    for (size_t i = 0, n = 0; i < ARRAY_LEN(keys); i++) {
        const char *s = json_str_or(json_get(r, keys[i]), "");
        if (*s) {
            buf_fmt(p->b, "%s%s", n++ ? "/" : "", s);
        }
    }
}
static void c_podselector(struct print *p, const struct json *o) {
    print_selector(p, json_at(o, "spec", "podSelector"));
}
static void c_cidrs(struct print *p, const struct json *o) {
    print_join(p, json_at(o, "spec", "cidrs"), NULL, ",");
}
static void c_roleref(struct print *p, const struct json *o) {
    buf_fmt(p->b, "%s/%s", json_str_or(json_at(o, "roleRef", "kind"), ""),
            json_str_or(json_at(o, "roleRef", "name"), ""));
}
static void subjects(struct print *p, const struct json *o, const char *kind) {
    size_t n = 0;
    JSON_EACH(it, s, json_get(o, "subjects")) {
        if (str_eq(json_str(json_get(s, "kind")), kind)) {
            const char *ns =
                str_eq(kind, "ServiceAccount") ? json_str_or(json_get(s, "namespace"), "") : "";
            buf_fmt(p->b, "%s%s%s%s", n++ ? ", " : "", ns, *ns ? "/" : "",
                    json_str_or(json_get(s, "name"), ""));
        }
    }
}
static void c_subjects_user(struct print *p, const struct json *o) {
    subjects(p, o, "User");
}
static void c_subjects_group(struct print *p, const struct json *o) {
    subjects(p, o, "Group");
}
static void c_subjects_sa(struct print *p, const struct json *o) {
    subjects(p, o, "ServiceAccount");
}
static void c_csi_tokens(struct print *p, const struct json *o) {
    const struct json *t = json_at(o, "spec", "tokenRequests");
    if (json_len(t)) {
        print_join(p, t, "audience", ",");
    } else {
        buf_str(p->b, "<unset>");
    }
}
static void c_csi_modes(struct print *p, const struct json *o) {
    print_join(p, json_at(o, "spec", "volumeLifecycleModes"), NULL, ",");
}
static void c_param_kind(struct print *p, const struct json *o) {
    const struct json *k = json_at(o, "spec", "paramKind");
    if (k) {
        buf_fmt(p->b, "%s/%s", json_str_or(json_get(k, "apiVersion"), ""),
                json_str_or(json_get(k, "kind"), ""));
    } else {
        buf_str(p->b, "<unset>");
    }
}
static void c_param_ref(struct print *p, const struct json *o) {
    const struct json *r = json_at(o, "spec", "paramRef");
    const char *ns = json_str_or(json_get(r, "namespace"), "");
    if (!r) {
        buf_str(p->b, "<unset>");
    } else if (json_span(json_get(r, "name")).n) {
        buf_fmt(p->b, "%s%s%s", ns, *ns ? "/" : "", json_str(json_get(r, "name")));
    } else {
        print_selector(p, json_get(r, "selector"));
    }
}
static void c_slice_ports(struct print *p, const struct json *o) {
    size_t n = 0;
    JSON_EACH(it, x, json_get(o, "ports")) {
        if (n < 3) {
            const struct json *num = json_get(x, "port");
            buf_str(p->b, n ? "," : "");
            print_str(p, num, "*");
        }
        n++;
    }
    if (!n) {
        buf_str(p->b, "<unset>");
    } else if (n > 3) {
        buf_fmt(p->b, " + %zu more...", n - 3);
    }
}
static void c_slice_endpoints(struct print *p, const struct json *o) {
    size_t n = 0;
    JSON_EACH(it, e, json_get(o, "endpoints")) {
        JSON_EACH(it2, a, json_get(e, "addresses")) {
            if (n < 3) {
                buf_fmt(p->b, "%s%s", n ? "," : "", json_str_or(a, ""));
            }
            n++;
        }
    }
    if (!n) {
        buf_str(p->b, "<unset>");
    } else if (n > 3) {
        buf_fmt(p->b, " + %zu more...", n - 3);
    }
}
static void c_endpoints(struct print *p, const struct json *o) {
    size_t n = 0;
    JSON_EACH(it, s, json_get(o, "subsets")) {
        JSON_EACH(it2, a, json_get(s, "addresses")) {
            const char *ip = json_str_or(json_get(a, "ip"), "");
            JSON_EACH(it3, port, json_get(s, "ports")) {
                if (n < 3) {
                    buf_fmt(p->b, strchr(ip, ':') ? "%s[%s]:%lld" : "%s%s:%lld", n ? "," : "", ip,
                            (long long)json_i64(json_get(port, "port"), 0));
                }
                n++;
            }
            if (!json_len(json_get(s, "ports"))) {
                if (n < 3) {
                    buf_fmt(p->b, "%s%s", n ? "," : "", ip);
                }
                n++;
            }
        }
    }
    if (!n) {
        buf_str(p->b, "<none>");
    } else if (n > 3) {
        buf_fmt(p->b, " + %zu more...", n - 3);
    }
}
static void c_claim_state(struct print *p, const struct json *o) {
    const char *s = json_at(o, "status", "allocation") ? "allocated" : "pending";
    buf_str(p->b, kube_is_deleting(o) ? "deleted," : "");
    buf_str(p->b, s);
    buf_str(p->b, json_len(json_at(o, "status", "reservedFor")) ? ",reserved" : "");
}
static void c_dangling(struct print *p, const struct json *o) {
    print_str(p, json_get(kube_condition(o, "Dangling"), "status"), "?");
}
static void c_pl_shares(struct print *p, const struct json *o) {
    bool exempt = str_eq(json_str_or(json_at(o, "spec", "type"), ""), "Exempt");
    const struct json *n =
        json_at(o, "spec", exempt ? "exempt" : "limited", "nominalConcurrencyShares");
    if (n) {
        p->number = json_i64(n, 0);
        p->is_number = true;
    } else {
        buf_str(p->b, "<none>");
    }
}
static void c_healthy(struct print *p, const struct json *o) {
    bool ok = false;
    JSON_EACH(it, c, json_get(o, "conditions")) {
        ok = ok || (str_eq(json_str(json_get(c, "type")), "Healthy") &&
                    str_eq(json_str(json_get(c, "status")), "True"));
    }
    buf_str(p->b, ok ? "Healthy" : "Unhealthy");
}
static void c_health_message(struct print *p, const struct json *o) {
    print_str(p, json_get(json_idx(json_get(o, "conditions"), 0), "message"), "");
}
static void c_health_error(struct print *p, const struct json *o) {
    print_str(p, json_get(json_idx(json_get(o, "conditions"), 0), "error"), "");
}
static void c_data(struct print *p, const struct json *o) {
    p->number = (int64_t)(json_len(json_get(o, "data")) + json_len(json_get(o, "binaryData")));
    p->is_number = true;
}
static void c_template_labels(struct print *p, const struct json *o) {
    print_map(p, json_at(o, "template", "metadata", "labels"));
}
static void quota(struct print *p, const struct json *o, bool limits) {
    const struct json *hard = json_at(o, "status", "hard"), *used = json_at(o, "status", "used");
    const char *keys[64];
    size_t n = 0, shown = 0;
    JSON_EACH_KV(it, k, x, hard) {
        (void)x;
        if ((strncmp(k, "limits", 6) == 0) == limits && n < ARRAY_LEN(keys)) {
            keys[n++] = k;
        }
    }
    qsort(keys, n, sizeof(keys[0]), by_text);
    for (size_t i = 0; i < n; i++) {
        buf_fmt(p->b, "%s%s: %s/%s", shown++ ? ", " : "", keys[i],
                json_str_or(json_get(used, keys[i]), "0"),
                json_str_or(json_get(hard, keys[i]), ""));
    }
}
static void c_quota_request(struct print *p, const struct json *o) {
    quota(p, o, false);
}
static void c_quota_limit(struct print *p, const struct json *o) {
    quota(p, o, true);
}
static void c_hpa_ref(struct print *p, const struct json *o) {
    const struct json *r = json_at(o, "spec", "scaleTargetRef");
    buf_fmt(p->b, "%s/%s", json_str_or(json_get(r, "kind"), ""),
            json_str_or(json_get(r, "name"), ""));
}
static void c_hpa_min(struct print *p, const struct json *o) {
    print_str(p, json_at(o, "spec", "minReplicas"), "<unset>");
}
static void hpa_metric(struct print *p, const struct json *m, const struct json *cur) {
    const char *type = json_str_or(json_get(m, "type"), "");
    AUTO_FREE char *key = str_dup(type);
    key[0] = (char)(key[0] >= 'A' && key[0] <= 'Z' ? key[0] + 32 : key[0]);
    const struct json *src = json_get(m, key), *now = json_at(cur, key, "current"),
                      *t = json_get(src, "target");
    if (str_eq(type, "Resource")) {
        buf_fmt(p->b, "%s: ", json_str_or(json_get(src, "name"), ""));
    }
    const struct json *u = json_get(t, "averageUtilization"),
                      *cu = json_get(now, "averageUtilization");
    if (u) {
        if (cu) {
            buf_fmt(p->b, "%lld%%/%lld%%", (long long)json_i64(cu, 0), (long long)json_i64(u, 0));
        } else {
            buf_fmt(p->b, "<unknown>/%lld%%", (long long)json_i64(u, 0));
        }
        return;
    }
    const char *kind = json_get(t, "averageValue") ? "averageValue" : "value";
    print_str(p, json_get(now, kind), "<unknown>");
    buf_fmt(p->b, "/%s%s", json_str_or(json_get(t, kind), ""),
            str_eq(kind, "averageValue") && !str_eq(type, "Resource") ? " (avg)" : "");
}
static void c_hpa_targets(struct print *p, const struct json *o) {
    const struct json *list = json_at(o, "spec", "metrics");
    struct json_iter cur = json_iter(json_at(o, "status", "currentMetrics"));
    size_t n = 0;
    if (!list) { /* v1 form */
        const struct json *t = json_at(o, "spec", "targetCPUUtilizationPercentage");
        const struct json *c = json_at(o, "status", "currentCPUUtilizationPercentage");
        buf_str(p->b, "cpu: ");
        print_str(p, c, "<unknown>");
        buf_str(p->b, c ? "%/" : "/");
        print_str(p, t, "<unset>");
        buf_str(p->b, t ? "%" : "");
        return;
    }
    JSON_EACH(it, m, list) {
        const struct json *c = json_next(&cur, NULL);
        if (n < 2) {
            buf_str(p->b, n ? ", " : "");
            hpa_metric(p, m, c);
        }
        n++;
    }
    if (n > 2) {
        buf_fmt(p->b, " + %zu more...", n - 2);
    }
}
static void c_tenant_nodes(struct print *p, const struct json *o) {
    buf_fmt(p->b, "%lld/%lld", (long long)json_i64_at(o, 0, "status", "nodes", "ready"),
            (long long)json_i64_at(o, 0, "status", "nodes", "declared"));
}
static void c_last_seen(struct print *p, const struct json *o) {
    const struct json *t = json_at(o, "status", "lastSeen");
    if (t) {
        print_since(p, t);
    } else {
        buf_str(p->b, "<none>");
    }
}

static const struct print_cell cells[] = {
    {"age", c_age},
    {"containers", c_containers},
    {"images", c_images},
    {"selector", c_selector},
    {"nodeselector", c_nodeselector},
    {"ready_of", c_ready_of},
    {"apiservice", c_apiservice},
    {"available", c_available},
    {"controller", c_controller},
    {"event_last", c_event_last},
    {"event_first", c_event_first},
    {"event_object", c_event_object},
    {"event_source", c_event_source},
    {"event_count", c_event_count},
    {"suspend", c_suspend},
    {"cron_last", c_cron_last},
    {"job_status", c_job_status},
    {"job_completions", c_job_completions},
    {"job_duration", c_job_duration},
    {"csr_duration", c_csr_duration},
    {"csr_condition", c_csr_condition},
    {"ingressclass_params", c_ingressclass_params},
    {"ingress_hosts", c_ingress_hosts},
    {"lb_address", c_lb_address},
    {"ingress_ports", c_ingress_ports},
    {"ip_parent", c_ip_parent},
    {"podselector", c_podselector},
    {"cidrs", c_cidrs},
    {"roleref", c_roleref},
    {"subjects_user", c_subjects_user},
    {"subjects_group", c_subjects_group},
    {"subjects_sa", c_subjects_sa},
    {"csi_tokens", c_csi_tokens},
    {"csi_modes", c_csi_modes},
    {"param_kind", c_param_kind},
    {"param_ref", c_param_ref},
    {"slice_ports", c_slice_ports},
    {"slice_endpoints", c_slice_endpoints},
    {"endpoints", c_endpoints},
    {"claim_state", c_claim_state},
    {"dangling", c_dangling},
    {"pl_shares", c_pl_shares},
    {"healthy", c_healthy},
    {"health_message", c_health_message},
    {"health_error", c_health_error},
    {"data", c_data},
    {"template_labels", c_template_labels},
    {"quota_request", c_quota_request},
    {"quota_limit", c_quota_limit},
    {"hpa_ref", c_hpa_ref},
    {"hpa_min", c_hpa_min},
    {"hpa_targets", c_hpa_targets},
    {"tenant_nodes", c_tenant_nodes},
    {"last_seen", c_last_seen},
};

/* ---- tables ------------------------------------------------------------------------------------------- */

static const struct kube_column plain[] = {{"Name", "string", "name", ".metadata.name", 0},
                                           {"Age", "string", "", "@age", 0}};

static const struct kube_column *columns_of(const struct kube_resource *r, size_t *ret_n) {
    *ret_n = r->n_columns ? r->n_columns : ARRAY_LEN(plain);
    return r->n_columns ? kube_gen_columns + r->column : plain;
}

struct json *kube_table_columns(struct json_doc *d, const struct kube_resource *r) {
    size_t n;
    const struct kube_column *c = columns_of(r, &n);
    struct json *arr = json_new_arr(d);
    for (size_t i = 0; i < n; i++) {
        struct json *o = json_new_obj(d);
        json_set_str(d, o, "name", c[i].name);
        json_set_str(d, o, "type", c[i].type);
        json_set_str(d, o, "format", c[i].format);
        json_set_str(d, o, "description", "");
        json_set_i64(d, o, "priority", c[i].priority);
        json_push(arr, o);
    }
    return arr;
}

static const struct json *follow(const struct json *o, struct span path) {
    struct span part;
    while (o && span_next(&path, '.', &part)) {
        o = part.n ? json_getn(o, part) : o;
    }
    return o;
}

static struct json *cell(struct json_doc *d, const struct kube_column *c, const struct json *obj,
                         uint64_t now_s) {
    AUTO(buf) struct buf b = BUF_INIT(64u << 10);
    struct print p = {&b, now_s, 0, false};
    struct span e = span_str(c->expr), path;
    if (e.p[0] == '@') {
        print_fn *fn = print_find(cells, ARRAY_LEN(cells), c->expr + 1);
        fn = fn ? fn : print_pod_cell(c->expr + 1);
        CHECK(fn);
        fn(&p, obj);
        return p.is_number ? json_new_i64(d, p.number) : json_new_span(d, buf_view(&b));
    }
    bool count = e.p[0] == '#', flag = e.p[0] == '?', num = e.p[0] == '0';
    if (count || flag || num) {
        e = span_of(e.p + 1, e.n - 1);
    }
    struct span rest = e;
    const char *otherwise = "";
    if (span_until(&rest, '|', &path) == 0) {
        otherwise = (const char *)rest.p;
    } else {
        path = e;
    }
    const struct json *v = follow(obj, path);
    if (count) {
        return json_new_i64(d, (int64_t)json_len(v));
    }
    if (flag) {
        return json_new_bool(d, json_bool(v, false));
    }
    if (num || str_eq(c->type, "integer") || (json_is_int(v) && !*otherwise)) {
        return json_new_i64(d, json_i64(v, 0));
    }
    if (json_is_int(v) && str_eq(otherwise, "<none>")) {
        return json_new_i64(d, json_i64(v, 0));
    }
    print_str(&p, v, otherwise);
    return json_new_span(d, buf_view(&b));
}

struct json *kube_table_cells(struct json_doc *d, const struct kube_resource *r,
                              const struct json *obj, uint64_t now_s) {
    size_t n;
    const struct kube_column *c = columns_of(r, &n);
    struct json *arr = json_new_arr(d);
    for (size_t i = 0; i < n; i++) {
        json_push(arr, cell(d, &c[i], obj, now_s));
    }
    return arr;
}

print_fn *print_find(const struct print_cell *list, size_t n, const char *name) {
    for (size_t i = 0; i < n; i++) {
        if (str_eq(list[i].name, name)) {
            return list[i].fn;
        }
    }
    return NULL;
}
