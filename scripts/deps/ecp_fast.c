/* Scalar multiplication on P-256 and Curve25519 for mbedTLS by ring (C and assembly that BoringSSL, OpenSSL and Go share):
 * constant time like mbedTLS' own, and some fifteen times as fast. deps.mk compiles mbedTLS' ecp.c with other names
 * (mbedtls_plain_…) for the four functions at the end of this file; these come first and hand everything else on: other
 * curves, and whatever is out of the ordinary. mbedTLS checks keys and points as ever, and keeps the arithmetic of ECDSA.
 */
#define MBEDTLS_ALLOW_PRIVATE_ACCESS
#include <mbedtls/ecp.h>
#include <mbedtls/platform_util.h>

#include <ring-core/base.h> /* gives ring's symbols a prefix */

#include <stdint.h>
#include <string.h>

enum { LIMBS = 4, BYTES = 32 };
typedef uint64_t felem[LIMBS]; /* little endian; mod p in Montgomery form, but for scalars */
typedef int rng_fn(void *, unsigned char *, size_t);

/* ring: crypto/fipsmodule/ec/p256-nistz.c, crypto/curve25519; no header has these, Rust declares them for itself. */
void p256_point_mul(felem r[3], const felem k, const felem x, const felem y);
void p256_point_mul_base(felem r[3], const felem k);
void p256_point_add(felem r[3], const felem a[3], const felem b[3]);
void p256_mul_mont(felem r, const felem a, const felem b);
void p256_sqr_mont(felem r, const felem a);
void x25519_scalar_mult_generic_masked(uint8_t out[BYTES], const uint8_t k[BYTES],
                                       const uint8_t u[BYTES]);
void x25519_public_from_private_generic_masked(uint8_t out[BYTES], const uint8_t k[BYTES],
                                               int use_adx);

int mbedtls_plain_ecp_mul_restartable(mbedtls_ecp_group *grp, mbedtls_ecp_point *R,
                                      const mbedtls_mpi *m, const mbedtls_ecp_point *P, rng_fn *rng,
                                      void *rng_ctx, mbedtls_ecp_restart_ctx *rs);
int mbedtls_plain_ecp_muladd_restartable(mbedtls_ecp_group *grp, mbedtls_ecp_point *R,
                                         const mbedtls_mpi *m, const mbedtls_ecp_point *P,
                                         const mbedtls_mpi *n, const mbedtls_ecp_point *Q,
                                         mbedtls_ecp_restart_ctx *rs);

#ifdef __x86_64__ /* what ring's Rust half would find out */
void x25519_scalar_mult_adx(uint8_t out[BYTES], const uint8_t k[BYTES], const uint8_t u[BYTES]);
extern uint32_t avx2_available, adx_bmi2_available;

__attribute__((constructor)) static void look_at_the_processor(void) {
    __builtin_cpu_init();
    avx2_available = __builtin_cpu_supports("avx2") != 0;
    adx_bmi2_available = __builtin_cpu_supports("adx") && __builtin_cpu_supports("bmi2");
}
#endif

/* ---- P-256 ---- */

static const felem one = {1};
static const felem to_mont = {3, 0xfffffffbffffffff, 0xfffffffffffffffe, 0x4fffffffd}; /* 2^512 */

static int get(felem r, const mbedtls_mpi *m) {
    return mbedtls_mpi_write_binary_le(m, (uint8_t *)r, BYTES); /* on little endian machines */
}

static int get_mont(felem r, const mbedtls_mpi *m) {
    int rc = get(r, m);
    p256_mul_mont(r, r, to_mont);
    return rc;
}

static int put_mont(mbedtls_mpi *m, felem v) {
    p256_mul_mont(v, v, one);
    return mbedtls_mpi_read_binary_le(m, (const uint8_t *)v, BYTES);
}

static void sqr_n(felem r, const felem a, int n) {
    p256_sqr_mont(r, a);
    while (--n > 0) {
        p256_sqr_mont(r, r);
    }
}

/* r = a^-2 = a^(p-3) (Fermat), p-3 = ffffffff 00000001 00000000 00000000 00000000 ffffffff ffffffff fffffffc.
 * xN = a^(2^N-1), N ones. */
static void inverse_of_square(felem r, const felem a) {
    felem x2, x3, x6, x12, x15, x30, x32;
    p256_sqr_mont(x2, a);
    p256_mul_mont(x2, x2, a);
    p256_sqr_mont(x3, x2);
    p256_mul_mont(x3, x3, a);
    sqr_n(x6, x3, 3);
    p256_mul_mont(x6, x6, x3);
    sqr_n(x12, x6, 6);
    p256_mul_mont(x12, x12, x6);
    sqr_n(x15, x12, 3);
    p256_mul_mont(x15, x15, x3);
    sqr_n(x30, x15, 15);
    p256_mul_mont(x30, x30, x15);
    sqr_n(x32, x30, 2);
    p256_mul_mont(x32, x32, x2);
    sqr_n(r, x32, 32);
    p256_mul_mont(r, r, a);
    sqr_n(r, r, 128);
    p256_mul_mont(r, r, x32);
    sqr_n(r, r, 32);
    p256_mul_mont(r, r, x32);
    sqr_n(r, r, 30);
    p256_mul_mont(r, r, x30);
    sqr_n(r, r, 2);
}

