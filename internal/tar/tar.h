/* tar — archives in the ustar form with GNU long names and pax headers: read what tools write, write what is canonical.
 *
 * What:     walk the entries of an archive in memory; append headers, content and the end mark to a buffer.
 * Owns:     struct tar_reader owns the scratch that holds long names; an entry is valid until the next call.
 * Limits:   LIM_TAR_NAME bytes a name; LIM_TAR_PAX bytes of pax records.
 * Errors:   INVALID (malformed, wrong checksum), LIMIT, UNSUPPORTED (sparse files), NOT_FOUND (end of the archive).
 * Threads:  any.
 * Spec:     POSIX.1-2017 pax; GNU tar's 'L' and 'K' records. Written archives use pax only where ustar cannot say it.
 */
#ifndef KF_TAR_H
#define KF_TAR_H

#include "internal/base/buf.h"

enum { LIM_TAR_NAME = 4096, LIM_TAR_PAX = 1 << 20, TAR_BLOCK = 512 };
enum tar_type { TAR_FILE = '0', TAR_HARDLINK = '1', TAR_SYMLINK = '2', TAR_CHAR = '3', TAR_BLOCKDEV = '4', TAR_DIR = '5',
                TAR_FIFO = '6' };

struct tar_entry {
    enum tar_type type;
    const char *name; /* as in the archive; readers strip leading "./" and trailing "/" */
    const char *link; /* target of links, else "" */
    uint32_t mode, uid, gid; /* mode: permission bits */
    uint32_t dev_major, dev_minor;
    uint64_t mtime, size;
    struct span data; /* reading: the content */
};

struct tar_reader {
    struct span left;
    struct buf name, link;
};
void tar_reader_init(struct tar_reader *r, struct span archive);
void tar_reader_fini(struct tar_reader *r);
NODISCARD int tar_next(struct tar_reader *r, struct tar_entry *ret);

/* Header (with a pax header in front when needed). e->size bytes of content and tar_pad must follow. */
NODISCARD int tar_head(struct buf *b, const struct tar_entry *e);
/* Zeros after `size` bytes of content up to the next block. */
int tar_pad(struct buf *b, uint64_t size);
int tar_end(struct buf *b);
/* Header, e->data as content, padding. */
NODISCARD int tar_add(struct buf *b, const struct tar_entry *e);

#endif
