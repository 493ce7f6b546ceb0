/* The plan: networks, machines and images in memory, with the maps by which DHCP finds them. */
#include "internal/netboot/netboot.h"

#include "internal/base/rand.h"

#include <stdlib.h>

struct nb_plan *nb_plan_new(void) {
    struct nb_plan *p = new_zero(struct nb_plan);
    p->arena = (struct arena)ARENA_INIT(LIM_NB_PLAN_BYTES);
    return p;
}

void nb_plan_free(struct nb_plan *p) {
    if (p) {
        map_fini(&p->by_hw);
        map_fini(&p->by_ip);
        map_fini(&p->by_uuid);
        map_fini(&p->approved);
        map_fini(&p->image_by_name);
        free(p->networks);
        free(p->nodes);
        free(p->images);
        arena_fini(&p->arena);
        free(p);
    }
}

static struct span hw_key(const struct dhcp_hw *hw) {
    return span_of(hw->b, hw->n);
}
static struct span uuid_key(const uint8_t uuid[NB_UUID]) {
    return span_of(uuid, NB_UUID);
}
static struct span ip_key(const uint32_t *ip) {
    return span_of(ip, sizeof(*ip));
}

static const char *copy(struct nb_plan *p, const char *s) {
    if (!s) {
        return NULL;
    }
    char *c = arena_str(&p->arena, span_str(s));
    return c ? c : "";
}

static int copy_options(struct nb_plan *p, struct nb_option *o, size_t n, struct err *e) {
    if (n > LIM_NB_OPTIONS) {
        return err_set(e, ERR_LIMIT, "more than %d DHCP options", LIM_NB_OPTIONS);
    }
    for (size_t i = 0; i < n; i++) {
        o[i].value = arena_copy(&p->arena, o[i].value);
        if (!o[i].value.p) {
            return err_set(e, ERR_INVALID, "empty DHCP option %u", o[i].code);
        }
    }
    return 0;
}

static int grow(void *arr, size_t n, size_t size, size_t max, const char *what, struct err *e) {
    void **a = arr;
    void *more = mem_array(*a, n + 1, size, max);
    if (!more) {
        return err_set(e, ERR_LIMIT, "more than %zu %s", max, what);
    }
    *a = more;
    return 0;
}

/* ---- images ---- */

static bool path_ok(const char *path) {
    struct span s = span_str(path), part;
    if (!path || !*path || *path == '/') {
        return !path;
    }
    while (span_next(&s, '/', &part)) {
        if (!part.n || span_eq_str(part, "..") || span_eq_str(part, ".")) {
            return false;
        }
    }
    for (const char *c = path; *c; c++) { /* it becomes part of URLs and scripts */
        bool plain = (*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') ||
                     (*c >= '0' && *c <= '9') || memchr("-_./+~:@", *c, 9);
        if (!plain) {
            return false;
        }
    }
    return true;
}

/* Kernel arguments end up in an iPXE script and in a GRUB one: one line, no control characters, no variables. */
static bool args_ok(const char *args) {
    for (const char *c = args ? args : ""; *c; c++) {
        if (*c < ' ' || *c > '~' || *c == '$' || *c == '|' || *c == '&' || *c == ';') {
            return false;
        }
    }
    return true;
}

int nb_plan_add_image(struct nb_plan *p, const struct nb_image *from, struct err *e) {
    if (!from->name || !*from->name) {
        return err_set(e, ERR_INVALID, "image without a name");
    }
    if (!from->kernel || !path_ok(from->kernel) || !path_ok(from->initrd) || !path_ok(from->root)) {
        return err_set(
            e, ERR_INVALID,
            "image %s: kernel, initrd and root must be plain paths below the image directory",
            from->name);
    }
    if (!args_ok(from->args)) {
        return err_set(e, ERR_INVALID,
                       "image %s: kernel arguments with characters that no boot script can carry",
                       from->name);
    }
    if (map_get_str(&p->image_by_name, from->name)) {
        return err_set(e, ERR_EXISTS, "image %s is given twice", from->name);
    }
    int rc = grow(&p->images, p->n_images, sizeof(*p->images), LIM_NB_IMAGES, "images", e);
    struct nb_image *im = rc < 0 ? NULL : arena_new(&p->arena, struct nb_image);
    if (!im) {
        return rc < 0 ? rc : err_set(e, ERR_LIMIT, "plan too large");
    }
    *im = (struct nb_image){copy(p, from->name), copy(p, from->kernel),      copy(p, from->initrd),
                            copy(p, from->root), copy(p, from->root_digest), from->root_size,
                            copy(p, from->args)};
    p->images[p->n_images++] = im;
    map_put_str(&p->image_by_name, im->name, im);
    return 0;
}

const struct nb_image *nb_plan_image(const struct nb_plan *p, const char *name) {
    return name ? map_get_str(&p->image_by_name, name) : NULL;
}

/* ---- nodes ---- */

/* A name becomes the host name, the Node's name and a certificate's: a DNS label, or several. */
static bool name_ok(const char *name) {
    size_t n = strlen(name);
    if (!n || n > LIM_DHCP_HOSTNAME) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        char c = name[i];
        bool alnum = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
        if (!alnum && (i == 0 || i == n - 1 || (c != '-' && c != '.'))) {
            return false;
        }
    }
    return true;
}

