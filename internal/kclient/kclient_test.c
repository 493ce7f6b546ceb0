#include "internal/kclient/kclient.h"

#include "internal/base/rand.h"
#include "internal/http/http.h"
#include "internal/kube/kube.h"
#include "internal/sys/sys.h"
#include "internal/t/t.h"

#include <stdlib.h>
#include <unistd.h>

/* An API server of one ConfigMap list: the test says what it answers. */
struct fake {
    struct loop *l;
    struct http_server *s;
    struct kclient *c;
    char dir[32];
    const char *list;       /* body of the next lists */
    struct http_req *watch; /* the open watch */
    unsigned n_lists, n_watches, watch_status;
    char last_query[512];
    char last_body[512];
};

static void on_watch_close(struct http_req *r, bool complete, void *ctx) {
    struct fake *f = ctx;
    (void)complete;
    if (f->watch == r) {
        f->watch = NULL;
    }
}

static void on_body(struct http_req *r, int rc, struct span body, void *ctx) {
    struct fake *f = ctx;
    ASSERT_EQ(0, rc);
    IGNORE_ERR(span_to_cstr(body, f->last_body, sizeof(f->last_body)), "fits");
    bool fails = span_ends(http_req_path(r), "/conflict");
    http_respond(
        r, fails ? 409 : 201, "application/json", NULL, 0,
        fails
            ? SPAN_LIT(
                  "{\"kind\":\"Status\",\"reason\":\"AlreadyExists\",\"message\":\"it is there\"}")
            : SPAN_LIT("{\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"new\",\"namespace\":\"n\","
                       "\"uid\":\"u9\",\"resourceVersion\":\"90\"}}"));
}

static void on_request(struct http_req *r, void *ctx) {
    struct fake *f = ctx;
    struct span q = http_req_query(r);
    if (!span_eq_str(http_req_method(r), "GET")) {
        http_req_read_body(r, 4096, on_body, f);
        return;
    }
    IGNORE_ERR(span_to_cstr(q, f->last_query, sizeof(f->last_query)), "fits");
    if (span_starts(q, "watch=true")) {
        f->n_watches++;
        if (f->watch_status) {
            http_respond(r, f->watch_status, "application/json", NULL, 0,
                         SPAN_LIT("{\"kind\":\"Status\",\"code\":410,\"reason\":\"Expired\"}"));
            f->watch_status = 0;
            return;
        }
        f->watch = r;
        http_req_on_close(r, on_watch_close, f);
        http_begin(r, 200, "application/json", NULL, 0);
        return;
    }
    f->n_lists++;
    http_respond(r, 200, "application/json", NULL, 0, span_str(f->list));
}

static void fake_start(struct fake *f) {
    struct err e = ERR_INIT;
    *f = (struct fake){
        .list = "{\"kind\":\"ConfigMapList\",\"apiVersion\":\"v1\",\"metadata\":{"
                "\"resourceVersion\":\"10\"},"
                "\"items\":[{\"metadata\":{\"name\":\"a\",\"namespace\":\"n\",\"uid\":\"u1\","
                "\"resourceVersion\":\"5\",\"managedFields\":[{}]},\"data\":{\"k\":\"1\"}}]}"};
    IGNORE_ERR(str_put(f->dir, sizeof(f->dir), "/tmp/kf-test-XXXXXX"), "fits");
    ASSERT(mkdtemp(f->dir) != NULL);
    AUTO_FREE char *path = str_fmt("%s/api.sock", f->dir);
    AUTO_FREE char *url = str_fmt("unix://%s", path);
    ASSERT_OK(loop_new(&f->l, &e), &e);
    struct http_server_opts so = {.handler = {on_request, f}, .h2c = true, .name = "fake"};
    ASSERT_OK(http_server_new(f->l, &so, &f->s, &e), &e);
    int fd = sys_listen_unix(path, 0600, &e);
    ASSERT(fd >= 0);
    ASSERT_OK(http_server_listen(f->s, fd, &e), &e);
    struct kclient_opts ko = {.server = url};
    ASSERT_OK(kclient_new(f->l, &ko, &f->c, &e), &e);
}

