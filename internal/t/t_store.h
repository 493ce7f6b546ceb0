/* t_store — the store that tests of store.h and of its users run on. Test-only.
 *
 * STORE=etcd: the cluster at ETCD_ENDPOINTS (URLs, comma-separated), with the folder's name as prefix, so that opening the
 * same folder again finds the same keys. Otherwise the engine, in that folder.
 */
#ifndef KF_T_STORE_H
#define KF_T_STORE_H

#include "internal/store/store.h"

bool t_store_is_etcd(void);
NODISCARD int t_store_open(struct loop *l, const char *dir, struct store **ret, struct err *e);

#endif
