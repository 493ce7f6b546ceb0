/* etcd's messages, as far as the runner speaks them. */
#include "internal/lin/lin_run.h"

#include "internal/base/rand.h"
#include "internal/wire/wire.h"

#include <stdlib.h>

enum { LIM_MESSAGE = 1 << 20 };
#define RPC_TIMEOUT (60 * NS_PER_S)

const struct http_header rpc_headers[2] = {
    {{(const uint8_t *)"content-type", 12}, {(const uint8_t *)"application/grpc", 16}},
    {{(const uint8_t *)"te", 2}, {(const uint8_t *)"trailers", 8}},
};

/* ---- calls ---- */

int64_t rpc_code(const struct http_call *c, int rc, struct span *ret_text) {
    *ret_text = SPAN_EMPTY;
    if (rc < 0) {
        return -1;
    }
    struct span status = http_call_trailer(c, "grpc-status");
    *ret_text = http_call_trailer(c, "grpc-message");
    if (!status.p) {
        status = http_call_header(c, "grpc-status");
        *ret_text = http_call_header(c, "grpc-message");
    }
    int64_t code;
    return span_to_i64(status, 0, 16, &code) < 0 ? -1 : code;
}

static void on_data(struct http_call *call, struct span data, void *ctx) {
    struct rpc *c = ctx;
    struct span msg;
    (void)call;
    if (grpc_feed(&c->in, data) < 0) {
        return;
    }
    while (grpc_next(&c->in, &msg) > 0) {
        struct wire_field f;
        if (c->pages) { /* what the pages hold is one answer in parts */
            while (wire_next(&msg, &f) > 0) {
                buf_span(&c->last, f.no == 1 ? f.bytes : SPAN_EMPTY);
            }
        } else if (!c->last.n) {
            buf_span(&c->last, msg);
        }
    }
}

static void on_end(struct http_call *call, int rc, const struct err *e, void *ctx) {
    struct rpc *c = ctx;
    struct span text;
    (void)e;
    int64_t code = rpc_code(call, rc, &text);
    if (code < 0 && e && e->code == ERR_TIMEOUT) {
        round_fail(c->r, "no answer within a minute");
    }
    if (code == 0 && !c->last.n) {
        round_fail(c->r, "an answer without a message");
    }
    c->call = NULL;
    rpc_done *done = c->done;
    struct buf last = c->last;
    buf_init(&c->last, LIM_MESSAGE);
    grpc_reader_fini(&c->in);
    done(c->ctx, code, text, buf_view(&last));
    buf_fini(&last);
}

void rpc_leave(struct rpc *c) {
    if (c->call) {
        http_call_cancel(TAKE(c->call));
        grpc_reader_fini(&c->in);
        buf_fini(&c->last);
    }
}

void rpc_start(struct rpc *c, struct round *r, struct http_client *hc, const char *path, int user,
               struct span msg, rpc_done *done, void *ctx) {
    struct http_header head[3];
    AUTO(buf) struct buf frame = BUF_INIT(LIM_MESSAGE);
    struct err e = ERR_INIT;
    *c = (struct rpc){.done = done,
                      .ctx = ctx,
                      .r = r,
                      .last = BUF_INIT(LIM_MESSAGE),
                      .pages = str_eq(path, RPC_RANGE_STREAM)};
    grpc_reader_init(&c->in);
    grpc_frame(&frame, msg);
    struct http_call_opts o = {.method = "POST",
                               .target = path,
                               .headers = head,
                               .n_headers = users_head(r, user, head),
                               .body = buf_view(&frame),
                               .timeout_ns = RPC_TIMEOUT,
                               .on_data = on_data,
                               .on_end = on_end,
                               .ctx = c};
    if (http_call_start(hc, &o, &c->call, &e) < 0) {
        round_fail(r, "starting a call: %s", e.msg);
    }
}

/* ---- keys and values ---- */

static void key_bytes(char dst[8], int32_t key) {
    CHECK(str_put(dst, 8, "k/%02d", key) == 0);
}

int32_t rpc_key(struct span s) {
    int64_t n;
    return s.n == 4 && span_to_i64(span_of(s.p + 2, 2), 0, LIM_LIN_KEYS - 1, &n) == 0 ? (int32_t)n
                                                                                      : 0;
}

