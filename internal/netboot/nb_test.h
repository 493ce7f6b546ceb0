/* Shared by the tests and the fuzzer of netboot. */
#ifndef KF_NB_TEST_H
#define KF_NB_TEST_H

#include <stddef.h>
#include <stdint.h>

/* A cleaned name has no empty, "." or ".." part, no control character, and is its own clean form. */
int nb_prop_name(const uint8_t *p, size_t n);

#endif
