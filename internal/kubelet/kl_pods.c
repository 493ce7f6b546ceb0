/* The table of pods: fed by the API's watch on one side and by listings of the runtime on the other. */
#include "internal/kubelet/kl_int.h"

#include "internal/base/rand.h"
#include "internal/kube/kube.h"
#include "internal/log/log.h"
#include "internal/podspec/podspec.h"
#include "internal/sys/sys.h"

#include <stdlib.h>

enum { RELIST_S = 60 }; /* in case an event was lost */

struct kl_pod *kl_pod_find(const struct kubelet *k, const char *ns, const char *name) {
    struct map_iter it = {0};
    struct kl_pod *found = NULL;
    for (struct map_entry *e; map_next(&k->pods, &it, &e);) {
        struct kl_pod *p = e->value;
        if (str_eq(p->ns, ns) && str_eq(p->name, name) && (!found || !p->is_gone)) {
            found = p;
        }
    }
    return found;
}

struct kl_ctr *kl_ctr_find(struct kl_pod *p, const char *name) {
    for (size_t i = 0; i < p->n_ctrs; i++) {
        if (str_eq(p->ctrs[i].name, name)) {
            return &p->ctrs[i];
        }
    }
    return NULL;
}

const struct json *kl_ctr_spec(const struct kl_ctr *c) {
    const struct json *spec = json_get(c->pod->obj, "spec");
    JSON_EACH(it, x, json_get(spec, c->is_init ? "initContainers" : "containers")) {
        if (str_eq(json_str_at(x, "name"), c->name)) {
            return x;
        }
    }
    return NULL;
}

void kl_pod_free(struct kl_pod *p) {
    for (size_t i = 0; i < p->n_ctrs; i++) {
        char *name = TAKE(*(char **)(void *)&p->ctrs[i].name);
        kl_probes_stop(&p->ctrs[i]);
        kl_hook_cancel(&p->ctrs[i]);
        free(name);
    }
    loop_timer_stop(&p->timer);
    if (p->hook.l) {
        loop_hook_cancel(&p->hook);
    }
    kl_refs_free(p);
    json_doc_free(p->doc);
    json_doc_free(p->sent);
    free(p->ctrs);
    free(p->uid);
    free(p->ns);
    free(p->name);
    free(p);
}

static void copy_text(char *dst, size_t cap, const char *s) {
    size_t n = s ? strlen(s) : 0;
    n = n < cap ? n : cap - 1;
    if (n > 0) {
        memcpy(dst, s, n);
    }
    dst[n] = 0;
}

/* What an earlier life of this kubelet reported: restart counts go on from there. */
static void read_status(struct kl_ctr *c, const struct json *status) {
    static const char *const lists[] = {"containerStatuses", "initContainerStatuses"};
    JSON_EACH(it, s, json_get(status, lists[c->is_init])) {
        if (!str_eq(json_str_at(s, "name"), c->name)) {
            continue;
        }
        const struct json *ended = json_at(s, "state", "terminated");
        bool has_run = json_get(json_get(s, "state"), "running") || ended ||
                       json_at(s, "lastState", "terminated");
        c->restarts = (unsigned)json_i64_at(s, 0, "restartCount");
        c->last.is_set = false;
        if (has_run) {
            c->restarts++;
        }
        if (ended && c->is_init && json_i64_at(ended, 1, "exitCode") == 0) {
            /* an init container that had finished need not run again unless the sandbox is new: it is, so it does */
            c->restarts--;
        }
    }
}

static void add_ctrs(struct kl_pod *p, const char *list, bool is_init) {
    JSON_EACH(it, x, json_at(p->obj, "spec", list)) {
        if (p->n_ctrs == LIM_KL_CONTAINERS) {
            return;
        }
        struct kl_ctr *c = &p->ctrs[p->n_ctrs++];
        c->pod = p;
        c->name = str_dup(json_str_or(json_get(x, "name"), ""));
        c->is_init = is_init;
        c->is_sidecar = is_init && str_eq(json_str_at(x, "restartPolicy"), "Always");
        c->state = KUBELET_UNKNOWN;
        for (size_t i = 0; i < KL_PROBES; i++) {
            c->probes[i].ctr = c;
            c->probes[i].kind = (enum kl_probe_kind)i;
        }
        read_status(c, json_get(p->obj, "status"));
    }
}

