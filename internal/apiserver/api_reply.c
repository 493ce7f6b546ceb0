#include "internal/apiserver/api_int.h"
#include "internal/yaml/yaml.h"

/* Answers: headers that every answer has, Status objects in upstream's words, objects in the form asked for. */

static void reply(struct api_call *c, unsigned status, const char *type, struct span body,
                  void *own, size_t own_n) {
    struct http_header h[LIM_API_WARNINGS + 6];
    size_t n = 0;
    if (c->answered || c->r == NULL) {
        free(own);
        return;
    }
    c->answered = true;
    h[n++] = (struct http_header){SPAN_LIT("cache-control"), SPAN_LIT("no-cache, private")};
    if (c->nosniff) {
        h[n++] = (struct http_header){SPAN_LIT("x-content-type-options"), SPAN_LIT("nosniff")};
    }
    if (c->retry_after) {
        h[n++] = (struct http_header){SPAN_LIT("retry-after"), SPAN_LIT("1")};
    }
    for (size_t i = 0; i < c->n_warnings; i++) {
        AUTO(buf) struct buf b = BUF_INIT(8 << 10);
        for (const char *p = c->warnings[i]; *p != '\0'; p++) {
            if (*p == '"' || *p == '\\') {
                buf_u8(&b, '\\');
            }
            buf_u8(&b, (uint8_t)((unsigned char)*p < 32 ? ' ' : *p));
        }
        h[n++] = (struct http_header){SPAN_LIT("warning"),
                                      span_str(api_fmt(c, "299 - \"%s\"", buf_cstr(&b)))};
    }
    if (own != NULL) {
        http_respond_take(c->r, status, type, h, n, own, own_n);
    } else {
        http_respond(c->r, status, type, h, n, body);
    }
}

void api_reply_bytes(struct api_call *c, unsigned status, const char *type, struct span body) {
    reply(c, status, type, body, NULL, 0);
}

void api_reply_take(struct api_call *c, unsigned status, const char *type, struct buf *own_body) {
    size_t n = 0;
    char *p = buf_take(own_body, &n);
    if (p == NULL) {
        api_fail(c, 500, "InternalError", "Internal error occurred: the answer is too large");
        return;
    }
    reply(c, status, type, SPAN_EMPTY, p, n);
}

void api_text(struct api_call *c, unsigned status, const char *text) {
    c->nosniff = true;
    reply(c, status, "text/plain; charset=utf-8", span_str(text), NULL, 0);
}

const char *api_media_type(const struct api_out *out, bool watch) {
    switch (out->media) {
    case API_YAML: return "application/yaml";
    case API_PB:
        return watch ? "application/vnd.kubernetes.protobuf;stream=watch"
                     : "application/vnd.kubernetes.protobuf";
    case API_JSON: break;
    }
    return "application/json";
}

static int write_tree(const struct api_out *out, const struct json *v, struct buf *b,
                      struct err *e) {
    if (out->media == API_PB) {
        return kube_pb_encode(v, b, e);
    }
    int rc =
        out->media == API_YAML ? api_yaml(v, b) : json_write(v, out->pretty ? JSON_PRETTY : 0, b);
    if (rc >= 0 && out->media == API_JSON) {
        rc = buf_u8(b, '\n');
    }
    return rc < 0 ? err_set(e, ERR_LIMIT, "the answer is too large") : 0;
}

static void reply_tree(struct api_call *c, unsigned status, const struct api_out *out,
                       const struct json *v) {
    struct buf b = BUF_INIT(LIM_API_LIST);
    struct err e = ERR_INIT;
    struct api_out form = *out;
    int rc = write_tree(&form, v, &b, &e);
    if (rc == -ERR_UNSUPPORTED && form.media == API_PB) {
        /* Kinds without protobuf form: upstream answers 406 as well. */
        buf_fini(&b);
        c->out.media = API_JSON;
        api_fail_406(c);
        return;
    }
    if (rc < 0) {
        buf_fini(&b);
        LOG_ERROR("apiserver", "encoding an answer", F_ERR(&e));
        api_text(c, 500, "internal error\n");
        return;
    }
    api_reply_take(c, status, api_media_type(&form, false), &b);
    buf_fini(&b);
}

