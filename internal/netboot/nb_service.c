#include "internal/netboot/netboot.h"

#include "internal/base/rand.h"
#include "internal/log/log.h"
#include "internal/netboot/nb_int.h"
#include "internal/sys/sys.h"

#include <stdlib.h>
#include <sys/socket.h>

/* ---- the plan behind DHCP ---- */

static const struct dhcp_host *host_by_hw(void *ctx, const struct dhcp_subnet *sn,
                                          struct dhcp_hw hw) {
    const struct netboot *nb = ctx;
    const struct nb_node *n = nb_node_of(nb, hw);
    (void)sn;
    return n ? &n->host : NULL;
}

static const struct dhcp_host *host_by_ip(void *ctx, const struct dhcp_subnet *sn, uint32_t ip) {
    const struct netboot *nb = ctx;
    const struct nb_node *n = nb_plan_node_by_ip(nb->plan, ip);
    (void)sn;
    return n ? &n->host : NULL;
}

static const struct dhcp_ops plan_ops = {host_by_hw, host_by_ip, nb_boot_options};

/* ---- interfaces that come and go ---- */

enum { LINKS_SETTLE_MS = 300 };

static void look_at_links(struct netboot *nb) {
    if (!nb_ifaces_refresh(nb)) {
        return;
    }
    if (nb->o.on_new_interface) {
        nb->o.on_new_interface(nb->o.ctx);
    } else {
        LOG_WARN("netboot", "a new interface is not served before the next start, continuing");
    }
}

static void links_settled(struct loop_timer *t) {
    look_at_links(CONTAINER_OF(t, struct netboot, links_timer));
}

static void links_readable(struct loop_io *io, uint32_t events) {
    struct netboot *nb = CONTAINER_OF(io, struct netboot, io_links);
    uint8_t drain[8192];
    (void)events;
    while (recv(io->fd, drain, sizeof(drain), 0) > 0) {
    }
    if (!loop_timer_active(&nb->links_timer)) {
        loop_timer_start(nb->l, &nb->links_timer, LINKS_SETTLE_MS * NS_PER_MS, links_settled,
                         "links");
    }
}

int netboot_set_plan(struct netboot *nb, struct nb_plan *own_plan, struct err *e) {
    AUTO_FREE struct dhcp_subnet *subnets =
        mem_array(NULL, own_plan->n_networks + 1, sizeof(*subnets), LIM_DHCP_SUBNETS + 1);
    CHECK(subnets);
    for (size_t i = 0; i < own_plan->n_networks; i++) {
        subnets[i] = own_plan->networks[i].subnet;
    }
    int rc = dhcp_server_configure(nb->dhcp, subnets, own_plan->n_networks, e);
    if (rc < 0) {
        nb_plan_free(own_plan);
        return rc;
    }
    nb_plan_free(nb->plan);
    nb->plan = own_plan;
    look_at_links(nb);
    for (size_t i = 0; i < nb->n_ifaces; i++) {
        uint32_t ip;
        char text[IP4_STR] = "";
        const struct nb_network *n = nb_iface_network(&nb->ifaces[i], &ip);
        if (n) {
            ip4_format(ip, text);
        }
        LOG_INFO("netboot", n ? "serving" : "no network declared here",
                 F_STR("if", nb->ifaces[i].name), F_STR("network", n ? n->name : ""),
                 F_STR("ip", text), F_U64("nodes", own_plan->n_nodes));
    }
    return 0;
}

/* ---- life ---- */

static int open_dir(const char *path, int *ret, struct err *e) {
    *ret = -1;
    if (!path) {
        return 0;
    }
    int fd = sys_open_dir(path, e);
    if (fd < 0) {
        return err_wrap(e, "boot files");
    }
    *ret = fd;
    return 0;
}

static int start_all(struct netboot *nb, struct err *e) {
    int rc = nb_ifaces_find(nb, e);
    if (rc >= 0 && nb->n_ifaces == 0) {
        LOG_WARN("netboot", "no interface is up with an IPv4 address: nothing to serve");
    }
    if (rc >= 0 && (rc = nb->link_watch = nb_link_watch_open(e)) >= 0) {
        rc = loop_io_start(nb->l, &nb->io_links, nb->link_watch, LOOP_READ, links_readable, "links",
                           e);
    }
    if (rc < 0 || (rc = open_dir(nb->o.boot_dir, &nb->boot_fd, e)) < 0 ||
        (rc = open_dir(nb->o.image_dir, &nb->image_fd, e)) < 0) {
        return rc;
    }
    if (!nb->o.no_dhcp &&
        ((rc = nb_journal_open(nb, nb->o.data_dir, e)) < 0 || (rc = nb_probes_start(nb, e)) < 0 ||
         (rc = nb_dhcp_start(nb, e)) < 0 || (rc = nb_ra_start(nb, e)) < 0)) {
        return rc;
    }
    if (!nb->o.no_tftp && (rc = nb_tftp_start(nb, e)) < 0) {
        return rc;
    }
    rc = nb->o.no_http ? 0 : nb_http_start(nb, e);
    return rc < 0 || !nb->o.tls ? rc : nb_https_start(nb, e);
}

