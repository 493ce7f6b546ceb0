/* Calls of several clients on a whole server, as a grammar: the input chooses among keys, numbers, messages and who sends
 * them, so that most calls mean something. What comes back must be what etcd could say: a status that a healthy disk
 * allows, revisions that never go back, events of a watch in order; every call is answered, and the file is whole. */
#include "internal/storesrv/srv_auth.h"

#include "internal/base/rand.h"
#include "internal/grpc/grpc.h"
#include "internal/sys/sys.h"
#include "internal/t/t.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { CONNS = 3, CALLS = 48, WATCHES = 8, LIM_ANSWER = 1 << 24 };

struct asked {
    struct bed *b;
    struct http_call *call;
    struct grpc_reader in;
    const char *path;
    int64_t floor; /* revision known when it was asked */
    size_t n_msgs;
    bool stream, waits;     /* waits: for others, like a lock */
    int64_t given[WATCHES]; /* of a watch's stream: the last revision, by id */
};
struct bed { /* of one input */
    struct span in;
    struct loop *l;
    struct store *st;
    struct storesrv *v;
    struct http_server *s;
    struct http_client *conn[CONNS];
    struct asked calls[CALLS];
    size_t n_calls, n_open;
    int64_t rev;
    char token[80];
    char dir[32], sock[64];
};

/* ---- choices ---- */

static uint32_t pick(struct bed *b, uint32_t n) {
    uint8_t c = 0;
    IGNORE_ERR(span_u8(&b->in, &c), "zeros follow the end");
    return c % n;
}

static struct span a_key(struct bed *b) {
    static const struct span keys[] = {SPAN_LIT("a"), SPAN_LIT("a/1"), SPAN_LIT("a/2"),
                                       SPAN_LIT("b"), SPAN_LIT("a0"),  SPAN_LIT("\0"),
                                       SPAN_LIT(""),  SPAN_LIT("b\0"), SPAN_LIT("\xff\xff")};
    return keys[pick(b, ARRAY_LEN(keys))];
}

static int64_t a_number(struct bed *b) {
    switch (pick(b, 12)) {
    case 0: return -1;
    case 1: return INT64_MAX;
    case 2: return INT64_MIN;
    case 3: return b->rev;
    case 4: return b->rev + 1;
    case 5: return b->rev - 1;
    case 6: return b->rev / 2;
    case 7: return 1;
    case 8: return 2;
    default: return 0;
    }
}

static void a_value(struct bed *b, struct buf *m, uint32_t no) {
    static const uint8_t large[20000] = "v";
    size_t n = pick(b, 8) ? pick(b, 5) : 1000 * pick(b, 20);
    wire_bytes(m, no, span_of(large, n));
}

static void a_span(struct bed *b, struct buf *m) {
    wire_bytes(m, 1, a_key(b));
    if (pick(b, 2)) {
        wire_bytes(m, 2, a_key(b));
    }
}

/* ---- messages ---- */

static void range_msg(struct bed *b, struct buf *m) {
    a_span(b, m);
    wire_i64(m, 3, pick(b, 4) ? 0 : a_number(b));
    wire_i64(m, 4, pick(b, 3) ? 0 : a_number(b));
    wire_u64(m, 5, pick(b, 4) ? 0 : pick(b, 4));
    wire_u64(m, 6, pick(b, 4) ? 0 : pick(b, 6));
    for (uint32_t no = 7; no <= 9; no++) {
        wire_bool(m, no, pick(b, 4) == 0);
    }
    for (uint32_t no = 10; no <= 13; no++) {
        wire_i64(m, no, pick(b, 8) ? 0 : a_number(b));
    }
}

static void put_msg(struct bed *b, struct buf *m) {
    wire_bytes(m, 1, a_key(b));
    a_value(b, m, 2);
    wire_i64(m, 3, pick(b, 3) ? 0 : pick(b, 4));
    for (uint32_t no = 4; no <= 6; no++) {
        wire_bool(m, no, pick(b, 4) == 0);
    }
}

static void delete_msg(struct bed *b, struct buf *m) {
    a_span(b, m);
    wire_bool(m, 3, pick(b, 2));
}

