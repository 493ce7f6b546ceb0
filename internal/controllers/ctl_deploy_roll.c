/* How many pods each ReplicaSet of a Deployment shall have. Pure arithmetic over struct drun. */
#include "internal/controllers/ctl_deploy_int.h"

static int64_t min64(int64_t a, int64_t b) {
    return a < b ? a : b;
}
static int64_t max64(int64_t a, int64_t b) {
    return a > b ? a : b;
}

int64_t deploy_max_total(const struct drun *r) {
    return r->want + (r->is_recreate ? 0 : r->surge);
}

int64_t deploy_sum(const struct drun *r, bool only_old) {
    int64_t sum = 0;
    for (size_t i = 0; i < r->n; i++) {
        sum += only_old && r->sets[i].is_new ? 0 : r->sets[i].target;
    }
    return sum;
}

static int64_t deploy_available(const struct drun *r) {
    int64_t sum = 0;
    for (size_t i = 0; i < r->n; i++) {
        sum += r->sets[i].available;
    }
    return sum;
}

static bool changed(const struct drun *r) {
    for (size_t i = 0; i < r->n; i++) {
        if (r->sets[i].target != r->sets[i].replicas) {
            return true;
        }
    }
    return false;
}

int64_t deploy_new_replicas(const struct drun *r, int64_t current) {
    if (r->is_recreate) {
        return r->want;
    }
    int64_t total = deploy_sum(r, false), max = deploy_max_total(r);
    return total >= max ? current : current + min64(max - total, r->want - current);
}

/* Old sets, oldest first: unhealthy pods go without waiting, then as many as availability allows. */
static void shrink_old(struct drun *r) {
    int64_t total = deploy_sum(r, false), old = deploy_sum(r, true);
    int64_t min_available = r->want - r->unavailable;
    int64_t new_unavailable = r->cur ? r->cur->replicas - r->cur->available : 0;
    int64_t budget = total - min_available - new_unavailable;
    if (!old || budget <= 0) {
        return;
    }
    for (size_t i = 0; i < r->n && budget > 0; i++) {
        struct dset *s = &r->sets[i];
        if (!s->is_new && s->target > s->available) {
            int64_t k = min64(budget, s->target - s->available);
            s->target -= k;
            budget -= k;
        }
    }
    int64_t spare = deploy_available(r) - min_available;
    for (size_t i = 0; i < r->n && spare > 0; i++) {
        struct dset *s = &r->sets[i];
        if (!s->is_new && s->target > 0) {
            int64_t k = min64(spare, s->target);
            s->target -= k;
            spare -= k;
        }
    }
}

bool deploy_roll(struct drun *r) {
    if (r->cur) {
        if (r->cur->replicas > r->want) {
            r->cur->target = r->want;
        } else if (r->cur->replicas < r->want) {
            r->cur->target = deploy_new_replicas(r, r->cur->replicas);
        }
        if (changed(r)) {
            return true; /* one step at a time: the next run sees its effect */
        }
    }
    shrink_old(r);
    return changed(r);
}

bool deploy_recreate(struct drun *r) {
    for (size_t i = 0; i < r->n; i++) {
        if (!r->sets[i].is_new) {
            r->sets[i].target = 0;
        }
    }
    if (!changed(r) && r->cur) {
        r->cur->target = r->want;
    }
    return changed(r);
}

/* A resize while several sets have pods: each gets its share, the largest the remainder. */
static void proportional(struct drun *r) {
    int64_t all = deploy_sum(r, false), allowed = r->want > 0 ? deploy_max_total(r) : 0;
    int64_t to_add = allowed - all, added = 0;
    size_t largest = SIZE_MAX;
    for (size_t i = 0; i < r->n && to_add; i++) {
        struct dset *s = &r->sets[i];
        if (!s->replicas) {
            continue;
        }
        if (largest == SIZE_MAX || s->replicas >= r->sets[largest].replicas) {
            largest = i;
        }
        const char *ann = kube_annotation(s->rs, ANN_MAX);
        int64_t was = all;
        if (!ann || span_to_i64(span_str(ann), 1, INT32_MAX, &was) < 0) {
            was = all;
        }
        /* rounded to nearest, away from zero, as upstream's float arithmetic does */
        int64_t num = s->replicas * allowed * 2 + was;
        int64_t share = num / (2 * was) - s->replicas, left = to_add - added;
        share = to_add > 0 ? max64(0, min64(share, left)) : min64(0, max64(share, left));
        s->target = s->replicas + share;
        added += share;
    }
    if (largest != SIZE_MAX && to_add != added) {
        r->sets[largest].target = max64(0, r->sets[largest].target + to_add - added);
    }
}

bool deploy_scale(struct drun *r) {
    size_t n_active = 0;
    struct dset *active = NULL;
    for (size_t i = 0; i < r->n; i++) {
        if (r->sets[i].replicas > 0) {
            n_active++;
            active = &r->sets[i];
        }
    }
    if (n_active <= 1) {
        struct dset *s = active ? active : r->cur ? r->cur : r->n ? &r->sets[r->n - 1] : NULL;
        if (s) {
            s->target = r->want;
        }
        return changed(r);
    }
    const char *desired = r->cur ? kube_annotation(r->cur->rs, ANN_DESIRED) : NULL;
    int64_t want = -1;
    IGNORE_ERR(desired ? span_to_i64(span_str(desired), 0, INT32_MAX, &want) : 0,
               "a bad annotation counts as none");
    if (r->cur && r->cur->replicas == r->want && want == r->want && r->cur->available == r->want) {
        for (size_t i = 0; i < r->n; i++) {
            r->sets[i].target = r->sets[i].is_new ? r->sets[i].target : 0;
        }
    } else if (!r->is_recreate) {
        proportional(r);
    }
    return changed(r);
}