static void fake_stop(struct fake *f) {
    kclient_free(f->c);
    http_server_free(f->s);
    loop_free(f->l);
    AUTO_FREE char *path = str_fmt("%s/api.sock", f->dir);
    unlink(path);
    rmdir(f->dir);
}

static void spin_until(struct fake *f, const bool *done) {
    struct err e = ERR_INIT;
    uint64_t end = clock_ns() + 10 * NS_PER_S;
    while (!*done && clock_ns() < end) {
        ASSERT_OK(loop_step(f->l, 50 * NS_PER_MS, &e), &e);
    }
    ASSERT(*done);
}

struct seen {
    unsigned added, changed, deleted;
    bool more;
    char last[64];
};

static void on_change(void *ctx, struct json *old, struct json *cur) {
    struct seen *s = ctx;
    s->added += !old && cur;
    s->changed += old && cur;
    s->deleted += !cur;
    s->more = true;
    IGNORE_ERR(str_put(s->last, sizeof(s->last), "%s", kube_name(cur ? cur : old)), "fits");
}

static void on_synced(void *ctx) {
    *(bool *)ctx = true;
}

static void spin_for_more(struct fake *f, struct seen *s) {
    spin_until(f, &s->more);
    s->more = false;
}

static void push(struct fake *f, const char *event) {
    ASSERT(f->watch != NULL);
    http_write(f->watch, span_str(event));
}

static const struct kref cms = {"", "v1", "configmaps", NULL, NULL, NULL};

TEST(kclient, informer_lists_and_watches) {
    struct fake f;
    struct seen s = {0};
    bool synced = false;
    fake_start(&f);
    struct kinformer_opts o = {
        .ref = cms, .on_change = on_change, .ctx = &s, .label_selector = "x=y"};
    struct kinformer *i = kinformer_start(f.c, &o);
    kinformer_on_synced(i, on_synced, &synced);
    spin_until(&f, &synced);
    ASSERT_EQ(1, s.added);
    struct json *a = kinformer_get(i, "n", "a");
    ASSERT_STREQ("ConfigMap", json_str(json_get(a, "kind")));
    ASSERT_NULL(json_at(a, "metadata", "managedFields"));
    while (!f.watch) {
        struct err e = ERR_INIT;
        ASSERT_OK(loop_step(f.l, 50 * NS_PER_MS, &e), &e);
    }
    ASSERT(strstr(f.last_query, "resourceVersion=10") &&
           strstr(f.last_query, "labelSelector=x%3Dy"));
    s.more = false;
    /* an event in two pieces */
    push(&f, "{\"type\":\"ADDED\",\"object\":{\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"b\","
             "\"namespace\":");
    push(&f, "\"n\",\"uid\":\"u2\",\"resourceVersion\":\"11\"}}}\n{\"type\":\"BOOKMARK\","
             "\"object\":{\"metadata\":"
             "{\"resourceVersion\":\"20\"}}}\n");
    spin_for_more(&f, &s);
    ASSERT_EQ(2, s.added);
    ASSERT_EQ(2, kinformer_count(i));
    push(&f, "{\"type\":\"DELETED\",\"object\":{\"metadata\":{\"name\":\"a\",\"namespace\":\"n\","
             "\"uid\":\"u1\","
             "\"resourceVersion\":\"21\"}}}\n");
    spin_for_more(&f, &s);
    ASSERT_EQ(1, s.deleted);
    /* the watch ends: it goes on from the last version */
    http_end(f.watch);
    f.watch = NULL;
    while (!f.watch) {
        struct err e = ERR_INIT;
        ASSERT_OK(loop_step(f.l, 50 * NS_PER_MS, &e), &e);
    }
    ASSERT(strstr(f.last_query, "resourceVersion=21"));
    ASSERT_EQ(1, f.n_lists);
    kinformer_stop(i);
    fake_stop(&f);
}

