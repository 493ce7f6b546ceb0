/* Watches: pushed from each commit's events; those that lag read the recent events or, further back, the log. */
#include "internal/store/store_int.h"

#include <stdlib.h>

enum { CHUNK_ROWS = 2000, CHUNK_EVENTS = 512, CHUNK_BYTES = 512 * 1024 };

static void pump(struct loop_timer *t);

static void pump_soon(struct store *s) {
    if (!loop_timer_active(&s->pump_timer)) {
        loop_timer_start(s->l, &s->pump_timer, 0, pump, "store-watch");
    }
}

/* ---- events of a commit ---- */

struct ebatch *ebatch_new(void) {
    struct ebatch *b = new_zero(struct ebatch);
    b->a = (struct arena)ARENA_INIT((size_t)1 << 31);
    list_init(&b->link);
    return b;
}

void ebatch_free(struct ebatch *b) {
    if (b) {
        arena_fini(&b->a);
        free(b->ev);
        free(b->prev_id);
        free(b);
    }
}

int ebatch_add(struct ebatch *b, const struct store_event *ev, int64_t prev_id, struct err *e) {
    if (b->n == b->cap) {
        size_t cap = b->cap ? b->cap * 2 : 8;
        struct store_event *v = mem_array(b->ev, cap, sizeof(*v), (size_t)1 << 28);
        if (v) {
            b->ev = v;
        }
        int64_t *p = v ? mem_array(b->prev_id, cap, sizeof(*p), (size_t)1 << 28) : NULL;
        if (!p) {
            return err_set(e, ERR_NOMEM, "events of a transaction");
        }
        b->prev_id = p;
        b->cap = cap;
    }
    struct store_event *to = &b->ev[b->n];
    *to = *ev;
    to->kv.key = arena_copy(&b->a, ev->kv.key);
    to->kv.value = ev->type == STORE_PUT ? arena_copy(&b->a, ev->kv.value) : SPAN_EMPTY;
    if (!to->kv.key.p || (ev->type == STORE_PUT && !to->kv.value.p)) {
        return err_pub(e, ERR_LIMIT, STORE_E_TOO_LARGE);
    }
    to->prev.key = to->kv.key;
    b->prev_id[b->n++] = prev_id;
    b->last_rev = ev->kv.mod_rev;
    if (!b->first_rev) {
        b->first_rev = ev->kv.mod_rev;
    }
    return 0;
}

/* ---- giving events to one watch ---- */

static bool wanted(const struct store_watch *w, const struct store_event *ev) {
    if (ev->kv.mod_rev < w->next || !range_holds(w->key, w->end, ev->kv.key)) {
        return false;
    }
    return !(w->filters & (ev->type == STORE_PUT ? STORE_NO_PUT : STORE_NO_DELETE));
}

static int64_t next_of(const struct store_watch *w) {
    bool exact = w->lagging || w->due || w->next > w->s->given;
    return exact ? w->next : w->s->given + 1;
}

static void move(struct store_watch *w, bool lagging) {
    w->next = next_of(w);
    w->due = false;
    list_del(&w->link);
    list_add_tail(lagging ? &w->s->lagging : &w->s->synced, &w->link);
    w->lagging = lagging;
}

/* False: the watch is gone or wants a pause. */
static bool call(struct store_watch *w, const struct store_watch_msg *m) {
    w->in_call = true;
    int rc = w->cb(w->ctx, w, m);
    w->in_call = false;
    if (w->dead) {
        store_watch_stop(w);
        return false;
    }
    if (rc == STORE_WATCH_PAUSE) {
        w->paused = true;
        move(w, true);
    }
    return !w->paused && !w->cancelled;
}

static void cancel(struct store_watch *w, int rc, const char *reason) {
    w->cancelled = true;
    if (!w->lagging) {
        move(w, true);
    }
    struct store_watch_msg m = {.kind = STORE_WATCH_CANCELLED,
                                .rev = w->s->rev,
                                .compact_rev = rc == -ERR_GONE ? w->s->compact_rev : 0,
                                .rc = rc,
                                .reason = reason};
    call(w, &m);
}

