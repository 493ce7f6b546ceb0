/* Gives the preloaded container images to containerd through its own API: blobs into the content store, then a name.
 * Unpacking is left to the first use. A client program for this would be as large as all images together.
 *
 *   Content/Write { action, ref, total, expected, offset, data, labels }   (containerd.services.content.v1)
 *   Images/Create { image { name, labels, target { media_type, digest, size } } }   (containerd.services.images.v1) */
#include "internal/agent/agent_int.h"
#include "internal/base/rand.h"
#include "internal/grpc/grpc.h"
#include "internal/http/http.h"
#include "internal/sys/sys.h"
#include "internal/tar/tar.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>

enum {
    LIM_IMAGE_TAR = 1 << 30,
    CHUNK = 4 << 20, /* below containerd's limit for one message */
    LIM_BODY = LIM_IMAGE_TAR + (1 << 20),
    CALL_S = 120,
    ACTION_WRITE = 1,
    ACTION_COMMIT = 2
};

struct op { /* one call, made when its turn comes */
    struct list link;
    struct span blob; /* of the image's file; empty for Create */
    char digest[80], name[256];
    size_t size;
    char media_type[96];
};

struct agent_import {
    struct loop *l;
    struct http_client *h;
    struct list ops;
    struct list files; /* struct image_file */
    struct loop_timer next;
    agent_import_cb *done;
    void *ctx;
    size_t n_images;
    struct err err;
};
struct image_file {
    struct list link;
    struct buf data;
};

/* ---- protobuf by hand: four messages, all fields length-delimited or varints ---- */

static void put_int(struct buf *b, unsigned field, uint64_t v) {
    if (v) {
        buf_varint(b, field << 3);
        buf_varint(b, v);
    }
}

static void put_bytes(struct buf *b, unsigned field, struct span s) {
    buf_varint(b, field << 3 | 2);
    buf_varint(b, s.n);
    buf_span(b, s);
}

static void write_message(struct buf *body, const struct op *op, uint64_t offset, struct span data,
                          bool is_last) {
    AUTO(buf) struct buf m = BUF_INIT(CHUNK + 4096), label = BUF_INIT(256);
    put_int(&m, 1, is_last ? ACTION_COMMIT : ACTION_WRITE);
    put_bytes(&m, 2, span_str(op->digest));
    put_int(&m, 3, op->blob.n);
    put_bytes(&m, 4, span_str(op->digest));
    put_int(&m, 5, offset);
    put_bytes(&m, 6, data);
    put_bytes(&label, 1, SPAN_LIT("containerd.io/gc.root")); /* kept whatever refers to it */
    put_bytes(&label, 2, SPAN_LIT("kfarm"));
    put_bytes(&m, 7, buf_view(&label));
    grpc_frame(body, buf_view(&m));
}

static void write_body(struct buf *body, const struct op *op) {
    struct span left = op->blob, part;
    for (uint64_t at = 0; at < op->blob.n; at += part.n) {
        size_t n = left.n < CHUNK ? left.n : CHUNK;
        if (span_take(&left, n, &part) < 0) {
            return;
        }
        write_message(body, op, at, part, left.n == 0);
    }
}

static void create_body(struct buf *body, const struct op *op) {
    AUTO(buf) struct buf target = BUF_INIT(512), image = BUF_INIT(2048), m = BUF_INIT(4096);
    put_bytes(&target, 1, span_str(op->media_type));
    put_bytes(&target, 2, span_str(op->digest));
    put_int(&target, 3, op->size);
    put_bytes(&image, 1, span_str(op->name));
    put_bytes(&image, 3, buf_view(&target));
    put_bytes(&m, 1, buf_view(&image));
    grpc_frame(body, buf_view(&m));
}

/* ---- calls, one after the other ---- */

static void on_next(struct loop_timer *t);

static void next_soon(struct agent_import *im) {
    loop_timer_start(im->l, &im->next, 0, on_next, "image import");
}

static void finish(struct agent_import *im) {
    agent_import_cb *done = im->done;
    void *ctx = im->ctx;
    struct err e = im->err;
    size_t n = im->n_images;
    for (LIST_EACH(o, nxt, &im->ops)) {
        list_del(o);
        free(CONTAINER_OF(o, struct op, link));
    }
    for (LIST_EACH(f, nxt2, &im->files)) {
        struct image_file *file = CONTAINER_OF(f, struct image_file, link);
        list_del(f);
        buf_fini(&file->data);
        free(file);
    }
    http_client_free(im->h);
    free(im);
    done(ctx, e.code ? -(int)e.code : 0, n, &e);
}

static struct span status_of(const struct http_call *c, const char *name) {
    struct span s = http_call_trailer(c, name);
    return s.p ? s : http_call_header(c, name);
}

static void on_end(struct http_call *c, int rc, const struct err *e, void *ctx) {
    struct agent_import *im = ctx;
    if (rc < 0) {
        im->err = *e;
    } else if (grpc_status(status_of(c, "grpc-status"), status_of(c, "grpc-message"), &im->err) ==
               -ERR_EXISTS) {
        err_reset(&im->err); /* from an earlier start of containerd */
    }
    next_soon(im);
}

