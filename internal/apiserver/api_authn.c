#include "internal/apiserver/api_int.h"
#include "internal/hash/hash.h"
#include "internal/pki/pki.h"

/* Who asks: client certificate, service-account token, bootstrap token, or nobody; and impersonation on top. */

bool api_user_in(const struct api_user *u, const char *group) {
    for (size_t i = 0; i < u->n_groups; i++) {
        if (strcmp(u->groups[i], group) == 0) {
            return true;
        }
    }
    return false;
}

void api_user_group(struct api_user *u, const char *group) {
    if (group != NULL && u->n_groups < LIM_API_GROUPS && !api_user_in(u, group)) {
        u->groups[u->n_groups++] = group;
    }
}

static void add_extra(struct api_user *u, const char *key, const char *value) {
    if (key != NULL && value != NULL && u->n_extra < ARRAY_LEN(u->extra)) {
        u->extra[u->n_extra++] = (struct api_extra){key, value};
    }
}

void api_user_json(const struct api_user *u, struct json_doc *d, struct json *into) {
    json_set_str(d, into, "username", u->name);
    json_set_str(d, into, "uid", u->uid != NULL && u->uid[0] != '\0' ? u->uid : NULL);
    if (u->n_groups > 0) {
        struct json *g = json_set_arr(d, into, "groups");
        for (size_t i = 0; i < u->n_groups; i++) {
            json_push_str(d, g, u->groups[i]);
        }
    }
    for (size_t i = 0; i < u->n_extra; i++) {
        struct json *x = json_need_obj(d, into, "extra");
        json_push_str(d, json_need_arr(d, x, u->extra[i].key), u->extra[i].value);
    }
}

/* ---- service-account tokens ---- */

/* The named object must exist with this uid and not be on its way out for longer than a minute. */
static bool bound_alive(struct apiserver *a, const char *group, const char *resource,
                        const char *ns, const char *name, const char *uid) {
    struct api_res *res = api_res_find(a, group, resource);
    struct api_obj *o = res != NULL ? api_cache_find(res, ns, name) : NULL;
    AUTO(json_docp) struct json_doc *d = NULL;
    if (o == NULL || uid == NULL || api_obj_parse(o, &d) < 0 ||
        strcmp(kube_uid(json_root(d)), uid) != 0) {
        return false;
    }
    const char *gone = json_str_at(json_root(d), "metadata", "deletionTimestamp");
    uint64_t at = 0;
    if (gone != NULL && time_parse(span_str(gone), &at) >= 0 &&
        clock_wall_ns() > at + 60 * NS_PER_S) {
        return false;
    }
    return true;
}

static bool claims_bound(struct apiserver *a, const struct json *k8s, const char *ns) {
    static const struct {
        const char *claim, *resource;
        bool namespaced;
    } kinds[] = {{"serviceaccount", "serviceaccounts", true},
                 {"pod", "pods", true},
                 {"secret", "secrets", true},
                 {"node", "nodes", false}};
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        const struct json *ref = json_get(k8s, kinds[i].claim);
        if (ref == NULL) {
            if (i == 0) {
                return false;
            }
            continue;
        }
        if (i == 3 && json_get(k8s, "pod") != NULL) {
            continue; /* the node of a pod's token is information, the pod binds */
        }
        if (!bound_alive(a, "", kinds[i].resource, kinds[i].namespaced ? ns : "",
                         json_str_or(json_get(ref, "name"), ""), json_str(json_get(ref, "uid")))) {
            return false;
        }
    }
    return true;
}

static bool audience_ok(struct apiserver *a, const struct json *aud, const char *const *want,
                        size_t n, struct arena *mem, const char **ret) {
    const char *own[] = {a->sa_issuer};
    if (n == 0) {
        want = own;
        n = 1;
    }
    for (size_t i = 0; i < n; i++) {
        if (str_eq(json_str(aud), want[i])) {
            *ret = want[i];
            return true;
        }
        JSON_EACH(it, v, aud) {
            if (str_eq(json_str(v), want[i])) {
                *ret = arena_str(mem, span_str(want[i]));
                return true;
            }
        }
    }
    return false;
}

static void token_extra(struct api_user *u, struct arena *mem, const char *key, const char *value) {
    if (value != NULL) {
        add_extra(u, arena_fmt(mem, "authentication.kubernetes.io/%s", key),
                  arena_str(mem, span_str(value)));
    }
}

/* Claims of a token whose signature is good. Verifying costs a millisecond, so the claims of recent tokens are kept by the
 * hash of the token; expiry and what the token is bound to are looked at every time. */
