/* etcd's request and response messages; field numbers as in etcdserverpb. */
#include "internal/storesrv/srv_int.h"

#include <stdlib.h>

int dec_bad(struct err *e) {
    return err_set(e, ERR_INVALID, "malformed message");
}

/* ---- large values stay where they are ---- */

enum { CUT_MIN = 32 * 1024 };

void cuts_fini(struct cuts *c) {
    free(c->v);
    *c = (struct cuts){0};
}

static bool cut(struct cuts *c, const struct buf *b, struct span value) {
    if (c->n == c->cap) {
        size_t cap = c->cap ? 2 * c->cap : 16;
        struct cut *v = mem_array(c->v, cap, sizeof(*v), (size_t)1 << 24);
        if (!v) {
            return false;
        }
        c->v = v;
        c->cap = cap;
    }
    c->v[c->n++] = (struct cut){b->n, value};
    c->bytes += value.n;
    return true;
}

/* A message inside, of which large values may be elsewhere. */
struct inside {
    size_t mark, first, bytes;
};

static struct inside inside_begin(struct buf *b, uint32_t no, const struct cuts *c) {
    return (struct inside){wire_begin(b, no), c->n, c->bytes};
}

static void inside_end(struct buf *b, struct cuts *c, struct inside in) {
    size_t moved = wire_end_with(b, in.mark, c->bytes - in.bytes);
    for (size_t i = in.first; i < c->n; i++) {
        c->v[i].at += moved;
    }
}

static size_t i64_len(int64_t v) {
    return v ? 1 + wire_varint_len((uint64_t)v) : 0;
}
static size_t bytes_len(struct span s) {
    return s.n ? 1 + wire_varint_len(s.n) + s.n : 0;
}

static uint8_t *put_varint(uint8_t *p, uint64_t v) {
    while (v > 0x7f) {
        *p++ = (uint8_t)(v | 0x80);
        v >>= 7;
    }
    *p++ = (uint8_t)v;
    return p;
}
static uint8_t *put_i64(uint8_t *p, uint8_t no, int64_t v) {
    if (v) {
        *p++ = (uint8_t)(no << 3 | WIRE_VARINT);
        p = put_varint(p, (uint64_t)v);
    }
    return p;
}
static uint8_t *put_bytes(uint8_t *p, uint8_t no, struct span s) {
    if (s.n) {
        *p++ = (uint8_t)(no << 3 | WIRE_BYTES);
        p = put_varint(p, s.n);
        memcpy(p, s.p, s.n);
        p += s.n;
    }
    return p;
}

/* In front of every answer. */
void enc_header(struct buf *b, uint32_t no, const struct storesrv *v, int64_t rev) {
    uint8_t *head = buf_room(b, 2 + 4 * 11), *p; /* four numbers of at most ten bytes */
    if (!head) {
        return; /* the buffer remembers */
    }
    p = put_i64(head + 2, 1, (int64_t)v->cluster_id);
    p = put_i64(p, 2, (int64_t)v->member_id);
    p = put_i64(p, 3, rev);
    p = put_i64(p, 4, RAFT_TERM);
    head[0] = (uint8_t)(no << 3 | WIRE_BYTES);
    head[1] = (uint8_t)(p - head - 2);
    buf_added(b, (size_t)(p - head));
}

/* Inside a transaction etcd's headers carry the revision only. */
static void inner_header(struct buf *b, const struct storesrv *v, int64_t rev, bool inner) {
    if (!inner) {
        enc_header(b, 1, v, rev);
        return;
    }
    size_t m = wire_begin(b, 1);
    wire_i64(b, 3, rev);
    wire_end(b, m);
}

