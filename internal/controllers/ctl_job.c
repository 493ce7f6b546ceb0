/* Jobs: pods until enough have succeeded. A pod is counted exactly once: its uid goes into uncountedTerminatedPods, then
 * its finalizer is removed, then the counter rises (the order of upstream's job tracking with finalizers). */
#include "internal/controllers/ctl_int.h"

enum {
    BATCH = 100,
    BACKOFF_S = 10,
    MAX_BACKOFF_S = 600,
    LIM_UNCOUNTED = 500,
    LIM_INDEXES = 100000,
};

#define FINALIZER "batch.kubernetes.io/job-tracking"
#define ANN_INDEX "batch.kubernetes.io/job-completion-index"

struct jobctl {
    struct controllers *c;
    struct kevents *ev;
    struct kinformer *jobs;
    struct kqueue *q;
    struct kqueue *orphans; /* pods that no job counts any more */
};

struct jobrun {
    struct jobctl *ctl;
    struct objvec pods; /* owned; valid until the first answer */
    struct json *st;    /* the status to be */
    size_t n_active, n_ready, n_terminating;
    int64_t succeeded, failed; /* counted and uncounted */
    uint64_t last_failure_s;
    bool is_indexed;
    uint8_t *done;       /* indexes that have succeeded, a bit each */
    int64_t completions; /* -1: a work queue */
};

static const struct kref pods_ref = {"", "v1", "pods", NULL, NULL, NULL};

static const struct json *find(struct sync *s) {
    struct jobrun *r = s->data;
    return kinformer_get(r->ctl->jobs, s->ns, s->name);
}

static void fini(struct sync *s) {
    struct jobrun *r = s->data;
    objvec_fini(&r->pods);
    free(r->done);
}

static bool is_finished(const struct json *job) {
    return kube_condition_is(job, "Complete", "True") || kube_condition_is(job, "Failed", "True");
}

static bool has_phase(const struct json *pod, const char *phase) {
    return str_eq(json_str_at(pod, "status", "phase"), phase);
}

/* A pod on its way out counts as failed, unless it made it. */
static bool counts_as_failed(const struct json *pod) {
    return has_phase(pod, "Failed") || (kube_is_deleting(pod) && !has_phase(pod, "Succeeded"));
}

/* ---- completed indexes: "0-3,7" ---- */

static void index_set(struct jobrun *r, int64_t i) {
    if (i >= 0 && i < r->completions && r->done) {
        r->done[i / 8] = (uint8_t)(r->done[i / 8] | 1u << (i % 8));
    }
}
static bool index_is_set(const struct jobrun *r, int64_t i) {
    return r->done[i / 8] >> (i % 8) & 1;
}

static void indexes_parse(struct jobrun *r, struct span text) {
    struct span part, first;
    while (text.n && span_next(&text, ',', &part)) {
        uint64_t a, b;
        if (!span_next(&part, '-', &first) || span_to_u64(first, 0, LIM_INDEXES, &a) < 0) {
            continue;
        }
        if (!part.n || span_to_u64(part, a, LIM_INDEXES, &b) < 0) {
            b = a;
        }
        for (; a <= b; a++) {
            index_set(r, (int64_t)a);
        }
    }
}

static void indexes_write(const struct jobrun *r, struct buf *b) {
    for (int64_t i = 0; i < r->completions; i++) {
        int64_t end = i;
        if (!index_is_set(r, i)) {
            continue;
        }
        while (end + 1 < r->completions && index_is_set(r, end + 1)) {
            end++;
        }
        buf_fmt(b, "%s%lld", b->n ? "," : "", (long long)i);
        if (end > i) {
            buf_fmt(b, "%s%lld", end == i + 1 ? "," : "-", (long long)end);
        }
        i = end;
    }
}

static int64_t index_of(const struct json *pod) {
    const char *s = kube_annotation(pod, ANN_INDEX);
    int64_t v;
    return s && span_to_i64(span_str(s), 0, LIM_INDEXES, &v) == 0 ? v : -1;
}

/* ---- counting ---- */

