/* The processes of a running server, found without its help: status must work when nothing else does. */
#include "cmd/admin.h"

#include "internal/sys/sys.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

enum { LIM_PROC_FILE = 4 << 20 };

static void age(uint64_t seconds, char dst[24]) {
    unsigned long long s = seconds;
    (void)(s < 120      ? str_put(dst, 24, "%llus", s)
           : s < 7200   ? str_put(dst, 24, "%llum", s / 60)
           : s < 172800 ? str_put(dst, 24, "%lluh", s / 3600)
                        : str_put(dst, 24, "%llud", s / 86400));
}

/* Who holds the lock of the data directory; 0: nobody. The kernel tells in /proc/locks, by device and inode. */
static pid_t lock_holder(const char *path) {
    AUTO(buf) struct buf b = BUF_INIT(LIM_PROC_FILE);
    struct stat st;
    char want[64];
    if (stat(path, &st) < 0 || sys_file_read(AT_FDCWD, "/proc/locks", &b, NULL) < 0 ||
        str_put(want, sizeof(want), "%02x:%02x:%llu", major(st.st_dev), minor(st.st_dev),
                (unsigned long long)st.st_ino) < 0) {
        return 0;
    }
    struct span all = buf_view(&b), line;
    while (span_line(&all, &line) == 0) {
        /* 1: FLOCK  ADVISORY  WRITE 1234 fd:01:5678 0 EOF */
        struct span f[8];
        size_t n = 0;
        while (n < ARRAY_LEN(f) && span_next(&line, ' ', &f[n])) {
            n += f[n].n > 0;
        }
        uint64_t pid;
        if (n >= 6 && span_eq_str(f[1], "FLOCK") && span_eq_str(f[5], want) &&
            span_to_u64(f[4], 1, INT32_MAX, &pid) == 0) {
            return (pid_t)pid;
        }
    }
    return 0;
}

struct process {
    char role[32], scope[64];
    uint64_t up_s, pss_kib;
    unsigned uid;
};

static bool proc_read(pid_t pid, const char *name, struct buf *b) {
    char path[64];
    return str_put(path, sizeof(path), "/proc/%d/%s", (int)pid, name) == 0 &&
           sys_file_read(AT_FDCWD, path, b, NULL) == 0;
}

/* The number after `key` in a file of "Key:  number …" lines. */
static uint64_t proc_number(pid_t pid, const char *file, const char *key) {
    AUTO(buf) struct buf b = BUF_INIT(LIM_PROC_FILE);
    uint64_t v = 0;
    if (!proc_read(pid, file, &b)) {
        return 0;
    }
    struct span all = buf_view(&b), line, word;
    while (span_line(&all, &line) == 0) {
        if (!span_starts(line, key) || span_skip(&line, strlen(key)) < 0) {
            continue;
        }
        for (uint8_t *p = (uint8_t *)(uintptr_t)line.p; p < line.p + line.n; p++) {
            *p = *p == '\t' ? ' ' : *p; /* our own copy */
        }
        while (span_next(&line, ' ', &word)) {
            if (word.n) {
                return span_to_u64(word, 0, UINT64_MAX, &v) == 0 ? v : 0;
            }
        }
    }
    return 0;
}

static bool process_look(pid_t pid, struct process *ret) {
    AUTO(buf) struct buf args = BUF_INIT(LIM_PROC_FILE), st = BUF_INIT(8192), up = BUF_INIT(256);
    memset(ret, 0, sizeof(*ret));
    if (!proc_read(pid, "cmdline", &args) || !proc_read(pid, "stat", &st) ||
        sys_file_read(AT_FDCWD, "/proc/uptime", &up, NULL) < 0) {
        return false;
    }
    struct span rest = buf_view(&args), a;
    for (size_t i = 0; span_next(&rest, 0, &a); i++) {
        if (i == 1 && span_to_cstr(a, ret->role, sizeof(ret->role)) < 0) {
            return false;
        }
        if (span_starts(a, "--scope=") && span_skip(&a, strlen("--scope=")) == 0 &&
            span_to_cstr(a, ret->scope, sizeof(ret->scope)) < 0) {
            return false;
        }
    }
    /* The name in stat may hold spaces and parentheses; field 22, the start time, is the 20th after its end. */
    struct span s = buf_view(&st), f;
    uint64_t start = 0, now = 0;
    for (const uint8_t *p = s.p + s.n; s.n && p > s.p; p--) {
        if (p[-1] == ')') {
            s = span_of(p, (size_t)(s.p + s.n - p));
            break;
        }
    }
    s = span_trim(s);
    for (size_t i = 1; i <= 20 && span_next(&s, ' ', &f); i++) {
        start = i == 20 && span_to_u64(f, 0, UINT64_MAX, &start) == 0 ? start : 0;
    }
    struct span u = buf_view(&up);
    if (span_next(&u, '.', &f) && span_to_u64(f, 0, UINT32_MAX, &now) == 0) {
        uint64_t began = start / (uint64_t)sysconf(_SC_CLK_TCK);
        ret->up_s = now > began ? now - began : 0;
    }
    ret->pss_kib = proc_number(pid, "smaps_rollup", "Pss:");
    ret->uid = (unsigned)proc_number(pid, "status", "Uid:");
    return true;
}

static const char *cluster_name(const struct json *tenants, const char *scope) {
    if (!scope[0] || str_eq(scope, "admin") || str_eq(scope, "*")) {
        return "admin";
    }
    JSON_EACH(it, t, json_get(tenants, "items")) {
        if (str_eq(json_str_at(t, "metadata", "uid"), scope)) {
            return json_str_or(json_at(t, "metadata", "name"), scope);
        }
    }
    return scope;
}

static void print_one(pid_t pid, const struct json *tenants, uint64_t *total_kib) {
    struct process p;
    char up[24];
    if (!process_look(pid, &p)) {
        return; /* ended meanwhile */
    }
    age(p.up_s, up);
    printf("  %-12s %-20s %-8d %-7u %8.1f  %s\n", p.role, cluster_name(tenants, p.scope), (int)pid,
           p.uid, (double)p.pss_kib / 1024, up);
    *total_kib += p.pss_kib;
}

int status_roles(const char *data_dir, const struct json *tenants, struct err *e) {
    AUTO_FREE char *lock = str_fmt("%s/lock", data_dir);
    AUTO(buf) struct buf kids = BUF_INIT(LIM_PROC_FILE);
    uint64_t total = 0, pid;
    char children[64];
    pid_t sup = lock_holder(lock);
    if (!sup) {
        return err_set(e, ERR_UNAVAILABLE,
                       "no kfarm server runs with its data in %s: start it, or give --data-dir",
                       data_dir);
    }
    printf("ROLES\n  %-12s %-20s %-8s %-7s %8s  %s\n", "ROLE", "CLUSTER", "PID", "USER", "MiB",
           "UP");
    print_one(sup, tenants, &total);
    (void)str_put(children, sizeof(children), "task/%d/children", (int)sup);
    if (proc_read(sup, children, &kids)) {
        struct span all = buf_view(&kids), one;
        while (span_next(&all, ' ', &one)) {
            if (span_to_u64(one, 1, INT32_MAX, &pid) == 0) {
                print_one((pid_t)pid, tenants, &total);
            }
        }
    }
    printf("  %-51s %8.1f\n", "in all", (double)total / 1024);
    return 0;
}
