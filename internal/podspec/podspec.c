#include "internal/podspec/podspec.h"

#include "internal/base/rand.h"
#include "internal/kube/kube.h"

/* ---- state ---- */

bool pod_is_terminal(const struct json *pod) {
    const char *phase = json_str_at(pod, "status", "phase");
    return str_eq(phase, "Succeeded") || str_eq(phase, "Failed");
}
bool pod_is_active(const struct json *pod) {
    return !pod_is_terminal(pod) && !kube_is_deleting(pod);
}
bool pod_is_ready(const struct json *pod) {
    return kube_condition_is(pod, "Ready", "True");
}

static uint64_t seconds_of(const struct json *time) {
    uint64_t ns;
    return json_is_str(time) && time_parse(json_span(time), &ns) == 0 ? ns / NS_PER_S : 0;
}

uint64_t pod_ready_since_s(const struct json *pod) {
    return pod_is_ready(pod)
               ? seconds_of(json_get(kube_condition(pod, "Ready"), "lastTransitionTime"))
               : 0;
}
int64_t pod_restarts(const struct json *pod) {
    int64_t n = 0;
    JSON_EACH(it, c, json_at(pod, "status", "containerStatuses")) {
        int64_t r = json_i64(json_get(c, "restartCount"), 0);
        n = r > n ? r : n;
    }
    return n;
}
const char *pod_node(const struct json *pod) {
    return json_str_or(json_at(pod, "spec", "nodeName"), "");
}
uint64_t kobj_created_s(const struct json *obj) {
    return seconds_of(json_at(obj, "metadata", "creationTimestamp"));
}

/* ---- resources ---- */

static struct pod_amount *slot(struct pod_amounts *s, const char *name) {
    for (size_t i = 0; i < s->n; i++) {
        if (str_eq(s->a[i].name, name)) {
            return &s->a[i];
        }
    }
    if (s->n == POD_RESOURCES) {
        s->overflow = true;
        return NULL;
    }
    s->a[s->n] = (struct pod_amount){name, 0};
    return &s->a[s->n++];
}

int64_t pod_amount(const struct pod_amounts *a, const char *name) {
    for (size_t i = 0; i < a->n; i++) {
        if (str_eq(a->a[i].name, name)) {
            return a->a[i].v;
        }
    }
    return 0;
}

static int64_t sat_add(int64_t a, int64_t b) {
    int64_t r;
    return ck_add(a, b, &r) ? (b > 0 ? INT64_MAX : INT64_MIN) : r;
}

void pod_amounts_add(struct pod_amounts *sum, const struct pod_amounts *a, int sign) {
    sum->overflow |= a->overflow;
    for (size_t i = 0; i < a->n; i++) {
        struct pod_amount *s = slot(sum, a->a[i].name);
        if (s) {
            s->v = sat_add(s->v, sign < 0 ? -a->a[i].v : a->a[i].v);
        }
    }
}

void pod_amounts_of(const struct json *list, struct pod_amounts *ret) {
    memset(ret, 0, sizeof(*ret));
    JSON_EACH_KV(it, k, v, list) {
        int64_t x = 0;
        bool cpu = str_eq(k, "cpu");
        if ((cpu ? kube_quantity_milli(json_span(v), &x) : kube_quantity_value(json_span(v), &x)) ==
            0) {
            struct pod_amount *s = slot(ret, k);
            if (s) {
                s->v = x;
            }
        }
    }
}

static void take_larger(struct pod_amounts *max, const struct pod_amounts *a) {
    max->overflow |= a->overflow;
    for (size_t i = 0; i < a->n; i++) {
        struct pod_amount *s = slot(max, a->a[i].name);
        if (s && s->v < a->a[i].v) {
            s->v = a->a[i].v;
        }
    }
}

