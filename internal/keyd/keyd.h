/* keyd — the role that alone holds CA and service-account private keys, and signs on request.
 *
 * What:     one key set per scope (the admin cluster, each tenant); channels with grants come from the supervisor.
 * Owns:     its directory (ca.key, ca.crt, sa.key, sa.pub per scope; boot.key, boot.crt of the admin scope), 0600.
 * Limits:   4,096 channels, 64 SANs; leaf certificates one year, CAs ten.
 * Errors:   answers carry FORBIDDEN, NOT_FOUND, INVALID, IO.
 * Threads:  the loop's. No network, no exec: the process is started in an empty network namespace.
 * Time:     the wall clock: validity of certificates and tokens.
 * Protocol: internal/keyclient/keyclient.h. A grant names a scope ("*": every scope), the profiles and, for "component",
 *           the common names it may ask for; "token": may have service-account tokens signed; "manage": may create and
 *           delete scopes. A channel can do nothing beyond its grant.
 */
#ifndef KF_KEYD_H
#define KF_KEYD_H

#include "internal/loop/loop.h"

/* Serves grants that arrive on own_ctl_fd (an ipc channel from the supervisor) until that channel closes; takes both fds. */
NODISCARD int keyd_run(struct loop *l, int own_dir_fd, int own_ctl_fd, int own_ready_fd, struct err *e);

#endif
