/* One connection: mbedTLS between a stream and its socket. */
#include "internal/tls/tls_int.h"

#include "internal/hash/hash.h"
#include "internal/pki/pki.h"

#include <mbedtls/error.h>

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>

enum { SAN_IP = 7 };

struct tls_filter {
    struct net_filter f;
    struct tls_state *state;
    mbedtls_ssl_context ssl;
    int fd, sys; /* errno of the last failed call */
    struct tls_half in, out;
    size_t held; /* bytes that mbedTLS has taken but not sent */
    char *sni;
    struct span ip; /* client: the address that the certificate must name */
    uint8_t ip_bytes[16];
    bool pin_seen, is_open;
    uint32_t flags; /* why verification failed */
    char *names;    /* of the peer, one behind the other */
    struct tls_peer peer;
};

static struct tls_filter *self(const struct net_filter *f) {
    return CONTAINER_OF((struct net_filter *)(uintptr_t)f, struct tls_filter, f);
}

/* ---- the socket below ---- */

static int bio_send(void *ctx, const unsigned char *p, size_t n) {
    struct tls_filter *t = ctx;
    ssize_t r = send(t->fd, p, n, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (r >= 0) {
        return (int)r;
    }
    t->sys = errno;
    return errno == EAGAIN || errno == EINTR ? MBEDTLS_ERR_SSL_WANT_WRITE
                                             : MBEDTLS_ERR_SSL_INTERNAL_ERROR;
}

static int bio_recv(void *ctx, unsigned char *p, size_t n) {
    struct tls_filter *t = ctx;
    ssize_t r = recv(t->fd, p, n, MSG_DONTWAIT);
    if (r >= 0) {
        return (int)r;
    }
    t->sys = errno;
    return errno == EAGAIN || errno == EINTR ? MBEDTLS_ERR_SSL_WANT_READ
                                             : MBEDTLS_ERR_SSL_INTERNAL_ERROR;
}

/* ---- trust ---- */

static bool names_ip(const mbedtls_x509_crt *c, struct span ip) {
    for (const mbedtls_x509_sequence *q = &c->subject_alt_names; q && q->buf.p; q = q->next) {
        if (((unsigned)q->buf.tag & MBEDTLS_ASN1_TAG_VALUE_MASK) == SAN_IP &&
            span_eq(span_of(q->buf.p, q->buf.len), ip)) {
            return true;
        }
    }
    return false;
}

/* Called from the top of the chain down to the leaf (depth 0), each link's signature having been checked. */
static int on_verify(void *ctx, mbedtls_x509_crt *c, int depth, uint32_t *flags) {
    struct tls_filter *t = ctx;
    const struct tls_state *s = t->state;
    if (s->is_server) {
        return 0; /* judged by read_peer */
    }
    if (t->ip.n && depth == 0 && !names_ip(c, t->ip)) {
        *flags |= MBEDTLS_X509_BADCERT_CN_MISMATCH;
    }
    if (s->pinned) {
        uint8_t digest[HASH_SHA256];
        hash_sha256(span_of(c->pk_raw.p, c->pk_raw.len), digest);
        bool match = ct_eq(digest, s->pin, sizeof(digest));
        t->pin_seen |= match;
        *flags &= ~(uint32_t)(MBEDTLS_X509_BADCERT_NOT_TRUSTED | MBEDTLS_X509_BADCERT_EXPIRED |
                              MBEDTLS_X509_BADCERT_FUTURE);
        if (depth == 0 && match) { /* this very key: its names do not matter */
            *flags &= ~(uint32_t)MBEDTLS_X509_BADCERT_CN_MISMATCH;
        }
        if (depth == 0 && !t->pin_seen) {
            *flags |= MBEDTLS_X509_BADCERT_NOT_TRUSTED;
        }
    }
    t->flags |= *flags;
    return s->pinned && depth == 0 && t->flags ? MBEDTLS_ERR_X509_FATAL_ERROR : 0;
}

static const char *why_bad(uint32_t flags) {
    return flags & MBEDTLS_X509_BADCERT_CN_MISMATCH   ? "is for another name"
           : flags & MBEDTLS_X509_BADCERT_EXPIRED     ? "has expired"
           : flags & MBEDTLS_X509_BADCERT_FUTURE      ? "is not valid yet (is the clock right?)"
           : flags & MBEDTLS_X509_BADCERT_NOT_TRUSTED ? "is not signed by a trusted CA"
           : flags & MBEDTLS_X509_BADCERT_MISSING     ? "is missing"
           : flags & (MBEDTLS_X509_BADCERT_KEY_USAGE | MBEDTLS_X509_BADCERT_EXT_KEY_USAGE)
               ? "is not meant for this use"
               : "is not acceptable";
}

/* ---- results ---- */

/* WANT_* become -ERR_AGAIN; anything else is an error with a text. */
static int judge(struct tls_filter *t, int m, uint32_t *want, const char *doing, struct err *e) {
    const char *who = t->state->is_server ? "client" : "server";
    if (m == MBEDTLS_ERR_SSL_WANT_READ || m == MBEDTLS_ERR_SSL_WANT_WRITE) {
        *want = m == MBEDTLS_ERR_SSL_WANT_READ ? LOOP_READ : LOOP_WRITE;
        return -ERR_AGAIN;
    }
    if (t->flags) {
        return err_set(e, ERR_UNAUTHENTICATED, "the %s's certificate %s", who, why_bad(t->flags));
    }
    if (m == MBEDTLS_ERR_SSL_INTERNAL_ERROR && t->sys) {
        return err_set(e, ERR_UNAVAILABLE, "%s: %s", doing, err_sys_name(t->sys));
    }
    if (m == MBEDTLS_ERR_SSL_CONN_EOF) {
        return err_set(e, ERR_UNAVAILABLE, "%s: the peer closed the connection", doing);
    }
    return tls_fail(e, m == MBEDTLS_ERR_SSL_FATAL_ALERT_MESSAGE ? ERR_UNAUTHENTICATED : ERR_IO, m,
                    doing);
}

/* A client's certificate is refused here, behind the handshake: in the middle of one of TLS 1.3, mbedTLS would send its
 * alert under keys that the client has left already, and people would read "bad record MAC". */
static int refuse(struct tls_filter *t, uint32_t flags, struct err *e) {
    unsigned char alert =
        flags & MBEDTLS_X509_BADCERT_EXPIRED       ? MBEDTLS_SSL_ALERT_MSG_CERT_EXPIRED
        : flags & MBEDTLS_X509_BADCERT_NOT_TRUSTED ? MBEDTLS_SSL_ALERT_MSG_UNKNOWN_CA
        : flags & MBEDTLS_X509_BADCERT_MISSING     ? MBEDTLS_SSL_ALERT_MSG_CERT_REQUIRED
                                                   : MBEDTLS_SSL_ALERT_MSG_BAD_CERT;
    t->is_open = false;
    t->flags = flags;
    IGNORE_ERR(mbedtls_ssl_send_alert_message(&t->ssl, MBEDTLS_SSL_ALERT_LEVEL_FATAL, alert),
               "the connection ends anyway");
    return judge(t, MBEDTLS_ERR_X509_CERT_VERIFY_FAILED, NULL, "TLS handshake", e);
}

/* In one piece of just the right size: there may be thousands of connections. */
static void copy_names(struct tls_filter *t, const struct pki_subject *s) {
    size_t n = strlen(s->cn) + 1;
    for (size_t i = 0; i < s->n_orgs; i++) {
        n += strlen(s->orgs[i]) + 1;
    }
    char *at = t->names = mem_zero_alloc(n);
    memcpy(at, s->cn, strlen(s->cn));
    t->peer.cn = at;
    t->peer.n_orgs = s->n_orgs < TLS_PEER_ORGS ? s->n_orgs : TLS_PEER_ORGS;
    for (size_t i = 0; i < t->peer.n_orgs; i++) {
        at += strlen(at) + 1;
        memcpy(at, s->orgs[i], strlen(s->orgs[i]));
        t->peer.orgs[i] = at;
    }
}

static int read_peer(struct tls_filter *t, struct err *e) {
    const mbedtls_x509_crt *c = mbedtls_ssl_get_peer_cert(&t->ssl);
    t->peer.sni = t->sni;
    t->peer.cn = "";
    if (!c && t->state->is_server && t->state->auth == TLS_CLIENT_REQUIRED) {
        return refuse(t, MBEDTLS_X509_BADCERT_MISSING, e);
    }
    if (!c || t->state->insecure) {
        return 0;
    }
    uint32_t bad = mbedtls_ssl_get_verify_result(&t->ssl);
    if (bad && t->state->is_server && t->state->auth == TLS_CLIENT_REQUEST) {
        t->peer.is_untrusted = true;
        return 0;
    }
    if (bad) {
        return refuse(t, bad, e);
    }
    if (!t->state->is_server) {
        return 0;
    }
    struct pki_info info;
    t->peer.cert_der = span_of(c->raw.p, c->raw.len);
    int rc = pki_cert_parse(t->peer.cert_der, &info, e);
    if (rc < 0) {
        return rc;
    }
    copy_names(t, &info.subject);
    pki_info_fini(&info);
    return 0;
}

static void park(struct tls_filter *t) {
    tls_park(t->state, &t->ssl, &t->in, &t->out);
}

static void unpark(struct tls_filter *t) {
    tls_unpark(t->state, &t->ssl, &t->in, &t->out);
}

static int f_handshake(struct net_filter *f, int fd, uint32_t *want, struct err *e) {
    struct tls_filter *t = self(f);
    t->fd = fd;
    int m = mbedtls_ssl_handshake(&t->ssl);
    if (m) {
        return judge(t, m, want, "TLS handshake", e);
    }
    t->is_open = true;
    int rc = read_peer(t, e);
    park(t);
    return rc;
}

static ssize_t f_read(struct net_filter *f, int fd, uint8_t *p, size_t n, uint32_t *want,
                      struct err *e) {
    struct tls_filter *t = self(f);
    int m;
    t->fd = fd;
    unpark(t);
    do {
        m = mbedtls_ssl_read(&t->ssl, p, n);
    } while (m == MBEDTLS_ERR_SSL_RECEIVED_NEW_SESSION_TICKET);
    park(t);
    if (m == MBEDTLS_ERR_SSL_PEER_CLOSE_NOTIFY || m == MBEDTLS_ERR_SSL_CONN_EOF) {
        return 0;
    }
    return m >= 0 ? m : judge(t, m, want, "receiving", e);
}

/* mbedTLS must be called again with the same bytes after WANT_WRITE, though it has copied them: so they count as written,
 * and the next calls only push out the record. */
static int f_flush(struct net_filter *f, int fd, uint32_t *want, struct err *e) {
    struct tls_filter *t = self(f);
    t->fd = fd;
    if (t->held) {
        unpark(t);
        int m = mbedtls_ssl_write(&t->ssl, (const unsigned char *)"", t->held);
        park(t);
        if (m < 0) {
            return judge(t, m, want, "sending", e);
        }
        t->held = 0;
    }
    return 0;
}

static ssize_t f_write(struct net_filter *f, int fd, const uint8_t *p, size_t n, uint32_t *want,
                       struct err *e) {
    struct tls_filter *t = self(f);
    t->fd = fd;
    int max = mbedtls_ssl_get_max_out_record_payload(&t->ssl);
    size_t part = max > 0 && n > (size_t)max ? (size_t)max : n;
    unpark(t);
    int m = mbedtls_ssl_write(&t->ssl, p, part);
    park(t);
    if (m == MBEDTLS_ERR_SSL_WANT_WRITE) {
        t->held = part;
        return (ssize_t)part;
    }
    return m >= 0 ? m : judge(t, m, want, "sending", e);
}

static bool f_held(const struct net_filter *f) {
    return self(f)->held > 0;
}

static bool f_readable(const struct net_filter *f) {
    return mbedtls_ssl_check_pending(&self(f)->ssl) != 0;
}

static void f_bye(struct net_filter *f, int fd) {
    struct tls_filter *t = self(f);
    t->fd = fd;
    if (t->is_open) {
        unpark(t);
        IGNORE_ERR(mbedtls_ssl_close_notify(&t->ssl), "the socket is closed next");
    }
}

static void f_free(struct net_filter *f) {
    struct tls_filter *t = self(f);
    unpark(
        t); /* mbedTLS wipes and frees its buffers by the size it thinks they have, which ours exceed */
    mbedtls_ssl_free(&t->ssl);
    free(t->names);
    tls_state_unref(t->state);
    free(t->sni);
    free(t);
}

static const struct net_filter_ops ops = {f_handshake, f_read,     f_write, f_flush,
                                          f_held,      f_readable, f_bye,   f_free};

/* The default certificate answers for every name that has none of its own. */
int tls_on_sni(void *ctx, mbedtls_ssl_context *ssl, const unsigned char *name, size_t n) {
    struct tls_filter *t = mbedtls_ssl_get_user_data_p(ssl);
    const struct tls_state *s = ctx;
    if (t && !t->sni && !memchr(name, 0, n)) {
        t->sni = str_dupn(name, n);
    }
    for (struct tls_pair *p = s->pairs; p; p = p->next) {
        if (p->sni && span_eq_nocase(span_of(name, n), p->sni)) {
            return mbedtls_ssl_set_hs_own_cert(ssl, &p->crt, &p->key);
        }
    }
    return 0;
}

static struct tls_filter *filter_new(struct tls_config *c, enum tls_alpn alpn) {
    struct tls_filter *t = new_zero(struct tls_filter);
    t->f.ops = &ops;
    t->state = tls_state_ref(tls_state_of(c));
    mbedtls_ssl_init(&t->ssl);
    CHECK(mbedtls_ssl_setup(&t->ssl, &t->state->conf[alpn]) == 0); /* fails only without memory */
    mbedtls_ssl_set_user_data_p(&t->ssl, t);
    mbedtls_ssl_set_verify(&t->ssl, on_verify, t);
    mbedtls_ssl_set_bio(&t->ssl, t, bio_send, bio_recv, NULL);
    return t;
}

struct net_filter *tls_filter_server(struct tls_config *c) {
    return &filter_new(c, TLS_ALPN_ANY)->f;
}

struct net_filter *tls_filter_client(struct tls_config *c, const char *name, enum tls_alpn alpn) {
    struct tls_filter *t = filter_new(c, alpn);
    if (inet_pton(AF_INET, name, t->ip_bytes) == 1) {
        t->ip = span_of(t->ip_bytes, 4);
    } else if (inet_pton(AF_INET6, name, t->ip_bytes) == 1) {
        t->ip = span_of(t->ip_bytes, 16);
    }
    /* An address is no server name (RFC 6066 §3); on_verify compares it instead. */
    CHECK(mbedtls_ssl_set_hostname(&t->ssl, t->ip.n ? NULL : name) == 0);
    return &t->f;
}

const struct tls_peer *tls_filter_peer(const struct net_filter *f) {
    return &self(f)->peer;
}

bool tls_filter_is_h2(const struct net_filter *f) {
    return str_eq(mbedtls_ssl_get_alpn_protocol(&self(f)->ssl), "h2");
}
