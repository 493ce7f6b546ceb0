#include "internal/ipc/ipc.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

/* Stream sockets keep one skb with descriptors apart from the next, and a frame's descriptor is sent with the frame's
 * first byte: so descriptors arrive in the order of the frames that are flagged to carry one. */
enum { HEAD = 16, F_REPLY = 1, F_ERROR = 2, F_FD = 4, F_ALL = 7 };
enum { LIM_IPC_QUEUE = 32 * 1024 * 1024, LIM_IPC_FDS = 16, SYNC_MS = 30000 };
enum { TYPE_SUCCESSOR = 0xffff, LIM_SENDS = 3 };

struct out {
    struct list link;
    size_t n, sent;
    int fd;
    uint8_t data[];
};

struct call {
    struct list link;
    uint64_t id;
    ipc_reply_cb *done;
    void *ctx;
    uint16_t type;
    unsigned sends;
    bool had_fd;
    size_t n;
    uint8_t body[]; /* to send it again */
};

struct ipc {
    struct loop *l;
    struct loop_io io;
    struct loop_hook kick; /* closes outside of the call that noticed the end */
    struct ipc_handler h;
    struct buf in;
    int fds[LIM_IPC_FDS];
    size_t n_fds;
    struct list out, calls;
    size_t out_bytes;
    uint64_t next_id;
    bool ended, freed;
    unsigned depth; /* callbacks on the stack */
};

int ipc_pair(int ret_fds[2], struct err *e) {
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0) {
        return err_sys(e, errno, "socketpair");
    }
    ret_fds[0] = fds[0];
    ret_fds[1] = fds[1];
    return 0;
}

/* ---- frames ---- */

struct frame {
    uint16_t type, flags;
    uint64_t id;
    struct span body;
};

static void put_head(struct buf *b, uint16_t type, uint16_t flags, uint64_t id, size_t len) {
    buf_u8(b, (uint8_t)type);
    buf_u8(b, (uint8_t)(type >> 8));
    buf_u8(b, (uint8_t)flags);
    buf_u8(b, (uint8_t)(flags >> 8));
    buf_le32(b, (uint32_t)len);
    buf_le64(b, id);
}

static int read_head(struct span *s, struct frame *f, uint32_t *ret_len) {
    if (span_le16(s, &f->type) < 0 || span_le16(s, &f->flags) < 0 || span_le32(s, ret_len) < 0 ||
        span_le64(s, &f->id) < 0) {
        return -ERR_AGAIN;
    }
    bool bad = *ret_len > LIM_IPC_MSG || (f->flags & ~F_ALL) ||
               (f->flags & (F_REPLY | F_ERROR)) == F_ERROR || ((f->flags & F_REPLY) && !f->id);
    return bad ? -ERR_INVALID : 0;
}

/* -ERR_AGAIN: not complete. */
static int read_frame(struct span *s, struct frame *f) {
    struct span rest = *s;
    uint32_t len;
    int rc = read_head(&rest, f, &len);
    if (rc < 0) {
        return rc;
    }
    if (span_take(&rest, len, &f->body) < 0) {
        return -ERR_AGAIN;
    }
    *s = rest;
    return 0;
}

static int error_of(struct span body, struct err *e) {
    uint32_t code;
    char text[ERR_MSG_MAX];
    if (span_le32(&body, &code) < 0 || !code || code >= ERR_MAX_) {
        return err_set(e, ERR_INVALID, "malformed error reply");
    }
    if (span_to_cstr(span_of(body.p, body.n < sizeof(text) ? body.n : sizeof(text) - 1), text,
                     sizeof(text)) < 0) {
        text[0] = 0;
    }
    return err_set(e, (enum err_code)code, "%s", text);
}

static ssize_t send_part(int fd, const void *p, size_t n, int pass, int flags) {
    struct iovec iov = {.iov_base = (void *)(uintptr_t)p, .iov_len = n};
    union {
        char buf[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } ctl;
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
    if (pass >= 0) {
        memset(&ctl, 0, sizeof(ctl));
        m.msg_control = ctl.buf;
        m.msg_controllen = sizeof(ctl.buf);
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &pass, sizeof(int));
    }
    ssize_t r;
    do {
        r = sendmsg(fd, &m, MSG_NOSIGNAL | flags);
    } while (r < 0 && errno == EINTR);
    return r;
}

