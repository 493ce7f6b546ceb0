/* role — what every role process does the same way: take its fds, stop on SIGTERM, drop system calls, run its loop. */
#ifndef KF_ROLE_H
#define KF_ROLE_H

#include "cmd/cmd.h"

#include "internal/loop/loop.h"

struct role {
    struct loop *l;
    struct loop_signal sig;
    void (*on_stop)(void *ctx); /* SIGTERM/SIGINT; NULL: the loop stops */
    void *ctx;
};

/* Checks and takes an fd number given as an option (-1: not given): it becomes CLOEXEC. */
NODISCARD int role_fd(int64_t n, const char *what, int *ret_fd, struct err *e);
/* Log set up, loop made, signals blocked; then the system call list. `allow` 0: no filter. */
NODISCARD int role_enter(struct role *r, const char *name, const char *log_level, unsigned allow, struct err *e);
void role_leave(struct role *r);
/* "\n" on the readiness fd, then closed. -1: nothing. */
void role_ready(int own_fd);

#endif
