#include "internal/apiserver/api_int.h"

/* Who may do what: the privileged group, the node authorizer, then RBAC. */

/* ---- node authorizer: a node sees what the pods bound to it need, and changes only what is its own ---- */

static const char *node_of(const struct api_user *u) {
    static const char prefix[] = "system:node:";
    if (strncmp(u->name, prefix, sizeof prefix - 1) != 0 || !api_user_in(u, "system:nodes")) {
        return NULL;
    }
    return u->name + sizeof prefix - 1;
}

static bool one_of(const char *s, const char *const *list) {
    for (; *list != NULL; list++) {
        if (strcmp(s, *list) == 0) {
            return true;
        }
    }
    return false;
}

static const char *const reads[] = {"get", "list", "watch", NULL};

/* Does this part of a pod's spec name the object? */
static bool names(const struct json *v, const char *key, const char *name) {
    return str_eq(json_str(json_get(v, key)), name);
}

static bool container_refs(const struct json *containers, bool secret, const char *name) {
    JSON_EACH(it, ct, containers) {
        JSON_EACH(it2, from, json_get(ct, "envFrom")) {
            if (names(json_get(from, secret ? "secretRef" : "configMapRef"), "name", name)) {
                return true;
            }
        }
        JSON_EACH(it3, env, json_get(ct, "env")) {
            if (names(json_at(env, "valueFrom", secret ? "secretKeyRef" : "configMapKeyRef"),
                      "name", name)) {
                return true;
            }
        }
    }
    return false;
}

static bool volume_refs(const struct json *volumes, bool secret, const char *name) {
    JSON_EACH(it, v, volumes) {
        if (names(json_get(v, secret ? "secret" : "configMap"), secret ? "secretName" : "name",
                  name)) {
            return true;
        }
        JSON_EACH(it2, src, json_at(v, "projected", "sources")) {
            if (names(json_get(src, secret ? "secret" : "configMap"), "name", name)) {
                return true;
            }
        }
    }
    return false;
}

static bool pod_refs(const struct json *pod, const char *resource, const char *name) {
    const struct json *spec = json_get(pod, "spec");
    if (strcmp(resource, "serviceaccounts") == 0) {
        return names(spec, "serviceAccountName", name);
    }
    if (strcmp(resource, "persistentvolumeclaims") == 0) {
        JSON_EACH(it, v, json_get(spec, "volumes")) {
            if (names(json_get(v, "persistentVolumeClaim"), "claimName", name)) {
                return true;
            }
        }
        return false;
    }
    bool secret = strcmp(resource, "secrets") == 0;
    JSON_EACH(it, s, secret ? json_get(spec, "imagePullSecrets") : NULL) {
        if (names(s, "name", name)) {
            return true;
        }
    }
    return volume_refs(json_get(spec, "volumes"), secret, name) ||
           container_refs(json_get(spec, "containers"), secret, name) ||
           container_refs(json_get(spec, "initContainers"), secret, name) ||
           container_refs(json_get(spec, "ephemeralContainers"), secret, name);
}

/* Is the object named by a pod of the namespace that is bound to the node? */
static bool used_on_node(struct apiserver *a, const char *node, const char *resource,
                         const char *ns, const char *name) {
    struct api_res *pods = api_res_find(a, "", "pods");
    size_t from = 0;
    size_t to = 0;
    if (pods == NULL || ns[0] == '\0' || name[0] == '\0') {
        return false;
    }
    AUTO_FREE char *needle = str_fmt("\"nodeName\":\"%s\"", node);
    api_cache_span(pods, ns, &from, &to);
    for (size_t i = from; i < to; i++) {
        struct span json = api_obj_json(pods->objs[i]);
        AUTO(json_docp) struct json_doc *d = NULL;
        /* A look at the bytes spares parsing the pods of other nodes. */
        if (memmem(json.p, json.n, needle, strlen(needle)) == NULL ||
            api_obj_parse(pods->objs[i], &d) < 0) {
            continue;
        }
        if (str_eq(json_str_at(json_root(d), "spec", "nodeName"), node) &&
            pod_refs(json_root(d), resource, name)) {
            return true;
        }
    }
    return false;
}

static bool pod_on_node(struct apiserver *a, const char *node, const char *ns, const char *name) {
    struct api_obj *o = api_cache_find(api_res_find(a, "", "pods"), ns, name);
    AUTO(json_docp) struct json_doc *d = NULL;
    return o != NULL && api_obj_parse(o, &d) >= 0 &&
           str_eq(json_str_at(json_root(d), "spec", "nodeName"), node);
}

