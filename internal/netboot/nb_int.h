/* Private to netboot: the running service.
 *
 *   packets ─▶ nb_sock ─▶ nb_dhcp ─▶ dhcp_server ─▶ nb_journal (fsync) ─▶ nb_sock ─▶ packets
 *                           └▶ nb_probe (ARP, ICMP) ─┘
 *   TFTP, HTTP ─▶ nb_files: names ─▶ boot directory, image directory, or a script made by nb_boot from the plan
 */
#ifndef KF_NB_INT_H
#define KF_NB_INT_H

#include "internal/netboot/netboot.h"
#include "internal/ra/ra.h"
#include "internal/tftp/tftp.h"

enum {
    NB_HTTP_PORT = 8069,
    NB_HTTPS_PORT = 8070,
    NB_BOOT_WINDOW_S = 600, /* a machine may ask for its boot document so long after it fetched its script */
    NB_LOADER_WINDOW_S = 120,
    LIM_NB_MACHINES = 1 << 16,
    LIM_NB_ADDRS = 8,       /* IPv4 addresses of one interface */
    LIM_NB_SCRIPT = 8192,
};

#define NB_COUNTERS(X)                                                                                           \
    X(dhcp_in) X(dhcp_bad) X(dhcp_silent) X(dhcp_dropped) X(dhcp_out) X(dhcp_conflicts) X(tftp_requests)          \
    X(tftp_done) X(tftp_failed) X(tftp_refused) X(ra_sent) X(http_requests) X(journal_batches) X(journal_records) \
    X(journal_failures) X(tickets_issued) X(tickets_used) X(tickets_refused)
struct nb_counters {
#define X(name) uint64_t name;
    NB_COUNTERS(X)
#undef X
};

/* ---- interfaces and packets (nb_sock.c) ---- */

struct nb_iface {
    struct netboot *nb;
    char name[16];
    int index;
    uint8_t hw[6];
    uint16_t mtu;
    struct {
        uint32_t ip, mask;
    } addrs[LIM_NB_ADDRS];
    size_t n_addrs;
    int udp67, udp69, udp4011, packet; /* -1: not open. packet: sends frames to machines without an address */
    struct loop_io io67, io69, io4011, io_arp, io_ra;
    int arp, icmp6;
    struct loop_timer ra_timer;
};

struct nb_from { /* where a datagram came from and to which of our addresses */
    struct nb_iface *ifc;
    uint32_t src_ip, dst_ip;
    uint16_t src_port;
};
/* Finds the interfaces to serve and their addresses. */
NODISCARD int nb_ifaces_find(struct netboot *nb, struct err *e);
/* Looks at the addresses again; true when there is an interface to serve that was not there (or not this one) at start. */
bool nb_ifaces_refresh(struct netboot *nb);
/* Messages of the kernel about links and addresses: only that something changed is of interest. */
NODISCARD int nb_link_watch_open(struct err *e);
NODISCARD int nb_udp_open(const char *ifname, uint16_t port, int rcvbuf, struct err *e);
NODISCARD int nb_packet_open(const struct nb_iface *ifc, uint16_t ethertype, struct err *e); /* 0: sends only */
NODISCARD int nb_ra_open(const struct nb_iface *ifc, struct err *e);
NODISCARD int nb_icmp_open(struct err *e);
/* Reads one datagram; bytes, or -ERR_AGAIN. */
NODISCARD int nb_udp_recv(struct nb_iface *ifc, int fd, uint8_t *p, size_t cap, struct nb_from *ret);
NODISCARD int nb_udp_send(const struct nb_iface *ifc, int fd, uint32_t src, uint32_t dst, uint16_t port, struct span s);
/* An IPv4/UDP frame to a hardware address. */
NODISCARD int nb_frame_send(const struct nb_iface *ifc, const struct dhcp_hw *hw, uint32_t src, uint32_t dst,
                            uint16_t sport, uint16_t dport, struct span s);
