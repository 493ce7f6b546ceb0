#include "cmd/file_watch.h"

#include "internal/base/rand.h"
#include "internal/log/log.h"
#include "internal/loop/loop.h"
#include "internal/sys/sys.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    LINKS = 40, /* on the way to one file, as the kernel counts */
    LIM_PATH = 1024,
    CHANGES = IN_CLOSE_WRITE | IN_CREATE | IN_MOVED_TO,
    GONE = IN_DELETE_SELF | IN_MOVE_SELF | IN_IGNORED | IN_Q_OVERFLOW,
};

/* A name in a directory: a file, a link to it, or what is not there yet. */
struct spot {
    int wd;
    char *name;
};

struct file_watch {
    struct loop *l;
    struct loop_io io;
    struct loop_timer settle;
    char **paths;
    size_t n_paths;
    struct spot spots[FILE_WATCH_SPOTS];
    size_t n_spots;
    const char *who;
    file_watch_read *read;
    void *ctx;
    char last[ERR_MSG_MAX]; /* why reading failed; empty: it did not */
};

static bool has_wd(const struct spot *v, size_t n, int wd) {
    for (size_t i = 0; i < n; i++) {
        if (v[i].wd == wd) {
            return true;
        }
    }
    return false;
}

/* False: that was the last one that can be watched. */
static bool note(struct file_watch *w, const char *dir, const char *name) {
    int wd = inotify_add_watch(w->io.fd, dir, CHANGES | IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR);
    if (wd < 0 || w->n_spots == FILE_WATCH_SPOTS) {
        LOG_WARN(w->who, "changes of a file will not be seen", F_STR("directory", dir),
                 F_STR("file", name), F_STR("reason", wd < 0 ? err_sys_name(errno) : "too many"));
        return false;
    }
    w->spots[w->n_spots++] = (struct spot){wd, str_dup(name)};
    return true;
}

/* The first component of rest into name; rest moves behind it. */
static bool component(char **rest, char name[NAME_MAX + 1]) {
    char *s = *rest;
    while (*s == '/') {
        s++;
    }
    size_t n = strcspn(s, "/");
    if (n == 0 || n > NAME_MAX) {
        return false;
    }
    memcpy(name, s, n);
    name[n] = '\0';
    *rest = s + n;
    return true;
}

static bool is_last(const char *rest) {
    return rest[strspn(rest, "/")] == '\0';
}

/* Notes every link on the way, and the end of the way. */
static void walk(struct file_watch *w, const char *path) {
    char rest[LIM_PATH], dir[LIM_PATH], at[LIM_PATH], to[LIM_PATH], behind[LIM_PATH];
    char name[NAME_MAX + 1];
    char *p = rest;
    bool ok = str_put(rest, sizeof(rest), "%s", path) >= 0 &&
              str_put(dir, sizeof(dir), "%s", path[0] == '/' ? "/" : ".") >= 0;
    for (int links = 0; ok && links < LINKS && component(&p, name);) {
        struct stat st;
        if (str_put(at, sizeof(at), "%s/%s", dir, name) < 0) {
            return;
        }
        bool there = lstat(at, &st) == 0;
        bool is_link = there && S_ISLNK(st.st_mode);
        if (there && !is_link && !is_last(p)) {
            ok = str_put(dir, sizeof(dir), "%s", at) >= 0;
            continue;
        }
        links++;
        ssize_t n = note(w, dir, name) && is_link ? readlink(at, to, sizeof(to) - 1) : 0;
        if (n <= 0) {
            return;
        }
        to[n] = '\0';
        ok = str_put(behind, sizeof(behind), "%s/%s", to, p) >= 0 &&
             str_put(rest, sizeof(rest), "%s", behind) >= 0 &&
             (to[0] != '/' || str_put(dir, sizeof(dir), "/") >= 0);
        p = rest;
    }
}