static void txn_msg(struct bed *b, struct buf *m, unsigned depth) {
    for (uint32_t i = pick(b, 3); i > 0; i--) {
        size_t c = wire_begin(m, 1);
        uint32_t target = pick(b, 5);
        wire_u64(m, 1, pick(b, 4));
        wire_u64(m, 2, target);
        wire_bytes(m, 3, a_key(b));
        if (target == 3) {
            a_value(b, m, 7);
        } else {
            wire_i64(m, target == 4 ? 8 : 4 + target, a_number(b));
        }
        wire_bytes(m, 64, pick(b, 4) ? SPAN_EMPTY : a_key(b));
        wire_end(m, c);
    }
    for (uint32_t branch = 2; branch <= 3; branch++) {
        for (uint32_t i = pick(b, 4); i > 0; i--) {
            uint32_t kind = 1 + pick(b, depth ? 4 : 3);
            size_t op = wire_begin(m, branch), inner = wire_begin(m, kind);
            switch (kind) {
            case 1: range_msg(b, m); break;
            case 2: put_msg(b, m); break;
            case 3: delete_msg(b, m); break;
            default: txn_msg(b, m, depth - 1); break;
            }
            wire_end(m, inner);
            wire_end(m, op);
        }
    }
}

static void watch_msg(struct bed *b, struct buf *m) {
    size_t w = wire_begin(m, 1 + pick(b, 3));
    a_span(b, m); /* of a cancellation: what it does not know, and a watch's id */
    wire_i64(m, 3, a_number(b));
    wire_bool(m, 4, pick(b, 2));
    wire_u64(m, 5, pick(b, 3));
    wire_bool(m, 6, pick(b, 2));
    wire_i64(m, 7, pick(b, WATCHES));
    wire_bool(m, 8, pick(b, 2));
    wire_end(m, w);
}

static void names_msg(struct bed *b, struct buf *m) {
    static const char *const names[] = {"root", "u", "r", ""};
    for (uint32_t no = 1; no <= 2; no++) {
        wire_bytes(m, no, span_str(names[pick(b, ARRAY_LEN(names))]));
    }
}

static void perm_msg(struct bed *b, struct buf *m) {
    wire_bytes(m, 1, SPAN_LIT("r"));
    size_t p = wire_begin(m, 2);
    wire_u64(m, 1, pick(b, 4));
    wire_bytes(m, 2, a_key(b));
    wire_bytes(m, 3, pick(b, 2) ? SPAN_EMPTY : a_key(b));
    wire_end(m, p);
}

static void numbers_msg(struct bed *b, struct buf *m) {
    for (uint32_t no = 1; no <= 3; no++) {
        wire_i64(m, no, pick(b, 2) ? pick(b, 4) : a_number(b));
    }
}

static void lock_msg(struct bed *b, struct buf *m) {
    wire_bytes(m, 1, a_key(b));
    wire_i64(m, 2, pick(b, 4));
    a_value(b, m, 3);
}

static void raw_msg(struct bed *b, struct buf *m) {
    struct span some;
    uint32_t n = pick(b, 40);
    IGNORE_ERR(span_take(&b->in, n < b->in.n ? n : b->in.n, &some), "no more than there is");
    buf_span(m, some);
}

static void none_msg(struct bed *b, struct buf *m) {
    (void)b;
    (void)m;
}

static void some_txn(struct bed *b, struct buf *m) {
    txn_msg(b, m, 3);
}

