/* Node IPAM: every node gets its own pod range out of the cluster's, one for each family. */
#include "internal/base/addr.h"
#include "internal/controllers/ctl_int.h"

#include <arpa/inet.h>

enum { MAX_BITS = 16, FAMILIES = 2 };

struct range {
    uint8_t base[16];
    unsigned prefix, mask; /* of the cluster's range, of a node's */
    bool v6;
    uint8_t *used; /* a bit for each node range */
};

struct ipam {
    struct controllers *c;
    struct kevents *ev;
    struct kqueue *q;
    struct range r[FAMILIES];
    size_t n;
};

static bool same_bits(const uint8_t *a, const uint8_t *b, unsigned bits) {
    for (unsigned i = 0; i < bits; i++) {
        if (((a[i / 8] ^ b[i / 8]) >> (7 - i % 8)) & 1) {
            return false;
        }
    }
    return true;
}

static size_t n_slots(const struct range *r) {
    return (size_t)1 << (r->mask - r->prefix);
}

/* Number of the node range that addr is in. */
static size_t slot_of(const struct range *r, const uint8_t *addr) {
    size_t k = 0;
    for (unsigned i = r->prefix; i < r->mask; i++) {
        k = k << 1 | ((unsigned)(addr[i / 8] >> (7 - i % 8)) & 1u);
    }
    return k;
}

static void slot_text(const struct range *r, size_t k, char dst[64]) {
    uint8_t a[16];
    char ip[48];
    memcpy(a, r->base, sizeof(a));
    for (unsigned i = r->mask; i-- > r->prefix; k >>= 1) {
        uint8_t bit = (uint8_t)(1u << (7 - i % 8));
        a[i / 8] = (uint8_t)((a[i / 8] & ~bit) | ((k & 1) ? bit : 0));
    }
    inet_ntop(r->v6 ? AF_INET6 : AF_INET, a, ip, sizeof(ip));
    IGNORE_ERR(str_put(dst, 64, "%s/%u", ip, r->mask), "fits");
}

/* Marks everything that overlaps cidr. */
static void mark(struct ipam *ctl, const char *cidr, bool used) {
    uint8_t a[16];
    unsigned prefix;
    bool v6;
    if (cidr_parse(span_str(cidr), a, &prefix, &v6) < 0) {
        return;
    }
    for (size_t i = 0; i < ctl->n; i++) {
        struct range *r = &ctl->r[i];
        unsigned common = prefix < r->prefix ? prefix : r->prefix;
        if (r->v6 != v6 || !same_bits(a, r->base, common)) {
            continue;
        }
        size_t first = prefix <= r->prefix ? 0 : slot_of(r, a), n = 1;
        if (prefix < r->mask) {
            n = prefix <= r->prefix ? n_slots(r) : (size_t)1 << (r->mask - prefix);
        }
        for (size_t k = first; k < first + n && k < n_slots(r); k++) {
            uint8_t bit = (uint8_t)(1u << (k % 8));
            r->used[k / 8] = (uint8_t)(used ? r->used[k / 8] | bit : r->used[k / 8] & ~bit);
        }
    }
}

static void mark_node(struct ipam *ctl, const struct json *node, bool used) {
    const struct json *list = json_at(node, "spec", "podCIDRs");
    JSON_EACH(it, v, list) {
        mark(ctl, json_str_or(v, ""), used);
    }
    if (!json_len(list) && json_str_at(node, "spec", "podCIDR")) {
        mark(ctl, json_str_at(node, "spec", "podCIDR"), used);
    }
}

static bool take(struct range *r, char dst[64]) {
    for (size_t k = 0; k < n_slots(r); k++) {
        if (!(r->used[k / 8] & (1u << (k % 8)))) {
            r->used[k / 8] = (uint8_t)(r->used[k / 8] | 1u << (k % 8));
            slot_text(r, k, dst);
            return true;
        }
    }
    return false;
}

struct ipamrun {
    struct ipam *ctl;
    char cidr[FAMILIES][64];
    size_t n;
};

