/* StatefulSets: pods with names and volumes of their own, started, updated and ended in order. */
#include "internal/controllers/ctl_int.h"

#define LABEL_HASH "controller-revision-hash"
#define LABEL_POD "statefulset.kubernetes.io/pod-name"
#define LABEL_INDEX "apps.kubernetes.io/pod-index"

struct stsctl {
    struct controllers *c;
    struct kevents *ev;
    struct kinformer *sets, *revisions, *claims;
    struct ownindex *revisions_ix;
    struct kqueue *q;
};

struct stsrun {
    struct stsctl *ctl;
    char hash[LIM_KKEY], revision[LIM_KKEY]; /* of today's template */
};

static const struct kref pods_ref = {"", "v1", "pods", NULL, NULL, NULL};

static const struct json *find(struct sync *s) {
    struct stsrun *run = s->data;
    return kinformer_get(run->ctl->sets, s->ns, s->name);
}

/* "name-3" → 3; -1 for other names. */
static int64_t ordinal_of(const struct json *set, const struct json *pod) {
    struct span name = span_str(kube_name(pod)), base = span_str(kube_name(set));
    uint64_t v;
    if (name.n < base.n + 2 || memcmp(name.p, base.p, base.n) != 0 || name.p[base.n] != '-' ||
        span_to_u64(span_of(name.p + base.n + 1, name.n - base.n - 1), 0, INT32_MAX, &v) < 0) {
        return -1;
    }
    return (int64_t)v;
}

static const struct json *pod_at(struct sync *s, int64_t ordinal) {
    struct stsrun *run = s->data;
    char name[LIM_KKEY];
    IGNORE_ERR(str_put(name, sizeof(name), "%s-%lld", s->name, (long long)ordinal), "names fit");
    return kinformer_get(run->ctl->c->pods, s->ns, name);
}

static bool is_available(const struct json *set, const struct json *pod) {
    return pod && !kube_is_deleting(pod) &&
           ctl_pod_available(pod, json_i64_at(set, 0, "spec", "minReadySeconds"), ctl_now_s());
}

/* ---- claims and pods ---- */

static void claim_name(const struct json *template, const char *set, int64_t ordinal,
                       char dst[LIM_KKEY]) {
    IGNORE_ERR(str_put(dst, LIM_KKEY, "%s-%s-%lld", kube_name(template), set, (long long)ordinal),
               "names fit");
}

static void make_claims(struct sync *s, const struct json *set, int64_t ordinal) {
    struct stsrun *run = s->data;
    JSON_EACH(it, t, json_at(set, "spec", "volumeClaimTemplates")) {
        char name[LIM_KKEY];
        claim_name(t, s->name, ordinal, name);
        if (kinformer_get(run->ctl->claims, s->ns, name)) {
            continue;
        }
        struct json *c = kube_object_new(s->d, "v1", "PersistentVolumeClaim", s->ns, name);
        static const char *const copied[] = {"labels", "annotations"};
        for (size_t i = 0; i < ARRAY_LEN(copied); i++) {
            const struct json *v = json_at(t, "metadata", copied[i]);
            if (json_len(v)) {
                json_set(s->d, json_get(c, "metadata"), copied[i], json_copy(s->d, v));
            }
        }
        JSON_EACH_KV(it2, k, v, json_at(set, "spec", "selector", "matchLabels")) {
            kube_label_set(s->d, c, k, json_str_or(v, ""));
        }
        json_set(s->d, c, "spec", json_copy(s->d, json_get(t, "spec")));
        struct kref r = {"", "v1", "persistentvolumeclaims", s->ns, NULL, NULL};
        sync_create(s, run->ctl->claims, &r, c, NULL);
    }
}

static void mount_claims(struct sync *s, const struct json *set, int64_t ordinal,
                         struct json *spec) {
    struct json *volumes = json_need_arr(s->d, spec, "volumes");
    JSON_EACH(it, t, json_at(set, "spec", "volumeClaimTemplates")) {
        char name[LIM_KKEY];
        size_t i = 0;
        claim_name(t, s->name, ordinal, name);
        JSON_EACH(it2, v, volumes) { /* the claim takes the place of a volume of that name */
            if (str_eq(json_str(json_get(v, "name")), kube_name(t))) {
                json_remove_idx(volumes, i);
                break;
            }
            i++;
        }
        struct json *v = json_new_obj(s->d);
        json_set_str(s->d, v, "name", kube_name(t));
        json_set_str(s->d, json_set_obj(s->d, v, "persistentVolumeClaim"), "claimName", name);
        json_push(volumes, v);
    }
    if (!json_len(volumes)) {
        json_del(spec, "volumes");
    }
}

