#include "internal/json/json.h"

#include "internal/base/map.h"

#include <yyjson.h>

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

struct json_doc {
    yyjson_mut_doc *m;
};

/* struct json is never defined: it is yyjson's mutable value under our name. */
static yyjson_mut_val *val(const struct json *v) {
    union {
        const struct json *c;
        yyjson_mut_val *m;
    } u = {.c = v};
    return u.m;
}
static struct json *wrap(yyjson_mut_val *v) {
    return (struct json *)(void *)v;
}

static yyjson_mut_val *must(yyjson_mut_val *v) {
    CHECK(v); /* pool allocation failed: small and fixed, ends the process by house rule */
    return v;
}

/* Refuses what yyjson accepts: too deep, and a key twice in one object. Walks without recursion. */
static int check_tree(yyjson_val *root, size_t n_vals, unsigned flags, struct err *e) {
    struct {
        yyjson_val *v;
        size_t left;
    } stack[LIM_JSON_DEPTH];
    size_t depth = 0;
    yyjson_val *v = root;
    size_t seen = 0;
    while (seen++ < n_vals + 1) {
        if (yyjson_is_ctn(v)) {
            if (depth == LIM_JSON_DEPTH) {
                return err_set(e, ERR_LIMIT, "json: nested deeper than %d", LIM_JSON_DEPTH);
            }
            if (yyjson_is_obj(v) && !(flags & JSON_DUPS_OK) && yyjson_obj_size(v) > 1) {
                struct map keys = MAP_INIT;
                yyjson_obj_iter it = yyjson_obj_iter_with(v);
                yyjson_val *k;
                const char *dup = NULL;
                if (yyjson_obj_size(v) <= 16) {
                    yyjson_val *earlier[16];
                    size_t n = 0;
                    while (!dup && (k = yyjson_obj_iter_next(&it))) {
                        for (size_t i = 0; i < n && !dup; i++) {
                            if (yyjson_equals_strn(earlier[i], yyjson_get_str(k),
                                                   yyjson_get_len(k))) {
                                dup = yyjson_get_str(k);
                            }
                        }
                        earlier[n++] = k;
                    }
                } else {
                    while (!dup && (k = yyjson_obj_iter_next(&it))) {
                        if (map_put(&keys, span_of(yyjson_get_str(k), yyjson_get_len(k)), k)) {
                            dup = yyjson_get_str(k);
                        }
                    }
                    map_fini(&keys);
                }
                if (dup) {
                    return err_set(e, ERR_INVALID, "json: key \"%s\" occurs twice in one object",
                                   dup);
                }
            }
            if (yyjson_get_len(v)) {
                stack[depth].v = v;
                stack[depth++].left = yyjson_is_obj(v) ? yyjson_obj_size(v) : yyjson_arr_size(v);
                v = unsafe_yyjson_get_first(v);
                if (yyjson_is_obj(stack[depth - 1].v)) {
                    v = v + 1;
                }
                continue;
            }
        }
        for (;;) {
            if (!depth) {
                return 0;
            }
            if (--stack[depth - 1].left) {
                v = unsafe_yyjson_get_next(v);
                if (yyjson_is_obj(stack[depth - 1].v)) {
                    v = v + 1;
                }
                break;
            }
            v = stack[--depth].v;
        }
    }
    return err_set(e, ERR_INTERNAL, "json: tree walk ran past its values");
}

int json_parse(struct span text, unsigned flags, struct json_doc **ret, struct err *e) {
    yyjson_read_err re;
    if (!text.n) {
        return err_set(e, ERR_INVALID, "json: empty document");
    }
    union {
        const uint8_t *c;
        char *m;
    } u = {.c = text.p};
    yyjson_doc *im = yyjson_read_opts(u.m, text.n, YYJSON_READ_NOFLAG, NULL, &re);
    if (!im) {
        return err_set(e, ERR_INVALID, "json: %s at byte %zu", re.msg, re.pos);
    }
    int rc = check_tree(yyjson_doc_get_root(im), yyjson_doc_get_val_count(im), flags, e);
    if (rc == 0) {
        yyjson_mut_doc *m = yyjson_doc_mut_copy(im, NULL);
        if (m) {
            *ret = mem_zero_alloc(sizeof(**ret));
            (*ret)->m = m;
        } else {
            rc = err_set(e, ERR_NOMEM, "json: document of %zu bytes", text.n);
        }
    }
    yyjson_doc_free(im);
    return rc;
}

