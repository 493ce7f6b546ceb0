/* Reading: certificates and requests into struct pki_info, and checking one against a bundle. */
#include "internal/pki/pki_int.h"

#include "internal/base/arena.h"
#include "internal/base/rand.h"
#include "internal/hash/hash.h"
#include "internal/pem/pem.h"

#include <mbedtls/md.h>
#include <mbedtls/oid.h>
#include <mbedtls/x509_crt.h>
#include <mbedtls/x509_csr.h>

#include <arpa/inet.h>
#include <stdlib.h>

static const char *const cert_labels[] = {"CERTIFICATE", NULL};
static const char *const csr_labels[] = {"CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST", NULL};

static uint64_t unix_time(const mbedtls_x509_time *t) {
    char text[TIME_STR];
    uint64_t ns = 0;
    if (str_put(text, sizeof(text), "%04d-%02d-%02dT%02d:%02d:%02dZ", t->year, t->mon, t->day,
                t->hour, t->min, t->sec) < 0 ||
        time_parse(span_str(text), &ns) < 0) {
        return t->year > 2000 ? UINT64_MAX / NS_PER_S : 0; /* "99991231235959Z" and the like */
    }
    return ns / NS_PER_S;
}

static char *text_of(struct arena *a, const mbedtls_asn1_buf *b, struct err *e) {
    if (!b->len || b->len > LIM_PKI_NAME || memchr(b->p, 0, b->len)) {
        err_set(e, ERR_INVALID, "certificate name is empty, too long or holds a NUL");
        return NULL;
    }
    char *s = arena_str(a, span_of(b->p, b->len));
    if (!s) {
        err_set(e, ERR_NOMEM, "certificate name");
    }
    return s;
}

/* Of several CNs the last counts, as in Go's pkix.Name. */
static int read_subject(struct arena *a, const mbedtls_x509_name *n, struct pki_subject *s,
                        struct err *e) {
    for (; n && n->oid.p; n = n->next) {
        bool is_cn = MBEDTLS_OID_CMP(MBEDTLS_OID_AT_CN, &n->oid) == 0;
        bool is_org = MBEDTLS_OID_CMP(MBEDTLS_OID_AT_ORGANIZATION, &n->oid) == 0;
        if (!is_cn && !is_org) {
            continue;
        }
        char *v = text_of(a, &n->val, e);
        if (!v) {
            return e ? -(int)e->code : -ERR_INVALID;
        }
        if (is_cn) {
            s->cn = v;
        } else if (s->n_orgs == PKI_ORGS) {
            return err_set(e, ERR_LIMIT, "more than %d organisations in a certificate", PKI_ORGS);
        } else {
            s->orgs[s->n_orgs++] = v;
        }
    }
    return 0;
}

static int read_sans(struct arena *a, const mbedtls_x509_sequence *q, struct pki_subject *s,
                     struct err *e) {
    for (; q && q->buf.p; q = q->next) {
        unsigned kind = (unsigned)q->buf.tag & MBEDTLS_ASN1_TAG_VALUE_MASK;
        char ip[INET6_ADDRSTRLEN], *v;
        if (kind == MBEDTLS_X509_SAN_DNS_NAME) {
            v = text_of(a, &q->buf, e);
        } else if (kind == MBEDTLS_X509_SAN_IP_ADDRESS && (q->buf.len == 4 || q->buf.len == 16)) {
            inet_ntop(q->buf.len == 4 ? AF_INET : AF_INET6, q->buf.p, ip, sizeof(ip));
            v = arena_str(a, span_str(ip));
        } else {
            continue; /* e-mail addresses and URIs name nothing that kfarm serves */
        }
        if (!v) {
            return e && e->code ? -(int)e->code
                                : err_set(e, ERR_INVALID, "subject alternative name");
        }
        if (s->n_sans == PKI_SANS) {
            return err_set(e, ERR_LIMIT, "more than %d subject alternative names", PKI_SANS);
        }
        s->sans[s->n_sans++] = v;
    }
    return 0;
}

static struct arena *info_arena(void) {
    struct arena *a = new_zero(struct arena);
    a->max = 256 * 1024;
    return a;
}

