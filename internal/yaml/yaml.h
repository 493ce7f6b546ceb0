/* yaml — YAML documents into json trees and back, over libyaml's event parser (no I/O).
 *
 * What:     read one or several documents; write a tree in block style as kubectl prints it.
 * Owns:     each document read is a json_doc that the caller frees.
 * Limits:   LIM_YAML_TEXT bytes of input, LIM_JSON_DEPTH levels. Aliases are refused, not expanded: a document cannot
 *           grow by reading it.
 * Errors:   INVALID (with line), LIMIT.
 * Threads:  any.
 * Spec:     YAML 1.1 core scalars as Kubernetes tools read them: yes/no/on/off are booleans, 0644 and 0o644 octal,
 *           dates stay strings. Duplicate keys, merge keys and application tags are refused. JSON is read too.
 */
#ifndef KF_YAML_H
#define KF_YAML_H

#include "internal/json/json.h"

enum { LIM_YAML_TEXT = 16 << 20 };

/* Exactly one document; no document at all gives null. A second one is -ERR_INVALID. */
NODISCARD int yaml_parse(struct span text, struct json_doc **ret, struct err *e);
/* Block style, members in their order, ends with a line feed. Several documents: put "---\n" between. */
int yaml_write(const struct json *v, struct buf *b);

#endif
