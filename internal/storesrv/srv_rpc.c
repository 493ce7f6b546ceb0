/* gRPC calls on HTTP/2 requests: messages in, messages out, the status in trailers. */
#include "internal/storesrv/srv_int.h"

#include "internal/net/net.h"

#include <stdlib.h>

enum { SPARE_MAX = 32 * 1024, BLOB_MIN = 512 };

static const struct method methods[] = {
    {SPAN_LIT("/etcdserverpb.KV/Range"), kv_range, NULL, NULL, false},
    {SPAN_LIT("/etcdserverpb.KV/RangeStream"), kv_range_stream, NULL, NULL, false},
    {SPAN_LIT("/etcdserverpb.KV/Put"), kv_put, NULL, NULL, false},
    {SPAN_LIT("/etcdserverpb.KV/DeleteRange"), kv_delete, NULL, NULL, false},
    {SPAN_LIT("/etcdserverpb.KV/Txn"), kv_txn, NULL, NULL, false},
    {SPAN_LIT("/etcdserverpb.KV/Compact"), kv_compact, NULL, NULL, false},
    {SPAN_LIT("/etcdserverpb.Watch/Watch"), watch_message, watch_start, watch_end, true},
    {SPAN_LIT("/etcdserverpb.Lease/LeaseGrant"), lease_grant, NULL, NULL, false},
    {SPAN_LIT("/etcdserverpb.Lease/LeaseRevoke"), lease_revoke, NULL, NULL, false},
    {SPAN_LIT("/etcdserverpb.Lease/LeaseKeepAlive"), lease_keepalive, NULL, stream_end, true},
    {SPAN_LIT("/etcdserverpb.Lease/LeaseTimeToLive"), lease_ttl, NULL, NULL, false},
    {SPAN_LIT("/etcdserverpb.Lease/LeaseLeases"), lease_list, NULL, NULL, false},
    {SPAN_LIT("/etcdserverpb.Maintenance/Alarm"), maint_alarm, NULL, NULL, false},
    {SPAN_LIT("/etcdserverpb.Maintenance/Status"), maint_status, NULL, NULL, false},
    {SPAN_LIT("/etcdserverpb.Maintenance/Defragment"), maint_defrag, NULL, NULL, false},
    {SPAN_LIT("/etcdserverpb.Maintenance/Hash"), maint_hash, NULL, NULL, false},
    {SPAN_LIT("/etcdserverpb.Maintenance/HashKV"), maint_hashkv, NULL, NULL, false},
    {SPAN_LIT("/etcdserverpb.Maintenance/Snapshot"), maint_snapshot, NULL, NULL, false},
    {SPAN_LIT("/etcdserverpb.Maintenance/MoveLeader"), maint_move_leader, NULL, NULL, false},
    {SPAN_LIT("/etcdserverpb.Maintenance/Downgrade"), maint_downgrade, NULL, NULL, false},
    {SPAN_LIT("/etcdserverpb.Cluster/MemberList"), cluster_list, NULL, NULL, false},
    {SPAN_LIT("/etcdserverpb.Cluster/MemberAdd"), cluster_refuse, NULL, NULL, false},
    {SPAN_LIT("/etcdserverpb.Cluster/MemberRemove"), cluster_refuse, NULL, NULL, false},
    {SPAN_LIT("/etcdserverpb.Cluster/MemberUpdate"), cluster_refuse, NULL, NULL, false},
    {SPAN_LIT("/etcdserverpb.Cluster/MemberPromote"), cluster_refuse, NULL, NULL, false},
    {SPAN_LIT("/v3lockpb.Lock/Lock"), lock_lock, NULL, NULL, false},
    {SPAN_LIT("/v3lockpb.Lock/Unlock"), lock_unlock, NULL, NULL, false},
    {SPAN_LIT("/v3electionpb.Election/Campaign"), election_campaign, NULL, NULL, false},
    {SPAN_LIT("/v3electionpb.Election/Proclaim"), election_proclaim, NULL, NULL, false},
    {SPAN_LIT("/v3electionpb.Election/Leader"), election_leader, NULL, NULL, false},
    {SPAN_LIT("/v3electionpb.Election/Observe"), election_observe, NULL, NULL, false},
    {SPAN_LIT("/v3electionpb.Election/Resign"), election_resign, NULL, NULL, false},
    {SPAN_LIT("/etcdserverpb.Auth/AuthEnable"), auth_enable, NULL, NULL, false},
    {SPAN_LIT("/etcdserverpb.Auth/AuthDisable"), auth_disable, NULL, NULL, false},
    {SPAN_LIT("/etcdserverpb.Auth/AuthStatus"), auth_status, NULL, NULL, false},
    {SPAN_LIT("/etcdserverpb.Auth/Authenticate"), auth_authenticate, NULL, NULL, false},
    {SPAN_LIT("/etcdserverpb.Auth/UserAdd"), auth_user_add, NULL, NULL, false},
    {SPAN_LIT("/etcdserverpb.Auth/UserGet"), auth_user_get, NULL, NULL, false},
    {SPAN_LIT("/etcdserverpb.Auth/UserList"), auth_user_list, NULL, NULL, false},
    {SPAN_LIT("/etcdserverpb.Auth/UserDelete"), auth_user_delete, NULL, NULL, false},
    {SPAN_LIT("/etcdserverpb.Auth/UserChangePassword"), auth_user_password, NULL, NULL, false},
    {SPAN_LIT("/etcdserverpb.Auth/UserGrantRole"), auth_user_grant, NULL, NULL, false},
    {SPAN_LIT("/etcdserverpb.Auth/UserRevokeRole"), auth_user_revoke, NULL, NULL, false},
    {SPAN_LIT("/etcdserverpb.Auth/RoleAdd"), auth_role_add, NULL, NULL, false},
    {SPAN_LIT("/etcdserverpb.Auth/RoleGet"), auth_role_get, NULL, NULL, false},
    {SPAN_LIT("/etcdserverpb.Auth/RoleList"), auth_role_list, NULL, NULL, false},
    {SPAN_LIT("/etcdserverpb.Auth/RoleDelete"), auth_role_delete, NULL, NULL, false},
    {SPAN_LIT("/etcdserverpb.Auth/RoleGrantPermission"), auth_role_grant, NULL, NULL, false},
    {SPAN_LIT("/etcdserverpb.Auth/RoleRevokePermission"), auth_role_revoke, NULL, NULL, false},
};

