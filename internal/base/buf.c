#include "internal/base/buf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void buf_init(struct buf *b, size_t max) {
    *b = (struct buf)BUF_INIT(max);
}

void buf_fini(struct buf *b) {
    free(b->p);
    b->p = NULL;
    b->n = b->cap = 0;
}

void buf_reset(struct buf *b) {
    b->n = 0;
    b->failed = 0;
    if (b->p) {
        b->p[0] = 0;
    }
}

uint8_t *buf_room(struct buf *b, size_t n) {
    size_t need, cap;
    if (b->failed) {
        return NULL;
    }
    if (ck_add(b->n, n, &need) || need > b->max) {
        b->failed = -ERR_LIMIT;
        return NULL;
    }
    if (need + 1 > b->cap) {
        cap = b->cap ? b->cap : 64;
        while (cap < need + 1) {
            cap += cap / 2 + 64;
        }
        uint8_t *p = realloc(b->p, cap);
        if (!p) {
            b->failed = -ERR_NOMEM;
            return NULL;
        }
        b->p = p;
        b->cap = cap;
    }
    return b->p + b->n;
}

void buf_added(struct buf *b, size_t n) {
    CHECK(b->n + n < b->cap);
    b->n += n;
    b->p[b->n] = 0;
}

int buf_add(struct buf *b, const void *p, size_t n) {
    uint8_t *d = buf_room(b, n);
    if (!d) {
        return b->failed;
    }
    if (n) {
        memcpy(d, p, n);
    }
    buf_added(b, n);
    return 0;
}

int buf_span(struct buf *b, struct span s) {
    return buf_add(b, s.p, s.n);
}
int buf_str(struct buf *b, const char *s) {
    return buf_add(b, s, strlen(s));
}
int buf_u8(struct buf *b, uint8_t v) {
    return buf_add(b, &v, 1);
}

static int add_be(struct buf *b, uint64_t v, size_t n) {
    uint8_t t[8];
    for (size_t i = 0; i < n; i++) {
        t[i] = (uint8_t)(v >> (8 * (n - 1 - i)));
    }
    return buf_add(b, t, n);
}
static int add_le(struct buf *b, uint64_t v, size_t n) {
    uint8_t t[8];
    for (size_t i = 0; i < n; i++) {
        t[i] = (uint8_t)(v >> (8 * i));
    }
    return buf_add(b, t, n);
}
int buf_be16(struct buf *b, uint16_t v) {
    return add_be(b, v, 2);
}
int buf_be32(struct buf *b, uint32_t v) {
    return add_be(b, v, 4);
}
int buf_be64(struct buf *b, uint64_t v) {
    return add_be(b, v, 8);
}
int buf_le32(struct buf *b, uint32_t v) {
    return add_le(b, v, 4);
}
int buf_le64(struct buf *b, uint64_t v) {
    return add_le(b, v, 8);
}

int buf_varint(struct buf *b, uint64_t v) {
    uint8_t t[10];
    size_t n = 0;
    do {
        t[n] = (uint8_t)((v & 0x7f) | (v > 0x7f ? 0x80 : 0));
        v >>= 7;
        n++;
    } while (v);
    return buf_add(b, t, n);
}

int buf_zero(struct buf *b, size_t n) {
    uint8_t *d = buf_room(b, n);
    if (!d) {
        return b->failed;
    }
    memset(d, 0, n);
    buf_added(b, n);
    return 0;
}

int buf_vfmt(struct buf *b, const char *fmt, va_list ap) {
    va_list again;
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, again);
    va_end(again);
    uint8_t *d = n < 0 ? NULL : buf_room(b, (size_t)n);
    if (!d) {
        b->failed = b->failed ? b->failed : -ERR_INVALID;
        return b->failed;
    }
    vsnprintf((char *)d, (size_t)n + 1, fmt, ap);
    buf_added(b, (size_t)n);
    return 0;
}

int buf_fmt(struct buf *b, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    int rc = buf_vfmt(b, fmt, ap);
    va_end(ap);
    return rc;
}

int buf_u64(struct buf *b, uint64_t v) {
    char t[20];
    size_t at = sizeof(t);
    do {
        t[--at] = (char)('0' + v % 10);
        v /= 10;
    } while (v);
    return buf_add(b, t + at, sizeof(t) - at);
}

void buf_drop(struct buf *b, size_t n) {
    CHECK(n <= b->n);
    if (n) {
        memmove(b->p, b->p + n, b->n - n);
        b->n -= n;
        b->p[b->n] = 0;
    }
}

void buf_trunc(struct buf *b, size_t n) {
    CHECK(n <= b->n);
    b->n = n;
    if (b->p) {
        b->p[n] = 0;
    }
}

int buf_ok(const struct buf *b) {
    return b->failed;
}

const char *buf_cstr(const struct buf *b) {
    return b->p ? (const char *)b->p : "";
}

char *buf_take(struct buf *b, size_t *ret_n) {
    if (b->failed || !buf_room(b, 0)) {
        buf_fini(b);
        return NULL;
    }
    b->p[b->n] = 0;
    char *s = (char *)b->p;
    if (ret_n) {
        *ret_n = b->n;
    }
    *b = (struct buf)BUF_INIT(b->max);
    return s;
}

void *mem_zero_alloc(size_t n) {
    void *p = calloc(1, n);
    if (!p) {
        check_failed("out of memory", __FILE__, __LINE__);
    }
    return p;
}

void *mem_array(void *old, size_t n, size_t size, size_t max) {
    size_t bytes;
    if (n > max || ck_mul(n, size, &bytes)) {
        return NULL;
    }
    return realloc(old, bytes ? bytes : 1);
}

char *str_dupn(const void *p, size_t n) {
    char *s = mem_zero_alloc(n + 1);
    if (n) {
        memcpy(s, p, n);
    }
    return s;
}

char *str_dup(const char *s) {
    return str_dupn(s, strlen(s));
}

char *str_fmt(const char *fmt, ...) {
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    CHECK(n >= 0);
    char *s = mem_zero_alloc((size_t)n + 1);
    vsnprintf(s, (size_t)n + 1, fmt, again);
    va_end(again);
    return s;
}

bool str_eq(const char *a, const char *b) {
    return a == b || (a && b && strcmp(a, b) == 0);
}

int str_put(char *dst, size_t cap, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(dst, cap, fmt, ap);
    va_end(ap);
    if (n < 0 || (size_t)n >= cap) {
        dst[0] = 0;
        return -ERR_LIMIT;
    }
    return 0;
}

bool ct_eq(const void *a, const void *b, size_t n) {
    const volatile uint8_t *x = a, *y = b;
    uint8_t d = 0;
    for (size_t i = 0; i < n; i++) {
        d |= (uint8_t)(x[i] ^ y[i]);
    }
    return d == 0;
}

void secret_wipe(void *p, size_t n) {
    if (n) {
        explicit_bzero(p, n);
    }
}

void auto_free_(void *p) {
    void *q;
    memcpy(&q, p, sizeof(q));
    free(q);
}

void auto_fd_(int *fd) {
    if (*fd >= 0) {
        close(*fd);
    }
}
