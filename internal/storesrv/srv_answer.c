/* The answers of ranges. One key is read here and now. What may be long is made on the store's read lane: encoded from the
 * pages into chunks, which the connections then send by reference. Chunks are used again while ranges are read. Clients
 * that ask for the same are given one answer, if its reading has not begun, or no revision has come since. */
#include "internal/storesrv/srv_ns.h"

#include "internal/base/rand.h"
#include "internal/net/net.h"

#include <stdlib.h>

enum {
    CHUNK = 64 * 1024,
    CHUNKS_KEPT = POOL_KEEP(192), /* 12 MiB, until nobody has needed one for a while */
    CHUNKS_ANSWER = 32767,        /* 2 GiB: gRPC's messages are no longer */
    LIM_JOIN = 128,               /* answers that a request is compared with */
};
#define CHUNKS_REST_NS (2 * NS_PER_S)

struct chunk {
    struct net_blob blob; /* first */
    struct chunks *home;
    struct chunk *next;
    uint8_t data[];
};

struct chunks {
    struct loop *l;
    struct loop_timer timer;
    struct chunk *back; /* have been sent: the next answer takes them to the lane */
    struct chunk *lane; /* the lane's while an answer is being made */
    size_t n_all, n_out,
        busy; /* of finished answers: all there are, those not back; answers being made */
    uint64_t used, used_seen;
    bool orphan;
};

static void chunk_drop(struct chunks *p, struct chunk *own_k) {
    p->n_all--;
    free(own_k);
}

static void drop_all(struct chunks *p, struct chunk **list) {
    for (struct chunk *k = TAKE(*list), *next; k; k = next) {
        next = k->next;
        chunk_drop(p, k);
    }
}

static void chunks_rest(struct loop_timer *tm) {
    struct chunks *p = CONTAINER_OF(tm, struct chunks, timer);
    if (p->busy || p->used != p->used_seen) {
        p->used_seen = p->used;
        loop_timer_start(p->l, tm, CHUNKS_REST_NS, chunks_rest, "range-chunks");
        return;
    }
    drop_all(p, &p->back);
    drop_all(p, &p->lane); /* no answer is being made */
}

static void chunk_back(struct net_blob *b) {
    struct chunk *k = CONTAINER_OF(b, struct chunk, blob);
    struct chunks *p = k->home;
    p->n_out--;
    if (p->orphan || p->n_all > CHUNKS_KEPT) {
        chunk_drop(p, k);
    } else {
        k->next = p->back;
        p->back = k;
        if (!loop_timer_active(&p->timer)) {
            loop_timer_start(p->l, &p->timer, CHUNKS_REST_NS, chunks_rest, "range-chunks");
        }
    }
    if (p->orphan && !p->n_out) {
        free(p);
    }
}

struct chunks *chunks_new(struct loop *l) {
    struct chunks *p = new_zero(struct chunks);
    p->l = l;
    return p;
}

void chunks_free(struct chunks *own_p) {
    if (!own_p) {
        return;
    }
    loop_timer_stop(&own_p->timer);
    drop_all(own_p, &own_p->back);
    drop_all(own_p, &own_p->lane);
    own_p->orphan = true;
    if (!own_p->n_out) {
        free(own_p);
    }
}

/* ---- an answer, while it is made ---- */

struct answer {
    struct list link;
    const struct storesrv *v;
    const struct srv_ns *ns;
    struct chunks *home;
    struct store_range_req q;
    int64_t rev;    /* that it is of; 0: its reading has not begun */
    struct rpc **c; /* who waits */
    size_t n_c;
    struct chunk *given;    /* on their way to the lane; or never used */
    struct net_blob **made; /* of chunks */
    size_t n_made, cap_made, n_new;
    uint8_t own[]; /* key and end */
};

static struct chunk *chunk_take(struct answer *a) {
    struct chunk *k = a->home->lane;
    if (k) {
        a->home->lane = k->next;
    } else if ((k = malloc(CHUNK))) {
        a->n_new++;
    } else {
        return NULL;
    }
    *k = (struct chunk){.blob = {.refs = 1, .p = k->data, .release = chunk_back}, .home = a->home};
    return k;
}

