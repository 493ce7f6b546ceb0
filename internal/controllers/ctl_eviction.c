/* Pods leave nodes with NoExecute taints that they do not tolerate, or not for longer. */
#include "internal/controllers/ctl_int.h"

struct evictctl {
    struct controllers *c;
    struct kevents *ev;
    struct kqueue *q;
};

/* Wall second at which the pod has to go; 0: at once; UINT64_MAX: never. */
static uint64_t deadline(const struct json *pod, const struct json *node) {
    uint64_t due = UINT64_MAX;
    JSON_EACH(it, t, json_at(node, "spec", "taints")) {
        if (taint_effect(t) != TAINT_NO_EXECUTE) {
            continue;
        }
        const struct json *tol = taint_tolerated_by(t, json_at(pod, "spec", "tolerations"));
        if (!tol) {
            return 0;
        }
        const struct json *secs = json_get(tol, "tolerationSeconds");
        if (!json_is_int(secs)) {
            continue;
        }
        uint64_t added = 0;
        if (!json_is_str(json_get(t, "timeAdded")) ||
            time_parse(json_span(json_get(t, "timeAdded")), &added) < 0) {
            added = clock_wall_ns();
        }
        int64_t n = json_i64(secs, 0);
        uint64_t at = added / NS_PER_S + (uint64_t)(n > 0 ? n : 0);
        due = at < due ? at : due;
    }
    return due;
}

static void evict(struct sync *s, struct evictctl *ctl, const struct json *pod) {
    char now[TIME_STR];
    struct json *patch = json_new_obj(s->d), *c = json_new_obj(s->d);
    json_set_str(s->d, c, "type", "DisruptionTarget");
    json_set_str(s->d, c, "status", "True");
    json_set_str(s->d, c, "reason", "DeletionByTaintManager");
    json_set_str(s->d, c, "message", "Taint manager: deleting due to NoExecute taint");
    json_set_str(s->d, c, "lastTransitionTime", ctl_now(now));
    json_push(json_set_arr(s->d, json_set_obj(s->d, patch, "status"), "conditions"), c);
    struct kref r = ctl_ref("", "v1", "pods", pod, "status");
    sync_patch(s, NULL, &r, KPATCH_STRATEGIC, patch, NULL);
    kevent(ctl->ev, pod, "Normal", "TaintManagerEviction", "Marking for deletion Pod %s", s->key);
    r.subresource = NULL;
    sync_delete(s, ctl->c->pods, &r, NULL, kube_uid(pod), NULL);
}

static void handle(void *ctx, const char *key) {
    struct evictctl *ctl = ctx;
    struct sync *s = sync_begin(ctl->c, ctl->q, key);
    const struct json *pod = kinformer_get(ctl->c->pods, s->ns, s->name);
    const struct json *node =
        pod && *pod_node(pod) ? kinformer_get(ctl->c->nodes, NULL, pod_node(pod)) : NULL;
    if (node && !kube_is_deleting(pod)) {
        uint64_t due = deadline(pod, node), now = ctl_now_s();
        if (due <= now) {
            evict(s, ctl, pod);
        } else if (due != UINT64_MAX) {
            kqueue_add_after(ctl->q, key, (due - now) * NS_PER_S);
        }
    }
    sync_end(s);
}

static bool has_no_execute(const struct json *node) {
    JSON_EACH(it, t, json_at(node, "spec", "taints")) {
        if (taint_effect(t) == TAINT_NO_EXECUTE) {
            return true;
        }
    }
    return false;
}

static void on_node(void *ctx, struct json *old, struct json *cur) {
    struct evictctl *ctl = ctx;
    if (!cur || json_eq(json_at(old, "spec", "taints"), json_at(cur, "spec", "taints")) ||
        !has_no_execute(cur)) {
        return;
    }
    struct map_iter it = {0};
    struct json *pod;
    while (kinformer_next(ctl->c->pods, &it, &pod)) {
        if (str_eq(pod_node(pod), kube_name(cur))) {
            kqueue_add_obj(ctl->q, pod);
        }
    }
}

static void on_pod(void *ctx, struct json *old, struct json *cur) {
    struct evictctl *ctl = ctx;
    if (!cur || !*pod_node(cur) ||
        (old && str_eq(pod_node(old), pod_node(cur)) &&
         json_eq(json_at(old, "spec", "tolerations"), json_at(cur, "spec", "tolerations")))) {
        return;
    }
    if (has_no_execute(kinformer_get(ctl->c->nodes, NULL, pod_node(cur)))) {
        kqueue_add_obj(ctl->q, cur);
    }
}

void ctl_start_eviction(struct controllers *c) {
    struct evictctl *ctl = ctl_new(c, struct evictctl);
    ctl->c = c;
    ctl->ev = c->ev;
    ctl->q = ctl_queue(c, "eviction", 8, handle, ctl);
    kinformer_listen(c->nodes, on_node, ctl);
    kinformer_listen(c->pods, on_pod, ctl);
    kqueue_need(ctl->q, c->nodes);
    kqueue_need(ctl->q, c->pods);
}
