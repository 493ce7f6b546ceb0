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

/* ---- a file layer with faults ---- */

struct undo { /* a write that is not synced yet: what was there before */
    struct undo *next;
    char path[128];
    sqlite3_int64 at;
    int n, old_n;
    uint8_t old[];
};

struct fault {
    sqlite3_vfs vfs, *base;
    sqlite3_mutex *lock;
    struct undo *undos;
    long countdown; /* operations until the fault; < 0: never */
    int code;       /* what the fault answers */
    bool sticky, dead, syncs_only, tripped;
};

struct ffile {
    sqlite3_file base;
    struct fault *f;
    char path[128];
    sqlite3_file *real;
};

static struct ffile *of(sqlite3_file *p) {
    return (struct ffile *)(void *)p;
}

static int trip(struct fault *f, bool is_sync) {
    int rc = SQLITE_OK;
    sqlite3_mutex_enter(f->lock);
    if (f->dead) {
        rc = SQLITE_IOERR_WRITE;
    } else if (f->countdown >= 0 && (is_sync ? f->code != SQLITE_FULL : !f->syncs_only)) {
        if (f->countdown == 0 || (f->sticky && f->tripped)) {
            rc = f->code;
            f->tripped = true;
            f->countdown = f->sticky ? 0 : -1;
        } else {
            f->countdown--;
        }
    }
    sqlite3_mutex_leave(f->lock);
    return rc;
}

static void remember(struct ffile *p, sqlite3_int64 at, int n) {
    struct undo *u = mem_zero_alloc(sizeof(*u) + (size_t)n);
    sqlite3_int64 size = 0;
    memcpy(u->path, p->path, sizeof(u->path));
    u->at = at;
    u->n = n;
    p->real->pMethods->xFileSize(p->real, &size);
    u->old_n = at >= size ? 0 : at + n > size ? (int)(size - at) : n;
    if (u->old_n) {
        CHECK(p->real->pMethods->xRead(p->real, u->old, u->old_n, at) == SQLITE_OK);
    }
    sqlite3_mutex_enter(p->f->lock);
    u->next = p->f->undos;
    p->f->undos = u;
    sqlite3_mutex_leave(p->f->lock);
}

static void forget(struct fault *f, const char *path) {
    sqlite3_mutex_enter(f->lock);
    for (struct undo **at = &f->undos; *at;) {
        struct undo *u = *at;
        if (!path || str_eq(u->path, path)) {
            *at = u->next;
            free(u);
        } else {
            at = &u->next;
        }
    }
    sqlite3_mutex_leave(f->lock);
}

static int f_close(sqlite3_file *p) {
    int rc = of(p)->real->pMethods ? of(p)->real->pMethods->xClose(of(p)->real) : SQLITE_OK;
    free(of(p)->real);
    return rc;
}
static int f_read(sqlite3_file *p, void *b, int n, sqlite3_int64 at) {
    return of(p)->real->pMethods->xRead(of(p)->real, b, n, at);
}
static int f_write(sqlite3_file *p, const void *b, int n, sqlite3_int64 at) {
    int rc = trip(of(p)->f, false);
    if (rc != SQLITE_OK) {
        return rc;
    }
    remember(of(p), at, n);
    return of(p)->real->pMethods->xWrite(of(p)->real, b, n, at);
}
static int f_truncate(sqlite3_file *p, sqlite3_int64 n) {
    int rc = trip(of(p)->f, false);
    return rc != SQLITE_OK ? rc : of(p)->real->pMethods->xTruncate(of(p)->real, n);
}
static int f_sync(sqlite3_file *p, int flags) {
    int rc = trip(of(p)->f, true);
    if (rc != SQLITE_OK) {
        return rc;
    }
    rc = of(p)->real->pMethods->xSync(of(p)->real, flags);
    forget(of(p)->f, of(p)->path);
    return rc;
}
static int f_size(sqlite3_file *p, sqlite3_int64 *n) {
    return of(p)->real->pMethods->xFileSize(of(p)->real, n);
}
static int f_lock(sqlite3_file *p, int k) {
    return of(p)->real->pMethods->xLock(of(p)->real, k);
}
static int f_unlock(sqlite3_file *p, int k) {
    return of(p)->real->pMethods->xUnlock(of(p)->real, k);
}
static int f_reserved(sqlite3_file *p, int *r) {
    return of(p)->real->pMethods->xCheckReservedLock(of(p)->real, r);
}
static int f_control(sqlite3_file *p, int op, void *a) {
    return of(p)->real->pMethods->xFileControl(of(p)->real, op, a);
}
static int f_sector(sqlite3_file *p) {
    return of(p)->real->pMethods->xSectorSize(of(p)->real);
}
static int f_device(sqlite3_file *p) {
    (void)p;
    return 0; /* no promise: writes may be torn */
}
static int f_shm_map(sqlite3_file *p, int i, int n, int x, void volatile **pp) {
    return of(p)->real->pMethods->xShmMap(of(p)->real, i, n, x, pp);
}
static int f_shm_lock(sqlite3_file *p, int o, int n, int f) {
    return of(p)->real->pMethods->xShmLock(of(p)->real, o, n, f);
}
static void f_shm_barrier(sqlite3_file *p) {
    of(p)->real->pMethods->xShmBarrier(of(p)->real);
}
static int f_shm_unmap(sqlite3_file *p, int d) {
    return of(p)->real->pMethods->xShmUnmap(of(p)->real, d);
}

