/* Services and endpoints as one nftables table:
 *
 *   prerouting, output ─▶ services ─(ip . proto . port)─▶ svc-N ─(numgen or hash of the source)─▶ ep-N ─▶ dnat
 *                                  └─(node port)─▶ nodeports
 *   postrouting: masquerade what was marked (hairpin, from outside) and what leaves the pod network.
 * Services without endpoints are refused in filter chains, so that clients fail at once. */
#include "internal/proxy/proxy.h"

#include "internal/kube/kube.h"

#include <stdlib.h>

#define MARK "0x4000"

struct endpoint {
    const char *ip;
    bool is_local;
};
enum { LIM_ENDPOINTS = 1000 };

struct svc_port {
    const struct json *svc, *port;
    struct endpoint eps[LIM_ENDPOINTS];
    size_t n;
    uint16_t target;
};

static bool is_ipv4(const char *s) {
    size_t dots = 0;
    for (const char *p = s; p && *p; p++) {
        dots += *p == '.';
        if (*p != '.' && (*p < '0' || *p > '9')) {
            return false;
        }
    }
    return dots == 3;
}

static const char *protocol(const struct json *port) {
    const char *p = json_str_or(json_get(port, "protocol"), "TCP");
    return str_eq(p, "UDP") ? "udp" : str_eq(p, "SCTP") ? "sctp" : "tcp";
}

/* Ready endpoints; when there is none, those that still serve while they terminate. */
static void collect(const struct proxy_input *in, struct svc_port *sp) {
    const char *name = json_str_or(json_get(sp->port, "name"), "");
    for (int pass = 0; pass < 2 && sp->n == 0; pass++) {
        for (size_t i = 0; i < in->n_slices; i++) {
            const struct json *sl = in->slices[i], *match = NULL;
            if (!str_eq(kube_label(sl, "kubernetes.io/service-name"), kube_name(sp->svc)) ||
                !str_eq(kube_namespace(sl), kube_namespace(sp->svc)) ||
                !str_eq(json_str_or(json_get(sl, "addressType"), "IPv4"), "IPv4")) {
                continue;
            }
            JSON_EACH(it, p, json_get(sl, "ports")) {
                if (str_eq(json_str_or(json_get(p, "name"), ""), name)) {
                    match = p;
                }
            }
            if (!match) {
                continue;
            }
            sp->target = (uint16_t)json_i64_at(match, 0, "port");
            JSON_EACH(it2, ep, json_get(sl, "endpoints")) {
                const struct json *c = json_get(ep, "conditions");
                bool ready = json_bool_at(c, true, "ready"),
                     serving = json_bool_at(c, false, "serving");
                const char *ip = json_str(json_idx(json_get(ep, "addresses"), 0));
                if ((pass ? serving : ready) && is_ipv4(ip) && sp->n < LIM_ENDPOINTS) {
                    sp->eps[sp->n++] =
                        (struct endpoint){ip, str_eq(json_str_at(ep, "nodeName"), in->node_name)};
                }
            }
        }
    }
}

static size_t keep_local(struct endpoint *to, const struct endpoint *from, size_t n) {
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        if (from[i].is_local) {
            to[kept++] = from[i];
        }
    }
    return kept;
}

/* A chain that picks one of the endpoints. Addresses need no name of their own: dnat by a map. */
static void choose(struct buf *b, const struct svc_port *sp, const struct endpoint *eps, size_t n) {
    const char *proto = protocol(sp->port);
    bool sticky = str_eq(json_str_at(sp->svc, "spec", "sessionAffinity"), "ClientIP");
    buf_fmt(b, "    meta l4proto %s dnat to ", proto);
    if (n == 1) {
        buf_fmt(b, "%s:%u\n", eps[0].ip, sp->target);
        return;
    }
    buf_fmt(b, "%s mod %zu map { ", sticky ? "jhash ip saddr" : "numgen random", n);
    for (size_t i = 0; i < n; i++) {
        buf_fmt(b, "%s%zu : %s . %u", i ? ", " : "", i, eps[i].ip, sp->target);
    }
    buf_str(b, " }\n");
}

