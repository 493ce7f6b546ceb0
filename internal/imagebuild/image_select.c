#include "internal/imagebuild/imagebuild_int.h"

bool image_glob(const char *p, const char *s) {
    const char *star = NULL, *back = NULL; /* of the last '*' */
    bool deep = false;
    for (;;) {
        if (*p == '*') {
            deep = p[1] == '*';
            p += deep ? 2 : 1;
            star = p;
            back = s;
        } else if (*p && *p == *s) {
            p++;
            s++;
        } else if (!*p && !*s) {
            return true;
        } else if (star && *back && (deep || *back != '/')) {
            s = ++back;
            p = star;
        } else {
            return false;
        }
    }
}

static int take(struct image_tree *to, const struct image_tree *all, const char *pattern,
                size_t *ret_n) {
    if (!strchr(pattern, '*')) {
        const struct image_file *f = image_tree_get(all, pattern);
        *ret_n = f ? 1 : 0;
        return f ? image_tree_put(to, f) : 0;
    }
    *ret_n = 0;
    for (size_t i = 0; i < all->n; i++) {
        if (image_glob(pattern, all->v[i]->path)) {
            ++*ret_n;
            int rc = image_tree_put(to, all->v[i]);
            if (rc < 0) {
                return rc;
            }
        }
    }
    return 0;
}

static void drop(struct image_tree *t, const char *pattern) {
    size_t kept = 0;
    for (size_t i = 0; i < t->n; i++) {
        if (image_glob(pattern, t->v[i]->path)) {
            map_del_str(&t->by_path, t->v[i]->path);
        } else {
            t->v[kept++] = t->v[i];
        }
    }
    t->n = kept;
}

static int one_rule(struct image_tree *to, const struct image_tree *all, struct span line,
                    struct err *e) {
    struct span word[3] = {{0}};
    size_t n = 0, found = 1;
    for (struct span rest = line, w; n < 3 && span_next(&rest, ' ', &w);) {
        if (w.n > 0) {
            word[n++] = w;
        }
    }
    char a[512], b[512];
    int rc;
    if (span_eq_str(word[0], "link") && n == 3) {
        rc = span_to_cstr(word[1], a, sizeof(a)) < 0 || span_to_cstr(word[2], b, sizeof(b)) < 0
                 ? -ERR_LIMIT
                 : image_tree_put_link(to, a, b);
    } else if (span_eq_str(word[0], "dir") && n == 3) {
        uint32_t mode = 0;
        for (size_t i = 0; i < word[2].n; i++) {
            mode = mode << 3 | (uint32_t)(word[2].p[i] & 7);
        }
        rc = span_to_cstr(word[1], a, sizeof(a)) < 0
                 ? -ERR_LIMIT
                 : image_tree_put(to,
                                  &(struct image_file){.path = a, .type = TAR_DIR, .mode = mode});
    } else if (n != 1 || span_to_cstr(word[0], a, sizeof(a)) < 0) {
        rc = -ERR_INVALID;
    } else if (a[0] == '!') {
        drop(to, a + 1);
        rc = 0;
    } else {
        rc = take(to, all, a, &found);
    }
    if (rc == 0 && found == 0) {
        return err_set(e, ERR_INVALID, "image files: no package has %.*s", SPAN_FMT(line));
    }
    return rc < 0 ? err_set(e, (enum err_code) - rc, "image files: cannot use the line \"%.*s\"",
                            SPAN_FMT(line))
                  : 0;
}

int image_select(struct image_tree *to, const struct image_tree *all, struct span rules,
                 struct err *e) {
    for (struct span line; span_line(&rules, &line) == 0;) {
        line = span_trim(line);
        if (line.n > 0 && line.p[0] != '#' && one_rule(to, all, line, e) < 0) {
            return -(int)e->code;
        }
    }
    return 0;
}

