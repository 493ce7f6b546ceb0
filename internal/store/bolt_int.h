/* Private to store: the file format of etcd's backend (bbolt), written in one pass and read with every bound checked. */
#ifndef KF_STORE_BOLT_INT_H
#define KF_STORE_BOLT_INT_H

#include "internal/base/arena.h"
#include "internal/base/buf.h"

enum { BOLT_PAGE = 4096, BOLT_DEPTH = 32, BOLT_VALUE_MAX = 256 << 20 };

/* Writing: buckets in order of name, keys in order within a bucket. */
struct bolt_out {
    int fd;
    uint64_t next_page;
    struct buf leaf; /* elements of the page being filled */
    struct buf data; /* their keys and values */
    struct buf scratch;
    size_t count;
    struct buf first;   /* first key of the page */
    struct arena index; /* first keys and page numbers of finished pages */
    struct bolt_ref *refs;
    size_t n_refs, cap_refs;
    struct bolt_bucket *buckets;
    size_t n_buckets;
};
void bolt_out_init(struct bolt_out *o, int fd);
void bolt_out_fini(struct bolt_out *o);
NODISCARD int bolt_put(struct bolt_out *o, struct span key, struct span value, struct err *e);
NODISCARD int bolt_bucket_end(struct bolt_out *o, const char *name, struct err *e);
/* Root, free list and meta pages. *ret_size: a multiple of the page size. */
NODISCARD int bolt_finish(struct bolt_out *o, uint64_t *ret_size, struct err *e);

/* Reading: any source of bytes. */
struct bolt_in {
    int (*read)(void *ctx, uint64_t at, void *p, size_t n); /* negative: not there */
    void *ctx;
    uint64_t size,
        budget; /* budget: pages that may still be visited, so that loops in the file end */
    uint32_t page_size;
    uint64_t root, high;
};
NODISCARD int bolt_open(struct bolt_in *b, struct err *e);
/* Calls back for every key of a bucket in order; a missing bucket has none. */
typedef int bolt_cb(void *ctx, struct span key, struct span value);
NODISCARD int bolt_each(struct bolt_in *b, const char *bucket, bolt_cb *cb, void *ctx,
                        struct err *e);

#endif
