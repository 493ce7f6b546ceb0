/* Volumes as folders under <root>/pods/<uid>/volumes/<name>. Content of ConfigMaps, Secrets and projections is written as
 * upstream's kubelet does: files in a dated folder, `..data` a link to it, swapped at once; names link through `..data`. */
#include "internal/kubelet/kl_int.h"

#include "internal/base/rand.h"
#include "internal/kube/kube.h"
#include "internal/sys/sys.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const kinds[] = {"emptyDir",  "configMap",   "secret",
                                    "projected", "downwardAPI", "hostPath"};

static const char *kind_of(const struct json *v) {
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        if (json_get(v, kinds[i])) {
            return kinds[i];
        }
    }
    return NULL;
}

int kl_volumes_check(const struct kl_pod *p, struct err *e) {
    JSON_EACH(it, v, json_at(p->obj, "spec", "volumes")) {
        if (kind_of(v) || json_len(v) < 2) { /* without a source it is an emptyDir */
            continue;
        }
        const char *other = "?";
        JSON_EACH_KV(m, key, x, v) {
            (void)x;
            other = str_eq(key, "name") ? other : key;
        }
        return err_set(e, ERR_UNSUPPORTED, "volume %s: kind %s is not supported",
                       json_str_or(json_get(v, "name"), ""), other);
    }
    return 0;
}

/* ---- files of one volume, collected and then written ---- */

struct item {
    char path[256];
    uint32_t mode;
    struct buf data;
};
struct payload {
    struct item *v;
    size_t n;
    struct kl_pod *p;
    struct err *e;
};
enum { LIM_ITEMS = 1024 };

static void payload_fini(struct payload *pl) {
    for (size_t i = 0; i < pl->n; i++) {
        secret_wipe(pl->v[i].data.p, pl->v[i].data.n);
        buf_fini(&pl->v[i].data);
    }
    free(pl->v);
}

static int add_item(struct payload *pl, const char *path, uint32_t mode, struct span data,
                    bool is_b64) {
    struct item *v = mem_array(pl->v, pl->n + 1, sizeof(*v), LIM_ITEMS);
    if (!v) {
        return err_set(pl->e, ERR_LIMIT, "volume has more than %d files", LIM_ITEMS);
    }
    pl->v = v;
    struct item *i = &v[pl->n];
    *i = (struct item){.mode = mode, .data = BUF_INIT(LIM_KL_VOLUME_FILE)};
    if (str_put(i->path, sizeof(i->path), "%s", path) < 0 || path[0] == '/' || path[0] == 0 ||
        strstr(path, "..")) {
        return err_set(pl->e, ERR_INVALID, "volume: bad path %s", path);
    }
    pl->n++;
    if ((is_b64 ? b64_decode(&i->data, data) : buf_span(&i->data, data)) < 0) {
        return err_set(pl->e, ERR_INVALID, "volume: %s cannot be decoded", path);
    }
    return 0;
}

static uint32_t mode_of(const struct json *item, const struct json *src, uint32_t def) {
    return (uint32_t)json_i64_at(item, json_i64_at(src, def, "defaultMode"), "mode") & 0777;
}

/* A ConfigMap or Secret: all keys, or those of `items`. */
static int add_object(struct payload *pl, const char *resource, const char *name,
                      const struct json *src, uint32_t def) {
    bool is_secret = str_eq(resource, "secrets");
    const struct json *obj = kl_ref_get(pl->p, resource, name), *items = json_get(src, "items");
    bool is_optional = json_bool_at(src, false, "optional");
    if (!obj) {
        return is_optional ? 0
                           : err_set(pl->e, ERR_NOT_FOUND, "%s \"%s\" not found",
                                     is_secret ? "secret" : "configmap", name);
    }
    const struct json *data = json_get(obj, "data"), *binary = json_get(obj, "binaryData");
    JSON_EACH(it, i, items) {
        const char *key = json_str_or(json_get(i, "key"), ""),
                   *path = json_str_or(json_get(i, "path"), "");
        const struct json *v = json_get(data, key), *b = json_get(binary, key);
        if (!v && !b && !is_optional) {
            return err_set(pl->e, ERR_NOT_FOUND, "%s %s has no key %s", resource, name, key);
        }
        if ((v || b) &&
            add_item(pl, path, mode_of(i, src, def), json_span(v ? v : b), is_secret || !v) < 0) {
            return -(int)pl->e->code;
        }
    }
    if (items) {
        return 0;
    }
    JSON_EACH_KV(all, key, v, data) {
        if (add_item(pl, key, mode_of(NULL, src, def), json_span(v), is_secret) < 0) {
            return -(int)pl->e->code;
        }
    }
    JSON_EACH_KV(bin, key2, v, binary) {
        if (add_item(pl, key2, mode_of(NULL, src, def), json_span(v), true) < 0) {
            return -(int)pl->e->code;
        }
    }
    return 0;
}

