/* etcd's own file format, both ways: snapshots that etcd's tools accept, and stores made from them. */
#include "internal/store/bolt_int.h"
#include "internal/store/store_int.h"

#include "internal/hash/hash.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- making one ---- */

struct snapshot_job {
    struct loop_work w;
    struct store *s;
    store_snapshot_done *done;
    void *ctx;
    int fd, rc;
    uint64_t size;
    struct err err;
};

struct snap {
    struct db db;
    struct bolt_out out;
    struct buf key, val;
    struct buf leases; /* as of the revision of the keys */
    int64_t compact, last, last_id;
};

struct snap_lease {
    int64_t id, ttl, left;
};

/* Of the compacted past only what is still reachable, whether or not the sweep has come by. */
static int reachable(struct snap *n, struct span key, int64_t id, int64_t ver, bool *ret,
                     struct err *e) {
    *ret = true;
    if (id_rev(id) > n->compact) {
        return 0;
    }
    struct view v = {&n->db, n->compact, n->last, n->compact, NULL};
    struct row r;
    int rc = view_find(&v, key, &r, e);
    *ret = rc >= 0 && r.id == id && (ver > 0 || id_rev(id) == n->compact);
    return rc < 0 ? rc : 0;
}

static int put_pair(struct snap *n, struct err *e) {
    if (buf_ok(&n->key) < 0 || buf_ok(&n->val) < 0) {
        return err_set(e, ERR_NOMEM, "a value of the snapshot");
    }
    int rc = bolt_put(&n->out, buf_view(&n->key), buf_view(&n->val), e);
    buf_reset(&n->key);
    buf_reset(&n->val);
    return rc;
}

/* Some revisions from *from on, which moves. 1: that was all. */
static int key_rows(struct snap *n, int64_t *from, struct err *e) {
    sqlite3_stmt *st = db_stmt(&n->db, ST_LOG_SCAN, e);
    if (!st) {
        return -(int)e->code;
    }
    sqlite3_bind_int64(st, 1, *from);
    sqlite3_bind_int64(st, 2, n->last_id + 1);
    int rc = SQLITE_ROW, out = 0;
    for (int i = 0; i < STORE_BREATH && out == 0 && (rc = sqlite3_step(st)) == SQLITE_ROW; i++) {
        int64_t id = sqlite3_column_int64(st, 0);
        struct store_kv kv = {.key = db_col_span(st, 1),
                              .create_rev = sqlite3_column_int64(st, 2),
                              .mod_rev = id_rev(id),
                              .version = sqlite3_column_int64(st, 3),
                              .lease = sqlite3_column_int64(st, 4)};
        bool yes;
        *from = id + 1;
        out = reachable(n, kv.key, id, kv.version, &yes, e);
        if (out < 0 || !yes) {
            continue;
        }
        kv.value = db_col_span(st, 6);
        kv.key = db_col_span(st, 1);
        store_rev_bytes(&n->key, id, !kv.version);
        store_kv_bytes(&n->val, &kv);
        out = put_pair(n, e);
    }
    if (out == 0 && rc != SQLITE_ROW) {
        out = rc == SQLITE_DONE ? 1 : db_fail(&n->db, rc, "reading the log", e);
    }
    sqlite3_reset(st);
    return out;
}

static int key_bucket(struct snap *n, struct err *e) {
    int64_t from = 0;
    int rc;
    while ((rc = key_rows(n, &from, e)) == 0) {
        rc = db_breathe(&n->db, e);
        if (rc < 0) {
            break;
        }
    }
    return rc < 0 ? rc : bolt_bucket_end(&n->out, "key", e);
}

static void varint_field(struct buf *b, uint8_t tag, int64_t v) {
    if (v) {
        buf_u8(b, tag);
        buf_varint(b, (uint64_t)v);
    }
}

static int load_leases(struct snap *n, struct err *e) {
    sqlite3_stmt *st = db_stmt(&n->db, ST_LEASE_ALL, e); /* in order of id: all are positive */
    if (!st) {
        return -(int)e->code;
    }
    int rc;
    while ((rc = sqlite3_step(st)) == SQLITE_ROW) {
        struct snap_lease le = {sqlite3_column_int64(st, 0), sqlite3_column_int64(st, 1),
                                sqlite3_column_int64(st, 2)};
        buf_add(&n->leases, &le, sizeof(le));
    }
    int out = rc == SQLITE_DONE ? 0 : db_fail(&n->db, rc, "reading leases", e);
    sqlite3_reset(st);
    return out == 0 && buf_ok(&n->leases) < 0 ? err_set(e, ERR_NOMEM, "leases") : out;
}

