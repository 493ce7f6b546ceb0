/* pki — keys, certificate requests, certificates and JSON web tokens (mbedTLS X.509 underneath).
 *
 * What:     make keys and CSRs, make CAs, sign certificates by profile, read certificates, sign and verify JWS, hash.
 * Owns:     struct pki_key holds private material; pki_key_free wipes it. PEM of private keys goes into `struct buf`s that the
 *           caller wipes with secret_wipe.
 * Limits:   PEM 64 KiB; 64 SANs; CN and O 256 bytes.
 * Errors:   INVALID (malformed, mismatch), UNAUTHENTICATED (signature), LIMIT, INTERNAL.
 * Threads:  any, one object at a time.
 * Time:     passed in (now_s), as seconds of the wall clock.
 * Spec:     RFC 5280, RFC 2986, RFC 7515 (ES256, RS256 verify), RFC 7638; Kubernetes PKI layout of kubeadm.
 */
#ifndef KF_PKI_H
#define KF_PKI_H

#include "internal/base/buf.h"

struct pki_key;
enum pki_key_kind { PKI_EC_P256, PKI_RSA_2048 };

NODISCARD int pki_key_new(enum pki_key_kind kind, struct pki_key **ret, struct err *e);
NODISCARD int pki_key_parse(struct span pem, struct pki_key **ret, struct err *e); /* private, SEC1 or PKCS#8 */
NODISCARD int pki_key_write(const struct pki_key *k, struct buf *pem, struct err *e); /* "EC PRIVATE KEY" / "RSA PRIVATE KEY" */
NODISCARD int pki_key_write_public(const struct pki_key *k, struct buf *pem, struct err *e);
void pki_key_free(struct pki_key *k);
void pki_keyp_fini(struct pki_key **k);

enum pki_usage { PKI_CA = 1u << 0, PKI_SERVER = 1u << 1, PKI_CLIENT = 1u << 2 };
enum { PKI_SANS = 64, PKI_ORGS = 16 };
struct pki_subject {
    const char *cn;
    const char *orgs[PKI_ORGS];
    size_t n_orgs;
    const char *sans[PKI_SANS]; /* DNS names, or IP literals (recognised) */
    size_t n_sans;
};
NODISCARD int pki_csr_new(const struct pki_key *k, const struct pki_subject *s, struct buf *pem, struct err *e);

/* Self-signed CA. Times are wall seconds; not_before is set 5 minutes back for clock skew. */
NODISCARD int pki_ca_new(const struct pki_key *k, const char *cn, uint64_t now_s, uint64_t ttl_s, struct buf *cert_pem,
                         struct err *e);
/* Signs: the public key comes from a CSR (its signature is checked; subject taken from `s` when given, else from the CSR)
 * or from subject_key. */
struct pki_sign_req {
    const struct pki_key *ca_key;
    struct span ca_cert_pem;
    struct span csr_pem;               /* or */
    const struct pki_key *subject_key;
    const struct pki_subject *subject; /* NULL: the CSR's */
    unsigned usage;
    uint64_t now_s, ttl_s;
};
NODISCARD int pki_sign(const struct pki_sign_req *r, struct buf *cert_pem, struct err *e);

/* Parsed certificate or CSR; strings live in the object. */
struct pki_info {
    struct pki_subject subject;
    uint64_t not_before_s, not_after_s;
    bool is_ca;
    unsigned usage;         /* of the extended key usage */
    char serial[64];
    uint8_t spki_sha256[32];
    struct arena *arena_;
};
NODISCARD int pki_cert_parse(struct span pem_or_der, struct pki_info *ret, struct err *e); /* first certificate */
NODISCARD int pki_csr_parse(struct span pem_or_der, struct pki_info *ret, struct err *e);  /* checks the self-signature */
void pki_info_fini(struct pki_info *i);
/* Is leaf signed (directly) by one of the CAs in the bundle, and valid at now_s? */
NODISCARD int pki_verify(struct span leaf_pem, struct span ca_bundle_pem, uint64_t now_s, struct err *e);

/* JWS compact, ES256: header {"alg":"ES256","kid":…}; claims is the JSON payload. kid: base64url(SHA-256 of the DER SPKI). */
NODISCARD int pki_jws_sign(const struct pki_key *k, struct span claims, struct buf *ret_token, struct err *e);
/* Verifies against any of n public keys (PEM) by kid; the payload JSON is appended. ES256 and RS256. */
NODISCARD int pki_jws_verify(struct span token, const struct span *pub_pems, size_t n, struct buf *ret_claims, struct err *e);
/* JWK of a public key (RFC 7517) as a JSON object, for /openid/v1/jwks. */
NODISCARD int pki_jwk(struct span pub_pem, struct buf *ret_json, struct err *e);

#endif
