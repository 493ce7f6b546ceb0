/* Tenants whose state is in an external etcd cluster: what their control plane is told, and the end of their keys. */
#include "internal/farm/farm_int.h"

#include "internal/etcd/etcd.h"
#include "internal/tls/tls.h"

#include <stdlib.h>

static const char TLS_VOLUME[] = "etcd-tls", TLS_PATH[] = "/etcd-tls"; /* as in internal/hostlet */

static const struct json *datastore(const struct json *tenant) {
    return json_at(tenant, "spec", "datastore");
}

bool farm_on_etcd(const struct json *tenant) {
    return str_eq(json_str_at(datastore(tenant), "type"), "etcd");
}

const char *farm_etcd_unsupported(const struct json *tenant) {
    const struct json *ds = datastore(tenant);
    JSON_EACH(it, url, json_get(ds, "endpoints")) {
        if (span_starts(json_span(url), "https:") && !json_str_at(ds, "secretName")) {
            return "spec.datastore.secretName: https endpoints need a Secret with ca.crt, and with "
                   "tls.crt and tls.key when etcd asks for a client certificate";
        }
    }
    return NULL;
}

static char *prefix_of(const struct json *tenant) {
    const char *given = json_str_at(datastore(tenant), "prefix");
    return given && *given ? str_dup(given)
                           : str_fmt("/kfarm/%s", json_str_at(tenant, "metadata", "uid"));
}

static void probe(struct json_doc *d, struct json *container, const struct json *tenant) {
    struct json *p = json_set_obj(d, container, "readinessProbe");
    struct json *get = json_set_obj(d, p, "httpGet");
    json_set_str(d, get, "path", "/readyz");
    json_set_str(d, get, "host", "127.0.0.1");
    json_set_str(d, get, "scheme", "HTTPS");
    json_set_i64(d, get, "port", json_i64_at(tenant, 0, "status", "port"));
    json_set_i64(d, p, "periodSeconds", 5);
    json_set_i64(d, p, "timeoutSeconds", 3);
    json_set_i64(d, p, "failureThreshold", 2);
}

/* The API server of a file is ready when it runs; one of an etcd when that answers. */
void farm_etcd_plane(struct json_doc *d, struct json *pod, struct json *apiserver,
                     const struct json *tenant) {
    struct json *args = json_get(apiserver, "args");
    const char *secret = json_str_at(datastore(tenant), "secretName");
    AUTO_FREE char *prefix = prefix_of(tenant);
    JSON_EACH(it, url, json_get(datastore(tenant), "endpoints")) {
        json_push(args, json_new_fmt(d, "--etcd-servers=%s", json_str_or(url, "")));
    }
    json_push(args, json_new_fmt(d, "--etcd-prefix=%s", prefix));
    json_push(args, json_new_fmt(d, "--etcd-sole-writer")); /* one control-plane pod */
    probe(d, apiserver, tenant);
    if (!secret) {
        return;
    }
    struct json *v = json_new_obj(d), *m = json_new_obj(d);
    json_set_str(d, v, "name", TLS_VOLUME);
    json_set_str(d, json_set_obj(d, v, "secret"), "secretName", secret);
    json_push(json_set_arr(d, pod, "volumes"), v);
    json_set_str(d, m, "name", TLS_VOLUME);
    json_set_str(d, m, "mountPath", TLS_PATH);
    json_set_bool(d, m, "readOnly", true);
    json_push(json_set_arr(d, apiserver, "volumeMounts"), m);
}

/* ---- the end of a tenant's keys ---- */

struct wipe {
    struct pass *p;
    struct json_doc *tenant;
    struct tls_config *tls;
    struct store *store;
    struct loop_hook end; /* the store is not closed under its own callback */
    int rc;
    struct err err;
};

static void wipe_end(void *ctx) {
    struct wipe *w = ctx;
    struct pass *p = w->p;
    store_close(w->store);
    if (w->tls) {
        tls_config_unref(w->tls);
    }
    if (w->rc < 0) {
        kevent(p->f->events, json_root(w->tenant), "Warning", "DatastoreNotEmptied",
               "the tenant's keys in etcd are not deleted yet: %s", err_public(&w->err));
    }
    p->t->data_gone = p->again = w->rc >= 0;
    pass_end(p, w->rc, w->rc < 0 ? &w->err : NULL);
    json_doc_free(w->tenant);
    free(w);
}

static void wipe_later(struct wipe *w, int rc, const struct err *e) {
    w->rc = rc;
    if (rc < 0) {
        w->err = *e;
    }
    loop_before_sleep(w->p->f->l, &w->end, wipe_end, w);
}

static void on_wiped(void *ctx, struct store_txn *t, int rc, const struct err *e) {
    (void)t;
    wipe_later(ctx, rc, e);
}

