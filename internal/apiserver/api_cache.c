#include "internal/apiserver/api_int.h"

/* ---- objects ---- */

/* Where `"resourceVersion":"N",` goes: first in the object's own metadata. Only keys of the outermost object count: names
 * inside labels, templates or strings must not mislead. 0: there is no metadata. */
static size_t splice_at(struct span stored) {
    static const char key[] = "\"metadata\":{";
    size_t depth = 0;
    for (size_t i = 0; i < stored.n; i++) {
        uint8_t c = stored.p[i];
        if (c == '{' || c == '[') {
            depth++;
        } else if (c == '}' || c == ']') {
            depth--;
        } else if (c == '"') {
            if (depth == 1 && span_starts(span_of(stored.p + i, stored.n - i), key)) {
                return i + sizeof key - 1;
            }
            for (i++; i < stored.n && stored.p[i] != '"'; i++) {
                i += stored.p[i] == '\\';
            }
        }
    }
    return 0;
}

static struct api_obj *obj_alloc(struct span key, size_t ns_n, size_t n, int64_t rv,
                                 int64_t create_rev) {
    struct api_obj *o = mem_zero_alloc(sizeof *o + key.n + n);
    o->refs = 1;
    o->key_n = (uint32_t)key.n;
    o->ns_n = (uint32_t)ns_n;
    o->n = (uint32_t)n;
    o->rv = rv;
    o->create_rev = create_rev;
    memcpy(o->data, key.p, key.n);
    return o;
}

struct api_obj *api_obj_new(struct span key, size_t ns_n, struct span stored, int64_t rv,
                            int64_t create_rev) {
    char num[48];
    size_t at = splice_at(stored);
    bool last = at > 0 && at < stored.n && stored.p[at] == '}';
    int n =
        snprintf(num, sizeof num, "\"resourceVersion\":\"%lld\"%s", (long long)rv, last ? "" : ",");
    size_t num_n = at > 0 && n > 0 ? (size_t)n : 0;
    struct api_obj *o = obj_alloc(key, ns_n, stored.n + num_n, rv, create_rev);
    char *p = o->data + key.n;
    memcpy(p, stored.p, at);
    memcpy(p + at, num, num_n);
    memcpy(p + at + num_n, stored.p + at, stored.n - at);
    return o;
}

/* The same object as of another revision (that of its deletion). */
struct api_obj *api_obj_at_rv(const struct api_obj *o, int64_t rv) {
    char was[48];
    char now[48];
    int was_n = snprintf(was, sizeof was, "\"resourceVersion\":\"%lld\"", (long long)o->rv);
    int now_n = snprintf(now, sizeof now, "\"resourceVersion\":\"%lld\"", (long long)rv);
    struct span json = api_obj_json(o);
    size_t front = splice_at(json);
    const uint8_t *hit = json.p + front;
    if (front == 0 || !span_starts(span_of(hit, json.n - front), was)) {
        return obj_alloc(api_obj_key(o), o->ns_n, 0, rv, o->create_rev);
    }
    size_t at = (size_t)(hit - json.p);
    size_t n = json.n - (size_t)was_n + (size_t)now_n;
    struct api_obj *c = obj_alloc(api_obj_key(o), o->ns_n, n, rv, o->create_rev);
    char *p = c->data + c->key_n;
    memcpy(p, json.p, at);
    memcpy(p + at, now, (size_t)now_n);
    memcpy(p + at + now_n, json.p + at + was_n, json.n - at - (size_t)was_n);
    return c;
}

void api_obj_unref(struct api_obj *o) {
    if (o == NULL) {
        return;
    }
    DCHECK(o->refs > 0);
    if (--o->refs == 0) {
        free(o);
    }
}

