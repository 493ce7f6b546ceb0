#include "internal/sys/sys.h"

#include "internal/base/rand.h"

#include <dirent.h>
#include <errno.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

void sys_close(int fd) {
    if (fd >= 0) {
        int saved = errno;
        close(
            fd); /* on Linux the descriptor is gone even after EINTR: retrying could close a stranger's */
        errno = saved;
    }
}

void sys_set_cloexec(int fd, bool on) {
    CHECK(fcntl(fd, F_SETFD, on ? FD_CLOEXEC : 0) == 0);
}

int sys_set_nonblock(int fd, struct err *e) {
    int fl = fcntl(fd, F_GETFL);
    if (fl < 0 || fcntl(fd, F_SETFL, fl | O_NONBLOCK) < 0) {
        return err_sys(e, errno, "making a descriptor non-blocking");
    }
    return 0;
}

int sys_open(int dirfd, const char *path, int flags, mode_t mode, struct err *e) {
    int fd = openat(dirfd, path, flags | O_CLOEXEC, mode);
    return fd < 0 ? err_sys(e, errno, "opening %s", path) : fd;
}

int sys_open_beneath(int dirfd, const char *path, int flags, mode_t mode, struct err *e) {
    struct open_how how = {
        .flags = (uint64_t)(unsigned)(flags | O_CLOEXEC),
        .mode = flags & O_CREAT ? mode : 0,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
    };
    long fd = syscall(SYS_openat2, dirfd, path, &how, sizeof(how));
    if (fd < 0 && errno == ENOSYS) {
        return err_set(e, ERR_UNSUPPORTED,
                       "this kernel lacks openat2: Linux 5.6 or newer is needed");
    }
    return fd < 0 ? err_sys(e, errno, "opening %s", path) : (int)fd;
}

int sys_open_dir(const char *path, struct err *e) {
    return sys_open(AT_FDCWD, path, O_RDONLY | O_DIRECTORY, 0, e);
}

int sys_fd_read_all(int fd, struct buf *b, struct err *e) {
    for (;;) {
        uint8_t chunk[8192];
        ssize_t n = read(fd, chunk, sizeof(chunk));
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return err_sys(e, errno, "reading");
        }
        if (n == 0) {
            return 0;
        }
        if (buf_add(b, chunk, (size_t)n) < 0) {
            return err_set(e, ERR_LIMIT, "file larger than %zu bytes", b->max);
        }
    }
}

int sys_file_read(int dirfd, const char *path, struct buf *b, struct err *e) {
    AUTO_FD int fd = sys_open(dirfd, path, O_RDONLY, 0, e);
    if (fd < 0) {
        return fd;
    }
    int rc = sys_fd_read_all(fd, b, e);
    return rc < 0 ? err_wrap(e, "%s", path) : rc;
}

int sys_write_all(int fd, struct span s, struct err *e) {
    while (s.n) {
        ssize_t n = write(fd, s.p, s.n);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return err_sys(e, errno, "writing");
        }
        CHECK(span_skip(&s, (size_t)n) == 0);
    }
    return 0;
}

static int sync_parent(int dirfd, const char *path, struct err *e) {
    const char *slash = strrchr(path, '/');
    char *dir = slash ? str_dupn(path, slash == path ? 1 : (size_t)(slash - path)) : str_dup(".");
    AUTO_FD int fd = openat(dirfd, dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = fd < 0 || fsync(fd) < 0 ? err_sys(e, errno, "syncing directory %s", dir) : 0;
    free(dir);
    return rc;
}

int sys_file_replace(int dirfd, const char *path, struct span s, mode_t mode, struct err *e) {
    char suffix[9];
    rand_suffix(suffix, 8);
    AUTO_FREE char *tmp = str_fmt("%s.%s.tmp", path, suffix);
    AUTO_FD int fd = sys_open(dirfd, tmp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, mode, e);
    if (fd < 0) {
        return fd;
    }
    int rc = fchmod(fd, mode) < 0 ? err_sys(e, errno, "chmod %s", tmp) : sys_write_all(fd, s, e);
    if (rc == 0 && fsync(fd) < 0) {
        rc = err_sys(e, errno, "syncing %s", tmp);
    }
    if (rc == 0 && renameat(dirfd, tmp, dirfd, path) < 0) {
        rc = err_sys(e, errno, "renaming to %s", path);
    }
    if (rc < 0) {
        unlinkat(dirfd, tmp, 0);
        return rc;
    }
    return sync_parent(dirfd, path, e);
}

int sys_mkdirs(const char *path, mode_t mode, struct err *e) {
    AUTO_FREE char *p = str_dup(path);
    for (char *s = p + 1;; s++) {
        if (*s && *s != '/') {
            continue;
        }
        char old = *s;
        *s = 0;
        if (mkdir(p, old ? 0755 : mode) < 0 && errno != EEXIST) {
            return err_sys(e, errno, "creating directory %s", p);
        }
        *s = old;
        if (!old) {
            break;
        }
    }
    struct stat st;
    if (stat(path, &st) < 0 || !S_ISDIR(st.st_mode)) {
        return err_set(e, ERR_EXISTS, "%s exists and is not a directory", path);
    }
    if ((st.st_mode & 07777) != mode && chmod(path, mode) < 0) {
        return err_sys(e, errno, "chmod %s", path);
    }
    return 0;
}

/* Depth-first with an explicit stack of directory streams: input decides the depth. */
int sys_rmtree(int at_fd, const char *name, struct err *e) {
    enum { DEPTH = 64 };
    struct {
        DIR *d;
        char name[256];
    } *st = mem_zero_alloc(DEPTH * sizeof(*st));
    size_t n = 0;
    int rc = 0;
    if (unlinkat(at_fd, name, 0) == 0 || errno == ENOENT) {
        free(st);
        return 0;
    }
    int fd = openat(at_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        rc = err_sys(e, errno, "opening %s", name);
    } else {
        st[0].d = fdopendir(fd);
        n = 1;
    }
    while (n) {
        struct dirent *de = readdir(st[n - 1].d);
        int at = dirfd(st[n - 1].d);
        if (!de) {
            closedir(st[--n].d);
            if (n && rc == 0 && unlinkat(dirfd(st[n - 1].d), st[n].name, AT_REMOVEDIR) < 0) {
                rc = err_sys(e, errno, "removing directory %s", st[n].name);
            }
            continue;
        }
        if (rc < 0 || str_eq(de->d_name, ".") || str_eq(de->d_name, "..") ||
            unlinkat(at, de->d_name, 0) == 0) {
            continue;
        }
        if (errno != EISDIR && errno != EPERM) {
            rc = err_sys(e, errno, "removing %s", de->d_name);
        } else if (n == DEPTH) {
            rc = err_set(e, ERR_LIMIT, "%s: nested deeper than %d", name, DEPTH);
        } else if ((fd = openat(at, de->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)) <
                   0) {
            rc = err_sys(e, errno, "opening %s", de->d_name);
        } else {
            (void)str_put(st[n].name, sizeof(st[n].name), "%s", de->d_name);
            st[n++].d = fdopendir(fd);
        }
    }
    free(st);
    if (rc == 0 && unlinkat(at_fd, name, AT_REMOVEDIR) < 0) {
        rc = err_sys(e, errno, "removing %s", name);
    }
    return rc;
}
