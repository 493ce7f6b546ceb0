/* Roles of kfarm's own identities in the admin cluster, applied at start so that an upgrade brings its changes. */
#include "internal/farm/farm_int.h"

static const struct rule {
    const char *role, *group;
    const char *resources[8], *verbs[8];
} rules[] = {
    {"system:kfarm:netboot",
     "kfarm.dev",
     {"tenants", "networks", "images", "hosts"},
     {"get", "list", "watch"}},
    {"system:kfarm:netboot", "kfarm.dev", {"hosts"}, {"create", "patch", "update"}},
    {"system:kfarm:netboot",
     "kfarm.dev",
     {"tenants/status", "networks/status", "images/status", "hosts/status"},
     {"patch", "update"}},
    {"system:kfarm:netboot", "cluster.x-k8s.io", {"machines"}, {"get", "list", "watch"}},
    {"system:kfarm:netboot", "", {"events"}, {"create", "patch"}},
    {"system:kfarm:host", "kfarm.dev", {"tenants"}, {"get"}},
};

static const struct {
    const char *role, *kind, *name;
} bindings[] = {
    {"system:kfarm:netboot", "User", "system:kfarm:netboot"},
    {"system:kfarm:host", "Group", "system:nodes"},
};

static void applied(void *ctx, int rc, struct json *obj, const struct err *e) {
    (void)ctx;
    (void)obj;
    if (rc < 0 && rc != -ERR_CANCELLED) {
        LOG_ERROR("farm", "role of kfarm not applied; netboot or hosts may be refused", F_ERR(e));
    }
}

static struct json *object(struct json_doc *d, const char *kind, const char *name) {
    struct json *o = json_new_obj(d);
    json_set_str(d, o, "apiVersion", "rbac.authorization.k8s.io/v1");
    json_set_str(d, o, "kind", kind);
    json_set_str(d, json_set_obj(d, o, "metadata"), "name", name);
    return o;
}

static void strings(struct json_doc *d, struct json *o, const char *key, const char *const *v,
                    size_t max) {
    struct json *a = json_set_arr(d, o, key);
    for (size_t i = 0; i < max && v[i]; i++) {
        json_push_str(d, a, v[i]);
    }
}

static void apply(struct farm *f, const char *resource, const struct json *o) {
    const struct kref r = {.group = "rbac.authorization.k8s.io",
                           .version = "v1",
                           .resource = resource,
                           .name = json_str_at(o, "metadata", "name")};
    kpatch(f->o.admin, &r, KPATCH_APPLY, o, "kfarm", applied, NULL);
}

void farm_apply_roles(struct farm *f) {
    for (size_t i = 0; i < ARRAY_LEN(bindings); i++) {
        AUTO(json_docp) struct json_doc *d = json_doc_new();
        struct json *role = object(d, "ClusterRole", bindings[i].role),
                    *list = json_set_arr(d, role, "rules");
        for (size_t j = 0; j < ARRAY_LEN(rules); j++) {
            if (!str_eq(rules[j].role, bindings[i].role)) {
                continue;
            }
            struct json *x = json_new_obj(d);
            const char *groups[] = {rules[j].group};
            strings(d, x, "apiGroups", groups, 1);
            strings(d, x, "resources", rules[j].resources, ARRAY_LEN(rules[j].resources));
            strings(d, x, "verbs", rules[j].verbs, ARRAY_LEN(rules[j].verbs));
            json_push(list, x);
        }
        apply(f, "clusterroles", role);
        struct json *b = object(d, "ClusterRoleBinding", bindings[i].role), *ref,
                    *sub = json_new_obj(d);
        ref = json_set_obj(d, b, "roleRef");
        json_set_str(d, ref, "apiGroup", "rbac.authorization.k8s.io");
        json_set_str(d, ref, "kind", "ClusterRole");
        json_set_str(d, ref, "name", bindings[i].role);
        json_set_str(d, sub, "apiGroup", "rbac.authorization.k8s.io");
        json_set_str(d, sub, "kind", bindings[i].kind);
        json_set_str(d, sub, "name", bindings[i].name);
        json_push(json_set_arr(d, b, "subjects"), sub);
        apply(f, "clusterrolebindings", b);
    }
}
