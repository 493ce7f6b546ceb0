#include "internal/http1/http1.h"

#include <llhttp.h>

#include <stdlib.h>

enum { KEEP = 2048 };

struct field {
    uint32_t at, name_n, value_at, value_n;
};

struct http1 {
    llhttp_t ll;
    struct http1_cb cb;
    void *ctx;
    struct buf head;
    uint32_t method_n, target_n;
    struct field *fields;
    size_t n_fields, cap_fields, n_trailer_bytes;
    bool in_message, head_done, complete, upgrade, keep_alive;
    int rc;
    const char *why;
};

static struct http1 *self(llhttp_t *l) {
    return l->data;
}

static int stop(struct http1 *p, int rc, const char *why) {
    p->rc = rc;
    p->why = why;
    return HPE_USER;
}

static int add(struct http1 *p, const char *s, size_t n) {
    return buf_add(&p->head, s, n) < 0 ? stop(p, -ERR_LIMIT, "head too large") : 0;
}

static int on_begin(llhttp_t *l) {
    struct http1 *p = self(l);
    p->in_message = true;
    return 0;
}

static int on_method(llhttp_t *l, const char *s, size_t n) {
    struct http1 *p = self(l);
    p->method_n += (uint32_t)n;
    return add(p, s, n);
}

static int on_url(llhttp_t *l, const char *s, size_t n) {
    struct http1 *p = self(l);
    p->target_n += (uint32_t)n;
    return add(p, s, n);
}

/* Trailers are counted and dropped: nothing in HTTP/1 here uses them. */
static int trailer(struct http1 *p, size_t n) {
    p->n_trailer_bytes += n;
    return p->n_trailer_bytes > LIM_HTTP1_HEAD ? stop(p, -ERR_LIMIT, "trailers too large") : 0;
}

static int on_name(llhttp_t *l, const char *s, size_t n) {
    struct http1 *p = self(l);
    if (p->head_done) {
        return trailer(p, n);
    }
    struct field *f = p->n_fields ? &p->fields[p->n_fields - 1] : NULL;
    if (!f || f->value_at) { /* the last one has its value already: a new header */
        if (p->n_fields == LIM_HTTP1_HEADERS) {
            return stop(p, -ERR_LIMIT, "too many headers");
        }
        if (p->n_fields == p->cap_fields) {
            size_t cap = p->cap_fields ? p->cap_fields * 2 : 16;
            struct field *more = mem_array(p->fields, cap, sizeof(*more), LIM_HTTP1_HEADERS);
            CHECK(more);
            p->fields = more;
            p->cap_fields = cap;
        }
        f = &p->fields[p->n_fields++];
        *f = (struct field){.at = (uint32_t)p->head.n};
    }
    f->name_n += (uint32_t)n;
    size_t at = p->head.n;
    int rc = add(p, s, n);
    for (; rc == 0 && at < p->head.n; at++) {
        uint8_t c = p->head.p[at];
        p->head.p[at] = c >= 'A' && c <= 'Z' ? (uint8_t)(c + 32) : c;
    }
    return rc;
}

static int on_name_end(llhttp_t *l) {
    struct http1 *p = self(l);
    if (!p->head_done && p->n_fields) {
        p->fields[p->n_fields - 1].value_at = (uint32_t)p->head.n;
    }
    return 0;
}

static int on_value(llhttp_t *l, const char *s, size_t n) {
    struct http1 *p = self(l);
    if (p->head_done) {
        return trailer(p, n);
    }
    p->fields[p->n_fields - 1].value_n += (uint32_t)n;
    return add(p, s, n);
}

/* Returns 1 to skip the body. */
static int on_head(llhttp_t *l) {
    struct http1 *p = self(l);
    p->head_done = true;
    p->keep_alive = llhttp_should_keep_alive(l) != 0;
    p->upgrade = l->upgrade != 0 || (l->type == HTTP_RESPONSE && l->status_code == 101);
    if (l->type == HTTP_REQUEST) {
        if (l->method == HTTP_CONNECT) {
            return stop(p, -ERR_UNSUPPORTED, "CONNECT is not served");
        }
        l->upgrade = 0; /* the server decides later, and the request's body is still a body */
    }
    int rc = p->cb.on_head(p, p->ctx);
    if (rc < 0) {
        return stop(p, rc, "refused");
    }
    return rc == HTTP1_NO_BODY ? 1 : 0;
}

static int on_body(llhttp_t *l, const char *s, size_t n) {
    struct http1 *p = self(l);
    int rc = p->cb.on_body(p, span_of(s, n), p->ctx);
    return rc < 0 ? stop(p, rc, "body refused") : 0;
}

static int on_complete(llhttp_t *l) {
    struct http1 *p = self(l);
    p->complete = true;
    return HPE_PAUSED;
}

static const llhttp_settings_t settings = {
    .on_message_begin = on_begin,
    .on_method = on_method,
    .on_url = on_url,
    .on_header_field = on_name,
    .on_header_field_complete = on_name_end,
    .on_header_value = on_value,
    .on_headers_complete = on_head,
    .on_body = on_body,
    .on_message_complete = on_complete,
};

