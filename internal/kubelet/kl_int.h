/* Private to the kubelet.
 *
 *   API watch ─▶ kl_pods ─▶ kl_sync (one step at a time for each pod) ─▶ runtime ─▶ list ─▶ kl_pods
 *                              ├─ kl_refs: ConfigMaps, Secrets, tokens        └─▶ kl_status ─▶ API
 *                              ├─ kl_volumes, kl_env: what a container gets
 *                              └─ kl_probe
 */
#ifndef KF_KL_INT_H
#define KF_KL_INT_H

#include "internal/kubelet/kubelet.h"

enum { LIM_KL_COMMAND = 64, LIM_KL_HEADERS = 16, LIM_KL_CONTAINERS = 64, LIM_KL_ENV = 4096, LIM_KL_MOUNTS = 256, LIM_KL_VOLUME_FILE = 1 << 20 };

enum kl_probe_kind { KL_STARTUP, KL_LIVENESS, KL_READINESS, KL_PROBES };

struct kl_pod;
struct kl_probe {
    struct kl_ctr *ctr;
    enum kl_probe_kind kind;
    struct loop_timer timer;
    unsigned ok, failed; /* in a row */
    bool is_active, is_running;
    uint64_t generation; /* of the container it was started for: late answers are ignored */
};

struct kl_ended { /* how an earlier instance of a container ended */
    bool is_set;
    char id[LIM_KUBELET_ID];
    int exit_code, signal;
    char reason[64], message[256];
    uint64_t started_ns, finished_ns;
};

struct kl_ctr {
    struct kl_pod *pod;
    const char *name;        /* lives in the pod's first document */
    bool is_init, is_sidecar;
    /* from the runtime */
    bool exists;
    char id[LIM_KUBELET_ID], image_id[160];
    enum kubelet_ctr_state state;
    unsigned attempt;
    uint64_t started_ns, finished_ns;
    int exit_code, signal;
    char reason[64], message[256];
    struct kl_ended last;
    /* ours */
    unsigned restarts;
    uint64_t backoff_ns, retry_at_ns; /* monotonic */
    char wait_reason[48], wait_message[640];
    char noted_id[LIM_KUBELET_ID], probed_id[LIM_KUBELET_ID]; /* the instance whose end was counted; the one being probed */
    bool is_started, is_ready, must_restart; /* startup passed, readiness passed, liveness failed */
    struct kl_probe probes[KL_PROBES];
    bool post_start_due;     /* started by us, its postStart hook has not ended: neither probed nor ready */
    struct kl_hook *hook;    /* running, or NULL; its pod is busy meanwhile */
    uint64_t stop_due_ns;    /* when the grace period of a stop ends that a hook runs before */
};

/* One object that a pod refers to. */
struct kl_ref {
    struct json_doc *doc; /* NULL: not found (and optional) */
    struct json *obj;
    uint64_t at_ns;       /* when it was fetched */
};

struct kl_pod {
    struct kubelet *k;
    char *uid, *ns, *name;
    struct json_doc *doc;
    struct json *obj;        /* the last state seen, also after its deletion */
    bool is_gone;            /* deleted from the API */
    bool is_orphan;          /* known from the runtime only */
    char log_dir[512], dir[320];
    /* runtime */
    char sandbox_id[LIM_KUBELET_ID];
    bool has_sandbox, sandbox_ready;
    unsigned sandbox_attempt;
    char ips[LIM_KUBELET_IPS][48];
    size_t n_ips;
    uint64_t need_list;      /* not to be synced before a listing that began after this number */
    struct kl_ctr *ctrs; /* those of the spec it began with; addresses stay */
    size_t n_ctrs;
    char stale[8][LIM_KUBELET_ID];     /* ids to be removed: older sandboxes, and containers beyond the kept ones */
    bool stale_is_sandbox[8];
    size_t n_stale;
    /* work */
    bool is_busy, is_ending, is_cleaned, has_refused, deletion_sent;
    unsigned stops_pending;
    struct loop_timer timer;
    struct loop_hook hook;
    char phase[16], reason[48], message[256]; /* reason/message of a pod that failed as a whole */
    uint64_t start_wall_ns;
    struct json_doc *sent;   /* last status given to the API */
    bool is_sending, send_again;
    unsigned send_failures;
    /* what it refers to */
    struct map refs;         /* "configmaps/x", "secrets/y", "tokens/<volume>/<path>" → struct kl_ref */
    size_t refs_pending;
    bool refs_failed;
    char refs_error[LIM_KKEY + 256];
    uint64_t refs_at_ns;     /* when they were last complete; 0 never */
    uint64_t refs_retry_ns, sandbox_retry_ns;
    bool volumes_ready;
};

struct kubelet {
    struct kubelet_opts o;
    struct loop *l;
    struct kclient *c;
    struct map pods; /* uid → struct kl_pod */
    struct kinformer *pod_informer, *node_informer, *service_informer;
    struct kevents *events;
    bool has_listed;
    /* listing */
    uint64_t list_started, list_done;
    bool is_listing, list_again;
    struct loop_timer relist;
    /* node */
    struct loop_timer lease_timer, status_timer;
    unsigned lease_fails, node_fails; /* in a row */
    bool is_stopped; /* answers that still come are ignored */
    bool api_is_lost, is_registered, is_ready, lease_exists, node_busy, node_again, going_down;
    char down_reason[64];
    void (*down_done)(void *ctx);
    void *down_ctx;
    struct json_doc *tags;      /* labels and taints that we keep in line */
    bool tags_written;   /* the labels of tags are on the Node */
    struct json_doc *sent_status;
    struct json_doc *info_doc;  /* runtime info: version, ready, … */
    bool rt_ready, net_ready;
    char rt_version[96], rt_reason[64], rt_message[200];
    struct kl_server *server;
};

