/* Processes are shells: the role's name is "-c", its first argument the script. */
#include "internal/supervisor/supervisor_int.h"

#include "internal/t/t.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

struct bench {
    struct sup s;
    struct supervisor_opts o;
    struct role_spec role;
    struct cluster c;
    char dir[64], run[80];
};

static void bench_start(struct bench *b) {
    struct err e = ERR_INIT;
    memset(b, 0, sizeof(*b));
    log_init("test", LOG_LVL_ERROR, false);
    IGNORE_ERR(str_put(b->dir, sizeof(b->dir), "/tmp/kf-super-XXXXXX"), "fits");
    ASSERT(mkdtemp(b->dir));
    IGNORE_ERR(str_put(b->run, sizeof(b->run), "%s/run", b->dir), "fits");
    b->o = (struct supervisor_opts){.data_dir = b->dir, .run_dir = b->run, .log_level = "error"};
    b->s.o = &b->o;
    ASSERT_OK(loop_new(&b->s.l, &e), &e);
    list_init(&b->s.procs);
    b->s.exe_fd = sys_open(AT_FDCWD, "/bin/sh", O_RDONLY, 0, &e);
    ASSERT(b->s.exe_fd >= 0);
    b->role.name = "-c";
    AUTO_FREE char *tenants = str_fmt("%s/tenants", b->dir);
    ASSERT_OK(sys_mkdirs(tenants, 0755, &e), &e);
}

static void bench_stop(struct bench *b) {
    struct err e = ERR_INIT;
    for (LIST_EACH(at, next, &b->s.procs)) {
        proc_free(CONTAINER_OF(at, struct proc, link));
    }
    struct map_iter it = {0};
    for (struct map_entry *en; map_next(&b->s.clusters, &it, &en);) {
        cluster_free(en->value);
    }
    map_fini(&b->s.clusters);
    sys_close(b->s.exe_fd);
    loop_free(b->s.l);
    ASSERT_OK(sys_rmtree(AT_FDCWD, b->dir, &e), &e);
}

static struct proc *start(struct bench *b, const char *script) {
    struct err e = ERR_INIT;
    struct proc *p = proc_new(&b->s, "p", &b->role, &b->c);
    proc_arg(p, "%s", script);
    ASSERT_OK(proc_start(p, &e), &e);
    return p;
}

/* Until `cond`, for at most ten seconds. */
#define WAIT(b, cond)                                                 \
    do {                                                              \
        struct err e_ = ERR_INIT;                                     \
        uint64_t end_ = loop_now((b)->s.l) + 10 * NS_PER_S;           \
        while (!(cond) && loop_now((b)->s.l) < end_) {                \
            ASSERT_OK(loop_step((b)->s.l, 20 * NS_PER_MS, &e_), &e_); \
        }                                                             \
        ASSERT(cond);                                                 \
    } while (0)

TEST(supervisor, a_role_that_ends_is_started_again_later_and_later) {
    struct bench b;
    bench_start(&b);
    struct proc *p = start(&b, "exit 3");
    WAIT(&b, p->restarts == 4);
    ASSERT_EQ(PROC_WAITING, p->state);
    ASSERT_EQ(400 * NS_PER_MS, p->backoff_ns);
    p->backoff_ns = 7 * NS_PER_S;
    p->started_ns = loop_now(b.s.l);
    loop_timer_stop(&p->timer);
    struct err e = ERR_INIT;
    ASSERT_OK(proc_start(p, &e), &e);
    WAIT(&b, p->restarts == 5);
    ASSERT_EQ(10 * NS_PER_S, p->backoff_ns); /* and no longer */
    loop_timer_stop(&p->timer);
    ASSERT_OK(proc_start(p, &e), &e);
    p->started_ns -= 31 * NS_PER_S; /* as if it had lived well */
    WAIT(&b, p->restarts == 6);
    ASSERT_EQ(50 * NS_PER_MS, p->backoff_ns);
    /* A stop while it waits: nothing comes back. */
    proc_stop(p, NS_PER_S);
    ASSERT_EQ(PROC_STOPPED, p->state);
    ASSERT(!loop_timer_active(&p->timer));
    bench_stop(&b);
}

