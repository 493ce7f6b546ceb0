/* The judge is judged: histories of a small store that is right must pass, and each way of being wrong must be seen. */
#include "internal/lin/lin.h"

#include "internal/t/t.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- written by hand: one wrong line each ---- */

static bool flags(const char *history, enum lin_rule want) {
    struct lin_verdict v;
    struct err e = ERR_INIT;
    ASSERT_OK(lin_check(span_str(history), &v, &e), &e);
    for (size_t i = 0; i < v.n && i < LIM_LIN_FINDINGS; i++) {
        if (v.v[i].rule == want) {
            return true;
        }
    }
    printf("not flagged as %s; found %zu%s%s\n", lin_rule_name(want), v.n, v.n ? ": " : "",
           v.n ? v.v[0].text : "");
    return false;
}

static bool fine(const char *history) {
    struct lin_verdict v;
    struct err e = ERR_INIT;
    ASSERT_OK(lin_check(span_str(history), &v, &e), &e);
    for (size_t i = 0; i < v.n && i < LIM_LIN_FINDINGS; i++) {
        printf("line %zu: %s: %s\n", v.v[i].line, lin_rule_name(v.v[i].rule), v.v[i].text);
    }
    return v.n == 0;
}

#define WATCH_ALL "watch 1 1 0 16 1 0 1\ncreated 1 1\n"
#define PUT_A "call 1 1 put +3=7/0\nret 1 ok 2 1 +\n"
#define SEE_A "ev 1 2 0 +3=7@2/2/1/0\n"
#define PUT_B "call 2 1 put +3=8/0^\nret 2 ok 3 1 +3=7@2/2/1/0\n"
#define SEE_B "ev 1 3 0 +3=8@2/3/2/0^3=7@2/2/1/0\n"

/* Fragments without their last are no message: whoever is cut off there goes on where it was before them. */
TEST(lin, fragments_that_are_cut_off) {
#define IN_PARTS \
    WATCH_ALL PUT_A PUT_B "ev 1 3 1 +3=7@2/2/1/0\ncall 3 1 put +4=9/0\nret 3 ok 4 1 +\n"
    ASSERT(fine(IN_PARTS "watch 2 2 0 16 2 0 1\ncreated 2 4\n"
                         "ev 2 4 1 +3=7@2/2/1/0\nev 2 4 1 +3=8@2/3/2/0^3=7@2/2/1/0\n"
                         "ev 2 4 0 +4=9@4/4/1/0\n"));
    ASSERT(flags(IN_PARTS "watch 2 2 0 16 3 0 1\ncreated 2 4\n"
                          "ev 2 4 0 +3=8@2/3/2/0^3=7@2/2/1/0 +4=9@4/4/1/0\n",
                 LIN_GAP));
}

