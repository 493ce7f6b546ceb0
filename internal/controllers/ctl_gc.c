/* Garbage collection by ownerReferences: background, foreground, orphan.
 *
 * Kinds that a controller watches anyway are heard through the shared informers. Every other kind has a watch of metadata
 * that caches nothing: only objects with owners, or on their way out with dependents, are remembered here. Whether an
 * owner lives is answered by the shared caches when they have it, and otherwise by the API server; nothing is ever
 * deleted on the word of a cache.
 */
#include "internal/controllers/ctl_int.h"

enum { DISCOVER_AFTER_MS = 300, REDISCOVER_S = 1, LIM_OWNERS = 64 };

#define FOREGROUND "foregroundDeletion"
#define ORPHAN "orphan"

struct gkind {
    struct gkind *next;
    struct gc *gc;
    struct ctl_kind k;
    struct kinformer *shared, *own; /* one of the two */
    uint32_t gen;                   /* of the list under way */
    bool is_found;                  /* in the last discovery */
};

struct gowner {
    char *uid, *name, *kind, *group;
    bool blocks;
};

struct gobj {
    struct gkind *kind;
    char *ns, *name;
    struct gowner *owners;
    size_t n_owners;
    uint32_t seen;
    bool is_deleting, wants_foreground, wants_orphan;
    char uid[];
};

struct uids {
    struct gobj **v;
    size_t n;
};

struct gc {
    struct controllers *c;
    struct kqueue *q; /* uids, and "discover" */
    struct gkind *kinds;
    struct map objs;       /* uid → struct gobj */
    struct map dependents; /* owner's uid → struct uids */
};

/* ---- the graph ---- */

static void dep_add(struct gc *gc, const char *owner, struct gobj *o) {
    struct uids *u = map_get_str(&gc->dependents, owner);
    if (!u) {
        u = new_zero(struct uids);
        map_put_str(&gc->dependents, owner, u);
    }
    u->v = mem_array(u->v, u->n + 1, sizeof(struct gobj *), 1 << 24);
    CHECK(u->v);
    u->v[u->n++] = o;
}

static void dep_del(struct gc *gc, const char *owner, const struct gobj *o) {
    struct uids *u = map_get_str(&gc->dependents, owner);
    for (size_t i = 0; u && i < u->n; i++) {
        if (u->v[i] == o) {
            u->v[i] = u->v[--u->n];
            break;
        }
    }
    if (u && !u->n) {
        map_del_str(&gc->dependents, owner);
        free(u->v);
        free(u);
    }
}

static size_t n_dependents(const struct gc *gc, const char *uid) {
    const struct uids *u = map_get_str(&gc->dependents, uid);
    return u ? u->n : 0;
}

static void owners_drop(struct gc *gc, struct gobj *o) {
    for (size_t i = 0; i < o->n_owners; i++) {
        dep_del(gc, o->owners[i].uid, o);
        free(o->owners[i].uid);
        free(o->owners[i].name);
        free(o->owners[i].kind);
        free(o->owners[i].group);
    }
    free(TAKE(o->owners));
    o->n_owners = 0;
}

static void owners_load(struct gc *gc, struct gobj *o, const struct json *refs) {
    size_t n = json_len(refs) < LIM_OWNERS ? json_len(refs) : LIM_OWNERS;
    owners_drop(gc, o);
    if (!n) {
        return;
    }
    o->owners = mem_array(NULL, n, sizeof(*o->owners), LIM_OWNERS);
    CHECK(o->owners);
    JSON_EACH(it, ref, refs) {
        struct span group = SPAN_EMPTY, version;
        if (o->n_owners == n) {
            break;
        }
        IGNORE_ERR(kube_gv_split(json_str_or(json_get(ref, "apiVersion"), ""), &group, &version),
                   "validated by the API server");
        struct gowner *w = &o->owners[o->n_owners++];
        w->uid = str_dup(json_str_or(json_get(ref, "uid"), ""));
        w->name = str_dup(json_str_or(json_get(ref, "name"), ""));
        w->kind = str_dup(json_str_or(json_get(ref, "kind"), ""));
        w->group = str_dupn(group.p, group.n);
        w->blocks = json_bool(json_get(ref, "blockOwnerDeletion"), false);
        dep_add(gc, w->uid, o);
    }
}

static void obj_drop(struct gc *gc, struct gobj *o) {
    owners_drop(gc, o);
    map_del_str(&gc->objs, o->uid);
    free(o->ns);
    free(o->name);
    free(o);
}

