/* Brings one pod to what its spec asks for, one step at a time:
 *
 *   refs ─▶ volumes ─▶ sandbox ─▶ init containers, in order ─▶ containers ─▶ … ─▶ end: stop, remove, delete
 *
 * Each step starts one thing in the runtime and ends; when that is done the runtime is listed again and the next step is
 * chosen from what is really there. So a step may fail, or the kubelet may be restarted, at any moment. */
#include "internal/kubelet/kl_int.h"

#include "internal/base/rand.h"
#include "internal/kube/kube.h"
#include "internal/log/log.h"
#include "internal/sys/sys.h"

#include <stdlib.h>

enum {
    REFRESH_S = 60,
    MOUNT_RETRY_S = 5,
    SANDBOX_RETRY_S = 5,
    TICK_MIN_MS = 20,
    LIM_DESCRIBE = 4 << 20,
    POST_START_S = 300, /* a pod that waits for its hook can neither end nor change */
    STOP_MIN_S = 2      /* what a container gets whose hook took all the grace period */
};

static void step(struct kl_pod *p);

static void on_hook(void *ctx) {
    step(ctx);
}

void kl_sync_soon(struct kl_pod *p) {
    if (p->k->is_stopped) {
        return;
    }
    loop_before_sleep(p->k->l, &p->hook, on_hook, p);
}

static void on_timer(struct loop_timer *t) {
    kl_sync_soon(CONTAINER_OF(t, struct kl_pod, timer));
}

/* The earliest of several wishes wins. */
void kl_sync_after(struct kl_pod *p, uint64_t ns) {
    uint64_t due = loop_now(p->k->l) + ns;
    if (p->k->is_stopped) {
        return;
    }
    if (!loop_timer_active(&p->timer) || p->timer.due_ns > due) {
        loop_timer_stop(&p->timer);
        loop_timer_start(p->k->l, &p->timer, ns, on_timer, "pod");
    }
}

void kl_event(struct kl_pod *p, const char *type, const char *reason, const char *fmt, ...) {
    AUTO(buf) struct buf b = BUF_INIT(2048);
    va_list ap;
    va_start(ap, fmt);
    buf_vfmt(&b, fmt, ap);
    va_end(ap);
    if (p->obj && !p->is_gone && !p->k->is_stopped) {
        AUTO(json_docp) struct json_doc *d = json_doc_new();
        struct json *o = json_copy(d, p->obj);
        json_set_str(d, o, "apiVersion", "v1");
        json_set_str(d, o, "kind", "Pod");
        kevent(p->k->events, o, type, reason, "%s", buf_cstr(&b));
    }
}

bool kl_pod_is_terminal(const struct kl_pod *p) {
    return str_eq(p->phase, "Succeeded") || str_eq(p->phase, "Failed");
}

/* The next step waits for a listing that begins now or later. */
static void done_with_runtime(struct kl_pod *p) {
    p->is_busy = false;
    p->need_list = p->k->list_started + 1;
    kl_relist(p->k);
}

static void text(char *dst, size_t cap, const char *s) {
    size_t n = strlen(s);
    n = n < cap ? n : cap - 1;
    memcpy(dst, s, n);
    dst[n] = 0;
}

static void waiting(struct kl_ctr *c, const char *reason, const char *message) {
    text(c->wait_reason, sizeof(c->wait_reason), reason);
    text(c->wait_message, sizeof(c->wait_message), message);
}

/* ---- starting a container: image, create, start ---- */

struct starter {
    struct kl_ctr *c;
    struct arena mem;
    char *image_ref, *id;
    uint64_t began_ns;
};

static void starter_free(struct starter *s) {
    arena_fini(&s->mem);
    free(s->image_ref);
    free(s->id);
    free(s);
}

/* The next try is backoff_ns from now, the one after it twice as far. */
static void back_off(struct kl_ctr *c) {
    struct kubelet *k = c->pod->k;
    c->backoff_ns = c->backoff_ns ? c->backoff_ns : k->o.backoff_min_ns;
    c->retry_at_ns = loop_now(k->l) + c->backoff_ns;
    c->backoff_ns =
        c->backoff_ns * 2 > k->o.backoff_max_ns ? k->o.backoff_max_ns : c->backoff_ns * 2;
}

