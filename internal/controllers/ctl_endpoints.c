/* Endpoints (v1), the old form of what EndpointSlices say; kept because clients still read it. */
#include "internal/controllers/ctl_ep_int.h"

enum { LIM_ADDRESSES = 1000 };

struct epctl {
    struct controllers *c;
    struct kinformer *services, *endpoints;
    struct kqueue *q;
};

static struct json *address(struct json_doc *d, const struct json *svc, const struct ep *e) {
    struct json *a = json_new_obj(d);
    const char *hostname = json_str_at(e->pod, "spec", "hostname");
    json_set_str(d, a, "ip", e->ip);
    if (hostname && str_eq(json_str_at(e->pod, "spec", "subdomain"), kube_name(svc))) {
        json_set_str(d, a, "hostname", hostname);
    }
    if (*pod_node(e->pod)) {
        json_set_str(d, a, "nodeName", pod_node(e->pod));
    }
    json_set(d, a, "targetRef", ep_target_ref(d, e->pod));
    return a;
}

/* Addresses with the same ports share a subset. A headless service without ports has subsets without ports. */
static struct json *subsets(struct epctl *ctl, struct json_doc *d, const struct json *svc,
                            bool *ret_cut) {
    bool v6 = str_eq(json_str(json_idx(json_at(svc, "spec", "ipFamilies"), 0)), "IPv6");
    bool publish = json_bool_at(svc, false, "spec", "publishNotReadyAddresses");
    struct eplist l = ep_list(ctl->c, d, svc, v6);
    struct json *out = json_new_arr(d);
    size_t n = 0;
    for (size_t i = 0; i < l.n; i++) {
        if (l.v[i].terminating && !publish) {
            continue;
        }
        JSON_EACH(it0, p, l.v[i].ports) { /* an unnamed port has no name here, "" in slices */
            if (!*json_str_or(json_get(p, "name"), "")) {
                json_del(p, "name");
            }
        }
        if (n++ == LIM_ADDRESSES) {
            *ret_cut = true;
            break;
        }
        struct json *sub = NULL;
        JSON_EACH(it, s, out) {
            struct json *ports = json_get(s, "ports");
            if (json_eq(ports, l.v[i].ports) || (!ports && !json_len(l.v[i].ports))) {
                sub = s;
                break;
            }
        }
        if (!sub) {
            sub = json_new_obj(d);
            json_push(out, sub);
        }
        json_push(json_need_arr(d, sub, l.v[i].ready ? "addresses" : "notReadyAddresses"),
                  address(d, svc, &l.v[i]));
        if (!json_get(sub, "ports") && json_len(l.v[i].ports)) {
            json_set(d, sub, "ports", json_copy(d, l.v[i].ports));
        }
    }
    free(l.v);
    return out;
}

static void reconcile(struct sync *s, struct epctl *ctl, const struct json *svc) {
    struct json_doc *d = s->d;
    const struct json *live = kinformer_get(ctl->endpoints, s->ns, s->name);
    bool cut = false;
    struct json *want =
        live ? json_copy(d, live) : kube_object_new(d, "v1", "Endpoints", s->ns, s->name);
    struct json *sub = subsets(ctl, d, svc, &cut);
    struct json *labels = json_set_obj(d, json_get(want, "metadata"), "labels");
    JSON_EACH_KV(it, k, v, kube_labels(svc)) {
        json_set_str(d, labels, k, json_str_or(v, ""));
    }
    json_set_str(d, labels, "endpoints.kubernetes.io/managed-by", "endpoint-controller");
    if (ep_is_headless(svc)) {
        json_set_str(d, labels, "service.kubernetes.io/headless", "");
    }
    kube_annotate(d, want, "endpoints.kubernetes.io/over-capacity", cut ? "truncated" : NULL);
    if (json_len(sub)) {
        json_set(d, want, "subsets", sub);
    } else {
        json_del(want, "subsets");
    }
    if (!live) {
        struct kref r = {"", "v1", "endpoints", s->ns, NULL, NULL};
        sync_create(s, ctl->endpoints, &r, want, NULL);
    } else if (!json_eq(live, want)) {
        struct kref r = ctl_ref("", "v1", "endpoints", live, NULL);
        sync_update(s, ctl->endpoints, &r, want, NULL);
    }
}

static void handle(void *ctx, const char *key) {
    struct epctl *ctl = ctx;
    struct sync *s = sync_begin(ctl->c, ctl->q, key);
    const struct json *svc = kinformer_get(ctl->services, s->ns, s->name);
    const struct json *live = kinformer_get(ctl->endpoints, s->ns, s->name);
    if (svc && !kube_is_deleting(svc) && ep_is_managed(svc)) {
        reconcile(s, ctl, svc);
    } else if (!svc && live && kube_label(live, "endpoints.kubernetes.io/managed-by")) {
        /* of a service that is gone; hand-made ones have no such label */
        struct kref r = ctl_ref("", "v1", "endpoints", live, NULL);
        sync_delete(s, ctl->endpoints, &r, NULL, kube_uid(live), NULL);
    }
    sync_end(s);
}

static void on_object(void *ctx, struct json *old, struct json *cur) {
    struct epctl *ctl = ctx;
    kqueue_add_obj(ctl->q, cur ? cur : old);
}

static void on_pod(void *ctx, struct json *old, struct json *cur) {
    struct epctl *ctl = ctx;
    ep_enqueue(ctl->c, ctl->q, ctl->services, old, cur);
}

void ctl_start_endpoints(struct controllers *c) {
    struct epctl *ctl = ctl_new(c, struct epctl);
    ctl->c = c;
    ctl->services = kfactory_all(c->f, "", "v1", "services");
    ctl->endpoints = kfactory_all(c->f, "", "v1", "endpoints");
    ctl->q = ctl_queue(c, "endpoints", 5, handle, ctl);
    kinformer_listen(ctl->services, on_object, ctl);
    kinformer_listen(ctl->endpoints, on_object, ctl);
    kinformer_listen(c->pods, on_pod, ctl);
    kqueue_need(ctl->q, ctl->services);
    kqueue_need(ctl->q, ctl->endpoints);
    kqueue_need(ctl->q, c->pods);
}