static bool same_owners(const struct gobj *o, const struct json *refs) {
    size_t i = 0;
    if (json_len(refs) != o->n_owners) {
        return false;
    }
    JSON_EACH(it, ref, refs) {
        if (!str_eq(json_str(json_get(ref, "uid")), o->owners[i].uid) ||
            json_bool(json_get(ref, "blockOwnerDeletion"), false) != o->owners[i].blocks) {
            return false;
        }
        i++;
    }
    return true;
}

static struct gkind *kind_of(const struct gc *gc, const char *group, const char *kind) {
    for (struct gkind *k = gc->kinds; k; k = k->next) {
        if (str_eq(k->k.kind, kind) && str_eq(k->k.group, group)) {
            return k;
        }
    }
    return NULL;
}

/* The owner as a shared cache has it, when it has the very same one. */
static const struct json *cached_owner(const struct gobj *o, const struct gkind *k,
                                       const struct gowner *w) {
    const struct json *obj =
        k && k->shared ? kinformer_get(k->shared, k->k.namespaced ? o->ns : NULL, w->name) : NULL;
    return obj && str_eq(kube_uid(obj), w->uid) ? obj : NULL;
}

static bool waits_for_dependents(const struct json *obj) {
    return kube_is_deleting(obj) && kube_has_finalizer(obj, FOREGROUND);
}

/* Are all owners known to live? Then there is nothing to do for the object. */
static bool owners_are_fine(const struct gc *gc, const struct gobj *o) {
    for (size_t i = 0; i < o->n_owners; i++) {
        const struct gowner *w = &o->owners[i];
        const struct json *obj = cached_owner(o, kind_of(gc, w->group, w->kind), w);
        if (!obj || waits_for_dependents(obj)) {
            return false;
        }
    }
    return true;
}

/* ---- what the watches say ---- */

static void owner_is_gone(struct gc *gc, const char *uid) {
    struct uids *u = map_get_str(&gc->dependents, uid);
    for (size_t i = 0; u && i < u->n; i++) {
        kqueue_add(gc->q, u->v[i]->uid);
    }
}

static void wake_owners(struct gc *gc, const struct gobj *o) {
    for (size_t i = 0; i < o->n_owners; i++) {
        const struct gobj *w = map_get_str(&gc->objs, o->owners[i].uid);
        if (w && (w->wants_foreground || w->wants_orphan)) {
            kqueue_add(gc->q, w->uid);
        }
    }
}

static void on_gone(struct gc *gc, const char *uid) {
    struct gobj *o = map_get_str(&gc->objs, uid);
    owner_is_gone(gc, uid);
    if (o) {
        wake_owners(gc, o);
        obj_drop(gc, o);
    }
}

static void on_seen(struct gkind *k, const struct json *obj) {
    struct gc *gc = k->gc;
    const char *uid = kube_uid(obj);
    const struct json *refs = json_at(obj, "metadata", "ownerReferences");
    bool deleting = kube_is_deleting(obj);
    bool foreground = deleting && kube_has_finalizer(obj, FOREGROUND),
         orphan = deleting && kube_has_finalizer(obj, ORPHAN);
    struct gobj *o = map_get_str(&gc->objs, uid);
    if (!o && !json_len(refs) && !foreground && !orphan) {
        return;
    }
    bool is_new = !o;
    if (!o) {
        size_t n = strlen(uid) + 1;
        o = mem_zero_alloc(sizeof(*o) + n);
        memcpy(o->uid, uid, n);
        o->kind = k;
        o->ns = str_dup(kube_namespace(obj));
        o->name = str_dup(kube_name(obj));
        map_put_str(&gc->objs, uid, o);
    }
    bool changed = !same_owners(o, refs);
    if (changed) {
        wake_owners(gc, o);
        owners_load(gc, o, refs);
    }
    bool turned = foreground != o->wants_foreground || orphan != o->wants_orphan ||
                  (deleting && !o->is_deleting);
    o->is_deleting = deleting;
    o->wants_foreground = foreground;
    o->wants_orphan = orphan;
    o->seen = k->gen;
    if (((is_new || changed) && !owners_are_fine(gc, o)) || (turned && (foreground || orphan))) {
        kqueue_add(gc->q, o->uid);
    }
    if (!o->n_owners && !foreground && !orphan && !n_dependents(gc, uid)) {
        obj_drop(gc, o);
    }
}

static void on_change(void *ctx, struct json *old, struct json *cur) {
    struct gkind *k = ctx;
    if (cur) {
        on_seen(k, cur);
    } else {
        on_gone(k->gc, kube_uid(old));
        if (k->gc->c->on_gone && k->k.namespaced) {
            k->gc->c->on_gone(k->gc->c->on_gone_ctx, kube_namespace(old));
        }
    }
    if (str_eq(k->k.resource, "customresourcedefinitions") ||
        str_eq(k->k.resource, "apiservices")) {
        kqueue_add_after(k->gc->q, "discover", REDISCOVER_S * NS_PER_S);
    }
}

