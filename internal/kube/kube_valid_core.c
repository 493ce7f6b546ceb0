#include "internal/kube/kube.h"

#include "internal/kube/kube_valid_int.h"

enum { LIM_CONFIG_BYTES = 1 << 20 };

/* ---- ConfigMap, Secret --------------------------------------------------------------------------------- */

static void config_key(struct val *v, const char *child, const char *k) {
    bool ok = true;
    for (const char *c = k; *c; c++) {
        ok = ok && ((*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') ||
                    (*c >= '0' && *c <= '9') || strchr("-._", *c));
    }
    size_t at = v_in(v, child);
    kube_path_key(&v->p, k);
    if (strlen(k) > 253) {
        v_err_str(v, KUBE_INVALID, NULL, k, "must be no more than 253 characters");
    }
    if (!ok || !*k) {
        v_err_str(v, KUBE_INVALID, NULL, k,
                  "a valid config key must consist of alphanumeric characters, '-', '_' or '.' "
                  "(e.g. 'key.name',  or "
                  "'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')");
    }
    if (str_eq(k, ".")) {
        v_err_str(v, KUBE_INVALID, NULL, k, "must not be '.'");
    } else if (strncmp(k, "..", 2) == 0) {
        v_err_str(v, KUBE_INVALID, NULL, k,
                  str_eq(k, "..") ? "must not be '..'" : "must not start with '..'");
    }
    v_out(v, at);
}

static void v_config_keys(struct val *v, const char *child, const struct json *map) {
    for (const char *const *k = v_keys(v, map); *k; k++) {
        config_key(v, child, *k);
    }
}

static size_t bytes_of(const struct json *map, bool base64) {
    size_t n = 0;
    JSON_EACH_KV(it, k, x, map) {
        (void)k;
        size_t len = json_span(x).n;
        n += base64 ? len / 4 * 3 : len;
    }
    return n;
}

/* Data of an object marked immutable. */
static void frozen(struct val *v, const struct json *obj, const struct json *old,
                   const char *const *keys) {
    if (!old || !json_bool(json_get(old, "immutable"), false)) {
        return;
    }
    if (!json_bool(json_get(obj, "immutable"), false)) {
        v_err(v, KUBE_FORBIDDEN, "immutable", NULL, "field is immutable when `immutable` is set");
    }
    for (; *keys; keys++) {
        const struct json *a = json_get(obj, *keys), *b = json_get(old, *keys);
        if ((a || b) && (!a || !b || !json_eq(a, b))) {
            v_err(v, KUBE_FORBIDDEN, *keys, NULL, "field is immutable when `immutable` is set");
        }
    }
}

static void config_map(struct val *v, const struct json *obj, const struct json *old) {
    static const char *const keys[] = {"data", "binaryData", NULL};
    v_config_keys(v, "data", json_get(obj, "data"));
    v_config_keys(v, "binaryData", json_get(obj, "binaryData"));
    for (const char *const *k = v_keys(v, json_get(obj, "data")); *k; k++) {
        if (json_get(json_get(obj, "binaryData"), *k)) {
            AUTO_FREE char *p = str_fmt("data[%s]", *k);
            v_err_str(v, KUBE_INVALID, p, *k, "duplicate of key present in binaryData");
        }
    }
    if (bytes_of(json_get(obj, "data"), false) + bytes_of(json_get(obj, "binaryData"), true) >
        LIM_CONFIG_BYTES) {
        kube_err_add(v->e, KUBE_TOO_LONG, "[]", NULL, "may not be more than %d bytes",
                     LIM_CONFIG_BYTES);
    }
    frozen(v, obj, old, keys);
}

static void secret(struct val *v, const struct json *obj, const struct json *old) {
    static const char *const keys[] = {"data", NULL};
    static const struct {
        const char *type, *need[2];
    } types[] = {
        {"kubernetes.io/dockercfg", {".dockercfg", NULL}},
        {"kubernetes.io/dockerconfigjson", {".dockerconfigjson", NULL}},
        {"kubernetes.io/ssh-auth", {"ssh-privatekey", NULL}},
        {"kubernetes.io/tls", {"tls.crt", "tls.key"}},
    };
    const struct json *data = json_get(obj, "data");
    const char *type = json_str_or(json_get(obj, "type"), "");
    v_config_keys(v, "data", data);
    if (bytes_of(data, true) > LIM_CONFIG_BYTES) {
        v_err(v, KUBE_TOO_LONG, "data", NULL, "may not be more than %d bytes", LIM_CONFIG_BYTES);
    }
    if (str_eq(type, "kubernetes.io/service-account-token") &&
        !kube_annotation(obj, "kubernetes.io/service-account.name")) {
        v_required(v, "metadata.annotations[kubernetes.io/service-account.name]", NULL);
    }
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        for (size_t k = 0; str_eq(type, types[i].type) && k < 2 && types[i].need[k]; k++) {
            if (!json_get(data, types[i].need[k])) {
                AUTO_FREE char *p = str_fmt("data[%s]", types[i].need[k]);
                v_required(v, p, NULL);
            }
        }
    }
    if (str_eq(type, "kubernetes.io/basic-auth") && !json_get(data, "username") &&
        !json_get(data, "password")) {
        v_required(v, "data[username]", NULL);
        v_required(v, "data[password]", NULL);
    }
    if (old) {
        v_immutable(v, "type", json_get(obj, "type"), json_get(old, "type"));
    }
    frozen(v, obj, old, keys);
}

