/* http1 — HTTP/1.x messages out of bytes, and heads into bytes (no I/O; llhttp underneath).
 *
 * What:     an incremental parser that stops behind every message, so that pipelined bytes stay with the caller.
 * Owns:     the head of the current message; spans of it live until the next message begins.
 * Limits:   LIM_HTTP1_HEAD bytes of head, LIM_HTTP1_HEADERS headers (also trailers, which are dropped).
 * Errors:   INVALID (malformed), LIMIT (head too large).
 * Threads:  any, one at a time.
 * Spec:     RFC 9112. Bodies of a request with an Upgrade header are bodies; only a 101 answer ends the protocol.
 */
#ifndef KF_HTTP1_H
#define KF_HTTP1_H

#include "internal/base/buf.h"

enum { LIM_HTTP1_HEAD = 64 * 1024, LIM_HTTP1_HEADERS = 256 };

struct http1;
enum http1_body { HTTP1_BODY, HTTP1_NO_BODY /* the answer to a HEAD request */ };
struct http1_cb {
    /* The head is complete. Negative: stop with this code. */
    int (*on_head)(struct http1 *p, void *ctx);
    int (*on_body)(struct http1 *p, struct span data, void *ctx);
};
enum http1_result { HTTP1_MORE, HTTP1_MESSAGE /* complete */, HTTP1_UPGRADED /* complete; what follows is raw */ };

struct http1 *http1_new(bool is_request, const struct http1_cb *cb, void *ctx);
void http1_free(struct http1 *p);
/* Takes what it uses off *in. Returns enum http1_result or a negative code with *why set. */
NODISCARD int http1_feed(struct http1 *p, struct span *in, const char **why);
/* End of input: 0 when that may end the message (HTTP1_MESSAGE when it just did), else -ERR_INVALID. */
NODISCARD int http1_eof(struct http1 *p);

struct span http1_method(const struct http1 *p);
struct span http1_target(const struct http1 *p);
unsigned http1_status(const struct http1 *p);
int http1_minor(const struct http1 *p);
bool http1_keep_alive(const struct http1 *p);
bool http1_wants_upgrade(const struct http1 *p);
bool http1_in_message(const struct http1 *p); /* bytes of a message were seen, its end was not */
bool http1_has_body(const struct http1 *p);   /* by the head: a length above 0, or chunks */
/* i-th header: name in lower case. False past the end. */
bool http1_header_at(const struct http1 *p, size_t i, struct span *ret_name, struct span *ret_value);
size_t http1_headers(const struct http1 *p);
/* All text of the head, for copying; header spans point into it. */
struct span http1_head_bytes(const struct http1 *p);
const char *http1_reason(unsigned status);

#endif
