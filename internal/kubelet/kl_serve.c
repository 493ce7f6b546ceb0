/* The kubelet's own server: logs, health, and the way to exec, attach and port-forward through the runtime's streams.
 *   GET  /containerLogs/<ns>/<pod>/<container>?follow&previous&tailLines&timestamps&sinceSeconds&sinceTime&limitBytes
 *   *    /exec|attach/<ns>/<pod>/<container>?…   /portForward/<ns>/<pod>
 * TLS demands a client certificate; only the API server's kubelet client and cluster administrators are served. */
#include "internal/kubelet/kl_int.h"

#include "internal/base/rand.h"
#include "internal/http/http.h"
#include "internal/log/log.h"
#include "internal/sys/sys.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HIGH_WATER = 256 << 10, READ_BLOCK = 32 << 10 };

struct kl_server {
    struct http_server *http;
};

/* One log being sent. */
struct log_stream {
    struct http_req *r;
    struct kubelet *k;
    char pod_uid[64], ctr[LIM_KUBELET_ID];
    int fd, watch_fd;
    struct loop_io watch;
    struct loop_timer pump;
    struct buf line;
    uint64_t limit, since_ns; /* limit: bytes left, UINT64_MAX none */
    bool follow, timestamps, at_line_start, is_over;
    unsigned attempt;
};

static void deny(struct http_req *r, unsigned status, const char *why) {
    http_respond(r, status, "text/plain; charset=utf-8", NULL, 0, span_str(why));
}

static bool is_allowed(struct http_req *r) {
    const struct tls_peer *p = http_req_peer(r);
    if (!p || !p->cn || !*p->cn) {
        return false;
    }
    bool masters = false;
    for (size_t i = 0; i < p->n_orgs; i++) {
        masters = masters || str_eq(p->orgs[i], "system:masters") ||
                  str_eq(p->orgs[i], "kubeadm:cluster-admins");
    }
    return masters || str_eq(p->cn, "kube-apiserver-kubelet-client");
}

/* ---- logs ---- */

static void on_pump(struct loop_timer *t);

static void pump_soon(struct log_stream *s) {
    if (!loop_timer_active(&s->pump)) {
        loop_timer_start(s->k->l, &s->pump, 0, on_pump, "log");
    }
}

static void emit(struct log_stream *s, struct span data) {
    if (data.n > s->limit) {
        data.n = (size_t)s->limit;
    }
    if (s->limit != UINT64_MAX) {
        s->limit -= data.n;
        s->is_over = s->is_over || s->limit == 0;
    }
    if (data.n > 0) {
        http_write(s->r, data);
    }
}

static void one_line(struct log_stream *s, struct span raw) {
    struct kl_log_line l;
    uint64_t at;
    if (kl_log_parse(raw, &l) < 0) {
        return;
    }
    if (s->since_ns && time_parse(l.time, &at) == 0 && at < s->since_ns) {
        return;
    }
    if (s->timestamps && s->at_line_start) {
        emit(s, l.time);
        emit(s, SPAN_LIT(" "));
    }
    emit(s, l.text);
    if (!l.is_partial) {
        emit(s, SPAN_LIT("\n"));
    }
    s->at_line_start = !l.is_partial;
}

static void watch_file(struct log_stream *s);

/* A rotated log goes on in a new file of the same name. */
static bool next_file(struct log_stream *s) {
    struct kl_pod *p = map_get_str(&s->k->pods, s->pod_uid);
    struct stat mine, now;
    struct err e = ERR_INIT;
    char path[900];
    if (!p || str_put(path, sizeof(path), "%s/%s/%u.log", p->log_dir, s->ctr, s->attempt) < 0 ||
        fstat(s->fd, &mine) < 0) {
        return false;
    }
    if (stat(path, &now) < 0) { /* renamed, the runtime makes the new one in a moment */
        loop_timer_start(s->k->l, &s->pump, 200 * NS_PER_MS, on_pump, "log");
        return false;
    }
    if (now.st_ino == mine.st_ino) {
        return false;
    }
    int fd = sys_open(AT_FDCWD, path, O_RDONLY, 0, &e);
    if (fd < 0) {
        return false;
    }
    auto_fd_(&s->fd);
    s->fd = fd;
    loop_io_stop(&s->watch);
    auto_fd_(&s->watch_fd);
    s->watch_fd = -1;
    watch_file(s);
    return true;
}

