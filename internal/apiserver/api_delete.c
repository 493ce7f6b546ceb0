#include "internal/apiserver/api_int.h"

/* DELETE of objects and collections: preconditions, grace periods, finalizers, propagation. */

static bool read_delete_options(struct api_call *c, struct api_delete_opts *o) {
    struct kube_errs errs = KUBE_ERRS_INIT;
    *o = (struct api_delete_opts){.grace = -1};
    struct json *body = NULL;
    if (span_trim(c->body).n > 0) {
        body = api_parse_body(c, "DeleteOptions");
        if (body == NULL) {
            return false;
        }
    }
    if (!api_write_options(c, "DeleteOptions")) {
        return false;
    }
    if (json_is_int(json_get(body, "gracePeriodSeconds"))) {
        o->grace = json_i64_at(body, -1, "gracePeriodSeconds");
        /* Upstream takes a negative period for 1. */
        o->grace = o->grace < 0 ? 1 : o->grace;
    }
    const char *q = api_query(c, "gracePeriodSeconds");
    if (q != NULL && span_to_i64(span_str(q), INT32_MIN, INT32_MAX, &o->grace) < 0) {
        api_fail(c, 400, "BadRequest", "strconv.ParseInt: parsing \"%s\": invalid syntax", q);
        return false;
    }
    if (q != NULL && o->grace < 0) {
        o->grace = 1;
    }
    const char *policy = json_str_at(body, "propagationPolicy");
    const char *pq = api_query(c, "propagationPolicy");
    o->propagation = policy != NULL ? policy : pq;
    const struct json *orphan = json_get(body, "orphanDependents");
    const char *oq = api_query(c, "orphanDependents");
    if (orphan != NULL || oq != NULL) {
        if (o->propagation != NULL) {
            kube_err_add_str(&errs, KUBE_INVALID, "propagationPolicy", o->propagation,
                             "orphanDependents and deletionPropagation cannot be both set");
        } else {
            bool yes = orphan != NULL ? json_bool(orphan, false)
                                      : strcmp(oq, "true") == 0 || strcmp(oq, "1") == 0;
            o->propagation = yes ? "Orphan" : "Background";
        }
    } else if (o->propagation != NULL && strcmp(o->propagation, "Orphan") != 0 &&
               strcmp(o->propagation, "Foreground") != 0 &&
               strcmp(o->propagation, "Background") != 0) {
        kube_err_add_str(&errs, KUBE_NOT_SUPPORTED, "propagationPolicy", o->propagation,
                         "supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\"");
    }
    JSON_EACH(it, v, json_get(body, "dryRun")) {
        if (str_eq(json_str(v), "All")) {
            c->dry_run = true;
        } else {
            kube_err_add(&errs, KUBE_NOT_SUPPORTED, "dryRun", json_get(body, "dryRun"),
                         "supported values: \"All\"");
        }
    }
    if (errs.n > 0) {
        api_fail_options(c, "DeleteOptions", &errs);
        return false;
    }
    kube_errs_fini(&errs);
    o->uid = json_str_at(body, "preconditions", "uid");
    o->rv = json_str_at(body, "preconditions", "resourceVersion");
    return true;
}

static bool check_preconditions(struct api_call *c, const struct api_delete_opts *o,
                                const struct json *obj, const char *name) {
    const char *kind = c->main->kind;
    if (o->uid != NULL && strcmp(o->uid, kube_uid(obj)) != 0) {
        api_fail_conflict(c, kind, name,
                          "the UID in the precondition (%s) does not match the UID in record (%s). "
                          "The object might "
                          "have been deleted and then recreated",
                          o->uid, kube_uid(obj));
        return false;
    }
    if (o->rv != NULL && strcmp(o->rv, kube_rv(obj)) != 0) {
        api_fail_conflict(c, kind, name,
                          "the ResourceVersion in the precondition (%s) does not match the "
                          "ResourceVersion in record "
                          "(%s). The object might have been modified",
                          o->rv, kube_rv(obj));
        return false;
    }
    return true;
}

static bool is(const struct api_res *res, const char *group, const char *name) {
    return strcmp(res->kr->name, name) == 0 && strcmp(res->kr->group, group) == 0;
}