static struct kl_pod *pod_new(struct kubelet *k, const char *uid, const char *ns,
                              const char *name) {
    struct kl_pod *p = new_zero(struct kl_pod);
    p->k = k;
    p->uid = str_dup(uid);
    p->ns = str_dup(ns);
    p->name = str_dup(name);
    IGNORE_ERR(str_put(p->log_dir, sizeof(p->log_dir), "%s/%s_%s_%s", k->o.log_dir, ns, name, uid),
               "names are bounded");
    IGNORE_ERR(str_put(p->dir, sizeof(p->dir), "%s/pods/%s", k->o.root_dir, uid), "bounded");
    map_put_str(&k->pods, uid, p);
    return p;
}

static void set_object(struct kl_pod *p, const struct json *obj) {
    struct json_doc *d = json_doc_new();
    json_doc_free(p->doc);
    p->doc = d;
    p->obj = json_copy(d, obj);
    if (p->n_ctrs == 0) {
        size_t n = json_len(json_at(obj, "spec", "initContainers")) +
                   json_len(json_at(obj, "spec", "containers"));
        free(p->ctrs);
        p->ctrs =
            mem_zero_alloc((n < LIM_KL_CONTAINERS ? n : LIM_KL_CONTAINERS) * sizeof(*p->ctrs) + 1);
        add_ctrs(p, "initContainers", true);
        add_ctrs(p, "containers", false);
        copy_text(p->phase, sizeof(p->phase), json_str_at(obj, "status", "phase"));
        uint64_t at;
        if (time_parse(json_span(json_at(obj, "status", "startTime")), &at) == 0) {
            p->start_wall_ns = at;
        }
    }
}

void kl_pod_seen(struct kubelet *k, struct json *old, struct json *cur) {
    const struct json *o = cur ? cur : old;
    const char *uid = kube_uid(o);
    struct kl_pod *p = map_get_str(&k->pods, uid);
    if (!p && !cur) {
        return;
    }
    if (!p) {
        if (k->pods.n >= LIM_KUBELET_PODS) {
            LOG_WARN("kubelet", "too many pods, ignoring one", F_STR("pod", kube_name(o)));
            return;
        }
        p = pod_new(k, uid, kube_namespace(o), kube_name(o));
    }
    bool adopted = p->is_orphan;
    p->is_orphan = false;
    if (adopted &&
        cur) { /* its containers were seen before their names were known: look again, else they start twice */
        p->need_list = k->list_started + 1;
        kl_relist(k);
    }
    if (cur) {
        set_object(p, cur);
    } else {
        p->is_gone = true;
    }
    /* a pod of the same name with another uid replaces one whose deletion we missed */
    struct kl_pod *other = kl_pod_find(k, p->ns, p->name);
    if (other && other != p && cur) {
        other->is_gone = true;
        kl_sync_soon(other);
    }
    kl_sync_soon(p);
}

static void on_pod(void *ctx, struct json *old, struct json *cur) {
    kl_pod_seen(ctx, old, cur);
}

/* ---- listings ---- */

static void forget_runtime(struct kl_pod *p) {
    p->has_sandbox = p->sandbox_ready = false;
    p->n_stale = 0;
    for (size_t i = 0; i < p->n_ctrs; i++) {
        p->ctrs[i].exists = false;
    }
}

static void stale(struct kl_pod *p, const char *id, bool is_sandbox) {
    if (p->n_stale < ARRAY_LEN(p->stale)) { /* the others get their turn */
        copy_text(p->stale[p->n_stale], sizeof(p->stale[0]), id);
        p->stale_is_sandbox[p->n_stale++] = is_sandbox;
    }
}

