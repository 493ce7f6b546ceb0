#include "cmd/cmd.h"

#include <errno.h>
#include <signal.h>
#include <sys/wait.h>

int cmd_pause(struct cmdctx *c, struct err *e);

/* The first process of a pod: holds its namespaces, collects orphans when it is PID 1 of a shared one, ends on a signal. */
int cmd_pause(struct cmdctx *c, struct err *e) {
    sigset_t set;
    if (opt_parse(c, (const struct opt[]){{NULL, OPT_STR, NULL, NULL, NULL}}, NULL, NULL, e) < 0) {
        return -(int)e->code;
    }
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGCHLD);
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0) {
        return err_sys(e, errno, "blocking signals");
    }
    for (int sig; (sig = sigwaitinfo(&set, NULL)) < 0 || sig == SIGCHLD;) {
        while (waitpid(-1, NULL, WNOHANG) > 0) {
        }
    }
    return 0;
}