_Static_assert(ARRAY_LEN(methods) <= LIM_METHODS, "room to count them");

const struct method *srv_method_at(size_t i) {
    return i < ARRAY_LEN(methods) ? &methods[i] : NULL;
}

const struct method *srv_method(struct span path) {
    for (size_t i = 0; i < ARRAY_LEN(methods); i++) {
        if (span_eq(path, methods[i].path)) {
            return &methods[i];
        }
    }
    return NULL;
}

/* ---- life of a call ---- */

struct rpc *rpc_ref(struct rpc *c) {
    c->refs++;
    return c;
}

void rpc_unref(struct rpc *c) {
    if (--c->refs == 0) {
        list_del(&c->link);
        c->v->n_rpcs--;
        grpc_reader_fini(&c->in);
        arena_fini(&c->a);
        pool_put(loop_pool(c->v->l), c);
    }
}

bool rpc_open(const struct rpc *c) {
    return c->r && !c->finished;
}

size_t rpc_pending(const struct rpc *c) {
    return c->r ? http_pending(c->r) : 0;
}

static void drop(struct rpc *c) {
    void (*fn)(struct rpc *) = c->drop;
    c->drop = NULL;
    c->drain = NULL;
    if (fn) {
        fn(c);
    }
}

static const struct http_header grpc_head[] = {
    {SPAN_LIT(":status"), SPAN_LIT("200")},
    {SPAN_LIT("content-type"), SPAN_LIT("application/grpc")}};
static const struct http_header grpc_ok[] = {{SPAN_LIT("grpc-status"), SPAN_LIT("0")}};

static void begin(struct rpc *c) {
    if (!c->head_sent) {
        c->head_sent = true;
        http_begin_constant(c->r, grpc_head, ARRAY_LEN(grpc_head));
    }
}

