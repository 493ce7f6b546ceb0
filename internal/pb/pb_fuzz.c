#include "internal/pb/pb.h"
#include "internal/t/t.h"

#include <stdlib.h>

/* What decodes, encodes and decodes again to the same tree. */
FUZZ(pb_decode)(const uint8_t *p, size_t n) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    AUTO(buf) struct buf b = BUF_INIT(16 << 20);
    struct json *v, *again;
    if (pb_decode(pb_cri, "ContainerStatus", span_of(p, n), d, &v) == 0) {
        CHECK(pb_encode(pb_cri, "ContainerStatus", v, &b) == 0);
        CHECK(pb_decode(pb_cri, "ContainerStatus", buf_view(&b), d, &again) == 0);
    }
    return 0;
}
