#include "internal/tftp/tftp.h"

#include "internal/base/rand.h"
#include "internal/t/t.h"
#include "internal/tftp/tftp_test.h"

#define RRQ(s) SPAN_LIT("\0\1" s)

TEST(tftp, requests) {
    static const struct {
        struct span pkt;
        int rc;
        const char *file;
        uint32_t blksize, window, timeout; /* 0: absent */
        bool tsize;
    } rows[] = {
        {RRQ("a\0octet\0"), 0, "a", 0, 0, 0, false},
        {RRQ("a\0OcTeT"), 0, "a", 0, 0, 0, false}, /* last NUL missing */
        {RRQ("a\0mail\0"), -ERR_UNSUPPORTED, NULL, 0, 0, 0, false},
        {RRQ("a\0"), -ERR_INVALID, NULL, 0, 0, 0, false},
        {RRQ("\0octet\0"), -ERR_INVALID, NULL, 0, 0, 0, false},
        {SPAN_LIT("\0\3\0\1data"), -ERR_INVALID, NULL, 0, 0, 0, false},
        {RRQ("a\0octet\0tsize\0"
             "0\0blksize\0"
             "1468\0windowsize\0"
             "4\0"),
         0, "a", 1468, 4, 0, true}, /* OVMF */
        {RRQ("a\0octet\0BLKSIZE\0"
             "1432\0foo\0bar\0timeout\0"
             "3\0"),
         0, "a", 1432, 0, 3, false},
        {RRQ("a\0octet\0blksize\0"
             "7\0timeout\0"
             "0\0windowsize\0"
             "0\0"),
         0, "a", 0, 0, 0, false},
        {RRQ("a\0octet\0blksize\0"
             "99999999999\0"),
         0, "a", 0, 0, 0, false},
        {RRQ("a\0octet\0blksize"), 0, "a", 0, 0, 0, false},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct tftp_request r = {0};
        int rc = tftp_request_parse(rows[i].pkt, &r);
        if (rc != rows[i].rc ||
            (rc == 0 && (!span_eq_str(r.file, rows[i].file) || r.blksize != rows[i].blksize ||
                         r.window != rows[i].window || r.timeout_s != rows[i].timeout ||
                         r.has_tsize != rows[i].tsize))) {
            fail_msg("row %zu: rc %d file %.*s blksize %u window %u", i, rc, SPAN_FMT(r.file),
                     r.blksize, r.window);
        }
    }
}

struct link {
    struct tftp_xfer x;
    struct buf head;
    struct tftp_piece p;
};
static void start(struct link *l, uint64_t size, uint32_t blksize, uint32_t window) {
    const struct tftp_request rq = {.op = TFTP_RRQ,
                                    .has_blksize = blksize,
                                    .blksize = blksize,
                                    .has_window = window,
                                    .window = window};
    buf_init(&l->head, 512);
    l->p.head = &l->head;
    tftp_xfer_start(&l->x, &rq, size, 1468, 0);
}
static bool next(struct link *l, uint64_t now) {
    return tftp_xfer_next(&l->x, &l->p, now);
}
static void ack(struct link *l, uint16_t block, uint64_t now) {
    const uint8_t b[4] = {0, TFTP_ACK, (uint8_t)(block >> 8), (uint8_t)block};
    tftp_xfer_input(&l->x, span_of(b, 4), now);
}

TEST(tftp, lock_step_ignores_duplicate_acks) {
    struct link l;
    start(&l, 1024, 0, 0); /* two full blocks, then an empty one */
    ASSERT(next(&l, 0));
    ASSERT_EQ(512, l.p.len);
    ASSERT(!next(&l, 0));
    ack(&l, 1, 0);
    ASSERT(next(&l, 0));
    ASSERT_EQ(512, l.p.offset);
    ack(&l, 1, 0); /* Sorcerer's Apprentice: no second copy of block 2 */
    ASSERT(!next(&l, 0));
    ack(&l, 2, 0);
    ASSERT(next(&l, 0));
    ASSERT_EQ(0, l.p.len);
    ack(&l, 3, 0);
    ASSERT_EQ(TFTP_DONE, l.x.state);
    buf_fini(&l.head);
}

TEST(tftp, options_are_answered_and_lowered) {
    struct link l;
    start(&l, 100, 8192, 1000);
    ASSERT(next(&l, 0));
    ASSERT(span_eq(SPAN_LIT("\0\6blksize\0"
                            "1468\0windowsize\0"
                            "64\0"),
                   buf_view(&l.head)));
    ASSERT(!next(&l, 0));
    ack(&l, 0, 0);
    ASSERT(next(&l, 0));
    ASSERT_EQ(100, l.p.len);
    buf_fini(&l.head);
}