static bool progress(struct store_watch *w) {
    if (!w->want_progress || w->next > w->s->rev + 1) {
        return true;
    }
    w->want_progress = false;
    return call(w, &(struct store_watch_msg){.kind = STORE_WATCH_PROGRESS, .rev = w->s->rev});
}

static void push(struct store *s, size_t *n, const struct store_event *ev) {
    if (*n == s->scratch_cap) {
        size_t cap = s->scratch_cap ? s->scratch_cap * 2 : 64;
        const struct store_event **p = mem_array(s->scratch, cap, sizeof(*p), (size_t)1 << 28);
        CHECK(p);
        s->scratch = p;
        s->scratch_cap = cap;
    }
    s->scratch[(*n)++] = ev;
}

/* What an event replaces is what was there before its revision, not what the revision itself put there first. */
static int before_rev(const struct view *v, const struct store_event *ev, int64_t *id,
                      struct err *e) {
    if (id_rev(*id) != ev->kv.mod_rev) {
        return 0;
    }
    struct view at = *v;
    struct row r;
    at.at = ev->kv.mod_rev - 1;
    int rc = ev->kv.create_rev == ev->kv.mod_rev ? 0 : view_find(&at, ev->kv.key, &r, e);
    *id = rc > 0 ? r.id : 0;
    return rc < 0 ? rc : 0;
}

/* A commit that ran before anybody asked for previous values did not load them. */
static int load_prev(struct store *s, struct ebatch *b, struct err *e) {
    struct view v = store_view(s);
    for (size_t i = 0; i < b->n; i++) {
        struct store_event *ev = &b->ev[i];
        if (ev->has_prev || !b->prev_id[i] || ev->kv.mod_rev - 1 < s->compact_rev) {
            continue;
        }
        int rc = before_rev(&v, ev, &b->prev_id[i], e);
        if (rc == 0 && !b->prev_id[i]) {
            continue;
        }
        rc = rc < 0 ? rc : view_log(&v, b->prev_id[i], &b->a, &ev->prev, e);
        if (rc == 0 && ev->prev.version > 0) {
            ev->has_prev = true;
        } else if (rc < 0 && rc != -ERR_NOT_FOUND) {
            return rc;
        }
    }
    return 0;
}

/* False: the watch is gone. */
static bool prepare(struct store_watch *w, struct ebatch *b) {
    struct err e = ERR_INIT;
    int rc = w->prev_kv ? load_prev(w->s, b, &e) : 0;
    if (rc < 0) {
        cancel(w, rc, "etcdserver: reading previous values failed");
    }
    return rc == 0;
}

/* False as call(). w->next moves first: the callback may ask for it, and a pause resumes behind these events. */
static bool give_list(struct store_watch *w, struct store_watch_msg *m) {
    m->kind = STORE_WATCH_EVENTS;
    if (w->next <= m->rev) {
        w->next = m->rev + 1;
    }
    w->s->st.n_events += m->n;
    return !m->n || call(w, m);
}

static bool give(struct store_watch *w, struct ebatch *b, int64_t upto) {
    struct store *s = w->s;
    if (!prepare(w, b)) {
        return false;
    }
    size_t n = 0;
    for (size_t i = 0; i < b->n; i++) {
        if (wanted(w, &b->ev[i])) {
            push(s, &n, &b->ev[i]);
        }
    }
    /* Those that catch up together are given the same, too. */
    struct wrange *g = w->range;
    bool all = b->no && !w->filters && w->next <= b->first_rev;
    if (all && g->caught_batch != b->no) {
        g->caught_batch = b->no;
        g->caught_share = ++s->n_shares;
    }
    /* The callback may deliver nothing to others: the scratch list is this call's alone. */
    return give_list(
        w, &(struct store_watch_msg){
               .events = s->scratch, .n = n, .rev = upto, .share = all ? g->caught_share : 0});
}

