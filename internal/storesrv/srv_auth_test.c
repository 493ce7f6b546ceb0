/* Changes of users and roles: in force once they are stored, and never when that fails. */
#include "internal/storesrv/srv_auth.h"

#include "internal/base/rand.h"
#include "internal/lin/fault_lanes.h"
#include "internal/store/store_test.h"
#include "internal/t/t.h"

#include <stdlib.h>

struct answer {
    int n, rc;
};
static void on_change(void *ctx, int rc, const struct err *e) {
    struct answer *a = ctx;
    (void)e;
    a->n++;
    a->rc = rc;
}

static void wait_for(struct box *b, const struct answer *a) {
    struct err e = ERR_INIT;
    while (!a->n) {
        ASSERT_OK(loop_step(b->l, NS_PER_S, &e), &e);
    }
}

static void start(struct box *b, struct storesrv **v) {
    struct err e = ERR_INIT;
    const struct storesrv_opts o = {.bcrypt_cost = 4};
    box_open(b);
    ASSERT_OK(storesrv_new(b->l, b->s, &o, v, &e), &e);
    box_rest(b);
}

/* What the role may do with "k". */
static void allow(struct auth_change *g, enum perm_type t, struct answer *a) {
    AUTO(buf) struct buf m = BUF_INIT(100);
    struct perm p;
    struct role *r = role_find(g->a, SPAN_LIT("r"));
    wire_u64(&m, 1, t);
    wire_bytes(&m, 2, SPAN_LIT("k"));
    ASSERT_EQ(0, dec_perm(buf_view(&m), &p));
    r = r ? r : role_new(g->a, SPAN_LIT("r"));
    role_grant(r, p);
    role_save(g, r);
    *a = (struct answer){0};
    auth_commit(g, on_change, a);
}

static enum perm_type allowed(struct storesrv *v) {
    const struct role *r = role_find(v->auth, SPAN_LIT("r"));
    ASSERT(r && r->n == 1);
    return r->perms[0].type;
}

static void make(struct box *b, struct storesrv *v) {
    struct answer a;
    struct auth_change *g = auth_begin(v);
    user_save(g, user_new(g->a, SPAN_LIT("u")));
    allow(g, PERM_READWRITE, &a);
    wait_for(b, &a);
    ASSERT_EQ(0, a.rc);
}

/* A user was denied by a change that the disk refused a moment later. */
TEST(storesrv, permissions_change_when_they_are_stored) {
    struct box b = {0};
    struct storesrv *v;
    struct answer a;
    start(&b, &v);
    make(&b, v);
    AUTO_FREE char *token = token_new(v, user_find(v->auth, SPAN_LIT("u")));
    fault_lanes.hold[LANE_DB_WRITE] = true;
    allow(auth_begin(v), PERM_READ, &a);
    box_turn(&b);
    ASSERT(!a.n && auth_busy(v));
    ASSERT_EQ(PERM_READWRITE, allowed(v));
    fault_lanes.hold[LANE_DB_WRITE] = false;
    wait_for(&b, &a);
    ASSERT_EQ(0, a.rc);
    ASSERT_EQ(PERM_READ, allowed(v));
    ASSERT(token_user(v, span_str(token)) == user_find(v->auth, SPAN_LIT("u")));
    struct auth_change *g = auth_begin(v);
    tokens_drop(g, user_find(g->a, SPAN_LIT("u")));
    ASSERT(token_user(v, span_str(token)));
    allow(g, PERM_READ, &a);
    wait_for(&b, &a);
    ASSERT(!token_user(v, span_str(token)));
    storesrv_free(v);
    box_fini(&b);
}

TEST(storesrv, permissions_that_cannot_be_stored_do_not_change) {
    struct box b = {.vfs = "kfarm-fault"};
    struct fault f;
    struct storesrv *v;
    struct answer a;
    fault_start(&f);
    start(&b, &v);
    make(&b, v);
    AUTO_FREE char *token = token_new(v, user_find(v->auth, SPAN_LIT("u")));
    fault_set(&f, 0, SQLITE_FULL, true, false);
    allow(auth_begin(v), PERM_READ, &a);
    wait_for(&b, &a);
    ASSERT(a.rc < 0);
    fault_set(&f, -1, 0, false, false);
    ASSERT_EQ(PERM_READWRITE, allowed(v));
    ASSERT(token_user(v, span_str(token)) == user_find(v->auth, SPAN_LIT("u")));
    struct err e = ERR_INIT;
    ASSERT_OK(auth_load(v, &e), &e);
    ASSERT_EQ(PERM_READWRITE, allowed(v));
    storesrv_free(v);
    box_fini(&b);
    fault_stop(&f);
}

struct next {
    struct answer *first;
    int n, done_before;
};
static void go(void *ctx) {
    struct next *x = ctx;
    x->n++;
    x->done_before = x->first->n;
}

TEST(storesrv, permissions_change_one_after_the_other) {
    struct box b = {0};
    struct storesrv *v;
    struct answer a;
    start(&b, &v);
    make(&b, v);
    struct next x = {&a, 0, 0}, y = x;
    allow(auth_begin(v), PERM_READ, &a);
    auth_wait(v, go, &x);
    auth_wait(v, go, &y);
    ASSERT_EQ(0, x.n);
    wait_for(&b, &a);
    ASSERT_EQ(1, x.n);
    ASSERT_EQ(1, x.done_before);
    ASSERT_EQ(1, y.n);
    storesrv_free(v);
    box_fini(&b);
}
