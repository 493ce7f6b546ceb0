#include "internal/supervisor/supervisor_int.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#define RENEW_CHECK_NS (24ull * 3600 * NS_PER_S)

static int check_host(struct err *e) {
    struct utsname u;
    uint64_t major = 0, minor = 0;
    CHECK(uname(&u) == 0);
    struct span rest = span_str(u.release), part;
    if (span_next(&rest, '.', &part)) {
        IGNORE_ERR(span_to_u64(part, 0, 1000, &major), "0 is old enough to refuse");
    }
    while (minor < 1000 && rest.n && rest.p[0] >= '0' && rest.p[0] <= '9') {
        minor = minor * 10 + (uint64_t)(rest.p[0] - '0');
        IGNORE_ERR(span_skip(&rest, 1), "length checked");
    }
    if (major < 5 || (major == 5 && minor < 11)) {
        return err_set(e, ERR_UNSUPPORTED, "Linux %s is too old: kfarm server needs 5.11 or newer",
                       u.release);
    }
    if (geteuid() != 0) {
        return err_set(
            e, ERR_FORBIDDEN,
            "kfarm server must be started as root: it gives each role a user of its own");
    }
    return 0;
}

static int own_dir(const char *base, const char *name, uid_t uid, mode_t mode, struct err *e) {
    AUTO_FREE char *path = str_fmt("%s/%s", base, name);
    int rc = sys_mkdirs(path, mode, e);
    return rc < 0 ? rc : chown(path, uid, uid) < 0 ? err_sys(e, errno, "chown %s", path) : 0;
}

static int lay_out(const struct supervisor_opts *o, int *ret_lock, struct err *e) {
    static const struct {
        const char *name;
        uid_t uid;
        mode_t mode;
    } dirs[] = {
        {"keyd", UID_KEYD, 0700},
        {"tenants", 0, 0711},
        {"logs", 0, 0755},
        {"boot", 0, 0755},
        {"logs/pods", UID_HOSTLET, 0750},
        {"hostlet", UID_HOSTLET, 0700},
        {"images", 0, 0755},
        {"netboot", UID_NETBOOT, 0750},
    };
    int rc = sys_mkdirs(o->data_dir, 0711, e);
    if (rc < 0 || (rc = sys_mkdirs(o->run_dir, 0755, e)) < 0) {
        return err_wrap(e, "data directory");
    }
    AUTO_FREE char *lock = str_fmt("%s/lock", o->data_dir);
    AUTO_FD int fd = sys_open(AT_FDCWD, lock, O_RDWR | O_CREAT, 0600, e);
    if (fd < 0) {
        return err_wrap(e, "data directory %s is not writable", o->data_dir);
    }
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        return err_set(e, ERR_BUSY,
                       "another kfarm server uses %s: stop it, or choose another --data-dir",
                       o->data_dir);
    }
    for (size_t i = 0; i < ARRAY_LEN(dirs); i++) {
        if ((rc = own_dir(o->data_dir, dirs[i].name, dirs[i].uid, dirs[i].mode, e)) < 0) {
            return rc;
        }
    }
    AUTO_FREE char *dir = str_dup(o->kubeconfig);
    char *slash = strrchr(dir, '/');
    if (slash && slash != dir) {
        *slash = 0;
        if ((rc = sys_mkdirs(dir, 0755, e)) < 0 && rc != -ERR_FORBIDDEN) {
            return rc;
        }
        err_reset(e);
    }
    *ret_lock = TAKE_FD(fd);
    return 0;
}

static int listen_all(struct sup *s, struct err *e) {
    const struct supervisor_opts *o = s->o;
    size_t n = o->n_bind ? o->n_bind : 1;
    for (size_t i = 0; i < n && !o->no_front; i++) {
        int fd = sys_listen_tcp(o->n_bind ? o->bind[i] : "", o->port, e);
        if (fd < 0) {
            return e->sys == EADDRINUSE ? err_set((err_reset(e), e), ERR_EXISTS,
                                                  "port %u is taken by another program: stop it, "
                                                  "or choose another --https-listen-port",
                                                  (unsigned)o->port)
                                        : err_wrap(e, "admin API");
        }
        s->front_listen[s->n_front++] = fd;
    }
    if (o->kubelet_port) { /* hostlet opens it; taken is better said here */
        int fd = sys_listen_tcp("", o->kubelet_port, e);
        if (fd < 0) {
            return e->sys == EADDRINUSE ? err_set((err_reset(e), e), ERR_EXISTS,
                                                  "port %u is taken by another program: choose "
                                                  "another --kubelet-port (0: none)",
                                                  (unsigned)o->kubelet_port)
                                        : err_wrap(e, "kubelet port");
        }
        sys_close(fd);
    }
    return 0;
}

