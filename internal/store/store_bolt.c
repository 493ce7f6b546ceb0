#include "internal/store/bolt_int.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

enum {
    BRANCH = 1,
    LEAF = 2,
    META = 4,
    FREELIST = 16,
    HEAD = 16,
    ELEM = 16,
    IS_BUCKET = 1,
    META_BYTES = 64
};
#define MAGIC 0xed0cdaedu

struct bolt_ref {
    struct span key;
    uint64_t page;
};
struct bolt_bucket {
    char name[32];
    uint64_t root;
};

/* ---- writing ---- */

void bolt_out_init(struct bolt_out *o, int fd) {
    *o = (struct bolt_out){.fd = fd, .next_page = 3}; /* 0 and 1 meta, 2 free list */
    buf_init(&o->leaf, 1 << 24);
    buf_init(&o->data, (size_t)1 << 31);
    buf_init(&o->scratch, (size_t)1 << 31);
    buf_init(&o->first, 1 << 24);
    o->index = (struct arena)ARENA_INIT((size_t)4 << 30);
}

void bolt_out_fini(struct bolt_out *o) {
    buf_fini(&o->leaf);
    buf_fini(&o->data);
    buf_fini(&o->scratch);
    buf_fini(&o->first);
    arena_fini(&o->index);
    free(o->refs);
    free(o->buckets);
}

static int write_at(struct bolt_out *o, uint64_t at, struct span s, struct err *e) {
    while (s.n) {
        ssize_t n = pwrite(o->fd, s.p, s.n, (off_t)at);
        if (n < 0) {
            return err_sys(e, errno, "writing the snapshot");
        }
        at += (uint64_t)n;
        IGNORE_ERR(span_skip(&s, (size_t)n), "written");
    }
    return 0;
}

static void page_head(struct buf *b, uint64_t id, unsigned flags, size_t count, size_t overflow) {
    buf_le64(b, id);
    buf_u8(b, (uint8_t)flags);
    buf_u8(b, 0);
    buf_u8(b, (uint8_t)(count & 0xff));
    buf_u8(b, (uint8_t)(count >> 8));
    buf_le32(b, (uint32_t)overflow);
}

/* Writes `o->leaf` and `o->data` as one page, which may overflow into the ones behind it. */
static int flush_page(struct bolt_out *o, unsigned flags, uint64_t *ret_page, struct err *e) {
    size_t bytes = HEAD + o->leaf.n + o->data.n, pages = (bytes + BOLT_PAGE - 1) / BOLT_PAGE;
    *ret_page = o->next_page;
    o->next_page += pages;
    buf_reset(&o->scratch);
    page_head(&o->scratch, *ret_page, flags, o->count, pages - 1);
    buf_span(&o->scratch, buf_view(&o->leaf));
    buf_span(&o->scratch, buf_view(&o->data));
    buf_zero(&o->scratch, pages * BOLT_PAGE - bytes);
    o->count = 0;
    buf_reset(&o->leaf);
    buf_reset(&o->data);
    if (buf_ok(&o->scratch) < 0) {
        return err_set(e, ERR_NOMEM, "a page of the snapshot");
    }
    return write_at(o, *ret_page * BOLT_PAGE, buf_view(&o->scratch), e);
}

static int add_ref(struct bolt_out *o, struct span key, uint64_t page, struct err *e) {
    if (o->n_refs == o->cap_refs) {
        size_t cap = o->cap_refs ? o->cap_refs * 2 : 64;
        struct bolt_ref *v = mem_array(o->refs, cap, sizeof(*v), (size_t)1 << 28);
        if (!v) {
            return err_set(e, ERR_NOMEM, "index of the snapshot");
        }
        o->refs = v;
        o->cap_refs = cap;
    }
    struct span copy = arena_copy(&o->index, key);
    if (!copy.p) {
        return err_set(e, ERR_NOMEM, "index of the snapshot");
    }
    o->refs[o->n_refs++] = (struct bolt_ref){copy, page};
    return 0;
}