/* A watch without cache listed anew: deletions may have been missed in between. */
static void on_list(void *ctx) {
    struct gkind *k = ctx;
    k->gen++;
}

static void on_listed(void *ctx) {
    struct gkind *k = ctx;
    struct gc *gc = k->gc;
    struct map_iter it = {0};
    struct map_entry *en;
    if (k->gen <= 1) {
        return;
    }
    while (map_next(&gc->objs, &it, &en)) {
        struct gobj *o = en->value;
        if (o->kind == k && o->seen != k->gen) {
            on_gone(gc, o->uid);
            continue;
        }
        for (size_t i = 0; i < o->n_owners; i++) {
            if (str_eq(o->owners[i].kind, k->k.kind) && str_eq(o->owners[i].group, k->k.group)) {
                kqueue_add(gc->q, o->uid);
            }
        }
    }
}

/* ---- one object ---- */

struct grun {
    struct gc *gc;
    struct kref ref; /* of the object; strings in s->d */
    char *uid;
    size_t n_solid, n_waiting, n_dangling;
    struct map bad; /* uids of owners to drop from the references, when solid ones remain */
    size_t next;
    bool is_unsure; /* an owner of an unknown kind, or an error */
};

static void fini(struct sync *s) {
    struct grun *r = s->data;
    map_fini(&r->bad);
    free(r->uid);
}

static struct gobj *find(struct sync *s) {
    struct grun *r = s->data;
    return map_get_str(&r->gc->objs, r->uid);
}

static struct kref ref_of(struct json_doc *d, const struct gobj *o) {
    const struct ctl_kind *k = &o->kind->k;
    return (struct kref){k->group,
                         k->version,
                         k->resource,
                         k->namespaced ? json_str(json_new_str(d, o->ns)) : NULL,
                         json_str(json_new_str(d, o->name)),
                         NULL};
}

/* Writes a list of metadata without some of its entries; only if the object is still as it was read. */
static void patch_list(struct sync *s, const struct kref *r, const struct json *obj,
                       const char *field, struct json *list) {
    struct json *patch = json_new_obj(s->d), *meta = json_set_obj(s->d, patch, "metadata");
    json_set_str(s->d, meta, "uid", kube_uid(obj));
    json_set_str(s->d, meta, "resourceVersion", kube_rv(obj));
    json_set(s->d, meta, field, json_len(list) ? list : json_new_null(s->d));
    sync_patch(s, NULL, r, KPATCH_MERGE, patch, NULL);
}

static void drop_finalizer(struct sync *s, const struct json *obj, const char *name) {
    struct grun *r = s->data;
    struct json *keep = json_new_arr(s->d);
    JSON_EACH(it, f, json_at(obj, "metadata", "finalizers")) {
        if (!str_eq(json_str(f), name)) {
            json_push(keep, json_copy(s->d, f));
        }
    }
    patch_list(s, &r->ref, obj, "finalizers", keep);
}

static void on_obj_foreground(struct sync *s, int rc, struct json *obj, const struct err *e) {
    struct grun *r = s->data;
    (void)e;
    if (rc == 0 && str_eq(kube_uid(obj), r->uid) && kube_has_finalizer(obj, FOREGROUND)) {
        drop_finalizer(s, obj, FOREGROUND);
    }
}

static void on_obj_orphan(struct sync *s, int rc, struct json *obj, const struct err *e) {
    struct grun *r = s->data;
    (void)e;
    if (rc == 0 && str_eq(kube_uid(obj), r->uid) && kube_has_finalizer(obj, ORPHAN)) {
        drop_finalizer(s, obj, ORPHAN);
    }
}

/* A dependent, read anew, loses its references to the owner. */
static void on_dependent(struct sync *s, int rc, struct json *obj, const struct err *e) {
    struct grun *r = s->data;
    (void)e;
    if (rc < 0) {
        return;
    }
    struct json *keep = json_new_arr(s->d);
    JSON_EACH(it, ref, json_at(obj, "metadata", "ownerReferences")) {
        if (!str_eq(json_str(json_get(ref, "uid")), r->uid)) {
            json_push(keep, json_copy(s->d, ref));
        }
    }
    const struct gobj *o = map_get_str(&r->gc->objs, kube_uid(obj));
    if (o && json_len(keep) != json_len(json_at(obj, "metadata", "ownerReferences"))) {
        struct kref ref = ref_of(s->d, o);
        patch_list(s, &ref, obj, "ownerReferences", keep);
    }
}

