/* Router advertisements: only as the answer to a solicitation, and only to say that there is no router (see ra.h). */
#include "internal/netboot/nb_int.h"

#include "internal/base/rand.h"
#include "internal/log/log.h"
#include "internal/sys/sys.h"

enum {
    ANSWER_WITHIN_MS = 100
}; /* several solicitations in this time get one answer (RFC 4861 §6.2.6 allows 500) */

static void answer(struct loop_timer *t) {
    struct nb_iface *ifc = CONTAINER_OF(t, struct nb_iface, ra_timer);
    struct ra_advert a = {.has_hw = true};
    AUTO(buf) struct buf b = BUF_INIT(LIM_RA_PACKET);
    memcpy(a.hw, ifc->hw, sizeof(a.hw));
    if (ra_write(&a, &b) == 0 && nb_ra_send(ifc, buf_view(&b)) == 0) {
        ifc->nb->count.ra_sent++;
        LOG_DEBUG("netboot", "router advertisement", F_STR("if", ifc->name));
    }
}

static void readable(struct loop_io *io, uint32_t events) {
    struct nb_iface *ifc = CONTAINER_OF(io, struct nb_iface, io_ra);
    uint8_t p[LIM_RA_PACKET];
    int hops, n;
    bool unspecified;
    uint32_t ip;
    (void)events;
    while ((n = nb_ra_read(io->fd, p, sizeof(p), &hops, &unspecified)) >= 0) {
        const struct nb_network *net = nb_iface_network(ifc, &ip);
        if (net && net->ra == NB_RA_QUIET &&
            ra_solicit_check(span_of(p, (size_t)n), hops, unspecified) == 0 &&
            !loop_timer_active(&ifc->ra_timer)) {
            loop_timer_start(ifc->nb->l, &ifc->ra_timer, rand_below(ANSWER_WITHIN_MS) * NS_PER_MS,
                             answer, "ra");
        }
    }
}

int nb_ra_start(struct netboot *nb, struct err *e) {
    for (size_t i = 0; i < nb->n_ifaces; i++) {
        struct nb_iface *ifc = &nb->ifaces[i];
        struct err why = ERR_INIT;
        ifc->icmp6 = nb_ra_open(ifc, &why);
        if (ifc->icmp6 <
            0) { /* a host without IPv6: machines boot all the same, some seconds later */
            ifc->icmp6 = -1;
            LOG_INFO("netboot", "no router advertisements", F_STR("if", ifc->name), F_ERR(&why));
            continue;
        }
        int rc = loop_io_start(nb->l, &ifc->io_ra, ifc->icmp6, LOOP_READ, readable, "ra", e);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

void nb_ra_stop(struct netboot *nb) {
    for (size_t i = 0; i < nb->n_ifaces; i++) {
        loop_io_stop(&nb->ifaces[i].io_ra);
        loop_timer_stop(&nb->ifaces[i].ra_timer);
        sys_close(nb->ifaces[i].icmp6);
    }
}
