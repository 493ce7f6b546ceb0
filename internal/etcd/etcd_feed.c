/* The feed: one etcd watch of the whole prefix, resumed where it stopped, that gives every watch its events; and the writes
 * whose answers wait for it.
 *
 * A watch that wants revisions which the feed has passed makes the feed start again from there. Every watch knows its own
 * next revision and skips what it has had, so nobody gets an event twice.
 */
#include "internal/etcd/etcd_int.h"

#include "internal/base/rand.h"

#include "internal/wire/wire.h"

#include <stdlib.h>

enum { BATCH_MAX = 1 << 30, SCRATCH_MAX = 1 << 28, PROGRESS_AGAIN_MS = 100, SYNC_FENCE_MS = 20 };

/* Where manual progress answers cannot be trusted, a key that nobody sees is written: its event is the proof. */
static const struct span FENCE = {(const uint8_t *)"/\xff\xffkfarm", 8};

struct store_watch {
    const struct store_impl *impl;
    struct list link;
    struct etcd *s;
    struct span key, end;
    store_watch_cb *cb;
    void *ctx;
    int64_t next;
    uint32_t filters;
    bool prev_kv, paused, cancelled, want_progress, in_call, dead;
    uint8_t own[];
};

static struct store_watch *watch_of(struct list *p) {
    return CONTAINER_OF(p, struct store_watch, link);
}

static bool is_active(const struct store_watch *w) {
    return !w->paused && !w->cancelled && !w->dead;
}

static bool any_active(const struct etcd *s) {
    for (LIST_EACH(p, next, &s->watches)) {
        if (is_active(watch_of(p))) {
            return true;
        }
    }
    return false;
}

/* ---- writes that wait ---- */

static void on_held_late(struct loop_timer *t) {
    struct eheld *h = CONTAINER_OF(t, struct eheld, deadline);
    list_del(&h->link);
    h->release(h, false);
}

void efeed_hold(struct etcd *s, struct eheld *h, int64_t rev, eheld_done *done) {
    list_init(&h->link);
    h->rev = rev;
    h->release = done;
    if (!s->feeding || s->next > rev) {
        done(h, true);
        return;
    }
    list_add_tail(&s->held, &h->link);
    loop_timer_start(s->l, &h->deadline, ETCD_REQUEST_MS * NS_PER_MS, on_held_late, "etcd feed");
}

/* Releasing may start and stop watches and writes. */
static void release_held(struct etcd *s) {
    for (bool again = true; again;) {
        again = false;
        for (LIST_EACH(p, next, &s->held)) {
            struct eheld *h = CONTAINER_OF(p, struct eheld, link);
            if (!s->feeding || s->next > h->rev) {
                list_del(p);
                loop_timer_stop(&h->deadline);
                h->release(h, true);
                again = true;
                break;
            }
        }
    }
}

/* ---- the stream ---- */

static void stream_close(struct etcd *s) {
    if (s->ws.sid && s->h2) {
        int32_t sid = s->ws.sid;
        s->ws.sid = 0;
        h2_reset(s->h2, sid, H2_CANCEL);
        econn_kick(s);
    }
    s->ws.sid = 0;
    s->ws.sent = 0;
    s->ws_created = false;
    buf_fini(&s->ws.out);
    buf_init(&s->ws.out, LIM_ETCD_REQUEST);
    grpc_reader_fini(&s->ws.in);
    grpc_reader_init(&s->ws.in);
    arena_reset(&s->batch_mem);
    s->n_batch = 0;
    loop_timer_stop(&s->progress_timer);
}

static void stream_send(struct etcd *s, size_t mark) {
    grpc_end(&s->ws.out, mark);
    h2_wake(s->h2, s->ws.sid);
    econn_kick(s);
}

/* The lowest revision that somebody still wants. */
static int64_t wanted_from(const struct etcd *s, bool *ret_prev) {
    int64_t from = INT64_MAX;
    *ret_prev = false;
    for (LIST_EACH(p, next, &s->watches)) {
        const struct store_watch *w = watch_of(p);
        if (is_active(w)) {
            from = w->next < from ? w->next : from;
            *ret_prev |= w->prev_kv;
        }
    }
    return from;
}