static int add_downward(struct payload *pl, const struct json *src, uint32_t def) {
    struct arena a = ARENA_INIT(4 << 20);
    int rc = 0;
    JSON_EACH(it, i, json_get(src, "items")) {
        const char *field = json_str_at(i, "fieldRef", "fieldPath"), *value;
        value = field ? kl_field(pl->p, &a, field)
                      : kl_resource_field(pl->p, &a, json_get(i, "resourceFieldRef"), "");
        if (!value) {
            rc = err_set(pl->e, ERR_INVALID, "downward API: %s cannot be resolved",
                         field ? field : "resourceFieldRef");
        } else if (rc == 0) {
            rc = add_item(pl, json_str_or(json_get(i, "path"), ""), mode_of(i, src, def),
                          span_str(value), false);
        }
    }
    arena_fini(&a);
    return rc;
}

static int add_projected(struct payload *pl, const char *volume, const struct json *src) {
    uint32_t def = mode_of(NULL, src, 0644);
    JSON_EACH(it, s, json_get(src, "sources")) {
        const struct json *cm = json_get(s, "configMap"), *sec = json_get(s, "secret"),
                          *down = json_get(s, "downwardAPI"),
                          *tok = json_get(s, "serviceAccountToken");
        int rc = 0;
        if (cm) {
            rc = add_object(pl, "configmaps", json_str_or(json_get(cm, "name"), ""), cm, def);
        } else if (sec) {
            rc = add_object(pl, "secrets", json_str_or(json_get(sec, "name"), ""), sec, def);
        } else if (down) {
            rc = add_downward(pl, down, def);
        } else if (tok) {
            char key[400];
            const char *path = json_str_or(json_get(tok, "path"), "token");
            const struct json *t =
                str_put(key, sizeof(key), "%s/%s", volume, path) < 0
                    ? NULL
                    : json_at(kl_ref_get(pl->p, "tokens", key), "status", "token");
            rc = t ? add_item(pl, path, 0644, json_span(t), false)
                   : err_set(pl->e, ERR_UNAVAILABLE, "no token for volume %s", volume);
        } else {
            rc = err_set(pl->e, ERR_UNSUPPORTED,
                         "volume %s: this kind of projection is not supported", volume);
        }
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

/* ---- writing ---- */

static bool is_same(const struct payload *pl, const char *dir) {
    char path[800];
    for (size_t i = 0; i < pl->n; i++) {
        AUTO(buf) struct buf now = BUF_INIT(LIM_KL_VOLUME_FILE + 1);
        struct err e = ERR_INIT;
        if (str_put(path, sizeof(path), "%s/..data/%s", dir, pl->v[i].path) < 0 ||
            sys_file_read(AT_FDCWD, path, &now, &e) < 0 ||
            !span_eq(buf_view(&now), buf_view(&pl->v[i].data))) {
            return false;
        }
    }
    return pl->n > 0;
}

static int write_item(const char *base, const struct item *i, gid_t gid, struct err *e) {
    char path[800];
    if (str_put(path, sizeof(path), "%s/%s", base, i->path) < 0) {
        return err_set(e, ERR_LIMIT, "volume path too long");
    }
    for (char *slash = path + strlen(base) + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = 0;
        if (mkdir(path, 0755) < 0 && errno != EEXIST) {
            return err_sys(e, errno, "%s", path);
        }
        *slash = '/';
    }
    AUTO_FD int fd = sys_open(AT_FDCWD, path, O_WRONLY | O_CREAT | O_EXCL, i->mode, e);
    if (fd < 0 || sys_write_all(fd, buf_view(&i->data), e) < 0) {
        return -(int)e->code;
    }
    uint32_t mode = gid ? i->mode | (i->mode & 0400) >> 3 : i->mode;
    if (fchmod(fd, mode) < 0 || (gid && fchown(fd, 0, gid) < 0)) {
        return err_sys(e, errno, "%s", path);
    }
    return 0;
}

/* First part of every path becomes a link through ..data. */
static int link_names(const struct payload *pl, const char *dir, struct err *e) {
    for (size_t i = 0; i < pl->n; i++) {
        char path[800], target[300];
        int head = (int)strcspn(pl->v[i].path, "/");
        if (str_put(path, sizeof(path), "%s/%.*s", dir, head, pl->v[i].path) < 0 ||
            str_put(target, sizeof(target), "..data/%.*s", head, pl->v[i].path) < 0) {
            return err_set(e, ERR_LIMIT, "volume path too long");
        }
        if (symlink(target, path) < 0 && errno != EEXIST) {
            return err_sys(e, errno, "%s", path);
        }
    }
    return 0;
}

static int write_payload(const struct payload *pl, const char *dir, struct err *e) {
    char base[700], link[700], tmp[700], old[300] = "", stamp[64];
    gid_t gid = (gid_t)json_i64_at(pl->p->obj, 0, "spec", "securityContext", "fsGroup");
    if (is_same(pl, dir)) {
        return 0;
    }
    if (sys_mkdirs(dir, 0755, e) < 0) {
        return -(int)e->code;
    }
    if (str_put(stamp, sizeof(stamp), "..%llu", (unsigned long long)clock_wall_ns()) < 0 ||
        str_put(base, sizeof(base), "%s/%s", dir, stamp) < 0 ||
        str_put(link, sizeof(link), "%s/..data", dir) < 0 ||
        str_put(tmp, sizeof(tmp), "%s/..data_tmp", dir) < 0) {
        return err_set(e, ERR_LIMIT, "volume path too long");
    }
    if (mkdir(base, 0755) < 0) {
        return err_sys(e, errno, "%s", base);
    }
    for (size_t i = 0; i < pl->n; i++) {
        if (write_item(base, &pl->v[i], gid, e) < 0) {
            return -(int)e->code;
        }
    }
    ssize_t n = readlink(link, old, sizeof(old) - 1);
    old[n > 0 ? n : 0] = 0;
    IGNORE_ERR(unlink(tmp), "left by an interrupted run");
    if (symlink(stamp, tmp) < 0 || rename(tmp, link) < 0) {
        return err_sys(e, errno, "%s", link);
    }
    if (old[0] && str_put(base, sizeof(base), "%s/%s", dir, old) == 0) {
        struct err ignored = ERR_INIT;
        IGNORE_ERR(sys_rmtree(AT_FDCWD, base, &ignored), "only disk space is lost");
    }
    return link_names(pl, dir, e);
}

static int write_content(struct kl_pod *p, const struct json *v, const char *dir, struct err *e) {
    struct payload pl = {.p = p, .e = e};
    const char *name = json_str_or(json_get(v, "name"), "");
    const struct json *cm = json_get(v, "configMap"), *sec = json_get(v, "secret"),
                      *down = json_get(v, "downwardAPI"), *proj = json_get(v, "projected");
    int rc;
    if (cm) {
        rc = add_object(&pl, "configmaps", json_str_or(json_get(cm, "name"), ""), cm, 0644);
    } else if (sec) {
        rc = add_object(&pl, "secrets", json_str_or(json_get(sec, "secretName"), ""), sec, 0644);
    } else if (down) {
        rc = add_downward(&pl, down, 0644);
    } else {
        rc = add_projected(&pl, name, proj);
    }
    rc = rc < 0 ? rc : write_payload(&pl, dir, e);
    payload_fini(&pl);
    return rc;
}

static int make_empty(struct kl_pod *p, const struct json *v, const char *dir, struct err *e) {
    const struct json *src = json_get(v, "emptyDir");
    gid_t gid = (gid_t)json_i64_at(p->obj, 0, "spec", "securityContext", "fsGroup");
    struct stat st;
    bool is_new = stat(dir, &st) < 0;
    if (sys_mkdirs(dir, 0777, e) < 0) {
        return -(int)e->code;
    }
    if (!is_new) {
        return 0;
    }
    if (str_eq(json_str_at(src, "medium"), "Memory")) {
        char data[64] = "mode=0777";
        int64_t size = 0;
        if (kube_quantity_value(json_span(json_get(src, "sizeLimit")), &size) == 0 && size > 0) {
            IGNORE_ERR(str_put(data, sizeof(data), "mode=0777,size=%lld", (long long)size), "fits");
        }
        if (mount("tmpfs", dir, "tmpfs", MS_NOSUID | MS_NODEV, data) < 0) {
            return err_sys(e, errno, "tmpfs for volume %s", json_str_or(json_get(v, "name"), ""));
        }
    }
    if (chmod(dir, gid ? 02777 : 0777) < 0 || (gid && chown(dir, 0, gid) < 0)) {
        return err_sys(e, errno, "%s", dir);
    }
    return 0;
}

static int check_host_path(const struct json *src, struct err *e) {
    const char *path = json_str_or(json_get(src, "path"), ""),
               *type = json_str_or(json_get(src, "type"), "");
    struct stat st;
    bool exists = stat(path, &st) == 0;
    if (!exists && str_eq(type, "DirectoryOrCreate")) {
        return sys_mkdirs(path, 0755, e);
    }
    if (!exists && str_eq(type, "FileOrCreate")) {
        AUTO_FD int fd = sys_open(AT_FDCWD, path, O_WRONLY | O_CREAT, 0644, e);
        return fd < 0 ? fd : 0;
    }
    if (!exists && !*type) {
        return sys_mkdirs(path, 0755, e);
    }
    bool ok =
        exists && (!*type || str_eq(type, "DirectoryOrCreate") || str_eq(type, "FileOrCreate") ||
                   (str_eq(type, "Directory") && S_ISDIR(st.st_mode)) ||
                   (str_eq(type, "File") && S_ISREG(st.st_mode)) ||
                   (str_eq(type, "Socket") && S_ISSOCK(st.st_mode)) ||
                   (str_eq(type, "CharDevice") && S_ISCHR(st.st_mode)) ||
                   (str_eq(type, "BlockDevice") && S_ISBLK(st.st_mode)));
    return ok ? 0
              : err_set(e, ERR_INVALID, "hostPath type check failed: %s is not a %s", path, type);
}

int kl_volume_path(const struct kl_pod *p, const struct json *volume, struct arena *a,
                   const char **ret, struct err *e) {
    const struct json *host = json_get(volume, "hostPath");
    *ret = host ? arena_str(a, json_span(json_get(host, "path")))
                : arena_fmt(a, "%s/volumes/%s", p->dir, json_str_or(json_get(volume, "name"), ""));
    return *ret ? 0 : err_set(e, ERR_LIMIT, "volume path too long");
}

int kl_volumes_write(struct kl_pod *p, struct err *e) {
    JSON_EACH(it, v, json_at(p->obj, "spec", "volumes")) {
        const char *kind = kind_of(v), *name = json_str_or(json_get(v, "name"), "");
        char dir[640];
        int rc;
        if (str_put(dir, sizeof(dir), "%s/volumes/%s", p->dir, name) < 0) {
            return err_set(e, ERR_LIMIT, "volume path too long");
        }
        if (str_eq(kind, "hostPath")) {
            rc = check_host_path(json_get(v, "hostPath"), e);
        } else if (!kind || str_eq(kind, "emptyDir")) {
            rc = make_empty(p, v, dir, e);
        } else {
            rc = write_content(p, v, dir, e);
        }
        if (rc < 0) {
            return err_wrap(e, "volume \"%s\"", name);
        }
    }
    return 0;
}

void kl_volumes_remove(struct kl_pod *p) {
    struct err e = ERR_INIT;
    JSON_EACH(it, v, json_at(p->obj, "spec", "volumes")) {
        char dir[640];
        if (str_eq(json_str_at(v, "emptyDir", "medium"), "Memory") &&
            str_put(dir, sizeof(dir), "%s/volumes/%s", p->dir,
                    json_str_or(json_get(v, "name"), "")) == 0) {
            IGNORE_ERR(umount2(dir, MNT_DETACH), "never mounted");
        }
    }
    IGNORE_ERR(sys_rmtree(AT_FDCWD, p->dir, &e),
               "only space is lost; the next start of the node has none of it");
}

int kl_hosts_file(struct kl_pod *p, char *ret, size_t cap, struct err *e) {
    AUTO(buf) struct buf b = BUF_INIT(65536);
    const struct json *spec = json_get(p->obj, "spec");
    const char *host = json_str_or(json_get(spec, "hostname"), p->name),
               *sub = json_str_at(spec, "subdomain");
    if (sys_mkdirs(p->dir, 0750, e) < 0) {
        return -(int)e->code;
    }
    if (str_put(ret, cap, "%s/etc-hosts", p->dir) < 0) {
        return err_set(e, ERR_LIMIT, "path too long");
    }
    if (json_bool_at(spec, false, "hostNetwork")) {
        if (sys_file_read(AT_FDCWD, "/etc/hosts", &b, e) < 0) {
            return -(int)e->code;
        }
    } else {
        buf_str(
            &b,
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost "
            "ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\n"
            "fe00::2\tip6-allrouters\n");
        for (size_t i = 0; i < p->n_ips; i++) {
            buf_fmt(&b, "%s\t", p->ips[i]);
            if (sub && *sub) {
                buf_fmt(&b, "%s.%s.%s.svc.%s\t", host, sub, p->ns,
                        p->k->o.cluster_domain ? p->k->o.cluster_domain : "cluster.local");
            }
            buf_fmt(&b, "%s\n", host);
        }
    }
    JSON_EACH(it, alias, json_get(spec, "hostAliases")) {
        buf_fmt(&b, "%s", json_str_or(json_get(alias, "ip"), ""));
        JSON_EACH(names, n, json_get(alias, "hostnames")) {
            buf_fmt(&b, "\t%s", json_str_or(n, ""));
        }
        buf_u8(&b, '\n');
    }
    /* replaced in place: a running container has this very file mounted */
    AUTO_FD int fd = sys_open(AT_FDCWD, ret, O_WRONLY | O_CREAT | O_TRUNC, 0644, e);
    return fd < 0 ? fd : sys_write_all(fd, buf_view(&b), e);
}