TEST(lin, right_histories) {
    ASSERT(fine(WATCH_ALL PUT_A SEE_A PUT_B SEE_B
                "call 3 2 get :0:16@0#0\nret 3 ok 3 1 :1,0,3=8@2/3/2/0\n"));
    /* a read while the write is in flight may see it or not */
    ASSERT(fine(WATCH_ALL "call 1 1 put +3=7/0\ncall 2 2 get :3:4@0#0\nret 2 ok 1 1 :0,0\n"
                          "ret 1 ok 2 1 +\n" SEE_A));
    ASSERT(fine(WATCH_ALL
                "call 1 1 put +3=7/0\ncall 2 2 get :3:4@0#0\nret 2 ok 2 1 :1,0,3=7@2/2/1/0\n"
                "ret 1 ok 2 1 +\n" SEE_A));
    /* a write of unknown outcome happened, did not happen, or happened late */
    ASSERT(fine(WATCH_ALL "call 1 1 put +3=7/0\nret 1 err -1 lost\n" SEE_A));
    ASSERT(fine(WATCH_ALL "call 9 1 put +3=9/0\nret 9 err 14 away\n" PUT_A SEE_A));
    ASSERT(fine(WATCH_ALL "call 9 1 put +4=9/0\nret 9 err -1 lost\n" PUT_A SEE_A
                          "ev 1 3 0 +4=9@3/3/1/0\n"));
    /* two deletions of unknown outcome, of which only one can have been the first */
    ASSERT(fine(WATCH_ALL PUT_A SEE_A
                "call 4 2 del -0:16\nret 4 err -1 lost\n"
                "call 5 3 del -3:4\nret 5 err -1 lost\nev 1 3 0 -3@3^3=7@2/2/1/0\n"));
    /* refused for a reason */
    ASSERT(fine(WATCH_ALL PUT_A SEE_A PUT_B SEE_B
                "call 3 1 compact 3\nret 3 ok 3\n"
                "call 4 1 get :3:4@2#0\nret 4 err 11 required revision has been compacted\n"
                "call 5 1 get :3:4@9#0\nret 5 err 11 required revision is a future revision\n"
                "watch 2 2 0 16 2 0 0\ncreated 2 3\ncancel 2 3\n"));
    /* a lease ends after its time, its keys with it */
    ASSERT(fine("clock 1000\ncall 1 1 grant 5 2\nret 1 ok 1\ncall 2 1 put +3=7/5\nret 2 ok 2 1 "
                "+\n" WATCH_ALL "ev 1 2 0 +3=7@2/2/1/5\nclock 3000\nev 1 3 0 -3@3^3=7@2/2/1/5\n"));
    ASSERT(fine("call 1 1 grant 5 9\nret 1 ok 1\ncall 2 1 put +3=7/5\nret 2 ok 2 1 +\n"
                "call 3 1 ttl 5\nret 3 ok 2 ttl 3\ncall 4 1 revoke 5\nret 4 ok 3\n" WATCH_ALL
                "ev 1 3 0 +3=7@2/2/1/5 -3@3^3=7@2/2/1/5\n"));
}

/* The test inside is made before the put outside: on key 3 as it was. */
#define NEST "call 3 1 txn ?m3=2 +3=9/0 ( ?m3=2 +4=1/0 else +5=1/0 ) :3:5@0#0\n"
#define NEST_RET "ret 3 ok 3 1 + (1 + ) :2,0,3=9@2/3/2/0,4=1@3/3/1/0\n"
#define NEST_EV "ev 1 3 0 +3=9@2/3/2/0^3=7@2/2/1/0 +4=1@3/3/1/0\n"

TEST(lin, transactions_inside_others) {
    ASSERT(fine(WATCH_ALL PUT_A SEE_A NEST NEST_RET NEST_EV));
    ASSERT(fine(WATCH_ALL PUT_A SEE_A NEST "ret 3 err -1 lost\n" NEST_EV));
    /* the wrong branch; its answer; a put that is missing; refused, yet done; a compacted revision read in it */
    ASSERT(flags(WATCH_ALL PUT_A SEE_A NEST "ret 3 ok 3 1 + (0 + ) :1,0,3=9@2/3/2/0\n"
                                            "ev 1 3 0 +3=9@2/3/2/0^3=7@2/2/1/0 +5=1@3/3/1/0\n",
                 LIN_LOST));
    ASSERT(flags(WATCH_ALL PUT_A SEE_A NEST
                 "ret 3 ok 3 1 + (0 + ) :2,0,3=9@2/3/2/0,4=1@3/3/1/0\n" NEST_EV,
                 LIN_ANSWER));
    ASSERT(
        flags(WATCH_ALL PUT_A SEE_A NEST NEST_RET "ev 1 3 0 +3=9@2/3/2/0^3=7@2/2/1/0\n", LIN_LOST));
    ASSERT(flags(WATCH_ALL PUT_A SEE_A
                 "call 3 1 txn ( +4=1/0 )\nret 3 err 8 no space\nev 1 3 0 +4=1@3/3/1/0\n",
                 LIN_REFUSED));
    ASSERT(flags(WATCH_ALL PUT_A SEE_A PUT_B SEE_B
                 "call 4 1 compact 3\nret 4 ok 3\n"
                 "call 5 1 txn ( ( :3:4@2#0 ) )\nret 5 ok 3 1 (1 (1 :1,0,3=7@2/2/1/0 ) )\n",
                 LIN_COMPACT));
}

