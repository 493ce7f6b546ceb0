#include "internal/yaml/yaml.h"

#include "internal/t/t.h"

FUZZ(yaml)(const uint8_t *p, size_t n) {
    AUTO(json_docp) struct json_doc *d = NULL, *again = NULL;
    AUTO(buf) struct buf b = BUF_INIT(64u << 20);
    struct err e = ERR_INIT;
    if (yaml_parse(span_of(p, n), &d, &e) == 0 && yaml_write(json_root(d), &b) == 0) {
        /* What we write, we read back as the same tree. */
        CHECK(yaml_parse(buf_view(&b), &again, &e) == 0);
        CHECK(json_eq(json_root(d), json_root(again)));
    }
    return 0;
}
