#include "internal/apiserver/api_int.h"

/* Service addresses and node ports. What is taken is counted from the services in the cache, kept up to date by their
 * events; what a request in flight has chosen is held until its commit has ended. On a shared store other API servers choose
 * too: every choice goes along with a new value of one key, so that of two made at a time one is lost and made again. */

enum { SVC_MAX_BITS = 16, SVC_HOLD_MAX = 32 };

struct api_svc {
    unsigned bits;
    uint32_t base, size; /* IPv4, host order; base is the network address */
    uint8_t *ips;        /* uses of base + i, saturating */
    uint32_t port_min, port_max;
    uint8_t *ports;
    char first[IP4_STR];
    bool counted;
};

static int range_parse(const char *cidr, uint32_t *ret_base, uint64_t *ret_size,
                       unsigned *ret_bits) {
    int rc = cidr4_parse(span_str(cidr != NULL ? cidr : "10.96.0.0/12"), 8, 30, ret_base, ret_bits);
    if (rc == 0) {
        *ret_size = 1ull << (32 - *ret_bits);
        *ret_base &= (uint32_t) ~(*ret_size - 1);
    }
    return rc;
}

int apiserver_service_ip(const char *service_cidr, char ret[IP4_STR]) {
    uint32_t base = 0;
    uint64_t size = 0;
    unsigned bits = 0;
    int rc = range_parse(service_cidr, &base, &size, &bits);
    if (rc == 0) {
        ip4_format(base + 1, ret);
    }
    return rc;
}

int api_svc_init(struct apiserver *a, const char *cidr, const char *ports, struct err *e) {
    struct api_svc *s = new_zero(struct api_svc);
    a->svc = s;
    uint64_t size = 0;
    if (range_parse(cidr, &s->base, &size, &s->bits) < 0) {
        return err_set(e, ERR_INVALID, "service range \"%s\" is not an IPv4 CIDR of 8 to 30 bits",
                       cidr);
    }
    /* 65,536 addresses are enough for anyone here, and the table stays small. */
    s->size = size > 1u << SVC_MAX_BITS ? 1u << SVC_MAX_BITS : (uint32_t)size;
    struct span hi = span_str(ports != NULL ? ports : "30000-32767");
    struct span lo;
    uint64_t min = 0;
    uint64_t max = 0;
    if (span_until(&hi, '-', &lo) < 0 || span_to_u64(lo, 1, 65535, &min) < 0 ||
        span_to_u64(hi, min, 65535, &max) < 0) {
        return err_set(e, ERR_INVALID, "node port range \"%s\" is not LOW-HIGH", ports);
    }
    s->port_min = (uint32_t)min;
    s->port_max = (uint32_t)max;
    ip4_format(s->base + 1, s->first);
    return 0;
}

void api_svc_free(struct apiserver *a) {
    if (a->svc != NULL) {
        free(a->svc->ips);
        free(a->svc->ports);
        free(a->svc);
        a->svc = NULL;
    }
}

const char *api_svc_first_ip(const struct apiserver *a) {
    return a->svc->first;
}

static void bump(uint8_t *p, int by) {
    if (by > 0 ? *p < UINT8_MAX : *p > 0) {
        *p = (uint8_t)(*p + by);
    }
}

static void count_ip(struct api_svc *s, const char *ip, int by) {
    uint32_t v = 0;
    if (ip != NULL && ip4_parse(span_str(ip), &v) == 0 && v - s->base < s->size) {
        bump(&s->ips[v - s->base], by);
    }
}

static void count_port(struct api_svc *s, int64_t port, int by) {
    if (port >= s->port_min && port <= s->port_max) {
        bump(&s->ports[port - s->port_min], by);
    }
}

static void count_tree(struct api_svc *s, const struct json *svc, int by) {
    JSON_EACH(it, ip, json_at(svc, "spec", "clusterIPs")) {
        count_ip(s, json_str(ip), by);
    }
    JSON_EACH(it2, p, json_at(svc, "spec", "ports")) {
        count_port(s, json_i64_at(p, 0, "nodePort"), by);
    }
    count_port(s, json_i64_at(svc, 0, "spec", "healthCheckNodePort"), by);
}

static void count_obj(struct api_svc *s, const struct api_obj *o, int by) {
    AUTO(json_docp) struct json_doc *d = NULL;
    if (o != NULL && api_obj_parse(o, &d) >= 0) {
        count_tree(s, json_root(d), by);
    }
}

void api_svc_event(struct apiserver *a, const struct api_obj *prev, const struct api_obj *now) {
    if (a->svc->counted) {
        count_obj(a->svc, prev, -1);
        count_obj(a->svc, now, 1);
    }
}

