/* The file layer under a store's connections: a shim over SQLite's own.
 *
 * One process has the file, so the locks between its connections and the index of the WAL live in memory: no -shm file,
 * no system call per transaction. The first connection holds SQLite's exclusive lock on the real file for all of them:
 * a foreign SQLite finds the database locked and cannot mistake the WAL for an abandoned one.
 *
 * A commit overwrites blocks that were written before. Appending would cost a journal commit of the file system with
 * every fdatasync; so the WAL is filled with zeros ahead of its end, in the same write and sync as the commit that
 * reaches it, is never truncated while the store works, and starts again at its beginning after a checkpoint. What lies
 * behind the last commit is zeros or frames of an earlier round. Recovery ends before both: a frame counts only with the
 * salt of the WAL's header and a checksum over all frames before it (https://www.sqlite.org/fileformat2.html,
 * "The WAL File Format": "A frame is considered valid if and only if ..."), and a frame of zeros has page number 0.
 *
 * The frames of a commit, which SQLite writes one by one in two parts each, go out in one write. */
#include "internal/store/store_int.h"

#include <stdlib.h>

enum {
    WAL_GROW_MIN = 64 * 1024,
    WAL_GROW_MAX = 1024 * 1024,
    WAL_HEADER = 32,
    WAL_FRAME = 24 + 4096,
    /* Frames gathered for one write, in memory that stays. SQLite's own file layer takes at most 128 KiB - 1 a call. */
    HELD_MAX = 120 * 1024,
};

struct store_vfs {
    sqlite3_vfs vfs, *base;
    sqlite3_mutex *lock; /* guards everything below */
    char name[32];
    struct vfile *owner; /* holds the real lock; NULL: nobody */
    unsigned n_shared;
    struct vfile *reserved, *exclusive;
    int shm_locks[SQLITE_SHM_NLOCK]; /* -1: exclusive, else how many share */
    void **shm;
    int n_shm;
    unsigned n_shm_users;
    sqlite3_int64 wal_size; /* of the file: zeros or frames up to here */
    bool wal_synced;        /* since it was opened */
    bool head_written;      /* page 1, with the number of pages and of free ones */
};

/* The real file follows in the same allocation. */
struct vfile {
    sqlite3_file file;
    struct store_vfs *v;
    int level; /* SQLITE_LOCK_* */
    bool shm_user;
    uint16_t shm_shared, shm_exclusive;
    struct buf held; /* WAL: bytes not written yet, from `held_at` on */
    sqlite3_int64 held_at;
    bool unsynced; /* WAL: something was written by this connection */
};

static struct vfile *of(sqlite3_file *f) {
    return (struct vfile *)(void *)f;
}
static sqlite3_file *real(sqlite3_file *f) {
    return (sqlite3_file *)(void *)(of(f) + 1);
}
static struct store_vfs *enter(sqlite3_file *f) {
    sqlite3_mutex_enter(of(f)->v->lock);
    return of(f)->v;
}
static int leave(struct store_vfs *v, int rc) {
    sqlite3_mutex_leave(v->lock);
    return rc;
}

/* ---- what every file does ---- */

/* SQLite takes EIO for a sign of damage ("SQLITE_IOERR_CORRUPTFS"). A cable may be loose just as well: a read that fails says
 * nothing about the data. */
static int v_read(sqlite3_file *f, void *p, int n, sqlite3_int64 at) {
    int rc = real(f)->pMethods->xRead(real(f), p, n, at);
    return rc == SQLITE_IOERR_CORRUPTFS ? SQLITE_IOERR_READ : rc;
}
static int v_write(sqlite3_file *f, const void *p, int n, sqlite3_int64 at) {
    return real(f)->pMethods->xWrite(real(f), p, n, at);
}
static int v_truncate(sqlite3_file *f, sqlite3_int64 n) {
    return real(f)->pMethods->xTruncate(real(f), n);
}
static int v_sync(sqlite3_file *f, int flags) {
    return real(f)->pMethods->xSync(real(f), flags);
}
static int v_size(sqlite3_file *f, sqlite3_int64 *ret) {
    return real(f)->pMethods->xFileSize(real(f), ret);
}
static int v_control(sqlite3_file *f, int op, void *arg) {
    return real(f)->pMethods->xFileControl(real(f), op, arg);
}
static int v_sector(sqlite3_file *f) {
    return real(f)->pMethods->xSectorSize(real(f));
}
static int v_device(sqlite3_file *f) {
    return real(f)->pMethods->xDeviceCharacteristics(real(f));
}

/* ---- the database file: locks in memory ---- */

