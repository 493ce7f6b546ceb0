#include "internal/apiserver/api_int.h"
#include "internal/pki/pki.h"

/* Admission: what upstream's default plugins do for the kinds served here. */

static bool is_res(const struct api_call *c, const char *group, const char *name) {
    return strcmp(c->main->group, group) == 0 && strcmp(c->main->name, name) == 0;
}

/* ---- NamespaceLifecycle ---- */

static bool admit_namespace(struct api_call *c) {
    if (!c->main->namespaced) {
        return true;
    }
    struct api_obj *ns = api_cache_find(api_res_find(c->a, "", "namespaces"), "", c->t.ns);
    AUTO(json_docp) struct json_doc *d = NULL;
    if (ns == NULL || api_obj_parse(ns, &d) < 0) {
        api_fail_not_found(c, "", "namespaces", c->t.ns);
        return false;
    }
    if (!kube_is_deleting(json_root(d))) {
        return true;
    }
    const char *msg = api_fmt(
        c,
        "%s \"%s\" is forbidden: unable to create new content in namespace %s because it is being "
        "terminated",
        api_qualified(c, c->t.group, c->t.resource), c->obj_name, c->t.ns);
    struct json *s = kube_status(d, 403, "Forbidden", msg);
    kube_status_details(d, s, c->t.group[0] != '\0' ? c->t.group : NULL, c->t.resource, c->obj_name,
                        NULL);
    struct json *cause = json_new_obj(d);
    json_set_str(d, cause, "reason", "NamespaceTerminating");
    json_set(d, cause, "message", json_new_fmt(d, "namespace %s is being terminated", c->t.ns));
    json_set_str(d, cause, "field", "metadata.namespace");
    json_push(json_need_arr(d, json_need_obj(d, s, "details"), "causes"), cause);
    api_reply_status(c, s);
    return false;
}

/* ---- RBAC: nobody hands out more than they hold ---- */

static bool escalates(struct api_call *c, const char *verb, const char *resource,
                      const char *name) {
    const struct api_attrs at = {.user = &c->user,
                                 .verb = verb,
                                 .group = "rbac.authorization.k8s.io",
                                 .version = "v1",
                                 .resource = resource,
                                 .sub = "",
                                 .ns = c->t.ns,
                                 .name = name};
    return api_authorize(c->a, &at);
}

static bool admit_rbac(struct api_call *c, const struct json *obj, const struct json *old) {
    if (strcmp(c->main->group, "rbac.authorization.k8s.io") != 0 ||
        api_user_in(&c->user, "system:masters")) {
        return true;
    }
    AUTO(json_docp) struct json_doc *d = NULL;
    const struct json *rules = json_get(obj, "rules");
    const char *missing = NULL;
    if (strstr(c->main->name, "bindings") != NULL) {
        if (old != NULL && json_eq(json_get(obj, "subjects"), json_get(old, "subjects"))) {
            return true;
        }
        const char *kind = json_str_or(json_at(obj, "roleRef", "kind"), "");
        const char *name = json_str_or(json_at(obj, "roleRef", "name"), "");
        if (escalates(c, "bind", strcmp(kind, "Role") == 0 ? "roles" : "clusterroles", name)) {
            return true;
        }
        rules = api_rbac_role_rules(c->a, c->t.ns, kind, name, &d);
        if (rules == NULL && d == NULL) {
            api_fail_not_found(c, "rbac.authorization.k8s.io",
                               strcmp(kind, "Role") == 0 ? "roles" : "clusterroles", name);
            return false;
        }
    } else if ((old != NULL && json_eq(rules, json_get(old, "rules"))) ||
               escalates(c, "escalate", c->main->name, kube_name(obj))) {
        return true;
    }
    if (api_rbac_covers(c->a, &c->user, c->t.ns, rules, &c->mem, &missing)) {
        return true;
    }
    AUTO(buf) struct buf g = BUF_INIT(16 << 10);
    for (size_t i = 0; i < c->user.n_groups; i++) {
        buf_fmt(&g, "%s\"%s\"", i > 0 ? " " : "", c->user.groups[i]);
    }
    api_fail_forbidden(
        c,
        "user \"%s\" (groups=[%s]) is attempting to grant RBAC permissions not currently held:%s",
        c->user.name, buf_cstr(&g), missing);
    return false;
}

/* ---- pods ---- */

