#include "internal/apiserver/api_int.h"
#include "internal/yaml/yaml.h"

/* PATCH in its four forms. Each attempt starts from the stored object; a lost race starts the next one. */

enum patch_kind { PATCH_JSON, PATCH_MERGE, PATCH_STRATEGIC, PATCH_APPLY };

static bool patch_kind(struct api_call *c, enum patch_kind *ret) {
    static const char *const types[] = {
        "application/json-patch+json", "application/merge-patch+json",
        "application/strategic-merge-patch+json", "application/apply-patch+yaml"};
    struct span type = api_header(c, "content-type");
    struct span head = SPAN_EMPTY;
    span_next(&type, ';', &head);
    head = span_trim(head);
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        if (span_eq_nocase(head, types[i])) {
            *ret = (enum patch_kind)i;
            /* Kinds of our own have no strategic merge: like custom resources upstream. */
            if (*ret != PATCH_STRATEGIC || (c->main->sets & KUBE_SET_UPSTREAM) != 0) {
                return true;
            }
        }
    }
    if ((c->main->sets & KUBE_SET_UPSTREAM) == 0) {
        api_fail(c, 415, "UnsupportedMediaType",
                 "the body of the request was in an unknown format - accepted media types include: "
                 "application/json-patch+json, application/merge-patch+json, "
                 "application/apply-patch+yaml");
    } else {
        api_fail_415(c);
    }
    return false;
}

struct patch_state {
    enum patch_kind kind;
    struct json_doc *doc; /* of the patch */
};

static void fail_patch(struct api_call *c, int rc, struct kube_errs *errs) {
    const char *text = errs->text != NULL ? errs->text : "invalid patch";
    if (rc == -ERR_CONFLICT) {
        AUTO(json_docp) struct json_doc *d = json_doc_new();
        api_reply_status(c, kube_status_apply_conflict(d, errs));
    } else if (rc == -ERR_UNPROCESSABLE) {
        AUTO(json_docp) struct json_doc *d = json_doc_new();
        struct json *s = kube_status(d, 422, "Invalid", text);
        if (errs->n > 0) {
            s = kube_status_invalid(d, c->kr->group, c->kr->kind, c->t.name, errs);
        } else {
            json_set_obj(d, s, "details");
        }
        api_reply_status(c, s);
    } else if (rc == -ERR_INTERNAL || rc == -ERR_NOMEM) {
        api_fail_bare(c, text);
    } else {
        api_fail(c, 400, "BadRequest", "%s", text);
    }
    kube_errs_fini(errs);
}

/* Applies the patch to the tree; NULL: answered. */
static struct json *patch_apply(struct api_call *c, struct patch_state *p, struct json *target) {
    struct kube_errs errs = KUBE_ERRS_INIT;
    const struct json *patch = json_root(p->doc);
    struct json *out = NULL;
    int rc = 0;
    switch (p->kind) {
    case PATCH_JSON: rc = kube_patch_json(c->doc, target, patch, &out, &errs); break;
    case PATCH_MERGE: rc = kube_patch_merge(c->doc, target, patch, &out, &errs); break;
    case PATCH_STRATEGIC:
        rc = kube_patch_strategic(c->doc, c->kr->type, target, patch, &out, &errs);
        break;
    case PATCH_APPLY: break;
    }
    if (rc < 0) {
        fail_patch(c, rc, &errs);
        return NULL;
    }
    kube_errs_fini(&errs);
    return out;
}

/* The applied configuration as it was sent: what it does not say is nobody's. kube_apply checks it. */
static struct json *applied_tree(struct api_call *c, const struct patch_state *p) {
    struct json *obj = json_copy(c->doc, json_root(p->doc));
    if (!json_is_obj(obj)) {
        api_fail(c, 400, "BadRequest",
                 "error decoding YAML: json: cannot unmarshal into Go value of type "
                 "map[string]interface {}");
        return NULL;
    }
    const char *kind = json_str_at(obj, "kind");
    const char *av = json_str_at(obj, "apiVersion");
    if (kind == NULL || av == NULL || kind[0] == '\0' || av[0] == '\0') {
        struct span group = SPAN_EMPTY;
        struct span version = SPAN_EMPTY;
        IGNORE_ERR(kube_gv_split(av != NULL ? av : "", &group, &version), "a message only");
        api_fail(c, 400, "BadRequest", "invalid object type: %.*s/%.*s, Kind=%s", SPAN_FMT(group),
                 SPAN_FMT(version), kind != NULL ? kind : "");
        return NULL;
    }
    if (json_at(obj, "metadata", "managedFields") != NULL) {
        api_fail(c, 400, "BadRequest", "metadata.managedFields must be nil");
        return NULL;
    }
    return obj;
}

