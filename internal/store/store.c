/* Opening, closing, reading. */
#include "internal/store/store_int.h"

#include "internal/base/rand.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

const char STORE_E_COMPACTED[] = "etcdserver: mvcc: required revision has been compacted";
const char STORE_E_FUTURE[] = "etcdserver: mvcc: required revision is a future revision";
const char STORE_E_EMPTY_KEY[] = "etcdserver: key is not provided";
const char STORE_E_TOO_LARGE[] = "etcdserver: request is too large";
const char STORE_E_TOO_MANY_OPS[] = "etcdserver: too many operations in txn request";
const char STORE_E_DUP_KEY[] = "etcdserver: duplicate key given in txn request";
const char STORE_E_CORRUPT[] = "etcdserver: corrupt cluster";
const char STORE_E_NO_SPACE[] = "etcdserver: mvcc: database space exceeded";
const char STORE_E_NO_LEASE[] = "etcdserver: requested lease not found";
const char STORE_E_LEASE_EXISTS[] = "etcdserver: lease already exists";
const char STORE_E_LEASE_TTL[] = "etcdserver: too large lease TTL";
const char STORE_E_VALUE_GIVEN[] = "etcdserver: value is provided";
const char STORE_E_LEASE_GIVEN[] = "etcdserver: lease is provided";
const char STORE_E_NO_KEY[] = "etcdserver: key not found";

struct view store_view(struct store *s) {
    return (struct view){&s->rd, s->rev, s->rev, s->compact_rev, NULL};
}

/* ---- opening ---- */

