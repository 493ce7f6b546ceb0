/* PodDisruptionBudgets: how many pods may be evicted just now. */
#include "internal/controllers/ctl_int.h"

enum { STALE_S = 120 }; /* a pod that was to be evicted but lives on counts again after this */

struct pdbctl {
    struct controllers *c;
    struct kevents *ev;
    struct kinformer *budgets, *sets, *deploys, *statefuls;
    struct kqueue *q;
};

/* Size that the pods' controllers are meant to have; -1: a pod has none that is known, so only numbers can be kept. */
static int64_t wanted_by(struct pdbctl *ctl, const struct json *pod, char key[LIM_KKEY]) {
    const struct json *o = kube_controller_of(pod);
    const char *kind = json_str_or(json_get(o, "kind"), ""),
               *name = json_str_or(json_get(o, "name"), "");
    const struct json *obj = NULL;
    if (str_eq(kind, "ReplicaSet")) {
        obj = kinformer_get(ctl->sets, kube_namespace(pod), name);
        const struct json *up = obj ? kube_controller_of(obj) : NULL;
        const struct json *d = up ? kinformer_get(ctl->deploys, kube_namespace(pod),
                                                  json_str_or(json_get(up, "name"), ""))
                                  : NULL;
        obj = d ? d : obj;
    } else if (str_eq(kind, "StatefulSet")) {
        obj = kinformer_get(ctl->statefuls, kube_namespace(pod), name);
    }
    IGNORE_ERR(str_put(key, LIM_KKEY, "%s", obj ? kube_uid(obj) : ""), "uids are short");
    return obj ? json_i64_at(obj, 1, "spec", "replicas") : -1;
}

struct tally {
    int64_t expected, desired, healthy, count;
    bool is_unmanaged;
};

static void add_pods(struct pdbctl *ctl, const struct json *pdb, const struct kube_selector *sel,
                     const struct json *disrupted, struct tally *t) {
    struct map seen = MAP_INIT;
    struct map_iter it = {0};
    struct json *pod;
    int64_t scales = 0;
    while (kinformer_next(ctl->c->pods, &it, &pod)) {
        if (!str_eq(kube_namespace(pod), kube_namespace(pdb)) ||
            !kube_selector_match(sel, kube_labels(pod)) || pod_is_terminal(pod)) {
            continue;
        }
        char owner[LIM_KKEY];
        int64_t n = wanted_by(ctl, pod, owner);
        t->count++;
        t->is_unmanaged |= n < 0;
        if (n >= 0 && !map_put_str(&seen, owner, ctl)) {
            scales += n;
        }
        t->healthy +=
            pod_is_ready(pod) && !kube_is_deleting(pod) && !json_get(disrupted, kube_name(pod));
    }
    map_fini(&seen);
    t->expected = scales;
}

/* -ERR_INVALID when a percentage is asked of pods without a controller of known size. */
static int want(const struct json *pdb, struct tally *t) {
    const struct json *min = json_at(pdb, "spec", "minAvailable"),
                      *max = json_at(pdb, "spec", "maxUnavailable");
    int64_t v = 0;
    if (!json_is_null(max)) {
        if (t->is_unmanaged) {
            return -ERR_INVALID;
        }
        int rc = kube_intstr_scaled(max, t->expected, true, &v);
        t->desired = t->expected > v ? t->expected - v : 0;
        return rc;
    }
    if (json_is_int(min)) {
        t->expected = t->count;
        t->desired = json_i64(min, 0);
        return 0;
    }
    if (json_is_str(min)) {
        if (t->is_unmanaged) {
            return -ERR_INVALID;
        }
        return kube_intstr_scaled(min, t->expected, true, &t->desired);
    }
    t->expected = t->count;
    t->desired = 1;
    return 0;
}

/* Pods that the eviction API promised away and that are still there. */
static struct json *still_disrupted(struct sync *s, struct pdbctl *ctl, const struct json *pdb,
                                    uint64_t *ret_due_s) {
    struct json *out = json_new_obj(s->d);
    uint64_t now = ctl_now_s();
    JSON_EACH_KV(it, name, at, json_at(pdb, "status", "disruptedPods")) {
        const struct json *pod = kinformer_get(ctl->c->pods, s->ns, name);
        uint64_t ns;
        if (!pod || kube_is_deleting(pod) || time_parse(json_span(at), &ns) < 0) {
            continue;
        }
        uint64_t due = ns / NS_PER_S + STALE_S;
        if (due > now) {
            json_set(s->d, out, name, json_copy(s->d, at));
            *ret_due_s = !*ret_due_s || due - now < *ret_due_s ? due - now : *ret_due_s;
        }
    }
    return out;
}

