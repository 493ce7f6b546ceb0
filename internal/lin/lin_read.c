/* Reading a history. */
#include "internal/lin/lin_int.h"

#include <stdio.h>
#include <stdlib.h>

enum { LIM_ITEMS = 1 << 22 };

void *lin_grow(void *v, size_t n, size_t *cap, size_t size) {
    if (n < *cap) {
        return v;
    }
    *cap = *cap ? *cap * 2 : 16;
    v = mem_array(v, *cap, size, LIM_ITEMS);
    CHECK(v);
    return v;
}

/* A number at the front. */
static int num(struct span *s, int64_t *ret) {
    size_t n = 0;
    while (n < s->n && ((s->p[n] >= '0' && s->p[n] <= '9') || (n == 0 && s->p[0] == '-'))) {
        n++;
    }
    int rc = span_to_i64(span_of(s->p, n), INT64_MIN, INT64_MAX, ret);
    return rc < 0 ? rc : span_skip(s, n);
}

static int mark(struct span *s, char c) {
    uint8_t got = 0;
    int rc = span_u8(s, &got);
    return rc < 0 || got != (uint8_t)c ? -ERR_INVALID : 0;
}

static int key(struct span *s, int32_t *ret, int32_t max) {
    int64_t v;
    if (num(s, &v) < 0 || v < 0 || v > max) {
        return -ERR_INVALID;
    }
    *ret = (int32_t)v;
    return 0;
}

static int kv(struct span *s, struct lin_kv *k) {
    if (key(s, &k->key, LIM_LIN_KEYS - 1) < 0 || mark(s, '=') < 0 || num(s, &k->val) < 0 ||
        mark(s, '@') < 0 || num(s, &k->create) < 0 || mark(s, '/') < 0 || num(s, &k->mod) < 0 ||
        mark(s, '/') < 0 || num(s, &k->version) < 0 || mark(s, '/') < 0 || num(s, &k->lease) < 0) {
        return -ERR_INVALID;
    }
    return 0;
}

static int read_event(struct span t, struct lin_ev *ev) {
    uint8_t c = 0;
    *ev = (struct lin_ev){0};
    if (span_u8(&t, &c) < 0) {
        return -ERR_INVALID;
    }
    if (c == '+' ? kv(&t, &ev->kv) < 0
                 : c != '-' || key(&t, &ev->kv.key, LIM_LIN_KEYS - 1) < 0 || mark(&t, '@') < 0 ||
                       num(&t, &ev->kv.mod) < 0) {
        return -ERR_INVALID;
    }
    if (t.n) {
        ev->has_prev = true;
        return mark(&t, '^') < 0 || kv(&t, &ev->prev) < 0 ? -ERR_INVALID : span_end(&t);
    }
    return 0;
}

static int read_cmp(struct span s, struct lin_txn *to) {
    uint8_t target = 0, how = 0;
    if (to->n_cmps == LIM_LIN_SUBS) {
        return -ERR_INVALID;
    }
    struct lin_cmp *c = &to->cmps[to->n_cmps++];
    if (span_u8(&s, &target) < 0 || key(&s, &c->key, LIM_LIN_KEYS - 1) < 0 ||
        span_u8(&s, &how) < 0 || num(&s, &c->num) < 0) {
        return -ERR_INVALID;
    }
    c->target = (char)target;
    c->how = (char)how;
    return span_end(&s);
}

static struct lin_sub *add_sub(struct lin_txn *t, int branch, char what) {
    if (t->n_subs[branch] == LIM_LIN_SUBS) {
        return NULL;
    }
    struct lin_sub *s = &t->subs[branch][t->n_subs[branch]++];
    s->what = what;
    return s;
}

