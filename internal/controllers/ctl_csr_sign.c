/* Approved certificate requests become certificates: by keyd, or by a CA in memory where there is no keyd. */
#include "internal/controllers/ctl_csr_int.h"

enum { YEAR_S = 365 * 86400, MIN_TTL_S = 600 };

struct signctl {
    struct controllers *c;
    struct kinformer *csrs;
    struct kqueue *q;
    struct pki_key *ca_key; /* NULL with keyd */
};

struct signrun {
    struct signctl *ctl;
};

static const struct json *find(struct sync *s) {
    struct signrun *run = s->data;
    return kinformer_get(run->ctl->csrs, NULL, s->name);
}

static void fail(struct sync *s, const struct json *csr, const char *reason, const char *message) {
    struct signrun *run = s->data;
    char now[TIME_STR];
    struct json *copy = json_copy(s->d, csr);
    kube_condition_set(s->d, copy, "Failed", "True", reason, message, ctl_now(now));
    json_set_str(s->d, kube_condition(copy, "Failed"), "lastUpdateTime", now);
    struct kref r =
        ctl_ref("certificates.k8s.io", "v1", "certificatesigningrequests", csr, "status");
    sync_update(s, run->ctl->csrs, &r, copy, NULL);
}

static void write_cert(struct sync *s, struct span pem) {
    struct signrun *run = s->data;
    const struct json *csr = find(s);
    AUTO(buf) struct buf b64 = BUF_INIT(1 << 20);
    if (!csr || b64_encode(&b64, pem) < 0) {
        return;
    }
    struct json *copy = json_copy(s->d, csr);
    json_set_str(s->d, json_need_obj(s->d, copy, "status"), "certificate", buf_cstr(&b64));
    struct kref r =
        ctl_ref("certificates.k8s.io", "v1", "certificatesigningrequests", csr, "status");
    sync_update(s, run->ctl->csrs, &r, copy, NULL);
}

static void on_issued(void *ctx, int rc, struct key_identity *id, const struct err *e) {
    struct sync *s = ctx;
    if (rc == 0) {
        write_cert(s, buf_view(&id->cert_pem));
    } else {
        LOG_WARN("controllers", "keyd did not sign a certificate request, trying again later",
                 F_STR("csr", s->name), F_ERR(e));
        s->failed = true;
    }
    s->pending--;
    sync_end(s);
}

static bool wants(const struct json *csr, const char *usage) {
    JSON_EACH(it, u, json_at(csr, "spec", "usages")) {
        if (str_eq(json_str(u), usage)) {
            return true;
        }
    }
    return false;
}

static void sign(struct sync *s, struct signctl *ctl, const struct json *csr, struct span pem) {
    const struct controllers_opts *o = &ctl->c->o;
    uint64_t max = o->cert_ttl_s ? o->cert_ttl_s : YEAR_S;
    int64_t asked = json_i64_at(csr, 0, "spec", "expirationSeconds");
    uint64_t ttl = asked >= MIN_TTL_S && (uint64_t)asked < max ? (uint64_t)asked : max;
    bool server = wants(csr, "server auth"), client = wants(csr, "client auth");
    if (o->keyd) {
        struct key_req r = {.scope = o->keyd_scope,
                            .profile = KEY_CSR,
                            .csr_pem = pem,
                            .ttl_s = ttl,
                            .server_usage = server,
                            .client_usage = client};
        s->pending++;
        keyclient_issue(o->keyd, &r, on_issued, s);
        return;
    }
    AUTO(buf) struct buf cert = BUF_INIT(1 << 18);
    struct pki_sign_req r = {.ca_key = ctl->ca_key,
                             .ca_cert_pem = o->ca_cert_pem,
                             .csr_pem = pem,
                             .usage = (server ? PKI_SERVER : 0u) | (client ? PKI_CLIENT : 0u),
                             .now_s = ctl_now_s(),
                             .ttl_s = ttl};
    struct err e = ERR_INIT;
    if (pki_sign(&r, &cert, &e) < 0) {
        fail(s, csr, "SignerFailure", e.msg);
    } else {
        write_cert(s, buf_view(&cert));
    }
}

static bool is_our_signer(const char *name) {
    return str_eq(name, SIGNER_CLIENT) || str_eq(name, SIGNER_KUBELET_CLIENT) ||
           str_eq(name, SIGNER_KUBELET_SERVING) || str_eq(name, SIGNER_LEGACY);
}

static void handle(void *ctx, const char *key) {
    struct signctl *ctl = ctx;
    struct sync *s = sync_begin(ctl->c, ctl->q, key);
    struct signrun *run = s->data = new_zero(struct signrun);
    run->ctl = ctl;
    const struct json *csr = find(s);
    if (csr && csr_has(csr, "Approved") && !csr_has(csr, "Denied") && !csr_has(csr, "Failed") &&
        !*json_str_or(json_at(csr, "status", "certificate"), "") &&
        is_our_signer(json_str_or(json_at(csr, "spec", "signerName"), ""))) {
        AUTO(buf) struct buf pem = BUF_INIT(1 << 20);
        struct pki_info i;
        struct err e = ERR_INIT;
        if (csr_parse(csr, &pem, &i, &e) < 0) {
            fail(s, csr, "SignerValidationFailure", e.msg);
        } else {
            const char *why = csr_breaks_rules(csr, &i);
            if (why) {
                fail(s, csr, "SignerValidationFailure", why);
            } else {
                sign(s, ctl, csr, buf_view(&pem));
            }
            pki_info_fini(&i);
        }
    }
    sync_end(s);
}

static void on_csr(void *ctx, struct json *old, struct json *cur) {
    struct signctl *ctl = ctx;
    (void)old;
    if (cur && csr_has(cur, "Approved") &&
        !*json_str_or(json_at(cur, "status", "certificate"), "")) {
        kqueue_add_obj(ctl->q, cur);
    }
}

void ctl_start_csr_sign(struct controllers *c) {
    struct signctl *ctl = ctl_new(c, struct signctl);
    ctl->c = c;
    if (!c->o.keyd) {
        struct err e = ERR_INIT;
        if (!c->o.ca_key_pem.n || pki_key_parse(c->o.ca_key_pem, &ctl->ca_key, &e) < 0) {
            LOG_INFO("controllers", "no CA to sign with, certificate requests stay unsigned",
                     F_ERR(&e));
            return;
        }
    }
    ctl->csrs = csr_informer(c);
    ctl->q = ctl_queue(c, "csr-sign", 4, handle, ctl);
    kinformer_listen(ctl->csrs, on_csr, ctl);
    kqueue_need(ctl->q, ctl->csrs);
}
