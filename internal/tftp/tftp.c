#include "internal/tftp/tftp.h"

#include "internal/base/rand.h"

/* ---- requests ---- */

/* Text up to a NUL. Some ROMs leave out the last NUL of the packet. */
static bool take_text(struct span *s, struct span *ret) {
    if (!s->n) {
        return false;
    }
    if (span_until(s, 0, ret) < 0) {
        *ret = *s;
        *s = SPAN_EMPTY;
    }
    return true;
}

static void take_option(struct tftp_request *r, struct span name, struct span value) {
    const struct {
        const char *name;
        uint64_t min, max;
        bool *has;
        uint32_t *value;
    } known[] = {
        {"blksize", TFTP_BLKSIZE_MIN, UINT32_MAX, &r->has_blksize, &r->blksize},
        {"timeout", 1, 255, &r->has_timeout, &r->timeout_s},
        {"windowsize", 1, 65535, &r->has_window, &r->window},
        {"tsize", 0, UINT64_MAX, &r->has_tsize, NULL},
    };
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        uint64_t v;
        if (span_eq_nocase(name, known[i].name) &&
            span_to_u64(value, known[i].min, known[i].max, &v) >= 0) {
            *known[i].has = true;
            if (known[i].value) {
                *known[i].value = (uint32_t)v;
            }
        }
    }
}

int tftp_request_parse(struct span pkt, struct tftp_request *ret) {
    struct tftp_request r = {0};
    struct span mode, name, value;
    uint16_t op;
    if (pkt.n > LIM_TFTP_PACKET || span_be16(&pkt, &op) < 0 || (op != TFTP_RRQ && op != TFTP_WRQ) ||
        !take_text(&pkt, &r.file) || !take_text(&pkt, &mode) || !r.file.n ||
        r.file.n > LIM_TFTP_NAME) {
        return -ERR_INVALID;
    }
    r.op = (enum tftp_op)op;
    r.netascii = span_eq_nocase(mode, "netascii");
    if (!r.netascii && !span_eq_nocase(mode, "octet")) {
        return -ERR_UNSUPPORTED;
    }
    while (take_text(&pkt, &name) && name.n && take_text(&pkt, &value)) {
        take_option(&r, name, value);
    }
    *ret = r;
    return 0;
}

int tftp_error_write(struct buf *b, enum tftp_error code, const char *text) {
    buf_be16(b, TFTP_ERROR);
    buf_be16(b, (uint16_t)code);
    buf_str(b, text);
    return buf_u8(b, 0);
}

int tftp_netascii(struct span text, struct buf *ret) {
    for (size_t i = 0; i < text.n; i++) {
        uint8_t c = text.p[i];
        if (c == '\n') {
            buf_u8(ret, '\r');
        }
        buf_u8(ret, c);
        if (c == '\r') {
            buf_u8(ret, 0);
        }
    }
    return buf_ok(ret);
}

/* ---- the transfer ----
 *
 *   start ──(options)──▶ OPTIONS ──ACK 0──▶ SENDING ──ACK of the last block──▶ DONE
 *     └──(none)─────────────────────────────▲ │
 *   OPTIONS, SENDING: ERROR ▶ ABORTED; too many timeouts ▶ LOST
 */

enum { TIMEOUT_FIRST_S = 1, TIMEOUT_MAX_S = 8 };

static void arm(struct tftp_xfer *x, uint64_t now_ns) {
    x->due_ns = now_ns + x->timeout_ns;
}

static void progress(struct tftp_xfer *x, uint64_t now_ns) {
    x->tries = 0;
    x->resent = false;
    x->timeout_ns = x->first_timeout_ns;
    arm(x, now_ns);
}

void tftp_xfer_start(struct tftp_xfer *x, const struct tftp_request *rq, uint64_t size,
                     uint32_t max_blksize, uint64_t now_ns) {
    *x = (struct tftp_xfer){.state = TFTP_SENDING,
                            .rq = *rq,
                            .blksize = TFTP_BLKSIZE,
                            .window = 1,
                            .size = size,
                            .next = 1};
    uint32_t cap = max_blksize < TFTP_BLKSIZE_MAX ? max_blksize : TFTP_BLKSIZE_MAX;
    if (rq->has_blksize) {
        x->blksize = rq->blksize < cap ? rq->blksize : cap;
    }
    if (rq->has_window) {
        x->window = rq->window < LIM_TFTP_WINDOW ? rq->window : LIM_TFTP_WINDOW;
    }
    x->n_blocks = size / x->blksize + 1; /* a full last block is followed by an empty one */
    x->first_timeout_ns = (rq->has_timeout ? rq->timeout_s : TIMEOUT_FIRST_S) * NS_PER_S;
    x->timeout_ns = x->first_timeout_ns;
    if (rq->has_blksize || rq->has_tsize || rq->has_timeout || rq->has_window) {
        x->state = TFTP_OPTIONS;
        x->oack_due = true;
    }
    arm(x, now_ns);
}

