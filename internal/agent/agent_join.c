/* Joining a tenant. The key of the node is made here and never leaves; what the boot server gives is a certificate for
 * ten minutes with which exactly one thing can be asked for: the certificate of this node.
 *
 *   ticket + CSR ─▶ /v1/join ─▶ bootstrap certificate ─▶ CertificateSigningRequest (client) ─▶ node certificate
 *                                     node certificate ─▶ CertificateSigningRequest (serving) ─▶ kubelet's server
 *   each is renewed at half its life with a new key; the boot server has no part in that.
 */
#include "internal/agent/agent_int.h"
#include "internal/base/rand.h"
#include "internal/kclient/kclient.h"
#include "internal/pki/pki.h"
#include "internal/sys/sys.h"

#include <stdlib.h>

enum {
    LIM_PEM = 65536,
    TICKET_RETRY_S = 3,
    TICKET_TRIES = 60,
    CSR_WAIT_S = 60,
    RETRY_S = 10,
    RETRY_MAX_S = 300
};

enum purpose { FOR_CLIENT, FOR_SERVING, PURPOSES };
static const struct {
    const char *what, *signer, *cert_file, *key_file, *usage;
} purposes[PURPOSES] = {
    {"client", "kubernetes.io/kube-apiserver-client-kubelet", "client.crt", "client.key",
     "client auth"},
    {"serving", "kubernetes.io/kubelet-serving", "serving.crt", "serving.key", "server auth"},
};

/* One certificate being asked for. */
struct request {
    struct agent_join *j;
    enum purpose purpose;
    struct pki_key *key;
    char name[128]; /* of the CertificateSigningRequest */
    struct kinformer *watch;
    struct loop_timer timer; /* retry, renewal, or the end of patience */
    unsigned failures;
    bool done_once;
};

struct agent_join {
    struct agent_join_opts o;
    struct arena mem;
    const char *node, *server, *server_name, *dir;
    struct buf ca, boot_key,
        boot_csr; /* one bootstrap key for all tries: a ticket admits no second one */
    struct kclient *client;
    struct tls_config *tls;
    struct request requests[PURPOSES];
    struct loop_timer ticket_timer;
    unsigned ticket_tries;
    bool has_identity;
};

static void request_start(struct request *r);

static void drop_key(struct request *r) {
    pki_key_free(r->key);
    r->key = NULL;
}

static int save(struct agent_join *j, const char *file, struct span s, struct err *e) {
    char path[256];
    if (str_put(path, sizeof(path), "%s/%s", j->dir, file) < 0) {
        return err_set(e, ERR_LIMIT, "path too long");
    }
    return sys_file_replace(AT_FDCWD, path, s, 0600, e);
}

/* ---- certificate requests ---- */

static void on_retry(struct loop_timer *t) {
    request_start(CONTAINER_OF(t, struct request, timer));
}

static void request_failed(struct request *r, const struct err *e) {
    uint64_t wait = (uint64_t)RETRY_S << (r->failures < 5 ? r->failures : 5);
    wait = wait > RETRY_MAX_S ? RETRY_MAX_S : wait;
    wait = r->failures == 0 ? 1 : wait;
    r->failures++;
    agent_say("%s certificate: %s; again in %llu s", purposes[r->purpose].what, e->msg,
              (unsigned long long)wait);
    if (r->failures > 8 && !r->j->has_identity) {
        r->j->o.on_refused(r->j->o.ctx, e);
        return;
    }
    kinformer_stop(r->watch);
    r->watch = NULL;
    drop_key(r);
    loop_timer_start(r->j->o.l, &r->timer, wait * NS_PER_S, on_retry, "certificate retry");
}

static int identity_client(struct agent_join *j, struct span cert, struct span key, struct err *e) {
    struct tls_config *tls = NULL;
    struct kclient *c = NULL;
    const struct tls_client_opts to = {
        .ca_pem = buf_view(&j->ca), .cert_pem = cert, .key_pem = key};
    if (tls_client_config_new(&tls, &to, e) < 0) {
        return -(int)e->code;
    }
    const struct kclient_opts ko = {
        .server = j->server, .sni = j->server_name, .tls = tls, .user_agent = "kfarm-agent"};
    if (kclient_new(j->o.l, &ko, &c, e) < 0) {
        tls_config_unref(tls);
        return -(int)e->code;
    }
    kclient_free(j->client);
    tls_config_unref(j->tls);
    j->client = c;
    j->tls = tls;
    return 0;
}

