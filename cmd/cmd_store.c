/* kfarm store: the etcd-compatible store as a process of its own, with etcd's flag names. */
#include "cmd/role.h"

#include "internal/base/rand.h"
#include "internal/log/log.h"
#include "internal/storesrv/storesrv.h"
#include "internal/sys/sys.h"

#include <stdio.h>
#include <stdlib.h>

int cmd_store(struct cmdctx *c, struct err *e);

struct flags {
    const char *name, *data_dir, *cert, *key, *ca, *log_level, *mode, *retention, *progress;
    struct opt_list client, advertise, metrics, peer, peer_advertise, initial;
    const char *state, *token, *auth_token, *logger, *discard;
    bool repair, cert_auth, insecure, v2, pprof, no_fsync, pre_vote, corrupt_check, strict;
    int64_t quota, max_ops, max_bytes, discard_n, ready_fd;
    struct opt_list discard_list;
};

struct daemon {
    struct role role;
    struct flags *f;
    struct store *st;
    struct storesrv *srv;
    struct tls_config *tls;
    struct http_server *plain, *secure, *metrics;
};

/* "1h30m", "5m", "10s", "500ms"; a bare number means hours, as etcd takes it. */
static int duration(const char *text, uint64_t bare_unit, uint64_t *ret, struct err *e) {
    struct span s = span_str(text);
    uint64_t sum = 0;
    if (span_to_u64(s, 0, 1000000, &sum) == 0) {
        *ret = sum * bare_unit;
        return 0;
    }
    while (s.n) {
        size_t digits = 0, unit = 0;
        uint64_t v, ns = 0;
        while (digits < s.n && s.p[digits] >= '0' && s.p[digits] <= '9') {
            digits++;
        }
        while (digits + unit < s.n && (s.p[digits + unit] < '0' || s.p[digits + unit] > '9')) {
            unit++;
        }
        struct span u = span_of(s.p + digits, unit);
        ns = span_eq_str(u, "h")    ? 3600 * NS_PER_S
             : span_eq_str(u, "m")  ? 60 * NS_PER_S
             : span_eq_str(u, "s")  ? NS_PER_S
             : span_eq_str(u, "ms") ? NS_PER_MS
                                    : 0;
        if (!ns || span_to_u64(span_of(s.p, digits), 0, 1000000000, &v) < 0 ||
            span_skip(&s, digits + unit) < 0) {
            return err_set(e, ERR_USAGE, "\"%s\" is not a duration like 5m or 1h30m", text);
        }
        sum += v * ns;
    }
    *ret = sum;
    return 0;
}

/* ---- listeners ---- */

struct url {
    bool tls, is_unix;
    struct span host; /* or the path */
    uint16_t port;
};

static int url_parse(const char *text, struct url *ret, struct err *e) {
    struct span s = span_str(text);
    *ret = (struct url){0};
    if (span_starts(s, "unix:") || span_starts(s, "unixs:")) {
        ret->tls = span_starts(s, "unixs:");
        IGNORE_ERR(span_skip(&s, ret->tls ? 6 : 5), "has this prefix");
        if (span_starts(s, "//")) {
            IGNORE_ERR(span_skip(&s, 2), "has this prefix");
        }
        ret->is_unix = true;
        ret->host = s;
        return s.n ? 0 : err_set(e, ERR_USAGE, "%s: a path is missing", text);
    }
    if (!span_starts(s, "http://") && !span_starts(s, "https://")) {
        return err_set(e, ERR_USAGE, "%s: URL scheme must be http, https, unix, or unixs", text);
    }
    ret->tls = span_starts(s, "https://");
    IGNORE_ERR(span_skip(&s, ret->tls ? 8 : 7), "has this prefix");
    size_t colon = s.n;
    while (colon && s.p[colon - 1] != ':') {
        colon--;
    }
    uint64_t port;
    if (!colon || span_to_u64(span_of(s.p + colon, s.n - colon), 0, 65535, &port) < 0) {
        return err_set(e, ERR_USAGE, "%s: URL address does not have the form \"host:port\"", text);
    }
    ret->port = (uint16_t)port;
    ret->host = span_of(s.p, colon - 1);
    if (ret->host.n > 2 && ret->host.p[0] == '[' && ret->host.p[ret->host.n - 1] == ']') {
        ret->host = span_of(ret->host.p + 1, ret->host.n - 2);
    }
    if (span_eq_str(ret->host, "localhost")) {
        ret->host = SPAN_LIT("127.0.0.1");
    }
    return 0;
}

static bool loopback(const struct url *u) {
    return u->is_unix || span_starts(u->host, "127.") || span_eq_str(u->host, "::1");
}

