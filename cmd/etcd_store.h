/* etcd_store — the options that name an etcd cluster, as kube-apiserver's, and the store on it. */
#ifndef KF_ETCD_STORE_H
#define KF_ETCD_STORE_H

#include "cmd/cmd.h"

struct loop;
struct store;
struct tls_config;

struct etcd_flags {
    struct opt_list servers; /* none: no etcd */
    const char *prefix, *cafile, *certfile, *keyfile;
    bool alone;
    int64_t tls_fd; /* instead of the files: {"ca", "cert", "key"} from this descriptor; -1: none */
};
#define ETCD_FLAGS(f)                                                                             \
    {"etcd-servers", OPT_LIST, &(f)->servers, "URL",                                              \
     "etcd endpoints to store everything in instead of a file"},                                  \
        {"etcd-prefix", OPT_STR, &(f)->prefix, "KEY", "what every key in etcd begins with"},      \
        {"etcd-cafile", OPT_STR, &(f)->cafile, "FILE", "CAs of etcd's certificates"},             \
        {"etcd-certfile", OPT_STR, &(f)->certfile, "FILE", "client certificate towards etcd"}, {  \
        "etcd-keyfile", OPT_STR, &(f)->keyfile, "FILE", "its key"                                 \
    }, {                                                                                          \
        "etcd-sole-writer", OPT_BOOL, &(f)->alone, NULL,                                          \
            "no other API server uses this prefix: reads are answered from memory"                \
    }, {                                                                                          \
        "etcd-tls-fd", OPT_I64, &(f)->tls_fd, "N", "descriptor that gives the three of them"      \
    }

/* Keeps the TLS configuration current: files that change are read again. */
struct etcd_store {
    const struct etcd_flags *f;
    struct tls_config *tls;
    struct file_watch *certs;
};
NODISCARD int etcd_store_open(struct etcd_store *s, const struct etcd_flags *f, struct loop *l,
                              struct store **ret, struct err *e);
void etcd_store_fini(struct etcd_store *s); /* after the store was closed */

#endif
