#include "internal/base/rand.h"
#include "internal/cpio/cpio.h"
#include "internal/hash/hash.h"
#include "internal/imagebuild/imagebuild_int.h"
#include "internal/json/json.h"
#include "internal/zst/zst.h"

#include <stdlib.h>
#include <sys/stat.h>

static uint32_t file_type(enum tar_type t) {
    switch (t) {
    case TAR_DIR: return S_IFDIR;
    case TAR_SYMLINK: return S_IFLNK;
    case TAR_CHAR: return S_IFCHR;
    case TAR_BLOCKDEV: return S_IFBLK;
    case TAR_FIFO: return S_IFIFO;
    case TAR_FILE:
    case TAR_HARDLINK: break;
    }
    return S_IFREG;
}

int image_initrd(const struct image_tree *t, uint64_t epoch, struct buf *ret, struct err *e) {
    AUTO(buf) struct buf cpio = BUF_INIT(LIM_IMAGE_INITRD);
    for (size_t i = 0; i < t->n; i++) {
        const struct image_file *f = t->v[i];
        struct cpio_entry c = {.name = span_str(f->path),
                               .mode = f->mode | file_type(f->type),
                               .ino = (uint32_t)i + 1,
                               .mtime = (uint32_t)epoch,
                               .rdev_major = f->dev_major,
                               .rdev_minor = f->dev_minor,
                               .data = f->type == TAR_SYMLINK ? span_str(f->link) : f->data};
        if (cpio_add(&cpio, &c) < 0) {
            return err_set(e, ERR_LIMIT, "initrd: larger than %d bytes", LIM_IMAGE_INITRD);
        }
    }
    if (cpio_end(&cpio) < 0 || zst_compress(ret, buf_view(&cpio), ZST_BEST) < 0) {
        return err_set(e, ERR_LIMIT, "initrd: larger than %d bytes", LIM_IMAGE_INITRD);
    }
    return 0;
}

/* ---- OCI image layout: index.json → manifest → config and one uncompressed layer (the root's squashfs compresses) ---- */

struct blob {
    char digest[72];
    size_t size;
};

static int put_blob(struct buf *tar, struct span data, uint64_t epoch, struct blob *ret) {
    uint8_t sum[32];
    AUTO(buf) struct buf hex = BUF_INIT(80);
    char path[96];
    hash_sha256(data, sum);
    hex_encode(&hex, span_of(sum, sizeof(sum)));
    ret->size = data.n;
    if (str_put(ret->digest, sizeof(ret->digest), "sha256:%s", buf_cstr(&hex)) < 0 ||
        str_put(path, sizeof(path), "blobs/sha256/%s", buf_cstr(&hex)) < 0) {
        return -ERR_LIMIT;
    }
    return tar_add(tar, &(struct tar_entry){.type = TAR_FILE,
                                            .name = path,
                                            .link = "",
                                            .mode = 0644,
                                            .mtime = epoch,
                                            .data = data});
}

static int write_layer(struct image_tree *layer, uint64_t epoch, struct buf *b) {
    if (image_tree_sort(layer) < 0) {
        return -ERR_LIMIT;
    }
    for (size_t i = 0; i < layer->n; i++) {
        const struct image_file *f = layer->v[i];
        if (tar_add(b, &(struct tar_entry){.type = f->type,
                                           .name = f->path,
                                           .link = f->link,
                                           .mode = f->mode,
                                           .mtime = epoch,
                                           .data = f->data}) < 0) {
            return -ERR_LIMIT;
        }
    }
    return tar_end(b);
}

static int add_file(struct buf *tar, const char *name, struct span data, uint64_t epoch) {
    return tar_add(tar, &(struct tar_entry){.type = TAR_FILE,
                                            .name = name,
                                            .link = "",
                                            .mode = 0644,
                                            .mtime = epoch,
                                            .data = data});
}

static void descriptor(struct buf *b, const char *type, const struct blob *blob) {
    buf_fmt(b, "{\"mediaType\":\"application/vnd.oci.image.%s\",\"digest\":\"%s\",\"size\":%zu",
            type, blob->digest, blob->size);
}

int image_oci_write(const struct image_oci *o, struct image_tree *layer, uint64_t epoch,
                    struct buf *ret, struct err *e) {
    AUTO(buf)
    struct buf tar = BUF_INIT(LIM_IMAGE_INITRD), config = BUF_INIT(65536),
               manifest = BUF_INIT(65536), index = BUF_INIT(65536);
    struct blob l, c, m;
    if (write_layer(layer, epoch, &tar) < 0 || put_blob(ret, buf_view(&tar), epoch, &l) < 0) {
        return err_set(e, ERR_LIMIT, "image %s: layer too large", o->ref);
    }
    buf_str(&config, "{\"architecture\":\"amd64\",\"config\":{\"Entrypoint\":[");
    for (size_t i = 0; i < o->n_entrypoint; i++) {
        buf_str(&config, i ? "," : "");
        json_write_str(&config, span_str(o->entrypoint[i]));
    }
    buf_str(&config, "],\"Env\":[\"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/"
                     "bin\"],\"User\":");
    json_write_str(&config, span_str(o->user));
    buf_fmt(&config, "},\"os\":\"linux\",\"rootfs\":{\"diff_ids\":[\"%s\"],\"type\":\"layers\"}}",
            l.digest);
    if (put_blob(ret, buf_view(&config), epoch, &c) < 0) {
        return err_set(e, ERR_LIMIT, "image %s: too large", o->ref);
    }
    buf_str(&manifest, "{\"schemaVersion\":2,\"mediaType\":\"application/"
                       "vnd.oci.image.manifest.v1+json\",\"config\":");
    descriptor(&manifest, "config.v1+json", &c);
    buf_str(&manifest, "},\"layers\":[");
    descriptor(&manifest, "layer.v1.tar", &l);
    buf_str(&manifest, "}]}");
    if (put_blob(ret, buf_view(&manifest), epoch, &m) < 0) {
        return err_set(e, ERR_LIMIT, "image %s: too large", o->ref);
    }
    buf_str(&index, "{\"schemaVersion\":2,\"manifests\":[");
    descriptor(&index, "manifest.v1+json", &m);
    buf_str(&index, ",\"annotations\":{\"io.containerd.image.name\":");
    json_write_str(&index, span_str(o->ref));
    buf_str(&index, "}}]}");
    if (add_file(ret, "index.json", buf_view(&index), epoch) < 0 ||
        add_file(ret, "oci-layout", SPAN_LIT("{\"imageLayoutVersion\":\"1.0.0\"}"), epoch) < 0 ||
        tar_end(ret) < 0) {
        return err_set(e, ERR_LIMIT, "image %s: too large", o->ref);
    }
    return 0;
}