static int server_of(struct daemon *d, struct http_server **at, struct http_handler h, bool tls,
                     const char *name, struct err *e) {
    if (*at) {
        return 0;
    }
    struct http_server_opts o = {
        .handler = h,
        .tls = tls ? d->tls : NULL,
        .body_max = SIZE_MAX / 2, /* streams never end; messages have their own limit */
        .max_streams = 1u << 20,  /* etcd sets none; python and Go multiplex on one connection */
        .h2c = true,
        .name = name};
    return http_server_new(d->role.l, &o, at, e);
}

static int listen_url(struct daemon *d, const char *text, bool metrics, struct err *e) {
    struct url u;
    int rc = url_parse(text, &u, e);
    if (rc < 0) {
        return rc;
    }
    if (u.tls && !d->tls) {
        return err_set(e, ERR_USAGE, "%s: TLS needs --cert-file and --key-file", text);
    }
    if (!u.tls && !loopback(&u) && !d->f->insecure) {
        return err_set(e, ERR_USAGE,
                       "%s: without TLS only loopback addresses and unix sockets are served "
                       "(--insecure-listen to do it all the same)",
                       text);
    }
    AUTO_FREE char *host = str_dupn(u.host.p, u.host.n);
    AUTO_FD int fd = u.is_unix ? sys_listen_unix(host, 0600, e) : sys_listen_tcp(host, u.port, e);
    if (fd < 0) {
        return err_wrap(e, "%s", text);
    }
    struct http_server **at = metrics ? &d->metrics : u.tls ? &d->secure : &d->plain;
    struct http_handler h = metrics ? storesrv_metrics_handler(d->srv) : storesrv_handler(d->srv);
    rc = server_of(d, at, h, u.tls, metrics ? "metrics" : u.tls ? "etcd-tls" : "etcd", e);
    return rc < 0 ? rc : http_server_listen(*at, TAKE_FD(fd), e);
}

static int load_tls(struct daemon *d, struct err *e) {
    struct flags *f = d->f;
    if (!f->cert && !f->key) {
        return f->cert_auth
                   ? err_set(e, ERR_USAGE, "--client-cert-auth needs --cert-file and --key-file")
                   : 0;
    }
    if (!f->cert || !f->key) {
        return err_set(e, ERR_USAGE, "--cert-file and --key-file go together");
    }
    if (f->cert_auth && !f->ca) {
        return err_set(e, ERR_USAGE, "--client-cert-auth needs --trusted-ca-file");
    }
    AUTO(buf) struct buf cert = BUF_INIT(1 << 20);
    AUTO(buf) struct buf key = BUF_INIT(1 << 20);
    AUTO(buf) struct buf ca = BUF_INIT(1 << 20);
    int rc;
    if ((rc = sys_file_read(AT_FDCWD, f->cert, &cert, e)) < 0 ||
        (rc = sys_file_read(AT_FDCWD, f->key, &key, e)) < 0 ||
        (f->ca && (rc = sys_file_read(AT_FDCWD, f->ca, &ca, e)) < 0)) {
        return rc;
    }
    return tls_server_config_new(&d->tls, buf_view(&cert), buf_view(&key), buf_view(&ca),
                                 f->cert_auth ? TLS_CLIENT_REQUIRED
                                 : f->ca      ? TLS_CLIENT_OPTIONAL
                                              : TLS_CLIENT_NONE,
                                 e);
}

/* ---- options ---- */

static int check_flags(const struct flags *f, struct err *e) {
    if (f->initial.n > 1) {
        return err_set(e, ERR_USAGE,
                       "--initial-cluster names %zu members: a store is one member; "
                       "for more use an external etcd cluster",
                       f->initial.n);
    }
    if (f->state && !str_eq(f->state, "new") && !str_eq(f->state, "existing")) {
        return err_set(e, ERR_USAGE, "--initial-cluster-state: invalid value \"%s\"", f->state);
    }
    if (!span_starts(span_str(f->auth_token), "simple")) {
        return err_set(e, ERR_USAGE, "--auth-token %s: only simple tokens are supported",
                       f->auth_token);
    }
    if (f->v2) {
        return err_set(e, ERR_USAGE, "--enable-v2: the v2 API is not served");
    }
    if (f->no_fsync) {
        return err_set(e, ERR_USAGE,
                       "--unsafe-no-fsync: an acknowledged write is always durable here");
    }
    if (f->client.n && !f->advertise.n) {
        return err_set(
            e, ERR_USAGE,
            "--advertise-client-urls is required when --listen-client-urls is set explicitly");
    }
    return 0;
}