static void handle(void *ctx, const char *key) {
    struct pdbctl *ctl = ctx;
    struct sync *s = sync_begin(ctl->c, ctl->q, key);
    const struct json *pdb = kinformer_get(ctl->budgets, s->ns, s->name);
    struct kube_selector *sel =
        pdb && !kube_is_deleting(pdb) ? ctl_selector(json_at(pdb, "spec", "selector")) : NULL;
    if (sel) {
        char now[TIME_STR];
        uint64_t due_s = 0;
        struct tally t = {0};
        struct json *disrupted = still_disrupted(s, ctl, pdb, &due_s);
        add_pods(ctl, pdb, sel, disrupted, &t);
        bool ok = want(pdb, &t) == 0;
        int64_t allowed = ok && t.expected > 0 && t.healthy > t.desired ? t.healthy - t.desired : 0;
        struct json *holder = json_copy(s->d, pdb), *st = json_need_obj(s->d, holder, "status");
        json_set_i64(s->d, st, "currentHealthy", t.healthy);
        json_set_i64(s->d, st, "desiredHealthy", t.desired);
        json_set_i64(s->d, st, "expectedPods", t.expected);
        json_set_i64(s->d, st, "disruptionsAllowed", allowed);
        json_set_i64(s->d, st, "observedGeneration", json_i64_at(pdb, 0, "metadata", "generation"));
        json_del(st, "disruptedPods");
        if (json_len(disrupted)) {
            json_set(s->d, st, "disruptedPods", disrupted);
        }
        kube_condition_set(s->d, holder, "DisruptionAllowed", allowed ? "True" : "False",
                           !ok       ? "SyncFailed"
                           : allowed ? "SufficientPods"
                                     : "InsufficientPods",
                           ok ? "" : "a pod has no controller whose size is known", ctl_now(now));
        if (!ok) {
            kevent(ctl->ev, pdb, "Warning", "CalculateExpectedPodCountFailed",
                   "Failed to calculate the number of expected pods: a pod has no controller whose "
                   "size is known");
        }
        sync_status(s, ctl->budgets, "policy", "v1", "poddisruptionbudgets", pdb,
                    json_copy(s->d, json_get(holder, "status")));
        if (due_s) {
            kqueue_add_after(ctl->q, key, due_s * NS_PER_S);
        }
    }
    kube_selector_free(sel);
    sync_end(s);
}

static void on_budget(void *ctx, struct json *old, struct json *cur) {
    struct pdbctl *ctl = ctx;
    (void)old;
    if (cur) {
        kqueue_add_obj(ctl->q, cur);
    }
}

static void on_pod(void *ctx, struct json *old, struct json *cur) {
    struct pdbctl *ctl = ctx;
    if (kinformer_count(ctl->budgets)) {
        ctl_enqueue_matching(ctl->q, ctl->budgets, cur ? cur : old);
    }
}

/* A controller of some pods was resized. */
static void on_scale(void *ctx, struct json *old, struct json *cur) {
    struct pdbctl *ctl = ctx;
    struct map_iter it = {0};
    struct json *pdb;
    if (old && cur && json_eq(json_at(old, "spec", "replicas"), json_at(cur, "spec", "replicas"))) {
        return;
    }
    while (kinformer_next(ctl->budgets, &it, &pdb)) {
        if (str_eq(kube_namespace(pdb), kube_namespace(cur ? cur : old))) {
            kqueue_add_obj(ctl->q, pdb);
        }
    }
}

void ctl_start_disruption(struct controllers *c) {
    struct pdbctl *ctl = ctl_new(c, struct pdbctl);
    ctl->c = c;
    ctl->ev = c->ev;
    ctl->budgets = kfactory_all(c->f, "policy", "v1", "poddisruptionbudgets");
    ctl->sets = kfactory_all(c->f, "apps", "v1", "replicasets");
    ctl->deploys = kfactory_all(c->f, "apps", "v1", "deployments");
    ctl->statefuls = kfactory_all(c->f, "apps", "v1", "statefulsets");
    ctl->q = ctl_queue(c, "disruption", 2, handle, ctl);
    kinformer_listen(ctl->budgets, on_budget, ctl);
    kinformer_listen(c->pods, on_pod, ctl);
    kinformer_listen(ctl->deploys, on_scale, ctl);
    kinformer_listen(ctl->sets, on_scale, ctl);
    kinformer_listen(ctl->statefuls, on_scale, ctl);
    kqueue_need(ctl->q, ctl->budgets);
    kqueue_need(ctl->q, ctl->sets);
    kqueue_need(ctl->q, ctl->deploys);
    kqueue_need(ctl->q, ctl->statefuls);
    kqueue_need(ctl->q, c->pods);
}
