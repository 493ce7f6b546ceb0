#include "internal/scheduler/scheduler.h"

#include "internal/base/rand.h"
#include "internal/kube/kube.h"
#include "internal/log/log.h"
#include "internal/scheduler/sched_int.h"

#include <stdlib.h>

enum {
    BACKOFF_MIN_MS = 250,
    BACKOFF_MAX_MS = 10000,
    LEFTOVER_S = 300, /* an unschedulable pod is tried again at the latest after this */
    LIM_PENDING = 1 << 20,
};

/*  READY --popped--> (bound: freed)
 *    ^  \--no node--> PARKED --cluster changed / LEFTOVER_S--> BACKOFF --timer--> READY
 *    |                                                            ^
 *    +--timer-- BACKOFF <------------- binding failed ------------+
 *  BINDING: the request is on its way.
 */
enum pend_state { P_READY, P_PARKED, P_BACKOFF, P_BINDING };

/* A pod without a node. */
struct pend {
    struct scheduler *s;
    enum pend_state st;
    char *key, *uid;
    int64_t priority;
    uint64_t seq; /* order of arrival */
    size_t pos;   /* in the heap while READY */
    unsigned attempts;
    uint64_t moves; /* s->moves when the last attempt began */
    bool is_gone;   /* deleted while BINDING */
    bool
        wants_company; /* has required pod affinity: a pod that is bound may be what it waits for */
    struct loop_timer t;
    struct list link; /* in s->parked while PARKED */
};

struct scheduler {
    struct loop *l;
    struct kclient *w;
    char *name;
    struct kevents *ev;
    struct kfactory *f;
    struct kinformer *pods, *nodes, *namespaces, *claims, *volumes;
    struct scache cache;
    struct map pend; /* key → struct pend */
    struct pend **heap;
    size_t n_heap, cap_heap;
    struct list parked;
    struct loop_hook round;
    size_t n_unsynced;
    uint64_t seq, moves;
};

/* ---- queue: highest priority, then earliest ---- */

static bool before(const struct pend *a, const struct pend *b) {
    return a->priority != b->priority ? a->priority > b->priority : a->seq < b->seq;
}

static void heap_set(struct scheduler *s, size_t i, struct pend *p) {
    s->heap[i] = p;
    p->pos = i;
}

