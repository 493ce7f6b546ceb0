#include "internal/kube/kube.h"
#include "internal/scheduler/sched_int.h"

/* Takes p out of the node's accounts, or back in, without touching the lists. */
static void weigh(struct spod *p, int sign) {
    pod_amounts_add(&p->node->used, &p->req, sign);
}

/* The lowest priorities first; among equals those that started last (end of the list). */
static struct spod *next_victim(struct snode *n, int64_t below, const struct svictims *taken) {
    struct spod *best = NULL;
    for (LIST_EACH(l, next, &n->pods)) {
        struct spod *p = CONTAINER_OF(l, struct spod, link);
        bool used = p->is_assumed || p->priority >= below || (p->obj && kube_is_deleting(p->obj));
        for (size_t i = 0; i < taken->n && !used; i++) {
            used = taken->v[i] == p;
        }
        if (!used && (!best || p->priority <= best->priority)) {
            best = p;
        }
    }
    return best;
}

/* Evicts in thought until the pod fits, then gives back what was not needed, highest priority first. */
static bool room_by_evicting(struct sctx *x, struct snode *n, int64_t priority,
                             struct svictims *v) {
    v->n = 0;
    bool resolvable = true, fits = sched_fits(x, n, NULL, &resolvable);
    while (!fits && resolvable && v->n < SCHED_VICTIMS) {
        struct spod *p = next_victim(n, priority, v);
        if (!p) {
            break;
        }
        weigh(p, -1);
        v->v[v->n++] = p;
        fits = sched_fits(x, n, NULL, &resolvable);
    }
    for (size_t i = v->n; fits && i-- > 0;) {
        weigh(v->v[i], 1);
        if (sched_fits(x, n, NULL, NULL)) {
            v->v[i] = v->v[--v->n];
            /* order does not matter any more for what is left */
        } else {
            weigh(v->v[i], -1);
        }
    }
    for (size_t i = 0; i < v->n; i++) {
        weigh(v->v[i], 1);
    }
    return fits && v->n;
}

/* Fewer and lower victims are better. */
static bool is_cheaper(const struct svictims *a, const struct svictims *b) {
    int64_t max_a = INT64_MIN, max_b = INT64_MIN;
    for (size_t i = 0; i < a->n; i++) {
        max_a = a->v[i]->priority > max_a ? a->v[i]->priority : max_a;
    }
    for (size_t i = 0; i < b->n; i++) {
        max_b = b->v[i]->priority > max_b ? b->v[i]->priority : max_b;
    }
    return max_a != max_b ? max_a < max_b : a->n < b->n;
}

struct snode *sched_preempt(struct sctx *x, int64_t priority, struct svictims *ret) {
    struct snode *best = NULL;
    if (str_eq(json_str(json_get(x->spec, "preemptionPolicy")), "Never")) {
        return NULL;
    }
    for (size_t i = 0; i < x->c->n; i++) {
        struct snode *n = x->c->arr[i];
        struct svictims v;
        if (n->obj && room_by_evicting(x, n, priority, &v) && (!best || is_cheaper(&v, ret))) {
            best = n;
            *ret = v;
        }
    }
    return best;
}
