/* Users of a round: made at its beginning, logged in after every start; or known by their certificates. */
#include "internal/lin/lin_run.h"

#include "internal/base/rand.h"
#include "internal/pki/pki.h"
#include "internal/sys/sys.h"
#include "internal/tls/tls.h"
#include "internal/wire/wire.h"

#include <fcntl.h>

static const char *const names[LIN_USERS] = {"root", "u1", "u2", "u3"};

/* ---- certificates ---- */

static int sign(const struct pki_key *ca_key, struct span ca, const char *cn, unsigned usage,
                struct lin_pem *ret, struct err *e) {
    __attribute__((cleanup(pki_keyp_fini))) struct pki_key *k = NULL;
    struct pki_subject s = {.cn = cn, .sans = {"localhost"}, .n_sans = usage & PKI_SERVER ? 1 : 0};
    struct pki_sign_req q = {.ca_key = ca_key,
                             .ca_cert_pem = ca,
                             .subject = &s,
                             .usage = usage,
                             .now_s = clock_wall_ns() / NS_PER_S,
                             .ttl_s = 86400};
    ret->cert = ret->key = (struct buf)BUF_INIT(1 << 16);
    int rc = pki_key_new(PKI_EC_P256, &k, e);
    if (rc == 0 && (rc = pki_key_write(k, &ret->key, e)) == 0) {
        q.subject_key = k;
        rc = pki_sign(&q, &ret->cert, e);
    }
    return rc;
}

int lin_pems_make(struct lin_pems *p, struct err *e) {
    __attribute__((cleanup(pki_keyp_fini))) struct pki_key *ca = NULL;
    p->ca = (struct buf)BUF_INIT(1 << 16);
    int rc = pki_key_new(PKI_EC_P256, &ca, e);
    if (rc == 0) {
        rc = pki_ca_new(ca, "lin", clock_wall_ns() / NS_PER_S, 86400, &p->ca, e);
    }
    if (rc == 0) {
        rc = sign(ca, buf_view(&p->ca), "store", PKI_SERVER, &p->server, e);
    }
    for (size_t i = 0; i < LIN_USERS && rc == 0; i++) {
        rc = sign(ca, buf_view(&p->ca), names[i], PKI_CLIENT, &p->users[i], e);
    }
    return rc;
}

static void pem_fini(struct lin_pem *p) {
    buf_fini(&p->cert);
    buf_fini(&p->key);
}

void lin_pems_fini(struct lin_pems *p) {
    buf_fini(&p->ca);
    pem_fini(&p->server);
    for (size_t i = 0; i < LIN_USERS; i++) {
        pem_fini(&p->users[i]);
    }
}

static int put_file(struct round *r, const char *name, struct span s, struct err *e) {
    AUTO_FREE char *path = str_fmt("%s/%s", r->dir, name);
    return sys_file_replace(AT_FDCWD, path, s, 0600, e);
}

int users_setup(struct round *r, struct err *e) {
    const struct lin_pems *p = r->o.pems;
    struct users *u = &r->users;
    u->r = r;
    u->on = r->o.scenario == LIN_S_USERS;
    u->by_cert = u->on && round_luck(r, 2);
    u->tls = u->by_cert || (u->on && round_luck(r, 2));
    int rc = 0;
    if (u->tls && (rc = put_file(r, "ca.pem", buf_view(&p->ca), e)) == 0 &&
        (rc = put_file(r, "cert.pem", buf_view(&p->server.cert), e)) == 0) {
        rc = put_file(r, "key.pem", buf_view(&p->server.key), e);
    }
    for (size_t i = 0; i < LIN_USERS && rc == 0 && u->tls; i++) {
        struct tls_client_opts o = {.ca_pem = buf_view(&p->ca)};
        if (u->by_cert) {
            o.cert_pem = buf_view(&p->users[i].cert);
            o.key_pem = buf_view(&p->users[i].key);
        }
        rc = tls_client_config_new(&u->id[i].tls, &o, e);
    }
    return rc < 0 ? rc : users_client(r, 0, &u->hc, e);
}

int users_client(struct round *r, int user, struct http_client **ret, struct err *e) {
    struct tls_config *tls = r->users.id[user].tls;
    struct http_client_opts o = {
        .unix_path = r->server.sock, .tls = tls, .proto = tls ? HTTP_AUTO : HTTP_2_PRIOR};
    return http_client_new(r->l, &o, ret, e);
}

void users_leave(struct round *r) {
    struct users *u = &r->users;
    loop_timer_stop(&u->timer);
    rpc_leave(&u->rpc);
    http_client_free(u->hc);
    for (size_t i = 0; i < LIN_USERS; i++) {
        tls_config_unref(u->id[i].tls);
    }
}

size_t users_head(const struct round *r, int user, struct http_header ret[3]) {
    const char *token = r->users.id[user].token;
    memcpy(ret, rpc_headers, sizeof(rpc_headers));
    ret[2] = (struct http_header){SPAN_LIT("token"), span_str(token)};
    return *token ? 3 : 2;
}

/* ---- making them, logging in ---- */

