/* Configurations: PEM texts kept by tls_config, and the mbedTLS objects made of them in a tls_state. Every change makes a
 * new state; connections hold the one they began with. */
#include "internal/tls/tls_int.h"

#include "internal/base/rand.h"
#include "internal/pem/pem.h"

#include <mbedtls/error.h>
#include <psa/crypto.h>

#include <stdlib.h>

enum { LIM_CERT_PEM = 64 * 1024, LIM_CA_PEM = 256 * 1024, TICKET_LIFE_S = 3600 };

struct pem_pair {
    struct pem_pair *next;
    char *sni;
    struct buf cert, key;
};

struct tls_config {
    unsigned refs;
    bool is_server;
    enum tls_client_auth auth;
    struct tls_client_opts client; /* pin and insecure only */
    uint8_t pin[32];
    struct pem_pair *pairs; /* the default first */
    struct buf ca;
    struct tls_state *state;
};

static int tls_rng(void *ctx, unsigned char *p, size_t n) {
    (void)ctx;
    rand_bytes(p, n);
    return 0;
}

int tls_fail(struct err *e, enum err_code c, int mbed, const char *what) {
    char text[96];
    mbedtls_strerror(mbed, text, sizeof(text));
    return err_set(e, c, "%s: %s", what, text);
}

/* ---- PEM ---- */

static struct pem_pair *pem_pair_new(const char *sni, struct span cert, struct span key) {
    struct pem_pair *p = new_zero(struct pem_pair);
    p->sni = sni ? str_dup(sni) : NULL;
    buf_init(&p->cert, LIM_CERT_PEM);
    buf_init(&p->key, LIM_CERT_PEM);
    buf_span(&p->cert, cert);
    buf_span(&p->key, key);
    return p;
}

static void pem_pair_free(struct pem_pair *p) {
    if (p) {
        free(p->sni);
        buf_fini(&p->cert);
        secret_wipe(p->key.p, p->key.n);
        buf_fini(&p->key);
        free(p);
    }
}

static int parse_certs(mbedtls_x509_crt *c, struct span pem, const char *what, struct err *e) {
    AUTO(buf) struct buf der = BUF_INIT(LIM_CERT_PEM);
    struct span label;
    int n = 0, rc;
    while ((rc = pem_next(&pem, &label, &der)) == 0) {
        if (span_eq_str(label, "CERTIFICATE")) {
            int m = mbedtls_x509_crt_parse_der(c, der.p, der.n);
            if (m) {
                return tls_fail(e, ERR_INVALID, m, what);
            }
            n++;
        }
        buf_reset(&der);
    }
    if (rc != -ERR_NOT_FOUND || !n) {
        return err_set(e, ERR_INVALID, "%s: %s", what,
                       n ? "malformed PEM" : "no certificate in PEM");
    }
    return 0;
}

static int parse_key(mbedtls_pk_context *k, struct span pem, struct err *e) {
    AUTO(buf) struct buf der = BUF_INIT(LIM_CERT_PEM);
    struct span label;
    int rc;
    while ((rc = pem_next(&pem, &label, &der)) == 0) {
        if (span_ends(label, "PRIVATE KEY")) {
            int m = mbedtls_pk_parse_key(k, der.p, der.n, NULL, 0, tls_rng, NULL);
            secret_wipe(der.p, der.n);
            return m ? tls_fail(e, ERR_INVALID, m, "private key") : 0;
        }
        buf_reset(&der);
    }
    return err_set(e, ERR_INVALID, "no private key in PEM");
}

static int parse_pair(struct tls_pair *p, const struct pem_pair *src, struct err *e) {
    if (buf_ok(&src->cert) < 0 || buf_ok(&src->key) < 0) {
        return err_set(e, ERR_LIMIT, "certificate or key larger than %d bytes", LIM_CERT_PEM);
    }
    int rc = parse_certs(&p->crt, buf_view(&src->cert), "certificate", e);
    rc = rc < 0 ? rc : parse_key(&p->key, buf_view(&src->key), e);
    if (rc == 0 && mbedtls_pk_check_pair(&p->crt.pk, &p->key, tls_rng, NULL) != 0) {
        rc = err_set(e, ERR_INVALID, "certificate and private key do not belong together");
    }
    return rc;
}

