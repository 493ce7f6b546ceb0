/* One request with a loop of its own. */
#include "internal/http/http.h"

struct fetch {
    struct loop *l;
    struct buf *body;
    unsigned status;
    int rc;
    struct err e;
};

static void on_head(struct http_call *c, unsigned status, void *ctx) {
    struct fetch *f = ctx;
    (void)c;
    f->status = status;
}

static void on_data(struct http_call *c, struct span data, void *ctx) {
    struct fetch *f = ctx;
    if (f->body && buf_span(f->body, data) < 0) {
        f->rc = err_set(&f->e, ERR_LIMIT, "answer larger than %zu bytes", f->body->max);
        http_call_cancel(c);
        loop_stop(f->l);
    }
}

static void on_end(struct http_call *c, int rc, const struct err *e, void *ctx) {
    struct fetch *f = ctx;
    (void)c;
    f->rc = rc;
    f->e = *e;
    loop_stop(f->l);
}

int http_fetch(const struct http_client_opts *co, const struct http_call_opts *o,
               unsigned *ret_status, struct buf *ret_body, struct err *e) {
    struct fetch f = {.body = ret_body, .rc = -ERR_INTERNAL, .e = ERR_INIT};
    struct http_client *cl = NULL;
    struct http_call_opts mine = *o;
    mine.on_head = on_head;
    mine.on_data = on_data;
    mine.on_end = on_end;
    mine.ctx = &f;
    int rc = loop_new(&f.l, e);
    if (rc < 0) {
        return rc;
    }
    rc = http_client_new(f.l, co, &cl, e);
    rc = rc < 0 ? rc : http_call_start(cl, &mine, NULL, e);
    rc = rc < 0 ? rc : loop_run(f.l, e);
    if (rc == 0) {
        rc = f.rc;
        if (rc < 0) {
            IGNORE_ERR(err_set(e, (enum err_code) - rc, "%s", f.e.msg), "returned below");
        } else {
            *ret_status = f.status;
        }
    }
    http_client_free(cl);
    loop_free(f.l);
    return rc;
}
