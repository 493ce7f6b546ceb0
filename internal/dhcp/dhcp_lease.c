/* The lease table: who has which address, and which are free. */
#include "internal/dhcp/dhcp_int.h"

#include <stdlib.h>

/* by_hw is keyed by subnet and hardware address: a machine may hold one lease on each of its networks. */
struct hw_key {
    uint8_t b[4 + DHCP_HW_MAX];
    size_t n;
};
static struct hw_key hw_key(uint32_t subnet, struct dhcp_hw hw) {
    struct hw_key k = {
        {(uint8_t)(subnet >> 24), (uint8_t)(subnet >> 16), (uint8_t)(subnet >> 8), (uint8_t)subnet},
        0};
    memcpy(k.b + 4, hw.b, hw.n);
    k.n = 4u + hw.n;
    return k;
}
static struct span ip_key(const uint32_t *ip) {
    return span_of(ip, sizeof(*ip));
}

struct dhcp_pool *dhcp_pool_of(const struct dhcp_server *s, uint32_t ip) {
    for (size_t i = 0; i < s->n_pools; i++) {
        if ((ip & s->pools[i].cfg.mask) == s->pools[i].cfg.addr) {
            return &s->pools[i];
        }
    }
    return NULL;
}

struct dhcp_lease *dhcp_lease_at(const struct dhcp_server *s, uint32_t ip) {
    return map_get(&s->by_ip, ip_key(&ip));
}

struct dhcp_lease *dhcp_lease_by_hw(const struct dhcp_server *s, const struct dhcp_pool *p,
                                    struct dhcp_hw hw) {
    struct hw_key k = hw_key(p->cfg.addr, hw);
    return map_get(&s->by_hw, span_of(k.b, k.n));
}

static struct list *list_of(struct dhcp_server *s, const struct dhcp_lease *l) {
    struct dhcp_pool *p = dhcp_pool_of(s, l->ip);
    return p ? &p->leases[l->state] : &s->orphans;
}

static void mark(struct dhcp_pool *p, uint32_t ip, bool taken) {
    if (p && p->taken && ip >= p->cfg.range_lo && ip <= p->cfg.range_hi) {
        size_t i = ip - p->cfg.range_lo;
        uint64_t bit = 1ull << (i % 64);
        p->taken[i / 64] = taken ? p->taken[i / 64] | bit : p->taken[i / 64] & ~bit;
    }
}

void dhcp_lease_disown(struct dhcp_server *s, struct dhcp_lease *l) {
    struct hw_key k = hw_key(l->subnet, l->hw);
    if (map_get(&s->by_hw, span_of(k.b, k.n)) == l) {
        map_del(&s->by_hw, span_of(k.b, k.n));
    }
    l->hw.n = 0;
}

static void lease_drop(struct dhcp_server *s, struct dhcp_lease *l) {
    dhcp_lease_disown(s, l);
    map_del(&s->by_ip, ip_key(&l->ip));
    mark(dhcp_pool_of(s, l->ip), l->ip, false);
    list_del(&l->link);
    s->count[l->state]--;
    free(l);
}

void dhcp_lease_move(struct dhcp_server *s, struct dhcp_lease *l, enum dhcp_state to,
                     uint64_t until_ns) {
    s->count[l->state]--;
    s->count[to]++;
    l->state = to;
    l->until_ns = until_ns;
    list_del(&l->link);
    struct list *head = list_of(s, l), *before = head;
    if (head != &s->orphans && to != DHCP_FREE) { /* mostly no step: see dhcp_int.h */
        while (before->prev != head &&
               CONTAINER_OF(before->prev, struct dhcp_lease, link)->until_ns > until_ns) {
            before = before->prev;
        }
    }
    list_add_tail(before, &l->link);
}