/* ---- Service -------------------------------------------------------------------------------------------- */

static void service_ports(struct val *v, const struct json *spec) {
    const struct json *list = json_get(spec, "ports");
    size_t n = json_len(list), i = 0;
    JSON_EACH(it, p, list) {
        size_t at = v_in_at(v, "ports", i), k = 0;
        const struct json *name = json_get(p, "name"), *target = json_get(p, "targetPort");
        if (!json_span(name).n) {
            if (n > 1) {
                v_required(v, "name", NULL);
            }
        } else {
            v_name(v, "name", name, NAME_LABEL);
            JSON_EACH(it2, q, list) {
                if (k++ == i) {
                    break;
                }
                if (json_get(q, "name") && json_eq(json_get(q, "name"), name)) {
                    v_dup(v, "name", name);
                }
            }
        }
        int64_t port = json_i64(json_get(p, "port"), 0);
        if (port < 1 || port > 65535) {
            v_err(v, KUBE_INVALID, "port", json_get(p, "port"),
                  "must be between 1 and 65535, inclusive");
        }
        if (v_need_str(v, p, "protocol")) {
            v_enum(v, p, "protocol", "SCTP|TCP|UDP");
        }
        if (json_is_int(target)) {
            v_range(v, p, "targetPort", 1, 65535);
        }
        if (json_i64(json_get(p, "nodePort"), 0) &&
            str_eq(json_str_or(json_get(spec, "type"), ""), "ClusterIP")) {
            v_err(v, KUBE_FORBIDDEN, "nodePort", NULL,
                  "may not be used when `type` is 'ClusterIP'");
        }
        v_out(v, at);
        i++;
    }
    i = 0;
    JSON_EACH(it3, p, list) { /* the pair of protocol and port is unique */
        size_t k = 0;
        JSON_EACH(it4, q, list) {
            if (k++ == i) {
                break;
            }
            if (json_i64(json_get(p, "port"), 0) == json_i64(json_get(q, "port"), -1) &&
                str_eq(json_str(json_get(p, "protocol")), json_str(json_get(q, "protocol")))) {
                size_t at = v_in_at(v, "ports", i);
                kube_errs_raw(
                    v->e, "FieldValueDuplicate", v->p.s,
                    "Duplicate value: "
                    "{\"Name\":\"\",\"Protocol\":\"%s\",\"AppProtocol\":null,\"Port\":%lld,"
                    "\"TargetPort\":0,\"NodePort\":0}",
                    json_str_or(json_get(p, "protocol"), ""),
                    (long long)json_i64(json_get(p, "port"), 0));
                v_out(v, at);
                break;
            }
        }
        i++;
    }
}

