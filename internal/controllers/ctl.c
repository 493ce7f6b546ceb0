#include "internal/controllers/controllers.h"

#include "internal/controllers/ctl_int.h"

struct ctl_own {
    struct ctl_own *next;
    struct kqueue *q;
    struct ownindex *ix;
    struct kevents *ev;
    void *p;
};

static const struct {
    const char *name, *alias;
    void (*start)(struct controllers *c);
    const char *component; /* source of its events, where upstream's is not its name */
} table[] = {
    {"namespace-controller", "namespace", ctl_start_namespace, NULL},
    {"serviceaccount-controller", "serviceaccount", ctl_start_serviceaccount, NULL},
    {"root-ca-certificate-publisher-controller", "root-ca-cert-publisher", ctl_start_rootca, NULL},
    {"garbage-collector-controller", "garbagecollector", ctl_start_gc, NULL},
    {"replicaset-controller", "replicaset", ctl_start_replicaset, NULL},
    {"deployment-controller", "deployment", ctl_start_deployment, NULL},
    {"daemonset-controller", "daemonset", ctl_start_daemonset, NULL},
    {"statefulset-controller", "statefulset", ctl_start_statefulset, NULL},
    {"job-controller", "job", ctl_start_job, NULL},
    {"cronjob-controller", "cronjob", ctl_start_cronjob, NULL},
    {"endpoints-controller", "endpoint", ctl_start_endpoints, NULL},
    {"endpointslice-controller", "endpointslice", ctl_start_endpointslice, NULL},
    {"node-lifecycle-controller", "nodelifecycle", ctl_start_node, "node-controller"},
    {"taint-eviction-controller", "taint-eviction", ctl_start_eviction, NULL},
    {"node-ipam-controller", "nodeipam", ctl_start_ipam, "cidrAllocator"},
    {"pod-garbage-collector-controller", "podgc", ctl_start_podgc, NULL},
    {"certificatesigningrequest-approving-controller", "csrapproving", ctl_start_csr_approve, NULL},
    {"certificatesigningrequest-signing-controller", "csrsigning", ctl_start_csr_sign, NULL},
    {"certificatesigningrequest-cleaner-controller", "csrcleaner", ctl_start_csr_clean, NULL},
    {"token-cleaner-controller", "tokencleaner", ctl_start_tokens, NULL},
    {"bootstrap-signer-controller", "bootstrapsigner", ctl_start_bootstrap_signer, NULL},
    {"ttl-after-finished-controller", "ttl-after-finished", ctl_start_ttl, NULL},
    {"resourcequota-controller", "resourcequota", ctl_start_quota, NULL},
    {"disruption-controller", "disruption", ctl_start_disruption, "controllermanager"},
    {"clusterrole-aggregation-controller", "clusterrole-aggregation", ctl_start_aggregation, NULL},
};

static bool is_named(size_t i, const char *name) {
    return str_eq(table[i].name, name) || str_eq(table[i].alias, name);
}

bool controllers_known(const char *name) {
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        if (is_named(i, name)) {
            return true;
        }
    }
    return str_eq(name, "scheduler");
}

static bool same_controller(const char *a, const char *b) {
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        if (is_named(i, a) && is_named(i, b)) {
            return true;
        }
    }
    return str_eq(a, b);
}

bool controllers_is_enabled(const char *const *enabled, size_t n, const char *name) {
    bool star = false;
    for (size_t i = 0; i < n; i++) {
        star |= str_eq(enabled[i], "*");
        if (same_controller(enabled[i], name)) {
            return true;
        }
        if (enabled[i][0] == '-' && same_controller(enabled[i] + 1, name)) {
            return false;
        }
    }
    return star || !n;
}

/* ---- what lives as long as the controllers ---- */

static struct ctl_own *keep(struct controllers *c) {
    struct ctl_own *o = new_zero(struct ctl_own);
    o->next = c->owned;
    c->owned = o;
    return o;
}

struct kqueue *ctl_queue(struct controllers *c, const char *name, unsigned workers,
                         void (*handle)(void *ctx, const char *key), void *ctx) {
    struct kqueue *q = kqueue_new(c->l, name, workers, handle, ctx);
    keep(c)->q = q;
    return q;
}

void *ctl_alloc(struct controllers *c, size_t n) {
    return keep(c)->p = mem_zero_alloc(n);
}

/* ---- index by owner ---- */

void objvec_add(struct objvec *o, const struct json *obj) {
    if (o->n == o->cap) {
        o->cap = o->cap ? o->cap * 2 : 4;
        o->v = mem_array(o->v, o->cap, sizeof(*o->v), 1 << 24);
        CHECK(o->v);
    }
    o->v[o->n++] = obj;
}

void objvec_fini(struct objvec *o) {
    free(o->v);
    *o = (struct objvec){NULL, 0, 0};
}

static void owner_key(const struct json *obj, char dst[LIM_KKEY]) {
    const char *uid = json_str(json_get(kube_controller_of(obj), "uid"));
    if (uid) {
        IGNORE_ERR(str_put(dst, LIM_KKEY, "%s", uid), "uids are short");
    } else {
        IGNORE_ERR(str_put(dst, LIM_KKEY, "ns:%s", kube_namespace(obj)), "namespaces are short");
    }
}

