/* err — one error type for the whole tree: a negative code and a fixed-size message on the caller's stack.
 *
 * What:     codes with their gRPC, HTTP, Kubernetes and exit equivalents; setting and wrapping messages.
 * Owns:     nothing; `struct err` needs no release.
 * Errors:   a fallible function returns 0 or a positive count, or -ERR_X; on failure `*e` is set exactly once.
 * Threads:  any.
 */
#ifndef KF_ERR_H
#define KF_ERR_H

#define NODISCARD __attribute__((warn_unused_result))
#define PRINTF(a, b) __attribute__((format(printf, a, b)))

/* name, gRPC status, HTTP status, Kubernetes reason, exit status */
#define ERR_LIST(X)                                             \
    X(INVALID, 3, 400, "BadRequest", 1)                         \
    X(UNAUTHENTICATED, 16, 401, "Unauthorized", 1)              \
    X(FORBIDDEN, 7, 403, "Forbidden", 1)                        \
    X(NOT_FOUND, 5, 404, "NotFound", 1)                         \
    X(EXISTS, 6, 409, "AlreadyExists", 1)                       \
    X(CONFLICT, 9, 409, "Conflict", 1)                          \
    X(GONE, 11, 410, "Expired", 1)                              \
    X(LIMIT, 8, 413, "RequestEntityTooLarge", 1)                \
    X(UNPROCESSABLE, 3, 422, "Invalid", 1)                      \
    X(BUSY, 8, 429, "TooManyRequests", 75)                      \
    X(UNAVAILABLE, 14, 503, "ServiceUnavailable", 69)           \
    X(TIMEOUT, 4, 504, "Timeout", 75)                           \
    X(CANCELLED, 1, 499, "", 1)                                 \
    X(IO, 13, 500, "InternalError", 1)                          \
    X(CORRUPT, 15, 500, "InternalError", 1)                     \
    X(NOMEM, 8, 500, "InternalError", 1)                        \
    X(UNSUPPORTED, 12, 501, "NotImplemented", 1)                \
    X(USAGE, 3, 400, "BadRequest", 2)                           \
    X(AGAIN, 14, 503, "ServiceUnavailable", 75) /* would block */ \
    X(INTERNAL, 13, 500, "InternalError", 1)

enum err_code {
    ERR_OK = 0,
#define X(n, g, h, r, x) ERR_##n,
    ERR_LIST(X)
#undef X
    ERR_MAX_
};

#define ERR_MSG_MAX 240

struct err {
    enum err_code code;
    int sys;         /* errno behind ERR_IO, else 0 */
    const char *pub; /* constant text for the other side; NULL: the code's generic text */
    char msg[ERR_MSG_MAX];
};

#define ERR_INIT {ERR_OK, 0, (const char *)0, {0}}

/* Sets the error and returns -code. `e` may be NULL (caller does not want the text). A second set on
 * the same object replaces nothing: the first cause is kept (debug builds abort). */
int err_set(struct err *e, enum err_code c, const char *fmt, ...) PRINTF(3, 4);
/* Like err_set with an errno value: code ERR_IO (or NOT_FOUND/EXISTS/FORBIDDEN/NOMEM where errno says
 * so) and ": <errno name>" appended. Returns -code. */
int err_sys(struct err *e, int sys, const char *fmt, ...) PRINTF(3, 4);
/* Puts "<text>: " in front of the message. Returns -e->code (or -ERR_INTERNAL when e is NULL). */
int err_wrap(struct err *e, const char *fmt, ...) PRINTF(2, 3);
void err_reset(struct err *e);

const char *err_name(enum err_code c);       /* "NOT_FOUND" */
unsigned err_http(enum err_code c);          /* 404 */
unsigned err_grpc(enum err_code c);          /* 5 */
const char *err_reason(enum err_code c);     /* "NotFound" */
int err_exit(enum err_code c);               /* process exit status */
const char *err_sys_name(int sys);           /* "ENOENT" style names with a short text, constant */
/* Text for the other side: pub if set, else msg. */
const char *err_public(const struct err *e);

#define IGNORE_ERR(call, why)      \
    do {                           \
        int ignored_ = (int)(call); \
        (void)ignored_;            \
        (void)(why);               \
    } while (0)

_Noreturn void check_failed(const char *cond, const char *file, int line);
#define CHECK(c) ((c) ? (void)0 : check_failed(#c, __FILE__, __LINE__))
#ifdef NDEBUG
#define DCHECK(c) ((void)0)
#else
#define DCHECK(c) CHECK(c)
#endif

#endif
