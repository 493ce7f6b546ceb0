#include "cmd/role.h"

#include "internal/farm/farm.h"
#include "internal/sys/sys.h"

int cmd_farm(struct cmdctx *c, struct err *e);

int cmd_farm(struct cmdctx *c, struct err *e) {
    int64_t keyd_n = -1, super_n = -1, ready_n = -1, front_port = 6443;
    const char *run_dir = "", *host = "", *node = "", *ports = "20000-29999", *level = "info";
    const struct opt opts[] = {
        {"keyd-fd", OPT_I64, &keyd_n, "N", "channel to keyd"},
        {"super-fd", OPT_I64, &super_n, "N", "channel to the supervisor"},
        {"ready-fd", OPT_I64, &ready_n, "N", "readiness pipe"},
        {"run-dir", OPT_STR, &run_dir, "DIR", "directory with <scope>/api.sock of every cluster"},
        {"host", OPT_STR, &host, "HOST", "host in endpoints and kubeconfigs of tenants"},
        {"node-name", OPT_STR, &node, "NAME", "node of the admin cluster that runs control planes"},
        {"front-port", OPT_I64, &front_port, "PORT", "common port of all clusters"},
        {"tenant-ports", OPT_STR, &ports, "LOW-HIGH", "own ports of tenants"},
        {"log-level", OPT_STR, &level, "LEVEL", "debug, info, warn or error"},
        {NULL, OPT_STR, NULL, NULL, NULL},
    };
    int keyd_fd, super_fd, ready, rc;
    struct role r = {0};
    struct role_identity id = {0};
    struct superclient *super = NULL;
    struct farm *farm = NULL;
    if ((rc = opt_parse(c, opts, NULL, NULL, e)) < 0 ||
        (rc = role_fd(keyd_n, "keyd-fd", &keyd_fd, e)) < 0 ||
        (rc = role_fd(super_n, "super-fd", &super_fd, e)) < 0 ||
        (rc = role_fd(ready_n, "ready-fd", &ready, e)) < 0) {
        return rc;
    }
    struct span rest = span_str(ports), lo;
    uint64_t first, last;
    if (keyd_fd < 0 || super_fd < 0 || !span_next(&rest, '-', &lo) ||
        span_to_u64(lo, 1, 65535, &first) < 0 || span_to_u64(rest, first, 65535, &last) < 0) {
        return err_set(e, ERR_USAGE,
                       "--keyd-fd, --super-fd and --tenant-ports are needed: this role is started "
                       "by kfarm server");
    }
    if ((rc = role_enter(&r, "farm", level,
                         SYS_ALLOW_BASE | SYS_ALLOW_CONNECT | SYS_ALLOW_LISTEN | SYS_ALLOW_FILES,
                         e)) < 0) {
        return rc;
    }
    AUTO_FREE char *sock = str_fmt("%s/admin/api.sock", run_dir);
    if ((rc = role_identify(&r, &id, keyd_fd, "admin", "system:kfarm:farm", "system:masters", sock,
                            NULL, e)) == 0 &&
        (rc = superclient_new(r.l, super_fd, NULL, NULL, &super, e)) == 0) {
        const struct farm_opts fo = {.admin = id.client,
                                     .keys = id.keys,
                                     .super = super,
                                     .run_dir = run_dir,
                                     .host = host,
                                     .node_name = node,
                                     .port_first = (uint16_t)first,
                                     .port_last = (uint16_t)last};
        if ((rc = farm_new(r.l, &fo, &farm, e)) == 0) {
            role_ready(ready);
            rc = loop_run(r.l, e);
            farm_free(farm);
        }
    }
    superclient_free(super);
    role_identity_fini(&id);
    role_leave(&r);
    return rc;
}
