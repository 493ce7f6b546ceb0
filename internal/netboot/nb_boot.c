/* What a machine boots: loaders by architecture, then scripts by MAC address.
 *
 *   firmware ─DHCP▶ loader (TFTP or HTTP) ─▶ iPXE ─DHCP▶ /boot/<mac>.ipxe ─▶ kernel, initrd
 *
 * Everything here travels in the clear and tells nothing secret: names of files, and the pin of the boot CA. */
#include "internal/netboot/nb_int.h"

#include "internal/base/rand.h"

#include <stdlib.h>
#include <unistd.h>

/* Loaders by architecture; the file names are those of Debian's ipxe package and its ports. */
static const struct {
    enum dhcp_cpu cpu;
    enum dhcp_firmware fw;
    const char *file;
} loaders[] = {
    {DHCP_CPU_X86, DHCP_FW_BIOS, "undionly.kpxe"},
    {DHCP_CPU_X86_64, DHCP_FW_UEFI, "snponly.efi"},
    {DHCP_CPU_X86, DHCP_FW_UEFI, "snponly-ia32.efi"},
    {DHCP_CPU_ARM64, DHCP_FW_UEFI, "snponly-arm64.efi"},
    {DHCP_CPU_ARM, DHCP_FW_UEFI, "snponly-arm32.efi"},
    {DHCP_CPU_RISCV64, DHCP_FW_UEFI, "snponly-riscv64.efi"},
};

static bool have_file(const struct netboot *nb, const char *name) {
    return nb->boot_fd >= 0 && faccessat(nb->boot_fd, name, R_OK, 0) == 0;
}

/* Option 67 as declared, of the node or else of its network: a loader of the operator's choice, such as GRUB. */
static bool declared_loader(const struct nb_option *list, size_t n, char name[128]) {
    for (size_t i = 0; i < n; i++) {
        if (list[i].code == DHCP_OPT_BOOT_FILE && span_to_cstr(list[i].value, name, 128) == 0) {
            return true;
        }
    }
    return false;
}

/* NULL: nothing for this machine (unknown architecture, or its loader is not installed). */
static const char *loader_for(const struct netboot *nb, const struct dhcp_client *c) {
    const struct dhcp_arch *a = c->has_arch ? dhcp_arch_find(c->arch) : NULL;
    for (size_t i = 0; a && i < ARRAY_LEN(loaders); i++) {
        if (loaders[i].cpu == a->cpu && loaders[i].fw == a->fw) {
            return have_file(nb, loaders[i].file) ? loaders[i].file : NULL;
        }
    }
    return NULL;
}

/* ---- machines that are booting ---- */

static struct span key(const struct dhcp_hw *hw) {
    return span_of(hw->b, hw->n);
}

struct nb_machine *nb_machine_find(const struct netboot *nb, struct dhcp_hw hw) {
    return map_get(&nb->machines, key(&hw));
}

static bool is_over(const struct nb_machine *m, uint64_t now_ns) {
    uint64_t last = m->loader_ns > m->script_ns ? m->loader_ns : m->script_ns;
    return !m->has_uuid && m->ticket_until_ns <= now_ns &&
           now_ns - last > NB_BOOT_WINDOW_S * NS_PER_S;
}

static void forget_old(struct netboot *nb) {
    struct map_iter it = {0};
    struct map_entry *en;
    while (map_next(&nb->machines, &it, &en)) {
        struct nb_machine *m = en->value;
        if (is_over(m, loop_now(nb->l))) {
            map_del(&nb->machines, key(&m->hw));
            free(m);
        }
    }
}

struct nb_machine *nb_machine_get(struct netboot *nb, struct dhcp_hw hw) {
    struct nb_machine *m = nb_machine_find(nb, hw);
    if (m) {
        return m;
    }
    if (nb->machines.n >= LIM_NB_MACHINES) {
        forget_old(nb);
    }
    if (nb->machines.n >= LIM_NB_MACHINES) {
        return NULL;
    }
    m = new_zero(struct nb_machine);
    m->hw = hw;
    map_put(&nb->machines, key(&hw), m);
    return m;
}

bool nb_peer_hw(const struct netboot *nb, uint32_t ip, struct dhcp_hw *ret) {
    const struct dhcp_lease *l = dhcp_server_lease_of(nb->dhcp, ip, loop_now(nb->l));
    if (l) {
        *ret = l->hw;
    }
    return l != NULL;
}

