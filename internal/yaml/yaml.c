#include "internal/yaml/yaml.h"

#include "internal/base/map.h"

#include <yaml.h>

#include <stdlib.h>

/* One open mapping or sequence. */
struct level {
    struct json *c;
    char *key; /* of the value that comes next; NULL: a key comes next (mappings) */
    struct map keys;
    bool is_obj;
};

struct reader {
    yaml_parser_t p;
    struct json_doc *d;
    struct level lv[LIM_JSON_DEPTH];
    size_t depth;
};

static int bad(struct err *e, const yaml_event_t *ev, const char *why) {
    return err_set(e, ERR_INVALID, "yaml: line %zu: %s", ev->start_mark.line + 1, why);
}

static bool is_one_of(struct span s, const char *const *words) {
    for (; *words; words++) {
        if (span_eq_str(s, *words)) {
            return true;
        }
    }
    return false;
}

static const char *const null_words[] = {"", "~", "null", "Null", "NULL", NULL};
static const char *const true_words[] = {"true", "True", "TRUE", "yes", "Yes",
                                         "YES",  "on",   "On",   "ON",  NULL};
static const char *const false_words[] = {"false", "False", "FALSE", "no",  "No",
                                          "NO",    "off",   "Off",   "OFF", NULL};

static bool digits_to_u64(struct span s, unsigned base, uint64_t *ret) {
    uint64_t v = 0;
    if (!s.n) {
        return false;
    }
    for (size_t i = 0; i < s.n; i++) {
        uint8_t c = s.p[i];
        unsigned x = c >= '0' && c <= '9'   ? c - (unsigned)'0'
                     : c >= 'a' && c <= 'f' ? c - (unsigned)'a' + 10
                     : c >= 'A' && c <= 'F' ? c - (unsigned)'A' + 10
                                            : 99;
        if (x >= base || ck_mul(v, (uint64_t)base, &v) || ck_add(v, (uint64_t)x, &v)) {
            return false;
        }
    }
    *ret = v;
    return true;
}

/* Integers of YAML 1.1: decimal, 0x, 0o, 0b and a leading 0 for octal; signed. */
static struct json *resolve_int(struct json_doc *d, struct span s) {
    bool neg = false;
    if (s.n > 1 && (s.p[0] == '-' || s.p[0] == '+')) {
        neg = s.p[0] == '-';
        s = span_of(s.p + 1, s.n - 1);
    }
    unsigned base = 10;
    struct span digits = s;
    if (s.n > 1 && s.p[0] == '0') {
        uint8_t c = s.p[1];
        base = c == 'x' || c == 'X' ? 16 : c == 'b' || c == 'B' ? 2 : 8;
        size_t skip = c == 'x' || c == 'X' || c == 'b' || c == 'B' || c == 'o' ? 2 : 1;
        digits = span_of(s.p + skip, s.n - skip);
    }
    uint64_t v;
    if (!digits_to_u64(digits, base, &v) || v > INT64_MAX) {
        return NULL;
    }
    return json_new_i64(d, neg ? -(int64_t)v : (int64_t)v);
}

/* Decimal fractions and exponents in JSON's form, also ".5", "5." and a sign. Others stay strings. */
static struct json *resolve_float(struct json_doc *d, struct span s) {
    size_t i = 0, n_digits = 0;
    bool dot = false, has_exp = false;
    if (s.n && (s.p[0] == '-' || s.p[0] == '+')) {
        i++;
    }
    for (; i < s.n; i++) {
        uint8_t c = s.p[i];
        if (c >= '0' && c <= '9') {
            n_digits++;
        } else if (c == '.' && !dot && !has_exp) {
            dot = true;
        } else if ((c == 'e' || c == 'E') && n_digits && !has_exp) {
            has_exp = true;
            if (i + 1 < s.n && (s.p[i + 1] == '-' || s.p[i + 1] == '+')) {
                i++;
            }
            if (i + 1 == s.n) {
                return NULL;
            }
        } else {
            return NULL;
        }
    }
    char text[64];
    if (!n_digits || (!dot && !has_exp) || span_to_cstr(s, text, sizeof(text)) < 0) {
        return NULL;
    }
    return json_new_f64(d, strtod(text, NULL));
}

