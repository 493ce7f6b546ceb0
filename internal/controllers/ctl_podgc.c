/* Pods nobody else will end: of nodes that are gone, deleted before they were bound, and finished ones beyond a number. */
#include "internal/controllers/ctl_int.h"

enum { QUARANTINE_S = 40, THRESHOLD = 12500 };

struct podgc {
    struct controllers *c;
    struct kqueue *q;
    size_t n_terminal;
};

static bool is_orphaned(struct podgc *ctl, const struct json *pod) {
    return *pod_node(pod) && !kinformer_get(ctl->c->nodes, NULL, pod_node(pod));
}

static void force_delete(struct sync *s, struct podgc *ctl, const struct json *pod) {
    struct kref r = ctl_ref("", "v1", "pods", pod, NULL);
    sync_delete(s, ctl->c->pods, &r, "now", kube_uid(pod), NULL);
}

/* The node is asked for once more: our cache may lag behind a node that joins. */
static void on_node_answer(struct sync *s, int rc, struct json *obj, const struct err *e) {
    struct podgc *ctl = *(struct podgc **)s->data;
    const struct json *pod = kinformer_get(ctl->c->pods, s->ns, s->name);
    (void)obj, (void)e;
    if (rc != -ERR_NOT_FOUND || !pod || !is_orphaned(ctl, pod)) {
        return;
    }
    if (!pod_is_terminal(pod)) {
        char now[TIME_STR];
        struct json *patch = json_new_obj(s->d), *c = json_new_obj(s->d);
        struct json *st = json_set_obj(s->d, patch, "status");
        json_set_str(s->d, st, "phase", "Failed");
        json_set_str(s->d, c, "type", "DisruptionTarget");
        json_set_str(s->d, c, "status", "True");
        json_set_str(s->d, c, "reason", "DeletionByPodGC");
        json_set_str(s->d, c, "message", "PodGC: node no longer exists");
        json_set_str(s->d, c, "lastTransitionTime", ctl_now(now));
        json_push(json_set_arr(s->d, st, "conditions"), c);
        struct kref r = ctl_ref("", "v1", "pods", pod, "status");
        sync_patch(s, NULL, &r, KPATCH_STRATEGIC, patch, NULL);
    }
    force_delete(s, ctl, pod);
}

static uint64_t threshold(const struct podgc *ctl) {
    return ctl->c->o.terminated_pod_threshold ? ctl->c->o.terminated_pod_threshold : THRESHOLD;
}

static const struct json *oldest_terminal(struct podgc *ctl) {
    const struct json *best = NULL;
    struct map_iter it = {0};
    struct json *pod;
    while (kinformer_next(ctl->c->pods, &it, &pod)) {
        if (pod_is_terminal(pod) && !kube_is_deleting(pod) &&
            (!best || kobj_created_s(pod) < kobj_created_s(best))) {
            best = pod;
        }
    }
    return best;
}

static void handle(void *ctx, const char *key) {
    struct podgc *ctl = ctx;
    struct sync *s = sync_begin(ctl->c, ctl->q, key);
    struct podgc **data = new_zero(struct podgc *);
    *data = ctl;
    s->data = data;
    const struct json *pod = kinformer_get(ctl->c->pods, s->ns, s->name);
    if (pod && kube_is_deleting(pod) && !*pod_node(pod)) {
        force_delete(s, ctl, pod);
    } else if (pod && is_orphaned(ctl, pod)) {
        struct kref r = {"", "v1", "nodes", NULL, pod_node(pod), NULL};
        sync_get(s, &r, NULL, on_node_answer);
    } else if (pod && pod_is_terminal(pod) && ctl->n_terminal > threshold(ctl)) {
        const struct json *old = oldest_terminal(ctl);
        if (old) {
            force_delete(s, ctl, old);
        }
    }
    sync_end(s);
}

static void on_pod(void *ctx, struct json *old, struct json *cur) {
    struct podgc *ctl = ctx;
    ctl->n_terminal += (size_t)(cur && pod_is_terminal(cur));
    ctl->n_terminal -= (size_t)(old && pod_is_terminal(old));
    if (!cur) {
        return;
    }
    if (kube_is_deleting(cur) && !*pod_node(cur)) {
        kqueue_add_obj(ctl->q, cur);
    } else if (pod_is_terminal(cur) && ctl->n_terminal > threshold(ctl)) {
        kqueue_add_obj(ctl->q, cur);
    } else if ((!old || !*pod_node(old)) && is_orphaned(ctl, cur)) {
        char key[LIM_KKEY];
        kkey_of(cur, key);
        kqueue_add_after(ctl->q, key, QUARANTINE_S * NS_PER_S);
    }
}

static void on_node(void *ctx, struct json *old, struct json *cur) {
    struct podgc *ctl = ctx;
    if (cur) {
        return;
    }
    struct map_iter it = {0};
    struct json *pod;
    while (kinformer_next(ctl->c->pods, &it, &pod)) {
        if (str_eq(pod_node(pod), kube_name(old))) {
            char key[LIM_KKEY];
            kkey_of(pod, key);
            kqueue_add_after(ctl->q, key, QUARANTINE_S * NS_PER_S);
        }
    }
}

void ctl_start_podgc(struct controllers *c) {
    struct podgc *ctl = ctl_new(c, struct podgc);
    ctl->c = c;
    ctl->q = ctl_queue(c, "podgc", 8, handle, ctl);
    kinformer_listen(c->pods, on_pod, ctl);
    kinformer_listen(c->nodes, on_node, ctl);
    kqueue_need(ctl->q, c->pods);
    kqueue_need(ctl->q, c->nodes);
}