/* Where the data of element i begins is told relative to the element. All elements move when one is added, so the
 * position is kept relative to the data here and fixed when the page is closed. */
static void fix_positions(struct bolt_out *o) {
    for (size_t i = 0; i < o->count; i++) {
        size_t at = i * ELEM + 4;
        uint32_t pos = 0;
        for (size_t k = 0; k < 4; k++) {
            pos |= (uint32_t)o->leaf.p[at + k] << (8 * k);
        }
        pos += (uint32_t)(o->leaf.n - i * ELEM);
        for (size_t k = 0; k < 4; k++) {
            o->leaf.p[at + k] = (uint8_t)(pos >> (8 * k));
        }
    }
}

static int close_leaf(struct bolt_out *o, struct err *e) {
    if (!o->count) {
        return 0;
    }
    uint64_t page;
    fix_positions(o);
    int rc = flush_page(o, LEAF, &page, e);
    return rc < 0 ? rc : add_ref(o, buf_view(&o->first), page, e);
}

static void leaf_element(struct bolt_out *o, uint32_t flags, struct span key, struct span value) {
    if (!o->count) {
        buf_reset(&o->first);
        buf_span(&o->first, key);
    }
    buf_le32(&o->leaf, flags);
    buf_le32(&o->leaf, (uint32_t)o->data.n);
    buf_le32(&o->leaf, (uint32_t)key.n);
    buf_le32(&o->leaf, (uint32_t)value.n);
    buf_span(&o->data, key);
    buf_span(&o->data, value);
    o->count++;
}

int bolt_put(struct bolt_out *o, struct span key, struct span value, struct err *e) {
    size_t more = ELEM + key.n + value.n;
    if (o->count && HEAD + o->leaf.n + o->data.n + more > BOLT_PAGE) {
        int rc = close_leaf(o, e);
        if (rc < 0) {
            return rc;
        }
    }
    leaf_element(o, 0, key, value);
    return buf_ok(&o->data) < 0 || buf_ok(&o->leaf) < 0
               ? err_set(e, ERR_NOMEM, "a value of the snapshot")
               : 0;
}

/* One level of branch pages over refs[from..]; the new level's refs replace them. */
static int branch_level(struct bolt_out *o, struct err *e) {
    struct bolt_ref *old = o->refs;
    size_t n = o->n_refs, i = 0;
    o->refs = NULL;
    o->n_refs = o->cap_refs = 0;
    int rc = 0;
    while (i < n && rc == 0) {
        size_t from = i, bytes = HEAD;
        while (i < n && (i - from < 2 || bytes + ELEM + old[i].key.n <= BOLT_PAGE)) {
            bytes += ELEM + old[i++].key.n;
        }
        if (n - i == 1 && i - from > 2) {
            i--; /* no branch page with a single child */
        }
        size_t count = i - from, at = 0;
        for (size_t k = from; k < i; k++) {
            buf_le32(&o->leaf, (uint32_t)((count - (k - from)) * ELEM + at));
            buf_le32(&o->leaf, (uint32_t)old[k].key.n);
            buf_le64(&o->leaf, old[k].page);
            buf_span(&o->data, old[k].key);
            at += old[k].key.n;
        }
        o->count = count;
        uint64_t page;
        rc = flush_page(o, BRANCH, &page, e);
        if (rc == 0) {
            rc = add_ref(o, old[from].key, page, e);
        }
    }
    free(old);
    return rc;
}

int bolt_bucket_end(struct bolt_out *o, const char *name, struct err *e) {
    int rc = close_leaf(o, e);
    if (rc == 0 && !o->n_refs) { /* an empty bucket is an empty leaf */
        uint64_t page;
        rc = flush_page(o, LEAF, &page, e);
        if (rc == 0) {
            rc = add_ref(o, SPAN_EMPTY, page, e);
        }
    }
    while (rc == 0 && o->n_refs > 1) {
        rc = branch_level(o, e);
    }
    if (rc < 0) {
        return rc;
    }
    struct bolt_bucket *v = mem_array(o->buckets, o->n_buckets + 1, sizeof(*v), 64);
    if (!v || str_put(v[o->n_buckets].name, sizeof(v->name), "%s", name) < 0) {
        return err_set(e, ERR_LIMIT, "buckets of the snapshot");
    }
    o->buckets = v;
    v[o->n_buckets++].root = o->refs[0].page;
    o->n_refs = 0;
    arena_reset(&o->index);
    return 0;
}

