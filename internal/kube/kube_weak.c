#include "internal/kube/kube.h"
__attribute__((weak)) int kube_apply(struct json_doc *d, const struct kube_resource *r,
                                     const struct json *live, const struct json *applied,
                                     const struct kube_apply_opts *o, struct json **ret,
                                     struct kube_errs *errs) {
    (void)r;
    (void)o;
    if (!live) {
        *ret = json_copy(d, applied);
        return 0;
    }
    return kube_patch_merge(d, json_copy(d, live), applied, ret, errs);
}
__attribute__((weak)) int kube_convert(struct json_doc *d, struct json *obj,
                                       const struct kube_resource *from,
                                       const struct kube_resource *to, struct err *e) {
    (void)d;
    (void)obj;
    (void)from;
    (void)to;
    (void)e;
    return 0;
}
__attribute__((weak)) void kube_managed_update(struct json_doc *d, const struct kube_resource *r,
                                               const struct json *old, struct json *obj,
                                               const struct kube_apply_opts *o, bool is_apply) {
    (void)d;
    (void)r;
    (void)old;
    (void)obj;
    (void)o;
    (void)is_apply;
}
__attribute__((weak)) struct span kube_manager_of_agent(struct span s) {
    return s;
}
__attribute__((weak)) int kube_pb_decode(struct span s, struct json_doc *d, struct json **ret,
                                         struct err *e) {
    (void)s;
    (void)d;
    (void)ret;
    return err_set(e, ERR_UNSUPPORTED, "pb");
}
__attribute__((weak)) int kube_pb_encode(const struct json *obj, struct buf *b, struct err *e) {
    (void)obj;
    (void)b;
    return err_set(e, ERR_UNSUPPORTED, "pb");
}
__attribute__((weak)) int kube_pb_watch_frame(const char *t, struct span s, struct buf *b) {
    (void)t;
    (void)s;
    (void)b;
    return -ERR_UNSUPPORTED;
}
__attribute__((weak)) bool kube_pb_has(const struct kube_type *t) {
    (void)t;
    return false;
}
__attribute__((weak)) struct json *kube_table_columns(struct json_doc *d,
                                                      const struct kube_resource *r) {
    (void)r;
    struct json *a = json_new_arr(d), *c = json_new_obj(d);
    json_set_str(d, c, "name", "Name");
    json_set_str(d, c, "type", "string");
    json_push(a, c);
    return a;
}
__attribute__((weak)) struct json *kube_table_cells(struct json_doc *d,
                                                    const struct kube_resource *r,
                                                    const struct json *obj, uint64_t n) {
    (void)r;
    (void)n;
    struct json *a = json_new_arr(d);
    json_push_str(d, a, kube_name(obj));
    return a;
}
__attribute__((weak)) void kube_warnings(const struct json *obj, const struct kube_resource *r,
                                         struct kube_errs *ret) {
    (void)obj;
    (void)r;
    (void)ret;
}