static void start_failed(struct starter *s, const char *reason, const char *event,
                         const struct err *e) {
    struct kl_ctr *c = s->c;
    waiting(c, reason, e->msg);
    kl_event(c->pod, "Warning", event, "%s", e->msg);
    LOG_WARN("kubelet", "container not started, trying again later", F_STR("pod", c->pod->name),
             F_STR("container", c->name), F_ERR(e));
    back_off(c);
    struct kl_pod *p = c->pod;
    starter_free(s);
    done_with_runtime(p);
}

static void on_started(void *ctx, int rc, const struct err *e) {
    struct starter *s = ctx;
    struct kl_ctr *c = s->c;
    if (rc < 0) {
        start_failed(s, "RunContainerError", "Failed", e);
        return;
    }
    kl_event(c->pod, "Normal", "Started", "Started container %s", c->name);
    waiting(c, "", "");
    c->must_restart = false;
    c->post_start_due = kl_hook_of(c, "postStart") != NULL;
    struct kl_pod *p = c->pod;
    starter_free(s);
    done_with_runtime(p);
}

static void on_created(void *ctx, int rc, const char *id, const struct err *e) {
    struct starter *s = ctx;
    if (s->c->pod->k->is_stopped) {
        starter_free(s);
        return;
    }
    if (rc < 0) {
        start_failed(s, "CreateContainerError", "Failed", e);
        return;
    }
    kl_event(s->c->pod, "Normal", "Created", "Created container: %s", s->c->name);
    s->id = str_dup(id);
    s->c->pod->k->o.ops->container_start(s->c->pod->k->o.rt, s->id, on_started, s);
}

static void create(struct starter *s) {
    struct kl_ctr *c = s->c;
    struct kl_pod *p = c->pod;
    struct kubelet_sandbox sb;
    struct kubelet_container kc;
    struct err e = ERR_INIT;
    char dir[768];
    if (kl_sandbox_describe(p, &s->mem, &sb, &e) < 0 ||
        kl_container_describe(c, &s->mem, s->image_ref, &kc, &e) < 0) {
        start_failed(s, "CreateContainerConfigError", "Failed", &e);
        return;
    }
    if (str_put(dir, sizeof(dir), "%s/%s", p->log_dir, c->name) < 0 ||
        sys_mkdirs(dir, 0755, &e) < 0) {
        start_failed(s, "CreateContainerError", "Failed", &e);
        return;
    }
    p->k->o.ops->container_create(p->k->o.rt, p->sandbox_id, &sb, &kc, on_created, s);
}

static void on_pulled(void *ctx, int rc, const char *ref, const struct err *e) {
    struct starter *s = ctx;
    if (s->c->pod->k->is_stopped) {
        starter_free(s);
        return;
    }
    const char *image = json_str_or(json_get(kl_ctr_spec(s->c), "image"), "");
    if (rc < 0) {
        struct err why = ERR_INIT;
        err_set(&why, e->code, "Failed to pull image \"%s\": %s", image, e->msg);
        start_failed(s, s->c->backoff_ns ? "ImagePullBackOff" : "ErrImagePull", "Failed", &why);
        return;
    }
    kl_event(s->c->pod, "Normal", "Pulled", "Successfully pulled image \"%s\" in %llums", image,
             (unsigned long long)((loop_now(s->c->pod->k->l) - s->began_ns) / NS_PER_MS));
    s->image_ref = str_dup(ref && *ref ? ref : image);
    create(s);
}

