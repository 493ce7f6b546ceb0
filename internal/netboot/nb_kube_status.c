/* What is told back to the admin cluster: the leases of Networks, and conflicts between Tenants. */
#include "internal/netboot/nb_kube_int.h"

#include "internal/base/rand.h"
#include "internal/kclient/kclient.h"
#include "internal/keyclient/keyclient.h"
#include "internal/log/log.h"

enum {
    TELL_MS = 2000,         /* counts of leases in the API are that old */
    LIM_MESSAGE = 32 << 10, /* of a condition, by its schema */
};

/* ---- status of Networks ---- */

struct tally {
    const struct nb_network *net;
    uint64_t now_ns, next_ns; /* next_ns: when the first of them runs out */
    size_t leases, busy;      /* bound at all; not free inside the range */
};

static void count_lease(void *ctx, const struct dhcp_lease *l) {
    struct tally *t = ctx;
    const struct dhcp_subnet *sn = &t->net->subnet;
    if ((l->ip & sn->mask) == sn->addr && l->state != DHCP_FREE && l->until_ns > t->now_ns) {
        t->leases += l->state == DHCP_BOUND;
        t->busy += l->ip >= sn->range_lo && l->ip <= sn->range_hi;
        t->next_ns = l->until_ns < t->next_ns ? l->until_ns : t->next_ns;
    }
}

static const char *serving_interface(const struct netboot *nb, const struct nb_network *net) {
    for (size_t i = 0; i < nb->n_ifaces; i++) {
        uint32_t ip;
        if (nb_iface_network(&nb->ifaces[i], &ip) == net) {
            return nb->ifaces[i].name;
        }
    }
    return NULL;
}

static void status_sent(void *ctx, int rc, struct json *obj, const struct err *e) {
    (void)ctx;
    (void)obj;
    if (rc < 0 && rc != -ERR_CANCELLED && rc != -ERR_NOT_FOUND) {
        LOG_DEBUG("netboot", "status of a Network not written", F_ERR(e));
    }
}

/* Returns when to look again. */
static uint64_t tell_network(struct netboot_kube *k, const struct nb_network *net) {
    char ns[LIM_KKEY], name[LIM_KKEY];
    kkey_split(net->name, ns, name);
    const struct json *obj = kinformer_get(k->networks, ns, name), *old = json_get(obj, "status");
    struct tally t = {.net = net, .now_ns = loop_now(k->nb->l), .next_ns = UINT64_MAX};
    const struct dhcp_subnet *sn = &net->subnet;
    dhcp_server_each(k->nb->dhcp, count_lease, &t);
    const char *ifname = serving_interface(k->nb, net);
    int64_t size = sn->range_hi ? (int64_t)sn->range_hi - sn->range_lo + 1 : 0,
            free_n = size - (int64_t)t.busy;
    int64_t generation = json_i64_at(obj, 0, "metadata", "generation");
    if (!obj || (old && json_i64_at(old, -1, "leases") == (int64_t)t.leases &&
                 json_i64_at(old, -1, "free") == free_n &&
                 json_i64_at(old, -1, "observedGeneration") == generation &&
                 str_eq(json_str_at(old, "interface"), ifname))) {
        return t.next_ns;
    }
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *patch = json_new_obj(d), *st = json_set_obj(d, patch, "status");
    json_set_i64(d, st, "leases", (int64_t)t.leases);
    json_set_i64(d, st, "free", free_n);
    json_set_i64(d, st, "observedGeneration", generation);
    json_set(d, st, "interface", ifname ? json_new_str(d, ifname) : json_new_null(d));
    const struct kref ref = {"kfarm.dev", "v1alpha1", "networks", ns, name, "status"};
    kpatch(k->c, &ref, KPATCH_MERGE, patch, NULL, status_sent, NULL);
    return t.next_ns;
}

