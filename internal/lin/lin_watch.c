/* The watches' guarantees: everything that was asked for, once, in order, whole, with what was there before. */
#include "internal/lin/lin_int.h"

struct cursor { /* of a watch in what happened */
    struct lin *h;
    const struct lin_watch *w;
    int64_t next; /* the first revision that may still come */
    size_t at;    /* events of it that have come */
};

static bool wanted(const struct lin_watch *w, const struct lin_ev *ev) {
    return ev->kv.key >= w->lo && ev->kv.key < w->hi && !(w->filters & (ev->kv.version ? 1u : 2u));
}

/* The next event that must come; NULL when all have. */
static const struct lin_ev *due(struct cursor *c) {
    for (; c->next <= c->h->max_rev; c->next++, c->at = 0) {
        const struct lin_rev *r = &c->h->revs[c->next];
        for (; c->at < r->n; c->at++) {
            if (wanted(c->w, &r->ev[c->at])) {
                return &r->ev[c->at];
            }
        }
    }
    return NULL;
}

static void judge_prev(struct cursor *c, const struct lin_ev *ev, size_t line) {
    struct lin_kv old = lin_state(c->h, ev->kv.key, ev->kv.mod - 1);
    if (ev->has_prev ? !c->w->prev || !old.version || !lin_kv_same(&old, &ev->prev)
                     : c->w->prev && old.version) {
        /* A value that was compacted may be missing, never wrong. */
        int64_t compacted = 0;
        for (size_t i = 0; i < c->h->n_ops; i++) {
            const struct lin_op *op = c->h->ops[i];
            if (op->kind == LIN_COMPACTION && op->end != LIN_NO && op->call < line &&
                op->num > compacted) {
                compacted = op->num;
            }
        }
        if (ev->has_prev || ev->kv.mod - 1 >= compacted) {
            lin_find(c->h, LIN_PREV, line,
                     "watch %lld: revision %lld of key %d came with a wrong value before it",
                     (long long)c->w->id, (long long)ev->kv.mod, ev->kv.key);
        }
    }
}

static bool judge_event(struct cursor *c, const struct lin_ev *ev, size_t line) {
    long long id = (long long)c->w->id, rev = (long long)ev->kv.mod;
    if (!wanted(c->w, ev)) {
        lin_find(c->h, LIN_FILTER, line, "watch %lld did not ask for revision %lld of key %d", id,
                 rev, ev->kv.key);
        return false;
    }
    const struct lin_ev *want = due(c);
    if (!want || want->kv.mod != ev->kv.mod || want->kv.key != ev->kv.key ||
        !want->kv.version != !ev->kv.version) {
        if (ev->kv.mod < c->next || (want && ev->kv.mod == want->kv.mod && c->at)) {
            const struct lin_rev *r = &c->h->revs[ev->kv.mod > 0 ? ev->kv.mod : 0];
            bool was = ev->kv.mod >= (c->w->start ? c->w->start : 1) && r->n;
            lin_find(c->h, was ? LIN_DUPLICATE : LIN_ORDER, line,
                     "watch %lld was given revision %lld of key %d when revision %lld was due", id,
                     rev, ev->kv.key, (long long)c->next);
        } else {
            lin_find(c->h, LIN_GAP, line,
                     "watch %lld was given revision %lld of key %d, but not %lld of key %d", id,
                     rev, ev->kv.key, (long long)(want ? want->kv.mod : 0),
                     want ? want->kv.key : -1);
        }
        return false;
    }
    if (want->kv.version ? !lin_kv_same(&want->kv, &ev->kv) : false) {
        lin_find(c->h, LIN_DIFFER, line,
                 "watch %lld: revision %lld of key %d is not what others were told", id, rev,
                 ev->kv.key);
    }
    judge_prev(c, ev, line);
    c->at++;
    return true;
}

