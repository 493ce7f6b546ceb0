#include "internal/kclient/kclient.h"

#include "internal/base/rand.h"
#include "internal/kclient/kclient_int.h"
#include "internal/kube/kube.h"

#include <stdlib.h>

/* One request from its call to its callback. */
struct kop {
    struct list link; /* in the queue until started */
    struct kclient *c;
    char *method, *target, *content_type, *accept;
    struct buf body, answer;
    struct http_call *call;
    unsigned status;
    kclient_cb *done;
    void *ctx;
    struct err e;    /* why it could not start */
    bool is_started; /* counted in n_flight */
};

/* ---- server and credentials ---- */

static int parse_server(const char *server, struct http_client_opts *ho, char **ret_host,
                        struct err *e) {
    struct span s = span_str(server);
    ho->proto = HTTP_AUTO;
    if (span_starts(s, "unix://")) {
        ho->unix_path = server + 7;
        *ret_host = str_dup("kubernetes");
        ho->host = *ret_host;
        return 0;
    }
    bool tls = span_starts(s, "https://");
    if (!tls && !span_starts(s, "http://")) {
        return err_set(e, ERR_INVALID, "server %s: not https:// or unix://", server);
    }
    s = span_of(s.p + (tls ? 8 : 7), s.n - (tls ? 8 : 7));
    struct span host = SPAN_EMPTY, port = SPAN_EMPTY;
    if (!span_next(&s, '/', &host) || (s.n && !span_eq_str(s, "/"))) {
        return err_set(e, ERR_INVALID, "server %s: a path is not supported", server);
    }
    ptrdiff_t colon = -1;
    for (size_t i = 0; i < host.n; i++) {
        colon = host.p[i] == ':' ? (ptrdiff_t)i : host.p[i] == ']' ? -1 : colon;
    }
    if (colon >= 0) {
        port = span_of(host.p + colon + 1, host.n - (size_t)colon - 1);
        host.n = (size_t)colon;
    }
    if (host.n > 2 && host.p[0] == '[' && host.p[host.n - 1] == ']') {
        host = span_of(host.p + 1, host.n - 2);
    }
    uint64_t v = tls ? 443 : 80;
    if (!host.n || (colon >= 0 && span_to_u64(port, 1, 65535, &v) < 0)) {
        return err_set(e, ERR_INVALID, "server %s: no host or a bad port", server);
    }
    *ret_host = str_dupn(host.p, host.n);
    ho->host = *ret_host;
    ho->port = (uint16_t)v;
    return 0;
}

static void set_token(struct kclient *c, const char *token) {
    if (c->token) {
        secret_wipe(c->token, strlen(c->token));
        free(c->token);
    }
    c->token = token ? str_fmt("Bearer %s", token) : NULL;
}

int kclient_new(struct loop *l, const struct kclient_opts *o, struct kclient **ret, struct err *e) {
    struct http_client_opts ho = {.tls = o->tls, .sni = o->sni};
    AUTO_FREE char *host = NULL;
    int rc = parse_server(o->server, &ho, &host, e);
    if (rc < 0) {
        return rc;
    }
    if (!o->tls) {
        if (span_starts(span_str(o->server), "https://")) {
            return err_set(e, ERR_INVALID, "server %s: no TLS configuration", o->server);
        }
        ho.proto = HTTP_2_PRIOR;
    }
    struct kclient *c = new_zero(struct kclient);
    c->l = l;
    list_init(&c->queue);
    c->is_local = ho.unix_path != NULL;
    c->agent = str_dup(o->user_agent ? o->user_agent : "kfarm");
    set_token(c, o->token);
    rc = http_client_new(l, &ho, &c->h, e);
    if (rc < 0) {
        kclient_free(c);
        return rc;
    }
    *ret = c;
    return 0;
}

