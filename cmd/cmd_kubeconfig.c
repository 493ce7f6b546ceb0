#include "cmd/admin.h"

#include "internal/base/rand.h"
#include "internal/sys/sys.h"

#include <stdio.h>
#include <unistd.h>

int cmd_kubeconfig(struct cmdctx *c, struct err *e);

int cmd_kubeconfig(struct cmdctx *c, struct err *e) {
    const char *kubeconfig = "", *data_dir = "", *ns = "default", *out = "";
    struct opt_list pos = {{NULL}, 0};
    const struct opt opts[] = {
        {"kubeconfig", OPT_STR, &kubeconfig, "FILE", "admin kubeconfig"},
        {"data-dir", OPT_STR, &data_dir, "DIR",
         "data directory of the server: its admin kubeconfig is used"},
        {"namespace", OPT_STR, &ns, "NAME", "namespace of the tenant"},
        {"output", OPT_STR, &out, "FILE", "write to this file (0600) instead of standard output"},
        {NULL, OPT_STR, NULL, NULL, NULL},
    };
    struct admin a;
    int rc = opt_parse(c, opts, &pos, NULL, e);
    if (rc < 0) {
        return rc;
    }
    if (pos.n != 1) {
        return err_set(e, ERR_USAGE, "give the name of one tenant: kfarm kubeconfig NAME");
    }
    if ((rc = admin_open(&a, kubeconfig, data_dir, e)) < 0) {
        return rc;
    }
    AUTO_FREE char *name = str_fmt("%s-kubeconfig", pos.v[0]);
    AUTO(json_docp) struct json_doc *d = NULL;
    AUTO(buf) struct buf text = BUF_INIT(1 << 20);
    const struct kref r = {.version = "v1", .resource = "secrets", .ns = ns, .name = name};
    rc = kcall_sync(a.client, "GET", &r, NULL, NULL, NULL, &d, e);
    if (rc == -ERR_NOT_FOUND) {
        err_reset(e);
        rc = err_set(
            e, ERR_NOT_FOUND,
            "tenant %s in namespace %s has no kubeconfig (yet): kubectl -n %s describe tenant %s",
            pos.v[0], ns, ns, pos.v[0]);
    } else if (rc == 0 &&
               b64_decode(&text, json_span(json_at(json_root(d), "data", "value"))) < 0) {
        rc = err_set(e, ERR_CORRUPT, "secret %s/%s holds no kubeconfig", ns, name);
    }
    if (rc == 0) {
        rc = *out ? sys_file_replace(AT_FDCWD, out, buf_view(&text), 0600, e)
                  : sys_write_all(STDOUT_FILENO, buf_view(&text), e);
    }
    secret_wipe(text.p, text.cap);
    admin_close(&a);
    return rc;
}
