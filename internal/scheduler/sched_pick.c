#include "internal/base/rand.h"
#include "internal/kube/kube.h"
#include "internal/scheduler/sched_int.h"

PRINTF(2, 3) static void sreason_add(struct sreasons *w, const char *fmt, ...) {
    if (!w) {
        return;
    }
    AUTO(buf) struct buf b = BUF_INIT(4096);
    va_list ap;
    va_start(ap, fmt);
    buf_vfmt(&b, fmt, ap);
    va_end(ap);
    const char *text = buf_cstr(&b);
    for (size_t i = 0; i < w->n; i++) {
        if (str_eq(w->r[i].text, text)) {
            w->r[i].n++;
            return;
        }
    }
    if (w->n < SCHED_REASONS && str_put(w->r[w->n].text, sizeof(w->r[0].text), "%s", text) == 0) {
        w->r[w->n++].n = 1;
    }
}

void sctx_init(struct sctx *x, struct scache *c, struct kinformer *namespaces,
               const struct json *pod) {
    *x = (struct sctx){.c = c, .namespaces = namespaces, .pod = pod, .spec = json_get(pod, "spec")};
    pod_requests(pod, &x->req);
    pod_requests_nonzero(pod, &x->cpu, &x->mem);
    x->has_ports = pod_has_host_ports(pod);
    const char *req = "requiredDuringSchedulingIgnoredDuringExecution";
    x->has_affinity = json_len(json_at(x->spec, "affinity", "podAffinity", req)) ||
                      json_len(json_at(x->spec, "affinity", "podAntiAffinity", req));
    JSON_EACH(it, t, json_get(x->spec, "topologySpreadConstraints")) {
        x->has_spread |= str_eq(json_str(json_get(t, "whenUnsatisfiable")), "DoNotSchedule");
    }
}

static bool has_room(struct sctx *x, struct snode *n, struct sreasons *why, bool *resolvable) {
    bool fits = true;
    if (x->req.overflow) {
        sreason_add(why, "node(s) do not offer that many kinds of resources");
        *resolvable = false;
        return false;
    }
    for (size_t i = 0; i < x->req.n; i++) {
        const char *name = x->req.a[i].name;
        int64_t want = x->req.a[i].v, all = pod_amount(&n->alloc, name);
        if (want == 0 || want <= all - pod_amount(&n->used, name)) {
            continue;
        }
        fits = false;
        if (want > all) {
            *resolvable = false;
        }
        if (str_eq(name, "pods")) {
            sreason_add(why, "Too many pods");
        } else {
            sreason_add(why, "Insufficient %s", name);
        }
    }
    return fits;
}

static bool ports_free(struct sctx *x, struct snode *n) {
    if (!x->has_ports) {
        return true;
    }
    for (LIST_EACH(l, next, &n->pods)) {
        struct spod *p = CONTAINER_OF(l, struct spod, link);
        if (p->has_ports && p->obj && pod_ports_conflict(x->pod, p->obj)) {
            return false;
        }
    }
    return true;
}

static bool tolerates_unschedulable(const struct json *spec) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *t = json_new_obj(d);
    json_set_str(d, t, "key", "node.kubernetes.io/unschedulable");
    json_set_str(d, t, "effect", "NoSchedule");
    return taint_tolerated_by(t, json_get(spec, "tolerations")) != NULL;
}

bool sched_fits(struct sctx *x, struct snode *n, struct sreasons *why, bool *resolvable) {
    bool ignored;
    resolvable = resolvable ? resolvable : &ignored;
    *resolvable = false;
    if (json_bool_at(n->obj, false, "spec", "unschedulable") && !tolerates_unschedulable(x->spec)) {
        sreason_add(why, "node(s) were unschedulable");
        return false;
    }
    if (pod_untolerated(x->spec, n->obj, TAINT_NO_SCHEDULE | TAINT_NO_EXECUTE)) {
        sreason_add(why, "node(s) had untolerated taint(s)");
        return false;
    }
    if (!node_matches_pod(n->obj, x->spec)) {
        sreason_add(why, "node(s) didn't match Pod's node affinity/selector");
        return false;
    }
    *resolvable = true;
    if (!has_room(x, n, why, resolvable)) {
        return false;
    }
    if (!ports_free(x, n)) {
        sreason_add(why, "node(s) didn't have free ports for the requested pod ports");
        return false;
    }
    if (!sched_volumes_reach(x, n)) {
        sreason_add(why, "node(s) had volume node affinity conflict");
        *resolvable = false;
        return false;
    }
    if (x->has_affinity || x->has_spread || x->c->n_anti) {
        const char *refused = sched_spread_refuses(x, n);
        if (refused) {
            sreason_add(why, "%s", refused);
            return false;
        }
    }
    return true;
}

static int64_t share_free(int64_t used, int64_t all) {
    return all <= 0 || used >= all ? 0 : (all - used) * 100 / all;
}

/* LeastAllocated and BalancedAllocation of cpu and memory, 0…100 each. */
static int64_t resource_score(struct sctx *x, struct snode *n) {
    int64_t cpu = share_free(n->cpu + x->cpu, pod_amount(&n->alloc, "cpu"));
    int64_t mem = share_free(n->mem + x->mem, pod_amount(&n->alloc, "memory"));
    int64_t gap = cpu > mem ? cpu - mem : mem - cpu;
    return (cpu + mem) / 2 + (100 - gap / 2);
}

/* Pods of the same controller on the node: fewer is better. */
static int64_t siblings(struct sctx *x, struct snode *n) {
    const char *uid = json_str(json_get(kube_controller_of(x->pod), "uid"));
    int64_t k = 0;
    if (!uid) {
        return 0;
    }
    for (LIST_EACH(l, next, &n->pods)) {
        struct spod *p = CONTAINER_OF(l, struct spod, link);
        k += p->obj && str_eq(json_str(json_get(kube_controller_of(p->obj), "uid")), uid);
    }
    return k;
}

static int64_t soft_taints(struct sctx *x, struct snode *n) {
    int64_t k = 0;
    JSON_EACH(it, t, json_at(n->obj, "spec", "taints")) {
        k += (taint_effect(t) & TAINT_PREFER) &&
             !taint_tolerated_by(t, json_get(x->spec, "tolerations"));
    }
    return k;
}

struct snode *sched_pick(struct sctx *x, struct sreasons *why) {
    struct scache *c = x->c;
    struct snode *best = NULL;
    int64_t best_score = INT64_MIN;
    uint64_t ties = 0;
    /* Weights of the default profile: resources 1+1, node affinity 2, taints 3, spread 2. The parts that upstream
     * normalises over the candidates are scaled by fixed steps instead, which keeps one pass. */
    for (size_t i = 0; i < c->n; i++) {
        struct snode *n = c->arr[i];
        if (!n->obj || !sched_fits(x, n, why, NULL)) {
            continue;
        }
        int64_t score = resource_score(x, n) + 2 * node_preference(n->obj, x->spec) -
                        300 * soft_taints(x, n) - 20 * siblings(x, n);
        if (score > best_score) {
            best = n;
            best_score = score;
            ties = 1;
        } else if (score == best_score && rand_below(++ties) == 0) {
            best = n;
        }
    }
    return best;
}
