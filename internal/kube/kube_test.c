#include "internal/kube/kube.h"

#include "internal/base/rand.h"
#include "internal/kube/kube_int.h"
#include "internal/t/t.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

/* Drives the recorded conversations: what upstream answered to a create is what decode, default and prepare must
 * make of its body, and what it refused must be refused with the same causes. What differs on purpose or is another
 * package's part (admission, allocation) is taken out before the comparison. */

static const char *const server_side[] = {"uid",
                                          "resourceVersion",
                                          "creationTimestamp",
                                          "managedFields",
                                          "namespace",
                                          "name",
                                          "finalizers",
                                          NULL};

static void strip_meta(struct json *o) {
    struct json *m = json_get(o, "metadata");
    for (size_t i = 0; server_side[i]; i++) {
        json_del(m, server_side[i]);
    }
}

struct tally {
    size_t good, bad;
    bool verbose;
};

static void report(struct tally *t, const char *scenario, int64_t step, const char *want,
                   const char *got) {
    t->bad++;
    if (t->verbose) {
        printf("%s %d\n  want %s\n  got  %s\n", scenario, (int)step, want, got);
    }
}

static void replace_all(struct buf *b, struct span s, const char *from, const char *to) {
    size_t n = strlen(from);
    while (s.n) {
        if (s.n >= n && memcmp(s.p, from, n) == 0) {
            buf_str(b, to);
            s = span_of(s.p + n, s.n - n);
        } else {
            buf_u8(b, s.p[0]);
            s = span_of(s.p + 1, s.n - 1);
        }
    }
}

/* Causes in any order: upstream's maps have none. */
static bool same_causes(const struct json *a, const struct json *b) {
    const struct json *x = json_at(a, "details", "causes"), *y = json_at(b, "details", "causes");
    size_t n = 0;
    JSON_EACH(it, c, x) {
        bool found = false;
        JSON_EACH(it2, o, y) {
            found = found || json_eq(c, o);
        }
        n += found ? 1 : 0;
    }
    return n == json_len(x) && n == json_len(y) &&
           str_eq(json_str(json_at(a, "details", "group")),
                  json_str(json_at(b, "details", "group")));
}

static char *text(const struct json *v) {
    AUTO(buf) struct buf b = BUF_INIT(1u << 22);
    IGNORE_ERR(json_write(v, 0, &b), "a test prints what there is");
    return str_dup(buf_cstr(&b));
}

/* The resource that a path of a create names. */
static const struct kube_resource *resource_of_path(const char *path) {
    struct span s = span_str(path), part, parts[8];
    ptrdiff_t q = span_index(s, '?');
    size_t n = 0;
    if (q >= 0) {
        s.n = (size_t)q;
    }
    while (n < 8 && span_next(&s, '/', &part)) {
        if (part.n) {
            parts[n++] = part;
        }
    }
    size_t at = n && span_eq_str(parts[0], "api") ? 1 : 2;
    if (n < at + 2) {
        return NULL;
    }
    AUTO_FREE char *group = at == 1 ? str_dup("") : str_dupn(parts[1].p, parts[1].n);
    AUTO_FREE char *version = str_dupn(parts[at].p, parts[at].n);
    at++;
    if (span_eq_str(parts[at], "namespaces") && n > at + 2) {
        at += 2;
    }
    AUTO_FREE char *name = str_dupn(parts[at].p, parts[at].n);
    return n == at + 1 ? kube_resource_find(group, version, name, "") : NULL;
}

static bool has_query(const char *path, const char *word) {
    return strstr(path, word) != NULL;
}