static void renew_later(struct request *r, struct span cert) {
    struct pki_info info;
    struct err e = ERR_INIT;
    uint64_t now = clock_wall_ns() / NS_PER_S, wait = 3600;
    if (pki_cert_parse(cert, &info, &e) == 0) {
        uint64_t half = info.not_before_s + (info.not_after_s - info.not_before_s) / 2;
        wait = half > now + 60 ? half - now : 60;
        pki_info_fini(&info);
    }
    loop_timer_start(r->j->o.l, &r->timer, wait * NS_PER_S, on_retry, "certificate renewal");
}

static int request_finish(struct request *r, struct span cert, struct err *e) {
    struct agent_join *j = r->j;
    AUTO(buf) struct buf key = BUF_INIT(LIM_PEM);
    int rc = pki_key_write(r->key, &key, e);
    rc = rc < 0 ? rc : save(j, purposes[r->purpose].key_file, buf_view(&key), e);
    rc = rc < 0 ? rc : save(j, purposes[r->purpose].cert_file, cert, e);
    if (rc == 0 && r->purpose == FOR_CLIENT) {
        rc = identity_client(j, cert, buf_view(&key), e);
    }
    secret_wipe(key.p, key.n);
    return rc;
}

/* The informer that called us must not be stopped from inside its callback: the certificate is taken from the object,
 * everything else happens on the next turn of the loop. */
struct arrival {
    struct loop_timer t;
    struct request *r;
    struct buf cert;
    char *denied;
};

static void on_arrival(struct loop_timer *t) {
    struct arrival *a = CONTAINER_OF(t, struct arrival, t);
    struct request *r = a->r;
    struct err e = ERR_INIT;
    kinformer_stop(r->watch);
    r->watch = NULL;
    loop_timer_stop(&r->timer);
    if (a->denied) {
        err_set(&e, ERR_FORBIDDEN, "%s was denied: %s", r->name, a->denied);
        request_failed(r, &e);
    } else if (request_finish(r, buf_view(&a->cert), &e) < 0) {
        request_failed(r, &e);
    } else {
        bool is_first = r->purpose == FOR_CLIENT && !r->j->has_identity;
        agent_say("%s certificate: signed", purposes[r->purpose].what);
        drop_key(r);
        r->failures = 0;
        r->done_once = true;
        renew_later(r, buf_view(&a->cert));
        r->j->has_identity = r->j->has_identity || r->purpose == FOR_CLIENT;
        r->j->o.on_identity(r->j->o.ctx, is_first);
        if (is_first) {
            request_start(&r->j->requests[FOR_SERVING]);
        }
    }
    buf_fini(&a->cert);
    free(a->denied);
    free(a);
}

static void on_csr(void *ctx, struct json *old, struct json *cur) {
    struct request *r = ctx;
    const char *b64 = json_str_at(cur, "status", "certificate"), *denied = NULL;
    (void)old;
    JSON_EACH(it, c, json_at(cur, "status", "conditions")) {
        const char *type = json_str_or(json_get(c, "type"), "");
        if (str_eq(type, "Denied") || str_eq(type, "Failed")) {
            denied = json_str_or(json_get(c, "message"), type);
        }
    }
    if ((!b64 && !denied) || !r->key || r->name[0] == 0) {
        return;
    }
    struct arrival *a = new_zero(struct arrival);
    a->r = r;
    buf_init(&a->cert, LIM_PEM);
    if (denied) {
        a->denied = str_dup(denied);
    } else if (b64_decode(&a->cert, span_str(b64)) < 0) {
        a->denied = str_dup("the certificate is not base64");
    }
    r->name[0] = 0; /* later changes of the object are of no interest */
    loop_timer_start(r->j->o.l, &a->t, 0, on_arrival, "certificate");
}

