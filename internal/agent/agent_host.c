/* Settings of the machine from the boot document: name, time zone, sysctls, SSH keys, files; and the mounts of the image. */
#include "internal/agent/agent_int.h"
#include "internal/base/rand.h"
#include "internal/netlink/netlink.h"
#include "internal/sys/sys.h"

#include <errno.h>
#include <net/if.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

static int mounts(struct err *e) {
    static const struct {
        const char *source, *target, *type;
        unsigned long flags;
        const char *data;
    } rows[] = {
        {"devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "mode=0620,gid=5,ptmxmode=0666"},
        {"tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777"},
        {"mqueue", "/dev/mqueue", "mqueue", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL},
        {"cgroup2", "/sys/fs/cgroup", "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL},
        {"tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777"},
        {"tmpfs", "/var/log", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0755,size=25%"},
        /* an overlay cannot lie on an overlay: container roots need a file system of their own */
        {"tmpfs", "/var/lib/containerd", "tmpfs", MS_NODEV, "mode=0711,size=75%"},
        {"tmpfs", "/var/lib/kubelet", "tmpfs", MS_NODEV, "mode=0755,size=50%"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        if (agent_mount(rows[i].source, rows[i].target, rows[i].type, rows[i].flags, rows[i].data,
                        e) < 0) {
            return -(int)e->code;
        }
    }
    /* mounts made for pods must be seen by containerd and the other way round */
    if (mount(NULL, "/", NULL, MS_REC | MS_SHARED, NULL) < 0) {
        return err_sys(e, errno, "sharing mounts");
    }
    return 0;
}

/* Every controller there is, for the children of the root group. */
static void cgroups(void) {
    AUTO(buf) struct buf have = BUF_INIT(4096);
    struct err e = ERR_INIT;
    if (sys_file_read(AT_FDCWD, "/sys/fs/cgroup/cgroup.controllers", &have, &e) < 0) {
        agent_say("cgroups: %s", e.msg);
        return;
    }
    struct span s = buf_view(&have), line;
    for (struct span w; span_line(&s, &line) == 0;) {
        while (span_next(&line, ' ', &w)) {
            char text[64];
            struct err one = ERR_INIT;
            if (w.n > 0 && str_put(text, sizeof(text), "+%.*s", SPAN_FMT(w)) == 0 &&
                agent_write_file("/sys/fs/cgroup/cgroup.subtree_control", text, &one) < 0) {
                agent_say("cgroups: %.*s: %s", SPAN_FMT(w), one.msg);
            }
        }
    }
}

static void sysctl(struct span key, const char *value) {
    char path[256] = "/proc/sys/";
    struct err e = ERR_INIT;
    size_t at = strlen(path);
    if (key.n == 0 || at + key.n >= sizeof(path) || span_index(key, 0) >= 0) {
        return;
    }
    for (size_t i = 0; i < key.n;
         i++) { /* dots separate; a slash in a name (VLANs) is written as such */
        path[at + i] = key.p[i] == '.' ? '/' : (char)key.p[i];
    }
    path[at + key.n] = 0;
    if (strstr(path, "/../") || agent_write_file(path, value, &e) < 0) {
        agent_say("sysctl %.*s: %s", SPAN_FMT(key), e.code ? e.msg : "refused");
    }
}

static void sysctl_file(const char *path) {
    AUTO(buf) struct buf b = BUF_INIT(65536);
    struct err e = ERR_INIT;
    if (sys_file_read(AT_FDCWD, path, &b, &e) < 0) {
        agent_say("%s: %s", path, e.msg);
        return;
    }
    struct span s = buf_view(&b);
    for (struct span line; span_line(&s, &line) == 0;) {
        struct span key;
        char value[256];
        line = span_trim(line);
        if (line.n > 0 && line.p[0] != '#' && span_until(&line, '=', &key) == 0 &&
            span_to_cstr(span_trim(line), value, sizeof(value)) == 0) {
            sysctl(span_trim(key), value);
        }
    }
}

static void timezone_link(const char *zone) {
    char target[256];
    if (!zone || !*zone) {
        return;
    }
    if (strstr(zone, "..") || str_put(target, sizeof(target), "/usr/share/zoneinfo/%s", zone) < 0 ||
        access(target, R_OK) < 0) {
        agent_say("time zone %s is not in the image", zone);
        return;
    }
    IGNORE_ERR(unlink("/etc/localtime"), "may not exist");
    if (symlink(target, "/etc/localtime") < 0) {
        agent_say("time zone: %s", err_sys_name(errno));
    }
}

static int hostname_set(const char *name, struct err *e) {
    AUTO(buf) struct buf b = BUF_INIT(1024);
    if (!name || !*name || strlen(name) > 63) {
        return err_set(e, ERR_INVALID, "the boot document gives no usable host name");
    }
    if (sethostname(name, strlen(name)) < 0) {
        return err_sys(e, errno, "host name");
    }
    buf_fmt(&b, "%s\n", name);
    if (sys_file_replace(AT_FDCWD, "/etc/hostname", buf_view(&b), 0644, e) < 0) {
        return -(int)e->code;
    }
    buf_reset(&b);
    buf_fmt(&b, "127.0.0.1 localhost\n127.0.1.1 %s\n::1 localhost ip6-localhost ip6-loopback\n",
            name);
    return sys_file_replace(AT_FDCWD, "/etc/hosts", buf_view(&b), 0644, e);
}

static void ssh_keys(const struct json *keys) {
    AUTO(buf) struct buf b = BUF_INIT(256 << 10);
    struct err e = ERR_INIT;
    JSON_EACH(it, k, keys) {
        if (json_is_str(k)) {
            buf_fmt(&b, "%s\n", json_str(k));
        }
    }
    if (b.n > 0 &&
        (sys_mkdirs("/root/.ssh", 0700, &e) < 0 ||
         sys_file_replace(AT_FDCWD, "/root/.ssh/authorized_keys", buf_view(&b), 0600, &e) < 0)) {
        agent_say("SSH keys: %s", e.msg);
    }
}

/* files: [{path, content, mode}] */
static void files(const struct json *list) {
    JSON_EACH(it, f, list) {
        const char *path = json_str_at(f, "path"),
                   *content = json_str_or(json_get(f, "content"), "");
        struct err e = ERR_INIT;
        char dir[512];
        const char *slash = path ? strrchr(path, '/') : NULL;
        if (!slash || path[0] != '/' || strstr(path, "/../") ||
            str_put(dir, sizeof(dir), "%.*s", (int)(slash - path), path) < 0) {
            agent_say("file %s: not an absolute path", path ? path : "(none)");
            continue;
        }
        mode_t mode = (mode_t)(json_i64_at(f, 0644, "mode") & 07777);
        if ((dir[0] && sys_mkdirs(dir, 0755, &e) < 0) ||
            sys_file_replace(AT_FDCWD, path, span_str(content), mode, &e) < 0) {
            agent_say("file %s: %s", path, e.msg);
        }
    }
}

static void modules(void) {
    static const char *const names[] = {"overlay", "br_netfilter", "nf_conntrack"};
    struct agent_modules m;
    struct err e = ERR_INIT;
    if (agent_modules_init(&m, &e) < 0) {
        agent_say("modules: %s", e.msg);
        agent_modules_fini(&m);
        return;
    }
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        struct err one = ERR_INIT;
        if (agent_module_load(&m, names[i], &one) < 0) {
            agent_say("modules: %s", one.msg);
        }
    }
    agent_modules_coldplug(&m);
    agent_modules_fini(&m);
}

int agent_host_setup(const struct json *doc, struct err *e) {
    struct err lo = ERR_INIT;
    if (mounts(e) < 0) {
        return -(int)e->code;
    }
    cgroups();
    modules();
    if (netlink_link_up(if_nametoindex("lo"), true, &lo) < 0) {
        agent_say("lo: %s", lo.msg);
    }
    if (hostname_set(json_str_at(doc, "hostname"), e) < 0) {
        return -(int)e->code;
    }
    timezone_link(json_str_at(doc, "timezone"));
    sysctl_file("/etc/sysctl.d/10-kfarm.conf");
    JSON_EACH_KV(it, key, v, json_get(doc, "sysctls")) {
        sysctl(span_str(key), json_str_or(v, ""));
    }
    ssh_keys(json_get(doc, "sshAuthorizedKeys"));
    files(json_get(doc, "files"));
    return 0;
}