static const sqlite3_io_methods methods = {
    .iVersion = 2,
    .xClose = f_close,
    .xRead = f_read,
    .xWrite = f_write,
    .xTruncate = f_truncate,
    .xSync = f_sync,
    .xFileSize = f_size,
    .xLock = f_lock,
    .xUnlock = f_unlock,
    .xCheckReservedLock = f_reserved,
    .xFileControl = f_control,
    .xSectorSize = f_sector,
    .xDeviceCharacteristics = f_device,
    .xShmMap = f_shm_map,
    .xShmLock = f_shm_lock,
    .xShmBarrier = f_shm_barrier,
    .xShmUnmap = f_shm_unmap,
};

static int f_open(sqlite3_vfs *v, sqlite3_filename name, sqlite3_file *p, int flags, int *out) {
    struct fault *f = v->pAppData;
    struct ffile *ff = of(p);
    ff->f = f;
    ff->base.pMethods = NULL;
    ff->real = mem_zero_alloc((size_t)f->base->szOsFile);
    CHECK(str_put(ff->path, sizeof(ff->path), "%s", name ? name : "") == 0);
    int rc = f->base->xOpen(f->base, name, ff->real, flags, out);
    if (rc != SQLITE_OK) {
        free(ff->real);
        return rc;
    }
    ff->base.pMethods = &methods;
    return SQLITE_OK;
}
static int f_delete(sqlite3_vfs *v, const char *name, int sync) {
    struct fault *f = v->pAppData;
    int rc = trip(f, false);
    if (rc != SQLITE_OK) {
        return SQLITE_IOERR_DELETE;
    }
    forget(f, name);
    return f->base->xDelete(f->base, name, sync);
}

static void fault_start(struct fault *f) {
    *f = (struct fault){.countdown = -1};
    f->base = sqlite3_vfs_find(NULL);
    f->lock = sqlite3_mutex_alloc(SQLITE_MUTEX_FAST);
    f->vfs = *f->base;
    f->vfs.pNext = NULL;
    f->vfs.zName = "kfarm-fault";
    f->vfs.szOsFile = sizeof(struct ffile);
    f->vfs.pAppData = f;
    f->vfs.xOpen = f_open;
    f->vfs.xDelete = f_delete;
    ASSERT_EQ(SQLITE_OK, sqlite3_vfs_register(&f->vfs, 0));
}

static void fault_stop(struct fault *f) {
    sqlite3_vfs_unregister(&f->vfs);
    forget(f, NULL);
    sqlite3_mutex_free(f->lock);
}

static void fault_set(struct fault *f, long countdown, int code, bool sticky, bool syncs_only) {
    sqlite3_mutex_enter(f->lock);
    f->countdown = countdown;
    f->code = code;
    f->sticky = sticky;
    f->syncs_only = syncs_only;
    f->tripped = false;
    sqlite3_mutex_leave(f->lock);
}

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

/* Takes back, tears or keeps each write that was not synced, newest first. */
static void lose_power(struct fault *f, uint64_t *seed) {
    for (struct undo *u = f->undos; u; u = u->next) {
        *seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
        unsigned luck = (unsigned)(*seed >> 40) % 4;
        if (luck == 0) {
            continue; /* reached the disk */
        }
        int fd = open(u->path, O_RDWR | O_CLOEXEC);
        if (fd < 0) {
            continue;
        }
        int from =
            luck == 1 ? (int)((*seed >> 20) % (unsigned)u->n) : 0; /* torn: only the tail is lost */
        uint8_t *old = mem_zero_alloc((size_t)u->n);
        memcpy(old, u->old, (size_t)u->old_n);
        CHECK(pwrite(fd, old + from, (size_t)(u->n - from), u->at + from) == u->n - from);
        free(old);
        close(fd);
    }
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
        sqlite3_mutex_enter(f.lock);
        f.dead = true; /* from here nothing reaches the disk */
        sqlite3_mutex_leave(f.lock);
        lose_power(&f, &seed);
        box_shut(&b);
        forget(&f, NULL);
        f.dead = false;
        fault_set(&f, -1, 0, false, false);
    }
    box_open(&b);
    box_fini(&b);
    fault_stop(&f);
}
