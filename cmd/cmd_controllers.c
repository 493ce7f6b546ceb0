#include "internal/controllers/controllers.h"

#include "cmd/role.h"

#include "internal/base/rand.h"
#include "internal/base/version.h"
#include "internal/kclient/kclient.h"
#include "internal/keyclient/keyclient.h"
#include "internal/log/log.h"
#include "internal/scheduler/scheduler.h"
#include "internal/sys/sys.h"

#include <stdlib.h>

enum { LIM_FILE = 1 << 20, STOP_MS = 1000 };

struct opts {
    const char *kubeconfig, *scheduler_kubeconfig, *server, *sni, *ca, *cert, *key, *token_file;
    const char *scope, *log_level, *cluster_name, *service_range, *cluster_cidr, *root_ca;
    const char *sign_cert, *sign_key, *cluster_info, *sign_duration, *grace;
    int64_t keyd_fd, ready_fd, mask, mask4, mask6, gc_threshold;
    bool allocate, leader_elect;
    struct opt_list controllers;
};

/* "40s", "5m0s", "8760h0m0s" as upstream's flags have them. */
static int parse_duration(const char *name, const char *text, uint64_t *ret_s, struct err *e) {
    uint64_t total = 0, n = 0;
    bool digits = false;
    for (const char *p = text; *p; p++) {
        if (*p >= '0' && *p <= '9' && n < 1000000) {
            n = n * 10 + (uint64_t)(*p - '0');
            digits = true;
            continue;
        }
        uint64_t unit = *p == 'h' ? 3600 : *p == 'm' ? 60 : *p == 's' ? 1 : 0;
        if (!unit || !digits) {
            return err_set(e, ERR_USAGE, "--%s: \"%s\" is not a duration like 40s or 1h30m", name,
                           text);
        }
        total += n * unit;
        n = 0;
        digits = false;
    }
    if (digits || !*text) {
        return err_set(e, ERR_USAGE, "--%s: \"%s\" is not a duration like 40s or 1h30m", name,
                       text);
    }
    *ret_s = total;
    return 0;
}

static int read_file(const char *path, struct buf *b, struct err *e) {
    return path ? sys_file_read(AT_FDCWD, path, b, e) : 0;
}

/* The controllers or the scheduler: one of several such processes does the work. */
struct part {
    struct session *s;
    struct kleader *leader; /* NULL: nobody else is there */
    int (*start)(struct session *s, struct err *e);
};

/* What the process works with. */
struct session {
    struct role r;
    const struct opts *o;
    struct kfactory *f;
    struct part parts[2];
    size_t n_parts, n_leaving;
    struct loop_timer stop_timer;
    struct err failed; /* why the process ends */
    struct keyclient *keyd;
    struct role_identity ctl_id, sched_id; /* from keyd */
    struct kclient *ctl, *sched;           /* sched NULL: the same as ctl */
    struct buf ca, root, sign_cert, sign_key;
    struct controllers_opts co;
};

static struct kclient_opts client_opts(const struct session *s) {
    return (struct kclient_opts){
        .server = s->o->server, .sni = s->o->sni, .user_agent = "kfarm-controllers/" KF_VERSION};
}

static int connect_files(struct session *s, struct err *e) {
    const struct opts *o = s->o;
    bool plain = span_starts(span_str(o->server), "http://");
    if (!plain && !o->ca) {
        return err_set(e, ERR_USAGE, "--server %s needs --certificate-authority", o->server);
    }
    AUTO(buf)
    struct buf cert = BUF_INIT(LIM_FILE), key = BUF_INIT(LIM_FILE), token = BUF_INIT(LIM_FILE);
    int rc = read_file(o->ca, &s->ca, e);
    rc = rc < 0 ? rc : read_file(o->cert, &cert, e);
    rc = rc < 0 ? rc : read_file(o->key, &key, e);
    rc = rc < 0 ? rc : read_file(o->token_file, &token, e);
    while (token.n && token.p[token.n - 1] == '\n') {
        buf_trunc(&token, token.n - 1);
    }
    struct kclient_opts ko = client_opts(s);
    struct tls_config *tls = NULL;
    if (rc == 0 && !plain) {
        const struct tls_client_opts to = {
            .ca_pem = buf_view(&s->ca), .cert_pem = buf_view(&cert), .key_pem = buf_view(&key)};
        rc = tls_client_config_new(&tls, &to, e);
    }
    if (rc == 0) {
        ko.tls = tls;
        ko.token = token.n ? buf_cstr(&token) : NULL;
        rc = kclient_new(s->r.l, &ko, &s->ctl, e);
    }
    if (key.p) {
        secret_wipe(key.p, key.n);
    }
    if (token.p) {
        secret_wipe(token.p, token.n);
    }
    return rc;
}

