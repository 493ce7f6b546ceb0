#include "internal/kube/kube.h"

#include "internal/kube/kube_valid_int.h"

/* Containers of pods: resources, ports, environment, mounts, probes. */

enum { PORT_MAX = 65535 };

/* ---- resources ---------------------------------------------------------------------------------------- */

static bool standard_resource(const char *k) {
    return v_in_list(k, "cpu|memory|ephemeral-storage|storage") ||
           strncmp(k, "hugepages-", 10) == 0;
}

static void resource_list(struct val *v, const struct json *list) {
    for (const char *const *k = v_keys(v, list); *k; k++) {
        const struct json *q = json_get(list, *k);
        size_t at = kube_path_key(&v->p, *k);
        int64_t milli = 0;
        const char *m[4];
        size_t n = kube_qualified_msgs(span_str(*k), m);
        for (size_t i = 0; i < n; i++) {
            v_err_str(v, KUBE_INVALID, NULL, *k, "%s", m[i]);
        }
        if (!n && !strchr(*k, '/') && !standard_resource(*k)) {
            v_err_str(v, KUBE_INVALID, NULL, *k,
                      "must be a standard resource type or fully qualified");
            v_err_str(v, KUBE_INVALID, NULL, *k, "must be a standard resource for containers");
        }
        if (kube_quantity_milli(json_span(q), &milli) == 0 && milli < 0) {
            v_err(v, KUBE_INVALID, NULL, q, "must be greater than or equal to 0");
        }
        if (strchr(*k, '/') && milli % 1000) {
            v_err(v, KUBE_INVALID, NULL, q, "must be an integer");
        }
        v_out(v, at);
    }
}

static void v_resources(struct val *v, const struct json *res) {
    const struct json *lim = json_get(res, "limits"), *req = json_get(res, "requests");
    size_t at = v_in(v, "limits");
    resource_list(v, lim);
    v_out(v, at);
    at = v_in(v, "requests");
    resource_list(v, req);
    for (const char *const *k = v_keys(v, req); *k; k++) {
        const struct json *l = json_get(lim, *k), *r = json_get(req, *k);
        int c = 0;
        if (l && kube_quantity_cmp(json_span(r), json_span(l), &c) == 0) {
            bool overcommit = v_in_list(*k, "cpu|memory|ephemeral-storage");
            if (overcommit && c > 0) {
                v_err(v, KUBE_INVALID, NULL, r, "must be less than or equal to %s limit of %s", *k,
                      json_str_or(l, ""));
            } else if (!overcommit && c != 0) {
                v_err(v, KUBE_INVALID, NULL, r, "must be equal to %s limit of %s", *k,
                      json_str_or(l, ""));
            }
        } else if (!l && strchr(*k, '/')) {
            v_required(v, NULL, "Limit must be set for non overcommitable resources");
        }
    }
    v_out(v, at);
}

/* ---- containers ------------------------------------------------------------------------------------------- */

static void port_name(struct val *v, const char *child, const struct json *x) {
    struct span s = json_span(x);
    bool letter = false, ok = true;
    if (s.n > 15) {
        v_err(v, KUBE_INVALID, child, x, "must be no more than 15 characters");
    }
    for (size_t i = 0; i < s.n; i++) {
        letter = letter || (s.p[i] >= 'a' && s.p[i] <= 'z');
        ok = ok && ((s.p[i] >= 'a' && s.p[i] <= 'z') || (s.p[i] >= '0' && s.p[i] <= '9') ||
                    s.p[i] == '-');
    }
    if (!ok) {
        v_err(v, KUBE_INVALID, child, x,
              "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)");
    }
    if (!letter) {
        v_err(v, KUBE_INVALID, child, x, "must contain at least one letter (a-z)");
    }
    if (s.n && (s.p[0] == '-' || s.p[s.n - 1] == '-')) {
        v_err(v, KUBE_INVALID, child, x, "must not begin or end with a hyphen");
    }
}

