#include "internal/pki/pki.h"

#include "internal/base/rand.h"
#include "internal/t/t.h"

#include <stdlib.h>

enum { DAY = 86400, PEM = 64 * 1024 };

struct fixture {
    struct pki_key *ca_key;
    struct buf ca;
    uint64_t now;
};

static void setup(struct fixture *f) {
    struct err e = ERR_INIT;
    *f = (struct fixture){.ca = BUF_INIT(PEM), .now = clock_wall_ns() / NS_PER_S};
    ASSERT_OK(pki_key_new(PKI_EC_P256, &f->ca_key, &e), &e);
    ASSERT_OK(pki_ca_new(f->ca_key, "test-ca", f->now, 10 * 365 * DAY, &f->ca, &e), &e);
}

static void teardown(struct fixture *f) {
    pki_key_free(f->ca_key);
    buf_fini(&f->ca);
}

TEST(pki, keys_survive_writing) {
    struct err e = ERR_INIT;
    for (int kind = PKI_EC_P256; kind <= PKI_RSA_2048; kind++) {
        AUTO(pki_keyp) struct pki_key *k = NULL, *again = NULL;
        AUTO(buf) struct buf a = BUF_INIT(PEM), b = BUF_INIT(PEM);
        ASSERT_OK(pki_key_new((enum pki_key_kind)kind, &k, &e), &e);
        ASSERT_OK(pki_key_write(k, &a, &e), &e);
        ASSERT_OK(pki_key_parse(buf_view(&a), &again, &e), &e);
        ASSERT_OK(pki_key_write(again, &b, &e), &e);
        ASSERT_STREQ(buf_cstr(&a), buf_cstr(&b));
    }
    struct pki_key *none = NULL;
    ASSERT_ERR(-ERR_INVALID, pki_key_parse(SPAN_LIT("not a key"), &none, NULL));
    ASSERT_ERR(
        -ERR_INVALID,
        pki_key_parse(SPAN_LIT("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
                      &none, NULL));
}

TEST(pki, request_to_certificate) {
    struct fixture f;
    struct err e = ERR_INIT;
    setup(&f);
    AUTO(pki_keyp) struct pki_key *k = NULL;
    AUTO(buf) struct buf csr = BUF_INIT(PEM), cert = BUF_INIT(PEM);
    struct pki_subject s = {.cn = "system:node:n1, \"x\"+y",
                            .orgs = {"system:nodes", "a=b"},
                            .n_orgs = 2,
                            .sans = {"n1", "10.1.2.3", "fd00::1", "*.example.org"},
                            .n_sans = 4};
    ASSERT_OK(pki_key_new(PKI_EC_P256, &k, &e), &e);
    ASSERT_OK(pki_csr_new(k, &s, &csr, &e), &e);
    struct pki_sign_req r = {.ca_key = f.ca_key,
                             .ca_cert_pem = buf_view(&f.ca),
                             .csr_pem = buf_view(&csr),
                             .usage = PKI_SERVER | PKI_CLIENT,
                             .now_s = f.now,
                             .ttl_s = 365 * DAY};
    ASSERT_OK(pki_sign(&r, &cert, &e), &e);
    struct pki_info i, q;
    ASSERT_OK(pki_cert_parse(buf_view(&cert), &i, &e), &e);
    ASSERT_OK(pki_csr_parse(buf_view(&csr), &q, &e), &e);
    ASSERT_STREQ(s.cn, i.subject.cn);
    ASSERT_EQ(2, i.subject.n_orgs);
    ASSERT_STREQ("system:nodes", i.subject.orgs[0]);
    ASSERT_STREQ("a=b", i.subject.orgs[1]);
    ASSERT_EQ(4, i.subject.n_sans);
    for (size_t n = 0; n < 4; n++) {
        ASSERT_STREQ(s.sans[n], i.subject.sans[n]);
        ASSERT_STREQ(s.sans[n], q.subject.sans[n]);
    }
    ASSERT_EQ(PKI_SERVER | PKI_CLIENT, i.usage);
    ASSERT(!i.is_ca);
    ASSERT_EQ(f.now - 300, i.not_before_s);
    ASSERT_EQ(f.now + 365 * DAY, i.not_after_s);
    ASSERT_EQ(32, strlen(i.serial));
    assert_memory_equal(i.spki_sha256, q.spki_sha256, 32);
    pki_info_fini(&i);
    pki_info_fini(&q);
    teardown(&f);
}

TEST(pki, verify_trusts_only_its_ca_and_its_time) {
    struct fixture f, other;
    struct err e = ERR_INIT;
    setup(&f);
    setup(&other);
    AUTO(buf) struct buf cert = BUF_INIT(PEM), both = BUF_INIT(PEM);
    struct pki_subject s = {.cn = "x"};
    struct pki_sign_req r = {.ca_key = f.ca_key,
                             .ca_cert_pem = buf_view(&f.ca),
                             .subject_key = other.ca_key,
                             .subject = &s,
                             .usage = PKI_CLIENT,
                             .now_s = f.now,
                             .ttl_s = DAY};
    ASSERT_OK(pki_sign(&r, &cert, &e), &e);
    buf_span(&both, buf_view(&other.ca));
    buf_span(&both, buf_view(&f.ca));
    ASSERT_OK(pki_verify(buf_view(&cert), buf_view(&f.ca), f.now, &e), &e);
    ASSERT_OK(pki_verify(buf_view(&cert), buf_view(&both), f.now, &e), &e);
    ASSERT_ERR(-ERR_UNAUTHENTICATED, pki_verify(buf_view(&cert), buf_view(&other.ca), f.now, NULL));
    ASSERT_ERR(-ERR_UNAUTHENTICATED,
               pki_verify(buf_view(&cert), buf_view(&f.ca), f.now + 2 * DAY, NULL));
    ASSERT_ERR(-ERR_UNAUTHENTICATED,
               pki_verify(buf_view(&cert), buf_view(&f.ca), f.now - DAY, NULL));
    /* signing with a key that is not the CA's, or with a leaf as CA, is refused */
    r.ca_key = other.ca_key;
    ASSERT_ERR(-ERR_INVALID, pki_sign(&r, &both, NULL));
    r.ca_cert_pem = buf_view(&cert);
    ASSERT_ERR(-ERR_INVALID, pki_sign(&r, &both, NULL));
    teardown(&f);
    teardown(&other);
}

TEST(pki, request_signed_by_another_key_is_refused) {
    struct err e = ERR_INIT;
    AUTO(pki_keyp) struct pki_key *k = NULL;
    AUTO(buf) struct buf csr = BUF_INIT(PEM), der = BUF_INIT(PEM);
    struct pki_subject s = {.cn = "abc"};
    ASSERT_OK(pki_key_new(PKI_EC_P256, &k, &e), &e);
    ASSERT_OK(pki_csr_new(k, &s, &csr, &e), &e);
    struct span line, rest = buf_view(&csr);
    struct buf b64 = BUF_INIT(PEM);
    while (span_line(&rest, &line) == 0) {
        if (!span_starts(line, "-----")) {
            buf_span(&b64, line);
        }
    }
    ASSERT_EQ(0, b64_decode(&der, buf_view(&b64)));
    buf_fini(&b64);
    uint8_t *cn = memmem(der.p, der.n, "abc", 3);
    cn[0] = 'x';
    struct pki_info i;
    ASSERT_ERR(-ERR_UNAUTHENTICATED, pki_csr_parse(buf_view(&der), &i, NULL));
}

TEST(pki, tokens) {
    struct err e = ERR_INIT;
    for (int kind = PKI_EC_P256; kind <= PKI_RSA_2048; kind++) {
        AUTO(pki_keyp) struct pki_key *k = NULL, *k2 = NULL;
        AUTO(buf) struct buf pub = BUF_INIT(PEM), pub2 = BUF_INIT(PEM), tok = BUF_INIT(PEM);
        AUTO(buf) struct buf claims = BUF_INIT(PEM), jwk = BUF_INIT(PEM);
        ASSERT_OK(pki_key_new((enum pki_key_kind)kind, &k, &e), &e);
        ASSERT_OK(pki_key_new(PKI_EC_P256, &k2, &e), &e);
        ASSERT_OK(pki_key_write_public(k, &pub, &e), &e);
        ASSERT_OK(pki_key_write_public(k2, &pub2, &e), &e);
        ASSERT_OK(pki_jws_sign(k, SPAN_LIT("{\"sub\":\"me\"}"), &tok, &e), &e);
        struct span keys[] = {buf_view(&pub2), buf_view(&pub)};
        ASSERT_OK(pki_jws_verify(buf_view(&tok), keys, 2, &claims, &e), &e);
        ASSERT_STREQ("{\"sub\":\"me\"}", buf_cstr(&claims));
        ASSERT_ERR(-ERR_UNAUTHENTICATED, pki_jws_verify(buf_view(&tok), keys, 1, &claims, NULL));
        tok.p[tok.n / 3] ^= 1; /* in the header or payload */
        ASSERT(pki_jws_verify(buf_view(&tok), keys, 2, &claims, NULL) < 0);
        ASSERT_OK(pki_jwk(buf_view(&pub), &jwk, &e), &e);
        ASSERT(
            strstr(buf_cstr(&jwk), kind == PKI_RSA_2048 ? "\"e\":\"AQAB\"" : "\"crv\":\"P-256\""));
    }
    AUTO(buf) struct buf out = BUF_INIT(PEM);
    ASSERT_ERR(-ERR_INVALID, pki_jws_verify(SPAN_LIT("a.b"), NULL, 0, &out, NULL));
    /* {"alg":"none"} */
    ASSERT_ERR(-ERR_INVALID,
               pki_jws_verify(SPAN_LIT("eyJhbGciOiJub25lIn0.e30."), NULL, 0, &out, NULL));
}
