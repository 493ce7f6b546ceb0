#include "internal/base/addr.h"
#include "internal/base/rand.h"
#include "internal/kube/kube.h"
#include "internal/log/log.h"
#include "internal/netlink/netlink.h"
#include "internal/proxy/proxy.h"
#include "internal/sys/sys.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

enum { RETRY_S = 5, NFT_S = 30, LIM_OBJECTS = 1 << 16 };

struct route { /* to the pod network of another node */
    char cidr[32];
    uint32_t dst, gw;
    unsigned prefix_len;
    bool seen;
};

struct proxy {
    struct proxy_opts o;
    struct loop *l;
    struct kinformer *services, *slices, *nodes;
    struct loop_timer apply, kill;
    struct loop_child child;
    struct loop_io in, out;
    int in_fd, out_fd;
    struct buf rules, applied, said;
    size_t sent;
    bool is_running, again;
    struct route *routes;
    size_t n_routes;
};

static void on_apply(struct loop_timer *t);

static void apply_in(struct proxy *p, uint64_t ns) {
    if (!loop_timer_active(&p->apply)) {
        loop_timer_start(p->l, &p->apply, ns, on_apply, "proxy rules");
    }
}

static void on_change(void *ctx, struct json *old, struct json *cur) {
    (void)old;
    (void)cur;
    apply_in(ctx, PROXY_BATCH_MS * NS_PER_MS);
}

/* ---- routes ---- */

static int parse_cidr(const char *text, struct route *r) {
    if (cidr4_parse(span_str(text), 1, 32, &r->dst, &r->prefix_len) < 0) {
        return -ERR_INVALID;
    }
    return str_put(r->cidr, sizeof(r->cidr), "%s", text);
}

static const char *internal_ip(const struct json *node) {
    JSON_EACH(it, a, json_at(node, "status", "addresses")) {
        if (str_eq(json_str_at(a, "type"), "InternalIP")) {
            return json_str_at(a, "address");
        }
    }
    return NULL;
}

static void set_route(struct proxy *p, const struct route *want) {
    struct err e = ERR_INIT;
    for (size_t i = 0; i < p->n_routes; i++) {
        if (str_eq(p->routes[i].cidr, want->cidr)) {
            p->routes[i].seen = true;
            if (p->routes[i].gw == want->gw) {
                return;
            }
        }
    }
    if (netlink_route_set(want->dst, want->prefix_len, want->gw, 0, &e) < 0) {
        LOG_WARN("proxy", "no route to the pods of a node: it is not on this link",
                 F_STR("cidr", want->cidr), F_ERR(&e));
        return;
    }
    for (size_t i = 0; i < p->n_routes; i++) {
        if (str_eq(p->routes[i].cidr, want->cidr)) {
            p->routes[i].gw = want->gw;
            return;
        }
    }
    struct route *v = mem_array(p->routes, p->n_routes + 1, sizeof(*v), LIM_OBJECTS);
    if (v) {
        p->routes = v;
        v[p->n_routes] = *want;
        v[p->n_routes++].seen = true;
    }
}

static void routes(struct proxy *p) {
    struct map_iter it = {0};
    struct json *n;
    for (size_t i = 0; i < p->n_routes; i++) {
        p->routes[i].seen = false;
    }
    while (kinformer_next(p->nodes, &it, &n)) {
        struct route want = {.gw = 0};
        const char *cidr = json_str_at(n, "spec", "podCIDR"), *ip = internal_ip(n);
        if (!str_eq(kube_name(n), p->o.node_name) && cidr && ip && parse_cidr(cidr, &want) >= 0 &&
            ip4_parse(span_str(ip), &want.gw) == 0) {
            set_route(p, &want);
        }
    }
    for (size_t i = 0; i < p->n_routes;) {
        struct err e = ERR_INIT;
        if (p->routes[i].seen) {
            i++;
            continue;
        }
        /* ESRCH: somebody else has removed it. One that stays is known here no longer. */
        if (netlink_route_del(p->routes[i].dst, p->routes[i].prefix_len, p->routes[i].gw, &e) < 0 &&
            e.sys != ESRCH) {
            LOG_WARN("proxy", "the route to a node that left stays",
                     F_STR("cidr", p->routes[i].cidr), F_ERR(&e));
        }
        p->routes[i] = p->routes[--p->n_routes];
    }
}

/* ---- rules ---- */

