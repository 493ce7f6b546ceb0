/* HTTP: boot files and scripts for firmware, boot loaders and the initrd; and the HTTPS listener of nb_join.c.
 *
 * Sockets are bound to their interfaces, and to the loopback for the host's own requests. */
#include "internal/netboot/nb_int.h"

#include "internal/base/rand.h"
#include "internal/http/http.h"
#include "internal/log/log.h"
#include "internal/sys/sys.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <unistd.h>

enum { HTTP_BACKLOG = 512, LIM_HTTP_BODY = 64 << 10 };

uint32_t nb_http_peer(const struct http_req *r) {
    struct sockaddr_storage ss = *http_req_addr(r);
    struct sockaddr_in in = {0};
    if (ss.ss_family != AF_INET) {
        return 0;
    }
    memcpy(&in, &ss, sizeof(in));
    return ntohl(in.sin_addr.s_addr);
}

/* Our address as the client knows it: what it wrote in Host, if that is ours; else ours on its network. */
uint32_t nb_http_local(struct netboot *nb, const struct http_req *r) {
    struct span host = http_req_header(r, "host"), name;
    uint32_t ip, first = 0;
    const struct nb_network *net = nb_plan_network_of(nb->plan, nb_http_peer(r));
    bool given = span_next(&host, ':', &name) && ip4_parse(name, &ip) == 0;
    if (given && net && net->next_server == ip) {
        return ip;
    }
    for (size_t i = 0; i < nb->n_ifaces; i++) {
        for (size_t k = 0; k < nb->ifaces[i].n_addrs; k++) {
            uint32_t own = nb->ifaces[i].addrs[k].ip;
            if (given && ip == own) {
                return own;
            }
            if (!first || (net && nb_plan_network_of(nb->plan, own) == net)) {
                first = own;
            }
        }
    }
    return first;
}

static void refuse(struct http_req *r, unsigned status, const char *text) {
    AUTO(buf) struct buf b = BUF_INIT(256);
    buf_fmt(&b, "%s\n", text);
    http_respond(r, status, "text/plain", NULL, 0, buf_view(&b));
}

/* ---- files ---- */

/* "bytes=a-b", "bytes=a-", "bytes=-n"; one range only. 1: valid, 0: to be ignored, negative: outside the file. */
static int parse_range(struct span s, uint64_t size, uint64_t *ret_at, uint64_t *ret_len) {
    struct span first;
    uint64_t a, b = size - 1;
    if (!span_starts(s, "bytes=") || span_skip(&s, 6) < 0 || span_index(s, ',') >= 0 ||
        span_until(&s, '-', &first) < 0) {
        return 0;
    }
    if (!first.n) {
        if (span_to_u64(s, 0, UINT64_MAX, &b) < 0) {
            return 0;
        }
        a = b < size ? size - b : 0;
        *ret_at = a;
        *ret_len = size - a;
        return b == 0 || size == 0 ? -ERR_INVALID : 1;
    }
    if (span_to_u64(first, 0, UINT64_MAX, &a) < 0 ||
        (s.n && span_to_u64(s, 0, UINT64_MAX, &b) < 0) || (s.n && b < a)) {
        return 0;
    }
    if (a >= size) {
        return -ERR_INVALID;
    }
    *ret_at = a;
    *ret_len = (b < size ? b + 1 : size) - a;
    return 1;
}

static void send_file(struct http_req *r, struct nb_file *f) {
    char etag[64], range_text[96];
    struct http_header h[3];
    size_t n = 0;
    uint64_t at = 0, len = f->size;
    unsigned status = 200;
    IGNORE_ERR(str_put(etag, sizeof(etag), "\"%llx-%llx\"", (unsigned long long)f->mtime_s,
                       (unsigned long long)f->size),
               "fits");
    h[n++] = (struct http_header){SPAN_LIT("etag"), span_str(etag)};
    h[n++] = (struct http_header){SPAN_LIT("accept-ranges"), SPAN_LIT("bytes")};
    if (span_eq_str(http_req_header(r, "if-none-match"), etag)) {
        http_respond(r, 304, NULL, h, n, SPAN_EMPTY);
        return;
    }
    struct span range = http_req_header(r, "range"), if_range = http_req_header(r, "if-range");
    int rc = range.n && (!if_range.n || span_eq_str(if_range, etag))
                 ? parse_range(range, f->size, &at, &len)
                 : 0;
    if (rc != 0) {
        IGNORE_ERR(rc < 0 ? str_put(range_text, sizeof(range_text), "bytes */%llu",
                                    (unsigned long long)f->size)
                          : str_put(range_text, sizeof(range_text), "bytes %llu-%llu/%llu",
                                    (unsigned long long)at, (unsigned long long)(at + len - 1),
                                    (unsigned long long)f->size),
                   "fits");
        h[n++] = (struct http_header){SPAN_LIT("content-range"), span_str(range_text)};
        status = 206;
    }
    if (rc < 0) {
        http_respond(r, 416, NULL, h, n, SPAN_EMPTY);
    } else {
        http_respond_file(r, status, f->type, h, n, TAKE_FD(f->fd), at, len);
    }
}

