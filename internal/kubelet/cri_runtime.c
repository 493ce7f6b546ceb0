#include "internal/kubelet/cri_int.h"

#include "internal/base/rand.h"

#include <stdlib.h>

/* Enumerations of CRI: SANDBOX_READY 0; CONTAINER_CREATED 0, RUNNING 1, EXITED 2, UNKNOWN 3. */
enum { SANDBOX_READY = 0, CRI_RUNNING = 1, CRI_EXITED = 2 };

int kubelet_cri_new(struct loop *l, const char *socket_path, struct kubelet_cri **ret,
                    struct err *e) {
    struct kubelet_cri *c = new_zero(struct kubelet_cri);
    const struct http_client_opts o = {
        .unix_path = socket_path, .host = "localhost", .proto = HTTP_2_PRIOR};
    c->l = l;
    int rc = http_client_new(l, &o, &c->h, e);
    if (rc < 0) {
        free(c);
        return rc;
    }
    cri_events_start(c);
    *ret = c;
    return 0;
}

void kubelet_cri_on_change(struct kubelet_cri *c, void (*changed)(void *ctx), void *ctx) {
    c->changed = changed;
    c->changed_ctx = ctx;
}

struct cri_detail {
    struct json_doc *doc; /* holds the status object */
    struct json *status;
    int state;
    bool seen;
};

static void detail_free(struct cri_detail *d) {
    json_doc_free(d->doc);
    free(d);
}

void kubelet_cri_free(struct kubelet_cri *c) {
    if (!c) {
        return;
    }
    cri_events_stop(c);
    http_client_free(c->h);
    struct map_iter it = {0};
    for (struct map_entry *e; map_next(&c->details, &it, &e);) {
        detail_free(e->value);
    }
    map_fini(&c->details);
    free(c);
}

/* ---- calls with one id ---- */

struct id_op {
    struct kubelet_cri *c;
    union {
        kubelet_done_cb *done;
        kubelet_id_cb *id;
        kubelet_image_cb *image;
        kubelet_exec_cb *exec;
        kubelet_info_cb *info;
    } cb;
    void *ctx;
    const char *field; /* of the answer that holds the id */
};

static struct id_op *op_new(struct kubelet_cri *c, void *ctx) {
    struct id_op *op = new_zero(struct id_op);
    op->c = c;
    op->ctx = ctx;
    return op;
}

static void on_done(void *ctx, int rc, struct json *resp, const struct err *e) {
    struct id_op *op = ctx;
    (void)resp;
    op->cb.done(op->ctx, rc == -ERR_NOT_FOUND ? 0 : rc,
                e); /* what is gone need not be stopped or removed */
    free(op);
}

static void on_started(void *ctx, int rc, struct json *resp, const struct err *e) {
    struct id_op *op = ctx;
    (void)resp;
    op->cb.done(op->ctx, rc, e);
    free(op);
}

static void on_id(void *ctx, int rc, struct json *resp, const struct err *e) {
    struct id_op *op = ctx;
    op->cb.id(op->ctx, rc, json_str_or(json_get(resp, op->field), ""), e);
    free(op);
}

static void one_id(struct kubelet_cri *c, const char *method, const char *field, const char *id,
                   int64_t timeout, uint64_t timeout_ns, cri_cb *cb, kubelet_done_cb *done,
                   void *ctx) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *req = json_new_obj(d);
    struct id_op *op = op_new(c, ctx);
    op->cb.done = done;
    json_set_str(d, req, field, id);
    if (timeout > 0) {
        json_set_i64(d, req, "timeout", timeout);
    }
    cri_call(c, "RuntimeService", method, req, timeout_ns, cb, op);
}

static void sandbox_start(void *rt, const struct kubelet_sandbox *s, kubelet_id_cb *done,
                          void *ctx) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *req = json_new_obj(d);
    struct id_op *op = op_new(rt, ctx);
    op->cb.id = done;
    op->field = "pod_sandbox_id";
    json_set(d, req, "config", cri_sandbox_config(d, s));
    cri_call(rt, "RuntimeService", "RunPodSandbox", req, 240 * NS_PER_S, on_id, op);
}