static void service(struct val *v, const struct json *spec, const struct json *old) {
    const struct json *ips = json_get(spec, "clusterIPs"), *type = json_get(spec, "type");
    const char *ip = json_str_or(json_get(spec, "clusterIP"), ""), *t = json_str_or(type, "");
    bool headless = str_eq(ip, "None"), external = str_eq(t, "ExternalName");
    if (!json_len(json_get(spec, "ports")) && !headless && !external) {
        v_required(v, "ports", NULL);
    }
    if (external) {
        if (json_len(ips)) {
            v_err(v, KUBE_FORBIDDEN, "clusterIPs", NULL,
                  "may not be set when `type` is 'ExternalName'");
        }
        const struct json *en = json_get(spec, "externalName");
        if (!json_span(en).n) {
            v_required(v, "externalName", NULL);
        } else {
            struct span s = json_span(en);
            const char *m[3];
            s.n -= s.p[s.n - 1] == '.' ? 1 : 0;
            size_t n = v_name_msgs(NAME_SUBDOMAIN, s, m);
            for (size_t i = 0; i < n; i++) {
                v_err(v, KUBE_INVALID, "externalName", en, "%s", m[i]);
            }
        }
    }
    if (str_eq(t, "LoadBalancer") && headless) {
        v_err(v, KUBE_INVALID, "clusterIPs[0]", json_idx(ips, 0),
              "may not be set to 'None' for LoadBalancer services");
    }
    service_ports(v, spec);
    v_labels(v, "selector", json_get(spec, "selector"));
    if (!json_span(json_get(spec, "sessionAffinity")).n) {
        v_required(v, "sessionAffinity", NULL);
    } else {
        v_enum(v, spec, "sessionAffinity", "ClientIP|None");
    }
    size_t i = 0;
    JSON_EACH(it, x, ips) {
        AUTO_FREE char *p = str_fmt("clusterIPs[%zu]", i++);
        if (!str_eq(json_str(x), "None")) {
            v_ip(v, p, x);
        }
    }
    if (json_len(ips) && *ip && !str_eq(json_str(json_idx(ips, 0)), ip) && !old) {
        v_err(v, KUBE_INVALID, "clusterIPs", ips, "first value must match `clusterIP`");
    }
    i = 0;
    JSON_EACH(it2, x, json_get(spec, "externalIPs")) {
        AUTO_FREE char *p = str_fmt("externalIPs[%zu]", i++);
        v_ip(v, p, x);
    }
    if (!*t) {
        v_required(v, "type", NULL);
    } else {
        v_enum(v, spec, "type", "ClusterIP|ExternalName|LoadBalancer|NodePort");
    }
    v_enum(v, spec, "externalTrafficPolicy", "Cluster|Local");
    v_enum(v, spec, "internalTrafficPolicy", "Cluster|Local");
    v_enum(v, spec, "ipFamilyPolicy", "SingleStack|PreferDualStack|RequireDualStack");
    if (old && !external && !str_eq(json_str_or(json_get(old, "type"), ""), "ExternalName")) {
        const struct json *a = json_idx(ips, 0), *b = json_idx(json_get(old, "clusterIPs"), 0);
        if (a && b && !json_eq(a, b)) {
            v_err(v, KUBE_INVALID, "clusterIPs[0]", ips, "may not change once set");
        }
    }
}

/* ---- nodes, volumes, quotas ------------------------------------------------------------------------------- */

void v_taints(struct val *v, const char *child, const struct json *list) {
    size_t i = 0;
    const char *m[2];
    JSON_EACH(it, t, list) {
        size_t at = v_in_at(v, child, i++), n = kube_value_msgs(json_span(json_get(t, "value")), m);
        v_qualified(v, "key", json_get(t, "key"));
        for (size_t k = 0; k < n; k++) {
            v_err(v, KUBE_INVALID, "value", json_get(t, "value"), "%s", m[k]);
        }
        if (!json_span(json_get(t, "effect")).n) {
            v_required(v, "effect", NULL);
        } else {
            v_enum(v, t, "effect", "NoSchedule|PreferNoSchedule|NoExecute");
        }
        v_out(v, at);
    }
}

static void node(struct val *v, const struct json *obj, const struct json *old) {
    const struct json *spec = json_get(obj, "spec");
    size_t i = 0;
    v_taints(v, "metadata.taints", json_get(spec, "taints"));
    JSON_EACH(it, c, json_get(spec, "podCIDRs")) {
        AUTO_FREE char *p = str_fmt("spec.podCIDRs[%zu]", i++);
        v_cidr(v, p, c);
    }
    if (old) {
        const struct json *os = json_get(old, "spec");
        if (json_len(json_get(os, "podCIDRs"))) {
            const struct json *a = json_get(spec, "podCIDRs"), *b = json_get(os, "podCIDRs");
            if (!a || !json_eq(a, b)) {
                v_err(v, KUBE_FORBIDDEN, "spec.podCIDRs", NULL,
                      "node updates may not change podCIDR except from \"\" to valid");
            }
        }
        if (json_span(json_get(os, "providerID")).n) {
            const struct json *a = json_get(spec, "providerID");
            if (!a || !json_eq(a, json_get(os, "providerID"))) {
                v_err(v, KUBE_FORBIDDEN, "spec.providerID", NULL,
                      "node updates may not change providerID except from \"\" to valid");
            }
        }
    }
}

