#include "internal/lin/fault.h"
#include "internal/lin/fault_lanes.h"

#include "internal/base/buf.h"
#include "internal/base/map.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, SECTOR = 512, FDS = 1024, FILES = 64 };

struct page { /* what is in the file is not known to be on the disk */
    int64_t no;
    bool dropped;          /* a failed sync forgot it: later ones do not write it */
    uint8_t durable[PAGE]; /* what is on the disk */
};
struct file {
    dev_t dev;
    ino_t ino;
    char path[256];
    bool created; /* and its folder not synced since */
    int64_t durable_size;
    struct map pages;
};

static struct fault_ctl *ctl;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct file files[FILES];
static size_t n_files;
static struct file *by_fd[FDS];
static uint64_t random_state;

int __real_open(const char *path, int flags, ...);
int __real_openat(int dir, const char *path, int flags, ...);
int __real_close(int fd);
ssize_t __real_pread(int fd, void *p, size_t n, off_t at);
ssize_t __real_pwrite(int fd, const void *p, size_t n, off_t at);
int __real_ftruncate(int fd, off_t n);
int __real_fdatasync(int fd);
int __real_fsync(int fd);
int __real_clock_gettime(clockid_t id, struct timespec *t);
int __wrap_open(const char *path, int flags, ...);
int __wrap_openat(int dir, const char *path, int flags, ...);
int __wrap_close(int fd);
ssize_t __wrap_pread(int fd, void *p, size_t n, off_t at);
ssize_t __wrap_pwrite(int fd, const void *p, size_t n, off_t at);
int __wrap_ftruncate(int fd, off_t n);
int __wrap_fdatasync(int fd);
int __wrap_fsync(int fd);
int __wrap_clock_gettime(clockid_t id, struct timespec *t);

__attribute__((constructor)) static void start(void) {
    const char *fd = getenv("KF_FAULT_FD");
    uint64_t n;
    if (fd && span_to_u64(span_str(fd), 3, FDS, &n) == 0) {
        void *p = mmap(NULL, sizeof(*ctl), PROT_READ | PROT_WRITE, MAP_SHARED, (int)n, 0);
        CHECK(p != MAP_FAILED);
        ctl = p;
        random_state = ctl->seed;
        fault_lanes.seed = random_state;
        fault_lanes.first = ctl->lane_first;
        fault_lanes.late = ctl->lane_late;
        fault_lanes.late_us = 3000;
        __real_close((int)n);
    }
}

static uint32_t luck(uint32_t n) {
    random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(random_state >> 33) % n;
}

static bool strikes(uint32_t rate) {
    return rate && luck(FAULT_ALWAYS) < rate;
}

/* ---- what is on the disk ---- */

static struct file *file_of(int fd) {
    return ctl && fd >= 0 && fd < FDS ? by_fd[fd] : NULL;
}

static struct page *page_at(struct file *f, int64_t no) {
    return map_get(&f->pages, span_of(&no, sizeof(no)));
}

static void page_read(int fd, int64_t no, uint8_t dst[PAGE]) {
    memset(dst, 0, PAGE);
    CHECK(__real_pread(fd, dst, PAGE, no * PAGE) >= 0);
}

static void page_forget(struct file *f, struct page *p) {
    map_del(&f->pages, span_of(&p->no, sizeof(p->no)));
    free(p);
}

static void pages_forget(struct file *f) {
    struct map_iter it = {0};
    struct map_entry *e;
    while (map_next(&f->pages, &it, &e)) {
        page_forget(f, e->value);
    }
    map_fini(&f->pages);
}

/* The bytes from..to are about to change. */
static void remember(int fd, struct file *f, int64_t from, int64_t to) {
    for (int64_t no = from / PAGE; no * PAGE < to; no++) {
        struct page *p = page_at(f, no);
        if (!p) {
            p = new_zero(struct page);
            p->no = no;
            page_read(fd, no, p->durable);
            map_put(&f->pages, span_of(&no, sizeof(no)), p);
        } else if (luck(8) == 0) { /* the kernel wrote it meanwhile */
            page_read(fd, no, p->durable);
        }
        p->dropped = false;
    }
}

static int64_t size_of(int fd) {
    struct stat st;
    CHECK(fstat(fd, &st) == 0);
    return st.st_size;
}

static void synced(int fd, struct file *f, bool failed) {
    struct map_iter it = {0};
    struct map_entry *e;
    while (map_next(&f->pages, &it, &e)) {
        struct page *p = e->value;
        if (failed && luck(2)) {
            p->dropped = true;
            ctl->n_dropped++;
        } else if (!p->dropped) {
            page_forget(f, p);
        }
    }
    if (!failed || luck(2)) {
        f->durable_size = size_of(fd);
    }
}

