#include "cmd/etcd_store.h"
#include "cmd/file_watch.h"
#include "cmd/role.h"

#include "internal/apiserver/apiserver.h"
#include "internal/base/rand.h"
#include "internal/keyclient/keyclient.h"
#include "internal/log/log.h"
#include "internal/pki/pki.h"
#include "internal/store/store_engine.h"
#include "internal/sys/sys.h"

#include <stdlib.h>

int cmd_apiserver(struct cmdctx *c, struct err *e);

enum { FILE_MAX = 1 << 20, STOP_GRACE_S = 3, SA_KEYS = 8 };

struct flags {
    const char *data_dir, *bind_address, *service_cidr, *node_ports, *advertise, *cluster_name,
        *scope, *level;
    const char *tls_cert, *tls_key, *client_ca, *sa_signing_key, *sa_issuer;
    const char *kubelet_cert, *kubelet_key, *kubelet_ca;
    struct etcd_flags etcd;
    struct opt_list tls_sans, listen_fds, unix_fds, front_fds, sa_keys;
    int64_t data_dir_fd, keyd_fd, ready_fd, port, advertise_port;
    bool farm, anonymous;
};

struct role_api {
    struct role r;
    struct flags f;
    struct apiserver *api;
    struct etcd_store etcd;
    struct file_watch *certs;
    struct tls_config *tls, *kubelet_tls;
    struct keyclient *keys;
    struct pki_key *signing_key;
    char service_ip[IP4_STR];
    int ready_fd;
    struct loop_timer renew;
    struct buf sa_pems[SA_KEYS];
    size_t n_sa_pems;
};

static int read_file(const char *path, struct buf *b, struct err *e) {
    buf_init(b, FILE_MAX);
    return sys_file_read(AT_FDCWD, path, b, e);
}

/* ---- keys from files: standalone use and tests ---- */

struct trio { /* a certificate, its key, and the CAs of the other side */
    struct buf cert, key, ca;
};

static void trio_fini(struct trio *t) {
    secret_wipe(t->key.p, t->key.n);
    buf_fini(&t->cert);
    buf_fini(&t->key);
    buf_fini(&t->ca);
}

static int trio_read(struct trio *t, const char *cert, const char *key, const char *ca,
                     struct err *e) {
    int rc = read_file(cert, &t->cert, e);
    rc = rc < 0 ? rc : read_file(key, &t->key, e);
    return rc < 0 || ca == NULL ? rc : read_file(ca, &t->ca, e);
}

static int tls_from_files(struct role_api *a, struct err *e) {
    const struct flags *f = &a->f;
    AUTO(trio) struct trio t = {0};
    if (f->tls_cert == NULL || f->tls_key == NULL) {
        return err_set(e, ERR_USAGE,
                       "--tls-cert-file and --tls-private-key-file are needed without --keyd-fd");
    }
    int rc = trio_read(&t, f->tls_cert, f->tls_key, f->client_ca, e);
    return rc < 0 ? rc
                  : tls_server_config_new(
                        &a->tls, buf_view(&t.cert), buf_view(&t.key), buf_view(&t.ca),
                        f->client_ca != NULL ? TLS_CLIENT_REQUEST : TLS_CLIENT_NONE, e);
}

static int kubelet_from_files(struct role_api *a, struct err *e) {
    const struct flags *f = &a->f;
    AUTO(trio) struct trio t = {0};
    if (f->kubelet_cert == NULL || f->kubelet_key == NULL) {
        return 0;
    }
    int rc = trio_read(&t, f->kubelet_cert, f->kubelet_key, f->kubelet_ca, e);
    const struct tls_client_opts o = {.ca_pem = buf_view(&t.ca),
                                      .cert_pem = buf_view(&t.cert),
                                      .key_pem = buf_view(&t.key),
                                      .insecure = f->kubelet_ca == NULL};
    return rc < 0 ? rc : tls_client_config_new(&a->kubelet_tls, &o, e);
}

static int exchange(struct tls_config *c, const char *cert, const char *key, const char *ca,
                    struct err *e) {
    AUTO(trio) struct trio t = {0};
    int rc = trio_read(&t, cert, key, ca, e);
    rc = rc < 0 ? rc : tls_config_set_cert(c, buf_view(&t.cert), buf_view(&t.key), e);
    return rc < 0 || ca == NULL ? rc : tls_config_set_ca(c, buf_view(&t.ca), e);
}

