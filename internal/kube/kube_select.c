#include "internal/kube/kube.h"

#include "internal/kube/kube_int.h"

#include <stdlib.h>

enum { LIM_REQUIREMENTS = 1024 };

enum sel_op { OP_IN, OP_NOT_IN, OP_EXISTS, OP_MISSING, OP_GT, OP_LT };

struct sel_req {
    char *key;
    enum sel_op op;
    char **values;
    size_t n;
};

struct kube_selector {
    struct sel_req *reqs;
    size_t n;
    bool nothing;
};

void kube_selector_free(struct kube_selector *s) {
    if (!s) {
        return;
    }
    for (size_t i = 0; i < s->n; i++) {
        for (size_t k = 0; k < s->reqs[i].n; k++) {
            free(s->reqs[i].values[k]);
        }
        free(s->reqs[i].values);
        free(s->reqs[i].key);
    }
    free(s->reqs);
    free(s);
}
void kube_selectorp_fini(struct kube_selector **s) {
    kube_selector_free(*s);
    *s = NULL;
}

static struct sel_req *req_add(struct kube_selector *s, struct span key, enum sel_op op) {
    struct sel_req *l = mem_array(s->reqs, s->n + 1, sizeof(*l), LIM_REQUIREMENTS);
    if (!l) {
        return NULL;
    }
    s->reqs = l;
    l[s->n] = (struct sel_req){str_dupn(key.p, key.n), op, NULL, 0};
    return &l[s->n++];
}

static bool req_value(struct sel_req *r, struct span v) {
    char **l = mem_array(r->values, r->n + 1, sizeof(*l), LIM_REQUIREMENTS);
    if (!l) {
        return false;
    }
    r->values = l;
    l[r->n++] = str_dupn(v.p, v.n);
    return true;
}

/* ---- label selector text ------------------------------------------------------------------------------ */

/* Tokens as upstream's lexer: ! = == != in notin ( ) , > < and words. */
static struct span token(struct span *s) {
    while (s->n && (s->p[0] == ' ' || s->p[0] == '\t' || s->p[0] == '\n' || s->p[0] == '\r')) {
        IGNORE_ERR(span_skip(s, 1), "one byte is there");
    }
    size_t n = 0;
    static const char special[] = "=!(),<>";
    if (s->n && strchr(special, s->p[0]) && s->p[0]) {
        bool two = s->n > 1 && s->p[1] == '=' && (s->p[0] == '=' || s->p[0] == '!');
        n = two ? 2 : 1;
    } else {
        while (n < s->n && !strchr("=!(),<> \t\r\n", s->p[n])) {
            n++;
        }
    }
    struct span t;
    IGNORE_ERR(span_take(s, n, &t), "n bytes were counted");
    return t;
}

static int key_ok(struct span key, struct kube_errs *errs) {
    AUTO(buf) struct buf b = BUF_INIT(8192);
    if (kube_is_qualified_name(key)) {
        return 0;
    }
    kube_qualified_name_why(key, &b);
    kube_errs_text(errs, "key: Invalid value: \"%.*s\": %s", SPAN_FMT(key), buf_cstr(&b));
    return -ERR_INVALID;
}

static int value_ok(struct span key, struct span v, size_t i, struct kube_errs *errs) {
    if (kube_is_label_value(v)) {
        return 0;
    }
    AUTO(buf) struct buf b = BUF_INIT(8192);
    kube_label_value_why(v, &b);
    kube_errs_text(errs, "values[%zu][%.*s]: Invalid value: \"%.*s\": %s", i, SPAN_FMT(key),
                   SPAN_FMT(v), buf_cstr(&b));
    return -ERR_INVALID;
}

static int unexpected(struct kube_errs *errs, struct span got, const char *want) {
    kube_errs_text(errs, "unable to parse requirement: found '%.*s', expected: %s", SPAN_FMT(got),
                   want);
    return -ERR_INVALID;
}

