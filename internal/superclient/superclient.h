/* superclient — how hostlet and farm ask the supervisor to run, stop and forget the processes of clusters.
 *
 * What:     the messages and a thin client over one ipc channel. The supervisor decides uid, chroot, descriptors and key
 *           grants of a process by its role and scope; a client only names them and adds arguments.
 * Owns:     a superclient owns its channel.
 * Limits:   LIM_IPC_MSG a message; 32 arguments.
 * Errors:   FORBIDDEN (role or scope not allowed), EXISTS (id runs), NOT_FOUND, IO, UNAVAILABLE.
 * Threads:  the loop's.
 */
#ifndef KF_SUPERCLIENT_H
#define KF_SUPERCLIENT_H

#include "internal/ipc/ipc.h"
#include "internal/json/json.h"

enum super_msg {
    SUPER_RUN = 1, /* {"id","scope","role","port","serverNames":[],"args":[],
                    * "etcdTLS":{"ca","cert","key"}} → {"pid"}, fd: read end of its log pipe */
    SUPER_STOP,    /* {"id","graceMs"} → {} when it has ended */
    SUPER_LIST,    /* {} → {"items":[{"id","scope","role","pid"}]} */
    SUPER_ADOPT,   /* {"id"} → {"pid"}, fd: its log pipe (after a restart of the client) */
    SUPER_FORGET,  /* {"scope"} → {}: processes ended, listeners closed, files removed */
    SUPER_EXITED,  /* supervisor → client, one-way: {"id","exitCode","signal"} */
    SUPER_READY,   /* supervisor → client, one-way: {"id"}: the process said it is serving */
};

/* Supervisor → front, one-way. */
enum front_msg {
    FRONT_ROUTE = 1, /* {"scope","names":[…],"default"}, fd: packets of one byte and one accepted connection go there */
    FRONT_UNROUTE,   /* {"scope"} */
};

struct superclient;
typedef void super_event_cb(void *ctx, enum super_msg type, const struct json *event);
typedef void super_cb(void *ctx, int rc, const struct json *reply, int own_fd, const struct err *e);

NODISCARD int superclient_new(struct loop *l, int own_fd, super_event_cb *on_event, void *ctx, struct superclient **ret,
                              struct err *e);
void superclient_free(struct superclient *s);
/* done is called once, never before the call returned; the fd (or -1) is the callback's. */
void super_call(struct superclient *s, enum super_msg type, const struct json *body, super_cb *done, void *ctx);

#endif
