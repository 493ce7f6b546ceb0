/* Names by the C library's resolver, which blocks: on a lane. */
#include "internal/net/net.h"

#include <netdb.h>
#include <stdlib.h>

struct net_lookup {
    struct loop_work work;
    net_lookup_done *done; /* NULL: cancelled */
    void *ctx;
    char *host;
    uint16_t port;
    int gai; /* what getaddrinfo said */
    struct net_addr v[NET_LOOKUP_ADDRS];
    size_t n;
};

static void run(struct loop_work *w) {
    struct net_lookup *k = CONTAINER_OF(w, struct net_lookup, work);
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    struct addrinfo *list = NULL;
    char port[8];
    IGNORE_ERR(str_put(port, sizeof(port), "%u", k->port), "five digits");
    k->gai = getaddrinfo(k->host, port, &hints, &list);
    for (const struct addrinfo *a = list; a && k->n < NET_LOOKUP_ADDRS; a = a->ai_next) {
        if (a->ai_addrlen <= sizeof(k->v->sa)) {
            memcpy(&k->v[k->n].sa, a->ai_addr, a->ai_addrlen);
            k->v[k->n++].n = a->ai_addrlen;
        }
    }
    if (list) {
        freeaddrinfo(list);
    }
}

static void done(struct loop_work *w) {
    struct net_lookup *k = CONTAINER_OF(w, struct net_lookup, work);
    struct err e = ERR_INIT;
    if (k->done && (k->gai || !k->n)) {
        int rc = err_set(&e, ERR_UNAVAILABLE, "%s is not resolved: %s", k->host,
                         k->gai ? gai_strerror(k->gai) : "no address");
        k->done(k->ctx, rc, NULL, 0, &e);
    } else if (k->done) {
        k->done(k->ctx, 0, k->v, k->n, NULL);
    }
    free(k->host);
    free(k);
}

int net_lookup_start(struct loop *l, const char *host, uint16_t port, net_lookup_done *on_done,
                     void *ctx, struct net_lookup **ret, struct err *e) {
    struct net_lookup *k = new_zero(struct net_lookup);
    k->work.run = run;
    k->work.done = done;
    k->done = on_done;
    k->ctx = ctx;
    k->host = str_dup(host);
    k->port = port;
    int rc = loop_work_submit(l, LANE_FILE, &k->work, e);
    if (rc < 0) {
        free(k->host);
        free(k);
        return rc;
    }
    *ret = k;
    return 0;
}

void net_lookup_cancel(struct net_lookup *k) {
    if (k) {
        k->done = NULL;
    }
}