TEST(kclient, informer_lists_again_when_the_version_is_gone) {
    struct fake f;
    struct seen s = {0};
    bool synced = false;
    fake_start(&f);
    struct kinformer_opts o = {.ref = cms, .on_change = on_change, .ctx = &s};
    f.watch_status = 410;
    struct kinformer *i = kinformer_start(f.c, &o);
    kinformer_on_synced(i, on_synced, &synced);
    spin_until(&f, &synced);
    f.list = "{\"kind\":\"ConfigMapList\",\"apiVersion\":\"v1\",\"metadata\":{\"resourceVersion\":"
             "\"30\"},\"items\":[]}";
    s.more = false;
    spin_for_more(&f, &s);
    ASSERT_EQ(1, s.deleted);
    ASSERT_EQ(2, f.n_lists);
    kinformer_stop(i);
    fake_stop(&f);
}

TEST(kclient, informer_follows_a_store_that_went_back) {
    struct fake f;
    struct seen s = {0};
    bool synced = false;
    fake_start(&f);
    struct kinformer_opts o = {.ref = cms, .on_change = on_change, .ctx = &s};
    f.watch_status = 410;
    struct kinformer *i = kinformer_start(f.c, &o);
    kinformer_on_synced(i, on_synced, &synced);
    spin_until(&f, &synced);
    f.list = "{\"kind\":\"ConfigMapList\",\"apiVersion\":\"v1\",\"metadata\":{\"resourceVersion\":"
             "\"4\"},"
             "\"items\":[{\"metadata\":{\"name\":\"a\",\"namespace\":\"n\",\"uid\":\"u1\","
             "\"resourceVersion\":\"3\"},\"data\":{\"k\":\"0\"}}]}";
    s.more = false;
    spin_for_more(&f, &s);
    ASSERT_EQ(1, s.changed);
    ASSERT_STREQ("0", json_str(json_at(kinformer_get(i, "n", "a"), "data", "k")));
    kinformer_stop(i);
    fake_stop(&f);
}

struct answer {
    bool done;
    int rc;
    char text[128];
};

static void on_answer(void *ctx, int rc, struct json *obj, const struct err *e) {
    struct answer *a = ctx;
    a->done = true;
    a->rc = rc;
    IGNORE_ERR(str_put(a->text, sizeof(a->text), "%s", rc < 0 ? e->msg : kube_name(obj)), "fits");
}

TEST(kclient, own_writes_are_read) {
    struct fake f;
    struct seen s = {0};
    bool synced = false;
    fake_start(&f);
    struct kinformer_opts o = {.ref = cms, .on_change = on_change, .ctx = &s};
    struct kinformer *i = kinformer_start(f.c, &o);
    kinformer_on_synced(i, on_synced, &synced);
    spin_until(&f, &synced);
    while (!f.watch) {
        struct err e = ERR_INIT;
        ASSERT_OK(loop_step(f.l, 50 * NS_PER_MS, &e), &e);
    }
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *mine = kube_object_new(d, "v1", "ConfigMap", "n", "new");
    json_set_str(d, json_get(mine, "metadata"), "resourceVersion", "12");
    json_set_str(d, json_get(mine, "metadata"), "uid", "u9");
    kinformer_put(i, mine);
    ASSERT_EQ(2, s.added);
    s.more = false;
    /* the watch's word of the same version, and of an older one, changes nothing */
    push(&f, "{\"type\":\"ADDED\",\"object\":{\"metadata\":{\"name\":\"new\",\"namespace\":\"n\","
             "\"uid\":\"u9\","
             "\"resourceVersion\":\"12\"}}}\n{\"type\":\"DELETED\",\"object\":{\"metadata\":{"
             "\"name\":\"new\","
             "\"namespace\":\"n\",\"uid\":\"u9\",\"resourceVersion\":\"13\"}}}\n");
    spin_for_more(&f, &s);
    ASSERT_EQ(2, s.added);
    ASSERT_EQ(0, s.changed);
    ASSERT_EQ(1, s.deleted);
    /* an answer that comes after the watch has seen the deletion does not bring it back */
    kinformer_put(i, mine);
    ASSERT_NULL(kinformer_get(i, "n", "new"));
    kinformer_stop(i);
    fake_stop(&f);
}

