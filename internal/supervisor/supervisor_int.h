/* Private to supervisor: state shared by its files.
 *
 * A cluster (admin or tenant) owns what outlives its processes: listeners, the socket to front, its directory and uid.
 * A proc is one role process, started again by itself (builtin) or by whoever asked for it (hostlet).
 */
#ifndef KF_SUPERVISOR_INT_H
#define KF_SUPERVISOR_INT_H

#include "internal/base/rand.h"
#include "internal/ipc/ipc.h"
#include "internal/json/json.h"
#include "internal/keyclient/keyclient.h"
#include "internal/log/log.h"
#include "internal/superclient/superclient.h"
#include "internal/supervisor/supervisor.h"
#include "internal/sys/sys.h"

enum { LIM_PROCS = 1500, LIM_ARGS = 64, UID_FIRST = 64200, UID_TENANT_FIRST = 70000 };

/* Fixed unprivileged users of the builtin roles: numbers are enough, no entry in /etc/passwd is needed. */
enum { UID_KEYD = UID_FIRST, UID_APISERVER, UID_CONTROLLERS, UID_FARM, UID_HOSTLET, UID_NETBOOT, UID_FRONT };

struct cluster {
    char *scope, *dir, *run; /* dir: its store; run: its api.sock */
    uid_t uid;
    int sock;                /* unix listener api.sock */
    int front_far, near_fd;  /* the pair to front: the API server's end, and front's (a duplicate for a new front) */
    char *names;             /* JSON array of server names */
    int port_fd;             /* own TCP listener of a tenant, -1: none */
    uint16_t port;
};

struct client { /* hostlet or farm: who may send SUPER_* */
    struct sup *s;
    struct ipc *ipc;
    bool may_run, may_forget;
};

enum proc_state { PROC_STOPPED, PROC_RUNNING, PROC_WAITING /* for its back-off */, PROC_STOPPING };

struct role_spec;
struct proc {
    struct list link;
    struct sup *s;
    char *id;
    const struct role_spec *role;
    struct cluster *cluster;
    enum proc_state state;
    pid_t pid;
    struct loop_child child;
    struct loop_timer timer; /* back-off, or the grace of a stop */
    struct loop_io ready_io;
    int ready_fd, log_fd;    /* read ends; log_fd only of client-run processes */
    bool is_ready, by_client;
    uint64_t started_ns, backoff_ns;
    unsigned restarts;
    char *args[LIM_ARGS];
    size_t n_args;
    int key_near;            /* keyd's end of this process's channel, kept to give it to a restarted keyd */
    char *key_grant;         /* JSON */
    char *etcd_tls;          /* JSON with a private key, for the start; NULL: none */
    struct ipc *waiter;      /* who waits for SUPER_STOP */
    uint64_t waiter_id;
};

struct sup {
    const struct supervisor_opts *o;
    struct loop *l;
    struct loop_signal sig;
    int exe_fd;
    struct ipc *keyd_ctl, *front_ctl;
    int front_listen[SUPER_BINDS];
    size_t n_front;
    struct map clusters;
    struct cluster *admin;
    struct list procs;
    size_t n_procs;
    struct client hostlet, farm;
    bool stopping, announced;
    uint64_t start_ns;
    struct loop_timer renew;
};

/* What a role may have: the whole privilege story of a host is this table (super_roles.c). */
struct role_spec {
    const char *name;
    uid_t uid;               /* 0: the cluster's */
    uint64_t caps;
    unsigned ns_flags;
    bool chroot_to_cluster, chroot_to_run, client_may_run;
    /* Adds descriptors and arguments; fds opened only for this start go to `own`, closed after the spawn. */
    int (*prepare)(struct proc *p, struct sys_spawn *sp, int *own, size_t *n_own, struct err *e);
};
extern const struct role_spec super_roles[];
const struct role_spec *super_role(const char *name);

/* super_proc.c */
struct proc *proc_new(struct sup *s, const char *id, const struct role_spec *role, struct cluster *c);
void proc_free(struct proc *p);
void proc_arg(struct proc *p, const char *fmt, ...) PRINTF(2, 3);
NODISCARD int proc_start(struct proc *p, struct err *e);
void proc_stop(struct proc *p, uint64_t grace_ns);
struct proc *proc_find(struct sup *s, const char *id);
void super_stop_all(struct sup *s);

/* super_cluster.c */
NODISCARD int cluster_open(struct sup *s, const char *scope, struct cluster **ret, struct err *e);
NODISCARD int cluster_listen(struct sup *s, struct cluster *c, uint16_t port, const struct json *names, struct err *e);
NODISCARD int cluster_route(struct sup *s, struct cluster *c, struct err *e);
void cluster_free(struct cluster *c);
NODISCARD int cluster_forget(struct sup *s, const char *scope, struct err *e);
/* A fresh channel to keyd with this grant; returns the caller's end and, unless NULL, a duplicate of keyd's end. */
NODISCARD int super_key_channel(struct sup *s, const char *grant, int *ret_near, struct err *e);
NODISCARD int super_key_grant(struct sup *s, enum keyd_msg kind, const char *grant, int near,
                              struct err *e); /* `near` is duplicated */

/* super_client.c */
NODISCARD int client_open(struct client *c, struct sup *s, int *ret_far, struct err *e);
void client_exited(struct proc *p, int code, int sig);
void client_ready(struct proc *p);

/* super_kubeconfig.c */
NODISCARD int super_kubeconfig(struct sup *s, struct err *e);

#endif
