#include "internal/farm/farm_int.h"

#include <stdlib.h>

static const struct kref tenants_ref = {
    .group = "kfarm.dev", .version = "v1alpha1", .resource = "tenants"};

/* ---- passes ---- */

void pass_end(struct pass *p, int rc, const struct err *e) {
    struct farm *f = p->f;
    if (rc < 0 && rc != -ERR_CONFLICT && rc != -ERR_NOT_FOUND) {
        LOG_WARN("farm", "tenant not brought to its state, trying again", F_STR("tenant", p->key),
                 F_STR("err", e ? e->msg : err_name((enum err_code) - rc)));
    }
    char key[LIM_KKEY];
    kkey_make(p->ns, p->name, key);
    bool again = p->again;
    free(p);
    if (again) {
        kqueue_add(f->queue, key);
    }
    kqueue_done(f->queue, key, rc >= 0);
}

struct write *pass_write(struct pass *p, struct kinformer *into) {
    struct write *w = new_zero(struct write);
    w->p = p;
    w->into = into;
    return w;
}

void pass_wrote(void *ctx, int rc, struct json *obj, const struct err *e) {
    struct write *w = ctx;
    struct pass *p = w->p;
    if (rc >= 0 && w->into && obj) {
        kinformer_put(w->into, obj);
    }
    free(w);
    p->again = rc >= 0;
    pass_end(p, rc, e);
}

static void key_step(void *ctx, int rc, struct json *reply, const struct err *e) {
    struct pass *p = ctx;
    (void)reply;
    p->t->has_keys = rc >= 0;
    p->again = rc >= 0;
    pass_end(p, rc, e);
}

static void keys_gone(void *ctx, int rc, struct json *reply, const struct err *e) {
    struct pass *p = ctx;
    (void)reply;
    p->t->keys_gone = rc >= 0;
    p->again = rc >= 0;
    pass_end(p, rc, e);
}

static void files_gone(void *ctx, int rc, const struct json *reply, int own_fd,
                       const struct err *e) {
    struct pass *p = ctx;
    (void)reply;
    (void)own_fd;
    p->t->files_gone = rc >= 0;
    p->again = rc >= 0;
    pass_end(p, rc, e);
}

/* ---- steps ---- */

static bool has_finalizer(const struct json *o) {
    JSON_EACH(it, x, json_at(o, "metadata", "finalizers")) {
        if (str_eq(json_str(x), FARM_FINALIZER)) {
            return true;
        }
    }
    return false;
}

/* Adds or removes our finalizer with a precondition on the version we saw. */
static bool step_finalizer(struct pass *p, bool want) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *patch = json_new_obj(d), *meta = json_set_obj(d, patch, "metadata");
    struct json *list = json_set_arr(d, meta, "finalizers");
    json_set_str(d, meta, "resourceVersion", json_str_at(p->obj, "metadata", "resourceVersion"));
    JSON_EACH(it, x, json_at(p->obj, "metadata", "finalizers")) {
        if (!str_eq(json_str(x), FARM_FINALIZER)) {
            json_push(list, json_copy(d, x));
        }
    }
    if (want) {
        json_push_str(d, list, FARM_FINALIZER);
    }
    struct kref r = tenants_ref;
    r.ns = p->ns;
    r.name = p->name;
    kpatch(p->f->o.admin, &r, KPATCH_MERGE, patch, NULL, pass_wrote,
           pass_write(p, want ? p->f->tenants : NULL));
    return true;
}

static bool step_port(struct pass *p) {
    if (json_i64_at(p->obj, 0, "status", "port")) {
        return false;
    }
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *patch = json_new_obj(d), *st = json_set_obj(d, patch, "status");
    uint16_t port = p->t->port ? p->t->port : farm_port(p->f, p->obj);
    if (!port) {
        struct err e = ERR_INIT;
        kevent(p->f->events, p->obj, "Warning", "NoPort", "no free port between %u and %u",
               (unsigned)p->f->o.port_first, (unsigned)p->f->o.port_last);
        err_set(&e, ERR_LIMIT, "no free port");
        pass_end(p, -ERR_LIMIT, &e);
        return true;
    }
    p->t->port = port; /* several passes run at once: nobody else may take it meanwhile */
    json_set_i64(d, st, "port", port);
    json_set_str(d, json_set_obj(d, patch, "metadata"), "resourceVersion",
                 json_str_at(p->obj, "metadata", "resourceVersion"));
    struct kref r = tenants_ref;
    r.ns = p->ns;
    r.name = p->name;
    r.subresource = "status";
    kpatch(p->f->o.admin, &r, KPATCH_MERGE, patch, NULL, pass_wrote, pass_write(p, p->f->tenants));
    return true;
}

static bool step_keys(struct pass *p) {
    if (p->t->has_keys) {
        return false;
    }
    keyclient_create(p->f->o.keys, p->t->uid, key_step, p);
    return true;
}