static bool judge_events(struct cursor *c, const struct lin_msg *m) {
    int64_t last = 0;
    for (size_t i = 0; i < m->n; i++) {
        if (!judge_event(c, &m->ev[i], m->line)) {
            return false;
        }
        last = m->ev[i].kv.mod;
    }
    const struct lin_ev *want = m->n ? due(c) : NULL;
    if (want && want->kv.mod == last && !m->fragment) {
        lin_find(c->h, LIN_ATOMIC, m->line,
                 "watch %lld: revision %lld came without its event of key %d", (long long)c->w->id,
                 (long long)last, want->kv.key);
        return false;
    }
    if (m->n && m->rev < last) {
        lin_find(c->h, LIN_ORDER, m->line,
                 "watch %lld: the header's revision %lld is before its events'",
                 (long long)c->w->id, (long long)m->rev);
    }
    return true;
}

static bool judge_progress(struct cursor *c, const struct lin_msg *m) {
    const struct lin_ev *want = due(c);
    if (m->rev < 1 || (want && want->kv.mod <= m->rev)) {
        lin_find(c->h, LIN_BOOKMARK, m->line,
                 "watch %lld: progress to %lld, but revision %lld of key %d has not come",
                 (long long)c->w->id, (long long)m->rev, (long long)(want ? want->kv.mod : 0),
                 want ? want->kv.key : -1);
        return false;
    }
    return true;
}

static void judge_cancel(struct cursor *c, const struct lin_msg *m) {
    if (!m->rev) {
        return; /* for another reason */
    }
    int64_t asked = 0;
    for (size_t i = 0; i < c->h->n_ops; i++) {
        const struct lin_op *op = c->h->ops[i];
        if (op->kind == LIN_COMPACTION && op->end != LIN_NO && op->call < m->line &&
            op->num > asked) {
            asked = op->num;
        }
    }
    /* Where the watch stands in the store may be before the next event it is interested in, never before its start. */
    int64_t stood = c->w->start;
    for (const struct lin_msg *p = c->w->msgs; p < m; p++) {
        int64_t to = p->n                                        ? p->ev[p->n - 1].kv.mod
                     : p->kind == LIN_M_PROGRESS || !c->w->start ? p->rev
                                                                 : 0;
        stood = to >= stood ? to + 1 : stood;
    }
    if (m->rev > asked || m->rev <= stood) {
        lin_find(
            c->h, LIN_COMPACT, m->line,
            "watch %lld at revision %lld was ended by a compaction to %lld; asked for were %lld",
            (long long)c->w->id, (long long)stood, (long long)m->rev, (long long)asked);
    }
}

static void judge_watch(struct lin *h, const struct lin_watch *w) {
    struct cursor c = {.h = h, .w = w, .next = w->start ? w->start : INT64_MAX};
    bool created = false;
    for (size_t i = 0; i < w->n; i++) {
        const struct lin_msg *m = &w->msgs[i];
        h->out->n_events += m->n;
        if (m->kind == LIN_M_CREATED) {
            created = true;
            if (!w->start) {
                c.next = m->rev + 1;
            }
            continue;
        }
        if (m->kind == LIN_M_CANCEL) {
            judge_cancel(&c, m);
            return;
        }
        if (!created && m->kind == LIN_M_PROGRESS) {
            continue; /* of the whole stream, made before this watch */
        }
        if (!created || (m->kind == LIN_M_EVENTS ? !judge_events(&c, m) : !judge_progress(&c, m))) {
            return; /* one finding a watch: what follows would only repeat it */
        }
    }
}

void lin_watches(struct lin *h) {
    for (size_t i = 0; i < h->n_watches; i++) {
        judge_watch(h, h->watches[i]);
    }
    for (size_t i = 0; i < h->n_asks; i++) {
        if (h->asks[i].told && h->asks[i].rev < h->asks[i].floor) {
            lin_find(h, LIN_BOOKMARK, h->asks[i].told,
                     "progress to %lld on stream %lld, but %lld was known when it was asked for "
                     "(line %zu)",
                     (long long)h->asks[i].rev, (long long)h->asks[i].stream,
                     (long long)h->asks[i].floor, h->asks[i].asked);
        }
    }
}