const struct nb_node *nb_node_of(const struct netboot *nb, struct dhcp_hw hw) {
    const struct nb_node *n = nb_plan_node_by_hw(nb->plan, hw);
    const struct nb_machine *m = n || !nb->plan->by_uuid.n ? NULL : nb_machine_find(nb, hw);
    return m && m->has_uuid ? nb_plan_node_by_uuid(nb->plan, m->uuid) : n;
}

/* So many NICs may one UUID have: whoever knows it must not fill the table. */
static bool uuid_is_crowded(const struct netboot *nb, const uint8_t uuid[NB_UUID]) {
    struct map_iter it = {0};
    struct map_entry *en;
    size_t n = 0;
    while (map_next(&nb->machines, &it, &en)) {
        const struct nb_machine *m = en->value;
        n += m->has_uuid && memcmp(m->uuid, uuid, NB_UUID) == 0;
    }
    return n >= LIM_NB_MACS;
}

void nb_machine_learn(struct netboot *nb, struct dhcp_hw hw, struct span option97) {
    bool is_uuid = option97.n == 1 + NB_UUID && option97.p[0] == 0;
    const struct nb_node *n = is_uuid ? nb_plan_node_by_uuid(nb->plan, option97.p + 1) : NULL;
    if (!n || nb_plan_node_by_hw(nb->plan, hw)) {
        return;
    }
    const uint8_t *uuid = n->uuid[0]; /* one form of it, whichever was sent */
    const struct nb_machine *known = nb_machine_find(nb, hw);
    if ((known && known->has_uuid && memcmp(known->uuid, uuid, NB_UUID) == 0) ||
        uuid_is_crowded(nb, uuid)) {
        return;
    }
    struct nb_machine *m = nb_machine_get(nb, hw);
    if (m) {
        m->has_uuid = true;
        memcpy(m->uuid, uuid, NB_UUID);
    }
}

const struct nb_node *nb_target(const struct netboot *nb, const struct nb_network *net,
                                struct dhcp_hw hw) {
    const struct nb_node *n = nb_node_of(nb, hw);
    return n ? n : net ? net->unknown : NULL;
}

void nb_node_name(const struct nb_node *n, struct dhcp_hw hw, char dst[NB_NODE_NAME]) {
    char mac[DHCP_HW_STR] = "";
    if (!n->n_macs && !n->has_uuid) { /* a catch-all */
        dhcp_hw_format(hw, 0, mac);
    }
    IGNORE_ERR(str_put(dst, NB_NODE_NAME, mac[0] ? "%s-%s" : "%s%s", n->host.name, mac), "fits");
}

/* ---- DHCP options ---- */

static void add_ips(struct dhcp_opts *o, uint8_t code, const uint32_t *ips, size_t n) {
    AUTO(buf) struct buf b = BUF_INIT(64);
    for (size_t i = 0; i < n; i++) {
        buf_be32(&b, ips[i]);
    }
    if (n) {
        dhcp_opts_add(o, code, false, buf_view(&b));
    }
}

static void add_declared(struct dhcp_opts *o, const struct nb_option *list, size_t n) {
    for (size_t i = 0; i < n; i++) {
        dhcp_opts_add(o, list[i].code, false, list[i].value);
    }
}

/* An iPXE in ROM is as good as ours, unless the plan says otherwise; then ours is loaded once, and the second iPXE, which
 * cannot be told from the first by what it sends, is recognised by the download just before. */
static bool wants_loader(struct netboot *nb, const struct nb_network *net, const struct nb_node *n,
                         const struct dhcp_request *rq) {
    if (rq->client.stage != DHCP_STAGE_IPXE) {
        return true;
    }
    const struct nb_machine *m = nb_machine_find(nb, rq->hw);
    bool just_loaded =
        m && m->loader_ns && loop_now(nb->l) - m->loader_ns < NB_LOADER_WINDOW_S * NS_PER_S;
    return (net->reload_ipxe || n->reload_ipxe) && !just_loaded && loader_for(nb, &rq->client);
}

