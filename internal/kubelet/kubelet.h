/* kubelet — runs the pods that are bound to one node and says truthfully how they are.
 *
 * What:     registers and refreshes the Node and its Lease, watches the node's pods, brings each to the state its spec asks
 *           for through a runtime, writes status and events, serves logs. The runtime is a table of functions: CRI on nodes
 *           (kubelet_cri_new), kfarm's own processes on hosts (internal/hostlet).
 * Owns:     a kubelet borrows its loop, client and runtime; everything else in it is its own. Volumes live under root_dir,
 *           logs under log_dir; both are cleaned when a pod is gone.
 * Limits:   LIM_KUBELET_PODS pods; LIM_KUBELET_LOG_LINE bytes a log line; 1 MiB of volume file.
 * Errors:   UNAVAILABLE, INVALID, IO, UNSUPPORTED, NOT_FOUND; what concerns one pod ends in its status and events.
 * Threads:  the loop's. Nothing blocks.
 * Time:     the loop's for probes, back-off and grace; the wall clock for stamps.
 * Spec:     Kubernetes 1.36 pod life cycle, node heartbeats, CRI v1 (cri_*.c), CRI log format.
 */
#ifndef KF_KUBELET_H
#define KF_KUBELET_H

#include "internal/json/json.h"
#include "internal/kclient/kclient.h"
#include "internal/loop/loop.h"

enum { LIM_KUBELET_PODS = 2048, LIM_KUBELET_LOG_LINE = 16 * 1024, LIM_KUBELET_IPS = 4, LIM_KUBELET_ID = 448 };

/* ---- the runtime ------------------------------------------------------------------------------------------- */

enum kubelet_ctr_state { KUBELET_CREATED, KUBELET_RUNNING, KUBELET_EXITED, KUBELET_UNKNOWN };

struct kubelet_kv {
    const char *name, *value;
};
struct kubelet_mount {
    const char *host_path, *container_path;
    bool read_only;
    bool recursive, propagate_to_host; /* mountPropagation HostToContainer / Bidirectional */
};
struct kubelet_port {
    const char *protocol; /* "TCP", "UDP", "SCTP" */
    uint16_t container_port, host_port;
    const char *host_ip;  /* "" any */
};

/* A pod's sandbox to be made. All strings are borrowed until the call returns. */
struct kubelet_sandbox {
    const char *ns, *name, *uid;
    unsigned attempt;          /* counts sandboxes of the same pod */
    const char *hostname;      /* "" with the host's network */
    const char *log_dir;       /* <log_dir>/<ns>_<name>_<uid>, exists */
    const struct json *pod;    /* the Pod object */
    bool host_network, host_pid, host_ipc, privileged;
    const char *const *dns_servers, *const *dns_searches, *const *dns_options;
    size_t n_dns_servers, n_dns_searches, n_dns_options;
    const struct kubelet_port *ports;
    size_t n_ports;
    const struct kubelet_kv *sysctls;
    size_t n_sysctls;
    const char *cgroup_parent; /* "" the runtime's choice */
};

/* A container to be made in a sandbox. Entrypoint and environment are fully expanded. */
struct kubelet_container {
    const char *name;
    unsigned attempt;          /* restart count */
    const char *image;         /* as in the spec */
    const char *image_ref;     /* what image_get or image_pull gave */
    const struct json *spec;   /* the container in the Pod object */
    const char *const *command, *const *args;
    size_t n_command, n_args;
    const char *working_dir;   /* "" the image's */
    const struct kubelet_kv *env;
    size_t n_env;
    const struct kubelet_mount *mounts;
    size_t n_mounts;
    const char *log_path;      /* relative to the sandbox's log_dir: <container>/<attempt>.log, CRI log format */
    int64_t cpu_request_milli, cpu_limit_milli, memory_request, memory_limit; /* 0: not set */
    int oom_score_adj;
    bool tty, is_stdin, stdin_once;
};

