#include "internal/kubelet/kl_int.h"

#include "internal/base/rand.h"
#include "internal/kube/kube.h"

struct env {
    struct kubelet_kv *v;
    size_t n;
    struct arena *a;
};

static int put(struct env *env, const char *name, const char *value) {
    for (size_t i = 0; i < env->n; i++) { /* the last wins, at the place of the first */
        if (str_eq(env->v[i].name, name)) {
            env->v[i].value = value;
            return 0;
        }
    }
    if (env->n == LIM_KL_ENV) {
        return -ERR_LIMIT;
    }
    env->v[env->n].name = arena_str(env->a, span_str(name));
    env->v[env->n].value = value;
    return env->v[env->n++].name && value ? 0 : -ERR_LIMIT;
}

const char *kl_expand(struct arena *a, const char *s, const struct kubelet_kv *env, size_t n) {
    AUTO(buf) struct buf b = BUF_INIT(1 << 20);
    for (const char *p = s; *p; p++) {
        const char *end = p[0] == '$' && p[1] == '(' ? strchr(p + 2, ')') : NULL;
        if (p[0] == '$' && p[1] == '$') {
            buf_u8(&b, '$');
            p++;
        } else if (end) {
            size_t len = (size_t)(end - p - 2);
            const char *value = NULL;
            for (size_t i = 0; i < n; i++) {
                if (strlen(env[i].name) == len && strncmp(env[i].name, p + 2, len) == 0) {
                    value = env[i].value;
                }
            }
            if (value) {
                buf_str(&b, value);
            } else {
                buf_add(&b, p, len + 3);
            }
            p = end;
        } else {
            buf_u8(&b, (uint8_t)*p);
        }
    }
    return arena_str(a, buf_view(&b));
}

/* key='value' lines with the value quoted as Go does, for metadata.labels and annotations as a whole */
static const char *map_text(struct arena *a, const struct json *map) {
    AUTO(buf) struct buf b = BUF_INIT(1 << 20);
    JSON_EACH_KV(it, k, v, map) {
        buf_fmt(&b, "%s%s=", b.n ? "\n" : "", k);
        json_write_str(&b, json_span(v));
    }
    return arena_str(a, buf_view(&b));
}

const char *kl_field(const struct kl_pod *p, struct arena *a, const char *path) {
    const struct json *meta = json_get(p->obj, "metadata"), *spec = json_get(p->obj, "spec");
    struct span s = span_str(path), head, key;
    if (str_eq(path, "metadata.name")) {
        return arena_str(a, span_str(p->name));
    }
    if (str_eq(path, "metadata.namespace")) {
        return arena_str(a, span_str(p->ns));
    }
    if (str_eq(path, "metadata.uid")) {
        return arena_str(a, span_str(p->uid));
    }
    if (str_eq(path, "metadata.labels") || str_eq(path, "metadata.annotations")) {
        return map_text(a, json_get(meta, path + 9));
    }
    if (str_eq(path, "spec.nodeName") || str_eq(path, "spec.serviceAccountName")) {
        return arena_str(a, json_span(json_get(spec, path + 5)));
    }
    if (str_eq(path, "status.hostIP") || str_eq(path, "status.hostIPs")) {
        return arena_str(a, span_str(p->k->o.n_ips ? p->k->o.ips[0] : ""));
    }
    if (str_eq(path, "status.podIP") || str_eq(path, "status.podIPs")) {
        bool on_host = json_bool_at(spec, false, "hostNetwork");
        return arena_str(a, span_str(on_host && p->k->o.n_ips ? p->k->o.ips[0]
                                     : p->n_ips               ? p->ips[0]
                                                              : ""));
    }
    if (span_until(&s, '[', &head) == 0 && s.n > 3 && s.p[0] == '\'' && span_ends(s, "']")) {
        key = span_of(s.p + 1, s.n - 3);
        bool is_label = span_eq_str(head, "metadata.labels");
        if (is_label || span_eq_str(head, "metadata.annotations")) {
            return arena_str(
                a, json_span(json_getn(json_get(meta, is_label ? "labels" : "annotations"), key)));
        }
    }
    return NULL;
}