/* Pages are of the revision of the first: a compaction may overtake them, and nothing else. */
#define OVERTAKEN(kind, compact)                                                                 \
    WATCH_ALL PUT_A SEE_A "call 3 2 " kind " :3:4@0#0\n" PUT_B SEE_B "call 4 1 compact " compact \
                          "\nret 4 ok 3\nret 3 err 11 required revision has been compacted\n"

TEST(lin, pages) {
    ASSERT(fine(OVERTAKEN("pages", "3")));
    ASSERT(flags(OVERTAKEN("pages", "2"), LIN_COMPACT));
    ASSERT(flags(OVERTAKEN("get", "3"), LIN_COMPACT));
}

/* Client 2 is user 1; the keys 0 to 3 are a part. */
#define USER_1 "user 1 0\nuser 2 1\n"
#define MAY(bits) "call 8 1 allow 1 0 " bits "\nret 8 ok 1\n"
#define MAY_NOT(bits) "call 9 1 allow 1 0 " bits "\nret 9 ok 2\n"
#define PUT_U "call 1 2 put +3=7/0\n"
#define DENIED "err 7 permission denied\n"

TEST(lin, permissions) {
    ASSERT(fine(USER_1 WATCH_ALL MAY("3") PUT_U "ret 1 ok 2 1 +\n" SEE_A MAY_NOT(
        "1") "call 2 2 put +3=8/0\nret 2 " DENIED
             "call 3 2 get :3:4@0#0\nret 3 ok 2 1 :1,0,3=7@2/2/1/0\n"
             "call 4 2 get :3:5@0#0\nret 4 " DENIED));
    /* taken away while the question is open, or with an outcome that nobody told: either is right */
    ASSERT(fine(USER_1 WATCH_ALL MAY("3") PUT_U "call 9 1 allow 1 0 0\nret 9 ok 1\nret 1 " DENIED));
    ASSERT(fine(USER_1 WATCH_ALL MAY("3") "call 9 1 allow 1 0 0\nret 9 err -1 lost\n" PUT_U
                                          "ret 1 ok 2 1 +\n" SEE_A
                                          "call 2 2 put +3=8/0\nret 2 " DENIED));
    /* never given, taken away, half of a transaction, for reading only; denied in spite of it; done in spite of that */
    ASSERT(flags(USER_1 WATCH_ALL PUT_U "ret 1 ok 2 1 +\n" SEE_A, LIN_PERMISSION));
    ASSERT(flags(USER_1 WATCH_ALL PUT_A SEE_A MAY("3")
                     MAY_NOT("0") "call 3 2 get :3:4@0#0\nret 3 ok 2 1 :1,0,3=7@2/2/1/0\n",
                 LIN_PERMISSION));
    ASSERT(flags(USER_1 WATCH_ALL PUT_A SEE_A MAY(
                     "3") "call 3 2 txn :3:4@0#0 else ( +9=9/0 )\nret 3 ok 2 1 :1,0,3=7@2/2/1/0\n",
                 LIN_PERMISSION));
    ASSERT(flags(USER_1 WATCH_ALL MAY("1") PUT_U "ret 1 ok 2 1 +\n" SEE_A, LIN_PERMISSION));
    ASSERT(flags(USER_1 WATCH_ALL MAY("3") PUT_U "ret 1 " DENIED, LIN_PERMISSION));
    ASSERT(flags(USER_1 WATCH_ALL PUT_U "ret 1 " DENIED SEE_A, LIN_REFUSED));
    ASSERT(flags(USER_1 WATCH_ALL "call 3 1 get :3:4@0#0\nret 3 " DENIED, LIN_PERMISSION));
}

