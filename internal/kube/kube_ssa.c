#include "internal/kube/kube.h"

#include "internal/kube/kube_ssa_int.h"

/* The walks of structured merge: over one value (which paths does it set), two values (what differs, what is their
 * merge), and a value beside a set (what has to go). Lists without a kind are atomic, maps and structs are granular. */

static enum place_kind place_kind(struct place p) {
    if (p.t) {
        return PLACE_STRUCT;
    }
    if (!p.f) {
        return PLACE_LEAF;
    }
    if (!p.element) {
        switch ((enum kube_shape)p.f->shape) {
        case KS_LIST:
            return p.f->list == KL_SET ? PLACE_SET : p.f->list == KL_MAP ? PLACE_KEYED : PLACE_LEAF;
        case KS_MAP:
        case KS_MAP_LIST: return p.f->list == KL_ATOMIC ? PLACE_LEAF : PLACE_MAP;
        case KS_ONE: break;
        }
        if (p.f->list == KL_ATOMIC) {
            return PLACE_LEAF;
        }
    }
    if (p.f->base != KB_OBJECT || (p.element && p.f->shape == KS_MAP_LIST)) {
        return PLACE_LEAF;
    }
    bool atomic = (kube_field_type(p.f)->flags & KT_ATOMIC) && p.f->list != KL_GRANULAR;
    return atomic ? PLACE_LEAF : PLACE_STRUCT;
}

static struct place place_element(struct place p) {
    return (struct place){NULL, p.f, true};
}

static bool place_field(struct place p, const char *name, struct place *ret) {
    const struct kube_type *t = p.t ? p.t : kube_field_type(p.f);
    const struct kube_field *f = kube_field_find(t, span_str(name));
    *ret = (struct place){NULL, f, false};
    return f != NULL;
}

static bool place_item_key(struct place p, const struct json *item, struct buf *b) {
    if (place_kind(p) == PLACE_SET) {
        buf_str(b, "v:");
        return json_write(item, 0, b) == 0;
    }
    const struct kube_type *t = kube_field_type(p.f);
    const char *names[8];
    struct span all = span_str(kube_str(p.f->keys)), one;
    size_t n = 0;
    while (n < ARRAY_LEN(names) &&
           span_next(&all, ',', &one)) { /* by name: keys are field names of t */
        const struct kube_field *f = kube_field_find(t, one);
        CHECK(f);
        size_t at = n++;
        for (; at > 0 && strcmp(names[at - 1], kube_str(f->name)) > 0; at--) {
            names[at] = names[at - 1];
        }
        names[at] = kube_str(f->name);
    }
    const char *sep = "k:{";
    for (size_t i = 0; i < n; i++) {
        const struct json *v = json_get(item, names[i]);
        const struct kube_field *f = kube_field_find(t, span_str(names[i]));
        if (!v && !f->def) {
            continue;
        }
        buf_fmt(b, "%s\"%s\":", sep, names[i]);
        if (!v) {
            buf_str(b, kube_str(f->def));
        } else if (json_write(v, 0, b) < 0) {
            return false;
        }
        sep = ",";
    }
    buf_u8(b, '}');
    return *sep == ',';
}

/* ---- one value -------------------------------------------------------------------------------------------- */

static void field_key(struct buf *b, const char *name) {
    buf_reset(b);
    buf_str(b, "f:");
    buf_str(b, name);
}

void ssa_set_of(struct ssa *s, const struct json *v, struct place p, struct fset *out) {
    AUTO(buf) struct buf key = BUF_INIT(1u << 20);
    enum place_kind kind = place_kind(p);
    switch (kind) {
    case PLACE_LEAF: out->member = true; return;
    case PLACE_STRUCT:
    case PLACE_MAP: {
        JSON_EACH_KV(it, k, x, v) {
            struct place q = place_element(p);
            if (kind == PLACE_STRUCT && !place_field(p, k, &q)) {
                continue;
            }
            field_key(&key, k);
            struct fset *kid = fset_need(&s->a, out, buf_cstr(&key));
            if (json_is_null(x) || (json_is_obj(x) && !json_len(x)) || kind == PLACE_MAP) {
                kid->member = true;
            }
            if (!json_is_null(x)) {
                ssa_set_of(s, x, q, kid);
            }
        }
        return;
    }
    case PLACE_SET:
    case PLACE_KEYED: {
        JSON_EACH(it, x, v) {
            buf_reset(&key);
            if (place_item_key(p, x, &key)) {
                struct fset *kid = fset_need(&s->a, out, buf_cstr(&key));
                kid->member = true;
                if (kind == PLACE_KEYED) {
                    ssa_set_of(s, x, place_element(p), kid);
                }
            }
        }
        if (!json_len(v)) {
            out->member = true;
        }
        return;
    }
    }
}

