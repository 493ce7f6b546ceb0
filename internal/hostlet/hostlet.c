#include "internal/hostlet/hostlet.h"

#include "internal/base/rand.h"
#include "internal/kubelet/kubelet.h"
#include "internal/log/log.h"
#include "internal/sys/sys.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

/* Where a tenant's pod mounts the Secret for its etcd (internal/farm). */
#define HOSTLET_ETCD_TLS "/etcd-tls"

enum { LIM_CONTAINERS = 1024, LIM_LINE = 16 * 1024, LIM_ID = 512, LIM_PEM = 48 * 1024 };

/* Identity of a container is its id: "<namespace>_<pod>_<uid>_<sandbox attempt>_<container>_<attempt>"; none of the parts
 * can hold an underscore, so an adopted process tells all about itself. */
struct ident {
    char ns[64], pod[254], uid[64], name[64], sandbox[LIM_ID];
    unsigned attempt;
};

struct container {
    struct list link;
    struct hostlet *h;
    char *id, *tenant;
    struct ident who;
    enum kubelet_ctr_state state;
    uint64_t created_ns, started_ns, finished_ns;
    int exit_code, term_signal;
    struct json_doc *args;     /* root: array */
    struct json_doc *etcd_tls; /* root: object, until the start; NULL: none */
    struct loop_io log_io;
    int log_in, log_out;
    struct buf line;
    kubelet_done_cb *done; /* of the start under way */
    void *done_ctx;
    bool removed;
};

struct sandbox {
    struct list link;
    char *id;
    struct ident who;
    uint64_t created_ns;
    bool ready;
};

struct hostlet {
    struct loop *l;
    struct hostlet_opts o;
    struct superclient *super;
    struct list containers, sandboxes;
    size_t n_containers, n_sandboxes;
    bool listed;
};

static void changed(struct hostlet *h) {
    if (h->o.changed) {
        h->o.changed(h->o.ctx);
    }
}

static int part(struct span *s, char *dst, size_t cap) {
    struct span one;
    return span_next(s, '_', &one) ? span_to_cstr(one, dst, cap) : -ERR_INVALID;
}

static int parse_id(const char *id, struct ident *w) {
    struct span s = span_str(id);
    char sb[16], att[16];
    uint64_t n;
    *w = (struct ident){{0}, {0}, {0}, {0}, {0}, 0};
    if (part(&s, w->ns, sizeof(w->ns)) < 0 || part(&s, w->pod, sizeof(w->pod)) < 0 ||
        part(&s, w->uid, sizeof(w->uid)) < 0 || part(&s, sb, sizeof(sb)) < 0 ||
        str_put(w->sandbox, sizeof(w->sandbox), "%s_%s_%s_%s", w->ns, w->pod, w->uid, sb) < 0) {
        return -ERR_INVALID;
    }
    if (!s.p) {
        return 0; /* a sandbox's id */
    }
    if (part(&s, w->name, sizeof(w->name)) < 0 || part(&s, att, sizeof(att)) < 0 ||
        span_to_u64(span_str(att), 0, UINT32_MAX, &n) < 0) {
        return -ERR_INVALID;
    }
    w->attempt = (unsigned)n;
    return 0;
}

static struct container *find(struct hostlet *h, const char *id) {
    for (LIST_EACH(at, nxt, &h->containers)) {
        struct container *c = CONTAINER_OF(at, struct container, link);
        if (str_eq(c->id, id)) {
            return c;
        }
    }
    return NULL;
}

static struct sandbox *find_sandbox(struct hostlet *h, const char *id) {
    for (LIST_EACH(at, nxt, &h->sandboxes)) {
        struct sandbox *s = CONTAINER_OF(at, struct sandbox, link);
        if (str_eq(s->id, id)) {
            return s;
        }
    }
    return NULL;
}

/* ---- callbacks are never made before the call returned ---- */

struct later {
    struct loop_hook hook;
    kubelet_done_cb *done;
    kubelet_id_cb *id_done;
    kubelet_image_cb *image_done;
    void *ctx;
    char id[LIM_ID];
    bool has_id;
    struct err e;
};

