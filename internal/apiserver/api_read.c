#include "internal/apiserver/api_int.h"

/* Get and list. The common list is a concatenation of cached bytes; selectors parse what they must look into. */

/* ---- options ---- */

void api_list_opts_fini(struct api_list_opts *o) {
    kube_selector_free(o->labels);
    kube_fieldsel_free(o->fields);
    o->labels = NULL;
    o->fields = NULL;
}

static bool bool_query(struct api_call *c, const char *key) {
    const char *v = api_query(c, key);
    return v != NULL && strcmp(v, "false") != 0 && strcmp(v, "0") != 0;
}

static bool int_query(struct api_call *c, const char *key, int64_t def, int64_t *ret) {
    const char *v = api_query(c, key);
    *ret = def;
    if (v == NULL || v[0] == '\0') {
        return true;
    }
    if (span_to_i64(span_str(v), INT64_MIN, INT64_MAX, ret) < 0) {
        api_fail(c, 400, "BadRequest", "strconv.ParseInt: parsing \"%s\": invalid syntax", v);
        return false;
    }
    return true;
}

static bool selectors(struct api_call *c, struct api_list_opts *o) {
    struct kube_errs errs = KUBE_ERRS_INIT;
    const char *ls = api_query(c, "labelSelector");
    const char *fs = api_query(c, "fieldSelector");
    int rc = 0;
    if (ls != NULL && ls[0] != '\0') {
        rc = kube_selector_parse(span_str(ls), &o->labels, &errs);
    }
    if (rc >= 0 && fs != NULL && fs[0] != '\0') {
        rc = kube_fieldsel_parse(span_str(fs), c->main, &o->fields, &errs);
    }
    if (rc < 0) {
        api_fail(c, 400, "BadRequest", "%s", errs.text != NULL ? errs.text : "invalid selector");
    }
    kube_errs_fini(&errs);
    return rc >= 0;
}