void api_reply_json(struct api_call *c, unsigned status, const struct json *v) {
    struct api_out out = c->out;
    if (out.media == API_PB &&
        (json_str_at(v, "kind") == NULL || !str_eq(json_str_at(v, "kind"), "Status"))) {
        struct buf b = BUF_INIT(LIM_API_LIST);
        struct err e = ERR_INIT;
        if (kube_pb_encode(v, &b, &e) >= 0) {
            api_reply_take(c, status, "application/vnd.kubernetes.protobuf", &b);
            buf_fini(&b);
            return;
        }
        buf_fini(&b);
        out.media = API_JSON;
    }
    reply_tree(c, status, &out, v);
}

void api_reply_status(struct api_call *c, struct json *status) {
    struct api_out out = c->out;
    out.as = API_AS_OBJECT;
    reply_tree(c, (unsigned)json_i64_at(status, 500, "code"), &out, status);
}

void api_reply_obj(struct api_call *c, unsigned status, const struct api_obj *o) {
    if (c->out.media == API_JSON && c->out.as == API_AS_OBJECT && !c->out.pretty &&
        c->res->kr == c->main) {
        api_reply_bytes(c, status, "application/json", api_obj_json(o));
        return;
    }
    struct buf b = BUF_INIT(LIM_API_LIST);
    struct err e = ERR_INIT;
    int rc = api_encode(&c->out, c->res->kr, c->main, o, NULL, &b, &e);
    if (rc == -ERR_UNSUPPORTED && c->out.media == API_PB) {
        c->out.media = API_JSON;
        api_fail_406(c);
    } else if (rc < 0) {
        api_fail_err(c, &e);
    } else {
        api_reply_take(c, status, api_media_type(&c->out, false), &b);
    }
    buf_fini(&b);
}

void api_reply_tree(struct api_call *c, unsigned status, struct json *obj) {
    struct json *v = api_shape(&c->out, c->kr, c->doc, obj, true);
    reply_tree(c, status, &c->out, v);
}

/* ---- failures ---- */

void api_fail(struct api_call *c, unsigned status, const char *reason, const char *fmt, ...) {
    va_list ap;
    AUTO(buf) struct buf b = BUF_INIT(1 << 20);
    va_start(ap, fmt);
    buf_vfmt(&b, fmt, ap);
    va_end(ap);
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    api_reply_status(c, kube_status(d, status, reason, buf_cstr(&b)));
}

void api_fail_err(struct api_call *c, const struct err *e) {
    unsigned status = err_http(e->code);
    if (status >= 500 && e->code != ERR_UNSUPPORTED) {
        LOG_ERROR("apiserver", "request failed", F_STR("path", c->t.path), F_ERR(e));
    }
    if (status == 500 && span_starts(span_str(err_public(e)), "etcdserver: ")) {
        api_fail_bare(c, err_public(e)); /* clients know etcd's words, and upstream adds none */
        return;
    }
    if (status == 500) {
        api_fail(c, 500, "InternalError", "Internal error occurred: %s", err_public(e));
        return;
    }
    api_fail(c, status, err_reason(e->code), "%s", err_public(e));
}

/* Upstream's form of errors that none of its layers gave a reason. */
void api_fail_bare(struct api_call *c, const char *message) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *s = kube_status(d, 500, "", message);
    json_del(s, "reason");
    api_reply_status(c, s);
}

const char *api_qualified(struct api_call *c, const char *group, const char *resource) {
    return group[0] != '\0' ? api_fmt(c, "%s.%s", resource, group) : resource;
}

static const char *or_null(const char *s) {
    return s != NULL && s[0] != '\0' ? s : NULL;
}

static void fail_named(struct api_call *c, unsigned status, const char *reason, const char *group,
                       const char *kind, const char *name, const char *message) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *s = kube_status(d, status, reason, message);
    kube_status_details(d, s, or_null(group), kind, or_null(name), NULL);
    api_reply_status(c, s);
}

