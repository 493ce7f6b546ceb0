/* wire — reading and writing protobuf messages field by field.
 *
 * What:     a cursor over a message's fields, and appenders that leave out default values as proto3 does.
 * Owns:     nothing; fields are views into the message.
 * Errors:   -ERR_INVALID for a malformed message.
 * Threads:  any.
 * Spec:     protocol buffers encoding; groups (wire types 3 and 4) are refused.
 */
#ifndef KF_WIRE_H
#define KF_WIRE_H

#include "internal/base/buf.h"

enum wire_type { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_BYTES = 2, WIRE_FIXED32 = 5 };

struct wire_field {
    uint32_t no;
    enum wire_type wire;
    uint64_t v; /* all but BYTES */
    struct span bytes;
};

/* 1: *ret is the next field; 0: end. */
NODISCARD int wire_next(struct span *s, struct wire_field *ret);

void wire_u64(struct buf *b, uint32_t no, uint64_t v);
static inline void wire_i64(struct buf *b, uint32_t no, int64_t v) {
    wire_u64(b, no, (uint64_t)v);
}
static inline void wire_bool(struct buf *b, uint32_t no, bool v) {
    wire_u64(b, no, v);
}
void wire_bytes(struct buf *b, uint32_t no, struct span s); /* nothing when empty */
void wire_bytes_always(struct buf *b, uint32_t no,
                       struct span s); /* elements of a repeated field, members of a oneof */
/* A message inside: what is appended between the two calls. */
size_t wire_begin(struct buf *b, uint32_t no);
void wire_end(struct buf *b, size_t mark);
/* So many bytes of it are elsewhere. What was appended moves by the number of bytes that comes back. */
size_t wire_end_with(struct buf *b, size_t mark, size_t more);
size_t wire_varint_len(uint64_t v);

#endif
