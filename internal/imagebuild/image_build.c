#include "internal/base/rand.h"
#include "internal/hash/hash.h"
#include "internal/imagebuild/imagebuild_int.h"
#include "internal/json/json.h"
#include "internal/sys/sys.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LIM_KFARM = 64 << 20 };

struct part {
    const char *file;
    uint64_t size;
    char digest[72];
};

/* One run; everything in it is released by the end of imagebuild_run. */
struct build {
    const struct imagebuild_opts *o;
    struct err *e;
    char work[512], kernel_version[128];
    struct image_tree all, root, initrd;
    struct span packages;
    struct buf kfarm, initrd_bytes, pause, busybox, certificates;
    struct part parts[3]; /* kernel, initrd, root */
};

static void say(struct build *b, const char *what, unsigned percent) {
    if (b->o->progress) {
        b->o->progress(what, percent, b->o->ctx);
    }
}

static void digest_text(struct span data, char dst[72]) {
    uint8_t sum[32];
    AUTO(buf) struct buf hex = BUF_INIT(80);
    hash_sha256(data, sum);
    hex_encode(&hex, span_of(sum, sizeof(sum)));
    IGNORE_ERR(str_put(dst, 72, "sha256:%s", buf_cstr(&hex)), "fits");
}

static int write_part(struct build *b, size_t i, const char *file, struct span data) {
    char path[600];
    AUTO_FD int fd = -1;
    if (str_put(path, sizeof(path), "%s/%s", b->work, file) < 0) {
        return err_set(b->e, ERR_LIMIT, "path too long");
    }
    fd = sys_open(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, 0644, b->e);
    if (fd < 0 || sys_write_all(fd, data, b->e) < 0) {
        return -(int)b->e->code;
    }
    b->parts[i].file = file;
    b->parts[i].size = data.n;
    digest_text(data, b->parts[i].digest);
    return 0;
}

static int kernel(struct build *b) {
    static const char prefix[] = "boot/vmlinuz-";
    for (size_t i = 0; i < b->all.n; i++) {
        const struct image_file *f = b->all.v[i];
        if (f->type == TAR_FILE && span_starts(span_str(f->path), prefix)) {
            if (str_put(b->kernel_version, sizeof(b->kernel_version), "%s",
                        f->path + sizeof(prefix) - 1) < 0) {
                return err_set(b->e, ERR_LIMIT, "kernel version too long");
            }
            return write_part(b, 0, "kernel", f->data);
        }
    }
    return err_set(b->e, ERR_INVALID, "the packages hold no kernel");
}

static int initrd(struct build *b, struct image_modules *m) {
    char base[256];
    struct image_tree *t = &b->initrd;
    if (str_put(base, sizeof(base), "lib/modules/%s/", b->kernel_version) < 0 ||
        image_modules_put(m, t, base, image_data_get("modules-initrd"), b->o->modules,
                          b->o->n_modules, b->e) < 0) {
        return -(int)b->e->code;
    }
    const struct image_file console = {
        .path = "dev/console", .type = TAR_CHAR, .mode = 0600, .dev_major = 5, .dev_minor = 1};
    static const char *const dirs[] = {"proc", "sys", "run", "newroot"};
    int rc = image_tree_put_file(t, "init", 0755, buf_view(&b->kfarm));
    rc = rc < 0 ? rc : image_tree_put(t, &console);
    for (size_t i = 0; i < ARRAY_LEN(dirs) && rc == 0; i++) {
        rc =
            image_tree_put(t, &(struct image_file){.path = dirs[i], .type = TAR_DIR, .mode = 0755});
    }
    if (rc < 0 || image_tree_sort(t) < 0) {
        return err_set(b->e, ERR_LIMIT, "initrd: too many files");
    }
    return image_initrd(t, b->o->epoch, &b->initrd_bytes, b->e) < 0
               ? -(int)b->e->code
               : write_part(b, 1, "initrd", buf_view(&b->initrd_bytes));
}

/* ---- the root's own files ---- */