/* The tables are made with the first service that is written. */
static bool counted(struct apiserver *a) {
    struct api_svc *s = a->svc;
    if (s->counted) {
        return true;
    }
    s->ips = mem_array(NULL, s->size, 1, 1u << SVC_MAX_BITS);
    s->ports = mem_array(NULL, s->port_max - s->port_min + 1, 1, 65536);
    if (s->ips == NULL || s->ports == NULL) {
        return false;
    }
    memset(s->ips, 0, s->size);
    memset(s->ports, 0, s->port_max - s->port_min + 1);
    s->ips[0] = UINT8_MAX;           /* network */
    s->ips[s->size - 1] = UINT8_MAX; /* broadcast */
    s->counted = true;
    struct api_res *res = api_res_find(a, "", "services");
    for (size_t i = 0; res != NULL && i < res->n; i++) {
        count_obj(s, res->objs[i], 1);
    }
    return true;
}

/* ---- one request ---- */

struct hold {
    uint32_t n_ips, n_ports;
    uint32_t ips[SVC_HOLD_MAX], ports[SVC_HOLD_MAX];
};

static void hold_ip(struct api_call *c, struct hold *h, uint32_t off) {
    if (h->n_ips < SVC_HOLD_MAX) {
        h->ips[h->n_ips++] = off;
        bump(&c->a->svc->ips[off], 1);
    }
}

static void hold_port(struct api_call *c, struct hold *h, uint32_t off) {
    if (h->n_ports < SVC_HOLD_MAX) {
        h->ports[h->n_ports++] = off;
        bump(&c->a->svc->ports[off], 1);
    }
}

/* The commit (or the failure) is over: from now on the cache counts. */
void api_svc_release(struct api_call *c) {
    struct hold *h = c->svc_hold;
    if (h == NULL) {
        return;
    }
    c->svc_hold = NULL;
    for (uint32_t i = 0; i < h->n_ips; i++) {
        bump(&c->a->svc->ips[h->ips[i]], -1);
    }
    for (uint32_t i = 0; i < h->n_ports; i++) {
        bump(&c->a->svc->ports[h->ports[i]], -1);
    }
}

static bool pick(const uint8_t *table, uint32_t from, uint32_t size, uint32_t *ret) {
    uint32_t n = size - from;
    uint32_t start = (uint32_t)rand_below(n);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t at = from + (start + i) % n;
        if (table[at] == 0) {
            *ret = at;
            return true;
        }
    }
    return false;
}

static bool fail_ip(struct api_call *c, struct json *svc, const char *why) {
    struct kube_errs errs = KUBE_ERRS_INIT;
    kube_err_add(&errs, KUBE_INVALID, "spec.clusterIPs", json_at(svc, "spec", "clusterIPs"), "%s",
                 why);
    api_fail_invalid(c, c->main, kube_name(svc), &errs);
    return false;
}

static bool take_ip(struct api_call *c, struct hold *h, struct json *svc) {
    struct json *spec = json_get(svc, "spec");
    struct api_svc *s = c->a->svc;
    const char *want = json_str(json_idx(json_get(spec, "clusterIPs"), 0));
    want = want != NULL ? want : json_str_at(spec, "clusterIP");
    uint32_t off = 0;
    if (want != NULL && strcmp(want, "None") == 0) {
        return true;
    }
    if (want != NULL && want[0] != '\0') {
        uint32_t ip = 0;
        if (ip4_parse(span_str(want), &ip) < 0) {
            return true; /* validation has its say */
        }
        if (ip - s->base >= s->size || ip == s->base) {
            char text[IP4_STR];
            ip4_format(s->base, text);
            return fail_ip(
                c, svc,
                api_fmt(
                    c,
                    "failed to allocate IP %s: the provided IP (%s) is not in the valid range. The "
                    "range of valid IPs is %s/%u",
                    want, want, text, s->bits));
        }
        off = ip - s->base;
        if (s->ips[off] != 0 && !c->dry_run) {
            return fail_ip(
                c, svc,
                api_fmt(c, "failed to allocate IP %s: provided IP is already allocated", want));
        }
    } else if (!pick(s->ips, s->size > 512 ? 256 : 2, s->size, &off)) {
        api_fail(c, 500, "InternalError",
                 "Internal error occurred: failed to allocate a serviceIP: range is full");
        return false;
    }
    hold_ip(c, h, off);
    char text[IP4_STR];
    ip4_format(s->base + off, text);
    json_set_str(c->doc, spec, "clusterIP", text);
    json_push_str(c->doc, json_set_arr(c->doc, spec, "clusterIPs"), text);
    return true;
}

