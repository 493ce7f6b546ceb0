/* Maintenance and Cluster services. */
#include "internal/storesrv/srv_int.h"

#include <stdlib.h>
#include <unistd.h>

static void ok_header(struct rpc *c, struct buf *b) {
    *b = rpc_buf(c);
    enc_header(b, 1, c->v, store_rev(c->v->st));
}

/* Once authentication is on: administrators, or anybody with a name. */
static bool admin(struct rpc *c) {
    struct err e = ERR_INIT;
    if (auth_admin(c, &e) < 0) {
        rpc_fail(c, &e);
        return false;
    }
    return true;
}
static bool any(struct rpc *c) {
    struct err e = ERR_INIT;
    if (auth_any(c, &e) < 0) {
        rpc_fail(c, &e);
        return false;
    }
    return true;
}

/* What reads the whole file is for administrators; etcd tells this with a text and code of its own. */
static bool file_admin(struct rpc *c) {
    struct err e = ERR_INIT;
    if (auth_admin(c, &e) < 0) {
        struct span why = span_str(err_public(&e));
        IGNORE_ERR(span_skip(&why, strlen("etcdserver")), "every text of it begins so");
        AUTO_FREE char *text = str_fmt("auth%.*s", SPAN_FMT(why));
        rpc_status(c, 2, text);
        return false;
    }
    return true;
}

/* ---- alarms ---- */

struct alarm_call {
    struct rpc *c;
    uint64_t action, type, member;
    uint32_t before;
};

static void enc_alarm(struct buf *b, uint64_t member, uint64_t type) {
    size_t m = wire_begin(b, 2);
    wire_u64(b, 1, member);
    wire_u64(b, 2, type);
    wire_end(b, m);
}

static uint32_t alarm_bit(const struct alarm_call *k) {
    return 1u << k->type << (k->member ? 0 : STORE_ALARM_ALL);
}

static void alarm_reply(struct alarm_call *k) {
    struct store_stat st;
    struct buf b;
    store_stat(k->c->v->st, &st);
    ok_header(k->c, &b);
    uint32_t bits = k->action == 0   ? st.alarms
                    : k->action == 1 ? alarm_bit(k)
                                     : k->before & alarm_bit(k);
    for (uint64_t t = 1; t <= 2; t++) {
        if (k->action || !k->type || k->type == t) {
            if (bits & 1u << t) {
                enc_alarm(&b, k->c->v->member_id, t);
            }
            if (bits & 1u << t << STORE_ALARM_ALL) {
                enc_alarm(&b, 0, t);
            }
        }
    }
    rpc_reply(k->c, &b);
}

static void alarm_done(void *ctx, int rc, const struct err *e) {
    struct alarm_call *k = ctx;
    if (rpc_open(k->c)) {
        if (rc < 0) {
            rpc_fail(k->c, e);
        } else {
            alarm_reply(k);
        }
    }
    rpc_unref(k->c);
    free(k);
}

void maint_alarm(struct rpc *c, struct span m) {
    struct alarm_call k = {.c = c};
    struct wire_field f;
    int rc;
    while ((rc = wire_next(&m, &f)) > 0) {
        if (f.no == 1) {
            k.action = f.v;
        } else if (f.no == 2) {
            k.member = f.v;
        } else if (f.no == 3) {
            k.type = f.v;
        }
    }
    if (rc < 0 || k.action > 2 || k.type > 2) {
        rpc_status(c, 3, "malformed message");
        return;
    }
    if (!(k.action ? admin(c) : any(c))) {
        return;
    }
    struct store_stat st;
    store_stat(c->v->st, &st);
    k.before = st.alarms;
    if (k.action == 0 || !k.type || (k.member && k.member != c->v->member_id)) {
        alarm_reply(&k);
        return;
    }
    struct alarm_call *own = new_zero(struct alarm_call);
    *own = k;
    rpc_ref(c);
    store_alarm(c->v->st, alarm_bit(&k), k.action == 1, alarm_done, own);
}

/* ---- status, defragment, hashes ---- */

