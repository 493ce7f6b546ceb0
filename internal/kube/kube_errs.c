#include "internal/kube/kube.h"

#include "internal/kube/kube_int.h"

#include <stdlib.h>

enum { LIM_ERRS_BYTES = 1 << 20 };

struct arena *kube_errs_mem(struct kube_errs *e) {
    if (!e->mem) {
        e->mem = new_zero(struct arena);
        *e->mem = (struct arena)ARENA_INIT(LIM_ERRS_BYTES);
    }
    return e->mem;
}

void kube_errs_fini(struct kube_errs *e) {
    if (e->mem) {
        arena_fini(e->mem);
        free(e->mem);
    }
    free(e->list);
    *e = (struct kube_errs)KUBE_ERRS_INIT;
}

PRINTF(2, 0) static char *vtext(struct kube_errs *e, const char *fmt, va_list ap) {
    AUTO(buf) struct buf b = BUF_INIT(LIM_ERRS_BYTES);
    buf_vfmt(&b, fmt, ap);
    return arena_str(kube_errs_mem(e), buf_view(&b));
}

void kube_errs_text(struct kube_errs *e, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    e->text = vtext(e, fmt, ap);
    va_end(ap);
}

static void push(struct kube_errs *e, const char *reason, const char *field, char *message) {
    if (e->n == LIM_KUBE_ERRS || !message) {
        e->more = true;
        return;
    }
    if ((e->n & 15) == 0) {
        struct kube_cause *l = mem_array(e->list, e->n + 16, sizeof(*l), LIM_KUBE_ERRS);
        CHECK(l);
        e->list = l;
    }
    e->list[e->n++] = (struct kube_cause){
        reason, message, field ? arena_str(kube_errs_mem(e), span_str(field)) : NULL};
}

void kube_errs_raw(struct kube_errs *e, const char *reason, const char *field, const char *fmt,
                   ...) {
    va_list ap;
    va_start(ap, fmt);
    char *m = vtext(e, fmt, ap);
    va_end(ap);
    push(e, reason, field, m);
}

static const struct {
    const char *reason, *text;
    bool has_value;
} kinds[] = {
    [KUBE_REQUIRED] = {"FieldValueRequired", "Required value", false},
    [KUBE_INVALID] = {"FieldValueInvalid", "Invalid value", true},
    [KUBE_NOT_SUPPORTED] = {"FieldValueNotSupported", "Unsupported value", true},
    [KUBE_DUPLICATE] = {"FieldValueDuplicate", "Duplicate value", true},
    [KUBE_FORBIDDEN] = {"FieldValueForbidden", "Forbidden", false},
    [KUBE_NOT_FOUND] = {"FieldValueNotFound", "Not found", true},
    [KUBE_TOO_LONG] = {"FieldValueTooLong", "Too long", false},
    [KUBE_TOO_MANY] = {"FieldValueTooMany", "Too many", true},
    [KUBE_INTERNAL] = {"InternalError", "Internal error", false},
    [KUBE_TYPE_INVALID] = {"FieldValueTypeInvalid", "Invalid value", true},
};

static void add(struct kube_errs *e, enum kube_cause_kind k, const char *field,
                const struct json *bad, const char *str, const char *detail) {
    AUTO(buf) struct buf b = BUF_INIT(LIM_ERRS_BYTES);
    buf_str(&b, kinds[k].text);
    if (kinds[k].has_value) {
        buf_str(&b, ": ");
        if (str) {
            json_write_str(&b, span_str(str));
        } else {
            IGNORE_ERR(json_write(bad, 0, &b), "an over-long value fails the arena below");
        }
    }
    if (*detail) {
        buf_str(&b, ": ");
        buf_str(&b, detail);
    }
    push(e, kinds[k].reason, field, arena_str(kube_errs_mem(e), buf_view(&b)));
}

void kube_err_add(struct kube_errs *e, enum kube_cause_kind k, const char *field,
                  const struct json *bad, const char *fmt, ...) {
    AUTO(buf) struct buf b = BUF_INIT(LIM_ERRS_BYTES);
    va_list ap;
    va_start(ap, fmt);
    buf_vfmt(&b, fmt, ap);
    va_end(ap);
    add(e, k, field, bad, NULL, buf_cstr(&b));
}

