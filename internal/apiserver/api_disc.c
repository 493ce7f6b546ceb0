#include "internal/apiserver/api_int.h"
#include "internal/base/version.h"
#include "internal/hash/hash.h"
#include "internal/pki/pki.h"

/* Everything that is not a resource: discovery, health, version, OpenAPI, OpenID, metrics. */

static unsigned sets_of(const struct apiserver *a) {
    return KUBE_SET_UPSTREAM | (a->farm ? KUBE_SET_FARM : 0u);
}

static bool group_served(const struct apiserver *a, const char *group, const char *version) {
    for (size_t i = 0; i < kube_n_resources(); i++) {
        const struct kube_resource *kr = kube_resource_at(i);
        if (strcmp(kr->group, group) == 0 &&
            (version == NULL || strcmp(kr->version, version) == 0) && api_serves(a, kr)) {
            return true;
        }
    }
    return false;
}

static void put_verbs(struct json_doc *d, struct json *o, unsigned verbs) {
    static const char *const names[] = {"create", "delete", "deletecollection", "get",
                                        "list",   "patch",  "update",           "watch"};
    struct json *arr = json_set_arr(d, o, "verbs");
    for (unsigned i = 0; i < ARRAY_LEN(names); i++) {
        if ((verbs & (1u << i)) != 0) {
            json_push_str(d, arr, names[i]);
        }
    }
}

static void put_words(struct json_doc *d, struct json *o, const char *key, const char *words) {
    struct span s = span_str(words);
    struct span one;
    if (s.n == 0) {
        return;
    }
    struct json *arr = json_set_arr(d, o, key);
    while (span_next(&s, ',', &one)) {
        json_push(arr, json_new_span(d, one));
    }
}

static bool other_body(const struct kube_resource *kr) {
    return kr->body_version != NULL && kr->body_version[0] != '\0' &&
           (strcmp(kr->body_group, kr->group) != 0 || strcmp(kr->body_version, kr->version) != 0);
}

/* Upstream's hash of the stored form: base64 of the first 8 bytes of SHA-256("group/version/Kind"). */
static void put_storage_hash(struct json_doc *d, struct json *o, const struct kube_resource *kr) {
    const struct kube_resource *s = kube_stored(kr);
    uint8_t sum[32];
    if (s == NULL || kr->sub[0] != '\0' || (kr->verbs & KUBE_V_LIST) == 0) {
        return;
    }
    AUTO(buf) struct buf text = BUF_INIT(1 << 10);
    AUTO(buf) struct buf b64 = BUF_INIT(64);
    buf_fmt(&text, "%s/%s/%s", s->group, s->version, s->kind);
    hash_sha256(buf_view(&text), sum);
    b64_encode(&b64, span_of(sum, 8));
    json_set_str(d, o, "storageVersionHash", buf_cstr(&b64));
}

/* ---- classic ---- */

static struct json *classic_resource(struct json_doc *d, const struct kube_resource *kr) {
    struct json *o = json_new_obj(d);
    json_set(d, o, "name",
             kr->sub[0] != '\0' ? json_new_fmt(d, "%s/%s", kr->name, kr->sub)
                                : json_new_str(d, kr->name));
    json_set_str(d, o, "singularName", kr->singular);
    json_set_bool(d, o, "namespaced", kr->namespaced);
    if (other_body(kr)) {
        json_set_str(d, o, "group", kr->body_group);
        json_set_str(d, o, "version", kr->body_version);
    }
    json_set_str(d, o, "kind", kr->kind);
    put_verbs(d, o, kr->verbs);
    put_words(d, o, "shortNames", kr->short_names);
    put_words(d, o, "categories", kr->categories);
    put_storage_hash(d, o, kr);
    return o;
}

