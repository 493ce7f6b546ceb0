/* Writing: requests, CAs and certificates. The DER is written here rather than by mbedTLS' writers, which keep only one
 * value per name attribute and so would lose all but one O. */
#include "internal/pki/der_int.h"
#include "internal/pki/pki_int.h"

#include "internal/base/arena.h"
#include "internal/base/rand.h"
#include "internal/hash/hash.h"
#include "internal/pem/pem.h"

#include <mbedtls/x509_crt.h>

#include <arpa/inet.h>

enum { SKEW_S = 300, LIM_CERT = 32 * 1024 };

#define OID_ECDSA_SHA256 "\x2a\x86\x48\xce\x3d\x04\x03\x02"
#define OID_RSA_SHA256 "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b"
#define OID_EXTENSION_REQUEST "\x2a\x86\x48\x86\xf7\x0d\x01\x09\x0e"
#define OID_CN "\x55\x04\x03"
#define OID_O "\x55\x04\x0a"
#define OID_SKI "\x55\x1d\x0e"
#define OID_KEY_USAGE "\x55\x1d\x0f"
#define OID_SAN "\x55\x1d\x11"
#define OID_BASIC "\x55\x1d\x13"
#define OID_AKI "\x55\x1d\x23"
#define OID_EKU "\x55\x1d\x25"
#define OID_SERVER_AUTH "\x2b\x06\x01\x05\x05\x07\x03\x01"
#define OID_CLIENT_AUTH "\x2b\x06\x01\x05\x05\x07\x03\x02"

static void put_rdn(struct buf *b, struct span oid, const char *value) {
    size_t set = der_open(b, DER_SET), seq = der_open(b, DER_SEQ);
    der_put(b, DER_OID, oid);
    der_str(b, DER_UTF8, value);
    der_close(b, seq);
    der_close(b, set);
}

static int put_name(struct buf *b, const struct pki_subject *s, struct err *e) {
    size_t at = der_open(b, DER_SEQ);
    for (size_t i = 0; i < s->n_orgs; i++) {
        if (strlen(s->orgs[i]) > LIM_PKI_NAME) {
            return err_set(e, ERR_LIMIT, "organisation longer than %d bytes", LIM_PKI_NAME);
        }
        put_rdn(b, SPAN_LIT(OID_O), s->orgs[i]);
    }
    if (s->cn && *s->cn) {
        if (strlen(s->cn) > LIM_PKI_NAME) {
            return err_set(e, ERR_LIMIT, "common name longer than %d bytes", LIM_PKI_NAME);
        }
        put_rdn(b, SPAN_LIT(OID_CN), s->cn);
    }
    der_close(b, at);
    return 0;
}

static void put_sig_alg(struct buf *b, const struct pki_key *k) {
    size_t at = der_open(b, DER_SEQ);
    if (mbedtls_pk_get_type(&k->pk) == MBEDTLS_PK_RSA) {
        der_oid(b, OID_RSA_SHA256);
        buf_add(b, "\x05\x00", 2);
    } else {
        der_oid(b, OID_ECDSA_SHA256);
    }
    der_close(b, at);
}

/* SEQUENCE { tbs, algorithm, BIT STRING signature } as PEM. */
static int seal(const struct pki_key *k, const struct buf *tbs, const char *label, struct buf *pem,
                struct err *e) {
    AUTO(buf) struct buf out = BUF_INIT(LIM_CERT), sig = BUF_INIT(PKI_SIG);
    int rc = buf_ok(tbs);
    if (rc < 0) {
        return err_set(e, ERR_LIMIT, "%s larger than %d bytes", label, LIM_CERT);
    }
    rc = pki_sign_raw(k, buf_view(tbs), &sig, e);
    if (rc < 0) {
        return rc;
    }
    size_t at = der_open(&out, DER_SEQ);
    buf_span(&out, buf_view(tbs));
    put_sig_alg(&out, k);
    size_t bits = der_open(&out, DER_BITS);
    buf_u8(&out, 0);
    buf_span(&out, buf_view(&sig));
    der_close(&out, bits);
    der_close(&out, at);
    if (buf_ok(&out) < 0 || pem_write(pem, label, buf_view(&out)) < 0) {
        return err_set(e, ERR_LIMIT, "%s does not fit its buffer", label);
    }
    return 0;
}

/* ---- extensions ---- */

struct ext {
    size_t seq, octets;
};

static struct ext ext_open(struct buf *b, struct span oid, bool critical) {
    struct ext x;
    x.seq = der_open(b, DER_SEQ);
    der_put(b, DER_OID, oid);
    if (critical) {
        der_bool(b, true);
    }
    x.octets = der_open(b, DER_OCTETS);
    return x;
}

static void ext_close(struct buf *b, struct ext x) {
    der_close(b, x.octets);
    der_close(b, x.seq);
}