/* ---- states ---- */

struct tls_state *tls_state_ref(struct tls_state *s) {
    s->refs++;
    return s;
}

struct tls_state *tls_state_of(struct tls_config *c) {
    return c->state;
}

void tls_state_unref(struct tls_state *s) {
    if (!s || --s->refs) {
        return;
    }
    for (size_t i = 0; i < ARRAY_LEN(s->conf); i++) {
        mbedtls_ssl_config_free(&s->conf[i]);
    }
    while (s->pairs) {
        struct tls_pair *p = s->pairs;
        s->pairs = p->next;
        mbedtls_x509_crt_free(&p->crt);
        mbedtls_pk_free(&p->key);
        free(p->sni);
        free(p);
    }
    while (s->n_spare) {
        free(s->spare[--s->n_spare]);
    }
    mbedtls_x509_crt_free(&s->ca);
    mbedtls_ssl_ticket_free(&s->tickets);
    free(s);
}

/* Where the processor does AES, it costs less than ChaCha20, with which mbedTLS' own order begins. Servers follow the
 * client's. */
static const int aes_first[] = {MBEDTLS_TLS1_3_AES_128_GCM_SHA256,
                                MBEDTLS_TLS1_3_AES_256_GCM_SHA384,
                                MBEDTLS_TLS1_3_CHACHA20_POLY1305_SHA256,
                                MBEDTLS_TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
                                MBEDTLS_TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
                                MBEDTLS_TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
                                MBEDTLS_TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
                                MBEDTLS_TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
                                MBEDTLS_TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
                                0};

static bool has_aes(void) {
#ifdef __x86_64__
    return __builtin_cpu_supports("aes") && __builtin_cpu_supports("pclmul");
#else
    return false;
#endif
}

static int configure(struct tls_state *s, enum tls_alpn alpn, struct err *e) {
    static const char *const alpn_any[] = {"h2", "http/1.1", NULL};
    static const char *const alpn_h1[] = {"http/1.1", NULL};
    static const char *const alpn_h2[] = {"h2", NULL};
    static const char *const *const by_kind[] = {alpn_any, alpn_h1, alpn_h2};
    mbedtls_ssl_config *conf = &s->conf[alpn];
    int m = mbedtls_ssl_config_defaults(
        conf, s->is_server ? MBEDTLS_SSL_IS_SERVER : MBEDTLS_SSL_IS_CLIENT,
        MBEDTLS_SSL_TRANSPORT_STREAM, MBEDTLS_SSL_PRESET_DEFAULT);
    if (m) {
        return tls_fail(e, ERR_INTERNAL, m, "TLS defaults");
    }
    mbedtls_ssl_conf_rng(conf, tls_rng, NULL);
    if (!s->is_server && has_aes()) {
        mbedtls_ssl_conf_ciphersuites(conf, aes_first);
    }
    mbedtls_ssl_conf_min_tls_version(conf, MBEDTLS_SSL_VERSION_TLS1_2);
    IGNORE_ERR(mbedtls_ssl_conf_alpn_protocols(conf, (const char **)(uintptr_t)by_kind[alpn]),
               "constant names, which mbedTLS only reads");
    if (s->has_ca) {
        mbedtls_ssl_conf_ca_chain(conf, &s->ca, NULL);
    }
    if (s->pairs) {
        m = mbedtls_ssl_conf_own_cert(conf, &s->pairs->crt, &s->pairs->key);
    }
    if (!s->is_server) {
        /* "required" insists on a CA; with a pin alone the verify callback does the refusing */
        mbedtls_ssl_conf_authmode(conf, s->insecure ? MBEDTLS_SSL_VERIFY_NONE
                                        : s->pinned ? MBEDTLS_SSL_VERIFY_OPTIONAL
                                                    : MBEDTLS_SSL_VERIFY_REQUIRED);
        mbedtls_ssl_conf_session_tickets(conf, MBEDTLS_SSL_SESSION_TICKETS_DISABLED);
    } else {
        mbedtls_ssl_conf_authmode(conf, s->auth == TLS_CLIENT_NONE ? MBEDTLS_SSL_VERIFY_NONE
                                                                   : MBEDTLS_SSL_VERIFY_OPTIONAL);
        mbedtls_ssl_conf_sni(conf, tls_on_sni, s);
        if (s->has_tickets) {
            mbedtls_ssl_conf_session_tickets_cb(conf, mbedtls_ssl_ticket_write,
                                                mbedtls_ssl_ticket_parse, &s->tickets);
        } else {
            mbedtls_ssl_conf_session_tickets(conf, MBEDTLS_SSL_SESSION_TICKETS_DISABLED);
            mbedtls_ssl_conf_new_session_tickets(conf, 0);
        }
    }
    return m ? tls_fail(e, ERR_INVALID, m, "certificate") : 0;
}