static int parse_set(struct span *s, struct sel_req *r, struct kube_errs *errs) {
    struct span t = token(s);
    if (!span_eq_str(t, "(")) {
        return unexpected(errs, t, "'('");
    }
    bool want_value = true;
    for (;;) {
        struct span before = *s;
        t = token(s);
        if (span_eq_str(t, ")")) {
            if (want_value && !req_value(r, SPAN_EMPTY)) {
                return -ERR_LIMIT;
            }
            return 0;
        }
        if (span_eq_str(t, ",")) {
            if (want_value && !req_value(r, SPAN_EMPTY)) {
                return -ERR_LIMIT;
            }
            want_value = true;
            continue;
        }
        if (!t.n || !want_value) {
            *s = before;
            return unexpected(errs, t, want_value ? "',', or identifier" : "',' or ')'");
        }
        if (!req_value(r, t)) {
            return -ERR_LIMIT;
        }
        want_value = false;
    }
}

static int parse_one(struct span *s, struct kube_selector *sel, struct kube_errs *errs) {
    struct span t = token(s);
    bool neg = span_eq_str(t, "!");
    if (neg) {
        t = token(s);
    }
    if (!t.n || strchr("=!(),<>", t.p[0])) {
        return unexpected(errs, t, neg ? "identifier" : "!, identifier, or 'end of string'");
    }
    int rc = key_ok(t, errs);
    if (rc < 0) {
        return rc;
    }
    struct span rest = *s, op = token(&rest);
    struct sel_req *r = req_add(sel, t, neg ? OP_MISSING : OP_EXISTS);
    if (!r) {
        return -ERR_LIMIT;
    }
    if (!op.n || span_eq_str(op, ",")) {
        return 0;
    }
    if (neg) {
        return unexpected(errs, op, "',' or 'end of string'");
    }
    *s = rest;
    if (span_eq_str(op, "in") || span_eq_str(op, "notin")) {
        r->op = span_eq_str(op, "in") ? OP_IN : OP_NOT_IN;
        rc = parse_set(s, r, errs);
    } else if (span_eq_str(op, "=") || span_eq_str(op, "==") || span_eq_str(op, "!=") ||
               span_eq_str(op, ">") || span_eq_str(op, "<")) {
        r->op = op.p[0] == '!'   ? OP_NOT_IN
                : op.p[0] == '>' ? OP_GT
                : op.p[0] == '<' ? OP_LT
                                 : OP_IN;
        struct span peek = *s, v = token(&peek);
        if (!v.n || span_eq_str(v, ",")) {
            v = SPAN_EMPTY;
        } else if (strchr("=!()<>", v.p[0])) {
            return unexpected(errs, v, "identifier");
        } else {
            *s = peek;
        }
        int64_t num;
        if ((r->op == OP_GT || r->op == OP_LT) && span_to_i64(v, INT64_MIN, INT64_MAX, &num) < 0) {
            kube_errs_text(errs,
                           "values[0][%s]: Invalid value: \"%.*s\": for 'Gt', 'Lt' operators, the "
                           "value must be an integer",
                           r->key, SPAN_FMT(v));
            return -ERR_INVALID;
        }
        rc = req_value(r, v) ? 0 : -ERR_LIMIT;
    } else {
        return unexpected(errs, op, "in, notin, =, ==, !=, gt, lt");
    }
    for (size_t i = 0; rc == 0 && i < r->n; i++) {
        rc = value_ok(span_str(r->key), span_str(r->values[i]), i, errs);
    }
    return rc;
}

int kube_selector_parse(struct span s, struct kube_selector **ret, struct kube_errs *errs) {
    struct kube_selector *sel = new_zero(struct kube_selector);
    s = span_trim(s);
    int rc = 0;
    while (s.n && rc == 0) {
        rc = parse_one(&s, sel, errs);
        if (rc < 0) {
            break;
        }
        struct span t = token(&s);
        if (!t.n) {
            break;
        }
        if (!span_eq_str(t, ",")) {
            rc = unexpected(errs, t, "',' or 'end of string'");
        } else if (!span_trim(s).n) {
            rc = unexpected(errs, SPAN_EMPTY, "identifier after ','");
        }
    }
    if (rc < 0) {
        if (!errs->text) {
            kube_errs_text(errs, "the selector has too many requirements");
        }
        kube_selector_free(sel);
        return rc;
    }
    *ret = sel;
    return 0;
}

