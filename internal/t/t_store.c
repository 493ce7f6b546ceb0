#include "internal/t/t_store.h"

#include "internal/etcd/etcd.h"
#include "internal/store/store_engine.h"
#include "internal/sys/sys.h"

#include <stdlib.h>

bool t_store_is_etcd(void) {
    return str_eq(getenv("STORE"), "etcd");
}

static int open_etcd(struct loop *l, const char *dir, struct store **ret, struct err *e) {
    const char *urls = getenv("ETCD_ENDPOINTS");
    const char *endpoints[LIM_ETCD_ENDPOINTS];
    struct arena a = ARENA_INIT(64 << 10);
    struct span rest = span_str(urls != NULL ? urls : "");
    struct span one;
    size_t n = 0;
    while (n < LIM_ETCD_ENDPOINTS && span_next(&rest, ',', &one)) {
        endpoints[n++] = arena_str(&a, one);
    }
    const struct etcd_opts o = {.endpoints = endpoints, .n_endpoints = n, .prefix = dir};
    int rc = etcd_open(l, &o, ret, e);
    arena_fini(&a);
    return rc;
}

int t_store_open(struct loop *l, const char *dir, struct store **ret, struct err *e) {
    if (t_store_is_etcd()) {
        return open_etcd(l, dir, ret, e);
    }
    AUTO_FD int fd = sys_open_dir(dir, e);
    return fd < 0 ? fd : store_open(l, fd, "store.db", NULL, ret, e);
}
