#include "internal/kubelet/cri_int.h"

enum { NS_POD = 0, NS_CONTAINER = 1, NS_NODE = 2 };

static void strings(struct json_doc *d, struct json *o, const char *key, const char *const *v,
                    size_t n) {
    if (n > 0) {
        struct json *list = json_set_arr(d, o, key);
        for (size_t i = 0; i < n; i++) {
            json_push_str(d, list, v[i]);
        }
    }
}

static void labels(struct json_doc *d, struct json *o, const struct kubelet_sandbox *s,
                   const char *container) {
    struct json *l = json_set_obj(d, o, "labels");
    json_set_str(d, l, "io.kubernetes.pod.name", s->name);
    json_set_str(d, l, "io.kubernetes.pod.namespace", s->ns);
    json_set_str(d, l, "io.kubernetes.pod.uid", s->uid);
    if (container) {
        json_set_str(d, l, "io.kubernetes.container.name", container);
    }
}

static struct json *namespaces(struct json_doc *d, const struct kubelet_sandbox *s,
                               bool of_container) {
    struct json *n = json_new_obj(d);
    bool shared = json_bool_at(s->pod, false, "spec", "shareProcessNamespace");
    json_set_i64(d, n, "network", s->host_network ? NS_NODE : NS_POD);
    json_set_i64(d, n, "ipc", s->host_ipc ? NS_NODE : NS_POD);
    json_set_i64(d, n, "pid",
                 s->host_pid    ? NS_NODE
                 : shared       ? NS_POD
                 : of_container ? NS_CONTAINER
                                : NS_CONTAINER);
    return n;
}

static void int_value(struct json_doc *d, struct json *o, const char *key, const struct json *v) {
    if (json_is_int(v)) {
        json_set_i64(d, json_set_obj(d, o, key), "value", json_i64(v, 0));
    }
}

static void groups(struct json_doc *d, struct json *sc, const struct json *pod_sc) {
    const struct json *list = json_get(pod_sc, "supplementalGroups"),
                      *fs = json_get(pod_sc, "fsGroup");
    if (json_len(list) > 0 || json_is_int(fs)) {
        struct json *g = json_set_arr(d, sc, "supplemental_groups");
        JSON_EACH(it, v, list) {
            json_push(g, json_new_i64(d, json_i64(v, 0)));
        }
        if (json_is_int(fs)) {
            json_push(g, json_new_i64(d, json_i64(fs, 0)));
        }
    }
}

/* RuntimeDefault 0, Unconfined 1, Localhost 2. Upstream's kubelet gives Unconfined when nothing is said. */
static void seccomp(struct json_doc *d, struct json *sc, const struct json *profile) {
    struct json *p = json_set_obj(d, sc, "seccomp");
    const char *type = json_str_or(json_get(profile, "type"), "Unconfined");
    if (str_eq(type, "Localhost")) {
        json_set_i64(d, p, "profile_type", 2);
        json_set(d, p, "localhost_ref",
                 json_new_fmt(d, "/var/lib/kubelet/seccomp/%s",
                              json_str_or(json_get(profile, "localhostProfile"), "")));
    } else {
        json_set_i64(d, p, "profile_type", str_eq(type, "RuntimeDefault") ? 0 : 1);
    }
}

struct json *cri_sandbox_config(struct json_doc *d, const struct kubelet_sandbox *s) {
    struct json *o = json_new_obj(d), *m = json_set_obj(d, o, "metadata"), *dns, *linux_, *sc;
    const struct json *pod_sc = json_at(s->pod, "spec", "securityContext");
    json_set_str(d, m, "name", s->name);
    json_set_str(d, m, "uid", s->uid);
    json_set_str(d, m, "namespace", s->ns);
    json_set_i64(d, m, "attempt", s->attempt);
    json_set_str(d, o, "hostname", s->hostname);
    json_set_str(d, o, "log_directory", s->log_dir);
    dns = json_set_obj(d, o, "dns_config");
    strings(d, dns, "servers", s->dns_servers, s->n_dns_servers);
    strings(d, dns, "searches", s->dns_searches, s->n_dns_searches);
    strings(d, dns, "options", s->dns_options, s->n_dns_options);
    struct json *ports = json_set_arr(d, o, "port_mappings");
    for (size_t i = 0; i < s->n_ports; i++) {
        const struct kubelet_port *p = &s->ports[i];
        struct json *x = json_new_obj(d);
        json_set_i64(d, x, "protocol",
                     str_eq(p->protocol, "UDP")    ? 1
                     : str_eq(p->protocol, "SCTP") ? 2
                                                   : 0);
        json_set_i64(d, x, "container_port", p->container_port);
        json_set_i64(d, x, "host_port", p->host_port);
        json_set_str(d, x, "host_ip", p->host_ip);
        json_push(ports, x);
    }
    labels(d, o, s, NULL);
    linux_ = json_set_obj(d, o, "linux");
    json_set_str(d, linux_, "cgroup_parent", s->cgroup_parent);
    sc = json_set_obj(d, linux_, "security_context");
    json_set(d, sc, "namespace_options", namespaces(d, s, false));
    json_set_bool(d, sc, "privileged", s->privileged);
    int_value(d, sc, "run_as_user", json_get(pod_sc, "runAsUser"));
    int_value(d, sc, "run_as_group", json_get(pod_sc, "runAsGroup"));
    groups(d, sc, pod_sc);
    seccomp(d, sc, NULL);
    if (s->n_sysctls > 0) {
        struct json *list = json_set_obj(d, linux_, "sysctls");
        for (size_t i = 0; i < s->n_sysctls; i++) {
            json_set_str(d, list, s->sysctls[i].name, s->sysctls[i].value);
        }
    }
    return o;
}