/* Following ends with the container. */
static bool has_more_to_come(const struct log_stream *s) {
    struct kl_pod *p = map_get_str(&s->k->pods, s->pod_uid);
    struct kl_ctr *c = p ? kl_ctr_find(p, s->ctr) : NULL;
    return s->follow && c && !p->is_gone && c->exists && c->attempt == s->attempt &&
           c->state == KUBELET_RUNNING;
}

static void on_pump(struct loop_timer *t) {
    struct log_stream *s = CONTAINER_OF(t, struct log_stream, pump);
    if (http_pending(s->r) > HIGH_WATER) {
        return; /* on_drain comes back */
    }
    uint8_t *room = buf_room(&s->line, READ_BLOCK);
    ssize_t n = room ? read(s->fd, room, READ_BLOCK) : 0;
    s->is_over = s->is_over || !room; /* a line longer than any runtime writes */
    if (n > 0) {
        buf_added(&s->line, (size_t)n);
        struct span all = buf_view(&s->line), line;
        size_t used = 0;
        for (ptrdiff_t nl; !s->is_over && (nl = span_index(all, '\n')) >= 0;) {
            line = span_of(all.p, (size_t)nl);
            one_line(s, line);
            used += (size_t)nl + 1;
            all = span_of(all.p + nl + 1, all.n - (size_t)nl - 1);
        }
        buf_drop(&s->line, used);
    }
    if (n <= 0 && !s->is_over && s->follow && next_file(s)) {
        pump_soon(s);
    } else if (s->is_over || (n <= 0 && !has_more_to_come(s))) {
        http_end(s->r);
    } else if (n > 0) {
        pump_soon(s);
    }
}

static void on_drain(struct http_req *r, void *ctx) {
    (void)r;
    pump_soon(ctx);
}

static void on_written(struct loop_io *io, uint32_t events) {
    struct log_stream *s = CONTAINER_OF(io, struct log_stream, watch);
    uint8_t raw[4096];
    (void)events;
    IGNORE_ERR(read(s->watch_fd, raw, sizeof(raw)), "only the wake-up counts");
    pump_soon(s);
}

static void on_log_close(struct http_req *r, bool complete, void *ctx) {
    struct log_stream *s = ctx;
    (void)r;
    (void)complete;
    loop_timer_stop(&s->pump);
    loop_io_stop(&s->watch);
    auto_fd_(&s->watch_fd);
    auto_fd_(&s->fd);
    buf_fini(&s->line);
    free(s);
}

/* The file of the current or the previous instance. */
static int open_log(struct kl_pod *p, struct kl_ctr *c, bool previous, unsigned *ret_attempt,
                    struct err *e) {
    char path[900];
    unsigned attempt = c->id[0] ? c->attempt : c->restarts;
    if (previous && attempt == 0) {
        return err_set(e, ERR_NOT_FOUND,
                       "previous terminated container \"%s\" in pod \"%s\" not found", c->name,
                       p->name);
    }
    attempt -= previous;
    if (!c->id[0] && !previous) {
        return err_set(e, ERR_INVALID, "container \"%s\" in pod \"%s\" is waiting to start: %s",
                       c->name, p->name, c->wait_reason[0] ? c->wait_reason : "ContainerCreating");
    }
    if (str_put(path, sizeof(path), "%s/%s/%u.log", p->log_dir, c->name, attempt) < 0) {
        return err_set(e, ERR_LIMIT, "path too long");
    }
    *ret_attempt = attempt;
    return sys_open(AT_FDCWD, path, O_RDONLY, 0, e);
}

static bool flag(struct http_req *r, const char *name) {
    const char *v = http_query_get(r, name);
    return v && (str_eq(v, "true") || str_eq(v, "1"));
}