static int own(struct store_vfs *v, sqlite3_file *f) {
    static const int steps[] = {SQLITE_LOCK_SHARED, SQLITE_LOCK_RESERVED, SQLITE_LOCK_EXCLUSIVE};
    for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
        int rc = real(f)->pMethods->xLock(real(f), steps[i]);
        if (rc != SQLITE_OK) {
            real(f)->pMethods->xUnlock(real(f), SQLITE_LOCK_NONE);
            return rc;
        }
    }
    v->owner = of(f);
    return SQLITE_OK;
}

static int v_lock(sqlite3_file *f, int level) {
    struct store_vfs *v = enter(f);
    struct vfile *me = of(f);
    if (level <= me->level) {
        return leave(v, SQLITE_OK);
    }
    int rc = v->owner ? SQLITE_OK : own(v, f);
    if (rc != SQLITE_OK) {
        return leave(v, rc);
    }
    bool taken = (v->exclusive && v->exclusive != me) ||
                 (level >= SQLITE_LOCK_RESERVED && v->reserved && v->reserved != me) ||
                 (level == SQLITE_LOCK_EXCLUSIVE && v->n_shared > (me->level != SQLITE_LOCK_NONE));
    if (taken) {
        return leave(v, SQLITE_BUSY);
    }
    v->n_shared += me->level == SQLITE_LOCK_NONE;
    v->reserved = level >= SQLITE_LOCK_RESERVED ? me : v->reserved;
    v->exclusive = level == SQLITE_LOCK_EXCLUSIVE ? me : v->exclusive;
    me->level = level;
    return leave(v, SQLITE_OK);
}

static int v_unlock(sqlite3_file *f, int level) {
    struct store_vfs *v = enter(f);
    struct vfile *me = of(f);
    if (level < me->level) {
        v->n_shared -= level == SQLITE_LOCK_NONE;
        v->reserved = v->reserved == me ? NULL : v->reserved;
        v->exclusive = v->exclusive == me ? NULL : v->exclusive;
        me->level = level;
    }
    return leave(v, SQLITE_OK);
}

static int v_reserved(sqlite3_file *f, int *ret) {
    struct store_vfs *v = enter(f);
    *ret = v->reserved != NULL;
    return leave(v, SQLITE_OK);
}

/* ---- the database file: index of the WAL in memory ---- */

static int v_shm_map(sqlite3_file *f, int region, int size, int extend, void volatile **ret) {
    struct store_vfs *v = enter(f);
    if (!of(f)->shm_user) {
        of(f)->shm_user = true;
        v->n_shm_users++;
    }
    *ret = NULL;
    if (region >= v->n_shm && extend) {
        void **p = mem_array(v->shm, (size_t)region + 1, sizeof(*p), (size_t)1 << 20);
        if (!p) {
            return leave(v, SQLITE_NOMEM);
        }
        v->shm = p;
        for (; v->n_shm <= region; v->n_shm++) {
            v->shm[v->n_shm] = mem_zero_alloc((size_t)size);
        }
    }
    if (region < v->n_shm) {
        *ret = v->shm[region];
    }
    return leave(v, SQLITE_OK);
}

static int v_shm_lock(sqlite3_file *f, int first, int n, int flags) {
    struct store_vfs *v = enter(f);
    struct vfile *me = of(f);
    uint16_t mask = (uint16_t)(((1u << n) - 1) << first);
    if (flags & SQLITE_SHM_UNLOCK) {
        for (int i = first; i < first + n; i++) {
            uint16_t bit = (uint16_t)(1u << i);
            v->shm_locks[i] -= (me->shm_shared & bit) != 0;
            v->shm_locks[i] = me->shm_exclusive & bit ? 0 : v->shm_locks[i];
        }
        me->shm_shared = (uint16_t)(me->shm_shared & ~mask);
        me->shm_exclusive = (uint16_t)(me->shm_exclusive & ~mask);
        return leave(v, SQLITE_OK);
    }
    bool shared = flags & SQLITE_SHM_SHARED;
    uint16_t mine = shared ? me->shm_shared : me->shm_exclusive;
    for (int i = first; i < first + n; i++) {
        if (!(mine & (1u << i)) && (shared ? v->shm_locks[i] < 0 : v->shm_locks[i] != 0)) {
            return leave(v, SQLITE_BUSY);
        }
    }
    for (int i = first; i < first + n; i++) {
        bool has = mine & (1u << i);
        v->shm_locks[i] = shared ? v->shm_locks[i] + !has : -1;
    }
    if (shared) {
        me->shm_shared |= mask;
    } else {
        me->shm_exclusive |= mask;
    }
    return leave(v, SQLITE_OK);
}