static int lock_and_create(struct store *s, const char *name, struct err *e) {
    AUTO_FREE char *lock = str_fmt("%s.lock", name);
    s->lock_fd = openat(s->dirfd, lock, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (s->lock_fd < 0) {
        return err_sys(e, errno, "opening %s", lock);
    }
    if (flock(s->lock_fd, LOCK_EX | LOCK_NB) < 0) {
        return err_set(e, ERR_BUSY, "%s is in use by another process", name);
    }
    /* SQLite takes the permissions of its side files from the main file, so that is made by us. */
    AUTO_FD int fd = openat(s->dirfd, name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0) {
        return err_sys(e, errno, "opening %s", name);
    }
    if (!S_ISREG(st.st_mode)) {
        return err_set(e, ERR_INVALID, "%s is not a regular file", name);
    }
    if ((st.st_mode & 077) && fchmod(fd, 0600) < 0) {
        return err_sys(e, errno, "permissions of %s", name);
    }
    /* The name itself must survive a power cut; SQLite does this only for its side files. */
    if (st.st_size == 0 && fsync(s->dirfd) < 0) {
        return err_sys(e, errno, "syncing the directory of %s", name);
    }
    return 0;
}

static int load(struct store *s, struct err *e) {
    int64_t last = 0, alarms = 0, swept_for = 0, n = 0;
    int rc;
    struct db *d = &s->wr.db;
    if ((rc = db_i64(d, ST_LOG_LAST, &last, e)) < 0 ||
        (rc = db_meta_get(d, "compact", &s->compact_rev, e)) < 0 ||
        (rc = db_meta_get(d, "alarms", &alarms, e)) < 0 ||
        (rc = db_meta_get(d, "swept", &s->swept, e)) < 0 ||
        (rc = db_meta_get(d, "swept_for", &swept_for, e)) < 0 ||
        (rc = db_i64(d, ST_PAGE_COUNT, &n, e)) < 0) {
        return rc;
    }
    s->rev = id_rev(last);
    if ((rc = db_meta_get(d, "last", &last, e)) <
        0) { /* a restored history may end in deletions of nothing */
        return rc;
    }
    if (s->rev < last) {
        s->rev = last;
    }
    if (s->rev < s->compact_rev) {
        s->rev = s->compact_rev; /* all that was left were deletions */
    }
    if (s->rev < 1) {
        s->rev = 1;
    }
    s->pages = (uint64_t)n;
    if ((rc = db_i64(d, ST_FREE_COUNT, &n, e)) < 0) {
        return rc;
    }
    s->free_pages = (uint64_t)n;
    s->alarms = (uint32_t)alarms;
    int64_t compacted = 0;
    if ((rc = db_meta_get(d, "compacted", &compacted, e)) < 0) {
        return rc;
    }
    s->compacted = s->wr.compacted = compacted || s->compact_rev;
    s->sweeping = swept_for < s->compact_rev;
    s->wr.rev = s->rev;
    s->wr.compact_rev = s->compact_rev;
    s->wr.alarms = s->alarms;
    s->wr.pages = s->pages;
    s->wr.free_pages = s->free_pages;
    s->page_size = 4096;
    return lease_load(s, e);
}

/* SQLite knows files by path only. A role in a root directory of its own has no /proc, but works in its directory. */
static char *db_path(int dirfd, const char *name) {
    struct stat dir, cwd;
    bool here = fstat(dirfd, &dir) == 0 && stat(".", &cwd) == 0 && dir.st_dev == cwd.st_dev &&
                dir.st_ino == cwd.st_ino;
    return here ? str_dup(name) : str_fmt("/proc/self/fd/%d/%s", dirfd, name);
}

static int open_all(struct store *s, const char *name, const char *base_vfs, struct err *e) {
    int rc = lock_and_create(s, name, e);
    if (rc < 0 || (rc = store_vfs_new(base_vfs, &s->vfs, e)) < 0) {
        return rc;
    }
    s->path = db_path(s->dirfd, name);
    struct db_opts wr = {store_vfs_name(s->vfs), s->path, true, s->o.write_cache_bytes};
    struct db_opts rd = {store_vfs_name(s->vfs), s->path, false, s->o.cache_bytes};
    if ((rc = db_open(&s->wr.db, &wr, e)) < 0 || (rc = db_schema(&s->wr.db, e)) < 0 ||
        (rc = db_open(&s->rd, &rd, e)) < 0) {
        return rc;
    }
    return load(s, e);
}

static void free_all(struct store *s) {
    loop_timer_stop(&s->lane_timer);
    task_fini(s);
    watch_fini(s);
    lease_fini(s);
    count_fini(s);
    loop_hook_cancel(&s->flush_hook);
    wal_fini(s);
    db_close(&s->rd_lane);
    db_close(&s->rd);
    db_close(&s->wr.db); /* last: its close checkpoints and removes the WAL */
    store_vfs_free(s->vfs);
    free(s->path);
    if (s->lock_fd >= 0) {
        close(s->lock_fd);
    }
    if (s->dirfd >= 0) {
        close(s->dirfd);
    }
    free(s);
}

static const struct store_impl engine = {
    .close = engine_close,
    .rev = engine_rev,
    .compact_rev = engine_compact_rev,
    .stat = engine_stat,
    .range_async = engine_range_async,
    .txn = engine_txn,
    .watch_start = engine_watch_start,
    .watch_stop = engine_watch_stop,
    .watch_resume = engine_watch_resume,
    .watch_progress = engine_watch_progress,
    .watch_next_rev = engine_watch_next_rev,
    .lease_grant = engine_lease_grant,
    .lease_revoke = engine_lease_revoke,
    .compact = engine_compact,
};

int store_open_vfs(struct loop *l, int dirfd, const char *name, const struct store_opts *o,
                   const char *base_vfs, struct store **ret, struct err *e) {
    struct store *s = new_zero(struct store);
    s->impl = &engine;
    s->l = l;
    s->lock_fd = -1;
    if (o) {
        s->o = *o;
    }
    s->o.quota_bytes = s->o.quota_bytes ? s->o.quota_bytes : (uint64_t)2 << 30;
    s->o.max_txn_ops = s->o.max_txn_ops ? s->o.max_txn_ops : 128;
    s->o.max_request_bytes = s->o.max_request_bytes ? s->o.max_request_bytes : 1536 * 1024;
    s->o.cache_bytes = s->o.cache_bytes ? s->o.cache_bytes : 512 * 1024;
    s->o.read_cache_bytes = s->o.read_cache_bytes ? s->o.read_cache_bytes : 8 << 20;
    s->o.write_cache_bytes = s->o.write_cache_bytes ? s->o.write_cache_bytes : 16 << 20;
    s->o.recent_bytes = s->o.recent_bytes ? s->o.recent_bytes : 256 * 1024;
    struct list *lists[] = {&s->pending,        &s->physical, &s->defrags,
                            &s->synced,         &s->lagging,  &s->paused,
                            &s->catchup.chunks, &s->expired,  &s->reads_waiting};
    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        list_init(lists[i]);
    }
    s->dirfd = fcntl(dirfd, F_DUPFD_CLOEXEC, 3);
    int rc =
        s->dirfd < 0 ? err_sys(e, errno, "directory of the store") : open_all(s, name, base_vfs, e);
    if (rc < 0) {
        err_wrap(e, "store %s", name);
        free_all(s);
        return rc;
    }
    wal_init(s);
    s->commit_ns = 2 * STORE_LONE_NS; /* not known yet: the first ones are the lane's */
    task_idle_arm(s);
    if (s->sweeping) {
        loop_before_sleep(l, &s->flush_hook, store_flush, s);
    }
    *ret = s;
    return 0;
}

