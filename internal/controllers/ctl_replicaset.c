/* ReplicaSets: as many active pods of the template as asked for. */
#include "internal/controllers/ctl_int.h"

enum { BATCH = 100 }; /* pods created or deleted in one round; the rest follows in the next */

struct rsctl {
    struct controllers *c;
    struct kevents *ev;
    struct kinformer *sets;
    struct kqueue *q;
};

static const struct kref pods_ref = {"", "v1", "pods", NULL, NULL, NULL};

struct rsrun {
    struct rsctl *ctl;
    char fail_reason[32], fail_message[256];
};

static const struct json *find_set(struct sync *s) {
    struct rsrun *run = s->data;
    return kinformer_get(run->ctl->sets, s->ns, s->name);
}

/* Conditions of the old status without ReplicaFailure, or with it as it is now. */
static struct json *conditions(struct sync *s, const struct json *rs, bool failing) {
    struct rsrun *run = s->data;
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *copy = json_copy(d, rs);
    char now[TIME_STR];
    if (failing && !kube_condition(copy, "ReplicaFailure")) {
        kube_condition_set(d, copy, "ReplicaFailure", "True", run->fail_reason, run->fail_message,
                           ctl_now(now));
    }
    struct json *out = json_new_arr(s->d);
    JSON_EACH(it, c, json_at(copy, "status", "conditions")) {
        if (failing || !str_eq(json_str(json_get(c, "type")), "ReplicaFailure")) {
            json_push(out, json_copy(s->d, c));
        }
    }
    return out;
}

static void write_status(struct sync *s) {
    struct rsrun *run = s->data;
    struct rsctl *ctl = run->ctl;
    const struct json *rs = find_set(s);
    if (!rs || !str_eq(kube_name(rs), s->name)) {
        sync_end(s);
        return;
    }
    struct kube_selector *sel = ctl_selector(json_at(rs, "spec", "selector"));
    struct objvec mine = ctl_mine(ctl->c->pods_ix, rs, sel);
    const struct json *tl = json_at(rs, "spec", "template", "metadata", "labels");
    int64_t min_ready = json_i64_at(rs, 0, "spec", "minReadySeconds");
    int64_t n = 0, labeled = 0, ready = 0, available = 0, terminating = 0;
    uint64_t now = ctl_now_s(), soonest = 0;
    for (size_t i = 0; i < mine.n; i++) {
        const struct json *p = mine.v[i];
        terminating += kube_is_deleting(p) && !pod_is_terminal(p);
        if (!pod_is_active(p)) {
            continue;
        }
        n++;
        bool all = true;
        JSON_EACH_KV(it, k, v, tl) {
            all &= str_eq(kube_label(p, k), json_str(v));
        }
        labeled += all;
        ready += pod_is_ready(p);
        bool is_available = ctl_pod_available(p, min_ready, now);
        available += is_available;
        if (pod_is_ready(p) && !is_available) {
            uint64_t due = pod_ready_since_s(p) + (uint64_t)min_ready;
            soonest = !soonest || due < soonest ? due : soonest;
        }
    }
    struct json *st = json_new_obj(s->d), *conds = conditions(s, rs, *run->fail_reason);
    const struct {
        const char *name;
        int64_t v;
        bool always;
    } fields[] = {{"replicas", n, true},
                  {"fullyLabeledReplicas", labeled, false},
                  {"readyReplicas", ready, false},
                  {"availableReplicas", available, false},
                  {"terminatingReplicas", terminating,
                   json_get(json_get(rs, "status"), "terminatingReplicas") != NULL},
                  {"observedGeneration", json_i64_at(rs, 0, "metadata", "generation"), false}};
    for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
        if (fields[i].v || fields[i].always) {
            json_set_i64(s->d, st, fields[i].name, fields[i].v);
        }
    }
    if (json_len(conds)) {
        json_set(s->d, st, "conditions", conds);
    }
    sync_status(s, ctl->sets, "apps", "v1", "replicasets", rs, st);
    if (soonest) {
        kqueue_add_after(ctl->q, s->key, (soonest > now ? soonest - now : 1) * NS_PER_S);
    }
    objvec_fini(&mine);
    kube_selector_free(sel);
    /* What a failed creation said is in the status now; the key still has to come back. */
    s->failed |= *run->fail_reason != 0;
    sync_end(s);
}

