/* Watch: many watches on one stream. A stream whose client does not read is paused: its watches stop at the store and
 * catch up from there later, so nothing is queued without bound. */
#include "internal/storesrv/srv_ns.h"

#include "internal/base/rand.h"
#include "internal/net/net.h"

#include <stdlib.h>

struct swatch {
    struct list link;
    struct wstream *ws;
    struct store_watch *w;
    int64_t id;
    bool prev_kv, fragment, progress, stopped;
    int64_t bare_rev; /* the compacted revision it started at: what was before is not told */
    bool quiet;       /* had no message since the last progress tick */
    bool sync_pending;
};

struct wstream {
    struct rpc *c;
    struct list watches;
    size_t n_watches;
    struct map by_id; /* of streams that have had many */
    int64_t next_id;
    struct loop_timer progress_timer;
    size_t syncs_pending; /* watches that have not answered a progress request yet */
    bool want_sync, paused;
};

enum { LOOK_THROUGH = 32 };

static struct span id_key(const int64_t *id) {
    return span_of(id, sizeof(*id));
}

static struct swatch *find(struct wstream *ws, int64_t id) {
    if (ws->by_id.n_slots) {
        return map_get(&ws->by_id, id_key(&id));
    }
    for (LIST_EACH(p, next, &ws->watches)) {
        struct swatch *w = CONTAINER_OF(p, struct swatch, link);
        if (w->id == id) {
            return w;
        }
    }
    return NULL;
}

static void add(struct wstream *ws, struct swatch *w) {
    list_init(&w->link);
    list_add_tail(&ws->watches, &w->link);
    ws->n_watches++;
    if (ws->by_id.n_slots) {
        map_put(&ws->by_id, id_key(&w->id), w);
    } else if (ws->n_watches > LOOK_THROUGH) {
        for (LIST_EACH(p, next, &ws->watches)) {
            struct swatch *x = CONTAINER_OF(p, struct swatch, link);
            map_put(&ws->by_id, id_key(&x->id), x);
        }
    }
}

static void stop(struct swatch *w) {
    if (w->sync_pending) {
        w->ws->syncs_pending--;
    }
    list_del(&w->link);
    w->ws->n_watches--;
    if (w->ws->by_id.n_slots) {
        map_del(&w->ws->by_id, id_key(&w->id));
    }
    store_watch_stop(w->w);
    free(w);
}

static void drop(struct rpc *c) {
    struct wstream *ws = c->state;
    c->state = NULL;
    loop_timer_stop(&ws->progress_timer);
    while (!list_empty(&ws->watches)) {
        stop(CONTAINER_OF(ws->watches.next, struct swatch, link));
    }
    c->v->n_streams--;
    map_fini(&ws->by_id);
    free(ws);
}

/* ---- answers ---- */

struct wr_head { /* a WatchResponse without events */
    int64_t rev, id, compact_rev;
    bool created, canceled;
    const char *reason;
};

static void send_head(struct wstream *ws, const struct wr_head *h) {
    struct buf b = rpc_buf(ws->c);
    enc_header(&b, 1, ws->c->v, h->rev);
    wire_i64(&b, 2, h->id);
    wire_bool(&b, 3, h->created);
    wire_bool(&b, 4, h->canceled);
    wire_i64(&b, 5, h->compact_rev);
    if (h->reason) {
        wire_bytes(&b, 6, span_str(h->reason));
    }
    rpc_send(ws->c, &b);
}

static void enc_event(struct buf *b, const struct swatch *w, const struct store_event *ev) {
    size_t m = wire_begin(b, 11);
    struct store_event own;
    if (w->ws->c->ns) {
        own = *ev;
        ns_kv_out(w->ws->c->ns, &own.kv);
        ns_kv_out(w->ws->c->ns, &own.prev);
        ev = &own;
    }
    wire_u64(b, 1, ev->type == STORE_DELETE);
    enc_kv(b, 2, &ev->kv);
    if (w->prev_kv && ev->has_prev && ev->kv.mod_rev != w->bare_rev) {
        enc_kv(b, 3, &ev->prev);
    }
    wire_end(b, m);
}

static size_t event_bytes(const struct store_event *ev) {
    return ev->kv.key.n + ev->kv.value.n + ev->prev.key.n + ev->prev.value.n + 64;
}

static void forget(struct shared *x) {
    net_blob_unref(x->events);
    *x = (struct shared){0};
}

void watch_forget_shared(struct storesrv *v) {
    loop_timer_stop(&v->shared_timer);
    for (size_t i = 0; i < LIM_SHARED; i++) {
        forget(&v->shared[i]);
    }
}