static const struct {
    const char *path;
    void (*make)(struct bed *b, struct buf *m);
    bool stream, waits;
} methods[] = {
    {"/etcdserverpb.KV/Put", put_msg, false, false},
    {"/etcdserverpb.KV/Range", range_msg, false, false},
    {"/etcdserverpb.KV/RangeStream", range_msg, false, false},
    {"/etcdserverpb.KV/DeleteRange", delete_msg, false, false},
    {"/etcdserverpb.KV/Txn", some_txn, false, false},
    {"/etcdserverpb.KV/Compact", numbers_msg, false, false},
    {"/etcdserverpb.Watch/Watch", watch_msg, true, true},
    {"/etcdserverpb.Watch/Watch", watch_msg, true, true},
    {"/etcdserverpb.Lease/LeaseGrant", numbers_msg, false, false},
    {"/etcdserverpb.Lease/LeaseRevoke", numbers_msg, false, false},
    {"/etcdserverpb.Lease/LeaseKeepAlive", numbers_msg, true, true},
    {"/etcdserverpb.Lease/LeaseTimeToLive", numbers_msg, false, false},
    {"/etcdserverpb.Lease/LeaseLeases", none_msg, false, false},
    {"/etcdserverpb.Maintenance/Alarm", numbers_msg, false, false},
    {"/etcdserverpb.Maintenance/Status", none_msg, false, false},
    {"/etcdserverpb.Maintenance/HashKV", numbers_msg, false, false},
    {"/etcdserverpb.Maintenance/Snapshot", none_msg, false, false},
    {"/etcdserverpb.Maintenance/Defragment", none_msg, false, false},
    {"/v3lockpb.Lock/Lock", lock_msg, false, true},
    {"/v3lockpb.Lock/Unlock", lock_msg, false, false},
    {"/v3electionpb.Election/Campaign", lock_msg, false, true},
    {"/v3electionpb.Election/Leader", lock_msg, false, false},
    {"/v3electionpb.Election/Observe", lock_msg, true, true},
    {"/etcdserverpb.Auth/AuthEnable", none_msg, false, false},
    {"/etcdserverpb.Auth/AuthDisable", none_msg, false, false},
    {"/etcdserverpb.Auth/Authenticate", names_msg, false, false},
    {"/etcdserverpb.Auth/UserAdd", names_msg, false, false},
    {"/etcdserverpb.Auth/UserGrantRole", names_msg, false, false},
    {"/etcdserverpb.Auth/UserDelete", names_msg, false, false},
    {"/etcdserverpb.Auth/RoleAdd", names_msg, false, false},
    {"/etcdserverpb.Auth/RoleGrantPermission", perm_msg, false, false},
    {"/etcdserverpb.Auth/RoleDelete", names_msg, false, false},
    {"/etcdserverpb.Auth/UserList", none_msg, false, false},
};

/* ---- what comes back ---- */

static int64_t revision_of(struct span header) {
    struct wire_field f;
    int64_t rev = 0;
    while (wire_next(&header, &f) > 0) {
        rev = f.no == 3 && f.wire == WIRE_VARINT ? (int64_t)f.v : rev;
    }
    return rev;
}

static int64_t event_revision(struct span event) {
    struct wire_field f, k;
    int64_t rev = 0;
    while (wire_next(&event, &f) > 0) {
        struct span kv = f.bytes;
        while (f.no == 2 && wire_next(&kv, &k) > 0) {
            rev = k.no == 3 ? (int64_t)k.v : rev;
        }
    }
    return rev;
}

/* WatchResponse: whole revisions in order, none newer than the header says. */
static void watched(struct asked *a, struct span msg, int64_t rev) {
    struct wire_field f;
    int64_t id = 0, last = 0;
    bool created = false;
    while (wire_next(&msg, &f) > 0) {
        if (f.no == 2) {
            id = (int64_t)f.v;
        } else if (f.no == 3) {
            created = f.v;
        } else if (f.no == 11) {
            int64_t r = event_revision(f.bytes);
            CHECK(r >= last && r > 0 && r <= rev);
            last = r;
        }
    }
    if (id >= 0 && id < WATCHES) {
        CHECK(created || !last || last > a->given[id] || a->given[id] == 0);
        a->given[id] = created ? 0 : last ? last : a->given[id];
    }
}

static void came(struct asked *a, struct span msg) {
    struct bed *b = a->b;
    struct span rest = msg;
    struct wire_field f;
    int64_t rev = 0;
    int rc;
    a->n_msgs++;
    bool pages = str_eq(a->path, "/etcdserverpb.KV/RangeStream");
    while ((rc = wire_next(&rest, &f)) > 0) {
        if (f.no == 1 && f.wire == WIRE_BYTES && !pages) {
            rev = revision_of(f.bytes);
        }
        if (str_eq(a->path, "/etcdserverpb.Auth/Authenticate") && f.no == 2) {
            IGNORE_ERR(span_to_cstr(f.bytes, b->token, sizeof(b->token)), "ours are short");
        }
    }
    CHECK(rc == 0);
    if (str_eq(a->path, "/etcdserverpb.Watch/Watch")) {
        watched(a, msg, rev);
    } else if (rev) {
        CHECK(rev >= a->floor);
    }
    b->rev = rev > b->rev ? rev : b->rev;
}