static void stream_open(struct etcd *s) {
    struct h2_header hs[LIM_H2_FIELDS];
    size_t n = ecall_request_headers(s, "/etcdserverpb.Watch/Watch", hs);
    stream_close(s);
    int64_t from = wanted_from(s, &s->ws_prev);
    s->next = from < s->next ? from : s->next;
    if (h2_request(s->h2, hs, n, true, &s->ws.sid) < 0) {
        s->ws.sid = 0; /* the connection is going away: the next one brings it */
        return;
    }
    size_t mark = grpc_begin(&s->ws.out);
    etcd_enc_watch_create(&s->ws.out, &s->ns, s->next, s->ws_prev);
    stream_send(s, mark);
}

/* After any change of who wants what. */
static void adjust(struct etcd *s) {
    bool prev = false;
    if (!any_active(s)) {
        if (s->feeding) {
            s->feeding = false;
            efeed_heard(s, s->rev);
            stream_close(s);
            release_held(s);
        }
        return;
    }
    if (s->rev == 0) {
        return; /* the first connection tells where "now" is */
    }
    int64_t from = wanted_from(s, &prev);
    bool restart = from < s->next || (prev && !s->ws_prev);
    if (!s->feeding) {
        s->feeding = true;
        s->next = from <= s->rev ? from : s->rev + 1;
        s->rev = s->next - 1; /* this much has been given */
    }
    if (s->state == CONN_READY && (restart || !s->ws.sid)) {
        stream_open(s);
    }
}

void efeed_connected(struct etcd *s) {
    for (LIST_EACH(p, next, &s->watches)) {
        struct store_watch *w = watch_of(p);
        w->next = w->next ? w->next : s->rev + 1;
    }
    adjust(s);
}

void efeed_lost(struct etcd *s) {
    stream_close(s);
}

void efeed_pull(struct etcd *s, uint8_t *p, size_t max, struct h2_pull *ret) {
    size_t n = s->ws.out.n - s->ws.sent;
    n = n > max ? max : n;
    if (n) {
        memcpy(p, s->ws.out.p + s->ws.sent, n);
    }
    s->ws.sent += n;
    if (s->ws.sent == s->ws.out.n) {
        buf_reset(&s->ws.out);
        s->ws.sent = 0;
    }
    ret->n = n;
}

/* ---- giving ---- */

static bool in_range(const struct store_watch *w, struct span key) {
    if (!w->end.n) {
        return span_eq(key, w->key);
    }
    bool open_end = w->end.n == 1 && w->end.p[0] == 0;
    return span_cmp(key, w->key) >= 0 && (open_end || span_cmp(key, w->end) < 0);
}

static bool wants(const struct store_watch *w, const struct store_event *ev) {
    if (ev->kv.mod_rev < w->next || span_eq(ev->kv.key, FENCE) || !in_range(w, ev->kv.key)) {
        return false;
    }
    return !(w->filters & (ev->type == STORE_PUT ? STORE_NO_PUT : STORE_NO_DELETE));
}

static void call(struct store_watch *w, const struct store_watch_msg *m) {
    w->in_call = true;
    int rc = w->cb(w->ctx, w, m);
    w->in_call = false;
    if (w->dead) {
        list_del(&w->link);
        free(w);
    } else if (rc == STORE_WATCH_PAUSE) {
        w->paused = true;
    }
}

static bool scratch_room(struct etcd *s, size_t n) {
    if (n > s->cap_scratch) {
        const struct store_event **p = mem_array(s->scratch, n * 2, sizeof(*p), SCRATCH_MAX);
        if (!p) {
            return false;
        }
        s->scratch = p;
        s->cap_scratch = n * 2;
    }
    return true;
}

