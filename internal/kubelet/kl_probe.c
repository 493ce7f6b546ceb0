/* Startup, liveness and readiness probes: exec through the runtime, httpGet and tcpSocket from here. */
#include "internal/kubelet/kl_int.h"

#include "internal/base/rand.h"
#include "internal/http/http.h"
#include "internal/kube/kube.h"
#include "internal/log/log.h"
#include "internal/sys/sys.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

static const char *const keys[KL_PROBES] = {"startupProbe", "livenessProbe", "readinessProbe"};
static const char *const names[KL_PROBES] = {"Startup", "Liveness", "Readiness"};

/* One run of a probe; outlives the container if it must. */
struct run {
    struct kubelet *k;
    char pod_uid[64], ctr[LIM_KUBELET_ID];
    enum kl_probe_kind kind;
    uint64_t generation;
    struct http_client *client;
    struct loop_io io;
    struct loop_timer timer, release;
    int fd;
};

static int64_t number(const struct json *probe, const char *key, int64_t def) {
    return json_i64_at(probe, def, key);
}

static void on_timer(struct loop_timer *t);

static void later(struct kl_probe *p, uint64_t ns) {
    loop_timer_start(p->ctr->pod->k->l, &p->timer, ns, on_timer, "probe");
}

static void stop_one(struct kl_probe *p) {
    loop_timer_stop(&p->timer);
    p->is_active = p->is_running = false;
    p->generation++;
}

void kl_probes_stop(struct kl_ctr *c) {
    for (size_t i = 0; i < KL_PROBES; i++) {
        stop_one(&c->probes[i]);
    }
}

static const struct json *spec_of(const struct kl_probe *p) {
    return json_get(kl_ctr_spec(p->ctr), keys[p->kind]);
}

static void start_one(struct kl_probe *p) {
    const struct json *spec = spec_of(p);
    uint64_t delay = (uint64_t)number(spec, "initialDelaySeconds", 0) * NS_PER_S;
    p->is_active = true;
    p->ok = p->failed = 0;
    p->generation++;
    later(p, delay);
}

/* Called after every listing: probes follow the container's life. */
void kl_probes_update(struct kl_ctr *c) {
    const struct json *spec = kl_ctr_spec(c);
    bool runs = c->exists && c->state == KUBELET_RUNNING && spec && !c->pod->is_ending &&
                !c->post_start_due;
    if (!runs || !str_eq(c->probed_id, c->id)) { /* another instance begins from nothing */
        kl_probes_stop(c);
        c->is_started = runs && !json_get(spec, "startupProbe");
        c->is_ready = c->is_started && !json_get(spec, "readinessProbe");
        c->must_restart = false;
        c->probed_id[0] = 0;
    }
    if (!runs) {
        return;
    }
    IGNORE_ERR(str_put(c->probed_id, sizeof(c->probed_id), "%s", c->id), "same size");
    for (size_t i = 0; i < KL_PROBES; i++) {
        bool wanted = json_get(spec, keys[i]) && (i == KL_STARTUP ? !c->is_started : c->is_started);
        if (wanted && !c->probes[i].is_active) {
            start_one(&c->probes[i]);
        } else if (!wanted && c->probes[i].is_active) {
            stop_one(&c->probes[i]);
        }
    }
}

static void result(struct kl_probe *p, bool ok, const char *why) {
    const struct json *spec = spec_of(p);
    struct kl_ctr *c = p->ctr;
    int64_t need_ok = number(spec, "successThreshold", 1),
            need_failed = number(spec, "failureThreshold", 3);
    p->is_running = false;
    p->ok = ok ? p->ok + 1 : 0;
    p->failed = ok ? 0 : p->failed + 1;
    if (!ok) {
        kl_event(c->pod, "Warning", "Unhealthy", "%s probe failed: %s", names[p->kind], why);
    }
    bool was_ready = c->is_ready, was_started = c->is_started;
    if (p->kind == KL_READINESS) {
        c->is_ready = p->ok >= need_ok ? true : p->failed >= need_failed ? false : c->is_ready;
    } else if (ok && p->kind == KL_STARTUP && p->ok >= need_ok) {
        c->is_started = true;
        c->is_ready = !json_get(kl_ctr_spec(c), keys[KL_READINESS]);
    } else if (p->failed >= need_failed) {
        c->must_restart = true;
    }
    uint64_t period = (uint64_t)number(spec, "periodSeconds", 10);
    if (p->is_active) {
        later(p, (period ? period : 1) * NS_PER_S);
    }
    if (was_ready != c->is_ready || was_started != c->is_started || c->must_restart) {
        kl_probes_update(c);
        kl_sync_soon(c->pod);
    }
}