static struct json *resolve_plain(struct json_doc *d, struct span s) {
    if (is_one_of(s, null_words)) {
        return json_new_null(d);
    }
    if (is_one_of(s, true_words)) {
        return json_new_bool(d, true);
    }
    if (is_one_of(s, false_words)) {
        return json_new_bool(d, false);
    }
    struct json *v = resolve_int(d, s);
    if (!v) {
        v = resolve_float(d, s);
    }
    return v ? v : json_new_span(d, s);
}

static int scalar(struct reader *r, const yaml_event_t *ev, struct json **ret, struct err *e) {
    struct span s = span_of(ev->data.scalar.value, ev->data.scalar.length);
    const char *tag = (const char *)ev->data.scalar.tag;
    if (!tag || str_eq(tag, "!")) {
        bool is_plain = ev->data.scalar.style == YAML_PLAIN_SCALAR_STYLE && !tag;
        *ret = is_plain ? resolve_plain(r->d, s) : json_new_span(r->d, s);
        return 0;
    }
    enum json_kind want;
    if (str_eq(tag, YAML_STR_TAG) || str_eq(tag, "tag:yaml.org,2002:binary") ||
        str_eq(tag, YAML_TIMESTAMP_TAG)) {
        *ret = json_new_span(r->d, s);
        return 0;
    }
    struct json *v = resolve_plain(r->d, s);
    if (str_eq(tag, YAML_INT_TAG)) {
        want = JSON_INT;
    } else if (str_eq(tag, YAML_BOOL_TAG)) {
        want = JSON_BOOL;
    } else if (str_eq(tag, YAML_NULL_TAG)) {
        want = JSON_NULL;
    } else if (str_eq(tag, YAML_FLOAT_TAG)) {
        want = JSON_REAL;
        if (json_is_int(v)) {
            v = json_new_f64(r->d, (double)json_i64(v, 0));
        }
    } else {
        return bad(e, ev, "tags of an application are not supported");
    }
    if (json_kind(v) != want && !(want == JSON_INT && json_is_int(v))) {
        return bad(e, ev, "the value does not match its tag");
    }
    *ret = v;
    return 0;
}

/* Puts v into the innermost container, or makes it the root. */
static int place(struct reader *r, const yaml_event_t *ev, struct json *v, struct err *e) {
    if (!r->depth) {
        json_set_root(r->d, v);
        return 0;
    }
    struct level *l = &r->lv[r->depth - 1];
    if (!l->is_obj) {
        json_push(l->c, v);
        return 0;
    }
    if (!l->key) {
        return bad(e, ev, "a key must be a scalar");
    }
    json_set(r->d, l->c, l->key, v);
    free(TAKE(l->key));
    return 0;
}

static int take_key(struct level *l, const yaml_event_t *ev, struct err *e) {
    struct span s = span_of(ev->data.scalar.value, ev->data.scalar.length);
    if (s.n && memchr(s.p, 0, s.n)) {
        return bad(e, ev, "a key with a NUL byte");
    }
    if (span_eq_str(s, "<<") && ev->data.scalar.style == YAML_PLAIN_SCALAR_STYLE) {
        return bad(e, ev, "merge keys are not supported");
    }
    if (map_put(&l->keys, s, l)) {
        return err_set(e, ERR_INVALID, "yaml: line %zu: key \"%.*s\" occurs twice",
                       ev->start_mark.line + 1, SPAN_FMT(s));
    }
    l->key = str_dupn(s.p, s.n);
    return 0;
}