/* A value is its number and filling that follows from it: most are short, some take several pages. */
static void value_bytes(struct buf *b, int64_t val) {
    uint64_t h = (uint64_t)val * 0x9e3779b97f4a7c15ull;
    bool large = (h >> 60) == 0 || (val > LIN_LARGE && (h >> 60) < 12);
    size_t fill = (size_t)(h >> 40) % (large ? 9000 : 60);
    buf_fmt(b, "v%lld.", (long long)val);
    for (size_t i = 0; i < fill; i++) {
        buf_u8(b, (uint8_t)('a' + (h >> (i % 32)) % 26));
    }
}

int64_t rpc_value(struct span s) {
    struct span digits, rest = s;
    int64_t val;
    AUTO(buf) struct buf want = BUF_INIT(LIM_MESSAGE);
    if (!s.n || s.p[0] != 'v' || span_skip(&rest, 1) < 0 || span_until(&rest, '.', &digits) < 0 ||
        span_to_i64(digits, 1, INT64_MAX, &val) < 0) {
        return -1;
    }
    value_bytes(&want, val);
    return span_eq(buf_view(&want), s) ? val : -1;
}

/* ---- requests ---- */

static void enc_span(struct buf *b, const struct lin_sub *s, uint32_t luck) {
    char key[8], end[8];
    key_bytes(key, s->lo);
    key_bytes(end, s->hi);
    wire_bytes(b, 1, span_str(key));
    if (s->hi != s->lo + 1 || (luck & 1)) {
        wire_bytes(b, 2, span_str(end));
    }
}

static void enc_sub(struct buf *b, const struct lin_sub *s, uint32_t luck) {
    if (s->what == '+') {
        char key[8];
        AUTO(buf) struct buf val = BUF_INIT(LIM_MESSAGE);
        key_bytes(key, s->lo);
        value_bytes(&val, s->val);
        wire_bytes(b, 1, span_str(key));
        wire_bytes(b, 2, buf_view(&val));
        wire_i64(b, 3, s->lease);
        wire_bool(b, 4, s->prev);
        return;
    }
    enc_span(b, s, luck);
    if (s->what == '-') {
        wire_bool(b, 3, s->prev);
        return;
    }
    wire_i64(b, 3, s->limit);
    wire_i64(b, 4, s->rev);
    wire_bool(b, 7, luck & 2);
    wire_bool(b, 9, s->count_only);
}

static void enc_cmp(struct buf *b, const struct lin_cmp *c) {
    char key[8];
    size_t m = wire_begin(b, 1);
    wire_u64(b, 1, c->how == '=' ? 0 : c->how == '>' ? 1 : c->how == '<' ? 2 : 3);
    wire_u64(b, 2,
             c->target == 'v'   ? 0
             : c->target == 'c' ? 1
             : c->target == 'm' ? 2
             : c->target == 'x' ? 3
                                : 4);
    key_bytes(key, c->key);
    wire_bytes(b, 3, span_str(key));
    if (c->target == 'x') {
        AUTO(buf) struct buf val = BUF_INIT(LIM_MESSAGE);
        value_bytes(&val, c->num);
        wire_bytes(b, 7, buf_view(&val));
    } else {
        wire_i64(b, c->target == 'v' ? 4 : c->target == 'c' ? 5 : c->target == 'm' ? 6 : 8, c->num);
    }
    wire_end(b, m);
}

static void enc_txn(struct buf *b, const struct lin_txn *t, uint32_t luck) {
    for (size_t i = 0; i < t->n_cmps; i++) {
        enc_cmp(b, &t->cmps[i]);
    }
    for (uint32_t k = 0; k < 2; k++) {
        for (size_t i = 0; i < t->n_subs[k]; i++) {
            const struct lin_sub *s = &t->subs[k][i];
            size_t m = wire_begin(b, 2 + k);
            size_t inner = wire_begin(b, s->what == ':'   ? 1
                                         : s->what == '+' ? 2
                                         : s->what == '-' ? 3
                                                          : 4);
            if (s->what == '(') {
                enc_txn(b, s->txn, luck);
            } else {
                enc_sub(b, s, luck);
            }
            wire_end(b, inner);
            wire_end(b, m);
        }
    }
}

