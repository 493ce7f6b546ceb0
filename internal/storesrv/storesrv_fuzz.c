/* Everything that storesrv reads from outside: messages, JSON, and whole calls on a whole server. */
#include "internal/storesrv/srv_auth.h"
#include "internal/storesrv/srv_json.h"

#include "internal/base/rand.h"
#include "internal/pb/pb.h"
#include "internal/sys/sys.h"
#include "internal/t/t.h"

#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

FUZZ(storesrv_txn)(const uint8_t *p, size_t n) {
    struct err e = ERR_INIT;
    struct store_txn *t = store_txn_new(1 << 22);
    IGNORE_ERR(dec_txn(span_of(p, n), t, &t->body, 0, &e), "any outcome but a crash");
    store_txn_free(t);
    return 0;
}

FUZZ(storesrv_message)(const uint8_t *p, size_t n) {
    struct err e = ERR_INIT;
    struct span m = span_of(p, n);
    struct store_range_req q;
    struct store_put put;
    struct store_del del;
    struct perm perm = {0};
    bool serializable;
    IGNORE_ERR(dec_range(m, &q, &serializable, &e), "any outcome but a crash");
    err_reset(&e);
    IGNORE_ERR(dec_put(m, &put, &e), "any outcome but a crash");
    err_reset(&e);
    IGNORE_ERR(dec_delete(m, &del, &e), "any outcome but a crash");
    if (dec_perm(m, &perm) == 0) {
        perm_fini(&perm);
    }
    return 0;
}

/* The first byte chooses the message. What JSON says survives the way to bytes and back. */
FUZZ(storesrv_json)(const uint8_t *p, size_t n) {
    size_t count = 0;
    while (pb_etcd[count].name) {
        count++;
    }
    if (!n) {
        return 0;
    }
    const char *name = pb_etcd[p[0] % count].name;
    struct err e = ERR_INIT;
    AUTO(buf) struct buf pb = BUF_INIT(1 << 24);
    AUTO(buf) struct buf json = BUF_INIT(1 << 24);
    AUTO(buf) struct buf again = BUF_INIT(1 << 24);
    if (message_of_json(name, "", span_of(p + 1, n - 1), &pb, &e) == 0) {
        CHECK(json_of_message(name, "", buf_view(&pb), &json) == 0);
        CHECK(message_of_json(name, "", buf_view(&json), &again, &e) == 0);
        buf_reset(&pb);
        CHECK(json_of_message(name, "", buf_view(&again), &pb) == 0);
        CHECK(span_eq(buf_view(&json), buf_view(&pb)));
    }
    buf_reset(&json);
    IGNORE_ERR(json_of_message(name, "", span_of(p + 1, n - 1), &json), "any outcome but a crash");
    return 0;
}

/* ---- JSON that is right, made of any bytes: it is taken, and says the same after the way to bytes and back ---- */

static uint32_t pick_of(struct span *in, uint32_t n) {
    uint8_t x = 0;
    IGNORE_ERR(span_u8(in, &x), "the end of the input is zeros");
    return x % n;
}

static void made_int(struct buf *b, struct span *in, bool is_unsigned) {
    static const char *const whole[] = {
        "0", "1", "127", "128", "2147483647", "4294967296", "9223372036854775807"};
    static const char *const below[] = {"-1", "-2147483648", "-9223372036854775808"};
    bool negative = !is_unsigned && pick_of(in, 4) == 0;
    const char *text =
        negative ? below[pick_of(in, ARRAY_LEN(below))] : whole[pick_of(in, ARRAY_LEN(whole))];
    buf_fmt(b, pick_of(in, 2) ? "\"%s\"" : "%s", text);
}

static void made_text(struct buf *b, struct span *in, bool is_bytes) {
    static const char *const texts[] = {"",         "a",       "k\\u0041\\n",
                                        "\\\"\\\\", "\\u00e9", "/registry/pods"};
    static const char *const encoded[] = {"", "YQ==", "YWI=", "YWJj", "AAECAw==", "/////w=="};
    buf_fmt(b, "\"%s\"", is_bytes ? encoded[pick_of(in, 6)] : texts[pick_of(in, 6)]);
}

static void made_message(struct buf *b, const struct pb_message *m, struct span *in,
                         unsigned depth);

static void made_value(struct buf *b, const struct pb_field *f, struct span *in, unsigned depth) {
    switch (f->kind) {
    case PB_INT:
    case PB_UINT: made_int(b, in, f->kind == PB_UINT); break;
    case PB_BOOL: buf_str(b, pick_of(in, 2) ? "true" : "false"); break;
    case PB_STRING:
    case PB_BYTES: made_text(b, in, f->kind == PB_BYTES); break;
    case PB_MESSAGE: made_message(b, &pb_etcd[f->message], in, depth + 1); break;
    case PB_DOUBLE:
    case PB_MAP: break;
    }
}

