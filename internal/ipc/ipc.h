/* ipc — framed messages with at most one fd each over a SOCK_SEQPACKET or stream socketpair between kfarm's processes.
 *
 * What:     request/reply and one-way messages; payload is JSON or raw bytes as the service defines.
 * Owns:     the channel owns its socket; received fds belong to the receiver.
 * Limits:   LIM_IPC_MSG bytes a message; a malformed message ends the channel of its sender.
 * Errors:   INVALID, LIMIT, UNAVAILABLE (peer closed), and on replies the code the peer sent.
 * Threads:  the loop's.
 * Restart:  the process behind a socket may die and be replaced while a third one keeps the socket open. What it had read
 *           and not answered is lost; its successor says so (ipc_succeed), and the calls that wait are sent again. So this is
 *           for services whose requests may be carried out twice; a call that is lost three times fails with UNAVAILABLE.
 * Frame:    header {u16 type, u16 flags, u32 len, u64 id}, little endian, then len bytes. flags bit 0: reply, bit 1: error
 *           reply (payload: u32 code, text). Type 0xffff: the successor's word.
 */
#ifndef KF_IPC_H
#define KF_IPC_H

#include "internal/loop/loop.h"

enum { LIM_IPC_MSG = 256 * 1024 };

struct ipc;
struct ipc_msg {
    uint16_t type;
    uint64_t id; /* to answer with ipc_reply; 0: one-way */
    struct span body;
    int fd;      /* -1, or a descriptor to take with TAKE_FD */
};
struct ipc_handler {
    void (*on_msg)(struct ipc *c, struct ipc_msg *m, void *ctx);
    void (*on_close)(struct ipc *c, void *ctx); /* once; the channel is freed by its owner, allowed inside */
    void *ctx;
};
/* A connected pair of sockets, both CLOEXEC. */
NODISCARD int ipc_pair(int ret_fds[2], struct err *e);
NODISCARD int ipc_new(struct loop *l, int own_fd, const struct ipc_handler *h, struct ipc **ret, struct err *e);
/* The same for the successor of a process that died: throws away what that one left unread, perhaps half a message, and
 * has the other side send its calls again. */
NODISCARD int ipc_succeed(struct loop *l, int own_fd, const struct ipc_handler *h, struct ipc **ret, struct err *e);
void ipc_free(struct ipc *c);
struct loop *ipc_loop(const struct ipc *c);
/* own_fd: -1 or a descriptor that is sent and closed here. */
NODISCARD int ipc_send(struct ipc *c, uint16_t type, struct span body, int own_fd, struct err *e);
typedef void ipc_reply_cb(void *ctx, int rc, struct ipc_msg *m, const struct err *e);
NODISCARD int ipc_call(struct ipc *c, uint16_t type, struct span body, int own_fd, ipc_reply_cb *done, void *ctx,
                       struct err *e);
NODISCARD int ipc_reply(struct ipc *c, uint64_t id, struct span body, int own_fd, struct err *e);
NODISCARD int ipc_reply_err(struct ipc *c, uint64_t id, const struct err *why, struct err *e);
/* Blocking call for start-up, before the loop runs. *ret_fd may be NULL. */
NODISCARD int ipc_call_sync(int fd, uint16_t type, struct span body, int own_fd, struct buf *ret_body, int *ret_fd,
                            struct err *e);

#endif