TEST(supervisor, ready_is_what_the_role_says) {
    struct bench b;
    bench_start(&b);
    struct proc *p = start(&b, "echo >&9; exec sleep 100");
    WAIT(&b, p->is_ready);
    ASSERT(b.s.announced);
    ASSERT_OK(loop_child_signal(&p->child, SIGKILL, NULL), &(struct err)ERR_INIT);
    WAIT(&b, p->restarts == 1);
    ASSERT(!p->is_ready);
    bench_stop(&b);
}

TEST(supervisor, a_role_that_does_not_stop_is_killed) {
    struct bench b;
    bench_start(&b);
    struct proc *p = start(&b, "trap '' TERM; echo >&9; exec sleep 100");
    WAIT(&b, p->is_ready);
    b.s.stopping = true; /* else it would be started again */
    proc_stop(p, 50 * NS_PER_MS);
    proc_stop(p, 50 * NS_PER_MS); /* asked twice, stopped once */
    WAIT(&b, p->state == PROC_STOPPED);
    ASSERT_EQ(0, p->restarts);
    bench_stop(&b);
}

TEST(supervisor, scopes_are_plain_names) {
    struct bench b;
    bench_start(&b);
    static const char *const bad[] = {
        "",           "..",
        "a/b",        "A",
        "a_b",        "a b",
        "admin/../x", "0123456789012345678901234567890123456789012345678901234567890123"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct err e = ERR_INIT;
        struct cluster *c;
        ASSERT_ERR(-ERR_INVALID, cluster_open(&b.s, bad[i], &c, &e));
        err_reset(&e);
        ASSERT_ERR(-ERR_FORBIDDEN, cluster_forget(&b.s, bad[i], &e));
    }
    struct err e = ERR_INIT;
    ASSERT_ERR(-ERR_FORBIDDEN, cluster_forget(&b.s, "admin", &e));
    bench_stop(&b);
}

TEST(supervisor, a_cluster_keeps_its_user_and_goes_with_its_files) {
    if (geteuid() != 0) {
        skip();
    }
    struct bench b;
    bench_start(&b);
    struct err e = ERR_INIT;
    struct cluster *one, *two, *again;
    struct stat st;
    ASSERT_OK(cluster_open(&b.s, "one", &one, &e), &e);
    ASSERT_OK(cluster_open(&b.s, "two", &two, &e), &e);
    ASSERT_OK(cluster_open(&b.s, "one", &again, &e), &e);
    ASSERT(one == again && one->uid != two->uid && one->uid >= UID_TENANT_FIRST);
    ASSERT_EQ(0, stat(one->dir, &st));
    ASSERT_EQ(0700, st.st_mode & 07777);
    ASSERT_EQ(one->uid, st.st_uid);
    /* A supervisor that begins anew finds the user by the directory. */
    uid_t uid = two->uid;
    map_del_str(&b.s.clusters, "two");
    cluster_free(two);
    ASSERT_OK(cluster_open(&b.s, "two", &two, &e), &e);
    ASSERT_EQ(uid, two->uid);
    /* Not while something of it runs. */
    struct proc *p = proc_new(&b.s, "x", &b.role, two);
    ASSERT_ERR(-ERR_BUSY, cluster_forget(&b.s, "two", &e));
    err_reset(&e);
    proc_free(p);
    AUTO_FREE char *dir = str_dup(two->dir), *run = str_dup(two->run);
    ASSERT_OK(cluster_forget(&b.s, "two", &e), &e);
    ASSERT(access(dir, F_OK) < 0 && access(run, F_OK) < 0);
    ASSERT_OK(cluster_forget(&b.s, "two", &e), &e); /* asked again */
    bench_stop(&b);
}