static void made_message(struct buf *b, const struct pb_message *m, struct span *in,
                         unsigned depth) {
    const char *comma = "";
    buf_u8(b, '{');
    for (const struct pb_field *f = m->fields; f->name; f++) {
        if (!in->n || (f->kind == PB_MESSAGE && depth > 5) || pick_of(in, 3) == 0) {
            continue;
        }
        buf_fmt(b, "%s\"%s\":", comma, f->name);
        comma = ",";
        if (!f->is_repeated) {
            made_value(b, f, in, depth);
            continue;
        }
        buf_u8(b, '[');
        for (uint32_t k = 0, n = pick_of(in, 4); k < n; k++) {
            buf_str(b, k ? "," : "");
            made_value(b, f, in, depth);
        }
        buf_u8(b, ']');
    }
    buf_u8(b, '}');
}

FUZZ(storesrv_json_made)(const uint8_t *p, size_t n) {
    size_t count = 0;
    while (pb_etcd[count].name) {
        count++;
    }
    struct span in = span_of(p, n < 4000 ? n : 4000);
    const struct pb_message *m = &pb_etcd[pick_of(&in, (uint32_t)count)];
    struct err e = ERR_INIT;
    AUTO(buf) struct buf made = BUF_INIT(1 << 24), pb = BUF_INIT(1 << 24), json = BUF_INIT(1 << 24);
    made_message(&made, m, &in, 0);
    CHECK(message_of_json(m->name, "", buf_view(&made), &pb, &e) == 0);
    CHECK(json_of_message(m->name, "", buf_view(&pb), &json) == 0);
    buf_reset(&made);
    CHECK(message_of_json(m->name, "", buf_view(&json), &made, &e) == 0);
    CHECK(span_eq(buf_view(&pb), buf_view(&made)));
    return 0;
}

/* ---- a whole server: calls as a client sends them, on a new store ---- */

static const char *const paths[] = {
    "/etcdserverpb.KV/Range",
    "/etcdserverpb.KV/RangeStream",
    "/etcdserverpb.KV/Put",
    "/etcdserverpb.KV/DeleteRange",
    "/etcdserverpb.KV/Txn",
    "/etcdserverpb.KV/Compact",
    "/etcdserverpb.Watch/Watch",
    "/etcdserverpb.Lease/LeaseGrant",
    "/etcdserverpb.Lease/LeaseRevoke",
    "/etcdserverpb.Lease/LeaseKeepAlive",
    "/etcdserverpb.Lease/LeaseTimeToLive",
    "/etcdserverpb.Lease/LeaseLeases",
    "/etcdserverpb.Maintenance/Alarm",
    "/etcdserverpb.Maintenance/Status",
    "/etcdserverpb.Maintenance/HashKV",
    "/etcdserverpb.Maintenance/MoveLeader",
    "/etcdserverpb.Maintenance/Downgrade",
    "/etcdserverpb.Cluster/MemberList",
    "/etcdserverpb.Cluster/MemberPromote",
    "/v3lockpb.Lock/Lock",
    "/v3lockpb.Lock/Unlock",
    "/v3electionpb.Election/Campaign",
    "/v3electionpb.Election/Proclaim",
    "/v3electionpb.Election/Leader",
    "/v3electionpb.Election/Observe",
    "/v3electionpb.Election/Resign",
    "/etcdserverpb.Auth/AuthEnable",
    "/etcdserverpb.Auth/Authenticate",
    "/etcdserverpb.Auth/UserAdd",
    "/etcdserverpb.Auth/UserGet",
    "/etcdserverpb.Auth/UserGrantRole",
    "/etcdserverpb.Auth/UserRevokeRole",
    "/etcdserverpb.Auth/UserDelete",
    "/etcdserverpb.Auth/RoleAdd",
    "/etcdserverpb.Auth/RoleGrantPermission",
    "/etcdserverpb.Auth/RoleRevokePermission",
    "/etcdserverpb.Auth/RoleDelete",
    "/v3/kv/range",
    "/v3/kv/txn",
    "/v3/watch",
    "/v3/lease/grant",
    "/health?exclude=NOSPACE",
    "/metrics",
};

static void frame(struct buf *b, uint8_t type, uint8_t flags, uint32_t sid, struct span body) {
    buf_u8(b, (uint8_t)(body.n >> 16));
    buf_be16(b, (uint16_t)body.n);
    buf_u8(b, type);
    buf_u8(b, flags);
    buf_be32(b, sid);
    buf_span(b, body);
}

