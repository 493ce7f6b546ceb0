/* lin — recorded histories of a store under load, and the judge of them. Test-only.
 *
 * What:     a text of one line an event, in the order in which one thread saw them, so that line numbers are the clock;
 *           lin_check decides whether a correct store could have answered so.
 * Owns:     struct lin_log its text; struct lin_verdict is plain memory.
 * Limits:   LIM_LIN_CLIENTS clients, LIM_LIN_KEYS keys, LIM_LIN_SUBS operations a branch, LIM_LIN_LEAVES a transaction with all in it.
 * Errors:   INVALID for a text that is no history.
 * Threads:  any.
 * Spec:     linearizability (Herlihy & Wing 1990) of operations; etcd's watch guarantees: ordered, unique, atomic, reliable,
 *           resumable, bookmarkable, right previous values, right creations, filters.
 *
 * Keys are small numbers, values are numbers that are written once. The lines:
 *   call ID CLIENT put|del|get|pages|txn  [?TARGET KEY HOW NUMBER]… OP… [else OP…]
 *        pages  a range in pages of one revision, which a compaction may overtake
 *        tests  ?m3=7 (m mod, c create, v version, l lease, x value; = < > !)
 *        OP     +KEY=VALUE/LEASE[^]   -LO:HI[^]   :LO:HI@REV#LIMIT[c]      ^ previous values wanted, c count only
 *               ( TEST… OP… [else OP…] )                                   a transaction in it
 *   call ID CLIENT grant LEASE TTL | revoke LEASE | keep LEASE | ttl LEASE | compact REV | hash REV
 *   call ID CLIENT allow USER PART BITS      what a user may do with a fourth of the keys: 1 read, 2 write
 *   user CLIENT USER                     whose calls these are from here on; 0: the administrator
 *   ret ID ok REV                        of grant, revoke, keep, compact, allow
 *   ret ID ok REV SUCCEEDED RESULT…      + | +KV    -N[,KV]…    :COUNT,MORE[,KV]…    (SUCCEEDED RESULT… )
 *        KV     KEY=VALUE@CREATE/MOD/VERSION/LEASE
 *   ret ID ok REV ttl KEY…   |   ret ID ok REV hash HASH COMPACTED AT (0: not told)
 *   ret ID err CODE TEXT                 gRPC's code; -1: the connection was lost
 *   watch W STREAM LO HI START FILTERS PREV        FILTERS: 1 no puts, 2 no deletions; PREV: 0 or 1
 *   created W REV | ev W REV FRAGMENT EVENT… | progress W REV | cancel W COMPACTED     EVENT: +KV[^KV] | -KEY@MOD[^KV]
 *   ask STREAM | told STREAM REV         progress asked for on a stream, and the answer
 *   clock MS                             the server's clock, for leases
 *   note TEXT
 * An operation without ret, or with an error that leaves its outcome open, may have happened or not. At the end somebody
 * must have watched everything: a revision nobody was given is a gap.
 */
#ifndef KF_LIN_H
#define KF_LIN_H

#include "internal/base/buf.h"

enum { LIM_LIN_CLIENTS = 16, LIM_LIN_KEYS = 16, LIM_LIN_SUBS = 6, LIM_LIN_LEAVES = 32, LIM_LIN_DEPTH = 4, LIM_LIN_FINDINGS = 12 };

enum lin_rule {
    LIN_GAP,        /* an event or revision is missing */
    LIN_ORDER,      /* events or revisions go back */
    LIN_DUPLICATE,  /* an event came twice */
    LIN_ATOMIC,     /* a revision came in parts */
    LIN_BOOKMARK,   /* progress ahead of events, or behind what was acknowledged */
    LIN_PREV,       /* wrong previous value */
    LIN_CREATE,     /* wrong create revision, version or mod revision */
    LIN_FILTER,     /* an event that the watch did not ask for */
    LIN_DIFFER,     /* two watches were told different things */
    LIN_LOST,       /* an acknowledged write is not in the history */
    LIN_PHANTOM,    /* a revision that nobody wrote */
    LIN_REFUSED,    /* a refused write has happened */
    LIN_ANSWER,     /* a wrong answer for its revision */
    LIN_STALE,      /* an answer older than what was known when the question was asked */
    LIN_FUTURE,     /* a write was seen before it was asked for */
    LIN_COMPACT,    /* compacted revisions read, or kept ones refused */
    LIN_LEASE,      /* a lease expired early, or outlived its end */
    LIN_HASH,       /* the same revision has two hashes */
    LIN_PERMISSION, /* done without permission, or refused with it */
    LIN_RULE_MAX_
};
const char *lin_rule_name(enum lin_rule r);

struct lin_finding {
    enum lin_rule rule;
    size_t line; /* of the history, from 1 */
    char text[200];
};
struct lin_verdict {
    struct lin_finding v[LIM_LIN_FINDINGS];
    size_t n; /* all of them, more than v holds possibly */
    size_t n_ops, n_acked, n_open, n_events, n_watches;
    int64_t revs;
};
/* Negative only for a text that cannot be read. */
NODISCARD int lin_check(struct span history, struct lin_verdict *ret, struct err *e);

#endif
