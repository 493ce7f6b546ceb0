/* What to answer (RFC 2131 §4.3).
 *
 *              DISCOVER → offer           REQUEST(selecting)            REQUEST(renewing, rebinding, init-reboot)
 *      FREE ──────────────────▶ OFFERED ──────────────────▶ BOUND ─────────────────────────────────────────────▶ BOUND
 *       ▲                          │ other server chosen, time         │ RELEASE, time
 *       ├──────────────────────────┴───────────────────────────────────┤
 *       └────────────── time ────────────── DECLINED ◀── DECLINE, probe answered
 */
#include "internal/dhcp/dhcp_int.h"

#include "internal/base/rand.h"

enum {
    PROBE_VALID_S = 60, /* a probe that found nobody counts so long */
    RESERVED_QUARANTINE_S =
        60, /* a declared address comes back soon: the operator wants it there */
    COMPLAINT_WINDOW_S = 3600,
    AGENT_LINK = 5, /* sub-options of option 82 */
    AGENT_SERVER_ID = 11,
    HTYPE_ETHERNET = 1,
    IP_UDP_HEADERS = 28,
    DEFAULT_MESSAGE = 576, /* largest message that every client takes */
};

/* One request while it is being decided. */
struct turn {
    struct dhcp_server *s;
    const struct dhcp_in *in;
    const struct dhcp_msg *m;
    struct dhcp_out *out;
    struct dhcp_pool *pool;
    struct dhcp_request rq;
    struct span agent; /* option 82, only of relayed requests */
};

static void silent(struct turn *t, const char *why) {
    t->out->act = DHCP_SILENT;
    t->out->why = why;
}

/* Sub-option of option 82 with one address (RFC 3527, RFC 5107); 0 when absent. */
static uint32_t agent_ip(struct span agent, uint8_t code) {
    uint8_t c, n;
    uint32_t ip;
    struct span v;
    while (span_u8(&agent, &c) >= 0 && span_u8(&agent, &n) >= 0 && span_take(&agent, n, &v) >= 0) {
        if (c == code && v.n == 4 && span_be32(&v, &ip) >= 0) {
            return ip;
        }
    }
    return 0;
}

static uint64_t after(const struct turn *t, uint32_t seconds) {
    return t->in->now_ns + seconds * NS_PER_S;
}

/* ---- the reply ---- */

/* Where it goes (RFC 2131 §4.1). A client without an address and without the broadcast flag, as iPXE, cannot answer ARP:
 * its reply is a frame to its hardware address. */
static void route(struct turn *t, uint8_t type, uint32_t yiaddr) {
    const struct dhcp_msg *m = t->m;
    struct dhcp_out *o = t->out;
    if (m->giaddr) {
        o->to = DHCP_TO_RELAY;
        o->to_ip = m->giaddr;
    } else if (type != DHCP_NAK && m->ciaddr) {
        o->to = DHCP_TO_CLIENT;
        o->to_ip = m->ciaddr;
    } else if (type != DHCP_NAK && yiaddr && !(m->flags & DHCP_FLAG_BROADCAST) &&
               m->htype == HTYPE_ETHERNET && m->hlen == 6) {
        o->to = DHCP_TO_HW;
        o->to_ip = yiaddr;
        o->to_hw = t->rq.hw;
    } else {
        o->to = DHCP_TO_BROADCAST;
        o->to_ip = UINT32_MAX;
    }
}

/* Puts what the client asked for in its order (RFC 2132 §9.8) and drops what it did not ask for. Mask and router go to
 * everybody: clients without a parameter list are boot loaders that need them. */
static void order_by_params(struct dhcp_opts *o, struct span params) {
    struct dhcp_opts sorted = {.n = 0};
    uint8_t code;
    if (!params.p) {
        return;
    }
    for (size_t i = 0; i < o->n; i++) {
        if (o->v[i].must || o->v[i].code == DHCP_OPT_SUBNET_MASK ||
            o->v[i].code == DHCP_OPT_ROUTER) {
            sorted.v[sorted.n++] = o->v[i];
            o->v[i].code = 0;
        }
    }
    while (span_u8(&params, &code) >= 0) {
        for (size_t i = 0; i < o->n; i++) {
            if (code && o->v[i].code == code) {
                sorted.v[sorted.n++] = o->v[i];
                o->v[i].code = 0;
            }
        }
    }
    memcpy(o->v, sorted.v, sizeof(o->v));
    o->n = sorted.n;
}