const char *op_encode(struct buf *b, const struct lin_op *op, uint32_t luck) {
    const struct lin_sub *s = &op->t.subs[0][0];
    switch (op->kind) {
    case LIN_TXN:
        if (op->t.n_cmps || op->t.n_subs[0] != 1 || op->t.n_subs[1]) {
            enc_txn(b, &op->t, luck);
            return "/etcdserverpb.KV/Txn";
        }
        enc_sub(b, s, luck);
        if (s->what == ':' && (luck & RPC_PAGES)) {
            return RPC_RANGE_STREAM;
        }
        return s->what == '+'   ? "/etcdserverpb.KV/Put"
               : s->what == '-' ? "/etcdserverpb.KV/DeleteRange"
                                : "/etcdserverpb.KV/Range";
    case LIN_GRANT:
        wire_i64(b, 1, op->ttl);
        wire_i64(b, 2, op->lease);
        return "/etcdserverpb.Lease/LeaseGrant";
    case LIN_REVOKE: wire_i64(b, 1, op->lease); return "/etcdserverpb.Lease/LeaseRevoke";
    case LIN_KEEP: wire_i64(b, 1, op->lease); return "/etcdserverpb.Lease/LeaseKeepAlive";
    case LIN_TTL:
        wire_i64(b, 1, op->lease);
        wire_bool(b, 2, true);
        return "/etcdserverpb.Lease/LeaseTimeToLive";
    case LIN_COMPACTION:
        wire_i64(b, 1, op->num);
        wire_bool(b, 2, luck & 1);
        return "/etcdserverpb.KV/Compact";
    case LIN_HASHKV: wire_i64(b, 1, op->num); return "/etcdserverpb.Maintenance/HashKV";
    case LIN_ALLOW: return users_encode(b, op);
    }
    return NULL;
}

static void txn_call(struct buf *b, const struct lin_txn *t);

static void sub_text(struct buf *b, const struct lin_sub *s) {
    if (s->what == '(') {
        buf_str(b, " (");
        txn_call(b, s->txn);
        buf_str(b, " )");
        return;
    }
    if (s->what == '+') {
        buf_fmt(b, " +%d=%lld/%lld%s", s->lo, (long long)s->val, (long long)s->lease,
                s->prev ? "^" : "");
    } else if (s->what == '-') {
        buf_fmt(b, " -%d:%d%s", s->lo, s->hi, s->prev ? "^" : "");
    } else {
        buf_fmt(b, " :%d:%d@%lld#%lld%s", s->lo, s->hi, (long long)s->rev, (long long)s->limit,
                s->count_only ? "c" : "");
    }
}

static void txn_call(struct buf *b, const struct lin_txn *t) {
    for (size_t i = 0; i < t->n_cmps; i++) {
        const struct lin_cmp *c = &t->cmps[i];
        buf_fmt(b, " ?%c%d%c%lld", c->target, c->key, c->how, (long long)c->num);
    }
    for (int k = 0; k < 2; k++) {
        buf_str(b, k && t->n_subs[1] ? " else" : "");
        for (size_t i = 0; i < t->n_subs[k]; i++) {
            sub_text(b, &t->subs[k][i]);
        }
    }
}

void op_text(struct buf *b, const struct lin_op *op, const char *kind) {
    buf_fmt(b, "call %lld %d %s", (long long)op->id, op->client, kind);
    switch (op->kind) {
    case LIN_TXN: txn_call(b, &op->t); break;
    case LIN_GRANT: buf_fmt(b, " %lld %lld", (long long)op->lease, (long long)op->ttl); break;
    case LIN_REVOKE:
    case LIN_KEEP:
    case LIN_TTL: buf_fmt(b, " %lld", (long long)op->lease); break;
    case LIN_COMPACTION:
    case LIN_HASHKV: buf_fmt(b, " %lld", (long long)op->num); break;
    case LIN_ALLOW: buf_fmt(b, " %d %d %u", op->whom, op->slot, op->bits); break;
    }
    buf_u8(b, '\n');
}

