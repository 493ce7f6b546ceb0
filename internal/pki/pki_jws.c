/* JSON web signatures and keys (RFC 7515, 7517, 7518 §3). */
#include "internal/pki/der_int.h"
#include "internal/pki/pki_int.h"

#include "internal/base/rand.h"
#include "internal/hash/hash.h"
#include "internal/json/json.h"

#include <mbedtls/rsa.h>

enum { P256 = 32, LIM_TOKEN = 64 * 1024 };

static int kid_of(struct span spki, struct buf *out) {
    uint8_t digest[HASH_SHA256];
    hash_sha256(spki, digest);
    return b64url_encode(out, span_of(digest, sizeof(digest)));
}

/* ECDSA signatures travel as DER in X.509 and as r||s, 32 bytes each, in JWS (RFC 7518 §3.4). */
static int der_to_raw(struct span der, uint8_t raw[2 * P256]) {
    struct span seq;
    if (der_take(&der, DER_SEQ, &seq) < 0) {
        return -ERR_INVALID;
    }
    memset(raw, 0, 2 * P256);
    for (size_t i = 0; i < 2; i++) {
        struct span v;
        if (der_take(&seq, DER_INT, &v) < 0) {
            return -ERR_INVALID;
        }
        while (v.n && v.p[0] == 0) {
            IGNORE_ERR(span_skip(&v, 1), "length checked");
        }
        if (v.n > P256) {
            return -ERR_INVALID;
        }
        memcpy(raw + (i + 1) * P256 - v.n, v.p, v.n);
    }
    return 0;
}

static void raw_to_der(struct span raw, struct buf *der) {
    size_t at = der_open(der, DER_SEQ);
    der_uint(der, span_of(raw.p, P256));
    der_uint(der, span_of(raw.p + P256, P256));
    der_close(der, at);
}

int pki_jws_sign(const struct pki_key *k, struct span claims, struct buf *ret_token,
                 struct err *e) {
    AUTO(buf)
    struct buf spki = BUF_INIT(PKI_DER_KEY), head = BUF_INIT(256), out = BUF_INIT(LIM_TOKEN);
    AUTO(buf) struct buf sig = BUF_INIT(PKI_SIG);
    bool is_rsa = mbedtls_pk_get_type(&k->pk) == MBEDTLS_PK_RSA;
    if (!is_rsa && mbedtls_pk_get_bitlen(&k->pk) != 256) {
        return err_set(e, ERR_INVALID, "tokens are signed with P-256 or RSA keys");
    }
    int rc = pki_spki(&k->pk, &spki, e);
    if (rc < 0) {
        return rc;
    }
    buf_fmt(&head, "{\"alg\":\"%s\",\"kid\":\"", is_rsa ? "RS256" : "ES256");
    kid_of(buf_view(&spki), &head);
    buf_str(&head, "\"}");
    b64url_encode(&out, buf_view(&head));
    buf_u8(&out, '.');
    b64url_encode(&out, claims);
    if (buf_ok(&out) < 0 || buf_ok(&head) < 0) {
        return err_set(e, ERR_LIMIT, "token larger than %d bytes", LIM_TOKEN);
    }
    rc = pki_sign_raw(k, buf_view(&out), &sig, e);
    if (rc < 0) {
        return rc;
    }
    buf_u8(&out, '.');
    if (is_rsa) {
        b64url_encode(&out, buf_view(&sig));
    } else {
        uint8_t raw[2 * P256];
        if (der_to_raw(buf_view(&sig), raw) < 0) {
            return err_set(e, ERR_INTERNAL, "signature does not parse");
        }
        b64url_encode(&out, span_of(raw, sizeof(raw)));
    }
    return buf_ok(&out) < 0 || buf_span(ret_token, buf_view(&out)) < 0
               ? err_set(e, ERR_LIMIT, "token does not fit its buffer")
               : 0;
}

/* A public key, and its SubjectPublicKeyInfo in DER. *pk is to be freed on failure too. */
static int read_public(struct span pub_pem, mbedtls_pk_context *pk, struct buf *spki,
                       struct err *e) {
    static const char *const labels[] = {"PUBLIC KEY", NULL};
    AUTO(buf) struct buf der = BUF_INIT(LIM_PKI_PEM);
    mbedtls_pk_init(pk);
    int rc = pki_first(pub_pem, labels, &der, e);
    if (rc < 0) {
        return rc;
    }
    int m = mbedtls_pk_parse_public_key(pk, der.p, der.n);
    return m ? pki_fail(e, ERR_INVALID, m, "public key") : pki_spki(pk, spki, e);
}

static int check_with(struct span pub_pem, struct span kid, bool es256, struct span signed_part,
                      struct span sig, struct err *e) {
    AUTO(buf) struct buf spki = BUF_INIT(PKI_DER_KEY), id = BUF_INIT(64);
    AUTO(buf) struct buf der_sig = BUF_INIT(PKI_SIG);
    uint8_t digest[HASH_SHA256];
    mbedtls_pk_context pk;
    int rc = read_public(pub_pem, &pk, &spki, e);
    if (rc < 0) {
        goto out;
    }
    kid_of(buf_view(&spki), &id);
    bool is_rsa = mbedtls_pk_get_type(&pk) == MBEDTLS_PK_RSA;
    rc = -ERR_NOT_FOUND; /* not this key */
    if ((kid.n && !span_eq(kid, buf_view(&id))) || is_rsa == es256 ||
        (es256 && (mbedtls_pk_get_bitlen(&pk) != 256 || sig.n != 2 * P256))) {
        goto out;
    }
    hash_sha256(signed_part, digest);
    if (es256) {
        raw_to_der(sig, &der_sig);
        sig = buf_view(&der_sig);
    }
    int m = mbedtls_pk_verify(&pk, MBEDTLS_MD_SHA256, digest, sizeof(digest), sig.p, sig.n);
    rc = m ? -ERR_NOT_FOUND : 0;
out:
    mbedtls_pk_free(&pk);
    return rc;
}

