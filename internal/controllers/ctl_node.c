/* Node lifecycle: a node whose kubelet is silent becomes Unknown; conditions become taints. */
#include "internal/controllers/ctl_int.h"

enum { GRACE_S = 40 };

#define T_NOT_READY "node.kubernetes.io/not-ready"
#define T_UNREACHABLE "node.kubernetes.io/unreachable"

/* What we know of a node beyond its object. */
struct beat {
    struct nodectl *ctl;
    struct loop_timer t;
    uint64_t seen_ns; /* when its lease or heartbeat last moved, by our clock */
    char name[];
};

struct nodectl {
    struct controllers *c;
    struct kevents *ev;
    struct kinformer *leases;
    struct kqueue *q;
    struct map beats;
    uint64_t grace_ns;
    bool was_disrupted;
};

/* ---- heartbeats ---- */

static bool is_silent(const struct nodectl *ctl, const char *name) {
    const struct beat *b = map_get_str(&ctl->beats, name);
    return b && loop_now(ctl->c->l) >= b->seen_ns + ctl->grace_ns;
}

/* The timer runs at most once per grace period; a beat only notes the time. */
static void on_grace(struct loop_timer *t) {
    struct beat *b = CONTAINER_OF(t, struct beat, t);
    uint64_t due = b->seen_ns + b->ctl->grace_ns, now = loop_now(b->ctl->c->l);
    if (now >= due) {
        kqueue_add(b->ctl->q, b->name);
    } else {
        loop_timer_start(b->ctl->c->l, t, due - now, on_grace, "node-grace");
    }
}

static void beat(struct nodectl *ctl, const char *name) {
    struct beat *b = map_get_str(&ctl->beats, name);
    if (!b) {
        size_t n = strlen(name) + 1;
        b = mem_zero_alloc(sizeof(*b) + n);
        memcpy(b->name, name, n);
        b->ctl = ctl;
        map_put_str(&ctl->beats, name, b);
    }
    bool was_silent = b->seen_ns && is_silent(ctl, name);
    b->seen_ns = loop_now(ctl->c->l);
    if (!loop_timer_active(&b->t)) {
        loop_timer_start(ctl->c->l, &b->t, ctl->grace_ns, on_grace, "node-grace");
    }
    if (was_silent) {
        kqueue_add(ctl->q, name);
    }
}

static void forget(struct nodectl *ctl, const char *name) {
    struct beat *b = map_del_str(&ctl->beats, name);
    if (b) {
        loop_timer_stop(&b->t);
        free(b);
    }
}

/* ---- conditions ---- */

static void add_condition(struct json_doc *d, struct json *list, const char *type,
                          const char *status, const char *reason, const char *message,
                          const struct json *old) {
    char now[TIME_STR];
    struct json *c = json_new_obj(d);
    json_set_str(d, c, "type", type);
    json_set_str(d, c, "status", status);
    json_set_str(d, c, "reason", reason);
    json_set_str(d, c, "message", message);
    if (!str_eq(json_str(json_get(old, "status")), status)) {
        json_set_str(d, c, "lastTransitionTime", ctl_now(now));
    }
    json_push(list, c);
}

static void mark_unknown(struct sync *s, struct nodectl *ctl, const struct json *node) {
    static const char *const types[] = {"Ready", "MemoryPressure", "DiskPressure", "PIDPressure"};
    struct json *patch = json_new_obj(s->d);
    struct json *list = json_set_arr(s->d, json_set_obj(s->d, patch, "status"), "conditions");
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        const struct json *old = kube_condition(node, types[i]);
        if (!old) {
            add_condition(s->d, list, types[i], "Unknown", "NodeStatusNeverUpdated",
                          "Kubelet never posted node status.", NULL);
        } else if (!str_eq(json_str(json_get(old, "status")), "Unknown")) {
            add_condition(s->d, list, types[i], "Unknown", "NodeStatusUnknown",
                          "Kubelet stopped posting node status.", old);
        }
    }
    if (json_len(list)) {
        struct kref r = ctl_ref("", "v1", "nodes", node, "status");
        sync_patch(s, ctl->c->nodes, &r, KPATCH_STRATEGIC, patch, NULL);
    }
}