static void on_ack(struct tftp_xfer *x, uint16_t block, uint64_t now_ns) {
    if (x->state == TFTP_OPTIONS) {
        if (block == 0) {
            x->state = TFTP_SENDING;
            progress(x, now_ns);
        }
        return;
    }
    uint64_t ahead = (uint16_t)(block - (uint16_t)x->base);
    uint64_t in_flight = x->next - 1 - x->base;
    if (ahead > in_flight) {
        return; /* of an earlier window: a late duplicate */
    }
    if (ahead > 0) {
        x->base += ahead;
        x->next =
            x->base + 1; /* an ACK inside the window tells that the rest was lost (RFC 7440 §4) */
        progress(x, now_ns);
        if (x->base == x->n_blocks) {
            x->state = TFTP_DONE;
        }
    } else if (x->window > 1 && in_flight && !x->resent) {
        x->resent =
            true; /* the first block of the window was lost: repeat it, once for however many such ACKs */
        x->next = x->base + 1;
    }
}

void tftp_xfer_input(struct tftp_xfer *x, struct span pkt, uint64_t now_ns) {
    uint16_t op, block;
    if (x->state >= TFTP_DONE || span_be16(&pkt, &op) < 0 || span_be16(&pkt, &block) < 0) {
        return;
    }
    if (op == TFTP_ERROR) {
        x->state = TFTP_ABORTED;
    } else if (op == TFTP_ACK) {
        on_ack(x, block, now_ns);
    }
}

void tftp_xfer_timeout(struct tftp_xfer *x, uint64_t now_ns) {
    if (x->state >= TFTP_DONE) {
        return;
    }
    if (++x->tries >= LIM_TFTP_TRIES) {
        x->state = TFTP_LOST;
        return;
    }
    /* The option tells when to repeat first. RFC 1123 §4.2.3.2 wants every timeout to back off: a
     * client with a timer as long as ours, started again by what we repeat, would never speak. */
    uint64_t most = TIMEOUT_MAX_S * NS_PER_S;
    most = x->first_timeout_ns > most ? x->first_timeout_ns : most;
    x->timeout_ns = x->timeout_ns < most / 2 ? x->timeout_ns * 2 : most;
    x->resent = false;
    x->next = x->base + 1;
    x->oack_due = x->state == TFTP_OPTIONS;
    arm(x, now_ns);
}

static void write_oack(const struct tftp_xfer *x, struct buf *b) {
    const struct {
        bool has;
        const char *name;
        uint64_t value;
    } opts[] = {
        {x->rq.has_tsize, "tsize", x->size},
        {x->rq.has_blksize, "blksize", x->blksize},
        {x->rq.has_timeout, "timeout", x->rq.timeout_s},
        {x->rq.has_window, "windowsize", x->window},
    };
    buf_be16(b, TFTP_OACK);
    for (size_t i = 0; i < ARRAY_LEN(opts); i++) {
        if (opts[i].has) {
            buf_str(b, opts[i].name);
            buf_u8(b, 0);
            buf_u64(b, opts[i].value);
            buf_u8(b, 0);
        }
    }
}

bool tftp_xfer_next(struct tftp_xfer *x, struct tftp_piece *p, uint64_t now_ns) {
    buf_reset(p->head);
    p->offset = 0;
    p->len = 0;
    if (x->state == TFTP_OPTIONS && x->oack_due) {
        x->oack_due = false;
        write_oack(x, p->head);
        arm(x, now_ns);
        return true;
    }
    if (x->state != TFTP_SENDING || x->next > x->n_blocks || x->next > x->base + x->window) {
        return false;
    }
    p->offset = (x->next - 1) * x->blksize;
    uint64_t left = x->size - p->offset;
    p->len = left < x->blksize ? (uint32_t)left : x->blksize;
    buf_be16(p->head, TFTP_DATA);
    buf_be16(p->head, (uint16_t)x->next);
    x->next++;
    arm(x, now_ns);
    return true;
}