/* header.payload.signature; *ret_kid lives in *doc. */
static int read_head(struct span head64, struct json_doc **doc, bool *ret_es256,
                     struct span *ret_kid, struct err *e) {
    AUTO(buf) struct buf head = BUF_INIT(4096);
    struct err parse = ERR_INIT;
    if (b64url_decode(&head, head64) < 0 || json_parse(buf_view(&head), 0, doc, &parse) < 0) {
        return err_set(e, ERR_INVALID, "malformed token header");
    }
    const char *alg = json_str_at(json_root(*doc), "alg");
    if (!str_eq(alg, "ES256") && !str_eq(alg, "RS256")) {
        return err_set(e, ERR_INVALID, "token algorithm is neither ES256 nor RS256");
    }
    if (json_get(json_root(*doc), "crit")) {
        return err_set(e, ERR_INVALID, "token has critical extensions"); /* RFC 7515 §4.1.11 */
    }
    *ret_es256 = str_eq(alg, "ES256");
    *ret_kid = json_span(json_get(json_root(*doc), "kid"));
    return 0;
}

int pki_jws_verify(struct span token, const struct span *pub_pems, size_t n, struct buf *ret_claims,
                   struct err *e) {
    struct span rest = token, head, claims;
    AUTO(json_docp) struct json_doc *doc = NULL;
    AUTO(buf) struct buf sig = BUF_INIT(PKI_SIG);
    bool es256 = false;
    struct span kid = SPAN_EMPTY;
    if (token.n > LIM_TOKEN) {
        return err_set(e, ERR_LIMIT, "token larger than %d bytes", LIM_TOKEN);
    }
    if (span_until(&rest, '.', &head) < 0 || span_until(&rest, '.', &claims) < 0 ||
        span_index(rest, '.') >= 0 || b64url_decode(&sig, rest) < 0) {
        return err_set(e, ERR_INVALID, "malformed token");
    }
    int rc = read_head(head, &doc, &es256, &kid, e);
    if (rc < 0) {
        return rc;
    }
    for (size_t i = 0; i < n; i++) {
        rc = check_with(pub_pems[i], kid, es256, span_of(token.p, head.n + 1 + claims.n),
                        buf_view(&sig), e);
        if (rc == 0) {
            size_t at = ret_claims->n;
            if (b64url_decode(ret_claims, claims) < 0) {
                buf_trunc(ret_claims, at);
                return err_set(e, ERR_INVALID, "malformed token payload");
            }
            return 0;
        }
        if (rc != -ERR_NOT_FOUND) {
            return rc;
        }
    }
    return err_set(e, ERR_UNAUTHENTICATED, "token is not signed by a known key");
}

int pki_jwk(struct span pub_pem, struct buf *ret_json, struct err *e) {
    AUTO(buf) struct buf spki = BUF_INIT(PKI_DER_KEY);
    mbedtls_pk_context pk;
    int rc = read_public(pub_pem, &pk, &spki, e);
    if (rc < 0) {
        goto out;
    }
    bool is_rsa = mbedtls_pk_get_type(&pk) == MBEDTLS_PK_RSA;
    if (!is_rsa && mbedtls_pk_get_bitlen(&pk) != 256) {
        rc = err_set(e, ERR_INVALID, "public key is neither RSA nor P-256");
        goto out;
    }
    buf_fmt(ret_json, "{\"use\":\"sig\",\"kty\":\"%s\",\"kid\":\"", is_rsa ? "RSA" : "EC");
    kid_of(buf_view(&spki), ret_json);
    buf_fmt(ret_json, is_rsa ? "\",\"alg\":\"RS256\",\"n\":\""
                             : "\",\"crv\":\"P-256\",\"alg\":\"ES256\",\"x\":\"");
    if (is_rsa) {
        uint8_t mod[1024], exp[4] = {0};
        size_t len = mbedtls_pk_get_len(&pk);
        struct span ex = span_of(exp, sizeof(exp));
        if (len > sizeof(mod) || mbedtls_rsa_export_raw(mbedtls_pk_rsa(pk), mod, len, NULL, 0, NULL,
                                                        0, NULL, 0, exp, sizeof(exp))) {
            rc = err_set(e, ERR_INVALID, "RSA key too large");
            goto out;
        }
        while (ex.n > 1 && ex.p[0] == 0) {
            IGNORE_ERR(span_skip(&ex, 1), "length checked");
        }
        b64url_encode(ret_json, span_of(mod, len));
        buf_str(ret_json, "\",\"e\":\"");
        b64url_encode(ret_json, ex);
    } else { /* the SPKI ends with the uncompressed point 04 || x || y */
        const uint8_t *point = spki.p + spki.n - 2 * P256;
        b64url_encode(ret_json, span_of(point, P256));
        buf_str(ret_json, "\",\"y\":\"");
        b64url_encode(ret_json, span_of(point + P256, P256));
    }
    rc = buf_str(ret_json, "\"}") < 0 ? err_set(e, ERR_LIMIT, "JWK does not fit its buffer") : 0;
out:
    mbedtls_pk_free(&pk);
    return rc;
}
