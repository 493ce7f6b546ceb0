#include "internal/agent/agent_int.h"
#include "internal/base/rand.h"
#include "internal/sys/sys.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define NODE_DIR AGENT_RUN "/node"
#define TAGS_FILE NODE_DIR "/tags.json"
#define IMAGES_DIR "/usr/share/kfarm/images"
#define CTRD_DIR "/run/containerd"
#define CTRD_SOCKET CTRD_DIR "/containerd.sock"

enum { STOP_S = 8, IMPORT_RETRY_S = 2 };

struct node {
    struct loop *l;
    struct arena mem;
    struct json_doc *notes;
    const struct json *doc;
    struct agent_dhcp dhcp;
    struct agent_svc containerd, kubelet, proxy, ssh;
    struct agent_join *join;
    struct loop_signal signals;
    struct loop_io watch; /* for containerd's socket */
    int watch_fd;
    struct loop_timer stop_timer, import_timer;
    unsigned power;
    char ip[16];
    bool is_joined, has_images, has_kubelet;
};

/* ---- end ---- */

static void on_stop_deadline(struct loop_timer *t) {
    struct node *n = CONTAINER_OF(t, struct node, stop_timer);
    agent_power(n->power);
}

static bool is_running(const struct agent_svc *s) {
    return s->pid > 0;
}

static void stopped(struct agent_svc *s, int exit_code, int sig, void *ctx) {
    struct node *n = ctx;
    (void)exit_code;
    (void)sig;
    if (s == &n->kubelet && s->stopping) {
        agent_svc_stop(&n->containerd, SIGTERM);
    }
    if (n->power && !is_running(&n->kubelet) && !is_running(&n->proxy) &&
        !is_running(&n->containerd)) {
        agent_power(n->power);
    }
}

static void shut_down(struct node *n, unsigned how, const char *why) {
    if (n->power) {
        return;
    }
    agent_say("%s: stopping", why);
    n->power = how;
    loop_timer_start(n->l, &n->stop_timer, STOP_S * NS_PER_S, on_stop_deadline, "shutdown");
    agent_svc_stop(&n->proxy, SIGTERM);
    agent_svc_stop(&n->kubelet, SIGTERM);
    if (!is_running(&n->kubelet)) {
        agent_svc_stop(&n->containerd, SIGTERM);
        if (!is_running(&n->containerd)) {
            agent_power(how);
        }
    }
}

/* Orphans are ours as PID 1; our own children belong to their pidfds. */
static void reap(struct node *n) {
    const struct agent_svc *own[] = {&n->containerd, &n->kubelet, &n->proxy, &n->ssh};
    for (;;) {
        siginfo_t si = {0};
        if (waitid(P_ALL, 0, &si, WEXITED | WNOHANG | WNOWAIT) < 0 || si.si_pid == 0) {
            return;
        }
        for (size_t i = 0; i < ARRAY_LEN(own); i++) {
            if (own[i]->pid == si.si_pid) {
                return; /* its handler runs in this turn of the loop; SIGCHLD of others comes again */
            }
        }
        waitid(P_PID, (id_t)si.si_pid, &si, WEXITED | WNOHANG);
    }
}

/* The signals of busybox's reboot, poweroff and halt, and of Ctrl-Alt-Del. */
static void on_signal(struct loop_signal *s, int signo) {
    struct node *n = CONTAINER_OF(s, struct node, signals);
    switch (signo) {
    case SIGCHLD: reap(n); break;
    case SIGTERM:
    case SIGINT: shut_down(n, RB_AUTOBOOT, "reboot"); break;
    case SIGUSR2:
    case SIGPWR: shut_down(n, RB_POWER_OFF, "power off"); break;
    case SIGUSR1: shut_down(n, RB_HALT_SYSTEM, "halt"); break;
    default: break;
    }
}

static int signals(struct node *n, struct err *e) {
    static const int wanted[] = {SIGCHLD, SIGTERM, SIGINT, SIGUSR1, SIGUSR2, SIGPWR};
    sigset_t set;
    sigemptyset(&set);
    for (size_t i = 0; i < ARRAY_LEN(wanted); i++) {
        sigaddset(&set, wanted[i]);
    }
    if (getpid() == 1) {
        reboot(RB_DISABLE_CAD); /* Ctrl-Alt-Del becomes SIGINT */
    }
    return loop_signal_start(n->l, &n->signals, &set, on_signal, e);
}

/* ---- containers ---- */

static void args(struct agent_svc *s, const char *const *v, size_t n) {
    for (size_t i = 0; i < n && i < AGENT_ARGV - 1; i++) {
        s->argv[i] = v[i];
    }
}

static void start_kubelet(struct node *n);

static void import_images(struct node *n);

