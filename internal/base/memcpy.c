/* musl's memcpy moves words and then single bytes, after aligning byte by byte: most copies here are shorter than its
 * start. These load both ends before they store anything, so that the two functions are one. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifndef __GLIBC__

typedef uint8_t v16 __attribute__((vector_size(16), aligned(1), may_alias));
typedef uint64_t v8 __attribute__((aligned(1), may_alias));
typedef uint32_t v4 __attribute__((aligned(1), may_alias));

enum { LONG = 4096 }; /* from here on the processor's own copying is faster */

static v16 get(const unsigned char *p) {
    return *(const v16 *)(const void *)p;
}
static void put(unsigned char *p, v16 v) {
    *(v16 *)(void *)p = v;
}

static void copy_short(unsigned char *d, const unsigned char *s, size_t n) {
    if (n >= 8) {
        v8 a = *(const v8 *)(const void *)s, b = *(const v8 *)(const void *)(s + n - 8);
        *(v8 *)(void *)d = a;
        *(v8 *)(void *)(d + n - 8) = b;
    } else if (n >= 4) {
        v4 a = *(const v4 *)(const void *)s, b = *(const v4 *)(const void *)(s + n - 4);
        *(v4 *)(void *)d = a;
        *(v4 *)(void *)(d + n - 4) = b;
    } else if (n) {
        unsigned char a = s[0], b = s[n / 2], c = s[n - 1];
        d[0] = a;
        d[n / 2] = b;
        d[n - 1] = c;
    }
}

/* Or the compiler would make a call of memmove of the loops. */
__attribute__((visibility("default"), optimize("no-tree-loop-distribute-patterns"))) void *
memmove(void *to, const void *from, size_t n) {
    unsigned char *d = to;
    const unsigned char *s = from;
    if (n <= 16) {
        copy_short(d, s, n);
        return to;
    }
    v16 first = get(s), last = get(s + n - 16);
    if ((uintptr_t)d - (uintptr_t)s >= n) { /* upwards is safe */
#ifdef __x86_64__
        if (n >= LONG) {
            unsigned char *at = d;
            __asm__ volatile("rep movsb" : "+D"(at), "+S"(s), "+c"(n) : : "memory");
            return to;
        }
#endif
        for (size_t i = 16; i + 16 < n; i += 16) {
            put(d + i, get(s + i));
        }
    } else {
        for (size_t i = n - 16; i > 16; i -= 16) {
            put(d + i - 16, get(s + i - 16));
        }
    }
    put(d, first);
    put(d + n - 16, last);
    return to;
}

__attribute__((visibility("default"), alias("memmove"))) void *
memcpy(void *restrict to, const void *restrict from, size_t n);

#endif