/* ---- from objects ----------------------------------------------------------------------------------------- */

struct kube_selector *kube_selector_of_map(const struct json *map) {
    struct kube_selector *s = new_zero(struct kube_selector);
    s->nothing = !json_len(map);
    JSON_EACH_KV(it, k, v, map) {
        struct sel_req *r = req_add(s, span_str(k), OP_IN);
        if (!r || !req_value(r, json_span(v))) {
            s->nothing = true;
        }
    }
    return s;
}

int kube_selector_of(const struct json *ls, struct kube_selector **ret, struct kube_errs *errs) {
    struct kube_selector *s = kube_selector_of_map(json_get(ls, "matchLabels"));
    s->nothing = !ls || json_is_null(ls);
    JSON_EACH(it, e, json_get(ls, "matchExpressions")) {
        const char *op = json_str_or(json_get(e, "operator"), "");
        enum sel_op o = str_eq(op, "In")       ? OP_IN
                        : str_eq(op, "NotIn")  ? OP_NOT_IN
                        : str_eq(op, "Exists") ? OP_EXISTS
                                               : OP_MISSING;
        if (o == OP_MISSING && !str_eq(op, "DoesNotExist")) {
            kube_errs_text(errs, "\"%s\" is not a valid label selector operator", op);
            kube_selector_free(s);
            return -ERR_INVALID;
        }
        struct sel_req *r = req_add(s, json_span(json_get(e, "key")), o);
        JSON_EACH(it2, v, json_get(e, "values")) {
            if (r && !req_value(r, json_span(v))) {
                r = NULL;
            }
        }
        if (!r) {
            kube_errs_text(errs, "the selector has too many requirements");
            kube_selector_free(s);
            return -ERR_LIMIT;
        }
    }
    *ret = s;
    return 0;
}

static bool req_match(const struct sel_req *r, const struct json *labels) {
    const struct json *v = json_get(labels, r->key);
    int64_t a, b;
    bool has = false;
    for (size_t i = 0; v && i < r->n && !has; i++) {
        has = span_eq_str(json_span(v), r->values[i]);
    }
    switch (r->op) {
    case OP_IN: return has;
    case OP_NOT_IN: return !has;
    case OP_EXISTS: return v != NULL;
    case OP_MISSING: return v == NULL;
    case OP_GT:
    case OP_LT:
        return v && r->n && span_to_i64(json_span(v), INT64_MIN, INT64_MAX, &a) == 0 &&
               span_to_i64(span_str(r->values[0]), INT64_MIN, INT64_MAX, &b) == 0 &&
               (r->op == OP_GT ? a > b : a < b);
    }
    return false;
}

bool kube_selector_match(const struct kube_selector *s, const struct json *labels) {
    for (size_t i = 0; i < s->n; i++) {
        if (!req_match(&s->reqs[i], labels)) {
            return false;
        }
    }
    return !s->nothing;
}
bool kube_selector_is_all(const struct kube_selector *s) {
    return !s->nothing && !s->n;
}

/* ---- field selectors ---------------------------------------------------------------------------------------- */

struct field_req {
    char *field, *value;
    bool neg;
};
struct kube_fieldsel {
    struct field_req *reqs;
    size_t n;
};