struct out {
    struct buf chains, vips, ports, refused, refused_ports;
    const struct proxy_input *in;
    size_t n;
};

static void comma(struct buf *b) {
    buf_str(b, b->n ? ",\n      " : "");
}

static void hairpin(struct buf *b, const struct endpoint *eps, size_t n) {
    if (n > 0) {
        buf_str(b, "    ip saddr { ");
        for (size_t i = 0; i < n; i++) {
            buf_fmt(b, "%s%s", i ? ", " : "", eps[i].ip);
        }
        buf_str(b, " } meta mark set meta mark or " MARK "\n");
    }
}

/* One address and port of a service; `external`: reached from outside the cluster. */
static void vip(struct out *o, const char *ip, const struct svc_port *sp, size_t chain,
                bool has_any) {
    struct buf *b = has_any ? &o->vips : &o->refused;
    if (is_ipv4(ip)) {
        comma(b);
        buf_fmt(b, "%s . %s . %lld", ip, protocol(sp->port),
                (long long)json_i64_at(sp->port, 0, "port"));
        if (has_any) {
            buf_fmt(b, " : goto svc-%zu", chain);
        }
    }
}

static int one_port(struct out *o, const struct json *svc, const struct json *port) {
    struct svc_port *sp = new_zero(struct svc_port);
    struct endpoint *local = mem_array(NULL, LIM_ENDPOINTS, sizeof(*local), LIM_ENDPOINTS);
    const struct json *spec = json_get(svc, "spec");
    if (!local) {
        free(sp);
        return -ERR_NOMEM;
    }
    sp->svc = svc;
    sp->port = port;
    collect(o->in, sp);
    bool inner_local = str_eq(json_str_at(spec, "internalTrafficPolicy"), "Local"),
         outer_local = str_eq(json_str_at(spec, "externalTrafficPolicy"), "Local");
    size_t n_local = keep_local(local, sp->eps, sp->n), chain = o->n++;
    const struct endpoint *in_eps = inner_local ? local : sp->eps,
                          *out_eps = outer_local ? local : sp->eps;
    size_t n_in = inner_local ? n_local : sp->n, n_out = outer_local ? n_local : sp->n;
    long long node_port = (long long)json_i64_at(port, 0, "nodePort");
    if (n_in > 0) {
        buf_fmt(&o->chains, "  chain svc-%zu { # %s/%s\n", chain, kube_namespace(svc),
                kube_name(svc));
        hairpin(&o->chains, in_eps, n_in);
        choose(&o->chains, sp, in_eps, n_in);
        buf_str(&o->chains, "  }\n");
    }
    if (n_out > 0) {
        buf_fmt(&o->chains, "  chain ext-%zu { # %s/%s\n", chain, kube_namespace(svc),
                kube_name(svc));
        if (!outer_local) { /* the answer must come back through this node */
            buf_str(&o->chains, "    meta mark set meta mark or " MARK "\n");
        }
        choose(&o->chains, sp, out_eps, n_out);
        buf_str(&o->chains, "  }\n");
    }
    vip(o, json_str_or(json_get(spec, "clusterIP"), ""), sp, chain, n_in > 0);
    JSON_EACH(it, ip, json_get(spec, "externalIPs")) {
        vip(o, json_str_or(ip, ""), sp, chain, n_in > 0);
    }
    JSON_EACH(it2, ing, json_at(svc, "status", "loadBalancer", "ingress")) {
        vip(o, json_str_or(json_get(ing, "ip"), ""), sp, chain, n_in > 0);
    }
    if (node_port > 0) {
        struct buf *b = n_out > 0 ? &o->ports : &o->refused_ports;
        comma(b);
        buf_fmt(b, "%s . %lld", protocol(port), node_port);
        if (n_out > 0) {
            buf_fmt(b, " : goto ext-%zu", chain);
        }
    }
    free(local);
    free(sp);
    return 0;
}

