/* Files by name, for TFTP and HTTP alike:
 *
 *   boot/<mac>.ipxe, boot/<mac>.cfg    scripts made from the plan
 *   grub/grub.cfg                      the same for the machine that holds the asking address
 *   images/<path>                      image directory
 *   <path>                             boot directory (loaders)
 *
 * Names are resolved beneath open directories by openat2: no "..", no symbolic links. */
#include "internal/netboot/nb_int.h"

#include "internal/log/log.h"
#include "internal/sys/sys.h"

#include <errno.h>
#include <sys/stat.h>

enum { LIM_PATH = 1024 };

void nb_file_init(struct nb_file *f) {
    *f = (struct nb_file){.fd = -1};
    buf_init(&f->mem, LIM_NB_SCRIPT);
}

void nb_file_fini(struct nb_file *f) {
    sys_close(f->fd);
    f->fd = -1;
    buf_fini(&f->mem);
}

int nb_path_clean(struct span name, struct buf *ret) {
    AUTO(buf) struct buf flat = BUF_INIT(LIM_PATH);
    struct span s, part;
    for (size_t i = 0; i < name.n; i++) {
        uint8_t c = name.p[i] == '\\' ? '/' : name.p[i];
        if (c < ' ' || c == 127) {
            return -ERR_FORBIDDEN;
        }
        buf_u8(&flat, c);
    }
    if (buf_ok(&flat) < 0) {
        return -ERR_FORBIDDEN;
    }
    s = buf_view(&flat);
    while (span_next(&s, '/', &part)) {
        if (!part.n || span_eq_str(part, ".")) {
            continue;
        }
        if (span_eq_str(part, "..")) {
            return -ERR_FORBIDDEN;
        }
        if (ret->n) {
            buf_u8(ret, '/');
        }
        buf_span(ret, part);
    }
    return buf_ok(ret) < 0 || !ret->n ? -ERR_FORBIDDEN : 0;
}

static const char *type_of(struct span path) {
    static const struct {
        const char *end, *type;
    } types[] = {
        {".ipxe", "text/plain"}, {".cfg", "text/plain"},        {".efi", "application/efi"},
        {".txt", "text/plain"},  {".json", "application/json"},
    };
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        if (span_ends(path, types[i].end)) {
            return types[i].type;
        }
    }
    return "application/octet-stream";
}

static int open_at(int dirfd, struct span path, struct nb_file *ret, struct err *e) {
    char name[LIM_PATH + 1];
    struct stat st;
    if (dirfd < 0 || span_to_cstr(path, name, sizeof(name)) < 0) {
        return err_set(e, ERR_NOT_FOUND, "no such file");
    }
    int fd = sys_open_beneath(dirfd, name, O_RDONLY | O_NONBLOCK, 0, e);
    if (fd <
        0) { /* out of the directory, through a link, through a file, too long: for the client all the same */
        bool odd =
            e->sys == ELOOP || e->sys == EXDEV || e->sys == ENOTDIR || e->sys == ENAMETOOLONG;
        return odd ? -ERR_NOT_FOUND : fd;
    }
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        sys_close(fd);
        return err_set(e, ERR_NOT_FOUND, "%s is not a regular file", name);
    }
    ret->fd = fd;
    ret->size = (uint64_t)st.st_size;
    ret->mtime_s = st.st_mtime;
    ret->type = type_of(path);
    return 0;
}

static void note(struct netboot *nb, struct dhcp_hw hw, uint32_t ip, bool script) {
    struct nb_machine *m = nb_machine_get(nb, hw);
    if (m) {
        *(script ? &m->script_ns : &m->loader_ns) = loop_now(nb->l);
    }
    if (m && script && nb->on_boot) {
        nb->on_boot(nb->on_boot_ctx, m, ip);
    }
}

/* The boot window opens only for a script that its own machine fetched, from the address we gave it. */
static int open_script(struct netboot *nb, struct dhcp_hw hw, bool grub, uint32_t peer_ip,
                       uint32_t server_ip, bool http, struct nb_file *ret, struct err *e) {
    struct dhcp_hw peer;
    int rc = grub ? nb_script_grub(nb, hw, peer_ip, server_ip, http, &ret->mem)
                  : nb_script_ipxe(nb, hw, peer_ip, server_ip, &ret->mem);
    if (rc < 0) {
        return err_set(e, ERR_LIMIT, "boot script too long");
    }
    if (nb_peer_hw(nb, peer_ip, &peer) && dhcp_hw_eq(peer, hw)) {
        char mac[DHCP_HW_STR];
        const struct nb_node *n = nb_node_of(nb, hw);
        dhcp_hw_format(hw, ':', mac);
        note(nb, hw, peer_ip, true);
        LOG_INFO("netboot", "boot script", F_STR("node", n ? n->host.name : "unknown"),
                 F_STR("hw", mac));
    }
    ret->size = ret->mem.n;
    ret->type = "text/plain";
    return 0;
}

static bool script_name(struct span path, struct dhcp_hw *ret_hw, bool *ret_grub) {
    static const struct {
        const char *start, *end;
        bool grub;
    } forms[] = {
        {"boot/", ".ipxe", false},
        {"boot/", ".cfg", true},
        {"grub/grub.cfg-01-", "", true},
        {"boot/grub/grub.cfg-01-", "", true},
    };
    for (size_t i = 0; i < ARRAY_LEN(forms); i++) {
        size_t a = strlen(forms[i].start), b = strlen(forms[i].end);
        if (span_starts(path, forms[i].start) && span_ends(path, forms[i].end) && path.n > a + b &&
            dhcp_hw_parse(span_of(path.p + a, path.n - a - b), ret_hw) == 0) {
            *ret_grub = forms[i].grub;
            return true;
        }
    }
    return false;
}

int nb_file_open(struct netboot *nb, struct span path, uint32_t peer_ip, uint32_t server_ip,
                 bool http, struct nb_file *ret, struct err *e) {
    struct dhcp_hw hw;
    bool grub;
    if (script_name(path, &hw, &grub)) {
        return open_script(nb, hw, grub, peer_ip, server_ip, http, ret, e);
    }
    if (span_eq_str(path, "grub/grub.cfg") || span_eq_str(path, "boot/grub/grub.cfg")) {
        if (!nb_peer_hw(nb, peer_ip, &hw)) {
            return err_set(e, ERR_NOT_FOUND, "no lease at the asking address");
        }
        return open_script(nb, hw, true, peer_ip, server_ip, http, ret, e);
    }
    if (span_starts(path, "images/")) {
        IGNORE_ERR(span_skip(&path, strlen("images/")), "just seen");
        return open_at(nb->image_fd, path, ret, e);
    }
    int rc = open_at(nb->boot_fd, path, ret, e);
    if (rc == 0 && nb_peer_hw(nb, peer_ip, &hw)) {
        note(nb, hw, peer_ip, false);
    }
    return rc;
}
