/* pb — protobuf messages as json trees, by tables made from the protocols' definitions.
 *
 * What:     pb_encode: json tree → bytes; pb_decode: bytes → json tree. Fields carry the protocol's own names; enums are
 *           numbers; bytes fields are strings that may hold any byte (do not write such trees as JSON text).
 * Owns:     decoded values belong to the json_doc given.
 * Limits:   PB_DEPTH levels of messages; the buffer's maximum.
 * Errors:   INVALID (malformed, a member that the message does not have, wrong kind), LIMIT.
 * Threads:  any, no shared state.
 * Spec:     protobuf wire format, proto3: packed and unpacked scalars are read, packed are written; unknown fields skipped.
 */
#ifndef KF_PB_H
#define KF_PB_H

#include "internal/json/json.h"

enum { PB_DEPTH = 16 };
enum pb_kind { PB_INT, PB_UINT, PB_BOOL, PB_DOUBLE, PB_STRING, PB_BYTES, PB_MESSAGE, PB_MAP /* string → string */ };

struct pb_field {
    const char *name;
    uint32_t number;
    enum pb_kind kind;
    bool is_repeated;
    uint16_t message; /* index into the table, for PB_MESSAGE */
};
struct pb_message {
    const char *name;
    const struct pb_field *fields; /* by number; ends with a NULL name */
};

/* Tables, ended by a NULL name: one for each data/<name>.tsv. */
extern const struct pb_message pb_cri[], pb_etcd[];

/* `message` must be in the table. Unset, null and default members are left out. */
NODISCARD int pb_encode(const struct pb_message *table, const char *message, const struct json *v, struct buf *b);
/* Gives an object; absent fields are absent members. */
NODISCARD int pb_decode(const struct pb_message *table, const char *message, struct span s, struct json_doc *d,
                        struct json **ret);

#endif