/* The same for the events of its range; those who want all of them are given one list. */
static bool give_range(struct store_watch *w, struct ebatch *b, uint64_t share) {
    struct store *s = w->s;
    struct wrange *g = w->range;
    if (!prepare(w, b)) {
        return false;
    }
    if (!w->filters && w->next <= g->ev[0]->kv.mod_rev) {
        return give_list(w, &(struct store_watch_msg){
                                .events = g->ev, .n = g->n_ev, .rev = s->rev, .share = share});
    }
    size_t n = 0;
    for (size_t i = 0; i < g->n_ev; i++) {
        if (wanted(w, g->ev[i])) {
            push(s, &n, g->ev[i]);
        }
    }
    return give_list(w, &(struct store_watch_msg){.events = s->scratch, .n = n, .rev = s->rev});
}

/* ---- commits ---- */

static void keep_recent(struct store *s, struct ebatch *own_b) {
    own_b->bytes = own_b->a.used + own_b->cap * (sizeof(struct store_event) + sizeof(int64_t)) +
                   sizeof(*own_b);
    own_b->no = ++s->n_batches;
    list_add_tail(&s->recent, &own_b->link);
    s->recent_bytes += own_b->bytes;
}

static void trim_recent(struct store *s, size_t max) {
    while (!list_empty(&s->recent) && s->recent_bytes > max) {
        struct ebatch *b = CONTAINER_OF(s->recent.next, struct ebatch, link);
        list_del(&b->link);
        s->recent_bytes -= b->bytes;
        ebatch_free(b);
    }
}

/* Takes those of a range out of synced, whatever callbacks do to them: they may start and stop any watch. */
static void collect_due(struct wrange *g, struct list *due) {
    for (LIST_EACH(p, next, &g->watches)) {
        struct store_watch *w = CONTAINER_OF(p, struct store_watch, range_link);
        if (!w->lagging) {
            w->next = next_of(w);
            w->due = true;
            list_del(&w->link);
            list_add_tail(due, &w->link);
        }
    }
}

static void deliver(struct store *s, struct ebatch *b) {
    struct list hits, due;
    list_init(&hits);
    list_init(&due);
    match_events(s, b, &hits);
    for (LIST_EACH(p, next, &hits)) {
        collect_due(CONTAINER_OF(p, struct wrange, hit), &due);
    }
    s->given = s->rev;
    const struct wrange *at = NULL;
    while (!list_empty(&due)) {
        struct store_watch *w = CONTAINER_OF(due.next, struct store_watch, link);
        s->n_shares += w->range != at;
        at = w->range;
        move(w, false);
        if (give_range(w, b, s->n_shares)) {
            IGNORE_ERR(progress(w), "the watch keeps its own state");
        }
    }
    match_done(s, &hits);
}

void watch_deliver(struct store *s, struct ebatch *own_eb) {
    if (!own_eb) {
        /* Nobody watched when the commit was made. Whoever started since reads the log. */
        trim_recent(s, 0);
        for (LIST_EACH(p, next, &s->synced)) {
            struct store_watch *w = CONTAINER_OF(p, struct store_watch, link);
            if (next_of(w) <= s->rev) {
                move(w, true);
            }
        }
    } else if (own_eb->n) {
        keep_recent(s, own_eb);
        deliver(s, own_eb);
        trim_recent(s, s->o.recent_bytes);
    } else {
        ebatch_free(own_eb);
    }
    s->given = s->rev;
    if (!list_empty(&s->lagging)) {
        pump_soon(s);
    }
}

void watch_compacted(struct store *s) {
    for (LIST_EACH(p, next, &s->lagging)) {
        struct store_watch *w = CONTAINER_OF(p, struct store_watch, link);
        if (!w->cancelled && w->next < s->compact_rev) {
            pump_soon(s);
            break;
        }
    }
}

/* ---- catching up ---- */

