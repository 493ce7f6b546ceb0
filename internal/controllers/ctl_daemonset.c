/* DaemonSets: one pod on every node that fits. */
#include "internal/controllers/ctl_int.h"

enum { BURST = 250 };

#define LABEL_HASH "controller-revision-hash"

struct dsctl {
    struct controllers *c;
    struct kevents *ev;
    struct kinformer *sets, *revisions;
    struct ownindex *revisions_ix;
    struct kqueue *q;
};

struct dsrun {
    struct dsctl *ctl;
    char hash[LIM_KKEY], revision[LIM_KKEY];
};

static const struct kref pods_ref = {"", "v1", "pods", NULL, NULL, NULL};

static const struct json *find(struct sync *s) {
    struct dsrun *run = s->data;
    return kinformer_get(run->ctl->sets, s->ns, s->name);
}

/* ---- which node ---- */

static void add_toleration(struct json_doc *d, struct json *list, const char *key,
                           const char *effect) {
    struct json *t = json_new_obj(d);
    json_set_str(d, t, "key", key);
    json_set_str(d, t, "operator", "Exists");
    json_set_str(d, t, "effect", effect);
    JSON_EACH(it, v, list) {
        if (json_eq(v, t)) {
            return;
        }
    }
    json_push(list, t);
}

/* The template's spec with the tolerations that every daemon has. */
static struct json *daemon_spec(struct json_doc *d, const struct json *ds) {
    struct json *spec = json_copy(d, json_at(ds, "spec", "template", "spec"));
    struct json *list = json_need_arr(d, spec, "tolerations");
    add_toleration(d, list, "node.kubernetes.io/not-ready", "NoExecute");
    add_toleration(d, list, "node.kubernetes.io/unreachable", "NoExecute");
    add_toleration(d, list, "node.kubernetes.io/disk-pressure", "NoSchedule");
    add_toleration(d, list, "node.kubernetes.io/memory-pressure", "NoSchedule");
    add_toleration(d, list, "node.kubernetes.io/pid-pressure", "NoSchedule");
    add_toleration(d, list, "node.kubernetes.io/unschedulable", "NoSchedule");
    if (json_bool(json_get(spec, "hostNetwork"), false)) {
        add_toleration(d, list, "node.kubernetes.io/network-unavailable", "NoSchedule");
    }
    return spec;
}

static void judge_node(const struct json *spec, const struct json *node, bool *ret_should_run,
                       bool *ret_may_stay) {
    const char *fixed = json_str_or(json_get(spec, "nodeName"), "");
    bool fits = (!*fixed || str_eq(fixed, kube_name(node))) && node_matches_pod(node, spec);
    *ret_should_run = fits && !pod_untolerated(spec, node, TAINT_NO_SCHEDULE | TAINT_NO_EXECUTE);
    *ret_may_stay = fits && !pod_untolerated(spec, node, TAINT_NO_EXECUTE);
}

/* The node a pod of ours is for: bound, or wanted by its affinity. */
static const char *target_node(const struct json *pod) {
    if (*pod_node(pod)) {
        return pod_node(pod);
    }
    const struct json *term =
        json_idx(json_at(pod, "spec", "affinity", "nodeAffinity",
                         "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"),
                 0);
    return json_str_or(json_idx(json_get(json_idx(json_get(term, "matchFields"), 0), "values"), 0),
                       "");
}

static struct json *daemon_pod(struct sync *s, const struct json *ds, const struct json *spec,
                               const char *node) {
    struct dsrun *run = s->data;
    struct json_doc *d = s->d;
    struct json *pod = ctl_pod(d, json_at(ds, "spec", "template"), ds);
    struct json *pspec = json_set(d, pod, "spec", json_copy(d, spec));
    kube_label_set(d, pod, LABEL_HASH, run->hash);
    kube_label_set(d, pod, "pod-template-generation",
                   json_str_or(json_at(ds, "metadata", "annotations",
                                       "deprecated.daemonset.template.generation"),
                               "1"));
    struct json *na = json_need_obj(d, json_need_obj(d, pspec, "affinity"), "nodeAffinity");
    struct json *req = json_set_obj(d, na, "requiredDuringSchedulingIgnoredDuringExecution");
    struct json *term = json_new_obj(d), *field = json_new_obj(d);
    json_set_str(d, field, "key", "metadata.name");
    json_set_str(d, field, "operator", "In");
    json_push_str(d, json_set_arr(d, field, "values"), node);
    json_push(json_set_arr(d, term, "matchFields"), field);
    json_push(json_set_arr(d, req, "nodeSelectorTerms"), term);
    return pod;
}

