/* Inside the endpoints controllers: the pods behind a Service. */
#ifndef KF_CTL_EP_INT_H
#define KF_CTL_EP_INT_H

#include "internal/controllers/ctl_int.h"

struct ep {
    const struct json *pod;
    const char *ip;
    struct json *ports; /* [{name, port, protocol, appProtocol}] resolved for this pod */
    bool ready, serving, terminating;
};
struct eplist {
    struct ep *v;
    size_t n;
};
/* Endpoints of svc in one family, sorted by pod name. Values are made in d. The caller frees ->v. */
struct eplist ep_list(struct controllers *c, struct json_doc *d, const struct json *svc, bool v6);
/* Queues the services that select obj (a pod), before and after a change that endpoints can see. */
void ep_enqueue(struct controllers *c, struct kqueue *q, struct kinformer *services, const struct json *old,
                const struct json *cur);
bool ep_is_managed(const struct json *svc); /* has a selector, is not ExternalName */
bool ep_is_headless(const struct json *svc);
struct json *ep_target_ref(struct json_doc *d, const struct json *pod);

#endif
