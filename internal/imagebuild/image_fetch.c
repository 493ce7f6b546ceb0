/* Outside programs: mmdebstrap fetches and unpacks packages with the sources of the running system. */
#include "internal/base/rand.h"
#include "internal/hash/hash.h"
#include "internal/imagebuild/imagebuild_int.h"
#include "internal/sys/sys.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *const envp[] = {
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8",
    "DEBIAN_FRONTEND=noninteractive", "HOME=/root", NULL};

/* Programs are looked up here: sys_spawn takes paths. */
static int find_program(const char *name, char *path, size_t cap, struct err *e) {
    static const char *const dirs[] = {"/usr/local/bin", "/usr/bin", "/usr/sbin", "/bin", "/sbin"};
    struct stat st;
    for (size_t i = 0; i < ARRAY_LEN(dirs); i++) {
        if (str_put(path, cap, "%s/%s", dirs[i], name) == 0 && stat(path, &st) == 0 &&
            (st.st_mode & 0111)) {
            return 0;
        }
    }
    const char *package = str_eq(name, "mksquashfs") ? "squashfs-tools" : name;
    return err_set(e, ERR_UNAVAILABLE, "%s is missing: apt-get install %s", name, package);
}

int image_spawn(const char *const *argv, int in_fd, const char *log_path, int *ret_pidfd,
                struct err *e) {
    char program[256];
    const char *args[96] = {program};
    size_t n = 1;
    AUTO_FD int log = -1;
    AUTO_FD int none = -1;
    pid_t pid;
    if (find_program(argv[0], program, sizeof(program), e) < 0) {
        return -(int)e->code;
    }
    for (; argv[n] && n < ARRAY_LEN(args) - 1; n++) {
        args[n] = argv[n];
    }
    log = sys_open(AT_FDCWD, log_path, O_WRONLY | O_CREAT | O_TRUNC, 0644, e);
    none = log < 0 ? -1 : sys_open(AT_FDCWD, "/dev/null", O_RDONLY, 0, e);
    if (log < 0 || none < 0) {
        return -(int)e->code;
    }
    struct sys_spawn s = SYS_SPAWN_INIT;
    s.argv = args;
    s.envp = envp;
    s.die_with_parent = true;
    s.fds[0].from = in_fd >= 0 ? in_fd : none;
    s.fds[0].to = 0;
    s.fds[1].from = log;
    s.fds[1].to = 1;
    s.fds[2].from = log;
    s.fds[2].to = 2;
    s.n_fds = 3;
    return sys_spawn(&s, ret_pidfd, &pid, e);
}

static void log_tail(const char *path, char *dst, size_t cap) {
    AUTO(buf) struct buf b = BUF_INIT(8 << 20);
    struct err e = ERR_INIT;
    dst[0] = 0;
    if (sys_file_read(AT_FDCWD, path, &b, &e) < 0) {
        return;
    }
    size_t n = b.n < cap - 1 ? b.n : cap - 1;
    memcpy(dst, b.p + (b.n - n), n);
    dst[n] = 0;
    for (size_t i = 0; i < n; i++) {
        if (dst[i] < ' ') {
            dst[i] = ' ';
        }
    }
}

int image_wait(int own_pidfd, const char *program, const char *log_path, struct err *e) {
    AUTO_FD int pidfd = own_pidfd;
    siginfo_t si = {0};
    while (waitid(P_PIDFD, (id_t)pidfd, &si, WEXITED) < 0) {
        if (errno != EINTR) {
            return err_sys(e, errno, "waiting for %s", program);
        }
    }
    if (si.si_code == CLD_EXITED && si.si_status == 0) {
        return 0;
    }
    char tail[160];
    log_tail(log_path, tail, sizeof(tail));
    return err_set(e, ERR_UNAVAILABLE, "%s failed (%d): …%s", program, si.si_status, tail);
}

static int run(const char *const *argv, int in_fd, const char *log_path, struct err *e) {
    int pidfd;
    if (image_spawn(argv, in_fd, log_path, &pidfd, e) < 0) {
        return -(int)e->code;
    }
    return image_wait(pidfd, argv[0], log_path, e);
}

