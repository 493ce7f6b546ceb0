/* Watches that lag: those that start in the past, and those whose clients read slowly. They go through the history in
 * cells of some hundred revisions with fixed bounds, one cell a turn. Wherever a watch comes from, after its first turn it
 * stands where a cell begins, with all others that lag about as far: they share what is read, the list of events of their
 * range, and so what is encoded of it. A cell comes from the recent commits or, further back, from the log; cells of the
 * log are kept for those behind. All of it is bounded in bytes, and goes when nobody lags. */
#include "internal/store/store_int.h"

#include "internal/base/rand.h"

#include <stdlib.h>

enum {
    CELL = 512, /* revisions; a power of two */
    CELL_ROWS = 4096,
    CELL_BYTES = 512 * 1024, /* then it ends before its bound */
    CHUNKS = 16,
    LAG_FACTOR = 16, /* so much more is kept while somebody lags */
};
#define TURN_NS (2 * NS_PER_MS) /* then everybody else has a turn */

/* ---- the recent commits ---- */

static struct ebatch *recent(const struct catchup *k, size_t i) {
    return k->recent[k->recent_at + i];
}

void recent_add(struct store *s, struct ebatch *own_b) {
    struct catchup *k = &s->catchup;
    if (k->recent_at + k->n_recent == k->cap_recent) {
        if (k->n_recent > k->cap_recent / 2 || !k->cap_recent) {
            k->cap_recent = k->cap_recent ? 2 * k->cap_recent : 64;
            k->recent = mem_array(k->recent, k->cap_recent, sizeof(*k->recent), (size_t)1 << 28);
            CHECK(k->recent);
        }
        memmove(k->recent, k->recent + k->recent_at, k->n_recent * sizeof(*k->recent));
        k->recent_at = 0;
    }
    own_b->bytes = own_b->a.used + own_b->cap * (sizeof(struct store_event) + sizeof(int64_t)) +
                   sizeof(*own_b);
    k->recent[k->recent_at + k->n_recent++] = own_b;
    k->recent_bytes += own_b->bytes;
}

void recent_trim(struct store *s, size_t max) {
    struct catchup *k = &s->catchup;
    while (k->n_recent && k->recent_bytes > max) {
        struct ebatch *b = recent(k, 0);
        k->recent_bytes -= b->bytes;
        k->recent_at++;
        k->n_recent--;
        ebatch_free(b);
    }
}

size_t recent_max(const struct store *s) {
    bool lag = !list_empty(&s->lagging) || !list_empty(&s->paused);
    return lag ? (size_t)LAG_FACTOR * s->o.recent_bytes : s->o.recent_bytes;
}

/* The first of them that ends at the revision or later; n_recent: there is none. */
static size_t recent_from(const struct catchup *k, int64_t rev) {
    size_t lo = 0, hi = k->n_recent;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (recent(k, mid)->last_rev < rev) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo;
}

/* ---- cells of the log ---- */

static void chunk_free(struct ebatch *own_b) {
    list_del(&own_b->link);
    ebatch_free(own_b);
}

static void chunks_trim(struct store *s) {
    size_t n = 0, bytes = 0;
    for (LIST_EACH(p, next, &s->catchup.chunks)) {
        struct ebatch *b = CONTAINER_OF(p, struct ebatch, link);
        bytes += b->a.used + b->cap * (sizeof(struct store_event) + sizeof(int64_t));
        if (++n > 1 && (n > CHUNKS || bytes > (size_t)LAG_FACTOR * s->o.recent_bytes)) {
            chunk_free(b);
        }
    }
}

void catchup_forget(struct store *s) {
    while (!list_empty(&s->catchup.chunks)) {
        chunk_free(CONTAINER_OF(s->catchup.chunks.next, struct ebatch, link));
    }
    recent_trim(s, s->o.recent_bytes);
}

static int64_t cell_end(const struct store *s, int64_t rev) {
    int64_t end = rev | (CELL - 1);
    return end < s->rev ? end : s->rev;
}

