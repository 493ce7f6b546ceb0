#include "cmd/role.h"

#include "internal/log/log.h"
#include "internal/sys/sys.h"

#include <fcntl.h>

int role_fd(int64_t n, const char *what, int *ret_fd, struct err *e) {
    if (n < 0) {
        *ret_fd = -1;
        return 0;
    }
    if (n < 3 || n > 1 << 20 || fcntl((int)n, F_GETFD) < 0) {
        return err_set(e, ERR_USAGE, "--%s: %lld is not an open descriptor", what, (long long)n);
    }
    sys_set_cloexec((int)n, true);
    *ret_fd = (int)n;
    return 0;
}

static void stop(struct loop_signal *s, int signo) {
    (void)signo;
    struct role *r = CONTAINER_OF(s, struct role, sig);
    if (r->on_stop) {
        r->on_stop(r->ctx);
    } else {
        loop_stop(r->l);
    }
}

int role_enter(struct role *r, const char *name, const char *log_level, unsigned allow,
               struct err *e) {
    enum log_level lvl = LOG_LVL_INFO;
    if (log_level && log_parse_level(log_level, &lvl) < 0) {
        return err_set(e, ERR_USAGE, "--log-level: \"%s\" is none of debug, info, warn, error",
                       log_level);
    }
    log_init(name, lvl, false);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    int rc = loop_new(&r->l, e);
    if (rc == 0 && (rc = loop_signal_start(r->l, &r->sig, &set, stop, e)) == 0 && allow) {
        rc = sys_seccomp(allow, e);
    }
    if (rc < 0) {
        role_leave(r);
    }
    return rc;
}

void role_leave(struct role *r) {
    loop_signal_stop(&r->sig);
    loop_free(r->l);
    r->l = NULL;
}

void role_ready(int own_fd) {
    if (own_fd >= 0) {
        IGNORE_ERR(sys_write_all(own_fd, SPAN_LIT("\n"), NULL),
                   "a supervisor that is gone needs no news");
        sys_close(own_fd);
    }
}
