/* t — the test framework face: self-registering tests over cmocka, properties and fuzz targets. Test-only.
 *
 * TEST(pkg, name) { … ASSERT_OK(f(&e), &e); ASSERT_EQ(1, n); ASSERT_STREQ("a", s); ASSERT_ERR(-ERR_INVALID, f()); }
 * FUZZ(name) (const uint8_t *p, size_t n) { …; return 0; }   in *_fuzz.c; replayed over testdata/<pkg>/corpus/<name>/.
 */
#ifndef KF_T_H
#define KF_T_H

#include "internal/base/buf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

struct t_test {
    const char *pkg, *name;
    void (*fn)(void **state);
    struct t_test *next;
};
struct t_fuzz {
    const char *name;
    int (*fn)(const uint8_t *p, size_t n);
    struct t_fuzz *next;
};
void t_register(struct t_test *t);
void t_register_fuzz(struct t_fuzz *f);

#define TEST(pkg_, name_)                                                            \
    static void test_##pkg_##_##name_(void **state);                                 \
    __attribute__((constructor)) static void reg_##pkg_##_##name_(void) {            \
        static struct t_test t = {#pkg_, #name_, test_##pkg_##_##name_, NULL};       \
        t_register(&t);                                                              \
    }                                                                                \
    static void test_##pkg_##_##name_(void **state __attribute__((unused)))

#define FUZZ(name_)                                                                  \
    static int fuzz_##name_(const uint8_t *p, size_t n);                             \
    __attribute__((constructor)) static void regf_##name_(void) {                    \
        static struct t_fuzz f = {#name_, fuzz_##name_, NULL};                       \
        t_register_fuzz(&f);                                                         \
    }                                                                                \
    static int fuzz_##name_

#define ASSERT(c) assert_true(c)
#define ASSERT_EQ(want, got) assert_int_equal((want), (got))
#define ASSERT_STREQ(want, got) assert_string_equal((want), (got))
#define ASSERT_NULL(p) assert_null(p)
#define ASSERT_SPAN(want_lit, got)                                                   \
    do {                                                                             \
        struct span g_ = (got);                                                      \
        char *s_ = str_dupn(g_.p, g_.n);                                             \
        assert_string_equal((want_lit), s_);                                         \
        free(s_);                                                                    \
    } while (0)
#define ASSERT_OK(call, e)                                                           \
    do {                                                                             \
        int rc_ = (call);                                                            \
        if (rc_ < 0) {                                                               \
            fail_msg("%s: %s: %s", #call, err_name((enum err_code)-rc_), (e)->msg);  \
        }                                                                            \
    } while (0)
#define ASSERT_ERR(code, call) assert_int_equal((code), (call))

/* A byte source for properties: draws until the input is used up, then zeros. */
struct t_gen {
    struct span s;
};
uint32_t t_gen_u32(struct t_gen *g, uint32_t lo, uint32_t hi);
struct span t_gen_bytes(struct t_gen *g, size_t max);
/* Runs the property over `rounds` random inputs of up to max bytes; prints the seed of the input that failed. KF_SEED=
 * repeats that one, KF_ROUNDS= multiplies the rounds. */
void t_property(const char *name, int (*prop)(const uint8_t *p, size_t n), size_t rounds, size_t max);
/* Directory of test data of this checkout (KF_TESTDATA, default "testdata"). */
const char *t_testdata(void);
NODISCARD int t_read_file(const char *path, struct buf *b);

#endif
