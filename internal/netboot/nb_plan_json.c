/* A plan as a JSON document: `kfarm netboot --plan FILE`. Unknown members are refused: a misspelt one must not be lost. */
#include "internal/netboot/netboot.h"

/* What is being read, for messages: "networks[2]". */
struct where {
    const char *list;
    size_t i;
};

static int bad(const struct where *w, const char *member, const char *why, struct err *e) {
    return err_set(e, ERR_INVALID, "%s[%zu].%s: %s", w->list, w->i, member, why);
}

static int check_members(const struct json *obj, const char *const *known, const struct where *w,
                         struct err *e) {
    if (!json_is_obj(obj)) {
        return err_set(e, ERR_INVALID, "%s[%zu]: not an object", w->list, w->i);
    }
    JSON_EACH_KV(it, key, v, obj) {
        size_t i = 0;
        while (known[i] && !str_eq(known[i], key)) {
            i++;
        }
        if (!known[i]) {
            return bad(w, key, "unknown member", e);
        }
        (void)v;
    }
    return 0;
}

/* Optional members: absent leaves *ret alone. */
static int get_str(const struct json *obj, const char *key, const char **ret, const struct where *w,
                   struct err *e) {
    const struct json *v = json_get(obj, key);
    if (v && !json_is_str(v)) {
        return bad(w, key, "not a string", e);
    }
    *ret = v ? json_str(v) : *ret;
    return 0;
}

static int get_u32(const struct json *obj, const char *key, uint32_t max, uint32_t *ret,
                   const struct where *w, struct err *e) {
    const struct json *v = json_get(obj, key);
    int64_t n = json_i64(v, -1);
    if (v && (!json_is_int(v) || n < 0 || n > max)) {
        return bad(w, key, "not a number in range", e);
    }
    *ret = v ? (uint32_t)n : *ret;
    return 0;
}

static int get_bool(const struct json *obj, const char *key, bool *ret, const struct where *w,
                    struct err *e) {
    const struct json *v = json_get(obj, key);
    if (v && json_kind(v) != JSON_BOOL) {
        return bad(w, key, "not true or false", e);
    }
    *ret = json_bool(v, *ret);
    return 0;
}

static int get_ip(const struct json *obj, const char *key, uint32_t *ret, const struct where *w,
                  struct err *e) {
    const struct json *v = json_get(obj, key);
    if (v && ip4_parse(json_span(v), ret) < 0) {
        return bad(w, key, "not an IPv4 address", e);
    }
    return 0;
}

/* A member that is no list must not be taken for an empty one. */
static int get_list(const struct json *obj, const char *key, const struct json **ret,
                    const struct where *w, struct err *e) {
    const struct json *v = json_get(obj, key);
    if (v && !json_is_arr(v)) {
        return bad(w, key, "not a list", e);
    }
    *ret = v;
    return 0;
}

static int get_ips(const struct json *obj, const char *key, uint32_t *list, size_t max,
                   size_t *ret_n, const struct where *w, struct err *e) {
    const struct json *all = NULL;
    int rc = get_list(obj, key, &all, w, e);
    if (rc < 0) {
        return rc;
    }
    JSON_EACH(it, v, all) {
        if (*ret_n == max || ip4_parse(json_span(v), &list[*ret_n]) < 0) {
            return bad(w, key, "not a short list of IPv4 addresses", e);
        }
        ++*ret_n;
    }
    return 0;
}

static int get_cidr(const struct json *obj, struct dhcp_subnet *sn, const struct where *w,
                    struct err *e) {
    struct span s = json_span(json_get(obj, "cidr")), addr;
    uint64_t bits;
    if (span_until(&s, '/', &addr) < 0 || ip4_parse(addr, &sn->addr) < 0 ||
        span_to_u64(s, 1, 30, &bits) < 0) {
        return bad(w, "cidr", "not a network such as 10.77.0.0/24", e);
    }
    sn->mask = UINT32_MAX << (32 - bits);
    if (sn->addr & ~sn->mask) {
        return bad(w, "cidr", "has host bits", e);
    }
    return 0;
}