TEST(lin, known_bad_histories) {
    /* an acknowledged write is gone */
    ASSERT(flags(WATCH_ALL PUT_A SEE_A PUT_B
                 "call 3 1 put +4=9/0\nret 3 ok 3 1 +\nev 1 3 0 +4=9@3/3/1/0\n",
                 LIN_LOST));
    ASSERT(flags(WATCH_ALL PUT_A, LIN_GAP));
    /* reads: stale, of the wrong state, of a revision that does not fit */
    ASSERT(flags(WATCH_ALL PUT_A SEE_A "call 3 2 get :3:4@0#0\nret 3 ok 1 1 :0,0\n", LIN_STALE));
    ASSERT(flags(WATCH_ALL PUT_A SEE_A "call 3 2 get :3:4@0#0\nret 3 ok 2 1 :0,0\n", LIN_ANSWER));
    ASSERT(flags(WATCH_ALL PUT_A SEE_A PUT_B SEE_B
                 "call 3 2 get :3:4@2#0\nret 3 ok 3 1 :1,0,3=8@2/3/2/0\n",
                 LIN_ANSWER));
    ASSERT(flags(WATCH_ALL PUT_A SEE_A "call 3 2 txn ?m3=2 +3=9/0 else :3:4@0#0\n"
                                       "ret 3 ok 2 0 :1,0,3=7@2/2/1/0\n",
                 LIN_ANSWER));
    ASSERT(flags(WATCH_ALL PUT_A SEE_A
                 "call 3 1 get :9:10@5#0\nret 3 err 11 required revision is a future revision\n"
                 "call 4 1 get :9:10@2#0\nret 4 err 11 required revision is a future revision\n",
                 LIN_STALE));
    /* revisions go back */
    ASSERT(flags(WATCH_ALL PUT_A SEE_A "call 3 1 grant 4 60\nret 3 ok 1\n", LIN_STALE));
    ASSERT(flags(WATCH_ALL PUT_A SEE_A PUT_B SEE_B SEE_A, LIN_DUPLICATE));
    ASSERT(flags(WATCH_ALL PUT_A SEE_A PUT_B SEE_B
                 "watch 2 2 0 16 3 0 0\ncreated 2 3\nev 2 3 0 +3=7@2/2/1/0\n",
                 LIN_ORDER));
    /* two writes, one revision */
    ASSERT(flags(WATCH_ALL PUT_A SEE_A "call 3 2 put +3=7/0\nret 3 ok 2 1 +\n", LIN_LOST));
    /* an event before its cause; a revision without one; a refused write that happened */
    ASSERT(flags(WATCH_ALL SEE_A PUT_A, LIN_FUTURE));
    ASSERT(flags(WATCH_ALL SEE_A, LIN_PHANTOM));
    ASSERT(flags(WATCH_ALL "call 1 1 put +3=7/0\nret 1 err 8 no space\n" SEE_A, LIN_REFUSED));
    /* a write of unknown outcome that happened twice */
    ASSERT(flags(WATCH_ALL "call 1 1 put +3=7/0\nret 1 err -1 lost\n" SEE_A
                           "ev 1 3 0 +3=7@2/3/2/0^3=7@2/2/1/0\n",
                 LIN_PHANTOM));
    /* watches: twice, missing, half, unasked, wrong value before, wrong version, different news */
    ASSERT(flags(WATCH_ALL PUT_A SEE_A SEE_A, LIN_DUPLICATE));
    ASSERT(flags(WATCH_ALL PUT_A SEE_A PUT_B SEE_B
                 "watch 2 2 3 4 1 0 0\ncreated 2 3\nev 2 3 0 +3=8@2/3/2/0\n",
                 LIN_GAP));
    ASSERT(flags(WATCH_ALL "call 1 1 txn +3=7/0 +4=8/0\nret 1 ok 2 1 + +\n"
                           "ev 1 2 0 +3=7@2/2/1/0 +4=8@2/2/1/0\n"
                           "watch 2 2 0 16 1 0 0\ncreated 2 2\nev 2 2 0 +3=7@2/2/1/0\n",
                 LIN_ATOMIC));
    ASSERT(flags(WATCH_ALL "call 1 1 txn +3=7/0 +4=8/0\nret 1 ok 2 1 + +\nev 1 2 0 +3=7@2/2/1/0\n",
                 LIN_LOST));
    ASSERT(flags(WATCH_ALL PUT_A SEE_A "watch 2 2 4 5 1 0 0\ncreated 2 2\nev 2 2 0 +3=7@2/2/1/0\n",
                 LIN_FILTER));
    ASSERT(flags(WATCH_ALL PUT_A SEE_A "watch 2 2 0 16 1 1 0\ncreated 2 2\nev 2 2 0 +3=7@2/2/1/0\n",
                 LIN_FILTER));
    ASSERT(flags(WATCH_ALL PUT_A SEE_A PUT_B "ev 1 3 0 +3=8@2/3/2/0^3=6@2/2/1/0\n", LIN_PREV));
    ASSERT(flags(WATCH_ALL PUT_A SEE_A PUT_B "ev 1 3 0 +3=8@2/3/2/0\n", LIN_PREV));
    ASSERT(flags(WATCH_ALL PUT_A "ev 1 2 0 +3=7@1/2/1/0\n", LIN_CREATE));
    ASSERT(flags(WATCH_ALL PUT_A SEE_A PUT_B "ev 1 3 0 +3=8@3/3/1/0^3=7@2/2/1/0\n", LIN_CREATE));
    ASSERT(flags(WATCH_ALL PUT_A SEE_A "watch 2 2 0 16 1 0 0\ncreated 2 2\nev 2 2 0 +3=9@2/2/1/0\n",
                 LIN_DIFFER));
    /* progress: before the event, of revision 0, older than what was known */
    ASSERT(flags(WATCH_ALL PUT_A "progress 1 2\n" SEE_A, LIN_BOOKMARK));
    ASSERT(flags(WATCH_ALL "progress 1 0\n" PUT_A SEE_A, LIN_BOOKMARK));
    ASSERT(flags(WATCH_ALL PUT_A SEE_A "ask 1\ntold 1 1\n", LIN_BOOKMARK));
    /* compaction */
    ASSERT(flags(WATCH_ALL PUT_A SEE_A PUT_B SEE_B
                 "call 3 1 compact 3\nret 3 ok 3\n"
                 "call 4 1 get :3:4@2#0\nret 4 ok 3 1 :1,0,3=7@2/2/1/0\n",
                 LIN_COMPACT));
    ASSERT(flags(WATCH_ALL PUT_A SEE_A PUT_B SEE_B
                 "call 4 1 get :3:4@2#0\nret 4 err 11 required revision has been compacted\n",
                 LIN_COMPACT));
    ASSERT(flags(WATCH_ALL PUT_A SEE_A PUT_B SEE_B
                 "call 3 1 compact 2\nret 3 ok 3\n"
                 "watch 2 2 0 16 2 0 0\ncreated 2 3\ncancel 2 2\n",
                 LIN_COMPACT));
    /* leases: too early, keys that stay, keys that are not told, use after the end */
    ASSERT(flags("clock 1000\ncall 1 1 grant 5 2\nret 1 ok 1\ncall 2 1 put +3=7/5\nret 2 ok 2 1 "
                 "+\n" WATCH_ALL "ev 1 2 0 +3=7@2/2/1/5\nclock 2900\nev 1 3 0 -3@3^3=7@2/2/1/5\n",
                 LIN_LEASE));
    ASSERT(flags("call 1 1 grant 5 9\nret 1 ok 1\ncall 2 1 put +3=7/5\nret 2 ok 2 1 +\n" WATCH_ALL
                 "ev 1 2 0 +3=7@2/2/1/5\ncall 3 1 revoke 5\nret 3 ok 2\n",
                 LIN_LEASE));
    ASSERT(flags("call 1 1 grant 5 9\nret 1 ok 1\ncall 2 1 put +3=7/5\nret 2 ok 2 1 +\n" WATCH_ALL
                 "ev 1 2 0 +3=7@2/2/1/5\ncall 3 1 ttl 5\nret 3 ok 2 ttl\n",
                 LIN_LEASE));
    ASSERT(
        flags("call 1 1 grant 5 9\nret 1 ok 1\ncall 3 1 put +3=7/5\nret 3 err 5 lease not found\n",
              LIN_LEASE));
    /* hashes */
    ASSERT(flags(WATCH_ALL PUT_A SEE_A "call 3 1 hash 2\nret 3 ok 2 hash 77 0 2\n"
                                       "call 4 1 hash 2\nret 4 ok 2 hash 78 0 2\n",
                 LIN_HASH));
}