int store_open(struct loop *l, int dirfd, const char *name, const struct store_opts *o,
               struct store **ret, struct err *e) {
    struct err local = ERR_INIT;
    return store_open_vfs(l, dirfd, name, o, NULL, ret, e ? e : &local);
}

void engine_close(struct store *s) {
    s->closing = true;
    struct err e = ERR_INIT;
    while (s->busy || s->wal.out || s->reads_out || s->n_pending) {
        if (loop_step(s->l, NS_PER_S, &e) < 0) {
            break; /* epoll itself is broken: what is queued cannot be answered any more */
        }
    }
    free_all(s);
}

int64_t engine_rev(const struct store *s) {
    return s->rev;
}
int64_t engine_compact_rev(const struct store *s) {
    return s->compact_rev;
}

/* ---- reading ---- */

int store_range(struct store *s, const struct store_range_req *q, struct arena *a,
                struct store_range_res *ret, struct err *e) {
    struct err local = ERR_INIT;
    struct view v = store_view(s);
    s->st.n_ranges++;
    return view_range(&v, q, a, ret, e ? e : &local);
}

int store_get(struct store *s, struct span key, struct arena *a, struct store_kv *ret,
              struct err *e) {
    struct store_range_req q = {.key = key};
    struct store_range_res r;
    int rc = store_range(s, &q, a, &r, e);
    if (rc == 0 && r.n == 0) {
        return -ERR_NOT_FOUND;
    }
    if (rc == 0) {
        *ret = r.kvs[0];
    }
    return rc;
}

/* ---- reading on the read lane ---- */

#define LANE_REST_NS (2 * NS_PER_S)
enum { READS_ON_LANE = 4 }; /* others wait on the loop, where equal ones become one */

struct read_job {
    struct loop_work w;
    struct list link; /* in reads_waiting */
    struct store *s;
    struct store_range_req q;
    struct arena a; /* for copies: without a reader */
    const struct store_reader *to;
    struct store_range_res res;
    struct view v;
    struct counted known; /* if v.known points here */
    uint8_t *known_keys;
    store_range_done *done;
    void *ctx;
    int rc;
    struct err err;
    uint8_t own[]; /* key and end */
};

int store_lane_open(struct store *s, struct err *e) {
    if (s->rd_lane.h) {
        return 0;
    }
    struct db_opts o = {store_vfs_name(s->vfs), s->path, false, s->o.read_cache_bytes};
    return db_open(&s->rd_lane, &o, e);
}

static int read_to(struct read_job *j) {
    if (!j->to) {
        return view_range(&j->v, &j->q, &j->a, &j->res, &j->err);
    }
    j->to->begin(j->ctx, j->v.rev);
    return view_read(&j->v, &j->q, j->to->each, j->ctx, &j->res, &j->err);
}

