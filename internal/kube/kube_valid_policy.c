#include "internal/kube/kube.h"

#include "internal/base/rand.h"
#include "internal/kube/kube_valid_int.h"

/* RBAC, networking, storage classes, certificates, admission, and the other kinds with few rules. */

/* ---- RBAC -------------------------------------------------------------------------------------------- */

static void rules(struct val *v, const struct json *obj, bool namespaced) {
    size_t i = 0;
    JSON_EACH(it, r, json_get(obj, "rules")) {
        size_t at = v_in_at(v, "rules", i++);
        bool urls = json_len(json_get(r, "nonResourceURLs")) > 0;
        if (!json_len(json_get(r, "verbs"))) {
            v_required(v, "verbs", "verbs must contain at least one value");
        }
        if (urls) {
            if (namespaced) {
                v_err(v, KUBE_INVALID, "nonResourceURLs", json_get(r, "nonResourceURLs"),
                      "namespaced rules cannot apply to non-resource URLs");
            }
            if (json_len(json_get(r, "apiGroups")) || json_len(json_get(r, "resources")) ||
                json_len(json_get(r, "resourceNames"))) {
                v_err(v, KUBE_INVALID, "nonResourceURLs", json_get(r, "nonResourceURLs"),
                      "rules cannot apply to both regular resources and non-resource URLs");
            }
        } else {
            if (!json_len(json_get(r, "apiGroups"))) {
                v_required(v, "apiGroups", "resource rules must supply at least one api group");
            }
            if (!json_len(json_get(r, "resources"))) {
                v_required(v, "resources", "resource rules must supply at least one resource");
            }
        }
        v_out(v, at);
    }
}

static void binding(struct val *v, const struct json *obj, const struct json *old, bool cluster) {
    static const char group[] = "rbac.authorization.k8s.io";
    const struct json *ref = json_get(obj, "roleRef");
    size_t at = v_in(v, "roleRef"), i = 0;
    v_enum_need(v, ref, "apiGroup", group);
    v_enum_need(v, ref, "kind", cluster ? "ClusterRole" : "Role|ClusterRole");
    if (v_need_str(v, ref, "name")) {
        v_name(v, "name", json_get(ref, "name"), NAME_PATH);
    }
    v_out(v, at);
    JSON_EACH(it, s, json_get(obj, "subjects")) {
        at = v_in_at(v, "subjects", i++);
        const char *kind = json_str_or(json_get(s, "kind"), "");
        bool named = v_need_str(v, s, "name");
        if (str_eq(kind, "ServiceAccount")) {
            if (named) {
                v_name(v, "name", json_get(s, "name"), NAME_SUBDOMAIN);
            }
            if (json_span(json_get(s, "apiGroup")).n) {
                v_unsupported(v, "apiGroup", json_get(s, "apiGroup"), "");
            }
            if (!json_span(json_get(s, "namespace")).n && cluster) {
                v_required(v, "namespace", NULL);
            }
        } else if (v_in_list(kind, "User|Group")) {
            v_enum_need(v, s, "apiGroup", group);
        } else {
            v_unsupported(v, "kind", json_get(s, "kind"), "ServiceAccount|User|Group");
        }
        v_out(v, at);
    }
    const struct json *oref = old ? json_get(old, "roleRef") : NULL;
    if (oref && !json_eq(ref, oref)) {
        kube_errs_raw(v->e, "FieldValueInvalid", "roleRef",
                      "Invalid value: {\"APIGroup\":\"%s\",\"Kind\":\"%s\",\"Name\":\"%s\"}: "
                      "cannot change roleRef",
                      json_str_or(json_get(ref, "apiGroup"), ""),
                      json_str_or(json_get(ref, "kind"), ""),
                      json_str_or(json_get(ref, "name"), ""));
    }
}

/* ---- networking ------------------------------------------------------------------------------------------ */

