#include "internal/apiserver/api_int.h"

#include "internal/net/net.h"
#include "internal/sys/sys.h"
#include "internal/t/t.h"
#include "internal/t/t_store.h"

#include <stdlib.h>

/* ---- paths ---- */

static struct api_target route(struct arena *mem, const char *method, const char *path,
                               bool watch) {
    struct api_target t;
    ASSERT_EQ(0, api_route(span_str(method), span_str(path), watch, mem, &t));
    return t;
}

TEST(apiserver, routes_as_request_info_does) {
    struct arena mem = ARENA_INIT(1 << 20);
    static const struct {
        const char *method, *path;
        enum api_verb verb;
        const char *group, *version, *ns, *resource, *name, *sub, *rest;
    } cases[] = {
        {"GET", "/api/v1/pods", API_V_LIST, "", "v1", "", "pods", "", "", ""},
        {"GET", "/api/v1/namespaces/a/pods/b", API_V_GET, "", "v1", "a", "pods", "b", "", ""},
        {"DELETE", "/api/v1/namespaces/a/pods", API_V_DELETECOLLECTION, "", "v1", "a", "pods", "",
         "", ""},
        {"GET", "/api/v1/namespaces/a", API_V_GET, "", "v1", "a", "namespaces", "a", "", ""},
        {"PUT", "/api/v1/namespaces/a/finalize", API_V_UPDATE, "", "v1", "a", "namespaces", "a",
         "finalize", ""},
        {"GET", "/api/v1/namespaces/a/status", API_V_GET, "", "v1", "a", "namespaces", "a",
         "status", ""},
        {"GET", "/api/v1/namespaces", API_V_LIST, "", "v1", "", "namespaces", "", "", ""},
        {"POST", "/apis/apps/v1/namespaces/a/deployments", API_V_CREATE, "apps", "v1", "a",
         "deployments", "", "", ""},
        {"PATCH", "/apis/apps/v1/namespaces/a/deployments/d/scale", API_V_PATCH, "apps", "v1", "a",
         "deployments", "d", "scale", ""},
        {"GET", "/api/v1/watch/namespaces/a/pods", API_V_WATCH, "", "v1", "a", "pods", "", "", ""},
        {"GET", "/api/v1/watch/namespaces/a/pods/b", API_V_WATCH, "", "v1", "a", "pods", "b", "",
         ""},
        {"GET", "/api/v1/nodes/n/proxy/x/y", API_V_GET, "", "v1", "", "nodes", "n", "proxy", "x/y"},
        {"GET", "/api/v1/namespaces/a/pods/b%3Ac/log", API_V_GET, "", "v1", "a", "pods", "b:c",
         "log", ""},
        {"GET", "/api/v1/namespaces/a/pods/", API_V_LIST, "", "v1", "a", "pods", "", "", ""},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct api_target t = route(&mem, cases[i].method, cases[i].path, false);
        ASSERT(t.is_resource);
        ASSERT_EQ(cases[i].verb, t.verb);
        ASSERT_STREQ(cases[i].group, t.group);
        ASSERT_STREQ(cases[i].version, t.version);
        ASSERT_STREQ(cases[i].ns, t.ns);
        ASSERT_STREQ(cases[i].resource, t.resource);
        ASSERT_STREQ(cases[i].name, t.name);
        ASSERT_STREQ(cases[i].sub, t.sub);
        ASSERT_STREQ(cases[i].rest, t.rest);
    }
    ASSERT_EQ(API_V_WATCH, route(&mem, "GET", "/api/v1/pods", true).verb);
    ASSERT_EQ(API_V_GET, route(&mem, "GET", "/api/v1/namespaces/a/pods/b", true).verb);
    ASSERT(!route(&mem, "GET", "/api/v1", false).is_resource);
    ASSERT(!route(&mem, "GET", "/apis/apps", false).is_resource);
    ASSERT(!route(&mem, "GET", "/healthz", false).is_resource);
    struct api_target t;
    ASSERT_ERR(-ERR_INVALID, api_route(SPAN_LIT("GET"), SPAN_LIT("/api/%zz"), false, &mem, &t));
    arena_fini(&mem);
}

