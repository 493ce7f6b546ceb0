#include "internal/apiserver/api_int.h"

/* The life of a request: head → identity → permission → dispatch → answer → release. */

char *api_fmt(struct api_call *c, const char *fmt, ...) {
    va_list ap;
    AUTO(buf) struct buf b = BUF_INIT(1 << 20);
    va_start(ap, fmt);
    buf_vfmt(&b, fmt, ap);
    va_end(ap);
    char *s = arena_str(&c->mem, buf_view(&b));
    if (s == NULL) {
        s = arena_alloc(&c->mem, 1);
        CHECK(s != NULL);
    }
    return s;
}

const char *api_query(struct api_call *c, const char *key) {
    return c->r != NULL ? http_query_get(c->r, key) : NULL;
}

struct span api_header(struct api_call *c, const char *name) {
    return c->r != NULL ? http_req_header(c->r, name) : SPAN_EMPTY;
}

void api_warn(struct api_call *c, const char *text) {
    for (size_t i = 0; i < c->n_warnings; i++) {
        if (strcmp(c->warnings[i], text) == 0) {
            return;
        }
    }
    if (c->n_warnings < LIM_API_WARNINGS) {
        c->warnings[c->n_warnings++] = api_fmt(c, "%s", text);
    }
}

/* ---- release ---- */

static void call_free(struct api_call *c) {
    api_svc_release(c);
    list_del(&c->link);
    json_doc_free(c->doc);
    json_doc_free(c->patch_doc);
    arena_fini(&c->mem);
    free(c);
}

static void on_close(struct http_req *r, bool complete, void *ctx) {
    struct api_call *c = ctx;
    (void)r;
    (void)complete;
    c->r = NULL;
    c->answered = true;
    if (c->closed != NULL) {
        c->closed(c);
        c->closed = NULL;
    }
    if (c->busy == 0) {
        call_free(c);
    }
}

void api_call_busy(struct api_call *c) {
    c->busy++;
}

void api_call_unbusy(struct api_call *c) {
    DCHECK(c->busy > 0);
    c->busy--;
    if (c->busy == 0 && c->r == NULL) {
        call_free(c);
    }
}

/* ---- negotiation ---- */

struct clause {
    struct span type, as, g, v;
};

static struct clause clause_parse(struct span s) {
    struct clause k = {SPAN_EMPTY, SPAN_EMPTY, SPAN_EMPTY, SPAN_EMPTY};
    struct span part;
    if (!span_next(&s, ';', &part)) {
        return k;
    }
    k.type = span_trim(part);
    while (span_next(&s, ';', &part)) {
        struct span name;
        struct span value = span_trim(part);
        if (!span_next(&value, '=', &name)) {
            continue;
        }
        if (span_eq_str(name, "as")) {
            k.as = value;
        } else if (span_eq_str(name, "g")) {
            k.g = value;
        } else if (span_eq_str(name, "v")) {
            k.v = value;
        }
    }
    return k;
}

static bool clause_take(const struct clause *k, struct api_out *out, bool *discovery) {
    if (span_eq_nocase(k->type, "application/json") || span_eq_str(k->type, "*/*") ||
        span_eq_str(k->type, "application/*")) {
        out->media = API_JSON;
    } else if (span_eq_nocase(k->type, "application/yaml")) {
        out->media = API_YAML;
    } else if (span_eq_nocase(k->type, "application/vnd.kubernetes.protobuf")) {
        out->media = API_PB;
    } else {
        return false;
    }
    out->as = API_AS_OBJECT;
    out->as_version = "v1";
    if (k->as.n == 0) {
        return true;
    }
    if (span_eq_str(k->as, "APIGroupDiscoveryList")) {
        *discovery = span_eq_str(k->g, "apidiscovery.k8s.io") && span_eq_str(k->v, "v2") &&
                     out->media == API_JSON;
        return *discovery;
    }
    bool beta = span_eq_str(k->v, "v1beta1");
    if (!span_eq_str(k->g, "meta.k8s.io") || !(beta || span_eq_str(k->v, "v1")) ||
        out->media == API_PB) {
        return false; /* the next clause of a client that asks for protobuf is the same in JSON */
    }
    out->as_version = beta ? "v1beta1" : "v1";
    if (span_eq_str(k->as, "Table")) {
        out->as = API_AS_TABLE;
    } else if (span_eq_str(k->as, "PartialObjectMetadata") ||
               span_eq_str(k->as, "PartialObjectMetadataList")) {
        out->as = API_AS_META;
    } else {
        return false;
    }
    return true;
}

