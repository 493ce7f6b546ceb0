#include "internal/apiserver/api_int.h"
#include "internal/net/net.h"

/* A watch reads the ring of its resource by position. It holds no queue of its own: when the peer is slow it stops
 * reading, and when the ring has moved on it is told 410 and ended. */

struct api_watch {
    struct list link;     /* of the resource */
    struct list all_link; /* of the server */
    struct api_call *c;
    struct api_res *res;
    struct api_list_opts o;
    struct api_out out;
    const char *ns, *name; /* "" for all */
    uint64_t pos;
    struct api_obj **snap; /* the initial state, still to be sent from `snap_at` */
    size_t snap_n, snap_at;
    int64_t snap_rv;
    bool mark_initial;   /* a bookmark follows the initial state */
    bool ended, started; /* it had an object */
    struct loop_timer timeout;
};

/* Events older than this are forgotten although there is room: a watch that was away for longer lists again. */
enum { RING_SECONDS = 180 };
enum {
    SHARE_MIN =
        4096, /* frames as long as this are passed on by reference, others copied together */
    SCRATCH_KEPT = 65536, /* of what frames are copied together in */
};

static void snap_free(struct api_watch *w) {
    for (size_t i = w->snap_at; i < w->snap_n; i++) {
        api_obj_unref(w->snap[i]);
    }
    free(w->snap);
    w->snap = NULL;
    w->snap_n = w->snap_at = 0;
}

static void watch_detach(struct api_watch *w) {
    list_del(&w->link);
    list_del(&w->all_link);
    loop_timer_stop(&w->timeout);
    snap_free(w);
    w->c->a->n_watches--;
}

/* The request is over: everything of the watch goes. */
static void on_closed(struct api_call *c) {
    struct api_watch *w = c->state;
    if (!w->ended) {
        watch_detach(w);
    }
    api_list_opts_fini(&w->o);
}

static void watch_end(struct api_watch *w) {
    if (w->ended) {
        return;
    }
    w->ended = true;
    watch_detach(w);
    if (w->c->r != NULL) {
        http_end(w->c->r);
    }
}

static bool in_scope(const struct api_watch *w, const struct api_obj *o) {
    return (w->ns[0] == '\0' || span_eq_str(api_obj_ns(o), w->ns)) &&
           (w->name[0] == '\0' || span_eq_str(api_obj_name(o), w->name));
}

static void write_text(struct api_watch *w, struct buf *b) {
    if (b->n > 0 && b->failed == 0) {
        http_write(w->c->r, buf_view(b));
        b->n = 0;
    }
}

/* Columns are for the first table only. */
static const struct api_out *form(struct api_watch *w) {
    w->out.rows_only = w->out.as == API_AS_TABLE && w->started;
    w->started = true;
    w->c->a->n_watch_events++;
    return &w->out;
}

/* What the watch sees of one event. *io_pending counts what is queued past the text. */
static int event_add(struct api_watch *w, uint64_t seq, struct buf *b, size_t *io_pending) {
    struct api_event *ev = api_event_use(w->c->a, w->res, seq);
    if (!in_scope(w, ev->obj)) {
        return 0;
    }
    bool now =
        ev->type != API_DELETED && api_obj_matches(&w->o, w->res, w->c->main, ev->obj, &ev->doc);
    bool was =
        ev->prev != NULL && api_obj_matches(&w->o, w->res, w->c->main, ev->prev, &ev->prev_doc);
    if (!now && !was) {
        return 0;
    }
    enum api_event_type type = !now ? API_DELETED : was ? API_MODIFIED : API_ADDED;
    struct net_blob *frame = NULL;
    int rc = api_frame_event(w->res, ev, type, form(w), w->c->main, &frame);
    if (rc < 0) {
        return rc;
    }
    if (frame->n < SHARE_MIN) {
        buf_add(b, frame->p, frame->n);
    } else {
        write_text(w, b);
        http_write_blob(w->c->r, frame);
        *io_pending += frame->n;
    }
    return 0;
}

