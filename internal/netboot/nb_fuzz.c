#include "internal/netboot/nb_int.h"
#include "internal/netboot/nb_test.h"
#include "internal/t/t.h"

int nb_prop_name(const uint8_t *p, size_t n) {
    AUTO(buf) struct buf b = BUF_INIT(1024), again = BUF_INIT(1024);
    if (nb_path_clean(span_of(p, n), &b) < 0) {
        return 0;
    }
    struct span s = buf_view(&b), part;
    while (span_next(&s, '/', &part)) {
        if (!part.n || span_eq_str(part, ".") || span_eq_str(part, "..")) {
            return 1;
        }
    }
    for (size_t i = 0; i < b.n; i++) {
        if (b.p[i] < ' ' || b.p[i] == '\\') {
            return 1;
        }
    }
    return nb_path_clean(buf_view(&b), &again) < 0 || !span_eq(buf_view(&b), buf_view(&again));
}

FUZZ(netboot_name)(const uint8_t *p, size_t n) {
    CHECK(nb_prop_name(p, n) == 0);
    return 0;
}

FUZZ(netboot_plan)(const uint8_t *p, size_t n) {
    struct nb_plan *plan = NULL;
    struct err e = ERR_INIT;
    if (nb_plan_from_json(span_of(p, n), &plan, &e) == 0) {
        for (size_t i = 0; i < plan->n_nodes; i++) {
            const struct nb_node *own = plan->nodes[i];
            CHECK(own->n_macs ? nb_plan_node_by_hw(plan, own->macs[0]) == own
                              : nb_plan_node_by_uuid(plan, own->uuid[1]) == own);
        }
    }
    nb_plan_free(plan);
    return 0;
}
