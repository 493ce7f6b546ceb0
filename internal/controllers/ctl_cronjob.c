/* CronJobs: a Job at every time of the schedule. */
#include "internal/controllers/ctl_cron_int.h"
#include "internal/controllers/ctl_int.h"

enum { LIM_MISSED = 100 };

struct cronctl {
    struct controllers *c;
    struct kevents *ev;
    struct kinformer *crons, *jobs;
    struct ownindex *jobs_ix;
    struct kqueue *q;
};

struct cronrun {
    struct cronctl *ctl;
    uint64_t due_s; /* the time that the new job is for */
};

static const struct json *find(struct sync *s) {
    struct cronrun *run = s->data;
    return kinformer_get(run->ctl->crons, s->ns, s->name);
}

static uint64_t time_s(const struct json *v) {
    uint64_t ns;
    return json_is_str(v) && time_parse(json_span(v), &ns) == 0 ? ns / NS_PER_S : 0;
}

static bool is_finished(const struct json *job, bool *ret_ok) {
    *ret_ok = kube_condition_is(job, "Complete", "True");
    return *ret_ok || kube_condition_is(job, "Failed", "True");
}

static bool in_active(const struct json *cron, const struct json *job) {
    JSON_EACH(it, ref, json_at(cron, "status", "active")) {
        if (str_eq(json_str(json_get(ref, "uid")), kube_uid(job))) {
            return true;
        }
    }
    return false;
}

static void delete_job(struct sync *s, const struct json *job) {
    struct cronrun *run = s->data;
    struct kref r = ctl_ref("batch", "v1", "jobs", job, NULL);
    sync_delete(s, run->ctl->jobs, &r, "Background", kube_uid(job), NULL);
}

/* The oldest finished jobs beyond the two limits go. */
static void clean_history(struct sync *s, const struct json *cron, const struct objvec *jobs) {
    for (int ok = 0; ok < 2; ok++) {
        int64_t limit = ok ? json_i64_at(cron, 3, "spec", "successfulJobsHistoryLimit")
                           : json_i64_at(cron, 1, "spec", "failedJobsHistoryLimit");
        struct objvec done = {NULL, 0, 0};
        for (size_t i = 0; i < jobs->n; i++) {
            bool was_ok;
            if (is_finished(jobs->v[i], &was_ok) && was_ok == ok && !kube_is_deleting(jobs->v[i])) {
                objvec_add(&done, jobs->v[i]);
            }
        }
        for (int64_t excess = (int64_t)done.n - limit; excess > 0; excess--) {
            size_t oldest = SIZE_MAX;
            for (size_t i = 0; i < done.n; i++) {
                if (done.v[i] && (oldest == SIZE_MAX ||
                                  kobj_created_s(done.v[i]) < kobj_created_s(done.v[oldest]))) {
                    oldest = i;
                }
            }
            delete_job(s, done.v[oldest]);
            done.v[oldest] = NULL;
        }
        objvec_fini(&done);
    }
}

