/* Nodes of the plan: from a Tenant's pools with their tags, and the CA that each tenant's nodes must know. */
#include "internal/netboot/nb_kube_int.h"

#include "internal/base/rand.h"
#include "internal/kclient/kclient.h"
#include "internal/keyclient/keyclient.h"
#include "internal/log/log.h"

#include <stdlib.h>

enum {
    CA_RETRY_S = 2,
    LIM_CONFLICTS = 20, /* told of one Tenant */
};

struct ca { /* of one tenant */
    struct netboot_kube *k;
    char *uid, *pem;   /* pem NULL: not known yet */
    bool asked, fresh; /* fresh: keyd said it in this run */
    struct loop_timer again;
};

/* ---- CAs of tenants ---- */

static void ca_ask(struct loop_timer *t);

static void on_bundle(void *ctx, int rc, struct json *reply, const struct err *e) {
    struct ca *ca = ctx;
    const char *pem = rc < 0 ? NULL : json_str_at(reply, "ca");
    (void)e; /* NOT_FOUND: farm has not made the key set yet */
    ca->asked = false;
    if (!ca->k) { /* stopped meanwhile */
        free(ca->uid);
        free(ca);
        return;
    }
    if (pem) {
        bool same = ca->pem && str_eq(ca->pem, pem);
        ca->fresh = true;
        if (!same) {
            free(ca->pem);
            ca->pem = str_dup(pem);
            nb_kube_rebuild_soon(ca->k);
        }
    } else {
        loop_timer_start(ca->k->nb->l, &ca->again, CA_RETRY_S * NS_PER_S, ca_ask, "tenant ca");
    }
}

static void ca_ask(struct loop_timer *t) {
    struct ca *ca = CONTAINER_OF(t, struct ca, again);
    ca->asked = true;
    keyclient_bundle(ca->k->keys, ca->uid, on_bundle, ca);
}

static struct ca *ca_get(struct netboot_kube *k, const char *uid) {
    struct ca *ca = map_get_str(&k->cas, uid);
    if (!ca) {
        ca = new_zero(struct ca);
        ca->k = k;
        ca->uid = str_dup(uid);
        map_put_str(&k->cas, uid, ca);
    }
    return ca;
}

static const char *ca_of(struct netboot_kube *k, const char *uid) {
    struct ca *ca = ca_get(k, uid);
    if (!ca->fresh && !ca->asked && !loop_timer_active(&ca->again) && k->keys) {
        ca_ask(&ca->again);
    }
    return ca->pem;
}

static void ca_keep(struct netboot_kube *k, const struct json *target) {
    const char *uid = json_str_at(target, "tenant", "uid");
    struct span data = json_span(json_at(target, "document", "tenant", "caData"));
    AUTO(buf) struct buf pem = BUF_INIT(1 << 20);
    if (uid && data.n && !map_get_str(&k->cas, uid) && b64_decode(&pem, data) == 0) {
        ca_get(k, uid)->pem = str_dup(buf_cstr(&pem));
    }
}

void nb_kube_cas_keep(struct netboot_kube *k, const struct json *plan) {
    JSON_EACH(it, node, json_get(plan, "nodes")) {
        ca_keep(k, node);
    }
    JSON_EACH(it2, net, json_get(plan, "networks")) {
        ca_keep(k, json_get(net, "catchAll"));
    }
}

void nb_kube_cas_free(struct netboot_kube *k) {
    struct map_iter it = {0};
    struct map_entry *en;
    while (map_next(&k->cas, &it, &en)) {
        struct ca *ca = en->value;
        loop_timer_stop(&ca->again);
        free(ca->pem);
        ca->k = NULL;
        if (!ca->asked) { /* else the answer does it */
            free(ca->uid);
            free(ca);
        }
    }
    map_fini(&k->cas);
}

/* ---- nodes ---- */

/* The folder that an image name of a tenant means: an Image object may point elsewhere. */
static const char *image_folder(const struct making *m, const char *ns, const char *name) {
    const struct json *im = kinformer_get(m->k->images, ns, name);
    const char *path = json_str_at(im, "spec", "path");
    const char *folder = path && *path ? path : name;
    return nb_plan_image(m->plan, folder) ? folder : NULL;
}

/* ---- DHCP options ---- */

