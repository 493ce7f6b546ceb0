/* Leases: granted and revoked durably by the write lane, kept alive in memory, expired by timers. After a restart a
 * lease has its whole time again, or with checkpoints what the last one left of it: it never expires early. */
#include "internal/store/store_int.h"

#include "internal/base/rand.h"

#include <stdlib.h>

static struct span key_of(const int64_t *id) {
    return span_of(id, sizeof(*id));
}

static struct lease *find(const struct store *s, int64_t id) {
    return map_get(&s->leases, key_of(&id));
}

/* Leases that expire together are revoked a few at a time, between which others have their turn. */
enum { REVOKES = 512, LEFT_CHUNK = 1024 };

static void revoke_expired(struct store *s) {
    while (s->n_revoking < REVOKES && !list_empty(&s->expired) && !s->closing) {
        struct lease *le = CONTAINER_OF(s->expired.next, struct lease, link);
        list_del(&le->link);
        struct wr *w = wr_new(WR_REVOKE, 0);
        w->a = le->id;
        w->flag = true;
        s->n_revoking++;
        store_submit(s, w);
    }
}

void lease_revoked(struct store *s) {
    s->n_revoking--;
    revoke_expired(s);
}

static void expired(struct loop_timer *t) {
    struct lease *le = CONTAINER_OF(t, struct lease, timer);
    if (!le->revoking && !le->s->closing) {
        le->revoking = true;
        list_add_tail(&le->s->expired, &le->link);
        revoke_expired(le->s);
    }
}

static void arm(struct lease *le, int64_t seconds) {
    loop_timer_start(le->s->l, &le->timer, (uint64_t)seconds * NS_PER_S, expired, "store-lease");
}

static int64_t left_of(const struct store *s, const struct lease *le) {
    uint64_t now = loop_now(s->l);
    if (!loop_timer_active(&le->timer) || le->timer.due_ns <= now) {
        return le->revoking ? -1 : 0;
    }
    return (int64_t)((le->timer.due_ns - now) / NS_PER_S);
}

/* ---- time that survives a restart ---- */

static void keep_chunk(struct store *s, const struct lease_left *v, size_t n) {
    struct wr *w = wr_new(WR_LEFT, n * sizeof(*v));
    memcpy(wr_own(w), v, n * sizeof(*v));
    w->a = (int64_t)n;
    store_submit(s, w);
}

static void checkpoint_arm(struct store *s);

/* Rounded up: a lease may live longer than its time, never shorter. */
static void checkpoint(struct loop_timer *t) {
    struct store *s = CONTAINER_OF(t, struct store, checkpoint_timer);
    struct lease_left *v = mem_array(NULL, LEFT_CHUNK, sizeof(*v), LEFT_CHUNK);
    struct map_iter it = {0};
    struct map_entry *me;
    size_t n = 0;
    CHECK(v);
    while (map_next(&s->leases, &it, &me)) {
        struct lease *le = me->value;
        if (le->revoking || le->ttl <= s->o.lease_checkpoint_s) {
            continue;
        }
        le->left =
            left_of(s, le) + 1; /* whoever renews it from here on has to undo this on the disk */
        le->n_checkpoints++;
        v[n++] = (struct lease_left){le->id, le->left};
        if (n == LEFT_CHUNK) {
            keep_chunk(s, v, n);
            n = 0;
        }
    }
    if (n) {
        keep_chunk(s, v, n);
    }
    free(v);
    checkpoint_arm(s);
}

static void checkpoint_arm(struct store *s) {
    if (s->o.lease_checkpoint_s && s->leases.n && !loop_timer_active(&s->checkpoint_timer)) {
        loop_timer_start(s->l, &s->checkpoint_timer, s->o.lease_checkpoint_s * NS_PER_S, checkpoint,
                         "store-lease-time");
    }
}

void lease_kept(struct store *s, struct wr *w) {
    struct lease_left left;
    for (int64_t i = 0; i < w->a; i++) {
        memcpy(&left, wr_own(w) + (size_t)i * sizeof(left), sizeof(left));
        struct lease *le = find(s, left.id);
        if (le && left.left) {
            le->n_checkpoints -= le->n_checkpoints > 0;
        } else if (le && w->rc == 0 && !le->n_checkpoints) { /* else a later one is on its way */
            le->left = 0;
        }
    }
}

void lease_granted(struct store *s, int64_t id, int64_t ttl, int64_t left) {
    struct lease *le = new_zero(struct lease);
    le->s = s;
    le->id = id;
    le->ttl = ttl;
    le->left = left > 0 && left < ttl ? left : 0;
    list_init(&le->link);
    map_put(&s->leases, key_of(&id), le);
    arm(le, le->left ? le->left : ttl);
    checkpoint_arm(s);
}

void lease_gone(struct store *s, int64_t id) {
    struct lease *le = map_del(&s->leases, key_of(&id));
    if (le) {
        list_del(&le->link);
        loop_timer_stop(&le->timer);
        free(le);
    }
}

/* The disk refused: tried again in a second, for as long as it takes. */
void lease_revoke_failed(struct store *s, int64_t id) {
    struct lease *le = find(s, id);
    if (le && le->revoking) {
        le->revoking = false;
        arm(le, 1);
    }
}

