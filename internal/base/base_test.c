#include "internal/base/arena.h"
#include "internal/base/map.h"
#include "internal/base/rand.h"
#include "internal/t/t.h"

#include <errno.h>
#include <stdlib.h>

TEST(base, err_keeps_the_first_cause) {
    struct err e = ERR_INIT;
    ASSERT_EQ(-ERR_NOT_FOUND, err_sys(&e, ENOENT, "opening %s", "/x"));
    ASSERT_EQ(-ERR_IO, err_set(&e, ERR_IO, "later"));
    ASSERT_EQ(-ERR_NOT_FOUND, err_wrap(&e, "loading"));
    ASSERT_STREQ("loading: opening /x: no such file or directory", e.msg);
    ASSERT_EQ(404, err_http(e.code));
    ASSERT_EQ(5, err_grpc(e.code));
}

TEST(base, err_tames_control_characters) {
    struct err e = ERR_INIT;
    err_set(&e, ERR_INVALID, "a%sb", "\x1b[2J\n");
    ASSERT_STREQ("a [2J b", e.msg);
}

TEST(base, span_takes_integers) {
    struct span s = SPAN_LIT("\x01\x02\x03\x04\x05\x06\x07\xac\x02rest");
    uint8_t a;
    uint16_t b;
    uint32_t c;
    uint64_t v;
    ASSERT_EQ(0, span_u8(&s, &a));
    ASSERT_EQ(0, span_be16(&s, &b));
    ASSERT_EQ(0, span_le32(&s, &c));
    ASSERT_EQ(1, a);
    ASSERT_EQ(0x0203, b);
    ASSERT_EQ(0x07060504, c);
    ASSERT_EQ(0, span_varint(&s, &v));
    ASSERT_EQ(300, v);
    ASSERT_SPAN("rest", s);
    ASSERT_EQ(-ERR_INVALID, span_be64(&s, &v));
    ASSERT_EQ(4, s.n); /* unchanged by the failure */
}

TEST(base, span_varint_limits) {
    struct span ok = SPAN_LIT("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01");
    struct span big = SPAN_LIT("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02");
    struct span cut = SPAN_LIT("\x80\x80");
    uint64_t v;
    ASSERT_EQ(0, span_varint(&ok, &v));
    ASSERT(v == UINT64_MAX);
    ASSERT_EQ(-ERR_INVALID, span_varint(&big, &v));
    ASSERT_EQ(-ERR_INVALID, span_varint(&cut, &v));
}

TEST(base, span_splits_lines_and_lists) {
    struct span s = SPAN_LIT("a\r\nb\n\nc"), l;
    const char *want[] = {"a", "b", "", "c"};
    for (size_t i = 0; i < 4; i++) {
        ASSERT_EQ(0, span_line(&s, &l));
        ASSERT_SPAN(want[i], l);
    }
    ASSERT_EQ(-ERR_INVALID, span_line(&s, &l));
    s = SPAN_LIT("x,,y");
    const char *parts[] = {"x", "", "y"};
    size_t n = 0;
    while (span_next(&s, ',', &l)) {
        ASSERT_SPAN(parts[n++], l);
    }
    ASSERT_EQ(3, n);
}

TEST(base, span_numbers) {
    uint64_t u;
    int64_t i;
    ASSERT_EQ(0, span_to_u64(SPAN_LIT("18446744073709551615"), 0, UINT64_MAX, &u));
    ASSERT(u == UINT64_MAX);
    static const char *const bad[] = {"",   "18446744073709551616", "-1", "+1", " 1", "1 ", "0x1",
                                      "1.0"};
    for (size_t k = 0; k < ARRAY_LEN(bad); k++) {
        ASSERT_EQ(-ERR_INVALID, span_to_u64(span_str(bad[k]), 0, UINT64_MAX, &u));
    }
    ASSERT_EQ(0, span_to_i64(SPAN_LIT("-9223372036854775808"), INT64_MIN, INT64_MAX, &i));
    ASSERT(i == INT64_MIN);
    ASSERT_EQ(-ERR_INVALID, span_to_i64(SPAN_LIT("9223372036854775808"), INT64_MIN, INT64_MAX, &i));
    ASSERT_EQ(-ERR_INVALID, span_to_u64(SPAN_LIT("5"), 6, 9, &u));
    ASSERT_EQ(0, span_hex_to_u64(SPAN_LIT("fF"), 255, &u));
    ASSERT_EQ(255, u);
}