struct json_doc *json_doc_new(void) {
    struct json_doc *d = mem_zero_alloc(sizeof(*d));
    d->m = yyjson_mut_doc_new(NULL);
    CHECK(d->m);
    return d;
}

void json_doc_free(struct json_doc *d) {
    if (d) {
        yyjson_mut_doc_free(d->m);
        free(d);
    }
}

void json_docp_fini(struct json_doc **d) {
    json_doc_free(*d);
    *d = NULL;
}

struct json *json_root(const struct json_doc *d) {
    return d ? wrap(yyjson_mut_doc_get_root(d->m)) : NULL;
}
void json_set_root(struct json_doc *d, struct json *v) {
    yyjson_mut_doc_set_root(d->m, val(v));
}

enum json_kind json_kind(const struct json *v) {
    yyjson_mut_val *m = val(v);
    switch (yyjson_mut_get_type(m)) {
    case YYJSON_TYPE_BOOL: return JSON_BOOL;
    case YYJSON_TYPE_NUM:
        return yyjson_mut_is_uint(m) ? JSON_UINT : yyjson_mut_is_sint(m) ? JSON_INT : JSON_REAL;
    case YYJSON_TYPE_STR: return JSON_STRING;
    case YYJSON_TYPE_ARR: return JSON_ARRAY;
    case YYJSON_TYPE_OBJ: return JSON_OBJECT;
    default: return JSON_NULL;
    }
}
bool json_is_obj(const struct json *v) {
    return yyjson_mut_is_obj(val(v));
}
bool json_is_arr(const struct json *v) {
    return yyjson_mut_is_arr(val(v));
}
bool json_is_str(const struct json *v) {
    return yyjson_mut_is_str(val(v));
}
bool json_is_int(const struct json *v) {
    return yyjson_mut_is_int(val(v));
}
bool json_is_null(const struct json *v) {
    return !v || yyjson_mut_is_null(val(v));
}
const char *json_str(const struct json *v) {
    return yyjson_mut_get_str(val(v));
}
const char *json_str_or(const struct json *v, const char *def) {
    const char *s = json_str(v);
    return s ? s : def;
}
struct span json_span(const struct json *v) {
    const char *s = json_str(v);
    return s ? span_of(s, yyjson_mut_get_len(val(v))) : SPAN_EMPTY;
}
int64_t json_i64(const struct json *v, int64_t def) {
    yyjson_mut_val *m = val(v);
    if (yyjson_mut_is_uint(m)) {
        uint64_t u = yyjson_mut_get_uint(m);
        return u > INT64_MAX ? def : (int64_t)u;
    }
    return yyjson_mut_is_sint(m) ? yyjson_mut_get_sint(m) : def;
}
double json_f64(const struct json *v, double def) {
    return yyjson_mut_is_num(val(v)) ? yyjson_mut_get_num(val(v)) : def;
}
bool json_bool(const struct json *v, bool def) {
    return yyjson_mut_is_bool(val(v)) ? yyjson_mut_get_bool(val(v)) : def;
}
size_t json_len(const struct json *v) {
    return yyjson_mut_is_obj(val(v)) ? yyjson_mut_obj_size(val(v)) : yyjson_mut_arr_size(val(v));
}
struct json *json_getn(const struct json *obj, struct span key) {
    return wrap(yyjson_mut_obj_getn(val(obj), key.p ? (const char *)key.p : "", key.n));
}
struct json *json_get(const struct json *obj, const char *key) {
    return json_getn(obj, span_str(key));
}
struct json *json_idx(const struct json *arr, size_t i) {
    return wrap(yyjson_mut_arr_get(val(arr), i));
}

struct json *json_at_(const struct json *v, ...) {
    va_list ap;
    va_start(ap, v);
    struct json *at = wrap(val(v));
    for (const char *k; at && (k = va_arg(ap, const char *));) {
        at = json_get(at, k);
    }
    va_end(ap);
    return at;
}

/* yyjson keeps the members of a container as a ring whose pointer is the *last* member; an object's ring
 * alternates key and value. The iterator holds the member before the next one. */
struct json_iter json_iter(const struct json *v) {
    struct json_iter it = {NULL, json_len(v), json_is_obj(v)};
    if (it.left) {
        yyjson_mut_val *last = val(v)->uni.ptr; /* last value of an array, last key of an object */
        it.cur = wrap(it.is_obj ? last->next : last);
    }
    return it;
}