static void op_free(struct kop *op) {
    free(op->method);
    free(op->target);
    free(op->content_type);
    free(op->accept);
    buf_fini(&op->body);
    buf_fini(&op->answer);
    free(op);
}

void kclient_free(struct kclient *c) {
    if (!c) {
        return;
    }
    struct list dead;
    list_init(&dead);
    for (LIST_EACH(n, next, &c->queue)) {
        list_del(n);
        list_add_tail(&dead, n);
    }
    c->n_queue = 0;
    http_client_free(c->h); /* calls under way end with CANCELLED */
    for (LIST_EACH(n, next, &dead)) {
        struct kop *op = CONTAINER_OF(n, struct kop, link);
        list_del(n);
        struct err e = ERR_INIT;
        int rc = err_set(&e, ERR_CANCELLED, "the client was closed");
        op->done(op->ctx, rc, NULL, &e);
        op_free(op);
    }
    loop_hook_cancel(&c->pump);
    set_token(c, NULL);
    free(c->agent);
    free(c);
}

struct loop *kclient_loop(const struct kclient *c) {
    return c->l;
}

/* ---- paths ---- */

/* A path segment; what RFC 3986 allows in one stays readable ("system:node"). */
static void add_segment(struct buf *b, const char *s) {
    buf_u8(b, '/');
    for (; *s; s++) {
        if (strchr(":@!$&'()*+,;=", *s)) {
            buf_u8(b, (uint8_t)*s);
        } else {
            url_encode(b, span_of(s, 1));
        }
    }
}

int kref_path(const struct kref *r, struct buf *b) {
    if (r->group && *r->group) {
        buf_str(b, "/apis");
        add_segment(b, r->group);
    } else {
        buf_str(b, "/api");
    }
    add_segment(b, r->version);
    if (r->ns && *r->ns) {
        buf_str(b, "/namespaces");
        add_segment(b, r->ns);
    }
    add_segment(b, r->resource);
    if (r->name) {
        add_segment(b, r->name);
    }
    if (r->subresource) {
        add_segment(b, r->subresource);
    }
    return buf_ok(b);
}

uint64_t krv(const struct json *obj) {
    uint64_t v = 0;
    return span_to_u64(json_span(json_at(obj, "metadata", "resourceVersion")), 0, UINT64_MAX, &v) <
                   0
               ? 0
               : v;
}

/* ---- answers ---- */

static enum err_code code_of(unsigned status, const char *reason) {
    switch (status) {
    case 400: return ERR_INVALID;
    case 401: return ERR_UNAUTHENTICATED;
    case 403: return ERR_FORBIDDEN;
    case 404: return ERR_NOT_FOUND;
    case 405:
    case 406:
    case 415:
    case 501: return ERR_UNSUPPORTED;
    case 409: return str_eq(reason, "AlreadyExists") ? ERR_EXISTS : ERR_CONFLICT;
    case 410: return ERR_GONE;
    case 413: return ERR_LIMIT;
    case 422: return ERR_UNPROCESSABLE;
    case 429: return ERR_BUSY;
    case 502:
    case 503: return ERR_UNAVAILABLE;
    case 504: return ERR_TIMEOUT;
    default: return ERR_INTERNAL;
    }
}

int kclient_status_err(unsigned status, const struct json *body, struct err *e) {
    const char *msg = json_str(json_get(body, "message"));
    enum err_code c = code_of(status, json_str(json_get(body, "reason")));
    return msg ? err_set(e, c, "%s", msg) : err_set(e, c, "the API server answered %u", status);
}

