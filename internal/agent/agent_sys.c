#include "internal/agent/agent_int.h"
#include "internal/base/rand.h"
#include "internal/sys/sys.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <unistd.h>

void agent_say(const char *fmt, ...) {
    char line[640];
    va_list ap;
    AUTO(buf) struct buf b = BUF_INIT(65536);
    va_start(ap, fmt);
    buf_vfmt(&b, fmt, ap);
    va_end(ap);
    uint64_t ms = clock_ns() / NS_PER_MS;
    IGNORE_ERR(str_put(line, sizeof(line), "kfarm: [%4llu.%03llu] %.512s\n",
                       (unsigned long long)(ms / 1000), (unsigned long long)(ms % 1000),
                       buf_cstr(&b)),
               "a long text is cut");
    struct err e = ERR_INIT;
    IGNORE_ERR(sys_write_all(STDERR_FILENO, span_str(line), &e), "nowhere left to say it");
}

int agent_mount(const char *source, const char *target, const char *type, unsigned long flags,
                const char *data, struct err *e) {
    if (mkdir(target, 0755) < 0 && errno != EEXIST) {
        return err_sys(e, errno, "%s", target);
    }
    if (mount(source, target, type, flags, data) < 0 && errno != EBUSY) {
        return err_sys(e, errno, "mounting %s on %s", type ? type : source, target);
    }
    return 0;
}

const char *agent_cmdline(struct arena *a, const char *name) {
    AUTO(buf) struct buf b = BUF_INIT(65536);
    struct err e = ERR_INIT;
    if (sys_file_read(AT_FDCWD, "/proc/cmdline", &b, &e) < 0) {
        return NULL;
    }
    struct span s = buf_view(&b);
    for (struct span word; span_next(&s, ' ', &word);) {
        struct span key;
        word = word.n && word.p[word.n - 1] == '\n' ? span_of(word.p, word.n - 1) : word;
        if (span_until(&word, '=', &key) == 0 && span_eq_str(key, name)) {
            return arena_str(a, word);
        }
    }
    return NULL;
}

int agent_write_file(const char *path, const char *text, struct err *e) {
    AUTO_FD int fd = sys_open(AT_FDCWD, path, O_WRONLY, 0, e);
    return fd < 0 ? fd : sys_write_all(fd, span_str(text), e);
}

void agent_pause(uint64_t ns) {
    IGNORE_ERR(poll(NULL, 0, (int)(ns / NS_PER_MS)), "an interrupted pause is only shorter");
}

_Noreturn void agent_power(unsigned how) {
    sync();
    reboot((int)how);
    agent_say("the kernel refused to reboot");
    for (;;) {
        agent_pause(60 * NS_PER_S);
    }
}

_Noreturn void agent_give_up(const struct err *e) {
    uint64_t wait_s = 15 + rand_below(15); /* many machines at once must not come back in step */
    agent_say("FAILED: %s", e->code ? e->msg : "unknown reason");
    agent_say("reboot in %llu seconds", (unsigned long long)wait_s);
    agent_pause(wait_s * NS_PER_S);
    if (getpid() != 1) {
        _exit(1);
    }
    agent_power(RB_AUTOBOOT);
}