static void int_or_port(struct val *v, const char *child, const struct json *x) {
    if (json_is_str(x)) {
        port_name(v, child, x);
    } else if (json_i64(x, 0) < 1 || json_i64(x, 0) > PORT_MAX) {
        v_err(v, KUBE_INVALID, child, x, "must be between 1 and %d, inclusive", PORT_MAX);
    }
}

static void ports(struct val *v, const struct json *c) {
    size_t i = 0;
    const struct json *list = json_get(c, "ports");
    JSON_EACH(it, p, list) {
        size_t at = v_in_at(v, "ports", i), k = 0;
        const struct json *name = json_get(p, "name");
        if (json_span(name).n) {
            port_name(v, "name", name);
            JSON_EACH(it2, q, list) {
                if (k++ == i) {
                    break;
                }
                if (json_get(q, "name") && json_eq(json_get(q, "name"), name)) {
                    v_dup(v, "name", name);
                    break;
                }
            }
        }
        if (!json_i64(json_get(p, "containerPort"), 0)) {
            v_required(v, "containerPort", NULL);
        } else {
            v_range(v, p, "containerPort", 1, PORT_MAX);
        }
        if (json_i64(json_get(p, "hostPort"), 0)) {
            v_range(v, p, "hostPort", 1, PORT_MAX);
        }
        if (v_need_str(v, p, "protocol")) {
            v_enum(v, p, "protocol", "SCTP|TCP|UDP");
        }
        v_out(v, at);
        i++;
    }
}

static void key_ref(struct val *v, const struct json *src, const char *kind) {
    const struct json *r = json_get(src, kind);
    if (r) {
        size_t at = v_in(v, kind);
        v_need_str(v, r, "name");
        v_need_str(v, r, "key");
        v_out(v, at);
    }
}

static void env(struct val *v, const struct json *c) {
    size_t i = 0;
    JSON_EACH(it, e, json_get(c, "env")) {
        size_t at = v_in_at(v, "env", i++);
        const struct json *name = json_get(e, "name"), *from = json_get(e, "valueFrom");
        if (v_need_str(v, e, "name")) {
            bool ok = true;
            struct span s = json_span(name);
            for (size_t k = 0; k < s.n; k++) {
                ok = ok && s.p[k] >= 0x20 && s.p[k] < 0x7f && s.p[k] != '=';
            }
            if (!ok) {
                v_err(v, KUBE_INVALID, "name", name,
                      "a valid environment variable name must consist only of printable ASCII "
                      "characters other than '='");
            }
        }
        if (from) {
            static const char kinds[] =
                "fieldRef|resourceFieldRef|configMapKeyRef|secretKeyRef|fileKeyRef";
            size_t at2 = v_in(v, "valueFrom"), n = 0;
            JSON_EACH_KV(it2, k, x, from) {
                (void)x;
                n += v_in_list(k, kinds) ? 1 : 0;
            }
            if (json_get(from, "fieldRef")) {
                size_t at3 = v_in(v, "fieldRef");
                v_field_ref(v, json_get(from, "fieldRef"), false);
                v_out(v, at3);
            }
            if (json_get(from, "resourceFieldRef")) {
                v_need_str(v, json_get(from, "resourceFieldRef"), "resource");
            }
            key_ref(v, from, "configMapKeyRef");
            key_ref(v, from, "secretKeyRef");
            if (!n) {
                v_err_str(v, KUBE_INVALID, NULL, "",
                          "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, "
                          "`secretKeyRef`, "
                          "`fileKeyRef`");
            } else if (json_span(json_get(e, "value")).n) {
                v_err_str(v, KUBE_INVALID, NULL, "",
                          "may not be specified when `value` is not empty");
            } else if (n > 1) {
                v_err_str(v, KUBE_INVALID, NULL, "",
                          "may not have more than one field specified at a time");
            }
            v_out(v, at2);
        }
        v_out(v, at);
    }
}

