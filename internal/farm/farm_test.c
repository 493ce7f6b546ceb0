#include "internal/farm/farm_int.h"
#include "internal/kube/kube.h"
#include "internal/t/t.h"

static struct json *doc(struct json_doc **d, const char *text) {
    struct err e = ERR_INIT;
    ASSERT_OK(json_parse(span_str(text), 0, d, &e), &e);
    return json_root(*d);
}

/* ---- tags ---- */

static const char tenant_text[] =
    "{\"metadata\":{\"name\":\"a\",\"namespace\":\"d\",\"uid\":\"u\"},\"spec\":{\"tags\":["
    "{\"name\":\"t1\",\"labels\":{\"x\":\"1\",\"y\":\"1\"},\"taints\":[{\"key\":\"k\",\"value\":"
    "\"v1\",\"effect\":\"NoSchedule\"}]},"
    "{\"name\":\"t2\",\"labels\":{\"x\":\"2\"},\"taints\":[{\"key\":\"k\",\"value\":\"v2\","
    "\"effect\":\"NoSchedule\"},"
    "{\"key\":\"k\",\"effect\":\"NoExecute\"}]},"
    "{\"name\":\"t3\",\"taints\":[{\"key\":\"k\",\"effect\":\"NoSchedule\"}]}]}}";
static const char node_text[] =
    "{\"metadata\":{\"name\":\"n\",\"resourceVersion\":\"1\",\"labels\":{\"own\":\"yes\"}},"
    "\"spec\":{\"taints\":[{\"key\":\"own\",\"value\":\"1\",\"effect\":\"NoSchedule\"}]}}";

/* Applies the patch for these tags; whether there was one. A second one must find nothing to do. */
static bool tag(struct json_doc *d, struct json **node, const char *pool_tags,
                const char *node_tags) {
    AUTO(json_docp) struct json_doc *td = NULL, *pd = NULL, *nd = NULL;
    const struct json *tenant = doc(&td, tenant_text), *pool = doc(&pd, pool_tags),
                      *decl = doc(&nd, node_tags);
    struct json *patch = farm_node_patch(d, tenant, pool, decl, *node), *out = NULL;
    struct kube_errs errs = KUBE_ERRS_INIT;
    if (!patch) {
        return false;
    }
    ASSERT_EQ(0, kube_patch_merge(d, *node, patch, &out, &errs));
    kube_errs_fini(&errs);
    *node = out;
    ASSERT_NULL(farm_node_patch(d, tenant, pool, decl, *node));
    return true;
}

static void expect(const struct json *node, const char *labels, const char *taints) {
    AUTO(buf) struct buf l = BUF_INIT(4096), t = BUF_INIT(4096);
    ASSERT_EQ(0, json_write(json_at(node, "metadata", "labels"), 0, &l));
    ASSERT_EQ(0, json_write(json_at(node, "spec", "taints"), 0, &t));
    ASSERT_STREQ(labels, buf_cstr(&l));
    ASSERT_STREQ(taints, buf_cstr(&t));
}

#define OWN "{\"key\":\"own\",\"value\":\"1\",\"effect\":\"NoSchedule\"}"

TEST(farm, tags_come_change_and_go_and_leave_the_rest) {
    AUTO(json_docp) struct json_doc *d = NULL;
    struct json *node = doc(&d, node_text);
    ASSERT(tag(d, &node, "{\"name\":\"p\",\"tags\":[\"t1\"]}", "{}"));
    expect(node, "{\"own\":\"yes\",\"x\":\"1\",\"y\":\"1\",\"kfarm.dev/pool\":\"p\"}",
           "[" OWN ",{\"key\":\"k\",\"value\":\"v1\",\"effect\":\"NoSchedule\"}]");
    /* Only the value of a taint is another. */
    ASSERT(tag(d, &node, "{\"name\":\"p\",\"tags\":[\"t3\"]}", "{}"));
    expect(node, "{\"own\":\"yes\",\"kfarm.dev/pool\":\"p\"}",
           "[" OWN ",{\"key\":\"k\",\"effect\":\"NoSchedule\"}]");
    ASSERT(tag(d, &node, "{\"name\":\"p\",\"tags\":[\"t1\"]}", "{}"));
    expect(node, "{\"own\":\"yes\",\"kfarm.dev/pool\":\"p\",\"x\":\"1\",\"y\":\"1\"}",
           "[" OWN ",{\"key\":\"k\",\"value\":\"v1\",\"effect\":\"NoSchedule\"}]");
    ASSERT(tag(d, &node, "{\"name\":\"q\"}", "{}"));
    expect(node, "{\"own\":\"yes\",\"kfarm.dev/pool\":\"q\"}", "[" OWN "]");
}