static size_t room(const struct answer *a) {
    return a->n_made ? CHUNK - sizeof(struct chunk) - a->made[a->n_made - 1]->n : 0;
}

static int more_room(struct answer *a) {
    if (a->n_made == a->cap_made) {
        size_t cap = a->cap_made ? 2 * a->cap_made : 4;
        struct net_blob **v = mem_array(a->made, cap, sizeof(struct net_blob *), CHUNKS_ANSWER + 1);
        if (!v) {
            return -ERR_LIMIT;
        }
        a->made = v;
        a->cap_made = cap;
    }
    struct chunk *k = chunk_take(a);
    if (!k) {
        return -ERR_NOMEM;
    }
    a->made[a->n_made++] = &k->blob;
    return 0;
}

/* May be cut anywhere. */
static int add(struct answer *a, struct span s) {
    while (s.n) {
        int rc = room(a) ? 0 : more_room(a);
        if (rc < 0) {
            return rc;
        }
        struct net_blob *b = a->made[a->n_made - 1];
        size_t n = s.n < room(a) ? s.n : room(a);
        memcpy(b->p + b->n, s.p, n);
        b->n += n;
        s = span_of(s.p + n, s.n - n);
    }
    return 0;
}

static int add_in_pieces(struct answer *a, const struct store_kv *kv) {
    AUTO(buf) struct buf b = BUF_INIT(kv->key.n + 256);
    enc_kv_front(&b, 2, kv);
    int rc = buf_ok(&b) < 0 ? buf_ok(&b) : add(a, buf_view(&b));
    if (rc == 0) {
        rc = add(a, kv->value);
    }
    buf_reset(&b);
    wire_i64(&b, 6, kv->lease);
    return rc < 0 ? rc : add(a, buf_view(&b));
}

static void on_begin(void *ctx, int64_t rev) {
    struct answer *a = ctx;
    while (a->given) {
        struct chunk *k = a->given;
        a->given = k->next;
        k->next = a->home->lane;
        a->home->lane = k;
    }
    while (a->n_made) { /* it begins anew */
        struct chunk *k = CONTAINER_OF(a->made[--a->n_made], struct chunk, blob);
        k->next = a->home->lane;
        a->home->lane = k;
    }
    AUTO(buf) struct buf b = BUF_INIT(256);
    enc_header(&b, 1, a->v, rev);
    IGNORE_ERR(add(a, buf_view(&b)), "without memory the first key fails, or the answer's end");
}

static int on_key(void *ctx, const struct store_kv *found) {
    struct answer *a = ctx;
    struct store_kv kv = *found;
    if (a->ns) {
        ns_kv_out(a->ns, &kv);
    }
    size_t n = enc_kv_len(&kv);
    if (n > room(a)) {
        if (n > CHUNK / 8) {
            return add_in_pieces(a, &kv);
        }
        int rc = more_room(a);
        if (rc < 0) {
            return rc;
        }
    }
    struct net_blob *b = a->made[a->n_made - 1];
    enc_kv_to(b->p + b->n, 2, &kv);
    b->n += n;
    return 0;
}

static void reply(struct answer *a, struct rpc *c, const struct err *e) {
    if (rpc_open(c) && e) {
        rpc_fail(c, e);
    } else if (rpc_open(c)) {
        struct buf b = rpc_buf(c);
        rpc_send_blobs(c, &b, a->made, a->n_made);
        rpc_end(c);
    }
    rpc_unref(c);
}

static void on_start(void *ctx, int64_t rev) {
    struct answer *a = ctx;
    a->rev = rev;
    a->given = TAKE(a->home->back);
}

static void give_back(struct answer *a) {
    while (a->given) {
        struct chunk *k = a->given;
        a->given = k->next;
        k->next = a->home->back;
        a->home->back = k;
    }
}