static int give(struct pki_info *i, struct pki_info *ret, int rc) {
    if (rc < 0) {
        pki_info_fini(i);
    } else {
        if (!i->subject.cn) {
            i->subject.cn = "";
        }
        *ret = *i;
    }
    return rc;
}

int pki_cert_parse(struct span in, struct pki_info *ret, struct err *e) {
    AUTO(buf) struct buf der = BUF_INIT(LIM_PKI_PEM);
    int rc = pki_first(in, cert_labels, &der, e);
    if (rc < 0) {
        return rc;
    }
    mbedtls_x509_crt c;
    mbedtls_x509_crt_init(&c);
    struct pki_info i = {.arena_ = info_arena()};
    AUTO(buf) struct buf hex = BUF_INIT(sizeof(i.serial) - 1);
    int m = mbedtls_x509_crt_parse_der_nocopy(&c, der.p, der.n);
    if (m) {
        rc = pki_fail(e, ERR_INVALID, m, "certificate");
        goto out;
    }
    rc = read_subject(i.arena_, &c.subject, &i.subject, e);
    rc = rc < 0 ? rc : read_sans(i.arena_, &c.subject_alt_names, &i.subject, e);
    i.not_before_s = unix_time(&c.valid_from);
    i.not_after_s = unix_time(&c.valid_to);
    i.is_ca = mbedtls_x509_crt_get_ca_istrue(&c) == 1;
    i.usage = i.is_ca ? PKI_CA : 0;
    for (const mbedtls_x509_sequence *q = &c.ext_key_usage; q && q->buf.p; q = q->next) {
        if (MBEDTLS_OID_CMP(MBEDTLS_OID_SERVER_AUTH, &q->buf) == 0) {
            i.usage |= PKI_SERVER;
        } else if (MBEDTLS_OID_CMP(MBEDTLS_OID_CLIENT_AUTH, &q->buf) == 0) {
            i.usage |= PKI_CLIENT;
        }
    }
    hex_encode(&hex, span_of(c.serial.p, c.serial.len));
    IGNORE_ERR(str_put(i.serial, sizeof(i.serial), "%s", buf_cstr(&hex)), "bounded by the buf");
    hash_sha256(span_of(c.pk_raw.p, c.pk_raw.len), i.spki_sha256);
out:
    mbedtls_x509_crt_free(&c);
    return give(&i, ret, rc);
}

static int csr_check(mbedtls_x509_csr *c, struct err *e) {
    const mbedtls_md_info_t *md = mbedtls_md_info_from_type(c->MBEDTLS_PRIVATE(sig_md));
    uint8_t digest[64];
    if (!pki_key_allowed(&c->pk)) {
        return err_set(e, ERR_INVALID, "certificate request: kind or size of key not supported");
    }
    if (!md || mbedtls_md_get_size(md) < 32) {
        return err_set(e, ERR_INVALID, "certificate request: weak or unknown signature hash");
    }
    CHECK(mbedtls_md(md, c->cri.p, c->cri.len, digest) == 0);
    int m = mbedtls_pk_verify_ext(c->MBEDTLS_PRIVATE(sig_pk), c->MBEDTLS_PRIVATE(sig_opts), &c->pk,
                                  c->MBEDTLS_PRIVATE(sig_md), digest, mbedtls_md_get_size(md),
                                  c->MBEDTLS_PRIVATE(sig).p, c->MBEDTLS_PRIVATE(sig).len);
    return m ? err_set(e, ERR_UNAUTHENTICATED, "certificate request: not signed by its own key")
             : 0;
}

