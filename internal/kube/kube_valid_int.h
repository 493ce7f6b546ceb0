/* Private to the validation files of kube: a walk that knows where it is, and the checks they share. */
#ifndef KF_KUBE_VALID_INT_H
#define KF_KUBE_VALID_INT_H

#include "internal/kube/kube_int.h"

struct val {
    struct kube_errs *e;
    struct kube_path p;
    const struct json *root;
    const struct kube_resource *r;
};

/* Moves the walk to a member, or a list item of a member; v_out moves back. */
size_t v_in(struct val *v, const char *child);
size_t v_in_at(struct val *v, const char *child, size_t i);
static inline void v_out(struct val *v, size_t at) {
    kube_path_pop(&v->p, at);
}

/* Errors at a member (NULL: here). `child` may be a longer path such as "a.b[2]". */
void v_err(struct val *v, enum kube_cause_kind k, const char *child, const struct json *bad,
           const char *fmt, ...) PRINTF(5, 6);
void v_err_str(struct val *v, enum kube_cause_kind k, const char *child, const char *bad,
               const char *fmt, ...) PRINTF(5, 6);
void v_required(struct val *v, const char *child, const char *detail); /* detail may be NULL */
void v_dup(struct val *v, const char *child, const struct json *bad);
/* Unsupported value; `list` is "a|b|c". */
void v_unsupported(struct val *v, const char *child, const struct json *bad, const char *list);
bool v_in_list(const char *s, const char *list);

/* Checks of one member of o. */
bool v_need_str(struct val *v, const struct json *o,
                const char *key); /* required and not empty; true when it is */
void v_enum(struct val *v, const struct json *o, const char *key,
            const char *list); /* when not empty */
void v_enum_need(struct val *v, const struct json *o, const char *key,
                 const char *list); /* empty is unsupported too */
void v_min0(struct val *v, const struct json *o,
            const char *key); /* must be greater than or equal to 0 */
void v_range(struct val *v, const struct json *o, const char *key, int64_t lo, int64_t hi);
void v_ip(struct val *v, const char *child, const struct json *x);
void v_cidr(struct val *v, const char *child, const struct json *x);
bool v_is_ip(struct span s);

/* Name rules. Each message that the text breaks is one Invalid error at child. */
enum name_rule {
    NAME_ANY,
    NAME_SUBDOMAIN,
    NAME_LABEL,
    NAME_1035,
    NAME_PATH, /* RBAC: may not be ".", "..", hold / or % */
};
size_t v_name_msgs(enum name_rule rule, struct span s, const char *ret[3]);
void v_name(struct val *v, const char *child, const struct json *x, enum name_rule rule);
void v_qualified(struct val *v, const char *child, const struct json *x);
void v_labels(struct val *v, const char *child, const struct json *labels);
void v_annotations(struct val *v, const char *child, const struct json *annotations);
void v_label_selector(struct val *v, const char *child, const struct json *sel);
/* Keys of an object as written; NULL-terminated, owned by the errors' memory. */
const char *const *v_keys(struct val *v, const struct json *obj);
void v_immutable(struct val *v, const char *child, const struct json *now, const struct json *old);


/* By topic. `old` is NULL for a create. */
void v_pod_template(struct val *v, const struct json *tmpl);
void v_containers(struct val *v, const struct json *spec, const char *kind);
void v_field_ref(struct val *v, const struct json *f, bool volume); /* a fieldRef of env or a volume */
void v_affinity(struct val *v, const struct json *a);
void v_spread(struct val *v, const struct json *spec);
void v_tolerations(struct val *v, const struct json *list);
void v_taints(struct val *v, const char *child, const struct json *list);
bool v_pod(struct val *v, const struct json *obj,
           const struct json *old); /* pods; all return true when theirs */
bool v_workload(struct val *v, const struct json *obj,
                const struct json *old); /* deployments, jobs, … */
bool v_core(struct val *v, const struct json *obj, const struct json *old);
bool v_policy(struct val *v, const struct json *obj,
              const struct json *old); /* rbac, networking, admission, … */
bool v_farm(struct val *v, const struct json *obj, const struct json *old);

#endif