void api_fail_not_found(struct api_call *c, const char *group, const char *resource,
                        const char *name) {
    fail_named(c, 404, "NotFound", group, resource, name,
               api_fmt(c, "%s \"%s\" not found", api_qualified(c, group, resource), name));
}

void api_fail_exists(struct api_call *c, const char *name) {
    fail_named(
        c, 409, "AlreadyExists", c->t.group, c->t.resource, name,
        api_fmt(c, "%s \"%s\" already exists", api_qualified(c, c->t.group, c->t.resource), name));
}

void api_fail_conflict(struct api_call *c, const char *what, const char *name, const char *fmt,
                       ...) {
    va_list ap;
    AUTO(buf) struct buf b = BUF_INIT(64 << 10);
    va_start(ap, fmt);
    buf_vfmt(&b, fmt, ap);
    va_end(ap);
    const char *qualified =
        strcmp(what, c->t.resource) == 0 ? api_qualified(c, c->t.group, what) : what;
    fail_named(c, 409, "Conflict", strcmp(what, c->t.resource) == 0 ? c->t.group : NULL, what, name,
               api_fmt(c, "Operation cannot be fulfilled on %s \"%s\": %s", qualified, name,
                       buf_cstr(&b)));
}

void api_fail_forbidden(struct api_call *c, const char *fmt, ...) {
    va_list ap;
    AUTO(buf) struct buf b = BUF_INIT(64 << 10);
    va_start(ap, fmt);
    buf_vfmt(&b, fmt, ap);
    va_end(ap);
    const char *name = c->obj_name != NULL ? c->obj_name : c->t.name;
    const char *what = api_qualified(c, c->t.group, c->t.resource);
    fail_named(c, 403, "Forbidden", c->t.group, c->t.resource, name,
               api_fmt(c, "%s \"%s\" is forbidden: %s", what, name, buf_cstr(&b)));
}

void api_fail_invalid(struct api_call *c, const struct kube_resource *kr, const char *name,
                      struct kube_errs *errs) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    const char *group = kr->body_group != NULL ? kr->body_group : kr->group;
    api_reply_status(c, kube_status_invalid(d, group, kr->kind, name, errs));
    kube_errs_fini(errs);
}

void api_fail_options(struct api_call *c, const char *kind, struct kube_errs *errs) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    api_reply_status(c, kube_status_invalid(d, "meta.k8s.io", kind, "", errs));
    kube_errs_fini(errs);
}

static void fail_empty_details(struct api_call *c, unsigned status, const char *reason,
                               const char *message) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *s = kube_status(d, status, reason, message);
    json_set_obj(d, s, "details");
    api_reply_status(c, s);
}

void api_fail_unserved(struct api_call *c) {
    fail_empty_details(c, 404, "NotFound", "the server could not find the requested resource");
}

void api_fail_method(struct api_call *c) {
    fail_empty_details(c, 405, "MethodNotAllowed",
                       "the server does not allow this method on the requested resource");
}

void api_fail_415(struct api_call *c) {
    fail_empty_details(c, 415, "UnsupportedMediaType", "415: Unsupported Media Type");
}

void api_fail_406(struct api_call *c) {
    c->out.media = API_JSON;
    fail_empty_details(
        c, 406, "NotAcceptable",
        "406: Not Acceptable\n\nAvailable representations: application/json, application/yaml, "
        "application/vnd.kubernetes.protobuf, application/json;stream=watch, "
        "application/vnd.kubernetes.protobuf;stream=watch");
}

void api_unauthorized(struct api_call *c) {
    api_fail(c, 401, "Unauthorized", "Unauthorized");
}

void api_success(struct api_call *c, unsigned status) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *s = json_new_obj(d);
    json_set_str(d, s, "kind", "Status");
    json_set_str(d, s, "apiVersion", "v1");
    json_set_obj(d, s, "metadata");
    json_set_str(d, s, "status", "Success");
    json_set_i64(d, s, "code", status);
    api_reply_status(c, s);
}