static uint64_t fnv64a(const uint8_t *p, size_t n) {
    uint64_t h = 14695981039346656037ull;
    for (size_t i = 0; i < n; i++) {
        h = (h ^ p[i]) * 1099511628211ull;
    }
    return h;
}

static int write_meta(struct bolt_out *o, uint64_t id, uint64_t root, struct err *e) {
    AUTO(buf) struct buf b = BUF_INIT(BOLT_PAGE);
    page_head(&b, id, META, 0, 0);
    buf_le32(&b, MAGIC);
    buf_le32(&b, 2);
    buf_le32(&b, BOLT_PAGE);
    buf_le32(&b, 0);
    buf_le64(&b, root);
    buf_le64(&b, 0);
    buf_le64(&b, 2);            /* free list */
    buf_le64(&b, o->next_page); /* high water mark */
    buf_le64(&b, id + 1);       /* transaction: the second meta page is the newer */
    buf_le64(&b, fnv64a(b.p + HEAD, META_BYTES - 8));
    buf_zero(&b, BOLT_PAGE - b.n);
    return write_at(o, id * BOLT_PAGE, buf_view(&b), e);
}

int bolt_finish(struct bolt_out *o, uint64_t *ret_size, struct err *e) {
    for (size_t i = 0; i < o->n_buckets; i++) {
        AUTO(buf) struct buf v = BUF_INIT(16);
        buf_le64(&v, o->buckets[i].root);
        buf_le64(&v, 0);
        leaf_element(o, IS_BUCKET, span_str(o->buckets[i].name), buf_view(&v));
    }
    uint64_t root;
    fix_positions(o);
    int rc = flush_page(o, LEAF, &root, e);
    AUTO(buf) struct buf free_list = BUF_INIT(BOLT_PAGE);
    page_head(&free_list, 2, FREELIST, 0, 0);
    buf_zero(&free_list, BOLT_PAGE - HEAD);
    if (rc < 0 || (rc = write_at(o, 2 * BOLT_PAGE, buf_view(&free_list), e)) < 0 ||
        (rc = write_meta(o, 0, root, e)) < 0 || (rc = write_meta(o, 1, root, e)) < 0) {
        return rc;
    }
    *ret_size = o->next_page * BOLT_PAGE;
    return 0;
}

/* ---- reading ---- */

static int corrupt(struct err *e, const char *what) {
    return err_set(e, ERR_CORRUPT, "not a whole etcd database: %s", what);
}

static int le(struct span s, size_t at, size_t n, uint64_t *ret) {
    struct span f;
    uint64_t v = 0;
    if (span_skip(&s, at) < 0 || span_take(&s, n, &f) < 0) {
        return -ERR_INVALID;
    }
    for (size_t i = 0; i < n; i++) {
        v |= (uint64_t)f.p[i] << (8 * i);
    }
    *ret = v;
    return 0;
}

static bool meta_ok(struct span m, uint64_t *root, uint64_t *high, uint64_t *txid,
                    uint32_t *page_size) {
    uint64_t magic, version, size, flags, sum;
    if (le(m, 0, 4, &magic) < 0 || le(m, 4, 4, &version) < 0 || le(m, 8, 4, &size) < 0 ||
        le(m, 12, 4, &flags) < 0 || le(m, 16, 8, root) < 0 || le(m, 40, 8, high) < 0 ||
        le(m, 48, 8, txid) < 0 || le(m, 56, 8, &sum) < 0) {
        return false;
    }
    *page_size = (uint32_t)size;
    return magic == MAGIC && version == 2 && size >= 1024 && size <= 65536 &&
           (size & (size - 1)) == 0 && sum == fnv64a(m.p, META_BYTES - 8);
}