TEST(base, buf_stops_at_its_maximum) {
    AUTO(buf) struct buf b = BUF_INIT(4);
    ASSERT_EQ(0, buf_str(&b, "abc"));
    ASSERT_EQ(-ERR_LIMIT, buf_str(&b, "de"));
    ASSERT_EQ(-ERR_LIMIT, buf_u8(&b, 'd')); /* sticky */
    ASSERT_EQ(-ERR_LIMIT, buf_ok(&b));
    ASSERT_STREQ("abc", buf_cstr(&b));
    buf_reset(&b);
    ASSERT_EQ(0, buf_fmt(&b, "%d", 1234));
    ASSERT_EQ(-ERR_LIMIT, buf_fmt(&b, "%d", 5));
}

TEST(base, buf_moves) {
    AUTO(buf) struct buf b = BUF_INIT(1000);
    for (int i = 0; i < 100; i++) {
        buf_u64(&b, (uint64_t)i);
    }
    buf_drop(&b, 2);
    ASSERT(span_starts(buf_view(&b), "2345"));
    buf_trunc(&b, 3);
    ASSERT_STREQ("234", buf_cstr(&b));
    size_t n;
    char *s = buf_take(&b, &n);
    ASSERT_EQ(3, n);
    ASSERT_STREQ("234", s);
    free(s);
    ASSERT_EQ(0, b.n);
}

TEST(base, arena_is_bounded_and_zeroed) {
    struct arena a = ARENA_INIT(64 * 1024);
    char *s = arena_str(&a, SPAN_LIT("hello"));
    ASSERT_STREQ("hello", s);
    ASSERT_NULL(arena_alloc(&a, 65 * 1024));
    size_t got = 0;
    while (arena_alloc(&a, 1000)) {
        got++;
    }
    ASSERT(got > 50 && got <= 64);
    arena_reset(&a);
    uint8_t *p = arena_alloc(&a, 2000);
    for (size_t i = 0; i < 2000; i++) {
        ASSERT_EQ(0, p[i]);
    }
    arena_fini(&a);
}

/* map against a linear list, driven by random bytes. */
static int prop_map(const uint8_t *p, size_t n) {
    struct t_gen g = {span_of(p, n)};
    struct map m = MAP_INIT;
    void *model[256] = {NULL};
    static char values[256];
    size_t live = 0;
    int bad = 0;
    while (g.s.n && !bad) {
        uint32_t op = t_gen_u32(&g, 0, 2), k = t_gen_u32(&g, 0, 255);
        char key[16];
        (void)str_put(key, sizeof(key), "key-%u", k);
        if (op == 0) {
            bad |= map_put_str(&m, key, &values[k]) != model[k];
            live += !model[k];
            model[k] = &values[k];
        } else if (op == 1) {
            bad |= map_del_str(&m, key) != model[k];
            live -= model[k] != NULL;
            model[k] = NULL;
        } else {
            bad |= map_get_str(&m, key) != model[k];
        }
    }
    struct map_iter it = {0};
    size_t seen = 0;
    for (struct map_entry *e; map_next(&m, &it, &e); seen++) {
    }
    bad |= seen != live || m.n != live;
    map_fini(&m);
    return bad;
}

TEST(base, map_like_a_list) {
    t_property("map", prop_map, 200, 4000);
}

TEST(base, times) {
    char s[TIME_STR];
    uint64_t t;
    time_rfc3339(1767323045, s);
    ASSERT_STREQ("2026-01-02T03:04:05Z", s);
    time_rfc3339_micro(1767323045ull * NS_PER_S + 6007000, s);
    ASSERT_STREQ("2026-01-02T03:04:05.006007Z", s);
    ASSERT_EQ(0, time_parse(SPAN_LIT("2026-01-02T04:04:05.5+01:00"), &t));
    ASSERT(t == 1767323045ull * NS_PER_S + 500000000);
    ASSERT_EQ(0, time_parse(SPAN_LIT("2024-02-29T00:00:00Z"), &t));
    ASSERT(t / NS_PER_S == 1709164800);
    static const char *const bad[] = {
        "2026-01-02",           "2026-13-02T03:04:05Z",  "2026-01-02T03:04:05",
        "2026-01-02T24:04:05Z", "2026-01-02T03:04:05.Z", "x"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        ASSERT_EQ(-ERR_INVALID, time_parse(span_str(bad[i]), &t));
    }
}