/* Critical when there is no subject to go by (RFC 5280 §4.2.1.6). */
static int put_sans(struct buf *b, const struct pki_subject *s, struct err *e) {
    if (!s->n_sans) {
        return 0;
    }
    struct ext x = ext_open(b, SPAN_LIT(OID_SAN), !(s->cn && *s->cn) && !s->n_orgs);
    size_t at = der_open(b, DER_SEQ);
    for (size_t i = 0; i < s->n_sans; i++) {
        uint8_t ip[16];
        struct span name = span_str(s->sans[i]);
        if (!name.n || name.n > LIM_PKI_NAME) {
            return err_set(e, ERR_INVALID, "subject alternative name is empty or too long");
        }
        if (inet_pton(AF_INET, s->sans[i], ip) == 1) {
            der_put(b, 0x87, span_of(ip, 4));
        } else if (inet_pton(AF_INET6, s->sans[i], ip) == 1) {
            der_put(b, 0x87, span_of(ip, 16));
        } else {
            der_put(b, 0x82, name);
        }
    }
    der_close(b, at);
    ext_close(b, x);
    return 0;
}

/* SHA-1 of the public key's bits: RFC 5280 §4.2.1.2 (1). */
static int key_id(struct span spki, uint8_t out[HASH_SHA1]) {
    struct span seq, alg, bits;
    if (der_take(&spki, DER_SEQ, &seq) < 0 || der_take(&seq, DER_SEQ, &alg) < 0 ||
        der_take(&seq, DER_BITS, &bits) < 0 || span_skip(&bits, 1) < 0) {
        return -ERR_INVALID;
    }
    hash_sha1(bits, out);
    return 0;
}

static void put_usage(struct buf *b, unsigned usage) {
    struct ext x = ext_open(b, SPAN_LIT(OID_KEY_USAGE), true);
    /* CA: digitalSignature, keyCertSign, cRLSign; leaf: digitalSignature, keyEncipherment (as kubeadm writes them) */
    der_put(b, DER_BITS, usage & PKI_CA ? SPAN_LIT("\x01\x86") : SPAN_LIT("\x05\xa0"));
    ext_close(b, x);
    if (usage & (PKI_SERVER | PKI_CLIENT)) {
        x = ext_open(b, SPAN_LIT(OID_EKU), false);
        size_t at = der_open(b, DER_SEQ);
        if (usage & PKI_SERVER) {
            der_oid(b, OID_SERVER_AUTH);
        }
        if (usage & PKI_CLIENT) {
            der_oid(b, OID_CLIENT_AUTH);
        }
        der_close(b, at);
        ext_close(b, x);
    }
    x = ext_open(b, SPAN_LIT(OID_BASIC), true);
    size_t at = der_open(b, DER_SEQ);
    if (usage & PKI_CA) {
        der_bool(b, true);
    }
    der_close(b, at);
    ext_close(b, x);
}

struct tbs {
    const struct pki_key *ca_key;
    const struct pki_subject *subject;
    struct span issuer_der; /* empty: the subject's own */
    struct span issuer_id;
    struct span spki;
    uint64_t not_before_s, not_after_s;
    unsigned usage;
};

static int put_extensions(struct buf *b, const struct tbs *t, struct err *e) {
    uint8_t id[HASH_SHA1];
    if (key_id(t->spki, id) < 0) {
        return err_set(e, ERR_INVALID, "malformed public key");
    }
    size_t ctx = der_open(b, 0xa3), seq = der_open(b, DER_SEQ);
    put_usage(b, t->usage);
    struct ext x = ext_open(b, SPAN_LIT(OID_SKI), false);
    der_put(b, DER_OCTETS, span_of(id, sizeof(id)));
    ext_close(b, x);
    x = ext_open(b, SPAN_LIT(OID_AKI), false);
    size_t aki = der_open(b, DER_SEQ);
    der_put(b, 0x80, t->issuer_id.n ? t->issuer_id : span_of(id, sizeof(id)));
    der_close(b, aki);
    ext_close(b, x);
    int rc = put_sans(b, t->subject, e);
    der_close(b, seq);
    der_close(b, ctx);
    return rc;
}

static int write_cert(const struct tbs *t, struct buf *pem, struct err *e) {
    AUTO(buf) struct buf b = BUF_INIT(LIM_CERT), name = BUF_INIT(LIM_CERT);
    uint8_t serial[16];
    rand_bytes(serial, sizeof(serial));
    serial[0] = (uint8_t)((serial[0] & 0x7f) | 0x40); /* positive, always 16 bytes */
    int rc = put_name(&name, t->subject, e);
    if (rc < 0) {
        return rc;
    }
    size_t at = der_open(&b, DER_SEQ), version = der_open(&b, 0xa0);
    der_uint(&b, SPAN_LIT("\x02")); /* v3 */
    der_close(&b, version);
    der_uint(&b, span_of(serial, sizeof(serial)));
    put_sig_alg(&b, t->ca_key);
    buf_span(&b, t->issuer_der.n ? t->issuer_der : buf_view(&name));
    size_t validity = der_open(&b, DER_SEQ);
    der_time(&b, t->not_before_s);
    der_time(&b, t->not_after_s);
    der_close(&b, validity);
    buf_span(&b, buf_view(&name));
    buf_span(&b, t->spki);
    rc = put_extensions(&b, t, e);
    if (rc < 0) {
        return rc;
    }
    der_close(&b, at);
    return seal(t->ca_key, &b, "CERTIFICATE", pem, e);
}

