/* Scalar multiplication: what scripts/deps/ecp_fast.c gives to mbedTLS against mbedTLS' own. */
#define MBEDTLS_ALLOW_PRIVATE_ACCESS /* the coordinates of points */
#include "internal/pki/pki_int.h"

#include "internal/t/t.h"

#include <mbedtls/ecp.h>

#if defined(__x86_64__) || defined(__aarch64__)

int mbedtls_plain_ecp_mul(mbedtls_ecp_group *grp, mbedtls_ecp_point *R, const mbedtls_mpi *m,
                          const mbedtls_ecp_point *P, int (*rng)(void *, unsigned char *, size_t),
                          void *ctx);
int mbedtls_plain_ecp_muladd(mbedtls_ecp_group *grp, mbedtls_ecp_point *R, const mbedtls_mpi *m,
                             const mbedtls_ecp_point *P, const mbedtls_mpi *n,
                             const mbedtls_ecp_point *Q);

struct ec {
    mbedtls_ecp_group g;
    mbedtls_ecp_point p, q, fast, plain;
    mbedtls_mpi m, n;
};

static void ec_init(struct ec *c, mbedtls_ecp_group_id id) {
    mbedtls_ecp_group_init(&c->g);
    mbedtls_ecp_point_init(&c->p);
    mbedtls_ecp_point_init(&c->q);
    mbedtls_ecp_point_init(&c->fast);
    mbedtls_ecp_point_init(&c->plain);
    mbedtls_mpi_init(&c->m);
    mbedtls_mpi_init(&c->n);
    ASSERT_EQ(0, mbedtls_ecp_group_load(&c->g, id));
    ASSERT_EQ(0, mbedtls_ecp_copy(&c->p, &c->g.G));
}

static void ec_fini(struct ec *c) {
    mbedtls_ecp_group_free(&c->g);
    mbedtls_ecp_point_free(&c->p);
    mbedtls_ecp_point_free(&c->q);
    mbedtls_ecp_point_free(&c->fast);
    mbedtls_ecp_point_free(&c->plain);
    mbedtls_mpi_free(&c->m);
    mbedtls_mpi_free(&c->n);
}

/* Both agree, about the answer or about there being none. */
static void check_mul(struct ec *c) {
    int a = mbedtls_ecp_mul(&c->g, &c->fast, &c->m, &c->p, pki_rng, NULL);
    int b = mbedtls_plain_ecp_mul(&c->g, &c->plain, &c->m, &c->p, pki_rng, NULL);
    ASSERT_EQ(a, b);
    if (a == 0) {
        ASSERT_EQ(0, mbedtls_ecp_point_cmp(&c->fast, &c->plain));
    }
}

static void check_muladd(struct ec *c) {
    int a = mbedtls_ecp_muladd(&c->g, &c->fast, &c->m, &c->g.G, &c->n, &c->q);
    int b = mbedtls_plain_ecp_muladd(&c->g, &c->plain, &c->m, &c->g.G, &c->n, &c->q);
    ASSERT_EQ(a, b);
    if (a == 0) {
        ASSERT_EQ(0, mbedtls_ecp_point_cmp(&c->fast, &c->plain));
    }
}

static void chains(struct ec *c, size_t n) {
    for (size_t i = 0; i < n; i++) {
        ASSERT_EQ(0, mbedtls_ecp_gen_privkey(&c->g, &c->m, pki_rng, NULL));
        check_mul(c);
        if (i % 8 == 7) { /* not from the base only */
            ASSERT_EQ(0, mbedtls_ecp_copy(&c->p, &c->g.G));
        } else {
            ASSERT_EQ(0, mbedtls_ecp_copy(&c->p, &c->plain));
        }
    }
}

TEST(pki, ecp_p256_is_mbedtls_own) {
    struct ec c;
    ec_init(&c, MBEDTLS_ECP_DP_SECP256R1);
    chains(&c, 64);
    for (int k = -3; k < 70;
         k++) { /* round 0 and round n, where both refuse what is out of range */
        ASSERT_EQ(0, mbedtls_mpi_lset(&c.m, k));
        check_mul(&c);
        ASSERT_EQ(0, mbedtls_mpi_add_int(&c.m, &c.g.N, k - 67));
        check_mul(&c);
    }
    ASSERT_EQ(0, mbedtls_mpi_lset(&c.m, 5));
    ASSERT_EQ(0, mbedtls_mpi_add_int(&c.p.X, &c.p.X, 1)); /* off the curve */
    check_mul(&c);
    ASSERT(mbedtls_ecp_mul(&c.g, &c.fast, &c.m, &c.p, pki_rng, NULL) != 0);
    ec_fini(&c);
}

TEST(pki, ecp_p256_sums) {
    struct ec c;
    ec_init(&c, MBEDTLS_ECP_DP_SECP256R1);
    for (int i = 0; i < 32; i++) {
        ASSERT_EQ(0, mbedtls_ecp_gen_keypair(&c.g, &c.m, &c.q, pki_rng, NULL));
        ASSERT_EQ(0, mbedtls_ecp_gen_privkey(&c.g, &c.m, pki_rng, NULL));
        ASSERT_EQ(0, mbedtls_ecp_gen_privkey(&c.g, &c.n, pki_rng, NULL));
        check_muladd(&c);
    }
    ASSERT_EQ(0, mbedtls_ecp_copy(&c.q, &c.g.G));
    for (int k = 0; k < 4; k++) { /* G + kG: nothing, twice the same, and an ordinary sum */
        ASSERT_EQ(0, mbedtls_mpi_lset(&c.m, 1));
        ASSERT_EQ(0, mbedtls_mpi_lset(&c.n, k));
        check_muladd(&c);
    }
    ASSERT_EQ(0, mbedtls_mpi_sub_int(&c.n, &c.g.N, 1)); /* G - G */
    check_muladd(&c);
    ASSERT(mbedtls_ecp_is_zero(&c.fast));
    ec_fini(&c);
}

TEST(pki, ecp_x25519_is_mbedtls_own) {
    struct ec c;
    ec_init(&c, MBEDTLS_ECP_DP_CURVE25519);
    chains(&c, 64);
    for (int u = 0; u < 3; u++) { /* points of low order are refused */
        ASSERT_EQ(0, mbedtls_mpi_lset(&c.p.X, u));
        check_mul(&c);
    }
    ASSERT_EQ(0, mbedtls_mpi_lset(&c.m, 1)); /* no X25519 scalar */
    check_mul(&c);
    ec_fini(&c);
}

#endif
