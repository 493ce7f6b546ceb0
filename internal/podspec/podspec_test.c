#include "internal/podspec/podspec.h"

#include "internal/t/t.h"

static struct json *doc(const char *text, struct json_doc **d) {
    struct err e = ERR_INIT;
    ASSERT_OK(json_parse(span_str(text), 0, d, &e), &e);
    return json_root(*d);
}

TEST(podspec, requests) {
    AUTO(json_docp) struct json_doc *d = NULL;
    struct json *p = doc("{\"spec\":{\"containers\":[{\"resources\":{\"requests\":{\"cpu\":"
                         "\"100m\",\"memory\":\"1Mi\"}}},"
                         "{\"resources\":{\"requests\":{\"cpu\":\"1\",\"x/gpu\":\"2\"}}}],"
                         "\"initContainers\":[{\"restartPolicy\":\"Always\",\"resources\":{"
                         "\"requests\":{\"cpu\":\"50m\"}}},"
                         "{\"resources\":{\"requests\":{\"cpu\":\"2\",\"memory\":\"512Ki\"}}}],"
                         "\"overhead\":{\"memory\":\"1Ki\"}}}",
                         &d);
    struct pod_amounts a;
    pod_requests(p, &a);
    ASSERT_EQ(2050, pod_amount(&a, "cpu"));
    ASSERT_EQ((1 << 20) + 1024, pod_amount(&a, "memory"));
    ASSERT_EQ(2, pod_amount(&a, "x/gpu"));
    ASSERT_EQ(1, pod_amount(&a, "pods"));
}

TEST(podspec, taints) {
    AUTO(json_docp) struct json_doc *d = NULL, *d2 = NULL;
    struct json *n =
        doc("{\"spec\":{\"taints\":[{\"key\":\"a\",\"value\":\"b\",\"effect\":\"NoSchedule\"},"
            "{\"key\":\"c\",\"effect\":\"NoExecute\"}]}}",
            &d);
    struct json *s =
        doc("{\"tolerations\":[{\"key\":\"a\",\"operator\":\"Equal\",\"value\":\"b\"}]}", &d2);
    ASSERT_NULL(pod_untolerated(s, n, TAINT_NO_SCHEDULE));
    ASSERT(pod_untolerated(s, n, TAINT_NO_EXECUTE) != NULL);
    ASSERT(pod_untolerated(NULL, n, TAINT_NO_SCHEDULE) != NULL);
    AUTO(json_docp) struct json_doc *d3 = NULL;
    ASSERT_NULL(pod_untolerated(doc("{\"tolerations\":[{\"operator\":\"Exists\"}]}", &d3), n, 7));
}

TEST(podspec, affinity) {
    AUTO(json_docp) struct json_doc *d = NULL, *d2 = NULL, *d3 = NULL;
    struct json *n =
        doc("{\"metadata\":{\"name\":\"n1\",\"labels\":{\"z\":\"a\",\"n\":\"5\"}}}", &d);
    struct json *s =
        doc("{\"nodeSelector\":{\"z\":\"a\"},\"affinity\":{\"nodeAffinity\":{"
            "\"requiredDuringSchedulingIgnoredDuringExecution\":{\"nodeSelectorTerms\":["
            "{\"matchExpressions\":[{\"key\":\"q\",\"operator\":\"Exists\"}]},"
            "{\"matchExpressions\":[{\"key\":\"n\",\"operator\":\"Gt\",\"values\":[\"4\"]}],"
            "\"matchFields\":[{\"key\":\"metadata.name\",\"operator\":\"In\",\"values\":[\"n1\"]}]}"
            "]}}}}",
            &d2);
    ASSERT(node_matches_pod(n, s));
    ASSERT(!node_matches_pod(n, doc("{\"nodeSelector\":{\"z\":\"b\"}}", &d3)));
}

TEST(podspec, ports) {
    AUTO(json_docp) struct json_doc *a = NULL, *b = NULL;
    struct json *p = doc("{\"spec\":{\"containers\":[{\"ports\":[{\"hostPort\":80}]}]}}", &a);
    struct json *q =
        doc("{\"spec\":{\"containers\":[{\"ports\":[{\"hostPort\":80,\"hostIP\":\"10.0.0.1\"}]}]}}",
            &b);
    ASSERT(pod_ports_conflict(p, q));
    ASSERT(pod_has_host_ports(q));
}
