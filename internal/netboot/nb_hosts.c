/* Hosts by discovery: every server that boots here, or tries to, is shown as a Host with what was seen of it. One that
 * somebody wrote by hand is recognised by its MAC addresses and keeps its spec, or, when it has none, by its UUID, and gets
 * the address; others are made, named after their first MAC address. */
#include "internal/netboot/nb_int.h"

#include "internal/base/rand.h"
#include "internal/kclient/kclient.h"
#include "internal/log/log.h"

#include <stdlib.h>

enum { /* whoever invents MAC addresses must neither fill the store nor keep it busy */
       LIM_DISCOVERED = 4096, /* Hosts at which no more are made */
       STRANGERS_PER_S = 10,  /* of those that nobody declared; the others come again */
};

struct nb_hosts {
    struct netboot *nb;
    struct kclient *c;
    struct kevents *events;
    const struct kinformer *hosts;
    uint64_t next_stranger_ns;
};

/* One Host on its way: made if need be, then told what was seen. */
struct sighting {
    struct kclient *c;
    char name[LIM_KKEY];
    struct json_doc *d;
    struct json *status, *spec; /* patches; spec may be NULL */
};

static void sighting_free(struct sighting *s) {
    json_doc_free(s->d);
    free(s);
}

static void tell(struct sighting *s);

static void told(void *ctx, int rc, struct json *obj, const struct err *e) {
    struct sighting *s = ctx;
    (void)obj;
    if (rc < 0 && rc != -ERR_CANCELLED) {
        LOG_DEBUG("netboot", "Host not updated", F_STR("host", s->name), F_ERR(e));
    }
    sighting_free(s);
}

static void spec_told(void *ctx, int rc, struct json *obj, const struct err *e) {
    struct sighting *s = ctx;
    (void)obj;
    if (rc < 0 && rc != -ERR_CANCELLED) {
        LOG_WARN("netboot", "hardware address not added to a Host, continuing",
                 F_STR("host", s->name), F_ERR(e));
    }
    s->spec = NULL;
    tell(s);
}

static void tell(struct sighting *s) {
    const struct kref whole = {"kfarm.dev", "v1alpha1", "hosts", NULL, s->name, NULL};
    if (s->spec) {
        kpatch(s->c, &whole, KPATCH_MERGE, s->spec, NULL, spec_told, s);
        return;
    }
    const struct kref ref = {"kfarm.dev", "v1alpha1", "hosts", NULL, s->name, "status"};
    kpatch(s->c, &ref, KPATCH_MERGE, s->status, NULL, told, s);
}

static void made(void *ctx, int rc, struct json *obj, const struct err *e) {
    struct sighting *s = ctx;
    (void)obj;
    if (rc < 0 && rc != -ERR_EXISTS) {
        LOG_DEBUG("netboot", "Host not made", F_STR("host", s->name), F_ERR(e));
        sighting_free(s);
        return;
    }
    tell(s);
}

static bool has_mac(const struct json *host, struct dhcp_hw hw) {
    JSON_EACH(it, mac, json_at(host, "spec", "macs")) {
        struct dhcp_hw own;
        if (dhcp_hw_parse(json_span(mac), &own) == 0 && dhcp_hw_eq(own, hw)) {
            return true;
        }
    }
    return false;
}

/* By UUID only where it is all that is known: a machine that sends another's UUID must not become that one. */
static bool has_only_uuid(const struct json *host, const struct nb_node *n) {
    uint8_t uuid[NB_UUID];
    return n && n->has_uuid && !json_len(json_at(host, "spec", "macs")) &&
           nb_uuid_parse(json_span(json_at(host, "spec", "uuid")), uuid) == 0 &&
           memcmp(uuid, n->uuid[0], NB_UUID) == 0;
}

static const struct json *known_host(const struct nb_hosts *h, struct dhcp_hw hw,
                                     const struct nb_node *n) {
    struct map_iter it = {0};
    struct json *host;
    const struct json *by_uuid = NULL;
    while (kinformer_next(h->hosts, &it, &host)) {
        if (has_mac(host, hw)) {
            return host;
        }
        by_uuid = has_only_uuid(host, n) ? host : by_uuid;
    }
    return by_uuid;
}

static void put_uuid(struct json_doc *d, struct json *spec, const struct nb_node *n) {
    const uint8_t *u = n->uuid[0];
    json_set(d, spec, "uuid",
             json_new_fmt(d, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
                          u[0], u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11],
                          u[12], u[13], u[14], u[15]));
}

static struct json *new_host(struct sighting *s, const struct nb_node *n, struct dhcp_hw hw) {
    char mac[DHCP_HW_STR];
    struct json *o = json_new_obj(s->d), *spec = json_set_obj(s->d, o, "spec");
    json_set_str(s->d, o, "apiVersion", "kfarm.dev/v1alpha1");
    json_set_str(s->d, o, "kind", "Host");
    json_set_str(s->d, json_set_obj(s->d, o, "metadata"), "name", s->name);
    json_set_str(s->d, spec, "purpose", n ? "node" : "spare");
    if (n && n->has_uuid) {
        put_uuid(s->d, spec, n);
    }
    struct json *macs = json_set_arr(s->d, spec, "macs");
    for (size_t i = 0; i < (n && n->n_macs ? n->n_macs : 1); i++) {
        dhcp_hw_format(n && n->n_macs ? n->macs[i] : hw, ':', mac);
        json_push_str(s->d, macs, mac);
    }
    return o;
}