static void access_modes(struct val *v, const struct json *spec, const char *detail) {
    static const char all[] = "ReadOnlyMany|ReadWriteMany|ReadWriteOnce|ReadWriteOncePod";
    if (!json_len(json_get(spec, "accessModes"))) {
        v_required(v, "accessModes", detail);
    }
    JSON_EACH(it, m, json_get(spec, "accessModes")) {
        if (!v_in_list(json_str_or(m, ""), all)) {
            v_unsupported(v, "accessModes", m, all);
        }
    }
}

static void pv(struct val *v, const struct json *spec) {
    static const char known[] =
        "accessModes|capacity|claimRef|mountOptions|nodeAffinity|persistentVolumeReclaimPolicy|"
        "storageClassName|volumeAttributesClassName|volumeMode";
    size_t n = 0;
    access_modes(v, spec, NULL);
    const struct json *cap = json_get(spec, "capacity");
    if (!json_len(cap)) {
        v_required(v, "capacity", NULL);
    }
    if (!json_get(cap, "storage") || json_len(cap) > 1) {
        if (cap) {
            v_unsupported(v, "capacity", cap, "storage");
        } else {
            kube_errs_raw(v->e, "FieldValueNotSupported", "spec.capacity",
                          "Unsupported value: null: supported values: \"storage\"");
        }
    }
    const struct json *q = json_get(cap, "storage");
    int64_t value = 1;
    if (q && kube_quantity_milli(json_span(q), &value) == 0 && value <= 0) {
        v_err(v, KUBE_INVALID, "capacity[storage]", q, "must be greater than zero");
    }
    v_enum(v, spec, "persistentVolumeReclaimPolicy", "Delete|Recycle|Retain");
    JSON_EACH_KV(it, k, x, spec) {
        (void)x;
        if (!v_in_list(k, known) && n++) {
            v_err(v, KUBE_FORBIDDEN, k, NULL, "may not specify more than 1 volume type");
        }
    }
    if (!n) {
        v_required(v, NULL, "must specify a volume type");
    }
    if (json_get(spec, "hostPath")) {
        size_t at = v_in(v, "hostPath");
        v_need_str(v, json_get(spec, "hostPath"), "path");
        v_out(v, at);
    }
    v_enum(v, spec, "volumeMode", "Block|Filesystem");
}

/* The spec of a claim changes only by growing once it is bound. */
static void pvc_update(struct val *v, const struct json *obj, const struct json *old) {
    const struct json *s = json_get(obj, "spec"), *o = json_get(old, "spec");
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *a = json_copy(d, s), *b = json_copy(d, o);
    bool bound = str_eq(json_str_or(json_at(old, "status", "phase"), ""), "Bound");
    struct json *const both[] = {a, b};
    for (size_t i = 0; i < 2; i++) {
        if (bound) {
            json_del(json_get(both[i], "resources"), "requests");
            json_del(both[i], "volumeAttributesClassName");
        }
    }
    if (!json_span(json_get(b, "volumeName")).n) {
        json_del(a, "volumeName"); /* binding sets it once */
        json_del(b, "volumeName");
    }
    if (!json_get(b, "storageClassName")) {
        json_del(a, "storageClassName");
    }
    int c = 0;
    const struct json *nq = json_at(s, "resources", "requests", "storage");
    const struct json *oq = json_at(o, "resources", "requests", "storage");
    if (!json_eq(a, b)) {
        v_err(v, KUBE_FORBIDDEN, NULL, NULL,
              "spec is immutable after creation except resources.requests and "
              "volumeAttributesClassName for bound claims");
    } else if (bound && nq && oq && kube_quantity_cmp(json_span(nq), json_span(oq), &c) == 0 &&
               c < 0) {
        v_err(v, KUBE_FORBIDDEN, "resources.requests.storage", NULL,
              "field can not be less than status.capacity");
    }
}

