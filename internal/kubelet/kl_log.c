#include "internal/kubelet/kl_int.h"

#include "internal/log/log.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

int kl_log_parse(struct span line, struct kl_log_line *ret) {
    struct kl_log_line l = {0};
    struct span stream, tags;
    if (span_until(&line, ' ', &l.time) < 0 || span_until(&line, ' ', &stream) < 0) {
        return -ERR_INVALID;
    }
    if (span_until(&line, ' ', &tags) < 0) { /* an empty text may come without its space */
        tags = line;
        line = SPAN_EMPTY;
    }
    l.is_stderr = span_eq_str(stream, "stderr");
    if (!l.is_stderr && !span_eq_str(stream, "stdout")) {
        return -ERR_INVALID;
    }
    struct span first;
    span_next(&tags, ':', &first);
    l.is_partial = span_eq_str(first, "P");
    if (!l.is_partial && !span_eq_str(first, "F")) {
        return -ERR_INVALID;
    }
    l.text = line;
    *ret = l;
    return 0;
}

/* Reads backwards in blocks, counting line ends; the one at the very end does not count. Partial lines count as lines,
 * which shows at most too few of a very long line. */
int kl_log_tail(int fd, uint64_t size, uint64_t n, uint64_t *ret_offset, struct err *e) {
    uint8_t block[8192];
    uint64_t at = size, seen = 0;
    if (n == 0) {
        *ret_offset = size;
        return 0;
    }
    while (at > 0) {
        size_t want = at < sizeof(block) ? (size_t)at : sizeof(block);
        at -= want;
        ssize_t got = pread(fd, block, want, (off_t)at);
        if (got != (ssize_t)want) {
            return err_sys(e, got < 0 ? errno : EIO, "reading the log");
        }
        for (size_t i = want; i-- > 0;) {
            if (block[i] == '\n' && at + i + 1 != size && ++seen == n) {
                *ret_offset = at + i + 1;
                return 0;
            }
        }
    }
    *ret_offset = 0;
    return 0;
}

enum { LOG_MAX = 10 << 20 };

static void on_reopened(void *ctx, int rc, const struct err *e) {
    (void)ctx;
    if (rc < 0) {
        LOG_WARN("kubelet", "a log was not reopened after its rotation", F_ERR(e));
    }
}

void kl_log_rotate(struct kl_ctr *c) {
    const struct kubelet *k = c->pod->k;
    char path[900], old[904];
    struct stat st;
    if (!k->o.ops->container_reopen_log || !c->exists || c->state != KUBELET_RUNNING ||
        str_put(path, sizeof(path), "%s/%s/%u.log", c->pod->log_dir, c->name, c->attempt) < 0 ||
        str_put(old, sizeof(old), "%s.1", path) < 0 || stat(path, &st) < 0 ||
        st.st_size < LOG_MAX) {
        return;
    }
    if (rename(path, old) < 0) {
        LOG_WARN("kubelet", "a log was not rotated", F_STR("path", path),
                 F_STR("err", err_sys_name(errno)));
        return;
    }
    k->o.ops->container_reopen_log(k->o.rt, c->id, on_reopened, NULL);
}
