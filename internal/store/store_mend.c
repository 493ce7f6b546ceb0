/* A store whose pages are damaged, made anew from what its log still holds. The damaged file stays beside it. */
#include "internal/store/store_int.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct mend {
    struct db *from, to;
    void (*say)(void *ctx, const char *finding);
    void *ctx;
    int64_t newest; /* revision that anything in the old file mentions */
    struct err *e;
};

static void say(struct mend *m, char *own_text) {
    m->say(m->ctx, own_text);
    free(own_text);
}

static bool unreadable(int rc) {
    int kind = rc & 0xff;
    return kind == SQLITE_CORRUPT || kind == SQLITE_IOERR || kind == SQLITE_NOTADB;
}

static int keep_row(struct mend *m, sqlite3_stmt *st) {
    struct change c = {.v = {.d = &m->to, .at = INT64_MAX, .rev = INT64_MAX}};
    struct present old;
    struct span key = db_col_span(st, 1);
    int rc = view_present(&c.v, key, &old, m->e);
    if (rc < 0) {
        return rc;
    }
    struct row now = {sqlite3_column_int64(st, 0), sqlite3_column_int64(st, 2),
                      sqlite3_column_int64(st, 3), sqlite3_column_int64(st, 4), old.now.id};
    m->newest = id_rev(now.id) > m->newest ? id_rev(now.id) : m->newest;
    struct span val = db_col_span(st, 6);
    return change_row(&c, db_col_span(st, 1), &now, val, &old, m->e);
}

/* Copies from *at on, which moves. 1: all of it, 0: what follows *at cannot be read. */
static int copy_rows(struct mend *m, int64_t *at) {
    sqlite3_stmt *st = db_stmt(m->from, ST_LOG_SCAN, m->e);
    if (!st) {
        return -(int)m->e->code;
    }
    sqlite3_bind_int64(st, 1, *at);
    sqlite3_bind_int64(st, 2, INT64_MAX);
    int rc, out = 0;
    while ((rc = sqlite3_step(st)) == SQLITE_ROW) {
        *at = sqlite3_column_int64(st, 0) + 1;
        if ((out = keep_row(m, st)) < 0) {
            break;
        }
    }
    sqlite3_reset(st);
    if (out < 0) {
        return out;
    }
    return rc == SQLITE_DONE ? 1 : unreadable(rc) ? 0 : db_fail(m->from, rc, "the log", m->e);
}

/* Whether the first row from `at` on can be read; the end counts as one. */
static bool readable(struct mend *m, int64_t at) {
    struct err ignored = ERR_INIT;
    sqlite3_stmt *st = db_stmt(m->from, ST_LOG_SCAN, &ignored);
    if (!st) {
        return false;
    }
    sqlite3_bind_int64(st, 1, at);
    sqlite3_bind_int64(st, 2, INT64_MAX);
    int rc = sqlite3_step(st);
    sqlite3_reset(st);
    return rc == SQLITE_ROW || rc == SQLITE_DONE;
}

/* The first place behind `at` from which the log can be read again. */
static int64_t behind_hole(struct mend *m, int64_t at) {
    int64_t bad = at, good = INT64_MAX - 1;
    for (int64_t step = SUB_MAX; step < INT64_MAX / 4 && at < INT64_MAX / 2; step *= 2) {
        if (readable(m, at + step)) {
            good = at + step;
            break;
        }
        bad = at + step;
    }
    while (good - bad > 1) {
        int64_t mid = bad + (good - bad) / 2;
        if (readable(m, mid)) {
            good = mid;
        } else {
            bad = mid;
        }
    }
    return good;
}

static int copy_log(struct mend *m) {
    int64_t at = 0;
    int rc;
    while ((rc = copy_rows(m, &at)) == 0) {
        int64_t next = behind_hole(m, at);
        bool last = next >= INT64_MAX / 2;
        say(m, last ? str_fmt("lost: what follows revision %lld", (long long)id_rev(at))
                    : str_fmt("lost: what lies between revisions %lld and %lld",
                              (long long)id_rev(at - 1), (long long)id_rev(next)));
        if (last) {
            return 0;
        }
        at = next;
    }
    return rc < 0 ? rc : 0;
}

/* Keys whose newest revision is gone now show an older one, or none: said, since nothing else tells. */
static int compare_keys(struct mend *m) {
    struct view v = {.d = &m->to, .at = INT64_MAX, .rev = INT64_MAX};
    sqlite3_stmt *st;
    int64_t behind = 0;
    int rc = sqlite3_prepare_v2(m->from->h, "SELECT key, id FROM cur", -1, &st, NULL), out = 0;
    while (rc == SQLITE_OK && out >= 0 && sqlite3_step(st) == SQLITE_ROW) {
        struct present p;
        int64_t id = sqlite3_column_int64(st, 1);
        out = view_present(&v, db_col_span(st, 0), &p, m->e);
        behind += p.now.id < id;
        m->newest = id_rev(id) > m->newest ? id_rev(id) : m->newest;
    }
    sqlite3_finalize(st);
    if (behind) {
        say(m, str_fmt("keys whose newest revision is lost, and that have an older value or none: "
                       "%lld",
                       (long long)behind));
    }
    return out < 0 ? out : 0;
}

