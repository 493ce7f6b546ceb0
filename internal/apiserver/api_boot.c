#include "internal/apiserver/api_int.h"

/* What a cluster has from its first moment: namespaces, RBAC defaults, priority classes, flow control, and the `kubernetes`
 * service. The first start writes all of it in a few transactions; later starts look only for what is missing, add rules
 * that upstream's reconciliation would add, and bring the addresses of the service up to date (api_peers.c). */

enum { BOOT_TXN_OPS = 100 };

struct boot {
    struct apiserver *a;
    struct store_txn *txn;
    store_txn_done *done;
    size_t n_ops;
    char now[TIME_STR];
};

static void on_boot_synced(void *ctx, int rc, const struct err *e) {
    struct apiserver *a = ctx;
    (void)e;
    if (rc >= 0 && !a->closing && !a->reloading) {
        api_boot_start(a);
    } else if (!a->closing) {
        api_cache_later(a, API_AGAIN_MS * NS_PER_MS);
    }
}

static void boot_done(struct apiserver *a) {
    if (!a->boot_failed && a->boot_lost && !a->closing) {
        store_sync(a->store, on_boot_synced, a);
        return;
    }
    if (a->boot_failed) {
        if (!a->closing) {
            api_cache_later(a, API_AGAIN_MS * NS_PER_MS);
        }
        return;
    }
    if (a->ready) {
        return;
    }
    a->ready = true;
    uint64_t ms = (clock_ns() - a->started_ns) / NS_PER_MS;
    LOG_INFO("apiserver", "ready", F_U64("ms", ms), F_I64("rev", store_rev(a->store)));
    api_peers_start(a);
    if (a->on_ready != NULL) {
        a->on_ready(a->ready_ctx);
    }
}

static void on_boot_txn(void *ctx, struct store_txn *t, int rc, const struct err *e) {
    struct apiserver *a = ctx;
    if (rc < 0) {
        LOG_ERROR("apiserver", "writing the first objects, trying again in a second", F_ERR(e));
        a->boot_failed = true;
    } else if (!t->body.succeeded && store_is_shared(a->store)) {
        a->boot_lost = true;
    } else if (!t->body.succeeded) {
        LOG_WARN("apiserver", "the first objects changed while they were written, continuing");
    }
    if (--a->n_boot_pending == 0) {
        boot_done(a);
    }
}

static void boot_flush(struct boot *b) {
    if (b->txn != NULL) {
        b->a->n_boot_pending++;
        store_txn(b->a->store, b->txn, b->done, b->a);
        b->txn = NULL;
        b->n_ops = 0;
    }
}

/* Queues a new object or a new state of `cur`. The tree is of the stored version and in d. */
static int boot_put(struct boot *b, struct api_res *res, struct json_doc *d, struct json *obj,
                    const struct api_obj *cur, const struct json *old, struct err *e) {
    bool flow = strcmp(res->kr->group, "flowcontrol.apiserver.k8s.io") == 0;
    const char *manager = flow ? "api-priority-and-fairness-config-producer-v1" : "kube-apiserver";
    const struct kube_apply_opts ao = {.manager = manager, .time = b->now};
    struct json *meta = json_need_obj(d, obj, "metadata");
    if (cur == NULL) {
        char uid[37];
        rand_uuid(uid);
        json_set_str(d, meta, "uid", uid);
        json_set_str(d, meta, "creationTimestamp", b->now);
        kube_default(d, obj, res->kr);
    }
    /* Fields that another component of upstream fills in are not ours. */
    struct json *said = json_copy(d, obj);
    if (json_get(said, "aggregationRule") != NULL) {
        json_del(said, "rules");
    }
    if (res == b->a->services) {
        json_del(json_get(said, "spec"), "clusterIPs");
        json_del(json_get(said, "spec"), "ipFamilies");
    }
    kube_managed_update(d, res->kr, old, said, &ao, false);
    const struct json *fields = json_at(said, "metadata", "managedFields");
    if (fields != NULL) {
        json_set(d, meta, "managedFields", json_copy(d, fields));
    }
    if (cur == NULL) {
        kube_prepare_create(d, obj, res->kr);
    }
    AUTO(buf) struct buf bytes = BUF_INIT(LIM_KUBE_OBJECT);
    int rc = api_store_bytes(d, res, res->kr, obj, &bytes, e);
    if (rc < 0) {
        return rc;
    }
    const char *ns = kube_namespace(obj);
    AUTO_FREE char *key =
        str_fmt("%s%s%s%s", res->prefix, ns, ns[0] != '\0' ? "/" : "", kube_name(obj));
    if (b->txn == NULL) {
        b->txn = store_txn_new(0);
    }
    store_txn_cmp(b->txn, &b->txn->body, STORE_T_MOD, STORE_EQUAL, span_str(key),
                  cur != NULL ? cur->rv : 0);
    store_txn_put(b->txn, &b->txn->body.then, span_str(key), buf_view(&bytes), 0);
    if (++b->n_ops >= BOOT_TXN_OPS) {
        boot_flush(b);
    }
    return 0;
}