static void wipe(struct wipe *w) {
    const struct json *tenant = json_root(w->tenant);
    const char *urls[LIM_ETCD_ENDPOINTS];
    struct err e = ERR_INIT;
    size_t n = 0;
    JSON_EACH(it, url, json_get(datastore(tenant), "endpoints")) {
        if (n < LIM_ETCD_ENDPOINTS) {
            urls[n++] = json_str_or(url, "");
        }
    }
    AUTO_FREE char *prefix = prefix_of(tenant);
    const struct etcd_opts o = {
        .endpoints = urls, .n_endpoints = n, .prefix = prefix, .rooted = true, .tls = w->tls};
    int rc = etcd_open(w->p->f->l, &o, &w->store, &e);
    if (rc < 0) {
        wipe_later(w, rc, &e);
        return;
    }
    struct store_txn *t = store_txn_new(0);
    store_txn_delete(t, &t->body.then, SPAN_LIT("/"), SPAN_LIT("\0"));
    store_txn(w->store, t, on_wiped, w);
}

static void decoded(struct buf *b, const struct json *secret, const char *key) {
    if (b64_decode(b, json_span(json_at(secret, "data", key))) < 0) {
        buf_reset(b);
    }
}

static void on_secret(void *ctx, int rc, struct json *secret, const struct err *e) {
    struct wipe *w = ctx;
    struct err mine = ERR_INIT;
    if (rc ==
        -ERR_NOT_FOUND) { /* it went with the namespace: nobody can reach the keys from here any more */
        kevent(w->p->f->events, json_root(w->tenant), "Warning", "DatastoreLeft",
               "the Secret for etcd is gone: the tenant's keys stay there");
        wipe_later(w, 0, NULL);
        return;
    }
    if (rc < 0) {
        wipe_later(w, rc, e);
        return;
    }
    AUTO(buf) struct buf ca = BUF_INIT(1u << 20);
    AUTO(buf) struct buf cert = BUF_INIT(1u << 20);
    AUTO(buf) struct buf key = BUF_INIT(1u << 20);
    decoded(&ca, secret, "ca.crt");
    decoded(&cert, secret, "tls.crt");
    decoded(&key, secret, "tls.key");
    const struct tls_client_opts o = {
        .ca_pem = buf_view(&ca), .cert_pem = buf_view(&cert), .key_pem = buf_view(&key)};
    rc = tls_client_config_new(&w->tls, &o, &mine);
    secret_wipe(key.p, key.cap);
    if (rc < 0) {
        wipe_later(w, rc, &mine);
    } else {
        wipe(w);
    }
}

bool farm_etcd_wipe(struct pass *p) {
    const struct json *ds = datastore(p->obj);
    if (!farm_on_etcd(p->obj) || p->t->data_gone ||
        str_eq(json_str_at(ds, "reclaimPolicy"), "Retain")) {
        return false;
    }
    struct wipe *w = new_zero(struct wipe);
    list_init(&w->end.link);
    w->p = p;
    w->tenant = json_doc_new();
    json_set_root(w->tenant, json_copy(w->tenant, p->obj));
    const char *secret = json_str_at(ds, "secretName");
    if (!secret) {
        wipe(w);
        return true;
    }
    const struct kref r = {.version = "v1", .resource = "secrets", .ns = p->ns, .name = secret};
    kget(p->f->o.admin, &r, on_secret, w);
    return true;
}

/* ---- whether it answers ---- */

/* The tenant may be gone when the answer comes. */
struct ready_q {
    struct farm *f;
    char uid[64];
};

static void on_readyz(void *ctx, int rc, struct json *obj, const struct err *e) {
    struct ready_q *q = ctx;
    struct tenant *t = map_get_str(&q->f->by_uid, q->uid);
    (void)obj;
    (void)e;
    free(q);
    if (t) {
        bool down = rc == -ERR_INTERNAL || rc == -ERR_IO;
        t->asking_etcd = false;
        if (t->etcd_down != down) {
            t->etcd_down = down;
            kqueue_add(t->f->queue, t->key);
        }
    }
}

/* Asked when readiness has changed, not all the time. */
static void ask(struct tenant *t, bool up) {
    if (up || !t->client || t->asking_etcd) {
        t->etcd_down = up ? false : t->etcd_down;
        return;
    }
    struct ready_q *q = new_zero(struct ready_q);
    q->f = t->f;
    IGNORE_ERR(str_put(q->uid, sizeof(q->uid), "%s", t->uid), "a UID has 36 characters");
    t->asking_etcd = true;
    kraw(t->client, "GET", "/readyz/etcd", NULL, SPAN_EMPTY, on_readyz, q);
}

const char *farm_etcd_state(struct tenant *t, bool up, const char **ret_reason) {
    ask(t, up);
    if (up) {
        *ret_reason = "Answering";
        return "";
    }
    *ret_reason = t->etcd_down ? "EtcdUnavailable" : "Unknown";
    return t->etcd_down ? "the API server cannot use the external etcd cluster; its log says why"
                        : "the API server is not ready: perhaps it runs not yet, or its etcd does "
                          "not answer";
}