static void run_release(struct loop_timer *t) {
    struct run *r = CONTAINER_OF(t, struct run, release);
    http_client_free(r->client);
    loop_io_stop(&r->io);
    loop_timer_stop(&r->timer);
    auto_fd_(&r->fd);
    free(r);
}

/* The pod may be gone by now: it is looked up again. */
static void run_end(struct run *r, bool ok, const char *why) {
    struct kl_pod *p = map_get_str(&r->k->pods, r->pod_uid);
    struct kl_ctr *c = p ? kl_ctr_find(p, r->ctr) : NULL;
    loop_io_stop(&r->io);
    loop_timer_stop(&r->timer);
    loop_timer_start(r->k->l, &r->release, 0, run_release, "probe end");
    if (c && c->probes[r->kind].generation == r->generation && c->probes[r->kind].is_running) {
        result(&c->probes[r->kind], ok, why);
    }
}

static void on_exec(void *ctx, int rc, int exit_code, struct span out, const struct err *e) {
    char why[256];
    IGNORE_ERR(str_put(why, sizeof(why), "%.200s", rc < 0 ? e->msg : ""), "cut");
    if (rc == 0 && out.n > 0) {
        IGNORE_ERR(
            str_put(why, sizeof(why), "%.*s", out.n > 200 ? 200 : (int)out.n, (const char *)out.p),
            "cut");
    }
    run_end(ctx, rc == 0 && exit_code == 0, why);
}

static void on_http_end(struct http_call *h, int rc, const struct err *e, void *ctx) {
    char why[256];
    unsigned status = rc < 0 ? 0 : http_call_status(h);
    IGNORE_ERR(rc < 0 ? str_put(why, sizeof(why), "%.200s", e->msg)
                      : str_put(why, sizeof(why), "HTTP probe failed with statuscode: %u", status),
               "cut");
    run_end(ctx, rc == 0 && status >= 200 && status < 400, why);
}

static void on_connected(struct loop_io *io, uint32_t events) {
    struct run *r = CONTAINER_OF(io, struct run, io);
    int err = 0;
    socklen_t n = sizeof(err);
    (void)events;
    if (getsockopt(r->fd, SOL_SOCKET, SO_ERROR, &err, &n) < 0) {
        err = errno;
    }
    run_end(r, err == 0, err_sys_name(err));
}

static void on_connect_timeout(struct loop_timer *t) {
    run_end(CONTAINER_OF(t, struct run, timer), false, "connection timed out");
}

/* Number, or the name of one of the container's ports. */
static uint16_t port_of(const struct kl_ctr *c, const struct json *port) {
    uint64_t n = 0;
    if (json_is_int(port)) {
        return (uint16_t)json_i64(port, 0);
    }
    JSON_EACH(it, p, json_get(kl_ctr_spec(c), "ports")) {
        if (json_is_str(port) && str_eq(json_str_at(p, "name"), json_str(port))) {
            return (uint16_t)json_i64_at(p, 0, "containerPort");
        }
    }
    return span_to_u64(json_span(port), 1, 65535, &n) < 0 ? 0 : (uint16_t)n;
}

static const char *host_of(const struct kl_ctr *c, const struct json *action) {
    const struct kl_pod *p = c->pod;
    const char *given = json_str_at(action, "host");
    bool on_host = json_bool_at(p->obj, false, "spec", "hostNetwork");
    return given && *given ? given : on_host ? "127.0.0.1" : p->n_ips ? p->ips[0] : "";
}

int kl_exec(struct kl_ctr *c, const struct json *action, unsigned timeout_s, kubelet_exec_cb *done,
            void *ctx, struct err *e) {
    struct kubelet *k = c->pod->k;
    const char *argv[LIM_KL_COMMAND];
    size_t n = 0;
    if (!k->o.ops->exec) {
        return err_set(e, ERR_UNSUPPORTED, "this runtime runs no commands in containers");
    }
    JSON_EACH(it, w, json_get(action, "command")) {
        if (n == ARRAY_LEN(argv)) {
            return err_set(e, ERR_LIMIT, "a command of more than %d words", LIM_KL_COMMAND);
        }
        argv[n++] = json_str_or(w, "");
    }
    k->o.ops->exec(k->o.rt, c->id, argv, n, timeout_s, done, ctx);
    return 0;
}