static void look(struct file_watch *w) {
    struct spot old[FILE_WATCH_SPOTS];
    size_t n_old = w->n_spots;
    memcpy(old, w->spots, sizeof(old));
    w->n_spots = 0;
    for (size_t i = 0; i < w->n_paths; i++) {
        walk(w, w->paths[i]);
    }
    for (size_t i = 0; i < n_old; i++) {
        if (!has_wd(w->spots, w->n_spots, old[i].wd)) {
            inotify_rm_watch(w->io.fd, old[i].wd);
        }
        free(old[i].name);
    }
}

/* Before reading it looks where the files are now: what changes from here on is another change. */
static void on_settled(struct loop_timer *t) {
    struct file_watch *w = CONTAINER_OF(t, struct file_watch, settle);
    struct err e = ERR_INIT;
    look(w);
    if (w->read(w->ctx, &e) >= 0) {
        LOG_INFO(w->who, "certificates read again");
        w->last[0] = '\0';
    } else if (!str_eq(w->last, e.msg)) {
        LOG_ERROR(w->who, "certificates are not read again, the old ones stay in use", F_ERR(&e));
        IGNORE_ERR(str_put(w->last, sizeof(w->last), "%s", e.msg), "same size");
    }
}

static bool concerns(const struct file_watch *w, const struct inotify_event *ev) {
    for (size_t i = 0; i < w->n_spots; i++) {
        if (w->spots[i].wd == ev->wd && ev->len && str_eq(w->spots[i].name, ev->name)) {
            return true;
        }
    }
    return (ev->mask & IN_Q_OVERFLOW) ||
           ((ev->mask & GONE) && has_wd(w->spots, w->n_spots, ev->wd));
}

static void on_inotify(struct loop_io *io, uint32_t events) {
    struct file_watch *w = CONTAINER_OF(io, struct file_watch, io);
    _Alignas(struct inotify_event) char room[4096];
    bool changed = false;
    ssize_t n;
    (void)events;
    while ((n = read(io->fd, room, sizeof(room))) > 0) {
        for (const char *p = room; p < room + n;) {
            const struct inotify_event *ev = (const struct inotify_event *)(const void *)p;
            changed |= concerns(w, ev);
            p += sizeof(*ev) + ev->len;
        }
    }
    if (changed && !loop_timer_active(&w->settle)) {
        loop_timer_start(w->l, &w->settle, FILE_WATCH_SETTLE_MS * NS_PER_MS, on_settled,
                         "certificates");
    }
}

int file_watch_new(struct loop *l, const char *const *paths, size_t n, const char *who,
                   file_watch_read *read, void *ctx, struct file_watch **ret, struct err *e) {
    struct file_watch *w = new_zero(struct file_watch);
    w->l = l;
    w->who = who;
    w->read = read;
    w->ctx = ctx;
    w->io.fd = -1;
    w->paths = mem_array(NULL, n, sizeof(*w->paths), FILE_WATCH_SPOTS);
    for (size_t i = 0; w->paths && i < n; i++) {
        if (paths[i]) {
            w->paths[w->n_paths++] = str_dup(paths[i]);
        }
    }
    *ret = NULL;
    if (!w->n_paths) {
        file_watch_free(w);
        return 0;
    }
    int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    int rc = fd < 0 ? err_sys(e, errno, "inotify")
                    : loop_io_start(l, &w->io, fd, LOOP_READ, on_inotify, "certificates", e);
    w->io.fd = fd;
    if (rc < 0) {
        file_watch_free(w);
        return rc;
    }
    look(w);
    *ret = w;
    return 0;
}

void file_watch_free(struct file_watch *w) {
    if (!w) {
        return;
    }
    loop_timer_stop(&w->settle);
    loop_io_stop(&w->io);
    if (w->io.fd >= 0) {
        sys_close(w->io.fd);
    }
    for (size_t i = 0; i < w->n_spots; i++) {
        free(w->spots[i].name);
    }
    for (size_t i = 0; i < w->n_paths; i++) {
        free(w->paths[i]);
    }
    free(w->paths);
    free(w);
}
