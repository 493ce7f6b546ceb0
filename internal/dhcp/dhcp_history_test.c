/* Histories that went wrong once, found by dhcp_prop_server. */
#include "internal/base/rand.h"
#include "internal/dhcp/dhcp_test.h"
#include "internal/t/t.h"

#include <stdlib.h>

enum { LEASE_S = 600, NOBODY = 0 };

/* One message and what must come of it. */
struct act {
    unsigned at_s, client;
    bool is_boot;
    uint8_t type;
    uint32_t ciaddr, wish;
    uint32_t used_ip;  /* a probe finds this address in use */
    uint8_t want_type; /* 0: silence */
    uint32_t want_ip;
};

static bool is_used(void *ctx, uint32_t ip) {
    const struct act *a = ctx;
    return ip == a->used_ip;
}

static void play(struct dhcp_server *s, const struct act *acts, size_t n) {
    struct dhcp_out out = {.pkt = BUF_INIT(LIM_DHCP_OUT)};
    struct dhcp_msg *r = new_zero(struct dhcp_msg);
    for (size_t i = 0; i < n; i++) {
        struct act a = acts[i];
        const struct dhcp_lab_ask ask = {.now_ns = (1000 + a.at_s) * NS_PER_S,
                                         .client = a.client,
                                         .is_boot = a.is_boot,
                                         .type = a.type,
                                         .ciaddr = a.ciaddr,
                                         .wish = a.wish,
                                         .server =
                                             a.type == DHCP_REQUEST && !a.ciaddr ? DHCP_LAB_US : 0,
                                         .in_use = is_used,
                                         .ctx = &a};
        const char *why;
        dhcp_lab_send(s, &ask, &out);
        r->type = 0;
        r->yiaddr = 0;
        if (out.act == DHCP_SEND) {
            ASSERT_ERR(0, dhcp_msg_parse(r, buf_view(&out.pkt), &why));
        }
        if (r->type != a.want_type || r->yiaddr != a.want_ip) {
            fail_msg("message %zu: %s of %08x: %s", i,
                     r->type ? dhcp_type_name(r->type) : "silence", r->yiaddr,
                     out.why ? out.why : "");
        }
    }
    free(r);
    buf_fini(&out.pkt);
}

static void history(const struct act *acts, size_t n) {
    struct err e = ERR_INIT;
    struct dhcp_server *s = dhcp_server_new(&dhcp_lab_ops, NULL, DHCP_LAB_LEASES);
    ASSERT_OK(dhcp_lab_configure(s, LEASE_S, &e), &e);
    play(s, acts, n);
    dhcp_server_free(s);
}

/* NIC 0 of a machine has its address; NIC 1 of it asks as firmware does, for the same, and a probe finds the address in
 * use. It was taken from NIC 0 for the probe, then put into the short quarantine of declared addresses, and then given to
 * NIC 1 while NIC 0 had it for minutes to come. */
TEST(dhcp, history_address_of_the_other_nic_that_answers) {
    const uint32_t ip = DHCP_LAB_TWO_NICS;
    const struct act acts[] = {
        {0, 0, true, DHCP_DISCOVER, 0, 0, NOBODY, DHCP_OFFER, ip},
        {0, 0, true, DHCP_REQUEST, 0, ip, NOBODY, DHCP_ACK, ip},
        {300, 1, true, DHCP_REQUEST, 0, ip, ip, DHCP_NAK, 0},
        {330, 1, true, DHCP_REQUEST, 0, ip, NOBODY, DHCP_NAK, 0}, /* the probe still counts */
        {400, 1, false, DHCP_REQUEST, 0, ip, NOBODY, DHCP_NAK, 0},
        {400, 0, false, DHCP_REQUEST, ip, 0, NOBODY, DHCP_ACK, ip},
        {400, 1, true, DHCP_REQUEST, 0, ip, NOBODY, DHCP_ACK,
         ip}, /* nobody answers: it was reset */
        {401, 0, false, DHCP_REQUEST, ip, 0, NOBODY, DHCP_NAK, 0},
    };
    history(acts, ARRAY_LEN(acts));
}

