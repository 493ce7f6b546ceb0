/* Calls: one request, one answer, one deadline. Reads are repeated until it; what changes something goes out once. */
#include "internal/etcd/etcd_int.h"

#include "internal/base/rand.h"

#include <stdlib.h>

enum { AGAIN_MS = 50 };

static const char TIMED_OUT[] = "etcdserver: request timed out";
static const char LOST[] = "etcdserver: request timed out, possibly due to connection lost";
static const char NO_LEADER[] = "etcdserver: no leader";
static const char LEARNER[] = "etcdserver: rpc not supported for learner";
static const char TOO_MANY[] = "etcdserver: too many requests";

/* ---- errors ---- */

/* Texts that callers compare are constants, as with the engine. */
static const char *known_text(const char *text) {
    const char *const known[] = {STORE_E_COMPACTED,
                                 STORE_E_FUTURE,
                                 STORE_E_EMPTY_KEY,
                                 STORE_E_TOO_LARGE,
                                 STORE_E_TOO_MANY_OPS,
                                 STORE_E_DUP_KEY,
                                 STORE_E_NO_SPACE,
                                 STORE_E_NO_LEASE,
                                 STORE_E_LEASE_EXISTS,
                                 STORE_E_LEASE_TTL,
                                 STORE_E_VALUE_GIVEN,
                                 STORE_E_LEASE_GIVEN,
                                 STORE_E_NO_KEY,
                                 TIMED_OUT,
                                 LOST,
                                 NO_LEADER,
                                 LEARNER,
                                 TOO_MANY};
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        if (strcmp(known[i], text) == 0) {
            return known[i];
        }
    }
    return NULL;
}

static int fail(struct err *e, enum err_code code, const char *text) {
    int rc = err_set(e, code, "%s", text);
    e->pub = text;
    return rc;
}

bool etcd_status(const struct h2_headers *hs, struct err *ret) {
    struct span status = SPAN_EMPTY;
    struct span message = SPAN_EMPTY;
    for (size_t i = 0; i < hs->n; i++) {
        if (span_eq_str(hs->h[i].name, "grpc-status")) {
            status = hs->h[i].value;
        } else if (span_eq_str(hs->h[i].name, "grpc-message")) {
            message = hs->h[i].value;
        } else if (hs->kind == H2_RESPONSE && span_eq_str(hs->h[i].name, ":status") &&
                   !span_eq_str(hs->h[i].value, "200")) {
            err_set(ret, ERR_UNAVAILABLE, "it answers with HTTP status %.*s",
                    SPAN_FMT(hs->h[i].value));
            return true;
        }
    }
    if (!status.n) {
        return false;
    }
    if (grpc_status(status, message, ret) < 0) {
        ret->pub = known_text(ret->msg);
        if (ret->pub == TOO_MANY) {
            ret->code = ERR_BUSY;
        }
    }
    return true;
}

/* Said before anything is proposed: the request was not done and may go to another member. */
static bool not_done(const struct err *e) {
    return e->pub == NO_LEADER || e->pub == LEARNER;
}

/* ---- life ---- */

static void on_deadline(struct loop_timer *t);

struct ecall *ecall_new(struct etcd *s, const char *path, ecall_done *done, void *ctx) {
    struct ecall *c = new_zero(struct ecall);
    list_init(&c->link);
    c->s = s;
    c->path = path;
    c->done = done;
    c->ctx = ctx;
    buf_init(&c->out, LIM_ETCD_REQUEST);
    c->mark = grpc_begin(&c->out);
    return c;
}

static void leave(struct ecall *c) {
    struct etcd *s = c->s;
    list_del(&c->link);
    loop_timer_stop(&c->again);
    if (c->running) {
        s->n_running--;
        if (c->sid && s->h2) {
            h2_set_ctx(s->h2, c->sid, NULL);
            if (!c->ended) {
                h2_reset(s->h2, c->sid, H2_CANCEL);
                econn_kick(s);
            }
        }
    } else if (c->queued) {
        s->n_waiting--;
    }
    c->running = c->queued = c->ended = c->status_seen = false;
    c->sid = 0;
    c->sent = 0;
    err_reset(&c->status);
}

static void release(struct ecall *own_c) {
    loop_timer_stop(&own_c->deadline);
    grpc_reader_fini(&own_c->in);
    buf_fini(&own_c->out);
    free(own_c);
}

static void finish(struct ecall *own_c, int rc, struct span message, const struct err *e) {
    struct etcd *s = own_c->s;
    struct err mine = ERR_INIT;
    if (rc < 0) {
        mine = *e;
    }
    leave(own_c);
    own_c->done(own_c, rc, message, &mine);
    release(own_c);
    if (s->state == CONN_READY && !s->closing) {
        econn_drained(s);
        ecall_dispatch(s);
    }
}

void ecall_cancel(struct ecall *own_c) {
    if (own_c) {
        leave(own_c);
        release(own_c);
    }
}

