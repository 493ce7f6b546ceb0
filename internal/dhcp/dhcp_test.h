/* Shared by the tests and fuzzers of dhcp: properties over bytes, 0 when they hold. */
#ifndef KF_DHCP_TEST_H
#define KF_DHCP_TEST_H

#include "internal/dhcp/dhcp.h"

/* Any message that can be written is read back as the same; what is read from it writes the same bytes again. */
int dhcp_prop_write_then_parse(const uint8_t *p, size_t n);
/* Any bytes are read or refused; what was read lies inside them. */
int dhcp_prop_parse(const uint8_t *p, size_t n);
/* Records round trip; a journal with any byte changed loses only the record that holds it. */
int dhcp_prop_record(const uint8_t *p, size_t n);
/* Any sequence of requests, probes, restarts and hours against a server, checked step by step with a plain model:
 * no address has two owners, reservations go to their machines only, and an ACK tells the lease that is stored. */
int dhcp_prop_server(const uint8_t *p, size_t n);

/* ---- a small network for the model and for histories ---- */

enum {
    DHCP_LAB_NET = 0x0a4d0000,            /* 10.77.0.0/28; the server is 10.77.0.1, */
    DHCP_LAB_US = DHCP_LAB_NET + 1,       /* */
    DHCP_LAB_FIRST = DHCP_LAB_NET + 4,    /* the range 10.77.0.4 - 10.77.0.9, */
    DHCP_LAB_ROUTER = DHCP_LAB_NET + 5,   /* with the router inside */
    DHCP_LAB_LAST = DHCP_LAB_NET + 9,
    DHCP_LAB_TWO_NICS = DHCP_LAB_NET + 6, /* declared: clients 0 and 1, two NICs of one machine */
    DHCP_LAB_OUTSIDE = DHCP_LAB_NET + 12, /* declared: client 2 */
    DHCP_LAB_OFFER_S = 60,
    DHCP_LAB_DECLINE_S = 300,
    DHCP_LAB_LEASES = 64,
};
extern const struct dhcp_ops dhcp_lab_ops;
NODISCARD int dhcp_lab_configure(struct dhcp_server *s, uint32_t lease_s, struct err *e);
struct dhcp_hw dhcp_lab_hw(unsigned client);

struct dhcp_lab_ask {
    uint64_t now_ns;
    unsigned client;
    bool is_boot; /* firmware */
    uint8_t type;
    uint32_t ciaddr, wish, server;
    bool (*in_use)(void *ctx, uint32_t ip); /* what a probe finds */
    void *ctx;
};
/* Sends one message through the wire format, answering the server's probes. */
void dhcp_lab_send(struct dhcp_server *s, const struct dhcp_lab_ask *a, struct dhcp_out *out);

/* A message as text, one option a line: the form of the golden files. */
void dhcp_test_dump(const struct dhcp_msg *m, struct buf *b);

#endif
