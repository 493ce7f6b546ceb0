/* Private to storesrv: namespaces of keys and leases, each with listeners of its own. */
#ifndef KF_STORESRV_NS_H
#define KF_STORESRV_NS_H

#include "internal/storesrv/srv_int.h"

enum { LIM_NS_PREFIX = 1024 };

struct srv_ns {
    struct list link;
    struct span prefix, end; /* of all its keys */
    int64_t mask;            /* its secret: client's lease id XOR store's */
    bool served, saved, saving;
    struct arena a;
};

NODISCARD int ns_load(struct storesrv *v, struct err *e);
void ns_fini(struct storesrv *v);
/* USAGE: overlaps with another namespace that is served. */
NODISCARD int ns_get(struct storesrv *v, struct span prefix, struct srv_ns **ret, struct err *e);

/* Into the store: new keys are allocated from `a`. */
void ns_range_in(const struct srv_ns *ns, struct arena *a, struct span *key, struct span *end);
/* A whole transaction, whose form is checked as the client gave it. Nothing happens outside namespaces. */
NODISCARD int ns_txn_in(struct rpc *c, struct store_txn *t, struct err *e);
/* Out of the store: in place. */
void ns_kv_out(const struct srv_ns *ns, struct store_kv *kv);
void ns_range_out(const struct srv_ns *ns, const struct store_range_res *r);
void ns_body_out(const struct srv_ns *ns, const struct store_body *b);
/* ns NULL: nothing changes. Both directions of a lease's id are the same. */
bool ns_holds(const struct srv_ns *ns, struct span key);
struct span ns_key_out(const struct srv_ns *ns, struct span key);
int64_t ns_lease(const struct srv_ns *ns, int64_t id);

/* Grants in the caller's namespace; `done` gets the caller's id. */
void ns_lease_grant(struct rpc *c, int64_t id, int64_t ttl, store_lease_done *done, void *ctx);
bool ns_owns(const struct rpc *c, int64_t id);       /* the store's id */

#endif