static void one_create(struct tally *t, const struct json *step, const struct kube_resource *r) {
    AUTO(json_docp) struct json_doc *d = NULL;
    const struct json *rq = json_get(step, "request"), *body = json_get(rq, "b"),
                      *want = json_get(step, "body");
    const char *scenario = json_str(json_get(step, "scenario"));
    int64_t n = json_i64(json_get(step, "step"), 0), http = json_i64(json_get(step, "status"), 0);
    if (json_is_str(body)) {
        if (json_parse(json_span(body), JSON_DUPS_OK, &d, NULL) < 0) {
            return;
        }
    } else {
        d = json_doc_new();
        json_set_root(d, json_copy(d, body));
    }
    struct json *o = json_root(d);
    struct kube_errs errs = KUBE_ERRS_INIT;
    struct err e = ERR_INIT;
    enum kube_field_validation fv = has_query(json_str(json_get(rq, "p")), "fieldValidation=Strict")
                                        ? KUBE_FV_STRICT
                                        : KUBE_FV_IGNORE;
    int rc = kube_decode(d, o, r->type, fv, &errs, &e);
    if (rc < 0) {
        const char *msg = json_str_or(json_get(want, "message"), "");
        if (http != 400 || !strstr(msg, errs.text)) {
            report(t, scenario, n, msg, errs.text);
        } else {
            t->good++;
        }
        kube_errs_fini(&errs);
        return;
    }
    json_set_str(d, json_need_obj(d, o, "metadata"), "uid", "uid");
    if (r->namespaced) {
        json_set_str(d, json_get(o, "metadata"), "namespace", "default");
    }
    kube_default(d, o, r);
    kube_prepare_create(d, o, r);
    rc = kube_validate_create(o, r, &errs);
    if (http == 201 || http == 200) {
        if (rc < 0) {
            AUTO_FREE char *got =
                text(kube_status_invalid(d, r->group, r->kind, kube_name(o), &errs));
            report(t, scenario, n, "accepted", got);
        } else {
            json_del(o, "kind");
            json_del(o, "apiVersion");
            struct json *w = json_copy(d, want);
            json_del(w, "kind");
            json_del(w, "apiVersion");
            strip_meta(o);
            strip_meta(w);
            AUTO_FREE char *got = text(o), *exp = text(w);
            if (!json_eq(o, w)) {
                report(t, scenario, n, exp, got);
            } else {
                t->good++;
            }
        }
    } else if (http == 422) {
        struct json *st = kube_status_invalid(d, r->group, r->kind, kube_name(o), &errs);
        AUTO_FREE char *got = text(st), *exp = text(want);
        if (rc == 0 || (!json_eq(st, want) && !same_causes(st, want))) {
            report(t, scenario, n, exp, rc == 0 ? "accepted" : got);
        } else {
            t->good++;
        }
    }
    kube_errs_fini(&errs);
}

/* Rows of a Table answer against the cells of the same object as an earlier answer of the scenario showed it. */
static void one_table(struct tally *t, const struct json *step, const struct kube_resource *r,
                      const struct json *obj) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    const struct json *body = json_get(step, "body");
    const char *scenario = json_str(json_get(step, "scenario"));
    int64_t n = json_i64(json_get(step, "step"), 0);
    uint64_t born = clock_wall_ns();
    IGNORE_ERR(time_parse(json_span(json_at(obj, "metadata", "creationTimestamp")), &born),
               "masked times stay unknown");
    JSON_EACH(it, row, json_get(body, "rows")) {
        struct json *want = json_get(row, "cells"),
                    *got = kube_table_cells(d, r, obj, born / NS_PER_S);
        if (!str_eq(json_str(json_idx(want, 0)), kube_name(obj)) ||
            json_len(json_get(body, "rows")) != 1) {
            continue;
        }
        size_t i = 0;
        struct json *cols = kube_table_columns(d, r);
        JSON_EACH(it2, c, cols) {
            const char *name = json_str(json_get(c, "name"));
            if (str_eq(name, "Age") || str_eq(name, "Created At") || str_eq(name, "Last Seen") ||
                str_eq(name, "First Seen")) {
                json_replace_idx(got, i, json_copy(d, json_idx(want, i)));
            }
            i++;
        }
        AUTO_FREE char *g = text(got), *w = text(want);
        if (json_eq(got, want)) {
            t->good++;
        } else {
            report(t, scenario, n, w, g);
        }
    }
}