bool api_negotiate(struct span accept, struct api_out *ret, bool *ret_discovery_v2) {
    *ret = (struct api_out){.media = API_JSON, .as = API_AS_OBJECT, .as_version = "v1"};
    *ret_discovery_v2 = false;
    if (span_trim(accept).n == 0) {
        return true;
    }
    struct span one;
    bool found = false;
    while (span_next(&accept, ',', &one)) {
        struct clause k = clause_parse(span_trim(one));
        struct api_out other = *ret;
        bool discovery = false;
        if (!found && clause_take(&k, ret, ret_discovery_v2)) {
            found = true;
        } else if (found && ret->media == API_PB && clause_take(&k, &other, &discovery)) {
            ret->json_too = ret->json_too || (other.media == API_JSON && other.as == API_AS_OBJECT);
        }
    }
    if (found) {
        return true;
    }
    *ret = (struct api_out){.media = API_JSON, .as = API_AS_OBJECT, .as_version = "v1"};
    return false;
}

static bool wants_pretty(struct api_call *c) {
    const char *q = api_query(c, "pretty");
    if (q != NULL) {
        return strcmp(q, "false") != 0 && strcmp(q, "0") != 0;
    }
    struct span ua = api_header(c, "user-agent");
    return span_starts(ua, "curl") || span_starts(ua, "Wget") || span_starts(ua, "Mozilla/5.0");
}

/* ---- dispatch ---- */

static uint8_t verb_bit(enum api_verb v) {
    static const uint8_t bits[] = {KUBE_V_GET,
                                   KUBE_V_LIST,
                                   KUBE_V_WATCH,
                                   KUBE_V_CREATE,
                                   KUBE_V_UPDATE,
                                   KUBE_V_PATCH,
                                   KUBE_V_DELETE,
                                   KUBE_V_DELETECOLLECTION,
                                   0};
    return bits[v];
}

static bool is_connect(const struct kube_resource *kr) {
    static const char *const subs[] = {"exec", "attach", "portforward", "proxy"};
    for (size_t i = 0; i < ARRAY_LEN(subs); i++) {
        if (strcmp(kr->sub, subs[i]) == 0) {
            return true;
        }
    }
    return false;
}

/* Upstream routes exact shapes: a collection has no PUT, an object no POST, and so on. */
static bool shape_ok(const struct api_call *c) {
    const struct api_target *t = &c->t;
    bool named = t->name[0] != '\0';
    if (c->kr->sub[0] != '\0') {
        return true;
    }
    switch (t->verb) {
    case API_V_CREATE: return !named && (!c->kr->namespaced || t->ns[0] != '\0');
    case API_V_UPDATE:
    case API_V_PATCH: return named;
    case API_V_DELETECOLLECTION: return !c->kr->namespaced || t->ns[0] != '\0';
    case API_V_GET:
    case API_V_LIST:
    case API_V_WATCH:
    case API_V_DELETE:
    case API_V_OTHER: break;
    }
    return !named || !c->kr->namespaced || t->ns[0] != '\0';
}

/* ---- freshness ----
 * When other API servers write to the same store, the cache may be older than what a client has been told elsewhere: reads
 * that ask for the newest state, or for a later one than the cache's, and all that may write wait for it. */

static void on_fresh(void *ctx, int rc, const struct err *e) {
    struct api_call *c = ctx;
    if (c->r != NULL && rc < 0) {
        c->retry_after = true;
        api_fail_err(c, e);
    } else if (c->r != NULL && c->a->reloading) {
        c->retry_after = true;
        api_fail(c, 503, "ServiceUnavailable", "the server is reading its storage again");
    } else if (c->r != NULL) {
        c->next(c);
    }
    api_call_unbusy(c);
}

static void fresh(struct api_call *c, void (*next)(struct api_call *c)) {
    if (!store_is_shared(c->a->store)) {
        next(c);
        return;
    }
    c->next = next;
    api_call_busy(c);
    store_sync(c->a->store, on_fresh, c);
}

static void read_resource(struct api_call *c, void (*read)(struct api_call *c)) {
    const char *rv_text = api_query(c, "resourceVersion");
    uint64_t rv = 0;
    if (rv_text == NULL || rv_text[0] == '\0' ||
        (span_to_u64(span_str(rv_text), 0, INT64_MAX, &rv) >= 0 &&
         (int64_t)rv > store_rev(c->a->store))) {
        fresh(c, read);
    } else {
        read(c);
    }
}

static void call_resource(struct api_call *c) {
    switch (c->t.verb) {
    case API_V_GET: read_resource(c, api_get); return;
    case API_V_LIST: read_resource(c, api_list); return;
    case API_V_WATCH: read_resource(c, api_watch_start); return;
    case API_V_CREATE: api_with_body(c, api_create); return;
    case API_V_UPDATE: api_with_body(c, api_update); return;
    case API_V_PATCH: api_with_body(c, api_patch); return;
    case API_V_DELETE: api_with_body(c, api_delete); return;
    case API_V_DELETECOLLECTION: api_with_body(c, api_delete_collection); return;
    case API_V_OTHER: break;
    }
    api_fail_method(c);
}

