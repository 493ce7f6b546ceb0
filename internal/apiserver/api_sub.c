#include "internal/apiserver/api_int.h"

/* Subresources with rules of their own: scale, binding, eviction; and the way to the others. */

static bool sub_is(const struct kube_resource *kr, const char *sub) {
    return strcmp(kr->sub, sub) == 0;
}

bool api_sub_is_special(const struct kube_resource *kr) {
    return sub_is(kr, "scale") || sub_is(kr, "binding") || sub_is(kr, "eviction") ||
           sub_is(kr, "log") || sub_is(kr, "token") ||
           (strcmp(kr->name, "bindings") == 0 && kr->group[0] == '\0');
}

/* ---- scale ---- */

static struct json *label_selector_text(struct api_call *c, const struct json *obj) {
    const struct json *sel = json_at(obj, "spec", "selector");
    AUTO(buf) struct buf b = BUF_INIT(64 << 10);
    const struct json *labels =
        strcmp(c->main->name, "replicationcontrollers") == 0 ? sel : json_get(sel, "matchLabels");
    JSON_EACH_KV(it, k, v, labels) {
        buf_fmt(&b, "%s%s=%s", b.n > 0 ? "," : "", k, json_str_or(v, ""));
    }
    JSON_EACH(it2, x, json_get(sel, "matchExpressions")) {
        const char *op = json_str_or(json_get(x, "operator"), "");
        const char *key = json_str_or(json_get(x, "key"), "");
        const char *sep = b.n > 0 ? "," : "";
        if (strcmp(op, "Exists") == 0 || strcmp(op, "DoesNotExist") == 0) {
            buf_fmt(&b, "%s%s%s", sep, strcmp(op, "Exists") == 0 ? "" : "!", key);
            continue;
        }
        buf_fmt(&b, "%s%s %s (", sep, key, strcmp(op, "In") == 0 ? "in" : "notin");
        bool first = true;
        JSON_EACH(it3, v, json_get(x, "values")) {
            buf_fmt(&b, "%s%s", first ? "" : ",", json_str_or(v, ""));
            first = false;
        }
        buf_u8(&b, ')');
    }
    return json_new_span(c->doc, buf_view(&b));
}

static struct json *scale_of(struct api_call *c, const struct json *obj) {
    static const char *const keep[] = {"name", "namespace", "uid", "resourceVersion",
                                       "creationTimestamp"};
    struct json *s = json_new_obj(c->doc);
    json_set_str(c->doc, s, "kind", "Scale");
    json_set_str(c->doc, s, "apiVersion", "autoscaling/v1");
    struct json *meta = json_set_obj(c->doc, s, "metadata");
    for (size_t i = 0; i < ARRAY_LEN(keep); i++) {
        const struct json *v = json_at(obj, "metadata", keep[i]);
        if (v != NULL) {
            json_set(c->doc, meta, keep[i], json_copy(c->doc, v));
        }
    }
    struct json *spec = json_set_obj(c->doc, s, "spec");
    int64_t n = json_i64_at(obj, 0, "spec", "replicas");
    if (n != 0) {
        json_set_i64(c->doc, spec, "replicas", n);
    }
    struct json *status = json_set_obj(c->doc, s, "status");
    json_set_i64(c->doc, status, "replicas", json_i64_at(obj, 0, "status", "replicas"));
    struct json *sel = label_selector_text(c, obj);
    if (json_span(sel).n > 0) {
        json_set(c->doc, status, "selector", sel);
    }
    return s;
}

static void reply_scale(struct api_call *c, unsigned status, const struct api_obj *now) {
    AUTO(json_docp) struct json_doc *d = NULL;
    if (api_obj_parse(now, &d) < 0) {
        api_fail(c, 500, "InternalError", "Internal error occurred: stored object does not parse");
        return;
    }
    api_reply_json(c, status, scale_of(c, json_root(d)));
}

