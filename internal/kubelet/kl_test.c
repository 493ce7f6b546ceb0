#include "internal/kubelet/kl_int.h"
#include "internal/t/t.h"

#include "internal/base/rand.h"
#include "internal/http/http.h"
#include "internal/log/log.h"
#include "internal/sys/sys.h"

#include <stdlib.h>
#include <unistd.h>

/* ---- pieces without a cluster ---- */

TEST(kubelet, log_lines) {
    static const struct {
        const char *line, *text;
        bool is_stderr, is_partial;
        int rc;
    } rows[] = {
        {"2026-01-02T03:04:05.6Z stdout F hello world", "hello world", false, false, 0},
        {"2026-01-02T03:04:05.6Z stderr P half", "half", true, true, 0},
        {"2026-01-02T03:04:05.6Z stdout F:x tagged", "tagged", false, false, 0},
        {"2026-01-02T03:04:05.6Z stdout F ", "", false, false, 0},
        {"2026-01-02T03:04:05.6Z stdout F", "", false, false, 0},
        {"2026-01-02T03:04:05.6Z stdin F x", "", false, false, -ERR_INVALID},
        {"2026-01-02T03:04:05.6Z stdout Q x", "", false, false, -ERR_INVALID},
        {"garbage", "", false, false, -ERR_INVALID},
        {"", "", false, false, -ERR_INVALID},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct kl_log_line l;
        ASSERT_EQ(rows[i].rc, kl_log_parse(span_str(rows[i].line), &l));
        if (rows[i].rc == 0) {
            ASSERT_SPAN(rows[i].text, l.text);
            ASSERT_EQ(rows[i].is_stderr, l.is_stderr);
            ASSERT_EQ(rows[i].is_partial, l.is_partial);
        }
    }
}

TEST(kubelet, log_tail_finds_line_starts) {
    char path[] = "/tmp/kf-log-XXXXXX";
    struct err e = ERR_INIT;
    uint64_t at = 99;
    AUTO_FD int fd = mkstemp(path);
    ASSERT(fd >= 0);
    IGNORE_ERR(unlink(path), "open");
    AUTO(buf) struct buf b = BUF_INIT(1 << 20);
    for (int i = 0; i < 5000; i++) {
        buf_fmt(&b, "line %05d\n", i);
    }
    ASSERT_EQ((ssize_t)b.n, write(fd, b.p, b.n));
    ASSERT_OK(kl_log_tail(fd, b.n, 1, &at, &e), &e);
    ASSERT_EQ(b.n - 11, at);
    ASSERT_OK(kl_log_tail(fd, b.n, 2000, &at, &e), &e);
    ASSERT_EQ(b.n - 2000 * 11, at);
    ASSERT_OK(kl_log_tail(fd, b.n, 100000, &at, &e), &e);
    ASSERT_EQ(0, at);
    ASSERT_OK(kl_log_tail(fd, b.n, 0, &at, &e), &e);
    ASSERT_EQ(b.n, at);
}

TEST(kubelet, expansion_as_kubernetes_does_it) {
    static const struct kubelet_kv env[] = {{"A", "1"}, {"B_C", "two"}, {"E", ""}};
    static const struct {
        const char *in, *out;
    } rows[] = {
        {"$(A)", "1"},      {"x$(B_C)y", "xtwoy"},
        {"$$(A)", "$(A)"},  {"$(Z)", "$(Z)"},
        {"$(A", "$(A"},     {"$A", "$A"},
        {"$(E)|", "|"},     {"$$", "$"},
        {"$(A)$(A)", "11"}, {"cost: 5$", "cost: 5$"},
        {"$$$(A)", "$1"},
    };
    struct arena a = ARENA_INIT(1 << 16);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        ASSERT_STREQ(rows[i].out, kl_expand(&a, rows[i].in, env, ARRAY_LEN(env)));
    }
    arena_fini(&a);
}

/* ---- one pod against a runtime that exists in memory, without an API server ---- */

struct fake_ctr {
    char id[16], name[16], sandbox[16];
    unsigned attempt;
    enum kubelet_ctr_state state;
    int exit_code;
};
struct fake {
    struct loop *l;
    struct loop_timer t[64];
    struct fake_ctr ctrs[32];
    size_t n_ctrs;
    char sandbox[16];
    unsigned n_sandboxes;
    bool has_sandbox, ready;
    int exec_exit;  /* what commands end with */
    char log[1024]; /* what was asked for, in order */
};

