#include "internal/apiserver/api_int.h"

/* exec, attach and port-forward: the upgrade is repeated towards the kubelet, then bytes pass both ways. The protocol inside
 * (SPDY, WebSocket) is between the client and the node's runtime; clients that offer one which the runtime does not speak
 * are refused and try the other. */

enum { STREAM_PENDING = 1 << 20 };

struct stream {
    struct loop *l;
    struct api_call *c; /* NULL once upgraded or gone */
    struct http_client *client;
    struct http_raw *front, *back;
    struct loop_timer release;            /* nothing is freed inside its own callback */
    struct buf accept, protocol, version; /* headers of the kubelet's answer */
    bool closing;
};

static void on_release(struct loop_timer *t) {
    struct stream *s = CONTAINER_OF(t, struct stream, release);
    if (s->front != NULL) {
        http_raw_close(s->front);
    }
    if (s->back != NULL) {
        http_raw_close(s->back);
    }
    http_client_free(s->client);
    buf_fini(&s->accept);
    buf_fini(&s->protocol);
    buf_fini(&s->version);
    free(s);
}

static void stream_end(struct stream *s) {
    if (!s->closing) {
        s->closing = true;
        loop_timer_start(s->l, &s->release, 0, on_release, "stream end");
    }
}

static void detach(struct stream *s) {
    if (s->c != NULL) {
        s->c->closed = NULL;
        s->c->state = NULL;
        s->c = NULL;
    }
}

/* The client left before the kubelet answered: the answer is closed when it comes. */
static void on_closed(struct api_call *c) {
    struct stream *s = c->state;
    s->c = NULL;
}

static void pass(struct http_raw *from, struct http_raw *to, struct span d) {
    if (to == NULL) {
        return;
    }
    http_raw_write(to, d);
    if (http_raw_pending(to) > STREAM_PENDING) {
        http_raw_pause(from, true);
    }
}

static void front_data(struct http_raw *w, struct span d, void *ctx) {
    struct stream *s = ctx;
    pass(w, s->back, d);
}

static void back_data(struct http_raw *w, struct span d, void *ctx) {
    struct stream *s = ctx;
    pass(w, s->front, d);
}

static void front_drain(struct http_raw *w, void *ctx) {
    struct stream *s = ctx;
    (void)w;
    if (s->back != NULL) {
        http_raw_pause(s->back, false);
    }
}

static void back_drain(struct http_raw *w, void *ctx) {
    struct stream *s = ctx;
    (void)w;
    if (s->front != NULL) {
        http_raw_pause(s->front, false);
    }
}

static void front_close(struct http_raw *w, void *ctx) {
    struct stream *s = ctx;
    (void)w;
    s->front = NULL;
    stream_end(s);
}

static void back_close(struct http_raw *w, void *ctx) {
    struct stream *s = ctx;
    (void)w;
    s->back = NULL;
    stream_end(s);
}

static void on_head(struct http_call *call, unsigned status, void *ctx) {
    struct stream *s = ctx;
    (void)status;
    buf_span(&s->accept, http_call_header(call, "sec-websocket-accept"));
    buf_span(&s->protocol, http_call_header(call, "sec-websocket-protocol"));
    buf_span(&s->version, http_call_header(call, "x-stream-protocol-version"));
}

static void on_kubelet(void *ctx, int rc, unsigned status, struct http_raw *raw,
                       const struct err *e) {
    struct stream *s = ctx;
    struct api_call *c = s->c;
    struct err why = ERR_INIT;
    s->back = raw;
    if (c == NULL || c->r == NULL || rc < 0) {
        detach(s);
        if (c != NULL && c->r != NULL) {
            api_fail(c, status >= 400 && status < 500 ? status : 500,
                     status == 404 ? "NotFound" : "InternalError", "error dialing backend: %s",
                     e->msg);
        }
        stream_end(s);
        return;
    }
    struct http_header h[4];
    size_t n = 0;
    h[n++] = (struct http_header){SPAN_LIT("upgrade"), http_req_header(c->r, "upgrade")};
    if (s->version.n > 0) {
        h[n++] = (struct http_header){SPAN_LIT("x-stream-protocol-version"), buf_view(&s->version)};
    }
    if (s->accept.n > 0) {
        h[n++] = (struct http_header){SPAN_LIT("sec-websocket-accept"), buf_view(&s->accept)};
    }
    if (s->protocol.n > 0) {
        h[n++] = (struct http_header){SPAN_LIT("sec-websocket-protocol"), buf_view(&s->protocol)};
    }
    const struct http_raw_cb cb = {
        .on_data = front_data, .on_close = front_close, .on_drain = front_drain, .ctx = s};
    struct http_req *r = c->r;
    c->answered = true;
    detach(s);
    if (http_upgrade(r, h, n, &cb, &s->front, &why) < 0) {
        LOG_WARN("apiserver", "stream not upgraded", F_ERR(&why));
        stream_end(s);
    }
}

