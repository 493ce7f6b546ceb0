/* Private to storesrv: etcd's messages as JSON. A message is named by two parts: "Range", "Request". */
#ifndef KF_STORESRV_JSON_H
#define KF_STORESRV_JSON_H

#include "internal/storesrv/srv_int.h"

/* Both append. INVALID: no such message, or not one of its kind; *e may stay empty. */
NODISCARD int message_of_json(const char *stem, const char *suffix, struct span text, struct buf *b, struct err *e);
NODISCARD int json_of_message(const char *stem, const char *suffix, struct span message, struct buf *b);

#endif