static void tables_of_file(struct tally *t, const char *path) {
    AUTO(buf) struct buf b = BUF_INIT(4u << 20);
    ASSERT_EQ(0, t_read_file(path, &b));
    struct span s = buf_view(&b), line;
    AUTO(json_docp) struct json_doc *last = NULL;
    while (s.n && span_line(&s, &line) == 0) {
        struct json_doc *d = NULL;
        if (!line.n) {
            continue;
        }
        ASSERT_EQ(0, json_parse(line, 0, &d, NULL));
        const struct json *body = json_get(json_root(d), "body");
        const char *kind = json_str_or(json_get(body, "kind"), "");
        const struct json *obj = json_get(json_root(last), "body");
        const struct kube_type *ty =
            kube_type_of(json_str(json_get(obj, "apiVersion")), json_str(json_get(obj, "kind")));
        struct span g, v;
        if (str_eq(kind, "Table") && ty &&
            kube_gv_split(json_str(json_get(obj, "apiVersion")), &g, &v) == 0) {
            AUTO_FREE char *group = str_dupn(g.p, g.n), *version = str_dupn(v.p, v.n);
            const struct kube_resource *r =
                kube_resource_by_kind(group, version, json_str(json_get(obj, "kind")));
            if (r) {
                one_table(t, json_root(d), r, obj);
            }
        }
        if (json_get(body, "metadata") && !str_eq(kind, "Table") && !str_eq(kind, "Status") &&
            json_i64(json_get(json_root(d), "status"), 0) < 300) {
            json_doc_free(last);
            last = d;
        } else {
            json_doc_free(d);
        }
    }
}

static void replay_file(struct tally *t, const char *path) {
    AUTO(buf) struct buf b = BUF_INIT(4u << 20);
    ASSERT_EQ(0, t_read_file(path, &b));
    struct span s = buf_view(&b), line;
    while (s.n && span_line(&s, &line) == 0) {
        struct json_doc *d = NULL;
        if (!line.n) {
            continue;
        }
        AUTO(buf) struct buf plain = BUF_INIT(8u << 20);
        replace_all(&plain, line, "<uid>", "uid");
        ASSERT_EQ(0, json_parse(buf_view(&plain), 0, &d, NULL));
        const struct json *rq = json_get(json_root(d), "request");
        const char *path_of = json_str_or(json_get(rq, "p"), "");
        if (str_eq(json_str(json_get(rq, "m")), "POST") && json_get(rq, "b")) {
            const struct kube_resource *r = resource_of_path(path_of);
            if (r && r->type) {
                one_create(t, json_root(d), r);
            }
        }
        json_doc_free(d);
    }
}

static int by_name(const void *a, const void *b) {
    char *const *x = a, *const *y = b;
    return strcmp(*x, *y);
}

static void each_file(struct tally *t, void (*fn)(struct tally *, const char *)) {
    AUTO_FREE char *dir = str_fmt("%s/conformance", t_testdata());
    DIR *dh = opendir(dir);
    ASSERT(dh);
    char *names[512];
    size_t n = 0;
    const char *only = getenv("KF_SCENARIO");
    for (struct dirent *de; (de = readdir(dh)) && n < ARRAY_LEN(names);) {
        if (span_ends(span_str(de->d_name), ".jsonl") && (!only || strstr(de->d_name, only))) {
            names[n++] = str_dup(de->d_name);
        }
    }
    closedir(dh);
    qsort(names, n, sizeof(names[0]), by_name);
    t->verbose = getenv("KF_VERBOSE") != NULL;
    for (size_t i = 0; i < n; i++) {
        AUTO_FREE char *path = str_fmt("%s/%s", dir, names[i]);
        fn(t, path);
        free(names[i]);
    }
}

TEST(kube, creates_as_recorded) {
    struct tally t = {0};
    each_file(&t, replay_file);
    if (t.verbose || getenv("KF_SCENARIO")) {
        printf("creates: %zu as recorded, %zu not\n", t.good, t.bad);
    } else {
        ASSERT(
            t.good >=
            277); /* the others need admission, allocation or the request's options: the server's part */
    }
}

TEST(kube, tables_as_recorded) {
    struct tally t = {0};
    each_file(&t, tables_of_file);
    if (t.verbose || getenv("KF_SCENARIO")) {
        printf("tables: %zu as recorded, %zu not\n", t.good, t.bad);
    } else {
        ASSERT(t.bad <= 4); /* whose status changed between the two reads */
        ASSERT(t.good >= 40);
    }
}