static void forget_commit(void *ctx) {
    struct storesrv *v = ctx;
    for (size_t i = 0; i < LIM_SHARED; i++) {
        if (!v->shared[i].late) {
            forget(&v->shared[i]);
        }
    }
}

static void forget_late(struct loop_timer *t) {
    struct storesrv *v = CONTAINER_OF(t, struct storesrv, shared_timer);
    if (v->shared_seen == v->shared_used) {
        watch_forget_shared(v);
    } else {
        v->shared_seen = v->shared_used;
        loop_timer_start(v->l, t, NS_PER_S, forget_late, "watch-shared");
    }
}

static void forget_soon(struct storesrv *v, bool late) {
    if (!late) {
        loop_before_sleep(v->l, &v->shared_hook, forget_commit, v);
    } else if (!loop_timer_active(&v->shared_timer)) {
        loop_timer_start(v->l, &v->shared_timer, NS_PER_S, forget_late, "watch-shared");
    }
}

/* A place for so many bytes: those used longest ago make room. */
static struct shared *shared_room(struct storesrv *v, size_t bytes) {
    for (;;) {
        struct shared *old = &v->shared[0], *unused = NULL;
        size_t all = bytes;
        for (size_t i = 0; i < LIM_SHARED; i++) {
            struct shared *x = &v->shared[i];
            all += x->events ? x->events->n : 0;
            unused = x->events ? unused : x;
            old = x->events && (!old->events || x->used < old->used) ? x : old;
        }
        if (unused && (all <= LIM_SHARED_BYTES || all == bytes)) {
            return unused;
        }
        forget(old);
    }
}

/* The events as fields of a WatchResponse, encoded once for all watches of this range and form. NULL: too large. */
static struct net_blob *share(struct swatch *w, const struct store_watch_msg *m) {
    struct storesrv *v = w->ws->c->v;
    struct srv_ns *ns = w->ws->c->ns;
    for (size_t i = 0; i < LIM_SHARED; i++) {
        struct shared *x = &v->shared[i];
        if (x->share == m->share && x->ns == ns && x->prev_kv == w->prev_kv) {
            x->used = ++v->shared_used;
            return x->events;
        }
    }
    struct buf b = BUF_INIT((size_t)1 << 31);
    size_t n;
    for (size_t i = 0; i < m->n; i++) {
        enc_event(&b, w, m->events[i]);
    }
    void *p = buf_take(&b, &n);
    if (!p) {
        buf_fini(&b);
        return NULL;
    }
    struct shared *x = shared_room(v, n);
    *x = (struct shared){m->share, ns, w->prev_kv, m->late, ++v->shared_used, net_blob_new(p, n)};
    forget_soon(v, m->late);
    return x->events;
}

static void send_shared(struct swatch *w, const struct store_watch_msg *m) {
    struct rpc *c = w->ws->c;
    struct net_blob *events = share(w, m);
    if (!events) {
        rpc_status(c, 8, "etcdserver: answer is too large");
        return;
    }
    struct buf b = rpc_buf(c);
    enc_header(&b, 1, c->v, m->rev);
    wire_i64(&b, 2, w->id);
    rpc_send_blobs(c, &b, &events, 1);
}

/* One response, or with fragments as many as keep each near the request limit. */
static void send_events(struct swatch *w, const struct store_watch_msg *m) {
    struct rpc *c = w->ws->c;
    size_t i = 0;
    while (i < m->n && rpc_open(c)) {
        struct buf b = rpc_buf(c);
        size_t bytes = 0, from = i;
        enc_header(&b, 1, c->v, m->rev);
        wire_i64(&b, 2, w->id);
        while (i < m->n && (!w->fragment || i == from ||
                            bytes + event_bytes(m->events[i]) <= c->v->o.max_request_bytes)) {
            bytes += event_bytes(m->events[i++]);
        }
        wire_bool(&b, 7, i < m->n);
        for (size_t k = from; k < i; k++) {
            enc_event(&b, w, m->events[k]);
        }
        rpc_send(c, &b);
    }
}

/* A progress request is answered once, for the whole stream, when every watch has been given everything. */
static void sync_answer(struct wstream *ws) {
    if (ws->want_sync && !ws->syncs_pending) {
        ws->want_sync = false;
        if (list_empty(&ws->watches)) { /* as etcd: nothing is watched that could be in progress */
            return;
        }
        send_head(ws, &(struct wr_head){.rev = store_rev(ws->c->v->st), .id = -1});
    }
}

