#include "internal/keyd/keyd.h"

#include "internal/base/rand.h"
#include "internal/ipc/ipc.h"
#include "internal/json/json.h"
#include "internal/keyclient/keyclient.h"
#include "internal/log/log.h"
#include "internal/pki/pki.h"
#include "internal/sys/sys.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LIM_PEM = 64 * 1024, LIM_CHANNELS = 4096 };
#define YEAR_S (365ull * 24 * 3600)
#define CA_TTL_S (10 * YEAR_S)

/* What each profile may say. cn NULL: from the request; a fixed cn cannot be asked differently. */
static const struct profile {
    const char *name, *cn, *org, *org2;
    unsigned usage;
    uint64_t max_ttl_s;
    bool sans, boot_ca, subject_from_csr;
} profiles[] = {
    {KEY_APISERVER, "kube-apiserver", NULL, NULL, PKI_SERVER, YEAR_S, true, false, false},
    {KEY_KUBELET_CLIENT, "kube-apiserver-kubelet-client", "system:masters", NULL, PKI_CLIENT,
     YEAR_S, false, false, false},
    {KEY_ADMIN, "kubernetes-admin", "system:masters", NULL, PKI_CLIENT, YEAR_S, false, false,
     false},
    {KEY_COMPONENT, NULL, NULL, NULL, PKI_CLIENT | PKI_SERVER, YEAR_S, true, false, false},
    {KEY_CSR, NULL, NULL, NULL, 0, YEAR_S, false, false, true},
    {KEY_BOOTSTRAP_NODE, NULL, "system:bootstrappers",
     "system:bootstrappers:kfarm:default-node-token", PKI_CLIENT, 600, false, false, false},
    {KEY_BOOT, "kfarm-boot", NULL, NULL, PKI_SERVER, YEAR_S, true, true, false},
};

struct scope {
    struct pki_key *ca_key, *sa_key, *boot_key;
    struct buf ca_pem, sa_pub_pem, boot_pem;
};

struct channel {
    struct list link;
    struct keyd *kd;
    struct ipc *ipc;
    struct json_doc *grant;
};

struct keyd {
    struct loop *l;
    int dir;
    struct map scopes; /* name → struct scope, loaded on first use */
    struct list channels;
    size_t n_channels;
    struct ipc *ctl;
};

static void scope_free(struct scope *s) {
    pki_key_free(s->ca_key);
    pki_key_free(s->sa_key);
    pki_key_free(s->boot_key);
    buf_fini(&s->ca_pem);
    buf_fini(&s->sa_pub_pem);
    buf_fini(&s->boot_pem);
    free(s);
}

static bool scope_name_ok(const char *s) {
    size_t n = s ? strlen(s) : 0;
    if (!n || n > 63) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        if (!((s[i] >= 'a' && s[i] <= 'z') || (s[i] >= '0' && s[i] <= '9') || s[i] == '-')) {
            return false;
        }
    }
    return true;
}

static int load_key(int dir, const char *name, struct pki_key **ret, struct err *e) {
    struct buf pem = BUF_INIT(LIM_PEM);
    int rc = sys_file_read(dir, name, &pem, e);
    if (rc == 0) {
        rc = pki_key_parse(buf_view(&pem), ret, e);
    }
    if (pem.p) {
        secret_wipe(pem.p, pem.cap);
    }
    buf_fini(&pem);
    return rc;
}

static int make_key(int dir, const char *name, struct pki_key **ret, struct err *e) {
    struct buf pem = BUF_INIT(LIM_PEM);
    struct pki_key *k = NULL;
    int rc = pki_key_new(PKI_EC_P256, &k, e);
    if (rc == 0 && (rc = pki_key_write(k, &pem, e)) == 0) {
        rc = sys_file_replace(dir, name, buf_view(&pem), 0600, e);
    }
    if (pem.p) {
        secret_wipe(pem.p, pem.cap);
    }
    buf_fini(&pem);
    if (rc < 0) {
        pki_key_free(k);
        return rc;
    }
    *ret = k;
    return 0;
}

/* A key with its self-signed certificate: the certificate is written last, so a crash in between makes both anew. */
static int need_ca(int dir, const char *key_name, const char *crt_name, const char *cn, bool create,
                   struct pki_key **key, struct buf *crt, struct err *e) {
    int rc = sys_file_read(dir, crt_name, crt, e);
    if (rc == 0) {
        return load_key(dir, key_name, key, e);
    }
    if (rc != -ERR_NOT_FOUND || !create) {
        return rc;
    }
    err_reset(e);
    if ((rc = make_key(dir, key_name, key, e)) < 0 ||
        (rc = pki_ca_new(*key, cn, clock_wall_ns() / NS_PER_S, CA_TTL_S, crt, e)) < 0) {
        return rc;
    }
    return sys_file_replace(dir, crt_name, buf_view(crt), 0600, e);
}

