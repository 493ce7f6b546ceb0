#include "internal/front/front.h"

#include "internal/base/rand.h"
#include "internal/ipc/ipc.h"
#include "internal/json/json.h"
#include "internal/log/log.h"
#include "internal/superclient/superclient.h"
#include "internal/sys/sys.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LIM_PEEK = 5 + 16384, LIM_WAITING = 1024, LIM_LISTENERS = 8 };
#define HELLO_DEADLINE_NS (10 * NS_PER_S)

struct route {
    int sock;
    char *names[16];
    size_t n_names;
};

struct waiting {
    struct list link; /* oldest first */
    struct front *f;
    struct loop_io io;
    uint64_t deadline_ns;
};

struct listener {
    struct front *f;
    struct loop_io io;
};

struct front {
    struct loop *l;
    struct listener listeners[LIM_LISTENERS];
    struct map routes;  /* scope → route */
    struct map by_name; /* server name → route */
    struct route *fallback;
    struct list waiting;
    size_t n_waiting;
    struct loop_timer deadline;
    uint64_t handed_over, dropped;
};

static void waiting_free(struct waiting *w, bool close_fd) {
    list_del(&w->link);
    w->f->n_waiting--;
    int fd = w->io.fd;
    loop_io_stop(&w->io);
    if (close_fd) {
        sys_close(fd);
    }
    free(w);
}

static void on_deadline(struct loop_timer *t) {
    struct front *f = CONTAINER_OF(t, struct front, deadline);
    while (!list_empty(&f->waiting)) {
        struct waiting *w = CONTAINER_OF(f->waiting.next, struct waiting, link);
        if (w->deadline_ns > loop_now(f->l)) {
            loop_timer_start(f->l, t, w->deadline_ns - loop_now(f->l), on_deadline,
                             "client hello deadline");
            return;
        }
        f->dropped++;
        waiting_free(w, true);
    }
}

static void hand_over(struct front *f, int fd, struct span name) {
    struct err e = ERR_INIT;
    char lower[256];
    struct route *r = NULL;
    if (name.n && name.n < sizeof(lower)) {
        for (size_t i = 0; i < name.n; i++) {
            lower[i] = (char)(name.p[i] >= 'A' && name.p[i] <= 'Z' ? name.p[i] + 32 : name.p[i]);
        }
        r = map_get(&f->by_name, span_of(lower, name.n));
    }
    r = r ? r : f->fallback;
    int one = 1;
    setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &one, sizeof(one));
    int rc = r ? sys_send_fd(r->sock, SPAN_LIT("c"), fd, &e) : -ERR_UNAVAILABLE;
    if (rc < 0) {
        f->dropped++;
        LOG_DEBUG("front", "connection dropped: its API server takes none", F_SPAN("name", name),
                  F_ERR(&e));
    } else {
        f->handed_over++;
    }
    sys_close(fd);
}

static void on_hello(struct loop_io *io, uint32_t events) {
    struct waiting *w = CONTAINER_OF(io, struct waiting, io);
    struct front *f = w->f;
    uint8_t *bytes = mem_zero_alloc(LIM_PEEK);
    struct span name = SPAN_EMPTY;
    size_t need = 0;
    ssize_t n = recv(io->fd, bytes, LIM_PEEK, MSG_PEEK | MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        free(bytes);
        return;
    }
    int rc = n <= 0 ? -ERR_CANCELLED : front_sni(span_of(bytes, (size_t)n), &name, &need);
    if (rc == -ERR_AGAIN && !(events & LOOP_HUP)) {
        /* Wake again only when the rest is there: what was peeked stays readable and would spin the loop. */
        int want = (int)need;
        setsockopt(io->fd, SOL_SOCKET, SO_RCVLOWAT, &want, sizeof(want));
    } else if (rc < 0 && rc != -ERR_INVALID) {
        waiting_free(w, true);
    } else {
        /* Not TLS at all: the API server answers with the alert or the 400 that clients know. */
        int fd = io->fd;
        waiting_free(w, false);
        hand_over(f, fd, name);
    }
    free(bytes);
}