static int open_level(struct reader *r, const yaml_event_t *ev, bool is_obj, struct err *e) {
    const char *tag =
        (const char *)(is_obj ? ev->data.mapping_start.tag : ev->data.sequence_start.tag);
    if (tag && !str_eq(tag, is_obj ? YAML_MAP_TAG : YAML_SEQ_TAG)) {
        return bad(e, ev, "tags of an application are not supported");
    }
    if (r->depth == LIM_JSON_DEPTH) {
        return err_set(e, ERR_LIMIT, "yaml: nested deeper than %d", LIM_JSON_DEPTH);
    }
    struct json *c = is_obj ? json_new_obj(r->d) : json_new_arr(r->d);
    int rc = place(r, ev, c, e);
    if (rc == 0) {
        r->lv[r->depth++] = (struct level){c, NULL, MAP_INIT, is_obj};
    }
    return rc;
}

static void close_level(struct reader *r) {
    struct level *l = &r->lv[--r->depth];
    free(l->key);
    map_fini(&l->keys);
}

/* 0: go on; 1: a document is complete in r->d; 2: end of the stream. */
static int on_event(struct reader *r, const yaml_event_t *ev, struct err *e) {
    struct json *v = NULL;
    struct level *l = r->depth ? &r->lv[r->depth - 1] : NULL;
    int rc;
    switch (ev->type) {
    case YAML_NO_EVENT:
    case YAML_STREAM_START_EVENT: return 0;
    case YAML_STREAM_END_EVENT: return 2;
    case YAML_DOCUMENT_START_EVENT: r->d = json_doc_new(); return 0;
    case YAML_DOCUMENT_END_EVENT: return 1;
    case YAML_ALIAS_EVENT: return bad(e, ev, "aliases are not supported");
    case YAML_SCALAR_EVENT:
        if (l && l->is_obj && !l->key) {
            return take_key(l, ev, e);
        }
        rc = scalar(r, ev, &v, e);
        return rc < 0 ? rc : place(r, ev, v, e);
    case YAML_SEQUENCE_START_EVENT: return open_level(r, ev, false, e);
    case YAML_MAPPING_START_EVENT: return open_level(r, ev, true, e);
    case YAML_SEQUENCE_END_EVENT:
    case YAML_MAPPING_END_EVENT: close_level(r); return 0;
    }
    return 0;
}

/* The next document into *ret, which is NULL at the end of the stream. */
static int next_doc(struct reader *r, struct json_doc **ret, struct err *e) {
    *ret = NULL;
    for (;;) {
        yaml_event_t ev;
        if (!yaml_parser_parse(&r->p, &ev)) {
            return err_set(e, r->p.error == YAML_MEMORY_ERROR ? ERR_NOMEM : ERR_INVALID,
                           "yaml: line %zu: %s", r->p.problem_mark.line + 1,
                           r->p.problem ? r->p.problem : "not YAML");
        }
        int rc = on_event(r, &ev, e);
        yaml_event_delete(&ev);
        if (rc == 1) {
            *ret = TAKE(r->d);
            return 0;
        }
        if (rc != 0) {
            return rc < 0 ? rc : 0;
        }
    }
}

static void reader_fini(struct reader *r) {
    while (r->depth) {
        close_level(r);
    }
    json_doc_free(r->d);
    yaml_parser_delete(&r->p);
}

static int reader_init(struct reader *r, struct span text, struct err *e) {
    if (text.n > LIM_YAML_TEXT) {
        return err_set(e, ERR_LIMIT, "yaml: more than %d bytes", LIM_YAML_TEXT);
    }
    r->depth = 0;
    r->d = NULL;
    if (!yaml_parser_initialize(&r->p)) {
        return err_set(e, ERR_NOMEM, "yaml: parser");
    }
    yaml_parser_set_encoding(&r->p, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&r->p, text.p, text.n);
    return 0;
}