static void run_later(void *ctx) {
    struct later *x = ctx;
    int rc = -(int)x->e.code;
    const struct err *e = x->e.code ? &x->e : NULL;
    if (x->done) {
        x->done(x->ctx, rc, e);
    } else if (x->id_done) {
        x->id_done(x->ctx, rc, rc < 0 ? NULL : x->id, e);
    } else {
        x->image_done(x->ctx, rc, x->has_id ? x->id : NULL, e);
    }
    free(x);
}

static struct later *later(struct hostlet *h, void *ctx) {
    struct later *x = new_zero(struct later);
    x->ctx = ctx;
    loop_before_sleep(h->l, &x->hook, run_later, x);
    return x;
}

/* ---- logs: what the process writes goes into a file in the CRI log format ---- */

static void log_line(struct container *c, struct span text, bool partial) {
    char ts[TIME_STR];
    struct buf b = BUF_INIT(LIM_LINE + 128);
    time_rfc3339_micro(clock_wall_ns(), ts);
    buf_fmt(&b, "%s stderr %s ", ts, partial ? "P" : "F");
    buf_span(&b, text);
    buf_u8(&b, '\n');
    if (c->log_out >= 0) {
        IGNORE_ERR(sys_write_all(c->log_out, buf_view(&b), NULL),
                   "a full disk costs log lines, not the process");
    }
    buf_fini(&b);
}

static void log_flush(struct container *c, bool all) {
    struct span rest = buf_view(&c->line), line;
    while (span_until(&rest, '\n', &line) == 0) {
        log_line(c, line, false);
    }
    if (rest.n >= LIM_LINE / 2 || (all && rest.n)) {
        log_line(c, rest, !all);
        rest.n = 0;
    }
    buf_drop(&c->line, c->line.n - rest.n);
}

static void log_close(struct container *c) {
    loop_io_stop(&c->log_io);
    sys_close(c->log_in);
    sys_close(c->log_out);
    c->log_in = c->log_out = -1;
    buf_fini(&c->line);
}

static void log_ready(struct loop_io *io, uint32_t events) {
    (void)events;
    struct container *c = CONTAINER_OF(io, struct container, log_io);
    for (int i = 0; i < 16; i++) {
        uint8_t *room = buf_room(&c->line, 4096);
        ssize_t n = room ? read(io->fd, room, 4096) : -1;
        if (n < 0 && errno == EAGAIN) {
            break;
        }
        if (n <= 0) {
            log_flush(c, true);
            log_close(c);
            return;
        }
        buf_added(&c->line, (size_t)n);
        log_flush(c, false);
    }
}

static void log_open(struct container *c, int own_fd) {
    struct err e = ERR_INIT;
    AUTO_FREE char *dir =
        str_fmt("%s/%s_%s_%s/%s", c->h->o.log_dir, c->who.ns, c->who.pod, c->who.uid, c->who.name);
    AUTO_FREE char *path = str_fmt("%s/%u.log", dir, c->who.attempt);
    log_close(c);
    buf_init(&c->line, LIM_LINE);
    c->log_in = own_fd;
    if (sys_mkdirs(dir, 0750, &e) == 0) {
        c->log_out = sys_open(AT_FDCWD, path, O_WRONLY | O_APPEND | O_CREAT, 0640, &e);
    }
    if (c->log_out < 0 || sys_set_nonblock(own_fd, &e) < 0 ||
        loop_io_start(c->h->l, &c->log_io, own_fd, LOOP_READ, log_ready, "container log", &e) < 0) {
        LOG_WARN("hostlet", "log not kept", F_STR("container", c->id), F_ERR(&e));
    }
}

/* ---- containers ---- */

static struct container *container_new(struct hostlet *h, const char *id, const struct ident *w) {
    struct container *c = new_zero(struct container);
    c->h = h;
    c->id = str_dup(id);
    c->who = *w;
    c->log_in = c->log_out = -1;
    c->created_ns = clock_wall_ns();
    list_add_tail(&h->containers, &c->link);
    h->n_containers++;
    return c;
}

