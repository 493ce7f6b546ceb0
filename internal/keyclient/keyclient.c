#include "internal/keyclient/keyclient.h"

#include "internal/pki/pki.h"

#include <stdlib.h>

enum { LIM_PEM = 256 * 1024 };

struct keyclient {
    struct ipc *ch;
};

static void closed(struct ipc *c, void *ctx) {
    (void)c;
    (void)ctx; /* later calls fail with UNAVAILABLE; the supervisor restarts who needs it */
}
static void unexpected(struct ipc *c, struct ipc_msg *m, void *ctx) {
    (void)c;
    (void)m;
    (void)ctx; /* keyd never speaks first */
}

int keyclient_new(struct loop *l, int own_fd, struct keyclient **ret, struct err *e) {
    struct keyclient *k = new_zero(struct keyclient);
    const struct ipc_handler h = {unexpected, closed, k};
    int rc = ipc_new(l, own_fd, &h, &k->ch, e);
    if (rc < 0) {
        free(k);
        return rc;
    }
    *ret = k;
    return 0;
}

void keyclient_free(struct keyclient *k) {
    if (k) {
        ipc_free(k->ch);
        free(k);
    }
}

void key_identity_init(struct key_identity *i) {
    buf_init(&i->cert_pem, LIM_PEM);
    buf_init(&i->key_pem, LIM_PEM);
    buf_init(&i->ca_pem, LIM_PEM);
}

void key_identity_fini(struct key_identity *i) {
    if (i->key_pem.p) {
        secret_wipe(i->key_pem.p, i->key_pem.cap);
    }
    buf_fini(&i->cert_pem);
    buf_fini(&i->key_pem);
    buf_fini(&i->ca_pem);
}

static void put_list(struct json_doc *d, struct json *o, const char *key, const char *const *v,
                     size_t n) {
    struct json *a = json_set_arr(d, o, key);
    for (size_t i = 0; i < n; i++) {
        json_push_str(d, a, v[i]);
    }
}

/* Makes the key and CSR when the request has none; the request's JSON goes to *ret_body. */
static int issue_request(const struct key_req *r, struct key_identity *id, struct buf *ret_body,
                         struct err *e) {
    AUTO(buf) struct buf csr = BUF_INIT(LIM_PEM);
    if (!r->csr_pem.n) {
        AUTO(pki_keyp) struct pki_key *key = NULL;
        const struct pki_subject s = {.cn = r->cn ? r->cn : "kfarm"};
        int rc = pki_key_new(PKI_EC_P256, &key, e);
        if (rc < 0 || (rc = pki_key_write(key, &id->key_pem, e)) < 0 ||
            (rc = pki_csr_new(key, &s, &csr, e)) < 0) {
            return rc;
        }
    } else {
        buf_span(&csr, r->csr_pem);
    }
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *o = json_new_obj(d);
    json_set_str(d, o, "scope", r->scope);
    json_set_str(d, o, "profile", r->profile);
    json_set_str(d, o, "cn", r->cn);
    put_list(d, o, "orgs", r->orgs, r->n_orgs);
    put_list(d, o, "sans", r->sans, r->n_sans);
    json_set_str(d, o, "csr", buf_cstr(&csr));
    json_set_i64(d, o, "ttlSeconds", (int64_t)r->ttl_s);
    json_set_bool(d, o, "server", r->server_usage);
    json_set_bool(d, o, "client", r->client_usage);
    return json_write(o, 0, ret_body);
}

static int issue_reply(struct span body, struct key_identity *id, struct err *e) {
    AUTO(json_docp) struct json_doc *d = NULL;
    int rc = json_parse(body, 0, &d, e);
    if (rc < 0) {
        return rc;
    }
    buf_span(&id->cert_pem, json_span(json_get(json_root(d), "cert")));
    buf_span(&id->ca_pem, json_span(json_get(json_root(d), "ca")));
    return id->cert_pem.n ? 0 : err_set(e, ERR_INTERNAL, "keyd sent no certificate");
}

struct pending {
    key_identity_cb *id_cb;
    key_json_cb *json_cb;
    void *ctx;
    struct key_identity id;
    struct err early;
    struct loop_hook hook;
};

static void finish(struct pending *p, int rc, struct json *reply, const struct err *e) {
    if (p->id_cb) {
        p->id_cb(p->ctx, rc, rc < 0 ? NULL : &p->id, e);
    } else {
        p->json_cb(p->ctx, rc, reply, e);
    }
    key_identity_fini(&p->id);
    free(p);
}

static void replied(void *ctx, int rc, struct ipc_msg *m, const struct err *e) {
    struct pending *p = ctx;
    struct err mine = ERR_INIT;
    AUTO(json_docp) struct json_doc *d = NULL;
    if (rc >= 0) {
        rc = p->id_cb ? issue_reply(m->body, &p->id, &mine) : json_parse(m->body, 0, &d, &mine);
        e = &mine;
    }
    finish(p, rc, json_root(d), e);
}

