/* Child processes: started, their output kept in a bounded log file, restarted with back-off. */
#include "internal/agent/agent_int.h"
#include "internal/base/rand.h"
#include "internal/sys/sys.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#define LOG_DIR "/var/log/kfarm"
enum { LOG_MAX = 1 << 20, BACKOFF_MIN_S = 1, BACKOFF_MAX_S = 60, GOOD_S = 60 };

static const char *const envp[] = {
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", NULL};

static void spawn(struct agent_svc *s);

static void log_path(const struct agent_svc *s, const char *suffix, char *dst, size_t cap) {
    IGNORE_ERR(str_put(dst, cap, LOG_DIR "/%s.log%s", s->name, suffix), "names are short");
}

static void rotate(struct agent_svc *s) {
    char now[128], old[128];
    struct err e = ERR_INIT;
    log_path(s, "", now, sizeof(now));
    log_path(s, ".1", old, sizeof(old));
    auto_fd_(&s->file_fd);
    IGNORE_ERR(rename(now, old), "the log may be missing");
    s->file_fd = sys_mkdirs(LOG_DIR, 0755, &e) < 0
                     ? -1
                     : sys_open(AT_FDCWD, now, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0644, &e);
    s->file_size = 0;
}

static void on_output(struct loop_io *io, uint32_t events) {
    struct agent_svc *s = CONTAINER_OF(io, struct agent_svc, log_io);
    uint8_t raw[8192];
    (void)events;
    ssize_t n = read(s->log_fd, raw, sizeof(raw));
    if (n <= 0) {
        if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
            loop_io_stop(&s->log_io);
        }
        return;
    }
    if (s->file_fd < 0 || s->file_size + (size_t)n > LOG_MAX) {
        rotate(s);
    }
    struct err e = ERR_INIT;
    if (s->file_fd >= 0 && sys_write_all(s->file_fd, span_of(raw, (size_t)n), &e) == 0) {
        s->file_size += (size_t)n;
    }
}

static void on_again(struct loop_timer *t) {
    spawn(CONTAINER_OF(t, struct agent_svc, again));
}

static void retry(struct agent_svc *s) {
    s->backoff_ns = s->backoff_ns ? s->backoff_ns * 2 : BACKOFF_MIN_S * NS_PER_S;
    if (s->backoff_ns > BACKOFF_MAX_S * NS_PER_S) {
        s->backoff_ns = BACKOFF_MAX_S * NS_PER_S;
    }
    loop_timer_start(s->l, &s->again, s->backoff_ns, on_again, s->name);
}

static void on_exit_cb(struct loop_child *c, int exit_code, int sig) {
    struct agent_svc *s = CONTAINER_OF(c, struct agent_svc, child);
    loop_io_stop(&s->log_io);
    auto_fd_(&s->log_fd);
    s->log_fd = -1;
    s->pid = 0;
    if (!s->stopping && !(s->flags & AGENT_ONCE)) {
        if (loop_now(s->l) - s->started_ns > GOOD_S * NS_PER_S) {
            s->backoff_ns = 0;
        }
        agent_say("%s ended (exit %d, signal %d), starting it again", s->name, exit_code, sig);
        retry(s);
    }
    if (s->on_exit) {
        s->on_exit(s, exit_code, sig, s->ctx);
    }
}

static int spawn_process(struct agent_svc *s, struct err *e) {
    int pipe_fds[2];
    if (pipe2(pipe_fds, O_CLOEXEC) < 0) {
        return err_sys(e, errno, "pipe");
    }
    AUTO_FD int out = pipe_fds[1];
    s->log_fd = pipe_fds[0];
    AUTO_FD int none = sys_open(AT_FDCWD, "/dev/null", O_RDONLY, 0, e);
    if (none < 0 || sys_set_nonblock(s->log_fd, e) < 0) {
        return -(int)e->code;
    }
    struct sys_spawn sp = SYS_SPAWN_INIT;
    sp.argv = s->argv;
    sp.envp = envp;
    sp.fds[0].from = none;
    sp.fds[0].to = 0;
    sp.fds[1].from = sp.fds[2].from = out;
    sp.fds[1].to = 1;
    sp.fds[2].to = 2;
    sp.n_fds = 3;
    sp.nofile = 1048576;
    int pidfd, rc = loop_io_start(s->l, &s->log_io, s->log_fd, LOOP_READ, on_output, s->name, e);
    rc = rc < 0 ? rc : sys_spawn(&sp, &pidfd, &s->pid, e);
    return rc < 0 ? rc : loop_child_start(s->l, &s->child, pidfd, on_exit_cb, e);
}

static void spawn(struct agent_svc *s) {
    struct err e = ERR_INIT;
    s->started_ns = loop_now(s->l);
    if (spawn_process(s, &e) < 0) {
        agent_say("%s: %s", s->name, e.msg);
        loop_io_stop(&s->log_io);
        auto_fd_(&s->log_fd);
        s->log_fd = -1;
        retry(s);
    }
}

void agent_svc_start(struct loop *l, struct agent_svc *s) {
    s->l = l;
    s->log_fd = s->file_fd = -1;
    s->stopping = false;
    spawn(s);
}

void agent_svc_signal(struct agent_svc *s, int sig) {
    struct err e = ERR_INIT;
    IGNORE_ERR(loop_child_signal(&s->child, sig, &e), "it has ended");
}

void agent_svc_stop(struct agent_svc *s, int sig) {
    s->stopping = true;
    loop_timer_stop(&s->again);
    agent_svc_signal(s, sig);
}
