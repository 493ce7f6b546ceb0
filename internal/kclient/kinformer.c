#include "internal/base/rand.h"
#include "internal/kclient/kclient_int.h"
#include "internal/kube/kube.h"
#include "internal/log/log.h"

#include <stdlib.h>

enum {
    BACKOFF_MIN_MS = 40,
    BACKOFF_MAX_MS = 10000,
    STUCK = 8, /* failures of a watch in a row before the list is read again */
    NOT_SERVED_S =
        300, /* a resource the server does not know may come with a later CRD or version */
    LOCAL_WATCH_S = 3600, /* a watch over a unix socket needs no renewal to notice a dead peer */
    REMOTE_WATCH_S = 300,
};

/*            start
 *              |
 *   +----> LISTING --page--> LISTING
 *   |          |  complete        \ failure
 *   | 410      v                   v
 *   +------ WATCHING --end/err--> WAITING --timer--> LISTING (no version yet, or 410) or WATCHING
 */
enum state { S_LISTING, S_WATCHING, S_WAITING, S_STOPPED };

struct kobj {
    struct json_doc *d;
    uint64_t rv;
    uint32_t seen; /* number of the list that had it last */
};

struct listener {
    kinformer_cb *cb;
    void *ctx;
};

struct sync_waiter {
    void (*cb)(void *ctx);
    void *ctx;
};

struct kinformer {
    struct kclient *c;
    struct kinformer_opts o;
    char *path, *query; /* query: selectors, "" or "&labelSelector=…" */
    enum state st;
    struct map objs; /* "ns/name" → struct kobj */
    struct listener *ls;
    size_t n_ls;
    struct sync_waiter *waiters;
    size_t n_waiters;
    uint64_t rv;  /* the watch has passed this version */
    uint32_t gen; /* number of the current list */
    bool synced, has_rv, told_failure;
    bool dying; /* stopped while a list page is on its way */
    unsigned fails;
    struct loop_timer retry;
    struct http_call *watch;
    struct buf line;
    char *cont;
};

static void go(struct kinformer *i);

/* ---- cache ---- */

void kkey_make(const char *ns, const char *name, char dst[LIM_KKEY]) {
    IGNORE_ERR(ns && *ns ? str_put(dst, LIM_KKEY, "%s/%s", ns, name)
                         : str_put(dst, LIM_KKEY, "%s", name),
               "names are at most 253 bytes and namespaces 63");
}

void kkey_of(const struct json *obj, char dst[LIM_KKEY]) {
    kkey_make(kube_namespace(obj), kube_name(obj), dst);
}

void kkey_split(const char *key, char ns[LIM_KKEY], char name[LIM_KKEY]) {
    struct span s = span_str(key), head = SPAN_EMPTY;
    ptrdiff_t slash = span_index(s, '/');
    if (slash >= 0) {
        head = span_of(s.p, (size_t)slash);
        s = span_of(s.p + slash + 1, s.n - (size_t)slash - 1);
    }
    IGNORE_ERR(span_to_cstr(head, ns, LIM_KKEY), "keys are made by kkey_make");
    IGNORE_ERR(span_to_cstr(s, name, LIM_KKEY), "keys are made by kkey_make");
}

static void tell(struct kinformer *i, struct json *old, struct json *cur) {
    for (size_t k = 0; k < i->n_ls; k++) {
        i->ls[k].cb(i->ls[k].ctx, old, cur);
    }
}

static void kobj_free(struct kobj *o) {
    json_doc_free(o->d);
    free(o);
}

/* A document of its own for obj, without what nobody reads. Written and parsed again: that packs it tightly. */
static struct json_doc *compact(struct kinformer *i, struct json *obj) {
    struct json *meta = json_get(obj, "metadata");
    if (meta) {
        json_del(meta, "managedFields");
    }
    if (i->o.trim) {
        i->o.trim(obj);
    }
    AUTO(buf) struct buf b = BUF_INIT(LIM_KCLIENT_OBJECT);
    struct json_doc *d = NULL;
    struct err e = ERR_INIT;
    if (json_write(obj, 0, &b) < 0 || json_parse(buf_view(&b), JSON_DUPS_OK, &d, &e) < 0) {
        LOG_WARN("kclient", "an object cannot be cached, continuing without it",
                 F_STR("path", i->path), F_STR("name", kube_name(obj)), F_ERR(&e));
        return NULL;
    }
    return d;
}

