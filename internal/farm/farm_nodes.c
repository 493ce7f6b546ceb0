/* The nodes of a tenant: the client of its cluster, labels and taints of tags, and a Machine for every declared node. */
#include "internal/farm/farm_int.h"

#include <stdlib.h>

/* ---- the tenant's own cluster ---- */

static void version_known(void *ctx, int rc, struct json *obj, const struct err *e) {
    struct tenant *t = ctx;
    (void)e;
    t->asking_version = false;
    if (rc >= 0 && json_str_at(obj, "gitVersion")) {
        free(t->version);
        t->version = str_dup(json_str_at(obj, "gitVersion"));
        kqueue_add(t->f->queue, t->key);
    }
}

static bool node_ready(const struct json *node) {
    JSON_EACH(it, c, json_at(node, "status", "conditions")) {
        if (str_eq(json_str_at(c, "type"), "Ready")) {
            return str_eq(json_str_at(c, "status"), "True");
        }
    }
    return false;
}

static void node_changed(void *ctx, struct json *old, struct json *cur) {
    struct tenant *t = ctx;
    /* Heartbeats change the status all the time; only readiness, labels, taints and existence matter here. */
    if (old && cur && node_ready(old) == node_ready(cur) &&
        json_eq(json_at(old, "metadata", "labels"), json_at(cur, "metadata", "labels")) &&
        json_eq(json_at(old, "spec", "taints"), json_at(cur, "spec", "taints"))) {
        return;
    }
    kqueue_add(t->f->queue, t->key);
}

static void trim_node(struct json *node) {
    json_del(json_get(node, "status"), "images");
}

static void open_client(struct tenant *t, struct key_identity *id) {
    struct err e = ERR_INIT;
    const struct tls_client_opts to = {.ca_pem = buf_view(&id->ca_pem),
                                       .cert_pem = buf_view(&id->cert_pem),
                                       .key_pem = buf_view(&id->key_pem)};
    AUTO_FREE char *server = str_fmt("unix://%s/%s/api.sock", t->f->o.run_dir, t->uid);
    const struct kclient_opts ko = {
        .server = server, .sni = "kubernetes", .user_agent = "kfarm-farm"};
    struct kclient_opts k2 = ko;
    int rc = tls_client_config_new(&t->tls, &to, &e);
    k2.tls = t->tls;
    if (rc < 0 || (rc = kclient_new(t->f->l, &k2, &t->client, &e)) < 0) {
        LOG_ERROR("farm", "no client for a tenant", F_STR("tenant", t->key), F_ERR(&e));
        return;
    }
    const struct kinformer_opts o = {.ref = {.version = "v1", .resource = "nodes"},
                                     .on_change = node_changed,
                                     .trim = trim_node,
                                     .ctx = t};
    t->nodes = kinformer_start(t->client, &o);
    t->asking_version = true;
    kraw(t->client, "GET", "/version", NULL, SPAN_EMPTY, version_known, t);
}

/* The tenant may be gone when the answer comes: it is looked up again by its uid. */
struct asked {
    struct farm *f;
    char uid[64];
};

static void identity_issued(void *ctx, int rc, struct key_identity *id, const struct err *e) {
    struct asked *q = ctx;
    struct tenant *t = map_get_str(&q->f->by_uid, q->uid);
    free(q);
    if (!t) {
        return;
    }
    t->asking_identity = false;
    if (rc < 0) {
        LOG_WARN("farm", "no identity for a tenant's cluster, trying again",
                 F_STR("tenant", t->key), F_ERR(e));
        kqueue_add_after(t->f->queue, t->key, NS_PER_S);
    } else if (!t->client) {
        open_client(t, id);
    }
}

void farm_tenant_connect(struct tenant *t) {
    if (t->client || t->asking_identity) {
        return;
    }
    struct asked *q = new_zero(struct asked);
    q->f = t->f;
    (void)str_put(q->uid, sizeof(q->uid), "%s", t->uid);
    t->asking_identity = true;
    const struct key_req r = {.scope = t->uid,
                              .profile = KEY_COMPONENT,
                              .cn = "system:kfarm:farm",
                              .orgs = {"system:masters"},
                              .n_orgs = 1};
    keyclient_issue(t->f->o.keys, &r, identity_issued, q);
}

