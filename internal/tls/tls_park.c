/* Idle connections give their record buffers back. mbedTLS keeps two of more than 16 KiB for the whole life of a
 * connection, and thousands of watches are idle nearly all the time; between records a buffer holds nothing but the
 * sequence number in its first 8 bytes. Pointers into it are kept as they are and moved when a buffer is taken again. */
#include "internal/tls/tls_int.h"

#include <stdlib.h>

#define F(name) MBEDTLS_PRIVATE(name)

/* mbedTLS' own size is private: 16 KiB of content and at most 13 + 16 + 48 + 256 bytes around it. */
enum { RECORD_BUF = 16 * 1024 + 512 };
_Static_assert(MBEDTLS_SSL_IN_CONTENT_LEN <= 16384 && MBEDTLS_SSL_OUT_CONTENT_LEN <= 16384,
               "RECORD_BUF is for records of 16 KiB");

static uint8_t *take(struct tls_state *s) {
    if (s->n_spare) {
        return s->spare[--s->n_spare];
    }
    return mem_zero_alloc(RECORD_BUF);
}

/* Those that mbedTLS allocated are smaller than ours by its exact count: they are not reused. */
static void give(struct tls_state *s, struct tls_half *h, uint8_t *buf) {
    if (h->ours && s->n_spare < TLS_SPARE) {
        s->spare[s->n_spare++] = buf;
    } else {
        free(buf);
    }
    h->ours = false;
}

static unsigned char *moved(const unsigned char *p, const struct tls_half *h, uint8_t *to) {
    return p ? to + ((uintptr_t)p - h->base) : NULL;
}

static void leave(struct tls_state *s, struct tls_half *h, unsigned char **buf) {
    h->base = (uintptr_t)*buf;
    memcpy(h->seq, *buf, sizeof(h->seq));
    give(s, h, *buf);
    *buf = NULL;
}

void tls_park(struct tls_state *s, mbedtls_ssl_context *ssl, struct tls_half *in,
              struct tls_half *out) {
    bool in_idle = !ssl->F(in_left) && !ssl->F(in_offt) && !ssl->F(in_hslen) &&
                   !ssl->F(keep_current_message) && !ssl->F(badmac_seen_or_in_hsfraglen);
    if (ssl->F(in_buf) && in_idle) {
        leave(s, in, &ssl->F(in_buf));
    }
    if (ssl->F(out_buf) && !ssl->F(out_left)) {
        leave(s, out, &ssl->F(out_buf));
    }
}

void tls_unpark(struct tls_state *s, mbedtls_ssl_context *ssl, struct tls_half *in,
                struct tls_half *out) {
    if (!ssl->F(in_buf)) {
        uint8_t *b = take(s);
        memcpy(b, in->seq, sizeof(in->seq));
        ssl->F(in_buf) = b;
        ssl->F(in_ctr) = moved(ssl->F(in_ctr), in, b);
        ssl->F(in_hdr) = moved(ssl->F(in_hdr), in, b);
        ssl->F(in_len) = moved(ssl->F(in_len), in, b);
        ssl->F(in_iv) = moved(ssl->F(in_iv), in, b);
        ssl->F(in_msg) = moved(ssl->F(in_msg), in, b);
        in->ours = true;
    }
    if (!ssl->F(out_buf)) {
        uint8_t *b = take(s);
        memcpy(b, out->seq, sizeof(out->seq));
        ssl->F(out_buf) = b;
        ssl->F(out_ctr) = moved(ssl->F(out_ctr), out, b);
        ssl->F(out_hdr) = moved(ssl->F(out_hdr), out, b);
        ssl->F(out_len) = moved(ssl->F(out_len), out, b);
        ssl->F(out_iv) = moved(ssl->F(out_iv), out, b);
        ssl->F(out_msg) = moved(ssl->F(out_msg), out, b);
        out->ours = true;
    }
}
