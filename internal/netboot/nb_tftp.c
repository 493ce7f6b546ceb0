/* TFTP: one socket for requests per interface, one per transfer (its port is the transfer's identity). */
#include "internal/netboot/nb_int.h"

#include "internal/log/log.h"
#include "internal/sys/sys.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <unistd.h>

enum {
    PORT_TFTP = 69,
    UDP_IP_HEADERS = 28,
    LIM_NETASCII = 1 << 20,
    SEND_ROUND = LIM_TFTP_WINDOW,
};

struct transfer {
    struct list link;
    struct nb_iface *ifc;
    uint32_t peer_ip;
    uint16_t peer_port;
    int fd;
    struct loop_io io;
    struct loop_timer timer;
    struct tftp_xfer x;
    struct nb_file file;
    struct buf head, request; /* request: as it came, to know it again */
    char name[LIM_TFTP_NAME + 1];
    uint64_t started_ns, heard_ns;
};

static void transfer_free(struct transfer *t) {
    list_del(&t->link);
    t->ifc->nb->n_tftp--;
    loop_io_stop(&t->io);
    loop_timer_stop(&t->timer);
    sys_close(t->fd);
    nb_file_fini(&t->file);
    buf_fini(&t->head);
    buf_fini(&t->request);
    free(t);
}

static void finish(struct transfer *t) {
    struct netboot *nb = t->ifc->nb;
    char ip[IP4_STR];
    ip4_format(t->peer_ip, ip);
    if (t->x.state == TFTP_DONE) {
        nb->count.tftp_done++;
        LOG_DEBUG("netboot", "tftp: sent", F_STR("file", t->name), F_STR("to", ip),
                  F_U64("bytes", t->x.size),
                  F_U64("ms", (loop_now(nb->l) - t->started_ns) / 1000000));
    } else if (t->x.state == TFTP_LOST) {
        nb->count.tftp_failed++;
        LOG_INFO("netboot", "tftp: the client went away", F_STR("file", t->name), F_STR("to", ip));
    } /* aborted by the client: it only wanted the size */
    transfer_free(t);
}

/* One packet: head, then a piece of the file. False when the socket is full or the file unreadable: the timer repeats. */
static bool send_piece(struct transfer *t, const struct tftp_piece *p) {
    uint8_t data[TFTP_BLKSIZE_MAX > 9000 ? 9000 : TFTP_BLKSIZE_MAX];
    struct span body = SPAN_EMPTY;
    if (p->len > sizeof(data)) {
        return false;
    }
    if (p->len && t->file.fd >= 0) {
        ssize_t n = pread(t->file.fd, data, p->len, (off_t)p->offset);
        if (n != (ssize_t)p->len) {
            return false;
        }
        body = span_of(data, p->len);
    } else if (p->len) {
        struct span all = buf_view(&t->file.mem);
        IGNORE_ERR(span_skip(&all, (size_t)p->offset) < 0 || span_take(&all, p->len, &body) < 0,
                   "inside the file");
    }
    union {
        const uint8_t *c;
        void *m;
    } u = {.c = body.p};
    struct iovec iov[2] = {{t->head.p, t->head.n}, {u.m, body.n}};
    struct msghdr m = {.msg_iov = iov, .msg_iovlen = body.n ? 2 : 1};
    return sendmsg(t->fd, &m, MSG_NOSIGNAL) >= 0;
}

static void on_time(struct loop_timer *timer);

/* Sends what the window allows, then waits. */
static void pump(struct transfer *t) {
    struct loop *l = t->ifc->nb->l;
    struct tftp_piece p = {.head = &t->head};
    for (int i = 0; i < SEND_ROUND && tftp_xfer_next(&t->x, &p, loop_now(l)); i++) {
        if (!send_piece(t, &p)) {
            break;
        }
    }
    if (t->x.state >= TFTP_DONE) {
        finish(t);
        return;
    }
    uint64_t now = loop_now(l);
    loop_timer_start(l, &t->timer, t->x.due_ns > now ? t->x.due_ns - now : 0, on_time, "tftp");
}

static void on_time(struct loop_timer *timer) {
    struct transfer *t = CONTAINER_OF(timer, struct transfer, timer);
    tftp_xfer_timeout(&t->x, loop_now(timer->l ? timer->l : t->ifc->nb->l));
    pump(t);
}

