/* Properties of dhcp over a byte source, as fuzz targets and for dhcp_test.c. */
#include "internal/base/rand.h"
#include "internal/dhcp/dhcp_test.h"
#include "internal/t/t.h"

#include <stdlib.h>

static bool inside(struct span s, const void *p, size_t n) {
    const uint8_t *from = p;
    return !s.p || (s.p >= from && s.p + s.n <= from + n);
}

int dhcp_prop_parse(const uint8_t *p, size_t n) {
    struct dhcp_msg *m = new_zero(struct dhcp_msg);
    const char *why = NULL;
    int bad = 0;
    if (dhcp_msg_parse(m, span_of(p, n), &why) == 0) {
        for (unsigned c = 0; c < 256; c++) {
            bad |= !inside(m->opt[c], p, n) && !inside(m->opt[c], m->joined, sizeof(m->joined));
        }
        bad |= !inside(m->file, p, n) || !inside(m->sname, p, n) || m->hlen > DHCP_HW_MAX;
        IGNORE_ERR(dhcp_client_of(m).stage, "must only survive");
    } else {
        bad = !why;
    }
    free(m);
    return bad;
}

static bool same_msg(const struct dhcp_msg *a, const struct dhcp_msg *b,
                     const struct dhcp_opts *o) {
    if (a->op != b->op || a->htype != b->htype || a->hlen != b->hlen || a->hops != b->hops ||
        a->xid != b->xid || a->secs != b->secs || a->flags != b->flags || a->ciaddr != b->ciaddr ||
        a->yiaddr != b->yiaddr || a->siaddr != b->siaddr || a->giaddr != b->giaddr ||
        memcmp(a->chaddr, b->chaddr, DHCP_HW_MAX) != 0) {
        return false;
    }
    for (size_t i = 0; i < o->n; i++) {
        struct span v = b->opt[o->v[i].code];
        if (v.p ? !span_eq(v, span_of(o->bytes + o->v[i].at, o->v[i].n)) : o->v[i].must) {
            return false;
        }
    }
    return true;
}

int dhcp_prop_write_then_parse(const uint8_t *p, size_t n) {
    struct t_gen g = {span_of(p, n)};
    struct dhcp_msg m = {.op = (uint8_t)t_gen_u32(&g, 1, 2),
                         .htype = 1,
                         .hlen = (uint8_t)t_gen_u32(&g, 0, 16),
                         .xid = t_gen_u32(&g, 0, UINT32_MAX),
                         .flags = (uint16_t)t_gen_u32(&g, 0, 65535),
                         .yiaddr = t_gen_u32(&g, 0, UINT32_MAX),
                         .giaddr = t_gen_u32(&g, 0, UINT32_MAX)};
    struct dhcp_opts *o = new_zero(struct dhcp_opts);
    struct dhcp_msg *back = new_zero(struct dhcp_msg);
    AUTO(buf) struct buf b = BUF_INIT(4096), again = BUF_INIT(4096);
    size_t max = t_gen_u32(&g, 548, LIM_DHCP_OUT);
    const char *why;
    int bad = 0;
    for (unsigned i = t_gen_u32(&g, 0, 12); i > 0; i--) {
        uint8_t code = (uint8_t)t_gen_u32(&g, 1, 254);
        enum dhcp_kind kind;
        IGNORE_ERR(dhcp_opt_name(code, &kind) != NULL, "only the kind is wanted");
        if ((kind == DHCP_K_BYTES || kind == DHCP_K_TEXT) && code != DHCP_OPT_OVERLOAD) {
            dhcp_opts_add(o, code, t_gen_u32(&g, 0, 1), t_gen_bytes(&g, 400));
        }
    }
    if (dhcp_msg_write(&m, o, max, &b) == 0) {
        bad = b.n > max || b.n < 300 || dhcp_msg_parse(back, buf_view(&b), &why) < 0 ||
              !same_msg(&m, back, o);
        bad |= dhcp_msg_write(&m, o, max, &again) < 0 || !span_eq(buf_view(&b), buf_view(&again));
    }
    free(back);
    free(o);
    return bad;
}

/* ---- records ---- */

