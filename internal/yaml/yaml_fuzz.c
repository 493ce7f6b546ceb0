#include "internal/yaml/yaml.h"

#include "internal/t/t.h"

static int take(void *ctx, struct json_doc *own_doc, struct err *e) {
    (void)ctx, (void)e;
    AUTO(json_docp) struct json_doc *d = own_doc, *again = NULL;
    AUTO(buf) struct buf b = BUF_INIT(64u << 20);
    struct err e2 = ERR_INIT;
    if (yaml_write(json_root(d), &b) == 0) {
        /* What we write, we read back as the same tree. */
        CHECK(yaml_parse(buf_view(&b), &again, &e2) == 0);
        CHECK(json_eq(json_root(d), json_root(again)));
    }
    return 0;
}

FUZZ(yaml)(const uint8_t *p, size_t n) {
    struct err e = ERR_INIT;
    IGNORE_ERR(yaml_each(span_of(p, n), take, NULL, &e), "any result is fine");
    return 0;
}