static size_t reply_max(const struct dhcp_msg *m) {
    uint16_t max = dhcp_get_u16(m, DHCP_OPT_MAX_SIZE, DEFAULT_MESSAGE);
    size_t n = (max < DEFAULT_MESSAGE ? DEFAULT_MESSAGE : max) - (size_t)IP_UDP_HEADERS;
    return n > LIM_DHCP_OUT ? LIM_DHCP_OUT : n;
}

/* PXE wants its machine identifier back (RFC 4578 §2.4), everybody their client identifier (RFC 6842), relays theirs. */
static void echo_opts(struct turn *t, struct dhcp_opts *o) {
    static const uint8_t codes[] = {DHCP_OPT_CLIENT_ID, DHCP_OPT_UUID};
    for (size_t i = 0; i < ARRAY_LEN(codes); i++) {
        if (dhcp_has(t->m, codes[i])) {
            dhcp_opts_add(o, codes[i], true, t->m->opt[codes[i]]);
        }
    }
    if (t->agent.p) {
        dhcp_opts_add(o, DHCP_OPT_AGENT, true, t->agent);
    }
}

static void send_reply(struct turn *t, uint8_t type, struct dhcp_opts *o, uint32_t yiaddr,
                       uint32_t siaddr, const char *file) {
    const struct dhcp_msg *m = t->m;
    struct dhcp_msg *r = new_zero(struct dhcp_msg);
    r->op = 2;
    r->htype = m->htype;
    r->hlen = m->hlen;
    r->xid = m->xid;
    /* A NAK through a relay must be broadcast there: the client has no usable address (RFC 2131 §4.3.2). */
    r->flags = type == DHCP_NAK && m->giaddr ? m->flags | DHCP_FLAG_BROADCAST : m->flags;
    r->ciaddr = type == DHCP_ACK ? m->ciaddr : 0;
    r->yiaddr = yiaddr;
    r->siaddr = siaddr;
    r->giaddr = m->giaddr;
    r->file = span_str(file);
    memcpy(r->chaddr, m->chaddr, sizeof(r->chaddr));
    order_by_params(o, m->opt[DHCP_OPT_PARAMS]);
    int rc = dhcp_msg_write(r, o, reply_max(m), &t->out->pkt);
    if (rc < 0 &&
        r->file.n) { /* the header's file name is a copy of option 67: give its room to options */
        buf_reset(&t->out->pkt);
        r->file = SPAN_EMPTY;
        rc = dhcp_msg_write(r, o, reply_max(m), &t->out->pkt);
    }
    auto_free_(&r);
    if (rc < 0) {
        buf_reset(&t->out->pkt);
        silent(t, "the options do not fit the client's message size");
        return;
    }
    t->out->act = DHCP_SEND;
    t->out->type = type;
    t->out->src_ip = t->rq.server_ip;
    route(t, type, yiaddr);
}

static void nak(struct turn *t, const char *why) {
    struct dhcp_opts o = {.n = 0};
    dhcp_opts_u8(&o, DHCP_OPT_TYPE, true, DHCP_NAK);
    dhcp_opts_u32(&o, DHCP_OPT_SERVER_ID, true, t->rq.server_ip);
    dhcp_opts_add(&o, DHCP_OPT_MESSAGE, true, span_str(why));
    echo_opts(t, &o);
    t->out->why = why;
    send_reply(t, DHCP_NAK, &o, 0, 0, "");
}

