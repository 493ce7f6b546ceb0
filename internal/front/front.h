/* front — one port for every cluster: reads the server name of a TLS ClientHello and hands the connection over.
 *
 * What:     accepts, peeks (never consumes) the ClientHello, passes the descriptor to the API server of that name; it sees
 *           no plaintext and copies no byte. No or unknown name: the default route.
 * Owns:     its listeners, its routes' sockets, connections until they are handed over.
 * Limits:   1,024 connections waiting for a ClientHello, 10 s each, 16 KiB of ClientHello.
 * Errors:   INVALID, IO at start.
 * Threads:  the loop's.
 * Time:     the loop's.
 * Spec:     RFC 8446 §4.1.2, RFC 6066 §3; descriptors by SCM_RIGHTS, unix(7).
 * Protocol: ipc from the supervisor, FRONT_* in internal/superclient/superclient.h.
 */
#ifndef KF_FRONT_H
#define KF_FRONT_H

#include "internal/loop/loop.h"

/* Serves until the control channel closes or the loop stops; takes the fds. */
NODISCARD int front_run(struct loop *l, const int *own_listen_fds, size_t n, int own_ctl_fd, struct err *e);

/* Finds the server name in the bytes of a TLS stream that start with a ClientHello. 0 and *ret (empty: none given),
 * -ERR_AGAIN and *ret_need = bytes wanted in all, -ERR_INVALID: not a ClientHello. */
NODISCARD int front_sni(struct span bytes, struct span *ret, size_t *ret_need);

#endif
