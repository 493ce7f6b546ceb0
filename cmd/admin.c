#include "cmd/admin.h"

#include "internal/base/rand.h"
#include "internal/sys/sys.h"

#include <stdlib.h>

enum { LIM_KUBECONFIG = 1 << 20 };

int admin_open(struct admin *a, const char *kubeconfig, const char *data_dir, struct err *e) {
    AUTO_FREE char *in_dir =
        data_dir && *data_dir ? str_fmt("%s/admin.kubeconfig", data_dir) : NULL;
    const char *path = kubeconfig && *kubeconfig ? kubeconfig
                       : in_dir                  ? in_dir
                                                 : getenv("KUBECONFIG");
    path = path && *path ? path : "/etc/kfarm/admin.kubeconfig";
    AUTO(buf) struct buf text = BUF_INIT(LIM_KUBECONFIG);
    *a = (struct admin){NULL, NULL};
    int rc = sys_file_read(AT_FDCWD, path, &text, e);
    if (rc < 0) {
        return err_wrap(e, "kubeconfig (give --kubeconfig FILE or --data-dir DIR)");
    }
    if ((rc = loop_new(&a->l, e)) == 0 &&
        (rc = kclient_from_kubeconfig(a->l, buf_view(&text), NULL, &a->client, e)) < 0) {
        err_wrap(e, "%s", path);
    }
    secret_wipe(text.p, text.cap);
    if (rc < 0) {
        admin_close(a);
    }
    return rc;
}

void admin_close(struct admin *a) {
    kclient_free(a->client);
    loop_free(a->l);
    *a = (struct admin){NULL, NULL};
}

void admin_age(const char *rfc3339, char dst[16]) {
    uint64_t then, now = clock_wall_ns();
    if (!rfc3339 || time_parse(span_str(rfc3339), &then) < 0) {
        (void)str_put(dst, 16, "-");
        return;
    }
    unsigned long long s = now > then ? (now - then) / NS_PER_S : 0;
    if (s < 120) {
        (void)str_put(dst, 16, "%llus", s);
    } else if (s < 3600 * 2) {
        (void)str_put(dst, 16, "%llum", s / 60);
    } else if (s < 86400 * 2) {
        (void)str_put(dst, 16, "%lluh", s / 3600);
    } else {
        (void)str_put(dst, 16, "%llud", s / 86400);
    }
}