static struct json *patched_scale(struct api_call *c, struct json *scale) {
    struct kube_errs errs = KUBE_ERRS_INIT;
    struct err e = ERR_INIT;
    struct json *out = NULL;
    struct span type = api_header(c, "content-type");
    AUTO(json_docp) struct json_doc *patch = NULL;
    if (json_parse(c->body, 0, &patch, &e) < 0) {
        api_fail(c, 400, "BadRequest", "error decoding patch: %s", e.msg);
        return NULL;
    }
    int rc = -ERR_UNSUPPORTED;
    if (span_starts(type, "application/json-patch+json")) {
        rc = kube_patch_json(c->doc, scale, json_root(patch), &out, &errs);
    } else if (span_starts(type, "application/merge-patch+json")) {
        rc = kube_patch_merge(c->doc, scale, json_root(patch), &out, &errs);
    } else if (span_starts(type, "application/strategic-merge-patch+json")) {
        rc = kube_patch_strategic(c->doc, c->kr->type, scale, json_root(patch), &out, &errs);
    } else {
        api_fail(c, 415, "UnsupportedMediaType",
                 "the body of the request was in an unknown format - accepted media types include: "
                 "application/json-patch+json, application/merge-patch+json, "
                 "application/strategic-merge-patch+json");
        return NULL;
    }
    if (rc < 0) {
        api_fail(c, rc == -ERR_UNPROCESSABLE ? 422 : 400,
                 rc == -ERR_UNPROCESSABLE ? "Invalid" : "BadRequest", "%s",
                 errs.text != NULL ? errs.text : "invalid patch");
    }
    kube_errs_fini(&errs);
    return rc < 0 ? NULL : out;
}

static void scale_run(struct api_call *c) {
    struct api_obj *cur = NULL;
    const struct kube_resource *scale_kr =
        kube_resource_find(c->t.group, c->t.version, c->t.resource, "scale");
    c->kr = scale_kr;
    if (c->t.verb != API_V_GET && api_wait_turn(c, c->res, c->t.ns, c->t.name, scale_run)) {
        return;
    }
    c->old = api_load_tree(c, c->res, c->t.ns, c->t.name, c->main, &cur);
    if (c->old == NULL) {
        api_fail_not_found(c, c->t.group, c->t.resource, c->t.name);
        return;
    }
    struct json *scale = scale_of(c, c->old);
    if (c->t.verb == API_V_GET) {
        api_reply_json(c, 200, scale);
        return;
    }
    struct json *want = NULL;
    if (c->t.verb == API_V_PATCH) {
        want = patched_scale(c, scale);
        if (want == NULL || !api_decode(c, scale_kr, want, false)) {
            return;
        }
    } else {
        want = api_decode_body(c, scale_kr, false);
        if (want == NULL) {
            return;
        }
        /* The body's document has taken the place of the old one, with what was loaded into it. */
        c->old = api_load_tree(c, c->res, c->t.ns, c->t.name, c->main, &cur);
        CHECK(c->old != NULL);
    }
    c->pinned = false;
    if (!api_check_update(c, want, cur)) {
        return;
    }
    int64_t n = json_i64_at(want, 0, "spec", "replicas");
    if (n < 0) {
        struct kube_errs errs = KUBE_ERRS_INIT;
        kube_err_add(&errs, KUBE_INVALID, "spec.replicas", json_at(want, "spec", "replicas"),
                     "must be greater than or equal to 0");
        api_fail_invalid(c, scale_kr, c->t.name, &errs);
        return;
    }
    struct json *obj = json_copy(c->doc, c->old);
    json_set_i64(c->doc, json_need_obj(c->doc, obj, "spec"), "replicas", n);
    c->kr = c->main;
    c->reply = reply_scale;
    c->again = c->pinned && c->t.verb == API_V_UPDATE ? NULL : scale_run;
    api_finish_update(c, obj, cur, false);
}

static void serve_scale(struct api_call *c) {
    if (c->t.verb == API_V_GET ||
        api_write_options(c, c->t.verb == API_V_PATCH ? "PatchOptions" : "UpdateOptions")) {
        scale_run(c);
    }
}

/* ---- binding ---- */

static void reply_created(struct api_call *c, unsigned status, const struct api_obj *now) {
    (void)status;
    (void)now;
    api_success(c, 201);
}

static void on_bound(struct api_call *c, int rc, struct api_obj *now, const struct err *e) {
    if (rc == -ERR_CONFLICT && c->tries++ < LIM_API_RETRIES) {
        api_retry(c);
    } else if (rc < 0) {
        api_fail_err(c, e);
    } else {
        reply_created(c, 201, now);
    }
}