/* Most answers are short and gone before the next is made: they share one piece of memory. */
struct buf rpc_buf(struct rpc *c) {
    struct buf b = c->v->spare;
    buf_init(&c->v->spare, 0);
    b.max = (size_t)1 << 31;
    IGNORE_ERR(grpc_begin(&b), "the mark is always the frame's head");
    return b;
}

static void rpc_buf_done(struct rpc *c, struct buf *b) {
    if (b->cap > SPARE_MAX || c->v->spare.p) {
        buf_fini(b);
    } else {
        buf_reset(b);
        c->v->spare = *b;
    }
}

static bool write_frame(struct rpc *c, struct buf *b) {
    grpc_end(b, 5);
    bool ok = buf_ok(b) == 0;
    if (ok && rpc_open(c) && c->route) {
        struct span m = buf_view(b);
        IGNORE_ERR(span_skip(&m, 5), "the frame's head");
        gateway_send(c, m);
    } else if (ok && rpc_open(c)) {
        begin(c);
        if (b->n > SPARE_MAX) {
            size_t n;
            void *p = buf_take(b, &n);
            http_write_take(c->r, p, n);
        } else {
            http_write(c->r, buf_view(b));
        }
    }
    rpc_buf_done(c, b);
    return ok;
}

void rpc_send(struct rpc *c, struct buf *own_b) {
    if (!write_frame(c, own_b)) {
        rpc_status(c, 8, "etcdserver: answer is too large");
    }
}

void rpc_send_blobs(struct rpc *c, struct buf *own_b, struct net_blob *const *rest, size_t n) {
    size_t all = 0;
    for (size_t i = 0; i < n; i++) {
        all += rest[i]->n;
    }
    if (c->route || all < BLOB_MIN) {
        for (size_t i = 0; i < n; i++) {
            buf_add(own_b, rest[i]->p, rest[i]->n);
        }
        rpc_send(c, own_b);
        return;
    }
    grpc_end_with(own_b, 5, all);
    if (rpc_open(c)) {
        begin(c);
        http_write(c->r, buf_view(own_b));
        for (size_t i = 0; i < n; i++) {
            http_write_blob(c->r, rest[i]);
        }
    }
    rpc_buf_done(c, own_b);
}

void rpc_drop(struct rpc *c, struct buf *own_b) {
    rpc_buf_done(c, own_b);
}

void rpc_status(struct rpc *c, unsigned status, const char *text) {
    if (!rpc_open(c)) {
        return;
    }
    c->finished = true;
    c->v->calls[c->m - methods].ended[status < GRPC_CODES ? status : 2]++;
    if (c->route) {
        gateway_status(c, status, text);
        drop(c);
        return;
    }
    begin(c);
    if (!status) {
        http_end_constant(c->r, grpc_ok, ARRAY_LEN(grpc_ok));
        drop(c);
        return;
    }
    const char digits[2] = {(char)('0' + status / 10), (char)('0' + status % 10)};
    AUTO(buf) struct buf msg = BUF_INIT(8192);
    IGNORE_ERR(grpc_message(&msg, span_str(text)), "texts are short");
    struct http_header t[] = {
        {SPAN_LIT("grpc-status"), span_of(digits + (status < 10), 1 + (status >= 10))},
        {SPAN_LIT("grpc-message"), buf_view(&msg)}};
    http_end_trailers(c->r, t, msg.n ? 2 : 1);
    drop(c);
}

void rpc_reply(struct rpc *c, struct buf *own_b) {
    if (write_frame(c, own_b)) {
        rpc_status(c, 0, "");
    } else {
        rpc_status(c, 8, "etcdserver: answer is too large");
    }
}

/* ---- values that are sent from the transaction they were read by ---- */

struct lent {
    struct store_txn *t;
    size_t refs;
};
struct lent_value {
    struct net_blob blob; /* first */
    struct lent *from;
};

static void lent_back(struct lent *l) {
    if (--l->refs == 0) {
        store_txn_free(l->t);
        free(l);
    }
}