static void gen_lease(struct t_gen *g, uint64_t now_ns, struct dhcp_lease *l) {
    static const enum dhcp_state states[] = {DHCP_FREE, DHCP_BOUND, DHCP_DECLINED};
    *l = (struct dhcp_lease){.ip = t_gen_u32(g, 0, UINT32_MAX),
                             .subnet = t_gen_u32(g, 0, UINT32_MAX),
                             .state = states[t_gen_u32(g, 0, 2)],
                             .until_ns = now_ns + t_gen_u32(g, 0, 90000) * NS_PER_S};
    l->hw.n = (uint8_t)t_gen_u32(g, 0, DHCP_HW_MAX);
    for (size_t i = 0; i < l->hw.n; i++) {
        l->hw.b[i] = (uint8_t)t_gen_u32(g, 0, 255);
    }
    size_t name = t_gen_u32(g, 0, LIM_DHCP_HOSTNAME);
    memset(l->hostname, 'n', name);
    struct span agent = t_gen_bytes(g, sizeof(l->agent));
    l->agent_n = (uint8_t)agent.n;
    if (agent.n) {
        memcpy(l->agent, agent.p, agent.n);
    }
}

static bool same_lease(const struct dhcp_lease *a, const struct dhcp_lease *b) {
    return a->ip == b->ip && a->subnet == b->subnet && a->state == b->state &&
           a->until_ns == b->until_ns && dhcp_hw_eq(a->hw, b->hw) &&
           str_eq(a->hostname, b->hostname) && a->agent_n == b->agent_n &&
           memcmp(a->agent, b->agent, a->agent_n) == 0;
}

int dhcp_prop_record(const uint8_t *p, size_t n) {
    enum { LEASES = 4 };
    const uint64_t now = 1000 * NS_PER_S, wall = 1700000000;
    struct t_gen g = {span_of(p, n)};
    AUTO(buf) struct buf b = BUF_INIT(LEASES * DHCP_RECORD_MAX);
    struct dhcp_lease *in = mem_zero_alloc(LEASES * sizeof(*in)),
                      *out = new_zero(struct dhcp_lease);
    size_t ends[LEASES];
    int bad = 0;
    for (size_t i = 0; i < LEASES; i++) {
        gen_lease(&g, now, &in[i]);
        bad |= dhcp_record_write(&in[i], now, wall, &b) < 0;
        ends[i] = b.n;
    }
    struct span s = buf_view(&b);
    for (size_t i = 0; i < LEASES; i++) {
        bad |= dhcp_record_read(&s, now, wall, out) < 0 || !same_lease(&in[i], out);
    }
    bad |= dhcp_record_read(&s, now, wall, out) != -ERR_NOT_FOUND;
    /* A changed byte, or a cut: what lies before it is read as it was, and the reader stops there. */
    size_t at = t_gen_u32(&g, 0, (uint32_t)b.n - 1), good = 0;
    b.p[at] ^= (uint8_t)t_gen_u32(&g, 1, 255);
    s = span_of(b.p, t_gen_u32(&g, 0, 1) ? b.n : at);
    while (dhcp_record_read(&s, now, wall, out) == 0) {
        bad |= good >= LEASES || !same_lease(&in[good], out);
        good++;
    }
    while (good < LEASES && ends[good] <= at) {
        bad = 1; /* a record before the damage was not read */
        good++;
    }
    free(in);
    free(out);
    return bad;
}

/* ---- the lab ---- */

static const struct dhcp_host hosts[] = {{"two-nics", DHCP_LAB_TWO_NICS},
                                         {"outside", DHCP_LAB_OUTSIDE}};

static const struct dhcp_host *host_by_hw(void *ctx, const struct dhcp_subnet *sn,
                                          struct dhcp_hw hw) {
    (void)ctx;
    (void)sn;
    return hw.b[5] < 2 ? &hosts[0] : hw.b[5] == 2 ? &hosts[1] : NULL;
}
static const struct dhcp_host *host_by_ip(void *ctx, const struct dhcp_subnet *sn, uint32_t ip) {
    (void)ctx;
    (void)sn;
    return ip == hosts[0].ip ? &hosts[0] : ip == hosts[1].ip ? &hosts[1] : NULL;
}
static void options(void *ctx, const struct dhcp_request *rq, struct dhcp_opts *o, char file[128],
                    uint32_t *siaddr) {
    (void)ctx;
    (void)rq;
    (void)o;
    (void)file;
    (void)siaddr;
}
const struct dhcp_ops dhcp_lab_ops = {host_by_hw, host_by_ip, options};