static void tell(struct loop_timer *t) {
    struct netboot_kube *k = CONTAINER_OF(t, struct netboot_kube, tell_timer);
    uint64_t next = UINT64_MAX, now = loop_now(k->nb->l);
    for (size_t i = 0; i < k->nb->plan->n_networks && kinformer_synced(k->networks); i++) {
        uint64_t at = tell_network(k, &k->nb->plan->networks[i]);
        next = at < next ? at : next;
    }
    if (next != UINT64_MAX) {
        loop_timer_start(k->nb->l, &k->tell_timer,
                         (next > now ? next - now : 0) + TELL_MS * NS_PER_MS, tell,
                         "network status");
    }
}

void nb_kube_tell_soon(void *ctx) {
    struct netboot_kube *k = ctx;
    const uint64_t wait = TELL_MS * NS_PER_MS;
    if (!loop_timer_active(&k->tell_timer) || k->tell_timer.due_ns > loop_now(k->nb->l) + wait) {
        loop_timer_start(k->nb->l, &k->tell_timer, wait, tell, "network status");
    }
}

/* ---- conflicts between Tenants ---- */

static const char conflict_type[] = "DeclarationConflict";

static const struct json *condition_of(const struct json *tenant) {
    JSON_EACH(it, c, json_at(tenant, "status", "conditions")) {
        if (str_eq(json_str_at(c, "type"), conflict_type)) {
            return c;
        }
    }
    return NULL;
}

static void condition_sent(void *ctx, int rc, struct json *obj, const struct err *e) {
    (void)ctx;
    (void)obj;
    if (rc < 0 && rc != -ERR_CANCELLED && rc != -ERR_NOT_FOUND) {
        LOG_WARN("netboot", "condition of a Tenant not written, continuing", F_ERR(e));
    }
}

/* By server-side apply: the other conditions belong to farm, which keeps this one. */
static void tell_conflict(struct netboot_kube *k, const struct json *tenant, const char *message) {
    const struct json *old = condition_of(tenant);
    bool was = old && str_eq(json_str_at(old, "status"), "True"), is = *message;
    if (was == is && (!is || str_eq(json_str_at(old, "message"), message))) {
        return;
    }
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *patch = json_new_obj(d), *meta = json_set_obj(d, patch, "metadata"),
                *c = json_new_obj(d);
    const char *ns = json_str_at(tenant, "metadata", "namespace"),
               *name = json_str_at(tenant, "metadata", "name");
    char now[TIME_STR];
    time_rfc3339(clock_wall_ns() / NS_PER_S, now);
    json_set_str(d, patch, "apiVersion", "kfarm.dev/v1alpha1");
    json_set_str(d, patch, "kind", "Tenant");
    json_set_str(d, meta, "name", name);
    json_set_str(d, meta, "namespace", ns);
    json_push(json_set_arr(d, json_set_obj(d, patch, "status"), "conditions"), c);
    json_set_str(d, c, "type", conflict_type);
    json_set_str(d, c, "status", is ? "True" : "False");
    json_set_str(d, c, "reason", is ? "DeclaredTwice" : "Resolved");
    json_set_str(d, c, "message", message);
    json_set_str(d, c, "lastTransitionTime",
                 was == is ? json_str_or(json_get(old, "lastTransitionTime"), now) : now);
    const struct kref ref = {"kfarm.dev", "v1alpha1", "tenants", ns, name, "status"};
    kpatch(k->c, &ref, KPATCH_APPLY, patch, "kfarm-netboot", condition_sent, NULL);
}

void nb_kube_tell_conflicts(struct making *m) {
    struct map_iter it = {0};
    struct json *tenant;
    while (kinformer_next(m->k->tenants, &it, &tenant)) {
        AUTO(buf) struct buf text = BUF_INIT(LIM_MESSAGE);
        const char *uid = json_str_at(tenant, "metadata", "uid");
        JSON_EACH(it2, line, uid ? json_get(m->conflicts, uid) : NULL) {
            buf_fmt(&text, "%s%s", text.n ? "; " : "", json_str_or(line, ""));
        }
        tell_conflict(m->k, tenant, buf_ok(&text) == 0 && text.n ? buf_cstr(&text) : "");
    }
}
