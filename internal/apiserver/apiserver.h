/* apiserver — the Kubernetes API over a store in the same process.
 *
 * What:     authentication, authorization, admission, storage and watching of the kinds that internal/kube knows; HTTP faces
 *           are added by apiserver_listen and apiserver_accept_fd.
 * Owns:     the store, a cache of every object as JSON bytes, the watches, the allocations of service addresses.
 * Limits:   objects 3 MiB (1.5 MiB stored), LIM_API_RING events kept a resource for watches that lag, 64 MiB a request.
 * Errors:   INVALID (options), IO and CORRUPT (store), UNAVAILABLE.
 * Threads:  the loop's. Commits run on the store's lane.
 * Time:     monotonic for timers; the wall clock for stamps, and for what tokens and certificates say.
 * Spec:     Kubernetes 1.36 API; differences from upstream are in docs/conformance.md.
 */
#ifndef KF_APISERVER_H
#define KF_APISERVER_H

#include "internal/base/addr.h"
#include "internal/loop/loop.h"
#include "internal/tls/tls.h"

struct apiserver;
struct store;

/* Signs the claims of a service-account token. `done` is called once, never before sign() returned; `token` is borrowed. */
typedef void apiserver_signed_cb(void *ctx, int rc, struct span token, const struct err *e);
struct apiserver_signer {
    void (*sign)(void *signer_ctx, struct span claims, apiserver_signed_cb *done, void *ctx);
    void *ctx;
};

struct apiserver_opts {
    struct store *own_store;   /* consumed, also on failure */
    struct tls_config *tls;    /* for connections; borrowed (a reference is taken) */
    struct tls_config *kubelet_tls; /* client identity towards kubelets; NULL: logs, exec and proxies are refused */
    const char *service_cidr;  /* "10.96.0.0/12" */
    const char *node_ports;    /* "30000-32767" */
    const char *advertise_address; /* NULL: the `kubernetes` service has no endpoints */
    uint16_t advertise_port;
    const char *cluster_name;
    bool farm;                 /* serves the farm kinds too */
    bool anonymous;            /* requests without credentials are system:anonymous, else 401 */
    const char *sa_issuer;     /* NULL: https://kubernetes.default.svc.cluster.local */
    const struct span *sa_public_pems; /* keys that tokens are verified with; copied */
    size_t n_sa_public_pems;
    struct apiserver_signer signer; /* .sign NULL: TokenRequest is refused */
};

/* Address of the `kubernetes` service in a range, for the serving certificate. */
NODISCARD int apiserver_service_ip(const char *service_cidr, char ret[IP4_STR]);

/* Fills the caches from the store, however long it takes to answer, and writes what a cluster has from its first moment;
 * *ret is usable at once, requests are answered from when `ready` has been called. All strings are copied. */
NODISCARD int apiserver_new(struct loop *l, const struct apiserver_opts *o, void (*ready)(void *ctx), void *ctx,
                            struct apiserver **ret, struct err *e);
/* Takes a listening socket (TCP or unix) or an accepted connection. */
NODISCARD int apiserver_listen(struct apiserver *a, int own_fd, struct err *e);
NODISCARD int apiserver_accept_fd(struct apiserver *a, int own_fd, struct err *e);
/* Ends watches and connections within the grace period, then calls done. */
void apiserver_shutdown(struct apiserver *a, uint64_t grace_ns, void (*done)(void *ctx), void *ctx);
void apiserver_free(struct apiserver *a);

#endif