static void pvc(struct val *v, const struct json *obj, const struct json *old) {
    const struct json *spec = json_get(obj, "spec"),
                      *q = json_at(spec, "resources", "requests", "storage");
    int64_t value = 1;
    v_label_selector(v, "selector", json_get(spec, "selector"));
    access_modes(v, spec, "at least 1 access mode is required");
    if (!q) {
        v_required(v, "resources[storage]", NULL);
    } else if (kube_quantity_milli(json_span(q), &value) == 0 && value <= 0) {
        v_err(v, KUBE_INVALID, "resources[storage]", q, "must be greater than zero");
    }
    v_enum(v, spec, "volumeMode", "Block|Filesystem");
    if (old) {
        pvc_update(v, obj, old);
    }
}

static void quota(struct val *v, const struct json *spec, const struct json *old) {
    static const char names[] = "cpu|memory|ephemeral-storage|requests.cpu|requests.memory|"
                                "requests.storage|requests.ephemeral-storage|limits.cpu|"
                                "limits.memory|limits.ephemeral-storage|pods|services|"
                                "replicationcontrollers|resourcequotas|secrets|configmaps|"
                                "persistentvolumeclaims|services.nodeports|services.loadbalancers";
    static const char scopes[] =
        "Terminating|NotTerminating|BestEffort|NotBestEffort|PriorityClass|"
        "CrossNamespacePodAffinity|VolumeAttributesClass";
    const struct json *hard = json_get(spec, "hard"), *sc = json_get(spec, "scopes");
    for (const char *const *k = v_keys(v, hard); *k; k++) {
        AUTO_FREE char *p = str_fmt("hard[%s]", *k);
        const struct json *q = json_get(hard, *k);
        int64_t milli = 0;
        if (!strchr(*k, '/') && !v_in_list(*k, names) &&
            strncmp(*k, "requests.hugepages-", 19) != 0 && strncmp(*k, "hugepages-", 10) != 0) {
            v_err_str(v, KUBE_INVALID, p, *k,
                      "must be a standard resource type or fully qualified");
            v_err_str(v, KUBE_INVALID, p, *k, "must be a standard resource for quota");
        }
        if (kube_quantity_milli(json_span(q), &milli) == 0) {
            if (milli < 0) {
                v_err(v, KUBE_INVALID, p, q, "must be greater than or equal to 0");
            }
            if (v_in_list(*k,
                          "pods|services|replicationcontrollers|resourcequotas|secrets|configmaps|"
                          "persistentvolumeclaims|services.nodeports|services.loadbalancers") &&
                milli % 1000) {
                v_err(v, KUBE_INVALID, p, q, "must be an integer");
            }
        }
    }
    JSON_EACH(it, s, sc) {
        if (!v_in_list(json_str_or(s, ""), scopes)) {
            v_err(v, KUBE_INVALID, "scopes", sc, "unsupported scope");
        }
    }
    if (old) {
        v_immutable(v, "scopes", sc, json_get(old, "scopes"));
    }
}

static void limit_range(struct val *v, const struct json *spec) {
    static const char *const lists[] = {"min", "max", "defaultRequest", "default"};
    static const struct {
        const char *low, *high, *at,
            *text; /* the error is at `at`, with its value (min/default: with min's) */
    } pairs[] = {
        {"min", "max", "min", "min value %s is greater than max value %s"},
        {"min", "defaultRequest", "defaultRequest",
         "min value %s is greater than default request value %s"},
        {"defaultRequest", "max", "defaultRequest",
         "default request value %s is greater than max value %s"},
        {"defaultRequest", "default", "defaultRequest",
         "default request value %s is greater than default limit value %s"},
        {"min", "default", "default", "min value %s is greater than default value %s"},
        {"default", "max", "default", "default value %s is greater than max value %s"},
    };
    size_t i = 0;
    JSON_EACH(it, l, json_get(spec, "limits")) {
        size_t at = v_in_at(v, "limits", i++);
        AUTO(json_docp) struct json_doc *d = json_doc_new();
        struct json *keys = json_new_obj(d);
        v_need_str(v, l, "type");
        for (size_t k = 0; k < ARRAY_LEN(lists); k++) {
            JSON_EACH_KV(it2, name, x, json_get(l, lists[k])) {
                (void)x;
                json_set_bool(d, keys, name, true);
            }
        }
        for (const char *const *k = v_keys(v, keys); *k; k++) {
            for (size_t q = 0; q < ARRAY_LEN(pairs); q++) {
                const struct json *lo = json_get(json_get(l, pairs[q].low), *k),
                                  *hi = json_get(json_get(l, pairs[q].high), *k);
                int c = 0;
                if (lo && hi && kube_quantity_cmp(json_span(lo), json_span(hi), &c) == 0 && c > 0) {
                    AUTO_FREE char *p = str_fmt("%s[%s]", pairs[q].at, *k);
                    struct span t = span_str(pairs[q].text), a, b;
                    IGNORE_ERR(span_until(&t, '%', &a), "every text has two places");
                    IGNORE_ERR(span_skip(&t, 1), "the s of the place");
                    IGNORE_ERR(span_until(&t, '%', &b), "every text has two places");
                    v_err(v, KUBE_INVALID, p, q == 4 ? lo : json_get(json_get(l, pairs[q].at), *k),
                          "%.*s%s%.*s%s", SPAN_FMT(a), json_str_or(lo, ""), SPAN_FMT(b),
                          json_str_or(hi, ""));
                }
            }
        }
        v_out(v, at);
    }
}