/* Fields besides metadata.name and metadata.namespace, by stored kind. */
static const struct {
    const char *group, *name, *fields;
} selectable[] = {
    {"", "pods",
     "spec.nodeName,spec.restartPolicy,spec.schedulerName,spec.serviceAccountName,spec.hostNetwork,"
     "status.phase,"
     "status.podIP,status.nominatedNodeName"},
    {"", "events",
     "involvedObject.kind,involvedObject.namespace,involvedObject.name,involvedObject.uid,"
     "involvedObject.apiVersion,"
     "involvedObject.resourceVersion,involvedObject.fieldPath,reason,reportingComponent,source,"
     "type"},
    {"events.k8s.io", "events",
     "regarding.kind,regarding.namespace,regarding.name,regarding.uid,regarding.apiVersion,"
     "regarding.resourceVersion,regarding.fieldPath,reason,reportingController,type"},
    {"", "nodes", "spec.unschedulable"},
    {"", "namespaces", "status.phase"},
    {"", "secrets", "type"},
    {"", "services", "spec.clusterIP,spec.type"},
    {"", "replicationcontrollers", "status.replicas"},
    {"apps", "replicasets", "status.replicas"},
    {"batch", "jobs", "status.successful"},
    {"certificates.k8s.io", "certificatesigningrequests", "spec.signerName"},
    {"resource.k8s.io", "resourceslices", "spec.nodeName,spec.driver"},
};

static bool is_selectable(const struct kube_resource *r, const char *field) {
    if (str_eq(field, "metadata.name") || (r->namespaced && str_eq(field, "metadata.namespace"))) {
        return true;
    }
    for (size_t i = 0; r && i < ARRAY_LEN(selectable); i++) {
        if (!str_eq(selectable[i].group, r->group) || !str_eq(selectable[i].name, r->name)) {
            continue;
        }
        struct span all = span_str(selectable[i].fields), one;
        while (span_next(&all, ',', &one)) {
            if (span_eq_str(one, field)) {
                return true;
            }
        }
    }
    return false;
}

void kube_fieldsel_free(struct kube_fieldsel *s) {
    if (!s) {
        return;
    }
    for (size_t i = 0; i < s->n; i++) {
        free(s->reqs[i].field);
        free(s->reqs[i].value);
    }
    free(s->reqs);
    free(s);
}

/* Splits at commas that no backslash escapes. */
static bool next_term(struct span *s, struct span *ret) {
    size_t n = 0;
    if (!s->n) {
        return false;
    }
    while (n < s->n && s->p[n] != ',') {
        n += s->p[n] == '\\' && n + 1 < s->n ? 2 : 1;
    }
    *ret = span_of(s->p, n);
    IGNORE_ERR(span_skip(s, n < s->n ? n + 1 : n), "n was counted");
    return true;
}

static char *unescape(struct span v, bool *bad) {
    char *out = str_dupn(v.p, v.n), *o = out;
    for (size_t i = 0; i < v.n; i++) {
        if (v.p[i] == '\\') {
            *bad = *bad || i + 1 >= v.n || !strchr("\\,=", v.p[i + 1]);
            i++;
        }
        if (i < v.n) {
            *o++ = (char)v.p[i];
        }
    }
    *o = 0;
    return out;
}

