/* buf — a growing byte string with a mandatory maximum; and the ownership words of the tree.
 *
 * What:     append bytes, integers and formatted text; always NUL-terminated behind the last byte.
 * Owns:     its storage; buf_fini releases it. A zeroed buf with `max` set is valid (BUF_INIT).
 * Limits:   `max` bytes; appending past it sets the sticky `failed` flag and changes nothing, so a writer
 *           may append many times and check once with buf_ok().
 * Errors:   -ERR_LIMIT (max reached), -ERR_NOMEM.
 * Threads:  any, one at a time.
 */
#ifndef KF_BUF_H
#define KF_BUF_H

#include "internal/base/span.h"

#include <stdarg.h>

struct buf {
    uint8_t *p;
    size_t n, cap, max;
    int failed; /* 0 or the negative code of the first failure */
};

#define BUF_INIT(max_bytes) {NULL, 0, 0, (max_bytes), 0}

void buf_init(struct buf *b, size_t max);
void buf_fini(struct buf *b);
void buf_reset(struct buf *b); /* empty, storage kept, failure cleared */
/* All appenders return 0 or the sticky failure; the result may be ignored when buf_ok is checked later. */
int buf_add(struct buf *b, const void *p, size_t n);
int buf_span(struct buf *b, struct span s);
int buf_str(struct buf *b, const char *s);
int buf_u8(struct buf *b, uint8_t v);
int buf_be16(struct buf *b, uint16_t v);
int buf_be32(struct buf *b, uint32_t v);
int buf_be64(struct buf *b, uint64_t v);
int buf_le32(struct buf *b, uint32_t v);
int buf_le64(struct buf *b, uint64_t v);
int buf_varint(struct buf *b, uint64_t v);
int buf_zero(struct buf *b, size_t n); /* n zero bytes */
int buf_fmt(struct buf *b, const char *fmt, ...) PRINTF(2, 3);
int buf_vfmt(struct buf *b, const char *fmt, va_list ap) PRINTF(2, 0);
int buf_u64(struct buf *b, uint64_t v); /* decimal */
/* Room for n more bytes, to be filled by the caller and then counted with buf_added. NULL on failure. */
NODISCARD uint8_t *buf_room(struct buf *b, size_t n);
void buf_added(struct buf *b, size_t n);
void buf_drop(struct buf *b, size_t n);  /* removes n bytes from the front */
void buf_trunc(struct buf *b, size_t n); /* keeps the first n bytes */
NODISCARD int buf_ok(const struct buf *b);
static inline struct span buf_view(const struct buf *b) {
    return (struct span){b->p, b->n};
}
/* Text of the buffer; "" when empty. Valid until the next change. */
const char *buf_cstr(const struct buf *b);
/* Gives the storage to the caller (free it), NUL-terminated; NULL when failed. The buf is empty after. */
NODISCARD char *buf_take(struct buf *b, size_t *ret_n);

/* Heap strings. NULL never comes back: a small allocation that fails ends the process (house rule). */
char *str_dup(const char *s);
char *str_dupn(const void *p, size_t n);
char *str_fmt(const char *fmt, ...) PRINTF(1, 2);
bool str_eq(const char *a, const char *b); /* NULL equals only NULL */
/* Formats into an array; -ERR_LIMIT (and an empty string) when it does not fit. */
int str_put(char *dst, size_t cap, const char *fmt, ...) PRINTF(3, 4);
/* Constant-time comparison for secrets. */
bool ct_eq(const void *a, const void *b, size_t n);
void secret_wipe(void *p, size_t n);

/* Fixed-size allocation; aborts on failure. new_array checks the product against max elements. */
void *mem_zero_alloc(size_t n);
#define new_zero(T) ((T *)mem_zero_alloc(sizeof(T)))
/* NULL when n > max, on overflow or when memory is short. */
NODISCARD void *mem_array(void *old, size_t n, size_t size, size_t max);

/* Ownership of locals. */
void auto_free_(void *p);
void auto_fd_(int *fd);
#define AUTO_FREE __attribute__((cleanup(auto_free_)))
#define AUTO_FD __attribute__((cleanup(auto_fd_)))
/* AUTO(buf) struct buf b = BUF_INIT(n);  runs buf_fini at the end of the scope */
#define AUTO(type) __attribute__((cleanup(type##_fini)))
#define TAKE(p)                 \
    ({                          \
        __auto_type t_ = (p);   \
        (p) = NULL;             \
        t_;                     \
    })
#define TAKE_FD(fd)      \
    ({                   \
        int t_ = (fd);   \
        (fd) = -1;       \
        t_;              \
    })
#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define CONTAINER_OF(p, T, m) ((T *)(void *)((char *)(p) - offsetof(T, m)))

/* Asks for n bytes of memory that will be used soon, and goes on meanwhile. */
static inline void mem_prefetch(const void *p, size_t n) {
    for (size_t i = 0; i < n; i += 64) {
        __builtin_prefetch((const char *)p + i);
    }
}

#endif