/* [{code|name, value}] of the API → {"code": value} of the plan; later ones win. */
void nb_kube_put_options(struct making *m, struct json *to, const struct json *list) {
    static const struct {
        const char *name;
        int code;
    } names[] = {
        {"routers", 3},           {"domain-name-servers", 6},
        {"dns-servers", 6},       {"log-servers", 7},
        {"host-name", 12},        {"domain-name", 15},
        {"root-path", 17},        {"interface-mtu", 26},
        {"ntp-servers", 42},      {"vendor-encapsulated-options", 43},
        {"tftp-server-name", 66}, {"bootfile-name", 67},
        {"pcode", 100},           {"tcode", 101},
        {"domain-search", 119},   {"classless-static-routes", 121},
    };
    JSON_EACH(it, v, list) {
        const char *name = json_str_at(v, "name"), *value = json_str_at(v, "value");
        int64_t code = json_i64_at(v, 0, "code");
        for (size_t i = 0; i < ARRAY_LEN(names) && name && !code; i++) {
            code = str_eq(name, names[i].name) ? names[i].code : 0;
        }
        if (code && value) {
            char key[24];
            IGNORE_ERR(str_put(key, sizeof(key), "%lld", (long long)code), "fits");
            json_set_str(m->d, json_need_obj(m->d, to, "options"), key, value);
        } else {
            LOG_WARN("netboot", "unknown DHCP option, continuing without it",
                     F_STR("option", name ? name : "(no code)"));
        }
    }
}

/* Everything that a node's tags say, in order; later ones win. */
struct tagged {
    struct json *labels, *taints, *sysctls, *files, *keys; /* of the boot document */
    struct buf args;
};

static void merge_map(struct making *m, struct json *into, const struct json *from) {
    JSON_EACH_KV(it, key, v, from) {
        json_set(m->d, into, key, json_copy(m->d, v));
    }
}

static bool same_key(const struct json *a, const struct json *b, const char *const keys[2]) {
    for (size_t i = 0; i < 2; i++) {
        if (keys[i] && !json_eq(json_get(a, keys[i]), json_get(b, keys[i]))) {
            return false;
        }
    }
    return true;
}

static void merge_list(struct making *m, struct json *into, const struct json *from,
                       const char *key, const char *key2) {
    const char *const keys[2] = {key, key2};
    JSON_EACH(it, v, from) {
        size_t i = 0;
        JSON_EACH(it2, old, into) {
            if (key ? same_key(old, v, keys) : json_eq(old, v)) {
                break;
            }
            i++;
        }
        if (i < json_len(into)) {
            json_replace_idx(into, i, json_copy(m->d, v));
        } else {
            json_push(into, json_copy(m->d, v));
        }
    }
}

static void take_tag(struct making *m, struct json *node, struct json *doc, struct tagged *t,
                     const struct json *tenant, const char *name) {
    JSON_EACH(it, tag, json_at(tenant, "spec", "tags")) {
        if (!str_eq(json_str_at(tag, "name"), name)) {
            continue;
        }
        merge_map(m, t->labels, json_get(tag, "labels"));
        merge_map(m, t->sysctls, json_get(tag, "sysctls"));
        merge_list(m, t->taints, json_get(tag, "taints"), "key", "effect");
        merge_list(m, t->files, json_get(tag, "files"), "path", NULL);
        merge_list(m, t->keys, json_get(tag, "sshAuthorizedKeys"), NULL, NULL);
        nb_making_copy(m, doc, "timezone", tag, "timezone");
        nb_kube_put_options(m, node, json_get(tag, "dhcpOptions"));
        JSON_EACH(it2, arg, json_get(tag, "kernelArgs")) {
            buf_fmt(&t->args, "%s%s", t->args.n ? " " : "", json_str_or(arg, ""));
        }
    }
}

/* Modes are octal text in the API and numbers in the boot document. */
static void files_modes(struct making *m, struct json *files) {
    JSON_EACH(it, f, files) {
        uint64_t mode = 0;
        struct span text = json_span(json_get(f, "mode"));
        for (size_t i = 0; i < text.n && i < 5; i++) {
            mode = mode * 8 + (uint64_t)(text.p[i] & 7);
        }
        json_set_i64(m->d, f, "mode", text.n ? (int64_t)mode : 0644);
    }
}

/* The tenth address of the service range, as kubeadm does. */
static void cluster_dns(struct making *m, struct json *doc, const struct json *net) {
    struct span cidr = json_span(json_get(net, "serviceCIDR")), addr;
    const char *given = json_str_at(net, "clusterDNS");
    uint32_t ip;
    char text[IP4_STR];
    if (given) {
        json_set_str(m->d, doc, "clusterDNS", given);
    } else if (span_next(&cidr, '/', &addr) && ip4_parse(addr, &ip) == 0) {
        ip4_format(ip + 10, text);
        json_set_str(m->d, doc, "clusterDNS", text);
    }
}