static void pull(struct starter *s, const char *image) {
    struct kl_pod *p = s->c->pod;
    const struct json *secrets[16];
    struct json_doc *docs[16];
    size_t n = 0;
    JSON_EACH(it, ref, json_at(p->obj, "spec", "imagePullSecrets")) {
        const struct json *sec = kl_ref_get(p, "secrets", json_str_or(json_get(ref, "name"), ""));
        AUTO(buf) struct buf raw = BUF_INIT(1 << 20);
        struct err e = ERR_INIT;
        if (sec && n < ARRAY_LEN(secrets) &&
            b64_decode(&raw, json_span(json_at(sec, "data", ".dockerconfigjson"))) == 0 &&
            json_parse(buf_view(&raw), 0, &docs[n], &e) == 0) {
            secrets[n] = json_root(docs[n]);
            n++;
        }
    }
    kl_event(p, "Normal", "Pulling", "Pulling image \"%s\"", image);
    s->began_ns = loop_now(p->k->l);
    p->k->o.ops->image_pull(p->k->o.rt, image, secrets, n, on_pulled, s);
    while (n-- > 0) {
        json_doc_free(docs[n]);
    }
}

/* Images that kfarm preloads are never asked of a registry: there is none by that name. */
static bool may_pull(const char *image, const char *policy, bool is_present) {
    if (str_eq(policy, "Never") || span_starts(span_str(image), "kfarm.internal/")) {
        return false;
    }
    return str_eq(policy, "Always") || !is_present;
}

static void on_image(void *ctx, int rc, const char *ref, const struct err *e) {
    struct starter *s = ctx;
    if (s->c->pod->k->is_stopped) {
        starter_free(s);
        return;
    }
    const struct json *spec = kl_ctr_spec(s->c);
    const char *image = json_str_or(json_get(spec, "image"), ""),
               *policy = json_str_or(json_get(spec, "imagePullPolicy"), "IfNotPresent");
    if (rc < 0) {
        start_failed(s, "ImageInspectError", "InspectFailed", e);
    } else if (may_pull(image, policy, ref != NULL)) {
        pull(s, image);
    } else if (!ref) {
        struct err why = ERR_INIT;
        err_set(&why, ERR_NOT_FOUND, "Container image \"%s\" is not present and may not be pulled",
                image);
        start_failed(s, "ErrImageNeverPull", "ErrImageNeverPull", &why);
    } else {
        kl_event(s->c->pod, "Normal", "Pulled", "Container image \"%s\" already present on machine",
                 image);
        s->image_ref = str_dup(ref);
        create(s);
    }
}

static void start(struct kl_ctr *c) {
    struct starter *s = new_zero(struct starter);
    s->c = c;
    s->mem = (struct arena)ARENA_INIT(LIM_DESCRIBE);
    c->pod->is_busy = true;
    if (!c->wait_reason[0]) {
        waiting(c, "ContainerCreating", "");
    }
    c->pod->k->o.ops->image_get(c->pod->k->o.rt, json_str_or(json_get(kl_ctr_spec(c), "image"), ""),
                                on_image, s);
}

/* ---- stopping ---- */

static void on_stopped(void *ctx, int rc, const struct err *e) {
    struct kl_pod *p = ctx;
    if (rc < 0) {
        LOG_WARN("kubelet", "container not stopped, trying again", F_STR("pod", p->name), F_ERR(e));
    }
    if (--p->stops_pending == 0) {
        done_with_runtime(p);
    }
}

static unsigned grace_of(const struct kl_pod *p) {
    int64_t g = json_i64_at(p->obj, 30, "spec", "terminationGracePeriodSeconds");
    if (kube_is_deleting(p->obj)) {
        g = json_i64_at(p->obj, g, "metadata", "deletionGracePeriodSeconds");
    }
    return p->is_gone || p->is_orphan ? 1 : g < 1 ? 1 : g > 3600 ? 3600 : (unsigned)g;
}

/* The hook's time is part of the grace period. */
static void on_pre_stop(void *ctx, int rc, const struct err *e) {
    struct kl_ctr *c = ctx;
    struct kl_pod *p = c->pod;
    uint64_t now = loop_now(p->k->l);
    uint64_t left = now < c->stop_due_ns ? (c->stop_due_ns - now) / NS_PER_S : 0;
    if (p->k->is_stopped) {
        return;
    }
    if (rc < 0) {
        kl_event(p, "Warning", "FailedPreStopHook", "PreStopHook failed: %s", e->msg);
    }
    p->k->o.ops->container_stop(p->k->o.rt, c->id, left > STOP_MIN_S ? (unsigned)left : STOP_MIN_S,
                                on_stopped, p);
}