/* OFFER or ACK with addresses, lease times (unless INFORM) and the owner's options. */
static void grant(struct turn *t, uint8_t type, uint32_t yiaddr) {
    const struct dhcp_subnet *sn = &t->pool->cfg;
    struct dhcp_opts o = {.n = 0};
    char file[128] = "";
    uint32_t siaddr = 0;
    dhcp_opts_u8(&o, DHCP_OPT_TYPE, true, type);
    dhcp_opts_u32(&o, DHCP_OPT_SERVER_ID, true, t->rq.server_ip);
    if (yiaddr) {
        dhcp_opts_u32(&o, DHCP_OPT_LEASE_TIME, true, sn->lease_s);
    }
    echo_opts(t, &o);
    t->rq.yiaddr = yiaddr;
    t->s->ops->options(t->s->ctx, &t->rq, &o, file, &siaddr);
    if (!sn->proxy) {
        dhcp_opts_u32(&o, DHCP_OPT_SUBNET_MASK, false, sn->mask);
        if (sn->router) {
            dhcp_opts_u32(&o, DHCP_OPT_ROUTER, false, sn->router);
        }
        if (t->rq.host && t->rq.host->name) {
            dhcp_opts_add(&o, DHCP_OPT_HOSTNAME, false, span_str(t->rq.host->name));
        }
        if (yiaddr) {
            dhcp_opts_u32(&o, DHCP_OPT_T1, false, sn->lease_s / 2);
            dhcp_opts_u32(&o, DHCP_OPT_T2, false, (uint32_t)((uint64_t)sn->lease_s * 7 / 8));
        }
        dhcp_opts_u32(&o, DHCP_OPT_BROADCAST, false, sn->addr | ~sn->mask);
    }
    send_reply(t, type, &o, yiaddr, siaddr, file);
}

/* ---- which address ---- */

/* A probe's result counts for some time. */
static bool lately(const struct turn *t, uint64_t at_ns) {
    return at_ns && t->in->now_ns - at_ns < PROBE_VALID_S * NS_PER_S;
}

/* May this client have this address now? Leaves reservations and other people's leases alone. */
static bool usable(void *ctx, uint32_t ip) {
    const struct turn *t = ctx;
    const struct dhcp_subnet *sn = &t->pool->cfg;
    if ((ip & sn->mask) != sn->addr || ip == sn->addr || ip == (sn->addr | ~sn->mask) ||
        ip == sn->router || ip == t->rq.server_ip || ip == t->in->local_ip) {
        return false;
    }
    const struct dhcp_host *owner = t->s->ops->host_by_ip(t->s->ctx, sn, ip);
    if (owner ? owner != t->rq.host : ip < sn->range_lo || ip > sn->range_hi) {
        return false;
    }
    const struct dhcp_lease *l = dhcp_lease_at(t->s, ip);
    if (!l || l->state == DHCP_FREE) {
        return true;
    }
    if (l->state == DHCP_DECLINED) {
        return false;
    }
    if (dhcp_hw_eq(l->hw, t->rq.hw)) {
        return true;
    }
    /* Another NIC of the same machine holds it. Firmware asking means that the machine has been reset, so what held the
     * address is gone, unless it just answered a probe; an operating system with both NICs up must not get one address
     * twice. */
    return owner && t->rq.client.stage != DHCP_STAGE_OS && !lately(t, l->answered_ns) &&
           t->s->ops->host_by_hw(t->s->ctx, sn, l->hw) == owner;
}

/* The address for a client: its reservation, its lease, its wish, an unused one, the one longest unused
 * (RFC 2131 §4.3.1). 0 when there is none. */
static uint32_t choose(struct turn *t, uint32_t wish) {
    const struct dhcp_host *host = t->rq.host;
    if (host && host->ip && usable(t, host->ip)) {
        return host->ip;
    }
    const struct dhcp_lease *l = dhcp_lease_by_hw(t->s, t->pool, t->rq.hw);
    if (l && usable(t, l->ip)) {
        return l->ip;
    }
    if (wish && usable(t, wish)) {
        return wish;
    }
    uint32_t ip = dhcp_pool_unused(t->pool, t->rq.hw, usable, t);
    if (ip) {
        return ip;
    }
    for (LIST_EACH(at, next, &t->pool->leases[DHCP_FREE])) {
        l = CONTAINER_OF(at, struct dhcp_lease, link);
        if (usable(t, l->ip)) {
            return l->ip;
        }
    }
    return 0;
}

/* The lease that would give `ip` to the client. It becomes the client's own, unless another NIC of its machine is bound to
 * it: that binding was promised and stays until the client has accepted (RFC 2131 §3.1, 4.3.2: the REQUEST commits, not the
 * offer). NULL when the table is full. */