/* "deb <uri> <release> <component>" lines of the Debian sources that apt uses here; other vendors' are left out. */
static int apt_sources(const char *tmp, char *suite, size_t cap, struct buf *ret, struct err *e) {
    AUTO(buf) struct buf out = BUF_INIT(1 << 20);
    char log[512];
    const char *argv[] = {"apt-get",
                          "indextargets",
                          "--format",
                          "$(ORIGIN)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)",
                          "Identifier: Packages",
                          NULL};
    if (str_put(log, sizeof(log), "%s/apt-sources", tmp) < 0 || run(argv, -1, log, e) < 0 ||
        sys_file_read(AT_FDCWD, log, &out, e) < 0) {
        return e->code ? -(int)e->code : err_set(e, ERR_LIMIT, "path too long");
    }
    suite[0] = 0;
    struct span s = buf_view(&out);
    for (struct span line; span_line(&s, &line) == 0;) {
        struct span f[4] = {{0}};
        for (size_t i = 0; i < 4 && span_next(&line, '|', &f[i]); i++) {
        }
        if (!span_eq_str(f[0], "Debian") || f[3].n == 0) {
            continue;
        }
        buf_fmt(ret, "deb %.*s %.*s %.*s\n", SPAN_FMT(f[1]), SPAN_FMT(f[2]), SPAN_FMT(f[3]));
        if (span_index(f[2], '-') < 0 && !suite[0] && span_to_cstr(f[2], suite, cap) < 0) {
            return err_set(e, ERR_INVALID, "apt: release name too long");
        }
    }
    if (!suite[0]) {
        return err_set(e, ERR_UNAVAILABLE,
                       "no Debian sources known to apt here: run apt-get update");
    }
    return buf_ok(ret) < 0 ? err_set(e, ERR_LIMIT, "apt: too many sources") : 0;
}

static void package_list(const struct imagebuild_opts *o, struct buf *b) {
    struct span s = image_data_get("packages");
    for (struct span line; span_line(&s, &line) == 0;) {
        if (line.n > 0 && line.p[0] != '#') {
            buf_fmt(b, "%s%.*s", b->n ? "," : "", SPAN_FMT(line));
        }
    }
    for (size_t i = 0; i < o->n_packages; i++) {
        buf_fmt(b, ",%s", o->packages[i]);
    }
}

static int map_file(const char *path, struct span *ret, struct err *e) {
    AUTO_FD int fd = sys_open(AT_FDCWD, path, O_RDONLY, 0, e);
    struct stat st;
    if (fd < 0) {
        return -(int)e->code;
    }
    if (fstat(fd, &st) < 0) {
        return err_sys(e, errno, "%s", path);
    }
    if (st.st_size <= 0 || (uint64_t)st.st_size > LIM_IMAGE_PACKAGES) {
        return err_set(e, ERR_LIMIT, "%s: unexpected size", path);
    }
    void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED) {
        return err_sys(e, errno, "mapping %s", path);
    }
    *ret = span_of(p, (size_t)st.st_size);
    return 0;
}

int image_fetch(const struct imagebuild_opts *o, struct span *ret_map, struct err *e) {
    AUTO(buf)
    struct buf list = BUF_INIT(65536), sources = BUF_INIT(65536), key = BUF_INIT(256 << 10),
               hex = BUF_INIT(80);
    char suite[64], archive[512], partial[512], source_file[512], log[512], include[8192];
    if (sys_mkdirs(o->cache_dir, 0755, e) < 0 ||
        apt_sources(o->cache_dir, suite, sizeof(suite), &sources, e) < 0) {
        return -(int)e->code;
    }
    package_list(o, &list);
    buf_fmt(&key, "%s\n%s\n%s", suite, buf_cstr(&sources), buf_cstr(&list));
    uint8_t sum[32];
    hash_sha256(buf_view(&key), sum);
    hex_encode(&hex, span_of(sum, 8));
    if (str_put(archive, sizeof(archive), "%s/packages-%s.tar", o->cache_dir, buf_cstr(&hex)) < 0 ||
        str_put(partial, sizeof(partial), "%s/packages-%s.part.tar", o->cache_dir, buf_cstr(&hex)) <
            0 ||
        str_put(source_file, sizeof(source_file), "%s/packages-%s.list", o->cache_dir,
                buf_cstr(&hex)) < 0 ||
        str_put(log, sizeof(log), "%s/packages-%s.log", o->cache_dir, buf_cstr(&hex)) < 0 ||
        str_put(include, sizeof(include), "--include=%s", buf_cstr(&list)) < 0) {
        return err_set(e, ERR_LIMIT, "package list or cache path too long");
    }
    struct stat st;
    if (o->refresh || stat(archive, &st) < 0) {
        const char *argv[] = {"mmdebstrap",
                              "--variant=extract",
                              "--format=tar",
                              include,
                              "--aptopt=Acquire::Retries \"3\"",
                              suite,
                              partial,
                              source_file,
                              NULL};
        if (sys_file_replace(AT_FDCWD, source_file, buf_view(&sources), 0644, e) < 0 ||
            run(argv, -1, log, e) < 0) {
            IGNORE_ERR(unlink(partial), "left by the failed run");
            return -(int)e->code;
        }
        if (rename(partial, archive) < 0) {
            return err_sys(e, errno, "renaming %s", partial);
        }
    }
    return map_file(archive, ret_map, e);
}
