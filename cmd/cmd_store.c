/* kfarm store: the etcd-compatible store as a process of its own. */
#include "cmd/role.h"
#include "cmd/store_flags.h"
#include "cmd/store_listen.h"

#include "internal/base/rand.h"
#include "internal/log/log.h"
#include "internal/sys/sys.h"

#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

int cmd_store(struct cmdctx *c, struct err *e);

enum { STOP_GRACE_S = 3 };

struct daemon {
    struct role role;
    struct loop_signal hup;
    struct store_flags f;
    struct store *st;
    struct storesrv *srv;
    struct store_listen *listen;
    bool foreign_dir; /* the data belong to somebody else */
};

static int open_store(struct daemon *d, struct err *e) {
    const struct store_flags *f = &d->f;
    int rc = sys_mkdirs(f->data_dir, 0700, e);
    AUTO_FD int dir = rc < 0 ? -1 : sys_open_dir(f->data_dir, e);
    struct stat st;
    if (rc < 0 || dir < 0) {
        return err_wrap(e, "--data-dir %s", f->data_dir);
    }
    d->foreign_dir = fstat(dir, &st) < 0 || st.st_uid != geteuid();
    const struct store_opts so = {.quota_bytes = (uint64_t)f->quota,
                                  .max_txn_ops = (uint32_t)f->max_ops,
                                  .max_request_bytes = (uint32_t)f->max_bytes,
                                  .lease_checkpoint_s = f->out.lease_checkpoint_s,
                                  .cache_bytes = 2 << 20};
    rc = store_open(d->role.l, dir, "store.db", &so, &d->st, e);
    return rc < 0 ? err_wrap(e, "--data-dir %s", f->data_dir) : 0;
}

/* ---- signals ---- */

static void on_hup(struct loop_signal *s, int signo) {
    struct daemon *d = CONTAINER_OF(s, struct daemon, hup);
    struct err e = ERR_INIT;
    (void)signo;
    if (store_listen_reload(d->listen, &e) < 0) {
        LOG_ERROR("store", "certificates are not read again", F_ERR(&e));
    } else {
        LOG_INFO("store", "certificates read again");
    }
}

static void all_ended(void *ctx) {
    struct daemon *d = ctx;
    loop_stop(d->role.l);
}

/* Clients hear that they should go elsewhere: GOAWAY, and an end of every stream. */
static void on_stop(void *ctx) {
    struct daemon *d = ctx;
    if (!d->listen) {
        loop_stop(d->role.l);
        return;
    }
    LOG_INFO("store", "stopping");
    storesrv_stop(d->srv);
    store_listen_shutdown(d->listen, STOP_GRACE_S * NS_PER_S, all_ended, d);
}

static void finish(struct daemon *d) {
    loop_signal_stop(&d->hup);
    store_listen_free(d->listen);
    store_close(d->st); /* runs what was submitted; the calls' clients are gone */
    storesrv_free(d->srv);
}

static int serve(struct daemon *d, struct err *e) {
    const struct store_flags *f = &d->f;
    sigset_t hup;
    sigemptyset(&hup);
    sigaddset(&hup, SIGHUP);
    int ready = -1, rc;
    if ((rc = open_store(d, e)) < 0 ||
        (rc = storesrv_new(d->role.l, d->st, &f->out.srv, &d->srv, e)) < 0 ||
        (rc = store_listen_new(d->role.l, f, d->srv, &d->listen, e)) < 0 ||
        (rc = role_fd(f->ready_fd, "ready-fd", &ready, e)) < 0 ||
        (rc = loop_signal_start(d->role.l, &d->hup, &hup, on_hup, e)) < 0 ||
        (rc = role_confine(SYS_ALLOW_BASE | SYS_ALLOW_FILES,
                           d->foreign_dir ? ROLE_CAP_DAC_OVERRIDE : 0, e)) < 0) {
        return rc;
    }
    LOG_INFO("store", "serving", F_STR("url", f->client.v[0]), F_I64("revision", store_rev(d->st)));
    role_ready(ready);
    return loop_run(d->role.l, e);
}

/* ---- kfarm store check, kfarm store restore FILE ---- */

static void say(void *ctx, const char *finding) {
    (void)ctx;
    puts(finding);
}

static int offline_check(const struct store_flags *f, struct err *e) {
    AUTO_FD int dir = sys_open_dir(f->data_dir, e);
    if (dir < 0) {
        return dir;
    }
    int rc = store_check(dir, "store.db", f->repair, say, NULL, e);
    if (rc == 0) {
        puts("no damage found");
    }
    return rc;
}

static int offline_restore(const struct store_flags *f, const char *file, struct err *e) {
    int64_t rev;
    AUTO_FD int snap = sys_open(AT_FDCWD, file, O_RDONLY, 0, e);
    int rc = snap < 0 ? snap : sys_mkdirs(f->data_dir, 0700, e);
    if (rc < 0) {
        return rc;
    }
    AUTO_FD int dir = sys_open_dir(f->data_dir, e);
    if (dir < 0) {
        return dir;
    }
    rc = store_restore(dir, "store.db", snap, &rev, e);
    if (rc < 0) {
        return err_wrap(e, "restoring %s into %s", file, f->data_dir);
    }
    printf("restored revision %lld into %s\n", (long long)rev, f->data_dir);
    return 0;
}

static int offline(const struct store_flags *f, const struct opt_list *pos, struct err *e) {
    if (pos->n == 1 && str_eq(pos->v[0], "check")) {
        return offline_check(f, e);
    }
    if (pos->n == 2 && str_eq(pos->v[0], "restore")) {
        return offline_restore(f, pos->v[1], e);
    }
    return err_set(e, ERR_USAGE, "usage: kfarm store [check | restore FILE] --data-dir DIR …");
}

int cmd_store(struct cmdctx *c, struct err *e) {
    struct daemon d = {0};
    struct opt_list pos = {{NULL}, 0};
    int rc = store_flags_parse(c, &d.f, &pos, e);
    if (rc < 0 || pos.n) {
        return rc < 0 ? rc : offline(&d.f, &pos, e);
    }
    d.role.on_stop = on_stop;
    d.role.ctx = &d;
    rc = role_enter(&d.role, "store", d.f.log_level, 0, e);
    if (rc < 0) {
        return rc;
    }
    rc = serve(&d, e);
    finish(&d);
    role_leave(&d.role);
    return rc;
}
