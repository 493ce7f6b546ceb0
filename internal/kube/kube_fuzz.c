#include "internal/kube/kube.h"

#include "internal/t/t.h"

/* Bodies from outside: whatever they hold, they are refused or come out canonical, so that a second pass changes nothing. */
static int prop_decode(const uint8_t *p, size_t n) {
    static const char *const kinds[][2] = {{"v1", "Pod"},
                                           {"apps/v1", "Deployment"},
                                           {"v1", "Service"},
                                           {"kfarm.dev/v1alpha1", "Tenant"}};
    if (n < 2) {
        return 0;
    }
    const char *const *k = kinds[p[0] % ARRAY_LEN(kinds)];
    const struct kube_type *t = kube_type_of(k[0], k[1]);
    AUTO(json_docp) struct json_doc *d = NULL;
    AUTO(buf) struct buf one = BUF_INIT(8u << 20), two = BUF_INIT(8u << 20);
    struct kube_errs errs = KUBE_ERRS_INIT;
    if (json_parse(span_of(p + 1, n - 1), JSON_DUPS_OK, &d, NULL) < 0) {
        return 0;
    }
    /* twice: a quantity's first text may name its format another way than its second */
    if (kube_decode(d, json_root(d), t, KUBE_FV_IGNORE, &errs, NULL) == 0 &&
        kube_decode(d, json_root(d), t, KUBE_FV_IGNORE, &errs, NULL) == 0) {
        CHECK(json_write(json_root(d), 0, &one) == 0);
        CHECK(kube_decode(d, json_root(d), t, KUBE_FV_STRICT, &errs, NULL) == 0);
        CHECK(json_write(json_root(d), 0, &two) == 0);
        CHECK(span_eq(buf_view(&one), buf_view(&two)));
        const struct kube_resource *r =
            k[0][0] == 'v' ? kube_resource_by_kind("", "v1", k[1]) : NULL;
        if (r) {
            kube_default(d, json_root(d), r);
            IGNORE_ERR(kube_validate_create(json_root(d), r, &errs), "either answer is right");
        }
    }
    kube_errs_fini(&errs);
    return 0;
}

FUZZ(kube_decode)(const uint8_t *p, size_t n) {
    return prop_decode(p, n);
}

FUZZ(kube_pb)(const uint8_t *p, size_t n) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    AUTO(buf) struct buf b = BUF_INIT(32u << 20);
    struct json *v = NULL;
    if (kube_pb_decode(span_of(p, n), d, &v, NULL) == 0) {
        IGNORE_ERR(kube_pb_encode(v, &b, NULL), "a value may be too odd to be written again");
    }
    return 0;
}

FUZZ(kube_selector)(const uint8_t *p, size_t n) {
    AUTO(kube_selectorp) struct kube_selector *s = NULL;
    struct kube_fieldsel *f = NULL;
    struct kube_errs errs = KUBE_ERRS_INIT;
    if (kube_selector_parse(span_of(p, n), &s, &errs) == 0) {
        IGNORE_ERR(kube_selector_match(s, NULL), "only that it ends");
    }
    IGNORE_ERR(
        kube_fieldsel_parse(span_of(p, n), kube_resource_find("", "v1", "pods", NULL), &f, &errs),
        "either answer");
    kube_fieldsel_free(f);
    kube_errs_fini(&errs);
    return 0;
}

FUZZ(kube_quantity)(const uint8_t *p, size_t n) {
    AUTO(buf) struct buf a = BUF_INIT(256);
    int c = 1;
    if (kube_quantity_canon(span_of(p, n), &a) ==
        0) { /* the value stays; the text may lose its binary suffix */
        CHECK(kube_quantity_cmp(buf_view(&a), buf_view(&a), &c) == 0 && c == 0);
    }
    return 0;
}