static int on_certs_changed(void *ctx, struct err *e) {
    struct role_api *a = ctx;
    const struct flags *f = &a->f;
    int rc = exchange(a->tls, f->tls_cert, f->tls_key, f->client_ca, e);
    return rc < 0 || a->kubelet_tls == NULL
               ? rc
               : exchange(a->kubelet_tls, f->kubelet_cert, f->kubelet_key, f->kubelet_ca, e);
}

static int watch_certs(struct role_api *a, struct err *e) {
    const struct flags *f = &a->f;
    const char *const paths[] = {f->tls_cert,     f->tls_key,     f->client_ca,
                                 f->kubelet_cert, f->kubelet_key, f->kubelet_ca};
    return file_watch_new(a->r.l, paths, ARRAY_LEN(paths), "apiserver", on_certs_changed, a,
                          &a->certs, e);
}

static int sa_from_files(struct role_api *a, struct err *e) {
    int rc = 0;
    for (size_t i = 0; i < a->f.sa_keys.n && i < SA_KEYS; i++) {
        if ((rc = read_file(a->f.sa_keys.v[i], &a->sa_pems[a->n_sa_pems++], e)) < 0) {
            return rc;
        }
    }
    if (a->f.sa_signing_key == NULL) {
        return 0;
    }
    AUTO(buf) struct buf pem = BUF_INIT(FILE_MAX);
    if ((rc = read_file(a->f.sa_signing_key, &pem, e)) < 0 ||
        (rc = pki_key_parse(buf_view(&pem), &a->signing_key, e)) < 0) {
        return rc;
    }
    secret_wipe(pem.p, pem.n);
    if (a->n_sa_pems == 0) {
        buf_init(&a->sa_pems[0], FILE_MAX);
        a->n_sa_pems = 1;
        return pki_key_write_public(a->signing_key, &a->sa_pems[0], e);
    }
    return 0;
}

struct local_sign {
    struct loop_hook hook;
    struct pki_key *key;
    struct buf claims;
    apiserver_signed_cb *done;
    void *ctx;
};

static void local_sign_run(void *ctx) {
    struct local_sign *s = ctx;
    struct err e = ERR_INIT;
    AUTO(buf) struct buf token = BUF_INIT(FILE_MAX);
    int rc = pki_jws_sign(s->key, buf_view(&s->claims), &token, &e);
    s->done(s->ctx, rc, buf_view(&token), &e);
    buf_fini(&s->claims);
    free(s);
}

static void local_sign(void *signer_ctx, struct span claims, apiserver_signed_cb *done, void *ctx) {
    struct role_api *a = signer_ctx;
    struct local_sign *s = new_zero(struct local_sign);
    list_init(&s->hook.link);
    s->key = a->signing_key;
    s->done = done;
    s->ctx = ctx;
    buf_init(&s->claims, FILE_MAX);
    buf_span(&s->claims, claims);
    loop_before_sleep(a->r.l, &s->hook, local_sign_run, s);
}

/* ---- keys from keyd ---- */

static void serving_req(struct role_api *a, struct key_req *q) {
    static const char *const names[] = {"kubernetes",
                                        "kubernetes.default",
                                        "kubernetes.default.svc",
                                        "kubernetes.default.svc.cluster.local",
                                        "localhost",
                                        "127.0.0.1"};
    *q = (struct key_req){.scope = a->f.scope, .profile = KEY_APISERVER};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        q->sans[q->n_sans++] = names[i];
    }
    if (a->f.advertise != NULL) {
        q->sans[q->n_sans++] = a->f.advertise;
    }
    if (apiserver_service_ip(a->f.service_cidr, a->service_ip) >= 0) {
        q->sans[q->n_sans++] = a->service_ip;
    }
    for (size_t i = 0; i < a->f.tls_sans.n && q->n_sans < ARRAY_LEN(q->sans); i++) {
        q->sans[q->n_sans++] = a->f.tls_sans.v[i];
    }
}

static void renew_start(struct role_api *a, struct span cert);

