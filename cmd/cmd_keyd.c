#include "cmd/role.h"

#include "internal/keyd/keyd.h"
#include "internal/sys/sys.h"

int cmd_keyd(struct cmdctx *c, struct err *e);

int cmd_keyd(struct cmdctx *c, struct err *e) {
    int64_t dir_n = -1, ctl_n = -1, ready_n = -1;
    const char *level = "info";
    const struct opt opts[] = {
        {"dir-fd", OPT_I64, &dir_n, "N", "directory of the keys"},
        {"ctl-fd", OPT_I64, &ctl_n, "N", "channel to the supervisor"},
        {"ready-fd", OPT_I64, &ready_n, "N", "readiness pipe"},
        {"log-level", OPT_STR, &level, "LEVEL", "debug, info, warn or error"},
        {NULL, OPT_STR, NULL, NULL, NULL},
    };
    int dir, ctl, ready, rc;
    struct role r = {0};
    if ((rc = opt_parse(c, opts, NULL, NULL, e)) < 0 ||
        (rc = role_fd(dir_n, "dir-fd", &dir, e)) < 0 ||
        (rc = role_fd(ctl_n, "ctl-fd", &ctl, e)) < 0 ||
        (rc = role_fd(ready_n, "ready-fd", &ready, e)) < 0) {
        return rc;
    }
    if (dir < 0 || ctl < 0) {
        return err_set(e, ERR_USAGE,
                       "--dir-fd and --ctl-fd are needed: this role is started by kfarm server");
    }
    if ((rc = role_enter(&r, "keyd", level, SYS_ALLOW_BASE | SYS_ALLOW_FILES, e)) < 0) {
        return rc;
    }
    rc = keyd_run(r.l, dir, ctl, ready, e);
    role_leave(&r);
    return rc;
}