/* Jacobian to affine: x = X Z^-2, y = Y Z^-3, with Z^-3 = (Z^-2)^2 Z. */
static int put_point(mbedtls_ecp_point *R, felem j[3]) {
    felem z2, z3;
    inverse_of_square(z2, j[2]);
    p256_sqr_mont(z3, z2);
    p256_mul_mont(z3, z3, j[2]);
    p256_mul_mont(j[0], j[0], z2);
    p256_mul_mont(j[1], j[1], z3);
    int rc = put_mont(&R->X, j[0]);
    rc = rc ? rc : put_mont(&R->Y, j[1]);
    return rc ? rc : mbedtls_mpi_lset(&R->Z, 1);
}

/* j = m P; 0 < m < n and P on the curve: the callers have made sure. */
static int p256_mul(felem j[3], const mbedtls_ecp_group *grp, const mbedtls_mpi *m,
                    const mbedtls_ecp_point *P) {
    felem k, x, y;
    int rc = get(k, m);
    if (rc == 0 && mbedtls_ecp_point_cmp(P, &grp->G) == 0) {
        p256_point_mul_base(j, k);
    } else if (rc == 0) {
        rc = get_mont(x, &P->X);
        rc = rc ? rc : get_mont(y, &P->Y);
        p256_point_mul(j, k, x, y);
    }
    mbedtls_platform_zeroize(k, sizeof(k));
    return rc;
}

/* ---- Curve25519 ---- */

static void x25519(uint8_t out[BYTES], const uint8_t k[BYTES], const uint8_t u[BYTES]) {
#ifdef __x86_64__
    if (adx_bmi2_available) {
        x25519_scalar_mult_adx(out, k, u);
        return;
    }
#endif
    x25519_scalar_mult_generic_masked(out, k, u);
}

static int x25519_mul(mbedtls_ecp_point *R, const mbedtls_ecp_group *grp, const mbedtls_mpi *m,
                      const mbedtls_ecp_point *P) {
    uint8_t k[BYTES], u[BYTES], out[BYTES];
    int rc = mbedtls_mpi_write_binary_le(m, k, BYTES);
    rc = rc ? rc : mbedtls_mpi_write_binary_le(&P->X, u, BYTES);
    if (rc == 0 && mbedtls_mpi_cmp_mpi(&P->X, &grp->G.X) == 0) {
        x25519_public_from_private_generic_masked(out, k, 0);
    } else if (rc == 0) {
        x25519(out, k, u);
    }
    if (rc == 0) {
        mbedtls_mpi_free(&R->Y);
        rc = mbedtls_mpi_read_binary_le(&R->X, out, BYTES);
        rc = rc ? rc : mbedtls_mpi_lset(&R->Z, 1);
    }
    mbedtls_platform_zeroize(k, BYTES);
    mbedtls_platform_zeroize(out, BYTES);
    return rc;
}

/* ---- under mbedTLS' names ---- */

int mbedtls_ecp_mul_restartable(mbedtls_ecp_group *grp, mbedtls_ecp_point *R, const mbedtls_mpi *m,
                                const mbedtls_ecp_point *P, rng_fn *rng, void *rng_ctx,
                                mbedtls_ecp_restart_ctx *rs) {
    if (!rng || (grp->id != MBEDTLS_ECP_DP_SECP256R1 && grp->id != MBEDTLS_ECP_DP_CURVE25519)) {
        return mbedtls_plain_ecp_mul_restartable(grp, R, m, P, rng, rng_ctx, rs);
    }
    int rc = mbedtls_ecp_check_privkey(grp, m);
    rc = rc ? rc : mbedtls_ecp_check_pubkey(grp, P);
    if (rc || grp->id == MBEDTLS_ECP_DP_CURVE25519) {
        return rc ? rc : x25519_mul(R, grp, m, P);
    }
    felem j[3];
    rc = p256_mul(j, grp, m, P);
    rc = rc ? rc : put_point(R, j);
    mbedtls_platform_zeroize(j, sizeof(j));
    return rc;
}

int mbedtls_ecp_mul(mbedtls_ecp_group *grp, mbedtls_ecp_point *R, const mbedtls_mpi *m,
                    const mbedtls_ecp_point *P, rng_fn *rng, void *rng_ctx) {
    return mbedtls_ecp_mul_restartable(grp, R, m, P, rng, rng_ctx, NULL);
}

/* R = m P + n Q, of signatures that are verified: nothing here is secret. */
int mbedtls_ecp_muladd_restartable(mbedtls_ecp_group *grp, mbedtls_ecp_point *R,
                                   const mbedtls_mpi *m, const mbedtls_ecp_point *P,
                                   const mbedtls_mpi *n, const mbedtls_ecp_point *Q,
                                   mbedtls_ecp_restart_ctx *rs) {
    felem a[3], b[3];
    if (grp->id != MBEDTLS_ECP_DP_SECP256R1 || mbedtls_ecp_check_privkey(grp, m) ||
        mbedtls_ecp_check_privkey(grp, n) || mbedtls_ecp_check_pubkey(grp, P) ||
        mbedtls_ecp_check_pubkey(grp, Q)) {
        return mbedtls_plain_ecp_muladd_restartable(grp, R, m, P, n, Q, rs);
    }
    int rc = p256_mul(a, grp, m, P);
    rc = rc ? rc : p256_mul(b, grp, n, Q);
    if (rc) {
        return rc;
    }
    p256_point_add(a, a, b);
    return a[2][0] | a[2][1] | a[2][2] | a[2][3] ? put_point(R, a) : mbedtls_ecp_set_zero(R);
}

int mbedtls_ecp_muladd(mbedtls_ecp_group *grp, mbedtls_ecp_point *R, const mbedtls_mpi *m,
                       const mbedtls_ecp_point *P, const mbedtls_mpi *n,
                       const mbedtls_ecp_point *Q) {
    return mbedtls_ecp_muladd_restartable(grp, R, m, P, n, Q, NULL);
}