static void give_one(struct store_watch *w, size_t n_events, int64_t upto) {
    struct etcd *s = w->s;
    size_t n = 0;
    for (size_t i = 0; i < n_events; i++) {
        if (wants(w, &s->batch[i])) {
            s->scratch[n++] = &s->batch[i];
        }
    }
    if (w->next <= upto) {
        w->next = upto + 1;
    }
    if (n) {
        s->st_count.n_events += n;
        const struct store_watch_msg m = {
            .kind = STORE_WATCH_EVENTS, .events = s->scratch, .n = n, .rev = upto};
        call(w, &m);
    }
}

/* Runs `one` for each watch that is active now; callbacks may start and stop any. */
static void each_watch(struct etcd *s, void (*one)(struct store_watch *w, void *ctx), void *ctx) {
    struct list now;
    list_init(&now);
    while (!list_empty(&s->watches)) {
        struct list *p = s->watches.next;
        list_del(p);
        list_add_tail(&now, p);
    }
    while (!list_empty(&now)) {
        struct store_watch *w = watch_of(now.next);
        list_del(&w->link);
        list_add_tail(&s->watches, &w->link);
        if (is_active(w)) {
            one(w, ctx);
        }
    }
}

struct give {
    size_t n;
    int64_t upto;
};

static void give_cb(struct store_watch *w, void *ctx) {
    const struct give *g = ctx;
    give_one(w, g->n, g->upto);
}

/* The first n events of the batch, and the word that there were no others up to `upto`. */
static void give(struct etcd *s, size_t n, int64_t upto) {
    struct give g = {n, upto};
    if (upto < s->next) {
        return;
    }
    s->next = upto + 1;
    s->rev = upto > s->rev ? upto : s->rev;
    s->giving = true;
    each_watch(s, give_cb, &g);
    s->giving = false;
}

static void progress_cb(struct store_watch *w, void *ctx) {
    struct etcd *s = w->s;
    (void)ctx;
    if (w->want_progress && w->next >= s->next) {
        w->want_progress = false;
        const struct store_watch_msg m = {.kind = STORE_WATCH_PROGRESS, .rev = s->next - 1};
        call(w, &m);
    }
}

static void progress_made(struct etcd *s) {
    s->progress_wanted = false;
    loop_timer_stop(&s->progress_timer);
    s->giving = true;
    each_watch(s, progress_cb, NULL);
    s->giving = false;
}

struct cancel {
    int64_t before, compact_rev;
    int rc;
    const char *reason;
};

static void cancel_cb(struct store_watch *w, void *ctx) {
    const struct cancel *k = ctx;
    if (w->next >= k->before) {
        return;
    }
    w->cancelled = true;
    const struct store_watch_msg m = {.kind = STORE_WATCH_CANCELLED,
                                      .rev = w->s->rev,
                                      .compact_rev = k->compact_rev,
                                      .rc = k->rc,
                                      .reason = k->reason};
    call(w, &m);
}

static void cancel(struct etcd *s, const struct cancel *k) {
    struct cancel mine = *k;
    s->giving = true;
    each_watch(s, cancel_cb, &mine);
    s->giving = false;
}

/* What callbacks asked for while events were given. */
static void settle(struct etcd *s) {
    adjust(s);
    release_held(s);
    efeed_ask_sync(s);
}

/* ---- receiving ---- */

static bool batch_room(struct etcd *s) {
    if (s->n_batch == s->cap_batch) {
        size_t cap = s->cap_batch ? s->cap_batch * 2 : 32;
        struct store_event *v = mem_array(s->batch, cap, sizeof(*v), SCRATCH_MAX);
        if (!v) {
            return false;
        }
        s->batch = v;
        s->cap_batch = cap;
    }
    return true;
}

static bool copy_kv(struct arena *a, struct store_kv *kv) {
    kv->key = arena_copy(a, kv->key);
    kv->value = arena_copy(a, kv->value);
    return kv->key.p && kv->value.p;
}

/* A member that lags behind may send what has been given before (etcd#20221): it is skipped. */
static int on_event(void *ctx, const struct store_event *ev) {
    struct etcd *s = ctx;
    if (ev->kv.mod_rev < s->next) {
        return 0;
    }
    if (s->n_batch && s->batch[s->n_batch - 1].kv.mod_rev > ev->kv.mod_rev) {
        return -ERR_INVALID;
    }
    if (!batch_room(s)) {
        return -ERR_NOMEM;
    }
    struct store_event *to = &s->batch[s->n_batch];
    *to = *ev;
    if (!copy_kv(&s->batch_mem, &to->kv) || (to->has_prev && !copy_kv(&s->batch_mem, &to->prev))) {
        return -ERR_NOMEM;
    }
    s->n_batch++;
    return 0;
}

