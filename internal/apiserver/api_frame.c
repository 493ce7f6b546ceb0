/* Frames of watches. An event is encoded once for each form in which somebody watches it; the bytes are shared by all watches
 * of that form and forgotten before the loop sleeps, but for those that wait in an output queue. */
#include "internal/apiserver/api_int.h"
#include "internal/net/net.h"

/* One event in one form. */
struct api_frame {
    struct api_frame *next;
    enum api_event_type
        type; /* as the watch sees it: DELETED of another event is an object that left a selection */
    struct api_out out;
    const struct kube_resource *want;
    struct net_blob *bytes;
};

static const char *const type_names[] = {"ADDED", "MODIFIED", "DELETED"};

static int frame_tree(const struct api_out *out, const char *type, struct json *v, struct buf *b) {
    if (out->media == API_PB) {
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

int api_frame_obj(const struct api_res *res, const struct api_obj *o, const struct json_doc *doc,
                  enum api_event_type type, const struct api_out *out,
                  const struct kube_resource *want, struct buf *b) {
    struct err e = ERR_INIT;
    const char *name = type_names[type];
    if (out->media == API_PB) {
        AUTO(buf) struct buf env = BUF_INIT(LIM_API_LIST);
        int rc = api_encode(out, res->kr, want, o, doc, &env, &e);
        return rc < 0 ? rc : kube_pb_watch_frame(name, buf_view(&env), b);
    }
    buf_str(b, "{\"type\":\"");
    buf_str(b, name);
    buf_str(b, "\",\"object\":");
    int rc = api_encode(out, res->kr, want, o, doc, b, &e);
    buf_str(b, "}\n");
    return rc < 0 ? rc : buf_ok(b);
}

void api_frame_bookmark(const struct api_out *out, const struct kube_resource *want, int64_t rv,
                        bool initial_end, bool with_columns, struct buf *b) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *o = json_new_obj(d);
    json_set_str(d, o, "kind", want->kind);
    json_set_str(d, o, "apiVersion", kube_api_version(want));
    struct json *meta = json_set_obj(d, o, "metadata");
    json_set(d, meta, "resourceVersion", json_new_fmt(d, "%lld", (long long)rv));
    json_set(d, meta, "creationTimestamp", json_new_null(d));
    if (initial_end) {
        json_set_str(d, json_set_obj(d, meta, "annotations"), "k8s.io/initial-events-end", "true");
    }
    if (out->media == API_PB) {
        json_del(meta, "creationTimestamp");
    }
    IGNORE_ERR(frame_tree(out, "BOOKMARK", api_shape(out, want, d, o, with_columns), b),
               "a bookmark is a courtesy; a full buffer ends the watch");
}

void api_frame_gone(const struct api_out *out, int64_t rv, int64_t oldest, struct buf *b) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    AUTO_FREE char *text =
        str_fmt("too old resource version: %lld (%lld)", (long long)rv, (long long)oldest);
    IGNORE_ERR(frame_tree(out, "ERROR", kube_status(d, 410, "Expired", text), b),
               "the watch ends now whatever happens");
}

/* ---- shared ---- */

static bool same_form(const struct api_out *a, const struct api_out *b) {
    return a->media == b->media && a->as == b->as &&
           (a->as == API_AS_OBJECT ||
            (a->rows_only == b->rows_only && a->include_none == b->include_none &&
             a->include_object == b->include_object && str_eq(a->as_version, b->as_version)));
}

static int encode(const struct api_res *res, const struct api_event *ev, enum api_event_type type,
                  const struct api_out *out, const struct kube_resource *want, struct buf *b) {
    if (type == API_DELETED && ev->type != API_DELETED) {
        /* It left the selection: the last selected state, at the revision at which it left. */
        struct api_obj *gone = api_obj_at_rv(ev->prev, ev->rv);
        int rc = api_frame_obj(res, gone, NULL, type, out, want, b);
        api_obj_unref(gone);
        return rc;
    }
    const struct json_doc *doc = ev->type == API_DELETED ? NULL : ev->doc;
    return api_frame_obj(res, ev->obj, doc, type, out, want, b);
}

int api_frame_event(const struct api_res *res, struct api_event *ev, enum api_event_type type,
                    const struct api_out *out, const struct kube_resource *want,
                    struct net_blob **ret) {
    for (struct api_frame *f = ev->frames; f != NULL; f = f->next) {
        if (f->type == type && f->want == want && same_form(&f->out, out)) {
            *ret = f->bytes;
            return 0;
        }
    }
    AUTO(buf) struct buf b = BUF_INIT(LIM_API_LIST);
    size_t n;
    int rc = encode(res, ev, type, out, want, &b);
    void *p = rc < 0 ? NULL : buf_take(&b, &n);
    if (p == NULL) {
        return rc < 0 ? rc : -ERR_NOMEM;
    }
    struct api_frame *f = new_zero(struct api_frame);
    *f = (struct api_frame){ev->frames, type, *out, want, net_blob_new(p, n)};
    ev->frames = f;
    *ret = f->bytes;
    return 0;
}

void api_event_rest(struct api_event *ev) {
    while (ev->frames != NULL) {
        struct api_frame *f = ev->frames;
        ev->frames = f->next;
        net_blob_unref(f->bytes);
        free(f);
    }
    json_doc_free(TAKE(ev->doc));
    json_doc_free(TAKE(ev->prev_doc));
}

static void on_rest(void *ctx) {
    struct apiserver *a = ctx;
    for (size_t i = 0; i < a->n_res; i++) {
        struct api_res *res = &a->res[i];
        if (!res->in_use) {
            continue;
        }
        res->in_use = false;
        uint64_t seq = res->use_from > res->first ? res->use_from : res->first;
        for (; seq < res->use_to; seq++) {
            api_event_rest(&res->ring[seq & (res->ring_cap - 1)]);
        }
    }
}

struct api_event *api_event_use(struct apiserver *a, struct api_res *res, uint64_t seq) {
    res->use_from = res->in_use && res->use_from < seq ? res->use_from : seq;
    res->use_to = res->in_use && res->use_to > seq ? res->use_to : seq + 1;
    res->in_use = true;
    loop_before_sleep(a->l, &a->rest_hook, on_rest, a);
    return &res->ring[seq & (res->ring_cap - 1)];
}
