#include "internal/kube/kube.h"
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
__attribute__((weak)) void kube_warnings(const struct json *obj, const struct kube_resource *r,
                                         struct kube_errs *ret) {
    (void)obj;
    (void)r;
    (void)ret;
}