/* The last revision of a piece may go on in the next one: it is kept. */
static bool keep_tail(struct etcd *s, size_t from) {
    struct arena fresh = ARENA_INIT(BATCH_MAX);
    size_t n = s->n_batch - from;
    for (size_t i = 0; i < n; i++) {
        s->batch[i] = s->batch[from + i];
        if (!copy_kv(&fresh, &s->batch[i].kv) ||
            (s->batch[i].has_prev && !copy_kv(&fresh, &s->batch[i].prev))) {
            arena_fini(&fresh);
            return false;
        }
    }
    arena_fini(&s->batch_mem);
    s->batch_mem = fresh;
    s->n_batch = n;
    return true;
}

/* False: the stream is another one now. */
static bool take_events(struct etcd *s, const struct watch_answer *a, struct err *e) {
    int32_t sid = s->ws.sid;
    if (etcd_dec_events(a->events, &s->ns, on_event, s) < 0 || !scratch_room(s, s->n_batch + 1)) {
        err_set(e, ERR_UNAVAILABLE, "the watch sends malformed or too many events");
        return false;
    }
    if (!s->n_batch) {
        return true;
    }
    int64_t last = s->batch[s->n_batch - 1].kv.mod_rev;
    size_t n = s->n_batch;
    while (a->fragment && n && s->batch[n - 1].kv.mod_rev == last) {
        n--;
    }
    if (n) {
        give(s, n, s->batch[n - 1].kv.mod_rev);
    }
    if (!keep_tail(s, n)) {
        err_set(e, ERR_UNAVAILABLE, "a revision is larger than %d bytes", BATCH_MAX);
        return false;
    }
    settle(s);
    return s->ws.sid == sid;
}

static void cancelled(struct etcd *s, const struct watch_answer *a, struct err *e) {
    if (a->compact_rev) {
        struct cancel k = {.before = a->compact_rev > s->next ? a->compact_rev : s->next + 1,
                           .compact_rev = a->compact_rev,
                           .rc = -ERR_GONE,
                           .reason = STORE_E_COMPACTED};
        s->compact_rev = a->compact_rev > s->compact_rev ? a->compact_rev : s->compact_rev;
        stream_close(s);
        s->next = k.before; /* whoever is left wants nothing older */
        cancel(s, &k);
        settle(s);
        return;
    }
    err_set(e, ERR_UNAVAILABLE, "the watch was ended: %.*s", SPAN_FMT(a->reason));
}

static bool take(struct etcd *s, struct span message, struct err *e) {
    struct watch_answer a;
    if (etcd_dec_watch(message, &a) < 0) {
        err_set(e, ERR_UNAVAILABLE, "the watch sends malformed messages");
        return false;
    }
    efeed_heard(s, a.head.rev);
    if (a.canceled) {
        cancelled(s, &a, e);
        return false;
    }
    if (a.created) {
        s->ws_created = true;
        econn_well(s);
        if (s->progress_wanted) {
            efeed_ask_progress(s);
        }
    }
    int32_t sid = s->ws.sid;
    size_t before = s->n_batch;
    if (!take_events(s, &a, e)) {
        return false;
    }
    bool quiet = !a.created && !a.fragment && before == 0 && s->n_batch == 0;
    bool manual = a.watch_id == -1;
    if (quiet && !a.has_events && (!manual || s->sound_progress)) {
        give(s, 0, a.head.rev);
        if (manual && a.head.rev + 1 >= s->next) {
            progress_made(s);
        }
        settle(s);
    }
    return s->ws.sid == sid;
}