/* Makes room in a full table at the cost of the memory of who had an address long ago. */
static bool forget_one(struct dhcp_server *s) {
    for (size_t i = 0; i < s->n_pools; i++) {
        struct list *free_ones = &s->pools[i].leases[DHCP_FREE];
        if (!list_empty(free_ones)) {
            lease_drop(s, CONTAINER_OF(free_ones->next, struct dhcp_lease, link));
            return true;
        }
    }
    if (!list_empty(&s->orphans)) { /* of a subnet that is served no more */
        lease_drop(s, CONTAINER_OF(s->orphans.next, struct dhcp_lease, link));
        return true;
    }
    return false;
}

/* From now on this is the lease by which its owner is known. */
static void make_current(struct dhcp_server *s, struct dhcp_lease *l) {
    struct hw_key k = hw_key(l->subnet, l->hw);
    struct dhcp_lease *old = map_put(&s->by_hw, span_of(k.b, k.n), l);
    if (old && old != l && old->state == DHCP_OFFERED) {
        dhcp_lease_move(s, old, DHCP_FREE, old->until_ns);
    } else if (old && old != l && old->state == DHCP_BOUND) {
        /* The machine may still use it: nobody else gets it before it has moved. */
        l->replaces = old->ip;
    }
}

struct dhcp_lease *dhcp_lease_take(struct dhcp_server *s, uint32_t ip, struct dhcp_hw hw) {
    struct dhcp_pool *p = dhcp_pool_of(s, ip);
    struct dhcp_lease *l = dhcp_lease_at(s, ip);
    uint32_t subnet = p ? p->cfg.addr : ip;
    if (l && dhcp_hw_eq(l->hw, hw) && l->state != DHCP_DECLINED) {
        make_current(s, l); /* it may have had another one since */
        return l;
    }
    if (!l) {
        if (s->by_ip.n >= s->max_leases && !forget_one(s)) {
            return NULL;
        }
        l = new_zero(struct dhcp_lease);
        l->ip = ip;
        l->state = DHCP_FREE;
        list_init(&l->link);
        s->count[DHCP_FREE]++;
        map_put(&s->by_ip, ip_key(&ip), l);
        mark(p, ip, true);
    } else {
        dhcp_lease_disown(s, l);
    }
    l->hw = hw;
    l->subnet = subnet;
    l->hostname[0] = 0;
    l->agent_n = 0;
    l->rate_ns = 0;
    l->replaces = 0;
    l->answered_ns = 0;
    dhcp_lease_move(s, l, DHCP_FREE, 0);
    make_current(s, l);
    return l;
}

void dhcp_pool_expire(struct dhcp_server *s, struct dhcp_pool *p, uint64_t now_ns) {
    struct list *ending[] = {&p->leases[DHCP_OFFERED], &p->leases[DHCP_BOUND], &p->bound_before,
                             &p->leases[DHCP_DECLINED]};
    for (size_t i = 0; i < ARRAY_LEN(ending); i++) {
        while (!list_empty(ending[i])) {
            struct dhcp_lease *l = CONTAINER_OF(ending[i]->next, struct dhcp_lease, link);
            if (l->until_ns > now_ns) {
                break;
            }
            dhcp_lease_move(s, l, DHCP_FREE, l->until_ns);
        }
    }
}

/* A machine starts its search at its own place of the range, so that it tends to find the same address again even after
 * all state was lost. */
static size_t home_of(struct dhcp_hw hw, size_t n) {
    uint64_t h = 1469598103934665603ull;
    for (size_t i = 0; i < hw.n; i++) {
        h = (h ^ hw.b[i]) * 1099511628211ull;
    }
    return (size_t)((h ^ h >> 29) % n);
}