TEST(farm, later_tags_win_over_the_same_taint) {
    AUTO(json_docp) struct json_doc *d = NULL;
    struct json *node = doc(&d, node_text);
    ASSERT(tag(d, &node, "{\"name\":\"p\",\"tags\":[\"t1\"]}", "{\"tags\":[\"t2\",\"none\"]}"));
    expect(node, "{\"own\":\"yes\",\"x\":\"2\",\"y\":\"1\",\"kfarm.dev/pool\":\"p\"}",
           "[" OWN ",{\"key\":\"k\",\"value\":\"v2\",\"effect\":\"NoSchedule\"},{\"key\":\"k\","
           "\"effect\":\"NoExecute\"}]");
    ASSERT(tag(d, &node, "{\"name\":\"p\",\"tags\":[\"t2\",\"t3\"]}", "{}"));
    expect(node, "{\"own\":\"yes\",\"x\":\"2\",\"kfarm.dev/pool\":\"p\"}",
           "[" OWN
           ",{\"key\":\"k\",\"effect\":\"NoSchedule\"},{\"key\":\"k\",\"effect\":\"NoExecute\"}]");
}

TEST(farm, what_somebody_takes_away_comes_back) {
    AUTO(json_docp) struct json_doc *d = NULL;
    struct json *node = doc(&d, node_text);
    ASSERT(tag(d, &node, "{\"name\":\"p\",\"tags\":[\"t1\"]}", "{}"));
    json_del(json_at(node, "metadata", "labels"), "x");
    json_set_arr(d, json_get(node, "spec"), "taints");
    ASSERT(tag(d, &node, "{\"name\":\"p\",\"tags\":[\"t1\"]}", "{}"));
    expect(node, "{\"own\":\"yes\",\"y\":\"1\",\"kfarm.dev/pool\":\"p\",\"x\":\"1\"}",
           "[{\"key\":\"k\",\"value\":\"v1\",\"effect\":\"NoSchedule\"}]");
    json_set_str(d, json_at(node, "metadata", "annotations"), FARM_TAGS, "not JSON");
    ASSERT(tag(d, &node, "{\"name\":\"p\",\"tags\":[\"t1\"]}", "{}"));
}

/* ---- the control plane ---- */

static const struct farm host = {.o = {.node_name = "h", .host = "192.0.2.1"}};

static const char *why_not(const char *spec) {
    AUTO(json_docp) struct json_doc *d = NULL;
    AUTO(buf) struct buf b = BUF_INIT(4096);
    buf_fmt(&b, "{\"metadata\":{\"name\":\"a\",\"namespace\":\"d\",\"uid\":\"u\"},\"spec\":%s}",
            spec);
    return farm_unsupported(doc(&d, buf_cstr(&b)));
}

