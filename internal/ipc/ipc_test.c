#include "internal/ipc/ipc.h"

#include "internal/t/t.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

struct side {
    struct loop *l;
    struct ipc *c;
    unsigned n_msgs, n_closes, n_replies;
    int last_rc;
    size_t last_n;
    bool free_on_msg, free_on_close;
};

static void echo(struct ipc *c, struct ipc_msg *m, void *ctx) {
    struct side *s = ctx;
    struct err e = ERR_INIT;
    s->n_msgs++;
    s->last_n = m->body.n;
    if (s->free_on_msg) {
        ipc_free(TAKE(s->c));
        return;
    }
    if (m->type == 9) {
        struct err why = ERR_INIT;
        err_set(&why, ERR_FORBIDDEN, "no");
        ASSERT_OK(ipc_reply_err(c, m->id, &why, &e), &e);
    } else if (m->id) {
        ASSERT_OK(ipc_reply(c, m->id, m->body, TAKE_FD(m->fd), &e), &e);
    }
}

static void closed(struct ipc *c, void *ctx) {
    struct side *s = ctx;
    s->n_closes++;
    if (s->free_on_close) {
        ipc_free(c);
        s->c = NULL;
    }
    loop_stop(s->l);
}

static void replied(void *ctx, int rc, struct ipc_msg *m, const struct err *e) {
    struct side *s = ctx;
    ASSERT(rc == 0 || e->code == (enum err_code) - rc);
    s->n_replies++;
    s->last_rc = rc;
    s->last_n = m ? m->body.n : 0;
    if (m && m->fd >= 0) {
        ASSERT(fcntl(m->fd, F_GETFD) & FD_CLOEXEC);
        ASSERT_EQ(5, write(m->fd, "hello", 5));
    }
}

static void open_pair(struct side *a, struct side *b) {
    struct err e = ERR_INIT;
    struct loop *l;
    int fds[2];
    ASSERT_OK(loop_new(&l, &e), &e);
    ASSERT_OK(ipc_pair(fds, &e), &e);
    *a = *b = (struct side){.l = l};
    ASSERT_OK(ipc_new(l, fds[0], &(struct ipc_handler){echo, closed, a}, &a->c, &e), &e);
    ASSERT_OK(ipc_new(l, fds[1], &(struct ipc_handler){echo, closed, b}, &b->c, &e), &e);
}

static void close_pair(struct side *a, struct side *b) {
    ipc_free(a->c);
    ipc_free(b->c);
    loop_free(a->l);
}

static void turn(struct side *s, unsigned *counter, unsigned want) {
    for (int i = 0; i < 10000 && *counter < want; i++) {
        struct err e = ERR_INIT;
        ASSERT_OK(loop_step(s->l, 1000000, &e), &e);
    }
    ASSERT_EQ(want, *counter);
}

TEST(ipc, calls_replies_and_errors) {
    struct side a, b;
    struct err e = ERR_INIT;
    open_pair(&a, &b);
    ASSERT_OK(ipc_call(a.c, 1, SPAN_LIT("hi"), -1, replied, &a, &e), &e);
    ASSERT_EQ(0, a.n_replies);
    turn(&a, &a.n_replies, 1);
    ASSERT_EQ(0, a.last_rc);
    ASSERT_EQ(2, a.last_n);
    ASSERT_OK(ipc_call(a.c, 9, SPAN_EMPTY, -1, replied, &a, &e), &e);
    turn(&a, &a.n_replies, 2);
    ASSERT_EQ(-ERR_FORBIDDEN, a.last_rc);
    ASSERT_OK(ipc_send(b.c, 2, SPAN_LIT("one way"), -1, &e), &e);
    turn(&a, &a.n_msgs, 1);
    ASSERT_EQ(7, a.last_n);
    close_pair(&a, &b);
}

TEST(ipc, large_messages_and_limits) {
    struct side a, b;
    struct err e = ERR_INIT;
    open_pair(&a, &b);
    uint8_t *big = mem_zero_alloc(LIM_IPC_MSG + 1);
    for (int i = 0; i < 20; i++) {
        ASSERT_OK(ipc_call(a.c, 1, span_of(big, LIM_IPC_MSG), -1, replied, &a, &e), &e);
    }
    turn(&a, &a.n_replies, 20);
    ASSERT_EQ(LIM_IPC_MSG, a.last_n);
    ASSERT_ERR(-ERR_LIMIT, ipc_send(a.c, 1, span_of(big, LIM_IPC_MSG + 1), -1, NULL));
    int rc = 0;
    for (int i = 0; i < 1000 && rc == 0; i++) { /* nobody reads */
        rc = ipc_send(a.c, 1, span_of(big, LIM_IPC_MSG), -1, NULL);
    }
    ASSERT_EQ(-ERR_BUSY, rc);
    free(big);
    close_pair(&a, &b);
}