static struct dhcp_lease *lease_for(struct turn *t, uint32_t ip) {
    struct dhcp_lease *l = dhcp_lease_at(t->s, ip);
    return l && l->state == DHCP_BOUND ? l : dhcp_lease_take(t->s, ip, t->rq.hw);
}

/* An address that nobody was just seen to hold is looked at first. True when the turn is over for now. */
static bool probe_first(struct turn *t, struct dhcp_lease *l) {
    bool holds = l->state == DHCP_BOUND && dhcp_hw_eq(l->hw, t->rq.hw);
    if (!t->pool->cfg.probe || holds || lately(t, l->probed_ns)) {
        return false;
    }
    if (l->state == DHCP_FREE) {
        dhcp_lease_move(t->s, l, DHCP_OFFERED, after(t, t->pool->cfg.offer_s));
    }
    t->out->act = DHCP_PROBE;
    t->out->probe_ip = l->ip;
    t->out->probe_is_local = !t->m->giaddr;
    return true;
}

/* A leaky bucket per client. */
static bool too_fast(const struct turn *t, struct dhcp_lease *l) {
    const uint64_t cost = NS_PER_S / LIM_DHCP_RATE_PER_S;
    uint64_t now = t->in->now_ns, full_at = l->rate_ns > now ? l->rate_ns : now;
    if (full_at - now > LIM_DHCP_RATE_BURST * cost) {
        return true;
    }
    l->rate_ns = full_at + cost;
    return false;
}

static void note_client(struct turn *t, struct dhcp_lease *l) {
    struct span name = t->m->opt[DHCP_OPT_HOSTNAME];
    if (name.n && span_to_cstr(name, l->hostname, sizeof(l->hostname)) < 0) {
        l->hostname[0] = 0;
    }
    if (t->agent.n && t->agent.n <= sizeof(l->agent)) {
        l->agent_n = (uint8_t)t->agent.n;
        memcpy(l->agent, t->agent.p, t->agent.n);
    }
}

/* ---- the messages ---- */

static void on_discover(struct turn *t) {
    uint32_t ip = choose(t, dhcp_get_ip(t->m, DHCP_OPT_REQUESTED_IP, 0));
    if (!ip) {
        silent(t, "no free address");
        return;
    }
    struct dhcp_lease *l = lease_for(t, ip);
    if (!l) {
        silent(t, "lease table full");
        return;
    }
    if (too_fast(t, l)) {
        silent(t, "client sends too much");
        return;
    }
    if (probe_first(t, l)) {
        return;
    }
    if (l->state != DHCP_BOUND) { /* a binding lives on beside a new offer of it */
        dhcp_lease_move(t->s, l, DHCP_OFFERED, after(t, t->pool->cfg.offer_s));
    }
    grant(t, DHCP_OFFER, ip);
}

static void bind_lease(struct turn *t, struct dhcp_lease *l) {
    struct dhcp_lease *old = l->replaces ? dhcp_lease_at(t->s, l->replaces) : NULL;
    if (old && old->state == DHCP_BOUND && dhcp_hw_eq(old->hw, l->hw)) {
        dhcp_lease_move(t->s, old, DHCP_FREE,
                        t->in->now_ns); /* one machine, one address: it has moved */
    }
    l->replaces = 0;
    l->probed_ns = 0; /* what was true before it had this owner */
    dhcp_lease_move(t->s, l, DHCP_BOUND, after(t, t->pool->cfg.lease_s));
    note_client(t, l);
    t->out->changed = l;
    grant(t, DHCP_ACK, l->ip);
    if (t->out->act != DHCP_SEND) {
        t->out->changed = NULL;
    }
}

/* The client wants `ip`. Gives it when it is what we would give it anyway. */
static void request_ip(struct turn *t, uint32_t ip) {
    if (choose(t, ip) != ip) {
        nak(t, "address not available");
        return;
    }
    struct dhcp_lease *l = lease_for(t, ip);
    if (!l) {
        silent(t, "lease table full");
    } else if (too_fast(t, l)) {
        silent(t, "client sends too much");
    } else if (!probe_first(t, l)) {
        bind_lease(t, dhcp_lease_take(t->s, ip, t->rq.hw)); /* a known lease: never NULL */
    }
}