/* Descriptors beyond the array's room are closed; *ret_n then exceeds cap and the channel ends. */
static ssize_t recv_part(int fd, void *p, size_t n, int *fds, size_t cap, size_t *ret_n,
                         int flags) {
    struct iovec iov = {.iov_base = p, .iov_len = n};
    union {
        char buf[CMSG_SPACE(sizeof(int) * LIM_IPC_FDS)];
        struct cmsghdr align;
    } ctl;
    struct msghdr m = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = ctl.buf,
                       .msg_controllen = sizeof(ctl.buf)};
    ssize_t r;
    *ret_n = 0;
    do {
        r = recvmsg(fd, &m, MSG_CMSG_CLOEXEC | flags);
    } while (r < 0 && errno == EINTR);
    /* The kernel gives all descriptors of one read in one control message. */
    struct cmsghdr *c = r < 0 ? NULL : CMSG_FIRSTHDR(&m);
    if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
        size_t got = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < got; i++) {
            int one;
            memcpy(&one, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
            if (*ret_n < cap) {
                fds[*ret_n] = one;
            } else {
                close(one);
            }
            ++*ret_n;
        }
    }
    return r;
}

/* ---- life ---- */

static void out_free(struct out *o) {
    list_del(&o->link);
    if (o->fd >= 0) {
        close(o->fd);
    }
    free(o);
}

static void destroy(struct ipc *c) {
    buf_fini(&c->in);
    free(c);
}

static void leave(struct ipc *c) {
    if (--c->depth == 0 && c->freed) {
        destroy(c);
    }
}

static void fail_call(struct call *k, enum err_code code, const char *why) {
    struct err e = ERR_INIT;
    list_del(&k->link);
    int rc = err_set(&e, code, "%s", why);
    k->done(k->ctx, rc, NULL, &e);
    free(k);
}

/* Every call that waits for an answer gets this one. */
static void fail_calls(struct ipc *c, enum err_code code, const char *why) {
    while (!list_empty(&c->calls)) {
        fail_call(CONTAINER_OF(c->calls.next, struct call, link), code, why);
    }
}

static void release(struct ipc *c) {
    loop_io_stop(&c->io);
    loop_hook_cancel(&c->kick);
    while (!list_empty(&c->out)) {
        out_free(CONTAINER_OF(c->out.next, struct out, link));
    }
    for (size_t i = 0; i < c->n_fds; i++) {
        close(c->fds[i]);
    }
    c->n_fds = 0;
    if (c->io.fd >= 0) {
        close(c->io.fd);
        c->io.fd = -1;
    }
}

static void end(struct ipc *c) {
    if (c->ended) {
        return;
    }
    c->ended = true;
    release(c);
    c->depth++;
    fail_calls(c, ERR_UNAVAILABLE, "the other process closed its channel");
    if (!c->freed && c->h.on_close) {
        c->h.on_close(c, c->h.ctx);
    }
    leave(c);
}

static void end_later(void *ctx) {
    end(ctx);
}

void ipc_free(struct ipc *c) {
    if (!c || c->freed) {
        return;
    }
    c->freed = true;
    c->depth++;
    if (!c->ended) {
        c->ended = true;
        release(c);
    }
    fail_calls(c, ERR_CANCELLED, "channel closed");
    leave(c);
}

struct loop *ipc_loop(const struct ipc *c) {
    return c->l;
}

/* ---- sending ---- */

/* Sends what the socket takes. False: the channel is broken. */
static bool flush(struct ipc *c) {
    while (!list_empty(&c->out)) {
        struct out *o = CONTAINER_OF(c->out.next, struct out, link);
        ssize_t r = send_part(c->io.fd, o->data + o->sent, o->n - o->sent, o->fd, MSG_DONTWAIT);
        if (r < 0) {
            loop_io_set(&c->io, LOOP_READ | LOOP_WRITE);
            return errno == EAGAIN;
        }
        if (o->fd >= 0) { /* went with the first byte */
            close(TAKE_FD(o->fd));
        }
        o->sent += (size_t)r;
        if (o->sent == o->n) {
            c->out_bytes -= o->n;
            out_free(o);
        }
    }
    loop_io_set(&c->io, LOOP_READ);
    return true;
}