NODISCARD int nb_arp_ask(const struct nb_iface *ifc, uint32_t ip);
/* Reads one ARP packet; 1: a reply, of `*ret_ip` at `*ret_hw`; 0: something else; -ERR_AGAIN. */
NODISCARD int nb_arp_read(const struct nb_iface *ifc, uint32_t *ret_ip, struct dhcp_hw *ret_hw);
NODISCARD int nb_icmp_ask(int fd, uint32_t ip, uint16_t id);
NODISCARD int nb_icmp_read(int fd, uint16_t id, uint32_t *ret_ip); /* 1: echo reply from *ret_ip; 0; -ERR_AGAIN */
NODISCARD int nb_ra_read(int fd, uint8_t *p, size_t cap, int *ret_hop_limit, bool *ret_unspecified);
NODISCARD int nb_ra_send(const struct nb_iface *ifc, struct span s);

/* ---- DHCP (nb_dhcp.c), probes (nb_probe.c), leases on disk (nb_journal.c) ---- */

struct nb_reply {
    struct list link;
    struct nb_iface *ifc;
    int fd;
    enum dhcp_to to;
    uint32_t src_ip, to_ip;
    uint16_t to_port;
    struct dhcp_hw to_hw;
    size_t n;
    uint8_t p[];
};
void nb_reply_send(struct nb_reply *own_r);

struct nb_packet { /* a request kept for later */
    struct list link;
    struct nb_from from;
    bool on_4011;
    size_t n;
    uint8_t p[];
};
NODISCARD int nb_dhcp_start(struct netboot *nb, struct err *e);
void nb_dhcp_stop(struct netboot *nb);
void nb_dhcp_packet(struct netboot *nb, const struct nb_from *from, bool on_4011, struct span pkt);

struct nb_probes {
    struct map by_ip; /* struct probe */
    int icmp;
    uint16_t icmp_id;
    struct loop_io io_icmp;
};
NODISCARD int nb_probes_start(struct netboot *nb, struct err *e);
void nb_probes_stop(struct netboot *nb);
/* Looks whether ip is in use; feeds the packet again afterwards. Drops it when a probe of ip runs already. */
void nb_probe(struct netboot *nb, uint32_t ip, bool is_local, const struct nb_from *from, struct span pkt,
              struct dhcp_hw asker);

struct nb_batch {
    struct loop_work work;
    struct nb_journal *j;
    struct buf records;
    struct list replies;
    bool rewrite;
    int rc, fd;
    struct err err;
};
struct nb_journal {
    struct netboot *nb;
    int dir_fd, fd;
    uint64_t size;           /* bytes in the file */
    struct nb_batch *filling;
    bool in_flight, must_rewrite;
    size_t n_waiting;
    struct loop_hook hook;
};
NODISCARD int nb_journal_open(struct netboot *nb, const char *data_dir, struct err *e); /* restores the leases */
/* Makes the lease durable, then sends the reply (may be NULL). */
void nb_journal_commit(struct nb_journal *j, const struct dhcp_lease *l, struct nb_reply *own_reply);
void nb_journal_close(struct nb_journal *j);

/* ---- machines that are booting (nb_boot.c) ---- */

struct nb_machine {
    struct dhcp_hw hw;
    uint64_t loader_ns, script_ns; /* when it fetched these, from the address leased to it; 0: never */
    uint64_t ticket_until_ns;
    uint8_t ticket[32];            /* SHA-256 of the ticket */
    uint8_t key[32];               /* SHA-256 of the certificate request that used it */
    uint32_t ticket_ip;
    uint16_t arch;                 /* of its firmware */
    bool has_arch;
    unsigned ticket_tries;
    bool has_key, has_uuid;
    uint8_t uuid[NB_UUID];         /* that its firmware sent, when a node is declared by it */
};
/* NULL when the table is full and nothing can be forgotten. */
struct nb_machine *nb_machine_get(struct netboot *nb, struct dhcp_hw hw);
struct nb_machine *nb_machine_find(const struct netboot *nb, struct dhcp_hw hw);
/* The node that is declared with this hardware address, or with the UUID that its firmware sent. */
const struct nb_node *nb_node_of(const struct netboot *nb, struct dhcp_hw hw);
/* Remembers the UUID of a machine (option 97) whose hardware address no node names: later stages do not send it. */
void nb_machine_learn(struct netboot *nb, struct dhcp_hw hw, struct span option97);
/* What a machine boots: its node, or the network's catch-all, or NULL. */
const struct nb_node *nb_target(const struct netboot *nb, const struct nb_network *net, struct dhcp_hw hw);
/* Its declared name; for a catch-all "<name>-525400770001". */
enum { NB_NODE_NAME = LIM_DHCP_HOSTNAME + DHCP_HW_STR + 2 };
void nb_node_name(const struct nb_node *n, struct dhcp_hw hw, char dst[NB_NODE_NAME]);
void nb_boot_options(void *ctx, const struct dhcp_request *rq, struct dhcp_opts *o, char file[128], uint32_t *siaddr);
/* Scripts for a machine that asks from peer_ip; `server` is the address in their URLs. */
int nb_script_ipxe(struct netboot *nb, struct dhcp_hw hw, uint32_t peer_ip, uint32_t server, struct buf *ret);
int nb_script_grub(struct netboot *nb, struct dhcp_hw hw, uint32_t peer_ip, uint32_t server, bool http, struct buf *ret);
/* The lease that `ip` holds now, with its machine; false when none. */
bool nb_peer_hw(const struct netboot *nb, uint32_t ip, struct dhcp_hw *ret);