int bolt_open(struct bolt_in *b, struct err *e) {
    uint8_t raw[META_BYTES];
    uint64_t best = 0;
    bool any = false;
    b->page_size = 0;
    /* The second meta page stands behind the first, whose page size may be unreadable: usual sizes are tried. */
    static const uint32_t tries[] = {0, 4096, 8192, 16384, 65536};
    for (size_t i = 0; i < ARRAY_LEN(tries); i++) {
        uint64_t root, high, txid;
        uint32_t size;
        if (b->read(b->ctx, tries[i] + HEAD, raw, sizeof(raw)) < 0 ||
            !meta_ok(span_of(raw, sizeof(raw)), &root, &high, &txid, &size) ||
            (i && size != tries[i]) || (any && txid < best)) {
            continue;
        }
        any = true;
        best = txid;
        b->page_size = size;
        b->root = root;
        b->high = high;
    }
    if (!any) {
        return corrupt(e, "no valid meta page");
    }
    b->budget = b->size / b->page_size + 1;
    return 0;
}

/* Reads one page with its overflow into *ret (malloc'ed). */
static int read_page(struct bolt_in *b, uint64_t id, struct buf *ret, struct err *e) {
    uint8_t head[HEAD];
    uint64_t at, overflow, bytes, self;
    if (!b->budget-- || id < 2 || ck_mul(id, (uint64_t)b->page_size, &at) || at >= b->size ||
        b->read(b->ctx, at, head, HEAD) < 0) {
        b->budget = b->budget == UINT64_MAX ? 0 : b->budget;
        return corrupt(e, "a page is out of reach");
    }
    if (le(span_of(head, HEAD), 0, 8, &self) < 0 || self != id ||
        le(span_of(head, HEAD), 12, 4, &overflow) < 0 || overflow > b->size / b->page_size) {
        return corrupt(e, "a page has a wrong head");
    }
    bytes = (overflow + 1) * b->page_size;
    buf_reset(ret);
    uint8_t *p = bytes > b->size - at ? NULL : buf_room(ret, bytes);
    if (!p || b->read(b->ctx, at, p, bytes) < 0) {
        return corrupt(e, "a page is cut off");
    }
    buf_added(ret, bytes);
    return 0;
}

/* Element i of a page: its key, and its value or child. */
struct element {
    struct span key, value;
    uint64_t child, flags;
};

static int element_at(struct span page, size_t i, bool leaf, struct element *ret) {
    size_t at = HEAD + i * ELEM;
    uint64_t pos, ksize, vsize = 0;
    struct span s = page;
    *ret = (struct element){0};
    if (leaf ? le(page, at, 4, &ret->flags) < 0 || le(page, at + 4, 4, &pos) < 0 ||
                   le(page, at + 8, 4, &ksize) < 0 || le(page, at + 12, 4, &vsize) < 0
             : le(page, at, 4, &pos) < 0 || le(page, at + 4, 4, &ksize) < 0 ||
                   le(page, at + 8, 8, &ret->child) < 0) {
        return -ERR_INVALID;
    }
    if (span_skip(&s, at) < 0 || pos > s.n || span_skip(&s, (size_t)pos) < 0 || ksize > s.n ||
        span_take(&s, (size_t)ksize, &ret->key) < 0 || vsize > s.n ||
        span_take(&s, (size_t)vsize, &ret->value) < 0) {
        return -ERR_INVALID;
    }
    return 0;
}

struct level {
    struct buf page;
    size_t at, count;
    bool leaf;
};