static int send_frame(struct ipc *c, uint16_t type, uint16_t flags, uint64_t id, struct span body,
                      int own_fd, struct err *e) {
    AUTO_FD int fd = own_fd;
    if (c->ended) {
        return err_set(e, ERR_UNAVAILABLE, "channel is closed");
    }
    if (body.n > LIM_IPC_MSG) {
        return err_set(e, ERR_LIMIT, "message of %zu bytes, at most %d", body.n, LIM_IPC_MSG);
    }
    if (c->out_bytes > LIM_IPC_QUEUE) {
        return err_set(e, ERR_BUSY, "the other process does not read its channel");
    }
    struct buf b = BUF_INIT(HEAD);
    put_head(&b, type, (uint16_t)(flags | (fd >= 0 ? F_FD : 0)), id, body.n);
    struct out *o = mem_zero_alloc(sizeof(*o) + HEAD + body.n);
    memcpy(o->data, b.p, HEAD);
    buf_fini(&b);
    if (body.n) {
        memcpy(o->data + HEAD, body.p, body.n);
    }
    o->n = HEAD + body.n;
    o->fd = TAKE_FD(fd);
    bool idle = list_empty(&c->out);
    c->out_bytes += o->n;
    list_add_tail(&c->out, &o->link);
    if (idle && !flush(c)) {
        loop_before_sleep(c->l, &c->kick, end_later, c);
    }
    return 0;
}

int ipc_send(struct ipc *c, uint16_t type, struct span body, int own_fd, struct err *e) {
    return send_frame(c, type, 0, 0, body, own_fd, e);
}

int ipc_call(struct ipc *c, uint16_t type, struct span body, int own_fd, ipc_reply_cb *done,
             void *ctx, struct err *e) {
    uint64_t id = ++c->next_id;
    bool has_fd = own_fd >= 0;
    int rc = send_frame(c, type, 0, id, body, own_fd, e);
    if (rc < 0) {
        return rc;
    }
    struct call *k = mem_zero_alloc(sizeof(*k) + body.n);
    k->id = id;
    k->done = done;
    k->ctx = ctx;
    k->type = type;
    k->sends = 1;
    k->had_fd = has_fd;
    k->n = body.n;
    if (body.n) {
        memcpy(k->body, body.p, body.n);
    }
    list_add_tail(&c->calls, &k->link);
    return 0;
}

int ipc_reply(struct ipc *c, uint64_t id, struct span body, int own_fd, struct err *e) {
    return send_frame(c, 0, F_REPLY, id, body, own_fd, e);
}

int ipc_reply_err(struct ipc *c, uint64_t id, const struct err *why, struct err *e) {
    AUTO(buf) struct buf b = BUF_INIT(4 + ERR_MSG_MAX);
    buf_le32(&b, (uint32_t)(why && why->code ? why->code : ERR_INTERNAL));
    buf_str(&b, why ? err_public(why) : "");
    return send_frame(c, 0, F_REPLY | F_ERROR, id, buf_view(&b), -1, e);
}

/* ---- receiving ---- */

static int take_fd(struct ipc *c) {
    int fd = c->fds[0];
    memmove(c->fds, c->fds + 1, --c->n_fds * sizeof(int));
    return fd;
}

static void deliver_reply(struct ipc *c, const struct frame *f, struct ipc_msg *m) {
    for (LIST_EACH(at, next, &c->calls)) {
        struct call *k = CONTAINER_OF(at, struct call, link);
        if (k->id != f->id) {
            continue;
        }
        struct err e = ERR_INIT;
        list_del(&k->link);
        if (f->flags & F_ERROR) {
            int rc = error_of(f->body, &e);
            k->done(k->ctx, rc, NULL, &e);
        } else {
            k->done(k->ctx, 0, m, &e);
        }
        free(k);
        return;
    }
}

/* The other process was replaced. Those that cannot be sent again fail first: their callbacks may start new calls, which the
 * successor reads anyway. */
static void send_calls_again(struct ipc *c) {
    struct list again;
    list_init(&again);
    while (!c->ended && !list_empty(&c->calls)) {
        struct call *k = CONTAINER_OF(c->calls.next, struct call, link);
        if (k->had_fd || k->sends >= LIM_SENDS) {
            fail_call(k, ERR_UNAVAILABLE, "the other process was replaced before it answered");
            continue;
        }
        struct err e = ERR_INIT;
        list_del(&k->link);
        k->sends++;
        if (send_frame(c, k->type, 0, k->id, span_of(k->body, k->n), -1, &e) < 0) {
            list_add_tail(&c->calls, &k->link);
            fail_call(k, e.code, e.msg);
        } else {
            list_add_tail(&again, &k->link);
        }
    }
    while (!list_empty(&again)) {
        struct list *at = again.next;
        list_del(at);
        list_add_tail(&c->calls, at);
    }
    if (c->freed) {
        fail_calls(c, ERR_CANCELLED, "channel closed");
    }
}

