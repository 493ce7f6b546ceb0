/* The file layer and the checkpoints: what may lie behind the end of the WAL, what a power cut leaves of it, how large it
 * gets, and that nobody else gets at the file. */
#include "internal/store/store_test.h"

#include "internal/base/rand.h"
#include "internal/t/t.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FRAME = 24 + 4096, HEADER = 32 };

static uint64_t size_of(struct box *b, const char *name) {
    struct stat st;
    return fstatat(b->dirfd, name, &st, 0) == 0 ? (uint64_t)st.st_size : 0;
}

/* The value is `mark` with so many digits. */
static void put_n(struct box *b, uint32_t n, int digits, uint32_t mark) {
    struct err e = ERR_INIT;
    char k[32];
    AUTO_FREE char *v = str_fmt("%0*u", digits, mark);
    ASSERT_OK(str_put(k, sizeof(k), "key/%06u", n), &e);
    ASSERT_OK(box_put(b, k, v, 0, &e), &e);
}

static bool has_n(struct box *b, uint32_t n, uint32_t mark) {
    struct arena a = ARENA_INIT(1 << 20);
    struct store_kv kv;
    struct err e = ERR_INIT;
    char k[32], v[16];
    ASSERT(str_put(k, sizeof(k), "key/%06u", n) == 0 && str_put(v, sizeof(v), "%08u", mark) == 0);
    int rc = store_get(b->s, span_str(k), &a, &kv, &e);
    bool same = rc == 0 && kv.value.n >= 8 && memcmp(kv.value.p + kv.value.n - 8, v, 8) == 0;
    arena_fini(&a);
    return same;
}

static void no_finding(void *ctx, const char *finding) {
    (void)ctx;
    fail_msg("%s", finding);
}

/* ---- power cuts, by hand: the files as they stand are what the disk has ---- */

static struct buf file_of(struct box *b, const char *name) {
    struct buf out = BUF_INIT(64u << 20);
    AUTO_FD int fd = openat(b->dirfd, name, O_RDONLY | O_CLOEXEC);
    uint8_t chunk[65536];
    ssize_t n;
    ASSERT(fd >= 0);
    while ((n = read(fd, chunk, sizeof(chunk))) > 0) {
        ASSERT_EQ(0, buf_add(&out, chunk, (size_t)n));
    }
    return out;
}

