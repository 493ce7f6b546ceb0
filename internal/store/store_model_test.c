/* The engine against a model: the history as a plain array, every answer worked out by walking it. */
#include "internal/store/store_test.h"

#include "internal/t/t.h"

#include <stdio.h>
#include <stdlib.h>

enum { MODEL_MAX = 4096, N_KEYS = 7 };

static const char *const keys[N_KEYS] = {"a", "aa", "ab", "b", "b\x01", "c", "\xff\xff"};

struct entry {
    int64_t rev, sub, create, version, lease;
    int key;
    char value[8];
    bool deleted;
};

struct model {
    struct entry v[MODEL_MAX];
    size_t n;
    int64_t rev, compact;
    int64_t sub;
    bool leases[4], compacted;
};

struct watcher {
    struct store_watch *w;
    struct model *m;
    size_t next; /* index in the model's history */
    int64_t from;
    int lo, hi; /* keys lo..hi-1 */
    bool paused, off;
    struct t_gen *g;
};

struct prop {
    struct box b;
    struct model m;
    struct t_gen g;
    struct watcher w[3];
};

static const struct entry *at(const struct model *m, int key, int64_t rev) {
    const struct entry *found = NULL;
    for (size_t i = 0; i < m->n && m->v[i].rev <= rev; i++) {
        if (m->v[i].key == key) {
            found = &m->v[i];
        }
    }
    return found && !found->deleted ? found : NULL;
}

static void model_put(struct model *m, int key, const char *value, int64_t lease) {
    const struct entry *old = at(m, key, INT64_MAX);
    struct entry *e = &m->v[m->n];
    *e = (struct entry){m->rev + 1,
                        m->sub++,
                        old ? old->create : m->rev + 1,
                        old ? old->version + 1 : 1,
                        lease,
                        key,
                        {0},
                        false};
    ASSERT_EQ(0, str_put(e->value, sizeof(e->value), "%s", value));
    m->n++;
}

static int model_delete(struct model *m, int lo, int hi) {
    int n = 0;
    for (int k = lo; k < hi; k++) {
        if (at(m, k, INT64_MAX)) {
            m->v[m->n++] =
                (struct entry){.rev = m->rev + 1, .sub = m->sub++, .key = k, .deleted = true};
            n++;
        }
    }
    return n;
}

static void model_end(struct model *m) {
    if (m->sub) {
        m->rev++;
        m->sub = 0;
    }
}

static struct span key_span(int k) {
    return span_str(keys[k]);
}
/* keys[lo..hi): as an interval of bytes */
static struct span end_span(int hi) {
    return hi < N_KEYS ? key_span(hi) : SPAN_LIT("\0");
}

static void same_kv(const struct entry *want, const struct store_kv *got) {
    assert_true(span_eq(got->key, key_span(want->key)));
    assert_true(span_eq(got->value, span_str(want->value)));
    assert_int_equal(want->create, got->create_rev);
    assert_int_equal(want->rev, got->mod_rev);
    assert_int_equal(want->version, got->version);
    assert_int_equal(want->lease, got->lease);
}

static void check_range(struct prop *p, int lo, int hi, int64_t rev, int64_t limit) {
    struct arena a = ARENA_INIT(1u << 24);
    struct store_range_req q = {
        .key = key_span(lo), .end = end_span(hi), .rev = rev, .limit = limit};
    struct store_range_res r;
    struct err e = ERR_INIT;
    int rc = store_range(p->b.s, &q, &a, &r, &e);
    if (rev > p->m.rev || (rev > 0 && rev < p->m.compact)) {
        ASSERT_EQ(-ERR_GONE, rc);
    } else {
        ASSERT_OK(rc, &e);
        size_t n = 0;
        int64_t count = 0;
        for (int k = lo; k < hi; k++) {
            const struct entry *want = at(&p->m, k, rev ? rev : INT64_MAX);
            if (!want) {
                continue;
            }
            count++;
            if (!limit || (int64_t)n < limit) {
                ASSERT(n < r.n);
                same_kv(want, &r.kvs[n++]);
            }
        }
        ASSERT_EQ(n, r.n);
        ASSERT_EQ(count, r.count);
        ASSERT_EQ(limit && count > limit, r.more);
        ASSERT_EQ(p->m.rev, r.rev);
    }
    arena_fini(&a);
}

static bool watcher_wants(const struct watcher *w, const struct entry *e) {
    return e->rev >= w->from && e->key >= w->lo && e->key < w->hi;
}

