/* rand, clock and text codings: the small shared things that every package needs.
 *
 * Errors:   randomness never fails (getrandom blocks until seeded; failure aborts). Decoders: -ERR_INVALID, -ERR_LIMIT.
 * Threads:  any.
 * Time:     what the clocks say at the call: clock_ns is monotonic, clock_wall_ns is not.
 * Spec:     base64 RFC 4648 (std §4 padded, url §5 unpadded); times RFC 3339 in UTC with seconds or microseconds.
 */
#ifndef KF_RAND_H
#define KF_RAND_H

#include "internal/base/buf.h"

void rand_bytes(void *p, size_t n);
uint64_t rand_u64(void);
uint64_t rand_below(uint64_t n); /* uniform in [0, n) */
uint64_t rand_process_seed(void); /* the same for the life of the process; for hash tables only */
/* n characters of Kubernetes' generateName alphabet (bcdfghjklmnpqrstvwxz2456789), NUL-terminated. */
void rand_suffix(char *dst, size_t n);
/* RFC 4122 version 4 into 37 bytes. */
void rand_uuid(char dst[37]);

uint64_t clock_ns(void);      /* monotonic */
uint64_t clock_wall_ns(void); /* since 1970 */
#define NS_PER_MS 1000000ull
#define NS_PER_S 1000000000ull
enum { TIME_STR = 32 };
void time_rfc3339(uint64_t wall_s, char dst[TIME_STR]);           /* 2026-01-02T03:04:05Z */
void time_rfc3339_micro(uint64_t wall_ns, char dst[TIME_STR]);    /* …05.000000Z */
/* Accepts fractions and numeric zones. */
NODISCARD int time_parse(struct span s, uint64_t *ret_wall_ns);

int b64_encode(struct buf *b, struct span s);
int b64url_encode(struct buf *b, struct span s);
/* Accept padded or unpadded input of their alphabet; white space is refused. */
NODISCARD int b64_decode(struct buf *b, struct span s);
NODISCARD int b64url_decode(struct buf *b, struct span s);
int hex_encode(struct buf *b, struct span s); /* lower case */
NODISCARD int hex_decode(struct buf *b, struct span s);
/* Percent-decoding; plus_space turns '+' into ' ' (query components). */
NODISCARD int url_decode(struct buf *b, struct span s, bool plus_space);
int url_encode(struct buf *b, struct span s); /* all but unreserved */
/* FNV-1a 32-bit, the hash of Kubernetes' names for template hashes. */
uint32_t fnv32a(struct span s);

#endif
