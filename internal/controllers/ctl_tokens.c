/* Bootstrap tokens: expired ones are removed; kube-public/cluster-info is signed with those that may sign. */
#include "internal/controllers/ctl_int.h"
#include "internal/hash/hash.h"
#include "internal/pki/pki.h"

#define NS_TOKENS "kube-system"
#define NS_INFO "kube-public"

struct tokenctl {
    struct controllers *c;
    struct kinformer *tokens, *infos, *endpoints;
    struct kqueue *q;
};

static struct kinformer *token_informer(struct controllers *c) {
    struct kinformer_opts o = {
        .ref = {.group = "", .version = "v1", .resource = "secrets", .ns = NS_TOKENS},
        .field_selector = "type=bootstrap.kubernetes.io/token"};
    return kfactory_get(c->f, &o);
}

/* A member of data, decoded; empty when it is missing or bad. */
static void field(const struct json *secret, const char *key, struct buf *b) {
    buf_reset(b);
    if (b64_decode(b, json_span(json_at(secret, "data", key))) < 0) {
        buf_reset(b);
    }
}

/* ---- expiry ---- */

static void handle_expiry(void *ctx, const char *key) {
    struct tokenctl *ctl = ctx;
    struct sync *s = sync_begin(ctl->c, ctl->q, key);
    const struct json *t = kinformer_get(ctl->tokens, s->ns, s->name);
    AUTO(buf) struct buf b = BUF_INIT(1024);
    field(t, "expiration", &b);
    uint64_t due, now = clock_wall_ns();
    if (t && b.n && time_parse(buf_view(&b), &due) == 0) {
        if (due <= now) {
            struct kref r = ctl_ref("", "v1", "secrets", t, NULL);
            sync_delete(s, ctl->tokens, &r, NULL, kube_uid(t), NULL);
        } else {
            kqueue_add_after(ctl->q, key, due - now);
        }
    }
    sync_end(s);
}

static void on_token(void *ctx, struct json *old, struct json *cur) {
    struct tokenctl *ctl = ctx;
    (void)old;
    if (cur) {
        kqueue_add_obj(ctl->q, cur);
    }
}

void ctl_start_tokens(struct controllers *c) {
    struct tokenctl *ctl = ctl_new(c, struct tokenctl);
    ctl->c = c;
    ctl->tokens = token_informer(c);
    ctl->q = ctl_queue(c, "token-clean", 1, handle_expiry, ctl);
    kinformer_listen(ctl->tokens, on_token, ctl);
    kqueue_need(ctl->q, ctl->tokens);
}

/* ---- cluster-info ---- */

/* RFC 7515 with detached content (appendix F): header..signature, HS256 with the token's secret. */
static int sign_detached(struct buf *out, struct span content, struct span id, struct span secret) {
    AUTO(buf) struct buf head = BUF_INIT(1024), msg = BUF_INIT(4 << 20);
    uint8_t mac[32];
    buf_str(&head, "{\"alg\":\"HS256\",\"kid\":");
    json_write_str(&head, id);
    buf_str(&head, "}");
    b64url_encode(&msg, buf_view(&head));
    buf_span(out, buf_view(&msg));
    buf_str(out, "..");
    buf_u8(&msg, '.');
    b64url_encode(&msg, content);
    hash_hmac_sha256(secret, buf_view(&msg), mac);
    b64url_encode(out, span_of(mac, sizeof(mac)));
    return buf_ok(&msg) < 0 ? buf_ok(&msg) : buf_ok(out);
}

static void sign_all(struct tokenctl *ctl, struct json_doc *d, struct json *data,
                     struct span kubeconfig) {
    AUTO(buf)
    struct buf id = BUF_INIT(1024), secret = BUF_INIT(1024), flag = BUF_INIT(64),
               jws = BUF_INIT(4096);
    struct map_iter it = {0};
    struct json *t;
    while (kinformer_next(ctl->tokens, &it, &t)) {
        field(t, "usage-bootstrap-signing", &flag);
        field(t, "token-id", &id);
        field(t, "token-secret", &secret);
        AUTO_FREE char *name = str_fmt("bootstrap-token-%s", buf_cstr(&id));
        buf_reset(&jws);
        if (!span_eq_str(buf_view(&flag), "true") || !id.n || !secret.n ||
            !str_eq(kube_name(t), name) || kube_is_deleting(t) ||
            sign_detached(&jws, kubeconfig, buf_view(&id), buf_view(&secret)) < 0) {
            continue;
        }
        AUTO_FREE char *key = str_fmt("jws-kubeconfig-%s", buf_cstr(&id));
        json_set_str(d, data, key, buf_cstr(&jws));
    }
    if (secret.p) {
        secret_wipe(secret.p, secret.cap);
    }
}