static void finish(struct kop *op, int rc, const struct err *e) {
    struct kclient *c = op->c;
    AUTO(json_docp) struct json_doc *d = NULL;
    struct err mine = ERR_INIT;
    if (op->is_started) {
        c->n_flight--;
    }
    if (rc == 0 && op->answer.n) {
        struct err pe = ERR_INIT;
        rc = json_parse(buf_view(&op->answer), JSON_DUPS_OK, &d, &pe);
        if (rc < 0 && op->status < 300) {
            err_set(&mine, ERR_CORRUPT, "answer to %s %s: %s", op->method, op->target, pe.msg);
            e = &mine;
        } else if (rc < 0) {
            rc = 0; /* an error page that is not JSON: the status tells enough */
        }
    }
    if (rc == 0 && op->status >= 300) {
        rc = kclient_status_err(op->status, json_root(d), &mine);
        e = &mine;
    }
    /* The buffers are not needed any more, and the callback may make the next request. */
    buf_fini(&op->answer);
    buf_fini(&op->body);
    op->done(op->ctx, rc, json_root(d), rc < 0 ? e : NULL);
    op_free(op);
}

static void on_data(struct http_call *call, struct span data, void *ctx) {
    struct kop *op = ctx;
    (void)call;
    buf_span(&op->answer, data); /* a failure sticks and is seen at the end */
}

static void pump(void *ctx);

static void on_end(struct http_call *call, int rc, const struct err *e, void *ctx) {
    struct kop *op = ctx;
    struct kclient *c = op->c;
    struct err mine = ERR_INIT;
    op->status = call ? http_call_status(call) : 0;
    if (rc == 0 && buf_ok(&op->answer) < 0) {
        rc = err_set(&mine, ERR_LIMIT, "answer to %s %s is too large", op->method, op->target);
        e = &mine;
    }
    if (c->n_queue) {
        loop_before_sleep(c->l, &c->pump, pump, c);
    }
    finish(op, rc, e);
}

int kclient_stream(struct kclient *c, const struct http_call_opts *o, const char *accept,
                   struct http_call **ret, struct err *e) {
    struct http_header h[6];
    size_t n = 0;
    CHECK(o->n_headers <= 2);
    for (; n < o->n_headers; n++) {
        h[n] = o->headers[n];
    }
    h[n++] =
        (struct http_header){SPAN_LIT("accept"), span_str(accept ? accept : "application/json")};
    h[n++] = (struct http_header){SPAN_LIT("user-agent"), span_str(c->agent)};
    if (c->token) {
        h[n++] = (struct http_header){SPAN_LIT("authorization"), span_str(c->token)};
    }
    struct http_call_opts mine = *o;
    mine.headers = h;
    mine.n_headers = n;
    return http_call_start(c->h, &mine, ret, e);
}

static int start(struct kop *op, struct err *e) {
    struct http_header h = {SPAN_LIT("content-type"), span_str(op->content_type)};
    struct http_call_opts o = {
        .method = op->method,
        .target = op->target,
        .headers = &h,
        .n_headers = op->content_type ? 1 : 0,
        .body = buf_view(&op->body),
        .timeout_ns = 60 * NS_PER_S,
        .on_data = on_data,
        .on_end = on_end,
        .ctx = op,
    };
    return kclient_stream(op->c, &o, op->accept, &op->call, e);
}

static void pump(void *ctx) {
    struct kclient *c = ctx;
    while (c->n_queue && c->n_flight < LIM_KCLIENT_FLIGHT) {
        struct kop *op = CONTAINER_OF(c->queue.next, struct kop, link);
        list_del(&op->link);
        c->n_queue--;
        int rc = op->e.code ? -(int)op->e.code : start(op, &op->e);
        if (rc < 0) {
            struct err e = op->e;
            finish(op, rc, &e);
        } else {
            op->is_started = true;
            c->n_flight++;
        }
    }
}