struct json *json_next(struct json_iter *it, const char **ret_key) {
    if (!it->left) {
        return NULL;
    }
    it->left--;
    yyjson_mut_val *v = val(it->cur)->next;
    if (it->is_obj) {
        if (ret_key) {
            *ret_key = yyjson_mut_get_str(v);
        }
        v = v->next;
    }
    it->cur = wrap(v);
    return wrap(v);
}

struct json *json_new_obj(struct json_doc *d) {
    return wrap(must(yyjson_mut_obj(d->m)));
}
struct json *json_new_arr(struct json_doc *d) {
    return wrap(must(yyjson_mut_arr(d->m)));
}
struct json *json_new_span(struct json_doc *d, struct span s) {
    return wrap(must(yyjson_mut_strncpy(d->m, s.p ? (const char *)s.p : "", s.n)));
}
struct json *json_new_str(struct json_doc *d, const char *s) {
    return json_new_span(d, span_str(s));
}
struct json *json_new_fmt(struct json_doc *d, const char *fmt, ...) {
    struct buf b = BUF_INIT(1u << 20);
    va_list ap;
    va_start(ap, fmt);
    buf_vfmt(&b, fmt, ap);
    va_end(ap);
    struct json *v = json_new_span(d, buf_view(&b));
    buf_fini(&b);
    return v;
}
struct json *json_new_i64(struct json_doc *d, int64_t v) {
    return wrap(must(v < 0 ? yyjson_mut_sint(d->m, v) : yyjson_mut_uint(d->m, (uint64_t)v)));
}
struct json *json_new_f64(struct json_doc *d, double v) {
    return wrap(must(yyjson_mut_real(d->m, v)));
}
struct json *json_new_bool(struct json_doc *d, bool v) {
    return wrap(must(yyjson_mut_bool(d->m, v)));
}
struct json *json_new_null(struct json_doc *d) {
    return wrap(must(yyjson_mut_null(d->m)));
}
struct json *json_copy(struct json_doc *d, const struct json *v) {
    return v ? wrap(must(yyjson_mut_val_mut_copy(d->m, val(v)))) : NULL;
}

struct json *json_setn(struct json_doc *d, struct json *obj, struct span key, struct json *v) {
    struct json *old = json_getn(obj, key);
    if (old == v) {
        return v;
    }
    if (old) {
        /* The library's replace copies the contents and leaves v outside: what is put into v later would be lost. */
        yyjson_mut_obj_iter it;
        CHECK(yyjson_mut_obj_iter_init(val(obj), &it));
        yyjson_mut_val *k;
        while ((k = yyjson_mut_obj_iter_next(&it)) != NULL && k->next != val(old)) {
        }
        CHECK(k != NULL);
        val(v)->next = val(old)->next;
        k->next = val(v);
    } else {
        yyjson_mut_val *k = must(yyjson_mut_strncpy(d->m, key.p ? (const char *)key.p : "", key.n));
        CHECK(yyjson_mut_obj_add(val(obj), k, val(v)));
    }
    return v;
}
struct json *json_set(struct json_doc *d, struct json *obj, const char *key, struct json *v) {
    return json_setn(d, obj, span_str(key), v);
}
void json_set_str(struct json_doc *d, struct json *obj, const char *key, const char *s) {
    if (s) {
        json_set(d, obj, key, json_new_str(d, s));
    } else {
        json_del(obj, key);
    }
}
void json_set_i64(struct json_doc *d, struct json *obj, const char *key, int64_t v) {
    json_set(d, obj, key, json_new_i64(d, v));
}
void json_set_bool(struct json_doc *d, struct json *obj, const char *key, bool v) {
    json_set(d, obj, key, json_new_bool(d, v));
}
struct json *json_set_obj(struct json_doc *d, struct json *obj, const char *key) {
    return json_set(d, obj, key, json_new_obj(d));
}
struct json *json_set_arr(struct json_doc *d, struct json *obj, const char *key) {
    return json_set(d, obj, key, json_new_arr(d));
}
struct json *json_need_obj(struct json_doc *d, struct json *obj, const char *key) {
    struct json *v = json_get(obj, key);
    return json_is_null(v) ? json_set_obj(d, obj, key) : v;
}
struct json *json_need_arr(struct json_doc *d, struct json *obj, const char *key) {
    struct json *v = json_get(obj, key);
    return json_is_null(v) ? json_set_arr(d, obj, key) : v;
}
bool json_del(struct json *obj, const char *key) {
    return yyjson_mut_obj_remove_key(val(obj), key) != NULL;
}
void json_push(struct json *arr, struct json *v) {
    CHECK(yyjson_mut_arr_append(val(arr), val(v)));
}
void json_push_str(struct json_doc *d, struct json *arr, const char *s) {
    json_push(arr, json_new_str(d, s));
}
void json_insert(struct json *arr, struct json *v, size_t i) {
    CHECK(yyjson_mut_arr_insert(val(arr), val(v), i));
}
void json_replace_idx(struct json *arr, size_t i, struct json *v) {
    CHECK(yyjson_mut_arr_replace(val(arr), i, val(v)));
}
void json_remove_idx(struct json *arr, size_t i) {
    CHECK(yyjson_mut_arr_remove(val(arr), i));
}
void json_clear(struct json *container) {
    if (json_is_obj(container)) {
        yyjson_mut_obj_clear(val(container));
    } else {
        yyjson_mut_arr_clear(val(container));
    }
}
void json_assign(struct json_doc *d, struct json *v, const struct json *from) {
    yyjson_mut_val *c = val(json_copy(d, from)), *m = val(v);
    m->tag = c->tag;
    m->uni = c->uni; /* m->next stays: v keeps its place in its container */
}

