/* netboot — the boot service: DHCP, TFTP, router advertisements, HTTP boot files and scripts, HTTPS boot documents.
 *
 * What:     answers machines that power on, from a plan held in memory: it goes on while the API server is away.
 * Owns:     a plan owns everything in it and is immutable once given to netboot_set_plan, which takes it. Leases live in
 *           leases.db of the data directory: an ACK is sent only after its lease is on disk.
 * Limits:   LIM_NB_* below and those of dhcp and tftp.
 * Errors:   INVALID (a plan that contradicts itself; says where), LIMIT, and those of sys for files and sockets.
 * Threads:  the loop's; the lease file is written on LANE_FILE.
 * Time:     the loop's; the wall clock for leases on disk and stamps.
 * Spec:     RFC 2131, 4578 and UEFI 2.10 §24 (PXE, HTTP boot) through dhcp; docs/netboot.md.
 */
#ifndef KF_NETBOOT_H
#define KF_NETBOOT_H

#include "internal/base/arena.h"
#include "internal/dhcp/dhcp.h"
#include "internal/json/json.h"
#include "internal/loop/loop.h"

enum {
    LIM_NB_NODES = 1 << 16,
    LIM_NB_IMAGES = 4096,
    LIM_NB_MACS = 16,         /* of one node */
    LIM_NB_OPTIONS = 32,      /* declared DHCP options of one network or node */
    LIM_NB_LEASES = 1 << 18,
    LIM_NB_IFACES = 32,
    LIM_NB_TFTP = 1024,       /* transfers at a time */
    LIM_NB_TFTP_PER_CLIENT = 8,
    LIM_NB_PROBES = 4096,     /* addresses being looked at before they are offered */
    LIM_NB_CMDLINE = 2000,    /* the kernel's own limit is 2,048 */
    LIM_NB_PLAN_BYTES = 256 << 20,
};

/* ---- the plan ---- */

struct nb_option {
    uint8_t code;
    struct span value; /* wire form */
};

struct nb_image {
    const char *name;
    const char *kernel, *initrd, *root; /* paths below the image directory; NULL: none */
    const char *root_digest;            /* "sha256:…" */
    uint64_t root_size;
    const char *args;                   /* kernel arguments */
};

enum nb_ra { NB_RA_QUIET /* "no router here": ends iPXE's wait, changes nothing else */, NB_RA_OFF };

enum { NB_UUID = 16 };
struct nb_node {
    struct dhcp_host host; /* name and address */
    struct dhcp_hw macs[LIM_NB_MACS];
    size_t n_macs;         /* may be 0 with a UUID */
    bool has_uuid;
    uint8_t uuid[2][NB_UUID]; /* as it is written, and with its first three fields swapped, as most firmware sends it */
    const struct nb_image *image; /* NULL: declared, but nothing to boot */
    const char *args;
    const char *tenant_ns, *tenant;  /* NULL: belongs to no tenant; gets no boot document */
    const char *tenant_uid;          /* scope of its keys */
    struct nb_option options[LIM_NB_OPTIONS];
    size_t n_options;
    bool reload_ipxe;      /* replace an iPXE found in ROM by ours */
    bool approved;         /* by a person; matters where the network demands it */
    const char *document;  /* JSON object: the boot document without what is made per boot */
};

struct nb_network {
    const char *name;
    struct dhcp_subnet subnet;
    uint32_t next_server;  /* address in boot URLs; 0: ours on that link */
    uint32_t dns[8], ntp[8];
    size_t n_dns, n_ntp;
    const char *domain;
    uint16_t mtu;
    struct nb_option options[LIM_NB_OPTIONS];
    size_t n_options;
    uint32_t relays[8];    /* the only ones that may forward; none: any */
    size_t n_relays;
    enum nb_ra ra;
    bool reload_ipxe, needs_approval;
    struct nb_node *unknown; /* what machines boot that nobody declared (catch-all); NULL: they get an address only */
};

struct nb_plan {
    struct arena arena;
    struct nb_network *networks;
    size_t n_networks;
    struct nb_node **nodes;
    size_t n_nodes;
    struct nb_image **images;
    size_t n_images;
    struct map by_hw, by_ip, by_uuid, image_by_name;
    struct map approved; /* hardware addresses that a person confirmed */
};

struct nb_plan *nb_plan_new(void);
void nb_plan_free(struct nb_plan *p);
/* The builder copies everything. Each returns 0, -ERR_INVALID or -ERR_EXISTS (the message names both sides), -ERR_LIMIT.
 * Images before the nodes that use them. After a failed add the plan is as before. */