TEST(apiserver, negotiates_forms) {
    struct api_out o;
    bool disc = false;
    ASSERT(api_negotiate(SPAN_EMPTY, &o, &disc));
    ASSERT_EQ(API_JSON, o.media);
    ASSERT(api_negotiate(SPAN_LIT("application/json;as=Table;v=v1;g=meta.k8s.io,application/json"),
                         &o, &disc));
    ASSERT_EQ(API_AS_TABLE, o.as);
    ASSERT(api_negotiate(SPAN_LIT("application/vnd.kubernetes.protobuf, application/json"), &o,
                         &disc));
    ASSERT_EQ(API_PB, o.media);
    ASSERT(o.json_too);
    ASSERT(api_negotiate(
        SPAN_LIT("application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,"
                 "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"),
        &o, &disc));
    ASSERT_EQ(API_JSON, o.media);
    ASSERT_EQ(API_AS_META, o.as);
    ASSERT(api_negotiate(
        SPAN_LIT("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"), &o,
        &disc));
    ASSERT(disc);
    ASSERT(!api_negotiate(SPAN_LIT("text/html"), &o, &disc));
    ASSERT(!api_negotiate(SPAN_LIT("application/json;as=Nope;v=v1;g=meta.k8s.io"), &o, &disc));
}

/* ---- a whole server without connections ---- */

struct box {
    char dir[64];
    struct loop *l;
    struct apiserver *a;
    bool ready;
};

static void box_ready(void *ctx) {
    struct box *b = ctx;
    b->ready = true;
}

static void box_open(struct box *b) {
    struct err e = ERR_INIT;
    struct apiserver_opts o = {.service_cidr = "10.96.0.0/24",
                               .anonymous = true,
                               .advertise_address = "192.0.2.1",
                               .advertise_port = 6443};
    b->ready = false;
    ASSERT_OK(loop_new(&b->l, &e), &e);
    ASSERT_OK(t_store_open(b->l, b->dir, &o.own_store, &e), &e);
    ASSERT_OK(apiserver_new(b->l, &o, box_ready, b, &b->a, &e), &e);
    while (!b->ready) {
        ASSERT_OK(loop_step(b->l, NS_PER_S, &e), &e);
    }
}

static void box_close(struct box *b) {
    apiserver_free(b->a);
    loop_free(b->l);
}

static void box_make(struct box *b) {
    IGNORE_ERR(str_put(b->dir, sizeof b->dir, "/tmp/kf-api-test-XXXXXX"), "fits");
    ASSERT(mkdtemp(b->dir) != NULL);
    box_open(b);
}

static void box_remove(struct box *b) {
    struct err e = ERR_INIT;
    box_close(b);
    ASSERT_OK(sys_rmtree(AT_FDCWD, b->dir, &e), &e);
}

TEST(apiserver, first_start_writes_once) {
    struct box b;
    box_make(&b);
    int64_t rev = store_rev(b.a->store);
    ASSERT(api_cache_find(api_res_find(b.a, "", "namespaces"), "", "kube-system") != NULL);
    ASSERT(api_cache_find(api_res_find(b.a, "", "services"), "default", "kubernetes") != NULL);
    ASSERT(api_cache_find(api_res_find(b.a, "rbac.authorization.k8s.io", "clusterroles"), "",
                          "cluster-admin") != NULL);
    box_close(&b);
    box_open(&b);
    ASSERT_EQ(rev, store_rev(b.a->store));
    box_remove(&b);
}

TEST(apiserver, cached_bytes_carry_the_revision) {
    struct box b;
    box_make(&b);
    struct api_obj *o = api_cache_find(api_res_find(b.a, "", "namespaces"), "", "default");
    AUTO(json_docp) struct json_doc *d = NULL;
    ASSERT_EQ(0, api_obj_parse(o, &d));
    AUTO_FREE char *rv = str_fmt("%lld", (long long)o->rv);
    ASSERT_STREQ(rv, kube_rv(json_root(d)));
    struct api_obj *later = api_obj_at_rv(o, 123456);
    AUTO(json_docp) struct json_doc *d2 = NULL;
    ASSERT_EQ(0, api_obj_parse(later, &d2));
    ASSERT_STREQ("123456", kube_rv(json_root(d2)));
    ASSERT_STREQ(kube_uid(json_root(d)), kube_uid(json_root(d2)));
    api_obj_unref(later);
    box_remove(&b);
}