static int certificates(struct build *b) {
    if (image_tree_sort(&b->all) < 0) {
        return err_set(b->e, ERR_LIMIT, "too many files");
    }
    for (size_t i = 0; i < b->all.n; i++) {
        const struct image_file *f = b->all.v[i];
        if (f->type == TAR_FILE && image_glob("usr/share/ca-certificates/mozilla/*.crt", f->path)) {
            buf_span(&b->certificates, f->data);
        }
    }
    return buf_ok(&b->certificates) < 0 ||
                   image_tree_put_file(&b->root, "etc/ssl/certs/ca-certificates.crt", 0644,
                                       buf_view(&b->certificates)) < 0
               ? err_set(b->e, ERR_LIMIT, "CA certificates: too large")
               : 0;
}

static int container_images(struct build *b) {
    struct image_tree pause = IMAGE_TREE_INIT, busy = IMAGE_TREE_INIT;
    static const char *const pause_cmd[] = {"/kfarm", "pause"}, *const sh[] = {"/bin/sh"};
    static const char *const dirs[] = {"tmp", "etc", "proc", "sys", "dev", "root"};
    const struct image_file *bb = image_tree_get(&b->all, "usr/bin/busybox");
    int rc = -ERR_INVALID;
    if (!bb) {
        err_set(b->e, ERR_INVALID, "the packages hold no busybox");
        goto out;
    }
    rc = image_tree_put_file(&pause, "kfarm", 0755, buf_view(&b->kfarm));
    rc = rc < 0 ? rc
                : image_oci_write(
                      &(struct image_oci){"kfarm.internal/pause:1", pause_cmd, 2, "65535:65535"},
                      &pause, b->o->epoch, &b->pause, b->e);
    rc = rc < 0 ? rc : image_tree_put_file(&busy, "bin/busybox", 0755, bb->data);
    for (size_t i = 0; i < ARRAY_LEN(dirs) && rc == 0; i++) {
        rc = image_tree_put(
            &busy,
            &(struct image_file){.path = dirs[i], .type = TAR_DIR, .mode = i == 0 ? 01777 : 0755});
    }
    struct span applets = image_data_get("applets-busybox"), line, w;
    while (rc == 0 && span_line(&applets, &line) == 0) {
        while (rc == 0 && !(line.n && line.p[0] == '#') && span_next(&line, ' ', &w)) {
            char path[64];
            if (w.n > 0 && str_put(path, sizeof(path), "bin/%.*s", SPAN_FMT(w)) == 0) {
                rc = image_tree_put_link(&busy, path, "busybox");
            }
        }
    }
    rc = rc < 0 ? rc
                : image_tree_put_file(&busy, "etc/passwd", 0644,
                                      SPAN_LIT("root:x:0:0:root:/root:/bin/sh\n"));
    rc = rc < 0 ? rc
                : image_oci_write(&(struct image_oci){"kfarm.internal/busybox:1", sh, 1, ""}, &busy,
                                  b->o->epoch, &b->busybox, b->e);
    rc = rc < 0 ? rc
                : image_tree_put_file(&b->root, "usr/share/kfarm/images/pause.tar", 0644,
                                      buf_view(&b->pause));
    rc = rc < 0 ? rc
                : image_tree_put_file(&b->root, "usr/share/kfarm/images/busybox.tar", 0644,
                                      buf_view(&b->busybox));
    if (rc < 0 && !b->e->code) {
        err_set(b->e, (enum err_code) - rc, "container images: too large");
    }
out:
    image_tree_fini(&pause);
    image_tree_fini(&busy);
    return rc;
}

/* Further packages are taken whole but for documentation. */
static int whole_packages(struct build *b) {
    static const char *const left_out[] = {
        "usr/share/doc/**",     "usr/share/man/**",   "usr/share/info/**", "usr/share/locale/**",
        "usr/share/lintian/**", "usr/lib/modules/**", "boot/**",           "usr/lib/ipxe/**"};
    for (size_t i = 0; b->o->n_packages > 0 && i < b->all.n; i++) {
        const struct image_file *f = b->all.v[i];
        bool skip = image_tree_get(&b->root, f->path) != NULL;
        for (size_t k = 0; k < ARRAY_LEN(left_out); k++) {
            skip = skip || image_glob(left_out[k], f->path);
        }
        if (!skip && image_tree_put(&b->root, f) < 0) {
            return err_set(b->e, ERR_LIMIT, "root: too many files");
        }
    }
    return 0;
}