static void container_free(struct container *c) {
    list_del(&c->link);
    c->h->n_containers--;
    log_close(c);
    json_doc_free(c->args);
    json_doc_free(c->etcd_tls);
    free(c->id);
    free(c->tenant);
    free(c);
}

static struct sandbox *sandbox_new(struct hostlet *h, const char *id, const struct ident *w) {
    struct sandbox *s = new_zero(struct sandbox);
    s->id = str_dup(id);
    s->who = *w;
    s->ready = true;
    s->created_ns = clock_wall_ns();
    list_add_tail(&h->sandboxes, &s->link);
    h->n_sandboxes++;
    return s;
}

static void on_event(void *ctx, enum super_msg type, const struct json *ev) {
    struct hostlet *h = ctx;
    struct container *c = json_str_at(ev, "id") ? find(h, json_str_at(ev, "id")) : NULL;
    if (!c || type != SUPER_EXITED) {
        return;
    }
    c->state = KUBELET_EXITED;
    c->finished_ns = clock_wall_ns();
    c->exit_code = (int)json_i64_at(ev, 255, "exitCode");
    c->term_signal = (int)json_i64_at(ev, 0, "signal");
    changed(h);
}

static void start_end(struct container *c, int rc, const struct err *e) {
    kubelet_done_cb *done = c->done;
    c->done = NULL;
    if (rc < 0 && c->state == KUBELET_CREATED) {
        c->state = KUBELET_EXITED;
        c->finished_ns = clock_wall_ns();
        c->exit_code = 128;
    }
    if (done) {
        done(c->done_ctx, rc, e);
    }
    changed(c->h);
}

/* The container is found again by id: it may have been removed while the answer was under way. */
struct asked {
    struct hostlet *h;
    char id[LIM_ID];
};

static void run_answered(void *ctx, int rc, const struct json *reply, int own_fd,
                         const struct err *e) {
    struct asked *q = ctx;
    struct container *c = find(q->h, q->id);
    (void)reply;
    free(q);
    if (!c) {
        sys_close(own_fd);
        return;
    }
    if (rc >= 0) {
        if (c->state == KUBELET_CREATED) { /* it may have ended already */
            c->state = KUBELET_RUNNING;
        }
        c->started_ns = clock_wall_ns();
        log_open(c, own_fd);
    }
    start_end(c, rc, e);
}

static void tenant_answered(void *ctx, int rc, struct json *t, const struct err *e) {
    struct asked *q = ctx;
    struct container *c = find(q->h, q->id);
    struct err mine = ERR_INIT;
    if (!c) {
        free(q);
        return;
    }
    if (rc >= 0 && !json_i64_at(t, 0, "status", "port")) {
        rc = err_set(&mine, ERR_UNAVAILABLE, "tenant %s/%s has no port yet", c->who.ns, c->tenant);
        e = &mine;
    }
    if (rc < 0) {
        free(q);
        start_end(c, rc, e);
        return;
    }
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *o = json_new_obj(d), *args = json_set_arr(d, o, "args"),
                *names = json_set_arr(d, o, "serverNames");
    bool first = true;
    json_set_str(d, o, "id", c->id);
    json_set_str(d, o, "scope", json_str_at(t, "metadata", "uid"));
    json_set_str(d, o, "role", json_str(json_idx(json_root(c->args), 0)));
    json_set_i64(d, o, "port", json_i64_at(t, 0, "status", "port"));
    json_push(names, json_new_fmt(d, "%s.%s.tenants.kfarm.internal", c->tenant, c->who.ns));
    JSON_EACH(in, n, json_at(t, "spec", "serverNames")) {
        json_push(names, json_copy(d, n));
    }
    JSON_EACH(it, a, json_root(c->args)) {
        if (!first) {
            json_push(args, json_copy(d, a));
        }
        first = false;
    }
    if (c->etcd_tls) {
        json_set(d, o, "etcdTLS", json_copy(d, json_root(c->etcd_tls)));
    }
    super_call(c->h->super, SUPER_RUN, o, run_answered, q);
    json_doc_free(TAKE(c->etcd_tls));
}

