#include "internal/apiserver/api_int.h"

/* Putting the server together and taking it apart. */

/* Groups that are not served: their kinds mean nothing without the machinery behind them (webhooks, custom resources,
 * aggregation, device allocation), and storing them would pretend otherwise. */
bool api_serves(const struct apiserver *a, const struct kube_resource *kr) {
    static const char *const groups[] = {
        "admissionregistration.k8s.io", "apiextensions.k8s.io", "apiregistration.k8s.io",
        "internal.apiserver.k8s.io",    "resource.k8s.io",      "storagemigration.k8s.io"};
    static const char *const names[] = {"servicecidrs",
                                        "ipaddresses",
                                        "volumeattributesclasses",
                                        "componentstatuses",
                                        "podcertificaterequests",
                                        "clustertrustbundles"};
    unsigned sets = KUBE_SET_UPSTREAM | (a->farm ? KUBE_SET_FARM : 0u);
    if ((kr->sets & sets) == 0) {
        return false;
    }
    for (size_t i = 0; i < ARRAY_LEN(groups); i++) {
        if (strcmp(kr->group, groups[i]) == 0) {
            return false;
        }
    }
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (strcmp(kr->name, names[i]) == 0) {
            return false;
        }
    }
    return true;
}

static void res_name(const struct kube_resource *kr, char *dst, size_t cap) {
    if (str_put(dst, cap, "%s/%s", kr->group[0] != '\0' ? kr->group : "core", kr->name) < 0) {
        dst[0] = '\0';
    }
}

static bool is_stored(const struct apiserver *a, const struct kube_resource *kr) {
    return kr->sub[0] == '\0' && kr->stored && api_serves(a, kr) && (kr->verbs & KUBE_V_GET) != 0 &&
           kube_stored(kr) == kr && !api_is_virtual(kr);
}

static int make_resources(struct apiserver *a, struct err *e) {
    size_t n = 0;
    for (size_t i = 0; i < kube_n_resources(); i++) {
        n += is_stored(a, kube_resource_at(i)) ? 1 : 0;
    }
    a->res = mem_array(NULL, n, sizeof *a->res, 1024);
    if (a->res == NULL) {
        return err_set(e, ERR_NOMEM, "no memory for the resources");
    }
    memset(a->res, 0, n * sizeof *a->res);
    for (size_t i = 0; i < kube_n_resources(); i++) {
        const struct kube_resource *kr = kube_resource_at(i);
        if (!is_stored(a, kr)) {
            continue;
        }
        char name[256];
        struct api_res *res = &a->res[a->n_res++];
        res_name(kr, name, sizeof name);
        res->kr = kr;
        res->prefix = str_fmt("/registry/%s/", name);
        res->prefix_n = strlen(res->prefix);
        AUTO_FREE char *head =
            str_fmt("{\"kind\":\"%s\",\"apiVersion\":\"%s\",", kr->kind, kube_api_version(kr));
        res->head_n = strlen(head);
        list_init(&res->watches);
        map_put_str(&a->by_name, name, res);
    }
    a->services = api_res_find(a, "", "services");
    a->events = api_res_find(a, "", "events");
    return 0;
}

struct api_res *api_res_find(const struct apiserver *a, const char *group, const char *resource) {
    char name[256];
    if (str_put(name, sizeof name, "%s/%s", group[0] != '\0' ? group : "core", resource) < 0) {
        return NULL;
    }
    return map_get_str(&a->by_name, name);
}

struct api_res *api_res_of(const struct apiserver *a, const struct kube_resource *kr) {
    const struct kube_resource *s = kube_stored(kr);
    return s != NULL ? api_res_find(a, s->group, s->name) : NULL;
}

static char *dup_or_null(const char *s) {
    return s != NULL ? str_dup(s) : NULL;
}

static int http_start(struct apiserver *a, const struct apiserver_opts *o, struct err *e) {
    const struct http_server_opts h = {.handler = {api_call_start, a},
                                       .tls = o->tls,
                                       .body_max = LIM_API_BODY,
                                       .h2c = o->tls == NULL,
                                       .name = "apiserver"};
    return http_server_new(a->l, &h, &a->http, e);
}