static void v_shm_barrier(sqlite3_file *f) {
    leave(enter(f), SQLITE_OK);
}

static void shm_leave(struct store_vfs *v, struct vfile *me) {
    for (int i = 0; i < SQLITE_SHM_NLOCK; i++) {
        v->shm_locks[i] -= (me->shm_shared >> i) & 1;
        v->shm_locks[i] = (me->shm_exclusive >> i) & 1 ? 0 : v->shm_locks[i];
    }
    me->shm_shared = me->shm_exclusive = 0;
    v->n_shm_users -= me->shm_user;
    me->shm_user = false;
    while (!v->n_shm_users && v->n_shm) {
        free(v->shm[--v->n_shm]);
    }
}

static int v_shm_unmap(sqlite3_file *f, int delete_it) {
    (void)delete_it;
    struct store_vfs *v = enter(f);
    shm_leave(v, of(f));
    return leave(v, SQLITE_OK);
}

static int v_close(sqlite3_file *f) {
    struct store_vfs *v = enter(f);
    shm_leave(v, of(f));
    if (v->owner == of(f)) {
        v->owner = NULL; /* closing lets go of the real lock */
    }
    leave(v, SQLITE_OK);
    IGNORE_ERR(v_unlock(f, SQLITE_LOCK_NONE), "cannot fail");
    return real(f)->pMethods->xClose(real(f));
}

static const sqlite3_io_methods db_methods = {
    .iVersion = 2,
    .xClose = v_close,
    .xRead = v_read,
    .xWrite = v_write,
    .xTruncate = v_truncate,
    .xSync = v_sync,
    .xFileSize = v_size,
    .xLock = v_lock,
    .xUnlock = v_unlock,
    .xCheckReservedLock = v_reserved,
    .xFileControl = v_control,
    .xSectorSize = v_sector,
    .xDeviceCharacteristics = v_device,
    .xShmMap = v_shm_map,
    .xShmLock = v_shm_lock,
    .xShmBarrier = v_shm_barrier,
    .xShmUnmap = v_shm_unmap,
};

/* ---- the WAL ---- */

/* Zeros from the end of what was just written. They only save time later, so that failing here costs nothing. */
static sqlite3_int64 fill_ahead(sqlite3_file *f, sqlite3_int64 end) {
    sqlite3_int64 more = end / 2;
    more = more < WAL_GROW_MIN ? WAL_GROW_MIN : more > WAL_GROW_MAX ? WAL_GROW_MAX : more;
    void *zeros = mem_zero_alloc(WAL_GROW_MIN);
    sqlite3_int64 stop = (end + more) / WAL_GROW_MIN * WAL_GROW_MIN;
    while (end < stop) {
        int n = stop - end < WAL_GROW_MIN ? (int)(stop - end) : WAL_GROW_MIN;
        if (real(f)->pMethods->xWrite(real(f), zeros, n, end) != SQLITE_OK) {
            break;
        }
        end += n;
    }
    free(zeros);
    return end;
}

static sqlite3_int64 wal_size(sqlite3_file *f) {
    struct store_vfs *v = enter(f);
    sqlite3_int64 n = v->wal_size;
    leave(v, SQLITE_OK);
    return n;
}
static void wal_set_size(sqlite3_file *f, sqlite3_int64 n) {
    struct store_vfs *v = enter(f);
    v->wal_size = n;
    leave(v, SQLITE_OK);
}

static int wal_flush(sqlite3_file *f) {
    struct vfile *me = of(f);
    struct span s = buf_view(&me->held);
    if (!s.n) {
        return SQLITE_OK;
    }
    sqlite3_int64 end = me->held_at + (sqlite3_int64)s.n;
    int rc = v_write(f, s.p, (int)s.n, me->held_at);
    if (rc == SQLITE_OK && end > wal_size(f)) {
        wal_set_size(f, fill_ahead(f, end));
    }
    buf_reset(&me->held);
    return rc; /* on failure SQLite takes the commit back: its frames are not wanted any more */
}

/* On a disk that may tear a sector, SQLite repeats the last frame up to the next sector, syncs there, and writes the rest
 * of that frame behind the sync. Nothing would push this rest out, and other connections read it. */
static bool behind_sync(const struct vfile *me, sqlite3_int64 at) {
    return !me->held.n && at > WAL_HEADER && (at - WAL_HEADER) % WAL_FRAME != 0;
}

