/* kclient — a Kubernetes API client on the loop: requests, and informers (list + watch with a cache).
 *
 * What:     typed by path, not by kind: works with any resource of any Kubernetes API server, ours or upstream's.
 * Owns:     kclient owns its connections; an informer owns its cache; objects handed out are borrowed until the handler
 *           returns or the object changes (json_doc per object).
 * Limits:   answers 256 MiB, objects 3 MiB, 1,000 queued requests.
 * Errors:   the code that matches the Status answer (NOT_FOUND, CONFLICT, EXISTS, FORBIDDEN, GONE, BUSY, …), UNAVAILABLE.
 * Threads:  the loop's.
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
void kclient_set_token(struct kclient *c, const char *token);
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
void klist(struct kclient *c, const struct kref *r, const char *query, kclient_cb *done, void *ctx); /* follows continue */
void kcreate(struct kclient *c, const struct kref *r, const struct json *obj, kclient_cb *done, void *ctx);
void kupdate(struct kclient *c, const struct kref *r, const struct json *obj, kclient_cb *done, void *ctx); /* PUT */
enum kpatch { KPATCH_JSON, KPATCH_MERGE, KPATCH_STRATEGIC, KPATCH_APPLY };
/* APPLY uses field_manager and forces. */
void kpatch(struct kclient *c, const struct kref *r, enum kpatch kind, const struct json *patch, const char *field_manager,
            kclient_cb *done, void *ctx);
void kdelete(struct kclient *c, const struct kref *r, const char *propagation /* NULL: default */, const char *uid,
             kclient_cb *done, void *ctx);
/* Any request (raw path and body). */
void kraw(struct kclient *c, const char *method, const char *target, const char *content_type, struct span body,
          kclient_cb *done, void *ctx);
/* Blocking form for commands: spins the loop until the answer; *ret (may be NULL) is a new document. */
NODISCARD int kcall_sync(struct kclient *c, const char *method, const struct kref *r, const char *query,
                         const char *content_type, const struct json *body, struct json_doc **ret, struct err *e);

/* Informer: list, then watch for ever with back-off, bookmarks and re-list on 410. Handlers run on the loop; `old` is NULL
 * for additions, `cur` NULL for deletions. After the first complete list on_synced runs once. */
struct kinformer;
struct kinformer_opts {
    struct kref ref;             /* name unused */
    const char *label_selector, *field_selector; /* NULL: none */
    void (*on_change)(void *ctx, struct json *old, struct json *cur);
    void (*on_synced)(void *ctx);
    void *ctx;
};
struct kinformer *kinformer_start(struct kclient *c, const struct kinformer_opts *o);
void kinformer_stop(struct kinformer *i);
bool kinformer_synced(const struct kinformer *i);
struct json *kinformer_get(const struct kinformer *i, const char *ns, const char *name); /* NULL: not cached */
/* Iteration over the cache. */
struct map_iter;
bool kinformer_next(const struct kinformer *i, struct map_iter *it, struct json **ret);
size_t kinformer_count(const struct kinformer *i);

/* Work queue: keys ("ns/name") de-duplicated, with per-key exponential back-off; the handler is called once per key and
 * must call kqueue_done(q, key, ok) when finished (ok=false: again later). At most `workers` at once. */
struct kqueue;
struct kqueue *kqueue_new(struct loop *l, const char *name, unsigned workers, void (*handle)(void *ctx, const char *key),
                          void *ctx);
void kqueue_add(struct kqueue *q, const char *key);
void kqueue_add_after(struct kqueue *q, const char *key, uint64_t after_ns);
void kqueue_done(struct kqueue *q, const char *key, bool ok);
void kqueue_free(struct kqueue *q);

#endif