static void backend(struct val *v, const char *child, const struct json *b) {
    const struct json *svc = json_get(b, "service"), *res = json_get(b, "resource");
    size_t at = v_in(v, child);
    if (svc && res) {
        v_err(v, KUBE_INVALID, NULL, NULL, "cannot set both resource and service backends");
    } else if (!svc && !res) {
        v_err_str(v, KUBE_INVALID, NULL, "", "resource or service backend is required");
    } else if (svc) {
        size_t at2 = v_in(v, "service");
        if (v_need_str(v, svc, "name")) {
            v_name(v, "name", json_get(svc, "name"), NAME_LABEL);
        }
        const struct json *port = json_get(svc, "port");
        bool name = json_span(json_get(port, "name")).n > 0;
        int64_t num = json_i64(json_get(port, "number"), 0);
        if (name && num) {
            v_err(v, KUBE_INVALID, NULL, NULL, "cannot set both port name & port number");
        } else if (!name && !num) {
            v_required(v, NULL, "port name or number is required");
        } else if (num) {
            size_t at3 = v_in(v, "port");
            v_range(v, port, "number", 1, 65535);
            v_out(v, at3);
        }
        v_out(v, at2);
    }
    v_out(v, at);
}

static void ingress(struct val *v, const struct json *spec) {
    size_t i = 0;
    if (!json_len(json_get(spec, "rules")) && !json_get(spec, "defaultBackend")) {
        kube_errs_raw(v->e, "FieldValueInvalid", "spec",
                      "Invalid value: null: either `defaultBackend` or `rules` must be specified");
    }
    if (json_get(spec, "defaultBackend")) {
        backend(v, "defaultBackend", json_get(spec, "defaultBackend"));
    }
    JSON_EACH(it, r, json_get(spec, "rules")) {
        size_t at = v_in_at(v, "rules", i++), k = 0;
        const struct json *host = json_get(r, "host");
        struct span h = json_span(host);
        if (span_starts(h, "*.")) {
            const char *m[3];
            size_t n = v_name_msgs(NAME_SUBDOMAIN, span_of(h.p + 2, h.n - 2), m);
            for (size_t q = 0; q < n; q++) {
                v_err(v, KUBE_INVALID, "host", host, "%s", m[q]);
            }
        } else if (h.n && v_is_ip(h)) {
            v_err(v, KUBE_INVALID, "host", host, "must be a DNS name, not an IP address");
        } else if (h.n) {
            v_name(v, "host", host, NAME_SUBDOMAIN);
        }
        const struct json *http = json_get(r, "http");
        size_t at2 = v_in(v, "http");
        if (http && !json_len(json_get(http, "paths"))) {
            v_required(v, "paths", NULL);
        }
        JSON_EACH(it2, p, json_get(http, "paths")) {
            size_t at3 = v_in_at(v, "paths", k++);
            const struct json *type = json_get(p, "pathType"), *path = json_get(p, "path");
            if (!type) {
                v_required(v, "pathType", "pathType must be specified");
            } else if (v_in_list(json_str_or(type, ""), "Exact|Prefix")) {
                if (json_str_or(path, "")[0] != '/') {
                    v_err_str(v, KUBE_INVALID, "path", json_str_or(path, ""),
                              "must be an absolute path");
                }
            } else if (str_eq(json_str(type), "ImplementationSpecific")) {
                if (json_span(path).n && json_str(path)[0] != '/') {
                    v_err(v, KUBE_INVALID, "path", path, "must be an absolute path");
                }
            } else {
                v_unsupported(v, "pathType", type, "Exact|ImplementationSpecific|Prefix");
            }
            backend(v, "backend", json_get(p, "backend"));
            v_out(v, at3);
        }
        v_out(v, at2);
        v_out(v, at);
    }
}

static void policy_peers(struct val *v, const struct json *rule, const char *peers) {
    size_t i = 0;
    JSON_EACH(it, p, json_get(rule, "ports")) {
        size_t at = v_in_at(v, "ports", i++);
        v_enum(v, p, "protocol", "SCTP|TCP|UDP");
        v_range(v, p, "port", 1, 65535);
        v_out(v, at);
    }
    i = 0;
    JSON_EACH(it2, p, json_get(rule, peers)) {
        size_t at = v_in_at(v, peers, i++);
        const struct json *b = json_get(p, "ipBlock"), *ps = json_get(p, "podSelector"),
                          *ns = json_get(p, "namespaceSelector");
        if (ps) {
            v_label_selector(v, "podSelector", ps);
        }
        if (ns) {
            v_label_selector(v, "namespaceSelector", ns);
        }
        if (b) {
            v_cidr(v, "ipBlock.cidr", json_get(b, "cidr"));
            size_t k = 0;
            JSON_EACH(it3, x, json_get(b, "except")) {
                AUTO_FREE char *c = str_fmt("ipBlock.except[%zu]", k++);
                v_cidr(v, c, x);
            }
        }
        if (b && (ps || ns)) {
            v_err(v, KUBE_FORBIDDEN, NULL, NULL, "may not specify both ipBlock and another peer");
        } else if (!b && !ps && !ns) {
            v_required(v, NULL, "must specify a peer");
        }
        v_out(v, at);
    }
}

