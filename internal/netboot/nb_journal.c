/* Leases on disk: an append-only file of records (dhcp.h), written in batches.
 *
 * While one batch is being written and synced on LANE_FILE, the next one fills; its answers wait with it. So the number of
 * syncs follows the disk and not the clients, and no ACK is ever sent before its lease would survive a power cut. When
 * the file has grown to several times what it tells, or its tail is not known to be good, a batch replaces it as a whole. */
#include "internal/netboot/nb_int.h"

#include "internal/base/rand.h"
#include "internal/log/log.h"
#include "internal/sys/sys.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    LIM_JOURNAL_BYTES = 64 << 20,
    LIM_WAITING =
        8192, /* answers waiting for the disk; beyond them requests are dropped and come again */
    REWRITE_MIN_BYTES = 1 << 20,
    REWRITE_FACTOR = 4, /* rewritten when so many times larger than the records that count */
    RECORD_TYPICAL = 64,
};
static const char file_name[] = "leases.db";

static struct nb_batch *batch_new(struct nb_journal *j) {
    struct nb_batch *b = new_zero(struct nb_batch);
    b->j = j;
    buf_init(&b->records, LIM_JOURNAL_BYTES);
    list_init(&b->replies);
    return b;
}

static void batch_free(struct nb_batch *b) {
    while (!list_empty(&b->replies)) {
        struct nb_reply *r = CONTAINER_OF(b->replies.next, struct nb_reply, link);
        list_del(&r->link);
        free(r);
    }
    buf_fini(&b->records);
    free(b);
}

/* On the lane: the only thing that touches the file. */
static void batch_run(struct loop_work *w) {
    struct nb_batch *b = CONTAINER_OF(w, struct nb_batch, work);
    struct nb_journal *j = b->j;
    if (b->rewrite) {
        b->rc = sys_file_replace(j->dir_fd, file_name, buf_view(&b->records), 0600, &b->err);
        if (b->rc >= 0) {
            b->rc = b->fd = sys_open(j->dir_fd, file_name, O_WRONLY | O_APPEND, 0, &b->err);
        }
        return;
    }
    b->rc = sys_write_all(j->fd, buf_view(&b->records), &b->err);
    if (b->rc >= 0 && fdatasync(j->fd) < 0) {
        b->rc = err_set(&b->err, ERR_IO, "fdatasync of the lease file");
    }
}

static void flush(void *ctx);

static void batch_done(struct loop_work *w) {
    struct nb_batch *b = CONTAINER_OF(w, struct nb_batch, work);
    struct nb_journal *j = b->j;
    j->in_flight = false;
    if (b->rc < 0) {
        /* The file may end in half a record: only a whole new one makes what follows readable. */
        j->must_rewrite = true;
        j->nb->count.journal_failures++;
        LOG_ERROR("netboot", "leases cannot be stored: not acknowledged", F_ERR(&b->err));
    } else {
        j->nb->count.journal_batches++;
        j->size = b->rewrite ? b->records.n : j->size + b->records.n;
        if (b->rewrite) {
            sys_close(j->fd);
            j->fd = b->fd;
            j->must_rewrite = false;
        }
    }
    while (!list_empty(&b->replies)) {
        struct nb_reply *r = CONTAINER_OF(b->replies.next, struct nb_reply, link);
        list_del(&r->link);
        j->n_waiting--;
        if (b->rc < 0) {
            free(r);
        } else {
            nb_reply_send(r);
        }
    }
    batch_free(b);
    if (j->filling) {
        flush(j);
    }
}

struct snapshot {
    struct buf *b;
    uint64_t now_ns, wall_s;
};
static void add_lease(void *ctx, const struct dhcp_lease *l) {
    struct snapshot *s = ctx;
    dhcp_record_write(l, s->now_ns, s->wall_s, s->b);
}

static bool rewrite_due(const struct nb_journal *j) {
    const struct dhcp_server *d = j->nb->dhcp;
    size_t n = dhcp_server_count(d, DHCP_BOUND) + dhcp_server_count(d, DHCP_FREE) +
               dhcp_server_count(d, DHCP_DECLINED);
    return j->must_rewrite ||
           (j->size > REWRITE_MIN_BYTES && j->size > n * RECORD_TYPICAL * REWRITE_FACTOR);
}