/* status.active as the jobs are, and lastSuccessfulTime. */
static void write_status(struct sync *s) {
    struct cronrun *run = s->data;
    const struct json *cron = find(s);
    if (!cron) {
        sync_end(s);
        return;
    }
    char text[TIME_STR];
    struct objvec jobs = ctl_mine(run->ctl->jobs_ix, cron, NULL);
    struct json *st = json_copy(s->d, json_get(cron, "status")), *active = json_new_arr(s->d);
    st = st ? st : json_new_obj(s->d);
    uint64_t success = time_s(json_get(st, "lastSuccessfulTime"));
    for (size_t i = 0; i < jobs.n; i++) {
        const struct json *job = jobs.v[i];
        bool ok;
        if (is_finished(job, &ok)) {
            uint64_t end = time_s(json_at(job, "status", "completionTime"));
            success = ok && end > success ? end : success;
            if (in_active(cron, job)) {
                kevent(run->ctl->ev, cron, "Normal", "SawCompletedJob",
                       "Saw completed job: %s, condition: %s", kube_name(job),
                       ok ? "Complete" : "Failed");
            }
            continue;
        }
        struct json *ref = json_new_obj(s->d);
        json_set_str(s->d, ref, "kind", "Job");
        json_set_str(s->d, ref, "namespace", s->ns);
        json_set_str(s->d, ref, "name", kube_name(job));
        json_set_str(s->d, ref, "uid", kube_uid(job));
        json_set_str(s->d, ref, "apiVersion", "batch/v1");
        json_set_str(s->d, ref, "resourceVersion", kube_rv(job));
        const struct json *was = NULL;
        JSON_EACH(it, r, json_at(cron, "status", "active")) {
            was = str_eq(json_str(json_get(r, "uid")), kube_uid(job)) ? r : was;
        }
        json_push(active, was ? json_copy(s->d, was) : ref);
    }
    json_del(st, "active");
    if (json_len(active)) {
        json_set(s->d, st, "active", active);
    }
    if (run->due_s) {
        time_rfc3339(run->due_s, text);
        json_set_str(s->d, st, "lastScheduleTime", text);
    }
    if (success) {
        time_rfc3339(success, text);
        json_set_str(s->d, st, "lastSuccessfulTime", text);
    }
    objvec_fini(&jobs);
    sync_status(s, run->ctl->crons, "batch", "v1", "cronjobs", cron, st);
    sync_end(s);
}

static void on_created(struct sync *s, int rc, struct json *job, const struct err *e) {
    struct cronrun *run = s->data;
    const struct json *cron = find(s);
    if (rc == -ERR_EXISTS) {
        s->failed = false; /* made by an earlier run that did not come to write the status */
    } else if (cron && rc == 0) {
        kevent(run->ctl->ev, cron, "Normal", "SuccessfulCreate", "Created job %s", kube_name(job));
    } else if (cron && rc != -ERR_CANCELLED) {
        kevent(run->ctl->ev, cron, "Warning", "FailedCreate", "Error creating job: %s", e->msg);
    }
    run->due_s = rc < 0 && rc != -ERR_EXISTS ? 0 : run->due_s;
}

static void create_job(struct sync *s, const struct json *cron) {
    struct cronrun *run = s->data;
    struct json_doc *d = s->d;
    const struct json *t = json_at(cron, "spec", "jobTemplate");
    char text[TIME_STR];
    AUTO_FREE char *name = str_fmt("%s-%llu", s->name, (unsigned long long)(run->due_s / 60));
    struct json *job = kube_object_new(d, "batch/v1", "Job", s->ns, name);
    static const char *const copied[] = {"labels", "annotations"};
    for (size_t i = 0; i < ARRAY_LEN(copied); i++) {
        const struct json *v = json_at(t, "metadata", copied[i]);
        if (json_len(v)) {
            json_set(d, json_get(job, "metadata"), copied[i], json_copy(d, v));
        }
    }
    time_rfc3339(run->due_s, text);
    kube_annotate(d, job, "batch.kubernetes.io/cronjob-scheduled-timestamp", text);
    kube_owner_add(d, job, cron, true);
    json_set(d, job, "spec", json_copy(d, json_get(t, "spec")));
    struct kref r = {"batch", "v1", "jobs", s->ns, NULL, NULL};
    sync_create(s, run->ctl->jobs, &r, job, on_created);
}

/* The latest time of the schedule that has come and was not served; 0: none. */
static uint64_t missed(struct sync *s, const struct json *cron, const struct cron *sched,
                       uint64_t now) {
    struct cronrun *run = s->data;
    const struct json *deadline = json_at(cron, "spec", "startingDeadlineSeconds");
    uint64_t from = time_s(json_at(cron, "status", "lastScheduleTime")), last = 0;
    size_t n = 0;
    from = from ? from : kobj_created_s(cron);
    if (json_is_int(deadline)) {
        uint64_t oldest = now - (uint64_t)json_i64(deadline, 0);
        from = from < oldest ? oldest : from;
    }
    for (uint64_t t = cron_next(sched, from); t && t <= now; t = cron_next(sched, t)) {
        last = t;
        if (++n > LIM_MISSED) {
            kevent(run->ctl->ev, cron, "Warning", "TooManyMissedTimes",
                   "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or "
                   "check clock skew");
            /* catch up from the last minutes instead of counting years */
            for (uint64_t u = cron_next(sched, now - 86400 > last ? now - 86400 : last);
                 u && u <= now; u = cron_next(sched, u)) {
                last = u;
            }
            break;
        }
    }
    return last;
}

