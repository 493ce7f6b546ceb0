/* grpc — the framing of gRPC over HTTP/2: length-prefixed messages and the status in the trailers (no I/O).
 *
 * Owns:     struct grpc_reader owns its buffer.     Limits: LIM_GRPC_MESSAGE bytes a message.
 * Errors:   INVALID (compressed message, malformed status), LIMIT.      Threads: any.
 * Spec:     gRPC over HTTP2 (PROTOCOL-HTTP2.md).
 */
#ifndef KF_GRPC_H
#define KF_GRPC_H

#include "internal/base/buf.h"

enum { LIM_GRPC_MESSAGE = 16 << 20 };

/* Appends prefix and message. */
int grpc_frame(struct buf *b, struct span message);
/* The same for a message that is appended between the two calls. */
size_t grpc_begin(struct buf *b);
void grpc_end(struct buf *b, size_t mark);
void grpc_end_with(struct buf *b, size_t mark, size_t more); /* so many bytes of the message follow elsewhere */
/* A status text for grpc-message, percent-encoded. */
int grpc_message(struct buf *b, struct span text);

struct grpc_reader {
    struct buf in;     /* the beginning of a message whose rest has not come */
    struct span lent;  /* what was lent and not taken yet; `in` is empty then */
    size_t taken, max; /* max: of a message */
    uint32_t refused;  /* length of the one that was too large */
};
void grpc_reader_init(struct grpc_reader *r);
void grpc_reader_set_max(struct grpc_reader *r, size_t max);
void grpc_reader_fini(struct grpc_reader *r);
NODISCARD int grpc_feed(struct grpc_reader *r, struct span data);
/* The same without copying whole messages: the data must stay until grpc_next has returned 0 or less. */
NODISCARD int grpc_lend(struct grpc_reader *r, struct span data);
/* 1 and a message (valid until the next call), 0 when more bytes are needed, or negative. */
NODISCARD int grpc_next(struct grpc_reader *r, struct span *ret);

/* Error code of a grpc-status value; 0 for "0". Percent-encoded grpc-message becomes the text. */
NODISCARD int grpc_status(struct span status, struct span message, struct err *e);

#endif