static int root_files(struct build *b, struct image_modules *m) {
    char base[256];
    if (image_select(&b->root, &b->all, image_data_get("files"), b->e) < 0 ||
        whole_packages(b) < 0 || image_libraries(&b->root, &b->all, b->e) < 0 ||
        image_select_applets(&b->root, image_data_get("applets"), b->e) < 0 ||
        certificates(b) < 0 || container_images(b) < 0) {
        return -(int)b->e->code;
    }
    for (const struct image_data *d = image_data; d->path; d++) {
        if (span_starts(span_str(d->path), "root/")) {
            uint32_t mode = str_eq(d->path, "root/etc/shadow") ? 0600 : 0644;
            if (image_tree_put_file(&b->root, d->path + 5, mode, d->data) < 0) {
                return err_set(b->e, ERR_LIMIT, "root: too many files");
            }
        }
    }
    if (image_tree_put_file(&b->root, "usr/bin/kfarm", 0755, buf_view(&b->kfarm)) < 0) {
        return err_set(b->e, ERR_LIMIT, "root: too many files");
    }
    return str_put(base, sizeof(base), "usr/lib/modules/%s/", b->kernel_version) < 0
               ? err_set(b->e, ERR_LIMIT, "kernel version too long")
               : image_modules_put(m, &b->root, base, image_data_get("modules-root"), b->o->modules,
                                   b->o->n_modules, b->e);
}

/* Streams the tree as a tar into mksquashfs, in path order: the same tree gives the same image. */
static int feed(struct build *b, int fd) {
    AUTO(buf) struct buf head = BUF_INIT(1 << 20);
    uint64_t total = 1, done = 0;
    for (size_t i = 0; i < b->root.n; i++) {
        total += b->root.v[i]->data.n;
    }
    for (size_t i = 0; i < b->root.n; i++) {
        const struct image_file *f = b->root.v[i];
        const struct tar_entry t = {.type = f->type,
                                    .name = f->path,
                                    .link = f->link,
                                    .mode = f->mode,
                                    .mtime = b->o->epoch,
                                    .dev_major = f->dev_major,
                                    .dev_minor = f->dev_minor,
                                    .size = f->data.n};
        buf_reset(&head);
        if (tar_head(&head, &t) < 0) {
            return err_set(b->e, ERR_LIMIT, "%s: cannot be put into a tar", f->path);
        }
        if (sys_write_all(fd, buf_view(&head), b->e) < 0 || sys_write_all(fd, f->data, b->e) < 0) {
            return -(int)b->e->code;
        }
        buf_reset(&head);
        tar_pad(&head, f->data.n);
        if (sys_write_all(fd, buf_view(&head), b->e) < 0) {
            return -(int)b->e->code;
        }
        done += f->data.n;
        say(b, "root", 1 + (unsigned)(done * 98 / total));
    }
    buf_reset(&head);
    tar_end(&head);
    return sys_write_all(fd, buf_view(&head), b->e);
}

static int squash(struct build *b) {
    char out[600], log[600], level[16], epoch[32];
    int pipe_fds[2], pidfd;
    if (image_tree_sort(&b->root) < 0 ||
        str_put(out, sizeof(out), "%s/root.squashfs", b->work) < 0 ||
        str_put(log, sizeof(log), "%s/mksquashfs.log", b->work) < 0 ||
        str_put(level, sizeof(level), "%d", b->o->zstd_level ? b->o->zstd_level : 10) < 0 ||
        str_put(epoch, sizeof(epoch), "%llu", (unsigned long long)b->o->epoch) < 0) {
        return err_set(b->e, ERR_LIMIT, "path too long");
    }
    const char *argv[] = {
        "mksquashfs",          "-",      out,          "-tar",   "-comp",     "zstd",
        "-Xcompression-level", level,    "-b",         "131072", "-noappend", "-no-xattrs",
        "-no-progress",        "-quiet", "-mkfs-time", epoch,    "-all-time", epoch,
        "-root-mode",          "0755",   NULL};
    if (pipe2(pipe_fds, O_CLOEXEC) < 0) {
        return err_sys(b->e, errno, "pipe");
    }
    int rc = image_spawn(argv, pipe_fds[0], log, &pidfd, b->e);
    sys_close(pipe_fds[0]);
    if (rc < 0) {
        sys_close(pipe_fds[1]);
        return rc;
    }
    struct err fed = ERR_INIT, *mine = b->e;
    b->e = &fed;
    int feed_rc = feed(b, pipe_fds[1]);
    b->e = mine;
    sys_close(pipe_fds[1]);
    rc = image_wait(pidfd, "mksquashfs", log,
                    b->e); /* its own words say more than our broken pipe */
    if (rc == 0 && feed_rc < 0) {
        *b->e = fed;
        return feed_rc;
    }
    return rc;
}