/* Grace period of this deletion; false: the resource knows none. */
static bool grace_period(const struct api_res *res, const struct json *obj, int64_t asked,
                         int64_t *ret) {
    if (!is(res, "", "pods")) {
        return false;
    }
    int64_t s = asked >= 0 ? asked : json_i64_at(obj, 30, "spec", "terminationGracePeriodSeconds");
    const char *node = json_str_at(obj, "spec", "nodeName");
    const char *phase = json_str_at(obj, "status", "phase");
    if (node == NULL || node[0] == '\0' || str_eq(phase, "Failed") || str_eq(phase, "Succeeded")) {
        s = 0;
    }
    *ret = s < 0 ? 1 : s;
    return true;
}

static const char *policy_of(struct api_call *c, const struct api_res *res, const struct json *obj,
                             const struct api_delete_opts *o) {
    if (o->propagation != NULL) {
        return o->propagation;
    }
    if (kube_has_finalizer(obj, "orphan")) {
        return "Orphan";
    }
    if (kube_has_finalizer(obj, "foregroundDeletion")) {
        return "Foreground";
    }
    if (is(res, "batch", "jobs")) {
        api_warn(c, "child pods are preserved by default when jobs are deleted; set "
                    "propagationPolicy=Background to "
                    "remove them or set propagationPolicy=Orphan to suppress this warning");
        return "Orphan";
    }
    return is(res, "", "replicationcontrollers") ? "Orphan" : "Background";
}

static void set_finalizers(struct api_call *c, struct json *obj, const char *policy) {
    kube_finalizer_remove(obj, "orphan");
    kube_finalizer_remove(obj, "foregroundDeletion");
    if (strcmp(policy, "Orphan") == 0) {
        kube_finalizer_add(c->doc, obj, "orphan");
    } else if (strcmp(policy, "Foreground") == 0) {
        kube_finalizer_add(c->doc, obj, "foregroundDeletion");
    }
    if (json_len(json_at(obj, "metadata", "finalizers")) == 0) {
        json_del(json_get(obj, "metadata"), "finalizers");
    }
}

static void set_deleting(struct api_call *c, struct json *obj, int64_t grace) {
    struct json *meta = json_get(obj, "metadata");
    char when[TIME_STR];
    time_rfc3339(clock_wall_ns() / NS_PER_S + (uint64_t)grace, when);
    json_set_str(c->doc, meta, "deletionTimestamp", when);
    json_set_i64(c->doc, meta, "deletionGracePeriodSeconds", grace);
    if (json_is_int(json_get(meta, "generation"))) {
        json_set_i64(c->doc, meta, "generation", json_i64_at(meta, 0, "generation") + 1);
    }
}

static int plan_namespace(struct api_call *c, struct json *obj, struct json **ret_obj) {
    if (json_len(json_at(obj, "spec", "finalizers")) == 0 &&
        json_len(json_at(obj, "metadata", "finalizers")) == 0) {
        *ret_obj = NULL;
        return 0;
    }
    if (kube_is_deleting(obj)) {
        *ret_obj = obj;
        return 1;
    }
    json_set_str(c->doc, json_get(obj, "metadata"), "deletionTimestamp", c->time);
    json_set_str(c->doc, json_need_obj(c->doc, obj, "status"), "phase", "Terminating");
    *ret_obj = obj;
    return 0;
}

int api_delete_plan(struct api_call *c, struct api_res *res, struct api_obj *cur,
                    const struct api_delete_opts *o, struct json **ret_obj) {
    struct span name = api_obj_name(cur);
    struct span ns = api_obj_ns(cur);
    struct json *obj = api_load_tree(c, res, api_fmt(c, "%.*s", SPAN_FMT(ns)),
                                     api_fmt(c, "%.*s", SPAN_FMT(name)), res->kr, NULL);
    if (obj == NULL) {
        return -ERR_NOT_FOUND;
    }
    if (is(res, "", "namespaces")) {
        return plan_namespace(c, obj, ret_obj);
    }
    bool was_deleting = kube_is_deleting(obj);
    int64_t old_grace = json_i64_at(obj, 0, "metadata", "deletionGracePeriodSeconds");
    int64_t grace = 0;
    bool graceful = grace_period(res, obj, o->grace, &grace);
    size_t had = json_len(json_at(obj, "metadata", "finalizers"));
    set_finalizers(c, obj, policy_of(c, res, obj, o));
    size_t has = json_len(json_at(obj, "metadata", "finalizers"));
    if (was_deleting) {
        bool shorter = graceful && o->grace >= 0 && grace < old_grace;
        if (graceful && old_grace > 0 && !shorter) {
            *ret_obj = obj;
            return had == has ? 1 : 0;
        }
        if (has > 0 && !shorter) {
            *ret_obj = obj;
            return had == has ? 1 : 0;
        }
        if (shorter && (grace > 0 || has > 0)) {
            set_deleting(c, obj, grace);
            *ret_obj = obj;
            return 0;
        }
        *ret_obj = NULL;
        return 0;
    }
    if ((graceful && grace > 0) || has > 0) {
        set_deleting(c, obj, graceful ? grace : 0);
        *ret_obj = obj;
        return 0;
    }
    *ret_obj = NULL;
    return 0;
}