TEST(tftp, size_probe_ends_quietly) {
    struct link l;
    start(&l, 100, 1468, 4);
    ASSERT(next(&l, 0));
    tftp_xfer_input(&l.x, SPAN_LIT("\0\5\0\10User aborted the transfer\0"), 0); /* as OVMF does */
    ASSERT_EQ(TFTP_ABORTED, l.x.state);
    ASSERT(!next(&l, 0));
    buf_fini(&l.head);
}

TEST(tftp, window_rewinds_to_the_gap) {
    struct link l;
    start(&l, 100000, 1000, 4);
    ASSERT(next(&l, 0));
    ack(&l, 0, 0);
    for (uint64_t i = 0; i < 4; i++) {
        ASSERT(next(&l, 0));
        ASSERT_EQ(i * 1000, l.p.offset);
    }
    ASSERT(!next(&l, 0));
    ack(&l, 2, 0); /* 3 was lost */
    ASSERT(next(&l, 0));
    ASSERT_EQ(2000, l.p.offset);
    for (int i = 0; i < 3; i++) {
        ASSERT(next(&l, 0));
    }
    ASSERT(!next(&l, 0));
    ack(&l, 2, 0); /* the first of the window was lost: once more … */
    ASSERT(next(&l, 0));
    ASSERT_EQ(2000, l.p.offset);
    ack(&l, 2, 0); /* … but not for every such ACK */
    while (next(&l, 0)) {
        ASSERT(l.p.offset > 2000);
    }
    buf_fini(&l.head);
}

TEST(tftp, block_numbers_roll_over) {
    struct link l;
    const uint64_t size = 70000ull * 512;
    start(&l, size, 0, 0);
    uint64_t sent = 0;
    for (uint64_t block = 1; l.x.state != TFTP_DONE; block++) {
        ASSERT(next(&l, 0));
        ASSERT_EQ((block & 0xffff) >> 8, l.head.p[2]);
        ASSERT_EQ(block & 0xff, l.head.p[3]);
        sent += l.p.len;
        ack(&l, (uint16_t)block, 0);
    }
    ASSERT(sent == size);
    buf_fini(&l.head);
}

TEST(tftp, timeouts_back_off_then_give_up) {
    struct link l;
    uint64_t gaps[LIM_TFTP_TRIES], last = 0;
    size_t n = 0;
    start(&l, 100, 0, 0);
    while (l.x.state != TFTP_LOST) {
        ASSERT(next(&l, last));
        gaps[n++] = (l.x.due_ns - last) / NS_PER_S;
        last = l.x.due_ns;
        tftp_xfer_timeout(&l.x, last);
    }
    ASSERT_EQ(LIM_TFTP_TRIES, n);
    ASSERT_EQ(1, gaps[0]);
    ASSERT_EQ(2, gaps[1]);
    ASSERT_EQ(8, gaps[n - 1]);
    buf_fini(&l.head);
}

/* Else a client with the same timeout, started again by each packet, would never be the one to
 * speak: atftp answers one repetition and those that follow not until it heard nothing so long. */
TEST(tftp, a_timeout_by_option_backs_off) {
    struct link l;
    const struct tftp_request rq = {.op = TFTP_RRQ, .has_timeout = true, .timeout_s = 3};
    static const uint64_t gaps[] = {3, 6, 8, 8};
    uint64_t last = 0;
    buf_init(&l.head, 512);
    l.p.head = &l.head;
    tftp_xfer_start(&l.x, &rq, 100, 1468, 0);
    for (size_t i = 0; i < ARRAY_LEN(gaps); i++) {
        ASSERT(next(&l, last));
        ASSERT_EQ(gaps[i], (l.x.due_ns - last) / NS_PER_S);
        last = l.x.due_ns;
        tftp_xfer_timeout(&l.x, last);
    }
    ack(&l, 0, last);
    ASSERT(next(&l, last));
    ASSERT_EQ(3, (l.x.due_ns - last) / NS_PER_S); /* after an answer as asked for again */
    buf_fini(&l.head);
}

TEST(tftp, a_long_timeout_by_option_stays) {
    struct link l;
    const struct tftp_request rq = {.op = TFTP_RRQ, .has_timeout = true, .timeout_s = 20};
    buf_init(&l.head, 512);
    l.p.head = &l.head;
    tftp_xfer_start(&l.x, &rq, 100, 1468, 0);
    for (uint64_t i = 0; i < 3; i++) {
        ASSERT(next(&l, i * 20 * NS_PER_S));
        ASSERT_EQ(20 * NS_PER_S * (i + 1), l.x.due_ns);
        tftp_xfer_timeout(&l.x, l.x.due_ns);
    }
    buf_fini(&l.head);
}

TEST(tftp, netascii) {
    AUTO(buf) struct buf b = BUF_INIT(64);
    ASSERT_ERR(0, tftp_netascii(SPAN_LIT("a\nb\rc"), &b));
    ASSERT(span_eq(SPAN_LIT("a\r\nb\r\0c"), buf_view(&b)));
}

TEST(tftp, property_transfer) {
    t_property("transfer", tftp_prop_transfer, 150, 3000);
}
