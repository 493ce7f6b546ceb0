#include "internal/kube/kube.h"

#include "internal/base/map.h"
#include "internal/base/rand.h"
#include "internal/t/t.h"

#include <stdio.h>
#include <stdlib.h>

/* Plays the recorded writes of a scenario against a server of one map: creates, replaces, patches of all kinds and
 * server-side apply, each compared with what upstream answered, managedFields included. */

static struct json_doc *parse(const char *s) {
    struct json_doc *d = NULL;
    struct err e = ERR_INIT;
    ASSERT_OK(json_parse(span_str(s), JSON_DUPS_OK, &d, &e), &e);
    return d;
}

static char *text(const struct json *v) {
    AUTO(buf) struct buf b = BUF_INIT(1u << 22);
    IGNORE_ERR(json_write(v, 0, &b), "a test prints what there is");
    return str_dup(buf_cstr(&b));
}

static const struct kube_resource *resource_of(const char *path, char **ret_key) {
    struct span s = span_str(path), part, parts[10];
    ptrdiff_t q = span_index(s, '?');
    size_t n = 0;
    s.n = q >= 0 ? (size_t)q : s.n;
    while (n < 10 && span_next(&s, '/', &part)) {
        if (part.n) {
            parts[n++] = part;
        }
    }
    size_t at = span_eq_str(parts[0], "api") ? 1 : 2;
    AUTO_FREE char *group = at == 1 ? str_dup("") : str_dupn(parts[1].p, parts[1].n);
    AUTO_FREE char *version = str_dupn(parts[at].p, parts[at].n);
    at++;
    if (n > at + 2 && span_eq_str(parts[at], "namespaces")) {
        at += 2;
    }
    AUTO_FREE char *name = str_dupn(parts[at].p, parts[at].n);
    AUTO_FREE char *sub = n > at + 2 ? str_dupn(parts[at + 2].p, parts[at + 2].n) : str_dup("");
    *ret_key = n > at + 1 ? str_fmt("%s/%.*s", name, SPAN_FMT(parts[at + 1])) : str_dup(name);
    return kube_resource_find(group, version, name, sub);
}

static char *query(const char *path, const char *name) {
    AUTO_FREE char *want = str_fmt("%s=", name);
    const char *at = strchr(path, '?');
    at = at ? strstr(at, want) : NULL;
    if (!at) {
        return NULL;
    }
    at += strlen(want);
    const char *end = strchr(at, '&');
    return str_dupn(at, end ? (size_t)(end - at) : strlen(at));
}

/* What differs from run to run, or is another package's part. */
static void mask(struct json *o) {
    struct json *m = json_get(o, "metadata");
    static const char *const gone[] = {"uid",        "resourceVersion", "creationTimestamp",
                                       "generation", "namespace",       "annotations"};
    for (size_t i = 0; i < ARRAY_LEN(gone); i++) {
        json_del(m, gone[i]);
    }
    JSON_EACH(it, e, json_get(m, "managedFields")) {
        json_del(e, "time");
    }
    json_del(o, "status");
    json_del(o, "kind");
    json_del(o, "apiVersion");
    if (json_at(o, "spec", "containers")) { /* admission and the scheduler write into pods */
        json_del(o, "spec");
    }
    struct json *list = json_get(m, "managedFields");
    for (size_t i = 0; i < json_len(list);) {
        if (strncmp(json_str_or(json_get(json_idx(list, i), "manager"), ""), "kube-", 5) == 0) {
            json_remove_idx(list, i);
        } else {
            i++;
        }
    }
}

struct play {
    struct map objects; /* key → struct json_doc * */
    size_t good, bad;
    bool verbose;
};

static void verdict(struct play *p, const struct json *step, bool good, const char *want,
                    const char *got) {
    p->good += good ? 1 : 0;
    p->bad += good ? 0 : 1;
    if (!good && p->verbose) {
        printf("%s %d\n  want %s\n  got  %s\n", json_str(json_get(step, "scenario")),
               (int)json_i64(json_get(step, "step"), 0), want, got);
    }
}

static int apply_body(struct json_doc *d, const struct kube_resource *r, const char *type,
                      const struct json *old, const struct json *body,
                      const struct kube_apply_opts *o, struct json **ret, struct kube_errs *errs) {
    if (str_eq(type, "application/apply-patch+yaml")) {
        return kube_apply(d, r, old, body, o, ret, errs);
    }
    if (!type) {
        *ret = json_copy(d, body);
        return 0;
    }
    struct json *copy = json_copy(d, old);
    return str_eq(type, "application/json-patch+json") ? kube_patch_json(d, copy, body, ret, errs)
           : str_eq(type, "application/strategic-merge-patch+json")
               ? kube_patch_strategic(d, r->type, copy, body, ret, errs)
               : kube_patch_merge(d, copy, body, ret, errs);
}