struct dhcp_hw dhcp_lab_hw(unsigned client) {
    return (struct dhcp_hw){6, {0x52, 0x54, 0, 0x77, 0, (uint8_t)client}};
}

int dhcp_lab_configure(struct dhcp_server *s, uint32_t lease_s, struct err *e) {
    const struct dhcp_subnet sn = {.addr = DHCP_LAB_NET,
                                   .mask = 0xfffffff0,
                                   .range_lo = DHCP_LAB_FIRST,
                                   .range_hi = DHCP_LAB_LAST,
                                   .router = DHCP_LAB_ROUTER,
                                   .lease_s = lease_s,
                                   .offer_s = DHCP_LAB_OFFER_S,
                                   .decline_s = DHCP_LAB_DECLINE_S,
                                   .probe = true};
    return dhcp_server_configure(s, &sn, 1, e);
}

void dhcp_lab_send(struct dhcp_server *s, const struct dhcp_lab_ask *a, struct dhcp_out *out) {
    struct dhcp_msg m = {.op = 1, .htype = 1, .hlen = 6, .xid = a->client, .ciaddr = a->ciaddr};
    struct dhcp_msg *in = new_zero(struct dhcp_msg);
    struct dhcp_opts o = {.n = 0};
    AUTO(buf) struct buf b = BUF_INIT(2048);
    const char *why;
    struct dhcp_hw hw = dhcp_lab_hw(a->client);
    memcpy(m.chaddr, hw.b, 6);
    dhcp_opts_u8(&o, DHCP_OPT_TYPE, true, a->type);
    if (a->wish) {
        dhcp_opts_u32(&o, DHCP_OPT_REQUESTED_IP, true, a->wish);
    }
    if (a->server) {
        dhcp_opts_u32(&o, DHCP_OPT_SERVER_ID, true, a->server);
    }
    if (a->is_boot) {
        dhcp_opts_add(&o, DHCP_OPT_VENDOR_CLASS, true, SPAN_LIT("PXEClient"));
    }
    CHECK(dhcp_msg_write(&m, &o, 548, &b) == 0 && dhcp_msg_parse(in, buf_view(&b), &why) == 0);
    const struct dhcp_in turn = {
        .m = in, .local_ip = DHCP_LAB_US, .was_unicast = a->ciaddr != 0, .now_ns = a->now_ns};
    dhcp_server_input(s, &turn, out);
    while (out->act == DHCP_PROBE) {
        dhcp_server_probed(s, out->probe_ip, a->in_use(a->ctx, out->probe_ip), a->now_ns);
        dhcp_server_input(s, &turn, out);
    }
    free(in);
}

/* ---- the server against a model ---- */

enum {
    LAB_SIZE = 16,
    CLIENTS = 10,
    LEASE_S = 600, /* or, after a change of configuration, */
    LEASE_SHORT_S = 100,
    DECLINE_RESERVED_S = 60,
};

struct world {
    struct t_gen g;
    struct dhcp_server *s;
    uint64_t now;
    struct dhcp_out out;
    /* The model: who was told that he has which address, and until when. */
    struct {
        uint32_t offered, bound;
        uint64_t until;
    } client[CLIENTS];
    uint64_t blocked_until[LAB_SIZE]; /* no later than this is the address free again */
    uint32_t lease_s;
    struct buf journal;
    bool is_boot,
        was_probed_used; /* the last request came from firmware; found an address in use */
    int bad;
};

static void block(struct world *w, uint32_t ip, uint64_t seconds) {
    uint64_t *until = &w->blocked_until[ip % LAB_SIZE], to = w->now + seconds * NS_PER_S;
    *until = to > *until ? to : *until;
}
static void block_declined(struct world *w, uint32_t ip) {
    block(w, ip, host_by_ip(NULL, NULL, ip) ? DECLINE_RESERVED_S : DHCP_LAB_DECLINE_S);
}

