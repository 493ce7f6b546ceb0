/* cpio — archives in the "newc" form, which is what the Linux kernel unpacks as an initramfs.
 *
 * What:     append entries to a buffer; walk the entries of an archive.
 * Owns:     nothing; a read entry is a view into the input.
 * Limits:   the buffer's maximum; names of LIM_CPIO_NAME bytes; files below 4 GiB (the format's fields).
 * Errors:   INVALID (malformed), LIMIT (name or file too large), NOT_FOUND (end of the archive).
 * Threads:  any.
 * Spec:     Documentation/driver-api/early-userspace/buffer-format.rst of Linux.
 */
#ifndef KF_CPIO_H
#define KF_CPIO_H

#include "internal/base/buf.h"

enum { LIM_CPIO_NAME = 4096 };

struct cpio_entry {
    struct span name;      /* without a leading slash */
    uint32_t mode;         /* with the type bits of S_IFMT */
    uint32_t ino, mtime;
    uint32_t rdev_major, rdev_minor;
    struct span data;      /* content, or the target of a symbolic link */
};

/* Owner is always root, link count 1 (2 for directories). */
NODISCARD int cpio_add(struct buf *b, const struct cpio_entry *e);
/* The trailer; the archive is then padded to 512 bytes. */
int cpio_end(struct buf *b);
/* Takes the next entry off the front. -ERR_NOT_FOUND at the trailer, whose padding is left in `s`. */
NODISCARD int cpio_next(struct span *s, struct cpio_entry *ret);

#endif
