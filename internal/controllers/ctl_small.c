/* Two small ones: finished Jobs that have had their time, and ClusterRoles made of others. */
#include "internal/controllers/ctl_int.h"

struct smallctl {
    struct controllers *c;
    struct kinformer *inf;
    struct kqueue *q;
};

static void on_object(void *ctx, struct json *old, struct json *cur) {
    struct smallctl *ctl = ctx;
    (void)old;
    if (cur) {
        kqueue_add_obj(ctl->q, cur);
    }
}

/* ---- ttlSecondsAfterFinished ---- */

/* Wall second at which the job finished; 0: it has not. */
static uint64_t finished_s(const struct json *job) {
    static const char *const types[] = {"Complete", "Failed"};
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        uint64_t ns;
        if (kube_condition_is(job, types[i], "True") &&
            time_parse(json_span(json_get(kube_condition(job, types[i]), "lastTransitionTime")),
                       &ns) == 0) {
            return ns / NS_PER_S;
        }
    }
    return 0;
}

static void handle_ttl(void *ctx, const char *key) {
    struct smallctl *ctl = ctx;
    struct sync *s = sync_begin(ctl->c, ctl->q, key);
    const struct json *job = kinformer_get(ctl->inf, s->ns, s->name);
    const struct json *ttl = json_at(job, "spec", "ttlSecondsAfterFinished");
    uint64_t end = finished_s(job), now = ctl_now_s();
    if (job && json_is_int(ttl) && end && !kube_is_deleting(job)) {
        uint64_t due = end + (uint64_t)json_i64(ttl, 0);
        if (due <= now) {
            struct kref r = ctl_ref("batch", "v1", "jobs", job, NULL);
            sync_delete(s, ctl->inf, &r, "Foreground", kube_uid(job), NULL);
        } else {
            kqueue_add_after(ctl->q, key, (due - now) * NS_PER_S);
        }
    }
    sync_end(s);
}

void ctl_start_ttl(struct controllers *c) {
    struct smallctl *ctl = ctl_new(c, struct smallctl);
    ctl->c = c;
    ctl->inf = kfactory_all(c->f, "batch", "v1", "jobs");
    ctl->q = ctl_queue(c, "ttl", 2, handle_ttl, ctl);
    kinformer_listen(ctl->inf, on_object, ctl);
    kqueue_need(ctl->q, ctl->inf);
}

/* ---- aggregated ClusterRoles ---- */

/* Rules are only looked at in roles that are made of others or may be part of one: those have labels. */
static void trim_role(struct json *role) {
    bool made = json_get(role, "aggregationRule") != NULL, part = false;
    JSON_EACH_KV(it, k, v, kube_labels(role)) {
        (void)v;
        part |= !str_eq(k, "kubernetes.io/bootstrapping");
    }
    json_del(json_get(role, "metadata"), "annotations");
    if (!made && !part) {
        json_del(role, "rules");
    }
}

static int by_name(const void *pa, const void *pb) {
    const struct json *const *a = pa, *const *b = pb;
    return span_cmp(span_str(kube_name(*a)), span_str(kube_name(*b)));
}

static bool is_part(const struct json *whole, const struct json *role) {
    bool yes = false;
    JSON_EACH(it, sel, json_at(whole, "aggregationRule", "clusterRoleSelectors")) {
        struct kube_selector *k = ctl_selector(sel);
        yes |= k && kube_selector_match(k, kube_labels(role));
        kube_selector_free(k);
    }
    return yes && !str_eq(kube_name(whole), kube_name(role));
}

static void handle_aggregation(void *ctx, const char *key) {
    struct smallctl *ctl = ctx;
    struct sync *s = sync_begin(ctl->c, ctl->q, key);
    const struct json *role = kinformer_get(ctl->inf, NULL, key);
    if (!role || !json_get(role, "aggregationRule") || kube_is_deleting(role)) {
        sync_end(s);
        return;
    }
    struct objvec parts = {NULL, 0, 0};
    struct map_iter it = {0};
    struct json *other;
    while (kinformer_next(ctl->inf, &it, &other)) {
        if (is_part(role, other)) {
            objvec_add(&parts, other);
        }
    }
    if (parts.n) {
        qsort(parts.v, parts.n, sizeof(struct json *), by_name);
    }
    struct json *rules = json_new_arr(s->d);
    for (size_t i = 0; i < parts.n; i++) {
        JSON_EACH(it2, rule, json_get(parts.v[i], "rules")) {
            bool there = false;
            JSON_EACH(it3, have, rules) {
                there |= json_eq(have, rule);
            }
            if (!there) {
                json_push(rules, json_copy(s->d, rule));
            }
        }
    }
    objvec_fini(&parts);
    const struct json *have = json_get(role, "rules");
    if (!json_eq(have, rules) && (json_len(have) || json_len(rules))) {
        struct json *patch = json_new_obj(s->d);
        json_set(s->d, patch, "rules", rules);
        struct kref r = ctl_ref("rbac.authorization.k8s.io", "v1", "clusterroles", role, NULL);
        sync_patch(s, ctl->inf, &r, KPATCH_MERGE, patch, NULL);
    }
    sync_end(s);
}

static void on_role(void *ctx, struct json *old, struct json *cur) {
    struct smallctl *ctl = ctx;
    if (cur && json_get(cur, "aggregationRule")) {
        kqueue_add_obj(ctl->q, cur);
    }
    struct map_iter it = {0};
    struct json *whole;
    while (kinformer_next(ctl->inf, &it, &whole)) {
        if (json_get(whole, "aggregationRule") &&
            ((old && is_part(whole, old)) || (cur && is_part(whole, cur)))) {
            kqueue_add_obj(ctl->q, whole);
        }
    }
}

void ctl_start_aggregation(struct controllers *c) {
    struct smallctl *ctl = ctl_new(c, struct smallctl);
    struct kinformer_opts o = {
        .ref = {.group = "rbac.authorization.k8s.io", .version = "v1", .resource = "clusterroles"},
        .trim = trim_role};
    ctl->c = c;
    ctl->inf = kfactory_get(c->f, &o);
    ctl->q = ctl_queue(c, "aggregation", 2, handle_aggregation, ctl);
    kinformer_listen(ctl->inf, on_role, ctl);
    kqueue_need(ctl->q, ctl->inf);
}
