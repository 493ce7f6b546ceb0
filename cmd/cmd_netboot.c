#include "cmd/cmd.h"

#include "internal/base/rand.h"
#include "internal/log/log.h"
#include "internal/netboot/netboot.h"
#include "internal/sys/sys.h"

#include <signal.h>
#include <stdio.h>

int cmd_netboot(struct cmdctx *c, struct err *e);

struct netboot_cmd {
    const char *plan_path;
    struct netboot *nb;
    struct loop *l;
};

static int load_plan(struct netboot_cmd *n, struct err *e) {
    AUTO(buf) struct buf text = BUF_INIT(LIM_NB_PLAN_BYTES);
    struct nb_plan *plan = NULL;
    int rc = sys_file_read(AT_FDCWD, n->plan_path, &text, e);
    rc = rc < 0 ? rc : nb_plan_from_json(buf_view(&text), &plan, e);
    rc = rc < 0 ? rc : netboot_set_plan(n->nb, plan, e);
    return rc < 0 ? err_wrap(e, "%s", n->plan_path) : 0;
}

/* USR1 writes the state to standard output, HUP reads the plan again. */
struct on_signal {
    struct loop_signal s;
    struct netboot_cmd *n;
};
static void on_signal(struct loop_signal *s, int signo) {
    struct netboot_cmd *n = CONTAINER_OF(s, struct on_signal, s)->n;
    struct err e = ERR_INIT;
    if (signo == SIGHUP) {
        if (n->plan_path && load_plan(n, &e) < 0) {
            LOG_WARN("netboot", "the plan cannot be used, continuing with the old one", F_ERR(&e));
        }
    } else if (signo == SIGUSR1) {
        AUTO(buf) struct buf b = BUF_INIT(64 << 20);
        if (netboot_status(n->nb, &b) == 0) {
            printf("%s\n", buf_cstr(&b));
            fflush(stdout);
        }
    } else {
        loop_stop(n->l);
    }
}

static int run(struct netboot_cmd *n, const struct netboot_opts *o, struct err *e) {
    struct on_signal sig = {.n = n};
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGUSR1);
    int rc = loop_signal_start(n->l, &sig.s, &set, on_signal, e);
    if (rc < 0) {
        return rc;
    }
    rc = netboot_new(n->l, o, &n->nb, e);
    rc = rc < 0 || !n->plan_path ? rc : load_plan(n, e);
    if (rc >= 0) {
        LOG_INFO("netboot", "ready");
        rc = loop_run(n->l, e);
    }
    netboot_free(n->nb);
    loop_signal_stop(&sig.s);
    return rc;
}

int cmd_netboot(struct cmdctx *c, struct err *e) {
    struct netboot_cmd n = {0};
    struct netboot_opts o = {.data_dir = "/var/lib/kfarm/netboot"};
    struct opt_list ifaces = {.n = 0};
    const char *level_name = "info";
    enum log_level level = LOG_LVL_INFO;
    int64_t http_port = 8069, https_port = 8070;
    const struct opt opts[] = {
        {"interface", OPT_LIST, &ifaces, "NAME",
         "serve these interfaces (default: all that are up and have an IPv4 address)"},
        {"plan", OPT_STR, &n.plan_path, "FILE",
         "networks, nodes and images as JSON; read again on SIGHUP"},
        {"data-dir", OPT_STR, &o.data_dir, "DIR", "where leases.db is kept"},
        {"boot-dir", OPT_STR, &o.boot_dir, "DIR", "boot loaders (undionly.kpxe, snponly.efi, …)"},
        {"image-dir", OPT_STR, &o.image_dir, "DIR", "kernels, initrds and roots"},
        {"http-port", OPT_I64, &http_port, "PORT", "boot files and scripts"},
        {"https-port", OPT_I64, &https_port, "PORT", "boot documents and joining"},
        {"log-level", OPT_STR, &level_name, "LEVEL", "debug, info, warn or error"},
        {NULL, OPT_STR, NULL, NULL, NULL},
    };
    int rc = opt_parse(c, opts, NULL, NULL, e);
    if (rc < 0) {
        return rc;
    }
    if (log_parse_level(level_name, &level) < 0 || http_port < 1 || http_port > 65535 ||
        https_port < 1 || https_port > 65535 || ifaces.n > LIM_NB_IFACES) {
        return err_set(e, ERR_USAGE,
                       "impossible value of --log-level, --http-port, --https-port or --interface");
    }
    log_init("netboot", level, false);
    o.http_port = (uint16_t)http_port;
    o.https_port = (uint16_t)https_port;
    o.n_interfaces = ifaces.n;
    for (size_t i = 0; i < ifaces.n; i++) {
        o.interfaces[i] = ifaces.v[i];
    }
    rc = loop_new(&n.l, e);
    if (rc >= 0) {
        rc = run(&n, &o, e);
        loop_free(n.l);
    }
    return rc;
}
