/* Private to the CRI runtime: cri_client.c (gRPC calls), cri_runtime.c (listing, life cycle), cri_config.c (messages). */
#ifndef KF_CRI_INT_H
#define KF_CRI_INT_H

#include "internal/grpc/grpc.h"
#include "internal/http/http.h"
#include "internal/kubelet/kubelet.h"
#include "internal/pb/pb.h"

struct cri_detail; /* what ContainerStatus or PodSandboxStatus said about one id */

struct kubelet_cri {
    struct loop *l;
    struct http_client *h;
    void (*changed)(void *ctx);
    void *changed_ctx;
    struct http_call *events;
    struct loop_timer events_again, echo;
    unsigned echoes; /* looks since the last event */
    struct map details; /* id → struct cri_detail */
    char version[96];
};

/* resp borrowed, NULL on failure. */
typedef void cri_cb(void *ctx, int rc, struct json *resp, const struct err *e);
/* service: "RuntimeService" or "ImageService"; message types are method + "Request"/"Response". timeout 0: 120 s */
void cri_call(struct kubelet_cri *c, const char *service, const char *method, const struct json *req,
              uint64_t timeout_ns, cri_cb *done, void *ctx);
void cri_events_start(struct kubelet_cri *c);
void cri_events_stop(struct kubelet_cri *c);

/* Makes PodSandboxConfig and ContainerConfig. */
struct json *cri_sandbox_config(struct json_doc *d, const struct kubelet_sandbox *s);
struct json *cri_container_config(struct json_doc *d, const struct kubelet_sandbox *s, const struct kubelet_container *c);

#endif