int netboot_new(struct loop *l, const struct netboot_opts *o, struct netboot **ret, struct err *e) {
    struct netboot *nb = new_zero(struct netboot);
    nb->l = l;
    nb->o = *o;
    nb->o.http_port = o->http_port ? o->http_port : NB_HTTP_PORT;
    nb->o.https_port = o->https_port ? o->https_port : NB_HTTPS_PORT;
    if (o->tls) {
        AUTO(buf) struct buf pin = BUF_INIT(sizeof(nb->ca_pin));
        hex_encode(&pin, span_of(o->boot_ca_sha256, sizeof(o->boot_ca_sha256)));
        IGNORE_ERR(span_to_cstr(buf_view(&pin), nb->ca_pin, sizeof(nb->ca_pin)), "fits");
    }
    nb->plan = nb_plan_new();
    nb->link_watch = nb->boot_fd = nb->image_fd = nb->journal.fd = nb->journal.dir_fd =
        nb->probes.icmp = -1;
    list_init(&nb->discovers);
    list_init(&nb->tftp);
    buf_init(&nb->dhcp_pkt, LIM_DHCP_OUT);
    nb->dhcp = dhcp_server_new(&plan_ops, nb, LIM_NB_LEASES);
    int rc = start_all(nb, e);
    if (rc < 0) {
        netboot_free(nb);
        return rc;
    }
    *ret = nb;
    return 0;
}

void netboot_free(struct netboot *nb) {
    if (!nb) {
        return;
    }
    loop_io_stop(&nb->io_links);
    loop_timer_stop(&nb->links_timer);
    sys_close(nb->link_watch);
    nb_http_stop(nb);
    nb_tftp_stop(nb);
    nb_ra_stop(nb);
    nb_dhcp_stop(nb);
    nb_probes_stop(nb);
    while (nb->journal.in_flight) {
        struct err e = ERR_INIT;
        if (loop_step(nb->l, UINT64_MAX, &e) < 0) {
            break;
        }
    }
    nb_journal_close(&nb->journal);
    struct map_iter it = {0};
    struct map_entry *en;
    while (map_next(&nb->machines, &it, &en)) {
        free(en->value);
    }
    map_fini(&nb->machines);
    dhcp_server_free(nb->dhcp);
    nb_plan_free(nb->plan);
    buf_fini(&nb->dhcp_pkt);
    sys_close(nb->boot_fd);
    sys_close(nb->image_fd);
    free(nb->ifaces);
    free(nb);
}

/* ---- status ---- */

struct lease_list {
    struct netboot *nb;
    struct json_doc *d;
    struct json *arr;
};

static void add_lease(void *ctx, const struct dhcp_lease *l) {
    struct lease_list *ll = ctx;
    char text[DHCP_HW_STR];
    uint64_t now = loop_now(ll->nb->l);
    const struct nb_node *n = nb_node_of(ll->nb, l->hw);
    struct json *o = json_new_obj(ll->d);
    ip4_format(l->ip, text);
    json_set_str(ll->d, o, "ip", text);
    dhcp_hw_format(l->hw, ':', text);
    json_set_str(ll->d, o, "mac", text);
    json_set_str(ll->d, o, "state", dhcp_state_name(l->state));
    json_set_str(ll->d, o, "node", n ? n->host.name : NULL);
    json_set_str(ll->d, o, "hostname", l->hostname[0] ? l->hostname : NULL);
    json_set_i64(ll->d, o, "secondsLeft",
                 l->until_ns > now ? (int64_t)((l->until_ns - now) / 1000000000) : 0);
    json_push(ll->arr, o);
}

int netboot_status(struct netboot *nb, struct buf *ret) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *root = json_new_obj(d);
    json_set_root(d, root);
    struct json *c = json_set_obj(d, root, "counters");
#define X(name) json_set_i64(d, c, #name, (int64_t)nb->count.name);
    NB_COUNTERS(X)
#undef X
    struct lease_list ll = {nb, d, json_set_arr(d, root, "leases")};
    dhcp_server_each(nb->dhcp, add_lease, &ll);
    return json_write(root, 0, ret);
}