static const struct json *pod_by_uid(const struct jobrun *r, const char *uid) {
    for (size_t i = 0; i < r->pods.n; i++) {
        if (str_eq(kube_uid(r->pods.v[i]), uid)) {
            return r->pods.v[i];
        }
    }
    return NULL;
}

static bool in_list(const struct json *list, const char *uid) {
    JSON_EACH(it, v, list) {
        if (str_eq(json_str(v), uid)) {
            return true;
        }
    }
    return false;
}

/* Moves uids whose finalizer is gone into the counter; adds those that ended since. */
static int64_t count_list(struct sync *s, const char *list_name, const char *counter,
                          bool failures) {
    struct jobrun *r = s->data;
    struct json *old = json_at(r->st, "uncountedTerminatedPods", list_name);
    struct json *list = json_new_arr(s->d);
    int64_t n = json_i64(json_get(r->st, counter), 0);
    JSON_EACH(it, uid, old) {
        const struct json *pod = pod_by_uid(r, json_str_or(uid, ""));
        if (pod && kube_has_finalizer(pod, FINALIZER)) {
            json_push(list, json_copy(s->d, uid));
        } else {
            n++;
        }
    }
    for (size_t i = 0; i < r->pods.n && json_len(list) < LIM_UNCOUNTED; i++) {
        const struct json *p = r->pods.v[i];
        bool ended = failures ? counts_as_failed(p) : has_phase(p, "Succeeded");
        if (ended && kube_has_finalizer(p, FINALIZER) && !in_list(list, kube_uid(p))) {
            json_push_str(s->d, list, kube_uid(p));
        }
    }
    if (n) {
        json_set_i64(s->d, r->st, counter, n);
    }
    n += (int64_t)json_len(list);
    struct json *un = json_need_obj(s->d, r->st, "uncountedTerminatedPods");
    json_del(un, list_name);
    if (json_len(list)) {
        json_set(s->d, un, list_name, list);
    }
    return n;
}

static uint64_t finished_at(const struct json *pod) {
    uint64_t last = 0, ns;
    JSON_EACH(it, c, json_at(pod, "status", "containerStatuses")) {
        const struct json *t = json_at(c, "state", "terminated", "finishedAt");
        if (json_is_str(t) && time_parse(json_span(t), &ns) == 0 && ns / NS_PER_S > last) {
            last = ns / NS_PER_S;
        }
    }
    return last ? last : kobj_created_s(pod);
}

static void count(struct sync *s, const struct json *job) {
    struct jobrun *r = s->data;
    if (r->is_indexed) {
        indexes_parse(r, json_span(json_get(r->st, "completedIndexes")));
    }
    for (size_t i = 0; i < r->pods.n; i++) {
        const struct json *p = r->pods.v[i];
        r->n_terminating += kube_is_deleting(p) && !pod_is_terminal(p);
        r->n_active += pod_is_active(p);
        r->n_ready += pod_is_active(p) && pod_is_ready(p);
        if (r->is_indexed && has_phase(p, "Succeeded")) {
            index_set(r, index_of(p));
        }
        if (has_phase(p, "Failed") && finished_at(p) > r->last_failure_s) {
            r->last_failure_s = finished_at(p);
        }
    }
    r->succeeded = count_list(s, "succeeded", "succeeded", false);
    r->failed = count_list(s, "failed", "failed", true);
    if (r->is_indexed) {
        AUTO(buf) struct buf b = BUF_INIT(1 << 20);
        r->succeeded = 0;
        for (int64_t i = 0; i < r->completions; i++) {
            r->succeeded += index_is_set(r, i);
        }
        indexes_write(r, &b);
        json_set_str(s->d, r->st, "completedIndexes", b.n ? buf_cstr(&b) : NULL);
    }
    (void)job;
}

/* ---- pods ---- */

static void on_created(struct sync *s, int rc, struct json *pod, const struct err *e) {
    struct jobrun *r = s->data;
    const struct json *job = find(s);
    if (job && rc == 0) {
        kevent(r->ctl->ev, job, "Normal", "SuccessfulCreate", "Created pod: %s", kube_name(pod));
    } else if (job && rc != -ERR_CANCELLED) {
        kevent(r->ctl->ev, job, "Warning", "FailedCreate", "Error creating: %s", e->msg);
    }
}