static void classic_list(struct api_call *c, const char *group, const char *version) {
    struct json *l = json_new_obj(c->doc);
    json_set_str(c->doc, l, "kind", "APIResourceList");
    if (group[0] != '\0') {
        json_set_str(c->doc, l, "apiVersion", "v1");
        json_set(c->doc, l, "groupVersion", json_new_fmt(c->doc, "%s/%s", group, version));
    } else {
        json_set_str(c->doc, l, "groupVersion", version);
    }
    struct json *arr = json_set_arr(c->doc, l, "resources");
    for (size_t i = 0; i < kube_n_resources(); i++) {
        const struct kube_resource *kr = kube_resource_at(i);
        if (strcmp(kr->group, group) == 0 && strcmp(kr->version, version) == 0 &&
            api_serves(c->a, kr)) {
            json_push(arr, classic_resource(c->doc, kr));
        }
    }
    if (json_len(arr) == 0) {
        api_fail_unserved(c);
        return;
    }
    api_reply_json(c, 200, l);
}

static struct json *group_version(struct json_doc *d, const char *group, const char *version) {
    struct json *v = json_new_obj(d);
    json_set(d, v, "groupVersion", json_new_fmt(d, "%s/%s", group, version));
    json_set_str(d, v, "version", version);
    return v;
}

static void classic_group(struct api_call *c, const struct kube_group *g, struct json *o) {
    json_set_str(c->doc, o, "name", g->name);
    struct json *arr = json_set_arr(c->doc, o, "versions");
    const char *first = NULL;
    for (size_t i = 0; i < ARRAY_LEN(g->versions) && g->versions[i] != NULL; i++) {
        if (group_served(c->a, g->name, g->versions[i])) {
            first = first != NULL ? first : g->versions[i];
            json_push(arr, group_version(c->doc, g->name, g->versions[i]));
        }
    }
    if (first != NULL) {
        json_set(c->doc, o, "preferredVersion", group_version(c->doc, g->name, first));
    }
}

static const struct kube_group *group_find(const struct apiserver *a, const char *name) {
    for (size_t i = 0; i < kube_n_groups(); i++) {
        const struct kube_group *g = kube_group_at(i);
        if (strcmp(g->name, name) == 0 && (g->sets & sets_of(a)) != 0 &&
            group_served(a, name, NULL)) {
            return g;
        }
    }
    return NULL;
}

static void classic_groups(struct api_call *c) {
    struct json *l = json_new_obj(c->doc);
    json_set_str(c->doc, l, "kind", "APIGroupList");
    json_set_str(c->doc, l, "apiVersion", "v1");
    struct json *arr = json_set_arr(c->doc, l, "groups");
    for (size_t i = 0; i < kube_n_groups(); i++) {
        const struct kube_group *g = kube_group_at(i);
        if (g->name[0] != '\0' && group_find(c->a, g->name) != NULL) {
            struct json *o = json_new_obj(c->doc);
            classic_group(c, g, o);
            json_push(arr, o);
        }
    }
    api_reply_json(c, 200, l);
}

static void classic_one_group(struct api_call *c, const char *name) {
    const struct kube_group *g = group_find(c->a, name);
    if (g == NULL || name[0] == '\0') {
        api_text(c, 404, "404 page not found\n");
        return;
    }
    struct json *o = json_new_obj(c->doc);
    json_set_str(c->doc, o, "kind", "APIGroup");
    json_set_str(c->doc, o, "apiVersion", "v1");
    classic_group(c, g, o);
    api_reply_json(c, 200, o);
}

static void classic_api(struct api_call *c) {
    struct json *o = json_new_obj(c->doc);
    json_set_str(c->doc, o, "kind", "APIVersions");
    json_push_str(c->doc, json_set_arr(c->doc, o, "versions"), "v1");
    struct json *addr = json_new_obj(c->doc);
    json_set_str(c->doc, addr, "clientCIDR", "0.0.0.0/0");
    const char *ip = c->a->advertise_address != NULL ? c->a->advertise_address : "127.0.0.1";
    json_set(c->doc, addr, "serverAddress",
             json_new_fmt(c->doc, "%s:%u", ip, c->a->advertise_port));
    json_push(json_set_arr(c->doc, o, "serverAddressByClientCIDRs"), addr);
    api_reply_json(c, 200, o);
}

/* ---- aggregated (apidiscovery.k8s.io/v2) ---- */

static void put_response_kind(struct json_doc *d, struct json *o, const struct kube_resource *kr) {
    struct json *k = json_set_obj(d, o, "responseKind");
    bool other = other_body(kr);
    json_set_str(d, k, "group", other ? kr->body_group : "");
    json_set_str(d, k, "version", other ? kr->body_version : "");
    json_set_str(d, k, "kind", kr->kind);
}