static int lease_bucket(struct snap *n, struct err *e) {
    struct snap_lease le;
    int rc = 0;
    for (size_t at = 0; at < n->leases.n && rc == 0; at += sizeof(le)) {
        memcpy(&le, n->leases.p + at, sizeof(le));
        buf_be64(&n->key, (uint64_t)le.id);
        varint_field(&n->val, 0x08, le.id);
        varint_field(&n->val, 0x10, le.ttl);
        varint_field(&n->val, 0x18, le.left);
        rc = put_pair(n, e);
    }
    return rc < 0 ? rc : bolt_bucket_end(&n->out, "lease", e);
}

static int meta_bucket(struct snap *n, struct err *e) {
    static const char *const compact_keys[] = {"finishedCompactRev", "scheduledCompactRev"};
    buf_str(&n->key, "consistent_index");
    buf_be64(&n->val, (uint64_t)n->last);
    int rc = put_pair(n, e);
    for (size_t i = 0; i < 2 && rc == 0 && n->compact; i++) {
        buf_str(&n->key, compact_keys[i]);
        store_rev_bytes(&n->val, id_of(n->compact, 0), false);
        rc = put_pair(n, e);
    }
    return rc < 0 ? rc : bolt_bucket_end(&n->out, "meta", e);
}

/* Records that etcd keeps in buckets of its own, already in etcd's encoding (users, roles, ...); and our own, which etcd
 * never looks at: these are left out when there are none. */
static int aux_bucket(struct snap *n, const char *name, bool may_lack, struct err *e) {
    sqlite3_stmt *st = db_stmt(&n->db, ST_AUX_SCAN, e);
    if (!st) {
        return -(int)e->code;
    }
    db_bind_span(st, 1, span_str(name));
    int rc, out = 0;
    bool any = !may_lack;
    while (out == 0 && (rc = sqlite3_step(st)) == SQLITE_ROW) {
        any = true;
        buf_span(&n->key, db_col_span(st, 0));
        buf_span(&n->val, db_col_span(st, 1));
        out = put_pair(n, e);
    }
    if (out == 0 && rc != SQLITE_DONE) {
        out = db_fail(&n->db, rc, "reading records", e);
    }
    sqlite3_reset(st);
    return out < 0 || !any ? out : bolt_bucket_end(&n->out, name, e);
}

static int empty_bucket(struct snap *n, const char *name, struct err *e) {
    return bolt_bucket_end(&n->out, name, e);
}

static int all_buckets(struct snap *n, struct err *e) {
    int rc;
    if ((rc = db_meta_get(&n->db, "compact", &n->compact, e)) < 0 ||
        (rc = db_i64(&n->db, ST_LOG_LAST, &n->last_id, e)) < 0 || (rc = load_leases(n, e)) < 0) {
        return rc;
    }
    n->last = id_rev(n->last_id) > n->compact ? id_rev(n->last_id) : n->compact;
    if ((rc = empty_bucket(n, "alarm", e)) < 0 || (rc = aux_bucket(n, "auth", false, e)) < 0 ||
        (rc = aux_bucket(n, "authRoles", false, e)) < 0 ||
        (rc = aux_bucket(n, "authUsers", false, e)) < 0 ||
        (rc = empty_bucket(n, "cluster", e)) < 0 || (rc = key_bucket(n, e)) < 0 ||
        (rc = aux_bucket(n, "kfarmLease", true, e)) < 0 ||
        (rc = aux_bucket(n, "kfarmNamespace", true, e)) < 0 || (rc = lease_bucket(n, e)) < 0 ||
        (rc = empty_bucket(n, "members", e)) < 0 ||
        (rc = empty_bucket(n, "members_removed", e)) < 0) {
        return rc;
    }
    return meta_bucket(n, e);
}

