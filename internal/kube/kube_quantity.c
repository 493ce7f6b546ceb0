#include "internal/kube/kube.h"

#include "internal/kube/kube_int.h"

/* A quantity is a whole number of nano units; 128 bits hold 2^63 units. What is finer is rounded up, what is
 * larger is capped, as upstream does. */
__extension__ typedef __int128 kube_i128;

enum format { DEC, EXP, BIN };

static const kube_i128 NANO = 1000000000;

static int pow_suffix(struct span suf, enum format *ret_fmt, int *ret_exp10, int *ret_exp2) {
    static const struct {
        const char *s;
        int e10, e2;
    } tab[] = {
        {"", 0, 0},    {"n", -9, 0},  {"u", -6, 0},  {"m", -3, 0},  {"k", 3, 0},   {"M", 6, 0},
        {"G", 9, 0},   {"T", 12, 0},  {"P", 15, 0},  {"E", 18, 0},  {"Ki", 0, 10}, {"Mi", 0, 20},
        {"Gi", 0, 30}, {"Ti", 0, 40}, {"Pi", 0, 50}, {"Ei", 0, 60},
    };
    for (size_t i = 0; i < ARRAY_LEN(tab); i++) {
        if (span_eq_str(suf, tab[i].s)) {
            *ret_fmt = tab[i].e2 ? BIN : DEC;
            *ret_exp10 = tab[i].e10;
            *ret_exp2 = tab[i].e2;
            return 0;
        }
    }
    if (suf.n < 2 || (suf.p[0] != 'e' && suf.p[0] != 'E')) {
        return -ERR_INVALID;
    }
    bool neg = suf.p[1] == '-';
    size_t at = suf.p[1] == '-' || suf.p[1] == '+' ? 2 : 1;
    uint64_t v;
    if (span_to_u64(span_of(suf.p + at, suf.n - at), 0, 40, &v) < 0) {
        return -ERR_INVALID;
    }
    *ret_fmt = EXP;
    *ret_exp10 = neg ? -(int)v : (int)v;
    *ret_exp2 = 0;
    return 0;
}

struct digits {
    kube_i128 whole, frac;
    unsigned n_frac; /* digits in frac */
    bool rest;       /* more digits followed that are not zero */
    bool huge;       /* whole is past every cap */
};

/* Digits with at most one point. Eleven places behind it are kept: times 2^60 nano units they fill 127 bits. */
static int parse_digits(struct span s, size_t *at, struct digits *d) {
    enum { PLACES = 11 };
    bool point = false, any = false;
    const kube_i128 huge = (kube_i128)1 << 90;
    *d = (struct digits){0};
    for (; *at < s.n; (*at)++) {
        uint8_t c = s.p[*at];
        if (c == '.' && !point) {
            point = true;
        } else if (c < '0' || c > '9') {
            break;
        } else {
            any = true;
            if (!point) {
                d->whole = d->whole > huge ? d->whole : d->whole * 10 + (c - '0');
            } else if (d->n_frac < PLACES) {
                d->frac = d->frac * 10 + (c - '0');
                d->n_frac++;
            } else {
                d->rest = d->rest || c != '0';
            }
        }
    }
    d->huge = d->whole > huge;
    return any ? 0 : -ERR_INVALID;
}

static kube_i128 pow10_of(unsigned n) {
    kube_i128 v = 1;
    while (n--) {
        v *= 10;
    }
    return v;
}

static int parse(struct span s, kube_i128 *ret, enum format *ret_fmt) {
    const kube_i128 cap = (((kube_i128)1 << 63) - 1) * NANO;
    bool neg = s.n && s.p[0] == '-';
    size_t i = s.n && (s.p[0] == '-' || s.p[0] == '+') ? 1 : 0;
    struct digits d;
    int e10, e2;
    if (parse_digits(s, &i, &d) < 0 ||
        pow_suffix(span_of(s.p + i, s.n - i), ret_fmt, &e10, &e2) < 0) {
        return -ERR_INVALID;
    }
    int e = e10 + 9; /* of one unit, in nano units */
    kube_i128 unit = ((kube_i128)1 << e2) * pow10_of(e > 0 ? (e > 27 ? 27u : (unsigned)e) : 0);
    kube_i128 scale = pow10_of(d.n_frac), v;
    bool inexact = d.rest;
    if (d.huge || d.whole > cap / unit || (e > 27 && (d.whole || d.frac))) {
        v = cap;
    } else {
        v = d.whole * unit + d.frac * unit / scale;
        inexact = inexact || d.frac * unit % scale;
    }
    for (; e < 0; e++) {
        inexact = inexact || v % 10;
        v /= 10;
    }
    v += inexact ? 1 : 0; /* away from zero */
    v = v > cap ? cap : v;
    *ret = neg ? -v : v;
    return 0;
}

