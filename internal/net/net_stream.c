#include "internal/net/net_int.h"

#include "internal/base/rand.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/sendfile.h>
#include <sys/uio.h>
#include <unistd.h>

enum { IOVS = 32, FILE_PIECE = 1 << 20, PLAIN_PIECE = 12 * 1024, FLUSH_MAX = 4 << 20 };

enum state { S_CONNECTING, S_HANDSHAKE, S_OPEN, S_FINISHING, S_LINGER, S_DEAD };

struct net_stream {
    struct loop *l;
    struct loop_io io;
    struct loop_hook hook;
    struct loop_timer timer; /* stall while output waits; linger */
    struct list home;
    struct net_filter *f;
    const struct net_cb *cb;
    void *ctx;
    struct net_queue out;
    enum state st;
    unsigned depth;
    uint32_t filter_want; /* what the filter waits for besides reading */
    bool want_read, eof, blocked, hup;
    bool look; /* something may be readable that epoll does not report */
    uint64_t stalled_bytes;
};

static void run(struct net_stream *s, uint32_t ev);

/* ---- life ---- */

static void free_stream(struct net_stream *s) {
    if (s->f) {
        s->f->ops->free(s->f);
    }
    net_queue_fini(&s->out);
    free(s);
}

static void leave(struct net_stream *s) {
    if (--s->depth == 0 && s->st == S_DEAD) {
        free_stream(s);
    }
}

void net_close(struct net_stream *s) {
    if (!s || s->st == S_DEAD) {
        return;
    }
    s->st = S_DEAD;
    loop_io_stop(&s->io);
    loop_hook_cancel(&s->hook);
    loop_timer_stop(&s->timer);
    list_del(&s->home);
    close(s->io.fd);
    if (!s->depth) {
        free_stream(s);
    }
}

static void fail(struct net_stream *s, int rc, const struct err *e) {
    if (s->st == S_DEAD) {
        return;
    }
    if (s->st >= S_FINISHING) {
        net_close(s);
        return;
    }
    loop_io_stop(&s->io);
    loop_hook_cancel(&s->hook);
    loop_timer_stop(&s->timer);
    s->cb->on_fail(s, rc, e, s->ctx);
}

/* What epoll should report. A peer that hung up while nobody reads would be reported again and again: such a stream leaves
 * epoll and goes on when reading is wanted. */
static void update(struct net_stream *s) {
    if (s->st == S_DEAD || !s->io.l) {
        return;
    }
    uint32_t ev = s->filter_want;
    if (s->st == S_CONNECTING || s->blocked) {
        ev |= LOOP_WRITE;
    }
    if ((s->want_read && !s->eof && s->st >= S_OPEN) || s->st == S_LINGER) {
        ev |= LOOP_READ;
    }
    loop_io_set(&s->io, ev);
}

static void on_hook(void *ctx) {
    struct net_stream *s = ctx;
    uint32_t ev = LOOP_WRITE | (s->look ? LOOP_READ : 0);
    s->look = false;
    s->depth++;
    run(s, ev);
    leave(s);
}

void net_kick(struct net_stream *s) {
    if (s->st != S_DEAD && s->st >= S_OPEN) {
        loop_before_sleep(s->l, &s->hook, on_hook, s);
    }
}

void net_flush(struct net_stream *s) {
    if (s->st != S_DEAD && s->st >= S_OPEN) {
        s->depth++;
        run(s, LOOP_WRITE);
        leave(s);
    }
}

static void on_stall(struct loop_timer *t) {
    struct net_stream *s = CONTAINER_OF(t, struct net_stream, timer);
    struct err e = ERR_INIT;
    s->depth++;
    if (s->st == S_LINGER) {
        net_close(s);
    } else if (s->blocked) {
        int rc = err_set(&e, ERR_TIMEOUT, "the peer takes no data");
        fail(s, rc, &e);
    }
    leave(s);
}

/* ---- output ---- */

static ssize_t sys_rc(ssize_t r) {
    if (r >= 0) {
        return r;
    }
    return errno == EAGAIN || errno == EINTR ? -ERR_AGAIN : -ERR_IO;
}