/* Stores obj (which is changed) unless something at least as new is there. */
static void cache_put(struct kinformer *i, struct json *obj, uint64_t rv) {
    char key[LIM_KKEY];
    kkey_of(obj, key);
    struct kobj *o = map_get_str(&i->objs, key);
    if (o && rv && o->rv >= rv) {
        o->seen = i->gen;
        return;
    }
    struct json_doc *d = compact(i, obj);
    if (!d) {
        return;
    }
    struct json_doc *old = NULL;
    if (o) {
        old = o->d;
        /* The same name with another uid: the deletion was missed. */
        if (!str_eq(kube_uid(json_root(old)), kube_uid(json_root(d)))) {
            map_del_str(&i->objs, key);
            tell(i, json_root(old), NULL);
            kobj_free(o);
            o = NULL;
            old = NULL;
        }
    }
    if (!o) {
        o = new_zero(struct kobj);
        map_put_str(&i->objs, key, o);
    }
    o->d = d;
    o->rv = rv;
    o->seen = i->gen;
    tell(i, json_root(old), json_root(d));
    json_doc_free(old);
}

static void cache_del(struct kinformer *i, const char *key, const char *uid) {
    struct kobj *o = map_get_str(&i->objs, key);
    if (o && (!uid || !*uid || str_eq(uid, kube_uid(json_root(o->d))))) {
        map_del_str(&i->objs, key);
        tell(i, json_root(o->d), NULL);
        kobj_free(o);
    }
}

void kinformer_put(struct kinformer *i, const struct json *obj) {
    uint64_t rv = krv(obj);
    if (i->o.no_cache || !rv || rv <= i->rv || i->st == S_STOPPED) {
        return; /* the watch was there first; a deletion may have come after */
    }
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *copy = json_copy(d, obj);
    cache_put(i, copy, rv);
}

void kinformer_gone(struct kinformer *i, const char *ns, const char *name, const char *uid) {
    char key[LIM_KKEY];
    kkey_make(ns, name, key);
    cache_del(i, key, uid);
}

struct json *kinformer_get(const struct kinformer *i, const char *ns, const char *name) {
    char key[LIM_KKEY];
    kkey_make(ns, name, key);
    struct kobj *o = map_get_str(&i->objs, key);
    return o ? json_root(o->d) : NULL;
}

bool kinformer_next(const struct kinformer *i, struct map_iter *it, struct json **ret) {
    struct map_entry *en;
    if (!map_next(&i->objs, it, &en)) {
        return false;
    }
    *ret = json_root(((struct kobj *)en->value)->d);
    return true;
}

size_t kinformer_count(const struct kinformer *i) {
    return i->objs.n;
}

bool kinformer_synced(const struct kinformer *i) {
    return i->synced;
}

void kinformer_listen(struct kinformer *i, kinformer_cb *on_change, void *ctx) {
    i->ls = mem_array(i->ls, i->n_ls + 1, sizeof(*i->ls), 256);
    CHECK(i->ls);
    i->ls[i->n_ls++] = (struct listener){on_change, ctx};
    struct map_iter it = {0};
    struct json *obj;
    while (kinformer_next(i, &it, &obj)) {
        on_change(ctx, NULL, obj);
    }
}

void kinformer_on_synced(struct kinformer *i, void (*cb)(void *ctx), void *ctx) {
    if (i->synced) {
        cb(ctx);
        return;
    }
    i->waiters = mem_array(i->waiters, i->n_waiters + 1, sizeof(*i->waiters), 256);
    CHECK(i->waiters);
    i->waiters[i->n_waiters++] = (struct sync_waiter){cb, ctx};
}

/* ---- list ---- */

static void on_retry(struct loop_timer *t) {
    go(CONTAINER_OF(t, struct kinformer, retry));
}

static void wait_and_retry(struct kinformer *i, uint64_t ms) {
    i->st = S_WAITING;
    uint64_t jitter = rand_below(ms / 2 + 1);
    loop_timer_start(i->c->l, &i->retry, (ms + jitter) * NS_PER_MS, on_retry, "informer");
}

