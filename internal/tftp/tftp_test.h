/* Shared by the tests and the fuzzer of tftp. */
#ifndef KF_TFTP_TEST_H
#define KF_TFTP_TEST_H

#include "internal/tftp/tftp.h"

/* A file sent over a link that loses, repeats and reorders arrives whole, or the transfer ends as LOST. */
int tftp_prop_transfer(const uint8_t *p, size_t n);

#endif