/* The header of a frame for page 1. */
static bool is_head(const void *p, int n, sqlite3_int64 at) {
    static const uint8_t first[4] = {0, 0, 0, 1};
    return n == WAL_FRAME - 4096 && (at - WAL_HEADER) % WAL_FRAME == 0 && !memcmp(p, first, 4);
}

static int wal_write(sqlite3_file *f, const void *p, int n, sqlite3_int64 at) {
    struct vfile *me = of(f);
    me->unsynced = true;
    if (is_head(p, n, at)) {
        enter(f)->head_written = true;
        leave(me->v, SQLITE_OK);
    }
    bool next = at == me->held_at + (sqlite3_int64)me->held.n;
    if (me->held.n && (!next || me->held.n + (size_t)n > HELD_MAX)) {
        int rc = wal_flush(f);
        if (rc != SQLITE_OK) {
            return rc;
        }
    }
    if (behind_sync(me, at)) {
        int rc = v_write(f, p, n, at);
        if (at + n > wal_size(f)) { /* never less than was written: zeros go behind it */
            wal_set_size(f, at + n);
        }
        return rc;
    }
    if (!me->held.n) {
        me->held_at = at;
        if (!me->held.cap && !buf_room(&me->held, HELD_MAX)) {
            return SQLITE_NOMEM;
        }
    }
    buf_add(&me->held, p, (size_t)n);
    return buf_ok(&me->held) < 0 ? SQLITE_NOMEM : SQLITE_OK;
}

static int wal_read(sqlite3_file *f, void *p, int n, sqlite3_int64 at) {
    int rc = wal_flush(f);
    return rc != SQLITE_OK ? rc : v_read(f, p, n, at);
}

static bool wal_synced(sqlite3_file *f) {
    struct store_vfs *v = enter(f);
    bool is = v->wal_synced;
    leave(v, SQLITE_OK);
    return is;
}
static void wal_set_synced(sqlite3_file *f, bool is) {
    struct store_vfs *v = enter(f);
    v->wal_synced = is;
    leave(v, SQLITE_OK);
}

/* A checkpoint asks for a sync before it reads, which would disturb the commits. What others wrote it sees in the index of the
 * WAL only after they synced it; but not what was in the file when it was opened.
 *
 * Every commit syncs, those of compaction too. One that only waited for the next commit's sync would be lost when that
 * fails: the kernel drops what it could not write, SQLite takes back and writes again the failed commit alone, and recovery
 * ends at the hole before it, though later syncs succeeded and later commits were acknowledged. */
static int wal_sync(sqlite3_file *f, int flags) {
    struct vfile *me = of(f);
    int rc = wal_flush(f);
    if (rc != SQLITE_OK || (!me->unsynced && wal_synced(f))) {
        return rc;
    }
    rc = v_sync(f, flags);
    if (rc == SQLITE_OK) {
        me->unsynced = false;
        wal_set_synced(f, true);
    }
    return rc;
}

static int wal_file_size(sqlite3_file *f, sqlite3_int64 *ret) {
    int rc = wal_flush(f);
    return rc != SQLITE_OK ? rc : v_size(f, ret);
}

/* SQLite empties the WAL after a checkpoint of all of it. A small file stays as it is: the next commit starts it anew.
 * A large one is cut, but first its header must be gone for good: the frames left, without those cut off, would bring
 * back an older state of the database. */
static int wal_truncate(sqlite3_file *f, sqlite3_int64 n) {
    static const uint8_t none[WAL_HEADER];
    int rc = wal_flush(f);
    if (rc != SQLITE_OK || n >= STORE_WAL_KEEP || wal_size(f) <= STORE_WAL_KEEP) {
        return rc;
    }
    if ((rc = v_write(f, none, WAL_HEADER, 0)) == SQLITE_OK &&
        (rc = v_sync(f, SQLITE_SYNC_NORMAL)) == SQLITE_OK &&
        (rc = v_truncate(f, STORE_WAL_KEEP)) == SQLITE_OK) {
        wal_set_size(f, STORE_WAL_KEEP);
        rc = v_sync(f, SQLITE_SYNC_NORMAL);
    }
    return rc;
}

static int wal_close(sqlite3_file *f) {
    buf_fini(&of(f)->held); /* never synced, so never acknowledged */
    return real(f)->pMethods->xClose(real(f));
}

static int wal_no_lock(sqlite3_file *f, int level) {
    (void)f;
    (void)level;
    return SQLITE_OK;
}
static int wal_no_reserved(sqlite3_file *f, int *ret) {
    (void)f;
    *ret = 0;
    return SQLITE_OK;
}