static void run_cron(struct sync *s, const struct json *cron, const struct cron *sched) {
    struct cronrun *run = s->data;
    struct cronctl *ctl = run->ctl;
    uint64_t now = ctl_now_s(), due = missed(s, cron, sched, now), next = cron_next(sched, now);
    struct objvec jobs = ctl_mine(ctl->jobs_ix, cron, NULL);
    const char *policy = json_str_or(json_at(cron, "spec", "concurrencyPolicy"), "Allow");
    bool may = due != 0, ok;
    clean_history(s, cron, &jobs);
    for (size_t i = 0; i < jobs.n && due; i++) {
        if (is_finished(jobs.v[i], &ok)) {
            continue;
        }
        if (str_eq(policy, "Forbid")) {
            may = false;
        } else if (str_eq(policy, "Replace")) {
            delete_job(s, jobs.v[i]);
        }
    }
    if (may) {
        run->due_s = due;
        create_job(s, cron);
    } else if (due) {
        kevent(
            ctl->ev, cron, "Normal", "JobAlreadyActive",
            "Not starting job because prior execution is running and concurrency policy is Forbid");
    }
    objvec_fini(&jobs);
    if (next) {
        kqueue_add_after(ctl->q, s->key, (next - now) * NS_PER_S);
    }
}

static void handle(void *ctx, const char *key) {
    struct cronctl *ctl = ctx;
    struct sync *s = sync_begin(ctl->c, ctl->q, key);
    struct cronrun *run = s->data = new_zero(struct cronrun);
    run->ctl = ctl;
    const struct json *cron = find(s);
    if (cron && !kube_is_deleting(cron)) {
        struct cron sched;
        const char *zone = json_str_or(json_at(cron, "spec", "timeZone"), "UTC");
        bool utc = str_eq(zone, "UTC") || str_eq(zone, "Etc/UTC") || !*zone;
        if (cron_parse(json_span(json_at(cron, "spec", "schedule")), &sched) < 0) {
            kevent(ctl->ev, cron, "Warning", "UnparseableSchedule", "unparseable schedule: %s",
                   json_str_or(json_at(cron, "spec", "schedule"), ""));
        } else if (!utc) {
            kevent(ctl->ev, cron, "Warning", "UnknownTimeZone",
                   "time zone %s is not supported, only UTC is: no jobs are started", zone);
        } else if (!json_bool_at(cron, false, "spec", "suspend")) {
            run_cron(s, cron, &sched);
        }
        s->then = write_status;
    }
    sync_end(s);
}

static void on_cron(void *ctx, struct json *old, struct json *cur) {
    struct cronctl *ctl = ctx;
    if (cur && !json_eq(json_get(old, "spec"), json_get(cur, "spec"))) {
        kqueue_add_obj(ctl->q, cur);
    }
}

static void on_job(void *ctx, struct json *old, struct json *cur) {
    struct cronctl *ctl = ctx;
    ctl_enqueue_owner(ctl->q, cur ? cur : old, "CronJob");
}

void ctl_start_cronjob(struct controllers *c) {
    struct cronctl *ctl = ctl_new(c, struct cronctl);
    ctl->c = c;
    ctl->ev = c->ev;
    ctl->crons = kfactory_all(c->f, "batch", "v1", "cronjobs");
    ctl->jobs = kfactory_all(c->f, "batch", "v1", "jobs");
    ctl->jobs_ix = ctl_index(c, ctl->jobs);
    ctl->q = ctl_queue(c, "cronjob", 4, handle, ctl);
    kinformer_listen(ctl->crons, on_cron, ctl);
    kinformer_listen(ctl->jobs, on_job, ctl);
    kqueue_need(ctl->q, ctl->crons);
    kqueue_need(ctl->q, ctl->jobs);
}
