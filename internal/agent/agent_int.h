#ifndef KF_AGENT_INT_H
#define KF_AGENT_INT_H

#include "internal/agent/agent.h"
#include "internal/base/addr.h"
#include "internal/json/json.h"
#include "internal/loop/loop.h"

enum { LIM_AGENT_DOC = 1 << 20, AGENT_DNS = 8 };
#define AGENT_RUN "/run/kfarm"
#define AGENT_BOOT_FILE AGENT_RUN "/boot.json" /* what stage 1 leaves for stage 2 */

/* ---- the console and the kernel (agent_sys.c) ---- */

/* A line on the console and in the log, with the seconds since power-on. */
void agent_say(const char *fmt, ...) PRINTF(1, 2);
NODISCARD int agent_mount(const char *source, const char *target, const char *type, unsigned long flags,
                          const char *data, struct err *e);
/* Value of `name=` on the kernel command line, or NULL; lives in the arena. */
struct arena;
const char *agent_cmdline(struct arena *a, const char *name);
NODISCARD int agent_write_file(const char *path, const char *text, struct err *e); /* existing file, one write */
void agent_pause(uint64_t ns); /* only where there is no loop yet */
_Noreturn void agent_power(unsigned how /* RB_AUTOBOOT, RB_POWER_OFF, RB_HALT_SYSTEM */);

/* ---- kernel modules (agent_modules.c) ---- */

struct agent_modules {
    struct buf dep, alias;
    char base[256];
    struct map loaded;
};
/* Reads the indexes of /lib/modules/<running kernel>. */
NODISCARD int agent_modules_init(struct agent_modules *m, struct err *e);
void agent_modules_fini(struct agent_modules *m);
/* With everything it needs. Loaded or built in already: fine. -ERR_NOT_FOUND when there is no such module. */
NODISCARD int agent_module_load(struct agent_modules *m, const char *name, struct err *e);
/* Drivers for all devices present; again as long as that finds new devices. */
void agent_modules_coldplug(struct agent_modules *m);

/* ---- address configuration (agent_dhcp.c) ---- */

struct agent_lease {
    uint32_t ip, server, router, t1_s, t2_s, lease_s;
    unsigned prefix_len, mtu;
    uint32_t dns[AGENT_DNS];
    size_t n_dns;
    char domain[128];
};
enum agent_dhcp_state { AGENT_DHCP_SELECTING, AGENT_DHCP_REQUESTING, AGENT_DHCP_BOUND, AGENT_DHCP_RENEWING };
struct agent_dhcp {
    struct loop *l;
    char ifname[16];
    unsigned ifindex;
    uint8_t mac[6];
    int fd;
    struct loop_io io;
    struct loop_timer timer;
    enum agent_dhcp_state state;
    uint32_t xid;
    unsigned tries;
    uint64_t bound_ns;
    struct agent_lease lease;
    void (*on_bound)(struct agent_dhcp *d, void *ctx); /* first lease, and whenever the address changed */
    void *ctx;
};
NODISCARD int agent_dhcp_start(struct loop *l, struct agent_dhcp *d, const char *ifname, struct err *e);
/* Goes on with a lease that was got earlier. */
NODISCARD int agent_dhcp_resume(struct loop *l, struct agent_dhcp *d, const char *ifname, const struct agent_lease *lease,
                                struct err *e);
void agent_dhcp_stop(struct agent_dhcp *d);
/* Puts address, route, MTU and /etc/resolv.conf in place. */
NODISCARD int agent_lease_apply(const struct agent_dhcp *d, struct err *e);
struct json *agent_lease_to_json(struct json_doc *d, const struct agent_lease *l);
NODISCARD int agent_lease_from_json(const struct json *v, struct agent_lease *ret);
/* Ethernet interfaces, the one named by BOOTIF= first; up to `cap`. */
size_t agent_interfaces(char (*ret)[16], size_t cap);

/* ---- talking to the boot server (agent_fetch.c) ---- */

struct agent_url {
    char host[128];
    uint16_t port;
    const char *target; /* rest of the URL */
    bool is_tls;
};
NODISCARD int agent_url_parse(const char *url, struct agent_url *ret, struct err *e);
/* POST of JSON to base URL + path, certificate pinned by "sha256:<hex>"; the answer's document. */
NODISCARD int agent_post(const char *base_url, const char *pin, const char *path, const struct json *body,
                         struct json_doc **ret, struct err *e);
/* Streams a URL into a file while hashing; refuses a wrong digest or size. */
NODISCARD int agent_download(const char *url, const char *digest, uint64_t size, const char *path, struct err *e);

/* ---- child processes (agent_svc.c) ---- */

enum agent_svc_flags { AGENT_ONCE = 1u << 0 /* ends by itself */ };
enum { AGENT_ARGV = 24 };
struct agent_svc {
    const char *name;
    const char *argv[AGENT_ARGV];
    unsigned flags;
    void (*on_exit)(struct agent_svc *s, int exit_code, int sig, void *ctx); /* may be NULL */
    void *ctx;
    /* private */
    struct loop *l;
    struct loop_child child;
    struct loop_io log_io;
    struct loop_timer again;
    int log_fd, file_fd;
    pid_t pid;
    size_t file_size;
    uint64_t started_ns, backoff_ns;
    bool stopping;
    struct agent_svc *next;
};
void agent_svc_start(struct loop *l, struct agent_svc *s);
void agent_svc_signal(struct agent_svc *s, int sig);
void agent_svc_stop(struct agent_svc *s, int sig); /* no restart after this */

/* ---- preloaded container images (agent_import.c) ---- */

typedef void agent_import_cb(void *ctx, int rc, size_t n_images, const struct err *e);
/* Every OCI archive (*.tar) of the folder, into containerd's namespace k8s.io; done is called once. */
NODISCARD int agent_import_start(struct loop *l, const char *socket, const char *dir_path, agent_import_cb *done, void *ctx,
                                 struct err *e);

/* ---- joining (agent_join.c) ---- */

struct agent_join;
struct agent_join_opts {
    struct loop *l;
    const struct json *doc;       /* boot document */
    const char *boot_url, *pin;
    const char *node_ip;
    const char *dir;              /* where ca.crt, client.crt, client.key, serving.crt, serving.key go */
    /* First certificates are in place, and after every renewal. */
    void (*on_identity)(void *ctx, bool is_first);
    /* The ticket was refused: only a new boot helps. */
    void (*on_refused)(void *ctx, const struct err *e);
    void *ctx;
};
NODISCARD int agent_join_start(const struct agent_join_opts *o, struct agent_join **ret, struct err *e);

/* Stage 2's settings of the machine (agent_host.c). */
NODISCARD int agent_host_setup(const struct json *doc, struct err *e);

#endif