/* The kubelet's words for what is asked: upstream's API server translates in the same way. */
static void target_of(struct api_call *c, const char *container, struct buf *b) {
    static const struct {
        const char *api, *kubelet;
    } flags[] = {{"stdin", "input"}, {"stdout", "output"}, {"stderr", "error"}, {"tty", "tty"}};
    const char *key = NULL;
    const char *value = NULL;
    struct span cursor = http_req_query(c->r);
    char sep = '?';
    if (container == NULL) {
        buf_fmt(b, "/portForward/%s/%s", c->t.ns, c->t.name);
    } else {
        buf_fmt(b, "/%s/%s/%s/%s", c->kr->sub, c->t.ns, c->t.name, container);
    }
    while (http_query_next(c->r, &cursor, &key, &value)) {
        const char *name = strcmp(key, "command") == 0 || strcmp(key, "ports") == 0 ? key : NULL;
        name = strcmp(key, "ports") == 0 ? "port" : name;
        for (size_t i = 0; i < ARRAY_LEN(flags); i++) {
            bool on = strcmp(value, "true") == 0 || strcmp(value, "1") == 0;
            if (strcmp(key, flags[i].api) == 0 && on) {
                name = flags[i].kubelet;
                value = "1";
            }
        }
        if (name != NULL) {
            buf_fmt(b, "%c%s=", sep, name);
            url_encode(b, span_str(value));
            sep = '&';
        }
    }
}

static void dial(struct api_call *c, const char *node, const char *host, uint16_t port,
                 const char *target) {
    struct stream *s = new_zero(struct stream);
    struct err e = ERR_INIT;
    struct http_header h[10];
    size_t n = 0;
    for (size_t i = 0; n < ARRAY_LEN(h) && http_req_header_at(c->r, i, &h[n]); i++) {
        bool wanted = span_eq_str(h[n].name, "upgrade") || span_eq_str(h[n].name, "connection") ||
                      span_starts(h[n].name, "x-stream-") ||
                      span_starts(h[n].name, "sec-websocket-");
        n += wanted ? 1 : 0;
    }
    s->l = c->a->l;
    s->c = c;
    buf_init(&s->accept, 256);
    buf_init(&s->protocol, 256);
    buf_init(&s->version, 256);
    const char *method = api_fmt(c, "%.*s", SPAN_FMT(http_req_method(c->r)));
    const struct http_client_opts co = {.host = host,
                                        .port = port,
                                        .sni = node,
                                        .tls = c->a->kubelet_tls,
                                        .proto = HTTP_1_ONLY,
                                        .connect_timeout_ns = 5 * NS_PER_S,
                                        .max_conns = 1};
    const struct http_call_opts o = {
        .method = method, .target = target, .headers = h, .n_headers = n, .on_head = on_head};
    const struct http_raw_cb cb = {
        .on_data = back_data, .on_close = back_close, .on_drain = back_drain, .ctx = s};
    if (http_client_new(s->l, &co, &s->client, &e) < 0 ||
        http_call_upgrade(s->client, &o, &cb, on_kubelet, s, &e) < 0) {
        s->c = NULL;
        stream_end(s);
        api_fail_err(c, &e);
        return;
    }
    c->state = s;
    c->closed = on_closed;
}

void api_stream(struct api_call *c, const struct json *pod) {
    const char *container = NULL;
    const char *host = NULL;
    uint16_t port = 0;
    if (http_req_header(c->r, "upgrade").n == 0) {
        api_fail(c, 400, "BadRequest", "Upgrade request required");
        return;
    }
    if (strcmp(c->kr->sub, "portforward") != 0 && (container = api_container_of(c, pod)) == NULL) {
        return;
    }
    const char *node = json_str_or(json_at(pod, "spec", "nodeName"), "");
    if (node[0] == '\0') {
        api_fail(c, 400, "BadRequest", "pod %s does not have a host assigned", c->t.name);
        return;
    }
    if (!api_kubelet_of(c, node, &host, &port)) {
        return;
    }
    AUTO(buf) struct buf target = BUF_INIT(64 << 10);
    target_of(c, container, &target);
    if (buf_ok(&target) < 0) {
        api_fail(c, 400, "BadRequest", "the command is too long");
        return;
    }
    dial(c, node, host, port, buf_cstr(&target));
}
