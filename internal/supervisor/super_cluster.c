/* Clusters: directories, users, listeners and the socket to front; all of it outlives the processes. */
#include "internal/supervisor/supervisor_int.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static bool scope_ok(const char *s) {
    size_t n = s ? strlen(s) : 0;
    for (size_t i = 0; i < n; i++) {
        if (!((s[i] >= 'a' && s[i] <= 'z') || (s[i] >= '0' && s[i] <= '9') || s[i] == '-')) {
            return false;
        }
    }
    return n > 0 && n < 64;
}

/* The owner of an existing directory is the cluster's user; a new cluster gets the lowest number not in use. */
static int pick_uid(struct sup *s, const char *scope, const char *dir, uid_t *ret, struct err *e) {
    struct stat st;
    if (str_eq(scope, "admin")) {
        *ret = UID_APISERVER;
        return 0;
    }
    if (stat(dir, &st) == 0 && st.st_uid >= UID_TENANT_FIRST) {
        *ret = st.st_uid;
        return 0;
    }
    AUTO_FREE char *parent = str_fmt("%s/tenants", s->o->data_dir);
    AUTO_FREE bool *used = mem_zero_alloc(65536);
    DIR *d = opendir(parent);
    if (!d) {
        return err_sys(e, errno, "reading %s", parent);
    }
    for (struct dirent *de; (de = readdir(d));) {
        if (fstatat(dirfd(d), de->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
            st.st_uid >= UID_TENANT_FIRST && st.st_uid < UID_TENANT_FIRST + 65536) {
            used[st.st_uid - UID_TENANT_FIRST] = true;
        }
    }
    closedir(d);
    for (uid_t u = 0; u < 65536; u++) {
        if (!used[u]) {
            *ret = UID_TENANT_FIRST + u;
            return 0;
        }
    }
    return err_set(e, ERR_LIMIT, "no free user number for a tenant");
}

static int own_dir(const char *path, uid_t uid, mode_t mode, struct err *e) {
    int rc = sys_mkdirs(path, mode, e);
    return rc < 0 ? rc : chown(path, uid, uid) < 0 ? err_sys(e, errno, "chown %s", path) : 0;
}

int cluster_open(struct sup *s, const char *scope, struct cluster **ret, struct err *e) {
    struct cluster *c = map_get_str(&s->clusters, scope);
    if (c) {
        *ret = c;
        return 0;
    }
    if (!scope_ok(scope)) {
        return err_set(e, ERR_INVALID, "bad scope name");
    }
    c = new_zero(struct cluster);
    c->sock = c->front_far = c->near_fd = c->port_fd = -1;
    c->scope = str_dup(scope);
    c->dir = str_fmt(str_eq(scope, "admin") ? "%s/%s" : "%s/tenants/%s", s->o->data_dir, scope);
    c->run = str_fmt("%s/%s", s->o->run_dir, scope);
    AUTO_FREE char *path = str_fmt("%s/api.sock", c->run);
    int rc = pick_uid(s, scope, c->dir, &c->uid, e);
    if (rc == 0 && (rc = own_dir(c->dir, c->uid, 0700, e)) == 0 &&
        (rc = sys_mkdirs(c->run, 0755, e)) == 0) {
        /* Anyone on the host may connect; who they are is decided by TLS, as on the network. */
        rc = c->sock = sys_listen_unix(path, 0666, e);
    }
    if (rc < 0) {
        cluster_free(c);
        return err_wrap(e, "cluster %s", scope);
    }
    map_put_str(&s->clusters, scope, c);
    *ret = c;
    return 0;
}

int cluster_route(struct sup *s, struct cluster *c, struct err *e) {
    int fd = s->front_ctl ? fcntl(c->near_fd, F_DUPFD_CLOEXEC, 3) : -1;
    if (fd < 0) {
        return s->front_ctl ? err_sys(e, errno, "route of cluster %s", c->scope) : 0;
    }
    AUTO(buf) struct buf b = BUF_INIT(LIM_IPC_MSG);
    buf_fmt(&b, "{\"scope\":\"%s\",\"default\":%s,\"names\":%s}", c->scope,
            c == s->admin ? "true" : "false", c->names ? c->names : "[]");
    return ipc_send(s->front_ctl, FRONT_ROUTE, buf_view(&b), fd, e);
}

/* Tells front the names of this cluster and opens its own port; both may change between starts. */
int cluster_listen(struct sup *s, struct cluster *c, uint16_t port, const struct json *names,
                   struct err *e) {
    int pair[2], rc;
    if (port && port != c->port) {
        int fd = sys_listen_tcp("", port, e);
        if (fd < 0) {
            return err_wrap(e, "own port of cluster %s", c->scope);
        }
        sys_close(c->port_fd);
        c->port_fd = fd;
        c->port = port;
    }
    if (c->near_fd < 0) {
        if ((rc = sys_socketpair(SOCK_SEQPACKET, pair, e)) < 0) {
            return rc;
        }
        c->near_fd = pair[0];
        c->front_far = pair[1];
    }
    AUTO(buf) struct buf b = BUF_INIT(LIM_IPC_MSG / 2);
    if (names && json_write(names, 0, &b) < 0) {
        return err_set(e, ERR_LIMIT, "too many server names for cluster %s", c->scope);
    }
    free(c->names);
    c->names = names ? str_dup(buf_cstr(&b)) : NULL;
    return cluster_route(s, c, e);
}

void cluster_free(struct cluster *c) {
    sys_close(c->sock);
    sys_close(c->front_far);
    sys_close(c->near_fd);
    sys_close(c->port_fd);
    free(c->names);
    free(c->scope);
    free(c->dir);
    free(c->run);
    free(c);
}

int cluster_forget(struct sup *s, const char *scope, struct err *e) {
    if (!scope_ok(scope) || str_eq(scope, "admin")) {
        return err_set(e, ERR_FORBIDDEN, "cluster \"%s\" cannot be removed", scope ? scope : "");
    }
    for (LIST_EACH(at, nxt, &s->procs)) {
        struct proc *p = CONTAINER_OF(at, struct proc, link);
        if (p->cluster && str_eq(p->cluster->scope, scope)) {
            return err_set(e, ERR_BUSY, "cluster %s still has process %s", scope, p->id);
        }
    }
    struct cluster *c = map_del_str(&s->clusters, scope);
    if (c) {
        cluster_free(c);
    }
    if (s->front_ctl) {
        AUTO(json_docp) struct json_doc *d = json_doc_new();
        struct json *o = json_new_obj(d);
        AUTO(buf) struct buf b = BUF_INIT(LIM_IPC_MSG);
        json_set_str(d, o, "scope", scope);
        json_write(o, 0, &b);
        int rc = ipc_send(s->front_ctl, FRONT_UNROUTE, buf_view(&b), -1, e);
        if (rc < 0) {
            return rc;
        }
    }
    AUTO_FREE char *tenants = str_fmt("%s/tenants", s->o->data_dir);
    AUTO_FD int dir = sys_open_dir(tenants, e);
    AUTO_FD int run = dir < 0 ? -1 : sys_open_dir(s->o->run_dir, e);
    if (run < 0) {
        return -(int)e->code;
    }
    int rc = sys_rmtree(dir, scope, e);
    return rc < 0 ? rc : sys_rmtree(run, scope, e);
}

int super_key_grant(struct sup *s, enum keyd_msg kind, const char *grant, int near, struct err *e) {
    int fd = fcntl(near, F_DUPFD_CLOEXEC, 3);
    return fd < 0 ? err_sys(e, errno, "key channel")
                  : ipc_send(s->keyd_ctl, (uint16_t)kind, span_str(grant), fd, e);
}

int super_key_channel(struct sup *s, const char *grant, int *ret_near, struct err *e) {
    int pair[2];
    int rc = ipc_pair(pair, e);
    if (rc < 0) {
        return rc;
    }
    if ((rc = super_key_grant(s, KEYD_GRANT, grant, pair[0], e)) < 0) {
        sys_close(pair[0]);
        sys_close(pair[1]);
        return rc;
    }
    if (ret_near) {
        *ret_near = pair[0];
    } else {
        sys_close(pair[0]);
    }
    return pair[1];
}