static void bind_run(struct api_call *c) {
    if (sub_is(c->kr, "binding") && api_wait_turn(c, c->res, c->t.ns, c->t.name, bind_run)) {
        return;
    }
    struct json *b = api_decode_body(c, c->kr, false);
    struct api_res *pods = api_res_find(c->a, "", "pods");
    struct api_obj *cur = NULL;
    if (b == NULL) {
        return;
    }
    const char *name = sub_is(c->kr, "binding") ? c->t.name : kube_name(b);
    const char *node = json_str_or(json_at(b, "target", "name"), "");
    const char *kind = json_str_or(json_at(b, "target", "kind"), "");
    struct kube_errs errs = KUBE_ERRS_INIT;
    if (kind[0] != '\0' && strcmp(kind, "Node") != 0) {
        kube_err_add_str(&errs, KUBE_NOT_SUPPORTED, "target.kind", kind,
                         "supported values: \"Node\", \"<empty>\"");
    }
    if (node[0] == '\0') {
        kube_err_add(&errs, KUBE_REQUIRED, "target.name", NULL, "%s", "");
    }
    if (errs.n > 0) {
        api_fail_invalid(c, c->kr, name, &errs);
        return;
    }
    kube_errs_fini(&errs);
    struct json *pod = api_load_tree(c, pods, c->t.ns, name, pods->kr, &cur);
    if (pod == NULL) {
        api_fail_not_found(c, "", "pods", name);
        return;
    }
    const char *uid = kube_uid(b);
    const char *bound = json_str_or(json_at(pod, "spec", "nodeName"), "");
    const char *why = NULL;
    if (uid[0] != '\0' && strcmp(uid, kube_uid(pod)) != 0) {
        why = api_fmt(c, "Precondition failed: UID in precondition: %s, UID in object meta: %s",
                      uid, kube_uid(pod));
    } else if (kube_is_deleting(pod)) {
        why = api_fmt(c, "pod %s is being deleted, cannot be assigned to a host", name);
    } else if (bound[0] != '\0') {
        why = api_fmt(c, "pod %s is already assigned to node \"%s\"", name, bound);
    } else if (json_len(json_at(pod, "spec", "schedulingGates")) > 0) {
        why = api_fmt(c, "pod %s has non-empty .spec.schedulingGates", name);
    }
    if (why != NULL) {
        api_fail_conflict(c, "pods/binding", name, "%s", why);
        return;
    }
    json_set_str(c->doc, json_need_obj(c->doc, pod, "spec"), "nodeName", node);
    JSON_EACH_KV(it, k, v, json_at(b, "metadata", "annotations")) {
        kube_annotate(c->doc, pod, k, json_str_or(v, ""));
    }
    kube_condition_set(c->doc, pod, "PodScheduled", "True", NULL, NULL, c->time);
    if (c->dry_run) {
        api_success(c, 201);
        return;
    }
    c->form = pods->kr;
    api_commit(c, pods, c->t.ns, name, pod, cur->rv, on_bound);
}

static void bind_pod(struct api_call *c) {
    c->again = bind_run;
    if (api_write_options(c, "CreateOptions")) {
        bind_run(c);
    }
}

/* ---- eviction ---- */