static bool core_rule(struct apiserver *a, const char *node, const struct api_attrs *t) {
    static const char *const node_verbs[] = {"create", "get", "update", "patch", NULL};
    static const char *const node_all[] = {"list", "watch", NULL};
    static const char *const status[] = {"get", "update", "patch", NULL};
    static const char *const event[] = {"create", "update", "patch", NULL};
    bool sub = t->sub[0] != '\0';
    if (strcmp(t->resource, "nodes") == 0) {
        if (sub) {
            return strcmp(t->sub, "status") == 0 && one_of(t->verb, status) &&
                   strcmp(t->name, node) == 0;
        }
        return (one_of(t->verb, node_verbs) &&
                (t->name[0] == '\0' || strcmp(t->name, node) == 0)) ||
               one_of(t->verb, node_all);
    }
    if (strcmp(t->resource, "pods") == 0) {
        if (!sub) {
            return one_of(t->verb, reads) || strcmp(t->verb, "create") == 0 ||
                   strcmp(t->verb, "delete") == 0;
        }
        return (strcmp(t->sub, "status") == 0 && one_of(t->verb, status)) ||
               (strcmp(t->sub, "eviction") == 0 && strcmp(t->verb, "create") == 0);
    }
    if (strcmp(t->resource, "secrets") == 0 || strcmp(t->resource, "configmaps") == 0 ||
        strcmp(t->resource, "persistentvolumeclaims") == 0) {
        return !sub && one_of(t->verb, reads) && used_on_node(a, node, t->resource, t->ns, t->name);
    }
    if (strcmp(t->resource, "serviceaccounts") == 0) {
        return used_on_node(a, node, t->resource, t->ns, t->name) &&
               (sub ? strcmp(t->sub, "token") == 0 && strcmp(t->verb, "create") == 0
                    : strcmp(t->verb, "get") == 0);
    }
    if (strcmp(t->resource, "events") == 0) {
        return !sub && one_of(t->verb, event);
    }
    return strcmp(t->resource, "services") == 0 && !sub && one_of(t->verb, reads);
}

static bool other_rule(const char *node, const struct api_attrs *t) {
    static const char *const own[] = {"get", "create", "update", "patch", "delete", NULL};
    static const char *const csr[] = {"create", "get", "list", "watch", NULL};
    bool mine =
        strcmp(t->name, node) == 0 || (t->name[0] == '\0' && strcmp(t->verb, "create") == 0);
    if (strcmp(t->group, "coordination.k8s.io") == 0) {
        return strcmp(t->resource, "leases") == 0 && strcmp(t->ns, "kube-node-lease") == 0 &&
               mine && one_of(t->verb, own);
    }
    if (strcmp(t->group, "storage.k8s.io") == 0) {
        return (strcmp(t->resource, "csinodes") == 0 && mine && one_of(t->verb, own)) ||
               (strcmp(t->resource, "csidrivers") == 0 && one_of(t->verb, reads)) ||
               (strcmp(t->resource, "volumeattachments") == 0 && strcmp(t->verb, "get") == 0);
    }
    if (strcmp(t->group, "certificates.k8s.io") == 0) {
        return strcmp(t->resource, "certificatesigningrequests") == 0 && t->sub[0] == '\0' &&
               one_of(t->verb, csr);
    }
    if (strcmp(t->group, "node.k8s.io") == 0) {
        return strcmp(t->resource, "runtimeclasses") == 0 && one_of(t->verb, reads);
    }
    if (strcmp(t->group, "events.k8s.io") == 0) {
        static const char *const event[] = {"create", "update", "patch", NULL};
        return strcmp(t->resource, "events") == 0 && one_of(t->verb, event);
    }
    return (strcmp(t->group, "authentication.k8s.io") == 0 &&
            strcmp(t->resource, "tokenreviews") == 0 && strcmp(t->verb, "create") == 0) ||
           (strcmp(t->group, "authorization.k8s.io") == 0 && strcmp(t->verb, "create") == 0 &&
            (strcmp(t->resource, "subjectaccessreviews") == 0 ||
             strcmp(t->resource, "localsubjectaccessreviews") == 0));
}

static bool node_allows(struct apiserver *a, const struct api_attrs *t) {
    const char *node = node_of(t->user);
    if (node == NULL || node[0] == '\0' || t->resource == NULL) {
        return false;
    }
    return t->group[0] == '\0' ? core_rule(a, node, t) : other_rule(node, t);
}

/* ---- what a node may write (upstream's NodeRestriction) ---- */

