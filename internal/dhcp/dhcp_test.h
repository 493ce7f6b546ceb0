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

/* A message as text, one option a line: the form of the golden files. */
void dhcp_test_dump(const struct dhcp_msg *m, struct buf *b);

#endif
