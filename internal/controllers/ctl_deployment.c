/* Deployments: a ReplicaSet for every template that was current once, pods moved to the newest step by step. */
#include "internal/controllers/ctl_deploy_int.h"

static int64_t revision_of(const struct json *obj) {
    const char *s = kube_annotation(obj, ANN_REVISION);
    int64_t v = 0;
    return s && span_to_i64(span_str(s), 0, INT64_MAX, &v) == 0 ? v : 0;
}

/* ---- reading the state ---- */

static int older_first(const void *pa, const void *pb) {
    const struct dset *a = pa, *b = pb;
    uint64_t ca = kobj_created_s(a->rs), cb = kobj_created_s(b->rs);
    if (ca != cb) {
        return ca < cb ? -1 : 1;
    }
    return span_cmp(span_str(kube_name(a->rs)), span_str(kube_name(b->rs)));
}

static bool same_template(struct json_doc *d, const struct json *deploy, const struct json *rs) {
    struct json *a = json_copy(d, json_at(deploy, "spec", "template"));
    struct json *b = json_copy(d, json_at(rs, "spec", "template"));
    struct json *tmpl[] = {a, b};
    for (size_t i = 0; i < 2; i++) {
        struct json *meta = json_get(tmpl[i], "metadata");
        json_del(json_get(meta, "labels"), LABEL_HASH);
        if (meta && !json_len(json_get(meta, "labels"))) {
            json_del(meta, "labels");
        }
        json_del(meta, "creationTimestamp");
    }
    return json_eq(a, b);
}

static void load(struct drun *r, struct sync *s, const struct kube_selector *sel) {
    const struct json *spec = json_get(r->d, "spec"),
                      *ru = json_at(spec, "strategy", "rollingUpdate");
    struct objvec mine = ctl_mine(r->ctl->sets_ix, r->d, sel);
    r->want = json_i64(json_get(spec, "replicas"), 1);
    r->is_recreate = str_eq(json_str_at(spec, "strategy", "type"), "Recreate");
    r->is_paused = json_bool(json_get(spec, "paused"), false);
    r->surge = r->unavailable = 0;
    if (!r->is_recreate &&
        (kube_intstr_scaled(json_get(ru, "maxSurge"), r->want, true, &r->surge) < 0 ||
         kube_intstr_scaled(json_get(ru, "maxUnavailable"), r->want, false, &r->unavailable) < 0 ||
         (!r->surge && !r->unavailable))) {
        r->unavailable = 1; /* otherwise nothing could ever move */
    }
    r->unavailable = r->unavailable > r->want ? r->want : r->unavailable;
    r->n = mine.n;
    free(r->sets);
    r->sets = mem_array(NULL, mine.n + 1, sizeof(*r->sets), 1 << 20);
    CHECK(r->sets);
    for (size_t i = 0; i < mine.n; i++) {
        const struct json *rs = mine.v[i];
        int64_t n = json_i64_at(rs, 1, "spec", "replicas");
        r->sets[i] = (struct dset){
            .rs = rs,
            .replicas = n,
            .target = n,
            .ready = json_i64_at(rs, 0, "status", "readyReplicas"),
            .available = json_i64_at(rs, 0, "status", "availableReplicas"),
            .status_replicas = json_i64_at(rs, 0, "status", "replicas"),
        };
    }
    objvec_fini(&mine);
    qsort(r->sets, r->n, sizeof(*r->sets), older_first);
    r->cur = NULL;
    for (size_t i = 0; i < r->n && !r->cur; i++) {
        if (same_template(s->d, r->d, r->sets[i].rs)) {
            r->cur = &r->sets[i];
            r->cur->is_new = true;
        }
    }
}

/* ---- ReplicaSets' annotations ---- */

static bool is_copied_annotation(const char *k) {
    static const char *const skip[] = {"kubectl.kubernetes.io/last-applied-configuration",
                                       ANN_REVISION,
                                       ANN_HISTORY,
                                       ANN_DESIRED,
                                       ANN_MAX,
                                       "deprecated.deployment.rollback.to"};
    for (size_t i = 0; i < ARRAY_LEN(skip); i++) {
        if (str_eq(k, skip[i])) {
            return false;
        }
    }
    return true;
}

static int64_t next_revision(const struct drun *r) {
    int64_t max = 0;
    for (size_t i = 0; i < r->n; i++) {
        int64_t v = r->sets[i].is_new ? 0 : revision_of(r->sets[i].rs);
        max = v > max ? v : max;
    }
    return max + 1;
}

static void set_number(struct json_doc *d, struct json *obj, const char *key, int64_t v) {
    char text[24];
    IGNORE_ERR(str_put(text, sizeof(text), "%lld", (long long)v), "fits");
    kube_annotate(d, obj, key, text);
}

