/* dhcp — DHCPv4 for a network boot server: messages, leases and the answer to every request (no I/O).
 *
 * What:     dhcp_msg_parse / dhcp_reply_write: bytes <-> structs. dhcp_client_of: who is asking (firmware, iPXE, OS).
 *           dhcp_server: subnets, leases and the decision what to answer. dhcp_record_*: leases as durable records.
 * Owns:     a parsed message is views into the packet (and into itself: not copyable) and dies with it. A server owns
 *           its copies of the subnets and all leases; a `const struct dhcp_lease *` is valid until the next call.
 * Limits:   LIM_DHCP_* below.
 * Errors:   INVALID (malformed; `why` says what), LIMIT, NOT_FOUND. A request that must not be answered is no error:
 *           the outcome is DHCP_SILENT with its reason.
 * Threads:  any, one at a time per server.
 * Time:     passed in: monotonic now_ns; records carry wall-clock seconds, converted by the caller's pair of clocks.
 * Spec:     RFC 2131 and 2132, 3046 (relay agent), 3396 (long options), 3527 (link selection), 4578 (PXE), 5107 (server
 *           identifier override), 6842 (client id echoed). Deviation: a client is its hardware address, not its client
 *           identifier, because firmware, boot loader and OS of one machine send three different ones (or none) and must
 *           all get the same address.
 *
 * Addresses are uint32_t in host byte order throughout: 10.77.0.1 is 0x0a4d0001.
 */
#ifndef KF_DHCP_H
#define KF_DHCP_H

#include "internal/base/addr.h"
#include "internal/base/buf.h"
#include "internal/base/map.h"

enum {
    LIM_DHCP_IN = 4096,          /* a request longer than this is refused: real ones stay below 1,500 */
    LIM_DHCP_OUT = 1472,         /* a reply fits one Ethernet frame whatever the client says in option 57 */
    LIM_DHCP_OPTS_OUT = 64,      /* options in one reply */
    LIM_DHCP_OPT_BYTES = 2048,   /* storage of their values */
    LIM_DHCP_RANGE = 1 << 18,    /* addresses of one dynamic range (a /14) */
    LIM_DHCP_SUBNETS = 256,      /* subnets of one server */
    LIM_DHCP_DECLINES = 4,       /* addresses that one client may have in quarantine; more are believed no longer */
    LIM_DHCP_HOSTNAME = 63,
    LIM_DHCP_RATE_BURST = 40,    /* messages that one client may send at once … */
    LIM_DHCP_RATE_PER_S = 4,     /* … and per second for long */
};

/* ---- messages ---- */

#define DHCP_TYPES(X) \
    X(DISCOVER, 1) X(OFFER, 2) X(REQUEST, 3) X(DECLINE, 4) X(ACK, 5) X(NAK, 6) X(RELEASE, 7) X(INFORM, 8)
enum dhcp_type {
#define X(name, n) DHCP_##name = n,
    DHCP_TYPES(X)
#undef X
    DHCP_TYPE_MAX_
};
const char *dhcp_type_name(unsigned type); /* "DISCOVER"; "?" for others */

/* How the value of an option is written; fixes the lengths that dhcp_msg_parse accepts. */
enum dhcp_kind { DHCP_K_BYTES, DHCP_K_TEXT, DHCP_K_IP, DHCP_K_IPS, DHCP_K_U8, DHCP_K_U16, DHCP_K_U32, DHCP_K_FLAG };

/* code, name, kind */
#define DHCP_OPTS(X)                                                                                               \
    X(1, SUBNET_MASK, IP) X(3, ROUTER, IPS) X(6, DNS, IPS) X(7, LOG_SERVER, IPS) X(12, HOSTNAME, TEXT)              \
    X(15, DOMAIN, TEXT) X(17, ROOT_PATH, TEXT) X(26, MTU, U16) X(28, BROADCAST, IP) X(42, NTP, IPS)                 \
    X(43, VENDOR, BYTES) X(50, REQUESTED_IP, IP) X(51, LEASE_TIME, U32) X(52, OVERLOAD, U8) X(53, TYPE, U8)         \
    X(54, SERVER_ID, IP) X(55, PARAMS, BYTES) X(56, MESSAGE, TEXT) X(57, MAX_SIZE, U16) X(58, T1, U32)              \
    X(59, T2, U32) X(60, VENDOR_CLASS, BYTES) X(61, CLIENT_ID, BYTES) X(66, TFTP_NAME, TEXT)                        \
    X(67, BOOT_FILE, TEXT) X(77, USER_CLASS, BYTES) X(82, AGENT, BYTES) X(93, ARCH, BYTES) X(94, NDI, BYTES)        \
    X(97, UUID, BYTES) X(100, TZ_POSIX, TEXT) X(101, TZ_NAME, TEXT) X(118, SUBNET_SELECT, IP)                       \
    X(119, DOMAIN_SEARCH, BYTES) X(121, ROUTES, BYTES) X(175, IPXE, BYTES)