static bool in_use(void *ctx, uint32_t ip) {
    struct world *w = ctx;
    bool used = t_gen_u32(&w->g, 0, 5) == 0;
    if (used) {
        w->was_probed_used = true;
        block_declined(w, ip);
    }
    return used;
}

static void request(struct world *w, unsigned c, uint8_t type, uint32_t ciaddr, uint32_t wish,
                    uint32_t server) {
    w->was_probed_used = false;
    w->is_boot = t_gen_u32(&w->g, 0, 1);
    const struct dhcp_lab_ask a = {.now_ns = w->now,
                                   .client = c,
                                   .is_boot = w->is_boot,
                                   .type = type,
                                   .ciaddr = ciaddr,
                                   .wish = wish,
                                   .server = server,
                                   .in_use = in_use,
                                   .ctx = w};
    dhcp_lab_send(w->s, &a, &w->out);
    if (w->out.changed) {
        dhcp_record_write(w->out.changed, w->now, w->now / NS_PER_S, &w->journal);
    }
}

static bool legal(unsigned c, uint32_t ip) {
    const struct dhcp_host *own = host_by_hw(NULL, NULL, dhcp_lab_hw(c)),
                           *of = host_by_ip(NULL, NULL, ip);
    return of ? of == own : ip >= DHCP_LAB_FIRST && ip <= DHCP_LAB_LAST && ip != DHCP_LAB_ROUTER;
}

/* A machine gets its declared address when that is free, and nobody is sent away while an address is. */
static void check_discover(struct world *w, unsigned c, bool own_is_free) {
    const struct dhcp_host *own = host_by_hw(NULL, NULL, dhcp_lab_hw(c));
    w->bad |= w->out.act == DHCP_SEND && own_is_free && !w->was_probed_used &&
              w->client[c].offered != own->ip;
    for (uint32_t ip = DHCP_LAB_NET;
         ip < DHCP_LAB_NET + LAB_SIZE && str_eq(w->out.why, "no free address"); ip++) {
        w->bad |= legal(c, ip) && w->blocked_until[ip % LAB_SIZE] <= w->now;
    }
}

/* Nobody else was told that he has this address; but a NIC of a machine that boots again may be offered what the other one
 * has, which loses it when the offer is accepted. */
static void check_others(struct world *w, unsigned c, uint32_t ip, bool is_ack) {
    for (unsigned k = 0; k < CLIENTS; k++) {
        if (ip && k != c && w->client[k].bound == ip && w->client[k].until > w->now) {
            w->bad |= !(c < 2 && k < 2 && ip == hosts[0].ip && w->is_boot);
            w->client[k].bound = is_ack ? 0 : ip;
        }
    }
}

static void check_answer(struct world *w, unsigned c) {
    struct dhcp_msg *r = new_zero(struct dhcp_msg);
    const char *why;
    if (w->out.act == DHCP_SEND && dhcp_msg_parse(r, buf_view(&w->out.pkt), &why) < 0) {
        w->bad = 1;
    } else if (w->out.act == DHCP_SEND && r->type != DHCP_NAK) {
        w->bad |= r->xid != c || r->op != 2 || dhcp_get_ip(r, DHCP_OPT_SERVER_ID, 0) != DHCP_LAB_US;
        w->bad |= r->yiaddr && !legal(c, r->yiaddr);
        check_others(w, c, r->yiaddr, r->type == DHCP_ACK);
        if (r->type == DHCP_OFFER) {
            w->client[c].offered = r->yiaddr;
            block(w, r->yiaddr, DHCP_LAB_OFFER_S);
        } else if (r->yiaddr) {
            w->bad |= !w->out.changed || w->out.changed->ip != r->yiaddr ||
                      w->out.changed->state != DHCP_BOUND;
            w->client[c].bound = r->yiaddr;
            w->client[c].until = w->now + w->lease_s * NS_PER_S;
            block(w, r->yiaddr, w->lease_s);
        }
    }
    free(r);
}