/* ---- a small store, right or wrong, used by several clients at once ---- */

enum bug {
    BUG_NONE,
    BUG_LOST_ACK,  /* acknowledged, never done */
    BUG_STALE,     /* a read of the state before */
    BUG_BACK,      /* a crash takes the newest revision along */
    BUG_DUPLICATE, /* an event twice */
    BUG_GAP,       /* an event never */
    BUG_AHEAD,     /* progress before the event */
    BUG_HALF,      /* half of a transaction survives a crash */
    BUG_TWICE,     /* a lost write is done again after the crash */
    BUG_PREV,      /* the value before is that of another revision */
    BUG_CMP,       /* a compare is judged on the state before */
    BUG_MAX_
};
enum { SIM_KEYS = 4, SIM_CLIENTS = 3 };

struct skv {
    unsigned val, create, mod, version;
};
struct call {
    int phase; /* 0 idle, 1 asked, 2 done */
    unsigned id, key, val, kind, cmp, asked_at;
    bool lie; /* the answer is wrong */
    char answer[120];
};
struct sim {
    struct buf out;
    struct skv k[SIM_KEYS], before[SIM_KEYS];
    struct call c[SIM_CLIENTS];
    unsigned rev, ids, vals, given2; /* given2: revisions that the second watch has been given */
    char ev[4096][160], tail[4096][120];
    enum bug bug;
    bool hit;
    uint64_t seed;
};

