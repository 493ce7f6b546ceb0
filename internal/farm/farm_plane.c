/* What a tenant's control plane looks like in the admin cluster: Deployment, kubeconfig Secret, port, host. */
#include "internal/farm/farm_int.h"

#include "internal/pki/pki.h"
#include "internal/sys/sys.h"

#include <stdlib.h>
#include <string.h>

/* What this version does not do is said, not ignored. */
const char *farm_unsupported(const struct json *t) {
    const struct json *spec = json_get(t, "spec");
    if (str_eq(json_str_at(spec, "runtime"), "upstream")) {
        return "spec.runtime: upstream control planes are not supported by this version; use "
               "builtin";
    }
    const char *etcd = farm_on_etcd(t) ? farm_etcd_unsupported(t) : NULL;
    if (etcd) {
        return etcd;
    }
    if (json_i64_at(spec, 1, "replicas") > 1) {
        return "spec.replicas: a tenant runs one control-plane pod; use 0 or 1";
    }
    if (json_str_at(spec, "backup", "schedule")) {
        return "spec.backup: scheduled backups are not supported by this version";
    }
    JSON_EACH(it, a, json_get(spec, "addons")) {
        if (json_bool_at(a, true, "enabled")) {
            return "spec.addons: addons are not supported by this version; apply their manifests "
                   "to the tenant";
        }
    }
    return NULL;
}

const char *farm_host(const struct farm *f, const struct json *t) {
    return json_str_or(json_at(t, "spec", "endpoint", "host"), f->o.host);
}

/* By another tenant: written into its status, or chosen for it and on the way there. */
static bool port_used(const struct farm *f, const struct json *self, int64_t port) {
    const char *uid = json_str_at(self, "metadata", "uid");
    struct map_iter chosen = {0}, it = {0};
    for (struct map_entry *en; map_next(&f->by_uid, &chosen, &en);) {
        const struct tenant *t = en->value;
        if (t->port == port && !str_eq(t->uid, uid)) {
            return true;
        }
    }
    for (struct json *o; kinformer_next(f->tenants, &it, &o);) {
        if (!str_eq(json_str_at(o, "metadata", "uid"), uid) &&
            json_i64_at(o, 0, "status", "port") == port) {
            return true;
        }
    }
    return false;
}

uint16_t farm_port(const struct farm *f, const struct json *t) {
    int64_t wish = json_i64_at(t, 0, "spec", "endpoint", "port");
    if (wish) {
        return port_used(f, t, wish) ? 0 : (uint16_t)wish;
    }
    for (unsigned p = f->o.port_first; p <= f->o.port_last; p++) {
        if (port_used(f, t, p)) {
            continue;
        }
        int fd =
            sys_listen_tcp("", (uint16_t)p, NULL); /* another program of this host may have it */
        if (fd >= 0) {
            sys_close(fd);
            return (uint16_t)p;
        }
    }
    return 0;
}

static void arg(struct json_doc *d, struct json *args, const char *fmt, const char *value) {
    if (value && *value) {
        AUTO_FREE char *s = str_fmt("--%s=%s", fmt, value);
        json_push_str(d, args, s);
    }
}

static void extra_args(struct json_doc *d, struct json *args, const struct json *t,
                       const char *component) {
    JSON_EACH_KV(it, k, v, json_at(t, "spec", "components", component, "extraArgs")) {
        arg(d, args, k, json_str_or(v, ""));
    }
}

static struct json *container(struct json_doc *d, struct json *list, const char *name) {
    struct json *c = json_new_obj(d);
    json_set_str(d, c, "name", name);
    json_set_str(d, c, "image", "kfarm");
    json_set_str(d, c, "imagePullPolicy", "IfNotPresent");
    struct json *args = json_set_arr(d, c, "args");
    json_push_str(d, args, name);
    json_push(list, c);
    return args;
}