static bool pod_priority(struct api_call *c, struct json *pod) {
    struct json *spec = json_need_obj(c->doc, pod, "spec");
    struct api_res *res = api_res_find(c->a, "scheduling.k8s.io", "priorityclasses");
    const char *name = json_str_at(spec, "priorityClassName");
    AUTO(json_docp) struct json_doc *d = NULL;
    int64_t value = 0;
    const char *policy = "PreemptLowerPriority";
    if (name != NULL && name[0] != '\0') {
        struct api_obj *o = api_cache_find(res, "", name);
        if (o == NULL || api_obj_parse(o, &d) < 0) {
            api_fail_forbidden(c, "no PriorityClass with name %s was found", name);
            return false;
        }
        value = json_i64_at(json_root(d), 0, "value");
        policy = json_str_or(json_get(json_root(d), "preemptionPolicy"), policy);
    } else {
        for (size_t i = 0; res != NULL && i < res->n; i++) {
            AUTO(json_docp) struct json_doc *one = NULL;
            if (api_obj_parse(res->objs[i], &one) >= 0 &&
                json_bool_at(json_root(one), false, "globalDefault")) {
                value = json_i64_at(json_root(one), 0, "value");
                policy = json_str_or(json_get(json_root(one), "preemptionPolicy"), policy);
                policy = api_fmt(c, "%s", policy);
                json_set_str(c->doc, spec, "priorityClassName", kube_name(json_root(one)));
            }
        }
    }
    const struct json *given = json_get(spec, "priority");
    if (json_is_int(given) && json_i64(given, 0) != value) {
        api_fail_forbidden(c,
                           "the integer value of priority (%lld) must not be provided in pod spec; "
                           "priority admission "
                           "controller computed %lld from the given PriorityClass name",
                           (long long)json_i64(given, 0), (long long)value);
        return false;
    }
    json_set_i64(c->doc, spec, "priority", value);
    if (json_get(spec, "preemptionPolicy") == NULL) {
        json_set_str(c->doc, spec, "preemptionPolicy", policy);
    }
    return true;
}

static bool tolerates(const struct json *spec, const char *key) {
    JSON_EACH(it, t, json_get(spec, "tolerations")) {
        const char *k = json_str_or(json_get(t, "key"), "");
        const char *effect = json_str_or(json_get(t, "effect"), "");
        if ((strcmp(k, key) == 0 || k[0] == '\0') &&
            (strcmp(effect, "NoExecute") == 0 || effect[0] == '\0')) {
            return true;
        }
    }
    return false;
}

static void pod_tolerations(struct api_call *c, struct json *pod) {
    static const char *const keys[] = {"node.kubernetes.io/not-ready",
                                       "node.kubernetes.io/unreachable"};
    struct json *spec = json_get(pod, "spec");
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        if (tolerates(spec, keys[i])) {
            continue;
        }
        struct json *t = json_new_obj(c->doc);
        json_set_str(c->doc, t, "key", keys[i]);
        json_set_str(c->doc, t, "operator", "Exists");
        json_set_str(c->doc, t, "effect", "NoExecute");
        json_set_i64(c->doc, t, "tolerationSeconds", 300);
        json_push(json_need_arr(c->doc, spec, "tolerations"), t);
    }
}

static struct json *projected_source(struct api_call *c, struct json *sources, const char *kind) {
    struct json *s = json_new_obj(c->doc);
    json_push(sources, s);
    return json_set_obj(c->doc, s, kind);
}

static const char *token_volume(struct api_call *c, struct json *spec) {
    char suffix[6];
    rand_suffix(suffix, 5);
    struct json *v = json_new_obj(c->doc);
    const char *name = api_fmt(c, "kube-api-access-%s", suffix);
    json_set_str(c->doc, v, "name", name);
    struct json *proj = json_set_obj(c->doc, v, "projected");
    struct json *sources = json_set_arr(c->doc, proj, "sources");
    struct json *token = projected_source(c, sources, "serviceAccountToken");
    json_set_i64(c->doc, token, "expirationSeconds", 3607);
    json_set_str(c->doc, token, "path", "token");
    struct json *cm = projected_source(c, sources, "configMap");
    json_set_str(c->doc, cm, "name", "kube-root-ca.crt");
    struct json *item = json_new_obj(c->doc);
    json_set_str(c->doc, item, "key", "ca.crt");
    json_set_str(c->doc, item, "path", "ca.crt");
    json_push(json_set_arr(c->doc, cm, "items"), item);
    struct json *down = projected_source(c, sources, "downwardAPI");
    struct json *ns = json_new_obj(c->doc);
    json_set_str(c->doc, ns, "path", "namespace");
    struct json *ref = json_set_obj(c->doc, ns, "fieldRef");
    json_set_str(c->doc, ref, "apiVersion", "v1");
    json_set_str(c->doc, ref, "fieldPath", "metadata.namespace");
    json_push(json_set_arr(c->doc, down, "items"), ns);
    json_set_i64(c->doc, proj, "defaultMode", 420);
    json_push(json_need_arr(c->doc, spec, "volumes"), v);
    return name;
}

static const char token_path[] = "/var/run/secrets/kubernetes.io/serviceaccount";

