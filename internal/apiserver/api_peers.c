#include "internal/apiserver/api_int.h"

/* The API servers of one store, as upstream's lease endpoint reconciler keeps them: each has a key
 *
 *     /registry/masterleases/<ip>:<port>
 *
 * that vanishes with its lease when the server dies. The watch of the store tells the others, and whoever finds the
 * endpoints of the `kubernetes` service different from the keys writes them anew. A server that has its store for itself
 * keeps no key: its own address is all there is. */

enum { LIM_API_PEERS = 64, PEER_TTL_S = 15, PEER_BEAT_S = 10, PEER_AGAIN_S = 1 };

static const char ROOT[] = "/registry/masterleases/";

struct api_peers {
    struct apiserver *a;
    char *own; /* "<ip>:<port>" */
    char *names[LIM_API_PEERS];
    size_t n; /* sorted, with our own from the first moment */
    struct loop_timer beat;
    struct loop_hook hook;
    bool is_busy; /* the own key is being written */
};

/* ---- who is there ---- */

static size_t lower(const struct api_peers *p, struct span name) {
    size_t i = 0;
    while (i < p->n && span_cmp(span_str(p->names[i]), name) < 0) {
        i++;
    }
    return i;
}

static void insert(struct api_peers *p, struct span name) {
    size_t at = lower(p, name);
    if (at < p->n && span_eq_str(name, p->names[at])) {
        return;
    }
    if (p->n == LIM_API_PEERS) {
        LOG_WARN("apiserver", "more API servers than can be told, leaving this one out",
                 F_SPAN("address", name));
        return;
    }
    memmove(&p->names[at + 1], &p->names[at], (p->n - at) * sizeof p->names[0]);
    p->names[at] = str_dupn(name.p, name.n);
    p->n++;
}

static void take_out(struct api_peers *p, struct span name) {
    size_t at = lower(p, name);
    if (at < p->n && span_eq_str(name, p->names[at])) {
        free(p->names[at]);
        p->n--;
        memmove(&p->names[at], &p->names[at + 1], (p->n - at) * sizeof p->names[0]);
    }
}

/* "192.0.2.1:6443", "fd00::1:6443"; false: not written by an API server. */
static bool name_split(const char *name, struct span *ret_ip, uint64_t *ret_port) {
    uint8_t ip[16];
    bool is_v6 = false;
    const char *colon = strrchr(name, ':');
    if (colon == NULL) {
        return false;
    }
    *ret_ip = span_of(name, (size_t)(colon - name));
    return ip_parse(*ret_ip, ip, &is_v6) >= 0 &&
           span_to_u64(span_str(colon + 1), 1, 65535, ret_port) >= 0;
}

/* ---- what the endpoints say ---- */

struct json *api_https_port(struct json_doc *d, struct json *o, uint64_t port) {
    struct json *p = json_new_obj(d);
    json_set_str(d, p, "name", "https");
    json_set_i64(d, p, "port", (int64_t)port);
    json_set_str(d, p, "protocol", "TCP");
    json_push(json_set_arr(d, o, "ports"), p);
    return p;
}

/* One subset for each port. */
void api_peers_endpoints(struct apiserver *a, struct json_doc *d, struct json *o) {
    const struct api_peers *p = a->peers;
    struct json *labels = json_set_obj(d, json_get(o, "metadata"), "labels");
    json_set_str(d, labels, "endpointslice.kubernetes.io/skip-mirror", "true");
    struct json *subsets = json_set_arr(d, o, "subsets");
    bool done[LIM_API_PEERS] = {false};
    for (size_t i = 0; i < p->n; i++) {
        struct span ip;
        uint64_t port = 0;
        uint64_t other = 0;
        if (done[i] || !name_split(p->names[i], &ip, &port)) {
            continue;
        }
        struct json *sub = json_new_obj(d);
        struct json *list = json_set_arr(d, sub, "addresses");
        for (size_t k = i; k < p->n; k++) {
            if (name_split(p->names[k], &ip, &other) && other == port) {
                struct json *addr = json_new_obj(d);
                json_set(d, addr, "ip", json_new_span(d, ip));
                json_push(list, addr);
                done[k] = true;
            }
        }
        api_https_port(d, sub, port);
        json_push(subsets, sub);
    }
}

/* A slice has one family and one set of ports: those of the first server. */
void api_peers_slice(struct apiserver *a, struct json_doc *d, struct json *o) {
    const struct api_peers *p = a->peers;
    struct json *labels = json_set_obj(d, json_get(o, "metadata"), "labels");
    json_set_str(d, labels, "kubernetes.io/service-name", "kubernetes");
    uint64_t first = 0;
    bool first_is_v6 = false;
    struct json *list = json_set_arr(d, o, "endpoints");
    for (size_t i = 0; i < p->n; i++) {
        struct span ip;
        uint64_t port = 0;
        if (!name_split(p->names[i], &ip, &port)) {
            continue;
        }
        bool is_v6 = span_index(ip, ':') >= 0;
        if (first == 0) {
            first = port;
            first_is_v6 = is_v6;
        }
        if (port != first || is_v6 != first_is_v6) {
            continue;
        }
        struct json *ep = json_new_obj(d);
        json_push(json_set_arr(d, ep, "addresses"), json_new_span(d, ip));
        json_set_bool(d, json_set_obj(d, ep, "conditions"), "ready", true);
        json_push(list, ep);
    }
    json_set_str(d, o, "addressType", first_is_v6 ? "IPv6" : "IPv4");
    api_https_port(d, o, first);
}

