/* DHCP packets in and out.
 *
 * Under overload, requests are answered before discoveries, and of those the oldest are dropped first: a machine that
 * holds an offer finishes, and one whose patience is over is not served in vain. */
#include "internal/netboot/nb_int.h"

#include "internal/base/rand.h"
#include "internal/log/log.h"
#include "internal/sys/sys.h"

#include <stdlib.h>

enum {
    PORT_SERVER = 67,
    PORT_CLIENT = 68,
    PORT_PXE = 4011,
    RCVBUF = 512 << 10, /* some 600 requests: more would only be answered too late */
    READ_ROUND = 512,   /* packets read before discoveries get a turn */
    DISCOVERS_WAITING = 512,
    DISCOVERS_ROUND = 64,
    PACKET_MAX = 2048,
    AT_YIADDR = 16,
};

/* ---- answers ---- */

void nb_reply_send(struct nb_reply *own_r) {
    struct nb_reply *r = own_r;
    struct span s = span_of(r->p, r->n);
    int rc = r->to == DHCP_TO_HW ? nb_frame_send(r->ifc, &r->to_hw, r->src_ip, r->to_ip,
                                                 PORT_SERVER, PORT_CLIENT, s)
                                 : nb_udp_send(r->ifc, r->fd, r->src_ip, r->to_ip, r->to_port, s);
    if (rc < 0) {
        r->ifc->nb->count.dhcp_dropped++;
    } else {
        r->ifc->nb->count.dhcp_out++;
    }
    free(r);
}

static struct nb_reply *reply_new(const struct nb_from *from, bool on_4011,
                                  const struct dhcp_out *o, uint32_t local_ip) {
    struct nb_reply *r = mem_zero_alloc(sizeof(*r) + o->pkt.n);
    *r = (struct nb_reply){.ifc = from->ifc,
                           .fd = from->ifc->udp67,
                           .to = o->to,
                           .src_ip = local_ip,
                           .to_ip = o->to_ip,
                           .to_port = o->to == DHCP_TO_RELAY ? PORT_SERVER : PORT_CLIENT,
                           .to_hw = o->to_hw,
                           .n = o->pkt.n};
    list_init(&r->link);
    memcpy(r->p, o->pkt.p, o->pkt.n);
    if (on_4011 &&
        o->to != DHCP_TO_RELAY) { /* the client asked from its own address: back the same way */
        r->fd = from->ifc->udp4011;
        r->to = DHCP_TO_CLIENT;
        r->to_ip = from->src_ip;
        r->to_port = from->src_port;
    }
    return r;
}

static struct dhcp_hw hw_of(const struct dhcp_msg *m) {
    struct dhcp_hw hw = {m->hlen, {0}};
    memcpy(hw.b, m->chaddr, DHCP_HW_MAX);
    return hw;
}

static void log_turn(const struct dhcp_msg *m, const struct dhcp_out *o) {
    char hw[DHCP_HW_STR], ip[IP4_STR];
    if (log_get_level() > LOG_LVL_DEBUG) {
        return;
    }
    dhcp_hw_format(hw_of(m), ':', hw);
    ip4_format(o->changed ? o->changed->ip : o->to_ip, ip);
    LOG_DEBUG("netboot", "dhcp", F_STR("in", dhcp_type_name(m->type)), F_STR("hw", hw),
              F_STR("ip", ip),
              F_STR("out", o->act == DHCP_SEND    ? dhcp_type_name(o->type)
                           : o->act == DHCP_PROBE ? "probe"
                                                  : "-"),
              F_STR("why", o->why ? o->why : ""));
}

static void log_bound(struct netboot *nb, const struct dhcp_msg *m, const struct dhcp_lease *l) {
    char hw[DHCP_HW_STR], ip[IP4_STR];
    const struct nb_node *n = nb_node_of(nb, l->hw);
    struct dhcp_client c = dhcp_client_of(m);
    if (c.stage == DHCP_STAGE_OS && !n) {
        return; /* thousands of unknown clients are a counter, not log lines */
    }
    static const char *const stages[] = {"os", "pxe", "http", "ipxe"};
    dhcp_hw_format(l->hw, ':', hw);
    ip4_format(l->ip, ip);
    LOG_INFO("netboot", "lease", F_STR("node", n ? n->host.name : "unknown"), F_STR("hw", hw),
             F_STR("ip", ip), F_STR("stage", stages[c.stage]));
}