/* What waits for many watches of one range is in memory once. */
static size_t pending_max(const struct wstream *ws) {
    size_t n = LIM_STREAM_PENDING + ws->n_watches * LIM_WATCH_PENDING;
    return n < LIM_STREAM_PENDING_ALL ? n : LIM_STREAM_PENDING_ALL;
}

static int on_watch(void *ctx, struct store_watch *sw, const struct store_watch_msg *m) {
    struct swatch *w = ctx;
    struct wstream *ws = w->ws;
    struct rpc *c = rpc_ref(ws->c);
    int out = 0;
    (void)sw;
    switch (m->kind) {
    case STORE_WATCH_EVENTS:
        w->quiet = false;
        if (m->share && !w->fragment && !(w->prev_kv && w->bare_rev)) {
            send_shared(w, m);
        } else {
            send_events(w, m);
        }
        break;
    case STORE_WATCH_PROGRESS:
        if (w->sync_pending) {
            w->sync_pending = false;
            ws->syncs_pending--;
            sync_answer(ws);
        } else if (w->progress) {
            send_head(ws, &(struct wr_head){.rev = m->rev, .id = w->id});
        }
        break;
    case STORE_WATCH_CANCELLED:
        send_head(ws, &(struct wr_head){.rev = m->compact_rev ? 0 : m->rev,
                                        .id = w->id,
                                        .canceled = true,
                                        .compact_rev = m->compact_rev,
                                        .reason = m->compact_rev ? NULL : m->reason});
        if (c->state) {
            stop(w);
            sync_answer(ws);
        }
        rpc_unref(c);
        return 0;
    }
    if (c->state && rpc_pending(c) > pending_max(ws)) {
        ws->paused = true;
        c->v->n_slow++;
        out = STORE_WATCH_PAUSE;
    }
    rpc_unref(c);
    return out;
}

static void drained(struct rpc *c) {
    struct wstream *ws = c->state;
    if (ws && ws->paused) {
        ws->paused = false;
        for (LIST_EACH(p, next, &ws->watches)) {
            store_watch_resume(CONTAINER_OF(p, struct swatch, link)->w);
        }
    }
}

static void tick(struct loop_timer *t) {
    struct wstream *ws = CONTAINER_OF(t, struct wstream, progress_timer);
    for (LIST_EACH(p, next, &ws->watches)) {
        struct swatch *w = CONTAINER_OF(p, struct swatch, link);
        if (w->progress && w->quiet && !w->sync_pending) {
            store_watch_progress(w->w);
        }
        w->quiet = true;
    }
    loop_timer_start(ws->c->v->l, t, ws->c->v->o.progress_ns, tick, "watch-progress");
}

/* ---- requests ---- */

static void refuse_watch(struct wstream *ws, int64_t id, const char *reason) {
    send_head(ws, &(struct wr_head){.rev = store_rev(ws->c->v->st),
                                    .id = id,
                                    .created = true,
                                    .canceled = true,
                                    .reason = reason});
}

/* etcd tells it as the text of a gRPC error. */
static void refuse_caller(struct wstream *ws, const struct err *e) {
    AUTO_FREE char *text = str_fmt("rpc error: code = %s desc = %s",
                                   e->code == ERR_FORBIDDEN         ? "PermissionDenied"
                                   : e->code == ERR_UNAUTHENTICATED ? "Unauthenticated"
                                                                    : "InvalidArgument",
                                   err_public(e));
    refuse_watch(ws, -1, text);
}

struct create {
    struct store_watch_req q;
    int64_t id;
    bool progress, fragment;
};

static int dec_create(struct span m, struct create *k) {
    struct wire_field f;
    int rc;
    *k = (struct create){0};
    while ((rc = wire_next(&m, &f)) > 0) {
        switch (f.no) {
        case 1: k->q.key = f.bytes; break;
        case 2: k->q.end = f.bytes; break;
        case 3: k->q.start_rev = (int64_t)f.v; break;
        case 4: k->progress = f.v != 0; break;
        case 5: { /* packed or not */
            struct span list = f.bytes;
            uint64_t v = f.v;
            if (f.wire != WIRE_BYTES) {
                k->q.filters |= v == 0 ? STORE_NO_PUT : v == 1 ? STORE_NO_DELETE : 0;
            }
            while (f.wire == WIRE_BYTES && list.n) {
                if (span_varint(&list, &v) < 0) {
                    return -ERR_INVALID;
                }
                k->q.filters |= v == 0 ? STORE_NO_PUT : v == 1 ? STORE_NO_DELETE : 0;
            }
            break;
        }
        case 6: k->q.prev_kv = f.v != 0; break;
        case 7: k->id = (int64_t)f.v; break;
        case 8: k->fragment = f.v != 0; break;
        default: break;
        }
    }
    return rc;
}

