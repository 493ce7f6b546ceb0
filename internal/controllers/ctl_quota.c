/* ResourceQuotas: what a namespace uses. The API server charges what is created; here the truth is counted when something
 * goes, when pods end, and when a quota is made or changed. */
#include "internal/controllers/ctl_int.h"

enum { SETTLE_MS = 200 }; /* many objects often go together */

struct quotactl {
    struct controllers *c;
    struct kevents *ev;
    struct kinformer *quotas;
    struct kqueue *q;
};

struct quotarun {
    struct quotactl *ctl;
    struct json *used;  /* name → quantity */
    const char **asked; /* keys whose lists are on their way, in the order of the answers' paths */
    size_t n_asked;
    bool is_incomplete;
};

static void fini(struct sync *s) {
    struct quotarun *r = s->data;
    free(r->asked);
}

static void set_amount(struct sync *s, const char *key, bool milli, int64_t v) {
    struct quotarun *r = s->data;
    AUTO(buf) struct buf b = BUF_INIT(64), canon = BUF_INIT(64);
    buf_fmt(&b, "%lld%s", (long long)v, milli ? "m" : "");
    if (kube_quantity_canon(buf_view(&b), &canon) == 0) {
        json_set_str(s->d, r->used, key, buf_cstr(&canon));
    }
}

/* ---- pods and services: from the caches ---- */

static int64_t limit_of(const struct json *pod, const char *name) {
    int64_t sum = 0;
    JSON_EACH(it, c, json_at(pod, "spec", "containers")) {
        struct pod_amounts a;
        pod_amounts_of(json_at(c, "resources", "limits"), &a);
        sum += pod_amount(&a, name);
    }
    return sum;
}

/* Amount of one pod under a key of the quota; -1: the key is not about pods. */
static int64_t pod_usage(const struct json *pod, const char *key) {
    struct pod_amounts a;
    struct span k = span_str(key);
    if (str_eq(key, "pods") || str_eq(key, "count/pods")) {
        return 1;
    }
    if (span_starts(k, "limits.")) {
        return limit_of(pod, key + strlen("limits."));
    }
    const char *name = span_starts(k, "requests.") ? key + strlen("requests.") : key;
    bool plain = str_eq(key, "cpu") || str_eq(key, "memory") || str_eq(key, "ephemeral-storage");
    if ((name == key && !plain) || str_eq(name, "storage")) {
        return -1;
    }
    pod_requests(pod, &a);
    return pod_amount(&a, name);
}

static bool count_pods(struct sync *s, const char *key) {
    struct quotarun *r = s->data;
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    int64_t sum = 0;
    struct map_iter it = {0};
    struct json *pod;
    if (pod_usage(json_new_obj(d), key) < 0) {
        return false;
    }
    while (kinformer_next(r->ctl->c->pods, &it, &pod)) {
        if (str_eq(kube_namespace(pod), s->ns) &&
            (!pod_is_terminal(pod) || str_eq(key, "count/pods"))) {
            sum += pod_usage(pod, key);
        }
    }
    bool cpu = span_ends(span_str(key), "cpu");
    set_amount(s, key, cpu, sum);
    return true;
}

/* ---- everything else: asked for ---- */

/* The kind behind a key: "secrets", "count/deployments.apps", "services.nodeports". */
static const struct ctl_kind *kind_of(struct sync *s, const char *key) {
    struct quotarun *r = s->data;
    struct span k = span_str(key), name, group = SPAN_EMPTY;
    bool counted = span_starts(k, "count/");
    if (counted) {
        k = span_of(k.p + 6, k.n - 6);
    } else if (str_eq(key, "requests.storage")) {
        k = SPAN_LIT("persistentvolumeclaims");
    }
    if (!span_next(&k, '.', &name)) {
        return NULL;
    }
    group = counted ? k : SPAN_EMPTY;
    return r->ctl->c->kinds ? r->ctl->c->kinds(r->ctl->c->kinds_ctx, group, name) : NULL;
}

static int64_t weight(const struct json *obj, const char *key) {
    const struct json *spec = json_get(obj, "spec");
    const char *type = json_str_or(json_get(spec, "type"), "");
    int64_t v = 0;
    if (str_eq(key, "services.loadbalancers")) {
        return str_eq(type, "LoadBalancer");
    }
    if (str_eq(key, "services.nodeports")) {
        bool none = json_get(spec, "allocateLoadBalancerNodePorts") &&
                    !json_bool(json_get(spec, "allocateLoadBalancerNodePorts"), true);
        bool has = str_eq(type, "NodePort") || (str_eq(type, "LoadBalancer") && !none);
        return has ? (int64_t)json_len(json_get(spec, "ports")) : 0;
    }
    if (str_eq(key, "requests.storage")) {
        IGNORE_ERR(
            kube_quantity_value(json_span(json_at(spec, "resources", "requests", "storage")), &v),
            "a claim without a size counts nothing");
        return v;
    }
    return 1;
}

