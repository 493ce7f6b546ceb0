#include "internal/apiserver/api_int.h"

/* Paths of resources, as upstream's RequestInfo reads them:
 *   /api/v1/… and /apis/<group>/<version>/… followed by
 *   [watch/] <resource>[/<name>[/<sub>[/rest]]]
 *   [watch/] namespaces/<ns>/<resource>[/<name>[/<sub>[/rest]]]
 * where namespaces/<ns>, namespaces/<ns>/status and namespaces/<ns>/finalize mean the namespace itself. */

const char *api_verb_name(enum api_verb v) {
    static const char *const names[] = {
        "get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", ""};
    return names[v];
}

static enum api_verb verb_of(struct span method, bool has_name, bool watch) {
    if (span_eq_str(method, "GET") || span_eq_str(method, "HEAD")) {
        return has_name && !watch ? API_V_GET : watch ? API_V_WATCH : API_V_LIST;
    }
    if (span_eq_str(method, "POST")) {
        return API_V_CREATE;
    }
    if (span_eq_str(method, "PUT")) {
        return API_V_UPDATE;
    }
    if (span_eq_str(method, "PATCH")) {
        return API_V_PATCH;
    }
    if (span_eq_str(method, "DELETE")) {
        return has_name ? API_V_DELETE : API_V_DELETECOLLECTION;
    }
    return API_V_OTHER;
}

struct parts {
    struct span v[16];
    size_t n;
    struct span rest; /* from the last part kept on */
};

static void parts_split(struct span path, struct parts *p) {
    struct span s = path;
    struct span head;
    p->n = 0;
    while (p->n < ARRAY_LEN(p->v) && s.n > 0) {
        p->rest = s;
        if (!span_next(&s, '/', &head)) {
            break;
        }
        p->v[p->n++] = head;
    }
}

static const char *part(struct arena *mem, const struct parts *p, size_t i) {
    const char *s = i < p->n ? arena_str(mem, p->v[i]) : "";
    return s != NULL ? s : "";
}

/* What follows part i in the raw path, without the leading slash. */
static const char *rest_after(struct arena *mem, struct span path, const struct parts *p,
                              size_t i) {
    if (i >= p->n) {
        return "";
    }
    const uint8_t *end = p->v[i].p + p->v[i].n;
    size_t n = (size_t)(path.p + path.n - end);
    if (n <= 1) {
        return "";
    }
    const char *s = arena_str(mem, span_of(end + 1, n - 1));
    return s != NULL ? s : "";
}

int api_route(struct span method, struct span raw, bool has_watch, struct arena *mem,
              struct api_target *ret) {
    AUTO(buf) struct buf b = BUF_INIT(64 << 10);
    if (url_decode(&b, raw, false) < 0 || (b.n > 0 && memchr(b.p, '\0', b.n) != NULL)) {
        return -ERR_INVALID;
    }
    const char *text = arena_str(mem, buf_view(&b));
    if (text == NULL) {
        return -ERR_NOMEM;
    }
    struct span path = span_str(text);
    *ret = (struct api_target){.group = "",
                               .version = "",
                               .resource = "",
                               .ns = "",
                               .name = "",
                               .sub = "",
                               .rest = "",
                               .path = text,
                               .verb = API_V_OTHER};
    struct span s = path;
    if (s.n > 0 && s.p[0] == '/') {
        s = span_of(s.p + 1, s.n - 1);
    }
    struct parts p;
    parts_split(s, &p);
    size_t i = 0;
    if (p.n >= 2 && span_eq_str(p.v[0], "api")) {
        ret->version = part(mem, &p, 1);
        i = 2;
    } else if (p.n >= 3 && span_eq_str(p.v[0], "apis")) {
        ret->group = part(mem, &p, 1);
        ret->version = part(mem, &p, 2);
        i = 3;
    }
    if (i == 0 || i >= p.n || p.v[i].n == 0) {
        return 0;
    }
    if (span_eq_str(p.v[i], "watch") && i + 1 < p.n) {
        ret->legacy_watch = true;
        i++;
    }
    ret->is_resource = true;
    bool ns_scope = span_eq_str(p.v[i], "namespaces") && i + 2 < p.n && p.v[i + 2].n > 0 &&
                    !span_eq_str(p.v[i + 2], "status") && !span_eq_str(p.v[i + 2], "finalize");
    if (ns_scope) {
        ret->ns = part(mem, &p, i + 1);
        i += 2;
    }
    ret->resource = part(mem, &p, i);
    ret->is_resource = ret->resource[0] != '\0';
    ret->name = part(mem, &p, i + 1);
    ret->sub = part(mem, &p, i + 2);
    ret->rest = rest_after(mem, s, &p, i + 2);
    if (!ns_scope && strcmp(ret->resource, "namespaces") == 0 && ret->group[0] == '\0') {
        ret->ns = ret->name; /* authorization sees the namespace's own name */
    }
    bool has_name = ret->name[0] != '\0';
    ret->verb = verb_of(method, has_name, ret->legacy_watch || (has_watch && !has_name));
    return 0;
}