/* ---- counting and doing ---- */

static void on_created(struct sync *s, int rc, struct json *pod, const struct err *e) {
    struct dsrun *run = s->data;
    const struct json *ds = find(s);
    if (ds && rc == 0) {
        kevent(run->ctl->ev, ds, "Normal", "SuccessfulCreate", "Created pod: %s", kube_name(pod));
    } else if (ds && rc != -ERR_CANCELLED) {
        kevent(run->ctl->ev, ds, "Warning", "FailedCreate", "Error creating: %s", e->msg);
    }
}

static void on_deleted(struct sync *s, int rc, struct json *pod, const struct err *e) {
    struct dsrun *run = s->data;
    const struct json *ds = find(s);
    (void)e;
    if (ds && rc == 0 && str_eq(json_str(json_get(pod, "kind")), "Pod")) {
        kevent(run->ctl->ev, ds, "Normal", "SuccessfulDelete", "Deleted pod: %s", kube_name(pod));
    }
}

static void delete_pod(struct sync *s, const struct json *pod) {
    struct dsrun *run = s->data;
    struct kref r = ctl_ref("", "v1", "pods", pod, NULL);
    sync_delete(s, run->ctl->c->pods, &r, NULL, kube_uid(pod), on_deleted);
}

/* The pods of the set on one node. */
struct onnode {
    const struct json *current, *old; /* alive; current has today's template */
    size_t n_alive, n_failed;
    bool is_terminating;
};

static struct onnode look(struct sync *s, const struct objvec *mine, const char *node) {
    struct dsrun *run = s->data;
    struct onnode o = {0};
    for (size_t i = 0; i < mine->n; i++) {
        const struct json *p = mine->v[i];
        if (!str_eq(target_node(p), node)) {
            continue;
        }
        if (kube_is_deleting(p)) {
            o.is_terminating = true;
        } else if (str_eq(json_str_at(p, "status", "phase"), "Failed")) {
            o.n_failed++;
        } else {
            bool is_current = str_eq(kube_label(p, LABEL_HASH), run->hash);
            const struct json **slot = is_current ? &o.current : &o.old;
            o.n_alive++;
            if (!*slot || kobj_created_s(p) < kobj_created_s(*slot)) {
                *slot = p;
            }
        }
    }
    return o;
}

/* Failed pods go (their successor comes in the next round), doubles and misplaced ones too. */
static void place(struct sync *s, const struct json *ds, const struct json *spec,
                  const struct objvec *mine) {
    struct dsrun *run = s->data;
    struct dsctl *ctl = run->ctl;
    struct map_iter it = {0};
    struct json *node;
    size_t n = 0;
    while (kinformer_next(ctl->c->nodes, &it, &node)) {
        bool should, stay;
        judge_node(spec, node, &should, &stay);
        struct onnode o = look(s, mine, kube_name(node));
        for (size_t i = 0; i < mine->n; i++) {
            const struct json *p = mine->v[i];
            if (!str_eq(target_node(p), kube_name(node)) || kube_is_deleting(p)) {
                continue;
            }
            bool failed = str_eq(json_str_at(p, "status", "phase"), "Failed");
            bool doubled = p != o.current && (o.current || p != o.old) &&
                           str_eq(kube_label(p, LABEL_HASH), run->hash);
            if (failed) {
                kevent(ctl->ev, ds, "Warning", "FailedDaemonPod",
                       "Found failed daemon pod %s/%s on node %s, will try to kill it", s->ns,
                       kube_name(p), kube_name(node));
            }
            if (failed || doubled || (!stay && !should)) {
                delete_pod(s, p);
            }
        }
        if (should && !o.n_alive && !o.n_failed && !o.is_terminating && n++ < BURST) {
            struct kref r = {"", "v1", "pods", s->ns, NULL, NULL};
            sync_create(s, ctl->c->pods, &r, daemon_pod(s, ds, spec, kube_name(node)), on_created);
        }
    }
    /* Pods for nodes that are gone are left to the pod collector, but those never bound have no one else. */
    for (size_t i = 0; i < mine->n; i++) {
        const struct json *p = mine->v[i];
        if (!*pod_node(p) && !kube_is_deleting(p) &&
            !kinformer_get(ctl->c->nodes, NULL, target_node(p))) {
            delete_pod(s, p);
        }
    }
}