static void watch_file(struct log_stream *s) {
    char path[64];
    struct err e = ERR_INIT;
    s->watch_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (s->watch_fd < 0 || str_put(path, sizeof(path), "/proc/self/fd/%d", s->fd) < 0 ||
        inotify_add_watch(s->watch_fd, path, IN_MODIFY | IN_MOVE_SELF) < 0 ||
        loop_io_start(s->k->l, &s->watch, s->watch_fd, LOOP_READ, on_written, "log watch", &e) <
            0) {
        s->follow = false; /* what is there is still sent */
    }
}

static void serve_log(struct http_req *r, struct kubelet *k, const char *ns, const char *pod,
                      const char *ctr) {
    struct kl_pod *p = kl_pod_find(k, ns, pod);
    struct kl_ctr *c = p ? kl_ctr_find(p, ctr) : NULL;
    struct err e = ERR_INIT;
    uint64_t n;
    unsigned attempt = 0;
    if (!c) {
        deny(r, 404, p ? "container not found in pod" : "pod not found");
        return;
    }
    AUTO_FD int fd = open_log(p, c, flag(r, "previous"), &attempt, &e);
    if (fd < 0) {
        deny(r, e.code == ERR_NOT_FOUND ? 404 : 400, e.msg);
        return;
    }
    struct log_stream *s = new_zero(struct log_stream);
    struct stat st;
    uint64_t offset = 0;
    s->r = r;
    s->k = k;
    s->watch_fd = -1;
    s->fd = TAKE_FD(fd);
    s->attempt = attempt;
    s->limit = UINT64_MAX;
    s->at_line_start = true;
    buf_init(&s->line, (size_t)LIM_KUBELET_LOG_LINE * 4 + READ_BLOCK);
    IGNORE_ERR(str_put(s->pod_uid, sizeof(s->pod_uid), "%s", p->uid), "uids fit");
    IGNORE_ERR(str_put(s->ctr, sizeof(s->ctr), "%s", c->name), "names fit");
    http_req_on_close(r, on_log_close, s);
    s->follow = flag(r, "follow");
    s->timestamps = flag(r, "timestamps");
    const char *tail = http_query_get(r, "tailLines"), *bytes = http_query_get(r, "limitBytes"),
               *since = http_query_get(r, "sinceSeconds"),
               *since_time = http_query_get(r, "sinceTime");
    if (bytes && span_to_u64(span_str(bytes), 1, INT64_MAX, &s->limit) < 0) {
        deny(r, 400, "limitBytes must be a positive number");
        return;
    }
    if (since && span_to_u64(span_str(since), 0, INT32_MAX, &n) == 0) {
        s->since_ns = clock_wall_ns() - n * NS_PER_S;
    }
    if (since_time && time_parse(span_str(since_time), &s->since_ns) < 0) {
        deny(r, 400, "sinceTime must be an RFC 3339 time");
        return;
    }
    if (tail && span_to_u64(span_str(tail), 0, INT32_MAX, &n) == 0 && fstat(s->fd, &st) == 0 &&
        kl_log_tail(s->fd, (uint64_t)st.st_size, n, &offset, &e) == 0) {
        IGNORE_ERR((int)lseek(s->fd, (off_t)offset, SEEK_SET), "a regular file");
    }
    if (s->follow) {
        watch_file(s);
    }
    http_begin(r, 200, "text/plain", NULL, 0);
    http_on_drain(r, on_drain, s);
    pump_soon(s);
}

/* ---- streams: our connection and the runtime's become one ---- */

struct tunnel {
    struct kubelet *k;
    struct http_req *r;
    struct http_client *client;
    struct http_raw *front, *back;
    struct loop_timer release;
    bool closing;
};

static void on_release(struct loop_timer *t) {
    struct tunnel *u = CONTAINER_OF(t, struct tunnel, release);
    if (u->front) {
        http_raw_close(u->front);
    }
    if (u->back) {
        http_raw_close(u->back);
    }
    http_client_free(u->client);
    free(u);
}

static void tunnel_end(struct tunnel *u) {
    if (!u->closing) {
        u->closing = true;
        loop_timer_start(u->k->l, &u->release, 0, on_release, "stream end");
    }
}