static void on_import_retry(struct loop_timer *t) {
    import_images(CONTAINER_OF(t, struct node, import_timer));
}

static void on_imported(void *ctx, int rc, size_t n_images, const struct err *e) {
    struct node *n = ctx;
    if (rc < 0) {
        agent_say("container images: %s; again in %d s", e->msg, IMPORT_RETRY_S);
        loop_timer_start(n->l, &n->import_timer, IMPORT_RETRY_S * NS_PER_S, on_import_retry,
                         "import retry");
        return;
    }
    agent_say("containerd: has %zu preloaded images", n_images);
    n->has_images = true;
    start_kubelet(n);
}

static void import_images(struct node *n) {
    struct err e = ERR_INIT;
    if (agent_import_start(n->l, CTRD_SOCKET, IMAGES_DIR, on_imported, n, &e) < 0) {
        on_imported(n, -(int)e.code, 0, &e);
    }
}

static bool socket_is_there(void) {
    struct stat st;
    return stat(CTRD_SOCKET, &st) == 0;
}

static void on_watch(struct loop_io *io, uint32_t events) {
    struct node *n = CONTAINER_OF(io, struct node, watch);
    uint8_t raw[4096];
    (void)events;
    if (read(n->watch_fd, raw, sizeof(raw)) > 0 && socket_is_there()) {
        loop_io_stop(&n->watch);
        auto_fd_(&n->watch_fd);
        n->watch_fd = -1;
        agent_say("containerd: is up");
        import_images(n);
    }
}

/* containerd makes its socket when it is ready; the folder is watched, nobody asks again and again. */
static int start_containerd(struct node *n, struct err *e) {
    static const char *const v[] = {"/usr/bin/containerd"};
    if (sys_mkdirs(CTRD_DIR, 0711, e) < 0) {
        return -(int)e->code;
    }
    n->watch_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (n->watch_fd < 0 || inotify_add_watch(n->watch_fd, CTRD_DIR, IN_CREATE | IN_MOVED_TO) < 0) {
        return err_sys(e, errno, "watching %s", CTRD_DIR);
    }
    if (loop_io_start(n->l, &n->watch, n->watch_fd, LOOP_READ, on_watch, "containerd socket", e) <
        0) {
        return -(int)e->code;
    }
    n->containerd.name = "containerd";
    n->containerd.on_exit = stopped;
    n->containerd.ctx = n;
    args(&n->containerd, v, ARRAY_LEN(v));
    agent_svc_start(n->l, &n->containerd);
    return 0;
}

/* ---- kubelet and proxy ---- */

static const char *doc_str(const struct node *n, const char *key) {
    return json_str_or(json_get(n->doc, key), "");
}

static void start_kubelet(struct node *n) {
    const struct json *tenant = json_get(n->doc, "tenant");
    if (!n->is_joined || !n->has_images || n->has_kubelet || n->power) {
        return;
    }
    n->has_kubelet = true;
    const char *server =
                   arena_fmt(&n->mem, "--server=%s", json_str_or(json_get(tenant, "server"), "")),
               *sni = arena_fmt(&n->mem, "--server-name=%s",
                                json_str_or(json_get(tenant, "serverName"), "")),
               *name = arena_fmt(&n->mem, "--node-name=%s", doc_str(n, "hostname")),
               *ip = arena_fmt(&n->mem, "--node-ip=%s", n->ip),
               *dns = arena_fmt(&n->mem, "--cluster-dns=%s", doc_str(n, "clusterDNS")),
               *domain = arena_fmt(&n->mem, "--cluster-domain=%s",
                                   json_str_or(json_get(n->doc, "clusterDomain"), "cluster.local")),
               *cidr = arena_fmt(&n->mem, "--pod-cidr=%s", doc_str(n, "podCIDR")),
               *cluster_cidr = arena_fmt(&n->mem, "--cluster-cidr=%s", doc_str(n, "clusterCIDR"));
    const char *const kubelet[] = {
        "/usr/bin/kfarm",          "kubelet", server, sni,
        "--credentials=" NODE_DIR, name,      ip,     "--tags=" TAGS_FILE,
        "--runtime=" CTRD_SOCKET,  dns,       domain, cidr};
    const char *const proxy[] = {"/usr/bin/kfarm",          "proxy", server, sni,
                                 "--credentials=" NODE_DIR, name,    ip,     cluster_cidr};
    args(&n->kubelet, kubelet, ARRAY_LEN(kubelet));
    args(&n->proxy, proxy, ARRAY_LEN(proxy));
    n->kubelet.name = "kubelet";
    n->proxy.name = "proxy";
    n->kubelet.on_exit = n->proxy.on_exit = stopped;
    n->kubelet.ctx = n->proxy.ctx = n;
    agent_say("starting kubelet and proxy");
    agent_svc_start(n->l, &n->kubelet);
    agent_svc_start(n->l, &n->proxy);
}

