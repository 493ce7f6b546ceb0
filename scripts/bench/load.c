#include "scripts/bench/load.h"

#include "internal/base/rand.h"

#include <nghttp2/nghttp2.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { F_DATA, F_HEADERS, F_RST = 3, F_SETTINGS, F_PING = 6, F_GOAWAY, F_WINDOW };
enum { FLAG_END_STREAM = 1, FLAG_ACK = 1, FLAG_END_HEADERS = 4, FLAG_PADDED = 8, FLAG_PRIO = 32 };
enum { SCRATCH = 256 * 1024, HEAD = 9, FRAME = 16384, WINDOW = 16 << 20, EVENTS = 256 };

struct link {
    int fd;
    uint32_t next_sid;
    struct call **calls; /* by (sid - 1) / 2 */
    size_t cap_calls;
    nghttp2_hd_deflater *enc;
    nghttp2_hd_inflater *dec;
    struct buf in, out;
    struct buf held; /* DATA frames that wait for the connection's window */
    int64_t window;
    uint32_t unread;
    bool dirty, blocked;
    struct link *next_dirty;
};

static int epfd = -1;
static struct link *dirty;
static uint8_t *scratch;

_Noreturn void load_die(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    fputs("etcdload: ", stderr);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    exit(1);
}

/* ---- frames out ---- */

static void touch(struct link *k) {
    if (!k->dirty) {
        k->dirty = true;
        k->next_dirty = dirty;
        dirty = k;
    }
}

static void head(struct buf *b, size_t n, uint8_t type, uint8_t flags, uint32_t sid) {
    buf_u8(b, (uint8_t)(n >> 16));
    buf_be16(b, (uint16_t)n);
    buf_u8(b, type);
    buf_u8(b, flags);
    buf_be32(b, sid);
}

static void grant(struct link *k, uint32_t sid, uint32_t n) {
    head(&k->out, 4, F_WINDOW, 0, sid);
    buf_be32(&k->out, n);
    touch(k);
}

static void data_frame(struct link *k, uint32_t sid, struct span first, struct span rest,
                       bool end) {
    size_t n = first.n + rest.n;
    bool wait = k->held.n || k->window < (int64_t)n;
    struct buf *b = wait ? &k->held : &k->out;
    head(b, n, F_DATA, end ? FLAG_END_STREAM : 0, sid);
    buf_span(b, first);
    buf_span(b, rest);
    k->window -= wait ? 0 : (int64_t)n;
    touch(k);
}

static void data(struct link *k, uint32_t sid, struct span message, bool end) {
    uint8_t n[5] = {0, (uint8_t)(message.n >> 24), (uint8_t)(message.n >> 16),
                    (uint8_t)(message.n >> 8), (uint8_t)message.n};
    struct span prefix = span_of(n, sizeof(n)), part;
    do {
        part = message;
        part.n = part.n > FRAME - sizeof(n) ? FRAME - sizeof(n) : part.n;
        IGNORE_ERR(span_skip(&message, part.n), "within");
        data_frame(k, sid, prefix, part, end && !message.n);
        prefix = SPAN_EMPTY;
    } while (message.n);
}

static void release(struct link *k) {
    size_t done = 0;
    while (done < k->held.n) {
        const uint8_t *p = k->held.p + done;
        size_t n = (size_t)p[0] << 16 | (size_t)p[1] << 8 | p[2];
        if (k->window < (int64_t)n) {
            break;
        }
        k->window -= (int64_t)n;
        buf_add(&k->out, p, HEAD + n);
        done += HEAD + n;
    }
    buf_drop(&k->held, done);
    touch(k);
}

#define NV(n, v) \
    { (uint8_t *)(uintptr_t)(n), (uint8_t *)(uintptr_t)(v), strlen(n), strlen(v), 0 }

void load_call(struct link *k, struct call *c, const char *path, struct span message, bool more) {
    nghttp2_nv nv[] = {NV(":method", "POST"),
                       NV(":scheme", "http"),
                       NV(":path", path),
                       NV(":authority", "localhost"),
                       NV("content-type", "application/grpc"),
                       NV("user-agent", "etcdload"),
                       NV("te", "trailers")};
    uint8_t block[1024];
    c->k = k;
    c->sid = k->next_sid;
    c->status = -1;
    c->unread = 0;
    c->in.max = LIM_LOAD_MESSAGE + 5;
    buf_reset(&c->in);
    k->next_sid += 2;
    size_t i = c->sid / 2;
    if (i >= k->cap_calls) {
        k->cap_calls = k->cap_calls ? 2 * k->cap_calls : 64;
        k->calls = mem_array(k->calls, k->cap_calls, sizeof(struct call *), 1u << 28);
        if (!k->calls) {
            load_die("out of memory");
        }
    }
    k->calls[i] = c;
    nghttp2_ssize n = nghttp2_hd_deflate_hd2(k->enc, block, sizeof(block), nv, ARRAY_LEN(nv));
    if (n < 0) {
        load_die("HPACK: %s", nghttp2_strerror((int)n));
    }
    head(&k->out, (size_t)n, F_HEADERS, FLAG_END_HEADERS, c->sid);
    buf_add(&k->out, block, (size_t)n);
    data(k, c->sid, message, !more);
}

