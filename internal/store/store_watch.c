/* Watches: pushed from each commit's events. Those that lag are store_catchup.c's. */
#include "internal/store/store_int.h"

#include <stdlib.h>

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

void events_push(struct events *l, const struct store_event *ev) {
    if (l->n == l->cap) {
        l->cap = l->cap ? 2 * l->cap : 8;
        l->v = mem_array(l->v, l->cap, sizeof(*l->v), (size_t)1 << 28);
        CHECK(l->v);
    }
    l->v[l->n++] = ev;
}

/* ---- giving events to one watch ---- */

static const char STORE_E_PREV[] = "etcdserver: reading previous values failed";

bool watch_wants(const struct store_watch *w, const struct store_event *ev) {
    if (ev->kv.mod_rev < w->next || !range_holds(w->key, w->end, ev->kv.key)) {
        return false;
    }
    return !(w->filters & (ev->type == STORE_PUT ? STORE_NO_PUT : STORE_NO_DELETE));
}

static int64_t next_of(const struct store_watch *w) {
    bool exact = w->lagging || w->due || w->next > w->s->given;
    return exact ? w->next : w->s->given + 1;
}

void watch_move(struct store_watch *w, bool lagging) {
    struct store *s = w->s;
    w->next = next_of(w);
    w->due = false;
    w->lagging = lagging;
    list_del(&w->link);
    list_add_tail(!lagging                    ? &s->synced
                  : w->paused || w->cancelled ? &s->paused
                                              : &s->lagging,
                  &w->link);
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
        watch_move(w, true);
    }
    return !w->paused && !w->cancelled;
}

void watch_cancel(struct store_watch *w, int rc, const char *reason) {
    w->cancelled = true;
    watch_move(w, true);
    struct store_watch_msg m = {.kind = STORE_WATCH_CANCELLED,
                                .rev = w->s->rev,
                                .compact_rev = rc == -ERR_GONE ? w->s->compact_rev : 0,
                                .rc = rc,
                                .reason = reason};
    call(w, &m);
}

bool watch_progress(struct store_watch *w) {
    if (!w->want_progress || w->next > w->s->rev + 1) {
        return true;
    }
    w->want_progress = false;
    return call(w, &(struct store_watch_msg){.kind = STORE_WATCH_PROGRESS, .rev = w->s->rev});
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
int watch_load_prev(struct store *s, struct ebatch *b, struct err *e) {
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

/* w->next moves first: the callback may ask for it, and a pause resumes behind these events. */
bool watch_give(struct store_watch *w, struct store_watch_msg *m) {
    struct store *s = w->s;
    size_t n = 0;
    if (w->filters) {
        m->share = 0;
        for (size_t i = 0; i < m->n; i++) {
            if (watch_wants(w, m->events[i])) {
                events_push(&s->scratch, m->events[i]);
                n++;
            }
        }
        m->events = s->scratch.v; /* this call's alone: a callback delivers nothing to others */
        m->n = n;
        s->scratch.n = 0;
    }
    m->kind = STORE_WATCH_EVENTS;
    if (w->next <= m->rev) {
        w->next = m->rev + 1;
    }
    s->st.n_events += m->n;
    return !m->n || call(w, m);
}

/* ---- commits ---- */

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

/* Of the range's events those that the watch has not had; all are, unless it starts at a revision to come. */
static bool give_range(struct store_watch *w, struct ebatch *b, uint64_t share) {
    struct wrange *g = w->range;
    struct err e = ERR_INIT;
    size_t i = 0;
    int rc = w->prev_kv ? watch_load_prev(w->s, b, &e) : 0;
    if (rc < 0) {
        watch_cancel(w, rc, STORE_E_PREV);
        return false;
    }
    while (i < g->hits.n && g->hits.v[i]->kv.mod_rev < w->next) {
        i++;
    }
    return watch_give(w, &(struct store_watch_msg){.events = g->hits.v + i,
                                                   .n = g->hits.n - i,
                                                   .rev = w->s->rev,
                                                   .share = i ? 0 : share});
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
        watch_move(w, false);
        if (give_range(w, b, s->n_shares)) {
            IGNORE_ERR(watch_progress(w), "the watch keeps its own state");
        }
    }
    match_done(s, &hits);
}

void watch_deliver(struct store *s, struct ebatch *own_eb) {
    if (!own_eb) {
        /* Nobody watched when the commit was made. Whoever started since reads the log. */
        recent_trim(s, 0);
        for (LIST_EACH(p, next, &s->synced)) {
            struct store_watch *w = CONTAINER_OF(p, struct store_watch, link);
            if (next_of(w) <= s->rev) {
                watch_move(w, true);
            }
        }
    } else if (own_eb->n) {
        recent_add(s, own_eb);
        deliver(s, own_eb);
        recent_trim(s, recent_max(s));
    } else {
        ebatch_free(own_eb);
    }
    s->given = s->rev;
    catchup_soon(s);
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
    watch_move(w, w->next <= s->rev);
    match_join(s, w);
    s->n_watches++;
    s->n_prev_watches += q->prev_kv;
    catchup_soon(s);
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
        catchup_forget(w->s);
        recent_trim(w->s, 0);
    }
    free(w);
}

void engine_watch_resume(struct store_watch *w) {
    if (w->paused && !w->cancelled) {
        w->paused = false;
        watch_move(w, true);
        catchup_soon(w->s);
    }
}

void engine_watch_progress(struct store_watch *w) {
    if (!w->cancelled) {
        w->want_progress = true;
        watch_move(w, true);
        catchup_soon(w->s);
    }
}

int64_t engine_watch_next_rev(const struct store_watch *w) {
    return next_of(w);
}

void watch_fini(struct store *s) {
    struct list *lists[] = {&s->synced, &s->lagging, &s->paused};
    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        while (!list_empty(lists[i])) {
            struct store_watch *w = CONTAINER_OF(lists[i]->next, struct store_watch, link);
            store_watch_stop(w);
        }
    }
    catchup_fini(s);
    free(s->scratch.v);
}
