/* etcd's messages from the client's side; field numbers as in etcdserverpb and mvccpb. */
#include "internal/etcd/etcd_int.h"

#include "internal/wire/wire.h"

static bool is_zero(struct span s) {
    return s.n == 1 && s.p[0] == 0;
}

/* ---- requests ---- */

void etcd_enc_key(struct buf *b, uint32_t no, const struct names *ns, struct span key) {
    buf_varint(b, (uint64_t)no << 3 | WIRE_BYTES);
    buf_varint(b, ns->prefix.n + key.n);
    buf_span(b, ns->prefix);
    buf_span(b, key);
}

/* With rooted names, what lies outside of "/…" is somebody else's: intervals are cut to it. */
static bool is_before_root(const struct names *ns, struct span key) {
    return ns->rooted && (!key.n || key.p[0] < '/');
}
static bool is_behind_root(const struct names *ns, struct span end) {
    return ns->rooted && (is_zero(end) || end.p[0] > '/');
}

static void enc_interval(struct buf *b, uint32_t no_key, uint32_t no_end, const struct names *ns,
                         struct span key, struct span end) {
    if (end.n && is_before_root(ns, key)) {
        wire_bytes_always(b, no_key, ns->first);
    } else {
        etcd_enc_key(b, no_key, ns, key);
    }
    if (is_zero(end) || (end.n && is_behind_root(ns, end))) {
        wire_bytes_always(b, no_end, ns->end); /* everything behind the key, of ours */
    } else if (end.n && is_before_root(ns, end)) {
        wire_bytes_always(b, no_end, ns->first); /* nothing */
    } else if (end.n) {
        etcd_enc_key(b, no_end, ns, end);
    }
}

void etcd_enc_range(struct buf *b, const struct names *ns, const struct store_range_req *q) {
    enc_interval(b, 1, 2, ns, q->key, q->end);
    wire_i64(b, 3, q->limit);
    wire_i64(b, 4, q->rev);
    wire_u64(b, 5, q->order);
    wire_u64(b, 6, q->by);
    wire_bool(b, 8, q->keys_only);
    wire_bool(b, 9, q->count_only);
    wire_i64(b, 10, q->min_mod);
    wire_i64(b, 11, q->max_mod);
    wire_i64(b, 12, q->min_create);
    wire_i64(b, 13, q->max_create);
}

static void enc_cmp(struct buf *b, const struct names *ns, const struct store_cmp *c) {
    static const uint32_t field[] = {4, 5, 6, 7, 8}; /* by target */
    size_t m = wire_begin(b, 1);
    wire_u64(b, 1, c->result);
    wire_u64(b, 2, c->target);
    enc_interval(b, 3, 64, ns, c->key, c->end);
    if (c->target == STORE_T_VALUE) {
        wire_bytes_always(b, field[c->target], c->value);
    } else {
        wire_i64(b, field[c->target], c->num);
    }
    wire_end(b, m);
}

static void enc_op(struct buf *b, const struct names *ns, const struct store_op *op) {
    if (op->kind == STORE_OP_NONE) {
        return;
    }
    size_t m = wire_begin(b, (uint32_t)op->kind + 1);
    switch (op->kind) {
    case STORE_OP_RANGE: etcd_enc_range(b, ns, &op->u.range); break;
    case STORE_OP_PUT:
        etcd_enc_key(b, 1, ns, op->u.put.key);
        wire_bytes(b, 2, op->u.put.value);
        wire_i64(b, 3, op->u.put.lease);
        wire_bool(b, 4, op->u.put.prev_kv);
        wire_bool(b, 5, op->u.put.ignore_value);
        wire_bool(b, 6, op->u.put.ignore_lease);
        break;
    case STORE_OP_DELETE:
        enc_interval(b, 1, 2, ns, op->u.del.key, op->u.del.end);
        wire_bool(b, 3, op->u.del.prev_kv);
        break;
    case STORE_OP_TXN: etcd_enc_txn(b, ns, op->u.txn); break;
    case STORE_OP_NONE: break;
    }
    wire_end(b, m);
}

static void enc_ops(struct buf *b, uint32_t no, const struct names *ns,
                    const struct store_ops *ops) {
    for (size_t i = 0; i < ops->n; i++) {
        size_t m = wire_begin(b, no);
        enc_op(b, ns, &ops->v[i]);
        wire_end(b, m);
    }
}

