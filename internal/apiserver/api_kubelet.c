#include "internal/apiserver/api_int.h"

/* What the kubelet answers: container logs are passed on as a stream; exec, attach and port-forward are in api_stream.c. The
 * proxies of pods, services and nodes are refused with 501. */

struct kubelet {
    struct loop *loop;
    struct api_call *c;
    struct http_client *client;
    struct http_call *call;
    struct loop_timer later; /* clients are not freed inside their own callbacks */
};

static void kubelet_free(struct kubelet *k) {
    loop_timer_stop(&k->later);
    http_client_free(k->client);
    free(k);
}

static void on_later(struct loop_timer *t) {
    struct kubelet *k = CONTAINER_OF(t, struct kubelet, later);
    kubelet_free(k);
}

static void finish(struct kubelet *k) {
    if (k->c != NULL) {
        struct api_call *c = k->c;
        k->c = NULL;
        c->closed = NULL;
        c->state = NULL;
    }
    k->call = NULL;
    if (!loop_timer_active(&k->later)) {
        loop_timer_start(k->loop, &k->later, 0, on_later, "kubelet client");
    }
}

static void on_closed(struct api_call *c) {
    struct kubelet *k = c->state;
    if (k->call != NULL) {
        http_call_cancel(k->call);
    }
    finish(k);
}

static void on_drain(struct http_req *r, void *ctx) {
    struct api_call *c = ctx;
    struct kubelet *k = c->state;
    (void)r;
    if (k != NULL && k->call != NULL) {
        http_call_pause(k->call, false);
    }
}

static void on_head(struct http_call *call, unsigned status, void *ctx) {
    struct kubelet *k = ctx;
    struct api_call *c = k->c;
    if (c == NULL || c->r == NULL) {
        return;
    }
    struct span type = http_call_header(call, "content-type");
    const struct http_header h = {SPAN_LIT("cache-control"), SPAN_LIT("no-cache, private")};
    c->answered = true;
    http_on_drain(c->r, on_drain, c);
    http_begin(c->r, status, type.n > 0 ? api_fmt(c, "%.*s", SPAN_FMT(type)) : "text/plain", &h, 1);
}

static void on_data(struct http_call *call, struct span data, void *ctx) {
    struct kubelet *k = ctx;
    if (k->c == NULL || k->c->r == NULL) {
        return;
    }
    http_write(k->c->r, data);
    if (http_pending(k->c->r) > LIM_API_WATCH_PENDING) {
        http_call_pause(call, true);
    }
}

static void on_end(struct http_call *call, int rc, const struct err *e, void *ctx) {
    struct kubelet *k = ctx;
    struct api_call *c = k->c;
    (void)call;
    if (c != NULL && c->r != NULL) {
        if (!c->answered) {
            api_fail(c, 500, "InternalError", "Internal error occurred: asking the kubelet: %s",
                     e != NULL ? e->msg : "no answer");
        } else if (rc < 0) {
            http_abort(c->r);
        } else {
            http_end(c->r);
        }
    }
    finish(k);
}

static const char *node_address(const struct json *node) {
    static const char *const types[] = {"InternalIP", "ExternalIP", "Hostname"};
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        JSON_EACH(it, a, json_at(node, "status", "addresses")) {
            if (str_eq(json_str(json_get(a, "type")), types[i])) {
                return json_str(json_get(a, "address"));
            }
        }
    }
    return NULL;
}

static void ask(struct api_call *c, const char *host, uint16_t port, const char *node,
                const char *target) {
    struct kubelet *k = new_zero(struct kubelet);
    struct err e = ERR_INIT;
    k->c = c;
    k->loop = c->a->l;
    const struct http_client_opts co = {.host = host,
                                        .port = port,
                                        .sni = node,
                                        .tls = c->a->kubelet_tls,
                                        .proto = HTTP_1_ONLY,
                                        .connect_timeout_ns = 5 * NS_PER_S,
                                        .max_conns = 1};
    int rc = http_client_new(c->a->l, &co, &k->client, &e);
    if (rc >= 0) {
        const struct http_call_opts o = {.method = "GET",
                                         .target = target,
                                         .on_head = on_head,
                                         .on_data = on_data,
                                         .on_end = on_end,
                                         .ctx = k};
        rc = http_call_start(k->client, &o, &k->call, &e);
    }
    if (rc < 0) {
        if (k->client != NULL) {
            http_client_free(k->client);
        }
        free(k);
        api_fail_err(c, &e);
        return;
    }
    c->state = k;
    c->closed = on_closed;
}