/* Replaces old pods: those that do not serve at once, the others as far as maxUnavailable allows. */
static void roll(struct sync *s, const struct json *ds, const struct json *spec,
                 const struct objvec *mine) {
    struct dsrun *run = s->data;
    const struct json *ru = json_at(ds, "spec", "updateStrategy", "rollingUpdate");
    int64_t min_ready = json_i64_at(ds, 0, "spec", "minReadySeconds"), desired = 0, unavailable = 0;
    int64_t max_unavailable = 1, max_surge = 0;
    uint64_t now = ctl_now_s();
    struct map_iter it = {0};
    struct json *node;
    struct objvec ready_old = {NULL, 0, 0};
    while (kinformer_next(run->ctl->c->nodes, &it, &node)) {
        bool should, stay;
        judge_node(spec, node, &should, &stay);
        if (!should) {
            continue;
        }
        desired++;
        struct onnode o = look(s, mine, kube_name(node));
        bool serves = (o.current && ctl_pod_available(o.current, min_ready, now)) ||
                      (o.old && ctl_pod_available(o.old, min_ready, now));
        unavailable += !serves;
        if (o.old && !o.current && !serves) {
            delete_pod(s, o.old);
        } else if (o.old && !o.current) {
            objvec_add(&ready_old, o.old);
        } else if (o.old && o.current && ctl_pod_available(o.current, min_ready, now)) {
            delete_pod(s, o.old); /* its surge successor is there */
        }
    }
    IGNORE_ERR(kube_intstr_scaled(json_get(ru, "maxUnavailable"), desired, true, &max_unavailable),
               "validated by the API server");
    IGNORE_ERR(kube_intstr_scaled(json_get(ru, "maxSurge"), desired, true, &max_surge),
               "validated by the API server");
    if (max_surge > 0) {
        for (size_t i = 0; i < ready_old.n && max_surge > 0; i++, max_surge--) {
            struct kref r = {"", "v1", "pods", s->ns, NULL, NULL};
            sync_create(s, run->ctl->c->pods, &r,
                        daemon_pod(s, ds, spec, target_node(ready_old.v[i])), on_created);
        }
    } else {
        for (size_t i = 0; i < ready_old.n && unavailable < max_unavailable; i++, unavailable++) {
            delete_pod(s, ready_old.v[i]);
        }
    }
    objvec_fini(&ready_old);
}

static void write_status(struct sync *s) {
    struct dsrun *run = s->data;
    const struct json *ds = find(s);
    struct kube_selector *sel = ds ? ctl_selector(json_at(ds, "spec", "selector")) : NULL;
    if (!sel) {
        sync_end(s);
        return;
    }
    struct objvec mine = ctl_mine(run->ctl->c->pods_ix, ds, sel);
    const struct json *spec = daemon_spec(s->d, ds);
    int64_t desired = 0, current = 0, mis = 0, ready = 0, updated = 0, available = 0;
    int64_t min_ready = json_i64_at(ds, 0, "spec", "minReadySeconds");
    uint64_t now = ctl_now_s();
    struct map_iter it = {0};
    struct json *node;
    while (kinformer_next(run->ctl->c->nodes, &it, &node)) {
        bool should, stay;
        judge_node(spec, node, &should, &stay);
        struct onnode o = look(s, &mine, kube_name(node));
        const struct json *p = o.current ? o.current : o.old;
        desired += should;
        mis += !should && p;
        if (should && p) {
            bool is_available = ctl_pod_available(p, min_ready, now);
            current++;
            ready += pod_is_ready(p);
            updated += o.current != NULL;
            available += is_available;
            if (pod_is_ready(p) && !is_available) {
                kqueue_add_after(run->ctl->q, s->key, (uint64_t)min_ready * NS_PER_S);
            }
        }
    }
    struct json *st = json_new_obj(s->d);
    const struct {
        const char *name;
        int64_t v;
        bool always;
    } fields[] = {{"currentNumberScheduled", current, true},
                  {"numberMisscheduled", mis, true},
                  {"desiredNumberScheduled", desired, true},
                  {"numberReady", ready, true},
                  {"observedGeneration", json_i64_at(ds, 0, "metadata", "generation"), false},
                  {"updatedNumberScheduled", updated, false},
                  {"numberAvailable", available, false},
                  {"numberUnavailable", desired - available, false},
                  {"collisionCount", json_i64_at(ds, 0, "status", "collisionCount"), false}};
    for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
        if (fields[i].v || fields[i].always) {
            json_set_i64(s->d, st, fields[i].name, fields[i].v);
        }
    }
    sync_status(s, run->ctl->sets, "apps", "v1", "daemonsets", ds, st);
    objvec_fini(&mine);
    kube_selector_free(sel);
    sync_end(s);
}