/* One packet a wake-up: a client in lock-step has sent no more, and asking for more costs as much as the answer. */
static void readable(struct loop_io *io, uint32_t events) {
    struct transfer *t = CONTAINER_OF(io, struct transfer, io);
    uint8_t p[LIM_TFTP_PACKET];
    (void)events;
    ssize_t n = recv(t->fd, p, sizeof(p), 0);
    if (n >= 0) {
        t->heard_ns = loop_now(io->l);
        tftp_xfer_input(&t->x, span_of(p, (size_t)n), loop_now(io->l));
    } else if (errno == ECONNREFUSED) {
        t->x.state = TFTP_ABORTED; /* its port is closed */
    }
    pump(t);
}

/* ---- requests ---- */

static void refuse(const struct nb_from *from, enum tftp_error code, const char *text) {
    AUTO(buf) struct buf b = BUF_INIT(128);
    tftp_error_write(&b, code, text);
    from->ifc->nb->count.tftp_refused++;
    IGNORE_ERR(nb_udp_send(from->ifc, from->ifc->udp69, from->dst_ip, from->src_ip, from->src_port,
                           buf_view(&b)),
               "the client will ask again");
}

static int transfer_socket(const struct nb_from *from, struct err *e) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(from->dst_ip)};
    struct sockaddr_in peer = {.sin_family = AF_INET,
                               .sin_port = htons(from->src_port),
                               .sin_addr.s_addr = htonl(from->src_ip)};
    AUTO_FD int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, (const struct sockaddr *)&at, sizeof(at)) < 0 ||
        connect(fd, (const struct sockaddr *)&peer, sizeof(peer)) < 0) {
        return err_sys(e, errno, "TFTP socket");
    }
    uint8_t stray;
    while (recv(fd, &stray, sizeof(stray), 0) >= 0) {
        /* From before connect(), for the port's last owner: nothing was sent yet that could be answered. */
    }
    return TAKE_FD(fd);
}

/* Text mode changes sizes and offsets, so such a file is converted as a whole. */
static int to_netascii(struct nb_file *f, struct err *e) {
    AUTO(buf) struct buf raw = BUF_INIT(LIM_NETASCII);
    struct nb_file text;
    int rc = f->fd >= 0 ? sys_fd_read_all(f->fd, &raw, e) : buf_span(&raw, buf_view(&f->mem));
    if (rc < 0) {
        return rc;
    }
    nb_file_init(&text);
    buf_init(&text.mem, 2 * LIM_NETASCII);
    tftp_netascii(buf_view(&raw), &text.mem);
    text.size = text.mem.n;
    text.type = f->type;
    nb_file_fini(f);
    *f = text;
    return 0;
}

static void drop(struct transfer *t) {
    t->x.state = TFTP_ABORTED;
    finish(t);
}

/* A request from a port that has a transfer. The same again is a repetition or a duplicate: its first answer is under way
 * or the timer sends it again, and of two transfers the client would refuse one (RFC 1350 §4). Once that transfer has been
 * silent for longer than its timeout, or for another file, it is a new client with an old port, as ROMs have that always use
 * the same one: the old transfer ends, or its packets would be taken for those of the new one. */
static bool repeated(struct transfer *t, struct span pkt) {
    if (span_eq(buf_view(&t->request), pkt) && (t->x.base == 0 || t->x.tries == 0)) {
        return true;
    }
    drop(t);
    return false;
}

/* True when the request is served already. A client that has too many transfers loses the one that it has said nothing
 * about for longest. */
static bool in_hand(struct netboot *nb, const struct nb_from *from, struct span pkt) {
    struct transfer *quiet = NULL, *same = NULL;
    size_t of_client = 0;
    for (LIST_EACH(at, next, &nb->tftp)) {
        struct transfer *t = CONTAINER_OF(at, struct transfer, link);
        if (t->peer_ip == from->src_ip) {
            of_client++;
            quiet = !quiet || t->heard_ns < quiet->heard_ns ? t : quiet;
            same = t->peer_port == from->src_port ? t : same;
        }
    }
    if (same) {
        return repeated(same, pkt);
    }
    if (of_client >= LIM_NB_TFTP_PER_CLIENT) {
        buf_reset(&quiet->head);
        tftp_error_write(&quiet->head, TFTP_E_UNDEFINED, "too many transfers of one client");
        IGNORE_ERR(send(quiet->fd, quiet->head.p, quiet->head.n, MSG_NOSIGNAL) < 0,
                   "it may have gone long ago");
        drop(quiet);
    }
    return false;
}

