#include "internal/json/json.h"

#include "internal/t/t.h"

#include <stdlib.h>

static struct json_doc *parse(const char *s) {
    struct err e = ERR_INIT;
    struct json_doc *d = NULL;
    ASSERT_OK(json_parse(span_str(s), 0, &d, &e), &e);
    return d;
}

static void is(const char *want, const struct json *v) {
    AUTO(buf) struct buf b = BUF_INIT(1 << 16);
    ASSERT_EQ(0, json_write(v, 0, &b));
    ASSERT_STREQ(want, buf_cstr(&b));
}

TEST(json, keeps_64_bit_integers) {
    AUTO(json_docp)
    struct json_doc *d =
        parse("{\"a\":9223372036854775807,\"b\":-9223372036854775808,\"c\":18446744073709551615}");
    ASSERT(json_i64_at(json_root(d), 0, "a") == INT64_MAX);
    ASSERT(json_i64_at(json_root(d), 0, "b") == INT64_MIN);
    is("{\"a\":9223372036854775807,\"b\":-9223372036854775808,\"c\":18446744073709551615}",
       json_root(d));
}

TEST(json, refuses) {
    struct err e = ERR_INIT;
    struct json_doc *d = NULL;
    static const char *const bad[] = {"",    "{",          "{\"a\":1,\"a\":2}", "[1,]",
                                      "nul", "{\"a\":1}x", "\"\x01\"",          "[NaN]"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        err_reset(&e);
        ASSERT_ERR(-ERR_INVALID, json_parse(span_str(bad[i]), 0, &d, &e));
    }
    err_reset(&e);
    ASSERT_OK(json_parse(SPAN_LIT("{\"a\":1,\"a\":2}"), JSON_DUPS_OK, &d, &e), &e);
    json_doc_free(d);
    char deep[2 * LIM_JSON_DEPTH + 4] = {0};
    memset(deep, '[', LIM_JSON_DEPTH + 1);
    memset(deep + LIM_JSON_DEPTH + 1, ']', LIM_JSON_DEPTH + 1);
    ASSERT_ERR(-ERR_LIMIT, json_parse(span_str(deep), 0, &d, &e));
}

TEST(json, duplicate_among_many_keys) {
    AUTO(buf) struct buf b = BUF_INIT(1 << 16);
    struct err e = ERR_INIT;
    struct json_doc *d = NULL;
    buf_u8(&b, '{');
    for (int i = 0; i < 40; i++) {
        buf_fmt(&b, "\"k%d\":%d,", i, i);
    }
    buf_str(&b, "\"k7\":0}");
    ASSERT_ERR(-ERR_INVALID, json_parse(buf_view(&b), 0, &d, &e));
    ASSERT_STREQ("json: key \"k7\" occurs twice in one object", e.msg);
}

TEST(json, paths_and_iteration) {
    AUTO(json_docp)
    struct json_doc *d = parse("{\"m\":{\"n\":\"x\",\"l\":[1,2,3]},\"e\":{},\"z\":[]}");
    const struct json *r = json_root(d);
    ASSERT_STREQ("x", json_str_at(r, "m", "n"));
    ASSERT_NULL(json_at(r, "m", "n", "deeper"));
    ASSERT_NULL(json_at(NULL, "m"));
    int64_t sum = 0;
    JSON_EACH(it, v, json_at(r, "m", "l")) {
        sum += json_i64(v, 0);
    }
    ASSERT_EQ(6, sum);
    size_t n = 0;
    const char *keys[] = {"m", "e", "z"};
    JSON_EACH_KV(kv, k, v, r) {
        ASSERT_STREQ(keys[n++], k);
        ASSERT(v != NULL);
    }
    ASSERT_EQ(3, n);
    JSON_EACH(none, v, json_get(r, "e")) {
        fail_msg("empty object has members");
    }
}

TEST(json, changes_in_place) {
    AUTO(json_docp) struct json_doc *d = parse("{\"a\":1,\"b\":2,\"c\":3}");
    struct json *r = json_root(d);
    json_set_str(d, r, "b", "two");
    is("{\"a\":1,\"b\":\"two\",\"c\":3}", r);
    ASSERT(json_del(r, "a"));
    ASSERT(!json_del(r, "a"));
    json_push_str(d, json_need_arr(d, json_need_obj(d, r, "o"), "l"), "x");
    is("{\"b\":\"two\",\"c\":3,\"o\":{\"l\":[\"x\"]}}", r);
    struct json *l = json_at(r, "o", "l");
    json_insert(l, json_new_i64(d, -1), 0);
    json_replace_idx(l, 1, json_new_bool(d, true));
    json_push(l, json_copy(d, json_get(r, "o")));
    is("[-1,true,{\"l\":[-1,true]}]", l);
    json_remove_idx(l, 0);
    json_assign(d, l, json_get(r, "c"));
    is("{\"b\":\"two\",\"c\":3,\"o\":{\"l\":3}}", r);
    json_clear(r);
    is("{}", r);
}

TEST(json, equality) {
    AUTO(json_docp) struct json_doc *a = parse("{\"x\":[1,{\"y\":null}],\"z\":1.0}");
    AUTO(json_docp) struct json_doc *b = parse("{\"z\":1,\"x\":[1,{\"y\":null}]}");
    AUTO(json_docp) struct json_doc *c = parse("{\"z\":1,\"x\":[{\"y\":null},1]}");
    ASSERT(json_eq(json_root(a), json_root(b)));
    ASSERT(!json_eq(json_root(a), json_root(c)));
    ASSERT(!json_eq(json_root(a), NULL));
    ASSERT(json_eq(NULL, NULL));
}

TEST(json, string_literals) {
    AUTO(buf) struct buf b = BUF_INIT(100);
    ASSERT_EQ(0, json_write_str(&b, SPAN_LIT("a\"\\\n\x01z")));
    ASSERT_STREQ("\"a\\\"\\\\\\n\\u0001z\"", buf_cstr(&b));
}