static void mounts(struct val *v, const struct json *c, const struct json *spec) {
    size_t i = 0;
    const struct json *list = json_get(c, "volumeMounts");
    JSON_EACH(it, m, list) {
        size_t at = v_in_at(v, "volumeMounts", i), k = 0;
        const struct json *name = json_get(m, "name"), *path = json_get(m, "mountPath");
        bool found = false;
        JSON_EACH(it2, vol, json_get(spec, "volumes")) {
            found =
                found || (json_get(vol, "name") && name && json_eq(json_get(vol, "name"), name));
        }
        if (!json_span(name).n) {
            v_required(v, "name", NULL);
        } else if (!found) {
            v_err(v, KUBE_NOT_FOUND, "name", name, "%s", "");
        }
        if (!json_span(path).n) {
            v_required(v, "mountPath", NULL);
        }
        JSON_EACH(it3, o, list) {
            if (k++ == i) {
                break;
            }
            if (json_span(path).n && json_get(o, "mountPath") &&
                json_eq(json_get(o, "mountPath"), path)) {
                v_err(v, KUBE_INVALID, "mountPath", path, "must be unique");
                break;
            }
        }
        const char *sub = json_str_or(json_get(m, "subPath"), "");
        if (sub[0] == '/') {
            v_err_str(v, KUBE_INVALID, "subPath", sub, "must be a relative path");
        } else if (strstr(sub, "..")) {
            v_err_str(v, KUBE_INVALID, "subPath", sub, "must not contain '..'");
        }
        v_enum(v, m, "mountPropagation", "Bidirectional|HostToContainer|None");
        v_out(v, at);
        i++;
    }
}

static void http_get(struct val *v, const struct json *h) {
    if (!json_span(json_get(h, "path")).n) {
        v_required(v, "path", NULL);
    }
    int_or_port(v, "port", json_get(h, "port"));
    v_enum(v, h, "scheme", "HTTP|HTTPS");
}

static void handler(struct val *v, const struct json *h, const char *kinds) {
    struct span all = span_str(kinds), one;
    size_t n = 0;
    while (span_next(&all, '|', &one)) {
        const struct json *x = json_getn(h, one);
        AUTO_FREE char *name = str_dupn(one.p, one.n);
        if (!x) {
            continue;
        }
        if (n++) {
            v_err(v, KUBE_FORBIDDEN, name, NULL, "may not specify more than 1 handler type");
            continue;
        }
        size_t at = v_in(v, name);
        if (str_eq(name, "exec") && !json_len(json_get(x, "command"))) {
            v_required(v, "command", NULL);
        } else if (str_eq(name, "httpGet")) {
            http_get(v, x);
        } else if (str_eq(name, "tcpSocket")) {
            int_or_port(v, "port", json_get(x, "port"));
        } else if (str_eq(name, "grpc")) {
            int_or_port(v, "port", json_get(x, "port"));
        }
        v_out(v, at);
    }
    if (!n) {
        v_required(v, NULL, "must specify a handler type");
    }
}

static void probe(struct val *v, const struct json *c, const char *name, bool once) {
    static const char *const numbers[] = {"initialDelaySeconds", "timeoutSeconds", "periodSeconds",
                                          "successThreshold", "failureThreshold"};
    const struct json *p = json_get(c, name);
    if (!p) {
        return;
    }
    size_t at = v_in(v, name);
    handler(v, p, "exec|httpGet|tcpSocket|grpc");
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++) {
        v_min0(v, p, numbers[i]);
    }
    if (once && json_i64(json_get(p, "successThreshold"), 1) != 1) {
        v_err(v, KUBE_INVALID, "successThreshold", json_get(p, "successThreshold"), "must be 1");
    }
    v_out(v, at);
}

