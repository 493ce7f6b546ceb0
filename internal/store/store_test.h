/* Private to store's tests: a store in a folder of its own, driven to completion call by call. */
#ifndef KF_STORE_TEST_H
#define KF_STORE_TEST_H

#include "internal/store/store_int.h"

struct box {
    struct loop *l;
    struct store *s;
    int dirfd;
    char dir[64];
    const char *vfs;
    struct store_opts o;
};

void box_open(struct box *b); /* makes the folder on the first call, opens the store */
void box_shut(struct box *b); /* closes the store, keeps the folder */
void box_fini(struct box *b); /* removes all */
/* Submits and runs the loop until the answer is there; the caller frees with store_txn_free. */
int box_txn(struct box *b, struct store_txn *t, struct err *e);
int box_put(struct box *b, const char *key, const char *value, int64_t lease, struct err *e);
int box_delete(struct box *b, const char *key, const char *end, struct err *e);
int box_compact(struct box *b, int64_t rev, struct err *e); /* physical */
int box_grant(struct box *b, int64_t id, int64_t ttl, struct err *e);
int box_revoke(struct box *b, int64_t id, struct err *e);
void box_rest(struct box *b); /* until nothing is under way; nothing starts by itself then */
/* A few turns of the loop, so that watches catch up. */
void box_turn(struct box *b);
/* "key=value@create/mod/version" joined by spaces. */
char *box_range(struct box *b, const char *key, const char *end, int64_t rev);

/* ---- store_disk_test.c: a file layer that fails; box.vfs = "kfarm-fault" ---- */
struct undo;
struct fault {
    sqlite3_vfs vfs, *base;
    sqlite3_mutex *lock;
    struct undo *undos;
    long countdown; /* operations until the fault; < 0: never */
    int code;       /* what the fault answers */
    bool sticky, dead, syncs_only, tripped;
    bool syncs_drop; /* a sync that fails loses for good what it should have written, as on Linux */
};
void fault_start(struct fault *f);
void fault_stop(struct fault *f);
/* After `countdown` operations (-1: never) one fails with an SQLite code, with `sticky` all from there on.
 * Reads fail with SQLITE_IOERR_CORRUPTFS only, which is what SQLite makes of EIO. */
void fault_set(struct fault *f, long countdown, int code, bool sticky, bool syncs_only);
bool fault_tripped(struct fault *f); /* since fault_set */
/* From here on nothing reaches the disk, and of what was not synced some is lost or torn. Then close, and power on. */
void fault_power_off(struct fault *f, uint64_t *seed);
void fault_power_on(struct fault *f);

#endif