const char *kl_resource_field(const struct kl_pod *p, struct arena *a, const struct json *ref,
                              const char *container) {
    const char *resource = json_str_or(json_get(ref, "resource"), "");
    const char *name = json_str_or(json_get(ref, "containerName"), container);
    const struct json *c = NULL;
    struct span s = span_str(resource), kind;
    int64_t milli = 0, divisor = 1000;
    JSON_EACH(it, x, json_at(p->obj, "spec", "containers")) {
        c = str_eq(json_str_at(x, "name"), name) ? x : c;
    }
    JSON_EACH(it2, x, json_at(p->obj, "spec", "initContainers")) {
        c = str_eq(json_str_at(x, "name"), name) ? x : c;
    }
    if (!c || span_until(&s, '.', &kind) < 0) {
        return NULL;
    }
    bool is_cpu = span_eq_str(s, "cpu");
    const struct json *v = json_getn(
        json_get(json_get(c, "resources"), span_eq_str(kind, "limits") ? "limits" : "requests"), s);
    if (v && kube_quantity_milli(json_span(v), &milli) < 0) {
        return NULL;
    }
    if (!v) { /* without a limit: what the node has */
        milli = is_cpu                     ? p->k->o.cpu_milli
                : span_eq_str(s, "memory") ? p->k->o.memory_bytes * 1000
                                           : 0;
        milli = span_eq_str(kind, "limits") ? milli : 0;
    }
    struct span div = json_span(json_get(ref, "divisor"));
    if (div.n > 0 && !span_eq_str(div, "0") && kube_quantity_milli(div, &divisor) < 0) {
        return NULL;
    }
    divisor = divisor > 0 ? divisor : 1000;
    return arena_fmt(a, "%lld", (long long)((milli + divisor - 1) / divisor));
}

static bool is_env_name(const char *s) {
    for (const char *p = s; *p; p++) {
        if (*p == '=' || (unsigned char)*p < 33 || (unsigned char)*p > 126) {
            return false;
        }
    }
    return *s != 0;
}

static const char *data_of(struct arena *a, const char *kind, const struct json *obj,
                           struct span key) {
    const struct json *v = json_getn(json_get(obj, "data"), key);
    if (!v) {
        return NULL;
    }
    if (str_eq(kind, "configmaps")) {
        return arena_str(a, json_span(v));
    }
    AUTO(buf) struct buf raw = BUF_INIT(LIM_KL_VOLUME_FILE);
    return b64_decode(&raw, json_span(v)) < 0 ? NULL : arena_str(a, buf_view(&raw));
}

static int from_source(struct env *env, struct kl_pod *p, const struct json *src, struct err *e) {
    static const char *const refs[][2] = {{"configMapRef", "configmaps"}, {"secretRef", "secrets"}};
    const char *prefix = json_str_or(json_get(src, "prefix"), "");
    for (size_t i = 0; i < 2; i++) {
        const struct json *ref = json_get(src, refs[i][0]), *obj;
        const char *name = json_str_at(ref, "name");
        if (!name) {
            continue;
        }
        obj = kl_ref_get(p, refs[i][1], name);
        if (!obj) {
            if (json_bool_at(ref, false, "optional")) {
                continue;
            }
            return err_set(e, ERR_NOT_FOUND, "%s \"%s\" not found", i ? "secret" : "configmap",
                           name);
        }
        JSON_EACH_KV(it, k, v, json_get(obj, "data")) {
            (void)v;
            const char *value = data_of(env->a, refs[i][1], obj, span_str(k));
            char full[512];
            if (value && is_env_name(k) && str_put(full, sizeof(full), "%s%s", prefix, k) == 0 &&
                put(env, full, value) < 0) {
                return err_set(e, ERR_LIMIT, "too many environment variables");
            }
        }
    }
    return 0;
}

/* 0 with *ret NULL: leave the variable out (optional source). */
static int value_from(struct env *env, struct kl_ctr *c, const struct json *from, const char **ret,
                      struct err *e) {
    static const char *const keys[][2] = {{"configMapKeyRef", "configmaps"},
                                          {"secretKeyRef", "secrets"}};
    struct kl_pod *p = c->pod;
    *ret = NULL;
    const char *path = json_str_at(from, "fieldRef", "fieldPath");
    if (path) {
        *ret = kl_field(p, env->a, path);
        return *ret ? 0 : err_set(e, ERR_INVALID, "fieldRef %s is not supported", path);
    }
    if (json_get(from, "resourceFieldRef")) {
        *ret = kl_resource_field(p, env->a, json_get(from, "resourceFieldRef"), c->name);
        return *ret ? 0 : err_set(e, ERR_INVALID, "resourceFieldRef cannot be resolved");
    }
    for (size_t i = 0; i < 2; i++) {
        const struct json *ref = json_get(from, keys[i][0]);
        const char *name = json_str_at(ref, "name"), *key = json_str_at(ref, "key");
        if (!name || !key) {
            continue;
        }
        const struct json *obj = kl_ref_get(p, keys[i][1], name);
        *ret = obj ? data_of(env->a, keys[i][1], obj, span_str(key)) : NULL;
        if (*ret || json_bool_at(ref, false, "optional")) {
            return 0;
        }
        return obj ? err_set(e, ERR_NOT_FOUND, "couldn't find key %s in %s %s/%s", key,
                             i ? "Secret" : "ConfigMap", p->ns, name)
                   : err_set(e, ERR_NOT_FOUND, "%s \"%s\" not found", i ? "secret" : "configmap",
                             name);
    }
    return err_set(e, ERR_UNSUPPORTED, "this kind of valueFrom is not supported");
}