static void sift_up(struct scheduler *s, size_t i) {
    struct pend *p = s->heap[i];
    while (i && before(p, s->heap[(i - 1) / 2])) {
        heap_set(s, i, s->heap[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
    heap_set(s, i, p);
}

static void sift_down(struct scheduler *s, size_t i) {
    struct pend *p = s->heap[i];
    for (;;) {
        size_t k = 2 * i + 1;
        if (k >= s->n_heap) {
            break;
        }
        if (k + 1 < s->n_heap && before(s->heap[k + 1], s->heap[k])) {
            k++;
        }
        if (!before(s->heap[k], p)) {
            break;
        }
        heap_set(s, i, s->heap[k]);
        i = k;
    }
    heap_set(s, i, p);
}

static void round_of_pods(void *ctx);

static void kick(struct scheduler *s) {
    if (!s->n_unsynced && s->n_heap) {
        loop_before_sleep(s->l, &s->round, round_of_pods, s);
    }
}

static void leave(struct pend *p) {
    struct scheduler *s = p->s;
    loop_timer_stop(&p->t);
    if (p->st == P_READY) {
        struct pend *last = s->heap[--s->n_heap];
        if (last != p) {
            heap_set(s, p->pos, last);
            sift_up(s, last->pos);
            sift_down(s, last->pos);
        }
    } else if (p->st == P_PARKED) {
        list_del(&p->link);
    }
}

static void enter_ready(struct pend *p) {
    struct scheduler *s = p->s;
    if (s->n_heap == s->cap_heap) {
        s->cap_heap = s->cap_heap ? s->cap_heap * 2 : 16;
        s->heap = mem_array(s->heap, s->cap_heap, sizeof(struct pend *), LIM_PENDING);
        CHECK(s->heap);
    }
    p->st = P_READY;
    heap_set(s, s->n_heap, p);
    sift_up(s, s->n_heap++);
    kick(s);
}

static void on_backoff(struct loop_timer *t) {
    enter_ready(CONTAINER_OF(t, struct pend, t));
}

static void enter_backoff(struct pend *p) {
    uint64_t ms = BACKOFF_MIN_MS;
    for (unsigned k = 1; k < p->attempts && ms < BACKOFF_MAX_MS; k++) {
        ms *= 2;
    }
    p->st = P_BACKOFF;
    loop_timer_start(p->s->l, &p->t, (ms < BACKOFF_MAX_MS ? ms : BACKOFF_MAX_MS) * NS_PER_MS,
                     on_backoff, "sched-backoff");
}

static void on_leftover(struct loop_timer *t) {
    struct pend *p = CONTAINER_OF(t, struct pend, t);
    leave(p);
    enter_ready(p);
}

static void enter_parked(struct pend *p) {
    p->st = P_PARKED;
    list_add_tail(&p->s->parked, &p->link);
    loop_timer_start(p->s->l, &p->t, LEFTOVER_S * NS_PER_S, on_leftover, "sched-leftover");
}

/* Something changed that may help: everything parked (or what waits for other pods) is tried again. A first retry comes at once, later ones after a
 * pause that grows, so that a busy cluster does not try hopeless pods all the time. */
static void move_parked(struct scheduler *s, bool only_company) {
    s->moves += !only_company;
    for (LIST_EACH(l, next, &s->parked)) {
        struct pend *p = CONTAINER_OF(l, struct pend, link);
        if (only_company && !p->wants_company) {
            continue;
        }
        leave(p);
        if (p->attempts <= 1) {
            enter_ready(p);
        } else {
            enter_backoff(p);
        }
    }
}

static void pend_free(struct pend *p) {
    free(p->key);
    free(p->uid);
    free(p);
}

static void drop(struct scheduler *s, const char *key) {
    struct pend *p = map_del_str(&s->pend, key);
    if (!p) {
        return;
    }
    if (p->st == P_BINDING) {
        p->is_gone = true;
        return;
    }
    leave(p);
    pend_free(p);
}

static bool is_ours(struct scheduler *s, const struct json *pod) {
    return !*pod_node(pod) && pod_is_active(pod) &&
           str_eq(json_str_or(json_at(pod, "spec", "schedulerName"), "default-scheduler"),
                  s->name) &&
           !json_len(json_at(pod, "spec", "schedulingGates"));
}

static void add_pending(struct scheduler *s, const struct json *pod, const struct json *old) {
    char key[LIM_KKEY];
    kkey_of(pod, key);
    struct pend *p = map_get_str(&s->pend, key);
    if (p && !str_eq(p->uid, kube_uid(pod))) {
        drop(s, key);
        p = NULL;
    }
    if (p) {
        /* Its own status changes must not wake it; a changed spec (gates, tolerations) or labels may. */
        if (p->st == P_PARKED && old &&
            (!json_eq(json_get(old, "spec"), json_get(pod, "spec")) ||
             !json_eq(kube_labels(old), kube_labels(pod)))) {
            leave(p);
            enter_ready(p);
        }
        return;
    }
    p = new_zero(struct pend);
    p->s = s;
    p->key = str_dup(key);
    p->uid = str_dup(kube_uid(pod));
    p->priority = json_i64_at(pod, 0, "spec", "priority");
    p->seq = s->seq++;
    map_put_str(&s->pend, key, p);
    enter_ready(p);
}

/* ---- what the informers say ---- */

static void on_pod(void *ctx, struct json *old, struct json *cur) {
    struct scheduler *s = ctx;
    const struct json *pod = cur ? cur : old;
    bool took_room = map_get_str(&s->cache.pods, kube_uid(pod)) != NULL;
    scache_pod(&s->cache, pod, !cur);
    bool takes_room = map_get_str(&s->cache.pods, kube_uid(pod)) != NULL;
    if (took_room != takes_room) {
        move_parked(s, takes_room);
    }
    if (cur && is_ours(s, cur)) {
        add_pending(s, cur, old);
    } else {
        char key[LIM_KKEY];
        kkey_of(pod, key);
        struct pend *p = map_get_str(&s->pend, key);
        if (p && str_eq(p->uid, kube_uid(pod))) {
            drop(s, key);
        }
    }
}

static void on_node(void *ctx, struct json *old, struct json *cur) {
    struct scheduler *s = ctx;
    if (scache_node(&s->cache, old, cur)) {
        move_parked(s, false);
    }
}

static void on_volume(void *ctx, struct json *old, struct json *cur) {
    (void)old;
    if (cur) {
        move_parked(ctx, false);
    }
}

static void on_synced(void *ctx) {
    struct scheduler *s = ctx;
    s->n_unsynced--;
    kick(s);
}

/* ---- one pod ---- */

static void on_patched(void *ctx, int rc, struct json *obj, const struct err *e) {
    struct scheduler *s = ctx;
    if (rc == 0) {
        kinformer_put(s->pods, obj);
    } else if (rc != -ERR_NOT_FOUND && rc != -ERR_CONFLICT) {
        LOG_WARN("scheduler", "the pod's condition was not written, continuing", F_ERR(e));
    }
}

static void tell_unschedulable(struct scheduler *s, const struct json *pod, const char *message,
                               const char *nominated) {
    const struct json *c = kube_condition(pod, "PodScheduled");
    kevent(s->ev, pod, "Warning", "FailedScheduling", "%s", message);
    if (!nominated && str_eq(json_str(json_get(c, "status")), "False") &&
        str_eq(json_str(json_get(c, "message")), message)) {
        return;
    }
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *patch = json_new_obj(d), *st = json_set_obj(d, patch, "status");
    struct json *cond = json_new_obj(d);
    char now[TIME_STR];
    time_rfc3339(clock_wall_ns() / NS_PER_S, now);
    json_set_str(d, json_set_obj(d, patch, "metadata"), "uid", kube_uid(pod));
    json_set_str(d, cond, "type", "PodScheduled");
    json_set_str(d, cond, "status", "False");
    json_set_str(d, cond, "reason", "Unschedulable");
    json_set_str(d, cond, "message", message);
    if (!str_eq(json_str(json_get(c, "status")), "False")) {
        json_set_str(d, cond, "lastTransitionTime", now);
    }
    json_push(json_set_arr(d, st, "conditions"), cond);
    if (nominated) {
        json_set_str(d, st, "nominatedNodeName", nominated);
    }
    struct kref r = {"", "v1", "pods", kube_namespace(pod), kube_name(pod), "status"};
    kpatch(s->w, &r, KPATCH_STRATEGIC, patch, NULL, on_patched, s);
}

static void on_evicted(void *ctx, int rc, struct json *obj, const struct err *e) {
    (void)ctx, (void)obj;
    if (rc < 0 && rc != -ERR_NOT_FOUND) {
        LOG_WARN("scheduler", "a victim was not deleted, continuing", F_ERR(e));
    }
}

static const char *preempt(struct scheduler *s, struct sctx *x, const struct pend *p) {
    struct svictims v;
    struct snode *n = sched_preempt(x, p->priority, &v);
    for (size_t i = 0; n && i < v.n; i++) {
        const struct json *victim = v.v[i]->obj;
        struct kref r = {"", "v1", "pods", kube_namespace(victim), kube_name(victim), NULL};
        kevent(s->ev, victim, "Normal", "Preempted", "Preempted by pod %s on node %s", p->uid,
               n->name);
        kdelete(s->w, &r, NULL, kube_uid(victim), on_evicted, s);
    }
    return n ? n->name : NULL;
}

static void not_placed(struct scheduler *s, struct pend *p, struct sctx *x, struct sreasons *why) {
    AUTO(buf) struct buf msg = BUF_INIT(4096);
    size_t n_nodes = 0;
    for (size_t i = 0; i < s->cache.n; i++) {
        n_nodes += s->cache.arr[i]->obj != NULL;
    }
    if (n_nodes) {
        buf_fmt(&msg, "0/%zu nodes are available:", n_nodes);
        for (size_t i = 0; i < why->n; i++) {
            buf_fmt(&msg, "%s %zu %s", i ? "," : "", why->r[i].n, why->r[i].text);
        }
        buf_str(&msg, ".");
    } else {
        buf_str(&msg, "no nodes available to schedule pods");
    }
    const char *nominated = json_str_at(x->pod, "status", "nominatedNodeName");
    const char *node = n_nodes && !(nominated && *nominated) ? preempt(s, x, p) : NULL;
    uint64_t moves = p->moves;
    AUTO_FREE char *own_node = node ? str_dup(node) : NULL;
    enter_parked(p);
    tell_unschedulable(s, x->pod, buf_cstr(&msg), own_node);
    if (moves != s->moves && p->st == P_PARKED) {
        leave(p); /* it was helped meanwhile */
        enter_backoff(p);
    }
}

/* Claims must be bound, and their volumes reachable from the node. Returns the reason, or NULL when all is well. */
static const char *volumes_refuse(struct scheduler *s, const struct json *pod, char *node_of_volume,
                                  size_t cap) {
    *node_of_volume = 0;
    JSON_EACH(it, v, json_at(pod, "spec", "volumes")) {
        const char *claim = json_str_at(v, "persistentVolumeClaim", "claimName");
        AUTO_FREE char *made = NULL;
        if (!claim && json_get(v, "ephemeral")) {
            made = str_fmt("%s-%s", kube_name(pod), json_str_or(json_get(v, "name"), ""));
            claim = made;
        }
        if (!claim) {
            continue;
        }
        if (!s->claims) {
            s->claims = kfactory_all(s->f, "", "v1", "persistentvolumeclaims");
            s->volumes = kfactory_all(s->f, "", "v1", "persistentvolumes");
            kinformer_listen(s->claims, on_volume, s);
            kinformer_listen(s->volumes, on_volume, s);
        }
        const struct json *c = kinformer_get(s->claims, kube_namespace(pod), claim);
        if (!c) {
            return "persistentvolumeclaim not found";
        }
        if (!str_eq(json_str_at(c, "status", "phase"), "Bound")) {
            return "pod has unbound immediate PersistentVolumeClaims";
        }
        IGNORE_ERR(
            str_put(node_of_volume, cap, "%s", json_str_or(json_at(c, "spec", "volumeName"), "")),
            "names fit");
    }
    return NULL;
}

static bool volume_reaches(struct scheduler *s, const struct json *pod, const struct json *node) {
    JSON_EACH(it, v, json_at(pod, "spec", "volumes")) {
        const char *claim = json_str_at(v, "persistentVolumeClaim", "claimName");
        const struct json *c = claim ? kinformer_get(s->claims, kube_namespace(pod), claim) : NULL;
        const struct json *pv =
            c ? kinformer_get(s->volumes, NULL, json_str_or(json_at(c, "spec", "volumeName"), ""))
              : NULL;
        const struct json *terms =
            json_at(pv, "spec", "nodeAffinity", "required", "nodeSelectorTerms");
        bool ok = json_is_null(terms);
        JSON_EACH(it2, term, terms) {
            ok |= node_matches_term(node, term);
        }
        if (!ok) {
            return false;
        }
    }
    return true;
}

static void on_bound(void *ctx, int rc, struct json *obj, const struct err *e) {
    struct pend *p = ctx;
    struct scheduler *s = p->s;
    char ns[LIM_KKEY], name[LIM_KKEY];
    kkey_split(p->key, ns, name);
    const struct json *pod = kinformer_get(s->pods, ns, name);
    const struct spod *placed = map_get_str(&s->cache.pods, p->uid);
    (void)obj;
    if (rc == 0 && pod && placed && str_eq(kube_uid(pod), p->uid)) {
        kevent(s->ev, pod, "Normal", "Scheduled", "Successfully assigned %s to %s", p->key,
               placed->node->name);
    } else if (rc < 0) {
        scache_forget(&s->cache, p->uid);
    }
    if (p->is_gone) { /* the watch was faster, or the pod was deleted */
        pend_free(p);
        return;
    }
    if (rc == 0 || rc == -ERR_NOT_FOUND || !pod) {
        /* The watch will tell of the new state. */
        map_del_str(&s->pend, p->key);
        pend_free(p);
        return;
    }
    LOG_INFO("scheduler", "binding failed, trying again", F_STR("pod", p->key), F_ERR(e));
    kevent(s->ev, pod, "Warning", "FailedScheduling", "binding rejected: %s", e->msg);
    enter_backoff(p);
}

static void bind(struct scheduler *s, struct pend *p, const struct json *pod, struct snode *n) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *b = kube_object_new(d, "v1", "Binding", kube_namespace(pod), kube_name(pod));
    json_set_str(d, json_get(b, "metadata"), "uid", p->uid);
    struct json *target = json_set_obj(d, b, "target");
    json_set_str(d, target, "kind", "Node");
    json_set_str(d, target, "name", n->name);
    struct kref r = {"", "v1", "pods", kube_namespace(pod), kube_name(pod), "binding"};
    scache_assume(&s->cache, pod, n);
    p->st = P_BINDING;
    kcreate(s->w, &r, b, on_bound, p);
}

static void schedule(struct scheduler *s, struct pend *p) {
    char ns[LIM_KKEY], name[LIM_KKEY], volume[LIM_KKEY];
    kkey_split(p->key, ns, name);
    const struct json *pod = kinformer_get(s->pods, ns, name);
    leave(p);
    p->attempts++;
    p->moves = s->moves;
    CHECK(pod); /* on_pod drops the entry with the pod */
    struct sctx x;
    struct sreasons why = {.n = 0};
    sctx_init(&x, &s->cache, s->namespaces, pod);
    p->wants_company = json_len(json_at(pod, "spec", "affinity", "podAffinity",
                                        "requiredDuringSchedulingIgnoredDuringExecution")) > 0;
    const char *refused = volumes_refuse(s, pod, volume, sizeof(volume));
    if (refused) {
        enter_parked(p);
        tell_unschedulable(s, pod, refused, NULL);
        return;
    }
    x.volumes = *volume ? s : NULL;
    struct snode *n = sched_pick(&x, &why);
    if (n) {
        bind(s, p, pod, n);
    } else {
        not_placed(s, p, &x, &why);
    }
}

bool sched_volumes_reach(struct sctx *x, struct snode *n) {
    return !x->volumes || volume_reaches(x->volumes, x->pod, n->obj);
}

static void round_of_pods(void *ctx) {
    struct scheduler *s = ctx;
    for (int i = 0; i < LIM_SCHED_ROUND && s->n_heap; i++) {
        schedule(s, s->heap[0]);
    }
    kick(s);
}

/* ---- life ---- */

static void need(struct scheduler *s, struct kinformer *i) {
    s->n_unsynced++;
    kinformer_on_synced(i, on_synced, s);
}

struct scheduler *scheduler_start(struct kfactory *f, const struct scheduler_opts *o) {
    struct scheduler *s = new_zero(struct scheduler);
    s->f = f;
    s->w = o->writer ? o->writer : kfactory_client(f);
    s->l = kclient_loop(s->w);
    s->name = str_dup(o->name ? o->name : "default-scheduler");
    s->ev = kevents_new(s->w, s->name, NULL);
    list_init(&s->parked);
    s->nodes = kfactory_all(f, "", "v1", "nodes");
    s->pods = kfactory_all(f, "", "v1", "pods");
    s->namespaces = kfactory_all(f, "", "v1", "namespaces");
    kinformer_listen(s->nodes, on_node, s);
    kinformer_listen(s->pods, on_pod, s);
    need(s, s->nodes);
    need(s, s->pods);
    return s;
}