static void on_assigned(struct sync *s, int rc, struct json *obj, const struct err *e) {
    struct ipamrun *run = s->data;
    (void)obj, (void)e;
    for (size_t i = 0; i < run->n && rc < 0; i++) {
        mark(run->ctl, run->cidr[i], false);
    }
}

static void handle(void *ctx, const char *key) {
    struct ipam *ctl = ctx;
    struct sync *s = sync_begin(ctl->c, ctl->q, key);
    struct ipamrun *run = s->data = new_zero(struct ipamrun);
    run->ctl = ctl;
    const struct json *node = kinformer_get(ctl->c->nodes, NULL, key);
    if (!node || kube_is_deleting(node) || json_len(json_at(node, "spec", "podCIDRs")) ||
        *json_str_or(json_at(node, "spec", "podCIDR"), "")) {
        sync_end(s);
        return;
    }
    struct json *patch = json_new_obj(s->d), *spec = json_set_obj(s->d, patch, "spec");
    struct json *list = json_set_arr(s->d, spec, "podCIDRs");
    for (; run->n < ctl->n; run->n++) {
        if (!take(&ctl->r[run->n], run->cidr[run->n])) {
            for (size_t i = 0; i < run->n; i++) {
                mark(ctl, run->cidr[i], false);
            }
            kevent(ctl->ev, node, "Normal", "CIDRNotAvailable",
                   "Node %s status is now: CIDRNotAvailable", key);
            s->failed = true;
            sync_end(s);
            return;
        }
        json_push_str(s->d, list, run->cidr[run->n]);
    }
    json_set_str(s->d, spec, "podCIDR", run->cidr[0]);
    struct kref r = ctl_ref("", "v1", "nodes", node, NULL);
    sync_patch(s, ctl->c->nodes, &r, KPATCH_MERGE, patch, on_assigned);
    sync_end(s);
}

static void on_node(void *ctx, struct json *old, struct json *cur) {
    struct ipam *ctl = ctx;
    if (old && !cur) {
        mark_node(ctl, old, false);
    } else if (cur) {
        mark_node(ctl, cur, true);
        kqueue_add_obj(ctl->q, cur);
    }
}

static bool add_range(struct ipam *ctl, struct span text) {
    struct range *r = &ctl->r[ctl->n];
    const struct controllers_opts *o = &ctl->c->o;
    if (ctl->n == FAMILIES || cidr_parse(text, r->base, &r->prefix, &r->v6) < 0) {
        return false;
    }
    unsigned mask = r->v6 ? o->node_cidr_mask_v6 : o->node_cidr_mask_v4;
    r->mask = mask ? mask : r->v6 ? 64 : 24;
    if (r->mask < r->prefix || r->mask - r->prefix > MAX_BITS ||
        (ctl->n && r->v6 == ctl->r[0].v6)) {
        return false;
    }
    r->used = ctl_alloc(ctl->c, n_slots(r) / 8 + 1);
    ctl->n++;
    return true;
}

void ctl_start_ipam(struct controllers *c) {
    if (!c->o.allocate_node_cidrs) {
        return;
    }
    struct ipam *ctl = ctl_new(c, struct ipam);
    ctl->c = c;
    ctl->ev = c->ev;
    struct span rest = span_str(c->o.cluster_cidr), part;
    while (span_next(&rest, ',', &part)) {
        if (!add_range(ctl, part)) {
            LOG_ERROR("controllers",
                      "--cluster-cidr: not a range that can be divided, no node gets a pod range",
                      F_SPAN("cidr", part));
            return;
        }
    }
    rest = span_str(c->o.service_cluster_ip_range);
    while (rest.n && span_next(&rest, ',', &part)) {
        char text[64];
        if (span_to_cstr(part, text, sizeof(text)) == 0) {
            mark(ctl, text, true);
        }
    }
    ctl->q = ctl_queue(c, "ipam", 4, handle, ctl);
    kinformer_listen(c->nodes, on_node, ctl);
    kqueue_need(ctl->q, c->nodes);
}
