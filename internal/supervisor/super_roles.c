/* The privilege table: user, namespaces, root directory, descriptors and key grants of every role. */
#include "internal/supervisor/supervisor_int.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

#define CAP(c) (1ull << (c))
enum { FD_FIRST = 10 }; /* numbers of passed descriptors start here; 9 is readiness */

/* Roles without a root directory of their own work in the data directory and are given paths below it: its parents may be
 * closed to their users (a home directory), and socket paths stay short. */
static void arg_path(struct proc *p, const char *opt, const char *base, const char *rest) {
    const char *dir = p->s->o->data_dir;
    size_t n = strlen(dir);
    bool below = span_starts(span_str(base), dir) && (base[n] == '/' || !base[n]);
    const char *rel = !below ? base : base[n] ? base + n + 1 : "";
    proc_arg(p, "--%s=%s%s%s", opt, rel, *rel && *rest ? "/" : "", rest);
}

/* Passes a borrowed descriptor and names it in an argument. */
static void pass(struct proc *p, struct sys_spawn *sp, int fd, const char *opt) {
    CHECK(sp->n_fds < SYS_SPAWN_FDS - 3);
    int to = FD_FIRST + (int)sp->n_fds;
    sp->fds[sp->n_fds].from = fd;
    sp->fds[sp->n_fds++].to = to;
    proc_arg(p, "--%s=%d", opt, to);
}

/* The same for one that is opened for this start only. */
static int pass_own(struct proc *p, struct sys_spawn *sp, int fd, const char *opt, int *own,
                    size_t *n_own) {
    if (fd < 0) {
        return fd;
    }
    own[(*n_own)++] = fd;
    pass(p, sp, fd, opt);
    return 0;
}

struct grant {
    const char *scope, *profiles[4], *names[4], *orgs[4];
    bool token, manage;
};

static void strings(struct json_doc *d, struct json *o, const char *key, const char *const *v,
                    size_t n) {
    struct json *a = json_set_arr(d, o, key);
    for (size_t i = 0; i < n && v[i]; i++) {
        json_push_str(d, a, v[i]);
    }
}

static int pass_keys(struct proc *p, struct sys_spawn *sp, const struct grant *g, int *own,
                     size_t *n_own, struct err *e) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *o = json_new_obj(d);
    json_set_str(d, o, "scope", g->scope);
    strings(d, o, "profiles", g->profiles, ARRAY_LEN(g->profiles));
    strings(d, o, "names", g->names, ARRAY_LEN(g->names));
    strings(d, o, "orgs", g->orgs, ARRAY_LEN(g->orgs));
    json_set_bool(d, o, "token", g->token);
    json_set_bool(d, o, "manage", g->manage);
    AUTO(buf) struct buf b = BUF_INIT(LIM_IPC_MSG);
    json_write(o, 0, &b);
    int rc = buf_ok(&b);
    if (rc < 0 || p->key_near >= 0) { /* a restarted process gets a new channel */
        sys_close(p->key_near);
        free(p->key_grant);
        p->key_near = -1;
        p->key_grant = NULL;
    }
    rc = rc < 0 ? err_set(e, ERR_LIMIT, "key grant too large")
                : super_key_channel(p->s, buf_cstr(&b), &p->key_near, e);
    p->key_grant = rc < 0 ? NULL : str_dup(buf_cstr(&b));
    return rc < 0 ? rc : pass_own(p, sp, rc, "keyd-fd", own, n_own);
}

/* Neither keyd nor front ever speaks first. */
static void ctl_msg(struct ipc *c, struct ipc_msg *m, void *ctx) {
    (void)c;
    (void)ctx;
    LOG_WARN("supervisor", "unexpected message from a role", F_U64("type", m->type));
}
static void ctl_close(struct ipc *c, void *ctx) {
    (void)c;
    (void)ctx; /* the exit of the process tells the same */
}

static int keyd(struct proc *p, struct sys_spawn *sp, int *own, size_t *n_own, struct err *e) {
    struct sup *s = p->s;
    int pair[2];
    AUTO_FREE char *dir = str_fmt("%s/keyd", s->o->data_dir);
    int rc = pass_own(p, sp, sys_open_dir(dir, e), "dir-fd", own, n_own);
    if (rc < 0 || (rc = ipc_pair(pair, e)) < 0) {
        return rc;
    }
    ipc_free(s->keyd_ctl);
    s->keyd_ctl = NULL;
    if ((rc = pass_own(p, sp, pair[1], "ctl-fd", own, n_own)) < 0) {
        sys_close(pair[0]);
        return rc;
    }
    const struct ipc_handler h = {ctl_msg, ctl_close, s};
    if ((rc = ipc_new(s->l, pair[0], &h, &s->keyd_ctl, e)) < 0) {
        return rc;
    }
    for (LIST_EACH(at, nxt, &s->procs)) {
        struct proc *q = CONTAINER_OF(at, struct proc, link);
        if (q->key_near >= 0 &&
            (rc = super_key_grant(s, KEYD_GRANT_AGAIN, q->key_grant, q->key_near, e)) < 0) {
            return rc;
        }
    }
    return 0;
}

