#include "internal/apiserver/api_int.h"

/* serviceaccounts/token: claims are made here, the signature by whoever holds the key. */

enum { TOKEN_MIN_S = 600, TOKEN_DEFAULT_S = 3600 };

struct token_state {
    struct json *obj;
    int64_t now, ttl;
};

static void on_signed(void *ctx, int rc, struct span token, const struct err *e) {
    struct api_call *c = ctx;
    struct token_state *s = c->state;
    if (rc < 0) {
        api_fail_err(c, e);
    } else {
        char until[TIME_STR];
        struct json *status = json_set_obj(c->doc, s->obj, "status");
        json_set(c->doc, status, "token", json_new_span(c->doc, token));
        time_rfc3339((uint64_t)(s->now + s->ttl), until);
        json_set_str(c->doc, status, "expirationTimestamp", until);
        api_reply_json(c, 201, s->obj);
    }
    api_call_unbusy(c);
}

/* The object that the token dies with. false: answered. */
static bool bound_claim(struct api_call *c, const struct json *ref, struct json *k8s) {
    if (json_is_null(ref) || json_len(ref) == 0) {
        return true;
    }
    const char *kind = json_str_or(json_get(ref, "kind"), "");
    const char *name = json_str_or(json_get(ref, "name"), "");
    const char *uid = json_str_or(json_get(ref, "uid"), "");
    const char *resource = strcmp(kind, "Pod") == 0      ? "pods"
                           : strcmp(kind, "Secret") == 0 ? "secrets"
                           : strcmp(kind, "Node") == 0   ? "nodes"
                                                         : NULL;
    if (resource == NULL) {
        api_fail(c, 400, "BadRequest", "cannot bind token for serviceaccount to type %s", kind);
        return false;
    }
    struct api_res *res = api_res_find(c->a, "", resource);
    struct json *o = api_load_tree(c, res, res->kr->namespaced ? c->t.ns : "", name, res->kr, NULL);
    if (o == NULL) {
        api_fail_not_found(c, "", resource, name);
        return false;
    }
    if (uid[0] != '\0' && strcmp(uid, kube_uid(o)) != 0) {
        api_fail_conflict(c, resource, name,
                          "the UID in the bound object reference (%s) does not match the UID in "
                          "record. The object might "
                          "have been deleted and then recreated",
                          uid);
        return false;
    }
    if (strcmp(resource, "pods") == 0 &&
        !str_eq(json_str_at(o, "spec", "serviceAccountName"), c->t.name)) {
        api_fail(c, 400, "BadRequest",
                 "cannot bind token for serviceaccount \"%s\" to pod running with different "
                 "serviceaccount name.",
                 c->t.name);
        return false;
    }
    const char *claim = strcmp(resource, "pods") == 0      ? "pod"
                        : strcmp(resource, "secrets") == 0 ? "secret"
                                                           : "node";
    struct json *m = json_set_obj(c->doc, k8s, claim);
    json_set_str(c->doc, m, "name", name);
    json_set_str(c->doc, m, "uid", kube_uid(o));
    const char *node = json_str_at(o, "spec", "nodeName");
    if (strcmp(claim, "pod") == 0 && node != NULL) {
        struct json *n = json_set_obj(c->doc, k8s, "node");
        json_set_str(c->doc, n, "name", node);
        struct api_res *nodes = api_res_find(c->a, "", "nodes");
        struct json *no = api_load_tree(c, nodes, "", node, nodes->kr, NULL);
        json_set_str(c->doc, n, "uid", no != NULL ? kube_uid(no) : NULL);
    }
    return true;
}

static bool check_ttl(struct api_call *c, const struct json *spec, int64_t *ret) {
    *ret = json_i64_at(spec, TOKEN_DEFAULT_S, "expirationSeconds");
    if (*ret >= TOKEN_MIN_S && *ret <= UINT32_MAX) {
        return true;
    }
    struct kube_errs errs = KUBE_ERRS_INIT;
    kube_err_add(&errs, KUBE_INVALID, "spec.expirationSeconds", json_get(spec, "expirationSeconds"),
                 *ret < TOKEN_MIN_S ? "may not specify a duration less than 10 minutes"
                                    : "may not specify a duration larger than 2^32 seconds");
    api_fail_invalid(c, c->kr, "", &errs);
    return false;
}

