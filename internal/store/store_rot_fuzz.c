/* Files that rot: a store, or a snapshot of it, with bytes changed here and there by the input. The check says so or finds
 * nothing, and what it finds nothing in can be used; repairing gives what can be used, or says why not. */
#include "internal/store/store_int.h"

#include "internal/base/rand.h"
#include "internal/sys/sys.h"
#include "internal/t/t.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { LIM_BASE = 8 << 20, BOLT_PAGE = 4096, BOLT_META = 16, BOLT_META_SUM = 56 };

struct place {
    char dir[32];
    int fd;
    struct loop *l;
    struct store *s;
};

static void place_make(struct place *p) {
    struct err e = ERR_INIT;
    *p = (struct place){.dir = "/dev/shm/kf-fuzz-XXXXXX"};
    CHECK(mkdtemp(p->dir) && (p->fd = sys_open_dir(p->dir, &e)) >= 0);
}

static void place_remove(struct place *p) {
    struct err e = ERR_INIT;
    close(p->fd);
    CHECK(sys_rmtree(AT_FDCWD, p->dir, &e) == 0);
}

static int place_open(struct place *p, struct err *e) {
    CHECK(loop_new(&p->l, e) == 0);
    int rc = store_open(p->l, p->fd, "store.db", NULL, &p->s, e);
    if (rc < 0) {
        loop_free(p->l);
    }
    return rc;
}

static void place_shut(struct place *p) {
    store_close(p->s);
    loop_free(p->l);
}

/* ---- what is changed: a store with some of everything, made once ---- */

struct base {
    struct buf db, snapshot; /* without its digest, which a bare database does not need */
};

static void settle(struct place *p) {
    struct store_stat st = {.n_pending = 1};
    while (st.n_pending) {
        CHECK(loop_step(p->l, NS_PER_S, NULL) == 0);
        store_stat(p->s, &st);
    }
}

static void nobody(void *ctx, struct store_txn *t, int rc, const struct err *e) {
    (void)ctx;
    (void)t;
    (void)e;
    CHECK(rc == 0);
}

static void put(struct place *p, unsigned key, unsigned n, int64_t lease) {
    static const char filling[9000] = "filling";
    char name[16];
    CHECK(str_put(name, sizeof(name), "key/%02u", key) == 0);
    struct store_txn *t = store_txn_new(0);
    store_txn_put(t, &t->body.then, span_str(name), span_of(filling, n), lease);
    store_txn(p->s, t, nobody, NULL);
}

static void shot(void *ctx, int rc, int own_fd, uint64_t size, const struct err *e) {
    struct buf *b = ctx;
    uint8_t chunk[65536];
    (void)size;
    (void)e;
    CHECK(rc == 0);
    for (ssize_t n; (n = read(own_fd, chunk, sizeof(chunk))) > 0;) {
        CHECK(buf_add(b, chunk, (size_t)n) == 0);
    }
    close(own_fd);
    CHECK(b->n > 32);
}

static const struct base *the_base(void) {
    static struct base b;
    struct err e = ERR_INIT;
    struct place p;
    if (b.db.n) {
        return &b;
    }
    b.db = b.snapshot = (struct buf)BUF_INIT(LIM_BASE);
    place_make(&p);
    CHECK(place_open(&p, &e) == 0);
    store_lease_grant(p.s, 7, 3600, NULL, NULL);
    for (unsigned i = 0; i < 90; i++) {
        put(&p, i % 7, i % 30 == 11 ? 9000 : i % 40, i % 9 ? 0 : 7);
        settle(&p);
        if (i == 50) {
            store_compact(p.s, 20, true, NULL, NULL);
        }
    }
    struct store_txn *t = store_txn_new(0);
    store_txn_delete(t, &t->body.then, SPAN_LIT("key/03"), SPAN_EMPTY);
    store_txn(p.s, t, nobody, NULL);
    store_aux_put(p.s, SPAN_LIT("authUsers"), SPAN_LIT("u"), SPAN_LIT("x"), NULL, NULL);
    settle(&p);
    CHECK(store_snapshot(p.s, shot, &b.snapshot, &e) == 0);
    while (!b.snapshot.n) {
        CHECK(loop_step(p.l, NS_PER_S, &e) == 0);
    }
    buf_trunc(&b.snapshot, b.snapshot.n - 32);
    place_shut(&p);
    CHECK(sys_file_read(p.fd, "store.db", &b.db, &e) == 0);
    place_remove(&p);
    return &b;
}

/* ---- how it is changed ---- */

static size_t somewhere(struct span *in, size_t n) {
    uint8_t page = 0, at[2] = {0};
    IGNORE_ERR(span_u8(in, &page), "zeros follow the end");
    IGNORE_ERR(span_u8(in, &at[0]), "as above");
    IGNORE_ERR(span_u8(in, &at[1]), "as above");
    size_t where = (size_t)page * 4096 + ((size_t)at[0] << 8 | at[1]) % 4096;
    return where % n;
}