static void value_sent(struct net_blob *b) {
    struct lent_value *v = CONTAINER_OF(b, struct lent_value, blob);
    lent_back(v->from);
    free(v);
}

static void write_value(struct rpc *c, struct lent *l, struct span value) {
    struct lent_value *v = new_zero(struct lent_value);
    *v = (struct lent_value){{1, value.n, (uint8_t *)(uintptr_t)value.p, value_sent}, l};
    l->refs++;
    http_write_blob(c->r, &v->blob);
    net_blob_unref(&v->blob);
}

static void join_cuts(struct buf *to, struct span made, const struct cuts *cuts) {
    size_t at = 5; /* has a frame's head of its own */
    for (size_t i = 0; i < cuts->n; i++) {
        buf_add(to, made.p + at, cuts->v[i].at - at);
        buf_span(to, cuts->v[i].value);
        at = cuts->v[i].at;
    }
    buf_add(to, made.p + at, made.n - at);
}

void rpc_reply_cuts(struct rpc *c, struct buf *own_b, const struct cuts *cuts,
                    struct store_txn *own_t) {
    size_t at = 0;
    struct span made = buf_view(own_b);
    struct lent *l = new_zero(struct lent);
    *l = (struct lent){own_t, 1};
    if (buf_ok(own_b) < 0 || made.n + cuts->bytes > own_b->max) {
        rpc_status(c, 8, "etcdserver: answer is too large");
    } else if (c->route) {
        struct buf all = rpc_buf(c);
        join_cuts(&all, made, cuts);
        rpc_reply(c, &all);
    } else if (rpc_open(c)) {
        grpc_end_with(own_b, 5, cuts->bytes);
        begin(c);
        for (size_t i = 0; i < cuts->n; i++) {
            http_write(c->r, span_of(made.p + at, cuts->v[i].at - at));
            write_value(c, l, cuts->v[i].value);
            at = cuts->v[i].at;
        }
        http_write(c->r, span_of(made.p + at, made.n - at));
        rpc_end(c);
    }
    lent_back(l);
    rpc_buf_done(c, own_b);
}

int rpc_error(struct err *e, enum err_code code, const char *text) {
    int rc = err_set(e, code, "%s", text);
    e->pub = text;
    return rc;
}

void rpc_fail(struct rpc *c, const struct err *e) {
    rpc_status(c, err_grpc(e->code), err_public(e));
}

void rpc_end(struct rpc *c) {
    rpc_status(c, 0, "");
}

void stream_end(struct rpc *c) {
    if (c->owed) {
        c->ending = true;
    } else {
        rpc_end(c);
    }
}

/* ---- from the HTTP side ---- */

static void on_close(struct http_req *r, bool complete, void *ctx) {
    (void)r;
    (void)complete;
    struct rpc *c = ctx;
    c->r = NULL;
    drop(c);
    rpc_unref(c);
}

static void too_large(struct rpc *c) {
    char text[96];
    IGNORE_ERR(str_put(text, sizeof(text), "grpc: received message larger than max (%u vs. %zu)",
                       c->in.refused, c->in.max),
               "fits");
    rpc_status(c, 8, text);
}

static void take_messages(struct rpc *c) {
    struct span m;
    int rc;
    while (rpc_open(c) && (rc = grpc_next(&c->in, &m)) != 0) {
        if (rc == -ERR_LIMIT) {
            too_large(c);
        } else if (rc < 0) {
            rpc_status(c, 13, "grpc: malformed frame");
        } else if (c->called && !c->m->stream) {
            rpc_status(c, 13, "grpc: more than one message in a unary call");
        } else {
            c->called = true;
            c->m->call(c, m);
        }
    }
}

