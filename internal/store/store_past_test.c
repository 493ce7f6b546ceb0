/* Earlier revisions of keys with long histories: every list, block and end of a list against what was written. */
#include "internal/store/store_test.h"

#include "internal/base/rand.h"
#include "internal/t/t.h"

#include <stdio.h>
#include <stdlib.h>

enum { KEYS = 5, REVS = 1500 };

struct past_case {
    struct box b;
    uint64_t seed;
    int64_t compact;
    uint8_t key_of[REVS + 8]; /* by revision; 0xff: none */
    bool deleted[REVS + 8];
    int64_t last;
};

static uint32_t below(struct past_case *c, uint32_t n) {
    c->seed = c->seed * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(c->seed >> 33) % n;
}

static const char *name_of(unsigned k) {
    static const char *const names[KEYS] = {"cold", "hot", "warm", "x", "y"};
    return names[k];
}

/* Few keys get most of the writes, so that their lists become blocks. */
static void write_one(struct past_case *c) {
    struct err e = ERR_INIT;
    unsigned r = (unsigned)below(c, 16), k = r < 10 ? 1 : r < 14 ? 2 : r == 14 ? 0 : 3;
    char v[24];
    ASSERT_OK(str_put(v, sizeof(v), "%lld", (long long)c->last + 1), &e);
    bool del = below(c, 10) == 0;
    int64_t before = store_rev(c->b.s);
    if (del) {
        ASSERT_OK(box_delete(&c->b, name_of(k), "", &e), &e);
    } else {
        ASSERT_OK(box_put(&c->b, name_of(k), v, 0, &e), &e);
    }
    if (store_rev(c->b.s) > before) {
        c->last = store_rev(c->b.s);
        c->key_of[c->last] = (uint8_t)k;
        c->deleted[c->last] = del;
    }
}

static void read_all(struct past_case *c, unsigned every) {
    for (int64_t rev = c->compact > 2 ? c->compact : 2; rev <= c->last;
         rev += 1 + (int64_t)below(c, every)) {
        int64_t newest[KEYS] = {0};
        for (int64_t r = 2; r <= rev; r++) {
            newest[c->key_of[r]] = c->deleted[r] ? 0 : r;
        }
        struct arena a = ARENA_INIT(1 << 20);
        struct store_range_req q = {.key = SPAN_LIT("a"), .end = SPAN_LIT("zz"), .rev = rev};
        struct store_range_res res;
        struct err e = ERR_INIT;
        ASSERT_OK(store_range(c->b.s, &q, &a, &res, &e), &e);
        size_t n = 0;
        for (unsigned k = 0; k < KEYS; k++) {
            if (newest[k]) {
                ASSERT(n < res.n);
                ASSERT(span_eq_str(res.kvs[n].key, name_of(k)));
                ASSERT_EQ(newest[k], res.kvs[n].mod_rev);
                n++;
            }
        }
        ASSERT_EQ(n, res.n);
        arena_fini(&a);
    }
}

static int64_t count_of(struct past_case *c, const char *sql) {
    sqlite3_stmt *st;
    ASSERT_EQ(SQLITE_OK, sqlite3_prepare_v2(c->b.s->rd.h, sql, -1, &st, NULL));
    ASSERT_EQ(SQLITE_ROW, sqlite3_step(st));
    int64_t n = sqlite3_column_int64(st, 0);
    sqlite3_finalize(st);
    return n;
}

static void no_finding(void *ctx, const char *finding) {
    (void)ctx;
    fail_msg("%s", finding);
}

static void checked(struct past_case *c) {
    struct err e = ERR_INIT;
    box_shut(&c->b);
    ASSERT_OK(store_check(c->b.dirfd, "store.db", false, no_finding, NULL, &e), &e);
    box_open(&c->b);
}

TEST(store, earlier_revisions) {
    struct past_case c = {.seed = 1, .last = 1};
    struct err e = ERR_INIT;
    box_open(&c.b);
    while (c.last < REVS / 2) {
        write_one(&c);
    }
    ASSERT(count_of(&c, "SELECT count(*) FROM past") > 3);
    read_all(&c, 20);
    checked(&c);
    while (c.last < REVS) {
        write_one(&c);
        if (below(&c, 150) == 0) {
            c.compact = c.last - (int64_t)below(&c, 100);
            if (c.compact > store_compact_rev(c.b.s)) {
                ASSERT_OK(box_compact(&c.b, c.compact, &e), &e);
            }
            c.compact = store_compact_rev(c.b.s);
            read_all(&c, 10);
        }
    }
    checked(&c);
    read_all(&c, 10);
    ASSERT_OK(box_compact(&c.b, c.last, &e), &e); /* takes the blocks along */
    c.compact = c.last;
    ASSERT_EQ(0, count_of(&c, "SELECT count(*) FROM past"));
    read_all(&c, 1);
    box_fini(&c.b);
}

