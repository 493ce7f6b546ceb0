/* Status of pods: computed from what runs, sent when it differs from what was sent last. */
#include "internal/kubelet/kl_int.h"

#include "internal/base/rand.h"
#include "internal/kube/kube.h"
#include "internal/log/log.h"
#include "internal/sys/sys.h"

void kl_time(uint64_t wall_ns, char dst[TIME_STR]) {
    time_rfc3339(wall_ns / NS_PER_S, dst);
}

static void set_time(struct json_doc *d, struct json *o, const char *key, uint64_t wall_ns) {
    char t[TIME_STR];
    if (wall_ns) {
        kl_time(wall_ns, t);
        json_set_str(d, o, key, t);
    } else {
        json_set(d, o, key, json_new_null(d));
    }
}

static void terminated(struct kl_ctr *c, struct json_doc *d, struct json *state, const char *id,
                       int exit_code, int sig, const char *reason, const char *message,
                       uint64_t started, uint64_t finished) {
    struct json *t = json_set_obj(d, state, "terminated");
    json_set_i64(d, t, "exitCode", exit_code);
    if (sig) {
        json_set_i64(d, t, "signal", sig);
    }
    json_set_str(d, t, "reason", *reason ? reason : exit_code == 0 ? "Completed" : "Error");
    if (*message) {
        json_set_str(d, t, "message", message);
    }
    set_time(d, t, "startedAt", started);
    set_time(d, t, "finishedAt", finished);
    if (*id) {
        json_set(d, t, "containerID", json_new_fmt(d, "%s://%s", c->pod->k->o.ops->name, id));
    }
}

/* What the program left in its termination message file; the runtime's own words otherwise. */
static void end_message(struct kl_ctr *c) {
    AUTO(buf) struct buf b = BUF_INIT(sizeof(c->message) - 1);
    struct err e = ERR_INIT;
    char path[800];
    if (c->message[0] || c->state != KUBELET_EXITED || !c->exists ||
        str_put(path, sizeof(path), "%s/containers/%s-%u", c->pod->dir, c->name, c->attempt) < 0) {
        return;
    }
    if (sys_file_read(AT_FDCWD, path, &b, &e) == 0 && b.n > 0 &&
        span_to_cstr(buf_view(&b), c->message, sizeof(c->message)) < 0) {
        c->message[0] = 0;
    }
}

static bool is_running(const struct kl_ctr *c) {
    return c->exists && c->state == KUBELET_RUNNING;
}

static bool has_ended(const struct kl_ctr *c) {
    return c->id[0] && c->state == KUBELET_EXITED;
}

static bool is_done(const struct kl_ctr *c) {
    return has_ended(c) && c->exit_code == 0;
}

static struct json *container_status(struct kl_ctr *c, struct json_doc *d) {
    struct json *o = json_new_obj(d), *state, *last;
    const struct json *spec = kl_ctr_spec(c);
    json_set_str(d, o, "name", c->name);
    state = json_set_obj(d, o, "state");
    last = json_set_obj(d, o, "lastState");
    end_message(c);
    bool waits = c->wait_reason[0] && !is_running(c) && !is_done(c);
    if (is_running(c)) {
        set_time(d, json_set_obj(d, state, "running"), "startedAt", c->started_ns);
    } else if (has_ended(c) && !waits) {
        terminated(c, d, state, c->id, c->exit_code, c->signal, c->reason, c->message,
                   c->started_ns, c->finished_ns);
    } else {
        bool init_first =
            !c->is_init && c->pod->n_ctrs > 0 && c->pod->ctrs[0].is_init && !c->wait_reason[0];
        struct json *w = json_set_obj(d, state, "waiting");
        json_set_str(d, w, "reason",
                     c->wait_reason[0] ? c->wait_reason
                     : init_first      ? "PodInitializing"
                                       : "ContainerCreating");
        if (c->wait_message[0]) {
            json_set_str(d, w, "message", c->wait_message);
        }
    }
    if (has_ended(c) && waits) {
        terminated(c, d, last, c->id, c->exit_code, c->signal, c->reason, c->message, c->started_ns,
                   c->finished_ns);
    } else if (c->last.is_set) {
        terminated(c, d, last, c->last.id, c->last.exit_code, c->last.signal, c->last.reason,
                   c->last.message, c->last.started_ns, c->last.finished_ns);
    }
    bool ready = c->is_init && !c->is_sidecar ? is_done(c) : is_running(c) && c->is_ready;
    json_set_bool(d, o, "ready", ready);
    json_set_i64(d, o, "restartCount", c->id[0] ? (int64_t)c->attempt : (int64_t)c->restarts);
    json_set_str(d, o, "image", json_str_or(json_get(spec, "image"), ""));
    json_set_str(d, o, "imageID", c->image_id);
    if (c->id[0]) {
        json_set(d, o, "containerID", json_new_fmt(d, "%s://%s", c->pod->k->o.ops->name, c->id));
    }
    json_set_bool(d, o, "started", is_running(c) && c->is_started);
    return o;
}