static void failed(struct kinformer *i, const char *what, const struct err *e) {
    uint64_t ms = BACKOFF_MIN_MS;
    for (unsigned k = 0; k < i->fails && ms < BACKOFF_MAX_MS; k++) {
        ms *= 2;
    }
    i->fails++;
    if (i->fails == 6 && !i->told_failure) {
        i->told_failure = true;
        LOG_WARN("kclient", "no answer to a list or watch, continuing to try", F_STR("what", what),
                 F_STR("path", i->path), F_ERR(e));
    }
    wait_and_retry(i, ms < BACKOFF_MAX_MS ? ms : BACKOFF_MAX_MS);
}

static void recovered(struct kinformer *i) {
    if (i->told_failure) {
        LOG_INFO("kclient", "list and watch work again", F_STR("path", i->path));
    }
    i->fails = 0;
    i->told_failure = false;
}

/* Everything that the complete list did not have, and that is not newer than the list, is gone. */
static void sweep(struct kinformer *i, uint64_t list_rv) {
    struct map_iter it = {0};
    struct map_entry *en;
    while (map_next(&i->objs, &it, &en)) {
        struct kobj *o = en->value;
        if (o->seen != i->gen && (!list_rv || o->rv <= list_rv)) {
            map_del(&i->objs, span_of(en->key, en->n));
            tell(i, json_root(o->d), NULL);
            kobj_free(o);
        }
    }
}

static void set_synced(struct kinformer *i) {
    bool first = !i->synced;
    i->synced = true;
    if (i->o.on_synced && (first || i->o.no_cache)) {
        i->o.on_synced(i->o.ctx);
    }
    if (first) {
        for (size_t k = 0; k < i->n_waiters; k++) {
            i->waiters[k].cb(i->waiters[k].ctx);
        }
        free(TAKE(i->waiters));
        i->n_waiters = 0;
    }
}

/* Items of a list lack kind and apiVersion; handlers and event records want them. */
static void name_item(struct json_doc *d, struct json *item, const char *list_kind,
                      const char *api_version) {
    size_t n = strlen(list_kind);
    if (!json_get(item, "kind") && n > 4) {
        json_set(d, item, "kind", json_new_span(d, span_of(list_kind, n - 4)));
        json_set_str(d, item, "apiVersion", api_version);
    }
}

static void informer_free(struct kinformer *i);
static void rewind_to(struct kinformer *i, uint64_t list_rv);

/* The list lives in a document of the request, so the items may be changed before they are copied. */
static void on_list_page(void *ctx, int rc, struct json *obj, const struct err *e) {
    struct kinformer *i = ctx;
    if (i->dying) {
        informer_free(i);
        return;
    }
    if (rc == -ERR_NOT_FOUND || rc == -ERR_UNSUPPORTED) {
        i->gen++;
        sweep(i, 0);
        set_synced(i);
        wait_and_retry(i, NOT_SERVED_S * 1000);
        return;
    }
    if (rc == -ERR_GONE && i->cont) {
        free(TAKE(i->cont)); /* the continue token is too old: from the beginning */
        failed(i, "list", e);
        return;
    }
    if (rc < 0) {
        free(TAKE(i->cont));
        failed(i, "list", e);
        return;
    }
    uint64_t list_rv = krv(obj);
    rewind_to(i, list_rv);
    const char *kind = json_str_or(json_get(obj, "kind"), ""),
               *api_version = json_str_or(json_get(obj, "apiVersion"), "");
    AUTO(json_docp) struct json_doc *d = json_doc_new(); /* owns the few values that are added */
    JSON_EACH(it, item, json_get(obj, "items")) {
        struct json *mine = json_copy(d, item);
        name_item(d, mine, kind, api_version);
        if (i->o.no_cache) {
            tell(i, NULL, mine);
        } else {
            cache_put(i, mine, krv(mine));
        }
    }
    const char *cont = json_str_at(obj, "metadata", "continue");
    free(TAKE(i->cont));
    if (cont && *cont) {
        i->cont = str_dup(cont);
        go(i);
        return;
    }
    sweep(i, list_rv);
    i->rv = list_rv;
    i->has_rv = true;
    recovered(i);
    set_synced(i);
    i->st = S_WATCHING;
    go(i);
}