static int connect_kubeconfig(struct session *s, const char *path, struct kclient **ret,
                              struct err *e) {
    AUTO(buf) struct buf text = BUF_INIT(LIM_FILE);
    int rc = read_file(path, &text, e);
    if (rc == 0) {
        rc = kclient_from_kubeconfig(s->r.l, buf_view(&text), NULL, ret, e);
    }
    if (text.p) {
        secret_wipe(text.p, text.n);
    }
    return rc < 0 ? err_wrap(e, "--kubeconfig %s", path) : rc;
}

static int connect_keyd(struct session *s, int keyd_fd, struct err *e) {
    const struct kclient_opts ko = client_opts(s);
    struct key_identity ki;
    key_identity_init(&ki);
    /* kube-controller-manager's own role may little more than mint service-account tokens; these loops act
     * themselves, so their user is an administrator of its cluster. The scheduler has just the scheduler's role. */
    int rc = role_identity_make(&s->r, &s->ctl_id, keyd_fd, s->o->scope,
                                "system:kube-controller-manager", NULL, &ko, &ki, e);
    buf_span(&s->ca, buf_view(&ki.ca_pem));
    key_identity_fini(&ki);
    rc = rc < 0 ? rc
                : role_identity_make(&s->r, &s->sched_id, keyd_fd, s->o->scope,
                                     "system:kube-scheduler", NULL, &ko, NULL, e);
    rc = rc < 0 ? rc : keyclient_new(s->r.l, keyd_fd, &s->keyd, e);
    s->ctl_id.keys = s->sched_id.keys = s->keyd;
    s->ctl = s->ctl_id.client;
    s->sched = s->sched_id.client;
    return rc;
}

static int connect_all(struct session *s, int keyd_fd, struct err *e) {
    const struct opts *o = s->o;
    if (keyd_fd >= 0) {
        return connect_keyd(s, keyd_fd, e);
    }
    int rc = o->kubeconfig ? connect_kubeconfig(s, o->kubeconfig, &s->ctl, e) : connect_files(s, e);
    if (rc == 0 && o->scheduler_kubeconfig) {
        rc = connect_kubeconfig(s, o->scheduler_kubeconfig, &s->sched, e);
    }
    return rc;
}

/* What is wrong with the options shows at the start, not when this process's turn comes. */
static int prepare(struct session *s, struct err *e) {
    const struct opts *o = s->o;
    struct controllers_opts *co = &s->co;
    int rc = read_file(o->root_ca, &s->root, e);
    rc = rc < 0 ? rc : read_file(o->sign_cert, &s->sign_cert, e);
    rc = rc < 0 ? rc : read_file(o->sign_key, &s->sign_key, e);
    *co = (struct controllers_opts){
        .f = s->f,
        .enabled = o->controllers.v,
        .n_enabled = o->controllers.n,
        .service_cluster_ip_range = o->service_range,
        .cluster_cidr = o->cluster_cidr,
        .allocate_node_cidrs = o->allocate && o->cluster_cidr,
        .node_cidr_mask_v4 = (unsigned)(o->mask4 ? o->mask4 : o->mask),
        .node_cidr_mask_v6 = (unsigned)o->mask6,
        .terminated_pod_threshold = (unsigned)o->gc_threshold,
        .root_ca_pem = s->root.n ? buf_view(&s->root) : buf_view(&s->ca),
        .keyd = s->keyd,
        .keyd_scope = o->scope,
        .ca_cert_pem = buf_view(&s->sign_cert),
        .ca_key_pem = buf_view(&s->sign_key),
        .server_url = o->cluster_info,
    };
    if (rc == 0 && o->grace) {
        rc = parse_duration("node-monitor-grace-period", o->grace, &co->node_monitor_grace_s, e);
    }
    if (rc == 0 && o->sign_duration) {
        rc = parse_duration("cluster-signing-duration", o->sign_duration, &co->cert_ttl_s, e);
    }
    return rc < 0 ? rc : controllers_check(co, e);
}

