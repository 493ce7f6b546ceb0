/* Namespaces that are being deleted: everything in them goes first, then the finalizer. */
#include "internal/controllers/ctl_int.h"

enum { RETRY_S = 5 };

struct nsctl {
    struct controllers *c;
    struct kqueue *q;
};

/* What one namespace still holds, found out anew in every run. */
struct nsrun {
    struct nsctl *ctl;
    struct ctl_kinds kinds;
    size_t n_left;
    bool delete_failed;
    struct buf left, finalizers, errors;
    struct map finalizer_counts;
};

static const struct json *find(struct sync *s) {
    struct nsrun *r = s->data;
    return kinformer_get(r->ctl->c->namespaces, NULL, s->name);
}

static void fini(struct sync *s) {
    struct nsrun *r = s->data;
    buf_fini(&r->left);
    buf_fini(&r->finalizers);
    buf_fini(&r->errors);
    map_fini(&r->finalizer_counts);
    ctl_kinds_fini(&r->kinds);
}

/* ---- conditions ---- */

static void condition(struct sync *s, struct json *holder, const char *type, bool is_true,
                      const char *reason, const char *message) {
    char now[TIME_STR];
    kube_condition_set(s->d, holder, type, is_true ? "True" : "False", reason, message,
                       ctl_now(now));
}

static void write_conditions(struct sync *s, const struct json *ns) {
    struct nsrun *r = s->data;
    struct json *holder = json_copy(s->d, ns);
    condition(s, holder, "NamespaceDeletionDiscoveryFailure", r->kinds.is_incomplete,
              r->kinds.is_incomplete ? "DiscoveryFailed" : "ResourcesDiscovered",
              r->kinds.is_incomplete ? "Discovery failed for some groups"
                                     : "All resources successfully discovered");
    condition(s, holder, "NamespaceDeletionGroupVersionParsingFailure", false,
              "ParsedGroupVersions", "All legacy kube types successfully parsed");
    condition(s, holder, "NamespaceDeletionContentFailure", r->delete_failed,
              r->delete_failed ? "ContentDeletionFailed" : "ContentDeleted",
              r->delete_failed
                  ? buf_cstr(&r->errors)
                  : "All content successfully deleted, may be waiting on finalization");
    AUTO(buf) struct buf text = BUF_INIT(8192);
    buf_fmt(&text, "Some resources are remaining: %s", buf_cstr(&r->left));
    condition(s, holder, "NamespaceContentRemaining", r->left.n,
              r->left.n ? "SomeResourcesRemain" : "ContentRemoved",
              r->left.n ? buf_cstr(&text) : "All content successfully removed");
    buf_reset(&text);
    buf_fmt(&text, "Some content in the namespace has finalizers remaining: %s",
            buf_cstr(&r->finalizers));
    condition(s, holder, "NamespaceFinalizersRemaining", r->finalizers.n,
              r->finalizers.n ? "SomeFinalizersRemain" : "ContentHasNoFinalizers",
              r->finalizers.n ? buf_cstr(&text) : "All content-preserving finalizers finished");
    struct json *st = json_copy(s->d, json_get(holder, "status"));
    sync_status(s, r->ctl->c->namespaces, "", "v1", "namespaces", ns, st);
}

static void finalize(struct sync *s, const struct json *ns) {
    struct nsrun *r = s->data;
    struct json *copy = json_copy(s->d, ns), *spec = json_need_obj(s->d, copy, "spec");
    struct json *keep = json_new_arr(s->d);
    JSON_EACH(it, f, json_get(spec, "finalizers")) {
        if (!str_eq(json_str(f), "kubernetes")) {
            json_push(keep, json_copy(s->d, f));
        }
    }
    if (json_len(keep)) {
        json_set(s->d, spec, "finalizers", keep);
    } else {
        json_del(spec, "finalizers");
    }
    struct kref ref = {"", "v1", "namespaces", NULL, s->name, "finalize"};
    sync_update(s, r->ctl->c->namespaces, &ref, copy, NULL);
}

/* ---- counting what is left ---- */

static void conclude(struct sync *s) {
    struct nsrun *r = s->data;
    const struct json *ns = find(s);
    struct map_iter it = {0};
    struct map_entry *en;
    while (map_next(&r->finalizer_counts, &it, &en)) {
        buf_fmt(&r->finalizers, "%s%s in %zu resource instances", r->finalizers.n ? ", " : "",
                en->key, (size_t)(uintptr_t)en->value);
    }
    if (ns && (r->n_left || r->kinds.is_incomplete || r->delete_failed)) {
        write_conditions(s, ns);
        kqueue_add_after(r->ctl->q, s->key, RETRY_S * NS_PER_S);
    } else if (ns && kube_is_deleting(ns)) {
        finalize(s, ns);
    }
    sync_end(s);
}

