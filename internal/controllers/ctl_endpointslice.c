/* EndpointSlices of Services with a selector. */
#include "internal/controllers/ctl_ep_int.h"

#define LABEL_SERVICE "kubernetes.io/service-name"
#define LABEL_MANAGED "endpointslice.kubernetes.io/managed-by"
#define MANAGER "endpointslice-controller.k8s.io"
#define LABEL_HEADLESS "service.kubernetes.io/headless"

enum { PER_SLICE = 100 };

struct slicectl {
    struct controllers *c;
    struct kinformer *services, *slices;
    struct kqueue *q;
};

/* A slice as it shall be; live NULL: to be created. */
struct plan {
    const struct json *live;
    struct json *ports, *endpoints;
    bool v6, is_written;
};
struct plans {
    struct plan *v;
    size_t n;
};

static struct plan *add_plan(struct plans *p, struct plan one) {
    p->v = mem_array(p->v, p->n + 1, sizeof(*p->v), 1 << 16);
    CHECK(p->v);
    p->v[p->n] = one;
    return &p->v[p->n++];
}

static bool is_ours(const struct json *slice, const char *service) {
    return str_eq(kube_label(slice, LABEL_SERVICE), service) &&
           str_eq(kube_label(slice, LABEL_MANAGED), MANAGER);
}

static struct json *endpoint(struct slicectl *ctl, struct json_doc *d, const struct json *svc,
                             const struct ep *e) {
    struct json *o = json_new_obj(d);
    json_push_str(d, json_set_arr(d, o, "addresses"), e->ip);
    struct json *c = json_set_obj(d, o, "conditions");
    json_set_bool(d, c, "ready", e->ready);
    json_set_bool(d, c, "serving", e->serving);
    json_set_bool(d, c, "terminating", e->terminating);
    const char *hostname = json_str_at(e->pod, "spec", "hostname");
    if (hostname && str_eq(json_str_at(e->pod, "spec", "subdomain"), kube_name(svc))) {
        json_set_str(d, o, "hostname", hostname);
    }
    json_set(d, o, "targetRef", ep_target_ref(d, e->pod));
    if (*pod_node(e->pod)) {
        json_set_str(d, o, "nodeName", pod_node(e->pod));
        const struct json *node = kinformer_get(ctl->c->nodes, NULL, pod_node(e->pod));
        if (kube_label(node, "topology.kubernetes.io/zone")) {
            json_set_str(d, o, "zone", kube_label(node, "topology.kubernetes.io/zone"));
        }
    }
    return o;
}

static const char *target_uid(const struct json *endpoint) {
    return json_str_or(json_at(endpoint, "targetRef", "uid"), "");
}

static bool holds(const struct json *slice, const char *uid) {
    JSON_EACH(it, e, json_get(slice, "endpoints")) {
        if (str_eq(target_uid(e), uid)) {
            return true;
        }
    }
    return false;
}

/* Each endpoint stays in the slice that has it; new ones fill up slices with the same ports, then new slices. */
static void plan_family(struct slicectl *ctl, struct json_doc *d, const struct json *svc, bool v6,
                        struct plans *p) {
    struct eplist l = ep_list(ctl->c, d, svc, v6);
    for (size_t i = 0; i < l.n; i++) {
        struct plan *to = NULL;
        for (size_t k = 0; k < p->n && !to; k++) {
            bool fits = p->v[k].v6 == v6 && json_eq(p->v[k].ports, l.v[i].ports);
            to =
                fits && p->v[k].live && holds(p->v[k].live, kube_uid(l.v[i].pod)) ? &p->v[k] : NULL;
        }
        for (size_t k = 0; k < p->n && !to; k++) {
            bool fits = p->v[k].v6 == v6 && json_eq(p->v[k].ports, l.v[i].ports);
            to = fits && json_len(p->v[k].endpoints) < PER_SLICE ? &p->v[k] : NULL;
        }
        if (!to) {
            to = add_plan(p, (struct plan){NULL, l.v[i].ports, json_new_arr(d), v6, false});
        }
        json_push(to->endpoints, endpoint(ctl, d, svc, &l.v[i]));
    }
    free(l.v);
}

static bool is_reserved(const char *k) {
    return str_eq(k, LABEL_SERVICE) || str_eq(k, LABEL_MANAGED) || str_eq(k, LABEL_HEADLESS);
}

static void set_labels(struct json_doc *d, struct json *slice, const struct json *svc) {
    struct json *labels = json_set_obj(d, json_need_obj(d, slice, "metadata"), "labels");
    JSON_EACH_KV(it, k, v, kube_labels(svc)) {
        if (!is_reserved(k)) {
            json_set_str(d, labels, k, json_str_or(v, ""));
        }
    }
    json_set_str(d, labels, LABEL_SERVICE, kube_name(svc));
    json_set_str(d, labels, LABEL_MANAGED, MANAGER);
    if (ep_is_headless(svc)) {
        json_set_str(d, labels, LABEL_HEADLESS, "");
    }
}

