#include "cmd/admin.h"

#include <stdio.h>

int cmd_status(struct cmdctx *c, struct err *e);

static int list(struct admin *a, const char *group, const char *version, const char *resource,
                const char *query, struct json_doc **ret, struct err *e) {
    const struct kref r = {.group = group, .version = version, .resource = resource};
    return kcall_sync(a->client, "GET", &r, query, NULL, NULL, ret, e);
}

static const char *condition(const struct json *o, const char *type) {
    JSON_EACH(it, x, json_at(o, "status", "conditions")) {
        if (str_eq(json_str_at(x, "type"), type)) {
            return json_str_or(json_get(x, "status"), "Unknown");
        }
    }
    return "Unknown";
}

static const char *meta(const struct json *o, const char *key) {
    return json_str_or(json_at(o, "metadata", key), "-");
}

static void hosts(const struct json *nodes) {
    printf("\nHOSTS\n  %-24s %-8s %-16s %s\n", "NAME", "READY", "ADDRESS", "AGE");
    JSON_EACH(it, n, json_get(nodes, "items")) {
        char age[16];
        const char *ip = "-";
        JSON_EACH(ia, a, json_at(n, "status", "addresses")) {
            ip = str_eq(json_str_at(a, "type"), "InternalIP")
                     ? json_str_or(json_get(a, "address"), "-")
                     : ip;
        }
        admin_age(json_str_at(n, "metadata", "creationTimestamp"), age);
        printf("  %-24s %-8s %-16s %s\n", meta(n, "name"), condition(n, "Ready"), ip, age);
    }
}

static void tenants(const struct json *items) {
    printf("\nTENANTS\n  %-16s %-20s %-13s %-10s %-30s %s\n", "NAMESPACE", "NAME", "PHASE", "NODES",
           "ENDPOINT", "AGE");
    JSON_EACH(it, t, json_get(items, "items")) {
        char age[16], nodes[32];
        (void)str_put(nodes, sizeof(nodes), "%lld/%lld",
                      (long long)json_i64_at(t, 0, "status", "nodes", "ready"),
                      (long long)json_i64_at(t, 0, "status", "nodes", "declared"));
        admin_age(json_str_at(t, "metadata", "creationTimestamp"), age);
        printf("  %-16s %-20s %-13s %-10s %-30s %s\n", meta(t, "namespace"), meta(t, "name"),
               json_str_or(json_at(t, "status", "phase"), "Pending"), nodes,
               json_str_or(json_at(t, "status", "endpoint"), "-"), age);
    }
    if (!json_len(json_get(items, "items"))) {
        puts("  none");
    }
}

static void processes(const struct json *pods) {
    printf("\nCONTROL PLANES\n  %-16s %-44s %-12s %-9s %s\n", "NAMESPACE", "POD", "STATE",
           "RESTARTS", "AGE");
    JSON_EACH(it, p, json_get(pods, "items")) {
        char age[16];
        int64_t restarts = 0;
        JSON_EACH(ic, s, json_at(p, "status", "containerStatuses")) {
            restarts += json_i64_at(s, 0, "restartCount");
        }
        admin_age(json_str_at(p, "metadata", "creationTimestamp"), age);
        printf("  %-16s %-44s %-12s %-9lld %s\n", meta(p, "namespace"), meta(p, "name"),
               json_str_or(json_at(p, "status", "phase"), "Pending"), (long long)restarts, age);
    }
}

static void machines(const struct json *items) {
    printf("\nNODES\n  %-16s %-20s %-28s %-13s %s\n", "NAMESPACE", "TENANT", "NODE", "PHASE",
           "ADDRESS");
    JSON_EACH(it, m, json_get(items, "items")) {
        printf(
            "  %-16s %-20s %-28s %-13s %s\n", meta(m, "namespace"),
            json_str_or(json_at(m, "spec", "clusterName"), "-"),
            json_str_or(json_at(m, "metadata", "labels", "kfarm.dev/node"), meta(m, "name")),
            json_str_or(json_at(m, "status", "phase"), "Pending"),
            json_str_or(json_get(json_idx(json_at(m, "status", "addresses"), 0), "address"), "-"));
    }
    if (!json_len(json_get(items, "items"))) {
        puts("  none declared");
    }
}

int cmd_status(struct cmdctx *c, struct err *e) {
    const char *kubeconfig = "", *data_dir = "";
    const struct opt opts[] = {
        {"kubeconfig", OPT_STR, &kubeconfig, "FILE", "admin kubeconfig"},
        {"data-dir", OPT_STR, &data_dir, "DIR",
         "data directory of the server: its admin kubeconfig is used"},
        {NULL, OPT_STR, NULL, NULL, NULL},
    };
    struct admin a;
    AUTO(json_docp) struct json_doc *n = NULL;
    AUTO(json_docp) struct json_doc *t = NULL;
    AUTO(json_docp) struct json_doc *p = NULL;
    AUTO(json_docp) struct json_doc *m = NULL;
    int rc = opt_parse(c, opts, NULL, NULL, e), roles_rc = 0;
    if (rc < 0) {
        return rc;
    }
    struct err api = ERR_INIT;
    if ((rc = admin_open(&a, kubeconfig, data_dir, &api)) == 0) {
        rc = list(&a, "kfarm.dev", "v1alpha1", "tenants", NULL, &t, &api);
    }
    /* Another machine's server, named by its kubeconfig, has no processes here. An API that does not answer is part of the
     * status: the roles are shown all the same. */
    if (!*kubeconfig) {
        roles_rc = status_roles(*data_dir ? data_dir : "/var/lib/kfarm", json_root(t), e);
    }
    if (rc == 0 && roles_rc == 0 && (rc = list(&a, "", "v1", "nodes", NULL, &n, &api)) == 0 &&
        (rc = list(&a, "", "v1", "pods", "labelSelector=kfarm.dev%2Ftenant", &p, &api)) == 0 &&
        (rc = list(&a, "cluster.x-k8s.io", "v1beta1", "machines", NULL, &m, &api)) == 0) {
        hosts(json_root(n));
        tenants(json_root(t));
        processes(json_root(p));
        machines(json_root(m));
    }
    if (a.l) {
        admin_close(&a);
    }
    if (roles_rc < 0) {
        return roles_rc;
    }
    if (rc < 0) {
        *e = api;
        return err_wrap(e, "asking the admin API");
    }
    return 0;
}