static void kubeconfig_issued(void *ctx, int rc, struct key_identity *id, const struct err *e) {
    struct pass *p = ctx;
    struct json *tenant = kinformer_get(p->f->tenants, p->ns, p->name);
    if (rc < 0 || !tenant) {
        pass_end(p, rc, e);
        return;
    }
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *s = farm_kubeconfig_secret(p->f, tenant, id, d);
    const char *name = json_str_at(s, "metadata", "name");
    struct json *old = kinformer_get(p->f->secrets, p->ns, name);
    const struct kref r = {
        .version = "v1", .resource = "secrets", .ns = p->ns, .name = old ? name : NULL};
    if (old) {
        kupdate(p->f->o.admin, &r, s, pass_wrote, pass_write(p, p->f->secrets));
    } else {
        kcreate(p->f->o.admin, &r, s, pass_wrote, pass_write(p, p->f->secrets));
    }
}

static bool step_kubeconfig(struct pass *p) {
    char name[LIM_KKEY], server[LIM_KKEY];
    const char *host = farm_host(p->f, p->obj);
    bool v6 = strchr(host, ':') != NULL;
    (void)str_put(name, sizeof(name), "%s-kubeconfig", p->name);
    (void)str_put(server, sizeof(server), "https://%s%s%s:%lld", v6 ? "[" : "", host, v6 ? "]" : "",
                  (long long)json_i64_at(p->obj, 0, "status", "port"));
    struct json *s = kinformer_get(p->f->secrets, p->ns, name);
    if (s && (p->t->secret_checked || farm_kubeconfig_good(s, server))) {
        p->t->secret_checked = true;
        return false;
    }
    const struct key_req r = {.scope = p->t->uid, .profile = KEY_ADMIN};
    keyclient_issue(p->f->o.keys, &r, kubeconfig_issued, p);
    return true;
}

static bool step_deployment(struct pass *p) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *want = farm_deployment(p->f, p->obj, d);
    const char *name = json_str_at(want, "metadata", "name");
    struct json *have = kinformer_get(p->f->deployments, p->ns, name);
    if (have && str_eq(json_str_at(have, "metadata", "annotations", FARM_HASH),
                       json_str_at(want, "metadata", "annotations", FARM_HASH))) {
        return false;
    }
    const struct kref r = {.group = "apps",
                           .version = "v1",
                           .resource = "deployments",
                           .ns = p->ns,
                           .name = have ? name : NULL};
    if (have) {
        json_set_str(d, json_get(want, "metadata"), "resourceVersion",
                     json_str_at(have, "metadata", "resourceVersion"));
        kupdate(p->f->o.admin, &r, want, pass_wrote, pass_write(p, p->f->deployments));
    } else {
        kcreate(p->f->o.admin, &r, want, pass_wrote, pass_write(p, p->f->deployments));
    }
    return true;
}

static bool pods_left(const struct pass *p) {
    struct map_iter it = {0};
    for (struct json *pod; kinformer_next(p->f->pods, &it, &pod);) {
        if (str_eq(json_str_at(pod, "metadata", "namespace"), p->ns) &&
            str_eq(json_str_at(pod, "metadata", "labels", FARM_TENANT_LABEL), p->name)) {
            return true;
        }
    }
    return false;
}

static void deployment_deleted(void *ctx, int rc, struct json *obj, const struct err *e) {
    (void)obj;
    pass_end(ctx, rc == -ERR_NOT_FOUND ? 0 : rc, e);
}

/* Processes first, then files or the keys in etcd, the scope's keys, and last the finalizer: what is gone is never needed again. */
static void teardown(struct pass *p) {
    char name[LIM_KKEY];
    farm_tenant_disconnect(p->t);
    (void)str_put(name, sizeof(name), "%s-control-plane", p->name);
    struct json *dep = kinformer_get(p->f->deployments, p->ns, name);
    if (!has_finalizer(p->obj)) {
        pass_end(p, 0, NULL);
    } else if (dep && !json_at(dep, "metadata", "deletionTimestamp")) {
        const struct kref r = {
            .group = "apps", .version = "v1", .resource = "deployments", .ns = p->ns, .name = name};
        kdelete(p->f->o.admin, &r, "Background", NULL, deployment_deleted, p);
    } else if (dep || pods_left(p)) {
        pass_end(p, 0, NULL); /* the informers wake us */
    } else if (!p->t->files_gone) {
        AUTO(json_docp) struct json_doc *d = json_doc_new();
        struct json *q = json_new_obj(d);
        json_set_str(d, q, "scope", p->t->uid);
        super_call(p->f->o.super, SUPER_FORGET, q, files_gone, p);
    } else if (farm_etcd_wipe(p)) {
        return;
    } else if (!p->t->keys_gone) {
        keyclient_delete(p->f->o.keys, p->t->uid, keys_gone, p);
    } else {
        step_finalizer(p, false);
    }
}