static int front(struct proc *p, struct sys_spawn *sp, int *own, size_t *n_own, struct err *e) {
    struct sup *s = p->s;
    int pair[2];
    int rc = ipc_pair(pair, e);
    if (rc < 0) {
        return rc;
    }
    ipc_free(s->front_ctl);
    s->front_ctl = NULL;
    for (size_t i = 0; i < s->n_front; i++) {
        pass(p, sp, s->front_listen[i], "listen-fd");
    }
    if ((rc = pass_own(p, sp, pair[1], "ctl-fd", own, n_own)) < 0) {
        sys_close(pair[0]);
        return rc;
    }
    const struct ipc_handler h = {ctl_msg, ctl_close, s};
    if ((rc = ipc_new(s->l, pair[0], &h, &s->front_ctl, e)) < 0) {
        return rc;
    }
    /* A new front knows no routes; the sockets to the API servers are ours and are given again. */
    struct map_iter it = {0};
    for (struct map_entry *en; map_next(&s->clusters, &it, &en);) {
        struct cluster *c = en->value;
        if (c->near_fd >= 0 && (rc = cluster_route(s, c, e)) < 0) {
            return rc;
        }
    }
    return 0;
}

/* Credentials towards etcd come as data, so that no file of theirs lies in the process's directory. */
static int pass_etcd_tls(struct proc *p, struct sys_spawn *sp, int *own, size_t *n_own,
                         struct err *e) {
    int fds[2];
    struct span text = span_str(p->etcd_tls);
    if (!p->etcd_tls) {
        return 0;
    }
    if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0) {
        return err_sys(e, errno, "pipe");
    }
    bool fits = write(fds[1], text.p, text.n) == (ssize_t)text.n; /* or half of it would be read */
    sys_close(fds[1]);
    if (!fits) {
        sys_close(fds[0]);
        return err_set(e, ERR_LIMIT, "credentials towards etcd are larger than a pipe");
    }
    return pass_own(p, sp, fds[0], "etcd-tls-fd", own, n_own);
}

static int apiserver(struct proc *p, struct sys_spawn *sp, int *own, size_t *n_own, struct err *e) {
    const struct supervisor_opts *o = p->s->o;
    struct cluster *c = p->cluster;
    const struct grant g = {c->scope, {KEY_APISERVER, KEY_KUBELET_CLIENT}, {NULL}, {NULL}, true,
                            false};
    pass(p, sp, c->sock, "unix-listen-fd");
    if (c->port_fd >= 0) {
        pass(p, sp, c->port_fd, "listen-fd");
    }
    if (c->front_far >= 0) {
        pass(p, sp, c->front_far, "front-fd");
    }
    proc_arg(p, "--data-dir=/");
    proc_arg(p, "--scope=%s", c->scope);
    proc_arg(p, "--advertise-address=%s", o->node_ip);
    proc_arg(p, "--advertise-port=%u", (unsigned)(c->port ? c->port : o->port));
    proc_arg(p, "--tls-san=%s", o->node_ip);
    for (size_t i = 0; i < o->n_tls_sans; i++) {
        proc_arg(p, "--tls-san=%s", o->tls_sans[i]);
    }
    if (c == p->s->admin) {
        proc_arg(p, "--farm");
        proc_arg(p, "--service-cluster-ip-range=%s", o->service_cidr);
    }
    int rc = pass_etcd_tls(p, sp, own, n_own, e);
    return rc < 0 ? rc : pass_keys(p, sp, &g, own, n_own, e);
}

static int controllers(struct proc *p, struct sys_spawn *sp, int *own, size_t *n_own,
                       struct err *e) {
    const struct grant g = {p->cluster->scope,
                            {KEY_COMPONENT, KEY_CSR},
                            {"system:kube-controller-manager", "system:kube-scheduler"},
                            {NULL},
                            false,
                            false};
    proc_arg(p, "--unix=/api.sock");
    proc_arg(p, "--scope=%s", p->cluster->scope);
    proc_arg(p, "--leader-elect=false"); /* a control plane has one */
    if (p->cluster == p->s->admin) {
        proc_arg(p, "--cluster-name=kfarm");
        proc_arg(p, "--service-cluster-ip-range=%s", p->s->o->service_cidr);
        proc_arg(p, "--cluster-cidr=%s", p->s->o->cluster_cidr);
    }
    return pass_keys(p, sp, &g, own, n_own, e);
}