void efeed_data(struct etcd *s, struct span data) {
    struct err e = ERR_INIT;
    struct span message;
    int rc = grpc_feed(&s->ws.in, data);
    bool on = true;
    while (rc >= 0 && on && (rc = grpc_next(&s->ws.in, &message)) > 0) {
        on = take(s, message, &e);
    }
    if (rc < 0 && !e.code) {
        err_set(&e, ERR_UNAVAILABLE, "the watch sends what is no gRPC, or too much at once");
    }
    if (e.code) {
        econn_fail(s, &e);
    }
}

void efeed_headers(struct etcd *s, const struct h2_headers *hs) {
    struct err e = ERR_INIT;
    if (etcd_status(hs, &e)) {
        if (!e.code) {
            err_set(&e, ERR_UNAVAILABLE, "the watch was ended");
        }
        err_wrap(&e, "watch");
        econn_fail(s, &e);
    }
}

void efeed_closed(struct etcd *s, uint32_t code) {
    struct err e = ERR_INIT;
    s->ws.sid = 0;
    err_set(&e, ERR_UNAVAILABLE, "the watch was ended (code %u)", code);
    econn_fail(s, &e);
}

/* ---- where the cluster is ---- */

void efeed_heard(struct etcd *s, int64_t rev) {
    s->heard = rev > s->heard ? rev : s->heard;
    if (!s->feeding && s->heard > s->rev) {
        s->rev = s->heard;
    }
}

void efeed_history(struct etcd *s, uint64_t cluster_id, int64_t rev) {
    bool other = s->cluster_id && cluster_id && s->cluster_id != cluster_id;
    s->cluster_id = cluster_id ? cluster_id : s->cluster_id;
    if (!other && rev >= s->heard) {
        efeed_heard(s, rev);
        return;
    }
    static const char reason[] = "the cluster's history is another one";
    struct cancel k = {.before = INT64_MAX, .rc = -ERR_GONE, .reason = reason};
    s->rev = s->heard = rev;
    s->compact_rev = 0;
    for (LIST_EACH(p, next, &s->watches)) {
        watch_of(p)->paused = false;
    }
    cancel(s, &k);
    settle(s);
}

/* ---- progress ---- */

static void on_fence_gone(struct ecall *c, int rc, struct span message, struct err *e) {
    (void)c;
    (void)rc;
    (void)message;
    (void)
        e; /* one that stays is overwritten by the next and seen by nobody who reads whole prefixes of names */
}

static void fence_remove(struct etcd *s) {
    struct ecall *c = ecall_new(s, "/etcdserverpb.KV/DeleteRange", on_fence_gone, NULL);
    etcd_enc_key(&c->out, 1, &s->ns, FENCE);
    ecall_start(c);
}

static void on_fence_passed(struct eheld *h, bool in_time) {
    struct etcd *s = h->s;
    s->fencing = false;
    fence_remove(s);
    if (in_time && s->feeding) {
        progress_made(s);
        settle(s);
    } else if (s->progress_wanted) {
        efeed_ask_progress(s);
    }
}

static void on_fence(struct ecall *c, int rc, struct span message, struct err *e) {
    struct etcd *s = c->s;
    struct answer_head h = {0};
    (void)e;
    if (rc < 0 || etcd_dec_first_head(message, &h) < 0) {
        s->fencing = false; /* asked again with the next connection, or by the timer */
        return;
    }
    efeed_hold(s, &s->fence_hold, h.rev, on_fence_passed);
}

static void on_progress_timer(struct loop_timer *t) {
    efeed_ask_progress(CONTAINER_OF(t, struct etcd, progress_timer));
}

/* etcd does not answer while any watch of the stream lags: asked again until it does. */
void efeed_ask_progress(struct etcd *s) {
    if (!s->progress_wanted || !s->feeding || s->closing) {
        return;
    }
    if (s->ws_created && s->sound_progress) {
        size_t mark = grpc_begin(&s->ws.out);
        size_t m = wire_begin(&s->ws.out, 3);
        wire_end(&s->ws.out, m);
        stream_send(s, mark);
    } else if (s->ws_created && !s->fencing) {
        s->fencing = true;
        struct ecall *c = ecall_new(s, "/etcdserverpb.KV/Put", on_fence, NULL);
        etcd_enc_key(&c->out, 1, &s->ns, FENCE);
        ecall_start(c);
    }
    if (s->ws_created) {
        loop_timer_start(s->l, &s->progress_timer, PROGRESS_AGAIN_MS * NS_PER_MS, on_progress_timer,
                         "etcd progress");
    }
}