/* As given, or where the API server says that it can be reached; empty: not known yet. */
static void server_url(const struct tokenctl *ctl, struct buf *b) {
    const struct json *sub =
        json_idx(json_get(kinformer_get(ctl->endpoints, "default", "kubernetes"), "subsets"), 0);
    const char *ip = json_str(json_get(json_idx(json_get(sub, "addresses"), 0), "ip"));
    int64_t port = json_i64(json_get(json_idx(json_get(sub, "ports"), 0), "port"), 443);
    if (ctl->c->o.server_url) {
        buf_str(b, ctl->c->o.server_url);
    } else if (ip) {
        bool v6 = strchr(ip, ':') != NULL;
        buf_fmt(b, "https://%s%s%s:%lld", v6 ? "[" : "", ip, v6 ? "]" : "", (long long)port);
    }
}

/* A kubeconfig without a user: where the cluster is and whom to trust. */
static void write_kubeconfig(const struct tokenctl *ctl, struct buf *b) {
    const struct controllers *c = ctl->c;
    AUTO(buf) struct buf server = BUF_INIT(1024);
    server_url(ctl, &server);
    buf_fmt(b, "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: ");
    b64_encode(b, c->o.root_ca_pem);
    buf_fmt(b,
            "\n    server: %s\n  name: \"\"\ncontexts: null\ncurrent-context: \"\"\nkind: Config\n"
            "preferences: {}\nusers: null\n",
            buf_cstr(&server));
}

static void handle_info(void *ctx, const char *key) {
    struct tokenctl *ctl = ctx;
    struct controllers *c = ctl->c;
    struct sync *s = sync_begin(c, ctl->q, key);
    const struct json *live = kinformer_get(ctl->infos, NS_INFO, "cluster-info");
    AUTO(buf) struct buf made = BUF_INIT(1 << 20), server = BUF_INIT(1024);
    server_url(ctl, &server);
    if (!live &&
        (!server.n || !c->o.root_ca_pem.n || !kinformer_get(c->namespaces, NULL, NS_INFO))) {
        sync_end(s);
        return;
    }
    struct json *want = live ? json_copy(s->d, live)
                             : kube_object_new(s->d, "v1", "ConfigMap", NS_INFO, "cluster-info");
    struct span kubeconfig = json_span(json_at(live, "data", "kubeconfig"));
    if (!live) { /* one that is there may be an administrator's: it is only signed */
        write_kubeconfig(ctl, &made);
        kubeconfig = buf_view(&made);
    }
    struct json *data = json_new_obj(s->d);
    JSON_EACH_KV(it, k, v, json_get(live, "data")) {
        if (!span_starts(span_str(k), "jws-kubeconfig-")) {
            json_set(s->d, data, k, json_copy(s->d, v));
        }
    }
    json_set(s->d, data, "kubeconfig", json_new_span(s->d, kubeconfig));
    sign_all(ctl, s->d, data, kubeconfig);
    json_set(s->d, want, "data", data);
    if (!live) {
        struct kref r = {"", "v1", "configmaps", NS_INFO, NULL, NULL};
        sync_create(s, ctl->infos, &r, want, NULL);
    } else if (!json_eq(live, want)) {
        struct kref r = ctl_ref("", "v1", "configmaps", live, NULL);
        sync_update(s, ctl->infos, &r, want, NULL);
    }
    sync_end(s);
}

static void on_anything(void *ctx, struct json *old, struct json *cur) {
    struct tokenctl *ctl = ctx;
    (void)old, (void)cur;
    kqueue_add(ctl->q, "cluster-info");
}

static void on_endpoints(void *ctx, struct json *old, struct json *cur) {
    if (cur && str_eq(kube_name(cur), "kubernetes") && str_eq(kube_namespace(cur), "default")) {
        on_anything(ctx, old, cur);
    }
}

static void on_namespace(void *ctx, struct json *old, struct json *cur) {
    if (cur && str_eq(kube_name(cur), NS_INFO) && !old) {
        on_anything(ctx, old, cur);
    }
}

void ctl_start_bootstrap_signer(struct controllers *c) {
    struct tokenctl *ctl = ctl_new(c, struct tokenctl);
    struct kinformer_opts o = {
        .ref = {.group = "", .version = "v1", .resource = "configmaps", .ns = NS_INFO},
        .field_selector = "metadata.name=cluster-info"};
    ctl->c = c;
    ctl->tokens = token_informer(c);
    ctl->infos = kfactory_get(c->f, &o);
    ctl->q = ctl_queue(c, "cluster-info", 1, handle_info, ctl);
    kinformer_listen(ctl->tokens, on_anything, ctl);
    ctl->endpoints = kfactory_all(c->f, "", "v1", "endpoints");
    kinformer_listen(ctl->infos, on_anything, ctl);
    kinformer_listen(ctl->endpoints, on_endpoints, ctl);
    kinformer_listen(c->namespaces, on_namespace, ctl);
    kqueue_need(ctl->q, ctl->tokens);
    kqueue_need(ctl->q, ctl->infos);
    kqueue_need(ctl->q, ctl->endpoints);
    kqueue_need(ctl->q, c->namespaces);
}