static void on_file(struct netboot *nb, struct http_req *r, struct span path) {
    struct nb_file f;
    struct err e = ERR_INIT;
    nb_file_init(&f);
    int rc = nb_file_open(nb, path, nb_http_peer(r), nb_http_local(nb, r), true, &f, &e);
    if (rc < 0) {
        refuse(r,
               rc == -ERR_NOT_FOUND   ? 404
               : rc == -ERR_FORBIDDEN ? 403
                                      : 500,
               err_name((enum err_code) - rc));
    } else if (f.fd < 0) {
        static const struct http_header fresh[] = {
            {SPAN_LIT("cache-control"), SPAN_LIT("no-store")}};
        http_respond(r, 200, f.type, fresh, ARRAY_LEN(fresh), buf_view(&f.mem));
    } else {
        send_file(r, &f);
    }
    nb_file_fini(&f);
}

static void on_metrics(struct netboot *nb, struct http_req *r) {
    AUTO(buf) struct buf b = BUF_INIT(LIM_HTTP_BODY);
#define X(name)                                                                                \
    buf_fmt(&b, "# TYPE kfarm_netboot_%s_total counter\nkfarm_netboot_%s_total %llu\n", #name, \
            #name, (unsigned long long)nb->count.name);
    NB_COUNTERS(X)
#undef X
    for (unsigned s = 0; s < DHCP_STATE_MAX_; s++) {
        buf_fmt(&b, "kfarm_netboot_leases{state=\"%s\"} %zu\n", dhcp_state_name((enum dhcp_state)s),
                dhcp_server_count(nb->dhcp, (enum dhcp_state)s));
    }
    http_respond(r, 200, "text/plain; version=0.0.4", NULL, 0, buf_view(&b));
}

static void on_request(struct http_req *r, void *ctx) {
    struct netboot *nb = ctx;
    struct span method = http_req_method(r);
    AUTO(buf) struct buf raw = BUF_INIT(1024), path = BUF_INIT(1024);
    nb->count.http_requests++;
    if (!span_eq_str(method, "GET") && !span_eq_str(method, "HEAD")) {
        static const struct http_header allow[] = {{SPAN_LIT("allow"), SPAN_LIT("GET, HEAD")}};
        http_respond(r, 405, NULL, allow, ARRAY_LEN(allow), SPAN_EMPTY);
        return;
    }
    if (url_decode(&raw, http_req_path(r), false) < 0 || nb_path_clean(buf_view(&raw), &path) < 0) {
        refuse(r, 403, "no such name here");
        return;
    }
    if (span_eq_str(buf_view(&path), "livez") || span_eq_str(buf_view(&path), "readyz")) {
        http_respond(r, 200, "text/plain", NULL, 0, SPAN_LIT("ok"));
    } else if (span_eq_str(buf_view(&path), "metrics")) {
        on_metrics(nb, r);
    } else {
        on_file(nb, r, buf_view(&path));
    }
}

/* ---- listeners ---- */

static int listen_on(const char *ifname, uint16_t port, struct err *e) {
    const int one = 1;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
    AUTO_FD int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 ||
        setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, ifname, (socklen_t)strlen(ifname) + 1) < 0 ||
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
        bind(fd, (const struct sockaddr *)&at, sizeof(at)) < 0 || listen(fd, HTTP_BACKLOG) < 0) {
        return err_sys(e, errno, "TCP port %u on %s", port, ifname);
    }
    return TAKE_FD(fd);
}

static int listen_all(struct netboot *nb, struct http_server *s, uint16_t port, struct err *e) {
    for (size_t i = 0; i < nb->n_ifaces; i++) {
        int fd = listen_on(nb->ifaces[i].name, port, e);
        int rc = fd < 0 ? fd : http_server_listen(s, fd, e);
        if (rc < 0) {
            return rc;
        }
    }
    struct err why = ERR_INIT;
    int fd = listen_on("lo", port, &why); /* another instance on this host may have it: no loss */
    return fd < 0 ? 0 : http_server_listen(s, fd, e);
}

int nb_http_start(struct netboot *nb, struct err *e) {
    const struct http_server_opts o = {
        .handler = {on_request, nb}, .body_max = LIM_HTTP_BODY, .name = "boot"};
    int rc = http_server_new(nb->l, &o, &nb->http, e);
    return rc < 0 ? rc : listen_all(nb, nb->http, nb->o.http_port, e);
}

int nb_https_start(struct netboot *nb, struct err *e) {
    const struct http_server_opts o = {.handler = {nb_join_request, nb},
                                       .tls = nb->o.tls,
                                       .body_max = LIM_HTTP_BODY,
                                       .name = "join"};
    int rc = http_server_new(nb->l, &o, &nb->https, e);
    return rc < 0 ? rc : listen_all(nb, nb->https, nb->o.https_port, e);
}

void nb_http_stop(struct netboot *nb) {
    http_server_free(nb->http);
    http_server_free(nb->https);
}