/* {"42": "10.0.0.1"}: by number, values as text (dhcp_opt_from_text). */
static int get_options(struct arena *tmp, const struct json *obj, struct nb_option *o,
                       size_t *ret_n, const struct where *w, struct err *e) {
    static const char why[] = "not an object of option numbers with values that suit them";
    const struct json *all = json_get(obj, "options");
    if (all && !json_is_obj(all)) {
        return bad(w, "options", why, e);
    }
    JSON_EACH_KV(it, key, v, all) {
        AUTO(buf) struct buf b = BUF_INIT(1024);
        uint64_t code;
        if (*ret_n == LIM_NB_OPTIONS || span_to_u64(span_str(key), 1, 254, &code) < 0 ||
            dhcp_opt_from_text((uint8_t)code, json_span(v), &b) < 0) {
            return bad(w, "options", why, e);
        }
        o[*ret_n].code = (uint8_t)code;
        o[*ret_n].value = arena_copy(tmp, buf_view(&b));
        ++*ret_n;
    }
    return 0;
}

static int read_image(struct nb_plan *p, struct arena *tmp, const struct json *v,
                      const struct where *w, struct err *e) {
    (void)tmp;
    static const char *const known[] = {"name",       "kernel",   "initrd", "root",
                                        "rootDigest", "rootSize", "args",   NULL};
    struct nb_image im = {0};
    int rc = check_members(v, known, w, e);
    if (rc < 0 || (rc = get_str(v, "name", &im.name, w, e)) < 0 ||
        (rc = get_str(v, "kernel", &im.kernel, w, e)) < 0 ||
        (rc = get_str(v, "initrd", &im.initrd, w, e)) < 0 ||
        (rc = get_str(v, "root", &im.root, w, e)) < 0 ||
        (rc = get_str(v, "rootDigest", &im.root_digest, w, e)) < 0 ||
        (rc = get_str(v, "args", &im.args, w, e)) < 0) {
        return rc;
    }
    int64_t size = json_i64(json_get(v, "rootSize"), 0);
    im.root_size = size > 0 ? (uint64_t)size : 0;
    return nb_plan_add_image(p, &im, e);
}

/* What nodes and catch-alls have in common. */
static int read_target(struct nb_plan *p, struct arena *tmp, const struct json *v,
                       struct nb_node *n, const struct where *w, struct err *e) {
    const char *image = NULL;
    const struct json *tenant = json_get(v, "tenant"), *doc = json_get(v, "document");
    int rc;
    if ((rc = get_str(v, "image", &image, w, e)) < 0 ||
        (rc = get_str(v, "args", &n->args, w, e)) < 0 ||
        (rc = get_str(tenant, "namespace", &n->tenant_ns, w, e)) < 0 ||
        (rc = get_str(tenant, "name", &n->tenant, w, e)) < 0 ||
        (rc = get_str(tenant, "uid", &n->tenant_uid, w, e)) < 0 ||
        (rc = get_bool(v, "reloadIPXE", &n->reload_ipxe, w, e)) < 0 ||
        (rc = get_options(tmp, v, n->options, &n->n_options, w, e)) < 0) {
        return rc;
    }
    n->image = nb_plan_image(p, image);
    if (image && !n->image) {
        return bad(w, "image", "no such image", e);
    }
    if (doc) {
        AUTO(buf) struct buf b = BUF_INIT(1 << 20);
        if (!json_is_obj(doc) || json_write(doc, 0, &b) < 0) {
            return bad(w, "document", "not an object", e);
        }
        n->document = arena_str(tmp, buf_view(&b));
    }
    return 0;
}