/* ---- answers ---- */

static int64_t header_rev(struct span m) {
    struct wire_field f;
    int64_t rev = 0;
    while (wire_next(&m, &f) > 0) {
        rev = f.no == 3 ? (int64_t)f.v : rev;
    }
    return rev;
}

static void dec_kv(struct span m, struct lin_kv *k) {
    struct wire_field f;
    *k = (struct lin_kv){.val = -1};
    while (wire_next(&m, &f) > 0) {
        switch (f.no) {
        case 1: k->key = rpc_key(f.bytes); break;
        case 2: k->create = (int64_t)f.v; break;
        case 3: k->mod = (int64_t)f.v; break;
        case 4: k->version = (int64_t)f.v; break;
        case 5: k->val = rpc_value(f.bytes); break;
        case 6: k->lease = (int64_t)f.v; break;
        default: break;
        }
    }
}

void kv_text(struct buf *b, const struct lin_kv *k) {
    buf_fmt(b, "%d=%lld@%lld/%lld/%lld/%lld", k->key, (long long)k->val, (long long)k->create,
            (long long)k->mod, (long long)k->version, (long long)k->lease);
}

static void kv_line(struct buf *b, struct span m) {
    struct lin_kv k;
    dec_kv(m, &k);
    kv_text(b, &k);
}

/* Field numbers differ between the three answers. */
static void res_text(struct buf *b, char what, struct span m) {
    struct wire_field f;
    AUTO(buf) struct buf kvs = BUF_INIT(LIM_MESSAGE);
    int64_t count = 0, more = 0;
    uint32_t kv_no = what == '-' ? 3 : 2;
    while (wire_next(&m, &f) > 0) {
        if (f.no == kv_no) {
            buf_str(&kvs, what == '+' ? "" : ",");
            kv_line(&kvs, f.bytes);
        } else if ((what == '-' && f.no == 2) || (what == ':' && f.no == 4)) {
            count = (int64_t)f.v;
        } else if (what == ':' && f.no == 3) {
            more = (int64_t)f.v;
        }
    }
    buf_fmt(b, " %c", what);
    if (what != '+') {
        buf_fmt(b, "%lld", (long long)count);
    }
    if (what == ':') {
        buf_fmt(b, ",%lld", (long long)more);
    }
    buf_span(b, buf_view(&kvs));
}

static void txn_text(struct buf *b, struct span m) {
    struct wire_field f, r;
    int64_t ok = 0;
    AUTO(buf) struct buf res = BUF_INIT(LIM_MESSAGE);
    while (wire_next(&m, &f) > 0) {
        if (f.no == 2) {
            ok = (int64_t)f.v;
        } else if (f.no == 3) {
            struct span in = f.bytes;
            while (wire_next(&in, &r) > 0) {
                if (r.no == 4) {
                    buf_str(&res, " (");
                    txn_text(&res, r.bytes);
                    buf_str(&res, " )");
                } else {
                    res_text(&res, r.no == 1 ? ':' : r.no == 2 ? '+' : '-', r.bytes);
                }
            }
        }
    }
    buf_fmt(b, "%lld", (long long)ok);
    buf_span(b, buf_view(&res));
}

void op_answer(struct buf *b, const struct lin_op *op, const char *path, struct span msg) {
    struct wire_field f;
    struct span m = msg;
    int64_t rev = 0, v[5] = {0};
    AUTO(buf) struct buf keys = BUF_INIT(4096);
    while (wire_next(&m, &f) > 0) {
        if (f.no == 1) {
            rev = header_rev(f.bytes);
        } else if (f.no < 5) {
            v[f.no] = (int64_t)f.v;
        } else if (op->kind == LIN_TTL && f.no == 5) {
            buf_fmt(&keys, " %d", rpc_key(f.bytes));
        }
    }
    if ((op->kind == LIN_KEEP && v[3] <= 0) || (op->kind == LIN_TTL && v[3] < 0)) {
        buf_fmt(b, "ret %lld err 5 no such lease\n", (long long)op->id);
        return;
    }
    buf_fmt(b, "ret %lld ok %lld", (long long)op->id, (long long)rev);
    if (op->kind == LIN_TTL) {
        buf_str(b, " ttl");
        buf_span(b, buf_view(&keys));
    } else if (op->kind == LIN_HASHKV) {
        buf_fmt(b, " hash %lld %lld %lld", (long long)v[2], (long long)v[3],
                (long long)(v[4] ? v[4] : op->num));
    } else if (op->kind == LIN_TXN && span_ends(span_str(path), "Txn")) {
        buf_u8(b, ' ');
        txn_text(b, msg);
    } else if (op->kind == LIN_TXN) {
        buf_str(b, " 1");
        res_text(b, op->t.subs[0][0].what, msg);
    }
    buf_u8(b, '\n');
}

