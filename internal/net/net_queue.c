#include "internal/net/net_int.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

enum {
    CHUNK_FIRST = 512 - sizeof(struct net_chunk), /* sizes that fill a block of the pool */
    CHUNK_NEXT = POOL_BLOCK_MAX - sizeof(struct net_chunk),
    SPLICE_COPY = 512, /* a chunk of its own costs more than copying so little */
};

struct net_blob *net_blob_new(void *own_p, size_t n) {
    struct net_blob *b = new_zero(struct net_blob);
    *b = (struct net_blob){.refs = 1, .n = n, .p = own_p};
    return b;
}

struct net_blob *net_blob_ref(struct net_blob *b) {
    b->refs++;
    return b;
}

void net_blob_unref(struct net_blob *b) {
    if (!b || --b->refs) {
        return;
    }
    if (b->release) {
        b->release(b);
    } else {
        free(b->p);
        free(b);
    }
}

void net_queue_init(struct net_queue *q, struct pool *pool) {
    *q = (struct net_queue){.pool = pool};
    list_init(&q->chunks);
}

static struct net_chunk *push(struct net_queue *q, size_t room) {
    struct net_chunk *c = pool_get(q->pool, sizeof(*c) + room);
    CHECK(c);
    *c = (struct net_chunk){.fd = -1, .room = room};
    list_add_tail(&q->chunks, &c->link);
    return c;
}

static void drop(struct net_queue *q, struct net_chunk *c) {
    list_del(&c->link);
    if (c->fd >= 0) {
        close(c->fd);
    }
    net_blob_unref(c->blob);
    pool_put(q->pool, c);
}

void net_queue_fini(struct net_queue *q) {
    while (!list_empty(&q->chunks)) {
        drop(q, CONTAINER_OF(q->chunks.next, struct net_chunk, link));
    }
    q->bytes = 0;
}

/* The first chunk, and one behind shared memory, is just large enough for a short text; further small writes share large
 * ones. */
void net_queue_add(struct net_queue *q, struct span s) {
    if (!s.n) {
        return;
    }
    struct net_chunk *last =
        list_empty(&q->chunks) ? NULL : CONTAINER_OF(q->chunks.prev, struct net_chunk, link);
    if (!last || last->blob || last->room - last->end < s.n) {
        size_t least = last && !last->blob ? CHUNK_NEXT : CHUNK_FIRST;
        last = push(q, s.n < least ? least : s.n);
    }
    memcpy(last->data + last->end, s.p, s.n);
    last->end += s.n;
    q->bytes += s.n;
}

void net_queue_take(struct net_queue *q, void *own_p, size_t n) {
    if (!n) {
        free(own_p);
        return;
    }
    struct net_blob *b = net_blob_new(own_p, n);
    net_queue_blob(q, b);
    net_blob_unref(b);
}

static void push_part(struct net_queue *q, struct net_blob *b, size_t at, size_t n) {
    struct net_chunk *c = push(q, 0);
    c->blob = net_blob_ref(b);
    c->at = at;
    c->end = at + n;
    q->bytes += n;
}

void net_queue_blob(struct net_queue *q, struct net_blob *b) {
    if (b->n) {
        push_part(q, b, 0, b->n);
    }
}

void net_queue_file(struct net_queue *q, int own_fd, uint64_t offset, uint64_t n) {
    if (!n) {
        close(own_fd);
        return;
    }
    struct net_chunk *c = push(q, 0);
    c->fd = own_fd;
    c->file_at = offset;
    c->file_n = n;
    q->bytes += n;
}

void net_queue_move(struct net_queue *q, struct net_queue *from) {
    while (!list_empty(&from->chunks)) {
        struct list *c = from->chunks.next;
        list_del(c);
        list_add_tail(&q->chunks, c);
    }
    q->bytes += from->bytes;
    from->bytes = 0;
}

struct span net_chunk_mem(const struct net_chunk *c) {
    return span_of((c->blob ? c->blob->p : c->data) + c->at, c->end - c->at);
}

struct span net_queue_front(const struct net_queue *q, uint8_t *room, size_t n) {
    size_t have = 0;
    for (LIST_EACH(at, next, &q->chunks)) {
        struct net_chunk *c = CONTAINER_OF(at, struct net_chunk, link);
        struct span m = c->fd < 0 ? net_chunk_mem(c) : SPAN_EMPTY;
        if (!have && (m.n >= n || c->link.next == &q->chunks)) {
            return m;
        }
        size_t part = m.n < n - have ? m.n : n - have;
        if (!part) {
            break;
        }
        memcpy(room + have, m.p, part);
        have += part;
    }
    return span_of(room, have);
}

void net_queue_skip(struct net_queue *q, size_t n) {
    q->bytes -= n;
    while (n) {
        struct net_chunk *c = CONTAINER_OF(q->chunks.next, struct net_chunk, link);
        size_t left = c->fd >= 0 ? c->file_n : net_chunk_mem(c).n;
        if (n < left) {
            if (c->fd >= 0) {
                c->file_at += n;
                c->file_n -= n;
            } else {
                c->at += n;
            }
            return;
        }
        n -= left;
        drop(q, c);
    }
}

int net_queue_splice(struct net_queue *q, struct net_queue *from, size_t n) {
    while (n) {
        struct net_chunk *c = CONTAINER_OF(from->chunks.next, struct net_chunk, link);
        if (list_empty(&from->chunks) || c->fd >= 0) {
            return -ERR_IO;
        }
        struct span m = net_chunk_mem(c);
        size_t part = m.n < n ? m.n : n;
        if (part <= SPLICE_COPY || (part < m.n && !c->blob)) {
            net_queue_add(q, span_of(m.p, part));
            net_queue_skip(from, part);
        } else if (part < m.n) {
            push_part(q, c->blob, c->at, part);
            net_queue_skip(from, part);
        } else {
            list_del(&c->link);
            list_add_tail(&q->chunks, &c->link);
            q->bytes += part;
            from->bytes -= part;
        }
        n -= part;
    }
    return 0;
}

ssize_t net_queue_read(struct net_queue *q, uint8_t *p, size_t n) {
    size_t got = 0;
    while (got < n && !list_empty(&q->chunks)) {
        struct net_chunk *c = CONTAINER_OF(q->chunks.next, struct net_chunk, link);
        size_t part = n - got;
        if (c->fd >= 0) {
            part = part < c->file_n ? part : (size_t)c->file_n;
            ssize_t r = pread(c->fd, p + got, part, (off_t)c->file_at);
            if (r <= 0) {
                return r < 0 && errno == EINTR ? -ERR_AGAIN : -ERR_IO;
            }
            part = (size_t)r;
        } else {
            struct span m = net_chunk_mem(c);
            part = part < m.n ? part : m.n;
            memcpy(p + got, m.p, part);
        }
        net_queue_skip(q, part);
        got += part;
    }
    return (ssize_t)got;
}