static const sqlite3_io_methods wal_methods = {
    .iVersion = 1,
    .xClose = wal_close,
    .xRead = wal_read,
    .xWrite = wal_write,
    .xTruncate = wal_truncate,
    .xSync = wal_sync,
    .xFileSize = wal_file_size,
    .xLock = wal_no_lock,
    .xUnlock = wal_no_lock,
    .xCheckReservedLock = wal_no_reserved,
    .xFileControl = v_control,
    .xSectorSize = v_sector,
    .xDeviceCharacteristics = v_device,
};

/* ---- the layer ---- */

static int v_open(sqlite3_vfs *sv, sqlite3_filename name, sqlite3_file *f, int flags,
                  int *ret_flags) {
    struct store_vfs *v = sv->pAppData;
    if (!(flags & (SQLITE_OPEN_MAIN_DB | SQLITE_OPEN_WAL))) {
        return v->base->xOpen(v->base, name, f, flags, ret_flags);
    }
    *of(f) = (struct vfile){.v = v, .held = BUF_INIT((size_t)1 << 30)};
    real(f)->pMethods = NULL;
    int rc = v->base->xOpen(v->base, name, real(f), flags, ret_flags);
    if (rc == SQLITE_OK && (flags & SQLITE_OPEN_WAL)) {
        sqlite3_int64 size = 0;
        rc = v_size(f, &size);
        wal_set_size(f, size);
        wal_set_synced(f, false);
    }
    if (rc == SQLITE_OK) {
        f->pMethods = flags & SQLITE_OPEN_WAL ? &wal_methods : &db_methods;
    } else if (real(f)->pMethods) {
        real(f)->pMethods->xClose(real(f));
    }
    return rc;
}

static int v_delete(sqlite3_vfs *sv, const char *name, int sync_dir) {
    struct store_vfs *v = sv->pAppData;
    return v->base->xDelete(v->base, name, sync_dir);
}
static int v_access(sqlite3_vfs *sv, const char *name, int flags, int *ret) {
    struct store_vfs *v = sv->pAppData;
    return v->base->xAccess(v->base, name, flags, ret);
}

/* SQLite resolves symlinks to an absolute path; ours must stay relative to the directory fd, which may be all that a
 * sandboxed role can reach. */
static int v_full_path(sqlite3_vfs *sv, const char *name, int cap, char *out) {
    (void)sv;
    return str_put(out, (size_t)cap, "%s", name) < 0 ? SQLITE_CANTOPEN : SQLITE_OK;
}

int store_vfs_new(const char *base, struct store_vfs **ret, struct err *e) {
    sqlite3_vfs *b = sqlite3_vfs_find(base); /* also starts SQLite */
    if (!b) {
        return err_set(e, ERR_INTERNAL, "no SQLite file layer");
    }
    struct store_vfs *v = new_zero(struct store_vfs);
    v->base = b;
    v->lock = sqlite3_mutex_alloc(SQLITE_MUTEX_FAST);
    v->vfs = *b;
    v->vfs.pNext = NULL;
    v->vfs.pAppData = v;
    v->vfs.zName = v->name;
    v->vfs.szOsFile = (int)sizeof(struct vfile) + b->szOsFile;
    v->vfs.xOpen = v_open;
    v->vfs.xDelete = v_delete;
    v->vfs.xAccess = v_access;
    v->vfs.xFullPathname = v_full_path;
    if (!v->lock || str_put(v->name, sizeof(v->name), "kfarm-%p", (void *)v) < 0 ||
        sqlite3_vfs_register(&v->vfs, 0) != SQLITE_OK) {
        sqlite3_mutex_free(v->lock);
        free(v);
        return err_set(e, ERR_INTERNAL, "registering the file layer");
    }
    *ret = v;
    return 0;
}

const char *store_vfs_name(const struct store_vfs *v) {
    return v->name;
}

uint64_t store_vfs_wal_bytes(struct store_vfs *v) {
    sqlite3_mutex_enter(v->lock);
    uint64_t n = (uint64_t)v->wal_size;
    leave(v, SQLITE_OK);
    return n;
}

bool store_vfs_head_written(struct store_vfs *v) {
    sqlite3_mutex_enter(v->lock);
    bool was = v->head_written;
    v->head_written = false;
    leave(v, SQLITE_OK);
    return was;
}

void store_vfs_free(struct store_vfs *v) {
    if (v) {
        sqlite3_vfs_unregister(&v->vfs);
        sqlite3_mutex_free(v->lock);
        free(v->shm);
        free(v);
    }
}
