/* Private to the printers of kube: one cell under way, and the shared pieces of text. */
#ifndef KF_KUBE_PRINT_INT_H
#define KF_KUBE_PRINT_INT_H

#include "internal/kube/kube_int.h"

struct print {
    struct buf *b; /* the text of the cell */
    uint64_t now_s;
    int64_t number;
    bool is_number; /* the cell is `number` instead */
};
typedef void print_fn(struct print *p, const struct json *obj);
struct print_cell {
    const char *name;
    print_fn *fn;
};

void print_since(struct print *p, const struct json *time); /* age, or <unknown> */
void print_str(struct print *p, const struct json *v, const char *otherwise);
print_fn *print_find(const struct print_cell *list, size_t n, const char *name);
print_fn *print_pod_cell(const char *name); /* pods, nodes, services, volumes; NULL when unknown */

#endif