static int build(const struct tls_config *c, struct tls_state *s, struct err *e) {
    struct tls_pair **at = &s->pairs;
    for (const struct pem_pair *src = c->pairs; src; src = src->next) {
        struct tls_pair *p = *at = new_zero(struct tls_pair);
        at = &p->next;
        p->sni = src->sni ? str_dup(src->sni) : NULL;
        mbedtls_x509_crt_init(&p->crt);
        mbedtls_pk_init(&p->key);
        int rc = parse_pair(p, src, e);
        if (rc < 0) {
            return rc;
        }
    }
    if (buf_ok(&c->ca) < 0) {
        return err_set(e, ERR_LIMIT, "CA bundle larger than %d bytes", LIM_CA_PEM);
    }
    if (c->ca.n) {
        int rc = parse_certs(&s->ca, buf_view(&c->ca), "CA bundle", e);
        if (rc < 0) {
            return rc;
        }
        s->has_ca = true;
    }
    /* A ticket of TLS 1.3 does not carry the client's certificate in mbedTLS: a resumed client would be nobody. */
    s->has_tickets = c->is_server && c->auth == TLS_CLIENT_NONE;
    if (s->has_tickets) {
        int m = mbedtls_ssl_ticket_setup(&s->tickets, tls_rng, NULL, MBEDTLS_CIPHER_AES_256_GCM,
                                         TICKET_LIFE_S);
        if (m) {
            return tls_fail(e, ERR_INTERNAL, m, "session tickets");
        }
    }
    int rc = configure(s, TLS_ALPN_ANY, e);
    if (!c->is_server) {
        rc = rc < 0 ? rc : configure(s, TLS_ALPN_H1, e);
        rc = rc < 0 ? rc : configure(s, TLS_ALPN_H2, e);
    }
    return rc;
}

/* Replaces the state by one made of the PEM texts as they are now; on failure the old stays. */
static int rebuild(struct tls_config *c, struct err *e) {
    if (psa_crypto_init() != PSA_SUCCESS) {
        return err_set(e, ERR_INTERNAL, "cryptography does not start");
    }
    struct tls_state *s = new_zero(struct tls_state);
    s->refs = 1;
    s->is_server = c->is_server;
    s->auth = c->auth;
    s->insecure = c->client.insecure;
    s->pinned = c->client.pin_sha256.n > 0;
    memcpy(s->pin, c->pin, sizeof(s->pin));
    mbedtls_x509_crt_init(&s->ca);
    mbedtls_ssl_ticket_init(&s->tickets);
    for (size_t i = 0; i < ARRAY_LEN(s->conf); i++) {
        mbedtls_ssl_config_init(&s->conf[i]);
    }
    int rc = build(c, s, e);
    if (rc < 0) {
        tls_state_unref(s);
        return rc;
    }
    tls_state_unref(c->state);
    c->state = s;
    return 0;
}

/* ---- the face ---- */