static int enter(struct bolt_in *b, uint64_t id, struct level *lv, struct err *e) {
    uint64_t flags, count;
    int rc = read_page(b, id, &lv->page, e);
    if (rc < 0) {
        return rc;
    }
    if (le(buf_view(&lv->page), 8, 2, &flags) < 0 || le(buf_view(&lv->page), 10, 2, &count) < 0 ||
        !(flags == LEAF || flags == BRANCH)) {
        return corrupt(e, "a page of the wrong kind");
    }
    lv->leaf = flags == LEAF;
    lv->count = (size_t)count;
    lv->at = 0;
    return 0;
}

static int walk(struct bolt_in *b, uint64_t root, bool want_buckets, bolt_cb *cb, void *ctx,
                struct err *e) {
    struct level *lv = mem_zero_alloc(BOLT_DEPTH * sizeof(struct level));
    for (int i = 0; i < BOLT_DEPTH; i++) {
        buf_init(&lv[i].page, BOLT_VALUE_MAX);
    }
    int depth = 0, rc = enter(b, root, &lv[0], e);
    while (rc == 0 && depth >= 0) {
        struct level *l = &lv[depth];
        if (l->at == l->count) {
            depth--;
            continue;
        }
        struct element el;
        if (element_at(buf_view(&l->page), l->at++, l->leaf, &el) < 0) {
            rc = corrupt(e, "an element points outside its page");
        } else if (l->leaf) {
            rc = (el.flags & IS_BUCKET) == (want_buckets ? IS_BUCKET : 0)
                     ? cb(ctx, el.key, el.value)
                     : 0;
        } else if (depth + 1 == BOLT_DEPTH) {
            rc = corrupt(e, "the tree is too deep");
        } else {
            rc = enter(b, el.child, &lv[++depth], e);
        }
    }
    for (int i = 0; i < BOLT_DEPTH; i++) {
        buf_fini(&lv[i].page);
    }
    free(lv);
    if (rc < 0 && e->code == ERR_OK) {
        return err_set(e, (enum err_code) - rc, "reading the snapshot");
    }
    return rc < 0 ? rc : 0;
}

struct bucket_find {
    const char *name;
    bool found, is_inline;
    uint64_t root;
    struct buf page; /* of an inline bucket */
};

static int find_bucket(void *ctx, struct span key, struct span value) {
    struct bucket_find *f = ctx;
    if (!span_eq_str(key, f->name)) {
        return 0;
    }
    if (le(value, 0, 8, &f->root) < 0 || value.n < 16) {
        return -ERR_CORRUPT;
    }
    f->found = true;
    f->is_inline = f->root == 0;
    if (f->is_inline) {
        IGNORE_ERR(span_skip(&value, 16), "length checked");
        return buf_span(&f->page, value);
    }
    return 0;
}

static int walk_inline(struct span page, bolt_cb *cb, void *ctx, struct err *e) {
    uint64_t flags, count;
    if (le(page, 8, 2, &flags) < 0 || le(page, 10, 2, &count) < 0 || flags != LEAF) {
        return corrupt(e, "an inline bucket");
    }
    for (size_t i = 0; i < count; i++) {
        struct element el;
        if (element_at(page, i, true, &el) < 0) {
            return corrupt(e, "an inline bucket");
        }
        int rc = el.flags & IS_BUCKET ? 0 : cb(ctx, el.key, el.value);
        if (rc < 0) {
            return e->code == ERR_OK ? err_set(e, (enum err_code) - rc, "reading the snapshot")
                                     : rc;
        }
    }
    return 0;
}

int bolt_each(struct bolt_in *b, const char *bucket, bolt_cb *cb, void *ctx, struct err *e) {
    struct bucket_find f = {.name = bucket, .page = BUF_INIT(BOLT_VALUE_MAX)};
    uint64_t budget = b->size / b->page_size + 1;
    b->budget = budget;
    int rc = walk(b, b->root, true, find_bucket, &f, e);
    b->budget = budget;
    if (rc == 0 && f.found) {
        rc = f.is_inline ? walk_inline(buf_view(&f.page), cb, ctx, e)
                         : walk(b, f.root, false, cb, ctx, e);
    }
    buf_fini(&f.page);
    return rc;
}
