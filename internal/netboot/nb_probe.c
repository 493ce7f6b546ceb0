/* Before an address is offered that was not just in use by the same machine: does somebody answer there?
 *
 * On our own links by ARP, behind relays by ICMP echo. Many probes run at once; nobody else waits for them. */
#include "internal/netboot/nb_int.h"

#include "internal/base/rand.h"
#include "internal/log/log.h"
#include "internal/sys/sys.h"

#include <stdlib.h>

enum { ARP_WAIT_MS = 250, ICMP_WAIT_MS = 400 };

struct probe {
    struct netboot *nb;
    uint32_t ip;
    struct dhcp_hw asker;
    struct loop_timer timer;
    struct nb_packet *request;
};

static struct span key(const uint32_t *ip) {
    return span_of(ip, sizeof(*ip));
}

static void probe_free(struct probe *p) {
    map_del(&p->nb->probes.by_ip, key(&p->ip));
    loop_timer_stop(&p->timer);
    free(p->request);
    free(p);
}

static void finish(struct probe *p, bool in_use) {
    struct netboot *nb = p->nb;
    struct nb_packet *rq = TAKE(p->request);
    dhcp_server_probed(nb->dhcp, p->ip, in_use, loop_now(nb->l));
    probe_free(p);
    nb_dhcp_packet(nb, &rq->from, rq->on_4011, span_of(rq->p, rq->n));
    free(rq);
}

static void nobody_answered(struct loop_timer *t) {
    finish(CONTAINER_OF(t, struct probe, timer), false);
}

static void conflict(struct probe *p, const char *who) {
    char ip[IP4_STR];
    ip4_format(p->ip, ip);
    p->nb->count.dhcp_conflicts++;
    LOG_WARN("netboot",
             "address is used by somebody who did not get it from here, offering another",
             F_STR("ip", ip), F_STR("by", who));
    finish(p, true);
}

/* The asker itself, or another NIC of its machine, may still hold the address: that is no conflict. */
static bool same_machine(const struct probe *p, struct dhcp_hw hw) {
    const struct nb_node *a = nb_node_of(p->nb, p->asker);
    return dhcp_hw_eq(hw, p->asker) || (a && a == nb_node_of(p->nb, hw));
}

static void arp_readable(struct loop_io *io, uint32_t events) {
    struct nb_iface *ifc = CONTAINER_OF(io, struct nb_iface, io_arp);
    struct dhcp_hw hw;
    uint32_t ip;
    int rc;
    (void)events;
    while ((rc = nb_arp_read(ifc, &ip, &hw)) >= 0) {
        struct probe *p = rc ? map_get(&ifc->nb->probes.by_ip, key(&ip)) : NULL;
        if (p && !same_machine(p, hw)) {
            char who[DHCP_HW_STR];
            dhcp_hw_format(hw, ':', who);
            conflict(p, who);
        }
    }
}

static void icmp_readable(struct loop_io *io, uint32_t events) {
    struct nb_probes *ps = CONTAINER_OF(io, struct nb_probes, io_icmp);
    uint32_t ip;
    int rc;
    (void)events;
    while ((rc = nb_icmp_read(io->fd, ps->icmp_id, &ip)) >= 0) {
        struct probe *p = rc ? map_get(&ps->by_ip, key(&ip)) : NULL;
        if (p) {
            conflict(p, "an ICMP answer");
        }
    }
}

void nb_probe(struct netboot *nb, uint32_t ip, bool is_local, const struct nb_from *from,
              struct span pkt, struct dhcp_hw asker) {
    if (map_get(&nb->probes.by_ip, key(&ip))) {
        return; /* the client repeats itself while we look: the first one will be answered */
    }
    if (nb->probes.by_ip.n >= LIM_NB_PROBES) {
        nb->count.dhcp_dropped++;
        return;
    }
    struct probe *p = new_zero(struct probe);
    p->nb = nb;
    p->ip = ip;
    p->asker = asker;
    p->request = mem_zero_alloc(sizeof(*p->request) + pkt.n);
    p->request->from = *from;
    p->request->n = pkt.n;
    memcpy(p->request->p, pkt.p, pkt.n);
    map_put(&nb->probes.by_ip, key(&ip), p);
    int rc =
        is_local ? nb_arp_ask(from->ifc, ip) : nb_icmp_ask(nb->probes.icmp, ip, nb->probes.icmp_id);
    /* A failed send (no route, for one) is no answer either. */
    uint64_t wait_ms = rc < 0 ? 0 : is_local ? ARP_WAIT_MS : ICMP_WAIT_MS;
    loop_timer_start(nb->l, &p->timer, wait_ms * NS_PER_MS, nobody_answered, "probe");
}

int nb_probes_start(struct netboot *nb, struct err *e) {
    nb->probes.icmp_id = (uint16_t)rand_below(UINT16_MAX);
    nb->probes.icmp = nb_icmp_open(e);
    if (nb->probes.icmp < 0) {
        return nb->probes.icmp;
    }
    int rc = loop_io_start(nb->l, &nb->probes.io_icmp, nb->probes.icmp, LOOP_READ, icmp_readable,
                           "icmp", e);
    for (size_t i = 0; i < nb->n_ifaces && rc >= 0; i++) {
        struct nb_iface *ifc = &nb->ifaces[i];
        rc = ifc->arp = nb_packet_open(ifc, 0x0806, e);
        rc = rc < 0
                 ? rc
                 : loop_io_start(nb->l, &ifc->io_arp, ifc->arp, LOOP_READ, arp_readable, "arp", e);
    }
    return rc;
}

void nb_probes_stop(struct netboot *nb) {
    struct map_iter it = {0};
    struct map_entry *en;
    while (map_next(&nb->probes.by_ip, &it, &en)) {
        struct probe *p = en->value;
        probe_free(p);
    }
    map_fini(&nb->probes.by_ip);
    loop_io_stop(&nb->probes.io_icmp);
    sys_close(nb->probes.icmp);
    for (size_t i = 0; i < nb->n_ifaces; i++) {
        loop_io_stop(&nb->ifaces[i].io_arp);
        sys_close(nb->ifaces[i].arp);
    }
}