static unsigned luck(struct sim *s, unsigned n) {
    s->seed = s->seed * 6364136223846793005ull + 1442695040888963407ull;
    return (unsigned)(s->seed >> 33) % n;
}

static bool strike(struct sim *s, enum bug b) {
    if (s->bug == b && !s->hit && s->rev > 8 && luck(s, 3) == 0) {
        s->hit = true;
        return true;
    }
    return false;
}

static void put_kv(char *dst, size_t cap, unsigned key, const struct skv *k) {
    ASSERT_EQ(0, str_put(dst, cap, "%u=%u@%u/%u/%u/0", key, k->val, k->create, k->mod, k->version));
}

/* One key changed by the revision that is being made; val 0 deletes. */
static void change(struct sim *s, unsigned key, unsigned val) {
    struct skv *k = &s->k[key], old = *k;
    char kv[64], prev[80] = "", text[160];
    unsigned rev = s->rev;
    if (old.version) {
        struct skv shown = old;
        if (strike(s, BUG_PREV)) {
            shown.val++;
        }
        put_kv(kv, sizeof(kv), key, &shown);
        ASSERT_EQ(0, str_put(prev, sizeof(prev), "^%s", kv));
    }
    *k = val ? (struct skv){val, old.version ? old.create : rev, rev, old.version + 1}
             : (struct skv){0, 0, 0, 0};
    put_kv(kv, sizeof(kv), key, k);
    ASSERT_EQ(0, val ? str_put(text, sizeof(text), " +%s%s", kv, prev)
                     : str_put(text, sizeof(text), " -%u@%u%s", key, rev, prev));
    if (s->ev[rev][0]) {
        ASSERT_EQ(0, str_put(s->tail[rev], sizeof(s->tail[rev]), "%s", text));
    } else {
        ASSERT_EQ(0, str_put(s->ev[rev], sizeof(s->ev[rev]), "%s", text));
    }
}

static void begin(struct sim *s) {
    memcpy(s->before, s->k, sizeof(s->k));
    s->rev++;
    s->ev[s->rev][0] = s->tail[s->rev][0] = 0;
}