static void on_identity(void *ctx, bool is_first) {
    struct node *n = ctx;
    n->is_joined = true;
    if (is_first) {
        start_kubelet(n);
    } else {
        agent_svc_signal(&n->kubelet, SIGHUP);
        agent_svc_signal(&n->proxy, SIGHUP);
    }
}

static void on_refused(void *ctx, const struct err *e) {
    struct node *n = ctx;
    agent_say("join refused: %s; a new boot gives a new ticket", e->msg);
    loop_timer_start(n->l, &n->stop_timer, (15 + rand_below(15)) * NS_PER_S, on_stop_deadline,
                     "reboot");
    n->power = RB_AUTOBOOT;
}

static int write_tags(struct node *n, struct err *e) {
    AUTO(buf) struct buf b = BUF_INIT(LIM_AGENT_DOC);
    const struct json *tags = json_get(n->doc, "node");
    if (tags) {
        json_write(tags, 0, &b);
    } else {
        buf_str(&b, "{}");
    }
    if (sys_mkdirs(NODE_DIR, 0700, e) < 0) {
        return -(int)e->code;
    }
    return sys_file_replace(AT_FDCWD, TAGS_FILE, buf_view(&b), 0600, e);
}

/* ---- start ---- */

static void on_lease(struct agent_dhcp *d, void *ctx) {
    struct err e = ERR_INIT;
    (void)ctx;
    if (agent_lease_apply(d, &e) < 0) {
        agent_say("network: %s", e.msg);
    }
}

static int read_notes(struct node *n, struct err *e) {
    AUTO(buf) struct buf b = BUF_INIT(LIM_AGENT_DOC + 65536);
    if (sys_file_read(AT_FDCWD, AGENT_BOOT_FILE, &b, e) < 0 ||
        json_parse(buf_view(&b), 0, &n->notes, e) < 0) {
        return -(int)e->code;
    }
    secret_wipe(b.p, b.n);
    IGNORE_ERR(unlink(AGENT_BOOT_FILE), "the ticket in it is used up soon");
    n->doc = json_get(json_root(n->notes), "document");
    return n->doc ? 0 : err_set(e, ERR_INVALID, "%s is not what stage 1 writes", AGENT_BOOT_FILE);
}

static int network(struct node *n, struct err *e) {
    const struct json *o = json_root(n->notes);
    const char *nic = json_str_at(o, "interface");
    struct agent_lease lease;
    if (!nic || agent_lease_from_json(json_get(o, "lease"), &lease) < 0) {
        return err_set(e, ERR_INVALID, "%s is not what stage 1 writes", AGENT_BOOT_FILE);
    }
    ip4_format(lease.ip, n->ip);
    n->dhcp.on_bound = on_lease;
    n->dhcp.ctx = n;
    if (agent_dhcp_resume(n->l, &n->dhcp, nic, &lease, e) < 0) {
        return -(int)e->code;
    }
    return agent_lease_apply(&n->dhcp, e); /* the resolver's file is part of the new root */
}

static void start_ssh(struct node *n) {
    static const char *const v[] = {"/usr/sbin/dropbear", "-F", "-E", "-s", "-R"};
    if (json_len(json_get(n->doc, "sshAuthorizedKeys")) == 0) {
        return;
    }
    n->ssh.name = "ssh";
    args(&n->ssh, v, ARRAY_LEN(v));
    agent_svc_start(n->l, &n->ssh);
}

int agent_stage2(struct err *e) {
    struct node *n = new_zero(struct node);
    n->mem = (struct arena)ARENA_INIT(1 << 20);
    n->watch_fd = n->dhcp.fd = -1;
    agent_say("stage 2");
    if (read_notes(n, e) < 0 || agent_host_setup(n->doc, e) < 0 || loop_new(&n->l, e) < 0 ||
        signals(n, e) < 0 || start_containerd(n, e) < 0 || network(n, e) < 0 ||
        write_tags(n, e) < 0) {
        return -(int)e->code;
    }
    start_ssh(n);
    const struct json *o = json_root(n->notes);
    const struct agent_join_opts jo = {.l = n->l,
                                       .doc = n->doc,
                                       .boot_url = json_str_or(json_get(o, "bootURL"), ""),
                                       .pin = json_str_or(json_get(o, "pin"), ""),
                                       .node_ip = n->ip,
                                       .dir = NODE_DIR,
                                       .on_identity = on_identity,
                                       .on_refused = on_refused,
                                       .ctx = n};
    if (agent_join_start(&jo, &n->join, e) < 0) {
        return -(int)e->code;
    }
    return loop_run(n->l, e);
}