enum dhcp_opt {
#define X(code, name, kind) DHCP_OPT_##name = code,
    DHCP_OPTS(X)
#undef X
};
/* Name and kind; "option" and DHCP_K_BYTES for codes without a row. */
const char *dhcp_opt_name(uint8_t code, enum dhcp_kind *ret_kind);
/* Appends the wire form of a value written as text: an address list "10.0.0.1,10.0.0.2", a number, plain text, or hex
 * ("01:0a:ff" or "010aff") for byte options and, behind "hex:", for any. -ERR_INVALID when it does not suit the option's kind. */
NODISCARD int dhcp_opt_from_text(uint8_t code, struct span text, struct buf *ret);

enum { DHCP_HW_MAX = 16, DHCP_FLAG_BROADCAST = 0x8000, DHCP_HEADER = 240 /* up to and with the magic cookie */ };

struct dhcp_msg {
    uint8_t op, htype, hlen, hops;
    uint32_t xid;
    uint16_t secs, flags;
    uint32_t ciaddr, yiaddr, siaddr, giaddr;
    uint8_t chaddr[DHCP_HW_MAX]; /* hlen bytes count */
    struct span sname, file;     /* up to their NUL; empty when they carry options */
    uint8_t type;                /* option 53; 0 for plain BOOTP */
    struct span opt[256];        /* .p NULL: absent. Split options are joined (RFC 3396). */
    uint8_t joined[LIM_DHCP_IN];
    size_t joined_n;
};

/* Reads a message of either direction. Unknown options are kept; known ones with an impossible length, options that run
 * past their field and a missing cookie are INVALID. END may be missing. `*ret_why` is a constant text on failure. */
NODISCARD int dhcp_msg_parse(struct dhcp_msg *m, struct span pkt, const char **ret_why);
static inline bool dhcp_has(const struct dhcp_msg *m, uint8_t code) {
    return m->opt[code].p != NULL;
}
/* Value of an option of kind IP / U16, or `def`. */
uint32_t dhcp_get_ip(const struct dhcp_msg *m, uint8_t code, uint32_t def);
uint16_t dhcp_get_u16(const struct dhcp_msg *m, uint8_t code, uint16_t def);

/* Options of a reply in order of importance; values are copied. Adding past a limit sets `failed`, checked by write. */
struct dhcp_opts {
    struct {
        uint8_t code;
        bool must; /* left out of no reply; others go when there is no room */
        uint16_t at, n;
    } v[LIM_DHCP_OPTS_OUT];
    size_t n;
    uint8_t bytes[LIM_DHCP_OPT_BYTES];
    size_t used;
    bool failed;
};
void dhcp_opts_add(struct dhcp_opts *o, uint8_t code, bool must, struct span value); /* a second value of a code is ignored */
void dhcp_opts_u8(struct dhcp_opts *o, uint8_t code, bool must, uint8_t v);
void dhcp_opts_u16(struct dhcp_opts *o, uint8_t code, bool must, uint16_t v);
void dhcp_opts_u32(struct dhcp_opts *o, uint8_t code, bool must, uint32_t v); /* also one address */

/* Writes a message: header fields of `m` (its opt[] is not looked at), then the options: those marked `must`, then as
 * many of the others as fit, option 82 last; padded to the 300 bytes that old relays want. What does not fit goes into
 * the file and sname fields when those are empty (option 52). `max` counts UDP payload bytes. -ERR_LIMIT when the
 * necessary options do not fit. */
NODISCARD int dhcp_msg_write(const struct dhcp_msg *m, const struct dhcp_opts *o, size_t max, struct buf *ret);

/* ---- who is asking ---- */

