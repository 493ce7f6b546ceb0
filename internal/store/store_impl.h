/* store_impl — what an implementation of store.h provides.
 *
 * Its struct store and struct store_watch begin with a pointer to the table. Everything promised in store.h is the
 * implementation's to keep: no callback before the call has returned, consumed arguments, the order of things. The
 * functions are called with objects that exist: NULL ends in store_face.c.
 */
#ifndef KF_STORE_IMPL_H
#define KF_STORE_IMPL_H

#include "internal/store/store.h"

struct store_impl {
    void (*close)(struct store *s);
    int64_t (*rev)(const struct store *s);
    int64_t (*compact_rev)(const struct store *s);
    void (*stat)(struct store *s, struct store_stat *ret);
    int (*range_async)(struct store *s, const struct store_range_req *q, size_t max_bytes,
                       store_range_done *done, void *ctx, struct err *e);
    void (*txn)(struct store *s, struct store_txn *own_txn, store_txn_done *done, void *ctx);
    int (*watch_start)(struct store *s, const struct store_watch_req *q, store_watch_cb *cb,
                       void *ctx, struct store_watch **ret, struct err *e);
    void (*watch_stop)(struct store_watch *w);
    void (*watch_resume)(struct store_watch *w);
    void (*watch_progress)(struct store_watch *w);
    int64_t (*watch_next_rev)(const struct store_watch *w);
    void (*lease_grant)(struct store *s, int64_t id, int64_t ttl, store_lease_done *done, void *ctx);
    void (*lease_revoke)(struct store *s, int64_t id, store_done *done, void *ctx);
    void (*compact)(struct store *s, int64_t rev, bool physical, store_done *done, void *ctx);
    /* NULL: never shared. */
    bool (*is_shared)(const struct store *s);
    void (*sync)(struct store *s, store_done *done, void *ctx);
};

/* How every implementation begins. */
struct store_head {
    const struct store_impl *impl;
};

#endif