static int root_digest(struct build *b) {
    char path[600];
    AUTO_FD int fd = -1;
    struct stat st;
    if (str_put(path, sizeof(path), "%s/root.squashfs", b->work) < 0) {
        return err_set(b->e, ERR_LIMIT, "path too long");
    }
    fd = sys_open(AT_FDCWD, path, O_RDONLY, 0, b->e);
    if (fd < 0) {
        return fd;
    }
    void *p = fstat(fd, &st) < 0 || st.st_size <= 0
                  ? MAP_FAILED
                  : mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED) {
        return err_sys(b->e, errno, "reading %s", path);
    }
    b->parts[2].file = "root.squashfs";
    b->parts[2].size = (uint64_t)st.st_size;
    digest_text(span_of(p, (size_t)st.st_size), b->parts[2].digest);
    munmap(p, (size_t)st.st_size);
    return 0;
}

static int manifest(struct build *b, struct imagebuild_result *ret) {
    static const char *const names[] = {"kernel", "initrd", "root"};
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    AUTO(buf) struct buf text = BUF_INIT(65536), all = BUF_INIT(1024);
    char path[600];
    struct json *o = json_new_obj(d);
    json_set_str(d, o, "name", b->o->name);
    json_set_str(d, o, "architecture", "amd64");
    json_set_str(d, o, "kernelVersion", b->kernel_version);
    for (size_t i = 0; i < 3; i++) {
        struct json *p = json_set_obj(d, o, names[i]);
        json_set_str(d, p, "file", b->parts[i].file);
        json_set_str(d, p, "digest", b->parts[i].digest);
        json_set_i64(d, p, "size", (int64_t)b->parts[i].size);
        buf_fmt(&all, "%s %s\n", names[i], b->parts[i].digest);
    }
    digest_text(buf_view(&all), ret->digest);
    json_set_str(d, o, "digest", ret->digest);
    struct json *images = json_set_arr(d, o, "containerImages");
    json_push_str(d, images, "kfarm.internal/pause:1");
    json_push_str(d, images, "kfarm.internal/busybox:1");
    json_write(o, JSON_PRETTY, &text);
    buf_u8(&text, '\n');
    ret->kernel_size = b->parts[0].size;
    ret->initrd_size = b->parts[1].size;
    ret->root_size = b->parts[2].size;
    if (str_put(path, sizeof(path), "%s/manifest.json", b->work) < 0) {
        return err_set(b->e, ERR_LIMIT, "path too long");
    }
    return sys_file_replace(AT_FDCWD, path, buf_view(&text), 0644, b->e);
}

static int loaders(struct build *b) {
    static const char *const names[] = {"undionly.kpxe", "snponly.efi", "ipxe.efi"};
    if (!b->o->boot_dir) {
        return 0;
    }
    if (sys_mkdirs(b->o->boot_dir, 0755, b->e) < 0) {
        return -(int)b->e->code;
    }
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        char from[64], to[600];
        if (str_put(from, sizeof(from), "usr/lib/ipxe/%s", names[i]) < 0 ||
            str_put(to, sizeof(to), "%s/%s", b->o->boot_dir, names[i]) < 0) {
            return err_set(b->e, ERR_LIMIT, "path too long");
        }
        const struct image_file *f = image_tree_get(&b->all, from);
        if (f && f->type == TAR_SYMLINK && f->link[0] == '/') {
            f = image_tree_get(&b->all, f->link + 1);
        }
        if (!f || f->type != TAR_FILE) {
            return err_set(b->e, ERR_INVALID, "the packages hold no boot loader %s", names[i]);
        }
        if (sys_file_replace(AT_FDCWD, to, f->data, 0644, b->e) < 0) {
            return -(int)b->e->code;
        }
    }
    return 0;
}

