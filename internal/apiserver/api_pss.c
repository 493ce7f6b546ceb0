#include "internal/apiserver/api_int.h"

/* Pod Security Standards: the levels that namespaces ask for with pod-security.kubernetes.io/enforce and /warn labels.
 * Spec: Kubernetes Pod Security Standards (baseline, restricted), always in their latest version. */

enum level { LEVEL_PRIVILEGED, LEVEL_BASELINE, LEVEL_RESTRICTED, LEVEL_BAD };

static const char label_prefix[] = "pod-security.kubernetes.io/";

static enum level level_of(const char *s) {
    if (s == NULL || strcmp(s, "privileged") == 0) {
        return LEVEL_PRIVILEGED;
    }
    return strcmp(s, "baseline") == 0     ? LEVEL_BASELINE
           : strcmp(s, "restricted") == 0 ? LEVEL_RESTRICTED
                                          : LEVEL_BAD;
}

bool api_pss_namespace(struct api_call *c, const struct json *ns) {
    static const char *const modes[] = {"enforce", "audit", "warn"};
    struct kube_errs errs = KUBE_ERRS_INIT;
    for (size_t i = 0; i < ARRAY_LEN(modes); i++) {
        const char *key = api_fmt(c, "%s%s", label_prefix, modes[i]);
        const char *v = kube_label(ns, key);
        if (level_of(v) == LEVEL_BAD) {
            kube_err_add_str(&errs, KUBE_INVALID, api_fmt(c, "metadata.labels[%s]", key), v,
                             "must be one of privileged, baseline, restricted");
        }
    }
    if (errs.n > 0) {
        api_fail_invalid(c, c->main, kube_name(ns), &errs);
        return false;
    }
    kube_errs_fini(&errs);
    return true;
}

/* ---- checks ---- */

struct check {
    struct api_call *c;
    const struct json *spec;
    struct buf out;
};

/* A predicate of one container that tells what is wrong about it: NULL when nothing is. */
typedef const char *container_fault(struct api_call *c, const struct json *spec,
                                    const struct json *ct);

static const struct json *sec(const struct json *o, const char *key) {
    return json_at(o, "securityContext", key);
}

static void report(struct check *k, const char *reason, const char *detail) {
    buf_fmt(&k->out, "%s%s (%s)", k->out.n > 0 ? ", " : "", reason, detail);
}

/* Containers with the same fault are named together, as upstream does. */
static void each_container(struct check *k, const char *reason, container_fault *fault,
                           bool pod_too) {
    static const char *const lists[] = {"initContainers", "containers", "ephemeralContainers"};
    AUTO(buf) struct buf names = BUF_INIT(64 << 10);
    const char *what = NULL;
    size_t n = 0;
    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        JSON_EACH(it, ct, json_get(k->spec, lists[i])) {
            const char *f = fault(k->c, k->spec, ct);
            if (f != NULL) {
                buf_fmt(&names, "%s\"%s\"", n > 0 ? ", " : "",
                        json_str_or(json_get(ct, "name"), ""));
                what = what == NULL ? f : what;
                n++;
            }
        }
    }
    if (n > 0) {
        report(k, reason,
               api_fmt(k->c, "%scontainer%s %s %s", pod_too ? "pod or " : "", n > 1 ? "s" : "",
                       buf_cstr(&names), what));
    }
}

static const char *f_escalation(struct api_call *c, const struct json *spec,
                                const struct json *ct) {
    (void)c;
    (void)spec;
    const struct json *v = sec(ct, "allowPrivilegeEscalation");
    return v != NULL && !json_bool(v, true)
               ? NULL
               : "must set securityContext.allowPrivilegeEscalation=false";
}

static bool listed(const char *s, const char *const *list) {
    for (; *list != NULL; list++) {
        if (strcmp(s, *list) == 0) {
            return true;
        }
    }
    return false;
}

static const char *bad_caps(struct api_call *c, const struct json *ct, const char *const *allowed) {
    AUTO(buf) struct buf b = BUF_INIT(8 << 10);
    JSON_EACH(it, v, json_get(sec(ct, "capabilities"), "add")) {
        const char *s = json_str_or(v, "");
        if (!listed(s, allowed)) {
            buf_fmt(&b, "%s\"%s\"", b.n > 0 ? ", " : "", s);
        }
    }
    return b.n > 0
               ? api_fmt(c, "must not include %s in securityContext.capabilities.add", buf_cstr(&b))
               : NULL;
}

