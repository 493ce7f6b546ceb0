#include "internal/base/rand.h"

#include <errno.h>
#include <sys/random.h>
#include <time.h>

void rand_bytes(void *p, size_t n) {
    uint8_t *d = p;
    while (n) {
        ssize_t got = getrandom(d, n, 0);
        if (got < 0) {
            CHECK(errno == EINTR);
            continue;
        }
        d += got;
        n -= (size_t)got;
    }
}

uint64_t rand_u64(void) {
    uint64_t v;
    rand_bytes(&v, sizeof(v));
    return v;
}

uint64_t rand_below(uint64_t n) {
    CHECK(n);
    uint64_t limit = UINT64_MAX - UINT64_MAX % n, v;
    do {
        v = rand_u64();
    } while (v >= limit);
    return v % n;
}

uint64_t rand_process_seed(void) {
    /* written once with the same kind of value; a race only costs a rehash-free reseed */
    static uint64_t seed;
    uint64_t s = __atomic_load_n(&seed, __ATOMIC_ACQUIRE);
    if (!s) {
        uint64_t fresh = rand_u64() | 1;
        if (__atomic_compare_exchange_n(&seed, &s, fresh, false, __ATOMIC_ACQ_REL,
                                        __ATOMIC_ACQUIRE)) {
            s = fresh;
        }
    }
    return s;
}

void rand_suffix(char *dst, size_t n) {
    static const char alphabet[] = "bcdfghjklmnpqrstvwxz2456789";
    for (size_t i = 0; i < n; i++) {
        dst[i] = alphabet[rand_below(sizeof(alphabet) - 1)];
    }
    dst[n] = 0;
}

void rand_uuid(char dst[37]) {
    uint8_t b[16];
    static const char hex[] = "0123456789abcdef";
    rand_bytes(b, sizeof(b));
    b[6] = (uint8_t)((b[6] & 0x0f) | 0x40);
    b[8] = (uint8_t)((b[8] & 0x3f) | 0x80);
    char *d = dst;
    for (size_t i = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10) {
            *d++ = '-';
        }
        *d++ = hex[b[i] >> 4];
        *d++ = hex[b[i] & 15];
    }
    *d = 0;
}

