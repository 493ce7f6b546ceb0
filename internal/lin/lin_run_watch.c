/* Watches of a round, each on a stream of its own: cut off, resumed, paused, asked for progress. */
#include "internal/lin/lin_run.h"

#include "internal/base/rand.h"

static void stream_cut(struct stream *s) {
    if (s->call) {
        http_call_cancel(TAKE(s->call));
        grpc_reader_fini(&s->in);
    }
    stream_open(s);
}

static void reopen(struct loop_timer *t) {
    stream_cut(CONTAINER_OF(t, struct stream, timer));
}

static void on_watch_data(struct http_call *call, struct span data, void *ctx) {
    struct stream *s = ctx;
    struct round *r = s->r;
    struct span msg;
    struct watch_news n;
    (void)call;
    if (grpc_feed(&s->in, data) < 0) {
        round_fail(r, "a watch's messages cannot be read");
        return;
    }
    int rc;
    while ((rc = grpc_next(&s->in, &msg)) > 0) {
        round_clock(r);
        if (watch_lines(&r->text, msg, s->id, s->w.id, &n) < 0) {
            rc = -ERR_INVALID;
            break;
        }
        if (n.next > s->next) {
            s->next = n.next;
        }
        if (n.created && !s->w.start && s->next <= n.rev) {
            s->next = n.rev + 1;
        }
        s->created |= n.created;
        s->asked &= n.id >= 0;
        if (n.rev > r->rev) {
            r->rev = n.rev;
        }
        if (n.canceled) { /* by a compaction, or its disk could not be read: whoever wants all goes on where it was */
            s->ended = true;
            s->next = s->all ? s->next : 0;
            loop_timer_start(r->l, &s->timer, NS_PER_MS, reopen, "lin-watch");
        }
    }
    if (rc < 0) {
        round_fail(r, "a watch's messages cannot be read");
    }
}

static void on_watch_end(struct http_call *call, int rc, const struct err *e, void *ctx) {
    struct stream *s = ctx;
    (void)call;
    (void)rc;
    (void)e;
    s->call = NULL;
    grpc_reader_fini(&s->in);
    if (!s->r->finished) {
        loop_timer_start(s->r->l, &s->timer, NS_PER_MS, reopen, "lin-watch");
    }
}

void stream_open(struct stream *s) {
    struct round *r = s->r;
    if (s->call || r->finished || !round_open(r)) {
        return;
    }
    loop_timer_stop(&s->timer);
    AUTO(buf) struct buf msg = BUF_INIT(4096);
    AUTO(buf) struct buf frame = BUF_INIT(4096);
    struct err e = ERR_INIT;
    struct http_header head[3];
    bool lag = r->o.scenario == LIN_S_LAG;
    bool resume = s->all || (s->next && round_luck(r, 2));
    s->id = ++r->next_stream;
    s->asked = s->paused = s->created = s->ended = false;
    if (resume) { /* where it was cut off */
        s->w.start = s->next ? s->next : 1;
    } else {
        struct lin_sub span = {0};
        round_span(r, &span);
        bool whole = round_luck(r, 3) == 0;
        s->w.lo = whole ? 0 : span.lo;
        s->w.hi = whole ? LIM_LIN_KEYS : span.hi;
        s->w.filters = round_luck(r, 4) ? 0 : 1 + round_luck(r, 2);
        s->w.prev = round_luck(r, 2);
        struct stream *like = &r->streams[round_luck(r, (uint32_t)r->n_streams)];
        if (lag && like != s && !like->all && like->w.hi && round_luck(r, 2)) {
            s->w = like->w; /* many that want the same from the same place */
        }
        /* from now, from the past, from the compacted revision, from the future */
        uint32_t how = lag && round_luck(r, 3) ? 2 : round_luck(r, 4);
        s->w.start = how == 0   ? 0
                     : how == 1 ? 1 + round_luck(r, (uint32_t)r->rev)
                     : how == 2 ? r->compacted
                                : r->rev + 1 + round_luck(r, 5);
        s->next = s->w.start;
    }
    s->w.id = ++r->next_watch;
    watch_encode(&msg, &s->w, round_luck(r, 2), lag || r->o.scenario == LIN_S_SLOW);
    grpc_frame(&frame, buf_view(&msg));
    grpc_reader_init(&s->in);
    buf_fmt(&r->text, "watch %lld %lld %d %d %lld %u %d\n", (long long)s->w.id, (long long)s->id,
            s->w.lo, s->w.hi, (long long)s->w.start, s->w.filters, s->w.prev);
    struct http_call_opts o = {.method = "POST",
                               .target = "/etcdserverpb.Watch/Watch",
                               .headers = head,
                               .n_headers = users_head(r, 0, head),
                               .body = buf_view(&frame),
                               .stream_body = true,
                               .on_data = on_watch_data,
                               .on_end = on_watch_end,
                               .ctx = s};
    if (http_call_start(s->hc, &o, &s->call, &e) < 0) {
        round_fail(r, "starting a watch: %s", e.msg);
    }
}

void stream_ask(struct stream *s) {
    static const uint8_t ask[] = {0, 0, 0, 0, 2, 0x1a, 0}; /* WatchRequest{progress_request} */
    if (s->call && s->created && !s->asked && !s->ended) {
        s->asked = true;
        buf_fmt(&s->r->text, "ask %lld\n", (long long)s->id);
        http_call_write(s->call, span_of(ask, sizeof(ask)), false);
    }
}

/* What watchers do while nobody hurts the server. */
void stream_bother(struct round *r) {
    struct stream *s = &r->streams[round_luck(r, (uint32_t)r->n_streams)];
    switch (round_luck(r, 6)) {
    case 0:
        if (round_luck(r, 3) == 0) {
            stream_cut(s);
        }
        break;
    case 1:
        if (s->call && (!s->all || r->o.scenario == LIN_S_LAG)) {
            s->paused = !s->paused;
            http_call_pause(s->call, s->paused);
        }
        break;
    default: stream_ask(s); break;
    }
}