void etcd_enc_txn(struct buf *b, const struct names *ns, const struct store_body *body) {
    for (size_t i = 0; i < body->n_cmps; i++) {
        enc_cmp(b, ns, &body->cmps[i]);
    }
    enc_ops(b, 2, ns, &body->then);
    enc_ops(b, 3, ns, &body->els);
}

/* The whole prefix, with a sign of life when nothing happens, large revisions in pieces. */
void etcd_enc_watch_create(struct buf *b, const struct names *ns, int64_t start_rev, bool prev_kv) {
    size_t m = wire_begin(b, 1);
    wire_bytes(b, 1, ns->first);
    wire_bytes(b, 2, ns->end);
    wire_i64(b, 3, start_rev);
    wire_bool(b, 4, true);
    wire_bool(b, 6, prev_kv);
    wire_bool(b, 8, true);
    wire_end(b, m);
}

/* ---- answers ---- */

static int etcd_dec_head(struct span m, struct answer_head *ret) {
    struct wire_field f;
    struct answer_head h = {0};
    int rc;
    while ((rc = wire_next(&m, &f)) > 0) {
        switch (f.no) {
        case 1: h.cluster_id = f.v; break;
        case 2: h.member_id = f.v; break;
        case 3: h.rev = (int64_t)f.v; break;
        default: break;
        }
    }
    if (rc < 0 || h.rev < 0) {
        return -ERR_INVALID;
    }
    *ret = h;
    return 0;
}

/* A view of the message; the key loses its prefix. */
static int dec_kv(struct span m, const struct names *ns, struct store_kv *ret) {
    struct wire_field f;
    struct store_kv kv = {0};
    struct span skipped;
    int rc;
    while ((rc = wire_next(&m, &f)) > 0) {
        switch (f.no) {
        case 1: kv.key = f.bytes; break;
        case 2: kv.create_rev = (int64_t)f.v; break;
        case 3: kv.mod_rev = (int64_t)f.v; break;
        case 4: kv.version = (int64_t)f.v; break;
        case 5: kv.value = f.bytes; break;
        case 6: kv.lease = (int64_t)f.v; break;
        default: break;
        }
    }
    if (rc < 0 || kv.key.n < ns->prefix.n ||
        !span_eq(span_of(kv.key.p, ns->prefix.n), ns->prefix) || kv.mod_rev < 0) {
        return -ERR_INVALID;
    }
    IGNORE_ERR(span_take(&kv.key, ns->prefix.n, &skipped), "compared above");
    *ret = kv;
    return 0;
}

static int copy_kv(struct arena *a, struct store_kv *kv) {
    kv->key = arena_copy(a, kv->key);
    kv->value = arena_copy(a, kv->value);
    return !kv->key.p || !kv->value.p ? -ERR_LIMIT : 0;
}

static int count_fields(struct span m, uint32_t no, size_t *ret) {
    struct wire_field f;
    int rc;
    *ret = 0;
    while ((rc = wire_next(&m, &f)) > 0) {
        *ret += f.no == no;
    }
    return rc;
}

/* The key-value pairs of field `no`. */
static int dec_kvs(struct span m, uint32_t no, const struct names *ns, struct arena *a,
                   struct store_range_res *ret) {
    struct wire_field f;
    size_t n = 0;
    size_t bytes;
    if (count_fields(m, no, &n) < 0) {
        return -ERR_INVALID;
    }
    if (n == 0) {
        return 0;
    }
    struct store_kv *kvs = ck_mul(n, sizeof(*kvs), &bytes) ? NULL : arena_alloc(a, bytes);
    if (!kvs) {
        return -ERR_LIMIT;
    }
    for (size_t i = 0; i < n && wire_next(&m, &f) > 0;) {
        if (f.no != no) {
            continue;
        }
        int rc = dec_kv(f.bytes, ns, &kvs[i]);
        if (rc == 0) {
            rc = copy_kv(a, &kvs[i]);
        }
        if (rc < 0) {
            return rc;
        }
        i++;
    }
    ret->kvs = kvs;
    ret->n = n;
    return 0;
}