static bool apply_name(struct api_call *c, struct json *obj) {
    struct json *meta = json_need_obj(c->doc, obj, "metadata");
    if (kube_name(obj)[0] == '\0') {
        json_set_str(c->doc, meta, "name", c->t.name);
    }
    if (strcmp(kube_name(obj), c->t.name) != 0) {
        api_fail(c, 400, "BadRequest",
                 "the name of the object (%s) does not match the name on the URL (%s)",
                 kube_name(obj), c->t.name);
        return false;
    }
    return true;
}

static void apply_run(struct api_call *c, struct patch_state *p, struct api_obj *cur) {
    struct kube_errs errs = KUBE_ERRS_INIT;
    const struct kube_apply_opts o = {
        .manager = c->field_manager, .time = c->time, .force = c->force};
    struct json *applied = applied_tree(c, p);
    if (applied == NULL || !apply_name(c, applied)) {
        return;
    }
    if (cur == NULL && kube_uid(applied)[0] != '\0') {
        api_fail_conflict(
            c, c->t.resource, c->t.name,
            "uid mismatch: the provided object specified uid %s, and no existing object was found",
            kube_uid(applied));
        return;
    }
    struct json *out = NULL;
    int rc = kube_apply(c->doc, c->kr, c->old, applied, &o, &out, &errs);
    if (rc < 0) {
        fail_patch(c, rc, &errs);
        return;
    }
    kube_errs_fini(&errs);
    if (c->main->namespaced && kube_namespace(out)[0] == '\0') {
        json_set_str(c->doc, json_need_obj(c->doc, out, "metadata"), "namespace", c->t.ns);
    }
    if (!api_decode(c, c->kr, out, true)) {
        return;
    }
    if (cur == NULL) {
        c->created = true;
        c->again_on_conflict = true;
        json_del(json_get(out, "metadata"), "resourceVersion");
        api_finish_create(c, out, true);
        return;
    }
    c->created = false;
    c->again_on_conflict = false;
    const char *rv = kube_rv(applied);
    c->pinned = false;
    if (rv[0] != '\0') {
        json_set_str(c->doc, json_need_obj(c->doc, out, "metadata"), "resourceVersion", rv);
    }
    if (api_check_update(c, out, cur)) {
        api_finish_update(c, out, cur, true);
    }
}

static void patch_run(struct api_call *c) {
    struct patch_state *p = c->state;
    struct api_obj *cur = NULL;
    const char *ns = c->main->namespaced ? c->t.ns : "";
    if (api_wait_turn(c, c->res, ns, c->t.name, patch_run)) {
        return;
    }
    c->old = api_load_tree(c, c->res, ns, c->t.name, c->main, &cur);
    if (p->kind == PATCH_APPLY && (c->old != NULL || c->kr->sub[0] == '\0')) {
        apply_run(c, p, cur);
        return;
    }
    if (c->old == NULL) {
        api_fail_not_found(c, c->t.group, c->t.resource, c->t.name);
        return;
    }
    struct json *obj = patch_apply(c, p, json_copy(c->doc, c->old));
    if (obj == NULL || !api_decode(c, c->kr, obj, true)) {
        return;
    }
    /* A patch that names a resourceVersion is held to it; one that does not may be tried again. */
    c->pinned = false;
    if (!api_check_update(c, obj, cur)) {
        return;
    }
    bool names_rv =
        json_at(json_root(p->doc), "metadata", "resourceVersion") != NULL || p->kind == PATCH_JSON;
    c->again = names_rv && c->tries > 0 && p->kind != PATCH_JSON ? NULL : patch_run;
    api_finish_update(c, obj, cur, false);
}

void api_patch(struct api_call *c) {
    struct patch_state *p = arena_new(&c->mem, struct patch_state);
    struct err e = ERR_INIT;
    CHECK(p != NULL);
    c->state = p;
    c->again = patch_run;
    if (!patch_kind(c, &p->kind) || !api_write_options(c, "PatchOptions")) {
        return;
    }
    if (p->kind == PATCH_APPLY) {
        const char *fm = api_query(c, "fieldManager");
        if (fm == NULL || fm[0] == '\0') {
            struct kube_errs errs = KUBE_ERRS_INIT;
            kube_err_add(&errs, KUBE_REQUIRED, "fieldManager", NULL, "is required for apply patch");
            api_fail_options(c, "PatchOptions", &errs);
            return;
        }
    } else if (api_query(c, "force") != NULL) {
        struct kube_errs errs = KUBE_ERRS_INIT;
        kube_err_add(&errs, KUBE_FORBIDDEN, "force", NULL,
                     "may not be specified for non-apply patch");
        api_fail_options(c, "PatchOptions", &errs);
        return;
    }
    int rc = p->kind == PATCH_APPLY ? yaml_parse(c->body, &p->doc, &e)
                                    : json_parse(c->body, 0, &p->doc, &e);
    if (rc < 0) {
        api_fail(c, 400, "BadRequest",
                 p->kind == PATCH_APPLY ? "error decoding YAML: %s" : "error decoding patch: %s",
                 p->kind == PATCH_APPLY ? e.msg : api_json_error(c));
        return;
    }
    c->patch_doc = p->doc;
    patch_run(c);
}