static void call_dispatch(struct api_call *c) {
    if (!c->t.is_resource) {
        api_disc(c);
        return;
    }
    const struct api_target *t = &c->t;
    c->main = kube_resource_find(t->group, t->version, t->resource, NULL);
    c->kr =
        t->sub[0] != '\0' ? kube_resource_find(t->group, t->version, t->resource, t->sub) : c->main;
    bool main_served = c->main == NULL || api_serves(c->a, c->main);
    if (c->kr == NULL || !main_served || !api_serves(c->a, c->kr) ||
        (!c->kr->namespaced && t->ns[0] != '\0' && strcmp(t->resource, "namespaces") != 0)) {
        api_disc(c); /* words the 404 by what exists of the path */
        return;
    }
    c->res = c->main != NULL ? api_res_of(c->a, c->main) : NULL;
    if (c->out.media == API_PB && (c->kr->type == NULL || !kube_pb_has(c->kr->type)) &&
        c->out.json_too) {
        c->out.media = API_JSON; /* kinds of our own have no protobuf form */
    }
    if (span_eq_str(http_req_method(c->r), "HEAD")) {
        api_fail_method(c);
        return;
    }
    api_warn_deprecated(c);
    if (is_connect(c->kr)) {
        api_sub(c);
        return;
    }
    uint8_t bit = verb_bit(t->verb);
    if ((c->kr->verbs & bit) == 0 || !shape_ok(c)) {
        api_fail_method(c);
        return;
    }
    if (c->kr->namespaced && t->ns[0] == '\0' && t->name[0] != '\0') {
        api_fail_unserved(c);
        return;
    }
    if (api_is_virtual(c->kr)) {
        api_with_body(c, api_virtual);
    } else if (api_sub_is_special(c->kr)) {
        api_sub(c);
    } else if (c->res != NULL) {
        call_resource(c);
    } else {
        api_fail_unserved(c);
    }
}

/* ---- permission ---- */

/* The verb of paths that are no resources. */
static const char *method_lower(struct api_call *c) {
    char *s = api_fmt(c, "%.*s", SPAN_FMT(http_req_method(c->r)));
    for (char *p = s; *p != '\0'; p++) {
        *p = (char)(*p >= 'A' && *p <= 'Z' ? *p + 32 : *p);
    }
    return s;
}

static void fail_forbidden(struct api_call *c) {
    const struct api_target *t = &c->t;
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    if (!t->is_resource) {
        const char *msg = api_fmt(c, "forbidden: User \"%s\" cannot %s path \"%s\"", c->user.name,
                                  method_lower(c), t->path);
        struct json *s = kube_status(d, 403, "Forbidden", msg);
        json_set_obj(d, s, "details");
        api_reply_status(c, s);
        return;
    }
    const char *res = t->sub[0] != '\0' ? api_fmt(c, "%s/%s", t->resource, t->sub) : t->resource;
    const char *where =
        t->ns[0] != '\0' ? api_fmt(c, "in the namespace \"%s\"", t->ns) : "at the cluster scope";
    const char *what = api_qualified(c, t->group, t->resource);
    const char *named = t->name[0] != '\0' ? api_fmt(c, "%s \"%s\"", what, t->name) : what;
    const char *msg =
        api_fmt(c, "%s is forbidden: User \"%s\" cannot %s resource \"%s\" in API group \"%s\" %s",
                named, c->user.name, api_verb_name(t->verb), res, t->group, where);
    struct json *s = kube_status(d, 403, "Forbidden", msg);
    kube_status_details(d, s, t->group[0] != '\0' ? t->group : NULL, t->resource,
                        t->name[0] != '\0' ? t->name : NULL, NULL);
    api_reply_status(c, s);
}

/* Lists by metadata.name are asked for like the object: the node authorizer and roles with resourceNames need it. */
static void name_from_selector(struct api_call *c) {
    const char *fs = api_query(c, "fieldSelector");
    if (fs == NULL || (c->t.verb != API_V_LIST && c->t.verb != API_V_WATCH &&
                       c->t.verb != API_V_DELETECOLLECTION)) {
        return;
    }
    struct span s = span_str(fs);
    struct span one;
    while (span_next(&s, ',', &one)) {
        struct span value = one;
        struct span key;
        if (span_next(&value, '=', &key) && span_eq_str(key, "metadata.name")) {
            if (value.n > 0 && value.p[0] == '=') {
                value = span_of(value.p + 1, value.n - 1);
            }
            c->t.name = api_fmt(c, "%.*s", SPAN_FMT(value));
        }
    }
}