/* Every coding gives back what went in. */
static int prop_codings(const uint8_t *p, size_t n) {
    struct buf a = BUF_INIT(1 << 16), b = BUF_INIT(1 << 16);
    struct span in = span_of(p, n);
    int bad =
        b64_encode(&a, in) < 0 || b64_decode(&b, buf_view(&a)) < 0 || !span_eq(in, buf_view(&b));
    buf_reset(&a);
    buf_reset(&b);
    bad |= b64url_encode(&a, in) < 0 || b64url_decode(&b, buf_view(&a)) < 0 ||
           !span_eq(in, buf_view(&b));
    buf_reset(&a);
    buf_reset(&b);
    bad |= hex_encode(&a, in) < 0 || hex_decode(&b, buf_view(&a)) < 0 || !span_eq(in, buf_view(&b));
    buf_reset(&a);
    buf_reset(&b);
    bad |= url_encode(&a, in) < 0 || url_decode(&b, buf_view(&a), true) < 0 ||
           !span_eq(in, buf_view(&b));
    buf_fini(&a);
    buf_fini(&b);
    return bad;
}

TEST(base, codings_round_trip) {
    t_property("codings", prop_codings, 300, 500);
    AUTO(buf) struct buf b = BUF_INIT(100);
    ASSERT_EQ(0, b64_encode(&b, SPAN_LIT("foob")));
    ASSERT_STREQ("Zm9vYg==", buf_cstr(&b));
    static const char *const bad[] = {"Zm9vYg=x", "Zm9v Yg==", "Z", "Zm9vYh=="};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        buf_reset(&b);
        ASSERT_EQ(-ERR_INVALID, b64_decode(&b, span_str(bad[i])));
    }
    ASSERT_EQ(0xe40c292c, fnv32a(SPAN_LIT("a")));
}

TEST(base, arena_begins_with_lent_memory) {
    _Alignas(16) uint8_t room[512];
    memset(room, 0xff, sizeof(room));
    struct arena a = ARENA_INIT(4096);
    arena_lend(&a, room, sizeof(room));
    uint8_t *p = arena_alloc(&a, 100);
    ASSERT(p > room && p < room + sizeof(room));
    for (size_t i = 0; i < 100; i++) {
        ASSERT_EQ(0, p[i]);
    }
    ASSERT(arena_alloc(&a, 1000));      /* elsewhere */
    ASSERT_NULL(arena_alloc(&a, 4000)); /* what was lent counts */
    arena_reset(&a);
    ASSERT(arena_str(&a, SPAN_LIT("x")) < (char *)room + sizeof(room));
    arena_fini(&a);
}

/* Every length and distance around the sizes that are treated differently. */
TEST(base, memory_is_moved) {
    enum { N = 160, BIG = 5000 };
    uint8_t a[N], b[N], want[N];
    for (size_t n = 0; n <= 70; n++) {
        for (size_t from = 0; from < 90; from += 1 + from / 40) {
            for (size_t to = 0; to < 90; to += 1 + to / 40) {
                for (size_t i = 0; i < N; i++) {
                    a[i] = b[i] = want[i] = (uint8_t)(i * 7 + n);
                }
                for (size_t i = 0; i < n; i++) {
                    want[to + i] = b[from + i];
                }
                ASSERT(memmove(a + to, a + from, n) == a + to);
                ASSERT_EQ(0, memcmp(a, want, N));
            }
        }
    }
    AUTO_FREE uint8_t *p = malloc(2 * BIG), *q = malloc(2 * BIG);
    for (size_t i = 0; i < 2 * BIG; i++) {
        p[i] = q[i] = (uint8_t)(i * 31 >> 3);
    }
    memmove(p + 17, p, BIG);
    ASSERT_EQ(0, memcmp(p + 17, q, BIG));
    memmove(p, p + 17, BIG);
    ASSERT_EQ(0, memcmp(p, q, BIG));
    memcpy(p + BIG, q, BIG);
    ASSERT_EQ(0, memcmp(p + BIG, q, BIG));
}