/* The process has a root directory of its own: what the volume for its etcd holds goes along as data. */
static int take_etcd_tls(struct container *c, const char *dir, struct err *e) {
    static const char *const files[][2] = {
        {"ca", "ca.crt"}, {"cert", "tls.crt"}, {"key", "tls.key"}};
    c->etcd_tls = json_doc_new();
    struct json *o = json_new_obj(c->etcd_tls);
    json_set_root(c->etcd_tls, o);
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        AUTO(buf) struct buf b = BUF_INIT(LIM_PEM);
        AUTO_FREE char *path = str_fmt("%s/%s", dir, files[i][1]);
        int rc = sys_file_read(AT_FDCWD, path, &b, e);
        if (rc < 0 && rc != -ERR_NOT_FOUND) {
            return rc;
        }
        if (rc < 0) {
            err_reset(e); /* a CA alone is enough where no client certificate is asked for */
            continue;
        }
        json_set(c->etcd_tls, o, files[i][0], json_new_span(c->etcd_tls, buf_view(&b)));
        secret_wipe(b.p, b.n);
    }
    return 0;
}

static void op_container_create(void *rt, const char *sandbox_id, const struct kubelet_sandbox *s,
                                const struct kubelet_container *k, kubelet_id_cb *done, void *ctx) {
    struct hostlet *h = rt;
    struct later *x = later(h, ctx);
    struct ident w;
    const char *tenant = json_str_at(s->pod, "metadata", "labels", "kfarm.dev/tenant");
    x->id_done = done;
    if (str_put(x->id, sizeof(x->id), "%s_%s_%u", sandbox_id, k->name, k->attempt) < 0 ||
        parse_id(x->id, &w) < 0) {
        err_set(&x->e, ERR_LIMIT, "names of the pod are too long: %s", x->id);
    } else if (!str_eq(k->image, "kfarm") || k->n_command || !k->n_args) {
        err_set(&x->e, ERR_UNSUPPORTED,
                "hosts run only image \"kfarm\" with a role as its first argument");
    } else if (!tenant) {
        err_set(&x->e, ERR_FORBIDDEN, "the pod has no label kfarm.dev/tenant");
    } else if (h->n_containers >= LIM_CONTAINERS) {
        err_set(&x->e, ERR_LIMIT, "more than %d containers on this host", LIM_CONTAINERS);
    } else if (!find(h, x->id)) {
        struct container *c = container_new(h, x->id, &w);
        c->tenant = str_dup(tenant);
        c->args = json_doc_new();
        struct json *a = json_new_arr(c->args);
        for (size_t i = 0; i < k->n_args; i++) {
            json_push_str(c->args, a, k->args[i]);
        }
        json_set_root(c->args, a);
        for (size_t i = 0; i < k->n_mounts && !x->e.code; i++) {
            if (str_eq(k->mounts[i].container_path, HOSTLET_ETCD_TLS)) {
                IGNORE_ERR(take_etcd_tls(c, k->mounts[i].host_path, &x->e), "x->e says it");
            }
        }
        if (x->e.code) {
            container_free(c);
        }
    }
}

static void op_container_start(void *rt, const char *id, kubelet_done_cb *done, void *ctx) {
    struct hostlet *h = rt;
    struct container *c = find(h, id);
    if (!c || c->state != KUBELET_CREATED || c->done) {
        struct later *x = later(h, ctx);
        x->done = done;
        if (!c || c->state == KUBELET_EXITED) {
            err_set(&x->e, ERR_NOT_FOUND, "container %s cannot be started", id);
        }
        return;
    }
    struct asked *q = new_zero(struct asked);
    q->h = h;
    (void)str_put(q->id, sizeof(q->id), "%s", id);
    c->done = done;
    c->done_ctx = ctx;
    const struct kref r = {.group = "kfarm.dev",
                           .version = "v1alpha1",
                           .resource = "tenants",
                           .ns = c->who.ns,
                           .name = c->tenant};
    kget(h->o.client, &r, tenant_answered, q);
}

