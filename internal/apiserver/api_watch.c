#include "internal/apiserver/api_int.h"

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
    bool mark_initial; /* a bookmark follows the initial state */
    bool ended, columns_sent;
    struct loop_timer timeout;
};

/* Events older than this are forgotten although there is room: a watch that was away for longer lists again. */
enum { RING_SECONDS = 180 };

static const char *const type_names[] = {"ADDED", "MODIFIED", "DELETED"};

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

static int frame_tree(struct api_watch *w, const char *type, struct json *v, struct buf *b) {
    if (w->out.media == API_PB) {
        AUTO(buf) struct buf env = BUF_INIT(LIM_API_LIST);
        struct err e = ERR_INIT;
        int rc = kube_pb_encode(v, &env, &e);
        return rc < 0 ? rc : kube_pb_watch_frame(type, buf_view(&env), b);
    }
    buf_fmt(b, "{\"type\":\"%s\",\"object\":", type);
    int rc = json_write(v, 0, b);
    buf_str(b, "}\n");
    return rc;
}

static int frame_obj(struct api_watch *w, const char *type, const struct api_obj *o,
                     const struct json_doc *doc, struct buf *b) {
    struct err e = ERR_INIT;
    struct api_out out = w->out;
    out.rows_only = w->columns_sent;
    w->columns_sent = true;
    w->c->a->n_watch_events++;
    if (out.media == API_PB) {
        AUTO(buf) struct buf env = BUF_INIT(LIM_API_LIST);
        int rc = api_encode(&out, w->res->kr, w->c->main, o, doc, &env, &e);
        return rc < 0 ? rc : kube_pb_watch_frame(type, buf_view(&env), b);
    }
    buf_fmt(b, "{\"type\":\"%s\",\"object\":", type);
    int rc = api_encode(&out, w->res->kr, w->c->main, o, doc, b, &e);
    buf_str(b, "}\n");
    return rc;
}

static void frame_bookmark(struct api_watch *w, int64_t rv, bool initial_end, struct buf *b) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *o = json_new_obj(d);
    json_set_str(d, o, "kind", w->c->main->kind);
    json_set_str(d, o, "apiVersion", kube_api_version(w->c->main));
    struct json *meta = json_set_obj(d, o, "metadata");
    json_set(d, meta, "resourceVersion", json_new_fmt(d, "%lld", (long long)rv));
    json_set(d, meta, "creationTimestamp", json_new_null(d));
    if (initial_end) {
        json_set_str(d, json_set_obj(d, meta, "annotations"), "k8s.io/initial-events-end", "true");
    }
    if (w->out.media == API_PB) {
        json_del(meta, "creationTimestamp");
    }
    IGNORE_ERR(frame_tree(w, "BOOKMARK", api_shape(&w->out, w->c->main, d, o, !w->columns_sent), b),
               "a bookmark is a courtesy; a full buffer ends the watch below");
}

static void frame_gone(struct api_watch *w, int64_t rv, struct buf *b) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *s = kube_status(d, 410, "Expired",
                                 api_fmt(w->c, "too old resource version: %lld (%lld)",
                                         (long long)rv, (long long)w->res->ring_from));
    IGNORE_ERR(frame_tree(w, "ERROR", s, b), "the watch ends now whatever happens");
}

static bool in_scope(const struct api_watch *w, const struct api_obj *o) {
    return (w->ns[0] == '\0' || span_eq_str(api_obj_ns(o), w->ns)) &&
           (w->name[0] == '\0' || span_eq_str(api_obj_name(o), w->name));
}

static int event_frame(struct api_watch *w, struct api_event *ev, struct buf *b) {
    if (!in_scope(w, ev->obj)) {
        return 0;
    }
    bool now =
        ev->type != API_DELETED && api_obj_matches(&w->o, w->res, w->c->main, ev->obj, &ev->doc);
    bool was =
        ev->prev != NULL && api_obj_matches(&w->o, w->res, w->c->main, ev->prev, &ev->prev_doc);
    if (now) {
        return frame_obj(w, type_names[was ? API_MODIFIED : API_ADDED], ev->obj, ev->doc, b);
    }
    if (!was) {
        return 0;
    }
    if (ev->type == API_DELETED) {
        return frame_obj(w, "DELETED", ev->obj, NULL, b);
    }
    /* It left the selection: the last selected state, at the revision at which it left. */
    struct api_obj *gone = api_obj_at_rv(ev->prev, ev->rv);
    int rc = frame_obj(w, "DELETED", gone, NULL, b);
    api_obj_unref(gone);
    return rc;
}

static void watch_pump(struct api_watch *w) {
    AUTO(buf) struct buf b = BUF_INIT(LIM_API_LIST);
    int rc = 0;
    bool over = false;
    size_t pending = http_pending(w->c->r);
    while (rc >= 0 && pending + b.n < LIM_API_WATCH_PENDING) {
        if (w->snap_at < w->snap_n) {
            struct api_obj *o = w->snap[w->snap_at++];
            struct json_doc *doc = NULL;
            if (in_scope(w, o) && api_obj_matches(&w->o, w->res, w->c->main, o, &doc)) {
                rc = frame_obj(w, "ADDED", o, doc, &b);
            }
            json_doc_free(doc);
            api_obj_unref(o);
            continue;
        }
        if (w->snap != NULL) {
            snap_free(w);
        }
        if (w->mark_initial) {
            w->mark_initial = false;
            frame_bookmark(w, w->snap_rv, true, &b);
        }
        if (w->pos < w->res->first) {
            frame_gone(w, w->snap_rv, &b);
            over = true;
            break;
        }
        if (w->pos == w->res->next) {
            break;
        }
        rc = event_frame(w, &w->res->ring[w->pos & (w->res->ring_cap - 1)], &b);
        w->pos++;
    }
    if (rc == -ERR_UNSUPPORTED) {
        LOG_WARN("apiserver", "watch in a form that the kind lacks, ending it",
                 F_STR("kind", w->c->main->kind));
    }
    if (b.n > 0 && b.failed == 0) {
        http_write(w->c->r, buf_view(&b));
    }
    if (rc < 0 || over || b.failed != 0) {
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

void api_watch_event(struct apiserver *a, struct api_res *res) {
    (void)a;
    uint64_t from = res->next;
    for (LIST_EACH(pos, nxt, &res->watches)) {
        struct api_watch *w = CONTAINER_OF(pos, struct api_watch, link);
        from = w->pos < from ? w->pos : from;
        if (http_pending(w->c->r) < LIM_API_WATCH_PENDING) {
            watch_pump(w);
        }
    }
    for (uint64_t i = from > res->first ? from : res->first; i < res->next; i++) {
        struct api_event *ev = &res->ring[i & (res->ring_cap - 1)];
        json_doc_free(ev->doc);
        json_doc_free(ev->prev_doc);
        ev->doc = ev->prev_doc = NULL;
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
            frame_bookmark(w, rv, false, &b);
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
        frame_gone(w, w->o.rv, &b);
        http_write(c->r, buf_view(&b));
        watch_end(w);
        return;
    }
    watch_pump(w);
}