NODISCARD int nb_plan_add_image(struct nb_plan *p, const struct nb_image *im, struct err *e);
NODISCARD int nb_plan_add_network(struct nb_plan *p, const struct nb_network *n, struct err *e);
NODISCARD int nb_plan_add_node(struct nb_plan *p, const struct nb_node *n, struct err *e);
const struct nb_image *nb_plan_image(const struct nb_plan *p, const char *name);
const struct nb_node *nb_plan_node_by_hw(const struct nb_plan *p, struct dhcp_hw hw);
/* By the SMBIOS UUID as DHCP option 97 carries it. */
const struct nb_node *nb_plan_node_by_uuid(const struct nb_plan *p, const uint8_t uuid[NB_UUID]);
/* "11112222-3333-4444-5555-666677778888"; -ERR_INVALID also for one that firmware without a UUID sends (all 00 or ff). */
NODISCARD int nb_uuid_parse(struct span s, uint8_t ret[NB_UUID]);
NODISCARD int nb_plan_approve(struct nb_plan *p, struct dhcp_hw hw, struct err *e);
/* Was this machine, by itself or as one of the node's NICs, confirmed by a person? */
bool nb_plan_is_approved(const struct nb_plan *p, const struct nb_node *n, struct dhcp_hw hw);
const struct nb_node *nb_plan_node_by_ip(const struct nb_plan *p, uint32_t ip);
const struct nb_network *nb_plan_network_of(const struct nb_plan *p, uint32_t ip);
/* Defaults of a network: lease 10 min, offer 60 s, quarantine 1 h, probing on. */
void nb_network_init(struct nb_network *n);
/* Adds one member of a list ("images", "networks", "nodes" or "approved") of the JSON form; i is for messages. */
NODISCARD int nb_plan_add_json(struct nb_plan *p, const char *list, size_t i, const struct json *v, struct err *e);
/* From a JSON document (docs/netboot.md): the whole plan, or the reason why not. */
NODISCARD int nb_plan_from_json(struct span text, struct nb_plan **ret, struct err *e);

/* ---- the service ---- */

struct netboot;
struct tls_config;
struct keyclient;
struct netboot_opts {
    const char *interfaces[LIM_NB_IFACES]; /* none: every one that is up, broadcasts and has an IPv4 address */
    size_t n_interfaces;
    const char *data_dir;                  /* leases.db */
    const char *boot_dir, *image_dir;      /* NULL: nothing served from there */
    uint16_t http_port, https_port;        /* 0: 8069, 8070 */
    bool no_dhcp, no_tftp, no_http;
    /* An interface has come (or come back) that a planned network covers. Its sockets need privileges that are gone: only
     * a new start can serve it. NULL: a log line tells. */
    void (*on_new_interface)(void *ctx);
    void *ctx;
    /* HTTPS: without tls there are no boot documents, without keys nobody can join. Both borrowed until netboot_free. */
    struct tls_config *tls;
    uint8_t boot_ca_sha256[32];            /* of the CA's public key: what nodes pin */
    struct keyclient *keys;
};
/* Opens every socket (needs CAP_NET_BIND_SERVICE, CAP_NET_RAW) and the lease file; afterwards privileges can be dropped. */
NODISCARD int netboot_new(struct loop *l, const struct netboot_opts *o, struct netboot **ret, struct err *e);
/* Takes the plan. On failure the old plan stays and own_plan is freed. */
NODISCARD int netboot_set_plan(struct netboot *nb, struct nb_plan *own_plan, struct err *e);
/* Counters and leases as one JSON object (status, metrics). */
int netboot_status(struct netboot *nb, struct buf *ret);
void netboot_free(struct netboot *nb); /* waits for the lease file */

/* Keeps the plan in line with the Networks, Tenants, Hosts and images of an admin cluster. The last plan is kept in
 * plan.json of the data directory, from which netboot answers when it starts before the API server does. What cannot be
 * served (a MAC address declared twice, …) is left out, with a log line and an event on its object. */
struct kclient;
struct netboot_kube;
NODISCARD int netboot_kube_start(struct netboot *nb, struct kclient *admin, struct keyclient *keys, struct netboot_kube **ret,
                                 struct err *e);
void netboot_kube_stop(struct netboot_kube *k); /* before netboot_free */

#endif