static struct api_res *res_of_tree(const struct apiserver *a, const struct json *obj) {
    struct span group;
    struct span version;
    const char *av = json_str_or(json_get(obj, "apiVersion"), "");
    if (kube_gv_split(av, &group, &version) < 0) {
        return NULL;
    }
    AUTO_FREE char *g = str_dupn(group.p, group.n);
    AUTO_FREE char *v = str_dupn(version.p, version.n);
    const struct kube_resource *kr =
        kube_resource_by_kind(g, v, json_str_or(json_get(obj, "kind"), ""));
    return kr != NULL ? api_res_of(a, kr) : NULL;
}

/* Adds what the default has and the stored role or binding lacks; never takes anything away. */
static bool add_missing(struct json_doc *d, struct json *cur, const struct json *want,
                        const char *list) {
    bool changed = false;
    JSON_EACH(it, v, json_get(want, list)) {
        bool found = false;
        JSON_EACH(it2, have, json_get(cur, list)) {
            found = found || json_eq(have, v);
        }
        if (!found) {
            json_push(json_need_arr(d, cur, list), json_copy(d, v));
            changed = true;
        }
    }
    return changed;
}

static int reconcile(struct boot *b, struct api_res *res, const struct json *want,
                     const struct api_obj *o, struct err *e) {
    static const char auto_key[] = "rbac.authorization.kubernetes.io/autoupdate";
    AUTO(json_docp) struct json_doc *d = NULL;
    if (strcmp(res->kr->group, "rbac.authorization.k8s.io") != 0 || api_obj_parse(o, &d) < 0) {
        return 0;
    }
    struct json *cur = json_root(d);
    const char *mode = kube_annotation(cur, auto_key);
    if (mode == NULL || strcmp(mode, "true") != 0 || json_get(cur, "aggregationRule") != NULL) {
        return 0;
    }
    const struct json *old = json_copy(d, cur);
    bool rules = add_missing(d, cur, want, "rules");
    bool subjects = add_missing(d, cur, want, "subjects");
    return rules || subjects ? boot_put(b, res, d, cur, o, old, e) : 0;
}

