/* Processes: start, readiness, exit, back-off. */
#include "internal/supervisor/supervisor_int.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

#define BACKOFF_MIN_NS (50 * NS_PER_MS)
#define BACKOFF_MAX_NS (10 * NS_PER_S)
#define BACKOFF_RESET_NS (30 * NS_PER_S)

struct proc *proc_find(struct sup *s, const char *id) {
    for (LIST_EACH(at, nxt, &s->procs)) {
        struct proc *p = CONTAINER_OF(at, struct proc, link);
        if (str_eq(p->id, id)) {
            return p;
        }
    }
    return NULL;
}

struct proc *proc_new(struct sup *s, const char *id, const struct role_spec *role,
                      struct cluster *c) {
    struct proc *p = new_zero(struct proc);
    p->s = s;
    p->id = str_dup(id);
    p->role = role;
    p->cluster = c;
    p->ready_fd = p->log_fd = p->key_near = -1;
    list_add_tail(&s->procs, &p->link);
    s->n_procs++;
    return p;
}

static void close_run(struct proc *p) {
    loop_io_stop(&p->ready_io);
    sys_close(p->ready_fd);
    p->ready_fd = -1;
}

void proc_free(struct proc *p) {
    list_del(&p->link);
    p->s->n_procs--;
    loop_child_stop(&p->child);
    loop_timer_stop(&p->timer);
    close_run(p);
    sys_close(p->log_fd);
    sys_close(p->key_near);
    free(p->key_grant);
    if (p->etcd_tls) {
        secret_wipe(p->etcd_tls, strlen(p->etcd_tls));
        free(p->etcd_tls);
    }
    for (size_t i = 0; i < p->n_args; i++) {
        free(p->args[i]);
    }
    free(p->id);
    free(p);
}

void proc_arg(struct proc *p, const char *fmt, ...) {
    struct buf b = BUF_INIT(8192);
    va_list ap;
    va_start(ap, fmt);
    buf_vfmt(&b, fmt, ap);
    va_end(ap);
    CHECK(p->n_args < LIM_ARGS - 1);
    char *s = buf_take(&b, NULL);
    CHECK(s);
    p->args[p->n_args++] = s;
}

static void restart_due(struct loop_timer *t) {
    struct proc *p = CONTAINER_OF(t, struct proc, timer);
    struct err e = ERR_INIT;
    if (proc_start(p, &e) < 0) {
        LOG_ERROR("supervisor", "role not started, trying again", F_STR("role", p->id), F_ERR(&e));
        p->state = PROC_WAITING;
        loop_timer_start(p->s->l, &p->timer, BACKOFF_MAX_NS, restart_due, "restart");
    }
}

static void on_exit_(struct loop_child *c, int code, int sig) {
    struct proc *p = CONTAINER_OF(c, struct proc, child);
    struct sup *s = p->s;
    bool wanted = p->state == PROC_STOPPING;
    close_run(p);
    loop_timer_stop(&p->timer);
    p->state = PROC_STOPPED;
    p->is_ready = false;
    if (p->by_client) {
        client_exited(p, code, sig);
        proc_free(p);
    } else if (!s->stopping) {
        uint64_t lived = loop_now(s->l) - p->started_ns;
        p->backoff_ns =
            lived > BACKOFF_RESET_NS || !p->backoff_ns ? BACKOFF_MIN_NS : p->backoff_ns * 2;
        p->backoff_ns = p->backoff_ns > BACKOFF_MAX_NS ? BACKOFF_MAX_NS : p->backoff_ns;
        p->restarts++;
        p->state = PROC_WAITING;
        LOG_WARN("supervisor", "role ended, starting it again", F_STR("role", p->id),
                 F_I64("code", code), F_I64("signal", sig),
                 F_U64("after_ms", p->backoff_ns / NS_PER_MS));
        loop_timer_start(s->l, &p->timer, p->backoff_ns, restart_due, "restart");
    } else if (!wanted) {
        LOG_WARN("supervisor", "role ended while stopping", F_STR("role", p->id),
                 F_I64("code", code));
    }
    if (s->stopping) {
        super_stop_all(s);
    }
}

static void announce(struct sup *s) {
    for (LIST_EACH(at, nxt, &s->procs)) {
        struct proc *p = CONTAINER_OF(at, struct proc, link);
        if (!p->by_client && !p->is_ready) {
            return;
        }
    }
    if (!s->announced) {
        s->announced = true;
        LOG_INFO("supervisor", "ready", F_STR("server", s->o->advertise_host),
                 F_U64("port", s->o->port), F_STR("kubeconfig", s->o->kubeconfig),
                 F_U64("ms", (loop_now(s->l) - s->start_ns) / NS_PER_MS));
    }
}

static void on_ready(struct loop_io *io, uint32_t events) {
    (void)events;
    struct proc *p = CONTAINER_OF(io, struct proc, ready_io);
    char c = 0;
    ssize_t n = read(io->fd, &c, 1);
    if (n < 0 && errno == EAGAIN) {
        return;
    }
    loop_io_stop(io);
    sys_close(p->ready_fd);
    p->ready_fd = -1;
    if (n == 1 && c == '\n') {
        p->is_ready = true;
        if (p->by_client) {
            client_ready(p);
        } else {
            announce(p->s);
        }
    }
}

