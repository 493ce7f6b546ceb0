#include "internal/pb/pb.h"
#include "internal/t/t.h"

#include <stdlib.h>

static const char config[] =
    "{\"metadata\":{\"name\":\"a\",\"attempt\":3},\"image\":{\"image\":\"x\"},\"command\":[\"sh\","
    "\"\"],"
    "\"envs\":[{\"key\":\"K\",\"value\":\"V\"}],\"labels\":{\"l\":\"1\"},\"tty\":true,"
    "\"linux\":{\"resources\":{\"cpu_shares\":2,\"memory_limit_in_bytes\":-1},"
    "\"security_context\":{\"run_as_user\":{\"value\":7},\"supplemental_groups\":[1,300]}}}";

TEST(pb, round_trip) {
    AUTO(json_docp) struct json_doc *d = NULL;
    AUTO(buf) struct buf b = BUF_INIT(1 << 16);
    struct err e = ERR_INIT;
    struct json *back;
    ASSERT_OK(json_parse(span_str(config), 0, &d, &e), &e);
    ASSERT_EQ(0, pb_encode(pb_cri, "ContainerConfig", json_root(d), &b));
    ASSERT_EQ(0, pb_decode(pb_cri, "ContainerConfig", buf_view(&b), d, &back));
    ASSERT(json_eq(json_root(d), back));
}

TEST(pb, bytes_as_protoc_writes_them) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    AUTO(buf) struct buf b = BUF_INIT(1 << 16);
    struct json *o = json_new_obj(d);
    json_set_str(d, o, "image", "ab");
    json_set_str(d, json_set_obj(d, o, "annotations"), "k", "v");
    ASSERT_EQ(0, pb_encode(pb_cri, "ImageSpec", o, &b));
    ASSERT(span_eq(buf_view(&b), SPAN_LIT("\x0a\x02"
                                          "ab"
                                          "\x12\x06\x0a\x01k\x12\x01v")));
}

TEST(pb, refusals) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    AUTO(buf) struct buf b = BUF_INIT(1 << 16);
    struct json *o = json_new_obj(d), *v;
    json_set_str(d, o, "nothing", "x");
    ASSERT_ERR(-ERR_INVALID, pb_encode(pb_cri, "ImageSpec", o, &b));
    ASSERT_ERR(-ERR_INVALID, pb_decode(pb_cri, "ImageSpec",
                                       SPAN_LIT("\x0a\x05"
                                                "ab"),
                                       d, &v));
    ASSERT_ERR(-ERR_INVALID, pb_decode(pb_cri, "ImageSpec", SPAN_LIT("\x0a"), d, &v));
    ASSERT_EQ(0,
              pb_decode(pb_cri, "ImageSpec", SPAN_LIT("\xfa\x3e\x01x"), d, &v)); /* unknown field */
}
