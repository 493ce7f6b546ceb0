#include "internal/cpio/cpio.h"
#include "internal/t/t.h"

#include <stdlib.h>

FUZZ(cpio_read)(const uint8_t *p, size_t n) {
    struct span s = span_of(p, n);
    struct cpio_entry e;
    while (cpio_next(&s, &e) == 0) {
    }
    return 0;
}