/* A store that was put back from a backup counts from an earlier version: nothing we have is newer than the list then. */
static void rewind_to(struct kinformer *i, uint64_t list_rv) {
    struct map_iter it = {0};
    struct map_entry *en;
    if (!list_rv || list_rv >= i->rv) {
        return;
    }
    LOG_WARN("kclient", "the server's versions went back, continuing from there",
             F_STR("path", i->path), F_U64("from", i->rv), F_U64("to", list_rv));
    while (map_next(&i->objs, &it, &en)) {
        ((struct kobj *)en->value)->rv = 0;
    }
    i->rv = list_rv;
}

static const char *accept_of(const struct kinformer *i, bool list) {
    return !i->o.metadata_only ? NULL
           : list              ? "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
                               : "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
}

static void list_start(struct kinformer *i) {
    AUTO(buf) struct buf t = BUF_INIT(32768);
    if (!i->cont) {
        i->gen++;
        if (i->o.on_list) {
            i->o.on_list(i->o.ctx);
        }
    }
    buf_fmt(&t, "%s?limit=%d%s", i->path, KCLIENT_PAGE, i->query);
    if (i->cont) {
        buf_str(&t, "&continue=");
        url_encode(&t, span_str(i->cont));
    }
    kclient_get_page(i->c, buf_cstr(&t), accept_of(i, true), on_list_page, i);
}

/* ---- watch ---- */

/* False: the watch is over and a new list is needed. */
static bool on_event(struct kinformer *i, struct json_doc *d, struct json *ev) {
    const char *type = json_str_or(json_get(ev, "type"), "");
    struct json *obj = json_get(ev, "object");
    uint64_t rv = krv(obj);
    (void)d;
    if (str_eq(type, "ERROR")) {
        struct err e = ERR_INIT;
        unsigned code = (unsigned)json_i64(json_get(obj, "code"), 500);
        int rc = kclient_status_err(code, obj, &e);
        LOG_DEBUG("kclient", "watch error", F_STR("path", i->path), F_ERR(&e));
        return rc != -ERR_GONE;
    }
    if (str_eq(type, "BOOKMARK")) {
        i->rv = rv > i->rv ? rv : i->rv;
        return true;
    }
    char key[LIM_KKEY];
    kkey_of(obj, key);
    if (i->o.no_cache) {
        tell(i, str_eq(type, "DELETED") ? obj : NULL, str_eq(type, "DELETED") ? NULL : obj);
    } else if (str_eq(type, "DELETED")) {
        cache_del(i, key, kube_uid(obj));
    } else {
        cache_put(i, obj, rv);
    }
    i->rv = rv > i->rv ? rv : i->rv;
    return true;
}

static void watch_close(struct kinformer *i) {
    if (i->watch) {
        http_call_cancel(TAKE(i->watch));
    }
    buf_fini(&i->line);
    buf_init(&i->line, LIM_KCLIENT_OBJECT);
}

static void relist(struct kinformer *i) {
    watch_close(i);
    i->has_rv = false;
    struct err e = ERR_INIT;
    err_set(&e, ERR_GONE, "the watched version is gone");
    failed(i, "watch", &e);
}

/* Handles the complete lines of data plus what was left over; false when the informer left the WATCHING state. */
static bool on_lines(struct kinformer *i, struct span data) {
    while (data.n) {
        ptrdiff_t nl = span_index(data, '\n');
        if (nl < 0) {
            buf_span(&i->line, data);
            break;
        }
        struct span line = span_of(data.p, (size_t)nl);
        data = span_of(data.p + nl + 1, data.n - (size_t)nl - 1);
        if (i->line.n) {
            buf_span(&i->line, line);
            line = buf_view(&i->line);
        }
        AUTO(json_docp) struct json_doc *d = NULL;
        struct err e = ERR_INIT;
        int rc = buf_ok(&i->line);
        if (rc == 0 && line.n) {
            rc = json_parse(line, JSON_DUPS_OK, &d, &e);
        }
        /* Storage of a large event is not kept. */
        buf_fini(&i->line);
        buf_init(&i->line, LIM_KCLIENT_OBJECT);
        if (rc < 0) {
            LOG_WARN("kclient", "unreadable watch event, listing again", F_STR("path", i->path),
                     F_ERR(&e));
            return false;
        }
        if (d && !on_event(i, d, json_root(d))) {
            return false;
        }
        if (i->st != S_WATCHING) {
            return true; /* a listener stopped it */
        }
    }
    return true;
}

static void on_watch_data(struct http_call *call, struct span data, void *ctx) {
    struct kinformer *i = ctx;
    if (http_call_status(call) != 200) {
        buf_span(&i->line, data);
        return;
    }
    if (!on_lines(i, data)) {
        relist(i);
    }
}