static int on_watch(void *ctx, struct store_watch *sw, const struct store_watch_msg *msg) {
    struct watcher *w = ctx;
    (void)sw;
    if (msg->kind == STORE_WATCH_CANCELLED) {
        w->off = true;
        return 0;
    }
    for (size_t i = 0; i < msg->n; i++) {
        const struct store_event *ev = msg->events[i];
        while (w->next < w->m->n && !watcher_wants(w, &w->m->v[w->next])) {
            w->next++;
        }
        ASSERT(w->next < w->m->n);
        const struct entry *want = &w->m->v[w->next++];
        ASSERT_EQ(want->rev, ev->kv.mod_rev);
        ASSERT(span_eq(ev->kv.key, key_span(want->key)));
        ASSERT_EQ(want->deleted, ev->type == STORE_DELETE);
        if (!want->deleted) {
            same_kv(want, &ev->kv);
        }
        const struct entry *prev = at(w->m, want->key, want->rev - 1);
        if (ev->has_prev) {
            ASSERT(prev != NULL);
            same_kv(prev, &ev->prev);
        } else if (prev) {
            ASSERT(want->rev - 1 < w->m->compact); /* only compaction may take it away */
        }
    }
    if (t_gen_u32(w->g, 0, 3) == 0) {
        w->paused = true;
        return STORE_WATCH_PAUSE;
    }
    return 0;
}

static void watch_again(struct prop *p, struct watcher *w) {
    struct err e = ERR_INIT;
    store_watch_stop(w->w);
    int lo = (int)t_gen_u32(&p->g, 0, N_KEYS - 1),
        hi = (int)t_gen_u32(&p->g, (uint32_t)lo + 1, N_KEYS);
    int64_t from = (int64_t)t_gen_u32(&p->g, 0, (uint32_t)p->m.rev + 2);
    *w = (struct watcher){
        .m = &p->m, .from = from ? from : p->m.rev + 1, .lo = lo, .hi = hi, .g = &p->g};
    struct store_watch_req q = {
        .key = key_span(lo), .end = end_span(hi), .start_rev = from, .prev_kv = true};
    ASSERT_OK(store_watch_start(p->b.s, &q, on_watch, w, &w->w, &e), &e);
}

/* Everything that was due has come. */
static void settle(struct prop *p) {
    for (size_t i = 0; i < ARRAY_LEN(p->w); i++) {
        struct watcher *w = &p->w[i];
        for (int round = 0; w->w && !w->off && round < 200; round++) {
            if (w->paused) {
                w->paused = false;
                store_watch_resume(w->w);
            }
            box_turn(&p->b);
            if (!w->paused && store_watch_next_rev(w->w) > p->m.rev) {
                break;
            }
        }
        if (!w->w || w->off) {
            continue;
        }
        for (size_t k = w->next; k < p->m.n; k++) {
            ASSERT(!watcher_wants(w, &p->m.v[k]));
        }
    }
}

static void txn_step(struct prop *p) {
    struct model *m = &p->m;
    struct store_txn *t = store_txn_new(0);
    struct err e = ERR_INIT;
    int ck = (int)t_gen_u32(&p->g, 0, N_KEYS - 1);
    const struct entry *cur = at(m, ck, INT64_MAX);
    int64_t guess = cur && t_gen_u32(&p->g, 0, 2) ? cur->rev : 0;
    store_txn_cmp(t, &t->body, STORE_T_MOD, STORE_EQUAL, key_span(ck), guess);
    bool holds = (cur ? cur->rev : 0) == guess;
    int n = (int)t_gen_u32(&p->g, 1, 4), used = 0;
    for (int i = 0; i < n; i++) {
        int k = (int)t_gen_u32(&p->g, 0, N_KEYS - 1);
        if (used & 1 << k) {
            continue;
        }
        used |= 1 << k;
        if (t_gen_u32(&p->g, 0, 3)) {
            char v[8];
            ASSERT_EQ(0, str_put(v, sizeof(v), "v%u", t_gen_u32(&p->g, 0, 999)));
            store_txn_put(t, &t->body.then, key_span(k), span_str(v), 0);
            if (holds) {
                model_put(m, k, v, 0);
            }
        } else {
            store_txn_delete(t, &t->body.then, key_span(k), SPAN_EMPTY);
            if (holds) {
                model_delete(m, k, k + 1);
            }
        }
    }
    store_txn_range(t, &t->body.els, key_span(ck), SPAN_EMPTY);
    model_end(m);
    ASSERT_OK(box_txn(&p->b, t, &e), &e);
    ASSERT_EQ(holds, t->body.succeeded);
    ASSERT_EQ(m->rev, t->rev);
    store_txn_free(t);
}

