/* Inside the scheduler: its view of nodes and pods. */
#ifndef KF_SCHED_INT_H
#define KF_SCHED_INT_H

#include "internal/base/map.h"
#include "internal/podspec/podspec.h"
#include "internal/scheduler/scheduler.h"

/* A pod that takes room: bound, or assumed to be (its binding is on its way). */
struct spod {
    struct snode *node;
    const struct json *obj; /* in the informer's cache; NULL while only assumed */
    struct pod_amounts req;
    int64_t cpu, mem; /* for scoring */
    int64_t priority;
    char *key;
    bool is_assumed, has_anti, has_ports;
    struct list link; /* in node->pods */
    char uid[];
};

struct snode {
    char *name;
    const struct json *obj; /* NULL: pods name a node that is not there */
    struct pod_amounts alloc, used;
    int64_t cpu, mem; /* used, for scoring */
    struct list pods;
    size_t n_pods;
    size_t pos; /* in the array */
};

struct scache {
    struct map nodes; /* name → struct snode */
    struct map pods;  /* uid → struct spod */
    struct map names; /* resource names, interned */
    struct snode **arr;
    size_t n, cap;
    size_t n_anti; /* pods with required anti-affinity */
};

void scache_fini(struct scache *c);
/* True when the change may let a waiting pod fit. */
bool scache_node(struct scache *c, const struct json *old, const struct json *cur);
void scache_pod(struct scache *c, const struct json *cur_or_gone, bool gone);
void scache_assume(struct scache *c, const struct json *pod, struct snode *n);
void scache_forget(struct scache *c, const char *uid); /* an assumption that failed */

/* Why nodes were refused: counted texts. */
enum { SCHED_REASONS = 24 };
struct sreasons {
    struct {
        char text[96];
        size_t n;
    } r[SCHED_REASONS];
    size_t n;
};

/* Everything about one pod that is being placed. */
struct sctx {
    struct scache *c;
    struct kinformer *namespaces; /* for namespaceSelector; may be NULL */
    const struct json *pod, *spec;
    struct pod_amounts req;
    int64_t cpu, mem;
    bool has_ports, has_affinity, has_spread;
    struct scheduler *volumes; /* set when claims limit the nodes */
};
void sctx_init(struct sctx *x, struct scache *c, struct kinformer *namespaces, const struct json *pod);
/* Does the pod fit? When it does not, why (may be NULL) is told. resolvable: false when no eviction could help. */
bool sched_fits(struct sctx *x, struct snode *n, struct sreasons *why, bool *resolvable);
/* Best node, or NULL with reasons. */
struct snode *sched_pick(struct sctx *x, struct sreasons *why);

/* scheduler.c: may the pod's volumes be used from the node? */
bool sched_volumes_reach(struct sctx *x, struct snode *n);

/* sched_spread.c: required inter-pod (anti-)affinity and DoNotSchedule topology spread. NULL: holds; else the reason. */
const char *sched_spread_refuses(struct sctx *x, struct snode *n);

/* sched_preempt.c: the node on which the cheapest set of lower pods makes room; victims go into `keys` (owned strings). */
enum { SCHED_VICTIMS = 64 };
struct svictims {
    struct spod *v[SCHED_VICTIMS];
    size_t n;
};
struct snode *sched_preempt(struct sctx *x, int64_t priority, struct svictims *ret);

#endif