static int jwt_claims(struct apiserver *a, const char *token, struct json_doc **ret) {
    uint8_t sum[HASH_SHA256];
    struct err e = ERR_INIT;
    hash_sha256(span_str(token), sum);
    const char *known = map_get(&a->tokens, span_of(sum, sizeof sum));
    if (known != NULL) {
        return json_parse(span_str(known), 0, ret, &e);
    }
    AUTO(buf) struct buf claims = BUF_INIT(64 << 10);
    int rc = pki_jws_verify(span_str(token), a->sa_pems, a->n_sa_pems, &claims, &e);
    if (rc < 0 || (rc = json_parse(buf_view(&claims), 0, ret, &e)) < 0) {
        return rc;
    }
    if (a->tokens.n >= LIM_API_TOKENS) {
        api_tokens_forget(a);
    }
    map_put(&a->tokens, span_of(sum, sizeof sum), str_dupn(claims.p, claims.n));
    return 0;
}

void api_tokens_forget(struct apiserver *a) {
    struct map_iter it = {0};
    for (struct map_entry *en = NULL; map_next(&a->tokens, &it, &en);) {
        free(en->value);
    }
    map_fini(&a->tokens);
}

static int jwt_user(struct apiserver *a, const char *token, const char *const *auds, size_t n_auds,
                    struct arena *mem, struct api_user *ret, const char **ret_audience) {
    AUTO(json_docp) struct json_doc *d = NULL;
    if (jwt_claims(a, token, &d) < 0) {
        return -ERR_UNAUTHENTICATED;
    }
    const struct json *c = json_root(d);
    const struct json *k8s = json_get(c, "kubernetes.io");
    int64_t now = (int64_t)(clock_wall_ns() / NS_PER_S);
    const char *ns = json_str_at(k8s, "namespace");
    const char *sa = json_str_at(k8s, "serviceaccount", "name");
    const char *sub = json_str_at(c, "sub");
    if (!str_eq(json_str_at(c, "iss"), a->sa_issuer) || ns == NULL || sa == NULL || sub == NULL ||
        json_i64_at(c, 0, "exp") <= now || json_i64_at(c, 0, "nbf") > now + 10 ||
        !audience_ok(a, json_get(c, "aud"), auds, n_auds, mem, ret_audience) ||
        !claims_bound(a, k8s, ns)) {
        return -ERR_UNAUTHENTICATED;
    }
    ret->name = arena_fmt(mem, "system:serviceaccount:%s:%s", ns, sa);
    if (ret->name == NULL || strcmp(ret->name, sub) != 0) {
        return -ERR_UNAUTHENTICATED;
    }
    ret->uid = arena_str(mem, json_span(json_at(k8s, "serviceaccount", "uid")));
    api_user_group(ret, "system:serviceaccounts");
    api_user_group(ret, arena_fmt(mem, "system:serviceaccounts:%s", ns));
    const char *jti = json_str_at(c, "jti");
    if (jti != NULL) {
        token_extra(ret, mem, "credential-id", arena_fmt(mem, "JTI=%s", jti));
    }
    token_extra(ret, mem, "node-name", json_str_at(k8s, "node", "name"));
    token_extra(ret, mem, "node-uid", json_str_at(k8s, "node", "uid"));
    token_extra(ret, mem, "pod-name", json_str_at(k8s, "pod", "name"));
    token_extra(ret, mem, "pod-uid", json_str_at(k8s, "pod", "uid"));
    return 0;
}

/* ---- bootstrap tokens ---- */

static bool secret_value(const struct json *secret, const char *key, struct buf *b) {
    const char *v = json_str_at(secret, "data", key);
    buf_reset(b);
    return v != NULL && b64_decode(b, span_str(v)) >= 0;
}