static void sandbox_stop(void *rt, const char *id, kubelet_done_cb *done, void *ctx) {
    one_id(rt, "StopPodSandbox", "pod_sandbox_id", id, 0, 0, on_done, done, ctx);
}
static void sandbox_remove(void *rt, const char *id, kubelet_done_cb *done, void *ctx) {
    one_id(rt, "RemovePodSandbox", "pod_sandbox_id", id, 0, 0, on_done, done, ctx);
}
static void container_start(void *rt, const char *id, kubelet_done_cb *done, void *ctx) {
    one_id(rt, "StartContainer", "container_id", id, 0, 0, on_started, done, ctx);
}
static void container_stop(void *rt, const char *id, unsigned grace_s, kubelet_done_cb *done,
                           void *ctx) {
    one_id(rt, "StopContainer", "container_id", id, grace_s, (grace_s + 120ull) * NS_PER_S, on_done,
           done, ctx);
}
static void container_remove(void *rt, const char *id, kubelet_done_cb *done, void *ctx) {
    one_id(rt, "RemoveContainer", "container_id", id, 0, 0, on_done, done, ctx);
}

static void container_reopen_log(void *rt, const char *id, kubelet_done_cb *done, void *ctx) {
    one_id(rt, "ReopenContainerLog", "container_id", id, 0, 0, on_done, done, ctx);
}

static void container_create(void *rt, const char *sandbox_id, const struct kubelet_sandbox *s,
                             const struct kubelet_container *c, kubelet_id_cb *done, void *ctx) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *req = json_new_obj(d);
    struct id_op *op = op_new(rt, ctx);
    op->cb.id = done;
    op->field = "container_id";
    json_set_str(d, req, "pod_sandbox_id", sandbox_id);
    json_set(d, req, "config", cri_container_config(d, s, c));
    json_set(d, req, "sandbox_config", cri_sandbox_config(d, s));
    cri_call(rt, "RuntimeService", "CreateContainer", req, 0, on_id, op);
}

/* ---- images ---- */

static void on_image_status(void *ctx, int rc, struct json *resp, const struct err *e) {
    struct id_op *op = ctx;
    op->cb.image(op->ctx, rc, rc < 0 ? NULL : json_str_at(resp, "image", "id"), e);
    free(op);
}

static void image_get(void *rt, const char *image, kubelet_image_cb *done, void *ctx) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *req = json_new_obj(d);
    struct id_op *op = op_new(rt, ctx);
    op->cb.image = done;
    json_set_str(d, json_set_obj(d, req, "image"), "image", image);
    cri_call(rt, "ImageService", "ImageStatus", req, 0, on_image_status, op);
}

static void on_pulled(void *ctx, int rc, struct json *resp, const struct err *e) {
    struct id_op *op = ctx;
    op->cb.image(op->ctx, rc, rc < 0 ? NULL : json_str_at(resp, "image_ref"), e);
    free(op);
}

/* Registry of an image name: what stands before the first slash when it looks like a host. */
static struct span registry_of(const char *image) {
    struct span s = span_str(image), host;
    if (span_until(&s, '/', &host) == 0 &&
        (span_index(host, '.') >= 0 || span_index(host, ':') >= 0 ||
         span_eq_str(host, "localhost"))) {
        return host;
    }
    return SPAN_LIT("docker.io");
}

static void add_auth(struct json_doc *d, struct json *req, const char *image,
                     const struct json *const *secrets, size_t n) {
    struct span want = registry_of(image);
    for (size_t i = 0; i < n; i++) {
        JSON_EACH_KV(it, host, entry, json_get(secrets[i], "auths")) {
            struct span h = span_str(host), head;
            h = span_starts(h, "https://") ? span_of(h.p + 8, h.n - 8) : h;
            bool is_hub = span_eq_str(want, "docker.io") && span_starts(h, "index.docker.io");
            if (span_next(&h, '/', &head) && (span_eq(head, want) || is_hub)) {
                struct json *a = json_set_obj(d, req, "auth");
                json_set_str(d, a, "username", json_str_at(entry, "username"));
                json_set_str(d, a, "password", json_str_at(entry, "password"));
                json_set_str(d, a, "auth", json_str_at(entry, "auth"));
                return;
            }
        }
    }
}

static void image_pull(void *rt, const char *image, const struct json *const *secrets, size_t n,
                       kubelet_image_cb *done, void *ctx) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *req = json_new_obj(d);
    struct id_op *op = op_new(rt, ctx);
    op->cb.image = done;
    json_set_str(d, json_set_obj(d, req, "image"), "image", image);
    add_auth(d, req, image, secrets, n);
    cri_call(rt, "ImageService", "PullImage", req, 1800 * NS_PER_S, on_pulled, op);
}