static int copy_table(struct mend *m, const char *read, const char *write, const char *what) {
    sqlite3_stmt *from, *to;
    int rc = sqlite3_prepare_v2(m->from->h, read, -1, &from, NULL), out = 0;
    int wrc = sqlite3_prepare_v2(m->to.h, write, -1, &to, NULL);
    while (rc == SQLITE_OK && wrc == SQLITE_OK && out == 0 &&
           (rc = sqlite3_step(from)) == SQLITE_ROW) {
        for (int i = 0; i < sqlite3_column_count(from); i++) {
            sqlite3_bind_value(to, i + 1, sqlite3_column_value(from, i));
        }
        out = db_done(&m->to, to, what, m->e);
        rc = SQLITE_OK;
    }
    if (wrc != SQLITE_OK) {
        out = db_fail(&m->to, wrc, what, m->e);
    } else if (out == 0 && rc != SQLITE_DONE) {
        say(m, str_fmt("lost: %s, or some of them", what));
    }
    sqlite3_finalize(from);
    sqlite3_finalize(to);
    return out;
}

static int copy_all(struct mend *m) {
    int64_t last = 0;
    int rc;
    if ((rc = db_run(&m->to, ST_BEGIN, m->e)) < 0 || (rc = copy_log(m)) < 0 ||
        (rc = compare_keys(m)) < 0 ||
        (rc = copy_table(m, "SELECT id, ttl, left FROM lease",
                         "INSERT OR REPLACE INTO lease(id, ttl, left) VALUES(?1, ?2, ?3)",
                         "leases")) < 0 ||
        (rc = copy_table(m, "SELECT bucket, k, v FROM aux",
                         "INSERT OR REPLACE INTO aux(bucket, k, v) VALUES(?1, ?2, ?3)",
                         "users and roles")) < 0 ||
        (rc = copy_table(m, "SELECT k, v FROM meta",
                         "INSERT OR REPLACE INTO meta(k, v) VALUES(?1, ?2)",
                         "the compacted revision and alarms")) < 0 ||
        (rc = db_meta_get(&m->to, "last", &last, m->e)) < 0) {
        return rc;
    }
    if (m->newest > last) { /* revisions are never given twice */
        rc = db_meta_set(&m->to, "last", m->newest, m->e);
    }
    return rc < 0 ? rc : db_run(&m->to, ST_COMMIT, m->e);
}

static int put_in_place(int dirfd, int fd, const char *name, const char *tmp, struct err *e) {
    AUTO_FREE char *old = str_fmt("%s.damaged", name);
    AUTO_FREE char *wal = str_fmt("%s-wal", name);
    AUTO_FREE char *shm = str_fmt("%s-shm", name);
    if (fsync(fd) < 0 || renameat(dirfd, name, dirfd, old) < 0) {
        return err_sys(e, errno, "keeping the damaged file as %s", old);
    }
    /* what the old file could not take in must not be taken for the new one's */
    if ((unlinkat(dirfd, wal, 0) < 0 && errno != ENOENT) ||
        (unlinkat(dirfd, shm, 0) < 0 && errno != ENOENT) || renameat(dirfd, tmp, dirfd, name) < 0 ||
        fsync(dirfd) < 0) {
        return err_sys(e, errno, "putting %s in its place", name);
    }
    return 0;
}

int store_mend(int dirfd, const char *name, struct db *own_from,
               void (*to)(void *ctx, const char *finding), void *ctx, struct err *e) {
    struct mend m = {.from = own_from, .say = to, .ctx = ctx, .e = e};
    AUTO_FREE char *tmp = str_fmt("%s.mending", name);
    AUTO_FREE char *path = str_fmt("/proc/self/fd/%d/%s", dirfd, tmp);
    unlinkat(dirfd, tmp, 0);
    AUTO_FD int fd = openat(dirfd, tmp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) {
        db_close(own_from);
        return err_sys(e, errno, "creating %s", tmp);
    }
    struct db_opts o = {NULL, path, true, 8 << 20};
    int rc = db_open(&m.to, &o, e);
    if (rc == 0 && (rc = db_schema(&m.to, e)) == 0) {
        rc = copy_all(&m);
    }
    db_close(&m.to); /* the last connection: all is in the one file now */
    db_close(own_from);
    if (rc == 0) {
        rc = put_in_place(dirfd, fd, name, tmp, e);
    } else {
        unlinkat(dirfd, tmp, 0);
    }
    return rc;
}