static bool label_allowed(const char *key) {
    static const char *const fixed[] = {"kubernetes.io/hostname",
                                        "failure-domain.beta.kubernetes.io/zone",
                                        "failure-domain.beta.kubernetes.io/region",
                                        "beta.kubernetes.io/instance-type",
                                        "node.kubernetes.io/instance-type",
                                        "beta.kubernetes.io/os",
                                        "beta.kubernetes.io/arch",
                                        "kubernetes.io/os",
                                        "kubernetes.io/arch",
                                        "topology.kubernetes.io/zone",
                                        "topology.kubernetes.io/region",
                                        NULL};
    struct span prefix = span_str(key);
    struct span name = prefix;
    if (!span_next(&name, '/', &prefix) || name.n == 0 || one_of(key, fixed)) {
        return true;
    }
    if (span_ends(prefix, "kubelet.kubernetes.io") || span_ends(prefix, "node.kubernetes.io")) {
        return true;
    }
    bool restricted = span_eq_str(prefix, "node-restriction.kubernetes.io") ||
                      span_ends(prefix, ".node-restriction.kubernetes.io") ||
                      span_eq_str(prefix, "kubernetes.io") || span_ends(prefix, ".kubernetes.io") ||
                      span_eq_str(prefix, "k8s.io") || span_ends(prefix, ".k8s.io");
    return !restricted;
}

static bool node_object(struct api_call *c, const char *node, const struct json *obj,
                        const struct json *old) {
    if (strcmp(kube_name(obj != NULL ? obj : old), node) != 0) {
        api_fail_forbidden(c, "node \"%s\" is not allowed to modify node \"%s\"", node,
                           kube_name(obj != NULL ? obj : old));
        return false;
    }
    if (obj == NULL) {
        api_fail_forbidden(c, "node \"%s\" is not allowed to delete nodes", node);
        return false;
    }
    const struct json *was = kube_labels(old);
    JSON_EACH_KV(it, k, v, kube_labels(obj)) {
        if (!json_eq(v, json_get(was, k)) && !label_allowed(k)) {
            api_fail_forbidden(c, "is not allowed to modify labels: %s", k);
            return false;
        }
    }
    JSON_EACH_KV(it2, gone, gone_v, was) {
        (void)gone_v;
        if (json_get(kube_labels(obj), gone) == NULL && !label_allowed(gone)) {
            api_fail_forbidden(c, "is not allowed to modify labels: %s", gone);
            return false;
        }
    }
    if (old != NULL && c->kr->sub[0] == '\0' &&
        !json_eq(json_at(obj, "spec", "taints"), json_at(old, "spec", "taints"))) {
        api_fail_forbidden(c, "node \"%s\" is not allowed to modify taints", node);
        return false;
    }
    return true;
}

static bool node_pod(struct api_call *c, const char *node, const struct json *obj,
                     const struct json *old) {
    const struct json *pod = old != NULL ? old : obj;
    const char *bound = json_str_or(json_at(pod, "spec", "nodeName"), "");
    if (strcmp(bound, node) != 0) {
        api_fail_forbidden(c, "node \"%s\" can only %s pods with spec.nodeName set to itself", node,
                           api_verb_name(c->t.verb));
        return false;
    }
    if (old == NULL && kube_annotation(obj, "kubernetes.io/config.mirror") == NULL) {
        api_fail_forbidden(c,
                           "pod does not have \"kubernetes.io/config.mirror\" annotation, node "
                           "\"%s\" can only create "
                           "mirror pods",
                           node);
        return false;
    }
    return true;
}

bool api_admit_node(struct api_call *c, const struct json *obj, const struct json *old) {
    const char *node = node_of(&c->user);
    if (node == NULL || c->main->group[0] != '\0') {
        return true;
    }
    if (strcmp(c->main->name, "nodes") == 0) {
        return node_object(c, node, obj, old);
    }
    if (strcmp(c->main->name, "pods") == 0) {
        return node_pod(c, node, obj, old);
    }
    if (strcmp(c->main->name, "serviceaccounts") == 0 && strcmp(c->kr->sub, "token") == 0) {
        const char *pod = json_str_at(obj, "spec", "boundObjectRef", "name");
        if (!str_eq(json_str_at(obj, "spec", "boundObjectRef", "kind"), "Pod") || pod == NULL) {
            api_fail_forbidden(c, "node requested token not bound to a pod");
            return false;
        }
        if (!pod_on_node(c->a, node, c->t.ns, pod)) {
            api_fail_forbidden(c,
                               "node requested token bound to a pod scheduled on a different node");
            return false;
        }
    }
    return true;
}

bool api_authorize(struct apiserver *a, const struct api_attrs *t) {
    return api_user_in(t->user, "system:masters") || node_allows(a, t) || api_rbac_allows(a, t);
}