/* ---- exec and streams ---- */

static void on_exec(void *ctx, int rc, struct json *resp, const struct err *e) {
    struct id_op *op = ctx;
    AUTO(buf) struct buf out = BUF_INIT(16 << 10);
    struct span parts[] = {json_span(json_get(resp, "stdout")),
                           json_span(json_get(resp, "stderr"))};
    for (size_t i = 0; i < 2; i++) {
        size_t room = out.max - out.n;
        buf_span(&out, span_of(parts[i].p, parts[i].n < room ? parts[i].n : room));
    }
    op->cb.exec(op->ctx, rc, (int)json_i64_at(resp, 0, "exit_code"), buf_view(&out), e);
    free(op);
}

static void exec_sync(void *rt, const char *id, const char *const *argv, size_t n,
                      unsigned timeout_s, kubelet_exec_cb *done, void *ctx) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *req = json_new_obj(d), *cmd = json_set_arr(d, req, "cmd");
    struct id_op *op = op_new(rt, ctx);
    op->cb.exec = done;
    json_set_str(d, req, "container_id", id);
    for (size_t i = 0; i < n; i++) {
        json_push_str(d, cmd, argv[i]);
    }
    json_set_i64(d, req, "timeout", timeout_s);
    cri_call(rt, "RuntimeService", "ExecSync", req, (timeout_s + 10ull) * NS_PER_S, on_exec, op);
}

static void stream(void *rt, const char *kind, const char *id, const struct json *query,
                   kubelet_id_cb *done, void *ctx) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *req = json_copy(d, query);
    struct id_op *op = op_new(rt, ctx);
    bool forward = str_eq(kind, "portforward");
    op->cb.id = done;
    op->field = "url";
    json_set_str(d, req, forward ? "pod_sandbox_id" : "container_id", id);
    cri_call(rt, "RuntimeService",
             forward                ? "PortForward"
             : str_eq(kind, "exec") ? "Exec"
                                    : "Attach",
             req, 0, on_id, op);
}

/* ---- info ---- */

static void on_status(void *ctx, int rc, struct json *resp, const struct err *e) {
    struct id_op *op = ctx;
    struct kubelet_runtime_info i = {.version = op->c->version, .reason = "", .message = ""};
    JSON_EACH(it, c, json_at(resp, "status", "conditions")) {
        bool ok = json_bool_at(c, false, "status"),
             is_net = str_eq(json_str_at(c, "type"), "NetworkReady");
        i.ready = i.ready || (ok && str_eq(json_str_at(c, "type"), "RuntimeReady"));
        i.network_ready = i.network_ready || (ok && is_net);
        if (!ok && !*i.reason) {
            i.reason = json_str_or(json_get(c, "reason"), "");
            i.message = json_str_or(json_get(c, "message"), "");
        }
    }
    op->cb.info(op->ctx, rc, rc < 0 ? NULL : &i, e);
    free(op);
}

static void on_version(void *ctx, int rc, struct json *resp, const struct err *e) {
    struct id_op *op = ctx;
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    if (rc < 0) {
        op->cb.info(op->ctx, rc, NULL, e);
        free(op);
        return;
    }
    struct span v = json_span(json_get(resp, "runtime_version")), plain;
    IGNORE_ERR(span_next(&v, '~', &plain), "Debian's suffix says nothing here");
    IGNORE_ERR(str_put(op->c->version, sizeof(op->c->version), "%s://%.*s",
                       json_str_or(json_get(resp, "runtime_name"), "unknown"), SPAN_FMT(plain)),
               "an over-long version stays empty");
    cri_call(op->c, "RuntimeService", "Status", json_new_obj(d), 10 * NS_PER_S, on_status, op);
}

static void info(void *rt, kubelet_info_cb *done, void *ctx) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct id_op *op = op_new(rt, ctx);
    op->cb.info = done;
    cri_call(rt, "RuntimeService", "Version", json_new_obj(d), 10 * NS_PER_S, on_version, op);
}

/* ---- list: two listings, and one status call for everything that is new or has changed its state ---- */