/* ---- requests ---- */

static void remember_arch(struct netboot *nb, const struct dhcp_msg *m,
                          const struct dhcp_lease *l) {
    struct dhcp_client c = dhcp_client_of(m);
    struct nb_machine *mc = c.has_arch && nb_node_of(nb, l->hw) ? nb_machine_get(nb, l->hw)
                            : c.has_arch                        ? nb_machine_find(nb, l->hw)
                                                                : NULL;
    if (mc) {
        mc->arch = c.arch;
        mc->has_arch = true;
    }
}

/* A machine that nobody declared is at least shown. With the offer: firmware that is offered nothing to boot leaves it. */
static void note_stranger(struct netboot *nb, const struct dhcp_msg *m, struct span offer) {
    struct dhcp_client c = dhcp_client_of(m);
    struct dhcp_hw hw = hw_of(m);
    uint32_t ip = 0;
    IGNORE_ERR(span_skip(&offer, AT_YIADDR) < 0 || span_be32(&offer, &ip) < 0, "our own message");
    if (c.stage != DHCP_STAGE_OS && nb->on_boot &&
        !nb_target(nb, nb_plan_network_of(nb->plan, ip), hw)) {
        const struct nb_machine stranger = {.hw = hw, .arch = c.arch, .has_arch = c.has_arch};
        nb->on_boot(nb->on_boot_ctx, &stranger, ip);
    }
}

static bool relay_ok(const struct netboot *nb, uint32_t giaddr) {
    const struct nb_network *net = nb_plan_network_of(nb->plan, giaddr);
    bool listed = !net || net->n_relays == 0;
    for (size_t i = 0; net && i < net->n_relays; i++) {
        listed |= net->relays[i] == giaddr;
    }
    return listed;
}

static void decide(struct netboot *nb, const struct nb_from *from, bool on_4011, struct span pkt,
                   const struct dhcp_msg *m) {
    uint32_t local = 0;
    const struct nb_network *net = nb_iface_network(from->ifc, &local);
    bool unicast = false;
    for (size_t i = 0; i < from->ifc->n_addrs; i++) {
        unicast |= from->dst_ip == from->ifc->addrs[i].ip;
    }
    if (!net && !unicast) {
        nb->count.dhcp_silent++; /* no declared network on this link */
        return;
    }
    if (m->giaddr && !relay_ok(nb, m->giaddr)) {
        nb->count.dhcp_silent++;
        return;
    }
    local = unicast ? from->dst_ip : local;
    struct dhcp_in in = {.m = m,
                         .local_ip = local,
                         .was_unicast = unicast,
                         .on_4011 = on_4011,
                         .now_ns = loop_now(nb->l)};
    struct dhcp_out out = {.pkt = nb->dhcp_pkt};
    nb_machine_learn(nb, hw_of(m), m->opt[DHCP_OPT_UUID]);
    dhcp_server_input(nb->dhcp, &in, &out);
    nb->dhcp_pkt = out.pkt;
    log_turn(m, &out);
    if (out.act == DHCP_PROBE) {
        nb_probe(nb, out.probe_ip, out.probe_is_local, from, pkt, hw_of(m));
        return;
    }
    struct nb_reply *r = out.act == DHCP_SEND ? reply_new(from, on_4011, &out, local) : NULL;
    if (out.act == DHCP_SILENT) {
        nb->count.dhcp_silent++;
    } else if (out.type == DHCP_OFFER) {
        note_stranger(nb, m, buf_view(&out.pkt));
    }
    if (out.changed) {
        if (out.type == DHCP_ACK) {
            remember_arch(nb, m, out.changed);
            log_bound(nb, m, out.changed);
        }
        nb_journal_commit(&nb->journal, out.changed, r);
    } else if (r) {
        nb_reply_send(r);
    }
}

void nb_dhcp_packet(struct netboot *nb, const struct nb_from *from, bool on_4011, struct span pkt) {
    struct dhcp_msg m;
    const char *why;
    if (dhcp_msg_parse(&m, pkt, &why) < 0) {
        nb->count.dhcp_bad++;
        LOG_DEBUG("netboot", "dhcp: malformed", F_STR("why", why));
        return;
    }
    decide(nb, from, on_4011, pkt, &m);
}

/* ---- the queue of discoveries ---- */