static void read_answer(struct sim *s, struct call *c, int succeeded) {
    bool stale = c->asked_at == s->rev && strike(s, BUG_STALE);
    c->lie = stale;
    const struct skv *k = stale ? &s->before[c->key] : &s->k[c->key];
    char kv[64] = "";
    if (k->version) {
        put_kv(kv, sizeof(kv), c->key, k);
    }
    ASSERT_EQ(0, str_put(c->answer, sizeof(c->answer), "ok %u %d :%d,0%s%s",
                         stale ? s->rev - 1 : s->rev, succeeded, k->version ? 1 : 0,
                         k->version ? "," : "", kv));
}

static void ask(struct sim *s, unsigned i) {
    struct call *c = &s->c[i];
    *c = (struct call){
        .phase = 1, .id = ++s->ids, .key = luck(s, SIM_KEYS), .val = ++s->vals, .kind = luck(s, 5)};
    unsigned other = (c->key + 1) % SIM_KEYS;
    c->asked_at = s->rev;
    c->cmp = s->k[c->key].mod;
    buf_fmt(&s->out, "call %u %u ", c->id, i);
    switch (c->kind) {
    case 0:
    case 1: buf_fmt(&s->out, "put +%u=%u/0\n", c->key, c->val); break;
    case 2: buf_fmt(&s->out, "get :%u:%u@0#0\n", c->key, c->key + 1); break;
    case 3: buf_fmt(&s->out, "del -%u:%u\n", c->key, c->key + 1); break;
    default:
        s->vals++;
        buf_fmt(&s->out, "txn ?m%u=%u +%u=%u/0 +%u=%u/0 else :%u:%u@0#0\n", c->key, c->cmp, c->key,
                c->val, other, c->val + 1, c->key, c->key + 1);
        break;
    }
}

static void act(struct sim *s, struct call *c) {
    unsigned other = (c->key + 1) % SIM_KEYS;
    c->phase = 2;
    switch (c->kind) {
    case 0:
    case 1:
        if (strike(s, BUG_LOST_ACK)) {
            c->lie = true;
            ASSERT_EQ(0, str_put(c->answer, sizeof(c->answer), "ok %u 1 +", s->rev + 1));
            break;
        }
        begin(s);
        change(s, c->key, c->val);
        ASSERT_EQ(0, str_put(c->answer, sizeof(c->answer), "ok %u 1 +", s->rev));
        break;
    case 2: read_answer(s, c, 1); break;
    case 3: {
        int n = s->k[c->key].version ? 1 : 0;
        if (n) {
            begin(s);
            change(s, c->key, 0);
        }
        ASSERT_EQ(0, str_put(c->answer, sizeof(c->answer), "ok %u 1 -%d", s->rev, n));
        break;
    }
    default: {
        bool holds = s->k[c->key].mod == c->cmp;
        if (!holds && strike(s, BUG_CMP)) {
            holds = true;
        }
        if (!holds) {
            read_answer(s, c, 0);
            break;
        }
        begin(s);
        change(s, c->key, c->val);
        change(s, other, c->val + 1);
        ASSERT_EQ(0, str_put(c->answer, sizeof(c->answer), "ok %u 1 + +", s->rev));
        break;
    }
    }
}

static void crash(struct sim *s) {
    if (s->bug == BUG_BACK && !s->hit && s->rev > 8) {
        s->hit = true;
        s->rev--;
        memcpy(s->k, s->before, sizeof(s->k));
    }
    for (unsigned i = 0; i < SIM_CLIENTS; i++) {
        struct call *c = &s->c[i];
        if (c->phase == 2 && c->kind < 2 && strike(s, BUG_TWICE)) {
            begin(s);
            change(s, c->key, c->val);
        }
        if (c->phase) {
            buf_fmt(&s->out, "ret %u err -1 lost\n", c->id);
            s->hit &= !c->lie; /* nobody has heard the lie */
        }
        c->phase = 0;
    }
}

/* The first watch is told at once; the second lags. */
static void tell(struct sim *s, unsigned *given1) {
    while (*given1 < s->rev) {
        unsigned r = ++*given1;
        if (s->tail[r][0] && strike(s, BUG_HALF)) {
            s->tail[r][0] = 0;
        }
        buf_fmt(&s->out, "ev 1 %u 0%s%s\n", s->rev, s->ev[r], s->tail[r]);
    }
}

