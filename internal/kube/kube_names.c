#include "internal/kube/kube.h"

#include "internal/kube/kube_int.h"
#include "internal/kube/kube_valid_int.h"

#define SUBDOMAIN_RE "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
#define SUBDOMAIN_WHY                                                                              \
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or "   \
    "'.', and must "                                                                               \
    "start and end with an alphanumeric character (e.g. 'example.com', regex used for validation " \
    "is '" SUBDOMAIN_RE "')"
#define LABEL_WHY                                                                                  \
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and "   \
    "must start and end "                                                                          \
    "with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is " \
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
#define DNS1035_WHY                                                                              \
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an " \
    "alphabetic "                                                                                \
    "character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex "   \
    "used for validation "                                                                       \
    "is '[a-z]([-a-z0-9]*[a-z0-9])?')"
#define QUALIFIED_TAIL                                                                          \
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an " \
    "alphanumeric "                                                                             \
    "character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "     \
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
#define VALUE_WHY                                                                                 \
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or "   \
    "'.', and must start "                                                                        \
    "and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex " \
    "used for "                                                                                   \
    "validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"

static bool is_low(uint8_t c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}
static bool is_alnum(uint8_t c) {
    return is_low(c) || (c >= 'A' && c <= 'Z');
}

static bool label_form(struct span s) {
    if (!s.n || !is_low(s.p[0]) || !is_low(s.p[s.n - 1])) {
        return false;
    }
    for (size_t i = 0; i < s.n; i++) {
        if (!is_low(s.p[i]) && s.p[i] != '-') {
            return false;
        }
    }
    return true;
}

static bool subdomain_form(struct span s) {
    struct span part;
    if (!s.n || s.p[s.n - 1] == '.') {
        return false;
    }
    while (span_next(&s, '.', &part)) {
        if (!label_form(part)) {
            return false;
        }
    }
    return true;
}

/* [A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])? */
static bool word_form(struct span s) {
    if (!s.n || !is_alnum(s.p[0]) || !is_alnum(s.p[s.n - 1])) {
        return false;
    }
    for (size_t i = 0; i < s.n; i++) {
        if (!is_alnum(s.p[i]) && s.p[i] != '-' && s.p[i] != '_' && s.p[i] != '.') {
            return false;
        }
    }
    return true;
}

size_t v_name_msgs(enum name_rule rule, struct span s, const char *ret[3]) {
    size_t n = 0;
    switch (rule) {
    case NAME_ANY: break;
    case NAME_SUBDOMAIN:
        if (s.n > 253) {
            ret[n++] = "must be no more than 253 characters";
        }
        if (!subdomain_form(s)) {
            ret[n++] = SUBDOMAIN_WHY;
        }
        break;
    case NAME_LABEL:
        if (s.n > 63) {
            ret[n++] = "must be no more than 63 characters";
        }
        if (!label_form(s)) {
            ret[n++] = LABEL_WHY;
        }
        break;
    case NAME_1035:
        if (s.n > 63) {
            ret[n++] = "must be no more than 63 characters";
        }
        if (!label_form(s) || (s.p[0] >= '0' && s.p[0] <= '9')) {
            ret[n++] = DNS1035_WHY;
        }
        break;
    case NAME_PATH:
        if (span_eq_str(s, ".")) {
            ret[n++] = "may not be '.'";
        } else if (span_eq_str(s, "..")) {
            ret[n++] = "may not be '..'";
        } else {
            if (span_index(s, '/') >= 0) {
                ret[n++] = "may not contain '/'";
            }
            if (span_index(s, '%') >= 0) {
                ret[n++] = "may not contain '%'";
            }
        }
        break;
    }
    return n;
}

bool kube_is_dns_name(struct span s) {
    return s.n <= 253 && subdomain_form(s);
}

size_t kube_qualified_msgs(struct span s, const char *ret[4]) {
    size_t n = 0;
    struct span name = s, prefix = SPAN_EMPTY;
    ptrdiff_t at = span_index(s, '/');
    if (at >= 0) {
        prefix = span_of(s.p, (size_t)at);
        name = span_of(s.p + at + 1, s.n - (size_t)at - 1);
        if (span_index(name, '/') >= 0) {
            ret[n++] = "a valid label key " QUALIFIED_TAIL
                       " with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
            return n;
        }
        if (!prefix.n) {
            ret[n++] = "prefix part must be non-empty";
        } else if (prefix.n > 253) {
            ret[n++] = "prefix part must be no more than 253 characters";
        } else if (!subdomain_form(prefix)) {
            ret[n++] = "prefix part " SUBDOMAIN_WHY;
        }
    }
    if (!name.n) {
        ret[n++] = "name part must be non-empty";
    } else if (name.n > 63) {
        ret[n++] = "name part must be no more than 63 characters";
    }
    if (!word_form(name)) {
        ret[n++] = "name part " QUALIFIED_TAIL;
    }
    return n;
}

size_t kube_value_msgs(struct span s, const char *ret[2]) {
    size_t n = 0;
    if (s.n > 63) {
        ret[n++] = "must be no more than 63 characters";
    }
    if (s.n && !word_form(s)) {
        ret[n++] = VALUE_WHY;
    }
    return n;
}

bool kube_is_qualified_name(struct span s) {
    const char *m[4];
    return kube_qualified_msgs(s, m) == 0;
}
bool kube_is_label_value(struct span s) {
    const char *m[2];
    return kube_value_msgs(s, m) == 0;
}

void kube_qualified_name_why(struct span s, struct buf *b) {
    const char *m[4];
    size_t n = kube_qualified_msgs(s, m);
    for (size_t i = 0; i < n; i++) {
        buf_fmt(b, "%s%s", i ? "; " : "", m[i]);
    }
}
void kube_label_value_why(struct span s, struct buf *b) {
    const char *m[2];
    size_t n = kube_value_msgs(s, m);
    for (size_t i = 0; i < n; i++) {
        buf_fmt(b, "%s%s", i ? "; " : "", m[i]);
    }
}