/* Reads a stretch of the log into *b: whole revisions from w->next on. *ret_upto: how far it reaches. */
static int read_log(struct store_watch *w, struct ebatch *b, int64_t *ret_upto, struct err *e) {
    struct store *s = w->s;
    sqlite3_stmt *st = db_stmt(&s->rd, ST_LOG_SCAN, e);
    if (!st) {
        return -(int)e->code;
    }
    sqlite3_bind_int64(st, 1, id_of(w->next, 0));
    sqlite3_bind_int64(st, 2, id_of(s->rev + 1, 0));
    *ret_upto = s->rev;
    int64_t at = w->next;
    int out = 0;
    for (size_t rows = 0;; rows++) {
        int rc = sqlite3_step(st);
        if (rc != SQLITE_ROW) {
            out = rc == SQLITE_DONE ? 0 : db_fail(&s->rd, rc, "reading the log", e);
            break;
        }
        int64_t id = sqlite3_column_int64(st, 0);
        if (id_rev(id) != at &&
            (rows >= CHUNK_ROWS || b->n >= CHUNK_EVENTS || b->a.used >= CHUNK_BYTES)) {
            *ret_upto = id_rev(id) - 1;
            break;
        }
        at = id_rev(id);
        int64_t ver = sqlite3_column_int64(st, 3);
        struct store_event ev = {.type = ver ? STORE_PUT : STORE_DELETE,
                                 .kv = {db_col_span(st, 1), SPAN_EMPTY, sqlite3_column_int64(st, 2),
                                        at, ver, sqlite3_column_int64(st, 4)}};
        if (!wanted(w, &ev)) {
            continue;
        }
        ev.kv.value = db_col_span(st, 6);
        ev.kv.key = db_col_span(st, 1); /* reading one column may move another */
        out = ebatch_add(b, &ev, sqlite3_column_int64(st, 5), e);
        if (out < 0) {
            break;
        }
    }
    sqlite3_reset(st);
    return out;
}

static struct ebatch *recent_for(struct store *s, int64_t rev) {
    if (list_empty(&s->recent) ||
        CONTAINER_OF(s->recent.next, struct ebatch, link)->first_rev > rev) {
        return NULL;
    }
    for (LIST_EACH(p, next, &s->recent)) {
        struct ebatch *b = CONTAINER_OF(p, struct ebatch, link);
        if (b->last_rev >= rev) {
            return b;
        }
    }
    return NULL;
}

static void caught_up(struct store_watch *w) {
    if (w->next > w->s->rev) {
        move(w, false);
        IGNORE_ERR(progress(w), "the watch keeps its own state");
    }
}

/* A stretch of the log, for the watch and all of its range that wait for the same. */
static void give_log(struct store_watch *w) {
    struct store *s = w->s;
    struct err e = ERR_INIT;
    struct ebatch *b = ebatch_new();
    struct list now;
    int64_t from = w->next, upto = s->rev;
    int rc = read_log(w, b, &upto, &e);
    if (rc < 0) {
        cancel(w, rc, err_public(&e));
        ebatch_free(b);
        return;
    }
    b->no = ++s->n_batches;
    list_init(&now);
    for (LIST_EACH(p, next, &w->range->watches)) {
        struct store_watch *k = CONTAINER_OF(p, struct store_watch, range_link);
        bool same = k->lagging && k->next == from && k->filters == w->filters;
        if (same && !k->paused && !k->cancelled) {
            list_del(&k->link);
            list_add_tail(&now, &k->link);
        }
    }
    while (!list_empty(&now)) { /* callbacks may stop any of them */
        struct store_watch *k = CONTAINER_OF(now.next, struct store_watch, link);
        move(k, true);
        if (give(k, b, upto)) {
            caught_up(k);
        }
    }
    ebatch_free(b);
}

