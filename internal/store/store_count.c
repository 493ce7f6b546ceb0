/* How many keys an interval has, without a look at each of them. The keys, in their order, are divided into blocks of one
 * to two hundred; of a block its first key and the number of its keys are in memory. The read lane walks through all keys
 * once, a stretch at a time, when somebody has counted many; from then on every commit brings along which keys it made
 * and removed. Who counts adds up the blocks that lie within his interval and looks at the keys at its two ends. For pages
 * of a revision that is not the newest any more, what the last commits brought is kept a while and taken back. */
#include "internal/store/store_int.h"

#include <stdlib.h>

enum {
    BLOCK = 128,            /* keys, when it is new; divided when there are twice as many */
    MANY = 10 * 1000,       /* keys counted one by one: it is worth while to know their number */
    STRETCH = 16 * 1024,    /* keys walked through in one job */
    LIM_COUNTS = 4 << 20,   /* bytes for all; keys behind the last block are counted one by one */
    LIM_CHANGES = 16 << 20, /* bytes of keys that a commit makes and removes */
    LIM_LATE = 16 << 20,    /* the same, while a walk goes on */
    RECENT = 64 * 1024,     /* the same, of the last commits: 50 us to look through */
};

/* ---- what a commit brings ---- */

void count_changes_init(struct buf *b) {
    buf_init(b, LIM_CHANGES);
}

void count_note(struct buf *changes, int64_t rev, struct span key, bool made) {
    buf_varint(changes, (uint64_t)rev << 1 | made);
    buf_varint(changes, key.n);
    buf_span(changes, key);
}

struct noted {
    int64_t rev;
    struct span key;
    bool made;
};

static bool next_noted(struct span *in, struct noted *ret) {
    uint64_t made, n;
    if (span_varint(in, &made) < 0 || span_varint(in, &n) < 0 || span_take(in, n, &ret->key) < 0) {
        return false;
    }
    ret->rev = (int64_t)(made >> 1);
    ret->made = made & 1;
    return true;
}

/* ---- the blocks ---- */

struct count_key {
    size_t n;
    uint8_t p[];
};

static struct count_key *own_copy(struct span s) {
    struct count_key *k = mem_zero_alloc(sizeof(*k) + s.n);
    k->n = s.n;
    if (s.n) {
        memcpy(k->p, s.p, s.n);
    }
    return k;
}
static struct span of(const struct count_key *k) {
    return k ? span_of(k->p, k->n) : SPAN_EMPTY;
}

struct count_walk { /* on the read lane: [from, to) or up to the end of all keys, as of the view */
    struct loop_work w;
    struct store *s;
    struct view v;
    struct count_key *from, *to; /* no `to`: STRETCH keys of all that follow */
    uint32_t step;               /* keys in a block */
    struct counts got;           /* its blocks; upto: where it ended */
    uint64_t n_keys;
    struct buf late; /* changes in the interval since the view */
    bool is_void;
    int rc;
    struct err err;
};

static void counts_clear(struct counts *c) {
    for (size_t i = 0; i < c->n_blocks; i++) {
        free(c->first[i]);
    }
    free(c->first);
    free(c->n);
    free(c->upto);
    buf_fini(&c->recent);
    *c = (struct counts){.on = c->on, .walk = c->walk};
}

/* The number of blocks that begin before `key`, or at it. */
static size_t blocks_to(const struct counts *c, struct span key, bool at_it) {
    size_t lo = 0, hi = c->n_blocks;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (span_cmp(of(c->first[mid]), key) < at_it) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo;
}

static bool covers(const struct counts *c, struct span key) {
    return c->n_blocks && (c->whole || span_cmp(key, of(c->upto)) < 0);
}

static bool blocks_insert(struct counts *c, size_t at, struct count_key *own_first, uint32_t n) {
    if (c->n_blocks == c->cap) {
        size_t cap = c->cap ? 2 * c->cap : 16;
        struct count_key **first = mem_array(c->first, cap, sizeof(*first), LIM_COUNTS);
        c->first = first ? first : c->first;
        uint32_t *v = first ? mem_array(c->n, cap, sizeof(*v), LIM_COUNTS) : NULL;
        if (!v) {
            free(own_first);
            return false;
        }
        c->n = v;
        c->cap = cap;
    }
    size_t behind = c->n_blocks++ - at;
    memmove(&c->first[at + 1], &c->first[at], behind * sizeof(*c->first));
    memmove(&c->n[at + 1], &c->n[at], behind * sizeof(*c->n));
    c->first[at] = own_first;
    c->n[at] = n;
    c->bytes += sizeof(*own_first) + own_first->n;
    return true;
}