/* Before the loop sleeps: everything that came in this round goes to the disk together. */
static void flush(void *ctx) {
    struct nb_journal *j = ctx;
    struct err e = ERR_INIT;
    struct nb_batch *b = j->filling;
    if (!b || j->in_flight) {
        return;
    }
    j->filling = NULL;
    if (rewrite_due(j)) { /* all leases, including those of this batch */
        struct snapshot s = {&b->records, loop_now(j->nb->l), clock_wall_ns() / NS_PER_S};
        buf_reset(&b->records);
        dhcp_server_each(j->nb->dhcp, add_lease, &s);
        b->rewrite = true;
    }
    if (buf_ok(&b->records) < 0) {
        LOG_ERROR("netboot", "lease batch too large: not acknowledged");
        j->n_waiting = 0;
        batch_free(b);
        return;
    }
    b->work.run = batch_run;
    b->work.done = batch_done;
    j->in_flight = true;
    if (loop_work_submit(j->nb->l, LANE_FILE, &b->work, &e) < 0) {
        b->rc = -ERR_IO;
        b->err = e;
        batch_done(&b->work);
    }
}

void nb_journal_commit(struct nb_journal *j, const struct dhcp_lease *l,
                       struct nb_reply *own_reply) {
    if (own_reply && j->n_waiting >= LIM_WAITING) {
        j->nb->count.dhcp_dropped++;
        free(own_reply);
        return;
    }
    if (!j->filling) {
        j->filling = batch_new(j);
    }
    dhcp_record_write(l, loop_now(j->nb->l), clock_wall_ns() / NS_PER_S, &j->filling->records);
    j->nb->count.journal_records++;
    if (j->nb->on_leases) {
        j->nb->on_leases(j->nb->on_leases_ctx);
    }
    if (own_reply) {
        list_add_tail(&j->filling->replies, &own_reply->link);
        j->n_waiting++;
    }
    loop_before_sleep(j->nb->l, &j->hook, flush, j);
}

/* Damage in the middle (a torn write that was followed by good ones) costs only the damaged records: the reader goes on
 * at the next byte that starts a record with a right checksum. */
static int restore(struct nb_journal *j, struct span s, struct err *e) {
    uint64_t now = loop_now(j->nb->l), wall = clock_wall_ns() / NS_PER_S;
    size_t n = 0, lost = 0;
    struct dhcp_lease *l = new_zero(struct dhcp_lease);
    int rc;
    while ((rc = dhcp_record_read(&s, now, wall, l)) != -ERR_NOT_FOUND) {
        if (rc < 0) {
            lost++;
            IGNORE_ERR(span_skip(&s, 1), "not at the end");
            continue;
        }
        n++;
        if (dhcp_server_restore(j->nb->dhcp, l, now) < 0) {
            free(l);
            return err_set(e, ERR_LIMIT, "%s holds more than %d leases", file_name, LIM_NB_LEASES);
        }
    }
    free(l);
    if (lost) {
        j->must_rewrite = true;
        LOG_WARN("netboot", "lease file damaged, continuing with its good records",
                 F_U64("bytes_lost", lost));
    }
    LOG_INFO("netboot", "leases restored", F_U64("records", n),
             F_U64("bound", dhcp_server_count(j->nb->dhcp, DHCP_BOUND)));
    return 0;
}

int nb_journal_open(struct netboot *nb, const char *data_dir, struct err *e) {
    struct nb_journal *j = &nb->journal;
    AUTO(buf) struct buf text = BUF_INIT(LIM_JOURNAL_BYTES);
    int rc = sys_mkdirs(data_dir, 0700, e);
    j->nb = nb;
    if (rc < 0 || (j->dir_fd = sys_open_dir(data_dir, e)) < 0) {
        return rc < 0 ? rc : j->dir_fd;
    }
    j->fd = sys_open(j->dir_fd, file_name, O_RDWR | O_CREAT | O_APPEND, 0600, e);
    if (j->fd < 0) {
        return j->fd;
    }
    if ((rc = sys_fd_read_all(j->fd, &text, e)) < 0) {
        return err_wrap(e, "%s/%s", data_dir, file_name);
    }
    j->size = text.n;
    if (fsync(j->dir_fd) < 0) {
        return err_set(e, ERR_IO, "fsync of %s", data_dir);
    }
    return restore(j, buf_view(&text), e);
}

void nb_journal_close(struct nb_journal *j) {
    loop_hook_cancel(&j->hook);
    if (j->filling) {
        batch_free(TAKE(j->filling));
    }
    sys_close(j->fd);
    sys_close(j->dir_fd);
}
