/* pool — blocks that are used again and again (a request and its parts), kept in front of malloc.
 *
 * What:     allocation in size classes of powers of two up to POOL_BLOCK_MAX; freed blocks wait for the next of their
 *           class. Larger ones pass through to malloc. Under the sanitizers everything does, so that they see each use.
 * Owns:     the blocks that wait.
 * Limits:   `max_kept` bytes wait at most; pool_trim gives back what was not needed since the call before it.
 * Errors:   none: a small allocation that fails ends the process (house rule); large ones give NULL.
 * Threads:  any, one at a time. Blocks are aligned to 16 bytes and not zeroed.
 */
#ifndef KF_POOL_H
#define KF_POOL_H

#include <stddef.h>

enum { POOL_BLOCK_MAX = 4096 - 16 };

struct pool;

struct pool *pool_new(size_t max_kept);
void pool_free(struct pool *p); /* every block has come back; NULL is allowed */
void *pool_get(struct pool *p, size_t n);
void *pool_zero(struct pool *p, size_t n);
void *pool_resize(struct pool *p, void *block, size_t n); /* block may be NULL */
void pool_put(struct pool *p, void *block);               /* NULL is allowed */
size_t pool_kept(const struct pool *p);                   /* bytes that wait */
void pool_trim(struct pool *p);

#endif
