/* Crashes and broken disks: SIGKILL, failing writes and syncs, a full disk, and power loss that drops or tears
 * everything that was not synced. */
#include "internal/store/store_test.h"

#include "internal/base/rand.h"
#include "internal/t/t.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- SIGKILL ---- */

struct writer_child {
    struct box *b;
    int fd;
    uint32_t next;
};

static void child_done(void *ctx, struct store_txn *t, int rc, const struct err *e) {
    struct writer_child *c = ctx;
    (void)e;
    CHECK(rc == 0);
    uint64_t v = 0;
    CHECK(span_to_u64(t->body.then.v[0].u.put.value, 0, UINT32_MAX, &v) == 0);
    uint32_t ack = (uint32_t)v;
    CHECK(write(c->fd, &ack, sizeof(ack)) == sizeof(ack));
}

static void child_submit(struct writer_child *c) {
    char k[32], v[16];
    CHECK(str_put(k, sizeof(k), "key/%06u", c->next) == 0 &&
          str_put(v, sizeof(v), "%u", c->next) == 0);
    c->next++;
    struct store_txn *t = store_txn_new(0);
    store_txn_put(t, &t->body.then, span_str(k), span_str(v), 0);
    store_txn(c->b->s, t, child_done, c);
}

static _Noreturn void child_main(struct box *b, int fd, uint32_t first) {
    struct err e = ERR_INIT;
    struct writer_child c = {b, fd, first};
    CHECK(store_open(b->l, b->dirfd, "store.db", &b->o, &b->s, &e) == 0);
    for (;;) {
        for (uint64_t i = rand_u64() % 5; i < 6; i++) {
            child_submit(&c);
        }
        if (c.next % 97 == 0) {
            store_compact(b->s, store_rev(b->s), false, NULL, NULL);
        }
        CHECK(loop_step(b->l, NS_PER_S, &e) == 0);
    }
}

static void verify_file(struct box *b) {
    sqlite3_stmt *st;
    static const char *const zero[] = {
        ("SELECT count(*) FROM cur c LEFT JOIN log l ON l.id = c.id"
         " WHERE l.id IS NULL OR l.key <> c.key"),
        "SELECT count(*) FROM log l WHERE l.id > (SELECT id FROM cur c WHERE c.key = l.key)",
        "SELECT count(*) FROM log l LEFT JOIN cur c ON c.key = l.key WHERE c.key IS NULL",
    };
    ASSERT_EQ(SQLITE_OK, sqlite3_prepare_v2(b->s->rd.h, "PRAGMA integrity_check", -1, &st, NULL));
    ASSERT_EQ(SQLITE_ROW, sqlite3_step(st));
    ASSERT_STREQ("ok", (const char *)sqlite3_column_text(st, 0));
    sqlite3_finalize(st);
    for (size_t i = 0; i < ARRAY_LEN(zero); i++) {
        ASSERT_EQ(SQLITE_OK, sqlite3_prepare_v2(b->s->rd.h, zero[i], -1, &st, NULL));
        ASSERT_EQ(SQLITE_ROW, sqlite3_step(st));
        ASSERT_EQ(0, sqlite3_column_int64(st, 0));
        sqlite3_finalize(st);
    }
}

static void has_key(struct box *b, uint32_t i) {
    struct arena a = ARENA_INIT(1 << 20);
    struct store_kv kv;
    struct err e = ERR_INIT;
    char k[32], v[16];
    ASSERT(str_put(k, sizeof(k), "key/%06u", i) == 0 && str_put(v, sizeof(v), "%u", i) == 0);
    ASSERT_OK(store_get(b->s, span_str(k), &a, &kv, &e), &e);
    ASSERT(span_eq(kv.value, span_str(v)));
    arena_fini(&a);
}