struct listing {
    struct kubelet_cri *c;
    kubelet_list_cb *done;
    void *ctx;
    struct json_doc *doc;
    struct json *sandboxes, *containers; /* arrays in doc */
    size_t pending;
    int rc;
    struct err err;
};
struct detail_op {
    struct listing *l;
    char *id;
    int state;
};

static int sandbox_cmp_state(const struct json *item) {
    return (int)json_i64_at(item, 0, "state");
}

static const struct json *status_of(const struct listing *l, const struct json *item) {
    const struct cri_detail *d = map_get_str(&l->c->details, json_str_or(json_get(item, "id"), ""));
    return d ? d->status : NULL;
}

static void fill_sandbox(const struct listing *l, const struct json *item,
                         struct kubelet_sandbox_status *s) {
    const struct json *m = json_get(item, "metadata"),
                      *net = json_get(status_of(l, item), "network");
    *s = (struct kubelet_sandbox_status){.id = json_str_or(json_get(item, "id"), ""),
                                         .ns = json_str_or(json_get(m, "namespace"), ""),
                                         .name = json_str_or(json_get(m, "name"), ""),
                                         .uid = json_str_or(json_get(m, "uid"), ""),
                                         .attempt = (unsigned)json_i64_at(m, 0, "attempt"),
                                         .ready = sandbox_cmp_state(item) == SANDBOX_READY,
                                         .created_wall_ns =
                                             (uint64_t)json_i64_at(item, 0, "created_at")};
    const char *ip = json_str_at(net, "ip");
    if (ip && *ip) {
        s->ips[s->n_ips++] = ip;
    }
    JSON_EACH(it, more, json_get(net, "additional_ips")) {
        if (s->n_ips < LIM_KUBELET_IPS && json_str_at(more, "ip")) {
            s->ips[s->n_ips++] = json_str_at(more, "ip");
        }
    }
}

static enum kubelet_ctr_state state_of(int64_t s) {
    return s == 0             ? KUBELET_CREATED
           : s == CRI_RUNNING ? KUBELET_RUNNING
           : s == CRI_EXITED  ? KUBELET_EXITED
                              : KUBELET_UNKNOWN;
}

static void fill_container(const struct listing *l, const struct json *item,
                           struct kubelet_container_status *c) {
    const struct json *m = json_get(item, "metadata"), *st = status_of(l, item);
    *c = (struct kubelet_container_status){
        .id = json_str_or(json_get(item, "id"), ""),
        .sandbox_id = json_str_or(json_get(item, "pod_sandbox_id"), ""),
        .pod_uid = json_str_or(json_at(item, "labels", "io.kubernetes.pod.uid"), ""),
        .name = json_str_or(json_get(m, "name"), ""),
        .attempt = (unsigned)json_i64_at(m, 0, "attempt"),
        .state = state_of(json_i64_at(item, 0, "state")),
        .created_wall_ns = (uint64_t)json_i64_at(item, 0, "created_at"),
        .started_wall_ns = (uint64_t)json_i64_at(st, 0, "started_at"),
        .finished_wall_ns = (uint64_t)json_i64_at(st, 0, "finished_at"),
        .exit_code = (int)json_i64_at(st, 0, "exit_code"),
        .reason = json_str_or(json_get(st, "reason"), ""),
        .message = json_str_or(json_get(st, "message"), ""),
        .image = json_str_or(json_at(st, "image", "image"), ""),
        .image_ref =
            json_str_or(json_get(st, "image_ref"), json_str_or(json_get(item, "image_ref"), "")),
    };
}

static void forget_gone(struct kubelet_cri *c) {
    struct map_iter it = {0};
    for (struct map_entry *e; map_next(&c->details, &it, &e);) {
        struct cri_detail *d = e->value;
        if (!d->seen) {
            map_del(&c->details, span_of(e->key, e->n));
            detail_free(d);
        } else {
            d->seen = false;
        }
    }
}