static void handle(void *ctx, const char *key) {
    struct dsctl *ctl = ctx;
    struct sync *s = sync_begin(ctl->c, ctl->q, key);
    struct dsrun *run = s->data = new_zero(struct dsrun);
    run->ctl = ctl;
    const struct json *ds = find(s);
    struct kube_selector *sel = ds ? ctl_selector(json_at(ds, "spec", "selector")) : NULL;
    if (sel && !kube_selector_is_all(sel)) {
        ctl_claim(s, ctl->c->pods_ix, &pods_ref, ds, sel);
        struct objvec mine = ctl_mine(ctl->c->pods_ix, ds, sel);
        ctl_history_sync(s, ctl->revisions_ix, ds, &mine, run->hash, run->revision);
        if (!kube_is_deleting(ds)) {
            const struct json *spec = daemon_spec(s->d, ds);
            unsigned before = s->pending;
            place(s, ds, spec, &mine);
            if (s->pending == before &&
                !str_eq(json_str_at(ds, "spec", "updateStrategy", "type"), "OnDelete")) {
                roll(s, ds, spec, &mine);
            }
        }
        objvec_fini(&mine);
        s->then = write_status;
    }
    kube_selector_free(sel);
    sync_end(s);
}

/* ---- events ---- */

static void on_set(void *ctx, struct json *old, struct json *cur) {
    struct dsctl *ctl = ctx;
    kqueue_add_obj(ctl->q, cur ? cur : old);
}

static void on_pod(void *ctx, struct json *old, struct json *cur) {
    struct dsctl *ctl = ctx;
    ctl_enqueue_owners(ctl->q, ctl->sets, "DaemonSet", old, cur);
}

static void on_node(void *ctx, struct json *old, struct json *cur) {
    struct dsctl *ctl = ctx;
    if (old && cur && json_eq(json_get(old, "spec"), json_get(cur, "spec")) &&
        json_eq(kube_labels(old), kube_labels(cur))) {
        return;
    }
    struct map_iter it = {0};
    struct json *ds;
    while (kinformer_next(ctl->sets, &it, &ds)) {
        kqueue_add_obj(ctl->q, ds);
    }
}

void ctl_start_daemonset(struct controllers *c) {
    struct dsctl *ctl = ctl_new(c, struct dsctl);
    ctl->c = c;
    ctl->ev = c->ev;
    ctl->sets = kfactory_all(c->f, "apps", "v1", "daemonsets");
    ctl->revisions = ctl_revisions(c);
    ctl->revisions_ix = ctl_index(c, ctl->revisions);
    ctl->q = ctl_queue(c, "daemonset", 4, handle, ctl);
    kinformer_listen(ctl->sets, on_set, ctl);
    kinformer_listen(c->pods, on_pod, ctl);
    kinformer_listen(c->nodes, on_node, ctl);
    kqueue_need(ctl->q, ctl->sets);
    kqueue_need(ctl->q, ctl->revisions);
    kqueue_need(ctl->q, c->pods);
    kqueue_need(ctl->q, c->nodes);
}