static void on_made(void *ctx, int rc, const struct store_range_res *r, const struct err *e) {
    struct answer *a = ctx;
    struct chunks *p = a->home;
    struct err full = ERR_INIT;
    AUTO(buf) struct buf b = BUF_INIT(64);
    list_del(&a->link);
    give_back(a);
    p->busy--;
    p->used++;
    if (rc == 0) {
        enc_range_end(&b, r);
        if (!a->n_made || add(a, buf_view(&b)) < 0) {
            rc = err_set(&full, ERR_NOMEM, "no memory for an answer");
            e = &full;
        }
    }
    p->n_all += a->n_new;
    p->n_out += a->n_made;
    for (size_t i = 0; i < a->n_c; i++) {
        reply(a, a->c[i], rc < 0 ? e : NULL);
    }
    for (size_t i = 0; i < a->n_made; i++) {
        net_blob_unref(a->made[i]);
    }
    free(a->made);
    free(a->c);
    free(a);
}

static const struct store_reader on_lane = {on_begin, on_key, on_made, on_start};

/* ---- asking ---- */

static bool same(const struct store_range_req *a, const struct store_range_req *b) {
    return span_eq(a->key, b->key) && span_eq(a->end, b->end) && a->limit == b->limit &&
           a->rev == b->rev && a->order == b->order && a->by == b->by &&
           a->keys_only == b->keys_only && a->count_only == b->count_only &&
           a->min_mod == b->min_mod && a->max_mod == b->max_mod && a->min_create == b->min_create &&
           a->max_create == b->max_create;
}

static bool join(struct rpc *c, const struct store_range_req *q) {
    size_t seen = 0;
    struct list *all = &c->v->answers;
    for (struct list *at = all->prev; at != all; at = at->prev) { /* the last ones may wait */
        struct answer *a = CONTAINER_OF(at, struct answer, link);
        if (a->ns == c->ns && (!a->rev || a->rev == store_rev(c->v->st)) && same(&a->q, q)) {
            struct rpc **v = mem_array(a->c, a->n_c + 1, sizeof(struct rpc *), LIM_CALLS);
            if (!v) {
                return false;
            }
            a->c = v;
            a->c[a->n_c++] = rpc_ref(c);
            return true;
        }
        if (++seen == LIM_JOIN) {
            break;
        }
    }
    return false;
}

static void start(struct rpc *c, const struct store_range_req *q) {
    struct err e = ERR_INIT;
    struct answer *a = mem_zero_alloc(sizeof(*a) + q->key.n + q->end.n);
    if (q->key.n) {
        memcpy(a->own, q->key.p, q->key.n);
    }
    memcpy(a->own + q->key.n, q->end.p, q->end.n);
    a->v = c->v;
    a->ns = c->ns;
    a->home = c->v->chunks;
    a->q = *q;
    a->q.key = span_of(a->own, q->key.n);
    a->q.end = span_of(a->own + q->key.n, q->end.n);
    a->c = mem_array(NULL, 1, sizeof(struct rpc *), 1);
    CHECK(a->c);
    if (store_read(c->v->st, q, &on_lane, a, &e) < 0) {
        give_back(a);
        rpc_fail(c, &e);
        free(a->c);
        free(a);
        return;
    }
    a->c[a->n_c++] = rpc_ref(c);
    a->home->busy++;
    list_add_tail(&c->v->answers, &a->link);
}

struct one {
    struct rpc *c;
    struct buf b;
};

static void one_begin(void *ctx, int64_t rev) {
    struct one *o = ctx;
    enc_header(&o->b, 1, o->c->v, rev);
}

static int one_key(void *ctx, const struct store_kv *found) {
    struct one *o = ctx;
    struct store_kv kv = *found;
    if (o->c->ns) {
        ns_kv_out(o->c->ns, &kv);
    }
    enc_kv(&o->b, 2, &kv);
    return buf_ok(&o->b);
}

static const struct store_reader at_once = {one_begin, one_key, NULL, NULL};

void answer_range(struct rpc *c, const struct store_range_req *q) {
    if (q->end.n) {
        if (!join(c, q)) {
            start(c, q);
        }
        return;
    }
    struct err e = ERR_INIT;
    struct store_range_res r;
    struct one o = {c, rpc_buf(c)};
    if (store_read_now(c->v->st, q, &at_once, &o, &r, &e) < 0) {
        rpc_drop(c, &o.b);
        rpc_fail(c, &e);
        return;
    }
    enc_range_end(&o.b, &r);
    rpc_reply(c, &o.b);
}