struct stopping {
    struct hostlet *h;
    kubelet_done_cb *done;
    void *ctx;
    size_t left;
    bool sandbox, removes;
    char id[LIM_ID]; /* of the sandbox, or of the container to be removed */
    struct err e;    /* of the first that was not stopped */
};

static void stop_answered(void *ctx, int rc, const struct json *reply, int own_fd,
                          const struct err *e) {
    struct stopping *s = ctx;
    (void)reply;
    sys_close(own_fd);
    if (rc < 0 && !s->e.code) {
        s->e = *e;
    }
    if (--s->left) {
        return;
    }
    rc = -(int)s->e.code;
    struct sandbox *sb = s->sandbox ? find_sandbox(s->h, s->id) : NULL;
    struct container *c = s->removes && rc >= 0 ? find(s->h, s->id) : NULL;
    if (sb && rc >= 0) {
        sb->ready = false;
    }
    if (c) {
        container_free(c);
    }
    if (s->done) {
        s->done(s->ctx, rc, rc < 0 ? &s->e : NULL);
    }
    free(s);
}

static void send_stop(struct stopping *s, const char *id, unsigned grace_s) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *o = json_new_obj(d);
    json_set_str(d, o, "id", id);
    json_set_i64(d, o, "graceMs", (int64_t)grace_s * 1000);
    s->left++;
    super_call(s->h->super, SUPER_STOP, o, stop_answered, s);
}

static void op_container_stop(void *rt, const char *id, unsigned grace_s, kubelet_done_cb *done,
                              void *ctx) {
    struct stopping *s = new_zero(struct stopping);
    s->h = rt;
    s->done = done;
    s->ctx = ctx;
    send_stop(s, id, grace_s);
}

/* As in CRI, removing what runs kills it first. */
static void op_container_remove(void *rt, const char *id, kubelet_done_cb *done, void *ctx) {
    struct hostlet *h = rt;
    struct container *c = find(h, id);
    if (c && c->state == KUBELET_RUNNING) {
        struct stopping *s = new_zero(struct stopping);
        s->h = h;
        s->done = done;
        s->ctx = ctx;
        s->removes = true;
        IGNORE_ERR(str_put(s->id, sizeof(s->id), "%s", id), "ids fit: parse_id saw this one");
        send_stop(s, id, 0);
        return;
    }
    struct later *x = later(h, ctx);
    x->done = done;
    if (c) {
        container_free(c);
    }
}

/* ---- sandboxes: only a name; every process has namespaces of its own ---- */

static void op_sandbox_start(void *rt, const struct kubelet_sandbox *s, kubelet_id_cb *done,
                             void *ctx) {
    struct hostlet *h = rt;
    struct later *x = later(h, ctx);
    struct ident w;
    x->id_done = done;
    if (str_put(x->id, sizeof(x->id), "%s_%s_%s_%u", s->ns, s->name, s->uid, s->attempt) < 0 ||
        parse_id(x->id, &w) < 0) {
        err_set(&x->e, ERR_LIMIT, "names of the pod are too long: %s", x->id);
    } else if (!find_sandbox(h, x->id)) {
        sandbox_new(h, x->id, &w);
    }
}

static void op_sandbox_stop(void *rt, const char *id, kubelet_done_cb *done, void *ctx) {
    struct hostlet *h = rt;
    struct stopping *s = new_zero(struct stopping);
    s->h = h;
    s->done = done;
    s->ctx = ctx;
    s->sandbox = true;
    (void)str_put(s->id, sizeof(s->id), "%s", id);
    for (LIST_EACH(at, nxt, &h->containers)) {
        struct container *c = CONTAINER_OF(at, struct container, link);
        if (str_eq(c->who.sandbox, id) && c->state == KUBELET_RUNNING) {
            send_stop(s, c->id, 5);
        }
    }
    if (!s->left) {
        struct later *x = later(h, ctx);
        struct sandbox *sb = find_sandbox(h, id);
        x->done = done;
        if (sb) {
            sb->ready = false;
        }
        free(s);
    }
}