static void endpoints(struct val *v, const struct json *obj) {
    size_t i = 0;
    JSON_EACH(it, s, json_get(obj, "subsets")) {
        size_t at = v_in_at(v, "subsets", i++), k = 0;
        if (!json_len(json_get(s, "addresses")) && !json_len(json_get(s, "notReadyAddresses"))) {
            v_required(v, NULL, "must specify `addresses` or `notReadyAddresses`");
        }
        JSON_EACH(it2, a, json_get(s, "addresses")) {
            size_t at2 = v_in_at(v, "addresses", k++);
            v_ip(v, "ip", json_get(a, "ip"));
            v_out(v, at2);
        }
        k = 0;
        JSON_EACH(it3, p, json_get(s, "ports")) {
            size_t at2 = v_in_at(v, "ports", k++);
            v_range(v, p, "port", 1, 65535);
            v_enum(v, p, "protocol", "SCTP|TCP|UDP");
            v_out(v, at2);
        }
        v_out(v, at);
    }
}

static void event(struct val *v, const struct json *obj) {
    const char *ns = json_str_or(json_at(obj, "involvedObject", "namespace"), "");
    if (*ns && !str_eq(ns, kube_namespace(obj))) {
        v_err_str(v, KUBE_INVALID, "involvedObject.namespace", ns,
                  "does not match event.namespace");
    }
}

/* events.k8s.io asks for more than the core form. */
static void events_event(struct val *v, const struct json *obj) {
    if (json_is_null(json_get(obj, "eventTime"))) {
        v_required(v, "eventTime", NULL);
    } else {
        static const char *const need[] = {"reportingController", "reportingInstance", "action",
                                           "reason"};
        for (size_t i = 0; i < ARRAY_LEN(need); i++) {
            v_need_str(v, obj, need[i]);
        }
    }
    const char *type = json_str_or(json_get(obj, "type"), "");
    if (!v_in_list(type, "Normal|Warning")) {
        v_err_str(v, KUBE_INVALID, "type", type, "has invalid value: %s", type);
    }
}

bool v_core(struct val *v, const struct json *obj, const struct json *old) {
    unsigned hook = v->r->type ? v->r->type->hook : KH_NONE;
    const struct json *spec = json_get(obj, "spec"), *os = old ? json_get(old, "spec") : NULL;
    size_t at;
    switch (hook) {
    case KH_CONFIG_MAP: config_map(v, obj, old); return true;
    case KH_SECRET: secret(v, obj, old); return true;
    case KH_NODE: node(v, obj, old); return true;
    case KH_ENDPOINTS: endpoints(v, obj); return true;
    case KH_EVENT: event(v, obj); return true;
    case KH_EVENTS_EVENT: events_event(v, obj); return true;
    default: break;
    }
    at = v_in(v, "spec");
    bool mine = true;
    switch (hook) {
    case KH_SERVICE: service(v, spec, os); break;
    case KH_PV: pv(v, spec); break;
    case KH_PVC: pvc(v, obj, old); break;
    case KH_QUOTA: quota(v, spec, os); break;
    case KH_LIMIT_RANGE: limit_range(v, spec); break;
    default: mine = false;
    }
    v_out(v, at);
    return mine;
}