/* Answers come in any order: the list's own kind tells which keys it is for. */
static void on_objects(struct sync *s, int rc, struct json *list, const struct err *e) {
    struct quotarun *r = s->data;
    (void)e;
    if (rc < 0) {
        r->is_incomplete = true;
        return;
    }
    const char *list_kind = json_str_or(json_get(list, "kind"), "");
    for (size_t i = 0; i < r->n_asked; i++) {
        const struct ctl_kind *k = kind_of(s, r->asked[i]);
        size_t n = k ? strlen(k->kind) : 0;
        if (!k || strncmp(list_kind, k->kind, n) != 0 || !str_eq(list_kind + n, "List")) {
            continue;
        }
        int64_t sum = json_i64_at(list, 0, "metadata", "remainingItemCount");
        JSON_EACH(it, obj, json_get(list, "items")) {
            sum += weight(obj, r->asked[i]);
        }
        set_amount(s, r->asked[i], false, sum);
    }
}

static void ask(struct sync *s, const char *key) {
    struct quotarun *r = s->data;
    const struct ctl_kind *k = kind_of(s, key);
    if (!k || !k->namespaced) {
        /* Not served, or not discovered yet: after a while the rest of the quota goes on without it. */
        r->is_incomplete |= kqueue_failures(r->ctl->q, s->key) < 6;
        return;
    }
    bool asked = false;
    for (size_t i = 0; i < r->n_asked; i++) {
        asked |= kind_of(s, r->asked[i]) == k;
    }
    r->asked = mem_array(r->asked, r->n_asked + 1, sizeof(*r->asked), 1024);
    CHECK(r->asked);
    r->asked[r->n_asked++] = json_str(json_new_str(s->d, key));
    if (!asked) {
        struct kref ref = {k->group, k->version, k->resource, s->ns, NULL, NULL};
        sync_get(s, &ref, "limit=5000", on_objects);
    }
}

/* ---- one quota ---- */

static void write_status(struct sync *s) {
    struct quotarun *r = s->data;
    const struct json *quota = kinformer_get(r->ctl->quotas, s->ns, s->name);
    s->failed |= r->is_incomplete;
    if (quota && !r->is_incomplete) {
        struct json *st = json_new_obj(s->d), *used = json_set_obj(s->d, st, "used");
        json_set(s->d, st, "hard", json_copy(s->d, json_at(quota, "spec", "hard")));
        JSON_EACH_KV(it, k, v, json_at(quota, "spec", "hard")) {
            (void)v;
            if (json_get(r->used, k)) {
                json_set(s->d, used, k, json_copy(s->d, json_get(r->used, k)));
            }
        }
        sync_status(s, r->ctl->quotas, "", "v1", "resourcequotas", quota, st);
    }
    sync_end(s);
}

static void handle(void *ctx, const char *key) {
    struct quotactl *ctl = ctx;
    struct sync *s = sync_begin(ctl->c, ctl->q, key);
    struct quotarun *r = s->data = new_zero(struct quotarun);
    const struct json *quota = kinformer_get(ctl->quotas, s->ns, s->name);
    s->fini = fini;
    r->ctl = ctl;
    r->used = json_new_obj(s->d);
    bool scoped = json_len(json_at(quota, "spec", "scopes")) ||
                  !json_is_null(json_at(quota, "spec", "scopeSelector"));
    if (quota && scoped) {
        kevent(ctl->ev, quota, "Warning", "Unsupported",
               "quotas with scopes are not supported, this one is not enforced");
    } else if (quota && !kube_is_deleting(quota)) {
        JSON_EACH_KV(it, k, v, json_at(quota, "spec", "hard")) {
            (void)v;
            if (!count_pods(s, k)) {
                ask(s, k);
            }
        }
        s->then = write_status;
    }
    sync_end(s);
}

static void recount(struct quotactl *ctl, const char *ns) {
    struct map_iter it = {0};
    struct json *quota;
    while (kinformer_next(ctl->quotas, &it, &quota)) {
        char key[LIM_KKEY];
        if (str_eq(kube_namespace(quota), ns)) {
            kkey_of(quota, key);
            kqueue_add_after(ctl->q, key, SETTLE_MS * NS_PER_MS);
        }
    }
}

static void on_gone(void *ctx, const char *ns) {
    recount(ctx, ns);
}

static void on_quota(void *ctx, struct json *old, struct json *cur) {
    struct quotactl *ctl = ctx;
    if (cur && !json_eq(json_get(old, "spec"), json_get(cur, "spec"))) {
        kqueue_add_obj(ctl->q, cur);
    }
}

static void on_pod(void *ctx, struct json *old, struct json *cur) {
    if (!cur || (old && pod_is_terminal(cur) && !pod_is_terminal(old))) {
        recount(ctx, kube_namespace(old));
    }
}

void ctl_start_quota(struct controllers *c) {
    struct quotactl *ctl = ctl_new(c, struct quotactl);
    ctl->c = c;
    ctl->ev = c->ev;
    ctl->quotas = kfactory_all(c->f, "", "v1", "resourcequotas");
    ctl->q = ctl_queue(c, "quota", 2, handle, ctl);
    c->on_gone = on_gone;
    c->on_gone_ctx = ctl;
    kinformer_listen(ctl->quotas, on_quota, ctl);
    kinformer_listen(c->pods, on_pod, ctl);
    kqueue_need(ctl->q, ctl->quotas);
    kqueue_need(ctl->q, c->pods);
}