/* TCP and UDP of the same service port may share a number, two ports of one protocol may not. */
static bool take_ports(struct api_call *c, struct hold *h, struct json *svc,
                       const struct json *old) {
    struct api_svc *s = c->a->svc;
    JSON_EACH(it, p, json_at(svc, "spec", "ports")) {
        int64_t want = json_i64_at(p, 0, "nodePort");
        bool had = false;
        JSON_EACH(it2, q, json_at(old, "spec", "ports")) {
            had = had || (want != 0 && json_i64_at(q, 0, "nodePort") == want);
        }
        uint32_t off = 0;
        if (had) {
            continue;
        }
        if (want != 0) {
            if (c->dry_run) {
                continue; /* upstream's dry run looks at no table */
            }
            if (want < s->port_min || want > s->port_max || s->ports[want - s->port_min] != 0) {
                struct kube_errs errs = KUBE_ERRS_INIT;
                bool taken = want >= s->port_min && want <= s->port_max;
                kube_err_add(&errs, KUBE_INVALID, "spec.ports[0].nodePort", json_get(p, "nodePort"),
                             "%s",
                             taken ? "provided port is already allocated"
                                   : api_fmt(c,
                                             "provided port is not in the valid range. The range "
                                             "of valid ports is %u-%u",
                                             s->port_min, s->port_max));
                api_fail_invalid(c, c->main, kube_name(svc), &errs);
                return false;
            }
            off = (uint32_t)want - s->port_min;
        } else if (!pick(s->ports, 0, s->port_max - s->port_min + 1, &off)) {
            api_fail(c, 500, "InternalError",
                     "Internal error occurred: failed to allocate a nodePort: range is full");
            return false;
        }
        hold_port(c, h, off);
        json_set_i64(c->doc, p, "nodePort", (int64_t)off + s->port_min);
    }
    return true;
}

static bool has_ip(const char *type) {
    return type == NULL || strcmp(type, "ExternalName") != 0;
}

static bool has_ports(const struct json *svc) {
    const char *type = json_str_at(svc, "spec", "type");
    return str_eq(type, "NodePort") ||
           (str_eq(type, "LoadBalancer") &&
            json_bool_at(svc, true, "spec", "allocateLoadBalancerNodePorts"));
}

/* Fields that a change of type leaves without meaning go, unless the writer changed them too (then validation speaks). */
static void drop_by_type(struct json *svc, const struct json *old) {
    struct json *spec = json_get(svc, "spec");
    const struct json *was = json_get(old, "spec");
    const char *type = json_str_at(spec, "type");
    bool lb = str_eq(type, "LoadBalancer");
    bool external = lb || str_eq(type, "NodePort") || json_len(json_get(spec, "externalIPs")) > 0;
    const struct {
        const char *name;
        bool gone;
    } fields[] = {{"internalTrafficPolicy", !has_ip(type)},
                  {"externalTrafficPolicy", !external},
                  {"healthCheckNodePort", !lb},
                  {"allocateLoadBalancerNodePorts", !lb},
                  {"loadBalancerClass", !lb}};
    for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
        if (fields[i].gone &&
            json_eq(json_get(spec, fields[i].name), json_get(was, fields[i].name))) {
            json_del(spec, fields[i].name);
        }
    }
    if (has_ports(svc) || !has_ports(old)) {
        return;
    }
    JSON_EACH(it, p, json_get(spec, "ports")) {
        JSON_EACH(it2, q, json_get(was, "ports")) {
            if (json_eq(json_get(p, "nodePort"), json_get(q, "nodePort"))) {
                json_del(p, "nodePort");
                break;
            }
        }
    }
}