static void on_renewed(void *ctx, int rc, struct key_identity *id, const struct err *e) {
    struct role_api *a = ctx;
    struct err mine = ERR_INIT;
    if (rc >= 0) {
        rc = tls_config_set_cert(a->tls, buf_view(&id->cert_pem), buf_view(&id->key_pem), &mine);
        e = &mine;
    }
    if (rc < 0) {
        LOG_WARN("apiserver", "renewing the serving certificate, trying again in a minute",
                 F_ERR(e));
        renew_start(a, SPAN_EMPTY);
        return;
    }
    LOG_INFO("apiserver", "serving certificate renewed");
    renew_start(a, buf_view(&id->cert_pem));
}

static void on_kubelet_renewed(void *ctx, int rc, struct key_identity *id, const struct err *e) {
    struct role_api *a = ctx;
    struct err mine = ERR_INIT;
    if (rc >= 0) {
        rc = tls_config_set_cert(a->kubelet_tls, buf_view(&id->cert_pem), buf_view(&id->key_pem),
                                 &mine);
        e = &mine;
    }
    if (rc < 0) {
        LOG_WARN("apiserver", "renewing the certificate for kubelets, continuing with the old one",
                 F_ERR(e));
    }
}

static void on_renew(struct loop_timer *t) {
    struct role_api *a = CONTAINER_OF(t, struct role_api, renew);
    struct key_req q;
    serving_req(a, &q);
    keyclient_issue(a->keys, &q, on_renewed, a);
    const struct key_req k = {.scope = a->f.scope, .profile = KEY_KUBELET_CLIENT};
    keyclient_issue(a->keys, &k, on_kubelet_renewed, a);
}

/* At half of what is left of the certificate; without one in a minute. */
static void renew_start(struct role_api *a, struct span cert) {
    struct pki_info info;
    struct err e = ERR_INIT;
    uint64_t wait = 60;
    if (cert.n > 0 && pki_cert_parse(cert, &info, &e) >= 0) {
        uint64_t now = clock_wall_ns() / NS_PER_S;
        wait = info.not_after_s > now + 120 ? (info.not_after_s - now) / 2 : 60;
        pki_info_fini(&info);
    }
    loop_timer_start(a->r.l, &a->renew, wait * NS_PER_S, on_renew, "certificate renewal");
}

static int bundle_from_keyd(struct role_api *a, int fd, struct err *e) {
    AUTO(json_docp) struct json_doc *d = NULL;
    int rc = key_bundle_sync(fd, a->f.scope, &d, e);
    if (rc < 0) {
        return rc;
    }
    JSON_EACH(it, v, json_get(json_root(d), "saPublicKeys")) {
        if (a->n_sa_pems < SA_KEYS) {
            buf_init(&a->sa_pems[a->n_sa_pems], FILE_MAX);
            buf_span(&a->sa_pems[a->n_sa_pems++], json_span(v));
        }
    }
    return 0;
}

static int keys_from_keyd(struct role_api *a, int own_fd, struct err *e) {
    struct key_req q;
    struct key_identity id;
    struct key_identity kid;
    key_identity_init(&id);
    key_identity_init(&kid);
    serving_req(a, &q);
    const struct key_req kq = {.scope = a->f.scope, .profile = KEY_KUBELET_CLIENT};
    int rc = key_issue_sync(own_fd, &q, &id, e);
    if (rc >= 0) {
        rc = tls_server_config_new(&a->tls, buf_view(&id.cert_pem), buf_view(&id.key_pem),
                                   buf_view(&id.ca_pem), TLS_CLIENT_REQUEST, e);
    }
    if (rc >= 0 && (rc = key_issue_sync(own_fd, &kq, &kid, e)) >= 0) {
        const struct tls_client_opts o = {.ca_pem = buf_view(&kid.ca_pem),
                                          .cert_pem = buf_view(&kid.cert_pem),
                                          .key_pem = buf_view(&kid.key_pem)};
        rc = tls_client_config_new(&a->kubelet_tls, &o, e);
    }
    if (rc >= 0) {
        rc = bundle_from_keyd(a, own_fd, e);
    }
    if (rc < 0) {
        sys_close(own_fd);
    } else if ((rc = keyclient_new(a->r.l, own_fd, &a->keys, e)) >= 0) {
        renew_start(a, buf_view(&id.cert_pem));
    }
    key_identity_fini(&id);
    key_identity_fini(&kid);
    return rc;
}