static void agg_version(struct api_call *c, struct json *versions, const char *group,
                        const char *version) {
    struct json_doc *d = c->doc;
    struct json *v = json_new_obj(d);
    json_set_str(d, v, "version", version);
    struct json *resources = json_set_arr(d, v, "resources");
    struct json *last = NULL;
    const char *last_name = "";
    for (size_t i = 0; i < kube_n_resources(); i++) {
        const struct kube_resource *kr = kube_resource_at(i);
        if (strcmp(kr->group, group) != 0 || strcmp(kr->version, version) != 0 ||
            !api_serves(c->a, kr)) {
            continue;
        }
        if (kr->sub[0] == '\0') {
            last = json_new_obj(d);
            last_name = kr->name;
            json_set_str(d, last, "resource", kr->name);
            put_response_kind(d, last, kr);
            json_set_str(d, last, "scope", kr->namespaced ? "Namespaced" : "Cluster");
            json_set_str(d, last, "singularResource", kr->singular);
            put_verbs(d, last, kr->verbs);
            put_words(d, last, "shortNames", kr->short_names);
            put_words(d, last, "categories", kr->categories);
            json_push(resources, last);
        } else if (last != NULL && strcmp(last_name, kr->name) == 0) {
            struct json *s = json_new_obj(d);
            json_set_str(d, s, "subresource", kr->sub);
            put_response_kind(d, s, kr);
            put_verbs(d, s, kr->verbs);
            json_push(json_need_arr(d, last, "subresources"), s);
        }
    }
    json_set_str(d, v, "freshness", "Current");
    json_push(versions, v);
}

static void aggregated(struct api_call *c, bool core) {
    struct json_doc *d = c->doc;
    struct json *l = json_new_obj(d);
    json_set_str(d, l, "kind", "APIGroupDiscoveryList");
    json_set_str(d, l, "apiVersion", "apidiscovery.k8s.io/v2");
    json_set_obj(d, l, "metadata");
    struct json *items = json_set_arr(d, l, "items");
    for (size_t i = 0; i < kube_n_groups(); i++) {
        const struct kube_group *g = kube_group_at(i);
        if ((g->name[0] == '\0') != core || group_find(c->a, g->name) == NULL) {
            continue;
        }
        struct json *o = json_new_obj(d);
        struct json *meta = json_set_obj(d, o, "metadata");
        json_set_str(d, meta, "name", core ? NULL : g->name);
        struct json *versions = json_set_arr(d, o, "versions");
        for (size_t k = 0; k < ARRAY_LEN(g->versions) && g->versions[k] != NULL; k++) {
            if (group_served(c->a, g->name, g->versions[k])) {
                agg_version(c, versions, g->name, g->versions[k]);
            }
        }
        json_push(items, o);
    }
    AUTO(buf) struct buf b = BUF_INIT(16 << 20);
    IGNORE_ERR(json_write(l, 0, &b), "api_reply_take checks the buffer");
    api_reply_take(c, 200, "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
                   &b);
}

/* ---- health ---- */

struct check {
    const char *name;
    bool live, ready; /* part of livez, readyz */
};
static const struct check checks[] = {
    {"ping", true, true},
    {"log", true, true},
    {"etcd", true, true},
    {"informer-sync", false, true},
    {"poststarthook/start-system-namespaces-controller", true, true},
    {"poststarthook/rbac/bootstrap-roles", true, true},
    {"poststarthook/scheduling/bootstrap-system-priority-classes", true, true},
    {"poststarthook/bootstrap-controller", true, true},
    {"shutdown", false, true},
};

/* A store that cannot be reached is no reason to start this process again: livez does not mind. */
static bool check_ok(const struct apiserver *a, const char *name, bool ready) {
    if (strcmp(name, "shutdown") == 0) {
        return !a->stopping;
    }
    if (strcmp(name, "etcd") == 0) {
        struct store_stat st;
        store_stat(a->store, &st);
        return (st.alarms & STORE_ALARM_CORRUPT) == 0 && (!ready || st.trouble == NULL);
    }
    if (strcmp(name, "informer-sync") == 0) {
        return !a->reloading;
    }
    return span_starts(span_str(name), "poststarthook/") ? a->ready : true;
}

