#include "internal/base/map.h"

#include "internal/base/buf.h"
#include "internal/base/rand.h"

#include <stdlib.h>
#include <string.h>

/* FNV-1a finished with a multiply-xorshift and started from a per-table secret address-independent seed. */
static uint64_t hash_of(const struct map *m, struct span key) {
    uint64_t h = rand_process_seed() ^ m->n_slots;
    for (size_t i = 0; i < key.n; i++) {
        h = (h ^ key.p[i]) * 0x100000001b3ull;
    }
    h ^= h >> 32;
    h *= 0xd6e8feb86659fd93ull;
    return h ^ (h >> 32);
}

static struct map_entry **find(const struct map *m, struct span key, uint64_t h) {
    struct map_entry **e = &m->slots[h & (m->n_slots - 1)];
    while (*e && !((*e)->hash == h && span_eq(span_of((*e)->key, (*e)->n), key))) {
        e = &(*e)->next;
    }
    return e;
}

static void grow(struct map *m) {
    struct map bigger = {NULL, m->n_slots ? m->n_slots * 2 : 16, m->n};
    bigger.slots = mem_zero_alloc(bigger.n_slots * sizeof(struct map_entry *));
    for (size_t i = 0; i < m->n_slots; i++) {
        for (struct map_entry *e = m->slots[i], *next; e; e = next) {
            next = e->next;
            e->hash = hash_of(&bigger, span_of(e->key, e->n));
            struct map_entry **slot = &bigger.slots[e->hash & (bigger.n_slots - 1)];
            e->next = *slot;
            *slot = e;
        }
    }
    free(m->slots);
    *m = bigger;
}

void *map_get(const struct map *m, struct span key) {
    if (!m->n) {
        return NULL;
    }
    struct map_entry *e = *find(m, key, hash_of(m, key));
    return e ? e->value : NULL;
}

void *map_get_str(const struct map *m, const char *key) {
    return map_get(m, span_str(key));
}

void *map_put(struct map *m, struct span key, void *value) {
    CHECK(value);
    if (m->n >= m->n_slots) {
        grow(m);
    }
    uint64_t h = hash_of(m, key);
    struct map_entry **slot = find(m, key, h);
    if (*slot) {
        void *old = (*slot)->value;
        (*slot)->value = value;
        return old;
    }
    struct map_entry *e = mem_zero_alloc(sizeof(*e) + key.n + 1);
    if (key.n) {
        memcpy(e->key, key.p, key.n);
    }
    e->n = key.n;
    e->hash = h;
    e->value = value;
    *slot = e;
    m->n++;
    return NULL;
}

void *map_put_str(struct map *m, const char *key, void *value) {
    return map_put(m, span_str(key), value);
}

void *map_del(struct map *m, struct span key) {
    if (!m->n) {
        return NULL;
    }
    struct map_entry **slot = find(m, key, hash_of(m, key)), *e = *slot;
    if (!e) {
        return NULL;
    }
    void *value = e->value;
    *slot = e->next;
    free(e);
    m->n--;
    return value;
}

void *map_del_str(struct map *m, const char *key) {
    return map_del(m, span_str(key));
}

bool map_next(const struct map *m, struct map_iter *it, struct map_entry **ret) {
    struct map_entry *e = it->started ? it->next : NULL;
    while (!e && it->slot < m->n_slots) {
        e = m->slots[it->slot++];
    }
    it->started = true;
    if (!e) {
        return false;
    }
    it->next = e->next;
    *ret = e;
    return true;
}

void map_fini(struct map *m) {
    for (size_t i = 0; i < m->n_slots; i++) {
        for (struct map_entry *e = m->slots[i], *next; e; e = next) {
            next = e->next;
            free(e);
        }
    }
    free(m->slots);
    *m = (struct map)MAP_INIT;
}