static void on_created(struct sync *s, int rc, struct json *pod, const struct err *e) {
    struct stsrun *run = s->data;
    const struct json *set = find(s);
    if (set && rc == 0) {
        kevent(run->ctl->ev, set, "Normal", "SuccessfulCreate",
               "create Pod %s in StatefulSet %s successful", kube_name(pod), s->name);
    } else if (set && rc != -ERR_CANCELLED) {
        kevent(run->ctl->ev, set, "Warning", "FailedCreate",
               "create Pod in StatefulSet %s failed error: %s", s->name, e->msg);
    }
}

static void create_pod(struct sync *s, const struct json *set, const struct json *template,
                       const char *hash, int64_t ordinal) {
    struct stsrun *run = s->data;
    struct json_doc *d = s->d;
    struct json *pod = ctl_pod(d, template, set), *meta = json_get(pod, "metadata"),
                *spec = json_get(pod, "spec");
    char index[24];
    IGNORE_ERR(str_put(index, sizeof(index), "%lld", (long long)ordinal), "fits");
    json_del(meta, "generateName");
    struct json *name = json_set(d, meta, "name", json_new_fmt(d, "%s-%s", s->name, index));
    kube_label_set(d, pod, LABEL_POD, json_str(name));
    kube_label_set(d, pod, LABEL_INDEX, index);
    kube_label_set(d, pod, LABEL_HASH, hash);
    json_set_str(d, spec, "hostname", json_str(name));
    json_set_str(d, spec, "subdomain", json_str_at(set, "spec", "serviceName"));
    mount_claims(s, set, ordinal, spec);
    make_claims(s, set, ordinal);
    struct kref r = {"", "v1", "pods", s->ns, NULL, NULL};
    sync_create(s, run->ctl->c->pods, &r, pod, on_created);
}

static void delete_pod(struct sync *s, const struct json *set, const struct json *pod) {
    struct stsrun *run = s->data;
    struct kref r = ctl_ref("", "v1", "pods", pod, NULL);
    kevent(run->ctl->ev, set, "Normal", "SuccessfulDelete",
           "delete Pod %s in StatefulSet %s successful", kube_name(pod), s->name);
    sync_delete(s, run->ctl->c->pods, &r, NULL, kube_uid(pod), NULL);
}

/* The template of an earlier revision: pods below the partition are made anew from it. */
static const struct json *template_of(struct sync *s, const struct json *set,
                                      const char *revision) {
    struct stsrun *run = s->data;
    const struct json *rev = kinformer_get(run->ctl->revisions, s->ns, revision);
    struct json *t = json_copy(s->d, json_at(rev, "data", "spec", "template"));
    if (!t) {
        return json_at(set, "spec", "template");
    }
    json_del(t, "$patch");
    return t;
}

/* ---- one step ---- */

/* What a set's spec says of its pods. */
struct plan {
    const struct json *set, *update; /* update: spec.updateStrategy */
    int64_t replicas, first, end, partition;
    bool parallel, on_delete;
};

static struct plan plan_of(const struct json *set) {
    struct plan n = {.set = set, .update = json_at(set, "spec", "updateStrategy")};
    n.parallel = str_eq(json_str_at(set, "spec", "podManagementPolicy"), "Parallel");
    n.replicas = json_i64_at(set, 1, "spec", "replicas");
    n.first = json_i64_at(set, 0, "spec", "ordinals", "start");
    n.end = n.first + n.replicas;
    n.on_delete = str_eq(json_str(json_get(n.update, "type")), "OnDelete");
    n.partition = json_i64_at(n.update, 0, "rollingUpdate", "partition");
    return n;
}