int etcd_dec_range(struct span m, const struct names *ns, struct arena *a,
                   struct store_range_res *ret) {
    struct span rest = m;
    struct wire_field f;
    struct store_range_res r = {0};
    struct answer_head h = {0};
    int rc;
    while ((rc = wire_next(&rest, &f)) > 0) {
        switch (f.no) {
        case 1:
            if (etcd_dec_head(f.bytes, &h) < 0) {
                return -ERR_INVALID;
            }
            break;
        case 3: r.more = f.v != 0; break;
        case 4: r.count = (int64_t)f.v; break;
        default: break;
        }
    }
    r.rev = h.rev;
    rc = rc < 0 ? -ERR_INVALID : dec_kvs(m, 2, ns, a, &r);
    if (rc == 0) {
        *ret = r;
    }
    return rc;
}

static int dec_put(struct span m, const struct names *ns, struct arena *a,
                   struct store_range_res *ret) {
    return dec_kvs(m, 2, ns, a, ret);
}

static int dec_delete(struct span m, const struct names *ns, struct arena *a,
                      struct store_range_res *ret) {
    struct span rest = m;
    struct wire_field f;
    int rc;
    while ((rc = wire_next(&rest, &f)) > 0) {
        if (f.no == 2) {
            ret->count = (int64_t)f.v;
        }
    }
    return rc < 0 ? -ERR_INVALID : dec_kvs(m, 3, ns, a, ret);
}

static int dec_body(struct span m, const struct names *ns, struct arena *a, struct store_body *body,
                    int64_t rev);

/* The answer to one operation: a message with one member, whose number tells the kind. */
static int dec_op(struct span m, const struct names *ns, struct arena *a, struct store_op *op,
                  int64_t rev) {
    struct wire_field f;
    struct wire_field last = {0};
    int rc;
    while ((rc = wire_next(&m, &f)) > 0) {
        if (f.no >= 1 && f.no <= 4 && f.wire == WIRE_BYTES) {
            last = f;
        }
    }
    if (rc < 0 || last.no != (uint32_t)op->kind + 1) {
        return -ERR_INVALID;
    }
    struct store_range_res r = {0};
    switch (op->kind) {
    case STORE_OP_RANGE: rc = etcd_dec_range(last.bytes, ns, a, &r); break;
    case STORE_OP_PUT: rc = dec_put(last.bytes, ns, a, &r); break;
    case STORE_OP_DELETE: rc = dec_delete(last.bytes, ns, a, &r); break;
    case STORE_OP_TXN: return dec_body(last.bytes, ns, a, op->u.txn, rev);
    case STORE_OP_NONE: rc = -ERR_INVALID; break; /* etcd refuses the whole transaction */
    }
    if (rc == 0) {
        r.rev = rev;
        op->range = r;
    }
    return rc;
}

/* Recursion is as deep as the body, which was built here. */
static int dec_body(struct span m, const struct names *ns, struct arena *a, struct store_body *body,
                    int64_t rev) {
    struct span rest = m;
    struct wire_field f;
    size_t at = 0;
    int rc;
    body->succeeded = false;
    while ((rc = wire_next(&rest, &f)) > 0) {
        body->succeeded = f.no == 2 ? f.v != 0 : body->succeeded;
    }
    struct store_ops *ops = body->succeeded ? &body->then : &body->els;
    while (rc >= 0 && (rc = wire_next(&m, &f)) > 0) {
        if (f.no == 3) {
            rc = at == ops->n ? -ERR_INVALID : dec_op(f.bytes, ns, a, &ops->v[at++], rev);
        }
    }
    return rc < 0 ? rc : at != ops->n ? -ERR_INVALID : 0;
}

int etcd_dec_first_head(struct span m, struct answer_head *ret) {
    struct wire_field f;
    int rc;
    while ((rc = wire_next(&m, &f)) > 0) {
        if (f.no == 1) {
            return etcd_dec_head(f.bytes, ret);
        }
    }
    *ret = (struct answer_head){0};
    return rc < 0 ? -ERR_INVALID : 0;
}

int etcd_dec_txn(struct span m, const struct names *ns, struct arena *a, struct store_body *body,
                 int64_t *ret_rev) {
    struct answer_head h;
    int rc = etcd_dec_first_head(m, &h);
    rc = rc < 0 ? rc : dec_body(m, ns, a, body, h.rev);
    if (rc == 0) {
        *ret_rev = h.rev;
    }
    return rc;
}