TEST(farm, what_cannot_be_run_is_named_by_its_field) {
    static const struct {
        const char *spec, *field;
    } rows[] = {
        {"{}", NULL},
        {"{\"runtime\":\"builtin\",\"replicas\":0}", NULL},
        {"{\"replicas\":1,\"addons\":[{\"name\":\"dns\",\"enabled\":false}]}", NULL},
        {"{\"runtime\":\"upstream\"}", "spec.runtime"},
        {"{\"replicas\":3}", "spec.replicas"},
        {"{\"backup\":{\"schedule\":\"@daily\"}}", "spec.backup"},
        {"{\"addons\":[{\"name\":\"dns\"}]}", "spec.addons"},
        {"{\"datastore\":{\"type\":\"etcd\",\"endpoints\":[\"http://127.0.0.1:2379\"]}}", NULL},
        {"{\"datastore\":{\"type\":\"etcd\",\"endpoints\":[\"https://10.0.0.1:2379\"]}}",
         "spec.datastore.secretName"},
        {"{\"datastore\":{\"type\":\"etcd\",\"endpoints\":[\"https://10.0.0.1:2379\"],"
         "\"secretName\":\"s\"}}",
         NULL},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const char *why = why_not(rows[i].spec);
        if (!rows[i].field != !why || (why && !strstr(why, rows[i].field))) {
            fail_msg("%s: %s", rows[i].spec, why ? why : "accepted");
        }
    }
}

static const char *hash_of(struct json_doc *d, const char *text) {
    AUTO(json_docp) struct json_doc *td = NULL;
    return json_str_at(farm_deployment(&host, doc(&td, text), d), "metadata", "annotations",
                       FARM_HASH);
}

TEST(farm, a_deployment_is_the_same_for_the_same_tenant_only) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    const char *a =
        hash_of(d, "{\"metadata\":{\"name\":\"a\",\"namespace\":\"d\",\"uid\":\"u\"},\"spec\":{}}");
    ASSERT_STREQ(
        a,
        hash_of(d,
                "{\"metadata\":{\"name\":\"a\",\"namespace\":\"d\",\"uid\":\"u\",\"generation\":7},"
                "\"spec\":{\"pools\":[{\"name\":\"p\"}]},\"status\":{\"port\":20000}}"));
    static const char *const others[] = {
        "{\"replicas\":0}", "{\"serverNames\":[\"x.example\"]}",
        "{\"network\":{\"podCIDR\":\"10.9.0.0/16\"}}", "{\"endpoint\":{\"host\":\"x.example\"}}",
        "{\"components\":{\"apiserver\":{\"extraArgs\":{\"v\":\"4\"}}}}"};
    for (size_t i = 0; i < ARRAY_LEN(others); i++) {
        AUTO(buf) struct buf b = BUF_INIT(1024);
        buf_fmt(&b, "{\"metadata\":{\"name\":\"a\",\"namespace\":\"d\",\"uid\":\"u\"},\"spec\":%s}",
                others[i]);
        ASSERT(!str_eq(a, hash_of(d, buf_cstr(&b))));
    }
}

TEST(farm, a_kubeconfig_that_names_another_server_or_is_no_certificate_is_not_good) {
    AUTO(json_docp) struct json_doc *d = json_doc_new(), *td = NULL;
    const struct json *t =
        doc(&td, "{\"metadata\":{\"name\":\"a\",\"namespace\":\"d\",\"uid\":\"u\"},"
                 "\"spec\":{\"endpoint\":{\"host\":\"fd00::1\"}},\"status\":{\"port\":20001}}");
    struct key_identity id;
    key_identity_init(&id);
    buf_str(&id.cert_pem, "no certificate");
    const struct json *s = farm_kubeconfig_secret(&host, t, &id, d);
    AUTO(buf) struct buf y = BUF_INIT(1 << 20);
    ASSERT_EQ(0, b64_decode(&y, json_span(json_at(s, "data", "value"))));
    ASSERT(strstr(buf_cstr(&y), "    server: https://[fd00::1]:20001\n"));
    ASSERT(strstr(buf_cstr(&y), "    tls-server-name: a.d.tenants.kfarm.internal\n"));
    ASSERT_STREQ("a-kubeconfig", json_str_at(s, "metadata", "name"));
    ASSERT(!farm_kubeconfig_good(s, "https://[fd00::1]:20001"));
    ASSERT(!farm_kubeconfig_good(s, "https://[fd00::1]:2000"));
    ASSERT(!farm_kubeconfig_good(json_root(td), "https://[fd00::1]:20001"));
    key_identity_fini(&id);
}