static int read_sub(char what, struct span t, struct lin_op *op, struct lin_txn *to, int branch) {
    struct lin_sub *s = add_sub(to, branch, what);
    if (!s || op->n_leaves == LIM_LIN_LEAVES) {
        return -ERR_INVALID;
    }
    op->leaves[op->n_leaves++] = s;
    if (what == '+') {
        if (key(&t, &s->lo, LIM_LIN_KEYS - 1) < 0 || mark(&t, '=') < 0 || num(&t, &s->val) < 0 ||
            mark(&t, '/') < 0 || num(&t, &s->lease) < 0) {
            return -ERR_INVALID;
        }
        s->hi = s->lo + 1;
    } else if (key(&t, &s->lo, LIM_LIN_KEYS) < 0 || mark(&t, ':') < 0 ||
               key(&t, &s->hi, LIM_LIN_KEYS) < 0) {
        return -ERR_INVALID;
    }
    if (what == ':' && (mark(&t, '@') < 0 || num(&t, &s->rev) < 0 || mark(&t, '#') < 0 ||
                        num(&t, &s->limit) < 0)) {
        return -ERR_INVALID;
    }
    if (t.n && t.p[0] == '^') {
        s->prev = true;
        return span_skip(&t, 1) < 0 ? -ERR_INVALID : span_end(&t);
    }
    if (t.n && t.p[0] == 'c') {
        s->count_only = true;
        return span_skip(&t, 1) < 0 ? -ERR_INVALID : span_end(&t);
    }
    return span_end(&t);
}

static bool word(struct span *s, struct span *ret) {
    return span_next(s, ' ', ret) && ret->n;
}

static int next_num(struct span *s, int64_t *ret) {
    struct span w;
    return word(s, &w) && num(&w, ret) == 0 ? span_end(&w) : -ERR_INVALID;
}

static int read_body(struct lin *h, struct span *s, struct lin_op *op, struct lin_txn *to,
                     unsigned depth) {
    struct span w;
    int branch = 0, rc = 0;
    while (rc == 0 && word(s, &w)) {
        char c = (char)w.p[0];
        struct span rest = span_of(w.p + 1, w.n - 1);
        if (span_eq_str(w, ")")) {
            return depth ? 0 : -ERR_INVALID;
        }
        if (span_eq_str(w, "else")) {
            branch = 1;
        } else if (span_eq_str(w, "(")) {
            struct lin_sub *sub = add_sub(to, branch, c);
            struct lin_txn *inner = arena_new(&h->a, struct lin_txn);
            CHECK(inner);
            if (!sub || depth == LIM_LIN_DEPTH) {
                return -ERR_INVALID;
            }
            sub->txn = inner;
            rc = read_body(h, s, op, inner, depth + 1);
        } else {
            rc = c == '?'                           ? read_cmp(rest, to)
                 : c == '+' || c == '-' || c == ':' ? read_sub(c, rest, op, to, branch)
                                                    : -ERR_INVALID;
        }
    }
    return rc < 0 ? rc : depth ? -ERR_INVALID : 0;
}

static int read_allow(struct span *s, struct lin_op *op) {
    int64_t whom, slot, bits;
    if (next_num(s, &whom) < 0 || next_num(s, &slot) < 0 || next_num(s, &bits) < 0 || slot < 0 ||
        slot >= LIN_SLOTS || bits < 0 || bits > 3) {
        return -ERR_INVALID;
    }
    op->whom = (int32_t)whom;
    op->slot = (int32_t)slot;
    op->bits = (unsigned)bits;
    return 0;
}

static int read_user(struct lin *h, struct span s) {
    int64_t client, user;
    if (next_num(&s, &client) < 0 || next_num(&s, &user) < 0 || client < 0 ||
        client >= LIM_LIN_CLIENTS || user < 0) {
        return -ERR_INVALID;
    }
    h->user_of[client] = (int32_t)user;
    return 0;
}