static void on_accept(struct loop_io *io, uint32_t events) {
    (void)events;
    struct listener *ln = CONTAINER_OF(io, struct listener, io);
    struct front *f = ln->f;
    for (int i = 0; i < 64; i++) {
        int fd = accept4(io->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0) {
            return; /* EAGAIN, or a client that left; out of descriptors shows as a growing backlog */
        }
        if (f->n_waiting >= LIM_WAITING) {
            waiting_free(CONTAINER_OF(f->waiting.next, struct waiting, link), true);
            f->dropped++;
        }
        struct waiting *w = new_zero(struct waiting);
        struct err e = ERR_INIT;
        w->f = f;
        w->deadline_ns = loop_now(f->l) + HELLO_DEADLINE_NS;
        list_add_tail(&f->waiting, &w->link);
        f->n_waiting++;
        w->io.fd = fd;
        if (loop_io_start(f->l, &w->io, fd, LOOP_READ, on_hello, "client hello", &e) < 0) {
            LOG_WARN("front", "connection dropped", F_ERR(&e));
            waiting_free(w, true);
            return;
        }
        if (!loop_timer_active(&f->deadline)) {
            loop_timer_start(f->l, &f->deadline, HELLO_DEADLINE_NS, on_deadline,
                             "client hello deadline");
        }
    }
}

static void route_del(struct front *f, const char *scope) {
    struct route *r = map_del_str(&f->routes, scope);
    if (!r) {
        return;
    }
    for (size_t i = 0; i < r->n_names; i++) {
        if (map_get_str(&f->by_name, r->names[i]) == r) {
            map_del_str(&f->by_name, r->names[i]);
        }
        free(r->names[i]);
    }
    f->fallback = f->fallback == r ? NULL : f->fallback;
    sys_close(r->sock);
    free(r);
}

static void on_ctl(struct ipc *c, struct ipc_msg *m, void *ctx) {
    (void)c;
    struct front *f = ctx;
    struct err e = ERR_INIT;
    AUTO(json_docp) struct json_doc *d = NULL;
    const char *scope = NULL;
    if (json_parse(m->body, 0, &d, &e) < 0 || !(scope = json_str_at(json_root(d), "scope"))) {
        LOG_ERROR("front", "bad message from the supervisor", F_ERR(&e));
        return;
    }
    route_del(f, scope);
    if (m->type != FRONT_ROUTE || m->fd < 0) {
        return;
    }
    struct route *r = new_zero(struct route);
    r->sock = TAKE_FD(m->fd);
    map_put_str(&f->routes, scope, r);
    JSON_EACH(it, x, json_get(json_root(d), "names")) {
        if (json_str(x) && r->n_names < ARRAY_LEN(r->names)) {
            r->names[r->n_names] = str_dup(json_str(x));
            map_put_str(&f->by_name, r->names[r->n_names++], r);
        }
    }
    if (json_bool_at(json_root(d), false, "default")) {
        f->fallback = r;
    }
}

static void on_ctl_close(struct ipc *c, void *ctx) {
    (void)c;
    struct front *f = ctx;
    loop_stop(f->l);
}

int front_run(struct loop *l, const int *own_listen_fds, size_t n, int own_ctl_fd, struct err *e) {
    struct front f = {.l = l, .routes = MAP_INIT, .by_name = MAP_INIT};
    struct ipc *ctl = NULL;
    const struct ipc_handler h = {on_ctl, on_ctl_close, &f};
    CHECK(n <= LIM_LISTENERS);
    list_init(&f.waiting);
    int rc = ipc_new(l, own_ctl_fd, &h, &ctl, e);
    for (size_t i = 0; i < n && rc == 0; i++) {
        f.listeners[i].f = &f;
        rc = loop_io_start(l, &f.listeners[i].io, own_listen_fds[i], LOOP_READ, on_accept,
                           "front listener", e);
    }
    rc = rc < 0 ? rc : loop_run(l, e);
    for (size_t i = 0; i < n; i++) {
        loop_io_stop(&f.listeners[i].io);
        sys_close(own_listen_fds[i]);
    }
    loop_timer_stop(&f.deadline);
    while (!list_empty(&f.waiting)) {
        waiting_free(CONTAINER_OF(f.waiting.next, struct waiting, link), true);
    }
    struct map_iter it = {0};
    for (struct map_entry *en; map_next(&f.routes, &it, &en);) {
        route_del(&f, en->key);
    }
    map_fini(&f.routes);
    map_fini(&f.by_name);
    ipc_free(ctl);
    return rc;
}
