#include "internal/kube/kube.h"

#include "internal/kube/kube_print_int.h"

/* Cells of pods, nodes, services and volumes. */

static bool sidecar(const struct json *c) {
    return str_eq(json_str(json_get(c, "restartPolicy")), "Always");
}

static const struct json *status_of(const struct json *list, const char *name) {
    JSON_EACH(it, s, list) {
        if (str_eq(json_str(json_get(s, "name")), name)) {
            return s;
        }
    }
    return NULL;
}

static void c_pod_ready(struct print *p, const struct json *o) {
    size_t ready = 0, all = json_len(json_at(o, "spec", "containers"));
    JSON_EACH(it, s, json_at(o, "status", "containerStatuses")) {
        ready += json_bool(json_get(s, "ready"), false) && json_at(s, "state", "running") ? 1 : 0;
    }
    JSON_EACH(it2, c, json_at(o, "spec", "initContainers")) {
        if (sidecar(c)) {
            const struct json *s = status_of(json_at(o, "status", "initContainerStatuses"),
                                             json_str_or(json_get(c, "name"), ""));
            all++;
            ready += json_bool(json_get(s, "ready"), false) ? 1 : 0;
        }
    }
    buf_fmt(p->b, "%zu/%zu", ready, all);
}

/* Why the init containers are not through; false when they are. */
static bool init_reason(struct print *p, const struct json *o) {
    size_t i = 0, n = json_len(json_at(o, "spec", "initContainers"));
    JSON_EACH(it, s, json_at(o, "status", "initContainerStatuses")) {
        const struct json *spec =
            status_of(json_at(o, "spec", "initContainers"), json_str_or(json_get(s, "name"), ""));
        const struct json *term = json_at(s, "state", "terminated"),
                          *wait = json_at(s, "state", "waiting");
        int64_t code = json_i64(json_get(term, "exitCode"), 0),
                sig = json_i64(json_get(term, "signal"), 0);
        const char *why = json_str_or(json_get(wait, "reason"), ""),
                   *treason = json_str_or(json_get(term, "reason"), "");
        if ((term && code == 0) || (sidecar(spec) && json_bool(json_get(s, "started"), false))) {
            i++;
            continue;
        }
        if (term && *treason) {
            buf_fmt(p->b, "Init:%s", treason);
        } else if (term && sig) {
            buf_fmt(p->b, "Init:Signal:%lld", (long long)sig);
        } else if (term) {
            buf_fmt(p->b, "Init:ExitCode:%lld", (long long)code);
        } else if (*why && !str_eq(why, "PodInitializing")) {
            buf_fmt(p->b, "Init:%s", why);
        } else {
            buf_fmt(p->b, "Init:%zu/%zu", i, n);
        }
        return true;
    }
    return false;
}

static void container_reason(struct print *p, const struct json *o, const char *phase) {
    AUTO(buf) struct buf b = BUF_INIT(4096);
    bool running = false;
    JSON_EACH(it, s,
              json_at(o, "status", "containerStatuses")) { /* the last one with a reason is shown */
        const struct json *term = json_at(s, "state", "terminated"),
                          *wait = json_at(s, "state", "waiting");
        const char *why = json_str_or(json_get(wait, "reason"), ""),
                   *treason = json_str_or(json_get(term, "reason"), "");
        if (*why || term) {
            if (b.n && !*why && !term) {
                continue;
            }
            if (!b.n) { /* statuses are walked from the end upstream: the first of the list wins */
                if (*why) {
                    buf_str(&b, why);
                } else if (*treason) {
                    buf_str(&b, treason);
                } else if (json_i64(json_get(term, "signal"), 0)) {
                    buf_fmt(&b, "Signal:%lld", (long long)json_i64(json_get(term, "signal"), 0));
                } else {
                    buf_fmt(&b, "ExitCode:%lld",
                            (long long)json_i64(json_get(term, "exitCode"), 0));
                }
            }
        } else if (json_bool(json_get(s, "ready"), false) && json_at(s, "state", "running")) {
            running = true;
        }
    }
    const char *reason = b.n ? buf_cstr(&b) : phase;
    if (str_eq(reason, "Completed") && running) {
        reason = kube_condition_is(o, "Ready", "True") ? "Running" : "NotReady";
    }
    buf_str(p->b, reason);
}