static int field_term(struct kube_fieldsel *fs, struct span term, const struct kube_resource *r,
                      struct kube_errs *errs) {
    size_t at = 0, len = 0;
    bool bad = false;
    for (; at < term.n && !len; at++) {
        if (term.p[at] == '\\') {
            at++;
        } else if (at + 1 < term.n && (term.p[at] == '!' || term.p[at] == '=') &&
                   term.p[at + 1] == '=') {
            len = 2;
        } else if (term.p[at] == '=') {
            len = 1;
        }
    }
    if (!len) {
        kube_errs_text(errs, "invalid selector: '%.*s'; can't understand '%.*s'", SPAN_FMT(term),
                       SPAN_FMT(term));
        return -ERR_INVALID;
    }
    at--;
    struct field_req q = {.neg = term.p[at] == '!'};
    q.field = str_dupn(term.p, at);
    q.value = unescape(span_of(term.p + at + len, term.n - at - len), &bad);
    struct field_req *l = bad ? NULL : mem_array(fs->reqs, fs->n + 1, sizeof(*l), LIM_REQUIREMENTS);
    int rc = 0;
    if (!l) {
        kube_errs_text(errs, "invalid field selector: '%.*s'", SPAN_FMT(term));
        rc = -ERR_INVALID;
    } else {
        fs->reqs = l;
        if (!is_selectable(r, q.field)) {
            bool special = false;
            for (size_t i = 0; i < ARRAY_LEN(selectable); i++) {
                special = special || (str_eq(selectable[i].group, r->group) &&
                                      str_eq(selectable[i].name, r->name));
            }
            if (special) {
                kube_errs_text(errs, "field label not supported: %s", q.field);
            } else {
                kube_errs_text(errs,
                               "\"%s\" is not a known field selector: only \"metadata.name\"%s",
                               q.field, r->namespaced ? ", \"metadata.namespace\"" : "");
            }
            rc = -ERR_INVALID;
        }
    }
    if (rc < 0) {
        free(q.field);
        free(q.value);
        return rc;
    }
    fs->reqs[fs->n++] = q;
    return 0;
}

int kube_fieldsel_parse(struct span s, const struct kube_resource *r, struct kube_fieldsel **ret,
                        struct kube_errs *errs) {
    struct kube_fieldsel *fs = new_zero(struct kube_fieldsel);
    struct span term;
    while (next_term(&s, &term)) {
        int rc = term.n ? field_term(fs, term, r, errs) : 0;
        if (rc < 0) {
            kube_fieldsel_free(fs);
            return rc;
        }
    }
    *ret = fs;
    return 0;
}

static bool field_is(const struct json *obj, const char *field, const char *want) {
    struct span s = span_str(field), part;
    const struct json *v = obj;
    if (str_eq(field, "source")) { /* of an Event: the component, or who reports */
        const char *c = json_str_or(json_at(obj, "source", "component"), "");
        return str_eq(*c ? c : json_str_or(json_get(obj, "reportingComponent"), ""), want);
    }
    while (v && span_next(&s, '.', &part)) {
        v = json_getn(v, part);
    }
    if (str_eq(field, "status.successful")) {
        v = json_at(obj, "status", "succeeded");
    }
    switch (json_kind(v)) {
    case JSON_STRING: return span_eq_str(json_span(v), want);
    case JSON_BOOL: return str_eq(json_bool(v, false) ? "true" : "false", want);
    case JSON_INT:
    case JSON_UINT: {
        AUTO(buf) struct buf b = BUF_INIT(32);
        IGNORE_ERR(json_write(v, 0, &b), "an integer is short");
        return str_eq(buf_cstr(&b), want);
    }
    case JSON_REAL:
    case JSON_ARRAY:
    case JSON_OBJECT: return false;
    case JSON_NULL: break;
    }
    if (str_eq(field, "spec.unschedulable") || str_eq(field, "spec.hostNetwork")) {
        return str_eq(want, "false");
    }
    if (str_eq(field, "status.replicas") || str_eq(field, "status.successful")) {
        return str_eq(want, "0");
    }
    return !*want;
}

bool kube_fieldsel_match(const struct kube_fieldsel *s, const struct json *obj) {
    for (size_t i = 0; i < s->n; i++) {
        if (field_is(obj, s->reqs[i].field, s->reqs[i].value) == s->reqs[i].neg) {
            return false;
        }
    }
    return true;
}
bool kube_fieldsel_is_all(const struct kube_fieldsel *s) {
    return !s->n;
}

static const char *exact(const struct kube_fieldsel *s, const char *field) {
    for (size_t i = 0; i < s->n; i++) {
        if (!s->reqs[i].neg && str_eq(s->reqs[i].field, field)) {
            return s->reqs[i].value;
        }
    }
    return NULL;
}
const char *kube_fieldsel_name(const struct kube_fieldsel *s) {
    return exact(s, "metadata.name");
}