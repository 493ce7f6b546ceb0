/* tftp — the read side of TFTP: requests, options and the transfer's state machine (no I/O).
 *
 * What:     tftp_request_parse reads an RRQ/WRQ; a tftp_xfer tells which packet to send next and when to send it again.
 * Owns:     nothing; a request is views into its packet. The caller reads the file and keeps the sockets.
 * Limits:   LIM_TFTP_*.
 * Errors:   INVALID (malformed), UNSUPPORTED (mode).
 * Threads:  any, one at a time per transfer.
 * Time:     passed in (now_ns, monotonic).
 * Spec:     RFC 1350 with RFC 1123 §4.2.3 (no answer to duplicate ACKs, timeouts back off), 2347 (options), 2348 (blksize),
 *           2349 (timeout, tsize), 7440 (windowsize). Block numbers roll over to 0.
 */
#ifndef KF_TFTP_H
#define KF_TFTP_H

#include "internal/base/buf.h"

enum {
    LIM_TFTP_PACKET = 1024,  /* a request longer than this is refused */
    LIM_TFTP_NAME = 512,
    LIM_TFTP_WINDOW = 64,    /* blocks in flight, however many the client wants */
    LIM_TFTP_TRIES = 6,      /* sends of the same window without an answer */
    TFTP_BLKSIZE = 512,      /* without the option */
    TFTP_BLKSIZE_MIN = 8,
    TFTP_BLKSIZE_MAX = 65464,
    TFTP_HEADER = 4,
};

enum tftp_op { TFTP_RRQ = 1, TFTP_WRQ, TFTP_DATA, TFTP_ACK, TFTP_ERROR, TFTP_OACK };
enum tftp_error {
    TFTP_E_UNDEFINED,
    TFTP_E_NOT_FOUND,
    TFTP_E_ACCESS,
    TFTP_E_DISK,
    TFTP_E_ILLEGAL,
    TFTP_E_TID,
    TFTP_E_EXISTS,
    TFTP_E_USER,
    TFTP_E_OPTIONS, /* RFC 2347; firmware sends it after an OACK when it only wanted the size */
};

struct tftp_request {
    enum tftp_op op;
    struct span file;
    bool netascii;
    /* Options in the request; values out of range are treated as absent. */
    bool has_blksize, has_tsize, has_timeout, has_window;
    uint32_t blksize, window, timeout_s;
};
/* UNSUPPORTED: a mode other than octet and netascii. */
NODISCARD int tftp_request_parse(struct span pkt, struct tftp_request *ret);
int tftp_error_write(struct buf *b, enum tftp_error code, const char *text);
/* Netascii form of a text (RFC 764 NVT): LF becomes CR LF, CR becomes CR NUL. */
int tftp_netascii(struct span text, struct buf *ret);

enum tftp_state {
    TFTP_OPTIONS, /* OACK sent, ACK 0 awaited */
    TFTP_SENDING, /* blocks in flight */
    TFTP_DONE,    /* last block acknowledged */
    TFTP_ABORTED, /* the client gave up; after an OACK that is its way to ask for the size */
    TFTP_LOST,    /* no answer for too long */
};
/* Blocks count from 1 without rolling over; `base` is the last acknowledged one, `next` the next one to send. */
struct tftp_xfer {
    enum tftp_state state;
    bool oack_due, resent; /* resent: this window was repeated because of an ACK, and is not again */
    struct tftp_request rq;
    uint32_t blksize, window;
    uint64_t size, n_blocks, base, next;
    uint64_t first_timeout_ns, timeout_ns, due_ns; /* timeout_ns: backs off, and is the first again after an answer */
    unsigned tries;
};
/* max_blksize: what fits the path (MTU - 32); a larger wish is lowered to it. */
void tftp_xfer_start(struct tftp_xfer *x, const struct tftp_request *rq, uint64_t size, uint32_t max_blksize,
                     uint64_t now_ns);
/* A packet from the client's address. Afterwards: look at the state, then send what tftp_xfer_next gives. */
void tftp_xfer_input(struct tftp_xfer *x, struct span pkt, uint64_t now_ns);
/* Call when due_ns has come: prepares sending again, or ends the transfer as LOST. */
void tftp_xfer_timeout(struct tftp_xfer *x, uint64_t now_ns);

struct tftp_piece {
    struct buf *head;  /* whole packet (OACK), or the 4 bytes before the data */
    uint64_t offset;   /* file bytes to follow */
    uint32_t len;
};
/* The next packet that may be sent now; false when the window is full or the transfer is over. head is reset first. */
bool tftp_xfer_next(struct tftp_xfer *x, struct tftp_piece *p, uint64_t now_ns);

#endif
