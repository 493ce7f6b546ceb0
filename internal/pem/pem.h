/* pem — the text armour around keys and certificates.
 *
 * What:     walk the blocks of a PEM text; write one block.
 * Owns:     nothing; decoded bytes go into the caller's buf.
 * Limits:   the caller's buf. Text between blocks is skipped; headers inside a block (old encrypted keys) are refused.
 * Errors:   INVALID (malformed), NOT_FOUND (no further block), LIMIT.
 * Threads:  any.
 * Spec:     RFC 7468.
 */
#ifndef KF_PEM_H
#define KF_PEM_H

#include "internal/base/buf.h"

/* Takes the next block off the front of *s: the label ("CERTIFICATE") as a view, the DER appended to `der`. */
NODISCARD int pem_next(struct span *s, struct span *ret_label, struct buf *der);
int pem_write(struct buf *b, const char *label, struct span der);
/* Does the text hold PEM at all (as opposed to DER)? */
bool pem_is(struct span s);

#endif