/* The budget that covers the pod, charged one disruption in the transaction that deletes it. false: answered. */
static bool budget_charge(struct api_call *c, const struct json *pod) {
    struct api_res *res = api_res_find(c->a, "policy", "poddisruptionbudgets");
    size_t from = 0;
    size_t to = 0;
    const char *phase = json_str_at(pod, "status", "phase");
    if (res == NULL || str_eq(phase, "Succeeded") || str_eq(phase, "Failed") ||
        str_eq(phase, "Pending") || kube_is_deleting(pod)) {
        return true;
    }
    api_cache_span(res, c->t.ns, &from, &to);
    size_t n = 0;
    for (size_t i = from; i < to; i++) {
        AUTO(json_docp) struct json_doc *d = NULL;
        struct kube_errs errs = KUBE_ERRS_INIT;
        AUTO(kube_selectorp) struct kube_selector *sel = NULL;
        if (api_obj_parse(res->objs[i], &d) < 0 ||
            kube_selector_of(json_at(json_root(d), "spec", "selector"), &sel, &errs) < 0) {
            kube_errs_fini(&errs);
            continue;
        }
        if (!kube_selector_match(sel, kube_labels(pod))) {
            continue;
        }
        if (n++ > 0) {
            api_fail(c, 500, "InternalError",
                     "This pod has more than one PodDisruptionBudget, which the eviction "
                     "subresource does not support.");
            return false;
        }
        struct json *pdb = json_copy(c->doc, json_root(d));
        int64_t allowed = json_i64_at(pdb, 0, "status", "disruptionsAllowed");
        if (allowed <= 0) {
            AUTO(json_docp) struct json_doc *sd = json_doc_new();
            struct json *s =
                kube_status(sd, 429, "TooManyRequests",
                            "Cannot evict pod as it would violate the pod's disruption budget.");
            struct json *cause = json_new_obj(sd);
            json_set_str(sd, cause, "reason", "DisruptionBudget");
            json_set(sd, cause, "message",
                     json_new_fmt(
                         sd,
                         "The disruption budget %s needs %lld healthy pods and has %lld currently",
                         kube_name(pdb), (long long)json_i64_at(pdb, 0, "status", "desiredHealthy"),
                         (long long)json_i64_at(pdb, 0, "status", "currentHealthy")));
            json_push(json_set_arr(sd, json_set_obj(sd, s, "details"), "causes"), cause);
            api_reply_status(c, s);
            return false;
        }
        struct json *status = json_need_obj(c->doc, pdb, "status");
        json_set_i64(c->doc, status, "disruptionsAllowed", allowed - 1);
        json_set_str(c->doc, json_need_obj(c->doc, status, "disruptedPods"), kube_name(pod),
                     c->time);
        AUTO(buf) struct buf b = BUF_INIT(LIM_KUBE_OBJECT);
        struct err e = ERR_INIT;
        if (api_store_bytes(c->doc, res, res->kr, pdb, &b, &e) < 0) {
            api_fail_err(c, &e);
            return false;
        }
        struct span key =
            span_str(api_fmt(c, "%s%.*s", res->prefix, SPAN_FMT(api_obj_key(res->objs[i]))));
        c->ops[c->n_ops++] =
            (struct api_extra_op){key, arena_copy(&c->mem, buf_view(&b)), res->objs[i]->rv};
    }
    return true;
}

static void evict_run(struct api_call *c) {
    if (api_wait_turn(c, c->res, c->t.ns, c->t.name, evict_run)) {
        return;
    }
    struct json *ev = api_decode_body(c, c->kr, false);
    struct api_obj *cur = NULL;
    if (ev == NULL) {
        return;
    }
    const struct json *opts = json_get(ev, "deleteOptions");
    struct api_delete_opts o = {.grace = json_i64_at(opts, -1, "gracePeriodSeconds"),
                                .propagation = json_str_at(opts, "propagationPolicy"),
                                .uid = json_str_at(opts, "preconditions", "uid"),
                                .rv = json_str_at(opts, "preconditions", "resourceVersion")};
    struct json *pod = api_load_tree(c, c->res, c->t.ns, c->t.name, c->res->kr, &cur);
    if (pod == NULL) {
        api_fail_not_found(c, "", "pods", c->t.name);
        return;
    }
    c->n_ops = 0;
    if ((o.uid != NULL && strcmp(o.uid, kube_uid(pod)) != 0) ||
        (o.rv != NULL && strcmp(o.rv, kube_rv(pod)) != 0)) {
        api_fail_conflict(c, "pods", c->t.name, "the precondition does not match the object");
        return;
    }
    if (!budget_charge(c, pod)) {
        return;
    }
    JSON_EACH(it, v, json_get(opts, "dryRun")) {
        c->dry_run = c->dry_run || str_eq(json_str(v), "All");
    }
    struct json *next = NULL;
    int rc = api_delete_plan(c, c->res, cur, &o, &next);
    if (rc != 0 || c->dry_run) {
        api_success(c, 201);
        return;
    }
    c->form = c->res->kr;
    api_commit(c, c->res, c->t.ns, c->t.name, next, cur->rv, on_bound);
}

static void evict(struct api_call *c) {
    c->again = evict_run;
    if (api_write_options(c, "CreateOptions")) {
        evict_run(c);
    }
}

void api_sub(struct api_call *c) {
    const struct kube_resource *kr = c->kr;
    if (sub_is(kr, "scale")) {
        if (c->t.verb == API_V_GET) {
            serve_scale(c);
        } else {
            api_with_body(c, serve_scale);
        }
    } else if (sub_is(kr, "binding") || (strcmp(kr->name, "bindings") == 0 && kr->sub[0] == '\0')) {
        api_with_body(c, bind_pod);
    } else if (sub_is(kr, "eviction")) {
        api_with_body(c, evict);
    } else if (sub_is(kr, "token")) {
        api_with_body(c, api_token_create);
    } else {
        api_kubelet(c);
    }
}