/* What to load, as a name for TFTP or a URL; false: nothing for this machine. */
static bool pick_file(struct netboot *nb, const struct nb_network *net, const struct nb_node *n,
                      const struct dhcp_request *rq, const char *server, char file[128]) {
    char mac[DHCP_HW_STR], loader[128];
    if (!wants_loader(nb, net, n, rq)) {
        dhcp_hw_format(rq->hw, '-', mac);
        return str_put(file, 128, "http://%s:%u/boot/%s.ipxe", server, nb->o.http_port, mac) == 0;
    }
    if (!declared_loader(n->options, n->n_options, loader) &&
        !declared_loader(net->options, net->n_options, loader)) {
        const char *usual = loader_for(nb, &rq->client);
        if (!usual) {
            return false;
        }
        IGNORE_ERR(str_put(loader, sizeof(loader), "%s", usual), "fits");
    }
    bool by_http = rq->client.stage == DHCP_STAGE_HTTP && !span_starts(span_str(loader), "http");
    return (by_http ? str_put(file, 128, "http://%s:%u/%s", server, nb->o.http_port, loader)
                    : str_put(file, 128, "%s", loader)) == 0;
}

static void put_boot(struct netboot *nb, const struct nb_network *net, const struct nb_node *n,
                     const struct dhcp_request *rq, struct dhcp_opts *o, char file[128],
                     uint32_t *siaddr) {
    static const uint8_t no_discovery[] = {
        6, 1, 8, 255}; /* PXE_DISCOVERY_CONTROL: take the file of this offer */
    uint32_t server = net->next_server ? net->next_server : rq->server_ip;
    char ip[IP4_STR];
    ip4_format(server, ip);
    if (!pick_file(nb, net, n, rq, ip, file)) {
        file[0] = 0;
        return;
    }
    if (rq->client.stage == DHCP_STAGE_HTTP) {
        dhcp_opts_add(o, DHCP_OPT_VENDOR_CLASS, true, SPAN_LIT("HTTPClient"));
    } else if (net->subnet.proxy) { /* beside another server's offer ours must say that it is PXE */
        dhcp_opts_add(o, DHCP_OPT_VENDOR_CLASS, true, SPAN_LIT("PXEClient"));
        dhcp_opts_add(o, DHCP_OPT_VENDOR, true, span_of(no_discovery, sizeof(no_discovery)));
    }
    dhcp_opts_add(o, DHCP_OPT_BOOT_FILE, true, span_str(file));
    dhcp_opts_add(o, DHCP_OPT_TFTP_NAME, false, span_str(ip));
    *siaddr = server;
}

void nb_boot_options(void *ctx, const struct dhcp_request *rq, struct dhcp_opts *o, char file[128],
                     uint32_t *siaddr) {
    struct netboot *nb = ctx;
    const struct nb_network *net = nb_plan_network_of(nb->plan, rq->subnet->addr);
    const struct nb_node *n = net ? nb_target(nb, net, rq->hw) : NULL;
    if (!net) {
        return;
    }
    if (n && rq->client.stage != DHCP_STAGE_OS) {
        put_boot(nb, net, n, rq, o, file, siaddr);
    }
    if (net->subnet.proxy) {
        return;
    }
    if (n) {
        add_declared(o, n->options, n->n_options);
    }
    add_declared(o, net->options, net->n_options);
    add_ips(o, DHCP_OPT_DNS, net->dns, net->n_dns);
    add_ips(o, DHCP_OPT_NTP, net->ntp, net->n_ntp);
    if (net->domain) {
        dhcp_opts_add(o, DHCP_OPT_DOMAIN, false, span_str(net->domain));
    }
    if (net->mtu) {
        dhcp_opts_u16(o, DHCP_OPT_MTU, false, net->mtu);
    }
}

/* ---- scripts ---- */

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static bool has_arg(const char *args, const char *prefix) {
    struct span s = span_str(args), word;
    while (args && span_next(&s, ' ', &word)) {
        if (span_starts(word, prefix)) {
            return true;
        }
    }
    return false;
}

/* Public facts only: this text is served to whoever asks. */
static void put_cmdline(const struct netboot *nb, const struct nb_node *n, struct dhcp_hw hw,
                        const char *server, struct buf *b) {
    char mac[DHCP_HW_STR];
    dhcp_hw_format(hw, '-', mac);
    if (nb->ca_pin[0]) {
        buf_fmt(b, "kfarm.boot=https://%s:%u kfarm.ca=sha256:%s ", server, nb->o.https_port,
                nb->ca_pin);
    }
    buf_fmt(b, "BOOTIF=01-%s", mac);
    if (!has_arg(n->image->args, "console=") && !has_arg(n->args, "console=")) {
        buf_str(b, " console=tty0 console=ttyS0,115200");
    }
    if (n->image->args && *n->image->args) {
        buf_fmt(b, " %s", n->image->args);
    }
    if (n->args && *n->args) {
        buf_fmt(b, " %s", n->args);
    }
}