static void start(struct netboot *nb, const struct nb_from *from, const struct tftp_request *rq,
                  struct nb_file *own_f, struct span path, struct span pkt) {
    struct err e = ERR_INIT;
    int fd = transfer_socket(from, &e);
    if (fd < 0) {
        refuse(from, TFTP_E_UNDEFINED, "out of resources");
        nb_file_fini(own_f);
        return;
    }
    struct transfer *t = new_zero(struct transfer);
    t->ifc = from->ifc;
    t->peer_ip = from->src_ip;
    t->peer_port = from->src_port;
    t->fd = fd;
    t->file = *own_f;
    t->started_ns = t->heard_ns = loop_now(nb->l);
    buf_init(&t->head, LIM_TFTP_PACKET);
    buf_init(&t->request, LIM_TFTP_PACKET);
    buf_span(&t->request, pkt);
    IGNORE_ERR(span_to_cstr(path, t->name, sizeof(t->name)), "for logs only");
    list_add_tail(&nb->tftp, &t->link);
    nb->n_tftp++;
    tftp_xfer_start(&t->x, rq, t->file.size,
                    (uint32_t)from->ifc->mtu - UDP_IP_HEADERS - TFTP_HEADER, loop_now(nb->l));
    if (loop_io_start(nb->l, &t->io, fd, LOOP_READ, readable, "tftp transfer", &e) < 0) {
        transfer_free(t);
        return;
    }
    pump(t);
}

static void on_request(struct netboot *nb, struct nb_from *from, struct span pkt) {
    struct tftp_request rq;
    struct nb_file f;
    struct err e = ERR_INIT;
    AUTO(buf) struct buf path = BUF_INIT(LIM_TFTP_NAME);
    uint32_t ip;
    int rc = tftp_request_parse(pkt, &rq);
    nb->count.tftp_requests++;
    if (rc == -ERR_UNSUPPORTED) {
        refuse(from, TFTP_E_ILLEGAL, "only octet and netascii");
        return;
    }
    if (rc < 0) {
        return; /* not a request: an answer to it could be abused to bounce packets */
    }
    if (from->dst_ip == UINT32_MAX && nb_iface_network(from->ifc, &ip)) {
        from->dst_ip = ip;
    }
    if (rq.op == TFTP_WRQ) {
        refuse(from, TFTP_E_ACCESS, "read only");
        return;
    }
    if (in_hand(nb, from, pkt)) {
        return;
    }
    if (nb->n_tftp >= LIM_NB_TFTP) {
        refuse(from, TFTP_E_UNDEFINED, "too many transfers, try again");
        return;
    }
    nb_file_init(&f);
    rc = nb_path_clean(rq.file, &path);
    if (rc >= 0) {
        rc = nb_file_open(nb, buf_view(&path), from->src_ip, from->dst_ip, false, &f, &e);
    }
    if (rc >= 0 && rq.netascii) {
        rc = to_netascii(&f, &e);
    }
    if (rc < 0) {
        nb_file_fini(&f);
        refuse(from, rc == -ERR_NOT_FOUND ? TFTP_E_NOT_FOUND : TFTP_E_ACCESS,
               rc == -ERR_NOT_FOUND ? "file not found" : "access violation");
        return;
    }
    start(nb, from, &rq, &f, buf_view(&path), pkt);
}

static void request_readable(struct loop_io *io, uint32_t events) {
    struct nb_iface *ifc = CONTAINER_OF(io, struct nb_iface, io69);
    uint8_t p[LIM_TFTP_PACKET];
    struct nb_from from;
    int n;
    (void)events;
    while ((n = nb_udp_recv(ifc, io->fd, p, sizeof(p), &from)) >= 0) {
        on_request(ifc->nb, &from, span_of(p, (size_t)n));
    }
}

int nb_tftp_start(struct netboot *nb, struct err *e) {
    for (size_t i = 0; i < nb->n_ifaces; i++) {
        struct nb_iface *ifc = &nb->ifaces[i];
        int rc = ifc->udp69 = nb_udp_open(ifc->name, PORT_TFTP, 0, e);
        rc = rc < 0 ? rc
                    : loop_io_start(nb->l, &ifc->io69, ifc->udp69, LOOP_READ, request_readable,
                                    "tftp", e);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

void nb_tftp_stop(struct netboot *nb) {
    while (!list_empty(&nb->tftp)) {
        transfer_free(CONTAINER_OF(nb->tftp.next, struct transfer, link));
    }
    for (size_t i = 0; i < nb->n_ifaces; i++) {
        loop_io_stop(&nb->ifaces[i].io69);
        sys_close(nb->ifaces[i].udp69);
    }
}
