/* Looking over a store that nobody has open, and mending what can be mended. */
#include "internal/store/store_int.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

struct check {
    struct db db;
    void (*say)(void *ctx, const char *finding);
    void *ctx;
    size_t n_found;
    bool pages; /* damage below the tables */
};

static void found(struct check *c, const char *what, int64_t n) {
    AUTO(buf) struct buf b = BUF_INIT(512);
    IGNORE_ERR(n > 0 ? buf_fmt(&b, "%s: %lld", what, (long long)n) : buf_fmt(&b, "%s", what),
               "short");
    c->n_found++;
    c->say(c->ctx, buf_cstr(&b));
}

static int pages(struct check *c, struct err *e) {
    sqlite3_stmt *st;
    int rc = sqlite3_prepare_v2(c->db.h, "PRAGMA integrity_check", -1, &st, NULL);
    if (rc != SQLITE_OK) {
        return db_fail(&c->db, rc, "integrity check", e);
    }
    while ((rc = sqlite3_step(st)) == SQLITE_ROW) {
        const char *t = (const char *)sqlite3_column_text(st, 0);
        if (t && !str_eq(t, "ok")) {
            c->pages = true;
            found(c, t, 0);
        }
    }
    sqlite3_finalize(st);
    return rc == SQLITE_DONE ? 0 : db_fail(&c->db, rc, "integrity check", e);
}

static const struct {
    const char *what, *query;
} rules[] = {
    {"current keys whose revision is missing or another key's",
     "SELECT count(*) FROM cur c LEFT JOIN log l ON l.id = c.id WHERE l.id IS NULL OR l.key <> "
     "c.key"},
    {"current keys that differ from their revision",
     "SELECT count(*) FROM cur c JOIN log l ON l.id = c.id WHERE l.ver <> c.ver OR l.crev <> "
     "c.crev OR "
     "l.lease <> c.lease"},
    {"revisions that are newer than their key's current one",
     "SELECT count(*) FROM log l LEFT JOIN cur c ON c.key = l.key WHERE c.key IS NULL OR l.id > "
     "c.id"},
    {"revisions that refer to a later one or another key's",
     "SELECT count(*) FROM log l LEFT JOIN log p ON p.id = l.prev WHERE l.prev >= l.id OR p.key <> "
     "l.key"},
    {"lists of earlier revisions that jump to another key's",
     "SELECT count(*) FROM past p LEFT JOIN past q ON q.id = p.jump LEFT JOIN log l ON l.id = p.id "
     "LEFT JOIN log m ON m.id = q.id WHERE p.jump >> 24 > coalesce((SELECT v FROM meta WHERE k = "
     "'compact'), 0) AND (p.jump >= p.id OR m.key IS NULL OR m.key IS NOT l.key)"},
    {"keys with a lease that does not exist", "SELECT count(*) FROM cur WHERE lease <> 0 AND ver > "
                                              "0 AND lease NOT IN (SELECT id FROM lease)"},
};

static int run_rules(struct check *c, struct err *e) {
    for (size_t i = 0; i < ARRAY_LEN(rules); i++) {
        sqlite3_stmt *st;
        int rc = sqlite3_prepare_v2(c->db.h, rules[i].query, -1, &st, NULL);
        if (rc != SQLITE_OK || (rc = sqlite3_step(st)) != SQLITE_ROW) {
            sqlite3_finalize(st);
            return db_fail(&c->db, rc, rules[i].what, e);
        }
        int64_t n = sqlite3_column_int64(st, 0);
        sqlite3_finalize(st);
        if (n) {
            found(c, rules[i].what, n);
        }
    }
    return 0;
}

/* The lists of earlier revisions, in the rows of keys and in `past`. */
static int lists(struct check *c, const char *query, struct err *e) {
    struct view v = {.d = &c->db, .at = INT64_MAX, .rev = INT64_MAX};
    sqlite3_stmt *st;
    int64_t bad = 0;
    int rc = db_meta_get(&c->db, "compact", &v.compact_rev, e), got = SQLITE_OK;
    if (rc < 0) {
        return rc;
    }
    got = sqlite3_prepare_v2(c->db.h, query, -1, &st, NULL);
    if (got != SQLITE_OK) {
        return db_fail(&c->db, got, "reading lists of revisions", e);
    }
    while (rc == 0 && (got = sqlite3_step(st)) == SQLITE_ROW) {
        rc = past_check(&v, sqlite3_column_int64(st, 0), db_col_span(st, 1), e);
        if (rc == -ERR_NOT_FOUND) {
            bad++;
            rc = 0;
        }
    }
    sqlite3_finalize(st);
    if (bad) {
        found(c, "lists of earlier revisions that name others", bad);
    }
    return rc < 0 || got == SQLITE_DONE ? rc
                                        : db_fail(&c->db, got, "reading lists of revisions", e);
}

static int look(struct check *c, struct err *e) {
    int rc = pages(c, e);
    if (rc == 0) {
        rc = run_rules(c, e);
    }
    if (rc == 0) {
        rc = lists(c, "SELECT id, past FROM cur WHERE past IS NOT NULL", e);
    }
    return rc < 0 ? rc : lists(c, "SELECT id, ids FROM past", e);
}

/* The log is the truth; the table of current keys and every index follow from it. */
static int mend(struct check *c, struct err *e) {
    return db_exec(&c->db,
                   "BEGIN IMMEDIATE;"
                   "DELETE FROM cur; DELETE FROM past;"
                   "INSERT INTO cur(key, id, crev, ver, lease) SELECT key, max(id), crev, ver, "
                   "lease FROM log GROUP BY key;"
                   "COMMIT; REINDEX;",
                   e);
}

int store_check(int dirfd, const char *name, bool repair,
                void (*say)(void *ctx, const char *finding), void *ctx, struct err *e) {
    struct check c = {.say = say, .ctx = ctx};
    AUTO_FREE char *lock = str_fmt("%s.lock", name);
    AUTO_FREE char *path = str_fmt("/proc/self/fd/%d/%s", dirfd, name);
    AUTO_FD int fd = openat(dirfd, lock, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        return err_sys(e, errno, "opening %s", lock);
    }
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        return err_set(e, ERR_BUSY, "%s is in use by another process", name);
    }
    struct db_opts o = {NULL, path, false, 8 << 20};
    struct err local = ERR_INIT;
    int rc = db_open(&c.db, &o, &local);
    if (rc == 0 && (rc = db_schema(&c.db, &local)) == 0) {
        rc = look(&c, &local);
    }
    bool pages = c.pages || rc == -ERR_CORRUPT;
    if (c.db.h && repair && (pages || (rc == 0 && c.n_found))) {
        c.n_found = 0;
        c.pages = false;
        err_reset(&local);
        if (pages) {
            say(ctx, "making the file anew from what its log still holds; the damaged one is kept "
                     "with .damaged behind its name");
            rc = store_mend(dirfd, name, &c.db, say, ctx, &local);
            if (rc == 0 && (rc = db_open(&c.db, &o, &local)) == 0) {
                rc = db_schema(&c.db, &local);
            }
        } else {
            say(ctx, "rebuilding the index of current keys from the log");
            rc = mend(&c, &local);
        }
        if (rc == 0) {
            rc = look(&c, &local);
        }
    }
    db_close(&c.db);
    if (rc < 0 && e) {
        *e = local;
    }
    if (rc == 0 && c.n_found) {
        return err_set(e, ERR_CORRUPT, "%s has %zu kinds of damage", name, c.n_found);
    }
    return rc;
}