/* What the annotations of the current set shall be, on top of obj's. */
static void annotate_new(struct drun *r, struct json_doc *d, struct json *obj, bool exists) {
    JSON_EACH_KV(it, k, v, json_at(r->d, "metadata", "annotations")) {
        if (is_copied_annotation(k)) {
            kube_annotate(d, obj, k, json_str_or(v, ""));
        }
    }
    int64_t next = next_revision(r), was = revision_of(obj);
    if (was < next) {
        if (exists && was) {
            const char *h = kube_annotation(obj, ANN_HISTORY);
            AUTO_FREE char *text =
                h ? str_fmt("%s,%lld", h, (long long)was) : str_fmt("%lld", (long long)was);
            kube_annotate(d, obj, ANN_HISTORY, text);
        }
        set_number(d, obj, ANN_REVISION, next);
    }
}

static void annotate_sizes(struct drun *r, struct json_doc *d, struct json *obj) {
    set_number(d, obj, ANN_DESIRED, r->want);
    set_number(d, obj, ANN_MAX, deploy_max_total(r));
}

/* ---- writing ---- */

static void on_scaled(struct sync *s, int rc, struct json *rs, const struct err *e) {
    (void)e;
    struct drun *r = s->data;
    const struct json *d = kinformer_get(r->ctl->deploys, s->ns, s->name);
    for (size_t i = 0; d && rc == 0 && i < r->n; i++) {
        /* r->sets[].rs may be gone from the cache by now; names were kept in scale_all's order */
        const char *now = json_str_at(rs, "metadata", "name");
        if (str_eq(now, r->names[i]) && r->sets[i].target != r->sets[i].replicas) {
            bool up = r->sets[i].target > r->sets[i].replicas;
            kevent(r->ctl->ev, d, "Normal", "ScalingReplicaSet",
                   "Scaled %s replica set %s from %lld to %lld", up ? "up" : "down", now,
                   (long long)r->sets[i].replicas, (long long)r->sets[i].target);
        }
    }
}

/* Brings every set's replicas and size annotations in line with the run. */
static void write_sets(struct drun *r, struct sync *s) {
    r->names = mem_array(r->names, r->n + 1, sizeof(*r->names), 1 << 20);
    CHECK(r->names);
    for (size_t i = 0; i < r->n; i++) {
        r->names[i] = json_str(json_new_str(s->d, kube_name(r->sets[i].rs)));
    }
    for (size_t i = 0; i < r->n; i++) {
        struct dset *set = &r->sets[i];
        struct json *copy = json_copy(s->d, set->rs);
        if (set->target != set->replicas || set->target > 0) {
            annotate_sizes(r, s->d, copy);
        }
        if (set->is_new) {
            annotate_new(r, s->d, copy, true);
            json_set(s->d, json_get(copy, "spec"), "minReadySeconds",
                     json_new_i64(s->d, json_i64_at(r->d, 0, "spec", "minReadySeconds")));
            if (!json_i64_at(r->d, 0, "spec", "minReadySeconds")) {
                json_del(json_get(copy, "spec"), "minReadySeconds");
            }
        }
        json_set_i64(s->d, json_get(copy, "spec"), "replicas", set->target);
        if (!json_eq(copy, set->rs)) {
            struct kref ref = ctl_ref("apps", "v1", "replicasets", set->rs, NULL);
            sync_update(s, r->ctl->sets, &ref, copy, on_scaled);
        }
    }
}

static void write_revision(struct drun *r, struct sync *s, int64_t revision) {
    if (revision_of(r->d) == revision) {
        return;
    }
    struct json *patch = json_new_obj(s->d);
    set_number(s->d, patch, ANN_REVISION, revision);
    struct kref ref = ctl_ref("apps", "v1", "deployments", r->d, NULL);
    sync_patch(s, r->ctl->deploys, &ref, KPATCH_MERGE, patch, NULL);
}

static void collision(struct drun *r, struct sync *s, const struct json *d) {
    struct json *st = json_copy(s->d, json_get(d, "status"));
    st = st ? st : json_new_obj(s->d);
    json_set_i64(s->d, st, "collisionCount", json_i64(json_get(st, "collisionCount"), 0) + 1);
    sync_status(s, r->ctl->deploys, "apps", "v1", "deployments", d, st);
}