static void on_request(struct turn *t) {
    const struct dhcp_subnet *sn = &t->pool->cfg;
    uint32_t chosen = dhcp_get_ip(t->m, DHCP_OPT_SERVER_ID, 0);
    uint32_t wish = dhcp_get_ip(t->m, DHCP_OPT_REQUESTED_IP, 0);
    struct dhcp_lease *l = dhcp_lease_by_hw(t->s, t->pool, t->rq.hw);
    if (chosen) { /* SELECTING */
        if (chosen != t->rq.server_ip && chosen != t->in->local_ip) {
            if (l && l->state == DHCP_OFFERED) {
                dhcp_lease_move(t->s, l, DHCP_FREE, t->in->now_ns);
            }
            silent(t, "another server was chosen");
        } else if (!wish && !t->m->ciaddr) {
            silent(t, "request without an address");
        } else {
            request_ip(t, wish ? wish : t->m->ciaddr);
        }
        return;
    }
    uint32_t ip = t->m->ciaddr ? t->m->ciaddr : wish; /* RENEWING and REBINDING : INIT-REBOOT */
    if (!ip) {
        silent(t, "request without an address");
    } else if ((ip & sn->mask) != sn->addr) {
        nak(t, "wrong network");
    } else if (!l && !(t->rq.host && t->rq.host->ip)) {
        silent(t, "unknown lease: another server's, perhaps"); /* RFC 2131 §4.3.2 */
    } else {
        request_ip(t, ip);
    }
}

static void on_release(struct turn *t) {
    struct dhcp_lease *l = dhcp_lease_by_hw(t->s, t->pool, t->rq.hw);
    silent(t, "release has no answer");
    if (l && l->ip == t->m->ciaddr && l->state == DHCP_BOUND) {
        dhcp_lease_move(t->s, l, DHCP_FREE, t->in->now_ns);
        t->out->changed = l;
    } else {
        t->out->why = "release of somebody else's address";
    }
}

/* A client that complains about every address would drain the range: after a few it is believed no longer. */
static bool believable(struct turn *t) {
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < t->rq.hw.n; i++) {
        h = (h ^ t->rq.hw.b[i]) * 16777619u;
    }
    struct dhcp_complaint *c = &t->s->complaints[(h ^ h >> 16) % ARRAY_LEN(t->s->complaints)];
    if (!c->n || t->in->now_ns - c->since_ns > COMPLAINT_WINDOW_S * NS_PER_S) {
        *c = (struct dhcp_complaint){t->in->now_ns, 0};
    }
    return c->n++ < LIM_DHCP_DECLINES;
}

static void quarantine(struct dhcp_server *s, struct dhcp_pool *p, struct dhcp_lease *l,
                       uint64_t now_ns) {
    bool reserved = s->ops->host_by_ip(s->ctx, &p->cfg, l->ip) != NULL;
    uint32_t seconds = p->cfg.decline_s;
    if (reserved && seconds > RESERVED_QUARANTINE_S) {
        seconds = RESERVED_QUARANTINE_S;
    }
    dhcp_lease_move(s, l, DHCP_DECLINED, now_ns + seconds * NS_PER_S);
    dhcp_lease_disown(s, l);
}

static void on_decline(struct turn *t) {
    struct dhcp_lease *l = dhcp_lease_by_hw(t->s, t->pool, t->rq.hw);
    silent(t, "decline has no answer");
    if (!l || l->ip != dhcp_get_ip(t->m, DHCP_OPT_REQUESTED_IP, 0) ||
        (l->state != DHCP_BOUND && l->state != DHCP_OFFERED)) {
        t->out->why = "decline of somebody else's address";
        return;
    }
    if (believable(t)) {
        t->out->why = "declined: address in use by somebody else";
        quarantine(t->s, t->pool, l, t->in->now_ns);
    } else {
        t->out->why = "declined too often: not believed";
        dhcp_lease_move(t->s, l, DHCP_FREE, t->in->now_ns);
    }
    t->out->changed = l;
}

static void on_inform(struct turn *t) {
    if (!t->m->ciaddr) {
        silent(t, "inform without an address");
        return;
    }
    grant(t, DHCP_ACK, 0);
}