/* ---- two values -------------------------------------------------------------------------------------------- */

/* An item of a list by its path element. */
static struct json *item_of(const struct json *list, struct place p, const char *want) {
    AUTO(buf) struct buf key = BUF_INIT(1u << 20);
    JSON_EACH(it, x, list) {
        buf_reset(&key);
        if (place_item_key(p, x, &key) && str_eq(buf_cstr(&key), want)) {
            return x;
        }
    }
    return NULL;
}

static bool both_empty(const struct json *a, const struct json *b) {
    return json_len(a) == 0 && json_len(b) == 0;
}

/* The three sets one step down; what is there on one side only can only be added or removed. */
static struct ssa_diff kid_of(struct ssa *s, struct ssa_diff *d, const char *key, bool old,
                              bool now) {
    return (struct ssa_diff){now ? fset_need(&s->a, d->added, key) : NULL,
                             old && now ? fset_need(&s->a, d->modified, key) : NULL,
                             old ? fset_need(&s->a, d->removed, key) : NULL};
}

void ssa_compare(struct ssa *s, const struct json *old, const struct json *now, struct place p,
                 struct ssa_diff *d) {
    AUTO(buf) struct buf key = BUF_INIT(1u << 20);
    enum place_kind kind = place_kind(p);
    bool leaf = kind == PLACE_LEAF || both_empty(old, now) ||
                (json_is_arr(old) && json_is_obj(now)) || (json_is_obj(old) && json_is_arr(now));
    if (leaf) {
        if (!old) {
            d->added->member = true;
        } else if (!now) {
            d->removed->member = true;
        } else if (!json_eq(old, now)) {
            d->modified->member = true;
        }
        return;
    }
    if (!old) {
        d->added->member = true;
    } else if (!now) {
        d->removed->member = true;
    }
    for (int pass = 0; pass < 2; pass++) { /* what is now there, then what is gone */
        const struct json *one = pass ? old : now, *other = pass ? now : old;
        struct json_iter it = json_iter(one);
        const char *k = NULL;
        for (struct json *x; (x = json_next(&it, &k));) {
            struct place q = place_element(p);
            struct json *y;
            buf_reset(&key);
            if (kind == PLACE_SET || kind == PLACE_KEYED) {
                if (!place_item_key(p, x, &key)) {
                    continue;
                }
                y = item_of(other, p, buf_cstr(&key));
                q = kind == PLACE_SET ? (struct place){NULL, NULL, false} : q;
            } else {
                if (kind == PLACE_STRUCT && !place_field(p, k, &q)) {
                    continue;
                }
                field_key(&key, k);
                y = json_get(other, k);
            }
            if (y && (pass || json_eq(x, y))) {
                continue;
            }
            struct ssa_diff sub = kid_of(s, d, buf_cstr(&key), pass || y, !pass || y);
            ssa_compare(s, pass ? x : y, pass ? y : x, q, &sub);
        }
    }
}

/* Merges two lists by key: the applied order holds, items that only live knows keep their place before the next
 * shared one (as structured-merge-diff v6). */
static struct json *merge_lists(struct ssa *s, const struct json *live, const struct json *applied,
                                struct place p) {
    struct json *out = json_new_arr(s->d), *done = json_new_obj(s->d);
    AUTO(buf) struct buf lk = BUF_INIT(1u << 20), rk = BUF_INIT(1u << 20);
    struct json_iter li = json_iter(live), ri = json_iter(applied);
    struct json *l = json_next(&li, NULL), *r = json_next(&ri, NULL);
    struct place q =
        place_kind(p) == PLACE_SET ? (struct place){NULL, NULL, false} : place_element(p);
    while (l || r) {
        buf_reset(&lk);
        buf_reset(&rk);
        bool lkey = l && place_item_key(p, l, &lk), rkey = r && place_item_key(p, r, &rk);
        if (lkey && rkey && str_eq(buf_cstr(&lk), buf_cstr(&rk))) {
            json_set_bool(s->d, done, buf_cstr(&lk), true);
            json_push(out, ssa_merge(s, l, r, q));
            l = json_next(&li, NULL);
            r = json_next(&ri, NULL);
        } else if (l && (!lkey || !item_of(applied, p, buf_cstr(&lk)))) {
            json_push(out, json_copy(s->d, l)); /* only live has it */
            l = json_next(&li, NULL);
        } else if (l && (json_get(done, buf_cstr(&lk)) || r)) {
            /* shared, but its turn is where the applied list has it */
            if (json_get(done, buf_cstr(&lk))) {
                l = json_next(&li, NULL);
                continue;
            }
            json_set_bool(s->d, done, buf_cstr(&rk), true);
            json_push(out, ssa_merge(s, item_of(live, p, buf_cstr(&rk)), r, q));
            r = json_next(&ri, NULL);
        } else if (r) {
            json_set_bool(s->d, done, buf_cstr(&rk), true);
            json_push(out, ssa_merge(s, item_of(live, p, buf_cstr(&rk)), r, q));
            r = json_next(&ri, NULL);
        } else {
            l = json_next(&li, NULL);
        }
    }
    return out;
}