/* The finished folder takes the place of the old one; a reader holds either. */
static int publish(struct build *b) {
    char old[600];
    char log[600];
    if (str_put(old, sizeof(old), "%s.old", b->o->out_dir) < 0 ||
        str_put(log, sizeof(log), "%s/mksquashfs.log", b->work) < 0) {
        return err_set(b->e, ERR_LIMIT, "path too long");
    }
    IGNORE_ERR(unlink(log), "only of interest after a failure");
    if (sys_rmtree(AT_FDCWD, old, b->e) < 0) {
        return -(int)b->e->code;
    }
    if (rename(b->o->out_dir, old) < 0 && errno != ENOENT) {
        return err_sys(b->e, errno, "renaming %s", b->o->out_dir);
    }
    if (rename(b->work, b->o->out_dir) < 0) {
        return err_sys(b->e, errno, "renaming %s", b->work);
    }
    return sys_rmtree(AT_FDCWD, old, b->e);
}

static int steps(struct build *b, struct imagebuild_result *ret) {
    struct image_modules m = {0};
    int rc;
    say(b, "packages", 0);
    if (image_fetch(b->o, &b->packages, b->e) < 0 ||
        image_tree_load(&b->all, b->packages, b->e) < 0 || kernel(b) < 0 ||
        sys_file_read(AT_FDCWD, b->o->kfarm_path, &b->kfarm, b->e) < 0) {
        return -(int)b->e->code;
    }
    say(b, "packages", 100);
    say(b, "initrd", 0);
    rc = image_modules_init(&m, &b->all, b->kernel_version, b->e);
    rc = rc < 0 ? rc : initrd(b, &m);
    if (rc == 0) {
        say(b, "initrd", 100);
        say(b, "root", 0);
        rc = root_files(b, &m);
    }
    image_modules_fini(&m);
    rc = rc < 0 ? rc : squash(b);
    rc = rc < 0 ? rc : root_digest(b);
    rc = rc < 0 ? rc : manifest(b, ret);
    if (rc == 0) {
        say(b, "root", 100);
        rc = loaders(b);
    }
    return rc < 0 ? rc : publish(b);
}

int imagebuild_run(const struct imagebuild_opts *o, struct imagebuild_result *ret, struct err *e) {
    struct build *b = new_zero(struct build);
    struct imagebuild_result result = {{0}, 0, 0, 0};
    b->o = o;
    b->e = e;
    b->all = b->root = b->initrd = (struct image_tree)IMAGE_TREE_INIT;
    buf_init(&b->kfarm, LIM_KFARM);
    buf_init(&b->initrd_bytes, LIM_IMAGE_INITRD);
    buf_init(&b->pause, LIM_IMAGE_INITRD);
    buf_init(&b->busybox, LIM_IMAGE_INITRD);
    buf_init(&b->certificates, 4 << 20);
    int rc = 0;
    if (str_put(b->work, sizeof(b->work), "%s.tmp", o->out_dir) < 0) {
        rc = err_set(e, ERR_LIMIT, "path too long");
    }
    rc = rc < 0 ? rc : sys_rmtree(AT_FDCWD, b->work, e);
    rc = rc < 0 ? rc : sys_mkdirs(b->work, 0755, e);
    rc = rc < 0 ? rc : steps(b, &result);
    if (rc == 0) {
        *ret = result;
    }
    if (b->packages.p) {
        munmap((void *)(uintptr_t)b->packages.p, b->packages.n);
    }
    image_tree_fini(&b->all);
    image_tree_fini(&b->root);
    image_tree_fini(&b->initrd);
    buf_fini(&b->kfarm);
    buf_fini(&b->initrd_bytes);
    buf_fini(&b->pause);
    buf_fini(&b->busybox);
    buf_fini(&b->certificates);
    free(b);
    return rc;
}
