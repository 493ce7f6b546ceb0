/* The runtime of hosts before a supervisor that is played here. */
#include "internal/hostlet/hostlet.h"

#include "internal/base/rand.h"
#include "internal/kubelet/kubelet.h"
#include "internal/log/log.h"
#include "internal/sys/sys.h"
#include "internal/t/t.h"

#include <stdlib.h>
#include <unistd.h>

struct bench {
    struct loop *l;
    struct ipc *super; /* the supervisor's end */
    struct kclient *client;
    struct hostlet *h;
    char dir[64];
    char asked[512];       /* what the supervisor was asked, in order */
    const char *items;     /* what runs, when it is asked */
    int log_w;             /* the write end of the adopted log */
    unsigned refuse_stops; /* that many SUPER_STOP fail */
    /* the last answer */
    int rc, answers, state, exit_code;
    size_t n_sandboxes, n_containers;
    char id[128], why[256];
};

static void on_super(struct ipc *c, struct ipc_msg *m, void *ctx) {
    struct bench *b = ctx;
    struct err e = ERR_INIT, no = ERR_INIT;
    size_t n = strlen(b->asked);
    int fd = -1, pipes[2];
    struct span body = SPAN_LIT("{}");
    IGNORE_ERR(str_put(b->asked + n, sizeof(b->asked) - n, "%u:%.*s ", m->type, SPAN_FMT(m->body)),
               "cut");
    if (m->type == SUPER_LIST) {
        body = span_str(b->items);
    } else if (m->type == SUPER_ADOPT) {
        ASSERT_EQ(0, pipe(pipes));
        fd = pipes[0];
        b->log_w = pipes[1];
    } else if (m->type == SUPER_STOP && b->refuse_stops) {
        b->refuse_stops--;
        err_set(&no, ERR_IO, "it does not stop");
        ASSERT_OK(ipc_reply_err(c, m->id, &no, &e), &e);
        return;
    }
    ASSERT_OK(ipc_reply(c, m->id, body, fd, &e), &e);
}

static void on_close(struct ipc *c, void *ctx) {
    (void)c, (void)ctx;
}

static void bench_start(struct bench *b, const char *items) {
    struct err e = ERR_INIT;
    int fds[2];
    *b = (struct bench){.items = items, .log_w = -1};
    log_init("test", LOG_LVL_ERROR, false);
    IGNORE_ERR(str_put(b->dir, sizeof(b->dir), "/tmp/kf-hostlet-XXXXXX"), "fits");
    ASSERT(mkdtemp(b->dir));
    ASSERT_OK(loop_new(&b->l, &e), &e);
    ASSERT_OK(ipc_pair(fds, &e), &e);
    const struct ipc_handler h = {on_super, on_close, b};
    ASSERT_OK(ipc_new(b->l, fds[0], &h, &b->super, &e), &e);
    const struct kclient_opts ko = {.server = "unix:///nonexistent/kf.sock"};
    ASSERT_OK(kclient_new(b->l, &ko, &b->client, &e), &e);
    const struct hostlet_opts o = {.client = b->client, .own_super_fd = fds[1], .log_dir = b->dir};
    ASSERT_OK(hostlet_new(b->l, &o, &b->h, &e), &e);
}

static void bench_stop(struct bench *b) {
    struct err e = ERR_INIT;
    kclient_free(b->client);
    hostlet_free(b->h);
    ipc_free(b->super);
    sys_close(b->log_w);
    loop_free(b->l);
    ASSERT_OK(sys_rmtree(AT_FDCWD, b->dir, &e), &e);
}

static void took(struct bench *b, int rc, const struct err *e) {
    b->rc = rc;
    IGNORE_ERR(str_put(b->why, sizeof(b->why), "%s", rc < 0 ? e->msg : ""), "cut");
    b->answers++;
}
static void on_done(void *ctx, int rc, const struct err *e) {
    took(ctx, rc, e);
}
static void on_id(void *ctx, int rc, const char *id, const struct err *e) {
    struct bench *b = ctx;
    IGNORE_ERR(str_put(b->id, sizeof(b->id), "%s", rc < 0 ? "" : id), "fits");
    took(b, rc, e);
}
static void on_list(void *ctx, int rc, const struct kubelet_snapshot *s, const struct err *e) {
    struct bench *b = ctx;
    ASSERT_EQ(0, rc);
    b->n_sandboxes = s->n_sandboxes;
    b->n_containers = s->n_containers;
    if (s->n_containers) {
        b->state = (int)s->containers[0].state;
        b->exit_code = s->containers[0].exit_code;
        ASSERT_STREQ("ns_p_u_0", s->containers[0].sandbox_id);
        ASSERT_STREQ("c", s->containers[0].name);
    }
    took(b, rc, e);
}

/* Until one more answer is there: it may not come before the call has returned. */
static void answer(struct bench *b, int before) {
    struct err e = ERR_INIT;
    ASSERT_EQ(before, b->answers);
    uint64_t end = loop_now(b->l) + 10 * NS_PER_S;
    while (b->answers == before && loop_now(b->l) < end) {
        ASSERT_OK(loop_step(b->l, 20 * NS_PER_MS, &e), &e);
    }
    ASSERT_EQ(before + 1, b->answers);
}

static void list(struct bench *b) {
    int n = b->answers;
    hostlet_ops.list(b->h, on_list, b);
    answer(b, n);
}