static bool excluded(struct api_call *c, const char *name) {
    struct span cursor = http_req_query(c->r);
    const char *key = NULL;
    const char *value = NULL;
    while (http_query_next(c->r, &cursor, &key, &value)) {
        if (strcmp(key, "exclude") == 0 && strcmp(value, name) == 0) {
            return true;
        }
    }
    return false;
}

static bool health(struct api_call *c) {
    struct span p = span_str(c->t.path);
    struct span which;
    struct span skipped;
    if (span_take(&p, 1, &skipped) < 0 || !span_next(&p, '/', &which)) {
        return false;
    }
    bool ready = span_eq_str(which, "readyz");
    if (!ready && !span_eq_str(which, "livez") && !span_eq_str(which, "healthz")) {
        return false;
    }
    AUTO(buf) struct buf b = BUF_INIT(64 << 10);
    bool all = true;
    for (size_t i = 0; i < ARRAY_LEN(checks); i++) {
        const struct check *k = &checks[i];
        if (!(ready ? k->ready : k->live)) {
            continue;
        }
        if (p.n > 0) {
            if (span_eq_str(p, k->name)) {
                bool ok = check_ok(c->a, k->name, ready);
                api_text(c, ok ? 200 : 500, ok ? "ok" : "internal server error: not ready\n");
                return true;
            }
            continue;
        }
        bool ok = excluded(c, k->name) || check_ok(c->a, k->name, ready);
        all = all && ok;
        buf_fmt(&b, ok ? "[+]%s ok\n" : "[-]%s failed: reason withheld\n", k->name);
    }
    if (p.n > 0) {
        return false;
    }
    buf_fmt(&b, "%.*s check %s\n", SPAN_FMT(which), all ? "passed" : "failed");
    bool verbose = api_query(c, "verbose") != NULL;
    api_text(c, all ? 200 : 500, all && !verbose ? "ok" : buf_cstr(&b));
    return true;
}

/* ---- the others ---- */

static void version(struct api_call *c) {
    struct json *o = json_new_obj(c->doc);
    json_set_str(c->doc, o, "major", "1");
    json_set_str(c->doc, o, "minor", "36");
    json_set_str(c->doc, o, "emulationMajor", "1");
    json_set_str(c->doc, o, "emulationMinor", "36");
    json_set_str(c->doc, o, "minCompatibilityMajor", "1");
    json_set_str(c->doc, o, "minCompatibilityMinor", "35");
    json_set_str(c->doc, o, "gitVersion", KF_KUBE_GIT_VERSION);
    json_set_str(c->doc, o, "gitCommit", "");
    json_set_str(c->doc, o, "gitTreeState", "clean");
    json_set_str(c->doc, o, "buildDate", "1970-01-01T00:00:00Z");
    json_set_str(c->doc, o, "goVersion", "");
    json_set_str(c->doc, o, "compiler", "cc");
    json_set_str(c->doc, o, "platform", "linux/" KF_ARCH);
    api_reply_json(c, 200, o);
}

static void root_paths(struct api_call *c) {
    static const char *const fixed[] = {"/healthz",    "/livez",          "/metrics", "/openapi/v2",
                                        "/openapi/v3", "/openid/v1/jwks", "/readyz",  "/version"};
    struct json_doc *d = c->doc;
    struct json *o = json_new_obj(d);
    struct json *arr = json_set_arr(d, o, "paths");
    json_push_str(d, arr, "/.well-known/openid-configuration");
    json_push_str(d, arr, "/api");
    json_push_str(d, arr, "/api/v1");
    json_push_str(d, arr, "/apis");
    for (size_t i = 0; i < kube_n_groups(); i++) {
        const struct kube_group *g = kube_group_at(i);
        if (g->name[0] == '\0' || group_find(c->a, g->name) == NULL) {
            continue;
        }
        json_push(arr, json_new_fmt(d, "/apis/%s", g->name));
        for (size_t k = 0; k < ARRAY_LEN(g->versions) && g->versions[k] != NULL; k++) {
            if (group_served(c->a, g->name, g->versions[k])) {
                json_push(arr, json_new_fmt(d, "/apis/%s/%s", g->name, g->versions[k]));
            }
        }
    }
    for (size_t i = 0; i < ARRAY_LEN(fixed); i++) {
        json_push_str(d, arr, fixed[i]);
    }
    api_reply_json(c, 200, o);
}