/* What every node of a tenant is told; NULL while the tenant cannot be joined. */
static struct json *tenant_facts(struct making *m, const struct json *tenant) {
    const char *ns = json_str_at(tenant, "metadata", "namespace"),
               *name = json_str_at(tenant, "metadata", "name"),
               *uid = json_str_at(tenant, "metadata", "uid"),
               *endpoint = json_str_at(tenant, "status", "endpoint");
    /* farm makes the keys before it tells the endpoint: there is nothing to ask for earlier. */
    const char *ca = uid && endpoint ? ca_of(m->k, uid) : NULL;
    if (!ns || !name || !ca) {
        return NULL;
    }
    AUTO(buf) struct buf b64 = BUF_INIT(1 << 20);
    b64_encode(&b64, span_str(ca));
    struct json *t = json_new_obj(m->d);
    json_set_str(m->d, t, "namespace", ns);
    json_set_str(m->d, t, "name", name);
    json_set_str(m->d, t, "server", endpoint);
    json_set(m->d, t, "serverName", json_new_fmt(m->d, "%s.%s.tenants.kfarm.internal", name, ns));
    json_set_str(m->d, t, "caData", buf_cstr(&b64));
    return t;
}

/* Fills in what a pool's machine boots and is told; `own` is the declared node, NULL for the catch-all. */
static void put_target(struct making *m, struct json *o, const struct json *tenant,
                       const struct json *pool, const struct json *own) {
    const char *ns = json_str_at(tenant, "metadata", "namespace");
    const struct json *net = json_at(tenant, "spec", "network");
    const char *image = image_folder(m, ns, json_str_or(json_get(pool, "image"), "default"));
    struct json *t = json_set_obj(m->d, o, "tenant"), *facts = tenant_facts(m, tenant);
    struct json *doc = json_new_obj(m->d), *tags = json_set_obj(m->d, doc, "node");
    struct tagged tg = {
        json_set_obj(m->d, tags, "labels"),           json_set_arr(m->d, tags, "taints"),
        json_set_obj(m->d, doc, "sysctls"),           json_set_arr(m->d, doc, "files"),
        json_set_arr(m->d, doc, "sshAuthorizedKeys"), BUF_INIT(LIM_NB_CMDLINE)};
    json_set_str(m->d, t, "namespace", ns);
    json_set_str(m->d, t, "name", json_str_at(tenant, "metadata", "name"));
    json_set_str(m->d, t, "uid", json_str_at(tenant, "metadata", "uid"));
    json_set_str(m->d, o, "image", image);
    merge_list(m, tg.keys, json_at(tenant, "spec", "sshAuthorizedKeys"), NULL, NULL);
    JSON_EACH(it, name, json_get(pool, "tags")) {
        take_tag(m, o, doc, &tg, tenant, json_str_or(name, ""));
    }
    JSON_EACH(it2, name, json_get(own, "tags")) {
        take_tag(m, o, doc, &tg, tenant, json_str_or(name, ""));
    }
    files_modes(m, tg.files);
    json_set_str(m->d, o, "args", tg.args.n && buf_ok(&tg.args) == 0 ? buf_cstr(&tg.args) : NULL);
    buf_fini(&tg.args);
    json_set_str(m->d, doc, "pool", json_str_at(pool, "name"));
    nb_making_copy(m, doc, "clusterCIDR", net, "podCIDR");
    nb_making_copy(m, doc, "serviceCIDR", net, "serviceCIDR");
    nb_making_copy(m, doc, "clusterDomain", net, "dnsDomain");
    cluster_dns(m, doc, net);
    if (facts) {
        json_set(m->d, doc, "tenant", facts);
        json_set(m->d, o, "document", doc);
    }
}

/* A node declared by UUID has the hardware addresses of the Hosts that were seen with it, so that its operating system,
 * which does not send the UUID, is known after a restart of the boot service, too. */
static void put_macs(struct making *m, struct json *o, const struct json *node) {
    uint8_t want[NB_UUID], uuid[NB_UUID];
    struct map_iter it = {0};
    struct json *host;
    nb_making_copy(m, o, "macs", node, "macs");
    nb_making_copy(m, o, "uuid", node, "uuid");
    if (nb_uuid_parse(json_span(json_get(node, "uuid")), want) < 0) {
        return;
    }
    while (kinformer_next(m->k->hosts, &it, &host)) {
        if (nb_uuid_parse(json_span(json_at(host, "spec", "uuid")), uuid) < 0 ||
            memcmp(uuid, want, NB_UUID) != 0) {
            continue;
        }
        JSON_EACH(it2, mac, json_at(host, "spec", "macs")) {
            struct json *macs = json_need_arr(m->d, o, "macs");
            bool known = json_len(macs) >= LIM_NB_MACS;
            JSON_EACH(it3, other, macs) {
                known |= json_eq(other, mac);
            }
            struct dhcp_hw hw;
            if (!known && dhcp_hw_parse(json_span(mac), &hw) == 0 &&
                !nb_plan_node_by_hw(m->plan, hw)) {
                json_push(macs, json_copy(m->d, mac));
            }
        }
    }
}

