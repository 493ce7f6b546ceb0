/* Allow-lists as data: a role names its groups; every other system call fails with EPERM. */
#include "internal/sys/sys.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#if defined(__x86_64__)
#define THIS_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define THIS_ARCH AUDIT_ARCH_AARCH64
#endif

struct rule {
    unsigned group;
    int nr;
};

#define B SYS_ALLOW_BASE
#define F SYS_ALLOW_FILES
static const struct rule rules[] = {
    {B, SYS_read},
    {B, SYS_write},
    {B, SYS_readv},
    {B, SYS_writev},
    {B, SYS_close},
    {B, SYS_close_range},
    {B, SYS_lseek},
    {B, SYS_fcntl},
    {B, SYS_dup},
    {B, SYS_dup3},
    {B, SYS_fstat},
    {B, SYS_ioctl},
    {B, SYS_mmap},
    {B, SYS_munmap},
    {B, SYS_mremap},
    {B, SYS_mprotect},
    {B, SYS_madvise},
    {B, SYS_brk},
    {B, SYS_clock_gettime},
    {B, SYS_clock_nanosleep},
    {B, SYS_nanosleep},
    {B, SYS_gettimeofday},
    {B, SYS_getrandom},
    {B, SYS_getpid},
    {B, SYS_gettid},
    {B, SYS_getuid},
    {B, SYS_geteuid},
    {B, SYS_getgid},
    {B, SYS_getegid},
    {B, SYS_getppid},
    {B, SYS_uname},
    {B, SYS_sysinfo},
    {B, SYS_getrusage},
    {B, SYS_prctl},
    {B, SYS_futex},
    {B, SYS_clone},
    {B, SYS_clone3},
    {B, SYS_set_tid_address},
    {B, SYS_set_robust_list},
    {B, SYS_exit},
    {B, SYS_exit_group},
    {B, SYS_sched_yield},
    {B, SYS_sched_getaffinity},
    {B, SYS_membarrier},
    {B, SYS_rt_sigaction},
    {B, SYS_rt_sigprocmask},
    {B, SYS_rt_sigreturn},
    {B, SYS_rt_sigtimedwait},
    {B, SYS_sigaltstack},
    {B, SYS_signalfd4},
    {B, SYS_tgkill},
    {B, SYS_tkill},
    {B, SYS_restart_syscall},
    {B, SYS_epoll_create1},
    {B, SYS_epoll_ctl},
    {B, SYS_epoll_pwait},
    {B, SYS_ppoll},
    {B, SYS_eventfd2},
    {B, SYS_timerfd_create},
    {B, SYS_timerfd_settime},
    {B, SYS_pipe2},
    {B, SYS_prlimit64},
    {B, SYS_accept},
    {B, SYS_accept4},
    {B, SYS_recvfrom},
    {B, SYS_sendto},
    {B, SYS_recvmsg},
    {B, SYS_sendmsg},
    {B, SYS_recvmmsg},
    {B, SYS_sendmmsg},
    {B, SYS_getsockopt},
    {B, SYS_setsockopt},
    {B, SYS_getsockname},
    {B, SYS_getpeername},
    {B, SYS_shutdown},
    {B, SYS_sendfile},
    {B, SYS_seccomp},
    {B, SYS_waitid},
    {B, SYS_socketpair},
    {B, SYS_umask},
#ifdef SYS_rseq
    {B, SYS_rseq},
#endif
#ifdef SYS_epoll_wait
    {B, SYS_epoll_wait},
    {B, SYS_poll},
    {B, SYS_arch_prctl},
    {B, SYS_time},
    {B, SYS_dup2},
    {B, SYS_getrlimit},
#endif
    {F, SYS_openat},
    {F, SYS_openat2},
    {F, SYS_unlinkat},
    {F, SYS_renameat2},
    {F, SYS_mkdirat},
    {F, SYS_newfstatat},
    {F, SYS_statx},
    {F, SYS_getdents64},
    {F, SYS_faccessat},
    {F, SYS_faccessat2},
    {F, SYS_readlinkat},
    {F, SYS_inotify_init1},
    {F, SYS_inotify_add_watch},
    {F, SYS_inotify_rm_watch},
    {F, SYS_getcwd},
    {F, SYS_fsync},
    {F, SYS_fdatasync},
    {F, SYS_ftruncate},
    {F, SYS_pread64},
    {F, SYS_pwrite64},
    {F, SYS_preadv},
    {F, SYS_pwritev},
    {F, SYS_fallocate},
    {F, SYS_fchmod},
    {F, SYS_fchmodat},
    {F, SYS_fstatfs},
    {F, SYS_statfs},
    {F, SYS_flock},
    {F, SYS_utimensat},
    {F, SYS_fchown},
    {F, SYS_sync_file_range},
    {F, SYS_fchdir},
    {F, SYS_chdir},
    {F, SYS_linkat},
    {F, SYS_symlinkat},
    {F, SYS_copy_file_range},
#ifdef SYS_open
    {F, SYS_open},
    {F, SYS_stat},
    {F, SYS_lstat},
    {F, SYS_access},
    {F, SYS_unlink},
    {F, SYS_rename},
    {F, SYS_mkdir},
    {F, SYS_symlink},
    {F, SYS_rmdir},
    {F, SYS_readlink},
    {F, SYS_chmod},
    {F, SYS_renameat},
#endif
    {SYS_ALLOW_CONNECT, SYS_socket},
    {SYS_ALLOW_CONNECT, SYS_connect},
    {SYS_ALLOW_CONNECT, SYS_bind},
    {SYS_ALLOW_LISTEN, SYS_listen},
    {SYS_ALLOW_LISTEN, SYS_socket},
    {SYS_ALLOW_LISTEN, SYS_bind},
    {SYS_ALLOW_EXEC, SYS_execve},
    {SYS_ALLOW_EXEC, SYS_execveat},
    {SYS_ALLOW_EXEC, SYS_wait4},
    {SYS_ALLOW_EXEC, SYS_pidfd_send_signal},
    {SYS_ALLOW_EXEC, SYS_kill},
    {SYS_ALLOW_EXEC, SYS_setsid},
};
#undef B
#undef F

int sys_seccomp(unsigned allow, struct err *e) {
    struct sock_filter f[ARRAY_LEN(rules) * 2 + 8];
    size_t n = 0;
    f[n++] =
        (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
    f[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, THIS_ARCH, 1, 0);
    f[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    f[n++] =
        (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (size_t i = 0; i < ARRAY_LEN(rules); i++) {
        if (rules[i].group & allow) {
            f[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)rules[i].nr,
                                                  0, 1);
            f[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
        }
    }
    f[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
    struct sock_fprog prog = {(unsigned short)n, f};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) < 0) {
        return err_sys(e, errno, "installing the system call filter");
    }
    return 0;
}