static void on_left(struct sync *s, int rc, struct json *list, const struct err *e) {
    struct nsrun *r = s->data;
    (void)e;
    if (rc < 0) {
        r->delete_failed |= rc != -ERR_NOT_FOUND && rc != -ERR_UNSUPPORTED;
        s->failed = false;
        return;
    }
    size_t n = json_len(json_get(list, "items")) +
               (size_t)json_i64_at(list, 0, "metadata", "remainingItemCount");
    if (!n) {
        return;
    }
    r->n_left += n;
    /* "PodList" of a list: its resource name is found by the path; the kind reads well enough. */
    const char *self = json_str_or(json_get(list, "kind"), "objects");
    buf_fmt(&r->left, "%s%.*s has %zu resource instances", r->left.n ? ", " : "",
            (int)(strlen(self) > 4 ? strlen(self) - 4 : strlen(self)), self, n);
    JSON_EACH(it, v, json_get(list, "items")) {
        JSON_EACH(it2, f, json_at(v, "metadata", "finalizers")) {
            const char *name = json_str_or(f, "");
            uintptr_t k = (uintptr_t)map_get_str(&r->finalizer_counts, name) + 1;
            map_put_str(&r->finalizer_counts, name, (void *)k);
        }
    }
}

static struct kref ref_of(const struct sync *s, const struct ctl_kind *k) {
    return (struct kref){k->group, k->version, k->resource, s->name, NULL, NULL};
}

static void count(struct sync *s) {
    struct nsrun *r = s->data;
    for (size_t i = 0; i < r->kinds.n; i++) {
        if (r->kinds.v[i].namespaced) {
            struct kref ref = ref_of(s, &r->kinds.v[i]);
            sync_get(s, &ref, "limit=500", on_left);
        }
    }
    s->then = conclude;
    sync_end(s);
}

static void on_deleted(struct sync *s, int rc, struct json *obj, const struct err *e) {
    struct nsrun *r = s->data;
    (void)obj;
    s->failed = false;
    if (rc < 0 && rc != -ERR_NOT_FOUND && rc != -ERR_UNSUPPORTED) {
        r->delete_failed = true;
        buf_fmt(&r->errors, "%s%s",
                r->errors.n ? ", " : "Failed to delete all resource types: ", e->msg);
    }
}

static void delete_all(struct sync *s) {
    struct nsrun *r = s->data;
    for (size_t i = 0; i < r->kinds.n; i++) {
        if (r->kinds.v[i].namespaced) {
            struct kref ref = ref_of(s, &r->kinds.v[i]);
            sync_delete_collection(s, &ref, on_deleted);
        }
    }
    s->then = count;
    sync_end(s);
}

/* The namespace's own phase comes first: the API server refuses new objects from then on. */
static void discover(struct sync *s) {
    struct nsrun *r = s->data;
    ctl_discover(s, &r->kinds);
    s->then = delete_all;
    sync_end(s);
}

static void handle(void *ctx, const char *key) {
    struct nsctl *ctl = ctx;
    struct sync *s = sync_begin(ctl->c, ctl->q, key);
    struct nsrun *r = s->data = new_zero(struct nsrun);
    r->ctl = ctl;
    s->fini = fini;
    buf_init(&r->left, 4096);
    buf_init(&r->finalizers, 4096);
    buf_init(&r->errors, 4096);
    const struct json *ns = find(s);
    if (ns && kube_is_deleting(ns) && json_len(json_at(ns, "spec", "finalizers"))) {
        if (!str_eq(json_str_at(ns, "status", "phase"), "Terminating")) {
            struct json *st = json_copy(s->d, json_get(ns, "status"));
            st = st ? st : json_new_obj(s->d);
            json_set_str(s->d, st, "phase", "Terminating");
            sync_status(s, ctl->c->namespaces, "", "v1", "namespaces", ns, st);
        }
        s->then = discover;
    }
    sync_end(s);
}

static void on_namespace(void *ctx, struct json *old, struct json *cur) {
    struct nsctl *ctl = ctx;
    /* Its own condition writes do not wake it; what is left is looked at after RETRY_S. */
    if (cur && kube_is_deleting(cur) && !(old && kube_is_deleting(old))) {
        kqueue_add_obj(ctl->q, cur);
    }
}

/* The last of many objects goes: look again at once instead of waiting. */
static void on_pod(void *ctx, struct json *old, struct json *cur) {
    struct nsctl *ctl = ctx;
    const struct json *ns =
        cur ? NULL : kinformer_get(ctl->c->namespaces, NULL, kube_namespace(old));
    if (ns && kube_is_deleting(ns)) {
        kqueue_add_obj(ctl->q, ns);
    }
}

void ctl_start_namespace(struct controllers *c) {
    struct nsctl *ctl = ctl_new(c, struct nsctl);
    ctl->c = c;
    ctl->q = ctl_queue(c, "namespace", 4, handle, ctl);
    kinformer_listen(c->namespaces, on_namespace, ctl);
    kinformer_listen(c->pods, on_pod, ctl);
    kqueue_need(ctl->q, c->namespaces);
}