static void network_policy(struct val *v, const struct json *spec) {
    size_t i = 0;
    v_label_selector(v, "podSelector", json_get(spec, "podSelector"));
    JSON_EACH(it, r, json_get(spec, "ingress")) {
        size_t at = v_in_at(v, "ingress", i++);
        policy_peers(v, r, "from");
        v_out(v, at);
    }
    i = 0;
    JSON_EACH(it2, r, json_get(spec, "egress")) {
        size_t at = v_in_at(v, "egress", i++);
        policy_peers(v, r, "to");
        v_out(v, at);
    }
    i = 0;
    JSON_EACH(it3, t, json_get(spec, "policyTypes")) {
        AUTO_FREE char *c = str_fmt("policyTypes[%zu]", i++);
        if (!v_in_list(json_str_or(t, ""), "Ingress|Egress")) {
            v_unsupported(v, c, t, "Ingress|Egress");
        }
    }
}

static void endpoint_slice(struct val *v, const struct json *obj, const struct json *old) {
    static const char types[] = "FQDN|IPv4|IPv6";
    const struct json *type = json_get(obj, "addressType");
    size_t i = 0;
    if (!json_span(type).n) {
        v_required(v, "addressType", NULL);
    } else {
        v_enum(v, obj, "addressType", types);
    }
    JSON_EACH(it, e, json_get(obj, "endpoints")) {
        size_t at = v_in_at(v, "endpoints", i++), k = 0;
        if (!json_len(json_get(e, "addresses"))) {
            v_required(v, "addresses", "must contain at least 1 address");
        }
        JSON_EACH(it2, a, json_get(e, "addresses")) {
            AUTO_FREE char *c = str_fmt("addresses[%zu]", k++);
            if (str_eq(json_str(type), "FQDN")) {
                v_name(v, c, a, NAME_SUBDOMAIN);
            } else {
                v_ip(v, c, a);
            }
        }
        v_out(v, at);
    }
    i = 0;
    JSON_EACH(it3, p, json_get(obj, "ports")) {
        size_t at = v_in_at(v, "ports", i++);
        v_range(v, p, "port", 1, 65535);
        v_enum(v, p, "protocol", "SCTP|TCP|UDP");
        v_out(v, at);
    }
    if (old) {
        v_immutable(v, "addressType", type, json_get(old, "addressType"));
    }
}

static void lease(struct val *v, const struct json *spec) {
    const struct json *d = json_get(spec, "leaseDurationSeconds");
    if (d && json_i64(d, 0) <= 0) {
        v_err(v, KUBE_INVALID, "leaseDurationSeconds", d, "must be greater than 0");
    }
    v_min0(v, spec, "leaseTransitions");
}

/* ---- certificates --------------------------------------------------------------------------------------------- */

static void csr(struct val *v, const struct json *spec) {
    static const char usages[] = "any|cert sign|client auth|code signing|content commitment|crl "
                                 "sign|data encipherment|decipher only|"
                                 "digital signature|email protection|encipher only|ipsec end "
                                 "system|ipsec tunnel|ipsec user|key agreement|"
                                 "key encipherment|microsoft sgc|netscape sgc|ocsp "
                                 "signing|s/mime|server auth|signing|timestamping";
    AUTO(buf) struct buf pem = BUF_INIT(1u << 20);
    const struct json *rq = json_get(spec, "request"), *us = json_get(spec, "usages"),
                      *signer = json_get(spec, "signerName");
    size_t i = 0;
    if (b64_decode(&pem, json_span(rq)) < 0 ||
        !strstr(buf_cstr(&pem), "-----BEGIN CERTIFICATE REQUEST-----")) {
        if (rq && json_span(rq).n) {
            v_err(v, KUBE_INVALID, "request", rq, "PEM block type must be CERTIFICATE REQUEST");
        } else {
            kube_errs_raw(v->e, "FieldValueInvalid", "spec.request",
                          "Invalid value: null: PEM block type must be CERTIFICATE REQUEST");
        }
    }
    if (!json_len(us)) {
        v_required(v, "usages", NULL);
    }
    JSON_EACH(it, u, us) {
        AUTO_FREE char *c = str_fmt("usages[%zu]", i++);
        if (!v_in_list(json_str_or(u, ""), usages)) {
            v_unsupported(v, c, u, usages);
        }
    }
    if (!json_span(signer).n) {
        v_required(v, "signerName", NULL);
    } else {
        struct span s = json_span(signer), host;
        const char *m[3];
        if (span_until(&s, '/', &host) < 0 || !s.n || v_name_msgs(NAME_SUBDOMAIN, host, m) ||
            span_index(host, '.') < 0) {
            v_err(
                v, KUBE_INVALID, "signerName", signer,
                "must be a fully qualified domain and path of the form 'example.com/signer-name'");
        }
    }
    const struct json *exp = json_get(spec, "expirationSeconds");
    if (exp && json_i64(exp, 0) < 600) {
        v_err(v, KUBE_INVALID, "expirationSeconds", exp,
              "may not specify a duration less than 600 seconds (10 minutes)");
    }
}