/* Upwards: what is missing or has failed, one after the other unless parallel. True: nothing else is due. */
static bool fill_up(struct sync *s, const struct plan *n) {
    struct stsrun *run = s->data;
    const char *cur_rev = json_str_or(json_at(n->set, "status", "currentRevision"), run->revision);
    const struct json *old_rev = kinformer_get(run->ctl->revisions, s->ns, cur_rev);
    const char *old_hash = kube_label(old_rev, LABEL_HASH);
    for (int64_t i = n->first; i < n->end; i++) {
        const struct json *p = pod_at(s, i);
        if (p && !kube_is_owned_by(p, kube_uid(n->set))) {
            return true; /* a stranger has the name */
        }
        if (p && pod_is_terminal(p) && !kube_is_deleting(p)) {
            delete_pod(s, n->set, p);
            return true;
        }
        if (!p) {
            bool old = (i < n->partition || n->on_delete) && old_rev && old_hash;
            create_pod(s, n->set,
                       old ? template_of(s, n->set, cur_rev) : json_at(n->set, "spec", "template"),
                       old ? old_hash : run->hash, i);
        }
        if (!n->parallel && !is_available(n->set, p)) {
            return true;
        }
    }
    return false;
}

/* Downwards: what is too many, the highest first. True: as above. */
static bool scale_down(struct sync *s, const struct plan *n, const struct objvec *mine) {
    int64_t highest = -1;
    const struct json *victim = NULL;
    for (size_t i = 0; i < mine->n; i++) {
        int64_t o = ordinal_of(n->set, mine->v[i]);
        if (o >= 0 && (o < n->first || o >= n->end)) {
            if (n->parallel && !kube_is_deleting(mine->v[i])) {
                delete_pod(s, n->set, mine->v[i]);
            }
            if (o > highest) {
                highest = o;
                victim = mine->v[i];
            }
        }
    }
    if (!victim || n->parallel) {
        return false;
    }
    if (!kube_is_deleting(victim)) {
        delete_pod(s, n->set, victim);
    }
    return true;
}

/* Downwards: one pod of an old template at a time, when all above are well. */
static void roll_out(struct sync *s, const struct plan *n) {
    const struct stsrun *run = s->data;
    int64_t max_unavailable = 1, unavailable = 0;
    IGNORE_ERR(kube_intstr_scaled(json_at(n->update, "rollingUpdate", "maxUnavailable"),
                                  n->replicas, true, &max_unavailable),
               "validated by the API server");
    max_unavailable = max_unavailable < 1 ? 1 : max_unavailable;
    for (int64_t i = n->first; i < n->end; i++) {
        unavailable += !is_available(n->set, pod_at(s, i));
    }
    for (int64_t i = n->end - 1; i >= n->first && i >= n->partition; i--) {
        const struct json *p = pod_at(s, i);
        if (p && !kube_is_deleting(p) && !str_eq(kube_label(p, LABEL_HASH), run->hash)) {
            bool broken = !is_available(n->set, p);
            if (!broken && unavailable >= max_unavailable) {
                return;
            }
            delete_pod(s, n->set, p);
            unavailable += !broken;
            if (unavailable >= max_unavailable) {
                return;
            }
        } else if (!is_available(n->set, p) && max_unavailable == 1) {
            return;
        }
    }
}

static void run_set(struct sync *s, const struct json *set, const struct objvec *mine) {
    const struct plan n = plan_of(set);
    if (!fill_up(s, &n) && !scale_down(s, &n, mine) && !n.on_delete && !s->pending) {
        roll_out(s, &n);
    }
}