static int read_call(struct lin *h, size_t line, struct span s) {
    static const struct {
        const char *name;
        enum lin_kind kind;
    } kinds[] = {{"put", LIN_TXN},       {"del", LIN_TXN},
                 {"get", LIN_TXN},       {"pages", LIN_TXN},
                 {"txn", LIN_TXN},       {"grant", LIN_GRANT},
                 {"revoke", LIN_REVOKE}, {"keep", LIN_KEEP},
                 {"ttl", LIN_TTL},       {"compact", LIN_COMPACTION},
                 {"hash", LIN_HASHKV},   {"allow", LIN_ALLOW}};
    struct lin_op *op = arena_new(&h->a, struct lin_op);
    CHECK(op);
    int64_t client;
    struct span w;
    if (next_num(&s, &op->id) < 0 || next_num(&s, &client) < 0 || client < 0 ||
        client >= LIM_LIN_CLIENTS || !word(&s, &w)) {
        return -ERR_INVALID;
    }
    size_t k = 0;
    while (k < ARRAY_LEN(kinds) && !span_eq_str(w, kinds[k].name)) {
        k++;
    }
    if (k == ARRAY_LEN(kinds)) {
        return -ERR_INVALID;
    }
    op->client = (int32_t)client;
    op->user = h->user_of[client];
    op->kind = kinds[k].kind;
    op->pages = span_eq_str(w, "pages");
    op->call = line;
    op->ret = SIZE_MAX;
    op->clock = lin_clock_at(h, line);
    h->ops = lin_grow(h->ops, h->n_ops, &h->cap_ops, sizeof(struct lin_op *));
    h->ops[h->n_ops++] = op;
    switch (op->kind) {
    case LIN_TXN: return read_body(h, &s, op, &op->t, 0);
    case LIN_GRANT:
        return next_num(&s, &op->lease) < 0 || next_num(&s, &op->ttl) < 0 ? -ERR_INVALID : 0;
    case LIN_REVOKE:
    case LIN_KEEP:
    case LIN_TTL: return next_num(&s, &op->lease);
    case LIN_COMPACTION:
    case LIN_HASHKV: return next_num(&s, &op->num);
    case LIN_ALLOW: return read_allow(&s, op);
    }
    return -ERR_INVALID;
}

static int read_res(struct lin_run *run, struct span t) {
    uint8_t c = 0;
    if (run->n_res == LIM_LIN_RES || span_u8(&t, &c) < 0) {
        return -ERR_INVALID;
    }
    struct lin_res *r = &run->res[run->n_res++];
    *r = (struct lin_res){.what = (char)c};
    int64_t more = 0;
    if (c == '(' || c == ')') {
        return c == '(' && num(&t, &r->count) < 0 ? -ERR_INVALID : span_end(&t);
    }
    if (c == '+') {
        r->n = t.n ? 1 : 0;
        return t.n ? (kv(&t, &r->kvs[0]) < 0 ? -ERR_INVALID : span_end(&t)) : 0;
    }
    if ((c != '-' && c != ':') || num(&t, &r->count) < 0 ||
        (c == ':' && (mark(&t, ',') < 0 || num(&t, &more) < 0))) {
        return -ERR_INVALID;
    }
    r->more = more != 0;
    while (t.n) {
        if (r->n == LIM_LIN_KEYS || mark(&t, ',') < 0 || kv(&t, &r->kvs[r->n++]) < 0) {
            return -ERR_INVALID;
        }
    }
    return 0;
}

static void saw(struct lin *h, size_t line, int64_t rev) {
    rev = rev < 0 ? 0 : rev;
    h->seen = lin_grow(h->seen, h->n_seen, &h->cap_seen, sizeof(*h->seen));
    h->seen[h->n_seen++] = (struct lin_seen){line, rev};
    if (rev > h->max_rev) {
        h->max_rev = rev;
    }
}

/* Which operations an answer says were done. */
static void mark_done(struct lin_op *op, struct lin_txn *t, bool succeeded, size_t *at) {
    int b = succeeded ? 0 : 1;
    for (size_t i = 0; i < t->n_subs[b] && *at < op->n_res; i++) {
        struct lin_sub *s = &t->subs[b][i];
        s->done = true;
        const struct lin_res *r = &op->res[(*at)++];
        if (s->what == '(' && r->what == '(') {
            mark_done(op, s->txn, r->count != 0, at);
            ++*at; /* ) */
        }
    }
}

static struct lin_op *op_of(struct lin *h, int64_t id) {
    for (size_t i = h->n_ops; i > 0; i--) { /* answers come soon after their questions */
        if (h->ops[i - 1]->id == id) {
            return h->ops[i - 1];
        }
    }
    return NULL;
}

/* INVALID, NOT_FOUND, DENIED, EXHAUSTED, PRECONDITION, RANGE, UNIMPLEMENTED, UNAUTHENTICATED */
static bool refused(int64_t code) {
    return code == 3 || code == 5 || (code >= 7 && code <= 9) || code == 11 || code == 12 ||
           code == 16;
}

