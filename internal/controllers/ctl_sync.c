#include "internal/controllers/ctl_int.h"

struct scall {
    struct sync *s;
    struct kinformer *inf;
    sync_cb *cb;
    char *what;            /* path, for the log */
    char *ns, *name, *uid; /* deletions */
    bool is_delete;
};

struct sync *sync_begin(struct controllers *c, struct kqueue *q, const char *key) {
    struct sync *s = new_zero(struct sync);
    s->c = c;
    s->q = q;
    IGNORE_ERR(str_put(s->key, sizeof(s->key), "%s", key), "keys fit");
    kkey_split(key, s->ns, s->name);
    s->d = json_doc_new();
    return s;
}

static void step(struct sync *s) {
    if (!s->ended || s->pending) {
        return;
    }
    if (s->then && !s->failed) {
        void (*then)(struct sync *) = s->then;
        s->then = NULL;
        s->ended = false;
        then(s);
        return;
    }
    kqueue_done(s->q, s->key, !s->failed);
    if (s->fini) {
        s->fini(s);
    }
    json_doc_free(s->d);
    free(s->data);
    free(s);
}

void sync_end(struct sync *s) {
    s->ended = true;
    step(s);
}

/* The namespace is on its way out, or the object is: nothing that trying again would change. */
static bool is_moot(int rc, const struct err *e, bool is_delete) {
    return rc == -ERR_NOT_FOUND || (rc == -ERR_CONFLICT && is_delete) ||
           (rc == -ERR_FORBIDDEN && strstr(e->msg, "being terminated"));
}

static void on_answer(void *ctx, int rc, struct json *obj, const struct err *e) {
    struct scall *k = ctx;
    struct sync *s = k->s;
    bool is_status = str_eq(json_str(json_get(obj, "kind")), "Status");
    if (k->inf && rc == 0 && obj && !is_status) {
        kinformer_put(k->inf, obj);
    } else if (k->inf && k->is_delete && (rc == 0 || rc == -ERR_NOT_FOUND)) {
        kinformer_gone(k->inf, k->ns, k->name, k->uid);
    }
    if (rc < 0 && !is_moot(rc, e, k->is_delete)) {
        s->failed = true;
        if (rc != -ERR_CONFLICT && rc != -ERR_EXISTS && rc != -ERR_CANCELLED &&
            rc != -ERR_UNAVAILABLE) { /* of an API server that is away the informers tell, once */
            LOG_INFO("controllers", "request failed, trying again later", F_STR("path", k->what),
                     F_STR("key", s->key), F_ERR(e));
        }
    }
    if (k->cb) {
        k->cb(s, rc, obj, e);
    }
    free(k->what);
    free(k->ns);
    free(k->name);
    free(k->uid);
    free(k);
    s->pending--;
    step(s);
}

static struct scall *call_new(struct sync *s, struct kinformer *inf, const struct kref *r,
                              sync_cb *cb) {
    struct scall *k = new_zero(struct scall);
    AUTO(buf) struct buf path = BUF_INIT(4096);
    kref_path(r, &path);
    k->s = s;
    k->inf = inf;
    k->cb = cb;
    k->what = str_dup(buf_cstr(&path));
    s->pending++;
    return k;
}

void sync_create(struct sync *s, struct kinformer *into, const struct kref *r,
                 const struct json *obj, sync_cb *cb) {
    kcreate(s->c->c, r, obj, on_answer, call_new(s, into, r, cb));
}

void sync_update(struct sync *s, struct kinformer *into, const struct kref *r,
                 const struct json *obj, sync_cb *cb) {
    kupdate(s->c->c, r, obj, on_answer, call_new(s, into, r, cb));
}

void sync_patch(struct sync *s, struct kinformer *into, const struct kref *r, enum kpatch kind,
                const struct json *patch, sync_cb *cb) {
    kpatch(s->c->c, r, kind, patch, NULL, on_answer, call_new(s, into, r, cb));
}

void sync_delete(struct sync *s, struct kinformer *from, const struct kref *r,
                 const char *propagation, const char *uid, sync_cb *cb) {
    struct scall *k = call_new(s, from, r, cb);
    k->is_delete = true;
    k->ns = str_dup(r->ns ? r->ns : "");
    k->name = str_dup(r->name);
    k->uid = str_dup(uid ? uid : "");
    kdelete(s->c->c, r, propagation, uid, on_answer, k);
}

void sync_delete_collection(struct sync *s, const struct kref *r, sync_cb *cb) {
    kdelete_collection(s->c->c, r, "Background", on_answer, call_new(s, NULL, r, cb));
}

void sync_get(struct sync *s, const struct kref *r, const char *query, sync_cb *cb) {
    AUTO(buf) struct buf path = BUF_INIT(8192);
    kref_path(r, &path);
    if (query) {
        buf_fmt(&path, "?%s", query);
    }
    sync_get_path(s, buf_cstr(&path), cb);
}

void sync_get_path(struct sync *s, const char *path, sync_cb *cb) {
    struct scall *k = new_zero(struct scall);
    k->s = s;
    k->cb = cb;
    k->what = str_dup(path);
    s->pending++;
    kraw(s->c->c, "GET", path, NULL, SPAN_EMPTY, on_answer, k);
}

struct kref ctl_ref(const char *group, const char *version, const char *resource,
                    const struct json *obj, const char *subresource) {
    const char *ns = kube_namespace(obj);
    return (struct kref){group, version, resource, *ns ? ns : NULL, kube_name(obj), subresource};
}

bool sync_status(struct sync *s, struct kinformer *into, const char *group, const char *version,
                 const char *resource, const struct json *obj, struct json *status) {
    if (json_eq(json_get(obj, "status"), status)) {
        return false;
    }
    struct json *copy = json_copy(s->d, obj);
    json_set(s->d, copy, "status", status);
    struct kref r = ctl_ref(group, version, resource, obj, "status");
    sync_update(s, into, &r, copy, NULL);
    return true;
}