static int read_node(struct nb_plan *p, struct arena *tmp, const struct json *v,
                     const struct where *w, struct err *e) {
    static const char *const known[] = {"name",     "macs",     "ip",      "image",
                                        "args",     "tenant",   "options", "reloadIPXE",
                                        "document", "approved", "uuid",    NULL};
    struct nb_node n = {0};
    const struct json *macs = NULL;
    int rc = check_members(v, known, w, e);
    if (rc < 0 || (rc = get_str(v, "name", &n.host.name, w, e)) < 0 ||
        (rc = get_list(v, "macs", &macs, w, e)) < 0 ||
        (rc = get_ip(v, "ip", &n.host.ip, w, e)) < 0 ||
        (rc = get_bool(v, "approved", &n.approved, w, e)) < 0) {
        return rc;
    }
    JSON_EACH(it, mac, macs) {
        if (n.n_macs == LIM_NB_MACS || dhcp_hw_parse(json_span(mac), &n.macs[n.n_macs]) < 0) {
            return bad(w, "macs", "not a short list of MAC addresses", e);
        }
        n.n_macs++;
    }
    const struct json *uuid = json_get(v, "uuid");
    if (uuid) {
        if (nb_uuid_parse(json_span(uuid), n.uuid[0]) < 0) {
            return bad(w, "uuid", "not a UUID that tells machines apart", e);
        }
        static const uint8_t swapped[NB_UUID] = {3, 2, 1,  0,  5,  4,  7,  6,
                                                 8, 9, 10, 11, 12, 13, 14, 15};
        for (size_t i = 0; i < NB_UUID; i++) {
            n.uuid[1][i] = n.uuid[0][swapped[i]];
        }
        n.has_uuid = true;
    }
    rc = read_target(p, tmp, v, &n, w, e);
    return rc < 0 ? rc : nb_plan_add_node(p, &n, e);
}

static int read_approved(struct nb_plan *p, struct arena *tmp, const struct json *v,
                         const struct where *w, struct err *e) {
    struct dhcp_hw hw;
    (void)tmp;
    if (dhcp_hw_parse(json_span(v), &hw) < 0) {
        return err_set(e, ERR_INVALID, "%s[%zu]: not a MAC address", w->list, w->i);
    }
    return nb_plan_approve(p, hw, e);
}

static int read_network(struct nb_plan *p, struct arena *tmp, const struct json *v,
                        const struct where *w, struct err *e) {
    static const char *const known[] = {"name",
                                        "cidr",
                                        "range",
                                        "gateway",
                                        "dns",
                                        "ntp",
                                        "domain",
                                        "mtu",
                                        "leaseSeconds",
                                        "options",
                                        "routerAdvertisements",
                                        "proxy",
                                        "probe",
                                        "nextServer",
                                        "reloadIPXE",
                                        "catchAll",
                                        "relays",
                                        "trust",
                                        NULL};
    static const char *const known_unknown[] = {"name",    "image",    "args", "tenant",
                                                "options", "document", NULL};
    struct nb_network n;
    const char *ra = NULL, *trust = NULL;
    uint32_t mtu = 0;
    nb_network_init(&n);
    int rc = check_members(v, known, w, e);
    if (rc < 0 || (rc = get_str(v, "name", &n.name, w, e)) < 0 ||
        (rc = get_cidr(v, &n.subnet, w, e)) < 0) {
        return rc;
    }
    const struct json *range = json_get(v, "range"), *catch_all = json_get(v, "catchAll");
    if ((rc = get_ip(range, "start", &n.subnet.range_lo, w, e)) < 0 ||
        (rc = get_ip(range, "end", &n.subnet.range_hi, w, e)) < 0 ||
        (rc = get_ip(v, "gateway", &n.subnet.router, w, e)) < 0 ||
        (rc = get_ip(v, "nextServer", &n.next_server, w, e)) < 0 ||
        (rc = get_ips(v, "dns", n.dns, ARRAY_LEN(n.dns), &n.n_dns, w, e)) < 0 ||
        (rc = get_ips(v, "ntp", n.ntp, ARRAY_LEN(n.ntp), &n.n_ntp, w, e)) < 0 ||
        (rc = get_str(v, "domain", &n.domain, w, e)) < 0 ||
        (rc = get_u32(v, "mtu", UINT16_MAX, &mtu, w, e)) < 0 ||
        (rc = get_u32(v, "leaseSeconds", 365u * 86400, &n.subnet.lease_s, w, e)) < 0 ||
        (rc = get_bool(v, "proxy", &n.subnet.proxy, w, e)) < 0 ||
        (rc = get_bool(v, "probe", &n.subnet.probe, w, e)) < 0 ||
        (rc = get_bool(v, "reloadIPXE", &n.reload_ipxe, w, e)) < 0 ||
        (rc = get_str(v, "routerAdvertisements", &ra, w, e)) < 0 ||
        (rc = get_str(v, "trust", &trust, w, e)) < 0 ||
        (rc = get_ips(v, "relays", n.relays, ARRAY_LEN(n.relays), &n.n_relays, w, e)) < 0 ||
        (rc = get_options(tmp, v, n.options, &n.n_options, w, e)) < 0) {
        return rc;
    }
    n.mtu = (uint16_t)mtu;
    if (ra && !str_eq(ra, "quiet") && !str_eq(ra, "off")) {
        return bad(w, "routerAdvertisements", "neither quiet nor off", e);
    }
    n.ra = str_eq(ra, "off") ? NB_RA_OFF : NB_RA_QUIET;
    if (trust && !str_eq(trust, "mac") && !str_eq(trust, "approve")) {
        return bad(w, "trust", "neither mac nor approve", e);
    }
    n.needs_approval = str_eq(trust, "approve");
    struct nb_node unknown = {.host = {.name = "node"}};
    if (catch_all) {
        if ((rc = check_members(catch_all, known_unknown, w, e)) < 0 ||
            (rc = get_str(catch_all, "name", &unknown.host.name, w, e)) < 0 ||
            (rc = read_target(p, tmp, catch_all, &unknown, w, e)) < 0) {
            return rc;
        }
        n.unknown = &unknown;
    }
    return nb_plan_add_network(p, &n, e);
}