static bool mounts_token(const struct json *container) {
    JSON_EACH(it, m, json_get(container, "volumeMounts")) {
        if (str_eq(json_str(json_get(m, "mountPath")), token_path)) {
            return true;
        }
    }
    return false;
}

static void mount_token(struct api_call *c, struct json *spec, const char *list,
                        const char **volume) {
    JSON_EACH(it, ct, json_get(spec, list)) {
        if (mounts_token(ct)) {
            continue;
        }
        if (*volume == NULL) {
            *volume = token_volume(c, spec);
        }
        struct json *m = json_new_obj(c->doc);
        json_set_str(c->doc, m, "name", *volume);
        json_set_bool(c->doc, m, "readOnly", true);
        json_set_str(c->doc, m, "mountPath", token_path);
        json_push(json_need_arr(c->doc, ct, "volumeMounts"), m);
    }
}

static bool pod_account(struct api_call *c, struct json *pod) {
    struct json *spec = json_get(pod, "spec");
    if (kube_annotation(pod, "kubernetes.io/config.mirror") != NULL) {
        if (json_str_at(spec, "serviceAccountName") != NULL) {
            api_fail_forbidden(c, "a mirror pod may not reference service accounts");
            return false;
        }
        return true;
    }
    const char *name = json_str_at(spec, "serviceAccountName");
    if (name == NULL || name[0] == '\0') {
        name = "default";
        json_set_str(c->doc, spec, "serviceAccountName", name);
    }
    json_set_str(c->doc, spec, "serviceAccount", name);
    struct api_obj *o = api_cache_find(api_res_find(c->a, "", "serviceaccounts"), c->t.ns, name);
    AUTO(json_docp) struct json_doc *d = NULL;
    if (o == NULL || api_obj_parse(o, &d) < 0) {
        api_fail_forbidden(
            c, "error looking up service account %s/%s: serviceaccount \"%s\" not found", c->t.ns,
            name, name);
        return false;
    }
    const struct json *sa = json_root(d);
    const struct json *automount = json_get(spec, "automountServiceAccountToken");
    automount = automount != NULL ? automount : json_get(sa, "automountServiceAccountToken");
    if (json_bool(automount, true)) {
        const char *volume = NULL;
        mount_token(c, spec, "initContainers", &volume);
        mount_token(c, spec, "containers", &volume);
    }
    if (json_len(json_get(spec, "imagePullSecrets")) == 0 &&
        json_len(json_get(sa, "imagePullSecrets")) > 0) {
        json_set(c->doc, spec, "imagePullSecrets",
                 json_copy(c->doc, json_get(sa, "imagePullSecrets")));
    }
    return true;
}

static bool admit_pod(struct api_call *c, struct json *pod) {
    json_need_obj(c->doc, pod, "spec");
    if (!api_admit_limits(c, pod) || !pod_account(c, pod)) {
        return false;
    }
    pod_tolerations(c, pod);
    return pod_priority(c, pod);
}

/* ---- entry points ---- */

static void taint_new_node(struct api_call *c, struct json *node) {
    static const char key[] = "node.kubernetes.io/not-ready";
    struct json *spec = json_need_obj(c->doc, node, "spec");
    JSON_EACH(it, t, json_get(spec, "taints")) {
        if (str_eq(json_str(json_get(t, "key")), key) &&
            str_eq(json_str(json_get(t, "effect")), "NoSchedule")) {
            return;
        }
    }
    struct json *t = json_new_obj(c->doc);
    json_set_str(c->doc, t, "key", key);
    json_set_str(c->doc, t, "effect", "NoSchedule");
    json_push(json_need_arr(c->doc, spec, "taints"), t);
}

/* The signer's name decides who may approve a request; the requester is whoever asks, never what the body says. */
static void csr_identity(struct api_call *c, struct json *csr) {
    struct json *spec = json_need_obj(c->doc, csr, "spec");
    static const char *const fields[] = {"username", "uid", "groups", "extra"};
    for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
        json_del(spec, fields[i]);
    }
    struct json *u = json_new_obj(c->doc);
    api_user_json(&c->user, c->doc, u);
    for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
        const struct json *v = json_get(u, fields[i]);
        if (v != NULL) {
            json_set(c->doc, spec, fields[i], json_copy(c->doc, v));
        }
    }
}

/* Nobody may ask for a client certificate of the privileged group. */
static bool csr_group(struct api_call *c, const struct json *csr) {
    AUTO(buf) struct buf pem = BUF_INIT(64 << 10);
    struct pki_info info;
    struct err e = ERR_INIT;
    const char *request = json_str_at(csr, "spec", "request");
    if (!str_eq(json_str_at(csr, "spec", "signerName"), "kubernetes.io/kube-apiserver-client") ||
        request == NULL || b64_decode(&pem, span_str(request)) < 0 ||
        pki_csr_parse(buf_view(&pem), &info, &e) < 0) {
        return true; /* validation has its say */
    }
    bool masters = false;
    for (size_t i = 0; i < info.subject.n_orgs; i++) {
        masters = masters || strcmp(info.subject.orgs[i], "system:masters") == 0;
    }
    pki_info_fini(&info);
    if (masters) {
        api_fail_forbidden(c, "use of kubernetes.io/kube-apiserver-client signer with "
                              "system:masters group is not allowed");
    }
    return !masters;
}