static void lease_step(struct prop *p) {
    struct model *m = &p->m;
    struct err e = ERR_INIT;
    int id = (int)t_gen_u32(&p->g, 1, 3), k = (int)t_gen_u32(&p->g, 0, N_KEYS - 1);
    if (!m->leases[id]) {
        ASSERT_OK(box_grant(&p->b, id, 5000, &e), &e);
        m->leases[id] = true;
    } else if (t_gen_u32(&p->g, 0, 2) == 0) {
        for (int i = 0; i < N_KEYS; i++) {
            const struct entry *cur = at(m, i, INT64_MAX);
            if (cur && cur->lease == id) {
                model_delete(m, i, i + 1);
            }
        }
        model_end(m);
        m->leases[id] = false;
        ASSERT_OK(box_revoke(&p->b, id, &e), &e);
        return;
    }
    model_put(m, k, "leased", id);
    model_end(m);
    ASSERT_OK(box_put(&p->b, keys[k], "leased", id, &e), &e);
}

static void compact_step(struct prop *p) {
    struct err e = ERR_INIT;
    int64_t rev = (int64_t)t_gen_u32(&p->g, 0, (uint32_t)p->m.rev + 1);
    bool fine = rev <= p->m.rev &&
                (rev > p->m.compact || !p->m.compacted); /* 0 can be compacted once, as in etcd */
    if (fine) {
        p->m.compacted = true;
        p->m.compact = rev; /* before: a watch may be told of it while we wait */
    }
    int rc = box_compact(&p->b, rev, &e);
    ASSERT_EQ(fine ? 0 : -ERR_GONE, rc);
}

static void step(struct prop *p) {
    struct model *m = &p->m;
    struct err e = ERR_INIT;
    int k = (int)t_gen_u32(&p->g, 0, N_KEYS - 1),
        hi = (int)t_gen_u32(&p->g, (uint32_t)k + 1, N_KEYS);
    switch (t_gen_u32(&p->g, 0, 11)) {
    case 0:
    case 1:
    case 2: {
        char v[8];
        ASSERT_EQ(0, str_put(v, sizeof(v), "p%u", t_gen_u32(&p->g, 0, 9999)));
        model_put(m, k, v, 0);
        model_end(m);
        ASSERT_OK(box_put(&p->b, keys[k], v, 0, &e), &e);
        break;
    }
    case 3: {
        struct store_txn *t = store_txn_new(0);
        store_txn_delete(t, &t->body.then, key_span(k), end_span(hi));
        int n = model_delete(m, k, hi);
        model_end(m);
        ASSERT_OK(box_txn(&p->b, t, &e), &e);
        ASSERT_EQ(n, t->body.then.v[0].range.count);
        store_txn_free(t);
        break;
    }
    case 4:
    case 5: txn_step(p); break;
    case 6: lease_step(p); break;
    case 7: compact_step(p); break;
    case 8:
        if (t_gen_u32(&p->g, 0, 4) == 0) { /* restart: watches are gone, everything else stays */
            for (size_t i = 0; i < ARRAY_LEN(p->w); i++) {
                store_watch_stop(p->w[i].w);
                p->w[i].w = NULL;
            }
            box_shut(&p->b);
            box_open(&p->b);
            ASSERT_EQ(m->rev, store_rev(p->b.s));
            ASSERT_EQ(m->compact, store_compact_rev(p->b.s));
        }
        break;
    case 9: watch_again(p, &p->w[t_gen_u32(&p->g, 0, 2)]); break;
    case 10: settle(p); break;
    default:
        check_range(p, k, hi, (int64_t)t_gen_u32(&p->g, 0, (uint32_t)m->rev + 1),
                    t_gen_u32(&p->g, 0, 3));
        break;
    }
}

static int like_the_model(const uint8_t *bytes, size_t n) {
    struct prop *p = new_zero(struct prop);
    p->m.rev = 1;
    p->g.s = span_of(bytes, n);
    p->b.o.recent_bytes = 40; /* most lagging watches must read the log */
    box_open(&p->b);
    while (p->g.s.n && p->m.n < MODEL_MAX - 16) {
        step(p);
    }
    settle(p);
    for (int64_t rev = p->m.compact; rev <= p->m.rev; rev++) {
        check_range(p, 0, N_KEYS, rev, 0);
    }
    for (size_t i = 0; i < ARRAY_LEN(p->w); i++) {
        store_watch_stop(p->w[i].w);
    }
    box_fini(&p->b);
    free(p);
    return 0;
}

TEST(store, model) {
    t_property("store_model", like_the_model, 12, 3000);
}
