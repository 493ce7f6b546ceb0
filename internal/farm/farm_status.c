/* The status of a Tenant: computed whole from what is seen, written only when it differs. */
#include "internal/farm/farm_int.h"

static const struct json *condition(const struct json *status, const char *type) {
    JSON_EACH(it, c, json_get(status, "conditions")) {
        if (str_eq(json_str_at(c, "type"), type)) {
            return c;
        }
    }
    return NULL;
}

/* lastTransitionTime moves only when the status value does. */
static void add_condition(struct json_doc *d, struct json *list, const struct json *old,
                          const char *type, bool ok, const char *reason, const char *message) {
    struct json *c = json_new_obj(d);
    const struct json *was = condition(old, type);
    char now[TIME_STR];
    time_rfc3339(clock_wall_ns() / NS_PER_S, now);
    json_set_str(d, c, "type", type);
    json_set_str(d, c, "status", ok ? "True" : "False");
    json_set_str(d, c, "reason", reason);
    json_set_str(d, c, "message", message);
    bool same = was && str_eq(json_str_at(was, "status"), ok ? "True" : "False");
    json_set_str(d, c, "lastTransitionTime",
                 same ? json_str_or(json_get(was, "lastTransitionTime"), now) : now);
    json_push(list, c);
}

/* Conditions that somebody else sets, as netboot does. */
static void keep_others(struct json_doc *d, struct json *list, const struct json *old) {
    JSON_EACH(it, c, json_get(old, "conditions")) {
        bool ours = false;
        JSON_EACH(it2, own, list) {
            ours |= json_eq(json_get(own, "type"), json_get(c, "type"));
        }
        if (!ours) {
            json_push(list, json_copy(d, c));
        }
    }
}

static struct json *conditions_of(struct pass *p, struct json_doc *d, const struct json *old,
                                  const char *unsupported, bool up) {
    int64_t want = json_i64_at(p->obj, 1, "spec", "replicas");
    bool nodes_up = farm_nodes_ready(p->t) >= farm_nodes_declared(p->obj);
    struct json *list = json_new_arr(d);
    add_condition(d, list, old, "Accepted", !unsupported, unsupported ? "Unsupported" : "Accepted",
                  unsupported ? unsupported : "");
    add_condition(d, list, old, "ControlPlaneReady", up,
                  up     ? "Answering"
                  : want ? "Starting"
                         : "ScaledToZero",
                  up     ? ""
                  : want ? "the control-plane pod is not ready"
                         : "spec.replicas is 0");
    if (farm_on_etcd(p->obj)) {
        const char *reason = NULL;
        const char *text = farm_etcd_state(p->t, up, &reason);
        add_condition(d, list, old, "DatastoreReady", up, reason, text);
    }
    add_condition(d, list, old, "Ready", up && !unsupported && nodes_up,
                  !up         ? "ControlPlaneNotReady"
                  : !nodes_up ? "NodesNotReady"
                              : "Ready",
                  !up         ? "the control plane does not answer"
                  : !nodes_up ? "not every declared node is Ready"
                              : "");
    keep_others(d, list, old);
    return list;
}

static const char *phase_of(struct pass *p, const struct json *old, const char *unsupported,
                            bool up) {
    bool was_up = str_eq(json_str_at(condition(old, "ControlPlaneReady"), "status"), "True");
    return unsupported                                     ? "Failed"
           : json_bool_at(p->obj, false, "spec", "paused") ? "Paused"
           : up                                            ? "Running"
           : was_up || json_str_at(old, "version")         ? "Degraded"
                                                           : "Provisioning";
}

static struct json *status_of(struct pass *p, struct json_doc *d, const char *unsupported) {
    const struct json *old = json_get(p->obj, "status");
    struct json *st = old ? json_copy(d, old) : json_new_obj(d);
    AUTO_FREE char *name = str_fmt("%s-control-plane", p->name);
    const struct json *dep = kinformer_get(p->f->deployments, p->ns, name);
    int64_t ready = json_i64_at(dep, 0, "status", "readyReplicas");
    bool up = ready > 0;
    if (up) {
        farm_tenant_connect(p->t);
    }
    const char *host = farm_host(p->f, p->obj);
    bool v6 = strchr(host, ':') != NULL;
    if (json_i64_at(st, 0, "port")) {
        json_set(d, st, "endpoint",
                 json_new_fmt(d, "https://%s%s%s:%lld", v6 ? "[" : "", host, v6 ? "]" : "",
                              (long long)json_i64_at(st, 0, "port")));
        json_set(d, st, "kubeconfigSecret", json_new_fmt(d, "%s-kubeconfig", p->name));
    }
    json_set_str(d, st, "phase", phase_of(p, old, unsupported, up));
    json_set_str(d, st, "version", p->t->version ? p->t->version : json_str_at(st, "version"));
    json_set_i64(d, st, "replicas", json_i64_at(dep, 0, "status", "replicas"));
    json_set_i64(d, st, "readyReplicas", ready);
    struct json *nodes = json_set_obj(d, st, "nodes");
    json_set_i64(d, nodes, "declared", (int64_t)farm_nodes_declared(p->obj));
    json_set_i64(d, nodes, "ready", (int64_t)farm_nodes_ready(p->t));
    json_set_i64(d, st, "observedGeneration", json_i64_at(p->obj, 0, "metadata", "generation"));
    json_set(d, st, "conditions", conditions_of(p, d, old, unsupported, up));
    return st;
}

bool farm_sync_status(struct pass *p, const char *unsupported) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *st = status_of(p, d, unsupported);
    if (json_eq(st, json_get(p->obj, "status"))) {
        return false;
    }
    struct json *patch = json_new_obj(d);
    json_set_str(d, json_set_obj(d, patch, "metadata"), "resourceVersion",
                 json_str_at(p->obj, "metadata", "resourceVersion"));
    json_set(d, patch, "status", st);
    const struct kref r = {.group = "kfarm.dev",
                           .version = "v1alpha1",
                           .resource = "tenants",
                           .ns = p->ns,
                           .name = p->name,
                           .subresource = "status"};
    kpatch(p->f->o.admin, &r, KPATCH_MERGE, patch, NULL, pass_wrote, pass_write(p, p->f->tenants));
    return true;
}