static void on_csr_deadline(struct loop_timer *t) {
    struct request *r = CONTAINER_OF(t, struct request, timer);
    struct err e = ERR_INIT;
    err_set(&e, ERR_TIMEOUT, "not signed in time");
    request_failed(r, &e);
}

static void on_created(void *ctx, int rc, struct json *obj, const struct err *e) {
    struct request *r = ctx;
    const char *name = json_str_at(obj, "metadata", "name");
    char selector[192];
    struct err bad = ERR_INIT;
    if (rc < 0 || !name || str_put(r->name, sizeof(r->name), "%s", name) < 0 ||
        str_put(selector, sizeof(selector), "metadata.name=%s", name) < 0) {
        if (rc == 0) {
            err_set(&bad, ERR_INVALID, "the API server's answer has no name");
        }
        request_failed(r, rc < 0 ? e : &bad);
        return;
    }
    const struct kinformer_opts io = {.ref = {.group = "certificates.k8s.io",
                                              .version = "v1",
                                              .resource = "certificatesigningrequests"},
                                      .field_selector = selector,
                                      .on_change = on_csr,
                                      .ctx = r};
    r->watch = kinformer_start(r->j->client, &io);
    loop_timer_start(r->j->o.l, &r->timer, CSR_WAIT_S * NS_PER_S, on_csr_deadline,
                     "certificate wait");
}

static int make_csr(struct request *r, struct buf *pem, struct err *e) {
    struct agent_join *j = r->j;
    struct pki_subject s = {.orgs = {"system:nodes"}, .n_orgs = 1};
    char cn[300];
    if (str_put(cn, sizeof(cn), "system:node:%s", j->node) < 0) {
        return err_set(e, ERR_LIMIT, "node name too long");
    }
    s.cn = cn;
    if (r->purpose == FOR_SERVING) {
        s.sans[s.n_sans++] = j->node;
        s.sans[s.n_sans++] = j->o.node_ip;
    }
    drop_key(r);
    int rc = pki_key_new(PKI_EC_P256, &r->key, e);
    return rc < 0 ? rc : pki_csr_new(r->key, &s, pem, e);
}

static void request_start(struct request *r) {
    AUTO(buf) struct buf pem = BUF_INIT(LIM_PEM), b64 = BUF_INIT(2 * LIM_PEM);
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct err e = ERR_INIT;
    if (make_csr(r, &pem, &e) < 0) {
        request_failed(r, &e);
        return;
    }
    b64_encode(&b64, buf_view(&pem));
    struct json *o = json_new_obj(d), *spec, *usages;
    json_set_str(d, o, "apiVersion", "certificates.k8s.io/v1");
    json_set_str(d, o, "kind", "CertificateSigningRequest");
    json_set_str(d, json_set_obj(d, o, "metadata"), "generateName",
                 r->purpose == FOR_SERVING ? "node-serving-" : "node-client-");
    spec = json_set_obj(d, o, "spec");
    json_set_str(d, spec, "signerName", purposes[r->purpose].signer);
    json_set_str(d, spec, "request", buf_cstr(&b64));
    usages = json_set_arr(d, spec, "usages");
    json_push_str(d, usages, "digital signature");
    json_push_str(d, usages, purposes[r->purpose].usage);
    const struct kref ref = {
        .group = "certificates.k8s.io", .version = "v1", .resource = "certificatesigningrequests"};
    kcreate(r->j->client, &ref, o, on_created, r);
}

/* ---- the ticket ---- */

static void ticket_send(struct agent_join *j);
static void on_ticket_retry(struct loop_timer *t) {
    ticket_send(CONTAINER_OF(t, struct agent_join, ticket_timer));
}