int pki_ca_new(const struct pki_key *k, const char *cn, uint64_t now_s, uint64_t ttl_s,
               struct buf *cert_pem, struct err *e) {
    AUTO(buf) struct buf spki = BUF_INIT(PKI_DER_KEY);
    struct pki_subject s = {.cn = cn};
    int rc = pki_spki(&k->pk, &spki, e);
    if (rc < 0) {
        return rc;
    }
    struct tbs t = {.ca_key = k,
                    .subject = &s,
                    .spki = buf_view(&spki),
                    .not_before_s = now_s > SKEW_S ? now_s - SKEW_S : 0,
                    .not_after_s = now_s + ttl_s,
                    .usage = PKI_CA};
    return write_cert(&t, cert_pem, e);
}

static uint64_t later(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

/* The leaf never outlives its CA. */
static int sign_with(const struct pki_sign_req *r, const struct pki_subject *s, struct span spki,
                     struct buf *cert_pem, struct err *e) {
    static const char *const labels[] = {"CERTIFICATE", NULL};
    AUTO(buf) struct buf der = BUF_INIT(LIM_PKI_PEM);
    struct pki_info info = {0};
    int rc = pki_first(r->ca_cert_pem, labels, &der, e);
    rc = rc < 0 ? rc : pki_cert_parse(buf_view(&der), &info, e);
    if (rc < 0) {
        return err_wrap(e, "CA");
    }
    mbedtls_x509_crt ca;
    mbedtls_x509_crt_init(&ca);
    int m = mbedtls_x509_crt_parse_der_nocopy(&ca, der.p, der.n);
    if (m) {
        rc = pki_fail(e, ERR_INVALID, m, "CA certificate");
        goto out;
    }
    if (!info.is_ca || mbedtls_pk_check_pair(&ca.pk, &r->ca_key->pk, pki_rng, NULL) != 0) {
        rc = err_set(e, ERR_INVALID, "the CA certificate is no CA or belongs to another key");
        goto out;
    }
    uint64_t end = r->now_s + r->ttl_s;
    struct tbs t = {
        .ca_key = r->ca_key,
        .subject = s,
        .issuer_der = span_of(ca.subject_raw.p, ca.subject_raw.len),
        .issuer_id = span_of(ca.subject_key_id.p, ca.subject_key_id.len),
        .spki = spki,
        .not_before_s = later(r->now_s > SKEW_S ? r->now_s - SKEW_S : 0, info.not_before_s),
        .not_after_s = end < info.not_after_s ? end : info.not_after_s,
        .usage = r->usage,
    };
    if (t.not_after_s <= r->now_s) {
        rc = err_set(e, ERR_INVALID, "the CA certificate has expired");
        goto out;
    }
    rc = write_cert(&t, cert_pem, e);
out:
    mbedtls_x509_crt_free(&ca);
    pki_info_fini(&info);
    return rc;
}

int pki_sign(const struct pki_sign_req *r, struct buf *cert_pem, struct err *e) {
    AUTO(buf) struct buf spki = BUF_INIT(PKI_DER_KEY);
    struct pki_info csr = {0};
    int rc;
    if (r->csr_pem.n) {
        rc = pki_csr_read(r->csr_pem, &csr, &spki, e);
    } else if (r->subject_key) {
        rc = pki_spki(&r->subject_key->pk, &spki, e);
    } else {
        rc = err_set(e, ERR_INVALID, "nothing to sign: neither request nor key");
    }
    if (rc < 0) {
        return rc;
    }
    const struct pki_subject *s = r->subject ? r->subject : r->csr_pem.n ? &csr.subject : NULL;
    rc = s ? sign_with(r, s, buf_view(&spki), cert_pem, e)
           : err_set(e, ERR_INVALID, "signing a key needs a subject");
    pki_info_fini(&csr);
    return rc;
}

int pki_csr_new(const struct pki_key *k, const struct pki_subject *s, struct buf *pem,
                struct err *e) {
    AUTO(buf) struct buf b = BUF_INIT(LIM_CERT);
    size_t at = der_open(&b, DER_SEQ);
    der_uint(&b, SPAN_LIT("\x00"));
    int rc = put_name(&b, s, e);
    rc = rc < 0 ? rc : pki_spki(&k->pk, &b, e);
    if (rc < 0) {
        return rc;
    }
    size_t attrs = der_open(&b, 0xa0);
    if (s->n_sans) {
        size_t attr = der_open(&b, DER_SEQ);
        der_oid(&b, OID_EXTENSION_REQUEST);
        size_t set = der_open(&b, DER_SET), seq = der_open(&b, DER_SEQ);
        rc = put_sans(&b, s, e);
        if (rc < 0) {
            return rc;
        }
        der_close(&b, seq);
        der_close(&b, set);
        der_close(&b, attr);
    }
    der_close(&b, attrs);
    der_close(&b, at);
    return seal(k, &b, "CERTIFICATE REQUEST", pem, e);
}