static int read_ok(struct lin *h, struct lin_op *op, size_t line, struct span s) {
    struct span w;
    op->end = LIN_OK;
    if (next_num(&s, &op->rev) < 0 || op->rev < 0) {
        return -ERR_INVALID;
    }
    saw(h, line, op->rev);
    if (op->kind == LIN_TXN) {
        int64_t ok;
        h->run->n_res = 0;
        if (next_num(&s, &ok) < 0) {
            return -ERR_INVALID;
        }
        op->succeeded = ok != 0;
        while (word(&s, &w)) {
            if (read_res(h->run, w) < 0) {
                return -ERR_INVALID;
            }
        }
        size_t at = 0;
        op->n_res = h->run->n_res;
        op->res = arena_alloc(&h->a, (op->n_res + 1) * sizeof(*op->res));
        CHECK(op->res);
        memcpy(op->res, h->run->res, op->n_res * sizeof(*op->res));
        mark_done(op, &op->t, op->succeeded, &at);
    } else if (op->kind == LIN_TTL) {
        int64_t k;
        if (!word(&s, &w) || !span_eq_str(w, "ttl")) {
            return -ERR_INVALID;
        }
        while (s.n) {
            if (next_num(&s, &k) < 0 || k < 0 || k >= LIM_LIN_KEYS) {
                return -ERR_INVALID;
            }
            op->keys |= 1u << k;
        }
    } else if (op->kind == LIN_HASHKV) {
        if (!word(&s, &w) || !span_eq_str(w, "hash") || next_num(&s, &op->hash) < 0 ||
            next_num(&s, &op->hash_compact) < 0 || next_num(&s, &op->hash_rev) < 0) {
            return -ERR_INVALID;
        }
    }
    return 0;
}

static int read_ret(struct lin *h, size_t line, struct span s) {
    int64_t id;
    struct span w;
    if (next_num(&s, &id) < 0 || !word(&s, &w)) {
        return -ERR_INVALID;
    }
    struct lin_op *op = op_of(h, id);
    if (!op || op->ret != SIZE_MAX) {
        return -ERR_INVALID;
    }
    op->ret = line;
    if (span_eq_str(w, "ok")) {
        return read_ok(h, op, line, s);
    }
    if (!span_eq_str(w, "err") || next_num(&s, &op->code) < 0) {
        return -ERR_INVALID;
    }
    op->text = s;
    /* A compaction that could not remove what it should has happened all the same. */
    bool open = !refused(op->code) || (op->kind == LIN_COMPACTION && op->code == 8);
    op->end = open ? LIN_OPEN : LIN_NO;
    return 0;
}

static struct lin_watch *watch_of(struct lin *h, int64_t id) {
    for (size_t i = h->n_watches; i > 0; i--) {
        if (h->watches[i - 1]->id == id) {
            return h->watches[i - 1];
        }
    }
    return NULL;
}

static int read_watch(struct lin *h, size_t line, struct span s) {
    struct lin_watch *w = arena_new(&h->a, struct lin_watch);
    CHECK(w);
    int64_t lo, hi, filters, prev;
    if (next_num(&s, &w->id) < 0 || next_num(&s, &w->stream) < 0 || next_num(&s, &lo) < 0 ||
        next_num(&s, &hi) < 0 || next_num(&s, &w->start) < 0 || next_num(&s, &filters) < 0 ||
        next_num(&s, &prev) < 0) {
        return -ERR_INVALID;
    }
    w->lo = (int32_t)lo;
    w->hi = (int32_t)hi;
    w->filters = (unsigned)filters;
    w->prev = prev != 0;
    w->line = line;
    h->watches = lin_grow(h->watches, h->n_watches, &h->cap_watches, sizeof(struct lin_watch *));
    h->watches[h->n_watches++] = w;
    return 0;
}

static int read_msg(struct lin *h, enum lin_msg_kind kind, size_t line, struct span s) {
    int64_t id, fragment = 0;
    struct lin_msg m = {.kind = kind, .line = line};
    if (next_num(&s, &id) < 0 || next_num(&s, &m.rev) < 0) {
        return -ERR_INVALID;
    }
    struct lin_watch *w = watch_of(h, id);
    if (!w) {
        return -ERR_INVALID;
    }
    if (kind != LIN_M_CANCEL) {
        saw(h, line, m.rev);
    }
    if (kind == LIN_M_EVENTS) {
        size_t cap = 0;
        struct span t;
        if (next_num(&s, &fragment) < 0) {
            return -ERR_INVALID;
        }
        m.fragment = fragment != 0;
        struct lin_ev *ev = NULL;
        while (word(&s, &t)) {
            ev = lin_grow(ev, m.n, &cap, sizeof(*ev));
            if (read_event(t, &ev[m.n]) < 0) {
                free(ev);
                return -ERR_INVALID;
            }
            if (ev[m.n].kv.mod > h->max_rev) {
                h->max_rev = ev[m.n].kv.mod;
            }
            m.n++;
        }
        m.ev = arena_alloc(&h->a, (m.n + 1) * sizeof(*ev));
        CHECK(m.ev);
        if (m.n) {
            memcpy(m.ev, ev, m.n * sizeof(*ev));
        }
        free(ev);
    }
    w->msgs = lin_grow(w->msgs, w->n, &w->cap, sizeof(*w->msgs));
    w->msgs[w->n++] = m;
    return 0;
}