int yaml_parse(struct span text, struct json_doc **ret, struct err *e) {
    struct reader r;
    int rc = reader_init(&r, text, e);
    if (rc < 0) {
        return rc;
    }
    AUTO(json_docp) struct json_doc *d = NULL, *more = NULL;
    rc = next_doc(&r, &d, e);
    if (rc == 0 && d) {
        rc = next_doc(&r, &more, e);
    }
    if (rc == 0 && more) {
        rc = err_set(e, ERR_INVALID, "yaml: more than one document");
    }
    if (rc == 0 && !d) {
        d = json_doc_new();
        json_set_root(d, json_new_null(d));
    }
    if (rc == 0) {
        *ret = TAKE(d);
    }
    reader_fini(&r);
    return rc;
}

/* ---- writing ---- */

/* May s stand plain, so that every YAML reader takes it for the same string? */
static bool is_plain_safe(struct span s) {
    if (!s.n || s.p[0] == ' ' || s.p[s.n - 1] == ' ' || s.p[s.n - 1] == ':') {
        return false;
    }
    if (strchr("-?:,[]{}#&*!|>'\"%@`=~+.", s.p[0]) || (s.p[0] >= '0' && s.p[0] <= '9')) {
        /* A digit, sign or dot may begin a number or a date; a leading '-' or '.' in a word is fine, but quoting is
         * never wrong. Names such as "10.0.0.1" and "1.2-a" are common, so they are let through. */
        size_t n_dots = 0;
        bool other = false;
        for (size_t i = 0; i < s.n; i++) {
            uint8_t c = s.p[i];
            n_dots += c == '.';
            other |= !(c == '.' || (c >= '0' && c <= '9'));
        }
        bool address = s.p[0] >= '0' && s.p[0] <= '9' && !other && n_dots == 3;
        if (!address) {
            return false;
        }
    }
    for (size_t i = 0; i < s.n; i++) {
        uint8_t c = s.p[i];
        if (c < 0x20 || c == 0x7f || (c == '#' && s.p[i - 1] == ' ') ||
            (c == ':' && i + 1 < s.n && s.p[i + 1] == ' ')) {
            return false;
        }
    }
    static const char *const old_bools[] = {"y", "Y", "n", "N", "<<", NULL};
    return !is_one_of(s, null_words) && !is_one_of(s, true_words) && !is_one_of(s, false_words) &&
           !is_one_of(s, old_bools);
}

static bool is_block_safe(struct span s) {
    bool lines = false;
    if (!s.n || s.p[0] == ' ' || s.p[0] == '\t' || s.p[0] == '\n') {
        return false;
    }
    for (size_t i = 0; i < s.n; i++) {
        uint8_t c = s.p[i];
        if (c == '\t' && s.p[i - 1] == '\n') {
            return false; /* libyaml takes it for indentation */
        }
        if (c == '\n') {
            lines = true;
            if (s.p[i - 1] == ' ') {
                return false;
            }
        } else if ((c < 0x20 && c != '\t') || c == 0x7f) {
            return false;
        }
    }
    return lines;
}

/* Decodes one character of valid UTF-8 (json strings are) and moves on. */
static uint32_t next_char(struct span *s) {
    uint8_t c = s->p[0];
    size_t n = c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
    uint32_t cp = n == 1 ? c : c & (0x7fu >> n);
    for (size_t i = 1; i < n && i < s->n; i++) {
        cp = cp << 6 | (s->p[i] & 0x3fu);
    }
    *s = span_of(s->p + (n < s->n ? n : s->n), n < s->n ? s->n - n : 0);
    return cp;
}

/* Characters that YAML 1.1 takes for line breaks or refuses in a stream. */
static bool is_unprintable(uint32_t cp) {
    return (cp >= 0x7f && cp < 0xa0) || cp == 0x2028 || cp == 0x2029 || cp == 0xfeff ||
           cp == 0xfffe || cp == 0xffff;
}

