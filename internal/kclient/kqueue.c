#include "internal/base/rand.h"
#include "internal/kclient/kclient_int.h"
#include "internal/kube/kube.h"
#include "internal/log/log.h"

#include <stdlib.h>

enum { RETRY_MIN_MS = 5, RETRY_MAX_MS = 300000 };

/* A key that is queued, handled, delayed, or has failed lately. */
struct kitem {
    struct kqueue *q;
    struct list link; /* in q->ready when queued */
    struct loop_timer t;
    unsigned fails;
    bool is_queued, is_running, again;
    char key[];
};

struct kqueue {
    struct loop *l;
    char *name;
    unsigned workers, running;
    size_t n_unsynced; /* informers that are still listing */
    void (*handle)(void *ctx, const char *key);
    void *ctx;
    struct map items;
    struct list ready;
    struct loop_hook pump;
};

static void pump(void *ctx) {
    struct kqueue *q = ctx;
    while (!q->n_unsynced && q->running < q->workers && !list_empty(&q->ready)) {
        struct kitem *it = CONTAINER_OF(q->ready.next, struct kitem, link);
        list_del(&it->link);
        it->is_queued = false;
        it->is_running = true;
        it->again = false;
        q->running++;
        q->handle(q->ctx, it->key);
    }
}

static void kick(struct kqueue *q) {
    if (!q->n_unsynced && !list_empty(&q->ready)) {
        loop_before_sleep(q->l, &q->pump, pump, q);
    }
}

struct kqueue *kqueue_new(struct loop *l, const char *name, unsigned workers,
                          void (*handle)(void *ctx, const char *key), void *ctx) {
    struct kqueue *q = new_zero(struct kqueue);
    q->l = l;
    q->name = str_dup(name);
    q->workers = workers;
    q->handle = handle;
    q->ctx = ctx;
    list_init(&q->ready);
    return q;
}

static void on_synced(void *ctx) {
    struct kqueue *q = ctx;
    q->n_unsynced--;
    kick(q);
}

void kqueue_need(struct kqueue *q, struct kinformer *i) {
    q->n_unsynced++;
    kinformer_on_synced(i, on_synced, q);
}

static struct kitem *item(struct kqueue *q, const char *key) {
    struct kitem *it = map_get_str(&q->items, key);
    if (!it) {
        size_t n = strlen(key) + 1;
        it = mem_zero_alloc(sizeof(*it) + n);
        memcpy(it->key, key, n);
        it->q = q;
        list_init(&it->link);
        map_put_str(&q->items, key, it);
    }
    return it;
}

static void enqueue(struct kitem *it) {
    loop_timer_stop(&it->t);
    if (it->is_running) {
        it->again = true;
    } else if (!it->is_queued) {
        it->is_queued = true;
        list_add_tail(&it->q->ready, &it->link);
    }
    kick(it->q);
}

void kqueue_add(struct kqueue *q, const char *key) {
    enqueue(item(q, key));
}

void kqueue_add_obj(struct kqueue *q, const struct json *obj) {
    char key[LIM_KKEY];
    kkey_of(obj, key);
    kqueue_add(q, key);
}

static void on_due(struct loop_timer *t) {
    enqueue(CONTAINER_OF(t, struct kitem, t));
}

static void later(struct kitem *it, uint64_t after_ns) {
    if (it->is_queued || it->again ||
        (loop_timer_active(&it->t) && it->t.due_ns <= loop_now(it->q->l) + after_ns)) {
        return;
    }
    loop_timer_stop(&it->t);
    loop_timer_start(it->q->l, &it->t, after_ns, on_due, it->q->name);
}

void kqueue_add_after(struct kqueue *q, const char *key, uint64_t after_ns) {
    later(item(q, key), after_ns);
}

unsigned kqueue_failures(const struct kqueue *q, const char *key) {
    const struct kitem *it = map_get_str(&q->items, key);
    return it ? it->fails : 0;
}

void kqueue_done(struct kqueue *q, const char *key, bool ok) {
    struct kitem *it = map_get_str(&q->items, key);
    CHECK(it && it->is_running);
    it->is_running = false;
    q->running--;
    if (ok) {
        it->fails = 0;
    } else {
        uint64_t ms = RETRY_MIN_MS;
        for (unsigned k = 0; k < it->fails && ms < RETRY_MAX_MS; k++) {
            ms *= 2;
        }
        it->fails++;
        ms = ms < RETRY_MAX_MS ? ms : RETRY_MAX_MS;
        later(it, (ms + rand_below(ms / 4 + 1)) * NS_PER_MS);
    }
    if (it->again) {
        it->again = false;
        enqueue(it);
    } else if (!loop_timer_active(&it->t) && !it->is_queued) {
        map_del_str(&q->items, it->key);
        free(it);
    }
    kick(q);
}

void kqueue_free(struct kqueue *q) {
    if (!q) {
        return;
    }
    struct map_iter mi = {0};
    struct map_entry *en;
    while (map_next(&q->items, &mi, &en)) {
        struct kitem *it = en->value;
        loop_timer_stop(&it->t);
        free(it);
    }
    map_fini(&q->items);
    loop_hook_cancel(&q->pump);
    free(q->name);
    free(q);
}