int lease_load(struct store *s, struct err *e) {
    /* Times kept by a run with checkpoints would be too short after one without. */
    int whole = s->o.lease_checkpoint_s ? 0 : db_run(&s->wr.db, ST_LEASE_WHOLE, e);
    if (whole < 0) {
        return whole;
    }
    sqlite3_stmt *st = db_stmt(&s->rd, ST_LEASE_ALL, e);
    if (!st) {
        return -(int)e->code;
    }
    int rc, out = 0;
    while ((rc = sqlite3_step(st)) == SQLITE_ROW) {
        lease_granted(s, sqlite3_column_int64(st, 0), sqlite3_column_int64(st, 1),
                      sqlite3_column_int64(st, 2));
    }
    if (rc != SQLITE_DONE) {
        out = db_fail(&s->rd, rc, "loading leases", e);
    }
    sqlite3_reset(st);
    return out;
}

void lease_fini(struct store *s) {
    loop_timer_stop(&s->checkpoint_timer);
    struct map_iter it = {0};
    struct map_entry *me;
    while (map_next(&s->leases, &it, &me)) {
        struct lease *le = me->value;
        loop_timer_stop(&le->timer);
        free(le);
    }
    map_fini(&s->leases);
}

/* ---- public ---- */

void engine_lease_grant(struct store *s, int64_t id, int64_t ttl, store_lease_done *done,
                        void *ctx) {
    struct wr *w = wr_new(WR_GRANT, 0);
    while (id == 0) {
        id = (int64_t)(rand_u64() >> 1);
        if (find(s, id)) {
            id = 0;
        }
    }
    w->a = id;
    w->b = ttl < LEASE_TTL_MIN ? LEASE_TTL_MIN : ttl;
    w->cb.lease_done = done;
    w->ctx = ctx;
    store_submit(s, w);
}

void engine_lease_revoke(struct store *s, int64_t id, store_done *done, void *ctx) {
    struct wr *w = wr_new(WR_REVOKE, 0);
    w->a = id;
    w->cb.done = done;
    w->ctx = ctx;
    store_submit(s, w);
}

struct renewal {
    struct store *s;
    store_lease_done *done;
    void *ctx;
    int64_t id;
};

static void renewed(void *ctx, int rc, int64_t n, int64_t unused, const struct err *e) {
    struct renewal r = *(struct renewal *)ctx;
    struct lease *le = find(r.s, r.id);
    struct err gone = ERR_INIT;
    (void)n;
    (void)unused;
    free(ctx);
    if (rc == 0 && (!le || le->revoking)) {
        rc = err_pub(&gone, ERR_NOT_FOUND, STORE_E_NO_LEASE);
        e = &gone;
    } else if (rc == 0) {
        arm(le, le->ttl);
    }
    r.done(r.ctx, rc, r.id, rc == 0 ? le->ttl : 0, e);
}

int store_lease_keepalive(struct store *s, int64_t id, store_lease_done *done, void *ctx,
                          int64_t *ret_ttl, struct err *e) {
    struct lease *le = find(s, id);
    if (!le || le->revoking) {
        return err_pub(e, ERR_NOT_FOUND, STORE_E_NO_LEASE);
    }
    arm(le, le->ttl);
    *ret_ttl = le->ttl;
    if (!le->left || s->closing) {
        return 0;
    }
    struct renewal *r = new_zero(struct renewal);
    *r = (struct renewal){s, done, ctx, id};
    struct lease_left whole = {id, 0};
    struct wr *w = wr_new(WR_LEFT, sizeof(whole));
    memcpy(wr_own(w), &whole, sizeof(whole));
    w->a = 1;
    w->cb.lease_done = renewed;
    w->ctx = r;
    store_submit(s, w);
    return STORE_LATER;
}

int store_lease_get(struct store *s, int64_t id, struct store_lease_info *ret, struct err *e) {
    struct lease *le = find(s, id);
    if (!le) {
        return err_pub(e, ERR_NOT_FOUND, STORE_E_NO_LEASE);
    }
    *ret = (struct store_lease_info){le->id, le->ttl, left_of(s, le)};
    return 0;
}

int store_lease_keys(struct store *s, int64_t id, struct arena *a, struct span **ret, size_t *ret_n,
                     struct err *e) {
    if (!find(s, id)) {
        return err_pub(e, ERR_NOT_FOUND, STORE_E_NO_LEASE);
    }
    struct view v = store_view(s);
    return view_lease_keys(&v, id, a, ret, ret_n, e);
}

static int by_deadline(const void *pa, const void *pb) {
    const struct lease *a = *(struct lease *const *)pa, *b = *(struct lease *const *)pb;
    if (a->timer.due_ns != b->timer.due_ns) {
        return a->timer.due_ns < b->timer.due_ns ? -1 : 1;
    }
    return a->id < b->id ? -1 : a->id > b->id;
}

int store_lease_list(struct store *s, struct arena *a, int64_t **ret, size_t *ret_n,
                     struct err *e) {
    size_t n = 0;
    struct lease **v = arena_alloc(a, (s->leases.n + 1) * sizeof(*v));
    int64_t *ids = v ? arena_alloc(a, (s->leases.n + 1) * sizeof(*ids)) : NULL;
    if (!ids) {
        return err_pub(e, ERR_LIMIT, STORE_E_TOO_LARGE);
    }
    struct map_iter it = {0};
    struct map_entry *me;
    while (map_next(&s->leases, &it, &me)) {
        v[n++] = me->value;
    }
    qsort(v, n, sizeof(*v), by_deadline);
    for (size_t i = 0; i < n; i++) {
        ids[i] = v[i]->id;
    }
    *ret = ids;
    *ret_n = n;
    return 0;
}
