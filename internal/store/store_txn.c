/* Building transactions. */
#include "internal/store/store_int.h"

#include <stdlib.h>

/* What a short transaction needs until it is answered, in one piece. */
struct room {
    struct store_txn t;
    struct wr w;
    struct pool *pool;
    _Alignas(16) uint8_t first[]; /* of the arena */
};
enum { ROOM = 2048 };

struct store_txn *store_txn_new_in(struct pool *pool, size_t max_bytes) {
    struct room *r = pool ? pool_get(pool, ROOM) : malloc(ROOM);
    CHECK(r);
    r->pool = pool;
    r->t = (struct store_txn){.a = ARENA_INIT(max_bytes ? max_bytes : (size_t)64 << 20)};
    arena_lend(&r->t.a, r->first, ROOM - offsetof(struct room, first));
    list_init(&r->t.link);
    return &r->t;
}

struct store_txn *store_txn_new(size_t max_bytes) {
    return store_txn_new_in(NULL, max_bytes);
}

void store_txn_free(struct store_txn *t) {
    if (t) {
        struct room *r = CONTAINER_OF(t, struct room, t);
        arena_fini(&t->a);
        if (r->pool) {
            pool_put(r->pool, r);
        } else {
            free(r);
        }
    }
}

struct wr *txn_wr(struct store_txn *t) {
    struct wr *w = &CONTAINER_OF(t, struct room, t)->w;
    memset(w, 0, offsetof(struct wr, err));
    err_reset(&w->err);
    w->kind = WR_TXN;
    w->txn = t;
    list_init(&w->link);
    return w;
}

struct span store_txn_copy(struct store_txn *t, struct span s) {
    struct span c = arena_copy(&t->a, s);
    t->failed |= !c.p;
    return c;
}

/* Room for one more element. Past the arena's limit the last element is used again: the transaction is refused anyway. */
static void *grow(struct store_txn *t, void **v, size_t *n, size_t *cap, size_t size) {
    if (*n == *cap) {
        size_t want = *cap ? *cap * 2 : 1;
        void *p = arena_alloc(&t->a, want * size);
        if (!p) {
            t->failed = true;
            if (*n == 0) {
                /* not even room for one: a private element outside the limit keeps the promise of no NULL */
                t->a.max += want * size + 4096;
                p = arena_alloc(&t->a, want * size);
                CHECK(p);
            } else {
                return (char *)*v + (*n - 1) * size;
            }
        }
        if (*n) {
            memcpy(p, *v, *n * size);
        }
        *v = p;
        *cap = want;
    }
    void *at = (char *)*v + *n * size;
    memset(at, 0, size);
    (*n)++;
    return at;
}

static struct store_op *op_add(struct store_txn *t, struct store_ops *ops, enum store_op_kind k) {
    void *v = ops->v;
    struct store_op *op = grow(t, &v, &ops->n, &ops->cap, sizeof(struct store_op));
    ops->v = v;
    op->kind = k;
    return op;
}

struct store_cmp *store_txn_cmp(struct store_txn *t, struct store_body *b, enum store_target target,
                                enum store_result result, struct span key, int64_t num) {
    void *v = b->cmps;
    struct store_cmp *c = grow(t, &v, &b->n_cmps, &b->cap_cmps, sizeof(struct store_cmp));
    b->cmps = v;
    *c = (struct store_cmp){
        .target = target, .result = result, .key = store_txn_copy(t, key), .num = num};
    return c;
}

struct store_op *store_txn_put(struct store_txn *t, struct store_ops *ops, struct span key,
                               struct span value, int64_t lease) {
    struct store_op *op = op_add(t, ops, STORE_OP_PUT);
    op->u.put = (struct store_put){
        .key = store_txn_copy(t, key), .value = store_txn_copy(t, value), .lease = lease};
    return op;
}

struct store_op *store_txn_delete(struct store_txn *t, struct store_ops *ops, struct span key,
                                  struct span end) {
    struct store_op *op = op_add(t, ops, STORE_OP_DELETE);
    op->u.del = (struct store_del){.key = store_txn_copy(t, key), .end = store_txn_copy(t, end)};
    return op;
}

struct store_op *store_txn_range(struct store_txn *t, struct store_ops *ops, struct span key,
                                 struct span end) {
    struct store_op *op = op_add(t, ops, STORE_OP_RANGE);
    op->u.range =
        (struct store_range_req){.key = store_txn_copy(t, key), .end = store_txn_copy(t, end)};
    return op;
}

struct store_op *store_txn_nested(struct store_txn *t, struct store_ops *ops) {
    struct store_op *op = op_add(t, ops, STORE_OP_TXN);
    op->u.txn = arena_new(&t->a, struct store_body);
    if (!op->u.txn) {
        t->failed = true;
        t->a.max += sizeof(struct store_body) + 8192;
        op->u.txn = arena_new(&t->a, struct store_body);
        CHECK(op->u.txn);
    }
    return op;
}

struct span store_prefix_end(struct arena *a, struct span prefix) {
    static const uint8_t zero[1] = {0};
    size_t n = prefix.n;
    while (n && prefix.p[n - 1] == 0xff) {
        n--;
    }
    if (!n) { /* no key follows those with this prefix: everything from it on */
        return span_of(zero, 1);
    }
    uint8_t *p = arena_alloc(a, n);
    if (!p) {
        return SPAN_EMPTY;
    }
    memcpy(p, prefix.p, n);
    p[n - 1]++;
    return span_of(p, n);
}