static void owner(struct json_doc *d, struct json *meta, const struct json *t) {
    struct json *r = json_new_obj(d);
    json_set_str(d, r, "apiVersion", "kfarm.dev/v1alpha1");
    json_set_str(d, r, "kind", "Tenant");
    json_set_str(d, r, "name", json_str_at(t, "metadata", "name"));
    json_set_str(d, r, "uid", json_str_at(t, "metadata", "uid"));
    json_set_bool(d, r, "controller", true);
    json_push(json_need_arr(d, meta, "ownerReferences"), r);
}

static struct json *meta_of(struct json_doc *d, struct json *o, const struct json *t,
                            const char *suffix) {
    const char *name = json_str_at(t, "metadata", "name");
    struct json *m = json_set_obj(d, o, "metadata"), *labels;
    json_set(d, m, "name", json_new_fmt(d, "%s%s", name, suffix));
    json_set_str(d, m, "namespace", json_str_at(t, "metadata", "namespace"));
    labels = json_set_obj(d, m, "labels");
    json_set_str(d, labels, FARM_TENANT_LABEL, name);
    owner(d, m, t);
    return m;
}

struct json *farm_deployment(const struct farm *f, const struct json *t, struct json_doc *d) {
    const char *name = json_str_at(t, "metadata", "name");
    const struct json *net = json_at(t, "spec", "network");
    struct json *o = json_new_obj(d);
    json_set_str(d, o, "apiVersion", "apps/v1");
    json_set_str(d, o, "kind", "Deployment");
    struct json *meta = meta_of(d, o, t, "-control-plane"), *spec = json_set_obj(d, o, "spec");
    json_set_i64(d, spec, "replicas", json_i64_at(t, 1, "spec", "replicas"));
    json_set_i64(d, spec, "revisionHistoryLimit", 2);
    json_set_str(d, json_set_obj(d, spec, "strategy"), "type",
                 "Recreate"); /* one writer of the store at a time */
    json_set_str(d, json_set_obj(d, json_set_obj(d, spec, "selector"), "matchLabels"),
                 FARM_TENANT_LABEL, name);
    struct json *tpl = json_set_obj(d, spec, "template");
    json_set_str(d, json_set_obj(d, json_set_obj(d, tpl, "metadata"), "labels"), FARM_TENANT_LABEL,
                 name);
    struct json *pod = json_set_obj(d, tpl, "spec");
    json_set_bool(d, pod, "automountServiceAccountToken", false);
    json_set_bool(d, pod, "enableServiceLinks", false);
    json_set_bool(d, pod, "hostNetwork", true);
    json_set_i64(d, pod, "terminationGracePeriodSeconds", 5);
    json_set_str(d, json_set_obj(d, pod, "nodeSelector"), "kubernetes.io/hostname", f->o.node_name);
    struct json *tol = json_new_obj(d);
    json_set_str(d, tol, "operator", "Exists");
    json_push(json_set_arr(d, pod, "tolerations"), tol);
    struct json *list = json_set_arr(d, pod, "containers"), *a = container(d, list, "apiserver");
    arg(d, a, "cluster-name", name);
    arg(d, a, "service-cluster-ip-range", json_str_at(net, "serviceCIDR"));
    arg(d, a, "tls-san", json_str_at(t, "spec", "endpoint", "host"));
    JSON_EACH(it, san, json_at(t, "spec", "serverNames")) {
        arg(d, a, "tls-san", json_str(san));
    }
    AUTO_FREE char *sni =
        str_fmt("%s.%s.tenants.kfarm.internal", name, json_str_at(t, "metadata", "namespace"));
    arg(d, a, "tls-san", sni);
    extra_args(d, a, t, "apiserver");
    if (farm_on_etcd(t)) {
        farm_etcd_plane(d, pod, json_idx(list, 0), t);
    }
    a = container(d, list, "controllers");
    arg(d, a, "cluster-name", name);
    arg(d, a, "service-cluster-ip-range", json_str_at(net, "serviceCIDR"));
    arg(d, a, "cluster-cidr", json_str_at(net, "podCIDR"));
    arg(d, a, "allocate-node-cidrs", "true");
    extra_args(d, a, t, "controllerManager");
    extra_args(d, a, t, "scheduler");
    AUTO(buf) struct buf b = BUF_INIT(1u << 20);
    json_write(spec, 0, &b);
    json_set(d, json_set_obj(d, meta, "annotations"), FARM_HASH,
             json_new_fmt(d, "%08x", fnv32a(buf_view(&b))));
    return o;
}