void load_send(struct call *c, struct span message) {
    data(c->k, c->sid, message, false);
}

static void write_out(struct link *k) {
    while (k->out.n) {
        ssize_t n = send(k->fd, k->out.p, k->out.n, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno != EAGAIN) {
            load_die("sending: %s", err_sys_name(errno));
        }
        if (n < 0) {
            break;
        }
        buf_drop(&k->out, (size_t)n);
    }
    if (k->blocked != (k->out.n > 0)) {
        k->blocked = k->out.n > 0;
        struct epoll_event ev = {.events = EPOLLIN | (k->blocked ? EPOLLOUT : 0), .data.ptr = k};
        if (epoll_ctl(epfd, EPOLL_CTL_MOD, k->fd, &ev) < 0) {
            load_die("epoll_ctl: %s", err_sys_name(errno));
        }
    }
}

/* ---- frames in ---- */

static struct call *find(struct link *k, uint32_t sid) {
    return sid / 2 < k->cap_calls && sid < k->next_sid ? k->calls[sid / 2] : NULL;
}

static void end(struct link *k, struct call *c) {
    k->calls[c->sid / 2] = NULL;
    if (!c->on_end) {
        load_die("a stream ended with status %d", c->status);
    }
    c->on_end(c);
}

static void on_headers(struct link *k, struct call *c, struct span p, uint8_t flags) {
    if ((flags & (FLAG_PADDED | FLAG_PRIO)) || !(flags & FLAG_END_HEADERS)) {
        load_die("a form of HEADERS that is not expected");
    }
    char text[200] = "";
    while (p.n || (flags & FLAG_END_HEADERS)) {
        nghttp2_nv nv;
        int what = 0;
        nghttp2_ssize n = nghttp2_hd_inflate_hd3(k->dec, &nv, &what, p.p, p.n, 1);
        if (n < 0 || span_skip(&p, (size_t)n) < 0) {
            load_die("HPACK: %s", nghttp2_strerror((int)n));
        }
        if (what & NGHTTP2_HD_INFLATE_EMIT) {
            struct span name = span_of(nv.name, nv.namelen), value = span_of(nv.value, nv.valuelen);
            uint64_t v;
            if (span_eq_str(name, "grpc-status") && c && span_to_u64(value, 0, 16, &v) == 0) {
                c->status = (int)v;
            } else if (span_eq_str(name, "grpc-message")) {
                IGNORE_ERR(str_put(text, sizeof(text), "%.*s", SPAN_FMT(value)), "for a message");
            }
        }
        if (what & NGHTTP2_HD_INFLATE_FINAL) {
            nghttp2_hd_inflate_end_headers(k->dec);
            break;
        }
    }
    if (c && (flags & FLAG_END_STREAM)) {
        if (c->status > 0) {
            static int told;
            if (told++ < 3) {
                fprintf(stderr, "etcdload: status %d: %s\n", c->status, text);
            }
        }
        end(k, c);
    }
}

static void messages(struct call *c, struct span s) {
    if (c->in.n) {
        buf_span(&c->in, s);
        s = buf_view(&c->in);
    }
    size_t all = s.n;
    for (;;) {
        struct span at = s, m;
        uint8_t packed;
        uint32_t n;
        if (span_u8(&at, &packed) < 0 || span_be32(&at, &n) < 0 || span_take(&at, n, &m) < 0) {
            break;
        }
        s = at;
        c->on_message(c, m);
    }
    if (c->in.n) {
        buf_drop(&c->in, all - s.n);
    } else if (s.n) {
        buf_span(&c->in, s);
    }
    if (buf_ok(&c->in) < 0) {
        load_die("a message is too long");
    }
}

static void on_data(struct link *k, struct call *c, struct span p, uint8_t flags) {
    if (flags & FLAG_PADDED) {
        load_die("padded data");
    }
    k->unread += (uint32_t)p.n;
    if (k->unread > WINDOW / 2) {
        grant(k, 0, k->unread);
        k->unread = 0;
    }
    if (!c) {
        return;
    }
    c->unread += (uint32_t)p.n;
    if (c->unread > WINDOW / 2 && !(flags & FLAG_END_STREAM)) {
        grant(k, c->sid, c->unread);
        c->unread = 0;
    }
    messages(c, p);
    if (flags & FLAG_END_STREAM) {
        end(k, c);
    }
}

static void frame(struct link *k, uint8_t type, uint8_t flags, uint32_t sid, struct span p) {
    uint32_t n = 0;
    struct span at = p;
    switch (type) {
    case F_DATA: on_data(k, find(k, sid), p, flags); break;
    case F_HEADERS: on_headers(k, find(k, sid), p, flags); break;
    case F_RST:
        if (find(k, sid)) {
            load_die("a stream was reset");
        }
        break;
    case F_SETTINGS:
        if (!(flags & FLAG_ACK)) {
            head(&k->out, 0, F_SETTINGS, FLAG_ACK, 0);
            touch(k);
        }
        break;
    case F_PING:
        if (!(flags & FLAG_ACK)) {
            head(&k->out, p.n, F_PING, FLAG_ACK, 0);
            buf_span(&k->out, p);
            touch(k);
        }
        break;
    case F_GOAWAY: load_die("the server sent GOAWAY: %.*s", SPAN_FMT(p));
    case F_WINDOW:
        if (sid == 0 && span_be32(&at, &n) == 0) {
            k->window += n;
            release(k);
        }
        break;
    default: break;
    }
}