static void c_pod_status(struct print *p, const struct json *o) {
    const char *reason = json_str_or(json_at(o, "status", "reason"), ""),
               *phase = json_str_or(json_at(o, "status", "phase"), "");
    if (kube_is_deleting(o)) {
        if (str_eq(reason, "NodeLost")) {
            buf_str(p->b, "Unknown");
            return;
        }
        if (!str_eq(phase, "Succeeded") && !str_eq(phase, "Failed")) {
            buf_str(p->b, "Terminating");
            return;
        }
    }
    if (*reason) {
        phase = reason;
    }
    if (str_eq(json_str_or(json_get(kube_condition(o, "PodScheduled"), "reason"), ""),
               "SchedulingGated")) {
        phase = "SchedulingGated";
    }
    bool initialized = kube_condition_is(o, "Initialized", "True");
    if (!init_reason(p, o) || initialized) {
        buf_reset(p->b);
        container_reason(p, o, phase);
    }
}

static void c_pod_restarts(struct print *p, const struct json *o) {
    static const char *const lists[] = {"containerStatuses", "initContainerStatuses"};
    int64_t n = 0;
    const struct json *last = NULL;
    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        JSON_EACH(it, s, json_at(o, "status", lists[i])) {
            const struct json *spec = status_of(json_at(o, "spec", "initContainers"),
                                                json_str_or(json_get(s, "name"), ""));
            if (i && !sidecar(spec)) {
                continue;
            }
            const struct json *t = json_at(s, "lastState", "terminated", "finishedAt");
            n += json_i64(json_get(s, "restartCount"), 0);
            if (t && (!last || span_cmp(json_span(last), json_span(t)) < 0)) {
                last = t;
            }
        }
    }
    buf_fmt(p->b, "%lld", (long long)n);
    if (n && last) {
        buf_str(p->b, " (");
        print_since(p, last);
        buf_str(p->b, " ago)");
    }
}

static void c_pod_ip(struct print *p, const struct json *o) {
    const struct json *first = json_get(json_idx(json_at(o, "status", "podIPs"), 0), "ip");
    print_str(p, first ? first : json_at(o, "status", "podIP"), "<none>");
}

static void c_pod_gates(struct print *p, const struct json *o) {
    const struct json *gates = json_at(o, "spec", "readinessGates");
    size_t n = 0;
    if (!json_len(gates)) {
        buf_str(p->b, "<none>");
        return;
    }
    JSON_EACH(it, g, gates) {
        n += kube_condition_is(o, json_str_or(json_get(g, "conditionType"), ""), "True") ? 1 : 0;
    }
    buf_fmt(p->b, "%zu/%zu", n, json_len(gates));
}

/* ---- nodes --------------------------------------------------------------------------------------------- */

static void c_node_status(struct print *p, const struct json *o) {
    const struct json *c = kube_condition(o, "Ready");
    buf_str(p->b, !c                                                ? "Unknown"
                  : str_eq(json_str(json_get(c, "status")), "True") ? "Ready"
                                                                    : "NotReady");
    if (json_bool_at(o, false, "spec", "unschedulable")) {
        buf_str(p->b, ",SchedulingDisabled");
    }
}

static void c_node_roles(struct print *p, const struct json *o) {
    enum { SHOWN = 16 };
    static const char prefix[] = "node-role.kubernetes.io/";
    const char *roles[SHOWN];
    size_t n = 0;
    JSON_EACH_KV(it, k, v, kube_labels(o)) {
        const char *r = strncmp(k, prefix, sizeof(prefix) - 1) == 0 ? k + sizeof(prefix) - 1
                        : str_eq(k, "kubernetes.io/role")           ? json_str_or(v, "")
                                                                    : "";
        if (*r && n < SHOWN) {
            size_t at = n++;
            for (; at > 0 && strcmp(roles[at - 1], r) > 0; at--) {
                roles[at] = roles[at - 1];
            }
            roles[at] = r;
        }
    }
    for (size_t i = 0; i < n; i++) {
        buf_fmt(p->b, "%s%s", i ? "," : "", roles[i]);
    }
    if (!n) {
        buf_str(p->b, "<none>");
    }
}

static void node_address(struct print *p, const struct json *o, const char *type) {
    JSON_EACH(it, a, json_at(o, "status", "addresses")) {
        if (str_eq(json_str(json_get(a, "type")), type)) {
            print_str(p, json_get(a, "address"), "<none>");
            return;
        }
    }
    buf_str(p->b, "<none>");
}
static void c_node_internal(struct print *p, const struct json *o) {
    node_address(p, o, "InternalIP");
}
static void c_node_external(struct print *p, const struct json *o) {
    node_address(p, o, "ExternalIP");
}