/* ---- admission registration -------------------------------------------------------------------------------------- */

static void webhooks(struct val *v, const struct json *obj) {
    size_t i = 0;
    JSON_EACH(it, w, json_get(obj, "webhooks")) {
        size_t at = v_in_at(v, "webhooks", i++), dots = 0;
        const struct json *name = json_get(w, "name"), *cc = json_get(w, "clientConfig");
        struct span s = json_span(name);
        for (size_t k = 0; k < s.n; k++) {
            dots += s.p[k] == '.' ? 1 : 0;
        }
        if (!s.n) {
            v_required(v, "name", NULL);
        } else {
            const char *m[3];
            size_t n = v_name_msgs(NAME_SUBDOMAIN, s, m);
            for (size_t k = 0; k < n; k++) {
                v_err(v, KUBE_INVALID, "name", name, "%s", m[k]);
            }
            if (!n && dots < 2) {
                v_err(v, KUBE_INVALID, "name", name,
                      "should be a domain with at least three segments separated by dots");
            }
        }
        v_enum(v, w, "failurePolicy", "Fail|Ignore");
        v_enum(v, w, "matchPolicy", "Equivalent|Exact");
        if (!json_get(w, "sideEffects")) {
            v_required(v, "sideEffects", "must specify one of None, NoneOnDryRun");
        } else {
            v_enum_need(v, w, "sideEffects", "None|NoneOnDryRun");
        }
        int64_t t = json_i64(json_get(w, "timeoutSeconds"), 10);
        if (t < 1 || t > 30) {
            v_err(v, KUBE_INVALID, "timeoutSeconds", json_get(w, "timeoutSeconds"),
                  "the timeout value must be between 1 and 30 seconds");
        }
        v_label_selector(v, "namespaceSelector", json_get(w, "namespaceSelector"));
        v_label_selector(v, "objectSelector", json_get(w, "objectSelector"));
        bool url = json_span(json_get(cc, "url")).n > 0, svc = json_get(cc, "service") != NULL;
        if (url == svc) {
            v_required(v, "clientConfig", "exactly one of url or service is required");
        }
        if (!json_len(json_get(w, "admissionReviewVersions"))) {
            v_required(v, "admissionReviewVersions", "must specify one of v1, v1beta1");
        }
        v_out(v, at);
    }
}

static void vap(struct val *v, const struct json *spec) {
    if (!json_get(spec, "matchConstraints")) {
        v_required(v, "matchConstraints", NULL);
    }
    if (!json_len(json_get(spec, "validations")) && !json_len(json_get(spec, "auditAnnotations"))) {
        v_required(v, "validations",
                   "validations or auditAnnotations must contain at least one item");
        v_required(v, "auditAnnotations",
                   "validations or auditAnnotations must contain at least one item");
    }
}

static void vap_binding(struct val *v, const struct json *spec) {
    size_t i = 0;
    v_need_str(v, spec, "policyName");
    if (!json_len(json_get(spec, "validationActions"))) {
        v_required(v, "validationActions", "at least one validation action is required");
    }
    JSON_EACH(it, a, json_get(spec, "validationActions")) {
        AUTO_FREE char *c = str_fmt("validationActions[%zu]", i++);
        if (!v_in_list(json_str_or(a, ""), "Audit|Deny|Warn")) {
            v_unsupported(v, c, a, "Audit|Deny|Warn");
        }
    }
}