static void take_sandbox(struct kubelet *k, const struct kubelet_sandbox_status *s) {
    struct kl_pod *p = map_get_str(&k->pods, s->uid);
    if (!p) {
        p = pod_new(k, s->uid, s->ns, s->name); /* the watch claims it, or it is an orphan */
        p->is_orphan = true;
    }
    if (p->has_sandbox && p->sandbox_attempt > s->attempt) {
        stale(p, s->id, true);
        return;
    }
    if (p->has_sandbox) {
        stale(p, p->sandbox_id, true);
    }
    p->has_sandbox = true;
    p->sandbox_ready = s->ready;
    p->sandbox_attempt = s->attempt;
    copy_text(p->sandbox_id, sizeof(p->sandbox_id), s->id);
    if (s->ready) {
        p->n_ips = 0;
        for (size_t i = 0; i < s->n_ips; i++) {
            copy_text(p->ips[p->n_ips++], sizeof(p->ips[0]), s->ips[i]);
        }
    }
}

static void remember_end(struct kl_ctr *c) {
    c->last = (struct kl_ended){.is_set = true,
                                .exit_code = c->exit_code,
                                .signal = c->signal,
                                .started_ns = c->started_ns,
                                .finished_ns = c->finished_ns};
    copy_text(c->last.id, sizeof(c->last.id), c->id);
    copy_text(c->last.reason, sizeof(c->last.reason), c->reason);
    copy_text(c->last.message, sizeof(c->last.message), c->message);
}

static void take_container(struct kubelet *k, const struct kubelet_container_status *s) {
    struct kl_pod *p = map_get_str(&k->pods, s->pod_uid);
    struct kl_ctr *c = p ? kl_ctr_find(p, s->name) : NULL;
    if (!p) {
        return; /* goes with its sandbox, which the next listing shows */
    }
    if (!c || !str_eq(s->sandbox_id, p->sandbox_id)) {
        return; /* of an older sandbox: removed with it */
    }
    if (c->exists && c->attempt > s->attempt) {
        stale(p, s->id, false);
        return;
    }
    if (c->exists) {
        stale(p, c->id, false);
    }
    if (c->id[0] && !str_eq(c->id, s->id) && c->state == KUBELET_EXITED) {
        remember_end(c);
    }
    bool is_new = !str_eq(c->id, s->id);
    c->exists = true;
    copy_text(c->id, sizeof(c->id), s->id);
    copy_text(c->image_id, sizeof(c->image_id), s->image_ref);
    copy_text(c->reason, sizeof(c->reason), s->reason);
    copy_text(c->message, sizeof(c->message), s->message);
    c->state = s->state;
    c->attempt = s->attempt;
    c->restarts = s->attempt;
    c->started_ns = s->started_wall_ns;
    c->finished_ns = s->finished_wall_ns;
    c->exit_code = s->exit_code;
    c->signal = s->signal;
    if (is_new || s->state != KUBELET_RUNNING) {
        c->must_restart = c->must_restart && s->state == KUBELET_RUNNING && !is_new;
    }
    if (s->state == KUBELET_RUNNING) {
        c->wait_reason[0] = 0;
    }
}

static void on_relist_timer(struct loop_timer *t) {
    kl_relist(CONTAINER_OF(t, struct kubelet, relist));
}

static void sync_all(struct kubelet *k) {
    struct map_iter it = {0};
    for (struct map_entry *e; map_next(&k->pods, &it, &e);) {
        struct kl_pod *p = e->value;
        for (size_t i = 0; i < p->n_ctrs; i++) {
            kl_probes_update(&p->ctrs[i]);
            kl_log_rotate(&p->ctrs[i]);
        }
        kl_sync_soon(p);
    }
}

static void start_watch(struct kubelet *k);

static void on_list(void *ctx, int rc, const struct kubelet_snapshot *s, const struct err *e) {
    struct kubelet *k = ctx;
    k->is_listing = false;
    if (k->is_stopped) {
        return;
    }
    if (rc < 0) {
        LOG_WARN("kubelet", "the runtime does not answer, continuing", F_ERR(e));
        if (k->rt_ready) {
            k->rt_ready = false;
            copy_text(k->rt_message, sizeof(k->rt_message), e->msg);
            kl_node_refresh(k);
        }
        loop_timer_start(k->l, &k->relist, 2 * NS_PER_S, on_relist_timer, "kubelet list");
        return;
    }
    struct map_iter it = {0};
    for (struct map_entry *me; map_next(&k->pods, &it, &me);) {
        forget_runtime(me->value);
    }
    for (size_t i = 0; i < s->n_sandboxes; i++) {
        take_sandbox(k, &s->sandboxes[i]);
    }
    for (size_t i = 0; i < s->n_containers; i++) {
        take_container(k, &s->containers[i]);
    }
    k->list_done = k->list_started;
    if (!k->has_listed) {
        k->has_listed = true;
        start_watch(k);
    }
    if (!k->rt_ready) {
        kl_node_refresh(k);
    }
    sync_all(k);
    if (k->list_again) {
        k->list_again = false;
        kl_relist(k);
    } else {
        loop_timer_start(k->l, &k->relist, RELIST_S * NS_PER_S, on_relist_timer, "kubelet list");
    }
}