static void stop(struct kl_ctr *c, const char *why) {
    struct kl_pod *p = c->pod;
    unsigned grace = grace_of(p);
    p->is_busy = true;
    p->stops_pending++;
    kl_probes_stop(c);
    kl_event(p, "Normal", "Killing", "%s", why);
    if (c->state == KUBELET_RUNNING && !p->is_gone && kl_hook_of(c, "preStop")) {
        c->stop_due_ns = loop_now(p->k->l) + grace * NS_PER_S;
        kl_hook_run(c, "preStop", grace, on_pre_stop, c);
    } else {
        p->k->o.ops->container_stop(p->k->o.rt, c->id, grace, on_stopped, p);
    }
}

static bool is_alive(const struct kl_ctr *c) {
    return c->exists && (c->state == KUBELET_RUNNING || c->state == KUBELET_CREATED ||
                         c->state == KUBELET_UNKNOWN);
}

/* All at once; true when something had to be stopped. */
static bool stop_all(struct kl_pod *p) {
    for (size_t i = 0; i < p->n_ctrs; i++) {
        if (is_alive(&p->ctrs[i])) {
            char why[300];
            IGNORE_ERR(str_put(why, sizeof(why), "Stopping container %s", p->ctrs[i].name),
                       "names fit");
            stop(&p->ctrs[i], why);
        }
    }
    return p->stops_pending > 0;
}

static void on_sandbox_done(void *ctx, int rc, const struct err *e) {
    struct kl_pod *p = ctx;
    if (rc < 0) {
        LOG_WARN("kubelet", "sandbox not stopped or removed, trying again", F_STR("pod", p->name),
                 F_ERR(e));
    }
    done_with_runtime(p);
}

static void on_api_deleted(void *ctx, int rc, struct json *obj, const struct err *e) {
    struct kl_pod *p = ctx;
    (void)obj;
    p->is_busy = false;
    p->deletion_sent = rc == 0 || rc == -ERR_NOT_FOUND || rc == -ERR_CONFLICT;
    if (rc == -ERR_NOT_FOUND || rc == -ERR_CONFLICT) {
        p->is_gone = true; /* the watch says so too, or another pod has the name by now */
        kl_sync_soon(p);
    } else if (rc < 0) {
        LOG_WARN("kubelet", "pod object not deleted, trying again", F_STR("pod", p->name),
                 F_ERR(e));
        kl_sync_after(p, 2 * NS_PER_S);
    }
}

static void delete_object(struct kl_pod *p) {
    AUTO(buf) struct buf path = BUF_INIT(1024), body = BUF_INIT(512);
    const struct kref r = {
        .group = "", .version = "v1", .resource = "pods", .ns = p->ns, .name = p->name};
    p->is_busy = true;
    kref_path(&r, &path);
    buf_fmt(&body,
            "{\"apiVersion\":\"v1\",\"kind\":\"DeleteOptions\",\"gracePeriodSeconds\":0,"
            "\"preconditions\":{\"uid\":\"%s\"}}",
            p->uid);
    kraw(p->k->c, "DELETE", buf_cstr(&path), "application/json", buf_view(&body), on_api_deleted,
         p);
}

static void end(struct kl_pod *p) {
    const struct kubelet_runtime_ops *ops = p->k->o.ops;
    struct err e = ERR_INIT;
    if (!p->is_ending) {
        p->is_ending = true;
        LOG_INFO("kubelet", "ending pod", F_STR("namespace", p->ns), F_STR("pod", p->name));
    }
    if (stop_all(p)) {
        return;
    }
    if (p->has_sandbox) {
        p->is_busy = true;
        (p->sandbox_ready ? ops->sandbox_stop : ops->sandbox_remove)(p->k->o.rt, p->sandbox_id,
                                                                     on_sandbox_done, p);
        return;
    }
    if (!p->is_cleaned) {
        p->is_cleaned = true;
        kl_volumes_remove(p);
    }
    if (p->is_gone || p->is_orphan) {
        if (p->is_sending || p->refs_pending > 0) {
            return; /* their callbacks come back here */
        }
        IGNORE_ERR(sys_rmtree(AT_FDCWD, p->log_dir, &e), "only space is lost");
        map_del_str(&p->k->pods, p->uid);
        kl_pod_free(p);
        return;
    }
    if (!p->deletion_sent && !p->is_sending) {
        kl_status_update(p);
        if (!p->is_sending) {
            delete_object(p);
        }
    }
}