static int belongs_to(const struct nb_node *n, const char *what, const char *value,
                      const struct nb_node *other, struct err *e) {
    bool of_tenant = other->tenant && other->tenant_ns;
    return err_set(e, ERR_EXISTS, "node %s: %s %s belongs to node %s%s%s%s%s already", n->host.name,
                   what, value, other->host.name, of_tenant ? " of tenant " : "",
                   of_tenant ? other->tenant_ns : "", of_tenant ? "/" : "",
                   of_tenant ? other->tenant : "");
}

static int check_node(const struct nb_plan *p, const struct nb_node *n, struct err *e) {
    char text[DHCP_HW_STR];
    if (!n->host.name || !name_ok(n->host.name)) {
        return err_set(e, ERR_INVALID, "node \"%s\": not a DNS name in lower case",
                       n->host.name ? n->host.name : "");
    }
    if ((n->n_macs == 0 && !n->has_uuid) || n->n_macs > LIM_NB_MACS) {
        return err_set(e, ERR_INVALID, "node %s: needs 1 to %d MAC addresses, or a UUID",
                       n->host.name, LIM_NB_MACS);
    }
    if (!args_ok(n->args)) {
        return err_set(e, ERR_INVALID,
                       "node %s: kernel arguments with characters that no boot script can carry",
                       n->host.name);
    }
    for (size_t i = 0; i < n->n_macs; i++) {
        const struct nb_node *other = map_get(&p->by_hw, hw_key(&n->macs[i]));
        if (other) {
            dhcp_hw_format(n->macs[i], ':', text);
            return belongs_to(n, "MAC address", text, other, e);
        }
    }
    for (size_t i = 0; i < ARRAY_LEN(n->uuid) && n->has_uuid; i++) {
        const struct nb_node *other = map_get(&p->by_uuid, uuid_key(n->uuid[i]));
        if (other) {
            return belongs_to(n, "the", "UUID", other, e);
        }
    }
    if (n->host.ip) {
        const struct nb_node *other = map_get(&p->by_ip, ip_key(&n->host.ip));
        const struct nb_network *net = nb_plan_network_of(p, n->host.ip);
        ip4_format(n->host.ip, text);
        if (other) {
            return belongs_to(n, "address", text, other, e);
        }
        if (!net) {
            return err_set(e, ERR_INVALID, "node %s: address %s is in no network", n->host.name,
                           text);
        }
        if (n->host.ip == net->subnet.router || n->host.ip == net->subnet.addr ||
            n->host.ip == (net->subnet.addr | ~net->subnet.mask)) {
            return err_set(e, ERR_INVALID, "node %s: address %s is taken by network %s itself",
                           n->host.name, text, net->name);
        }
    }
    return 0;
}

static struct nb_node *copy_node(struct nb_plan *p, const struct nb_node *from, struct err *e) {
    struct nb_node *n = arena_new(&p->arena, struct nb_node);
    if (!n) {
        err_set(e, ERR_LIMIT, "plan too large");
        return NULL;
    }
    *n = *from;
    n->host.name = copy(p, from->host.name);
    n->args = copy(p, from->args);
    n->tenant_ns = copy(p, from->tenant_ns);
    n->tenant = copy(p, from->tenant);
    n->tenant_uid = copy(p, from->tenant_uid);
    n->document = copy(p, from->document);
    return copy_options(p, n->options, n->n_options, e) < 0 ? NULL : n;
}

int nb_plan_add_node(struct nb_plan *p, const struct nb_node *from, struct err *e) {
    int rc = check_node(p, from, e);
    rc = rc < 0 ? rc : grow(&p->nodes, p->n_nodes, sizeof(*p->nodes), LIM_NB_NODES, "nodes", e);
    struct nb_node *n = rc < 0 ? NULL : copy_node(p, from, e);
    if (!n) {
        return rc < 0 ? rc : -ERR_INVALID;
    }
    p->nodes[p->n_nodes++] = n;
    for (size_t i = 0; i < n->n_macs; i++) {
        map_put(&p->by_hw, hw_key(&n->macs[i]), n);
    }
    for (size_t i = 0; i < ARRAY_LEN(n->uuid) && n->has_uuid; i++) {
        map_put(&p->by_uuid, uuid_key(n->uuid[i]), n);
    }
    if (n->host.ip) {
        map_put(&p->by_ip, ip_key(&n->host.ip), n);
    }
    return 0;
}

