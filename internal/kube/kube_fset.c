#include "internal/kube/kube.h"

#include "internal/kube/kube_ssa_int.h"

struct fset *fset_new(struct arena *a, const char *key) {
    struct fset *s = arena_new(a, struct fset);
    CHECK(s); /* objects are bounded far below the arena's maximum */
    s->key = arena_str(a, span_str(key));
    CHECK(s->key);
    return s;
}

/* Place of key among the kids, and whether it is there. */
static size_t find(const struct fset *s, const char *key, bool *ret_found) {
    size_t lo = 0, hi = s->n;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        int c = strcmp(s->kids[mid]->key, key);
        if (c == 0) {
            *ret_found = true;
            return mid;
        }
        if (c < 0) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    *ret_found = false;
    return lo;
}

struct fset *fset_kid(const struct fset *s, const char *key) {
    bool found;
    size_t at = s ? find(s, key, &found) : 0;
    return s && found ? s->kids[at] : NULL;
}

static void insert(struct arena *a, struct fset *s, struct fset *kid) {
    bool found;
    size_t at = find(s, kid->key, &found);
    if (s->n == s->cap) {
        size_t cap = s->cap ? s->cap * 2 : 4;
        struct fset **k = arena_alloc(a, cap * sizeof(*k));
        CHECK(k);
        for (size_t i = 0; i < s->n; i++) {
            k[i] = s->kids[i];
        }
        s->kids = k;
        s->cap = cap;
    }
    for (size_t i = s->n; i > at; i--) {
        s->kids[i] = s->kids[i - 1];
    }
    s->kids[at] = kid;
    s->n++;
}

struct fset *fset_need(struct arena *a, struct fset *s, const char *key) {
    struct fset *k = fset_kid(s, key);
    if (!k) {
        k = fset_new(a, key);
        insert(a, s, k);
    }
    return k;
}

bool fset_empty(const struct fset *s) {
    if (!s) {
        return true;
    }
    if (s->member) {
        return false;
    }
    for (size_t i = 0; i < s->n; i++) {
        if (!fset_empty(s->kids[i])) {
            return false;
        }
    }
    return true;
}

bool fset_eq(const struct fset *a, const struct fset *b) {
    if (!a || !b) {
        return fset_empty(a) && fset_empty(b);
    }
    if (a->member != b->member || a->n != b->n) {
        return false;
    }
    for (size_t i = 0; i < a->n; i++) {
        if (!str_eq(a->kids[i]->key, b->kids[i]->key) || !fset_eq(a->kids[i], b->kids[i])) {
            return false;
        }
    }
    return true;
}

struct fset *fset_union(struct arena *a, const struct fset *x, const struct fset *y) {
    struct fset *s = fset_new(a, x ? x->key : y ? y->key : "");
    size_t i = 0, k = 0, nx = x ? x->n : 0, ny = y ? y->n : 0;
    s->member = (x && x->member) || (y && y->member);
    while (i < nx || k < ny) {
        int c = i == nx ? 1 : k == ny ? -1 : strcmp(x->kids[i]->key, y->kids[k]->key);
        const struct fset *l = c <= 0 ? x->kids[i] : NULL, *r = c >= 0 ? y->kids[k] : NULL;
        insert(a, s, fset_union(a, l, r));
        i += c <= 0 ? 1 : 0;
        k += c >= 0 ? 1 : 0;
    }
    return s;
}

struct fset *fset_minus(struct arena *a, const struct fset *x, const struct fset *y) {
    struct fset *s = fset_new(a, x ? x->key : "");
    s->member = x && x->member && !(y && y->member);
    for (size_t i = 0; x && i < x->n; i++) {
        struct fset *k = fset_minus(a, x->kids[i], fset_kid(y, x->kids[i]->key));
        if (!fset_empty(k)) {
            insert(a, s, k);
        }
    }
    return s;
}

struct fset *fset_and(struct arena *a, const struct fset *x, const struct fset *y) {
    struct fset *s = fset_new(a, x ? x->key : "");
    s->member = x && y && x->member && y->member;
    for (size_t i = 0; x && i < x->n; i++) {
        const struct fset *other = fset_kid(y, x->kids[i]->key);
        struct fset *k = other ? fset_and(a, x->kids[i], other) : NULL;
        if (k && !fset_empty(k)) {
            insert(a, s, k);
        }
    }
    return s;
}

/* ---- texts ------------------------------------------------------------------------------------------------ */

static void element_text(struct buf *b, const char *key) {
    AUTO(json_docp) struct json_doc *d = NULL;
    if (key[0] == 'f') {
        buf_fmt(b, ".%s", key + 2);
        return;
    }
    if (key[0] == 'i') {
        buf_fmt(b, "[%s]", key + 2);
        return;
    }
    if (key[0] == 'v') {
        buf_fmt(b, "[=%s]", key + 2);
        return;
    }
    if (json_parse(span_str(key + 2), 0, &d, NULL) < 0) {
        return;
    }
    const char *sep = "[";
    JSON_EACH_KV(it, k, v, json_root(d)) {
        buf_fmt(b, "%s%s=", sep, k);
        IGNORE_ERR(json_write(v, 0, b), "a key is short");
        sep = ",";
    }
    buf_u8(b, ']');
}

static void each(const struct fset *s, struct buf *path, void (*fn)(void *, const char *),
                 void *arg) {
    if (s->member) {
        fn(arg, buf_cstr(path));
    }
    for (size_t i = 0; i < s->n; i++) {
        size_t at = path->n;
        element_text(path, s->kids[i]->key);
        each(s->kids[i], path, fn, arg);
        buf_trunc(path, at);
    }
}

void fset_each(const struct fset *s, void (*fn)(void *arg, const char *path), void *arg) {
    AUTO(buf) struct buf path = BUF_INIT(1u << 20);
    if (s) {
        each(s, &path, fn, arg);
    }
}

/* ---- fieldsV1 ----------------------------------------------------------------------------------------------- */

static void parse(struct arena *a, const struct json *v, struct fset *s) {
    s->member = json_len(v) == 0;
    JSON_EACH_KV(it, k, x, v) {
        if (str_eq(k, ".")) {
            s->member = true;
        } else if (k[0] && k[1] == ':') {
            parse(a, x, fset_need(a, s, k));
        }
    }
}
struct fset *fset_parse(struct arena *a, const struct json *fields_v1) {
    struct fset *s = fset_new(a, "");
    parse(a, fields_v1, s);
    s->member = false;
    return s;
}

struct json *fset_write(struct json_doc *d, const struct fset *s) {
    struct json *o = json_new_obj(d);
    if (s->member && s->n) {
        json_set(d, o, ".", json_new_obj(d));
    }
    for (size_t i = 0; i < s->n; i++) {
        json_set(d, o, s->kids[i]->key, fset_write(d, s->kids[i]));
    }
    return o;
}
