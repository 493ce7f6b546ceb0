/* Defragmentation, snapshots, hashes and passwords beside the clients, so that blows meet them too. The first snapshot that
 * comes whole is restored when the round is over: it must be what a read of everything may have been answered then. */
#include "internal/lin/lin_run.h"

#include "internal/base/rand.h"
#include "internal/store/store_engine.h"
#include "internal/sys/sys.h"
#include "internal/wire/wire.h"

#include <fcntl.h>

enum { LIM_SNAPSHOT = 64 << 20 };

static void on_data(struct http_call *call, struct span data, void *ctx) {
    struct maint *m = &((struct round *)ctx)->maint;
    struct span msg;
    struct wire_field f;
    (void)call;
    if (grpc_feed(&m->in, data) < 0) {
        m->whole = false;
        return;
    }
    while (grpc_next(&m->in, &msg) > 0) {
        uint64_t left = 0;
        while (wire_next(&msg, &f) > 0) {
            left = f.no == 2 ? f.v : left;
            if (f.no == 3) {
                buf_span(&m->shot, f.bytes);
            }
        }
        m->whole = left == 0;
    }
}

static void on_end(struct http_call *c, int rc, const struct err *e, void *ctx) {
    struct round *r = ctx;
    struct maint *m = &r->maint;
    struct span text;
    (void)e;
    m->call = NULL;
    if (m->shooting) {
        m->shooting = false;
        m->has_shot = m->whole && buf_ok(&m->shot) == 0 && rpc_code(c, rc, &text) == 0;
        grpc_reader_fini(&m->in);
    }
    if (!m->has_shot) {
        buf_reset(&m->shot);
    }
}

static void want_all(struct round *r, struct lin_op *op) {
    *op = (struct lin_op){.kind = LIN_TXN, .client = LIM_LIN_CLIENTS - 1, .id = ++r->n_calls};
    op->t.subs[0][op->t.n_subs[0]++] = (struct lin_sub){.what = ':', .hi = LIM_LIN_KEYS};
}

void maint_next(struct round *r) {
    static const char *const paths[] = {"/etcdserverpb.Maintenance/Snapshot",
                                        "/etcdserverpb.Maintenance/Defragment",
                                        "/etcdserverpb.Maintenance/Hash"};
    struct maint *m = &r->maint;
    struct err e = ERR_INIT;
    if (m->call || r->server.state != SERVER_UP) {
        return;
    }
    AUTO(buf) struct buf msg = BUF_INIT(4096), frame = BUF_INIT(4096);
    struct http_header head[3];
    uint32_t which = round_luck(r, ARRAY_LEN(paths));
    const char *path = paths[which];
    if (r->users.in && round_luck(r, 2)) {
        path = users_password(r, &msg);
        which = 1;
    }
    m->shooting = which == 0 && !m->has_shot;
    if (m->shooting) {
        m->whole = false;
        m->shot.max = LIM_SNAPSHOT;
        grpc_reader_init(&m->in);
        want_all(r, &m->op);
        op_text(&r->text, &m->op, "get");
    }
    grpc_frame(&frame, buf_view(&msg));
    struct http_call_opts o = {.method = "POST",
                               .target = path,
                               .headers = head,
                               .n_headers = users_head(r, 0, head),
                               .body = buf_view(&frame),
                               .on_data = m->shooting ? on_data : NULL,
                               .on_end = on_end,
                               .ctx = r};
    if (http_call_start(m->hc, &o, &m->call, &e) < 0) {
        round_fail(r, "starting a call: %s", e.msg);
    }
}

/* The end of the round: nothing is asked any more. */
void maint_leave(struct round *r) {
    struct maint *m = &r->maint;
    http_client_free(m->hc);
}

void maint_fini(struct round *r) {
    buf_fini(&r->maint.shot);
}

static void damage(void *ctx, const char *finding) {
    round_fail(ctx, "the restored snapshot: %s", finding);
}

static void answer(struct round *r, const struct lin_op *op, const struct store_range_res *res) {
    buf_fmt(&r->text, "ret %lld ok %lld 1 :%lld,%d", (long long)op->id, (long long)res->rev,
            (long long)res->count, res->more);
    for (size_t i = 0; i < res->n; i++) {
        const struct store_kv *k = &res->kvs[i];
        struct lin_kv kv = {rpc_key(k->key), rpc_value(k->value), k->create_rev,
                            k->mod_rev,      k->version,          k->lease};
        buf_str(&r->text, ",");
        kv_text(&r->text, &kv);
    }
    buf_u8(&r->text, '\n');
}

static int read_all(struct round *r, struct store *s, struct err *e) {
    struct arena a = ARENA_INIT(LIM_SNAPSHOT);
    struct store_range_req q = {.key = SPAN_LIT("\0"), .end = SPAN_LIT("\0")};
    struct store_range_res res;
    int rc = store_range(s, &q, &a, &res, e);
    if (rc == 0) {
        answer(r, &r->maint.op, &res);
    }
    arena_fini(&a);
    return rc;
}

int maint_restore(struct round *r, struct err *e) {
    struct maint *m = &r->maint;
    struct store *s;
    int64_t rev;
    if (!m->has_shot) {
        return 0;
    }
    AUTO_FD int dir = sys_open_dir(r->dir, e);
    int rc = dir < 0 ? dir : sys_file_replace(dir, "shot", buf_view(&m->shot), 0600, e);
    if (rc < 0) {
        return rc;
    }
    AUTO_FD int fd = sys_open(dir, "shot", O_RDONLY, 0, e);
    if (fd < 0 || (rc = store_restore(dir, "again.db", fd, &rev, e)) < 0 ||
        (rc = store_check(dir, "again.db", false, damage, r, e)) < 0 ||
        (rc = store_open(r->l, dir, "again.db", NULL, &s, e)) < 0) {
        round_fail(r, "the snapshot cannot be restored: %s", e->msg);
        return 0;
    }
    rc = read_all(r, s, e);
    store_close(s);
    return rc;
}