static void create(struct wstream *ws, struct span m) {
    struct create k;
    struct err e = ERR_INIT;
    struct storesrv *v = ws->c->v;
    struct srv_ns *ns = ws->c->ns;
    AUTO(arena) struct arena a = ARENA_INIT((size_t)64 << 20); /* keys in a namespace */
    if (dec_create(m, &k) < 0) {
        rpc_status(ws->c, 3, "malformed message");
        return;
    }
    if (!k.q.key.n) { /* etcd: an empty key means the first possible one */
        k.q.key = SPAN_LIT("\0");
    }
    if (k.q.start_rev < 0) { /* refused first, and with this text, by the last etcds of 3.5 */
        refuse_watch(ws, -1, STORE_E_COMPACTED);
        return;
    }
    bool from = k.q.end.n == 1 && k.q.end.p[0] == 0;
    struct span key = k.q.key, end = k.q.end;
    if (ns) {
        ns_range_in(ns, &a, &k.q.key, &k.q.end);
    }
    if (auth_range(ws->c, k.q.key, k.q.end, false, &e) < 0) {
        refuse_caller(ws, &e);
        return;
    }
    if (end.n && !from && span_cmp(key, end) >= 0) {
        refuse_watch(ws, -1, "mvcc: watcher range is empty");
        return;
    }
    if (k.id && find(ws, k.id)) {
        refuse_watch(ws, -1, "mvcc: duplicate watch ID provided on the WatchStream");
        return;
    }
    struct store_stat st;
    store_stat(v->st, &st);
    if (st.n_watches >= LIM_WATCHES) {
        refuse_watch(ws, -1, "etcdserver: too many requests");
        return;
    }
    int64_t id = k.id;
    if (!id) {
        while (find(ws, ws->next_id)) {
            ws->next_id++;
        }
        id = ws->next_id++;
    }
    struct swatch *w = new_zero(struct swatch);
    w->ws = ws;
    w->id = id;
    w->prev_kv = k.q.prev_kv;
    w->fragment = k.fragment;
    w->progress = k.progress;
    w->bare_rev = k.q.start_rev == store_compact_rev(v->st) ? k.q.start_rev : 0;
    if (store_watch_start(v->st, &k.q, on_watch, w, &w->w, &e) < 0) {
        free(w);
        refuse_watch(ws, -1, err_public(&e));
        return;
    }
    add(ws, w);
    if (k.progress && !loop_timer_active(&ws->progress_timer)) {
        loop_timer_start(v->l, &ws->progress_timer, v->o.progress_ns, tick, "watch-progress");
    }
    send_head(ws, &(struct wr_head){.rev = store_rev(v->st), .id = id, .created = true});
}

static void cancel(struct wstream *ws, struct span m) {
    struct wire_field f;
    int64_t id = 0;
    int rc;
    while ((rc = wire_next(&m, &f)) > 0) {
        if (f.no == 1) {
            id = (int64_t)f.v;
        }
    }
    struct swatch *w = rc == 0 ? find(ws, id) : NULL;
    if (w) {
        stop(w);
        send_head(ws,
                  &(struct wr_head){.rev = store_rev(ws->c->v->st), .id = id, .canceled = true});
        if (ws->c->state) {
            sync_answer(ws);
        }
    }
}

static void ask_progress(struct wstream *ws) {
    ws->want_sync = true;
    for (LIST_EACH(p, next, &ws->watches)) {
        struct swatch *w = CONTAINER_OF(p, struct swatch, link);
        if (!w->sync_pending && store_watch_next_rev(w->w) <= store_rev(ws->c->v->st)) {
            w->sync_pending = true;
            ws->syncs_pending++;
            store_watch_progress(w->w);
        }
    }
    sync_answer(ws);
}

void watch_start(struct rpc *c) {
    struct wstream *ws = new_zero(struct wstream);
    ws->c = c;
    list_init(&ws->watches);
    c->state = ws;
    c->drop = drop;
    c->drain = drained;
    c->v->n_streams++;
}

void watch_message(struct rpc *c, struct span m) {
    struct wire_field f;
    int rc;
    while (c->state && (rc = wire_next(&m, &f)) != 0) {
        if (rc < 0) {
            rpc_status(c, 3, "malformed message");
        } else if (f.no == 1) {
            create(c->state, f.bytes);
        } else if (f.no == 2) {
            cancel(c->state, f.bytes);
        } else if (f.no == 3) {
            ask_progress(c->state);
        }
    }
}

void watch_end(struct rpc *c) {
    rpc_end(c);
}
