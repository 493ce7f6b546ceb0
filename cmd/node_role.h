/* node_role — what the roles of a node share: credentials in a directory, a client of the tenant's API server, signals. */
#ifndef KF_NODE_ROLE_H
#define KF_NODE_ROLE_H

#include "cmd/cmd.h"

#include "internal/kclient/kclient.h"
#include "internal/loop/loop.h"
#include "internal/tls/tls.h"

struct node_role {
    const char *server, *server_name, *credentials, *node, *log_level; /* by NODE_ROLE_OPTIONS */
    struct loop *l;
    struct loop_signal signals;
    struct tls_config *tls;
    struct kclient *client;
    void (*on_signal)(struct node_role *n, int signo); /* SIGHUP, SIGTERM, SIGINT */
};
#define NODE_ROLE_INIT {.server = "", .server_name = "", .credentials = "", .node = "", .log_level = "info"}
/* Rows of a table of options. */
#define NODE_ROLE_OPTIONS(n, holds)                                                                       \
    {"server", OPT_STR, &(n).server, "URL", "API server of the cluster"},                                  \
        {"server-name", OPT_STR, &(n).server_name, "NAME",                                                 \
         "name in the API server's certificate, when it is not the host's"},                               \
        {"credentials", OPT_STR, &(n).credentials, "DIR", "holds " holds},                                 \
        {"node-name", OPT_STR, &(n).node, "NAME", "name of the Node"},                                     \
        {"log-level", OPT_STR, &(n).log_level, "LEVEL", "debug, info, warn or error"}

enum { LIM_NODE_PEM = 1 << 20 };
/* Checks the options, then loop, signals, identity and client; on failure node_role_stop is still to be called. */
NODISCARD int node_role_start(struct node_role *n, const char *name, const char *user_agent, struct err *e);
void node_role_stop(struct node_role *n); /* after everything that uses them */
/* A file of the credentials. */
NODISCARD int node_role_file(const struct node_role *n, const char *name, struct buf *b, struct err *e);
/* Reads ca.crt, client.crt and client.key: for a new TLS configuration, or its next certificate. */
NODISCARD int node_role_identity(struct node_role *n, struct err *e);

#endif
