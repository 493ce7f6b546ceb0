#include "internal/storesrv/srv_auth.h"
#include "internal/storesrv/srv_ns.h"

#include "internal/base/rand.h"
#include "internal/log/log.h"

#include <stdlib.h>

/* ---- identity: made once, kept beside the keys ---- */

static int take_id(void *ctx, struct span key, struct span value) {
    struct storesrv *v = ctx;
    uint64_t n;
    if (span_hex_to_u64(value, UINT64_MAX, &n) == 0) {
        if (span_eq_str(key, "cluster") && !v->cluster_id) {
            v->cluster_id = n;
        } else if (span_eq_str(key, "member") && !v->member_id) {
            v->member_id = n;
        }
    }
    return 0;
}

static void keep_id(struct storesrv *v, const char *name, uint64_t *id) {
    if (*id) {
        return;
    }
    *id = rand_u64() | 1;
    char hex[20];
    IGNORE_ERR(str_put(hex, sizeof(hex), "%llx", (unsigned long long)*id), "fits");
    store_aux_put(v->st, SPAN_LIT("identity"), span_str(name), span_str(hex), NULL, NULL);
}

/* ---- automatic compaction ---- */

struct compaction {
    struct storesrv *v;
    int64_t rev;
};

static void compacted(void *ctx, int rc, const struct err *e) {
    struct compaction *own = ctx;
    if (rc == 0 || rc == -ERR_GONE) {
        compactor_done(&own->v->compactor, loop_now(own->v->l), own->rev);
    } else {
        LOG_WARN("store", "auto-compaction is tried again", F_I64("revision", own->rev), F_ERR(e));
    }
    free(own);
}

static void compact_tick(struct loop_timer *t) {
    struct storesrv *v = CONTAINER_OF(t, struct storesrv, compact_timer);
    int64_t rev = compactor_tick(&v->compactor, loop_now(v->l), store_rev(v->st));
    if (rev) {
        struct compaction *c = new_zero(struct compaction);
        *c = (struct compaction){v, rev};
        store_compact(v->st, rev, false, compacted, c);
    }
    loop_timer_start(v->l, t, compactor_interval(&v->compactor), compact_tick, "auto-compaction");
}

/* ---- life ---- */

static char **copy_list(const char *const *from, size_t n) {
    char **v = mem_zero_alloc((n + 1) * sizeof(char *));
    for (size_t i = 0; i < n; i++) {
        v[i] = str_dup(from[i]);
    }
    return v;
}
static void free_list(char **v, size_t n) {
    for (size_t i = 0; i < n; i++) {
        free(v[i]);
    }
    free(v);
}

int storesrv_new(struct loop *l, struct store *s, const struct storesrv_opts *o,
                 struct storesrv **ret, struct err *e) {
    struct storesrv *v = new_zero(struct storesrv);
    v->l = l;
    v->st = s;
    v->o = *o;
    v->o.max_request_bytes = o->max_request_bytes ? o->max_request_bytes : 1536 * 1024;
    v->o.progress_ns = o->progress_ns ? o->progress_ns : 600 * NS_PER_S;
    v->o.bcrypt_cost = o->bcrypt_cost ? o->bcrypt_cost : 10;
    v->o.token_ttl_ns = o->token_ttl_ns ? o->token_ttl_ns : 300 * NS_PER_S;
    v->name = str_dup(o->name ? o->name : "default");
    v->client_urls = copy_list(o->client_urls, o->n_client_urls);
    v->peer_urls = copy_list(o->peer_urls, o->n_peer_urls);
    v->cluster_id = o->cluster_id;
    v->member_id = o->member_id;
    v->face.v = v;
    v->started_wall_ns = clock_wall_ns();
    list_init(&v->rpcs);
    list_init(&v->committed);
    list_init(&v->answers);
    list_init(&v->changes);
    list_init(&v->faces);
    list_init(&v->namespaces);
    list_init(&v->grants);
    v->chunks = chunks_new(l);
    int rc = store_aux_scan(s, SPAN_LIT("identity"), take_id, v, e);
    if (rc < 0 || (rc = auth_load(v, e)) < 0 || (rc = ns_load(v, e)) < 0) {
        storesrv_free(v);
        return rc;
    }
    keep_id(v, "cluster", &v->cluster_id);
    keep_id(v, "member", &v->member_id);
    compactor_init(&v->compactor, o, loop_now(l), store_rev(s));
    if (compactor_interval(&v->compactor)) {
        loop_timer_start(l, &v->compact_timer, compactor_interval(&v->compactor), compact_tick,
                         "auto-compaction");
    }
    *ret = v;
    return 0;
}

void storesrv_free(struct storesrv *v) {
    if (!v) {
        return;
    }
    loop_timer_stop(&v->compact_timer);
    struct err e = ERR_INIT;
    while (!list_empty(&v->rpcs)) { /* passwords that are still being hashed */
        CHECK(loop_step(v->l, NS_PER_S, &e) >= 0);
    }
    free_list(v->client_urls, v->o.n_client_urls);
    free_list(v->peer_urls, v->o.n_peer_urls);
    buf_fini(&v->spare);
    chunks_free(v->chunks);
    loop_hook_cancel(&v->shared_hook);
    watch_forget_shared(v);
    compactor_fini(&v->compactor);
    auth_fini(v);
    while (!list_empty(&v->faces)) {
        struct face *f = CONTAINER_OF(v->faces.next, struct face, link);
        list_del(&f->link);
        free(f);
    }
    ns_fini(v);
    free(v->name);
    free(v);
}

void storesrv_stop(struct storesrv *v) {
    for (struct list *p = v->rpcs.next; p != &v->rpcs;) {
        struct rpc *c = rpc_ref(CONTAINER_OF(p, struct rpc, link));
        if (c->m->stream || c->drop) {
            rpc_status(c, 14, "etcdserver: server stopped");
        }
        p = p->next;
        rpc_unref(c);
    }
}

/* ---- what a listener serves ---- */

static void on_metrics_request(struct http_req *r, void *ctx) {
    srv_on_plain(ctx, r);
}

static void on_http_request(struct http_req *r, void *ctx) {
    const struct face *f = ctx;
    if (f->v->o.no_gateway || !gateway_request(f, r)) {
        srv_on_plain(f, r);
    }
}

static void on_request(struct http_req *r, void *ctx) {
    if (span_starts(http_req_header(r, "content-type"), "application/grpc")) {
        srv_on_grpc(ctx, r);
    } else {
        on_http_request(r, ctx);
    }
}

struct http_handler storesrv_handler(struct storesrv *v) {
    return (struct http_handler){on_request, &v->face};
}
int storesrv_namespace_handler(struct storesrv *v, struct span prefix, struct http_handler *ret,
                               struct err *e) {
    struct srv_ns *ns;
    int rc = ns_get(v, prefix, &ns, e);
    if (rc < 0) {
        return rc;
    }
    struct face *f = new_zero(struct face);
    f->v = v;
    f->ns = ns;
    list_init(&f->link);
    list_add_tail(&v->faces, &f->link);
    *ret = (struct http_handler){on_request, f};
    return 0;
}
struct http_handler storesrv_http_handler(struct storesrv *v) {
    return (struct http_handler){on_http_request, &v->face};
}
struct http_handler storesrv_metrics_handler(struct storesrv *v) {
    return (struct http_handler){on_metrics_request, &v->face};
}
