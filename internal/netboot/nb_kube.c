/* The plan from an admin cluster: Networks, Tenants with their pools, Hosts, and the images on disk.
 *
 * Any change rebuilds the whole plan, a moment later and once for many changes: it is a pure function of what is there.
 * Each object becomes its JSON form (nb_plan_json.c) and is added by itself, so that one that cannot be served costs
 * only itself; the sum of what was added is kept as plan.json. */
#include "internal/netboot/nb_int.h"

#include "internal/base/rand.h"
#include "internal/kclient/kclient.h"
#include "internal/keyclient/keyclient.h"
#include "internal/log/log.h"
#include "internal/sys/sys.h"

#include <dirent.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <unistd.h>

enum {
    TELL_MS = 2000, /* counts of leases in the API are that old */
    SETTLE_MS = 20, /* an `apply` of many objects is one rebuild */
    CA_RETRY_S = 2,
    LIM_MANIFEST = 1 << 20,
    LIM_NAME = 256,
    LIM_TOLD = 4096,
    LIM_OBJECTS = 1 << 20,
};
static const char plan_file[] = "plan.json";

struct ca { /* of one tenant */
    struct netboot_kube *k;
    char *uid, *pem; /* pem NULL: not known yet */
    bool asked;
    struct loop_timer again;
};

struct plan_write {
    struct loop_work work;
    struct netboot_kube *k;
    struct buf text;
    int dir_fd, rc;
    struct err err;
};

struct netboot_kube {
    struct netboot *nb;
    struct kclient *c;
    struct keyclient *keys;
    struct kinformer *tenants, *networks, *images, *hosts;
    struct kevents *events;
    struct nb_hosts *seen;
    struct loop_timer settle, tell_timer;
    struct map cas;  /* uid → struct ca */
    struct map told; /* problems that were reported already, by object and text */
    struct buf last; /* plan.json as it was last used */
    struct plan_write *writing;
    bool write_again, stopping;
    int inotify;
    struct loop_io io_inotify;
};

static void rebuild_soon(struct netboot_kube *k);

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
        free(ca->pem);
        ca->pem = str_dup(pem);
        rebuild_soon(ca->k);
    } else {
        loop_timer_start(ca->k->nb->l, &ca->again, CA_RETRY_S * NS_PER_S, ca_ask, "tenant ca");
    }
}

static void ca_ask(struct loop_timer *t) {
    struct ca *ca = CONTAINER_OF(t, struct ca, again);
    ca->asked = true;
    keyclient_bundle(ca->k->keys, ca->uid, on_bundle, ca);
}

static const char *ca_of(struct netboot_kube *k, const char *uid) {
    struct ca *ca = map_get_str(&k->cas, uid);
    if (!ca) {
        ca = new_zero(struct ca);
        ca->k = k;
        ca->uid = str_dup(uid);
        map_put_str(&k->cas, uid, ca);
    }
    if (!ca->pem && !ca->asked && !loop_timer_active(&ca->again) && k->keys) {
        ca_ask(&ca->again);
    }
    return ca->pem;
}

/* ---- one plan in the making ---- */

struct making {
    struct netboot_kube *k;
    struct json_doc *d;
    struct json *root;
    struct nb_plan *plan;
};

/* Adds `v`; what cannot be added is told once. */
static bool add(struct making *m, const char *list, struct json *v, const struct json *about) {
    struct err e = ERR_INIT;
    if (nb_plan_add_json(m->plan, list, json_len(json_get(m->root, list)), v, &e) == 0) {
        json_push(json_need_arr(m->d, m->root, list), v);
        return true;
    }
    if (m->k->told.n >= LIM_TOLD) {
        map_fini(&m->k->told);
        m->k->told = (struct map)MAP_INIT;
    }
    AUTO_FREE char *key =
        str_fmt("%s %s", json_str_or(json_at(about, "metadata", "uid"), list), e.msg);
    if (!map_get_str(&m->k->told, key)) {
        map_put_str(&m->k->told, key, m->k);
        LOG_WARN("netboot", "left out, continuing without it", F_ERR(&e));
        if (about) {
            kevent(m->k->events, about, "Warning", "NotServed", "%s", e.msg);
        }
    }
    return false;
}

