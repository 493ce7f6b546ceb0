#include "internal/yaml/yaml.h"

#include "internal/t/t.h"

#include <stdlib.h>

static void check_json(const char *yaml, const char *want) {
    struct err e = ERR_INIT;
    AUTO(json_docp) struct json_doc *d = NULL;
    ASSERT_OK(yaml_parse(span_str(yaml), &d, &e), &e);
    AUTO(buf) struct buf b = BUF_INIT(1 << 20);
    ASSERT_EQ(0, json_write(json_root(d), 0, &b));
    ASSERT_STREQ(want, buf_cstr(&b));
}

TEST(yaml, scalars) {
    check_json(
        "a: 1\nb: 'x'\nc: \"1\"\nd: true\ne: ~\nf:\ng: 0644\nh: 1.5\ni: 0x10\nj: off\n",
        "{\"a\":1,\"b\":\"x\",\"c\":\"1\",\"d\":true,\"e\":null,\"f\":null,\"g\":420,\"h\":1."
        "5,\"i\":16,\"j\":false}");
    check_json("a: 100m\nb: 2024-01-01\nc: -3\nd: 1e3\ne: 10.0.0.1\n",
               "{\"a\":\"100m\",\"b\":\"2024-01-01\",\"c\":-3,\"d\":1000.0,\"e\":\"10.0.0.1\"}");
    check_json("", "null");
    check_json("- a\n- [1, {b: c}]\n", "[\"a\",[1,{\"b\":\"c\"}]]");
    check_json("{\"k\": [true, null, \"s\"]}", "{\"k\":[true,null,\"s\"]}");
    check_json("a: |\n  x\n  y\nb: >-\n  p\n  q\n", "{\"a\":\"x\\ny\\n\",\"b\":\"p q\"}");
}

TEST(yaml, refused) {
    struct err e = ERR_INIT;
    struct json_doc *d = NULL;
    const char *bad[] = {"a: 1\na: 2\n", "a: &x 1\nb: *x\n", "a: 1\n---\nb: 2\n", "a: !foo 1\n",
                         "a: [1\n",      "<<: {a: 1}\n",     "[a]: 1\n",          "a: !!int x\n"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        err_reset(&e);
        ASSERT_ERR(-ERR_INVALID, yaml_parse(span_str(bad[i]), &d, &e));
    }
    AUTO(buf) struct buf deep = BUF_INIT(4096);
    for (int i = 0; i < LIM_JSON_DEPTH + 1; i++) {
        buf_u8(&deep, '[');
    }
    err_reset(&e);
    ASSERT_ERR(-ERR_LIMIT, yaml_parse(buf_view(&deep), &d, &e));
}

TEST(yaml, write) {
    struct err e = ERR_INIT;
    AUTO(json_docp) struct json_doc *d = NULL, *d2 = NULL;
    const char *text =
        "{\"a\":{\"b\":[1,\"x\",{\"c\":\"true\",\"d\":[]},[\"p\",[]]],\"e\":{}},"
        "\"s\":\"l1\\nl2\\n\",\"t\":\"a: b\",\"u\":\"\",\"v\":\"10.1.2.3\",\"w\":\"12\","
        "\"x\":\"y\",\"z\":\"l\\n\\n\",\"zz\":\" lead\\nx\",\"q\":[\"m\\nn\"]}";
    ASSERT_OK(json_parse(span_str(text), 0, &d, &e), &e);
    AUTO(buf) struct buf b = BUF_INIT(1 << 20);
    ASSERT_EQ(0, yaml_write(json_root(d), &b));
    ASSERT_STREQ("a:\n  b:\n  - 1\n  - x\n  - c: \"true\"\n    d: []\n  - - p\n    - []\n  e: {}\n"
                 "s: |\n  l1\n  l2\nt: \"a: b\"\nu: \"\"\nv: 10.1.2.3\nw: \"12\"\nx: \"y\"\n"
                 "z: |+\n  l\n\nzz: \" lead\\nx\"\nq:\n- |-\n  m\n  n\n",
                 buf_cstr(&b));
    ASSERT_OK(yaml_parse(buf_view(&b), &d2, &e), &e);
    ASSERT(json_eq(json_root(d), json_root(d2)));
}
