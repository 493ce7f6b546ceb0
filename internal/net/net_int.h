/* Private to net: the chunks of an output queue. */
#ifndef KF_NET_INT_H
#define KF_NET_INT_H

#include "internal/net/net.h"

struct net_chunk {
    struct list link;
    /* one of: own data behind the struct, memory that others may share (both [at, end)), a file range */
    size_t at, end, room;
    struct net_blob *blob;
    int fd;
    uint64_t file_at, file_n;
    uint8_t data[];
};
struct span net_chunk_mem(const struct net_chunk *c);
/* What is in memory at the front: in place when it is a chunk of n bytes or the only one, otherwise gathered from small
 * chunks into `room` of n bytes. Empty when the front is a file. */
struct span net_queue_front(const struct net_queue *q, uint8_t *room, size_t n);
void net_queue_skip(struct net_queue *q, size_t n);

#endif
