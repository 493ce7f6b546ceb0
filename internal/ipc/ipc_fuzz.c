/* A peer process that sends anything: the channel delivers whole messages or ends. */
#include "internal/ipc/ipc.h"

#include "internal/t/t.h"

#include <sys/socket.h>
#include <unistd.h>

struct seen {
    size_t messages, bytes, closes;
};

static void on_msg(struct ipc *c, struct ipc_msg *m, void *ctx) {
    struct seen *s = ctx;
    s->messages++;
    s->bytes += m->body.n;
    CHECK(m->body.n <= LIM_IPC_MSG);
    if (m->id) {
        IGNORE_ERR(ipc_reply(c, m->id, m->body, -1, NULL), "must only survive");
    }
}

static void on_close(struct ipc *c, void *ctx) {
    struct seen *s = ctx;
    (void)c;
    s->closes++;
}

static void replied(void *ctx, int rc, struct ipc_msg *m, const struct err *e) {
    (void)rc;
    (void)m;
    (void)e;
    ++*(unsigned *)ctx;
}

FUZZ(ipc_frames)(const uint8_t *p, size_t n) {
    struct loop *l;
    struct ipc *c;
    struct seen s = {0};
    unsigned replies = 0;
    int fds[2];
    CHECK(loop_new(&l, NULL) == 0 && ipc_pair(fds, NULL) == 0);
    struct ipc_handler h = {on_msg, on_close, &s};
    CHECK(ipc_new(l, fds[0], &h, &c, NULL) == 0);
    CHECK(ipc_call(c, 7, SPAN_LIT("?"), -1, replied, &replies, NULL) == 0);
    for (size_t at = 0; at < n;) {
        size_t part = (p[at] & 31) + 1u;
        ssize_t r =
            send(fds[1], p + at, part < n - at ? part : n - at, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (r <= 0) {
            break;
        }
        at += (size_t)r;
        CHECK(loop_step(l, 0, NULL) == 0);
    }
    close(fds[1]);
    for (int i = 0; i < 4 && !s.closes; i++) {
        CHECK(loop_step(l, 0, NULL) == 0);
    }
    CHECK(s.closes == 1 && s.bytes <= n);
    ipc_free(c);
    CHECK(replies == 1);
    loop_free(l);
    return 0;
}
