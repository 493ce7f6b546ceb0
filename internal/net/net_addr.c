/* Listeners, addresses, and the little name resolution that a static binary offline needs. */
#include "internal/net/net.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { BACKLOG = 1024, LIM_HOSTS = 1 << 20 };

static int literal(const char *host, uint16_t port, struct sockaddr_storage *ret,
                   socklen_t *ret_n) {
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    memset(ret, 0, sizeof(*ret));
    if (inet_pton(AF_INET, host, &v4.sin_addr) == 1) {
        memcpy(ret, &v4, sizeof(v4));
        *ret_n = sizeof(v4);
        return 0;
    }
    if (inet_pton(AF_INET6, host, &v6.sin6_addr) == 1) {
        memcpy(ret, &v6, sizeof(v6));
        *ret_n = sizeof(v6);
        return 0;
    }
    return -ERR_NOT_FOUND;
}

static int read_hosts(struct buf *b) {
    AUTO_FD int fd = open("/etc/hosts", O_RDONLY | O_CLOEXEC);
    for (;;) {
        uint8_t *room = fd < 0 ? NULL : buf_room(b, 4096);
        ssize_t r = room ? read(fd, room, 4096) : -1;
        if (r <= 0) {
            return r == 0 ? 0 : -ERR_NOT_FOUND;
        }
        buf_added(b, (size_t)r);
    }
}

static struct span word(struct span *line) {
    size_t n = 0;
    struct span out = SPAN_EMPTY, skipped;
    while (line->n && (line->p[0] == ' ' || line->p[0] == '\t')) {
        IGNORE_ERR(span_take(line, 1, &skipped), "length checked");
    }
    while (n < line->n && line->p[n] != ' ' && line->p[n] != '\t' && line->p[n] != '#') {
        n++;
    }
    IGNORE_ERR(span_take(line, n, &out), "length checked");
    return out;
}

static int in_hosts(const char *host, uint16_t port, struct sockaddr_storage *ret,
                    socklen_t *ret_n) {
    AUTO(buf) struct buf b = BUF_INIT(LIM_HOSTS);
    if (read_hosts(&b) < 0) {
        return -ERR_NOT_FOUND;
    }
    struct span rest = buf_view(&b), line;
    while (span_line(&rest, &line) == 0) {
        char addr[INET6_ADDRSTRLEN];
        struct span name;
        if (span_to_cstr(word(&line), addr, sizeof(addr)) < 0) {
            continue;
        }
        while ((name = word(&line)).n) {
            if (span_eq_nocase(name, host) && literal(addr, port, ret, ret_n) == 0) {
                return 0;
            }
        }
    }
    return -ERR_NOT_FOUND;
}

int net_resolve(const char *host, uint16_t port, struct sockaddr_storage *ret, socklen_t *ret_n,
                struct err *e) {
    if (literal(host, port, ret, ret_n) == 0 || in_hosts(host, port, ret, ret_n) == 0) {
        return 0;
    }
    if (span_eq_nocase(span_str(host), "localhost")) {
        return literal("127.0.0.1", port, ret, ret_n);
    }
    return err_set(e, ERR_NOT_FOUND, "%s is neither an address nor in /etc/hosts", host);
}

/* A peer that vanished is noticed within about a minute, with or without unsent data. */
void net_tune(int fd) {
    int on = 1, idle = 30, interval = 10, count = 3;
    unsigned dead_ms = LIM_NET_STALL_MS;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &dead_ms, sizeof(dead_ms));
}

int net_listen_tcp(const char *addr, uint16_t port, int *ret_fd, struct err *e) {
    struct sockaddr_storage sa;
    socklen_t n;
    int on = 1, off = 0;
    bool any = !addr || !*addr;
    if (literal(any ? "::" : addr, port, &sa, &n) < 0) {
        return err_set(e, ERR_INVALID, "%s is not an IP address", addr);
    }
    AUTO_FD int fd = socket(sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 && any && errno == EAFNOSUPPORT) { /* a kernel without IPv6 */
        IGNORE_ERR(literal("0.0.0.0", port, &sa, &n), "a literal");
        fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    }
    if (fd < 0) {
        return err_sys(e, errno, "socket");
    }
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (sa.ss_family == AF_INET6) {
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
    }
    if (bind(fd, (struct sockaddr *)&sa, n) < 0 || listen(fd, BACKLOG) < 0) {
        return err_sys(e, errno, "listening on %s port %u", any ? "any address" : addr, port);
    }
    *ret_fd = TAKE_FD(fd);
    return 0;
}

int net_listen_unix(const char *path, unsigned mode, int *ret_fd, struct err *e) {
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    if (str_put(sa.sun_path, sizeof(sa.sun_path), "%s", path) < 0) {
        return err_set(e, ERR_LIMIT, "socket path longer than %zu bytes: %s",
                       sizeof(sa.sun_path) - 1, path);
    }
    AUTO_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return err_sys(e, errno, "socket");
    }
    unlink(path);
    if (bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 || chmod(path, mode) < 0 ||
        listen(fd, BACKLOG) < 0) {
        return err_sys(e, errno, "listening on %s", path);
    }
    *ret_fd = TAKE_FD(fd);
    return 0;
}
