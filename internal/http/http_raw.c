/* Raw streams after a 101: bytes both ways over a stream that HTTP has let go of. */
#include "internal/http/http_int.h"

#include <stdlib.h>

enum { RAW_READ = 32 * 1024 };

struct http_raw {
    struct list link;
    struct list *lingering;
    struct net_stream *st;
    struct http_raw_cb cb;
    struct loop_hook hook; /* delivers what came early, and frees */
    struct loop *l;
    struct buf early;
    bool paused, dead;
};

static void free_raw(struct http_raw *w) {
    loop_hook_cancel(&w->hook);
    list_del(&w->link);
    buf_fini(&w->early);
    free(w);
}

static void on_hook(void *ctx) {
    struct http_raw *w = ctx;
    if (w->dead) {
        free_raw(w);
        return;
    }
    if (w->early.n && !w->paused) {
        struct buf b = w->early;
        buf_init(&w->early, b.max);
        w->cb.on_data(w, buf_view(&b), w->cb.ctx);
        buf_fini(&b);
        if (!w->dead && !w->paused) {
            net_want_read(w->st, true);
        }
    }
}

static void bury(struct http_raw *w, bool politely) {
    w->dead = true;
    if (politely) {
        net_finish(TAKE(w->st), w->lingering);
    } else {
        net_close(TAKE(w->st));
    }
    loop_before_sleep(w->l, &w->hook, on_hook, w);
}

static void over(struct http_raw *w, bool politely) {
    if (!w->dead) {
        bury(w, politely);
        w->cb.on_close(w, w->cb.ctx);
    }
}

static void st_readable(struct net_stream *st, void *ctx) {
    struct http_raw *w = ctx;
    struct err e = ERR_INIT;
    uint8_t *room = mem_zero_alloc(RAW_READ);
    ssize_t n = net_read(st, room, RAW_READ, &e);
    if (n > 0) {
        w->cb.on_data(w, span_of(room, (size_t)n), w->cb.ctx);
    } else if (n != -ERR_AGAIN) {
        over(w, n == 0);
    }
    free(room);
}

static void st_drain(struct net_stream *st, void *ctx) {
    struct http_raw *w = ctx;
    (void)st;
    if (w->cb.on_drain) {
        w->cb.on_drain(w, w->cb.ctx);
    }
}

static void st_fail(struct net_stream *st, int rc, const struct err *e, void *ctx) {
    (void)st;
    (void)rc;
    (void)e;
    over(ctx, false);
}

static const struct net_cb stream_cb = {NULL, st_readable, st_drain, st_fail};

struct http_raw *raw_new(struct net_stream *own_st, struct list *owner, struct list *lingering,
                         struct loop *l, struct span early, const struct http_raw_cb *cb) {
    struct http_raw *w = new_zero(struct http_raw);
    *w = (struct http_raw){.lingering = lingering, .st = own_st, .cb = *cb, .l = l};
    list_add_tail(owner, &w->link);
    buf_init(&w->early, SCRATCH + LIM_PIPELINE);
    net_set_cb(own_st, &stream_cb, w);
    net_want_read(own_st, !early.n);
    if (early.n) {
        buf_span(&w->early, early);
        loop_before_sleep(l, &w->hook, on_hook, w);
    }
    return w;
}

void raw_early(struct http_raw *w, struct span data) {
    if (!w->dead && data.n) {
        net_want_read(w->st, false);
        buf_span(&w->early, data);
        loop_before_sleep(w->l, &w->hook, on_hook, w);
    }
}

void raw_kill_all(struct list *owner) {
    while (!list_empty(owner)) {
        struct http_raw *w = CONTAINER_OF(owner->next, struct http_raw, link);
        over(w, false);
        free_raw(w);
    }
}

void http_raw_write(struct http_raw *w, struct span data) {
    if (!w->dead) {
        net_send(w->st, data);
    }
}

size_t http_raw_pending(const struct http_raw *w) {
    return w->dead ? 0 : net_pending(w->st);
}

void http_raw_pause(struct http_raw *w, bool paused) {
    if (w->dead || w->paused == paused) {
        return;
    }
    w->paused = paused;
    if (!paused && w->early.n) {
        loop_before_sleep(w->l, &w->hook, on_hook, w);
    } else {
        net_want_read(w->st, !paused && !w->early.n);
    }
}

void http_raw_close(struct http_raw *w) {
    if (!w->dead) {
        bury(w, true);
    }
}