static ssize_t write_plain(struct net_stream *s) {
    struct net_chunk *first = CONTAINER_OF(s->out.chunks.next, struct net_chunk, link);
    if (first->fd >= 0) {
        off_t at = (off_t)first->file_at;
        size_t n = first->file_n < FILE_PIECE ? (size_t)first->file_n : FILE_PIECE;
        ssize_t r = sendfile(s->io.fd, first->fd, &at, n);
        return r == 0 ? -ERR_IO : sys_rc(r); /* 0: the file is shorter than promised */
    }
    struct iovec iov[IOVS];
    size_t n = 0;
    bool more = false;
    for (LIST_EACH(at, next, &s->out.chunks)) {
        struct net_chunk *c = CONTAINER_OF(at, struct net_chunk, link);
        more = c->fd >= 0;
        if (more || n == IOVS) {
            break;
        }
        struct span m = net_chunk_mem(c);
        iov[n++] = (struct iovec){.iov_base = (void *)(uintptr_t)m.p, .iov_len = m.n};
    }
    struct msghdr m = {.msg_iov = iov};
    m.msg_iovlen = (__typeof__(m.msg_iovlen))n; /* int in musl, size_t in glibc */
    return sys_rc(sendmsg(s->io.fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT | (more ? MSG_MORE : 0)));
}

/* A filter makes a record, a tag and a system call of each piece: small ones are given to it together. */
static ssize_t write_filtered(struct net_stream *s, struct err *e) {
    struct net_chunk *c = CONTAINER_OF(s->out.chunks.next, struct net_chunk, link);
    uint8_t piece[PLAIN_PIECE];
    struct span m;
    if (c->fd >= 0) {
        size_t n = c->file_n < sizeof(piece) ? (size_t)c->file_n : sizeof(piece);
        ssize_t r = pread(c->fd, piece, n, (off_t)c->file_at);
        if (r <= 0) {
            return -ERR_IO;
        }
        m = span_of(piece, (size_t)r);
    } else {
        m = net_queue_front(&s->out, piece, sizeof(piece));
    }
    return s->f->ops->write(s->f, s->io.fd, m.p, m.n, &s->filter_want, e);
}

/* 0: all is out, -ERR_AGAIN, or broken. */
static int flush(struct net_stream *s, struct err *e) {
    size_t budget = FLUSH_MAX;
    s->filter_want = 0;
    s->blocked = false;
    if (s->f && s->f->ops->held(s->f)) {
        int rc = s->f->ops->flush(s->f, s->io.fd, &s->filter_want, e);
        if (rc < 0) {
            s->blocked = rc == -ERR_AGAIN;
            return rc;
        }
    }
    while (s->out.bytes) {
        ssize_t r = s->f ? write_filtered(s, e) : write_plain(s);
        if (r < 0) {
            s->blocked = r == -ERR_AGAIN;
            if (r == -ERR_IO && e->code == ERR_OK) {
                return err_set(e, ERR_UNAVAILABLE, "sending: %s", err_sys_name(errno));
            }
            return (int)r;
        }
        net_queue_skip(&s->out, (size_t)r);
        if (s->f && s->f->ops->held(s->f)) {
            s->blocked = true;
            s->filter_want = LOOP_WRITE;
            return -ERR_AGAIN;
        }
        if ((size_t)r >= budget) { /* others want a turn */
            s->blocked = true;
            return -ERR_AGAIN;
        }
        budget -= (size_t)r;
    }
    return 0;
}

static void finish_now(struct net_stream *s) {
    if (s->f) {
        s->f->ops->bye(s->f, s->io.fd);
    }
    if (s->eof || s->hup || shutdown(s->io.fd, SHUT_WR) < 0) {
        net_close(s);
        return;
    }
    s->st = S_LINGER;
    loop_timer_start(s->l, &s->timer, LIM_NET_LINGER_MS * NS_PER_MS, on_stall, "net linger");
}

/* Watches that a blocked peer moves on. */
static void watch_stall(struct net_stream *s) {
    if (!s->blocked) {
        loop_timer_stop(&s->timer);
    } else if (!loop_timer_active(&s->timer) || s->stalled_bytes != s->out.bytes) {
        s->stalled_bytes = s->out.bytes;
        loop_timer_start(s->l, &s->timer, LIM_NET_STALL_MS * NS_PER_MS, on_stall, "net stall");
    }
}

