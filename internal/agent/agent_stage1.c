#include "internal/agent/agent_int.h"
#include "internal/base/rand.h"
#include "internal/netlink/netlink.h"
#include "internal/sys/sys.h"

#include <errno.h>
#include <linux/loop.h>
#include <net/if.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#define IMAGE_DIR AGENT_RUN "/image"
#define NEWROOT "/newroot"

enum {
    MAX_NICS = 8,
    NIC_WAIT_S = 30,  /* for the first network device */
    DHCP_WAIT_S = 15, /* on one device before the next is tried */
    DHCP_ROUNDS = 20,
    DOC_TRIES = 20,
    FETCH_TRIES = 5
};

struct stage1 {
    struct agent_modules modules;
    struct loop *l;
    struct agent_dhcp dhcp;
    struct arena mem;
    const char *boot_url, *pin;
    uint8_t mac[6];
    struct json_doc *doc;
};

static int mounts(struct err *e) {
    if (agent_mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL, e) < 0 ||
        agent_mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL, e) < 0 ||
        agent_mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=0755", e) < 0 ||
        agent_mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755", e) < 0) {
        return -(int)e->code;
    }
    return sys_mkdirs(AGENT_RUN, 0700, e);
}

/* The console is inherited only when the initrd's /dev/console existed before the kernel started us. */
static void console(void) {
    struct err e = ERR_INIT;
    AUTO_FD int fd = sys_open(AT_FDCWD, "/dev/console", O_RDWR | O_NOCTTY, 0, &e);
    for (int to = 0; fd >= 0 && to < 3; to++) {
        dup2(fd, to);
    }
    fd = fd < 3 ? -1 : fd;
}

static int drivers(struct stage1 *s, struct err *e) {
    static const char *const needed[] = {"loop", "squashfs", "overlay"};
    if (agent_modules_init(&s->modules, e) < 0) {
        return -(int)e->code;
    }
    agent_modules_coldplug(&s->modules);
    for (size_t i = 0; i < ARRAY_LEN(needed); i++) {
        if (agent_module_load(&s->modules, needed[i], e) < 0 && e->code != ERR_NOT_FOUND) {
            return -(int)e->code;
        }
        err_reset(e); /* not there: built into this kernel */
    }
    return 0;
}

static size_t wait_for_interfaces(struct stage1 *s, char (*nics)[16]) {
    size_t n = 0;
    uint64_t deadline = clock_ns() + NIC_WAIT_S * NS_PER_S;
    while ((n = agent_interfaces(nics, MAX_NICS)) == 0 && clock_ns() < deadline) {
        agent_pause(50 * NS_PER_MS);
        agent_modules_coldplug(&s->modules);
    }
    return n;
}

static void on_bound(struct agent_dhcp *d, void *ctx) {
    (void)ctx;
    loop_stop(d->l);
}

struct deadline {
    struct loop_timer t;
    struct loop *l;
};
static void deadline_cb(struct loop_timer *t) {
    loop_stop(CONTAINER_OF(t, struct deadline, t)->l);
}

/* One device after the other until one gets an address. */
static int network(struct stage1 *s, struct err *e) {
    char nics[MAX_NICS][16];
    size_t n = wait_for_interfaces(s, nics);
    if (n == 0) {
        return err_set(e, ERR_UNAVAILABLE, "no network device found: is its driver in the image?");
    }
    for (unsigned round = 0; round < DHCP_ROUNDS; round++) {
        const char *nic = nics[round % n];
        struct deadline dl = {.l = s->l};
        s->dhcp.on_bound = on_bound;
        agent_say("network: asking for an address on %s", nic);
        if (agent_dhcp_start(s->l, &s->dhcp, nic, e) < 0) {
            agent_say("network: %s", e->msg);
            err_reset(e);
            agent_pause(NS_PER_S);
            continue;
        }
        loop_timer_start(s->l, &dl.t, DHCP_WAIT_S * NS_PER_S, deadline_cb, "dhcp deadline");
        int rc = loop_run(s->l, e);
        loop_timer_stop(&dl.t);
        if (rc < 0) {
            return rc;
        }
        if (s->dhcp.state == AGENT_DHCP_BOUND) {
            char ip[16], server[16];
            ip4_format(s->dhcp.lease.ip, ip);
            ip4_format(s->dhcp.lease.server, server);
            memcpy(s->mac, s->dhcp.mac, 6);
            agent_say("network: %s has %s/%u from %s", nic, ip, s->dhcp.lease.prefix_len, server);
            return agent_lease_apply(&s->dhcp, e);
        }
        agent_say("network: no answer on %s", nic);
        agent_dhcp_stop(&s->dhcp);
        n = agent_interfaces(nics, MAX_NICS);
        n = n ? n : 1;
    }
    return err_set(e, ERR_TIMEOUT, "no DHCP server answered on any network device");
}

