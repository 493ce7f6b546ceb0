#ifndef KF_IMAGEBUILD_INT_H
#define KF_IMAGEBUILD_INT_H

#include "internal/base/arena.h"
#include "internal/base/map.h"
#include "internal/imagebuild/imagebuild.h"
#include "internal/tar/tar.h"

/* The files under image/, compiled in. */
struct image_data {
    const char *path;
    struct span data;
};
extern const struct image_data image_data[];
struct span image_data_get(const char *path);

/* Files by path (no leading slash). Strings live in `mem`, content elsewhere (mapped archives, caller's buffers). */
struct image_file {
    const char *path, *link;
    enum tar_type type;
    uint32_t mode, dev_major, dev_minor;
    struct span data;
};
struct image_tree {
    struct map by_path;
    struct image_file **v; /* sorted by image_tree_sort */
    size_t n, cap;
    struct arena mem;
};
#define IMAGE_TREE_INIT {MAP_INIT, NULL, 0, 0, ARENA_INIT(256u << 20)}
void image_tree_fini(struct image_tree *t);
struct image_file *image_tree_get(const struct image_tree *t, const char *path);
/* Adds or replaces; parents are made by image_tree_sort. */
NODISCARD int image_tree_put(struct image_tree *t, const struct image_file *f);
NODISCARD int image_tree_put_file(struct image_tree *t, const char *path, uint32_t mode, struct span data);
NODISCARD int image_tree_put_link(struct image_tree *t, const char *path, const char *target);
/* Adds missing parent folders (0755) and sorts by path, parents first. */
NODISCARD int image_tree_sort(struct image_tree *t);
/* Everything of a package archive, with /bin, /sbin, /lib, /lib64 merged into /usr and hard links resolved. */
NODISCARD int image_tree_load(struct image_tree *t, struct span tar, struct err *e);

/* '*' matches within a name, '**' across names. */
bool image_glob(const char *pattern, const char *path);
/* Copies from `all` what the rules take (image/files), and the libraries that ELF programs need. */
NODISCARD int image_select(struct image_tree *to, const struct image_tree *all, struct span rules, struct err *e);
NODISCARD int image_select_applets(struct image_tree *to, struct span applets, struct err *e);
NODISCARD int image_libraries(struct image_tree *to, const struct image_tree *all, struct err *e);

/* A section of an ELF64 little-endian file; -ERR_NOT_FOUND, -ERR_INVALID. */
NODISCARD int image_elf_section(struct span elf, const char *name, struct span *ret);
/* Calls cb for every DT_NEEDED; files that are no dynamic ELF programs have none. */
NODISCARD int image_elf_needed(struct span elf, int (*cb)(void *ctx, const char *name), void *ctx);

/* Kernel modules of a package tree under usr/lib/modules/<version>. */
struct image_modules {
    const struct image_tree *all;
    const char *base; /* "usr/lib/modules/<version>" */
    struct map by_name;
    struct arena mem;
};
NODISCARD int image_modules_init(struct image_modules *m, const struct image_tree *all, const char *version,
                                 struct err *e);
void image_modules_fini(struct image_modules *m);
/* Puts the modules named in `list` (and extra ones), with all they need, under lib_prefix + base, and modules.dep and
 * modules.alias for them. Names that this kernel has not are skipped (drivers differ between kernels). */
NODISCARD int image_modules_put(struct image_modules *m, struct image_tree *to, const char *base, struct span list,
                                const char *const *extra, size_t n_extra, struct err *e);

NODISCARD int image_initrd(const struct image_tree *t, uint64_t epoch, struct buf *ret, struct err *e);
/* A tar with an OCI layout holding one image of one layer. */
struct image_oci {
    const char *ref; /* "kfarm.internal/pause:1" */
    const char *const *entrypoint;
    size_t n_entrypoint;
    const char *user;
};
NODISCARD int image_oci_write(const struct image_oci *o, struct image_tree *layer, uint64_t epoch, struct buf *ret,
                              struct err *e);

/* Runs a program to its end: stdin from in_fd (or nothing), output into the log file. */
NODISCARD int image_spawn(const char *const *argv, int in_fd, const char *log_path, int *ret_pidfd, struct err *e);
NODISCARD int image_wait(int own_pidfd, const char *program, const char *log_path, struct err *e);
/* Package archive of these packages, fetched with the system's own apt sources unless the cache has it. Mapped. */
NODISCARD int image_fetch(const struct imagebuild_opts *o, struct span *ret_map, struct err *e);

#endif
