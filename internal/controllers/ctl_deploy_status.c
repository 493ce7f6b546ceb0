/* Status and conditions of a Deployment. */
#include "internal/controllers/ctl_deploy_int.h"

static int64_t sum_status(const struct drun *r, const char *field) {
    int64_t sum = 0;
    for (size_t i = 0; i < r->n; i++) {
        sum += json_i64_at(r->sets[i].rs, 0, "status", field);
    }
    return sum;
}

bool deploy_is_complete(const struct drun *r) {
    return r->cur && r->cur->status_replicas == r->want && r->cur->available == r->want &&
           sum_status(r, "replicas") == r->want &&
           json_i64_at(r->d, 0, "status", "observedGeneration") >=
               json_i64_at(r->d, 0, "metadata", "generation");
}

static bool is_complete_now(const struct drun *r) {
    return r->cur && r->cur->status_replicas == r->want && r->cur->available == r->want &&
           sum_status(r, "replicas") == r->want;
}

/* Did anything get better since the last status? */
static bool has_progressed(const struct drun *r, int64_t updated, int64_t ready, int64_t available,
                           int64_t total) {
    const struct json *st = json_get(r->d, "status");
    int64_t was_updated = json_i64(json_get(st, "updatedReplicas"), 0);
    int64_t was_old = json_i64(json_get(st, "replicas"), 0) - was_updated;
    return updated > was_updated || total - updated < was_old ||
           ready > json_i64(json_get(st, "readyReplicas"), 0) ||
           available > json_i64(json_get(st, "availableReplicas"), 0);
}

struct cond {
    struct json_doc *d;
    struct json *obj; /* {"status":{"conditions":[…]}} */
    char now[TIME_STR];
};

/* lastUpdateTime moves with any change, lastTransitionTime (kube_condition_set) with the status only. */
static void set(struct cond *c, const char *type, const char *status, const char *reason,
                const char *message) {
    if (kube_condition_set(c->d, c->obj, type, status, reason, message, c->now)) {
        json_set_str(c->d, kube_condition(c->obj, type), "lastUpdateTime", c->now);
    }
}

static void drop(struct cond *c, const char *type) {
    struct json *arr = json_at(c->obj, "status", "conditions");
    size_t i = 0;
    JSON_EACH(it, v, arr) {
        if (str_eq(json_str(json_get(v, "type")), type)) {
            json_remove_idx(arr, i);
            return;
        }
        i++;
    }
}

static uint64_t time_of(const struct json *v) {
    uint64_t ns;
    return json_is_str(v) && time_parse(json_span(v), &ns) == 0 ? ns / NS_PER_S : 0;
}

static const struct json *failing_set(const struct drun *r) {
    if (r->cur && kube_condition(r->cur->rs, "ReplicaFailure")) {
        return kube_condition(r->cur->rs, "ReplicaFailure");
    }
    for (size_t i = 0; i < r->n; i++) {
        const struct json *c = kube_condition(r->sets[i].rs, "ReplicaFailure");
        if (c) {
            return c;
        }
    }
    return NULL;
}

