/* The pods behind a Service: shared by Endpoints and EndpointSlices. */
#include "internal/controllers/ctl_ep_int.h"

bool ep_is_managed(const struct json *svc) {
    return json_len(json_at(svc, "spec", "selector")) &&
           !str_eq(json_str_at(svc, "spec", "type"), "ExternalName");
}

bool ep_is_headless(const struct json *svc) {
    return str_eq(json_str_at(svc, "spec", "clusterIP"), "None");
}

static bool is_v6(const char *ip) {
    return strchr(ip, ':') != NULL;
}

static const char *pod_ip(const struct json *pod, bool v6) {
    JSON_EACH(it, v, json_at(pod, "status", "podIPs")) {
        const char *ip = json_str(json_get(v, "ip"));
        if (ip && is_v6(ip) == v6) {
            return ip;
        }
    }
    const char *ip = json_str_at(pod, "status", "podIP");
    return ip && *ip && is_v6(ip) == v6 ? ip : NULL;
}

/* A named target port is looked up in the pod's containers (and sidecars); 0: the pod has none of that name. */
static int64_t target_port(const struct json *pod, const struct json *port) {
    const struct json *t = json_get(port, "targetPort");
    if (json_is_int(t)) {
        return json_i64(t, 0) ? json_i64(t, 0) : json_i64(json_get(port, "port"), 0);
    }
    const char *name = json_str(t);
    if (!name || !*name) {
        return json_i64(json_get(port, "port"), 0);
    }
    const char *proto = json_str_or(json_get(port, "protocol"), "TCP");
    static const char *const lists[] = {"containers", "initContainers"};
    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        JSON_EACH(it, c, json_at(pod, "spec", lists[i])) {
            if (i == 1 && !str_eq(json_str(json_get(c, "restartPolicy")), "Always")) {
                continue;
            }
            JSON_EACH(it2, p, json_get(c, "ports")) {
                if (str_eq(json_str(json_get(p, "name")), name) &&
                    str_eq(json_str_or(json_get(p, "protocol"), "TCP"), proto)) {
                    return json_i64(json_get(p, "containerPort"), 0);
                }
            }
        }
    }
    return 0;
}

static struct json *resolve_ports(struct json_doc *d, const struct json *svc,
                                  const struct json *pod) {
    struct json *out = json_new_arr(d);
    JSON_EACH(it, p, json_at(svc, "spec", "ports")) {
        int64_t n = target_port(pod, p);
        if (!n) {
            continue;
        }
        struct json *o = json_new_obj(d);
        json_set_str(d, o, "name", json_str_or(json_get(p, "name"), ""));
        json_set_i64(d, o, "port", n);
        json_set_str(d, o, "protocol", json_str_or(json_get(p, "protocol"), "TCP"));
        if (json_str(json_get(p, "appProtocol"))) {
            json_set_str(d, o, "appProtocol", json_str(json_get(p, "appProtocol")));
        }
        json_push(out, o);
    }
    return out;
}

static int by_name(const void *pa, const void *pb) {
    const struct ep *a = pa, *b = pb;
    return span_cmp(span_str(kube_name(a->pod)), span_str(kube_name(b->pod)));
}

static bool selects(const struct json *selector, const struct json *pod) {
    JSON_EACH_KV(it, k, v, selector) {
        if (!str_eq(kube_label(pod, k), json_str(v))) {
            return false;
        }
    }
    return true;
}

struct eplist ep_list(struct controllers *c, struct json_doc *d, const struct json *svc, bool v6) {
    struct eplist l = {NULL, 0};
    size_t cap = 0;
    bool publish = json_bool_at(svc, false, "spec", "publishNotReadyAddresses");
    struct map_iter it = {0};
    struct json *pod;
    while (kinformer_next(c->pods, &it, &pod)) {
        const char *ip;
        if (!str_eq(kube_namespace(pod), kube_namespace(svc)) || pod_is_terminal(pod) ||
            !selects(json_at(svc, "spec", "selector"), pod) || !(ip = pod_ip(pod, v6))) {
            continue;
        }
        if (l.n == cap) {
            cap = cap ? cap * 2 : 8;
            l.v = mem_array(l.v, cap, sizeof(*l.v), 1 << 20);
            CHECK(l.v);
        }
        bool serving = pod_is_ready(pod), terminating = kube_is_deleting(pod);
        l.v[l.n++] = (struct ep){.pod = pod,
                                 .ip = ip,
                                 .ports = resolve_ports(d, svc, pod),
                                 .ready = publish || (serving && !terminating),
                                 .serving = serving,
                                 .terminating = terminating};
    }
    if (l.n) {
        qsort(l.v, l.n, sizeof(*l.v), by_name);
    }
    return l;
}

struct json *ep_target_ref(struct json_doc *d, const struct json *pod) {
    struct json *t = json_new_obj(d);
    json_set_str(d, t, "kind", "Pod");
    json_set_str(d, t, "namespace", kube_namespace(pod));
    json_set_str(d, t, "name", kube_name(pod));
    json_set_str(d, t, "uid", kube_uid(pod));
    return t;
}

static bool looks_same(const struct json *a, const struct json *b) {
    return json_eq(kube_labels(a), kube_labels(b)) &&
           json_eq(json_at(a, "status", "podIPs"), json_at(b, "status", "podIPs")) &&
           str_eq(json_str_at(a, "status", "podIP"), json_str_at(b, "status", "podIP")) &&
           pod_is_ready(a) == pod_is_ready(b) && pod_is_terminal(a) == pod_is_terminal(b) &&
           kube_is_deleting(a) == kube_is_deleting(b) && str_eq(pod_node(a), pod_node(b));
}

void ep_enqueue(struct controllers *c, struct kqueue *q, struct kinformer *services,
                const struct json *old, const struct json *cur) {
    (void)c;
    if (old && cur && looks_same(old, cur)) {
        return;
    }
    const struct json *pods[] = {old, cur};
    struct map_iter it = {0};
    struct json *svc;
    while (kinformer_next(services, &it, &svc)) {
        for (size_t i = 0; i < 2; i++) {
            if (pods[i] && str_eq(kube_namespace(svc), kube_namespace(pods[i])) &&
                ep_is_managed(svc) && selects(json_at(svc, "spec", "selector"), pods[i])) {
                kqueue_add_obj(q, svc);
                break;
            }
        }
    }
}