static void priority_level(struct val *v, const struct json *spec) {
    v_enum_need(v, spec, "type", "Exempt|Limited");
    if (str_eq(json_str(json_get(spec, "type")), "Limited")) {
        const struct json *lr = json_at(spec, "limited", "limitResponse");
        size_t at = v_in(v, "limited.limitResponse");
        v_enum_need(v, lr, "type", "Queue|Reject");
        v_out(v, at);
    }
}

static void api_service(struct val *v, const struct json *obj) {
    const struct json *spec = json_get(obj, "spec"), *group = json_get(spec, "group"),
                      *ver = json_get(spec, "version");
    AUTO_FREE char *want = str_fmt("%s.%s", json_str_or(ver, ""), json_str_or(group, ""));
    if (!str_eq(want, kube_name(obj))) {
        v_err_str(v, KUBE_INVALID, "metadata.name", kube_name(obj),
                  "must be `spec.version+\".\"+spec.group`: \"%s\"", want);
    }
    if (!json_span(group).n && !str_eq(json_str_or(ver, ""), "v1")) {
        v_required(v, "spec.group", "only v1 may have an empty group and it better be legacy kube");
    }
    v_name(v, "spec.version", ver ? ver : NULL, NAME_1035);
    int64_t gp = json_i64(json_get(spec, "groupPriorityMinimum"), 0),
            vp = json_i64(json_get(spec, "versionPriority"), 0);
    if (gp <= 0 || gp > 20000) {
        v_err(v, KUBE_INVALID, "spec.groupPriorityMinimum", json_get(spec, "groupPriorityMinimum"),
              "must be positive and less than 20000");
    }
    if (vp <= 0 || vp > 1000) {
        v_err(v, KUBE_INVALID, "spec.versionPriority", json_get(spec, "versionPriority"),
              "must be positive and less than 1000");
    }
}

static void priority_class(struct val *v, const struct json *obj, const struct json *old) {
    const char *name = kube_name(obj);
    int64_t value = json_i64(json_get(obj, "value"), 0);
    if (strncmp(name, "system-", 7) == 0) {
        if (!v_in_list(name, "system-node-critical|system-cluster-critical")) {
            v_err(v, KUBE_FORBIDDEN, "metadata.name", NULL,
                  "priority class names with 'system-' prefix are reserved for system use only. "
                  "error: %s is not a known "
                  "system priority class",
                  name);
        }
    } else if (value > 1000000000) {
        v_err(v, KUBE_FORBIDDEN, "value", NULL,
              "maximum allowed value of a user defined priority is 1000000000");
    }
    v_enum(v, obj, "preemptionPolicy", "Never|PreemptLowerPriority");
    if (old && json_i64(json_get(old, "value"), 0) != value) {
        v_err(v, KUBE_FORBIDDEN, "value", NULL, "may not be changed in an update.");
    }
}

static void storage_class(struct val *v, const struct json *obj, const struct json *old) {
    static const char *const fixed[] = {"provisioner", "reclaimPolicy", "volumeBindingMode"};
    if (v_need_str(v, obj, "provisioner")) {
        v_qualified(v, "provisioner", json_get(obj, "provisioner"));
    }
    v_enum(v, obj, "reclaimPolicy", "Delete|Retain");
    v_enum(v, obj, "volumeBindingMode", "Immediate|WaitForFirstConsumer");
    for (size_t i = 0; old && i < ARRAY_LEN(fixed); i++) {
        const struct json *a = json_get(obj, fixed[i]), *b = json_get(old, fixed[i]);
        if (a && b && !json_eq(a, b)) {
            v_err(v, KUBE_FORBIDDEN, fixed[i], NULL, "updates to %s are forbidden.", fixed[i]);
        }
    }
}

static void volume_attachment(struct val *v, const struct json *spec) {
    const struct json *src = json_get(spec, "source");
    v_need_str(v, spec, "attacher");
    if (!json_get(src, "persistentVolumeName") == !json_get(src, "inlineVolumeSpec")) {
        v_required(v, "source",
                   "must specify exactly one of inlineVolumeSpec and persistentVolumeName");
    }
    v_name(v, "nodeName", json_get(spec, "nodeName"), NAME_SUBDOMAIN);
}