void maint_status(struct rpc *c, struct span m) {
    (void)m;
    struct store_stat st;
    struct buf b;
    if (!any(c)) {
        return;
    }
    store_stat(c->v->st, &st);
    ok_header(c, &b);
    wire_bytes(&b, 2, SPAN_LIT(ETCD_VERSION));
    wire_u64(&b, 3, st.db_bytes);
    wire_u64(&b, 4, c->v->member_id);
    wire_u64(&b, 5, st.n_txns + 1);
    wire_u64(&b, 6, RAFT_TERM);
    wire_u64(&b, 7, st.n_txns + 1);
    static const char *const texts[] = {"", "alarm:NOSPACE ", "alarm:CORRUPT "};
    for (uint32_t t = 1; t <= 2; t++) {
        if (st.alarms & 1u << t) {
            AUTO(buf) struct buf line = BUF_INIT(128);
            IGNORE_ERR(
                buf_fmt(&line, "memberID:%llu %s", (unsigned long long)c->v->member_id, texts[t]),
                "fits");
            wire_bytes_always(&b, 8, buf_view(&line));
        }
        if (st.alarms & 1u << t << STORE_ALARM_ALL) {
            wire_bytes_always(&b, 8, span_str(texts[t]));
        }
    }
    wire_u64(&b, 9, st.in_use_bytes);
    rpc_reply(c, &b);
}

/* Some answers have no header in etcd either. */
static void empty_reply(struct rpc *c) {
    struct buf b = rpc_buf(c);
    rpc_reply(c, &b);
}

static void defrag_done(void *ctx, int rc, const struct err *e) {
    struct rpc *c = ctx;
    if (rpc_open(c)) {
        if (rc < 0) {
            rpc_fail(c, e);
        } else {
            empty_reply(c);
        }
    }
    rpc_unref(c);
}

void maint_defrag(struct rpc *c, struct span m) {
    (void)m;
    if (file_admin(c)) {
        store_defrag(c->v->st, defrag_done, rpc_ref(c));
    }
}

static void hash_done(void *ctx, int rc, uint32_t hash, int64_t rev, int64_t compact_rev,
                      const struct err *e) {
    struct rpc *c = ctx;
    (void)rev; /* etcd tells it from 3.6 on */
    if (rpc_open(c)) {
        if (rc < 0) {
            rpc_fail(c, e);
        } else {
            struct buf b;
            ok_header(c, &b);
            wire_u64(&b, 2, hash);
            if (c->m->call == maint_hashkv) {
                wire_i64(&b, 3, compact_rev);
            }
            rpc_reply(c, &b);
        }
    }
    rpc_unref(c);
}

static void hash(struct rpc *c, int64_t rev) {
    struct err e = ERR_INIT;
    if (!file_admin(c)) {
        return;
    }
    if (store_hash(c->v->st, rev, hash_done, rpc_ref(c), &e) < 0) {
        rpc_fail(c, &e);
        rpc_unref(c);
    }
}

void maint_hash(struct rpc *c, struct span m) {
    (void)m;
    hash(c, 0);
}

void maint_hashkv(struct rpc *c, struct span m) {
    struct wire_field f;
    int64_t rev = 0;
    int rc;
    while ((rc = wire_next(&m, &f)) > 0) {
        if (f.no == 1) {
            rev = (int64_t)f.v;
        }
    }
    if (rc < 0) {
        rpc_status(c, 3, "malformed message");
        return;
    }
    hash(c, rev);
}

/* ---- snapshot: a file made by the store, sent as fast as the client takes it ---- */

enum { SNAPSHOT_CHUNK = 32 * 1024 };

struct snapshot {
    int fd;
    uint64_t at, size;
};

static void snapshot_drop(struct rpc *c) {
    struct snapshot *k = c->state;
    c->state = NULL;
    close(k->fd);
    free(k);
}

static void snapshot_more(struct rpc *c) {
    struct snapshot *k = c->state;
    uint8_t *chunk = mem_zero_alloc(SNAPSHOT_CHUNK);
    while (k->at < k->size && rpc_open(c) && rpc_pending(c) < LIM_STREAM_PENDING) {
        size_t want = k->size - k->at < SNAPSHOT_CHUNK ? (size_t)(k->size - k->at) : SNAPSHOT_CHUNK;
        ssize_t n = pread(k->fd, chunk, want, (off_t)k->at);
        if (n <= 0) {
            rpc_status(c, 13, "etcdserver: reading the snapshot failed");
            break;
        }
        k->at += (uint64_t)n;
        struct buf b = rpc_buf(c);
        enc_header(&b, 1, c->v, 0);
        wire_u64(&b, 2, k->size - k->at);
        wire_bytes(&b, 3, span_of(chunk, (size_t)n));
        wire_bytes(&b, 4, SPAN_LIT(ETCD_VERSION));
        rpc_send(c, &b);
    }
    free(chunk);
    if (rpc_open(c) && k->at == k->size) {
        rpc_end(c);
    }
}

static void snapshot_ready(void *ctx, int rc, int own_fd, uint64_t size, const struct err *e) {
    struct rpc *c = ctx;
    if (!rpc_open(c)) {
        if (own_fd >= 0) {
            close(own_fd);
        }
    } else if (rc < 0) {
        rpc_fail(c, e);
    } else {
        struct snapshot *k = new_zero(struct snapshot);
        k->fd = own_fd;
        k->size = size;
        c->state = k;
        c->drop = snapshot_drop;
        c->drain = snapshot_more;
        snapshot_more(c);
    }
    rpc_unref(c);
}