static int spawn(struct proc *p, struct sys_spawn *sp, struct err *e) {
    int own[SYS_SPAWN_FDS], ready[2] = {-1, -1}, logs[2] = {-1, -1};
    size_t n_own = 0, fixed = p->n_args;
    const char *argv[LIM_ARGS + 3] = {"kfarm", p->role->name};
    int rc = p->role->prepare ? p->role->prepare(p, sp, own, &n_own, e) : 0;
    if (rc == 0 && pipe2(ready, O_CLOEXEC | O_NONBLOCK) < 0) {
        rc = err_sys(e, errno, "pipe");
    }
    /* A log pipe never blocks its writer: a stuck reader costs log lines, not the cluster. */
    if (rc == 0 && p->by_client && pipe2(logs, O_CLOEXEC | O_NONBLOCK) < 0) {
        rc = err_sys(e, errno, "pipe");
    }
    if (rc == 0) {
        rc = loop_io_start(p->s->l, &p->ready_io, ready[0], LOOP_READ, on_ready, "readiness", e);
    }
    if (rc == 0) {
        int pidfd, err_fd = p->by_client ? logs[1] : 2;
        sp->fds[sp->n_fds].from = err_fd;
        sp->fds[sp->n_fds++].to = 1;
        sp->fds[sp->n_fds].from = err_fd;
        sp->fds[sp->n_fds++].to = 2;
        sp->fds[sp->n_fds].from = ready[1];
        sp->fds[sp->n_fds++].to = 9;
        proc_arg(p, "--ready-fd=9");
        proc_arg(p, "--log-level=%s", p->s->o->log_level);
        for (size_t i = 0; i < p->n_args; i++) {
            argv[i + 2] = p->args[i];
        }
        sp->argv = argv;
        rc = sys_spawn(sp, &pidfd, &p->pid, e);
        rc = rc < 0 ? rc : loop_child_start(p->s->l, &p->child, pidfd, on_exit_, e);
    }
    while (p->n_args > fixed) { /* arguments of this start only */
        free(p->args[--p->n_args]);
    }
    for (size_t i = 0; i < n_own; i++) {
        sys_close(own[i]);
    }
    sys_close(ready[1]);
    sys_close(logs[1]);
    if (rc < 0) {
        loop_io_stop(&p->ready_io);
        sys_close(ready[0]);
        sys_close(logs[0]);
        return rc;
    }
    p->ready_fd = ready[0];
    sys_close(p->log_fd);
    p->log_fd = logs[0];
    return 0;
}

int proc_start(struct proc *p, struct err *e) {
    const struct role_spec *r = p->role;
    struct sup *s = p->s;
    struct sys_spawn sp = SYS_SPAWN_INIT;
    sp.exe_fd = s->exe_fd;
    sp.uid = sp.gid = r->uid ? r->uid : p->cluster->uid;
    sp.keep_caps = r->caps;
    sp.ns_flags = r->ns_flags;
    sp.no_new_privs = true;
    sp.die_with_parent = true;
    sp.nofile = 16384;
    sp.chroot_dir = r->chroot_to_cluster ? p->cluster->dir
                    : r->chroot_to_run   ? p->cluster->run
                                         : NULL;
    sp.cwd = sp.chroot_dir ? NULL : s->o->data_dir; /* relative paths of arguments, see arg_path */
    int rc = spawn(p, &sp, e);
    if (rc < 0) {
        return err_wrap(e, "role %s", p->id);
    }
    p->state = PROC_RUNNING;
    p->started_ns = loop_now(s->l);
    return 0;
}

static void grace_over(struct loop_timer *t) {
    struct proc *p = CONTAINER_OF(t, struct proc, timer);
    struct err e = ERR_INIT;
    LOG_WARN("supervisor", "role did not stop in time, killing it", F_STR("role", p->id));
    if (loop_child_signal(&p->child, SIGKILL, &e) < 0) {
        LOG_ERROR("supervisor", "kill failed", F_STR("role", p->id), F_ERR(&e));
    }
}

void proc_stop(struct proc *p, uint64_t grace_ns) {
    struct err e = ERR_INIT;
    if (p->state == PROC_WAITING) {
        loop_timer_stop(&p->timer);
        p->state = PROC_STOPPED;
    } else if (p->state == PROC_RUNNING) {
        p->state = PROC_STOPPING;
        if (loop_child_signal(&p->child, SIGTERM, &e) < 0) {
            LOG_DEBUG("supervisor", "signal not sent: it has ended", F_STR("role", p->id),
                      F_ERR(&e));
        }
        loop_timer_start(p->s->l, &p->timer, grace_ns, grace_over, "stop grace");
    }
}

/* Children first, keyd last: they may still need a signature or a write to their store. Called again on every exit. */
void super_stop_all(struct sup *s) {
    static const char *const order[] = {"netboot",     "farm",      "hostlet", "front",
                                        "controllers", "apiserver", "keyd"};
    s->stopping = true;
    for (size_t i = 0; i < ARRAY_LEN(order); i++) {
        bool waiting = false;
        for (LIST_EACH(at, nxt, &s->procs)) {
            struct proc *p = CONTAINER_OF(at, struct proc, link);
            if (str_eq(p->role->name, order[i])) {
                proc_stop(p, 5 * NS_PER_S);
                waiting = waiting || p->state == PROC_STOPPING;
            }
        }
        if (waiting && i >= 3) {
            return; /* the first four groups stop together */
        }
    }
    for (LIST_EACH(at, nxt, &s->procs)) {
        if (CONTAINER_OF(at, struct proc, link)->state == PROC_STOPPING) {
            return;
        }
    }
    loop_stop(s->l);
}