static size_t kv_len(const struct store_kv *kv) {
    return bytes_len(kv->key) + i64_len(kv->create_rev) + i64_len(kv->mod_rev) +
           i64_len(kv->version) + bytes_len(kv->value) + i64_len(kv->lease);
}
static uint8_t *put_kv_front(uint8_t *p, uint8_t no, const struct store_kv *kv, size_t n) {
    *p++ = (uint8_t)(no << 3 | WIRE_BYTES);
    p = put_varint(p, n);
    p = put_bytes(p, 1, kv->key);
    p = put_i64(p, 2, kv->create_rev);
    p = put_i64(p, 3, kv->mod_rev);
    return put_i64(p, 4, kv->version);
}

size_t enc_kv_len(const struct store_kv *kv) {
    size_t n = kv_len(kv);
    return 1 + wire_varint_len(n) + n;
}

uint8_t *enc_kv_to(uint8_t *p, uint8_t no, const struct store_kv *kv) {
    p = put_kv_front(p, no, kv, kv_len(kv));
    p = put_bytes(p, 5, kv->value);
    return put_i64(p, 6, kv->lease);
}

/* Most bytes that leave a store are made here: the room is asked for once. */
void enc_kv(struct buf *b, uint8_t no, const struct store_kv *kv) {
    size_t n = enc_kv_len(kv);
    uint8_t *p = buf_room(b, n);
    if (p) { /* else the buffer remembers */
        enc_kv_to(p, no, kv);
        buf_added(b, n);
    }
}

/* Without the value's bytes and what is behind them. */
void enc_kv_front(struct buf *b, uint8_t no, const struct store_kv *kv) {
    size_t n = kv_len(kv), all = 1 + wire_varint_len(n) + n, value = kv->value.n;
    uint8_t *p = buf_room(b, all - value);
    if (!p) {
        return;
    }
    uint8_t *end = put_kv_front(p, no, kv, n);
    if (value) {
        *end++ = 5 << 3 | WIRE_BYTES;
        end = put_varint(end, value);
    }
    buf_added(b, (size_t)(end - p));
}

/* ---- requests ---- */

int dec_range(struct span m, struct store_range_req *q, bool *ret_serializable, struct err *e) {
    struct wire_field f;
    int rc;
    *q = (struct store_range_req){0};
    while ((rc = wire_next(&m, &f)) > 0) {
        switch (f.no) {
        case 1: q->key = f.bytes; break;
        case 2: q->end = f.bytes; break;
        case 3: q->limit = (int64_t)f.v; break;
        case 4: q->rev = (int64_t)f.v; break;
        case 5:
        case 6:
            if (f.v > (f.no == 5 ? 2 : 4)) {
                int bad = err_set(e, ERR_INVALID, "etcdserver: invalid sort option");
                return bad;
            }
            if (f.no == 5) {
                q->order = (enum store_order)f.v;
            } else {
                q->by = (enum store_by)f.v;
            }
            break;
        case 7: *ret_serializable = f.v != 0; break;
        case 8: q->keys_only = f.v != 0; break;
        case 9: q->count_only = f.v != 0; break;
        case 10: q->min_mod = (int64_t)f.v; break;
        case 11: q->max_mod = (int64_t)f.v; break;
        case 12: q->min_create = (int64_t)f.v; break;
        case 13: q->max_create = (int64_t)f.v; break;
        default: break;
        }
    }
    return rc < 0 ? dec_bad(e) : 0;
}

int dec_put(struct span m, struct store_put *p, struct err *e) {
    struct wire_field f;
    int rc;
    *p = (struct store_put){0};
    while ((rc = wire_next(&m, &f)) > 0) {
        switch (f.no) {
        case 1: p->key = f.bytes; break;
        case 2: p->value = f.bytes; break;
        case 3: p->lease = (int64_t)f.v; break;
        case 4: p->prev_kv = f.v != 0; break;
        case 5: p->ignore_value = f.v != 0; break;
        case 6: p->ignore_lease = f.v != 0; break;
        default: break;
        }
    }
    return rc < 0 ? dec_bad(e) : 0;
}