/* ---- files by name (nb_files.c) ---- */

struct nb_file {
    int fd;          /* -1: content is in mem */
    struct buf mem;
    uint64_t size;
    int64_t mtime_s;
    const char *type; /* content type */
};
void nb_file_init(struct nb_file *f);
void nb_file_fini(struct nb_file *f);
/* Normalises a name as firmware sends it (double and leading slashes, backslashes, "."), -ERR_FORBIDDEN for "..",
 * control characters and over-long names. */
NODISCARD int nb_path_clean(struct span name, struct buf *ret);
/* Opens what `path` (cleaned) names for the client at peer_ip, reached at our address server_ip. NOT_FOUND, FORBIDDEN. */
NODISCARD int nb_file_open(struct netboot *nb, struct span path, uint32_t peer_ip, uint32_t server_ip, bool http,
                           struct nb_file *ret, struct err *e);

/* ---- TFTP (nb_tftp.c), RA (nb_ra.c), HTTP (nb_http.c, nb_join.c) ---- */

NODISCARD int nb_tftp_start(struct netboot *nb, struct err *e);
void nb_tftp_stop(struct netboot *nb);
NODISCARD int nb_ra_start(struct netboot *nb, struct err *e);
void nb_ra_stop(struct netboot *nb);
struct http_req;
NODISCARD int nb_http_start(struct netboot *nb, struct err *e);
NODISCARD int nb_https_start(struct netboot *nb, struct err *e);
void nb_http_stop(struct netboot *nb);
uint32_t nb_http_peer(const struct http_req *r); /* 0: not IPv4 */
uint32_t nb_http_local(struct netboot *nb, const struct http_req *r);
void nb_join_request(struct http_req *r, void *ctx); /* of the HTTPS server */

/* ---- Hosts by discovery (nb_hosts.c) ---- */

struct nb_hosts;
struct kclient;
struct kinformer;
struct kevents;
struct nb_hosts *nb_hosts_new(struct netboot *nb, struct kclient *c, struct kevents *events,
                              const struct kinformer *hosts);
void nb_hosts_free(struct nb_hosts *h);

struct netboot {
    struct loop *l;
    struct netboot_opts o;
    struct nb_plan *plan;
    struct nb_iface *ifaces;
    size_t n_ifaces;
    struct dhcp_server *dhcp;
    struct buf dhcp_pkt;
    struct list discovers; /* waiting packets, oldest first */
    size_t n_discovers;
    struct loop_timer discover_timer;
    struct nb_probes probes;
    struct nb_journal journal;
    struct map machines;
    struct list tftp;      /* transfers */
    size_t n_tftp;
    struct http_server *http, *https;
    int boot_fd, image_fd;
    char ca_pin[65];       /* hex SHA-256 of the boot CA's key; empty: no HTTPS */
    int link_watch;
    struct loop_io io_links;
    struct loop_timer links_timer;
    void (*on_boot)(void *ctx, const struct nb_machine *m, uint32_t ip); /* a machine fetched its script */
    void (*on_waiting)(void *ctx, struct dhcp_hw hw); /* it may not join before somebody approves */
    void *on_boot_ctx;
    void (*on_leases)(void *ctx); /* a lease was made, ended or given back */
    void *on_leases_ctx;
    struct nb_counters count;
};

/* The planned network of an interface: the first that holds one of its addresses; ret_ip is that address. */
const struct nb_network *nb_iface_network(const struct nb_iface *ifc, uint32_t *ret_ip);

#endif
