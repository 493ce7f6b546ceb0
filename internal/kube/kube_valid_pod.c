#include "internal/kube/kube.h"

#include "internal/kube/kube_valid_int.h"

#include <stdlib.h>

/* Pods and their templates, in the order of upstream's ValidatePodSpec. */

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

void v_field_ref(struct val *v, const struct json *f, bool volume) {
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
                v_field_ref(v, json_get(x, "fieldRef"), true);
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

static void v_pod_spec(struct val *v, const struct json *spec, bool is_pod) {
    volumes(v, spec);
    if (!json_len(json_get(spec, "containers"))) {
        v_required(v, "containers", NULL);
    }
    v_containers(v, spec, "containers");
    v_containers(v, spec, "initContainers");
    v_containers(v, spec, "ephemeralContainers");
    v_enum_need(v, spec, "restartPolicy", "Always|OnFailure|Never");
    v_enum_need(v, spec, "dnsPolicy", "ClusterFirstWithHostNet|ClusterFirst|Default|None");
    v_labels(v, "nodeSelector", json_get(spec, "nodeSelector"));
    pod_security(v, json_get(spec, "securityContext"));
    if (json_get(spec, "affinity")) {
        v_affinity(v, json_get(spec, "affinity"));
    }
    gates(v, spec);
    v_spread(v, spec);
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
