/* The server under test: started, killed, started again. */
#include "internal/lin/lin_run.h"

#include "internal/base/rand.h"
#include "internal/sys/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static void again(struct loop_timer *t) {
    struct server *s = CONTAINER_OF(t, struct server, again);
    struct err e = ERR_INIT;
    if (server_start(s, &e) < 0) {
        round_fail(s->r, "starting the server: %s", e.msg);
    }
}

static void ended(struct loop_child *c, int code, int signo) {
    struct server *s = CONTAINER_OF(c, struct server, child);
    bool was_up = s->state == SERVER_UP;
    loop_io_stop(&s->ready);
    if (s->ready_fd >= 0) {
        close(TAKE_FD(s->ready_fd));
    }
    s->state = SERVER_DOWN;
    s->pid = 0;
    s->n_deaths++;
    if (s->stopped) {
        if (code != 0 || signo) {
            round_fail(s->r, "the server ended with %s %d when it was stopped",
                       signo ? "signal" : "status", signo ? signo : code);
        }
        return;
    }
    /* By our hand, or it could not start on a broken disk; anything else is a crash. */
    bool ours = (signo == SIGKILL && s->dying) || (signo && s->ctl && s->ctl->died) ||
                (s->terming && (!signo || signo == SIGTERM));
    if (!ours && !(s->troubled && !was_up && !signo)) {
        round_fail(s->r, "the server ended by itself: %s %d", signo ? "signal" : "status",
                   signo ? signo : code);
        return;
    }
    s->n_refused += !ours;
    s->dying = s->terming = false;
    if (s->ctl) {
        s->ctl->died = 0;
    }
    round_down(s->r);
    loop_timer_start(s->r->l, &s->again, ours ? 0 : 20 * NS_PER_MS, again, "lin-again");
}

static void ready(struct loop_io *io, uint32_t events) {
    struct server *s = CONTAINER_OF(io, struct server, ready);
    char c;
    (void)events;
    ssize_t n = read(io->fd, &c, 1);
    loop_io_stop(io);
    close(TAKE_FD(s->ready_fd));
    if (n == 1) {
        s->state = SERVER_UP;
        s->up_at = clock_ns();
        round_up(s->r);
    }
}

int server_init(struct server *s, struct round *r, bool faulty, struct err *e) {
    *s = (struct server){.r = r, .faulty = faulty, .ready_fd = -1, .ctl_fd = -1};
    if (str_put(s->sock, sizeof(s->sock), "%s/sock", r->dir) < 0 ||
        str_put(s->data, sizeof(s->data), "%s/data", r->dir) < 0 ||
        str_put(s->log, sizeof(s->log), "%s/log", r->dir) < 0) {
        return err_set(e, ERR_LIMIT, "%s is too long", r->dir);
    }
    if (faulty) {
        s->ctl_fd = memfd_create("kfarm-fault", MFD_CLOEXEC);
        if (s->ctl_fd < 0 || ftruncate(s->ctl_fd, sizeof(*s->ctl)) < 0) {
            return err_sys(e, errno, "memory for the faults");
        }
        s->ctl = mmap(NULL, sizeof(*s->ctl), PROT_READ | PROT_WRITE, MAP_SHARED, s->ctl_fd, 0);
        if (s->ctl == MAP_FAILED) {
            s->ctl = NULL;
            return err_sys(e, errno, "memory for the faults");
        }
    }
    return 0;
}