static int bootstrap_user(struct apiserver *a, const char *token, struct arena *mem,
                          struct api_user *ret) {
    struct span s = span_str(token);
    struct span id;
    char name[64];
    if (s.n != 23 || span_until(&s, '.', &id) < 0 || id.n != 6 || s.n != 16 ||
        str_put(name, sizeof name, "bootstrap-token-%.*s", SPAN_FMT(id)) < 0) {
        return -ERR_UNAUTHENTICATED;
    }
    struct api_obj *o = api_cache_find(api_res_find(a, "", "secrets"), "kube-system", name);
    AUTO(json_docp) struct json_doc *d = NULL;
    AUTO(buf) struct buf b = BUF_INIT(64 << 10);
    if (o == NULL || api_obj_parse(o, &d) < 0 || kube_is_deleting(json_root(d))) {
        return -ERR_UNAUTHENTICATED;
    }
    const struct json *secret = json_root(d);
    bool ok = str_eq(json_str_at(secret, "type"), "bootstrap.kubernetes.io/token") &&
              secret_value(secret, "token-secret", &b) && b.n == s.n && ct_eq(b.p, s.p, s.n);
    ok = ok && secret_value(secret, "token-id", &b) && span_eq(buf_view(&b), id);
    ok = ok && secret_value(secret, "usage-bootstrap-authentication", &b) &&
         span_eq_str(buf_view(&b), "true");
    uint64_t until = 0;
    if (ok && secret_value(secret, "expiration", &b)) {
        ok = time_parse(buf_view(&b), &until) >= 0 && until > clock_wall_ns();
    }
    if (!ok) {
        return -ERR_UNAUTHENTICATED;
    }
    ret->name = arena_fmt(mem, "system:bootstrap:%.*s", SPAN_FMT(id));
    api_user_group(ret, "system:bootstrappers");
    if (secret_value(secret, "auth-extra-groups", &b)) {
        struct span list = buf_view(&b);
        struct span one;
        while (span_next(&list, ',', &one)) {
            one = span_trim(one);
            if (span_starts(one, "system:bootstrappers:")) {
                api_user_group(ret, arena_str(mem, one));
            }
        }
    }
    return ret->name != NULL ? 0 : -ERR_UNAUTHENTICATED;
}

int api_token_user(struct apiserver *a, const char *token, const char *const *auds, size_t n_auds,
                   struct arena *mem, struct api_user *ret, const char **ret_audience) {
    *ret = (struct api_user){.name = "", .uid = ""};
    *ret_audience = a->sa_issuer;
    int rc = strchr(token, '.') != NULL && strlen(token) == 23
                 ? bootstrap_user(a, token, mem, ret)
                 : jwt_user(a, token, auds, n_auds, mem, ret, ret_audience);
    if (rc >= 0) {
        api_user_group(ret, "system:authenticated");
    }
    return rc;
}

/* ---- certificates ---- */

static bool cert_user(struct api_call *c) {
    const struct tls_peer *p = http_req_peer(c->r);
    if (p == NULL || p->cn == NULL || p->cn[0] == '\0') {
        return false;
    }
    c->user.name = api_fmt(c, "%s", p->cn);
    for (size_t i = 0; i < p->n_orgs; i++) {
        api_user_group(&c->user, api_fmt(c, "%s", p->orgs[i]));
    }
    api_user_group(&c->user, "system:authenticated");
    uint8_t sum[HASH_SHA256];
    AUTO(buf) struct buf hex = BUF_INIT(128);
    hash_sha256(p->cert_der, sum);
    hex_encode(&hex, span_of(sum, sizeof sum));
    add_extra(&c->user, "authentication.kubernetes.io/credential-id",
              api_fmt(c, "X509SHA256=%s", buf_cstr(&hex)));
    return true;
}

/* ---- impersonation ---- */

static bool may_impersonate(struct api_call *c, const char *group, const char *resource,
                            const char *sub, const char *ns, const char *name) {
    struct api_attrs at = {.user = &c->user,
                           .verb = "impersonate",
                           .group = group,
                           .version = "v1",
                           .resource = resource,
                           .sub = sub,
                           .ns = ns,
                           .name = name};
    if (api_authorize(c->a, &at)) {
        return true;
    }
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    const char *res = sub[0] != '\0' ? api_fmt(c, "%s/%s", resource, sub) : resource;
    const char *msg =
        api_fmt(c,
                "%s \"%s\" is forbidden: User \"%s\" cannot impersonate resource \"%s\" in API "
                "group \"%s\" %s",
                api_qualified(c, group, resource), name, c->user.name, res, group,
                ns[0] != '\0' ? api_fmt(c, "in the namespace \"%s\"", ns) : "at the cluster scope");
    struct json *s = kube_status(d, 403, "Forbidden", msg);
    kube_status_details(d, s, group[0] != '\0' ? group : NULL, resource, name, NULL);
    c->nosniff = true;
    api_reply_status(c, s);
    return false;
}

static bool impersonate_user(struct api_call *c, const char *name, struct api_user *u) {
    struct span s = span_str(name);
    struct span ns;
    static const char sa[] = "system:serviceaccount:";
    if (span_starts(s, sa) && span_skip(&s, sizeof sa - 1) >= 0 && span_until(&s, ':', &ns) >= 0) {
        const char *nsname = api_fmt(c, "%.*s", SPAN_FMT(ns));
        if (!may_impersonate(c, "", "serviceaccounts", "", nsname,
                             api_fmt(c, "%.*s", SPAN_FMT(s)))) {
            return false;
        }
        u->groups[LIM_API_GROUPS - 1] = nsname; /* kept aside for the default groups */
    } else if (!may_impersonate(c, "", "users", "", "", name)) {
        return false;
    }
    u->name = name;
    return true;
}