static void on_created(struct sync *s, int rc, struct json *pod, const struct err *e) {
    struct rsrun *run = s->data;
    const struct json *rs = find_set(s);
    if (rs && rc == 0) {
        kevent(run->ctl->ev, rs, "Normal", "SuccessfulCreate", "Created pod: %s", kube_name(pod));
    } else if (rs && rc != -ERR_CANCELLED) {
        kevent(run->ctl->ev, rs, "Warning", "FailedCreate", "Error creating: %s", e->msg);
        IGNORE_ERR(str_put(run->fail_reason, sizeof(run->fail_reason), "FailedCreate"), "fits");
        IGNORE_ERR(str_put(run->fail_message, sizeof(run->fail_message), "%s", e->msg), "fits");
        s->failed = false; /* the status comes first, then the retry */
    }
}

static void on_deleted(struct sync *s, int rc, struct json *obj, const struct err *e) {
    struct rsrun *run = s->data;
    const struct json *rs = find_set(s);
    (void)obj, (void)e;
    if (rs && rc == 0 && obj && str_eq(json_str(json_get(obj, "kind")), "Pod")) {
        kevent(run->ctl->ev, rs, "Normal", "SuccessfulDelete", "Deleted pod: %s", kube_name(obj));
    }
}

static void manage(struct sync *s, const struct json *rs, const struct kube_selector *sel) {
    struct rsrun *run = s->data;
    struct rsctl *ctl = run->ctl;
    struct objvec all = ctl_mine(ctl->c->pods_ix, rs, sel), active = {NULL, 0, 0};
    for (size_t i = 0; i < all.n; i++) {
        if (pod_is_active(all.v[i])) {
            objvec_add(&active, all.v[i]);
        }
    }
    int64_t diff = (int64_t)active.n - json_i64_at(rs, 1, "spec", "replicas");
    /* After failures (quota, say) one pod tests the water before the rest follows. */
    int64_t batch = kqueue_failures(ctl->q, s->key) ? 1 : BATCH;
    struct kref pods = {"", "v1", "pods", s->ns, NULL, NULL};
    for (int64_t i = 0; i < -diff && i < batch; i++) {
        sync_create(s, ctl->c->pods, &pods, ctl_pod(s->d, json_at(rs, "spec", "template"), rs),
                    on_created);
    }
    if (diff > 0) {
        ctl_sort_victims(ctl->c->pods_ix, &active);
    }
    for (int64_t i = 0; i < diff && i < BATCH; i++) {
        struct kref r = ctl_ref("", "v1", "pods", active.v[i], NULL);
        sync_delete(s, ctl->c->pods, &r, NULL, kube_uid(active.v[i]), on_deleted);
    }
    objvec_fini(&all);
    objvec_fini(&active);
}

static void handle(void *ctx, const char *key) {
    struct rsctl *ctl = ctx;
    struct sync *s = sync_begin(ctl->c, ctl->q, key);
    struct rsrun *run = s->data = new_zero(struct rsrun);
    run->ctl = ctl;
    const struct json *rs = find_set(s);
    struct kube_selector *sel = rs ? ctl_selector(json_at(rs, "spec", "selector")) : NULL;
    if (sel) {
        ctl_claim(s, ctl->c->pods_ix, &pods_ref, rs, sel);
        if (!kube_is_deleting(rs) && !s->pending) {
            manage(s, rs, sel);
        }
        /* Adopted pods come back through the cache and queue the key again. */
        s->then = write_status;
    }
    kube_selector_free(sel);
    sync_end(s);
}

static void on_set(void *ctx, struct json *old, struct json *cur) {
    struct rsctl *ctl = ctx;
    kqueue_add_obj(ctl->q, cur ? cur : old);
}

static void on_pod(void *ctx, struct json *old, struct json *cur) {
    struct rsctl *ctl = ctx;
    ctl_enqueue_owners(ctl->q, ctl->sets, "ReplicaSet", old, cur);
}

void ctl_start_replicaset(struct controllers *c) {
    struct rsctl *ctl = ctl_new(c, struct rsctl);
    ctl->c = c;
    ctl->ev = c->ev;
    ctl->sets = kfactory_all(c->f, "apps", "v1", "replicasets");
    ctl->q = ctl_queue(c, "replicaset", 10, handle, ctl);
    kinformer_listen(ctl->sets, on_set, ctl);
    kinformer_listen(c->pods, on_pod, ctl);
    kqueue_need(ctl->q, ctl->sets);
    kqueue_need(ctl->q, c->pods);
}
