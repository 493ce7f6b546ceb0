/* Inside the deployment controller. */
#ifndef KF_CTL_DEPLOY_INT_H
#define KF_CTL_DEPLOY_INT_H

#include "internal/controllers/ctl_int.h"

#define ANN_REVISION "deployment.kubernetes.io/revision"
#define ANN_HISTORY "deployment.kubernetes.io/revision-history"
#define ANN_DESIRED "deployment.kubernetes.io/desired-replicas"
#define ANN_MAX "deployment.kubernetes.io/max-replicas"
#define LABEL_HASH "pod-template-hash"

/* One ReplicaSet of the deployment and what it shall have. */
struct dset {
    const struct json *rs;
    int64_t replicas, target; /* spec.replicas now and wanted */
    int64_t ready, available, status_replicas;
    bool is_new;
};

/* One run for one deployment: everything is read from the caches at its beginning. */
struct drun {
    struct deployctl *ctl;
    const struct json *d; /* valid until the first answer */
    struct dset *sets;    /* oldest first */
    size_t n;
    struct dset *cur; /* the set of the current template, or NULL */
    int64_t want, surge, unavailable;
    bool is_recreate, is_paused;
    char hash[16], created[LIM_KKEY];
    const char **names; /* of sets, valid to the end of the run */
};

struct deployctl {
    struct controllers *c;
    struct kevents *ev;
    struct kinformer *deploys, *sets;
    struct ownindex *sets_ix;
    struct kqueue *q;
};

int64_t deploy_max_total(const struct drun *r);
int64_t deploy_sum(const struct drun *r, bool only_old);
/* ctl_deploy_roll.c: set ->target of every set. True: some target changed. */
bool deploy_scale(struct drun *r);        /* the deployment was resized, or is paused */
bool deploy_roll(struct drun *r);         /* RollingUpdate: the next step */
bool deploy_recreate(struct drun *r);     /* Recreate: old ones to zero */
/* The number that a new ReplicaSet begins with. */
int64_t deploy_new_replicas(const struct drun *r, int64_t current);

/* ctl_deploy_status.c: the status object for the state after the run. *ret_due_s: seconds until it must be looked at. */
struct json *deploy_status(struct drun *r, struct json_doc *d, const char *progress_reason, const char *progress_message,
                           uint64_t *ret_due_s);
bool deploy_is_complete(const struct drun *r);

#endif
