/* Private to server-side apply: sets of field paths, and what a place of the schema is to them. */
#ifndef KF_KUBE_SSA_INT_H
#define KF_KUBE_SSA_INT_H

#include "internal/kube/kube_int.h"

enum { LIM_SSA_BYTES = 64 << 20 };

/* A set of paths as a tree. `key` is the path element as fieldsV1 writes it: f:name, k:{"name":"a"}, v:"x", i:0. */
struct fset {
    const char *key;
    bool member;        /* the path to here is in the set */
    struct fset **kids; /* by key */
    size_t n, cap;
};

struct fset *fset_new(struct arena *a, const char *key);
struct fset *fset_kid(const struct fset *s, const char *key);             /* or NULL */
struct fset *fset_need(struct arena *a, struct fset *s, const char *key); /* made when absent */
bool fset_empty(const struct fset *s);                                    /* NULL: empty */
bool fset_eq(const struct fset *a, const struct fset *b);
/* All make new trees; inputs may be NULL. */
struct fset *fset_union(struct arena *a, const struct fset *x, const struct fset *y);
struct fset *fset_minus(struct arena *a, const struct fset *x, const struct fset *y);
struct fset *fset_and(struct arena *a, const struct fset *x, const struct fset *y);
/* Members as path texts (.spec.containers[name="c"].image), in order. */
void fset_each(const struct fset *s, void (*fn)(void *arg, const char *path), void *arg);
struct fset *fset_parse(struct arena *a, const struct json *fields_v1);
struct json *fset_write(struct json_doc *d, const struct fset *s);

/* A place in the schema: the value of a field, or one element of its list or map. f NULL: the root, of type t. */
struct place {
    const struct kube_type *t;
    const struct kube_field *f;
    bool element;
};
enum place_kind { PLACE_LEAF, PLACE_STRUCT, PLACE_MAP, PLACE_SET, PLACE_KEYED };
/* Path element of a list item in text form (k:… or v:…); false when a key is missing. */

struct ssa {
    struct arena a;
    struct json_doc *d;
};
/* Paths that a configuration says something about. */
void ssa_set_of(struct ssa *s, const struct json *v, struct place p, struct fset *out);
struct ssa_diff {
    struct fset *added, *modified, *removed;
};
void ssa_compare(struct ssa *s, const struct json *old, const struct json *now, struct place p,
                 struct ssa_diff *d);
struct json *ssa_merge(struct ssa *s, const struct json *live, const struct json *applied,
                       struct place p);
/* Takes out of v what `last` names and nobody in `owned` holds. */
void ssa_prune(struct ssa *s, struct json *v, const struct fset *last, const struct fset *owned,
               struct place p);
/* Checks v against the schema; errors as upstream's typed object reports them, one per line in b. Returns how many. */
size_t ssa_check(const struct json *v, struct place p, struct kube_path *path, struct buf *b);

#endif