struct json *ssa_merge(struct ssa *s, const struct json *live, const struct json *applied,
                       struct place p) {
    enum place_kind kind = place_kind(p);
    bool map = (kind == PLACE_STRUCT || kind == PLACE_MAP) && json_is_obj(applied);
    bool list = (kind == PLACE_SET || kind == PLACE_KEYED) && json_is_arr(applied);
    if (list && json_is_arr(live)) {
        return merge_lists(s, live, applied, p);
    }
    if (!map || !json_is_obj(live)) {
        return json_copy(s->d, applied);
    }
    struct json *out = json_copy(s->d, live);
    JSON_EACH_KV(it, k, x, applied) {
        struct place q = place_element(p);
        if (kind == PLACE_STRUCT && !place_field(p, k, &q)) {
            continue;
        }
        json_set(s->d, out, k, ssa_merge(s, json_get(live, k), x, q));
    }
    return out;
}

/* ---- pruning ------------------------------------------------------------------------------------------------- */

static void prune_list(struct ssa *s, struct json *v, const struct fset *last,
                       const struct fset *owned, struct place p) {
    AUTO(buf) struct buf key = BUF_INIT(1u << 20);
    size_t n = json_len(v);
    for (size_t i = 0; i < n;) {
        struct json *x = json_idx(v, i);
        buf_reset(&key);
        const struct fset *l = place_item_key(p, x, &key) ? fset_kid(last, buf_cstr(&key)) : NULL;
        const struct fset *o = fset_kid(owned, buf_cstr(&key));
        if (l && fset_empty(o)) {
            json_remove_idx(v, i);
            n--;
            continue;
        }
        if (l && place_kind(p) == PLACE_KEYED) {
            ssa_prune(s, x, l, o, place_element(p));
        }
        i++;
    }
}

void ssa_prune(struct ssa *s, struct json *v, const struct fset *last, const struct fset *owned,
               struct place p) {
    enum place_kind kind = place_kind(p);
    if (kind == PLACE_SET || kind == PLACE_KEYED) {
        prune_list(s, v, last, owned, p);
        return;
    }
    if (kind == PLACE_LEAF) {
        return;
    }
    for (size_t i = 0; i < last->n; i++) {
        const char *key = last->kids[i]->key;
        const struct fset *o = fset_kid(owned, key);
        struct place q = place_element(p);
        struct json *x = json_get(v, key + 2);
        if (!x || (kind == PLACE_STRUCT && !place_field(p, key + 2, &q))) {
            continue;
        }
        if (fset_empty(o)) {
            json_del(v, key + 2);
        } else {
            ssa_prune(s, x, last->kids[i], o, q);
        }
    }
}

/* ---- checks ---------------------------------------------------------------------------------------------------- */

static size_t complain(struct buf *b, const struct kube_path *path, const char *what,
                       const char *got) {
    buf_fmt(b, "%s%s: %s%s", b->n ? "\n" : "", path->s, what, got);
    return 1;
}

static const char *go_kind(const struct json *v) {
    switch (json_kind(v)) {
    case JSON_STRING: return "string";
    case JSON_BOOL: return "boolean";
    case JSON_ARRAY: return "list";
    case JSON_OBJECT: return "map";
    case JSON_INT:
    case JSON_UINT:
    case JSON_REAL: return "number";
    case JSON_NULL: break;
    }
    return "null";
}

static size_t dotted(struct kube_path *p, const char *name) {
    size_t old = p->n;
    if (p->n == 0 && sizeof(p->s) > 2) {
        p->s[p->n++] = '.';
        p->s[p->n] = 0;
    }
    /* kube_path_field puts its own dot between parts */
    if (p->n == 1) {
        size_t len = strlen(name);
        len = len < sizeof(p->s) - 2 ? len : sizeof(p->s) - 2;
        memcpy(p->s + 1, name, len);
        p->n = 1 + len;
        p->s[p->n] = 0;
    } else {
        kube_path_field(p, name);
    }
    return old;
}

