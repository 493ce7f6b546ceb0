/* json — JSON documents as trees, over yyjson (64-bit integers survive, unlike in double-based parsers).
 *
 * What:     parse, look up, build, change, compare and write JSON values.
 * Owns:     a json_doc owns all values made in it; a value dies with its document. Values of one document must not
 *           be put into another: json_copy first. Removing a value from its parent keeps its memory until the
 *           document is freed, so documents are for one request or one cached object, not for endless editing.
 * Limits:   LIM_JSON_DEPTH levels; duplicate keys are refused (json_parse) unless JSON_DUPS_OK.
 * Errors:   INVALID (with offset), LIMIT.
 * Threads:  a document belongs to one thread at a time.
 */
#ifndef KF_JSON_H
#define KF_JSON_H

#include "internal/base/buf.h"

enum { LIM_JSON_DEPTH = 128 };

struct json;     /* one value */
struct json_doc; /* owner of values */

enum json_kind { JSON_NULL, JSON_BOOL, JSON_INT, JSON_UINT, JSON_REAL, JSON_STRING, JSON_ARRAY, JSON_OBJECT };
enum json_flags { JSON_DUPS_OK = 1u << 0, JSON_PRETTY = 1u << 1 };

NODISCARD int json_parse(struct span text, unsigned flags, struct json_doc **ret, struct err *e);
struct json_doc *json_doc_new(void); /* root: unset (NULL) */
void json_doc_free(struct json_doc *d);
struct json *json_root(const struct json_doc *d);
void json_set_root(struct json_doc *d, struct json *v);
void json_docp_fini(struct json_doc **d); /* AUTO(json_docp) struct json_doc *d = NULL; */

/* Reading. All accept NULL and then give the default, so paths can be chained. */
enum json_kind json_kind(const struct json *v); /* NULL pointer: JSON_NULL */
bool json_is_obj(const struct json *v);
bool json_is_arr(const struct json *v);
bool json_is_str(const struct json *v);
bool json_is_int(const struct json *v);  /* JSON_INT or JSON_UINT */
bool json_is_null(const struct json *v); /* NULL pointer or null */
const char *json_str(const struct json *v); /* NULL unless a string */
const char *json_str_or(const struct json *v, const char *def);
struct span json_span(const struct json *v); /* empty unless a string */
int64_t json_i64(const struct json *v, int64_t def);
double json_f64(const struct json *v, double def); /* any number */
bool json_bool(const struct json *v, bool def);
size_t json_len(const struct json *v); /* members of an array or object, else 0 */
struct json *json_get(const struct json *obj, const char *key);
struct json *json_getn(const struct json *obj, struct span key);
struct json *json_idx(const struct json *arr, size_t i); /* O(i) */
/* json_at(v, "metadata", "labels"): walks objects; NULL where a step is missing */
struct json *json_at_(const struct json *v, ...) __attribute__((sentinel));
#define json_at(v, ...) json_at_((v), __VA_ARGS__, (const char *)NULL)
#define json_str_at(v, ...) json_str(json_at((v), __VA_ARGS__))
#define json_i64_at(v, def, ...) json_i64(json_at((v), __VA_ARGS__), (def))
#define json_bool_at(v, def, ...) json_bool(json_at((v), __VA_ARGS__), (def))

/* Iteration over arrays (key NULL) and objects. The current value may be changed in place, not removed. */
struct json_iter {
    const struct json *cur;
    size_t left;
    bool is_obj;
};
struct json_iter json_iter(const struct json *v);
struct json *json_next(struct json_iter *it, const char **ret_key);
/* JSON_EACH(it, v, arr) { … }   JSON_EACH_KV(it, k, v, obj) { … } */
#define JSON_EACH(it, v, container) \
    struct json_iter it = json_iter(container); \
    for (struct json *v; (v = json_next(&it, NULL)) != NULL;)
#define JSON_EACH_KV(it, k, v, container) \
    struct json_iter it = json_iter(container); \
    const char *k = NULL; \
    for (struct json *v; (v = json_next(&it, &k)) != NULL;)

/* Building. Strings and keys are copied into the document. */
struct json *json_new_obj(struct json_doc *d);
struct json *json_new_arr(struct json_doc *d);
struct json *json_new_str(struct json_doc *d, const char *s);
struct json *json_new_span(struct json_doc *d, struct span s);
struct json *json_new_fmt(struct json_doc *d, const char *fmt, ...) PRINTF(2, 3);
struct json *json_new_i64(struct json_doc *d, int64_t v);
struct json *json_new_f64(struct json_doc *d, double v);
struct json *json_new_bool(struct json_doc *d, bool v);
struct json *json_new_null(struct json_doc *d);
struct json *json_copy(struct json_doc *d, const struct json *v); /* deep, into d; NULL of NULL */
/* Sets or replaces a member in place (order kept); v must belong to d and be in no container. Returns v. */
struct json *json_set(struct json_doc *d, struct json *obj, const char *key, struct json *v);
struct json *json_setn(struct json_doc *d, struct json *obj, struct span key, struct json *v);
void json_set_str(struct json_doc *d, struct json *obj, const char *key, const char *s); /* NULL s: removes */
void json_set_i64(struct json_doc *d, struct json *obj, const char *key, int64_t v);
void json_set_bool(struct json_doc *d, struct json *obj, const char *key, bool v);
struct json *json_set_obj(struct json_doc *d, struct json *obj, const char *key); /* new {} */
struct json *json_set_arr(struct json_doc *d, struct json *obj, const char *key); /* new [] */
/* The object member `key`, created as {} (or []) when missing or null. */
struct json *json_need_obj(struct json_doc *d, struct json *obj, const char *key);
struct json *json_need_arr(struct json_doc *d, struct json *obj, const char *key);
bool json_del(struct json *obj, const char *key); /* true when it was there */
void json_push(struct json *arr, struct json *v);
void json_push_str(struct json_doc *d, struct json *arr, const char *s);
void json_insert(struct json *arr, struct json *v, size_t i);
void json_replace_idx(struct json *arr, size_t i, struct json *v);
void json_remove_idx(struct json *arr, size_t i);
void json_clear(struct json *container);
/* Turns v itself into a copy of `from` (same document). */
void json_assign(struct json_doc *d, struct json *v, const struct json *from);

bool json_eq(const struct json *a, const struct json *b); /* deep; member order ignored; 1 == 1.0 */
int json_write(const struct json *v, unsigned flags, struct buf *b);
/* Appends s as a JSON string literal with its quotes. */
int json_write_str(struct buf *b, struct span s);

#endif
