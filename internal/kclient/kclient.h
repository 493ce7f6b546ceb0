/* kclient — a Kubernetes API client on the loop: requests, informers (list + watch with a cache), leader election.
 *
 * What:     typed by path, not by kind: works with any resource of any Kubernetes API server, ours or upstream's.
 * Owns:     kclient owns its connections; an informer owns its cache; objects handed out are borrowed until the handler
 *           returns or the object changes (json_doc per object).
 * Limits:   answers 256 MiB, objects 3 MiB, 1,000 queued requests.
 * Errors:   the code that matches the Status answer (NOT_FOUND, CONFLICT, EXISTS, FORBIDDEN, GONE, BUSY, …), UNAVAILABLE.
 * Threads:  the loop's.
 * Time:     the loop's; the wall clock for stamps in Events and Leases.
 * Spec:     Kubernetes API concepts: resourceVersion, watch bookmarks, 410 Gone, Retry-After.
 */
#ifndef KF_KCLIENT_H
#define KF_KCLIENT_H

#include "internal/json/json.h"
#include "internal/loop/loop.h"
#include "internal/tls/tls.h"

struct kclient;

struct kclient_opts {
    const char *server;    /* https://host:port, or unix:///path/api.sock (TLS inside when tls is set) */
    const char *sni;       /* NULL: the host; set for unix sockets ("kubernetes") */
    struct tls_config *tls;
    const char *token;     /* bearer, NULL: none; copied and wiped */
    const char *user_agent;
};
NODISCARD int kclient_new(struct loop *l, const struct kclient_opts *o, struct kclient **ret, struct err *e);
/* From a kubeconfig (current-context or `context`): certificates inline or by file, token, tls-server-name. */
NODISCARD int kclient_from_kubeconfig(struct loop *l, struct span yaml, const char *context, struct kclient **ret,
                                      struct err *e);
void kclient_free(struct kclient *c);
struct loop *kclient_loop(const struct kclient *c);

/* Resource coordinates: group "" is the core group; ns NULL: cluster scope or all namespaces; name NULL: collection. */
struct kref {
    const char *group, *version, *resource;
    const char *ns, *name, *subresource;
};
/* done is called exactly once, never before the call returned. On success obj is the answer (borrowed, may be NULL for an
 * empty body); on failure e tells, and obj is the Status object when there was one. */
typedef void kclient_cb(void *ctx, int rc, struct json *obj, const struct err *e);
void kget(struct kclient *c, const struct kref *r, kclient_cb *done, void *ctx);
void kcreate(struct kclient *c, const struct kref *r, const struct json *obj, kclient_cb *done, void *ctx);
void kupdate(struct kclient *c, const struct kref *r, const struct json *obj, kclient_cb *done, void *ctx); /* PUT */
void kdelete_collection(struct kclient *c, const struct kref *r, const char *propagation, kclient_cb *done, void *ctx);
enum kpatch { KPATCH_JSON, KPATCH_MERGE, KPATCH_STRATEGIC, KPATCH_APPLY };
/* APPLY uses field_manager and forces. */
void kpatch(struct kclient *c, const struct kref *r, enum kpatch kind, const struct json *patch, const char *field_manager,
            kclient_cb *done, void *ctx);
/* propagation: NULL for the resource's default, or "now" for a grace period of zero. */
void kdelete(struct kclient *c, const struct kref *r, const char *propagation, const char *uid,
             kclient_cb *done, void *ctx);
/* The path of r below the server, without query. */
int kref_path(const struct kref *r, struct buf *b);
/* Any request (raw path and body). */
void kraw(struct kclient *c, const char *method, const char *target, const char *content_type, struct span body,
          kclient_cb *done, void *ctx);
/* Blocking form for commands: spins the loop until the answer; *ret (may be NULL) is a new document. */
NODISCARD int kcall_sync(struct kclient *c, const char *method, const struct kref *r, const char *query,
                         const char *content_type, const struct json *body, struct json_doc **ret, struct err *e);

/* Informer: list, then watch for ever with back-off, bookmarks and re-list on 410. Handlers run on the loop; `old` is NULL
 * for additions, `cur` NULL for deletions. After the first complete list on_synced runs once. A resource that the
 * server does not serve counts as empty. managedFields are not kept. */