/* Phases are never left once they are Succeeded or Failed. */
static void phase(struct kl_pod *p) {
    size_t apps = 0, running = 0, ended = 0, failed = 0, will_restart = 0, unstarted = 0;
    const char *policy = json_str_or(json_at(p->obj, "spec", "restartPolicy"), "Always"), *now;
    if (kl_pod_is_terminal(p)) {
        return;
    }
    for (size_t i = 0; i < p->n_ctrs; i++) {
        const struct kl_ctr *c = &p->ctrs[i];
        if (c->is_init) {
            continue;
        }
        apps++;
        running += is_running(c);
        unstarted += c->id[0] == 0 && c->restarts == 0;
        if (has_ended(c)) {
            bool again =
                str_eq(policy, "Always") || (str_eq(policy, "OnFailure") && c->exit_code != 0);
            ended++;
            failed += c->exit_code != 0;
            will_restart += again && !kube_is_deleting(p->obj);
        }
    }
    if (ended == apps && apps > 0 && will_restart == 0) {
        now = failed ? "Failed" : "Succeeded";
    } else if (unstarted == apps) {
        now = "Pending";
    } else {
        now = unstarted > 0 && running == 0 && ended == 0 ? "Pending" : "Running";
    }
    IGNORE_ERR(str_put(p->phase, sizeof(p->phase), "%s", now), "fits");
}

static void condition(struct kl_pod *p, struct json_doc *d, struct json *list, const char *type,
                      bool yes, const char *reason, const char *message) {
    char now[TIME_STR];
    const char *status = yes ? "True" : "False", *since = NULL;
    JSON_EACH(it, old,
              json_at(p->sent ? json_root(p->sent) : json_get(p->obj, "status"), "conditions")) {
        if (str_eq(json_str_at(old, "type"), type) && str_eq(json_str_at(old, "status"), status)) {
            since = json_str_at(old, "lastTransitionTime");
        }
    }
    kl_time(clock_wall_ns(), now);
    struct json *c = json_new_obj(d);
    json_set_str(d, c, "type", type);
    json_set_str(d, c, "status", status);
    json_set(d, c, "lastProbeTime", json_new_null(d));
    json_set_str(d, c, "lastTransitionTime", since ? since : now);
    if (!yes && reason) {
        json_set_str(d, c, "reason", reason);
        json_set_str(d, c, "message", message);
    }
    json_push(list, c);
}

static bool is_ours(const char *type) {
    static const char *const ours[] = {"PodReadyToStartContainers", "Initialized", "Ready",
                                       "ContainersReady"};
    for (size_t i = 0; i < ARRAY_LEN(ours); i++) {
        if (str_eq(type, ours[i])) {
            return true;
        }
    }
    return false;
}

static bool gates_open(const struct kl_pod *p) {
    JSON_EACH(it, g, json_at(p->obj, "spec", "readinessGates")) {
        if (!kube_condition_is(p->obj, json_str_or(json_get(g, "conditionType"), ""), "True")) {
            return false;
        }
    }
    return true;
}

static void conditions(struct kl_pod *p, struct json_doc *d, struct json *st) {
    struct json *list = json_set_arr(d, st, "conditions");
    bool inited = true, ready = true, completed = str_eq(p->phase, "Succeeded");
    AUTO(buf) struct buf not_ready = BUF_INIT(4096), not_done = BUF_INIT(4096);
    for (size_t i = 0; i < p->n_ctrs; i++) {
        const struct kl_ctr *c = &p->ctrs[i];
        if (c->is_init && !(c->is_sidecar ? c->is_started : is_done(c))) {
            buf_fmt(&not_done, "%s%s", inited ? "" : " ", c->name);
            inited = false;
        }
        if ((!c->is_init || c->is_sidecar) && !(is_running(c) && c->is_ready)) {
            buf_fmt(&not_ready, "%s%s", ready ? "" : " ", c->name);
            ready = false;
        }
    }
    char text[600], init_text[600];
    IGNORE_ERR(str_put(text, sizeof(text), "containers with unready status: [%.500s]",
                       buf_cstr(&not_ready)),
               "bounded");
    const char *why = completed               ? "PodCompleted"
                      : kl_pod_is_terminal(p) ? "PodFailed"
                                              : "ContainersNotReady";
    condition(p, d, list, "PodReadyToStartContainers", p->has_sandbox && p->sandbox_ready, NULL,
              NULL);
    IGNORE_ERR(str_put(init_text, sizeof(init_text), "containers with incomplete status: [%.500s]",
                       buf_cstr(&not_done)),
               "bounded");
    condition(p, d, list, "Initialized", inited,
              completed ? "PodCompleted" : "ContainersNotInitialized", init_text);
    condition(p, d, list, "Ready", ready && gates_open(p), ready ? "ReadinessGatesNotReady" : why,
              ready       ? "a readiness gate is not True"
              : completed ? ""
                          : text);
    condition(p, d, list, "ContainersReady", ready, why, completed ? "" : text);
    JSON_EACH(it, c, json_at(p->obj, "status", "conditions")) {
        if (!is_ours(json_str_or(json_get(c, "type"), ""))) {
            json_push(list, json_copy(d, c));
        }
    }
}

