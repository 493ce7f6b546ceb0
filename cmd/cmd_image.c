#include "cmd/cmd.h"
#include "internal/base/rand.h"
#include "internal/imagebuild/imagebuild.h"
#include "internal/json/json.h"
#include "internal/sys/sys.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int cmd_image(struct cmdctx *c, struct err *e);

static const char *opt_data_dir = "/var/lib/kfarm";
static const char *opt_name = "default";
static struct opt_list opt_packages, opt_modules;
static bool opt_refresh;
static int64_t opt_level = 10;

static const struct opt options[] = {
    {"data-dir", OPT_STR, &opt_data_dir, "DIR", "images are kept under DIR/images"},
    {"name", OPT_STR, &opt_name, "NAME", "name of the image to build"},
    {"package", OPT_LIST, &opt_packages, "NAME", "a further Debian package to put into the root"},
    {"module", OPT_LIST, &opt_modules, "NAME", "a further kernel module for initrd and root"},
    {"refresh", OPT_BOOL, &opt_refresh, NULL,
     "fetch the packages again instead of using the cache"},
    {"zstd-level", OPT_I64, &opt_level, "N", "compression of the root, 1 to 22"},
    {NULL, OPT_STR, NULL, NULL, NULL},
};

static void progress(const char *what, unsigned percent, void *ctx) {
    const bool *is_tty = ctx;
    if (*is_tty) {
        fprintf(stderr, "\r%-10s %3u%%%s", what, percent, percent == 100 ? "\n" : "");
        fflush(stderr);
    } else if (percent == 0 || percent == 100) {
        fprintf(stderr, "image: %s%s\n", what, percent ? " done" : "");
    }
}

static bool is_name(const char *s) {
    size_t n = strlen(s);
    for (size_t i = 0; i < n; i++) {
        bool alnum = (s[i] >= 'a' && s[i] <= 'z') || (s[i] >= '0' && s[i] <= '9');
        if (!alnum && !((s[i] == '-' || s[i] == '.') && i > 0 && i + 1 < n)) {
            return false;
        }
    }
    return n > 0 && n < 64;
}

/* Pinned by SOURCE_DATE_EPOCH; without it nothing in an image depends on the clock either. */
static int epoch(uint64_t *ret, struct err *e) {
    const char *s = getenv("SOURCE_DATE_EPOCH");
    *ret = 0;
    return s && span_to_u64(span_str(s), 0, UINT32_MAX, ret) < 0
               ? err_set(e, ERR_USAGE, "SOURCE_DATE_EPOCH=%s is not a time", s)
               : 0;
}

static int build(struct err *e) {
    char out[512], boot[512], cache[512];
    const char *home = getenv("HOME"), *cache_env = getenv("KFARM_CACHE");
    bool is_tty = isatty(2);
    if (!is_name(opt_name)) {
        return err_set(e, ERR_USAGE, "--name=%s: lower case letters, digits, '-' and '.' only",
                       opt_name);
    }
    if (geteuid() != 0) {
        return err_set(e, ERR_FORBIDDEN,
                       "image build needs root: packages are unpacked with their owners");
    }
    if (opt_level < 1 || opt_level > 22) {
        return err_set(e, ERR_USAGE, "--zstd-level: 1 to 22");
    }
    int rc = str_put(out, sizeof(out), "%s/images/%s", opt_data_dir, opt_name);
    rc = rc < 0 ? rc : str_put(boot, sizeof(boot), "%s/boot", opt_data_dir);
    rc = rc < 0 ? rc
                : str_put(cache, sizeof(cache), "%s%s/images",
                          cache_env ? cache_env
                          : home    ? home
                                    : "/root",
                          cache_env ? "" : "/.cache/kfarm");
    if (rc < 0) {
        return err_set(e, ERR_USAGE, "--data-dir: path too long");
    }
    struct imagebuild_opts o = {.name = opt_name,
                                .out_dir = out,
                                .boot_dir = boot,
                                .cache_dir = cache,
                                .kfarm_path = "/proc/self/exe",
                                .refresh = opt_refresh,
                                .packages = opt_packages.v,
                                .n_packages = opt_packages.n,
                                .modules = opt_modules.v,
                                .n_modules = opt_modules.n,
                                .zstd_level = (int)opt_level,
                                .progress = progress,
                                .ctx = &is_tty};
    struct imagebuild_result r;
    uint64_t started = clock_ns();
    if (epoch(&o.epoch, e) < 0 || imagebuild_run(&o, &r, e) < 0) {
        return -(int)e->code;
    }
    printf("%s  %s\n  kernel %.1f MB, initrd %.1f MB, root %.1f MB, %.0f s\n", out, r.digest,
           (double)r.kernel_size / 1e6, (double)r.initrd_size / 1e6, (double)r.root_size / 1e6,
           (double)(clock_ns() - started) / 1e9);
    return 0;
}