static void on_set_created(struct sync *s, int rc, struct json *rs, const struct err *e) {
    struct drun *r = s->data;
    const struct json *d = kinformer_get(r->ctl->deploys, s->ns, s->name);
    (void)e;
    if (!d) {
        return;
    }
    if (rc == 0) {
        int64_t n = json_i64_at(rs, 0, "spec", "replicas");
        IGNORE_ERR(str_put(r->created, sizeof(r->created), "%s", kube_name(rs)), "names fit");
        if (n > 0) {
            kevent(r->ctl->ev, d, "Normal", "ScalingReplicaSet",
                   "Scaled up replica set %s from 0 to %lld", kube_name(rs), (long long)n);
        }
    } else if (rc == -ERR_EXISTS) {
        /* Ours already (the cache was behind), or another template with the same hash. */
        AUTO_FREE char *name = str_fmt("%s-%s", s->name, r->hash);
        const struct json *there = kinformer_get(r->ctl->sets, s->ns, name);
        if (there && !(kube_is_owned_by(there, kube_uid(d)) && same_template(s->d, d, there))) {
            collision(r, s, d);
        }
    } else {
        kevent(r->ctl->ev, d, "Warning", "ReplicaSetCreateError",
               "Failed to create new replica set \"%s-%s\": %s", s->name, r->hash, e->msg);
    }
}

static void create_set(struct drun *r, struct sync *s) {
    struct json_doc *d = s->d;
    const struct json *spec = json_get(r->d, "spec");
    struct json *tmpl = json_copy(d, json_get(spec, "template"));
    ctl_template_hash(tmpl, json_i64_at(r->d, 0, "status", "collisionCount"), r->hash);
    AUTO_FREE char *name = str_fmt("%s-%s", kube_name(r->d), r->hash);
    struct json *rs = kube_object_new(d, "apps/v1", "ReplicaSet", s->ns, name);
    kube_label_set(d, tmpl, LABEL_HASH, r->hash);
    json_set(d, json_get(rs, "metadata"), "labels",
             json_copy(d, json_at(tmpl, "metadata", "labels")));
    kube_owner_add(d, rs, r->d, true);
    annotate_new(r, d, rs, false);
    annotate_sizes(r, d, rs);
    struct json *rspec = json_set_obj(d, rs, "spec");
    json_set_i64(d, rspec, "replicas", deploy_new_replicas(r, 0));
    if (json_i64(json_get(spec, "minReadySeconds"), 0)) {
        json_set_i64(d, rspec, "minReadySeconds", json_i64(json_get(spec, "minReadySeconds"), 0));
    }
    struct json *sel = json_set(d, rspec, "selector", json_copy(d, json_get(spec, "selector")));
    json_set_str(d, json_need_obj(d, sel, "matchLabels"), LABEL_HASH, r->hash);
    json_set(d, rspec, "template", tmpl);
    struct kref ref = {"apps", "v1", "replicasets", s->ns, NULL, NULL};
    sync_create(s, r->ctl->sets, &ref, rs, on_set_created);
    write_revision(r, s, next_revision(r));
}

/* Old sets beyond revisionHistoryLimit. */
static void clean_history(struct drun *r, struct sync *s) {
    int64_t limit = json_i64_at(r->d, INT32_MAX, "spec", "revisionHistoryLimit");
    int64_t excess = (int64_t)r->n - (r->cur != NULL) - limit;
    for (size_t i = 0; i < r->n && excess > 0; i++) {
        struct dset *set = &r->sets[i];
        if (set->is_new || set->replicas || set->status_replicas || kube_is_deleting(set->rs)) {
            continue;
        }
        struct kref ref = ctl_ref("apps", "v1", "replicasets", set->rs, NULL);
        sync_delete(s, r->ctl->sets, &ref, NULL, kube_uid(set->rs), NULL);
        excess--;
    }
}

/* ---- one run ---- */

static bool begin(struct sync *s, struct kube_selector **ret_sel) {
    struct drun *r = s->data;
    r->d = kinformer_get(r->ctl->deploys, s->ns, s->name);
    *ret_sel = r->d ? ctl_selector(json_at(r->d, "spec", "selector")) : NULL;
    if (*ret_sel) {
        load(r, s, *ret_sel);
    }
    return *ret_sel != NULL;
}

/* The caches have what was written: now the status tells of it. */
static void finish(struct sync *s) {
    struct drun *r = s->data;
    struct kube_selector *sel;
    if (begin(s, &sel)) {
        uint64_t due_s = 0;
        AUTO(buf) struct buf msg = BUF_INIT(1024);
        const char *reason = NULL;
        if (*r->created) {
            reason = "NewReplicaSetCreated";
            buf_fmt(&msg, "Created new replica set \"%s\"", r->created);
        } else if (r->cur && !kube_condition(r->d, "Progressing")) {
            reason = "FoundNewReplicaSet";
            buf_fmt(&msg, "Found new replica set \"%s\"", kube_name(r->cur->rs));
        }
        struct json *st = deploy_status(r, s->d, reason, buf_cstr(&msg), &due_s);
        sync_status(s, r->ctl->deploys, "apps", "v1", "deployments", r->d, st);
        if (due_s) {
            kqueue_add_after(r->ctl->q, s->key, due_s * NS_PER_S);
        }
    }
    kube_selector_free(sel);
    sync_end(s);
}