struct keyd_sign {
    apiserver_signed_cb *done;
    void *ctx;
};

static void on_keyd_token(void *ctx, int rc, struct json *reply, const struct err *e) {
    struct keyd_sign *s = ctx;
    s->done(s->ctx, rc, rc < 0 ? SPAN_EMPTY : json_span(json_get(reply, "token")), e);
    free(s);
}

static void keyd_sign(void *signer_ctx, struct span claims, apiserver_signed_cb *done, void *ctx) {
    struct role_api *a = signer_ctx;
    AUTO(json_docp) struct json_doc *d = NULL;
    struct err e = ERR_INIT;
    struct keyd_sign *s = new_zero(struct keyd_sign);
    s->done = done;
    s->ctx = ctx;
    CHECK(json_parse(claims, 0, &d, &e) >= 0); /* written by the API server itself */
    keyclient_token(a->keys, a->f.scope, json_root(d), on_keyd_token, s);
}

/* ---- connections from the front ---- */

struct front {
    struct loop_io io;
    struct role_api *a;
};

static void on_front_fd(struct loop_io *io, uint32_t events) {
    struct front *f = CONTAINER_OF(io, struct front, io);
    struct err e = ERR_INIT;
    (void)events;
    for (int i = 0; i < 64; i++) {
        uint8_t byte[16];
        int fd = -1;
        int rc = sys_recv_fd(io->fd, byte, sizeof byte, &fd, &e);
        if (rc == -ERR_AGAIN) {
            return;
        }
        if (rc <= 0) {
            loop_io_stop(
                io); /* the front is gone; the supervisor brings a new one with a new socket */
            return;
        }
        if (fd >= 0 && apiserver_accept_fd(f->a->api, fd, &e) < 0) {
            LOG_WARN("apiserver", "connection from the front refused, continuing", F_ERR(&e));
            err_reset(&e);
        }
    }
}

/* ---- start ---- */

static int fd_list(const struct opt_list *l, const char *what, int *fds, size_t *n, struct err *e) {
    *n = 0;
    for (size_t i = 0; i < l->n; i++) {
        uint64_t v = 0;
        if (span_to_u64(span_str(l->v[i]), 3, 1 << 20, &v) < 0) {
            return err_set(e, ERR_USAGE, "--%s: \"%s\" is not a descriptor number", what, l->v[i]);
        }
        int rc = role_fd((int64_t)v, what, &fds[*n], e);
        if (rc < 0) {
            return rc;
        }
        (*n)++;
    }
    return 0;
}

static int listen_all(struct role_api *a, struct front *fronts, struct err *e) {
    int fds[OPT_LIST_MAX];
    size_t n = 0;
    int rc = fd_list(&a->f.listen_fds, "listen-fd", fds, &n, e);
    for (size_t i = 0; i < n && rc >= 0; i++) {
        rc = apiserver_listen(a->api, fds[i], e);
    }
    if (rc >= 0 && (rc = fd_list(&a->f.unix_fds, "unix-listen-fd", fds, &n, e)) >= 0) {
        for (size_t i = 0; i < n && rc >= 0; i++) {
            rc = apiserver_listen(a->api, fds[i], e);
        }
    }
    if (rc >= 0 && (rc = fd_list(&a->f.front_fds, "front-fd", fds, &n, e)) >= 0) {
        for (size_t i = 0; i < n && rc >= 0; i++) {
            fronts[i].a = a;
            if ((rc = sys_set_nonblock(fds[i], e)) >= 0) {
                rc = loop_io_start(a->r.l, &fronts[i].io, fds[i], LOOP_READ, on_front_fd, "front",
                                   e);
            }
        }
    }
    if (rc >= 0 && a->f.port > 0) {
        rc = sys_listen_tcp(a->f.bind_address, (uint16_t)a->f.port, e);
        rc = rc < 0 ? rc : apiserver_listen(a->api, rc, e);
    }
    return rc;
}

static void on_ready(void *ctx) {
    struct role_api *a = ctx;
    role_ready(TAKE_FD(a->ready_fd));
}