bool etcd_body_changed(const struct store_body *b) {
    const struct store_ops *ops = b->succeeded ? &b->then : &b->els;
    for (size_t i = 0; i < ops->n; i++) {
        const struct store_op *op = &ops->v[i];
        if (op->kind == STORE_OP_PUT || (op->kind == STORE_OP_DELETE && op->range.count > 0) ||
            (op->kind == STORE_OP_TXN && etcd_body_changed(op->u.txn))) {
            return true;
        }
    }
    return false;
}

int etcd_dec_watch(struct span m, struct watch_answer *ret) {
    struct span rest = m;
    struct wire_field f;
    struct watch_answer w = {.events = m};
    int rc;
    while ((rc = wire_next(&rest, &f)) > 0) {
        switch (f.no) {
        case 1:
            if (etcd_dec_head(f.bytes, &w.head) < 0) {
                return -ERR_INVALID;
            }
            break;
        case 2: w.watch_id = (int64_t)f.v; break;
        case 3: w.created = f.v != 0; break;
        case 4: w.canceled = f.v != 0; break;
        case 5: w.compact_rev = (int64_t)f.v; break;
        case 6: w.reason = f.bytes; break;
        case 7: w.fragment = f.v != 0; break;
        case 11: w.has_events = true; break;
        default: break;
        }
    }
    if (rc < 0 || w.compact_rev < 0) {
        return -ERR_INVALID;
    }
    *ret = w;
    return 0;
}

static int dec_event(struct span m, const struct names *ns, struct store_event *ret) {
    struct wire_field f;
    struct store_event ev = {0};
    bool has_kv = false;
    int rc;
    while ((rc = wire_next(&m, &f)) > 0) {
        if (f.no == 1) {
            ev.type = f.v == 1 ? STORE_DELETE : STORE_PUT;
        } else if (f.no == 2 || f.no == 3) {
            if (dec_kv(f.bytes, ns, f.no == 2 ? &ev.kv : &ev.prev) < 0) {
                return -ERR_INVALID;
            }
            has_kv |= f.no == 2;
            ev.has_prev |= f.no == 3;
        }
    }
    if (rc < 0 || !has_kv) {
        return -ERR_INVALID;
    }
    *ret = ev;
    return 0;
}

int etcd_dec_events(struct span m, const struct names *ns, etcd_event_cb *cb, void *ctx) {
    struct wire_field f;
    int rc;
    while ((rc = wire_next(&m, &f)) > 0) {
        struct store_event ev;
        if (f.no != 11) {
            continue;
        }
        rc = dec_event(f.bytes, ns, &ev);
        if (rc == 0) {
            rc = cb(ctx, &ev);
        }
        if (rc < 0) {
            return rc;
        }
    }
    return rc;
}

int etcd_dec_status(struct span m, struct status_answer *ret) {
    struct wire_field f;
    struct status_answer s = {0};
    int rc;
    while ((rc = wire_next(&m, &f)) > 0) {
        switch (f.no) {
        case 1:
            if (etcd_dec_head(f.bytes, &s.head) < 0) {
                return -ERR_INVALID;
            }
            break;
        case 2: s.version = f.bytes; break;
        case 3: s.db_bytes = f.v; break;
        case 9: s.in_use_bytes = f.v; break;
        default: break;
        }
    }
    if (rc < 0) {
        return -ERR_INVALID;
    }
    *ret = s;
    return 0;
}

int etcd_dec_grant(struct span m, int64_t *ret_id, int64_t *ret_ttl, struct span *ret_error) {
    struct wire_field f;
    int64_t id = 0;
    int64_t ttl = 0;
    struct span error = SPAN_EMPTY;
    int rc;
    while ((rc = wire_next(&m, &f)) > 0) {
        switch (f.no) {
        case 2: id = (int64_t)f.v; break;
        case 3: ttl = (int64_t)f.v; break;
        case 4: error = f.bytes; break;
        default: break;
        }
    }
    if (rc < 0) {
        return -ERR_INVALID;
    }
    *ret_id = id;
    *ret_ttl = ttl;
    *ret_error = error;
    return 0;
}