int nb_plan_add_json(struct nb_plan *p, const char *list, size_t i, const struct json *v,
                     struct err *e) {
    static const struct {
        const char *list;
        int (*read)(struct nb_plan *p, struct arena *tmp, const struct json *v,
                    const struct where *w, struct err *e);
    } lists[] = {{"images", read_image},
                 {"networks", read_network},
                 {"nodes", read_node},
                 {"approved", read_approved}};
    const struct where w = {list, i};
    for (size_t k = 0; k < ARRAY_LEN(lists); k++) {
        if (str_eq(list, lists[k].list)) {
            struct arena tmp = ARENA_INIT(LIM_NB_PLAN_BYTES);
            int rc = lists[k].read(p, &tmp, v, &w, e);
            arena_fini(&tmp);
            return rc;
        }
    }
    return err_set(e, ERR_INVALID, "%s: unknown list", list);
}

static int read_plan(struct nb_plan *p, const struct json *root, struct err *e) {
    static const char *const known[] = {"images", "networks", "nodes", "approved",
                                        NULL}; /* in the order of their references */
    const struct where top = {"plan", 0};
    int rc = check_members(root, known, &top, e);
    for (size_t k = 0; rc >= 0 && known[k]; k++) {
        size_t i = 0;
        const struct json *list = json_get(root, known[k]);
        if (list && !json_is_arr(list)) {
            return err_set(e, ERR_INVALID, "%s: not a list", known[k]);
        }
        JSON_EACH(it, v, list) {
            rc = nb_plan_add_json(p, known[k], i++, v, e);
            if (rc < 0) {
                break;
            }
        }
    }
    return rc;
}

int nb_plan_from_json(struct span text, struct nb_plan **ret, struct err *e) {
    AUTO(json_docp) struct json_doc *doc = NULL;
    int rc = json_parse(text, 0, &doc, e);
    if (rc < 0) {
        return err_wrap(e, "plan");
    }
    struct nb_plan *p = nb_plan_new();
    rc = read_plan(p, json_root(doc), e);
    if (rc < 0) {
        nb_plan_free(p);
        return rc;
    }
    *ret = p;
    return 0;
}
