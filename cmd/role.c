#include "cmd/role.h"

#include "internal/base/rand.h"
#include "internal/log/log.h"
#include "internal/sys/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

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

int role_confine(unsigned allow, uint64_t keep_caps, struct err *e) {
    struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct have[2];
    if (syscall(SYS_capget, &h, have) < 0) {
        return err_sys(e, errno, "reading capabilities");
    }
    for (unsigned i = 0; i < 2; i++) {
        uint32_t keep = have[i].permitted & (uint32_t)(keep_caps >> (32 * i));
        have[i] = (struct __user_cap_data_struct){keep, keep, 0};
    }
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0 ||
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || syscall(SYS_capset, &h, have) < 0) {
        return err_sys(e, errno, "dropping capabilities");
    }
    return sys_seccomp(allow, e);
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

#define RENEW_NS (182ull * 24 * 3600 * NS_PER_S)
#define RENEW_RETRY_NS (3600ull * NS_PER_S)

static void renew_due(struct loop_timer *t);

static void renewed(void *ctx, int rc, struct key_identity *id, const struct err *e) {
    struct role_identity *ri = ctx;
    struct err mine = ERR_INIT;
    if (rc >= 0) {
        rc = tls_config_set_cert(ri->tls, buf_view(&id->cert_pem), buf_view(&id->key_pem), &mine);
        if (rc >= 0 && ri->server_tls) {
            rc = tls_config_set_cert(ri->server_tls, buf_view(&id->cert_pem),
                                     buf_view(&id->key_pem), &mine);
        }
        e = &mine;
    }
    if (rc < 0) {
        LOG_ERROR("role", "certificate not renewed, trying again in an hour", F_STR("cn", ri->cn),
                  F_ERR(e));
    }
    loop_timer_start(ri->role->l, &ri->renew, rc < 0 ? RENEW_RETRY_NS : RENEW_NS, renew_due,
                     "certificate renewal");
}

static struct key_req request_of(const struct role_identity *ri) {
    struct key_req q = {.scope = ri->scope, .profile = KEY_COMPONENT, .cn = ri->cn};
    if (ri->org) {
        q.orgs[q.n_orgs++] = ri->org;
    }
    for (size_t i = 0; i < ri->n_sans; i++) {
        q.sans[q.n_sans++] = ri->sans[i];
    }
    return q;
}

static void renew_due(struct loop_timer *t) {
    struct role_identity *ri = CONTAINER_OF(t, struct role_identity, renew);
    const struct key_req q = request_of(ri);
    keyclient_issue(ri->keys, &q, renewed, ri);
}

int role_identity_make(struct role *r, struct role_identity *ri, int keyd_fd, const char *scope,
                       const char *cn, const char *org, const struct kclient_opts *ko,
                       struct key_identity *ret_id, struct err *e) {
    struct key_identity mine, *id = ret_id ? ret_id : &mine;
    ri->role = r;
    ri->scope = str_dup(scope);
    ri->cn = str_dup(cn);
    ri->org = org;
    key_identity_init(id);
    const struct key_req q = request_of(ri);
    int rc = key_issue_sync(keyd_fd, &q, id, e);
    if (rc == 0) {
        const struct tls_client_opts to = {.ca_pem = buf_view(&id->ca_pem),
                                           .cert_pem = buf_view(&id->cert_pem),
                                           .key_pem = buf_view(&id->key_pem)};
        rc = tls_client_config_new(&ri->tls, &to, e);
    }
    if (rc == 0) {
        struct kclient_opts with_tls = *ko;
        with_tls.tls = ri->tls;
        rc = kclient_new(r->l, &with_tls, &ri->client, e);
    }
    if (rc == 0) {
        loop_timer_start(r->l, &ri->renew, RENEW_NS, renew_due, "certificate renewal");
    }
    if (!ret_id) {
        key_identity_fini(&mine);
    }
    return rc < 0 ? err_wrap(e, "identity %s", cn) : 0;
}

int role_identify(struct role *r, struct role_identity *ri, int own_keyd_fd, const char *scope,
                  const char *cn, const char *org, const char *unix_path,
                  struct key_identity *ret_id, struct err *e) {
    AUTO_FD int keyd_fd = own_keyd_fd;
    AUTO_FREE char *server = str_fmt("unix://%s", unix_path);
    AUTO_FREE char *agent = str_fmt("kfarm/%s", cn);
    const struct kclient_opts ko = {.server = server, .sni = "kubernetes", .user_agent = agent};
    int rc = role_identity_make(r, ri, keyd_fd, scope, cn, org, &ko, ret_id, e);
    if (rc == 0) {
        rc = keyclient_new(r->l, TAKE_FD(keyd_fd), &ri->keys, e);
        ri->own_keys = rc == 0;
    }
    return rc;
}

void role_identity_fini(struct role_identity *ri) {
    loop_timer_stop(&ri->renew);
    kclient_free(ri->client);
    if (ri->own_keys) {
        keyclient_free(ri->keys);
    }
    tls_config_unref(ri->tls);
    free(ri->scope);
    free(ri->cn);
}
