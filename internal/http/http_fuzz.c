/* A whole server behind a socket: any bytes, cut anywhere, then the connection ends. */
#include "internal/http/http.h"

#include "internal/t/t.h"

#include <sys/socket.h>
#include <unistd.h>

struct counts {
    size_t opened, closed;
};

static void on_close(struct http_req *r, bool complete, void *ctx) {
    struct counts *c = ctx;
    (void)r;
    (void)complete;
    c->closed++;
}

static void whole(struct http_req *r, int rc, struct span body, void *ctx) {
    (void)ctx;
    if (rc != -ERR_CANCELLED) {
        http_respond(r, rc < 0 ? 413 : 200, NULL, NULL, 0, body);
    }
}

static void part(struct http_req *r, struct span data, bool fin, void *ctx) {
    (void)ctx;
    http_write(r, data);
    http_req_pause(r, data.n % 3 == 1);
    if (fin) {
        http_end(r);
    }
}

static void drained(struct http_req *r, void *ctx) {
    (void)ctx;
    http_req_pause(r, false);
}

static void raw_data(struct http_raw *w, struct span data, void *ctx) {
    (void)ctx;
    http_raw_write(w, data);
    if (data.n % 5 == 4) {
        http_raw_close(w);
    }
}
static void raw_close(struct http_raw *w, void *ctx) {
    (void)w;
    (void)ctx;
}

static void on_request(struct http_req *r, void *ctx) {
    struct counts *c = ctx;
    struct http_raw_cb cb = {raw_data, raw_close, NULL, NULL};
    struct http_raw *w;
    const char *k, *v;
    struct span cursor = http_req_query(r);
    while (http_query_next(r, &cursor, &k, &v)) {
        CHECK(k && v);
    }
    c->opened++;
    http_req_on_close(r, on_close, c);
    switch (http_req_path(r).n % 6) {
    case 0: http_respond(r, 200, "text/plain", NULL, 0, SPAN_LIT("ok")); break;
    case 1: http_req_read_body(r, 100, whole, NULL); break;
    case 2:
        http_begin(r, 200, NULL, NULL, 0);
        http_on_drain(r, drained, NULL);
        http_req_stream_body(r, part, NULL);
        break;
    case 3: http_abort(r); break;
    case 4:
        if (http_upgrade(r, NULL, 0, &cb, &w, NULL) < 0) {
            http_respond(r, 400, NULL, NULL, 0, SPAN_EMPTY);
        }
        break;
    default: break; /* never answered */
    }
}

FUZZ(http_server)(const uint8_t *p, size_t n) {
    struct loop *l;
    struct http_server *s;
    struct counts c = {0};
    struct http_server_opts o = {.handler = {on_request, &c}, .h2c = true, .body_max = 1000};
    int fds[2];
    CHECK(loop_new(&l, NULL) == 0 && http_server_new(l, &o, &s, NULL) == 0);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
    CHECK(http_server_accept_fd(s, fds[0], NULL) == 0);
    for (size_t at = 0; at < n;) {
        char sink[4096];
        size_t k = (p[at] & 63) + 1u;
        ssize_t r = send(fds[1], p + at, k < n - at ? k : n - at, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (r <= 0) {
            break;
        }
        at += (size_t)r;
        CHECK(loop_step(l, 0, NULL) == 0);
        IGNORE_ERR(recv(fds[1], sink, sizeof(sink), MSG_DONTWAIT), "whatever it says");
    }
    if (n && p[0] & 1) {
        shutdown(fds[1], SHUT_WR);
        for (int i = 0; i < 3; i++) {
            CHECK(loop_step(l, 0, NULL) == 0);
        }
    }
    close(fds[1]);
    for (int i = 0; i < 3; i++) {
        CHECK(loop_step(l, 0, NULL) == 0);
    }
    http_server_free(s);
    CHECK(c.opened == c.closed);
    loop_free(l);
    return 0;
}