void nb_kube_add_approved(struct making *m, const struct json *host) {
    struct err e = ERR_INIT;
    if (!json_bool_at(host, false, "spec", "approved")) {
        return;
    }
    JSON_EACH(it, mac, json_at(host, "spec", "macs")) {
        if (!nb_making_add(m, "approved", json_copy(m->d, mac), &e)) {
            nb_kube_warn(m->k, host, "NotServed", e.msg);
        }
    }
}

static void add_conflict(struct making *m, const struct json *tenant, const char *text) {
    const char *uid = json_str_at(tenant, "metadata", "uid");
    struct json *list = uid ? json_need_arr(m->d, m->conflicts, uid) : NULL;
    if (list && json_len(list) < LIM_CONFLICTS) {
        json_push_str(m->d, list, text);
    }
    nb_kube_warn(m->k, tenant, "DeclaredTwice", text);
}

/* Both Tenants are told about the other when they declare the same machine or address: whoever made the mistake, only
 * one of their nodes is served, the older's. */
static void tell_both(struct making *m, const struct json *tenant, const struct json *node,
                      const char *why) {
    const struct nb_node *other = NULL;
    const char *ns = json_str_at(tenant, "metadata", "namespace"),
               *name = json_str_at(tenant, "metadata", "name");
    const char *what = "MAC address", *value = NULL;
    uint32_t ip;
    JSON_EACH(it, mac, json_get(node, "macs")) {
        struct dhcp_hw hw;
        if (!other && dhcp_hw_parse(json_span(mac), &hw) == 0) {
            other = nb_plan_node_by_hw(m->plan, hw);
            value = json_str(mac);
        }
    }
    if (!other && ip4_parse(json_span(json_get(node, "ip")), &ip) == 0) {
        other = nb_plan_node_by_ip(m->plan, ip);
        what = "address";
        value = json_str_at(node, "ip");
    }
    add_conflict(m, tenant, why);
    const struct json *owner =
        other ? kinformer_get(m->k->tenants, other->tenant_ns, other->tenant) : NULL;
    if (owner && owner != tenant) {
        AUTO_FREE char *text = str_fmt("node %s: its %s %s is also declared for node %s of tenant "
                                       "%s/%s, which is newer and not served",
                                       other->host.name, what, value,
                                       json_str_or(json_get(node, "name"), ""), ns, name);
        add_conflict(m, owner, text);
    }
}

void nb_kube_add_nodes(struct making *m, const struct json *tenant) {
    if (json_at(tenant, "metadata", "deletionTimestamp")) {
        return;
    }
    JSON_EACH(it, pool, json_at(tenant, "spec", "pools")) {
        JSON_EACH(it2, node, json_get(pool, "nodes")) {
            struct err e = ERR_INIT;
            struct json *o = json_new_obj(m->d);
            nb_making_copy(m, o, "name", node, "name");
            put_macs(m, o, node);
            nb_making_copy(m, o, "ip", node, "ip");
            put_target(m, o, tenant, pool, node);
            if (!nb_making_add(m, "nodes", o, &e)) {
                if (e.code == ERR_EXISTS) {
                    tell_both(m, tenant, node, e.msg);
                } else {
                    nb_kube_warn(m->k, tenant, "NotServed", e.msg);
                }
            }
        }
    }
}

/* ---- the catch-all of a network ---- */

void nb_kube_put_catch_all(struct making *m, struct json *o, const struct json *net) {
    const struct json *want = json_at(net, "spec", "catchAll");
    const char *ns = json_str_at(net, "metadata", "namespace"),
               *pool_name = json_str_at(want, "pool");
    const struct json *tenant =
        want ? kinformer_get(m->k->tenants, ns, json_str_or(json_get(want, "tenant"), "")) : NULL;
    if (!tenant) {
        return;
    }
    const struct json *pool = NULL;
    JSON_EACH(it, p, json_at(tenant, "spec", "pools")) {
        if (!pool && (!pool_name || str_eq(pool_name, json_str_at(p, "name")))) {
            pool = p;
        }
    }
    struct json *c = json_set_obj(m->d, o, "catchAll");
    json_set_str(m->d, c, "name", json_str_or(json_get(pool, "name"), "node"));
    put_target(m, c, tenant, pool, NULL);
}