static void fail_later(void *ctx) {
    struct pending *p = ctx;
    finish(p, -(int)p->early.code, NULL, &p->early);
}

static void send_call(struct keyclient *k, struct loop *l, struct pending *p, enum keyd_msg type,
                      struct buf *body) {
    int rc = buf_ok(body);
    if (rc < 0 && !p->early.code) {
        rc = err_set(&p->early, ERR_LIMIT, "request to keyd is too large");
    }
    if (p->early.code ||
        (rc = ipc_call(k->ch, (uint16_t)type, buf_view(body), -1, replied, p, &p->early)) < 0) {
        loop_before_sleep(l, &p->hook, fail_later,
                          p); /* never call back before the starting call returned */
    }
}

static struct pending *pending_new(key_identity_cb *id_cb, key_json_cb *json_cb, void *ctx) {
    struct pending *p = new_zero(struct pending);
    key_identity_init(&p->id);
    p->id_cb = id_cb;
    p->json_cb = json_cb;
    p->ctx = ctx;
    return p;
}

void keyclient_issue(struct keyclient *k, const struct key_req *r, key_identity_cb *done,
                     void *ctx) {
    struct pending *p = pending_new(done, NULL, ctx);
    AUTO(buf) struct buf body = BUF_INIT(LIM_IPC_MSG);
    if (issue_request(r, &p->id, &body, &p->early) < 0 && !p->early.code) {
        err_set(&p->early, ERR_LIMIT, "certificate request is too large");
    }
    send_call(k, ipc_loop(k->ch), p, KEYD_ISSUE, &body);
}

static void simple(struct keyclient *k, enum keyd_msg type, const char *scope,
                   const struct json *claims, key_json_cb *done, void *ctx) {
    struct pending *p = pending_new(NULL, done, ctx);
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *o = json_new_obj(d);
    json_set_str(d, o, "scope", scope);
    if (claims) {
        json_set(d, o, "claims", json_copy(d, claims));
    }
    AUTO(buf) struct buf body = BUF_INIT(LIM_IPC_MSG);
    json_write(o, 0, &body);
    send_call(k, ipc_loop(k->ch), p, type, &body);
}

void keyclient_token(struct keyclient *k, const char *scope, const struct json *claims,
                     key_json_cb *done, void *ctx) {
    simple(k, KEYD_TOKEN, scope, claims, done, ctx);
}
void keyclient_bundle(struct keyclient *k, const char *scope, key_json_cb *done, void *ctx) {
    simple(k, KEYD_BUNDLE, scope, NULL, done, ctx);
}
void keyclient_create(struct keyclient *k, const char *scope, key_json_cb *done, void *ctx) {
    simple(k, KEYD_CREATE, scope, NULL, done, ctx);
}
void keyclient_delete(struct keyclient *k, const char *scope, key_json_cb *done, void *ctx) {
    simple(k, KEYD_DELETE, scope, NULL, done, ctx);
}

int key_call_sync(int fd, enum keyd_msg type, const struct json *req, struct json_doc **ret,
                  struct err *e) {
    AUTO(buf) struct buf body = BUF_INIT(LIM_IPC_MSG);
    AUTO(buf) struct buf reply = BUF_INIT(LIM_IPC_MSG);
    int rc = json_write(req, 0, &body);
    if (rc < 0) {
        return err_set(e, ERR_LIMIT, "request to keyd is too large");
    }
    rc = ipc_call_sync(fd, (uint16_t)type, buf_view(&body), -1, &reply, NULL, e);
    return rc < 0 ? rc : json_parse(buf_view(&reply), 0, ret, e);
}

int key_issue_sync(int fd, const struct key_req *r, struct key_identity *ret, struct err *e) {
    AUTO(buf) struct buf body = BUF_INIT(LIM_IPC_MSG);
    AUTO(buf) struct buf reply = BUF_INIT(LIM_IPC_MSG);
    int rc = issue_request(r, ret, &body, e);
    if (rc < 0) {
        return e && !e->code ? err_set(e, ERR_LIMIT, "certificate request is too large") : rc;
    }
    rc = ipc_call_sync(fd, KEYD_ISSUE, buf_view(&body), -1, &reply, NULL, e);
    return rc < 0 ? rc : issue_reply(buf_view(&reply), ret, e);
}

int key_bundle_sync(int fd, const char *scope, struct json_doc **ret, struct err *e) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *o = json_new_obj(d);
    json_set_str(d, o, "scope", scope);
    return key_call_sync(fd, KEYD_BUNDLE, o, ret, e);
}
