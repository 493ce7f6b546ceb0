/* Private to pki: what its files share. */
#ifndef KF_PKI_INT_H
#define KF_PKI_INT_H

#include "internal/pki/pki.h"

#include <mbedtls/pk.h>

enum { LIM_PKI_PEM = 64 * 1024, LIM_PKI_NAME = 256, PKI_DER_KEY = 4096, PKI_SIG = 1024 };

struct pki_key {
    mbedtls_pk_context pk;
};

int pki_rng(void *ctx, unsigned char *p, size_t n);
/* -ERR_c with mbedTLS' own words behind the text. */
int pki_fail(struct err *e, enum err_code c, int mbed, const char *what);
/* SubjectPublicKeyInfo DER of any pk context, appended. */
NODISCARD int pki_spki(const mbedtls_pk_context *pk, struct buf *der, struct err *e);
/* Only key kinds that we want to meet: RSA from 2048 bits, P-256, P-384, P-521. */
bool pki_key_allowed(const mbedtls_pk_context *pk);
/* The first PEM block with one of the labels (NULL-terminated list), or the input itself when it is DER. */
NODISCARD int pki_first(struct span pem_or_der, const char *const *labels, struct buf *der, struct err *e);
/* Signature over the SHA-256 of `msg`, DER-encoded for EC, PKCS #1 v1.5 for RSA. */
NODISCARD int pki_sign_raw(const struct pki_key *k, struct span msg, struct buf *sig, struct err *e);
/* pki_csr_parse that also gives the request's SubjectPublicKeyInfo. */
NODISCARD int pki_csr_read(struct span in, struct pki_info *ret, struct buf *ret_spki, struct err *e);

#endif
