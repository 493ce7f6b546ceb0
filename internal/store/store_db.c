/* Connections, schema, prepared statements, and SQLite's errors in our words. */
#include "internal/store/store_int.h"

#include <errno.h>
#include <stdlib.h>

static const char *const sql[ST_MAX_] = {
#define X(n, s) [ST_##n] = s,
    STORE_STATEMENTS(X)
#undef X
};

/* log: every kept revision of every key, appended in revision order; prev is the id of the key's revision before, so the
 * past of a key is a walk back from its present.
 * cur: the newest revision of each key, deleted ones included until they are compacted (ver = 0).
 * cur.past, past: the ids of that walk, so that nobody has to make it (store_past.c). */
#define PAST                                                                                       \
    "CREATE TABLE past(id INTEGER PRIMARY KEY, jump INTEGER NOT NULL, over INTEGER NOT NULL, ids " \
    "BLOB NOT NULL);"
static const char schema[] =
    "CREATE TABLE meta(k TEXT PRIMARY KEY, v INTEGER NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE log(id INTEGER PRIMARY KEY, key BLOB NOT NULL, crev INTEGER NOT NULL, ver "
    "INTEGER NOT NULL,"
    " lease INTEGER NOT NULL, prev INTEGER NOT NULL, val BLOB);"
    "CREATE TABLE cur(key BLOB PRIMARY KEY, id INTEGER NOT NULL, crev INTEGER NOT NULL, ver "
    "INTEGER NOT NULL,"
    " lease INTEGER NOT NULL, past BLOB) WITHOUT ROWID;" PAST
    "CREATE INDEX cur_lease ON cur(lease) WHERE lease <> 0;"
    "CREATE TABLE lease(id INTEGER PRIMARY KEY, ttl INTEGER NOT NULL, left INTEGER NOT NULL);"
    "CREATE TABLE aux(bucket BLOB, k BLOB, v BLOB NOT NULL, PRIMARY KEY(bucket, k)) WITHOUT ROWID;";

/* 1: without the lists of earlier revisions. 2: their blocks were in the order of keys; as they are now, without jumps. */
#define UPGRADED "PRAGMA user_version=3; COMMIT;"
static const char upgrade_1[] =
    "BEGIN IMMEDIATE; ALTER TABLE cur ADD COLUMN past BLOB;" PAST UPGRADED;
static const char upgrade_2[] =
    "BEGIN IMMEDIATE;" PAST "INSERT OR IGNORE INTO past SELECT id, 0, 0, ids FROM hist ORDER BY id;"
    "DROP TABLE hist;" UPGRADED;

int err_pub(struct err *e, enum err_code c, const char *pub) {
    int rc = err_set(e, c, "%s", pub);
    if (e) {
        e->pub = pub;
    }
    return rc;
}

int db_fail(struct db *d, int rc, const char *what, struct err *e) {
    const char *text = d->h ? sqlite3_errmsg(d->h) : sqlite3_errstr(rc);
    int sys = d->h ? sqlite3_system_errno(d->h) : 0;
    switch (rc & 0xff) {
    case SQLITE_FULL:
        err_set(e, ERR_LIMIT, "%s: no space left for the database", what);
        if (e) {
            e->pub = STORE_E_NO_SPACE;
            e->sys = ENOSPC;
        }
        return -ERR_LIMIT;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB: return err_set(e, ERR_CORRUPT, "%s: %s", what, text);
    case SQLITE_NOMEM: return err_set(e, ERR_NOMEM, "%s: out of memory", what);
    case SQLITE_BUSY:
    case SQLITE_LOCKED: return err_set(e, ERR_UNAVAILABLE, "%s: %s", what, text);
    case SQLITE_READONLY:
    case SQLITE_CANTOPEN:
    case SQLITE_PERM:
    case SQLITE_IOERR: {
        int out =
            err_set(e, ERR_IO, "%s: %s (%s)", what, text, sys ? err_sys_name(sys) : "no errno");
        if (e) {
            e->sys = sys;
        }
        return out;
    }
    default: return err_set(e, ERR_INTERNAL, "%s: %s", what, text);
    }
}