/* ---- watches ---- */

void watch_encode(struct buf *b, const struct lin_watch *w, bool progress, bool fragment) {
    char key[8], end[8];
    size_t m = wire_begin(b, 1);
    key_bytes(key, w->lo);
    key_bytes(end, w->hi);
    wire_bytes(b, 1, span_str(key));
    wire_bytes(b, 2, span_str(end));
    wire_i64(b, 3, w->start);
    wire_bool(b, 4, progress);
    uint8_t filters[2];
    size_t n = 0;
    for (uint8_t i = 0; i < 2; i++) {
        if (w->filters & 1u << i) {
            filters[n++] = i;
        }
    }
    wire_bytes(b, 5, span_of(filters, n));
    wire_bool(b, 6, w->prev);
    wire_i64(b, 7, w->id);
    wire_bool(b, 8, fragment);
    wire_end(b, m);
}

static void event_text(struct buf *b, struct span m, int64_t *ret_mod) {
    struct wire_field f;
    bool deleted = false;
    struct span kv = SPAN_EMPTY, prev = SPAN_EMPTY;
    while (wire_next(&m, &f) > 0) {
        if (f.no == 1) {
            deleted = f.v == 1;
        } else if (f.no == 2) {
            kv = f.bytes;
        } else if (f.no == 3) {
            prev = f.bytes;
        }
    }
    struct lin_kv k;
    dec_kv(kv, &k);
    *ret_mod = k.mod;
    if (deleted) {
        buf_fmt(b, " -%d@%lld", k.key, (long long)k.mod);
    } else {
        buf_str(b, " +");
        kv_line(b, kv);
    }
    if (prev.p) {
        buf_u8(b, '^');
        kv_line(b, prev);
    }
}

int watch_lines(struct buf *b, struct span msg, int64_t stream, int64_t watch,
                struct watch_news *ret) {
    struct wire_field f;
    struct watch_news n = {0};
    AUTO(buf) struct buf events = BUF_INIT(64 << 20);
    int64_t compacted = 0, mod = 0;
    bool fragment = false;
    int rc;
    while ((rc = wire_next(&msg, &f)) > 0) {
        switch (f.no) {
        case 1: n.rev = header_rev(f.bytes); break;
        case 2: n.id = (int64_t)f.v; break;
        case 3: n.created = f.v != 0; break;
        case 4: n.canceled = f.v != 0; break;
        case 5: compacted = (int64_t)f.v; break;
        case 7: fragment = f.v != 0; break;
        case 11: event_text(&events, f.bytes, &mod); break;
        default: break;
        }
    }
    long long rev = (long long)n.rev, id = (long long)watch;
    if (events.n) {
        n.next = fragment ? 0 : mod + 1; /* parts without their end are given again */
        buf_fmt(b, "ev %lld %lld %d", id, rev, fragment);
        buf_span(b, buf_view(&events));
        buf_u8(b, '\n');
    } else if (n.canceled) {
        buf_fmt(b, "cancel %lld %lld\n", id, (long long)compacted);
    } else if (n.created) {
        buf_fmt(b, "created %lld %lld\n", id, rev);
    } else {
        n.progress = true;
        n.next = n.rev + 1;
        buf_fmt(b, n.id < 0 ? "told %lld %lld\n" : "progress %lld %lld\n",
                n.id < 0 ? (long long)stream : id, rev);
    }
    *ret = n;
    return rc;
}