static void op_sandbox_remove(void *rt, const char *id, kubelet_done_cb *done, void *ctx) {
    struct hostlet *h = rt;
    struct later *x = later(h, ctx);
    struct sandbox *s = find_sandbox(h, id);
    x->done = done;
    for (LIST_EACH(at, nxt, &h->containers)) {
        struct container *c = CONTAINER_OF(at, struct container, link);
        if (str_eq(c->who.sandbox, id) && c->state != KUBELET_RUNNING) {
            container_free(c);
        }
    }
    if (s) {
        list_del(&s->link);
        h->n_sandboxes--;
        free(s->id);
        free(s);
    }
}

/* ---- images, info, list ---- */

static struct later *answer_image(struct hostlet *h, const char *image, kubelet_image_cb *done,
                                  void *ctx) {
    struct later *x = later(h, ctx);
    x->image_done = done;
    x->has_id = str_eq(image, "kfarm");
    (void)str_put(x->id, sizeof(x->id), "kfarm");
    return x;
}

static void op_image_get(void *rt, const char *image, kubelet_image_cb *done, void *ctx) {
    answer_image(rt, image, done, ctx);
}

static void op_image_pull(void *rt, const char *image, const struct json *const *secrets, size_t n,
                          kubelet_image_cb *done, void *ctx) {
    (void)secrets;
    (void)n;
    struct later *x = answer_image(rt, image, done, ctx);
    if (!x->has_id) {
        err_set(&x->e, ERR_UNSUPPORTED,
                "hosts run only image \"kfarm\"; pods of other images belong on nodes of a tenant");
    }
}

struct ask_info {
    struct loop_hook hook;
    struct hostlet *h;
    kubelet_info_cb *info;
    kubelet_list_cb *list;
    void *ctx;
};

static void info_now(void *ctx) {
    struct ask_info *a = ctx;
    const struct kubelet_runtime_info i = {"kfarm://native", true, true, "", ""};
    a->info(a->ctx, 0, &i, NULL);
    free(a);
}

static void op_info(void *rt, kubelet_info_cb *done, void *ctx) {
    struct hostlet *h = rt;
    struct ask_info *a = new_zero(struct ask_info);
    a->info = done;
    a->ctx = ctx;
    loop_before_sleep(h->l, &a->hook, info_now, a);
}

static const char *reason_of(const struct container *c) {
    return c->state != KUBELET_EXITED ? ""
           : c->exit_code == 0        ? "Completed"
           : c->exit_code == 128      ? "StartError"
                                      : "Error";
}

static void list_now(void *ctx) {
    struct ask_info *a = ctx;
    struct hostlet *h = a->h;
    struct kubelet_sandbox_status *sb = mem_zero_alloc((h->n_sandboxes + 1) * sizeof(*sb));
    struct kubelet_container_status *ct = mem_zero_alloc((h->n_containers + 1) * sizeof(*ct));
    struct kubelet_snapshot snap = {sb, 0, ct, 0};
    for (LIST_EACH(at, nxt, &h->sandboxes)) {
        struct sandbox *s = CONTAINER_OF(at, struct sandbox, link);
        sb[snap.n_sandboxes++] = (struct kubelet_sandbox_status){.id = s->id,
                                                                 .ns = s->who.ns,
                                                                 .name = s->who.pod,
                                                                 .uid = s->who.uid,
                                                                 .ready = s->ready,
                                                                 .created_wall_ns = s->created_ns};
    }
    for (LIST_EACH(at2, nxt2, &h->containers)) {
        struct container *c = CONTAINER_OF(at2, struct container, link);
        ct[snap.n_containers++] =
            (struct kubelet_container_status){.id = c->id,
                                              .sandbox_id = c->who.sandbox,
                                              .pod_uid = c->who.uid,
                                              .name = c->who.name,
                                              .attempt = c->who.attempt,
                                              .state = c->state,
                                              .created_wall_ns = c->created_ns,
                                              .started_wall_ns = c->started_ns,
                                              .finished_wall_ns = c->finished_ns,
                                              .exit_code = c->exit_code,
                                              .signal = c->term_signal,
                                              .reason = reason_of(c),
                                              .message = "",
                                              .image = "kfarm",
                                              .image_ref = "kfarm"};
    }
    a->list(a->ctx, 0, &snap, NULL);
    free(sb);
    free(ct);
    free(a);
}