static int need_sa(int dir, bool create, struct scope *s, struct err *e) {
    int rc = load_key(dir, "sa.key", &s->sa_key, e);
    if (rc == -ERR_NOT_FOUND && create) {
        err_reset(e);
        rc = make_key(dir, "sa.key", &s->sa_key, e);
    }
    return rc < 0 ? rc : pki_key_write_public(s->sa_key, &s->sa_pub_pem, e);
}

static int scope_open(struct keyd *kd, const char *name, bool create, struct scope **ret,
                      struct err *e) {
    struct scope *s = map_get_str(&kd->scopes, name);
    if (s) {
        *ret = s;
        return 0;
    }
    if (!scope_name_ok(name)) {
        return err_set(e, ERR_INVALID, "bad scope name");
    }
    if (create) {
        IGNORE_ERR(mkdirat(kd->dir, name, 0700), "opening it tells");
    }
    AUTO_FD int dir = sys_open_beneath(kd->dir, name, O_RDONLY | O_DIRECTORY, 0, e);
    if (dir < 0) {
        return err_wrap(e, "key set %s", name);
    }
    s = new_zero(struct scope);
    buf_init(&s->ca_pem, LIM_PEM);
    buf_init(&s->sa_pub_pem, LIM_PEM);
    buf_init(&s->boot_pem, LIM_PEM);
    int rc = need_ca(dir, "ca.key", "ca.crt", "kubernetes", create, &s->ca_key, &s->ca_pem, e);
    if (rc == 0) {
        rc = need_sa(dir, create, s, e);
    }
    if (rc == 0 && str_eq(name, "admin")) {
        rc = need_ca(dir, "boot.key", "boot.crt", "kfarm-boot-ca", create, &s->boot_key,
                     &s->boot_pem, e);
    }
    if (rc < 0) {
        scope_free(s);
        return err_wrap(e, "key set %s", name);
    }
    map_put_str(&kd->scopes, name, s);
    *ret = s;
    return 0;
}

/* ---- grants ---- */

static bool listed(const struct json *arr, const char *s) {
    JSON_EACH(it, x, arr) {
        if (s && str_eq(json_str(x), s)) {
            return true;
        }
    }
    return false;
}

static int allowed_scope(const struct channel *c, const char *scope, struct err *e) {
    const char *own = json_str_at(json_root(c->grant), "scope");
    if (!scope || !own || (!str_eq(own, "*") && !str_eq(own, scope))) {
        return err_set(e, ERR_FORBIDDEN, "this channel may not use key set \"%s\"",
                       scope ? scope : "");
    }
    return 0;
}

static int allowed_flag(const struct channel *c, const char *flag, struct err *e) {
    return json_bool_at(json_root(c->grant), false, flag)
               ? 0
               : err_set(e, ERR_FORBIDDEN, "this channel has no right to \"%s\"", flag);
}

/* ---- requests ---- */

