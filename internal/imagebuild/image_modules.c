/* Kernel modules: what each needs is in its own .modinfo section, so no depmod has to run. */
#include "internal/imagebuild/imagebuild_int.h"

#include <stdlib.h>

struct module {
    const char *name, *path; /* path under the base */
    struct span file, info;
    bool taken;
};

/* Names are compared with '-' as '_'. */
static void plain_name(struct span s, char *dst, size_t cap) {
    size_t n = s.n < cap - 1 ? s.n : cap - 1;
    for (size_t i = 0; i < n; i++) {
        dst[i] = s.p[i] == '-' ? '_' : (char)s.p[i];
    }
    dst[n] = 0;
}

int image_modules_init(struct image_modules *m, const struct image_tree *all, const char *version,
                       struct err *e) {
    *m = (struct image_modules){.all = all, .mem = ARENA_INIT(64u << 20)};
    m->base = arena_fmt(&m->mem, "usr/lib/modules/%s/", version);
    size_t base_n = m->base ? strlen(m->base) : 0;
    for (size_t i = 0; i < all->n; i++) {
        const struct image_file *f = all->v[i];
        struct span path = span_str(f->path);
        if (f->type != TAR_FILE || !span_starts(path, m->base)) {
            continue;
        }
        if (span_ends(path, ".ko.xz") || span_ends(path, ".ko.zst") || span_ends(path, ".ko.gz")) {
            return err_set(e, ERR_UNSUPPORTED, "%s: compressed kernel modules", f->path);
        }
        if (!span_ends(path, ".ko")) {
            continue;
        }
        struct module *mod = arena_new(&m->mem, struct module);
        const char *file = strrchr(f->path, '/') + 1;
        char name[128];
        plain_name(span_of(file, strlen(file) - 3), name, sizeof(name));
        if (!mod || image_elf_section(f->data, ".modinfo", &mod->info) < 0) {
            return err_set(e, ERR_INVALID, "%s: no module information", f->path);
        }
        mod->name = arena_str(&m->mem, span_str(name));
        mod->path = f->path + base_n;
        mod->file = f->data;
        map_put_str(&m->by_name, name, mod);
    }
    return m->by_name.n ? 0 : err_set(e, ERR_INVALID, "no kernel modules under %s", m->base);
}

void image_modules_fini(struct image_modules *m) {
    map_fini(&m->by_name);
    arena_fini(&m->mem);
}

/* Walks the "key=value" strings of .modinfo with this key. */
static bool info_next(struct span *info, const char *key, struct span *ret) {
    for (struct span s; span_next(info, 0, &s);) {
        struct span k;
        if (span_next(&s, '=', &k) && span_eq_str(k, key)) {
            *ret = s;
            return true;
        }
    }
    return false;
}

struct closure {
    struct module *v[2048];
    size_t n;
};

static int want(struct image_modules *m, struct closure *c, struct span word) {
    char name[128];
    plain_name(word, name, sizeof(name));
    struct module *mod = map_get_str(&m->by_name, name);
    if (!mod || mod->taken) {
        return 0;
    }
    if (c->n == ARRAY_LEN(c->v)) {
        return -ERR_LIMIT;
    }
    mod->taken = true;
    c->v[c->n++] = mod;
    return 0;
}

static int want_dir(struct image_modules *m, struct closure *c, struct span dir) {
    struct map_iter it = {0};
    for (struct map_entry *me; map_next(&m->by_name, &it, &me);) {
        struct module *mod = me->value;
        struct span p = span_str(mod->path);
        if (p.n > dir.n && memcmp(p.p, dir.p, dir.n) == 0 && want(m, c, span_str(mod->name)) < 0) {
            return -ERR_LIMIT;
        }
    }
    return 0;
}

static int by_path(const void *a, const void *b) {
    const struct module *const *x = a, *const *y = b;
    return strcmp((*x)->path, (*y)->path);
}

/* What modules need, softly ("softdep=pre: x post: y") or not; the list grows while it is walked. */
static int close_over(struct image_modules *m, struct closure *c) {
    for (size_t i = 0; i < c->n; i++) {
        struct span info = c->v[i]->info, list, word;
        while (info_next(&info, "depends", &list)) {
            while (span_next(&list, ',', &word)) {
                if (want(m, c, word) < 0) {
                    return -ERR_LIMIT;
                }
            }
        }
        info = c->v[i]->info;
        while (info_next(&info, "softdep", &list)) {
            while (span_next(&list, ' ', &word)) {
                if (!span_ends(word, ":") && want(m, c, word) < 0) {
                    return -ERR_LIMIT;
                }
            }
        }
    }
    return 0;
}

struct deps {
    struct module *v[64];
    size_t n;
};