static void finish_orphan(struct sync *s) {
    struct grun *r = s->data;
    if (find(s)) {
        sync_get(s, &r->ref, NULL, on_obj_orphan);
    }
    sync_end(s);
}

static void orphan_dependents(struct sync *s) {
    struct grun *r = s->data;
    const struct uids *u = map_get_str(&r->gc->dependents, r->uid);
    for (size_t i = 0; u && i < u->n; i++) {
        struct kref ref = ref_of(s->d, u->v[i]);
        sync_get(s, &ref, NULL, on_dependent);
    }
    s->then = finish_orphan;
}

static void foreground(struct sync *s) {
    struct grun *r = s->data;
    const struct uids *u = map_get_str(&r->gc->dependents, r->uid);
    size_t n_blocking = 0;
    for (size_t i = 0; u && i < u->n; i++) {
        const struct gobj *d = u->v[i];
        for (size_t k = 0; k < d->n_owners; k++) {
            n_blocking += d->owners[k].blocks && str_eq(d->owners[k].uid, r->uid);
        }
        if (!d->is_deleting) {
            kqueue_add(r->gc->q, d->uid);
        }
    }
    if (!n_blocking) {
        sync_get(s, &r->ref, NULL, on_obj_foreground);
    }
}

/* ---- an object with owners ---- */

static void ask_owners(struct sync *s);

static void on_obj_refs(struct sync *s, int rc, struct json *obj, const struct err *e) {
    struct grun *r = s->data;
    (void)e;
    if (rc < 0 || !str_eq(kube_uid(obj), r->uid)) {
        return;
    }
    struct json *keep = json_new_arr(s->d);
    JSON_EACH(it, ref, json_at(obj, "metadata", "ownerReferences")) {
        if (!map_get_str(&r->bad, json_str_or(json_get(ref, "uid"), ""))) {
            json_push(keep, json_copy(s->d, ref));
        }
    }
    patch_list(s, &r->ref, obj, "ownerReferences", keep);
}

static void decide(struct sync *s) {
    struct grun *r = s->data;
    const struct gobj *o = find(s);
    s->then = NULL;
    if (!o || r->is_unsure || (!r->n_waiting && !r->n_dangling)) {
        s->failed |= r->is_unsure;
    } else if (r->n_solid) {
        sync_get(s, &r->ref, NULL, on_obj_refs);
    } else if (!o->is_deleting) {
        bool keep_order = r->n_waiting && n_dependents(r->gc, r->uid);
        const char *policy = keep_order || o->wants_foreground ? "Foreground"
                             : o->wants_orphan                 ? "Orphan"
                                                               : "Background";
        sync_delete(s, NULL, &r->ref, policy, r->uid, NULL);
    }
    sync_end(s);
}

static void count_owner(struct grun *r, const struct gowner *w, const struct json *obj) {
    if (!obj) {
        r->n_dangling++;
        map_put_str(&r->bad, w->uid, r);
    } else if (waits_for_dependents(obj)) {
        r->n_waiting++;
        map_put_str(&r->bad, w->uid, r);
    } else {
        r->n_solid++;
    }
}

static void on_owner(struct sync *s, int rc, struct json *obj, const struct err *e) {
    struct grun *r = s->data;
    const struct gobj *o = find(s);
    (void)e;
    if (!o || r->next >= o->n_owners) {
        return; /* changed meanwhile: it is queued again */
    }
    const struct gowner *w = &o->owners[r->next++];
    if (rc < 0 && rc != -ERR_NOT_FOUND) {
        r->is_unsure = true;
    } else {
        count_owner(r, w, rc == 0 && str_eq(kube_uid(obj), w->uid) ? obj : NULL);
    }
}

static void ask_owners(struct sync *s) {
    struct grun *r = s->data;
    const struct gobj *o = find(s);
    while (o && r->next < o->n_owners) {
        const struct gowner *w = &o->owners[r->next];
        const struct gkind *k = kind_of(r->gc, w->group, w->kind);
        const struct json *cached = cached_owner(o, k, w);
        if (cached) {
            count_owner(r, w, cached);
            r->next++;
            continue;
        }
        if (!k || (k->k.namespaced && !*o->ns)) {
            /* A kind that is not served, or a reference that may not be: nobody can tell, so the object stays. */
            r->n_solid++;
            r->next++;
            continue;
        }
        struct kref ref = {k->k.group, k->k.version, k->k.resource, k->k.namespaced ? o->ns : NULL,
                           w->name,    NULL};
        sync_get(s, &ref, NULL, on_owner);
        s->then = ask_owners;
        sync_end(s);
        return;
    }
    decide(s);
}

