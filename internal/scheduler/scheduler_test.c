#include "internal/kube/kube.h"
#include "internal/scheduler/sched_int.h"
#include "internal/t/t.h"

#include <stdlib.h>

/* A cluster in memory: nodes and pods from short texts, kept until the end of the test. */
struct lab {
    struct scache c;
    struct json_doc *docs[64];
    size_t n;
};

static struct json *parse(struct lab *l, const char *text) {
    struct err e = ERR_INIT;
    ASSERT(l->n < ARRAY_LEN(l->docs));
    ASSERT_OK(json_parse(span_str(text), 0, &l->docs[l->n], &e), &e);
    return json_root(l->docs[l->n++]);
}

static void add_node(struct lab *l, const char *name, const char *zone, const char *cpu) {
    AUTO_FREE char *t =
        str_fmt("{\"metadata\":{\"name\":\"%s\",\"labels\":{\"zone\":\"%s\",\"kubernetes.io/"
                "hostname\":\"%s\"}},"
                "\"status\":{\"allocatable\":{\"cpu\":\"%s\",\"memory\":\"8Gi\",\"pods\":\"10\"}}}",
                name, zone, name, cpu);
    scache_node(&l->c, NULL, parse(l, t));
}

static struct json *pod(struct lab *l, const char *name, const char *node, const char *cpu,
                        int priority, const char *more) {
    AUTO_FREE char *t = str_fmt("{\"metadata\":{\"name\":\"%s\",\"namespace\":\"d\",\"uid\":\"u-%"
                                "s\",\"labels\":{\"app\":\"x\"}},"
                                "\"spec\":{%s%s%s\"priority\":%d,%s\"containers\":[{\"name\":\"c\","
                                "\"resources\":{\"requests\":"
                                "{\"cpu\":\"%s\"}}}]}}",
                                name, name, node ? "\"nodeName\":\"" : "", node ? node : "",
                                node ? "\"," : "", priority, more, cpu);
    struct json *p = parse(l, t);
    if (node) {
        scache_pod(&l->c, p, false);
    }
    return p;
}

static const char *pick(struct lab *l, const struct json *p, struct sreasons *why) {
    struct sctx x;
    sctx_init(&x, &l->c, NULL, p);
    struct snode *n = sched_pick(&x, why);
    return n ? n->name : "";
}

static void fini(struct lab *l) {
    scache_fini(&l->c);
    for (size_t i = 0; i < l->n; i++) {
        json_doc_free(l->docs[i]);
    }
}

TEST(scheduler, resources_and_reasons) {
    struct lab l = {0};
    struct sreasons why = {.n = 0};
    add_node(&l, "a", "z1", "2");
    add_node(&l, "b", "z2", "2");
    struct json *on_a = pod(&l, "p1", "a", "1500m", 0, "");
    ASSERT_STREQ("b", pick(&l, pod(&l, "p2", NULL, "1", 0, ""), NULL));
    ASSERT_STREQ("", pick(&l, pod(&l, "p3", NULL, "3", 0, ""), &why));
    ASSERT_EQ(1, why.n);
    ASSERT_STREQ("Insufficient cpu", why.r[0].text);
    ASSERT_EQ(2, why.r[0].n);
    /* what is assumed takes room, and gives it back when the binding failed */
    struct json *p4 = pod(&l, "p4", NULL, "2", 0, "");
    scache_assume(&l.c, p4, map_get_str(&l.c.nodes, "b"));
    ASSERT_STREQ("", pick(&l, pod(&l, "p5", NULL, "1", 0, ""), NULL));
    scache_forget(&l.c, "u-p4");
    ASSERT_STREQ("b", pick(&l, pod(&l, "p6", NULL, "1", 0, ""), NULL));
    scache_pod(&l.c, on_a, true);
    ASSERT_EQ(0, ((struct snode *)map_get_str(&l.c.nodes, "a"))->cpu);
    fini(&l);
}

#define HOST_ANTI                                                                              \
    "\"affinity\":{\"podAntiAffinity\":{\"requiredDuringSchedulingIgnoredDuringExecution\":[{" \
    "\"topologyKey\":\"kubernetes.io/"                                                         \
    "hostname\",\"labelSelector\":{\"matchLabels\":{\"app\":\"x\"}}}]}},"
#define ZONE_AFF                                                                           \
    "\"affinity\":{\"podAffinity\":{\"requiredDuringSchedulingIgnoredDuringExecution\":[{" \
    "\"topologyKey\":\"zone\",\"labelSelector\":{\"matchLabels\":{\"app\":\"x\"}}}]}},"
#define SPREAD                                                                \
    "\"topologySpreadConstraints\":[{\"maxSkew\":1,\"topologyKey\":\"zone\"," \
    "\"whenUnsatisfiable\":"                                                  \
    "\"DoNotSchedule\",\"labelSelector\":{\"matchLabels\":{\"app\":\"x\"}}}],"

TEST(scheduler, pods_near_and_apart) {
    struct lab l = {0};
    struct sreasons why = {.n = 0};
    add_node(&l, "a", "z1", "4");
    add_node(&l, "b", "z2", "4");
    /* the first of a group that wants company may go anywhere */
    ASSERT(*pick(&l, pod(&l, "q0", NULL, "1m", 0, ZONE_AFF), NULL));
    pod(&l, "p1", "a", "1m", 0, "");
    ASSERT_STREQ("b", pick(&l, pod(&l, "q1", NULL, "1m", 0, HOST_ANTI), NULL));
    ASSERT_STREQ("a", pick(&l, pod(&l, "q2", NULL, "1m", 0, ZONE_AFF), NULL));
    ASSERT_STREQ("b", pick(&l, pod(&l, "q3", NULL, "1m", 0, SPREAD), NULL));
    /* a pod that is there keeps others away, though they ask for nothing */
    pod(&l, "p2", "b", "1m", 0, HOST_ANTI);
    ASSERT_STREQ("a", pick(&l, pod(&l, "q4", NULL, "1m", 0, ""), NULL));
    ASSERT_STREQ("", pick(&l, pod(&l, "q5", NULL, "1m", 0, HOST_ANTI), &why));
    ASSERT_EQ(1, why.n);
    ASSERT_EQ(2, why.r[0].n);
    fini(&l);
}

TEST(scheduler, preemption_takes_the_cheapest) {
    struct lab l = {0};
    struct svictims v;
    struct sctx x;
    add_node(&l, "a", "z1", "4");
    add_node(&l, "b", "z2", "4");
    pod(&l, "a1", "a", "2", 5, "");
    pod(&l, "a2", "a", "2", 1, "");
    pod(&l, "b1", "b", "4", 9, "");
    struct json *p = pod(&l, "new", NULL, "2", 10, "");
    sctx_init(&x, &l.c, NULL, p);
    struct snode *n = sched_preempt(&x, 10, &v);
    ASSERT(n != NULL);
    ASSERT_STREQ("a", n->name);
    ASSERT_EQ(1, v.n);
    ASSERT_STREQ("u-a2", v.v[0]->uid);            /* the lowest, and no more than needed */
    ASSERT_EQ(4000, pod_amount(&n->used, "cpu")); /* only in thought */
    /* nothing lower, or a pod that could never fit: nobody is evicted */
    ASSERT_NULL(sched_preempt(&x, 1, &v));
    sctx_init(&x, &l.c, NULL, pod(&l, "huge", NULL, "9", 10, ""));
    ASSERT_NULL(sched_preempt(&x, 10, &v));
    fini(&l);
}