static void tell_late(struct sim *s) {
    if (strike(s, BUG_AHEAD) && s->given2 < s->rev) {
        buf_fmt(&s->out, "progress 2 %u\n", s->rev);
    } else if (s->bug == BUG_AHEAD && s->given2 >= s->rev) {
        s->hit = false;
    }
    while (s->given2 < s->rev) {
        unsigned r = ++s->given2;
        if (strike(s, BUG_GAP)) {
            continue;
        }
        buf_fmt(&s->out, "ev 2 %u 0%s%s\n", s->rev, s->ev[r], s->tail[r]);
        if (strike(s, BUG_DUPLICATE)) {
            buf_fmt(&s->out, "ev 2 %u 0%s%s\n", s->rev, s->ev[r], s->tail[r]);
        }
    }
    buf_fmt(&s->out, "progress 2 %u\n", s->rev);
}

/* True: the bug struck and the history shows it, or there is none. */
static bool simulate(struct sim *s, enum bug b, uint64_t seed, struct lin_verdict *v) {
    memset(s, 0, sizeof(*s));
    s->out = (struct buf)BUF_INIT(1 << 22);
    s->bug = b;
    s->seed = seed;
    s->rev = s->given2 = 1;
    unsigned given1 = 1;
    buf_str(&s->out, "watch 1 1 0 16 2 0 1\ncreated 1 1\nwatch 2 2 0 16 2 0 1\ncreated 2 1\n");
    for (int step = 0; step < 900; step++) {
        unsigned i = luck(s, SIM_CLIENTS), what = luck(s, 40);
        struct call *c = &s->c[i];
        if (what == 0) {
            crash(s);
        } else if (what < 4) {
            tell_late(s);
        } else if (c->phase == 0) {
            ask(s, i);
        } else if (c->phase == 1) {
            act(s, c);
        } else {
            buf_fmt(&s->out, "ret %u %s\n", c->id, c->answer);
            c->phase = 0;
        }
        if (given1 > s->rev) {
            given1 = s->given2 = s->rev;
        }
        tell(s, &given1);
    }
    crash(s);
    tell(s, &given1);
    tell_late(s);
    struct err e = ERR_INIT;
    ASSERT_OK(lin_check(buf_view(&s->out), v, &e), &e);
    buf_fini(&s->out);
    return s->hit || b == BUG_NONE;
}

TEST(lin, simulated_histories) {
    static const char *const names[BUG_MAX_] = {"none",      "lost ack", "stale",  "back",
                                                "duplicate", "gap",      "ahead",  "half",
                                                "twice",     "previous", "compare"};
    struct sim *s = new_zero(struct sim);
    struct lin_verdict v;
    for (int b = BUG_NONE; b < BUG_MAX_; b++) {
        int struck = 0, seen = 0;
        for (uint64_t seed = 1; seed <= 20; seed++) {
            bool hit = simulate(s, (enum bug)b, seed * 7919, &v);
            struck += hit;
            seen += hit && v.n;
            if (b == BUG_NONE && v.n) {
                fail_msg("seed %d: line %zu: %s: %s", (int)seed, v.v[0].line,
                         lin_rule_name(v.v[0].rule), v.v[0].text);
            }
        }
        if (b != BUG_NONE && (struck < 10 || seen < struck)) {
            fail_msg("%s: struck %d times, seen %d times", names[b], struck, seen);
        }
    }
    free(s);
}

TEST(lin, what_is_no_history) {
    static const char *const bad[] = {"hello\n",          "call 1\n",
                                      "ret 1 ok 2\n",     "call 1 1 put +99=1/0\n",
                                      "ev 4 1 0\n",       "call 1 1 put +1=1\n",
                                      "watch 1 2 3\n",    "call 1 1 txn ( +1=1/0\n",
                                      "call 1 1 txn )\n", "call 1 1 txn ( ( ( ( ( ) ) ) ) )\n"};
    struct lin_verdict v;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct err e = ERR_INIT;
        ASSERT_ERR(-ERR_INVALID, lin_check(span_str(bad[i]), &v, &e));
    }
}