static void index_remove(struct ownindex *ix, const struct json *obj) {
    char key[LIM_KKEY];
    owner_key(obj, key);
    struct objvec *o = map_get_str(&ix->by_owner, key);
    for (size_t i = 0; o && i < o->n; i++) {
        if (o->v[i] == obj) {
            o->v[i] = o->v[--o->n];
            break;
        }
    }
    if (o && !o->n) {
        map_del_str(&ix->by_owner, key);
        objvec_fini(o);
        free(o);
    }
}

static void on_indexed(void *ctx, struct json *old, struct json *cur) {
    struct ownindex *ix = ctx;
    if (old) {
        index_remove(ix, old);
    }
    if (cur) {
        char key[LIM_KKEY];
        owner_key(cur, key);
        struct objvec *o = map_get_str(&ix->by_owner, key);
        if (!o) {
            o = new_zero(struct objvec);
            map_put_str(&ix->by_owner, key, o);
        }
        objvec_add(o, cur);
    }
}

struct ownindex *ctl_index(struct controllers *c, struct kinformer *inf) {
    for (struct ctl_own *o = c->owned; o; o = o->next) {
        if (o->ix && o->ix->inf == inf) {
            return o->ix;
        }
    }
    struct ownindex *ix = new_zero(struct ownindex);
    ix->inf = inf;
    keep(c)->ix = ix;
    kinformer_listen(inf, on_indexed, ix);
    return ix;
}

static const struct objvec no_objects;

const struct objvec *ctl_owned(const struct ownindex *ix, const char *uid) {
    const struct objvec *o = map_get_str(&ix->by_owner, uid);
    return o ? o : &no_objects;
}

const struct objvec *ctl_orphans(const struct ownindex *ix, const char *ns) {
    char key[LIM_KKEY];
    IGNORE_ERR(str_put(key, sizeof(key), "ns:%s", ns), "namespaces are short");
    return ctl_owned(ix, key);
}

/* ---- small helpers ---- */

uint64_t ctl_now_s(void) {
    return clock_wall_ns() / NS_PER_S;
}

const char *ctl_now(char dst[TIME_STR]) {
    time_rfc3339(ctl_now_s(), dst);
    return dst;
}

struct kube_selector *ctl_selector(const struct json *label_selector) {
    struct kube_errs errs = KUBE_ERRS_INIT;
    struct kube_selector *sel = NULL;
    if (kube_selector_of(label_selector, &sel, &errs) < 0) {
        sel = NULL;
    }
    kube_errs_fini(&errs);
    return sel;
}

void ctl_enqueue_owner(struct kqueue *q, const struct json *obj, const char *kind) {
    const struct json *o = kube_controller_of(obj);
    if (o && str_eq(json_str(json_get(o, "kind")), kind)) {
        char key[LIM_KKEY];
        kkey_make(kube_namespace(obj), json_str_or(json_get(o, "name"), ""), key);
        kqueue_add(q, key);
    }
}

/* ---- life ---- */

static const char *dup_or_null(struct controllers *c, const char *s) {
    return s ? keep(c)->p = str_dup(s) : NULL;
}

static struct span dup_span(struct controllers *c, struct span s) {
    return s.n ? span_of(keep(c)->p = str_dupn(s.p, s.n), s.n) : SPAN_EMPTY;
}

int controllers_check(const struct controllers_opts *o, struct err *e) {
    for (size_t i = 0; i < o->n_enabled; i++) {
        const char *name = o->enabled[i] + (o->enabled[i][0] == '-');
        if (!str_eq(name, "*") && !controllers_known(name)) {
            return err_set(e, ERR_USAGE, "--controllers: there is no controller \"%s\"", name);
        }
    }
    if (o->allocate_node_cidrs && !o->cluster_cidr) {
        return err_set(e, ERR_USAGE, "--allocate-node-cidrs needs --cluster-cidr");
    }
    return 0;
}

int controllers_start(const struct controllers_opts *o, struct controllers **ret, struct err *e) {
    int rc = controllers_check(o, e);
    if (rc < 0) {
        return rc;
    }
    struct controllers *c = new_zero(struct controllers);
    c->o = *o;
    c->o.service_cluster_ip_range = dup_or_null(c, o->service_cluster_ip_range);
    c->o.cluster_cidr = dup_or_null(c, o->cluster_cidr);
    c->o.keyd_scope = dup_or_null(c, o->keyd_scope);
    c->o.server_url = dup_or_null(c, o->server_url);
    c->o.root_ca_pem = dup_span(c, o->root_ca_pem);
    c->o.ca_cert_pem = dup_span(c, o->ca_cert_pem);
    c->o.ca_key_pem = dup_span(c, o->ca_key_pem);
    c->f = o->f;
    c->c = kfactory_client(o->f);
    c->l = kclient_loop(c->c);
    c->namespaces = kfactory_all(c->f, "", "v1", "namespaces");
    c->nodes = kfactory_all(c->f, "", "v1", "nodes");
    c->pods = kfactory_all(c->f, "", "v1", "pods");
    c->pods_ix = ctl_index(c, c->pods);
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        if (controllers_is_enabled(o->enabled, o->n_enabled, table[i].name)) {
            c->ev = keep(c)->ev =
                kevents_new(c->c, table[i].component ? table[i].component : table[i].name, NULL);
            table[i].start(c);
        }
    }
    *ret = c;
    return 0;
}
