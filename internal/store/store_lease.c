/* Leases: granted and revoked durably by the write lane, kept alive in memory, expired by timers. After a restart a
 * lease has its whole time again (or what a checkpoint left of it): it never expires early. */
#include "internal/store/store_int.h"

#include "internal/base/rand.h"

#include <stdlib.h>

static struct span key_of(const int64_t *id) {
    return span_of(id, sizeof(*id));
}

static struct lease *find(const struct store *s, int64_t id) {
    return map_get(&s->leases, key_of(&id));
}

static void expired(struct loop_timer *t) {
    struct lease *le = CONTAINER_OF(t, struct lease, timer);
    if (!le->revoking && !le->s->closing) {
        le->revoking = true;
        struct wr *w = wr_new(WR_REVOKE, 0);
        w->a = le->id;
        store_submit(le->s, w);
    }
}

static void arm(struct lease *le, int64_t seconds) {
    loop_timer_start(le->s->l, &le->timer, (uint64_t)seconds * NS_PER_S, expired, "store-lease");
}

void lease_granted(struct store *s, int64_t id, int64_t ttl, int64_t left) {
    struct lease *le = new_zero(struct lease);
    le->s = s;
    le->id = id;
    le->ttl = ttl;
    map_put(&s->leases, key_of(&id), le);
    arm(le, left > 0 && left < ttl ? left : ttl);
}

void lease_gone(struct store *s, int64_t id) {
    struct lease *le = map_del(&s->leases, key_of(&id));
    if (le) {
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

int store_lease_keepalive(struct store *s, int64_t id, int64_t *ret_ttl, struct err *e) {
    struct lease *le = find(s, id);
    if (!le || le->revoking) {
        return err_pub(e, ERR_NOT_FOUND, STORE_E_NO_LEASE);
    }
    arm(le, le->ttl);
    *ret_ttl = le->ttl;
    return 0;
}

static int64_t left_of(const struct store *s, const struct lease *le) {
    uint64_t now = loop_now(s->l);
    if (!loop_timer_active(&le->timer) || le->timer.due_ns <= now) {
        return le->revoking ? -1 : 0;
    }
    return (int64_t)((le->timer.due_ns - now) / NS_PER_S);
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