void farm_tenant_disconnect(struct tenant *t) {
    if (t->nodes) {
        kinformer_stop(t->nodes);
        t->nodes = NULL;
    }
    kclient_free(t->client);
    t->client = NULL;
    tls_config_unref(t->tls);
    t->tls = NULL;
}

size_t farm_nodes_declared(const struct json *tenant) {
    size_t n = 0;
    JSON_EACH(it, pool, json_at(tenant, "spec", "pools")) {
        n += json_len(json_get(pool, "nodes"));
    }
    return n;
}

size_t farm_nodes_ready(const struct tenant *t) {
    size_t n = 0;
    struct map_iter it = {0};
    for (struct json *o; t->nodes && kinformer_next(t->nodes, &it, &o);) {
        n += node_ready(o);
    }
    return n;
}

/* ---- tags ---- */

static const struct json *tag_named(const struct json *tenant, const char *name) {
    JSON_EACH(it, tag, json_at(tenant, "spec", "tags")) {
        if (str_eq(json_str_at(tag, "name"), name)) {
            return tag;
        }
    }
    return NULL;
}

static bool same_taint(const struct json *a, const struct json *b) {
    return str_eq(json_str_at(a, "key"), json_str_at(b, "key")) &&
           str_eq(json_str_at(a, "effect"), json_str_at(b, "effect"));
}

static struct json *find_taint(const struct json *list, const struct json *t) {
    JSON_EACH(it, x, list) {
        if (same_taint(x, t)) {
            return x;
        }
    }
    return NULL;
}

/* Later tags win, over a taint of the same key and effect too: a Node may not have both. */
static void take_tags(struct json_doc *d, const struct json *tenant, const struct json *names,
                      struct json *labels, struct json *taints) {
    JSON_EACH(it, n, names) {
        const struct json *tag = tag_named(tenant, json_str(n));
        JSON_EACH_KV(il, k, v, json_get(tag, "labels")) {
            json_set(d, labels, k, json_copy(d, v));
        }
        JSON_EACH(ix, taint, json_get(tag, "taints")) {
            struct json *earlier = find_taint(taints, taint);
            if (!earlier) {
                json_push(taints, json_copy(d, taint));
            } else if (json_str_at(taint, "value")) {
                json_set_str(d, earlier, "value", json_str_at(taint, "value"));
            } else {
                json_del(earlier, "value");
            }
        }
    }
}

static void tags_wrote(void *ctx, int rc, struct json *obj, const struct err *e) {
    (void)ctx;
    (void)obj;
    if (rc < 0 && rc != -ERR_CONFLICT && rc != -ERR_NOT_FOUND && rc != -ERR_CANCELLED) {
        LOG_WARN("farm", "labels of a node not updated", F_ERR(e));
    }
}