/* ---- services -------------------------------------------------------------------------------------------- */

static void c_service_external(struct print *p, const struct json *o) {
    const struct json *spec = json_get(o, "spec"), *ips = json_get(spec, "externalIPs");
    const char *type = json_str_or(json_get(spec, "type"), "");
    size_t n = 0;
    if (str_eq(type, "ExternalName")) {
        print_str(p, json_get(spec, "externalName"), "<none>");
        return;
    }
    if (str_eq(type, "LoadBalancer")) {
        JSON_EACH(it, i, json_at(o, "status", "loadBalancer", "ingress")) {
            const char *ip = json_str_or(json_get(i, "ip"), "");
            buf_fmt(p->b, "%s%s", n++ ? "," : "",
                    *ip ? ip : json_str_or(json_get(i, "hostname"), ""));
        }
    }
    JSON_EACH(it2, ip, ips) {
        buf_fmt(p->b, "%s%s", n++ ? "," : "", json_str_or(ip, ""));
    }
    if (!n) {
        buf_str(p->b, str_eq(type, "LoadBalancer") ? "<pending>" : "<none>");
    }
}

static void c_service_ports(struct print *p, const struct json *o) {
    size_t n = 0;
    JSON_EACH(it, x, json_at(o, "spec", "ports")) {
        long long port = json_i64(json_get(x, "port"), 0),
                  np = json_i64(json_get(x, "nodePort"), 0);
        const char *proto = json_str_or(json_get(x, "protocol"), "TCP");
        if (np) {
            buf_fmt(p->b, "%s%lld:%lld/%s", n++ ? "," : "", port, np, proto);
        } else {
            buf_fmt(p->b, "%s%lld/%s", n++ ? "," : "", port, proto);
        }
    }
    if (!n) {
        buf_str(p->b, "<none>");
    }
}

/* ---- volumes ----------------------------------------------------------------------------------------------- */

static void modes(struct print *p, const struct json *list) {
    static const char *const names[][2] = {{"ReadWriteOnce", "RWO"},
                                           {"ReadOnlyMany", "ROX"},
                                           {"ReadWriteMany", "RWX"},
                                           {"ReadWriteOncePod", "RWOP"}};
    size_t n = 0;
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        JSON_EACH(it, m, list) {
            if (str_eq(json_str(m), names[i][0])) {
                buf_fmt(p->b, "%s%s", n++ ? "," : "", names[i][1]);
                break;
            }
        }
    }
}
static void c_pv_modes(struct print *p, const struct json *o) {
    modes(p, json_at(o, "spec", "accessModes"));
}
static void c_pvc_modes(struct print *p, const struct json *o) {
    if (json_span(json_at(o, "spec", "volumeName")).n) {
        modes(p, json_at(o, "status", "accessModes"));
    }
}
static void c_pvc_capacity(struct print *p, const struct json *o) {
    if (json_span(json_at(o, "spec", "volumeName")).n) {
        print_str(p, json_at(o, "status", "capacity", "storage"), "");
    }
}
static void c_pvc_phase(struct print *p, const struct json *o) {
    if (kube_is_deleting(o)) {
        buf_str(p->b, "Terminating");
    } else {
        print_str(p, json_at(o, "status", "phase"), "");
    }
}
static void c_pv_claim(struct print *p, const struct json *o) {
    const struct json *r = json_at(o, "spec", "claimRef");
    if (r) {
        buf_fmt(p->b, "%s/%s", json_str_or(json_get(r, "namespace"), ""),
                json_str_or(json_get(r, "name"), ""));
    }
}

print_fn *print_pod_cell(const char *name) {
    static const struct print_cell cells[] = {
        {"pod_ready", c_pod_ready},         {"pod_status", c_pod_status},
        {"pod_restarts", c_pod_restarts},   {"pod_ip", c_pod_ip},
        {"pod_gates", c_pod_gates},         {"node_status", c_node_status},
        {"node_roles", c_node_roles},       {"node_internal", c_node_internal},
        {"node_external", c_node_external}, {"service_external", c_service_external},
        {"service_ports", c_service_ports}, {"pv_modes", c_pv_modes},
        {"pvc_modes", c_pvc_modes},         {"pvc_capacity", c_pvc_capacity},
        {"pvc_phase", c_pvc_phase},         {"pv_claim", c_pv_claim},
    };
    return print_find(cells, ARRAY_LEN(cells), name);
}
