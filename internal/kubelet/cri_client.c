#include "internal/kubelet/cri_int.h"

#include "internal/base/rand.h"
#include "internal/log/log.h"

#include <stdlib.h>

enum { CALL_S = 120, EVENTS_AGAIN_S = 3 };

struct call {
    struct kubelet_cri *c;
    struct http_call *h;
    char *method;
    struct grpc_reader in;
    cri_cb *done;
    void *ctx;
    struct loop_timer fail; /* for calls that could not even start */
    struct err err;
};

static void call_free(struct call *k) {
    grpc_reader_fini(&k->in);
    loop_timer_stop(&k->fail);
    free(k->method);
    free(k);
}

static void finish(struct call *k, int rc, struct json *resp) {
    k->done(k->ctx, rc, resp, &k->err);
    call_free(k);
}

static void on_fail(struct loop_timer *t) {
    struct call *k = CONTAINER_OF(t, struct call, fail);
    finish(k, -(int)k->err.code, NULL);
}

static void on_data(struct http_call *h, struct span data, void *ctx) {
    struct call *k = ctx;
    (void)h;
    if (!k->err.code && grpc_feed(&k->in, data) < 0) {
        err_set(&k->err, ERR_LIMIT, "%s: answer too large", k->method);
    }
}

static struct span status_of(const struct http_call *h, const char *name) {
    struct span s = http_call_trailer(h, name);
    return s.p ? s : http_call_header(h, name); /* a failure without a body is headers only */
}

static void on_end(struct http_call *h, int rc, const struct err *e, void *ctx) {
    struct call *k = ctx;
    struct span message;
    struct json *resp = NULL;
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    char type[96];
    if (rc < 0) {
        k->err = *e;
        err_wrap(&k->err, "%s", k->method);
    } else if (!k->err.code && grpc_status(status_of(h, "grpc-status"),
                                           status_of(h, "grpc-message"), &k->err) < 0) {
        err_wrap(&k->err, "%s", k->method);
    } else if (!k->err.code && (grpc_next(&k->in, &message) != 1 ||
                                str_put(type, sizeof(type), "%sResponse", k->method) < 0 ||
                                pb_decode(pb_cri, type, message, d, &resp) < 0)) {
        err_set(&k->err, ERR_INVALID, "%s: malformed answer", k->method);
    }
    finish(k, k->err.code ? -(int)k->err.code : 0, k->err.code ? NULL : resp);
}

static const struct http_header headers[] = {
    {SPAN_LIT("content-type"), SPAN_LIT("application/grpc")},
    {SPAN_LIT("te"), SPAN_LIT("trailers")},
};

void cri_call(struct kubelet_cri *c, const char *service, const char *method,
              const struct json *req, uint64_t timeout_ns, cri_cb *done, void *ctx) {
    struct call *k = new_zero(struct call);
    AUTO(buf)
    struct buf message = BUF_INIT(LIM_GRPC_MESSAGE), body = BUF_INIT(LIM_GRPC_MESSAGE + 16);
    char target[160], type[96];
    k->c = c;
    k->method = str_dup(method);
    k->done = done;
    k->ctx = ctx;
    grpc_reader_init(&k->in);
    if (str_put(target, sizeof(target), "/runtime.v1.%s/%s", service, method) < 0 ||
        str_put(type, sizeof(type), "%sRequest", method) < 0 ||
        pb_encode(pb_cri, type, req, &message) < 0 || grpc_frame(&body, buf_view(&message)) < 0) {
        err_set(&k->err, ERR_INTERNAL, "%s: request cannot be encoded", method);
    } else {
        const struct http_call_opts o = {.method = "POST",
                                         .target = target,
                                         .headers = headers,
                                         .n_headers = ARRAY_LEN(headers),
                                         .body = buf_view(&body),
                                         .timeout_ns = timeout_ns ? timeout_ns : CALL_S * NS_PER_S,
                                         .on_data = on_data,
                                         .on_end = on_end,
                                         .ctx = k};
        if (http_call_start(c->h, &o, &k->h, &k->err) == 0) {
            return;
        }
    }
    loop_timer_start(c->l, &k->fail, 0, on_fail, "cri call");
}

/* ---- events: containerd's own stream, because its CRI version may have none ---- */

static void on_events_again(struct loop_timer *t) {
    struct kubelet_cri *c = CONTAINER_OF(t, struct kubelet_cri, events_again);
    cri_events_start(c);
    if (c->changed) {
        c->changed(c->changed_ctx); /* what happened in between */
    }
}

/* An event is out before the runtime's own bookkeeping is done: what it lists right now may still be the old state. So
 * it is looked at a few times more, further and further apart. */
static void on_echo(struct loop_timer *t) {
    struct kubelet_cri *c = CONTAINER_OF(t, struct kubelet_cri, echo);
    static const uint64_t after_ms[] = {100, 300, 1000, 3000};
    if (c->changed) {
        c->changed(c->changed_ctx);
    }
    if (c->echoes < ARRAY_LEN(after_ms)) {
        loop_timer_start(c->l, &c->echo, after_ms[c->echoes++] * NS_PER_MS, on_echo, "cri event");
    }
}

static void on_event(struct http_call *h, struct span data, void *ctx) {
    struct kubelet_cri *c = ctx;
    (void)h;
    if (data.n > 0) {
        c->echoes = 0;
        loop_timer_stop(&c->echo);
        loop_timer_start(c->l, &c->echo, 0, on_echo, "cri event");
    }
}

static void on_events_end(struct http_call *h, int rc, const struct err *e, void *ctx) {
    struct kubelet_cri *c = ctx;
    (void)h;
    LOG_DEBUG("kubelet", "event stream ended", F_STR("err", rc < 0 ? e->msg : ""));
    c->events = NULL;
    loop_timer_start(c->l, &c->events_again, EVENTS_AGAIN_S * NS_PER_S, on_events_again,
                     "cri events");
}

void cri_events_start(struct kubelet_cri *c) {
    static const char *const filters[] = {"topic==\"/tasks/exit\"", "topic==\"/tasks/oom\"",
                                          "topic==\"/tasks/delete\""};
    AUTO(buf) struct buf message = BUF_INIT(1024), body = BUF_INIT(1024);
    struct err e = ERR_INIT;
    for (size_t i = 0; i < ARRAY_LEN(filters);
         i++) { /* SubscribeRequest: repeated string filters = 1 */
        buf_u8(&message, 1 << 3 | 2);
        buf_varint(&message, strlen(filters[i]));
        buf_str(&message, filters[i]);
    }
    grpc_frame(&body, buf_view(&message));
    const struct http_call_opts o = {.method = "POST",
                                     .target = "/containerd.services.events.v1.Events/Subscribe",
                                     .headers = headers,
                                     .n_headers = ARRAY_LEN(headers),
                                     .body = buf_view(&body),
                                     .on_data = on_event,
                                     .on_end = on_events_end,
                                     .ctx = c};
    if (http_call_start(c->h, &o, &c->events, &e) < 0) {
        c->events = NULL;
        loop_timer_start(c->l, &c->events_again, EVENTS_AGAIN_S * NS_PER_S, on_events_again,
                         "cri events");
    }
}

void cri_events_stop(struct kubelet_cri *c) {
    loop_timer_stop(&c->events_again);
    loop_timer_stop(&c->echo);
    if (c->events) {
        http_call_cancel(c->events);
        c->events = NULL;
    }
}