static int do_issue(struct channel *c, const struct json *q, struct json_doc *d, struct json *out,
                    struct err *e) {
    const struct json *g = json_root(c->grant);
    const char *name = json_str_at(q, "profile"), *cn = json_str_at(q, "cn");
    const struct profile *p = NULL;
    for (size_t i = 0; i < ARRAY_LEN(profiles); i++) {
        p = str_eq(profiles[i].name, name) ? &profiles[i] : p;
    }
    if (!p || !listed(json_get(g, "profiles"), name)) {
        return err_set(e, ERR_FORBIDDEN, "this channel may not use profile \"%s\"",
                       name ? name : "");
    }
    if (str_eq(name, KEY_COMPONENT) && !listed(json_get(g, "names"), cn)) {
        return err_set(e, ERR_FORBIDDEN, "this channel may not be certified as \"%s\"",
                       cn ? cn : "");
    }
    if (str_eq(name, KEY_BOOTSTRAP_NODE) &&
        (!cn || !span_starts(span_str(cn), "system:bootstrap:"))) {
        return err_set(e, ERR_INVALID, "a bootstrap name must start with system:bootstrap:");
    }
    struct scope *s;
    int rc = scope_open(c->kd, json_str_at(q, "scope"), false, &s, e);
    if (rc < 0) {
        return rc;
    }
    if (p->boot_ca && !s->boot_key) {
        return err_set(e, ERR_NOT_FOUND, "only the admin scope has a boot CA");
    }
    struct pki_subject subj = {.cn = p->cn ? p->cn : cn};
    if (p->org) {
        subj.orgs[subj.n_orgs++] = p->org;
        if (p->org2) {
            subj.orgs[subj.n_orgs++] = p->org2;
        }
    } else {
        JSON_EACH(it, x, json_get(q, "orgs")) {
            /* A component may not promote itself: only what its grant lists, names and groups alike. */
            if (!listed(json_get(g, "orgs"), json_str(x)) || subj.n_orgs == PKI_ORGS) {
                return err_set(e, ERR_FORBIDDEN, "group \"%s\" is not in the grant",
                               json_str_or(x, ""));
            }
            subj.orgs[subj.n_orgs++] = json_str(x);
        }
    }
    JSON_EACH(it2, x, p->sans ? json_get(q, "sans") : NULL) {
        if (!json_str(x) || subj.n_sans == PKI_SANS) {
            return err_set(e, ERR_INVALID, "bad list of subject alternative names");
        }
        subj.sans[subj.n_sans++] = json_str(x);
    }
    unsigned usage = p->usage;
    if (p->subject_from_csr) {
        usage = (json_bool_at(q, false, "server") ? PKI_SERVER : 0u) |
                (json_bool_at(q, false, "client") ? PKI_CLIENT : 0u);
    }
    uint64_t ttl = (uint64_t)json_i64_at(q, 0, "ttlSeconds");
    AUTO(buf) struct buf cert = BUF_INIT(LIM_PEM);
    const struct pki_sign_req sr = {
        .ca_key = p->boot_ca ? s->boot_key : s->ca_key,
        .ca_cert_pem = buf_view(p->boot_ca ? &s->boot_pem : &s->ca_pem),
        .csr_pem = json_span(json_get(q, "csr")),
        .subject = p->subject_from_csr ? NULL : &subj,
        .usage = usage,
        .now_s = clock_wall_ns() / NS_PER_S,
        .ttl_s = ttl && ttl < p->max_ttl_s ? ttl : p->max_ttl_s,
    };
    if ((rc = pki_sign(&sr, &cert, e)) < 0) {
        return rc;
    }
    json_set(d, out, "cert", json_new_span(d, buf_view(&cert)));
    json_set(d, out, "ca", json_new_span(d, sr.ca_cert_pem));
    return 0;
}

static int do_token(struct channel *c, const struct json *q, struct json_doc *d, struct json *out,
                    struct err *e) {
    struct scope *s;
    int rc = allowed_flag(c, "token", e);
    if (rc < 0 || (rc = scope_open(c->kd, json_str_at(q, "scope"), false, &s, e)) < 0) {
        return rc;
    }
    AUTO(buf) struct buf claims = BUF_INIT(LIM_PEM);
    AUTO(buf) struct buf token = BUF_INIT(LIM_PEM);
    if (!json_is_obj(json_get(q, "claims")) || json_write(json_get(q, "claims"), 0, &claims) < 0) {
        return err_set(e, ERR_INVALID, "claims must be an object of at most %d bytes", LIM_PEM);
    }
    if ((rc = pki_jws_sign(s->sa_key, buf_view(&claims), &token, e)) == 0) {
        json_set(d, out, "token", json_new_span(d, buf_view(&token)));
    }
    return rc;
}

static int do_bundle(struct channel *c, const struct json *q, struct json_doc *d, struct json *out,
                     struct err *e) {
    struct scope *s;
    int rc = scope_open(c->kd, json_str_at(q, "scope"), false, &s, e);
    if (rc < 0) {
        return rc;
    }
    json_set(d, out, "ca", json_new_span(d, buf_view(&s->ca_pem)));
    json_push(json_set_arr(d, out, "saPublicKeys"), json_new_span(d, buf_view(&s->sa_pub_pem)));
    if (s->boot_pem.n) {
        json_set(d, out, "bootCA", json_new_span(d, buf_view(&s->boot_pem)));
    }
    return 0;
}

static int do_manage(struct channel *c, enum keyd_msg type, const struct json *q, struct err *e) {
    const char *name = json_str_at(q, "scope");
    struct scope *s;
    int rc = allowed_flag(c, "manage", e);
    if (rc < 0) {
        return rc;
    }
    if (type == KEYD_CREATE) {
        return scope_open(c->kd, name, true, &s, e);
    }
    if (!scope_name_ok(name) || str_eq(name, "admin")) {
        return err_set(e, ERR_INVALID, "key set \"%s\" cannot be deleted", name ? name : "");
    }
    if ((s = map_del_str(&c->kd->scopes, name))) {
        scope_free(s);
    }
    return sys_rmtree(c->kd->dir, name, e);
}