TEST(apiserver, splices_whatever_metadata_looks_like) {
    static const char *const stored[] = {
        "{\"kind\":\"A\",\"apiVersion\":\"v1\",\"metadata\":{}}",
        "{\"kind\":\"A\",\"apiVersion\":\"v1\",\"metadata\":{\"name\":\"x\"}}",
        "{\"kind\":\"A\",\"apiVersion\":\"v1\",\"metadata\":{\"name\":\"x\",\"uid\":\"u\"}}",
        ("{\"kind\":\"A\",\"apiVersion\":\"v1\",\"metadata\":{\"name\":\"x\",\"uid\":\"u\","
         "\"labels\":{\"a\":\"b\"}},\"spec\":{}}"),
    };
    for (size_t i = 0; i < ARRAY_LEN(stored); i++) {
        struct api_obj *o = api_obj_new(SPAN_LIT("x"), 0, span_str(stored[i]), 7, 7);
        AUTO(json_docp) struct json_doc *d = NULL;
        ASSERT_EQ(0, api_obj_parse(o, &d));
        ASSERT_STREQ("7", kube_rv(json_root(d)));
        api_obj_unref(o);
    }
}

static struct net_blob *frame(struct box *b, struct api_res *res, enum api_event_type type,
                              struct api_out out) {
    struct net_blob *f = NULL;
    struct api_event *ev = api_event_use(b->a, res, res->first);
    ASSERT_EQ(0, api_frame_event(res, ev, type, &out, res->kr, &f));
    return f;
}

TEST(apiserver, an_event_is_encoded_once_for_each_form) {
    static const struct api_out json = {.as_version = ""};
    static const struct api_out table = {.as = API_AS_TABLE, .as_version = "v1"};
    static const struct api_out rows = {.as = API_AS_TABLE, .as_version = "v1", .rows_only = true};
    struct box b;
    struct err e = ERR_INIT;
    box_make(&b);
    struct api_res *res = api_res_find(b.a, "", "namespaces");
    ASSERT(res->first < res->next);
    const struct net_blob *f = frame(&b, res, API_ADDED, json),
                          *t = frame(&b, res, API_ADDED, table);
    ASSERT(span_starts(span_of(f->p, f->n), "{\"type\":\"ADDED\",\"object\":{\"kind\":\"Name"));
    ASSERT(f->n > 0 && f->p[f->n - 1] == '\n');
    ASSERT(span_starts(span_of(t->p, t->n), "{\"type\":\"ADDED\",\"object\":{\"kind\":\"Table"));
    ASSERT(f == frame(&b, res, API_ADDED, json) && t == frame(&b, res, API_ADDED, table));
    ASSERT(f != frame(&b, res, API_MODIFIED, json) && t != frame(&b, res, API_ADDED, rows));
    /* A watch that waits for its peer keeps the bytes, the event does not. */
    struct net_blob *kept = net_blob_ref(frame(&b, res, API_ADDED, json));
    ASSERT_OK(loop_step(b.l, 0, &e), &e);
    ASSERT(api_ring_at(res, res->first)->frames == NULL);
    ASSERT(kept->refs == 1 && kept->n > 0);
    net_blob_unref(kept);
    frame(&b, res, API_ADDED, json);
    box_remove(&b);
}

static bool may(struct box *b, const char *user, const char *group, const char *verb,
                const char *apigroup, const char *resource, const char *sub, const char *ns,
                const char *name) {
    struct api_user u = {.name = user};
    api_user_group(&u, group);
    const struct api_attrs t = {.user = &u,
                                .verb = verb,
                                .group = apigroup,
                                .version = "v1",
                                .resource = resource,
                                .sub = sub,
                                .ns = ns,
                                .name = name,
                                .path = ""};
    return api_authorize(b->a, &t);
}