static const char *f_caps_baseline(struct api_call *c, const struct json *spec,
                                   const struct json *ct) {
    static const char *const allowed[] = {
        "AUDIT_WRITE",      "CHOWN",   "DAC_OVERRIDE", "FOWNER",  "FSETID", "KILL",       "MKNOD",
        "NET_BIND_SERVICE", "SETFCAP", "SETGID",       "SETPCAP", "SETUID", "SYS_CHROOT", NULL};
    (void)spec;
    return bad_caps(c, ct, allowed);
}

static const char *f_caps_drop(struct api_call *c, const struct json *spec, const struct json *ct) {
    (void)c;
    (void)spec;
    JSON_EACH(it, v, json_get(sec(ct, "capabilities"), "drop")) {
        if (str_eq(json_str(v), "ALL")) {
            return NULL;
        }
    }
    return "must set securityContext.capabilities.drop=[\"ALL\"]";
}

static const char *f_caps_add(struct api_call *c, const struct json *spec, const struct json *ct) {
    static const char *const allowed[] = {"NET_BIND_SERVICE", NULL};
    (void)spec;
    return bad_caps(c, ct, allowed);
}

static const char *f_privileged(struct api_call *c, const struct json *spec,
                                const struct json *ct) {
    (void)c;
    (void)spec;
    return json_bool(sec(ct, "privileged"), false) ? "must not set securityContext.privileged=true"
                                                   : NULL;
}

static const char *f_host_port(struct api_call *c, const struct json *spec, const struct json *ct) {
    AUTO(buf) struct buf b = BUF_INIT(8 << 10);
    size_t n = 0;
    (void)spec;
    JSON_EACH(it, p, json_get(ct, "ports")) {
        int64_t port = json_i64_at(p, 0, "hostPort");
        if (port != 0) {
            buf_fmt(&b, "%s%lld", n++ > 0 ? ", " : "", (long long)port);
        }
    }
    return n > 0 ? api_fmt(c, "uses hostPort%s %s", n > 1 ? "s" : "", buf_cstr(&b)) : NULL;
}

static const char *f_proc_mount(struct api_call *c, const struct json *spec,
                                const struct json *ct) {
    const char *v = json_str(sec(ct, "procMount"));
    (void)spec;
    return v == NULL || strcmp(v, "Default") == 0
               ? NULL
               : api_fmt(c, "must not set securityContext.procMount to \"%s\"", v);
}

static const char *f_non_root(struct api_call *c, const struct json *spec, const struct json *ct) {
    (void)c;
    const struct json *v = sec(ct, "runAsNonRoot");
    return json_bool(v != NULL ? v : sec(spec, "runAsNonRoot"), false)
               ? NULL
               : "must set securityContext.runAsNonRoot=true";
}

static const char *f_user_zero(struct api_call *c, const struct json *spec, const struct json *ct) {
    (void)c;
    (void)spec;
    const struct json *v = sec(ct, "runAsUser");
    return v != NULL && json_i64(v, 1) == 0 ? "must not set runAsUser=0" : NULL;
}

static const char *f_seccomp_baseline(struct api_call *c, const struct json *spec,
                                      const struct json *ct) {
    (void)spec;
    const char *v = json_str(json_get(sec(ct, "seccompProfile"), "type"));
    return str_eq(v, "Unconfined")
               ? api_fmt(c, "must not set securityContext.seccompProfile.type to \"%s\"", v)
               : NULL;
}

static const char *f_seccomp_restricted(struct api_call *c, const struct json *spec,
                                        const struct json *ct) {
    (void)c;
    const char *v = json_str(json_get(sec(ct, "seccompProfile"), "type"));
    v = v != NULL ? v : json_str(json_get(sec(spec, "seccompProfile"), "type"));
    return str_eq(v, "RuntimeDefault") || str_eq(v, "Localhost")
               ? NULL
               : "must set securityContext.seccompProfile.type to \"RuntimeDefault\" or "
                 "\"Localhost\"";
}

static bool selinux_bad(const struct json *o) {
    static const char *const types[] = {
        "", "container_t", "container_init_t", "container_kvm_t", "container_engine_t", NULL};
    const struct json *s = sec(o, "seLinuxOptions");
    return !listed(json_str_or(json_get(s, "type"), ""), types) ||
           json_str_or(json_get(s, "user"), "")[0] != '\0' ||
           json_str_or(json_get(s, "role"), "")[0] != '\0';
}

