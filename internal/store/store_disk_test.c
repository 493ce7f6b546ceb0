/* A file layer that fails on request and knows what was not synced. */
#include "internal/store/store_test.h"

#include "internal/t/t.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

struct undo { /* a write that is not synced yet: what was there before */
    struct undo *next;
    char path[128];
    sqlite3_int64 at;
    int n, old_n;
    bool dropped; /* by a sync that failed: later ones do not write it */
    uint8_t old[];
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

/* What is on the disk now; `synced`: but for what an earlier sync has dropped. */
static void forget(struct fault *f, const char *path, bool synced) {
    sqlite3_mutex_enter(f->lock);
    for (struct undo **at = &f->undos; *at;) {
        struct undo *u = *at;
        if (!path || (str_eq(u->path, path) && !(synced && u->dropped))) {
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
    struct fault *f = of(p)->f;
    sqlite3_mutex_enter(f->lock);
    int rc = f->code == SQLITE_IOERR_CORRUPTFS ? trip(f, false) : SQLITE_OK;
    sqlite3_mutex_leave(f->lock);
    return rc != SQLITE_OK ? rc : of(p)->real->pMethods->xRead(of(p)->real, b, n, at);
}
/* Power goes between two operations, never inside one. */
static struct fault *enter(sqlite3_file *p) {
    sqlite3_mutex_enter(of(p)->f->lock);
    return of(p)->f;
}
static int leave(struct fault *f, int rc) {
    sqlite3_mutex_leave(f->lock);
    return rc;
}

static int f_write(sqlite3_file *p, const void *b, int n, sqlite3_int64 at) {
    struct fault *f = enter(p);
    int rc = trip(f, false);
    if (rc == SQLITE_OK) {
        remember(of(p), at, n);
        rc = of(p)->real->pMethods->xWrite(of(p)->real, b, n, at);
    }
    return leave(f, rc);
}
static int f_truncate(sqlite3_file *p, sqlite3_int64 n) {
    struct fault *f = enter(p);
    int rc = trip(f, false);
    return leave(f, rc != SQLITE_OK ? rc : of(p)->real->pMethods->xTruncate(of(p)->real, n));
}
/* What is written again after a sync dropped it is on the disk with the next one. */
static void write_again(struct ffile *p, struct undo *dropped) {
    for (struct undo *u = p->f->undos; u != dropped; u = u->next) {
        sqlite3_int64 lo = u->at > dropped->at ? u->at : dropped->at;
        sqlite3_int64 hi = u->at + u->n, end = dropped->at + dropped->n;
        hi = hi < end ? hi : end;
        if (!u->dropped && strcmp(u->path, p->path) == 0 && lo < hi) {
            CHECK(p->real->pMethods->xRead(p->real, dropped->old + (lo - dropped->at),
                                           (int)(hi - lo), lo) == SQLITE_OK);
            dropped->old_n =
                hi - dropped->at > dropped->old_n ? (int)(hi - dropped->at) : dropped->old_n;
        }
    }
}

static int f_sync(sqlite3_file *p, int flags) {
    struct fault *f = enter(p);
    int rc = trip(f, true);
    for (struct undo *u = f->undos; u; u = u->next) {
        if (rc == SQLITE_OK && u->dropped && strcmp(u->path, of(p)->path) == 0) {
            write_again(of(p), u);
        }
        u->dropped |= rc != SQLITE_OK && f->syncs_drop && strcmp(u->path, of(p)->path) == 0;
    }
    if (rc == SQLITE_OK) {
        rc = of(p)->real->pMethods->xSync(of(p)->real, flags);
        forget(f, of(p)->path, true);
    }
    return leave(f, rc);
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
    /* Without a promise writes may be torn, and SQLite repeats a commit's last frame over the end of the sector. What lies
     * behind that is not synced; after a sync that drops it nobody would write it again. */
    return of(p)->f->syncs_drop ? SQLITE_IOCAP_POWERSAFE_OVERWRITE : 0;
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
    sqlite3_mutex_enter(f->lock);
    int rc = trip(f, false) == SQLITE_OK ? SQLITE_OK : SQLITE_IOERR_DELETE;
    if (rc == SQLITE_OK) {
        forget(f, name, false);
        rc = f->base->xDelete(f->base, name, sync);
    }
    return leave(f, rc);
}

void fault_start(struct fault *f) {
    *f = (struct fault){.countdown = -1};
    f->base = sqlite3_vfs_find(NULL);
    f->lock = sqlite3_mutex_alloc(SQLITE_MUTEX_RECURSIVE);
    f->vfs = *f->base;
    f->vfs.pNext = NULL;
    f->vfs.zName = "kfarm-fault";
    f->vfs.szOsFile = sizeof(struct ffile);
    f->vfs.pAppData = f;
    f->vfs.xOpen = f_open;
    f->vfs.xDelete = f_delete;
    ASSERT_EQ(SQLITE_OK, sqlite3_vfs_register(&f->vfs, 0));
}

void fault_stop(struct fault *f) {
    sqlite3_vfs_unregister(&f->vfs);
    forget(f, NULL, false);
    sqlite3_mutex_free(f->lock);
}

void fault_set(struct fault *f, long countdown, int code, bool sticky, bool syncs_only) {
    sqlite3_mutex_enter(f->lock);
    f->countdown = countdown;
    f->code = code;
    f->sticky = sticky;
    f->syncs_only = syncs_only;
    f->tripped = false;
    sqlite3_mutex_leave(f->lock);
}

bool fault_tripped(struct fault *f) {
    sqlite3_mutex_enter(f->lock);
    bool tripped = f->tripped;
    sqlite3_mutex_leave(f->lock);
    return tripped;
}

/* Takes back, tears or keeps each write that was not synced, newest first. */
static void lose_power(struct fault *f, uint64_t *seed) {
    for (struct undo *u = f->undos; u; u = u->next) {
        *seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
        unsigned luck = u->dropped ? 2 : (unsigned)(*seed >> 40) % 4;
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

void fault_power_off(struct fault *f, uint64_t *seed) {
    sqlite3_mutex_enter(f->lock);
    f->dead = true;
    lose_power(f, seed);
    sqlite3_mutex_leave(f->lock);
}

void fault_power_on(struct fault *f) {
    forget(f, NULL, false);
    f->dead = false;
    fault_set(f, -1, 0, false, false);
}