struct later {
    struct loop_timer t;
    union {
        kubelet_done_cb *done;
        kubelet_id_cb *id;
        kubelet_image_cb *image;
        kubelet_list_cb *list;
        kubelet_exec_cb *exec;
        kubelet_info_cb *info;
    } cb;
    void *ctx;
    char id[16];
    int kind;
    struct fake *f;
};

static void note(struct fake *f, const char *what) {
    size_t n = strlen(f->log);
    IGNORE_ERR(str_put(f->log + n, sizeof(f->log) - n, "%s ", what), "long enough");
}

static void fire(struct loop_timer *t) {
    struct later *w = CONTAINER_OF(t, struct later, t);
    struct fake *f = w->f;
    struct err e = ERR_INIT;
    if (w->kind == 0) {
        w->cb.done(w->ctx, 0, &e);
    } else if (w->kind == 1) {
        w->cb.id(w->ctx, 0, w->id, &e);
    } else if (w->kind == 2) {
        w->cb.image(w->ctx, 0, "sha256:1", &e);
    } else if (w->kind == 4) {
        w->cb.exec(w->ctx, 0, f->exec_exit, SPAN_EMPTY, &e);
    } else if (w->kind == 5) {
        const struct kubelet_runtime_info i = {
            .version = "1", .ready = true, .network_ready = true, .reason = "", .message = ""};
        w->cb.info(w->ctx, 0, &i, &e);
    } else {
        struct kubelet_sandbox_status s = {.id = f->sandbox,
                                           .ns = "d",
                                           .name = "p",
                                           .uid = "u1",
                                           .attempt = f->n_sandboxes,
                                           .ready = f->ready,
                                           .ips = {"10.0.0.2"},
                                           .n_ips = 1};
        struct kubelet_container_status c[32];
        for (size_t i = 0; i < f->n_ctrs; i++) {
            c[i] = (struct kubelet_container_status){.id = f->ctrs[i].id,
                                                     .sandbox_id = f->ctrs[i].sandbox,
                                                     .pod_uid = "u1",
                                                     .name = f->ctrs[i].name,
                                                     .attempt = f->ctrs[i].attempt,
                                                     .state = f->ctrs[i].state,
                                                     .started_wall_ns = 1,
                                                     .finished_wall_ns = 2,
                                                     .exit_code = f->ctrs[i].exit_code,
                                                     .reason = "",
                                                     .message = "",
                                                     .image = "i",
                                                     .image_ref = "sha256:1"};
        }
        struct kubelet_snapshot snap = {&s, f->has_sandbox, c, f->n_ctrs};
        w->cb.list(w->ctx, 0, &snap, &e);
    }
    free(w);
}

static struct later *soon(struct fake *f, int kind, void *ctx) {
    struct later *w = new_zero(struct later);
    w->f = f;
    w->kind = kind;
    w->ctx = ctx;
    loop_timer_start(f->l, &w->t, NS_PER_MS, fire, "fake runtime");
    return w;
}

