#include "internal/controllers/ctl_int.h"

/* ---- who belongs to whom ---- */

static void adopt(struct sync *s, struct ownindex *ix, const struct kref *res,
                  const struct json *owner, const struct json *obj) {
    struct json *patch = json_new_obj(s->d), *holder = json_new_obj(s->d);
    kube_owner_add(s->d, holder, owner, true);
    struct json *meta = json_set_obj(s->d, patch, "metadata");
    json_set(s->d, meta, "ownerReferences",
             json_copy(s->d, json_at(holder, "metadata", "ownerReferences")));
    json_set_str(s->d, meta, "uid", kube_uid(obj));
    struct kref r = ctl_ref(res->group, res->version, res->resource, obj, NULL);
    sync_patch(s, ix->inf, &r, KPATCH_STRATEGIC, patch, NULL);
}

static void release(struct sync *s, struct ownindex *ix, const struct kref *res,
                    const struct json *owner, const struct json *obj) {
    struct json *patch = json_new_obj(s->d), *ref = json_new_obj(s->d);
    struct json *meta = json_set_obj(s->d, patch, "metadata");
    json_set_str(s->d, ref, "$patch", "delete");
    json_set_str(s->d, ref, "uid", kube_uid(owner));
    json_push(json_set_arr(s->d, meta, "ownerReferences"), ref);
    json_set_str(s->d, meta, "uid", kube_uid(obj));
    struct kref r = ctl_ref(res->group, res->version, res->resource, obj, NULL);
    sync_patch(s, ix->inf, &r, KPATCH_STRATEGIC, patch, NULL);
}

void ctl_claim(struct sync *s, struct ownindex *ix, const struct kref *res,
               const struct json *owner, const struct kube_selector *sel) {
    if (kube_is_deleting(owner)) {
        return;
    }
    const struct objvec *orphans = ctl_orphans(ix, kube_namespace(owner));
    for (size_t i = 0; i < orphans->n; i++) {
        const struct json *obj = orphans->v[i];
        if (kube_selector_match(sel, kube_labels(obj)) && !kube_is_deleting(obj)) {
            adopt(s, ix, res, owner, obj);
        }
    }
    const struct objvec *mine = ctl_owned(ix, kube_uid(owner));
    for (size_t i = 0; i < mine->n; i++) {
        if (!kube_selector_match(sel, kube_labels(mine->v[i])) && !kube_is_deleting(mine->v[i])) {
            release(s, ix, res, owner, mine->v[i]);
        }
    }
}

void ctl_drop_finalizer(struct sync *s, struct kinformer *inf, const struct kref *res,
                        const struct json *obj, const char *name) {
    struct json *copy = json_copy(s->d, obj), *patch = json_new_obj(s->d);
    kube_finalizer_remove(copy, name);
    struct json *meta = json_set_obj(s->d, patch, "metadata");
    json_set_str(s->d, meta, "uid", kube_uid(obj));
    json_set_str(s->d, meta, "resourceVersion", kube_rv(obj));
    struct json *left = json_at(copy, "metadata", "finalizers");
    json_set(s->d, meta, "finalizers", left ? json_copy(s->d, left) : json_new_null(s->d));
    struct kref r = ctl_ref(res->group, res->version, res->resource, obj, NULL);
    sync_patch(s, inf, &r, KPATCH_MERGE, patch, NULL);
}

struct objvec ctl_mine(const struct ownindex *ix, const struct json *owner,
                       const struct kube_selector *sel) {
    struct objvec o = {NULL, 0, 0};
    const struct objvec *mine = ctl_owned(ix, kube_uid(owner));
    for (size_t i = 0; i < mine->n; i++) {
        if (!sel || kube_selector_match(sel, kube_labels(mine->v[i]))) {
            objvec_add(&o, mine->v[i]);
        }
    }
    return o;
}

void ctl_enqueue_matching(struct kqueue *q, const struct kinformer *inf,
                          const struct json *orphan) {
    struct map_iter it = {0};
    struct json *obj;
    while (kinformer_next(inf, &it, &obj)) {
        if (!str_eq(kube_namespace(obj), kube_namespace(orphan))) {
            continue;
        }
        struct kube_selector *sel = ctl_selector(json_at(obj, "spec", "selector"));
        if (sel && kube_selector_match(sel, kube_labels(orphan))) {
            kqueue_add_obj(q, obj);
        }
        kube_selector_free(sel);
    }
}

void ctl_enqueue_owners(struct kqueue *q, const struct kinformer *inf, const char *kind,
                        const struct json *old, const struct json *cur) {
    if (old) {
        ctl_enqueue_owner(q, old, kind);
    }
    if (cur) {
        ctl_enqueue_owner(q, cur, kind);
        if (!kube_controller_of(cur) && !kube_is_deleting(cur)) {
            ctl_enqueue_matching(q, inf, cur);
        }
    }
}

/* ---- pods from templates ---- */

