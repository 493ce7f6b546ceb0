/* lifecycle.postStart and preStop: a command in the container, a GET of it, or a wait. */
#include "internal/kubelet/kl_int.h"

#include "internal/base/rand.h"
#include "internal/http/http.h"

#include <stdlib.h>

struct kl_hook {
    struct kl_ctr *c;
    kubelet_done_cb *done;
    void *ctx;
    struct http_client *client;
    struct loop_timer
        timer; /* a wait, then the end: nothing is freed inside a callback of its own */
    int rc;
    struct err e;
};

const struct json *kl_hook_of(const struct kl_ctr *c, const char *which) {
    return json_at(kl_ctr_spec(c), "lifecycle", which);
}

static void finish(struct kl_hook *h) {
    kubelet_done_cb *done = h->done;
    void *ctx = h->ctx;
    int rc = h->rc;
    struct err e = h->e;
    loop_timer_stop(&h->timer);
    http_client_free(h->client);
    h->c->hook = NULL;
    free(h);
    done(ctx, rc, &e);
}

static void on_timer(struct loop_timer *t) {
    finish(CONTAINER_OF(t, struct kl_hook, timer));
}

static void end_soon(struct kl_hook *h) {
    loop_timer_stop(&h->timer);
    loop_timer_start(h->c->pod->k->l, &h->timer, 0, on_timer, "hook end");
}

static void on_exec(void *ctx, int rc, int exit_code, struct span out, const struct err *e) {
    struct kl_hook *h = ctx;
    if (rc < 0) {
        h->rc = rc;
        h->e = *e;
    } else if (exit_code) {
        h->rc = err_set(&h->e, ERR_INVALID, "command ended with %d: %.*s", exit_code,
                        out.n > 150 ? 150 : (int)out.n, out.n ? (const char *)out.p : "");
    }
    end_soon(h);
}

static void on_http_end(struct http_call *call, int rc, const struct err *e, void *ctx) {
    struct kl_hook *h = ctx;
    unsigned status = rc < 0 ? 0 : http_call_status(call);
    if (rc < 0) {
        h->rc = rc;
        h->e = *e;
    } else if (status < 200 || status >= 400) {
        h->rc = err_set(&h->e, ERR_INVALID, "answered with status %u", status);
    }
    end_soon(h);
}

static int begin(struct kl_hook *h, const struct json *hook, unsigned timeout_s) {
    const struct json *exec = json_get(hook, "exec"), *get = json_get(hook, "httpGet"),
                      *wait = json_get(hook, "sleep");
    if (exec) {
        return kl_exec(h->c, exec, timeout_s, on_exec, h, &h->e);
    }
    if (get) {
        return kl_http_get(h->c, get, timeout_s * NS_PER_S, on_http_end, h, &h->client, &h->e);
    }
    if (wait) {
        int64_t s = json_i64_at(wait, 0, "seconds");
        s = s < 0 ? 0 : s > (int64_t)timeout_s ? (int64_t)timeout_s : s;
        loop_timer_start(h->c->pod->k->l, &h->timer, (uint64_t)s * NS_PER_S, on_timer, "hook");
        return 0;
    }
    return err_set(&h->e, ERR_UNSUPPORTED, "this kind of hook is not supported");
}

void kl_hook_run(struct kl_ctr *c, const char *which, unsigned timeout_s, kubelet_done_cb *done,
                 void *ctx) {
    struct kl_hook *h = c->hook = new_zero(struct kl_hook);
    h->c = c;
    h->done = done;
    h->ctx = ctx;
    h->rc = begin(h, kl_hook_of(c, which), timeout_s);
    if (h->rc < 0) {
        end_soon(h);
    }
}

void kl_hook_cancel(struct kl_ctr *c) {
    if (c->hook) {
        struct kl_hook *h = c->hook;
        err_reset(&h->e);
        h->rc = err_set(&h->e, ERR_CANCELLED, "the kubelet ends");
        finish(h);
    }
}