/* Whole revisions of [b->from, b->upto]; b->upto moves to where it ended. */
static int read_log(struct store *s, struct ebatch *b, struct err *e) {
    sqlite3_stmt *st = db_stmt(&s->rd, ST_LOG_SCAN, e);
    if (!st) {
        return -(int)e->code;
    }
    sqlite3_bind_int64(st, 1, id_of(b->from, 0));
    sqlite3_bind_int64(st, 2, id_of(b->upto + 1, 0));
    int64_t at = b->from;
    int out = 0;
    for (size_t rows = 0; out == 0; rows++) {
        int rc = sqlite3_step(st);
        if (rc != SQLITE_ROW) {
            out = rc == SQLITE_DONE ? 0 : db_fail(&s->rd, rc, "reading the log", e);
            break;
        }
        int64_t rev = id_rev(sqlite3_column_int64(st, 0));
        if (rev != at && (rows >= CELL_ROWS || b->a.used >= CELL_BYTES)) {
            b->upto = rev - 1;
            break;
        }
        at = rev;
        if (!match_any(s, db_col_span(st, 1))) {
            continue;
        }
        int64_t ver = sqlite3_column_int64(st, 3);
        struct store_event ev = {.type = ver ? STORE_PUT : STORE_DELETE,
                                 .kv = {SPAN_EMPTY, db_col_span(st, 6), sqlite3_column_int64(st, 2),
                                        rev, ver, sqlite3_column_int64(st, 4)}};
        ev.kv.key = db_col_span(st, 1); /* reading one column may move another */
        out = ebatch_add(b, &ev, sqlite3_column_int64(st, 5), e);
    }
    sqlite3_reset(st);
    return out;
}

/* The cell, or what is left of it from `rev` on, with all that the range wants. */
static struct ebatch *chunk_for(struct store *s, int64_t rev, const struct wrange *g,
                                struct err *e) {
    struct list *chunks = &s->catchup.chunks;
    for (LIST_EACH(p, next, chunks)) {
        struct ebatch *b = CONTAINER_OF(p, struct ebatch, link);
        if (b->from <= rev && rev <= b->upto && g->no <= b->no) {
            list_del(p);
            list_add_head(chunks, p);
            return b;
        }
    }
    struct ebatch *b = ebatch_new();
    b->from = rev;
    b->upto = cell_end(s, rev);
    b->no = s->n_ranges;
    if (read_log(s, b, e) < 0) {
        ebatch_free(b);
        return NULL;
    }
    list_add_head(chunks, &b->link);
    chunks_trim(s);
    return b;
}

/* ---- a turn ---- */

struct turn {
    int64_t from, upto;
    uint64_t ranges;      /* as ebatch.no; UINT64_MAX: any */
    struct ebatch *chunk; /* NULL: recent commits */
    bool prev;            /* previous values are there */
};

static void stretch(struct turn *t, struct store *s, const struct ebatch *b, size_t *bytes) {
    for (size_t i = 0; i < b->n; i++) {
        const struct store_event *ev = &b->ev[i];
        int64_t rev = ev->kv.mod_rev;
        if (rev < t->from) {
            continue;
        }
        struct events *l = &s->catchup.stretch;
        if (rev > t->upto || (*bytes >= CELL_BYTES && l->n && l->v[l->n - 1]->kv.mod_rev != rev)) {
            t->upto = rev - 1 < t->upto ? rev - 1 : t->upto;
            return;
        }
        *bytes += ev->kv.key.n + ev->kv.value.n + sizeof(*ev);
        events_push(l, ev);
    }
}

/* The events from t->from on, and how far they reach. */
static int turn_read(struct turn *t, struct store *s, const struct wrange *g, struct err *e) {
    struct catchup *k = &s->catchup;
    size_t bytes = 0;
    k->stretch.n = 0;
    t->upto = cell_end(s, t->from);
    t->ranges = UINT64_MAX;
    if (k->n_recent && recent(k, 0)->first_rev <= t->from) {
        for (size_t i = recent_from(k, t->from);
             i < k->n_recent && recent(k, i)->first_rev <= t->upto; i++) {
            stretch(t, s, recent(k, i), &bytes);
        }
        return 0;
    }
    t->chunk = chunk_for(s, t->from, g, e);
    if (!t->chunk) {
        return -(int)e->code;
    }
    t->upto = t->chunk->upto;
    t->ranges = t->chunk->no;
    for (size_t i = 0; i < t->chunk->n; i++) {
        if (t->chunk->ev[i].kv.mod_rev >= t->from) {
            events_push(&k->stretch, &t->chunk->ev[i]);
        }
    }
    return 0;
}

static int turn_prev(struct turn *t, struct store *s, struct err *e) {
    struct catchup *k = &s->catchup;
    int rc = 0;
    if (t->prev) {
        return 0;
    }
    if (t->chunk) {
        rc = watch_load_prev(s, t->chunk, e);
    } else {
        for (size_t i = recent_from(k, t->from);
             rc == 0 && i < k->n_recent && recent(k, i)->first_rev <= t->upto; i++) {
            rc = watch_load_prev(s, recent(k, i), e);
        }
    }
    t->prev = rc == 0;
    return rc;
}

