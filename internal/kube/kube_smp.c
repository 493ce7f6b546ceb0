#include "internal/kube/kube.h"

#include "internal/kube/kube_int.h"

#include <stdlib.h>

/* Strategic merge patch: a merge patch whose lists are merged by key where the schema says so, with directives:
 *   $patch: replace|merge|delete   in a map, or in an item of a list
 *   $retainKeys: [..]              keys of the map that stay
 *   $setElementOrder/<list>        order of the merged list
 *   $deleteFromPrimitiveList/<list>
 */

struct smp {
    struct json_doc *d;
    struct kube_errs *errs;
};

#define ORDER "$setElementOrder/"
#define DELETE_FROM "$deleteFromPrimitiveList/"

static int merge_map(struct smp *s, const struct kube_type *t, struct json *orig,
                     const struct json *patch, struct json **ret);

/* Go's %v of a tree, as upstream's messages show it: map[a:1 b:[x y]]. */
static void go_print(struct buf *b, const struct json *v) {
    if (json_is_str(v)) {
        buf_span(b, json_span(v));
    } else if (json_is_arr(v)) {
        const char *sep = "[";
        JSON_EACH(it, x, v) {
            buf_str(b, sep);
            go_print(b, x);
            sep = " ";
        }
        buf_str(b, json_len(v) ? "]" : "[]");
    } else if (json_is_obj(v)) {
        const char *last = NULL, *sep = "map[";
        for (size_t i = json_len(v); i > 0; i--) { /* sorted by key, smallest not yet written */
            const char *least = NULL;
            JSON_EACH_KV(it, k, x, v) {
                (void)x;
                if ((!last || strcmp(k, last) > 0) && (!least || strcmp(k, least) < 0)) {
                    least = k;
                }
            }
            if (!least) {
                break;
            }
            buf_fmt(b, "%s%s:", sep, least);
            go_print(b, json_get(v, least));
            sep = " ";
            last = least;
        }
        buf_str(b, json_len(v) ? "]" : "map[]");
    } else if (json_is_null(v)) {
        buf_str(b, "<nil>");
    } else {
        IGNORE_ERR(json_write(v, 0, b), "the message is only shortened");
    }
}

static int fail(struct smp *s, const char *before, const struct json *v, const char *after) {
    AUTO(buf) struct buf b = BUF_INIT(64u << 10);
    go_print(&b, v);
    kube_errs_text(s->errs, "%s%s%s", before, buf_cstr(&b), after);
    return -ERR_INTERNAL;
}

static bool has_prefix(const char *k, const char *prefix) {
    return strncmp(k, prefix, strlen(prefix)) == 0;
}

static struct json *find_item(const struct json *list, const char *key, const struct json *want,
                              size_t *ret_i) {
    size_t i = 0;
    JSON_EACH(it, x, list) {
        const struct json *have = key ? json_get(x, key) : x;
        if (have && want && json_eq(have, want)) {
            if (ret_i) {
                *ret_i = i;
            }
            return x;
        }
        i++;
    }
    return NULL;
}

static struct json *need_key(struct smp *s, const struct json *item, const char *key, int *rc) {
    struct json *v = json_get(item, key);
    if (!v && *rc == 0) {
        AUTO_FREE char *tail = str_fmt(" does not contain declared merge key: %s", key);
        *rc = fail(s, "map: ", item, tail);
    }
    return v;
}

/* Items of the merged list that the order names come in that order; the others keep their place relative to the
 * server's order. */
static struct json *reorder(struct smp *s, const struct json *list, const struct json *order,
                            const struct json *server, const char *key) {
    struct json *left = json_new_arr(s->d), *right = json_new_arr(s->d), *out = json_new_arr(s->d);
    JSON_EACH(it, x, list) {
        if (!find_item(order, key, key ? json_get(x, key) : x, NULL)) {
            json_push(left, json_copy(s->d, x));
        }
    }
    JSON_EACH(it2, o, order) {
        struct json *x = find_item(list, key, key ? json_get(o, key) : o, NULL);
        if (x) {
            json_push(right, json_copy(s->d, x));
        }
    }
    struct json_iter li = json_iter(left), ri = json_iter(right);
    struct json *l = json_next(&li, NULL), *r = json_next(&ri, NULL);
    while (l || r) {
        size_t lpos = 0, rpos = 0;
        bool both = l && r && find_item(server, key, key ? json_get(l, key) : l, &lpos) &&
                    find_item(server, key, key ? json_get(r, key) : r, &rpos);
        if (!r || (l && both && lpos < rpos)) {
            json_push(out, json_copy(s->d, l));
            l = json_next(&li, NULL);
        } else {
            json_push(out, json_copy(s->d, r));
            r = json_next(&ri, NULL);
        }
    }
    return out;
}