static void openapi_v2(struct api_call *c) {
    struct span accept = api_header(c, "accept");
    AUTO(buf) struct buf b = BUF_INIT(64 << 20);
    bool pb =
        memmem(accept.p != NULL ? accept.p : (const uint8_t *)"", accept.n, "protobuf", 8) != NULL;
    int rc = pb ? kube_openapi_v2_pb(sets_of(c->a), &b) : kube_openapi_v2(sets_of(c->a), &b);
    if (rc < 0) {
        api_fail(c, 500, "InternalError", "Internal error occurred: OpenAPI does not fit");
        return;
    }
    api_reply_take(
        c, 200,
        pb ? "application/com.github.proto-openapi.spec.v2.v1.0+protobuf" : "application/json", &b);
}

static void openapi_v3_index(struct api_call *c) {
    AUTO(buf) struct buf b = BUF_INIT(1 << 20);
    AUTO(json_docp) struct json_doc *all = NULL;
    struct err e = ERR_INIT;
    if (kube_openapi_v3_index(sets_of(c->a), &b) < 0 || json_parse(buf_view(&b), 0, &all, &e) < 0) {
        api_fail(c, 500, "InternalError", "Internal error occurred: OpenAPI does not fit");
        return;
    }
    struct json *o = json_new_obj(c->doc);
    struct json *paths = json_set_obj(c->doc, o, "paths");
    JSON_EACH_KV(it, k, v, json_get(json_root(all), "paths")) {
        struct span s = span_str(k);
        struct span head;
        struct span group;
        bool apis = span_next(&s, '/', &head) && span_eq_str(head, "apis");
        if (!apis || !span_next(&s, '/', &group) ||
            group_served(c->a, api_fmt(c, "%.*s", SPAN_FMT(group)), NULL)) {
            json_set(c->doc, paths, k, json_copy(c->doc, v));
        }
    }
    api_reply_json(c, 200, o);
}

static void openapi_v3(struct api_call *c, const char *path) {
    AUTO(buf) struct buf b = BUF_INIT(64 << 20);
    int rc = kube_openapi_v3(sets_of(c->a), path, &b);
    if (rc == -ERR_NOT_FOUND) {
        api_text(c, 404, "404 page not found\n");
    } else if (rc < 0) {
        api_fail(c, 500, "InternalError", "Internal error occurred: OpenAPI does not fit");
    } else {
        api_reply_take(c, 200, "application/json", &b);
    }
}

static void jwks(struct api_call *c) {
    AUTO(buf) struct buf b = BUF_INIT(64 << 10);
    struct err e = ERR_INIT;
    buf_str(&b, "{\"keys\":[");
    for (size_t i = 0; i < c->a->n_sa_pems; i++) {
        if (i > 0) {
            buf_u8(&b, ',');
        }
        if (pki_jwk(c->a->sa_pems[i], &b, &e) < 0) {
            api_fail_err(c, &e);
            return;
        }
    }
    buf_str(&b, "]}");
    api_reply_take(c, 200, "application/jwk-set+json", &b);
}

static void openid(struct api_call *c) {
    struct json *o = json_new_obj(c->doc);
    json_set_str(c->doc, o, "issuer", c->a->sa_issuer);
    json_set(c->doc, o, "jwks_uri", json_new_fmt(c->doc, "%s/openid/v1/jwks", c->a->sa_issuer));
    json_push_str(c->doc, json_set_arr(c->doc, o, "response_types_supported"), "id_token");
    json_push_str(c->doc, json_set_arr(c->doc, o, "subject_types_supported"), "public");
    json_push_str(c->doc, json_set_arr(c->doc, o, "id_token_signing_alg_values_supported"),
                  "ES256");
    api_reply_json(c, 200, o);
}

