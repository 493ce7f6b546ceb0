#include "internal/agent/agent_int.h"
#include "internal/sys/sys.h"

#include <dirent.h>
#include <errno.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

int agent_modules_init(struct agent_modules *m, struct err *e) {
    struct utsname u;
    char path[320];
    *m = (struct agent_modules){.dep = BUF_INIT(8 << 20), .alias = BUF_INIT(32 << 20)};
    if (uname(&u) < 0) {
        return err_sys(e, errno, "uname");
    }
    if (str_put(m->base, sizeof(m->base), "/lib/modules/%s", u.release) < 0 ||
        str_put(path, sizeof(path), "%s/modules.dep", m->base) < 0) {
        return err_set(e, ERR_LIMIT, "kernel release too long");
    }
    if (sys_file_read(AT_FDCWD, path, &m->dep, e) < 0 ||
        str_put(path, sizeof(path), "%s/modules.alias", m->base) < 0) {
        return -(int)e->code;
    }
    return sys_file_read(AT_FDCWD, path, &m->alias, e);
}

void agent_modules_fini(struct agent_modules *m) {
    buf_fini(&m->dep);
    buf_fini(&m->alias);
    map_fini(&m->loaded);
}

/* "kernel/drivers/net/virtio_net.ko" is named virtio_net; '-' and '_' are the same. */
static bool is_named(struct span path, const char *name) {
    for (ptrdiff_t slash; (slash = span_index(path, '/')) >= 0;) {
        path = span_of(path.p + slash + 1, path.n - (size_t)slash - 1);
    }
    size_t n = strlen(name);
    if (path.n != n + 3 || !span_ends(path, ".ko")) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        if ((path.p[i] == '-' ? '_' : path.p[i]) != (name[i] == '-' ? '_' : (uint8_t)name[i])) {
            return false;
        }
    }
    return true;
}

static int insert(struct agent_modules *m, struct span path, struct err *e) {
    char full[512];
    if (map_get(&m->loaded, path)) {
        return 0;
    }
    if (str_put(full, sizeof(full), "%s/%.*s", m->base, SPAN_FMT(path)) < 0) {
        return err_set(e, ERR_LIMIT, "module path too long");
    }
    AUTO_FD int fd = sys_open(AT_FDCWD, full, O_RDONLY, 0, e);
    if (fd < 0) {
        return fd;
    }
    if (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST) {
        return err_sys(e, errno, "loading %.*s", SPAN_FMT(path));
    }
    map_put(&m->loaded, path, m);
    return 0;
}

int agent_module_load(struct agent_modules *m, const char *name, struct err *e) {
    struct span s = buf_view(&m->dep);
    for (struct span line; span_line(&s, &line) == 0;) {
        struct span path, deps[64];
        size_t n = 0;
        if (span_until(&line, ':', &path) < 0 || !is_named(path, name)) {
            continue;
        }
        for (struct span d; n < ARRAY_LEN(deps) && span_next(&line, ' ', &d);) {
            if (d.n > 0) {
                deps[n++] = d;
            }
        }
        while (n-- > 0) { /* the nearest stand first, what they need after them */
            if (insert(m, deps[n], e) < 0) {
                return -(int)e->code;
            }
        }
        return insert(m, path, e);
    }
    return err_set(e, ERR_NOT_FOUND, "no kernel module %s", name);
}

static void load_for(struct agent_modules *m, const char *modalias) {
    struct span s = buf_view(&m->alias);
    for (struct span line; span_line(&s, &line) == 0;) {
        struct span word, pattern;
        char text[256], name[128];
        struct err e = ERR_INIT;
        if (span_next(&line, ' ', &word) && span_next(&line, ' ', &pattern) &&
            span_to_cstr(pattern, text, sizeof(text)) == 0 && fnmatch(text, modalias, 0) == 0 &&
            span_to_cstr(line, name, sizeof(name)) == 0 && agent_module_load(m, name, &e) < 0) {
            agent_say("driver %s for %s: %s", name, modalias, e.msg);
        }
    }
}

static void load_for_bus(struct agent_modules *m, const char *bus) {
    char dir_path[320];
    if (str_put(dir_path, sizeof(dir_path), "/sys/bus/%s/devices", bus) < 0) {
        return;
    }
    DIR *dir = opendir(dir_path);
    for (struct dirent *d; dir && (d = readdir(dir));) {
        char path[640], alias[256];
        struct err e = ERR_INIT;
        AUTO(buf) struct buf b = BUF_INIT(4096);
        if (d->d_name[0] != '.' &&
            str_put(path, sizeof(path), "%s/%s/modalias", dir_path, d->d_name) == 0 &&
            sys_file_read(AT_FDCWD, path, &b, &e) == 0 && b.n > 1) {
            buf_trunc(&b, b.n - 1); /* the line feed */
            if (span_to_cstr(buf_view(&b), alias, sizeof(alias)) == 0) {
                load_for(m, alias);
            }
        }
    }
    if (dir) {
        closedir(dir);
    }
}

void agent_modules_coldplug(struct agent_modules *m) {
    size_t before;
    do { /* a bus driver brings devices that need drivers */
        before = m->loaded.n;
        DIR *dir = opendir("/sys/bus");
        for (struct dirent *d; dir && (d = readdir(dir));) {
            if (d->d_name[0] != '.') {
                load_for_bus(m, d->d_name);
            }
        }
        if (dir) {
            closedir(dir);
        }
    } while (m->loaded.n > before);
}
