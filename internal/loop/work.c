/* The only file that knows threads: lanes are single threads with a FIFO; finished work comes back by an eventfd. */
#include "internal/loop/loop_int.h"

#include "internal/base/rand.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum {
    LANE_STACK = 512 * 1024
}; /* musl's default of 128 KiB is too small for SQLite; glibc's 8 MiB would hide it */

#define TOGETHER_NS (NS_PER_MS / 2)

struct fifo {
    struct loop_work *head, **tail;
};

struct lane {
    struct lanes *owner;
    pthread_t thread;
    pthread_cond_t wake;
    struct fifo todo;
    bool started;
};

struct lanes {
    pthread_mutex_t lock; /* guards every fifo and `closing` */
    struct lane lane[LANE_MAX_];
    struct fifo finished;
    bool closing;
    int efd;
    size_t unfinished; /* loop thread only */
};

static void fifo_init(struct fifo *f) {
    f->head = NULL;
    f->tail = &f->head;
}
static void fifo_add(struct fifo *f, struct loop_work *w) {
    w->next = NULL;
    *f->tail = w;
    f->tail = &w->next;
}
static struct loop_work *fifo_all(struct fifo *f) {
    struct loop_work *all = f->head;
    fifo_init(f);
    return all;
}

static void hand_over(struct lanes *ls, struct fifo *done) {
    pthread_mutex_lock(&ls->lock);
    *ls->finished.tail = done->head;
    ls->finished.tail = done->tail;
    /* Woken with the lock free: the loop would only run into it. */
    pthread_mutex_unlock(&ls->lock);
    fifo_init(done);
    uint64_t one = 1;
    ssize_t n = write(ls->efd, &one, sizeof(one));
    CHECK(n == (ssize_t)sizeof(one) || errno == EAGAIN);
}

/* What is short comes back together; nobody waits for the long work behind his own. */
static void run_all(struct lanes *ls, struct loop_work *w) {
    struct fifo done;
    uint64_t began = clock_ns();
    fifo_init(&done);
    for (struct loop_work *next; w; w = next) {
        next = w->next;
        w->run(w);
        fifo_add(&done, w);
        if (!next || clock_ns() - began > TOGETHER_NS) {
            hand_over(ls, &done);
            began = clock_ns();
        }
    }
}

static void *lane_main(void *arg) {
    struct lane *ln = arg;
    struct lanes *ls = ln->owner;
    pthread_mutex_lock(&ls->lock);
    for (;;) {
        struct loop_work *w = fifo_all(&ln->todo);
        if (!w) {
            if (ls->closing) {
                break;
            }
            pthread_cond_wait(&ln->wake, &ls->lock);
            continue;
        }
        pthread_mutex_unlock(&ls->lock);
        run_all(ls, w);
        pthread_mutex_lock(&ls->lock);
    }
    pthread_mutex_unlock(&ls->lock);
    return NULL;
}

static void deliver(struct lanes *ls) {
    pthread_mutex_lock(&ls->lock);
    struct loop_work *w = fifo_all(&ls->finished);
    pthread_mutex_unlock(&ls->lock);
    for (struct loop_work *next; w; w = next) {
        next = w->next;
        ls->unfinished--;
        w->done(w);
    }
}

static void finished_ready(struct loop_io *io, uint32_t events) {
    (void)events;
    uint64_t n;
    ssize_t got = read(io->fd, &n, sizeof(n));
    CHECK(got == (ssize_t)sizeof(n) || errno == EAGAIN);
    deliver(io->l->lanes);
}

static int lanes_new(struct loop *l, struct err *e) {
    struct lanes *ls = new_zero(struct lanes);
    ls->efd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (ls->efd < 0) {
        free(ls);
        return err_sys(e, errno, "eventfd");
    }
    CHECK(pthread_mutex_init(&ls->lock, NULL) == 0);
    fifo_init(&ls->finished);
    for (int i = 0; i < LANE_MAX_; i++) {
        ls->lane[i].owner = ls;
        fifo_init(&ls->lane[i].todo);
        CHECK(pthread_cond_init(&ls->lane[i].wake, NULL) == 0);
    }
    int rc = loop_io_start(l, &l->lanes_io, ls->efd, LOOP_READ, finished_ready, "work", e);
    if (rc < 0) {
        close(ls->efd);
        free(ls);
        return rc;
    }
    l->lanes = ls;
    return 0;
}

static int lane_start(struct lane *ln, struct err *e) {
    pthread_attr_t attr;
    sigset_t all, old;
    sigfillset(&all);
    CHECK(pthread_attr_init(&attr) == 0);
    CHECK(pthread_attr_setstacksize(&attr, LANE_STACK) == 0);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = pthread_create(&ln->thread, &attr, lane_main, ln);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attr);
    if (rc) {
        return err_sys(e, rc, "starting a worker thread");
    }
    ln->started = true;
    return 0;
}

int loop_work_submit(struct loop *l, enum loop_lane lane, struct loop_work *w, struct err *e) {
    int rc = l->lanes ? 0 : lanes_new(l, e);
    if (rc < 0) {
        return rc;
    }
    struct lanes *ls = l->lanes;
    struct lane *ln = &ls->lane[lane];
    if (!ln->started && (rc = lane_start(ln, e)) < 0) {
        return rc;
    }
    ls->unfinished++;
    pthread_mutex_lock(&ls->lock);
    fifo_add(&ln->todo, w);
    pthread_mutex_unlock(&ls->lock);
    pthread_cond_signal(&ln->wake);
    return 0;
}

bool loop_work_recall(struct loop *l, enum loop_lane lane, struct loop_work *w) {
    struct lanes *ls = l->lanes;
    struct fifo *f = &ls->lane[lane].todo;
    bool found = false;
    pthread_mutex_lock(&ls->lock);
    for (struct loop_work *all = fifo_all(f), *next; all; all = next) {
        next = all->next;
        if (all == w) {
            found = true;
        } else {
            fifo_add(f, all);
        }
    }
    pthread_mutex_unlock(&ls->lock);
    ls->unfinished -= found;
    return found;
}

void lanes_free(struct loop *l) {
    struct lanes *ls = l->lanes;
    if (!ls) {
        return;
    }
    pthread_mutex_lock(&ls->lock);
    ls->closing = true;
    for (int i = 0; i < LANE_MAX_; i++) {
        pthread_cond_signal(&ls->lane[i].wake);
    }
    pthread_mutex_unlock(&ls->lock);
    for (int i = 0; i < LANE_MAX_; i++) {
        if (ls->lane[i].started) {
            pthread_join(ls->lane[i].thread, NULL);
        }
    }
    deliver(ls);
    loop_io_stop(&l->lanes_io);
    l->lanes = NULL;
    for (int i = 0; i < LANE_MAX_; i++) {
        pthread_cond_destroy(&ls->lane[i].wake);
    }
    pthread_mutex_destroy(&ls->lock);
    close(ls->efd);
    free(ls);
}
