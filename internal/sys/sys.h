/* sys — the only place that makes file descriptors, files, sockets and processes.
 *
 * What:     files replaced atomically, directories, listeners, fd passing, spawning sandboxed processes, seccomp lists.
 * Owns:     returned fds are the caller's, always CLOEXEC.
 * Errors:   by errno: NOT_FOUND, EXISTS, FORBIDDEN, NOMEM, UNAVAILABLE, TIMEOUT, IO; LIMIT where a buffer is too small.
 * Threads:  any; sys_spawn only in processes without other threads holding locks (the child only makes system calls).
 * Spec:     openat2(2), pidfd_open(2), clone3(2), unix(7), seccomp(2).
 */
#ifndef KF_SYS_H
#define KF_SYS_H

#include "internal/base/buf.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/types.h>

/* ---- files; paths relative to dirfd (AT_FDCWD allowed) ---- */
NODISCARD int sys_open(int dirfd, const char *path, int flags, mode_t mode, struct err *e);
/* Beneath dirfd: no "..", no symlinks, no magic links. */
NODISCARD int sys_open_beneath(int dirfd, const char *path, int flags, mode_t mode, struct err *e);
NODISCARD int sys_file_read(int dirfd, const char *path, struct buf *b, struct err *e); /* appends; bounded by b->max */
NODISCARD int sys_fd_read_all(int fd, struct buf *b, struct err *e);
NODISCARD int sys_write_all(int fd, struct span s, struct err *e);
/* Temporary file, fsync, rename, fsync of the directory. */
NODISCARD int sys_file_replace(int dirfd, const char *path, struct span s, mode_t mode, struct err *e);
NODISCARD int sys_mkdirs(const char *path, mode_t mode, struct err *e); /* like mkdir -p; the last gets mode */
NODISCARD int sys_open_dir(const char *path, struct err *e);
NODISCARD int sys_rmtree(int at_fd, const char *name, struct err *e); /* missing is fine; never follows links */
void sys_close(int fd);                                             /* errno kept, EINTR not retried */
void sys_set_cloexec(int fd, bool on);
NODISCARD int sys_set_nonblock(int fd, struct err *e);

/* ---- sockets; all non-blocking ---- */
/* host: literal IPv4/IPv6 address, "" = any (dual stack). port 0: the kernel's choice. */
NODISCARD int sys_listen_tcp(const char *host, uint16_t port, struct err *e);
/* Replaces a stale socket file; mode is set before anyone can connect. */
NODISCARD int sys_listen_unix(const char *path, mode_t mode, struct err *e);
NODISCARD int sys_socketpair(int type, int ret_fds[2], struct err *e);
/* One datagram/packet with at most one fd (-1: none). own_fd is not closed. -ERR_AGAIN when it would block. */
NODISCARD int sys_send_fd(int sock, struct span s, int fd, struct err *e);
/* Returns bytes received (0: end); *ret_fd -1 when none came. -ERR_AGAIN when it would block. */
NODISCARD int sys_recv_fd(int sock, void *p, size_t n, int *ret_fd, struct err *e);

/* ---- processes ---- */
enum { SYS_SPAWN_FDS = 24 };
struct sys_spawn {
    const char *const *argv;   /* NULL-terminated; argv[0] is only a name when exe_fd is set */
    const char *const *envp;   /* NULL: empty environment */
    int exe_fd;                /* executed with fexecve semantics; -1: argv[0] is a path */
    struct {
        int from, to;          /* child's fd number; the rest is closed */
    } fds[SYS_SPAWN_FDS];
    size_t n_fds;
    uid_t uid;                 /* 0: stay */
    gid_t gid;
    uint64_t keep_caps;        /* bit mask of capabilities kept as ambient after the uid change */
    const char *chroot_dir;    /* NULL: none */
    const char *cwd;           /* inside the chroot; NULL: "/" with chroot */
    unsigned ns_flags;         /* CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNS */
    bool no_new_privs, die_with_parent;
    uint64_t nofile;           /* RLIMIT_NOFILE soft and hard; 0: inherit */
    const char *cgroup_procs;  /* path of a cgroup.procs file to enter; NULL: none */
};
#define SYS_SPAWN_INIT {.exe_fd = -1}
/* Returns 0 with a pidfd and pid; exec failures are reported here, not by the child's exit. */
NODISCARD int sys_spawn(const struct sys_spawn *s, int *ret_pidfd, pid_t *ret_pid, struct err *e);
NODISCARD int sys_pidfd_signal(int pidfd, int sig, struct err *e);
NODISCARD int sys_open_self_exe(struct err *e);

/* ---- seccomp: allow-lists by groups; anything else fails with EPERM ---- */
enum sys_allow {
    SYS_ALLOW_BASE = 1u << 0,   /* memory, time, threads, signals, epoll, read/write/close, socket I/O on given fds */
    SYS_ALLOW_FILES = 1u << 1,  /* open, stat, rename, unlink, fsync, locks, inotify: storage in the role's root */
    SYS_ALLOW_CONNECT = 1u << 2,/* socket, connect, bind for outgoing connections */
    SYS_ALLOW_LISTEN = 1u << 3, /* listen */
    SYS_ALLOW_EXEC = 1u << 4,
};
NODISCARD int sys_seccomp(unsigned allow, struct err *e);

#endif
