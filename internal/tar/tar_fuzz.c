#include "internal/t/t.h"
#include "internal/tar/tar.h"

#include <stdlib.h>

FUZZ(tar_read)(const uint8_t *p, size_t n) {
    struct tar_reader r;
    struct tar_entry e;
    tar_reader_init(&r, span_of(p, n));
    while (tar_next(&r, &e) == 0) {
    }
    tar_reader_fini(&r);
    return 0;
}