static void blocks_remove(struct counts *c, size_t at) {
    c->bytes -= sizeof(*c->first[at]) + c->first[at]->n;
    free(c->first[at]);
    size_t behind = --c->n_blocks - at;
    memmove(&c->first[at], &c->first[at + 1], behind * sizeof(*c->first));
    memmove(&c->n[at], &c->n[at + 1], behind * sizeof(*c->n));
}

/* From here on commits bring their changes. */
static void begin(struct store *s) {
    s->counts.on = true;
    s->counts.recent_from = s->rev;
    buf_init(&s->counts.recent, 2 * RECENT);
}

/* All is forgotten; a walk that goes on is for nothing. */
static void counts_drop(struct store *s) {
    struct counts *c = &s->counts;
    if (c->walk) {
        c->walk->is_void = true;
    }
    counts_clear(c);
    begin(s);
}

/* ---- walking ---- */

static int walk_key(void *ctx, struct span key, const struct row *r) {
    struct count_walk *k = ctx;
    (void)r;
    if (!k->to && (k->n_keys == STRETCH || k->got.bytes > LIM_COUNTS)) {
        k->got.upto = own_copy(key);
        return 1;
    }
    if (k->n_keys % k->step == 0 &&
        !blocks_insert(&k->got, k->got.n_blocks, own_copy(k->n_keys ? key : of(k->from)), 0)) {
        return err_set(&k->err, ERR_NOMEM, "no memory for the number of keys");
    }
    k->got.n[k->got.n_blocks - 1]++;
    k->n_keys++;
    return 0;
}

static void walk_run(struct loop_work *lw) {
    struct count_walk *k = CONTAINER_OF(lw, struct count_walk, w);
    struct db *d = &k->s->rd_lane;
    k->rc = store_lane_open(k->s, &k->err);
    if (k->rc == 0 && (k->rc = db_run(d, ST_BEGIN_READ, &k->err)) == 0) {
        struct span all = SPAN_LIT("\0");
        k->v.d = d;
        k->rc = view_each(&k->v, of(k->from), k->to ? of(k->to) : all, walk_key, k, &k->err);
        struct err ignored = ERR_INIT;
        IGNORE_ERR(db_run(d, ST_COMMIT, &ignored), "nothing was written");
    }
}

static void walk_free(struct count_walk *k) {
    free(k->from);
    free(k->to);
    counts_clear(&k->got);
    buf_fini(&k->late);
    free(k);
}

static void walk_done(struct loop_work *lw);

/* No `to`: to the end of all keys, a stretch at a time. */
static void walk_start(struct store *s, const struct count_key *from, const struct count_key *to,
                       uint32_t step) {
    struct err e = ERR_INIT;
    struct count_walk *k = new_zero(struct count_walk);
    k->w.run = walk_run;
    k->w.done = walk_done;
    k->s = s;
    k->v = store_view(s);
    k->from = own_copy(of(from));
    k->to = to ? own_copy(of(to)) : NULL;
    k->step = step;
    buf_init(&k->late, LIM_LATE);
    if (loop_work_submit(s->l, LANE_DB_READ, &k->w, &e) < 0) {
        walk_free(k); /* the next count asks again */
        return;
    }
    s->counts.walk = k;
    s->reads_out++;
}

static void walk_on(struct store *s) {
    struct counts *c = &s->counts;
    if (!c->whole && !c->walk && c->bytes < LIM_COUNTS && !s->closing) {
        walk_start(s, c->upto, NULL, BLOCK);
    }
}

static void count_one(struct store *s, struct span key, bool made) {
    struct counts *c = &s->counts;
    if (!covers(c, key)) {
        return;
    }
    size_t i = blocks_to(c, key, true) - 1; /* the first one begins before all keys */
    if (!made && !c->n[i]) {                /* the file has changed under us */
        counts_drop(s);
        return;
    }
    c->n[i] += made ? 1 : UINT32_MAX;
    c->empty |= !c->n[i];
    if (!c->walk && c->n[i] >= 2 * BLOCK && c->bytes < LIM_COUNTS && !s->closing) {
        const struct count_key *to = i + 1 < c->n_blocks ? c->first[i + 1] : c->upto;
        if (to) {
            walk_start(s, c->first[i], to, c->n[i] / 2);
        } else { /* the last of all: what follows is walked through anew */
            c->upto = own_copy(of(c->first[i]));
            c->whole = false;
            blocks_remove(c, i);
            walk_on(s);
        }
    }
}

/* Puts the blocks of the walk in the place of the one that it went through, or behind all. */
static bool take_blocks(struct counts *c, struct count_walk *k) {
    struct counts *got = &k->got;
    size_t at = blocks_to(c, of(k->from), true);
    bool ok = got->n_blocks || blocks_insert(got, 0, own_copy(of(k->from)), 0);
    if (k->to) {
        blocks_remove(c, --at);
    } else {
        free(c->upto);
        c->upto = TAKE(got->upto);
        c->whole = !c->upto;
    }
    for (size_t i = 0; i < got->n_blocks && ok; i++) {
        ok = blocks_insert(c, at + i, TAKE(got->first[i]), got->n[i]);
    }
    return ok;
}