static void on_deleted(struct sync *s, int rc, struct json *pod, const struct err *e) {
    struct jobrun *r = s->data;
    const struct json *job = find(s);
    (void)e;
    if (job && rc == 0 && str_eq(json_str(json_get(pod, "kind")), "Pod")) {
        kevent(r->ctl->ev, job, "Normal", "SuccessfulDelete", "Deleted pod: %s", kube_name(pod));
    }
}

static void set_index(struct json_doc *d, struct json *pod, const struct json *job, int64_t i) {
    char text[24];
    IGNORE_ERR(str_put(text, sizeof(text), "%lld", (long long)i), "fits");
    kube_annotate(d, pod, ANN_INDEX, text);
    kube_label_set(d, pod, ANN_INDEX, text);
    json_set(d, json_get(pod, "metadata"), "generateName",
             json_new_fmt(d, "%s-%s-", kube_name(job), text));
    struct json *spec = json_get(pod, "spec");
    if (!json_get(spec, "hostname")) {
        json_set(d, spec, "hostname", json_new_fmt(d, "%s-%s", kube_name(job), text));
    }
    static const char *const lists[] = {"containers", "initContainers"};
    for (size_t k = 0; k < ARRAY_LEN(lists); k++) {
        JSON_EACH(it, c, json_get(spec, lists[k])) {
            struct json *env = json_need_arr(d, c, "env"), *v = json_new_obj(d);
            json_set_str(d, v, "name", "JOB_COMPLETION_INDEX");
            json_set_str(d, v, "value", text);
            json_push(env, v);
        }
    }
}

static int64_t next_index(struct jobrun *r, int64_t from) {
    for (int64_t i = from; i < r->completions; i++) {
        bool taken = index_is_set(r, i);
        for (size_t k = 0; k < r->pods.n && !taken; k++) {
            taken = pod_is_active(r->pods.v[k]) && index_of(r->pods.v[k]) == i;
        }
        if (!taken) {
            return i;
        }
    }
    return -1;
}

static void delete_active(struct sync *s, size_t n) {
    struct jobrun *r = s->data;
    struct objvec active = {NULL, 0, 0};
    for (size_t i = 0; i < r->pods.n; i++) {
        if (pod_is_active(r->pods.v[i])) {
            objvec_add(&active, r->pods.v[i]);
        }
    }
    ctl_sort_victims(NULL, &active);
    for (size_t i = 0; i < active.n && i < n; i++) {
        struct kref ref = ctl_ref("", "v1", "pods", active.v[i], NULL);
        sync_delete(s, r->ctl->c->pods, &ref, NULL, kube_uid(active.v[i]), on_deleted);
    }
    objvec_fini(&active);
}

static void create_pods(struct sync *s, const struct json *job, int64_t n) {
    struct jobrun *r = s->data;
    int64_t index = -1;
    for (int64_t i = 0; i < n && i < BATCH; i++) {
        struct json *pod = ctl_pod(s->d, json_at(job, "spec", "template"), job);
        kube_finalizer_add(s->d, pod, FINALIZER);
        if (r->is_indexed) {
            index = next_index(r, index + 1);
            if (index < 0) {
                return;
            }
            set_index(s->d, pod, job, index);
        }
        struct kref ref = {"", "v1", "pods", s->ns, NULL, NULL};
        sync_create(s, r->ctl->c->pods, &ref, pod, on_created);
    }
}

/* After failures new pods wait: 10 s, 20 s, 40 s … from the last one. 0: not now. */
static bool may_create(struct sync *s) {
    struct jobrun *r = s->data;
    uint64_t wait = BACKOFF_S, now = ctl_now_s();
    for (int64_t i = 1; i < r->failed && wait < MAX_BACKOFF_S; i++) {
        wait *= 2;
    }
    wait = wait < MAX_BACKOFF_S ? wait : MAX_BACKOFF_S;
    if (!r->failed || !r->last_failure_s || r->last_failure_s + wait <= now) {
        return true;
    }
    kqueue_add_after(r->ctl->q, s->key, (r->last_failure_s + wait - now) * NS_PER_S);
    return false;
}