struct json *kl_status_of(struct kl_pod *p, struct json_doc *d) {
    struct json *st = json_new_obj(d), *lists[2];
    bool on_host = json_bool_at(p->obj, false, "spec", "hostNetwork");
    phase(p);
    json_set_str(d, st, "phase", p->phase);
    json_set_str(d, st, "reason", p->reason[0] ? p->reason : NULL);
    json_set_str(d, st, "message", p->message[0] ? p->message : NULL);
    conditions(p, d, st);
    if (p->k->o.n_ips) {
        json_set_str(d, st, "hostIP", p->k->o.ips[0]);
        struct json *ips = json_set_arr(d, st, "hostIPs");
        for (size_t i = 0; i < p->k->o.n_ips; i++) {
            struct json *o = json_new_obj(d);
            json_set_str(d, o, "ip", p->k->o.ips[i]);
            json_push(ips, o);
        }
    }
    size_t n = on_host ? (p->k->o.n_ips ? 1 : 0) : p->n_ips;
    if (n > 0 && (on_host ? p->has_sandbox : true)) {
        struct json *ips = json_set_arr(d, st, "podIPs");
        json_set_str(d, st, "podIP", on_host ? p->k->o.ips[0] : p->ips[0]);
        for (size_t i = 0; i < n; i++) {
            struct json *o = json_new_obj(d);
            json_set_str(d, o, "ip", on_host ? p->k->o.ips[i] : p->ips[i]);
            json_push(ips, o);
        }
    }
    set_time(d, st, "startTime", p->start_wall_ns);
    lists[0] = json_new_arr(d);
    lists[1] = json_new_arr(d);
    for (size_t i = 0; i < p->n_ctrs; i++) {
        json_push(lists[p->ctrs[i].is_init], container_status(&p->ctrs[i], d));
    }
    if (json_len(lists[1]) > 0) {
        json_set(d, st, "initContainerStatuses", lists[1]);
    }
    json_set(d, st, "containerStatuses", lists[0]);
    return st;
}

static void send_status(struct kl_pod *p);

static void on_sent(void *ctx, int rc, struct json *obj, const struct err *e) {
    struct kl_pod *p = ctx;
    (void)obj;
    p->is_sending = false;
    if (p->k->is_stopped) {
        return;
    }
    if (rc == -ERR_NOT_FOUND || rc == -ERR_CONFLICT) {
        p->send_failures = 0; /* deleted, or another pod by this name: the watch tells */
    } else if (rc < 0) {
        if (p->send_failures == 0) {
            LOG_WARN("kubelet", "pod status not written, trying again", F_STR("pod", p->name),
                     F_ERR(e));
        }
        json_doc_free(p->sent);
        p->sent = NULL;
        p->send_failures++;
        kl_sync_after(p, (p->send_failures < 5 ? 1 : 10) * NS_PER_S);
        return;
    }
    p->send_failures = 0;
    if (p->send_again) {
        p->send_again = false;
        send_status(p);
    }
    kl_sync_soon(p);
}

static void send_status(struct kl_pod *p) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json_doc *now = json_doc_new();
    json_set_root(now, kl_status_of(p, now));
    if (p->sent && json_eq(json_root(p->sent), json_root(now))) {
        json_doc_free(now);
        return;
    }
    json_doc_free(p->sent);
    p->sent = now;
    struct json *patch = json_new_obj(d);
    json_set_str(d, json_set_obj(d, patch, "metadata"), "uid", p->uid);
    json_set(d, patch, "status", json_copy(d, json_root(now)));
    const struct kref r = {.group = "",
                           .version = "v1",
                           .resource = "pods",
                           .ns = p->ns,
                           .name = p->name,
                           .subresource = "status"};
    p->is_sending = true;
    kpatch(p->k->c, &r, KPATCH_MERGE, patch, "kubelet", on_sent, p);
}

void kl_status_update(struct kl_pod *p) {
    if (p->is_gone || !p->obj) {
        return;
    }
    if (p->is_sending) {
        p->send_again = true;
        return;
    }
    send_status(p);
}