static void write_out(struct net_stream *s) {
    struct err e = ERR_INIT;
    bool had = s->out.bytes > 0 || s->blocked;
    if (!had && s->st == S_OPEN) {
        return;
    }
    int rc = flush(s, &e);
    if (rc < 0 && rc != -ERR_AGAIN) {
        fail(s, rc, &e);
        return;
    }
    watch_stall(s);
    if (rc < 0) {
        return;
    }
    if (s->st == S_FINISHING) {
        finish_now(s);
    } else if (had && s->cb->on_drain) {
        s->cb->on_drain(s, s->ctx);
    }
}

/* ---- events ---- */

static void discard(struct net_stream *s) {
    uint8_t sink[4096];
    for (int i = 0; i < 16; i++) {
        ssize_t r = recv(s->io.fd, sink, sizeof(sink), MSG_DONTWAIT);
        if (r == 0 || (r < 0 && errno != EAGAIN && errno != EINTR)) {
            net_close(s);
            return;
        }
        if (r < 0) {
            return;
        }
    }
}

static void open_now(struct net_stream *s) {
    s->st = S_OPEN;
    s->filter_want = 0;
    s->cb->on_open(s, s->ctx);
    if (s->st >= S_OPEN && s->st != S_DEAD) {
        s->look = s->f != NULL; /* it may have read ahead */
        net_kick(s);            /* what on_open queued */
    }
}

static void advance_handshake(struct net_stream *s) {
    struct err e = ERR_INIT;
    s->filter_want = 0;
    int rc = s->f->ops->handshake(s->f, s->io.fd, &s->filter_want, &e);
    if (rc == 0) {
        open_now(s);
    } else if (rc == -ERR_UNAUTHENTICATED) {
        /* The filter has said why. The stream stays in the loop, so that net_finish can let the peer read it: closing
         * with unread input would reset the connection and lose the message. */
        s->st = S_OPEN;
        s->want_read = false;
        s->cb->on_fail(s, rc, &e, s->ctx);
    } else if (rc != -ERR_AGAIN) {
        fail(s, rc, &e);
    }
}

static void connected(struct net_stream *s) {
    struct err e = ERR_INIT;
    int why = 0;
    socklen_t n = sizeof(why);
    if (getsockopt(s->io.fd, SOL_SOCKET, SO_ERROR, &why, &n) < 0) {
        why = errno;
    }
    if (why) {
        int rc = err_set(&e, ERR_UNAVAILABLE, "connecting: %s", err_sys_name(why));
        fail(s, rc, &e);
        return;
    }
    if (s->f) {
        s->st = S_HANDSHAKE;
        advance_handshake(s);
    } else {
        open_now(s);
    }
}

static void run_open(struct net_stream *s, uint32_t ev) {
    write_out(s);
    if (s->st == S_LINGER) {
        discard(s);
        return;
    }
    if (s->st != S_OPEN || !(ev & (LOOP_READ | LOOP_HUP | EPOLLERR))) {
        return;
    }
    if (s->want_read && !s->eof) {
        s->cb->on_readable(s, s->ctx);
        bool more = s->hup || (s->f && s->f->ops->readable(s->f));
        if (s->st == S_OPEN && s->want_read && !s->eof && more) {
            s->look = true; /* epoll will not report it */
            net_kick(s);
        }
    }
}

static void run(struct net_stream *s, uint32_t ev) {
    switch (s->st) {
    case S_CONNECTING:
        if (ev & (LOOP_WRITE | LOOP_HUP | EPOLLERR)) {
            connected(s);
        }
        break;
    case S_HANDSHAKE: advance_handshake(s); break;
    case S_OPEN:
    case S_FINISHING:
    case S_LINGER: run_open(s, ev); break;
    case S_DEAD: break;
    }
    update(s);
}

static void on_io(struct loop_io *io, uint32_t ev) {
    struct net_stream *s = CONTAINER_OF(io, struct net_stream, io);
    s->depth++;
    if ((ev & (LOOP_HUP | EPOLLERR)) && s->st == S_OPEN) {
        if (s->eof) {
            struct err e = ERR_INIT;
            int rc = err_set(&e, ERR_UNAVAILABLE, "the peer closed the connection");
            fail(s, rc, &e);
            leave(s);
            return;
        }
        if (!s->want_read) {
            s->hup = true;
            loop_io_stop(&s->io);
        }
    } else if ((ev & (LOOP_HUP | EPOLLERR)) && s->st > S_OPEN && s->eof) {
        net_close(s);
    }
    run(s, ev);
    leave(s);
}

/* ---- the face ---- */

