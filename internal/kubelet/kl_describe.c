/* What the runtime is told about a sandbox and a container: names, network, DNS, mounts, commands, resources. */
#include "internal/kubelet/kl_int.h"

#include "internal/base/rand.h"
#include "internal/kube/kube.h"
#include "internal/sys/sys.h"

#include <stdlib.h>
#include <sys/stat.h>

enum { LIM_DNS = 8, LIM_PORTS = 64, LIM_SYSCTLS = 64, HOSTNAME_MAX_LEN = 63 };

static const char **list_new(struct arena *a, size_t n) {
    return arena_alloc(a, (n + 1) * sizeof(const char *));
}

/* ---- DNS ---- */

struct dns {
    const char **servers, **searches, **options;
    size_t n_servers, n_searches, n_options;
};

static void append(const char **v, size_t *n, size_t cap, const char *s) {
    for (size_t i = 0; i < *n; i++) {
        if (str_eq(v[i], s)) {
            return;
        }
    }
    if (s && *s && *n < cap) {
        v[(*n)++] = s;
    }
}

static void host_dns(const struct kubelet *k, struct arena *a, struct dns *d) {
    AUTO(buf) struct buf b = BUF_INIT(65536);
    struct err e = ERR_INIT;
    if (sys_file_read(AT_FDCWD, k->o.resolv_conf, &b, &e) < 0) {
        return; /* a node without a resolver has pods without one */
    }
    struct span s = buf_view(&b);
    for (struct span line, word; span_line(&s, &line) == 0;) {
        span_next(&line, ' ', &word);
        bool is_server = span_eq_str(word, "nameserver"), is_search = span_eq_str(word, "search");
        while ((is_server || is_search) && span_next(&line, ' ', &word)) {
            if (word.n > 0) {
                append(is_server ? d->servers : d->searches,
                       is_server ? &d->n_servers : &d->n_searches, LIM_DNS, arena_str(a, word));
            }
        }
    }
}

static void pod_dns(const struct kl_pod *p, struct arena *a, struct dns *d) {
    const struct kubelet *k = p->k;
    const struct json *spec = json_get(p->obj, "spec"), *own = json_get(spec, "dnsConfig");
    const char *policy = json_str_or(json_get(spec, "dnsPolicy"), "ClusterFirst"),
               *domain = k->o.cluster_domain;
    bool on_host = json_bool_at(spec, false, "hostNetwork"),
         has_dns = k->o.cluster_dns && *k->o.cluster_dns;
    bool cluster = has_dns && (str_eq(policy, "ClusterFirstWithHostNet") ||
                               (str_eq(policy, "ClusterFirst") && !on_host));
    if (cluster) {
        append(d->servers, &d->n_servers, LIM_DNS, k->o.cluster_dns);
        if (domain && *domain) {
            append(d->searches, &d->n_searches, LIM_DNS, arena_fmt(a, "%s.svc.%s", p->ns, domain));
            append(d->searches, &d->n_searches, LIM_DNS, arena_fmt(a, "svc.%s", domain));
            append(d->searches, &d->n_searches, LIM_DNS, domain);
        }
        append(d->options, &d->n_options, LIM_DNS, "ndots:5");
    } else if (!str_eq(policy, "None")) {
        host_dns(k, a, d);
    }
    JSON_EACH(it, s, json_get(own, "nameservers")) {
        append(d->servers, &d->n_servers, LIM_DNS, json_str(s));
    }
    JSON_EACH(it2, s, json_get(own, "searches")) {
        append(d->searches, &d->n_searches, LIM_DNS, json_str(s));
    }
    JSON_EACH(it3, o, json_get(own, "options")) {
        const char *name = json_str_or(json_get(o, "name"), ""), *value = json_str_at(o, "value");
        append(d->options, &d->n_options, LIM_DNS,
               value ? arena_fmt(a, "%s:%s", name, value) : name);
    }
}

/* ---- sandbox ---- */