const struct nb_node *nb_plan_node_by_hw(const struct nb_plan *p, struct dhcp_hw hw) {
    return map_get(&p->by_hw, hw_key(&hw));
}
const struct nb_node *nb_plan_node_by_ip(const struct nb_plan *p, uint32_t ip) {
    return map_get(&p->by_ip, ip_key(&ip));
}

const struct nb_node *nb_plan_node_by_uuid(const struct nb_plan *p, const uint8_t uuid[NB_UUID]) {
    return map_get(&p->by_uuid, uuid_key(uuid));
}

int nb_uuid_parse(struct span s, uint8_t ret[NB_UUID]) {
    AUTO(buf) struct buf text = BUF_INIT(2 * NB_UUID), raw = BUF_INIT(NB_UUID);
    size_t same = 0;
    for (size_t i = 0; i < s.n; i++) {
        bool dash = i == 8 || i == 13 || i == 18 || i == 23;
        if ((s.p[i] == '-') != dash) {
            return -ERR_INVALID;
        }
        if (!dash) {
            buf_u8(&text, s.p[i]);
        }
    }
    if (s.n != 2 * NB_UUID + 4 || hex_decode(&raw, buf_view(&text)) < 0 || raw.n != NB_UUID) {
        return -ERR_INVALID;
    }
    memcpy(ret, raw.p, NB_UUID);
    for (size_t i = 0; i < NB_UUID; i++) {
        same += ret[i] == ret[0];
    }
    return same == NB_UUID && (ret[0] == 0 || ret[0] == 0xff) ? -ERR_INVALID : 0;
}

int nb_plan_approve(struct nb_plan *p, struct dhcp_hw hw, struct err *e) {
    struct span key = arena_copy(&p->arena, hw_key(&hw));
    if (!key.p || p->approved.n >= LIM_NB_NODES) {
        return err_set(e, ERR_LIMIT, "more than %d approved machines", LIM_NB_NODES);
    }
    map_put(&p->approved, key, p);
    return 0;
}

bool nb_plan_is_approved(const struct nb_plan *p, const struct nb_node *n, struct dhcp_hw hw) {
    bool yes = n->approved || map_get(&p->approved, hw_key(&hw));
    for (size_t i = 0; i < n->n_macs && !yes; i++) {
        yes = map_get(&p->approved, hw_key(&n->macs[i])) != NULL;
    }
    return yes;
}

/* ---- networks ---- */

void nb_network_init(struct nb_network *n) {
    *n = (struct nb_network){
        .subnet = {.lease_s = 600, .offer_s = 60, .decline_s = 3600, .probe = true}};
}

const struct nb_network *nb_plan_network_of(const struct nb_plan *p, uint32_t ip) {
    for (size_t i = 0; i < p->n_networks; i++) {
        if ((ip & p->networks[i].subnet.mask) == p->networks[i].subnet.addr) {
            return &p->networks[i];
        }
    }
    return NULL;
}

int nb_plan_add_network(struct nb_plan *p, const struct nb_network *from, struct err *e) {
    if (!from->name || !*from->name) {
        return err_set(e, ERR_INVALID, "network without a name");
    }
    for (size_t i = 0; i < p->n_networks; i++) {
        const struct nb_network *o = &p->networks[i];
        uint32_t wider = o->subnet.mask & from->subnet.mask;
        if ((o->subnet.addr & wider) == (from->subnet.addr & wider)) {
            return err_set(e, ERR_EXISTS, "network %s overlaps network %s", from->name, o->name);
        }
    }
    int rc =
        grow(&p->networks, p->n_networks, sizeof(*p->networks), LIM_DHCP_SUBNETS, "networks", e);
    if (rc < 0) {
        return rc;
    }
    struct nb_network n = *from;
    n.name = copy(p, from->name);
    n.domain = copy(p, from->domain);
    if ((rc = copy_options(p, n.options, n.n_options, e)) < 0) {
        return rc;
    }
    if (from->unknown) {
        n.unknown = copy_node(p, from->unknown, e);
        if (!n.unknown) {
            return -ERR_INVALID;
        }
    }
    p->networks[p->n_networks++] = n;
    return 0;
}
