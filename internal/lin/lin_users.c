/* Permissions: who was served was allowed to, who was refused was not. One client at a time changes them, so that of each
 * fourth of the keys the values which may have been in force while a question was open are known. */
#include "internal/lin/lin_int.h"

/* A set of the four values: bit 1 << value. */
static unsigned in_force(const struct lin *h, const struct lin_op *asked, int32_t slot) {
    unsigned set = 1u << 0; /* nothing was allowed at first */
    for (size_t i = 0; i < h->n_ops && h->ops[i]->call < asked->ret; i++) {
        const struct lin_op *op = h->ops[i];
        if (op->kind != LIN_ALLOW || op->whom != asked->user || op->slot != slot ||
            op->end == LIN_NO) {
            continue;
        }
        set = op->end == LIN_OK && op->ret < asked->call ? 1u << op->bits : set | 1u << op->bits;
    }
    return set;
}

struct needs {
    unsigned must[LIN_SLOTS], may[LIN_SLOTS]; /* may: of versions of etcd that ask for more */
};

static void need(struct needs *n, int32_t lo, int32_t hi, unsigned must, unsigned may) {
    for (int32_t k = lo; k < hi; k++) {
        n->must[k / LIN_SLOT_KEYS] |= must;
        n->may[k / LIN_SLOT_KEYS] |= may;
    }
}

static void needs_of(struct needs *n, const struct lin_txn *t) {
    for (size_t i = 0; i < t->n_cmps; i++) {
        need(n, t->cmps[i].key, t->cmps[i].key + 1, LIN_MAY_READ, LIN_MAY_READ);
    }
    for (int b = 0; b < 2; b++) {
        for (size_t i = 0; i < t->n_subs[b]; i++) {
            const struct lin_sub *s = &t->subs[b][i];
            unsigned bits = s->what == ':' ? LIN_MAY_READ : LIN_MAY_WRITE;
            if (s->what == '(') {
                needs_of(n, s->txn);
            } else {
                need(n, s->lo, s->hi, bits, bits | (s->prev ? LIN_MAY_READ : 0));
            }
        }
    }
}

static void judge(struct lin *h, const struct lin_op *op) {
    struct needs n = {.must = {0}};
    bool denied = op->end == LIN_NO && op->code == 7, deniable = false;
    needs_of(&n, &op->t);
    for (int32_t s = 0; s < LIN_SLOTS; s++) {
        unsigned set = in_force(h, op, s);
        bool allowable = false;
        for (unsigned v = 0; v < 4; v++) {
            if (set & 1u << v) {
                allowable |= (v & n.must[s]) == n.must[s];
                deniable |= (v & n.may[s]) != n.may[s];
            }
        }
        if (op->end == LIN_OK && !allowable) {
            lin_find(h, LIN_PERMISSION, op->ret,
                     "operation %lld of user %d was done without permission for keys %d to %d",
                     (long long)op->id, op->user, s * LIN_SLOT_KEYS, (s + 1) * LIN_SLOT_KEYS - 1);
            return;
        }
    }
    if (denied && !deniable) {
        lin_find(h, LIN_PERMISSION, op->ret, "operation %lld of user %d was denied, but allowed",
                 (long long)op->id, op->user);
    }
}

void lin_users(struct lin *h) {
    for (size_t i = 0; i < h->n_ops; i++) {
        const struct lin_op *op = h->ops[i];
        if (op->user && op->kind == LIN_TXN && op->end != LIN_OPEN) {
            judge(h, op);
        } else if (!op->user && op->end == LIN_NO && op->code == 7) {
            lin_find(h, LIN_PERMISSION, op->ret, "operation %lld of the administrator was denied",
                     (long long)op->id);
        }
    }
}