static int call(struct agent_import *im, const struct op *op) {
    static const struct http_header headers[] = {
        {SPAN_LIT("content-type"), SPAN_LIT("application/grpc")},
        {SPAN_LIT("te"), SPAN_LIT("trailers")},
        {SPAN_LIT("containerd-namespace"), SPAN_LIT("k8s.io")},
    };
    AUTO(buf) struct buf body = BUF_INIT(LIM_BODY);
    struct http_call *c;
    if (op->blob.n > 0) {
        write_body(&body, op);
    } else {
        create_body(&body, op);
    }
    const struct http_call_opts o = {.method = "POST",
                                     .target = op->blob.n > 0
                                                   ? "/containerd.services.content.v1.Content/Write"
                                                   : "/containerd.services.images.v1.Images/Create",
                                     .headers = headers,
                                     .n_headers = ARRAY_LEN(headers),
                                     .body = buf_view(&body),
                                     .timeout_ns = CALL_S * NS_PER_S,
                                     .on_end = on_end,
                                     .ctx = im};
    return buf_ok(&body) < 0 ? err_set(&im->err, ERR_LIMIT, "image too large")
                             : http_call_start(im->h, &o, &c, &im->err);
}

static void on_next(struct loop_timer *t) {
    struct agent_import *im = CONTAINER_OF(t, struct agent_import, next);
    if (im->err.code || list_empty(&im->ops)) {
        finish(im);
        return;
    }
    struct op *op = CONTAINER_OF(im->ops.next, struct op, link);
    list_del(&op->link);
    if (call(im, op) < 0) {
        next_soon(im);
    }
    free(op);
}

/* ---- the archive: an OCI image layout ---- */

static int find(struct span archive, const char *name, struct span *ret) {
    struct tar_reader r;
    struct tar_entry t;
    int rc;
    tar_reader_init(&r, archive);
    while ((rc = tar_next(&r, &t)) == 0 && !str_eq(t.name, name)) {
    }
    if (rc == 0) {
        *ret = t.data;
    }
    tar_reader_fini(&r);
    return rc;
}

static int blob(struct agent_import *im, struct span archive, const struct json *desc,
                struct span *ret) {
    const char *digest = json_str_or(json_get(desc, "digest"), "");
    char path[128];
    struct op *op = new_zero(struct op);
    if (strncmp(digest, "sha256:", 7) != 0 ||
        str_put(path, sizeof(path), "blobs/sha256/%s", digest + 7) < 0 ||
        str_put(op->digest, sizeof(op->digest), "%s", digest) < 0 ||
        find(archive, path, &op->blob) < 0 || op->blob.n == 0) {
        free(op);
        return err_set(&im->err, ERR_INVALID, "image archive: no blob %s", digest);
    }
    *ret = op->blob;
    list_add_tail(&im->ops, &op->link);
    return 0;
}

static int one_image(struct agent_import *im, struct span archive, const struct json *desc) {
    AUTO(json_docp) struct json_doc *d = NULL;
    struct span manifest, part;
    const char *name = json_str_at(desc, "annotations", "io.containerd.image.name");
    struct op *op;
    if (!name || blob(im, archive, desc, &manifest) < 0 ||
        json_parse(manifest, 0, &d, &im->err) < 0 ||
        blob(im, archive, json_get(json_root(d), "config"), &part) < 0) {
        return im->err.code ? -(int)im->err.code
                            : err_set(&im->err, ERR_INVALID, "image archive: image without a name");
    }
    JSON_EACH(it, layer, json_get(json_root(d), "layers")) {
        if (blob(im, archive, layer, &part) < 0) {
            return -(int)im->err.code;
        }
    }
    op = new_zero(struct op);
    op->size = (size_t)json_i64_at(desc, 0, "size");
    if (str_put(op->name, sizeof(op->name), "%s", name) < 0 ||
        str_put(op->digest, sizeof(op->digest), "%s", json_str_or(json_get(desc, "digest"), "")) <
            0 ||
        str_put(op->media_type, sizeof(op->media_type), "%s",
                json_str_or(json_get(desc, "mediaType"), "")) < 0) {
        free(op);
        return err_set(&im->err, ERR_INVALID, "image archive: over-long name");
    }
    list_add_tail(&im->ops, &op->link);
    im->n_images++;
    return 0;
}

static int one_archive(struct agent_import *im, const char *path) {
    AUTO(json_docp) struct json_doc *d = NULL;
    struct image_file *f = new_zero(struct image_file);
    struct span index;
    buf_init(&f->data, LIM_IMAGE_TAR);
    list_add_tail(&im->files, &f->link);
    if (sys_file_read(AT_FDCWD, path, &f->data, &im->err) < 0) {
        return -(int)im->err.code;
    }
    if (find(buf_view(&f->data), "index.json", &index) < 0) {
        return err_set(&im->err, ERR_INVALID, "%s is no OCI image archive", path);
    }
    if (json_parse(index, 0, &d, &im->err) < 0) {
        return err_wrap(&im->err, "%s", path);
    }
    JSON_EACH(it, desc, json_get(json_root(d), "manifests")) {
        if (one_image(im, buf_view(&f->data), desc) < 0) {
            return -(int)im->err.code;
        }
    }
    return 0;
}

int agent_import_start(struct loop *l, const char *socket, const char *dir_path,
                       agent_import_cb *done, void *ctx, struct err *e) {
    const struct http_client_opts co = {
        .unix_path = socket, .host = "localhost", .proto = HTTP_2_PRIOR};
    struct agent_import *im = new_zero(struct agent_import);
    im->l = l;
    im->done = done;
    im->ctx = ctx;
    list_init(&im->ops);
    list_init(&im->files);
    if (http_client_new(l, &co, &im->h, e) < 0) {
        free(im);
        return -(int)e->code;
    }
    DIR *dir = opendir(dir_path);
    for (struct dirent *d; dir && !im->err.code && (d = readdir(dir));) {
        char path[512];
        if (span_ends(span_str(d->d_name), ".tar") &&
            str_put(path, sizeof(path), "%s/%s", dir_path, d->d_name) == 0) {
            IGNORE_ERR(one_archive(im, path), "kept in the object, told when the turn comes");
        }
    }
    if (dir) {
        closedir(dir);
    }
    next_soon(im);
    return 0;
}