/* Pods of a node that is not ready take no traffic. */
static void unready_pods(struct sync *s, struct nodectl *ctl, const char *node) {
    struct map_iter it = {0};
    struct json *pod;
    while (kinformer_next(ctl->c->pods, &it, &pod)) {
        if (!str_eq(pod_node(pod), node) || !pod_is_ready(pod)) {
            continue;
        }
        struct json *patch = json_new_obj(s->d);
        struct json *list = json_set_arr(s->d, json_set_obj(s->d, patch, "status"), "conditions");
        add_condition(s->d, list, "Ready", "False", NULL, NULL, kube_condition(pod, "Ready"));
        struct kref r = ctl_ref("", "v1", "pods", pod, "status");
        sync_patch(s, ctl->c->pods, &r, KPATCH_STRATEGIC, patch, NULL);
        kevent(ctl->ev, pod, "Warning", "NodeNotReady", "Node is not ready");
    }
}

/* ---- taints ---- */

static bool is_managed(const struct json *t) {
    static const struct {
        const char *key;
        unsigned effects;
    } ours[] = {{T_NOT_READY, TAINT_NO_SCHEDULE | TAINT_NO_EXECUTE},
                {T_UNREACHABLE, TAINT_NO_SCHEDULE | TAINT_NO_EXECUTE},
                {"node.kubernetes.io/memory-pressure", TAINT_NO_SCHEDULE},
                {"node.kubernetes.io/disk-pressure", TAINT_NO_SCHEDULE},
                {"node.kubernetes.io/pid-pressure", TAINT_NO_SCHEDULE},
                {"node.kubernetes.io/network-unavailable", TAINT_NO_SCHEDULE},
                {"node.kubernetes.io/unschedulable", TAINT_NO_SCHEDULE}};
    for (size_t i = 0; i < ARRAY_LEN(ours); i++) {
        if (str_eq(json_str(json_get(t, "key")), ours[i].key) &&
            (taint_effect(t) & ours[i].effects)) {
            return true;
        }
    }
    return false;
}

static void want_taint(struct sync *s, struct json *list, const struct json *node, const char *key,
                       unsigned effect) {
    const struct json *there = node_taint(node, key, effect);
    if (there) {
        json_push(list, json_copy(s->d, there));
        return;
    }
    char now[TIME_STR];
    struct json *t = json_new_obj(s->d);
    json_set_str(s->d, t, "key", key);
    json_set_str(s->d, t, "effect", effect == TAINT_NO_EXECUTE ? "NoExecute" : "NoSchedule");
    json_set_str(s->d, t, "timeAdded", ctl_now(now));
    json_push(list, t);
}

static bool has(const struct json *node, const char *type, const char *status) {
    return kube_condition_is(node, type, status);
}

static struct json *wanted_taints(struct sync *s, const struct json *node, bool may_evict) {
    struct json *list = json_new_arr(s->d);
    JSON_EACH(it, t, json_at(node, "spec", "taints")) {
        if (!is_managed(t)) {
            json_push(list, json_copy(s->d, t));
        }
    }
    static const char *const pressures[][2] = {
        {"MemoryPressure", "node.kubernetes.io/memory-pressure"},
        {"DiskPressure", "node.kubernetes.io/disk-pressure"},
        {"PIDPressure", "node.kubernetes.io/pid-pressure"},
        {"NetworkUnavailable", "node.kubernetes.io/network-unavailable"}};
    for (size_t i = 0; i < ARRAY_LEN(pressures); i++) {
        if (has(node, pressures[i][0], "True")) {
            want_taint(s, list, node, pressures[i][1], TAINT_NO_SCHEDULE);
        }
    }
    if (json_bool_at(node, false, "spec", "unschedulable")) {
        want_taint(s, list, node, "node.kubernetes.io/unschedulable", TAINT_NO_SCHEDULE);
    }
    const char *key = has(node, "Ready", "True")      ? NULL
                      : has(node, "Ready", "Unknown") ? T_UNREACHABLE
                                                      : T_NOT_READY;
    if (key) {
        want_taint(s, list, node, key, TAINT_NO_SCHEDULE);
        if (may_evict) {
            want_taint(s, list, node, key, TAINT_NO_EXECUTE);
        }
    }
    return list;
}

/* When no node at all is ready the fault is more likely ours, or the network's: then nothing is evicted. */
static bool is_disrupted(const struct nodectl *ctl) {
    struct map_iter it = {0};
    struct json *node;
    while (kinformer_next(ctl->c->nodes, &it, &node)) {
        if (has(node, "Ready", "True")) {
            return false;
        }
    }
    return true;
}