static int read_ask(struct lin *h, size_t line, struct span s, bool told) {
    int64_t stream, rev = 0;
    if (next_num(&s, &stream) < 0 || (told && next_num(&s, &rev) < 0)) {
        return -ERR_INVALID;
    }
    if (!told) {
        h->asks = lin_grow(h->asks, h->n_asks, &h->cap_asks, sizeof(*h->asks));
        h->asks[h->n_asks++] = (struct lin_ask){.stream = stream, .asked = line};
        return 0;
    }
    saw(h, line, rev);
    for (size_t i = 0; i < h->n_asks; i++) { /* one answer answers all that was asked before */
        if (h->asks[i].stream == stream && !h->asks[i].told) {
            h->asks[i].told = line;
            h->asks[i].rev = rev;
        }
    }
    for (size_t i = 0; i < h->n_watches; i++) {
        struct lin_watch *w = h->watches[i];
        if (w->stream == stream) {
            w->msgs = lin_grow(w->msgs, w->n, &w->cap, sizeof(*w->msgs));
            w->msgs[w->n++] = (struct lin_msg){.kind = LIN_M_PROGRESS, .line = line, .rev = rev};
        }
    }
    return 0;
}

int64_t lin_clock_at(const struct lin *h, size_t line) {
    size_t lo = 0, hi = h->n_clocks;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if ((size_t)h->clocks[2 * mid] <= line) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo ? h->clocks[2 * lo - 1] : 0;
}

static int read_clock(struct lin *h, size_t line, struct span s) {
    int64_t ms;
    if (next_num(&s, &ms) < 0) {
        return -ERR_INVALID;
    }
    h->clocks = lin_grow(h->clocks, h->n_clocks, &h->cap_clocks, 2 * sizeof(int64_t));
    h->clocks[2 * h->n_clocks] = (int64_t)line;
    h->clocks[2 * h->n_clocks + 1] = ms;
    h->n_clocks++;
    return 0;
}

static int read_line(struct lin *h, size_t line, struct span s) {
    struct span w;
    if (!word(&s, &w) || span_eq_str(w, "note")) {
        return 0;
    }
    return span_eq_str(w, "call")       ? read_call(h, line, s)
           : span_eq_str(w, "ret")      ? read_ret(h, line, s)
           : span_eq_str(w, "watch")    ? read_watch(h, line, s)
           : span_eq_str(w, "created")  ? read_msg(h, LIN_M_CREATED, line, s)
           : span_eq_str(w, "ev")       ? read_msg(h, LIN_M_EVENTS, line, s)
           : span_eq_str(w, "progress") ? read_msg(h, LIN_M_PROGRESS, line, s)
           : span_eq_str(w, "cancel")   ? read_msg(h, LIN_M_CANCEL, line, s)
           : span_eq_str(w, "ask")      ? read_ask(h, line, s, false)
           : span_eq_str(w, "told")     ? read_ask(h, line, s, true)
           : span_eq_str(w, "clock")    ? read_clock(h, line, s)
           : span_eq_str(w, "user")     ? read_user(h, s)
                                        : -ERR_INVALID;
}

int lin_read(struct lin *h, struct span text, struct err *e) {
    struct span line;
    size_t no = 0;
    h->max_rev = 1;
    while (span_line(&text, &line) == 0) {
        no++;
        if (read_line(h, no, line) < 0) {
            return err_set(e, ERR_INVALID, "line %zu is no line of a history: %.*s", no,
                           line.n > 100 ? 100 : (int)line.n, (const char *)line.p);
        }
    }
    return 0;
}