static void manage(struct sync *s, const struct json *job) {
    struct jobrun *r = s->data;
    int64_t parallel = json_i64_at(job, 1, "spec", "parallelism"), want,
            active = (int64_t)r->n_active;
    if (r->completions < 0) {
        want = r->succeeded > 0 && active < parallel ? active : parallel;
    } else {
        int64_t left = r->completions - r->succeeded;
        want = left < parallel ? left : parallel;
    }
    want = want < 0 ? 0 : want;
    if (active > want) {
        delete_active(s, (size_t)(active - want));
    } else if (active < want) {
        int64_t n = want - active - (int64_t)r->n_terminating;
        if (n > 0 && may_create(s)) {
            create_pods(s, job, n);
        }
    }
}

/* ---- verdict ---- */

static int64_t restarts(const struct jobrun *r) {
    int64_t n = 0;
    for (size_t i = 0; i < r->pods.n; i++) {
        JSON_EACH(it, c, json_at(r->pods.v[i], "status", "containerStatuses")) {
            n += json_i64(json_get(c, "restartCount"), 0);
        }
    }
    return n;
}

/* Reason of failure, or NULL. */
static const char *failure(struct sync *s, const struct json *job, const char **ret_message) {
    struct jobrun *r = s->data;
    const struct json *target = kube_condition(job, "FailureTarget");
    int64_t limit = json_i64_at(job, 6, "spec", "backoffLimit");
    if (target) {
        *ret_message = json_str_or(json_get(target, "message"), "");
        return json_str_or(json_get(target, "reason"), "BackoffLimitExceeded");
    }
    bool in_place =
        str_eq(json_str_at(job, "spec", "template", "spec", "restartPolicy"), "OnFailure");
    if (r->failed > limit || (in_place && restarts(r) > limit)) {
        *ret_message = "Job has reached the specified backoff limit";
        return "BackoffLimitExceeded";
    }
    const struct json *deadline = json_at(job, "spec", "activeDeadlineSeconds");
    uint64_t start, now = ctl_now_s();
    if (json_is_int(deadline) && json_is_str(json_get(r->st, "startTime")) &&
        time_parse(json_span(json_get(r->st, "startTime")), &start) == 0) {
        uint64_t due = start / NS_PER_S + (uint64_t)json_i64(deadline, 0);
        if (due <= now) {
            *ret_message = "Job was active longer than specified deadline";
            return "DeadlineExceeded";
        }
        kqueue_add_after(r->ctl->q, s->key, (due - now) * NS_PER_S);
    }
    return NULL;
}

static void condition(struct sync *s, const char *type, const char *status, const char *reason,
                      const char *message) {
    struct jobrun *r = s->data;
    char now[TIME_STR];
    struct json *holder = json_new_obj(s->d);
    json_set(s->d, holder, "status", json_copy(s->d, r->st));
    if (kube_condition_set(s->d, holder, type, status, reason, message, ctl_now(now))) {
        json_set_str(s->d, kube_condition(holder, type), "lastProbeTime", now);
    }
    r->st = json_copy(s->d, json_get(holder, "status"));
}

static bool is_complete(const struct jobrun *r) {
    return r->completions >= 0 ? r->succeeded >= r->completions : r->succeeded > 0 && !r->n_active;
}

static bool nothing_uncounted(const struct jobrun *r) {
    return !json_len(json_get(r->st, "uncountedTerminatedPods"));
}