static void on_watch_head(struct http_call *call, unsigned status, void *ctx) {
    struct kinformer *i = ctx;
    (void)call;
    if (status == 200) {
        recovered(i);
    }
}

static void on_watch_end(struct http_call *call, int rc, const struct err *e, void *ctx) {
    struct kinformer *i = ctx;
    struct err mine = ERR_INIT;
    unsigned status = http_call_status(call);
    i->watch = NULL;
    if (rc == 0 && status != 200) {
        AUTO(json_docp) struct json_doc *d = NULL;
        struct err pe = ERR_INIT;
        IGNORE_ERR(json_parse(buf_view(&i->line), JSON_DUPS_OK, &d, &pe),
                   "the status tells enough");
        rc = kclient_status_err(status, json_root(d), &mine);
        e = &mine;
    }
    watch_close(i);
    if (rc == 0) {
        go(i); /* the server ends watches now and then */
        return;
    }
    /* A version that the server has not reached yet (a restored store) also shows as failures without end. */
    if (rc == -ERR_GONE || rc == -ERR_NOT_FOUND || i->fails >= STUCK) {
        i->has_rv = false;
    }
    failed(i, "watch", e);
}

static void watch_start(struct kinformer *i) {
    AUTO(buf) struct buf t = BUF_INIT(32768);
    uint64_t s = i->c->is_local ? LOCAL_WATCH_S : REMOTE_WATCH_S;
    s += rand_below(s);
    buf_fmt(&t, "%s?watch=true&allowWatchBookmarks=true&resourceVersion=%llu&timeoutSeconds=%llu%s",
            i->path, (unsigned long long)i->rv, (unsigned long long)s, i->query);
    struct http_call_opts o = {
        .method = "GET",
        .target = buf_cstr(&t),
        .timeout_ns = (s + 30) * NS_PER_S,
        .on_head = on_watch_head,
        .on_data = on_watch_data,
        .on_end = on_watch_end,
        .ctx = i,
    };
    struct err e = ERR_INIT;
    int rc = kclient_stream(i->c, &o, accept_of(i, false), &i->watch, &e);
    if (rc < 0) {
        failed(i, "watch", &e);
    }
}

/* ---- life ---- */

static void go(struct kinformer *i) {
    if (i->st == S_STOPPED) {
        return;
    }
    i->st = i->has_rv ? S_WATCHING : S_LISTING;
    if (i->has_rv) {
        watch_start(i);
    } else {
        list_start(i);
    }
}

struct kinformer *kinformer_start(struct kclient *c, const struct kinformer_opts *o) {
    struct kinformer *i = new_zero(struct kinformer);
    AUTO(buf) struct buf path = BUF_INIT(16384), q = BUF_INIT(16384);
    struct kref ref = o->ref;
    ref.name = NULL;
    kref_path(&ref, &path);
    if (o->label_selector) {
        buf_str(&q, "&labelSelector=");
        url_encode(&q, span_str(o->label_selector));
    }
    if (o->field_selector) {
        buf_str(&q, "&fieldSelector=");
        url_encode(&q, span_str(o->field_selector));
    }
    i->c = c;
    i->o = *o;
    i->path = str_dup(buf_cstr(&path));
    i->query = str_dup(buf_cstr(&q));
    buf_init(&i->line, LIM_KCLIENT_OBJECT);
    i->st = S_LISTING;
    if (o->on_change) {
        kinformer_listen(i, o->on_change, o->ctx);
    }
    go(i);
    return i;
}

static void informer_free(struct kinformer *i) {
    struct map_iter it = {0};
    struct map_entry *en;
    while (map_next(&i->objs, &it, &en)) {
        kobj_free(en->value);
    }
    map_fini(&i->objs);
    free(i->ls);
    free(i->waiters);
    free(i->path);
    free(i->query);
    free(i->cont);
    buf_fini(&i->line);
    free(i);
}

void kinformer_stop(struct kinformer *i) {
    if (!i) {
        return;
    }
    bool listing = i->st == S_LISTING;
    i->st = S_STOPPED;
    loop_timer_stop(&i->retry);
    watch_close(i);
    if (listing) {
        i->dying = true; /* freed when the page comes */
    } else {
        informer_free(i);
    }
}