/* ---- boot document ---- */

static void read_uuid(char *dst, size_t cap) {
    AUTO(buf) struct buf b = BUF_INIT(256);
    struct err e = ERR_INIT;
    dst[0] = 0;
    if (sys_file_read(AT_FDCWD, "/sys/class/dmi/id/product_uuid", &b, &e) == 0) {
        struct span s = buf_view(&b), line;
        if (span_line(&s, &line) == 0 && span_to_cstr(line, dst, cap) < 0) {
            dst[0] = 0;
        }
    }
}

static int boot_document(struct stage1 *s, struct err *e) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *body = json_new_obj(d);
    char uuid[64], nonce[37], mac[18];
    const uint8_t *m = s->mac;
    read_uuid(uuid, sizeof(uuid));
    rand_uuid(nonce);
    IGNORE_ERR(str_put(mac, sizeof(mac), "%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3],
                       m[4], m[5]),
               "fits");
    json_set_str(d, body, "mac", mac);
    json_set_str(d, body, "uuid", uuid);
    json_set_str(d, body, "nonce", nonce);
    for (unsigned try = 1;; try++) {
        if (agent_post(s->boot_url, s->pin, "/v1/boot", body, &s->doc, e) == 0) {
            return 0;
        }
        agent_say("boot document: %s", e->msg);
        if (try == DOC_TRIES || e->code == ERR_FORBIDDEN || e->code == ERR_UNAUTHENTICATED) {
            return err_wrap(e, "boot document");
        }
        err_reset(e);
        agent_pause((try < 5 ? 1 : 5) * NS_PER_S);
    }
}

/* ---- root ---- */

static int loop_mount(const char *file, const char *target, struct err *e) {
    char dev[32];
    AUTO_FD int ctl = sys_open(AT_FDCWD, "/dev/loop-control", O_RDWR, 0, e);
    AUTO_FD int img = ctl < 0 ? -1 : sys_open(AT_FDCWD, file, O_RDONLY, 0, e);
    if (ctl < 0 || img < 0) {
        return -(int)e->code;
    }
    int nr = ioctl(ctl, LOOP_CTL_GET_FREE);
    if (nr < 0 || str_put(dev, sizeof(dev), "/dev/loop%d", nr) < 0) {
        return err_sys(e, errno, "no free loop device");
    }
    AUTO_FD int lo = sys_open(AT_FDCWD, dev, O_RDONLY, 0, e);
    if (lo < 0) {
        return lo;
    }
    /* The file is in RAM: direct I/O would not help, and without a partition scan there is no delay. */
    struct loop_config lc = {.fd = (uint32_t)img,
                             .info.lo_flags = LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR};
    if (ioctl(lo, LOOP_CONFIGURE, &lc) < 0) {
        return err_sys(e, errno, "attaching %s to %s", file, dev);
    }
    return agent_mount(dev, target, "squashfs", MS_RDONLY | MS_NODEV, NULL, e);
}

static int room_for(uint64_t size, struct err *e) {
    struct statfs fs;
    if (statfs(IMAGE_DIR, &fs) < 0) {
        return err_sys(e, errno, "statfs");
    }
    uint64_t room = (uint64_t)fs.f_blocks * (uint64_t)fs.f_bsize;
    if (size > room) {
        return err_set(
            e, ERR_LIMIT,
            "the root image has %llu MB, this machine has room for %llu MB: more memory or a "
            "smaller image",
            (unsigned long long)size >> 20, (unsigned long long)room >> 20);
    }
    return 0;
}

static int root_image(struct stage1 *s, struct err *e) {
    const struct json *image = json_get(json_root(s->doc), "image");
    const char *url = json_str_at(image, "url"), *digest = json_str_at(image, "digest");
    int64_t size = json_i64_at(image, 0, "size");
    if (!url || !digest || size < 0) {
        return err_set(e, ERR_INVALID, "the boot document names no root image");
    }
    if (agent_mount("tmpfs", IMAGE_DIR, "tmpfs", MS_NOSUID, "size=95%,mode=0755", e) < 0 ||
        room_for((uint64_t)size, e) < 0) {
        return -(int)e->code;
    }
    agent_say("root image: fetching %s (%lld MB)", url, (long long)size / 1000000);
    for (unsigned try = 1;; try++) {
        if (agent_download(url, digest, (uint64_t)size, IMAGE_DIR "/root.squashfs", e) == 0) {
            break;
        }
        agent_say("root image: %s", e->msg);
        if (try == FETCH_TRIES) {
            return err_wrap(e, "root image");
        }
        err_reset(e);
        agent_pause(try * 2 * NS_PER_S);
    }
    agent_say("root image: digest is right");
    static const char *const dirs[] = {IMAGE_DIR "/lower", IMAGE_DIR "/upper", IMAGE_DIR "/work"};
    for (size_t i = 0; i < ARRAY_LEN(dirs); i++) {
        if (sys_mkdirs(dirs[i], 0755, e) < 0) {
            return -(int)e->code;
        }
    }
    if (loop_mount(IMAGE_DIR "/root.squashfs", IMAGE_DIR "/lower", e) < 0) {
        return -(int)e->code;
    }
    return agent_mount(
        "overlay", NEWROOT, "overlay", 0,
        "lowerdir=" IMAGE_DIR "/lower,upperdir=" IMAGE_DIR "/upper,workdir=" IMAGE_DIR "/work", e);
}

