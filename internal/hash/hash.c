#include "internal/hash/hash.h"

#include "internal/base/rand.h"

#include <mbedtls/md.h>
#include <mbedtls/sha1.h>
#include <mbedtls/sha256.h>

#include <stdlib.h>

struct hash {
    mbedtls_sha256_context c;
};

void hash_sha256(struct span s, uint8_t out[HASH_SHA256]) {
    CHECK(mbedtls_sha256(s.p, s.n, out, 0) == 0);
}

void hash_sha1(struct span s, uint8_t out[HASH_SHA1]) {
    CHECK(mbedtls_sha1(s.p, s.n, out) == 0);
}

void hash_hmac_sha256(struct span key, struct span msg, uint8_t out[HASH_SHA256]) {
    const mbedtls_md_info_t *md = mbedtls_md_info_from_type(MBEDTLS_MD_SHA256);
    CHECK(mbedtls_md_hmac(md, key.p, key.n, msg.p, msg.n, out) == 0);
}

struct hash *hash_new(void) {
    struct hash *h = new_zero(struct hash);
    mbedtls_sha256_init(&h->c);
    CHECK(mbedtls_sha256_starts(&h->c, 0) == 0);
    return h;
}

void hash_add(struct hash *h, struct span s) {
    CHECK(mbedtls_sha256_update(&h->c, s.p, s.n) == 0);
}

void hash_end(struct hash *h, uint8_t out[HASH_SHA256]) {
    CHECK(mbedtls_sha256_finish(&h->c, out) == 0);
    hash_free(h);
}

void hash_free(struct hash *h) {
    if (h) {
        mbedtls_sha256_free(&h->c);
        free(h);
    }
}

/* The entropy source that scripts/deps/mbedtls_config.h asks for; mbedTLS keeps its prototype private. */
int mbedtls_hardware_poll(void *ctx, unsigned char *out, size_t n, size_t *ret_n);
int mbedtls_hardware_poll(void *ctx, unsigned char *out, size_t n, size_t *ret_n) {
    (void)ctx;
    rand_bytes(out, n);
    *ret_n = n;
    return 0;
}