int dec_delete(struct span m, struct store_del *d, struct err *e) {
    struct wire_field f;
    int rc;
    *d = (struct store_del){0};
    while ((rc = wire_next(&m, &f)) > 0) {
        switch (f.no) {
        case 1: d->key = f.bytes; break;
        case 2: d->end = f.bytes; break;
        case 3: d->prev_kv = f.v != 0; break;
        default: break;
        }
    }
    return rc < 0 ? dec_bad(e) : 0;
}

/* As etcd: the value of another member of the union than the target's counts as none, a comparison of an unknown kind
 * holds, and of an unknown target everything is equal. */
static void settle_compare(struct store_cmp *c, uint32_t member, uint64_t result, uint64_t target) {
    static const uint32_t members[] = {4, 5, 6, 7, 8};
    if (target > STORE_T_LEASE || result > STORE_NOT_EQUAL) {
        bool if_there = target == STORE_T_VALUE; /* a value that is not there compares to nothing */
        bool holds = result == STORE_EQUAL || result > STORE_NOT_EQUAL;
        c->target = STORE_T_VERSION;
        c->result = holds ? STORE_GREATER : STORE_LESS;
        c->num = holds && !if_there ? -1 : 0;
        return;
    }
    c->target = (enum store_target)target;
    c->result = (enum store_result)result;
    if (member != members[target]) {
        c->num = 0;
        c->value = SPAN_EMPTY;
    }
}

static int dec_compare(struct span m, struct store_txn *t, struct store_body *b, struct err *e) {
    struct wire_field f;
    int rc;
    struct store_cmp c = {0};
    uint64_t result = 0, target = 0;
    uint32_t member = 0;
    while ((rc = wire_next(&m, &f)) > 0) {
        switch (f.no) {
        case 1: result = f.v; break;
        case 2: target = f.v; break;
        case 3: c.key = store_txn_copy(t, f.bytes); break;
        case 4:
        case 5:
        case 6:
        case 8: c.num = (int64_t)f.v; break;
        case 7: c.value = store_txn_copy(t, f.bytes); break;
        case 64: c.end = store_txn_copy(t, f.bytes); break;
        default: break;
        }
        member = f.no >= 4 && f.no <= 8 ? f.no : member;
    }
    if (rc < 0) {
        return dec_bad(e);
    }
    settle_compare(&c, member, result, target);
    *store_txn_cmp(t, b, c.target, c.result, SPAN_EMPTY, 0) = c;
    return 0;
}

static int dec_op(struct span m, struct store_txn *t, struct store_ops *ops, unsigned depth,
                  struct err *e) {
    struct wire_field f, last = {0};
    int rc;
    while ((rc = wire_next(&m, &f)) > 0) {
        if (f.no >= 1 && f.no <= 4 && f.wire == WIRE_BYTES) {
            last = f;
        }
    }
    if (rc < 0) {
        return dec_bad(e);
    }
    bool unused;
    struct store_op *op;
    switch (last.no) {
    case 1:
        op = store_txn_range(t, ops, SPAN_EMPTY, SPAN_EMPTY);
        rc = dec_range(last.bytes, &op->u.range, &unused, e);
        op->u.range.key = store_txn_copy(t, op->u.range.key);
        op->u.range.end = store_txn_copy(t, op->u.range.end);
        return rc;
    case 2:
        op = store_txn_put(t, ops, SPAN_EMPTY, SPAN_EMPTY, 0);
        rc = dec_put(last.bytes, &op->u.put, e);
        op->u.put.key = store_txn_copy(t, op->u.put.key);
        op->u.put.value = store_txn_copy(t, op->u.put.value);
        return rc;
    case 3:
        op = store_txn_delete(t, ops, SPAN_EMPTY, SPAN_EMPTY);
        rc = dec_delete(last.bytes, &op->u.del, e);
        op->u.del.key = store_txn_copy(t, op->u.del.key);
        op->u.del.end = store_txn_copy(t, op->u.del.end);
        return rc;
    case 4: op = store_txn_nested(t, ops); return dec_txn(last.bytes, t, op->u.txn, depth + 1, e);
    default: break;
    }
    store_txn_range(t, ops, SPAN_EMPTY, SPAN_EMPTY)->kind = STORE_OP_NONE;
    return 0;
}

