/* log — one record, one line of logfmt (or JSON) on stderr, with typed fields that cannot be injected into.
 *
 * What:     LOG_INFO("pkg", "message", F_STR("key", v), F_U64("n", 3));
 * Owns:     the process-wide level, format and role name (see base/globals.txt).
 * Limits:   1 KiB a record (cut, marked with an ellipsis); one write(2) each, never blocking on purpose.
 * Errors:   none; what cannot be written is lost.
 * Threads:  any.
 * Time:     the wall clock.
 * Rules:    the place that decides about an error logs it, once. Secrets have no formatter.
 */
#ifndef KF_LOG_H
#define KF_LOG_H

#include "internal/base/span.h"

enum log_level { LOG_LVL_DEBUG, LOG_LVL_INFO, LOG_LVL_WARN, LOG_LVL_ERROR };

struct log_field {
    const char *key;
    enum { LF_END, LF_STR, LF_SPAN, LF_U64, LF_I64 } kind;
    union {
        const char *s;
        struct span span;
        uint64_t u;
        int64_t i;
    } v;
};

#define F_STR(k, x) ((struct log_field){(k), LF_STR, {.s = (x)}})
#define F_SPAN(k, x) ((struct log_field){(k), LF_SPAN, {.span = (x)}})
#define F_U64(k, x) ((struct log_field){(k), LF_U64, {.u = (uint64_t)(x)}})
#define F_I64(k, x) ((struct log_field){(k), LF_I64, {.i = (int64_t)(x)}})
#define F_ERR(e) F_STR("err", (e)->msg)

void log_init(const char *role, enum log_level level, bool as_json);
enum log_level log_get_level(void);
NODISCARD int log_parse_level(const char *name, enum log_level *ret); /* debug|info|warn|error */
void log_write(enum log_level lvl, const char *pkg, const char *msg, const struct log_field *fields);

#define LOG_(lvl, pkg, msg, ...) \
    log_write((lvl), (pkg), (msg), (const struct log_field[]){__VA_ARGS__ __VA_OPT__(,) {NULL, LF_END, {NULL}}})
#define LOG_DEBUG(pkg, msg, ...)                                       \
    do {                                                               \
        if (log_get_level() <= LOG_LVL_DEBUG) {                        \
            LOG_(LOG_LVL_DEBUG, pkg, msg __VA_OPT__(,) __VA_ARGS__);   \
        }                                                              \
    } while (0)
#define LOG_INFO(pkg, msg, ...) LOG_(LOG_LVL_INFO, pkg, msg __VA_OPT__(,) __VA_ARGS__)
#define LOG_WARN(pkg, msg, ...) LOG_(LOG_LVL_WARN, pkg, msg __VA_OPT__(,) __VA_ARGS__)
#define LOG_ERROR(pkg, msg, ...) LOG_(LOG_LVL_ERROR, pkg, msg __VA_OPT__(,) __VA_ARGS__)

#endif