/* False: malformed. */
static bool deliver(struct ipc *c) {
    struct span rest = buf_view(&c->in);
    struct frame f;
    int rc = 0;
    while (!c->ended && (rc = read_frame(&rest, &f)) == 0) {
        struct ipc_msg m = {.type = f.type, .id = f.id, .body = f.body, .fd = -1};
        if (f.flags & F_FD) {
            if (!c->n_fds) {
                return false;
            }
            m.fd = take_fd(c);
        }
        if (f.flags & F_REPLY) {
            deliver_reply(c, &f, &m);
        } else if (f.type == TYPE_SUCCESSOR) {
            send_calls_again(c);
        } else {
            c->h.on_msg(c, &m, c->h.ctx);
        }
        if (m.fd >= 0) {
            close(m.fd);
        }
    }
    if (!c->ended) {
        buf_drop(&c->in, c->in.n - rest.n);
        if (!c->in.n) {
            buf_fini(&c->in); /* idle channels keep no memory */
            buf_init(&c->in, HEAD + LIM_IPC_MSG);
        }
    }
    return rc != -ERR_INVALID;
}

/* Reads the missing part of a large frame at once, small ones by the page. */
static bool receive(struct ipc *c) {
    struct span s = buf_view(&c->in);
    struct frame f;
    uint32_t len = 0;
    size_t want = 4096;
    if (read_head(&s, &f, &len) == 0 && HEAD + (size_t)len - c->in.n > want) {
        want = HEAD + (size_t)len - c->in.n;
    }
    if (want > c->in.max - c->in.n) {
        want = c->in.max - c->in.n;
    }
    uint8_t *room = buf_room(&c->in, want);
    size_t got = 0, cap = LIM_IPC_FDS - c->n_fds;
    if (!room) {
        return false;
    }
    ssize_t r = recv_part(c->io.fd, room, want, c->fds + c->n_fds, cap, &got, MSG_DONTWAIT);
    c->n_fds += got < cap ? got : cap;
    if (r > 0) {
        buf_added(&c->in, (size_t)r);
    }
    return got <= cap && (r > 0 || (r < 0 && errno == EAGAIN));
}

static void on_io(struct loop_io *io, uint32_t events) {
    struct ipc *c = CONTAINER_OF(io, struct ipc, io);
    bool ok = true;
    c->depth++;
    if (events & LOOP_WRITE) {
        ok = flush(c);
    }
    if (ok && (events & ~(uint32_t)LOOP_WRITE)) {
        ok = receive(c) && deliver(c);
    }
    if (!ok) {
        end(c);
    }
    leave(c);
}

int ipc_new(struct loop *l, int own_fd, const struct ipc_handler *h, struct ipc **ret,
            struct err *e) {
    struct ipc *c = new_zero(struct ipc);
    *c = (struct ipc){.l = l, .h = *h, .io.fd = -1};
    buf_init(&c->in, HEAD + LIM_IPC_MSG);
    list_init(&c->out);
    list_init(&c->calls);
    int rc = loop_io_start(l, &c->io, own_fd, LOOP_READ, on_io, "ipc", e);
    if (rc < 0) {
        close(own_fd);
        free(c);
        return rc;
    }
    *ret = c;
    return 0;
}

int ipc_succeed(struct loop *l, int own_fd, const struct ipc_handler *h, struct ipc **ret,
                struct err *e) {
    uint8_t old[4096];
    int fds[LIM_IPC_FDS];
    size_t n_fds;
    while (recv_part(own_fd, old, sizeof(old), fds, LIM_IPC_FDS, &n_fds, MSG_DONTWAIT) > 0) {
        for (size_t i = 0; i < n_fds && i < LIM_IPC_FDS; i++) {
            close(fds[i]);
        }
    }
    int rc = ipc_new(l, own_fd, h, ret, e);
    return rc < 0 ? rc : ipc_send(*ret, TYPE_SUCCESSOR, SPAN_EMPTY, -1, e);
}

/* ---- blocking ---- */

static int wait_for(int fd, short ev, struct err *e) {
    struct pollfd p = {.fd = fd, .events = ev};
    int r;
    do {
        r = poll(&p, 1, SYNC_MS);
    } while (r < 0 && errno == EINTR);
    return r > 0    ? 0
           : r == 0 ? err_set(e, ERR_TIMEOUT, "no answer in %d s", SYNC_MS / 1000)
                    : err_sys(e, errno, "poll");
}