static int start_controllers(struct session *s, struct err *e) {
    struct controllers *ctl = NULL;
    int rc = controllers_start(&s->co, &ctl, e);
    if (s->sign_key.p) {
        secret_wipe(s->sign_key.p, s->sign_key.n);
    }
    buf_fini(&s->ca);
    buf_fini(&s->root);
    buf_fini(&s->sign_cert);
    buf_fini(&s->sign_key);
    return rc;
}

static int start_scheduler(struct session *s, struct err *e) {
    const struct scheduler_opts so = {.writer = s->sched};
    (void)e;
    scheduler_start(s->f, &so);
    return 0;
}

/* ---- one of several ---- */

static void on_left(void *ctx) {
    struct part *p = ctx;
    if (--p->s->n_leaving == 0) {
        loop_stop(p->s->r.l);
    }
}

static void on_stop_late(struct loop_timer *t) {
    loop_stop(CONTAINER_OF(t, struct session, stop_timer)->r.l);
}

/* The process ends once the next one may begin: its Leases are given back, if that takes no longer than STOP_MS. */
static void on_stop(void *ctx) {
    struct session *s = ctx;
    if (loop_timer_active(&s->stop_timer)) {
        return;
    }
    loop_timer_start(s->r.l, &s->stop_timer, STOP_MS * NS_PER_MS, on_stop_late, "stop");
    for (size_t i = 0; i < s->n_parts; i++) {
        if (s->parts[i].leader) {
            s->n_leaving++;
            kleader_stop(s->parts[i].leader, on_left);
        }
    }
    if (!s->n_leaving) {
        loop_stop(s->r.l);
    }
}

static void on_lead(void *ctx) {
    struct part *p = ctx;
    if (p->start(p->s, &p->s->failed) < 0) {
        on_stop(p->s);
    }
}

/* What is under way cannot be called back, so nothing of it may go on: the next process begins anew. */
static void on_lost(void *ctx) {
    struct part *p = ctx;
    if (!p->s->failed.code) {
        err_set(&p->s->failed, ERR_UNAVAILABLE, "another process leads");
    }
    on_stop(p->s);
}

static int part_start(struct session *s, struct kclient *c, const char *lease,
                      int (*start)(struct session *s, struct err *e), struct err *e) {
    struct part *p = &s->parts[s->n_parts++];
    *p = (struct part){.s = s, .start = start};
    if (!s->o->leader_elect) {
        return start(s, e);
    }
    const struct kleader_opts lo = {
        .name = lease, .on_lead = on_lead, .on_lost = on_lost, .ctx = p};
    p->leader = kleader_start(c, &lo);
    return 0;
}

static int run(const struct opts *o, struct err *e) {
    struct session s = {.o = o,
                        .ca = BUF_INIT(LIM_FILE),
                        .root = BUF_INIT(LIM_FILE),
                        .sign_cert = BUF_INIT(LIM_FILE),
                        .sign_key = BUF_INIT(LIM_FILE),
                        .failed = ERR_INIT};
    bool schedules = controllers_is_enabled(o->controllers.v, o->controllers.n, "scheduler");
    int keyd_fd, ready_fd, rc;
    s.r.on_stop = on_stop;
    s.r.ctx = &s;
    if ((rc = role_fd(o->keyd_fd, "keyd-fd", &keyd_fd, e)) < 0 ||
        (rc = role_fd(o->ready_fd, "ready-fd", &ready_fd, e)) < 0 ||
        (rc = role_enter(&s.r, "controllers", o->log_level,
                         SYS_ALLOW_BASE | SYS_ALLOW_CONNECT | (keyd_fd < 0 ? SYS_ALLOW_FILES : 0u),
                         e)) < 0 ||
        (rc = connect_all(&s, keyd_fd, e)) < 0) {
        return rc;
    }
    s.f = kfactory_new(s.ctl);
    if ((rc = prepare(&s, e)) < 0 ||
        (rc = part_start(&s, s.ctl, "kube-controller-manager", start_controllers, e)) < 0 ||
        (schedules && (rc = part_start(&s, s.sched ? s.sched : s.ctl, "kube-scheduler",
                                       start_scheduler, e)) < 0)) {
        return rc;
    }
    role_ready(ready_fd);
    /* Everything lives until the process ends: nothing here has to be given back. */
    rc = loop_run(s.r.l, e);
    if (rc == 0 && s.failed.code) {
        *e = s.failed;
        rc = -(int)s.failed.code;
    }
    return rc;
}