static void field(struct buf *b, const char *name, const char *value) { /* literal, not indexed */
    buf_u8(b, 0);
    buf_u8(b, (uint8_t)strlen(name));
    buf_str(b, name);
    buf_u8(b, (uint8_t)strlen(value));
    buf_str(b, value);
}

enum { H2_DATA = 0, H2_HEADERS = 1, H2_SETTINGS = 4, END_STREAM = 1, END_HEADERS = 4 };

/* One call: path, flags, two bytes of length, the message. */
static void call(struct buf *b, struct span *in, uint32_t sid) {
    uint8_t which, flags;
    uint16_t len;
    struct span body;
    if (span_u8(in, &which) < 0 || span_u8(in, &flags) < 0 || span_be16(in, &len) < 0) {
        *in = SPAN_EMPTY;
        return;
    }
    IGNORE_ERR(span_take(in, len < in->n ? len : in->n, &body), "no more than there is");
    const char *path = paths[which % ARRAY_LEN(paths)];
    bool json = span_starts(span_str(path), "/v3/");
    AUTO(buf) struct buf head = BUF_INIT(1024);
    AUTO(buf) struct buf data = BUF_INIT(1 << 20);
    field(&head, ":method", path[1] == 'h' || path[1] == 'm' ? "GET" : "POST");
    field(&head, ":scheme", "http");
    field(&head, ":path", path);
    field(&head, ":authority", "x");
    field(&head, "content-type", json ? "application/json" : "application/grpc");
    if (flags & 2) {
        field(&head, "token", "0.1");
    }
    if (!json) {
        buf_u8(&data, flags & 4 ? 1 : 0);
        buf_be32(&data, (uint32_t)body.n + (flags & 8 ? 1u : 0));
    }
    buf_span(&data, body);
    frame(b, H2_HEADERS, END_HEADERS, sid, buf_view(&head));
    frame(b, H2_DATA, flags & 1 ? 0 : END_STREAM, sid, buf_view(&data));
}

static void turn(struct loop *l, struct store *st, int fd) {
    static uint8_t sink[65536];
    struct store_stat stat = {.n_pending = 1};
    for (unsigned i = 0, quiet = 0; i < 500 && quiet < 3; i++) {
        CHECK(loop_step(l, stat.n_pending ? 5 * NS_PER_MS : 0, NULL) == 0);
        ssize_t n = recv(fd, sink, sizeof(sink), MSG_DONTWAIT);
        store_stat(st, &stat);
        quiet = n > 0 || stat.n_pending ? 0 : quiet + 1;
    }
}

FUZZ(storesrv_server)(const uint8_t *p, size_t n) {
    char dir[] = "/dev/shm/kf-fuzz-XXXXXX"; /* memory: thousands of stores are made */
    struct loop *l;
    struct store *st;
    struct storesrv *v;
    struct http_server *s;
    int fds[2];
    struct err e = ERR_INIT;
    struct span in = span_of(p, n);
    uint8_t ns = 0;
    IGNORE_ERR(span_u8(&in, &ns), "nothing at all is all right");
    CHECK(mkdtemp(dir) && loop_new(&l, &e) == 0);
    AUTO_FD int fd = sys_open_dir(dir, &e);
    CHECK(store_open(l, fd, "store.db", NULL, &st, &e) == 0);
    const struct storesrv_opts o = {.max_request_bytes = 100000, .bcrypt_cost = 4};
    CHECK(storesrv_new(l, st, &o, &v, &e) == 0);
    struct http_server_opts ho = {.handler = storesrv_handler(v), .h2c = true};
    if (ns & 1) {
        CHECK(storesrv_namespace_handler(v, SPAN_LIT("/a/"), &ho.handler, &e) == 0);
    }
    CHECK(http_server_new(l, &ho, &s, &e) == 0);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
    CHECK(http_server_accept_fd(s, fds[0], &e) == 0);
    AUTO(buf) struct buf b = BUF_INIT(1 << 22);
    buf_str(&b, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    frame(&b, H2_SETTINGS, 0, 0, SPAN_EMPTY);
    for (uint32_t sid = 1; in.n && sid < 41; sid += 2) {
        call(&b, &in, sid);
        IGNORE_ERR(send(fds[1], b.p, b.n, MSG_DONTWAIT | MSG_NOSIGNAL), "as much as fits");
        buf_reset(&b);
        if (ns & 2) { /* one after the other, or all at once */
            turn(l, st, fds[1]);
        }
    }
    turn(l, st, fds[1]);
    close(fds[1]);
    turn(l, st, -1);
    http_server_free(s);
    store_close(st);
    storesrv_free(v);
    loop_free(l);
    CHECK(sys_rmtree(AT_FDCWD, dir, &e) == 0);
    return 0;
}