/* Where the kubelet of the node listens; false: answered. */
bool api_kubelet_of(struct api_call *c, const char *name, const char **ret_host,
                    uint16_t *ret_port) {
    struct api_res *nodes = api_res_find(c->a, "", "nodes");
    struct json *node = api_load_tree(c, nodes, "", name, nodes->kr, NULL);
    const char *host = node != NULL ? node_address(node) : NULL;
    int64_t port = json_i64_at(node, 0, "status", "daemonEndpoints", "kubeletEndpoint", "Port");
    if (node == NULL) {
        api_fail_not_found(c, "", "nodes", name);
    } else if (host == NULL || port <= 0 || port > 65535) {
        api_fail(c, 500, "InternalError",
                 "Internal error occurred: node %s has not told where its kubelet listens", name);
    } else if (c->a->kubelet_tls == NULL) {
        api_fail(c, 501, "NotImplemented", "this server has no certificate to present to kubelets");
    } else {
        *ret_host = host;
        *ret_port = (uint16_t)port;
        return true;
    }
    return false;
}

/* The container asked for, or the only one. NULL: answered. */
const char *api_container_of(struct api_call *c, const struct json *pod) {
    static const char *const lists[] = {"initContainers", "containers", "ephemeralContainers"};
    const char *want = api_query(c, "container");
    const struct json *containers = json_at(pod, "spec", "containers");
    if (want == NULL || want[0] == '\0') {
        if (json_len(containers) == 1 && json_len(json_at(pod, "spec", "initContainers")) == 0) {
            return json_str(json_get(json_idx(containers, 0), "name"));
        }
        AUTO(buf) struct buf names = BUF_INIT(16 << 10);
        AUTO(buf) struct buf inits = BUF_INIT(16 << 10);
        JSON_EACH(it, ct, containers) {
            buf_fmt(&names, "%s%s", names.n > 0 ? " " : "", json_str_or(json_get(ct, "name"), ""));
        }
        JSON_EACH(it2, ct, json_at(pod, "spec", "initContainers")) {
            buf_fmt(&inits, "%s%s", inits.n > 0 ? " " : "", json_str_or(json_get(ct, "name"), ""));
        }
        api_fail(c, 400, "BadRequest",
                 "a container name must be specified for pod %s, choose one of: [%s]%s", c->t.name,
                 buf_cstr(&names),
                 inits.n > 0 ? api_fmt(c, " or one of the init containers: [%s]", buf_cstr(&inits))
                             : "");
        return NULL;
    }
    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        JSON_EACH(it, ct, json_at(pod, "spec", lists[i])) {
            if (str_eq(json_str(json_get(ct, "name")), want)) {
                return want;
            }
        }
    }
    api_fail(c, 400, "BadRequest", "container %s is not valid for pod %s", want, c->t.name);
    return NULL;
}

static void pod_log(struct api_call *c, const struct json *pod) {
    static const char *const passed[] = {"follow",     "previous",  "sinceSeconds", "sinceTime",
                                         "timestamps", "tailLines", "limitBytes",   "stream"};
    const char *container = api_container_of(c, pod);
    if (container == NULL) {
        return;
    }
    const char *name = json_str_or(json_at(pod, "spec", "nodeName"), "");
    if (name[0] == '\0') {
        api_reply_bytes(c, 200, "text/plain", SPAN_EMPTY); /* not started anywhere: no log yet */
        return;
    }
    const char *host = NULL;
    uint16_t port = 0;
    if (!api_kubelet_of(c, name, &host, &port)) {
        return;
    }
    AUTO(buf) struct buf b = BUF_INIT(16 << 10);
    buf_fmt(&b, "/containerLogs/%s/%s/%s", c->t.ns, c->t.name, container);
    char sep = '?';
    for (size_t i = 0; i < ARRAY_LEN(passed); i++) {
        const char *v = api_query(c, passed[i]);
        if (v != NULL) {
            buf_fmt(&b, "%c%s=", sep, passed[i]);
            url_encode(&b, span_str(v));
            sep = '&';
        }
    }
    ask(c, host, port, name, buf_cstr(&b));
}

void api_kubelet(struct api_call *c) {
    const char *ns = c->main->namespaced ? c->t.ns : "";
    const char *name = c->t.name;
    struct json *o = NULL;
    if (strcmp(c->main->name, "services") == 0) {
        name = api_fmt(c, "%.*s", (int)strcspn(name, ":"), name);
    }
    o = api_load_tree(c, c->res, ns, name, c->res->kr, NULL);
    if (o == NULL) {
        api_fail_not_found(c, c->t.group, c->t.resource, name);
        return;
    }
    if (strcmp(c->kr->sub, "log") == 0) {
        pod_log(c, o);
        return;
    }
    if (strcmp(c->main->name, "pods") == 0 && strcmp(c->kr->sub, "proxy") != 0) {
        api_stream(c, o);
        return;
    }
    api_fail(c, 501, "NotImplemented", "%s/%s is not supported by this server", c->t.resource,
             c->kr->sub);
}