static bool has_unprintable(struct span s) {
    while (s.n) {
        if (is_unprintable(next_char(&s))) {
            return true;
        }
    }
    return false;
}

static void write_quoted(struct buf *b, struct span s) {
    buf_u8(b, '"');
    while (s.n) {
        const uint8_t *start = s.p;
        uint32_t cp = next_char(&s);
        if (cp == '"' || cp == '\\') {
            buf_u8(b, '\\');
            buf_u8(b, (uint8_t)cp);
        } else if (cp == '\n') {
            buf_str(b, "\\n");
        } else if (cp == '\t') {
            buf_str(b, "\\t");
        } else if (cp < 0x20 || is_unprintable(cp)) {
            buf_fmt(b, "\\u%04x", cp);
        } else {
            buf_add(b, start, (size_t)(s.p - start));
        }
    }
    buf_u8(b, '"');
}

static void indent(struct buf *b, size_t n) {
    for (size_t i = 0; i < n; i++) {
        buf_str(b, "  ");
    }
}

static void write_string(struct buf *b, struct span s, size_t level) {
    if (has_unprintable(s)) {
        write_quoted(b, s);
    } else if (is_plain_safe(s)) {
        buf_span(b, s);
    } else if (level && is_block_safe(s)) {
        size_t trailing = 0;
        while (trailing < s.n && s.p[s.n - 1 - trailing] == '\n') {
            trailing++;
        }
        buf_str(b, trailing == 0 ? "|-" : trailing == 1 ? "|" : "|+");
        struct span rest = span_of(s.p, s.n - trailing), line;
        while (span_next(&rest, '\n', &line)) {
            buf_u8(b, '\n');
            if (line.n) {
                indent(b, level);
                buf_span(b, line);
            }
        }
        for (size_t i = 1; i < trailing; i++) {
            buf_u8(b, '\n');
        }
    } else {
        write_quoted(b, s);
    }
}

static void write_scalar(struct buf *b, const struct json *v, size_t level) {
    if (json_is_str(v)) {
        write_string(b, json_span(v), level);
    } else {
        json_write(v, 0, b); /* numbers, true, false, null, [] and {} are written alike */
    }
}

int yaml_write(const struct json *v, struct buf *b) {
    struct {
        struct json_iter it;
        bool is_obj;
    } st[LIM_JSON_DEPTH];
    size_t depth = 0;
    if (!json_len(v)) {
        write_scalar(b, v, 1);
        return buf_u8(b, '\n');
    }
    st[depth].it = json_iter(v);
    st[depth++].is_obj = json_is_obj(v);
    bool inline_first = true; /* the next member stands behind a "- " on the same line */
    while (depth) {
        const char *k = NULL;
        struct json *c = json_next(&st[depth - 1].it, &k);
        if (!c) {
            depth--;
            continue;
        }
        /* kubectl does not indent a list below its key: only mappings add a level, lists inside lists too. */
        size_t ind = 0;
        for (size_t i = 1; i < depth; i++) {
            ind += !(st[i - 1].is_obj && !st[i].is_obj);
        }
        if (!inline_first) {
            indent(b, ind);
        }
        inline_first = false;
        if (st[depth - 1].is_obj) {
            write_string(b, span_str(k), 0);
            buf_str(b, ":");
        } else {
            buf_str(b, "-");
        }
        if (!json_len(c)) {
            buf_u8(b, ' ');
            write_scalar(b, c, ind + 1);
            buf_u8(b, '\n');
            continue;
        }
        if (st[depth - 1].is_obj) {
            buf_u8(b, '\n');
        } else {
            buf_u8(b, ' ');
            inline_first = true;
        }
        if (depth == LIM_JSON_DEPTH) {
            return -ERR_LIMIT;
        }
        st[depth].it = json_iter(c);
        st[depth++].is_obj = json_is_obj(c);
    }
    return buf_ok(b);
}