int kl_http_get(struct kl_ctr *c, const struct json *a, uint64_t timeout_ns,
                void (*on_end)(struct http_call *h, int rc, const struct err *e, void *ctx),
                void *ctx, struct http_client **ret_client, struct err *e) {
    struct http_header h[1 + LIM_KL_HEADERS] = {
        {SPAN_LIT("user-agent"), SPAN_LIT("kube-probe/1.36")}};
    size_t n = 1;
    struct tls_config *tls = NULL;
    struct http_call *call;
    const char *path = json_str_or(json_get(a, "path"), "/");
    AUTO_FREE char *target = str_fmt("%s%s", path[0] == '/' ? "" : "/", path);
    char lower[LIM_KL_HEADERS][64];
    JSON_EACH(it, x, json_get(a, "httpHeaders")) {
        const char *name = json_str_or(json_get(x, "name"), "");
        if (n > LIM_KL_HEADERS || strlen(name) >= sizeof(lower[0])) {
            return err_set(e, ERR_LIMIT, "more than %d httpHeaders, or a long name",
                           LIM_KL_HEADERS);
        }
        for (size_t i = 0; i <= strlen(name); i++) {
            lower[n - 1][i] = name[i] >= 'A' && name[i] <= 'Z' ? (char)(name[i] + 32) : name[i];
        }
        h[n] = (struct http_header){span_str(lower[n - 1]), json_span(json_get(x, "value"))};
        n++;
    }
    if (str_eq(json_str_at(a, "scheme"), "HTTPS") &&
        tls_client_config_new(&tls, &(struct tls_client_opts){.insecure = true}, e) < 0) {
        return -(int)e->code;
    }
    const struct http_client_opts co = {.host = host_of(c, a),
                                        .port = port_of(c, json_get(a, "port")),
                                        .tls = tls,
                                        .proto = HTTP_1_ONLY,
                                        .connect_timeout_ns = timeout_ns};
    const struct http_call_opts o = {.method = "GET",
                                     .target = target,
                                     .headers = h,
                                     .n_headers = n,
                                     .timeout_ns = timeout_ns,
                                     .on_end = on_end,
                                     .ctx = ctx};
    int rc = http_client_new(c->pod->k->l, &co, ret_client, e);
    rc = rc < 0 ? rc : http_call_start(*ret_client, &o, &call, e);
    tls_config_unref(tls);
    return rc;
}

static int tcp(struct run *r, struct kl_ctr *c, const struct json *a, uint64_t timeout_ns,
               struct err *e) {
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons(port_of(c, json_get(a, "port")))};
    if (inet_pton(AF_INET, host_of(c, a), &to.sin_addr) != 1) {
        return err_set(e, ERR_UNAVAILABLE, "no address to probe");
    }
    r->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (r->fd < 0 ||
        (connect(r->fd, (const struct sockaddr *)&to, sizeof(to)) < 0 && errno != EINPROGRESS)) {
        return err_sys(e, errno, "connect");
    }
    loop_timer_start(r->k->l, &r->timer, timeout_ns, on_connect_timeout, "probe timeout");
    return loop_io_start(r->k->l, &r->io, r->fd, LOOP_WRITE, on_connected, "probe", e);
}

static int begin(struct run *r, struct kl_ctr *c, const struct json *spec, struct err *e) {
    uint64_t timeout = (uint64_t)number(spec, "timeoutSeconds", 1);
    const struct json *exec = json_get(spec, "exec"), *get = json_get(spec, "httpGet"),
                      *sock = json_get(spec, "tcpSocket");
    timeout = timeout ? timeout : 1;
    if (exec) {
        return kl_exec(c, exec, (unsigned)timeout, on_exec, r, e);
    }
    if (get) {
        return kl_http_get(c, get, timeout * NS_PER_S, on_http_end, r, &r->client, e);
    }
    if (sock) {
        return tcp(r, c, sock, timeout * NS_PER_S, e);
    }
    return err_set(e, ERR_UNSUPPORTED, "this kind of probe is not supported");
}

static void on_timer(struct loop_timer *t) {
    struct kl_probe *p = CONTAINER_OF(t, struct kl_probe, timer);
    struct kl_ctr *c = p->ctr;
    const struct json *spec = spec_of(p);
    struct err e = ERR_INIT;
    if (!spec) {
        stop_one(p);
        return;
    }
    struct run *r = new_zero(struct run);
    r->k = c->pod->k;
    r->kind = p->kind;
    r->fd = -1;
    r->generation = p->generation;
    p->is_running = true;
    IGNORE_ERR(str_put(r->pod_uid, sizeof(r->pod_uid), "%s", c->pod->uid), "uids fit");
    IGNORE_ERR(str_put(r->ctr, sizeof(r->ctr), "%s", c->name), "names fit");
    if (begin(r, c, spec, &e) < 0) {
        run_end(r, false, e.msg);
    }
}
