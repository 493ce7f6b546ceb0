/* Certificates, requests, keys and tokens from anybody must only be refused. */
#include "internal/pki/pki.h"

#include "internal/t/t.h"

FUZZ(pki_pem)(const uint8_t *p, size_t n) {
    static const char pub[] = "-----BEGIN PUBLIC KEY-----\n"
                              "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEYD54V/vp+54P9DXarYqx4MPcm+HK\n"
                              "RIQzNasYSoRQHQ/6S6Ps8tpMcT+KvIIC8W/e9k0W7Cm72M1P9jU7SLf/vg==\n"
                              "-----END PUBLIC KEY-----\n";
    struct span in = span_of(p, n), keys[] = {span_str(pub)};
    struct pki_info i;
    struct pki_key *k;
    AUTO(buf) struct buf out = BUF_INIT(1 << 20);
    if (pki_cert_parse(in, &i, NULL) == 0) {
        CHECK(i.subject.cn && i.subject.n_orgs <= PKI_ORGS && i.subject.n_sans <= PKI_SANS);
        IGNORE_ERR(pki_verify(in, in, 1700000000, NULL), "must only survive");
        pki_info_fini(&i);
    }
    if (pki_csr_parse(in, &i, NULL) == 0) {
        pki_info_fini(&i);
    }
    if (pki_key_parse(in, &k, NULL) == 0) {
        CHECK(pki_key_write(k, &out, NULL) == 0);
        pki_key_free(k);
    }
    IGNORE_ERR(pki_jwk(in, &out, NULL), "must only survive");
    CHECK(pki_jws_verify(in, keys, 1, &out, NULL) < 0);
    return 0;
}