/* Links from usr/bin (or the folder named) to busybox; programs that are there already win. */
int image_select_applets(struct image_tree *to, struct span applets, struct err *e) {
    for (struct span line; span_line(&applets, &line) == 0;) {
        if (line.n > 0 && line.p[0] == '#') {
            continue;
        }
        for (struct span w; span_next(&line, ' ', &w);) {
            char path[128];
            bool has_dir = span_index(w, '/') >= 0;
            if (w.n == 0) {
                continue;
            }
            if (str_put(path, sizeof(path), "usr/%s%.*s", has_dir ? "" : "bin/", SPAN_FMT(w)) < 0) {
                return err_set(e, ERR_LIMIT, "image applets: name too long");
            }
            if (!image_tree_get(to, path) &&
                image_tree_put_link(to, path, has_dir ? "../bin/busybox" : "busybox") < 0) {
                return err_set(e, ERR_LIMIT, "image applets: too many files");
            }
        }
    }
    return 0;
}

/* ---- libraries ---- */

struct lib_walk {
    struct image_tree *to;
    const struct image_tree *all;
    const char *of;
    struct err *e;
};

/* Puts the file at path, following links within the tree; 1 when it is there, 0 when not. */
static int add_path(struct lib_walk *w, const char *path) {
    const struct image_file *f = image_tree_get(w->all, path);
    for (int links = 0; f && links < 8; links++) { /* libx.so.1 → libx.so.1.2 */
        char next[512];
        if (!image_tree_get(w->to, f->path) && image_tree_put(w->to, f) < 0) {
            return err_set(w->e, ERR_LIMIT, "image: too many files");
        }
        if (f->type != TAR_SYMLINK) {
            return 1;
        }
        const char *slash = strrchr(f->path, '/');
        int rc = f->link[0] == '/' ? str_put(next, sizeof(next), "%s%s",
                                             strncmp(f->link, "/lib", 4) ? "" : "usr/", f->link + 1)
                                   : str_put(next, sizeof(next), "%.*s/%s", (int)(slash - f->path),
                                             f->path, f->link);
        f = rc < 0 ? NULL : image_tree_get(w->all, next);
    }
    return 0;
}

static int add_library(void *ctx, const char *name) {
    static const char *const dirs[] = {"usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu",
                                       "usr/lib", "usr/lib64"};
    struct lib_walk *w = ctx;
    for (size_t i = 0; i < ARRAY_LEN(dirs); i++) {
        char path[512];
        int rc = str_put(path, sizeof(path), "%s/%s", dirs[i], name) < 0 ? 0 : add_path(w, path);
        if (rc != 0) {
            return rc < 0 ? rc : 0;
        }
    }
    return err_set(w->e, ERR_INVALID, "image: %s needs %s, which no package has", w->of, name);
}

/* The dynamic linker is named by its path. */
static int add_interpreter(struct lib_walk *w, struct span elf) {
    struct span s, path;
    char text[256];
    if (image_elf_section(elf, ".interp", &s) < 0 || !span_next(&s, 0, &path) || path.n < 2) {
        return 0; /* static, or a library */
    }
    bool in_usr = span_starts(path, "/usr/");
    if (str_put(text, sizeof(text), "%s%.*s", in_usr ? "" : "usr/", (int)path.n - 1,
                (const char *)path.p + 1) < 0) {
        return err_set(w->e, ERR_INVALID, "image: %s: interpreter path too long", w->of);
    }
    int rc = add_path(w, text);
    return rc != 0 ? rc
                   : err_set(w->e, ERR_INVALID, "image: %s needs /%s, which no package has", w->of,
                             text);
}

int image_libraries(struct image_tree *to, const struct image_tree *all, struct err *e) {
    struct lib_walk w = {to, all, NULL, e};
    for (size_t i = 0; i < to->n; i++) { /* libraries that are added get their turn */
        const struct image_file *f = to->v[i];
        w.of = f->path;
        if (f->type == TAR_FILE) {
            int rc = image_elf_needed(f->data, add_library, &w);
            rc = rc < 0 ? rc : add_interpreter(&w, f->data);
            if (rc < 0) {
                return e->code ? rc
                               : err_set(e, ERR_INVALID, "image: %s: malformed ELF file", f->path);
            }
        }
    }
    return 0;
}