/* Without sound answers a key would have to be written: the events that are on their way are waited for first. */
void efeed_ask_sync(struct etcd *s) {
    if (!s->sync_held || s->progress_wanted || s->closing) {
        return;
    }
    s->progress_wanted = true;
    if (s->sound_progress) {
        efeed_ask_progress(s);
    } else {
        loop_timer_start(s->l, &s->progress_timer, SYNC_FENCE_MS * NS_PER_MS, on_progress_timer,
                         "etcd progress");
    }
}

/* ---- store.h ---- */

int efeed_watch_start(struct store *st, const struct store_watch_req *q, store_watch_cb *cb,
                      void *ctx, struct store_watch **ret, struct err *e) {
    struct etcd *s = etcd_of(st);
    if (!q->key.n) {
        int rc = err_set(e, ERR_INVALID, "%s", STORE_E_EMPTY_KEY);
        e->pub = STORE_E_EMPTY_KEY;
        return rc;
    }
    if (q->start_rev < 0 || s->closing) {
        return err_set(e, ERR_INVALID, "a watch cannot start at revision %lld",
                       (long long)q->start_rev);
    }
    struct store_watch *w = mem_zero_alloc(sizeof(*w) + q->key.n + q->end.n);
    memcpy(w->own, q->key.p, q->key.n);
    if (q->end.n) {
        memcpy(w->own + q->key.n, q->end.p, q->end.n);
    }
    w->impl = s->impl;
    w->key = span_of(w->own, q->key.n);
    w->end = span_of(w->own + q->key.n, q->end.n);
    w->s = s;
    w->cb = cb;
    w->ctx = ctx;
    w->next = q->start_rev ? q->start_rev : s->rev ? s->rev + 1 : 0;
    w->filters = q->filters;
    w->prev_kv = q->prev_kv;
    list_add_tail(&s->watches, &w->link);
    *ret = w;
    if (!s->giving) {
        adjust(s);
    }
    return 0;
}

void efeed_watch_stop(struct store_watch *w) {
    struct etcd *s = w->s;
    w->dead = true;
    if (!w->in_call) {
        list_del(&w->link);
        free(w);
    }
    if (!s->giving && !s->closing) {
        adjust(s);
    }
}

void efeed_watch_resume(struct store_watch *w) {
    if (w->paused && !w->cancelled) {
        w->paused = false;
        if (!w->s->giving) {
            adjust(w->s);
        }
    }
}

void efeed_watch_progress(struct store_watch *w) {
    if (!w->cancelled) {
        w->want_progress = true;
        w->s->progress_wanted = true;
        efeed_ask_progress(w->s);
    }
}

int64_t efeed_watch_next_rev(const struct store_watch *w) {
    return w->next;
}

void efeed_init(struct etcd *s) {
    list_init(&s->watches);
    list_init(&s->held);
    s->fence_hold.s = s;
    s->batch_mem = (struct arena)ARENA_INIT(BATCH_MAX);
    buf_init(&s->ws.out, LIM_ETCD_REQUEST);
    grpc_reader_init(&s->ws.in);
}

void efeed_fini(struct etcd *s) {
    loop_timer_stop(&s->progress_timer);
    while (!list_empty(&s->held)) {
        struct eheld *h = CONTAINER_OF(s->held.next, struct eheld, link);
        list_del(&h->link);
        loop_timer_stop(&h->deadline);
        h->release(h, false);
    }
    while (!list_empty(&s->watches)) {
        struct store_watch *w = watch_of(s->watches.next);
        list_del(&w->link);
        free(w);
    }
    buf_fini(&s->ws.out);
    grpc_reader_fini(&s->ws.in);
    arena_fini(&s->batch_mem);
    free(s->batch);
    free(s->scratch);
}