void pod_requests(const struct json *pod, struct pod_amounts *ret) {
    const struct json *spec = json_get(pod, "spec");
    struct pod_amounts a, sidecars = {0}, init_peak = {0};
    memset(ret, 0, sizeof(*ret));
    JSON_EACH(it, c, json_get(spec, "containers")) {
        pod_amounts_of(json_at(c, "resources", "requests"), &a);
        pod_amounts_add(ret, &a, 1);
    }
    /* An init container runs beside the sidecars (restartPolicy Always) started before it. */
    JSON_EACH(it2, c, json_get(spec, "initContainers")) {
        pod_amounts_of(json_at(c, "resources", "requests"), &a);
        if (str_eq(json_str(json_get(c, "restartPolicy")), "Always")) {
            pod_amounts_add(&sidecars, &a, 1);
            take_larger(&init_peak, &sidecars);
        } else {
            pod_amounts_add(&a, &sidecars, 1);
            take_larger(&init_peak, &a);
        }
    }
    pod_amounts_add(ret, &sidecars, 1);
    take_larger(ret, &init_peak);
    pod_amounts_of(json_at(spec, "resources", "requests"), &a);
    for (size_t i = 0; i < a.n; i++) {
        struct pod_amount *s = slot(ret, a.a[i].name);
        if (s) {
            s->v = a.a[i].v;
        }
    }
    pod_amounts_of(json_get(spec, "overhead"), &a);
    pod_amounts_add(ret, &a, 1);
    struct pod_amount *s = slot(ret, "pods");
    if (s) {
        s->v = 1;
    }
}

void pod_requests_nonzero(const struct json *pod, int64_t *ret_cpu_milli, int64_t *ret_mem) {
    enum { DEFAULT_CPU = 100 };
    const int64_t default_mem = 200 << 20;
    int64_t cpu = 0, mem = 0;
    JSON_EACH(it, c, json_at(pod, "spec", "containers")) {
        struct pod_amounts a;
        pod_amounts_of(json_at(c, "resources", "requests"), &a);
        int64_t x = pod_amount(&a, "cpu"), m = pod_amount(&a, "memory");
        cpu = sat_add(cpu, x ? x : DEFAULT_CPU);
        mem = sat_add(mem, m ? m : default_mem);
    }
    struct pod_amounts all;
    pod_requests(pod, &all);
    *ret_cpu_milli = pod_amount(&all, "cpu") > cpu ? pod_amount(&all, "cpu") : cpu;
    *ret_mem = pod_amount(&all, "memory") > mem ? pod_amount(&all, "memory") : mem;
}

/* ---- taints ---- */

unsigned taint_effect(const struct json *taint) {
    const char *s = json_str_or(json_get(taint, "effect"), "");
    return str_eq(s, "NoSchedule")         ? TAINT_NO_SCHEDULE
           : str_eq(s, "PreferNoSchedule") ? TAINT_PREFER
           : str_eq(s, "NoExecute")        ? TAINT_NO_EXECUTE
                                           : 0;
}

struct json *taint_tolerated_by(const struct json *taint, const struct json *tolerations) {
    const char *key = json_str_or(json_get(taint, "key"), ""),
               *value = json_str_or(json_get(taint, "value"), ""),
               *effect = json_str_or(json_get(taint, "effect"), "");
    JSON_EACH(it, t, tolerations) {
        const char *te = json_str_or(json_get(t, "effect"), ""),
                   *tk = json_str_or(json_get(t, "key"), ""),
                   *op = json_str_or(json_get(t, "operator"), "");
        if ((*te && !str_eq(te, effect)) || (*tk && !str_eq(tk, key))) {
            continue;
        }
        if (str_eq(op, "Exists") || ((!*op || str_eq(op, "Equal")) && *tk &&
                                     str_eq(json_str_or(json_get(t, "value"), ""), value))) {
            return t;
        }
    }
    return NULL;
}

struct json *pod_untolerated(const struct json *pod_spec, const struct json *node,
                             unsigned effects) {
    JSON_EACH(it, t, json_at(node, "spec", "taints")) {
        if ((taint_effect(t) & effects) &&
            !taint_tolerated_by(t, json_get(pod_spec, "tolerations"))) {
            return t;
        }
    }
    return NULL;
}

struct json *node_taint(const struct json *node, const char *key, unsigned effect) {
    JSON_EACH(it, t, json_at(node, "spec", "taints")) {
        if (taint_effect(t) == effect && str_eq(json_str(json_get(t, "key")), key)) {
            return t;
        }
    }
    return NULL;
}

/* ---- node selection ---- */

static bool in_values(const char *v, const struct json *values) {
    JSON_EACH(it, x, values) {
        if (str_eq(json_str(x), v)) {
            return true;
        }
    }
    return false;
}

