/* hash — SHA-256 and SHA-1, whole and incremental, and HMAC (mbedTLS underneath).
 *
 * What:     digests of bytes. SHA-1 only where a protocol names it (key identifiers, WebSocket).
 * Owns:     struct hash belongs to its maker until hash_end or hash_free.
 * Errors:   none.
 * Threads:  any, one object at a time; may run in a worker lane.
 * Spec:     FIPS 180-4, RFC 2104.
 */
#ifndef KF_HASH_H
#define KF_HASH_H

#include "internal/base/buf.h"

enum { HASH_SHA1 = 20, HASH_SHA256 = 32 };

void hash_sha256(struct span s, uint8_t out[HASH_SHA256]);
void hash_sha1(struct span s, uint8_t out[HASH_SHA1]);
void hash_hmac_sha256(struct span key, struct span msg, uint8_t out[HASH_SHA256]);

struct hash;
struct hash *hash_new(void); /* SHA-256 */
void hash_add(struct hash *h, struct span s);
void hash_end(struct hash *h, uint8_t out[HASH_SHA256]); /* frees it */
void hash_free(struct hash *h);

#endif
