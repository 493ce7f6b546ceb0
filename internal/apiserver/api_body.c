#include "internal/apiserver/api_int.h"
#include "internal/yaml/yaml.h"

/* Request bodies: parsing, kind checks, decoding; and the options that every write has. */

/* What upstream prints of a body that it could not read: short JSON objects as text, everything else as hex. */
static const char *body_summary(struct api_call *c) {
    AUTO(buf) struct buf b = BUF_INIT(1 << 10);
    struct span s = c->body;
    size_t n = s.n > 30 ? 30 : s.n;
    if (s.n == 0) {
        return "<empty>";
    }
    if (s.p[0] == '{') {
        buf_add(&b, s.p, n);
    } else {
        hex_encode(&b, span_of(s.p, n));
    }
    if (s.n > n) {
        buf_str(&b, " ...");
    }
    return api_fmt(c, "%s", buf_cstr(&b));
}

static const char *json_kind_name(const struct json *v) {
    switch (json_kind(v)) {
    case JSON_BOOL: return "bool";
    case JSON_INT:
    case JSON_UINT:
    case JSON_REAL: return "number";
    case JSON_STRING: return "string";
    case JSON_ARRAY: return "array";
    case JSON_NULL:
    case JSON_OBJECT: break;
    }
    return "object";
}

static void fail_unrecognized(struct api_call *c, const char *kind, const char *why) {
    api_fail(c, 400, "BadRequest",
             "the object provided is unrecognized (must be of type %s): couldn't get version/kind; "
             "json parse error: %s (%s)",
             kind, why, body_summary(c));
}

/* Did the text merely stop too early? Good enough to choose between Go's two messages. */
static bool body_is_cut(struct span s) {
    size_t depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < s.n; i++) {
        uint8_t ch = s.p[i];
        if (in_string) {
            if (ch == '\\') {
                i++;
            } else if (ch == '"') {
                in_string = false;
            }
        } else if (ch == '"') {
            in_string = true;
        } else if (ch == '{' || ch == '[') {
            depth++;
        } else if ((ch == '}' || ch == ']') && depth > 0) {
            depth--;
        }
    }
    return depth > 0 || in_string;
}

const char *api_json_error(struct api_call *c) {
    struct span s = span_trim(c->body);
    return s.n == 0 || body_is_cut(s)
               ? "unexpected end of JSON input"
               : api_fmt(c, "invalid character '%c' looking for beginning of value", s.p[0]);
}

static struct json *parse_failed(struct api_call *c, const char *want_kind) {
    fail_unrecognized(c, want_kind, api_json_error(c));
    return NULL;
}

struct json *api_parse_body(struct api_call *c, const char *want_kind) {
    struct err e = ERR_INIT;
    struct json *v = NULL;
    if (c->body_media == API_PB) {
        if (kube_pb_decode(c->body, c->doc, &v, &e) < 0) {
            api_fail(c, 400, "BadRequest", "%s", e.msg);
            return NULL;
        }
        return v;
    }
    struct json_doc *d = NULL;
    int rc = c->body_media == API_YAML ? yaml_parse(c->body, &d, &e)
                                       : json_parse(c->body, JSON_DUPS_OK, &d, &e);
    if (rc < 0) {
        return parse_failed(c, want_kind);
    }
    json_doc_free(c->doc);
    c->doc = d;
    v = json_root(d);
    if (json_is_null(v)) {
        return json_new_obj(d);
    }
    if (!json_is_obj(v)) {
        fail_unrecognized(
            c, want_kind,
            api_fmt(c,
                    "json: cannot unmarshal %s into Go value of type struct { APIVersion string "
                    "\"json:\\\"apiVersion,omitempty\\\"\"; Kind string "
                    "\"json:\\\"kind,omitempty\\\"\" }",
                    json_kind_name(v)));
        return NULL;
    }
    return v;
}

/* Body group and version of a (sub)resource: Scale and Eviction are of other groups than their resource. */
static const char *want_api_version(struct api_call *c, const struct kube_resource *kr) {
    const char *g = kr->body_group != NULL ? kr->body_group : kr->group;
    const char *v =
        kr->body_version != NULL && kr->body_version[0] != '\0' ? kr->body_version : kr->version;
    return g[0] != '\0' ? api_fmt(c, "%s/%s", g, v) : v;
}

static bool check_kind(struct api_call *c, const struct kube_resource *kr, struct json *obj,
                       const char *want_av) {
    const char *kind = json_str_at(obj, "kind");
    const char *av = json_str_at(obj, "apiVersion");
    kind = kind != NULL && kind[0] != '\0' ? kind : kr->kind;
    av = av != NULL && av[0] != '\0' ? av : want_av;
    if (strcmp(kind, kr->kind) == 0 && strcmp(av, want_av) == 0) {
        json_set_str(c->doc, obj, "kind", kind);
        json_set_str(c->doc, obj, "apiVersion", av);
        return true;
    }
    struct span group;
    struct span version;
    if (kube_gv_split(av, &group, &version) < 0) {
        api_fail(c, 400, "BadRequest",
                 "the object provided is unrecognized (must be of type %s): couldn't get "
                 "version/kind; unexpected "
                 "GroupVersion string: %s (%s)",
                 kr->kind, av, body_summary(c));
        return false;
    }
    if (kube_type_of(av, kind) != NULL) {
        const char *ver = api_fmt(c, "%.*s", SPAN_FMT(version));
        const char *pkg = kr->group[0] == '\0'
                              ? "core"
                              : api_fmt(c, "%.*s", (int)strcspn(kr->group, "."), kr->group);
        api_fail(c, 400, "BadRequest",
                 "%s in version \"%s\" cannot be handled as a %s: converting (%s.%s) to (%s.%s): "
                 "unknown conversion",
                 kind, ver, kr->kind, ver, kind, pkg, kr->kind);
        return false;
    }
    api_fail(c, 400, "BadRequest",
             "%s in version \"%.*s\" cannot be handled as a %s: no kind \"%s\" is registered for "
             "version \"%s\" in "
             "scheme \"pkg/api/legacyscheme/scheme.go:30\"",
             kind, SPAN_FMT(version), kr->kind, kind, av);
    return false;
}

