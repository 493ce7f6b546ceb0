/* admin — what the commands for people share: a client of the admin cluster from the admin kubeconfig. */
#ifndef KF_ADMIN_H
#define KF_ADMIN_H

#include "cmd/cmd.h"

#include "internal/kclient/kclient.h"

struct admin {
    struct loop *l;
    struct kclient *client;
};

/* kubeconfig: a path, or NULL for $KUBECONFIG, DATA_DIR/admin.kubeconfig (data_dir not empty), /etc/kfarm/admin.kubeconfig. */
NODISCARD int admin_open(struct admin *a, const char *kubeconfig, const char *data_dir, struct err *e);
void admin_close(struct admin *a);
/* Seconds since an RFC 3339 time as kubectl prints ages: "5s", "3m", "2h", "4d"; "-" when it is not a time. */
void admin_age(const char *rfc3339, char dst[16]);
/* Prints the supervisor that uses data_dir and its roles; the names of their clusters from a list of Tenants (may be NULL).
 * UNAVAILABLE when none runs. */
NODISCARD int status_roles(const char *data_dir, const struct json *tenants, struct err *e);

#endif