static int merge_primitives(struct smp *s, struct json *orig, const struct json *patch,
                            const struct json *del) {
    JSON_EACH(it, x, patch) {
        if (!find_item(orig, NULL, x, NULL)) {
            json_push(orig, json_copy(s->d, x));
        }
    }
    JSON_EACH(it2, x, del) {
        size_t i;
        while (find_item(orig, NULL, x, &i)) {
            json_remove_idx(orig, i);
        }
    }
    return 0;
}

static bool is_replace_list(const struct json *patch) {
    JSON_EACH(it, x, patch) {
        if (str_eq(json_str(json_get(x, "$patch")), "replace")) {
            return true;
        }
    }
    return false;
}

static int merge_items(struct smp *s, const struct kube_type *t, struct json *orig,
                       const struct json *patch, const char *key) {
    int rc = 0;
    if (is_replace_list(patch)) {
        json_clear(orig);
    }
    JSON_EACH(it, x, patch) {
        const char *what = json_str(json_get(x, "$patch"));
        size_t i;
        if (!json_is_obj(x)) {
            return fail(s, "expected map, got: ", x, "");
        }
        if (what && str_eq(what, "replace")) {
            continue;
        }
        if (what && !str_eq(what, "delete") && !str_eq(what, "merge")) {
            AUTO_FREE char *head = str_fmt("unknown patch type: %s in map: ", what);
            return fail(s, head, x, "");
        }
        struct json *id = need_key(s, x, key, &rc);
        if (rc < 0) {
            return rc;
        }
        struct json *have = find_item(orig, key, id, &i);
        if (what && str_eq(what, "delete")) {
            for (; have; have = find_item(orig, key, id, &i)) {
                json_remove_idx(orig, i);
            }
            continue;
        }
        struct json *now;
        rc = merge_map(s, t, have ? have : json_new_obj(s->d), x, &now);
        if (rc < 0) {
            return rc;
        }
        if (!have) {
            json_push(orig, now);
        } else if (now != have) {
            json_replace_idx(orig, i, now);
        }
    }
    return 0;
}

/* Items of the patch that are values, not only directives: their order is one the result keeps. */
static struct json *plain_items(struct smp *s, const struct json *patch) {
    struct json *out = json_new_arr(s->d);
    JSON_EACH(it, x, patch) {
        if (!json_get(x, "$patch")) {
            json_push(out, json_copy(s->d, x));
        }
    }
    return out;
}

static int merge_list(struct smp *s, const struct kube_field *f, struct json *obj, const char *name,
                      const struct json *patch, const struct json *order, const struct json *del) {
    struct json *orig = json_need_arr(s->d, obj, name), *server = json_copy(s->d, orig);
    const char *key = f->mkey ? kube_str(f->mkey) : NULL;
    bool items = f->base == KB_OBJECT && key;
    int rc = items ? merge_items(s, kube_field_type(f), orig, patch, key)
                   : merge_primitives(s, orig, patch, del);
    if (rc == 0 && json_len(patch)) {
        orig = json_set(s->d, obj, name,
                        reorder(s, orig, plain_items(s, patch), server, items ? key : NULL));
    }
    if (rc == 0 && order) {
        json_set(s->d, obj, name, reorder(s, orig, order, server, items ? key : NULL));
    }
    return rc;
}

/* A list or map that was not there is merged into an empty one, so that its directives do their work. */
static int set_value(struct smp *s, const struct kube_field *f, struct json *obj, const char *k,
                     const struct json *v) {
    struct json *old = json_get(obj, k);
    const struct kube_type *t = f && f->base == KB_OBJECT ? kube_field_type(f) : NULL;
    bool merged = f && (f->flags & KF_MERGE);
    if (json_is_obj(v) && (!f || f->shape != KS_LIST) && !(f && (f->flags & KF_REPLACE))) {
        struct json *now;
        struct json *base = json_is_obj(old) ? old : json_new_obj(s->d);
        int rc = merge_map(s, f && f->shape == KS_ONE ? t : NULL, base, v, &now);
        if (rc == 0 && now != old) {
            json_set(s->d, obj, k, now);
        }
        return rc;
    }
    if (json_is_arr(v) && merged && (json_is_arr(old) || !old)) {
        AUTO_FREE char *ok = str_fmt(ORDER "%s", k);
        return merge_list(s, f, obj, k, v, json_get(obj, ok), NULL);
    }
    json_set(s->d, obj, k, json_copy(s->d, v));
    return 0;
}

