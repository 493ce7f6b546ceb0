/* tls — TLS 1.2/1.3 identities and trust over mbedTLS, for servers and clients.
 *
 * What:     configurations (certificates, CAs, ALPN, SNI) that internal/http turns into connections. Certificates can be
 *           replaced while running: new handshakes use the new one, old connections go on.
 * Owns:     a tls_config is reference counted (tls_config_ref/unref); a connection holds a reference.
 * Limits:   handshake LIM_TLS_HANDSHAKE_MS; client certificate chains of 4; 16 KiB of PEM a certificate, 256 KiB a CA bundle.
 * Errors:   INVALID (PEM, key mismatch), UNAUTHENTICATED (peer not trusted), IO.
 * Threads:  the loop's.
 * Time:     the wall clock judges certificates, but for a pinned client: it trusts the pinned key whatever the dates say,
 *           since machines without a clock battery boot by it.
 * Ciphers:  clients ask for AES first where the processor has instructions for it.
 * Spec:     RFC 8446, RFC 5246 (ECDHE with AEAD only), RFC 7301, RFC 6066 §3.
 */
#ifndef KF_TLS_H
#define KF_TLS_H

#include "internal/base/buf.h"

enum { LIM_TLS_HANDSHAKE_MS = 10000 };

struct tls_config;
struct net_filter;

enum tls_client_auth {
    TLS_CLIENT_NONE,
    TLS_CLIENT_REQUEST,  /* one that is not trusted is reported (tls_peer.is_untrusted) and the handshake goes on */
    TLS_CLIENT_OPTIONAL, /* verified when given; bad ones end the handshake */
    TLS_CLIENT_REQUIRED,
};

/* Server: certificate chain and key in PEM; client CAs may be empty with TLS_CLIENT_NONE. */
NODISCARD int tls_server_config_new(struct tls_config **ret, struct span cert_pem, struct span key_pem,
                                    struct span client_ca_pem, enum tls_client_auth auth, struct err *e);
/* Client: trust is the CA bundle, or a pin (SHA-256 of a chain member's SubjectPublicKeyInfo DER, 32 bytes), or both empty
 * with insecure = true. cert/key may be empty. */
struct tls_client_opts {
    struct span ca_pem, cert_pem, key_pem;
    struct span pin_sha256;
    bool insecure;
};
NODISCARD int tls_client_config_new(struct tls_config **ret, const struct tls_client_opts *o, struct err *e);
/* Swaps the certificate (both kinds) or trust in place; on failure the old stays. */
NODISCARD int tls_config_set_cert(struct tls_config *c, struct span cert_pem, struct span key_pem, struct err *e);
NODISCARD int tls_config_set_ca(struct tls_config *c, struct span ca_pem, struct err *e);
/* A further certificate chosen when the client's SNI equals name. */
NODISCARD int tls_config_add_sni(struct tls_config *c, const char *name, struct span cert_pem, struct span key_pem,
                                 struct err *e);
struct tls_config *tls_config_ref(struct tls_config *c);
void tls_config_unref(struct tls_config *c);

/* What the peer proved: subject CN, every O, and the certificate in DER. Empty CN: no certificate. */
enum { TLS_PEER_ORGS = 16 };
struct tls_peer {
    const char *cn;
    const char *orgs[TLS_PEER_ORGS];
    size_t n_orgs;
    bool is_untrusted; /* a certificate came that no CA of ours stands behind: cn is empty (TLS_CLIENT_REQUEST) */
    struct span cert_der;
    const char *sni; /* server side: name the client asked for, or NULL */
};

/* A filter for net_stream_new and net_connect; holds a reference to the configuration.
 * name (client): the host to verify and to send as SNI; an IP literal is checked against the certificate's IP SANs. */
enum tls_alpn { TLS_ALPN_ANY /* h2 and http/1.1 */, TLS_ALPN_H1, TLS_ALPN_H2 };
struct net_filter *tls_filter_server(struct tls_config *c);
struct net_filter *tls_filter_client(struct tls_config *c, const char *name, enum tls_alpn alpn);
/* After the handshake. The peer lives as long as the filter. */
const struct tls_peer *tls_filter_peer(const struct net_filter *f);
bool tls_filter_is_h2(const struct net_filter *f);

#endif
