#include "internal/imagebuild/imagebuild_int.h"

#include <stdlib.h>

enum { LIM_TREE = 1 << 20 };

struct span image_data_get(const char *path) {
    for (const struct image_data *d = image_data; d->path; d++) {
        if (str_eq(d->path, path)) {
            return d->data;
        }
    }
    return SPAN_EMPTY;
}

void image_tree_fini(struct image_tree *t) {
    map_fini(&t->by_path);
    free(t->v);
    arena_fini(&t->mem);
    *t = (struct image_tree)IMAGE_TREE_INIT;
}

struct image_file *image_tree_get(const struct image_tree *t, const char *path) {
    return map_get_str(&t->by_path, path);
}

int image_tree_put(struct image_tree *t, const struct image_file *f) {
    struct image_file *at = image_tree_get(t, f->path);
    if (!at) {
        if (t->n == t->cap) {
            size_t cap = t->cap ? 2 * t->cap : 1024;
            struct image_file **v = mem_array(t->v, cap, sizeof(*v), LIM_TREE);
            if (!v) {
                return -ERR_LIMIT;
            }
            t->v = v;
            t->cap = cap;
        }
        at = arena_new(&t->mem, struct image_file);
        char *path = arena_str(&t->mem, span_str(f->path));
        if (!at || !path) {
            return -ERR_LIMIT;
        }
        at->path = path;
        t->v[t->n++] = at;
        map_put_str(&t->by_path, path, at);
    }
    const char *path = at->path, *link = arena_str(&t->mem, span_str(f->link ? f->link : ""));
    if (!link) {
        return -ERR_LIMIT;
    }
    *at = *f;
    at->path = path;
    at->link = link;
    return 0;
}

int image_tree_put_file(struct image_tree *t, const char *path, uint32_t mode, struct span data) {
    return image_tree_put(
        t, &(struct image_file){.path = path, .type = TAR_FILE, .mode = mode, .data = data});
}

int image_tree_put_link(struct image_tree *t, const char *path, const char *target) {
    return image_tree_put(
        t, &(struct image_file){.path = path, .link = target, .type = TAR_SYMLINK, .mode = 0777});
}

static int by_path(const void *a, const void *b) {
    const struct image_file *const *x = a, *const *y = b;
    return strcmp((*x)->path, (*y)->path);
}

int image_tree_sort(struct image_tree *t) {
    for (size_t i = 0; i < t->n; i++) { /* grows while it runs: parents get parents */
        const char *path = t->v[i]->path, *slash = strrchr(path, '/');
        if (!slash) {
            continue;
        }
        char *parent = arena_str(&t->mem, span_of(path, (size_t)(slash - path)));
        if (!parent) {
            return -ERR_LIMIT;
        }
        if (!image_tree_get(t, parent)) {
            int rc = image_tree_put(
                t, &(struct image_file){.path = parent, .type = TAR_DIR, .mode = 0755});
            if (rc < 0) {
                return rc;
            }
        }
    }
    qsort(t->v, t->n, sizeof(struct image_file *), by_path);
    return 0;
}

/* Debian's packages still ship files in both places; the merged layout is made at installation. */
static char *merged(struct arena *mem, const char *path) {
    static const char *const top[] = {"bin", "sbin", "lib", "lib64", "lib32", "libx32"};
    for (size_t i = 0; i < ARRAY_LEN(top); i++) {
        size_t n = strlen(top[i]);
        if (strncmp(path, top[i], n) == 0 && (path[n] == '/' || path[n] == 0)) {
            return arena_fmt(mem, "usr/%s", path);
        }
    }
    return arena_str(mem, span_str(path));
}

int image_tree_load(struct image_tree *t, struct span tar, struct err *e) {
    struct tar_reader r;
    struct tar_entry in;
    int rc;
    tar_reader_init(&r, tar);
    while ((rc = tar_next(&r, &in)) == 0) {
        if (in.name[0] == 0 || str_eq(in.name, ".") || in.type == TAR_CHAR ||
            in.type == TAR_BLOCKDEV || in.type == TAR_FIFO) {
            continue;
        }
        char *path = merged(&t->mem, in.name);
        struct image_file f = {
            .path = path, .link = in.link, .type = in.type, .mode = in.mode, .data = in.data};
        if (in.type == TAR_HARDLINK) {
            char *target =
                merged(&t->mem, in.link[0] == '.' && in.link[1] == '/' ? in.link + 2 : in.link);
            const struct image_file *to = target ? image_tree_get(t, target) : NULL;
            if (!to) {
                rc = err_set(e, ERR_INVALID,
                             "package archive: %s is a hard link to %s, which is not there",
                             in.name, in.link);
                break;
            }
            f.type = to->type;
            f.mode = to->mode;
            f.data = to->data;
            f.link = to->link;
        }
        const struct image_file *old = path ? image_tree_get(t, path) : NULL;
        if (old && old->type == TAR_SYMLINK && f.type == TAR_DIR) {
            continue;
        }
        if (!path || image_tree_put(t, &f) < 0) {
            rc = err_set(e, ERR_LIMIT, "package archive: too many files");
            break;
        }
    }
    tar_reader_fini(&r);
    if (rc == -ERR_NOT_FOUND) {
        return 0;
    }
    return rc < 0 && e && e->code ? rc : err_set(e, ERR_INVALID, "package archive: malformed tar");
}
