/* musl compares byte by byte. Keys share long prefixes and SQLite compares many of them: a seventh of a put went there. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifndef __GLIBC__

static uint64_t word(const unsigned char *p) {
    uint64_t v;
    __builtin_memcpy(&v, p, sizeof(v));
    return __builtin_bswap64(v); /* the first byte counts most */
}

__attribute__((visibility("default"))) int memcmp(const void *a, const void *b, size_t n) {
    const unsigned char *x = a, *y = b;
    for (; n >= 8; n -= 8, x += 8, y += 8) {
        uint64_t u = word(x), v = word(y);
        if (u != v) {
            return u < v ? -1 : 1;
        }
    }
    for (; n; n--, x++, y++) {
        if (*x != *y) {
            return *x - *y;
        }
    }
    return 0;
}

#endif
