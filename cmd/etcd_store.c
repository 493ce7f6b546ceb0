#include "cmd/etcd_store.h"

#include "cmd/file_watch.h"
#include "cmd/role.h"
#include "internal/etcd/etcd.h"
#include "internal/json/json.h"
#include "internal/log/log.h"
#include "internal/sys/sys.h"
#include "internal/tls/tls.h"

#include <fcntl.h>

enum { FILE_MAX = 1 << 20 };

struct pems {
    struct buf ca, cert, key;
};

static int read_file(const char *path, struct buf *b, struct err *e) {
    return path == NULL ? 0 : sys_file_read(AT_FDCWD, path, b, e);
}

static int pems_read(struct pems *p, const struct etcd_flags *f, struct err *e) {
    int rc = read_file(f->cafile, &p->ca, e);
    rc = rc < 0 ? rc : read_file(f->certfile, &p->cert, e);
    return rc < 0 ? rc : read_file(f->keyfile, &p->key, e);
}

static void take(struct buf *b, const struct json *v, const char *key) {
    buf_span(b, json_span(json_get(v, key)));
}

static int pems_receive(struct pems *p, const struct etcd_flags *f, struct err *e) {
    AUTO(json_docp) struct json_doc *d = NULL;
    AUTO(buf) struct buf text = BUF_INIT(3 * FILE_MAX);
    AUTO_FD int fd = -1;
    int rc = role_fd(f->tls_fd, "etcd-tls-fd", &fd, e);
    if (rc < 0 || (rc = sys_fd_read_all(fd, &text, e)) < 0 ||
        (rc = json_parse(buf_view(&text), 0, &d, e)) < 0) {
        return rc;
    }
    take(&p->ca, json_root(d), "ca");
    take(&p->cert, json_root(d), "cert");
    take(&p->key, json_root(d), "key");
    secret_wipe(text.p, text.n);
    return 0;
}

static void pems_init(struct pems *p) {
    buf_init(&p->ca, FILE_MAX);
    buf_init(&p->cert, FILE_MAX);
    buf_init(&p->key, FILE_MAX);
}

static void pems_fini(struct pems *p) {
    if (p->key.p != NULL) {
        secret_wipe(p->key.p, p->key.n);
    }
    buf_fini(&p->ca);
    buf_fini(&p->cert);
    buf_fini(&p->key);
}

static int read_again(void *ctx, struct err *e) {
    struct etcd_store *s = ctx;
    struct pems p;
    pems_init(&p);
    int rc = pems_read(&p, s->f, e);
    if (rc >= 0) {
        rc = tls_config_set_ca(s->tls, buf_view(&p.ca), e);
    }
    if (rc >= 0 && p.cert.n > 0) {
        rc = tls_config_set_cert(s->tls, buf_view(&p.cert), buf_view(&p.key), e);
    }
    pems_fini(&p);
    return rc;
}

static void on_state(void *ctx, const char *trouble) {
    (void)ctx;
    if (trouble == NULL) {
        LOG_INFO("etcd", "the cluster answers");
        return;
    }
    LOG_WARN("etcd", "the cluster cannot be used, trying on", F_STR("reason", trouble));
}

static int tls_open(struct etcd_store *s, struct loop *l, struct err *e) {
    struct pems p;
    bool by_fd = s->f->tls_fd >= 0;
    if (s->f->cafile == NULL && !by_fd) {
        return s->f->certfile == NULL && s->f->keyfile == NULL
                   ? 0
                   : err_set(e, ERR_USAGE, "--etcd-certfile needs --etcd-cafile");
    }
    if ((s->f->certfile == NULL) != (s->f->keyfile == NULL)) {
        return err_set(e, ERR_USAGE, "--etcd-certfile and --etcd-keyfile go together");
    }
    pems_init(&p);
    int rc = by_fd ? pems_receive(&p, s->f, e) : pems_read(&p, s->f, e);
    if (rc >= 0) {
        const struct tls_client_opts o = {
            .ca_pem = buf_view(&p.ca), .cert_pem = buf_view(&p.cert), .key_pem = buf_view(&p.key)};
        rc = tls_client_config_new(&s->tls, &o, e);
    }
    pems_fini(&p);
    if (rc >= 0 && !by_fd) {
        const char *const paths[] = {s->f->cafile, s->f->certfile, s->f->keyfile};
        rc = file_watch_new(l, paths, ARRAY_LEN(paths), "etcd", read_again, s, &s->certs, e);
    }
    return rc < 0 ? err_wrap(e, "TLS towards etcd") : 0;
}

int etcd_store_open(struct etcd_store *s, const struct etcd_flags *f, struct loop *l,
                    struct store **ret, struct err *e) {
    *s = (struct etcd_store){.f = f};
    int rc = tls_open(s, l, e);
    if (rc < 0) {
        return rc;
    }
    const struct etcd_opts o = {.endpoints = f->servers.v,
                                .n_endpoints = f->servers.n,
                                .prefix = f->prefix != NULL ? f->prefix : "/kfarm/default",
                                .rooted = true,
                                .alone = f->alone,
                                .tls = s->tls,
                                .on_state = on_state,
                                .ctx = s};
    rc = etcd_open(l, &o, ret, e);
    if (rc == -ERR_INVALID) {
        e->code = ERR_USAGE;
        rc = -ERR_USAGE;
    }
    return rc;
}

void etcd_store_fini(struct etcd_store *s) {
    file_watch_free(TAKE(s->certs));
    if (s->tls != NULL) {
        tls_config_unref(s->tls);
        s->tls = NULL;
    }
}
