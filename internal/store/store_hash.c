/* HashKV, byte for byte etcd's: CRC-32C over the bucket's name and every revision as etcd would store it. */
#include "internal/store/store_int.h"

#include <stdlib.h>

struct hash_job {
    struct loop_work w;
    struct store *s;
    struct view v;
    int64_t rev;
    bool empty; /* no key is there at `rev` */
    uint32_t crc;
    store_hash_done *done;
    void *ctx;
    int rc;
    struct err err;
    uint32_t tab[256];
};

static void crc_table(uint32_t *t) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++) {
            c = c & 1 ? 0x82f63b78u ^ (c >> 1) : c >> 1;
        }
        t[i] = c;
    }
}

static void crc_add(struct hash_job *j, struct span s) {
    uint32_t c = j->crc;
    for (size_t i = 0; i < s.n; i++) {
        c = j->tab[(c ^ s.p[i]) & 0xff] ^ (c >> 8);
    }
    j->crc = c;
}

void store_rev_bytes(struct buf *b, int64_t id, bool tombstone) {
    buf_be64(b, (uint64_t)id_rev(id));
    buf_u8(b, '_');
    buf_be64(b, (uint64_t)id_sub(id));
    if (tombstone) {
        buf_u8(b, 't');
    }
}

static void field(struct buf *b, unsigned no, int64_t v) {
    if (v) {
        buf_u8(b, (uint8_t)(no << 3));
        buf_varint(b, (uint64_t)v);
    }
}
static void bytes_field(struct buf *b, unsigned no, struct span s) {
    if (s.n) {
        buf_u8(b, (uint8_t)(no << 3 | 2));
        buf_varint(b, s.n);
        buf_span(b, s);
    }
}

void store_kv_bytes(struct buf *b, const struct store_kv *kv) {
    bytes_field(b, 1, kv->key);
    if (kv->version) { /* a deletion is stored as its key alone */
        field(b, 2, kv->create_rev);
        field(b, 3, kv->mod_rev);
        field(b, 4, kv->version);
        bytes_field(b, 5, kv->value);
        field(b, 6, kv->lease);
    }
}

/* Revisions at or before the compacted one count only while they are what a reader at j->rev would see. */
static int counts(struct hash_job *j, const struct store_kv *kv, int64_t id, bool *ret) {
    *ret = true;
    if (kv->mod_rev > j->v.compact_rev || !j->v.compact_rev) {
        return 0;
    }
    struct row r;
    struct view at = j->v;
    at.at = j->empty ? j->v.compact_rev : j->rev;
    int rc = view_find(&at, kv->key, &r, &j->err);
    *ret = rc > 0 && r.id == id;
    return rc < 0 ? rc : 0;
}

static int any_key(void *ctx, struct span key, const struct row *r) {
    (void)key;
    (void)r;
    *(bool *)ctx = false;
    return 1;
}

/* Where a reader would see no key at all, etcd counts everything that the compaction left. */
static int find_empty(struct hash_job *j) {
    struct view at = j->v;
    at.at = j->rev;
    j->empty = true;
    int rc = j->rev < 0
                 ? 0
                 : view_each(&at, SPAN_LIT("\0"), SPAN_LIT("\0"), any_key, &j->empty, &j->err);
    return rc < 0 ? rc : 0;
}