static int farm(struct proc *p, struct sys_spawn *sp, int *own, size_t *n_own, struct err *e) {
    const struct supervisor_opts *o = p->s->o;
    const struct grant g = {
        "*", {KEY_COMPONENT, KEY_ADMIN}, {"system:kfarm:farm"}, {"system:masters"}, false, true};
    int far;
    int rc = client_open(&p->s->farm, p->s, &far, e);
    if (rc < 0 || (rc = pass_own(p, sp, far, "super-fd", own, n_own)) < 0) {
        return rc;
    }
    arg_path(p, "run-dir", o->run_dir, "");
    proc_arg(p, "--host=%s", o->advertise_host);
    proc_arg(p, "--node-name=%s", o->node_name);
    proc_arg(p, "--front-port=%u", (unsigned)o->port);
    proc_arg(p, "--tenant-ports=%u-%u", (unsigned)o->tenant_port_first,
             (unsigned)o->tenant_port_last);
    return pass_keys(p, sp, &g, own, n_own, e);
}

static int hostlet(struct proc *p, struct sys_spawn *sp, int *own, size_t *n_own, struct err *e) {
    const struct supervisor_opts *o = p->s->o;
    AUTO_FREE char *name = str_fmt("system:node:%s", o->node_name);
    const struct grant g = {"admin", {KEY_COMPONENT}, {name}, {"system:nodes"}, false, false};
    int far;
    int rc = client_open(&p->s->hostlet, p->s, &far, e);
    if (rc < 0 || (rc = pass_own(p, sp, far, "super-fd", own, n_own)) < 0) {
        return rc;
    }
    arg_path(p, "unix", o->run_dir, "admin/api.sock");
    arg_path(p, "root-dir", o->data_dir, "hostlet");
    arg_path(p, "log-dir", o->data_dir, "logs/pods");
    proc_arg(p, "--node-name=%s", o->node_name);
    proc_arg(p, "--node-ip=%s", o->node_ip);
    proc_arg(p, "--port=%u", (unsigned)o->kubelet_port);
    return pass_keys(p, sp, &g, own, n_own, e);
}

static int netboot(struct proc *p, struct sys_spawn *sp, int *own, size_t *n_own, struct err *e) {
    const struct supervisor_opts *o = p->s->o;
    const struct grant g = {"*",
                            {KEY_COMPONENT, KEY_BOOT, KEY_BOOTSTRAP_NODE},
                            {"system:kfarm:netboot"},
                            {NULL},
                            false,
                            false};
    arg_path(p, "unix", o->run_dir, "admin/api.sock");
    arg_path(p, "data-dir", o->data_dir, "netboot");
    arg_path(p, "images-dir", o->data_dir, "images");
    arg_path(p, "boot-dir", o->data_dir, "boot");
    proc_arg(p, "--node-ip=%s", o->node_ip);
    for (size_t i = 0; i < o->n_netboot_args; i++) {
        proc_arg(p, "%s", o->netboot_args[i]);
    }
    return pass_keys(p, sp, &g, own, n_own, e);
}

const struct role_spec super_roles[] = {
    {"keyd", UID_KEYD, 0, CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS, false, false, false, keyd},
    {"front", UID_FRONT, 0, CLONE_NEWIPC | CLONE_NEWUTS, false, false, false, front},
    {"apiserver", 0, 0, CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWPID, true, false, true, apiserver},
    {"controllers", 0, 0, CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWPID, false, true,
     true, controllers},
    {"farm", UID_FARM, 0, CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWPID, false, false, false, farm},
    {"hostlet", UID_HOSTLET, 0, CLONE_NEWIPC, false, false, false, hostlet},
    {"netboot", UID_NETBOOT,
     CAP(CAP_NET_BIND_SERVICE) | CAP(CAP_NET_RAW) | CAP(CAP_NET_ADMIN) | CAP(CAP_NET_BROADCAST),
     CLONE_NEWIPC, false, false, false, netboot},
    {NULL, 0, 0, 0, false, false, false, NULL},
};

const struct role_spec *super_role(const char *name) {
    for (const struct role_spec *r = super_roles; r->name; r++) {
        if (str_eq(r->name, name)) {
            return r;
        }
    }
    return NULL;
}