static void parse(struct link *k, struct span s) {
    if (k->in.n) {
        buf_span(&k->in, s);
        s = buf_view(&k->in);
    }
    size_t all = s.n;
    for (;;) {
        struct span at = s, p;
        uint8_t high, type, flags;
        uint16_t low;
        uint32_t sid;
        if (span_u8(&at, &high) < 0 || span_be16(&at, &low) < 0 || span_u8(&at, &type) < 0 ||
            span_u8(&at, &flags) < 0 || span_be32(&at, &sid) < 0 ||
            span_take(&at, (size_t)high << 16 | low, &p) < 0) {
            break;
        }
        s = at;
        frame(k, type, flags, sid & 0x7fffffff, p);
    }
    if (k->in.n) {
        buf_drop(&k->in, all - s.n);
    } else {
        buf_span(&k->in, s);
    }
}

static void readable(struct link *k) {
    ssize_t n = recv(k->fd, scratch, SCRATCH, MSG_DONTWAIT);
    if (n == 0) {
        load_die("the server closed a connection");
    }
    if (n < 0 && errno != EAGAIN) {
        load_die("receiving: %s", err_sys_name(errno));
    }
    if (n > 0) {
        parse(k, span_of(scratch, (size_t)n));
    }
}

void load_step(uint64_t until_ns) {
    while (dirty) {
        struct link *k = dirty;
        dirty = k->next_dirty;
        k->dirty = false;
        write_out(k);
    }
    uint64_t now = clock_ns(), left = until_ns > now ? until_ns - now : 0;
    struct epoll_event ev[EVENTS];
    left = (left + NS_PER_MS - 1) / NS_PER_MS;
    int n = epoll_wait(epfd, ev, EVENTS, left < 1000 ? (int)left : 1000);
    for (int i = 0; i < n; i++) {
        struct link *k = ev[i].data.ptr;
        if (ev[i].events & EPOLLOUT) {
            touch(k);
        }
        if (ev[i].events & ~(uint32_t)EPOLLOUT) {
            readable(k);
        }
    }
}

/* ---- connecting ---- */

static int dial(const char *address) {
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    struct sockaddr_in in = {.sin_family = AF_INET};
    struct span host, s = span_str(address);
    char text[INET_ADDRSTRLEN];
    uint64_t port;
    int one = 1;
    bool local = span_starts(s, "unix:");
    int fd = socket(local ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), rc;
    if (local) {
        IGNORE_ERR(span_skip(&s, 5), "has it");
        rc = span_to_cstr(s, un.sun_path, sizeof(un.sun_path));
        rc = rc < 0 ? rc : connect(fd, (struct sockaddr *)&un, sizeof(un));
    } else {
        if (span_until(&s, ':', &host) < 0 || span_to_cstr(host, text, sizeof(text)) < 0 ||
            span_to_u64(s, 1, 65535, &port) < 0 || inet_pton(AF_INET, text, &in.sin_addr) != 1) {
            load_die("%s is neither IPV4:PORT nor unix:PATH", address);
        }
        in.sin_port = htons((uint16_t)port);
        rc = connect(fd, (struct sockaddr *)&in, sizeof(in));
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    }
    if (rc < 0 || fcntl(fd, F_SETFL, O_NONBLOCK) < 0) {
        load_die("connecting to %s: %s", address, err_sys_name(errno));
    }
    return fd;
}

struct link *load_link(const char *address) {
    static const uint16_t settings[] = {2 /* push */, 4 /* initial window */};
    static const uint32_t values[] = {0, WINDOW};
    struct link *k = new_zero(struct link);
    if (epfd < 0) {
        epfd = epoll_create1(EPOLL_CLOEXEC);
        scratch = mem_zero_alloc(SCRATCH);
    }
    k->fd = dial(address);
    k->next_sid = 1;
    k->window = 65535;
    buf_init(&k->in, (16 << 20) + SCRATCH);
    buf_init(&k->out, 1u << 30);
    buf_init(&k->held, 1u << 30);
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = k};
    if (epoll_ctl(epfd, EPOLL_CTL_ADD, k->fd, &ev) < 0 || nghttp2_hd_deflate_new(&k->enc, 4096) ||
        nghttp2_hd_inflate_new(&k->dec)) {
        load_die("a connection cannot be made");
    }
    buf_str(&k->out, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    head(&k->out, ARRAY_LEN(settings) * 6, F_SETTINGS, 0, 0);
    for (size_t i = 0; i < ARRAY_LEN(settings); i++) {
        buf_be16(&k->out, settings[i]);
        buf_be32(&k->out, values[i]);
    }
    grant(k, 0, WINDOW - 65535);
    return k;
}