/* What exists. Strings are borrowed until the callback returns. */
struct kubelet_sandbox_status {
    const char *id, *ns, *name, *uid;
    unsigned attempt;
    bool ready;
    uint64_t created_wall_ns;
    const char *ips[LIM_KUBELET_IPS];
    size_t n_ips;
};
struct kubelet_container_status {
    const char *id, *sandbox_id, *pod_uid, *name;
    unsigned attempt;
    enum kubelet_ctr_state state;
    uint64_t created_wall_ns, started_wall_ns, finished_wall_ns; /* 0: not yet */
    int exit_code, signal;
    const char *reason, *message;   /* "Completed", "Error", "OOMKilled", "StartError"; "" unknown */
    const char *image, *image_ref;  /* image_ref: "sha256:…" or a name with digest */
};
struct kubelet_snapshot {
    const struct kubelet_sandbox_status *sandboxes;
    size_t n_sandboxes;
    const struct kubelet_container_status *containers;
    size_t n_containers;
};
struct kubelet_runtime_info {
    const char *version;        /* for nodeInfo.containerRuntimeVersion: "containerd://1.6.20" */
    bool ready, network_ready;
    const char *reason, *message; /* of the first thing that is not ready */
};

/* Every call is asynchronous: its callback runs exactly once, never before the call has returned, and not after the
 * runtime was freed. rc is 0 or negative with `e` set. Stopping or removing what is gone succeeds. */
typedef void kubelet_done_cb(void *ctx, int rc, const struct err *e);
typedef void kubelet_id_cb(void *ctx, int rc, const char *id, const struct err *e);
typedef void kubelet_list_cb(void *ctx, int rc, const struct kubelet_snapshot *s, const struct err *e);
typedef void kubelet_info_cb(void *ctx, int rc, const struct kubelet_runtime_info *i, const struct err *e);
/* ref NULL with rc 0 (image_get): not present. */
typedef void kubelet_image_cb(void *ctx, int rc, const char *ref, const struct err *e);
typedef void kubelet_exec_cb(void *ctx, int rc, int exit_code, struct span output, const struct err *e);

struct kubelet_runtime_ops {
    const char *name; /* prefix of containerIDs: "containerd", "kfarm" */
    void (*info)(void *rt, kubelet_info_cb *done, void *ctx);
    /* Everything that exists, also of pods that the kubelet does not know (left by an earlier run). */
    void (*list)(void *rt, kubelet_list_cb *done, void *ctx);
    void (*sandbox_start)(void *rt, const struct kubelet_sandbox *s, kubelet_id_cb *done, void *ctx);
    void (*sandbox_stop)(void *rt, const char *id, kubelet_done_cb *done, void *ctx); /* its containers are stopped */
    void (*sandbox_remove)(void *rt, const char *id, kubelet_done_cb *done, void *ctx); /* with its containers */
    /* `secrets`: dockerconfigjson documents, tried in order; NULL elements never occur. */
    void (*image_get)(void *rt, const char *image, kubelet_image_cb *done, void *ctx);
    void (*image_pull)(void *rt, const char *image, const struct json *const *secrets, size_t n, kubelet_image_cb *done,
                       void *ctx);
    /* `s` is the same description the sandbox was started with. */
    void (*container_create)(void *rt, const char *sandbox_id, const struct kubelet_sandbox *s,
                             const struct kubelet_container *c, kubelet_id_cb *done, void *ctx);
    void (*container_start)(void *rt, const char *id, kubelet_done_cb *done, void *ctx);
    /* SIGTERM (or the image's stop signal), then SIGKILL after grace_s; done when the container has ended. */
    void (*container_stop)(void *rt, const char *id, unsigned grace_s, kubelet_done_cb *done, void *ctx);
    void (*container_remove)(void *rt, const char *id, kubelet_done_cb *done, void *ctx);
    /* The log file was renamed: go on in a new one. NULL: logs of this runtime are not rotated. */
    void (*container_reopen_log)(void *rt, const char *id, kubelet_done_cb *done, void *ctx);
    /* Runs a command in the container; output is stdout and stderr, at most 16 KiB. NULL: not supported. */
    void (*exec)(void *rt, const char *id, const char *const *argv, size_t n, unsigned timeout_s, kubelet_exec_cb *done,
                 void *ctx);
    /* URL of the runtime's streaming server for "exec", "attach" or "portforward" (kubectl exec and friends).
     * NULL: not supported. `query`: decoded request (see kubelet_serve.c). */
    void (*stream)(void *rt, const char *kind, const char *id, const struct json *query, kubelet_id_cb *done, void *ctx);
};