void kl_relist(struct kubelet *k) {
    if (k->is_stopped) {
        return;
    }
    if (k->is_listing) {
        k->list_again = true;
        return;
    }
    loop_timer_stop(&k->relist);
    k->is_listing = true;
    k->list_started++;
    k->o.ops->list(k->o.rt, on_list, k);
}

void kubelet_runtime_changed(struct kubelet *k) {
    kl_relist(k);
}

/* Pods that only the runtime knows, once the API has told everything, have to go. */
static void on_synced(void *ctx) {
    sync_all(ctx);
}

static void start_watch(struct kubelet *k) {
    char selector[300];
    if (str_put(selector, sizeof(selector), "spec.nodeName=%s", k->o.node_name) < 0) {
        return;
    }
    const struct kinformer_opts o = {.ref = {.group = "", .version = "v1", .resource = "pods"},
                                     .field_selector = selector,
                                     .on_change = on_pod,
                                     .on_synced = on_synced,
                                     .ctx = k};
    k->pod_informer = kinformer_start(k->c, &o);
    if (!k->o.no_service_env) {
        const struct kinformer_opts so = {
            .ref = {.group = "", .version = "v1", .resource = "services"}};
        k->service_informer = kinformer_start(k->c, &so);
    }
}

int kubelet_new(const struct kubelet_opts *o, struct kubelet **ret, struct err *e) {
    struct kubelet *k = new_zero(struct kubelet);
    k->o = *o;
    k->l = o->loop;
    k->c = o->client;
    k->o.backoff_min_ns = o->backoff_min_ns ? o->backoff_min_ns : 10 * NS_PER_S;
    k->o.backoff_max_ns = o->backoff_max_ns ? o->backoff_max_ns : 300 * NS_PER_S;
    k->o.backoff_reset_ns = o->backoff_reset_ns ? o->backoff_reset_ns : 600 * NS_PER_S;
    k->o.max_pods = o->max_pods ? o->max_pods : 110;
    k->o.resolv_conf = o->resolv_conf ? o->resolv_conf : "/etc/resolv.conf";
    kubelet_set_tags(k, o->labels, o->taints);
    k->o.labels = k->o.taints = NULL;
    int rc = sys_mkdirs(o->root_dir, 0750, e);
    rc = rc < 0 ? rc : sys_mkdirs(o->log_dir, 0755, e);
    rc = rc < 0 ? rc : kl_node_start(k, e);
    rc = rc < 0 || !o->port || !o->server_tls ? rc : kl_serve_start(k, e);
    if (rc < 0) {
        kubelet_free(k);
        return rc;
    }
    k->events = kevents_new(k->c, "kubelet", o->node_name);
    kl_relist(k);
    *ret = k;
    return 0;
}

void kubelet_stop(struct kubelet *k) {
    if (!k || k->is_stopped) {
        return;
    }
    k->is_stopped = true;
    kl_serve_stop(k);
    kinformer_stop(k->pod_informer);
    kinformer_stop(k->service_informer);
    k->pod_informer = k->service_informer = NULL;
    kl_node_stop(k);
    loop_timer_stop(&k->relist);
    kevents_free(k->events);
    k->events = NULL;
}

void kubelet_free(struct kubelet *k) {
    if (!k) {
        return;
    }
    kubelet_stop(k);
    struct map_iter it = {0};
    for (struct map_entry *me; map_next(&k->pods, &it, &me);) {
        kl_pod_free(me->value);
    }
    map_fini(&k->pods);
    json_doc_free(k->tags);
    json_doc_free(k->sent_status);
    json_doc_free(k->info_doc);
    free(k);
}