static size_t gather(struct kinformer *i, const struct json ***ret) {
    size_t n = 0, cap = kinformer_count(i);
    const struct json **v = mem_array(NULL, cap + 1, sizeof(*v), LIM_OBJECTS);
    struct map_iter it = {0};
    struct json *o;
    while (v && n < cap && kinformer_next(i, &it, &o)) {
        v[n++] = o;
    }
    *ret = v;
    return n;
}

static int by_key(const void *a, const void *b) {
    const struct json *const *x = a, *const *y = b;
    int ns = strcmp(kube_namespace(*x), kube_namespace(*y));
    return ns ? ns : strcmp(kube_name(*x), kube_name(*y));
}

static int make_rules(struct proxy *p) {
    const struct json **services, **slices;
    size_t n_services = gather(p->services, &services), n_slices = gather(p->slices, &slices);
    const struct json *node = kinformer_get(p->nodes, NULL, p->o.node_name);
    int rc = -ERR_NOMEM;
    if (services && slices) {
        /* the cache has no order; without one the same state would give other rules */
        qsort(services, n_services, sizeof(*services), by_key);
        qsort(slices, n_slices, sizeof(*slices), by_key);
        const struct proxy_input in = {services,
                                       slices,
                                       n_services,
                                       n_slices,
                                       p->o.node_name,
                                       p->o.node_ip,
                                       json_str_or(json_at(node, "spec", "podCIDR"), ""),
                                       p->o.cluster_cidr};
        buf_reset(&p->rules);
        rc = proxy_rules(&in, &p->rules);
    }
    free(services);
    free(slices);
    return rc;
}

static void close_pipes(struct proxy *p) {
    loop_io_stop(&p->in);
    loop_io_stop(&p->out);
    auto_fd_(&p->in_fd);
    auto_fd_(&p->out_fd);
    p->in_fd = p->out_fd = -1;
}

static void on_said(struct loop_io *io, uint32_t events) {
    struct proxy *p = CONTAINER_OF(io, struct proxy, out);
    uint8_t raw[2048];
    (void)events;
    ssize_t n = read(p->out_fd, raw, sizeof(raw));
    if (n > 0) {
        size_t room = p->said.max - p->said.n;
        buf_add(&p->said, raw, (size_t)n < room ? (size_t)n : room);
    } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
        loop_io_stop(&p->out);
    }
}

static void on_writable(struct loop_io *io, uint32_t events) {
    struct proxy *p = CONTAINER_OF(io, struct proxy, in);
    (void)events;
    ssize_t n = write(p->in_fd, p->rules.p + p->sent, p->rules.n - p->sent);
    if (n > 0) {
        p->sent += (size_t)n;
    }
    if (p->sent == p->rules.n || (n < 0 && errno != EAGAIN && errno != EINTR)) {
        loop_io_stop(&p->in);
        auto_fd_(&p->in_fd);
        p->in_fd = -1;
    }
}

static void on_exit_cb(struct loop_child *c, int exit_code, int sig) {
    struct proxy *p = CONTAINER_OF(c, struct proxy, child);
    uint8_t raw[2048];
    ssize_t n;
    while (p->out_fd >= 0 && (n = read(p->out_fd, raw, sizeof(raw))) > 0) {
        size_t room = p->said.max - p->said.n;
        buf_add(&p->said, raw, (size_t)n < room ? (size_t)n : room);
    }
    loop_timer_stop(&p->kill);
    close_pipes(p);
    p->is_running = false;
    if (exit_code != 0 || sig != 0) {
        LOG_WARN("proxy", "nft refused the rules, trying again", F_I64("exit", exit_code),
                 F_I64("signal", sig), F_SPAN("said", buf_view(&p->said)));
        buf_reset(&p->applied);
        apply_in(p, RETRY_S * NS_PER_S);
        return;
    }
    buf_reset(&p->applied);
    buf_span(&p->applied, buf_view(&p->rules));
    if (p->again) {
        p->again = false;
        apply_in(p, 0);
    }
}

static void on_kill(struct loop_timer *t) {
    struct proxy *p = CONTAINER_OF(t, struct proxy, kill);
    struct err e = ERR_INIT;
    IGNORE_ERR(loop_child_signal(&p->child, SIGKILL, &e), "it has ended");
}