int api_obj_parse(const struct api_obj *o, struct json_doc **ret) {
    struct err e = ERR_INIT;
    int rc = json_parse(api_obj_json(o), 0, ret, &e);
    if (rc < 0) {
        LOG_ERROR("apiserver", "stored object does not parse", F_SPAN("key", api_obj_key(o)),
                  F_ERR(&e));
    }
    return rc;
}

/* ---- lookup ---- */

size_t api_cache_lower(const struct api_res *res, struct span key) {
    size_t lo = 0;
    size_t hi = res->n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (span_cmp(api_obj_key(res->objs[mid]), key) < 0) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo;
}

struct api_obj *api_cache_get(const struct api_res *res, struct span key) {
    size_t at = api_cache_lower(res, key);
    if (at < res->n && span_eq(api_obj_key(res->objs[at]), key)) {
        return res->objs[at];
    }
    return NULL;
}

struct api_obj *api_cache_find(const struct api_res *res, const char *ns, const char *name) {
    char key[2 * LIM_KUBE_NAME + 2];
    if (res == NULL || name == NULL) {
        return NULL;
    }
    int rc = ns != NULL && ns[0] != '\0' ? str_put(key, sizeof key, "%s/%s", ns, name)
                                         : str_put(key, sizeof key, "%s", name);
    return rc < 0 ? NULL : api_cache_get(res, span_str(key));
}

void api_cache_span(const struct api_res *res, const char *ns, size_t *from, size_t *to) {
    *from = 0;
    *to = res->n;
    if (ns == NULL || ns[0] == '\0') {
        return;
    }
    char key[LIM_KUBE_NAME + 2];
    if (str_put(key, sizeof key, "%s/", ns) < 0) {
        *to = 0;
        return;
    }
    *from = api_cache_lower(res, span_str(key));
    key[strlen(key) - 1] = '/' + 1;
    *to = api_cache_lower(res, span_str(key));
}

/* ---- ring ---- */

const struct api_event *api_ring_at(const struct api_res *res, uint64_t seq) {
    return &res->ring[seq & (res->ring_cap - 1)];
}

static size_t event_bytes(const struct api_event *ev) {
    return ev->obj->n + (ev->prev != NULL ? ev->prev->n : 0u);
}

static void ring_drop(struct api_res *res) {
    struct api_event *ev = &res->ring[res->first & (res->ring_cap - 1)];
    res->ring_from = ev->rv;
    res->ring_bytes -= event_bytes(ev);
    api_event_rest(ev);
    api_obj_unref(ev->obj);
    api_obj_unref(ev->prev);
    memset(ev, 0, sizeof *ev);
    res->first++;
}

static void ring_grow(struct api_res *res) {
    size_t cap = res->ring_cap == 0 ? 16 : res->ring_cap * 2;
    struct api_event *ring = mem_array(NULL, cap, sizeof *ring, LIM_API_RING);
    if (ring == NULL) {
        ring_drop(res);
        return;
    }
    memset(ring, 0, cap * sizeof *ring);
    for (uint64_t i = res->first; i < res->next; i++) {
        ring[i & (cap - 1)] = *api_ring_at(res, i);
    }
    free(res->ring);
    res->ring = ring;
    res->ring_cap = cap;
}

static void ring_add(struct api_res *res, const struct api_event *ev) {
    size_t bytes = event_bytes(ev);
    while (res->first < res->next && res->ring_bytes + bytes > LIM_API_RING_BYTES) {
        ring_drop(res);
    }
    if (res->next - res->first == res->ring_cap) {
        if (res->ring_cap < LIM_API_RING) {
            ring_grow(res);
        } else {
            ring_drop(res);
        }
    }
    res->ring[res->next & (res->ring_cap - 1)] = *ev;
    res->next++;
    res->ring_bytes += bytes;
}

void api_ring_trim(struct api_res *res, uint64_t before_ns) {
    while (res->first < res->next && api_ring_at(res, res->first)->at_ns < before_ns) {
        ring_drop(res);
    }
    if (res->first == res->next) {
        free(res->ring);
        res->ring = NULL;
        res->ring_cap = 0;
    }
}