static void wait_turn(struct ecall *c) {
    c->queued = true;
    c->s->n_waiting++;
    list_add_tail(&c->s->waiting, &c->link);
}

void ecall_start(struct ecall *own_c) {
    struct etcd *s = own_c->s;
    uint64_t ms = ETCD_REQUEST_MS;
    grpc_end(&own_c->out, own_c->mark);
    if (buf_ok(&own_c->out) < 0) {
        ms = 0;
        fail(&own_c->refused, ERR_INVALID, STORE_E_TOO_LARGE);
    } else if (s->n_waiting >= LIM_ETCD_WAITING || s->closing) {
        ms = 0;
        err_set(&own_c->refused, ERR_UNAVAILABLE,
                s->closing ? "the store is closing" : "too many requests wait for etcd");
    } else if (own_c->refused.code) {
        ms = 0;
    }
    loop_timer_start(s->l, &own_c->deadline, ms * NS_PER_MS, on_deadline, "etcd request");
    own_c->due_ns = loop_now(s->l) + ms * NS_PER_MS;
    wait_turn(own_c);
    if (ms) {
        loop_before_sleep(s->l, &s->dispatch, ecall_dispatch_hook, s);
    }
}

static void on_deadline(struct loop_timer *t) {
    struct ecall *c = CONTAINER_OF(t, struct ecall, deadline);
    struct err e = ERR_INIT;
    int rc;
    if (c->refused.code) {
        e = c->refused;
        rc = -(int)e.code;
    } else if (c->running && !c->is_read) {
        rc = fail(&e, ERR_TIMEOUT, TIMED_OUT);
    } else {
        rc = err_set(&e, ERR_UNAVAILABLE, "etcd does not answer: %s",
                     c->s->in_trouble ? c->s->trouble
                     : c->last.code   ? err_public(&c->last)
                                      : "the request timed out");
    }
    finish(c, rc, SPAN_EMPTY, &e);
}

/* ---- going out ---- */

size_t ecall_request_headers(struct etcd *s, const char *path, struct h2_header *hs) {
    const struct endpoint *ep = &s->ep[s->at_ep];
    const struct h2_header all[] = {
        {SPAN_LIT(":method"), SPAN_LIT("POST")},
        {SPAN_LIT(":scheme"), ep->tls ? SPAN_LIT("https") : SPAN_LIT("http")},
        {SPAN_LIT(":path"), span_str(path)},
        {SPAN_LIT(":authority"), span_str(ep->authority)},
        {SPAN_LIT("content-type"), SPAN_LIT("application/grpc")},
        {SPAN_LIT("te"), SPAN_LIT("trailers")},
        {SPAN_LIT("user-agent"), SPAN_LIT("kfarm")},
        /* A member that lost its leader says so instead of letting us wait. */
        {SPAN_LIT("hasleader"), SPAN_LIT("true")},
    };
    memcpy(hs, all, sizeof(all));
    return ARRAY_LEN(all);
}

static void run(struct ecall *c) {
    struct etcd *s = c->s;
    struct h2_header hs[LIM_H2_FIELDS];
    char timeout[24];
    size_t n = ecall_request_headers(s, c->path, hs);
    uint64_t now = loop_now(s->l);
    uint64_t left_ms = c->due_ns > now ? (c->due_ns - now) / NS_PER_MS + 1 : 1;
    IGNORE_ERR(str_put(timeout, sizeof(timeout), "%llum", (unsigned long long)left_ms), "fits");
    hs[n++] = (struct h2_header){SPAN_LIT("grpc-timeout"), span_str(timeout)};
    if (h2_request(s->h2, hs, n, true, &c->sid) < 0) {
        c->sid = 0;
        return;
    }
    list_del(&c->link);
    s->n_waiting--;
    c->queued = false;
    c->running = true;
    list_add_tail(&s->running, &c->link);
    if (s->n_running++ == 0) {
        econn_busy(s);
    }
    h2_set_ctx(s->h2, c->sid, c);
    grpc_reader_fini(&c->in);
    grpc_reader_init(&c->in);
    econn_kick(s);
}

void ecall_dispatch(struct etcd *s) {
    if (s->state != CONN_READY && s->state != CONN_PROBING) {
        return;
    }
    uint32_t theirs = h2_peer_max_streams(s->h2);
    for (LIST_EACH(p, next, &s->waiting)) {
        struct ecall *c = CONTAINER_OF(p, struct ecall, link);
        if (s->n_running >= LIM_ETCD_CALLS || s->n_running + 1 >= theirs ||
            !h2_can_request(s->h2)) {
            return; /* one stream is the watch's */
        }
        if (!c->refused.code && (s->state == CONN_READY || c->is_probe)) {
            run(c);
        }
    }
}

void ecall_dispatch_hook(void *ctx) {
    ecall_dispatch(ctx);
}