static void service_cidr(struct val *v, const struct json *spec, const struct json *old) {
    size_t i = 0;
    if (!json_len(json_get(spec, "cidrs"))) {
        v_required(v, "cidrs", "at least one CIDR required");
    }
    JSON_EACH(it, c, json_get(spec, "cidrs")) {
        AUTO_FREE char *p = str_fmt("cidrs[%zu]", i++);
        v_cidr(v, p, c);
    }
    if (old) {
        v_immutable(v, "cidrs", json_get(spec, "cidrs"), json_get(old, "cidrs"));
    }
}

static void crd(struct val *v, const struct json *obj, const struct json *old) {
    const struct json *spec = json_get(obj, "spec"), *n = json_get(spec, "names");
    AUTO_FREE char *want = str_fmt("%s.%s", json_str_or(json_get(n, "plural"), ""),
                                   json_str_or(json_get(spec, "group"), ""));
    size_t stored = 0;
    if (!str_eq(kube_name(obj), want)) {
        v_err_str(v, KUBE_INVALID, "metadata.name", kube_name(obj),
                  "must be spec.names.plural+\".\"+spec.group");
    }
    size_t at = v_in(v, "spec");
    v_need_str(v, spec, "group");
    if (v_need_str(v, spec, "scope")) {
        v_enum(v, spec, "scope", "Cluster|Namespaced");
    }
    JSON_EACH(it, x, json_get(spec, "versions")) {
        stored += json_bool(json_get(x, "storage"), false) ? 1 : 0;
    }
    if (stored != 1) {
        v_err(v, KUBE_INVALID, "versions", json_get(spec, "versions"),
              "must have exactly one version marked as storage version");
    }
    size_t at2 = v_in(v, "names");
    v_need_str(v, n, "plural");
    v_need_str(v, n, "singular");
    v_need_str(v, n, "kind");
    v_need_str(v, n, "listKind");
    v_out(v, at2);
    if (old) {
        v_immutable(v, "scope", json_get(spec, "scope"), json_at(old, "spec", "scope"));
        v_immutable(v, "names.kind", json_get(n, "kind"), json_at(old, "spec", "names", "kind"));
    }
    v_out(v, at);
}

bool v_policy(struct val *v, const struct json *obj, const struct json *old) {
    unsigned hook = v->r->type ? v->r->type->hook : KH_NONE;
    const struct json *spec = json_get(obj, "spec"), *os = old ? json_get(old, "spec") : NULL;
    switch (hook) {
    case KH_ROLE: rules(v, obj, true); return true;
    case KH_CLUSTER_ROLE: rules(v, obj, false); return true;
    case KH_ROLE_BINDING: binding(v, obj, old, false); return true;
    case KH_CLUSTER_ROLE_BINDING: binding(v, obj, old, true); return true;
    case KH_ENDPOINT_SLICE: endpoint_slice(v, obj, old); return true;
    case KH_VALIDATING_WEBHOOKS:
    case KH_MUTATING_WEBHOOKS: webhooks(v, obj); return true;
    case KH_API_SERVICE: api_service(v, obj); return true;
    case KH_PRIORITY_CLASS: priority_class(v, obj, old); return true;
    case KH_STORAGE_CLASS: storage_class(v, obj, old); return true;
    case KH_RUNTIME_CLASS: v_need_str(v, obj, "handler"); return true;
    case KH_CRD: crd(v, obj, old); return true;
    default: break;
    }
    size_t at = v_in(v, "spec");
    bool mine = true;
    switch (hook) {
    case KH_INGRESS: ingress(v, spec); break;
    case KH_INGRESS_CLASS: v_need_str(v, spec, "controller"); break;
    case KH_NETWORK_POLICY: network_policy(v, spec); break;
    case KH_SERVICE_CIDR: service_cidr(v, spec, os); break;
    case KH_LEASE: lease(v, spec); break;
    case KH_CSR: csr(v, spec); break;
    case KH_VAP: vap(v, spec); break;
    case KH_VAP_BINDING: vap_binding(v, spec); break;
    case KH_FLOW_SCHEMA:
        if (!json_span(json_at(spec, "priorityLevelConfiguration", "name")).n) {
            v_required(v, "priorityLevelConfiguration.name", "must reference a priority level");
        }
        break;
    case KH_PRIORITY_LEVEL: priority_level(v, spec); break;
    case KH_VOLUME_ATTACHMENT: volume_attachment(v, spec); break;
    default: mine = false;
    }
    v_out(v, at);
    return mine;
}