struct json *farm_node_patch(struct json_doc *d, const struct json *tenant, const struct json *pool,
                             const struct json *decl, const struct json *node) {
    AUTO(json_docp) struct json_doc *was = NULL;
    struct json *now = json_new_obj(d), *labels = json_set_obj(d, now, "labels"),
                *taints = json_set_arr(d, now, "taints");
    take_tags(d, tenant, json_get(pool, "tags"), labels, taints);
    take_tags(d, tenant, json_get(decl, "tags"), labels, taints);
    json_set_str(d, labels, "kfarm.dev/pool", json_str_at(pool, "name"));
    AUTO(buf) struct buf text = BUF_INIT(1u << 20);
    json_write(now, 0, &text);
    const char *old = json_str_at(node, "metadata", "annotations", FARM_TAGS);
    struct json *patch = json_new_obj(d), *meta = json_set_obj(d, patch, "metadata");
    struct json *pl = json_new_obj(d);
    bool changed = !str_eq(old, buf_cstr(&text));
    if (old && json_parse(span_str(old), 0, &was, NULL) == 0) {
        JSON_EACH_KV(it, k, v, json_at(json_root(was), "labels")) {
            (void)v;
            if (!json_get(labels, k) && json_at(node, "metadata", "labels", k)) {
                json_set(d, pl, k, json_new_null(d));
            }
        }
    }
    JSON_EACH_KV(it, k, v, labels) {
        if (!json_eq(v, json_at(node, "metadata", "labels", k))) {
            json_set(d, pl, k, json_copy(d, v));
        }
    }
    const struct json *present = json_at(node, "spec", "taints");
    struct json *all = json_new_arr(d);
    JSON_EACH(in, x, present) {
        if (!find_taint(json_at(json_root(was), "taints"), x) && !find_taint(taints, x)) {
            json_push(all, json_copy(d, x));
        }
    }
    JSON_EACH(iw, x, taints) {
        json_push(all, json_copy(d, x));
    }
    bool taints_differ = json_len(all) != json_len(present);
    JSON_EACH(ic, x, all) {
        const struct json *have = find_taint(present, x);
        taints_differ = taints_differ || !have ||
                        !str_eq(json_str_or(json_get(have, "value"), ""),
                                json_str_or(json_get(x, "value"), ""));
    }
    if (!changed && !json_len(pl) && !taints_differ) {
        return NULL;
    }
    json_set_str(d, meta, "resourceVersion", json_str_at(node, "metadata", "resourceVersion"));
    json_set(d, meta, "labels", pl);
    json_set(d, json_set_obj(d, meta, "annotations"), FARM_TAGS, json_new_span(d, buf_view(&text)));
    if (taints_differ) {
        json_set(d, json_set_obj(d, patch, "spec"), "taints", all);
    }
    return patch;
}

static void sync_node(struct tenant *t, const struct json *tenant, const struct json *pool,
                      const struct json *decl, const struct json *node) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    const struct json *patch = farm_node_patch(d, tenant, pool, decl, node);
    if (patch) {
        const struct kref r = {
            .version = "v1", .resource = "nodes", .name = json_str_at(node, "metadata", "name")};
        kpatch(t->client, &r, KPATCH_MERGE, patch, NULL, tags_wrote, NULL);
    }
}

void farm_sync_tags(struct tenant *t, const struct json *tenant) {
    if (!t->nodes || !kinformer_synced(t->nodes)) {
        return;
    }
    JSON_EACH(it, pool, json_at(tenant, "spec", "pools")) {
        JSON_EACH(in, decl, json_get(pool, "nodes")) {
            struct json *node = json_str_at(decl, "name")
                                    ? kinformer_get(t->nodes, NULL, json_str_at(decl, "name"))
                                    : NULL;
            if (node) {
                sync_node(t, tenant, pool, decl, node);
            }
        }
    }
}

/* ---- Machines ---- */

static const struct kref machines_ref = {
    .group = "cluster.x-k8s.io", .version = "v1beta1", .resource = "machines"};

static void machine_name(const struct pass *p, const char *node, char dst[LIM_KKEY]) {
    (void)str_put(dst, LIM_KKEY, "%s-%s", p->name, node);
}

static bool create_machine(struct pass *p, const struct json *pool, const char *node) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    char name[LIM_KKEY];
    machine_name(p, node, name);
    struct json *o = json_new_obj(d), *meta = json_set_obj(d, o, "metadata"), *labels, *spec, *own;
    json_set_str(d, o, "apiVersion", "cluster.x-k8s.io/v1beta1");
    json_set_str(d, o, "kind", "Machine");
    json_set_str(d, meta, "name", name);
    json_set_str(d, meta, "namespace", p->ns);
    labels = json_set_obj(d, meta, "labels");
    json_set_str(d, labels, FARM_TENANT_LABEL, p->name);
    json_set_str(d, labels, CAPI_CLUSTER_LABEL, p->name);
    json_set_str(d, labels, "kfarm.dev/pool", json_str_at(pool, "name"));
    json_set_str(d, labels, "kfarm.dev/node", node);
    own = json_new_obj(d);
    json_set_str(d, own, "apiVersion", "kfarm.dev/v1alpha1");
    json_set_str(d, own, "kind", "Tenant");
    json_set_str(d, own, "name", p->name);
    json_set_str(d, own, "uid", p->t->uid);
    json_set_bool(d, own, "controller", true);
    json_push(json_set_arr(d, meta, "ownerReferences"), own);
    spec = json_set_obj(d, o, "spec");
    json_set_str(d, spec, "clusterName", p->name);
    json_set_obj(d, spec, "bootstrap");
    struct kref r = machines_ref;
    r.ns = p->ns;
    kcreate(p->f->o.admin, &r, o, pass_wrote, pass_write(p, p->f->machines));
    return true;
}