static void write_status(struct sync *s) {
    struct stsrun *run = s->data;
    const struct json *set = find(s);
    if (!set) {
        sync_end(s);
        return;
    }
    struct objvec mine = ctl_mine(run->ctl->c->pods_ix, set, NULL);
    int64_t n = 0, ready = 0, available = 0, updated = 0, current = 0;
    const char *was = json_str_or(json_at(set, "status", "currentRevision"), run->revision);
    const char *was_hash = kube_label(kinformer_get(run->ctl->revisions, s->ns, was), LABEL_HASH);
    for (size_t i = 0; i < mine.n; i++) {
        const struct json *p = mine.v[i];
        if (pod_is_terminal(p) || ordinal_of(set, p) < 0) {
            continue;
        }
        n++;
        ready += pod_is_ready(p);
        available += is_available(set, p);
        bool is_new = str_eq(kube_label(p, LABEL_HASH), run->hash);
        updated += is_new && !kube_is_deleting(p);
        current += str_eq(kube_label(p, LABEL_HASH), was_hash ? was_hash : run->hash) &&
                   !kube_is_deleting(p);
        if (pod_is_ready(p) && !is_available(set, p)) {
            kqueue_add_after(run->ctl->q, s->key,
                             (uint64_t)json_i64_at(set, 1, "spec", "minReadySeconds") * NS_PER_S);
        }
    }
    int64_t want = json_i64_at(set, 1, "spec", "replicas");
    bool done = updated == want && ready == want && n == want;
    if (done) {
        was = run->revision;
        current = updated;
    }
    struct json *st = json_new_obj(s->d);
    json_set_i64(s->d, st, "observedGeneration", json_i64_at(set, 0, "metadata", "generation"));
    json_set_i64(s->d, st, "replicas", n);
    const struct {
        const char *name;
        int64_t v;
    } fields[] = {
        {"readyReplicas", ready}, {"currentReplicas", current}, {"updatedReplicas", updated}};
    for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
        if (fields[i].v) {
            json_set_i64(s->d, st, fields[i].name, fields[i].v);
        }
    }
    json_set_str(s->d, st, "currentRevision", was);
    json_set_str(s->d, st, "updateRevision", run->revision);
    json_set_i64(s->d, st, "collisionCount", json_i64_at(set, 0, "status", "collisionCount"));
    json_set_i64(s->d, st, "availableReplicas", available);
    sync_status(s, run->ctl->sets, "apps", "v1", "statefulsets", set, st);
    objvec_fini(&mine);
    sync_end(s);
}

static void handle(void *ctx, const char *key) {
    struct stsctl *ctl = ctx;
    struct sync *s = sync_begin(ctl->c, ctl->q, key);
    struct stsrun *run = s->data = new_zero(struct stsrun);
    run->ctl = ctl;
    const struct json *set = find(s);
    struct kube_selector *sel = set ? ctl_selector(json_at(set, "spec", "selector")) : NULL;
    if (sel && !kube_selector_is_all(sel)) {
        ctl_claim(s, ctl->c->pods_ix, &pods_ref, set, sel);
        struct objvec mine = ctl_mine(ctl->c->pods_ix, set, sel);
        ctl_history_sync(s, ctl->revisions_ix, set, &mine, run->hash, run->revision);
        if (!kube_is_deleting(set) && !s->pending) {
            run_set(s, set, &mine);
        }
        objvec_fini(&mine);
        s->then = write_status;
    }
    kube_selector_free(sel);
    sync_end(s);
}

static void on_set(void *ctx, struct json *old, struct json *cur) {
    struct stsctl *ctl = ctx;
    kqueue_add_obj(ctl->q, cur ? cur : old);
}

static void on_revision(void *ctx, struct json *old, struct json *cur) {
    struct stsctl *ctl = ctx;
    ctl_enqueue_owner(ctl->q, cur ? cur : old, "StatefulSet");
}

static void on_pod(void *ctx, struct json *old, struct json *cur) {
    struct stsctl *ctl = ctx;
    ctl_enqueue_owners(ctl->q, ctl->sets, "StatefulSet", old, cur);
}

void ctl_start_statefulset(struct controllers *c) {
    struct stsctl *ctl = ctl_new(c, struct stsctl);
    ctl->c = c;
    ctl->ev = c->ev;
    ctl->sets = kfactory_all(c->f, "apps", "v1", "statefulsets");
    ctl->claims = kfactory_all(c->f, "", "v1", "persistentvolumeclaims");
    ctl->revisions = ctl_revisions(c);
    ctl->revisions_ix = ctl_index(c, ctl->revisions);
    ctl->q = ctl_queue(c, "statefulset", 4, handle, ctl);
    kinformer_listen(ctl->sets, on_set, ctl);
    kinformer_listen(ctl->revisions, on_revision, ctl);
    kinformer_listen(c->pods, on_pod, ctl);
    kqueue_need(ctl->q, ctl->sets);
    kqueue_need(ctl->q, ctl->revisions);
    kqueue_need(ctl->q, ctl->claims);
    kqueue_need(ctl->q, c->pods);
}