static int ports(const struct kl_pod *p, struct arena *a, struct kubelet_sandbox *s) {
    struct kubelet_port *v = arena_alloc(a, LIM_PORTS * sizeof(*v));
    if (!v) {
        return -ERR_LIMIT;
    }
    JSON_EACH(it, c, json_at(p->obj, "spec", "containers")) {
        JSON_EACH(list, x, json_get(c, "ports")) {
            int64_t host = json_i64_at(x, 0, "hostPort");
            if (host > 0 && host < 65536 && s->n_ports < LIM_PORTS && !s->host_network) {
                v[s->n_ports++] =
                    (struct kubelet_port){json_str_or(json_get(x, "protocol"), "TCP"),
                                          (uint16_t)json_i64_at(x, 0, "containerPort"),
                                          (uint16_t)host, json_str_or(json_get(x, "hostIP"), "")};
            }
        }
    }
    s->ports = v;
    return 0;
}

int kl_sandbox_describe(struct kl_pod *p, struct arena *a, struct kubelet_sandbox *ret,
                        struct err *e) {
    const struct json *spec = json_get(p->obj, "spec");
    struct dns d = {list_new(a, LIM_DNS), list_new(a, LIM_DNS), list_new(a, LIM_DNS), 0, 0, 0};
    struct kubelet_kv *sysctls = arena_alloc(a, LIM_SYSCTLS * sizeof(*sysctls));
    *ret = (struct kubelet_sandbox){.ns = p->ns,
                                    .name = p->name,
                                    .uid = p->uid,
                                    .attempt = p->sandbox_attempt,
                                    .log_dir = p->log_dir,
                                    .pod = p->obj,
                                    .host_network = json_bool_at(spec, false, "hostNetwork"),
                                    .host_pid = json_bool_at(spec, false, "hostPID"),
                                    .host_ipc = json_bool_at(spec, false, "hostIPC"),
                                    .cgroup_parent = ""};
    if (!d.servers || !d.searches || !d.options || !sysctls || ports(p, a, ret) < 0) {
        return err_set(e, ERR_LIMIT, "pod description too large");
    }
    const char *host = json_str_or(json_get(spec, "hostname"), p->name);
    size_t n = strlen(host) < HOSTNAME_MAX_LEN ? strlen(host) : HOSTNAME_MAX_LEN;
    while (n > 0 && (host[n - 1] == '-' || host[n - 1] == '.')) {
        n--;
    }
    ret->hostname = ret->host_network ? "" : arena_str(a, span_of(host, n));
    JSON_EACH(it, c, json_get(spec, "containers")) {
        ret->privileged =
            ret->privileged || json_bool_at(c, false, "securityContext", "privileged");
    }
    JSON_EACH(it2, s, json_at(spec, "securityContext", "sysctls")) {
        if (ret->n_sysctls < LIM_SYSCTLS) {
            sysctls[ret->n_sysctls++] = (struct kubelet_kv){json_str_or(json_get(s, "name"), ""),
                                                            json_str_or(json_get(s, "value"), "")};
        }
    }
    pod_dns(p, a, &d);
    ret->sysctls = sysctls;
    ret->dns_servers = d.servers;
    ret->dns_searches = d.searches;
    ret->dns_options = d.options;
    ret->n_dns_servers = d.n_servers;
    ret->n_dns_searches = d.n_searches;
    ret->n_dns_options = d.n_options;
    return ret->hostname ? 0 : err_set(e, ERR_LIMIT, "pod description too large");
}

/* ---- container ---- */

static const struct json *volume_named(const struct kl_pod *p, const char *name) {
    JSON_EACH(it, v, json_at(p->obj, "spec", "volumes")) {
        if (str_eq(json_str_at(v, "name"), name)) {
            return v;
        }
    }
    return NULL;
}

static bool is_read_only_kind(const struct json *v) {
    return json_get(v, "configMap") || json_get(v, "secret") || json_get(v, "projected") ||
           json_get(v, "downwardAPI");
}