/* A second folder with the files as a machine finds them after the power comes back. */
static void revive(struct box *b, const struct buf *db, const struct buf *wal) {
    box_open(b);
    box_shut(b);
    const struct buf *from[] = {db, wal};
    const char *const names[] = {"store.db", "store.db-wal"};
    for (size_t i = 0; i < 2; i++) {
        AUTO_FD int fd = openat(b->dirfd, names[i], O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        ASSERT(fd >= 0);
        ASSERT_EQ((int)from[i]->n, (int)write(fd, from[i]->p, from[i]->n));
    }
    box_open(b);
}

/* The number of frames of the WAL's present round, by the salts. */
static size_t live_frames(const struct buf *wal) {
    size_t n = 0;
    for (size_t at = HEADER; at + FRAME <= wal->n; at += FRAME, n++) {
        if (memcmp(wal->p + 16, wal->p + at + 8, 8) != 0) {
            break;
        }
    }
    return n;
}

/* Commits into a WAL that was used before, then: whatever is behind the last frame, all is there. */
TEST(store, wal_may_end_in_anything) {
    struct box b = {0};
    box_open(&b);
    b.s->wal.soft = UINT32_MAX; /* no checkpoint but ours */
    uint32_t n = 0;
    for (; n < 60; n++) {
        put_n(&b, n, 200, n);
    }
    int frames = 0,
        moved = 0; /* the next commit starts the WAL again, over the frames of this round */
    ASSERT_EQ(SQLITE_OK, sqlite3_wal_checkpoint_v2(b.s->wr.db.h, NULL, SQLITE_CHECKPOINT_PASSIVE,
                                                   &frames, &moved));
    ASSERT(frames > 60);
    ASSERT_EQ(frames, moved);
    for (; n < 70; n++) {
        put_n(&b, n, 200, n);
    }
    struct buf db = file_of(&b, "store.db"), wal = file_of(&b, "store.db-wal");
    size_t live = live_frames(&wal), end = HEADER + live * FRAME;
    ASSERT(live >= 20 && live < (size_t)frames); /* frames of the earlier round follow */
    ASSERT(memcmp(wal.p + end + 8, "\0\0\0\0\0\0\0\0", 8) != 0);
    for (int kind = 0; kind < 5; kind++) {
        struct box after = {0};
        struct buf left = BUF_INIT(64u << 20);
        ASSERT_EQ(0, buf_add(&left, wal.p, wal.n));
        switch (kind) {
        case 0: break;                                           /* stale frames, then zeros */
        case 1: memset(left.p + end, 0, left.n - end); break;    /* zeros */
        case 2: memset(left.p + end, 0xa5, left.n - end); break; /* anything */
        case 3: memset(left.p + end, 0, FRAME / 2); break;       /* a torn frame over a stale one */
        case 4: buf_trunc(&left, end); break;                    /* the zeros never got there */
        default: break;
        }
        revive(&after, &db, &left);
        for (uint32_t i = 0; i < n; i++) {
            ASSERT(has_n(&after, i, i));
        }
        put_n(&after, n, 200, n);
        box_shut(&after);
        struct err e = ERR_INIT;
        ASSERT_OK(store_check(after.dirfd, "store.db", false, no_finding, NULL, &e), &e);
        box_open(&after);
        ASSERT(has_n(&after, n, n));
        box_fini(&after);
        buf_fini(&left);
    }
    buf_fini(&db);
    buf_fini(&wal);
    box_fini(&b);
}

/* A commit torn anywhere in its frames is not there, and everything before it is. */
TEST(store, wal_torn_in_the_last_commit) {
    struct box b = {0};
    box_open(&b);
    b.s->wal.soft = UINT32_MAX;
    for (uint32_t i = 0; i < 30; i++) {
        put_n(&b, i, 200, i);
    }
    b.s->wal.stuck = true; /* no checkpoint */
    b.s->wal.stuck_at = UINT64_MAX / 2;
    struct buf before = file_of(&b, "store.db-wal");
    size_t n_before = live_frames(&before);
    put_n(&b, 5, 9000, 77);
    struct buf db = file_of(&b, "store.db"), wal = file_of(&b, "store.db-wal");
    size_t n_after = live_frames(&wal);
    ASSERT(n_after >= n_before + 3);
    for (size_t cut = HEADER + n_before * FRAME; cut < HEADER + n_after * FRAME; cut += 1500) {
        struct box after = {0};
        struct buf left = BUF_INIT(64u << 20);
        ASSERT_EQ(0, buf_add(&left, wal.p, wal.n));
        /* from here the disk has what was there before */
        memset(left.p + cut, 0, left.n - cut);
        memcpy(left.p + cut, before.p + cut, before.n > cut ? before.n - cut : 0);
        revive(&after, &db, &left);
        ASSERT(has_n(&after, 5, 5));
        for (uint32_t i = 0; i < 30; i++) {
            ASSERT(has_n(&after, i, i));
        }
        box_fini(&after);
        buf_fini(&left);
    }
    buf_fini(&before);
    buf_fini(&db);
    buf_fini(&wal);
    box_fini(&b);
}

/* ---- sizes ---- */

static void idle(struct box *b) {
    struct err e = ERR_INIT;
    uint64_t until = clock_ns() + 60 * NS_PER_S;
    while (size_of(b, "store.db-wal") > STORE_WAL_KEEP && clock_ns() < until) {
        ASSERT_OK(loop_step(b->l, NS_PER_S, &e), &e);
    }
    ASSERT(size_of(b, "store.db-wal") <= STORE_WAL_KEEP);
}

struct flood {
    struct box *b;
    size_t out, left, key, keys, bytes;
};

static void flood_next(struct flood *f);

static void flood_done(void *ctx, struct store_txn *t, int rc, const struct err *e) {
    struct flood *f = ctx;
    (void)t;
    ASSERT_OK(rc, (struct err *)(uintptr_t)e);
    f->out--;
    flood_next(f);
}

static void flood_next(struct flood *f) {
    static const char value[2000] = "v";
    char k[32];
    if (!f->left) {
        return;
    }
    f->left--;
    f->out++;
    ASSERT_EQ(0, str_put(k, sizeof(k), "flood/%zu", f->key++ * 7919 % f->keys));
    struct store_txn *t = store_txn_new(0);
    store_txn_put(t, &t->body.then, span_str(k), span_of(value, f->bytes), 0);
    store_txn(f->b->s, t, flood_done, f);
}

/* Writers without a pause, readers in between: the WAL starts again and again, and shrinks when they stop. */
TEST(store, wal_has_a_bound) {
    struct box b = {0};
    struct err e = ERR_INIT;
    box_open(&b);
    b.s->wal.most = 200;
    struct flood f = {.b = &b, .left = 6000, .keys = 500, .bytes = 2000};
    for (int i = 0; i < 16; i++) {
        flood_next(&f);
    }
    uint64_t most = 0;
    while (f.out) {
        ASSERT_OK(loop_step(b.l, NS_PER_S, &e), &e);
        uint64_t now = size_of(&b, "store.db-wal");
        most = now > most ? now : most;
        has_n(&b, 1, 1);
    }
    /* twice `most`, what gathers until a reader was got round, a batch, what is filled ahead; all that was written is many
     * times as much */
    ASSERT(most < (2 * 200 + 128 + 100) * FRAME + (1u << 20));
    ASSERT(most > STORE_WAL_KEEP);
    idle(&b);
    /* power lost now: nothing of the old WAL comes back over the newer database */
    struct buf db = file_of(&b, "store.db"), wal = file_of(&b, "store.db-wal");
    ASSERT_EQ(0, memcmp(wal.p, "\0\0\0\0", 4));
    struct box after = {0};
    int64_t rev = store_rev(b.s);
    revive(&after, &db, &wal);
    ASSERT_EQ(rev, store_rev(after.s));
    box_shut(&after);
    ASSERT_OK(store_check(after.dirfd, "store.db", false, no_finding, NULL, &e), &e);
    box_open(&after);
    box_fini(&after);
    buf_fini(&db);
    buf_fini(&wal);
    put_n(&b, 1, 100, 1);
    ASSERT(size_of(&b, "store.db-wal") <= STORE_WAL_KEEP);
    box_shut(&b);
    ASSERT_EQ(0, size_of(&b, "store.db-wal")); /* closed: one file */
    ASSERT_OK(store_check(b.dirfd, "store.db", false, no_finding, NULL, &e), &e);
    box_open(&b);
    ASSERT(has_n(&b, 1, 1));
    box_fini(&b);
}

/* Passes go on while each leaves less than half; then the write lane does the rest. */
TEST(store, passes_go_on_while_they_pay) {
    struct box b = {0};
    box_open(&b);
    put_n(&b, 1, 200, 1);
    box_rest(&b);
    struct wal *w = &b.s->wal;
    uint64_t frames = w->frames;
    static const struct {
        uint64_t rest;
        bool due;
    } cases[] = {{1600, true}, {800, true}, {799, false}, {129, false}, {128, true}, {0, false}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        w->stuck = false;
        w->passing = true;
        w->rest_before = 1600;
        w->frames = 4000;
        w->moved = 4000 - cases[i].rest;
        ASSERT_EQ(cases[i].due, wal_due(b.s, false));
        wal_kick(b.s); /* the pass that goes on instead, where it pays */
        ASSERT_EQ(!cases[i].due && cases[i].rest, w->out);
        if (w->out) {
            ASSERT_EQ(cases[i].rest, w->rest_before);
            box_rest(&b);
        }
    }
    w->passing = w->stuck = false;
    w->frames = frames;
    w->moved = 0;
    box_fini(&b);
}

struct shot {
    int fd;
    bool done, compacted;
};

static void shot_done(void *ctx, int rc, int own_fd, uint64_t size, const struct err *e) {
    struct shot *sh = ctx;
    (void)size;
    (void)e;
    ASSERT_EQ(0, rc);
    sh->fd = own_fd;
    sh->done = true;
}
static void shot_compacted(void *ctx, int rc, const struct err *e) {
    struct shot *sh = ctx;
    (void)e;
    ASSERT_EQ(0, rc);
    sh->compacted = true;
}

/* A snapshot is read in many transactions; what it has not read yet is not swept away. */
TEST(store, snapshot_under_compaction) {
    struct box b = {0};
    struct err e = ERR_INIT;
    struct shot sh = {.fd = -1};
    box_open(&b);
    struct flood f = {.b = &b, .left = 3 * STORE_BREATH, .keys = 50, .bytes = 10};
    for (int i = 0; i < 500; i++) {
        flood_next(&f);
    }
    while (f.out) {
        ASSERT_OK(loop_step(b.l, NS_PER_S, &e), &e);
    }
    int64_t rev = store_rev(b.s);
    ASSERT_OK(store_snapshot(b.s, shot_done, &sh, &e), &e);
    store_compact(b.s, rev, true, shot_compacted, &sh);
    while (!sh.done || !sh.compacted) {
        ASSERT_OK(loop_step(b.l, NS_PER_S, &e), &e);
    }
    int64_t restored = 0;
    ASSERT_OK(store_restore(b.dirfd, "again.db", sh.fd, &restored, &e), &e);
    close(sh.fd);
    ASSERT_EQ(rev, restored);
    ASSERT_OK(store_check(b.dirfd, "again.db", false, no_finding, NULL, &e), &e);
    AUTO_FREE char *path = str_fmt("%s/again.db", b.dir);
    sqlite3 *h = NULL;
    sqlite3_stmt *st;
    ASSERT_EQ(SQLITE_OK, sqlite3_open_v2(path, &h, SQLITE_OPEN_READWRITE, NULL));
    ASSERT_EQ(SQLITE_OK, sqlite3_prepare_v2(h, "SELECT count(*) FROM log", -1, &st, NULL));
    ASSERT_EQ(SQLITE_ROW, sqlite3_step(st));
    int64_t n = sqlite3_column_int64(st, 0);
    ASSERT(n == rev - 1 || n == 50); /* every revision, or it began after the compaction */
    sqlite3_finalize(st);
    sqlite3_close(h);
    box_fini(&b);
}

/* Pages that compaction writes while a checkpoint goes on would be left for the write lane to move: with a client that writes
 * beside it, one put waited for six seconds. */
TEST(store, compaction_rests_while_a_checkpoint_goes_on) {
    struct box b = {0};
    box_open(&b);
    for (uint32_t i = 0; i < 20; i++) {
        put_n(&b, 1, 200, i);
    }
    box_rest(&b);
    b.s->sweeping = true;
    b.s->wal.out = true;
    ASSERT_EQ(TASK_MAX_, task_due(b.s, true));
    ASSERT_EQ(TASK_MAX_, task_due(b.s, false));
    b.s->wal.out = false;
    b.s->rest_until = 0;
    ASSERT_EQ(TASK_SWEEP, task_due(b.s, true));
    b.s->sweeping = false;
    box_fini(&b);
}

/* A commit does not make the file longer: it writes where zeros or old frames are. */
TEST(store, commits_overwrite) {
    struct box b = {0};
    box_open(&b);
    put_n(&b, 0, 200, 0);
    uint64_t size = size_of(&b, "store.db-wal");
    ASSERT(size >= 64 * 1024);
    for (uint32_t i = 1; i < 8; i++) {
        put_n(&b, i, 200, i);
        ASSERT_EQ(size, size_of(&b, "store.db-wal"));
    }
    box_fini(&b);
}

/* ---- which thread commits ---- */

struct seen {
    struct box *b;
    size_t left;
    uint64_t began, turns; /* of the loop */
};

static void seen_done(void *ctx, struct store_txn *t, int rc, const struct err *e) {
    struct seen *w = ctx;
    (void)t;
    ASSERT_OK(rc, e);
    w->left--;
    w->turns = loop_turns(w->b->l) - w->began;
}

/* Puts `n` keys at once, or deletes all; true: without the write lane, whose answers are a callback of the loop. */
static bool on_the_loop(struct box *b, size_t n) {
    struct seen w = {b, n ? n : 1, loop_turns(b->l), 0};
    struct err e = ERR_INIT;
    for (size_t i = 0; i < w.left; i++) {
        char k[16];
        ASSERT_OK(str_put(k, sizeof(k), "lone/%zu", i), &e);
        struct store_txn *t = store_txn_new(0);
        if (n) {
            store_txn_put(t, &t->body.then, span_str(k), span_str("v"), 0);
        } else {
            store_txn_delete(t, &t->body.then, span_str("a"), span_str("z"));
        }
        store_txn(b->s, t, seen_done, &w);
    }
    while (w.left) {
        ASSERT_OK(loop_step(b->l, NS_PER_S, &e), &e);
    }
    return w.turns == 0;
}

/* The commits before took so long. */
static void rest_after(struct box *b, uint64_t commit_ns) {
    box_rest(b);
    b->s->turns = loop_turns(b->l);
    b->s->commit_ns = commit_ns;
}

static void nothing(struct loop_timer *t) {
    (void)t;
}

TEST(store, lone_write_commits_on_the_loop) {
    struct box b = {0};
    struct err e = ERR_INIT;
    struct loop_timer timers[2] = {0};
    box_open(&b);
    ASSERT(!on_the_loop(&b, 1)); /* nobody knows yet how quick the disk is */
    rest_after(&b, 0);
    ASSERT(on_the_loop(&b, 1));
    rest_after(&b, 0);
    ASSERT(!on_the_loop(&b, 2)); /* the second's commit waits for the first's */
    rest_after(&b, 0);
    ASSERT(!on_the_loop(&b, 0)); /* an interval may hold any number of keys */
    rest_after(&b, NS_PER_S);    /* a slow disk must not stop reads and watches */
    ASSERT(!on_the_loop(&b, 1));
    ASSERT(b.s->commit_ns > NS_PER_S / 16 * 14 && b.s->commit_ns < NS_PER_S);
    rest_after(&b, 0);
    for (size_t i = 0; i < ARRAY_LEN(timers); i++) { /* somebody else uses the loop */
        loop_timer_start(b.l, &timers[i], 0, nothing, "other");
    }
    while (loop_timer_active(&timers[0]) || loop_timer_active(&timers[1])) {
        ASSERT_OK(loop_step(b.l, NS_PER_S, &e), &e);
    }
    ASSERT(!on_the_loop(&b, 1));
    rest_after(&b, 0);
    b.s->wal.out = true; /* a checkpoint, as it were: it syncs as well */
    ASSERT(!on_the_loop(&b, 1));
    b.s->wal.out = false;
    rest_after(&b, 0);
    ASSERT(on_the_loop(&b, 1));
    box_fini(&b);
}

/* ---- others ---- */

TEST(store, other_programs_find_it_locked) {
    struct box b = {0};
    struct err e = ERR_INIT;
    sqlite3 *h = NULL;
    box_open(&b);
    put_n(&b, 0, 9, 0);
    AUTO_FREE char *path = str_fmt("%s/store.db", b.dir);
    /* In this process SQLite's locks would not tell us apart: a child looks. */
    AUTO_FD int fd = openat(b.dirfd, "store.db", O_RDWR | O_CLOEXEC);
    struct flock fl = {
        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0x40000002, .l_len = 510};
    ASSERT_EQ(0, fcntl(fd, F_OFD_GETLK, &fl));
    ASSERT_EQ(F_WRLCK, fl.l_type); /* the range that every SQLite must share to read */
    box_shut(&b);
    ASSERT_EQ(SQLITE_OK, sqlite3_open_v2(path, &h, SQLITE_OPEN_READWRITE, NULL));
    ASSERT_EQ(SQLITE_OK, sqlite3_exec(h, "SELECT count(*) FROM log", NULL, NULL, NULL));
    sqlite3_close(h);
    box_open(&b);
    ASSERT(has_n(&b, 0, 0));
    ASSERT_OK(box_put(&b, "x", "y", 0, &e), &e);
    box_fini(&b);
}

/* After a checkpoint that emptied the WAL there is nothing due: it was asked for again and again, and nothing else done. */
TEST(store, emptied_wal_is_at_rest) {
    struct box b = {0};
    struct err e = ERR_INIT;
    box_open(&b);
    for (int i = 0; i < 5; i++) {
        ASSERT_OK(box_put(&b, "k", "v", 0, &e), &e);
    }
    ASSERT(b.s->wal.frames > b.s->wal.moved);
    b.s->wal.passing = true;
    b.s->wal.shrink = true;
    store_kick(b.s);
    for (int i = 0; i < 50 && (b.s->busy || wal_due(b.s, true)); i++) {
        ASSERT_OK(loop_step(b.l, 10 * NS_PER_MS, &e), &e);
    }
    ASSERT(!b.s->busy && !wal_due(b.s, true));
    ASSERT_OK(box_compact(&b, store_rev(b.s), &e), &e); /* physical: a sweep has its turn */
    box_fini(&b);
}