static void one_write(struct play *p, const struct json *step) {
    const struct json *rq = json_get(step, "request"), *want = json_get(step, "body"),
                      *b = json_get(rq, "b");
    const char *path = json_str(json_get(rq, "p")),
               *type = json_str(json_at(rq, "h", "Content-Type"));
    int64_t http = json_i64(json_get(step, "status"), 0);
    AUTO_FREE char *key = NULL, *manager = query(path, "fieldManager"),
                   *dry = query(path, "dryRun");
    AUTO_FREE char *force = query(path, "force");
    const struct kube_resource *r = resource_of(path, &key);
    AUTO(json_docp)
    struct json_doc *in = json_is_str(b) ? NULL : json_doc_new(), *d = json_doc_new();
    if (!r || !r->type || *r->sub || (http >= 400 && http != 409 && http != 500)) {
        return;
    }
    if (json_is_str(b)) {
        in = parse(json_str(b));
    } else {
        json_set_root(in, json_copy(in, b));
    }
    if (str_eq(json_str(json_get(rq, "m")), "POST")) {
        free(key);
        key = str_fmt("%s/%s", r->name, kube_name(json_root(in)));
    }
    struct json_doc *stored = map_get_str(&p->objects, key);
    const struct json *old = json_root(stored);
    bool apply = str_eq(type, "application/apply-patch+yaml");
    if (!old && type && !apply) {
        return;
    }
    if (http == 409 && json_at(json_root(in), "metadata", "resourceVersion")) {
        return;
    }
    const struct kube_apply_opts o = {manager ? manager : "recorder", "2026-01-01T00:00:00Z",
                                      str_eq(force, "true")};
    struct kube_errs errs = KUBE_ERRS_INIT;
    struct json *out = NULL;
    int rc = apply_body(d, r, type, old, json_root(in), &o, &out, &errs);
    if (rc < 0) {
        struct json *st = rc == -ERR_CONFLICT ? kube_status_apply_conflict(d, &errs)
                                              : kube_status(d, 500, "", errs.text);
        AUTO_FREE char *w = text(want), *g = text(st);
        verdict(p, step, http >= 400 && json_eq(st, want), w, g);
        kube_errs_fini(&errs);
        return;
    }
    ASSERT_EQ(0, kube_decode(d, out, r->type, KUBE_FV_IGNORE, &errs, NULL));
    kube_default(d, out, r);
    kube_managed_update(d, r, old, out, &o, apply);
    if (old) {
        kube_prepare_update(d, out, old, r);
    } else {
        json_set_str(d, json_get(out, "metadata"), "uid", "uid");
        kube_prepare_create(d, out, r);
    }
    struct json *w = json_copy(d, want), *g = json_copy(d, out);
    mask(w);
    mask(g);
    AUTO_FREE char *wt = text(w), *gt = text(g);
    verdict(p, step, http < 300 && json_eq(w, g), wt, gt);
    kube_errs_fini(&errs);
    if (http < 300 && !dry) {
        struct json_doc *now = json_doc_new();
        json_set_root(now, json_copy(now, out));
        json_doc_free(map_put_str(&p->objects, key, now));
    }
}

static void play(struct play *p, const char *scenario) {
    AUTO_FREE char *path = str_fmt("%s/conformance/%s.jsonl", t_testdata(), scenario);
    AUTO(buf) struct buf b = BUF_INIT(4u << 20);
    ASSERT_EQ(0, t_read_file(path, &b));
    struct span s = buf_view(&b), line;
    while (s.n && span_line(&s, &line) == 0) {
        struct json_doc *d = NULL;
        if (line.n) {
            ASSERT_EQ(0, json_parse(line, 0, &d, NULL));
            const char *m = json_str_or(json_at(json_root(d), "request", "m"), "");
            if (str_eq(m, "POST") || str_eq(m, "PUT") || str_eq(m, "PATCH")) {
                one_write(p, json_root(d));
            }
            json_doc_free(d);
        }
    }
}

static void play_fini(struct play *p) {
    struct map_iter it = {0};
    struct map_entry *e = NULL;
    while (map_next(&p->objects, &it, &e)) {
        json_doc_free(e->value);
    }
    map_fini(&p->objects);
}

static void scenario(const char *name, size_t good) {
    struct play p = {.verbose = getenv("KF_VERBOSE") != NULL};
    play(&p, name);
    play_fini(&p);
    if (p.verbose) {
        printf("%s: %zu as recorded, %zu not\n", name, p.good, p.bad);
    } else {
        ASSERT_EQ(0, (int)p.bad);
        ASSERT(p.good >= good);
    }
}