/* ---- the kubelet --------------------------------------------------------------------------------------------- */

struct kubelet;
struct tls_config;

/* Strings and arrays are borrowed as long as the kubelet lives. */
struct kubelet_opts {
    struct loop *loop;
    struct kclient *client;
    const struct kubelet_runtime_ops *ops;
    void *rt;
    const char *node_name;
    const char *root_dir;      /* volumes, /etc/hosts files: "/var/lib/kubelet" */
    const char *log_dir;       /* "/var/log/pods" */
    const char *const *ips;    /* InternalIP addresses, the first is status.hostIP */
    size_t n_ips;
    const struct json *labels; /* object; kept in line on the Node, as are taints. Borrowed until kubelet_set_tags. */
    const struct json *taints; /* array of Taint, NULL: none */
    const char *provider_id;   /* "" none */
    const char *pod_cidr;      /* spec.podCIDR of a Node that is registered here for the first time; NULL: a controller's */
    const char *cni_dir;       /* where the pod network's configuration is written once podCIDR is known; NULL: nowhere */
    const char *cluster_dns, *cluster_domain; /* "" none: dnsPolicy ClusterFirst acts as Default */
    const char *resolv_conf;   /* of dnsPolicy Default; NULL: "/etc/resolv.conf" */
    uint64_t backoff_min_ns, backoff_max_ns, backoff_reset_ns; /* of crashed containers; 0: 10 s, 300 s, 600 s */
    unsigned max_pods;         /* 0: 110 */
    int64_t cpu_milli, memory_bytes, storage_bytes; /* capacity; 0: the machine's */
    int64_t reserved_memory_bytes;                  /* kept from allocatable */
    bool no_service_env;       /* no variables for Services */
    uint16_t port;             /* of the log server, 0: none */
    const char *bind_address;  /* NULL: all */
    struct tls_config *server_tls; /* NULL: the server starts with kubelet_serve */
};
NODISCARD int kubelet_new(const struct kubelet_opts *o, struct kubelet **ret, struct err *e);
/* The end, in this order: kubelet_stop, then the client and the runtime are freed (calls under way end inside that), then
 * kubelet_free. Running containers are left alone: a restarted kubelet adopts them. */
void kubelet_stop(struct kubelet *k);
void kubelet_free(struct kubelet *k);
/* Opens the log server on o.port, once there is a certificate. Clients must show one that its CA signed. */
NODISCARD int kubelet_serve(struct kubelet *k, struct tls_config *tls, struct err *e);
/* The runtime saw something change: list again soon. Cheap, may be called for every event. */
void kubelet_runtime_changed(struct kubelet *k);
/* Marks the Node NotReady with this reason at once (shutdown), then done. */
void kubelet_going_down(struct kubelet *k, const char *reason, void (*done)(void *ctx), void *ctx);
/* New labels and taints of the boot document or the host's tags; those set earlier and no longer given go. */
void kubelet_set_tags(struct kubelet *k, const struct json *labels, const struct json *taints);

/* ---- the CRI runtime -------------------------------------------------------------------------------------------- */

struct kubelet_cri;
/* Connects to a CRI v1 runtime at a unix socket; reconnects for ever. `changed` is called on container events. */
NODISCARD int kubelet_cri_new(struct loop *l, const char *socket_path, struct kubelet_cri **ret, struct err *e);
void kubelet_cri_on_change(struct kubelet_cri *c, void (*changed)(void *ctx), void *ctx);
void kubelet_cri_free(struct kubelet_cri *c);
extern const struct kubelet_runtime_ops kubelet_cri_ops;

#endif