static void f_list(void *rt, kubelet_list_cb *done, void *ctx) {
    soon(rt, 3, ctx)->cb.list = done;
}
static void f_sandbox_start(void *rt, const struct kubelet_sandbox *s, kubelet_id_cb *done,
                            void *ctx) {
    struct fake *f = rt;
    (void)s;
    note(f, "sandbox");
    f->has_sandbox = f->ready = true;
    f->n_sandboxes++;
    IGNORE_ERR(str_put(f->sandbox, sizeof(f->sandbox), "s%u", f->n_sandboxes), "fits");
    struct later *w = soon(f, 1, ctx);
    w->cb.id = done;
    memcpy(w->id, f->sandbox, sizeof(w->id));
}
static void f_sandbox_stop(void *rt, const char *id, kubelet_done_cb *done, void *ctx) {
    struct fake *f = rt;
    (void)id;
    note(f, "sandbox-stop");
    f->ready = false;
    soon(f, 0, ctx)->cb.done = done;
}
static void f_sandbox_remove(void *rt, const char *id, kubelet_done_cb *done, void *ctx) {
    struct fake *f = rt;
    note(f, "sandbox-remove");
    f->has_sandbox = false;
    for (size_t i = 0; i < f->n_ctrs; i++) {
        if (str_eq(f->ctrs[i].sandbox, id)) {
            f->ctrs[i--] = f->ctrs[--f->n_ctrs];
        }
    }
    soon(f, 0, ctx)->cb.done = done;
}
static void f_image_get(void *rt, const char *image, kubelet_image_cb *done, void *ctx) {
    (void)image;
    soon(rt, 2, ctx)->cb.image = done;
}
static void f_create(void *rt, const char *sandbox, const struct kubelet_sandbox *s,
                     const struct kubelet_container *c, kubelet_id_cb *done, void *ctx) {
    struct fake *f = rt;
    struct fake_ctr *n = &f->ctrs[f->n_ctrs++];
    char what[64];
    (void)s;
    *n = (struct fake_ctr){.attempt = c->attempt, .state = KUBELET_CREATED};
    IGNORE_ERR(str_put(n->id, sizeof(n->id), "%s-%u", c->name, c->attempt), "fits");
    IGNORE_ERR(str_put(n->name, sizeof(n->name), "%s", c->name), "fits");
    IGNORE_ERR(str_put(n->sandbox, sizeof(n->sandbox), "%s", sandbox), "fits");
    IGNORE_ERR(str_put(what, sizeof(what), "create:%s", n->id), "fits");
    note(f, what);
    struct later *w = soon(f, 1, ctx);
    w->cb.id = done;
    memcpy(w->id, n->id, sizeof(w->id));
}
static struct fake_ctr *f_find(struct fake *f, const char *id) {
    for (size_t i = 0; i < f->n_ctrs; i++) {
        if (str_eq(f->ctrs[i].id, id)) {
            return &f->ctrs[i];
        }
    }
    return NULL;
}
static void f_start(void *rt, const char *id, kubelet_done_cb *done, void *ctx) {
    f_find(rt, id)->state = KUBELET_RUNNING;
    soon(rt, 0, ctx)->cb.done = done;
}
static void f_stop(void *rt, const char *id, unsigned grace, kubelet_done_cb *done, void *ctx) {
    struct fake_ctr *c = f_find(rt, id);
    char what[32];
    IGNORE_ERR(str_put(what, sizeof(what), "stop:%u", grace), "fits");
    note(rt, what);
    if (c) {
        c->state = KUBELET_EXITED;
        c->exit_code = 143;
    }
    soon(rt, 0, ctx)->cb.done = done;
}
static void f_remove(void *rt, const char *id, kubelet_done_cb *done, void *ctx) {
    struct fake *f = rt;
    struct fake_ctr *c = f_find(f, id);
    if (c) {
        *c = f->ctrs[--f->n_ctrs];
    }
    soon(f, 0, ctx)->cb.done = done;
}
static void f_exec(void *rt, const char *id, const char *const *argv, size_t n, unsigned timeout_s,
                   kubelet_exec_cb *done, void *ctx) {
    char what[64];
    (void)timeout_s;
    ASSERT(n > 0);
    IGNORE_ERR(str_put(what, sizeof(what), "exec:%s:%s", id, argv[0]), "fits");
    note(rt, what);
    soon(rt, 4, ctx)->cb.exec = done;
}
static void f_info(void *rt, kubelet_info_cb *done, void *ctx) {
    soon(rt, 5, ctx)->cb.info = done;
}
static const struct kubelet_runtime_ops fake_ops = {.name = "fake",
                                                    .info = f_info,
                                                    .list = f_list,
                                                    .sandbox_start = f_sandbox_start,
                                                    .sandbox_stop = f_sandbox_stop,
                                                    .sandbox_remove = f_sandbox_remove,
                                                    .image_get = f_image_get,
                                                    .container_create = f_create,
                                                    .container_start = f_start,
                                                    .container_stop = f_stop,
                                                    .container_remove = f_remove,
                                                    .exec = f_exec};

struct bench {
    struct fake f;
    struct kubelet *k;
    struct kclient *client;
    char dir[64];
};

/* A client whose server is never there: statuses and events fail and are retried, which disturbs nothing here. */
static void bench_start(struct bench *b) {
    struct err e = ERR_INIT;
    memset(b, 0, sizeof(*b));
    log_init("test", LOG_LVL_ERROR, false);
    ASSERT_OK(loop_new_virtual(&b->f.l, 1000, &e), &e);
    IGNORE_ERR(str_put(b->dir, sizeof(b->dir), "/tmp/kf-kubelet-XXXXXX"), "fits");
    ASSERT(mkdtemp(b->dir));
    const struct kclient_opts ko = {.server = "unix:///nonexistent/kf.sock"};
    ASSERT_OK(kclient_new(b->f.l, &ko, &b->client, &e), &e);
    struct kubelet *k = b->k = new_zero(struct kubelet);
    k->o = (struct kubelet_opts){.ops = &fake_ops,
                                 .rt = &b->f,
                                 .node_name = "n",
                                 .root_dir = b->dir,
                                 .log_dir = b->dir,
                                 .no_service_env = true,
                                 .backoff_min_ns = 10 * NS_PER_S,
                                 .backoff_max_ns = 300 * NS_PER_S,
                                 .backoff_reset_ns = 600 * NS_PER_S,
                                 .resolv_conf = "/dev/null"};
    k->l = b->f.l;
    k->c = b->client;
    k->has_listed = true;
    k->events = kevents_new(k->c, "kubelet", "n");
}