/* Not while a walk goes on: it must find its place again. */
static void remove_empty(struct counts *c) {
    size_t kept = 0;
    if (!c->empty || c->walk) {
        return;
    }
    c->empty = false;
    for (size_t i = 0; i < c->n_blocks; i++) {
        if (i && !c->n[i]) { /* the one before reaches as far */
            c->bytes -= sizeof(*c->first[i]) + c->first[i]->n;
            free(c->first[i]);
            continue;
        }
        c->first[kept] = c->first[i];
        c->n[kept++] = c->n[i];
    }
    c->n_blocks = kept;
}

static void walk_done(struct loop_work *lw) {
    struct count_walk *k = CONTAINER_OF(lw, struct count_walk, w);
    struct store *s = k->s;
    struct counts *c = &s->counts;
    c->walk = NULL;
    s->reads_out--;
    store_lane_keep(s);
    /* After a compaction the view may have lacked keys. */
    if (!k->is_void && k->rc == 0 && k->v.at >= s->compact_rev && buf_ok(&k->late) == 0) {
        struct span late = buf_view(&k->late);
        struct noted n;
        if (!take_blocks(c, k)) {
            counts_drop(s);
        }
        while (next_noted(&late, &n)) {
            count_one(s, n.key, n.made);
        }
        remove_empty(c);
        walk_on(s);
    }
    walk_free(k);
}

/* ---- the last commits ---- */

static void keep_recent(struct store *s, const struct buf *changes) {
    struct counts *c = &s->counts;
    struct buf *b = &c->recent;
    struct noted n;
    if (changes->n > RECENT || buf_span(b, buf_view(changes)) < 0) {
        buf_reset(b);
        c->recent_from = s->rev;
    }
    if (b->n <= RECENT) {
        return;
    }
    struct span left = buf_view(b), next = left;
    while (next_noted(&next, &n) && (left.n > RECENT / 2 || n.rev == c->recent_from)) {
        c->recent_from = n.rev;
        left = next;
    }
    buf_drop(b, b->n - left.n);
}

/* How many of the keys from `from` up to `to` the commits behind `at` have made, less those that they removed. */
static int64_t made_since(const struct counts *c, const struct counted *in, int64_t at) {
    struct noted n;
    int64_t made = 0;
    for (struct span left = buf_view(&c->recent); next_noted(&left, &n);) {
        if (n.rev > at && span_cmp(n.key, in->from) >= 0 &&
            (!in->to.n || span_cmp(n.key, in->to) < 0)) {
            made += n.made ? 1 : -1;
        }
    }
    return made;
}

/* ---- used by others ---- */

void count_commit(struct store *s, const struct buf *changes) {
    struct counts *c = &s->counts;
    struct noted n;
    if (!c->on) {
        return;
    }
    if (!changes || buf_ok(changes) < 0) {
        counts_drop(s);
        return;
    }
    keep_recent(s, changes);
    struct count_walk *k = c->walk; /* one that starts below sees them all */
    for (struct span in = buf_view(changes); next_noted(&in, &n);) {
        if (k && span_cmp(n.key, of(k->from)) >= 0 && (!k->to || span_cmp(n.key, of(k->to)) < 0)) {
            count_note(&k->late, n.rev, n.key, n.made);
        }
        count_one(s, n.key, n.made);
    }
    remove_empty(c);
}

void count_missed(struct store *s, int64_t n) {
    struct counts *c = &s->counts;
    c->missed += n;
    if (c->missed >= MANY) {
        c->missed = 0;
        if (!c->on) {
            begin(s);
        }
        walk_on(s);
    }
}

bool count_known(const struct store *s, struct span key, struct span end, int64_t at,
                 struct counted *ret) {
    const struct counts *c = &s->counts;
    bool open_end = end.n == 1 && end.p[0] == 0;
    size_t lo = blocks_to(c, key, false), hi = c->n_blocks;
    if (!open_end && covers(c, end)) {
        hi = blocks_to(c, end, true);
        hi -= hi > 0; /* the one in which the interval ends */
    }
    if (hi <= lo || at < c->recent_from || at > s->rev) {
        return false;
    }
    *ret = (struct counted){.from = of(c->first[lo]),
                            .to = of(hi < c->n_blocks ? c->first[hi] : c->upto)};
    for (size_t i = lo; i < hi; i++) {
        ret->n += c->n[i];
    }
    ret->n -= at < s->rev ? made_since(c, ret, at) : 0;
    return true;
}

void count_fini(struct store *s) {
    counts_clear(&s->counts);
}