int cmd_controllers(struct cmdctx *c, struct err *e);

int cmd_controllers(struct cmdctx *c, struct err *e) {
    struct opts o = {.keyd_fd = -1,
                     .ready_fd = -1,
                     .scope = "admin",
                     .allocate = true,
                     .leader_elect = true,
                     .log_level = "info",
                     .server = NULL};
    const char *unix_path = NULL;
    const struct opt table[] = {
        {"kubeconfig", OPT_STR, &o.kubeconfig, "FILE", "how to reach the API server"},
        {"scheduler-kubeconfig", OPT_STR, &o.scheduler_kubeconfig, "FILE",
         "identity with which pods are bound (default: the same)"},
        {"server", OPT_STR, &o.server, "URL", "API server: https://host:port"},
        {"unix", OPT_STR, &unix_path, "PATH", "API server behind a unix socket"},
        {"tls-server-name", OPT_STR, &o.sni, "NAME", "name in the API server's certificate"},
        {"certificate-authority", OPT_STR, &o.ca, "FILE", "CA of the API server"},
        {"client-certificate", OPT_STR, &o.cert, "FILE", "own certificate"},
        {"client-key", OPT_STR, &o.key, "FILE", "its key"},
        {"token-file", OPT_STR, &o.token_file, "FILE", "bearer token instead of a certificate"},
        {"keyd-fd", OPT_I64, &o.keyd_fd, "FD", "channel to keyd (certificates, signing)"},
        {"scope", OPT_STR, &o.scope, "SCOPE", "cluster in keyd: admin or a tenant's uid"},
        {"ready-fd", OPT_I64, &o.ready_fd, "FD", "gets a line feed when the loops run"},
        {"controllers", OPT_LIST, &o.controllers, "LIST",
         "'*' all, 'name' also this one, '-name' not this one; the scheduler is one of them"},
        {"leader-elect", OPT_BOOL, &o.leader_elect, NULL,
         "of several such processes one acts; false when there is only this one"},
        {"cluster-name", OPT_STR, &o.cluster_name, "NAME", "accepted for compatibility"},
        {"cluster-cidr", OPT_STR, &o.cluster_cidr, "CIDR", "pods' addresses"},
        {"service-cluster-ip-range", OPT_STR, &o.service_range, "CIDR", "services' addresses"},
        {"allocate-node-cidrs", OPT_BOOL, &o.allocate, NULL,
         "give every node a range of --cluster-cidr (yes)"},
        {"node-cidr-mask-size", OPT_I64, &o.mask, "BITS", "of a node's IPv4 range (24)"},
        {"node-cidr-mask-size-ipv4", OPT_I64, &o.mask4, "BITS", "the same"},
        {"node-cidr-mask-size-ipv6", OPT_I64, &o.mask6, "BITS", "of a node's IPv6 range (64)"},
        {"node-monitor-grace-period", OPT_STR, &o.grace, "TIME",
         "silence before a node is Unknown (40s)"},
        {"terminated-pod-gc-threshold", OPT_I64, &o.gc_threshold, "N",
         "finished pods that are kept (12500)"},
        {"root-ca-file", OPT_STR, &o.root_ca, "FILE", "CA published in kube-root-ca.crt"},
        {"cluster-signing-cert-file", OPT_STR, &o.sign_cert, "FILE",
         "CA that signs requests, without keyd"},
        {"cluster-signing-key-file", OPT_STR, &o.sign_key, "FILE", "its key"},
        {"cluster-signing-duration", OPT_STR, &o.sign_duration, "TIME",
         "life of certificates (8760h0m0s)"},
        {"cluster-info-server", OPT_STR, &o.cluster_info, "URL",
         "address in kube-public/cluster-info (default: of the Service kubernetes)"},
        {"log-level", OPT_STR, &o.log_level, "LEVEL", "debug, info, warn, error"},
        {NULL, OPT_STR, NULL, NULL, NULL},
    };
    int rc = opt_parse(c, table, NULL, NULL, e);
    if (rc < 0) {
        return rc;
    }
    AUTO_FREE char *url = unix_path ? str_fmt("unix://%s", unix_path) : NULL;
    o.server = url ? url : o.server;
    if (!o.kubeconfig && !o.server) {
        return err_set(e, ERR_USAGE, "one of --kubeconfig, --server and --unix is needed");
    }
    return run(&o, e);
}