int dec_txn(struct span m, struct store_txn *t, struct store_body *b, unsigned depth,
            struct err *e) {
    struct wire_field f;
    int rc;
    if (depth > 128) {
        rc = err_set(e, ERR_INVALID, "%s", STORE_E_TOO_MANY_OPS);
        e->pub = STORE_E_TOO_MANY_OPS;
        return rc;
    }
    while ((rc = wire_next(&m, &f)) > 0) {
        int out = 0;
        if (f.no == 1) {
            out = dec_compare(f.bytes, t, b, e);
        } else if (f.no == 2 || f.no == 3) {
            out = dec_op(f.bytes, t, f.no == 2 ? &b->then : &b->els, depth, e);
        }
        if (out < 0) {
            return out;
        }
    }
    return rc < 0 ? dec_bad(e) : 0;
}

/* ---- responses ---- */

static void add_kv(struct buf *b, uint8_t no, const struct store_kv *kv, struct cuts *c) {
    if (kv->value.n < CUT_MIN) {
        enc_kv(b, no, kv);
        return;
    }
    enc_kv_front(b, no, kv);
    if (!cut(c, b, kv->value)) {
        buf_span(b, kv->value);
    }
    wire_i64(b, 6, kv->lease);
}

void enc_range_end(struct buf *b, const struct store_range_res *r) {
    wire_bool(b, 3, r->more);
    wire_i64(b, 4, r->count);
}

static void enc_inner_range(struct buf *b, const struct storesrv *v,
                            const struct store_range_res *r, struct cuts *c) {
    inner_header(b, v, r->rev, true);
    for (size_t i = 0; i < r->n; i++) {
        add_kv(b, 2, &r->kvs[i], c);
    }
    enc_range_end(b, r);
}

void enc_put(struct buf *b, const struct storesrv *v, const struct store_op *op, int64_t rev,
             bool inner, struct cuts *c) {
    inner_header(b, v, rev, inner);
    if (op->u.put.prev_kv && op->range.n) {
        add_kv(b, 2, &op->range.kvs[0], c);
    }
}

void enc_delete(struct buf *b, const struct storesrv *v, const struct store_op *op, int64_t rev,
                bool inner, struct cuts *c) {
    inner_header(b, v, rev, inner);
    wire_i64(b, 2, op->range.count);
    for (size_t i = 0; i < op->range.n; i++) {
        add_kv(b, 3, &op->range.kvs[i], c);
    }
}

void enc_txn(struct buf *b, const struct storesrv *v, const struct store_body *body, int64_t rev,
             bool inner, struct cuts *c) {
    if (inner) {
        size_t m = wire_begin(b, 1);
        wire_end(b, m);
    } else {
        enc_header(b, 1, v, rev);
    }
    wire_bool(b, 2, body->succeeded);
    const struct store_ops *ops = body->succeeded ? &body->then : &body->els;
    for (size_t i = 0; i < ops->n; i++) {
        const struct store_op *op = &ops->v[i];
        struct inside out = inside_begin(b, 3, c);
        struct inside in = inside_begin(b, (uint32_t)op->kind + 1, c);
        switch (op->kind) {
        case STORE_OP_RANGE: enc_inner_range(b, v, &op->range, c); break;
        case STORE_OP_PUT: enc_put(b, v, op, op->range.rev, true, c); break;
        case STORE_OP_DELETE: enc_delete(b, v, op, op->range.rev, true, c); break;
        case STORE_OP_TXN: enc_txn(b, v, op->u.txn, rev, true, c); break;
        case STORE_OP_NONE: break;
        }
        inside_end(b, c, in);
        inside_end(b, c, out);
    }
}