/* ---- one object ---- */

struct delete_state {
    struct api_delete_opts o;
    struct json *next; /* what is stored instead, NULL when removed */
    struct api_obj *cur;
};

static bool returns_object(const struct api_res *res) {
    static const char *const list[] = {"services",
                                       "serviceaccounts",
                                       "resourcequotas",
                                       "persistentvolumes",
                                       "persistentvolumeclaims",
                                       "podtemplates",
                                       "pods",
                                       "storageclasses",
                                       "csidrivers",
                                       "csinodes",
                                       "volumeattachments",
                                       "namespaces"};
    for (size_t i = 0; i < ARRAY_LEN(list); i++) {
        if (strcmp(res->kr->name, list[i]) == 0) {
            return true;
        }
    }
    return false;
}

static void reply_deleted(struct api_call *c, const struct api_obj *last) {
    if (is(c->res, "", "pods")) {
        AUTO(json_docp) struct json_doc *pd = NULL;
        if (api_obj_parse(last, &pd) >= 0) {
            struct json *pod = json_copy(c->doc, json_root(pd));
            if (!kube_is_deleting(pod)) {
                set_deleting(c, pod, 0);
            }
            api_reply_tree(c, 200, pod);
            return;
        }
    }
    if (returns_object(c->res)) {
        api_reply_obj(c, 200, last);
        return;
    }
    AUTO(json_docp) struct json_doc *d = NULL;
    if (api_obj_parse(last, &d) < 0) {
        api_fail(c, 500, "InternalError", "Internal error occurred: stored object does not parse");
        return;
    }
    struct json *s = json_new_obj(d);
    json_set_str(d, s, "kind", "Status");
    json_set_str(d, s, "apiVersion", "v1");
    json_set_obj(d, s, "metadata");
    json_set_str(d, s, "status", "Success");
    struct json *det = json_set_obj(d, s, "details");
    json_set_str(d, det, "name", kube_name(json_root(d)));
    json_set_str(d, det, "group", c->t.group[0] != '\0' ? c->t.group : NULL);
    json_set_str(d, det, "kind", c->t.resource);
    json_set_str(d, det, "uid", kube_uid(json_root(d)));
    c->out.as = API_AS_OBJECT;
    api_reply_json(c, 200, s);
}

static void on_deleted(struct api_call *c, int rc, struct api_obj *now, const struct err *e) {
    struct delete_state *s = c->state;
    if (rc == -ERR_CONFLICT && c->tries++ < LIM_API_RETRIES) {
        api_retry(c);
    } else if (rc < 0) {
        api_fail_err(c, e);
    } else if (s->next != NULL) {
        api_reply_obj(c, 200, now);
    } else {
        reply_deleted(c, now);
    }
}

static void delete_run(struct api_call *c) {
    struct delete_state *s = c->state;
    const char *ns = c->main->namespaced ? c->t.ns : "";
    struct api_obj *cur = NULL;
    if (api_wait_turn(c, c->res, ns, c->t.name, delete_run)) {
        return;
    }
    struct json *old = api_load_tree(c, c->res, ns, c->t.name, c->res->kr, &cur);
    if (old == NULL) {
        api_fail_not_found(c, c->t.group, c->t.resource, c->t.name);
        return;
    }
    c->obj_name = c->t.name;
    if (!check_preconditions(c, &s->o, old, c->t.name) || !api_admit_delete(c, old)) {
        return;
    }
    int rc = api_delete_plan(c, c->res, cur, &s->o, &s->next);
    if (rc < 0) {
        api_fail(c, 500, "InternalError", "Internal error occurred: stored object does not parse");
        return;
    }
    if (rc == 1 || (c->dry_run && s->next != NULL)) {
        api_reply_obj(c, 200, cur);
        return;
    }
    if (c->dry_run) {
        reply_deleted(c, cur);
        return;
    }
    c->form = c->res->kr;
    api_commit(c, c->res, ns, c->t.name, s->next, cur->rv, on_deleted);
}