TEST(apiserver, rbac_defaults) {
    struct box b;
    box_make(&b);
    ASSERT(may(&b, "root", "system:masters", "delete", "", "nodes", "", "", "n"));
    ASSERT(!may(&b, "bob", "system:authenticated", "get", "", "pods", "", "default", "p"));
    ASSERT(may(&b, "system:kube-scheduler", "system:authenticated", "create", "", "pods", "binding",
               "default", "p"));
    ASSERT(!may(&b, "system:kube-scheduler", "system:authenticated", "create", "", "secrets", "",
                "default", ""));
    ASSERT(may(&b, "system:kube-controller-manager", "system:authenticated", "update", "apps",
               "deployments", "status", "default", "d"));
    ASSERT(may(&b, "system:bootstrap:abcdef", "system:bootstrappers", "create",
               "certificates.k8s.io", "certificatesigningrequests", "", "", ""));
    ASSERT(may(&b, "system:node:n", "system:nodes", "list", "discovery.k8s.io", "endpointslices",
               "", "", ""));
    struct api_user anon = {.name = "system:anonymous"};
    api_user_group(&anon, "system:unauthenticated");
    struct api_attrs path = {.user = &anon,
                             .verb = "get",
                             .group = "",
                             .version = "",
                             .sub = "",
                             .ns = "",
                             .name = "",
                             .path = "/healthz"};
    ASSERT(api_authorize(b.a, &path));
    path.path = "/api/v1";
    ASSERT(!api_authorize(b.a, &path));
    path.user =
        &(struct api_user){.name = "bob", .groups = {"system:authenticated"}, .n_groups = 1};
    ASSERT(api_authorize(b.a, &path));
    box_remove(&b);
}

TEST(apiserver, node_authorizer) {
    struct box b;
    box_make(&b);
    ASSERT(may(&b, "system:node:n1", "system:nodes", "patch", "", "nodes", "status", "", "n1"));
    ASSERT(!may(&b, "system:node:n1", "system:nodes", "patch", "", "nodes", "status", "", "n2"));
    ASSERT(!may(&b, "system:node:n1", "devs", "patch", "", "nodes", "status", "", "n1"));
    ASSERT(may(&b, "system:node:n1", "system:nodes", "update", "coordination.k8s.io", "leases", "",
               "kube-node-lease", "n1"));
    ASSERT(!may(&b, "system:node:n1", "system:nodes", "update", "coordination.k8s.io", "leases", "",
                "kube-node-lease", "n2"));
    ASSERT(!may(&b, "system:node:n1", "system:nodes", "get", "", "secrets", "", "default", "s"));
    ASSERT(!may(&b, "system:node:n1", "system:nodes", "list", "", "secrets", "", "default", ""));
    box_remove(&b);
}

TEST(apiserver, hands_out_no_more_than_is_held) {
    struct box b;
    box_make(&b);
    struct arena mem = ARENA_INIT(1 << 20);
    AUTO(json_docp) struct json_doc *d = NULL;
    struct err e = ERR_INIT;
    static const char rules[] = "[{\"apiGroups\":[\"*\"],\"resources\":[\"*\"],\"verbs\":[\"*\"]}]";
    ASSERT_OK(json_parse(span_str(rules), 0, &d, &e), &e);
    struct api_user bob = {.name = "bob"};
    const char *missing = NULL;
    api_user_group(&bob, "system:authenticated");
    ASSERT(!api_rbac_covers(b.a, &bob, "", json_root(d), &mem, &missing));
    ASSERT_STREQ("\n{APIGroups:[\"*\"], Resources:[\"*\"], Verbs:[\"*\"]}", missing);
    api_user_group(&bob, "system:masters");
    ASSERT(api_rbac_covers(b.a, &bob, "", json_root(d), &mem, &missing));
    arena_fini(&mem);
    box_remove(&b);
}