/* ---- running ---- */

static const char *restart_policy(const struct kl_pod *p) {
    return json_str_or(json_at(p->obj, "spec", "restartPolicy"), "Always");
}

static bool wants_restart(const struct kl_ctr *c) {
    const char *policy = restart_policy(c->pod);
    if (c->is_sidecar) {
        return true;
    }
    if (c->is_init) {
        return c->exit_code != 0 && !str_eq(policy, "Never");
    }
    return str_eq(policy, "Always") || (str_eq(policy, "OnFailure") && c->exit_code != 0);
}

/* The container ran and ended, in this sandbox. */
static bool has_ended(const struct kl_ctr *c) {
    return c->exists && c->state == KUBELET_EXITED;
}

/* Once for every instance that ended: the first crash restarts at once, each further one waits twice as long, a long
 * good run forgives. */
static void note_end(struct kl_ctr *c) {
    struct kl_pod *p = c->pod;
    /* What never started has not run since 1970. */
    uint64_t ran =
        c->started_ns && c->finished_ns > c->started_ns ? c->finished_ns - c->started_ns : 0;
    if (!has_ended(c) || str_eq(c->noted_id, c->id)) {
        return;
    }
    text(c->noted_id, sizeof(c->noted_id), c->id);
    if (ran > p->k->o.backoff_reset_ns) {
        c->backoff_ns = 0;
    }
    if (c->backoff_ns == 0) {
        c->backoff_ns = p->k->o.backoff_min_ns;
        c->retry_at_ns = loop_now(p->k->l);
        return;
    }
    uint64_t wait = c->backoff_ns;
    back_off(c);
    waiting(c, "CrashLoopBackOff", "");
    IGNORE_ERR(str_put(c->wait_message, sizeof(c->wait_message),
                       "back-off %llus restarting failed container=%s pod=%s_%s(%s)",
                       (unsigned long long)(wait / NS_PER_S), c->name, p->name, p->ns, p->uid),
               "names are bounded");
    kl_event(p, "Warning", "BackOff", "Back-off restarting failed container %s in pod %s_%s(%s)",
             c->name, p->name, p->ns, p->uid);
}

/* Starts c unless its back-off says later. True: something was begun. */
static bool start_or_wait(struct kl_ctr *c) {
    struct kl_pod *p = c->pod;
    uint64_t now = loop_now(p->k->l);
    note_end(c);
    if (c->retry_at_ns > now) {
        kl_sync_after(p, c->retry_at_ns - now + TICK_MIN_MS * NS_PER_MS);
        return false;
    }
    start(c);
    return true;
}

/* Init containers, in order. 1: all done; 0: not yet; the pod's phase is Failed when one failed for good. */
static int inits(struct kl_pod *p) {
    for (size_t i = 0; i < p->n_ctrs && p->ctrs[i].is_init; i++) {
        struct kl_ctr *c = &p->ctrs[i];
        if (c->is_sidecar ? is_alive(c) && c->is_started : has_ended(c) && c->exit_code == 0) {
            continue;
        }
        if (c->exists && c->state == KUBELET_RUNNING) {
            return 0;
        }
        if (has_ended(c) && !wants_restart(c)) {
            text(p->phase, sizeof(p->phase), "Failed");
            return 0;
        }
        IGNORE_ERR(start_or_wait(c), "the same answer either way");
        return 0;
    }
    return 1;
}

static void containers(struct kl_pod *p) {
    for (size_t i = 0; i < p->n_ctrs; i++) {
        struct kl_ctr *c = &p->ctrs[i];
        if (c->must_restart && c->exists && c->state == KUBELET_RUNNING) {
            char why[300];
            IGNORE_ERR(str_put(why, sizeof(why), "Container %s failed %s probe, will be restarted",
                               c->name, c->is_started ? "liveness" : "startup"),
                       "names fit");
            stop(c, why);
            return;
        }
        bool ended = has_ended(c);
        if (c->is_init && !c->is_sidecar) {
            continue;
        }
        if ((!c->exists || c->state == KUBELET_CREATED || (ended && wants_restart(c))) &&
            start_or_wait(c)) {
            return; /* the others after the next listing */
        }
    }
}

