#include "internal/apiserver/api_int.h"

/* Reviews: questions in the form of objects that are answered and not stored. */

static bool is(const struct kube_resource *kr, const char *name) {
    return strcmp(kr->name, name) == 0 && kr->sub[0] == '\0';
}

bool api_is_virtual(const struct kube_resource *kr) {
    return strcmp(kr->group, "authorization.k8s.io") == 0 ||
           strcmp(kr->group, "authentication.k8s.io") == 0;
}

static const char *text(const struct json *v, const char *key) {
    return json_str_or(json_get(v, key), "");
}

/* Upstream lists the asker's fields as managed by it, even of reviews. */
static void manage(struct api_call *c, struct json *obj) {
    const struct kube_apply_opts o = {.manager = c->field_manager, .time = c->time};
    kube_managed_update(c->doc, c->kr, NULL, obj, &o, false);
}

static void reply(struct api_call *c, struct json *obj) {
    if (json_get(obj, "metadata") == NULL) {
        json_set_obj(c->doc, obj, "metadata");
    }
    api_reply_json(c, 201, obj);
}

/* ---- access reviews ---- */

static bool read_user(struct api_call *c, const struct json *spec, struct api_user *u) {
    *u = (struct api_user){.name = text(spec, "user"), .uid = text(spec, "uid")};
    JSON_EACH(it, g, json_get(spec, "groups")) {
        api_user_group(u, json_str(g));
    }
    (void)c;
    return u->name[0] != '\0' || u->n_groups > 0;
}

static void fail_review(struct api_call *c, const char *kind, enum kube_cause_kind k,
                        const char *field, const struct json *bad, const char *msg) {
    struct kube_errs errs = KUBE_ERRS_INIT;
    kube_err_add(&errs, k, field, bad, "%s", msg);
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    api_reply_status(c, kube_status_invalid(d, "authorization.k8s.io", kind, "", &errs));
    kube_errs_fini(&errs);
}

static void access_review(struct api_call *c, struct json *obj) {
    struct json *spec = json_need_obj(c->doc, obj, "spec");
    const struct json *res = json_get(spec, "resourceAttributes");
    const struct json *non = json_get(spec, "nonResourceAttributes");
    bool self = is(c->kr, "selfsubjectaccessreviews");
    struct api_user u = c->user;
    if ((res != NULL) == (non != NULL)) {
        fail_review(
            c, "", KUBE_INVALID, "spec.resourceAttributes",
            res != NULL ? res : json_new_null(c->doc),
            res != NULL
                ? "cannot be specified in combination with nonResourceAttributes"
                : "exactly one of nonResourceAttributes or resourceAttributes must be specified");
        return;
    }
    if (!self && !read_user(c, spec, &u)) {
        fail_review(c, "", KUBE_INVALID, "spec.user", json_new_str(c->doc, ""),
                    "at least one of user or group must be specified");
        return;
    }
    if (is(c->kr, "localsubjectaccessreviews") && strcmp(text(res, "namespace"), c->t.ns) != 0) {
        fail_review(c, "", KUBE_INVALID, "spec.resourceAttributes.namespace",
                    json_new_str(c->doc, text(res, "namespace")), "must match metadata.namespace");
        return;
    }
    const char *resource = text(res, "resource");
    struct api_attrs at = {.user = &u,
                           .verb = text(res != NULL ? res : non, "verb"),
                           .group = text(res, "group"),
                           .version = text(res, "version"),
                           .resource = res != NULL ? resource : NULL,
                           .sub = text(res, "subresource"),
                           .ns = text(res, "namespace"),
                           .name = text(res, "name"),
                           .path = text(non, "path")};
    manage(c, obj);
    struct json *status = json_set_obj(c->doc, obj, "status");
    json_set_bool(c->doc, status, "allowed", api_authorize(c->a, &at));
    reply(c, obj);
}

static void rules_review(struct api_call *c, struct json *obj) {
    const char *ns = text(json_get(obj, "spec"), "namespace");
    if (ns[0] == '\0') {
        api_fail(c, 400, "BadRequest", "no namespace on request");
        return;
    }
    struct json *spec = json_new_obj(c->doc);
    struct json *status = json_new_obj(c->doc);
    struct json *r = json_set_arr(c->doc, status, "resourceRules");
    struct json *n = json_set_arr(c->doc, status, "nonResourceRules");
    if (api_user_in(&c->user, "system:masters")) {
        struct json *all = json_new_obj(c->doc);
        static const char *const keys[] = {"verbs", "apiGroups", "resources"};
        for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
            json_push_str(c->doc, json_set_arr(c->doc, all, keys[i]), "*");
        }
        json_push(r, all);
        struct json *url = json_new_obj(c->doc);
        json_push_str(c->doc, json_set_arr(c->doc, url, "verbs"), "*");
        json_push_str(c->doc, json_set_arr(c->doc, url, "nonResourceURLs"), "*");
        json_push(n, url);
    }
    api_rbac_rules(c->a, &c->user, ns, c->doc, r, n);
    json_set_bool(c->doc, status, "incomplete", false);
    json_set(c->doc, obj, "spec", spec);
    json_set(c->doc, obj, "status", status);
    json_set_obj(c->doc, obj, "metadata");
    reply(c, obj);
}

/* ---- authentication ---- */

static void self_review(struct api_call *c, struct json *obj) {
    struct json *meta = json_set_obj(c->doc, obj, "metadata");
    json_set_str(c->doc, meta, "creationTimestamp", c->time);
    json_del(obj, "status");
    struct json *status = json_set_obj(c->doc, obj, "status");
    api_user_json(&c->user, c->doc, json_set_obj(c->doc, status, "userInfo"));
    reply(c, obj);
}

static void token_review(struct api_call *c, struct json *obj) {
    const struct json *spec = json_get(obj, "spec");
    const char *token = text(spec, "token");
    const char *auds[16];
    size_t n = 0;
    if (token[0] == '\0') {
        api_fail(c, 400, "BadRequest", "token is required for TokenReview in authentication");
        return;
    }
    JSON_EACH(it, v, json_get(spec, "audiences")) {
        if (json_str(v) != NULL && n < ARRAY_LEN(auds)) {
            auds[n++] = json_str(v);
        }
    }
    manage(c, obj);
    struct json *status = json_set_obj(c->doc, obj, "status");
    struct api_user u;
    const char *audience = NULL;
    if (api_token_user(c->a, token, auds, n, &c->mem, &u, &audience) < 0) {
        json_set_obj(c->doc, status, "user");
        json_set_str(c->doc, status, "error", "invalid bearer token");
    } else {
        json_set_bool(c->doc, status, "authenticated", true);
        api_user_json(&u, c->doc, json_set_obj(c->doc, status, "user"));
        json_push_str(c->doc, json_set_arr(c->doc, status, "audiences"), audience);
    }
    reply(c, obj);
}

void api_virtual(struct api_call *c) {
    if (!api_write_options(c, "CreateOptions")) {
        return;
    }
    struct json *obj = api_decode_body(c, c->kr, true);
    if (obj == NULL) {
        return;
    }
    if (is(c->kr, "selfsubjectreviews")) {
        self_review(c, obj);
    } else if (is(c->kr, "tokenreviews")) {
        token_review(c, obj);
    } else if (is(c->kr, "selfsubjectrulesreviews")) {
        rules_review(c, obj);
    } else {
        access_review(c, obj);
    }
}
