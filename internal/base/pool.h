/* pool — blocks that are used again and again (a request and its parts), kept in front of malloc.
 *
 * What:     allocation in size classes up to POOL_BLOCK_MAX; freed blocks wait for the next of their
 *           class. Larger ones pass through to malloc, and everything where nothing may be kept: the loop's pool under the
 *           sanitizers, which then see each use.
 * Owns:     the blocks that wait.
 * Limits:   `max_kept` bytes wait at most; pool_trim gives back what was not needed since the call before it.
 * Errors:   none: a small allocation that fails ends the process (house rule); large ones give NULL.
 * Threads:  any, one at a time. Blocks are aligned to 16 bytes and not zeroed.
 */
#ifndef KF_POOL_H
#define KF_POOL_H

#include <stddef.h>

enum { POOL_BLOCK_MAX = 4096 };

struct pool;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define POOL_KEEP(n) 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define POOL_KEEP(n) 0
#endif
#endif
#ifndef POOL_KEEP
#define POOL_KEEP(n) (n)
#endif

struct pool *pool_new(size_t max_kept);
void pool_free(struct pool *p); /* every block has come back; NULL is allowed */
void *pool_get(struct pool *p, size_t n);
void *pool_zero(struct pool *p, size_t n);
/* For a large block of which little is ever touched: straight from the kernel, so that the rest costs nothing. */
void *pool_sparse(struct pool *p, size_t n);
void *pool_resize(struct pool *p, void *block, size_t n); /* block may be NULL */
void pool_put(struct pool *p, void *block);               /* NULL is allowed */
size_t pool_kept(const struct pool *p);                   /* bytes that wait */
void pool_trim(struct pool *p);

#endif
