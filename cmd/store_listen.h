/* store_listen — the listeners of `kfarm store`: URLs, TLS, namespaces, one HTTP server for each kind. */
#ifndef KF_STORE_LISTEN_H
#define KF_STORE_LISTEN_H

#include "cmd/store_flags.h"

#include "internal/base/map.h"

struct store_listen;

/* Opens every address the flags name and serves `srv` there. `l`, `f` and `srv` are borrowed. */
NODISCARD int store_listen_new(struct loop *l, const struct store_flags *f, struct storesrv *srv,
                               struct store_listen **ret, struct err *e);
/* Reads certificates, keys and CAs again; what cannot be read leaves everything as it was. */
NODISCARD int store_listen_reload(struct store_listen *s, struct err *e);
/* No new connections or calls; `done` when the open calls have ended, or after grace. */
void store_listen_shutdown(struct store_listen *s, uint64_t grace_ns, void (*done)(void *ctx), void *ctx);
void store_listen_free(struct store_listen *s); /* NULL is allowed */

#endif