static void read_run(struct loop_work *w) {
    struct read_job *j = CONTAINER_OF(w, struct read_job, w);
    j->rc = store_lane_open(j->s, &j->err);
    if (j->rc == 0 && (j->rc = db_run(&j->s->rd_lane, ST_BEGIN_READ, &j->err)) == 0) {
        j->v.d = &j->s->rd_lane;
        j->rc = read_to(j);
        struct err ignored = ERR_INIT;
        IGNORE_ERR(db_run(&j->s->rd_lane, ST_COMMIT, &ignored), "nothing was written");
    }
}

struct release_job {
    struct loop_work w;
    struct store *s;
};

static void release_run(struct loop_work *w) {
    struct release_job *j = CONTAINER_OF(w, struct release_job, w);
    if (j->s->rd_lane.h) {
        sqlite3_db_release_memory(j->s->rd_lane.h);
    }
}
static void release_done(struct loop_work *w) {
    struct release_job *j = CONTAINER_OF(w, struct release_job, w);
    j->s->reads_out--;
    free(j);
}

/* The lane's cache stays from read to read and goes when nobody has read for a while. */
static void lane_rest(struct loop_timer *tm) {
    struct store *s = CONTAINER_OF(tm, struct store, lane_timer);
    if (s->reads_seen != s->st.n_ranges || s->reads_out) {
        store_lane_keep(s);
        return;
    }
    struct err e = ERR_INIT;
    struct release_job *j = new_zero(struct release_job);
    j->w.run = release_run;
    j->w.done = release_done;
    j->s = s;
    if (loop_work_submit(s->l, LANE_DB_READ, &j->w, &e) < 0) {
        free(j);
        return;
    }
    s->reads_out++;
}

void store_lane_keep(struct store *s) {
    s->reads_seen = s->st.n_ranges;
    if (!loop_timer_active(&s->lane_timer) && !s->closing) {
        loop_timer_start(s->l, &s->lane_timer, LANE_REST_NS, lane_rest, "store-lane");
    }
}

static void read_free(struct read_job *j) {
    arena_fini(&j->a);
    free(j->known_keys);
    free(j);
}

static bool is_counted(const struct store_range_req *q) {
    return q->end.n && (q->count_only || (q->limit > 0 && !q->no_count));
}

static struct span keep(struct span s, uint8_t **own) {
    struct span kept = {*own, s.n};
    if (s.n) {
        memcpy(*own, s.p, s.n);
    }
    *own += s.n;
    return kept;
}

/* What was not read before is read as of now: the newest state is the one to show, whenever it was asked for. */
static int read_hand_over(struct read_job *j, struct err *e) {
    struct store *s = j->s;
    struct counted known = {0};
    j->v = store_view(s);
    if (is_counted(&j->q) &&
        count_known(s, j->q.key, j->q.end, j->q.rev > 0 ? j->q.rev : s->rev, &known)) {
        uint8_t *own = j->known_keys = mem_zero_alloc(known.from.n + known.to.n + 1);
        j->known = (struct counted){keep(known.from, &own), keep(known.to, &own), known.n};
        j->v.known = &j->known;
    }
    if (j->to && j->to->start) {
        j->to->start(j->ctx, j->v.rev);
    }
    int rc = loop_work_submit(s->l, LANE_DB_READ, &j->w, e);
    s->reads_on_lane += rc == 0;
    return rc;
}

static void read_end(struct read_job *j) {
    j->s->reads_out--;
    j->done(j->ctx, j->rc, j->rc < 0 ? NULL : &j->res, j->rc < 0 ? &j->err : NULL);
    read_free(j);
}

static void reads_go_on(struct store *s) {
    while (s->reads_on_lane < READS_ON_LANE && !list_empty(&s->reads_waiting)) {
        struct read_job *j = CONTAINER_OF(s->reads_waiting.next, struct read_job, link);
        list_del(&j->link);
        struct err e = ERR_INIT;
        int rc = read_hand_over(j, &e);
        if (rc < 0) { /* else the job is the lane's */
            j->rc = rc;
            j->err = e;
            read_end(j);
        }
    }
}