static int one_mount(struct kl_ctr *c, struct arena *a, const struct json *m,
                     const struct kubelet_kv *env, size_t n_env, struct kubelet_mount *ret,
                     struct err *e) {
    const char *name = json_str_or(json_get(m, "name"), ""),
               *path = json_str_or(json_get(m, "mountPath"), "");
    const char *sub = json_str_at(m, "subPath"), *expr = json_str_at(m, "subPathExpr"), *host;
    const char *prop = json_str_or(json_get(m, "mountPropagation"), "None");
    const struct json *v = volume_named(c->pod, name);
    if (!v) {
        return err_set(e, ERR_NOT_FOUND, "volumeMount %s: no such volume", name);
    }
    if (kl_volume_path(c->pod, v, a, &host, e) < 0) {
        return -(int)e->code;
    }
    sub = expr && *expr ? kl_expand(a, expr, env, n_env) : sub;
    if (sub && *sub) {
        struct stat st;
        if (sub[0] == '/' || strstr(sub, "..")) {
            return err_set(e, ERR_INVALID, "subPath %s leads out of the volume", sub);
        }
        host = arena_fmt(a, "%s/%s", host, sub);
        if (host && stat(host, &st) < 0 && sys_mkdirs(host, 0777, e) < 0) {
            return -(int)e->code;
        }
    }
    *ret = (struct kubelet_mount){
        .host_path = host,
        .container_path = path[0] == '/' ? path : arena_fmt(a, "/%s", path),
        .read_only = json_bool_at(m, false, "readOnly") || is_read_only_kind(v),
        .recursive = str_eq(prop, "HostToContainer"),
        .propagate_to_host = str_eq(prop, "Bidirectional")};
    return host && ret->container_path
               ? 0
               : err_set(e, ERR_LIMIT, "volumeMount %s: path too long", name);
}

static int mounts(struct kl_ctr *c, struct arena *a, struct kubelet_container *r, struct err *e) {
    struct kubelet_mount *v = arena_alloc(a, LIM_KL_MOUNTS * sizeof(*v));
    struct kl_pod *p = c->pod;
    bool has_hosts = false;
    char hosts[640], ended[800];
    if (!v) {
        return err_set(e, ERR_LIMIT, "too many mounts");
    }
    JSON_EACH(it, m, json_get(r->spec, "volumeMounts")) {
        if (r->n_mounts + 2 >= LIM_KL_MOUNTS) {
            return err_set(e, ERR_LIMIT, "too many mounts");
        }
        if (one_mount(c, a, m, r->env, r->n_env, &v[r->n_mounts], e) < 0) {
            return -(int)e->code;
        }
        has_hosts = has_hosts || str_eq(v[r->n_mounts].container_path, "/etc/hosts");
        r->n_mounts++;
    }
    if (!has_hosts) {
        if (kl_hosts_file(p, hosts, sizeof(hosts), e) < 0) {
            return -(int)e->code;
        }
        v[r->n_mounts++] = (struct kubelet_mount){.host_path = arena_str(a, span_str(hosts)),
                                                  .container_path = "/etc/hosts"};
    }
    /* the termination message is a file of this instance */
    if (str_put(ended, sizeof(ended), "%s/containers", p->dir) < 0 ||
        sys_mkdirs(ended, 0755, e) < 0 ||
        str_put(ended, sizeof(ended), "%s/containers/%s-%u", p->dir, c->name, r->attempt) < 0) {
        return e->code ? -(int)e->code : err_set(e, ERR_LIMIT, "path too long");
    }
    AUTO_FD int fd = sys_open(AT_FDCWD, ended, O_WRONLY | O_CREAT, 0666, e);
    if (fd < 0) {
        return fd;
    }
    IGNORE_ERR(fchmod(fd, 0666), "the container's user may differ");
    v[r->n_mounts++] = (struct kubelet_mount){
        .host_path = arena_str(a, span_str(ended)),
        .container_path =
            json_str_or(json_get(r->spec, "terminationMessagePath"), "/dev/termination-log")};
    r->mounts = v;
    return 0;
}