static size_t check_list(const struct json *v, struct place p, struct kube_path *path,
                         struct buf *b) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *seen = json_new_obj(d);
    size_t n = 0, i = 0;
    JSON_EACH(it, x, v) {
        AUTO(buf) struct buf key = BUF_INIT(1u << 20);
        size_t at = kube_path_index(path, i++);
        if (!place_item_key(p, x, &key)) {
            n += complain(b, path,
                          "associative list with keys has an element that omits key field(s): ",
                          kube_str(p.f->keys));
        } else if (json_get(seen, buf_cstr(&key))) {
            AUTO(buf) struct buf text = BUF_INIT(1u << 20);
            struct arena a = ARENA_INIT(1u << 20);
            struct fset *one = fset_new(&a, "");
            fset_need(&a, one, buf_cstr(&key))->member = true;
            struct json *w = fset_write(d, one);
            const char *k = NULL;
            struct json_iter wi = json_iter(w);
            IGNORE_ERR(json_next(&wi, &k) != NULL, "there is one key");
            kube_path_pop(path, at);
            buf_str(&text, "[");
            AUTO(json_docp) struct json_doc *kd = NULL;
            if (k && k[0] == 'k' && json_parse(span_str(k + 2), 0, &kd, NULL) == 0) {
                const char *sep = "";
                JSON_EACH_KV(it2, name, val, json_root(kd)) {
                    buf_fmt(&text, "%s%s=", sep, name);
                    IGNORE_ERR(json_write(val, 0, &text), "a key is short");
                    sep = ",";
                }
            } else if (k) {
                buf_fmt(&text, "=%s", k + 2);
            }
            buf_str(&text, "]");
            n += complain(b, path, "duplicate entries for key ", buf_cstr(&text));
            arena_fini(&a);
        } else {
            json_set_bool(d, seen, buf_cstr(&key), true);
            if (place_kind(p) == PLACE_KEYED) {
                n += ssa_check(x, place_element(p), path, b);
            }
        }
        kube_path_pop(path, at);
    }
    return n;
}

size_t ssa_check(const struct json *v, struct place p, struct kube_path *path, struct buf *b) {
    enum place_kind kind = place_kind(p);
    size_t n = 0;
    if (json_is_null(v)) {
        return 0;
    }
    if (kind == PLACE_SET || kind == PLACE_KEYED || (p.f && !p.element && p.f->shape == KS_LIST)) {
        if (!json_is_arr(v)) {
            return complain(b, path, "expected list, got ", go_kind(v));
        }
        return kind == PLACE_LEAF ? 0 : check_list(v, p, path, b);
    }
    bool object = kind != PLACE_LEAF || (p.f && p.f->base == KB_OBJECT);
    if (object) {
        if (!json_is_obj(v)) {
            return complain(b, path, "expected map, got ", go_kind(v));
        }
        JSON_EACH_KV(it, k, x, v) {
            struct place q = place_element(p);
            size_t at = dotted(path, k);
            bool fields = kind == PLACE_STRUCT || kind == PLACE_LEAF;
            if (fields && !place_field(p, k, &q)) {
                n += complain(b, path, "field not declared in schema", "");
            } else {
                n += ssa_check(x, q, path, b);
            }
            kube_path_pop(path, at);
        }
        return n;
    }
    if (!p.f) {
        return 0;
    }
    if (!p.element && (p.f->shape == KS_MAP || p.f->shape == KS_MAP_LIST)) {
        /* A map that is owned as a whole (selectors of services, node selectors). */
        return json_is_obj(v) ? 0 : complain(b, path, "expected map, got ", go_kind(v));
    }
    switch ((unsigned)p.f->base) {
    case KB_STRING:
    case KB_BYTES:
    case KB_TIME:
    case KB_MICROTIME:
    case KB_DURATION:
        return json_is_str(v) ? 0 : complain(b, path, "expected string, got ", go_kind(v));
    case KB_INT32:
    case KB_INT64:
    case KB_DOUBLE:
        return json_is_int(v) || json_kind(v) == JSON_REAL
                   ? 0
                   : complain(b, path, "expected numeric (int or float), got ", go_kind(v));
    case KB_BOOL:
        return json_kind(v) == JSON_BOOL ? 0
                                         : complain(b, path, "expected boolean, got ", go_kind(v));
    default: return 0;
    }
}
