#include "internal/json/json.h"
#include "internal/kube/kube.h"

#include "internal/t/t.h"

#include <stdlib.h>

/* Every "$ref" below v must name a member of defs. */
static void check_refs(const struct json *v, const struct json *defs, const char *prefix) {
    const char *ref = json_is_obj(v) ? json_str_at(v, "$ref") : NULL;
    if (ref) {
        struct span name = span_str(ref);
        ASSERT(span_starts(name, prefix));
        ASSERT_EQ(0, span_skip(&name, strlen(prefix)));
        if (!json_getn(defs, name)) {
            fail_msg("%s does not resolve", ref);
        }
    }
    if (json_is_obj(v) || json_is_arr(v)) {
        JSON_EACH(it, x, v) {
            check_refs(x, defs, prefix);
        }
    }
}

TEST(kube, openapi_v2_is_whole) {
    struct err e = ERR_INIT;
    AUTO(buf) struct buf b = BUF_INIT(64u << 20);
    AUTO(json_docp) struct json_doc *d = NULL;
    ASSERT_EQ(0, kube_openapi_v2(KUBE_SET_UPSTREAM | KUBE_SET_FARM, &b));
    ASSERT_OK(json_parse(buf_view(&b), 0, &d, &e), &e);
    const struct json *defs = json_get(json_root(d), "definitions");
    check_refs(json_root(d), defs, "#/definitions/");
    const struct json *pod = json_get(defs, "io.k8s.api.core.v1.PodSpec");
    ASSERT_STREQ("name",
                 json_str_at(pod, "properties", "containers", "x-kubernetes-patch-merge-key"));
    ASSERT_STREQ("merge",
                 json_str_at(pod, "properties", "containers", "x-kubernetes-patch-strategy"));
    ASSERT(json_at(json_root(d), "paths", "/api/v1/namespaces/{namespace}/pods/{name}", "patch") !=
           NULL);
    ASSERT(json_at(json_root(d), "paths", "/apis/kfarm.dev/v1alpha1/namespaces/{namespace}/tenants",
                   "post") != NULL);
}

TEST(kube, openapi_v3_documents_of_the_index) {
    struct err e = ERR_INIT;
    AUTO(buf) struct buf b = BUF_INIT(64u << 20);
    AUTO(json_docp) struct json_doc *d = NULL;
    ASSERT_EQ(0, kube_openapi_v3_index(KUBE_SET_UPSTREAM | KUBE_SET_FARM, &b));
    ASSERT_OK(json_parse(buf_view(&b), 0, &d, &e), &e);
    ASSERT(json_len(json_get(json_root(d), "paths")) > 15);
    JSON_EACH_KV(it, path, v, json_get(json_root(d), "paths")) {
        AUTO(buf) struct buf doc = BUF_INIT(64u << 20);
        AUTO(json_docp) struct json_doc *one = NULL;
        (void)v;
        ASSERT_EQ(0, kube_openapi_v3(KUBE_SET_UPSTREAM | KUBE_SET_FARM, path, &doc));
        ASSERT_OK(json_parse(buf_view(&doc), 0, &one, &e), &e);
        check_refs(json_root(one), json_at(json_root(one), "components", "schemas"),
                   "#/components/schemas/");
    }
    ASSERT_ERR(-ERR_NOT_FOUND, kube_openapi_v3(KUBE_SET_UPSTREAM, "apis/nope/v1", &b));
}

TEST(kube, openapi_v2_protobuf_is_framed) {
    AUTO(buf) struct buf b = BUF_INIT(64u << 20);
    ASSERT_EQ(0, kube_openapi_v2_pb(KUBE_SET_UPSTREAM, &b));
    struct span s = buf_view(&b), v;
    unsigned seen = 0;
    while (s.n) { /* Document: every field is length-delimited */
        uint64_t tag, n;
        ASSERT_EQ(0, span_varint(&s, &tag));
        ASSERT_EQ(2, tag & 7);
        ASSERT_EQ(0, span_varint(&s, &n));
        ASSERT_EQ(0, span_take(&s, n, &v));
        seen |= 1u << (tag >> 3);
    }
    ASSERT_EQ(1u << 1 | 1u << 2 | 1u << 8 | 1u << 9, seen);
}