static uint64_t now(clockid_t id) {
    struct timespec t;
    CHECK(clock_gettime(id, &t) == 0);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

uint64_t clock_ns(void) {
    return now(CLOCK_MONOTONIC);
}
uint64_t clock_wall_ns(void) {
    return now(CLOCK_REALTIME);
}

/* Days since 1970-01-01 of a proleptic Gregorian date, and back (Howard Hinnant's era arithmetic). */
static int64_t days_from_civil(int64_t y, unsigned m, unsigned d) {
    y -= m <= 2;
    int64_t era = (y >= 0 ? y : y - 399) / 400;
    unsigned yoe = (unsigned)(y - era * 400);
    unsigned doy = (153 * (m > 2 ? m - 3 : m + 9) + 2) / 5 + d - 1;
    unsigned doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    return era * 146097 + (int64_t)doe - 719468;
}

static void civil_from_days(int64_t z, int64_t *y, unsigned *m, unsigned *d) {
    z += 719468;
    int64_t era = (z >= 0 ? z : z - 146096) / 146097;
    unsigned doe = (unsigned)(z - era * 146097);
    unsigned yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    unsigned doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    unsigned mp = (5 * doy + 2) / 153;
    *d = doy - (153 * mp + 2) / 5 + 1;
    *m = mp < 10 ? mp + 3 : mp - 9;
    *y = (int64_t)yoe + era * 400 + (*m <= 2);
}

static void put_time(uint64_t s, unsigned micro, bool with_micro, char *dst) {
    int64_t y;
    unsigned m, d, sec = (unsigned)(s % 86400);
    civil_from_days((int64_t)(s / 86400), &y, &m, &d);
    char frac[8] = "";
    if (with_micro) {
        (void)str_put(frac, sizeof(frac), ".%06u", micro % 1000000u);
    }
    (void)str_put(dst, TIME_STR, "%04u-%02u-%02uT%02u:%02u:%02u%sZ", (unsigned)y % 10000u, m % 100u,
                  d % 100u, sec / 3600 % 100u, sec / 60 % 60, sec % 60, frac);
}

void time_rfc3339(uint64_t wall_s, char dst[TIME_STR]) {
    put_time(wall_s, 0, false, dst);
}
void time_rfc3339_micro(uint64_t wall_ns, char dst[TIME_STR]) {
    put_time(wall_ns / NS_PER_S, (unsigned)(wall_ns % NS_PER_S / 1000), true, dst);
}

static int digits(struct span *s, size_t n, uint64_t min, uint64_t max, uint64_t *ret) {
    struct span t;
    int rc = span_take(s, n, &t);
    return rc < 0 ? rc : span_to_u64(t, min, max, ret);
}

static int literal(struct span *s, uint8_t c) {
    uint8_t got;
    return span_u8(s, &got) < 0 || got != c ? -ERR_INVALID : 0;
}

int time_parse(struct span s, uint64_t *ret_wall_ns) {
    uint64_t y, mo, d, h, mi, se, frac = 0;
    if (digits(&s, 4, 1970, 9999, &y) < 0 || literal(&s, '-') < 0 ||
        digits(&s, 2, 1, 12, &mo) < 0 || literal(&s, '-') < 0 || digits(&s, 2, 1, 31, &d) < 0 ||
        s.n < 1 || (s.p[0] | 32) != 't' || span_skip(&s, 1) < 0 || digits(&s, 2, 0, 23, &h) < 0 ||
        literal(&s, ':') < 0 || digits(&s, 2, 0, 59, &mi) < 0 || literal(&s, ':') < 0 ||
        digits(&s, 2, 0, 60, &se) < 0) {
        return -ERR_INVALID;
    }
    if (s.n && s.p[0] == '.') {
        uint64_t scale = 100000000;
        size_t i = 1;
        for (; i < s.n && s.p[i] >= '0' && s.p[i] <= '9'; i++, scale /= 10) {
            frac += (uint64_t)(s.p[i] - '0') * scale;
        }
        if (i == 1 || i > 10 || span_skip(&s, i) < 0) {
            return -ERR_INVALID;
        }
    }
    int64_t zone = 0;
    uint8_t c;
    if (span_u8(&s, &c) < 0) {
        return -ERR_INVALID;
    }
    if (c == '+' || c == '-') {
        uint64_t zh, zm;
        if (digits(&s, 2, 0, 23, &zh) < 0 || literal(&s, ':') < 0 ||
            digits(&s, 2, 0, 59, &zm) < 0) {
            return -ERR_INVALID;
        }
        zone = (int64_t)(zh * 3600 + zm * 60) * (c == '-' ? -1 : 1);
    } else if ((c | 32) != 'z') {
        return -ERR_INVALID;
    }
    int64_t t = days_from_civil((int64_t)y, (unsigned)mo, (unsigned)d) * 86400 +
                (int64_t)(h * 3600 + mi * 60 + se) - zone;
    if (s.n || t < 0) {
        return -ERR_INVALID;
    }
    *ret_wall_ns = (uint64_t)t * NS_PER_S + frac;
    return 0;
}

static int encode64(struct buf *b, struct span s, const char *abc, bool pad) {
    uint8_t *d = buf_room(b, (s.n + 2) / 3 * 4);
    if (!d) {
        return b->failed;
    }
    size_t o = 0;
    for (size_t i = 0; i < s.n; i += 3) {
        size_t left = s.n - i;
        uint32_t v = (uint32_t)s.p[i] << 16 | (left > 1 ? (uint32_t)s.p[i + 1] << 8 : 0) |
                     (left > 2 ? (uint32_t)s.p[i + 2] : 0);
        d[o++] = (uint8_t)abc[v >> 18];
        d[o++] = (uint8_t)abc[v >> 12 & 63];
        if (left > 1) {
            d[o++] = (uint8_t)abc[v >> 6 & 63];
        } else if (pad) {
            d[o++] = '=';
        }
        if (left > 2) {
            d[o++] = (uint8_t)abc[v & 63];
        } else if (pad) {
            d[o++] = '=';
        }
    }
    buf_added(b, o);
    return 0;
}

static const char abc_std[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
static const char abc_url[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

static int decode64(struct buf *b, struct span s, const char *abc) {
    while (s.n && s.p[s.n - 1] == '=' && s.n % 4 == 0) {
        s.n--;
        if (s.n && s.p[s.n - 1] == '=') {
            s.n--;
        }
        break;
    }
    if (s.n % 4 == 1) {
        return -ERR_INVALID;
    }
    uint32_t v = 0;
    unsigned bits = 0;
    for (size_t i = 0; i < s.n; i++) {
        const char *at = s.p[i] ? memchr(abc, s.p[i], 64) : NULL;
        if (!at) {
            return -ERR_INVALID;
        }
        v = v << 6 | (uint32_t)(at - abc);
        bits += 6;
        if (bits >= 8) {
            bits -= 8;
            if (buf_u8(b, (uint8_t)(v >> bits)) < 0) {
                return b->failed;
            }
        }
    }
    return v & ((1u << bits) - 1) ? -ERR_INVALID : 0;
}

int b64_encode(struct buf *b, struct span s) {
    return encode64(b, s, abc_std, true);
}
int b64url_encode(struct buf *b, struct span s) {
    return encode64(b, s, abc_url, false);
}
int b64_decode(struct buf *b, struct span s) {
    return decode64(b, s, abc_std);
}
int b64url_decode(struct buf *b, struct span s) {
    return decode64(b, s, abc_url);
}

static const char hex_digits[] = "0123456789abcdef";

int hex_encode(struct buf *b, struct span s) {
    uint8_t *d = buf_room(b, s.n * 2);
    if (!d) {
        return b->failed;
    }
    for (size_t i = 0; i < s.n; i++) {
        d[2 * i] = (uint8_t)hex_digits[s.p[i] >> 4];
        d[2 * i + 1] = (uint8_t)hex_digits[s.p[i] & 15];
    }
    buf_added(b, s.n * 2);
    return 0;
}

int hex_decode(struct buf *b, struct span s) {
    if (s.n % 2) {
        return -ERR_INVALID;
    }
    for (size_t i = 0; i < s.n; i += 2) {
        uint64_t v;
        if (span_hex_to_u64(span_of(s.p + i, 2), 255, &v) < 0) {
            return -ERR_INVALID;
        }
        if (buf_u8(b, (uint8_t)v) < 0) {
            return b->failed;
        }
    }
    return 0;
}

int url_decode(struct buf *b, struct span s, bool plus_space) {
    for (size_t i = 0; i < s.n; i++) {
        uint8_t c = s.p[i];
        if (c == '%') {
            uint64_t v;
            if (s.n - i < 3 || span_hex_to_u64(span_of(s.p + i + 1, 2), 255, &v) < 0) {
                return -ERR_INVALID;
            }
            c = (uint8_t)v;
            i += 2;
        } else if (c == '+' && plus_space) {
            c = ' ';
        }
        if (buf_u8(b, c) < 0) {
            return b->failed;
        }
    }
    return 0;
}

int url_encode(struct buf *b, struct span s) {
    for (size_t i = 0; i < s.n; i++) {
        uint8_t c = s.p[i];
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                     c == '-' || c == '.' || c == '_' || c == '~';
        if (plain) {
            buf_u8(b, c);
        } else {
            buf_fmt(b, "%%%02X", (unsigned)c);
        }
    }
    return b->failed;
}

uint32_t fnv32a(struct span s) {
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < s.n; i++) {
        h = (h ^ s.p[i]) * 16777619u;
    }
    return h;
}