static void read_done(struct loop_work *w) {
    struct read_job *j = CONTAINER_OF(w, struct read_job, w);
    struct store *s = j->s;
    /* Rows are removed only after the compaction was announced, so a revision that is still readable now was whole. */
    int64_t rev = j->q.rev > 0 ? j->q.rev : j->v.at;
    if (rev < s->compact_rev && j->rc != -ERR_INVALID) {
        err_reset(&j->err);
        if (j->q.rev <= 0) {
            /* What was current is compacted: what is current now was asked for just as well. */
            arena_reset(&j->a);
            j->res = (struct store_range_res){0};
            j->v = store_view(s);
            int rc = loop_work_submit(s->l, LANE_DB_READ, &j->w, &j->err);
            if (rc == 0) {
                return; /* the job is the lane's */
            }
            j->rc = rc;
        } else {
            j->rc = err_pub(&j->err, ERR_GONE, STORE_E_COMPACTED);
        }
    }
    s->reads_on_lane--;
    store_lane_keep(s);
    reads_go_on(s);
    if (j->rc == 0 && !j->v.known && is_counted(&j->q)) {
        count_missed(s, j->res.count);
    }
    read_end(j);
}

static int read_start(struct store *s, const struct store_range_req *q, const struct read_job *job,
                      struct err *e) {
    struct read_job *j = mem_zero_alloc(sizeof(*j) + q->key.n + q->end.n);
    uint8_t *own = j->own;
    *j = *job;
    j->w.run = read_run;
    j->w.done = read_done;
    j->s = s;
    j->q = *q;
    j->q.key = keep(q->key, &own);
    j->q.end = keep(q->end, &own);
    int rc = 0;
    if (s->reads_on_lane == READS_ON_LANE) {
        list_add_tail(&s->reads_waiting, &j->link);
    } else {
        rc = read_hand_over(j, e);
    }
    if (rc < 0) {
        read_free(j);
        return rc;
    }
    s->reads_out++;
    s->st.n_ranges++;
    return 0;
}

int engine_range_async(struct store *s, const struct store_range_req *q, size_t max_bytes,
                       store_range_done *done, void *ctx, struct err *e) {
    const struct read_job j = {
        .a = ARENA_INIT(max_bytes ? max_bytes : (size_t)1 << 31), .done = done, .ctx = ctx};
    return read_start(s, q, &j, e);
}

int store_read(struct store *s, const struct store_range_req *q, const struct store_reader *to,
               void *ctx, struct err *e) {
    const struct read_job j = {.to = to, .done = to->done, .ctx = ctx};
    return read_start(s, q, &j, e);
}

int store_read_now(struct store *s, const struct store_range_req *q, const struct store_reader *to,
                   void *ctx, struct store_range_res *ret, struct err *e) {
    struct err local = ERR_INIT;
    struct view v = store_view(s);
    s->st.n_ranges++;
    to->begin(ctx, v.rev);
    return view_read(&v, q, to->each, ctx, ret, e ? e : &local);
}

void engine_stat(struct store *s, struct store_stat *ret) {
    *ret = s->st;
    ret->rev = s->rev;
    ret->compact_rev = s->compact_rev;
    ret->db_bytes = s->pages * s->page_size;
    ret->in_use_bytes = (s->pages - s->free_pages) * s->page_size;
    ret->wal_bytes = store_vfs_wal_bytes(s->vfs);
    ret->quota_bytes = s->o.quota_bytes;
    ret->n_watches = s->n_watches;
    for (LIST_EACH(p, next, &s->lagging)) {
        ret->n_slow_watches++;
    }
    for (LIST_EACH(p, next, &s->paused)) {
        ret->n_slow_watches++;
    }
    ret->n_leases = s->leases.n;
    ret->n_pending = s->n_pending;
    ret->alarms = s->alarms;
}
