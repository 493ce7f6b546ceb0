#include "internal/apiserver/api_int.h"
#include "internal/t/t.h"

/* What arrives before anything is known about the caller: the path and the Accept header. */

FUZZ(apiserver_route)(const uint8_t *p, size_t n) {
    struct arena mem = ARENA_INIT(1 << 20);
    struct api_target t;
    if (n > 0 &&
        api_route(SPAN_LIT("GET"), span_of(p + 1, n - 1), (p[0] & 1) != 0, &mem, &t) >= 0) {
        CHECK(t.resource != NULL && t.name != NULL && t.ns != NULL && t.sub != NULL &&
              t.rest != NULL);
        CHECK(!t.is_resource || t.resource[0] != '\0');
    }
    arena_fini(&mem);
    return 0;
}

FUZZ(apiserver_accept)(const uint8_t *p, size_t n) {
    struct api_out out;
    bool discovery = false;
    bool ok = api_negotiate(span_of(p, n), &out, &discovery);
    CHECK(ok || (out.media == API_JSON && out.as == API_AS_OBJECT));
    CHECK(out.as_version != NULL);
    return 0;
}