void api_delete(struct api_call *c) {
    struct delete_state *s = arena_new(&c->mem, struct delete_state);
    CHECK(s != NULL);
    c->state = s;
    c->again = delete_run;
    if (read_delete_options(c, &s->o)) {
        delete_run(c);
    }
}

/* ---- collections ---- */

struct collection {
    struct api_delete_opts o;
    struct api_list_opts list;
    struct api_obj **objs;
    size_t n, at;
};

static void collection_step(struct api_call *c);

static void collection_fini(struct api_call *c) {
    struct collection *k = c->state;
    for (size_t i = 0; i < k->n; i++) {
        api_obj_unref(k->objs[i]);
    }
    free(k->objs);
    k->objs = NULL;
    k->n = 0;
    api_list_opts_fini(&k->list);
}

static void on_item_deleted(struct api_call *c, int rc, struct api_obj *now, const struct err *e) {
    struct collection *k = c->state;
    (void)now;
    if (rc == -ERR_CONFLICT && c->tries++ < LIM_API_RETRIES) {
        api_retry(c);
        return;
    }
    if (rc < 0 && rc != -ERR_NOT_FOUND) {
        api_fail_err(c, e);
        collection_fini(c);
        return;
    }
    c->tries = 0;
    k->at++;
    collection_step(c);
}

static void collection_reply(struct api_call *c) {
    struct collection *k = c->state;
    struct buf b = BUF_INIT(LIM_API_LIST);
    buf_fmt(&b,
            "{\"kind\":\"%sList\",\"apiVersion\":\"%s\",\"metadata\":{\"resourceVersion\":\"%lld\"}"
            ",\"items\":[",
            c->res->kr->kind, kube_api_version(c->res->kr), (long long)store_rev(c->a->store));
    for (size_t i = 0; i < k->n; i++) {
        struct span json = api_obj_json(k->objs[i]);
        buf_str(&b, i > 0 ? ",{" : "{");
        buf_span(&b, span_of(json.p + c->res->head_n, json.n - c->res->head_n));
    }
    buf_str(&b, "]}\n");
    api_reply_take(c, 200, "application/json", &b);
    buf_fini(&b);
    collection_fini(c);
}

static void collection_step(struct api_call *c) {
    struct collection *k = c->state;
    for (; k->at < k->n; k->at++) {
        struct api_obj *cur = api_cache_get(c->res, api_obj_key(k->objs[k->at]));
        if (cur == NULL) {
            continue;
        }
        struct json *next = NULL;
        if (api_wait_turn(c, c->res, api_fmt(c, "%.*s", SPAN_FMT(api_obj_ns(cur))),
                          api_fmt(c, "%.*s", SPAN_FMT(api_obj_name(cur))), collection_step)) {
            return;
        }
        if (api_delete_plan(c, c->res, cur, &k->o, &next) != 0) {
            continue;
        }
        c->form = c->res->kr;
        api_commit(c, c->res, api_fmt(c, "%.*s", SPAN_FMT(api_obj_ns(cur))),
                   api_fmt(c, "%.*s", SPAN_FMT(api_obj_name(cur))), next, cur->rv, on_item_deleted);
        return;
    }
    collection_reply(c);
}

void api_delete_collection(struct api_call *c) {
    struct collection *k = arena_new(&c->mem, struct collection);
    CHECK(k != NULL);
    c->state = k;
    c->again = collection_step;
    if (!read_delete_options(c, &k->o) || !api_list_options(c, &k->list, false)) {
        return;
    }
    size_t from;
    size_t to;
    api_cache_span(c->res, c->main->namespaced ? c->t.ns : "", &from, &to);
    k->objs = mem_array(NULL, to - from + 1, sizeof *k->objs, 1u << 26);
    if (k->objs == NULL) {
        api_list_opts_fini(&k->list);
        api_fail(c, 500, "InternalError", "Internal error occurred: too many objects");
        return;
    }
    for (size_t i = from; i < to; i++) {
        struct json_doc *doc = NULL;
        if (api_obj_matches(&k->list, c->res, c->main, c->res->objs[i], &doc)) {
            k->objs[k->n++] = api_obj_ref(c->res->objs[i]);
        }
        json_doc_free(doc);
    }
    if (c->dry_run) {
        collection_reply(c);
        return;
    }
    collection_step(c);
}
