/* imagebuild — makes node images from Debian packages: kernel, initrd, root, preloaded container images, boot loaders.
 *
 * What:     one call that runs mmdebstrap for the packages and mksquashfs for the root; choosing files, resolving libraries and
 *           kernel modules, initrd, container images and manifest are done here.
 * Owns:     the folder out_dir (replaced as a whole when complete) and its cache folder.
 * Limits:   LIM_IMAGE_PACKAGES bytes of unpacked packages, LIM_IMAGE_INITRD of initrd.
 * Errors:   UNAVAILABLE (a tool or the package mirror is missing; the text says what to install), INVALID, IO, LIMIT.
 * Threads:  blocks; for commands only.
 * Spec:     same packages, same kfarm, same SOURCE_DATE_EPOCH: same digests.
 */
#ifndef KF_IMAGEBUILD_H
#define KF_IMAGEBUILD_H

#include "internal/base/buf.h"

enum { LIM_IMAGE_INITRD = 256 << 20 };
#define LIM_IMAGE_PACKAGES ((uint64_t)4 << 30)

struct imagebuild_opts {
    const char *name;
    const char *out_dir;    /* <data-dir>/images/<name> */
    const char *boot_dir;   /* where the boot loaders go, NULL: nowhere */
    const char *cache_dir;
    const char *kfarm_path; /* the binary that goes in */
    bool refresh;           /* fetch the packages again */
    const char *const *packages; /* further Debian packages, all their files are taken */
    size_t n_packages;
    const char *const *modules;  /* further kernel modules for initrd and root */
    size_t n_modules;
    uint64_t epoch;         /* every modification time */
    int zstd_level;         /* of the root, 0: 10 */
    void (*progress)(const char *what, unsigned percent, void *ctx); /* percent 100: done; may be NULL */
    void *ctx;
};
struct imagebuild_result {
    char digest[72]; /* "sha256:…" of the manifest's parts */
    uint64_t kernel_size, initrd_size, root_size;
};
NODISCARD int imagebuild_run(const struct imagebuild_opts *o, struct imagebuild_result *ret, struct err *e);

#endif