/* The same number for the same events: what a range has from one revision up to another never changes. */
static uint64_t share_of(struct store *s, const struct wrange *g, int64_t first, int64_t upto) {
    struct catchup *k = &s->catchup;
    for (size_t i = 0; i < CATCHUP_SHARES; i++) {
        const struct share *x = &k->shares[i];
        if (x->range == g->no && x->first == first && x->upto == upto) {
            return x->share;
        }
    }
    struct share *x = &k->shares[k->next_share++ % CATCHUP_SHARES];
    *x = (struct share){g->no, ++s->n_shares, first, upto};
    return x->share;
}

static void caught_up(struct store_watch *w) {
    if (w->next > w->s->rev) {
        watch_move(w, false);
        IGNORE_ERR(watch_progress(w), "the watch keeps its own state");
    }
}

static void give(struct store_watch *w, struct turn *t, struct list *hits) {
    struct store *s = w->s;
    struct wrange *g = w->range;
    struct err e = ERR_INIT;
    size_t i = 0;
    watch_move(w, true);
    if (w->prev_kv && turn_prev(t, s, &e) < 0) {
        watch_cancel(w, -(int)e.code, err_public(&e));
        return;
    }
    if (g->turn != s->catchup.turn) {
        g->turn = s->catchup.turn;
        match_range(g, &s->catchup.stretch, hits);
    }
    while (i < g->hits.n && g->hits.v[i]->kv.mod_rev < w->next) {
        i++;
    }
    struct store_watch_msg m = {
        .events = g->hits.v + i, .n = g->hits.n - i, .rev = t->upto, .late = true};
    if (m.n && !w->filters) {
        m.share = share_of(s, g, m.events[0]->kv.mod_rev, t->upto);
    }
    if (watch_give(w, &m)) {
        caught_up(w);
    }
}

/* The next cell, for the first of `now` and all who wait for the same. */
static void turn(struct store *s, struct list *now) {
    struct store_watch *lead = CONTAINER_OF(now->next, struct store_watch, link);
    struct err e = ERR_INIT;
    struct list due, hits;
    list_init(&due);
    list_init(&hits);
    for (LIST_EACH(p, next, now)) { /* who is furthest back in this cell */
        struct store_watch *w = CONTAINER_OF(p, struct store_watch, link);
        bool same = w->next / CELL == lead->next / CELL && w->next >= s->compact_rev;
        lead = same && w->next < lead->next ? w : lead;
    }
    struct turn t = {.from = lead->next};
    if (turn_read(&t, s, lead->range, &e) < 0) {
        watch_cancel(lead, -(int)e.code, err_public(&e));
        return;
    }
    s->catchup.turn++;
    for (LIST_EACH(p, next, now)) {
        struct store_watch *w = CONTAINER_OF(p, struct store_watch, link);
        if (w->next >= t.from && w->next <= t.upto && w->range->no <= t.ranges) {
            list_del(p);
            list_add_tail(&due, p);
        }
    }
    while (!list_empty(&due)) { /* callbacks may stop any of them */
        give(CONTAINER_OF(due.next, struct store_watch, link), &t, &hits);
    }
    match_done(s, &hits);
}

static void pump(struct loop_timer *tm) {
    struct store *s = CONTAINER_OF(tm, struct store, catchup.timer);
    uint64_t until = clock_ns() + TURN_NS;
    struct list now;
    list_init(&now);
    list_move_all(&now, &s->lagging);
    while (!list_empty(&now) && clock_ns() < until) {
        struct store_watch *w = CONTAINER_OF(now.next, struct store_watch, link);
        if (w->next < s->compact_rev) {
            watch_cancel(w, -ERR_GONE, STORE_E_COMPACTED);
        } else if (w->next > s->rev) {
            caught_up(w);
        } else {
            turn(s, &now);
        }
    }
    list_move_all(&now, &s->lagging); /* those that had no turn are first in the next */
    list_move_all(&s->lagging, &now);
    if (list_empty(&s->lagging) && list_empty(&s->paused)) {
        catchup_forget(s);
    }
    catchup_soon(s);
}

void catchup_soon(struct store *s) {
    if (!list_empty(&s->lagging) && !loop_timer_active(&s->catchup.timer)) {
        loop_timer_start(s->l, &s->catchup.timer, 0, pump, "store-watch");
    }
}

void catchup_fini(struct store *s) {
    struct catchup *k = &s->catchup;
    loop_timer_stop(&k->timer);
    catchup_forget(s);
    recent_trim(s, 0);
    free(k->recent);
    free(k->stretch.v);
}