/* ---- changes from the store ---- */

/* Resource and cache key of "/registry/group/resource/[ns/]name"; false for keys of nobody here. */
static bool key_parse(const struct apiserver *a, struct span full, struct api_res **res,
                      struct span *key, size_t *ns_n) {
    static const char root[] = "/registry/";
    struct span s = full;
    struct span skipped;
    struct span group;
    struct span resource;
    if (!span_starts(s, root) || span_take(&s, sizeof root - 1, &skipped) < 0 ||
        span_until(&s, '/', &group) < 0 || span_until(&s, '/', &resource) < 0) {
        return false;
    }
    *res = map_get(&a->by_name, span_of(group.p, group.n + 1 + resource.n));
    if (*res == NULL || s.n == 0) {
        return false;
    }
    *key = s;
    ptrdiff_t slash = span_index(s, '/');
    *ns_n = slash > 0 ? (size_t)slash : 0;
    return (slash > 0) == (*res)->kr->namespaced;
}

static bool cache_insert(struct api_res *res, size_t at, struct api_obj *o) {
    if (res->n == res->cap) {
        size_t cap = res->cap == 0 ? 8 : res->cap * 2;
        struct api_obj **objs = mem_array(res->objs, cap, sizeof *objs, LIM_CACHE_OBJS);
        if (objs == NULL) {
            return false;
        }
        res->objs = objs;
        res->cap = cap;
    }
    memmove(&res->objs[at + 1], &res->objs[at], (res->n - at) * sizeof *res->objs);
    res->objs[at] = o;
    res->n++;
    return true;
}

/* A key that is no object. */
static void apply_other(struct apiserver *a, const struct store_kv *kv, bool gone) {
    a->choice_rev = api_svc_is_choice(kv->key) ? kv->mod_rev : a->choice_rev;
    api_peers_event(a, kv->key, gone);
}

static struct api_res *apply_event(struct apiserver *a, const struct store_event *ev) {
    struct api_res *res = NULL;
    struct span key;
    size_t ns_n = 0;
    if (!key_parse(a, ev->kv.key, &res, &key, &ns_n)) {
        apply_other(a, &ev->kv, ev->type == STORE_DELETE);
        return NULL;
    }
    size_t at = api_cache_lower(res, key);
    struct api_obj *prev =
        at < res->n && span_eq(api_obj_key(res->objs[at]), key) ? res->objs[at] : NULL;
    struct api_event out = {.rv = ev->kv.mod_rev, .at_ns = loop_now(a->l), .prev = prev};
    if (ev->type == STORE_DELETE) {
        if (prev == NULL) {
            return NULL;
        }
        out.type = API_DELETED;
        out.obj = api_obj_at_rv(prev, ev->kv.mod_rev);
        memmove(&res->objs[at], &res->objs[at + 1], (res->n - at - 1) * sizeof *res->objs);
        res->n--; /* the reference goes to the event */
    } else {
        out.type = prev != NULL ? API_MODIFIED : API_ADDED;
        out.obj = api_obj_new(key, ns_n, ev->kv.value, ev->kv.mod_rev, ev->kv.create_rev);
        if (prev != NULL) {
            res->objs[at] = api_obj_ref(out.obj);
        } else if (cache_insert(res, at, out.obj)) {
            api_obj_ref(out.obj);
        } else {
            LOG_ERROR("apiserver", "out of memory for the cache");
            abort();
        }
    }
    ring_add(res, &out);
    if (res == a->services) {
        api_svc_event(a, out.prev, out.type == API_DELETED ? NULL : out.obj);
    }
    res->last_rv = out.rv;
    res->generation++;
    return res;
}

/* History is kept for five to ten minutes, as upstream's compactor does: lists that were begun can be continued, and the file
 * does not grow with every heartbeat. The timer runs only while there is history to forget. */