static void on_data(struct http_req *r, struct span data, bool fin, void *ctx) {
    struct rpc *c = rpc_ref(ctx);
    while (data.n &&
           rpc_open(c)) { /* in pieces: the decoder holds one message, not a whole burst */
        struct span part = span_of(data.p, data.n < 32768 ? data.n : 32768);
        IGNORE_ERR(span_skip(&data, part.n), "within");
        if (grpc_lend(&c->in, part) < 0) {
            too_large(c);
        }
        take_messages(c);
    }
    if (!fin && rpc_open(c) && rpc_pending(c) > LIM_STREAM_PENDING) {
        http_req_pause(r, true); /* asks without end and takes no answer: waits for itself */
    }
    if (fin && !c->fin) {
        c->fin = true;
        if (rpc_open(c) && !c->m->stream && !c->called) {
            rpc_status(c, 13, "grpc: no message in a unary call");
        } else if (rpc_open(c) && c->m->stream && c->m->end) {
            c->m->end(c);
        }
    }
    rpc_unref(c);
}

static void on_drain(struct http_req *r, void *ctx) {
    struct rpc *c = ctx;
    http_req_pause(r, false);
    if (c->drain && rpc_open(c)) {
        c->drain(c);
    }
}

static void refuse(struct http_req *r, const char *status, const char *text) {
    struct http_header t[] = {{SPAN_LIT("grpc-status"), span_str(status)},
                              {SPAN_LIT("grpc-message"), span_str(text)}};
    http_begin_constant(r, grpc_head, ARRAY_LEN(grpc_head));
    http_end_trailers(r, t, 2);
}

/* As grpc-go tells it: the service is not there, or only its method. */
static void refuse_unknown(struct http_req *r) {
    struct span path = http_req_path(r), service = SPAN_EMPTY;
    bool known = false, plain = span_starts(path, "/");
    AUTO(buf) struct buf text = BUF_INIT(512);
    for (size_t i = 0; i < path.n; i++) {
        plain = plain && path.p[i] > ' ' && path.p[i] < 0x7f && path.p[i] != '%';
    }
    if (plain) {
        path = span_of(path.p + 1, path.n - 1);
        plain = span_next(&path, '/', &service);
    }
    for (size_t i = 0; i < ARRAY_LEN(methods); i++) {
        struct span p = methods[i].path, own;
        p = span_of(p.p + 1, p.n - 1);
        known = known || (span_next(&p, '/', &own) && span_eq(own, service));
    }
    int rc = !plain ? buf_fmt(&text, "malformed method name")
             : known
                 ? buf_fmt(&text, "unknown method %.*s for service %.*s", (int)path.n,
                           (const char *)path.p, (int)service.n, (const char *)service.p)
                 : buf_fmt(&text, "unknown service %.*s", (int)service.n, (const char *)service.p);
    refuse(r, "12", rc < 0 ? "unknown method" : buf_cstr(&text));
}

struct rpc *rpc_new(const struct face *f, struct http_req *r, const struct method *m) {
    struct storesrv *v = f->v;
    struct rpc *c = pool_zero(loop_pool(v->l), sizeof(*c));
    c->v = v;
    c->ns = f->ns;
    c->r = r;
    c->m = m;
    c->refs = 1;
    c->a = (struct arena)ARENA_INIT((size_t)64 << 20);
    list_init(&c->link);
    list_add_tail(&v->rpcs, &c->link);
    v->n_rpcs++;
    v->calls[m - methods].started++;
    grpc_reader_init(&c->in);
    grpc_reader_set_max(&c->in, (size_t)v->o.max_request_bytes + LIM_MESSAGE_EXTRA);
    http_req_on_close(r, on_close, c);
    http_on_drain(r, on_drain, c);
    if (m->start) {
        m->start(c);
    }
    return c;
}

void srv_on_grpc(const struct face *f, struct http_req *r) {
    const struct method *m = srv_method(http_req_path(r));
    if (!m) {
        refuse_unknown(r);
        return;
    }
    struct span enc = http_req_header(r, "grpc-encoding");
    if (enc.p && !span_eq_str(enc, "identity")) {
        refuse(r, "12", "grpc: compression is not supported");
        return;
    }
    if (f->ns && ns_refuses(m)) {
        refuse(r, "7", "etcdserver: permission denied");
        return;
    }
    if (f->v->n_rpcs >= LIM_CALLS) {
        refuse(r, "8", "etcdserver: too many requests");
        return;
    }
    struct rpc *c = rpc_new(f, r, m);
    http_req_stream_body(r, on_data, c);
}
