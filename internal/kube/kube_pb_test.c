#include "internal/kube/kube.h"

#include "internal/base/rand.h"
#include "internal/t/t.h"

#include <stdio.h>
#include <stdlib.h>

static char *text(const struct json *v) {
    AUTO(buf) struct buf b = BUF_INIT(1u << 22);
    IGNORE_ERR(json_write(v, 0, &b), "a test prints what there is");
    return str_dup(buf_cstr(&b));
}

/* Zero values that protobuf always carries go the way a decoded body goes. */
static void settle(struct json_doc *d, struct json *v) {
    struct kube_errs errs = KUBE_ERRS_INIT;
    const struct kube_type *t =
        kube_type_of(json_str(json_get(v, "apiVersion")), json_str(json_get(v, "kind")));
    IGNORE_ERR(kube_decode(d, v, t, KUBE_FV_IGNORE, &errs, NULL), "compared below");
    kube_errs_fini(&errs);
    struct span g, ver;
    if (kube_gv_split(json_str_or(json_get(v, "apiVersion"), ""), &g, &ver) == 0) {
        AUTO_FREE char *group = str_dupn(g.p, g.n), *version = str_dupn(ver.p, ver.n);
        const struct kube_resource *r =
            kube_resource_by_kind(group, version, json_str_or(json_get(v, "kind"), ""));
        if (r) { /* claim templates have their kind from the defaults: protobuf carries none inside */
            kube_default(d, v, r);
        }
    }
}

/* 45 kinds, lists and errors as upstream wrote them, both ways: the tree of the bytes is the JSON, and the bytes of the
 * JSON are the bytes. */
TEST(kube, protobuf_as_recorded) {
    AUTO_FREE char *path = str_fmt("%s/kube/protobuf-samples.jsonl", t_testdata());
    AUTO(buf) struct buf b = BUF_INIT(4u << 20);
    bool verbose = getenv("KF_VERBOSE") != NULL;
    size_t n = 0, same_tree = 0, same_bytes = 0;
    ASSERT_EQ(0, t_read_file(path, &b));
    struct span s = buf_view(&b), line;
    while (s.n && span_line(&s, &line) == 0) {
        AUTO(json_docp) struct json_doc *row = NULL, *d = json_doc_new();
        AUTO(buf) struct buf bytes = BUF_INIT(4u << 20), again = BUF_INIT(4u << 20);
        struct json *got = NULL;
        struct err e = ERR_INIT;
        ASSERT_EQ(0, json_parse(line, 0, &row, NULL));
        const struct json *want = json_get(json_root(row), "json");
        ASSERT_EQ(0, b64_decode(&bytes, json_span(json_get(json_root(row), "protobuf_base64"))));
        if (!want || bytes.n < 4 || memcmp(bytes.p, "k8s", 4) != 0) {
            continue; /* the watch stream */
        }
        n++;
        ASSERT_OK(kube_pb_decode(buf_view(&bytes), d, &got, &e), &e);
        settle(d, got);
        struct json *w = json_copy(d, want);
        settle(d, w);
        AUTO_FREE char *gt = text(got), *wt = text(w);
        if (json_eq(got, w)) {
            same_tree++;
        } else if (verbose) {
            printf("tree\n  want %s\n  got  %s\n", wt, gt);
        }
        ASSERT_OK(kube_pb_encode(want, &again, &e), &e);
        if (again.n == bytes.n && memcmp(again.p, bytes.p, bytes.n) == 0) {
            same_bytes++;
        } else if (verbose) {
            AUTO(buf) struct buf h1 = BUF_INIT(8u << 20), h2 = BUF_INIT(8u << 20);
            hex_encode(&h1, buf_view(&bytes));
            hex_encode(&h2, buf_view(&again));
            printf("bytes %s\n  want %s\n  got  %s\n", json_str(json_get(want, "kind")),
                   buf_cstr(&h1), buf_cstr(&h2));
        }
    }
    if (verbose) {
        printf("protobuf: %zu samples, %zu trees and %zu byte strings equal\n", n, same_tree,
               same_bytes);
    } else {
        ASSERT(n >= 50);
        ASSERT_EQ((int)n, (int)same_tree);
        ASSERT_EQ((int)n, (int)same_bytes);
    }
}

TEST(kube, protobuf_refuses_damage) {
    static const char *const bad[] = {"", "6b387300", "6b38730008", "6b3873000affffffff0f",
                                      "00112233"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        AUTO(json_docp) struct json_doc *d = json_doc_new();
        AUTO(buf) struct buf b = BUF_INIT(64);
        struct json *v = NULL;
        ASSERT_EQ(0, hex_decode(&b, span_str(bad[i])));
        ASSERT(kube_pb_decode(buf_view(&b), d, &v, NULL) < 0);
    }
}