void kube_err_add_str(struct kube_errs *e, enum kube_cause_kind k, const char *field,
                      const char *bad, const char *fmt, ...) {
    AUTO(buf) struct buf b = BUF_INIT(LIM_ERRS_BYTES);
    va_list ap;
    va_start(ap, fmt);
    buf_vfmt(&b, fmt, ap);
    va_end(ap);
    add(e, k, field, NULL, bad ? bad : "", buf_cstr(&b));
}

/* ---- Status objects -------------------------------------------------------------------------------- */

struct json *kube_status(struct json_doc *d, unsigned http, const char *reason,
                         const char *message) {
    struct json *s = json_new_obj(d);
    json_set_str(d, s, "kind", "Status");
    json_set_str(d, s, "apiVersion", "v1");
    json_set_obj(d, s, "metadata");
    json_set_str(d, s, "status", http < 400 ? "Success" : "Failure");
    if (message && *message) {
        json_set_str(d, s, "message", message);
    }
    if (reason && *reason) {
        json_set_str(d, s, "reason", reason);
    }
    if (http >= 400) {
        json_set_i64(d, s, "code", http);
    }
    return s;
}

struct json *kube_status_details(struct json_doc *d, struct json *status, const char *group,
                                 const char *kind, const char *name, const char *uid) {
    struct json *det = json_need_obj(d, status, "details");
    const char *const kv[][2] = {{"name", name}, {"group", group}, {"kind", kind}, {"uid", uid}};
    for (size_t i = 0; i < ARRAY_LEN(kv); i++) {
        if (kv[i][1] && *kv[i][1]) {
            json_set_str(d, det, kv[i][0], kv[i][1]);
        }
    }
    return det;
}

static void put_causes(struct json_doc *d, struct json *det, const struct kube_errs *errs) {
    if (!errs->n) {
        return;
    }
    struct json *arr = json_set_arr(d, det, "causes");
    for (size_t i = 0; i < errs->n; i++) {
        struct json *c = json_new_obj(d);
        json_set_str(d, c, "reason", errs->list[i].reason);
        json_set_str(d, c, "message", errs->list[i].message);
        json_set_str(d, c, "field", errs->list[i].field);
        json_push(arr, c);
    }
}

struct json *kube_status_invalid(struct json_doc *d, const char *group, const char *kind,
                                 const char *name, const struct kube_errs *errs) {
    AUTO(buf) struct buf b = BUF_INIT(2 * LIM_ERRS_BYTES), all = BUF_INIT(2 * LIM_ERRS_BYTES);
    size_t n = 0;
    group =
        str_eq(group, "events.k8s.io") ? "" : group; /* validated in its core form, and named so */
    for (size_t i = 0; i < errs->n; i++) {
        bool seen = false; /* the same text twice is said once, but stays in causes */
        for (size_t k = 0; k < i && !seen; k++) {
            seen = str_eq(errs->list[k].field, errs->list[i].field) &&
                   str_eq(errs->list[k].message, errs->list[i].message);
        }
        if (!seen) {
            buf_fmt(&all, "%s%s: %s", n++ ? ", " : "",
                    errs->list[i].field ? errs->list[i].field : "", errs->list[i].message);
        }
    }
    buf_fmt(&b, "%s%s%s \"%s\" is invalid", kind, group && *group ? "." : "", group ? group : "",
            name ? name : "");
    if (n) {
        buf_fmt(&b, n > 1 ? ": [%s]" : ": %s", buf_cstr(&all));
    }
    struct json *s = kube_status(d, 422, "Invalid", buf_cstr(&b));
    struct json *det = kube_status_details(d, s, group, kind, name, NULL);
    put_causes(d, det, errs);
    return s;
}

struct json *kube_status_apply_conflict(struct json_doc *d, const struct kube_errs *errs) {
    struct json *s = kube_status(d, 409, "Conflict", errs->text);
    put_causes(d, json_need_obj(d, s, "details"), errs);
    return s;
}
