#include "internal/front/front.h"
#include "internal/t/t.h"

FUZZ(front_sni)(const uint8_t *p, size_t n) {
    struct span name = SPAN_EMPTY;
    size_t need = 0;
    int rc = front_sni(span_of(p, n), &name, &need);
    CHECK(rc != -ERR_AGAIN || need > n);
    CHECK(rc != 0 || !name.n || (name.p >= p && name.p + name.n <= p + n));
    return 0;
}