/* The digest is read back from the file: what is sent is what was hashed. */
static int append_digest(int fd, uint64_t *size, struct err *e) {
    struct hash *h = hash_new();
    uint8_t *chunk = mem_zero_alloc(65536), sum[HASH_SHA256];
    int rc = 0;
    for (uint64_t at = 0; at < *size && rc == 0;) {
        ssize_t n = pread(fd, chunk, 65536, (off_t)at);
        if (n <= 0) {
            rc = err_sys(e, n < 0 ? errno : EIO, "reading the snapshot back");
            break;
        }
        hash_add(h, span_of(chunk, (size_t)n));
        at += (uint64_t)n;
    }
    free(chunk);
    hash_end(h, sum);
    if (rc == 0 && pwrite(fd, sum, sizeof(sum), (off_t)*size) != (ssize_t)sizeof(sum)) {
        rc = err_sys(e, errno, "writing the snapshot");
    }
    *size += sizeof(sum);
    return rc;
}

static void snapshot_run(struct loop_work *w) {
    struct snapshot_job *j = CONTAINER_OF(w, struct snapshot_job, w);
    struct snap n = {.key = BUF_INIT((size_t)1 << 31),
                     .val = BUF_INIT((size_t)1 << 31),
                     .leases = BUF_INIT((size_t)1 << 31)};
    struct db_opts o = {store_vfs_name(j->s->vfs), j->s->path, false, j->s->o.cache_bytes};
    j->fd = openat(j->s->dirfd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (j->fd < 0) {
        j->rc = err_sys(&j->err, errno, "making room for the snapshot");
        return;
    }
    bolt_out_init(&n.out, j->fd);
    if ((j->rc = db_open(&n.db, &o, &j->err)) == 0 &&
        (j->rc = db_run(&n.db, ST_BEGIN_READ, &j->err)) == 0 &&
        (j->rc = all_buckets(&n, &j->err)) == 0 &&
        (j->rc = bolt_finish(&n.out, &j->size, &j->err)) == 0) {
        j->rc = append_digest(j->fd, &j->size, &j->err);
    }
    db_close(&n.db);
    bolt_out_fini(&n.out);
    buf_fini(&n.key);
    buf_fini(&n.val);
    buf_fini(&n.leases);
    if (j->rc < 0) {
        close(j->fd);
        j->fd = -1;
    }
}

static void snapshot_done(struct loop_work *w) {
    struct snapshot_job *j = CONTAINER_OF(w, struct snapshot_job, w);
    j->s->reads_out--;
    if (--j->s->pins == 0) {
        store_kick(j->s);
    }
    j->done(j->ctx, j->rc, j->fd, j->size, j->rc < 0 ? &j->err : NULL);
    free(j);
}

int store_snapshot(struct store *s, store_snapshot_done *done, void *ctx, struct err *e) {
    struct snapshot_job *j = new_zero(struct snapshot_job);
    j->w.run = snapshot_run;
    j->w.done = snapshot_done;
    j->s = s;
    j->done = done;
    j->ctx = ctx;
    j->fd = -1;
    int rc = loop_work_submit(s->l, LANE_FILE, &j->w, e);
    if (rc < 0) {
        free(j);
        return rc;
    }
    s->reads_out++;
    s->pins++;
    return 0;
}

/* ---- reading one ---- */

struct restore {
    struct db db;
    int64_t rows, last, compact;
    const char *bucket;
    struct err *e;
    struct bolt_in in;
    int fd;
};

static int read_file(void *ctx, uint64_t at, void *p, size_t n) {
    struct restore *r = ctx;
    uint8_t *to = p;
    while (n) {
        ssize_t got = pread(r->fd, to, n, (off_t)at);
        if (got <= 0) {
            return -ERR_IO;
        }
        to += got;
        at += (uint64_t)got;
        n -= (size_t)got;
    }
    return 0;
}

static int bad_row(struct restore *r, const char *why) {
    return err_set(r->e, ERR_CORRUPT, "bucket \"%s\": %s", r->bucket, why);
}

int store_rev_parse(struct span key, int64_t *ret_id, bool *ret_tombstone) {
    uint64_t rev, sub;
    uint8_t c;
    if (span_be64(&key, &rev) < 0 || span_u8(&key, &c) < 0 || c != '_' ||
        span_be64(&key, &sub) < 0 || rev >= (uint64_t)1 << (63 - SUB_BITS) ||
        sub >= (uint64_t)SUB_MAX) {
        return -ERR_INVALID;
    }
    *ret_tombstone = key.n == 1 && key.p[0] == 't';
    *ret_id = id_of((int64_t)rev, (int64_t)sub);
    return key.n == 0 || *ret_tombstone ? 0 : -ERR_INVALID;
}

int store_kv_parse(struct span m, struct store_kv *ret) {
    *ret = (struct store_kv){0};
    while (m.n) {
        uint64_t tag, v;
        if (span_varint(&m, &tag) < 0 || span_varint(&m, &v) < 0) {
            return -ERR_INVALID;
        }
        if ((tag & 7) == 2) {
            struct span s;
            if (v > m.n || span_take(&m, (size_t)v, &s) < 0) {
                return -ERR_INVALID;
            }
            if (tag >> 3 == 1) {
                ret->key = s;
            } else if (tag >> 3 == 5) {
                ret->value = s;
            }
        } else if ((tag & 7) == 0) {
            int64_t *to[] = {NULL,          NULL, &ret->create_rev, &ret->mod_rev,
                             &ret->version, NULL, &ret->lease};
            if (tag >> 3 < ARRAY_LEN(to) && to[tag >> 3]) {
                *to[tag >> 3] = (int64_t)v;
            }
        } else {
            return -ERR_INVALID;
        }
    }
    return 0;
}

static int restore_key(void *ctx, struct span key, struct span value) {
    struct restore *r = ctx;
    struct store_kv kv;
    int64_t id;
    bool tombstone;
    if (store_rev_parse(key, &id, &tombstone) < 0 || store_kv_parse(value, &kv) < 0 || !kv.key.n) {
        return bad_row(r, "a revision that cannot be read");
    }
    if (id <= r->last || (!tombstone && kv.version < 1)) {
        return bad_row(r, "revisions out of order");
    }
    struct change c = {.v = {.d = &r->db, .at = INT64_MAX, .rev = INT64_MAX}};
    struct present old;
    int rc = view_present(&c.v, kv.key, &old, r->e);
    if (rc < 0) {
        return rc;
    }
    r->last = id;
    if (tombstone && !rc) {
        return 0; /* deletes what was compacted before: nothing remembers it */
    }
    struct row now = {id, kv.create_rev, tombstone ? 0 : kv.version, tombstone ? 0 : kv.lease,
                      old.now.id};
    if (tombstone) {
        now.crev = 0;
    }
    r->rows++;
    return change_row(&c, kv.key, &now, kv.value, &old, r->e);
}

static int restore_lease(void *ctx, struct span key, struct span value) {
    struct restore *r = ctx;
    uint64_t id, ttl = 0;
    if (span_be64(&key, &id) < 0 || (int64_t)id <= 0) {
        return bad_row(r, "a lease that cannot be read");
    }
    while (value.n) {
        uint64_t tag, v;
        if (span_varint(&value, &tag) < 0 || (tag & 7) != 0 || span_varint(&value, &v) < 0) {
            return bad_row(r, "a lease that cannot be read");
        }
        ttl = tag == 0x10 ? v : ttl;
    }
    sqlite3_stmt *st = db_stmt(&r->db, ST_LEASE_ADD, r->e);
    if (!st) {
        return -(int)r->e->code;
    }
    sqlite3_bind_int64(st, 1, (int64_t)id);
    sqlite3_bind_int64(st, 2, (int64_t)(ttl < LEASE_TTL_MIN ? LEASE_TTL_MIN : ttl));
    return db_done(&r->db, st, "storing a lease", r->e);
}

static int restore_meta(void *ctx, struct span key, struct span value) {
    struct restore *r = ctx;
    int64_t id;
    bool tombstone;
    if (span_eq_str(key, "finishedCompactRev") || span_eq_str(key, "scheduledCompactRev")) {
        if (store_rev_parse(value, &id, &tombstone) < 0) {
            return bad_row(r, "a compacted revision that cannot be read");
        }
        r->compact = id_rev(id) > r->compact ? id_rev(id) : r->compact;
    }
    return 0;
}

static int restore_aux(void *ctx, struct span key, struct span value) {
    struct restore *r = ctx;
    sqlite3_stmt *st = db_stmt(&r->db, ST_AUX_SET, r->e);
    if (!st) {
        return -(int)r->e->code;
    }
    db_bind_span(st, 1, span_str(r->bucket));
    db_bind_span(st, 2, key);
    db_bind_span(st, 3, value);
    return db_done(&r->db, st, "storing a record", r->e);
}

static int verify_digest(struct restore *r, struct err *e) {
    if (r->in.size % 512 != HASH_SHA256) {
        return 0; /* a bare database file carries none */
    }
    r->in.size -= HASH_SHA256;
    struct hash *h = hash_new();
    uint8_t *chunk = mem_zero_alloc(65536), want[HASH_SHA256], got[HASH_SHA256];
    int rc = 0;
    for (uint64_t at = 0; at < r->in.size && rc == 0;) {
        size_t n = r->in.size - at < 65536 ? (size_t)(r->in.size - at) : 65536;
        rc = read_file(r, at, chunk, n);
        hash_add(h, span_of(chunk, n));
        at += n;
    }
    free(chunk);
    hash_end(h, got);
    if (rc < 0 || read_file(r, r->in.size, want, sizeof(want)) < 0) {
        return err_set(e, ERR_IO, "reading the snapshot");
    }
    return memcmp(want, got, sizeof(got)) == 0
               ? 0
               : err_set(e, ERR_CORRUPT,
                         "the snapshot's digest does not match: it is damaged or was cut off");
}

static int restore_all(struct restore *r, struct err *e) {
    static const struct {
        const char *bucket;
        bolt_cb *cb;
    } todo[] = {{"meta", restore_meta},      {"key", restore_key},
                {"lease", restore_lease},    {"auth", restore_aux},
                {"authUsers", restore_aux},  {"authRoles", restore_aux},
                {"kfarmLease", restore_aux}, {"kfarmNamespace", restore_aux}};
    int rc = db_run(&r->db, ST_BEGIN, e);
    for (size_t i = 0; i < ARRAY_LEN(todo) && rc == 0; i++) {
        r->bucket = todo[i].bucket;
        rc = bolt_each(&r->in, todo[i].bucket, todo[i].cb, r, e);
    }
    if (rc == 0 && r->compact) {
        rc = db_meta_set(&r->db, "compact", r->compact, e);
    }
    if (rc == 0 && r->last && id_rev(r->last) > r->compact) {
        rc = db_meta_set(&r->db, "last", id_rev(r->last), e);
    }
    return rc < 0 ? rc : db_run(&r->db, ST_COMMIT, e);
}

int store_restore(int dirfd, const char *name, int snapshot_fd, int64_t *ret_rev, struct err *e) {
    struct restore r = {.fd = snapshot_fd, .e = e};
    struct stat st;
    AUTO_FREE char *tmp = str_fmt("%s.restoring", name);
    AUTO_FREE char *path = str_fmt("/proc/self/fd/%d/%s", dirfd, tmp);
    if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) == 0) {
        return err_set(e, ERR_EXISTS, "%s exists already", name);
    }
    if (fstat(snapshot_fd, &st) < 0) {
        return err_sys(e, errno, "snapshot");
    }
    r.in = (struct bolt_in){.read = read_file, .ctx = &r, .size = (uint64_t)st.st_size};
    int rc = verify_digest(&r, e);
    if (rc < 0 || (rc = bolt_open(&r.in, e)) < 0) {
        return rc;
    }
    unlinkat(dirfd, tmp, 0);
    AUTO_FD int fd = openat(dirfd, tmp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) {
        return err_sys(e, errno, "creating %s", tmp);
    }
    struct db_opts o = {NULL, path, true, 8 << 20};
    if ((rc = db_open(&r.db, &o, e)) == 0 && (rc = db_schema(&r.db, e)) == 0) {
        rc = restore_all(&r, e);
    }
    db_close(&r.db); /* the last connection: all is in the one file now */
    if (rc == 0 && (fsync(fd) < 0 || renameat(dirfd, tmp, dirfd, name) < 0 || fsync(dirfd) < 0)) {
        rc = err_sys(e, errno, "finishing %s", name);
    }
    if (rc < 0) {
        unlinkat(dirfd, tmp, 0);
        return rc;
    }
    *ret_rev = id_rev(r.last) > r.compact ? id_rev(r.last) : r.compact;
    return 0;
}
