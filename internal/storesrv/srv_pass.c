/* Password hashes: bcrypt, the form etcd stores ("$2a$10$…"), so that users move with snapshots. Its tables are the
 * digits of pi and are computed when needed: a password is checked rarely and slowly on purpose.
 * Spec: Provos and Mazières, "A Future-Adaptable Password Scheme"; Schneier, Blowfish. */
#include "internal/storesrv/srv_int.h"

#include "internal/base/rand.h"

#include <stdlib.h>

enum {
    N_P = 18,
    N_S = 1024,
    PI_WORDS = 1 + N_P + N_S + 3 /* integer part, tables, guard */,
    COST_MAX = 31
};

struct blowfish {
    uint32_t p[N_P], s[N_S];
};

/* ---- pi as a fixed-point number, most significant word first ---- */

static void div_small(uint32_t *v, size_t from, uint32_t d) {
    uint64_t rest = 0;
    for (size_t i = from; i < PI_WORDS; i++) {
        uint64_t cur = rest << 32 | v[i];
        v[i] = (uint32_t)(cur / d);
        rest = cur % d;
    }
}

static void add(uint32_t *v, const uint32_t *w, bool minus) {
    uint64_t carry = 0;
    for (size_t i = PI_WORDS; i-- > 0;) {
        uint64_t x = minus ? (uint64_t)v[i] - w[i] - carry : (uint64_t)v[i] + w[i] + carry;
        v[i] = (uint32_t)x;
        carry = x >> 32 & 1;
    }
}

/* sum += sign * factor * atan(1/x), by its series */
static void add_atan(uint32_t *sum, uint32_t factor, uint32_t x, bool minus, uint32_t *power,
                     uint32_t *term) {
    memset(power, 0, PI_WORDS * sizeof(*power));
    power[0] = factor;
    div_small(power, 0, x);
    size_t from = 0;
    for (uint32_t k = 1; from < PI_WORDS; k += 2) {
        memcpy(term, power, PI_WORDS * sizeof(*term));
        div_small(term, from, k);
        add(sum, term, minus ^ ((k & 2) != 0));
        div_small(power, from, x * x);
        while (from < PI_WORDS && !power[from]) {
            from++;
        }
    }
}

static void blowfish_init(struct blowfish *b) {
    uint32_t *w = mem_zero_alloc(3 * PI_WORDS * sizeof(*w));
    add_atan(w, 16, 5, false, w + PI_WORDS,
             w + 2 * PI_WORDS); /* Machin: 16 atan(1/5) - 4 atan(1/239) */
    add_atan(w, 4, 239, true, w + PI_WORDS, w + 2 * PI_WORDS);
    memcpy(b->p, w + 1, sizeof(b->p));
    memcpy(b->s, w + 1 + N_P, sizeof(b->s));
    free(w);
}

/* ---- the cipher and its slow key schedule ---- */

static void encrypt(const struct blowfish *b, uint32_t *l, uint32_t *r) {
    uint32_t x = *l, y = *r;
    for (size_t i = 0; i < 16; i += 2) {
        x ^= b->p[i];
        y ^= ((b->s[x >> 24] + b->s[256 + (x >> 16 & 255)]) ^ b->s[512 + (x >> 8 & 255)]) +
             b->s[768 + (x & 255)];
        y ^= b->p[i + 1];
        x ^= ((b->s[y >> 24] + b->s[256 + (y >> 16 & 255)]) ^ b->s[512 + (y >> 8 & 255)]) +
             b->s[768 + (y & 255)];
    }
    *l = y ^ b->p[17];
    *r = x ^ b->p[16];
}

static uint32_t cyclic_word(struct span s, size_t *at) {
    uint32_t v = 0;
    for (int i = 0; i < 4; i++) {
        v = v << 8 | s.p[*at];
        *at = (*at + 1) % s.n;
    }
    return v;
}