static int srv_opts(const struct flags *f, struct storesrv_opts *o, struct err *e) {
    int rc = 0;
    *o = (struct storesrv_opts){.name = f->name,
                                .client_urls = f->advertise.v,
                                .n_client_urls = f->advertise.n,
                                .peer_urls = f->peer_advertise.v,
                                .n_peer_urls = f->peer_advertise.n,
                                .max_request_bytes = (uint32_t)f->max_bytes,
                                .max_txn_ops = (uint32_t)f->max_ops};
    if (f->progress && (rc = duration(f->progress, NS_PER_S, &o->progress_ns, e)) < 0) {
        return rc;
    }
    if (str_eq(f->retention, "0")) {
        return 0;
    }
    if (str_eq(f->mode, "periodic")) {
        o->auto_compact = STORESRV_COMPACT_PERIODIC;
        return duration(f->retention, 3600 * NS_PER_S, &o->compact_retention, e);
    }
    if (str_eq(f->mode, "revision")) {
        o->auto_compact = STORESRV_COMPACT_REVISION;
        if (span_to_u64(span_str(f->retention), 1, INT64_MAX, &o->compact_retention) == 0) {
            return 0;
        }
        return err_set(e, ERR_USAGE,
                       "--auto-compaction-retention: \"%s\" is not a number of revisions",
                       f->retention);
    }
    return err_set(e, ERR_USAGE, "--auto-compaction-mode: \"%s\" is neither periodic nor revision",
                   f->mode);
}

static int parse(struct cmdctx *c, struct flags *f, struct opt_list *pos, struct err *e) {
    const struct opt opts[] = {
        {"name", OPT_STR, &f->name, "NAME", "name of this member"},
        {"data-dir", OPT_STR, &f->data_dir, "DIR", "directory of the data"},
        {"listen-client-urls", OPT_LIST, &f->client, "URLS",
         "where clients connect: http, https, unix, unixs"},
        {"advertise-client-urls", OPT_LIST, &f->advertise, "URLS",
         "what the member list tells clients"},
        {"listen-metrics-urls", OPT_LIST, &f->metrics, "URLS",
         "further addresses for metrics and health"},
        {"cert-file", OPT_STR, &f->cert, "FILE", "server certificate"},
        {"key-file", OPT_STR, &f->key, "FILE", "its key"},
        {"trusted-ca-file", OPT_STR, &f->ca, "FILE", "CA of client certificates"},
        {"client-cert-auth", OPT_BOOL, &f->cert_auth, NULL, "require client certificates"},
        {"insecure-listen", OPT_BOOL, &f->insecure, NULL, "serve without TLS beyond loopback"},
        {"quota-backend-bytes", OPT_I64, &f->quota, "N",
         "the file may not grow past it (0: 2 GiB)"},
        {"auto-compaction-mode", OPT_STR, &f->mode, "MODE", "periodic or revision"},
        {"auto-compaction-retention", OPT_STR, &f->retention, "R",
         "duration or number of revisions (0: off)"},
        {"max-txn-ops", OPT_I64, &f->max_ops, "N", "operations in a transaction"},
        {"max-request-bytes", OPT_I64, &f->max_bytes, "N", "size of a request"},
        {"experimental-watch-progress-notify-interval", OPT_STR, &f->progress, "D",
         "progress notifications"},
        {"watch-progress-notify-interval", OPT_STR, &f->progress, "D", "progress notifications"},
        {"repair", OPT_BOOL, &f->repair, NULL, "check: rebuild what can be rebuilt"},
        {"log-level", OPT_STR, &f->log_level, "LEVEL", "debug, info, warn or error"},
        {"ready-fd", OPT_I64, &f->ready_fd, "N", "readiness pipe"},
        {"auth-token", OPT_STR, &f->auth_token, "KIND", "simple"},
        {"listen-peer-urls", OPT_LIST, &f->peer, "URLS", "accepted: one member has no peers"},
        {"initial-advertise-peer-urls", OPT_LIST, &f->peer_advertise, "URLS",
         "told in the member list"},
        {"initial-cluster", OPT_LIST, &f->initial, "NAME=URL", "this member"},
        {"initial-cluster-state", OPT_STR, &f->state, "STATE", "new or existing"},
        {"initial-cluster-token", OPT_STR, &f->token, "TOKEN", "accepted"},
        {"enable-v2", OPT_BOOL, &f->v2, NULL, "refused"},
        {"unsafe-no-fsync", OPT_BOOL, &f->no_fsync, NULL, "refused"},
        {"enable-pprof", OPT_BOOL, &f->pprof, NULL, "accepted, no effect"},
        {"pre-vote", OPT_BOOL, &f->pre_vote, NULL, "accepted, no effect"},
        {"strict-reconfig-check", OPT_BOOL, &f->strict, NULL, "accepted, no effect"},
        {"experimental-initial-corrupt-check", OPT_BOOL, &f->corrupt_check, NULL,
         "accepted, no effect"},
        {"heartbeat-interval", OPT_I64, &f->discard_n, "MS", "accepted, no effect"},
        {"election-timeout", OPT_I64, &f->discard_n, "MS", "accepted, no effect"},
        {"snapshot-count", OPT_I64, &f->discard_n, "N", "accepted, no effect"},
        {"logger", OPT_STR, &f->logger, "KIND", "accepted, no effect"},
        {"log-outputs", OPT_LIST, &f->discard_list, "OUT", "accepted, no effect"},
        {NULL, OPT_STR, NULL, NULL, NULL},
    };
    return opt_parse(c, opts, pos, NULL, e);
}