/* Everything goes through the queue: the callback then never runs inside the call. */
static void submit(struct kclient *c, const char *method, const char *target,
                   const char *content_type, const char *accept, struct span body, kclient_cb *done,
                   void *ctx) {
    struct kop *op = new_zero(struct kop);
    op->c = c;
    op->method = str_dup(method);
    op->target = str_dup(target);
    op->content_type = content_type ? str_dup(content_type) : NULL;
    op->accept = accept ? str_dup(accept) : NULL;
    op->done = done;
    op->ctx = ctx;
    buf_init(&op->body, LIM_KCLIENT_OBJECT);
    buf_init(&op->answer, LIM_KCLIENT_ANSWER);
    if (buf_span(&op->body, body) < 0) {
        err_set(&op->e, ERR_LIMIT, "%s %s: the object is too large", method, target);
    } else if (c->n_queue >= LIM_KCLIENT_QUEUE) {
        err_set(&op->e, ERR_BUSY, "%s %s: too many requests are waiting", method, target);
    }
    list_add_tail(&c->queue, &op->link);
    c->n_queue++;
    loop_before_sleep(c->l, &c->pump, pump, c);
}

void kraw(struct kclient *c, const char *method, const char *target, const char *content_type,
          struct span body, kclient_cb *done, void *ctx) {
    submit(c, method, target, content_type, NULL, body, done, ctx);
}

void kclient_get_page(struct kclient *c, const char *target, const char *accept, kclient_cb *done,
                      void *ctx) {
    submit(c, "GET", target, NULL, accept, SPAN_EMPTY, done, ctx);
}

static void request(struct kclient *c, const char *method, const struct kref *r, const char *query,
                    const char *content_type, const struct json *body, kclient_cb *done,
                    void *ctx) {
    AUTO(buf) struct buf target = BUF_INIT(16384), text = BUF_INIT(LIM_KCLIENT_OBJECT + 1);
    kref_path(r, &target);
    if (query) {
        buf_fmt(&target, "?%s", query);
    }
    if (body) {
        json_write(body, 0, &text);
    }
    submit(c, method, buf_cstr(&target), content_type, NULL, buf_view(&text), done, ctx);
}

void kget(struct kclient *c, const struct kref *r, kclient_cb *done, void *ctx) {
    request(c, "GET", r, NULL, NULL, NULL, done, ctx);
}

void kcreate(struct kclient *c, const struct kref *r, const struct json *obj, kclient_cb *done,
             void *ctx) {
    request(c, "POST", r, NULL, "application/json", obj, done, ctx);
}

void kupdate(struct kclient *c, const struct kref *r, const struct json *obj, kclient_cb *done,
             void *ctx) {
    request(c, "PUT", r, NULL, "application/json", obj, done, ctx);
}

void kpatch(struct kclient *c, const struct kref *r, enum kpatch kind, const struct json *patch,
            const char *field_manager, kclient_cb *done, void *ctx) {
    static const char *const types[] = {
        "application/json-patch+json", "application/merge-patch+json",
        "application/strategic-merge-patch+json", "application/apply-patch+yaml"};
    AUTO(buf) struct buf q = BUF_INIT(512);
    if (field_manager) {
        buf_str(&q, "fieldManager=");
        url_encode(&q, span_str(field_manager));
    }
    if (kind == KPATCH_APPLY) {
        buf_str(&q, q.n ? "&force=true" : "force=true");
    }
    request(c, "PATCH", r, q.n ? buf_cstr(&q) : NULL, types[kind], patch, done, ctx);
}

static struct json *delete_options(struct json_doc *d, const char *propagation, const char *uid) {
    struct json *o = json_new_obj(d);
    json_set_str(d, o, "apiVersion", "v1");
    json_set_str(d, o, "kind", "DeleteOptions");
    if (str_eq(propagation, "now")) {
        json_set_i64(d, o, "gracePeriodSeconds", 0);
    } else if (propagation) {
        json_set_str(d, o, "propagationPolicy", propagation);
    }
    if (uid) {
        json_set_str(d, json_set_obj(d, o, "preconditions"), "uid", uid);
    }
    return o;
}

void kdelete(struct kclient *c, const struct kref *r, const char *propagation, const char *uid,
             kclient_cb *done, void *ctx) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    request(c, "DELETE", r, NULL, "application/json", delete_options(d, propagation, uid), done,
            ctx);
}