/* One bounded step of one watch. */
static void catch_up(struct store_watch *w) {
    struct store *s = w->s;
    if (w->next < s->compact_rev) {
        cancel(w, -ERR_GONE, STORE_E_COMPACTED);
        return;
    }
    struct ebatch *b = w->next <= s->rev ? recent_for(s, w->next) : NULL;
    if (b) {
        if (give(w, b, b->link.next == &s->recent ? s->rev : b->last_rev)) {
            caught_up(w);
        }
    } else if (w->next <= s->rev) {
        give_log(w);
    } else {
        caught_up(w);
    }
}

static void pump(struct loop_timer *t) {
    struct store *s = CONTAINER_OF(t, struct store, pump_timer);
    struct list now;
    list_init(&now);
    while (!list_empty(&s->lagging)) {
        struct list *p = s->lagging.next;
        list_del(p);
        list_add_tail(&now, p);
    }
    bool again = false;
    while (!list_empty(&now)) {
        struct store_watch *w = CONTAINER_OF(now.next, struct store_watch, link);
        move(w, true);
        if (!w->paused && !w->cancelled) {
            catch_up(w);
        }
    }
    for (LIST_EACH(p, next, &s->lagging)) {
        struct store_watch *w = CONTAINER_OF(p, struct store_watch, link);
        again |= !w->paused && !w->cancelled;
    }
    if (again) {
        loop_timer_start(s->l, t, 0, pump, "store-watch");
    }
}

/* ---- public ---- */

int engine_watch_start(struct store *s, const struct store_watch_req *q, store_watch_cb *cb,
                       void *ctx, struct store_watch **ret, struct err *e) {
    if (!q->key.n) {
        return err_pub(e, ERR_INVALID, STORE_E_EMPTY_KEY);
    }
    if (s->closing) {
        return err_set(e, ERR_UNAVAILABLE, "the store is closing");
    }
    struct store_watch *w = mem_zero_alloc(sizeof(*w) + q->key.n + q->end.n);
    memcpy(w->own, q->key.p, q->key.n);
    if (q->end.n) {
        memcpy(w->own + q->key.n, q->end.p, q->end.n);
    }
    bool all = q->key.n == 1 && q->key.p[0] == 0 && q->end.n == 1 && q->end.p[0] == 0;
    w->key = span_of(w->own, all ? 0 : q->key.n);
    w->end = span_of(w->own + q->key.n, q->end.n);
    w->impl = s->impl;
    w->s = s;
    w->cb = cb;
    w->ctx = ctx;
    w->next = q->start_rev ? q->start_rev : s->rev + 1;
    w->filters = q->filters;
    w->prev_kv = q->prev_kv;
    list_init(&w->link);
    w->lagging = true; /* next is exact */
    move(w, w->next <= s->rev);
    match_join(s, w);
    s->n_watches++;
    s->n_prev_watches += q->prev_kv;
    if (w->lagging) {
        pump_soon(s);
    }
    *ret = w;
    return 0;
}

void engine_watch_stop(struct store_watch *w) {
    if (w->in_call) {
        if (!w->dead) {
            w->dead = true;
        }
        return;
    }
    list_del(&w->link);
    match_leave(w);
    w->s->n_watches--;
    w->s->n_prev_watches -= w->prev_kv;
    if (!w->s->n_watches) {
        trim_recent(w->s, 0);
    }
    free(w);
}

void engine_watch_resume(struct store_watch *w) {
    if (w->paused && !w->cancelled) {
        w->paused = false;
        move(w, true);
        pump_soon(w->s);
    }
}

void engine_watch_progress(struct store_watch *w) {
    if (!w->cancelled) {
        w->want_progress = true;
        move(w, true);
        pump_soon(w->s);
    }
}

int64_t engine_watch_next_rev(const struct store_watch *w) {
    return next_of(w);
}

void watch_fini(struct store *s) {
    loop_timer_stop(&s->pump_timer);
    trim_recent(s, 0);
    free(s->scratch);
    struct list *lists[] = {&s->synced, &s->lagging};
    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        while (!list_empty(lists[i])) {
            struct store_watch *w = CONTAINER_OF(lists[i]->next, struct store_watch, link);
            store_watch_stop(w);
        }
    }
}