static void map_of(struct buf *b, const char *kind, const char *name, const char *type,
                   const struct buf *elements) {
    buf_fmt(b, "  %s %s {\n    type %s\n", kind, name, type);
    if (elements->n > 0) {
        buf_str(b, "    elements = {\n      ");
        buf_span(b, buf_view(elements));
        buf_str(b, " }\n");
    }
    buf_str(b, "  }\n");
}

static void base_chains(struct buf *b, const struct proxy_input *in) {
    const char *pods = in->cluster_cidr && *in->cluster_cidr ? in->cluster_cidr : in->pod_cidr;
    buf_str(b,
            "  chain services {\n"
            "    ip daddr . meta l4proto . th dport vmap @vips\n"
            "    fib daddr type local ip daddr != 127.0.0.0/8 meta l4proto . th dport vmap "
            "@ports\n  }\n"
            "  chain prerouting {\n    type nat hook prerouting priority dstnat; policy accept;\n  "
            "  jump services\n  }\n"
            "  chain output {\n    type nat hook output priority -100; policy accept;\n    jump "
            "services\n  }\n"
            "  chain postrouting {\n    type nat hook postrouting priority srcnat; policy accept;\n"
            "    meta mark and " MARK " == " MARK " masquerade\n");
    if (pods && *pods) {
        const char *own = in->pod_cidr && *in->pod_cidr ? in->pod_cidr : pods;
        buf_fmt(b, "    ip saddr %s ip daddr != %s fib daddr type != local masquerade\n", own,
                pods);
    }
    buf_str(b, "  }\n");
    static const char *const hooks[] = {"forward", "output", "input"};
    for (size_t i = 0; i < ARRAY_LEN(hooks); i++) {
        buf_fmt(b,
                "  chain refuse-%s {\n    type filter hook %s priority filter; policy accept;\n"
                "    ip daddr . meta l4proto . th dport @refused reject\n",
                hooks[i], hooks[i]);
        if (str_eq(hooks[i], "input")) {
            buf_str(b, "    fib daddr type local meta l4proto . th dport @refused-ports reject\n");
        }
        buf_str(b, "  }\n");
    }
}

int proxy_rules(const struct proxy_input *in, struct buf *ret) {
    struct out o = {BUF_INIT(LIM_PROXY_RULES),
                    BUF_INIT(LIM_PROXY_RULES),
                    BUF_INIT(LIM_PROXY_RULES),
                    BUF_INIT(LIM_PROXY_RULES),
                    BUF_INIT(LIM_PROXY_RULES),
                    in,
                    0};
    struct buf *all[] = {&o.chains, &o.vips, &o.ports, &o.refused, &o.refused_ports};
    int rc = 0;
    for (size_t i = 0; i < in->n_services && rc == 0; i++) {
        const struct json *svc = in->services[i];
        const char *ip = json_str_or(json_at(svc, "spec", "clusterIP"), "");
        if (!is_ipv4(ip) || str_eq(json_str_at(svc, "spec", "type"), "ExternalName")) {
            continue;
        }
        JSON_EACH(it, port, json_at(svc, "spec", "ports")) {
            rc = rc < 0 ? rc : one_port(&o, svc, port);
        }
    }
    /* adding before deleting makes the deletion work on a machine that has no table yet */
    buf_str(ret, "table ip kfarm-proxy\ndelete table ip kfarm-proxy\ntable ip kfarm-proxy {\n");
    buf_span(ret, buf_view(&o.chains));
    map_of(ret, "map", "vips", "ipv4_addr . inet_proto . inet_service : verdict", &o.vips);
    map_of(ret, "map", "ports", "inet_proto . inet_service : verdict", &o.ports);
    map_of(ret, "set", "refused", "ipv4_addr . inet_proto . inet_service", &o.refused);
    map_of(ret, "set", "refused-ports", "inet_proto . inet_service", &o.refused_ports);
    base_chains(ret, in);
    buf_str(ret, "}\n");
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        rc = rc < 0 ? rc : buf_ok(all[i]);
        buf_fini(all[i]);
    }
    return rc < 0 ? rc : buf_ok(ret);
}
