/* What every namespace has: the service account "default" and the ConfigMap "kube-root-ca.crt". */
#include "internal/controllers/ctl_int.h"

static bool is_alive(struct controllers *c, const char *ns) {
    const struct json *obj = kinformer_get(c->namespaces, NULL, ns);
    return obj && !kube_is_deleting(obj) &&
           !str_eq(json_str_at(obj, "status", "phase"), "Terminating");
}

struct pernsctl {
    struct controllers *c;
    struct kinformer *inf;
    struct kqueue *q;
};

static void on_namespace(void *ctx, struct json *old, struct json *cur) {
    struct pernsctl *ctl = ctx;
    (void)old;
    if (cur) {
        kqueue_add(ctl->q, kube_name(cur));
    }
}

static void on_object(void *ctx, struct json *old, struct json *cur) {
    struct pernsctl *ctl = ctx;
    kqueue_add(ctl->q, kube_namespace(cur ? cur : old));
}

static void start(struct pernsctl *ctl, const char *name,
                  void (*handle)(void *ctx, const char *key)) {
    struct controllers *c = ctl->c;
    ctl->q = ctl_queue(c, name, 8, handle, ctl);
    kinformer_listen(c->namespaces, on_namespace, ctl);
    kinformer_listen(ctl->inf, on_object, ctl);
    kqueue_need(ctl->q, c->namespaces);
    kqueue_need(ctl->q, ctl->inf);
}

/* ---- service accounts ---- */

static void handle_account(void *ctx, const char *key) {
    struct pernsctl *ctl = ctx;
    struct sync *s = sync_begin(ctl->c, ctl->q, key);
    if (is_alive(ctl->c, s->name) && !kinformer_get(ctl->inf, s->name, "default")) {
        struct json *sa = kube_object_new(s->d, "v1", "ServiceAccount", s->name, "default");
        struct kref r = {"", "v1", "serviceaccounts", s->name, NULL, NULL};
        sync_create(s, ctl->inf, &r, sa, NULL);
    }
    sync_end(s);
}

void ctl_start_serviceaccount(struct controllers *c) {
    struct pernsctl *ctl = ctl_new(c, struct pernsctl);
    struct kinformer_opts o = {.ref = {.group = "", .version = "v1", .resource = "serviceaccounts"},
                               .field_selector = "metadata.name=default"};
    ctl->c = c;
    ctl->inf = kfactory_get(c->f, &o);
    start(ctl, "serviceaccount", handle_account);
}

/* ---- the root CA ---- */

static void handle_rootca(void *ctx, const char *key) {
    struct pernsctl *ctl = ctx;
    struct sync *s = sync_begin(ctl->c, ctl->q, key);
    const struct json *cm = kinformer_get(ctl->inf, s->name, "kube-root-ca.crt");
    const struct json *data = json_get(cm, "data");
    if (is_alive(ctl->c, s->name) &&
        !(json_len(data) == 1 &&
          span_eq(json_span(json_get(data, "ca.crt")), ctl->c->o.root_ca_pem))) {
        struct json *want =
            cm ? json_copy(s->d, cm)
               : kube_object_new(s->d, "v1", "ConfigMap", s->name, "kube-root-ca.crt");
        json_set(s->d, json_set_obj(s->d, want, "data"), "ca.crt",
                 json_new_span(s->d, ctl->c->o.root_ca_pem));
        if (cm) {
            struct kref r = ctl_ref("", "v1", "configmaps", cm, NULL);
            sync_update(s, ctl->inf, &r, want, NULL);
        } else {
            struct kref r = {"", "v1", "configmaps", s->name, NULL, NULL};
            sync_create(s, ctl->inf, &r, want, NULL);
        }
    }
    sync_end(s);
}

void ctl_start_rootca(struct controllers *c) {
    if (!c->o.root_ca_pem.n) {
        LOG_INFO("controllers", "no root CA was given, kube-root-ca.crt is not published");
        return;
    }
    struct pernsctl *ctl = ctl_new(c, struct pernsctl);
    struct kinformer_opts o = {.ref = {.group = "", .version = "v1", .resource = "configmaps"},
                               .field_selector = "metadata.name=kube-root-ca.crt"};
    ctl->c = c;
    ctl->inf = kfactory_get(c->f, &o);
    start(ctl, "rootca", handle_rootca);
}