static void on_sandbox_started(void *ctx, int rc, const char *id, const struct err *e) {
    struct kl_pod *p = ctx;
    (void)id;
    if (rc < 0) {
        kl_event(p, "Warning", "FailedCreatePodSandBox", "Failed to create pod sandbox: %s",
                 e->msg);
        LOG_WARN("kubelet", "sandbox not started, trying again", F_STR("pod", p->name), F_ERR(e));
        p->sandbox_attempt++;
        p->sandbox_retry_ns = loop_now(p->k->l) + SANDBOX_RETRY_S * NS_PER_S;
    }
    done_with_runtime(p);
}

static void sandbox(struct kl_pod *p) {
    struct arena mem = ARENA_INIT(LIM_DESCRIBE);
    struct kubelet_sandbox sb;
    struct err e = ERR_INIT;
    uint64_t now = loop_now(p->k->l);
    if (p->sandbox_retry_ns > now) {
        kl_sync_after(p, p->sandbox_retry_ns - now);
        return;
    }
    if (p->has_sandbox) { /* dead: make room for a new one */
        p->is_busy = true;
        p->k->o.ops->sandbox_remove(p->k->o.rt, p->sandbox_id, on_sandbox_done, p);
        p->sandbox_attempt++;
        return;
    }
    if (sys_mkdirs(p->log_dir, 0755, &e) < 0 || kl_sandbox_describe(p, &mem, &sb, &e) < 0) {
        kl_event(p, "Warning", "FailedCreatePodSandBox", "%s", e.msg);
        kl_sync_after(p, SANDBOX_RETRY_S * NS_PER_S);
    } else {
        p->is_busy = true;
        p->k->o.ops->sandbox_start(p->k->o.rt, &sb, on_sandbox_started, p);
    }
    arena_fini(&mem);
}

static void on_stale_done(void *ctx, int rc, const struct err *e) {
    struct kl_pod *p = ctx;
    if (rc < 0) {
        LOG_WARN("kubelet", "old container not removed, trying again", F_STR("pod", p->name),
                 F_ERR(e));
        p->is_busy = false;
        kl_sync_after(p, NS_PER_S); /* not at once: the next listing shows it again */
        return;
    }
    done_with_runtime(p);
}

static bool remove_stale(struct kl_pod *p) {
    if (p->n_stale == 0) {
        return false;
    }
    const struct kubelet_runtime_ops *ops = p->k->o.ops;
    size_t i = --p->n_stale;
    p->is_busy = true;
    (p->stale_is_sandbox[i] ? ops->sandbox_remove : ops->container_remove)(p->k->o.rt, p->stale[i],
                                                                           on_stale_done, p);
    return true;
}

/* Everything the pod refers to is here and its volumes are written; false: not yet. */
static bool prepare(struct kl_pod *p) {
    struct err e = ERR_INIT;
    uint64_t now = loop_now(p->k->l);
    if (kl_volumes_check(p, &e) < 0) {
        if (!p->has_refused) {
            p->has_refused = true;
            kl_event(p, "Warning", "FailedMount", "%s", e.msg);
        }
        return false;
    }
    if (p->refs_failed) {
        kl_event(p, "Warning", "FailedMount", "%s", p->refs_error);
        p->refs_failed = false;
        p->refs_retry_ns = now + MOUNT_RETRY_S * NS_PER_S;
    }
    if (p->refs_retry_ns > now) {
        kl_sync_after(p, p->refs_retry_ns - now);
        return p->volumes_ready;
    }
    bool is_old = p->refs_at_ns && kl_refs_wanted(p) && now - p->refs_at_ns > REFRESH_S * NS_PER_S;
    if (!p->refs_at_ns || is_old) {
        kl_refs_fetch(p);
        p->volumes_ready = p->volumes_ready && is_old;
        if (p->refs_pending > 0) {
            return false;
        }
    }
    if (kl_volumes_write(p, &e) < 0) {
        kl_event(p, "Warning", "FailedMount", "MountVolume.SetUp failed for %s", e.msg);
        kl_sync_after(p, MOUNT_RETRY_S * NS_PER_S);
        return p->volumes_ready;
    }
    p->volumes_ready = true;
    if (kl_refs_wanted(p)) {
        kl_sync_after(p, (REFRESH_S + 1 + rand_below(10)) * NS_PER_S);
    }
    return true;
}