static void configure(struct world *w, uint32_t lease_s) {
    struct err e = ERR_INIT;
    w->lease_s = lease_s;
    w->bad |= dhcp_lab_configure(w->s, lease_s, &e) < 0;
}

static void restart(struct world *w) {
    struct dhcp_lease *l = new_zero(struct dhcp_lease);
    struct span s = buf_view(&w->journal);
    dhcp_server_free(w->s);
    w->s = dhcp_server_new(&dhcp_lab_ops, NULL, DHCP_LAB_LEASES);
    while (dhcp_record_read(&s, w->now, w->now / NS_PER_S, l) == 0) {
        w->bad |= dhcp_server_restore(w->s, l, w->now) < 0;
    }
    w->bad |= s.n != 0;
    free(l);
    configure(w, LEASE_S);
}

static void step(struct world *w) {
    unsigned c = t_gen_u32(&w->g, 0, CLIENTS - 1);
    uint32_t any = t_gen_u32(&w->g, 0, 3) ? 0 : DHCP_LAB_NET + t_gen_u32(&w->g, 0, 20);
    uint32_t bound = w->client[c].bound;
    const struct dhcp_host *own = host_by_hw(NULL, NULL, dhcp_lab_hw(c));
    bool own_is_free = own && w->blocked_until[own->ip % LAB_SIZE] <= w->now;
    switch (t_gen_u32(&w->g, 0, 9)) {
    case 0:
    case 1:
        request(w, c, DHCP_DISCOVER, 0, any, 0);
        check_answer(w, c);
        check_discover(w, c, own_is_free);
        return;
    case 2:
    case 3:
    case 4: request(w, c, DHCP_REQUEST, 0, any ? any : w->client[c].offered, DHCP_LAB_US); break;
    case 5:
        request(w, c, DHCP_REQUEST, 0, any ? any : bound, 0); /* INIT-REBOOT */
        break;
    case 6:
        request(w, c, DHCP_REQUEST, any ? any : bound, 0, 0); /* RENEWING */
        break;
    case 7:
        request(w, c, t_gen_u32(&w->g, 0, 1) ? DHCP_RELEASE : DHCP_INFORM, any ? any : bound, 0,
                DHCP_LAB_US);
        if (w->out.changed) {
            w->client[c].bound = 0;
        }
        break;
    case 8:
        request(w, c, DHCP_DECLINE, 0, any ? any : bound, DHCP_LAB_US);
        if (w->out.changed) {
            block_declined(w, any ? any : bound);
            w->client[c].bound = 0;
        }
        break;
    default:
        w->now += t_gen_u32(&w->g, 0, 400) * NS_PER_S;
        switch (t_gen_u32(&w->g, 0, 7)) {
        case 0:
        case 1: restart(w); break;
        case 2: configure(w, w->lease_s == LEASE_S ? LEASE_SHORT_S : LEASE_S); break;
        default: break;
        }
        return;
    }
    check_answer(w, c);
}

int dhcp_prop_server(const uint8_t *p, size_t n) {
    struct world w = {.g = {span_of(p, n)},
                      .now = 5000 * NS_PER_S,
                      .out = {.pkt = BUF_INIT(LIM_DHCP_OUT)},
                      .journal = BUF_INIT(1 << 20)};
    restart(&w);
    for (int i = 0; i < 200 && w.g.s.n && !w.bad; i++) {
        step(&w);
    }
    dhcp_server_free(w.s);
    buf_fini(&w.out.pkt);
    buf_fini(&w.journal);
    return w.bad;
}

/* ---- targets ---- */

FUZZ(dhcp_msg)(const uint8_t *p, size_t n) {
    CHECK(dhcp_prop_parse(p, n) == 0);
    return 0;
}
FUZZ(dhcp_write)(const uint8_t *p, size_t n) {
    CHECK(dhcp_prop_write_then_parse(p, n) == 0);
    return 0;
}
FUZZ(dhcp_record)(const uint8_t *p, size_t n) {
    CHECK(dhcp_prop_record(p, n) == 0);
    return 0;
}
FUZZ(dhcp_server)(const uint8_t *p, size_t n) {
    CHECK(dhcp_prop_server(p, n) == 0);
    return 0;
}
