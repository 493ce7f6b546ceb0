/* store_sync: others write to the cluster too, so what is newest is asked of it: a linearizable read tells the revision, and
 * the watches having been given everything up to there is waited for. Whoever asks meanwhile shares the next read. */
#include "internal/etcd/etcd_int.h"

#include "internal/wire/wire.h"

#include <stdlib.h>

struct sync {
    struct list link;
    store_done *done;
    void *ctx;
};

static void read_next(struct etcd *s);

static void move_all(struct list *to, struct list *from) {
    while (!list_empty(from)) {
        struct list *p = from->next;
        list_del(p);
        list_add_tail(to, p);
    }
}

static void finish(struct etcd *s, int rc, const struct err *e) {
    struct list now;
    list_init(&now);
    move_all(&now, &s->sync_reading);
    s->sync_busy = false;
    if (!s->closing) {
        read_next(s);
    } else {
        move_all(&now, &s->sync_waiting);
    }
    while (!list_empty(&now)) {
        struct sync *k = CONTAINER_OF(now.next, struct sync, link);
        list_del(&k->link);
        k->done(k->ctx, rc, e);
        free(k);
    }
}

static void on_reached(struct eheld *h, bool in_time) {
    struct etcd *s = h->s;
    struct err e = ERR_INIT;
    int rc = 0;
    s->sync_held = false;
    if (!in_time) {
        rc = err_set(&e, ERR_TIMEOUT, "etcd's watch does not report what has been written");
    }
    finish(s, rc, &e);
}

static void on_read(struct ecall *c, int rc, struct span message, struct err *e) {
    struct etcd *s = c->s;
    struct answer_head h = {0};
    if (rc >= 0 && etcd_dec_first_head(message, &h) < 0) {
        rc = err_set(e, ERR_INTERNAL, "etcd's answer is malformed");
    }
    if (rc < 0) {
        finish(s, rc, e);
        return;
    }
    s->sync_held = true; /* cleared at once when there is nothing to wait for */
    efeed_hold(s, &s->sync_hold, h.rev, on_reached);
    efeed_ask_sync(s);
}

static void read_next(struct etcd *s) {
    if (s->sync_busy || list_empty(&s->sync_waiting)) {
        return;
    }
    s->sync_busy = true;
    move_all(&s->sync_reading, &s->sync_waiting);
    struct ecall *c = ecall_new(s, "/etcdserverpb.KV/Range", on_read, NULL);
    wire_bytes(&c->out, 1, s->ns.first); /* the one key: it need not exist */
    wire_bool(&c->out, 9, true);
    c->is_read = true;
    ecall_start(c);
}

void etcd_sync(struct store *st, store_done *done, void *ctx) {
    struct etcd *s = etcd_of(st);
    struct sync *k = new_zero(struct sync);
    k->done = done;
    k->ctx = ctx;
    list_init(&k->link);
    list_add_tail(&s->sync_waiting, &k->link);
    read_next(s);
}

void esync_init(struct etcd *s) {
    list_init(&s->sync_waiting);
    list_init(&s->sync_reading);
    s->sync_hold.s = s;
}
