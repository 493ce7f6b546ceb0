#include "internal/apiserver/api_int.h"

/* LimitRange defaults and bounds of containers, and ResourceQuota. */

/* ---- LimitRange ---- */

struct limits {
    struct api_call *c;
    struct json *pod;
    struct buf set;     /* text of the annotation */
    struct buf refused; /* messages */
    size_t n_refused;
};

static void default_of(struct limits *l, struct json *ct, const struct json *limit,
                       const char *source, const char *part) {
    struct json_doc *d = l->c->doc;
    JSON_EACH_KV(it, k, v, json_get(limit, source)) {
        struct json *res = json_need_obj(d, ct, "resources");
        struct json *m = json_need_obj(d, res, part);
        if (json_get(m, k) == NULL) {
            json_set(d, m, k, json_copy(d, v));
            buf_fmt(&l->set, "%s%s %.*s for container %s", l->set.n > 0 ? "; " : "", k,
                    (int)strlen(part) - 1, part, json_str_or(json_get(ct, "name"), ""));
        }
    }
}

static bool over(const struct json *a, const struct json *b) {
    int cmp = 0;
    return json_str(a) != NULL && json_str(b) != NULL &&
           kube_quantity_cmp(json_span(a), json_span(b), &cmp) >= 0 && cmp > 0;
}

static void refuse(struct limits *l, const char *text) {
    buf_fmt(&l->refused, "%s%s", l->n_refused > 0 ? ", " : "", text);
    l->n_refused++;
}

static void minima_of(struct limits *l, const struct json *ct, const struct json *limit) {
    struct api_call *c = l->c;
    const struct json *req = json_at(ct, "resources", "requests");
    const struct json *lim = json_at(ct, "resources", "limits");
    const char *type = json_str_or(json_get(limit, "type"), "");
    JSON_EACH_KV(it, k, v, json_get(limit, "min")) {
        const struct json *r = json_get(req, k);
        const struct json *m = json_get(lim, k);
        if (r == NULL) {
            refuse(l, api_fmt(c, "minimum %s usage per %s is %s.  No request is specified", k, type,
                              json_str_or(v, "")));
        } else if (over(v, r)) {
            refuse(l, api_fmt(c, "minimum %s usage per %s is %s, but request is %s", k, type,
                              json_str_or(v, ""), json_str_or(r, "")));
        }
        if (m != NULL && over(v, m)) {
            refuse(l, api_fmt(c, "minimum %s usage per %s is %s, but limit is %s", k, type,
                              json_str_or(v, ""), json_str_or(m, "")));
        }
    }
}

static void maxima_of(struct limits *l, const struct json *ct, const struct json *limit) {
    struct api_call *c = l->c;
    const struct json *req = json_at(ct, "resources", "requests");
    const struct json *lim = json_at(ct, "resources", "limits");
    const char *type = json_str_or(json_get(limit, "type"), "");
    JSON_EACH_KV(it, k, v, json_get(limit, "max")) {
        const struct json *r = json_get(req, k);
        const struct json *m = json_get(lim, k);
        if (m == NULL) {
            refuse(l, api_fmt(c, "maximum %s usage per %s is %s.  No limit is specified", k, type,
                              json_str_or(v, "")));
        } else if (over(m, v)) {
            refuse(l, api_fmt(c, "maximum %s usage per %s is %s, but limit is %s", k, type,
                              json_str_or(v, ""), json_str_or(m, "")));
        }
        if (r != NULL && over(r, v)) {
            refuse(l, api_fmt(c, "maximum %s usage per %s is %s, but request is %s", k, type,
                              json_str_or(v, ""), json_str_or(r, "")));
        }
    }
}

static void each_container(struct limits *l, const struct json *limit, bool defaults) {
    static const char *const lists[] = {"containers", "initContainers"};
    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        JSON_EACH(it, ct, json_at(l->pod, "spec", lists[i])) {
            if (!defaults) {
                minima_of(l, ct, limit);
                maxima_of(l, ct, limit);
                continue;
            }
            default_of(l, ct, limit, "defaultRequest", "requests");
            default_of(l, ct, limit, "default", "limits");
        }
    }
}

bool api_admit_limits(struct api_call *c, struct json *obj) {
    struct api_res *res = api_res_find(c->a, "", "limitranges");
    size_t from = 0;
    size_t to = 0;
    if (res == NULL || strcmp(c->main->name, "pods") != 0) {
        return true;
    }
    api_cache_span(res, c->t.ns, &from, &to);
    struct limits l = {
        .c = c, .pod = obj, .set = BUF_INIT(64 << 10), .refused = BUF_INIT(64 << 10)};
    for (int pass = 0; pass < 2; pass++) {
        for (size_t i = from; i < to; i++) {
            AUTO(json_docp) struct json_doc *d = NULL;
            if (api_obj_parse(res->objs[i], &d) < 0) {
                continue;
            }
            JSON_EACH(it, limit, json_at(json_root(d), "spec", "limits")) {
                if (str_eq(json_str(json_get(limit, "type")), "Container")) {
                    each_container(&l, limit, pass == 0);
                }
            }
        }
    }
    if (l.set.n > 0) {
        kube_annotate(c->doc, obj, "kubernetes.io/limit-ranger",
                      api_fmt(c, "LimitRanger plugin set: %s", buf_cstr(&l.set)));
    }
    if (l.n_refused > 0) {
        api_fail_forbidden(c, l.n_refused > 1 ? "[%s]" : "%s", buf_cstr(&l.refused));
    }
    bool ok = l.n_refused == 0;
    buf_fini(&l.set);
    buf_fini(&l.refused);
    return ok;
}