static bool call_authorized(struct api_call *c) {
    const struct api_target *t = &c->t;
    struct api_attrs at = {.user = &c->user,
                           .verb = api_verb_name(t->verb),
                           .group = t->group,
                           .version = t->version,
                           .resource = t->is_resource ? t->resource : NULL,
                           .sub = t->sub,
                           .ns = t->ns,
                           .name = t->name,
                           .path = t->path};
    if (!t->is_resource) {
        at.verb = method_lower(c);
    }
    return api_authorize(c->a, &at);
}

void api_call_start(struct http_req *r, void *ctx) {
    struct apiserver *a = ctx;
    struct api_call *c = new_zero(struct api_call);
    char now[TIME_STR];
    c->a = a;
    c->r = r;
    c->mem = (struct arena)ARENA_INIT(LIM_API_CALL);
    c->doc = json_doc_new();
    list_add_tail(&a->calls, &c->link);
    a->n_requests++;
    http_req_on_close(r, on_close, c);
    time_rfc3339(clock_wall_ns() / NS_PER_S, now);
    c->time = api_fmt(c, "%s", now);
    c->user_agent = api_fmt(c, "%.*s", SPAN_FMT(http_req_header(r, "user-agent")));
    bool discovery = false;
    bool ok = api_negotiate(http_req_header(r, "accept"), &c->out, &discovery);
    c->discovery_v2 = discovery;
    c->not_acceptable = !ok;
    const char *watch = http_query_get(r, "watch");
    bool has_watch = watch != NULL && strcmp(watch, "false") != 0 && strcmp(watch, "0") != 0;
    if (api_route(http_req_method(r), http_req_path(r), has_watch, &c->mem, &c->t) < 0) {
        c->t = (struct api_target){.group = "",
                                   .version = "",
                                   .resource = "",
                                   .ns = "",
                                   .name = "",
                                   .sub = "",
                                   .rest = "",
                                   .path = "",
                                   .verb = API_V_OTHER};
        api_text(c, 400, "400 bad path\n");
        return;
    }
    c->out.pretty = wants_pretty(c);
    const char *include = http_query_get(r, "includeObject");
    c->out.include_none = str_eq(include, "None");
    c->out.include_object = str_eq(include, "Object");
    if ((!a->ready || a->reloading) && c->t.is_resource) {
        c->retry_after = true;
        api_fail(c, 503, "ServiceUnavailable",
                 a->ready ? "the server is reading its storage again" : "the server is starting");
        return;
    }
    if (api_authenticate(c) < 0) {
        return;
    }
    const char *name = c->t.name;
    name_from_selector(c);
    if (!call_authorized(c)) {
        c->nosniff = true;
        fail_forbidden(c);
        return;
    }
    c->t.name = name;
    if (c->not_acceptable && c->t.is_resource) {
        api_fail_406(c);
        return;
    }
    call_dispatch(c);
}

/* ---- bodies ---- */

static enum api_media body_media(struct span type, bool *ok) {
    struct span head;
    *ok = true;
    if (!span_next(&type, ';', &head)) {
        return API_JSON;
    }
    head = span_trim(head);
    if (span_eq_nocase(head, "application/yaml")) {
        return API_YAML;
    }
    if (span_eq_nocase(head, "application/vnd.kubernetes.protobuf")) {
        return API_PB;
    }
    *ok = head.n == 0 || span_eq_nocase(head, "application/json");
    return API_JSON;
}

static void on_body(struct http_req *r, int rc, struct span body, void *ctx) {
    struct api_call *c = ctx;
    (void)r;
    if (rc == -ERR_LIMIT) {
        api_fail(c, 413, "RequestEntityTooLarge", "Request entity too large: limit is %d",
                 LIM_API_BODY);
        return;
    }
    if (rc < 0) {
        return; /* the peer is gone: on_close releases */
    }
    /* A commit may outlive the connection, so the bytes move into our own memory. */
    c->body = arena_copy(&c->mem, body);
    if (c->body.p == NULL && body.n > 0) {
        api_fail(c, 413, "RequestEntityTooLarge", "Request entity too large: limit is %d",
                 LIM_API_BODY);
        return;
    }
    bool ok = true;
    c->body_media = body_media(api_header(c, "content-type"), &ok);
    if (!ok && c->t.verb != API_V_PATCH) {
        api_fail(c, 415, "UnsupportedMediaType",
                 "the body of the request was in an unknown format - accepted media types include: "
                 "application/json, "
                 "application/yaml, application/vnd.kubernetes.protobuf");
        return;
    }
    fresh(c, c->next);
}

void api_with_body(struct api_call *c, void (*next)(struct api_call *c)) {
    c->next = next;
    http_req_read_body(c->r, LIM_API_BODY, on_body, c);
}