/* An offer takes nothing away: the machine booted from NIC 1, did not accept, and goes on with NIC 0. */
TEST(dhcp, history_offer_to_the_other_nic_not_accepted) {
    const uint32_t ip = DHCP_LAB_TWO_NICS;
    const struct act acts[] = {
        {0, 0, true, DHCP_DISCOVER, 0, 0, NOBODY, DHCP_OFFER, ip},
        {0, 0, true, DHCP_REQUEST, 0, ip, NOBODY, DHCP_ACK, ip},
        {10, 1, true, DHCP_DISCOVER, 0, 0, NOBODY, DHCP_OFFER, ip},
        {20, 0, false, DHCP_REQUEST, ip, 0, NOBODY, DHCP_ACK, ip},
    };
    history(acts, ARRAY_LEN(acts));
}

/* A client whose declared address is in use falls back to one it had long ago: that was not found again after its probe
 * and the client was sent away. */
TEST(dhcp, history_fallback_to_an_earlier_address) {
    const uint32_t own = DHCP_LAB_OUTSIDE;
    const uint32_t all[] = {DHCP_LAB_FIRST, DHCP_LAB_FIRST + 3, DHCP_LAB_FIRST + 4, DHCP_LAB_LAST};
    const struct act acts[] = {
        {0, 2, false, DHCP_DISCOVER, 0, all[0], own, DHCP_OFFER, all[0]},
        {0, 2, false, DHCP_REQUEST, 0, all[0], NOBODY, DHCP_ACK, all[0]},
        {1, 3, false, DHCP_REQUEST, 0, all[1], NOBODY, DHCP_ACK, all[1]},
        {1, 4, false, DHCP_REQUEST, 0, all[2], NOBODY, DHCP_ACK, all[2]},
        {1, 5, false, DHCP_REQUEST, 0, all[3], NOBODY, DHCP_ACK, all[3]},
        {800, 2, false, DHCP_DISCOVER, 0, 0, own, DHCP_OFFER, all[0]}, /* the longest unused */
    };
    history(acts, ARRAY_LEN(acts));
}

/* A declared address has a shorter quarantine than others: it waited for them. */
TEST(dhcp, history_declared_address_after_a_longer_quarantine) {
    const uint32_t own = DHCP_LAB_OUTSIDE, other = DHCP_LAB_FIRST;
    const struct act acts[] = {
        {0, 5, false, DHCP_REQUEST, 0, other, other, DHCP_NAK, 0},
        {1, 2, true, DHCP_REQUEST, 0, own, own, DHCP_NAK, 0},
        {100, 2, true, DHCP_REQUEST, 0, own, NOBODY, DHCP_ACK, own},
    };
    history(acts, ARRAY_LEN(acts));
}

/* A lease made after the lease time was shortened ends before those from earlier. */
TEST(dhcp, history_shorter_leases_after_longer_ones) {
    const uint32_t ips[] = {DHCP_LAB_FIRST, DHCP_LAB_FIRST + 3, DHCP_LAB_FIRST + 4, DHCP_LAB_LAST};
    struct err e = ERR_INIT;
    struct dhcp_server *s = dhcp_server_new(&dhcp_lab_ops, NULL, DHCP_LAB_LEASES);
    const struct act long_lease = {0, 3, false, DHCP_REQUEST, 0, ips[0], NOBODY, DHCP_ACK, ips[0]};
    ASSERT_OK(dhcp_lab_configure(s, 3600, &e), &e);
    play(s, &long_lease, 1);
    ASSERT_OK(dhcp_lab_configure(s, 60, &e), &e);
    for (unsigned i = 1; i < ARRAY_LEN(ips); i++) {
        const struct act short_lease = {1,      3 + i,  false,    DHCP_REQUEST, 0,
                                        ips[i], NOBODY, DHCP_ACK, ips[i]};
        play(s, &short_lease, 1);
    }
    const struct act newcomers[] = {
        {50, 9, false, DHCP_DISCOVER, 0, 0, NOBODY, 0, 0},
        {100, 9, false, DHCP_DISCOVER, 0, ips[0], NOBODY, DHCP_OFFER, ips[1]},
    };
    play(s, newcomers, ARRAY_LEN(newcomers));
    dhcp_server_free(s);
}
