#include "internal/sys/sys.h"

#include <arpa/inet.h>
#include <errno.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static int listen_fd(int fd, const struct sockaddr *sa, socklen_t n, const char *what,
                     struct err *e) {
    int one = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(fd, sa, n) < 0) {
        return err_sys(e, errno, "listening on %s", what);
    }
    return listen(fd, 1024) < 0 ? err_sys(e, errno, "listening on %s", what) : 0;
}

int sys_listen_tcp(const char *host, uint16_t port, struct err *e) {
    struct sockaddr_in6 a6 = {
        .sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = in6addr_any};
    struct sockaddr_in a4 = {.sin_family = AF_INET, .sin_port = htons(port)};
    char what[80];
    (void)str_put(what, sizeof(what), "%s port %u", *host ? host : "any address,", (unsigned)port);
    bool v4 = *host && inet_pton(AF_INET, host, &a4.sin_addr) == 1;
    if (*host && !v4 && inet_pton(AF_INET6, host, &a6.sin6_addr) != 1) {
        return err_set(e, ERR_INVALID, "\"%s\" is not an IP address", host);
    }
    AUTO_FD int fd = -1;
    if (!v4) {
        fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        int off = 0;
        if (fd >= 0) {
            setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
        } else if (*host || errno != EAFNOSUPPORT) {
            return err_sys(e, errno, "socket");
        }
    }
    bool use4 = fd < 0; /* asked for, or a kernel without IPv6 */
    if (use4 && (fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) < 0) {
        return err_sys(e, errno, "socket");
    }
    int rc = use4 ? listen_fd(fd, (const struct sockaddr *)&a4, sizeof(a4), what, e)
                  : listen_fd(fd, (const struct sockaddr *)&a6, sizeof(a6), what, e);
    return rc < 0 ? rc : TAKE_FD(fd);
}

int sys_listen_unix(const char *path, mode_t mode, struct err *e) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    if (span_to_cstr(span_str(path), a.sun_path, sizeof(a.sun_path)) < 0) {
        return err_set(e, ERR_LIMIT, "socket path %s is longer than %zu bytes", path,
                       sizeof(a.sun_path) - 1);
    }
    AUTO_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return err_sys(e, errno, "socket");
    }
    unlink(path);
    mode_t old = umask(0777); /* nobody may connect before the mode is right */
    int rc = listen_fd(fd, (const struct sockaddr *)&a, sizeof(a), path, e);
    umask(old);
    if (rc < 0) {
        return rc;
    }
    return chmod(path, mode) < 0 ? err_sys(e, errno, "chmod %s", path) : TAKE_FD(fd);
}

int sys_socketpair(int type, int ret_fds[2], struct err *e) {
    if (socketpair(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ret_fds) < 0) {
        return err_sys(e, errno, "socketpair");
    }
    return 0;
}

int sys_send_fd(int sock, struct span s, int fd, struct err *e) {
    union {
        const uint8_t *c;
        void *m;
    } u = {.c = s.p};
    struct iovec iov = {u.m, s.n};
    union {
        struct cmsghdr align;
        char room[CMSG_SPACE(sizeof(int))];
    } ctl = {0};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
    if (fd >= 0) {
        m.msg_control = ctl.room;
        m.msg_controllen = sizeof(ctl.room);
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &fd, sizeof(fd));
    }
    ssize_t n;
    do {
        n = sendmsg(sock, &m, MSG_NOSIGNAL);
    } while (n < 0 && errno == EINTR);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
        return -ERR_AGAIN;
    }
    return n < 0 ? err_sys(e, errno, "sending a descriptor") : 0;
}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wsign-conversion" /* inside musl's CMSG_NXTHDR */
int sys_recv_fd(int sock, void *p, size_t cap, int *ret_fd, struct err *e) {
    struct iovec iov = {p, cap};
    union {
        struct cmsghdr align;
        char room[CMSG_SPACE(sizeof(int) * 4)];
    } ctl = {0};
    struct msghdr m = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = ctl.room,
                       .msg_controllen = sizeof(ctl.room)};
    ssize_t n;
    do {
        n = recvmsg(sock, &m, MSG_CMSG_CLOEXEC);
    } while (n < 0 && errno == EINTR);
    *ret_fd = -1;
    if (n < 0) {
        return errno == EAGAIN || errno == EWOULDBLOCK ? -ERR_AGAIN
                                                       : err_sys(e, errno, "receiving");
    }
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        for (size_t off = 0; off + sizeof(int) <= c->cmsg_len - CMSG_LEN(0); off += sizeof(int)) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + off, sizeof(fd));
            if (*ret_fd < 0) {
                *ret_fd = fd;
            } else {
                close(fd); /* one per message is the rule */
            }
        }
    }
    return (int)n;
}
#pragma GCC diagnostic pop