static void run_for(struct bench *b, uint64_t ns);

static void bench_stop(struct bench *b) {
    kubelet_stop(b->k);
    run_for(b, NS_PER_S); /* the runtime's answers */
    kclient_free(b->client);
    kubelet_free(b->k);
    loop_free(b->f.l);
    struct err e = ERR_INIT;
    ASSERT_OK(sys_rmtree(AT_FDCWD, b->dir, &e), &e);
}

static void nothing(struct loop_timer *t) {
    (void)t;
}

/* Virtual time jumps from timer to timer: one stands at the end. */
static void run_for(struct bench *b, uint64_t ns) {
    struct err e = ERR_INIT;
    struct loop_timer end = {0};
    loop_timer_start(b->f.l, &end, ns, nothing, "end of the run");
    while (loop_timer_active(&end)) {
        ASSERT_OK(loop_step(b->f.l, ns, &e), &e);
    }
}

static const char pod_text[] = "{\"metadata\":{\"name\":\"p\",\"namespace\":\"d\",\"uid\":\"u1\"},"
                               "\"spec\":{\"restartPolicy\":\"%s\",\"nodeName\":\"n\","
                               "\"initContainers\":[{\"name\":\"i\",\"image\":\"x\"}],"
                               "\"containers\":[{\"name\":\"c\",\"image\":\"x\"}]}}";

static struct kl_pod *add_pod(struct bench *b, const char *policy);

TEST(kubelet, a_pod_starts_in_order_and_crashes_with_back_off) {
    struct bench b;
    bench_start(&b);
    struct kl_pod *p = add_pod(&b, "Always");
    run_for(&b, NS_PER_S);
    ASSERT_STREQ("sandbox create:i-0 ", b.f.log);
    f_find(&b.f, "i-0")->state = KUBELET_EXITED;
    kubelet_runtime_changed(b.k);
    run_for(&b, NS_PER_S);
    ASSERT_STREQ("sandbox create:i-0 create:c-0 ", b.f.log);
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    ASSERT_STREQ("Running", json_str_at(kl_status_of(p, d), "phase"));
    for (unsigned crash = 0; crash < 3; crash++) {
        char id[16];
        IGNORE_ERR(str_put(id, sizeof(id), "c-%u", crash), "fits");
        f_find(&b.f, id)->state = KUBELET_EXITED;
        f_find(&b.f, id)->exit_code = 1;
        kubelet_runtime_changed(b.k);
        IGNORE_ERR(str_put(id, sizeof(id), "c-%u", crash + 1), "fits");
        if (crash > 0) { /* the first crash restarts at once */
            run_for(&b, (crash == 1 ? 9 : 19) * NS_PER_S);
            ASSERT_NULL(f_find(&b.f, id));
            run_for(&b, 3 * NS_PER_S);
        } else {
            run_for(&b, NS_PER_S);
        }
        ASSERT(f_find(&b.f, id));
    }
    bench_stop(&b);
}

TEST(kubelet, a_pod_that_never_restarts_ends) {
    struct bench b;
    bench_start(&b);
    struct kl_pod *p = add_pod(&b, "Never");
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    run_for(&b, NS_PER_S);
    f_find(&b.f, "i-0")->state = KUBELET_EXITED;
    kubelet_runtime_changed(b.k);
    run_for(&b, NS_PER_S);
    f_find(&b.f, "c-0")->state = KUBELET_EXITED;
    kubelet_runtime_changed(b.k);
    run_for(&b, NS_PER_S);
    ASSERT_STREQ("Succeeded", json_str_at(kl_status_of(p, d), "phase"));
    ASSERT_STREQ("sandbox create:i-0 create:c-0 sandbox-stop ", b.f.log);
    bench_stop(&b);
}