TEST(ipc, descriptors_travel_in_order) {
    struct side a, b;
    struct err e = ERR_INIT;
    open_pair(&a, &b);
    int p[10][2];
    for (int i = 0; i < 10; i++) {
        ASSERT_EQ(0, pipe2(p[i], O_CLOEXEC));
        ASSERT_OK(ipc_call(a.c, 1, SPAN_LIT("x"), TAKE_FD(p[i][1]), replied, &a, &e), &e);
        ASSERT_OK(ipc_call(a.c, 1, SPAN_LIT("no fd"), -1, replied, &a, &e), &e);
    }
    turn(&a, &a.n_replies, 20);
    for (int i = 0; i < 10; i++) {
        char text[8];
        ASSERT_EQ(5, read(p[i][0], text, sizeof(text)));
        ASSERT_EQ(0, read(p[i][0], text, sizeof(text))); /* no copy was left open */
        close(p[i][0]);
    }
    close_pair(&a, &b);
}

TEST(ipc, peer_gone) {
    struct side a, b;
    struct err e = ERR_INIT;
    open_pair(&a, &b);
    a.free_on_close = true;
    ASSERT_OK(ipc_call(a.c, 1, SPAN_LIT("hi"), -1, replied, &a, &e), &e);
    ipc_free(TAKE(b.c));
    turn(&a, &a.n_closes, 1);
    ASSERT_EQ(1, a.n_replies);
    ASSERT_EQ(-ERR_UNAVAILABLE, a.last_rc);
    close_pair(&a, &b);
}

/* The other side read one request and half of the next, and died; its socket was kept open for a successor. */
static void die_after(int fd, size_t n) {
    uint8_t some[64];
    ASSERT(n <= sizeof(some));
    ASSERT_EQ(n, recv(fd, some, n, 0));
}

TEST(ipc, calls_under_way_are_sent_again_to_a_successor) {
    struct side a = {0}, b = {0};
    struct err e = ERR_INIT;
    int fds[2];
    ASSERT_OK(loop_new(&a.l, &e), &e);
    b.l = a.l;
    ASSERT_OK(ipc_pair(fds, &e), &e);
    ASSERT_OK(ipc_new(a.l, fds[0], &(struct ipc_handler){echo, closed, &a}, &a.c, &e), &e);
    ASSERT_OK(ipc_call(a.c, 1, SPAN_LIT("one"), -1, replied, &a, &e), &e);
    ASSERT_OK(ipc_call(a.c, 1, SPAN_LIT("two"), -1, replied, &a, &e), &e);
    die_after(fds[1], 16 + 3 + 7);
    ASSERT_OK(ipc_succeed(b.l, fds[1], &(struct ipc_handler){echo, closed, &b}, &b.c, &e), &e);
    ASSERT_OK(ipc_call(a.c, 1, SPAN_LIT("three"), -1, replied, &a, &e),
              &e); /* before a heard of it */
    turn(&a, &a.n_replies, 3);
    ASSERT_EQ(0, a.last_rc);
    for (int i = 0; i < 10; i++) { /* the second answer to the third goes nowhere */
        ASSERT_OK(loop_step(a.l, 1000000, &e), &e);
    }
    ASSERT_EQ(3, a.n_replies);
    ASSERT_EQ(4, b.n_msgs);
    ASSERT_EQ(0, a.n_msgs + a.n_closes);
    close_pair(&a, &b);
}

TEST(ipc, a_call_that_kills_every_successor_fails) {
    struct side a = {0};
    struct err e = ERR_INIT;
    int fds[2], keep;
    unsigned killed = 0;
    ASSERT_OK(loop_new(&a.l, &e), &e);
    ASSERT_OK(ipc_pair(fds, &e), &e);
    ASSERT_OK(ipc_new(a.l, fds[0], &(struct ipc_handler){echo, closed, &a}, &a.c, &e), &e);
    ASSERT_OK(ipc_call(a.c, 1, SPAN_LIT("poison"), -1, replied, &a, &e), &e);
    while (!a.n_replies && killed < 10) {
        struct side b = {.l = a.l};
        ASSERT((keep = fcntl(fds[1], F_DUPFD_CLOEXEC, 3)) >= 0);
        ASSERT_OK(ipc_succeed(a.l, fds[1], &(struct ipc_handler){echo, closed, &b}, &b.c, &e), &e);
        ipc_free(b.c);
        ASSERT_OK(loop_step(a.l, 1000000, &e), &e);
        fds[1] = keep;
        killed++;
    }
    ASSERT_EQ(3, killed);
    ASSERT_EQ(-ERR_UNAVAILABLE, a.last_rc);
    ipc_free(a.c);
    close(fds[1]);
    loop_free(a.l);
}