static void add_dep(struct image_modules *m, struct deps *d, struct span word) {
    char name[128];
    plain_name(word, name, sizeof(name));
    struct module *dep = map_get_str(&m->by_name, name);
    for (size_t i = 0; dep && i < d->n; i++) {
        dep = d->v[i] == dep ? NULL : dep;
    }
    if (dep && d->n < ARRAY_LEN(d->v)) {
        d->v[d->n++] = dep;
    }
}

/* Is everything that mod needs directly among those not waiting any more? */
static bool is_satisfied(const struct module *mod, const struct deps *waiting) {
    struct span info = mod->info, list, word;
    while (info_next(&info, "depends", &list)) {
        while (span_next(&list, ',', &word)) {
            char name[128];
            plain_name(word, name, sizeof(name));
            for (size_t i = 0; i < waiting->n; i++) {
                if (waiting->v[i] && str_eq(waiting->v[i]->name, name)) {
                    return false;
                }
            }
        }
    }
    return true;
}

/* A line of modules.dep: every dependency, direct or not, the one to be loaded first standing last. */
static void write_dep(struct image_modules *m, struct module *mod, struct buf *b) {
    struct deps all = {.n = 0};
    struct module *order[ARRAY_LEN(all.v)];
    size_t n = 0;
    for (size_t i = 0; i <= all.n; i++) {
        struct span info = i == 0 ? mod->info : all.v[i - 1]->info, list, word;
        while (info_next(&info, "depends", &list)) {
            while (span_next(&list, ',', &word)) {
                add_dep(m, &all, word);
            }
        }
    }
    for (size_t before = SIZE_MAX;
         before != n;) { /* ends early on a cycle, which modules cannot have */
        before = n;
        for (size_t i = 0; i < all.n; i++) {
            if (all.v[i] && is_satisfied(all.v[i], &all)) {
                order[n++] = all.v[i];
                all.v[i] = NULL;
            }
        }
    }
    buf_fmt(b, "%s:", mod->path);
    while (n-- > 0) {
        buf_fmt(b, " %s", order[n]->path);
    }
    buf_u8(b, '\n');
}

static int put_indexes(struct image_modules *m, struct image_tree *to, const char *base,
                       struct closure *c) {
    AUTO(buf) struct buf dep = BUF_INIT(4 << 20), alias = BUF_INIT(16 << 20);
    for (size_t i = 0; i < c->n; i++) {
        struct span info = c->v[i]->info, a;
        write_dep(m, c->v[i], &dep);
        while (info_next(&info, "alias", &a)) {
            buf_fmt(&alias, "alias %.*s %s\n", SPAN_FMT(a), c->v[i]->name);
        }
    }
    struct span d = arena_copy(&to->mem, buf_view(&dep)),
                al = arena_copy(&to->mem, buf_view(&alias));
    char path[256];
    if (buf_ok(&dep) < 0 || buf_ok(&alias) < 0 ||
        str_put(path, sizeof(path), "%smodules.dep", base) < 0 ||
        image_tree_put_file(to, path, 0644, d) < 0 ||
        str_put(path, sizeof(path), "%smodules.alias", base) < 0) {
        return -ERR_LIMIT;
    }
    return image_tree_put_file(to, path, 0644, al);
}

int image_modules_put(struct image_modules *m, struct image_tree *to, const char *base,
                      struct span list, const char *const *extra, size_t n_extra, struct err *e) {
    struct closure *c = new_zero(struct closure);
    int rc = 0;
    struct map_iter it = {0};
    for (struct map_entry *me; map_next(&m->by_name, &it, &me);) {
        ((struct module *)me->value)->taken = false;
    }
    for (struct span line; rc == 0 && span_line(&list, &line) == 0;) {
        for (struct span w;
             rc == 0 && !(line.n && line.p[0] == '#') && span_next(&line, ' ', &w);) {
            rc = span_ends(w, "/") ? want_dir(m, c, w) : w.n ? want(m, c, w) : 0;
        }
    }
    for (size_t i = 0; i < n_extra && rc == 0; i++) {
        rc = want(m, c, span_str(extra[i]));
    }
    rc = rc < 0 ? rc : close_over(m, c);
    qsort(c->v, c->n, sizeof(c->v[0]), by_path);
    for (size_t i = 0; i < c->n && rc == 0; i++) {
        char path[512];
        rc = str_put(path, sizeof(path), "%s%s", base, c->v[i]->path);
        rc = rc < 0 ? rc : image_tree_put_file(to, path, 0644, c->v[i]->file);
    }
    rc = rc < 0 ? rc : put_indexes(m, to, base, c);
    free(c);
    return rc < 0 ? err_set(e, (enum err_code) - rc, "kernel modules: too many") : 0;
}