static int leave_notes(struct stage1 *s, struct err *e) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    AUTO(buf) struct buf b = BUF_INIT(LIM_AGENT_DOC + 65536);
    struct json *o = json_new_obj(d);
    json_set(d, o, "document", json_copy(d, json_root(s->doc)));
    json_set(d, o, "lease", agent_lease_to_json(d, &s->dhcp.lease));
    json_set_str(d, o, "interface", s->dhcp.ifname);
    json_set_str(d, o, "bootURL", s->boot_url);
    json_set_str(d, o, "pin", s->pin);
    json_write(o, 0, &b);
    int rc = buf_ok(&b) < 0 ? err_set(e, ERR_LIMIT, "boot document too large")
                            : sys_file_replace(AT_FDCWD, AGENT_BOOT_FILE, buf_view(&b), 0600, e);
    secret_wipe(b.p, b.n);
    return rc;
}

/* The initrd's files are freed, the mounts go along, and the root becomes the overlay. */
static int switch_root(struct err *e) {
    static const char *const moved[] = {"/proc", "/sys", "/dev", "/run"};
    static const char *const freed[] = {"lib", "init"};
    char to[64];
    for (size_t i = 0; i < ARRAY_LEN(moved); i++) {
        if (str_put(to, sizeof(to), NEWROOT "%s", moved[i]) < 0 ||
            mount(moved[i], to, NULL, MS_MOVE, NULL) < 0) {
            return err_sys(e, errno, "moving %s", moved[i]);
        }
    }
    for (size_t i = 0; i < ARRAY_LEN(freed); i++) {
        struct err ignored = ERR_INIT;
        IGNORE_ERR(sys_rmtree(AT_FDCWD, freed[i], &ignored), "only memory is lost");
    }
    if (chdir(NEWROOT) < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 ||
        chdir("/") < 0) {
        return err_sys(e, errno, "switching root");
    }
    char path[] = "/usr/bin/kfarm", agent[] = "agent", stage[] = "--stage=2";
    char *argv[] = {path, agent, stage, NULL};
    char env_path[] = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    char *envp[] = {env_path, NULL};
    execve(path, argv, envp);
    return err_sys(e, errno, "starting %s", path);
}

int agent_stage1(struct err *e) {
    struct stage1 *s = new_zero(struct stage1);
    s->mem = (struct arena)ARENA_INIT(1 << 20);
    s->dhcp.fd = -1;
    if (mounts(e) < 0) {
        return -(int)e->code;
    }
    console();
    agent_say("stage 1");
    struct err ignored =
        ERR_INIT; /* should even we crash: the kernel starts over instead of standing still */
    IGNORE_ERR(agent_write_file("/proc/sys/kernel/panic", "15", &ignored),
               "the command line may say panic= as well");
    s->boot_url = agent_cmdline(&s->mem, "kfarm.boot");
    s->pin = agent_cmdline(&s->mem, "kfarm.ca");
    if (!s->boot_url || !s->pin) {
        return err_set(e, ERR_INVALID,
                       "kfarm.boot= or kfarm.ca= is missing on the kernel command line");
    }
    if (drivers(s, e) < 0 || loop_new(&s->l, e) < 0) {
        return -(int)e->code;
    }
    if (network(s, e) < 0 || boot_document(s, e) < 0) {
        return -(int)e->code;
    }
    agent_say("boot document: I am %s of tenant %s",
              json_str_or(json_get(json_root(s->doc), "hostname"), "(unnamed)"),
              json_str_or(json_at(json_root(s->doc), "tenant", "name"), "(none)"));
    if (root_image(s, e) < 0 || leave_notes(s, e) < 0) {
        return -(int)e->code;
    }
    agent_dhcp_stop(&s->dhcp);
    agent_modules_fini(&s->modules);
    agent_say("switching root");
    return switch_root(e);
}