static void conclude(struct sync *s, const struct json *job) {
    struct jobrun *r = s->data;
    const char *message = "", *reason = failure(s, job, &message);
    bool suspended = json_bool_at(job, false, "spec", "suspend");
    char now[TIME_STR];
    if (reason) {
        condition(s, "FailureTarget", "True", reason, message);
        delete_active(s, SIZE_MAX);
        if (!r->n_active && !r->n_terminating && nothing_uncounted(r)) {
            condition(s, "Failed", "True", reason, message);
            kevent(r->ctl->ev, job, "Warning", reason, "%s", message);
        }
    } else if (is_complete(r)) {
        const char *text = "Reached expected number of succeeded pods";
        condition(s, "SuccessCriteriaMet", "True", "CompletionsReached", text);
        delete_active(s, SIZE_MAX);
        if (!r->n_active && !r->n_terminating && nothing_uncounted(r)) {
            condition(s, "Complete", "True", "CompletionsReached", text);
            json_set_str(s->d, r->st, "completionTime", ctl_now(now));
            kevent(r->ctl->ev, job, "Normal", "Completed", "Job completed");
        }
    } else if (suspended) {
        if (!kube_condition_is(job, "Suspended", "True")) {
            kevent(r->ctl->ev, job, "Normal", "Suspended", "Job suspended");
        }
        condition(s, "Suspended", "True", "JobSuspended", "Job suspended");
        json_del(r->st, "startTime");
        delete_active(s, SIZE_MAX);
    } else {
        if (kube_condition_is(job, "Suspended", "True")) {
            condition(s, "Suspended", "False", "JobResumed", "Job resumed");
            kevent(r->ctl->ev, job, "Normal", "Resumed", "Job resumed");
        }
        if (!json_get(r->st, "startTime")) {
            json_set_str(s->d, r->st, "startTime", ctl_now(now));
        }
        manage(s, job);
    }
}

/* The status is stored: now the finalizers of the pods it names may go. */
static void release_pods(struct sync *s) {
    struct jobrun *r = s->data;
    const struct json *job = find(s);
    struct kube_selector *sel = job ? ctl_selector(json_at(job, "spec", "selector")) : NULL;
    const struct json *un = json_at(job, "status", "uncountedTerminatedPods");
    struct objvec pods = {NULL, 0, 0};
    if (sel) {
        pods = ctl_mine(r->ctl->c->pods_ix, job, NULL);
    }
    for (size_t i = 0; i < pods.n; i++) {
        const struct json *p = pods.v[i];
        if (kube_has_finalizer(p, FINALIZER) &&
            (is_finished(job) || in_list(json_get(un, "succeeded"), kube_uid(p)) ||
             in_list(json_get(un, "failed"), kube_uid(p)))) {
            ctl_drop_finalizer(s, r->ctl->c->pods, &pods_ref, p, FINALIZER);
        }
    }
    objvec_fini(&pods);
    kube_selector_free(sel);
    sync_end(s);
}

/* ---- pods without a job ---- */

/* Has the finalizer, but no job counts it: the job is gone, or the pod was orphaned or let go. */
static bool is_uncounted(const struct jobctl *ctl, const struct json *pod) {
    const struct json *o = kube_controller_of(pod);
    if (!kube_has_finalizer(pod, FINALIZER)) {
        return false;
    }
    if (!str_eq(json_str(json_get(o, "kind")), "Job")) {
        return true;
    }
    const struct json *job =
        kinformer_get(ctl->jobs, kube_namespace(pod), json_str_or(json_get(o, "name"), ""));
    return !job || !str_eq(kube_uid(job), json_str(json_get(o, "uid")));
}

static void handle_orphan(void *ctx, const char *key) {
    struct jobctl *ctl = ctx;
    struct sync *s = sync_begin(ctl->c, ctl->orphans, key);
    const struct json *pod = kinformer_get(ctl->c->pods, s->ns, s->name);
    if (pod && is_uncounted(ctl, pod)) {
        ctl_drop_finalizer(s, ctl->c->pods, &pods_ref, pod, FINALIZER);
    }
    sync_end(s);
}

static void queue_orphans(struct jobctl *ctl, const struct json *job) {
    const struct objvec *pods = ctl_owned(ctl->c->pods_ix, kube_uid(job));
    for (size_t i = 0; i < pods->n; i++) {
        kqueue_add_obj(ctl->orphans, pods->v[i]);
    }
}

static const char *unsupported(const struct json *job) {
    static const char *const fields[] = {"podFailurePolicy", "successPolicy",
                                         "backoffLimitPerIndex"};
    for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
        if (!json_is_null(json_at(job, "spec", fields[i]))) {
            return fields[i];
        }
    }
    return NULL;
}