int apiserver_new(struct loop *l, const struct apiserver_opts *o, void (*ready)(void *ctx),
                  void *ctx, struct apiserver **ret, struct err *e) {
    struct apiserver *a = new_zero(struct apiserver);
    a->l = l;
    a->store = o->own_store;
    a->started_ns = clock_ns();
    a->on_ready = ready;
    a->ready_ctx = ctx;
    a->farm = o->farm;
    a->anonymous = o->anonymous;
    a->signer = o->signer;
    a->cluster_name = dup_or_null(o->cluster_name);
    a->sa_issuer = str_dup(o->sa_issuer != NULL ? o->sa_issuer
                                                : "https://kubernetes.default.svc.cluster.local");
    a->advertise_address = dup_or_null(o->advertise_address);
    a->advertise_port = o->advertise_port;
    a->kubelet_tls = o->kubelet_tls != NULL ? tls_config_ref(o->kubelet_tls) : NULL;
    list_init(&a->calls);
    list_init(&a->retries);
    list_init(&a->open_watches);
    buf_init(&a->watch_text, LIM_API_LIST);
    a->sa_pems = mem_array(NULL, o->n_sa_public_pems + 1, sizeof *a->sa_pems, 64);
    for (size_t i = 0; i < o->n_sa_public_pems && a->sa_pems != NULL; i++) {
        const struct span *s = &o->sa_public_pems[i];
        a->sa_pems[a->n_sa_pems++] = span_of(str_dupn(s->p, s->n), s->n);
    }
    int rc = make_resources(a, e);
    if (rc >= 0) {
        rc = api_svc_init(a, o->service_cidr, o->node_ports, e);
    }
    if (rc >= 0) {
        rc = api_peers_init(a, e);
    }
    if (rc >= 0) {
        rc = http_start(a, o, e);
    }
    if (rc >= 0) {
        rc = api_cache_load(a, e);
    }
    if (rc < 0) {
        apiserver_free(a);
        return rc;
    }
    *ret = a;
    return 0;
}

int apiserver_listen(struct apiserver *a, int own_fd, struct err *e) {
    return http_server_listen(a->http, own_fd, e);
}

int apiserver_accept_fd(struct apiserver *a, int own_fd, struct err *e) {
    return http_server_accept_fd(a->http, own_fd, e);
}

void apiserver_shutdown(struct apiserver *a, uint64_t grace_ns, void (*done)(void *ctx),
                        void *ctx) {
    a->stopping = true;
    api_peers_stop(a);
    api_watch_end_all(a);
    http_server_shutdown(a->http, grace_ns, done, ctx);
}

void apiserver_free(struct apiserver *a) {
    if (a == NULL) {
        return;
    }
    if (a->http != NULL) {
        http_server_free(a->http);
    }
    a->closing = true;
    for (LIST_EACH(pos, nxt, &a->retries)) {
        struct api_call *c = CONTAINER_OF(pos, struct api_call, retry_link);
        list_del(pos);
        api_call_unbusy(c);
    }
    /* Commits under way finish here; their calls release themselves. */
    store_watch_stop(a->watch);
    a->watch = NULL;
    store_close(a->store);
    a->store = NULL;
    loop_timer_stop(&a->bookmark_timer);
    loop_timer_stop(&a->retry_timer);
    loop_timer_stop(&a->compact_timer);
    loop_timer_stop(&a->load_timer);
    loop_hook_cancel(&a->rest_hook);
    buf_fini(&a->watch_text);
    api_tokens_forget(a);
    api_rbac_free(a);
    api_svc_free(a);
    api_peers_free(a);
    api_cache_free(a);
    map_fini(&a->by_name);
    map_fini(&a->turns);
    if (a->kubelet_tls != NULL) {
        tls_config_unref(a->kubelet_tls);
    }
    for (size_t i = 0; i < a->n_sa_pems; i++) {
        char *own = NULL;
        memcpy(&own, &a->sa_pems[i].p, sizeof own);
        free(own);
    }
    free(a->sa_pems);
    free(a->cluster_name);
    free(a->sa_issuer);
    free(a->advertise_address);
    free(a);
}