uint32_t dhcp_pool_unused(const struct dhcp_pool *p, struct dhcp_hw hw,
                          bool (*ok)(void *ctx, uint32_t ip), void *ctx) {
    if (!p->n_addrs) {
        return 0;
    }
    size_t start = home_of(hw, p->n_addrs);
    for (size_t step = 0; step < p->n_addrs;) {
        size_t i = (start + step) % p->n_addrs;
        if (i % 64 == 0 && p->taken[i / 64] == UINT64_MAX) {
            step +=
                64; /* a full word has all its 64 addresses in the range: nothing is jumped over */
            continue;
        }
        uint32_t ip = p->cfg.range_lo + (uint32_t)i;
        if (!(p->taken[i / 64] >> (i % 64) & 1) && ok(ctx, ip)) {
            return ip;
        }
        step++;
    }
    return 0;
}

/* ---- life of the server ---- */

struct dhcp_server *dhcp_server_new(const struct dhcp_ops *ops, void *ctx, size_t max_leases) {
    struct dhcp_server *s = new_zero(struct dhcp_server);
    s->ops = ops;
    s->ctx = ctx;
    s->max_leases = max_leases;
    list_init(&s->orphans);
    return s;
}

static void pools_free(struct dhcp_pool *pools, size_t n) {
    for (size_t i = 0; i < n; i++) {
        free(pools[i].taken);
    }
    free(pools);
}

void dhcp_server_free(struct dhcp_server *s) {
    if (!s) {
        return;
    }
    struct map_iter it = {0};
    struct map_entry *en;
    while (map_next(&s->by_ip, &it, &en)) {
        free(en->value);
    }
    map_fini(&s->by_ip);
    map_fini(&s->by_hw);
    pools_free(s->pools, s->n_pools);
    free(s);
}

static int check_subnet(const struct dhcp_subnet *sn, struct err *e) {
    char at[IP4_STR];
    ip4_format(sn->addr, at);
    if ((sn->mask & (~sn->mask >> 1)) != 0 || sn->mask == 0 || (sn->addr & ~sn->mask) != 0) {
        return err_set(e, ERR_INVALID, "subnet %s: address and mask do not make a subnet", at);
    }
    if (sn->range_lo || sn->range_hi) {
        if ((sn->range_lo & sn->mask) != sn->addr || (sn->range_hi & sn->mask) != sn->addr ||
            sn->range_lo > sn->range_hi) {
            return err_set(e, ERR_INVALID, "subnet %s: the range is not inside it", at);
        }
        if (sn->range_hi - sn->range_lo >= LIM_DHCP_RANGE) {
            return err_set(e, ERR_LIMIT, "subnet %s: range of more than %d addresses", at,
                           LIM_DHCP_RANGE);
        }
    }
    if (sn->lease_s == 0 || sn->offer_s == 0 || sn->decline_s == 0) {
        return err_set(e, ERR_INVALID, "subnet %s: lease, offer and decline times must not be 0",
                       at);
    }
    return 0;
}

static int pools_new(const struct dhcp_subnet *subnets, size_t n, struct dhcp_pool **ret,
                     struct err *e) {
    for (size_t i = 0; i < n; i++) {
        int rc = check_subnet(&subnets[i], e);
        if (rc < 0) {
            return rc;
        }
        for (size_t k = 0; k < i; k++) {
            uint32_t wider = subnets[i].mask & subnets[k].mask;
            if ((subnets[i].addr & wider) == (subnets[k].addr & wider)) {
                char a[IP4_STR];
                ip4_format(subnets[i].addr, a);
                return err_set(e, ERR_INVALID, "subnet %s overlaps another one", a);
            }
        }
    }
    struct dhcp_pool *pools = mem_array(NULL, n ? n : 1, sizeof(*pools), LIM_DHCP_SUBNETS);
    if (!pools) {
        return err_set(e, ERR_LIMIT, "more than %d subnets", LIM_DHCP_SUBNETS);
    }
    for (size_t i = 0; i < n; i++) {
        struct dhcp_pool *p = &pools[i];
        *p = (struct dhcp_pool){.cfg = subnets[i]};
        p->n_addrs = p->cfg.range_hi ? p->cfg.range_hi - p->cfg.range_lo + 1 : 0;
        if (p->n_addrs) {
            p->taken = mem_zero_alloc((p->n_addrs + 63) / 64 * sizeof(*p->taken));
        }
        for (size_t k = 0; k < DHCP_STATE_MAX_; k++) {
            list_init(&p->leases[k]);
        }
        list_init(&p->bound_before);
    }
    *ret = pools;
    return 0;
}