static void on_data(struct http_call *call, struct span data, void *ctx) {
    struct asked *a = ctx;
    struct span msg;
    (void)call;
    CHECK(grpc_feed(&a->in, data) == 0);
    while (grpc_next(&a->in, &msg) > 0) {
        came(a, msg);
    }
}

/* Of those, the disk's (13, 15), and what no server says by itself, never. */
static bool may_say(int64_t code) {
    return code >= 0 && code <= 16 && code != 4 && code != 10 && code != 13 && code != 15;
}

static void on_end(struct http_call *call, int rc, const struct err *e, void *ctx) {
    struct asked *a = ctx;
    int64_t code = -1;
    (void)e;
    a->call = NULL;
    a->b->n_open -= !a->waits;
    grpc_reader_fini(&a->in);
    if (rc == -ERR_CANCELLED) {
        return; /* by us */
    }
    CHECK(rc == 0);
    struct span s = http_call_trailer(call, "grpc-status");
    s = s.p ? s : http_call_header(call, "grpc-status");
    CHECK(span_to_i64(s, 0, 16, &code) == 0);
    struct span m = http_call_trailer(call, "grpc-message");
    m = m.p ? m : http_call_header(call, "grpc-message");
    bool form =
        code == 13 && span_starts(m, "grpc: "); /* not of the store but of the call's form */
    bool alarm = code == 15 && span_eq_str(m, STORE_E_CORRUPT); /* raised by a call */
    if (!form && !alarm && !may_say(code)) {
        fprintf(stderr, "%s: status %lld, %.*s\n", a->path, (long long)code, SPAN_FMT(m));
        abort();
    }
    CHECK(code != 0 || a->stream || a->n_msgs >= 1);
}

/* ---- what is done ---- */

static void step(struct bed *b) {
    CHECK(loop_step(b->l, 0, NULL) == 0);
}

static void ask(struct bed *b) {
    struct asked *a = &b->calls[b->n_calls];
    AUTO(buf) struct buf msg = BUF_INIT(1 << 22), frame = BUF_INIT(1 << 22);
    struct http_header head[] = {{SPAN_LIT("content-type"), SPAN_LIT("application/grpc")},
                                 {SPAN_LIT("te"), SPAN_LIT("trailers")},
                                 {SPAN_LIT("token"), span_str(b->token)}};
    struct err e = ERR_INIT;
    uint32_t i = pick(b, ARRAY_LEN(methods)), who = pick(b, 2 * CONNS);
    if (pick(b, 16)) {
        methods[i].make(b, &msg);
    } else {
        raw_msg(b, &msg);
    }
    buf_u8(&frame, 0);
    buf_be32(&frame, (uint32_t)msg.n);
    buf_span(&frame, buf_view(&msg));
    *a = (struct asked){.b = b, .path = methods[i].path, .floor = b->rev};
    a->stream = methods[i].stream;
    a->waits = methods[i].waits;
    grpc_reader_init(&a->in);
    struct http_call_opts o = {.method = "POST",
                               .target = a->path,
                               .headers = head,
                               .n_headers = b->token[0] && who < CONNS ? 3 : 2,
                               .body = buf_view(&frame),
                               .stream_body = a->stream,
                               .on_data = on_data,
                               .on_end = on_end,
                               .ctx = a};
    CHECK(http_call_start(b->conn[who % CONNS], &o, &a->call, &e) == 0);
    b->n_calls++;
    b->n_open += !a->waits;
}