void ecall_pull(struct ecall *c, uint8_t *p, size_t max, struct h2_pull *ret) {
    size_t n = c->out.n - c->sent;
    n = n > max ? max : n;
    memcpy(p, c->out.p + c->sent, n);
    c->sent += n;
    ret->n = n;
    ret->eof = c->sent == c->out.n;
}

/* ---- coming back ---- */

static void on_again(struct loop_timer *t) {
    struct ecall *c = CONTAINER_OF(t, struct ecall, again);
    list_del(&c->link);
    wait_turn(c);
    ecall_dispatch(c->s);
}

/* The deadline goes on. */
static void again(struct ecall *c, const struct err *why, uint64_t after_ms) {
    c->last = *why;
    leave(c);
    list_add_tail(&c->s->resting, &c->link);
    loop_timer_start(c->s->l, &c->again, after_ms * NS_PER_MS, on_again, "etcd read");
}

/* The server, or the way there, said no. */
static void refused(struct ecall *c, const struct err *why, bool never_seen) {
    struct etcd *s = c->s;
    bool elsewhere = not_done(why);
    struct err e = *why;
    if (!c->is_probe && !s->closing &&
        (never_seen || elsewhere || (c->is_read && why->code == ERR_UNAVAILABLE))) {
        again(c, why, AGAIN_MS / 2 + rand_below(AGAIN_MS));
        if (elsewhere) {
            econn_fail(s, &e);
        }
        return;
    }
    if (!c->is_read && e.code == ERR_UNAVAILABLE) {
        e.code = ERR_INTERNAL; /* perhaps done: not to be mistaken for what can be repeated */
    } else if (e.code == ERR_CANCELLED) {
        e.code = ERR_TIMEOUT;
    }
    finish(c, -(int)e.code, SPAN_EMPTY, &e);
}

void ecall_headers(struct ecall *c, const struct h2_headers *hs) {
    if (!c->status_seen) {
        c->status_seen = etcd_status(hs, &c->status);
    }
}

void ecall_data(struct ecall *c, struct span data) {
    struct err e = ERR_INIT;
    if (grpc_feed(&c->in, data) < 0) {
        int rc = err_set(&e, ERR_LIMIT, "etcd's answer is larger than %d bytes", LIM_GRPC_MESSAGE);
        finish(c, rc, SPAN_EMPTY, &e);
    }
}

void ecall_ended(struct ecall *c) {
    struct span message = SPAN_EMPTY;
    struct err e = ERR_INIT;
    c->ended = c->sent == c->out.n;
    if (c->status_seen && c->status.code) {
        e = c->status;
        refused(c, &e, false);
        return;
    }
    int rc = grpc_next(&c->in, &message);
    if (!c->status_seen || rc == 0 || rc == -ERR_INVALID) {
        err_set(&e, c->is_read ? ERR_UNAVAILABLE : ERR_INTERNAL, "the answer is no gRPC answer");
        refused(c, &e, false);
        return;
    }
    if (rc < 0) {
        err_set(&e, ERR_LIMIT, "etcd's answer is larger than %d bytes", LIM_GRPC_MESSAGE);
    }
    finish(c, rc < 0 ? rc : 0, message, &e);
}

/* Without an end: a reset, or the connection said that it never looked at it. */
void ecall_closed(struct ecall *c, uint32_t code) {
    struct err e = ERR_INIT;
    c->ended = true;
    if (c->status_seen && c->status.code) {
        e = c->status;
    } else {
        fail(&e, ERR_UNAVAILABLE, LOST);
    }
    refused(c, &e, code == H2_REFUSED);
}

void ecall_lost(struct etcd *s, const struct err *why) {
    struct list lost;
    list_init(&lost);
    while (!list_empty(&s->running)) {
        struct list *p = s->running.next;
        list_del(p);
        list_add_tail(&lost, p);
    }
    while (!list_empty(&lost)) {
        struct ecall *c = CONTAINER_OF(lost.next, struct ecall, link);
        struct err e = ERR_INIT;
        if (c->is_probe) {
            e = *why;
        } else {
            fail(&e, ERR_UNAVAILABLE, LOST);
        }
        refused(c, &e, c->sent == 0);
    }
    for (LIST_EACH(p, next, &s->waiting)) {
        struct ecall *c = CONTAINER_OF(p, struct ecall, link);
        if (c->is_probe) {
            ecall_cancel(c);
        }
    }
}

/* Whatever is under way ends here: answers that have not come will not be waited for. */
void ecall_fini(struct etcd *s) {
    struct list *const lists[] = {&s->waiting, &s->running, &s->resting};
    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        while (!list_empty(lists[i])) {
            struct ecall *c = CONTAINER_OF(lists[i]->next, struct ecall, link);
            struct err e = ERR_INIT;
            int rc = c->running && !c->is_read
                         ? fail(&e, ERR_INTERNAL, LOST)
                         : err_set(&e, ERR_UNAVAILABLE, "the store is closing");
            finish(c, rc, SPAN_EMPTY, &e);
        }
    }
}