static void fini(struct sync *s) {
    struct drun *r = s->data;
    free(r->sets);
    free(r->names);
}

/* Recreate waits until no pod of an old template runs. */
static bool old_pods_run(const struct drun *r) {
    for (size_t i = 0; i < r->n; i++) {
        const struct objvec *pods = ctl_owned(r->ctl->c->pods_ix, kube_uid(r->sets[i].rs));
        for (size_t k = 0; k < pods->n && !r->sets[i].is_new; k++) {
            if (!pod_is_terminal(pods->v[k])) {
                return true;
            }
        }
    }
    return false;
}

static bool was_resized(const struct drun *r) {
    for (size_t i = 0; i < r->n; i++) {
        const char *ann = kube_annotation(r->sets[i].rs, ANN_DESIRED);
        int64_t v = 0;
        if (r->sets[i].replicas > 0 && ann && span_to_i64(span_str(ann), 0, INT32_MAX, &v) == 0 &&
            v != r->want) {
            return true;
        }
    }
    return false;
}

static void step(struct drun *r, struct sync *s) {
    if (r->is_paused || was_resized(r)) {
        deploy_scale(r);
    } else if (r->is_recreate) {
        bool shrinks = deploy_recreate(r);
        bool waiting = deploy_sum(r, true) != 0 || old_pods_run(r);
        if (!r->cur && !shrinks && !waiting) {
            create_set(r, s);
        } else if (r->cur && waiting) {
            r->cur->target = r->cur->replicas;
        }
    } else if (!r->cur) {
        create_set(r, s);
    } else {
        deploy_roll(r);
    }
    write_sets(r, s);
    if (r->cur) {
        write_revision(r, s, next_revision(r));
    }
    if (r->is_paused || deploy_is_complete(r)) {
        clean_history(r, s);
    }
}

static const struct kref sets_ref = {"apps", "v1", "replicasets", NULL, NULL, NULL};

static void handle(void *ctx, const char *key) {
    struct deployctl *ctl = ctx;
    struct sync *s = sync_begin(ctl->c, ctl->q, key);
    struct drun *r = s->data = new_zero(struct drun);
    struct kube_selector *sel = NULL;
    r->ctl = ctl;
    s->fini = fini;
    if (begin(s, &sel)) {
        if (kube_selector_is_all(sel)) {
            kevent(ctl->ev, r->d, "Warning", "SelectingAll",
                   "This deployment is selecting all pods. A non-empty selector is required.");
        } else {
            ctl_claim(s, ctl->sets_ix, &sets_ref, r->d, sel);
            if (!kube_is_deleting(r->d) && !s->pending) {
                step(r, s);
            }
            s->then = finish;
        }
    }
    kube_selector_free(sel);
    sync_end(s);
}

/* ---- events ---- */

static void on_deploy(void *ctx, struct json *old, struct json *cur) {
    struct deployctl *ctl = ctx;
    kqueue_add_obj(ctl->q, cur ? cur : old);
}

static void on_set(void *ctx, struct json *old, struct json *cur) {
    struct deployctl *ctl = ctx;
    ctl_enqueue_owners(ctl->q, ctl->deploys, "Deployment", old, cur);
}

/* Recreate waits for the last old pod. */
static void on_pod(void *ctx, struct json *old, struct json *cur) {
    struct deployctl *ctl = ctx;
    const struct json *owner = kube_controller_of(old);
    if ((cur && !pod_is_terminal(cur)) ||
        !str_eq(json_str(json_get(owner, "kind")), "ReplicaSet")) {
        return;
    }
    const struct json *rs =
        kinformer_get(ctl->sets, kube_namespace(old), json_str_or(json_get(owner, "name"), ""));
    if (rs) {
        ctl_enqueue_owner(ctl->q, rs, "Deployment");
    }
}

void ctl_start_deployment(struct controllers *c) {
    struct deployctl *ctl = ctl_new(c, struct deployctl);
    ctl->c = c;
    ctl->ev = c->ev;
    ctl->deploys = kfactory_all(c->f, "apps", "v1", "deployments");
    ctl->sets = kfactory_all(c->f, "apps", "v1", "replicasets");
    ctl->sets_ix = ctl_index(c, ctl->sets);
    ctl->q = ctl_queue(c, "deployment", 10, handle, ctl);
    kinformer_listen(ctl->deploys, on_deploy, ctl);
    kinformer_listen(ctl->sets, on_set, ctl);
    kinformer_listen(c->pods, on_pod, ctl);
    kqueue_need(ctl->q, ctl->deploys);
    kqueue_need(ctl->q, ctl->sets);
    kqueue_need(ctl->q, c->pods);
}