TEST(apiserver, first_service_address) {
    char ip[64];
    ASSERT_EQ(0, apiserver_service_ip("10.96.0.0/12", ip));
    ASSERT_STREQ("10.96.0.1", ip);
    ASSERT_ERR(-ERR_INVALID, apiserver_service_ip("10.96.0.0", ip));
    ASSERT_ERR(-ERR_INVALID, apiserver_service_ip("fd00::/108", ip));
}

/* ---- the API servers of one store ---- */

static void on_txn(void *ctx, struct store_txn *t, int rc, const struct err *e) {
    (void)t;
    (void)e;
    ASSERT_EQ(0, rc);
    *(bool *)ctx = true;
}

/* A server comes (with a value) or goes, as its own key would say. */
static void box_peer(struct box *b, const char *name, bool comes) {
    struct err e = ERR_INIT;
    bool done = false;
    AUTO_FREE char *key = str_fmt("/registry/masterleases/%s", name);
    struct store_txn *t = store_txn_new(0);
    if (comes) {
        store_txn_put(t, &t->body.then, span_str(key), SPAN_LIT("x"), 0);
    } else {
        store_txn_delete(t, &t->body.then, span_str(key), SPAN_EMPTY);
    }
    store_txn(b->a->store, t, on_txn, &done);
    while (!done) {
        ASSERT_OK(loop_step(b->l, NS_PER_S, &e), &e);
    }
    do { /* the endpoints are looked at before the loop sleeps */
        ASSERT_OK(loop_step(b->l, b->a->n_boot_pending > 0 ? NS_PER_S : 0, &e), &e);
    } while (b->a->n_boot_pending > 0);
}

static void assert_part(struct box *b, const char *group, const char *resource, const char *part,
                        const char *want) {
    AUTO(json_docp) struct json_doc *d = NULL;
    AUTO(buf) struct buf text = BUF_INIT(4096);
    struct api_obj *o =
        api_cache_find(api_res_find(b->a, group, resource), "default", "kubernetes");
    ASSERT(o != NULL);
    ASSERT_EQ(0, api_obj_parse(o, &d));
    json_write(json_get(json_root(d), part), 0, &text);
    ASSERT_STREQ(want, buf_cstr(&text));
}

TEST(apiserver, endpoints_name_the_servers_that_live) {
#define PORT(n) "\"ports\":[{\"name\":\"https\",\"port\":" #n ",\"protocol\":\"TCP\"}]}"
#define READY(ip) "{\"addresses\":[\"" ip "\"],\"conditions\":{\"ready\":true}}"
    struct box b;
    box_make(&b);
    box_peer(&b, "192.0.2.9:6443", true);
    box_peer(&b, "192.0.2.0:7000", true);
    box_peer(&b, "nobody", true);
    assert_part(
        &b, "", "endpoints", "subsets",
        "[{\"addresses\":[{\"ip\":\"192.0.2.0\"}]," PORT(
            7000) ","
                  "{\"addresses\":[{\"ip\":\"192.0.2.1\"},{\"ip\":\"192.0.2.9\"}]," PORT(6443) "]");
    box_peer(&b, "192.0.2.0:7000", false);
    assert_part(&b, "", "endpoints", "subsets",
                "[{\"addresses\":[{\"ip\":\"192.0.2.1\"},{\"ip\":\"192.0.2.9\"}]," PORT(6443) "]");
    assert_part(&b, "discovery.k8s.io", "endpointslices", "endpoints",
                "[" READY("192.0.2.1") "," READY("192.0.2.9") "]");
    /* What a server finds at its start counts as what it hears later. */
    box_close(&b);
    box_open(&b);
    assert_part(&b, "discovery.k8s.io", "endpointslices", "endpoints",
                "[" READY("192.0.2.1") "," READY("192.0.2.9") "]");
    box_peer(&b, "192.0.2.9:6443", false);
    assert_part(&b, "discovery.k8s.io", "endpointslices", "endpoints", "[" READY("192.0.2.1") "]");
    box_remove(&b);
#undef PORT
#undef READY
}