/* A replacement that leaves the allocated fields out keeps them (upstream's patchAllocatedValues). */
void api_svc_carry(struct api_call *c, struct json *svc, const struct json *old) {
    struct json *spec = json_need_obj(c->doc, svc, "spec");
    const struct json *was = json_get(old, "spec");
    const char *type = json_str_at(spec, "type");
    const char *ip = json_str_at(spec, "clusterIP");
    if (has_ip(type) && has_ip(json_str_at(was, "type")) && (ip == NULL || ip[0] == '\0') &&
        json_len(json_get(spec, "clusterIPs")) == 0 && json_str_at(was, "clusterIP") != NULL) {
        json_set(c->doc, spec, "clusterIP", json_copy(c->doc, json_get(was, "clusterIP")));
        if (json_get(was, "clusterIPs") != NULL) {
            json_set(c->doc, spec, "clusterIPs", json_copy(c->doc, json_get(was, "clusterIPs")));
        }
    }
    if (!has_ip(type) && has_ip(json_str_at(was, "type"))) {
        static const char *const gone[] = {"clusterIP", "clusterIPs", "ipFamilies",
                                           "ipFamilyPolicy"};
        for (size_t i = 0; i < ARRAY_LEN(gone); i++) {
            if (json_eq(json_get(spec, gone[i]), json_get(was, gone[i]))) {
                json_del(spec, gone[i]);
            }
        }
    }
    /* Clients that know only clusterIP change only clusterIP: the list follows. */
    ip = json_str_at(spec, "clusterIP");
    if (ip != NULL && !str_eq(ip, json_str_at(was, "clusterIP")) &&
        json_len(json_get(spec, "clusterIPs")) > 0 &&
        json_eq(json_get(spec, "clusterIPs"), json_get(was, "clusterIPs"))) {
        json_push_str(c->doc, json_set_arr(c->doc, spec, "clusterIPs"), ip);
    }
    static const char *const families[] = {"ipFamilies", "ipFamilyPolicy"};
    for (size_t i = 0; i < ARRAY_LEN(families) && has_ip(type); i++) {
        if (json_get(spec, families[i]) == NULL && json_get(was, families[i]) != NULL) {
            json_set(c->doc, spec, families[i], json_copy(c->doc, json_get(was, families[i])));
        }
    }
    drop_by_type(svc, old);
    if (!has_ports(svc) || !has_ports(old)) {
        return;
    }
    JSON_EACH(it, p, json_get(spec, "ports")) {
        JSON_EACH(it2, q, json_get(was, "ports")) {
            if (json_i64_at(p, 0, "nodePort") == 0 &&
                json_i64_at(p, 0, "port") == json_i64_at(q, 0, "port") &&
                str_eq(json_str_or(json_get(p, "protocol"), "TCP"),
                       json_str_or(json_get(q, "protocol"), "TCP")) &&
                json_get(q, "nodePort") != NULL) {
                json_set(c->doc, p, "nodePort", json_copy(c->doc, json_get(q, "nodePort")));
            }
        }
    }
}

static void families(struct api_call *c, struct json *svc) {
    struct json *spec = json_get(svc, "spec");
    if (json_get(spec, "ipFamilyPolicy") == NULL) {
        json_set_str(c->doc, spec, "ipFamilyPolicy", "SingleStack");
    }
    if (json_len(json_get(spec, "ipFamilies")) == 0) {
        json_push_str(c->doc, json_set_arr(c->doc, spec, "ipFamilies"), "IPv4");
    }
}

static const char choice_text[] = "/registry/kfarm/service-allocations";
static const struct span choice_key = {(const uint8_t *)choice_text, sizeof choice_text - 1};

bool api_svc_is_choice(struct span key) {
    return span_eq(key, choice_key);
}

static bool tell_choice(struct api_call *c, const struct hold *h) {
    if ((h->n_ips == 0 && h->n_ports == 0) || c->dry_run || !store_is_shared(c->a->store)) {
        return true;
    }
    if (c->n_ops >= ARRAY_LEN(c->ops)) {
        api_fail(c, 500, "InternalError", "Internal error occurred: too many changes at once");
        return false;
    }
    c->ops[c->n_ops++] = (struct api_extra_op){choice_key, SPAN_LIT("1"), c->a->choice_rev};
    c->again_on_conflict = true;
    return true;
}

bool api_svc_admit(struct api_call *c, struct json *svc, const struct json *old) {
    struct hold *h = arena_new(&c->mem, struct hold);
    if (h == NULL || !counted(c->a)) {
        api_fail(c, 500, "InternalError",
                 "Internal error occurred: no memory for service addresses");
        return false;
    }
    c->svc_hold = h;
    struct json *spec = json_need_obj(c->doc, svc, "spec");
    bool ip_now = has_ip(json_str_at(spec, "type"));
    bool ip_was = old != NULL && has_ip(json_str_at(old, "spec", "type"));
    bool ok = true;
    if (ip_now) {
        families(c, svc);
        if (!ip_was) {
            ok = take_ip(c, h, svc);
        } else if (json_len(json_get(spec, "clusterIPs")) == 0 &&
                   json_str_at(spec, "clusterIP") != NULL) {
            json_push(json_set_arr(c->doc, spec, "clusterIPs"),
                      json_copy(c->doc, json_get(spec, "clusterIP")));
        }
    }
    if (ok && has_ports(svc)) {
        ok = take_ports(c, h, svc, old);
    }
    ok = ok && tell_choice(c, h);
    if (!ok || c->dry_run) {
        api_svc_release(c);
    }
    return ok;
}