static void set_copy(struct making *m, struct json *to, const char *key, const struct json *from,
                     const char *from_key) {
    const struct json *v = json_get(from, from_key);
    if (v && !json_is_null(v)) {
        json_set(m->d, to, key, json_copy(m->d, v));
    }
}

/* ---- images: every folder of the image directory with a manifest ---- */

static void add_image(struct making *m, const char *name) {
    static const char *const parts[] = {"kernel", "initrd", "root"};
    AUTO(json_docp) struct json_doc *d = NULL;
    AUTO(buf) struct buf text = BUF_INIT(LIM_MANIFEST);
    char path[LIM_NAME + 32];
    struct err e = ERR_INIT;
    if (str_put(path, sizeof(path), "%s/manifest.json", name) < 0) {
        return;
    }
    AUTO_FD int fd = sys_open_beneath(m->k->nb->image_fd, path, O_RDONLY, 0, &e);
    if (fd < 0) {
        return; /* not an image, or not finished */
    }
    if (sys_fd_read_all(fd, &text, &e) < 0 || json_parse(buf_view(&text), 0, &d, &e) < 0) {
        LOG_WARN("netboot", "image manifest unreadable, continuing without it",
                 F_STR("image", name), F_ERR(&e));
        return;
    }
    const struct json *root = json_get(json_root(d), "root");
    struct json *o = json_new_obj(m->d);
    json_set_str(m->d, o, "name", name);
    for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
        const char *file = json_str_at(json_root(d), parts[i], "file");
        if (file) {
            json_set(m->d, o, parts[i], json_new_fmt(m->d, "%s/%s", name, file));
        }
    }
    set_copy(m, o, "args", json_root(d), "args");
    set_copy(m, o, "rootDigest", root, "digest");
    set_copy(m, o, "rootSize", root, "size");
    IGNORE_ERR(add(m, "images", o, NULL), "told there");
}

static int by_text(const void *a, const void *b) {
    const char *const *x = a, *const *y = b;
    return strcmp(*x, *y);
}

