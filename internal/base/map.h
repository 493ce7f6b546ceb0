/* map — a hash table from byte strings to pointers, and intrusive doubly linked lists.
 *
 * Owns:     copies of its keys; the values belong to the caller.
 * Limits:   grows with its entries; hashing is keyed per process against chosen collisions.
 * Errors:   none; without memory the process ends.
 * Threads:  any, one at a time. Iteration order is unspecified; deleting the current entry while iterating is allowed.
 */
#ifndef KF_MAP_H
#define KF_MAP_H

#include "internal/base/span.h"

struct map_entry {
    struct map_entry *next;
    uint64_t hash;
    void *value;
    size_t n;
    char key[]; /* NUL-terminated behind n bytes */
};

struct map {
    struct map_entry **slots;
    size_t n_slots, n;
};

#define MAP_INIT {NULL, 0, 0}

void *map_get(const struct map *m, struct span key);
void *map_get_str(const struct map *m, const char *key);
/* Stores; returns the previous value or NULL. `value` must not be NULL. */
void *map_put(struct map *m, struct span key, void *value);
void *map_put_str(struct map *m, const char *key, void *value);
/* Removes; returns the value or NULL. */
void *map_del(struct map *m, struct span key);
void *map_del_str(struct map *m, const char *key);
/* Iterates: start with *it = 0, *e = NULL; returns false at the end. */
struct map_iter {
    size_t slot;
    struct map_entry *next;
    bool started;
};
bool map_next(const struct map *m, struct map_iter *it, struct map_entry **ret);
void map_fini(struct map *m); /* values untouched */

struct list {
    struct list *prev, *next;
};
static inline void list_init(struct list *l) {
    l->prev = l->next = l;
}
static inline bool list_empty(const struct list *l) {
    return l->next == l;
}
static inline void list_add_tail(struct list *head, struct list *n) {
    n->prev = head->prev;
    n->next = head;
    head->prev->next = n;
    head->prev = n;
}
static inline void list_add_head(struct list *head, struct list *n) {
    list_add_tail(head->next, n);
}
/* Safe on an entry that is in no list when it was list_init'ed. */
static inline void list_del(struct list *n) {
    n->prev->next = n->next;
    n->next->prev = n->prev;
    n->prev = n->next = n;
}
/* All of `from` behind what is in `head`. */
static inline void list_move_all(struct list *head, struct list *from) {
    if (!list_empty(from)) {
        from->next->prev = head->prev;
        head->prev->next = from->next;
        from->prev->next = head;
        head->prev = from->prev;
        list_init(from);
    }
}
/* for (LIST_EACH(pos, next, head)): `pos` may be removed inside. */
#define LIST_EACH(pos, nxt, head)                                                     \
    struct list *pos = (head)->next, *nxt = pos->next; pos != (head); pos = nxt, nxt = pos->next

#endif
