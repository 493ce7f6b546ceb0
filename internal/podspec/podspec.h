/* podspec — what pods ask of nodes and what nodes offer: the rules that controllers, scheduler and kubelet share (no I/O).
 *
 * What:     phases and readiness; resource requests; tolerations and taints; node selectors and affinity; host ports.
 * Owns:     nothing; objects are borrowed json trees.
 * Limits:   POD_RESOURCES kinds of resources a pod or node; more are ignored by requests and refuse the pod in fits.
 * Threads:  any.
 * Spec:     Kubernetes core/v1 Pod and Node; scheduling framework's NodeAffinity, TaintToleration, NodeResourcesFit.
 */
#ifndef KF_PODSPEC_H
#define KF_PODSPEC_H

#include "internal/json/json.h"

enum { POD_RESOURCES = 16 };

/* ---- state ---- */
bool pod_is_terminal(const struct json *pod); /* Succeeded or Failed */
bool pod_is_active(const struct json *pod);   /* neither terminal nor being deleted */
bool pod_is_ready(const struct json *pod);    /* condition Ready is True */
uint64_t pod_ready_since_s(const struct json *pod); /* wall seconds; 0: not ready */
int64_t pod_restarts(const struct json *pod);
const char *pod_node(const struct json *pod); /* "" when not bound */
uint64_t kobj_created_s(const struct json *obj); /* creationTimestamp, wall seconds */

/* ---- resources: cpu and pods in their unit, cpu in milli; the rest in bytes or counts ---- */
struct pod_amount {
    const char *name; /* borrowed from the object, or a constant */
    int64_t v;
};
struct pod_amounts {
    struct pod_amount a[POD_RESOURCES];
    size_t n;
    bool overflow; /* more kinds than fit here */
};
/* Requests of a pod: the larger of the sum of containers (and sidecars) and each init container, plus overhead; with
 * "pods": 1. Pod-level resources replace the sum where they are set. */
void pod_requests(const struct json *pod, struct pod_amounts *ret);
/* cpu and memory with 100m and 200Mi for containers that ask for none: for scoring only. */
void pod_requests_nonzero(const struct json *pod, int64_t *ret_cpu_milli, int64_t *ret_mem);
/* A ResourceList such as status.allocatable. */
void pod_amounts_of(const struct json *list, struct pod_amounts *ret);
int64_t pod_amount(const struct pod_amounts *a, const char *name); /* 0 when absent */
void pod_amounts_add(struct pod_amounts *sum, const struct pod_amounts *a, int sign);

/* ---- taints ---- */
enum { TAINT_NO_SCHEDULE = 1u, TAINT_PREFER = 2u, TAINT_NO_EXECUTE = 4u };
unsigned taint_effect(const struct json *taint);
/* The first toleration (an object of `tolerations`) that tolerates taint, or NULL. */
struct json *taint_tolerated_by(const struct json *taint, const struct json *tolerations);
/* The first taint of the node with one of the effects that the pod does not tolerate, or NULL. */
struct json *pod_untolerated(const struct json *pod_spec, const struct json *node, unsigned effects);
struct json *node_taint(const struct json *node, const char *key, unsigned effect);

/* ---- node selection ---- */
/* A v1.NodeSelectorTerm (matchExpressions and matchFields). An empty term matches nothing. */
bool node_matches_term(const struct json *node, const struct json *term);
/* nodeSelector and required node affinity of a pod spec. */
bool node_matches_pod(const struct json *node, const struct json *pod_spec);
/* Sum of weights of the preferred terms that match. */
int64_t node_preference(const struct json *node, const struct json *pod_spec);

/* Does a host port of a collide with one of b? */
bool pod_ports_conflict(const struct json *pod_a, const struct json *pod_b);
bool pod_has_host_ports(const struct json *pod);

#endif
