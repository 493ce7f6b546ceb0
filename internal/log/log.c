#include "internal/log/log.h"

#include "internal/base/rand.h"
#include "internal/json/json.h"

#include <unistd.h>

enum { LOG_RECORD_MAX = 1024 };

static struct {
    char role[32];
    enum log_level level;
    bool as_json;
} g_log = {"kfarm", LOG_LVL_INFO, false};

static const char *const level_names[] = {"debug", "info", "warn", "error"};

void log_init(const char *role, enum log_level level, bool as_json) {
    (void)str_put(g_log.role, sizeof(g_log.role), "%.31s", role);
    g_log.level = level;
    g_log.as_json = as_json;
}
enum log_level log_get_level(void) {
    return g_log.level;
}

int log_parse_level(const char *name, enum log_level *ret) {
    for (size_t i = 0; i < ARRAY_LEN(level_names); i++) {
        if (str_eq(name, level_names[i])) {
            *ret = (enum log_level)i;
            return 0;
        }
    }
    return -ERR_INVALID;
}

static bool plain(struct span s) {
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] <= ' ' || s.p[i] == '"' || s.p[i] == '=' || s.p[i] == '\\' || s.p[i] >= 0x7f) {
            return false;
        }
    }
    return s.n > 0;
}

static void key_value(struct buf *b, const char *key, struct span v, bool text) {
    if (g_log.as_json) {
        buf_str(b, b->n > 1 ? "," : "");
        json_write_str(b, span_str(key));
        buf_u8(b, ':');
    } else {
        buf_str(b, b->n ? " " : "");
        buf_str(b, key);
        buf_u8(b, '=');
    }
    if (text && (g_log.as_json || !plain(v))) {
        json_write_str(b, v);
    } else {
        buf_span(b, v);
    }
}

static void field(struct buf *b, const struct log_field *f) {
    char num[24];
    switch (f->kind) {
    case LF_STR: key_value(b, f->key, f->v.s ? span_str(f->v.s) : SPAN_LIT("-"), true); break;
    case LF_SPAN: key_value(b, f->key, f->v.span, true); break;
    case LF_U64:
        (void)str_put(num, sizeof(num), "%llu", (unsigned long long)f->v.u);
        key_value(b, f->key, span_str(num), false);
        break;
    case LF_I64:
        (void)str_put(num, sizeof(num), "%lld", (long long)f->v.i);
        key_value(b, f->key, span_str(num), false);
        break;
    case LF_END: break;
    }
}

void log_write(enum log_level lvl, const char *pkg, const char *msg,
               const struct log_field *fields) {
    if (lvl < g_log.level) {
        return;
    }
    struct buf b = BUF_INIT(16 * LOG_RECORD_MAX);
    char ts[TIME_STR];
    time_rfc3339_micro(clock_wall_ns(), ts);
    if (g_log.as_json) {
        buf_u8(&b, '{');
    }
    key_value(&b, "ts", span_str(ts), true);
    key_value(&b, "lvl", span_str(level_names[lvl]), true);
    key_value(&b, "role", span_str(g_log.role), true);
    key_value(&b, "pkg", span_str(pkg), true);
    key_value(&b, "msg", span_str(msg), true);
    for (; fields && fields->kind != LF_END; fields++) {
        size_t before = b.n;
        field(&b, fields);
        if (b.n > LOG_RECORD_MAX - 16) {
            buf_trunc(&b, before);
            key_value(&b, "cut", SPAN_LIT("1"), false);
            break;
        }
    }
    buf_str(&b, g_log.as_json ? "}\n" : "\n");
    ssize_t n = write(STDERR_FILENO, b.p, b.n);
    (void)n; /* nobody is left to tell when stderr itself is gone */
    buf_fini(&b);
}