TEST(kclient, requests_and_errors) {
    struct fake f;
    fake_start(&f);
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *obj = kube_object_new(d, "v1", "ConfigMap", "n", "new");
    struct kref r = {"", "v1", "configmaps", "n", NULL, NULL};
    struct answer ok = {0}, bad = {0};
    kcreate(f.c, &r, obj, on_answer, &ok);
    ASSERT(!ok.done);
    spin_until(&f, &ok.done);
    ASSERT_EQ(0, ok.rc);
    ASSERT_STREQ("new", ok.text);
    ASSERT(strstr(f.last_body, "\"kind\":\"ConfigMap\""));
    r.name = "conflict";
    kupdate(f.c, &r, obj, on_answer, &bad);
    spin_until(&f, &bad.done);
    ASSERT_EQ(-ERR_EXISTS, bad.rc);
    ASSERT_STREQ("it is there", bad.text);
    fake_stop(&f);
}

TEST(kclient, paths) {
    AUTO(buf) struct buf b = BUF_INIT(1024);
    struct kref r = {"apps", "v1", "deployments", "n s", "a:b", "status"};
    ASSERT_EQ(0, kref_path(&r, &b));
    ASSERT_STREQ("/apis/apps/v1/namespaces/n%20s/deployments/a:b/status", buf_cstr(&b));
}

struct qtest {
    struct kqueue *q;
    unsigned runs;
    bool ok, readd;
};

static void on_key(void *ctx, const char *key) {
    struct qtest *t = ctx;
    t->runs++;
    if (t->readd) {
        t->readd = false;
        kqueue_add(t->q, key);
    }
    kqueue_done(t->q, key, t->ok);
}

TEST(kclient, queue) {
    struct err e = ERR_INIT;
    struct loop *l;
    struct qtest t = {.ok = true};
    ASSERT_OK(loop_new_virtual(&l, NS_PER_S, &e), &e);
    t.q = kqueue_new(l, "test", 2, on_key, &t);
    kqueue_add(t.q, "a/b");
    kqueue_add(t.q, "a/b");
    ASSERT_EQ(0, t.runs);
    ASSERT_OK(loop_step(l, 0, &e), &e);
    ASSERT_EQ(1, t.runs); /* de-duplicated */
    t.readd = true;
    kqueue_add(t.q, "a/b");
    ASSERT_OK(loop_step(l, 0, &e), &e);
    ASSERT_OK(loop_step(l, 0, &e), &e);
    ASSERT_EQ(3, t.runs); /* added while handled: handled again */
    t.ok = false;
    kqueue_add(t.q, "x");
    for (int i = 0; i < 12; i++) {
        ASSERT_OK(loop_step(l, UINT64_MAX, &e), &e);
    }
    ASSERT(t.runs > 5 && kqueue_failures(t.q, "x") > 2);
    ASSERT(loop_now(l) > NS_PER_S + 30 * NS_PER_MS); /* pauses grow */
    kqueue_free(t.q);
    loop_free(l);
}

TEST(kclient, kubeconfig) {
    struct err e = ERR_INIT;
    struct loop *l;
    struct kclient *c = NULL;
    ASSERT_OK(loop_new(&l, &e), &e);
    const char *ok = "apiVersion: v1\nkind: Config\ncurrent-context: x\ncontexts:\n- name: x\n  "
                     "context: {cluster: c, user: u}\n"
                     "clusters:\n- name: c\n  cluster: {server: 'http://127.0.0.1:1'}\nusers:\n- "
                     "name: u\n  user: {token: t}\n";
    ASSERT_OK(kclient_from_kubeconfig(l, span_str(ok), NULL, &c, &e), &e);
    kclient_free(c);
    ASSERT_ERR(-ERR_NOT_FOUND, kclient_from_kubeconfig(l, span_str(ok), "y", &c, &e));
    err_reset(&e);
    ASSERT_ERR(-ERR_INVALID, kclient_from_kubeconfig(l, SPAN_LIT("a: 1"), NULL, &c, &e));
    loop_free(l);
}
