/* Processes: the child between clone and exec makes system calls only, because the parent may have threads. */
#include "internal/sys/sys.h"

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef CLONE_PIDFD
#define CLONE_PIDFD 0x00001000
#endif

struct clone_args_ { /* linux/sched.h's clone_args, first version */
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls;
};

int sys_open_self_exe(struct err *e) {
    return sys_open(AT_FDCWD, "/proc/self/exe", O_RDONLY, 0, e);
}

int sys_pidfd_signal(int pidfd, int sig, struct err *e) {
    if (syscall(SYS_pidfd_send_signal, pidfd, sig, NULL, 0) < 0) {
        return err_sys(e, errno, "sending a signal");
    }
    return 0;
}

/* Keeps `keep` across the uid change and makes it ambient so that exec does not drop it. */
static int set_ids(const struct sys_spawn *s) {
    struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct d[2] = {{0}};
    if (s->keep_caps && prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0) {
        return -1;
    }
    if (s->uid && (setgroups(0, NULL) < 0 || setresgid(s->gid, s->gid, s->gid) < 0 ||
                   setresuid(s->uid, s->uid, s->uid) < 0)) {
        return -1;
    }
    if (s->keep_caps) {
        for (int i = 0; i < 2; i++) {
            uint32_t bits = (uint32_t)(s->keep_caps >> (32 * i));
            d[i].effective = d[i].permitted = d[i].inheritable = bits;
        }
        if (syscall(SYS_capset, &h, d) < 0) {
            return -1;
        }
        for (int c = 0; c < 64; c++) {
            if (s->keep_caps >> c & 1 && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, c, 0, 0) < 0) {
                return -1;
            }
        }
    }
    return 0;
}

/* Moves the wanted descriptors to their numbers in two steps so that sources and targets may overlap. */
static int place_fds(const struct sys_spawn *s, int *report, int *exe) {
    int base = 64;
    for (size_t i = 0; i < s->n_fds; i++) {
        if (s->fds[i].to >= base) {
            base = s->fds[i].to + 1;
        }
    }
    int moved[SYS_SPAWN_FDS];
    for (size_t i = 0; i < s->n_fds; i++) {
        moved[i] = fcntl(s->fds[i].from, F_DUPFD_CLOEXEC, base);
        if (moved[i] < 0) {
            return -1;
        }
    }
    *report = fcntl(*report, F_DUPFD_CLOEXEC, base);
    *exe = *exe < 0 ? -1 : fcntl(*exe, F_DUPFD_CLOEXEC, base);
    for (size_t i = 0; i < s->n_fds; i++) {
        if (dup3(moved[i], s->fds[i].to, 0) < 0) {
            return -1;
        }
    }
    for (int fd = 0; fd < base; fd++) {
        bool wanted = false;
        for (size_t i = 0; i < s->n_fds; i++) {
            wanted = wanted || s->fds[i].to == fd;
        }
        if (!wanted) {
            close(fd);
        }
    }
    /* Above base: ours are CLOEXEC already, inherited strangers become so (Linux 5.11). */
    return (int)syscall(SYS_close_range, (unsigned)base, ~0u, 4u /* CLOSE_RANGE_CLOEXEC */);
}

_Noreturn static void child(const struct sys_spawn *s, int report, int exe) {
    static char *const no_env[] = {NULL};
    sigset_t none;
    const char *step = "signals";
    for (int sig = 1; sig < 65; sig++) {
        signal(sig, SIG_DFL);
    }
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setsid();
    if (s->die_with_parent && prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0) {
        goto out;
    }
    step = "cgroup";
    if (s->cgroup_procs) {
        int fd = open(s->cgroup_procs, O_WRONLY | O_CLOEXEC);
        if (fd < 0 || write(fd, "0", 1) != 1) {
            goto out;
        }
    }
    step = "descriptors";
    if (place_fds(s, &report, &exe) < 0) {
        goto out;
    }
    step = "limits";
    if (s->nofile) {
        struct rlimit rl = {s->nofile, s->nofile};
        if (setrlimit(RLIMIT_NOFILE, &rl) < 0) {
            goto out;
        }
    }
    step = "mount namespace";
    if (s->ns_flags & CLONE_NEWNS && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) {
        goto out;
    }
    step = "chroot";
    if (s->chroot_dir && (chroot(s->chroot_dir) < 0 || chdir("/") < 0)) {
        goto out;
    }
    step = "working directory";
    if (s->cwd && chdir(s->cwd) < 0) {
        goto out;
    }
    step = "user";
    if (set_ids(s) < 0) {
        goto out;
    }
    step = "no_new_privs";
    if (s->no_new_privs && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) {
        goto out;
    }
    /* The uid change cleared the parent-death signal. */
    if (s->die_with_parent) {
        prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    }
    step = "exec";
    {
        union {
            const char *const *c;
            char *const *m;
        } av = {.c = s->argv}, ev = {.c = s->envp};
        char *const *env = s->envp ? ev.m : no_env;
        if (exe >= 0) {
            syscall(SYS_execveat, exe, "", av.m, env, AT_EMPTY_PATH);
        } else {
            execve(s->argv[0], av.m, env);
        }
    }
out:;
    struct {
        int err;
        char step[28];
    } msg = {errno, {0}};
    for (size_t i = 0; step[i] && i < sizeof(msg.step) - 1; i++) {
        msg.step[i] = step[i];
    }
    ssize_t n = write(report, &msg, sizeof(msg));
    _exit(n < 0 ? 126 : 127);
}

int sys_spawn(const struct sys_spawn *s, int *ret_pidfd, pid_t *ret_pid, struct err *e) {
    int report[2];
    CHECK(s->n_fds <= SYS_SPAWN_FDS);
    if (pipe2(report, O_CLOEXEC) < 0) {
        return err_sys(e, errno, "pipe");
    }
    int pidfd = -1;
    sigset_t all, old;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &old);
    struct clone_args_ ca = {
        .flags = CLONE_PIDFD | s->ns_flags,
        .pidfd = (uint64_t)(uintptr_t)&pidfd,
        .exit_signal = SIGCHLD,
    };
    long pid = syscall(SYS_clone3, &ca, sizeof(ca));
    if (pid == 0) {
        child(s, report[1], s->exe_fd);
    }
    int saved = errno;
    sigprocmask(SIG_SETMASK, &old, NULL);
    close(report[1]);
    if (pid < 0) {
        close(report[0]);
        return err_sys(e, saved, "starting %s", s->argv[0]);
    }
    struct {
        int err;
        char step[28];
    } msg;
    ssize_t n;
    do {
        n = read(report[0], &msg, sizeof(msg));
    } while (n < 0 && errno == EINTR);
    close(report[0]);
    if (n > 0) {
        siginfo_t si;
        waitid((idtype_t)3 /* P_PIDFD */, (id_t)pidfd, &si, WEXITED);
        close(pidfd);
        return err_sys(e, n == (ssize_t)sizeof(msg) ? msg.err : EIO, "starting %s: %.27s",
                       s->argv[0], msg.step);
    }
    fcntl(pidfd, F_SETFD, FD_CLOEXEC);
    *ret_pidfd = pidfd;
    if (ret_pid) {
        *ret_pid = (pid_t)pid;
    }
    return 0;
}
