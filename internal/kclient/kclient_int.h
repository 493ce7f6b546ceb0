/* Inside kclient: requests below the public calls. */
#ifndef KF_KCLIENT_INT_H
#define KF_KCLIENT_INT_H

#include "internal/http/http.h"
#include "internal/kclient/kclient.h"

enum {
    LIM_KCLIENT_ANSWER = 256 << 20,
    LIM_KCLIENT_OBJECT = 4 << 20, /* one watch event: an object of 3 MiB and what is around it */
    LIM_KCLIENT_QUEUE = 1000,
    LIM_KCLIENT_FLIGHT = 48,      /* requests at once; watches are not counted */
    KCLIENT_PAGE = 500,
};

struct kclient {
    struct loop *l;
    struct http_client *h;
    char *authority, *token, *agent;
    struct list queue; /* struct kop waiting for a place */
    size_t n_queue, n_flight;
    struct loop_hook pump;
    bool is_local; /* unix socket: a dead peer is noticed */
};

/* A streaming GET with the client's credentials; accept NULL: application/json. */
NODISCARD int kclient_stream(struct kclient *c, const struct http_call_opts *o, const char *accept,
                             struct http_call **ret, struct err *e);
/* GET of one page as parsed JSON; like kraw but with an Accept header. */
void kclient_get_page(struct kclient *c, const char *target, const char *accept, kclient_cb *done, void *ctx);
/* Turns a status and a Status body into e. Returns -code. */
int kclient_status_err(unsigned status, const struct json *body, struct err *e);
uint64_t krv(const struct json *obj); /* resourceVersion as a number, 0 when it is none */

#endif