static int sync_send(int fd, struct span all, int own_fd, struct err *e) {
    AUTO_FD int pass = own_fd;
    while (all.n) {
        int rc = wait_for(fd, POLLOUT, e);
        if (rc < 0) {
            return rc;
        }
        ssize_t r = send_part(fd, all.p, all.n, pass, MSG_DONTWAIT);
        if (r < 0 && errno != EAGAIN) {
            return err_set(e, ERR_UNAVAILABLE, "channel is closed (%s)", err_sys_name(errno));
        }
        if (r > 0) {
            if (pass >= 0) {
                close(TAKE_FD(pass));
            }
            IGNORE_ERR(span_skip(&all, (size_t)r), "never more than was given");
        }
    }
    return 0;
}

/* Exactly n bytes, so that nothing of a later message is swallowed. */
static int sync_recv(int fd, uint8_t *p, size_t n, int *pass, struct err *e) {
    for (size_t at = 0; at < n;) {
        int rc = wait_for(fd, POLLIN, e), got_fd = -1;
        if (rc < 0) {
            return rc;
        }
        size_t n_fds = 0;
        ssize_t r = recv_part(fd, p + at, n - at, &got_fd, 1, &n_fds, MSG_DONTWAIT);
        if (n_fds) {
            if (*pass >= 0) {
                close(got_fd);
            } else {
                *pass = got_fd;
            }
        }
        if (r == 0 || (r < 0 && errno != EAGAIN)) {
            return err_set(e, ERR_UNAVAILABLE, "the other process closed its channel");
        }
        at += r > 0 ? (size_t)r : 0;
    }
    return 0;
}

/* Reads one frame; its head goes to *f, its body to b. */
static int sync_frame(int fd, struct frame *f, struct buf *b, int *pass, struct err *e) {
    uint8_t head[HEAD];
    uint32_t len;
    int rc = sync_recv(fd, head, HEAD, pass, e);
    if (rc < 0) {
        return rc;
    }
    struct span s = span_of(head, HEAD);
    if (read_head(&s, f, &len) < 0) {
        return err_set(e, ERR_INVALID, "malformed message");
    }
    buf_reset(b);
    uint8_t *room = buf_room(b, len);
    if (!room) {
        return err_set(e, ERR_NOMEM, "reply");
    }
    rc = sync_recv(fd, room, len, pass, e);
    if (rc == 0) {
        buf_added(b, len);
    }
    return rc;
}

int ipc_call_sync(int fd, uint16_t type, struct span body, int own_fd, struct buf *ret_body,
                  int *ret_fd, struct err *e) {
    enum { ID = 1 };
    AUTO_FD int out_fd = own_fd, in_fd = -1;
    bool again = out_fd < 0;
    AUTO(buf) struct buf b = BUF_INIT(HEAD + LIM_IPC_MSG), in = BUF_INIT(LIM_IPC_MSG);
    struct frame f;
    int rc;
    put_head(&b, type, out_fd >= 0 ? F_FD : 0, ID, body.n);
    if (buf_span(&b, body) < 0) {
        return err_set(e, ERR_LIMIT, "message of %zu bytes, at most %d", body.n, LIM_IPC_MSG);
    }
    unsigned sends = 0;
    do {
        if (sends++ == LIM_SENDS || (sends > 1 && !again)) {
            return err_set(e, ERR_UNAVAILABLE, "the other process was replaced before it answered");
        }
        rc = sync_send(fd, buf_view(&b), TAKE_FD(out_fd), e);
        rc = rc < 0 ? rc : sync_frame(fd, &f, &in, &in_fd, e);
        if (rc < 0) {
            return rc;
        }
    } while (!(f.flags & F_REPLY) && f.type == TYPE_SUCCESSOR);
    if (!(f.flags & F_REPLY) || f.id != ID) {
        return err_set(e, ERR_INVALID, "unexpected message instead of a reply");
    }
    if (f.flags & F_ERROR) {
        return error_of(buf_view(&in), e);
    }
    if (ret_body && buf_span(ret_body, buf_view(&in)) < 0) {
        return err_set(e, ERR_LIMIT, "reply does not fit its buffer");
    }
    if (ret_fd) {
        *ret_fd = TAKE_FD(in_fd);
    }
    return 0;
}