/* ---- ResourceQuota ---- */

/* Sum of requests or limits of a pod: containers together, or the largest init container. In milli units. */
static int64_t pod_sum(const struct json *pod, const char *part, const char *name) {
    int64_t sum = 0;
    int64_t top = 0;
    JSON_EACH(it, ct, json_at(pod, "spec", "containers")) {
        int64_t v = 0;
        if (kube_quantity_milli(json_span(json_at(ct, "resources", part, name)), &v) >= 0) {
            sum += v;
        }
    }
    JSON_EACH(it2, ct, json_at(pod, "spec", "initContainers")) {
        int64_t v = 0;
        if (kube_quantity_milli(json_span(json_at(ct, "resources", part, name)), &v) >= 0 &&
            v > top) {
            top = v;
        }
    }
    return sum > top ? sum : top;
}

static bool pod_names(const struct json *pod, const char *part, const char *name,
                      struct buf *missing) {
    JSON_EACH(it, ct, json_at(pod, "spec", "containers")) {
        if (json_at(ct, "resources", part, name) == NULL) {
            buf_fmt(missing, "%s%s", missing->n > 0 ? "," : "",
                    json_str_or(json_get(ct, "name"), ""));
        }
    }
    return missing->n == 0;
}

struct usage {
    int64_t milli;
    bool counts;             /* the quota's resource has to do with this object */
    const char *part, *name; /* of pods: which container resource */
};

static struct usage usage_of(const struct api_call *c, const struct json *obj, const char *key) {
    struct usage u = {0};
    struct span s = span_str(key);
    bool pod = strcmp(c->main->name, "pods") == 0 && c->main->group[0] == '\0';
    if (span_starts(s, "count/")) {
        struct span what = span_of(s.p + 6, s.n - 6);
        AUTO_FREE char *own = c->main->group[0] != '\0'
                                  ? str_fmt("%s.%s", c->main->name, c->main->group)
                                  : str_dup(c->main->name);
        u.counts = span_eq_str(what, own);
        u.milli = u.counts ? 1000 : 0;
        return u;
    }
    if (c->main->group[0] == '\0' && strcmp(key, c->main->name) == 0) {
        u.counts = true;
        u.milli = 1000;
        return u;
    }
    if (c->main->group[0] == '\0' && strcmp(c->main->name, "services") == 0) {
        const char *type = json_str_or(json_at(obj, "spec", "type"), "");
        u.counts =
            (strcmp(key, "services.nodeports") == 0 && strcmp(type, "NodePort") == 0) ||
            (strcmp(key, "services.loadbalancers") == 0 && strcmp(type, "LoadBalancer") == 0);
        u.milli = u.counts ? 1000 : 0;
        return u;
    }
    if (!pod) {
        return u;
    }
    u.part = span_starts(s, "limits.") ? "limits" : "requests";
    u.name = strchr(key, '.') != NULL && (span_starts(s, "limits.") || span_starts(s, "requests."))
                 ? strchr(key, '.') + 1
                 : key;
    if (strcmp(u.name, "cpu") == 0 || strcmp(u.name, "memory") == 0 ||
        strcmp(u.name, "ephemeral-storage") == 0) {
        u.counts = true;
        u.milli = pod_sum(obj, u.part, u.name);
    }
    return u;
}

/* What the namespace uses now, counted from the objects themselves: right without a controller that recounts. */
static int64_t used_now(struct api_call *c, const char *key) {
    size_t from = 0;
    size_t to = 0;
    int64_t sum = 0;
    api_cache_span(c->res, c->t.ns, &from, &to);
    for (size_t i = from; i < to; i++) {
        AUTO(json_docp) struct json_doc *d = NULL;
        if (api_obj_parse(c->res->objs[i], &d) < 0) {
            continue;
        }
        const char *phase = json_str_at(json_root(d), "status", "phase");
        bool pod = strcmp(c->main->name, "pods") == 0;
        if (pod && (str_eq(phase, "Succeeded") || str_eq(phase, "Failed")) &&
            strncmp(key, "count/", 6) != 0) {
            continue;
        }
        sum += usage_of(c, json_root(d), key).milli;
    }
    return sum;
}