static int boot_table(struct boot *b, struct err *e) {
    struct span all = span_str(api_bootstrap_json);
    struct span line;
    while (span_next(&all, '\n', &line)) {
        AUTO(json_docp) struct json_doc *d = NULL;
        if (line.n == 0) {
            continue;
        }
        int rc = json_parse(line, 0, &d, e);
        if (rc < 0) {
            return err_wrap(e, "built-in objects");
        }
        struct json *obj = json_root(d);
        struct api_res *res = res_of_tree(b->a, obj);
        if (res == NULL) {
            continue;
        }
        struct api_obj *o = api_cache_find(res, kube_namespace(obj), kube_name(obj));
        rc = o == NULL ? boot_put(b, res, d, obj, NULL, NULL, e) : reconcile(b, res, obj, o, e);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

/* ---- the kubernetes service ---- */

static void service_spec(struct apiserver *a, struct json_doc *d, struct json *o) {
    struct json *labels = json_set_obj(d, json_get(o, "metadata"), "labels");
    json_set_str(d, labels, "component", "apiserver");
    json_set_str(d, labels, "provider", "kubernetes");
    struct json *spec = json_set_obj(d, o, "spec");
    struct json *port = api_https_port(d, spec, 443);
    json_set_i64(d, port, "targetPort", a->advertise_port != 0 ? a->advertise_port : 6443);
    json_set_str(d, spec, "clusterIP", api_svc_first_ip(a));
    json_push_str(d, json_set_arr(d, spec, "clusterIPs"), api_svc_first_ip(a));
    json_set_str(d, spec, "type", "ClusterIP");
    json_set_str(d, spec, "sessionAffinity", "None");
    json_push_str(d, json_set_arr(d, spec, "ipFamilies"), "IPv4");
    json_set_str(d, spec, "ipFamilyPolicy", "SingleStack");
    json_set_str(d, spec, "internalTrafficPolicy", "Cluster");
}

typedef void fill_fn(struct apiserver *a, struct json_doc *d, struct json *o);

/* Writes the object when it is missing or one of `parts` differs. */
static int boot_kubernetes(struct boot *b, struct api_res *res, fill_fn *fill,
                           const char *const parts[2], struct err *e) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *want =
        kube_object_new(d, kube_api_version(res->kr), res->kr->kind, "default", "kubernetes");
    fill(b->a, d, want);
    struct api_obj *o = api_cache_find(res, "default", "kubernetes");
    if (o == NULL) {
        return boot_put(b, res, d, want, NULL, NULL, e);
    }
    AUTO(json_docp) struct json_doc *have = NULL;
    if (api_obj_parse(o, &have) < 0) {
        return 0;
    }
    struct json *obj = json_copy(d, json_root(have));
    const struct json *old = json_copy(d, obj);
    bool differs = false;
    for (size_t i = 0; i < 2 && parts[i] != NULL; i++) {
        differs = differs || !json_eq(json_get(obj, parts[i]), json_get(want, parts[i]));
        json_set(d, obj, parts[i], json_copy(d, json_get(want, parts[i])));
    }
    return differs ? boot_put(b, res, d, obj, o, old, e) : 0;
}

static int boot_service(struct boot *b, struct err *e) {
    static const char *const parts[2] = {NULL};
    return boot_kubernetes(b, b->a->services, service_spec, parts, e);
}

static int boot_endpoints(struct boot *b, struct err *e) {
    static const char *const of_endpoints[2] = {"subsets"};
    static const char *const of_slice[2] = {"endpoints", "ports"};
    struct apiserver *a = b->a;
    if (a->peers == NULL) {
        return 0;
    }
    int rc =
        boot_kubernetes(b, api_res_find(a, "", "endpoints"), api_peers_endpoints, of_endpoints, e);
    return rc < 0 ? rc
                  : boot_kubernetes(b, api_res_find(a, "discovery.k8s.io", "endpointslices"),
                                    api_peers_slice, of_slice, e);
}

static void on_endpoints_txn(void *ctx, struct store_txn *t, int rc, const struct err *e) {
    struct apiserver *a = ctx;
    a->n_boot_pending--;
    if (rc < 0) {
        LOG_WARN("apiserver", "endpoints of the API servers not written, trying again later",
                 F_ERR(e));
    } else if (t->body.succeeded) {
        api_boot_endpoints(a); /* somebody may have come or gone meanwhile */
    }
}

void api_boot_endpoints(struct apiserver *a) {
    struct boot b = {.a = a, .done = on_endpoints_txn};
    struct err e = ERR_INIT;
    if (a->n_boot_pending > 0 || a->closing) {
        return;
    }
    time_rfc3339(clock_wall_ns() / NS_PER_S, b.now);
    if (boot_endpoints(&b, &e) < 0) {
        LOG_ERROR("apiserver", "making the endpoints of the API servers", F_ERR(&e));
    }
    boot_flush(&b);
}

void api_boot_start(struct apiserver *a) {
    struct boot b = {.a = a, .done = on_boot_txn};
    struct err e = ERR_INIT;
    time_rfc3339(clock_wall_ns() / NS_PER_S, b.now);
    a->n_boot_pending = 1;
    a->boot_failed = a->boot_lost = false;
    int rc = boot_table(&b, &e);
    rc = rc < 0 ? rc : boot_service(&b, &e);
    rc = rc < 0 ? rc : boot_endpoints(&b, &e);
    boot_flush(&b);
    if (rc < 0) {
        LOG_ERROR("apiserver", "making the first objects", F_ERR(&e));
        a->boot_failed = true;
    }
    if (--a->n_boot_pending == 0) {
        boot_done(a);
    }
}