/* Something more on a stream, or its end, or nobody listens any more. */
static void go_on(struct bed *b) {
    struct asked *a = b->n_calls ? &b->calls[pick(b, (uint32_t)b->n_calls)] : NULL;
    AUTO(buf) struct buf msg = BUF_INIT(1 << 20), frame = BUF_INIT(1 << 20);
    if (!a || !a->call) {
        return;
    }
    switch (pick(b, 4)) {
    case 0:
        http_call_cancel(TAKE(a->call));
        grpc_reader_fini(&a->in);
        b->n_open -= !a->waits;
        break;
    case 1:
        if (a->stream) {
            http_call_write(a->call, SPAN_EMPTY, true);
        }
        break;
    default:
        if (str_eq(a->path, "/etcdserverpb.Watch/Watch")) {
            watch_msg(b, &msg);
        } else {
            numbers_msg(b, &msg);
        }
        buf_u8(&frame, 0);
        buf_be32(&frame, (uint32_t)msg.n);
        buf_span(&frame, buf_view(&msg));
        if (a->stream) {
            http_call_write(a->call, buf_view(&frame), false);
        }
        break;
    }
}

static void bed_open(struct bed *b) {
    struct err e = ERR_INIT;
    memcpy(b->dir, "/dev/shm/kf-fuzz-XXXXXX", 24);
    CHECK(mkdtemp(b->dir) && loop_new(&b->l, &e) == 0);
    AUTO_FD int fd = sys_open_dir(b->dir, &e);
    CHECK(store_open(b->l, fd, "store.db", NULL, &b->st, &e) == 0);
    const struct storesrv_opts o = {.max_request_bytes = 100000, .bcrypt_cost = 4};
    CHECK(storesrv_new(b->l, b->st, &o, &b->v, &e) == 0);
    struct http_server_opts ho = {.handler = storesrv_handler(b->v), .h2c = true};
    CHECK(http_server_new(b->l, &ho, &b->s, &e) == 0);
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    CHECK(str_put(un.sun_path, sizeof(un.sun_path), "%s/sock", b->dir) == 0);
    CHECK(str_put(b->sock, sizeof(b->sock), "%s", un.sun_path) == 0);
    int ls = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    CHECK(ls >= 0 && bind(ls, (struct sockaddr *)&un, sizeof(un)) == 0 && listen(ls, 8) == 0);
    CHECK(http_server_listen(b->s, ls, &e) == 0);
    struct http_client_opts co = {.unix_path = b->sock, .proto = HTTP_2_PRIOR};
    for (size_t i = 0; i < CONNS; i++) {
        CHECK(http_client_new(b->l, &co, &b->conn[i], &e) == 0);
    }
    b->rev = 1;
}

static void finding(void *ctx, const char *text) {
    (void)ctx;
    fprintf(stderr, "the file: %s\n", text);
    abort();
}

static void bed_close(struct bed *b) {
    struct err e = ERR_INIT;
    uint64_t until = clock_ns() + 30 * NS_PER_S;
    while (b->n_open && clock_ns() < until) { /* whoever waits for nobody is answered */
        CHECK(loop_step(b->l, NS_PER_S, &e) == 0);
    }
    CHECK(b->n_open == 0);
    for (size_t i = 0; i < CONNS; i++) {
        http_client_free(b->conn[i]);
    }
    http_server_free(b->s);
    store_close(b->st);
    storesrv_free(b->v);
    loop_free(b->l);
    AUTO_FD int fd = sys_open_dir(b->dir, &e);
    CHECK(store_check(fd, "store.db", false, finding, NULL, &e) == 0);
    CHECK(sys_rmtree(AT_FDCWD, b->dir, &e) == 0);
}

FUZZ(storesrv_calls)(const uint8_t *p, size_t n) {
    struct bed *b = new_zero(struct bed);
    b->in = span_of(p, n);
    bed_open(b);
    while (b->in.n && b->n_calls < CALLS) {
        switch (pick(b, 8)) {
        case 0: go_on(b); break;
        case 1:
            for (uint32_t i = 1 + pick(b, 20); i > 0; i--) {
                step(b);
            }
            break;
        case 2: /* everything is answered before what follows */
            for (int i = 0; b->n_open && i < 1000; i++) {
                CHECK(loop_step(b->l, 5 * NS_PER_MS, NULL) == 0);
            }
            break;
        default: ask(b); break;
        }
    }
    bed_close(b);
    free(b);
    return 0;
}
