/* Between the files that make the plan from an admin cluster (nb_kube*.c). */
#ifndef KF_NB_KUBE_INT_H
#define KF_NB_KUBE_INT_H

#include "internal/kclient/kclient.h"
#include "internal/netboot/nb_int.h"

struct plan_write;
struct netboot_kube {
    struct netboot *nb;
    struct kclient *c;
    struct keyclient *keys;
    struct kinformer *tenants, *networks, *images, *hosts;
    struct kevents *events;
    struct nb_hosts *seen;
    struct loop_timer settle, tell_timer;
    struct map cas;  /* uid → struct ca */
    struct map told; /* problems that were reported already, by object and text */
    struct buf last; /* plan.json as it was last used */
    struct plan_write *writing;
    bool write_again, stopping;
    int inotify;
    struct loop_io io_inotify;
};
void nb_kube_rebuild_soon(struct netboot_kube *k);

/* One plan in the making. */
struct making {
    struct netboot_kube *k;
    struct json_doc *d;
    struct json *root;
    struct nb_plan *plan;
    struct json *conflicts; /* tenant's uid → [what it declares that another one declares, too] */
};
/* Adds `v` to a list of the plan. */
bool nb_making_add(struct making *m, const char *list, struct json *v, struct err *e);
/* Tells once per object and text: a log line and an event. */
void nb_kube_warn(struct netboot_kube *k, const struct json *about, const char *reason, const char *text);
void nb_making_copy(struct making *m, struct json *to, const char *key, const struct json *from, const char *from_key);

/* ---- nodes (nb_kube_nodes.c) ---- */

void nb_kube_add_nodes(struct making *m, const struct json *tenant);
void nb_kube_add_approved(struct making *m, const struct json *host); /* its addresses, when a person confirmed it */
/* [{code|name, value}] of the API → {"code": value} of the plan; later ones win. */
void nb_kube_put_options(struct making *m, struct json *to, const struct json *list);
void nb_kube_put_catch_all(struct making *m, struct json *o, const struct json *net);
/* The CAs in the plan of the last run hold until keyd tells them anew. */
void nb_kube_cas_keep(struct netboot_kube *k, const struct json *plan);
void nb_kube_cas_free(struct netboot_kube *k);

/* ---- what is told back (nb_kube_status.c) ---- */

/* The status of Networks is written a moment later. */
void nb_kube_tell_soon(void *ctx);
/* The condition DeclarationConflict of every Tenant, as m->conflicts says. */
void nb_kube_tell_conflicts(struct making *m);

#endif