struct json *ctl_pod(struct json_doc *d, const struct json *template, const struct json *owner) {
    struct json *pod = json_new_obj(d);
    json_set_str(d, pod, "apiVersion", "v1");
    json_set_str(d, pod, "kind", "Pod");
    struct json *meta = json_set_obj(d, pod, "metadata");
    json_set(d, meta, "generateName", json_new_fmt(d, "%s-", kube_name(owner)));
    json_set_str(d, meta, "namespace", kube_namespace(owner));
    static const char *const copied[] = {"labels", "annotations", "finalizers"};
    for (size_t i = 0; i < ARRAY_LEN(copied); i++) {
        const struct json *v = json_at(template, "metadata", copied[i]);
        if (json_len(v)) {
            json_set(d, meta, copied[i], json_copy(d, v));
        }
    }
    kube_owner_add(d, pod, owner, true);
    json_set(d, pod, "spec", json_copy(d, json_get(template, "spec")));
    return pod;
}

bool ctl_pod_available(const struct json *pod, int64_t min_ready_s, uint64_t now_s) {
    if (!pod_is_ready(pod)) {
        return false;
    }
    uint64_t since = pod_ready_since_s(pod);
    return min_ready_s <= 0 || (since && since + (uint64_t)min_ready_s <= now_s);
}

void ctl_template_hash(const struct json *template, int64_t collisions, char dst[16]) {
    static const char alphabet[] = "bcdfghjklmnpqrstvwxz2456789";
    AUTO(buf) struct buf b = BUF_INIT(4 << 20);
    json_write(template, 0, &b);
    if (collisions) {
        buf_fmt(&b, "%lld", (long long)collisions);
    }
    char digits[16];
    IGNORE_ERR(str_put(digits, sizeof(digits), "%u", fnv32a(buf_view(&b))), "ten digits at most");
    size_t i = 0;
    for (; digits[i]; i++) {
        dst[i] = alphabet[(unsigned char)digits[i] % (sizeof(alphabet) - 1)];
    }
    dst[i] = 0;
}

/* ---- which pods go first ---- */

struct rank {
    const struct json *pod;
    bool is_bound, is_ready;
    int phase; /* 0 Pending, 1 Unknown, 2 Running */
    int64_t cost, crowd, restarts;
    uint64_t ready_since, created;
};

static int phase_rank(const struct json *pod) {
    const char *p = json_str_at(pod, "status", "phase");
    return str_eq(p, "Running") ? 2 : str_eq(p, "Unknown") ? 1 : 0;
}

#define PREFER(x, y)                   \
    do {                               \
        if ((x) != (y)) {              \
            return (x) < (y) ? -1 : 1; \
        }                              \
    } while (0)

/* Unbound, pending, not ready, cheap, crowded, ready for a short time, often restarted, young: in this order. */
static int rank_cmp(const void *pa, const void *pb) {
    const struct rank *a = pa, *b = pb;
    PREFER(a->is_bound, b->is_bound);
    PREFER(a->phase, b->phase);
    PREFER(a->is_ready, b->is_ready);
    PREFER(a->cost, b->cost);
    PREFER(b->crowd, a->crowd);
    if (a->is_ready && b->is_ready) {
        PREFER(b->ready_since, a->ready_since);
    }
    PREFER(b->restarts, a->restarts);
    PREFER(b->created, a->created);
    return 0;
}

void ctl_sort_victims(const struct ownindex *pods, struct objvec *o) {
    (void)pods;
    struct rank *r = o->n ? mem_array(NULL, o->n, sizeof(*r), 1 << 24) : NULL;
    if (!r) {
        return;
    }
    struct map per_node = MAP_INIT;
    for (size_t i = 0; i < o->n; i++) {
        const char *node = pod_node(o->v[i]);
        uintptr_t k = (uintptr_t)map_get_str(&per_node, node) + 1;
        map_put_str(&per_node, node, (void *)k);
    }
    for (size_t i = 0; i < o->n; i++) {
        const struct json *p = o->v[i];
        const char *cost = kube_annotation(p, "controller.kubernetes.io/pod-deletion-cost");
        int64_t c = 0;
        IGNORE_ERR(cost ? span_to_i64(span_str(cost), INT32_MIN, INT32_MAX, &c) : 0,
                   "a bad cost counts as none");
        r[i] = (struct rank){
            .pod = p,
            .is_bound = *pod_node(p) != 0,
            .is_ready = pod_is_ready(p),
            .phase = phase_rank(p),
            .cost = c,
            .crowd = (int64_t)(uintptr_t)map_get_str(&per_node, pod_node(p)),
            .restarts = pod_restarts(p),
            .ready_since = pod_ready_since_s(p),
            .created = kobj_created_s(p),
        };
    }
    map_fini(&per_node);
    qsort(r, o->n, sizeof(*r), rank_cmp);
    for (size_t i = 0; i < o->n; i++) {
        o->v[i] = r[i].pod;
    }
    free(r);
}