static void add_images(struct making *m) {
    int fd = m->k->nb->image_fd < 0
                 ? -1
                 : openat(m->k->nb->image_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    char **names = NULL;
    size_t n = 0;
    if (!dir) {
        sys_close(fd);
        return;
    }
    for (struct dirent *de; (de = readdir(dir)) != NULL;) {
        struct span name = span_str(de->d_name);
        if (de->d_name[0] == '.' || name.n >= LIM_NAME || span_ends(name, ".tmp") ||
            span_ends(name, ".old")) {
            continue;
        }
        char **more = mem_array(names, n + 1, sizeof(*names), LIM_NB_IMAGES);
        if (!more) {
            break;
        }
        names = more;
        names[n++] = str_dup(de->d_name);
    }
    closedir(dir);
    if (n) {
        qsort(names, n, sizeof(*names), by_text);
    }
    for (size_t i = 0; i < n; i++) {
        add_image(m, names[i]);
        free(names[i]);
    }
    free(names);
}

/* The folder that an image name of a tenant means: an Image object may point elsewhere. */
static const char *image_folder(const struct making *m, const char *ns, const char *name) {
    const struct json *im = kinformer_get(m->k->images, ns, name);
    const char *path = json_str_at(im, "spec", "path");
    const char *folder = path && *path ? path : name;
    return nb_plan_image(m->plan, folder) ? folder : NULL;
}

/* ---- DHCP options ---- */

/* [{code|name, value}] of the API → {"code": value} of the plan; later ones win. */
static void put_options(struct making *m, struct json *to, const struct json *list) {
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

/* ---- nodes ---- */

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
        set_copy(m, doc, "timezone", tag, "timezone");
        put_options(m, node, json_get(tag, "dhcpOptions"));
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
    char text[DHCP_IP_STR];
    if (given) {
        json_set_str(m->d, doc, "clusterDNS", given);
    } else if (span_next(&cidr, '/', &addr) && dhcp_ip_parse(addr, &ip) == 0) {
        dhcp_ip_format(ip + 10, text);
        json_set_str(m->d, doc, "clusterDNS", text);
    }
}

/* What every node of a tenant is told; NULL while the tenant cannot be joined. */
static struct json *tenant_facts(struct making *m, const struct json *tenant) {
    const char *ns = json_str_at(tenant, "metadata", "namespace"),
               *name = json_str_at(tenant, "metadata", "name"),
               *uid = json_str_at(tenant, "metadata", "uid"),
               *endpoint = json_str_at(tenant, "status", "endpoint");
    const char *ca = uid ? ca_of(m->k, uid) : NULL;
    if (!ns || !name || !endpoint || !ca) {
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
    set_copy(m, doc, "clusterCIDR", net, "podCIDR");
    set_copy(m, doc, "serviceCIDR", net, "serviceCIDR");
    set_copy(m, doc, "clusterDomain", net, "dnsDomain");
    cluster_dns(m, doc, net);
    if (facts) {
        json_set(m->d, doc, "tenant", facts);
        json_set(m->d, o, "document", doc);
    }
}

/* Is one of these MAC addresses that of an approved Host? */
static bool is_approved(const struct making *m, const struct json *macs) {
    struct map_iter it = {0};
    struct json *host;
    while (kinformer_next(m->k->hosts, &it, &host)) {
        if (!json_bool_at(host, false, "spec", "approved")) {
            continue;
        }
        JSON_EACH(it2, a, json_at(host, "spec", "macs")) {
            JSON_EACH(it3, b, macs) {
                struct dhcp_hw x, y;
                if (dhcp_hw_parse(json_span(a), &x) == 0 && dhcp_hw_parse(json_span(b), &y) == 0 &&
                    dhcp_hw_eq(x, y)) {
                    return true;
                }
            }
        }
    }
    return false;
}

static void add_nodes(struct making *m, const struct json *tenant) {
    if (json_at(tenant, "metadata", "deletionTimestamp")) {
        return;
    }
    JSON_EACH(it, pool, json_at(tenant, "spec", "pools")) {
        JSON_EACH(it2, node, json_get(pool, "nodes")) {
            struct json *o = json_new_obj(m->d);
            set_copy(m, o, "name", node, "name");
            set_copy(m, o, "macs", node, "macs");
            set_copy(m, o, "ip", node, "ip");
            if (is_approved(m, json_get(node, "macs"))) {
                json_set_bool(m->d, o, "approved", true);
            }
            put_target(m, o, tenant, pool, node);
            IGNORE_ERR(add(m, "nodes", o, tenant), "told there");
        }
    }
}

/* ---- networks ---- */

static void put_catch_all(struct making *m, struct json *o, const struct json *net) {
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

static void add_network(struct making *m, const struct json *net) {
    static const char *const same[] = {"cidr", "range",        "gateway", "dns",  "domain",
                                       "mtu",  "leaseSeconds", "relays",  "trust"};
    const struct json *spec = json_get(net, "spec");
    struct json *o = json_new_obj(m->d);
    json_set(m->d, o, "name",
             json_new_fmt(m->d, "%s/%s", json_str_or(json_at(net, "metadata", "namespace"), ""),
                          json_str_or(json_at(net, "metadata", "name"), "")));
    for (size_t i = 0; i < ARRAY_LEN(same); i++) {
        set_copy(m, o, same[i], spec, same[i]);
    }
    JSON_EACH(
        it, server,
        json_get(spec, "ntp")) { /* names are for the boot document only: DHCP carries addresses */
        uint32_t ip;
        if (dhcp_ip_parse(json_span(server), &ip) == 0) {
            json_push(json_need_arr(m->d, o, "ntp"), json_copy(m->d, server));
        }
    }
    if (!json_bool_at(spec, true, "routerAdvertisements")) {
        json_set_str(m->d, o, "routerAdvertisements", "off");
    }
    put_options(m, o, json_get(spec, "options"));
    put_catch_all(m, o, net);
    IGNORE_ERR(add(m, "networks", o, net), "told there");
}

/* ---- plan.json ---- */

static void write_plan(struct netboot_kube *k);

static void write_run(struct loop_work *w) {
    struct plan_write *pw = CONTAINER_OF(w, struct plan_write, work);
    pw->rc = sys_file_replace(pw->dir_fd, plan_file, buf_view(&pw->text), 0600, &pw->err);
}

static void write_done(struct loop_work *w) {
    struct plan_write *pw = CONTAINER_OF(w, struct plan_write, work);
    struct netboot_kube *k = pw->k;
    if (pw->rc < 0) {
        LOG_WARN("netboot", "plan.json not written, continuing", F_ERR(&pw->err));
    }
    buf_fini(&pw->text);
    free(pw);
    k->writing = NULL;
    if (k->write_again && !k->stopping) {
        k->write_again = false;
        write_plan(k);
    }
}

static void write_plan(struct netboot_kube *k) {
    struct err e = ERR_INIT;
    if (k->writing) {
        k->write_again = true;
        return;
    }
    struct plan_write *pw = new_zero(struct plan_write);
    pw->k = k;
    pw->dir_fd = k->nb->journal.dir_fd;
    pw->work.run = write_run;
    pw->work.done = write_done;
    buf_init(&pw->text, LIM_NB_PLAN_BYTES);
    buf_span(&pw->text, buf_view(&k->last));
    k->writing = pw;
    if (loop_work_submit(k->nb->l, LANE_FILE, &pw->work, &e) < 0) {
        pw->rc = -ERR_IO;
        pw->err = e;
        write_done(&pw->work);
    }
}

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

static void tell_soon(void *ctx) {
    struct netboot_kube *k = ctx;
    const uint64_t wait = TELL_MS * NS_PER_MS;
    if (!loop_timer_active(&k->tell_timer) || k->tell_timer.due_ns > loop_now(k->nb->l) + wait) {
        loop_timer_start(k->nb->l, &k->tell_timer, wait, tell, "network status");
    }
}

/* ---- rebuilding ---- */

/* The older object wins where two want the same; then by name. */
static int by_age(const void *a, const void *b) {
    static const char *const keys[] = {"creationTimestamp", "namespace", "name"};
    const struct json *const *x = a, *const *y = b;
    int d = 0;
    for (size_t i = 0; i < ARRAY_LEN(keys) && d == 0; i++) {
        d = span_cmp(json_span(json_at(*x, "metadata", keys[i])),
                     json_span(json_at(*y, "metadata", keys[i])));
    }
    return d;
}

static void each(struct kinformer *i, struct making *m,
                 void (*fn)(struct making *m, const struct json *obj)) {
    struct map_iter it = {0};
    struct json *obj;
    size_t n = 0, cap = kinformer_count(i);
    AUTO_FREE const struct json **all = mem_array(NULL, cap + 1, sizeof(*all), LIM_OBJECTS);
    while (all && n < cap && kinformer_next(i, &it, &obj)) {
        all[n++] = obj;
    }
    if (n) {
        qsort(all, n, sizeof(*all), by_age);
    }
    for (size_t k = 0; k < n; k++) {
        fn(m, all[k]);
    }
}

static void rebuild(struct loop_timer *t) {
    struct netboot_kube *k = CONTAINER_OF(t, struct netboot_kube, settle);
    if (!kinformer_synced(k->tenants) || !kinformer_synced(k->networks) ||
        !kinformer_synced(k->images) || !kinformer_synced(k->hosts)) {
        return; /* half a plan would take nodes away */
    }
    struct making m = {.k = k, .d = json_doc_new(), .plan = nb_plan_new()};
    struct err e = ERR_INIT;
    AUTO(buf) struct buf text = BUF_INIT(LIM_NB_PLAN_BYTES);
    m.root = json_new_obj(m.d);
    json_set_root(m.d, m.root);
    add_images(&m);
    each(k->networks, &m, add_network);
    each(k->tenants, &m, add_nodes);
    json_write(m.root, JSON_PRETTY, &text);
    json_doc_free(m.d);
    tell_soon(k);
    if (buf_ok(&text) < 0 || span_eq(buf_view(&text), buf_view(&k->last))) {
        nb_plan_free(m.plan);
        return;
    }
    if (netboot_set_plan(k->nb, m.plan, &e) < 0) {
        LOG_WARN("netboot", "the plan cannot be used, continuing with the old one", F_ERR(&e));
        return;
    }
    buf_reset(&k->last);
    buf_span(&k->last, buf_view(&text));
    write_plan(k);
}

static void rebuild_soon(struct netboot_kube *k) {
    if (!loop_timer_active(&k->settle)) {
        loop_timer_start(k->nb->l, &k->settle, SETTLE_MS * NS_PER_MS, rebuild, "plan");
    }
}

static void on_synced(void *ctx) {
    rebuild_soon(ctx);
}

static void on_change(void *ctx, struct json *old, struct json *cur) {
    if (!old || !cur || !json_eq(json_get(old, "spec"), json_get(cur, "spec")) ||
        !json_eq(json_at(old, "status", "endpoint"), json_at(cur, "status", "endpoint")) ||
        !json_eq(json_at(old, "metadata", "deletionTimestamp"),
                 json_at(cur, "metadata", "deletionTimestamp"))) {
        rebuild_soon(ctx); /* heartbeats and counts are not our business */
    }
}

static void on_inotify(struct loop_io *io, uint32_t events) {
    struct netboot_kube *k = CONTAINER_OF(io, struct netboot_kube, io_inotify);
    uint8_t drain[4096];
    (void)events;
    while (read(io->fd, drain, sizeof(drain)) > 0) {
    }
    rebuild_soon(k);
}

static struct kinformer *informer(struct netboot_kube *k, const char *resource) {
    const struct kinformer_opts o = {
        .ref = {.group = "kfarm.dev", .version = "v1alpha1", .resource = resource},
        .on_change = on_change,
        .on_synced = on_synced,
        .ctx = k};
    return kinformer_start(k->c, &o);
}

/* The plan of the last run serves until the API server answers. */
static void load_last(struct netboot_kube *k) {
    struct nb_plan *plan = NULL;
    struct err e = ERR_INIT;
    if (sys_file_read(k->nb->journal.dir_fd, plan_file, &k->last, &e) < 0) {
        buf_reset(&k->last);
        return;
    }
    if (nb_plan_from_json(buf_view(&k->last), &plan, &e) < 0 ||
        netboot_set_plan(k->nb, plan, &e) < 0) {
        LOG_WARN("netboot", "plan of the last run unusable, continuing without it", F_ERR(&e));
        buf_reset(&k->last);
    }
}

int netboot_kube_start(struct netboot *nb, struct kclient *admin, struct keyclient *keys,
                       struct netboot_kube **ret, struct err *e) {
    struct netboot_kube *k = new_zero(struct netboot_kube);
    k->nb = nb;
    k->c = admin;
    k->keys = keys;
    buf_init(&k->last, LIM_NB_PLAN_BYTES);
    k->inotify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (nb->o.image_dir && k->inotify >= 0 &&
        inotify_add_watch(k->inotify, nb->o.image_dir, IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE) >=
            0) {
        int rc =
            loop_io_start(nb->l, &k->io_inotify, k->inotify, LOOP_READ, on_inotify, "images", e);
        if (rc < 0) {
            sys_close(k->inotify);
            free(k);
            return rc;
        }
    }
    load_last(k);
    nb->on_leases = tell_soon;
    nb->on_leases_ctx = k;
    k->events = kevents_new(admin, "netboot", NULL);
    k->networks = informer(k, "networks");
    k->tenants = informer(k, "tenants");
    k->images = informer(k, "images");
    k->hosts = informer(k, "hosts");
    k->seen = nb_hosts_new(nb, admin, k->hosts);
    *ret = k;
    return 0;
}

void netboot_kube_stop(struct netboot_kube *k) {
    if (!k) {
        return;
    }
    struct map_iter it = {0};
    struct map_entry *en;
    struct err e = ERR_INIT;
    k->stopping = true;
    nb_hosts_free(k->seen);
    kinformer_stop(k->networks);
    kinformer_stop(k->tenants);
    kinformer_stop(k->images);
    kinformer_stop(k->hosts);
    kevents_free(k->events);
    loop_timer_stop(&k->settle);
    loop_timer_stop(&k->tell_timer);
    k->nb->on_leases = NULL;
    loop_io_stop(&k->io_inotify);
    sys_close(k->inotify);
    while (k->writing && loop_step(k->nb->l, UINT64_MAX, &e) == 0) {
    }
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
    map_fini(&k->told);
    buf_fini(&k->last);
    free(k);
}