TEST(ipc, freed_inside_its_callback) {
    struct side a, b;
    struct err e = ERR_INIT;
    open_pair(&a, &b);
    b.free_on_msg = true;
    ASSERT_OK(ipc_call(a.c, 1, SPAN_LIT("1"), -1, replied, &a, &e), &e);
    ASSERT_OK(ipc_call(a.c, 1, SPAN_LIT("2"), -1, replied, &a, &e), &e);
    turn(&a, &a.n_closes, 1);
    ASSERT_EQ(1, b.n_msgs);
    ASSERT_EQ(2, a.n_replies);
    ipc_free(TAKE(a.c));
    close_pair(&a, &b);
}

TEST(ipc, malformed_frames_end_the_channel) {
    static const char *const bad[] = {
        "\x01\x00\x08\x00\x00\x00\x00\x00"
        "\x00\x00\x00\x00\x00\x00\x00\x00", /* unknown flag */
        "\x01\x00\x00\x00\xff\xff\xff\x7f"
        "\x00\x00\x00\x00\x00\x00\x00\x00", /* too long */
        "\x01\x00\x04\x00\x00\x00\x00\x00"
        "\x00\x00\x00\x00\x00\x00\x00\x00", /* no descriptor came */
        "\x01\x00\x02\x00\x00\x00\x00\x00"
        "\x01\x00\x00\x00\x00\x00\x00\x00", /* error, no reply */
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct err e = ERR_INIT;
        struct side a = {0};
        int fds[2];
        ASSERT_OK(loop_new(&a.l, &e), &e);
        ASSERT_OK(ipc_pair(fds, &e), &e);
        ASSERT_OK(ipc_new(a.l, fds[0], &(struct ipc_handler){echo, closed, &a}, &a.c, &e), &e);
        for (size_t n = 0; n < 16; n++) { /* byte by byte */
            ASSERT_EQ(1, send(fds[1], bad[i] + n, 1, 0));
            ASSERT_OK(loop_step(a.l, 0, &e), &e);
        }
        turn(&a, &a.n_closes, 1);
        ASSERT_EQ(0, a.n_msgs);
        ipc_free(a.c);
        close(fds[1]);
        loop_free(a.l);
    }
}

TEST(ipc, blocking_call) {
    struct err e = ERR_INIT;
    int fds[2];
    ASSERT_OK(ipc_pair(fds, &e), &e);
    pid_t child = fork();
    if (child == 0) {
        struct side s = {0};
        close(fds[0]);
        if (loop_new(&s.l, &e) < 0 ||
            ipc_new(s.l, fds[1], &(struct ipc_handler){echo, closed, &s}, &s.c, &e) < 0 ||
            loop_run(s.l, &e) < 0) {
            _exit(1);
        }
        _exit(0);
    }
    close(fds[1]);
    AUTO(buf) struct buf body = BUF_INIT(LIM_IPC_MSG);
    int p[2], back = -1, status = 0;
    ASSERT_EQ(0, pipe2(p, O_CLOEXEC));
    ASSERT_OK(ipc_call_sync(fds[0], 1, SPAN_LIT("ping"), p[1], &body, &back, &e), &e);
    ASSERT_STREQ("ping", buf_cstr(&body));
    ASSERT(back >= 0);
    close(back);
    close(p[0]);
    ASSERT_ERR(-ERR_FORBIDDEN, ipc_call_sync(fds[0], 9, SPAN_EMPTY, -1, &body, NULL, &e));
    close(fds[0]);
    waitpid(child, &status, 0);
    ASSERT_EQ(0, status);
}

TEST(ipc, blocking_call_reaches_a_successor) {
    struct err e = ERR_INIT;
    int fds[2], status = 0;
    ASSERT_OK(ipc_pair(fds, &e), &e);
    pid_t child = fork();
    if (child == 0) {
        struct side s = {0};
        uint8_t some[5];
        close(fds[0]);
        if (loop_new(&s.l, &e) < 0 || recv(fds[1], some, sizeof(some), 0) != sizeof(some) ||
            ipc_succeed(s.l, fds[1], &(struct ipc_handler){echo, closed, &s}, &s.c, &e) < 0 ||
            loop_run(s.l, &e) < 0) {
            _exit(1);
        }
        _exit(s.n_msgs == 1 ? 0 : 2);
    }
    close(fds[1]);
    AUTO(buf) struct buf body = BUF_INIT(LIM_IPC_MSG);
    ASSERT_OK(ipc_call_sync(fds[0], 1, SPAN_LIT("ping"), -1, &body, NULL, &e), &e);
    ASSERT_STREQ("ping", buf_cstr(&body));
    close(fds[0]);
    waitpid(child, &status, 0);
    ASSERT_EQ(0, status);
}