/* Deep comparison; the depth is bounded by LIM_JSON_DEPTH because json_parse bounds every input. */
bool json_eq(const struct json *a, const struct json *b) {
    enum json_kind ka = json_kind(a), kb = json_kind(b);
    if (ka >= JSON_INT && ka <= JSON_REAL && kb >= JSON_INT && kb <= JSON_REAL) {
        return (ka == JSON_REAL || kb == JSON_REAL)
                   ? !(json_f64(a, 0) < json_f64(b, 0)) && !(json_f64(a, 0) > json_f64(b, 0))
                   : ka == kb && val(a)->uni.u64 == val(b)->uni.u64;
    }
    if (ka != kb) {
        return false;
    }
    switch (ka) {
    case JSON_BOOL: return json_bool(a, false) == json_bool(b, false);
    case JSON_STRING: return span_eq(json_span(a), json_span(b));
    case JSON_ARRAY: {
        if (json_len(a) != json_len(b)) {
            return false;
        }
        struct json_iter ia = json_iter(a), ib = json_iter(b);
        for (struct json *x; (x = json_next(&ia, NULL));) {
            if (!json_eq(x, json_next(&ib, NULL))) {
                return false;
            }
        }
        return true;
    }
    case JSON_OBJECT: {
        if (json_len(a) != json_len(b)) {
            return false;
        }
        JSON_EACH_KV(it, k, x, a) {
            struct json *y = json_get(b, k);
            if (!y || !json_eq(x, y)) {
                return false;
            }
        }
        return true;
    }
    case JSON_NULL:
    case JSON_INT:
    case JSON_UINT:
    case JSON_REAL: break;
    }
    return true;
}

int json_write(const struct json *v, unsigned flags, struct buf *b) {
    if (!v) {
        return buf_str(b, "null");
    }
    size_t n = 0;
    yyjson_write_flag f =
        flags & JSON_PRETTY ? YYJSON_WRITE_PRETTY_TWO_SPACES : YYJSON_WRITE_NOFLAG;
    char *s = yyjson_mut_val_write_opts(val(v), f, NULL, &n, NULL);
    if (!s) {
        b->failed = b->failed ? b->failed : -ERR_INVALID;
        return b->failed;
    }
    int rc = buf_add(b, s, n);
    free(s);
    return rc;
}

int json_write_str(struct buf *b, struct span s) {
    static const char hex[] = "0123456789abcdef";
    buf_u8(b, '"');
    size_t from = 0;
    for (size_t i = 0; i < s.n; i++) {
        uint8_t c = s.p[i];
        if (c >= 0x20 && c != '"' && c != '\\') {
            continue;
        }
        buf_add(b, s.p + from, i - from);
        from = i + 1;
        switch (c) {
        case '"':
        case '\\':
            buf_u8(b, '\\');
            buf_u8(b, c);
            break;
        case '\n': buf_str(b, "\\n"); break;
        case '\t': buf_str(b, "\\t"); break;
        case '\r': buf_str(b, "\\r"); break;
        default:
            buf_str(b, "\\u00");
            buf_u8(b, (uint8_t)hex[c >> 4]);
            buf_u8(b, (uint8_t)hex[c & 15]);
        }
    }
    if (s.n > from) {
        buf_add(b, s.p + from, s.n - from);
    }
    return buf_u8(b, '"');
}