static void list_one(const char *dir, const char *name) {
    char path[768];
    struct err e = ERR_INIT;
    AUTO(buf) struct buf b = BUF_INIT(1 << 20);
    AUTO(json_docp) struct json_doc *d = NULL;
    if (str_put(path, sizeof(path), "%s/%s/manifest.json", dir, name) < 0 ||
        sys_file_read(AT_FDCWD, path, &b, &e) < 0 || json_parse(buf_view(&b), 0, &d, &e) < 0) {
        return; /* no image: a folder being built, or somebody's file */
    }
    struct json *o = json_root(d);
    int64_t size = json_i64_at(o, 0, "kernel", "size") + json_i64_at(o, 0, "initrd", "size") +
                   json_i64_at(o, 0, "root", "size");
    printf("%-20s %-28s %6.1f MB  %.19s\n", name, json_str_or(json_get(o, "kernelVersion"), "?"),
           (double)size / 1e6, json_str_or(json_get(o, "digest"), "?"));
}

static int list(struct err *e) {
    char dir[512];
    if (str_put(dir, sizeof(dir), "%s/images", opt_data_dir) < 0) {
        return err_set(e, ERR_USAGE, "--data-dir: path too long");
    }
    struct dirent **v;
    int n = scandir(dir, &v, NULL, alphasort);
    if (n < 0 && errno != ENOENT) {
        return err_sys(e, errno, "%s", dir);
    }
    printf("%-20s %-28s %9s  %s\n", "NAME", "KERNEL", "SIZE", "DIGEST");
    for (int i = 0; i < n; i++) {
        if (v[i]->d_name[0] != '.') {
            list_one(dir, v[i]->d_name);
        }
        free(v[i]);
    }
    if (n >= 0) {
        free(v);
    }
    return 0;
}

static int remove_image(const char *name, struct err *e) {
    char path[512];
    if (!is_name(name) || str_put(path, sizeof(path), "%s/images/%s", opt_data_dir, name) < 0) {
        return err_set(e, ERR_USAGE, "%s is no image name", name);
    }
    if (access(path, F_OK) < 0) {
        return err_set(e, ERR_NOT_FOUND, "no image %s in %s/images", name, opt_data_dir);
    }
    return sys_rmtree(AT_FDCWD, path, e);
}

int cmd_image(struct cmdctx *c, struct err *e) {
    struct opt_list pos = {.n = 0};
    if (opt_parse(c, options, &pos, NULL, e) < 0) {
        return -(int)e->code;
    }
    const char *what = pos.n ? pos.v[0] : "";
    if (str_eq(what, "build") && pos.n == 1) {
        return build(e);
    }
    if (str_eq(what, "ls") && pos.n == 1) {
        return list(e);
    }
    if (str_eq(what, "rm") && pos.n == 2) {
        return remove_image(pos.v[1], e);
    }
    return err_set(e, ERR_USAGE, "usage: kfarm image build | ls | rm NAME");
}