/* ---- kubeconfig ---- */

static void b64(struct json_doc *d, struct json *o, const char *key, struct span s) {
    AUTO(buf) struct buf b = BUF_INIT(1u << 20);
    b64_encode(&b, s);
    json_set(d, o, key, json_new_span(d, buf_view(&b)));
    secret_wipe(b.p, b.cap);
}

struct json *farm_kubeconfig_secret(const struct farm *f, const struct json *t,
                                    const struct key_identity *id, struct json_doc *d) {
    const char *name = json_str_at(t, "metadata", "name"),
               *ns = json_str_at(t, "metadata", "namespace");
    const char *host = farm_host(f, t);
    bool v6 = strchr(host, ':') != NULL;
    AUTO(buf) struct buf y = BUF_INIT(256 * 1024);
    buf_fmt(&y,
            "apiVersion: v1\nkind: Config\nclusters:\n- name: %s\n  cluster:\n    server: "
            "https://%s%s%s:%lld\n",
            name, v6 ? "[" : "", host, v6 ? "]" : "",
            (long long)json_i64_at(t, 0, "status", "port"));
    buf_fmt(&y,
            "    tls-server-name: %s.%s.tenants.kfarm.internal\n    certificate-authority-data: ",
            name, ns);
    b64_encode(&y, buf_view(&id->ca_pem));
    buf_fmt(&y, "\nusers:\n- name: %s-admin\n  user:\n    client-certificate-data: ", name);
    b64_encode(&y, buf_view(&id->cert_pem));
    buf_str(&y, "\n    client-key-data: ");
    b64_encode(&y, buf_view(&id->key_pem));
    buf_fmt(&y,
            "\ncontexts:\n- name: %s\n  context:\n    cluster: %s\n    user: "
            "%s-admin\ncurrent-context: %s\npreferences: {}\n",
            name, name, name, name);
    struct json *o = json_new_obj(d);
    json_set_str(d, o, "apiVersion", "v1");
    json_set_str(d, o, "kind", "Secret");
    struct json *meta = meta_of(d, o, t, "-kubeconfig");
    json_set_str(d, json_get(meta, "labels"), CAPI_CLUSTER_LABEL, name);
    json_set_str(d, o, "type", "cluster.x-k8s.io/secret");
    struct json *data = json_set_obj(d, o, "data");
    b64(d, data, "value", buf_view(&y));
    b64(d, data, "ca.crt", buf_view(&id->ca_pem));
    b64(d, data, "tls.crt", buf_view(&id->cert_pem));
    secret_wipe(y.p, y.cap);
    return o;
}

static bool young(struct span cert_pem) {
    struct pki_info info;
    uint64_t now = clock_wall_ns() / NS_PER_S;
    if (pki_cert_parse(cert_pem, &info, NULL) < 0) {
        return false;
    }
    bool ok = now < info.not_before_s + (info.not_after_s - info.not_before_s) / 2;
    pki_info_fini(&info);
    return ok;
}

/* Present, for this server, and in the first half of its life. */
bool farm_kubeconfig_good(const struct json *secret, const char *server) {
    AUTO(buf) struct buf y = BUF_INIT(1u << 20);
    AUTO(buf) struct buf cert = BUF_INIT(1u << 20);
    AUTO_FREE char *line = str_fmt("server: %s\n", server);
    if (b64_decode(&y, json_span(json_at(secret, "data", "value"))) < 0 ||
        !strstr(buf_cstr(&y), line) ||
        b64_decode(&cert, json_span(json_at(secret, "data", "tls.crt"))) < 0) {
        return false;
    }
    return young(buf_view(&cert));
}