/* ---- running ---- */

static void finish(struct daemon *d) {
    http_server_free(d->metrics);
    http_server_free(d->plain);
    http_server_free(d->secure);
    store_close(d->st); /* runs what was submitted; the calls' clients are gone */
    storesrv_free(d->srv);
    tls_config_unref(d->tls);
}

static int open_store(struct daemon *d, struct err *e) {
    const struct flags *f = d->f;
    int rc = sys_mkdirs(f->data_dir, 0700, e);
    AUTO_FD int dir = rc < 0 ? -1 : sys_open_dir(f->data_dir, e);
    if (rc < 0 || dir < 0) {
        return rc < 0 ? rc : dir;
    }
    struct store_opts so = {.quota_bytes = (uint64_t)f->quota,
                            .max_txn_ops = (uint32_t)f->max_ops,
                            .max_request_bytes = (uint32_t)f->max_bytes,
                            .cache_bytes = 2 << 20};
    return store_open(d->role.l, dir, "store.db", &so, &d->st, e);
}

static int serve(struct daemon *d, struct err *e) {
    struct flags *f = d->f;
    struct storesrv_opts o;
    int rc;
    if ((rc = srv_opts(f, &o, e)) < 0 || (rc = load_tls(d, e)) < 0 || (rc = open_store(d, e)) < 0 ||
        (rc = storesrv_new(d->role.l, d->st, &o, &d->srv, e)) < 0) {
        return rc;
    }
    for (size_t i = 0; i < f->client.n && rc >= 0; i++) {
        rc = listen_url(d, f->client.v[i], false, e);
    }
    for (size_t i = 0; i < f->metrics.n && rc >= 0; i++) {
        rc = listen_url(d, f->metrics.v[i], true, e);
    }
    int ready = -1;
    if (rc < 0 || (rc = role_fd(f->ready_fd, "ready-fd", &ready, e)) < 0) {
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

static int offline_check(const struct flags *f, struct err *e) {
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

static int offline_restore(const struct flags *f, const char *file, struct err *e) {
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
    if (rc == 0) {
        printf("restored revision %lld into %s\n", (long long)rev, f->data_dir);
    }
    return rc;
}

static int offline(const struct flags *f, const struct opt_list *pos, struct err *e) {
    if (pos->n == 1 && str_eq(pos->v[0], "check")) {
        return offline_check(f, e);
    }
    if (pos->n == 2 && str_eq(pos->v[0], "restore")) {
        return offline_restore(f, pos->v[1], e);
    }
    return err_set(e, ERR_USAGE, "usage: kfarm store [check | restore FILE] --data-dir DIR …");
}

int cmd_store(struct cmdctx *c, struct err *e) {
    struct flags f = {.name = "default",
                      .data_dir = "default.etcd",
                      .log_level = "info",
                      .mode = "periodic",
                      .retention = "0",
                      .auth_token = "simple",
                      .max_ops = 128,
                      .max_bytes = 1536 * 1024,
                      .ready_fd = -1,
                      .strict = true,
                      .pre_vote = true};
    struct daemon d = {.f = &f};
    struct opt_list pos = {{NULL}, 0};
    int rc = parse(c, &f, &pos, e);
    if (rc < 0 || (rc = check_flags(&f, e)) < 0) {
        return rc;
    }
    if (pos.n) {
        return offline(&f, &pos, e);
    }
    if (!f.client.n) {
        f.client.v[f.client.n++] = "http://127.0.0.1:2379";
        if (!f.advertise.n) {
            f.advertise.v[f.advertise.n++] = "http://localhost:2379";
        }
    }
    if (!f.peer_advertise.n) {
        f.peer_advertise.v[f.peer_advertise.n++] = "http://localhost:2380";
    }
    if (f.max_ops < 1 || f.max_ops > 1 << 20 || f.max_bytes < 1 || f.max_bytes > 1 << 30 ||
        f.quota < 0) {
        return err_set(
            e, ERR_USAGE,
            "--max-txn-ops, --max-request-bytes or --quota-backend-bytes is out of range");
    }
    rc = role_enter(&d.role, "store", f.log_level, 0, e);
    if (rc < 0) {
        return rc;
    }
    rc = serve(&d, e);
    finish(&d);
    role_leave(&d.role);
    return rc;
}