static void page_lose(int fd, struct page *p, bool all) {
    uint8_t now[PAGE];
    page_read(fd, p->no, now);
    uint32_t how = all ? 0 : luck(p->dropped ? 6 : 3); /* 0: lost, 1: written, 2: torn */
    for (int s = 0; s < PAGE; s += SECTOR) {
        if (how == 1 || (how == 2 && luck(2))) {
            memcpy(p->durable + s, now + s, SECTOR);
        }
    }
    ctl->n_lost += memcmp(p->durable, now, PAGE) != 0;
    CHECK(__real_pwrite(fd, p->durable, PAGE, p->no * PAGE) == PAGE);
}

static void file_lose(struct file *f, bool all) {
    int fd = __real_open(f->path, O_RDWR | O_CLOEXEC);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0 || st.st_ino != f->ino) {
        return; /* its name is gone */
    }
    int64_t size = luck(2) ? size_of(fd) : f->durable_size;
    struct map_iter it = {0};
    struct map_entry *e;
    while (map_next(&f->pages, &it, &e)) {
        page_lose(fd, e->value, all);
    }
    CHECK(__real_ftruncate(fd, size) == 0);
    if (f->created && luck(2)) {
        CHECK(unlink(f->path) == 0);
    }
}

static _Noreturn void die(void) {
    if (ctl->death == FAULT_POWER) {
        bool all = luck(3) == 0;
        for (size_t i = 0; i < n_files; i++) {
            file_lose(&files[i], all);
        }
        ctl->n_power++;
    }
    ctl->die_after = 0;
    ctl->died = 1;
    __builtin_trap(); /* its list of system calls may hold no kill */
}

/* What was left; none when whoever set it has cleared it meanwhile. */
static uint32_t counted_down(_Atomic uint32_t *n) {
    uint32_t left = *n;
    while (left && !atomic_compare_exchange_weak(n, &left, left - 1)) {
    }
    return left;
}

/* Counts a call; true when it is the last one. */
static bool last_call(void) {
    ctl->n_calls++;
    if (ctl->delay_rate && strikes(ctl->delay_rate)) {
        struct timespec t = {0, (long)(1 + luck(ctl->delay_us + 1)) * 1000};
        nanosleep(&t, NULL);
    }
    return counted_down(&ctl->die_after) == 1;
}

static int fail(int error) {
    ctl->n_failed++;
    pthread_mutex_unlock(&lock);
    errno = error;
    return -1;
}

/* ---- the calls ---- */

static bool ours(const char *path) {
    const char *name = strrchr(path, '/');
    return span_starts(span_str(name ? name + 1 : path), "store.db") &&
           !span_ends(span_str(path), ".lock");
}

static int opened(int fd, const char *path, bool existed) {
    struct stat st;
    if (!ctl || fd < 0 || fd >= FDS || !ours(path) || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        return fd;
    }
    pthread_mutex_lock(&lock);
    struct file *f = NULL;
    for (size_t i = 0; i < n_files && !f; i++) {
        f = files[i].dev == st.st_dev && files[i].ino == st.st_ino ? &files[i] : NULL;
    }
    if (!f || !existed) {
        CHECK(f || n_files < FILES);
        f = f ? f : &files[n_files++];
        pages_forget(f); /* of a file that had this number before */
        *f = (struct file){
            .dev = st.st_dev, .ino = st.st_ino, .durable_size = st.st_size, .created = !existed};
        char own[64];
        CHECK(str_put(own, sizeof(own), "/proc/self/fd/%d", fd) == 0);
        ssize_t n = readlink(own, f->path, sizeof(f->path) - 1);
        CHECK(n > 0);
    }
    by_fd[fd] = f;
    pthread_mutex_unlock(&lock);
    return fd;
}

