#include "internal/kube/kube.h"

#include "internal/t/t.h"

TEST(kube, quantities_have_one_text) {
    static const char *const t[][2] = {
        {"1", "1"},
        {"1000m", "1"},
        {"1500m", "1500m"},
        {"0.5", "500m"},
        {"1024Mi", "1Gi"},
        {"1.5Gi", "1536Mi"},
        {"1023", "1023"},
        {"512Ki", "512Ki"},
        {"1000000", "1M"},
        {"128974848", "128974848"},
        {"1e3", "1e3"},
        {"100e-3", "100e-3"},
        {"0.1Ki", "102400m"},
        {"-1500m", "-1500m"},
        {"+5", "5"},
        {"0", "0"},
        {"0.0000000001", "1n"},
        {"123Mi", "123Mi"},
        {"9E", "9E"},
        {"00.10", "100m"},
    };
    static const char *const bad[] = {"", "abc", "1.2.3", "1 ", "m", "1kk", "1e", "--1", "0x10"};
    for (size_t i = 0; i < ARRAY_LEN(t); i++) {
        AUTO(buf) struct buf b = BUF_INIT(128);
        ASSERT_EQ(0, kube_quantity_canon(span_str(t[i][0]), &b));
        ASSERT_STREQ(t[i][1], buf_cstr(&b));
    }
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        AUTO(buf) struct buf b = BUF_INIT(128);
        ASSERT_EQ(-ERR_INVALID, kube_quantity_canon(span_str(bad[i]), &b));
    }
    int64_t v;
    int c;
    ASSERT_EQ(0, kube_quantity_milli(SPAN_LIT("0.0001"), &v));
    ASSERT_EQ(1, (int)v);
    ASSERT_EQ(0, kube_quantity_value(SPAN_LIT("1Gi"), &v));
    ASSERT_EQ(1 << 30, (int)v);
    ASSERT_EQ(0, kube_quantity_cmp(SPAN_LIT("1Gi"), SPAN_LIT("1.1G"), &c));
    ASSERT_EQ(-1, c);
}

TEST(kube, selectors_as_upstream_words_them) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *l = json_new_obj(d);
    json_set_str(d, l, "app", "web");
    json_set_str(d, l, "tier", "2");
    static const struct {
        const char *text;
        bool match;
    } t[] = {{"", true},
             {"app=web", true},
             {"app==web,tier", true},
             {"app!=web", false},
             {"!nope", true},
             {"app in (a, web)", true},
             {"app notin (web)", false},
             {"tier>1", true},
             {"tier<1", false},
             {"nope notin (x)", true}};
    for (size_t i = 0; i < ARRAY_LEN(t); i++) {
        AUTO(kube_selectorp) struct kube_selector *s = NULL;
        struct kube_errs errs = KUBE_ERRS_INIT;
        ASSERT_EQ(0, kube_selector_parse(span_str(t[i].text), &s, &errs));
        ASSERT_EQ(t[i].match, kube_selector_match(s, l));
        kube_errs_fini(&errs);
    }
    struct kube_errs errs = KUBE_ERRS_INIT;
    struct kube_selector *s = NULL;
    struct kube_fieldsel *f = NULL;
    ASSERT_EQ(-ERR_INVALID, kube_selector_parse(SPAN_LIT("a b"), &s, &errs));
    ASSERT_STREQ("unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt",
                 errs.text);
    ASSERT_EQ(-ERR_INVALID,
              kube_fieldsel_parse(SPAN_LIT("spec.nope=x"),
                                  kube_resource_find("", "v1", "pods", NULL), &f, &errs));
    ASSERT_STREQ("field label not supported: spec.nope", errs.text);
    kube_errs_fini(&errs);
}
