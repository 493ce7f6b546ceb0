/* Inside the controllers: what their loops share. */
#ifndef KF_CTL_INT_H
#define KF_CTL_INT_H

#include "internal/base/rand.h"
#include "internal/controllers/controllers.h"
#include "internal/kube/kube.h"
#include "internal/log/log.h"
#include "internal/podspec/podspec.h"

#include <stdlib.h>

/* Objects of one informer by their controller's uid; those without one by "ns:<namespace>". */
struct objvec {
    const struct json **v;
    size_t n, cap;
};
struct ownindex {
    struct map by_owner; /* → struct objvec */
    struct kinformer *inf;
};

struct controllers {
    struct controllers_opts o; /* strings copied */
    struct loop *l;
    struct kclient *c;
    struct kfactory *f;
    struct kevents *ev; /* of the controller that is being started: to be kept by it */
    struct kinformer *pods, *nodes, *namespaces;
    struct ownindex *pods_ix;
    struct ctl_own *owned; /* what ctl_keep keeps until the end */
    /* Garbage collection hears of every kind: it tells quotas that something went, and which kinds there are. */
    void (*on_gone)(void *ctx, const char *ns);
    void *on_gone_ctx;
    const struct ctl_kind *(*kinds)(void *ctx, struct span group, struct span resource);
    void *kinds_ctx;
};

/* ---- ctl.c ---- */
/* A queue that lives as long as the controllers. handle gets the ctx given here. */
struct kqueue *ctl_queue(struct controllers *c, const char *name, unsigned workers,
                         void (*handle)(void *ctx, const char *key), void *ctx);
void *ctl_alloc(struct controllers *c, size_t n); /* zeroed, freed at the end */
#define ctl_new(c, T) ((T *)ctl_alloc((c), sizeof(T)))
struct ownindex *ctl_index(struct controllers *c, struct kinformer *inf); /* one for each informer */
const struct objvec *ctl_owned(const struct ownindex *ix, const char *uid);
const struct objvec *ctl_orphans(const struct ownindex *ix, const char *ns);
uint64_t ctl_now_s(void);
const char *ctl_now(char dst[TIME_STR]);
/* Selector of the object at spec.selector (a LabelSelector); NULL when it is not valid. */
struct kube_selector *ctl_selector(const struct json *label_selector);
/* Adds to q the controller of obj when it has this kind. */
void ctl_enqueue_owner(struct kqueue *q, const struct json *obj, const char *kind);

/* ---- ctl_sync.c: one run for one key, with the requests it makes ---- */
struct sync;
typedef void sync_cb(struct sync *s, int rc, struct json *obj, const struct err *e);
struct sync {
    struct controllers *c;
    struct kqueue *q;
    char key[LIM_KKEY], ns[LIM_KKEY], name[LIM_KKEY];
    struct json_doc *d;           /* scratch */
    void (*then)(struct sync *s); /* runs when all requests are answered; may make more and calls sync_end again */
    void *data;                   /* freed at the end, */
    void (*fini)(struct sync *s); /* after this (may be NULL) */
    struct ctl_kinds *kinds;      /* where ctl_discover collects */
    unsigned pending;
    bool failed, ended;
};
struct sync *sync_begin(struct controllers *c, struct kqueue *q, const char *key);
/* No more requests from here: `then`, or the key is done. */
void sync_end(struct sync *s);
/* Requests. The answer goes into `into` (may be NULL). cb may be NULL; failures that only say that the world moved on
 * (gone, terminating namespace) are not failures of the sync; conflicts are tried again. */
void sync_create(struct sync *s, struct kinformer *into, const struct kref *r, const struct json *obj, sync_cb *cb);
void sync_update(struct sync *s, struct kinformer *into, const struct kref *r, const struct json *obj, sync_cb *cb);
void sync_patch(struct sync *s, struct kinformer *into, const struct kref *r, enum kpatch kind, const struct json *patch,
                sync_cb *cb);
void sync_delete(struct sync *s, struct kinformer *from, const struct kref *r, const char *propagation, const char *uid,
                 sync_cb *cb);
void sync_delete_collection(struct sync *s, const struct kref *r, sync_cb *cb);
/* Reads; query as in kclient, may be NULL. The list's first page only. */
void sync_get(struct sync *s, const struct kref *r, const char *query, sync_cb *cb);
void sync_get_path(struct sync *s, const char *path, sync_cb *cb);
/* The coordinates of obj in a resource. */
struct kref ctl_ref(const char *group, const char *version, const char *resource, const struct json *obj,
                    const char *subresource);