struct kinformer;
typedef void kinformer_cb(void *ctx, struct json *old, struct json *cur);
struct kinformer_opts {
    struct kref ref;             /* name unused */
    const char *label_selector, *field_selector; /* NULL: none */
    kinformer_cb *on_change;     /* may be NULL, see kinformer_listen */
    void (*on_synced)(void *ctx);
    void *ctx;
    /* Removes from obj what nobody looks at before it is cached; NULL: nothing. */
    void (*trim)(struct json *obj);
    bool metadata_only; /* asks for PartialObjectMetadata */
    /* Nothing is cached: every listed, added or changed object is reported with old NULL, and the last state of a deleted
     * one with cur NULL; on_synced runs after every complete list (there may be several), on_list before each. */
    bool no_cache;
    void (*on_list)(void *ctx);
};
struct kinformer *kinformer_start(struct kclient *c, const struct kinformer_opts *o);
void kinformer_stop(struct kinformer *i);
bool kinformer_synced(const struct kinformer *i);
/* Calls back once when the informer has synced (inside this call when it has already). */
void kinformer_on_synced(struct kinformer *i, void (*cb)(void *ctx), void *ctx);
/* A further listener; what is cached already is reported by calls with old NULL before this returns. */
void kinformer_listen(struct kinformer *i, kinformer_cb *on_change, void *ctx);
struct json *kinformer_get(const struct kinformer *i, const char *ns, const char *name); /* NULL: not cached */
/* Iteration over the cache; the cache must not change meanwhile. */
struct map_iter;
bool kinformer_next(const struct kinformer *i, struct map_iter *it, struct json **ret);
size_t kinformer_count(const struct kinformer *i);
/* The answer of an own write goes into the cache at once (read your own writes), unless the watch has passed it already.
 * Listeners are called as for a watch event, which is then ignored when it comes. */
void kinformer_put(struct kinformer *i, const struct json *obj);
/* The server said that the object with this uid is gone. */
void kinformer_gone(struct kinformer *i, const char *ns, const char *name, const char *uid);

/* Shared informers: one for each resource, selector and mode, started when first asked for, alive as the factory. */
struct kfactory;
struct kfactory *kfactory_new(struct kclient *c);
void kfactory_free(struct kfactory *f);
struct kclient *kfactory_client(const struct kfactory *f);
/* on_change, on_synced and on_list of o are ignored: use kinformer_listen and kqueue_need. */
struct kinformer *kfactory_get(struct kfactory *f, const struct kinformer_opts *o);
/* All objects of the resource, complete. */
struct kinformer *kfactory_all(struct kfactory *f, const char *group, const char *version, const char *resource);
/* An existing informer over the whole resource, or NULL. */
struct kinformer *kfactory_find(const struct kfactory *f, const char *group, const char *resource);

/* Work queue: keys ("ns/name") de-duplicated, with per-key exponential back-off; the handler is called once per key and
 * must call kqueue_done(q, key, ok) when finished (ok=false: again later). At most `workers` at once. A key that is added
 * while it is handled is handled again. */
struct kqueue;
struct kqueue *kqueue_new(struct loop *l, const char *name, unsigned workers, void (*handle)(void *ctx, const char *key),
                          void *ctx);
/* No key is handled before the informer has synced. */
void kqueue_need(struct kqueue *q, struct kinformer *i);
void kqueue_add(struct kqueue *q, const char *key);
void kqueue_add_obj(struct kqueue *q, const struct json *obj); /* by its namespace and name */
void kqueue_add_after(struct kqueue *q, const char *key, uint64_t after_ns); /* the earliest of several wins */
void kqueue_done(struct kqueue *q, const char *key, bool ok);
unsigned kqueue_failures(const struct kqueue *q, const char *key); /* in a row */
void kqueue_free(struct kqueue *q);
/* "ns/name" or "name" into spans' storage: ns is "" for cluster scope. Buffers hold LIM_KKEY bytes. */
enum { LIM_KKEY = 320 };
void kkey_of(const struct json *obj, char dst[LIM_KKEY]);
void kkey_make(const char *ns, const char *name, char dst[LIM_KKEY]);
void kkey_split(const char *key, char ns[LIM_KKEY], char name[LIM_KKEY]);

/* Leader election: of all processes that ask for the same Lease of kube-system one leads at a time, as client-go elects
 * (15 s, 10 s, 2 s). A Lease that is absent or was released is taken at once. */
struct kleader;
struct kleader_opts {
    const char *name; /* of the Lease; borrowed for good */
    void (*on_lead)(void *ctx);
    void (*on_lost)(void *ctx); /* another may lead from now on: the process must stop acting; nothing comes after it */
    void *ctx;
};
struct kleader *kleader_start(struct kclient *c, const struct kleader_opts *o);
/* Releases the Lease if it is ours; `stopped` is called once, on_lead and on_lost no more. */
void kleader_stop(struct kleader *k, void (*stopped)(void *ctx));
void kleader_free(struct kleader *k); /* after `stopped` */

/* Recorder of core/v1 Events. The same (object, type, reason, message) again raises the count of the earlier event; an
 * object that causes very many is cut off (25 at once, then one in 5 minutes). Failures are logged and forgotten. */
struct kevents;
struct kevents *kevents_new(struct kclient *c, const char *component, const char *host /* NULL: none */);
void kevents_free(struct kevents *v);
/* obj needs apiVersion and kind. type: "Normal" or "Warning". */
void kevent(struct kevents *v, const struct json *obj, const char *type, const char *reason, const char *fmt, ...)
    PRINTF(5, 6);

#endif