/* A TokenRequest is answered like an object that was made, though nothing is stored. */
static void request_meta(struct api_call *c, struct json *obj) {
    const struct kube_apply_opts mo = {.manager = c->field_manager, .time = c->time};
    struct json *meta = json_need_obj(c->doc, obj, "metadata");
    char uid[37];
    rand_uuid(uid);
    json_set_str(c->doc, meta, "name", c->t.name);
    json_set_str(c->doc, meta, "namespace", c->t.ns);
    json_set_str(c->doc, meta, "uid", uid);
    json_set_str(c->doc, meta, "creationTimestamp", c->time);
    kube_managed_update(c->doc, c->kr, NULL, obj, &mo, false);
    JSON_EACH(it, entry, json_get(meta, "managedFields")) {
        json_set_str(c->doc, entry, "apiVersion", "authentication.k8s.io/v1");
    }
}

void api_token_create(struct api_call *c) {
    struct token_state *s = arena_new(&c->mem, struct token_state);
    CHECK(s != NULL);
    if (!api_write_options(c, "CreateOptions")) {
        return;
    }
    struct json *obj = api_decode_body(c, c->kr, true);
    if (obj == NULL) {
        return;
    }
    c->obj_name = c->t.name;
    struct json *spec = json_need_obj(c->doc, obj, "spec");
    struct json *sa = api_load_tree(c, c->res, c->t.ns, c->t.name, c->res->kr, NULL);
    if (sa == NULL) {
        api_fail_not_found(c, "", "serviceaccounts", c->t.name);
        return;
    }
    if (!check_ttl(c, spec, &s->ttl) || !api_admit_node(c, obj, NULL)) {
        return;
    }
    if (c->a->signer.sign == NULL) {
        api_fail(c, 501, "NotImplemented", "this server has no key to sign tokens with");
        return;
    }
    s->now = (int64_t)(clock_wall_ns() / NS_PER_S);
    s->obj = obj;
    request_meta(c, obj);
    json_set_i64(c->doc, spec, "expirationSeconds", s->ttl);
    if (json_len(json_get(spec, "audiences")) == 0) {
        json_push_str(c->doc, json_set_arr(c->doc, spec, "audiences"), c->a->sa_issuer);
    }
    struct json *claims = json_new_obj(c->doc);
    json_set(c->doc, claims, "aud", json_copy(c->doc, json_get(spec, "audiences")));
    json_set_i64(c->doc, claims, "exp", s->now + s->ttl);
    json_set_i64(c->doc, claims, "iat", s->now);
    json_set_str(c->doc, claims, "iss", c->a->sa_issuer);
    char jti[37];
    rand_uuid(jti);
    json_set_str(c->doc, claims, "jti", jti);
    struct json *k8s = json_set_obj(c->doc, claims, "kubernetes.io");
    json_set_str(c->doc, k8s, "namespace", c->t.ns);
    struct json *acc = json_set_obj(c->doc, k8s, "serviceaccount");
    json_set_str(c->doc, acc, "name", c->t.name);
    json_set_str(c->doc, acc, "uid", kube_uid(sa));
    if (!bound_claim(c, json_get(spec, "boundObjectRef"), k8s)) {
        return;
    }
    json_set_i64(c->doc, claims, "nbf", s->now);
    json_set(c->doc, claims, "sub",
             json_new_fmt(c->doc, "system:serviceaccount:%s:%s", c->t.ns, c->t.name));
    if (json_len(json_get(spec, "boundObjectRef")) == 0) {
        json_set(c->doc, spec, "boundObjectRef", json_new_null(c->doc));
    }
    AUTO(buf) struct buf b = BUF_INIT(64 << 10);
    if (json_write(claims, 0, &b) < 0) {
        api_fail(c, 500, "InternalError", "Internal error occurred: claims are too large");
        return;
    }
    c->state = s;
    api_call_busy(c);
    c->a->signer.sign(c->a->signer.ctx, buf_view(&b), on_signed, c);
}