static void discovers_run(struct loop_timer *t) {
    struct netboot *nb = CONTAINER_OF(t, struct netboot, discover_timer);
    for (int i = 0; i < DISCOVERS_ROUND && nb->n_discovers; i++) {
        struct nb_packet *p = CONTAINER_OF(nb->discovers.next, struct nb_packet, link);
        list_del(&p->link);
        nb->n_discovers--;
        nb_dhcp_packet(nb, &p->from, p->on_4011, span_of(p->p, p->n));
        free(p);
    }
    if (nb->n_discovers) {
        loop_timer_start(nb->l, &nb->discover_timer, 0, discovers_run, "discovers");
    }
}

static void discover_later(struct netboot *nb, const struct nb_from *from, bool on_4011,
                           struct span pkt) {
    struct nb_packet *p = mem_zero_alloc(sizeof(*p) + pkt.n);
    p->from = *from;
    p->on_4011 = on_4011;
    p->n = pkt.n;
    memcpy(p->p, pkt.p, pkt.n);
    list_add_tail(&nb->discovers, &p->link);
    if (++nb->n_discovers > DISCOVERS_WAITING) {
        struct nb_packet *old = CONTAINER_OF(nb->discovers.next, struct nb_packet, link);
        list_del(&old->link);
        free(old);
        nb->n_discovers--;
        nb->count.dhcp_dropped++;
    }
    if (!loop_timer_active(&nb->discover_timer)) {
        loop_timer_start(nb->l, &nb->discover_timer, 0, discovers_run, "discovers");
    }
}

static void read_socket(struct nb_iface *ifc, int fd, bool on_4011) {
    struct netboot *nb = ifc->nb;
    uint8_t p[PACKET_MAX];
    for (int i = 0; i < READ_ROUND; i++) {
        struct nb_from from;
        struct dhcp_msg m;
        const char *why;
        int n = nb_udp_recv(ifc, fd, p, sizeof(p), &from);
        if (n < 0) {
            return;
        }
        struct span pkt = span_of(p, (size_t)n);
        nb->count.dhcp_in++;
        if (dhcp_msg_parse(&m, pkt, &why) < 0) {
            nb->count.dhcp_bad++;
            LOG_DEBUG("netboot", "dhcp: malformed", F_STR("why", why));
        } else if (m.type == DHCP_DISCOVER) {
            discover_later(nb, &from, on_4011, pkt);
        } else {
            decide(nb, &from, on_4011, pkt, &m);
        }
    }
}

static void readable_67(struct loop_io *io, uint32_t events) {
    (void)events;
    read_socket(CONTAINER_OF(io, struct nb_iface, io67), io->fd, false);
}
static void readable_4011(struct loop_io *io, uint32_t events) {
    (void)events;
    read_socket(CONTAINER_OF(io, struct nb_iface, io4011), io->fd, true);
}

int nb_dhcp_start(struct netboot *nb, struct err *e) {
    for (size_t i = 0; i < nb->n_ifaces; i++) {
        struct nb_iface *ifc = &nb->ifaces[i];
        int rc = ifc->packet = nb_packet_open(ifc, 0, e);
        rc = rc < 0 ? rc : (ifc->udp67 = nb_udp_open(ifc->name, PORT_SERVER, RCVBUF, e));
        rc = rc < 0 ? rc : (ifc->udp4011 = nb_udp_open(ifc->name, PORT_PXE, 0, e));
        rc = rc < 0
                 ? rc
                 : loop_io_start(nb->l, &ifc->io67, ifc->udp67, LOOP_READ, readable_67, "dhcp", e);
        rc = rc < 0 ? rc
                    : loop_io_start(nb->l, &ifc->io4011, ifc->udp4011, LOOP_READ, readable_4011,
                                    "pxe", e);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

void nb_dhcp_stop(struct netboot *nb) {
    loop_timer_stop(&nb->discover_timer);
    while (!list_empty(&nb->discovers)) {
        struct nb_packet *p = CONTAINER_OF(nb->discovers.next, struct nb_packet, link);
        list_del(&p->link);
        free(p);
    }
    for (size_t i = 0; i < nb->n_ifaces; i++) {
        struct nb_iface *ifc = &nb->ifaces[i];
        loop_io_stop(&ifc->io67);
        loop_io_stop(&ifc->io4011);
        sys_close(ifc->udp67);
        sys_close(ifc->udp4011);
        sys_close(ifc->packet);
    }
}
