#include "internal/proxy/proxy.h"
#include "internal/t/t.h"

#include <stdlib.h>

static const char cluster[] =
    "{\"services\":[{\"metadata\":{\"name\":\"web\",\"namespace\":\"d\"},\"spec\":{\"clusterIP\":"
    "\"10.96.0.7\",\"type\":\"NodePort\","
    "\"ports\":[{\"name\":\"http\",\"port\":80,\"protocol\":\"TCP\",\"nodePort\":30080}]}},"
    "{\"metadata\":{\"name\":\"none\",\"namespace\":\"d\"},\"spec\":{\"clusterIP\":\"10.96.0.8\","
    "\"ports\":[{\"port\":53,\"protocol\":\"UDP\"}]}},"
    "{\"metadata\":{\"name\":\"headless\",\"namespace\":\"d\"},\"spec\":{\"clusterIP\":\"None\","
    "\"ports\":[{\"port\":1}]}}],"
    "\"slices\":[{\"metadata\":{\"name\":\"web-x\",\"namespace\":\"d\",\"labels\":{\"kubernetes.io/"
    "service-name\":\"web\"}},"
    "\"addressType\":\"IPv4\",\"ports\":[{\"name\":\"http\",\"port\":8080}],\"endpoints\":["
    "{\"addresses\":[\"10.244.0.2\"],\"conditions\":{\"ready\":true},\"nodeName\":\"n1\"},"
    "{\"addresses\":[\"10.244.1.2\"],\"conditions\":{\"ready\":true},\"nodeName\":\"n2\"},"
    "{\"addresses\":[\"10.244.1.3\"],\"conditions\":{\"ready\":false},\"nodeName\":\"n2\"}]}]}";

static void rules(const char *text, struct buf *b) {
    AUTO(json_docp) struct json_doc *d = NULL;
    struct err e = ERR_INIT;
    const struct json *svc[8], *slices[8];
    size_t n = 0, m = 0;
    ASSERT_OK(json_parse(span_str(text), 0, &d, &e), &e);
    JSON_EACH(it, s, json_get(json_root(d), "services")) {
        svc[n++] = s;
    }
    JSON_EACH(it2, s, json_get(json_root(d), "slices")) {
        slices[m++] = s;
    }
    const struct proxy_input in = {
        svc, slices, n, m, "n1", "10.0.0.1", "10.244.0.0/24", "10.244.0.0/16"};
    ASSERT_EQ(0, proxy_rules(&in, b));
}

TEST(proxy, rules_of_a_service) {
    AUTO(buf) struct buf b = BUF_INIT(1 << 20);
    rules(cluster, &b);
    const char *s = buf_cstr(&b);
    ASSERT(strstr(s, "10.96.0.7 . tcp . 80 : goto svc-0"));
    ASSERT(strstr(s, "tcp . 30080 : goto ext-0"));
    ASSERT(strstr(s, "numgen random mod 2 map { 0 : 10.244.0.2 . 8080, 1 : 10.244.1.2 . 8080 }"));
    ASSERT(strstr(s, "10.96.0.8 . udp . 53"));        /* refused: no endpoints */
    ASSERT_NULL(strstr(s, "10.96.0.8 . udp . 53 :")); /* and nowhere else */
    ASSERT_NULL(strstr(s, "10.244.1.3"));
    ASSERT_NULL(strstr(s, "headless"));
}