static int by_end(const void *a, const void *b) {
    const struct dhcp_lease *const *x = a, *const *y = b;
    return (*x)->until_ns < (*y)->until_ns ? -1 : (*x)->until_ns > (*y)->until_ns;
}

int dhcp_server_configure(struct dhcp_server *s, const struct dhcp_subnet *subnets, size_t n,
                          struct err *e) {
    struct dhcp_pool *pools = NULL;
    size_t n_all = 0;
    int rc = pools_new(subnets, n, &pools, e);
    if (rc < 0) {
        return rc;
    }
    AUTO_FREE struct dhcp_lease **all =
        mem_array(NULL, s->by_ip.n + 1, sizeof(struct dhcp_lease *), s->max_leases + 1);
    if (!all) {
        pools_free(pools, n);
        return err_set(e, ERR_NOMEM, "configuring the subnets");
    }
    struct map_iter it = {0};
    struct map_entry *en;
    while (map_next(&s->by_ip, &it, &en)) {
        all[n_all++] = en->value;
        list_del(&all[n_all - 1]->link);
    }
    qsort(all, n_all, sizeof(struct dhcp_lease *), by_end);
    pools_free(s->pools, s->n_pools);
    s->pools = pools;
    s->n_pools = n;
    map_fini(&s->by_hw);
    s->by_hw = (struct map)MAP_INIT;
    for (size_t i = 0; i < n_all; i++) {
        struct dhcp_lease *l = all[i];
        struct dhcp_pool *p = dhcp_pool_of(s, l->ip);
        l->subnet = p ? p->cfg.addr : l->ip;
        mark(p, l->ip, true);
        list_add_tail(p && l->state == DHCP_BOUND ? &p->bound_before : list_of(s, l), &l->link);
        if (l->hw.n) { /* of several, the one that lasts longest comes last and stays */
            struct hw_key k = hw_key(l->subnet, l->hw);
            map_put(&s->by_hw, span_of(k.b, k.n), l);
        }
    }
    return 0;
}

int dhcp_server_restore(struct dhcp_server *s, const struct dhcp_lease *from, uint64_t now_ns) {
    struct dhcp_lease *l = dhcp_lease_take(s, from->ip, from->hw);
    if (!l) {
        return -ERR_LIMIT;
    }
    memcpy(l->hostname, from->hostname, sizeof(l->hostname));
    memcpy(l->agent, from->agent, sizeof(l->agent));
    l->agent_n = from->agent_n;
    enum dhcp_state to =
        from->state != DHCP_FREE && from->until_ns <= now_ns ? DHCP_FREE : from->state;
    dhcp_lease_move(s, l, to, from->until_ns);
    if (to == DHCP_DECLINED || !from->hw.n) {
        dhcp_lease_disown(s, l);
    }
    return 0;
}

const struct dhcp_lease *dhcp_server_lease_of(const struct dhcp_server *s, uint32_t ip,
                                              uint64_t now_ns) {
    const struct dhcp_lease *l = dhcp_lease_at(s, ip);
    return l && l->state == DHCP_BOUND && l->until_ns > now_ns ? l : NULL;
}

void dhcp_server_each(const struct dhcp_server *s,
                      void (*fn)(void *ctx, const struct dhcp_lease *l), void *ctx) {
    struct map_iter it = {0};
    struct map_entry *en;
    while (map_next(&s->by_ip, &it, &en)) {
        const struct dhcp_lease *l = en->value;
        if (l->state != DHCP_OFFERED) {
            fn(ctx, l);
        }
    }
}

size_t dhcp_server_count(const struct dhcp_server *s, enum dhcp_state state) {
    return s->count[state];
}