struct http1 *http1_new(bool is_request, const struct http1_cb *cb, void *ctx) {
    struct http1 *p = new_zero(struct http1);
    llhttp_init(&p->ll, is_request ? HTTP_REQUEST : HTTP_RESPONSE, &settings);
    p->ll.data = p;
    p->cb = *cb;
    p->ctx = ctx;
    buf_init(&p->head, LIM_HTTP1_HEAD);
    return p;
}

void http1_free(struct http1 *p) {
    if (p) {
        buf_fini(&p->head);
        free(p->fields);
        free(p);
    }
}

static void next_message(struct http1 *p) {
    if (p->head.cap > KEEP) {
        buf_fini(&p->head);
        buf_init(&p->head, LIM_HTTP1_HEAD);
    }
    buf_reset(&p->head);
    p->method_n = p->target_n = 0;
    p->n_fields = p->n_trailer_bytes = 0;
    p->in_message = p->head_done = p->complete = p->upgrade = false;
}

int http1_feed(struct http1 *p, struct span *in, const char **why) {
    if (p->rc < 0) {
        *why = p->why;
        return p->rc;
    }
    if (p->complete) {
        next_message(p);
        llhttp_resume(&p->ll);
    }
    llhttp_errno_t m = llhttp_execute(&p->ll, (const char *)in->p, in->n);
    if (m == HPE_OK) {
        *in = SPAN_EMPTY;
        return HTTP1_MORE;
    }
    if (m == HPE_PAUSED || m == HPE_PAUSED_UPGRADE) {
        size_t used = (size_t)((const uint8_t *)llhttp_get_error_pos(&p->ll) - in->p);
        IGNORE_ERR(span_skip(in, used), "llhttp stops inside its input");
        p->in_message = false;
        p->complete = true;
        return p->upgrade && p->ll.type == HTTP_RESPONSE ? HTTP1_UPGRADED : HTTP1_MESSAGE;
    }
    if (!p->rc) { /* not a callback of ours that stopped it */
        p->rc = -ERR_INVALID;
        p->why = llhttp_get_error_reason(&p->ll);
    }
    *why = p->why ? p->why : "malformed message";
    return p->rc;
}

int http1_eof(struct http1 *p) {
    if (p->rc < 0) {
        return p->rc;
    }
    if (p->complete || !p->in_message) {
        return 0;
    }
    llhttp_errno_t m = llhttp_finish(&p->ll);
    if (p->complete) { /* a body that lasts until the end */
        p->in_message = false;
        return HTTP1_MESSAGE;
    }
    return m == HPE_OK && !p->in_message ? 0 : -ERR_INVALID;
}

struct span http1_method(const struct http1 *p) {
    return span_of(p->head.p, p->method_n);
}
struct span http1_target(const struct http1 *p) {
    struct span rest = buf_view(&p->head), target = SPAN_EMPTY;
    if (span_skip(&rest, p->method_n) == 0) {
        IGNORE_ERR(span_take(&rest, p->target_n, &target), "empty when nothing was read");
    }
    return target;
}
unsigned http1_status(const struct http1 *p) {
    return p->ll.status_code;
}
int http1_minor(const struct http1 *p) {
    return p->ll.http_minor;
}
bool http1_keep_alive(const struct http1 *p) {
    return p->keep_alive;
}
bool http1_wants_upgrade(const struct http1 *p) {
    return p->upgrade;
}
bool http1_in_message(const struct http1 *p) {
    return p->in_message;
}
bool http1_has_body(const struct http1 *p) {
    return (p->ll.flags & F_CHUNKED) || ((p->ll.flags & F_CONTENT_LENGTH) && p->ll.content_length);
}

bool http1_header_at(const struct http1 *p, size_t i, struct span *ret_name,
                     struct span *ret_value) {
    if (i >= p->n_fields) {
        return false;
    }
    const struct field *f = &p->fields[i];
    *ret_name = span_of(p->head.p + f->at, f->name_n);
    *ret_value = span_trim(span_of(p->head.p + f->value_at, f->value_n));
    return true;
}

size_t http1_headers(const struct http1 *p) {
    return p->n_fields;
}

struct span http1_head_bytes(const struct http1 *p) {
    return buf_view(&p->head);
}

const char *http1_reason(unsigned status) {
    switch (status) {
    case 100: return "Continue";
    case 101: return "Switching Protocols";
    case 200: return "OK";
    case 201: return "Created";
    case 202: return "Accepted";
    case 204: return "No Content";
    case 206: return "Partial Content";
    case 301: return "Moved Permanently";
    case 302: return "Found";
    case 304: return "Not Modified";
    case 307: return "Temporary Redirect";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 406: return "Not Acceptable";
    case 408: return "Request Timeout";
    case 409: return "Conflict";
    case 410: return "Gone";
    case 413: return "Content Too Large";
    case 415: return "Unsupported Media Type";
    case 416: return "Range Not Satisfiable";
    case 422: return "Unprocessable Content";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 500: return "Internal Server Error";
    case 501: return "Not Implemented";
    case 502: return "Bad Gateway";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    default: return status < 400 ? "OK" : "Error";
    }
}