static int start(struct loop *l, int own_fd, enum state st, struct net_filter *f,
                 const struct net_cb *cb, void *ctx, struct net_stream **ret, struct err *e) {
    struct net_stream *s = new_zero(struct net_stream);
    *s = (struct net_stream){.l = l, .f = f, .cb = cb, .ctx = ctx, .st = st, .want_read = true};
    list_init(&s->home);
    net_queue_init(&s->out, loop_pool(l));
    int rc = fcntl(own_fd, F_SETFL, O_NONBLOCK) < 0 ? err_sys(e, errno, "stream") : 0;
    rc = rc < 0 ? rc : loop_io_start(l, &s->io, own_fd, LOOP_WRITE, on_io, "stream", e);
    if (rc < 0) {
        close(own_fd);
        free_stream(s);
        return rc;
    }
    *ret = s;
    return 0;
}

/* An accepted socket is writable at once, which takes it through "connecting" in the loop and not here. */
int net_stream_new(struct loop *l, int own_fd, struct net_filter *own_f, const struct net_cb *cb,
                   void *ctx, struct net_stream **ret, struct err *e) {
    return start(l, own_fd, S_CONNECTING, own_f, cb, ctx, ret, e);
}

int net_connect(struct loop *l, const struct sockaddr *a, socklen_t n, struct net_filter *own_f,
                const struct net_cb *cb, void *ctx, struct net_stream **ret, struct err *e) {
    int fd = socket(a->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), rc;
    if (fd < 0) {
        rc = err_sys(e, errno, "socket");
    } else {
        net_tune(fd);
        if (connect(fd, a, n) == 0 || errno == EINPROGRESS) {
            return start(l, fd, S_CONNECTING, own_f, cb, ctx, ret, e);
        }
        rc = err_set(e, ERR_UNAVAILABLE, "connecting: %s", err_sys_name(errno));
        close(fd);
    }
    if (own_f) {
        own_f->ops->free(own_f);
    }
    return rc;
}

void net_finish(struct net_stream *s, struct list *home) {
    static const struct net_cb none = {0};
    if (!s || s->st == S_DEAD) {
        return;
    }
    if (s->st < S_OPEN || !s->io.l) { /* nothing was said yet, or it broke */
        net_close(s);
        return;
    }
    s->cb = &none;
    s->st = S_FINISHING;
    list_add_tail(home, &s->home);
    loop_before_sleep(s->l, &s->hook, on_hook, s);
}

void net_close_all(struct list *home) {
    while (!list_empty(home)) {
        net_close(CONTAINER_OF(home->next, struct net_stream, home));
    }
}

void net_set_cb(struct net_stream *s, const struct net_cb *cb, void *ctx) {
    s->cb = cb;
    s->ctx = ctx;
}

ssize_t net_read(struct net_stream *s, uint8_t *p, size_t n, struct err *e) {
    if (s->eof) {
        return 0;
    }
    ssize_t r;
    uint32_t want = 0;
    if (s->f) {
        r = s->f->ops->read(s->f, s->io.fd, p, n, &want, e);
        if (r == -ERR_AGAIN) {
            s->filter_want |= want & ~(uint32_t)LOOP_READ;
        }
    } else {
        do {
            r = recv(s->io.fd, p, n, MSG_DONTWAIT);
        } while (r < 0 && errno == EINTR);
        if (r < 0) {
            r = errno == EAGAIN ? -ERR_AGAIN
                                : err_set(e, ERR_UNAVAILABLE, "receiving: %s", err_sys_name(errno));
        }
    }
    s->eof = r == 0;
    return r;
}

void net_want_read(struct net_stream *s, bool on) {
    if (s->want_read == on || s->st == S_DEAD) {
        return;
    }
    s->want_read = on;
    if (on) {
        s->look = true; /* the filter may hold bytes, the peer may have hung up */
        net_kick(s);
    }
    if (!s->depth) {
        update(s);
    }
}

void net_send(struct net_stream *s, struct span data) {
    net_queue_add(&s->out, data);
    net_kick(s);
}

void net_prefetch(const struct net_stream *s) {
    mem_prefetch(s, sizeof(*s));
}

struct net_queue *net_out(struct net_stream *s) {
    return &s->out;
}

size_t net_pending(const struct net_stream *s) {
    return s->out.bytes + (s->f && s->f->ops->held(s->f) ? 1 : 0);
}

struct net_filter *net_filter_of(const struct net_stream *s) {
    return s->f;
}