static int cmdline(const struct netboot *nb, const struct nb_node *n, struct dhcp_hw hw,
                   const char *server, struct buf *b) {
    b->max = LIM_NB_CMDLINE;
    put_cmdline(nb, n, hw, server, b);
    return buf_ok(b);
}

/* The catch-all of the network that the machine is on; behind a relay that is not the network of our address. */
static const struct nb_node *target_at(const struct netboot *nb, struct dhcp_hw hw,
                                       uint32_t peer_ip, uint32_t server) {
    const struct nb_network *net = nb_plan_network_of(nb->plan, peer_ip);
    return nb_target(nb, net ? net : nb_plan_network_of(nb->plan, server), hw);
}

int nb_script_ipxe(struct netboot *nb, struct dhcp_hw hw, uint32_t peer_ip, uint32_t server,
                   struct buf *ret) {
    char ip[IP4_STR], mac[DHCP_HW_STR], url[128];
    AUTO(buf) struct buf args = BUF_INIT(LIM_NB_CMDLINE);
    const struct nb_node *n = target_at(nb, hw, peer_ip, server);
    ip4_format(server, ip);
    dhcp_hw_format(hw, '-', mac);
    IGNORE_ERR(str_put(url, sizeof(url), "http://%s:%u", ip, nb->o.http_port), "fits");
    buf_str(ret, "#!ipxe\n");
    if (n && n->image && cmdline(nb, n, hw, ip, &args) == 0) {
        buf_fmt(ret, "echo kfarm: %s boots %s\n", n->host.name, n->image->name);
        buf_str(ret, "imgfree\n");
        buf_fmt(ret, "kernel %s/images/%s%s%s %s || goto again\n", url, n->image->kernel,
                n->image->initrd ? " initrd=" : "",
                n->image->initrd ? base_name(n->image->initrd) : "", buf_cstr(&args));
        if (n->image->initrd) {
            buf_fmt(ret, "initrd %s/images/%s || goto again\n", url, n->image->initrd);
        }
        buf_str(ret, "boot || goto again\n");
    } else if (n && n->image) {
        buf_fmt(ret, "echo kfarm: the kernel arguments of %s are longer than %d bytes\n",
                n->host.name, LIM_NB_CMDLINE);
    } else if (n) {
        buf_fmt(ret, "echo kfarm: %s has no image yet, waiting\n", n->host.name);
    } else {
        buf_fmt(ret, "echo kfarm: nobody has declared %s, waiting\n", mac);
    }
    /* Whatever went wrong may be mended on the server: ask again for the script, for ever. */
    buf_fmt(ret, ":again\nsleep 5\nchain --replace --autofree %s/boot/%s.ipxe || goto again\n", url,
            mac);
    return buf_ok(ret);
}

int nb_script_grub(struct netboot *nb, struct dhcp_hw hw, uint32_t peer_ip, uint32_t server,
                   bool http, struct buf *ret) {
    char ip[IP4_STR], mac[DHCP_HW_STR], device[64];
    AUTO(buf) struct buf args = BUF_INIT(LIM_NB_CMDLINE);
    const struct nb_node *n = target_at(nb, hw, peer_ip, server);
    ip4_format(server, ip);
    dhcp_hw_format(hw, '-', mac);
    IGNORE_ERR(
        str_put(device, sizeof(device), http ? "(http,%s:%u)" : "(tftp,%s)", ip, nb->o.http_port),
        "fits");
    buf_str(ret, "serial --unit=0 --speed=115200\nterminal_output console serial\nset timeout=0\n");
    if (n && n->image && cmdline(nb, n, hw, ip, &args) == 0) {
        buf_fmt(ret, "echo 'kfarm: %s boots %s'\n", n->host.name, n->image->name);
        buf_fmt(ret, "linux %s/images/%s %s\n", device, n->image->kernel, buf_cstr(&args));
        if (n->image->initrd) {
            buf_fmt(ret, "initrd %s/images/%s\n", device, n->image->initrd);
        }
        buf_str(ret, "boot\n");
    } else {
        buf_fmt(ret, "echo 'kfarm: nothing to boot for %s, waiting'\n", n ? n->host.name : mac);
    }
    buf_fmt(ret, "sleep 5\nconfigfile %s/boot/%s.cfg\n", device, mac);
    return buf_ok(ret);
}