enum dhcp_stage {
    DHCP_STAGE_OS,   /* no boot client */
    DHCP_STAGE_PXE,  /* firmware that loads by TFTP */
    DHCP_STAGE_HTTP, /* UEFI HTTP Boot: wants option 60 back and a URL */
    DHCP_STAGE_IPXE, /* iPXE, in ROM or loaded: wants a script */
};
struct dhcp_client {
    enum dhcp_stage stage;
    bool has_arch;
    uint16_t arch; /* first architecture of option 93 that dhcp_arch_find knows, else its first */
};
struct dhcp_client dhcp_client_of(const struct dhcp_msg *m);

/* Client architectures (IANA "Processor Architecture Types"). */
enum dhcp_cpu { DHCP_CPU_X86, DHCP_CPU_X86_64, DHCP_CPU_ARM, DHCP_CPU_ARM64, DHCP_CPU_RISCV64, DHCP_CPU_OTHER };
enum dhcp_firmware { DHCP_FW_BIOS, DHCP_FW_UEFI, DHCP_FW_UBOOT, DHCP_FW_OTHER };
struct dhcp_arch {
    uint16_t code;
    enum dhcp_cpu cpu;
    enum dhcp_firmware fw;
    bool http;
    const char *name;
};
const struct dhcp_arch *dhcp_arch_find(uint16_t code); /* NULL: unknown */

/* ---- leases ---- */

enum dhcp_state {
    DHCP_FREE,     /* remembered: its last owner gets it back if it is still free */
    DHCP_OFFERED,  /* promised for a short time */
    DHCP_BOUND,
    DHCP_DECLINED, /* in quarantine: somebody else answers there */
    DHCP_STATE_MAX_
};
const char *dhcp_state_name(enum dhcp_state s);

struct dhcp_hw {
    uint8_t n, b[DHCP_HW_MAX];
};
bool dhcp_hw_eq(struct dhcp_hw a, struct dhcp_hw b);
/* "52:54:00:77:00:01", also with dashes or without separators, any case. */
NODISCARD int dhcp_hw_parse(struct span s, struct dhcp_hw *ret);
enum { DHCP_HW_STR = 3 * DHCP_HW_MAX + 1 };
void dhcp_hw_format(struct dhcp_hw hw, char sep, char dst[DHCP_HW_STR]);

struct dhcp_lease {
    struct list link; /* in the list of its state, oldest first */
    uint32_t ip, subnet;
    enum dhcp_state state;
    struct dhcp_hw hw;     /* owner; empty when nobody gets it back (declined) */
    uint64_t until_ns;     /* end of the state; FREE: since when, which orders whose address is given away first */
    uint64_t probed_ns;    /* when nobody was found to use it; 0 never */
    uint64_t answered_ns;  /* when somebody was found to use it while it was bound; 0 never */
    uint32_t replaces;     /* address that its owner still holds until it accepts this one; 0: none */
    uint64_t rate_ns;      /* message budget of the owner, see LIM_DHCP_RATE_* */
    char hostname[LIM_DHCP_HOSTNAME + 1];
    uint8_t agent_n, agent[255]; /* relay agent options (82) of the last relayed request */
};

/* Durable form of a lease: one self-delimiting, checksummed record. OFFERED leases have none. */
enum { DHCP_RECORD_MAX = 512 };
int dhcp_record_write(const struct dhcp_lease *l, uint64_t now_ns, uint64_t wall_now_s, struct buf *ret);
/* Takes one record off the front. -ERR_NOT_FOUND at the end, -ERR_CORRUPT for anything torn or damaged (`*s` is then
 * left where the damage begins). Times are turned back into the monotonic clock of now_ns. */
NODISCARD int dhcp_record_read(struct span *s, uint64_t now_ns, uint64_t wall_now_s, struct dhcp_lease *ret);

/* ---- the server ---- */

struct dhcp_subnet {
    uint32_t addr, mask;
    uint32_t range_lo, range_hi; /* both 0: reservations only */
    uint32_t router;             /* 0: none; never leased out */
    uint32_t lease_s, offer_s, decline_s;
    bool probe;                  /* ask for an ARP/ICMP probe before offering an address that is not in use */
    bool proxy;                  /* proxyDHCP: another server gives addresses, we add what to boot */
};