/* A patched object that does not decode is upstream's `"" is invalid: patch: Invalid value: "<the object>": <why>`. */
static void fail_patched(struct api_call *c, const struct json *obj, const char *why) {
    AUTO(buf) struct buf text = BUF_INIT(LIM_API_BODY * 2);
    struct kube_errs errs = KUBE_ERRS_INIT;
    IGNORE_ERR(json_write(obj, 0, &text), "a message only");
    kube_err_add_str(&errs, KUBE_INVALID, "patch", buf_cstr(&text), "%s", why);
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    api_reply_status(c, kube_status_invalid(d, "", "", "", &errs));
    kube_errs_fini(&errs);
}

bool api_decode(struct api_call *c, const struct kube_resource *kr, struct json *obj,
                bool with_defaults) {
    const char *av = want_api_version(c, kr);
    if (!check_kind(c, kr, obj, av)) {
        return false;
    }
    struct kube_errs errs = KUBE_ERRS_INIT;
    struct err e = ERR_INIT;
    bool patched = c->patch_doc != NULL && with_defaults;
    const struct json *before = patched ? json_copy(c->doc, obj) : NULL;
    int rc = kube_decode(c->doc, obj, kr->type, c->fv, &errs, &e);
    if (rc < 0) {
        const char *slash = strrchr(av, '/');
        const char *ver = slash != NULL ? slash + 1 : av;
        if (patched) {
            fail_patched(c, before, errs.text != NULL ? errs.text : err_public(&e));
            kube_errs_fini(&errs);
            return false;
        }
        api_fail(c, 400, "BadRequest", "%s in version \"%s\" cannot be handled as a %s: %s",
                 kr->kind, ver, kr->kind, errs.text != NULL ? errs.text : err_public(&e));
        kube_errs_fini(&errs);
        return false;
    }
    for (size_t i = 0; i < errs.n; i++) {
        api_warn(c, errs.list[i].message);
    }
    kube_errs_fini(&errs);
    if (!json_is_obj(json_get(obj, "metadata"))) {
        json_set_obj(c->doc, obj, "metadata");
    }
    if (with_defaults) {
        kube_default(c->doc, obj, kr);
    }
    return true;
}

struct json *api_decode_body(struct api_call *c, const struct kube_resource *kr,
                             bool with_defaults) {
    struct json *obj = api_parse_body(c, kr->kind);
    if (obj == NULL || !api_decode(c, kr, obj, with_defaults)) {
        return NULL;
    }
    return obj;
}

/* ---- options ---- */

static bool read_dry_run(struct api_call *c, struct kube_errs *errs) {
    struct span cursor = http_req_query(c->r);
    const char *key = NULL;
    const char *value = NULL;
    while (http_query_next(c->r, &cursor, &key, &value)) {
        if (strcmp(key, "dryRun") != 0 || value[0] == '\0') {
            continue;
        }
        if (strcmp(value, "All") != 0) {
            struct json *bad = json_new_arr(c->doc);
            json_push_str(c->doc, bad, value);
            kube_err_add(errs, KUBE_NOT_SUPPORTED, "dryRun", bad, "supported values: \"All\"");
            return false;
        }
        c->dry_run = true;
    }
    return true;
}

static void read_manager(struct api_call *c, struct kube_errs *errs) {
    const char *m = api_query(c, "fieldManager");
    if (m == NULL || m[0] == '\0') {
        struct span agent = kube_manager_of_agent(span_str(c->user_agent));
        c->field_manager = api_fmt(c, "%.*s", SPAN_FMT(agent));
        return;
    }
    c->field_manager = api_fmt(c, "%s", m);
    if (strlen(m) > 128) {
        kube_err_add_str(errs, KUBE_TOO_LONG, "fieldManager", m, "may not be more than 128 bytes");
        return;
    }
    for (size_t i = 0; m[i] != '\0'; i++) {
        if ((unsigned char)m[i] < 32 || (unsigned char)m[i] == 127) {
            kube_err_add_str(errs, KUBE_INVALID, "fieldManager", m,
                             "should only contain printable characters");
            return;
        }
    }
}

bool api_write_options(struct api_call *c, const char *options_kind) {
    struct kube_errs errs = KUBE_ERRS_INIT;
    if (c->r == NULL) {
        return false;
    }
    read_dry_run(c, &errs);
    read_manager(c, &errs);
    const char *fv = api_query(c, "fieldValidation");
    c->fv = KUBE_FV_WARN;
    if (fv == NULL || fv[0] == '\0' || strcmp(fv, "Warn") == 0) {
        c->fv = KUBE_FV_WARN;
    } else if (strcmp(fv, "Strict") == 0) {
        c->fv = KUBE_FV_STRICT;
    } else if (strcmp(fv, "Ignore") == 0) {
        c->fv = KUBE_FV_IGNORE;
    } else {
        kube_err_add_str(&errs, KUBE_NOT_SUPPORTED, "fieldValidation", fv,
                         "supported values: \"\", \"Ignore\", \"Strict\", \"Warn\"");
    }
    const char *force = api_query(c, "force");
    c->force = force != NULL && strcmp(force, "false") != 0 && strcmp(force, "0") != 0;
    if (errs.n > 0) {
        api_fail_options(c, options_kind, &errs);
        return false;
    }
    kube_errs_fini(&errs);
    return true;
}
