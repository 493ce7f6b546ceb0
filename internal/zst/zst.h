/* zst — zstd frames of whole buffers.
 *
 * Owns:     nothing but what it appends to the caller's buffer.
 * Limits:   the buffer's maximum.        Errors: INVALID (not zstd, cut), LIMIT, NOMEM.
 * Threads:  any.                         Spec: RFC 8878.
 */
#ifndef KF_ZST_H
#define KF_ZST_H

#include "internal/base/buf.h"

enum { ZST_FAST = 3, ZST_BEST = 19 };

NODISCARD int zst_compress(struct buf *b, struct span s, int level);
NODISCARD int zst_decompress(struct buf *b, struct span s);

#endif
