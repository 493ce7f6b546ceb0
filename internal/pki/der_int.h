/* Private to pki: writing DER forwards into a buf (lengths are inserted when an element is closed). */
#ifndef KF_DER_INT_H
#define KF_DER_INT_H

#include "internal/base/buf.h"

enum {
    DER_BOOL = 0x01,
    DER_INT = 0x02,
    DER_BITS = 0x03,
    DER_OCTETS = 0x04,
    DER_OID = 0x06,
    DER_UTF8 = 0x0c,
    DER_SEQ = 0x30,
    DER_SET = 0x31,
    DER_UTCTIME = 0x17,
    DER_GENTIME = 0x18,
};

/* size_t at = der_open(b, DER_SEQ); … der_close(b, at); */
size_t der_open(struct buf *b, uint8_t tag);
void der_close(struct buf *b, size_t at);
void der_put(struct buf *b, uint8_t tag, struct span content);
void der_str(struct buf *b, uint8_t tag, const char *s);
/* OID given as its encoded content. */
#define der_oid(b, lit) der_put((b), DER_OID, SPAN_LIT(lit))
void der_bool(struct buf *b, bool v);
void der_uint(struct buf *b, struct span big_endian); /* unsigned INTEGER: leading zeros removed, one added when needed */
void der_time(struct buf *b, uint64_t wall_s);        /* UTCTime before 2050, GeneralizedTime after (RFC 5280 §4.1.2.5) */

/* Reading: one element with the given tag off the front. */
NODISCARD int der_take(struct span *s, uint8_t tag, struct span *ret_content);

#endif