static void write_plan(struct sync *s, struct slicectl *ctl, const struct json *svc,
                       const struct plan *p) {
    struct json *o;
    if (p->live) {
        o = json_copy(s->d, p->live);
    } else {
        o = json_new_obj(s->d);
        json_set_str(s->d, o, "apiVersion", "discovery.k8s.io/v1");
        json_set_str(s->d, o, "kind", "EndpointSlice");
        struct json *meta = json_set_obj(s->d, o, "metadata");
        json_set(s->d, meta, "generateName", json_new_fmt(s->d, "%s-", kube_name(svc)));
        json_set_str(s->d, meta, "namespace", s->ns);
        kube_owner_add(s->d, o, svc, true);
        json_set_str(s->d, o, "addressType", p->v6 ? "IPv6" : "IPv4");
    }
    set_labels(s->d, o, svc);
    json_set(s->d, o, "endpoints", p->endpoints);
    json_set(s->d, o, "ports", json_copy(s->d, p->ports));
    if (!p->live) {
        struct kref r = {"discovery.k8s.io", "v1", "endpointslices", s->ns, NULL, NULL};
        sync_create(s, ctl->slices, &r, o, NULL);
    } else {
        /* the server keeps empty lists away in some versions and not in others */
        struct json *was = json_copy(s->d, p->live);
        json_need_arr(s->d, was, "endpoints");
        json_need_arr(s->d, was, "ports");
        if (!json_eq(o, was)) {
            struct kref r = ctl_ref("discovery.k8s.io", "v1", "endpointslices", p->live, NULL);
            sync_update(s, ctl->slices, &r, o, NULL);
        }
    }
}

static void reconcile(struct sync *s, struct slicectl *ctl, const struct json *svc) {
    struct plans p = {NULL, 0};
    struct map_iter it = {0};
    struct json *slice;
    while (kinformer_next(ctl->slices, &it, &slice)) {
        if (str_eq(kube_namespace(slice), s->ns) && is_ours(slice, s->name) &&
            !kube_is_deleting(slice)) {
            struct json *ports = json_copy(s->d, json_get(slice, "ports"));
            add_plan(
                &p, (struct plan){slice, ports ? ports : json_new_arr(s->d), json_new_arr(s->d),
                                  str_eq(json_str(json_get(slice, "addressType")), "IPv6"), false});
        }
    }
    const struct json *families = json_at(svc, "spec", "ipFamilies");
    bool want[2] = {!json_len(families), false};
    JSON_EACH(it2, f, families) {
        want[str_eq(json_str(f), "IPv6")] = true;
    }
    for (size_t v6 = 0; v6 < 2; v6++) {
        if (!want[v6]) {
            continue;
        }
        plan_family(ctl, s->d, svc, v6, &p);
        bool any = false;
        struct plan *spare = NULL;
        for (size_t i = 0; i < p.n; i++) {
            if (p.v[i].v6 == v6) {
                any |= json_len(p.v[i].endpoints) > 0;
                spare = spare ? spare : &p.v[i];
            }
        }
        /* A Service without pods has one empty slice, so that its consumers know that it was looked at. */
        if (!any) {
            spare = spare ? spare
                          : add_plan(&p, (struct plan){NULL, NULL, json_new_arr(s->d), v6, false});
            spare->ports = json_new_arr(s->d);
            write_plan(s, ctl, svc, spare);
            spare->is_written = true;
        }
    }
    for (size_t i = 0; i < p.n; i++) {
        if (p.v[i].is_written) {
            continue;
        }
        if (json_len(p.v[i].endpoints)) {
            write_plan(s, ctl, svc, &p.v[i]);
        } else if (p.v[i].live) {
            struct kref r = ctl_ref("discovery.k8s.io", "v1", "endpointslices", p.v[i].live, NULL);
            sync_delete(s, ctl->slices, &r, NULL, kube_uid(p.v[i].live), NULL);
        }
    }
    free(p.v);
}

static void handle(void *ctx, const char *key) {
    struct slicectl *ctl = ctx;
    struct sync *s = sync_begin(ctl->c, ctl->q, key);
    const struct json *svc = kinformer_get(ctl->services, s->ns, s->name);
    if (svc && !kube_is_deleting(svc) && ep_is_managed(svc)) {
        reconcile(s, ctl, svc);
    }
    sync_end(s);
}

static void on_service(void *ctx, struct json *old, struct json *cur) {
    struct slicectl *ctl = ctx;
    (void)old;
    if (cur) {
        kqueue_add_obj(ctl->q, cur);
    }
}

static void on_slice(void *ctx, struct json *old, struct json *cur) {
    struct slicectl *ctl = ctx;
    const struct json *o = cur ? cur : old;
    const char *service = kube_label(o, LABEL_SERVICE);
    if (service && is_ours(o, service)) {
        char key[LIM_KKEY];
        kkey_make(kube_namespace(o), service, key);
        kqueue_add(ctl->q, key);
    }
}

static void on_pod(void *ctx, struct json *old, struct json *cur) {
    struct slicectl *ctl = ctx;
    ep_enqueue(ctl->c, ctl->q, ctl->services, old, cur);
}

void ctl_start_endpointslice(struct controllers *c) {
    struct slicectl *ctl = ctl_new(c, struct slicectl);
    ctl->c = c;
    ctl->services = kfactory_all(c->f, "", "v1", "services");
    ctl->slices = kfactory_all(c->f, "discovery.k8s.io", "v1", "endpointslices");
    ctl->q = ctl_queue(c, "endpointslice", 5, handle, ctl);
    kinformer_listen(ctl->services, on_service, ctl);
    kinformer_listen(ctl->slices, on_slice, ctl);
    kinformer_listen(c->pods, on_pod, ctl);
    kqueue_need(ctl->q, ctl->services);
    kqueue_need(ctl->q, ctl->slices);
    kqueue_need(ctl->q, c->pods);
    kqueue_need(ctl->q, c->nodes);
}