static int words(struct arena *a, const struct json *list, const struct kubelet_kv *env,
                 size_t n_env, const char *const **ret, size_t *ret_n) {
    const char **v = list_new(a, json_len(list));
    size_t n = 0;
    if (!v) {
        return -ERR_LIMIT;
    }
    JSON_EACH(it, w, list) {
        v[n++] = kl_expand(a, json_str_or(w, ""), env, n_env);
    }
    *ret = v;
    *ret_n = n;
    return 0;
}

static int64_t amount(const struct json *res, const char *kind, const char *name, bool milli) {
    int64_t v = 0;
    struct span s = json_span(json_get(json_get(res, kind), name));
    if (s.n > 0 && (milli ? kube_quantity_milli(s, &v) : kube_quantity_value(s, &v)) < 0) {
        return 0;
    }
    return v;
}

static int oom_score(const struct kl_pod *p, const struct kubelet_container *c) {
    const char *qos = json_str_or(json_at(p->obj, "status", "qosClass"), "BestEffort");
    if (str_eq(qos, "Guaranteed")) {
        return -997;
    }
    if (str_eq(qos, "BestEffort")) {
        return 1000;
    }
    int64_t capacity = p->k->o.memory_bytes > 0 ? p->k->o.memory_bytes : 1;
    int64_t adj = 1000 - 1000 * (c->memory_request / 1024) / (capacity / 1024 + 1);
    return adj < 2 ? 2 : adj > 999 ? 999 : (int)adj;
}

int kl_container_describe(struct kl_ctr *c, struct arena *a, const char *image_ref,
                          struct kubelet_container *ret, struct err *e) {
    const struct json *spec = kl_ctr_spec(c), *res = json_get(spec, "resources");
    struct kubelet_kv *env;
    if (!spec) {
        return err_set(e, ERR_NOT_FOUND, "container %s is no longer in the pod", c->name);
    }
    *ret = (struct kubelet_container){.name = c->name,
                                      .attempt = c->id[0] ? c->restarts + 1 : c->restarts,
                                      .image = json_str_or(json_get(spec, "image"), ""),
                                      .image_ref = image_ref,
                                      .spec = spec,
                                      .working_dir = json_str_or(json_get(spec, "workingDir"), ""),
                                      .tty = json_bool_at(spec, false, "tty"),
                                      .is_stdin = json_bool_at(spec, false, "stdin"),
                                      .stdin_once = json_bool_at(spec, false, "stdinOnce")};
    if (kl_env(c, a, &env, &ret->n_env, e) < 0) {
        return -(int)e->code;
    }
    ret->env = env;
    if (words(a, json_get(spec, "command"), env, ret->n_env, &ret->command, &ret->n_command) < 0 ||
        words(a, json_get(spec, "args"), env, ret->n_env, &ret->args, &ret->n_args) < 0) {
        return err_set(e, ERR_LIMIT, "command too long");
    }
    ret->log_path = arena_fmt(a, "%s/%u.log", c->name, ret->attempt);
    ret->cpu_request_milli = amount(res, "requests", "cpu", true);
    ret->cpu_limit_milli = amount(res, "limits", "cpu", true);
    ret->memory_request = amount(res, "requests", "memory", false);
    ret->memory_limit = amount(res, "limits", "memory", false);
    ret->oom_score_adj = oom_score(c->pod, ret);
    if (json_bool_at(spec, false, "securityContext", "runAsNonRoot") &&
        json_i64_at(spec, -1, "securityContext", "runAsUser") == 0) {
        return err_set(e, ERR_FORBIDDEN, "container %s must not run as root", c->name);
    }
    return mounts(c, a, ret, e);
}
