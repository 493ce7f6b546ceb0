/* Private to farm. */
#ifndef KF_FARM_INT_H
#define KF_FARM_INT_H

#include "internal/base/rand.h"
#include "internal/farm/farm.h"
#include "internal/log/log.h"

#define FARM_FINALIZER "kfarm.dev/tenant"
#define FARM_TENANT_LABEL "kfarm.dev/tenant"
#define FARM_HASH "kfarm.dev/spec-hash"
#define FARM_TAGS "kfarm.dev/tags"
#define CAPI_CLUSTER_LABEL "cluster.x-k8s.io/cluster-name"

/* What farm knows of a tenant beyond the API: kept by uid, so a Tenant made anew under the same name starts afresh. */
struct tenant {
    struct farm *f;
    char *key, *uid; /* "ns/name" */
    uint16_t port;   /* chosen in this run, before the write of the status has come back; 0: none */
    bool has_keys, secret_checked, files_gone, data_gone, keys_gone;
    bool etcd_down, asking_etcd;
    struct tls_config *tls;
    struct kclient *client;
    struct kinformer *nodes;
    char *version;
    bool asking_identity, asking_version;
};

struct farm {
    struct loop *l;
    struct farm_opts o;
    struct kfactory *factory;
    struct kinformer *tenants, *deployments, *secrets, *machines, *pods;
    struct kqueue *queue;
    struct kevents *events;
    struct map by_uid; /* uid → struct tenant */
};

/* One pass over one tenant; ends with kqueue_done. The steps below return true when they started something
 * asynchronous that will end the pass by step_done or step_failed. */
struct pass {
    struct tenant *t;
    struct farm *f;
    char key[LIM_KKEY], ns[LIM_KKEY], name[LIM_KKEY];
    struct json *obj; /* borrowed from the informer: valid until the step returns */
    bool again;
};
void pass_end(struct pass *p, int rc, const struct err *e);
/* The usual callback of a write: its answer goes into `into`'s cache, then the next pass runs at once. */
struct write {
    struct pass *p;
    struct kinformer *into;
};
void pass_wrote(void *ctx, int rc, struct json *obj, const struct err *e);
struct write *pass_write(struct pass *p, struct kinformer *into);

/* farm_plane.c */
struct json *farm_deployment(const struct farm *f, const struct json *tenant, struct json_doc *d);
const char *farm_unsupported(const struct json *tenant); /* NULL: can be run */
uint16_t farm_port(const struct farm *f, const struct json *tenant); /* the one it wishes, or a free one; 0: none left */
const char *farm_host(const struct farm *f, const struct json *tenant);
struct json *farm_kubeconfig_secret(const struct farm *f, const struct json *tenant, const struct key_identity *id,
                                    struct json_doc *d);
bool farm_kubeconfig_good(const struct json *secret, const char *server);

/* farm_etcd.c */
bool farm_on_etcd(const struct json *tenant);
const char *farm_etcd_unsupported(const struct json *tenant);
void farm_etcd_plane(struct json_doc *d, struct json *pod, struct json *apiserver, const struct json *tenant);
bool farm_etcd_wipe(struct pass *p); /* deletes the tenant's keys; false: there are none to delete (any more) */
/* Message and reason of the condition DatastoreReady. */
const char *farm_etcd_state(struct tenant *t, bool up, const char **ret_reason);

/* farm_nodes.c */
void farm_tenant_connect(struct tenant *t);    /* client and informer, once its API server answers */
void farm_tenant_disconnect(struct tenant *t);
/* What brings a Node in line with its tags, as a merge patch in d: their labels and taints, without what an annotation of the Node
 * says they gave it earlier; everything else on it stays. NULL: nothing is to be done. */
struct json *farm_node_patch(struct json_doc *d, const struct json *tenant, const struct json *pool,
                             const struct json *decl, const struct json *node);
void farm_sync_tags(struct tenant *t, const struct json *tenant);
bool farm_sync_machine(struct pass *p);        /* one Machine a pass */
size_t farm_nodes_declared(const struct json *tenant);
size_t farm_nodes_ready(const struct tenant *t);

/* farm_rbac.c */
void farm_apply_roles(struct farm *f);

/* farm_host.c */
void farm_record_host(struct farm *f);

/* farm_status.c */
bool farm_sync_status(struct pass *p, const char *unsupported);

#endif