int db_exec(struct db *d, const char *text, struct err *e) {
    int rc = sqlite3_exec(d->h, text, NULL, NULL, NULL);
    return rc == SQLITE_OK ? 0 : db_fail(d, rc, "preparing the database", e);
}

static int wal_hook(void *ctx, sqlite3 *h, const char *name, int frames) {
    (void)h;
    (void)name;
    struct db *d = ctx;
    d->wal_frames = (uint64_t)frames;
    return SQLITE_OK;
}

int db_open(struct db *d, const struct db_opts *o, struct err *e) {
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | (o->create ? SQLITE_OPEN_CREATE : 0);
    int rc = sqlite3_open_v2(o->path, &d->h, flags, o->vfs);
    if (rc != SQLITE_OK) {
        int out = db_fail(d, rc, "opening the database", e);
        db_close(d);
        return out;
    }
    sqlite3_extended_result_codes(d->h, 1);
    /* Slots that a cursor fits in: every statement opens one or two. */
    sqlite3_db_config(d->h, SQLITE_DBCONFIG_LOOKASIDE, NULL, 640, 32);
    sqlite3_db_config(d->h, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
    sqlite3_wal_hook(d->h, wal_hook, d); /* also switches automatic checkpoints off */
    AUTO(buf) struct buf b = BUF_INIT(1024);
    buf_fmt(&b,
            "PRAGMA cache_size=-%u; PRAGMA temp_store=MEMORY; PRAGMA mmap_size=0;"
            "PRAGMA synchronous=FULL; PRAGMA journal_size_limit=-1; PRAGMA busy_timeout=5000;",
            (unsigned)(o->cache_bytes / 1024));
    rc = db_exec(d, buf_cstr(&b), e);
    rc = rc < 0 ? rc : body_functions(d, e);
    if (rc < 0) {
        db_close(d);
    }
    return rc;
}

static int pragma(struct db *d, const char *text, int64_t *ret, struct err *e) {
    sqlite3_stmt *st;
    int rc = sqlite3_prepare_v2(d->h, text, -1, &st, NULL);
    if (rc != SQLITE_OK) {
        return db_fail(d, rc, "reading the database header", e);
    }
    rc = sqlite3_step(st);
    int out = rc == SQLITE_ROW ? 0 : db_fail(d, rc, "reading the database header", e);
    if (!out) {
        *ret = sqlite3_column_int64(st, 0);
    }
    sqlite3_finalize(st);
    return out;
}

int db_schema(struct db *d, struct err *e) {
    int64_t app = 0, version = 0, tables = 0;
    int rc;
    if ((rc = pragma(d, "PRAGMA application_id", &app, e)) < 0 ||
        (rc = pragma(d, "PRAGMA user_version", &version, e)) < 0 ||
        (rc = pragma(d, "SELECT count(*) FROM sqlite_schema", &tables, e)) < 0) {
        return rc;
    }
    if (app == STORE_APP_ID && version > STORE_FORMAT) {
        return err_set(e, ERR_UNSUPPORTED,
                       "the database has format %lld; this kfarm reads up to %d: use a newer kfarm",
                       (long long)version, STORE_FORMAT);
    }
    if (tables == 0) { /* new, or creation was interrupted before its commit */
        AUTO(buf) struct buf b = BUF_INIT(4096);
        buf_fmt(&b,
                "PRAGMA auto_vacuum=INCREMENTAL; PRAGMA journal_mode=WAL; BEGIN IMMEDIATE; %s"
                "PRAGMA application_id=%d; PRAGMA user_version=%d; COMMIT;",
                schema, STORE_APP_ID, STORE_FORMAT);
        return db_exec(d, buf_cstr(&b), e);
    }
    if (app != STORE_APP_ID) {
        return err_set(e, ERR_INVALID, "the file is an SQLite database, but not a kfarm store");
    }
    rc = db_exec(d, "PRAGMA journal_mode=WAL", e);
    if (rc == 0 && version < STORE_FORMAT) {
        rc = db_exec(d, version < 2 ? upgrade_1 : upgrade_2, e);
    }
    return rc;
}

void db_close(struct db *d) {
    for (int i = 0; i < ST_MAX_; i++) {
        sqlite3_finalize(d->st[i]);
        d->st[i] = NULL;
    }
    sqlite3_close(d->h);
    d->h = NULL;
}

sqlite3_stmt *db_stmt(struct db *d, enum stmt_id id, struct err *e) {
    sqlite3_stmt *st = d->st[id];
    if (!st) {
        int rc = sqlite3_prepare_v3(d->h, sql[id], -1, SQLITE_PREPARE_PERSISTENT, &st, NULL);
        if (rc != SQLITE_OK) {
            IGNORE_ERR(db_fail(d, rc, "preparing a statement", e), "the caller sees NULL");
            return NULL;
        }
        d->st[id] = st;
    }
    return st;
}

int db_done(struct db *d, sqlite3_stmt *st, const char *what, struct err *e) {
    int rc = sqlite3_step(st);
    int out = rc == SQLITE_DONE || rc == SQLITE_ROW ? 0 : db_fail(d, rc, what, e);
    sqlite3_reset(st);
    return out;
}

int db_run(struct db *d, enum stmt_id id, struct err *e) {
    sqlite3_stmt *st = db_stmt(d, id, e);
    return st ? db_done(d, st, sql[id], e) : -(int)(e ? e->code : ERR_IO);
}

int db_breathe(struct db *d, struct err *e) {
    int rc = db_run(d, ST_COMMIT, e);
    return rc < 0 ? rc : db_run(d, ST_BEGIN_READ, e);
}

int db_i64(struct db *d, enum stmt_id id, int64_t *ret, struct err *e) {
    sqlite3_stmt *st = db_stmt(d, id, e);
    if (!st) {
        return -(int)(e ? e->code : ERR_IO);
    }
    int rc = sqlite3_step(st);
    int out = rc == SQLITE_ROW || rc == SQLITE_DONE ? 0 : db_fail(d, rc, sql[id], e);
    if (!out) {
        *ret = rc == SQLITE_ROW ? sqlite3_column_int64(st, 0) : 0;
    }
    sqlite3_reset(st);
    return out;
}

int db_meta_get(struct db *d, const char *k, int64_t *ret, struct err *e) {
    sqlite3_stmt *st = db_stmt(d, ST_META_GET, e);
    if (!st) {
        return -(int)(e ? e->code : ERR_IO);
    }
    sqlite3_bind_text(st, 1, k, -1, SQLITE_STATIC);
    int rc = sqlite3_step(st);
    int out = rc == SQLITE_ROW || rc == SQLITE_DONE ? 0 : db_fail(d, rc, "reading meta data", e);
    if (!out) {
        *ret = rc == SQLITE_ROW ? sqlite3_column_int64(st, 0) : 0;
    }
    sqlite3_reset(st);
    return out;
}

int db_meta_set(struct db *d, const char *k, int64_t v, struct err *e) {
    sqlite3_stmt *st = db_stmt(d, ST_META_SET, e);
    if (!st) {
        return -(int)(e ? e->code : ERR_IO);
    }
    sqlite3_bind_text(st, 1, k, -1, SQLITE_STATIC);
    sqlite3_bind_int64(st, 2, v);
    return db_done(d, st, "writing meta data", e);
}

void db_bind_span(sqlite3_stmt *st, int i, struct span s) {
    /* A NULL pointer would bind NULL; an empty key bound or value is an empty blob. */
    sqlite3_bind_blob64(st, i, s.n ? (const void *)s.p : (const void *)"", s.n, SQLITE_STATIC);
}

struct span db_col_span(sqlite3_stmt *st, int i) {
    const void *p = sqlite3_column_blob(st, i);
    return span_of(p, (size_t)sqlite3_column_bytes(st, i));
}