static void front_data(struct http_raw *w, struct span d, void *ctx) {
    struct tunnel *u = ctx;
    (void)w;
    if (u->back) {
        http_raw_write(u->back, d);
    }
}
static void back_data(struct http_raw *w, struct span d, void *ctx) {
    struct tunnel *u = ctx;
    (void)w;
    if (u->front) {
        http_raw_write(u->front, d);
    }
}
static void front_close(struct http_raw *w, void *ctx) {
    struct tunnel *u = ctx;
    (void)w;
    u->front = NULL;
    tunnel_end(u);
}
static void back_close(struct http_raw *w, void *ctx) {
    struct tunnel *u = ctx;
    (void)w;
    u->back = NULL;
    tunnel_end(u);
}

static void on_backend(void *ctx, int rc, unsigned status, struct http_raw *raw,
                       const struct err *e) {
    struct tunnel *u = ctx;
    struct err why = ERR_INIT;
    struct http_header h[4];
    size_t n = 0;
    if (rc < 0) {
        LOG_WARN("kubelet", "the runtime refused a stream", F_U64("status", status), F_ERR(e));
        deny(u->r, 502, e->msg);
        tunnel_end(u);
        return;
    }
    u->back = raw;
    static const char *const passed[] = {"x-stream-protocol-version", "sec-websocket-protocol"};
    h[n++] = (struct http_header){SPAN_LIT("upgrade"), http_req_header(u->r, "upgrade")};
    for (size_t i = 0; i < ARRAY_LEN(passed); i++) {
        struct span v = http_req_header(u->r, passed[i]);
        if (v.n >
            0) { /* the runtime speaks the newest protocol that was offered; so do all our clients */
            struct span first;
            span_next(&v, ',', &first);
            h[n++] = (struct http_header){span_str(passed[i]), span_trim(first)};
        }
    }
    const struct http_raw_cb cb = {.on_data = front_data, .on_close = front_close, .ctx = u};
    if (http_upgrade(u->r, h, n, &cb, &u->front, &why) < 0) {
        LOG_WARN("kubelet", "stream not upgraded", F_ERR(&why));
        tunnel_end(u);
    }
}

static void on_url(void *ctx, int rc, const char *url, const struct err *e) {
    struct tunnel *u = ctx;
    struct err why = ERR_INIT;
    if (rc < 0) {
        deny(u->r, rc == -ERR_NOT_FOUND ? 404 : 500, e->msg);
        tunnel_end(u);
        return;
    }
    struct span s = span_str(url), host, digits;
    uint64_t port;
    char name[128];
    if (!span_starts(s, "http://") || span_skip(&s, 7) < 0 || span_until(&s, ':', &host) < 0 ||
        !span_next(&s, '/', &digits) || span_to_u64(digits, 1, 65535, &port) < 0 ||
        span_to_cstr(host, name, sizeof(name)) < 0) {
        deny(u->r, 502, "the runtime gave no usable stream address");
        tunnel_end(u);
        return;
    }
    AUTO_FREE char *target = str_fmt("/%.*s", SPAN_FMT(s));
    struct http_header h[8];
    size_t n = 0;
    for (size_t i = 0; n < ARRAY_LEN(h) && http_req_header_at(u->r, i, &h[n]); i++) {
        bool wanted = span_eq_str(h[n].name, "upgrade") || span_eq_str(h[n].name, "connection") ||
                      span_starts(h[n].name, "x-stream-") ||
                      span_starts(h[n].name, "sec-websocket-");
        n += wanted;
    }
    AUTO_FREE char *method = str_dupn(http_req_method(u->r).p, http_req_method(u->r).n);
    const struct http_client_opts co = {.host = name, .port = (uint16_t)port, .proto = HTTP_1_ONLY};
    const struct http_call_opts o = {
        .method = method, .target = target, .headers = h, .n_headers = n};
    const struct http_raw_cb cb = {.on_data = back_data, .on_close = back_close, .ctx = u};
    if (http_client_new(u->k->l, &co, &u->client, &why) < 0 ||
        http_call_upgrade(u->client, &o, &cb, on_backend, u, &why) < 0) {
        deny(u->r, 502, why.msg);
        tunnel_end(u);
    }
}