static int put_i128(struct buf *b, kube_i128 v) {
    char t[48];
    size_t at = sizeof(t);
    bool neg = v < 0;
    if (neg) {
        v = -v;
    }
    do {
        t[--at] = (char)('0' + (int)(v % 10));
        v /= 10;
    } while (v);
    if (neg) {
        t[--at] = '-';
    }
    return buf_add(b, t + at, sizeof(t) - at);
}

static int write_canon(struct buf *b, kube_i128 v, enum format fmt) {
    static const char *const dec[] = {"n", "u", "m", "", "k", "M", "G", "T", "P", "E"};
    static const char *const ex[] = {"e-9", "e-6", "e-3", "",    "e3",
                                     "e6",  "e9",  "e12", "e15", "e18"};
    static const char *const bin[] = {"", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"};
    if (fmt == BIN && v > -1024 * NANO && v < 1024 * NANO) {
        fmt = DEC;
    }
    if (fmt == BIN) {
        v = v / NANO + (v > 0 && v % NANO ? 1 : 0);
        size_t i = 0;
        while (i < 6 && v % 1024 == 0) {
            v /= 1024;
            i++;
        }
        put_i128(b, v);
        return buf_str(b, bin[i]);
    }
    size_t i = 0;
    if (v == 0) {
        return buf_str(b, "0");
    }
    while (i < 9 && v % 1000 == 0) {
        v /= 1000;
        i++;
    }
    put_i128(b, v);
    return buf_str(b, fmt == EXP ? ex[i] : dec[i]);
}

int kube_quantity_canon(struct span s, struct buf *b) {
    kube_i128 v;
    enum format fmt;
    int rc = parse(s, &v, &fmt);
    return rc < 0 ? rc : write_canon(b, v, fmt);
}

static int64_t scaled_up(kube_i128 v, kube_i128 unit) {
    kube_i128 q = v / unit + (v > 0 && v % unit ? 1 : 0);
    return q > INT64_MAX ? INT64_MAX : q < INT64_MIN ? INT64_MIN : (int64_t)q;
}

int kube_quantity_milli(struct span s, int64_t *ret) {
    kube_i128 v;
    enum format fmt;
    int rc = parse(s, &v, &fmt);
    if (rc == 0) {
        *ret = scaled_up(v, 1000000);
    }
    return rc;
}

int kube_quantity_value(struct span s, int64_t *ret) {
    kube_i128 v;
    enum format fmt;
    int rc = parse(s, &v, &fmt);
    if (rc == 0) {
        *ret = scaled_up(v, NANO);
    }
    return rc;
}

int kube_quantity_cmp(struct span a, struct span b, int *ret) {
    kube_i128 x, y;
    enum format fmt;
    if (parse(a, &x, &fmt) < 0 || parse(b, &y, &fmt) < 0) {
        return -ERR_INVALID;
    }
    *ret = x < y ? -1 : x > y;
    return 0;
}

int kube_quantity_write_bytes(struct buf *b, int64_t v) {
    return write_canon(b, (kube_i128)v * NANO, BIN);
}
int kube_quantity_write_milli(struct buf *b, int64_t milli) {
    return write_canon(b, (kube_i128)milli * 1000000, DEC);
}

int kube_intstr_scaled(const struct json *v, int64_t total, bool round_up, int64_t *ret) {
    if (json_is_int(v)) {
        *ret = json_i64(v, 0);
        return 0;
    }
    struct span s = json_span(v);
    uint64_t pct;
    if (!span_ends(s, "%") || span_to_u64(span_of(s.p, s.n - 1), 0, 1000000, &pct) < 0) {
        return -ERR_INVALID;
    }
    int64_t x = total * (int64_t)pct;
    *ret = round_up ? (x + 99) / 100 : x / 100;
    return 0;
}