void kdelete_collection(struct kclient *c, const struct kref *r, const char *propagation,
                        kclient_cb *done, void *ctx) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *o = delete_options(d, propagation, NULL);
    request(c, "DELETE", r, NULL, "application/json", o, done, ctx);
}

/* ---- lists ---- */

struct klist {
    struct kclient *c;
    char *path, *query;
    struct json_doc *d; /* the pages so far, in one list */
    kclient_cb *done;
    void *ctx;
};

static void list_page(struct klist *k, const char *cont);

static void on_page(void *ctx, int rc, struct json *obj, const struct err *e) {
    struct klist *k = ctx;
    if (rc == 0) {
        struct json *all = json_root(k->d);
        if (!all) {
            json_set_root(k->d, json_copy(k->d, obj));
        } else {
            struct json *items = json_need_arr(k->d, all, "items");
            JSON_EACH(it, v, json_get(obj, "items")) {
                json_push(items, json_copy(k->d, v));
            }
            json_set(k->d, all, "metadata", json_copy(k->d, json_get(obj, "metadata")));
        }
        const char *cont = json_str_at(obj, "metadata", "continue");
        if (cont && *cont) {
            list_page(k, cont);
            return;
        }
        obj = json_root(k->d);
    }
    k->done(k->ctx, rc, obj, e);
    json_doc_free(k->d);
    free(k->path);
    free(k->query);
    free(k);
}

static void list_page(struct klist *k, const char *cont) {
    AUTO(buf) struct buf t = BUF_INIT(32768);
    buf_fmt(&t, "%s?limit=%d", k->path, KCLIENT_PAGE);
    if (k->query) {
        buf_fmt(&t, "&%s", k->query);
    }
    if (cont) {
        buf_str(&t, "&continue=");
        url_encode(&t, span_str(cont));
    }
    submit(k->c, "GET", buf_cstr(&t), NULL, NULL, SPAN_EMPTY, on_page, k);
}

static void klist(struct kclient *c, const struct kref *r, const char *query, kclient_cb *done,
                  void *ctx) {
    AUTO(buf) struct buf path = BUF_INIT(16384);
    kref_path(r, &path);
    struct klist *k = new_zero(struct klist);
    k->c = c;
    k->path = str_dup(buf_cstr(&path));
    k->query = query && *query ? str_dup(query) : NULL;
    k->d = json_doc_new();
    k->done = done;
    k->ctx = ctx;
    list_page(k, NULL);
}

/* ---- the blocking form ---- */

struct sync_call {
    bool is_done;
    int rc;
    struct err e;
    struct json_doc *d;
};

static void on_sync_done(void *ctx, int rc, struct json *obj, const struct err *e) {
    struct sync_call *s = ctx;
    s->is_done = true;
    s->rc = rc;
    if (rc < 0) {
        s->e = *e;
    } else if (obj) {
        s->d = json_doc_new();
        json_set_root(s->d, json_copy(s->d, obj));
    }
}

int kcall_sync(struct kclient *c, const char *method, const struct kref *r, const char *query,
               const char *content_type, const struct json *body, struct json_doc **ret,
               struct err *e) {
    struct sync_call s = {.e = ERR_INIT};
    if (str_eq(method, "GET") && !r->name) {
        klist(c, r, query, on_sync_done, &s);
    } else {
        request(c, method, r, query, body && !content_type ? "application/json" : content_type,
                body, on_sync_done, &s);
    }
    while (!s.is_done) {
        int rc = loop_step(c->l, UINT64_MAX, e);
        if (rc < 0) {
            return rc; /* epoll itself failed; the request's memory is lost with the process */
        }
    }
    if (s.rc < 0) {
        *e = s.e;
        return s.rc;
    }
    if (ret) {
        *ret = s.d;
    } else {
        json_doc_free(s.d);
    }
    return 0;
}
