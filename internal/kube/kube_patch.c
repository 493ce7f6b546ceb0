#include "internal/kube/kube.h"

#include "internal/kube/kube_int.h"

#include <stdlib.h>

enum { LIM_JSON_PATCH_OPS = 10000 };

/* ---- RFC 7386 --------------------------------------------------------------------------------------- */

static struct json *merge(struct json_doc *d, struct json *target, const struct json *patch) {
    if (!json_is_obj(patch)) {
        return json_copy(d, patch);
    }
    if (!json_is_obj(target)) {
        target = json_new_obj(d);
    }
    JSON_EACH_KV(it, k, v, patch) {
        if (json_is_null(v)) {
            json_del(target, k);
        } else {
            struct json *old = json_get(target, k), *now = merge(d, old, v);
            if (now != old) {
                json_set(d, target, k, now);
            }
        }
    }
    return target;
}

int kube_patch_not(struct kube_errs *errs, const char *go_type, const struct json *patch) {
    kube_errs_text(errs, "error decoding patch: json: cannot unmarshal %s into Go value of type %s",
                   json_is_arr(patch)   ? "array"
                   : json_is_obj(patch) ? "object"
                   : json_is_str(patch) ? "string"
                                        : "value",
                   go_type);
    return -ERR_INVALID;
}

int kube_patch_merge(struct json_doc *d, struct json *target, const struct json *patch,
                     struct json **ret, struct kube_errs *errs) {
    if (!json_is_obj(patch)) {
        return kube_patch_not(errs, "map[string]interface {}", patch);
    }
    *ret = merge(d, target, patch);
    return 0;
}

/* ---- RFC 6902 --------------------------------------------------------------------------------------- */

/* Unescapes one reference token (RFC 6901 §4) in place. */
static void untoken(char *s) {
    char *o = s;
    for (; *s; s++) {
        if (*s == '~' && (s[1] == '0' || s[1] == '1')) {
            *o++ = *++s == '0' ? '~' : '/';
        } else {
            *o++ = *s;
        }
    }
    *o = 0;
}

/* Walks to the container of the last token. *ret_key is a copy to free. */
static int pointer_parent(struct json *root, struct span path, struct json **ret_parent,
                          char **ret_key) {
    struct span part;
    struct json *at = root;
    if (!path.n || path.p[0] != '/') {
        return -ERR_NOT_FOUND;
    }
    IGNORE_ERR(span_skip(&path, 1), "there is a first byte");
    for (;;) {
        ptrdiff_t slash = span_index(path, '/');
        part = slash < 0 ? path : span_of(path.p, (size_t)slash);
        char *key = str_dupn(part.p, part.n);
        untoken(key);
        if (slash < 0) {
            if (!json_is_obj(at) && !json_is_arr(at)) {
                free(key);
                return -ERR_NOT_FOUND;
            }
            *ret_parent = at;
            *ret_key = key;
            return 0;
        }
        uint64_t i;
        at = json_is_arr(at)
                 ? (span_to_u64(span_str(key), 0, SIZE_MAX / 2, &i) == 0 ? json_idx(at, i) : NULL)
                 : json_get(at, key);
        free(key);
        if (!at) {
            return -ERR_NOT_FOUND;
        }
        IGNORE_ERR(span_skip(&path, (size_t)slash + 1), "the slash was found");
    }
}

static struct json *pointer_get(struct json *root, struct span path) {
    struct json *parent;
    AUTO_FREE char *key = NULL;
    uint64_t i;
    if (!path.n) {
        return root;
    }
    if (pointer_parent(root, path, &parent, &key) < 0) {
        return NULL;
    }
    if (json_is_obj(parent)) {
        return json_get(parent, key);
    }
    return span_to_u64(span_str(key), 0, SIZE_MAX / 2, &i) == 0 ? json_idx(parent, i) : NULL;
}

static int op_add(struct json_doc *d, struct json **root, struct span path, struct json *v,
                  bool replace) {
    struct json *parent;
    AUTO_FREE char *key = NULL;
    uint64_t i;
    if (!path.n) {
        *root = v;
        return 0;
    }
    int rc = pointer_parent(*root, path, &parent, &key);
    if (rc < 0) {
        return rc;
    }
    if (json_is_obj(parent)) {
        if (replace && !json_get(parent, key)) {
            return -ERR_NOT_FOUND;
        }
        json_set(d, parent, key, v);
        return 0;
    }
    size_t n = json_len(parent);
    if (str_eq(key, "-") && !replace) {
        i = n;
    } else if (span_to_u64(span_str(key), 0, replace ? (n ? n - 1 : 0) : n, &i) < 0 ||
               (replace && !n)) {
        return -ERR_NOT_FOUND;
    }
    if (replace) {
        json_replace_idx(parent, i, v);
    } else {
        json_insert(parent, v, i);
    }
    return 0;
}

static int op_remove(struct json *root, struct span path) {
    struct json *parent;
    AUTO_FREE char *key = NULL;
    uint64_t i;
    int rc = pointer_parent(root, path, &parent, &key);
    if (rc < 0) {
        return rc;
    }
    if (json_is_obj(parent)) {
        return json_del(parent, key) ? 0 : -ERR_NOT_FOUND;
    }
    if (!json_len(parent) || span_to_u64(span_str(key), 0, json_len(parent) - 1, &i) < 0) {
        return -ERR_NOT_FOUND;
    }
    json_remove_idx(parent, i);
    return 0;
}

static int one_op(struct json_doc *d, struct json **root, const struct json *op) {
    const char *name = json_str_or(json_get(op, "op"), "");
    const struct json *value = json_get(op, "value");
    struct span path = json_span(json_get(op, "path")), from = json_span(json_get(op, "from"));
    if (!json_is_str(json_get(op, "path"))) {
        return -ERR_INVALID;
    }
    if (str_eq(name, "add") || str_eq(name, "replace")) {
        return value ? op_add(d, root, path, json_copy(d, value), str_eq(name, "replace"))
                     : -ERR_INVALID;
    }
    if (str_eq(name, "remove")) {
        return op_remove(*root, path);
    }
    if (str_eq(name, "test")) {
        struct json *have = pointer_get(*root, path);
        bool eq = have ? (value ? json_eq(have, value) : json_is_null(have)) : json_is_null(value);
        return eq ? 0 : -ERR_INVALID;
    }
    if (!str_eq(name, "copy") && !str_eq(name, "move")) {
        return -ERR_INVALID;
    }
    struct json *src = pointer_get(*root, from);
    if (!src) {
        return -ERR_NOT_FOUND;
    }
    src = json_copy(d, src);
    int rc = str_eq(name, "move") ? op_remove(*root, from) : 0;
    return rc < 0 ? rc : op_add(d, root, path, src, false);
}

int kube_patch_json(struct json_doc *d, struct json *target, const struct json *patch,
                    struct json **ret, struct kube_errs *errs) {
    if (!json_is_arr(patch)) {
        return kube_patch_not(errs, "[]handlers.jsonPatchOp", patch);
    }
    if (json_len(patch) > LIM_JSON_PATCH_OPS) {
        kube_errs_text(errs, "The allowed maximum operations in a JSON patch is %d, got %zu",
                       LIM_JSON_PATCH_OPS, json_len(patch));
        return -ERR_LIMIT;
    }
    JSON_EACH(it, op, patch) {
        if (one_op(d, &target, op) < 0) {
            kube_errs_text(errs, "the server rejected our request due to an error in our request");
            return -ERR_UNPROCESSABLE;
        }
    }
    *ret = target;
    return 0;
}