static void on_shut(void *ctx) {
    struct role_api *a = ctx;
    loop_stop(a->r.l);
}

static void on_stop(void *ctx) {
    struct role_api *a = ctx;
    apiserver_shutdown(a->api, STOP_GRACE_S * NS_PER_S, on_shut, a);
}

static int api_open(struct role_api *a, int dir, struct err *e) {
    struct span pems[SA_KEYS];
    for (size_t i = 0; i < a->n_sa_pems; i++) {
        pems[i] = buf_view(&a->sa_pems[i]);
    }
    struct apiserver_opts o = {
        .tls = a->tls,
        .kubelet_tls = a->kubelet_tls,
        .service_cidr = a->f.service_cidr,
        .node_ports = a->f.node_ports,
        .advertise_address = a->f.advertise,
        .advertise_port = (uint16_t)(a->f.advertise_port > 0 ? a->f.advertise_port : a->f.port),
        .cluster_name = a->f.cluster_name,
        .farm = a->f.farm,
        .anonymous = a->f.anonymous,
        .sa_issuer = a->f.sa_issuer,
        .sa_public_pems = pems,
        .n_sa_public_pems = a->n_sa_pems};
    if (a->keys != NULL) {
        o.signer = (struct apiserver_signer){keyd_sign, a};
    } else if (a->signing_key != NULL) {
        o.signer = (struct apiserver_signer){local_sign, a};
    }
    int rc = a->f.etcd.servers.n > 0
                 ? etcd_store_open(&a->etcd, &a->f.etcd, a->r.l, &o.own_store, e)
                 : store_open(a->r.l, dir, "store.db", NULL, &o.own_store, e);
    return rc < 0 ? rc : apiserver_new(a->r.l, &o, on_ready, a, &a->api, e);
}

static int run(struct role_api *a, int dir, int keyd, struct err *e) {
    struct front *fronts = mem_zero_alloc(OPT_LIST_MAX * sizeof *fronts);
    int rc = 0;
    if (keyd >= 0) {
        rc = keys_from_keyd(a, keyd, e);
    } else if ((rc = tls_from_files(a, e)) >= 0 && (rc = kubelet_from_files(a, e)) >= 0 &&
               (rc = sa_from_files(a, e)) >= 0) {
        rc = watch_certs(a, e);
    }
    if (rc >= 0 && (rc = api_open(a, dir, e)) >= 0 && (rc = listen_all(a, fronts, e)) >= 0) {
        rc = loop_run(a->r.l, e);
    }
    loop_timer_stop(&a->renew);
    file_watch_free(a->certs);
    apiserver_free(a->api);
    etcd_store_fini(&a->etcd);
    for (size_t i = 0; i < OPT_LIST_MAX; i++) {
        loop_io_stop(&fronts[i].io);
    }
    free(fronts);
    keyclient_free(a->keys);
    pki_key_free(a->signing_key);
    if (a->tls != NULL) {
        tls_config_unref(a->tls);
    }
    if (a->kubelet_tls != NULL) {
        tls_config_unref(a->kubelet_tls);
    }
    for (size_t i = 0; i < a->n_sa_pems; i++) {
        buf_fini(&a->sa_pems[i]);
    }
    return rc;
}

static int start(struct role_api *a, struct err *e) {
    const struct flags *f = &a->f;
    AUTO_FD int dir = -1;
    int keyd = -1;
    int rc;
    if ((rc = role_fd(f->keyd_fd, "keyd-fd", &keyd, e)) < 0 ||
        (rc = role_fd(f->ready_fd, "ready-fd", &a->ready_fd, e)) < 0 ||
        (rc = role_fd(f->data_dir_fd, "data-dir-fd", &dir, e)) < 0) {
        return rc;
    }
    if (dir < 0 && f->etcd.servers.n == 0) {
        if (f->data_dir == NULL) {
            return err_set(e, ERR_USAGE, "--data-dir or --etcd-servers is needed");
        }
        if ((dir = sys_open_dir(f->data_dir, e)) < 0) {
            return err_wrap(e, "--data-dir");
        }
    }
    /* Connections go out to kubelets; listening is for standalone use only. */
    unsigned allow = SYS_ALLOW_BASE | SYS_ALLOW_FILES | SYS_ALLOW_CONNECT |
                     (f->port > 0 ? SYS_ALLOW_LISTEN : 0u);
    a->r.on_stop = on_stop;
    a->r.ctx = a;
    if ((rc = role_enter(&a->r, "apiserver", f->level, allow, e)) >= 0) {
        rc = run(a, dir, keyd, e);
        role_leave(&a->r);
    }
    return rc;
}