static void reconcile(void *ctx) {
    struct apiserver *a = ctx;
    if (a->ready && !a->stopping && a->watch != NULL) {
        api_boot_endpoints(a);
    }
}

/* ---- the own key ---- */

static void beat(struct loop_timer *t);

static void beat_again(struct api_peers *p, uint64_t after_ns) {
    loop_timer_start(p->a->l, &p->beat, after_ns, beat, "API servers");
}

static struct store_txn *own_txn(const struct api_peers *p, int64_t lease) {
    AUTO_FREE char *key = str_fmt("%s%s", ROOT, p->own);
    struct store_txn *t = store_txn_new(0);
    if (lease != 0) {
        store_txn_put(t, &t->body.then, span_str(key), span_str(p->own), lease);
    } else {
        store_txn_delete(t, &t->body.then, span_str(key), SPAN_EMPTY);
    }
    return t;
}

static void on_left(void *ctx, struct store_txn *t, int rc, const struct err *e) {
    (void)ctx;
    (void)t;
    if (rc < 0) {
        LOG_WARN("apiserver", "taking back the own address, its lease will", F_ERR(e));
    }
}

static void leave(struct api_peers *p) {
    store_txn(p->a->store, own_txn(p, 0), on_left, NULL);
}

static void beat_end(struct api_peers *p, int rc, const struct err *e) {
    p->is_busy = false;
    if (p->a->closing) {
        return;
    }
    if (p->a->stopping) {
        leave(p);
        return;
    }
    if (rc < 0) {
        LOG_WARN("apiserver", "telling the other API servers of this one, trying on", F_ERR(e));
    } else {
        loop_before_sleep(p->a->l, &p->hook, reconcile, p->a);
    }
    beat_again(p, (rc < 0 ? PEER_AGAIN_S : PEER_BEAT_S) * NS_PER_S);
}

static void on_key(void *ctx, struct store_txn *t, int rc, const struct err *e) {
    (void)t;
    beat_end(ctx, rc, e);
}

/* A new lease each time: the one before ends by itself, and its end no longer means the key. */
static void on_lease(void *ctx, int rc, int64_t id, int64_t ttl, const struct err *e) {
    struct api_peers *p = ctx;
    (void)ttl;
    if (rc < 0 || p->a->stopping || p->a->closing) {
        beat_end(p, rc, e);
        return;
    }
    store_txn(p->a->store, own_txn(p, id), on_key, p);
}

static void beat(struct loop_timer *t) {
    struct api_peers *p = CONTAINER_OF(t, struct api_peers, beat);
    if (p->a->closing) {
        return;
    }
    p->is_busy = true;
    store_lease_grant(p->a->store, 0, PEER_TTL_S, on_lease, p);
}

/* ---- life ---- */

void api_peers_event(struct apiserver *a, struct span key, bool gone) {
    struct api_peers *p = a->peers;
    struct span root;
    if (p == NULL || !span_starts(key, ROOT) || span_take(&key, sizeof ROOT - 1, &root) < 0) {
        return;
    }
    if (!gone) {
        insert(p, key);
    } else if (!span_eq_str(key, p->own)) {
        take_out(p, key);
    } else if (!p->is_busy && !a->stopping) {
        beat_again(p, 0); /* it was thought dead */
    }
    loop_before_sleep(a->l, &p->hook, reconcile, a);
}

void api_peers_forget(struct apiserver *a) {
    struct api_peers *p = a->peers;
    while (p != NULL && p->n > 0) {
        free(p->names[--p->n]);
    }
    if (p != NULL) {
        insert(p, span_str(p->own));
    }
}

int api_peers_init(struct apiserver *a, struct err *e) {
    struct span ip;
    uint64_t port = 0;
    if (a->advertise_address == NULL) {
        return 0;
    }
    struct api_peers *p = a->peers = new_zero(struct api_peers);
    p->a = a;
    p->own = str_fmt("%s:%u", a->advertise_address, a->advertise_port);
    if (!name_split(p->own, &ip, &port)) {
        return err_set(e, ERR_INVALID, "\"%s\" is no address and port to advertise", p->own);
    }
    api_peers_forget(a);
    return 0;
}

void api_peers_start(struct apiserver *a) {
    if (a->peers != NULL && store_is_shared(a->store)) {
        beat_again(a->peers, 0);
    }
}

void api_peers_stop(struct apiserver *a) {
    struct api_peers *p = a->peers;
    if (p == NULL || !store_is_shared(a->store)) {
        return;
    }
    loop_timer_stop(&p->beat);
    if (a->ready && !p->is_busy) {
        leave(p);
    }
}

void api_peers_free(struct apiserver *a) {
    struct api_peers *p = TAKE(a->peers);
    if (p == NULL) {
        return;
    }
    loop_timer_stop(&p->beat);
    loop_hook_cancel(&p->hook);
    while (p->n > 0) {
        free(p->names[--p->n]);
    }
    free(p->own);
    free(p);
}
