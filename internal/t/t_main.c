#include "internal/t/t.h"

#include "internal/base/rand.h"

#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

static struct t_test *g_tests;
static struct t_fuzz *g_fuzz;

void t_register(struct t_test *t) {
    struct t_test **at = &g_tests;
    while (*at && strcmp((*at)->pkg, t->pkg) <= 0) {
        at = &(*at)->next;
    }
    t->next = *at;
    *at = t;
}
void t_register_fuzz(struct t_fuzz *f) {
    f->next = g_fuzz;
    g_fuzz = f;
}

uint32_t t_gen_u32(struct t_gen *g, uint32_t lo, uint32_t hi) {
    uint32_t v = 0;
    for (int i = 0; i < 4 && g->s.n; i++) {
        uint8_t b = 0;
        IGNORE_ERR(span_u8(&g->s, &b), "length checked");
        v = v << 8 | b;
    }
    return hi <= lo ? lo : lo + (uint32_t)(v % ((uint64_t)hi - lo + 1));
}

struct span t_gen_bytes(struct t_gen *g, size_t max) {
    struct span out = SPAN_EMPTY;
    size_t n = t_gen_u32(g, 0, (uint32_t)max);
    IGNORE_ERR(span_take(&g->s, n < g->s.n ? n : g->s.n, &out), "length bounded");
    return out;
}

void t_property(const char *name, int (*prop)(const uint8_t *p, size_t n), size_t rounds,
                size_t max) {
    const char *fixed = getenv("KF_SEED"), *times = getenv("KF_ROUNDS");
    uint64_t seed = rand_u64(), factor = 1;
    if (fixed && span_to_u64(span_str(fixed), 0, UINT64_MAX, &seed) < 0) {
        fail_msg("KF_SEED is not a number");
    }
    if (times && span_to_u64(span_str(times), 1, 1000000, &factor) < 0) {
        fail_msg("KF_ROUNDS is not a number from 1 to 1000000");
    }
    uint8_t *data = mem_zero_alloc(max + 1);
    for (size_t r = 0; r < rounds * factor; r++, seed++) {
        uint64_t x = seed * 0x9e3779b97f4a7c15ull + 1;
        size_t n = (size_t)(x >> 33) % (max + 1);
        for (size_t i = 0; i < n; i++) {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            data[i] = (uint8_t)x;
        }
        if (prop(data, n) != 0) {
            fail_msg("property %s failed with KF_SEED=%llu", name, (unsigned long long)seed);
        }
        if (fixed) {
            break;
        }
    }
    free(data);
}

const char *t_testdata(void) {
    const char *d = getenv("KF_TESTDATA");
    return d ? d : "testdata";
}

int t_read_file(const char *path, struct buf *b) {
    FILE *f = fopen(path, "re");
    if (!f) {
        return -ERR_NOT_FOUND;
    }
    uint8_t chunk[4096];
    size_t n;
    while ((n = fread(chunk, 1, sizeof(chunk), f)) > 0) {
        buf_add(b, chunk, n);
    }
    fclose(f);
    return buf_ok(b);
}

#ifdef KF_FUZZ_MAIN /* libFuzzer has main(); every target is linked in, KF_FUZZ= names the one to \
                       run */
int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static const struct t_fuzz *g_chosen;

int LLVMFuzzerInitialize(int *argc __attribute__((unused)), char ***argv __attribute__((unused))) {
    const char *want = getenv("KF_FUZZ");
    for (g_chosen = g_fuzz; g_chosen && !(want && str_eq(g_chosen->name, want));) {
        g_chosen = g_chosen->next;
    }
    if (!g_chosen) {
        fprintf(stderr, "no fuzz target %s; there are:\n", want ? want : "in KF_FUZZ");
        for (struct t_fuzz *f = g_fuzz; f; f = f->next) {
            fprintf(stderr, "  %s\n", f->name);
        }
        exit(2);
    }
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n) {
    return g_chosen->fn(p, n);
}
#else

/* --replay NAME FILE…: runs one fuzz target over files. */
static int replay(int argc, char **argv) {
    for (struct t_fuzz *f = g_fuzz; f; f = f->next) {
        if (str_eq(f->name, argv[2])) {
            for (int i = 3; i < argc; i++) {
                struct buf b = BUF_INIT(64u << 20);
                if (t_read_file(argv[i], &b) < 0) {
                    fprintf(stderr, "cannot read %s\n", argv[i]);
                    return 1;
                }
                f->fn(b.p ? b.p : (const uint8_t *)"", b.n);
                buf_fini(&b);
            }
            printf("replayed %s: %d inputs\n", argv[2], argc - 3);
            return 0;
        }
    }
    fprintf(stderr, "no fuzz target %s\n", argv[2]);
    return 1;
}

int t_httpd(int argc, char **argv); /* t_httpd.c */

int main(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN); /* as the product does */
    if (argc >= 2 && str_eq(argv[1], "--httpd")) {
        return t_httpd(argc - 2, argv + 2);
    }
    if (argc >= 3 && str_eq(argv[1], "--replay")) {
        return replay(argc, argv);
    }
    if (argc >= 2 && str_eq(argv[1], "--list-fuzz")) {
        for (struct t_fuzz *f = g_fuzz; f; f = f->next) {
            puts(f->name);
        }
        return 0;
    }
    const char *only = argc > 1 ? argv[1] : NULL; /* a package, or package.test */
    size_t n = 0;
    struct CMUnitTest *tests = NULL;
    for (struct t_test *t = g_tests; t; t = t->next) {
        char *full = str_fmt("%s.%s", t->pkg, t->name);
        if (only && !str_eq(only, t->pkg) && !str_eq(only, full)) {
            free(full);
            continue;
        }
        tests = mem_array(tests, n + 1, sizeof(*tests), 100000);
        CHECK(tests);
        tests[n++] = (struct CMUnitTest){full, t->fn, NULL, NULL, NULL};
    }
    int failed = _cmocka_run_group_tests("kfarm", tests, n, NULL, NULL);
    for (size_t i = 0; i < n; i++) {
        union {
            const char *c;
            char *m;
        } u = {.c = tests[i].name};
        free(u.m);
    }
    free(tests);
    return failed || (!n && only) ? 1 : 0;
}
#endif