/* A machine that somebody declared. */
struct dhcp_host {
    const char *name;
    uint32_t ip; /* 0: from the range */
};

struct dhcp_request {
    const struct dhcp_msg *m;
    struct dhcp_client client;
    const struct dhcp_subnet *subnet;
    struct dhcp_hw hw;
    const struct dhcp_host *host; /* NULL: unknown machine */
    uint32_t server_ip;           /* our address towards this client: server identifier and siaddr */
    uint32_t yiaddr;              /* address given; 0 with INFORM */
};

/* What the server asks of its owner (the plan). */
struct dhcp_ops {
    /* The declared machine with this hardware address on this subnet. */
    const struct dhcp_host *(*host_by_hw)(void *ctx, const struct dhcp_subnet *sn, struct dhcp_hw hw);
    /* The declared machine that owns this address; NULL: not reserved. */
    const struct dhcp_host *(*host_by_ip)(void *ctx, const struct dhcp_subnet *sn, uint32_t ip);
    /* Adds the subnet's options (DNS, NTP, …) and what to boot. May set m->siaddr and m->file through `file`. */
    void (*options)(void *ctx, const struct dhcp_request *rq, struct dhcp_opts *o, char file[128], uint32_t *siaddr);
};

enum dhcp_act {
    DHCP_SILENT, /* say nothing */
    DHCP_SEND,   /* send `pkt` to `to` */
    DHCP_PROBE,  /* find out whether anybody uses `probe_ip`, call dhcp_server_probed, feed the same request again */
};
enum dhcp_to { DHCP_TO_RELAY, DHCP_TO_CLIENT, DHCP_TO_BROADCAST, DHCP_TO_HW };

struct dhcp_in {
    const struct dhcp_msg *m;
    uint32_t local_ip;  /* our address on the receiving interface */
    bool was_unicast;   /* sent to our address: a renewal or a relay */
    bool on_4011;       /* PXE boot server port */
    uint64_t now_ns;
};
struct dhcp_out {
    enum dhcp_act act;
    const char *why;     /* reason of silence or NAK, constant; NULL otherwise */
    uint8_t type;        /* of the reply */
    enum dhcp_to to;
    uint32_t to_ip;      /* RELAY: port 67 there; CLIENT: port 68; HW: address in the IP header */
    struct dhcp_hw to_hw;
    uint32_t src_ip;     /* server identifier */
    uint32_t probe_ip;
    bool probe_is_local; /* the address is on the client's own link, which is ours: ARP works */
    /* A lease changed: its record must be durable before `pkt` is sent (also with DHCP_SILENT: RELEASE, DECLINE). */
    const struct dhcp_lease *changed;
    struct buf pkt;      /* the caller's, maximum LIM_DHCP_OUT or more; reset on entry */
};

struct dhcp_server;
struct dhcp_server *dhcp_server_new(const struct dhcp_ops *ops, void *ctx, size_t max_leases);
void dhcp_server_free(struct dhcp_server *s);
/* Replaces all subnets. Leases stay: those that no longer fit run out and are not renewed. -ERR_INVALID: overlapping or
 * impossible subnets, -ERR_LIMIT: too many or too large. */
NODISCARD int dhcp_server_configure(struct dhcp_server *s, const struct dhcp_subnet *subnets, size_t n, struct err *e);
/* Decides about one request. */
void dhcp_server_input(struct dhcp_server *s, const struct dhcp_in *in, struct dhcp_out *out);
/* Result of a probe that DHCP_PROBE asked for. */
void dhcp_server_probed(struct dhcp_server *s, uint32_t ip, bool in_use, uint64_t now_ns);
/* Puts a stored lease back (start-up, before the first configuration). -ERR_LIMIT when the table is full. */
NODISCARD int dhcp_server_restore(struct dhcp_server *s, const struct dhcp_lease *l, uint64_t now_ns);
/* The live lease of an address or of a machine on a subnet: BOUND and not run out; NULL otherwise. */
const struct dhcp_lease *dhcp_server_lease_of(const struct dhcp_server *s, uint32_t ip, uint64_t now_ns);
/* Calls `fn` for every lease that has a record. */
void dhcp_server_each(const struct dhcp_server *s, void (*fn)(void *ctx, const struct dhcp_lease *l), void *ctx);
size_t dhcp_server_count(const struct dhcp_server *s, enum dhcp_state state);

#endif