/* proxyDHCP: the address comes from somebody else; we answer boot clients only. */
static void on_proxy(struct turn *t) {
    if (t->rq.client.stage == DHCP_STAGE_OS || (t->m->type != DHCP_DISCOVER && !t->in->on_4011)) {
        silent(t, "proxy mode: not a boot client's business");
        return;
    }
    grant(t, t->in->on_4011 ? DHCP_ACK : DHCP_OFFER, 0);
}

/* ---- entry ---- */

/* The subnet that a request is about: the relay's word first, then the address the client has, then our own link. */
static struct dhcp_pool *pool_for(const struct turn *t) {
    const struct dhcp_msg *m = t->m;
    uint32_t at = t->in->local_ip;
    if (m->giaddr) {
        uint32_t link = agent_ip(t->agent, AGENT_LINK);
        at = link ? link : dhcp_get_ip(m, DHCP_OPT_SUBNET_SELECT, m->giaddr);
    } else if (t->in->was_unicast && m->ciaddr) {
        at = m->ciaddr; /* renewing past its relay */
    }
    return dhcp_pool_of(t->s, at);
}

static bool hw_of(const struct dhcp_msg *m, struct dhcp_hw *ret) {
    struct span id = m->opt[DHCP_OPT_CLIENT_ID];
    *ret = (struct dhcp_hw){m->hlen, {0}};
    if (m->hlen) {
        memcpy(ret->b, m->chaddr, m->hlen);
        return true;
    }
    if (!id.n || id.n > DHCP_HW_MAX) {
        return false;
    }
    ret->n =
        (uint8_t)
            id.n; /* no hardware address at all (some tunnels): the client identifier has to do */
    memcpy(ret->b, id.p, id.n);
    return true;
}

static void decide(struct turn *t) {
    switch ((enum dhcp_type)t->m->type) {
    case DHCP_DISCOVER: on_discover(t); return;
    case DHCP_REQUEST: on_request(t); return;
    case DHCP_DECLINE: on_decline(t); return;
    case DHCP_RELEASE: on_release(t); return;
    case DHCP_INFORM: on_inform(t); return;
    case DHCP_OFFER:
    case DHCP_ACK:
    case DHCP_NAK:
    case DHCP_TYPE_MAX_: break;
    }
    silent(t, "not a request of a client");
}

void dhcp_server_input(struct dhcp_server *s, const struct dhcp_in *in, struct dhcp_out *out) {
    struct turn t = {.s = s, .in = in, .m = in->m, .out = out};
    struct buf pkt = out->pkt;
    buf_reset(&pkt);
    *out = (struct dhcp_out){.act = DHCP_SILENT, .pkt = pkt};
    if (in->m->op != 1 || !hw_of(in->m, &t.rq.hw)) {
        silent(&t, "not a request of a client");
        return;
    }
    t.agent = in->m->giaddr ? in->m->opt[DHCP_OPT_AGENT]
                            : SPAN_EMPTY; /* not to be trusted from the link itself */
    t.pool = pool_for(&t);
    if (!t.pool) {
        silent(&t, "no such network here");
        return;
    }
    uint32_t override = agent_ip(t.agent, AGENT_SERVER_ID);
    t.rq.m = in->m;
    t.rq.client = dhcp_client_of(in->m);
    t.rq.subnet = &t.pool->cfg;
    t.rq.server_ip = override ? override : in->local_ip;
    t.rq.host = s->ops->host_by_hw(s->ctx, &t.pool->cfg, t.rq.hw);
    dhcp_pool_expire(s, t.pool, in->now_ns);
    if (t.pool->cfg.proxy || in->on_4011) {
        on_proxy(&t);
    } else {
        decide(&t);
    }
}

void dhcp_server_probed(struct dhcp_server *s, uint32_t ip, bool in_use, uint64_t now_ns) {
    struct dhcp_pool *p = dhcp_pool_of(s, ip);
    struct dhcp_lease *l = dhcp_lease_at(s, ip);
    if (!p || !l) {
        return;
    }
    if (!in_use) {
        l->probed_ns = now_ns;
    } else if (l->state == DHCP_BOUND) {
        l->answered_ns = now_ns; /* its holder, who keeps it */
    } else if (l->state == DHCP_OFFERED || l->state == DHCP_FREE) {
        quarantine(s, p, l, now_ns);
    }
}
