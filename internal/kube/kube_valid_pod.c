#include "internal/kube/kube.h"

#include "internal/kube/kube_valid_int.h"

#include <stdlib.h>

/* Pods and their templates, in the order of upstream's ValidatePodSpec. */

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

void v_resources(struct val *v, const struct json *res) {
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

/* ---- volumes -------------------------------------------------------------------------------------------- */

/* Sources in the order in which upstream looks for a second one. */
static const char volume_sources[] =
    "emptyDir|hostPath|gitRepo|gcePersistentDisk|awsElasticBlockStore|secret|nfs|iscsi|glusterfs|"
    "flocker|"
    "persistentVolumeClaim|rbd|cinder|cephfs|quobyte|downwardAPI|fc|flexVolume|configMap|azureFile|"
    "vsphereVolume|"
    "photonPersistentDisk|portworxVolume|azureDisk|storageos|projected|scaleIO|csi|ephemeral|image";

static void key_items(struct val *v, const struct json *src) {
    size_t i = 0;
    JSON_EACH(it, x, json_get(src, "items")) {
        size_t at = v_in_at(v, "items", i++);
        const char *path = json_str_or(json_get(x, "path"), "");
        v_need_str(v, x, "key");
        if (!*path) {
            v_required(v, "path", NULL);
        } else if (path[0] == '/') {
            v_err_str(v, KUBE_INVALID, "path", path, "must be a relative path");
        } else if (strstr(path, "..")) {
            v_err_str(v, KUBE_INVALID, "path", path, "must not contain '..'");
        }
        v_out(v, at);
    }
}

static void field_ref(struct val *v, const struct json *f, bool volume) {
    const struct json *path = json_get(f, "fieldPath");
    const char *s = json_str_or(path, "");
    static const char env[] =
        "metadata.name|metadata.namespace|metadata.uid|spec.nodeName|spec.serviceAccountName|"
        "status.hostIP|status.hostIPs|status.podIP|status.podIPs";
    static const char vol[] =
        "metadata.name|metadata.namespace|metadata.uid|metadata.labels|metadata.annotations";
    bool subscript =
        strncmp(s, "metadata.labels['", 17) == 0 || strncmp(s, "metadata.annotations['", 22) == 0;
    if (!v_need_str(v, f, "apiVersion") || !v_need_str(v, f, "fieldPath") || subscript) {
        return;
    }
    if (!v_in_list(s, env) && !v_in_list(s, vol)) {
        v_err(v, KUBE_INVALID, "fieldPath", path,
              "error converting fieldPath: field label not supported: %s", s);
    } else if (!v_in_list(s, volume ? vol : env)) {
        v_unsupported(v, "fieldPath", path,
                      volume ? "metadata.annotations|metadata.labels|metadata.name|metadata."
                               "namespace|metadata.uid"
                             : "metadata.name|metadata.namespace|metadata.uid|spec.nodeName|spec."
                               "serviceAccountName|"
                               "status.hostIP|status.hostIPs|status.podIP|status.podIPs");
    }
}

static void projected(struct val *v, const struct json *p) {
    static const char kinds[] =
        "secret|configMap|downwardAPI|serviceAccountToken|clusterTrustBundle|podCertificate";
    size_t i = 0;
    JSON_EACH(it, s, json_get(p, "sources")) {
        size_t at = v_in_at(v, "sources", i++), n = 0;
        JSON_EACH_KV(it2, k, x, s) {
            (void)x;
            n += v_in_list(k, kinds) ? 1 : 0;
            if (n > 1) {
                v_err(v, KUBE_FORBIDDEN, k, NULL, "may not specify more than 1 volume type");
            }
        }
        const struct json *x;
        if ((x = json_get(s, "secret"))) {
            size_t at2 = v_in(v, "secret");
            v_need_str(v, x, "name");
            key_items(v, x);
            v_out(v, at2);
        }
        if ((x = json_get(s, "configMap"))) {
            size_t at2 = v_in(v, "configMap");
            v_need_str(v, x, "name");
            key_items(v, x);
            v_out(v, at2);
        }
        if ((x = json_get(s, "serviceAccountToken"))) {
            size_t at2 = v_in(v, "serviceAccountToken");
            int64_t sec = json_i64(json_get(x, "expirationSeconds"), 3600);
            if (sec < 600) {
                v_err(v, KUBE_INVALID, "expirationSeconds", json_get(x, "expirationSeconds"),
                      "may not specify a duration less than 10 minutes");
            }
            v_need_str(v, x, "path");
            v_out(v, at2);
        }
        if (!n) {
            v_required(v, NULL, "must specify a volume type");
        }
        v_out(v, at);
    }
}

static void one_source(struct val *v, const char *name, const struct json *s) {
    size_t at = v_in(v, name), i = 0;
    if (str_eq(name, "hostPath")) {
        if (v_need_str(v, s, "path") && strstr(json_str(json_get(s, "path")), "..")) {
            v_err(v, KUBE_INVALID, "path", json_get(s, "path"), "must not contain '..'");
        }
        v_enum(v, s, "type",
               "BlockDevice|CharDevice|Directory|DirectoryOrCreate|File|FileOrCreate|Socket");
    } else if (str_eq(name, "secret")) {
        v_need_str(v, s, "secretName");
        v_range(v, s, "defaultMode", 0, 0777);
        key_items(v, s);
    } else if (str_eq(name, "configMap")) {
        v_need_str(v, s, "name");
        v_range(v, s, "defaultMode", 0, 0777);
        key_items(v, s);
    } else if (str_eq(name, "persistentVolumeClaim")) {
        v_need_str(v, s, "claimName");
    } else if (str_eq(name, "nfs")) {
        v_need_str(v, s, "server");
        if (v_need_str(v, s, "path") && json_str(json_get(s, "path"))[0] != '/') {
            v_err(v, KUBE_INVALID, "path", json_get(s, "path"), "must be an absolute path");
        }
    } else if (str_eq(name, "csi")) {
        v_need_str(v, s, "driver");
    } else if (str_eq(name, "downwardAPI")) {
        JSON_EACH(it, x, json_get(s, "items")) {
            size_t at2 = v_in_at(v, "items", i++);
            v_need_str(v, x, "path");
            if (json_get(x, "fieldRef")) {
                size_t at3 = v_in(v, "fieldRef");
                field_ref(v, json_get(x, "fieldRef"), true);
                v_out(v, at3);
            }
            v_out(v, at2);
        }
    } else if (str_eq(name, "projected")) {
        projected(v, s);
    }
    v_out(v, at);
}

static void volumes(struct val *v, const struct json *spec) {
    size_t i = 0;
    const struct json *list = json_get(spec, "volumes");
    JSON_EACH(it, x, list) {
        size_t at = v_in_at(v, "volumes", i), n = 0, k = 0;
        struct span all = span_str(volume_sources), one;
        while (span_next(&all, '|', &one)) {
            const struct json *s = json_getn(x, one);
            AUTO_FREE char *name = str_dupn(one.p, one.n);
            if (!s) {
                continue;
            }
            if (n++) {
                v_err(v, KUBE_FORBIDDEN, name, NULL, "may not specify more than 1 volume type");
            } else {
                one_source(v, name, s);
            }
        }
        if (v_need_str(v, x, "name")) {
            v_name(v, "name", json_get(x, "name"), NAME_LABEL);
        }
        JSON_EACH(it2, y, list) {
            if (k++ == i) {
                break;
            }
            if (json_span(json_get(x, "name")).n &&
                json_eq(json_get(y, "name"), json_get(x, "name"))) {
                v_dup(v, "name", json_get(x, "name"));
                break;
            }
        }
        v_out(v, at);
        i++;
    }
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
                field_ref(v, json_get(from, "fieldRef"), false);
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

static void containers(struct val *v, const struct json *spec, const char *kind) {
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

/* ---- the rest of the spec ------------------------------------------------------------------------------------- */

static bool sysctl_name(struct span s) {
    struct span all = s;
    if (!s.n || s.n > 253) {
        return false;
    }
    bool start = true;
    for (size_t i = 0; i < all.n; i++) {
        uint8_t c = all.p[i];
        bool al = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
        if (c == '.' || c == '/') {
            if (start || all.p[i - 1] == '-' || all.p[i - 1] == '_') {
                return false;
            }
            start = true;
            continue;
        }
        if (!al && (start || (c != '-' && c != '_'))) {
            return false;
        }
        start = false;
    }
    return !start && all.p[all.n - 1] != '-' && all.p[all.n - 1] != '_';
}

static void pod_security(struct val *v, const struct json *sc) {
    static const char *const ids[] = {"fsGroup", "runAsUser", "runAsGroup"};
    size_t at = v_in(v, "securityContext"), i = 0;
    for (size_t k = 0; k < ARRAY_LEN(ids); k++) {
        v_range(v, sc, ids[k], 0, INT32_MAX);
    }
    JSON_EACH(it, s, json_get(sc, "sysctls")) {
        size_t at2 = v_in_at(v, "sysctls", i++);
        if (!json_span(json_get(s, "name")).n) {
            v_required(v, "name", NULL);
        } else if (!sysctl_name(json_span(json_get(s, "name")))) {
            v_err(v, KUBE_INVALID, "name", json_get(s, "name"),
                  "must have at most 253 characters and match regex "
                  "^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$");
        }
        v_out(v, at2);
    }
    v_enum(v, sc, "fsGroupChangePolicy", "Always|OnRootMismatch");
    v_out(v, at);
}

static void selector_terms(struct val *v, const struct json *terms) {
    size_t i = 0;
    JSON_EACH(it, t, terms) {
        size_t at = v_in_at(v, "nodeSelectorTerms", i++), k = 0;
        JSON_EACH(it2, e, json_get(t, "matchExpressions")) {
            size_t at2 = v_in_at(v, "matchExpressions", k++), n = json_len(json_get(e, "values"));
            const char *op = json_str_or(json_get(e, "operator"), "");
            if (v_in_list(op, "In|NotIn")) {
                if (!n) {
                    v_required(v, "values", "must be specified when `operator` is 'In' or 'NotIn'");
                }
            } else if (v_in_list(op, "Exists|DoesNotExist")) {
                if (n) {
                    v_err(v, KUBE_FORBIDDEN, "values", NULL,
                          "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
                }
            } else if (v_in_list(op, "Gt|Lt")) {
                if (n != 1) {
                    v_required(v, "values",
                               "must be specified single value when `operator` is 'Lt' or 'Gt'");
                }
            } else {
                v_err_str(v, KUBE_INVALID, "operator", op, "not a valid selector operator");
            }
            v_qualified(v, "key", json_get(e, "key"));
            v_out(v, at2);
        }
        v_out(v, at);
    }
}

void v_node_selector(struct val *v, const struct json *sel) {
    if (!json_len(json_get(sel, "nodeSelectorTerms"))) {
        v_required(v, "nodeSelectorTerms", "must have at least one node selector term");
    }
    selector_terms(v, json_get(sel, "nodeSelectorTerms"));
}

static void pod_affinity_terms(struct val *v, const struct json *a, const char *kind) {
    const struct json *p = json_get(a, kind);
    size_t at = v_in(v, kind), i = 0;
    JSON_EACH(it, t, json_get(p, "requiredDuringSchedulingIgnoredDuringExecution")) {
        size_t at2 = v_in_at(v, "requiredDuringSchedulingIgnoredDuringExecution", i++);
        v_label_selector(v, "labelSelector", json_get(t, "labelSelector"));
        if (!json_span(json_get(t, "topologyKey")).n) {
            v_required(v, "topologyKey", "can not be empty");
        }
        v_out(v, at2);
    }
    i = 0;
    JSON_EACH(it2, w, json_get(p, "preferredDuringSchedulingIgnoredDuringExecution")) {
        size_t at2 = v_in_at(v, "preferredDuringSchedulingIgnoredDuringExecution", i++);
        int64_t weight = json_i64(json_get(w, "weight"), 0);
        if (weight <= 0 || weight > 100) {
            v_err(v, KUBE_INVALID, "weight", json_get(w, "weight"), "must be in the range 1-100");
        }
        if (!json_span(json_at(w, "podAffinityTerm", "topologyKey")).n) {
            v_required(v, "podAffinityTerm.topologyKey", "can not be empty");
        }
        v_out(v, at2);
    }
    v_out(v, at);
}

static void affinity(struct val *v, const struct json *a) {
    size_t at = v_in(v, "affinity"), i = 0;
    const struct json *na = json_get(a, "nodeAffinity");
    if (na) {
        size_t at2 = v_in(v, "nodeAffinity");
        const struct json *req = json_get(na, "requiredDuringSchedulingIgnoredDuringExecution");
        if (req) {
            size_t at3 = v_in(v, "requiredDuringSchedulingIgnoredDuringExecution");
            v_node_selector(v, req);
            v_out(v, at3);
        }
        JSON_EACH(it, p, json_get(na, "preferredDuringSchedulingIgnoredDuringExecution")) {
            size_t at3 = v_in_at(v, "preferredDuringSchedulingIgnoredDuringExecution", i++);
            int64_t w = json_i64(json_get(p, "weight"), 0);
            if (w <= 0 || w > 100) {
                v_err(v, KUBE_INVALID, "weight", json_get(p, "weight"),
                      "must be in the range 1-100");
            }
            v_out(v, at3);
        }
        v_out(v, at2);
    }
    pod_affinity_terms(v, a, "podAffinity");
    pod_affinity_terms(v, a, "podAntiAffinity");
    v_out(v, at);
}

static void gates(struct val *v, const struct json *spec) {
    size_t i = 0;
    JSON_EACH(it, g, json_get(spec, "readinessGates")) {
        size_t at = v_in_at(v, "readinessGates", i++);
        v_qualified(v, "conditionType", json_get(g, "conditionType"));
        v_out(v, at);
    }
    i = 0;
    JSON_EACH(it2, g, json_get(spec, "schedulingGates")) {
        size_t at = v_in_at(v, "schedulingGates", i++);
        v_qualified(v, NULL, json_get(g, "name"));
        v_out(v, at);
    }
}

static void spread(struct val *v, const struct json *spec) {
    size_t i = 0;
    JSON_EACH(it, c, json_get(spec, "topologySpreadConstraints")) {
        size_t at = v_in_at(v, "topologySpreadConstraints", i++);
        if (json_i64(json_get(c, "maxSkew"), 0) <= 0) {
            v_err(v, KUBE_INVALID, "maxSkew", json_get(c, "maxSkew"), "must be greater than zero");
        }
        if (!json_span(json_get(c, "topologyKey")).n) {
            v_required(v, "topologyKey", "can not be empty");
        } else {
            v_qualified(v, "topologyKey", json_get(c, "topologyKey"));
        }
        v_enum_need(v, c, "whenUnsatisfiable", "DoNotSchedule|ScheduleAnyway");
        v_enum(v, c, "nodeAffinityPolicy", "Honor|Ignore");
        v_enum(v, c, "nodeTaintsPolicy", "Honor|Ignore");
        v_label_selector(v, "labelSelector", json_get(c, "labelSelector"));
        v_out(v, at);
    }
}

void v_tolerations(struct val *v, const struct json *list) {
    size_t i = 0;
    JSON_EACH(it, t, list) {
        size_t at = v_in_at(v, "tolerations", i++);
        const struct json *key = json_get(t, "key"), *op = json_get(t, "operator");
        const char *effect = json_str_or(json_get(t, "effect"), ""), *o = json_str_or(op, "");
        if (json_span(key).n) {
            v_qualified(v, "key", key);
        } else if (!str_eq(o, "Exists")) {
            v_err(v, KUBE_INVALID, "operator", op,
                  "operator must be Exists when `key` is empty, which means \"match all "
                  "values and all keys\"");
        }
        if (json_get(t, "tolerationSeconds") && !str_eq(effect, "NoExecute")) {
            v_err_str(v, KUBE_INVALID, "effect", effect,
                      "effect must be 'NoExecute' when `tolerationSeconds` is set");
        }
        if (str_eq(o, "Exists") && json_span(json_get(t, "value")).n) {
            v_err(v, KUBE_INVALID, "operator", json_get(t, "value"),
                  "value must be empty when `operator` is 'Exists'");
        }
        v_enum(v, t, "operator", "Equal|Exists|Gt|Lt");
        v_enum(v, t, "effect", "NoSchedule|PreferNoSchedule|NoExecute");
        v_out(v, at);
    }
}

static void host_aliases(struct val *v, const struct json *spec) {
    size_t i = 0;
    JSON_EACH(it, h, json_get(spec, "hostAliases")) {
        size_t at = v_in_at(v, "hostAliases", i++), k = 0;
        v_ip(v, "ip", json_get(h, "ip"));
        JSON_EACH(it2, n, json_get(h, "hostnames")) {
            size_t at2 = v_in_at(v, "hostnames", k++);
            v_name(v, NULL, n, NAME_SUBDOMAIN);
            v_out(v, at2);
        }
        v_out(v, at);
    }
}

void v_pod_spec(struct val *v, const struct json *spec, bool is_pod) {
    volumes(v, spec);
    if (!json_len(json_get(spec, "containers"))) {
        v_required(v, "containers", NULL);
    }
    containers(v, spec, "containers");
    containers(v, spec, "initContainers");
    containers(v, spec, "ephemeralContainers");
    v_enum_need(v, spec, "restartPolicy", "Always|OnFailure|Never");
    v_enum_need(v, spec, "dnsPolicy", "ClusterFirstWithHostNet|ClusterFirst|Default|None");
    v_labels(v, "nodeSelector", json_get(spec, "nodeSelector"));
    pod_security(v, json_get(spec, "securityContext"));
    if (json_get(spec, "affinity")) {
        affinity(v, json_get(spec, "affinity"));
    }
    gates(v, spec);
    spread(v, spec);
    const struct json *sa = json_get(spec, "serviceAccountName"),
                      *node = json_get(spec, "nodeName");
    if (json_span(sa).n) {
        v_name(v, "serviceAccountName", sa, NAME_SUBDOMAIN);
    }
    if (json_span(node).n) {
        v_name(v, "nodeName", node, NAME_SUBDOMAIN);
    }
    v_range(v, spec, "activeDeadlineSeconds", 1, INT32_MAX);
    if (json_span(json_get(spec, "hostname")).n) {
        v_name(v, "hostname", json_get(spec, "hostname"), NAME_LABEL);
    }
    if (json_span(json_get(spec, "subdomain")).n) {
        v_name(v, "subdomain", json_get(spec, "subdomain"), NAME_LABEL);
    }
    v_tolerations(v, json_get(spec, "tolerations"));
    host_aliases(v, spec);
    if (json_span(json_get(spec, "priorityClassName")).n) {
        v_name(v, "priorityClassName", json_get(spec, "priorityClassName"), NAME_SUBDOMAIN);
    }
    v_enum(v, spec, "preemptionPolicy", "Never|PreemptLowerPriority");
    if (json_get(spec, "os") &&
        !v_in_list(json_str_or(json_at(spec, "os", "name"), ""), "linux|windows")) {
        v_unsupported(v, "os", json_at(spec, "os", "name"), "linux|windows");
    }
    if (is_pod && json_span(node).n && json_len(json_get(spec, "schedulingGates"))) {
        v_err(v, KUBE_FORBIDDEN, "nodeName", NULL,
              "cannot be set until all schedulingGates have been cleared");
    }
}

void v_pod_template(struct val *v, const struct json *t) {
    v_labels(v, "labels", json_at(t, "metadata", "labels"));
    v_annotations(v, "annotations", json_at(t, "metadata", "annotations"));
    size_t at = v_in(v, "spec");
    v_pod_spec(v, json_get(t, "spec"), false);
    v_out(v, at);
}

/* ---- updates of pods --------------------------------------------------------------------------------------------- */

static void take_from(struct json_doc *d, struct json *to, const struct json *from,
                      const char *key) {
    struct json *x = json_get(from, key);
    if (x) {
        json_set(d, to, key, json_copy(d, x));
    } else {
        json_del(to, key);
    }
}

static void take_images(struct json_doc *d, struct json *now, const struct json *old,
                        const char *kind) {
    struct json_iter io = json_iter(json_get(old, kind));
    JSON_EACH(it, c, json_get(now, kind)) {
        const struct json *o = json_next(&io, NULL);
        if (o) {
            take_from(d, c, o, "image");
        }
    }
}

/* Only images, deadlines, more tolerations and lifted gates may differ. */
static void pod_update(struct val *v, const struct json *obj, const struct json *old) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    const struct json *ns = json_get(obj, "spec"), *os = json_get(old, "spec");
    struct json *now = json_copy(d, ns);
    static const char *const kinds[] = {"containers", "initContainers"};
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        if (json_len(json_get(ns, kinds[i])) != json_len(json_get(os, kinds[i]))) {
            v_err(v, KUBE_FORBIDDEN, kinds[i], NULL,
                  "pod updates may not add or remove containers");
            return;
        }
        take_images(d, now, os, kinds[i]);
    }
    take_from(d, now, os, "activeDeadlineSeconds");
    if (json_i64(json_get(os, "terminationGracePeriodSeconds"), 0) < 0 &&
        json_i64(json_get(ns, "terminationGracePeriodSeconds"), 0) == 1) {
        take_from(d, now, os, "terminationGracePeriodSeconds");
    }
    take_from(d, now, os, "schedulingGates");
    bool more = true;
    JSON_EACH(it, t, json_get(os, "tolerations")) {
        bool found = false;
        JSON_EACH(it2, n, json_get(ns, "tolerations")) {
            found = found || json_eq(n, t);
        }
        more = more && found;
    }
    if (more) {
        take_from(d, now, os, "tolerations");
    }
    if (str_eq(v->r->sub, "ephemeralcontainers")) {
        take_from(d, now, os, "ephemeralContainers");
    }
    if (str_eq(v->r->sub, "resize")) {
        take_from(d, now, os, "containers");
        take_from(d, now, os, "initContainers");
        if (!str_eq(kube_qos(obj), kube_qos(old))) {
            v_err_str(v, KUBE_INVALID, NULL, kube_qos(old),
                      "Pod QOS Class may not change as a result of resizing");
        }
    }
    if (!json_eq(now, os)) {
        v_err(v, KUBE_FORBIDDEN, NULL, NULL,
              "pod updates may not change fields other than "
              "`spec.containers[*].image`,`spec.initContainers[*].image`,"
              "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing "
              "tolerations),"
              "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously "
              "negative)");
    }
}

static void token_needs_account(struct val *v, const struct json *spec) {
    size_t i = 0;
    if (json_span(json_get(spec, "serviceAccountName")).n) {
        return;
    }
    JSON_EACH(it, vol, json_get(spec, "volumes")) {
        size_t k = 0;
        JSON_EACH(it2, src, json_at(vol, "projected", "sources")) {
            AUTO_FREE char *c =
                str_fmt("volumes[%zu].projected.sources[%zu].serviceAccountToken", i, k++);
            if (json_get(src, "serviceAccountToken")) {
                v_err(v, KUBE_FORBIDDEN, c, NULL,
                      "must not be specified when serviceAccountName is not set");
            }
        }
        i++;
    }
}

bool v_pod(struct val *v, const struct json *obj, const struct json *old) {
    unsigned hook = v->r->type ? v->r->type->hook : KH_NONE;
    if (hook == KH_POD_TEMPLATE) {
        size_t at = v_in(v, "template");
        v_pod_template(v, json_get(obj, "template"));
        v_out(v, at);
        return true;
    }
    if (hook != KH_POD) {
        return false;
    }
    size_t at = v_in(v, "spec");
    v_pod_spec(v, json_get(obj, "spec"), !old);
    token_needs_account(v, json_get(obj, "spec"));
    if (old) {
        pod_update(v, obj, old);
    }
    v_out(v, at);
    return true;
}