enum { COMPACT_S = 300 };

static void on_compacted(void *ctx, int rc, const struct err *e) {
    (void)ctx;
    if (rc < 0 && rc != -ERR_GONE) {
        LOG_WARN("apiserver", "compaction failed, trying again later", F_ERR(e));
    }
}

static void on_compact_timer(struct loop_timer *t) {
    struct apiserver *a = CONTAINER_OF(t, struct apiserver, compact_timer);
    int64_t now = store_rev(a->store);
    if (a->compact_rev > store_compact_rev(a->store)) {
        store_compact(a->store, a->compact_rev, false, on_compacted, a);
    }
    bool more = now > a->compact_rev;
    a->compact_rev = now;
    if (more) {
        loop_timer_start(a->l, t, COMPACT_S * NS_PER_S, on_compact_timer, "compaction");
    }
}

static int on_store_events(void *ctx, struct store_watch *w, const struct store_watch_msg *m) {
    struct apiserver *a = ctx;
    (void)w;
    if (m->kind == STORE_WATCH_CANCELLED) {
        LOG_WARN("apiserver", "the store ended the watch, reading everything again",
                 F_STR("reason", m->reason));
        a->reloading = true;
        api_cache_later(a, 0);
        return 0;
    }
    for (size_t i = 0; i < m->n; i++) {
        struct api_res *res = apply_event(a, m->events[i]);
        if (res != NULL && !list_empty(&res->watches)) {
            res->dirty = true;
        }
    }
    for (size_t i = 0; i < a->n_res; i++) {
        if (a->res[i].dirty) {
            a->res[i].dirty = false;
            api_watch_event(&a->res[i]);
        }
    }
    api_retry_wake(a);
    if (m->n > 0 && !loop_timer_active(&a->compact_timer)) {
        loop_timer_start(a->l, &a->compact_timer, COMPACT_S * NS_PER_S, on_compact_timer,
                         "compaction");
    }
    return 0;
}

/* ---- reading everything ----
 * At the start, and again when the store ended the watch: an etcd that was compacted while it could not be reached no
 * longer knows what has happened since. The new state is collected beside the old one, which serves until then. */

static const struct span all_keys = {(const uint8_t *)"/registry/", 10};
static const struct span all_end = {(const uint8_t *)"/registry0", 10};

static void fresh_drop(struct api_res *res) {
    for (size_t i = 0; i < res->n_fresh; i++) {
        api_obj_unref(res->fresh[i]);
    }
    free(TAKE(res->fresh));
    res->n_fresh = res->cap_fresh = 0;
}

static int on_scan(void *ctx, const struct store_kv *kv) {
    struct apiserver *a = ctx;
    struct api_res *res = NULL;
    struct span key;
    size_t ns_n = 0;
    if (!key_parse(a, kv->key, &res, &key, &ns_n)) {
        apply_other(a, kv, false);
        return 0;
    }
    if (res->n_fresh == res->cap_fresh) {
        size_t cap = res->cap_fresh == 0 ? 8 : res->cap_fresh * 2;
        struct api_obj **fresh = mem_array(res->fresh, cap, sizeof *fresh, LIM_CACHE_OBJS);
        if (fresh == NULL) {
            return -ERR_NOMEM;
        }
        res->fresh = fresh;
        res->cap_fresh = cap;
    }
    struct api_obj *have = api_cache_get(res, key);
    res->fresh[res->n_fresh++] =
        have != NULL && have->rv == kv->mod_rev
            ? api_obj_ref(have)
            : api_obj_new(key, ns_n, kv->value, kv->mod_rev, kv->create_rev);
    return 0;
}