/* "my-svc" → MY_SVC */
static void upper(const char *s, char *dst, size_t cap) {
    size_t i = 0;
    for (; s[i] && i + 1 < cap; i++) {
        dst[i] = s[i] == '-' || s[i] == '.'   ? '_'
                 : s[i] >= 'a' && s[i] <= 'z' ? (char)(s[i] - 32)
                                              : s[i];
    }
    dst[i] = 0;
}

static int service_port(struct env *env, const char *svc, const char *ip, const struct json *port,
                        bool is_first) {
    const char *proto = json_str_or(json_get(port, "protocol"), "TCP"),
               *name = json_str_at(port, "name");
    long long n = (long long)json_i64_at(port, 0, "port");
    char lower[8], up[80], key[256];
    int rc = 0;
    size_t i = 0;
    for (; proto[i] && i < 7; i++) {
        lower[i] = (char)(proto[i] + 32);
    }
    lower[i] = 0;
    const char *number = arena_fmt(env->a, "%lld", n),
               *url = arena_fmt(env->a, "%s://%s:%lld", lower, ip, n);
    if (is_first && str_put(key, sizeof(key), "%s_SERVICE_PORT", svc) == 0) {
        rc = put(env, key, number);
        if (rc == 0 && str_put(key, sizeof(key), "%s_PORT", svc) == 0) {
            rc = put(env, key, url);
        }
    }
    if (rc == 0 && name) {
        upper(name, up, sizeof(up));
        rc = str_put(key, sizeof(key), "%s_SERVICE_PORT_%s", svc, up) < 0 ? 0
                                                                          : put(env, key, number);
    }
    const struct {
        const char *suffix, *value;
    } rows[] = {{"", url},
                {"_PROTO", arena_str(env->a, span_str(lower))},
                {"_PORT", number},
                {"_ADDR", arena_str(env->a, span_str(ip))}};
    for (i = 0; i < ARRAY_LEN(rows) && rc == 0; i++) {
        if (str_put(key, sizeof(key), "%s_PORT_%lld_%s%s", svc, n, proto, rows[i].suffix) == 0) {
            rc = put(env, key, rows[i].value);
        }
    }
    return rc;
}

/* Variables for the Services of the pod's namespace, and of kubernetes in default. */
static int services(struct env *env, const struct kl_pod *p) {
    bool links = json_bool_at(p->obj, true, "spec", "enableServiceLinks");
    struct map_iter it = {0};
    struct json *s;
    int rc = 0;
    while (p->k->service_informer && rc == 0 && kinformer_next(p->k->service_informer, &it, &s)) {
        const char *ip = json_str_or(json_at(s, "spec", "clusterIP"), "");
        bool is_master = str_eq(kube_name(s), "kubernetes") && str_eq(kube_namespace(s), "default");
        char svc[80], key[128];
        bool is_first = true;
        if (!*ip || str_eq(ip, "None") ||
            (!is_master && (!links || !str_eq(kube_namespace(s), p->ns)))) {
            continue;
        }
        upper(kube_name(s), svc, sizeof(svc));
        if (str_put(key, sizeof(key), "%s_SERVICE_HOST", svc) == 0) {
            rc = put(env, key, arena_str(env->a, span_str(ip)));
        }
        JSON_EACH(ports, port, json_at(s, "spec", "ports")) {
            rc = rc < 0 ? rc : service_port(env, svc, ip, port, is_first);
            is_first = false;
        }
    }
    return rc;
}

int kl_env(struct kl_ctr *c, struct arena *a, struct kubelet_kv **ret, size_t *ret_n,
           struct err *e) {
    const struct json *spec = kl_ctr_spec(c);
    struct env env = {.a = a};
    env.v = arena_alloc(a, LIM_KL_ENV * sizeof(*env.v));
    if (!env.v || services(&env, c->pod) < 0) {
        return err_set(e, ERR_LIMIT, "too many environment variables");
    }
    JSON_EACH(it, src, json_get(spec, "envFrom")) {
        if (from_source(&env, c->pod, src, e) < 0) {
            return -(int)e->code;
        }
    }
    JSON_EACH(it2, v, json_get(spec, "env")) {
        const char *name = json_str_or(json_get(v, "name"), ""), *value = json_str_at(v, "value");
        if (json_get(v, "valueFrom")) {
            if (value_from(&env, c, json_get(v, "valueFrom"), &value, e) < 0) {
                return -(int)e->code;
            }
            if (!value) {
                continue;
            }
        } else {
            value = kl_expand(a, value ? value : "", env.v, env.n);
        }
        if (put(&env, name, value) < 0) {
            return err_set(e, ERR_LIMIT, "too many environment variables");
        }
    }
    *ret = env.v;
    *ret_n = env.n;
    return 0;
}
