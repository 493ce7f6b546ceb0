#include "cmd/role.h"

#include "internal/front/front.h"
#include "internal/sys/sys.h"

int cmd_front(struct cmdctx *c, struct err *e);

int cmd_front(struct cmdctx *c, struct err *e) {
    struct opt_list listen = {{NULL}, 0};
    int64_t ctl_n = -1, ready_n = -1;
    const char *level = "info";
    const struct opt opts[] = {
        {"listen-fd", OPT_LIST, &listen, "N", "listening socket; may be repeated"},
        {"ctl-fd", OPT_I64, &ctl_n, "N", "channel to the supervisor"},
        {"ready-fd", OPT_I64, &ready_n, "N", "readiness pipe"},
        {"log-level", OPT_STR, &level, "LEVEL", "debug, info, warn or error"},
        {NULL, OPT_STR, NULL, NULL, NULL},
    };
    int fds[8], ctl, ready, rc;
    struct role r = {0};
    if ((rc = opt_parse(c, opts, NULL, NULL, e)) < 0 ||
        (rc = role_fd(ctl_n, "ctl-fd", &ctl, e)) < 0 ||
        (rc = role_fd(ready_n, "ready-fd", &ready, e)) < 0) {
        return rc;
    }
    if (ctl < 0 || !listen.n || listen.n > ARRAY_LEN(fds)) {
        return err_set(e, ERR_USAGE,
                       "--ctl-fd and one to eight --listen-fd are needed: this role is started by "
                       "kfarm server");
    }
    for (size_t i = 0; i < listen.n; i++) {
        int64_t n;
        if (span_to_i64(span_str(listen.v[i]), 3, 1 << 20, &n) < 0) {
            return err_set(e, ERR_USAGE, "--listen-fd: \"%s\" is not a descriptor", listen.v[i]);
        }
        if ((rc = role_fd(n, "listen-fd", &fds[i], e)) < 0) {
            return rc;
        }
    }
    if ((rc = role_enter(&r, "front", level, SYS_ALLOW_BASE, e)) < 0) {
        return rc;
    }
    role_ready(ready);
    rc = front_run(r.l, fds, listen.n, ctl, e);
    role_leave(&r);
    return rc;
}