int cmd_apiserver(struct cmdctx *c, struct err *e) {
    struct role_api a = {.f = {.data_dir_fd = -1,
                               .keyd_fd = -1,
                               .ready_fd = -1,
                               .etcd.tls_fd = -1,
                               .anonymous = true,
                               .scope = "admin",
                               .level = "info",
                               .bind_address = "",
                               .service_cidr = "10.96.0.0/12",
                               .node_ports = "30000-32767",
                               .cluster_name = "kubernetes"}};
    struct flags *f = &a.f;
    const struct opt opts[] = {
        {"data-dir", OPT_STR, &f->data_dir, "DIR", "directory of the store"},
        {"data-dir-fd", OPT_I64, &f->data_dir_fd, "N", "the same as an open descriptor"},
        {"listen-fd", OPT_LIST, &f->listen_fds, "N", "listening TCP socket"},
        {"unix-listen-fd", OPT_LIST, &f->unix_fds, "N", "listening unix socket"},
        {"front-fd", OPT_LIST, &f->front_fds, "N", "socket on which the front passes connections"},
        {"keyd-fd", OPT_I64, &f->keyd_fd, "N", "channel to keyd"},
        {"ready-fd", OPT_I64, &f->ready_fd, "N", "readiness pipe"},
        {"readiness-fd", OPT_I64, &f->ready_fd, "N", "the same"},
        {"scope", OPT_STR, &f->scope, "NAME", "cluster whose keys are used"},
        {"farm", OPT_BOOL, &f->farm, NULL, "serve the farm kinds"},
        {"cluster-name", OPT_STR, &f->cluster_name, "NAME", "name of the cluster"},
        {"secure-port", OPT_I64, &f->port, "PORT", "listen here (standalone)"},
        {"bind-address", OPT_STR, &f->bind_address, "IP", "address of --secure-port"},
        {"advertise-address", OPT_STR, &f->advertise, "IP",
         "address in the endpoints of the kubernetes service"},
        {"advertise-port", OPT_I64, &f->advertise_port, "PORT", "port there"},
        {"service-cluster-ip-range", OPT_STR, &f->service_cidr, "CIDR", "addresses of services"},
        {"service-node-port-range", OPT_STR, &f->node_ports, "LOW-HIGH", "node ports of services"},
        {"anonymous-auth", OPT_BOOL, &f->anonymous, NULL,
         "requests without credentials are system:anonymous"},
        {"tls-san", OPT_LIST, &f->tls_sans, "NAME", "further name in the serving certificate"},
        {"tls-cert-file", OPT_STR, &f->tls_cert, "FILE", "serving certificate (standalone)"},
        {"tls-private-key-file", OPT_STR, &f->tls_key, "FILE", "its key"},
        {"client-ca-file", OPT_STR, &f->client_ca, "FILE", "CAs of client certificates"},
        {"service-account-key-file", OPT_LIST, &f->sa_keys, "FILE", "public keys of tokens"},
        {"service-account-signing-key-file", OPT_STR, &f->sa_signing_key, "FILE",
         "key that signs tokens"},
        {"service-account-issuer", OPT_STR, &f->sa_issuer, "URL", "issuer of tokens"},
        {"kubelet-client-certificate", OPT_STR, &f->kubelet_cert, "FILE",
         "client certificate towards kubelets"},
        {"kubelet-client-key", OPT_STR, &f->kubelet_key, "FILE", "its key"},
        {"kubelet-certificate-authority", OPT_STR, &f->kubelet_ca, "FILE", "CA of kubelets"},
        ETCD_FLAGS(&f->etcd),
        {"log-level", OPT_STR, &f->level, "LEVEL", "debug, info, warn or error"},
        {NULL, OPT_STR, NULL, NULL, NULL},
    };
    int rc = opt_parse(c, opts, NULL, NULL, e);
    return rc < 0 ? rc : start(&a, e);
}
