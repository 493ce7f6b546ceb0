#include "internal/json/json.h"
#include "internal/t/t.h"

/* What was parsed and written parses again to the same value. */
FUZZ(json_parse)(const uint8_t *p, size_t n) {
    struct json_doc *a = NULL, *b = NULL;
    if (json_parse(span_of(p, n), 0, &a, NULL) == 0) {
        struct buf text = BUF_INIT(1 << 24);
        if (json_write(json_root(a), 0, &text) == 0) {
            CHECK(json_parse(buf_view(&text), 0, &b, NULL) == 0);
            CHECK(json_eq(json_root(a), json_root(b)));
        }
        buf_fini(&text);
    }
    json_doc_free(a);
    json_doc_free(b);
    return 0;
}