TEST(store, earlier_revisions_of_a_file_of_format_1) {
    struct past_case c = {.seed = 2, .last = 1};
    struct err e = ERR_INIT;
    box_open(&c.b);
    while (c.last < 200) {
        write_one(&c);
    }
    ASSERT_OK(db_exec(&c.b.s->wr.db,
                      "DROP TABLE past; ALTER TABLE cur DROP COLUMN past; PRAGMA user_version=1",
                      &e),
              &e);
    box_shut(&c.b);
    box_open(&c.b);
    ASSERT_EQ(STORE_FORMAT, count_of(&c, "PRAGMA user_version"));
    read_all(&c, 5);
    while (c.last < 600) { /* lists that go over into the old file's `prev` */
        write_one(&c);
    }
    ASSERT(count_of(&c, "SELECT count(*) FROM past") > 0);
    read_all(&c, 5);
    checked(&c);
    box_fini(&c.b);
}

/* Blocks by key, without jumps. */
TEST(store, earlier_revisions_of_a_file_of_format_2) {
    struct past_case c = {.seed = 4, .last = 1};
    struct err e = ERR_INIT;
    box_open(&c.b);
    while (c.last < 700) {
        write_one(&c);
    }
    int64_t n = count_of(&c, "SELECT count(*) FROM past");
    ASSERT_OK(db_exec(&c.b.s->wr.db,
                      "CREATE TABLE hist(key BLOB, id INTEGER, ids BLOB NOT NULL, PRIMARY KEY(key, "
                      "id)) WITHOUT ROWID; INSERT INTO hist SELECT l.key, p.id, p.ids FROM past p "
                      "JOIN log l USING(id); DROP TABLE past; PRAGMA user_version=2",
                      &e),
              &e);
    box_shut(&c.b);
    box_open(&c.b);
    ASSERT_EQ(STORE_FORMAT, count_of(&c, "PRAGMA user_version"));
    ASSERT_EQ(n, count_of(&c, "SELECT count(*) FROM past WHERE jump = 0"));
    read_all(&c, 5);
    while (c.last < REVS) {
        write_one(&c);
    }
    ASSERT(count_of(&c, "SELECT count(*) FROM past WHERE jump > 0") > 0);
    read_all(&c, 20);
    checked(&c);
    box_fini(&c.b);
}

static void put_answered(void *ctx, struct store_txn *t, int rc, const struct err *e) {
    (void)t;
    (void)e;
    ASSERT_EQ(0, rc);
    ++*(int64_t *)ctx;
}

/* Of a key's many blocks few are looked at, whichever it is that is wanted, before and after a compaction. */
TEST(store, earlier_revisions_are_reached_by_jumps) {
    enum { HOT = 20000 };
    struct box b = {0};
    struct err e = ERR_INIT;
    box_open(&b);
    for (int64_t n = 0, done = 0; n < HOT; n++) {
        struct store_txn *t = store_txn_new(0);
        store_txn_put(t, &t->body.then, SPAN_LIT("hot"), SPAN_LIT("v"), 0);
        store_txn(b.s, t, put_answered, &done);
        while ((n + 1) % 1000 == 0 && done <= n) {
            ASSERT_OK(loop_step(b.l, NS_PER_S, &e), &e);
        }
    }
    for (int64_t first = 2; first < HOT; first += HOT / 3) {
        for (int64_t rev = first; rev < HOT; rev += 37) {
            struct row r;
            struct view v = store_view(b.s);
            v.at = rev;
            ASSERT_EQ(1, view_find(&v, SPAN_LIT("hot"), &r, &e));
            ASSERT_EQ(rev, id_rev(r.id));
            int looks = sqlite3_stmt_status(b.s->rd.st[ST_PAST_GET], SQLITE_STMTSTATUS_RUN, 1);
            ASSERT(looks <= 24);
        }
        ASSERT_OK(box_compact(&b, first, &e), &e);
    }
    box_fini(&b);
}