static void progressing(struct drun *r, struct cond *c, bool moved, const char *reason,
                        const char *message, uint64_t *ret_due_s) {
    const struct json *old = kube_condition(c->obj, "Progressing");
    const char *was = json_str_or(json_get(old, "reason"), "");
    AUTO(buf) struct buf m = BUF_INIT(1024);
    int64_t deadline = json_i64_at(r->d, INT32_MAX, "spec", "progressDeadlineSeconds");
    if (deadline == INT32_MAX) {
        drop(c, "Progressing");
        return;
    }
    if (r->is_paused) {
        if (!str_eq(was, "DeploymentPaused") && !str_eq(was, "ProgressDeadlineExceeded")) {
            set(c, "Progressing", "Unknown", "DeploymentPaused", "Deployment is paused");
        }
        return;
    }
    if (str_eq(was, "DeploymentPaused")) {
        set(c, "Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed");
        old = kube_condition(c->obj, "Progressing");
        was = "DeploymentResumed";
    }
    const char *name = r->cur ? kube_name(r->cur->rs) : NULL;
    if (reason) {
        set(c, "Progressing", "True", reason, message);
        *ret_due_s = (uint64_t)deadline + 1;
        return;
    }
    bool settled = json_i64_at(r->d, 0, "status", "replicas") ==
                       json_i64_at(r->d, 0, "status", "updatedReplicas") &&
                   str_eq(was, "NewReplicaSetAvailable");
    if (settled && is_complete_now(r)) {
        return;
    }
    if (is_complete_now(r)) {
        buf_fmt(&m, "ReplicaSet \"%s\" has successfully progressed.", name);
        set(c, "Progressing", "True", "NewReplicaSetAvailable", buf_cstr(&m));
        return;
    }
    if (moved) {
        if (name) {
            buf_fmt(&m, "ReplicaSet \"%s\" is progressing.", name);
        } else {
            buf_fmt(&m, "Deployment \"%s\" is progressing.", kube_name(r->d));
        }
        set(c, "Progressing", "True", "ReplicaSetUpdated", buf_cstr(&m));
        /* each move restarts the clock of the deadline */
        json_set_str(c->d, kube_condition(c->obj, "Progressing"), "lastUpdateTime", c->now);
        *ret_due_s = (uint64_t)deadline + 1;
        return;
    }
    if (str_eq(was, "NewReplicaSetAvailable") || str_eq(was, "ProgressDeadlineExceeded") || !old) {
        return; /* pods of a complete rollout that fail later do not time it out */
    }
    uint64_t due = time_of(json_get(old, "lastUpdateTime")) + (uint64_t)deadline, now = ctl_now_s();
    if (due >= now) {
        *ret_due_s = due - now + 1;
        return;
    }
    if (name) {
        buf_fmt(&m, "ReplicaSet \"%s\" has timed out progressing.", name);
    } else {
        buf_fmt(&m, "Deployment \"%s\" has timed out progressing.", kube_name(r->d));
    }
    set(c, "Progressing", "False", "ProgressDeadlineExceeded", buf_cstr(&m));
}

struct json *deploy_status(struct drun *r, struct json_doc *d, const char *progress_reason,
                           const char *progress_message, uint64_t *ret_due_s) {
    int64_t total = sum_status(r, "replicas"), ready = sum_status(r, "readyReplicas"),
            available = sum_status(r, "availableReplicas"),
            terminating = sum_status(r, "terminatingReplicas");
    int64_t updated = r->cur ? r->cur->status_replicas : 0;
    int64_t unavailable = deploy_sum(r, false) - available;
    struct json *st = json_new_obj(d);
    const struct {
        const char *name;
        int64_t v;
    } fields[] = {{"observedGeneration", json_i64_at(r->d, 0, "metadata", "generation")},
                  {"replicas", total},
                  {"updatedReplicas", updated},
                  {"readyReplicas", ready},
                  {"availableReplicas", available},
                  {"unavailableReplicas", unavailable > 0 ? unavailable : 0},
                  {"terminatingReplicas", terminating},
                  {"collisionCount", json_i64_at(r->d, 0, "status", "collisionCount")}};
    for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
        if (fields[i].v) {
            json_set_i64(d, st, fields[i].name, fields[i].v);
        }
    }
    if (!terminating && json_get(json_get(r->d, "status"), "terminatingReplicas")) {
        json_set_i64(d, st, "terminatingReplicas", 0);
    }
    struct cond c = {.d = d, .obj = json_new_obj(d)};
    ctl_now(c.now);
    struct json *holder = json_set_obj(d, c.obj, "status");
    struct json *old = json_at(r->d, "status", "conditions");
    if (old) {
        json_set(d, holder, "conditions", json_copy(d, old));
    }
    if (available >= r->want - (r->is_recreate ? 0 : r->unavailable)) {
        set(&c, "Available", "True", "MinimumReplicasAvailable",
            "Deployment has minimum availability.");
    } else {
        set(&c, "Available", "False", "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.");
    }
    progressing(r, &c, has_progressed(r, updated, ready, available, total), progress_reason,
                progress_message, ret_due_s);
    const struct json *fail = failing_set(r);
    if (fail) {
        set(&c, "ReplicaFailure", json_str_or(json_get(fail, "status"), "True"),
            json_str_or(json_get(fail, "reason"), ""), json_str_or(json_get(fail, "message"), ""));
    } else {
        drop(&c, "ReplicaFailure");
    }
    struct json *conds = json_at(c.obj, "status", "conditions");
    if (json_len(conds)) {
        json_set(d, st, "conditions", json_copy(d, conds));
    }
    return st;
}