static const char *f_selinux(struct api_call *c, const struct json *spec, const struct json *ct) {
    (void)c;
    (void)spec;
    return selinux_bad(ct) ? "set forbidden securityContext.seLinuxOptions" : NULL;
}

static const char *f_apparmor(struct api_call *c, const struct json *spec, const struct json *ct) {
    (void)spec;
    const char *v = json_str(json_get(sec(ct, "appArmorProfile"), "type"));
    return str_eq(v, "Unconfined") ? api_fmt(c, "must not set AppArmor profile type to \"%s\"", v)
                                   : NULL;
}

static const char *f_host_process(struct api_call *c, const struct json *spec,
                                  const struct json *ct) {
    (void)c;
    (void)spec;
    return json_bool(json_get(sec(ct, "windowsOptions"), "hostProcess"), false)
               ? "must not set securityContext.windowsOptions.hostProcess=true"
               : NULL;
}

static void host_namespaces(struct check *k) {
    static const char *const keys[] = {"hostNetwork", "hostPID", "hostIPC"};
    AUTO(buf) struct buf b = BUF_INIT(256);
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        if (json_bool(json_get(k->spec, keys[i]), false)) {
            buf_fmt(&b, "%s%s=true", b.n > 0 ? ", " : "", keys[i]);
        }
    }
    if (b.n > 0) {
        report(k, "host namespaces", buf_cstr(&b));
    }
}

static void volumes(struct check *k, bool restricted) {
    static const char *const allowed[] = {
        "configMap", "csi",    "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim",
        "projected", "secret", "name",        NULL};
    AUTO(buf) struct buf host = BUF_INIT(16 << 10);
    AUTO(buf) struct buf other = BUF_INIT(16 << 10);
    size_t n = 0;
    JSON_EACH(it, v, json_get(k->spec, "volumes")) {
        const char *name = json_str_or(json_get(v, "name"), "");
        if (json_get(v, "hostPath") != NULL) {
            buf_fmt(&host, "%s\"%s\"", n++ > 0 ? ", " : "", name);
        }
        JSON_EACH_KV(it2, type, x, v) {
            (void)x;
            if (!listed(type, allowed)) {
                buf_fmt(&other, "%svolume \"%s\" uses restricted volume type \"%s\"",
                        other.n > 0 ? ", " : "", name, type);
            }
        }
    }
    if (host.n > 0) {
        report(k, "hostPath volumes",
               api_fmt(k->c, "volume%s %s", n > 1 ? "s" : "", buf_cstr(&host)));
    }
    if (restricted && other.n > 0) {
        report(k, "restricted volume types", buf_cstr(&other));
    }
}

static void sysctls(struct check *k) {
    static const char *const allowed[] = {"kernel.shm_rmid_forced",
                                          "net.ipv4.ip_local_port_range",
                                          "net.ipv4.ip_unprivileged_port_start",
                                          "net.ipv4.tcp_syncookies",
                                          "net.ipv4.ping_group_range",
                                          "net.ipv4.ip_local_reserved_ports",
                                          "net.ipv4.tcp_keepalive_time",
                                          "net.ipv4.tcp_fin_timeout",
                                          "net.ipv4.tcp_keepalive_intvl",
                                          "net.ipv4.tcp_keepalive_probes",
                                          "net.ipv4.tcp_rmem",
                                          "net.ipv4.tcp_wmem",
                                          NULL};
    AUTO(buf) struct buf b = BUF_INIT(8 << 10);
    JSON_EACH(it, v, sec(k->spec, "sysctls")) {
        const char *name = json_str_or(json_get(v, "name"), "");
        if (!listed(name, allowed)) {
            buf_fmt(&b, "%s%s", b.n > 0 ? ", " : "", name);
        }
    }
    if (b.n > 0) {
        report(k, "forbidden sysctls", buf_cstr(&b));
    }
}

