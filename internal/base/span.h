/* span — a cursor over borrowed bytes; the one bounds check of the tree.
 *
 * What:     takes bytes, integers, lines and varints off the front of a byte range; compares and parses text.
 * Owns:     nothing; the bytes belong to whoever gave them.
 * Errors:   -ERR_INVALID when fewer bytes are left than asked for or a value is out of range; the span is
 *           then unchanged.
 * Threads:  any.
 */
#ifndef KF_SPAN_H
#define KF_SPAN_H

#include "internal/base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct span {
    const uint8_t *p;
    size_t n;
};

#define SPAN_EMPTY ((struct span){NULL, 0})
#define SPAN_LIT(s) ((struct span){(const uint8_t *)("" s), sizeof(s) - 1})
/* printf helper: printf("%.*s", SPAN_FMT(s)) */
#define SPAN_FMT(s) (int)(s).n, (s).p ? (const char *)(s).p : ""

static inline struct span span_of(const void *p, size_t n) {
    return (struct span){(const uint8_t *)p, n};
}
static inline struct span span_str(const char *s) {
    return (struct span){(const uint8_t *)s, s ? strlen(s) : 0};
}

NODISCARD int span_take(struct span *s, size_t n, struct span *ret);
NODISCARD int span_skip(struct span *s, size_t n);
NODISCARD int span_u8(struct span *s, uint8_t *ret);
NODISCARD int span_be16(struct span *s, uint16_t *ret);
NODISCARD int span_be32(struct span *s, uint32_t *ret);
NODISCARD int span_be64(struct span *s, uint64_t *ret);
NODISCARD int span_le16(struct span *s, uint16_t *ret);
NODISCARD int span_le32(struct span *s, uint32_t *ret);
NODISCARD int span_le64(struct span *s, uint64_t *ret);
/* Base-128 varint of protobuf, at most 10 bytes. */
NODISCARD int span_varint(struct span *s, uint64_t *ret);
/* Takes up to, and removes, the byte `c`; `*ret` excludes it. -ERR_INVALID when `c` does not occur. */
NODISCARD int span_until(struct span *s, uint8_t c, struct span *ret);
/* Takes one line without its "\n" or "\r\n"; the last line may lack it. -ERR_INVALID at the end. */
NODISCARD int span_line(struct span *s, struct span *ret);
/* Left-over bytes are an error. */
NODISCARD int span_end(const struct span *s);
/* Splits at the first `c`: *head before it, *s after it. Without `c`: *head is all and *s empty. False at the end. */
bool span_next(struct span *s, uint8_t c, struct span *head);

/* Inline: the length of a literal is known where it is written. */
static inline bool span_eq(struct span a, struct span b) {
    return a.n == b.n && (!a.n || memcmp(a.p, b.p, a.n) == 0);
}
static inline bool span_eq_str(struct span a, const char *s) {
    return span_eq(a, span_str(s));
}
static inline bool span_starts(struct span a, const char *prefix) {
    size_t n = strlen(prefix);
    return a.n >= n && (!n || memcmp(a.p, prefix, n) == 0);
}
bool span_eq_nocase(struct span a, const char *s);
bool span_ends(struct span a, const char *suffix);
int span_cmp(struct span a, struct span b); /* bytewise, shorter first */
struct span span_trim(struct span a);       /* spaces and tabs, both ends */
/* First position of `c`, or -1. */
ptrdiff_t span_index(struct span a, uint8_t c);
/* Copies into a NUL-terminated array; -ERR_LIMIT when it does not fit or holds a NUL. */
NODISCARD int span_to_cstr(struct span a, char *dst, size_t cap);

/* Whole-span decimal numbers, no sign prefix '+', no spaces. */
NODISCARD int span_to_u64(struct span a, uint64_t min, uint64_t max, uint64_t *ret);
NODISCARD int span_to_i64(struct span a, int64_t min, int64_t max, int64_t *ret);
NODISCARD int span_hex_to_u64(struct span a, uint64_t max, uint64_t *ret);

/* Checked arithmetic: true when the result does not fit. */
#define ck_add(a, b, r) __builtin_add_overflow((a), (b), (r))
#define ck_mul(a, b, r) __builtin_mul_overflow((a), (b), (r))

#endif