static void change(struct buf *b, struct span *in) {
    uint8_t how = 0, v = 0;
    struct span some;
    IGNORE_ERR(span_u8(in, &how), "zeros follow the end");
    size_t at = somewhere(in, b->n), n = how >> 3;
    switch (how & 7) {
    case 0:
    case 1:
        IGNORE_ERR(span_u8(in, &v), "as above");
        b->p[at] ^= (uint8_t)(1u << (v & 7));
        break;
    case 2: /* an end that never got there */
        if (n == 1) {
            buf_trunc(b, at + 1);
        }
        break;
    case 3: { /* one page where another should be */
        size_t from = somewhere(in, b->n) & ~(size_t)4095;
        at &= ~(size_t)4095;
        if (from + 4096 <= b->n && at + 4096 <= b->n) {
            memmove(b->p + at, b->p + from, 4096);
        }
        break;
    }
    case 4: memset(b->p + at, 0, b->n - at < n * 64 ? b->n - at : n * 64); break;
    default:
        IGNORE_ERR(span_take(in, n < in->n ? n : in->n, &some), "length bounded");
        n = some.n < b->n - at ? some.n : b->n - at;
        if (n) {
            memcpy(b->p + at, some.p, n);
        }
        break;
    }
}

static void write_file(struct place *p, const char *name, const struct buf *b) {
    struct err e = ERR_INIT;
    AUTO_FD int fd = sys_open(p->fd, name, O_RDWR | O_CREAT | O_TRUNC, 0600, &e);
    CHECK(fd >= 0 && sys_write_all(fd, buf_view(b), &e) == 0);
}

/* ---- what must hold afterwards ---- */

static void note(void *ctx, const char *finding) {
    if (getenv("KF_FUZZ_SAY")) {
        fprintf(stderr, "%s\n", finding);
    }
    ++*(size_t *)ctx;
}

/* Whatever the file says is no more than wrong; asking for it is all right. */
static void use(struct place *p) {
    struct err e = ERR_INIT;
    if (place_open(p, &e) < 0) {
        return;
    }
    for (int64_t rev = 0; rev <= 92; rev += 4) {
        struct arena a = ARENA_INIT(LIM_BASE);
        struct store_range_req q = {
            .key = SPAN_LIT("\0"), .end = SPAN_LIT("\0"), .rev = rev, .count_only = rev % 8 == 4};
        struct store_range_res r;
        err_reset(&e);
        IGNORE_ERR(store_range(p->s, &q, &a, &r, &e), "any outcome but a crash");
        arena_fini(&a);
    }
    place_shut(p);
}

FUZZ(store_rotten)(const uint8_t *p, size_t n) {
    const struct base *base = the_base();
    struct span in = span_of(p, n);
    struct buf b = BUF_INIT(LIM_BASE);
    struct err e = ERR_INIT;
    struct place at;
    size_t found = 0;
    buf_span(&b, buf_view(&base->db));
    while (in.n) {
        change(&b, &in);
    }
    place_make(&at);
    write_file(&at, "store.db", &b);
    int rc = store_check(at.fd, "store.db", false, note, &found, &e);
    CHECK(rc < 0 || !found);
    use(&at);
    err_reset(&e);
    if (rc < 0 && store_check(at.fd, "store.db", true, note, &found, &e) == 0) {
        found = 0;
        CHECK(store_check(at.fd, "store.db", false, note, &found, &e) == 0 && !found);
        CHECK(place_open(&at, &e) == 0);
        place_shut(&at);
    }
    place_remove(&at);
    buf_fini(&b);
    return 0;
}

/* Meta pages carry a sum of their own: FNV-1a over what is before it. */
static void sum_again(struct buf *b) {
    for (size_t page = 0; page < 2 && b->n >= 2 * BOLT_PAGE; page++) {
        uint8_t *m = b->p + page * BOLT_PAGE + BOLT_META;
        uint64_t h = 14695981039346656037ull;
        for (size_t i = 0; i < BOLT_META_SUM; i++) {
            h = (h ^ m[i]) * 1099511628211ull;
        }
        memcpy(m + BOLT_META_SUM, &h, sizeof(h));
    }
}

FUZZ(store_rotten_snapshot)(const uint8_t *p, size_t n) {
    const struct base *base = the_base();
    struct span in = span_of(p, n);
    struct buf b = BUF_INIT(LIM_BASE);
    struct err e = ERR_INIT;
    struct place at;
    size_t found = 0;
    int64_t rev;
    buf_span(&b, buf_view(&base->snapshot));
    while (in.n) {
        change(&b, &in);
    }
    sum_again(&b);
    place_make(&at);
    write_file(&at, "snap", &b);
    AUTO_FD int snap = sys_open(at.fd, "snap", O_RDONLY, 0, &e);
    CHECK(snap >= 0);
    if (store_restore(at.fd, "store.db", snap, &rev, &e) == 0) {
        CHECK(store_check(at.fd, "store.db", false, note, &found, &e) == 0 && !found);
        CHECK(place_open(&at, &e) == 0);
        CHECK(store_rev(at.s) >= 1);
        place_shut(&at);
        use(&at);
    }
    place_remove(&at);
    buf_fini(&b);
    return 0;
}