static void write_status(struct sync *s, const struct json *job) {
    struct jobrun *r = s->data;
    const struct {
        const char *name;
        size_t v;
        bool always;
    } fields[] = {{"active", r->n_active, false},
                  {"ready", r->n_ready, true},
                  {"terminating", r->n_terminating, true}};
    for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
        json_del(r->st, fields[i].name);
        if (fields[i].v || fields[i].always) {
            json_set_i64(s->d, r->st, fields[i].name, (int64_t)fields[i].v);
        }
    }
    sync_status(s, r->ctl->jobs, "batch", "v1", "jobs", job, r->st);
}

static void run_job(struct sync *s, const struct json *job, const struct kube_selector *sel) {
    struct jobrun *r = s->data;
    ctl_claim(s, r->ctl->c->pods_ix, &pods_ref, job, sel);
    r->pods = ctl_mine(r->ctl->c->pods_ix, job, sel);
    r->completions = json_i64_at(job, -1, "spec", "completions");
    r->is_indexed = str_eq(json_str_at(job, "spec", "completionMode"), "Indexed");
    if (r->is_indexed) {
        r->completions = r->completions < 0             ? 0
                         : r->completions > LIM_INDEXES ? LIM_INDEXES
                                                        : r->completions;
        r->done = mem_zero_alloc((size_t)r->completions / 8 + 1);
    }
    r->st = json_copy(s->d, json_get(job, "status"));
    r->st = r->st ? r->st : json_new_obj(s->d);
    count(s, job);
    conclude(s, job);
    /* active as it is before what this run creates: the next run, caused by it, tells */
    write_status(s, job);
    s->then = release_pods;
}

static void handle(void *ctx, const char *key) {
    struct jobctl *ctl = ctx;
    struct sync *s = sync_begin(ctl->c, ctl->q, key);
    struct jobrun *r = s->data = new_zero(struct jobrun);
    r->ctl = ctl;
    s->fini = fini;
    const struct json *job = find(s);
    struct kube_selector *sel = job ? ctl_selector(json_at(job, "spec", "selector")) : NULL;
    const char *by = json_str_or(json_at(job, "spec", "managedBy"), "kubernetes.io/job-controller");
    if (job && unsupported(job)) {
        kevent(ctl->ev, job, "Warning", "Unsupported",
               "spec.%s is not supported, the job does not run", unsupported(job));
    } else if (sel && !kube_selector_is_all(sel) && str_eq(by, "kubernetes.io/job-controller")) {
        if (is_finished(job) || kube_is_deleting(job)) {
            s->then = release_pods;
        } else {
            run_job(s, job, sel);
        }
    }
    kube_selector_free(sel);
    sync_end(s);
}

static void on_job(void *ctx, struct json *old, struct json *cur) {
    struct jobctl *ctl = ctx;
    kqueue_add_obj(ctl->q, cur ? cur : old);
    if (!cur) {
        queue_orphans(ctl, old);
    }
}

static void on_pod(void *ctx, struct json *old, struct json *cur) {
    struct jobctl *ctl = ctx;
    ctl_enqueue_owners(ctl->q, ctl->jobs, "Job", old, cur);
    if (cur && is_uncounted(ctl, cur)) {
        kqueue_add_obj(ctl->orphans, cur);
    }
}

void ctl_start_job(struct controllers *c) {
    struct jobctl *ctl = ctl_new(c, struct jobctl);
    ctl->c = c;
    ctl->ev = c->ev;
    ctl->jobs = kfactory_all(c->f, "batch", "v1", "jobs");
    ctl->q = ctl_queue(c, "job", 10, handle, ctl);
    ctl->orphans = ctl_queue(c, "job-orphan", 4, handle_orphan, ctl);
    kinformer_listen(ctl->jobs, on_job, ctl);
    kinformer_listen(c->pods, on_pod, ctl);
    kqueue_need(ctl->q, ctl->jobs);
    kqueue_need(ctl->q, c->pods);
    kqueue_need(ctl->orphans, ctl->jobs);
    kqueue_need(ctl->orphans, c->pods);
}