static void put_milli(struct buf *b, const struct usage *u, int64_t milli) {
    if (u->name != NULL && strcmp(u->name, "cpu") != 0 && milli % 1000 == 0) {
        kube_quantity_write_bytes(b, milli / 1000);
    } else {
        kube_quantity_write_milli(b, milli);
    }
}

struct quota {
    struct api_call *c;
    struct buf asked, used, limited;
};

/* One resource of one quota; false: answered. */
static bool quota_one(struct quota *q, const struct json *tree, const char *key,
                      const struct json *hard, const struct json *obj, struct json *new_used) {
    struct api_call *c = q->c;
    struct usage u = usage_of(c, obj, key);
    int64_t limit = 0;
    int64_t used = 0;
    if (!u.counts || kube_quantity_milli(json_span(hard), &limit) < 0) {
        return true;
    }
    if (u.part != NULL) {
        AUTO(buf) struct buf missing = BUF_INIT(8 << 10);
        if (!pod_names(obj, u.part, u.name, &missing)) {
            api_fail_forbidden(c, "failed quota: %s: must specify %s for: %s", kube_name(tree), key,
                               buf_cstr(&missing));
            return false;
        }
    }
    used = used_now(c, key);
    AUTO(buf) struct buf b = BUF_INIT(128);
    put_milli(&b, &u, used + u.milli);
    json_set_str(c->doc, new_used, key, buf_cstr(&b));
    if (used + u.milli <= limit || u.milli == 0) {
        return true;
    }
    const char *sep = q->asked.n > 0 ? "," : "";
    buf_reset(&b);
    put_milli(&b, &u, u.milli);
    buf_fmt(&q->asked, "%s%s=%s", sep, key, buf_cstr(&b));
    buf_reset(&b);
    put_milli(&b, &u, used);
    buf_fmt(&q->used, "%s%s=%s", sep, key, buf_cstr(&b));
    buf_fmt(&q->limited, "%s%s=%s", sep, key, json_str_or(hard, ""));
    return true;
}

/* The new usage is committed together with the object, so that two requests cannot spend the same rest. */
static bool quota_charge(struct api_call *c, struct api_res *res, const struct api_obj *o,
                         struct json *tree, const struct json *new_used) {
    AUTO(buf) struct buf b = BUF_INIT(LIM_KUBE_OBJECT);
    struct err e = ERR_INIT;
    struct json *used = json_need_obj(c->doc, json_need_obj(c->doc, tree, "status"), "used");
    if (json_len(new_used) == 0 || c->dry_run || c->n_ops >= ARRAY_LEN(c->ops)) {
        return true;
    }
    JSON_EACH_KV(it, k, v, new_used) {
        json_set(c->doc, used, k, json_copy(c->doc, v));
    }
    json_set(c->doc, json_get(tree, "status"), "hard",
             json_copy(c->doc, json_at(tree, "spec", "hard")));
    if (api_store_bytes(c->doc, res, res->kr, tree, &b, &e) < 0) {
        api_fail_err(c, &e);
        return false;
    }
    struct span key = span_str(api_fmt(c, "%s%.*s", res->prefix, SPAN_FMT(api_obj_key(o))));
    c->ops[c->n_ops++] = (struct api_extra_op){key, arena_copy(&c->mem, buf_view(&b)), o->rv};
    c->again_on_conflict = true;
    return true;
}

bool api_admit_quota(struct api_call *c, const struct json *obj, const struct json *old) {
    struct api_res *res = api_res_find(c->a, "", "resourcequotas");
    size_t from = 0;
    size_t to = 0;
    if (res == NULL || old != NULL || !c->main->namespaced || c->res == res) {
        return true;
    }
    api_cache_span(res, c->t.ns, &from, &to);
    for (size_t i = from; i < to; i++) {
        AUTO(json_docp) struct json_doc *d = NULL;
        if (api_obj_parse(res->objs[i], &d) < 0 ||
            json_at(json_root(d), "spec", "scopes") != NULL ||
            json_at(json_root(d), "spec", "scopeSelector") != NULL) {
            continue;
        }
        struct json *tree = json_copy(c->doc, json_root(d));
        struct json *new_used = json_new_obj(c->doc);
        struct quota q = {.c = c,
                          .asked = BUF_INIT(8 << 10),
                          .used = BUF_INIT(8 << 10),
                          .limited = BUF_INIT(8 << 10)};
        bool ok = true;
        JSON_EACH_KV(it, k, v, json_at(tree, "spec", "hard")) {
            ok = ok && quota_one(&q, tree, k, v, obj, new_used);
        }
        if (ok && q.asked.n > 0) {
            ok = false;
            api_fail_forbidden(c, "exceeded quota: %s, requested: %s, used: %s, limited: %s",
                               kube_name(tree), buf_cstr(&q.asked), buf_cstr(&q.used),
                               buf_cstr(&q.limited));
        }
        buf_fini(&q.asked);
        buf_fini(&q.used);
        buf_fini(&q.limited);
        if (!ok || !quota_charge(c, res, res->objs[i], tree, new_used)) {
            return false;
        }
    }
    return true;
}