static struct tenant *tenant_of(struct farm *f, const struct json *obj, const char *key) {
    const char *uid = json_str_at(obj, "metadata", "uid");
    struct tenant *t = map_get_str(&f->by_uid, uid);
    if (!t) {
        t = new_zero(struct tenant);
        t->f = f;
        t->uid = str_dup(uid);
        t->key = str_dup(key);
        map_put_str(&f->by_uid, uid, t);
    }
    return t;
}

static void tenant_free(struct tenant *t) {
    farm_tenant_disconnect(t);
    free(t->uid);
    free(t->key);
    free(t->version);
    free(t);
}

static void reconcile(void *ctx, const char *key) {
    struct farm *f = ctx;
    struct pass *p = new_zero(struct pass);
    p->f = f;
    (void)str_put(p->key, sizeof(p->key), "%s", key);
    kkey_split(key, p->ns, p->name);
    p->obj = kinformer_get(f->tenants, p->ns, p->name);
    if (!p->obj) {
        pass_end(p, 0, NULL);
        return;
    }
    p->t = tenant_of(f, p->obj, key);
    if (json_at(p->obj, "metadata", "deletionTimestamp")) {
        teardown(p);
        return;
    }
    const char *unsupported = farm_unsupported(p->obj);
    bool paused = json_bool_at(p->obj, false, "spec", "paused");
    if (!paused && !unsupported) {
        if (!has_finalizer(p->obj)) {
            step_finalizer(p, true);
            return;
        }
        if (step_port(p) || step_keys(p) || step_kubeconfig(p) || step_deployment(p) ||
            farm_sync_machine(p)) {
            return;
        }
        farm_sync_tags(p->t, p->obj);
    }
    if (!farm_sync_status(p, unsupported)) {
        pass_end(p, 0, NULL);
    }
}

/* ---- wiring ---- */

static void tenant_changed(void *ctx, struct json *old, struct json *cur) {
    struct farm *f = ctx;
    if (cur) {
        kqueue_add_obj(f->queue, cur);
        return;
    }
    struct tenant *t = map_del_str(&f->by_uid, json_str_or(json_at(old, "metadata", "uid"), ""));
    if (t) {
        tenant_free(t);
    }
}

/* Deployments, pods, secrets and machines lead back to their Tenant by label. */
static void owned_changed(void *ctx, struct json *old, struct json *cur) {
    struct farm *f = ctx;
    const struct json *o = cur ? cur : old;
    const char *name = json_str_at(o, "metadata", "labels", FARM_TENANT_LABEL);
    const char *ns = json_str_at(o, "metadata", "namespace");
    if (name && ns) {
        char key[LIM_KKEY];
        kkey_make(ns, name, key);
        if (!cur && str_eq(json_str_at(o, "kind"), "Secret")) {
            struct json *t = kinformer_get(f->tenants, ns, name);
            struct tenant *known =
                t ? map_get_str(&f->by_uid, json_str_or(json_at(t, "metadata", "uid"), "")) : NULL;
            if (known) {
                known->secret_checked = false;
            }
        }
        kqueue_add(f->queue, key);
    }
}

static struct kinformer *watch(struct farm *f, const char *group, const char *version,
                               const char *resource, kinformer_cb *cb, const char *selector) {
    const struct kinformer_opts o = {
        .ref = {.group = group, .version = version, .resource = resource},
        .label_selector = selector,
    };
    struct kinformer *i = kfactory_get(f->factory, &o);
    kinformer_listen(i, cb, f);
    kqueue_need(f->queue, i);
    return i;
}

static void tenants_synced(void *ctx) {
    farm_apply_roles(ctx);
    farm_record_host(ctx);
}

int farm_new(struct loop *l, const struct farm_opts *o, struct farm **ret, struct err *e) {
    (void)e;
    struct farm *f = new_zero(struct farm);
    f->l = l;
    f->o = *o;
    f->factory = kfactory_new(o->admin);
    f->events = kevents_new(o->admin, "kfarm-farm", NULL);
    f->queue = kqueue_new(l, "tenants", 16, reconcile, f);
    f->tenants = watch(f, "kfarm.dev", "v1alpha1", "tenants", tenant_changed, NULL);
    f->deployments = watch(f, "apps", "v1", "deployments", owned_changed, FARM_TENANT_LABEL);
    f->pods = watch(f, "", "v1", "pods", owned_changed, FARM_TENANT_LABEL);
    f->secrets = watch(f, "", "v1", "secrets", owned_changed, FARM_TENANT_LABEL);
    f->machines =
        watch(f, "cluster.x-k8s.io", "v1beta1", "machines", owned_changed, FARM_TENANT_LABEL);
    kinformer_on_synced(f->tenants, tenants_synced, f); /* before that the API may not answer yet */
    *ret = f;
    return 0;
}

void farm_free(struct farm *f) {
    struct map_iter it = {0};
    for (struct map_entry *en; map_next(&f->by_uid, &it, &en);) {
        tenant_free(en->value);
    }
    map_fini(&f->by_uid);
    kqueue_free(f->queue);
    kfactory_free(f->factory);
    kevents_free(f->events);
    free(f);
}