static int dispatch(struct channel *c, const struct ipc_msg *m, struct json_doc *d,
                    struct json *out, struct err *e) {
    AUTO(json_docp) struct json_doc *in = NULL;
    int rc = json_parse(m->body, 0, &in, e);
    const struct json *q = json_root(in);
    if (rc < 0 || (rc = allowed_scope(c, json_str_at(q, "scope"), e)) < 0) {
        return rc;
    }
    switch (m->type) {
    case KEYD_ISSUE: return do_issue(c, q, d, out, e);
    case KEYD_TOKEN: return do_token(c, q, d, out, e);
    case KEYD_BUNDLE: return do_bundle(c, q, d, out, e);
    case KEYD_CREATE:
    case KEYD_DELETE: return do_manage(c, (enum keyd_msg)m->type, q, e);
    default: return err_set(e, ERR_UNSUPPORTED, "unknown request %u", (unsigned)m->type);
    }
}

static void channel_free(struct channel *c) {
    list_del(&c->link);
    c->kd->n_channels--;
    ipc_free(c->ipc);
    json_doc_free(c->grant);
    free(c);
}

static void on_request(struct ipc *ipc, struct ipc_msg *m, void *ctx) {
    struct channel *c = ctx;
    struct err e = ERR_INIT, send_err = ERR_INIT;
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *out = json_new_obj(d);
    int rc = dispatch(c, m, d, out, &e);
    if (rc < 0) {
        LOG_WARN("keyd", "request refused", F_U64("type", m->type), F_ERR(&e));
        rc = ipc_reply_err(ipc, m->id, &e, &send_err);
    } else {
        AUTO(buf) struct buf body = BUF_INIT(LIM_IPC_MSG);
        json_write(out, 0, &body);
        rc = ipc_reply(ipc, m->id, buf_view(&body), -1, &send_err);
    }
    if (rc < 0) {
        LOG_WARN("keyd", "answer not sent", F_ERR(&send_err));
    }
}

static void on_channel_close(struct ipc *ipc, void *ctx) {
    (void)ipc;
    channel_free(ctx);
}

static void on_grant(struct ipc *ipc, struct ipc_msg *m, void *ctx) {
    (void)ipc;
    struct keyd *kd = ctx;
    struct err e = ERR_INIT;
    AUTO(json_docp) struct json_doc *g = NULL;
    bool again = m->type == KEYD_GRANT_AGAIN;
    if ((m->type != KEYD_GRANT && !again) || m->fd < 0 || kd->n_channels == LIM_CHANNELS ||
        json_parse(m->body, 0, &g, &e) < 0) {
        LOG_ERROR("keyd", "bad grant", F_ERR(&e));
        return;
    }
    struct channel *c = new_zero(struct channel);
    const struct ipc_handler h = {on_request, on_channel_close, c};
    c->kd = kd;
    c->grant = TAKE(g);
    list_add_tail(&kd->channels, &c->link);
    kd->n_channels++;
    if ((again ? ipc_succeed : ipc_new)(kd->l, TAKE_FD(m->fd), &h, &c->ipc, &e) < 0) {
        LOG_ERROR("keyd", "channel not opened", F_ERR(&e));
        channel_free(c);
    }
}

static void on_ctl_close(struct ipc *ipc, void *ctx) {
    (void)ipc;
    struct keyd *kd = ctx;
    loop_stop(kd->l); /* the supervisor is gone */
}

int keyd_run(struct loop *l, int own_dir_fd, int own_ctl_fd, int own_ready_fd, struct err *e) {
    struct keyd kd = {.l = l, .dir = own_dir_fd, .scopes = MAP_INIT};
    const struct ipc_handler h = {on_grant, on_ctl_close, &kd};
    struct scope *admin;
    list_init(&kd.channels);
    int rc = scope_open(&kd, "admin", true, &admin, e);
    if (rc == 0 && (rc = ipc_new(l, own_ctl_fd, &h, &kd.ctl, e)) == 0) {
        if (own_ready_fd >= 0) {
            rc = sys_write_all(own_ready_fd, SPAN_LIT("\n"), e);
            sys_close(own_ready_fd);
        }
        rc = rc < 0 ? rc : loop_run(l, e);
        ipc_free(kd.ctl);
    }
    for (LIST_EACH(at, nxt, &kd.channels)) {
        channel_free(CONTAINER_OF(at, struct channel, link));
    }
    struct map_iter it = {0};
    for (struct map_entry *en; map_next(&kd.scopes, &it, &en);) {
        scope_free(en->value);
    }
    map_fini(&kd.scopes);
    sys_close(own_dir_fd);
    return rc;
}