static int start_role(struct sup *s, const char *name, struct err *e) {
    struct proc *p = proc_new(s, name, super_role(name), s->admin);
    return proc_start(p, e);
}

static int start_all(struct sup *s, struct err *e) {
    int rc = start_role(s, "keyd", e);
    if (rc < 0 || (rc = super_kubeconfig(s, e)) < 0 ||
        (rc = cluster_open(s, "admin", &s->admin, e)) < 0) {
        return rc;
    }
    CONTAINER_OF(s->procs.next, struct proc, link)->cluster = s->admin;
    if (!s->o->no_front && (rc = start_role(s, "front", e)) < 0) {
        return rc;
    }
    if ((rc = cluster_listen(s, s->admin, 0, NULL, e)) < 0) {
        return rc;
    }
    static const char *const rest[] = {"apiserver", "controllers", "farm", "hostlet", "netboot"};
    for (size_t i = 0; i < ARRAY_LEN(rest) - (s->o->no_netboot ? 1 : 0); i++) {
        if ((rc = start_role(s, rest[i], e)) < 0) {
            return rc;
        }
    }
    return 0;
}

static void on_signal(struct loop_signal *sig, int signo) {
    struct sup *s = CONTAINER_OF(sig, struct sup, sig);
    if (!s->stopping) {
        LOG_INFO("supervisor", "stopping", F_I64("signal", signo));
        super_stop_all(s);
    }
}

static void renew_due(struct loop_timer *t) {
    struct sup *s = CONTAINER_OF(t, struct sup, renew);
    struct err e = ERR_INIT;
    if (super_kubeconfig(s, &e) < 0) {
        LOG_ERROR("supervisor", "admin kubeconfig not renewed, trying again tomorrow", F_ERR(&e));
    }
    loop_timer_start(s->l, t, RENEW_CHECK_NS, renew_due, "kubeconfig renewal");
}

static void release(struct sup *s) {
    while (!list_empty(&s->procs)) {
        proc_free(CONTAINER_OF(s->procs.next, struct proc, link));
    }
    ipc_free(s->keyd_ctl);
    ipc_free(s->front_ctl);
    ipc_free(s->hostlet.ipc);
    ipc_free(s->farm.ipc);
    struct map_iter it = {0};
    for (struct map_entry *en; map_next(&s->clusters, &it, &en);) {
        cluster_free(en->value);
    }
    map_fini(&s->clusters);
    for (size_t i = 0; i < s->n_front; i++) {
        sys_close(s->front_listen[i]);
    }
    sys_close(s->exe_fd);
    loop_timer_stop(&s->renew);
    loop_signal_stop(&s->sig);
    loop_free(s->l);
}

int supervisor_run(const struct supervisor_opts *o, struct err *e) {
    struct sup s = {.o = o, .exe_fd = -1, .clusters = MAP_INIT, .start_ns = clock_ns()};
    s.hostlet.may_run = s.farm.may_forget = true;
    AUTO_FD int lock = -1;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    list_init(&s.procs);
    int rc = check_host(e);
    if (rc < 0 || (rc = lay_out(o, &lock, e)) < 0 || (rc = loop_new(&s.l, e)) < 0) {
        return rc;
    }
    if ((rc = loop_signal_start(s.l, &s.sig, &set, on_signal, e)) == 0 &&
        (rc = listen_all(&s, e)) == 0 && (rc = s.exe_fd = sys_open_self_exe(e)) >= 0 &&
        (rc = start_all(&s, e)) == 0) {
        loop_timer_start(s.l, &s.renew, RENEW_CHECK_NS, renew_due, "kubeconfig renewal");
        rc = loop_run(s.l, e);
    }
    release(&s); /* children that still live end with us: PR_SET_PDEATHSIG */
    return rc < 0 ? rc : 0;
}