static void any_finding(void *ctx, const char *finding) {
    (void)finding;
    ++*(int *)ctx;
}

TEST(store, damaged_lists_are_found_and_mended) {
    static const char *const harm[] = {
        "UPDATE cur SET past = x'ffffffffffffffffffff01' WHERE key = x'686f74'",
        ("UPDATE cur SET past = (SELECT past FROM cur WHERE key = x'7761726d')"
         " WHERE key = x'686f74'"),
        "UPDATE past SET ids = x'02040404' WHERE id = (SELECT max(id) FROM past)",
        "UPDATE past SET jump = id - 1 WHERE id = (SELECT max(id) FROM past)",
        "UPDATE cur SET ver = ver + 1 WHERE key = x'686f74'",
        "DELETE FROM cur WHERE key = x'686f74'",
    };
    struct past_case c = {.seed = 3, .last = 1};
    box_open(&c.b);
    while (c.last < 400) {
        write_one(&c);
    }
    for (size_t i = 0; i < ARRAY_LEN(harm); i++) {
        struct err e = ERR_INIT;
        int found = 0;
        ASSERT_OK(db_exec(&c.b.s->wr.db, harm[i], &e), &e);
        box_shut(&c.b);
        ASSERT_ERR(-ERR_CORRUPT,
                   store_check(c.b.dirfd, "store.db", false, any_finding, &found, &e));
        ASSERT(found > 0);
        err_reset(&e);
        ASSERT_OK(store_check(c.b.dirfd, "store.db", true, any_finding, &found, &e), &e);
        ASSERT_OK(store_check(c.b.dirfd, "store.db", false, no_finding, NULL, &e), &e);
        box_open(&c.b);
        read_all(&c, 20);
        while (c.last < 400 + 150 * (int64_t)(i + 1)) {
            write_one(&c);
        }
    }
    box_fini(&c.b);
}

static void ignore_done(void *ctx, int rc, const struct err *e) {
    (void)ctx;
    (void)rc;
    (void)e;
}

#define COMPACT "(SELECT v << 24 FROM meta WHERE k = 'compact')"
#define BEHIND "(SELECT (v + 1) << 24 FROM meta WHERE k = 'compact')"

/* Nothing may lie in the file that nobody can ask for any more. */
static void nothing_left_over(struct past_case *c) {
    static const char *const queries[] = {
        "SELECT count(*) FROM log l WHERE id < " COMPACT " AND ver = 0",
        "SELECT count(*) FROM log l WHERE id < " BEHIND " AND EXISTS (SELECT 1 FROM log m WHERE "
        "m.key = l.key AND m.id > l.id AND m.id < " BEHIND ")",
        "SELECT count(*) FROM past WHERE id < " BEHIND,
        "SELECT count(*) FROM cur WHERE ver = 0 AND id < " COMPACT,
        "SELECT count(*) FROM cur WHERE id < " BEHIND " AND length(past) > 0",
    };
    for (size_t i = 0; i < ARRAY_LEN(queries); i++) {
        ASSERT_EQ(0, count_of(c, queries[i]));
    }
}

/* Compactions that come while the one before is swept, restarts in the middle of it, deletions on the boundary. */
TEST(store, compaction_leaves_nothing_over) {
    for (uint64_t seed = 1; seed <= 12; seed++) {
        struct past_case c = {.seed = seed, .last = 1};
        struct err e = ERR_INIT;
        box_open(&c.b);
        while (c.last < 600) {
            write_one(&c);
            uint32_t what = below(&c, 120);
            if (what < 3 && c.last > c.compact) {
                c.compact += 1 + (int64_t)below(&c, (uint32_t)(c.last - c.compact));
                store_compact(c.b.s, c.compact, false, ignore_done, NULL);
                for (uint32_t turns = below(&c, 3); turns; turns--) {
                    ASSERT_OK(loop_step(c.b.l, 0, &e), &e);
                }
            } else if (what == 3) {
                checked(&c);
                c.compact = store_compact_rev(c.b.s);
            }
        }
        if (c.compact < c.last) {
            ASSERT_OK(box_compact(&c.b, ++c.compact, &e), &e);
        }
        nothing_left_over(&c);
        read_all(&c, 5);
        checked(&c);
        box_fini(&c.b);
    }
}