static void listing_end(struct listing *l) {
    struct kubelet_snapshot s = {0};
    size_t ns = json_len(l->sandboxes), nc = json_len(l->containers), i = 0;
    struct kubelet_sandbox_status *sb = mem_array(NULL, ns + 1, sizeof(*sb), 1 << 16);
    struct kubelet_container_status *ct = mem_array(NULL, nc + 1, sizeof(*ct), 1 << 16);
    if (l->rc == 0 && (!sb || !ct)) {
        l->rc = err_set(&l->err, ERR_NOMEM, "too many containers");
    }
    if (l->rc == 0) {
        JSON_EACH(it, item, l->sandboxes) {
            fill_sandbox(l, item, &sb[i++]);
        }
        i = 0;
        JSON_EACH(it2, item, l->containers) {
            fill_container(l, item, &ct[i++]);
        }
        s = (struct kubelet_snapshot){sb, ns, ct, nc};
    }
    l->done(l->ctx, l->rc, l->rc < 0 ? NULL : &s, &l->err);
    if (l->rc == 0) {
        forget_gone(l->c);
    }
    free(sb);
    free(ct);
    json_doc_free(l->doc);
    free(l);
}

static void on_detail(void *ctx, int rc, struct json *resp, const struct err *e) {
    struct detail_op *op = ctx;
    struct listing *l = op->l;
    (void)e; /* gone meanwhile: without details it is listed as it is */
    if (rc == 0) {
        struct cri_detail *d = map_get_str(&l->c->details, op->id);
        if (!d) {
            d = new_zero(struct cri_detail);
            map_put_str(&l->c->details, op->id, d);
        }
        json_doc_free(d->doc);
        d->doc = json_doc_new();
        const struct json *st = json_get(resp, "status");
        d->status = st ? json_copy(d->doc, st) : json_new_obj(d->doc);
        d->state = op->state;
        d->seen = true;
    }
    free(op->id);
    free(op);
    if (--l->pending == 0) {
        listing_end(l);
    }
}

static void details(struct listing *l, const struct json *list, const char *method,
                    const char *field) {
    JSON_EACH(it, item, list) {
        const char *id = json_str_or(json_get(item, "id"), "");
        int state = sandbox_cmp_state(item);
        struct cri_detail *d = map_get_str(&l->c->details, id);
        if (d) {
            d->seen = true;
        }
        if (d && d->state == state) {
            continue;
        }
        struct json *req = json_new_obj(l->doc);
        struct detail_op *op = new_zero(struct detail_op);
        op->l = l;
        op->id = str_dup(id);
        op->state = state;
        json_set_str(l->doc, req, field, id);
        l->pending++;
        cri_call(l->c, "RuntimeService", method, req, 10 * NS_PER_S, on_detail, op);
    }
}

static struct json *copy_list(struct json_doc *d, const struct json *v) {
    return v ? json_copy(d, v) : json_new_arr(d); /* an empty list is no field at all */
}

static void on_containers(void *ctx, int rc, struct json *resp, const struct err *e) {
    struct listing *l = ctx;
    if (rc < 0) {
        l->rc = rc;
        l->err = *e;
        listing_end(l);
        return;
    }
    l->containers = copy_list(l->doc, json_get(resp, "containers"));
    l->pending = 1;
    details(l, l->sandboxes, "PodSandboxStatus", "pod_sandbox_id");
    details(l, l->containers, "ContainerStatus", "container_id");
    if (--l->pending == 0) {
        listing_end(l);
    }
}

static void on_sandboxes(void *ctx, int rc, struct json *resp, const struct err *e) {
    struct listing *l = ctx;
    if (rc < 0) {
        l->rc = rc;
        l->err = *e;
        listing_end(l);
        return;
    }
    l->sandboxes = copy_list(l->doc, json_get(resp, "items"));
    cri_call(l->c, "RuntimeService", "ListContainers", json_new_obj(l->doc), 20 * NS_PER_S,
             on_containers, l);
}

static void list(void *rt, kubelet_list_cb *done, void *ctx) {
    struct listing *l = new_zero(struct listing);
    l->c = rt;
    l->done = done;
    l->ctx = ctx;
    l->doc = json_doc_new();
    cri_call(l->c, "RuntimeService", "ListPodSandbox", json_new_obj(l->doc), 20 * NS_PER_S,
             on_sandboxes, l);
}

const struct kubelet_runtime_ops kubelet_cri_ops = {
    .name = "containerd",
    .info = info,
    .list = list,
    .sandbox_start = sandbox_start,
    .sandbox_stop = sandbox_stop,
    .sandbox_remove = sandbox_remove,
    .image_get = image_get,
    .image_pull = image_pull,
    .container_create = container_create,
    .container_start = container_start,
    .container_stop = container_stop,
    .container_remove = container_remove,
    .container_reopen_log = container_reopen_log,
    .exec = exec_sync,
    .stream = stream,
};