int pki_csr_read(struct span in, struct pki_info *ret, struct buf *ret_spki, struct err *e) {
    AUTO(buf) struct buf der = BUF_INIT(LIM_PKI_PEM);
    int rc = pki_first(in, csr_labels, &der, e);
    if (rc < 0) {
        return rc;
    }
    mbedtls_x509_csr c;
    mbedtls_x509_csr_init(&c);
    struct pki_info i = {.arena_ = info_arena()};
    int m = mbedtls_x509_csr_parse_der(&c, der.p, der.n);
    if (m) {
        rc = pki_fail(e, ERR_INVALID, m, "certificate request");
        goto out;
    }
    rc = csr_check(&c, e);
    rc = rc < 0 ? rc : read_subject(i.arena_, &c.subject, &i.subject, e);
    rc = rc < 0 ? rc : read_sans(i.arena_, &c.subject_alt_names, &i.subject, e);
    size_t at = ret_spki->n;
    rc = rc < 0 ? rc : pki_spki(&c.pk, ret_spki, e);
    if (rc == 0) {
        hash_sha256(span_of(ret_spki->p + at, ret_spki->n - at), i.spki_sha256);
    }
out:
    mbedtls_x509_csr_free(&c);
    return give(&i, ret, rc);
}

int pki_csr_parse(struct span in, struct pki_info *ret, struct err *e) {
    AUTO(buf) struct buf spki = BUF_INIT(PKI_DER_KEY);
    return pki_csr_read(in, ret, &spki, e);
}

void pki_info_fini(struct pki_info *i) {
    if (i->arena_) {
        arena_fini(i->arena_);
        free(i->arena_);
    }
    *i = (struct pki_info){0};
}

/* ---- verification ---- */

static int parse_bundle(mbedtls_x509_crt *chain, struct span pem, struct err *e) {
    AUTO(buf) struct buf der = BUF_INIT(LIM_PKI_PEM);
    struct span label;
    int rc, n = 0;
    while ((rc = pem_next(&pem, &label, &der)) == 0) {
        if (span_eq_str(label, "CERTIFICATE")) {
            int m = mbedtls_x509_crt_parse_der(chain, der.p, der.n);
            if (m) {
                return pki_fail(e, ERR_INVALID, m, "CA bundle");
            }
            n++;
        }
        buf_reset(&der);
    }
    return rc != -ERR_NOT_FOUND || !n
               ? err_set(e, ERR_INVALID, "CA bundle: no valid PEM certificate")
               : 0;
}

/* The library judges times by the wall clock; here the caller's time counts. */
static int judge_time(void *ctx, mbedtls_x509_crt *c, int depth, uint32_t *flags) {
    uint64_t now = *(const uint64_t *)ctx;
    (void)depth;
    *flags &= ~(uint32_t)(MBEDTLS_X509_BADCERT_EXPIRED | MBEDTLS_X509_BADCERT_FUTURE);
    if (now < unix_time(&c->valid_from)) {
        *flags |= MBEDTLS_X509_BADCERT_FUTURE;
    }
    if (now > unix_time(&c->valid_to)) {
        *flags |= MBEDTLS_X509_BADCERT_EXPIRED;
    }
    return 0;
}

int pki_verify(struct span leaf_pem, struct span bundle, uint64_t now_s, struct err *e) {
    AUTO(buf) struct buf der = BUF_INIT(LIM_PKI_PEM);
    int rc = pki_first(leaf_pem, cert_labels, &der, e);
    if (rc < 0) {
        return rc;
    }
    mbedtls_x509_crt leaf, ca;
    mbedtls_x509_crt_init(&leaf);
    mbedtls_x509_crt_init(&ca);
    uint32_t flags = 0;
    int m = mbedtls_x509_crt_parse_der_nocopy(&leaf, der.p, der.n);
    if (m) {
        rc = pki_fail(e, ERR_INVALID, m, "certificate");
        goto out;
    }
    rc = parse_bundle(&ca, bundle, e);
    if (rc < 0) {
        goto out;
    }
    m = mbedtls_x509_crt_verify(&leaf, &ca, NULL, NULL, &flags, judge_time, &now_s);
    if (m) {
        rc = err_set(e, ERR_UNAUTHENTICATED, "certificate is %s",
                     flags & MBEDTLS_X509_BADCERT_NOT_TRUSTED ? "not signed by a trusted CA"
                     : flags & MBEDTLS_X509_BADCERT_EXPIRED   ? "expired"
                     : flags & MBEDTLS_X509_BADCERT_FUTURE    ? "not valid yet"
                                                              : "not acceptable");
    }
out:
    mbedtls_x509_crt_free(&leaf);
    mbedtls_x509_crt_free(&ca);
    return rc;
}