static bool csr_signer_verb(struct api_call *c, const struct json *csr, const char *verb) {
    const char *signer = json_str_or(json_at(csr, "spec", "signerName"), "");
    const char *domain = api_fmt(c, "%.*s/*", (int)strcspn(signer, "/"), signer);
    const struct api_attrs one = {.user = &c->user,
                                  .verb = verb,
                                  .group = "certificates.k8s.io",
                                  .version = "v1",
                                  .resource = "signers",
                                  .sub = "",
                                  .ns = "",
                                  .name = signer};
    struct api_attrs all = one;
    all.name = domain;
    if (api_authorize(c->a, &one) || api_authorize(c->a, &all)) {
        return true;
    }
    api_fail_forbidden(c, "user not permitted to %s requests with signerName \"%s\"", verb, signer);
    return false;
}

/* Conditions without times get them: a change of status starts a new transition. */
static void csr_times(struct api_call *c, struct json *csr, const struct json *old) {
    JSON_EACH(it, cond, json_at(csr, "status", "conditions")) {
        const struct json *was = kube_condition(old, json_str_or(json_get(cond, "type"), ""));
        bool same = was != NULL && json_eq(json_get(was, "status"), json_get(cond, "status"));
        if (json_is_null(json_get(cond, "lastUpdateTime"))) {
            json_set_str(c->doc, cond, "lastUpdateTime", c->time);
        }
        if (json_is_null(json_get(cond, "lastTransitionTime"))) {
            const char *at = same ? json_str(json_get(was, "lastTransitionTime")) : NULL;
            json_set_str(c->doc, cond, "lastTransitionTime", at != NULL ? at : c->time);
        }
    }
}

bool api_admit_create(struct api_call *c, struct json *obj) {
    if (!admit_namespace(c) || !api_admit_node(c, obj, NULL) || !admit_rbac(c, obj, NULL)) {
        return false;
    }
    if (is_res(c, "", "pods")) {
        return admit_pod(c, obj);
    }
    if (is_res(c, "", "nodes")) {
        taint_new_node(c, obj);
    } else if (is_res(c, "certificates.k8s.io", "certificatesigningrequests")) {
        csr_identity(c, obj);
        return csr_group(c, obj);
    }
    return true;
}

bool api_admit_created(struct api_call *c, struct json *obj) {
    c->n_ops = 0;
    if (!api_pss_admit(c, obj, NULL) ||
        (is_res(c, "", "namespaces") && !api_pss_namespace(c, obj))) {
        return false;
    }
    if (is_res(c, "", "services") && !api_svc_admit(c, obj, NULL)) {
        return false;
    }
    return api_admit_quota(c, obj, NULL);
}

bool api_admit_update(struct api_call *c, struct json *obj, const struct json *old) {
    if (!api_admit_node(c, obj, old) || !admit_rbac(c, obj, old)) {
        return false;
    }
    if (is_res(c, "", "pods") && c->kr->sub[0] == '\0') {
        pod_tolerations(c, obj);
    }
    if (is_res(c, "certificates.k8s.io", "certificatesigningrequests")) {
        csr_times(c, obj, old);
        if (strcmp(c->kr->sub, "approval") == 0) {
            return csr_signer_verb(c, old, "approve");
        }
        if (strcmp(c->kr->sub, "status") == 0 && !json_eq(json_at(obj, "status", "certificate"),
                                                          json_at(old, "status", "certificate"))) {
            return csr_signer_verb(c, old, "sign");
        }
    }
    return true;
}

bool api_admit_updated(struct api_call *c, struct json *obj, const struct json *old) {
    c->n_ops = 0;
    if (!api_pss_admit(c, obj, old) ||
        (is_res(c, "", "namespaces") && !api_pss_namespace(c, obj))) {
        return false;
    }
    if (is_res(c, "", "services") && c->kr->sub[0] == '\0') {
        return api_svc_admit(c, obj, old);
    }
    return true;
}

bool api_admit_delete(struct api_call *c, const struct json *old) {
    static const char *const kept[] = {"default", "kube-system", "kube-public"};
    if (is_res(c, "", "namespaces")) {
        for (size_t i = 0; i < ARRAY_LEN(kept); i++) {
            if (strcmp(c->t.name, kept[i]) == 0) {
                api_fail_forbidden(c, "this namespace may not be deleted");
                return false;
            }
        }
    }
    return api_admit_node(c, NULL, old);
}