static void adopt_answered(void *ctx, int rc, const struct json *reply, int own_fd,
                           const struct err *e) {
    struct asked *q = ctx;
    struct container *c = find(q->h, q->id);
    (void)reply;
    (void)e;
    if (c && rc >= 0) {
        log_open(c, own_fd);
    } else {
        sys_close(own_fd);
    }
    free(q);
}

/* After a restart of this role the processes still run: take them over. */
static void supervisor_listed(void *ctx, int rc, const struct json *reply, int own_fd,
                              const struct err *e) {
    struct ask_info *a = ctx;
    struct hostlet *h = a->h;
    sys_close(own_fd);
    if (rc < 0) {
        a->list(a->ctx, rc, NULL, e);
        free(a);
        return;
    }
    h->listed = true;
    JSON_EACH(it, x, json_get(reply, "items")) {
        struct ident w;
        const char *id = json_str_at(x, "id");
        if (!id || find(h, id) || parse_id(id, &w) < 0) {
            continue;
        }
        struct container *c = container_new(h, id, &w);
        c->state = KUBELET_RUNNING;
        c->started_ns = c->created_ns;
        if (!find_sandbox(h, w.sandbox)) {
            sandbox_new(h, w.sandbox, &w);
        }
        AUTO(json_docp) struct json_doc *d = json_doc_new();
        struct json *o = json_new_obj(d);
        struct asked *q = new_zero(struct asked);
        q->h = h;
        (void)str_put(q->id, sizeof(q->id), "%s", id);
        json_set_str(d, o, "id", id);
        super_call(h->super, SUPER_ADOPT, o, adopt_answered, q);
    }
    list_now(a);
}

static void op_list(void *rt, kubelet_list_cb *done, void *ctx) {
    struct hostlet *h = rt;
    struct ask_info *a = new_zero(struct ask_info);
    a->h = h;
    a->list = done;
    a->ctx = ctx;
    if (h->listed) {
        loop_before_sleep(h->l, &a->hook, list_now, a);
        return;
    }
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    super_call(h->super, SUPER_LIST, json_new_obj(d), supervisor_listed, a);
}

const struct kubelet_runtime_ops hostlet_ops = {
    .name = "kfarm",
    .info = op_info,
    .list = op_list,
    .sandbox_start = op_sandbox_start,
    .sandbox_stop = op_sandbox_stop,
    .sandbox_remove = op_sandbox_remove,
    .image_get = op_image_get,
    .image_pull = op_image_pull,
    .container_create = op_container_create,
    .container_start = op_container_start,
    .container_stop = op_container_stop,
    .container_remove = op_container_remove,
};

int hostlet_new(struct loop *l, const struct hostlet_opts *o, struct hostlet **ret, struct err *e) {
    struct hostlet *h = new_zero(struct hostlet);
    h->l = l;
    h->o = *o;
    list_init(&h->containers);
    list_init(&h->sandboxes);
    int rc = superclient_new(l, o->own_super_fd, on_event, h, &h->super, e);
    if (rc < 0) {
        free(h);
        return rc;
    }
    *ret = h;
    return 0;
}

void hostlet_free(struct hostlet *h) {
    if (!h) {
        return;
    }
    superclient_free(h->super);
    while (!list_empty(&h->containers)) {
        container_free(CONTAINER_OF(h->containers.next, struct container, link));
    }
    while (!list_empty(&h->sandboxes)) {
        struct sandbox *s = CONTAINER_OF(h->sandboxes.next, struct sandbox, link);
        list_del(&s->link);
        free(s->id);
        free(s);
    }
    free(h);
}