static void create(struct bench *b, const char *sandbox, const char *image, const char *labels) {
    AUTO(json_docp) struct json_doc *d = NULL;
    AUTO(buf) struct buf text = BUF_INIT(1024);
    struct err e = ERR_INIT;
    static const char *const args[] = {"apiserver", "--x=1"};
    buf_fmt(&text, "{\"metadata\":{\"labels\":%s}}", labels);
    ASSERT_OK(json_parse(buf_view(&text), 0, &d, &e), &e);
    const struct kubelet_sandbox s = {.pod = json_root(d)};
    const struct kubelet_container c = {.name = "c", .image = image, .args = args, .n_args = 2};
    int n = b->answers;
    hostlet_ops.container_create(b->h, sandbox, &s, &c, on_id, b);
    answer(b, n);
}

#define TENANT "{\"kfarm.dev/tenant\":\"a\"}"

TEST(hostlet, what_is_no_role_of_a_tenant_is_refused) {
    struct bench b;
    bench_start(&b, "{\"items\":[]}");
    create(&b, "ns_p_u_0", "nginx", TENANT);
    ASSERT_ERR(-ERR_UNSUPPORTED, b.rc);
    create(&b, "ns_p_u_0", "kfarm", "{}");
    ASSERT_ERR(-ERR_FORBIDDEN, b.rc);
    create(&b, "no id", "kfarm", TENANT);
    ASSERT_ERR(-ERR_LIMIT, b.rc);
    list(&b);
    ASSERT_EQ(0, b.n_containers);
    create(&b, "ns_p_u_0", "kfarm", TENANT);
    ASSERT_EQ(0, b.rc);
    ASSERT_STREQ("ns_p_u_0_c_0", b.id);
    create(&b, "ns_p_u_0", "kfarm", TENANT); /* asked again */
    list(&b);
    ASSERT_EQ(1, b.n_containers);
    ASSERT_EQ(KUBELET_CREATED, b.state);
    bench_stop(&b);
}

TEST(hostlet, a_start_that_cannot_be_is_an_end) {
    struct bench b;
    bench_start(&b, "{\"items\":[]}");
    create(&b, "ns_p_u_0", "kfarm", TENANT);
    int n = b.answers;
    hostlet_ops.container_start(b.h, "ns_p_u_0_c_0", on_done, &b); /* the API server is away */
    answer(&b, n);
    ASSERT(b.rc < 0);
    list(&b);
    ASSERT_EQ(KUBELET_EXITED, b.state);
    ASSERT_EQ(128, b.exit_code);
    ASSERT_STREQ("3:{} ", b.asked); /* nothing was run */
    n = b.answers;
    hostlet_ops.container_start(b.h, "ns_p_u_0_c_0", on_done, &b);
    answer(&b, n);
    ASSERT_ERR(-ERR_NOT_FOUND, b.rc);
    bench_stop(&b);
}

TEST(hostlet, what_runs_is_taken_over_with_its_log) {
    struct bench b;
    bench_start(
        &b,
        "{\"items\":[{\"id\":\"ns_p_u_0_c_3\"},{\"id\":\"garbage\"},{\"id\":\"ns_p_u_0_c_x\"}]}");
    list(&b);
    ASSERT_EQ(1, b.n_containers);
    ASSERT_EQ(1, b.n_sandboxes);
    ASSERT_EQ(KUBELET_RUNNING, b.state);
    struct err e = ERR_INIT;
    while (b.log_w < 0) {
        ASSERT_OK(loop_step(b.l, 20 * NS_PER_MS, &e), &e);
    }
    ASSERT_OK(sys_write_all(b.log_w, SPAN_LIT("one\ntwo"), &e), &e);
    sys_close(TAKE_FD(b.log_w));
    AUTO_FREE char *path = str_fmt("%s/ns_p_u/c/3.log", b.dir);
    AUTO(buf) struct buf log = BUF_INIT(4096);
    for (int i = 0; i < 500 && !strstr(buf_cstr(&log), "two"); i++) {
        ASSERT_OK(loop_step(b.l, 20 * NS_PER_MS, &e), &e);
        buf_reset(&log);
        IGNORE_ERR(sys_file_read(AT_FDCWD, path, &log, NULL), "not there yet");
    }
    ASSERT(strstr(buf_cstr(&log), " stderr F one\n") && strstr(buf_cstr(&log), " stderr F two\n"));
    ASSERT_OK(ipc_send(b.super, SUPER_EXITED, SPAN_LIT("{\"id\":\"ns_p_u_0_c_3\",\"exitCode\":7}"),
                       -1, &e),
              &e);
    ASSERT_OK(ipc_send(b.super, SUPER_EXITED, SPAN_LIT("{\"id\":\"ns_other_u_0_c_3\"}"), -1, &e),
              &e);
    for (int i = 0; i < 500 && b.state == KUBELET_RUNNING; i++) {
        list(&b);
    }
    ASSERT_EQ(KUBELET_EXITED, b.state);
    ASSERT_EQ(7, b.exit_code);
    bench_stop(&b);
}

TEST(hostlet, a_sandbox_is_stopped_when_all_of_it_is) {
    struct bench b;
    bench_start(&b, "{\"items\":[{\"id\":\"ns_p_u_0_c_0\"},{\"id\":\"ns_p_u_0_c_1\"}]}");
    list(&b);
    b.refuse_stops = 1; /* the first of two */
    int n = b.answers;
    hostlet_ops.sandbox_stop(b.h, "ns_p_u_0", on_done, &b);
    answer(&b, n);
    ASSERT_ERR(-ERR_IO, b.rc);
    ASSERT(strstr(b.why, "it does not stop"));
    n = b.answers;
    hostlet_ops.sandbox_stop(b.h, "ns_p_u_0", on_done, &b);
    answer(&b, n);
    ASSERT_EQ(0, b.rc);
    /* What is gone already is stopped and removed as well. */
    n = b.answers;
    hostlet_ops.sandbox_remove(b.h, "ns_gone_u_0", on_done, &b);
    answer(&b, n);
    ASSERT_EQ(0, b.rc);
    bench_stop(&b);
}
