#include "internal/base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct {
    const char *name;
    unsigned grpc, http;
    const char *reason;
    int exit_status;
} tab[ERR_MAX_] = {[ERR_OK] = {"OK", 0, 200, "", 0},
#define X(n, g, h, r, x) [ERR_##n] = {#n, g, h, r, x},
                   ERR_LIST(X)
#undef X
};

const char *err_name(enum err_code c) {
    return c < ERR_MAX_ ? tab[c].name : "?";
}
unsigned err_http(enum err_code c) {
    return c < ERR_MAX_ ? tab[c].http : 500;
}
unsigned err_grpc(enum err_code c) {
    return c < ERR_MAX_ ? tab[c].grpc : 13;
}
const char *err_reason(enum err_code c) {
    return c < ERR_MAX_ ? tab[c].reason : "InternalError";
}
int err_exit(enum err_code c) {
    return c < ERR_MAX_ ? tab[c].exit_status : 1;
}
const char *err_public(const struct err *e) {
    return e->pub ? e->pub : e->msg;
}

void err_reset(struct err *e) {
    if (e) {
        e->code = ERR_OK;
        e->sys = 0;
        e->pub = NULL;
        e->msg[0] = 0;
    }
}

/* Control characters of foreign text must not reach a log line or a terminal. */
static void tame(char *s) {
    for (; *s; s++) {
        if ((unsigned char)*s < 0x20 || *s == 0x7f) {
            *s = ' ';
        }
    }
}

int err_set(struct err *e, enum err_code c, const char *fmt, ...) {
    if (e && e->code == ERR_OK) {
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(e->msg, sizeof(e->msg), fmt, ap);
        va_end(ap);
        tame(e->msg);
        e->code = c;
    }
    return -(int)c;
}

static enum err_code from_errno(int sys) {
    switch (sys) {
    case ENOENT:
    case ENOTDIR: return ERR_NOT_FOUND;
    case EEXIST: return ERR_EXISTS;
    case EACCES:
    case EPERM: return ERR_FORBIDDEN;
    case ENOMEM: return ERR_NOMEM;
    case ECONNREFUSED:
    case ECONNRESET:
    case EHOSTUNREACH:
    case ENETUNREACH:
    case EPIPE: return ERR_UNAVAILABLE;
    case ETIMEDOUT: return ERR_TIMEOUT;
    default: return ERR_IO;
    }
}

int err_sys(struct err *e, int sys, const char *fmt, ...) {
    enum err_code c = from_errno(sys);
    if (e && e->code == ERR_OK) {
        va_list ap;
        va_start(ap, fmt);
        int n = vsnprintf(e->msg, sizeof(e->msg), fmt, ap);
        va_end(ap);
        size_t at = n < 0 ? 0 : (size_t)n < sizeof(e->msg) ? (size_t)n : sizeof(e->msg) - 1;
        snprintf(e->msg + at, sizeof(e->msg) - at, ": %s", err_sys_name(sys));
        tame(e->msg);
        e->code = c;
        e->sys = sys;
    }
    return -(int)c;
}

int err_wrap(struct err *e, const char *fmt, ...) {
    if (!e) {
        return -ERR_INTERNAL;
    }
    char old[ERR_MSG_MAX];
    memcpy(old, e->msg, sizeof(old));
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(e->msg, sizeof(e->msg), fmt, ap);
    va_end(ap);
    size_t at = n < 0 ? 0 : (size_t)n < sizeof(e->msg) ? (size_t)n : sizeof(e->msg) - 1;
    snprintf(e->msg + at, sizeof(e->msg) - at, ": %.*s", (int)(sizeof(e->msg) - at), old);
    tame(e->msg);
    return -(int)e->code;
}

const char *err_sys_name(int sys) {
    static const struct {
        int n;
        const char *s;
    } names[] = {
        {EPERM, "operation not permitted"},
        {ENOENT, "no such file or directory"},
        {EINTR, "interrupted"},
        {EIO, "input/output error"},
        {EBADF, "bad file descriptor"},
        {EAGAIN, "try again"},
        {ENOMEM, "out of memory"},
        {EACCES, "permission denied"},
        {EBUSY, "device or resource busy"},
        {EEXIST, "file exists"},
        {EXDEV, "cross-device or outside its directory"},
        {ENODEV, "no such device"},
        {ENOTDIR, "not a directory"},
        {EISDIR, "is a directory"},
        {EINVAL, "invalid argument"},
        {EMFILE, "too many open files"},
        {ENFILE, "too many open files in system"},
        {EFBIG, "file too large"},
        {ENOSPC, "no space left on device"},
        {EROFS, "read-only file system"},
        {EPIPE, "broken pipe"},
        {ENAMETOOLONG, "file name too long"},
        {ENOSYS, "not supported by this kernel"},
        {ENOTEMPTY, "directory not empty"},
        {ELOOP, "too many symbolic links"},
        {EADDRINUSE, "address already in use"},
        {EADDRNOTAVAIL, "address not available"},
        {ENETDOWN, "network is down"},
        {ENETUNREACH, "network is unreachable"},
        {ECONNABORTED, "connection aborted"},
        {ECONNRESET, "connection reset by peer"},
        {ETIMEDOUT, "timed out"},
        {ECONNREFUSED, "connection refused"},
        {EHOSTUNREACH, "no route to host"},
        {EALREADY, "already in progress"},
        {EINPROGRESS, "in progress"},
        {EOPNOTSUPP, "operation not supported"},
        {EPROTO, "protocol error"},
        {EOVERFLOW, "value too large"},
        {ENOEXEC, "exec format error"},
        {ESRCH, "no such process"},
        {ECHILD, "no child processes"},
        {E2BIG, "argument list too long"},
        {EDOM, "out of domain"},
        {ERANGE, "out of range"},
        {ENOTCONN, "not connected"},
        {EMSGSIZE, "message too long"},
        {EAFNOSUPPORT, "address family not supported"},
        {EDQUOT, "disk quota exceeded"},
    };
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (names[i].n == sys) {
            return names[i].s;
        }
    }
    return "system error";
}

_Noreturn void check_failed(const char *cond, const char *file, int line) {
    dprintf(STDERR_FILENO, "kfarm: check failed: %s at %s:%d\n", cond, file, line);
    abort();
}