static void machine_deleted(void *ctx, int rc, struct json *obj, const struct err *e) {
    (void)obj;
    struct pass *p = ctx;
    pass_end(p, rc == -ERR_NOT_FOUND ? 0 : rc, e);
}

/* status.phase, nodeRef and addresses from the Node; true when a write was started. */
static bool machine_status(struct pass *p, const struct json *m, const struct json *node) {
    const struct json *st = json_get(m, "status");
    const char *phase = !node ? "Pending" : node_ready(node) ? "Running" : "Provisioned";
    if (str_eq(json_str_at(st, "phase"), phase) &&
        str_eq(json_str_at(st, "nodeRef", "uid"), json_str_at(node, "metadata", "uid"))) {
        return false;
    }
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *patch = json_new_obj(d), *s = json_set_obj(d, patch, "status");
    char now[TIME_STR];
    time_rfc3339(clock_wall_ns() / NS_PER_S, now);
    json_set_str(d, s, "phase", phase);
    json_set_str(d, s, "lastUpdated", now);
    json_set_bool(d, s, "infrastructureReady", node != NULL);
    json_set_bool(d, s, "bootstrapReady", node != NULL);
    if (node) {
        struct json *ref = json_set_obj(d, s, "nodeRef");
        json_set_str(d, ref, "apiVersion", "v1");
        json_set_str(d, ref, "kind", "Node");
        json_set_str(d, ref, "name", json_str_at(node, "metadata", "name"));
        json_set_str(d, ref, "uid", json_str_at(node, "metadata", "uid"));
        if (json_at(node, "status", "addresses")) {
            json_set(d, s, "addresses", json_copy(d, json_at(node, "status", "addresses")));
        }
    } else {
        json_set(d, s, "nodeRef", json_new_null(d));
    }
    struct kref r = machines_ref;
    r.ns = p->ns;
    r.name = json_str_at(m, "metadata", "name");
    r.subresource = "status";
    kpatch(p->f->o.admin, &r, KPATCH_MERGE, patch, NULL, pass_wrote, pass_write(p, p->f->machines));
    return true;
}

static bool declared(const struct json *tenant, const char *node) {
    JSON_EACH(it, pool, json_at(tenant, "spec", "pools")) {
        JSON_EACH(in, decl, json_get(pool, "nodes")) {
            if (str_eq(json_str_at(decl, "name"), node)) {
                return true;
            }
        }
    }
    return false;
}

bool farm_sync_machine(struct pass *p) {
    char name[LIM_KKEY];
    JSON_EACH(it, pool, json_at(p->obj, "spec", "pools")) {
        JSON_EACH(in, decl, json_get(pool, "nodes")) {
            const char *node = json_str_or(json_get(decl, "name"), "");
            machine_name(p, node, name);
            struct json *m = kinformer_get(p->f->machines, p->ns, name);
            if (!m) {
                return create_machine(p, pool, node);
            }
            bool known = p->t->nodes && kinformer_synced(p->t->nodes);
            if (known && machine_status(p, m, kinformer_get(p->t->nodes, NULL, node))) {
                return true;
            }
        }
    }
    struct map_iter mi = {0};
    for (struct json *m; kinformer_next(p->f->machines, &mi, &m);) {
        const char *node = json_str_at(m, "metadata", "labels", "kfarm.dev/node");
        if (node && str_eq(json_str_at(m, "metadata", "namespace"), p->ns) &&
            str_eq(json_str_at(m, "spec", "clusterName"), p->name) && !declared(p->obj, node) &&
            !json_at(m, "metadata", "deletionTimestamp")) {
            struct kref r = machines_ref;
            r.ns = p->ns;
            r.name = json_str_at(m, "metadata", "name");
            kdelete(p->f->o.admin, &r, NULL, NULL, machine_deleted, p);
            return true;
        }
    }
    return false;
}