static struct tls_config *config_new(bool is_server, struct span ca) {
    struct tls_config *c = new_zero(struct tls_config);
    c->refs = 1;
    c->is_server = is_server;
    buf_init(&c->ca, LIM_CA_PEM);
    buf_span(&c->ca, ca);
    return c;
}

static int finish(struct tls_config *c, struct tls_config **ret, struct err *e) {
    int rc = rebuild(c, e);
    if (rc < 0) {
        tls_config_unref(c);
        return rc;
    }
    *ret = c;
    return 0;
}

int tls_server_config_new(struct tls_config **ret, struct span cert, struct span key,
                          struct span client_ca, enum tls_client_auth auth, struct err *e) {
    if (auth != TLS_CLIENT_NONE && !client_ca.n) {
        return err_set(e, ERR_INVALID, "client certificates need a CA to be checked against");
    }
    struct tls_config *c = config_new(true, client_ca);
    c->auth = auth;
    c->pairs = pem_pair_new(NULL, cert, key);
    return finish(c, ret, e);
}

int tls_client_config_new(struct tls_config **ret, const struct tls_client_opts *o, struct err *e) {
    if (o->pin_sha256.n && o->pin_sha256.n != 32) {
        return err_set(e, ERR_INVALID, "a pin is a SHA-256 of 32 bytes");
    }
    if (!o->ca_pem.n && !o->pin_sha256.n && !o->insecure) {
        return err_set(e, ERR_INVALID, "neither CA nor pin to trust the server by");
    }
    struct tls_config *c = config_new(false, o->ca_pem);
    c->client.insecure = o->insecure;
    if (o->pin_sha256.n) {
        memcpy(c->pin, o->pin_sha256.p, sizeof(c->pin));
        c->client.pin_sha256 = span_of(c->pin, sizeof(c->pin));
    }
    if (o->cert_pem.n) {
        c->pairs = pem_pair_new(NULL, o->cert_pem, o->key_pem);
    }
    return finish(c, ret, e);
}

int tls_config_set_cert(struct tls_config *c, struct span cert, struct span key, struct err *e) {
    struct pem_pair *old = c->pairs, *fresh = pem_pair_new(NULL, cert, key);
    fresh->next = old ? old->next : NULL;
    c->pairs = fresh;
    int rc = rebuild(c, e);
    if (rc < 0) {
        c->pairs = old;
        old = fresh;
    }
    pem_pair_free(old);
    return rc;
}

int tls_config_set_ca(struct tls_config *c, struct span ca, struct err *e) {
    struct buf old = c->ca;
    buf_init(&c->ca, LIM_CA_PEM);
    buf_span(&c->ca, ca);
    int rc = ca.n ? rebuild(c, e) : err_set(e, ERR_INVALID, "empty CA bundle");
    if (rc < 0) {
        struct buf fresh = c->ca;
        c->ca = old;
        old = fresh;
    }
    buf_fini(&old);
    return rc;
}

int tls_config_add_sni(struct tls_config *c, const char *name, struct span cert, struct span key,
                       struct err *e) {
    struct pem_pair **at = &c->pairs;
    while (*at && !((*at)->sni && str_eq((*at)->sni, name))) {
        at = &(*at)->next;
    }
    struct pem_pair *old = *at, *fresh = pem_pair_new(name, cert, key);
    fresh->next = old ? old->next : NULL;
    *at = fresh;
    int rc = rebuild(c, e);
    if (rc < 0) {
        *at = old;
        old = fresh;
    }
    pem_pair_free(old);
    return rc;
}

struct tls_config *tls_config_ref(struct tls_config *c) {
    c->refs++;
    return c;
}

void tls_config_unref(struct tls_config *c) {
    if (!c || --c->refs) {
        return;
    }
    while (c->pairs) {
        struct pem_pair *p = c->pairs;
        c->pairs = p->next;
        pem_pair_free(p);
    }
    buf_fini(&c->ca);
    tls_state_unref(c->state);
    free(c);
}
