#include "internal/sys/sys.h"

#include "internal/t/t.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char *tmpdir(void) {
    char t[] = "/tmp/kf-sys-XXXXXX";
    ASSERT(mkdtemp(t) != NULL);
    return str_dup(t);
}

TEST(sys, file_replace_and_read) {
    struct err e = ERR_INIT;
    AUTO_FREE char *dir = tmpdir();
    AUTO_FD int d = sys_open_dir(dir, &e);
    ASSERT_OK(sys_file_replace(d, "a", SPAN_LIT("one"), 0600, &e), &e);
    ASSERT_OK(sys_file_replace(d, "a", SPAN_LIT("two"), 0640, &e), &e);
    AUTO(buf) struct buf b = BUF_INIT(16);
    ASSERT_OK(sys_file_read(d, "a", &b, &e), &e);
    ASSERT_STREQ("two", buf_cstr(&b));
    struct stat st;
    ASSERT_EQ(0, fstatat(d, "a", &st, 0));
    ASSERT_EQ(0640, st.st_mode & 07777);
    AUTO(buf) struct buf small = BUF_INIT(2);
    ASSERT_ERR(-ERR_LIMIT, sys_file_read(d, "a", &small, &e));
    err_reset(&e);
    ASSERT_OK(sys_rmtree(AT_FDCWD, dir, &e), &e);
    ASSERT_EQ(-1, access(dir, F_OK));
}

TEST(sys, beneath_refuses_escape) {
    struct err e = ERR_INIT;
    AUTO_FREE char *dir = tmpdir();
    AUTO_FD int d = sys_open_dir(dir, &e);
    ASSERT_EQ(0, symlinkat("/etc/passwd", d, "link"));
    ASSERT(sys_open_beneath(d, "../x", O_RDONLY, 0, &e) < 0);
    err_reset(&e);
    ASSERT(sys_open_beneath(d, "link", O_RDONLY, 0, &e) < 0);
    err_reset(&e);
    ASSERT_ERR(-ERR_NOT_FOUND, sys_open_beneath(d, "none", O_RDONLY, 0, &e));
    err_reset(&e);
    ASSERT_OK(sys_rmtree(AT_FDCWD, dir, &e), &e);
}

TEST(sys, rmtree_deep_and_links) {
    struct err e = ERR_INIT;
    AUTO_FREE char *dir = tmpdir();
    AUTO_FREE char *deep = str_fmt("%s/a/b/c/d", dir);
    ASSERT_OK(sys_mkdirs(deep, 0755, &e), &e);
    AUTO_FD int d = sys_open_dir(deep, &e);
    ASSERT_EQ(0, symlinkat("/tmp", d, "out"));
    ASSERT_OK(sys_file_replace(d, "f", SPAN_LIT("x"), 0600, &e), &e);
    ASSERT_OK(sys_rmtree(AT_FDCWD, dir, &e), &e);
    ASSERT_EQ(0, access("/tmp", F_OK));
}

TEST(sys, spawn_passes_only_named_fds) {
    struct err e = ERR_INIT;
    int out[2], pidfd;
    ASSERT_EQ(0, pipe(out));
    const char *argv[] = {"/bin/ls", "/proc/self/fd", NULL};
    struct sys_spawn s = SYS_SPAWN_INIT;
    s.argv = argv;
    for (int fd = 0; fd < 3; fd++) {
        s.fds[fd].from = out[1];
        s.fds[fd].to = fd;
    }
    s.n_fds = 3;
    ASSERT_OK(sys_spawn(&s, &pidfd, NULL, &e), &e);
    close(out[1]);
    siginfo_t si;
    ASSERT_EQ(0, waitid((idtype_t)3, (id_t)pidfd, &si, WEXITED));
    char text[256] = {0};
    ASSERT(read(out[0], text, sizeof(text) - 1) > 0);
    ASSERT_STREQ("0\n1\n2\n3\n", text); /* 3 is the directory that ls reads */
    close(out[0]);
    close(pidfd);
}

TEST(sys, spawn_reports_exec_failure) {
    struct err e = ERR_INIT;
    int pidfd;
    const char *argv[] = {"/nonexistent", NULL};
    struct sys_spawn s = SYS_SPAWN_INIT;
    s.argv = argv;
    ASSERT_ERR(-ERR_NOT_FOUND, sys_spawn(&s, &pidfd, NULL, &e));
}

TEST(sys, fd_passing) {
    struct err e = ERR_INIT;
    int sv[2], fd;
    ASSERT_OK(sys_socketpair(SOCK_SEQPACKET, sv, &e), &e);
    char c;
    ASSERT_ERR(-ERR_AGAIN, sys_recv_fd(sv[1], &c, 1, &fd, &e));
    ASSERT_OK(sys_send_fd(sv[0], SPAN_LIT("x"), 2, &e), &e);
    ASSERT_EQ(1, sys_recv_fd(sv[1], &c, 1, &fd, &e));
    ASSERT(fd > 2 && fcntl(fd, F_GETFD) == FD_CLOEXEC);
    close(fd);
    close(sv[0]);
    ASSERT_EQ(0, sys_recv_fd(sv[1], &c, 1, &fd, &e));
    close(sv[1]);
}
