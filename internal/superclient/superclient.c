#include "internal/superclient/superclient.h"

#include <stdlib.h>

struct superclient {
    struct loop *l;
    struct ipc *ch;
    super_event_cb *on_event;
    void *ctx;
};

struct pending {
    super_cb *done;
    void *ctx;
    struct err early;
    struct loop_hook hook;
};

static void on_msg(struct ipc *c, struct ipc_msg *m, void *ctx) {
    (void)c;
    struct superclient *s = ctx;
    AUTO(json_docp) struct json_doc *d = NULL;
    if (json_parse(m->body, 0, &d, NULL) == 0 && s->on_event) {
        s->on_event(s->ctx, (enum super_msg)m->type, json_root(d));
    }
}

static void on_close(struct ipc *c, void *ctx) {
    (void)c;
    struct superclient *s = ctx;
    loop_stop(s->l); /* without its supervisor a role has no purpose */
}

int superclient_new(struct loop *l, int own_fd, super_event_cb *on_event, void *ctx,
                    struct superclient **ret, struct err *e) {
    struct superclient *s = new_zero(struct superclient);
    const struct ipc_handler h = {on_msg, on_close, s};
    s->l = l;
    s->on_event = on_event;
    s->ctx = ctx;
    int rc = ipc_new(l, own_fd, &h, &s->ch, e);
    if (rc < 0) {
        free(s);
        return rc;
    }
    *ret = s;
    return 0;
}

void superclient_free(struct superclient *s) {
    if (s) {
        ipc_free(s->ch);
        free(s);
    }
}

static void replied(void *ctx, int rc, struct ipc_msg *m, const struct err *e) {
    struct pending *p = ctx;
    struct err mine = ERR_INIT;
    AUTO(json_docp) struct json_doc *d = NULL;
    int fd = -1;
    if (rc >= 0) {
        fd = TAKE_FD(m->fd);
        rc = json_parse(m->body, 0, &d, &mine);
        e = &mine;
    }
    p->done(p->ctx, rc, json_root(d), fd, e);
    free(p);
}

static void fail_later(void *ctx) {
    struct pending *p = ctx;
    p->done(p->ctx, -(int)p->early.code, NULL, -1, &p->early);
    free(p);
}

void super_call(struct superclient *s, enum super_msg type, const struct json *body, super_cb *done,
                void *ctx) {
    struct pending *p = new_zero(struct pending);
    AUTO(buf) struct buf b = BUF_INIT(LIM_IPC_MSG);
    p->done = done;
    p->ctx = ctx;
    if (json_write(body, 0, &b) < 0) {
        err_set(&p->early, ERR_LIMIT, "request to the supervisor is too large");
    } else if (ipc_call(s->ch, (uint16_t)type, buf_view(&b), -1, replied, p, &p->early) < 0 &&
               !p->early.code) {
        err_set(&p->early, ERR_UNAVAILABLE, "the supervisor cannot be reached");
    }
    if (p->early.code) {
        loop_before_sleep(s->l, &p->hook, fail_later, p);
    }
}