/* kl_node.c */
NODISCARD int kl_node_start(struct kubelet *k, struct err *e);
void kl_node_stop(struct kubelet *k);
void kl_node_refresh(struct kubelet *k); /* status soon */

/* kl_pods.c */
void kl_relist(struct kubelet *k);
void kl_pod_seen(struct kubelet *k, struct json *old, struct json *cur); /* what the watch said; cur NULL: deleted */
struct kl_pod *kl_pod_find(const struct kubelet *k, const char *ns, const char *name);
struct kl_ctr *kl_ctr_find(struct kl_pod *p, const char *name);
const struct json *kl_ctr_spec(const struct kl_ctr *c); /* in the pod's current document */
void kl_pod_free(struct kl_pod *p);

/* kl_sync.c */
void kl_sync_soon(struct kl_pod *p);
void kl_sync_after(struct kl_pod *p, uint64_t ns);
void kl_event(struct kl_pod *p, const char *type, const char *reason, const char *fmt, ...) PRINTF(4, 5);
bool kl_pod_is_terminal(const struct kl_pod *p);
/* Description of the sandbox for the runtime; strings live in the arena. */
struct arena;
NODISCARD int kl_sandbox_describe(struct kl_pod *p, struct arena *a, struct kubelet_sandbox *ret, struct err *e);
NODISCARD int kl_container_describe(struct kl_ctr *c, struct arena *a, const char *image_ref,
                                    struct kubelet_container *ret, struct err *e);

/* kl_status.c */
void kl_status_update(struct kl_pod *p); /* computes; sends when something changed */
/* Gives status of p as a new object in d. */
struct json *kl_status_of(struct kl_pod *p, struct json_doc *d);
void kl_time(uint64_t wall_ns, char dst[32]);

/* kl_refs.c: fetches everything the pod refers to, then calls kl_sync_soon */
void kl_refs_fetch(struct kl_pod *p);
bool kl_refs_wanted(const struct kl_pod *p);
const struct json *kl_ref_get(const struct kl_pod *p, const char *kind, const char *name);
void kl_refs_free(struct kl_pod *p);

/* kl_volumes.c */
NODISCARD int kl_volumes_check(const struct kl_pod *p, struct err *e); /* -ERR_UNSUPPORTED: a kind we do not have */
NODISCARD int kl_volumes_write(struct kl_pod *p, struct err *e);
NODISCARD int kl_volume_path(const struct kl_pod *p, const struct json *volume, struct arena *a, const char **ret,
                             struct err *e);
void kl_volumes_remove(struct kl_pod *p);
NODISCARD int kl_hosts_file(struct kl_pod *p, char *ret, size_t cap, struct err *e);

/* kl_env.c */
/* Environment of a container; strings live in the arena. */
NODISCARD int kl_env(struct kl_ctr *c, struct arena *a, struct kubelet_kv **ret, size_t *ret_n, struct err *e);
/* $(NAME) references; $$ is an escaped $; unknown names stay as they are. */
const char *kl_expand(struct arena *a, const char *s, const struct kubelet_kv *env, size_t n);
/* Value of a fieldRef ("metadata.labels['x']", "status.podIP") or NULL. */
const char *kl_field(const struct kl_pod *p, struct arena *a, const char *path);
/* resourceFieldRef of a container of the pod. */
const char *kl_resource_field(const struct kl_pod *p, struct arena *a, const struct json *ref, const char *container);

/* kl_probe.c */
void kl_probes_update(struct kl_ctr *c); /* starts and stops as the container's state demands */
void kl_probes_stop(struct kl_ctr *c);

struct http_call;
struct http_client;
/* An exec or httpGet action of a probe or hook. -ERR_UNSUPPORTED (the runtime has no exec), -ERR_LIMIT; else done or on_end
 * follows, once. *ret_client is the caller's to free, outside its callbacks. */
NODISCARD int kl_exec(struct kl_ctr *c, const struct json *action, unsigned timeout_s, kubelet_exec_cb *done, void *ctx,
                      struct err *e);
NODISCARD int kl_http_get(struct kl_ctr *c, const struct json *action, uint64_t timeout_ns,
                          void (*on_end)(struct http_call *h, int rc, const struct err *e, void *ctx), void *ctx,
                          struct http_client **ret_client, struct err *e);

/* kl_hook.c */
const struct json *kl_hook_of(const struct kl_ctr *c, const char *which); /* "postStart", "preStop"; NULL: none */
/* Runs it; done is called once, later, with why it failed. One at a time for each container. */
void kl_hook_run(struct kl_ctr *c, const char *which, unsigned timeout_s, kubelet_done_cb *done, void *ctx);
void kl_hook_cancel(struct kl_ctr *c); /* one that runs ends now, with -ERR_CANCELLED */

/* kl_log.c: the CRI log format "<time> stdout|stderr P|F text" */
struct kl_log_line {
    struct span time, text;
    bool is_stderr, is_partial;
};
NODISCARD int kl_log_parse(struct span line, struct kl_log_line *ret);
/* Offset in the file from which the last n lines begin. */
NODISCARD int kl_log_tail(int fd, uint64_t size, uint64_t n, uint64_t *ret_offset, struct err *e);

/* Keeps the log of a running container below LOG_MAX and one older file; called after every listing. */
void kl_log_rotate(struct kl_ctr *c);

/* kl_serve.c */
NODISCARD int kl_serve_start(struct kubelet *k, struct err *e);
void kl_serve_stop(struct kubelet *k);

#endif
