#include "internal/pki/pki_int.h"

#include "internal/base/rand.h"
#include "internal/hash/hash.h"
#include "internal/pem/pem.h"

#include <mbedtls/ecp.h>
#include <mbedtls/error.h>
#include <mbedtls/rsa.h>

#include <stdlib.h>

int pki_rng(void *ctx, unsigned char *p, size_t n) {
    (void)ctx;
    rand_bytes(p, n);
    return 0;
}

int pki_fail(struct err *e, enum err_code c, int mbed, const char *what) {
    char text[96];
    mbedtls_strerror(mbed, text, sizeof(text));
    return err_set(e, c, "%s: %s", what, text);
}

int pki_first(struct span in, const char *const *labels, struct buf *der, struct err *e) {
    if (in.n > LIM_PKI_PEM) {
        return err_set(e, ERR_LIMIT, "PEM has %zu bytes, at most %d are read", in.n, LIM_PKI_PEM);
    }
    if (!pem_is(in)) {
        buf_span(der, in);
        return in.n ? buf_ok(der) : err_set(e, ERR_INVALID, "empty input, PEM expected");
    }
    for (;;) {
        struct span label;
        size_t start = der->n;
        int rc = pem_next(&in, &label, der);
        if (rc < 0) {
            return err_set(e, rc == -ERR_LIMIT ? ERR_LIMIT : ERR_INVALID,
                           rc == -ERR_NOT_FOUND ? "no %s in the PEM text"
                                                : "malformed PEM where %s is expected",
                           labels[0]);
        }
        for (const char *const *l = labels; *l; l++) {
            if (span_eq_str(label, *l)) {
                return 0;
            }
        }
        buf_trunc(der, start);
    }
}

bool pki_key_allowed(const mbedtls_pk_context *pk) {
    switch (mbedtls_pk_get_type(pk)) {
    case MBEDTLS_PK_RSA:
        return mbedtls_pk_get_bitlen(pk) >= 2048 && mbedtls_pk_get_bitlen(pk) <= 8192;
    case MBEDTLS_PK_ECKEY: {
        mbedtls_ecp_group_id g = mbedtls_ecp_keypair_get_group_id(mbedtls_pk_ec(*pk));
        return g == MBEDTLS_ECP_DP_SECP256R1 || g == MBEDTLS_ECP_DP_SECP384R1 ||
               g == MBEDTLS_ECP_DP_SECP521R1;
    }
    case MBEDTLS_PK_NONE:
    case MBEDTLS_PK_ECKEY_DH:
    case MBEDTLS_PK_ECDSA:
    case MBEDTLS_PK_RSA_ALT:
    case MBEDTLS_PK_RSASSA_PSS:
    case MBEDTLS_PK_OPAQUE:
    default: return false;
    }
}

int pki_key_new(enum pki_key_kind kind, struct pki_key **ret, struct err *e) {
    struct pki_key *k = new_zero(struct pki_key);
    mbedtls_pk_init(&k->pk);
    int rc;
    if (kind == PKI_EC_P256) {
        rc = mbedtls_pk_setup(&k->pk, mbedtls_pk_info_from_type(MBEDTLS_PK_ECKEY));
        rc =
            rc ? rc
               : mbedtls_ecp_gen_key(MBEDTLS_ECP_DP_SECP256R1, mbedtls_pk_ec(k->pk), pki_rng, NULL);
    } else {
        rc = mbedtls_pk_setup(&k->pk, mbedtls_pk_info_from_type(MBEDTLS_PK_RSA));
        rc = rc ? rc : mbedtls_rsa_gen_key(mbedtls_pk_rsa(k->pk), pki_rng, NULL, 2048, 65537);
    }
    if (rc) {
        pki_key_free(k);
        return pki_fail(e, ERR_INTERNAL, rc, "making a key");
    }
    *ret = k;
    return 0;
}

int pki_key_parse(struct span pem, struct pki_key **ret, struct err *e) {
    static const char *const labels[] = {"PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY", NULL};
    struct buf der = BUF_INIT(LIM_PKI_PEM);
    struct pki_key *k = new_zero(struct pki_key);
    mbedtls_pk_init(&k->pk);
    int rc = pki_first(pem, labels, &der, e);
    if (rc == 0) {
        int m = mbedtls_pk_parse_key(&k->pk, der.p, der.n, NULL, 0, pki_rng, NULL);
        if (m) {
            rc = pki_fail(e, ERR_INVALID, m, "private key");
        } else if (!pki_key_allowed(&k->pk)) {
            rc = err_set(e, ERR_INVALID, "private key: kind or size not supported");
        }
    }
    secret_wipe(der.p, der.n);
    buf_fini(&der);
    if (rc < 0) {
        pki_key_free(k);
        return rc;
    }
    *ret = k;
    return 0;
}

int pki_key_write(const struct pki_key *k, struct buf *pem, struct err *e) {
    uint8_t der[PKI_DER_KEY];
    int n = mbedtls_pk_write_key_der(&k->pk, der, sizeof(der)); /* at the end of the array */
    if (n < 0) {
        return pki_fail(e, ERR_INTERNAL, n, "writing a private key");
    }
    bool is_rsa = mbedtls_pk_get_type(&k->pk) == MBEDTLS_PK_RSA;
    int rc = pem_write(pem, is_rsa ? "RSA PRIVATE KEY" : "EC PRIVATE KEY",
                       span_of(der + sizeof(der) - (size_t)n, (size_t)n));
    secret_wipe(der, sizeof(der));
    return rc < 0 ? err_set(e, ERR_LIMIT, "private key does not fit its buffer") : 0;
}

int pki_spki(const mbedtls_pk_context *pk, struct buf *out, struct err *e) {
    uint8_t der[PKI_DER_KEY];
    int n = mbedtls_pk_write_pubkey_der(pk, der, sizeof(der));
    if (n < 0) {
        return pki_fail(e, ERR_INTERNAL, n, "writing a public key");
    }
    return buf_add(out, der + sizeof(der) - (size_t)n, (size_t)n) < 0
               ? err_set(e, ERR_LIMIT, "public key does not fit its buffer")
               : 0;
}

int pki_key_write_public(const struct pki_key *k, struct buf *pem, struct err *e) {
    AUTO(buf) struct buf der = BUF_INIT(PKI_DER_KEY);
    int rc = pki_spki(&k->pk, &der, e);
    if (rc == 0 && pem_write(pem, "PUBLIC KEY", buf_view(&der)) < 0) {
        rc = err_set(e, ERR_LIMIT, "public key does not fit its buffer");
    }
    return rc;
}

int pki_sign_raw(const struct pki_key *k, struct span msg, struct buf *sig, struct err *e) {
    uint8_t digest[32], out[PKI_SIG];
    size_t n = 0;
    /* mbedTLS takes a mutable key because RSA caches its blinding values in it. */
    mbedtls_pk_context pk = k->pk;
    hash_sha256(msg, digest);
    int m = mbedtls_pk_sign(&pk, MBEDTLS_MD_SHA256, digest, sizeof(digest), out, sizeof(out), &n,
                            pki_rng, NULL);
    if (m) {
        return pki_fail(e, ERR_INTERNAL, m, "signing");
    }
    return buf_add(sig, out, n) < 0 ? err_set(e, ERR_LIMIT, "signature does not fit") : 0;
}

void pki_key_free(struct pki_key *k) {
    if (k) {
        mbedtls_pk_free(&k->pk); /* wipes */
        free(k);
    }
}

void pki_keyp_fini(struct pki_key **k) {
    pki_key_free(*k);
}
