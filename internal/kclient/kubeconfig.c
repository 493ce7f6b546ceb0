#include "internal/base/rand.h"
#include "internal/kclient/kclient_int.h"
#include "internal/sys/sys.h"
#include "internal/yaml/yaml.h"

#include <stdlib.h>

enum { LIM_PEM = 256 << 10 };

/* clusters, users and contexts are lists of {name, <kind>: {…}}. */
static const struct json *find_named(const struct json *root, const char *list, const char *kind,
                                     const char *name) {
    JSON_EACH(it, v, json_get(root, list)) {
        if (str_eq(json_str(json_get(v, "name")), name)) {
            return json_get(v, kind);
        }
    }
    return NULL;
}

/* `key`-data in base64, or a file named by `key`. Neither: *b stays empty. */
static int load(const struct json *o, const char *key, const char *data_key, struct buf *b,
                struct err *e) {
    const struct json *data = json_get(o, data_key);
    const char *path = json_str(json_get(o, key));
    if (json_span(data).n) {
        if (b64_decode(b, json_span(data)) < 0) {
            return err_set(e, ERR_INVALID, "kubeconfig: %s is not base64", data_key);
        }
        return 0;
    }
    if (path && *path) {
        int rc = sys_file_read(AT_FDCWD, path, b, e);
        return rc < 0 ? err_wrap(e, "kubeconfig: %s", key) : 0;
    }
    return 0;
}

static int refuse_plugins(const struct json *user, struct err *e) {
    static const char *const unsupported[] = {"exec", "auth-provider", "username", "password",
                                              "as"};
    for (size_t k = 0; k < ARRAY_LEN(unsupported); k++) {
        if (json_get(user, unsupported[k])) {
            return err_set(e, ERR_UNSUPPORTED, "kubeconfig: user with \"%s\" is not supported",
                           unsupported[k]);
        }
    }
    return 0;
}

static int connect_with(struct loop *l, const struct json *cluster, const struct json *user,
                        const char *token, struct kclient **ret, struct err *e) {
    AUTO(buf) struct buf ca = BUF_INIT(LIM_PEM), cert = BUF_INIT(LIM_PEM), key = BUF_INIT(LIM_PEM);
    struct tls_config *tls = NULL;
    const char *server = json_str(json_get(cluster, "server"));
    if (!server) {
        return err_set(e, ERR_INVALID, "kubeconfig: the cluster has no server");
    }
    int rc = load(cluster, "certificate-authority", "certificate-authority-data", &ca, e);
    if (rc == 0) {
        rc = load(user, "client-certificate", "client-certificate-data", &cert, e);
    }
    if (rc == 0) {
        rc = load(user, "client-key", "client-key-data", &key, e);
    }
    if (rc == 0 && !span_starts(span_str(server), "http://")) {
        struct tls_client_opts to = {
            .ca_pem = buf_view(&ca),
            .cert_pem = buf_view(&cert),
            .key_pem = buf_view(&key),
            .insecure = json_bool(json_get(cluster, "insecure-skip-tls-verify"), false),
        };
        rc = tls_client_config_new(&tls, &to, e);
    }
    if (rc == 0) {
        struct kclient_opts o = {
            .server = server,
            .sni = json_str(json_get(cluster, "tls-server-name")),
            .tls = tls,
            .token = token,
        };
        rc = kclient_new(l, &o, ret, e);
    }
    if (tls) {
        tls_config_unref(tls);
    }
    if (key.p) {
        secret_wipe(key.p, key.n);
    }
    return rc;
}

int kclient_from_kubeconfig(struct loop *l, struct span yaml, const char *context,
                            struct kclient **ret, struct err *e) {
    AUTO(json_docp) struct json_doc *d = NULL;
    int rc = yaml_parse(yaml, &d, e);
    if (rc < 0) {
        return err_wrap(e, "kubeconfig");
    }
    const struct json *root = json_root(d);
    context = context ? context : json_str(json_get(root, "current-context"));
    if (!context || !*context) {
        return err_set(e, ERR_INVALID, "kubeconfig: no current-context");
    }
    const struct json *ctx = find_named(root, "contexts", "context", context);
    if (!ctx) {
        return err_set(e, ERR_NOT_FOUND, "kubeconfig: no context %s", context);
    }
    const struct json *cluster =
        find_named(root, "clusters", "cluster", json_str_or(json_get(ctx, "cluster"), ""));
    const struct json *user =
        find_named(root, "users", "user", json_str_or(json_get(ctx, "user"), ""));
    if (!cluster || !user) {
        return err_set(e, ERR_INVALID, "kubeconfig: context %s names a missing %s", context,
                       cluster ? "user" : "cluster");
    }
    rc = refuse_plugins(user, e);
    if (rc < 0) {
        return rc;
    }
    AUTO(buf) struct buf token = BUF_INIT(65536); /* wiped below */
    const char *t = json_str(json_get(user, "token"));
    const char *file = json_str(json_get(user, "tokenFile"));
    if (t && *t) {
        buf_str(&token, t);
    } else if (file && *file) {
        rc = sys_file_read(AT_FDCWD, file, &token, e);
        if (rc < 0) {
            return err_wrap(e, "kubeconfig: tokenFile");
        }
        while (token.n && (token.p[token.n - 1] == '\n' || token.p[token.n - 1] == '\r')) {
            buf_trunc(&token, token.n - 1);
        }
    }
    rc = connect_with(l, cluster, user, token.n ? buf_cstr(&token) : NULL, ret, e);
    if (token.p) {
        secret_wipe(token.p, token.n);
    }
    return rc;
}