/* What the allocation of service addresses has missed. */
static void services_differ(struct apiserver *a, const struct api_res *res) {
    size_t i = 0;
    size_t k = 0;
    while (i < res->n || k < res->n_fresh) {
        struct api_obj *was = i < res->n ? res->objs[i] : NULL;
        struct api_obj *now = k < res->n_fresh ? res->fresh[k] : NULL;
        int order = was == NULL   ? 1
                    : now == NULL ? -1
                                  : span_cmp(api_obj_key(was), api_obj_key(now));
        i += order <= 0;
        k += order >= 0;
        if (was != now) {
            api_svc_event(a, order <= 0 ? was : NULL, order >= 0 ? now : NULL);
        }
    }
}

/* Nobody can tell watchers what has happened in between: they list again. */
static void take_fresh(struct apiserver *a, struct api_res *res, int64_t rev) {
    if (res == a->services) {
        services_differ(a, res);
    }
    while (res->first < res->next) {
        ring_drop(res);
    }
    struct api_obj **old = res->objs;
    size_t n_old = res->n;
    res->objs = TAKE(res->fresh);
    res->n = res->n_fresh;
    res->cap = res->cap_fresh;
    res->n_fresh = res->cap_fresh = 0;
    for (size_t i = 0; i < n_old; i++) {
        api_obj_unref(old[i]);
    }
    free(old);
    res->ring_from = rev;
    res->last_rv = rev;
    res->generation++;
}

static void load_failed(struct apiserver *a, const struct err *e) {
    LOG_WARN("apiserver", "reading the store, trying again in a second", F_ERR(e));
    api_cache_later(a, API_AGAIN_MS * NS_PER_MS);
}

static void on_scanned(void *ctx, int rc, int64_t rev, const struct err *e) {
    struct apiserver *a = ctx;
    struct err mine = ERR_INIT;
    a->scanning = false;
    if (rc >= 0 && !a->closing) {
        const struct store_watch_req q = {.key = all_keys, .end = all_end, .start_rev = rev + 1};
        rc = store_watch_start(a->store, &q, on_store_events, a, &a->watch, &mine);
        e = &mine;
    }
    if (rc < 0 || a->closing) {
        for (size_t i = 0; i < a->n_res; i++) {
            fresh_drop(&a->res[i]);
        }
        if (!a->closing) {
            load_failed(a, e);
        }
        return;
    }
    api_watch_end_all(a);
    for (size_t i = 0; i < a->n_res; i++) {
        take_fresh(a, &a->res[i], rev);
    }
    a->reloading = false;
    if (a->n_boot_pending == 0) {
        api_boot_start(a); /* another history may lack them */
    }
}

int api_cache_load(struct apiserver *a, struct err *e) {
    if (a->scanning) {
        return 0;
    }
    store_watch_stop(TAKE(a->watch));
    a->choice_rev = 0;
    api_peers_forget(a);
    int rc = store_scan(a->store, all_keys, all_end, on_scan, on_scanned, a, e);
    a->scanning = rc >= 0;
    return rc;
}

static void on_load_timer(struct loop_timer *t) {
    struct apiserver *a = CONTAINER_OF(t, struct apiserver, load_timer);
    struct err e = ERR_INIT;
    int rc = api_cache_load(a, &e);
    if (rc < 0) {
        load_failed(a, &e);
    }
}

void api_cache_later(struct apiserver *a, uint64_t after_ns) {
    loop_timer_start(a->l, &a->load_timer, after_ns, on_load_timer, "cache");
}

void api_cache_free(struct apiserver *a) {
    store_watch_stop(a->watch);
    a->watch = NULL;
    for (size_t i = 0; i < a->n_res; i++) {
        struct api_res *res = &a->res[i];
        while (res->first < res->next) {
            ring_drop(res);
        }
        fresh_drop(res);
        for (size_t k = 0; k < res->n; k++) {
            api_obj_unref(res->objs[k]);
        }
        free(res->ring);
        free(res->objs);
        free(res->prefix);
    }
    free(a->res);
    a->res = NULL;
    a->n_res = 0;
}