static int bootstrap_key(struct agent_join *j, struct buf *key_pem, struct buf *csr_pem,
                         struct err *e) {
    AUTO(pki_keyp) struct pki_key *k = NULL;
    char cn[300];
    struct pki_subject s = {
        .orgs = {"system:bootstrappers", "system:bootstrappers:kfarm:default-node-token"},
        .n_orgs = 2};
    if (str_put(cn, sizeof(cn), "system:bootstrap:%s", j->node) < 0) {
        return err_set(e, ERR_LIMIT, "node name too long");
    }
    s.cn = cn;
    int rc = pki_key_new(PKI_EC_P256, &k, e);
    rc = rc < 0 ? rc : pki_key_write(k, key_pem, e);
    return rc < 0 ? rc : pki_csr_new(k, &s, csr_pem, e);
}

/* Runs before the node does anything else on this loop, so that one blocking exchange delays nobody. */
static void ticket_send(struct agent_join *j) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    AUTO(json_docp) struct json_doc *answer = NULL;
    struct err e = ERR_INIT;
    struct json *o = json_new_obj(d);
    int rc = j->boot_key.n ? 0 : bootstrap_key(j, &j->boot_key, &j->boot_csr, &e);
    if (rc == 0) {
        json_set_str(d, o, "ticket", json_str_at(j->o.doc, "ticket"));
        json_set_str(d, o, "csr", buf_cstr(&j->boot_csr));
        rc = agent_post(j->o.boot_url, j->o.pin, "/v1/join", o, &answer, &e);
    }
    if (rc < 0) {
        bool is_final =
            e.code == ERR_FORBIDDEN || e.code == ERR_INVALID || ++j->ticket_tries >= TICKET_TRIES;
        agent_say("join: %s", e.msg);
        if (is_final) {
            j->o.on_refused(j->o.ctx, &e);
        } else {
            loop_timer_start(j->o.l, &j->ticket_timer, TICKET_RETRY_S * NS_PER_S, on_ticket_retry,
                             "join retry");
        }
        return;
    }
    const char *cert = json_str_at(json_root(answer), "cert");
    if (!cert || identity_client(j, span_str(cert), buf_view(&j->boot_key), &e) < 0) {
        if (!cert) {
            err_set(&e, ERR_INVALID, "the boot server's answer has no certificate");
        }
        j->o.on_refused(j->o.ctx, &e);
    } else {
        agent_say("join: admitted to %s", j->server);
        request_start(&j->requests[FOR_CLIENT]);
    }
    secret_wipe(j->boot_key.p, j->boot_key.n);
    buf_reset(&j->boot_key);
}

int agent_join_start(const struct agent_join_opts *o, struct agent_join **ret, struct err *e) {
    struct agent_join *j = new_zero(struct agent_join);
    const struct json *tenant = json_get(o->doc, "tenant");
    j->o = *o;
    j->dir = o->dir;
    buf_init(&j->ca, 4 * LIM_PEM);
    buf_init(&j->boot_key, LIM_PEM);
    buf_init(&j->boot_csr, LIM_PEM);
    j->node = json_str_at(o->doc, "hostname");
    j->server = json_str_at(tenant, "server");
    j->server_name = json_str_at(tenant, "serverName");
    const char *ca = json_str_at(tenant, "caData");
    for (size_t i = 0; i < PURPOSES; i++) {
        j->requests[i].j = j;
        j->requests[i].purpose = (enum purpose)i;
    }
    if (!j->node || !j->server || !ca || !json_str_at(o->doc, "ticket")) {
        free(j);
        return err_set(e, ERR_INVALID,
                       "the boot document lacks hostname, ticket, tenant.server or tenant.caData");
    }
    /* caData as in a kubeconfig is base64; PEM itself is taken as well. */
    int rc = span_starts(span_str(ca), "-----BEGIN") ? buf_str(&j->ca, ca)
                                                     : b64_decode(&j->ca, span_str(ca));
    if (rc < 0) {
        rc = err_set(e, ERR_INVALID, "tenant.caData is neither base64 nor PEM");
    }
    rc = rc < 0 ? rc : sys_mkdirs(j->dir, 0700, e);
    rc = rc < 0 ? rc : save(j, "ca.crt", buf_view(&j->ca), e);
    if (rc < 0) {
        buf_fini(&j->ca);
        free(j);
        return rc;
    }
    loop_timer_start(o->l, &j->ticket_timer, 0, on_ticket_retry, "join");
    *ret = j;
    return 0;
}