static int snap_add(struct api_watch *w, struct buf *b) {
    struct api_obj *o = w->snap[w->snap_at++];
    struct json_doc *doc = NULL;
    int rc = 0;
    if (in_scope(w, o) && api_obj_matches(&w->o, w->res, w->c->main, o, &doc)) {
        rc = api_frame_obj(w->res, o, doc, API_ADDED, form(w), w->c->main, b);
    }
    json_doc_free(doc);
    api_obj_unref(o);
    return rc;
}

/* Hands out what there is: in one write, as far as the frames are short. */
static void watch_pump(struct api_watch *w) {
    struct buf *b = &w->c->a->watch_text;
    int rc = 0;
    bool over = false;
    size_t pending = http_pending(w->c->r);
    while (rc >= 0 && pending + b->n < LIM_API_WATCH_PENDING) {
        if (w->snap_at < w->snap_n) {
            rc = snap_add(w, b);
            continue;
        }
        if (w->snap != NULL) {
            snap_free(w);
        }
        if (w->mark_initial) {
            w->mark_initial = false;
            api_frame_bookmark(&w->out, w->c->main, w->snap_rv, true, !w->started, b);
        }
        if (w->pos < w->res->first) {
            api_frame_gone(&w->out, w->snap_rv, w->res->ring_from, b);
            over = true;
            break;
        }
        if (w->pos == w->res->next) {
            break;
        }
        rc = event_add(w, w->pos++, b, &pending);
    }
    if (rc == -ERR_UNSUPPORTED) {
        LOG_WARN("apiserver", "watch in a form that the kind lacks, ending it",
                 F_STR("kind", w->c->main->kind));
    }
    bool failed = b->failed != 0;
    write_text(w, b);
    buf_reset(b);
    if (b->cap > SCRATCH_KEPT) {
        buf_fini(b);
        buf_init(b, LIM_API_LIST);
    }
    if (rc < 0 || over || failed) {
        watch_end(w);
    }
}

static void on_drain(struct http_req *r, void *ctx) {
    struct api_call *c = ctx;
    struct api_watch *w = c->state;
    (void)r;
    if (!w->ended) {
        watch_pump(w);
    }
}

void api_watch_event(struct api_res *res) {
    for (LIST_EACH(pos, nxt, &res->watches)) {
        struct api_watch *w = CONTAINER_OF(pos, struct api_watch, link);
        if (http_pending(w->c->r) < LIM_API_WATCH_PENDING) {
            watch_pump(w);
        }
    }
}

static void on_timeout(struct loop_timer *t) {
    struct api_watch *w = CONTAINER_OF(t, struct api_watch, timeout);
    watch_end(w);
}

static void on_bookmark_timer(struct loop_timer *t) {
    struct apiserver *a = CONTAINER_OF(t, struct apiserver, bookmark_timer);
    int64_t rv = store_rev(a->store);
    uint64_t now = loop_now(a->l);
    for (size_t i = 0; i < a->n_res; i++) {
        uint64_t kept = RING_SECONDS * NS_PER_S;
        api_ring_trim(&a->res[i], now > kept ? now - kept : 0);
    }
    for (LIST_EACH(pos, nxt, &a->open_watches)) {
        struct api_watch *w = CONTAINER_OF(pos, struct api_watch, all_link);
        bool behind = w->snap_at < w->snap_n || w->pos != w->res->next;
        if (w->o.bookmarks && !behind) {
            AUTO(buf) struct buf b = BUF_INIT(64 << 10);
            api_frame_bookmark(&w->out, w->c->main, rv, false, !w->started, &b);
            http_write(w->c->r, buf_view(&b));
        }
    }
    if (!list_empty(&a->open_watches)) {
        loop_timer_start(a->l, t, 60 * NS_PER_S, on_bookmark_timer, "bookmarks");
    }
}