static void check_match(const struct api_list_opts *o, bool watch, struct kube_errs *errs) {
    bool has_rv = o->rv_text != NULL && o->rv_text[0] != '\0';
    if (o->send_initial >= 0 && !watch) {
        kube_err_add(errs, KUBE_FORBIDDEN, "sendInitialEvents", NULL,
                     "sendInitialEvents is forbidden for list");
    }
    if (watch && o->send_initial < 0 && o->match_text != NULL) {
        kube_err_add(
            errs, KUBE_FORBIDDEN, "resourceVersionMatch", NULL,
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided");
        return;
    }
    if (watch && o->send_initial >= 0) {
        if (o->match_text == NULL) {
            kube_err_add(errs, KUBE_FORBIDDEN, "resourceVersionMatch", NULL,
                         "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
        } else if (o->match != API_RV_NOT_OLDER) {
            kube_err_add_str(errs, KUBE_NOT_SUPPORTED, "resourceVersionMatch", o->match_text,
                             "supported values: \"NotOlderThan\"");
        }
        return;
    }
    if (o->match_text == NULL) {
        return;
    }
    if (!has_rv) {
        kube_err_add(errs, KUBE_FORBIDDEN, "resourceVersionMatch", NULL,
                     "resourceVersionMatch is forbidden unless resourceVersion is provided");
    }
    if (o->cont != NULL && o->cont[0] != '\0') {
        kube_err_add(errs, KUBE_FORBIDDEN, "resourceVersionMatch", NULL,
                     "resourceVersionMatch is forbidden when continue is provided");
    }
    if (o->match == API_RV_ANY) {
        kube_err_add_str(errs, KUBE_NOT_SUPPORTED, "resourceVersionMatch", o->match_text,
                         "supported values: \"Exact\", \"NotOlderThan\", \"\"");
    } else if (o->match == API_RV_EXACT && str_eq(o->rv_text, "0")) {
        kube_err_add(errs, KUBE_FORBIDDEN, "resourceVersionMatch", NULL,
                     "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
    }
}

bool api_list_options(struct api_call *c, struct api_list_opts *ret, bool watch) {
    *ret = (struct api_list_opts){.send_initial = -1, .timeout_s = -1};
    if (!int_query(c, "limit", 0, &ret->limit) ||
        !int_query(c, "timeoutSeconds", -1, &ret->timeout_s)) {
        return false;
    }
    if (!selectors(c, ret)) {
        api_list_opts_fini(ret);
        return false;
    }
    ret->limit = ret->limit < 0 ? 0 : ret->limit;
    ret->cont = api_query(c, "continue");
    ret->rv_text = api_query(c, "resourceVersion");
    ret->match_text = api_query(c, "resourceVersionMatch");
    if (ret->match_text != NULL && ret->match_text[0] == '\0') {
        ret->match_text = NULL;
    }
    ret->match = str_eq(ret->match_text, "Exact")          ? API_RV_EXACT
                 : str_eq(ret->match_text, "NotOlderThan") ? API_RV_NOT_OLDER
                                                           : API_RV_ANY;
    ret->bookmarks = bool_query(c, "allowWatchBookmarks");
    if (api_query(c, "sendInitialEvents") != NULL) {
        ret->send_initial = bool_query(c, "sendInitialEvents");
    }
    struct kube_errs errs = KUBE_ERRS_INIT;
    check_match(ret, watch, &errs);
    if (errs.n > 0) {
        api_fail_options(c, "ListOptions", &errs);
        api_list_opts_fini(ret);
        return false;
    }
    kube_errs_fini(&errs);
    uint64_t rv = 0;
    if (ret->rv_text != NULL && ret->rv_text[0] != '\0' &&
        span_to_u64(span_str(ret->rv_text), 0, INT64_MAX, &rv) < 0) {
        if (watch) {
            struct kube_errs bad = KUBE_ERRS_INIT;
            kube_err_add_str(&bad, KUBE_INVALID, "resourceVersion", ret->rv_text,
                             "strconv.ParseUint: parsing \"%s\": invalid syntax", ret->rv_text);
            api_fail(c, 400, "BadRequest",
                     "invalid resource version: resourceVersion: Invalid value: \"%s\": "
                     "strconv.ParseUint: parsing "
                     "\"%s\": invalid syntax",
                     ret->rv_text, ret->rv_text);
            kube_errs_fini(&bad);
        } else {
            api_fail(c, 400, "BadRequest",
                     "invalid resource version: resourceVersion: Invalid value: \"%s\": "
                     "strconv.ParseUint: parsing "
                     "\"%s\": invalid syntax",
                     ret->rv_text, ret->rv_text);
        }
        api_list_opts_fini(ret);
        return false;
    }
    ret->rv = (int64_t)rv;
    return true;
}

bool api_obj_matches(const struct api_list_opts *o, const struct api_res *res,
                     const struct kube_resource *want, const struct api_obj *obj,
                     struct json_doc **doc_io) {
    bool all_labels = o->labels == NULL || kube_selector_is_all(o->labels);
    bool all_fields = o->fields == NULL || kube_fieldsel_is_all(o->fields);
    if (all_labels && all_fields) {
        return true;
    }
    const char *name = o->fields != NULL ? kube_fieldsel_name(o->fields) : NULL;
    if (name != NULL && !span_eq_str(api_obj_name(obj), name)) {
        return false;
    }
    if (*doc_io == NULL && api_obj_parse(obj, doc_io) < 0) {
        return false;
    }
    const struct json *root = json_root(*doc_io);
    if (!all_labels && !kube_selector_match(o->labels, kube_labels(root))) {
        return false;
    }
    (void)res;
    (void)want;
    return all_fields || kube_fieldsel_match(o->fields, root);
}

/* ---- get ---- */

static bool rv_reached(struct api_call *c, int64_t rv) {
    int64_t now = store_rev(c->a->store);
    if (rv <= now) {
        return true;
    }
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    const char *msg = api_fmt(c, "Timeout: Too large resource version: %lld, current: %lld",
                              (long long)rv, (long long)now);
    struct json *s = kube_status(d, 504, "Timeout", msg);
    struct json *details = json_set_obj(d, s, "details");
    struct json *cause = json_new_obj(d);
    json_set_str(d, cause, "reason", "ResourceVersionTooLarge");
    json_set_str(d, cause, "message", "Too large resource version");
    json_push(json_set_arr(d, details, "causes"), cause);
    json_set_i64(d, details, "retryAfterSeconds", 1);
    c->retry_after = true;
    api_reply_status(c, s);
    return false;
}

void api_get(struct api_call *c) {
    const char *rv_text = api_query(c, "resourceVersion");
    uint64_t rv = 0;
    if (rv_text != NULL && rv_text[0] != '\0') {
        if (span_to_u64(span_str(rv_text), 0, INT64_MAX, &rv) < 0) {
            api_fail_bare(
                c, api_fmt(
                       c,
                       "resourceVersion: Invalid value: \"%s\": strconv.ParseUint: parsing \"%s\": "
                       "invalid syntax",
                       rv_text, rv_text));
            return;
        }
        if (!rv_reached(c, (int64_t)rv)) {
            return;
        }
    }
    struct api_obj *o = api_cache_find(c->res, c->main->namespaced ? c->t.ns : "", c->t.name);
    if (o == NULL) {
        api_fail_not_found(c, c->t.group, c->t.resource, c->t.name);
        return;
    }
    api_reply_obj(c, 200, o);
}

/* Upstream sends these with every request to the resource. */
void api_warn_deprecated(struct api_call *c) {
    if (c->main->group[0] == '\0' && strcmp(c->main->name, "endpoints") == 0) {
        api_warn(c, "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice");
    } else if (c->main->group[0] == '\0' && strcmp(c->main->name, "componentstatuses") == 0) {
        api_warn(c, "v1 ComponentStatus is deprecated in v1.19+");
    }
}

/* ---- list ---- */

/* Continue tokens are upstream's: base64url of {"v":"meta.k8s.io/v1","rv":R,"start":"<key>\0"}. */
static char *token_make(struct api_call *c, int64_t rv, struct span last_key) {
    AUTO(buf) struct buf text = BUF_INIT(8 << 10);
    AUTO(buf) struct buf key = BUF_INIT(4 << 10);
    AUTO(buf) struct buf out = BUF_INIT(16 << 10);
    buf_span(&key, last_key);
    buf_u8(&key, 0);
    buf_fmt(&text, "{\"v\":\"meta.k8s.io/v1\",\"rv\":%lld,\"start\":", (long long)rv);
    json_write_str(&text, buf_view(&key));
    buf_u8(&text, '}');
    b64url_encode(&out, buf_view(&text));
    return api_fmt(c, "%s", buf_cstr(&out));
}

static bool token_read(struct api_call *c, const char *token, int64_t *rv, struct span *start) {
    AUTO(buf) struct buf text = BUF_INIT(16 << 10);
    AUTO(json_docp) struct json_doc *d = NULL;
    struct err e = ERR_INIT;
    if (b64url_decode(&text, span_str(token)) < 0 || json_parse(buf_view(&text), 0, &d, &e) < 0 ||
        !str_eq(json_str_at(json_root(d), "v"), "meta.k8s.io/v1") ||
        json_str_at(json_root(d), "start") == NULL) {
        char bad[8] = "?";
        if (text.n > 0 && text.p[0] >= 0x80) {
            str_put(bad, sizeof bad, "\\x%02x", text.p[0]);
        } else if (text.n > 0) {
            str_put(bad, sizeof bad, "%c", text.p[0]);
        }
        api_fail(c, 400, "BadRequest",
                 "invalid continue token: continue key is not valid: invalid character '%s' "
                 "looking for beginning of value",
                 bad);
        return false;
    }
    *rv = json_i64_at(json_root(d), 0, "rv");
    struct span s = json_span(json_at(json_root(d), "start"));
    *start = arena_copy(&c->mem, s);
    if (*rv == 0 || start->p == NULL) {
        api_fail(c, 400, "BadRequest",
                 "invalid continue token: continue key is not valid: incorrect encoded start "
                 "resourceVersion (version meta.k8s.io/v1)");
        return false;
    }
    return true;
}

struct list_state {
    struct api_list_opts o;
    struct buf b;
    struct json *table; /* AS_TABLE, AS_META, YAML, pretty and protobuf lists are built as trees */
    struct json *items;
    const char *ns;
    int64_t rv;
    size_t n;
    bool more, trees;
    int64_t remaining; /* -1: unknown */
    struct span last;
    struct span start; /* first key wanted */
};

static const char *list_kind(const struct kube_resource *kr) {
    return kr->kind;
}

/* Adds one object; false when the limit has been reached before it. */
static int list_add(struct api_call *c, struct list_state *s, const struct api_obj *o) {
    struct json_doc *doc = NULL;
    if (!api_obj_matches(&s->o, c->res, c->main, o, &doc)) {
        json_doc_free(doc);
        return 0;
    }
    if (s->o.limit > 0 && (int64_t)s->n >= s->o.limit) {
        json_doc_free(doc);
        s->more = true;
        return 1;
    }
    struct err e = ERR_INIT;
    int rc = 0;
    if (!s->trees && c->res->kr == c->main) {
        struct span json = api_obj_json(o);
        if (s->n > 0) {
            buf_u8(&s->b, ',');
        }
        buf_u8(&s->b, '{');
        rc = buf_span(&s->b, span_of(json.p + c->res->head_n, json.n - c->res->head_n));
    } else {
        if (doc == NULL && (rc = api_obj_parse(o, &doc)) < 0) {
            return rc;
        }
        struct json *obj = json_copy(c->doc, json_root(doc));
        if (c->res->kr != c->main) {
            rc = kube_convert(c->doc, obj, c->res->kr, c->main, &e);
        }
        if (c->out.as == API_AS_TABLE) {
            obj = api_table_row(&c->out, c->main, c->doc, obj);
        } else if (c->out.as == API_AS_META) {
            obj = api_partial(c->doc, obj, c->out.as_version);
        } else {
            json_del(obj, "kind");
            json_del(obj, "apiVersion");
        }
        json_push(s->items, obj);
    }
    json_doc_free(doc);
    s->n++;
    s->last = api_obj_key(o);
    return rc;
}

static void list_meta(struct api_call *c, const struct list_state *s, struct json *meta) {
    json_set(c->doc, meta, "resourceVersion", json_new_fmt(c->doc, "%lld", (long long)s->rv));
    if (s->more) {
        struct span key = s->last;
        size_t skip = s->ns[0] != '\0' ? strlen(s->ns) + 1 : 0;
        json_set_str(c->doc, meta, "continue",
                     token_make(c, s->rv, span_of(key.p + skip, key.n - skip)));
        if (s->remaining > 0) {
            json_set_i64(c->doc, meta, "remainingItemCount", s->remaining);
        }
    }
}

static void list_begin(struct api_call *c, struct list_state *s) {
    s->b = (struct buf)BUF_INIT(LIM_API_LIST);
    s->trees = c->out.media != API_JSON || c->out.as != API_AS_OBJECT || c->out.pretty ||
               c->res->kr != c->main;
    if (!s->trees) {
        return;
    }
    if (c->out.as == API_AS_TABLE) {
        s->table = api_table_new(&c->out, c->main, c->doc, true);
        s->items = json_get(s->table, "rows");
        return;
    }
    s->table = json_new_obj(c->doc);
    if (c->out.as == API_AS_META) {
        json_set_str(c->doc, s->table, "kind", "PartialObjectMetadataList");
        json_set(c->doc, s->table, "apiVersion",
                 json_new_fmt(c->doc, "meta.k8s.io/%s", c->out.as_version));
    } else {
        json_set(c->doc, s->table, "kind", json_new_fmt(c->doc, "%sList", list_kind(c->main)));
        json_set_str(c->doc, s->table, "apiVersion", kube_api_version(c->main));
    }
    json_set_obj(c->doc, s->table, "metadata");
    s->items = json_set_arr(c->doc, s->table, "items");
}

static void list_end(struct api_call *c, struct list_state *s) {
    if (s->trees) {
        list_meta(c, s, json_get(s->table, "metadata"));
        api_reply_json(c, 200, s->table);
        return;
    }
    /* The head holds the continue token, known only now: it goes into a buffer of its own, in front. */
    struct json *meta = json_new_obj(c->doc);
    list_meta(c, s, meta);
    struct buf all = BUF_INIT(LIM_API_LIST);
    buf_fmt(&all, "{\"kind\":\"%sList\",\"apiVersion\":\"%s\",\"metadata\":", list_kind(c->main),
            kube_api_version(c->main));
    IGNORE_ERR(json_write(meta, 0, &all), "the buffer keeps the failure");
    buf_str(&all, ",\"items\":[");
    buf_span(&all, buf_view(&s->b));
    buf_fini(&s->b);
    buf_str(&all, "]}\n");
    api_reply_take(c, 200, "application/json", &all);
    buf_fini(&all);
}

static void list_from_cache(struct api_call *c, struct list_state *s) {
    size_t from;
    size_t to;
    api_cache_span(c->res, s->ns, &from, &to);
    if (s->start.n > 0) {
        size_t at = api_cache_lower(c->res, s->start);
        from = at > from ? at : from;
    }
    const char *name = s->o.fields != NULL ? kube_fieldsel_name(s->o.fields) : NULL;
    if (name != NULL && (s->ns[0] != '\0' || !c->main->namespaced)) {
        struct api_obj *one = api_cache_find(c->res, s->ns, name);
        size_t at = one != NULL ? api_cache_lower(c->res, api_obj_key(one)) : to;
        from = one != NULL && at >= from ? at : to;
        to = one != NULL ? from + 1 : to;
    }
    for (size_t i = from; i < to; i++) {
        int rc = list_add(c, s, c->res->objs[i]);
        if (rc < 0) {
            api_fail(c, 500, "InternalError", "Internal error occurred: the list is too large");
            return;
        }
        if (rc > 0) {
            bool plain = s->o.labels == NULL && s->o.fields == NULL;
            s->remaining = plain ? (int64_t)(to - i) : -1;
            break;
        }
    }
    list_end(c, s);
}

static void list_gone(struct api_call *c) {
    api_fail(c, 410, "Expired",
             "The provided continue parameter is too old to display a consistent list result. You "
             "can start a new list "
             "without the continue parameter.");
}

/* The list as of an older revision, from the store's history. */
static void on_old_range(void *ctx, int rc, const struct store_range_res *res,
                         const struct err *e) {
    struct api_call *c = ctx;
    struct list_state *s = c->state;
    if (rc == -ERR_GONE) {
        if (s->o.cont != NULL && s->o.cont[0] != '\0') {
            list_gone(c);
        } else {
            api_fail(c, 410, "Expired", "The resourceVersion for the provided list is too old.");
        }
    } else if (rc < 0) {
        api_fail_err(c, e);
    } else {
        for (size_t i = 0; i < res->n; i++) {
            const struct store_kv *kv = &res->kvs[i];
            struct span key = span_of(kv->key.p + c->res->prefix_n, kv->key.n - c->res->prefix_n);
            ptrdiff_t slash = span_index(key, '/');
            struct api_obj *o = api_obj_new(key, slash > 0 ? (size_t)slash : 0, kv->value,
                                            kv->mod_rev, kv->create_rev);
            int add = list_add(c, s, o);
            s->last = arena_copy(&c->mem, s->last);
            api_obj_unref(o);
            if (add != 0) {
                break;
            }
        }
        if (!s->more && res->more) {
            s->more = true;
        }
        list_end(c, s);
    }
    buf_fini(&s->b);
    api_list_opts_fini(&s->o);
    api_call_unbusy(c);
}

static void list_from_store(struct api_call *c, struct list_state *s) {
    struct err e = ERR_INIT;
    struct span from =
        span_str(api_fmt(c, "%s%s%s", c->res->prefix, s->ns, s->ns[0] != '\0' ? "/" : ""));
    struct span to = store_prefix_end(&c->mem, from);
    if (s->start.n > 0) {
        uint8_t *key = arena_alloc(&c->mem, c->res->prefix_n + s->start.n);
        CHECK(key != NULL);
        memcpy(key, c->res->prefix, c->res->prefix_n);
        memcpy(key + c->res->prefix_n, s->start.p, s->start.n);
        from = span_of(key, c->res->prefix_n + s->start.n);
    }
    bool plain = s->o.labels == NULL && s->o.fields == NULL;
    const struct store_range_req q = {.key = from,
                                      .end = to,
                                      .rev = s->rv,
                                      .no_count = true,
                                      .limit = plain && s->o.limit > 0 ? s->o.limit + 1 : 0};
    int rc = store_range_async(c->a->store, &q, LIM_API_LIST, on_old_range, c, &e);
    if (rc < 0) {
        if (rc == -ERR_GONE) {
            list_gone(c);
        } else {
            api_fail_err(c, &e);
        }
        api_list_opts_fini(&s->o);
        return;
    }
    api_call_busy(c);
}

void api_list(struct api_call *c) {
    struct list_state *s = arena_new(&c->mem, struct list_state);
    CHECK(s != NULL);
    c->state = s;
    if (!api_list_options(c, &s->o, false)) {
        return;
    }
    s->ns = c->main->namespaced ? c->t.ns : "";
    s->remaining = -1;
    s->rv = store_rev(c->a->store);
    bool done = false;
    if (s->o.cont != NULL && s->o.cont[0] != '\0') {
        struct span start = SPAN_EMPTY;
        if (s->o.rv_text != NULL && s->o.rv_text[0] != '\0' && strcmp(s->o.rv_text, "0") != 0) {
            api_fail(c, 400, "BadRequest",
                     "specifying resource version is not allowed when using continue");
            done = true;
        } else if (!token_read(c, s->o.cont, &s->rv, &start)) {
            done = true;
        } else {
            AUTO(buf) struct buf key = BUF_INIT(8 << 10);
            buf_fmt(&key, "%s%s", s->ns, s->ns[0] != '\0' ? "/" : "");
            buf_span(&key, start);
            s->start = arena_copy(&c->mem, buf_view(&key));
        }
    } else if (!rv_reached(c, s->o.rv)) {
        done = true;
    } else if (s->o.match == API_RV_EXACT) {
        s->rv = s->o.rv;
    }
    if (done) {
        api_list_opts_fini(&s->o);
        return;
    }
    list_begin(c, s);
    if (s->rv < c->res->last_rv) {
        list_from_store(c, s);
        return;
    }
    list_from_cache(c, s);
    buf_fini(&s->b);
    api_list_opts_fini(&s->o);
}