int server_start(struct server *s, struct err *e) {
    int pipe_fds[2], pidfd, rc;
    const struct users *u = &s->r->users;
    AUTO_FREE char *url = str_fmt("%s://%s", u->tls ? "unixs" : "unix", s->sock);
    AUTO_FREE char *cert = str_fmt("--cert-file=%s/cert.pem", s->r->dir);
    AUTO_FREE char *key = str_fmt("--key-file=%s/key.pem", s->r->dir);
    AUTO_FREE char *ca = str_fmt("--trusted-ca-file=%s/ca.pem", s->r->dir);
    enum lin_scenario what = s->r->o.scenario;
    bool small = what == LIN_S_SLOW || what == LIN_S_LAG; /* messages */
    const char *argv[] = {s->faulty ? s->r->o.faulty : s->r->o.kfarm,
                          "store",
                          "--log-level=warn",
                          "--data-dir",
                          s->data,
                          "--listen-client-urls",
                          url,
                          "--advertise-client-urls",
                          url,
                          "--ready-fd=3",
                          "--watch-progress-notify-interval=20ms",
                          what == LIN_S_SLOW  ? "--max-request-bytes=16384"
                          : what == LIN_S_LAG ? "--max-request-bytes=65536"
                                              : "--experimental-enable-lease-checkpoint",
                          small ? "--max-txn-ops=64"
                                : "--experimental-enable-lease-checkpoint-persist",
                          "--bcrypt-cost=4",
                          u->tls ? cert : NULL,
                          key,
                          u->by_cert ? ca : NULL,
                          "--client-cert-auth",
                          NULL};
    const char *envp[] = {"PATH=/usr/bin:/bin", "KF_FAULT_FD=4", "ASAN_OPTIONS=detect_leaks=0",
                          NULL};
    AUTO_FD int log = sys_open(AT_FDCWD, s->log, O_WRONLY | O_CREAT | O_APPEND, 0600, e);
    if (log < 0) {
        return log;
    }
    if (pipe2(pipe_fds, O_CLOEXEC | O_NONBLOCK) < 0) {
        return err_sys(e, errno, "a pipe");
    }
    s->troubled = false;
    if (s->ctl) {
        s->troubled = s->ctl->read_only || s->ctl->full || s->ctl->write_rate ||
                      s->ctl->sync_rate || s->ctl->read_rate;
        s->ctl->seed = s->r->o.seed * 1000 + s->n_starts;
    }
    struct sys_spawn sp = SYS_SPAWN_INIT;
    sp.argv = argv;
    sp.envp = envp;
    sp.die_with_parent = true;
    sp.fds[sp.n_fds++] = (__typeof__(sp.fds[0])){log, 1};
    sp.fds[sp.n_fds++] = (__typeof__(sp.fds[0])){log, 2};
    sp.fds[sp.n_fds++] = (__typeof__(sp.fds[0])){pipe_fds[1], 3};
    if (s->ctl) {
        sp.fds[sp.n_fds++] = (__typeof__(sp.fds[0])){s->ctl_fd, 4};
    }
    rc = sys_spawn(&sp, &pidfd, &s->pid, e);
    close(pipe_fds[1]);
    if (rc < 0) {
        close(pipe_fds[0]);
        return rc;
    }
    s->ready_fd = pipe_fds[0];
    s->state = SERVER_STARTING;
    s->n_starts++;
    if ((rc = loop_child_start(s->r->l, &s->child, pidfd, ended, e)) < 0) {
        return rc;
    }
    return loop_io_start(s->r->l, &s->ready, s->ready_fd, LOOP_READ, ready, "lin-ready", e);
}

void server_kill(struct server *s, int signo) {
    if (s->pid > 0) {
        s->dying |= signo == SIGKILL;
        s->stopped |= signo == SIGTERM && !s->terming;
        kill(s->pid, signo);
    }
}

void server_fini(struct server *s) {
    loop_timer_stop(&s->again);
    loop_io_stop(&s->ready);
    if (s->pid > 0) {
        loop_child_stop(&s->child);
        kill(s->pid, SIGKILL);
        waitpid(s->pid, NULL, 0);
    }
    if (s->ready_fd >= 0) {
        close(s->ready_fd);
    }
    if (s->ctl) {
        munmap(s->ctl, sizeof(*s->ctl));
    }
    if (s->ctl_fd >= 0) {
        close(s->ctl_fd);
    }
}