/* Would anything run in a new sandbox? */
static bool needs_sandbox(const struct kl_pod *p) {
    for (size_t i = 0; i < p->n_ctrs; i++) {
        const struct kl_ctr *c = &p->ctrs[i];
        bool ended = c->id[0] && c->state == KUBELET_EXITED;
        if (!c->is_init && (!ended || wants_restart(c))) {
            return true;
        }
    }
    return false;
}

static bool deadline_passed(struct kl_pod *p) {
    int64_t limit = json_i64_at(p->obj, 0, "spec", "activeDeadlineSeconds");
    uint64_t now = clock_wall_ns();
    if (limit <= 0 || !p->start_wall_ns) {
        return false;
    }
    uint64_t due = p->start_wall_ns + (uint64_t)limit * NS_PER_S;
    if (now < due) {
        kl_sync_after(p, due - now);
        return false;
    }
    text(p->phase, sizeof(p->phase), "Failed");
    text(p->reason, sizeof(p->reason), "DeadlineExceeded");
    text(p->message, sizeof(p->message),
         "Pod was active on the node longer than the specified deadline");
    return true;
}

static void on_post_start(void *ctx, int rc, const struct err *e) {
    struct kl_ctr *c = ctx;
    struct kl_pod *p = c->pod;
    if (p->k->is_stopped) {
        return;
    }
    c->post_start_due = false;
    if (rc < 0) {
        kl_event(p, "Warning", "FailedPostStartHook", "PostStartHook failed: %s", e->msg);
        stop(c, "FailedPostStartHook");
    } else {
        done_with_runtime(p);
    }
}

/* One hook at a time; not for containers that an earlier kubelet started. */
static bool post_start(struct kl_pod *p) {
    for (size_t i = 0; i < p->n_ctrs; i++) {
        struct kl_ctr *c = &p->ctrs[i];
        if (c->post_start_due && c->exists && c->state == KUBELET_RUNNING) {
            p->is_busy = true;
            kl_hook_run(c, "postStart", POST_START_S, on_post_start, c);
            return true;
        }
    }
    return false;
}

static void run(struct kl_pod *p) {
    if (!p->start_wall_ns) {
        p->start_wall_ns = clock_wall_ns();
    }
    if (deadline_passed(p) || kl_pod_is_terminal(p)) {
        if (!stop_all(p) && p->has_sandbox && p->sandbox_ready) {
            p->is_busy = true;
            p->k->o.ops->sandbox_stop(p->k->o.rt, p->sandbox_id, on_sandbox_done, p);
        }
        return;
    }
    if (!prepare(p) || remove_stale(p)) {
        return;
    }
    if (!p->has_sandbox || !p->sandbox_ready) {
        if (needs_sandbox(p) && !p->is_busy) {
            sandbox(p);
        }
        return;
    }
    if (!post_start(p) && inits(p) == 1) {
        containers(p);
    }
}

static void step(struct kl_pod *p) {
    struct kubelet *k = p->k;
    if (p->is_busy || p->stops_pending > 0 || !k->has_listed || p->need_list > k->list_done) {
        return;
    }
    bool is_unclaimed = p->is_orphan && k->pod_informer && kinformer_synced(k->pod_informer);
    if (p->is_gone || is_unclaimed || (p->obj && kube_is_deleting(p->obj))) {
        end(p);
        return;
    }
    if (!p->obj || p->refs_pending > 0) {
        return;
    }
    run(p);
    kl_status_update(p);
    if (kl_pod_is_terminal(p) && p->has_sandbox && p->sandbox_ready && !p->is_busy) {
        kl_sync_soon(p); /* it has just ended: what is left is stopped */
    }
}