static void metrics(struct api_call *c) {
    struct apiserver *a = c->a;
    AUTO(buf) struct buf b = BUF_INIT(1 << 20);
    struct store_stat st;
    store_stat(a->store, &st);
#define METRIC(kind, name, v) \
    buf_fmt(&b, "# TYPE %s %s\n%s %llu\n", name, kind, name, (unsigned long long)(v))
    METRIC("counter", "kfarm_apiserver_requests_total", a->n_requests);
    METRIC("counter", "kfarm_apiserver_watch_events_total", a->n_watch_events);
    METRIC("gauge", "kfarm_apiserver_watches", a->n_watches);
    METRIC("gauge", "kfarm_apiserver_connections", http_server_conns(a->http));
    METRIC("gauge", "kfarm_store_revision", st.rev);
    METRIC("gauge", "kfarm_store_db_bytes", st.db_bytes);
    METRIC("counter", "kfarm_store_commits_total", st.n_commits);
    METRIC("counter", "kfarm_store_txns_total", st.n_txns);
    METRIC("counter", "kfarm_store_commit_seconds_total", st.commit_ns_total / NS_PER_S);
#undef METRIC
    buf_str(&b, "# TYPE apiserver_storage_objects gauge\n");
    for (size_t i = 0; i < a->n_res; i++) {
        const struct kube_resource *kr = a->res[i].kr;
        buf_fmt(&b, "apiserver_storage_objects{resource=\"%s%s%s\"} %zu\n", kr->name,
                kr->group[0] != '\0' ? "." : "", kr->group, a->res[i].n);
    }
    api_reply_take(c, 200, "text/plain; version=0.0.4; charset=utf-8", &b);
}

/* Paths under /api and /apis: lists of groups, versions and resources, or the right kind of 404. */
static void api_paths(struct api_call *c, struct span p) {
    struct span head;
    struct span group;
    struct span ver;
    span_next(&p, '/', &head);
    bool core = span_eq_str(head, "api");
    if (p.n == 0) {
        if (c->discovery_v2) {
            aggregated(c, core);
        } else if (core) {
            classic_api(c);
        } else {
            classic_groups(c);
        }
        return;
    }
    if (core) {
        span_next(&p, '/', &ver);
        if (!span_eq_str(ver, "v1")) {
            api_text(c, 404, "404 page not found\n");
        } else if (p.n > 0) {
            api_fail_unserved(c);
        } else {
            classic_list(c, "", "v1");
        }
        return;
    }
    span_next(&p, '/', &group);
    const char *g = api_fmt(c, "%.*s", SPAN_FMT(group));
    if (p.n == 0 || group_find(c->a, g) == NULL) {
        classic_one_group(c, p.n == 0 ? g : "");
        return;
    }
    span_next(&p, '/', &ver);
    if (p.n > 0) {
        api_fail_unserved(c);
    } else {
        classic_list(c, g, api_fmt(c, "%.*s", SPAN_FMT(ver)));
    }
}

void api_disc(struct api_call *c) {
    struct span m = http_req_method(c->r);
    struct span p = span_str(c->t.path);
    while (p.n > 1 && p.p[p.n - 1] == '/') {
        p.n--;
    }
    const char *path = api_fmt(c, "%.*s", SPAN_FMT(p));
    if (!span_eq_str(m, "GET") && !span_eq_str(m, "HEAD")) {
        if (c->t.is_resource) {
            api_paths(c, span_of(p.p + 1, p.n - 1));
        } else {
            api_fail_method(c);
        }
        return;
    }
    static const struct {
        const char *path;
        void (*run)(struct api_call *c);
    } table[] = {{"/", root_paths},           {"", root_paths},
                 {"/version", version},       {"/metrics", metrics},
                 {"/openapi/v2", openapi_v2}, {"/openapi/v3", openapi_v3_index},
                 {"/openid/v1/jwks", jwks},   {"/.well-known/openid-configuration", openid}};
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        if (strcmp(path, table[i].path) == 0) {
            table[i].run(c);
            return;
        }
    }
    if (span_starts(p, "/openapi/v3/")) {
        openapi_v3(c, path + strlen("/openapi/v3/"));
    } else if (span_starts(p, "/api/") || span_starts(p, "/apis/") || span_eq_str(p, "/api") ||
               span_eq_str(p, "/apis")) {
        api_paths(c, span_of(p.p + 1, p.n - 1));
    } else if (!health(c)) {
        api_text(c, 404, "404 page not found\n");
    }
}