static void container_security(struct val *v, const struct json *sc) {
    v_range(v, sc, "runAsUser", 0, INT32_MAX);
    v_range(v, sc, "runAsGroup", 0, INT32_MAX);
    if (!json_bool(json_get(sc, "allowPrivilegeEscalation"), true)) {
        if (json_bool(json_get(sc, "privileged"), false)) {
            v_err(v, KUBE_INVALID, NULL, sc,
                  "cannot set `allowPrivilegeEscalation` to false and `privileged` to true");
        }
        JSON_EACH(it, x, json_at(sc, "capabilities", "add")) {
            if (v_in_list(json_str_or(x, ""), "CAP_SYS_ADMIN|SYS_ADMIN")) {
                v_err(v, KUBE_INVALID, NULL, sc,
                      "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` "
                      "CAP_SYS_ADMIN");
            }
        }
    }
    v_enum(v, sc, "procMount", "Default|Unmasked");
}

static void container(struct val *v, const struct json *c, const struct json *spec,
                      const char *kind) {
    bool eph = str_eq(kind, "ephemeralContainers"), init = str_eq(kind, "initContainers");
    const struct json *name = json_get(c, "name"), *image = json_get(c, "image");
    if (v_need_str(v, c, "name")) {
        v_name(v, "name", name, NAME_LABEL);
    }
    struct span im = json_span(image);
    if (!im.n) {
        v_required(v, "image", NULL);
    } else if (span_trim(im).n != im.n) {
        v_err(v, KUBE_INVALID, "image", image, "must not have leading or trailing whitespace");
    }
    v_enum(v, c, "terminationMessagePolicy", "FallbackToLogsOnError|File");
    if (!eph) {
        ports(v, c);
    }
    env(v, c);
    mounts(v, c, spec);
    v_enum(v, c, "imagePullPolicy", "Always|IfNotPresent|Never");
    size_t at = v_in(v, "resources");
    v_resources(v, json_get(c, "resources"));
    v_out(v, at);
    at = v_in(v, "securityContext");
    if (json_get(c, "securityContext")) {
        container_security(v, json_get(c, "securityContext"));
    }
    v_out(v, at);
    if (eph) {
        return;
    }
    static const char *const hooks[] = {"postStart", "preStop"};
    at = v_in(v, "lifecycle");
    for (size_t i = 0; i < ARRAY_LEN(hooks); i++) {
        const struct json *h = json_at(c, "lifecycle", hooks[i]);
        if (h) {
            size_t at2 = v_in(v, hooks[i]);
            handler(v, h, "exec|httpGet|tcpSocket|sleep");
            v_out(v, at2);
        }
    }
    v_out(v, at);
    const char *restart = json_str_or(json_get(c, "restartPolicy"), "");
    if (!init || *restart) {
        probe(v, c, "livenessProbe", true);
        probe(v, c, "readinessProbe", false);
        probe(v, c, "startupProbe", true);
    }
    if (*restart && init && !v_in_list(restart, "Always")) {
        v_unsupported(v, "restartPolicy", json_get(c, "restartPolicy"), "Always");
    }
}

static bool name_taken(const struct json *spec, const char *kind, size_t at,
                       const struct json *name) {
    static const char *const lists[] = {"containers", "initContainers", "ephemeralContainers"};
    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        size_t k = 0;
        bool own = str_eq(lists[i], kind);
        JSON_EACH(it, c, json_get(spec, lists[i])) {
            if (own && k++ == at) {
                return false;
            }
            if (json_get(c, "name") && json_eq(json_get(c, "name"), name)) {
                return true;
            }
        }
        if (own) {
            return false;
        }
    }
    return false;
}

void v_containers(struct val *v, const struct json *spec, const char *kind) {
    size_t i = 0;
    JSON_EACH(it, c, json_get(spec, kind)) {
        size_t at = v_in_at(v, kind, i);
        container(v, c, spec, kind);
        const struct json *name = json_get(c, "name");
        if (json_span(name).n && name_taken(spec, kind, i, name)) {
            v_dup(v, "name", name);
        }
        v_out(v, at);
        i++;
    }
}
