/* The judge: what happened, who did it, who was told what. */
#include "internal/lin/lin_int.h"

#include <stdio.h>
#include <stdlib.h>

static const char *const names[LIN_RULE_MAX_] = {
    [LIN_GAP] = "gap",
    [LIN_ORDER] = "order",
    [LIN_DUPLICATE] = "duplicate",
    [LIN_ATOMIC] = "atomic",
    [LIN_BOOKMARK] = "bookmark",
    [LIN_PREV] = "previous value",
    [LIN_CREATE] = "create",
    [LIN_FILTER] = "filter",
    [LIN_DIFFER] = "differ",
    [LIN_LOST] = "lost write",
    [LIN_PHANTOM] = "phantom",
    [LIN_REFUSED] = "refused write",
    [LIN_ANSWER] = "wrong answer",
    [LIN_STALE] = "stale",
    [LIN_FUTURE] = "future",
    [LIN_COMPACT] = "compaction",
    [LIN_LEASE] = "lease",
    [LIN_HASH] = "hash",
    [LIN_PERMISSION] = "permission",
};

const char *lin_rule_name(enum lin_rule r) {
    return r < LIN_RULE_MAX_ ? names[r] : "?";
}

void lin_find(struct lin *h, enum lin_rule r, size_t line, const char *fmt, ...) {
    struct lin_verdict *v = h->out;
    if (v->n < LIM_LIN_FINDINGS) {
        struct lin_finding *f = &v->v[v->n];
        va_list ap;
        f->rule = r;
        f->line = line;
        va_start(ap, fmt);
        vsnprintf(f->text, sizeof(f->text), fmt, ap);
        va_end(ap);
    }
    v->n++;
}

static void fini(struct lin *h) {
    for (size_t i = 0; i < h->n_watches; i++) {
        free(h->watches[i]->msgs);
    }
    for (size_t i = 0; i < LIM_LIN_KEYS; i++) {
        free(h->past[i].v);
    }
    free(h->ops);
    free(h->watches);
    free(h->asks);
    free(h->seen);
    free(h->clocks);
    arena_fini(&h->a);
}

int lin_check(struct span history, struct lin_verdict *ret, struct err *e) {
    struct lin h = {.a = ARENA_INIT((size_t)1 << 30), .out = ret};
    *ret = (struct lin_verdict){0};
    h.run = arena_new(&h.a, struct lin_run);
    CHECK(h.run);
    int rc = lin_read(&h, history, e);
    if (rc == 0 && lin_history(&h)) {
        lin_order(&h);
        lin_rest(&h);
        lin_users(&h);
        lin_watches(&h);
    }
    for (size_t i = 0; i < h.n_ops; i++) {
        ret->n_acked += h.ops[i]->end == LIN_OK;
        ret->n_open += h.ops[i]->end == LIN_OPEN;
    }
    ret->n_ops = h.n_ops;
    ret->n_watches = h.n_watches;
    ret->revs = h.max_rev;
    fini(&h);
    return rc;
}
