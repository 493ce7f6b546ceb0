#include "internal/keyd/keyd.h"

#include "internal/base/rand.h"
#include "internal/keyclient/keyclient.h"
#include "internal/log/log.h"
#include "internal/pki/pki.h"
#include "internal/sys/sys.h"
#include "internal/t/t.h"

#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

/* keyd in a process of its own, as in real life: the test holds the supervisor's end. */
struct rig {
    char dir[32];
    int ctl;
    struct loop *l;
    struct ipc *sup;
    pid_t pid;
};

static void on_msg(struct ipc *c, struct ipc_msg *m, void *ctx) {
    (void)c;
    (void)m;
    (void)ctx;
}
static void on_close(struct ipc *c, void *ctx) {
    (void)c;
    (void)ctx;
}

static void rig_up(struct rig *r) {
    struct err e = ERR_INIT;
    int pair[2];
    const struct ipc_handler h = {on_msg, on_close, NULL};
    if (!r->dir[0]) {
        (void)str_put(r->dir, sizeof(r->dir), "/tmp/kf-keyd-XXXXXX");
        ASSERT(mkdtemp(r->dir) != NULL);
    }
    ASSERT_OK(ipc_pair(pair, &e), &e);
    r->pid = fork();
    if (r->pid == 0) {
        struct loop *l;
        struct err ce = ERR_INIT;
        close(pair[0]);
        log_init("keyd", LOG_LVL_ERROR, false);
        int rc =
            loop_new(&l, &ce) < 0 ? 1 : keyd_run(l, sys_open_dir(r->dir, &ce), pair[1], -1, &ce);
        _exit(rc ? 1 : 0);
    }
    close(pair[1]);
    ASSERT_OK(loop_new(&r->l, &e), &e);
    ASSERT_OK(ipc_new(r->l, pair[0], &h, &r->sup, &e), &e);
}

static int channel(struct rig *r, const char *grant) {
    struct err e = ERR_INIT;
    int pair[2];
    ASSERT_OK(ipc_pair(pair, &e), &e);
    ASSERT_OK(ipc_send(r->sup, KEYD_GRANT, span_str(grant), pair[0], &e), &e);
    return pair[1];
}

static void rig_down(struct rig *r, bool remove) {
    int st;
    struct err e = ERR_INIT;
    ipc_free(r->sup);
    loop_free(r->l);
    ASSERT_EQ(r->pid, waitpid(r->pid, &st, 0));
    ASSERT_EQ(0, st);
    if (remove) {
        ASSERT_OK(sys_rmtree(AT_FDCWD, r->dir, &e), &e);
    }
}

static int issue(int fd, const char *scope, const char *profile, const char *cn,
                 struct key_identity *id, struct err *e) {
    const struct key_req q = {.scope = scope, .profile = profile, .cn = cn};
    key_identity_init(id);
    return key_issue_sync(fd, &q, id, e);
}

TEST(keyd, issues_what_the_grant_allows) {
    struct rig r = {{0}, -1, NULL, NULL, 0};
    struct err e = ERR_INIT;
    struct key_identity id;
    struct pki_info info;
    rig_up(&r);
    int fd = channel(
        &r,
        "{\"scope\":\"admin\",\"profiles\":[\"component\",\"admin\"],\"names\":[\"system:x\"]}");
    ASSERT_OK(issue(fd, "admin", KEY_COMPONENT, "system:x", &id, &e), &e);
    ASSERT_OK(
        pki_verify(buf_view(&id.cert_pem), buf_view(&id.ca_pem), clock_wall_ns() / NS_PER_S, &e),
        &e);
    ASSERT_OK(pki_cert_parse(buf_view(&id.cert_pem), &info, &e), &e);
    ASSERT_STREQ("system:x", info.subject.cn);
    ASSERT_EQ(0, info.subject.n_orgs);
    pki_info_fini(&info);
    key_identity_fini(&id);
    ASSERT_OK(issue(fd, "admin", KEY_ADMIN, NULL, &id, &e), &e);
    ASSERT_OK(pki_cert_parse(buf_view(&id.cert_pem), &info, &e), &e);
    ASSERT_STREQ("kubernetes-admin", info.subject.cn);
    ASSERT_STREQ("system:masters", info.subject.orgs[0]);
    pki_info_fini(&info);
    key_identity_fini(&id);
    close(fd);
    rig_down(&r, true);
}