static void serve_stream(struct http_req *r, struct kubelet *k, const char *kind, const char *ns,
                         const char *pod, const char *ctr) {
    struct kl_pod *p = kl_pod_find(k, ns, pod);
    struct kl_ctr *c = p && ctr ? kl_ctr_find(p, ctr) : NULL;
    bool forward = str_eq(kind, "portforward");
    if (!k->o.ops->stream) {
        deny(r, 501, "this node's runtime has no streams");
        return;
    }
    if (!p || (!forward && (!c || !c->exists)) || (forward && !p->has_sandbox)) {
        deny(r, 404, "pod or container not found");
        return;
    }
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *q = json_new_obj(d);
    struct span cursor = http_req_query(r);
    const char *key, *value;
    while (http_query_next(r, &cursor, &key, &value)) {
        bool yes = str_eq(value, "1") || str_eq(value, "true");
        if (str_eq(key, "command")) {
            json_push_str(d, json_need_arr(d, q, "cmd"), value);
        } else if (str_eq(key, "input") || str_eq(key, "stdin")) {
            json_set_bool(d, q, "stdin", yes);
        } else if (str_eq(key, "output") || str_eq(key, "stdout")) {
            json_set_bool(d, q, "stdout", yes);
        } else if (str_eq(key, "error") || str_eq(key, "stderr")) {
            json_set_bool(d, q, "stderr", yes);
        } else if (str_eq(key, "tty")) {
            json_set_bool(d, q, "tty", yes);
        }
    }
    if (json_bool_at(q, false, "tty")) {
        json_set_bool(d, q, "stderr", false); /* a terminal has one output */
    }
    struct tunnel *u = new_zero(struct tunnel);
    u->k = k;
    u->r = r;
    k->o.ops->stream(k->o.rt, kind, forward ? p->sandbox_id : c->id, q, on_url, u);
}

static void on_request(struct http_req *r, void *ctx) {
    struct kubelet *k = ctx;
    struct span path = http_req_path(r), part[5] = {{0}};
    char text[5][256];
    size_t n = 0;
    if (span_eq_str(path, "/healthz")) {
        http_respond(r, 200, "text/plain; charset=utf-8", NULL, 0, SPAN_LIT("ok"));
        return;
    }
    if (!is_allowed(r)) {
        deny(r, 403, "this certificate may not use the kubelet");
        return;
    }
    IGNORE_ERR(span_skip(&path, 1), "a path begins with a slash");
    while (n < 5 && span_next(&path, '/', &part[n])) {
        if (span_to_cstr(part[n], text[n], sizeof(text[n])) < 0) {
            deny(r, 400, "malformed path");
            return;
        }
        n++;
    }
    if (n == 4 && str_eq(text[0], "containerLogs") && span_eq_str(http_req_method(r), "GET")) {
        serve_log(r, k, text[1], text[2], text[3]);
    } else if (n >= 4 && (str_eq(text[0], "exec") || str_eq(text[0], "attach"))) {
        serve_stream(r, k, text[0], text[1], text[2], text[n - 1]);
    } else if (n >= 3 && str_eq(text[0], "portForward")) {
        serve_stream(r, k, "portforward", text[1], text[2], NULL);
    } else {
        deny(r, 404, "404 page not found");
    }
}

int kubelet_serve(struct kubelet *k, struct tls_config *tls, struct err *e) {
    CHECK(!k->server);
    k->o.server_tls = tls;
    return kl_serve_start(k, e);
}

int kl_serve_start(struct kubelet *k, struct err *e) {
    const struct http_server_opts o = {
        .handler = {.on_request = on_request, .ctx = k}, .tls = k->o.server_tls, .name = "kubelet"};
    if (!k->o.server_tls) {
        return err_set(e, ERR_INVALID, "the kubelet's server needs a certificate");
    }
    k->server = new_zero(struct kl_server);
    if (http_server_new(k->l, &o, &k->server->http, e) < 0) {
        return -(int)e->code;
    }
    int fd = sys_listen_tcp(k->o.bind_address ? k->o.bind_address : "", k->o.port, e);
    return fd < 0 ? fd : http_server_listen(k->server->http, fd, e);
}

void kl_serve_stop(struct kubelet *k) {
    if (k->server) {
        http_server_free(k->server->http);
        free(k->server);
        k->server = NULL;
    }
}