/* In upstream's order, by the names of the checks. Text of all violations, "" when there is none. */
static const char *violations(struct api_call *c, const struct json *spec, enum level level) {
    struct check k = {.c = c, .spec = spec, .out = BUF_INIT(256 << 10)};
    bool restricted = level == LEVEL_RESTRICTED;
    if (restricted) {
        each_container(&k, "allowPrivilegeEscalation != false", f_escalation, false);
    }
    each_container(&k, "forbidden AppArmor profile", f_apparmor, false);
    if (restricted) {
        each_container(&k, "unrestricted capabilities", f_caps_drop, false);
        each_container(&k, "unrestricted capabilities", f_caps_add, false);
    } else {
        each_container(&k, "non-default capabilities", f_caps_baseline, false);
    }
    host_namespaces(&k);
    volumes(&k, restricted);
    each_container(&k, "hostPort", f_host_port, false);
    each_container(&k, "privileged", f_privileged, false);
    each_container(&k, "procMount", f_proc_mount, false);
    if (restricted) {
        each_container(&k, "runAsNonRoot != true", f_non_root, true);
        if (json_is_int(sec(spec, "runAsUser")) && json_i64(sec(spec, "runAsUser"), 1) == 0) {
            report(&k, "runAsUser=0", "pod must not set runAsUser=0");
        }
        each_container(&k, "runAsUser=0", f_user_zero, false);
    }
    if (selinux_bad(spec)) {
        report(&k, "seLinuxOptions", "pod set forbidden securityContext.seLinuxOptions");
    }
    each_container(&k, "seLinuxOptions", f_selinux, false);
    if (restricted) {
        each_container(&k, "seccompProfile", f_seccomp_restricted, true);
    } else {
        if (str_eq(json_str(json_get(sec(spec, "seccompProfile"), "type")), "Unconfined")) {
            report(&k, "seccompProfile",
                   "pod must not set securityContext.seccompProfile.type to \"Unconfined\"");
        }
        each_container(&k, "seccompProfile", f_seccomp_baseline, false);
    }
    sysctls(&k);
    each_container(&k, "hostProcess", f_host_process, false);
    const char *text = api_fmt(c, "%s", buf_cstr(&k.out));
    buf_fini(&k.out);
    return text;
}

/* ---- entry ---- */

/* The pod spec inside an object that makes pods; NULL for others. */
static const struct json *pod_spec(const struct api_call *c, const struct json *obj) {
    static const char *const makers[] = {
        "replicationcontrollers", "podtemplates", "deployments", "replicasets", "daemonsets",
        "statefulsets",           "jobs",         NULL};
    const char *name = c->main->name;
    if (strcmp(name, "pods") == 0) {
        return json_get(obj, "spec");
    }
    if (strcmp(name, "podtemplates") == 0) {
        return json_at(obj, "template", "spec");
    }
    if (strcmp(name, "cronjobs") == 0) {
        return json_at(obj, "spec", "jobTemplate", "spec", "template", "spec");
    }
    return listed(name, makers) ? json_at(obj, "spec", "template", "spec") : NULL;
}

bool api_pss_admit(struct api_call *c, const struct json *obj, const struct json *old) {
    const struct json *spec = pod_spec(c, obj);
    if (spec == NULL || !c->main->namespaced ||
        (c->kr->sub[0] != '\0' && strcmp(c->kr->sub, "ephemeralcontainers") != 0) ||
        (old != NULL && json_eq(spec, pod_spec(c, old)))) {
        return true;
    }
    struct api_obj *ns = api_cache_find(api_res_find(c->a, "", "namespaces"), "", c->t.ns);
    AUTO(json_docp) struct json_doc *d = NULL;
    struct span json = ns != NULL ? api_obj_json(ns) : SPAN_EMPTY;
    /* Most namespaces carry no such label: a look at the bytes spares parsing. */
    if (ns == NULL || memmem(json.p, json.n, label_prefix, sizeof label_prefix - 1) == NULL ||
        api_obj_parse(ns, &d) < 0) {
        return true;
    }
    const char *enforce = kube_label(json_root(d), "pod-security.kubernetes.io/enforce");
    const char *warn = kube_label(json_root(d), "pod-security.kubernetes.io/warn");
    bool is_pod = strcmp(c->main->name, "pods") == 0;
    if (is_pod && level_of(enforce) != LEVEL_PRIVILEGED) {
        const char *text = violations(
            c, spec, level_of(enforce) == LEVEL_BASELINE ? LEVEL_BASELINE : LEVEL_RESTRICTED);
        if (text[0] != '\0') {
            api_fail_forbidden(c, "violates PodSecurity \"%s:latest\": %s", enforce, text);
            return false;
        }
    }
    if (level_of(warn) != LEVEL_PRIVILEGED) {
        const char *text = violations(
            c, spec, level_of(warn) == LEVEL_BASELINE ? LEVEL_BASELINE : LEVEL_RESTRICTED);
        if (text[0] != '\0') {
            api_warn(c, api_fmt(c, "would violate PodSecurity \"%s:latest\": %s", warn, text));
        }
    }
    return true;
}