static int run_nft(struct proxy *p, struct err *e) {
    const char *const argv[] = {p->o.nft_path, "-f", "-", NULL}, *const envp[] = {
                                                                     "PATH=/usr/sbin:/usr/bin",
                                                                     NULL};
    int in[2], out[2];
    pid_t pid;
    if (pipe2(in, O_CLOEXEC) < 0) {
        return err_sys(e, errno, "pipe");
    }
    AUTO_FD int child_in = in[0];
    p->in_fd = in[1];
    if (pipe2(out, O_CLOEXEC) < 0) {
        return err_sys(e, errno, "pipe");
    }
    AUTO_FD int child_out = out[1];
    p->out_fd = out[0];
    struct sys_spawn s = SYS_SPAWN_INIT;
    s.argv = argv;
    s.envp = envp;
    s.die_with_parent = true;
    s.fds[0].from = child_in;
    s.fds[0].to = 0;
    s.fds[1].from = s.fds[2].from = child_out;
    s.fds[1].to = 1;
    s.fds[2].to = 2;
    s.n_fds = 3;
    int pidfd;
    p->sent = 0;
    buf_reset(&p->said);
    if (sys_set_nonblock(p->in_fd, e) < 0 || sys_set_nonblock(p->out_fd, e) < 0 ||
        loop_io_start(p->l, &p->out, p->out_fd, LOOP_READ, on_said, "nft output", e) < 0 ||
        loop_io_start(p->l, &p->in, p->in_fd, LOOP_WRITE, on_writable, "nft input", e) < 0 ||
        sys_spawn(&s, &pidfd, &pid, e) < 0 ||
        loop_child_start(p->l, &p->child, pidfd, on_exit_cb, e) < 0) {
        return -(int)e->code;
    }
    p->is_running = true;
    loop_timer_start(p->l, &p->kill, NFT_S * NS_PER_S, on_kill, "nft");
    return 0;
}

static void on_apply(struct loop_timer *t) {
    struct proxy *p = CONTAINER_OF(t, struct proxy, apply);
    struct err e = ERR_INIT;
    if (!kinformer_synced(p->services) || !kinformer_synced(p->slices) ||
        !kinformer_synced(p->nodes)) {
        return; /* each of them comes back here when it is complete */
    }
    if (!p->o.no_routes) {
        routes(p);
    }
    if (p->is_running) {
        p->again = true;
        return;
    }
    if (make_rules(p) < 0) {
        LOG_ERROR("proxy", "too many services for the rules");
        return;
    }
    if (p->applied.n > 0 && span_eq(buf_view(&p->rules), buf_view(&p->applied))) {
        return; /* most changes of Nodes and slices mean nothing here */
    }
    if (run_nft(p, &e) < 0) {
        LOG_WARN("proxy", "nft not started, trying again", F_ERR(&e));
        close_pipes(p);
        apply_in(p, RETRY_S * NS_PER_S);
    }
}

static void on_synced(void *ctx) {
    apply_in(ctx, 0);
}

int proxy_new(const struct proxy_opts *o, struct proxy **ret, struct err *e) {
    struct proxy *p = new_zero(struct proxy);
    (void)e;
    p->o = *o;
    p->o.nft_path = o->nft_path ? o->nft_path : "/usr/sbin/nft";
    p->l = o->loop;
    p->in_fd = p->out_fd = -1;
    buf_init(&p->rules, LIM_PROXY_RULES);
    buf_init(&p->applied, LIM_PROXY_RULES);
    buf_init(&p->said, 512);
    const struct kref refs[] = {
        {.group = "", .version = "v1", .resource = "services"},
        {.group = "discovery.k8s.io", .version = "v1", .resource = "endpointslices"},
        {.group = "", .version = "v1", .resource = "nodes"}};
    struct kinformer **to[] = {&p->services, &p->slices, &p->nodes};
    for (size_t i = 0; i < ARRAY_LEN(refs); i++) {
        const struct kinformer_opts io = {
            .ref = refs[i], .on_change = on_change, .on_synced = on_synced, .ctx = p};
        *to[i] = kinformer_start(o->client, &io);
    }
    *ret = p;
    return 0;
}

void proxy_free(struct proxy *p) {
    if (!p) {
        return;
    }
    kinformer_stop(p->services);
    kinformer_stop(p->slices);
    kinformer_stop(p->nodes);
    loop_timer_stop(&p->apply);
    loop_timer_stop(&p->kill);
    loop_child_stop(&p->child);
    close_pipes(p);
    buf_fini(&p->rules);
    buf_fini(&p->applied);
    buf_fini(&p->said);
    free(p->routes);
    free(p);
}