TEST(store, sigkill_loses_nothing_acknowledged) {
    struct box b = {0};
    box_open(&b);
    uint32_t acked[16384];
    size_t n_acked = 0;
    uint32_t first = 0;
    for (int round = 0; round < 12; round++) {
        box_shut(&b);
        int fds[2];
        ASSERT_EQ(0, pipe2(fds, O_CLOEXEC));
        loop_free(b.l); /* no thread may exist over the fork */
        struct err e = ERR_INIT;
        ASSERT_OK(loop_new(&b.l, &e), &e);
        pid_t pid = fork();
        if (pid == 0) {
            close(fds[0]);
            child_main(&b, fds[1], first);
        }
        close(fds[1]);
        uint64_t until = clock_ns() + (5 + rand_u64() % 60) * NS_PER_MS;
        uint32_t got;
        size_t seen = 0;
        while ((clock_ns() < until || !seen) && n_acked < ARRAY_LEN(acked) &&
               read(fds[0], &got, sizeof(got)) == sizeof(got)) {
            acked[n_acked++] = got;
            seen++;
        }
        kill(pid, SIGKILL);
        while (n_acked < ARRAY_LEN(acked) && read(fds[0], &got, sizeof(got)) == sizeof(got)) {
            acked[n_acked++] = got; /* acknowledged before it died */
        }
        close(fds[0]);
        int status;
        ASSERT_EQ(pid, waitpid(pid, &status, 0));
        ASSERT(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        box_open(&b);
        verify_file(&b);
        for (size_t i = 0; i < n_acked; i++) {
            has_key(&b, acked[i]);
            first = acked[i] + 1 > first ? acked[i] + 1 : first;
        }
        first += 1000;
    }
    ASSERT(n_acked >= 12); /* each round saw one; how many more is the disk's affair */
    box_fini(&b);
}

/* ---- broken disks ---- */

/* A disk that fails for a while: the failed write is not there, the acknowledged are, and it heals. */
static void failing_disk(int code, bool syncs_only, int want) {
    struct fault f;
    fault_start(&f);
    struct box b = {.vfs = "kfarm-fault"};
    bool acked[400] = {0};
    box_open(&b);
    uint32_t n = 0;
    for (long after = 0; after < 24; after++) {
        fault_set(&f, after, code, true, syncs_only);
        for (int i = 0; i < 6; i++, n++) {
            struct err e = ERR_INIT;
            char k[32], v[16];
            ASSERT(str_put(k, sizeof(k), "key/%06u", n) == 0 &&
                   str_put(v, sizeof(v), "%u", n) == 0);
            int64_t rev = store_rev(b.s);
            int rc = box_put(&b, k, v, 0, &e);
            acked[n] = rc == 0;
            ASSERT_EQ(rev + (rc == 0), store_rev(b.s));
            if (rc < 0) {
                ASSERT_EQ(want, rc);
            }
            struct arena a = ARENA_INIT(1 << 16);
            struct store_kv kv;
            ASSERT_EQ(rc == 0 ? 0 : -ERR_NOT_FOUND,
                      store_get(b.s, span_str(k), &a, &kv, &e)); /* reads go on */
            arena_fini(&a);
        }
        fault_set(&f, -1, 0, false, false);
        struct err e = ERR_INIT;
        ASSERT_OK(box_put(&b, "healed", "yes", 0, &e), &e);
    }
    for (int again = 0; again < 2; again++) {
        verify_file(&b);
        for (uint32_t i = 0; i < n; i++) {
            if (acked[i]) {
                has_key(&b, i);
            }
        }
        box_shut(&b);
        box_open(&b);
    }
    box_fini(&b);
    fault_stop(&f);
}

TEST(store, failing_writes) {
    failing_disk(SQLITE_IOERR_WRITE, false, -ERR_IO);
}
TEST(store, failing_syncs) {
    failing_disk(SQLITE_IOERR_FSYNC, true, -ERR_IO);
}
TEST(store, full_disk) {
    failing_disk(SQLITE_FULL, false, -ERR_LIMIT);
}

TEST(store, power_loss_loses_nothing_acknowledged) {
    uint64_t seed = rand_u64();
    printf("power loss seed %llu\n", (unsigned long long)seed);
    struct box b = {.vfs = "kfarm-fault"};
    bool acked[4000] = {0};
    uint32_t n = 0;
    struct fault f;
    fault_start(&f);
    for (int round = 0; round < 40; round++) {
        box_open(&b);
        verify_file(&b);
        for (uint32_t i = 0; i < n; i++) {
            if (acked[i]) {
                has_key(&b, i);
            }
        }
        seed = seed * 6364136223846793005ull + 1442695040888963407ull;
        int puts = 1 + (int)(seed >> 33) % 60;
        bool abrupt = (seed >> 50) & 1;
        for (int i = 0; i < puts; i++, n++) {
            struct err e = ERR_INIT;
            char k[32], v[16];
            ASSERT(str_put(k, sizeof(k), "key/%06u", n) == 0 &&
                   str_put(v, sizeof(v), "%u", n) == 0);
            if (abrupt && i == puts - 1) {
                fault_set(&f, (long)(seed >> 40) % 6, SQLITE_IOERR_WRITE, true,
                          false); /* in the middle of a commit */
            }
            acked[n] = box_put(&b, k, v, 0, &e) == 0;
            if (i % 20 == 19 && acked[n]) {
                store_compact(b.s, store_rev(b.s), false, NULL, NULL);
            }
        }
        fault_power_off(&f, &seed);
        box_shut(&b);
        fault_power_on(&f);
    }
    box_open(&b);
    box_fini(&b);
    fault_stop(&f);
}

/* What a failed sync should have written never reaches the disk unless it is written again. That is done for the commit
 * that failed; so nothing may wait for its sync behind one: compaction's commits were lost so, and what followed them. */
TEST(store, failed_sync_after_compaction) {
    struct fault f;
    struct err e = ERR_INIT;
    uint64_t seed = 1;
    fault_start(&f);
    f.syncs_drop = true;
    struct box b = {.vfs = "kfarm-fault"};
    box_open(&b);
    for (int i = 0; i < 40; i++) {
        ASSERT_OK(box_put(&b, "k", "v", 0, &e), &e);
    }
    ASSERT_OK(box_compact(&b, store_rev(b.s), &e), &e); /* physical: its commits are done */
    box_rest(&b); /* or a checkpoint's sync fails in place of the commit's */
    fault_set(&f, 0, SQLITE_IOERR_FSYNC, false, true);
    ASSERT_ERR(-ERR_IO, box_put(&b, "k", "lost", 0, &e));
    ASSERT(fault_tripped(&f));
    err_reset(&e);
    ASSERT_OK(box_put(&b, "key/000001", "1", 0, &e), &e);
    int64_t rev = store_rev(b.s);
    fault_power_off(&f, &seed);
    box_shut(&b);
    fault_power_on(&f);
    box_open(&b);
    ASSERT_EQ(rev, store_rev(b.s));
    has_key(&b, 1);
    verify_file(&b);
    box_fini(&b);
    fault_stop(&f);
}

static int moves(struct db *d) {
    return sqlite3_wal_checkpoint_v2(d->h, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
}

/* Checkpoints sync the database; the WAL only where it may hold what nobody has synced: what the process found in it. */
TEST(store, checkpoint_leaves_the_wal_to_the_commits) {
    struct fault f;
    struct err e = ERR_INIT;
    struct db d = {0}, other = {0};
    fault_start(&f);
    struct box b = {.vfs = "kfarm-fault"};
    box_open(&b);
    b.s->wal.soft = UINT32_MAX;
    b.s->wal.shrink = false;
    ASSERT_OK(box_put(&b, "k", "1", 0, &e), &e);
    box_rest(&b);
    struct db_opts o = {store_vfs_name(b.s->vfs), b.s->path, false, 64 * 1024};
    ASSERT_OK(db_open(&d, &o, &e), &e);
    fault_set(&f, 1, SQLITE_IOERR_FSYNC, false, true);
    ASSERT(moves(&d) != SQLITE_OK); /* both */
    ASSERT(fault_tripped(&f));
    fault_set(&f, -1, 0, false, false);
    ASSERT_EQ(SQLITE_OK, moves(&d));
    ASSERT_OK(box_put(&b, "k", "2", 0, &e), &e);
    box_rest(&b);
    fault_set(&f, 1, SQLITE_IOERR_FSYNC, false, true);
    ASSERT_EQ(SQLITE_OK, moves(&d));
    ASSERT(!fault_tripped(&f));
    fault_set(&f, -1, 0, false, false);
    ASSERT_OK(box_put(&b, "k", "3", 0, &e), &e);
    box_rest(&b);
    ASSERT_OK(db_open(&other, &o, &e), &e); /* the file is opened again: anything may be in it */
    fault_set(&f, 1, SQLITE_IOERR_FSYNC, false, true);
    ASSERT(moves(&other) != SQLITE_OK);
    fault_set(&f, -1, 0, false, false);
    db_close(&d);
    db_close(&other);
    box_fini(&b);
    fault_stop(&f);
}

/* A disk that cannot be read now is no damage: told as what it is, in reads and in commits that need the page. */
TEST(store, failing_read_is_an_io_error) {
    struct fault f;
    struct err e = ERR_INIT;
    struct arena a = ARENA_INIT(1 << 20);
    struct store_kv kv;
    fault_start(&f);
    struct box b = {.vfs = "kfarm-fault"};
    box_open(&b);
    ASSERT_OK(box_put(&b, "key/000001", "1", 0, &e), &e);
    box_shut(&b); /* nothing is in memory then */
    box_open(&b);
    fault_set(&f, 0, SQLITE_IOERR_CORRUPTFS, true, false);
    ASSERT_ERR(-ERR_IO, store_get(b.s, SPAN_LIT("key/000001"), &a, &kv, &e));
    err_reset(&e);
    box_rest(&b);
    sqlite3_db_release_memory(b.s->wr.db.h);
    ASSERT_ERR(-ERR_IO, box_put(&b, "key/000001", "2", 0, &e));
    err_reset(&e);
    fault_set(&f, -1, 0, false, false);
    has_key(&b, 1);
    ASSERT_OK(box_put(&b, "key/000001", "1", 0, &e), &e);
    arena_fini(&a);
    box_fini(&b);
    fault_stop(&f);
}