int __wrap_openat(int dir, const char *path, int flags, ...) {
    va_list ap;
    va_start(ap, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(ap, mode_t) : 0;
    va_end(ap);
    bool existed = !(flags & O_CREAT) || faccessat(dir, path, F_OK, 0) == 0;
    return opened(__real_openat(dir, path, flags, mode), path, existed);
}

int __wrap_open(const char *path, int flags, ...) {
    va_list ap;
    va_start(ap, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(ap, mode_t) : 0;
    va_end(ap);
    bool existed = !(flags & O_CREAT) || access(path, F_OK) == 0;
    return opened(__real_open(path, flags, mode), path, existed);
}

int __wrap_close(int fd) {
    if (ctl && fd >= 0 && fd < FDS) {
        by_fd[fd] = NULL;
    }
    return __real_close(fd);
}

ssize_t __wrap_pread(int fd, void *p, size_t n, off_t at) {
    if (file_of(fd)) {
        pthread_mutex_lock(&lock);
        if (strikes(ctl->read_rate)) {
            return fail(EIO);
        }
        pthread_mutex_unlock(&lock);
    }
    return __real_pread(fd, p, n, at);
}

ssize_t __wrap_pwrite(int fd, const void *p, size_t n, off_t at) {
    struct file *f = file_of(fd);
    if (!f) {
        return __real_pwrite(fd, p, n, at);
    }
    pthread_mutex_lock(&lock);
    bool last = last_call();
    ctl->n_moved += !span_ends(span_str(f->path), "-wal");
    if (ctl->read_only) {
        return fail(EROFS);
    }
    if (ctl->full && at + (off_t)n > size_of(fd)) {
        return fail(ENOSPC);
    }
    bool fails = strikes(ctl->write_rate), torn = fails && strikes(ctl->tear_rate);
    size_t part = last || torn ? luck((uint32_t)n + 1) : fails ? 0 : n;
    remember(fd, f, at, at + (int64_t)part);
    ssize_t done = part ? __real_pwrite(fd, p, part, at) : 0;
    if (last) {
        die();
    }
    if (fails) {
        return fail((int)ctl->write_errno);
    }
    pthread_mutex_unlock(&lock);
    return done;
}

int __wrap_ftruncate(int fd, off_t n) {
    struct file *f = file_of(fd);
    if (!f) {
        return __real_ftruncate(fd, n);
    }
    pthread_mutex_lock(&lock);
    if (last_call()) {
        die();
    }
    if (ctl->read_only || strikes(ctl->write_rate)) {
        return fail(ctl->read_only ? EROFS : EIO);
    }
    int64_t size = size_of(fd);
    if (n < size) {
        remember(fd, f, n, size);
    }
    int rc = __real_ftruncate(fd, n);
    pthread_mutex_unlock(&lock);
    return rc;
}

static void folder_synced(int fd) {
    struct stat st;
    if (ctl && fstat(fd, &st) == 0 && S_ISDIR(st.st_mode)) {
        pthread_mutex_lock(&lock);
        for (size_t i = 0; i < n_files; i++) {
            files[i].created = false;
        }
        pthread_mutex_unlock(&lock);
    }
}

/* The disk takes its time; the lock is not held meanwhile. */
static void drag(void) {
    uint32_t us = ctl->drag_us;
    if (us && counted_down(&ctl->drag_left)) {
        struct timespec t = {us / 1000000, (long)(us % 1000000) * 1000};
        ctl->n_dragged++;
        ctl->dragging++;
        nanosleep(&t, NULL);
        ctl->dragging--;
    }
}

static int sync_file(int fd, int (*real)(int fd)) {
    struct file *f = file_of(fd);
    if (!f) {
        folder_synced(fd);
        return real(fd);
    }
    drag();
    pthread_mutex_lock(&lock);
    ctl->n_syncs++;
    bool last = last_call();
    if (last && luck(2)) {
        die(); /* before anything is on the disk; else after all is, and nobody hears of it */
    }
    if (ctl->read_only || strikes(ctl->sync_rate)) {
        synced(fd, f, true);
        return fail(ctl->read_only ? EROFS : EIO);
    }
    if (!ctl->lie) {
        synced(fd, f, false);
    }
    if (last) {
        die();
    }
    pthread_mutex_unlock(&lock);
    return 0; /* the page cache is disk enough: the machine itself stays up */
}

int __wrap_fdatasync(int fd) {
    return sync_file(fd, __real_fdatasync);
}
int __wrap_fsync(int fd) {
    return sync_file(fd, __real_fsync);
}

int __wrap_clock_gettime(clockid_t id, struct timespec *t) {
    int rc = __real_clock_gettime(id, t);
    if (ctl && rc == 0) {
        int64_t ms =
            id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE ? ctl->wall_ms : ctl->mono_ms;
        int64_t ns = t->tv_nsec + ms % 1000 * 1000000;
        t->tv_sec += ms / 1000 + (ns < 0 ? -1 : ns >= 1000000000);
        t->tv_nsec = (long)(ns < 0 ? ns + 1000000000 : ns >= 1000000000 ? ns - 1000000000 : ns);
    }
    return rc;
}