void api_watch_end_all(struct apiserver *a) {
    for (LIST_EACH(pos, nxt, &a->open_watches)) {
        watch_end(CONTAINER_OF(pos, struct api_watch, all_link));
    }
    loop_timer_stop(&a->bookmark_timer);
}

/* First event after revision rv; false: the ring no longer has all of them. */
static bool ring_seek(const struct api_res *res, int64_t rv, uint64_t *ret) {
    if (rv < res->ring_from) {
        return false;
    }
    uint64_t lo = res->first;
    uint64_t hi = res->next;
    while (lo < hi) {
        uint64_t mid = lo + (hi - lo) / 2;
        if (api_ring_at(res, mid)->rv <= rv) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    *ret = lo;
    return true;
}

static bool snap_take(struct api_watch *w) {
    size_t from;
    size_t to;
    api_cache_span(w->res, w->ns, &from, &to);
    w->pos = w->res->next;
    w->snap_rv = store_rev(w->c->a->store);
    if (from >= to) {
        return true;
    }
    w->snap = mem_array(NULL, to - from, sizeof *w->snap, 1u << 26);
    if (w->snap == NULL) {
        return false;
    }
    for (size_t i = from; i < to; i++) {
        w->snap[w->snap_n++] = api_obj_ref(w->res->objs[i]);
    }
    return true;
}

void api_watch_start(struct api_call *c) {
    struct apiserver *a = c->a;
    struct api_watch *w = arena_new(&c->mem, struct api_watch);
    CHECK(w != NULL);
    if (!api_list_options(c, &w->o, true)) {
        return;
    }
    w->c = c;
    w->res = c->res;
    w->out = c->out;
    w->out.pretty = false;
    if (w->out.media == API_YAML) {
        w->out.media = API_JSON;
    }
    w->ns = c->main->namespaced ? c->t.ns : "";
    const char *by_field = w->o.fields != NULL ? kube_fieldsel_name(w->o.fields) : NULL;
    w->name = c->t.legacy_watch && c->t.name[0] != '\0' ? c->t.name
              : by_field != NULL                        ? api_fmt(c, "%s", by_field)
                                                        : "";
    bool from_now = w->o.rv_text == NULL || w->o.rv_text[0] == '\0' || w->o.rv == 0;
    bool initial = w->o.send_initial > 0 || (w->o.send_initial < 0 && from_now);
    bool gone = false;
    if (initial) {
        if (!snap_take(w)) {
            api_list_opts_fini(&w->o);
            api_fail(c, 500, "InternalError",
                     "Internal error occurred: too many objects for a watch");
            return;
        }
        w->mark_initial = w->o.send_initial > 0 && w->o.bookmarks;
    } else if (from_now) {
        w->pos = w->res->next;
    } else {
        gone = !ring_seek(w->res, w->o.rv, &w->pos);
        w->snap_rv = w->o.rv;
    }
    c->state = w;
    c->closed = on_closed;
    c->answered = true;
    struct http_header h = {SPAN_LIT("cache-control"), SPAN_LIT("no-cache, private")};
    http_begin(c->r, 200, api_media_type(&w->out, true), &h, 1);
    list_add_tail(&w->res->watches, &w->link);
    list_add_tail(&a->open_watches, &w->all_link);
    a->n_watches++;
    http_on_drain(c->r, on_drain, c);
    uint64_t seconds = w->o.timeout_s > 0 ? (uint64_t)w->o.timeout_s : 1800 + rand_below(1800);
    loop_timer_start(a->l, &w->timeout, seconds * NS_PER_S, on_timeout, "watch timeout");
    if (!loop_timer_active(&a->bookmark_timer)) {
        loop_timer_start(a->l, &a->bookmark_timer, 60 * NS_PER_S, on_bookmark_timer, "bookmarks");
    }
    if (gone) {
        AUTO(buf) struct buf b = BUF_INIT(64 << 10);
        api_frame_gone(&w->out, w->o.rv, w->res->ring_from, &b);
        http_write(c->r, buf_view(&b));
        watch_end(w);
        return;
    }
    watch_pump(w);
}