static void expand(struct blowfish *b, struct span key, const uint32_t salt[4]) {
    size_t at = 0, k = 0;
    uint32_t l = 0, r = 0;
    for (size_t i = 0; i < N_P; i++) {
        b->p[i] ^= cyclic_word(key, &at);
    }
    for (size_t i = 0; i < N_P + N_S; i += 2, k ^= 2) {
        l ^= salt[k];
        r ^= salt[k + 1];
        encrypt(b, &l, &r);
        uint32_t *to = i < N_P ? &b->p[i] : &b->s[i - N_P];
        to[0] = l;
        to[1] = r;
    }
}

static const char abc[] = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/* bcrypt's own base 64: another alphabet than RFC 4648's, no padding. */
static void encode64(struct buf *b, const uint8_t *in, size_t n) {
    for (size_t i = 0; i < n; i += 3) {
        uint32_t v = (uint32_t)in[i] << 16 | (i + 1 < n ? (uint32_t)in[i + 1] << 8 : 0) |
                     (i + 2 < n ? in[i + 2] : 0);
        size_t chars = n - i >= 3 ? 4 : n - i + 1;
        for (size_t k = 0; k < chars; k++) {
            buf_u8(b, (uint8_t)abc[v >> (18 - 6 * k) & 63]);
        }
    }
}

static bool decode_salt(const char *text, uint8_t out[16]) {
    uint32_t bits = 0;
    unsigned have = 0;
    size_t n = 0;
    for (size_t i = 0; i < 22; i++) {
        const char *at = text[i] ? strchr(abc, text[i]) : NULL;
        if (!at) {
            return false;
        }
        bits = bits << 6 | (uint32_t)(at - abc);
        have += 6;
        if (have >= 8 && n < 16) {
            have -= 8;
            out[n++] = (uint8_t)(bits >> have);
        }
    }
    return n == 16;
}

static char *bcrypt(const char *password, unsigned cost, const uint8_t salt[16]) {
    static const uint8_t magic[] = "OrpheanBeholderScryDoubt";
    static const uint32_t none[4] = {0};
    size_t n = strlen(password) + 1; /* with its end; 72 bytes count */
    struct span key = span_of(password, n < 72 ? n : 72), raw = span_of(salt, 16);
    struct blowfish *b = new_zero(struct blowfish);
    uint32_t s[4], text[6];
    uint8_t out[24];
    size_t at = 0;
    for (size_t i = 0; i < 4; i++) {
        s[i] = cyclic_word(raw, &at);
    }
    blowfish_init(b);
    expand(b, key, s);
    for (uint32_t i = 0; i < 1u << cost; i++) {
        expand(b, key, none);
        expand(b, raw, none);
    }
    at = 0;
    for (size_t i = 0; i < 6; i++) {
        text[i] = cyclic_word(span_of(magic, 24), &at);
    }
    for (size_t i = 0; i < 6; i += 2) {
        for (int k = 0; k < 64; k++) {
            encrypt(b, &text[i], &text[i + 1]);
        }
    }
    for (size_t i = 0; i < 24; i++) {
        out[i] = (uint8_t)(text[i / 4] >> (24 - 8 * (i % 4)));
    }
    secret_wipe(b, sizeof(*b));
    free(b);
    AUTO(buf) struct buf h = BUF_INIT(128);
    buf_fmt(&h, "$2a$%02u$", cost);
    encode64(&h, salt, 16);
    encode64(&h, out, 23);
    return str_dup(buf_cstr(&h));
}

char *pass_hash(const char *password, unsigned cost) {
    uint8_t salt[16];
    for (size_t i = 0; i < 2; i++) {
        uint64_t r = rand_u64();
        memcpy(salt + 8 * i, &r, 8);
    }
    return bcrypt(password, cost, salt);
}

bool pass_check(const char *password, const char *hash) {
    uint8_t salt[16];
    uint64_t cost;
    struct span h = span_str(hash);
    if (h.n != 60 || (!span_starts(h, "$2a$") && !span_starts(h, "$2b$")) || hash[6] != '$' ||
        span_to_u64(span_of(hash + 4, 2), 4, COST_MAX, &cost) < 0 || !decode_salt(hash + 7, salt)) {
        return false;
    }
    AUTO_FREE char *again = bcrypt(password, (unsigned)cost, salt);
    return strlen(again) == 60 && ct_eq(again + 7, hash + 7, 53);
}