static void capabilities(struct json_doc *d, struct json *sc, const struct json *caps) {
    static const char *const from[] = {"add", "drop"}, *const to[] = {"add_capabilities",
                                                                      "drop_capabilities"};
    if (!caps) {
        return;
    }
    struct json *o = json_set_obj(d, sc, "capabilities");
    for (size_t i = 0; i < 2; i++) {
        struct json *list = json_set_arr(d, o, to[i]);
        JSON_EACH(it, v, json_get(caps, from[i])) {
            json_push_str(d, list, json_str_or(v, ""));
        }
    }
}

static const struct json *own_or(const struct json *own, const struct json *pod, const char *key) {
    const struct json *v = json_get(own, key);
    return v ? v : json_get(pod, key);
}

static void masked(struct json_doc *d, struct json *sc, const struct json *own) {
    static const char *const hidden[] = {
        "/proc/asound",        "/proc/acpi",       "/proc/kcore",       "/proc/keys",
        "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug",
        "/proc/scsi",          "/sys/firmware"};
    static const char *const fixed[] = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys",
                                        "/proc/sysrq-trigger"};
    if (!str_eq(json_str_or(json_get(own, "procMount"), "Default"), "Unmasked")) {
        strings(d, sc, "masked_paths", hidden, ARRAY_LEN(hidden));
        strings(d, sc, "readonly_paths", fixed, ARRAY_LEN(fixed));
    }
}

static void security(struct json_doc *d, struct json *linux_, const struct kubelet_sandbox *s,
                     const struct json *own) {
    const struct json *pod = json_at(s->pod, "spec", "securityContext");
    struct json *sc = json_set_obj(d, linux_, "security_context");
    bool privileged = json_bool_at(own, false, "privileged");
    capabilities(d, sc, json_get(own, "capabilities"));
    json_set_bool(d, sc, "privileged", privileged);
    json_set(d, sc, "namespace_options", namespaces(d, s, true));
    int_value(d, sc, "run_as_user", own_or(own, pod, "runAsUser"));
    int_value(d, sc, "run_as_group", own_or(own, pod, "runAsGroup"));
    json_set_bool(d, sc, "readonly_rootfs", json_bool_at(own, false, "readOnlyRootFilesystem"));
    json_set_bool(d, sc, "no_new_privs", !json_bool_at(own, true, "allowPrivilegeEscalation"));
    groups(d, sc, pod);
    seccomp(d, sc, own_or(own, pod, "seccompProfile"));
    if (!privileged) {
        masked(d, sc, own);
    }
}

static int64_t max64(int64_t a, int64_t b) {
    return a > b ? a : b;
}

/* Kubernetes' rule: shares from the request (or the limit), 100 ms periods for the limit. */
static void resources(struct json_doc *d, struct json *linux_, const struct kubelet_container *c) {
    struct json *r = json_set_obj(d, linux_, "resources");
    int64_t request = c->cpu_request_milli ? c->cpu_request_milli : c->cpu_limit_milli;
    json_set_i64(d, r, "cpu_shares", max64(2, request * 1024 / 1000));
    if (c->cpu_limit_milli > 0) {
        json_set_i64(d, r, "cpu_period", 100000);
        json_set_i64(d, r, "cpu_quota", max64(1000, c->cpu_limit_milli * 100));
    }
    json_set_i64(d, r, "memory_limit_in_bytes", c->memory_limit);
    json_set_i64(d, r, "oom_score_adj", c->oom_score_adj);
}

struct json *cri_container_config(struct json_doc *d, const struct kubelet_sandbox *s,
                                  const struct kubelet_container *c) {
    struct json *o = json_new_obj(d), *m = json_set_obj(d, o, "metadata"), *linux_;
    json_set_str(d, m, "name", c->name);
    json_set_i64(d, m, "attempt", c->attempt);
    json_set_str(d, json_set_obj(d, o, "image"), "image", c->image_ref);
    strings(d, o, "command", c->command, c->n_command);
    strings(d, o, "args", c->args, c->n_args);
    json_set_str(d, o, "working_dir", c->working_dir);
    struct json *env = json_set_arr(d, o, "envs");
    for (size_t i = 0; i < c->n_env; i++) {
        struct json *kv = json_new_obj(d);
        json_set_str(d, kv, "key", c->env[i].name);
        json_set_str(d, kv, "value", c->env[i].value);
        json_push(env, kv);
    }
    struct json *mounts = json_set_arr(d, o, "mounts");
    for (size_t i = 0; i < c->n_mounts; i++) {
        const struct kubelet_mount *from = &c->mounts[i];
        struct json *x = json_new_obj(d);
        json_set_str(d, x, "container_path", from->container_path);
        json_set_str(d, x, "host_path", from->host_path);
        json_set_bool(d, x, "readonly", from->read_only);
        json_set_i64(d, x, "propagation", from->propagate_to_host ? 2 : from->recursive ? 1 : 0);
        json_push(mounts, x);
    }
    labels(d, o, s, c->name);
    struct json *notes = json_set_obj(d, o, "annotations");
    json_set(d, notes, "io.kubernetes.container.restartCount", json_new_fmt(d, "%u", c->attempt));
    json_set_str(d, o, "log_path", c->log_path);
    json_set_bool(d, o, "stdin", c->is_stdin);
    json_set_bool(d, o, "stdin_once", c->stdin_once);
    json_set_bool(d, o, "tty", c->tty);
    linux_ = json_set_obj(d, o, "linux");
    resources(d, linux_, c);
    security(d, linux_, s, json_get(c->spec, "securityContext"));
    return o;
}
