#include "internal/tftp/tftp_test.h"

#include "internal/base/rand.h"
#include "internal/t/t.h"

#include <stdlib.h>

/* A client as RFC 7440 describes it, at the other end of a bad link. */
struct sim {
    struct t_gen g;
    struct tftp_xfer x;
    uint64_t now;
    uint64_t file_size;
    uint64_t got;   /* bytes received in order */
    uint64_t block; /* last block received in order */
    unsigned in_window;
    bool done, oacked;
    struct buf wire[16]; /* packets to the client, with their data length behind the head */
    uint64_t at[16];
    uint32_t len[16];
    size_t n_wire;
};

static bool chance(struct sim *s, uint32_t percent) {
    return s->g.s.n && t_gen_u32(&s->g, 0, 99) < percent;
}

static void ack(struct sim *s, uint64_t block) {
    AUTO(buf) struct buf b = BUF_INIT(4);
    buf_be16(&b, TFTP_ACK);
    buf_be16(&b, (uint16_t)block);
    for (int times = chance(s, 10) ? 2 : 1; times > 0; times--) {
        if (!chance(s, 10)) {
            tftp_xfer_input(&s->x, buf_view(&b), s->now);
        }
    }
}

/* 0, or 1 when the packet is wrong. */
static int client(struct sim *s, struct span head, uint64_t offset, uint32_t len) {
    uint16_t op, block;
    if (span_be16(&head, &op) < 0) {
        return 1;
    }
    if (op == TFTP_OACK) {
        s->oacked = true;
        ack(s, 0);
        return 0;
    }
    if (op != TFTP_DATA || span_be16(&head, &block) < 0 || offset + len > s->file_size) {
        return 1;
    }
    if (block == (uint16_t)(s->block + 1)) {
        if (offset != s->got) {
            return 1;
        }
        s->block++;
        s->got += len;
        s->in_window++;
        s->done = len < s->x.blksize;
        if (s->done || s->in_window >= s->x.window) {
            s->in_window = 0;
            ack(s, s->block);
        }
    } else {
        s->in_window = 0;
        ack(s, s->block); /* a gap or a repetition: tell where we are */
    }
    return 0;
}

static int deliver(struct sim *s) {
    int bad = 0;
    while (s->n_wire && !bad) {
        size_t i = chance(s, 10) ? t_gen_u32(&s->g, 0, (uint32_t)s->n_wire - 1) : 0;
        struct buf b = s->wire[i];
        uint64_t offset = s->at[i];
        uint32_t len = s->len[i];
        s->n_wire--;
        memmove(&s->wire[i], &s->wire[i + 1], (s->n_wire - i) * sizeof(s->wire[0]));
        memmove(&s->at[i], &s->at[i + 1], (s->n_wire - i) * sizeof(s->at[0]));
        memmove(&s->len[i], &s->len[i + 1], (s->n_wire - i) * sizeof(s->len[0]));
        if (!chance(s, 10)) {
            bad = client(s, buf_view(&b), offset, len);
        }
        buf_fini(&b);
    }
    return bad;
}

int tftp_prop_transfer(const uint8_t *p, size_t n) {
    struct sim *s = new_zero(struct sim);
    AUTO(buf) struct buf head = BUF_INIT(512);
    struct tftp_piece piece = {.head = &head};
    int bad = 0;
    s->g = (struct t_gen){span_of(p, n)};
    s->file_size = t_gen_u32(&s->g, 0, 700000);
    struct tftp_request rq = {.op = TFTP_RRQ,
                              .has_tsize = chance(s, 50),
                              .has_window = chance(s, 50),
                              .has_blksize = chance(s, 80),
                              .blksize = t_gen_u32(&s->g, 8, 1468),
                              .window = t_gen_u32(&s->g, 1, 16)};
    tftp_xfer_start(&s->x, &rq, s->file_size, 1468, s->now);
    for (size_t turn = 0; s->x.state < TFTP_DONE && !bad && turn < 400000; turn++) {
        while (s->n_wire < ARRAY_LEN(s->wire) && tftp_xfer_next(&s->x, &piece, s->now)) {
            struct buf copy = BUF_INIT(512);
            buf_span(&copy, buf_view(&head));
            s->wire[s->n_wire] = copy;
            s->at[s->n_wire] = piece.offset;
            s->len[s->n_wire++] = piece.len;
        }
        if (s->n_wire) {
            bad = deliver(s);
        } else {
            s->now = s->x.due_ns;
            tftp_xfer_timeout(&s->x, s->now);
        }
    }
    bad |= s->x.state != TFTP_DONE && s->x.state != TFTP_LOST;
    bad |= s->x.state == TFTP_DONE && (s->got != s->file_size || !s->done);
    while (s->n_wire) {
        buf_fini(&s->wire[--s->n_wire]);
    }
    free(s);
    return bad;
}

FUZZ(tftp_request)(const uint8_t *p, size_t n) {
    struct tftp_request r;
    if (tftp_request_parse(span_of(p, n), &r) == 0) {
        CHECK(r.file.n > 0 && r.file.n <= LIM_TFTP_NAME &&
              (!r.has_blksize || r.blksize >= TFTP_BLKSIZE_MIN));
    }
    return 0;
}
FUZZ(tftp_transfer)(const uint8_t *p, size_t n) {
    CHECK(tftp_prop_transfer(p, n) == 0);
    return 0;
}