/* A copy of obj in s->d whose status is `status`, written to the status subresource when it differs. True: written. */
bool sync_status(struct sync *s, struct kinformer *into, const char *group, const char *version, const char *resource,
                 const struct json *obj, struct json *status);

/* ---- ctl_discover.c: kinds that can be listed and deleted, each in its group's preferred version ---- */
struct ctl_kind {
    char *group, *version, *resource, *kind;
    bool namespaced, can_watch;
};
struct ctl_kinds {
    struct ctl_kind *v;
    size_t n;
    bool is_incomplete; /* some group did not answer */
};
/* Starts the requests; *ret is complete when the sync's `then` runs. */
void ctl_discover(struct sync *s, struct ctl_kinds *ret);
void ctl_kinds_fini(struct ctl_kinds *k);

/* ---- ctl_pods.c: pods (or other objects) of a controller ---- */
/* Takes orphans that match, lets go what does not match any more. */
void ctl_claim(struct sync *s, struct ownindex *ix, const struct kref *res, const struct json *owner,
               const struct kube_selector *sel);
/* Objects of ix that owner controls and that sel selects (NULL: all). The caller frees ->v. */
struct objvec ctl_mine(const struct ownindex *ix, const struct json *owner, const struct kube_selector *sel);
/* Removes a finalizer of an object, if it is still as the cache has it. */
void ctl_drop_finalizer(struct sync *s, struct kinformer *inf, const struct kref *res, const struct json *obj,
                        const char *name);
void objvec_add(struct objvec *o, const struct json *obj);
void objvec_fini(struct objvec *o);
/* A pod of template for owner, made in d: generateName, labels, annotations, finalizers, spec, ownerReference. */
struct json *ctl_pod(struct json_doc *d, const struct json *template, const struct json *owner);
/* Sorts so that the best candidates for deletion come first (ReplicaSet's order). */
void ctl_sort_victims(const struct ownindex *pods, struct objvec *o);
bool ctl_pod_available(const struct json *pod, int64_t min_ready_s, uint64_t now_s);
/* FNV of the template and the collision count, in Kubernetes' safe alphabet. */
void ctl_template_hash(const struct json *template, int64_t collisions, char dst[16]);
/* Queues every object of `inf` in the namespace of the orphan whose spec.selector selects it. */
void ctl_enqueue_matching(struct kqueue *q, const struct kinformer *inf, const struct json *orphan);
/* Something changed that objects of `kind`, all in `inf`, control: its owners look, and those that may adopt it. */
void ctl_enqueue_owners(struct kqueue *q, const struct kinformer *inf, const char *kind, const struct json *old,
                        const struct json *cur);

/* ---- ctl_history.c ---- */
struct kinformer *ctl_revisions(struct controllers *c);
void ctl_history_sync(struct sync *s, struct ownindex *ix, const struct json *owner, const struct objvec *pods,
                      char ret_hash[LIM_KKEY], char ret_name[LIM_KKEY]);

/* ---- the controllers ---- */
void ctl_start_namespace(struct controllers *c);
void ctl_start_serviceaccount(struct controllers *c);
void ctl_start_rootca(struct controllers *c);
void ctl_start_gc(struct controllers *c);
void ctl_start_replicaset(struct controllers *c);
void ctl_start_deployment(struct controllers *c);
void ctl_start_daemonset(struct controllers *c);
void ctl_start_job(struct controllers *c);
void ctl_start_cronjob(struct controllers *c);
void ctl_start_statefulset(struct controllers *c);
void ctl_start_endpoints(struct controllers *c);
void ctl_start_endpointslice(struct controllers *c);
void ctl_start_node(struct controllers *c);
void ctl_start_eviction(struct controllers *c);
void ctl_start_ipam(struct controllers *c);
void ctl_start_podgc(struct controllers *c);
void ctl_start_csr_approve(struct controllers *c);
void ctl_start_csr_sign(struct controllers *c);
void ctl_start_csr_clean(struct controllers *c);
void ctl_start_tokens(struct controllers *c);
void ctl_start_bootstrap_signer(struct controllers *c);
void ctl_start_ttl(struct controllers *c);
void ctl_start_aggregation(struct controllers *c);
void ctl_start_quota(struct controllers *c);
void ctl_start_disruption(struct controllers *c);

#endif