static void write_taints(struct sync *s) {
    struct nodectl *ctl = *(struct nodectl **)s->data;
    const struct json *node = kinformer_get(ctl->c->nodes, NULL, s->name);
    bool disrupted = is_disrupted(ctl);
    if (disrupted != ctl->was_disrupted) {
        ctl->was_disrupted = disrupted;
        if (disrupted) {
            LOG_INFO("controllers", "no node is ready, evictions are suspended");
        }
        struct map_iter it = {0};
        struct json *other;
        while (kinformer_next(ctl->c->nodes, &it, &other)) {
            if (!str_eq(kube_name(other), s->name)) {
                kqueue_add(ctl->q, kube_name(other));
            }
        }
    }
    struct json *want = node ? wanted_taints(s, node, !disrupted) : NULL;
    const struct json *have = json_at(node, "spec", "taints");
    if (node && !(json_eq(have, want) || (!json_len(have) && !json_len(want)))) {
        struct json *patch = json_new_obj(s->d);
        json_set_str(s->d, json_set_obj(s->d, patch, "metadata"), "resourceVersion", kube_rv(node));
        struct json *spec = json_set_obj(s->d, patch, "spec");
        json_set(s->d, spec, "taints", json_len(want) ? want : json_new_null(s->d));
        struct kref r = ctl_ref("", "v1", "nodes", node, NULL);
        sync_patch(s, ctl->c->nodes, &r, KPATCH_MERGE, patch, NULL);
    }
    sync_end(s);
}

static void handle(void *ctx, const char *key) {
    struct nodectl *ctl = ctx;
    struct sync *s = sync_begin(ctl->c, ctl->q, key);
    struct nodectl **data = new_zero(struct nodectl *);
    *data = ctl;
    s->data = data;
    const struct json *node = kinformer_get(ctl->c->nodes, NULL, key);
    if (node) {
        bool silent = is_silent(ctl, key), was_ready = has(node, "Ready", "True");
        if (silent && !has(node, "Ready", "Unknown")) {
            mark_unknown(s, ctl, node);
            if (was_ready) {
                kevent(ctl->ev, node, "Normal", "NodeNotReady",
                       "Node %s status is now: NodeNotReady", key);
            }
        }
        if (silent || !was_ready) {
            unready_pods(s, ctl, key);
        }
        s->then = write_taints;
    }
    sync_end(s);
}

/* ---- events ---- */

static const char *heartbeat(const struct json *node) {
    return json_str_or(json_get(kube_condition(node, "Ready"), "lastHeartbeatTime"), "");
}

static void on_node(void *ctx, struct json *old, struct json *cur) {
    struct nodectl *ctl = ctx;
    if (!cur) {
        forget(ctl, kube_name(old));
        return;
    }
    if (!old || (!str_eq(heartbeat(old), heartbeat(cur)) && !has(cur, "Ready", "Unknown"))) {
        beat(ctl, kube_name(cur));
    }
    if (!old || !json_eq(json_get(old, "spec"), json_get(cur, "spec")) ||
        !json_eq(json_at(old, "status", "conditions"), json_at(cur, "status", "conditions"))) {
        kqueue_add(ctl->q, kube_name(cur));
    }
}

static void on_lease(void *ctx, struct json *old, struct json *cur) {
    struct nodectl *ctl = ctx;
    if (cur && old && map_get_str(&ctl->beats, kube_name(cur)) &&
        !json_eq(json_at(old, "spec", "renewTime"), json_at(cur, "spec", "renewTime"))) {
        beat(ctl, kube_name(cur));
    }
}

/* A pod that becomes ready on a node that is not (a late status) is made unready again. */
static void on_pod(void *ctx, struct json *old, struct json *cur) {
    struct nodectl *ctl = ctx;
    if (cur && *pod_node(cur) && pod_is_ready(cur) && !pod_is_ready(old) &&
        is_silent(ctl, pod_node(cur))) {
        kqueue_add(ctl->q, pod_node(cur));
    }
}

void ctl_start_node(struct controllers *c) {
    struct nodectl *ctl = ctl_new(c, struct nodectl);
    struct kinformer_opts o = {.ref = {.group = "coordination.k8s.io",
                                       .version = "v1",
                                       .resource = "leases",
                                       .ns = "kube-node-lease"}};
    ctl->c = c;
    ctl->ev = c->ev;
    ctl->grace_ns = (c->o.node_monitor_grace_s ? c->o.node_monitor_grace_s : GRACE_S) * NS_PER_S;
    ctl->leases = kfactory_get(c->f, &o);
    ctl->q = ctl_queue(c, "node", 8, handle, ctl);
    kinformer_listen(c->nodes, on_node, ctl);
    kinformer_listen(ctl->leases, on_lease, ctl);
    kinformer_listen(c->pods, on_pod, ctl);
    kqueue_need(ctl->q, c->nodes);
    kqueue_need(ctl->q, c->pods);
    kqueue_need(ctl->q, ctl->leases);
}