static void two(struct buf *b, uint32_t no, const char *a, const char *z) {
    wire_bytes(b, no, span_str(a));
    wire_bytes(b, no + 1, span_str(z));
}

const char *users_encode(struct buf *b, const struct lin_op *op) {
    char key[8], end[8];
    const char *role = names[op->whom];
    CHECK(str_put(key, sizeof(key), "k/%02d", op->slot * LIN_SLOT_KEYS) == 0);
    CHECK(str_put(end, sizeof(end), "k/%02d", (op->slot + 1) * LIN_SLOT_KEYS) == 0);
    wire_bytes(b, 1, span_str(role));
    if (!op->bits) {
        two(b, 2, key, end);
        return "/etcdserverpb.Auth/RoleRevokePermission";
    }
    size_t m = wire_begin(b, 2);
    wire_u64(b, 1, op->bits == LIN_MAY_READ ? 0 : op->bits == LIN_MAY_WRITE ? 1 : 2);
    two(b, 2, key, end);
    wire_end(b, m);
    return "/etcdserverpb.Auth/RoleGrantPermission";
}

enum { MADE = 3 * LIN_USERS, ALLOWED = MADE + (LIN_USERS - 1) * LIN_SLOTS };

/* Three calls for each user, everything is allowed to everybody, then authentication is switched on. */
static const char *making(struct round *r, struct buf *b) {
    struct users *u = &r->users;
    size_t step = u->step;
    if (step == ALLOWED) {
        return "/etcdserverpb.Auth/AuthEnable";
    }
    if (step >= MADE) {
        u->op = (struct lin_op){.kind = LIN_ALLOW,
                                .id = ++r->n_calls,
                                .whom = 1 + (int32_t)(step - MADE) / LIN_SLOTS,
                                .slot = (int32_t)(step - MADE) % LIN_SLOTS,
                                .bits = LIN_MAY_READ | LIN_MAY_WRITE};
        op_text(&r->text, &u->op, "allow");
        return users_encode(b, &u->op);
    }
    const char *name = names[step / 3];
    switch (step % 3) {
    case 0: two(b, 1, name, "pw"); return "/etcdserverpb.Auth/UserAdd";
    case 1: wire_bytes(b, 1, span_str(name)); return "/etcdserverpb.Auth/RoleAdd";
    default: two(b, 1, name, name); return "/etcdserverpb.Auth/UserGrantRole";
    }
}

static void again(struct loop_timer *t) {
    struct users *u = CONTAINER_OF(t, struct users, timer);
    users_next(u->r);
}

static void made(void *ctx, int64_t code, struct span text, struct span msg) {
    struct users *u = ctx;
    struct wire_field f;
    (void)text;
    u->busy = false;
    if (code == 0 && !u->made) {
        if (u->step >= MADE && u->step < ALLOWED) {
            op_answer(&u->r->text, &u->op, "", msg);
        }
        u->made = u->step++ == ALLOWED;
    } else if (code == 0) {
        while (wire_next(&msg, &f) > 0) {
            if (f.no == 2 &&
                span_to_cstr(f.bytes, u->id[u->logging_in].token, sizeof(u->id[0].token)) < 0) {
                round_fail(u->r, "a token that is too long");
            }
        }
    }
    if (code == 0) {
        users_next(u->r);
    } else {
        loop_timer_start(u->r->l, &u->timer, 5 * NS_PER_MS, again, "lin-users");
    }
}

void users_next(struct round *r) {
    struct users *u = &r->users;
    AUTO(buf) struct buf msg = BUF_INIT(4096);
    const char *path = NULL;
    if (!u->on || u->busy || u->in || r->finished || r->server.state != SERVER_UP) {
        return;
    }
    if (!u->made) {
        path = making(r, &msg);
    }
    for (size_t i = 0; i < LIN_USERS && !path && !u->by_cert; i++) {
        if (!u->id[i].token[0]) {
            u->logging_in = i;
            two(&msg, 1, names[i], "pw");
            path = "/etcdserverpb.Auth/Authenticate";
        }
    }
    if (!path) {
        u->in = true;
        round_up(r);
        return;
    }
    u->busy = true;
    rpc_start(&u->rpc, r, u->hc, path, 0, buf_view(&msg), made, u);
}

void users_out(struct round *r, int user) {
    struct users *u = &r->users;
    for (int i = 0; i < LIN_USERS; i++) {
        if (user < 0 || i == user) {
            u->id[i].token[0] = 0;
        }
    }
    u->in = false;
}

/* Tokens of the user end with the old password, which is the new one too. */
const char *users_password(struct round *r, struct buf *b) {
    two(b, 1, names[1 + round_luck(r, LIN_USERS - 1)], "pw");
    return "/etcdserverpb.Auth/UserChangePassword";
}

/* ---- permissions: what a user may do with a fourth of the keys ---- */

void users_allow(struct round *r, struct lin_op *op) {
    op->kind = LIN_ALLOW;
    op->whom = 1 + (int32_t)round_luck(r, LIN_USERS - 1);
    op->slot = (int32_t)round_luck(r, LIN_SLOTS);
    op->bits = round_luck(r, 2) ? LIN_MAY_READ | LIN_MAY_WRITE : round_luck(r, 4);
}
