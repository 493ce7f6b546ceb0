/* Private to tls: a configuration's immutable snapshot, which connections keep while newer ones replace it. */
#ifndef KF_TLS_INT_H
#define KF_TLS_INT_H

#include "internal/net/net.h"
#include "internal/tls/tls.h"

#include <mbedtls/pk.h>
#include <mbedtls/ssl.h>
#include <mbedtls/ssl_ticket.h>
#include <mbedtls/x509_crt.h>

struct tls_pair {
    struct tls_pair *next;
    char *sni; /* NULL: the default */
    mbedtls_x509_crt crt;
    mbedtls_pk_context key;
};

/* A record buffer that was given back (tls_park.c). */
struct tls_half {
    uintptr_t base;
    uint8_t seq[8];
    bool ours; /* the buffer in use came from the state */
};

enum { TLS_SPARE = 4 };

struct tls_state {
    unsigned refs;
    bool is_server, insecure, pinned;
    enum tls_client_auth auth;
    uint8_t pin[32];
    struct tls_pair *pairs; /* the default first; NULL: none (client) */
    mbedtls_x509_crt ca;
    bool has_ca, has_tickets;
    mbedtls_ssl_ticket_context tickets;
    uint8_t *spare[TLS_SPARE]; /* record buffers between two uses */
    size_t n_spare;
    mbedtls_ssl_config conf[3]; /* by enum tls_alpn; servers use the first */
};

struct tls_state *tls_state_of(struct tls_config *c);
struct tls_state *tls_state_ref(struct tls_state *s);
void tls_state_unref(struct tls_state *s);
int tls_on_sni(void *ctx, mbedtls_ssl_context *ssl, const unsigned char *name, size_t n);
int tls_fail(struct err *e, enum err_code c, int mbed, const char *what);
/* After the handshake: around every call that may move bytes. */
void tls_park(struct tls_state *s, mbedtls_ssl_context *ssl, struct tls_half *in, struct tls_half *out);
void tls_unpark(struct tls_state *s, mbedtls_ssl_context *ssl, struct tls_half *in, struct tls_half *out);

#endif