TEST(keyd, refuses_what_it_does_not) {
    struct rig r = {{0}, -1, NULL, NULL, 0};
    struct err e = ERR_INIT;
    struct key_identity id;
    rig_up(&r);
    int fd =
        channel(&r, "{\"scope\":\"admin\",\"profiles\":[\"component\"],\"names\":[\"system:x\"]}");
    static const struct {
        const char *scope, *profile, *cn;
    } bad[] = {
        {"admin", KEY_COMPONENT, "system:y"},
        {"admin", KEY_ADMIN, NULL},
        {"admin", KEY_CSR, NULL},
        {"tenant-1", KEY_COMPONENT, "system:x"},
        {"../admin", KEY_COMPONENT, "system:x"},
        {"admin", "nope", NULL},
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        ASSERT_ERR(-ERR_FORBIDDEN, issue(fd, bad[i].scope, bad[i].profile, bad[i].cn, &id, &e));
        key_identity_fini(&id);
        err_reset(&e);
    }
    AUTO(json_docp) struct json_doc *q = NULL;
    AUTO(json_docp) struct json_doc *a = NULL;
    ASSERT_OK(json_parse(SPAN_LIT("{\"scope\":\"admin\",\"claims\":{\"sub\":\"x\"}}"), 0, &q, &e),
              &e);
    ASSERT_ERR(-ERR_FORBIDDEN, key_call_sync(fd, KEYD_TOKEN, json_root(q), &a, &e));
    err_reset(&e);
    ASSERT_ERR(-ERR_FORBIDDEN, key_call_sync(fd, KEYD_DELETE, json_root(q), &a, &e));
    close(fd);
    rig_down(&r, true);
}

TEST(keyd, scopes_come_and_go_and_survive_a_restart) {
    struct rig r = {{0}, -1, NULL, NULL, 0};
    struct err e = ERR_INIT;
    struct key_identity one, two;
    AUTO(json_docp) struct json_doc *q = NULL;
    AUTO(json_docp) struct json_doc *a = NULL;
    const char *grant = "{\"scope\":\"*\",\"profiles\":[\"admin\"],\"manage\":true}";
    ASSERT_OK(json_parse(SPAN_LIT("{\"scope\":\"t-1\"}"), 0, &q, &e), &e);
    rig_up(&r);
    int fd = channel(&r, grant);
    ASSERT_ERR(-ERR_NOT_FOUND, issue(fd, "t-1", KEY_ADMIN, NULL, &one, &e));
    key_identity_fini(&one);
    err_reset(&e);
    ASSERT_OK(key_call_sync(fd, KEYD_CREATE, json_root(q), &a, &e), &e);
    ASSERT_OK(issue(fd, "t-1", KEY_ADMIN, NULL, &one, &e), &e);
    close(fd);
    rig_down(&r, false);
    rig_up(&r);
    fd = channel(&r, grant);
    ASSERT_OK(issue(fd, "t-1", KEY_ADMIN, NULL, &two, &e), &e);
    ASSERT(span_eq(buf_view(&one.ca_pem), buf_view(&two.ca_pem)));
    key_identity_fini(&two);
    ASSERT_OK(issue(fd, "admin", KEY_ADMIN, NULL, &two, &e), &e);
    ASSERT(!span_eq(buf_view(&one.ca_pem), buf_view(&two.ca_pem)));
    ASSERT(pki_verify(buf_view(&one.cert_pem), buf_view(&two.ca_pem), clock_wall_ns() / NS_PER_S,
                      &e) < 0);
    err_reset(&e);
    json_doc_free(TAKE(a));
    ASSERT_OK(key_call_sync(fd, KEYD_DELETE, json_root(q), &a, &e), &e);
    key_identity_fini(&two);
    ASSERT_ERR(-ERR_NOT_FOUND, issue(fd, "t-1", KEY_ADMIN, NULL, &two, &e));
    key_identity_fini(&one);
    key_identity_fini(&two);
    close(fd);
    rig_down(&r, true);
}