TEST(kube, json_patch_as_recorded) {
    scenario("json-patch", 3);
}
TEST(kube, merge_patch_as_recorded) {
    scenario("merge-patch", 0);
}
TEST(kube, strategic_merge_as_recorded) {
    scenario("strategic", 8);
}
TEST(kube, apply_as_recorded) {
    scenario("apply", 8);
}
TEST(kube, apply_to_lists_as_recorded) {
    scenario("apply-lists", 5);
}

TEST(kube, rfc7386_examples) {
    static const char *const t[][3] = {
        {"{\"a\":\"b\"}", "{\"a\":\"c\"}", "{\"a\":\"c\"}"},
        {"{\"a\":\"b\"}", "{\"b\":\"c\"}", "{\"a\":\"b\",\"b\":\"c\"}"},
        {"{\"a\":\"b\"}", "{\"a\":null}", "{}"},
        {"{\"a\":[\"b\"]}", "{\"a\":\"c\"}", "{\"a\":\"c\"}"},
        {"{\"a\":{\"b\":\"c\"}}", "{\"a\":{\"b\":\"d\",\"c\":null}}", "{\"a\":{\"b\":\"d\"}}"},
        {"{\"a\":[{\"b\":\"c\"}]}", "{\"a\":[1]}", "{\"a\":[1]}"},
        {"{\"e\":null}", "{\"a\":1}", "{\"e\":null,\"a\":1}"},
        {"{}", "{\"a\":{\"bb\":{\"ccc\":null}}}", "{\"a\":{\"bb\":{}}}"},
    };
    for (size_t i = 0; i < ARRAY_LEN(t); i++) {
        AUTO(json_docp)
        struct json_doc *a = parse(t[i][0]), *b = parse(t[i][1]), *want = parse(t[i][2]);
        struct kube_errs errs = KUBE_ERRS_INIT;
        struct json *out = NULL;
        ASSERT_EQ(0, kube_patch_merge(a, json_root(a), json_root(b), &out, &errs));
        AUTO_FREE char *got = text(out), *exp = text(json_root(want));
        ASSERT_STREQ(exp, got);
        kube_errs_fini(&errs);
    }
}

TEST(kube, rfc6902_examples) {
    static const char *const t[][3] = {
        {"{\"foo\":\"bar\"}", "[{\"op\":\"add\",\"path\":\"/baz\",\"value\":\"qux\"}]",
         "{\"foo\":\"bar\",\"baz\":\"qux\"}"},
        {"{\"foo\":[\"a\",\"c\"]}", "[{\"op\":\"add\",\"path\":\"/foo/1\",\"value\":\"b\"}]",
         "{\"foo\":[\"a\",\"b\",\"c\"]}"},
        {"{\"foo\":[1,2,3]}", "[{\"op\":\"remove\",\"path\":\"/foo/1\"}]", "{\"foo\":[1,3]}"},
        {"{\"a\":{\"b\":1}}", "[{\"op\":\"move\",\"from\":\"/a/b\",\"path\":\"/c\"}]",
         "{\"a\":{},\"c\":1}"},
        {"{\"/\":9,\"~1\":10}", "[{\"op\":\"test\",\"path\":\"/~01\",\"value\":10}]",
         "{\"/\":9,\"~1\":10}"},
        {"{\"foo\":[\"x\"]}", "[{\"op\":\"add\",\"path\":\"/foo/-\",\"value\":[\"y\"]}]",
         "{\"foo\":[\"x\",[\"y\"]]}"},
        {"{\"q\":1}", "[{\"op\":\"add\",\"path\":\"/a/b\",\"value\":1}]", NULL},
        {"{\"q\":[1]}", "[{\"op\":\"add\",\"path\":\"/q/2\",\"value\":1}]", NULL},
        {"{\"q\":1}", "[{\"op\":\"test\",\"path\":\"/q\",\"value\":\"1\"}]", NULL},
    };
    for (size_t i = 0; i < ARRAY_LEN(t); i++) {
        AUTO(json_docp) struct json_doc *a = parse(t[i][0]), *b = parse(t[i][1]);
        struct kube_errs errs = KUBE_ERRS_INIT;
        struct json *out = NULL;
        int rc = kube_patch_json(a, json_root(a), json_root(b), &out, &errs);
        ASSERT_EQ(t[i][2] ? 0 : -ERR_UNPROCESSABLE, rc);
        if (rc == 0) {
            AUTO_FREE char *got = text(out);
            ASSERT_STREQ(t[i][2], got);
        }
        kube_errs_fini(&errs);
    }
}