TEST(kubelet, a_failed_init_container_fails_the_pod) {
    struct bench b;
    bench_start(&b);
    struct kl_pod *p = add_pod(&b, "Never");
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    run_for(&b, NS_PER_S);
    f_find(&b.f, "i-0")->state = KUBELET_EXITED;
    f_find(&b.f, "i-0")->exit_code = 7;
    kubelet_runtime_changed(b.k);
    run_for(&b, NS_PER_S);
    ASSERT_STREQ("Failed", json_str_at(kl_status_of(p, d), "phase"));
    ASSERT_NULL(f_find(&b.f, "c-0"));
    bench_stop(&b);
}

TEST(kubelet, a_dead_sandbox_is_replaced_and_a_gone_pod_removed) {
    struct bench b;
    bench_start(&b);
    struct kl_pod *p = add_pod(&b, "Always");
    run_for(&b, NS_PER_S);
    f_find(&b.f, "i-0")->state = KUBELET_EXITED;
    kubelet_runtime_changed(b.k);
    run_for(&b, NS_PER_S);
    f_find(&b.f, "c-0")->state = KUBELET_EXITED;
    b.f.ready = false;
    kubelet_runtime_changed(b.k);
    run_for(&b, NS_PER_S);
    ASSERT_STREQ("sandbox create:i-0 create:c-0 sandbox-remove sandbox create:i-1 ", b.f.log);
    p->is_gone = true;
    kl_sync_soon(p);
    run_for(&b, 5 * NS_PER_S);
    ASSERT_EQ(0, b.k->pods.n);
    ASSERT_EQ(0, b.f.n_ctrs);
    ASSERT(!b.f.has_sandbox);
    bench_stop(&b);
}

static struct kl_pod *add_text(struct bench *b, const char *text) {
    AUTO(json_docp) struct json_doc *d = NULL;
    struct err e = ERR_INIT;
    ASSERT_OK(json_parse(span_str(text), 0, &d, &e), &e);
    kl_pod_seen(b->k, NULL, json_root(d));
    return map_get_str(&b->k->pods, "u1");
}

#define HOOKED(policy, hooks)                                               \
    "{\"metadata\":{\"name\":\"p\",\"namespace\":\"d\",\"uid\":\"u1\"},"    \
    "\"spec\":{\"restartPolicy\":\"" policy "\",\"nodeName\":\"n\","        \
    "\"terminationGracePeriodSeconds\":30,\"containers\":[{\"name\":\"c\"," \
    "\"image\":\"x\",\"lifecycle\":{" hooks "}}]}}"

static void delete_pod(struct kl_pod *p) {
    json_set_str(p->doc, json_get(p->obj, "metadata"), "deletionTimestamp", "2026-01-01T00:00:00Z");
    kl_sync_soon(p);
}

TEST(kubelet, hooks_run_after_the_start_and_before_the_end) {
    struct bench b;
    bench_start(&b);
    struct kl_pod *p =
        add_text(&b, HOOKED("Always", "\"postStart\":{\"exec\":{\"command\":[\"up\"]}},"
                                      "\"preStop\":{\"exec\":{\"command\":[\"down\"]}}"));
    run_for(&b, NS_PER_S);
    ASSERT_STREQ("sandbox create:c-0 exec:c-0:up ", b.f.log);
    ASSERT(kl_ctr_find(p, "c")->is_ready);
    delete_pod(p);
    run_for(&b, NS_PER_S);
    ASSERT_STREQ(
        "sandbox create:c-0 exec:c-0:up exec:c-0:down stop:29 sandbox-stop sandbox-remove ",
        b.f.log);
    bench_stop(&b);
}

TEST(kubelet, a_container_whose_post_start_hook_fails_is_stopped_and_tried_again) {
    struct bench b;
    bench_start(&b);
    b.f.exec_exit = 3;
    struct kl_pod *p =
        add_text(&b, HOOKED("Always", "\"postStart\":{\"exec\":{\"command\":[\"up\"]}}"));
    run_for(&b, 2 * NS_PER_S);
    ASSERT_STREQ("sandbox create:c-0 exec:c-0:up stop:30 create:c-1 exec:c-1:up stop:30 ", b.f.log);
    ASSERT(!kl_ctr_find(p, "c")->is_ready);
    bench_stop(&b);
}

TEST(kubelet, a_hook_may_take_all_of_the_grace_period_and_no_more) {
    struct bench b;
    bench_start(&b);
    struct kl_pod *p = add_text(&b, HOOKED("Always", "\"preStop\":{\"sleep\":{\"seconds\":3000}}"));
    run_for(&b, NS_PER_S);
    delete_pod(p);
    run_for(&b, 29 * NS_PER_S);
    ASSERT_STREQ("sandbox create:c-0 ", b.f.log);
    run_for(&b, 2 * NS_PER_S);
    ASSERT_STREQ("sandbox create:c-0 stop:2 sandbox-stop sandbox-remove ", b.f.log);
    bench_stop(&b);
}