static int retain_keys(struct smp *s, struct json *orig, const struct json *patch,
                       const struct json *keys) {
    const char *drop[64];
    size_t n;
    JSON_EACH_KV(pit, pk, v, patch) {
        struct json *ks = json_new_str(s->d, pk);
        if (*pk != '$' && !json_is_null(v) && !find_item(keys, NULL, ks, NULL)) {
            kube_errs_text(s->errs,
                           "$retainKeys list does not contain all the fields present in the patch");
            return -ERR_INTERNAL;
        }
    }
    do {
        n = 0;
        JSON_EACH_KV(it, k, v, orig) {
            (void)v;
            struct json *ks = json_new_str(s->d, k);
            if (!find_item(keys, NULL, ks, NULL) && n < ARRAY_LEN(drop)) {
                drop[n++] = k;
            }
        }
        for (size_t i = 0; i < n; i++) {
            json_del(orig, drop[i]);
        }
    } while (n == ARRAY_LEN(drop));
    return 0;
}

static int one_key(struct smp *s, const struct kube_type *t, struct json *orig,
                   const struct json *patch, const char *k, const struct json *v) {
    if (has_prefix(k, ORDER)) {
        const char *name = k + strlen(ORDER);
        const struct kube_field *f = t ? kube_field_find(t, span_str(name)) : NULL;
        AUTO_FREE char *dk = str_fmt(DELETE_FROM "%s", name);
        /* with the list itself, or the deletions, in the patch the order is used there */
        if (!f || !(f->flags & KF_MERGE) || json_is_null(json_get(orig, name)) ||
            json_get(patch, name) || json_get(patch, dk)) {
            return 0;
        }
        return merge_list(s, f, orig, name, NULL, v, NULL);
    }
    if (has_prefix(k, DELETE_FROM)) {
        const char *name = k + strlen(DELETE_FROM);
        const struct kube_field *f = t ? kube_field_find(t, span_str(name)) : NULL;
        AUTO_FREE char *ok = str_fmt(ORDER "%s", name);
        if (!f || !json_get(orig, name)) {
            return 0;
        }
        return merge_list(s, f, orig, name, NULL,
                          json_get(patch, name) ? NULL : json_get(patch, ok), v);
    }
    const struct kube_field *f = t ? kube_field_find(t, span_str(k)) : NULL;
    if (json_is_null(v)) {
        json_del(orig, k);
        return 0;
    }
    if (json_is_arr(v) && f && (f->flags & KF_MERGE) && f->shape == KS_LIST) {
        AUTO_FREE char *ok = str_fmt(ORDER "%s", k);
        return merge_list(s, f, orig, k, v, json_get(patch, ok), NULL);
    }
    return set_value(s, f, orig, k, v);
}

static int merge_map(struct smp *s, const struct kube_type *t, struct json *orig,
                     const struct json *patch, struct json **ret) {
    const struct json *what = json_get(patch, "$patch");
    if (what) {
        const char *w = json_str_or(what, "");
        if (str_eq(w, "delete")) {
            *ret = json_new_obj(s->d);
            return 0;
        }
        if (str_eq(w, "replace")) {
            *ret = json_copy(s->d, patch);
            json_del(*ret, "$patch");
            return 0;
        }
        if (!str_eq(w, "merge")) {
            AUTO_FREE char *head = str_fmt("unknown patch type: %s in map: ", w);
            return fail(s, head, patch, "");
        }
    }
    const struct json *retain = json_get(patch, "$retainKeys");
    int rc = json_is_arr(retain) ? retain_keys(s, orig, patch, retain) : 0;
    if (rc < 0) {
        return rc;
    }
    JSON_EACH_KV(it, k, v, patch) {
        if (str_eq(k, "$patch") || str_eq(k, "$retainKeys")) {
            continue;
        }
        rc = one_key(s, t, orig, patch, k, v);
        if (rc < 0) {
            return rc;
        }
    }
    *ret = orig;
    return 0;
}

int kube_patch_strategic(struct json_doc *d, const struct kube_type *t, struct json *target,
                         const struct json *patch, struct json **ret, struct kube_errs *errs) {
    struct smp s = {d, errs};
    if (!json_is_obj(patch)) {
        return kube_patch_not(errs, "map[string]interface {}", patch);
    }
    return merge_map(&s, t, target, patch, ret);
}