/* `have` NULL: the label or field is absent. */
static bool requirement_holds(const char *have, const struct json *req) {
    const char *op = json_str_or(json_get(req, "operator"), "");
    const struct json *values = json_get(req, "values");
    if (str_eq(op, "In")) {
        return have && in_values(have, values);
    }
    if (str_eq(op, "NotIn")) {
        return !have || !in_values(have, values);
    }
    if (str_eq(op, "Exists")) {
        return have != NULL;
    }
    if (str_eq(op, "DoesNotExist")) {
        return have == NULL;
    }
    int64_t a, b;
    if ((!str_eq(op, "Gt") && !str_eq(op, "Lt")) || !have ||
        span_to_i64(span_str(have), INT64_MIN, INT64_MAX, &a) < 0 ||
        span_to_i64(json_span(json_idx(values, 0)), INT64_MIN, INT64_MAX, &b) < 0) {
        return false;
    }
    return str_eq(op, "Gt") ? a > b : a < b;
}

bool node_matches_term(const struct json *node, const struct json *term) {
    const struct json *exprs = json_get(term, "matchExpressions"),
                      *fields = json_get(term, "matchFields");
    if (!json_len(exprs) && !json_len(fields)) {
        return false;
    }
    JSON_EACH(it, r, exprs) {
        if (!requirement_holds(kube_label(node, json_str_or(json_get(r, "key"), "")), r)) {
            return false;
        }
    }
    JSON_EACH(it2, r, fields) {
        if (!str_eq(json_str(json_get(r, "key")), "metadata.name") ||
            !requirement_holds(kube_name(node), r)) {
            return false;
        }
    }
    return true;
}

bool node_matches_pod(const struct json *node, const struct json *pod_spec) {
    JSON_EACH_KV(it, k, v, json_get(pod_spec, "nodeSelector")) {
        if (!str_eq(kube_label(node, k), json_str(v))) {
            return false;
        }
    }
    const struct json *req = json_at(pod_spec, "affinity", "nodeAffinity",
                                     "requiredDuringSchedulingIgnoredDuringExecution");
    if (json_is_null(req)) {
        return true;
    }
    JSON_EACH(it2, term, json_get(req, "nodeSelectorTerms")) {
        if (node_matches_term(node, term)) {
            return true;
        }
    }
    return false;
}

int64_t node_preference(const struct json *node, const struct json *pod_spec) {
    int64_t sum = 0;
    JSON_EACH(it, p,
              json_at(pod_spec, "affinity", "nodeAffinity",
                      "preferredDuringSchedulingIgnoredDuringExecution")) {
        const struct json *term = json_get(p, "preference");
        bool empty = !json_len(json_get(term, "matchExpressions")) &&
                     !json_len(json_get(term, "matchFields"));
        if (empty || node_matches_term(node, term)) {
            sum += json_i64(json_get(p, "weight"), 0);
        }
    }
    return sum;
}

/* ---- host ports ---- */

bool pod_has_host_ports(const struct json *pod) {
    JSON_EACH(it, c, json_at(pod, "spec", "containers")) {
        JSON_EACH(it2, p, json_get(c, "ports")) {
            if (json_i64(json_get(p, "hostPort"), 0)) {
                return true;
            }
        }
    }
    return false;
}

static bool port_conflicts(const struct json *p, const struct json *pod) {
    const char *ip = json_str_or(json_get(p, "hostIP"), ""),
               *proto = json_str_or(json_get(p, "protocol"), "TCP");
    bool any = !*ip || str_eq(ip, "0.0.0.0");
    JSON_EACH(it, c, json_at(pod, "spec", "containers")) {
        JSON_EACH(it2, q, json_get(c, "ports")) {
            const char *ip2 = json_str_or(json_get(q, "hostIP"), "");
            if (json_i64(json_get(q, "hostPort"), 0) == json_i64(json_get(p, "hostPort"), 0) &&
                str_eq(json_str_or(json_get(q, "protocol"), "TCP"), proto) &&
                (any || !*ip2 || str_eq(ip2, "0.0.0.0") || str_eq(ip, ip2))) {
                return true;
            }
        }
    }
    return false;
}

bool pod_ports_conflict(const struct json *pod_a, const struct json *pod_b) {
    JSON_EACH(it, c, json_at(pod_a, "spec", "containers")) {
        JSON_EACH(it2, p, json_get(c, "ports")) {
            if (json_i64(json_get(p, "hostPort"), 0) && port_conflicts(p, pod_b)) {
                return true;
            }
        }
    }
    return false;
}
