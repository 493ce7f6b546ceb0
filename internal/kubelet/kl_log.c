#include "internal/kubelet/kl_int.h"

#include <errno.h>
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