TEST(kubelet, a_hook_under_way_ends_with_the_kubelet) {
    struct bench b;
    bench_start(&b);
    struct kl_pod *p =
        add_text(&b, HOOKED("Always", "\"postStart\":{\"sleep\":{\"seconds\":100}}"));
    run_for(&b, NS_PER_S);
    ASSERT(kl_ctr_find(p, "c")->hook && !kl_ctr_find(p, "c")->is_ready);
    bench_stop(&b);
}

TEST(kubelet, hooks_that_cannot_be_had_fail_with_their_reason) {
    struct bench b;
    bench_start(&b);
    add_text(&b, HOOKED("Never", "\"postStart\":{\"tcpSocket\":{\"port\":1}}"));
    run_for(&b, 2 * NS_PER_S);
    ASSERT_STREQ("sandbox create:c-0 stop:30 sandbox-stop ", b.f.log);
    bench_stop(&b);
}

/* ---- the node ---- */

/* An API server that is starting until starts_ns, and then lacks what it is asked for and takes what it is given. */
struct starting {
    struct loop *l;
    uint64_t starts_ns, created_ns;
    unsigned refused;
};

static void on_api(struct http_req *r, void *ctx) {
    struct starting *s = ctx;
    bool is_post = span_eq_str(http_req_method(r), "POST");
    if (loop_now(s->l) < s->starts_ns) {
        s->refused++;
        http_respond(r, 503, "application/json", NULL, 0, SPAN_LIT("{\"kind\":\"Status\"}"));
    } else if (is_post) {
        bool first = !s->created_ns && span_ends(http_req_path(r), "/nodes");
        s->created_ns = first ? loop_now(s->l) : s->created_ns;
        http_respond(r, 201, "application/json", NULL, 0, SPAN_LIT("{}"));
    } else {
        http_respond(r, 404, "application/json", NULL, 0, SPAN_LIT("{\"kind\":\"Status\"}"));
    }
}

TEST(kubelet, the_node_is_registered_soon_after_the_server_started) {
    struct bench b;
    struct err e = ERR_INIT;
    bench_start(&b);
    AUTO_FREE char *path = str_fmt("%s/api.sock", b.dir);
    AUTO_FREE char *url = str_fmt("unix://%s", path);
    struct starting s = {.l = b.f.l, .starts_ns = loop_now(b.f.l) + 100 * NS_PER_MS};
    const struct http_server_opts so = {.handler = {on_api, &s}, .h2c = true, .name = "api"};
    const struct kclient_opts ko = {.server = url};
    struct http_server *server;
    ASSERT_OK(http_server_new(b.f.l, &so, &server, &e), &e);
    int fd = sys_listen_unix(path, 0600, &e);
    ASSERT(fd >= 0);
    ASSERT_OK(http_server_listen(server, fd, &e), &e);
    kclient_free(b.client);
    ASSERT_OK(kclient_new(b.f.l, &ko, &b.client, &e), &e);
    b.k->c = b.client;
    kubelet_set_tags(b.k, NULL, NULL);
    ASSERT_OK(kl_node_start(b.k, &e), &e);
    run_for(&b, NS_PER_S);
    ASSERT(s.refused > 0);
    ASSERT(s.created_ns >= s.starts_ns && s.created_ns < s.starts_ns + 200 * NS_PER_MS);
    /* One that stays away is not hammered: every two seconds by the node and by its Lease, and the informer's list. */
    s.starts_ns = UINT64_MAX;
    b.k->is_registered = false;
    kl_node_refresh(b.k);
    run_for(&b, 30 * NS_PER_S);
    s.refused = 0;
    run_for(&b, 60 * NS_PER_S);
    ASSERT(s.refused >= 40 && s.refused <= 75);
    http_server_free(server);
    bench_stop(&b);
}

/* As the watch would. */
static struct kl_pod *add_pod(struct bench *b, const char *policy) {
    AUTO(buf) struct buf text = BUF_INIT(4096);
    const char *at = strstr(pod_text, "%s");
    buf_add(&text, pod_text, (size_t)(at - pod_text));
    buf_str(&text, policy);
    buf_str(&text, at + 2);
    return add_text(b, buf_cstr(&text));
}