void maint_snapshot(struct rpc *c, struct span m) {
    (void)m;
    struct err e = ERR_INIT;
    if (!file_admin(c)) {
        return;
    }
    if (store_snapshot(c->v->st, snapshot_ready, rpc_ref(c), &e) < 0) {
        rpc_fail(c, &e);
        rpc_unref(c);
    }
}

void maint_move_leader(struct rpc *c, struct span m) {
    struct wire_field f;
    uint64_t target = 0;
    if (!admin(c)) {
        return;
    }
    while (wire_next(&m, &f) > 0) {
        if (f.no == 1) {
            target = f.v;
        }
    }
    /* The one member leads already; every other target does not exist. */
    if (target == c->v->member_id) {
        empty_reply(c);
        return;
    }
    rpc_status(c, 9, "etcdserver: bad leader transferee");
}

/* MAJOR.MINOR[.PATCH] */
static bool version_minor(struct span s, uint64_t *ret_major, uint64_t *ret_minor) {
    struct span major, minor, patch;
    uint64_t unused;
    bool two = span_next(&s, '.', &major) && span_next(&s, '.', &minor);
    bool three = two && span_next(&s, '.', &patch);
    return two && !s.n && span_to_u64(major, 0, UINT32_MAX, ret_major) == 0 &&
           span_to_u64(minor, 0, UINT32_MAX, ret_minor) == 0 &&
           (!three || span_to_u64(patch, 0, UINT32_MAX, &unused) == 0);
}

/* Validation is answered as by etcd 3.5, whose clusters may go down to 3.4; there is none to go down here. */
void maint_downgrade(struct rpc *c, struct span m) {
    enum { VALIDATE, ENABLE, CANCEL };
    struct wire_field f;
    struct span version = SPAN_EMPTY;
    uint64_t action = VALIDATE, major, minor;
    if (!admin(c)) {
        return;
    }
    while (wire_next(&m, &f) > 0) {
        if (f.no == 1) {
            action = f.v;
        } else if (f.no == 2) {
            version = f.bytes;
        }
    }
    if (action > CANCEL) {
        rpc_status(c, 2, "etcdserver: unknown method");
    } else if (action == CANCEL) {
        rpc_status(c, 9, "etcdserver: no inflight downgrade job");
    } else if (!version_minor(version, &major, &minor)) {
        rpc_status(c, 3, "etcdserver: wrong downgrade target version format");
    } else if (action == ENABLE || major != 3 || minor != 4) {
        rpc_status(c, 3, "etcdserver: invalid downgrade target version");
    } else {
        struct buf b = rpc_buf(c);
        wire_bytes(&b, 2, SPAN_LIT("3.5.0"));
        rpc_reply(c, &b);
    }
}

/* ---- cluster: one member ---- */

void cluster_list(struct rpc *c, struct span m) {
    (void)m;
    struct storesrv *v = c->v;
    if (!any(c)) {
        return;
    }
    struct buf b = rpc_buf(c);
    enc_header(&b, 1, v, 0); /* etcd's cluster service tells no revision */
    size_t mark = wire_begin(&b, 2);
    wire_u64(&b, 1, v->member_id);
    wire_bytes(&b, 2, span_str(v->name));
    for (size_t i = 0; i < v->o.n_peer_urls; i++) {
        wire_bytes_always(&b, 3, span_str(v->peer_urls[i]));
    }
    for (size_t i = 0; i < v->o.n_client_urls; i++) {
        wire_bytes_always(&b, 4, span_str(v->client_urls[i]));
    }
    wire_end(&b, mark);
    rpc_reply(c, &b);
}

/* Membership cannot change: the answers are those of an etcd that may not change it either. */
void cluster_refuse(struct rpc *c, struct span m) {
    struct wire_field f;
    uint64_t id = 0;
    if (!admin(c)) {
        return;
    }
    while (wire_next(&m, &f) > 0) {
        if (f.no == 1 && f.wire == WIRE_VARINT) {
            id = f.v;
        }
    }
    struct span path = http_req_path(c->r);
    if (span_ends(path, "MemberAdd")) {
        rpc_status(c, 9, "etcdserver: unhealthy cluster");
    } else if (id != c->v->member_id) {
        rpc_status(c, 5, "etcdserver: member not found");
    } else if (span_ends(path, "MemberPromote")) {
        rpc_status(c, 9, "etcdserver: can only promote a learner member");
    } else {
        rpc_status(c, 9, "etcdserver: re-configuration failed due to not enough started members");
    }
}