static void discover(struct gc *gc, struct sync *s);

static void handle(void *ctx, const char *key) {
    struct gc *gc = ctx;
    struct sync *s = sync_begin(gc->c, gc->q, key);
    if (str_eq(key, "discover")) {
        discover(gc, s);
        return;
    }
    struct grun *r = s->data = new_zero(struct grun);
    s->fini = fini;
    r->gc = gc;
    r->uid = str_dup(key);
    const struct gobj *o = find(s);
    if (!o) {
        sync_end(s);
        return;
    }
    r->ref = ref_of(s->d, o);
    if (o->wants_orphan) {
        orphan_dependents(s);
    } else if (o->wants_foreground) {
        foreground(s);
    } else if (o->n_owners && !o->is_deleting) {
        ask_owners(s);
        return;
    }
    sync_end(s);
}

/* ---- kinds ---- */

struct gdisc {
    struct gc *gc;
    struct ctl_kinds kinds;
};

static void kind_start(struct gc *gc, struct ctl_kind *own_kind) {
    struct gkind *k = new_zero(struct gkind);
    k->gc = gc;
    k->k = *own_kind;
    *own_kind = (struct ctl_kind){0};
    k->is_found = true;
    k->next = gc->kinds;
    gc->kinds = k;
    k->shared = kfactory_find(gc->c->f, k->k.group, k->k.resource);
    if (k->shared) {
        kinformer_listen(k->shared, on_change, k);
        return;
    }
    struct kinformer_opts o = {
        .ref = {.group = k->k.group, .version = k->k.version, .resource = k->k.resource},
        .on_change = on_change,
        .on_list = on_list,
        .on_synced = on_listed,
        .ctx = k,
        .metadata_only = true,
        .no_cache = true,
    };
    k->own = kinformer_start(gc->c->c, &o);
}

static void kind_stop(struct gc *gc, struct gkind *k) {
    struct map_iter it = {0};
    struct map_entry *en;
    while (map_next(&gc->objs, &it, &en)) {
        struct gobj *o = en->value;
        if (o->kind == k) {
            obj_drop(gc, o);
        }
    }
    kinformer_stop(k->own);
    free(k->k.group);
    free(k->k.version);
    free(k->k.resource);
    free(k->k.kind);
    free(k);
}

static void on_discovered(struct sync *s) {
    struct gdisc *d = s->data;
    struct gc *gc = d->gc;
    for (struct gkind *k = gc->kinds; k; k = k->next) {
        k->is_found = k->shared != NULL; /* those stay with their informer */
    }
    for (size_t i = 0; i < d->kinds.n; i++) {
        struct ctl_kind *new = &d->kinds.v[i];
        struct gkind *k = kind_of(gc, new->group, new->kind);
        if (k && str_eq(k->k.version, new->version)) {
            k->is_found = true;
        } else if (new->can_watch && !str_eq(new->resource, "events")) {
            kind_start(gc, new);
        }
    }
    for (struct gkind **p = &gc->kinds; *p;) {
        struct gkind *k = *p;
        if (k->is_found || d->kinds.is_incomplete) {
            p = &k->next;
        } else {
            *p = k->next;
            kind_stop(gc, k);
        }
    }
    s->failed |= d->kinds.is_incomplete;
    sync_end(s);
}

static void fini_discovery(struct sync *s) {
    struct gdisc *d = s->data;
    ctl_kinds_fini(&d->kinds);
}

static void discover(struct gc *gc, struct sync *s) {
    struct gdisc *d = s->data = new_zero(struct gdisc);
    d->gc = gc;
    s->fini = fini_discovery;
    s->then = on_discovered;
    ctl_discover(s, &d->kinds);
    sync_end(s);
}

static const struct ctl_kind *find_kind(void *ctx, struct span group, struct span resource) {
    struct gc *gc = ctx;
    for (const struct gkind *k = gc->kinds; k; k = k->next) {
        if (span_eq_str(resource, k->k.resource) && span_eq_str(group, k->k.group)) {
            return &k->k;
        }
    }
    return NULL;
}

void ctl_start_gc(struct controllers *c) {
    struct gc *gc = ctl_new(c, struct gc);
    gc->c = c;
    c->kinds = find_kind;
    c->kinds_ctx = gc;
    gc->q = ctl_queue(c, "gc", 8, handle, gc);
    kqueue_need(gc->q, c->namespaces); /* the server answers */
    kqueue_add_after(gc->q, "discover", DISCOVER_AFTER_MS * NS_PER_MS);
}