/* Some rows from *from on, which moves. 1: that was all. */
static int hash_rows(struct hash_job *j, struct buf *b, int64_t *from) {
    struct db *d = j->v.d;
    sqlite3_stmt *st = db_stmt(d, ST_LOG_SCAN, &j->err);
    if (!st) {
        return -(int)j->err.code;
    }
    sqlite3_bind_int64(st, 1, *from);
    sqlite3_bind_int64(st, 2, j->rev < 0 ? 0 : id_of(j->rev + 1, 0));
    int rc = SQLITE_ROW, out = 0;
    for (int n = 0; n < STORE_BREATH && out == 0 && (rc = sqlite3_step(st)) == SQLITE_ROW; n++) {
        int64_t id = sqlite3_column_int64(st, 0);
        struct store_kv kv = {.key = db_col_span(st, 1),
                              .create_rev = sqlite3_column_int64(st, 2),
                              .mod_rev = id_rev(id),
                              .version = sqlite3_column_int64(st, 3),
                              .lease = sqlite3_column_int64(st, 4)};
        bool yes;
        *from = id + 1;
        out = counts(j, &kv, id, &yes);
        if (out < 0 || !yes) {
            continue;
        }
        kv.value = db_col_span(st, 6);
        kv.key = db_col_span(st, 1);
        buf_reset(b);
        store_rev_bytes(b, id, !kv.version);
        store_kv_bytes(b, &kv);
        out = buf_ok(b) < 0 ? err_set(&j->err, ERR_NOMEM, "hashing a revision") : 0;
        crc_add(j, buf_view(b));
    }
    if (out == 0 && rc != SQLITE_ROW) {
        out = rc == SQLITE_DONE ? 1 : db_fail(d, rc, "hashing", &j->err);
    }
    sqlite3_reset(st);
    return out;
}

static int hash_all(struct hash_job *j) {
    AUTO(buf) struct buf b = BUF_INIT((size_t)1 << 31);
    int64_t from = 0;
    int rc = find_empty(j);
    while (rc == 0 && (rc = hash_rows(j, &b, &from)) == 0) {
        rc = db_breathe(j->v.d, &j->err);
        if (rc < 0) {
            break;
        }
    }
    return rc < 0 ? rc : 0;
}

static void hash_run(struct loop_work *w) {
    struct hash_job *j = CONTAINER_OF(w, struct hash_job, w);
    j->v.d = &j->s->rd_lane;
    j->rc = store_lane_open(j->s, &j->err);
    if (j->rc < 0 || (j->rc = db_run(j->v.d, ST_BEGIN_READ, &j->err)) < 0) {
        return;
    }
    crc_table(j->tab);
    j->crc = 0xffffffffu;
    crc_add(j, SPAN_LIT("key"));
    j->rc = hash_all(j);
    j->crc = ~j->crc;
    struct err ignored = ERR_INIT;
    IGNORE_ERR(db_run(j->v.d, ST_COMMIT, &ignored), "nothing was written");
    sqlite3_db_release_memory(j->v.d->h);
}

static void hash_done(struct loop_work *w) {
    struct hash_job *j = CONTAINER_OF(w, struct hash_job, w);
    j->s->reads_out--;
    if (--j->s->pins == 0) {
        store_kick(j->s);
    }
    if (j->rc == 0 && j->v.compact_rev != j->s->compact_rev) {
        j->rc = err_set(&j->err, ERR_UNAVAILABLE, "a compaction ran meanwhile");
    }
    int64_t compact = j->s->compacted ? j->v.compact_rev : -1; /* as etcd tells "never" */
    j->done(j->ctx, j->rc, j->crc, j->rev, compact, j->rc < 0 ? &j->err : NULL);
    free(j);
}

int store_hash(struct store *s, int64_t rev, store_hash_done *done, void *ctx, struct err *e) {
    if (rev > s->rev) {
        return err_pub(e, ERR_GONE, STORE_E_FUTURE);
    }
    if (rev > 0 && rev < s->compact_rev) {
        return err_pub(e, ERR_GONE, STORE_E_COMPACTED);
    }
    struct hash_job *j = new_zero(struct hash_job);
    j->w.run = hash_run;
    j->w.done = hash_done;
    j->s = s;
    j->v = store_view(s);
    j->rev = rev ? rev : s->rev; /* negative: a hash of nothing, as etcd's */
    j->done = done;
    j->ctx = ctx;
    int rc = loop_work_submit(s->l, LANE_DB_READ, &j->w, e);
    if (rc < 0) {
        free(j);
        return rc;
    }
    s->reads_out++;
    s->pins++;
    return 0;
}