static const char *go_strings(struct api_call *c, const struct api_user *u) {
    AUTO(buf) struct buf b = BUF_INIT(16 << 10);
    for (size_t i = 0; i < u->n_groups; i++) {
        buf_fmt(&b, "%s\"%s\"", i > 0 ? ", " : "", u->groups[i]);
    }
    return api_fmt(c, "%s", buf_cstr(&b));
}

/* Reads the Impersonate-* headers into u; false: answered. */
static bool impersonate_read(struct api_call *c, struct api_user *u, bool *any) {
    struct http_header h;
    for (size_t i = 0; http_req_header_at(c->r, i, &h); i++) {
        const char *value = api_fmt(c, "%.*s", SPAN_FMT(h.value));
        if (span_eq_str(h.name, "impersonate-user")) {
            u->name = value;
        } else if (span_eq_str(h.name, "impersonate-uid")) {
            u->uid = value;
        } else if (span_eq_str(h.name, "impersonate-group")) {
            api_user_group(u, value);
        } else if (span_starts(h.name, "impersonate-extra-")) {
            AUTO(buf) struct buf key = BUF_INIT(1 << 10);
            struct span k = h.name;
            if (span_skip(&k, strlen("impersonate-extra-")) >= 0 &&
                url_decode(&key, k, false) >= 0) {
                add_extra(u, api_fmt(c, "%s", buf_cstr(&key)), value);
            }
        } else {
            continue;
        }
        *any = true;
    }
    if (*any && u->name[0] == '\0') {
        c->nosniff = true;
        api_fail(c, 400, "BadRequest",
                 "requested &user.DefaultInfo{Name:\"\", UID:\"%s\", Groups:[]string{%s}, "
                 "Extra:map[string][]string(nil)} "
                 "without impersonating a user name",
                 u->uid, go_strings(c, u));
        return false;
    }
    return true;
}

static bool impersonate(struct api_call *c) {
    struct api_user u = {.name = "", .uid = ""};
    bool any = false;
    if (!impersonate_read(c, &u, &any)) {
        return false;
    }
    if (!any) {
        return true;
    }
    if (!impersonate_user(c, u.name, &u)) {
        return false;
    }
    const char *sa_ns = u.groups[LIM_API_GROUPS - 1];
    u.groups[LIM_API_GROUPS - 1] = NULL;
    for (size_t i = 0; i < u.n_groups; i++) {
        if (!may_impersonate(c, "", "groups", "", "", u.groups[i])) {
            return false;
        }
    }
    for (size_t i = 0; i < u.n_extra; i++) {
        if (!may_impersonate(c, "authentication.k8s.io", "userextras", u.extra[i].key, "",
                             u.extra[i].value)) {
            return false;
        }
    }
    if (u.uid[0] != '\0' && !may_impersonate(c, "authentication.k8s.io", "uids", "", "", u.uid)) {
        return false;
    }
    if (sa_ns != NULL && u.n_groups == 0) {
        api_user_group(&u, "system:serviceaccounts");
        api_user_group(&u, api_fmt(c, "system:serviceaccounts:%s", sa_ns));
    }
    if (strcmp(u.name, "system:anonymous") == 0) {
        api_user_group(&u, "system:unauthenticated");
    } else {
        api_user_group(&u, "system:authenticated");
    }
    c->user = u;
    return true;
}

/* A certificate that nobody vouches for is a failed login, not an anonymous visit. */
static bool untrusted(const struct api_call *c) {
    const struct tls_peer *p = http_req_peer(c->r);
    return p != NULL && p->is_untrusted;
}

int api_authenticate(struct api_call *c) {
    c->user = (struct api_user){.name = "", .uid = ""};
    struct span auth = api_header(c, "authorization");
    struct span scheme;
    const char *audience = NULL;
    if (!cert_user(c)) {
        if (auth.n > 0 && span_next(&auth, ' ', &scheme) && span_eq_nocase(scheme, "bearer") &&
            span_trim(auth).n > 0) {
            const char *token = api_fmt(c, "%.*s", SPAN_FMT(span_trim(auth)));
            if (api_token_user(c->a, token, NULL, 0, &c->mem, &c->user, &audience) < 0) {
                api_unauthorized(c);
                return -ERR_UNAUTHENTICATED;
            }
        } else if (c->a->anonymous && !untrusted(c)) {
            c->user.name = "system:anonymous";
            api_user_group(&c->user, "system:unauthenticated");
        } else {
            api_unauthorized(c);
            return -ERR_UNAUTHENTICATED;
        }
    }
    return impersonate(c) ? 0 : -ERR_FORBIDDEN;
}