static void put_seen(struct sighting *s, const struct nb_machine *m, const struct nb_node *n,
                     uint32_t ip) {
    static const char *const cpus[] = {"386", "amd64", "arm", "arm64", "riscv64", NULL};
    const struct dhcp_arch *a = m->has_arch ? dhcp_arch_find(m->arch) : NULL;
    char text[IP4_STR], now[TIME_STR], name[NB_NODE_NAME];
    struct json *st;
    s->status = json_new_obj(s->d);
    st = json_set_obj(s->d, s->status, "status");
    ip4_format(ip, text);
    json_push_str(s->d, json_set_arr(s->d, st, "addresses"), text);
    time_rfc3339(clock_wall_ns() / NS_PER_S, now);
    json_set_str(s->d, st, "lastSeen", now);
    if (a) { /* a PC's BIOS says x86, whatever its processor can do */
        bool bios = a->fw == DHCP_FW_BIOS;
        json_set_str(s->d, st, "architecture", bios ? "amd64" : cpus[a->cpu]);
        json_set_str(s->d, st, "firmware", bios ? "bios" : a->fw == DHCP_FW_UEFI ? "uefi" : NULL);
    }
    if (n && n->tenant) {
        nb_node_name(n, m->hw, name);
        json_set(s->d, st, "tenant", json_new_fmt(s->d, "%s/%s", n->tenant_ns, n->tenant));
        json_set_str(s->d, st, "node", name);
    }
}

/* An address for a Host that was written with a UUID only. */
static void put_mac(struct sighting *s, struct dhcp_hw hw) {
    char mac[DHCP_HW_STR];
    s->spec = json_new_obj(s->d);
    dhcp_hw_format(hw, ':', mac);
    json_push_str(s->d, json_set_arr(s->d, json_set_obj(s->d, s->spec, "spec"), "macs"), mac);
}

/* May a machine that nobody declared be written about now? */
static bool stranger_ok(struct nb_hosts *h, bool is_new) {
    uint64_t now = loop_now(h->nb->l);
    if (now < h->next_stranger_ns || (is_new && kinformer_count(h->hosts) >= LIM_DISCOVERED)) {
        return false;
    }
    h->next_stranger_ns = now + NS_PER_S / STRANGERS_PER_S;
    return true;
}

static void on_boot(void *ctx, const struct nb_machine *m, uint32_t ip) {
    struct nb_hosts *h = ctx;
    const struct nb_node *n = nb_target(h->nb, nb_plan_network_of(h->nb->plan, ip), m->hw);
    if (!kinformer_synced(h->hosts)) {
        return;
    }
    const struct json *host = known_host(h, m->hw, n);
    bool declared = n && (n->n_macs || n->has_uuid);
    if (!declared && !stranger_ok(h, !host)) {
        return;
    }
    struct sighting *s = new_zero(struct sighting);
    s->c = h->c;
    s->d = json_doc_new();
    put_seen(s, m, n, ip);
    if (host) {
        IGNORE_ERR(str_put(s->name, sizeof(s->name), "%s", json_str_at(host, "metadata", "name")),
                   "names of objects fit a key");
        if (!has_mac(host, m->hw)) {
            put_mac(s, m->hw);
        }
        tell(s);
        return;
    }
    char mac[DHCP_HW_STR];
    dhcp_hw_format(n && n->n_macs ? n->macs[0] : m->hw, '-', mac);
    IGNORE_ERR(str_put(s->name, sizeof(s->name), "mac-%s", mac), "fits");
    const struct kref ref = {"kfarm.dev", "v1alpha1", "hosts", NULL, NULL, NULL};
    kcreate(s->c, &ref, new_host(s, n, m->hw), made, s);
}

static void on_waiting(void *ctx, struct dhcp_hw hw) {
    struct nb_hosts *h = ctx;
    const struct json *host = known_host(h, hw, NULL);
    if (host) {
        kevent(h->events, host, "Normal", "WaitsForApproval",
               "it has booted and joins when spec.approved is set to true");
    }
}

struct nb_hosts *nb_hosts_new(struct netboot *nb, struct kclient *c, struct kevents *events,
                              const struct kinformer *hosts) {
    struct nb_hosts *h = new_zero(struct nb_hosts);
    h->nb = nb;
    h->c = c;
    h->events = events;
    h->hosts = hosts;
    nb->on_boot = on_boot;
    nb->on_waiting = on_waiting;
    nb->on_boot_ctx = h;
    return h;
}

void nb_hosts_free(struct nb_hosts *h) {
    if (h) {
        h->nb->on_boot = NULL;
        h->nb->on_waiting = NULL;
        free(h);
    }
}
