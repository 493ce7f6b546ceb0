/* file_watch — files (certificates, keys, CA bundles) that are read again when they change.
 *
 * What:     inotify on every directory and symbolic link on the way to the files: writes in place, renames over them, and
 *           Kubernetes' mounted Secrets, where only a link (..data) is exchanged.
 * Owns:     one inotify descriptor. Nothing is polled.
 * Limits:   FILE_WATCH_SPOTS links and directories.
 * Threads:  the loop's.
 */
#ifndef KF_FILE_WATCH_H
#define KF_FILE_WATCH_H

#include "internal/base/buf.h"

struct file_watch;
struct loop;

enum { FILE_WATCH_SPOTS = 64, FILE_WATCH_SETTLE_MS = 100 };

/* Reads the files and puts them to use; when it fails, what was in use stays. */
typedef int file_watch_read(void *ctx, struct err *e);

/* Paths are copied, NULL ones skipped; without any, *ret is NULL. `read` runs a moment after a change, so that a pair is
 * changed as one; its outcome is logged as of `who`, the same failure only once in a row. */
NODISCARD int file_watch_new(struct loop *l, const char *const *paths, size_t n, const char *who,
                             file_watch_read *read, void *ctx, struct file_watch **ret,
                             struct err *e);
void file_watch_free(struct file_watch *w); /* NULL is allowed */

#endif
